//! Our own answers (P14) to a request that gets no account: what the accounts wait for, which they
//! are, and when the first one is back.

use std::time::Duration;

use super::reply::{INVALID, OVERLOADED, RATE_LIMIT, Reply, UNREACHABLE, restarting};
use crate::clock::human;
use crate::event::labels;
use crate::scheduler::{
    BlockReason, Kind, Limit, PassedOver, Refusal, RefusalReason, Standing, WaitCause,
};

/// The scheduler has no account for a request.
pub(crate) fn refused(refusal: &Refusal) -> Reply {
    match &refusal.reason {
        RefusalReason::NoAccount => Reply::new(503, "proxy_error", NO_ACCOUNT),
        RefusalReason::UnknownProfile => Reply::new(
            400,
            INVALID,
            "no account has the profile named in x-maxpool-profile; see `maxpool accounts`",
        ),
        RefusalReason::NoneEnabled => {
            let message = "every account that could serve this is disabled; enable one with \
                           `maxpool enable NAME`";
            Reply::new(503, "proxy_error", message)
        }
        RefusalReason::Limited(cause) => limited(*cause, refusal, ""),
        RefusalReason::CredentialsOnly(names) => credentials_only(names, refusal),
        RefusalReason::QueueFull => {
            let message =
                format!("queue full: too many requests are already waiting{}", when(refusal));
            let reply = Reply::new(429, RATE_LIMIT, message);
            Reply { retry_after: refusal.wait, should_retry: true, ..reply }
        }
        RefusalReason::TooLargeToHold(cause) => {
            limited(*cause, refusal, "; a body above queue.maxQueuedBodyBytes is not held")
        }
        RefusalReason::ThinkingNeedsClaude => thinking(refusal),
        RefusalReason::ThreadElsewhere => {
            let message =
                "the account that holds this thread cannot serve now; send the whole conversation";
            Reply {
                error_code: Some("thread_unsupported_request"),
                ..Reply::new(400, INVALID, message)
            }
        }
        RefusalReason::Draining => restarting(),
        RefusalReason::AttemptsExhausted => match refusal.cause {
            Some(cause) => {
                limited(cause, refusal, "; retry.maxAttemptsPerRequest attempts were made")
            }
            None => {
                let message = format!("all allowed attempts have failed{}", details(refusal));
                Reply::new(502, "proxy_error", message)
            }
        },
    }
}

/// A wait ended without an account (Q1, Q6).
pub(crate) fn expired(limit: Limit, refusal: &Refusal) -> Reply {
    let reply = refused(refusal);
    match limit {
        // This exact answer makes Claude Code ask again at once, and it then gets its old place.
        Limit::ClientTolerance => Reply {
            status: 529,
            kind: OVERLOADED,
            message: format!(
                "still waiting for an account: {}; retry at once to keep the place in the queue",
                reply.message
            ),
            retry_after: Some(Duration::from_secs(1)),
            should_retry: true,
            error_code: None,
            ..reply
        },
        // "Overloaded" would invite the client to wait once more.
        Limit::WaitLimit if reply.kind == OVERLOADED => {
            Reply { status: 429, kind: RATE_LIMIT, message: gave_up(&reply.message), ..reply }
        }
        Limit::WaitLimit | Limit::Suspense => Reply { message: gave_up(&reply.message), ..reply },
    }
}

fn gave_up(message: &str) -> String {
    format!("gave up waiting: {message}")
}

/// Every route is out for a reason that ends by itself.
fn limited(cause: WaitCause, refusal: &Refusal, also: &str) -> Reply {
    let (status, kind, what) = match cause {
        WaitCause::Quota => (429, RATE_LIMIT, "no account has quota left"),
        WaitCause::Weekly => (429, RATE_LIMIT, "every account has used up its week"),
        WaitCause::Capacity => (
            529,
            OVERLOADED,
            "no account can serve now: the API is limiting or failing, or the proxy's own limits \
             are reached",
        ),
        WaitCause::Network => (503, UNREACHABLE, "no account's upstream can be reached"),
        WaitCause::Credential => (
            502,
            "account_auth_error",
            "the API refuses the credential of every account that could serve",
        ),
    };
    let message = format!("{what}{}{}{also}", when(refusal), details(refusal));
    Reply {
        retry_after: refusal.wait,
        should_retry: is_soon(cause, refusal.wait),
        ..Reply::new(status, kind, message)
    }
}

/// Only providers are left, and they must not see this conversation (P9).
fn thinking(refusal: &Refusal) -> Reply {
    const WHAT: &str =
        "this conversation contains signed thinking, which must not be sent to a provider";
    match refusal.cause {
        Some(cause) => {
            let claude = limited(cause, refusal, "");
            Reply { message: format!("{WHAT}; {}", claude.message), ..claude }
        }
        None => Reply::new(
            503,
            "proxy_error",
            format!("{WHAT}, and no Claude account can serve{}", details(refusal)),
        ),
    }
}

