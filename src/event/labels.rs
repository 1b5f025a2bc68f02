//! One word for each value of the scheduler's enums, shared by the log, the status, the metrics and
//! the explanations.

use crate::scheduler::quota::{Verdict, WindowKind};
use crate::scheduler::{
    Avoided, BlockReason, Effect, ExplainedVerdict, Kind, LiftedBy, PassedOver, RefusalReason,
    RouteClass, Scope, Source, Status, Tier,
};
use crate::scheduler::{WaitCause, Why};

/// All kinds of accounts, in counter order.
pub(crate) const KINDS: [Kind; 3] = [Kind::Oauth, Kind::ApiKey, Kind::Provider];

/// The config's word (`type`).
pub(crate) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Oauth => "oauth",
        Kind::ApiKey => "apikey",
        Kind::Provider => "provider",
    }
}

/// The words of P1.
pub(crate) fn status(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Throttled => "throttled",
        Status::Exhausted => "exhausted",
        Status::Error => "error",
    }
}

/// The words of S4; `unknown` without a weekly value.
pub(crate) fn tier(tier: Option<Tier>) -> &'static str {
    match tier {
        None => "unknown",
        Some(Tier::Normal) => "normal",
        Some(Tier::Soft) => "soft",
        Some(Tier::Reserve) => "reserve",
        Some(Tier::Critical) => "critical",
        Some(Tier::Exhausted) => "exhausted",
    }
}

/// The upstream's word.
pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::AllowedWarning => "allowed_warning",
        Verdict::Rejected => "rejected",
    }
}

/// The upstream's name for the window.
pub(crate) fn window(window: &WindowKind) -> String {
    match window {
        WindowKind::FiveHour => "five_hour".into(),
        WindowKind::SevenDay => "seven_day".into(),
        WindowKind::SevenDayFamily(family) => format!("seven_day_{}", family.0),
        WindowKind::Tokens => "tokens".into(),
        WindowKind::Requests => "requests".into(),
        WindowKind::Generic => "generic".into(),
    }
}

/// Where the value of a window came from.
pub(crate) fn source(source: Source) -> &'static str {
    match source {
        Source::Answer => "answer",
        Source::Probe => "probe",
        Source::Restored => "state file",
    }
}

/// All reasons of blocks, as labels of the metrics.
pub(crate) const BLOCK_REASONS: [&str; 12] = [
    "quota",
    "server_side",
    "overloaded",
    "server_error",
    "network",
    "forbidden",
    "credential_refused",
    "needs_login",
    "refresh_failed",
    "refresh_network",
    "unusable",
    "model_missing",
];

/// The label of a block's reason. A quota block also has a window, see [`block_window`].
pub(crate) fn block_reason(reason: &BlockReason) -> &'static str {
    match reason {
        BlockReason::Quota(_) => "quota",
        BlockReason::ServerSide => "server_side",
        BlockReason::Overloaded => "overloaded",
        BlockReason::ServerError => "server_error",
        BlockReason::Network => "network",
        BlockReason::Forbidden => "forbidden",
        BlockReason::CredentialRefused => "credential_refused",
        BlockReason::NeedsLogin => "needs_login",
        BlockReason::RefreshFailed => "refresh_failed",
        BlockReason::RefreshNetwork => "refresh_network",
        BlockReason::Unusable => "unusable",
        BlockReason::ModelMissing => "model_missing",
    }
}

/// The window of a quota block, if the upstream named one.
pub(crate) fn block_window(reason: &BlockReason) -> Option<String> {
    match reason {
        BlockReason::Quota(named) => named.as_ref().map(window),
        BlockReason::ServerSide
        | BlockReason::Overloaded
        | BlockReason::ServerError
        | BlockReason::Network
        | BlockReason::Forbidden
        | BlockReason::CredentialRefused
        | BlockReason::Unusable
        | BlockReason::ModelMissing
        | BlockReason::NeedsLogin
        | BlockReason::RefreshFailed
        | BlockReason::RefreshNetwork => None,
    }
}

/// A block's reason for display.
pub(crate) fn block_phrase(reason: &BlockReason) -> String {
    match reason {
        BlockReason::Quota(Some(WindowKind::FiveHour)) => "five-hour limit reached".into(),
        BlockReason::Quota(Some(WindowKind::SevenDay)) => "weekly limit reached".into(),
        BlockReason::Quota(Some(WindowKind::SevenDayFamily(family))) => {
            format!("weekly limit of {} reached", family.0)
        }
        BlockReason::Quota(Some(WindowKind::Tokens)) => "token limit reached".into(),
        BlockReason::Quota(Some(WindowKind::Requests)) => "request limit reached".into(),
        BlockReason::Quota(Some(WindowKind::Generic) | None) => "limit reached".into(),
        BlockReason::ServerSide => "set aside: the API is limiting requests for a moment".into(),
        BlockReason::Overloaded => "set aside: the API is overloaded".into(),
        BlockReason::ServerError => "cooldown after a server error".into(),
        BlockReason::Network => "cooldown after a network failure".into(),
        BlockReason::Forbidden => "answered 403 to a request that another account served".into(),
        BlockReason::CredentialRefused => "refused by the API".into(),
        BlockReason::Unusable => "the API says the account cannot be used".into(),
        BlockReason::ModelMissing => "does not have this model".into(),
        BlockReason::NeedsLogin => "needs login".into(),
        BlockReason::RefreshFailed => "token refresh failed".into(),
        BlockReason::RefreshNetwork => "token endpoint not reached".into(),
    }
}

