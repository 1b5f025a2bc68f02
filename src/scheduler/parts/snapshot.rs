//! Plain values for status, metrics, the dashboard, `explain` and the state file; rendered outside
//! the lock.

#![expect(missing_docs, reason = "where a name says it all, a doc would only repeat it")]

use std::sync::Arc;
use std::time::Duration;

use super::block::{BlockReason, Evidence, LiftedBy, Scope, WaitCause};
use super::outcome::Usage;
use super::quota::{Family, Verdict, WindowKind};
use super::request::{
    AccountId, Avoided, Kind, PassedOver, RefusalReason, Routing, SessionKey, Standing, Why,
};
use super::time::{Now, Wall};

/// Everything that status shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Now,
    /// `switchThreshold`.
    pub switch_threshold: f64,
    /// S7a.
    pub routing: Routing,
    /// The account chosen last.
    pub current: Option<AccountId>,
    /// In the order in which they were added.
    pub accounts: Vec<AccountSnapshot>,
    /// Requests in flight on all accounts.
    pub in_flight: u32,
    /// True while draining: nothing is admitted.
    pub admission_paused: bool,
    /// `safetyMaxActivePerAccount`.
    pub max_active_per_account: u32,
    /// `safetyMaxGlobalActive`.
    pub max_active_global: u32,
    /// P8.
    pub breaker: BreakerSnapshot,
    /// Q.
    pub queue: QueueSnapshot,
    /// Sessions with a valid binding.
    pub sticky_bindings: usize,
    /// Sessions that never go to a provider (P9).
    pub thinking_protected: usize,
    /// Threads whose owner is known (P10).
    pub threads: usize,
}

/// One account.
#[derive(Clone, Debug)]
pub struct AccountSnapshot {
    pub id: AccountId,
    pub name: Arc<str>,
    pub kind: Kind,
    pub enabled: bool,
    /// Removed from the config, finishing its requests.
    pub leaving: bool,
    pub profiles: Vec<Arc<str>>,
    pub priority: i64,
    pub status: Status,
    pub in_flight: u32,
    pub active_weight: u64,
    /// Attempts that ended with an answer about the request itself or from the model.
    pub completed: u64,
    /// Attempts that ended otherwise, except abandoned ones.
    pub failed: u64,
    /// Consecutive failures (S6).
    pub consecutive_failures: u32,
    /// The status of the last answer.
    pub last_status: Option<u16>,
    /// Duration of the last completed attempt, from grant to end.
    pub last_response: Option<Duration>,
    /// The last 15 minutes.
    pub last_15m: Load,
    /// The last hour.
    pub last_1h: Load,
    /// The upstream's message about the last failure, bounded; cleared by the next success.
    pub last_error: Option<Arc<str>>,
    /// The time of that failure.
    pub last_error_at: Option<Wall>,
    /// End of the last block from 5xx, 529, 403, network or refresh.
    pub cooldown_until: Option<Wall>,
    /// End of the last block from a 429.
    pub rate_limited_until: Option<Wall>,
    /// Its known windows, except those that have passed.
    pub windows: Vec<WindowSnapshot>,
    /// The last `unified-status`.
    pub unified_status: Option<Verdict>,
    /// S4.
    pub weekly: WeeklySnapshot,
    /// S11: paid extra usage is in use.
    pub overage_in_use: bool,
    pub usage: UsageTotals,
    /// Blocks in force.
    pub blocks: Vec<BlockSnapshot>,
}

/// The status of an account (P1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It can be used, or is in a cooldown.
    Active,
    /// It has a block from a 429 of any kind.
    Throttled,
    /// Its week is used up.
    Exhausted,
    /// It needs login, or its credential was refused.
    Error,
}

/// The requests of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Attempts that ended.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    pub weight: u64,
    /// Their mean duration.
    pub average: Option<Duration>,
}

