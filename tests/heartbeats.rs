//! What a waiting client receives (SPEC Q4), and how long it is held (Q6).

use std::time::{Duration, Instant};

use crate::harness::{Ask, Client, Home, Proxy, ReplyEnd, Value, hello, hello_stream, json};
use crate::upstream::{Answer, Message, Step, Upstream, failures};

const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// Short ping intervals, so that the tests are fast.
fn start(upstream: &Upstream, home: Home) -> (Home, Proxy) {
    let home = home
        .upstream(&upstream.url())
        .set("queue.heartbeatMs", json!(150))
        .set("queue.streamForwardGraceMs", json!(150));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// The number of our pings at the start of the body, and the rest of it.
fn pings(mut body: &[u8]) -> (usize, &[u8]) {
    let mut count = 0;
    while let Some(rest) = body.strip_prefix(PING) {
        (count, body) = (count + 1, rest);
    }
    (count, body)
}

#[test]
fn a_held_stream_gets_pings_and_then_its_answer() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a"]));
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(2)));
    let reply = proxy.post(&hello_stream());
    reply.assert_said("Hello from upstream.");
    let (count, rest) = pings(&reply.body);
    assert!((3..=25).contains(&count), "{count} pings in about two seconds");
    let sent =
        upstream.state().connections.iter().map(|connection| connection.sent).collect::<Vec<_>>();
    assert!(
        sent.contains(&crate::upstream::Digest::of(rest)),
        "after the pings: the answer, byte for byte"
    );
    let head = reply.header("content-type").expect("a type");
    assert!(head.starts_with("text/event-stream"), "{head}");
    let first = reply.arrivals.first().expect("bytes").0;
    let last = reply.arrivals.last().expect("bytes").0;
    assert!(last - first > Duration::from_millis(900), "the pings came while it waited");
}

#[test]
fn a_slow_answer_is_bridged_with_pings_that_end_with_its_first_byte() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a"]));
    let answer = Answer::of(Message::text("one two three"))
        .before(Step::Pause(Duration::from_millis(700)))
        .paced(Duration::from_millis(300));
    upstream.next("key-a", answer);
    let reply = proxy.post(&hello_stream());
    reply.assert_said("one two three");
    let (count, rest) = pings(&reply.body);
    assert!(count >= 2, "{count} pings");
    assert_eq!(
        crate::upstream::Digest::of(rest),
        upstream.state().connections[0].sent,
        "nothing of ours among the events of the answer"
    );
}

#[test]
fn pings_do_not_commit() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a", "b"]).priority(1, 1);
    let (_home, proxy) = start(&upstream, home);
    upstream.next("key-a", failures::overloaded().before(Step::Pause(Duration::from_millis(600))));
    let reply = proxy.post(&hello_stream());
    reply.assert_said("Hello from upstream.");
    assert!(pings(&reply.body).0 >= 1);
    assert_eq!(upstream.order(), ["key-a", "key-b"]);
}

#[test]
fn an_error_after_pings_comes_as_an_event() {
    let slow = Step::Pause(Duration::from_millis(500));
    let rows = [
        ("400", failures::invalid(), "invalid_request_error"),
        ("529", failures::overloaded(), "overloaded_error"),
        ("401", failures::unauthorized(), "account_auth_error"),
        ("quota", failures::quota("five_hour", Duration::from_secs(3600)), "rate_limit_error"),
        ("garbage", failures::edge_html(502), ""),
    ];
    for (name, answer, kind) in rows {
        let upstream = Upstream::start();
        let home = Home::new().accounts(&["a"]).set("queue.enabled", json!(false));
        let (_home, proxy) = start(&upstream, home);
        upstream.next("key-a", answer.before(slow.clone()));
        let reply = proxy.post(&hello_stream());
        assert_eq!((reply.status, reply.end), (200, ReplyEnd::Complete), "{name}");
        let events = reply.events();
        let errors: Vec<_> = events.iter().filter(|(name, _)| name == "error").collect();
        assert_eq!(errors.len(), 1, "{name}: {}", reply.text());
        assert_eq!(events.last().map(|(name, _)| name.as_str()), Some("error"), "{name}");
        let error = &errors[0].1;
        assert_eq!(error["type"], "error", "{name}: {error}");
        assert!(kind.is_empty() || error["error"]["type"] == kind, "{name}: {error}");
        assert!(error["error"]["message"].is_string(), "{name}: {error}");
        assert!(!reply.text().contains("HTTP/1.1"), "{name}");
    }
}

#[test]
fn a_json_answer_to_a_stream_that_has_begun_is_framed_as_an_error() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a"]));
    let answer =
        Answer::json(200, r#"{"type":"message"}"#).before(Step::Pause(Duration::from_millis(500)));
    upstream.next("key-a", answer);
    let reply = proxy.post(&hello_stream());
    let events = reply.events();
    assert_eq!(events.last().map(|(name, _)| name.as_str()), Some("error"), "{}", reply.text());
    assert_eq!(reply.end, ReplyEnd::Complete);
}

