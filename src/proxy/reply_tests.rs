use std::sync::Arc;

use super::super::verdict::{Proof, Verdict, Whom};
use super::*;
use crate::scheduler::quota::WindowKind;
use crate::scheduler::{AccountId, Evidence, Outcome};

fn standing(name: &str, kind: Kind, reason: PassedOver, wait: Option<u64>) -> Standing {
    let wait = wait.map(Duration::from_secs);
    Standing { account: AccountId(0), name: Arc::from(name), kind, reason, wait, evidence: None }
}

fn five_hours(name: &str, wait: u64) -> Standing {
    let reason = PassedOver::Blocked(BlockReason::Quota(Some(WindowKind::FiveHour)));
    standing(name, Kind::Oauth, reason, Some(wait))
}

fn refusal(reason: RefusalReason, wait: Option<u64>, accounts: Vec<Standing>) -> Refusal {
    let cause = match &reason {
        RefusalReason::Limited(cause) | RefusalReason::TooLargeToHold(cause) => Some(*cause),
        _ => None,
    };
    Refusal { reason, wait: wait.map(Duration::from_secs), cause, accounts }
}

fn summary(reply: &Reply) -> (u16, &str, Option<u64>, bool) {
    (reply.status, reply.kind, reply.retry_after.map(|wait| wait.as_secs()), reply.should_retry)
}

#[test]
fn shape() {
    let reply = Reply {
        retry_after: Some(Duration::from_millis(1_200)),
        error_code: Some("c"),
        ..Reply::new(429, RATE_LIMIT, "a \"b\"\nc")
    };
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"a \"b\"\nc","details":{"error_code":"c"}}}"#;
    assert_eq!(String::from_utf8_lossy(&reply.body()), body, "P14");
    assert_eq!(
        String::from_utf8_lossy(&reply.event()),
        format!("event: error\ndata: {body}\n\n"),
        "P14"
    );
    let headers = reply.headers();
    assert_eq!(headers.text("retry-after"), Some("2"), "P14 never early");
    assert_eq!(headers.text("x-should-retry"), Some("false"), "P14");
    let wire = on_the_wire(&wrong_method("GET, HEAD"));
    let body = r#"{"type":"error","error":{"type":"invalid_request_error","message":"this route accepts GET and HEAD"}}"#;
    let expected = format!(
        "HTTP/1.1 405 Method Not Allowed\r\ncontent-type: application/json\r\nx-should-retry: false\r\nallow: GET, HEAD\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(String::from_utf8_lossy(&wire), expected, "P14");
}

