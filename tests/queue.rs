//! Waiting (SPEC Q1, Q2, Q3): which requests are held, in which order they are served, and when
//! waiting ends.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harness::{Ask, Client, Home, Proxy, Reply, Value, hello, hello_stream, json};
use crate::upstream::{Answer, Limits, Upstream, failures};

fn one_account(upstream: &Upstream) -> Home {
    Home::new().upstream(&upstream.url()).accounts(&["a"])
}

/// A request that is recognisable at the upstream.
fn marked(number: usize) -> Value {
    let mut body = hello();
    body["messages"][0]["content"] = json!(format!("number {number}"));
    body
}

/// The numbers of the requests in the order in which they reached the upstream.
fn numbers(upstream: &Upstream) -> Vec<usize> {
    let requests = upstream.requests();
    let texts = requests.iter().map(|request| request.json());
    let texts = texts.filter_map(|body| body["messages"][0]["content"].as_str().map(str::to_owned));
    texts.filter_map(|text| text.strip_prefix("number ")?.parse().ok()).collect()
}

fn queued(status: &Value) -> u64 {
    status["upstreamThrottle"]["queued"].as_u64().expect("a number")
}

/// Sends a request on a new thread.
fn send(proxy: &Proxy, ask: Ask) -> std::thread::JoinHandle<(Reply, Instant)> {
    let address = proxy.address();
    std::thread::spawn(move || {
        let mut client = Client::connect(address);
        client.patience(Duration::from_secs(60));
        let reply = client.ask(&ask);
        (reply, Instant::now())
    })
}

#[test]
fn a_reset_within_the_second_is_not_slept_through() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&one_account(&upstream));
    let at = SystemTime::now() + Duration::from_millis(300);
    let reset = at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let limits = Limits::new()
        .status("rejected")
        .claim("five_hour")
        .header("anthropic-ratelimit-unified-5h-reset", &format!("{reset:.3}"));
    let refusal = Answer::error(429, "rate_limit_error", "Error");
    upstream.next("key-a", refusal.limits(&limits));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let late = at.elapsed().expect("after the reset");
    assert!(late < Duration::from_millis(500), "{late:?}");
}

#[test]
fn an_account_whose_limit_ends_serves_though_the_other_cannot_be_reached() {
    let upstream = Upstream::start();
    let mut nowhere = crate::harness::home::api_key("b");
    nowhere["upstream"] = json!("http://127.0.0.1:9");
    let home = one_account(&upstream).account(nowhere).priority(1, 1);
    let proxy = Proxy::start(&home);
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(1)));
    let before = Instant::now();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    // The other account's cooldown takes five seconds.
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
    assert_eq!(upstream.count("key-a"), 2);
}

#[test]
fn a_request_waits_for_the_reset_and_is_served_then() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&one_account(&upstream));
    let before = Instant::now();
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(2)));
    for body in [hello(), hello_stream()] {
        proxy.post(&body).assert_said("Hello from upstream.");
    }
    let waited = before.elapsed();
    assert!(waited >= Duration::from_millis(1500), "{waited:?}");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
    assert_eq!(upstream.requests().len(), 3, "asked once more, when the time had come");
    let log = proxy.log();
    let moved: Vec<&String> = log.iter().filter(|line| line.contains("failover")).collect();
    assert!(
        matches!(moved[..], [line] if line.contains("failover a -> the queue: 429")),
        "{log:?}"
    );
}

#[test]
fn who_waits_is_served_as_soon_as_a_window_starts_anew() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&one_account(&upstream));
    let limits = Limits::new().status("allowed").window("5h", 0.97, Duration::from_secs(2));
    upstream.next("key-a", Answer::message("last").limits(&limits));
    proxy.post(&hello()).assert_said("last");
    let clients: Vec<_> = (0..5).map(|_| send(&proxy, Ask::messages(&hello()))).collect();
    for client in clients {
        client.join().expect("a client").0.assert_said("Hello from upstream.");
    }
    assert_eq!(upstream.requests().len(), 6);
}

