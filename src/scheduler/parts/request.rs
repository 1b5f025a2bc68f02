//! What a worker asks of the scheduler and what it gets: requests, leases, tickets, refusals.

#![expect(missing_docs, reason = "where a name says it all, a doc would only repeat it")]

use std::sync::Arc;
use std::time::Duration;

use super::block::{BlockReason, Evidence, WaitCause};
pub(crate) use super::id::{AccountId, Kin, RouteClass};
use super::quota::{Family, WindowKind};
use super::time::Mono;
use super::trail::Trail;

/// What kind of credential an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A Claude subscription.
    Oauth,
    /// An Anthropic API key.
    ApiKey,
    /// An Anthropic-compatible third party.
    Provider,
}

impl Kind {
    /// A *Claude account* in the words of SPEC 1.
    #[must_use]
    pub fn is_claude(self) -> bool {
        match self {
            Kind::Oauth | Kind::ApiKey => true,
            Kind::Provider => false,
        }
    }
}

/// What the configuration says of an account.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountSpec {
    /// Unique, for display.
    pub name: Arc<str>,
    /// Its kind of credential.
    pub kind: Kind,
    /// False: serves nothing.
    pub enabled: bool,
    /// Lower is preferred.
    pub priority: i64,
    /// The profiles that it serves (S8).
    pub profiles: Vec<Arc<str>>,
    /// Whose requests of those profiles.
    pub access: Access,
    /// Used shares that the owner does not want to exceed (S3).
    pub limit: AccountLimit,
}

/// Whose requests an account serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody's.
    #[default]
    Everyone,
    /// Those that brought it themselves: it is in their [`Request::brought`] (V1).
    Bringers,
}

/// `accounts[].limit`: at these used shares an account is out (S3).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AccountLimit {
    /// Of the five hours.
    pub five_hour: Option<f64>,
    /// Of the week, and of the week of a model family.
    pub week: Option<f64>,
}

/// S7a.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// By binding, priority and score.
    #[default]
    Automatic,
    /// This one as long as it is available.
    Preferred(AccountId),
}

/// Only an enabled Claude account can be preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotPrefer;

/// A digest of what S9 calls the session's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u128);

/// A digest of `thread.id` (P10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadKey(pub u128);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// `stream: true`: can be held with heartbeats.
    Stream,
    /// One JSON answer.
    NonStream,
    /// One JSON answer, asked for by a client whose held stream has just ended (Q6). Set by the
    /// scheduler.
    Fallback,
    /// `count_tokens`.
    CountTokens,
}

/// A request that wants an account. The worker keeps it, and gives it again after a failed attempt.
#[derive(Clone, Debug)]
pub struct Request {
    /// Unique in this process.
    pub id: u64,
    /// `x-maxpool-profile`, default `claude`.
    pub profile: Arc<str>,
    /// P4, at least 1.
    pub weight: u32,
    /// P3.
    pub class: RouteClass,
    /// Who is related to it (P7).
    pub kin: Kin,
    /// The model that it names.
    pub model: Option<Arc<str>>,
    /// The model's family, if it is known.
    pub family: Option<Family>,
    /// S9; none: no binding.
    pub session: Option<SessionKey>,
    /// P9: this request's messages hold signed thinking.
    pub signed_thinking: bool,
    /// P10: set when `thread.type` is `continue`.
    pub thread: Option<ThreadKey>,
    /// Only this account will do (batches); its profiles are not asked.
    pub pinned: Option<AccountId>,
    /// The accounts that its own headers describe (V1). No other request is sent to them.
    pub brought: Vec<AccountId>,
    pub shape: Shape,
    /// What holding it costs in memory.
    pub body_bytes: u64,
    /// False: is never held, whatever the policy.
    pub holdable: bool,
    /// Q6: how long after `arrived` the client can bear to be held.
    pub tolerance: Option<Duration>,
    /// Q6: digest of session and body, by which one who comes back finds its old place.
    pub resume: Option<u128>,
    /// When it was read.
    pub arrived: Mono,
    /// Accounts on which it has failed in this pass. A [`Wake::Granted`] ends the pass: clear it
    /// then.
    pub excluded: Vec<AccountId>,
    /// Attempts made in this pass; a [`Wake::Granted`] sets it back to 0.
    pub attempts: u32,
    /// What the last attempt failed of, if a wait may cure it.
    pub last_failure: Option<WaitCause>,
    /// [`Grant::clock`] of the grant before, or the default: one clock runs over all waits (Q1).
    pub clock: WaitClock,
    /// What the attempts before have brought (P7).
    pub trail: Trail,
}

