//! What proves a verdict and what ends it (SPEC P7, T2, S3, S11): what the API says about
//! credentials and windows, and the ways out of a block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, Reply, Value, hello, hello_stream, json, oauth, until};
use crate::upstream::message::event;
use crate::upstream::oauth::Mode;
use crate::upstream::{Answer, Gate, Limits, Request, Step, Upstream};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A small request of the given session.
fn plain(session: &str) -> Ask {
    let mut body = hello();
    body["messages"][0]["content"] = json!(format!("Hello from {session}"));
    Ask::messages(&body).header("x-maxpool-session", session)
}

/// One OAuth account whose refresh token is valid.
fn one_oauth(upstream: &Upstream) -> Home {
    upstream.state().oauth.grant("refresh-a");
    Home::new().upstream(&upstream.url()).logins(&upstream.url()).account(oauth("a"))
}

fn message_of(reply: &Reply) -> String {
    reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
}

fn control(proxy: &Proxy, account: &str, what: &str) {
    let ask = Ask::post(&format!("/maxpool/accounts/{account}/{what}"), &json!({}));
    let reply = proxy.ask(&ask.header("x-api-key", KEY));
    assert_eq!(reply.status, 200, "{what}: {}", reply.text());
}

#[test]
fn a_403_about_the_token_refreshes_it() {
    for (path, kind, message) in [
        ("/v1/messages", "permission_error", "OAuth token has been revoked."),
        (
            "/v1/messages",
            "permission_error",
            "OAuth token has been revoked. Please obtain a new token.",
        ),
        ("/v1/messages", "forbidden", "The access token has expired"),
        ("/v1/files", "permission_error", "This OAuth token was revoked by its owner"),
    ] {
        let upstream = Upstream::with(move |request| match request.credential() {
            "token-a" => Answer::error(403, kind, message),
            _ if request.path() == "/v1/files" => Answer::json(200, "{}"),
            _ => Answer::healthy(request),
        });
        let proxy = Proxy::start(&one_oauth(&upstream));
        let ask = match path {
            "/v1/messages" => plain("one"),
            path => Ask::get(path),
        };
        let reply = proxy.ask(&ask);
        assert_eq!(reply.status, 200, "{message}: {}", reply.text());
        assert_eq!(upstream.state().oauth.refreshes, ["refresh-a"], "{message}");
        assert_eq!(proxy.ask(&plain("two")).status, 200, "{message}");
        assert_eq!(proxy.account("a")["status"], "active", "{message}");
    }
}

#[test]
fn refused_by_the_api_is_not_final_though_refreshes_succeed() {
    std::thread::scope(|scope| {
        for message in [
            "Invalid bearer token",
            "Invalid authentication credentials",
            "OAuth session not found",
        ] {
            scope.spawn(move || comes_back_after_a_401(message));
        }
    });
}

fn comes_back_after_a_401(message: &'static str) {
    let trouble = Arc::new(AtomicBool::new(true));
    let upstream = {
        let trouble = Arc::clone(&trouble);
        Upstream::with(move |request| match trouble.load(Ordering::SeqCst) {
            true => Answer::error(401, "authentication_error", message),
            false => Answer::healthy(request),
        })
    };
    let proxy = Proxy::start(&one_oauth(&upstream));
    let reply = proxy.ask(&plain("one"));
    assert_eq!(reply.status, 502, "{message}: {}", reply.text());
    assert_eq!(upstream.state().oauth.refreshes.len(), 1, "{message}");
    let block = proxy.account("a")["blocks"][0].clone();
    assert_eq!(block["reason"], "credential_refused", "{block:#}");
    assert!(block["until"].is_string(), "{block:#}");
    let reply = proxy.ask(&plain("two"));
    assert!(message_of(&reply).contains("refused"), "{}", reply.text());
    trouble.store(false, Ordering::SeqCst);
    let wait: u64 =
        reply.header("retry-after").expect("the rest has an end").parse().expect("seconds");
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(reply.header("x-should-retry"), Some("true"));
    until("it is looked at again", || (proxy.ask(&plain("three")).status == 200).then_some(()));
    assert_eq!(proxy.account("a")["status"], "active", "{message}");
}

