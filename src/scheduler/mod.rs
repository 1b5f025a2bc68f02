//! The scheduler: pure decisions over accounts, windows, sessions and the queue.
//!
//! No I/O, threads, locks, clock, environment or randomness in here; time arrives as [`time::Now`].
//! It imports nothing of the rest of the program and emits nothing: it returns decisions, which the
//! gate and the proxy turn into answers and events.
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
//! After every call that changes something `poll` is to be called until `None`; `next_wakeup` tells
//! when to call it again though nothing happened.

mod account;
mod admit;
mod affinity;
mod availability;
mod block;
mod breaker;
mod cost;
mod explain;
mod obstacle;
mod outcome;
pub mod policy;
mod queue;
pub mod quota;
mod ranking;
mod recent_load;
mod request;
mod score;
mod select;
mod settle;
mod snapshot;
mod storm;
mod tier;
pub mod time;
mod wait_limits;
mod windows;

pub use affinity::{KnownSession, KnownThread};
pub use block::{Block, BlockReason, End, Evidence, Scope, WaitCause};
pub use breaker::Fingerprint;
pub use outcome::{Blame, HeadReport, Outcome, Overload, Usage};
pub use policy::{Overage, Policy};
pub use request::{
    Access, AccountId, AccountLimit, AccountSpec, Admission, Avoided, Cancel, CannotPrefer, Grant,
    Kind, Lease, Limit, PassedOver, Refusal, RefusalReason, Request, Routing, SessionKey, Shape,
    Standing, ThreadKey, Ticket, WaitClock, Wake, Why,
};
pub use snapshot::{
    AccountSnapshot, BlockSnapshot, BreakerSnapshot, CachedPrompt, Candidate, ExplainedVerdict,
    Explanation, Learned, Load, QueueSnapshot, Snapshot, Source, Status, Terms, Tier, UsageTotals,
    WeeklySnapshot, WindowSnapshot,
};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use account::{Account, Before, Expired, spread_blocks};
use affinity::Affinity;
use breaker::Breaker;
use policy::{DECISIONS_MAX, STORM_REQUESTS};
use queue::Queue;
use quota::{Family, QuotaReport};
use ranking::Ranking;
use time::{Mono, Now};

/// All state of scheduling. Deterministic: the same calls give the same answers.
///
/// `now` may be a little older than that of the call before (two threads read the clock, then took
/// the lock): it counts as the same moment. Ids that are not known any more are ignored.
#[derive(Debug)]
pub struct Scheduler {
    policy: Policy,
    /// In the order of their ids.
    accounts: Vec<Account>,
    last_account: u32,
    routing: Routing,
    last_chosen: Option<AccountId>,
    leases: BTreeMap<u64, LeaseRecord>,
    last_lease: u64,
    affinity: Affinity,
    breaker: Breaker,
    queue: Queue,
    /// Verdicts that `poll` has not given yet.
    wakes: VecDeque<Wake>,
    look: Look,
    intake: Intake,
    decisions: VecDeque<Explanation>,
    latest: Mono,
    /// Kept between calls for its memory.
    ranking: Ranking,
}

/// When the queue is to be looked through again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Something has changed.
    Now,
    /// Nothing will change until then, as long as the wall clock keeps its distance from the
    /// monotonic one.
    At { due: Mono, distance: i64 },
}

/// Is anyone admitted?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    Open,
    Draining,
}

/// What is remembered of a lease.
#[derive(Debug)]
struct LeaseRecord {
    account: AccountId,
    request: u64,
    weight: u32,
    profile: Arc<str>,
    family: Option<Family>,
    session: Option<SessionKey>,
    granted: Now,
    /// What it is expected to cost (S5).
    cost: u64,
    progress: Progress,
    /// Counted in its account's ramp until its head comes.
    ramped: bool,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its head has not come yet.
    Outstanding,
    Answering,
}

/// A wall clock that drifts less than this against the monotonic one has not been set (two reads
/// are not one moment).
const DRIFT_MS_MAX: u64 = 20;

impl Scheduler {
    /// Without accounts.
    #[must_use]
    pub fn new(policy: Policy) -> Scheduler {
        Scheduler {
            policy,
            accounts: Vec::new(),
            last_account: 0,
            routing: Routing::Automatic,
            last_chosen: None,
            leases: BTreeMap::new(),
            last_lease: 0,
            affinity: Affinity::new(),
            breaker: Breaker::default(),
            queue: Queue::default(),
            wakes: VecDeque::new(),
            look: Look::Now,
            intake: Intake::Open,
            decisions: VecDeque::with_capacity(DECISIONS_MAX),
            latest: Mono::default(),
            ranking: Ranking::default(),
        }
    }

