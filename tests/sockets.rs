//! What clients' sockets may do (SPEC P2, P11, P12): odd framing on the wire, and clients that
//! leave or stall.
//!
//! Crowds of connections are in `crowds.rs`, the table of all framing cases is in `framing/`.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::harness::{Ask, Client, Home, Proxy, ReplyEnd, Value, hello, hello_stream, json, until};
use crate::upstream::{Answer, Message, Request, Step, Upstream, failures};

const GET: &str = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n";
const POST: &str = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n";
/// A second (SPEC P12), plus a margin for a loaded machine.
const SOON: Duration = Duration::from_millis(2000);

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Sends bytes on a new connection and reads until the server closes it; returns status and answer.
fn refused(proxy: &Proxy, bytes: &[u8]) -> (u16, String) {
    let mut client = proxy.connect();
    client.patience(Duration::from_secs(3));
    let _refused_early = client.try_send(bytes);
    let (answer, end) = client.read_to_close();
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert_ne!(end, ReplyEnd::Silent, "it stays open after \"{text}\"");
    let code = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let code = code.and_then(|code| code.parse().ok());
    (code.unwrap_or(0), text)
}

#[test]
fn an_announced_length_is_never_allocated() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    // Far less than the smallest of the lengths: an attempt to allocate one ends the process.
    let mut proxy = Proxy::start_limited(&home, "ulimit -v 250000");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let foreign = "POST /v1/messages HTTP/1.1\r\nHost: attacker.example\r\n";
    let keyless = "POST /maxpool/reload HTTP/1.1\r\nHost: localhost\r\n";
    let rows = [
        (413, POST, "64424509440"),
        (413, POST, "9223372036854775807"),
        (413, POST, "268435457"),
        (403, foreign, "268435456"),
        (401, keyless, "268435456"),
        (417, &format!("{POST}Expect: x\r\n"), "268435456"),
    ];
    for (status, head, length) in rows {
        for _ in 0..3 {
            let since = Instant::now();
            let bytes = format!("{head}Content-Length: {length}\r\n\r\n{{");
            let (code, text) = refused(&proxy, bytes.as_bytes());
            assert_eq!(code, status, "{length}: {text}");
            assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
        }
    }
    // Accepted, and then abandoned by its client.
    let mut client = proxy.connect();
    client.send(format!("{POST}Content-Length: 268435456\r\n\r\n{{").as_bytes());
    drop(client);
    assert!(proxy.is_running());
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let peak = proxy.peak_kib();
    assert!(peak < 64 * 1024, "{peak} KiB");
    assert_eq!(upstream.requests().len(), 2);
}