impl Request {
    /// A streaming request of weight 1 in profile `claude` without anything special.
    #[must_use]
    pub fn new(id: u64, arrived: Mono) -> Request {
        Request {
            id,
            profile: Arc::from("claude"),
            weight: 1,
            class: RouteClass::Messages,
            kin: Kin(u128::from(id)),
            model: None,
            family: None,
            session: None,
            signed_thinking: false,
            thread: None,
            pinned: None,
            brought: Vec::new(),
            shape: Shape::Stream,
            body_bytes: 0,
            holdable: true,
            tolerance: None,
            resume: None,
            arrived,
            excluded: Vec::new(),
            attempts: 0,
            last_failure: None,
            clock: WaitClock::default(),
            trail: Trail::default(),
        }
    }
}

/// How long a request has waited already: since its first wait, and since it waits for its present
/// cause. Opaque: carried from [`Grant::clock`] to [`Request::clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitClock {
    pub(crate) since: Option<Mono>,
    pub(crate) cause: Option<(WaitCause, Mono)>,
    pub(crate) restrained: Restrained,
}

/// How long a cold start or the brink alone has kept a request (S6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restrained {
    /// Before the present time.
    spent: Duration,
    /// Since when it does so now.
    since: Option<Mono>,
    /// How long it may do so at most, from the first time on.
    most: Option<Duration>,
}

impl Restrained {
    /// One more look has found the request kept, or not.
    pub(crate) fn look(self, now: Mono, kept: Option<Duration>) -> Restrained {
        match (self.since, kept) {
            (Some(_), Some(_)) | (None, None) => self,
            (None, Some(most)) => {
                Restrained { since: Some(now), most: self.most.or(Some(most)), ..self }
            }
            (Some(since), None) => {
                Restrained { spent: self.spent + now.since(since), since: None, ..self }
            }
        }
    }

    /// When it will have been kept for as long as it may.
    pub(crate) fn ends(self, now: Mono) -> Option<Mono> {
        let left = self.most?.saturating_sub(self.spent);
        Some(self.since.unwrap_or(now) + left)
    }
}

/// One request's hold on an account. Ends in `complete`, and only there; a gate turns a dropped one
/// into `Abandoned`.
#[must_use = "a lease that is not completed keeps its place for ever"]
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    pub(crate) id: u64,
    pub(crate) account: AccountId,
}

impl Lease {
    /// Unique among all leases of the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The account that it holds.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.account
    }
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// An account for one attempt.
#[derive(Debug)]
pub struct Grant {
    /// To be completed.
    pub lease: Lease,
    pub account: AccountId,
    pub name: Arc<str>,
    pub kind: Kind,
    /// Why this one.
    pub why: Why,
    /// How long this wait was; zero without one.
    pub waited: Duration,
    /// Put this into [`Request::clock`] before asking again.
    pub clock: WaitClock,
    /// Put this into [`Request::trail`], too.
    pub trail: Trail,
}

/// By which rule an account was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// `Request::pinned`.
    Pinned,
    /// It owns the thread (P10).
    Thread,
    /// S7a.
    Preferred,
    /// The session's home (S7b).
    Home,
    /// The session's current account.
    Current,
    /// Priority and score (S7c).
    Score(f64),
    /// It checks whether a block of many hours still holds (P7).
    LongLook,
}

/// The answer to `admit`.
#[derive(Debug)]
#[must_use = "a grant holds an account"]
pub enum Admission {
    /// Go on.
    Granted(Grant),
    /// Wait for the [`Wake`] of this ticket.
    Queued(Ticket),
    /// Answer the client.
    Refused(Refusal),
}

/// The answer to `cancel`.
#[derive(Debug)]
#[must_use = "a grant holds an account"]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once by the gate")]
pub enum Cancel {
    /// The ticket is gone, nothing was granted.
    Cancelled,
    /// It was granted and `poll` has not said so yet: complete it.
    AlreadyGranted(Grant),
    /// It was refused, or had expired at this limit, and `poll` has not said so yet; nothing is to
    /// be done.
    AlreadyRefused(Option<Limit>),
    /// Its [`Wake`] was polled before: whoever polled it has the verdict.
    AlreadyPolled,
}

/// A verdict about a ticket, each delivered once.
#[derive(Debug)]
#[must_use = "a grant holds an account"]
pub enum Wake {
    /// An account, and a new pass: `excluded` and `attempts` start anew.
    Granted { ticket: Ticket, grant: Grant },
    /// Time is up.
    Expired {
        ticket: Ticket,
        limit: Limit,
        /// What it waited for.
        refusal: Refusal,
    },
    /// What it waited for will not come in time, or at all.
    Refused { ticket: Ticket, refusal: Refusal },
}

