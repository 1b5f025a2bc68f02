//! Which requests are let in (SPEC P2): the status and body of each refusal, and that the
//! connection is closed afterwards.

use crate::harness::home::KEY;
use crate::harness::{Ask, Client, Home, Proxy, ReplyEnd, hello, json};
use crate::upstream::Upstream;

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Sends raw bytes and reads until the server closes. Returns the status codes of all answers and
/// the text.
fn raw(proxy: &Proxy, bytes: &[u8]) -> (Vec<u16>, String) {
    let mut client = proxy.connect();
    let _refused_early = client.try_send(bytes);
    let (answer, end) = client.read_to_close();
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert_ne!(end, ReplyEnd::Silent, "the connection stayed open after: {text}");
    let codes =
        text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect();
    (codes, text)
}

/// Asserts that the body of the only answer in `text` has the API's error shape.
fn assert_shape(name: &str, text: &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    if head.contains("Server: tiny-http") {
        // The parser refuses some heads on its own, with its own text and no body.
        return;
    }
    let error: serde_json::Value = serde_json::from_str(body)
        .unwrap_or_else(|error| panic!("{name}: the body is no JSON ({error}): {text}"));
    assert_eq!(error["type"], "error", "{name}: {body}");
    assert!(error["error"]["type"].is_string(), "{name}: {body}");
    assert!(error["error"]["message"].is_string(), "{name}: {body}");
    assert!(!head.to_lowercase().contains("access-control"), "{name}: {head}");
}

const GET: &str = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n";
const POST: &str = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n";

