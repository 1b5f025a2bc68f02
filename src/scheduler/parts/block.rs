//! Blocks: why an account cannot be used now, until when, for whom, and which answer said so.
//!
//! An account has a list of these instead of a status; it is available when none is in force.

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
    /// The way to the upstream.
    Network,
    /// The rest of a credential after a 401 (T2).
    Credential,
}

/// Why an account cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockReason {
    /// The upstream rejected for this window, or for a limit that it did not name (P7, S2).
    Quota(Option<WindowKind>),
    /// A 429 that is not the account's limit.
    ServerSide,
    /// 529.
    Overloaded,
    /// 5xx that more than one request has met.
    ServerError,
    /// Connect, TLS, reset or header time-out before an answer.
    Network,
    /// 401: it rests, then one request looks (T2).
    CredentialRefused,
    /// Billing, disabled, suspended: the account itself. One request looks at the end.
    Unusable,
    /// The account does not have the model.
    ModelMissing,
    /// 403 to what another account served: avoided, never out.
    Forbidden,
    /// The refresh token is dead (T2).
    NeedsLogin,
    /// A refresh failed for reasons of the token endpoint.
    RefreshFailed,
    /// A refresh failed on the way there.
    RefreshNetwork,
}

impl WindowKind {
    /// The class of waiting for its reset (Q1).
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
    /// The class of waiting, or none for what is never waited for (Q1).
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

    /// At its end one request looks, before the others come.
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
    /// Its own end.
    Time,
    /// Its end or a usage reading with room, and every six hours one request looks.
    TimeOrReading,
    /// One request that looks after the end.
    Look,
    /// An unrelated request that is served.
    UnrelatedRequest,
    /// Another credential.
    Login,
}

/// When a block ends. Nothing but a look at the clocks ends a timed one; a step of the wall clock
/// moves only `wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// When both have passed; an absent one has.
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
    /// So long from now.
    #[must_use]
    pub fn after(now: Now, wait: Duration) -> End {
        End::At { mono: Some(now.mono + wait), wall: None }
    }

    /// True once it is over.
    #[must_use]
    pub fn has_passed(self, now: Now) -> bool {
        match self {
            End::At { mono, wall } => {
                mono.is_none_or(|at| at <= now.mono) && wall.is_none_or(|at| at <= now.wall)
            }
            End::CredentialChange => false,
        }
    }

    /// The moment on the monotonic clock, as far as the wall clock lets it be known now.
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

/// Whom a block keeps out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everyone.
    Account,
    /// Requests of this route class.
    Class(RouteClass),
    /// Messages to models of this family.
    Family(Family),
    /// Messages to this model.
    Model(Arc<str>),
}

impl Scope {
    /// Whether it keeps all messages out.
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

/// The answer that is behind a block; it goes into status and explanations, so it never holds a
/// secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The upstream's `request-id`.
    pub request_id: Option<Arc<str>>,
    /// What said it: a header or the body, such as `retry-after: 12`.
    pub source: Arc<str>,
    /// When it came.
    pub at: Wall,
    /// The upstream's words, cut to [`super::policy::MESSAGE_CHARS_MAX`] when stored.
    pub message: Arc<str>,
}

/// A reason why an account cannot be used now, with its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Why.
    pub reason: BlockReason,
    /// Until when.
    pub end: End,
    /// For whom.
    pub scope: Scope,
    /// Who said so.
    pub evidence: Arc<Evidence>,
}
