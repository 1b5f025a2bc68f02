//! Conversations that the API stores (SPEC P10): they go to the account that owns them, or the
//! client is told to send the whole conversation.

use std::time::Duration;

use crate::harness::{Home, Proxy, Value, hello, json};
use crate::upstream::{Answer, Upstream, failures};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b", "c"]);
    let proxy = Proxy::start(&home);
    (home, proxy)
}

fn in_thread(id: &str, kind: &str) -> Value {
    let mut body = hello();
    body["thread"] = json!({"type": kind, "id": id});
    body
}

#[test]
fn a_thread_stays_with_the_account_that_answered_it_last() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut owners = Vec::new();
    for id in ["t1", "t2", "t3"] {
        proxy.post(&in_thread(id, "create")).assert_said("Hello from upstream.");
        owners.push(upstream.order().pop().expect("a request"));
    }
    for _ in 0..2 {
        for (id, owner) in ["t1", "t2", "t3"].iter().zip(&owners) {
            proxy.post(&in_thread(id, "continue")).assert_said("Hello from upstream.");
            assert_eq!(upstream.order().pop().as_ref(), Some(owner), "{id}");
        }
    }
}

#[test]
fn when_the_owner_cannot_serve_the_client_is_told_to_send_everything() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    proxy.post(&in_thread("t1", "create")).assert_said("Hello from upstream.");
    let owner = upstream.order().pop().expect("a request");
    let refusals = [
        failures::server_error(500),
        failures::server_error(503),
        Answer::error(529, "overloaded_error", "Overloaded"),
        failures::quota("five_hour", Duration::from_secs(3600)),
    ];
    for refusal in refusals {
        upstream.always(&owner, refusal);
        for _ in 0..2 {
            let reply = proxy.post(&in_thread("t1", "continue"));
            reply.assert_error(400, "invalid_request_error");
            let code = &reply.json()["error"]["details"]["error_code"];
            assert_eq!(*code, "thread_unsupported_request");
        }
    }
    let others: Vec<String> = upstream.order().into_iter().filter(|key| *key != owner).collect();
    assert!(others.is_empty(), "another account knows nothing of it: {others:?}");
    proxy.post(&hello()).assert_said("Hello from upstream.");
}
