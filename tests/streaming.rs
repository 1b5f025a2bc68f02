//! Streams (SPEC P11): events are forwarded as they arrive, bytes stay unchanged, and memory does
//! not grow with the length.

use std::time::{Duration, Instant};

use crate::harness::{Ask, Client, Home, Piece, Proxy, ReplyEnd, hello, hello_stream, json, until};
use crate::upstream::message::event;
use crate::upstream::{Answer, Digest, Framing, Message, Step, Upstream, failures};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Reads a body to its end and keeps only its checksum.
fn digest(client: &mut Client) -> (Digest, Piece) {
    let mut digest = Digest::EMPTY;
    loop {
        match client.next_piece() {
            Piece::Bytes(bytes, _) => digest.add(&bytes),
            end => return (digest, end),
        }
    }
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let gates: Vec<_> = (0..8).map(|_| upstream.gate()).collect();
    let events: Vec<Vec<u8>> = (0..9)
        .map(|number| {
            event("content_block_delta", &json!({"type": "content_block_delta", "number": number}))
        })
        .collect();
    let mut answer = Answer::events(events.clone());
    for (index, gate) in gates.iter().enumerate() {
        answer = answer.at(index + 1, Step::Hold(gate.clone()));
    }
    upstream.next("key-a", answer);
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    for (index, expected) in events.iter().enumerate() {
        let mut have = Vec::new();
        while have.len() < expected.len() {
            match client.next_piece() {
                Piece::Bytes(bytes, _) => have.extend(bytes),
                _ => panic!("the stream ended at event {index}"),
            }
        }
        assert_eq!(String::from_utf8_lossy(&have), String::from_utf8_lossy(expected));
        if let Some(gate) = gates.get(index) {
            gate.open();
        }
    }
    assert!(matches!(client.next_piece(), Piece::End));
}

#[test]
fn a_stream_keeps_its_bytes_however_it_is_cut_and_framed() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let message = Message::long(40, 50).thinking("hm", "c2ln").crlf();
    for framing in [Framing::Chunked, Framing::Length, Framing::UntilClose] {
        for piece in [1, 2, 7, 100, 100_000] {
            upstream.next("key-a", Answer::of(message.clone()).framing(framing).pieces(piece));
            let reply = proxy.post(&hello_stream());
            assert_eq!((reply.status, reply.end), (200, ReplyEnd::Complete), "{framing:?} {piece}");
            // The last piece is counted only after it was written.
            let digest = Digest::of(&reply.body);
            upstream.wait("the same bytes be counted on both sides", |state| {
                state.connections.iter().any(|connection| connection.sent == digest)
            });
        }
    }
}

#[test]
fn a_hundred_megabytes_come_whole_and_cost_no_memory() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    proxy.post(&hello_stream()).assert_said("Hello from upstream.");
    let before = proxy.resident_kib();
    upstream.next("key-a", failures::flood(100_000_000, 42));
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    let (have, end) = digest(&mut client);
    assert!(matches!(end, Piece::End));
    assert!(have.len >= 100_000_000);
    upstream.wait("the end of its flood", |state| {
        state.connections.iter().any(|connection| connection.sent == have)
    });
    let grown = proxy.peak_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "the peak grew by {grown} KiB");
}

#[test]
fn thirty_megabytes_go_up_whole_and_cost_no_more_than_their_buffer() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let before = proxy.resident_kib();
    let mut body = hello();
    body["system"] = json!("0123456789abcdef".repeat(30_000_000 / 16));
    let body = body.to_string().into_bytes();
    let ask = Ask::new("POST", "/v1/messages").body(body.clone());
    proxy.ask(&ask).assert_said("Hello from upstream.");
    let request = upstream.requests().pop().expect("a request");
    assert!(request.body == body, "the body is the same");
    let grown = proxy.peak_kib().saturating_sub(before);
    assert!(grown < 38 * 1024, "the peak grew by {grown} KiB");
}

#[test]
fn a_big_chunked_request_goes_up_whole() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let body = "x".repeat(5_000_000).into_bytes();
    let mut client = proxy.connect();
    client.send(
        b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for piece in body.chunks(60_000) {
        client.send(format!("{:x}\r\n", piece.len()).as_bytes());
        client.send(piece);
        client.send(b"\r\n");
    }
    client.send(b"0\r\n\r\n");
    client.read_reply(&Ask::messages(&hello())).assert_said("Hello from upstream.");
    assert!(upstream.only_request().body == body);
}