/// The bytes of a request for a message from a client whose connection ends with it.
fn last_request(version: &str, lines: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST /v1/messages {version}\r\nHost: localhost\r\n{lines}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

const LAST: [(&str, &str); 3] = [
    ("HTTP/1.1", "Connection: close\r\n"),
    ("HTTP/1.0", ""),
    ("HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
];

/// Leaves in one of three ways; the caller keeps a client that only half-closes.
fn leave(client: Client, way: usize) -> Option<Client> {
    match way {
        0 => drop(client),
        1 => client.reset(),
        _ => {
            client.half_close();
            return Some(client);
        }
    }
    None
}

/// Waits until the proxy has left this many connections at the upstream.
fn wait_left(upstream: &Upstream, count: usize) {
    upstream.wait(&format!("{count} connections closed"), |state| {
        let left = state.connections.iter().filter(|one| one.left.is_some());
        left.count() >= count
    });
}

/// Sends each kind of last request, waits until `reached`, leaves, and waits until `noticed`.
fn assert_leaving_is_noticed(
    proxy: &Proxy,
    body: &Value,
    reached: impl Fn(&mut Client, usize),
    noticed: impl Fn(usize),
) {
    let mut count = 0;
    let mut blamed = Value::Null;
    for (version, lines) in LAST {
        for way in 0..3 {
            count += 1;
            let mut client = proxy.connect();
            client.send(&last_request(version, lines, body));
            reached(&mut client, count);
            if blamed.is_null() {
                blamed = proxy.account("a")["consecutiveFailures"].clone();
            }
            let since = Instant::now();
            let _kept = leave(client, way);
            noticed(count);
            let took = since.elapsed();
            assert!(took < SOON, "{version} {lines:?} way {way}: {took:?}");
        }
    }
    let status = proxy.wait_status("every lease come back", |status| {
        status["scheduler"]["globalInFlight"] == 0 && status["upstreamThrottle"]["queued"] == 0
    });
    let failures = &status["accounts"][0]["consecutiveFailures"];
    assert_eq!(*failures, blamed, "nobody is blamed");
}

#[test]
fn a_last_request_whose_client_leaves_the_queue_is_noticed() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let hour = Duration::from_secs(3600);
    upstream.next("key-a", failures::quota("five_hour", hour));
    let queued = |count: u64| {
        proxy.wait_status("the queue", |status| status["upstreamThrottle"]["queued"] == count);
    };
    assert_leaving_is_noticed(&proxy, &hello_stream(), |_, _| queued(1), |_| queued(0));
    assert_eq!(upstream.requests().len(), 1, "nothing was sent for nobody");
}

#[test]
fn a_last_request_whose_client_leaves_before_the_answer_is_noticed() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream.always("key-a", failures::silent());
    assert_leaving_is_noticed(
        &proxy,
        &hello(),
        |_, count| upstream.wait_requests(count),
        |count| wait_left(&upstream, count),
    );
}

#[test]
fn a_last_request_whose_client_leaves_a_stream_is_noticed() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let stalled = Answer::of(Message::long(9, 9)).at(4, Step::AwaitLeave);
    upstream.always("key-a", stalled);
    let ask = Ask::messages(&hello_stream());
    assert_leaving_is_noticed(
        &proxy,
        &hello_stream(),
        |client, _| assert_eq!(client.read_head(&ask).expect("a head").status, 200),
        |count| wait_left(&upstream, count),
    );
}

#[test]
fn a_chunked_body_that_ends_early_is_refused_and_goes_nowhere() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let head = format!("{POST}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    let body = hello().to_string();
    let size = body.len();
    let rows = [
        ("within a chunk", format!("{:x}\r\n{body}", size + 1)),
        ("after a whole chunk's data", format!("{size:x}\r\n{body}")),
        ("after a chunk", format!("{size:x}\r\n{body}\r\n")),
        ("after a size", format!("{size:x}\r\n")),
        ("within a size", format!("{size:x}")),
        ("after the last chunk", format!("{size:x}\r\n{body}\r\n0\r\n")),
        ("within trailers", format!("{size:x}\r\n{body}\r\n0\r\nx-a: b\r\n")),
    ];
    for (name, chunks) in &rows {
        let mut client = proxy.connect();
        client.patience(Duration::from_secs(3));
        client.send(format!("{head}{chunks}").as_bytes());
        client.half_close();
        let (bytes, end) = client.read_to_close();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 400 "), "{name}: {end:?} {text}");
        assert_ne!(end, ReplyEnd::Silent, "{name}");
    }
    let (code, text) = refused(&proxy, format!("{head}ffffffffffffffff\r\n{body}").as_bytes());
    assert!(matches!(code, 400 | 413), "{text}");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn pipelined_requests_are_all_answered_in_order() {
    let echo = |request: &Request| {
        let text = request.json()["messages"][0]["content"].clone();
        Answer::message(text.as_str().unwrap_or("no text"))
    };
    let upstream = Upstream::with(echo);
    let (_home, proxy) = start(&upstream);
    let mut total = 0;
    for count in [2, 10, 50] {
        for (version, lines) in [("HTTP/1.1", "Connection: close\r\n"), ("HTTP/1.0", "")] {
            let mut bytes = Vec::new();
            for number in 1..=count {
                let mut body = hello();
                body["messages"][0]["content"] = json!(format!("{number} of {count}"));
                let (version, lines) =
                    if number == count { (version, lines) } else { ("HTTP/1.1", "") };
                bytes.extend(last_request(version, lines, &body));
            }
            let mut client = proxy.connect();
            client.patience(Duration::from_secs(5));
            client.send(&bytes);
            for number in 1..=count {
                let reply = client.read_reply(&Ask::messages(&hello()));
                reply.assert_said(&format!("{number} of {count}"));
            }
            let (more, end) = client.read_to_close();
            assert_eq!((more.as_slice(), end), (&b""[..], ReplyEnd::Closed));
            total += count;
        }
    }
    assert_eq!(upstream.requests().len(), total);
}

#[test]
fn bytes_above_127_in_a_header_are_forwarded_as_they_are() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let every: Vec<u8> = (0x80..=0xff).collect();
    for value in ["Jürgen".as_bytes(), b"J\xfcrgen", every.as_slice()] {
        let mut client = proxy.connect();
        client.patience(Duration::from_secs(3));
        client.send(&[GET.as_bytes(), b"X-User: ", value, b"\r\n\r\n"].concat());
        assert_eq!(client.read_reply(&Ask::get("/v1/models")).status, 200);
        let last = upstream.requests().pop().expect("a request");
        let line = [b": ", value, b"\r\n"].concat();
        let found = last.head.windows(line.len()).any(|bytes| bytes == line);
        assert!(found, "{} in {}", value.escape_ascii(), last.head.escape_ascii());
    }
}

