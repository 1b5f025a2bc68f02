//! Which requests a refusal concerns (SPEC P6, P7): odd requests alongside plain ones of other
//! sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Ask, Home, Proxy, Reply, Value, api_key, hello, hello_stream, json};
use crate::upstream::{Answer, Limits, Request, Upstream};

const HOUR: Duration = Duration::from_secs(3600);

fn pool(upstream: &Upstream, accounts: &[&str]) -> Proxy {
    Proxy::start(&Home::new().upstream(&upstream.url()).accounts(accounts))
}

/// One event of a stream.
fn event(kind: &str, data: &Value) -> Vec<u8> {
    format!("event: {kind}\ndata: {data}\n\n").into_bytes()
}

/// A small request of the given session.
fn plain(session: &str) -> Ask {
    let mut body = hello();
    body["messages"][0]["content"] = json!(format!("Hello from {session}"));
    Ask::messages(&body).header("x-maxpool-session", session)
}

/// Recognises a test's odd request.
fn is_odd(request: &Request) -> bool {
    request.header("x-odd").is_some()
}

fn odd() -> Ask {
    let mut body = hello();
    body["messages"][0]["content"] = json!("Something odd");
    Ask::messages(&body).header("x-maxpool-session", "odd").header("x-odd", "1")
}

fn odd_calls(upstream: &Upstream) -> usize {
    upstream.requests().iter().filter(|request| is_odd(request)).count()
}

fn message_of(reply: &Reply) -> String {
    reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
}

/// Sends the odd request while plain requests of other sessions arrive five times a second. Returns
/// its answer, how long it took, and how long the slowest of the others took.
fn beside_plain(proxy: &Proxy, odd: &Ask) -> (Reply, Duration, Duration) {
    let over = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            for round in 0.. {
                if over.load(Ordering::SeqCst) && round >= 6 {
                    break;
                }
                let begun = Instant::now();
                let reply = proxy.ask(&plain(&format!("plain-{}", round % 3)));
                assert_eq!(reply.status, 200, "a plain request: {}", reply.text());
                slowest = slowest.max(begun.elapsed());
                std::thread::sleep(Duration::from_millis(100));
            }
            slowest
        });
        let begun = Instant::now();
        let reply = proxy.ask(odd);
        let took = begun.elapsed();
        over.store(true, Ordering::SeqCst);
        (reply, took, others.join().unwrap())
    })
}

/// Asserts that no account is blocked or avoided.
fn assert_nobody_blamed(proxy: &Proxy) {
    for account in proxy.status()["accounts"].as_array().unwrap() {
        assert_eq!(account["status"], "active", "{account:#}");
        assert_eq!(account["blocks"], json!([]), "{account:#}");
    }
}

#[test]
fn what_only_this_request_asks_for_is_its_own() {
    for (status, kind, message, retry_after) in [
        (429, "rate_limit_error", "Extra usage is required for long context requests", None),
        (429, "rate_limit_error", "Fast mode is not included; add extra usage", Some("60")),
        (429, "rate_limit_error", "This needs usage credits", None),
        (400, "invalid_request_error", "The long context beta is not yet available", None),
    ] {
        let upstream = Upstream::with(move |request| match is_odd(request) {
            true => {
                let answer = Answer::error(status, kind, message);
                match retry_after {
                    Some(seconds) => answer.header("retry-after", seconds),
                    None => answer,
                }
            }
            false => Answer::healthy(request),
        });
        let proxy = pool(&upstream, &["a", "b"]);
        let (reply, took, slowest) = beside_plain(&proxy, &odd());
        assert_eq!((reply.status, message_of(&reply).as_str()), (status, message));
        assert!(took < Duration::from_secs(2), "{message}: {took:?}");
        assert!(slowest < Duration::from_secs(1), "{message}: {slowest:?}");
        assert_eq!(odd_calls(&upstream), 2, "{message}: once an account");
        assert_nobody_blamed(&proxy);
        assert_eq!(proxy.status()["blamelessRefusals"], 2);
    }
}