#[test]
fn malformed_requests_are_refused_and_the_connection_closed() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let rows: Vec<(&str, String, &[u16])> = vec![
        ("a method that is no token", "G@T / HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400]),
        ("a header name that is no token", format!("{GET}B@d: x\r\n\r\n"), &[400]),
        ("a space before the colon", format!("{GET}Bad : x\r\n\r\n"), &[400]),
        ("a header without a colon", format!("{GET}Bad\r\n\r\n"), &[400]),
        ("a folded header", format!("{GET}x-a: b\r\n c\r\n\r\n"), &[400]),
        ("HTTP/1.1 without Host", "GET /v1/models HTTP/1.1\r\n\r\n".into(), &[400]),
        ("two hosts", format!("{GET}Host: localhost\r\n\r\n"), &[400]),
        (
            "both lengths",
            format!("{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "two different lengths",
            format!("{POST}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} "),
            &[400],
        ),
        (
            "two equal lengths",
            format!("{POST}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"),
            &[400],
        ),
        ("a list of lengths", format!("{POST}Content-Length: 2, 2\r\n\r\n{{}}"), &[400]),
        ("a signed length", format!("{POST}Content-Length: +2\r\n\r\n{{}}"), &[400]),
        ("a negative length", format!("{POST}Content-Length: -2\r\n\r\n"), &[400]),
        ("a length in hex", format!("{POST}Content-Length: 0x2\r\n\r\n"), &[400]),
        ("an empty length", format!("{POST}Content-Length:\r\n\r\n"), &[400]),
        (
            "a length that fits no integer",
            format!("{POST}Content-Length: 99999999999999999999999\r\n\r\n"),
            &[400, 413],
        ),
        (
            "a length that could abort us",
            format!("{POST}Content-Length: 99999999999\r\n\r\n"),
            &[413],
        ),
        ("a length above 256 MiB", format!("{POST}Content-Length: 268435457\r\n\r\n"), &[413]),
        ("another coding", format!("{POST}Transfer-Encoding: gzip\r\n\r\n"), &[400]),
        (
            "chunked and another coding",
            format!("{POST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "chunked twice",
            format!(
                "{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            &[400],
        ),
        (
            "a coding that looks like chunked",
            format!("{POST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a control character in the target",
            "GET /v1/mo\u{1}dels HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        ("a control character in a header", format!("{GET}x-a: b\u{1}c\r\n\r\n"), &[400]),
        ("DEL in a header", format!("{GET}x-a: b\u{7f}c\r\n\r\n"), &[400]),
        (
            "an absolute target",
            "GET http://localhost/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        (
            "CONNECT",
            "CONNECT api.anthropic.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        (
            "dot segments",
            "GET /v1/../maxpool/status HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        ("a single dot", "GET /v1/./models HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400]),
        (
            "dot segments at the end",
            "GET /v1/models/.. HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        (
            "encoded dot segments",
            "GET /v1/%2e%2E/models HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        (
            "half encoded dot segments",
            "GET /v1/.%2e/models HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        (
            "an encoded single dot",
            "GET /v1/%2e/models HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            &[400],
        ),
        ("101 headers", format!("{GET}{}\r\n", "x-a: b\r\n".repeat(100)), &[431]),
        (
            "more than 64 KiB of headers",
            format!("{GET}x-a: {}\r\n\r\n", "y".repeat(65 * 1024)),
            &[431],
        ),
        (
            "another expectation",
            format!("{POST}Content-Length: 2\r\nExpect: 200-maybe\r\n\r\n{{}}"),
            &[417],
        ),
        ("another version", "GET /v1/models HTTP/2.0\r\nHost: localhost\r\n\r\n".into(), &[505]),
        (
            "yet another version",
            "GET /v1/models HTTP/3.0\r\nHost: localhost\r\n\r\n".into(),
            &[505],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expected) in rows {
        let (codes, text) = raw(&proxy, bytes.as_bytes());
        if codes.len() == 1 && expected.contains(&codes[0]) {
            assert_shape(name, &text);
        } else {
            wrong.push(format!("{name}: {codes:?} instead of one of {expected:?}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(upstream.requests().len(), 0, "none of them was forwarded");
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn what_follows_a_refused_request_is_never_parsed_as_another() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let hidden = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = hidden.len();
    let chunked = "Transfer-Encoding: chunked";
    let rows = [
        ("both lengths", format!("{POST}Content-Length: 4\r\n{chunked}\r\n\r\n0\r\n\r\n{hidden}")),
        (
            "two lengths",
            format!("{POST}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        ),
        ("two codings", format!("{POST}{chunked}, identity\r\n\r\n0\r\n\r\n{hidden}")),
        (
            "two hosts",
            format!("{POST}Content-Length: {length}\r\nHost: attacker.example\r\n\r\n{hidden}"),
        ),
        (
            "a foreign host",
            format!(
                "POST /v1/messages HTTP/1.1\r\nHost: attacker.example\r\nContent-Length: 2\r\n\r\n{{}}{hidden}"
            ),
        ),
        ("a refused target", format!("GET /v1/../x HTTP/1.1\r\nHost: localhost\r\n\r\n{hidden}")),
        ("a body too long", format!("{POST}Content-Length: 99999999999\r\n\r\n{hidden}")),
    ];
    let mut wrong = Vec::new();
    for (name, bytes) in rows {
        let before = upstream.requests().len();
        let (codes, text) = raw(&proxy, bytes.as_bytes());
        if codes.len() != 1 || !(400..500).contains(&codes[0]) {
            wrong.push(format!("{name}: {codes:?} {text}"));
        }
        // A smuggled request, if taken for one, would reach the upstream before this one.
        proxy.post(&hello()).assert_said("Hello from upstream.");
        if upstream.requests().len() != before + 1 {
            wrong.push(format!("{name}: the hidden request reached the upstream"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_foreign_host_is_refused_and_every_loopback_name_served() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let port = proxy.address().port();
    let with_host = |host: &str| proxy.ask(&Ask::messages(&hello()).header("Host", host));
    for host in [
        "attacker.example",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "attacker.example:3456",
        "localhost@attacker.example",
        "192.168.1.10",
        "10.0.0.1:3456",
        "[2001:db8::1]",
        "0.0.0.0",
    ] {
        let reply = with_host(host);
        let message = reply.assert_error(403, "permission_error");
        assert!(!message.is_empty(), "{host}");
    }
    assert_eq!(upstream.requests().len(), 0);
    for host in [
        format!("127.0.0.1:{port}"),
        "127.0.0.1".into(),
        "127.0.0.2".into(),
        "localhost".into(),
        format!("LocalHost:{port}"),
        format!("[::1]:{port}"),
        "[::1]".into(),
    ] {
        assert_eq!(with_host(&host).status, 200, "{host}");
    }
    let local = proxy.ask(&Ask::get("/maxpool/health").header("Host", "attacker.example"));
    assert_eq!(local.status, 403, "the rule holds for every route that needs no key");
}

#[test]
fn a_web_page_cannot_spend_the_pool() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let with = |name: &str, value: &str| proxy.ask(&Ask::messages(&hello()).header(name, value));
    for (name, value) in [
        ("Origin", "https://attacker.example"),
        ("Origin", "http://localhost.attacker.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        let reply = with(name, value);
        reply.assert_error(403, "permission_error");
        let allows = |reply: &crate::harness::Reply| {
            let mut names = reply.headers.iter().map(|(name, _)| name.to_lowercase());
            names.any(|name| name.starts_with("access-control-"))
        };
        assert!(!allows(&reply), "no CORS header is ever sent");
    }
    let preflight = proxy.ask(
        &Ask::new("OPTIONS", "/v1/messages")
            .header("Origin", "https://attacker.example")
            .header("Access-Control-Request-Method", "POST"),
    );
    assert_eq!(preflight.status, 403);
    assert_eq!(upstream.requests().len(), 0);
    let own = format!("http://{}", proxy.address());
    assert_eq!(with("Origin", &own).status, 200);
    assert_eq!(with("Sec-Fetch-Site", "same-origin").status, 200);
    assert_eq!(with("Sec-Fetch-Site", "none").status, 200);
}

#[test]
fn with_require_key_everyone_needs_the_key_in_either_header() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("proxy.requireKey", json!(true));
    let proxy = Proxy::start(&home);
    let bearer = format!("Bearer {KEY}");
    let wrong = format!("{KEY}x");
    let rows = [
        (vec![], 401),
        (vec![("x-api-key", "wrong")], 401),
        (vec![("x-api-key", wrong.as_str())], 401),
        (vec![("x-api-key", "")], 401),
        (vec![("authorization", "Bearer wrong")], 401),
        (vec![("Host", "attacker.example")], 401),
        (vec![("x-api-key", KEY)], 200),
        (vec![("authorization", bearer.as_str())], 200),
        (vec![("authorization", "Bearer sk-ant-oat01-own"), ("x-api-key", KEY)], 200),
        (vec![("Host", "pool.example"), ("x-api-key", KEY)], 200),
    ];
    for (headers, status) in rows {
        let mut ask = Ask::messages(&hello());
        for (name, value) in &headers {
            ask = ask.header(name, value);
        }
        let reply = proxy.ask(&ask);
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
        if status == 401 {
            reply.assert_error(401, "authentication_error");
        }
    }
    for request in upstream.requests() {
        let head = String::from_utf8_lossy(&request.head).into_owned();
        assert!(!head.contains(KEY), "the proxy key never leaves: {head}");
        assert_eq!(request.credential(), "key-a");
    }
}

#[test]
fn a_loopback_client_needs_no_key_and_may_send_any() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for (name, value) in [("x-api-key", "whatever"), ("authorization", "Bearer whatever")] {
        let reply = proxy.ask(&Ask::messages(&hello()).header(name, value));
        assert_eq!(reply.status, 200);
    }
    assert_eq!(upstream.order(), ["key-a", "key-a"]);
}

#[test]
fn an_expectation_is_answered_here() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let body = hello().to_string();
    let head = format!("{POST}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n", body.len());
    let mut client = proxy.connect();
    client.send(head.as_bytes());
    let ask = Ask::messages(&hello());
    let mut seen = [0; 12];
    std::io::Read::read_exact(&mut client.socket(), &mut seen).expect("an interim answer");
    assert_eq!(String::from_utf8_lossy(&seen), "HTTP/1.1 100");
    let mut byte = [0];
    let mut tail = Vec::new();
    while !tail.ends_with(b"\r\n\r\n") {
        std::io::Read::read_exact(&mut client.socket(), &mut byte).expect("its end");
        tail.push(byte[0]);
    }
    client.send(body.as_bytes());
    client.read_reply(&ask).assert_said("Hello from upstream.");
    assert_eq!(upstream.only_request().header("expect"), None);
}

#[test]
fn old_and_odd_clients_are_served_or_refused_but_never_left_hanging() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let (codes, text) = raw(&proxy, b"GET /maxpool/health HTTP/1.0\r\n\r\n");
    assert_eq!(codes, [200], "HTTP/1.0 needs no Host: {text}");
    assert!(!text.to_lowercase().contains("transfer-encoding"), "{text}");
    for bytes in [
        &b"GET /\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        let (codes, text) = raw(&proxy, bytes);
        assert!(codes.iter().all(|code| *code >= 400), "{text}");
    }
    Client::connect(proxy.address()).reset();
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn a_body_that_ends_within_a_chunk_is_not_taken_for_whole() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut client = proxy.connect();
    client.send(format!("{POST}Transfer-Encoding: chunked\r\n\r\n40\r\n{{\"model\":").as_bytes());
    client.half_close();
    let (bytes, _) = client.read_to_close();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.requests().len(), 1, "the torn one went nowhere");
}
