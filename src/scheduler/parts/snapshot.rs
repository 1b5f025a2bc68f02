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
    /// Sessions with a binding in force.
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
    /// Removed, finishing what it has.
    pub leaving: bool,
    pub profiles: Vec<Arc<str>>,
    pub priority: i64,
    pub status: Status,
    pub in_flight: u32,
    pub active_weight: u64,
    /// Attempts that ended with an answer of the model's or the request's own.
    pub completed: u64,
    /// Attempts that ended otherwise, abandoned ones left out.
    pub failed: u64,
    /// S6.
    pub consecutive_failures: u32,
    /// Of the last answer.
    pub last_status: Option<u16>,
    /// From grant to end of the last attempt that was completed.
    pub last_response: Option<Duration>,
    /// The last 15 minutes.
    pub last_15m: Load,
    /// The last hour.
    pub last_1h: Load,
    /// The last failure in the upstream's words, bounded; gone with the next success.
    pub last_error: Option<Arc<str>>,
    /// When it was.
    pub last_error_at: Option<Wall>,
    /// End of the last block from 5xx, 529, 403, network or refresh.
    pub cooldown_until: Option<Wall>,
    /// End of the last block from a 429.
    pub rate_limited_until: Option<Wall>,
    /// What is known of its windows, those that have passed left out.
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
    /// Can be used, or is in a cooldown.
    Active,
    /// A block from a 429 of any kind.
    Throttled,
    /// The week is used up.
    Exhausted,
    /// Needs login, or its credential was refused.
    Error,
}

/// Requests of a period.
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
    /// Whose requests it counts, if not all.
    pub family: Option<Family>,
    /// Used share, 0 to 1.
    pub used: Option<f64>,
    /// As the upstream sent it; may be above 1.
    pub raw: Option<f64>,
    pub limit: Option<u64>,
    /// What is left.
    pub remaining: Option<u64>,
    /// When it starts anew.
    pub reset: Option<Wall>,
    /// When this was learned.
    pub learned_at: Wall,
    pub source: Source,
}

/// Where a window was learned.
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
    /// Serves all.
    Normal,
    /// Serves all.
    Soft,
    /// Serves bound sessions, and new ones only if no account below it can.
    Reserve,
    /// Only if nothing else can.
    Critical,
    /// Never.
    Exhausted,
}

/// The weekly state of an account; `None` is `unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeeklySnapshot {
    /// As selection uses it.
    pub state: Option<Tier>,
    /// Of the used share alone.
    pub raw_state: Option<Tier>,
    /// Of the effective use alone.
    pub pace_state: Option<Tier>,
    /// Used share with its burn debt.
    pub effective_usage: Option<f64>,
}

/// Totals of an account (P13, A6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageTotals {
    pub tokens: Usage,
    /// Requests that were completed.
    pub requests: u64,
    /// When the last one began.
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
    /// Until when; none: until the credential changes.
    pub until: Option<Wall>,
    /// Time until then.
    pub remaining: Option<Duration>,
    /// Which answer said so.
    pub evidence: Arc<Evidence>,
}

/// What a block does to the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It serves nobody in the block's scope.
    Out,
    /// It serves what no other account can (S3).
    Avoided,
}

/// The shared breaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BreakerSnapshot {
    /// All Claude accounts pause, or one request probes.
    pub active: bool,
    /// End of the pause.
    pub until: Option<Wall>,
    /// The refusal that tripped it, in the upstream's words.
    pub reason: Option<Arc<str>>,
    /// A probe is in progress.
    pub probe_in_flight: bool,
    /// How often it tripped.
    pub count: u64,
    /// When it tripped last.
    pub last_at: Option<Wall>,
    /// Of which models it is; there is one for each family.
    pub family: Option<Family>,
}

/// The queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueSnapshot {
    pub waiting: usize,
    /// The longest wait.
    pub oldest: Option<Duration>,
    pub bytes: u64,
    /// When the next account is expected to come back for one of them.
    pub next_release: Option<Duration>,
    /// How many wait for what.
    pub by_cause: Vec<(WaitCause, usize)>,
}

/// What the state file keeps of an account (A6), and what a restart hands over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Quota windows.
    pub windows: Vec<WindowSnapshot>,
    pub usage: UsageTotals,
    /// The last `unified-status`: without it, a full week that the API serves would count as
    /// exhausted (S3, S4).
    pub unified_status: Option<Verdict>,
    /// How long paid extra usage counts as in use (S11).
    pub overage_until: Option<Wall>,
    /// Rejections of messages that still hold.
    pub rejections: Vec<KnownRejection>,
}

/// A rejection that belongs to a window (S2).
#[derive(Clone, Debug, PartialEq)]
pub struct KnownRejection {
    /// The window, if the answer named one.
    pub window: Option<WindowKind>,
    /// Whose requests it keeps out; none: all messages.
    pub family: Option<Family>,
    pub until: Wall,
    /// When the answer came.
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
    /// What came of it.
    pub verdict: ExplainedVerdict,
    /// Available accounts, best first.
    pub candidates: Vec<Candidate>,
    /// The others.
    pub passed_over: Vec<Standing>,
    /// Where the prompt of its session is cached, if it is.
    pub cache: Option<CachedPrompt>,
}

/// Where a session's prompt is cached.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedPrompt {
    pub account: AccountId,
    pub name: Arc<str>,
    /// About what any other account would have to write to its cache.
    pub tokens: u64,
}

/// What would happen, or did.
#[derive(Clone, Debug, PartialEq)]
pub enum ExplainedVerdict {
    /// This account, by this rule.
    Chosen(AccountId, Why),
    /// It would wait.
    Wait(WaitCause, Option<Duration>),
    /// It would be refused.
    Refuse(RefusalReason),
}

/// One ranked account.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub account: AccountId,
    pub name: Arc<str>,
    /// 1 is first.
    pub rank: usize,
    /// Its weekly tier for this request; none is `unknown`, which serves as normal.
    pub tier: Option<Tier>,
    /// Why it serves only what no other can; empty if it does not.
    pub avoided: Vec<Avoided>,
    /// The pass in which it is looked at: earlier ones come first (S7).
    pub pass: PassOrder,
    pub priority: i64,
    /// The sum of the terms.
    pub score: f64,
    /// S6.
    pub terms: Terms,
}

/// The order of the passes (S7); smaller is earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassOrder(pub(crate) Payment, pub(crate) Group, pub(crate) Pass);

/// What an account costs whoever owns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Payment {
    #[default]
    Included,
    PaidOverage,
}

/// The groups over which the passes run, one after the other (S7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Subscriptions, and API keys that are preferred as much as the best of them.
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
    /// The work in flight and the request's own.
    pub load: f64,
    /// Pressure on the five hours: negative where time runs out before the quota does.
    pub five_hour: f64,
    /// Pressure on the week.
    pub week: f64,
    /// Share of the recent work.
    pub spread: f64,
    /// Just back from a block.
    pub recovery: f64,
    /// Failures in a row, fading.
    pub failures: f64,
}

impl Terms {
    /// The score; lower is preferred.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.load + self.five_hour + self.week + self.spread + self.recovery + self.failures
    }
}

/// For texts: every [`PassedOver`] that a wait can cure has one of these causes.
impl PassedOver {
    /// The class of waiting, or none for what is never waited for.
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