#[test]
fn refusals() {
    use RefusalReason as R;
    let out = || vec![five_hours("work", 8_040), five_hours("home", 90_000)];
    let login =
        || standing("work", Kind::Oauth, PassedOver::Blocked(BlockReason::NeedsLogin), None);
    let provider = || {
        standing("glm", Kind::Provider, PassedOver::Blocked(BlockReason::CredentialRefused), None)
    };
    let names =
        |names: &[&str]| R::CredentialsOnly(names.iter().map(|name| Arc::from(*name)).collect());
    #[rustfmt::skip] // one row a line
    let rows = [
        (refusal(R::NoAccount, None, vec![]), (503, "proxy_error", None, false), "maxpool login"),
        (refusal(R::UnknownProfile, None, vec![]), (400, "invalid_request_error", None, false), "x-maxpool-profile"),
        (refusal(R::NoneEnabled, None, vec![]), (503, "proxy_error", None, false), "maxpool enable"),
        (refusal(R::Limited(WaitCause::Quota), Some(8_040), out()), (429, "rate_limit_error", Some(8_040), false), "no account has quota left; the first of 2 is back in 2h 14m (work: five-hour limit reached, in 2h 14m; home: five-hour limit reached, in 1d 1h)"),
        (refusal(R::Limited(WaitCause::Quota), Some(59), out()), (429, "rate_limit_error", Some(59), true), "back in 59s"),
        (refusal(R::Limited(WaitCause::Weekly), None, out()), (429, "rate_limit_error", None, false), "used up its week; it is not known when the first of 2 will be back"),
        (refusal(R::Limited(WaitCause::Capacity), None, out()), (529, "overloaded_error", None, true), "no account can serve now"),
        (refusal(R::Limited(WaitCause::Network), Some(5), vec![login()]), (503, "connection_unavailable", Some(5), true), "back in 5s"),
        (refusal(names(&["work"]), None, vec![login()]), (502, "account_auth_error", None, false), "no account has a working credential (work: needs login): run `maxpool login`"),
        (refusal(names(&["glm"]), None, vec![provider()]), (502, "provider_auth_error", None, false), "glm: refused by the API"),
        (refusal(names(&["work", "glm"]), None, vec![login(), provider()]), (502, "account_auth_error", None, false), "again, or correct the provider's token"),
        (refusal(R::QueueFull, Some(30), out()), (429, "rate_limit_error", Some(30), true), "queue full"),
        (refusal(R::TooLargeToHold(WaitCause::Quota), Some(30), out()), (429, "rate_limit_error", Some(30), true), "queue.maxQueuedBodyBytes"),
        (refusal(R::ThinkingNeedsClaude, None, out()), (503, "proxy_error", None, false), "signed"),
        (refusal(R::ThreadElsewhere, None, out()), (400, "invalid_request_error", None, false), "whole conversation"),
        (refusal(R::Draining, None, vec![]), (503, "restart_in_progress", Some(1), true), "restarting"),
        (refusal(R::AttemptsExhausted, None, out()), (502, "proxy_error", None, false), "attempts"),
    ];
    for (refusal, expected, text) in rows {
        let reply = refused(&refusal);
        assert_eq!(summary(&reply), expected, "P14 {:?}", refusal.reason);
        assert!(reply.message.contains(text), "P14 {:?}: {}", refusal.reason, reply.message);
    }
    let thread = refused(&refusal(R::ThreadElsewhere, None, vec![]));
    assert_eq!(thread.error_code, Some("thread_unsupported_request"), "P10");
    let claude = Refusal {
        cause: Some(WaitCause::Quota),
        ..refusal(R::ThinkingNeedsClaude, Some(7_200), out())
    };
    let reply = refused(&claude);
    assert_eq!(summary(&reply), (429, "rate_limit_error", Some(7_200), false), "P9");
    assert!(
        reply.message.contains(
            "sent to a provider; no account has quota left; the first of 2 is back in 2h"
        ),
        "{}",
        reply.message
    );
}

#[test]
fn waits_that_are_over() {
    let limited = |cause| {
        refusal(RefusalReason::Limited(cause), Some(7_200), vec![five_hours("work", 7_200)])
    };
    #[rustfmt::skip] // one row a line
    let rows = [
        ("Q6", Limit::ClientTolerance, WaitCause::Quota, (529, "overloaded_error", Some(1), true)),
        ("Q6", Limit::ClientTolerance, WaitCause::Network, (529, "overloaded_error", Some(1), true)),
        ("Q6 for good", Limit::WaitLimit, WaitCause::Quota, (429, "rate_limit_error", Some(7_200), false)),
        ("Q6 for good", Limit::WaitLimit, WaitCause::Capacity, (429, "rate_limit_error", Some(7_200), false)),
        ("P7 network", Limit::WaitLimit, WaitCause::Network, (503, "connection_unavailable", Some(7_200), false)),
    ];
    for (rule, limit, cause, expected) in rows {
        assert_eq!(summary(&expired(limit, &limited(cause))), expected, "{rule} {cause:?}");
    }
    let reply = expired(Limit::ClientTolerance, &limited(WaitCause::Quota));
    let text = "still waiting for an account: no account has quota left; back in 2h \
                (work: five-hour limit reached, in 2h); retry at once to keep the place in the \
                queue";
    assert_eq!(reply.message, text, "P14");
}

#[test]
fn network_failures_name_their_code() {
    for code in ["dns", "refused", "unreachable", "reset", "timeout", "tls", "garbage", "network"] {
        let reply = network(code, "os error 1");
        assert_eq!(summary(&reply), (503, "connection_unavailable", None, true), "P7");
        assert!(reply.message.contains(&format!("({code}: os error 1)")), "P14 {}", reply.message);
    }
    assert!(network("dns", "").message.contains("(dns)"), "P14");
}

