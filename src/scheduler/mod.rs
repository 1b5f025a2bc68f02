//! The scheduler: pure decisions over accounts, windows, sessions and the queue.
//!
//! No I/O, threads, locks, clock, environment or randomness in here; time arrives as [`time::Now`]. It imports nothing of the
//! rest of the program and emits nothing: it returns decisions, which the gate and the proxy turn into answers and events.
//!
//! One request's way, as the calls go:
//!
//! ```text
//!             admit ──▶ Granted ─────────▶ observe (head) ─▶ complete (end)
//!               │  ╲                                             │ curable failure: admit again,
//!               │   ▶ Refused                                    ▼ the account in `excluded`
//!               ▼
//!            Queued ──▶ poll ──▶ Wake::{Granted, Expired, Refused}      cancel: the client left
//! ```
//!
//! After every call that changes something `poll` is to be called until `None`; `next_wakeup` tells when to call it again
//! though nothing happened.

mod block;
mod breaker;
mod outcome;
pub mod policy;
pub mod quota;
mod request;
mod snapshot;
pub mod time;

pub use block::{Block, BlockReason, End, Evidence, Scope};
pub use breaker::Fingerprint;
pub use outcome::{Blame, HeadReport, Outcome, Overload, Usage};
pub use policy::{Overage, Policy};
pub use request::{
    AccountId, AccountSpec, Admission, Cancel, CannotPrefer, Grant, Kind, Lease, Limit, PassedOver,
    Refusal, RefusalReason, Request, Routing, SessionKey, Shape, Standing, ThreadKey, Ticket,
    WaitCause, WaitClock, Wake, Why,
};
pub use snapshot::{
    AccountSnapshot, BlockSnapshot, BreakerSnapshot, Candidate, ExplainedVerdict, Explanation,
    Learned, Load, QueueSnapshot, Snapshot, Source, Status, Terms, Tier, UsageTotals,
    WeeklySnapshot, WindowSnapshot,
};

use quota::QuotaReport;
use time::{Mono, Now};

/// All state of scheduling. Deterministic: the same calls give the same answers.
#[derive(Debug)]
pub struct Scheduler {
    policy: Policy,
}

impl Scheduler {
    /// Without accounts.
    #[must_use]
    pub fn new(policy: Policy) -> Scheduler {
        Scheduler { policy }
    }

    /// Puts new settings into effect at once (A7).
    pub fn set_policy(&mut self, _now: Now, policy: Policy) {
        self.policy = policy;
    }

    /// A new account, last in the order.
    pub fn add_account(&mut self, _now: Now, _spec: AccountSpec) -> AccountId {
        AccountId(0)
    }

    /// New settings of an account; an unknown id is ignored, as in all calls.
    pub fn update_account(&mut self, _now: Now, _id: AccountId, _spec: AccountSpec) {}

    /// The account takes no more requests and leaves with its last lease.
    pub fn remove_account(&mut self, _now: Now, _id: AccountId) {}

    /// S7a. Disabling or removing the preferred account returns to automatic by itself.
    pub fn set_routing(&mut self, _now: Now, _routing: Routing) -> Result<(), CannotPrefer> {
        Ok(())
    }

    /// Asks for an account: the first time, and after each failed attempt with that account in `excluded`.
    pub fn admit(&mut self, _now: Now, _request: Request) -> Admission {
        Admission::Refused(Refusal {
            reason: RefusalReason::NoAccount,
            wait: None,
            cause: None,
            accounts: Vec::new(),
        })
    }

    /// The client left while its request waited.
    pub fn cancel(&mut self, _now: Now, _ticket: Ticket) -> Cancel {
        Cancel::Cancelled
    }

    /// The next verdict about a ticket, in order of delivery. Call until `None` after every other call and at `next_wakeup`.
    pub fn poll(&mut self, _now: Now) -> Option<Wake> {
        None
    }

    /// When to poll again though nothing happened; none while nobody waits. Always later than `now` once `poll` gave `None`.
    #[must_use]
    pub fn next_wakeup(&self, _now: Now) -> Option<Mono> {
        None
    }

    /// The head of an answer is there: learns windows, blocks what it rejects, settles the breaker's probe, ends the lease's
    /// part in a storm's ramp.
    pub fn observe(&mut self, _now: Now, _lease: &Lease, _head: &HeadReport<'_>) {}

    /// The attempt is over.
    pub fn complete(&mut self, _now: Now, _lease: Lease, _outcome: Outcome) {}

    /// The usage probe's answer (T6): windows only, no account's health.
    pub fn learn(&mut self, _now: Now, _id: AccountId, _report: &QuotaReport) {}

    /// Tokens of an answer (P13).
    pub fn add_usage(&mut self, _now: Now, _id: AccountId, _usage: Usage) {}

    /// Blocks an account for a reason that is not an answer to a lease: a failed refresh, needs login.
    /// One block a reason and scope: the later end stays.
    pub fn block(&mut self, _now: Now, _id: AccountId, _block: Block) {}

    /// New credentials, or a refresh that worked: ends 401, 403, needs-login and refresh blocks.
    pub fn clear_credential_blocks(&mut self, _now: Now, _id: AccountId) {}

    /// P9: this session has had an answer with signed thinking.
    pub fn note_thinking(&mut self, _now: Now, _session: SessionKey) {}

    /// P10: this account answered a request with this thread.
    pub fn note_thread(&mut self, _now: Now, _thread: ThreadKey, _account: AccountId) {}

    /// The wall clock jumped against the monotonic one: windows and resets are judged anew.
    pub fn clock_stepped(&mut self, _now: Now) {}

    /// Refuses all who wait, and everyone from now on (R1).
    pub fn drain(&mut self, _now: Now) {}

    /// Takes `drain` back (R2: the new worker failed to start).
    pub fn resume(&mut self, _now: Now) {}

    /// S12: what would become of this request now. Changes nothing.
    #[must_use]
    pub fn explain(&self, now: Now, request: &Request) -> Explanation {
        Explanation {
            at: now.wall,
            request: request.id,
            verdict: ExplainedVerdict::Refuse(RefusalReason::NoAccount),
            candidates: Vec::new(),
            passed_over: Vec::new(),
        }
    }

    /// The last decisions, oldest first.
    pub fn decisions(&self) -> impl Iterator<Item = &Explanation> {
        std::iter::empty()
    }

    /// Everything that status shows.
    #[must_use]
    pub fn snapshot(&self, now: Now) -> Snapshot {
        Snapshot {
            at: now,
            switch_threshold: self.policy.switch_threshold,
            routing: Routing::Automatic,
            current: None,
            accounts: Vec::new(),
            in_flight: 0,
            admission_paused: false,
            max_active_per_account: self.policy.max_active_per_account,
            max_active_global: self.policy.max_active_global,
            breaker: BreakerSnapshot::default(),
            queue: QueueSnapshot::default(),
            sticky_bindings: 0,
            thinking_protected: 0,
            threads: 0,
        }
    }

    /// What the state file keeps (A6).
    #[must_use]
    pub fn learned(&self, _now: Now, _id: AccountId) -> Option<Learned> {
        None
    }

    /// Puts back what the state file kept: a utilisation without a reset and a window that has passed are dropped, and what
    /// an answer has said since stays.
    pub fn restore(&mut self, _now: Now, _id: AccountId, _learned: Learned) {}
}
