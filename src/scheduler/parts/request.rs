//! What a worker asks of the scheduler and what it gets: requests, leases, tickets, refusals.

#![expect(missing_docs, reason = "where a name says it all, a doc would only repeat it")]

use std::sync::Arc;
use std::time::Duration;

use super::block::{BlockReason, Evidence, WaitCause};
pub(crate) use super::id::{AccountId, Kin, RouteClass};
use super::quota::{Family, WindowKind};
use super::time::Mono;
use super::trail::Trail;

/// The kind of an account's credential.
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
    /// Whether it is a *Claude account* in the terms of SPEC 1.
    #[must_use]
    pub fn is_claude(self) -> bool {
        match self {
            Kind::Oauth | Kind::ApiKey => true,
            Kind::Provider => false,
        }
    }
}

/// An account's settings in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountSpec {
    /// Unique, for display.
    pub name: Arc<str>,
    /// Its kind of credential.
    pub kind: Kind,
    /// If false, it serves nothing.
    pub enabled: bool,
    /// The lower, the sooner it is used.
    pub priority: i64,
    /// The profiles that it serves (S8).
    pub profiles: Vec<Arc<str>>,
    /// Which requests of those profiles it serves.
    pub access: Access,
    /// Used shares that the owner does not want to exceed (S3).
    pub limit: AccountLimit,
}

/// Which requests an account serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// All.
    #[default]
    Everyone,
    /// Those whose own headers describe it: it is in their [`Request::brought`] (V1).
    Bringers,
}

/// `accounts[].limit`: used shares at which an account is out (S3).
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
    /// This account as long as it is available.
    Preferred(AccountId),
}

/// Only an enabled Claude account can be preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotPrefer;

/// A digest of the session key (S9).
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
    /// One JSON answer for a client whose held stream has just ended (Q6). Set by the scheduler.
    Fallback,
    /// `count_tokens`.
    CountTokens,
}

/// A request for an account. The worker keeps it, and passes it in again after a failed attempt.
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
    /// Which requests are related to it (P7).
    pub kin: Kin,
    /// The requested model.
    pub model: Option<Arc<str>>,
    /// The model's family, if it is known.
    pub family: Option<Family>,
    /// The session (S9); `None`: no binding.
    pub session: Option<SessionKey>,
    /// P9: the messages of this request contain signed thinking.
    pub signed_thinking: bool,
    /// P10: set when `thread.type` is `continue`.
    pub thread: Option<ThreadKey>,
    /// Only this account may serve it (batches), whatever its profiles.
    pub pinned: Option<AccountId>,
    /// The accounts that its own headers describe (V1). No other request is sent to them.
    pub brought: Vec<AccountId>,
    pub shape: Shape,
    /// The memory that holding it takes.
    pub body_bytes: u64,
    /// If false, it is never held, whatever the policy.
    pub holdable: bool,
    /// Q6: how long after `arrived` the client tolerates being held.
    pub tolerance: Option<Duration>,
    /// Q6: digest of session and body, by which a returning request finds its old place.
    pub resume: Option<u128>,
    /// When it was read.
    pub arrived: Mono,
    /// Accounts on which it has failed in this pass. A [`Wake::Granted`] ends the pass: clear the
    /// list then.
    pub excluded: Vec<AccountId>,
    /// Attempts made in this pass; reset to 0 by a [`Wake::Granted`].
    pub attempts: u32,
    /// Why the last attempt failed, if waiting may help.
    pub last_failure: Option<WaitCause>,
    /// [`Grant::clock`] of the previous grant, or the default: one clock runs over all waits (Q1).
    pub clock: WaitClock,
    /// The results of earlier attempts (P7).
    pub trail: Trail,
}

impl Request {
    /// A streaming request of weight 1 in profile `claude` without special needs.
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

/// How long a request has waited already: since its first wait, and since it started to wait for
/// its current reason. Opaque: passed from [`Grant::clock`] to [`Request::clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitClock {
    pub(crate) since: Option<Mono>,
    pub(crate) cause: Option<(WaitCause, Mono)>,
    pub(crate) restrained: Restrained,
}

/// How long only the cold-start limit or the brink has delayed a request (S6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restrained {
    /// Earlier delays.
    spent: Duration,
    /// Start of the current delay.
    since: Option<Mono>,
    /// The limit of the delay, from its first start.
    most: Option<Duration>,
}

impl Restrained {
    /// Updates it after another check has found the request delayed, or not.
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

    /// When the delay reaches its limit.
    pub(crate) fn ends(self, now: Mono) -> Option<Mono> {
        let left = self.most?.saturating_sub(self.spent);
        Some(self.since.unwrap_or(now) + left)
    }
}

/// One request's claim on an account. It ends only in `complete`; a gate turns a dropped one into
/// `Abandoned`.
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

    /// The claimed account.
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
    /// Must be completed.
    pub lease: Lease,
    pub account: AccountId,
    pub name: Arc<str>,
    pub kind: Kind,
    /// Why this account was chosen.
    pub why: Why,
    /// The length of this wait; zero without one.
    pub waited: Duration,
    /// Put this into [`Request::clock`] before asking again.
    pub clock: WaitClock,
    /// Put this into [`Request::trail`], too.
    pub trail: Trail,
}

/// The rule by which an account was chosen.
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
    /// The request tests whether a block of many hours still holds (P7).
    LongLook,
}

