//! What can keep a request from an account: one type for all reasons (a block, a window, a cap, the
//! breaker), so that admission, the queue, refusals and `explain` treat them alike.

use std::sync::Arc;

use super::block::{Block, BlockReason, Evidence, WaitCause};
use super::quota::WindowKind;
use super::request::PassedOver;
use super::time::{Mono, Now};
use super::windows::{Full, Window};

/// A single reason that keeps a request from an account.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Obstacle<'a> {
    Disabled,
    Leaving,
    OtherProfile,
    NotBrought,
    SignedThinking,
    NotRouted,
    Tried {
        until: Mono,
        cause: Option<WaitCause>,
    },
    Block(&'a Block),
    /// A credential that has served recently rests after a 401 (Q1).
    Rest(&'a Block),
    /// One request is testing whether this still holds.
    BlockBeingLooked(&'a Block),
    /// P7: the request in suspense tries again then.
    Suspense(Mono),
    Window(&'a Window),
    /// A window at the owner's own limit.
    Limit(&'a Window),
    Overage {
        until: Option<Mono>,
    },
    AccountFull,
    PoolFull,
    Ramp(Mono),
    Brink(Mono),
    ColdStart(Mono),
    BreakerOpen(Mono),
    BreakerProbing,
    BreakerPacing(Mono),
}

/// When an obstacle ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    At(Mono),
    /// When another request gets its answer or ends.
    OnRelease,
    /// Not by waiting.
    Never,
}

impl Obstacle<'_> {
    /// False if the account is no route for this request at all.
    pub(crate) fn is_a_wait(&self) -> bool {
        match self {
            Obstacle::Disabled
            | Obstacle::Leaving
            | Obstacle::OtherProfile
            | Obstacle::NotBrought
            | Obstacle::SignedThinking
            | Obstacle::NotRouted => false,
            Obstacle::Tried { .. }
            | Obstacle::Block(_)
            | Obstacle::Rest(_)
            | Obstacle::BlockBeingLooked(_)
            | Obstacle::Suspense(_)
            | Obstacle::Window(_)
            | Obstacle::Limit(_)
            | Obstacle::Overage { .. }
            | Obstacle::AccountFull
            | Obstacle::PoolFull
            | Obstacle::Ramp(_)
            | Obstacle::Brink(_)
            | Obstacle::ColdStart(_)
            | Obstacle::BreakerOpen(_)
            | Obstacle::BreakerProbing
            | Obstacle::BreakerPacing(_) => true,
        }
    }

    /// Whether a test may end it after some hours, independently of other requests.
    pub(crate) fn is_long_block(&self) -> bool {
        matches!(self, Obstacle::Block(block) if block.reason != BlockReason::NeedsLogin)
    }

    /// Whether it only delays a request and never causes a refusal (S6).
    pub(crate) fn is_restraint(&self) -> bool {
        matches!(self, Obstacle::Brink(_) | Obstacle::ColdStart(_))
    }

    pub(crate) fn ends(&self, now: Now) -> Ends {
        match self {
            Obstacle::Block(block) if block.reason.wait_cause().is_none() => Ends::Never,
            Obstacle::Block(block) | Obstacle::Rest(block) => {
                block.end.mono(now).map_or(Ends::Never, Ends::At)
            }
            Obstacle::BlockBeingLooked(_) => Ends::OnRelease,
            Obstacle::Window(window) | Obstacle::Limit(window) => match window.full(now) {
                Full::Until(reset) => Ends::At(now.mono_at(reset)),
                Full::LookAt(at) => Ends::At(at),
                Full::Lookable => Ends::At(now.mono),
                Full::Looked => Ends::OnRelease,
            },
            Obstacle::Overage { until } => until.map_or(Ends::Never, Ends::At),
            Obstacle::Tried { until: at, .. }
            | Obstacle::Suspense(at)
            | Obstacle::Ramp(at)
            | Obstacle::Brink(at)
            | Obstacle::ColdStart(at)
            | Obstacle::BreakerOpen(at)
            | Obstacle::BreakerPacing(at) => Ends::At(*at),
            Obstacle::AccountFull | Obstacle::PoolFull | Obstacle::BreakerProbing => {
                Ends::OnRelease
            }
            Obstacle::Disabled
            | Obstacle::Leaving
            | Obstacle::OtherProfile
            | Obstacle::NotBrought
            | Obstacle::SignedThinking
            | Obstacle::NotRouted => Ends::Never,
        }
    }

    /// The end of a block that is never waited for (403).
    pub(crate) fn unawaited_end(&self, now: Now) -> Option<Mono> {
        match self {
            Obstacle::Block(block) if block.reason.wait_cause().is_none() => block.end.mono(now),
            _ => None,
        }
    }

    /// The class of waiting for it.
    pub(crate) fn cause(&self) -> WaitCause {
        match self {
            Obstacle::Block(block) => block.reason.wait_cause().unwrap_or(WaitCause::Capacity),
            Obstacle::Rest(_) | Obstacle::BlockBeingLooked(_) => WaitCause::Credential,
            Obstacle::Window(window) | Obstacle::Limit(window) => window.kind.wait_cause(),
            Obstacle::Overage { .. } | Obstacle::Brink(_) | Obstacle::ColdStart(_) => {
                WaitCause::Quota
            }
            Obstacle::Tried { cause, .. } => cause.unwrap_or(WaitCause::Capacity),
            Obstacle::Suspense(_)
            | Obstacle::AccountFull
            | Obstacle::PoolFull
            | Obstacle::Ramp(_)
            | Obstacle::BreakerOpen(_)
            | Obstacle::BreakerProbing
            | Obstacle::BreakerPacing(_)
            | Obstacle::Disabled
            | Obstacle::Leaving
            | Obstacle::OtherProfile
            | Obstacle::NotBrought
            | Obstacle::SignedThinking
            | Obstacle::NotRouted => WaitCause::Capacity,
        }
    }

    /// The reason in the form that leaves the scheduler.
    pub(crate) fn reason(&self, now: Now) -> PassedOver {
        match self {
            Obstacle::Disabled => PassedOver::Disabled,
            Obstacle::Leaving => PassedOver::Leaving,
            Obstacle::OtherProfile => PassedOver::OtherProfile,
            Obstacle::NotBrought => PassedOver::NotBrought,
            Obstacle::SignedThinking => PassedOver::SignedThinking,
            Obstacle::NotRouted => PassedOver::NotPinned,
            Obstacle::Tried { .. } => PassedOver::AlreadyTried,
            Obstacle::Block(block) | Obstacle::Rest(block) => {
                PassedOver::Blocked(block.reason.clone())
            }
            Obstacle::BlockBeingLooked(_) => PassedOver::BeingLooked,
            Obstacle::Suspense(_) => PassedOver::InSuspense,
            Obstacle::Window(window) | Obstacle::Limit(window)
                if window.full(now) == Full::Looked =>
            {
                PassedOver::BeingLooked
            }
            Obstacle::Limit(window) => {
                PassedOver::LimitReached { kind: window.kind.clone(), percent: window.percent() }
            }
            Obstacle::Window(window) => match &window.kind {
                WindowKind::SevenDay => PassedOver::WeekExhausted,
                WindowKind::SevenDayFamily(family) => PassedOver::FamilyExhausted(family.clone()),
                WindowKind::FiveHour
                | WindowKind::Tokens
                | WindowKind::Requests
                | WindowKind::Generic => {
                    PassedOver::WindowFull { kind: window.kind.clone(), percent: window.percent() }
                }
            },
            Obstacle::Overage { .. } => PassedOver::OverageInUse,
            Obstacle::AccountFull => PassedOver::AccountFull,
            Obstacle::PoolFull => PassedOver::PoolFull,
            Obstacle::Ramp(_) => PassedOver::Ramping,
            Obstacle::Brink(_) => PassedOver::AtBrink,
            Obstacle::ColdStart(_) => PassedOver::ColdStart,
            Obstacle::BreakerOpen(_) => PassedOver::BreakerOpen,
            Obstacle::BreakerProbing => PassedOver::BreakerProbing,
            Obstacle::BreakerPacing(_) => PassedOver::BreakerPacing,
        }
    }

    pub(crate) fn evidence(&self) -> Option<&Arc<Evidence>> {
        match self {
            Obstacle::Block(block) | Obstacle::Rest(block) | Obstacle::BlockBeingLooked(block) => {
                Some(&block.evidence)
            }
            _ => None,
        }
    }
}
