//! Our own errors (SPEC P14): the API's shape, the true cause, what to do, and the time if known.

use std::time::Duration;

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, Reply, hello, hello_stream, json};
use crate::upstream::{Upstream, failures};

/// Asserts what all our own errors have in common.
fn assert_own(reply: &Reply) -> String {
    assert_eq!(reply.header("content-type"), Some("application/json"), "{}", reply.text());
    let error = reply.json();
    assert_eq!(error["type"], "error");
    let (_, message) = reply.error();
    assert!(message.len() > 10, "{message}");
    for word in ["key-a", "key-b", "token-a", KEY, "sk-ant"] {
        assert!(!reply.text().contains(word), "{word} is in {}", reply.text());
    }
    message
}

#[test]
fn without_an_account_the_client_is_told_how_to_add_one() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url());
    let proxy = Proxy::start(&home);
    for ask in [Ask::messages(&hello()), Ask::messages(&hello_stream()), Ask::get("/v1/models")] {
        let reply = proxy.ask(&ask);
        assert_eq!(reply.status, 503);
        let message = assert_own(&reply);
        assert!(message.contains("maxpool login"), "{message}");
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(proxy.ask(&Ask::get("/maxpool/health")).status, 200, "health is about the proxy");
}

#[test]
fn with_every_account_disabled_the_text_does_not_blame_quota() {
    let home = Home::new().accounts(&["a"]).set("accounts.0.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let reply = proxy.post(&hello());
    assert_eq!(reply.status, 503);
    let message = assert_own(&reply).to_lowercase();
    assert!(!message.contains("limit"), "{message}");
}

#[test]
fn a_limit_says_when_it_ends_and_whether_to_come_back() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b", "c"])
        .set("accounts.2.enabled", json!(false))
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    // Rounded up to the minute, so that clients do not return too early.
    let wait = Duration::from_secs(2 * 3600 + 13 * 60 + 30);
    upstream.always("key-a", failures::quota("five_hour", wait));
    upstream.always("key-b", failures::quota("five_hour", wait + wait));
    let reply = proxy.post(&hello());
    let message = assert_own(&reply);
    reply.assert_error(429, "rate_limit_error");
    assert!(
        ["in 2h 14m", "in 2h 15m"].iter().any(|time| message.contains(time)),
        "times are durations: {message}"
    );
    assert!(!message.contains("of 3"), "three accounts are configured, two are enabled: {message}");
    let retry: u64 = reply.header("retry-after").expect("known").parse().expect("seconds");
    assert!((8005..=8012).contains(&retry), "{retry}");
    let again = reply.header("x-should-retry").expect("always there");
    assert!(["true", "false"].contains(&again), "{again}");
}

#[test]
fn a_credential_that_was_refused_is_named() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["work-account"])
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    upstream.always("key-work-account", failures::unauthorized());
    for _ in 0..2 {
        let reply = proxy.post(&hello());
        let message = reply.assert_error(502, "account_auth_error");
        assert!(message.contains("work-account"), "{message}");
        assert!(!message.contains("key-work-account"), "{message}");
    }
    assert_eq!(upstream.requests().len(), 1, "a refused key is not tried again");
}

#[test]
fn a_body_that_is_too_big_says_who_refused() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    let mut client = proxy.connect();
    client.send(
        b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n\r\n",
    );
    let reply = client.read_reply(&Ask::messages(&hello()));
    let message = reply.assert_error(413, "invalid_request_error");
    assert!(message.contains("256"), "the limit is in it: {message}");
    assert!(message.contains("maxpool"), "and whose it is: {message}");
}

#[test]
fn a_streaming_request_that_fails_at_once_gets_a_plain_error() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    upstream.always("key-a", failures::quota("five_hour", Duration::from_secs(3600)));
    let reply = proxy.post(&hello_stream());
    reply.assert_error(429, "rate_limit_error");
    assert_own(&reply);
}

#[test]
fn the_connection_stays_usable_after_an_error_of_ours() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    upstream.next("key-a", failures::invalid());
    let mut client = proxy.connect();
    assert_eq!(client.ask(&Ask::messages(&hello())).status, 400);
    assert_eq!(client.ask(&Ask::get("/maxpool/none").header("x-api-key", KEY)).status, 404);
    client.ask(&Ask::messages(&hello())).assert_said("Hello from upstream.");
}