/// The answer to `admit`.
#[derive(Debug)]
#[must_use = "a grant holds an account"]
pub enum Admission {
    /// The request may proceed.
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
    /// The ticket is gone and nothing was granted.
    Cancelled,
    /// It was granted but not polled yet: complete the lease.
    AlreadyGranted(Grant),
    /// It was refused, or had expired at this limit, but was not polled yet; nothing needs to be
    /// done.
    AlreadyRefused(Option<Limit>),
    /// Its [`Wake`] was polled before: whoever polled it has the verdict.
    AlreadyPolled,
}

/// A verdict about a ticket, each delivered once.
#[derive(Debug)]
#[must_use = "a grant holds an account"]
pub enum Wake {
    /// An account, and a new pass: `excluded` and `attempts` start over.
    Granted { ticket: Ticket, grant: Grant },
    /// A time limit was reached.
    Expired {
        ticket: Ticket,
        limit: Limit,
        /// What it was waiting for.
        refusal: Refusal,
    },
    /// What it was waiting for will not come in time, or at all.
    Refused { ticket: Ticket, refusal: Refusal },
}

impl Wake {
    /// The ticket of this verdict.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        match self {
            Wake::Granted { ticket, .. }
            | Wake::Expired { ticket, .. }
            | Wake::Refused { ticket, .. } => *ticket,
        }
    }
}

/// Which time limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Q6, or `nonStreamMaxWaitMs`: the client should ask again at once.
    ClientTolerance,
    /// A limit of Q1: gives up for good.
    WaitLimit,
    /// Suspense ended without an explanation (P7): answer with the API's own answer.
    Suspense,
}

/// Why there is no account, in the form for the client (P14).
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// The time until the first matching account comes back, if known.
    pub wait: Option<Duration>,
    /// Why that account is out.
    pub cause: Option<WaitCause>,
    /// The enabled accounts that match the request, each with what keeps it out.
    pub accounts: Vec<Standing>,
}

/// The state of one account in a refusal or an explanation.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub account: AccountId,
    pub name: Arc<str>,
    pub kind: Kind,
    /// The reason that keeps it out longest.
    pub reason: PassedOver,
    /// Time until that ends, if known.
    pub wait: Option<Duration>,
    /// The answer that caused it.
    pub evidence: Option<Arc<Evidence>>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// There is no account at all, or the pinned one does not exist.
    NoAccount,
    /// No account has the profile (400).
    UnknownProfile,
    /// All matching accounts are disabled.
    NoneEnabled,
    /// All matching accounts are out, and the wait is too long, unknown or not allowed.
    Limited(WaitCause),
    /// All matching accounts, listed here, are out because of their credentials.
    CredentialsOnly(Vec<Arc<str>>),
    /// Q3.
    QueueFull,
    /// It could wait for this reason, but its body exceeds `maxQueuedBodyBytes`.
    TooLargeToHold(WaitCause),
    /// Only providers could serve it now, and P9 forbids that.
    ThinkingNeedsClaude,
    /// The thread's owner cannot serve (P10).
    ThreadElsewhere,
    /// The process is stopping.
    Draining,
    /// The maximum number of attempts was made.
    AttemptsExhausted,
}

/// Why an account was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedOver {
    /// `enabled` is false.
    Disabled,
    /// Removed from the configuration, finishing its requests.
    Leaving,
    /// Not in the request's profile.
    OtherProfile,
    /// It comes from another client's headers (V1).
    NotBrought,
    /// It is a provider, and P9 applies.
    SignedThinking,
    /// It is not the account to which the request is bound (batch or thread).
    NotPinned,
    /// This request has failed on it.
    AlreadyTried,
    /// It refused this request without evidence, and will be tried again later (P7).
    InSuspense,
    /// A block is in force.
    Blocked(BlockReason),
    /// A short window is used up (S3).
    WindowFull {
        kind: WindowKind,
        /// How much of it is used, rounded down.
        percent: u8,
    },
    /// A window has reached `accounts[].limit` (S3).
    LimitReached {
        /// The window.
        kind: WindowKind,
        /// How much of it is used, rounded down.
        percent: u8,
    },
    /// The week is used up (S4).
    WeekExhausted,
    /// The week of the request's model family is used up.
    FamilyExhausted(Family),
    /// Paid extra usage is in use, with `scheduler.overage: never` (S11).
    OverageInUse,
    /// One request is testing whether a limit without a known end still holds (S3).
    BeingLooked,
    /// `safetyMaxActivePerAccount` is reached.
    AccountFull,
    /// `safetyMaxGlobalActive` is reached.
    PoolFull,
    /// S10: after a storm it gets requests one by one.
    Ramping,
    /// S6: the requests in flight may fill its window.
    AtBrink,
    /// S6: while requests wait, it takes few that have no cache there.
    ColdStart,
    /// P8: all Claude accounts pause.
    BreakerOpen,
    /// P8: one request is probing.
    BreakerProbing,
    /// P8: requests are released one by one.
    BreakerPacing,
}

/// Why an account serves only what no other can (S3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Avoided {
    /// A window is near its end.
    Near {
        /// The window.
        kind: WindowKind,
        /// How much of it is used, rounded down.
        percent: u8,
    },
    /// S11: it uses paid extra usage.
    PaidOverage,
    /// P7: it has refused without evidence, and no other request has confirmed or disproved that
    /// yet.
    Suspected,
    /// P7: it answered 403 to a request that another account served.
    Forbidden,
}

impl Avoided {
    /// Whether a session abandons its cache for another account.
    #[must_use]
    pub fn drives_away(&self) -> bool {
        match self {
            Avoided::Near { .. } | Avoided::Forbidden => false,
            Avoided::PaidOverage | Avoided::Suspected => true,
        }
    }
}
