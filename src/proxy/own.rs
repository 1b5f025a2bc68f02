//! The answers of our own that need no judgement: fixed words for fixed causes (SPEC P14).

use std::time::Duration;

use super::classify::Judgement;
use super::reply::Reply;
use crate::scheduler::{Kind, Limit, Refusal};

/// An answer that ends its connection: the request's framing, or what is left of it, cannot be trusted.
fn closing(status: u16, kind: &'static str, message: impl Into<String>) -> Reply {
    Reply { close: true, ..plain(status, kind, message) }
}

fn plain(status: u16, kind: &'static str, message: impl Into<String>) -> Reply {
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

/// The request's head did not end in time (SPEC P2).
pub(crate) fn head_too_slow() -> Reply {
    closing(400, "invalid_request_error", "the request's head did not end within 10 s")
}

/// A version of HTTP that is not spoken (SPEC P2).
pub(crate) fn version_unsupported() -> Reply {
    closing(505, "invalid_request_error", "only HTTP/1.0 and HTTP/1.1 are spoken here")
}

/// The body ended before its announced end, stalled, or was badly framed.
pub(crate) fn body_broken() -> Reply {
    closing(400, "invalid_request_error", "the request's body ended early, stalled for 30 s, or was badly framed")
}

/// A larger body than `limit` (SPEC P4).
pub(crate) fn body_too_large(limit: u64) -> Reply {
    let text = format!("the request's body is larger than the {} MiB that maxpool takes", limit >> 20);
    closing(413, "invalid_request_error", text)
}

/// The target cannot be joined to the upstream's URL.
pub(crate) fn bad_target() -> Reply {
    plain(400, "invalid_request_error", "the request's target is not a valid path")
}

/// A header of the request cannot be used.
pub(crate) fn bad_header(why: &str) -> Reply {
    plain(400, "invalid_request_error", why)
}

/// A control route was asked for something that it does not do.
pub(crate) fn bad_control(why: &str) -> Reply {
    plain(400, "invalid_request_error", why)
}

/// No such thing here.
pub(crate) fn not_found(what: &str) -> Reply {
    plain(404, "not_found_error", what)
}

/// Another method is needed; `allow` lists them.
pub(crate) fn wrong_method(allow: &'static str) -> Reply {
    Reply { allow: Some(allow), ..plain(405, "invalid_request_error", format!("this route takes {allow} only")) }
}

/// A control route could not do what it was asked for.
pub(crate) fn control_failed(error: &crate::error::Error) -> Reply {
    match error.fault() {
        crate::error::Fault::Client => plain(400, "invalid_request_error", error.to_string()),
        crate::error::Fault::Operator | crate::error::Fault::Upstream | crate::error::Fault::Ours => {
            plain(500, "proxy_error", error.to_string())
        }
    }
}

/// The process is ending; another takes over at once (SPEC P14).
pub(crate) fn restarting() -> Reply {
    Reply {
        retry_after: Some(Duration::from_secs(1)),
        should_retry: true,
        ..closing(503, "restart_in_progress", "maxpool is stopping or restarting; try again")
    }
}

/// After heartbeats only an event stream can follow, and the upstream sent something else (SPEC Q4).
pub(crate) fn not_a_stream(status: u16) -> Reply {
    let text = format!("the upstream answered {status} without an event stream to a request for one");
    Reply { should_retry: true, ..plain(502, "proxy_error", text) }
}

/// The answer broke after its first byte (SPEC P6).
pub(crate) fn broken_stream(account: &str, why: &str) -> Reply {
    Reply { should_retry: true, ..plain(502, "api_error", format!("the answer from {account} broke off: {why}")) }
}

/// The upstream's error in our form, where its own bytes cannot be passed on.
pub(crate) fn upstream_said(judgement: &Judgement) -> Reply {
    let kind = super::classify::kind_of(judgement.status);
    plain(judgement.status, kind, format!("the upstream said: {}", judgement.error.message))
}

/// No upstream could be reached (SPEC P7): `why` names the code.
pub(crate) fn network(why: &str) -> Reply {
    let text = format!("the upstream cannot be reached: {why}; this is the network, not a limit");
    Reply { should_retry: true, ..plain(503, "connection_unavailable", text) }
}

/// The credential of the last account is refused or missing (SPEC P7).
pub(crate) fn credential(kind: Kind, account: &str, why: &str) -> Reply {
    match kind {
        Kind::Oauth => {
            let text = format!("the account {account} cannot be used: {why}; run `maxpool login` to sign in again");
            plain(502, "account_auth_error", text)
        }
        Kind::ApiKey => {
            let text = format!("the API key {account} cannot be used: {why}; replace it with `maxpool login --api`");
            plain(502, "account_auth_error", text)
        }
        Kind::Provider => {
            plain(502, "provider_auth_error", format!("the provider {account} cannot be used: {why}; correct its credential"))
        }
    }
}

/// An upstream's error body as an event, for a stream that has begun with heartbeats (SPEC P6).
pub(crate) fn event_of_body(status: u16, body: &[u8]) -> Vec<u8> {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    match document.filter(|document| document.get("error").is_some()) {
        Some(document) => format!("event: error\ndata: {document}\n\n").into_bytes(),
        None => plain(status, super::classify::kind_of(status), format!("the upstream answered {status}")).event(),
    }
}

/// Bytes of the whole response, for a connection that ends after it.
pub(crate) fn on_the_wire(reply: &Reply) -> Vec<u8> {
    let body = reply.body();
    let reason = super::stream::reason(reply.status);
    let mut wire = format!("HTTP/1.1 {} {reason}\r\n", reply.status).into_bytes();
    for (name, value) in &reply.headers().0 {
        wire.extend_from_slice(name.as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
    wire.extend_from_slice(&body);
    wire
}

/// TEMP
pub(crate) fn refused(refusal: &Refusal) -> Reply { plain(429, "rate_limit_error", format!("{refusal:?}")) }
/// TEMP
pub(crate) fn expired(_limit: Limit, refusal: &Refusal) -> Reply { plain(529, "overloaded_error", format!("{refusal:?}")) }