    /// Puts new settings into effect at once (A7).
    pub fn set_policy(&mut self, now: Now, policy: Policy) {
        self.touch(now);
        if policy.spread_window != self.policy.spread_window {
            for account in &mut self.accounts {
                account.recent = recent_load::Recent::new(policy.spread_window);
            }
        }
        self.policy = policy;
        self.look = Look::Now;
    }

    /// A new account, last in the order.
    pub fn add_account(&mut self, now: Now, spec: AccountSpec) -> AccountId {
        self.touch(now);
        self.last_account += 1;
        let id = AccountId(self.last_account);
        self.accounts.push(Account::new(id, spec, &self.policy));
        self.look = Look::Now;
        id
    }

    /// New settings of an account.
    pub fn update_account(&mut self, now: Now, id: AccountId, spec: AccountSpec) {
        self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.spec = spec;
        }
        self.check_routing();
        self.look = Look::Now;
    }

    /// The account takes no more requests and leaves with its last lease.
    pub fn remove_account(&mut self, now: Now, id: AccountId) {
        self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.leaving = true;
        }
        self.check_routing();
        self.reap();
        self.look = Look::Now;
    }

    /// S7a. Disabling or removing the preferred account returns to automatic by itself.
    pub fn set_routing(&mut self, now: Now, routing: Routing) -> Result<(), CannotPrefer> {
        self.touch(now);
        match routing {
            Routing::Preferred(id) if !self.can_prefer(id) => Err(CannotPrefer),
            Routing::Preferred(_) | Routing::Automatic => {
                self.routing = routing;
                // Cold starts do not keep anyone from the preferred account (S6).
                self.look = Look::Now;
                Ok(())
            }
        }
    }

    /// The usage probe's answer (T6): windows only, no account's health.
    pub fn learn(&mut self, now: Now, id: AccountId, report: &QuotaReport) {
        let now = self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.stir();
            account.windows.learn(now, report, Source::Probe);
        }
        self.look = Look::Now;
    }

    /// Tokens of an answer (P13).
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
    /// login. One block a reason and scope: the later end stays.
    pub fn block(&mut self, now: Now, id: AccountId, block: Block) {
        let now = self.touch(now);
        if let Some(index) = self.index(id) {
            self.accounts[index].remember_error(&block.evidence);
            self.place_block(now, index, block);
        }
        self.look = Look::Now;
    }

    /// New credentials, or a refresh that worked: ends 401, 403, needs-login and refresh blocks.
    pub fn clear_credential_blocks(&mut self, now: Now, id: AccountId) {
        let now = self.touch(now);
        let about_credentials = |reason: &BlockReason| match reason {
            BlockReason::Forbidden
            | BlockReason::CredentialRefused
            | BlockReason::NeedsLogin
            | BlockReason::RefreshFailed
            | BlockReason::RefreshNetwork => true,
            BlockReason::Quota(_)
            | BlockReason::ServerSide
            | BlockReason::Overloaded
            | BlockReason::ServerError
            | BlockReason::Network => false,
        };
        if let Some(account) = self.account_mut(id) {
            account.lift(now, about_credentials);
        }
        self.look = Look::Now;
    }

    /// P9: this session has had an answer with signed thinking.
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

    /// The wall clock jumped against the monotonic one: windows and resets are judged anew.
    pub fn clock_stepped(&mut self, now: Now) {
        self.touch(now);
        self.look = Look::Now;
    }

    /// Refuses all who wait, and everyone from now on (R1).
    pub fn drain(&mut self, now: Now) {
        self.touch(now);
        self.intake = Intake::Draining;
        self.look = Look::Now;
    }

    /// Takes `drain` back (R2: the new worker failed to start).
    pub fn resume(&mut self, now: Now) {
        self.touch(now);
        self.intake = Intake::Open;
    }

    /// What every call begins with: nobody sees what has passed. Gives the moment that counts.
    fn touch(&mut self, now: Now) -> Now {
        self.latest = self.latest.max(now.mono);
        let now = Now { mono: self.latest, wall: now.wall };
        for account in &mut self.accounts {
            match account.expire(now) {
                Expired::Nothing => {}
                Expired::Something => self.look = Look::Now,
                Expired::Recovered => {
                    self.look = Look::Now;
                    // Those who wait would all go to the account that comes back (S10).
                    if self.queue.len() >= STORM_REQUESTS {
                        account.ramp.arm(now.mono);
                    }
                }
            }
        }
        self.affinity.expire(now.mono, self.policy.session_idle);
        now
    }

    /// Blocks an account and prepares the others for what it moves to them (S10).
    fn place_block(&mut self, now: Now, index: usize, block: Block) {
        let moves = block.scope == Scope::Account;
        let moved = self.accounts[index].in_flight as usize + self.queue.len();
        let before = self.accounts[index].put_block(now, block);
        spread_blocks(now, &mut self.accounts);
        if moves && before == Before::Free && moved >= STORM_REQUESTS {
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

    /// Lets accounts go that are removed and have no lease left.
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