/// One quota window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowSnapshot {
    pub kind: WindowKind,
    /// The model family whose requests it counts; `None`: all.
    pub family: Option<Family>,
    /// Used share, 0 to 1.
    pub used: Option<f64>,
    /// The share as sent by the upstream; may exceed 1.
    pub raw: Option<f64>,
    pub limit: Option<u64>,
    /// What is left.
    pub remaining: Option<u64>,
    /// When it resets.
    pub reset: Option<Wall>,
    /// When this was learned.
    pub learned_at: Wall,
    pub source: Source,
}

/// Where the values of a window came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The head of an answer.
    Answer,
    /// The usage probe (T6).
    Probe,
    /// The state file (A6).
    Restored,
}

/// The weekly tiers of S4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Serves all requests.
    Normal,
    /// Serves all requests.
    Soft,
    /// Serves bound sessions, and new ones only if no account in a lower tier can.
    Reserve,
    /// Serves only what no other account can.
    Critical,
    /// Serves nothing.
    Exhausted,
}

/// The weekly state of an account; `None` is `unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeeklySnapshot {
    /// The tier used for selection.
    pub state: Option<Tier>,
    /// The tier by the used share alone.
    pub raw_state: Option<Tier>,
    /// The tier by the effective use alone.
    pub pace_state: Option<Tier>,
    /// Used share plus burn debt.
    pub effective_usage: Option<f64>,
}

/// Totals of an account (P13, A6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageTotals {
    pub tokens: Usage,
    /// Completed requests.
    pub requests: u64,
    /// When the last one started.
    pub last_used: Option<Wall>,
}

/// One block in force.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSnapshot {
    pub reason: BlockReason,
    pub scope: Scope,
    /// Whether the account is out or only avoided.
    pub effect: Effect,
    /// What ends it.
    pub lifted_by: LiftedBy,
    /// Its end; `None`: when the credential changes.
    pub until: Option<Wall>,
    /// Time until its end.
    pub remaining: Option<Duration>,
    /// The answer that caused it.
    pub evidence: Arc<Evidence>,
}

/// The effect of a block on the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It serves no request in the block's scope.
    Out,
    /// It serves only what no other account can (S3).
    Avoided,
}

/// The shared breaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BreakerSnapshot {
    /// All Claude accounts pause, or one request is probing.
    pub active: bool,
    /// End of the pause.
    pub until: Option<Wall>,
    /// The refusal that tripped it, as the upstream's message.
    pub reason: Option<Arc<str>>,
    /// A probe is in progress.
    pub probe_in_flight: bool,
    /// How often it has tripped.
    pub count: u64,
    /// When it last tripped.
    pub last_at: Option<Wall>,
    /// The model family of this breaker.
    pub family: Option<Family>,
}

/// The queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueSnapshot {
    pub waiting: usize,
    /// The longest wait.
    pub oldest: Option<Duration>,
    pub bytes: u64,
    /// When the next account is expected back for one of them.
    pub next_release: Option<Duration>,
    /// The number of requests by reason.
    pub by_cause: Vec<(WaitCause, usize)>,
}

/// What the state file keeps of an account (A6), and what a restart hands over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Quota windows.
    pub windows: Vec<WindowSnapshot>,
    pub usage: UsageTotals,
    /// The last `unified-status`: without it, a full week that the API still serves would count as
    /// exhausted (S3, S4).
    pub unified_status: Option<Verdict>,
    /// Until when paid extra usage counts as in use (S11).
    pub overage_until: Option<Wall>,
    /// Rejections of messages that are still in force.
    pub rejections: Vec<KnownRejection>,
}

/// A rejection that belongs to a window (S2).
#[derive(Clone, Debug, PartialEq)]
pub struct KnownRejection {
    /// The window, if the answer named one.
    pub window: Option<WindowKind>,
    /// The model family that it applies to; `None`: all messages.
    pub family: Option<Family>,
    pub until: Wall,
    /// When the answer arrived.
    pub said_at: Wall,
    /// The answer's HTTP status.
    pub status: Option<u16>,
}