#[test]
fn the_safety_cap_lets_the_surplus_wait_and_refuses_nobody() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("scheduler.safetyMaxActivePerAccount", json!(5));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    for key in ["key-a", "key-b"] {
        upstream.always(
            key,
            Answer::message("served").before(crate::upstream::Step::Hold(gate.clone())),
        );
    }
    let clients: Vec<_> = (0..40).map(|_| send(&proxy, Ask::messages(&hello()))).collect();
    proxy.wait_status("30 wait", |status| queued(status) == 30);
    assert_eq!((upstream.count("key-a"), upstream.count("key-b")), (5, 5));
    gate.open();
    for client in clients {
        client.join().expect("a client").0.assert_said("served");
    }
    let status = proxy.wait_status("nobody waits", |status| queued(status) == 0);
    assert_eq!(status["scheduler"]["globalInFlight"], 0);
}

#[test]
fn first_in_first_out() {
    let upstream = Upstream::start();
    let proxy =
        Proxy::start(&one_account(&upstream).set("scheduler.safetyMaxGlobalActive", json!(1)));
    let gate = upstream.gate();
    upstream
        .next("key-a", Answer::message("first").before(crate::upstream::Step::Hold(gate.clone())));
    let mut clients = vec![send(&proxy, Ask::messages(&marked(0)))];
    upstream.wait_requests(1);
    for number in 1..=8 {
        clients.push(send(&proxy, Ask::messages(&marked(number))));
        proxy.wait_status("it waits", |status| queued(status) == number as u64);
    }
    gate.open();
    for client in clients {
        assert_eq!(client.join().expect("a client").0.status, 200);
    }
    assert_eq!(numbers(&upstream), (0..=8).collect::<Vec<_>>());
}

#[test]
fn a_newcomer_never_overtakes() {
    let upstream = Upstream::start();
    let proxy =
        Proxy::start(&one_account(&upstream).set("scheduler.safetyMaxGlobalActive", json!(2)));
    upstream.always(
        "key-a",
        Answer::message("hi").before(crate::upstream::Step::Pause(Duration::from_millis(60))),
    );
    let mut clients = Vec::new();
    for number in 0..12 {
        clients.push(send(&proxy, Ask::messages(&marked(number))));
        // Each request is queued or running before the next one is sent.
        proxy.wait_status("it is in", |status| {
            let done = upstream.requests().len() as u64;
            done + queued(status) > number as u64
        });
    }
    for client in clients {
        assert_eq!(client.join().expect("a client").0.status, 200);
    }
    let order = numbers(&upstream);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    // Two are in flight at once and may reach the upstream in either order.
    for (place, number) in order.iter().enumerate() {
        assert!(number.abs_diff(place) <= 1, "{order:?}");
    }
    assert_eq!(sorted, (0..12).collect::<Vec<_>>());
}

#[test]
fn nobody_waits_for_one_whom_the_free_account_could_not_serve() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&one_account(&upstream));
    let mut opus = hello();
    opus["model"] = json!("claude-opus-4-1-20250805");
    upstream.next("key-a", failures::quota("seven_day_opus", Duration::from_secs(3)));
    // Requests wait for a family's weekly reset only if the weekly limit allows it, so this uses a
    // short window.
    let held = send(&proxy, Ask::messages(&opus).header("x-maxpool-session", "o"));
    upstream.wait_requests(1);
    let before = Instant::now();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert!(before.elapsed() < Duration::from_secs(2), "another family is served meanwhile");
    let _either_held_or_told = held.join().expect("a client");
}

#[test]
fn a_full_queue_says_so_at_once() {
    let upstream = Upstream::start();
    let home = one_account(&upstream)
        .set("scheduler.safetyMaxGlobalActive", json!(1))
        .set("queue.maxConcurrentQueued", json!(2));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    upstream
        .next("key-a", Answer::message("first").before(crate::upstream::Step::Hold(gate.clone())));
    let mut clients = vec![send(&proxy, Ask::messages(&hello()))];
    upstream.wait_requests(1);
    for number in 1..=2 {
        clients.push(send(&proxy, Ask::messages(&hello())));
        proxy.wait_status("it waits", |status| queued(status) == number);
    }
    let message = proxy.post(&hello()).assert_error(429, "rate_limit_error");
    assert!(message.contains("queue") && message.contains("full"), "{message}");
    gate.open();
    for client in clients {
        assert_eq!(client.join().expect("a client").0.status, 200);
    }
}

