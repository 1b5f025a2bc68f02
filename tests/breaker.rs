//! The shared breaker (SPEC P8): when the API itself fails, one request probes for all.

use std::time::{Duration, Instant};

use crate::harness::home::KEY;
use crate::harness::{Ask, Client, Home, Proxy, Reply, hello, json};
use crate::upstream::{Answer, Step, Upstream, failures};

const KEYS: [&str; 3] = ["key-a", "key-b", "key-c"];

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b", "c"]);
    let proxy = Proxy::start(&home);
    (home, proxy)
}

fn send(proxy: &Proxy) -> std::thread::JoinHandle<Reply> {
    let address = proxy.address();
    std::thread::spawn(move || {
        let mut client = Client::connect(address);
        client.patience(Duration::from_secs(90));
        client.ask(&Ask::messages(&hello()))
    })
}

fn trouble(seconds: u64) -> Answer {
    failures::server_side().header("retry-after", &seconds.to_string())
}

#[test]
fn when_all_refuse_alike_one_request_probes_and_then_all_are_served() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for key in KEYS {
        upstream.always(key, trouble(2));
    }
    let first = send(&proxy);
    let status = proxy
        .wait_status("the breaker trip", |status| status["upstreamThrottle"]["active"] == true);
    assert_eq!(upstream.requests().len(), 3, "each account was asked once");
    assert!(status["upstreamThrottle"]["until"].is_string(), "{:#}", status["upstreamThrottle"]);
    assert!(status["upstreamThrottle"]["reason"].is_string());
    let explain = Ask::get("/maxpool/explain").header("x-api-key", KEY);
    let explain = proxy.ask(&explain).json();
    for passed in explain["passedOver"].as_array().expect("a list") {
        let said = passed["evidence"]["message"].as_str().unwrap_or_default();
        assert!(said.contains("temporarily limiting"), "{passed:#}");
    }
    assert_eq!(explain["passedOver"].as_array().map(Vec::len), Some(3));
    let others: Vec<_> = (0..6).map(|_| send(&proxy)).collect();
    proxy.wait_status("all wait", |status| status["upstreamThrottle"]["queued"] == 7);
    let gate = upstream.gate();
    for key in KEYS {
        upstream.always(key, Answer::message("healed").before(Step::Hold(gate.clone())));
    }
    upstream.wait_requests(4);
    let status = proxy.status();
    assert_eq!(
        status["upstreamThrottle"]["probeInFlight"], true,
        "{:#}",
        status["upstreamThrottle"]
    );
    assert_eq!(upstream.requests().len(), 4, "one request probes for all");
    gate.open();
    first.join().expect("a client").assert_said("healed");
    for other in others {
        other.join().expect("a client").assert_said("healed");
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 10);
    let spread = requests[9].at - requests[4].at;
    assert!(spread > Duration::from_millis(900), "the others follow one every 250 ms: {spread:?}");
    assert_eq!(proxy.status()["upstreamThrottle"]["active"], false);
}

#[test]
fn a_probe_that_fails_arms_it_again() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for key in KEYS {
        upstream.always(key, trouble(1));
    }
    let client = send(&proxy);
    upstream.wait_requests(4);
    let probe = upstream.requests()[3].at;
    for key in KEYS {
        upstream.heal(key);
    }
    client.join().expect("a client").assert_said("Hello from upstream.");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 5);
    let waited = requests[4].at - probe;
    assert!((Duration::from_millis(4500)..Duration::from_secs(12)).contains(&waited), "{waited:?}");
}

#[test]
fn any_answer_that_is_no_refusal_closes_it() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for key in KEYS {
        upstream.next(key, trouble(1));
        upstream.always(key, failures::invalid());
    }
    assert_eq!(proxy.post(&hello()).status, 400, "the probe's own answer is its client's");
    assert_eq!(proxy.status()["upstreamThrottle"]["active"], false);
    let before = Instant::now();
    assert_eq!(proxy.post(&hello()).status, 400);
    assert!(before.elapsed() < Duration::from_secs(3));
}

#[test]
fn one_account_alone_or_different_refusals_never_trip_it() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    upstream.always("key-a", trouble(1));
    assert_eq!(proxy.post(&hello()).status, 429);
    assert_eq!(proxy.status()["upstreamThrottle"]["active"], false);

    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b", "c"])
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    upstream.always("key-a", trouble(2));
    upstream.always("key-b", failures::overloaded());
    upstream.always("key-c", failures::bare_429());
    assert!([429, 529].contains(&proxy.post(&hello()).status));
    assert_eq!(proxy.status()["upstreamThrottle"]["active"], false);
}

#[test]
fn words_with_digits_do_not_make_refusals_different() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    for (key, id) in [("key-a", "req_18f"), ("key-b", "req_77a")] {
        let text = format!("Server is temporarily limiting requests (not your usage limit) {id}");
        upstream
            .always(key, Answer::error(429, "rate_limit_error", &text).header("retry-after", "5"));
    }
    assert_eq!(proxy.post(&hello()).status, 429);
    assert_eq!(proxy.status()["upstreamThrottle"]["active"], true);
}

#[test]
fn a_probe_whose_client_leaves_is_handed_back_unused() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for key in KEYS {
        upstream.always(key, trouble(1));
    }
    let mut leaving = proxy.connect();
    leaving.send_ask(&Ask::messages(&hello()));
    proxy.wait_status("the breaker trip", |status| status["upstreamThrottle"]["active"] == true);
    for key in KEYS {
        upstream.next(key, failures::silent());
    }
    upstream.wait_requests(4);
    for key in KEYS {
        upstream.heal(key);
    }
    let staying = send(&proxy);
    proxy.wait_status("it waits", |status| status["upstreamThrottle"]["queued"] == 1);
    let before = Instant::now();
    drop(leaving);
    staying.join().expect("a client").assert_said("Hello from upstream.");
    assert!(before.elapsed() < Duration::from_secs(4), "no new pause: {:?}", before.elapsed());
}