/// The model or model family that a block applies to; `None` if it applies to all.
pub(crate) fn scope(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Account | Scope::Class(_) => None,
        Scope::Family(family) => Some(&family.0),
        Scope::Model(model) => Some(model),
    }
}

/// The route class that a block applies to; `None` if it applies to all.
pub(crate) fn block_class(scope: &Scope) -> Option<&'static str> {
    match scope {
        Scope::Account => None,
        Scope::Class(class) => Some(route_class(*class)),
        Scope::Family(_) | Scope::Model(_) => Some(route_class(RouteClass::Messages)),
    }
}

/// The route classes of P3.
pub(crate) fn route_class(class: RouteClass) -> &'static str {
    match class {
        RouteClass::Messages => "messages",
        RouteClass::CountTokens => "count_tokens",
        RouteClass::Models => "models",
        RouteClass::Rest => "other",
    }
}

/// The effect of a block.
pub(crate) fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Out => "out",
        Effect::Avoided => "avoided",
    }
}

/// What lifts a block, apart from `maxpool retry`.
pub(crate) fn lifted_by(by: LiftedBy) -> &'static str {
    match by {
        LiftedBy::Time => "its end",
        LiftedBy::TimeOrReading => {
            "its end, a usage reading that shows room, or one request every six hours"
        }
        LiftedBy::Look => "one successful request after its end",
        LiftedBy::UnrelatedRequest => "an unrelated request that succeeds",
        LiftedBy::Login => "a new login",
    }
}

/// The classes of waiting (Q1).
pub(crate) fn wait_cause(cause: WaitCause) -> &'static str {
    match cause {
        WaitCause::Quota => "quota",
        WaitCause::Weekly => "weekly",
        WaitCause::Capacity => "capacity",
        WaitCause::Network => "network",
        WaitCause::Credential => "credential",
    }
}

/// Why an account was passed over, for display.
pub(crate) fn passed_over(reason: &PassedOver) -> String {
    match reason {
        PassedOver::Disabled => "disabled".into(),
        PassedOver::Leaving => "removed, finishing its requests".into(),
        PassedOver::OtherProfile => "not in this profile".into(),
        PassedOver::NotBrought => "only for requests whose headers name it".into(),
        PassedOver::SignedThinking => "a provider cannot take signed thinking".into(),
        PassedOver::NotPinned => {
            "the request names something that belongs to another account".into()
        }
        PassedOver::AlreadyTried => "already tried by this request".into(),
        PassedOver::InSuspense => "refused this request, which will try it again later".into(),
        PassedOver::Blocked(reason) => block_phrase(reason),
        PassedOver::WindowFull { kind, percent } => {
            format!("{} used up, {percent}% used", window_name(kind))
        }
        PassedOver::LimitReached { kind, percent } => {
            format!("{} at your own limit, {percent}% used", window_name(kind))
        }
        PassedOver::WeekExhausted => "week used up".into(),
        PassedOver::FamilyExhausted(family) => format!("week of {} used up", family.0),
        PassedOver::OverageInUse => "paid extra usage is in use".into(),
        PassedOver::BeingLooked => {
            "another request is checking whether its limit still holds".into()
        }
        PassedOver::AccountFull => "at its limit of concurrent requests".into(),
        PassedOver::PoolFull => "the pool is at its limit of concurrent requests".into(),
        PassedOver::Ramping => "taking over requests one by one".into(),
        PassedOver::AtBrink => "its requests in flight may use up its limit".into(),
        PassedOver::ColdStart => "takes few new sessions while requests wait".into(),
        PassedOver::BreakerOpen => "breaker open".into(),
        PassedOver::BreakerProbing => "breaker: one request is probing the API".into(),
        PassedOver::BreakerPacing => "breaker: requests follow one by one".into(),
    }
}

fn window_name(kind: &WindowKind) -> String {
    match kind {
        WindowKind::FiveHour => "five-hour window".to_owned(),
        WindowKind::SevenDay
        | WindowKind::SevenDayFamily(_)
        | WindowKind::Tokens
        | WindowKind::Requests
        | WindowKind::Generic => format!("{} window", window(kind)),
    }
}