#[test]
fn waiting_bodies_are_bounded_in_bytes() {
    let upstream = Upstream::start();
    let home = one_account(&upstream)
        .set("scheduler.safetyMaxGlobalActive", json!(1))
        .set("queue.maxQueuedBytes", json!(100_000))
        .set("queue.maxQueuedBodyBytes", json!(60_000));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    upstream
        .next("key-a", Answer::message("first").before(crate::upstream::Step::Hold(gate.clone())));
    let sized = |bytes: usize| {
        let mut body = hello();
        body["system"] = json!("x".repeat(bytes));
        body
    };
    let mut clients = vec![send(&proxy, Ask::messages(&hello()))];
    upstream.wait_requests(1);
    let too_big = proxy.post(&sized(61_000));
    assert!(too_big.status >= 400, "a larger body is not held: {}", too_big.text());
    clients.push(send(&proxy, Ask::messages(&sized(55_000))));
    proxy.wait_status("it waits", |status| queued(status) == 1);
    let message = proxy.post(&sized(55_000)).assert_error(429, "rate_limit_error");
    assert!(message.contains("queue") && message.contains("full"), "{message}");
    gate.open();
    for client in clients {
        assert_eq!(client.join().expect("a client").0.status, 200);
    }
}

#[test]
fn what_will_not_end_within_the_limit_is_told_at_once() {
    let hour = Duration::from_secs(3600);
    let rows = [
        ("longer than maxWaitMs", "queue.maxWaitMs", failures::quota("five_hour", hour)),
        ("longer than autoMaxWaitMs", "queue.autoMaxWaitMs", failures::quota("five_hour", hour)),
        ("without streaming", "queue.nonStreamMaxWaitMs", failures::quota("five_hour", hour)),
        ("the API in trouble", "queue.capacityMaxWaitMs", failures::overloaded()),
        ("the network down", "queue.networkMaxWaitMs", failures::reset()),
    ];
    for (name, key, answer) in rows {
        let upstream = Upstream::start();
        let proxy = Proxy::start(&one_account(&upstream).set(key, json!(1500)));
        upstream.always("key-a", answer);
        let before = Instant::now();
        let reply = proxy.post(&hello());
        assert!(reply.status >= 400, "{name}: {}", reply.text());
        assert!(before.elapsed() < Duration::from_millis(1400), "{name}: {:?}", before.elapsed());
    }
}

