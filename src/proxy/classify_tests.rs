use std::time::Duration;

use bytes::Bytes;
use ureq::http::HeaderValue;

use super::*;
use crate::scheduler::quota::{Verdict as Said, WindowKind, WindowReading};
use crate::testing::chance::{Random, rounds};

use Next::{AnotherAccount, PassOn, RefreshAndRetry};

struct Case {
    status: u16,
    kind: Kind,
    body: String,
    headers: Headers,
    quota: QuotaReport,
}

fn case(status: u16, kind: Kind, body: &str) -> Case {
    let (headers, quota) = (Headers::default(), QuotaReport::default());
    Case { status, kind, body: body.into(), headers, quota }
}

fn said(status: u16, kind: Kind, error: &str, message: &str) -> Case {
    let body = serde_json::json!({"type": "error", "error": {"type": error, "message": message}});
    case(status, kind, &body.to_string())
}

fn run(case: &Case) -> Meaning {
    classify(&Seen {
        status: case.status,
        headers: &case.headers,
        body: case.body.as_bytes(),
        kind: case.kind,
        class: RouteClass::Messages,
        quota: &case.quota,
        now: Now { wall: Wall(7), ..Now::default() },
    })
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Neutral => "neutral",
        Outcome::Broken { .. } => "broken",
        Outcome::OwnRequest { .. } => "own",
        Outcome::Unproven { .. } => "unproven",
        Outcome::ModelMissing { .. } => "model",
        Outcome::Unusable { .. } => "unusable",
        Outcome::Abandoned => "abandoned",
        Outcome::QuotaRejected { .. } => "quota",
        Outcome::ServerSide { overload: Overload::Refused429, .. } => "server-side 429",
        Outcome::ServerSide { overload: Overload::Overloaded529, .. } => "529",
        Outcome::ServerError { .. } => "5xx",
        Outcome::Network { .. } => "network",
        Outcome::CredentialRefused { .. } => "refused",
        Outcome::NeedsLogin { .. } => "needs login",
        Outcome::Forbidden { .. } => "forbidden",
    }
}

#[test]
fn statuses() {
    use Kind::{ApiKey, Oauth, Provider};
    #[rustfmt::skip] // one row a line
    let rows = [
        ("2xx", 200, Oauth, "success", PassOn),
        ("2xx", 204, Provider, "success", PassOn),
        ("3xx", 307, Oauth, "success", PassOn),
        ("any other 4xx", 400, Oauth, "neutral", PassOn),
        ("any other 4xx", 408, Oauth, "neutral", PassOn),
        ("any other 4xx", 413, ApiKey, "neutral", PassOn),
        ("V4", 404, Provider, "neutral", PassOn),
        ("401 on OAuth", 401, Oauth, "refused", RefreshAndRetry),
        ("401 on an API key", 401, ApiKey, "refused", AnotherAccount),
        ("401 on a provider", 401, Provider, "refused", AnotherAccount),
        ("429 without evidence", 429, Oauth, "unproven", AnotherAccount),
        ("V3 a provider's 429", 429, Provider, "quota", AnotherAccount),
        ("500", 500, Oauth, "unproven", AnotherAccount),
        ("402", 402, Oauth, "unusable", AnotherAccount),
        ("501 is no failure of the account's", 501, Oauth, "neutral", PassOn),
        ("502", 502, ApiKey, "5xx", AnotherAccount),
        ("503", 503, Provider, "5xx", AnotherAccount),
        ("504", 504, Oauth, "5xx", AnotherAccount),
        ("a gateway's", 522, Oauth, "5xx", AnotherAccount),
        ("529", 529, Oauth, "529", AnotherAccount),
    ];
    for (rule, status, kind, outcome, next) in rows {
        let got = run(&case(status, kind, ""));
        assert_eq!(
            (name(&got.outcome), got.next, got.status),
            (outcome, next, status),
            "P7 {rule} {status}"
        );
    }
}

