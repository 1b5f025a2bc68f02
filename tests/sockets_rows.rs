//! Problems that the listener itself does not catch: large heads on their way upstream, unsolicited
//! answers, spellings of paths, and accounts named by other clients' headers.

use std::time::Duration;

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, hello, json};
use crate::upstream::{Answer, Step, Upstream, failures};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Asserts that no account has been blamed.
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
        // As large as the listener accepts, once in one line and once in many.
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
        Ask::messages(&hello()).header("connection", "upgrade").header("upgrade", "other"),
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

/// A request with the profile `all` and a GLM token for this address.
fn with_glm(token: &str, glm: &Upstream) -> Ask {
    Ask::messages(&hello())
        .header("x-maxpool-profile", "all")
        .header("x-maxpool-zai-token", token)
        .header("x-maxpool-zai-base-url", &glm.url())
}

#[test]
fn no_prompt_goes_to_an_address_that_another_clients_header_named() {
    let claude = Upstream::start();
    let glm = Upstream::with(|_| Answer::message("Hello from A's GLM."));
    let (_home, proxy) = start(&claude);
    for key in ["key-a", "key-b"] {
        let hour = Duration::from_secs(3600);
        claude.always(key, failures::quota("five_hour", hour));
    }
    let with_session = |ask: Ask| ask.header("x-maxpool-session", "shared");
    proxy.ask(&with_session(with_glm("token-a", &glm))).assert_said("Hello from A's GLM.");
    // The second request belongs to a session bound to the account.
    let without = Ask::messages(&hello()).header("x-maxpool-profile", "all");
    for ask in [without.clone(), with_session(without)] {
        let reply = proxy.ask(&ask);
        assert_eq!(reply.status, 429, "{}", reply.text());
        assert!(!reply.text().contains("glm-fallback"), "{}", reply.text());
    }
    assert_eq!(glm.requests().len(), 1, "B's prompt went to A's address");
    let explained = proxy
        .ask(&Ask::get("/maxpool/explain?profile=all&session=shared").header("x-api-key", KEY));
    let passed_over = &explained.json()["passedOver"];
    let glm_entry = passed_over
        .as_array()
        .into_iter()
        .flatten()
        .find(|passed| passed["account"] == "glm-fallback");
    assert_eq!(
        glm_entry.map(|passed| &passed["reason"]),
        Some(&json!("only for requests whose headers name it")),
        "{passed_over}"
    );
    proxy.ask(&with_session(with_glm("token-a", &glm))).assert_said("Hello from A's GLM.");
}

#[test]
fn clients_that_bring_different_tokens_at_once_are_served_with_their_own() {
    let claude = Upstream::start();
    let first = Upstream::start();
    let second = Upstream::with(|_| Answer::message("Hello from B's GLM."));
    let (_home, proxy) = start(&claude);
    for key in ["key-a", "key-b"] {
        let hour = Duration::from_secs(3600);
        claude.always(key, failures::quota("five_hour", hour));
    }
    let gate = first.gate();
    let held = Answer::message("Hello from A's GLM.").before(Step::Hold(gate.clone()));
    first.next("token-a", held);
    let mut client = proxy.connect();
    let ask = with_glm("token-a", &first);
    client.send_ask(&ask);
    first.wait_requests(1);
    for _ in 0..2 {
        proxy.ask(&with_glm("token-b", &second)).assert_said("Hello from B's GLM.");
    }
    gate.open();
    client.read_reply(&ask).assert_said("Hello from A's GLM.");
    assert_eq!(first.order(), ["token-a"]);
    assert_eq!(second.order(), ["token-b", "token-b"]);
    assert_eq!(proxy.account("glm-fallback")["runtime"], true);
    assert_eq!(proxy.account("glm-fallback-2")["runtime"], true);
}
