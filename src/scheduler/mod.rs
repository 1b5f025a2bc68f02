//! The scheduler: pure decisions over accounts, windows, sessions and the queue.
//!
//! It uses no I/O, threads, locks, clock, environment or randomness; time arrives as [`time::Now`].
//! It imports nothing from the rest of the program and emits nothing: it returns decisions, which
//! the gate and the proxy turn into answers and events.
//!
//! The calls for one request:
//!
//! ```text
//!             admit ──▶ Granted ─────────▶ observe (head) ─▶ complete (end)
//!               │  ╲                                             │ curable failure: admit again,
//!               │   ▶ Refused                                    ▼ the account in `excluded`
//!               ▼
//!            Queued ──▶ poll ──▶ Wake::{Granted, Expired, Refused}      cancel: the client left
//! ```
//!
//! After every call that changes something, call `poll` until it returns `None`; `next_wakeup` says
//! when to call it again if nothing else happens.
//!
//! The data (accounts, queue, sessions, breaker, requests and verdicts) is in `parts`. The files
//! beside this one decide: `admit` and `waiters` decide who is served, using `select` and
//! `availability`; `settle` and `everywhere` decide what an answer means for the accounts;
//! `explain` says why.

mod admit;
mod availability;
mod everywhere;
mod explain;
mod learned;
mod long_look;
mod parts;
mod seen_classes;
mod select;
mod settle;
mod waiters;

pub use parts::affinity::{KnownSession, KnownThread};
pub use parts::block::{Block, BlockReason, End, Evidence, LiftedBy, Scope, WaitCause};
pub use parts::id::{AccountId, Kin, RouteClass};
pub use parts::outcome::{Blame, HeadReport, Outcome, Overload, Usage};
pub use parts::policy::{Overage, Policy};
pub use parts::recent_load::LoadMinute;
pub use parts::request::{
    Access, AccountLimit, AccountSpec, Admission, Avoided, Cancel, CannotPrefer, Grant, Kind,
    Lease, Limit, PassedOver, Refusal, RefusalReason, Request, Routing, SessionKey, Shape,
    Standing, ThreadKey, Ticket, WaitClock, Wake, Why,
};
pub use parts::snapshot::{
    AccountSnapshot, BlockSnapshot, BreakerSnapshot, CachedPrompt, Candidate, Effect,
    ExplainedVerdict, Explanation, KnownRejection, Learned, Load, QueueSnapshot, Snapshot, Source,
    Status, Terms, Tier, UsageTotals, WeeklySnapshot, WindowSnapshot,
};
pub use parts::suspicion::Fingerprint;
pub use parts::trail::{Aftermath, Trail, Unproven};
pub use parts::{policy, quota, time};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parts::account::{Account, Before, Expired, spread_blocks};
use parts::affinity::Affinity;
use parts::breaker::Breakers;
use parts::policy::{DECISIONS_MAX, STORM_REQUESTS};
use parts::queue::Queue;
use parts::quota::{Family, QuotaReport};
use parts::ranking::Ranking;
use parts::recent_load::Recent;
use parts::time::{Mono, Now};

/// The complete state of scheduling. Deterministic: the same calls give the same results.
///
/// `now` may be slightly older than that of the previous call, because two threads read the clock
/// and then took the lock; it is then treated as equal. Unknown ids are ignored.
#[derive(Debug)]
pub struct Scheduler {
    policy: Policy,
    /// Ordered by id.
    accounts: Vec<Account>,
    last_account: u32,
    routing: Routing,
    last_chosen: Option<AccountId>,
    leases: BTreeMap<u64, LeaseRecord>,
    messages_in_flight: u32,
    last_lease: u64,
    affinity: Affinity,
    breakers: Breakers,
    queue: Queue,
    /// Verdicts that `poll` has not returned yet.
    wakes: VecDeque<Wake>,
    look: Look,
    intake: Intake,
    decisions: VecDeque<Explanation>,
    latest: Mono,
    /// Kept between calls to reuse its memory.
    ranking: Ranking,
}

