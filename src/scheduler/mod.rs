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

/// All state of scheduling. Deterministic: the same calls give the same answers.
///
/// `now` may be a little older than that of the call before (two threads read the clock, then took
/// the lock): it counts as the same moment. Ids that are no longer known are ignored.
#[derive(Debug)]
pub struct Scheduler {
    policy: Policy,
    /// In the order of their ids.
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
    /// What it is expected to cost (S5).
    cost: u64,
    progress: Progress,
    /// Counted in its account's ramp until its head comes.
    ramped: bool,
}

/// Why a request in suspense looks again at an account that has refused it (P7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looking {
    /// It does not.
    No,
    /// Its delay is over.
    Again,
    /// The account has served an unrelated request since.
    ForProof,
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

    /// Puts new settings into effect at once (A7).
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

    /// Ways out (P7): lifts everything that keeps the account away but a missing credential, so
    /// that the next request looks.
    pub fn retry(&mut self, now: Now, id: AccountId) {
        let now = self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.retry(now);
            self.breakers.end_pauses(now.mono);
        }
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
            account.windows.learn(now, report, None, Source::Probe);
            account.lift_by_reading(now, |kind| {
                let reading = report.windows.iter().find(|reading| reading.kind == *kind);
                reading.and_then(|reading| reading.utilisation).is_some_and(|used| used < 1.0)
            });
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

    /// A refresh may be tried again then, so a rest after a 401 lasts no longer (T2).
    pub fn end_rest_by(&mut self, now: Now, id: AccountId, at: Mono) {
        self.touch(now);
        if let Some(account) = self.account_mut(id) {
            account.end_rest_by(at);
        }
        self.look = Look::Now;
    }

    /// New credentials, or a refresh that worked: ends 401, 403, needs-login and refresh blocks.
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

    /// What ended on the account within the last hour, by the minute.
    #[must_use]
    pub fn load_minutes(&self, now: Now, id: AccountId) -> Vec<LoadMinute> {
        let found = self.accounts.iter().find(|account| account.id == id);
        found.map(|account| account.hour.minutes(now.mono)).unwrap_or_default()
    }

    /// Adds what ended on the account in another process.
    pub fn recall_load(&mut self, now: Now, id: AccountId, minutes: &[LoadMinute]) {
        if let Some(account) = self.account_mut(id) {
            account.hour.recall(now.mono, minutes);
        }
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
        let moves = block.scope.is_for_all_messages();
        let before = self.accounts[index].put_block(now, block);
        self.prepare_for_moves(now, index, moves && before == Before::Free);
    }

    /// The same for a block that one request looks at when it ends.
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
