//! Blocks: why an account cannot be used now, until when, for which requests, and because of which
//! answer.
//!
//! An account has a list of blocks instead of a status; it is available if none is in force.

use std::sync::Arc;
use std::time::Duration;

use super::id::RouteClass;
use super::quota::{Family, WindowKind};
use super::time::{Mono, Now, Wall};

/// The classes of waiting of Q1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitCause {
    /// A limit of the account that ends by itself.
    Quota,
    /// The week is used up.
    Weekly,
    /// 5xx, 529, the breaker, the safety caps.
    Capacity,
    /// The network on the way to the upstream.
    Network,
    /// The rest of a credential after a 401 (T2).
    Credential,
}

/// Why an account cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockReason {
    /// The upstream rejected a request for this window, or for a limit that it did not name (P7,
    /// S2).
    Quota(Option<WindowKind>),
    /// A 429 that is not the account's limit.
    ServerSide,
    /// 529.
    Overloaded,
    /// A 5xx that more than one request has met.
    ServerError,
    /// Connect, TLS, reset or header time-out before an answer.
    Network,
    /// 401: it rests, then one request tests it (T2).
    CredentialRefused,
    /// Billing, disabled, suspended: the account itself. One request tests it at the end.
    Unusable,
    /// The account does not have the model.
    ModelMissing,
    /// 403 to a request that another account served: avoided, never out.
    Forbidden,
    /// The refresh token is refused for good (T2).
    NeedsLogin,
    /// A refresh failed at the token endpoint.
    RefreshFailed,
    /// A refresh failed on the way to the token endpoint.
    RefreshNetwork,
}

impl WindowKind {
    /// The class of waiting for this window's reset (Q1).
    #[must_use]
    pub fn wait_cause(&self) -> WaitCause {
        match self {
            WindowKind::SevenDay | WindowKind::SevenDayFamily(_) => WaitCause::Weekly,
            WindowKind::FiveHour
            | WindowKind::Tokens
            | WindowKind::Requests
            | WindowKind::Generic => WaitCause::Quota,
        }
    }
}

impl BlockReason {
    /// The class of waiting, or `None` if it is never waited for (Q1).
    #[must_use]
    pub fn wait_cause(&self) -> Option<WaitCause> {
        match self {
            BlockReason::Quota(Some(kind)) => Some(kind.wait_cause()),
            BlockReason::Quota(None) => Some(WaitCause::Quota),
            BlockReason::ServerSide
            | BlockReason::Overloaded
            | BlockReason::ServerError
            | BlockReason::RefreshFailed => Some(WaitCause::Capacity),
            BlockReason::Network | BlockReason::RefreshNetwork => Some(WaitCause::Network),
            BlockReason::CredentialRefused
            | BlockReason::Unusable
            | BlockReason::ModelMissing
            | BlockReason::Forbidden
            | BlockReason::NeedsLogin => None,
        }
    }

    /// What ends such a block.
    #[must_use]
    pub fn lifted_by(&self) -> LiftedBy {
        match self {
            BlockReason::NeedsLogin => LiftedBy::Login,
            BlockReason::Quota(_) => LiftedBy::TimeOrReading,
            BlockReason::CredentialRefused | BlockReason::Unusable => LiftedBy::Look,
            BlockReason::ServerSide
            | BlockReason::Overloaded
            | BlockReason::ServerError
            | BlockReason::Network
            | BlockReason::ModelMissing
            | BlockReason::Forbidden
            | BlockReason::RefreshFailed
            | BlockReason::RefreshNetwork => LiftedBy::Time,
        }
    }

    /// Whether one request must test it at its end, before others follow.
    pub(crate) fn needs_look(&self) -> bool {
        match self {
            BlockReason::CredentialRefused | BlockReason::Unusable => true,
            BlockReason::Quota(_)
            | BlockReason::ServerSide
            | BlockReason::Overloaded
            | BlockReason::ServerError
            | BlockReason::Network
            | BlockReason::ModelMissing
            | BlockReason::Forbidden
            | BlockReason::NeedsLogin
            | BlockReason::RefreshFailed
            | BlockReason::RefreshNetwork => false,
        }
    }
}

/// What ends a block, for `explain` and `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiftedBy {
    /// The passing of time.
    Time,
    /// Its end, a usage reading with room, or a test every six hours.
    TimeOrReading,
    /// One request that tests it after its end.
    Look,
    /// An unrelated request that is served.
    UnrelatedRequest,
    /// Another credential.
    Login,
}

/// When a block ends. A timed block ends only when the clocks are checked; a step of the wall clock
/// affects only `wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// When both have passed; an absent one counts as passed.
    At {
        /// For retry-after and cooldowns.
        mono: Option<Mono>,
        /// For resets.
        wall: Option<Wall>,
    },
    /// When the credential changes.
    CredentialChange,
}

impl End {
    /// This long from now.
    #[must_use]
    pub fn after(now: Now, wait: Duration) -> End {
        End::At { mono: Some(now.mono + wait), wall: None }
    }

    /// Whether it is over.
    #[must_use]
    pub fn has_passed(self, now: Now) -> bool {
        match self {
            End::At { mono, wall } => {
                mono.is_none_or(|at| at <= now.mono) && wall.is_none_or(|at| at <= now.wall)
            }
            End::CredentialChange => false,
        }
    }

    /// The time on the monotonic clock, according to the current wall clock.
    #[must_use]
    pub fn mono(self, now: Now) -> Option<Mono> {
        match self {
            End::At { mono, wall } => {
                let wall = wall.filter(|&at| at > now.wall).map(|at| now.mono_at(at));
                Some(mono.max(wall).unwrap_or(now.mono))
            }
            End::CredentialChange => None,
        }
    }

    /// The same on the wall clock, for display.
    #[must_use]
    pub fn wall(self, now: Now) -> Option<Wall> {
        match self {
            End::At { mono, wall } => {
                let mono = mono.map(|at| now.wall + at.since(now.mono));
                Some(mono.max(wall).unwrap_or(now.wall))
            }
            End::CredentialChange => None,
        }
    }
}

/// The requests that a block applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Account,
    /// Requests of this route class.
    Class(RouteClass),
    /// Messages to models of this family.
    Family(Family),
    /// Messages to this model.
    Model(Arc<str>),
}

impl Scope {
    /// Whether it applies to all messages.
    #[must_use]
    pub fn is_for_all_messages(&self) -> bool {
        match self {
            Scope::Account | Scope::Class(RouteClass::Messages) => true,
            Scope::Class(RouteClass::CountTokens | RouteClass::Models | RouteClass::Rest)
            | Scope::Family(_)
            | Scope::Model(_) => false,
        }
    }
}

/// The answer behind a block. It is shown in status and explanations, so it never contains a
/// secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The upstream's `request-id`.
    pub request_id: Option<Arc<str>>,
    /// The source: a header or the body, such as `retry-after: 12`.
    pub source: Arc<str>,
    /// When it arrived.
    pub at: Wall,
    /// The upstream's message, cut to [`super::policy::MESSAGE_CHARS_MAX`] when stored.
    pub message: Arc<str>,
}

/// A reason why an account cannot be used now, with its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The reason.
    pub reason: BlockReason,
    /// The end.
    pub end: End,
    /// The requests that it applies to.
    pub scope: Scope,
    /// The answer that caused it.
    pub evidence: Arc<Evidence>,
}