/// When the queue must be examined again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Something has changed.
    Now,
    /// Nothing will change until then, as long as the offset between the two clocks stays the same.
    At { due: Mono, distance: i64 },
}

/// Whether requests are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    Open,
    Draining,
}

/// The record of a lease.
#[derive(Debug)]
struct LeaseRecord {
    account: AccountId,
    weight: u32,
    profile: Arc<str>,
    class: RouteClass,
    kin: Kin,
    family: Option<Family>,
    model: Option<Arc<str>>,
    session: Option<SessionKey>,
    granted: Now,
    looking: Looking,
    trail: Trail,
    /// Its expected cost (S5).
    cost: u64,
    progress: Progress,
    /// It counts in its account's ramp until its head arrives.
    ramped: bool,
}

/// Why a request in suspense tries an account again that has refused it (P7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looking {
    /// It does not.
    No,
    /// Its delay is over.
    Again,
    /// The account has served an unrelated request since.
    ForProof,
}

/// The stage of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its head has not arrived yet.
    Outstanding,
    Answering,
}

/// If the wall clock drifts less than this against the monotonic one, it has not been set (the two
/// are not read at exactly the same moment).
const DRIFT_MS_MAX: u64 = 20;

impl Scheduler {
    /// A scheduler without accounts.
    #[must_use]
    pub fn new(policy: Policy) -> Scheduler {
        Scheduler {
            policy,
            accounts: Vec::new(),
            last_account: 0,
            routing: Routing::Automatic,
            last_chosen: None,
            leases: BTreeMap::new(),
            messages_in_flight: 0,
            last_lease: 0,
            affinity: Affinity::new(),
            breakers: Breakers::default(),
            queue: Queue::default(),
            wakes: VecDeque::new(),
            look: Look::Now,
            intake: Intake::Open,
            decisions: VecDeque::with_capacity(DECISIONS_MAX),
            latest: Mono::default(),
            ranking: Ranking::default(),
        }
    }

    /// Applies new settings at once (A7).
    pub fn set_policy(&mut self, now: Now, policy: Policy) {
        self.touch(now);
        if policy.spread_window != self.policy.spread_window {
            for account in &mut self.accounts {
                account.recent = Recent::new(policy.spread_window);
            }
        }
        self.policy = policy;
        self.look = Look::Now;
    }

    /// Adds an account, last in the order.
    pub fn add_account(&mut self, now: Now, spec: AccountSpec) -> AccountId {
        self.touch(now);
        self.last_account += 1;
        let id = AccountId(self.last_account);
        self.accounts.push(Account::new(id, spec, &self.policy));
        self.look = Look::Now;
        id
    }

    /// Changes the settings of an account.
    pub fn update_account(&mut self, now: Now, id: AccountId, spec: AccountSpec) {
        let now = self.touch(now);
        if let Some(account) = self.account_mut(id) {
            let enabled = spec.enabled && !account.spec.enabled;
            account.spec = spec;
            if enabled {
                account.retry(now);
            }
        }
        self.check_routing();
        self.look = Look::Now;
    }