#[test]
fn a_refused_credential_is_never_waited_for() {
    for answer in [failures::unauthorized(), failures::forbidden()] {
        let upstream = Upstream::start();
        let proxy = Proxy::start(&one_account(&upstream));
        upstream.always("key-a", answer);
        let before = Instant::now();
        for _ in 0..2 {
            assert_eq!(proxy.post(&hello_stream()).status, 502);
        }
        assert!(before.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_request_that_only_waited_is_not_logged_against_an_account() {
    let upstream = Upstream::start();
    let mut proxy = Proxy::start(&one_account(&upstream));
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(60)));
    let waiting = send(&proxy, Ask::messages(&hello()));
    proxy.wait_status("it waits", |status| queued(status) == 1);
    proxy.terminate();
    waiting.join().expect("a client").0.assert_error(503, "restart_in_progress");
    assert_eq!(proxy.wait_exit(), Some(0));
    let log = proxy.log();
    let its = log.iter().find(|line| line.contains("POST /v1/messages "));
    assert!(its.is_some_and(|line| line.contains("/v1/messages - 503 ")), "{log:?}");
}

#[test]
fn a_wait_for_the_cap_ends_at_its_limit() {
    let upstream = Upstream::start();
    let home = one_account(&upstream)
        .set("scheduler.safetyMaxGlobalActive", json!(1))
        .set("queue.capacityMaxWaitMs", json!(700));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    upstream
        .next("key-a", Answer::message("first").before(crate::upstream::Step::Hold(gate.clone())));
    let first = send(&proxy, Ask::messages(&hello()));
    upstream.wait_requests(1);
    let before = Instant::now();
    let reply = proxy.post(&hello());
    reply.assert_error(429, "rate_limit_error");
    let waited = before.elapsed();
    assert!((Duration::from_millis(650)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
    gate.open();
    first.join().expect("a client").0.assert_said("first");
}

#[test]
fn counting_tokens_waits_eight_seconds_at_most() {
    let upstream = Upstream::start();
    let home = one_account(&upstream)
        .set("queue.countTokensMaxWaitMs", json!(500))
        .set("scheduler.safetyMaxActivePerAccount", json!(1));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let count = || Ask::post("/v1/messages/count_tokens", &hello());
    let held = Answer::json(200, r#"{"input_tokens":7}"#);
    upstream.next("key-a", held.before(crate::upstream::Step::Hold(gate.clone())));
    let first = send(&proxy, count());
    upstream.wait_requests(1);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let before = Instant::now();
    let reply = proxy.ask(&count());
    assert!([429, 529].contains(&reply.status), "{}", reply.text());
    assert!(before.elapsed() < Duration::from_secs(5));
    gate.open();
    assert_eq!(first.join().expect("a client").0.json()["input_tokens"], 7);
}

#[test]
fn a_network_that_comes_back_in_time_fails_nobody() {
    let upstream = Upstream::start();
    let address = upstream.address();
    let home = one_account(&upstream).set("scheduler.networkCooldownMs", json!(300));
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    drop(upstream);
    let held = send(&proxy, Ask::messages(&hello_stream()));
    proxy.wait_status("it waits", |status| {
        queued(status) == 1 || !status["accounts"][0]["cooldownUntil"].is_null()
    });
    let back = Upstream::on(address, |_| Answer::message("back again"));
    held.join().expect("a client").0.assert_said("back again");
    assert!(!back.requests().is_empty());
}

#[test]
fn one_clock_runs_over_all_waits_of_a_request() {
    let upstream = Upstream::start();
    let home = one_account(&upstream)
        .set("scheduler.cooldownMs", json!(400))
        .set("scheduler.maxCooldownMs", json!(400))
        .set("queue.capacityMaxWaitMs", json!(1500));
    let proxy = Proxy::start(&home);
    upstream.always("key-a", failures::server_error(500));
    let before = Instant::now();
    let reply = proxy.post(&hello());
    let waited = before.elapsed();
    assert!(reply.status >= 429, "{}", reply.text());
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let asked = upstream.requests().len();
    assert!((2..=6).contains(&asked), "asked {asked} times in {waited:?}");
}

#[test]
fn a_stop_never_waits_for_those_in_the_queue() {
    let upstream = Upstream::start();
    let mut proxy = Proxy::start(&one_account(&upstream));
    upstream.always("key-a", failures::quota("five_hour", Duration::from_secs(3600)));
    let held = send(&proxy, Ask::messages(&hello_stream()));
    proxy.wait_status("it waits", |status| queued(status) == 1);
    proxy.terminate();
    let (reply, _) = held.join().expect("a client");
    reply.assert_error(503, "restart_in_progress");
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn the_log_says_what_a_request_really_waits_for() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .account(json!({"name": "b", "type": "oauth", "accessToken": "key-b"}));
    let proxy = Proxy::start(&home);
    upstream.always("key-a", failures::overloaded());
    // Requests do not wait for a failure of this last kind to end.
    upstream.always("key-b", failures::unauthorized());
    let mut client = proxy.connect();
    client.send_ask(&Ask::messages(&hello_stream()));
    proxy.wait_line("what it waits for", |line| {
        line.contains("request held (capacity): an account is expected at")
    });
}
