//! The routes that the program answers itself (SPEC P1), and the key that they need.

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, ReplyEnd, hello};
use crate::upstream::Upstream;

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    (home, proxy)
}

#[test]
fn the_root_answers_here() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let get = proxy.ask(&Ask::get("/"));
    assert_eq!((get.status, get.end), (200, ReplyEnd::Complete));
    let head = proxy.ask(&Ask::new("HEAD", "/"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn a_head_request_leaves_the_connection_in_step() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(&Ask::new("HEAD", "/")).status, 200);
        assert_eq!(client.ask(&Ask::get("/maxpool/health")).status, 200);
    }
}

#[test]
fn health_needs_no_key_and_status_does() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    assert_eq!(proxy.ask(&Ask::get("/maxpool/health")).status, 200);
    let status =
        |name: &str, value: &str| proxy.ask(&Ask::get("/maxpool/status").header(name, value));
    let message = proxy.ask(&Ask::get("/maxpool/status")).assert_error(401, "authentication_error");
    assert!(!message.contains(KEY));
    status("x-api-key", "wrong").assert_error(401, "authentication_error");
    status("authorization", "Bearer wrong").assert_error(401, "authentication_error");
    assert_eq!(status("x-api-key", KEY).status, 200);
    assert_eq!(status("authorization", &format!("Bearer {KEY}")).status, 200);
    assert_eq!(status("Authorization", &format!("bearer {KEY}")).status, 200);
}

#[test]
fn the_reserved_prefix_is_never_forwarded() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for target in [
        "/maxpool",
        "/maxpool/",
        "/maxpool?x=1",
        "/maxpool/nothing",
        "/maxpool/status/more",
        "/maxpool/accounts/a/explode",
    ] {
        let reply = proxy.ask(&Ask::get(target).header("x-api-key", KEY));
        assert_eq!(reply.status, 404, "{target}");
        reply.assert_error(404, "not_found_error");
    }
    for (method, target) in [("POST", "/maxpool/status"), ("DELETE", "/maxpool/health")] {
        let reply = proxy.ask(&Ask::new(method, target).header("x-api-key", KEY).body(Vec::new()));
        assert_eq!(reply.status, 405, "{method} {target}: {}", reply.text());
        assert!(reply.header("allow").is_some(), "RFC 9110, 15.5.6: a 405 says what is allowed");
    }
    assert_eq!(upstream.requests().len(), 0);
    let _forwarded = proxy.ask(&Ask::get("/maxpoolx"));
    assert_eq!(upstream.only_request().target, "/maxpoolx", "only the whole word is reserved");
}

#[test]
fn a_query_does_not_hide_a_local_route() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let reply = proxy.ask(&Ask::get("/maxpool/status?pretty=1").header("x-api-key", KEY));
    assert_eq!(reply.status, 200);
    assert_eq!(proxy.ask(&Ask::get("/maxpool/health?x")).status, 200);
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn one_connection_serves_local_routes_and_messages_in_turn() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.ask(&Ask::messages(&hello())).assert_said("Hello from upstream.");
        assert_eq!(client.ask(&Ask::get("/maxpool/health")).status, 200);
    }
    let ask = Ask::get("/maxpool/health");
    client.send_ask(&ask);
    client.send_ask(&Ask::messages(&hello()));
    client.send_ask(&ask);
    assert_eq!(client.read_reply(&ask).status, 200, "pipelined requests are answered in order");
    client.read_reply(&ask).assert_said("Hello from upstream.");
    assert_eq!(client.read_reply(&ask).status, 200);
}
