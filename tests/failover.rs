//! Failover before the client has received a byte (SPEC P6), and never afterwards.

use std::time::Duration;

use crate::harness::{Ask, Home, Piece, Proxy, ReplyEnd, hello, hello_stream, json};
use crate::upstream::{Answer, Framing, Message, Step, Upstream, failures};

/// Accounts that are used in the order of their names.
fn start(upstream: &Upstream, names: &[&str]) -> (Home, Proxy) {
    let mut home =
        Home::new().upstream(&upstream.url()).accounts(names).set("queue.enabled", json!(false));
    for index in 0..names.len() {
        home = home.priority(index, index);
    }
    let proxy = Proxy::start(&home);
    (home, proxy)
}

#[test]
fn every_account_is_tried_once_and_in_order() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &["a", "b", "c", "d"]);
    upstream.always("key-a", failures::overloaded());
    upstream.always("key-b", failures::server_error(502));
    upstream.always("key-c", failures::quota("five_hour", Duration::from_secs(900)));
    proxy.post(&hello_stream()).assert_said("Hello from upstream.");
    assert_eq!(upstream.order(), ["key-a", "key-b", "key-c", "key-d"]);
    let requests = upstream.requests();
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    let names = |at: usize| -> Vec<String> {
        requests[at].headers.iter().map(|(name, _)| name.to_lowercase()).collect()
    };
    assert_eq!(names(0), names(3), "every attempt is the same request");
}

#[test]
fn attempts_are_bounded_by_the_setting() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b", "c"])
        .set("queue.enabled", json!(false))
        .set("retry.maxAttemptsPerRequest", json!(2));
    let proxy = Proxy::start(&home);
    for key in ["key-a", "key-b", "key-c"] {
        upstream.always(key, failures::overloaded());
    }
    assert_eq!(proxy.post(&hello()).status, 529);
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_big_request_has_one_try() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("queue.enabled", json!(false))
        .set("retry.maxRetryBufferBytes", json!(1000));
    let proxy = Proxy::start(&home);
    upstream.always("key-a", failures::server_error(500));
    upstream.always("key-b", failures::server_error(500));
    let mut body = hello();
    body["system"] = json!("x".repeat(2000));
    assert_eq!(proxy.post(&body).status, 500);
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(upstream.requests()[0].json(), body);
}

#[test]
fn nothing_is_committed_before_the_first_whole_event() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let half_event = "15\r\nevent: message_start\n\r\n";
    let rows = [
        ("a head and a reset", vec![Step::Send(head.into()), Step::Reset]),
        ("a head and the end", vec![Step::Send(head.into()), Step::Fin]),
        (
            "half an event and a reset",
            vec![Step::Send(format!("{head}{half_event}").into_bytes()), Step::Reset],
        ),
        (
            "half an event and the end",
            vec![Step::Send(format!("{head}{half_event}").into_bytes()), Step::Fin],
        ),
    ];
    for (name, steps) in rows {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream, &["a", "b"]);
        upstream.always("key-a", Answer::raw(steps));
        let reply = proxy.post(&hello_stream());
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        assert_eq!(
            reply.event_names().first().map(String::as_str),
            Some("message_start"),
            "{name}"
        );
        assert_eq!(upstream.order(), ["key-a", "key-b"], "{name}");
        reply.assert_said("Hello from upstream.");
    }
}

#[test]
fn a_plain_answer_commits_once_it_is_known_to_be_one() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &["a", "b"]);
    upstream.next("key-a", Answer::json(200, r#"{"a":1}"#).at(0, Step::Reset));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.order(), ["key-a", "key-b"], "no byte had gone out");
    let (_home, proxy) = start(&upstream, &["c", "d"]);
    upstream.next("key-c", Answer::json(200, r#"{"a":1}"#).pieces(4).at(1, Step::Reset));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.order()[2..], ["key-c", "key-d"], "it could have become an error");
    let (_home, proxy) = start(&upstream, &["e", "f"]);
    let message = Answer::json(200, r#"{"type":"message","b":2}"#);
    upstream.next("key-e", message.pieces(20).at(1, Step::Reset));
    let reply = proxy.post(&hello());
    assert_ne!(reply.end, ReplyEnd::Complete, "a cut answer never looks whole: {}", reply.text());
    assert_eq!(upstream.count("key-f"), 0, "after the commit there is no retry");
}

#[test]
fn a_truncated_plain_answer_never_looks_whole() {
    for framing in [Framing::Length, Framing::Chunked] {
        for step in [Step::Fin, Step::Reset] {
            let upstream = Upstream::start();
            let (_home, proxy) = start(&upstream, &["a", "b"]);
            let text = format!("{{\"long\":\"{}\"}}", "x".repeat(200_000));
            let answer = Answer::json(200, &text).framing(framing).pieces(50_000).at(3, step);
            upstream.next("key-a", answer);
            let reply = proxy.post(&hello());
            assert_ne!(reply.end, ReplyEnd::Complete, "{framing:?}");
            assert!(text.as_bytes().starts_with(&reply.body), "what came is the beginning of it");
            assert_eq!(upstream.count("key-b"), 0);
        }
    }
}

#[test]
fn a_stream_that_breaks_after_the_commit_ends_with_one_error_event() {
    let middle = 6;
    for (name, step) in [("reset", Step::Reset), ("end", Step::Fin)] {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream, &["a", "b"]);
        let answer = Answer::of(Message::long(20, 30)).at(middle, step);
        upstream.next("key-a", answer);
        let reply = proxy.post(&hello_stream());
        assert_eq!((reply.status, reply.end), (200, ReplyEnd::Complete), "{name}");
        let names = reply.event_names();
        assert_eq!(names.iter().filter(|name| *name == "message_start").count(), 1);
        assert_eq!(names.iter().filter(|name| *name == "error").count(), 1, "{name}: {names:?}");
        assert_eq!(names.last().map(String::as_str), Some("error"));
        let (_, data) = reply.events().pop().expect("an event");
        assert_eq!(data["type"], "error", "{data}");
        assert!(data["error"]["message"].is_string(), "{data}");
        assert_eq!(upstream.count("key-b"), 0, "{name}: no retry after the commit");
    }
}

#[test]
fn a_stream_that_breaks_after_its_last_event_gets_no_error_of_ours() {
    let error = crate::upstream::message::error_event("overloaded_error", "Overloaded");
    let past_the_end = 1000;
    for (name, step) in [("reset", Step::Reset), ("end", Step::Fin)] {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream, &["a"]);
        let whole = Answer::of(Message::long(5, 30));
        upstream.next("key-a", whole.at(past_the_end, step.clone()));
        let reply = proxy.post(&hello_stream());
        assert_eq!(reply.end, ReplyEnd::Complete, "{name}");
        let last = reply.event_names().pop();
        assert_eq!(last.as_deref(), Some("message_stop"), "{name}");

        let begun =
            b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n".to_vec();
        let failed = Answer::events([begun.clone(), error.clone()]);
        upstream.next("key-a", failed.at(past_the_end, step));
        let reply = proxy.post(&hello_stream());
        assert_eq!(
            (reply.body, reply.end),
            ([begun, error.clone()].concat(), ReplyEnd::Complete),
            "{name}"
        );
    }
}

#[test]
fn a_stream_that_breaks_inside_an_event_still_ends_readably() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &["a"]);
    let answer = Answer::of(Message::long(20, 30)).pieces(333).at(5, Step::Reset);
    upstream.next("key-a", answer);
    let reply = proxy.post(&hello_stream());
    let (name, data) = reply.events().pop().expect("an event");
    assert_eq!((name.as_str(), &data["type"]), ("error", &json!("error")), "{}", reply.text());
}

