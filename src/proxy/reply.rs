//! Our own answers (P14) in the API's format, as a response or as an SSE event. Every text says
//! what happened, to what, and what to do; only enabled accounts are counted, and times are
//! durations.

use std::time::Duration;

use ureq::http::HeaderValue;

use super::classify::{self, Meaning};
use crate::clock::human;
use crate::event::labels;
use crate::http::answer_json::ApiError;
use crate::http::headers::{Headers, write_head};
use crate::http::peek::BODY_BYTES_MAX;
use crate::http::sse::{self, Form};
use crate::scheduler::{
    BlockReason, Kind, Limit, PassedOver, Refusal, RefusalReason, Standing, WaitCause,
};
use crate::server::{BodyError, DoorRefusal};

/// One of our own answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// HTTP status.
    pub(crate) status: u16,
    /// The error type of P14.
    pub(crate) kind: &'static str,
    /// What happened, to what, and what to do.
    pub(crate) message: String,
    /// When it is worth trying again.
    pub(crate) retry_after: Option<Duration>,
    /// `x-should-retry`.
    pub(crate) should_retry: bool,
    /// `error.details.error_code`.
    pub(crate) error_code: Option<&'static str>,
    /// `allow`, with 405.
    pub(crate) allow: Option<&'static str>,
    /// The connection is closed afterwards.
    pub(crate) close: bool,
}

impl Reply {
    pub(super) fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Reply {
        Reply {
            status,
            kind,
            message: message.into(),
            retry_after: None,
            should_retry: false,
            error_code: None,
            allow: None,
            close: false,
        }
    }

    /// The JSON body.
    pub(crate) fn body(&self) -> Vec<u8> {
        let error = ApiError {
            kind: self.kind.to_owned(),
            message: self.message.clone(),
            code: self.error_code.map(str::to_owned),
        };
        classify::body_of(&error)
    }