    /// Ways out (P7): lifts everything that keeps the account out except a missing credential, so
    /// that the next request tries it.
    pub fn retry(&mut self, now: Now, id: AccountId) {
        let now = self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.retry(now);
            self.breakers.end_pauses(now.mono);
        }
        self.look = Look::Now;
    }

    /// The account gets no more requests and is removed with its last lease.
    pub fn remove_account(&mut self, now: Now, id: AccountId) {
        self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.leaving = true;
        }
        self.check_routing();
        self.reap();
        self.look = Look::Now;
    }

    /// S7a. Disabling or removing the preferred account returns to automatic mode by itself.
    pub fn set_routing(&mut self, now: Now, routing: Routing) -> Result<(), CannotPrefer> {
        self.touch(now);
        match routing {
            Routing::Preferred(id) if !self.can_prefer(id) => Err(CannotPrefer),
            Routing::Preferred(_) | Routing::Automatic => {
                self.routing = routing;
                // Cold-start limits do not apply to the preferred account (S6).
                self.look = Look::Now;
                Ok(())
            }
        }
    }

    /// Processes a usage reading (T6): windows only, not the account's health.
    pub fn learn(&mut self, now: Now, id: AccountId, report: &QuotaReport) {
        let now = self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.stir();
            account.windows.learn(now, report, None, Source::Probe);
            account.lift_by_reading(now, |kind| {
                let reading = report.windows.iter().find(|reading| reading.kind == *kind);
                reading.and_then(|reading| reading.utilisation).is_some_and(|used| used < 1.0)
            });
        }
        self.look = Look::Now;
    }

    /// Adds the token usage of an answer (P13).
    pub fn add_usage(&mut self, now: Now, id: AccountId, usage: Usage) {
        self.touch(now);
        if let Some(account) = self.account_mut(id) {
            let tokens = &mut account.usage.tokens;
            tokens.input = tokens.input.saturating_add(usage.input);
            tokens.output = tokens.output.saturating_add(usage.output);
            tokens.cache_read = tokens.cache_read.saturating_add(usage.cache_read);
            tokens.cache_write = tokens.cache_write.saturating_add(usage.cache_write);
        }
    }

    /// Blocks an account for a reason that is not an answer to a lease: a failed refresh, needs
    /// login. There is one block per reason and scope, with the later end.
    pub fn block(&mut self, now: Now, id: AccountId, block: Block) {
        let now = self.touch(now);
        if let Some(index) = self.index(id) {
            self.accounts[index].remember_error(&block.evidence);
            self.place_block(now, index, block);
        }
        self.look = Look::Now;
    }

    /// Limits a rest after a 401 to `at`, when the next refresh may start (T2).
    pub fn end_rest_by(&mut self, now: Now, id: AccountId, at: Mono) {
        self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.end_rest_by(at);
        }
        self.look = Look::Now;
    }

    /// A new credential, or a successful refresh: ends blocks from 401, 403, needs-login and
    /// refreshes.
    pub fn clear_credential_blocks(&mut self, now: Now, id: AccountId) {
        let now = self.touch(now);
        let about_credentials = |reason: &BlockReason| match reason {
            BlockReason::CredentialRefused
            | BlockReason::Unusable
            | BlockReason::NeedsLogin
            | BlockReason::RefreshFailed
            | BlockReason::RefreshNetwork => true,
            BlockReason::Quota(_)
            | BlockReason::ServerSide
            | BlockReason::Overloaded
            | BlockReason::ServerError
            | BlockReason::ModelMissing
            | BlockReason::Forbidden
            | BlockReason::Network => false,
        };
        if let Some(account) = self.account_mut(id) {
            account.lift_reasons(now, about_credentials);
        }
        self.look = Look::Now;
    }

    /// The attempts that ended on the account within the last hour, by minute.
    #[must_use]
    pub fn load_minutes(&self, now: Now, id: AccountId) -> Vec<LoadMinute> {
        let found = self.accounts.iter().find(|account| account.id == id);
        found.map(|account| account.hour.minutes(now.mono)).unwrap_or_default()
    }

    /// Adds attempts that ended on the account in another process.
    pub fn recall_load(&mut self, now: Now, id: AccountId, minutes: &[LoadMinute]) {
        if let Some(account) = self.account_mut(id) {
            account.hour.recall(now.mono, minutes);
        }
    }

    /// Adds the attempts that another process has counted for the metrics.
    pub fn recall_counts(&mut self, id: AccountId, completed: u64, failed: u64) {
        if let Some(account) = self.account_mut(id) {
            account.completed += completed;
            account.failed += failed;
        }
    }

    /// P9: this session has received an answer with signed thinking.
    pub fn note_thinking(&mut self, now: Now, session: SessionKey) {
        self.touch(now);
        if self.affinity.note_thinking(session) {
            self.look = Look::Now;
        }
    }

    /// P10: this account answered a request with this thread.
    pub fn note_thread(&mut self, now: Now, thread: ThreadKey, account: AccountId) {
        let now = self.touch(now);
        self.affinity.note_thread(now.mono, thread, account);
    }

    /// The wall clock jumped relative to the monotonic one: windows and resets are evaluated again.
    pub fn clock_stepped(&mut self, now: Now) {
        self.touch(now);
        self.look = Look::Now;
    }

    /// Refuses all waiting requests, and all new ones (R1).
    pub fn drain(&mut self, now: Now) {
        self.touch(now);
        self.intake = Intake::Draining;
        self.look = Look::Now;
    }

    /// Undoes `drain` (R2: the new worker failed to start).
    pub fn resume(&mut self, now: Now) {
        self.touch(now);
        self.intake = Intake::Open;
    }

    /// Starts every call: removes what has passed. Returns the effective time.
    fn touch(&mut self, now: Now) -> Now {
        self.latest = self.latest.max(now.mono);
        let now = Now { mono: self.latest, wall: now.wall };
        for account in &mut self.accounts {
            match account.expire(now) {
                Expired::Nothing => {}
                Expired::Something => self.look = Look::Now,
                Expired::Recovered => {
                    self.look = Look::Now;
                    // All waiting requests would go to the account that comes back (S10).
                    if self.queue.len() >= STORM_REQUESTS {
                        account.ramp.arm(now.mono);
                    }
                }
            }
        }
        self.affinity.expire(now.mono, self.policy.session_idle);
        now
    }

    /// Blocks an account and prepares the others for the requests that move to them (S10).
    fn place_block(&mut self, now: Now, index: usize, block: Block) {
        let moves = block.scope.is_for_all_messages();
        let before = self.accounts[index].put_block(now, block);
        self.prepare_for_moves(now, index, moves && before == Before::Free);
    }

    /// The same for a block that one request tests when it ends.
    fn rest_block(
        &mut self,
        now: Now,
        index: usize,
        sent: Mono,
        block: Block,
        fixed: Option<Duration>,
    ) {
        let is_free = !self.accounts[index].is_blocked_for_messages(now);
        let moves = block.scope.is_for_all_messages() && is_free;
        self.accounts[index].put_rest(now, sent, block, fixed);
        self.prepare_for_moves(now, index, moves);
    }

    fn prepare_for_moves(&mut self, now: Now, index: usize, moves: bool) {
        let moved = self.accounts[index].in_flight as usize + self.queue.len();
        spread_blocks(now, &mut self.accounts);
        if moves && moved >= STORM_REQUESTS {
            let blocked = self.accounts[index].id;
            for account in self.accounts.iter_mut().filter(|account| account.id != blocked) {
                account.ramp.arm(now.mono);
            }
        }
        self.look = Look::Now;
    }

    fn can_prefer(&self, id: AccountId) -> bool {
        self.account(id).is_some_and(|account| account.serves() && account.is_claude())
    }

    fn check_routing(&mut self) {
        if let Routing::Preferred(id) = self.routing
            && !self.can_prefer(id)
        {
            self.routing = Routing::Automatic;
        }
    }

    /// Drops removed accounts that have no lease left.
    fn reap(&mut self) {
        self.accounts.retain(|account| !account.leaving || account.in_flight > 0);
    }

    fn in_flight(&self) -> u32 {
        u32::try_from(self.leases.len()).unwrap_or(u32::MAX)
    }

    fn index(&self, id: AccountId) -> Option<usize> {
        self.accounts.binary_search_by_key(&id, |account| account.id).ok()
    }

    fn account(&self, id: AccountId) -> Option<&Account> {
        self.index(id).map(|index| &self.accounts[index])
    }

    fn account_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.index(id).map(|index| &mut self.accounts[index])
    }
}
