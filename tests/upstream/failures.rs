//! Every failure that SPEC P7 names, in the API's own words.

use std::time::Duration;

use super::message::{error_event, event};
use super::{Answer, Framing, Limits, Step};

/// 429 because of a subscription's window: `five_hour`, `seven_day`, `seven_day_opus` …
pub fn quota(claim: &str, reset: Duration) -> Answer {
    Answer::error(
        429,
        "rate_limit_error",
        "This request would exceed your account's rate limit. Please try again later.",
    )
    .limits(&Limits::rejected(claim, reset))
    .header("retry-after", &reset.as_secs().max(1).to_string())
    .header("x-should-retry", "true")
}

/// 429 of an API key whose window is used up.
pub fn counted(window: &str, reset: Duration) -> Answer {
    Answer::error(
        429,
        "rate_limit_error",
        "Number of requests has exceeded your per-minute rate limit.",
    )
    .limits(&Limits::new().counted(window, 50, 0, reset))
    .header("retry-after", &reset.as_secs().max(1).to_string())
}

/// 429 in which only the message says that it is about quota.
pub fn quota_message(message: &str) -> Answer {
    Answer::error(429, "rate_limit_error", message)
}

/// 429 that says that the server, not the account, is limited.
pub fn server_side() -> Answer {
    Answer::error(
        429,
        "rate_limit_error",
        "Server is temporarily limiting requests (not your usage limit)",
    )
}

/// 429 without any explanation.
pub fn bare_429() -> Answer {
    Answer::error(429, "rate_limit_error", "Error")
}

/// 529 as the API sends it.
pub fn overloaded() -> Answer {
    Answer::error(529, "overloaded_error", "Overloaded")
}

/// 500, 502, 503, 504 and the like.
pub fn server_error(status: u16) -> Answer {
    Answer::error(status, "api_error", "Internal server error")
}

/// 502 or 504 from an edge server, in HTML.
pub fn edge_html(status: u16) -> Answer {
    Answer::bytes(
        status,
        b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>cloudflare</body>\r\n</html>\r\n",
    )
    .header("content-type", "text/html")
}

/// 401 about the credential.
pub fn unauthorized() -> Answer {
    Answer::error(401, "authentication_error", "invalid x-api-key")
}

/// 401 about an expired OAuth token.
pub fn token_expired() -> Answer {
    Answer::error(
        401,
        "authentication_error",
        "OAuth token has expired. Please obtain a new token or refresh your existing token.",
    )
}

/// 403 about the credential.
pub fn forbidden() -> Answer {
    Answer::error(
        403,
        "permission_error",
        "OAuth authentication is currently not allowed for this organization.",
    )
}

/// 400 from an account that does not know the conversation's thread.
pub fn thread_unsupported() -> Answer {
    Answer::json(
        400,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"thread not found","details":{"error_code":"thread_unsupported_request"}},"request_id":"req_011CSHoEeqs5C35K2UUqR7Fy"}"#,
    )
}

/// 400 about the request itself.
pub fn invalid() -> Answer {
    Answer::error(400, "invalid_request_error", "messages: at least one message is required")
}

/// A 200 whose first event is an error of this type.
pub fn first_event_error(kind: &str, message: &str) -> Answer {
    Answer::events([error_event(kind, message)])
}

/// The same after a ping.
pub fn ping_then_error(kind: &str, message: &str) -> Answer {
    Answer::events([
        event("ping", &serde_json::json!({"type": "ping"})),
        error_event(kind, message),
    ])
}

/// Sends nothing, not even a head.
pub fn silent() -> Answer {
    Answer::raw([Step::AwaitLeave])
}

/// Stops in the middle of the head.
pub fn half_head() -> Answer {
    Answer::raw([
        Step::Send(b"HTTP/1.1 200 OK\r\ncontent-type: text/ev".to_vec()),
        Step::AwaitLeave,
    ])
}

/// Resets the connection before answering.
pub fn reset() -> Answer {
    Answer::raw([Step::Reset])
}

/// Closes the connection before answering.
pub fn closed() -> Answer {
    Answer::raw([Step::Fin])
}

/// Text that is not HTTP.
pub fn garbage() -> Answer {
    Answer::raw_bytes(
        b"\x15\x03\x01\x00\x02\x02 this is not the protocol you are looking for\r\n\r\n",
    )
}

/// A head that never ends, up to 64 MiB.
pub fn endless_head() -> Answer {
    Answer::raw([
        Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Step::Repeat {
            bytes: format!("x-filler: {}\r\n", "y".repeat(1000)).repeat(64).into_bytes(),
            times: 1024,
        },
    ])
}

/// A stream of at least `total` bytes of text.
pub fn flood(total: u64, seed: u64) -> Answer {
    Answer::events(Vec::<Vec<u8>>::new())
        .framing(Framing::Chunked)
        .at(0, Step::Flood { total, seed })
}

/// GLM's refusal with one of its codes.
pub fn glm(code: &str, message: &str) -> Answer {
    let body = serde_json::json!({"error": {"code": code, "message": message}, "request_id": "20260801120000abcdef"});
    Answer::json(429, &body.to_string())
}

/// Kimi's refusal.
pub fn kimi(kind: &str, message: &str) -> Answer {
    let body = serde_json::json!({"error": {"type": kind, "message": message}});
    Answer::json(429, &body.to_string())
}
