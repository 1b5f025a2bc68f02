//! Tokens that each account has used (SPEC P13).

use crate::harness::{Ask, Home, Proxy, Value, hello, hello_stream, json, until};
use crate::upstream::message::event;
use crate::upstream::{Answer, Message, Step, Upstream};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Waits until the account has finished `requests`, and returns its usage.
fn usage(proxy: &Proxy, requests: u64) -> Value {
    until("the request be counted", || {
        let account = proxy.account("a");
        (account["usage"]["totalRequests"] == requests).then(|| account["usage"].clone())
    })
}

#[test]
fn input_and_output_are_counted_from_streams_and_documents() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut total = (0, 0);
    let message = Message::text("one two three").tokens(100, 20, 0, 0);
    let answers = [
        (Answer::of(message.clone()), true),
        (Answer::of(message.clone()).pieces(1), true),
        (Answer::of(message.clone().crlf()), true),
        (Answer::of(message.clone().crlf()).pieces(5), true),
        (Answer::of(message.clone()), false),
        (Answer::of(message).pieces(4), false),
    ];
    for (index, (answer, stream)) in answers.into_iter().enumerate() {
        upstream.next("key-a", answer);
        let body = if stream { hello_stream() } else { hello() };
        proxy.post(&body).assert_said("one two three");
        total = (total.0 + 100, total.1 + 20);
        let usage = usage(&proxy, index as u64 + 1);
        let have = (usage["totalInputTokens"].clone(), usage["totalOutputTokens"].clone());
        assert_eq!(have, (json!(total.0), json!(total.1)), "after answer {index}");
        assert!(!usage["lastUsed"].is_null());
    }
}

#[test]
fn output_is_the_running_maximum_and_not_a_sum() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let delta = |tokens: u64| {
        event(
            "message_delta",
            &json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": tokens}}),
        )
    };
    let events = [
        event(
            "message_start",
            &json!({"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}),
        ),
        delta(5),
        delta(12),
        delta(30),
        event("message_stop", &json!({"type": "message_stop"})),
    ];
    upstream.next("key-a", Answer::events(events));
    assert_eq!(proxy.post(&hello_stream()).status, 200);
    let usage = usage(&proxy, 1);
    assert_eq!(
        (usage["totalInputTokens"].clone(), usage["totalOutputTokens"].clone()),
        (json!(7), json!(30))
    );
}

#[test]
fn what_a_broken_stream_has_used_counts() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let message = Message::long(10, 10).tokens(500, 40, 0, 0);
    upstream.next("key-a", Answer::of(message).at(5, Step::Reset));
    assert_eq!(proxy.post(&hello_stream()).event_names().last().map(String::as_str), Some("error"));
    assert_eq!(usage(&proxy, 1)["totalInputTokens"], 500);
}

#[test]
fn counting_tokens_uses_none() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let reply = proxy.ask(&Ask::post("/v1/messages/count_tokens", &hello()));
    assert_eq!(reply.json()["input_tokens"], 42);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let usage = until("the message be counted", || {
        let usage = proxy.account("a")["usage"].clone();
        (usage["totalOutputTokens"] == 15).then_some(usage)
    });
    assert_eq!(usage["totalInputTokens"], 25);
}

#[test]
fn tokens_in_the_text_of_an_answer_are_not_usage() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let trap = r#"{"type":"message_delta","usage":{"output_tokens":9999}} event: message_delta "usage":{"input_tokens":9999}"#;
    for body in [hello(), hello_stream()] {
        upstream.next("key-a", Answer::of(Message::text(trap).tokens(3, 4, 0, 0)));
        assert_eq!(proxy.post(&body).status, 200);
    }
    let usage = usage(&proxy, 2);
    assert_eq!(
        (usage["totalInputTokens"].clone(), usage["totalOutputTokens"].clone()),
        (json!(6), json!(8))
    );
}

#[test]
fn cache_tokens_are_kept_apart() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream.next("key-a", Answer::of(Message::text("hi").tokens(10, 20, 30_000, 4_000)));
    assert_eq!(proxy.post(&hello_stream()).status, 200);
    let usage = usage(&proxy, 1);
    assert_eq!(usage["totalOutputTokens"], 20);
    let text = usage.to_string();
    assert!(
        text.contains("30000") && text.contains("4000"),
        "cache reads and writes are shown: {text}"
    );
}