/// S12: which accounts were ranked and why the others were passed over.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub at: Wall,
    /// `Request::id`.
    pub request: u64,
    /// `Request::model`.
    pub model: Option<Arc<str>>,
    /// `Request::session`.
    pub session: Option<SessionKey>,
    /// The decision.
    pub verdict: ExplainedVerdict,
    /// Available accounts, best first.
    pub candidates: Vec<Candidate>,
    /// The other accounts.
    pub passed_over: Vec<Standing>,
    /// Where the prompt of its session is cached, if anywhere.
    pub cache: Option<CachedPrompt>,
}

/// Where a session's prompt is cached.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedPrompt {
    pub account: AccountId,
    pub name: Arc<str>,
    /// Roughly what any other account would have to write to its cache.
    pub tokens: u64,
}

/// What would happen, or has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum ExplainedVerdict {
    /// This account was chosen, by this rule.
    Chosen(AccountId, Why),
    /// The request waits.
    Wait(WaitCause, Option<Duration>),
    /// The request is refused.
    Refuse(RefusalReason),
}

/// One ranked account.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub account: AccountId,
    pub name: Arc<str>,
    /// 1 is first.
    pub rank: usize,
    /// Its weekly tier for this request; `None` is `unknown`, which serves as normal.
    pub tier: Option<Tier>,
    /// Why it serves only what no other can; empty if that is not so.
    pub avoided: Vec<Avoided>,
    /// The pass that considers it: earlier ones come first (S7).
    pub pass: PassOrder,
    pub priority: i64,
    /// The sum of the terms.
    pub score: f64,
    /// The terms (S6).
    pub terms: Terms,
}

/// The order of the passes (S7); smaller is earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassOrder(pub(crate) Payment, pub(crate) Group, pub(crate) Pass);

/// Whether using an account costs its owner money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Payment {
    #[default]
    Included,
    PaidOverage,
}

/// The groups of accounts, considered one after another (S7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Subscriptions, and API keys with a priority at least as good as the best of them.
    #[default]
    Subscriptions,
    ApiKeys,
    Providers,
}

/// The passes over one group (S7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    /// The weekly tiers normal and soft.
    #[default]
    Normal,
    Reserve,
    Critical,
    Avoided,
}

/// The terms of a score (S6).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// The work in flight and the request itself.
    pub load: f64,
    /// Pressure on the five hours: negative if time runs out before the quota does.
    pub five_hour: f64,
    /// Pressure on the week.
    pub week: f64,
    /// Share of the recent work.
    pub spread: f64,
    /// The account has just come back from a block.
    pub recovery: f64,
    /// Consecutive failures, fading.
    pub failures: f64,
}

impl Terms {
    /// The score; lower is preferred.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.load + self.five_hour + self.week + self.spread + self.recovery + self.failures
    }
}

/// For display: every [`PassedOver`] that waiting can cure has one of these causes.
impl PassedOver {
    /// The class of waiting, or `None` if it is never waited for.
    #[must_use]
    pub fn wait_cause(&self) -> Option<WaitCause> {
        match self {
            PassedOver::Blocked(reason) => reason.wait_cause(),
            PassedOver::WindowFull { .. }
            | PassedOver::OverageInUse
            | PassedOver::AtBrink
            | PassedOver::ColdStart => Some(WaitCause::Quota),
            PassedOver::LimitReached { kind, .. } => Some(kind.wait_cause()),
            PassedOver::WeekExhausted | PassedOver::FamilyExhausted(_) => Some(WaitCause::Weekly),
            PassedOver::BeingLooked
            | PassedOver::InSuspense
            | PassedOver::AccountFull
            | PassedOver::PoolFull
            | PassedOver::Ramping
            | PassedOver::BreakerOpen
            | PassedOver::BreakerProbing
            | PassedOver::BreakerPacing
            | PassedOver::AlreadyTried => Some(WaitCause::Capacity),
            PassedOver::Disabled
            | PassedOver::Leaving
            | PassedOver::OtherProfile
            | PassedOver::NotBrought
            | PassedOver::SignedThinking
            | PassedOver::NotPinned => None,
        }
    }
}