    /// All headers except framing (`content-length`, `connection`).
    pub(crate) fn headers(&self) -> Headers {
        let mut headers = Headers::default();
        headers.push("content-type", HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after {
            headers.push("retry-after", whole_seconds(wait));
        }
        let should_retry = if self.should_retry { "true" } else { "false" };
        headers.push("x-should-retry", HeaderValue::from_static(should_retry));
        if let Some(allow) = self.allow {
            headers.push("allow", HeaderValue::from_static(allow));
        }
        headers
    }

    /// The same as one SSE event, for a stream that has begun.
    pub(crate) fn event(&self) -> Vec<u8> {
        error_event(&self.body())
    }
}

impl From<DoorRefusal> for Reply {
    fn from(refusal: DoorRefusal) -> Reply {
        Reply { close: refusal.close, ..Reply::new(refusal.status, refusal.kind, refusal.message) }
    }
}

/// The whole response as bytes, for a connection that ends with it.
pub(crate) fn on_the_wire(reply: &Reply) -> Vec<u8> {
    let body = reply.body();
    let mut headers = reply.headers();
    headers.push("content-length", body.len() as u64);
    headers.push("connection", HeaderValue::from_static("close"));
    let mut out = Vec::new();
    write_head(reply.status, headers.iter(), &mut out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    out
}

/// An upstream's error answer as an event, for a stream that has begun (Q4). The API's format is
/// kept.
pub(crate) fn event_of_body(status: u16, body: &[u8]) -> Vec<u8> {
    let said = sse::read(Form::Json, body);
    let is_api_shape =
        said.stopped && said.error.as_ref().is_some_and(|error| !error.kind.is_empty());
    match serde_json::from_slice::<serde_json::Value>(body) {
        // Serialized again, because a line break would end the event's data.
        Ok(value) if is_api_shape => error_event(value.to_string().as_bytes()),
        _ => {
            let message =
                said.error.map(|error| error.message).filter(|message| !message.is_empty());
            let message =
                message.unwrap_or_else(|| format!("the upstream answered with status {status}"));
            Reply::new(status, classify::kind_of(status), message).event()
        }
    }
}

fn error_event(json: &[u8]) -> Vec<u8> {
    [b"event: error\ndata: ", json, b"\n\n"].concat()
}

/// There is no room for another connection.
pub(crate) fn crowded() -> Reply {
    Reply {
        retry_after: Some(Duration::from_secs(1)),
        should_retry: true,
        ..closing(Reply::new(
            503,
            UNREACHABLE,
            "maxpool has reached its limit of connections (proxy.maxConnections, or the limit on \
             open files); close some, or raise the limit",
        ))
    }
}

/// The body is too large (P4).
pub(crate) fn body_too_large(bytes_max: u64) -> Reply {
    let mib = bytes_max / (1024 * 1024);
    closing(Reply::new(
        413,
        INVALID,
        format!("the request body is larger than {mib} MiB, the limit of maxpool"),
    ))
}

/// The body is too large (P4), or it stalled, was truncated or has an invalid chunked encoding
/// (P2).
pub(crate) fn bad_body(error: BodyError) -> Reply {
    let torn = "the request body did not arrive whole: it stalled, broke off or was malformed";
    match error {
        BodyError::TooLarge => body_too_large(BODY_BYTES_MAX),
        BodyError::Broken => closing(Reply::new(400, INVALID, torn)),
    }
}

/// S8: no account has the requested profile.
pub(crate) fn unknown_profile(profile: &str) -> Reply {
    let shown: String =
        profile.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
    let text = format!(
        "no account has the profile {shown} named in x-maxpool-profile; see `maxpool accounts`"
    );
    Reply::new(400, INVALID, text)
}

/// The account's upstream and the request's path do not form a valid address.
pub(crate) fn bad_target() -> Reply {
    closing(Reply::new(400, INVALID, "the upstream and the request target form no valid URL"))
}

/// Only providers are left, and the body could not be parsed (P9).
pub(crate) fn unread_body() -> Reply {
    Reply::new(
        400,
        INVALID,
        "the body is not a complete JSON object, so it may contain signed thinking, which must \
         not be sent to a provider; no Claude account can serve now",
    )
}

/// An invalid provider header (V1); `why` names it.
pub(crate) fn bad_header(why: &str) -> Reply {
    Reply::new(400, INVALID, why)
}

/// Too many different tokens for this account are in use (V1).
pub(crate) fn too_many_tokens(name: &str) -> Reply {
    let message =
        format!("too many clients use {name} with different tokens at once; try again in a moment");
    Reply { should_retry: true, ..Reply::new(429, "rate_limit_error", message) }
}

/// A control route was called in the wrong way (P1).
pub(crate) fn bad_control(why: &str) -> Reply {
    Reply::new(400, INVALID, why)
}

/// A control route could not do what it was asked to.
pub(crate) fn control_failed(why: &str) -> Reply {
    Reply::new(500, "proxy_error", why)
}

/// 404.
pub(crate) fn not_found(what: &str) -> Reply {
    Reply::new(404, "not_found_error", what)
}

/// 405 (P1).
pub(crate) fn wrong_method(allow: &'static str) -> Reply {
    let message = format!("this route accepts {}", allow.replace(", ", " and "));
    Reply { allow: Some(allow), ..Reply::new(405, INVALID, message) }
}

/// The process is stopping (R1, R2). The connection is closed too, or the client would return to
/// this process.
pub(crate) fn restarting() -> Reply {
    Reply {
        retry_after: Some(Duration::from_secs(1)),
        should_retry: true,
        close: true,
        ..Reply::new(
            503,
            "restart_in_progress",
            "maxpool is stopping or restarting; retry in a second",
        )
    }
}

/// There was no answer: `code` is a word such as `refused`, `text` the system's error text (P7).
pub(crate) fn network(code: &str, text: &str) -> Reply {
    let what = match code {
        "dns" => "the upstream's name could not be resolved",
        "refused" => "the upstream refused the connection",
        "unreachable" => "the upstream is unreachable",
        "reset" => "the upstream closed the connection before it answered",
        "timeout" => "the upstream did not answer in time",
        "tls" => "no TLS connection to the upstream could be established",
        "garbage" => "the upstream's answer is not valid HTTP",
        _ => "the upstream could not be reached",
    };
    let message = format!(
        "{what} ({code}{}{text}); this is a network failure, not a limit: try again in a moment",
        separator(text)
    );
    Reply { should_retry: true, ..Reply::new(503, UNREACHABLE, message) }
}

/// The request could not be sent or its answer not be used, and no account or network is to blame.
pub(crate) fn nobodys_fault(text: &str) -> Reply {
    Reply {
        should_retry: true,
        ..Reply::new(502, "proxy_error", format!("{text}; this is not the fault of an account"))
    }
}

/// The API says that the account itself cannot be used, and no other account could serve (P7).
pub(crate) fn account_refused(from: &str, meaning: &Meaning) -> Reply {
    let said = meaning.message.trim_end_matches('.');
    let message = format!(
        "the API refuses the account {from} (status {}): {said}; see `maxpool status`",
        meaning.status
    );
    Reply::new(502, "account_auth_error", message)
}

/// Every account got a 403 that concerns none of them (P7).
pub(crate) fn forbidden(meaning: &Meaning) -> Reply {
    let message = format!(
        "the API, or something between it and maxpool, forbids this request on every account that \
         was tried (status 403{}{}); no account is set aside",
        separator(&meaning.message),
        meaning.message
    );
    Reply::new(502, "proxy_error", message)
}

/// The upstream's answer to a messages request was not a message (P6).
pub(crate) fn no_answer(from: &str, what: &str) -> Reply {
    let message = format!("{what} (account {from}); try again in a moment");
    Reply { should_retry: true, ..Reply::new(502, "proxy_error", message) }
}

/// An account's credential was refused and no other account could serve (P7). `said` is the
/// upstream's or our own reason.
pub(crate) fn credential(kind: Kind, from: &str, said: &str) -> Reply {
    let (error, cure) = match kind {
        Kind::Oauth => ("account_auth_error", "run `maxpool login` to sign in again"),
        Kind::ApiKey => ("account_auth_error", "store a working key with `maxpool login --api`"),
        Kind::Provider => ("provider_auth_error", "correct its token"),
    };
    // The API ends its sentences with a full stop, and ours continues.
    let said = said.trim_end_matches('.');
    let what = if said.contains(from) {
        said.to_owned()
    } else {
        format!("the credential of {from} was refused{}{said}", separator(said))
    };
    Reply::new(502, error, format!("{what}; {cure}"))
}

/// The last account's error, if its own answer cannot be passed on.
pub(crate) fn upstream_said(meaning: &Meaning) -> Reply {
    let kind = match meaning.status {
        status @ (401 | 403) => {
            return Reply::new(
                502,
                "account_auth_error",
                said_by_upstream(status, &meaning.message),
            );
        }
        500..=599 => OVERLOADED,
        status => classify::kind_of(status),
    };
    let should_retry = meaning.status == 429 || meaning.status >= 500;
    Reply {
        should_retry,
        ..Reply::new(meaning.status, kind, said_by_upstream(meaning.status, &meaning.message))
    }
}

fn said_by_upstream(status: u16, message: &str) -> String {
    format!("the upstream answered with status {status}{}{message}", separator(message))
}

/// The answer is not an event stream, but our heartbeats have already started one (Q4).
pub(crate) fn not_a_stream(status: u16) -> Reply {
    let message = format!(
        "the upstream answered a streaming request with status {status} and no event stream"
    );
    Reply { should_retry: true, ..Reply::new(502, "proxy_error", message) }
}

/// A stream broke off after its first byte (P6).
pub(crate) fn broken_stream(account: &str, why: &str) -> Reply {
    let message = format!("the answer broke off in the middle (account {account}): {why}");
    Reply { should_retry: true, ..Reply::new(503, UNREACHABLE, message) }
}

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

/// Rounded up to at least one second.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn separator(text: &str) -> &'static str {
    if text.is_empty() { "" } else { ": " }
}

fn closing(reply: Reply) -> Reply {
    Reply { close: true, ..reply }
}

/// The server logs the same words at start (R4).
pub(crate) const NO_ACCOUNT: &str = "there is no usable account: add one with `maxpool login` or \
                                     `maxpool login --api`; a running server picks it up without a \
                                     restart";

const INVALID: &str = "invalid_request_error";
const RATE_LIMIT: &str = "rate_limit_error";
const OVERLOADED: &str = "overloaded_error";
const UNREACHABLE: &str = "connection_unavailable";
/// Accounts named in one message.
const LISTED_MAX: usize = 6;
/// The longest `retry-after` that Claude Code waits for.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