#[test]
fn what_the_api_allows_is_served_though_our_thresholds_say_otherwise() {
    for (five_hours, week, status) in [
        (0.93, 0.1, "allowed"),
        (0.97, 0.2, "allowed_warning"),
        (0.1, 0.99, "allowed_warning"),
        (0.5, 0.995, "allowed"),
    ] {
        let upstream = Upstream::with(move |request| {
            let limits = Limits::new().status(status).window("5h", five_hours, 2 * HOUR);
            Answer::healthy(request).limits(&limits.window("7d", week, 3 * DAY))
        });
        let proxy = Proxy::start(&Home::new().upstream(&upstream.url()).account(oauth("a")));
        for number in 0..3 {
            let reply = proxy.ask(&plain(&number.to_string()));
            assert_eq!(reply.status, 200, "{five_hours} {week} {status}: {}", reply.text());
        }
    }
}

#[test]
fn paid_overage_serves_last_of_all_or_never() {
    for limits in [
        || {
            Limits::rejected("five_hour", HOUR)
                .header("anthropic-ratelimit-unified-overage-in-use", "true")
        },
        || {
            Limits::rejected("seven_day", DAY)
                .header("Anthropic-RateLimit-Unified-Overage-In-Use", "TRUE")
        },
        || {
            Limits::rejected("five_hour", HOUR)
                .header("anthropic-ratelimit-unified-overage-status", "allowed")
                .header("anthropic-ratelimit-unified-overage-in-use", "true")
        },
    ] {
        let on_a = move |request: &Request| match request.credential() {
            "token-a" => Answer::healthy(request).limits(&limits()),
            _ => Answer::healthy(request).limits(&Limits::used(0.2, 0.2)),
        };
        let start = |names: &[&str], overage: &str| {
            let upstream = Upstream::with(on_a);
            let mut home = Home::new()
                .upstream(&upstream.url())
                .set("queue.enabled", json!(false))
                .set("scheduler.overage", json!(overage));
            for name in names {
                home = home.account(oauth(name));
            }
            let proxy = Proxy::start(&home);
            (upstream, proxy)
        };
        let (_upstream, proxy) = start(&["a"], "last");
        for number in 0..5 {
            assert_eq!(proxy.ask(&plain(&number.to_string())).status, 200, "nothing else can");
        }
        let (upstream, proxy) = start(&["a", "b"], "last");
        for number in 0..6 {
            assert_eq!(proxy.ask(&plain(&number.to_string())).status, 200);
        }
        assert_eq!(upstream.count("token-a"), 1, "not while b can");
        let (upstream, proxy) = start(&["a"], "never");
        assert_eq!(proxy.ask(&plain("one")).status, 200, "nobody knew");
        for number in 0..3 {
            assert_ne!(proxy.ask(&plain(&number.to_string())).status, 200);
        }
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[test]
fn a_usage_reading_with_room_ends_what_a_restart_does_not() {
    let reading = |percent: u32| {
        let at = |wait| crate::upstream::limits::rfc3339(std::time::SystemTime::now() + wait);
        json!({"limits": [
            {"kind": "session", "percent": percent, "resets_at": at(4 * HOUR)},
            {"kind": "weekly_all", "percent": percent, "resets_at": at(6 * DAY)},
        ]})
    };
    for claim in ["seven_day", "five_hour"] {
        let upstream = Upstream::start();
        let home = Home::new()
            .upstream(&upstream.url())
            .logins(&upstream.url())
            .account(oauth("a"))
            .set("queue.enabled", json!(false));
        let mut proxy = Proxy::start(&home);
        upstream.next("token-a", crate::upstream::failures::quota(claim, 3 * HOUR));
        assert_eq!(proxy.ask(&plain("one")).status, 429);
        control(&proxy, "a", "disable");
        let mut config = home.read();
        config["accounts"][0]["enabled"] = json!(true);
        config["quotaProbeSeconds"] = json!(60);
        for (percent, status) in [(100, 429), (1, 200)] {
            proxy.terminate();
            proxy.wait_exit();
            home.write_text(&config.to_string());
            upstream.state().oauth.usage.insert("token-a".to_owned(), reading(percent));
            proxy = Proxy::start_as_is(&home);
            proxy.wait_status("the reading", |status| {
                let five_hours = status["accounts"][0]["quota"]["unified5h"].as_f64();
                five_hours == Some(f64::from(percent) / 100.0)
            });
            assert_eq!(proxy.ask(&plain("two")).status, status, "{claim} {percent} %");
        }
    }
}

#[test]
fn a_message_that_begins_late_is_no_less_torn() {
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
    let other = || event("vendor_notice", &json!({"type": "vendor_notice"}));
    let stop = |data: Value| event("message_stop", &data);
    for (events, errors) in [
        (vec![other(), start(), delta()], 1),
        (vec![b": hello\n\n".to_vec(), start(), delta()], 1),
        (vec![start(), delta(), b"event: content_block_del".to_vec()], 1),
        (vec![other(), start(), delta(), stop(json!({"type": "message_stop"}))], 0),
        (vec![start(), delta(), stop(json!({}))], 0),
        (vec![other()], 0),
    ] {
        let upstream = Upstream::with(move |_| Answer::events(events.clone()));
        let proxy = Proxy::start(&Home::new().upstream(&upstream.url()).accounts(&["a"]));
        let text = proxy.post(&hello_stream()).text();
        assert_eq!(text.matches("event: error").count(), errors, "{text}");
        proxy.wait_status("it is counted", |status| {
            status["accounts"][0]["failedRequests"] == json!(errors)
        });
    }
}

#[test]
fn an_error_without_a_type_of_its_own_is_no_answer() {
    let typed = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let untyped = r#"{"error":{"code":"1302","message":"Overloaded"}}"#;
    let page = "\u{feff}<!DOCTYPE html><title>Overloaded</title>";
    for (error, content_type) in [
        (typed, None),
        (typed, Some("text/plain")),
        (typed, Some("text/json")),
        (typed, Some("application/json; charset=utf-8")),
        (untyped, Some("application/json")),
        (page, Some("application/json")),
    ] {
        let upstream = Upstream::start();
        let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b"]).priority(1, 1);
        let proxy = Proxy::start(&home);
        let answer = Answer::bytes(200, error.as_bytes());
        upstream.always(
            "key-a",
            match content_type {
                Some(value) => answer.header("content-type", value),
                None => answer,
            },
        );
        for body in [hello(), hello_stream()] {
            let reply = proxy.post(&body);
            assert_eq!(reply.status, 200, "{content_type:?}");
            assert!(!reply.text().contains("Overloaded"), "{content_type:?}: {}", reply.text());
        }
    }
}

#[test]
fn trouble_in_streams_trips_the_breaker_too() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b"]);
    let proxy = Proxy::start(&home.set("queue.enabled", json!(false)));
    for credential in ["key-a", "key-b"] {
        upstream.always(
            credential,
            crate::upstream::failures::first_event_error("overloaded_error", "Overloaded"),
        );
    }
    assert_eq!(proxy.post(&hello_stream()).status, 529);
    assert_eq!(proxy.status()["upstreamThrottle"]["active"], json!(true));
}

#[test]
fn an_upstream_that_ends_in_v1_is_joined_once() {
    for suffix in ["/v1", "/v1/", "/base/v1"] {
        let upstream = Upstream::with(|_| Answer::message("hi"));
        let url = format!("{}{suffix}", upstream.url());
        let mut own = crate::harness::home::api_key("own");
        own["upstream"] = json!(url);
        let home = Home::new().upstream(&url).accounts(&["a"]).account(own);
        let proxy = Proxy::start(&home);
        for number in 0..2 {
            assert_eq!(proxy.ask(&plain(&number.to_string())).status, 200);
        }
        let prefix = suffix.trim_end_matches('/').trim_end_matches("/v1");
        for request in upstream.requests() {
            assert_eq!(request.path(), format!("{prefix}/v1/messages"), "{suffix}");
        }
        assert_eq!(upstream.count("key-a") + upstream.count("key-own"), 2);
    }
}

#[test]
fn a_client_that_shows_the_key_may_call_us_by_any_name() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&Home::new().upstream(&upstream.url()).accounts(&["a"]));
    let bearer = format!("Bearer {KEY}");
    for host in ["host.docker.internal:3456", "host.containers.internal", "gateway.lan:8080"] {
        let ask = || plain("one").header("host", host);
        assert_eq!(proxy.ask(&ask()).status, 403, "{host}");
        assert_eq!(proxy.ask(&ask().header("x-api-key", "wrong")).status, 403, "{host}");
        assert_eq!(proxy.ask(&ask().header("x-api-key", KEY)).status, 200, "{host}");
        assert_eq!(proxy.ask(&ask().header("authorization", &bearer)).status, 200, "{host}");
    }
}