#[test]
fn a_body_above_256_mib_is_refused_in_chunks_too() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut client = proxy.connect();
    client.send(
        b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..300 {
        let sent = client
            .try_send(b"100000\r\n")
            .and_then(|()| client.try_send(&piece))
            .and_then(|()| client.try_send(b"\r\n"));
        if sent.is_err() {
            break;
        }
    }
    let (answer, _) = client.read_to_close();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 413"), "{text}");
    assert_eq!(upstream.requests().len(), 0);
    assert!(proxy.resident_kib() < 300 * 1024);
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn a_slow_client_slows_the_upstream_and_memory_stays() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = proxy.resident_kib();
    upstream.next("key-a", failures::flood(60_000_000, 5));
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    // Long enough for the whole flood to arrive if nothing held it back.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(upstream.state().connections[0].sent.len, 0, "the upstream is still writing");
    assert!(proxy.peak_kib().saturating_sub(before) < 8 * 1024);
    let (have, end) = digest(&mut client);
    assert!(matches!(end, Piece::End));
    upstream.wait("the end of its flood", |state| state.connections[0].sent == have);
}

#[test]
fn a_client_that_never_reads_is_cut_and_the_upstream_with_it() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("timeouts.clientMs", json!(500));
    let proxy = Proxy::start(&home);
    upstream.next("key-a", failures::flood(60_000_000, 5));
    let mut client = proxy.connect();
    client.send_ask(&Ask::messages(&hello_stream()));
    upstream.wait("the proxy leave", |state| {
        state.connections.iter().any(|connection| connection.left.is_some())
    });
    let account = until("the lease come back", || {
        Some(proxy.account("a")).filter(|account| account["inFlight"] == 0)
    });
    assert_eq!(account["status"], "active", "the account is not to blame");
}

#[test]
fn an_upstream_that_falls_silent_ends_the_stream_with_one_error_event() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("timeouts.idleMs", json!(400));
    let proxy = Proxy::start(&home);
    upstream.next("key-a", Answer::of(Message::long(20, 20)).at(5, Step::AwaitLeave));
    let before = Instant::now();
    let reply = proxy.post(&hello_stream());
    assert!(before.elapsed() >= Duration::from_millis(380));
    assert_eq!((reply.status, reply.end), (200, ReplyEnd::Complete));
    let names = reply.event_names();
    assert_eq!(names.iter().filter(|name| *name == "error").count(), 1);
    assert_eq!(names.last().map(String::as_str), Some("error"));
    upstream.wait("the proxy leave", |state| state.connections[0].left.is_some());
}

#[test]
fn a_slow_stream_that_moves_is_never_cut() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("timeouts.idleMs", json!(400))
        .set("timeouts.headersMs", json!(400))
        .set("timeouts.clientMs", json!(400));
    let proxy = Proxy::start(&home);
    let message = Message::long(10, 10);
    upstream.next("key-a", Answer::of(message.clone()).paced(Duration::from_millis(100)));
    let reply = proxy.post(&hello_stream());
    reply.assert_said(&message.text);
}

#[test]
fn a_hundred_and_fifty_streams_at_once_are_all_whole_and_leave_nothing() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b", "c"]);
    let proxy = Proxy::start(&home);
    proxy.post(&hello_stream()).assert_said("Hello from upstream.");
    let message = Message::long(20, 30);
    let gate = upstream.gate();
    for key in ["key-a", "key-b", "key-c"] {
        let answer = Answer::of(message.clone()).at(3, Step::Hold(gate.clone()));
        upstream.always(key, answer);
    }
    let address = proxy.address();
    let clients: Vec<_> = (0..150)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                client.ask(&Ask::messages(&hello_stream()))
            })
        })
        .collect();
    upstream.wait("150 streams at once", |state| state.requests.len() >= 151);
    let status = proxy.status();
    assert_eq!(status["scheduler"]["globalInFlight"], 150, "{:#}", status["scheduler"]);
    gate.open();
    for client in clients {
        client.join().expect("a client").assert_said(&message.text);
    }
    let per_account: Vec<usize> =
        ["key-a", "key-b", "key-c"].map(|key| upstream.count(key)).to_vec();
    assert!(per_account.iter().all(|count| *count <= 51), "{per_account:?}");
    proxy.wait_status("every lease come back", |status| status["scheduler"]["globalInFlight"] == 0);
    until("the threads end", || (proxy.threads() < 60).then_some(()));
}

#[test]
fn an_account_is_busy_while_its_stream_lasts() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let gate = upstream.gate();
    upstream.next("key-a", Answer::of(Message::long(5, 5)).at(3, Step::Hold(gate.clone())));
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    let account = proxy.account("a");
    assert_eq!(account["inFlight"], 1);
    assert!(account["activeWeight"].as_f64().unwrap_or(0.0) >= 1.0);
    gate.open();
    assert!(matches!(digest(&mut client).1, Piece::End));
    proxy.wait_status("the lease come back", |status| status["accounts"][0]["inFlight"] == 0);
}
