//! What slipped through although the listener did its part: large heads on their way upstream, answers that
//! nobody asked for, spellings of paths, and accounts that other clients' headers named.

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, hello, json};
use crate::upstream::{Answer, Upstream};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Nothing has been charged to any account.
fn assert_nobody_is_blamed(proxy: &Proxy) {
    for name in ["a", "b"] {
        let account = proxy.account(name);
        assert_eq!(account["status"], "active", "{account}");
        assert_eq!(account["cooldownUntil"], json!(null), "{account}");
    }
}

#[test]
fn a_long_header_line_and_a_long_target_are_forwarded() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let target = format!("/v1/messages?q={}", "t".repeat(20_000));
    let asks = [
        Ask::messages(&hello()).header("x-long", &"h".repeat(20_000)),
        Ask::post(&target, &hello()),
        // As large as the door lets in, once in one line and once in many.
        Ask::messages(&hello()).header("x-long", &"h".repeat(65_000)),
        (0..90).fold(Ask::messages(&hello()), |ask, number| {
            ask.header(&format!("x-line-{number}"), &"h".repeat(700))
        }),
        Ask::messages(&hello()),
    ];
    for ask in &asks {
        proxy.ask(ask).assert_said("Hello from upstream.");
    }
    let requests = upstream.requests();
    let long = |index: usize| requests[index].header("x-long").map(str::len);
    assert_eq!((long(0), long(2)), (Some(20_000), Some(65_000)));
    assert_eq!(requests[1].target, target);
    for number in 0..90 {
        let line = requests[3].header(&format!("x-line-{number}"));
        assert_eq!(line.map(str::len), Some(700));
    }
    assert_nobody_is_blamed(&proxy);
}

#[test]
fn an_upstream_that_switches_protocols_unasked_is_answered_for_in_our_words() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let switch = || {
        Answer::raw_bytes(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nnoise",
        )
    };
    upstream.always("key-a", switch());
    upstream.always("key-b", switch());
    upstream.always("sk-ant-own", switch());
    let asks = [
        Ask::messages(&hello()),
        Ask::messages(&hello())
            .header("connection", "upgrade")
            .header("upgrade", "other"),
        Ask::get("/v1/files").header("x-api-key", "sk-ant-own"),
    ];
    for ask in &asks {
        let message = proxy.ask(ask).assert_error(502, "proxy_error");
        assert!(message.contains("101"), "{message}");
    }
    assert_eq!(upstream.requests().len(), 3, "no other account is asked");
    assert_nobody_is_blamed(&proxy);
    upstream.heal("key-a");
    upstream.heal("key-b");
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn no_spelling_of_a_relayed_or_reserved_path_gets_a_pooled_credential() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for target in [
        "/v1/oauth/token",
        "//v1/oauth/token",
        "/v1//oauth/token",
        "/v1/oauth/token/",
        "/v1/oauth/token;x",
        "/v1;x/oauth/token",
        "/v1%2foauth/token",
        "/v1/oauth%2Ftoken",
        "/v1/oauth%252ftoken",
        "/v1/oauth/%2574oken",
        "/V1/OAuth/Token",
    ] {
        let before = upstream.requests().len();
        let ask = Ask::new("POST", target)
            .header("authorization", "Bearer the-client's-own")
            .header("content-type", "application/json")
            .body(br#"{"grant_type":"refresh_token"}"#.to_vec());
        let reply = proxy.ask(&ask);
        let requests = upstream.requests();
        assert_eq!(requests.len(), before + 1, "{target}: {}", reply.status);
        let request = &requests[before];
        assert_eq!(request.target, target, "untouched");
        assert_eq!(
            (request.header("authorization"), request.header("x-api-key")),
            (Some("Bearer the-client's-own"), None),
            "{target}"
        );
    }
    let before = upstream.requests().len();
    for target in [
        "/maxpool%2fstatus",
        "/maxpool%252fstatus",
        "/%6daxpool/status/",
        "//maxpool/status",
        "/maxpool;x/status",
    ] {
        let reply = proxy.ask(&Ask::get(target).header("x-api-key", KEY));
        assert_eq!(reply.status, 404, "{target}: {}", reply.text());
    }
    assert_eq!(upstream.requests().len(), before);
}