#[test]
fn a_refused_route_is_answered_at_once_each_time() {
    let upstream = Upstream::with(|request| match request.path() {
        "/v1/messages" => Answer::healthy(request),
        _ => Answer::error(401, "authentication_error", "This API does not take OAuth tokens."),
    });
    let proxy = Proxy::start(
        &Home::new().upstream(&upstream.url()).account(oauth("a")).account(oauth("b")),
    );
    assert_eq!(proxy.ask(&plain("one")).status, 200);
    for _ in 0..3 {
        let begun = Instant::now();
        let reply = proxy.ask(&Ask::get("/v1/organizations/usage"));
        assert_eq!(reply.status, 502, "{}", reply.text());
        assert!(message_of(&reply).contains("does not take OAuth"), "{}", reply.text());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    control(&proxy, "a", "retry");
    assert_eq!(proxy.account("a")["status"], "active");
}

#[test]
fn a_401_while_the_token_endpoint_is_down_is_a_rest_after_a_401() {
    std::thread::scope(|scope| {
        for mode in [Mode::ResetAfterRotation, Mode::RateLimited] {
            scope.spawn(move || rests_after_a_401(mode));
        }
    });
}

fn rests_after_a_401(mode: Mode) {
    let upstream =
        Upstream::with(|_| Answer::error(401, "authentication_error", "Invalid bearer token"));
    let home = one_oauth(&upstream);
    let proxy = Proxy::start(&home);
    upstream.state().oauth.mode = mode;
    let start = Instant::now();
    for number in ["one", "two"] {
        let reply = proxy.ask(&plain(number));
        let message = reply.assert_error(502, "account_auth_error");
        assert!(message.contains("(a: refused by the API"), "{message}");
        assert_eq!(reply.header("x-should-retry"), Some("true"));
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "it is not waited for");
    let calls = || upstream.requests().iter().filter(|one| one.path() == "/v1/messages").count();
    let refreshes = || upstream.state().oauth.refreshes.len();
    assert_eq!((calls(), refreshes()), (1, 1));
    let account = proxy.account("a");
    assert_eq!(account["status"], "error", "{account:#}");
    assert_eq!(account["blocks"][0]["reason"], "credential_refused", "{account:#}");
    until("one request looks while no refresh may be sent", || {
        proxy.ask(&plain("three")).assert_error(502, "account_auth_error");
        (calls() == 2).then_some(())
    });
    assert_eq!(refreshes(), 1);
}

#[test]
fn after_a_401_the_refresh_that_failed_is_tried_again_by_the_first_request_that_may() {
    let upstream = Upstream::with(|request| match request.credential() {
        "token-a" => Answer::error(401, "authentication_error", "Invalid bearer token"),
        _ => Answer::healthy(request),
    });
    let home = one_oauth(&upstream);
    let proxy = Proxy::start(&home);
    upstream.state().oauth.mode = Mode::RateLimited;
    proxy.ask(&plain("one")).assert_error(502, "account_auth_error");
    upstream.state().oauth.mode = Mode::Rotate;
    for what in ["disable", "enable"] {
        control(&proxy, "a", what);
    }
    assert_eq!(proxy.ask(&plain("two")).status, 200, "enabling lifts what retry lifts");
    assert_eq!(proxy.account("a")["status"], "active");
}

/// The answer to the next refresh: a 429, once the gate is open.
fn hold_a_failing_refresh(upstream: &Upstream) -> Gate {
    let gate = upstream.gate();
    let answer = Answer::error(429, "rate_limit_error", "Rate limited. Please try again later.");
    let answer = answer.limits(&Limits::new().retry_after(30));
    upstream.next("", answer.before(Step::Hold(gate.clone())));
    gate
}

#[test]
fn a_refused_token_goes_out_once_though_many_wait_for_its_refresh() {
    let upstream =
        Upstream::with(|_| Answer::error(401, "authentication_error", "Invalid bearer token"));
    let proxy = Proxy::start(&one_oauth(&upstream));
    let gate = hold_a_failing_refresh(&upstream);
    let first = proxy.post_aside(&hello());
    upstream.wait("the refresh", |state| state.requests.len() == 2);
    let crowd: Vec<_> = (0..4).map(|_| proxy.post_aside(&hello())).collect();
    until("they wait", || (proxy.status()["requestsInFlight"] == 5).then_some(()));
    gate.open();
    for client in crowd.into_iter().chain([first]) {
        client.join().expect("a client").assert_error(502, "account_auth_error");
    }
    assert_eq!(upstream.requests().len(), 2, "one call and one refresh");
}

#[test]
fn a_client_that_leaves_during_the_refresh_takes_no_look_from_the_others() {
    let refused = Arc::new(AtomicBool::new(true));
    let upstream = Upstream::with({
        let refused = Arc::clone(&refused);
        move |request| match refused.load(Ordering::SeqCst) {
            true => Answer::error(401, "authentication_error", "Invalid bearer token"),
            false => Answer::healthy(request),
        }
    });
    let proxy = Proxy::start(&one_oauth(&upstream));
    let gate = hold_a_failing_refresh(&upstream);
    let mut client = proxy.connect();
    client.send_ask(&plain("one"));
    upstream.wait("the refresh", |state| state.requests.len() == 2);
    drop(client);
    until("it is gone", || (proxy.status()["requestsInFlight"] == 0).then_some(()));
    gate.open();
    let failed = |line: &String| line.contains("429");
    until("the refresh fails", || proxy.log().iter().any(failed).then_some(()));
    refused.store(false, Ordering::SeqCst);
    assert_eq!(proxy.ask(&plain("two")).status, 200, "the API takes the token again");
}

#[test]
fn the_request_that_looks_sends_the_refused_token_if_its_refresh_fails() {
    let upstream =
        Upstream::with(|_| Answer::error(401, "authentication_error", "Invalid bearer token"));
    let proxy = Proxy::start(&one_oauth(&upstream));
    upstream.state().oauth.mode = Mode::RateLimited;
    for number in 1..=2 {
        proxy.ask(&plain("one")).assert_error(502, "account_auth_error");
        let requests = upstream.requests();
        let calls = requests.iter().filter(|request| request.path() == "/v1/messages").count();
        assert_eq!((calls, upstream.state().oauth.refreshes.len()), (number, number));
        control(&proxy, "a", "retry");
    }
}