#[test]
fn which_429() {
    use Kind::{Oauth, Provider};
    let limit = "rate_limit_error";
    #[rustfmt::skip] // one row a line
    let rows = [
        ("names the account", limit, "This request would exceed your account's rate limit. Please try again later.", "quota"),
        ("names the organization", limit, "This request would exceed your organization's rate limit of 40,000 input tokens per minute", "quota"),
        ("names the plan", limit, "You have exhausted your Plan", "quota"),
        ("names the session", limit, "Session limit reached ∙ resets 3pm", "quota"),
        ("names the week", limit, "weekly limits apply", "quota"),
        ("names the quota", limit, "quota exceeded", "quota"),
        ("in another form", limit, "This request would exceed your organization's quota", "quota"),
        ("in another form", limit, "All quotas of these sessions are exhausted", "quota"),
        ("usage limit reached", limit, "Claude AI usage limit reached|1750000000", "quota"),
        ("server-side wins", limit, "Server is temporarily limiting requests (not your usage limit) · account limit", "server-side 429"),
        ("temporarily", limit, "We are Temporarily Limiting requests of all accounts", "server-side 429"),
        ("overloaded", "overloaded_error", "Your account has reached its limit", "server-side 429"),
        ("no owner", limit, "Too many requests: limit reached", "unproven"),
        ("no end", limit, "Your account sends too much", "unproven"),
        ("a plane is no plan", limit, "the plane and the explanation reached", "unproven"),
        ("a number of tokens", limit, "Number of request tokens has exceeded your per-minute rate limit", "unproven"),
        ("nothing", "", "", "unproven"),
    ];
    for (rule, kind, message, expected) in rows {
        assert_eq!(
            name(&run(&said(429, Oauth, kind, message)).outcome),
            expected,
            "P7 {rule}: {message}"
        );
        assert_eq!(name(&run(&said(429, Provider, kind, message)).outcome), "quota", "V3 {rule}");
    }
    let text = run(&case(429, Oauth, "Your account has reached its limit"));
    assert_eq!(name(&text.outcome), "quota", "P7 plain text");
    let page = run(&case(429, Oauth, "<html>Your account has reached its limit</html>"));
    assert_eq!(name(&page.outcome), "unproven", "P7 a page is no evidence");
}

#[test]
fn limits_in_headers() {
    let window = |utilisation, remaining, verdict| {
        let reading = WindowReading {
            kind: WindowKind::FiveHour,
            utilisation,
            limit: Some(5),
            remaining,
            reset: None,
            verdict,
        };
        QuotaReport { windows: vec![reading], ..QuotaReport::default() }
    };
    let verdict = |verdict| QuotaReport { verdict: Some(verdict), ..QuotaReport::default() };
    #[rustfmt::skip] // one row a line
    let rows = [
        ("rejected", verdict(Said::Rejected), "quota"),
        ("allowed", verdict(Said::Allowed), "unproven"),
        ("a warning", verdict(Said::AllowedWarning), "unproven"),
        ("its window rejected", window(None, None, Some(Said::Rejected)), "quota"),
        ("at its limit", window(Some(1.0), None, None), "quota"),
        ("below", window(Some(0.99), Some(1), None), "unproven"),
        ("nothing left", window(None, Some(0), None), "quota"),
        ("retry-after alone is none", QuotaReport { retry_after: Some(Duration::from_secs(9)), ..QuotaReport::default() }, "unproven"),
    ];
    for (rule, quota, expected) in rows {
        let got = run(&Case { quota: quota.clone(), ..case(429, Kind::Oauth, "") });
        assert_eq!(name(&got.outcome), expected, "P7 {rule}");
        if let Outcome::QuotaRejected { quota: kept, .. } = got.outcome {
            assert_eq!(kept, quota, "P7 the report goes along");
        }
    }
    let both = Case {
        quota: verdict(Said::Rejected),
        ..said(429, Kind::Oauth, "rate_limit_error", "not your usage limit")
    };
    assert_eq!(name(&run(&both).outcome), "quota", "P7 headers go before words");
}

