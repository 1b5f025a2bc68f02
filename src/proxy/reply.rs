//! Our own answers (P14) in the API's format, as a response or as an SSE event. Every text says
//! what happened, to what, and what to do; only enabled accounts are counted, and times are
//! durations.

use std::time::Duration;

use ureq::http::HeaderValue;

use super::classify::{self, Meaning};
use crate::http::answer_json::ApiError;
use crate::http::headers::{Headers, write_head};
use crate::http::peek::BODY_BYTES_MAX;
use crate::http::sse::{self, Form};
use crate::scheduler::Kind;
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

pub(super) const INVALID: &str = "invalid_request_error";
pub(super) const RATE_LIMIT: &str = "rate_limit_error";
pub(super) const OVERLOADED: &str = "overloaded_error";
pub(super) const UNREACHABLE: &str = "connection_unavailable";

#[cfg(test)]
#[path = "reply_tests.rs"]
pub(super) mod tests;