#[test]
fn an_error_event_after_the_commit_is_passed_on_as_it_is() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &["a", "b"]);
    let start_event = b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n".to_vec();
    let error = crate::upstream::message::error_event("overloaded_error", "Overloaded");
    upstream.next("key-a", Answer::events([start_event.clone(), error.clone()]));
    let reply = proxy.post(&hello_stream());
    assert_eq!(reply.body, [start_event, error].concat());
    assert_eq!(upstream.count("key-b"), 0);
    proxy.wait_status("a message that the API broke off has failed", |status| {
        status["accounts"][0]["failedRequests"] == 1
    });
}

#[test]
fn upstreams_that_talk_nonsense_are_left_for_the_next() {
    let rows = [
        ("garbage", failures::garbage()),
        ("an endless head", failures::endless_head()),
        ("a bad status line", Answer::raw_bytes(b"HTTP/1.1 2OO OK\r\n\r\n")),
        ("HTTP/0.9 text", Answer::raw_bytes(b"<html>hello</html>")),
        (
            "a bad chunk size",
            Answer::raw_bytes(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
            ),
        ),
    ];
    for (name, answer) in rows {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream, &["a", "b"]);
        upstream.always("key-a", answer.clone());
        let reply = proxy.post(&hello());
        assert_eq!((reply.status, reply.said().as_str()), (200, "Hello from upstream."), "{name}");
        upstream.always("key-b", answer);
        let (_home, proxy) = start(&upstream, &["b"]);
        let reply = proxy.post(&hello());
        assert!(matches!(reply.status, 502 | 503), "{name}: {} {}", reply.status, reply.text());
        assert!(reply.json()["error"]["message"].is_string(), "{name}");
    }
}

#[test]
fn a_refused_connection_moves_on() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .priority(1, 1)
        .set("accounts.0.upstream", json!("http://127.0.0.1:9"))
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let alone = Home::new().accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&alone);
    let message = proxy.post(&hello()).assert_error(503, "connection_unavailable");
    assert!(message.to_lowercase().contains("refused"), "the cause has its name: {message}");
}

#[test]
fn a_failed_name_look_up_and_a_failed_tls_handshake_are_named() {
    let garbled = Upstream::with(|_| failures::garbage());
    for url in [
        // The resolver itself refuses a label of 64 letters, so no server is queried.
        format!("http://{}.invalid", "x".repeat(64)),
        garbled.url().replace("http:", "https:"),
    ] {
        let home = Home::new().upstream(&url).accounts(&["a"]).set("queue.enabled", json!(false));
        let proxy = Proxy::start(&home);
        proxy.post(&hello()).assert_error(503, "connection_unavailable");
        if url.contains("invalid") {
            assert!(
                proxy.account("a")["cooldownUntil"].is_null(),
                "a failed look-up blames nobody"
            );
        }
    }
}

#[test]
fn a_client_that_reads_slowly_while_accounts_change_sees_one_answer() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &["a", "b"]);
    let gate = upstream.gate();
    upstream.next("key-a", failures::overloaded().before(Step::Hold(gate.clone())));
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    upstream.wait_requests(1);
    gate.open();
    let head = client.read_head(&ask).expect("a head");
    assert_eq!(head.status, 200);
    let mut bytes = Vec::new();
    loop {
        match client.next_piece() {
            Piece::Bytes(piece, _) => bytes.extend(piece),
            Piece::End => break,
            Piece::Cut(end) => panic!("{end:?}"),
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("event: message_start").count(), 1);
    assert_eq!(text.matches("event: message_stop").count(), 1);
}