#[test]
fn a_provider_says_when() {
    let glm = r#"{"error":{"code":"1302","message":"high concurrency"}}"#;
    let wait_of = |case: &Case| match run(case).outcome {
        Outcome::QuotaRejected { quota, .. } => quota.retry_after,
        _ => None,
    };
    let waits = |kind, retry_after| {
        let quota = QuotaReport { retry_after, ..QuotaReport::default() };
        wait_of(&Case { quota, ..case(429, kind, glm) })
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(waits(Kind::Provider, None), seconds(60), "V3 in its body");
    assert_eq!(waits(Kind::Provider, seconds(7)), seconds(7), "V3 in its headers first");

    let body = r#"{"error":{"code":"1308","message":"reset at 2026-11-22 06:47:00"}}"#;
    let mut its_clock = case(429, Kind::Provider, body);
    its_clock.headers.push("date", HeaderValue::from_static("Sat, 21 Nov 2026 22:45:00 GMT"));
    assert_eq!(wait_of(&its_clock), seconds(120), "P7 whatever our clock shows");
}

#[test]
fn the_other_rows() {
    use Kind::{ApiKey, Oauth, Provider};
    let (permission, invalid) = ("permission_error", "invalid_request_error");
    let (missing, limit) = ("not_found_error", "rate_limit_error");
    #[rustfmt::skip] // one row a line
    let rows = [
        (403, ApiKey, permission, "Your API key does not have permission to use the specified resource.", "forbidden", AnotherAccount),
        (403, Oauth, "forbidden", "Request not allowed", "forbidden", AnotherAccount),
        (403, Provider, "access_terminated_error", "only for coding agents", "forbidden", AnotherAccount),
        (403, Oauth, permission, "OAuth token has been revoked.", "refused", RefreshAndRetry),
        (403, Oauth, permission, "The access token has expired", "refused", RefreshAndRetry),
        (403, ApiKey, permission, "This key was revoked", "refused", AnotherAccount),
        (403, Oauth, "billing_error", "Payment required", "unusable", AnotherAccount),
        (403, Oauth, permission, "Your account has been suspended", "unusable", AnotherAccount),
        (400, Oauth, invalid, "This organization has been disabled.", "unusable", AnotherAccount),
        (400, ApiKey, invalid, "Your credit balance is too low to access the Anthropic API.", "unusable", AnotherAccount),
        (400, ApiKey, invalid, "Your organization's billing is not set up", "unusable", AnotherAccount),
        (400, Oauth, invalid, "the account was disabled yesterday", "neutral", PassOn),
        (400, Oauth, invalid, "messages.0: this organization has been disabled", "neutral", PassOn),
        (402, ApiKey, "billing_error", "Pay", "unusable", AnotherAccount),
        (429, Oauth, limit, "Extra usage is required for long context requests", "own", AnotherAccount),
        (429, Oauth, limit, "Fast-mode needs something more", "own", AnotherAccount),
        (429, Oauth, limit, "Usage credits are required for this", "own", AnotherAccount),
        (429, Oauth, limit, "Fast mode is temporarily limiting requests", "own", AnotherAccount),
        (429, Oauth, limit, "Extra usage: your plan's limit is reached", "quota", AnotherAccount),
        (400, Oauth, invalid, "The long context beta is not yet available for this subscription.", "own", AnotherAccount),
        (400, Oauth, invalid, "model: claude-opus-4-1", "model", AnotherAccount),
        (400, Oauth, invalid, "Invalid model name", "model", AnotherAccount),
        (400, Oauth, invalid, "claude-opus-4-1 is not a valid model ID", "model", AnotherAccount),
        (400, Oauth, invalid, "Unknown model: opus", "model", AnotherAccount),
        (400, Oauth, invalid, "The model `claude-opus-4-1` does not exist", "model", AnotherAccount),
        (400, Oauth, invalid, "The model's name is invalid: opus", "model", AnotherAccount),
        (400, Oauth, invalid, "Unsupported parameter 'thinking' with this model", "neutral", PassOn),
        (400, Oauth, invalid, "Invalid model parameter: top_k", "neutral", PassOn),
        (400, Oauth, invalid, "This model does not support assistant message prefill", "neutral", PassOn),
        (400, Oauth, invalid, "'claude-haiku-4-5' model does not support effort", "neutral", PassOn),
        (400, Oauth, invalid, "model_context_window_exceeded", "neutral", PassOn),
        (400, Oauth, invalid, "messages.0.content: \"model: x\" is invalid", "neutral", PassOn),
        (404, Oauth, missing, "model: claude-opus-4-1", "model", AnotherAccount),
        (404, ApiKey, missing, "The requested model does not exist", "model", AnotherAccount),
        (404, Oauth, missing, "File not found: file_abc", "own", AnotherAccount),
        (404, Oauth, missing, "MCP server 'docs' not found", "own", AnotherAccount),
        (404, Oauth, missing, "No such model on this server", "model", AnotherAccount),
        (404, Oauth, "", "", "neutral", PassOn),
        (500, Oauth, "overloaded_error", "Overloaded", "529", AnotherAccount),
    ];
    for (status, kind, error, message, outcome, next) in rows {
        let got = run(&said(status, kind, error, message));
        assert_eq!(
            (name(&got.outcome), got.next),
            (outcome, next),
            "P7 {status} {kind:?} {error}: {message}"
        );
    }
    let page = run(&case(403, Oauth, "<html>Your account has been suspended</html>"));
    assert_eq!(name(&page.outcome), "forbidden", "P7 a firewall's page");
}

#[test]
fn first_events() {
    #[rustfmt::skip] // one row a line
    let rows = [
        ("overloaded_error", 529, "529", AnotherAccount),
        ("rate_limit_error", 429, "unproven", AnotherAccount),
        ("api_error", 500, "unproven", AnotherAccount),
        ("timeout_error", 504, "5xx", AnotherAccount),
        ("authentication_error", 401, "refused", RefreshAndRetry),
        ("permission_error", 403, "forbidden", AnotherAccount),
        ("invalid_request_error", 400, "neutral", PassOn),
        ("not_found_error", 404, "model", AnotherAccount),
        ("request_too_large", 413, "neutral", PassOn),
        ("", 500, "unproven", AnotherAccount),
    ];
    for (kind, status, outcome, next) in rows {
        let error = ApiError { kind: kind.into(), message: "m".into(), code: None };
        assert_eq!(status_of(kind), status, "P6 {kind}");
        let body = String::from_utf8_lossy(&body_of(&error)).into_owned();
        let got = run(&case(status, Kind::Oauth, &body));
        assert_eq!((name(&got.outcome), got.next), (outcome, next), "P6 {kind}");
        assert_eq!((got.kind.as_str(), got.message.as_str()), (kind, "m"), "P6 {kind}");
    }
    for status in [401, 402, 403, 404, 413, 429, 504, 529] {
        assert_eq!(status_of(kind_of(status)), status);
    }
}

#[test]
fn evidence() {
    let mut limited = said(
        429,
        Kind::Oauth,
        "rate_limit_error",
        "quota exceeded for sk-ant-api03-secret, \"mp-key\"",
    );
    limited.headers.take("Request-Id", Bytes::from_static(b"req_1")).expect("a header line");
    limited.headers.take("retry-after", Bytes::from_static(b"12")).expect("a header line");
    limited
        .headers
        .take("Anthropic-RateLimit-Unified-Status", Bytes::from_static(b"rejected"))
        .expect("a header line");
    let Outcome::QuotaRejected { evidence, .. } = run(&limited).outcome else {
        unreachable!("P7 quota");
    };
    assert_eq!(evidence.status, Some(429));
    assert_eq!(evidence.request_id.as_deref(), Some("req_1"));
    assert_eq!(&*evidence.source, "anthropic-ratelimit-unified-status: rejected");
    assert_eq!(&*evidence.message, "quota exceeded for sk-… \"mp-…", "D4");
    assert_eq!(evidence.at, Wall(7));
    let head = evidence_of(429, &limited.headers, "", Wall(7));
    assert_eq!(
        (head.source, head.request_id),
        (evidence.source, evidence.request_id),
        "the head alone names the same header"
    );
    let Outcome::ServerError { evidence, .. } =
        run(&case(503, Kind::Oauth, "upstream connect error")).outcome
    else {
        unreachable!("P7 5xx");
    };
    assert_eq!((&*evidence.source, &*evidence.message), ("body", "upstream connect error"));
    let Outcome::ServerError { evidence, .. } = run(&case(503, Kind::Oauth, "<html>")).outcome
    else {
        unreachable!("P7 5xx");
    };
    assert_eq!((&*evidence.source, &*evidence.message), ("status 503", "status 503"));
}

#[test]
fn fingerprints() {
    let of = |message: &str| match run(&said(529, Kind::Oauth, "overloaded_error", message)).outcome
    {
        Outcome::ServerSide { fingerprint, .. } => Some(fingerprint),
        _ => None,
    };
    assert!(of("Overloaded").is_some(), "P8");
    assert_eq!(
        of("busy, request req_011 refused"),
        of("busy, request req_022 refused"),
        "P8 without what holds a digit"
    );
    assert_ne!(of("Overloaded"), of("Busy"), "P8");
}

#[test]
fn texts_are_bounded() {
    let text = bounded(&"wörd ".repeat(1_000));
    assert!(text.chars().count() <= policy::MESSAGE_CHARS_MAX && text.ends_with('…'), "{text}");
    assert_eq!(bounded(&"x".repeat(5_000)).chars().count(), policy::MESSAGE_CHARS_MAX);
    assert_eq!(bounded(" a\n\tb task-force"), "a b task-force");
}

#[test]
fn garbage_does_no_harm() {
    let mut random = Random::new(41);
    for _ in rounds(20_000) {
        let body = if random.chance(50) { random.broken_json() } else { random.bytes(300) };
        let status = *random.pick(&[200, 401, 403, 429, 500, 529]);
        let mut headers = Headers::default();
        let _ = headers.take("retry-after", random.bytes(20).into());
        let _ = headers.take("request-id", random.bytes(200).into());
        let quota = QuotaReport::default();
        let kind = *random.pick(&[Kind::Oauth, Kind::ApiKey, Kind::Provider]);
        let seen = Seen {
            status,
            headers: &headers,
            body: &body,
            kind,
            class: RouteClass::Messages,
            quota: &quota,
            now: Now::default(),
        };
        assert!(classify(&seen).message.chars().count() <= policy::MESSAGE_CHARS_MAX);
    }
}