impl Wake {
    /// Whose verdict this is.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        match self {
            Wake::Granted { ticket, .. }
            | Wake::Expired { ticket, .. }
            | Wake::Refused { ticket, .. } => *ticket,
        }
    }
}

/// Which time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Q6, or `nonStreamMaxWaitMs`: the client should ask again at once.
    ClientTolerance,
    /// A limit of Q1: giving up for good.
    WaitLimit,
    /// Suspense is over without an explanation (P7): the API's own answer.
    Suspense,
}

/// Why there is no account, in what a client can be told (P14).
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// The time until the first matching account comes back, if it is known.
    pub wait: Option<Duration>,
    /// What that account is out for.
    pub cause: Option<WaitCause>,
    /// The enabled accounts that match the request, with what keeps each away.
    pub accounts: Vec<Standing>,
}

/// The standing of one account in a refusal or an explanation.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub account: AccountId,
    pub name: Arc<str>,
    pub kind: Kind,
    /// What keeps it away longest.
    pub reason: PassedOver,
    /// Time until that ends, if it is known.
    pub wait: Option<Duration>,
    /// The answer that caused it.
    pub evidence: Option<Arc<Evidence>>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// There is no account at all, or not the pinned one.
    NoAccount,
    /// No account has the profile (400).
    UnknownProfile,
    /// Those that match are disabled.
    NoneEnabled,
    /// All that match are out, and the wait is too long, unknown or not allowed.
    Limited(WaitCause),
    /// All that match are out for their credential: these.
    CredentialsOnly(Vec<Arc<str>>),
    /// Q3.
    QueueFull,
    /// It could wait, but its body is above `maxQueuedBodyBytes`; what it would wait for.
    TooLargeToHold(WaitCause),
    /// Only providers could serve now, and P9 forbids them.
    ThinkingNeedsClaude,
    /// The thread's owner cannot serve (P10).
    ThreadElsewhere,
    /// The process is going away.
    Draining,
    /// As many attempts as allowed were made.
    AttemptsExhausted,
}

/// Why an account was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedOver {
    /// `enabled` is false.
    Disabled,
    /// Removed from the configuration, finishing what it has.
    Leaving,
    /// Not in the request's profile.
    OtherProfile,
    /// Another client's headers brought it (V1).
    NotBrought,
    /// A provider, and P9.
    SignedThinking,
    /// Not the account that the request is bound to (batch or thread).
    NotPinned,
    /// This request has failed there.
    AlreadyTried,
    /// This request was refused there without evidence, and looks again later (P7).
    InSuspense,
    /// A block in force.
    Blocked(BlockReason),
    /// A short window that is used up (S3).
    WindowFull {
        kind: WindowKind,
        /// How much of it is used, rounded down.
        percent: u8,
    },
    /// A window at `accounts[].limit` (S3).
    LimitReached {
        /// Which.
        kind: WindowKind,
        /// How much of it is used, rounded down.
        percent: u8,
    },
    /// S4.
    WeekExhausted,
    /// The week of the request's model family.
    FamilyExhausted(Family),
    /// S11 with `never`.
    OverageInUse,
    /// One request checks whether a limit without a known end still holds (S3).
    BeingLooked,
    /// `safetyMaxActivePerAccount`.
    AccountFull,
    /// `safetyMaxGlobalActive`.
    PoolFull,
    /// S10: it takes over one by one.
    Ramping,
    /// S6: what is in flight may fill its window.
    AtBrink,
    /// S6: while requests wait, it takes few that have no cache there.
    ColdStart,
    /// P8: all Claude accounts pause.
    BreakerOpen,
    /// P8: one request probes.
    BreakerProbing,
    /// P8: requests follow one by one.
    BreakerPacing,
}

/// Why an account serves only what no other can (S3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Avoided {
    /// A window is near its end.
    Near {
        /// Which.
        kind: WindowKind,
        /// How much of it is used, rounded down.
        percent: u8,
    },
    /// S11: it costs money.
    PaidOverage,
    /// P7: it has refused without evidence, and nobody else has met or disproved it yet.
    Suspected,
    /// P7: it answered 403 to what another account served.
    Forbidden,
}

impl Avoided {
    /// Whether a session leaves its cache behind for another account.
    #[must_use]
    pub fn drives_away(&self) -> bool {
        match self {
            Avoided::Near { .. } | Avoided::Forbidden => false,
            Avoided::PaidOverage | Avoided::Suspected => true,
        }
    }
}