#[test]
fn what_nobody_else_meets_turns_out_as_the_requests_own() {
    for (status, kind, message) in [
        (429, "rate_limit_error", "Error"),
        (429, "rate_limit_error", "Too many requests, id req_0123 refused"),
        (500, "api_error", "Internal server error"),
        (500, "api_error", "Something went wrong in shard 7"),
    ] {
        let upstream = Upstream::with(move |request| match is_odd(request) {
            true => Answer::error(status, kind, message),
            false => Answer::healthy(request),
        });
        let proxy = pool(&upstream, &["a", "b", "c"]);
        let (reply, took, slowest) = beside_plain(&proxy, &odd());
        assert_eq!((reply.status, message_of(&reply).as_str()), (status, message));
        assert!(took < Duration::from_secs(5), "{message}: {took:?}");
        assert!(slowest < Duration::from_secs(1), "{message}: {slowest:?}");
        assert_eq!(odd_calls(&upstream), 4, "{message}: once an account and one look");
        assert_nobody_blamed(&proxy);
        assert_eq!(proxy.status()["upstreamThrottle"]["active"], json!(false), "{message}");
    }
}

#[test]
fn two_unrelated_requests_that_meet_the_same_prove_it() {
    for (status, message) in [(500, "Internal server error"), (503, "upstream connect error")] {
        let upstream = Upstream::start();
        let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b"]).priority(1, 1);
        let proxy = Proxy::start(&home);
        upstream.always("key-a", Answer::error(status, "api_error", message));
        assert_eq!(proxy.ask(&plain("one")).status, 200);
        let blocks = proxy.account("a")["blocks"].clone();
        assert_eq!(blocks[0]["effect"], "avoided", "{status}: {blocks:#}");
        upstream.always("key-b", Answer::error(529, "overloaded_error", "Overloaded"));
        // The other account is blocked, so the avoided one serves what no other account can.
        let asked = plain("two");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| proxy.ask(&asked));
            proxy.wait_status("a is out", |status| {
                let blocks = status["accounts"][0]["blocks"].as_array().unwrap();
                blocks.iter().any(|block| block["effect"] == "out")
            });
            upstream.heal("key-a");
            upstream.heal("key-b");
            for name in ["a", "b"] {
                let retried = proxy.ask(
                    &Ask::post(&format!("/maxpool/accounts/{name}/retry"), &json!({}))
                        .header("x-api-key", crate::harness::home::KEY),
                );
                assert_eq!(retried.status, 200, "{}", retried.text());
            }
            assert_eq!(waiting.join().unwrap().status, 200, "{status}");
        });
    }
}

#[test]
fn a_route_that_an_account_may_not_use_says_nothing_about_messages() {
    for (path, status, kind, message) in [
        (
            "/v1/messages/batches",
            401,
            "authentication_error",
            "OAuth authentication is currently not supported.",
        ),
        (
            "/v1/files",
            403,
            "permission_error",
            "OAuth token does not meet scope requirement user:files",
        ),
        ("/v1/skills", 401, "authentication_error", "This endpoint needs an API key"),
    ] {
        let upstream = Upstream::with(move |request| match request.path() == path {
            true => Answer::error(status, kind, message),
            false => Answer::healthy(request),
        });
        let proxy = pool(&upstream, &["a", "b"]);
        for _ in 0..2 {
            let reply = proxy.ask(&Ask::get(path));
            assert_eq!(reply.status, 502, "{path}: {}", reply.text());
            let said = message_of(&reply);
            assert!(said.contains(message.trim_end_matches('.')), "{path}: {said}");
            let begun = Instant::now();
            assert_eq!(proxy.ask(&plain("plain")).status, 200);
            assert!(begun.elapsed() < Duration::from_secs(1), "{path}");
        }
        for account in proxy.status()["accounts"].as_array().unwrap() {
            assert_eq!(account["status"], "active", "{path}: {account:#}");
            assert_eq!(account["cooldownUntil"], Value::Null, "{path}: {account:#}");
        }
    }
}