#[test]
fn a_folded_line_never_becomes_a_header() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for blank in [" ", "\t", "  \t "] {
        let bytes = format!("{GET}X-V: a\r\n{blank}X-Injected: 1\r\n\r\n");
        let (code, text) = refused(&proxy, bytes.as_bytes());
        assert_eq!(code, 400, "{text}");
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn trailers_are_dropped() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let body = hello().to_string();
    let mut client = proxy.connect();
    client.patience(Duration::from_secs(3));
    for _ in 0..2 {
        let bytes = format!(
            "\r\n{POST}Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n{:x};a=b\r\n{body}\r\n0\r\nx-sum: 1\r\nX-Api-Key: z\r\n\r\n",
            body.len()
        );
        client.send(bytes.as_bytes());
        let reply = client.read_reply(&Ask::messages(&hello()));
        reply.assert_said("Hello from upstream.");
    }
    for request in upstream.requests() {
        assert_eq!(request.body, body.as_bytes());
        assert_eq!(request.credential(), "key-a");
        assert_eq!(request.header("x-sum"), None);
    }
}

/// The bytes up to an empty line, or as many of them as arrive.
fn interim_head(client: &Client) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match std::io::Read::read(&mut client.socket(), &mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[test]
fn a_body_is_asked_for_when_its_client_waits_to_be_asked() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let body = hello().to_string();
    let length = body.len();
    let ask = Ask::messages(&hello());
    let rows = [
        ("HTTP/1.1", format!("Content-Length: {length}\r\n"), body.clone(), true),
        (
            "HTTP/1.1",
            "Transfer-Encoding: chunked\r\n".into(),
            format!("{length:x}\r\n{body}\r\n0\r\n\r\n"),
            true,
        ),
        ("HTTP/1.0", format!("Content-Length: {length}\r\n"), body.clone(), false),
    ];
    for (version, lines, framed, asked) in rows {
        let mut client = proxy.connect();
        let head = format!(
            "POST /v1/messages {version}\r\nHost: localhost\r\nExpect: 100-continue\r\n{lines}\r\n"
        );
        client.send(head.as_bytes());
        let bound = if asked { 3000 } else { 200 };
        client.patience(Duration::from_millis(bound));
        let interim = interim_head(&client);
        assert_eq!(interim.starts_with("HTTP/1.1 100 "), asked, "{version}: {interim}");
        assert_eq!(interim.is_empty(), !asked, "{version}: {interim}");
        client.patience(Duration::from_secs(3));
        client.send(framed.as_bytes());
        let reply = client.read_reply(&ask);
        reply.assert_said("Hello from upstream.");
        assert_eq!(reply.interim, [0; 0], "{version}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn nobody_is_asked_for_a_body_that_there_is_not_or_that_is_refused() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let expect = "Expect: 100-continue\r\n";
    let foreign = "POST /v1/messages HTTP/1.1\r\nHost: attacker.example\r\n";
    let rows = [
        (200, format!("{GET}{expect}\r\n")),
        (200, format!("{GET}{expect}Content-Length: 0\r\n\r\n")),
        (413, format!("{POST}{expect}Content-Length: 268435457\r\n\r\n")),
        (403, format!("{foreign}{expect}Content-Length: 5\r\n\r\n")),
        (400, format!("{POST}{expect}Content-Length: 5, 5\r\n\r\n")),
    ];
    for (status, bytes) in rows {
        let mut client = proxy.connect();
        client.patience(Duration::from_secs(3));
        client.send(bytes.as_bytes());
        let reply = client.read_reply(&Ask::get("/v1/models"));
        assert_eq!((reply.status, reply.interim.as_slice()), (status, &[][..]), "{bytes}");
    }
}

#[test]
fn near_misses_of_framing_are_refused() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let body = format!("{:79}", hello().to_string().get(..79).unwrap_or_default());
    let chunked = |size: &str| {
        format!("{POST}Transfer-Encoding: chunked\r\n\r\n{size}\r\n{body}\r\n0\r\n\r\n")
    };
    let rows = [
        chunked("+4f"),
        chunked(" 4f"),
        chunked("0x4f"),
        format!("{POST}Content-Length: \u{b}79\r\n\r\n{body}"),
        format!("{POST}Content-Length: 79\u{c}\r\n\r\n{body}"),
        format!("{POST}Transfer-Encoding: \u{c}chunked\r\n\r\n4f\r\n{body}\r\n0\r\n\r\n"),
        format!("{GET}x-a: \u{b}b\r\n\r\n"),
        "GET /v1/models x HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "GET /v1/models HTTP/1.1 x\r\nHost: localhost\r\n\r\n".into(),
    ];
    for bytes in rows {
        let (code, text) = refused(&proxy, bytes.as_bytes());
        assert_eq!(code, 400, "\"{}\": {text}", bytes.escape_debug());
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn tls_on_the_plain_port_is_answered_in_words() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let since = Instant::now();
    let (code, text) = refused(&proxy, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on");
    assert!(code == 400 && since.elapsed() < SOON, "{text}");
    assert!(text.contains("TLS") || text.contains("https"), "{text}");
}

#[test]
fn a_client_that_takes_nothing_is_cut_after_its_time_and_not_later() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("timeouts.clientMs", json!(1000));
    let proxy = Proxy::start(&home);
    let parts = std::iter::once(b"data: ".to_vec()).chain((0..160).map(|_| vec![b'x'; 256 << 10]));
    upstream.next("key-a", Answer::events(parts));
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    let asked = Instant::now();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    wait_left(&upstream, 1);
    let state = upstream.state();
    let left = state.connections[0].left.expect("left");
    // The last write is the one that no longer got through.
    let (last, _) = *state.connections[0].writes.last().expect("a write");
    assert!(state.connections[0].writes.len() < 160, "all of it fits into buffers");
    drop(state);
    // The client accepted its last byte after `asked` and before the upstream's buffers were full.
    let earliest = left.saturating_duration_since(asked);
    assert!(earliest >= Duration::from_secs(1), "cut {earliest:?} after the request");
    let latest = left.saturating_duration_since(last);
    assert!(latest < Duration::from_millis(2600), "cut {latest:?} after the last progress");
    drop(client);
    proxy.wait_status("the lease come back", |status| status["scheduler"]["globalInFlight"] == 0);
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn any_limit_for_a_client_that_takes_nothing_can_be_served_with() {
    let upstream = Upstream::start();
    // The kernel's value has 31 bits.
    for millis in [0_u64, 1 << 31, 1 << 33, 1 << 62] {
        let home = Home::new()
            .upstream(&upstream.url())
            .accounts(&["a"])
            .set("timeouts.clientMs", json!(millis));
        let proxy = Proxy::start(&home);
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
}

#[test]
fn a_last_answer_comes_whole_to_a_client_that_has_sent_more() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let text = "x".repeat(400_000);
    let ask = Ask::messages(&hello()).header("connection", "close");
    // Either sent too late to be read with the request, so that it stays in the kernel; or read and
    // not used, with more behind it after the answer.
    for (at_once, meanwhile, afterwards) in [("", "\r\n", ""), ("\r\n", "", "\r\n")] {
        let gate = upstream.gate();
        upstream.next("key-a", Answer::message(&text).before(Step::Hold(gate.clone())));
        let before = (upstream.requests().len(), proxy.descriptors(), proxy.log().len());
        let stream = TcpStream::connect(proxy.address()).expect("connect");
        // Whatever the client does not read stays with the server.
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).expect("a small window");
        let mut client = Client::of(stream);
        client.send(&[&ask.bytes(proxy.address()), at_once.as_bytes()].concat());
        upstream.wait_requests(before.0 + 1);
        client.send(meanwhile.as_bytes());
        gate.open();
        proxy.wait_line_after(before.2, "the request's line", |line| line.contains("POST"));
        client.send(afterwards.as_bytes());
        until("the server lets go", || (proxy.descriptors() <= before.1).then_some(()));
        client.read_reply(&ask).assert_said(&text);
    }
}

#[test]
fn a_torn_answer_whose_end_is_the_connection_s_is_not_taken_for_whole() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let torn = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"type\":\"message\",\"i\r\n";
    upstream.next("key-a", Answer::raw_bytes(torn));
    let mut client = proxy.connect();
    client.send(&last_request("HTTP/1.0", "", &hello()));
    let (bytes, end) = client.read_to_close();
    assert_eq!(end, ReplyEnd::Reset, "{}", bytes.escape_ascii());
}

#[test]
fn with_few_descriptors_it_serves_or_says_why_not() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    home.write();
    let mut child = home.limited("ulimit -n 24").spawn().expect("start the program");
    let pipe = child.stderr.take().expect("a pipe");
    let (line, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for text in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _nobody_listens = line.send(text);
        }
    });
    let mut said = Vec::new();
    let address = loop {
        match lines.recv_timeout(Duration::from_secs(4)) {
            Ok(text) => {
                let port = text.split_once("127.0.0.1:").map(|(_, rest)| rest);
                let port = port.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
                let port: Option<u16> = port.and_then(|digits| digits.parse().ok());
                said.push(text);
                if let Some(port) =
                    port.filter(|port| *port != 0 && *port != upstream.address().port())
                {
                    break Some(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
                }
            }
            // It has closed its log, so it is about to exit.
            Err(RecvTimeoutError::Disconnected) => {
                let _status = child.wait();
                break None;
            }
            Err(RecvTimeoutError::Timeout) => break None,
        }
    };
    let served = address.map(|address| {
        let mut client = Client::connect(address);
        client.patience(Duration::from_secs(3));
        client.ask(&Ask::messages(&hello())).status
    });
    let ended = child.try_wait().expect("look at the child");
    let _killed = child.kill();
    let _reaped = child.wait();
    let text = said.join("\n");
    match (served, ended) {
        (Some(status), _) => assert_eq!(status, 200, "{text}"),
        (None, Some(status)) => {
            assert_eq!(status.code(), Some(1), "{text}");
            assert!(text.contains("descriptors") || text.contains("ulimit"), "{text}");
        }
        (None, None) => panic!("it neither serves nor ends: {text}"),
    }
}
