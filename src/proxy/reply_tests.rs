use super::super::verdict::{Proof, Verdict, Whom};
use super::*;
use crate::scheduler::Outcome;

pub(in crate::proxy) fn summary(reply: &Reply) -> (u16, &str, Option<u64>, bool) {
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