/// Why an account is used only when no other can serve, for display.
pub(crate) fn avoided(reason: &Avoided) -> String {
    match reason {
        Avoided::Near { kind, percent } => {
            let limit = match kind {
                WindowKind::FiveHour => "five-hour".to_owned(),
                WindowKind::SevenDay => "weekly".to_owned(),
                WindowKind::SevenDayFamily(family) => format!("weekly {}", family.0),
                WindowKind::Tokens | WindowKind::Requests | WindowKind::Generic => {
                    window(kind).to_string()
                }
            };
            format!("near its {limit} limit: used last ({percent}% used)")
        }
        Avoided::PaidOverage => "on paid extra usage: used last of all".into(),
        Avoided::Suspected => {
            "refused a request without saying why: used last until it serves another one".into()
        }
        Avoided::Forbidden => {
            "answered 403 to a request that another account served: used last".into()
        }
    }
}

/// The same in about eight letters, for a narrow column that also holds a countdown.
pub(crate) fn passed_over_short(reason: &PassedOver) -> String {
    match reason {
        PassedOver::Disabled => "disabled".into(),
        PassedOver::Leaving => "leaving".into(),
        PassedOver::OtherProfile
        | PassedOver::NotBrought
        | PassedOver::SignedThinking
        | PassedOver::NotPinned
        | PassedOver::AlreadyTried
        | PassedOver::InSuspense => "not for this".into(),
        PassedOver::Blocked(reason) => block_short(reason).into(),
        PassedOver::WindowFull { kind, .. } | PassedOver::LimitReached { kind, .. } => match kind {
            WindowKind::FiveHour => "5h full".into(),
            WindowKind::SevenDay | WindowKind::SevenDayFamily(_) => "week full".into(),
            WindowKind::Tokens | WindowKind::Requests | WindowKind::Generic => "limit".into(),
        },
        PassedOver::WeekExhausted => "weekly".into(),
        PassedOver::FamilyExhausted(family) => format!("no {}", family.0),
        PassedOver::OverageInUse => "overage".into(),
        PassedOver::BeingLooked => "checking".into(),
        PassedOver::AccountFull => "full".into(),
        PassedOver::PoolFull => "pool full".into(),
        PassedOver::Ramping => "ramping".into(),
        PassedOver::AtBrink | PassedOver::ColdStart => "careful".into(),
        PassedOver::BreakerOpen | PassedOver::BreakerProbing | PassedOver::BreakerPacing => {
            "breaker".into()
        }
    }
}

fn block_short(reason: &BlockReason) -> &'static str {
    match reason {
        BlockReason::Quota(Some(WindowKind::SevenDay | WindowKind::SevenDayFamily(_))) => "weekly",
        BlockReason::Quota(_) => "limited",
        BlockReason::ServerSide => "aside",
        BlockReason::Overloaded => "overload",
        BlockReason::ServerError => "cooldown",
        BlockReason::Network => "offline",
        BlockReason::Forbidden => "forbidden",
        BlockReason::CredentialRefused => "refused",
        BlockReason::Unusable => "unusable",
        BlockReason::ModelMissing => "no model",
        BlockReason::NeedsLogin => "needs login",
        BlockReason::RefreshFailed | BlockReason::RefreshNetwork => "refresh",
    }
}

/// The rule by which an account was chosen.
pub(crate) fn why(why: Why) -> &'static str {
    match why {
        Why::Pinned => "pinned",
        Why::Thread => "thread",
        Why::Preferred => "preferred",
        Why::Home => "home",
        Why::Current => "current",
        Why::Score(_) => "score",
        Why::LongLook => "look",
    }
}

/// The outcome of a decision, in one word.
pub(crate) fn explained(verdict: &ExplainedVerdict) -> &'static str {
    match verdict {
        ExplainedVerdict::Chosen(_, rule) => why(*rule),
        ExplainedVerdict::Wait(cause, _) => match cause {
            WaitCause::Quota => "waits: quota",
            WaitCause::Weekly => "waits: weekly",
            WaitCause::Capacity => "waits: capacity",
            WaitCause::Network => "waits: network",
            WaitCause::Credential => "waits: credential",
        },
        ExplainedVerdict::Refuse(reason) => match reason {
            RefusalReason::NoAccount => "refused: no account",
            RefusalReason::UnknownProfile => "refused: no account has this profile",
            RefusalReason::NoneEnabled => "refused: all accounts are disabled",
            RefusalReason::Limited(_) => "refused: all accounts are limited",
            RefusalReason::CredentialsOnly(_) => "refused: no account has a working credential",
            RefusalReason::QueueFull => "refused: the queue is full",
            RefusalReason::TooLargeToHold(_) => "refused: too large to hold",
            RefusalReason::ThinkingNeedsClaude => "refused: signed thinking needs a Claude account",
            RefusalReason::ThreadElsewhere => "refused: the thread's account cannot serve",
            RefusalReason::Draining => "refused: going away",
            RefusalReason::AttemptsExhausted => "refused: no attempts left",
        },
    }
}