#[test]
fn a_request_without_streaming_hears_nothing_before_its_answer() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a"]));
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(2)));
    let before = Instant::now();
    let reply = proxy.post(&hello());
    reply.assert_said("Hello from upstream.");
    assert!(reply.head_at - before > Duration::from_millis(900), "no head before the answer");
    upstream.next("key-a", Answer::message("slow").before(Step::Pause(Duration::from_millis(600))));
    proxy.post(&hello()).assert_said("slow");
}

#[test]
fn a_held_stream_ends_before_the_client_leaves_it() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a"]).set("queue.streamClientToleranceMs", json!(900));
    let (_home, proxy) = start(&upstream, home);
    upstream.always("key-a", failures::quota("five_hour", Duration::from_secs(120)));
    let before = Instant::now();
    let reply = proxy.post(&hello_stream());
    let waited = before.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_secs(6)).contains(&waited), "{waited:?}");
    assert_eq!((reply.status, reply.end), (200, ReplyEnd::Complete));
    let (name, data) = reply.events().pop().expect("an event");
    assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("overloaded_error")));
    assert_eq!(proxy.account("a")["inFlight"], 0);
}

#[test]
fn a_client_that_declares_more_patience_is_held_longer() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a"]).set("queue.streamClientToleranceMs", json!(300));
    let (_home, proxy) = start(&upstream, home);
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(2)));
    let ask = Ask::messages(&hello_stream()).header("x-maxpool-client-stream-idle-ms", "20000");
    proxy.ask(&ask).assert_said("Hello from upstream.");
}

#[test]
fn a_client_whose_limits_env_has_raised_is_held_longer() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a"]).set("queue.streamClientToleranceMs", json!(300));
    let (_home, proxy) = start(&upstream, home);
    for (seconds, held) in [("600", false), ("86400", true)] {
        upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(2)));
        let ask = Ask::messages(&hello_stream()).header("x-stainless-timeout", seconds);
        let reply = proxy.ask(&ask);
        let served = reply.event_names().last().map(String::as_str) == Some("message_stop");
        assert_eq!(served, held, "a limit of {seconds} s");
        proxy.wait_status("the account to be free again", |status| {
            status["accounts"][0]["rateLimitedUntil"].is_null()
        });
    }
}

#[test]
fn a_held_request_without_streaming_ends_with_529_and_one_second() {
    let upstream = Upstream::start();
    let home = Home::new()
        .accounts(&["a"])
        .set("scheduler.safetyMaxGlobalActive", json!(1))
        .set("queue.nonStreamMaxWaitMs", json!(700));
    let (_home, proxy) = start(&upstream, home);
    let gate = upstream.gate();
    upstream.next("key-a", Answer::message("first").before(Step::Hold(gate.clone())));
    let address = proxy.address();
    let first = std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello())));
    upstream.wait_requests(1);
    let reply = proxy.post(&hello());
    reply.assert_error(529, "overloaded_error");
    assert_eq!(reply.header("retry-after"), Some("1"));
    gate.open();
    first.join().expect("a client").assert_said("first");
}

#[test]
fn who_comes_back_takes_the_old_place() {
    assert_eq!(order_with_a_return(|_| {}), ["first", "early", "late"]);
}

#[test]
fn who_comes_back_without_streaming_takes_the_old_place() {
    // Claude Code sends this after three streams without content.
    let order = order_with_a_return(|body| {
        body["stream"] = json!(false);
        body["max_tokens"] = json!(64);
    });
    assert_eq!(order, ["first", "early", "late"]);
}

/// The order in which requests are served when "early" gives up its wait before "late" arrives and
/// then returns with a body modified by `change`.
fn order_with_a_return(change: fn(&mut Value)) -> Vec<String> {
    let upstream = Upstream::start();
    let home = Home::new()
        .accounts(&["a"])
        .set("scheduler.safetyMaxGlobalActive", json!(1))
        .set("queue.streamClientToleranceMs", json!(600));
    let (_home, proxy) = start(&upstream, home);
    let gate = upstream.gate();
    upstream.next("key-a", Answer::message("first").before(Step::Hold(gate.clone())));
    let address = proxy.address();
    let send = move |name: &str, patient: bool, change: fn(&mut Value)| {
        let mut body = hello_stream();
        change(&mut body);
        body["messages"][0]["content"] = json!(name);
        let mut ask = Ask::messages(&body).header("x-maxpool-session", name);
        if patient {
            ask = ask.header("x-maxpool-client-stream-idle-ms", "60000");
        }
        std::thread::spawn(move || Client::connect(address).ask(&ask))
    };
    let first = send("first", true, |_| {});
    upstream.wait_requests(1);
    let early = send("early", false, |_| {});
    proxy.wait_status("it waits", |status| status["upstreamThrottle"]["queued"] == 1);
    let late = send("late", true, |_| {});
    proxy.wait_status("both wait", |status| status["upstreamThrottle"]["queued"] == 2);
    let told = early.join().expect("a client");
    assert_eq!(told.event_names().last().map(String::as_str), Some("error"), "{}", told.text());
    let again = send("early", true, change);
    proxy.wait_status("both wait again", |status| status["upstreamThrottle"]["queued"] == 2);
    gate.open();
    for client in [first, again, late] {
        assert_eq!(client.join().expect("a client").status, 200);
    }
    upstream
        .requests()
        .iter()
        .filter_map(|request| request.json()["messages"][0]["content"].as_str().map(str::to_owned))
        .collect()
}