fn credentials_only(names: &[impl AsRef<str>], refusal: &Refusal) -> Reply {
    let all = |reason: BlockReason| {
        let reason = PassedOver::Blocked(reason);
        !refusal.accounts.is_empty() && refusal.accounts.iter().all(|one| one.reason == reason)
    };
    let said = || refusal.accounts.iter().find_map(|one| one.evidence.clone());
    if all(BlockReason::ModelMissing) {
        let said = said().map_or_else(String::new, |evidence| evidence.message.to_string());
        return Reply::new(404, "not_found_error", said);
    }
    if all(BlockReason::Unusable) {
        let message = format!("the API refuses every account that could serve{}", details(refusal));
        return Reply::new(502, "account_auth_error", message);
    }
    let named = |standing: &&Standing| names.iter().any(|name| name.as_ref() == &*standing.name);
    let concerned: Vec<&Standing> = refusal.accounts.iter().filter(named).collect();
    let has = |kind: Kind| concerned.iter().any(|standing| standing.kind == kind);
    let only_providers = has(Kind::Provider) && !has(Kind::Oauth) && !has(Kind::ApiKey);
    let kind = if only_providers { "provider_auth_error" } else { "account_auth_error" };
    let cures = [
        (has(Kind::Oauth), "run `maxpool login` to sign in again"),
        (has(Kind::ApiKey), "store a working key with `maxpool login --api`"),
        (has(Kind::Provider), "correct the provider's token"),
    ];
    let cures: Vec<&str> =
        cures.into_iter().filter(|(applies, _)| *applies).map(|(_, cure)| cure).collect();
    let cures =
        if cures.is_empty() { "run `maxpool accounts`".to_owned() } else { cures.join(", or ") };
    let who: Vec<String> = if concerned.is_empty() {
        names.iter().map(|name| name.as_ref().to_owned()).collect()
    } else {
        concerned.iter().map(|standing| shown(standing)).collect()
    };
    // An account that only rests after a 401 may come back without anybody's action.
    let rests = |standing: &&&Standing| {
        standing.reason == PassedOver::Blocked(BlockReason::CredentialRefused)
    };
    let retry_after = concerned.iter().filter(rests).filter_map(|standing| standing.wait).min();
    let message = format!("no account has a working credential ({}): {cures}", listed(&who));
    // Clients obey a `retry-after` of up to a minute.
    let should_retry = retry_after.is_some_and(|wait| wait <= Duration::from_secs(60));
    Reply { retry_after, should_retry, ..Reply::new(502, kind, message) }
}

/// When the first account comes back.
fn when(refusal: &Refusal) -> String {
    match (refusal.wait, refusal.accounts.len()) {
        (Some(wait), 0 | 1) => format!("; back in {}", human(wait)),
        (Some(wait), count) => format!("; the first of {count} is back in {}", human(wait)),
        (None, 0) => String::new(),
        (None, 1) => "; it is not known when it will be back".to_owned(),
        (None, count) => format!("; it is not known when the first of {count} will be back"),
    }
}

/// Which account is out for which reason.
fn details(refusal: &Refusal) -> String {
    if refusal.accounts.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = refusal.accounts.iter().map(shown).collect();
    format!(" ({})", listed(&shown))
}

fn shown(standing: &Standing) -> String {
    let reason = labels::passed_over(&standing.reason);
    let said = standing
        .evidence
        .as_ref()
        .map(|evidence| &*evidence.message)
        .filter(|_| is_said(&standing.reason));
    let said = said
        .filter(|said| !said.is_empty())
        .map(|said| format!(", \"{said}\""))
        .unwrap_or_default();
    match standing.wait {
        Some(wait) => format!("{}: {reason}, in {}{said}", standing.name, human(wait)),
        None => format!("{}: {reason}{said}", standing.name),
    }
}

/// Whether the upstream's message says more than the reason does.
fn is_said(reason: &PassedOver) -> bool {
    matches!(
        reason,
        PassedOver::Blocked(
            BlockReason::CredentialRefused | BlockReason::Unusable | BlockReason::ModelMissing
        )
    )
}

fn listed(parts: &[String]) -> String {
    let mut text = parts.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join("; ");
    if let Some(more) = parts.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// Whether it is worth coming back: a client waits a minute at most, so for a longer wait it is
/// not, but for an unknown one it may be.
fn is_soon(cause: WaitCause, wait: Option<Duration>) -> bool {
    match (wait, cause) {
        (Some(wait), _) => wait <= RETRY_WAIT_MAX,
        (None, WaitCause::Capacity | WaitCause::Network) => true,
        (None, WaitCause::Quota | WaitCause::Weekly | WaitCause::Credential) => false,
    }
}

/// The server logs the same words at start (R4).
pub(crate) const NO_ACCOUNT: &str = "there is no usable account: add one with `maxpool login` or \
                                     `maxpool login --api`; a running server picks it up without a \
                                     restart";

/// Accounts named in one message.
const LISTED_MAX: usize = 6;
/// The longest `retry-after` that Claude Code waits for.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
#[path = "no_account_tests.rs"]
mod tests;
