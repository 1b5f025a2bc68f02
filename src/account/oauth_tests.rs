#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::{Arc, Mutex};

use super::super::http::HttpFailure;
use super::*;
use crate::scheduler::quota::WindowKind;
use crate::scheduler::time::Mono;

const NOW: Now = Now { mono: Mono(5), wall: Wall(1_795_301_100_000) };

fn now() -> Now {
    NOW
}

fn endpoints() -> Endpoints {
    Endpoints::from_environment(&|_| None)
}

/// A network that gives every call the same answer and records the calls.
struct Fake {
    answer: Result<HttpReply, HttpFailure>,
    asked: Mutex<Vec<HttpCall>>,
}

impl Fake {
    fn new(status: u16, body: &str) -> Arc<Fake> {
        Arc::new(Fake {
            answer: Ok(HttpReply {
                status,
                headers: vec![("Retry-After".to_owned(), b"40".to_vec())],
                body: body.as_bytes().to_vec(),
                cut: None,
            }),
            asked: Mutex::default(),
        })
    }

    fn http(self: &Arc<Fake>) -> impl Fn(HttpCall) -> Result<HttpReply, HttpFailure> + use<> {
        let fake = self.clone();
        move |call| {
            fake.asked.lock().unwrap().push(call);
            fake.answer.clone()
        }
    }

