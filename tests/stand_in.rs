//! The scripted upstream and the raw client, tested against each other.

use std::time::{Duration, Instant};

use crate::harness::{Ask, Client, Piece, ReplyEnd, hello, hello_stream, json};
use crate::upstream::{Answer, Digest, End, Framing, Message, Step, Upstream, failures};

fn ask(upstream: &Upstream, ask: &Ask) -> crate::harness::Reply {
    Client::connect(upstream.address()).ask(ask)
}

#[test]
fn a_message_comes_as_json_or_as_events_as_the_request_asks() {
    let upstream = Upstream::start();
    ask(&upstream, &Ask::messages(&hello())).assert_said("Hello from upstream.");
    let reply = ask(&upstream, &Ask::messages(&hello_stream()).header("x-api-key", "key-a"));
    reply.assert_said("Hello from upstream.");
    let names = reply.event_names();
    assert_eq!(names.first().map(String::as_str), Some("message_start"));
    assert_eq!(names.last().map(String::as_str), Some("message_stop"));
    assert_eq!(upstream.order(), ["", "key-a"]);
    assert_eq!(upstream.requests()[1].json(), hello_stream());
}

#[test]
fn answers_are_scripted_by_credential_and_used_in_order() {
    let upstream = Upstream::start();
    upstream.next("key-a", failures::overloaded());
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(60)));
    upstream.always("key-b", failures::server_error(500));
    let status =
        |key: &str| ask(&upstream, &Ask::messages(&hello()).header("x-api-key", key)).status;
    assert_eq!([status("key-a"), status("key-a"), status("key-a")], [529, 429, 200]);
    assert_eq!([status("key-b"), status("key-b")], [500, 500]);
    upstream.heal("key-b");
    assert_eq!(status("key-b"), 200);
}

#[test]
fn a_connection_ends_in_the_way_the_script_says() {
    let upstream = Upstream::start();
    let rows = [
        (failures::reset(), ReplyEnd::Reset),
        (failures::closed(), ReplyEnd::Closed),
        (Answer::message("one two three").at(5, Step::Reset), ReplyEnd::Reset),
        (Answer::message("one two three").at(5, Step::Fin), ReplyEnd::Closed),
        (Answer::json(200, r#"{"a":1}"#).pieces(3).at(1, Step::Fin), ReplyEnd::Closed),
        (Answer::json(200, r#"{"a":1}"#).framing(Framing::UntilClose), ReplyEnd::Complete),
    ];
    for (answer, end) in rows {
        upstream.next("", answer);
        assert_eq!(ask(&upstream, &Ask::messages(&hello_stream())).end, end);
    }
    let mut client = Client::connect(upstream.address());
    upstream.next("", Answer::message("once").end(End::CloseOnNext));
    client.ask(&Ask::messages(&hello())).assert_said("once");
    assert_eq!(client.ask(&Ask::messages(&hello())).end, ReplyEnd::Closed);
}

#[test]
fn a_gate_holds_an_answer_and_a_client_that_leaves_is_seen() {
    let upstream = Upstream::start();
    let gate = upstream.gate();
    upstream.next("", Answer::message("one two").at(4, Step::Hold(gate.clone())));
    let mut client = Client::connect(upstream.address());
    let ask = Ask::messages(&hello_stream());
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).unwrap().status, 200);
    let Piece::Bytes(..) = client.next_piece() else {
        panic!("the first events come before the gate");
    };
    gate.open();
    while !matches!(client.next_piece(), Piece::End) {}
    drop(client);
    upstream.wait("the client leave", |state| state.connections[0].left.is_some());
}

#[test]
fn a_flood_has_the_same_checksum_on_both_sides() {
    let upstream = Upstream::start();
    upstream.next("", failures::flood(3_000_000, 7));
    let reply = ask(&upstream, &Ask::messages(&hello_stream()));
    upstream.wait("the end of its flood", |state| state.connections[0].sent.len >= 3_000_000);
    assert!(reply.body.len() >= 3_000_000);
    assert_eq!(Digest::of(&reply.body), upstream.state().connections[0].sent);
}

#[test]
fn a_refresh_token_is_good_once() {
    let upstream = Upstream::start();
    upstream.state().oauth.grant("refresh-a");
    let refresh = |token: &str| {
        let body = json!({"grant_type": "refresh_token", "refresh_token": token, "client_id": "x"});
        ask(&upstream, &Ask::post("/v1/oauth/token", &body))
    };
    assert_eq!(refresh("refresh-a").json()["access_token"], "access-1");
    assert_eq!(refresh("refresh-a").status, 400);
    assert_eq!(refresh("refresh-1").json()["refresh_token"], "refresh-2");
    assert_eq!(upstream.state().oauth.reused, ["refresh-a"]);
}

#[test]
fn tokens_and_chunks_can_be_cut_anywhere() {
    let upstream = Upstream::start();
    let message = Message::text("hi").tokens(1, 2, 3, 4).thinking("hm", "c2ln").crlf();
    upstream.next("", Answer::of(message).pieces(7).header("x-more", "1"));
    let before = Instant::now();
    let reply = ask(&upstream, &Ask::messages(&hello_stream()));
    reply.assert_said("hi");
    assert!(reply.text().contains("\r\n\r\n") && reply.head_at >= before);
    assert_eq!(reply.events()[0].1["message"]["usage"]["cache_read_input_tokens"], 3);
}