#[test]
fn credentials_name_the_account() {
    let reply = credential(Kind::Oauth, "work", "OAuth token has been revoked.");
    let text = "the credential of work was refused: OAuth token has been revoked; run `maxpool login` to sign in again";
    assert_eq!(
        (reply.status, reply.kind, reply.message.as_str()),
        (502, "account_auth_error", text),
        "P7"
    );
    let reply = credential(Kind::Provider, "glm", "glm was disabled");
    assert_eq!(
        (reply.kind, reply.message.as_str()),
        ("provider_auth_error", "glm was disabled; correct its token"),
        "P7"
    );
}

#[test]
fn upstream_answers_in_our_words() {
    let said = |status| {
        let (outcome, next) = (Outcome::Neutral, classify::Next::AnotherAccount);
        upstream_said(&Meaning {
            outcome,
            next,
            verdict: Verdict { whom: Whom::Nobody, proof: Proof::Nothing },
            status,
            kind: String::new(),
            message: "busy".into(),
        })
    };
    #[rustfmt::skip] // one row a line
    let rows = [
        (500, (500, "overloaded_error", None, true)),
        (529, (529, "overloaded_error", None, true)),
        (429, (429, "rate_limit_error", None, true)),
        (400, (400, "invalid_request_error", None, false)),
        (403, (502, "account_auth_error", None, false)),
    ];
    for (status, expected) in rows {
        let reply = said(status);
        assert_eq!(summary(&reply), expected, "P14 {status}");
        assert_eq!(
            reply.message,
            format!("the upstream answered with status {status}: busy"),
            "P14"
        );
    }
}

#[test]
fn error_bodies_as_events() {
    let pretty = b"{\n \"type\": \"error\",\n \"error\": {\"type\": \"x_error\", \"message\": \"m\"},\n \"request_id\": \"r\"\n}";
    let event = r#"{"type":"error","error":{"type":"x_error","message":"m"},"request_id":"r"}"#;
    assert_eq!(
        String::from_utf8_lossy(&event_of_body(529, pretty)),
        format!("event: error\ndata: {event}\n\n"),
        "Q4"
    );
    #[rustfmt::skip] // one row a line
    let rows: [(u16, &[u8], &str, &str); 4] = [
        (503, b"<html>", "api_error", "the upstream answered with status 503"),
        (529, b"{\"error\":{\"message\":\"m\"}}", "overloaded_error", "m"),
        (404, b"{\"error\":\"nope\"}", "not_found_error", "nope"),
        (500, b"{\"type\":\"error\",\"error\":{\"type\":\"x\"", "api_error", "the upstream answered with status 500"),
    ];
    for (status, body, kind, message) in rows {
        let facts = sse::read(Form::Events, &event_of_body(status, body));
        let error = facts.error.unwrap_or_default();
        assert_eq!((error.kind.as_str(), error.message.as_str()), (kind, message), "Q4 {status}");
    }
}

#[test]
fn long_lists_are_cut() {
    let accounts = (0..9).map(|n| five_hours(&format!("a{n}"), 60)).collect();
    let reply = refused(&refusal(RefusalReason::Limited(WaitCause::Quota), Some(60), accounts));
    assert!(
        reply.message.ends_with("a5: five-hour limit reached, in 1m; and 3 more)"),
        "{}",
        reply.message
    );
}

#[test]
fn a_forbidden_account_tells_why() {
    let evidence = Some(Arc::new(Evidence {
        message: Arc::from("organization disabled"),
        ..Evidence::default()
    }));
    let reason = PassedOver::Blocked(BlockReason::Unusable);
    let account = Standing { evidence, ..standing("work", Kind::ApiKey, reason, None) };
    let reply = refused(&refusal(
        RefusalReason::CredentialsOnly(vec![Arc::from("work")]),
        None,
        vec![account],
    ));
    assert!(
        reply
            .message
            .contains("work: the API says the account cannot be used, \"organization disabled\""),
        "P7 {}",
        reply.message
    );
}