    fn last(&self) -> HttpCall {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

#[test]
fn pkce_agrees_with_rfc_7636() {
    // RFC 7636, appendix B.
    assert_eq!(
        challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    );
    let (one, other) = (Proof::new().unwrap(), Proof::new().unwrap());
    for secret in [&one.verifier, &one.state] {
        assert_eq!(secret.expose().len(), 43, "T1: 32 random bytes");
    }
    assert!(
        one.verifier != other.verifier && one.state != other.state && one.state != one.verifier
    );
}

#[test]
fn the_authorize_url_has_every_field_and_no_verifier() {
    let proof = Proof {
        verifier: Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        state: Secret::new("st-ate"),
    };
    let url = authorize_url(&endpoints(), &proof, "http://localhost:4567/callback");
    assert_eq!(
        url,
        "https://claude.ai/oauth/authorize?code=true&client_id=9d1c250a-e61b-44d9-88ed-5944d1962f5e&response_type=code\
         &redirect_uri=http%3A%2F%2Flocalhost%3A4567%2Fcallback\
         &scope=org%3Acreate_api_key%20user%3Aprofile%20user%3Ainference%20user%3Asessions%3Aclaude_code%20user%3Amcp_servers%20user%3Afile_upload\
         &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&state=st-ate"
    );
}

#[test]
fn endpoints_can_be_pointed_elsewhere() {
    let set = |name: &str| match name {
        "MAXPOOL_OAUTH_TOKEN_ENDPOINT" => Some("http://127.0.0.1:1/token".to_owned()),
        "MAXPOOL_OAUTH_USAGE_ENDPOINT" => Some(String::new()),
        _ => None,
    };
    let endpoints = Endpoints::from_environment(&set);
    assert_eq!(endpoints.token, "http://127.0.0.1:1/token");
    assert_eq!(endpoints.usage, "https://api.anthropic.com/api/oauth/usage", "empty is not set");
    assert_eq!(endpoints.profile, "https://api.anthropic.com/api/oauth/profile");
    assert_eq!(endpoints.authorize, "https://claude.ai/oauth/authorize");
}

#[test]
fn exchange_and_refresh_send_the_bodies_of_the_table() {
    let fake = Fake::new(200, r#"{"access_token":"a","refresh_token":"r","expires_in":100}"#);
    let http = fake.http();
    let proof = Proof { verifier: Secret::new("ver"), state: Secret::new("sta") };
    let redirect = "http://localhost:1/callback";
    let tokens =
        exchange(&http, &endpoints(), &Secret::new("cod"), &proof, redirect, &now).unwrap();
    assert_eq!(tokens.expires_at, Some(Wall(NOW.wall.0 + 100_000)));
    let call = fake.last();
    assert_eq!(
        (call.method, call.url.as_str()),
        ("POST", "https://platform.claude.com/v1/oauth/token")
    );
    assert_eq!(call.timeout, Duration::from_secs(30));
    let header =
        |name: &str| call.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
    assert_eq!(header("user-agent"), Some(concat!("maxpool/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&call.body.unwrap()).unwrap();
    let client_id = "9d1c250a-e61b-44d9-88ed-5944d1962f5e";
    assert_eq!(
        body,
        json!({"grant_type": "authorization_code", "code": "cod", "state": "sta", "client_id": client_id,
               "redirect_uri": redirect, "code_verifier": "ver"})
    );
    refresh(&http, &endpoints(), &Secret::new("old"), &now).unwrap();
    let body: Value = serde_json::from_slice(&fake.last().body.unwrap()).unwrap();
    assert_eq!(
        body,
        json!({"grant_type": "refresh_token", "refresh_token": "old", "client_id": client_id})
    );
}

#[test]
fn t7_a_refresh_token_is_taken_whatever_it_looks_like() {
    let long = "long token ".repeat(TOKEN_BYTES_MAX / 10);
    for odd in ["with blanks", "ключ", "line\nend", &long] {
        let body = json!({"access_token": odd, "refresh_token": odd, "expires_in": 60}).to_string();
        let tokens = issued_of_answer(body.as_bytes(), NOW.wall).unwrap().tokens;
        assert_eq!(tokens.refresh.unwrap().expose(), odd, "it goes into JSON");
        assert_eq!(tokens.access, None, "{odd:?} fits into no header");
    }
}

#[test]
fn answers_are_read_in_every_form_of_expiry() {
    let at = |body: &str| {
        let issued = issued_of_answer(body.as_bytes(), NOW.wall)?;
        Some(issued.tokens.expires_at.map_or(UNTIL_REFUSED, |end| end.0))
    };
    const UNTIL_REFUSED: i64 = -1;
    let now = NOW.wall.0;
    for (rule, body, expected) in [
        ("T1 expires_in", r#"{"access_token":"a","expires_in":28800}"#, Some(now + 28_800_000)),
        ("T1 expires_in as text", r#"{"access_token":"a","expires_in":"60"}"#, Some(now + 60_000)),
        (
            "T1 expires_at in seconds",
            r#"{"access_token":"a","expires_at":1795304700}"#,
            Some(1_795_304_700_000),
        ),
        (
            "T1 expires_at in milliseconds",
            r#"{"access_token":"a","expires_at":1795304700123}"#,
            Some(1_795_304_700_123),
        ),
        ("T1 neither", r#"{"access_token":"a"}"#, Some(now + 3_600_000)),
        (
            "T1 unreadable",
            r#"{"access_token":"a","expires_in":"soon","expires_at":null}"#,
            Some(now + 3_600_000),
        ),
        ("T2 negative", r#"{"access_token":"a","expires_in":-5}"#, Some(UNTIL_REFUSED)),
        ("T2 none", r#"{"access_token":"a","expires_in":0}"#, Some(UNTIL_REFUSED)),
        ("T2 past", r#"{"access_token":"a","expires_at":1795301099}"#, Some(UNTIL_REFUSED)),
        (
            "T7 a mark before it",
            "\u{feff}{\"access_token\":\"a\",\"expires_in\":1}",
            Some(now + 1000),
        ),
        ("T7 more behind it", "{\"access_token\":\"a\",\"expires_in\":1}\n{", Some(now + 1000)),
        ("T1 absurd", r#"{"access_token":"a","expires_in":1e300}"#, Some(now + 3_600_000)),
        ("T7 no access token", r#"{"refresh_token":"r"}"#, Some(now + 3_600_000)),
        ("T2 neither token", r#"{"scope":"r"}"#, None),
        ("T2 an empty one", r#"{"access_token":""}"#, None),
        ("T2 one with a line end", r#"{"access_token":"a\nb"}"#, None),
        ("T2 no object", r#""a""#, None),
        ("T2 no JSON", "<html>", None),
    ] {
        assert_eq!(at(body), expected, "{rule}");
    }
}

#[test]
fn what_an_endpoint_says_is_shown_without_secrets_and_bounded() {
    let token = Secret::new("sk-ant-ort01-secret");
    let said = |status, body: &str| {
        let fake = Fake::new(status, body);
        refresh(&fake.http(), &endpoints(), &token, &now).unwrap_err()
    };
    let refused = said(
        400,
        r#"{"error":"invalid_grant","error_description":"token sk-ant-ort01-secret\u001b[2J is used up"}"#,
    );
    assert_eq!(
        refused.why(),
        "the token endpoint refused it: 400 (invalid_grant: token [hidden] [2J is used up)"
    );
    let nested =
        said(403, r#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#);
    assert_eq!(nested.why(), "the token endpoint answered 403 (permission_error: no)");
    assert!(matches!(nested, TokenFailure::Temporary { .. }), "T2 final is only invalid_grant");
    for (rule, status, body, is_final) in [
        ("T2", 400, r#"{"error":"invalid_grant"}"#, true),
        ("T2", 401, r#"{"error":"invalid_grant"}"#, true),
        ("T2 another status", 403, r#"{"error":"invalid_grant"}"#, false),
        ("T2 another error", 400, r#"{"error":"invalid_client"}"#, false),
        ("T2 a page", 400, "<html>invalid_grant</html>", false),
    ] {
        let is_refused = matches!(said(status, body), TokenFailure::Refused { .. });
        assert_eq!(is_refused, is_final, "{rule}: {status} {body}");
    }
    for (status, body) in [(502, ""), (504, ""), (200, "{}"), (200, "{\"access_token\":\"a\"")] {
        let failure = said(status, body);
        assert!(matches!(failure, TokenFailure::FateUnknown { .. }), "T2 {status} {failure:?}");
    }
    let limited = said(429, "<html>");
    assert_eq!(limited.why(), "the token endpoint answered 429");
    assert!(
        matches!(limited, TokenFailure::Temporary { retry_after: Some(wait), .. } if wait.as_secs() == 40)
    );
    let long = said(500, &json!({"error": {"message": "x".repeat(5_000)}}).to_string());
    assert!(long.why().len() < 300, "{}", long.why().len());
    let call = HttpCall {
        method: "POST",
        url: "http://x".to_owned(),
        headers: vec![("authorization", "Bearer sk-ant-1".to_owned())],
        body: Some(b"sk-ant-2".to_vec()),
        timeout: Duration::ZERO,
        reply_bytes_max: 0,
    };
    let reply =
        HttpReply { status: 200, headers: Vec::new(), body: b"sk-ant-3".to_vec(), cut: None };
    let shown = format!("{call:?} {reply:?}");
    assert!(!shown.contains("sk-ant"), "{shown}");
}

#[test]
fn a_profile_is_read_as_far_as_it_goes() {
    let read = |status, body: &str| {
        let fake = Fake::new(status, body);
        let profile = profile(&fake.http(), &endpoints(), &Secret::new("acc"));
        let call = fake.last();
        assert!(call.headers.contains(&("authorization", "Bearer acc".to_owned())));
        profile
    };
    let whole = r#"{"account":{"uuid":"u","email":"a@b.c","display_name":"A","has_claude_max":true,"has_claude_pro":false},
        "organization":{"uuid":"o","name":"Org"}}"#;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        read(200, whole),
        Ok(Profile {
            account_uuid: text("u"),
            email: text("a@b.c"),
            display_name: text("A"),
            tier: Tier::Max,
            org_uuid: text("o"),
            org_name: text("Org"),
        })
    );
    let tier = |body| read(200, body).map(|profile| profile.tier.word());
    assert_eq!(tier(r#"{"account":{"has_claude_pro":true}}"#), Ok("Pro"));
    assert_eq!(tier(r#"{"account":{"has_claude_max":"yes"}}"#), Ok("subscription"));
    assert_eq!(read(200, "{}"), Ok(Profile::default()));
    assert_eq!(
        read(200, "<html>"),
        Err("the profile endpoint did not answer with JSON".to_owned())
    );
    assert_eq!(
        read(401, r#"{"error":{"type":"authentication_error","message":"acc is invalid"}}"#),
        Err("the profile endpoint answered 401 (authentication_error: [hidden] is invalid)"
            .to_owned())
    );
}

#[test]
fn the_usage_endpoint_is_asked_with_its_beta_and_never_blames() {
    let read = |status, body: &str| {
        let fake = Fake::new(status, body);
        let reading = usage(&fake.http(), &endpoints(), &Secret::new("acc"), &now);
        assert!(fake.last().headers.contains(&("anthropic-beta", "oauth-2025-04-20".to_owned())));
        reading
    };
    let UsageReading::Read(report) =
        read(200, r#"{"limits":[{"kind":"session","percent":5,"resets_at":null}]}"#)
    else {
        unreachable!("the reading has a window");
    };
    assert_eq!(report.windows[0].kind, WindowKind::FiveHour);
    let too_often = UsageReading::TooOften { retry_after: Some(Duration::from_secs(40)) };
    assert_eq!(read(429, ""), too_often);
    let failed = |words: &str| UsageReading::Failed(words.to_owned());
    assert_eq!(read(401, ""), failed("the usage endpoint answered 401"));
    assert_eq!(read(200, "[]"), failed("the usage endpoint gave an unreadable answer"));
}