#[test]
fn counting_tokens_never_holds_messages_up() {
    for retry_after in [None, Some("40")] {
        let upstream = Upstream::with(move |request| {
            match (request.path() == "/v1/messages/count_tokens", retry_after) {
                (true, None) => Answer::error(429, "rate_limit_error", "Error"),
                (true, Some(seconds)) => Answer::error(
                    429,
                    "rate_limit_error",
                    "Number of count_tokens requests has exceeded your organization's limit",
                )
                .header("retry-after", seconds),
                (false, _) => Answer::healthy(request),
            }
        });
        let home = Home::new()
            .upstream(&upstream.url())
            .accounts(&["a", "b"])
            .set("queue.countTokensMaxWaitMs", json!(300));
        let proxy = Proxy::start(&home);
        std::thread::scope(|scope| {
            for number in 0..20 {
                let proxy = &proxy;
                scope.spawn(move || {
                    let ask = Ask::post("/v1/messages/count_tokens", &hello());
                    let reply = proxy.ask(&ask.header("x-maxpool-session", &number.to_string()));
                    // The API's own answer, or ours once two unrelated requests have met the same
                    // refusal.
                    assert!(matches!(reply.status, 429 | 529), "{}", reply.text());
                });
            }
        });
        let begun = Instant::now();
        assert_eq!(proxy.ask(&plain("plain")).status, 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

#[test]
fn other_routes_are_served_while_the_message_windows_are_full() {
    let upstream = Upstream::with(|request| match request.path() {
        "/v1/messages" => Answer::error(429, "rate_limit_error", "your account's limit")
            .limits(&Limits::rejected("five_hour", HOUR)),
        _ => Answer::json(200, r#"{"data":[]}"#),
    });
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    assert_eq!(proxy.ask(&plain("plain")).status, 429);
    let calls = upstream.requests().len();
    assert_eq!(proxy.ask(&plain("other")).status, 429, "both are out for everyone");
    assert_eq!(upstream.requests().len(), calls);
    assert_eq!(proxy.ask(&Ask::get("/v1/models?limit=1000")).status, 200);
    assert_eq!(proxy.ask(&Ask::post("/v1/messages/count_tokens", &hello())).status, 200);
    assert_eq!(proxy.ask(&Ask::new("HEAD", "/api/hello")).status, 200, "answered here");
    assert_eq!(upstream.requests().len(), calls + 2);
}

#[test]
fn what_the_api_says_of_the_account_takes_it_out_alone() {
    for (status, kind, message) in [
        (400, "invalid_request_error", "This organization has been disabled."),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API.",
        ),
        (402, "billing_error", "Please pay"),
        (403, "permission_error", "Your account has been suspended."),
    ] {
        let upstream = Upstream::start();
        let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b"]).priority(1, 1);
        let proxy = Proxy::start(&home);
        upstream.always("key-a", Answer::error(status, kind, message));
        for number in 0..4 {
            assert_eq!(proxy.ask(&plain(&format!("s{}", number % 2))).status, 200, "{message}");
        }
        assert_eq!(upstream.count("key-a"), 1, "{message}: not asked again");
        let block = proxy.account("a")["blocks"][0].clone();
        assert_eq!(block["reason"], "unusable", "{block:#}");
        assert_eq!(block["evidence"]["message"], message, "{block:#}");
    }
}

#[test]
fn a_message_that_repeats_the_clients_text_is_passed_on() {
    let body = r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.0: the account was disabled yesterday"}}"#;
    let upstream = Upstream::with(move |request| match is_odd(request) {
        true => Answer::json(400, body),
        false => Answer::healthy(request),
    });
    let proxy = pool(&upstream, &["a", "b"]);
    let reply = proxy.ask(&odd());
    assert_eq!((reply.status, reply.text()), (400, body.into()));
    assert_eq!(odd_calls(&upstream), 1);
    assert_nobody_blamed(&proxy);
}

#[test]
fn a_403_that_names_nobody_blames_nobody() {
    let pages = [
        Answer::error(403, "forbidden", "Request not allowed"),
        Answer::bytes(403, b"<html>Attention Required!</html>").header("content-type", "text/html"),
    ];
    for page in pages {
        let upstream = Upstream::start();
        let proxy = pool(&upstream, &["a", "b"]);
        for credential in ["key-a", "key-b"] {
            upstream.next(credential, page.clone());
        }
        let reply = proxy.ask(&plain("one"));
        assert_eq!(reply.status, 502, "{}", reply.text());
        assert_eq!(reply.json()["error"]["type"], "proxy_error");
        assert_eq!(upstream.requests().len(), 2, "once an account");
        assert_nobody_blamed(&proxy);
        // If another account serves a refused request, the first account becomes avoided.
        upstream.next("key-a", page.clone());
        upstream.next("key-a", page);
        for session in ["two", "three", "four"] {
            assert_eq!(proxy.ask(&plain(session)).status, 200);
        }
        let status = proxy.account("a");
        assert_eq!(status["blocks"][0]["reason"], "forbidden", "{status:#}");
        assert_eq!(status["blocks"][0]["effect"], "avoided", "{status:#}");
    }
}

#[test]
fn a_model_that_one_account_lacks_is_served_by_another() {
    for (status, kind, message) in [
        (404, "not_found_error", "model: claude-opus-4-1"),
        (404, "not_found_error", "The requested model was not found"),
        (400, "invalid_request_error", "Invalid model name"),
    ] {
        let lacking = move |request: &Request| request.json()["model"] == "claude-opus-4-1";
        let upstream = Upstream::with(move |request| {
            match lacking(request) && request.credential() == "key-a" {
                true => Answer::error(status, kind, message),
                false => Answer::healthy(request),
            }
        });
        let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b"]).priority(1, 1);
        let proxy = Proxy::start(&home);
        let mut opus = hello();
        opus["model"] = json!("claude-opus-4-1");
        for _ in 0..2 {
            assert_eq!(proxy.post(&opus).status, 200, "{message}");
        }
        let asked = upstream.requests().iter().filter(|request| lacking(request)).count();
        assert_eq!(asked, 3, "{message}: a is not asked twice");
        let before = upstream.count("key-a");
        assert_eq!(proxy.ask(&plain("plain")).status, 200);
        assert_eq!(upstream.count("key-a"), before + 1, "a serves its other models");
        assert_eq!(proxy.account("a")["status"], "active");
    }
}

#[test]
fn a_limit_of_one_family_leaves_the_others_alone() {
    let opus = |request: &Request| request.json()["model"].as_str().unwrap().contains("opus");
    let upstream = Upstream::with(move |request| match opus(request) {
        true => Answer::error(429, "rate_limit_error", "Error").limits(
            &Limits::rejected("seven_day_overage_included", HOUR)
                .window("7d_oi", 1.0, HOUR)
                .window("5h", 0.3, HOUR)
                .window("7d", 0.4, HOUR)
                .header("anthropic-ratelimit-unified-7d_oi-status", "rejected")
                .header("anthropic-ratelimit-unified-5h-status", "allowed"),
        ),
        false => Answer::healthy(request),
    });
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let mut body = hello();
    body["model"] = json!("claude-opus-4-5");
    for _ in 0..3 {
        assert_eq!(proxy.post(&body).status, 429);
    }
    assert_eq!(upstream.requests().len(), 1, "opus is out until the reset");
    assert_eq!(proxy.ask(&plain("plain")).status, 200);
}

#[test]
fn an_api_keys_limits_are_those_of_a_family() {
    let upstream = Upstream::with(|request| {
        let limits = Limits::new();
        let is_opus = request.json()["model"].as_str().unwrap().contains("opus");
        let remaining = if is_opus { 0 } else { 90 };
        Answer::healthy(request).limits(&limits.counted("tokens", 100, remaining, HOUR))
    });
    let home = Home::new()
        .upstream(&upstream.url())
        .account(api_key("key"))
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let mut body = hello();
    body["model"] = json!("claude-opus-4-5");
    assert_eq!(proxy.post(&body).status, 200);
    assert_eq!(proxy.post(&body).status, 429, "opus has used its tokens up");
    body["model"] = json!("claude-haiku-4-5");
    for _ in 0..2 {
        assert_eq!(proxy.post(&body).status, 200, "haiku has not");
    }
}

#[test]
fn a_half_answer_is_no_whole_one() {
    let start = || {
        event(
            "message_start",
            &json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}}),
        )
    };
    let delta = || {
        event(
            "content_block_delta",
            &json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half"}}),
        )
    };
    let ping = || event("ping", &json!({"type": "ping"}));
    let data_only = |event: Vec<u8>| {
        let text = String::from_utf8(event).unwrap();
        text.lines()
            .filter(|line| !line.starts_with("event:"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .into_bytes()
    };
    for events in [
        vec![start(), delta(), delta()],
        vec![ping(), start(), delta(), delta()],
        vec![data_only(start()), data_only(delta()), data_only(delta())],
    ] {
        let upstream = Upstream::with(move |_| Answer::events(events.clone()));
        let proxy = pool(&upstream, &["a"]);
        let reply = proxy.post(&hello_stream());
        let text = reply.text();
        assert_eq!(text.matches("\"type\":\"error\"").count(), 1, "{text}");
        assert!(text.contains("half"), "{text}");
        proxy.wait_status("it counts as failed", |status| {
            status["accounts"][0]["failedRequests"] == 1
        });
    }
}

#[test]
fn no_answer_is_a_failure_that_another_account_cures() {
    let answers: [fn() -> Answer; 6] = [
        || {
            Answer::bytes(200, b"<html>Sign in to the network</html>")
                .header("content-type", "text/html")
        },
        || Answer::bytes(200, b"").header("content-type", "application/json"),
        || {
            Answer::bytes(200, b"  <!doctype html><p>oops")
                .header("content-type", "application/json")
        },
        || Answer::json(200, r#"{"type":"error","error":{"type":"api_error","message":"oops"}}"#),
        || {
            Answer::json(
                200,
                r#"{"error":{"type":"overloaded_error","message":"Overloaded"},"type":"error"}"#,
            )
        },
        || Answer::bytes(200, b"").header("content-type", "text/event-stream"),
    ];
    for answer in answers {
        let upstream = Upstream::start();
        let home = Home::new()
            .upstream(&upstream.url())
            .accounts(&["a", "b"])
            .priority(1, 1)
            .set("queue.enabled", json!(false));
        let proxy = Proxy::start(&home);
        upstream.always("key-a", answer());
        for (session, streams) in [("one", false), ("two", true), ("one", false)] {
            let mut body = if streams { hello_stream() } else { hello() };
            body["messages"][0]["content"] = json!(session);
            let reply = proxy.ask(&Ask::messages(&body).header("x-maxpool-session", session));
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(!reply.text().contains("oops") && !reply.text().contains("<html>"));
        }
        upstream.always("key-b", answer());
        let reply = proxy.ask(&plain("three"));
        assert!(matches!(reply.status, 500 | 502 | 529), "{} {}", reply.status, reply.text());
        assert!(!reply.text().contains('<'), "never a page: {}", reply.text());
    }
}

#[test]
fn an_error_behind_a_ping_moves_the_request_on() {
    for (kind, status) in [("overloaded_error", 529), ("api_error", 500), ("rate_limit_error", 429)]
    {
        let upstream = Upstream::start();
        let home = Home::new()
            .upstream(&upstream.url())
            .accounts(&["a", "b"])
            .priority(1, 1)
            .set("queue.enabled", json!(false));
        let proxy = Proxy::start(&home);
        let error = || crate::upstream::failures::ping_then_error(kind, "Busy");
        upstream.next("key-a", error());
        let reply = proxy.post(&hello_stream());
        assert!(reply.status == 200 && reply.text().contains("message_stop"), "{}", reply.text());
        let retried = proxy.ask(
            &Ask::post("/maxpool/accounts/a/retry", &json!({}))
                .header("x-api-key", crate::harness::home::KEY),
        );
        assert_eq!(retried.status, 200, "{}", retried.text());
        for credential in ["key-a", "key-b"] {
            upstream.next(credential, error());
        }
        let reply = proxy.post(&hello_stream());
        assert_eq!((reply.status, message_of(&reply).as_str()), (status, "Busy"));
    }
}

#[test]
fn a_lifted_limit_comes_back_by_retry() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let control = |what: &str| {
        let ask = Ask::post(&format!("/maxpool/accounts/a/{what}"), &json!({}));
        let reply = proxy.ask(&ask.header("x-api-key", crate::harness::home::KEY));
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
    };
    let limit = || {
        upstream.next("key-a", crate::upstream::failures::quota("seven_day", 72 * HOUR));
        assert_eq!(proxy.ask(&plain("plain")).status, 429);
        assert_eq!(proxy.ask(&plain("plain")).status, 429);
    };
    limit();
    let block = proxy.account("a")["blocks"][0].clone();
    assert!(block["liftedBy"].as_str().unwrap().contains("usage reading"), "{block:#}");
    control("retry");
    assert_eq!(proxy.ask(&plain("plain")).status, 200);
    limit();
    control("disable");
    control("enable");
    assert_eq!(proxy.ask(&plain("plain")).status, 200);
}

#[test]
fn a_wrong_clock_changes_no_wait() {
    let date = |ahead: i64| {
        let now = std::time::SystemTime::now();
        let hours = Duration::from_secs(ahead.unsigned_abs() * 3600);
        let at = if ahead >= 0 { now + hours } else { now - hours };
        (httpdate(at), at)
    };
    for (ahead, retry_after, wait) in [(1, Some("20"), 20), (-2, None, 600)] {
        let (said, at) = date(ahead);
        let reset = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + wait;
        let upstream = Upstream::with(move |_| {
            let answer = Answer::error(429, "rate_limit_error", "your account's limit")
                .header("date", &said)
                .header("anthropic-ratelimit-unified-status", "rejected")
                .header("anthropic-ratelimit-unified-representative-claim", "five_hour")
                .header("anthropic-ratelimit-unified-reset", &reset.to_string());
            match retry_after {
                Some(seconds) => answer.header("retry-after", seconds),
                None => answer,
            }
        });
        let home = Home::new()
            .upstream(&upstream.url())
            .accounts(&["a"])
            .set("queue.enabled", json!(false));
        let proxy = Proxy::start(&home);
        let reply = proxy.ask(&plain("plain"));
        assert_eq!(reply.status, 429);
        let told: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!(told.abs_diff(wait) <= 5, "{told} s, not {wait} s");
    }
}

/// The date format of RFC 9110.
fn httpdate(at: std::time::SystemTime) -> String {
    let secs = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (days, rest) = (secs / 86_400, secs % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    // A date from a day count (Howard Hinnant's `civil_from_days`).
    let z = days as i64 + 719_468;
    let era = z / 146_097;
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let names =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    format!(
        "{weekday}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        names[(month - 1) as usize],
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[test]
fn four_seconds_of_401_end_by_themselves() {
    let trouble = Arc::new(AtomicBool::new(true));
    let upstream = {
        let trouble = Arc::clone(&trouble);
        Upstream::with(move |request| match trouble.load(Ordering::SeqCst) {
            true => Answer::error(401, "authentication_error", "Invalid bearer token"),
            false => Answer::healthy(request),
        })
    };
    let home = Home::new().upstream(&upstream.url()).account(api_key("key"));
    let proxy = Proxy::start(&home);
    let reply = proxy.ask(&plain("one"));
    assert_eq!(reply.status, 502, "{}", reply.text());
    let calls = upstream.requests().len();
    assert_eq!(proxy.ask(&plain("two")).status, 502, "it rests");
    assert_eq!(upstream.requests().len(), calls);
    trouble.store(false, Ordering::SeqCst);
    let back = crate::harness::until("it is looked at again", || {
        Some(proxy.ask(&plain("three"))).filter(|reply| reply.status == 200)
    });
    assert_eq!(back.status, 200);
    assert_eq!(proxy.account("key")["status"], "active");
}

#[test]
fn ids_belong_to_the_account_that_made_them() {
    let upstream = Upstream::with(|request| match request.path() {
        path if path.starts_with("/v1/files/") => Answer::json(200, "{}"),
        "/v1/files" => Answer::json(200, r#"{"id":"file_011abc","type":"file"}"#),
        "/v1/messages" if request.json()["tools"] != Value::Null => Answer::json(
            200,
            r#"{"id":"msg_1","type":"message","content":[],"container":{"id":"container_7","expires_at":"2026-12-01T00:00:00Z"},"usage":{"input_tokens":1,"output_tokens":1}}"#,
        ),
        _ => Answer::healthy(request),
    });
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b", "c"]);
    let mut proxy = Proxy::start(&home);
    let owner = |upstream: &Upstream| upstream.requests().last().unwrap().credential().to_owned();
    let mut body = hello();
    body["tools"] = json!([{"type": "code_execution_20250825", "name": "code_execution"}]);
    assert_eq!(proxy.post(&body).status, 200);
    let container = owner(&upstream);
    assert_eq!(proxy.ask(&Ask::post("/v1/files", &json!({"name": "x"}))).status, 200);
    let file = owner(&upstream);
    for round in 0..2 {
        for number in 0..4 {
            let mut body = hello();
            body["messages"][0]["content"] = json!(format!("round {round} {number}"));
            body["container"] = json!("container_7");
            assert_eq!(proxy.post(&body).status, 200);
            assert_eq!(owner(&upstream), container, "by container");
            let mut body = hello();
            body["messages"][0]["content"] =
                json!([{"type": "document", "source": {"type": "file", "file_id": "file_011abc"}}]);
            assert_eq!(proxy.post(&body).status, 200);
            assert_eq!(owner(&upstream), file, "by file");
            assert_eq!(proxy.ask(&Ask::get("/v1/files/file_011abc/content")).status, 200);
            assert_eq!(owner(&upstream), file, "by path");
        }
        proxy.terminate();
        proxy.wait_exit();
        proxy = Proxy::start_as_is(&home);
    }
}

#[test]
fn a_request_in_suspense_looks_at_each_account_by_turns() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .priority(1, 1)
        .set("scheduler.cooldownMs", json!(200));
    let proxy = Proxy::start(&home);
    let refusal = || Answer::error(500, "api_error", "Internal server error");
    // The preferred account never serves; the other one fails once.
    upstream.always("key-a", refusal());
    upstream.next("key-b", refusal());
    let mut client = proxy.connect();
    client.patience(Duration::from_secs(8));
    let ask = Ask::messages(&hello());
    client.send_ask(&ask);
    client.read_reply(&ask).assert_said("Hello from upstream.");
    assert_eq!((upstream.count("key-a"), upstream.count("key-b")), (2, 2));
}
