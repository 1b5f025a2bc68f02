//! Start and stop (SPEC R1, R4): signals, drains, and the messages when the server cannot start.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Ask, Client, Home, Piece, Proxy, Reply, hello, hello_stream, json};
use crate::upstream::{Answer, Message, Step, Upstream};

fn start(upstream: &Upstream, drain_ms: u64) -> (Home, Proxy) {
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("shutdown.drainTimeoutMs", json!(drain_ms));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// A client in the middle of a stream that continues when the gate opens.
fn streaming(upstream: &Upstream, proxy: &Proxy) -> (Client, Ask, crate::upstream::Gate, Vec<u8>) {
    let gate = upstream.gate();
    let answer = Answer::of(Message::long(8, 10)).at(5, Step::Hold(gate.clone()));
    upstream.next("key-a", answer);
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    let Piece::Bytes(first, _) = client.next_piece() else {
        panic!("the first events come before the gate");
    };
    (client, ask, gate, first)
}

/// Reads the rest of a body.
fn rest(client: &mut Client, mut bytes: Vec<u8>) -> (String, Piece) {
    loop {
        match client.next_piece() {
            Piece::Bytes(more, _) => bytes.extend(more),
            end => return (String::from_utf8_lossy(&bytes).into_owned(), end),
        }
    }
}

#[test]
fn a_signal_ends_an_idle_server_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let upstream = Upstream::start();
        let (_home, mut proxy) = start(&upstream, 60_000);
        proxy.post(&hello()).assert_said("Hello from upstream.");
        let _idle = proxy.connect();
        proxy.signal(signal);
        assert_eq!(proxy.wait_exit(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_stream_in_the_middle_is_finished_and_then_it_exits_with_0() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream, 60_000);
    let (mut client, _ask, gate, first) = streaming(&upstream, &proxy);
    let from = proxy.log().len();
    proxy.terminate();
    proxy.wait_line_after(from, "a line about the stop", |_| true);
    assert!(proxy.is_running(), "the stream is not over");
    gate.open();
    let (text, end) = rest(&mut client, first);
    assert!(matches!(end, Piece::End));
    assert!(text.trim_end().ends_with(r#"{"type":"message_stop"}"#), "{text}");
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn while_it_drains_nobody_new_is_served() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream, 60_000);
    let mut kept = proxy.connect();
    kept.ask(&Ask::messages(&hello())).assert_said("Hello from upstream.");
    let (mut client, _ask, gate, first) = streaming(&upstream, &proxy);
    let from = proxy.log().len();
    proxy.terminate();
    proxy.wait_line_after(from, "a line about the stop", |_| true);
    let reply: Option<Reply> = kept
        .try_send(&Ask::messages(&hello()).bytes(proxy.address()))
        .ok()
        .map(|()| kept.read_reply(&Ask::messages(&hello())));
    if let Some(reply) = reply.filter(|reply| reply.status != 0) {
        reply.assert_error(503, "restart_in_progress");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    gate.open();
    assert!(matches!(rest(&mut client, first).1, Piece::End));
    assert_eq!(proxy.wait_exit(), Some(0));
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_second_signal_cuts_and_exits_with_1() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream, 60_000);
    let (mut client, _ask, _gate, first) = streaming(&upstream, &proxy);
    let from = proxy.log().len();
    proxy.terminate();
    proxy.wait_line_after(from, "a line about the stop", |_| true);
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(1));
    let (text, _) = rest(&mut client, first);
    assert!(!text.contains("message_stop"));
    let log = proxy.log();
    let line = log.iter().find(|line| line.contains("POST /v1/messages")).expect("its line");
    assert!(line.contains("cut while streaming: a second signal arrived"), "{line}");
}

#[test]
fn the_drain_is_bounded() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream, 300);
    let (_client, _ask, _gate, _first) = streaming(&upstream, &proxy);
    proxy.terminate();
    assert_eq!(proxy.wait_exit_within(Duration::from_secs(10)), Some(1));
}

#[test]
fn a_port_in_use_is_said_plainly() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, 1000);
    let port = proxy.address().port();
    let second = Home::new().accounts(&["b"]).set("proxy.port", json!(port));
    second.write();
    let ran = second.run(&["server", "--plain"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains(&port.to_string()), "{}", ran.stderr);
    assert!(ran.stderr.to_lowercase().contains("in use"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn a_broken_config_is_named_and_left_alone() {
    let rows = [
        ("{\n  \"proxy\": {\n    \"port\": 34x6\n  }\n}\n", vec!["maxpool.json", "3"]),
        ("", vec!["maxpool.json"]),
        ("[]", vec!["maxpool.json"]),
        ("{\"proxy\":{\"port\":\"3456\"}}", vec!["maxpool.json", "proxy.port"]),
        ("{\"proxy\":{\"port\":70000}}", vec!["proxy.port", "65535"]),
        ("{\"switchThreshold\":1.5}", vec!["switchThreshold"]),
        ("{\"queue\":{\"maxWaitMs\":null}}", vec!["queue.maxWaitMs"]),
        ("{\"queue\":{\"maxWaitMs\":-1}}", vec!["queue.maxWaitMs"]),
        ("{\"scheduler\":{\"weeklySoftThreshold\":0.9}}", vec!["weekly"]),
        ("{\"routing\":{\"mode\":\"random\"}}", vec!["routing.mode"]),
        ("{\"accounts\":{}}", vec!["accounts"]),
        ("{\"upstream\":\"ftp://x\"}", vec!["upstream"]),
        ("{\"quotaProbeSeconds\":5}", vec!["quotaProbeSeconds", "60"]),
    ];
    for (text, words) in rows {
        let home = Home::new();
        home.write_text(text);
        let ran = home.run(&["server", "--plain"]);
        assert_eq!(ran.status.code(), Some(1), "{text}: {}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "no {word} for {text}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        let kept = std::fs::read_to_string(home.config_path()).expect("still there");
        assert_eq!(kept, text, "never replaced");
    }
}

#[test]
fn a_config_that_is_a_directory_is_an_error() {
    let home = Home::new();
    std::fs::create_dir(home.config_path()).expect("make a directory");
    let ran = home.run(&["server", "--plain"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains("maxpool.json"), "{}", ran.stderr);
}

#[test]
fn a_missing_config_is_made_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    home.make_default(home.command(&["server", "--plain"]), &home.config_path());
    let mode = std::fs::metadata(home.config_path()).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let config = home.read();
    let key = config["proxy"]["apiKey"].as_str().expect("a key");
    assert!(key.starts_with("mp-") && key.len() == 3 + 32, "24 bytes in base64url: {key}");
    for key in [
        "proxy",
        "upstream",
        "switchThreshold",
        "routing",
        "scheduler",
        "retry",
        "queue",
        "timeouts",
        "shutdown",
        "sync",
        "accounts",
    ] {
        assert!(!config[key].is_null(), "a new file lists {key}");
    }
    assert_eq!(config["proxy"]["port"], 3456);
    assert_eq!(config["queue"]["maxWaitMs"], 86_400_000);
}

#[test]
fn without_an_account_it_starts_and_says_so_loudly() {
    let home = Home::new();
    let proxy = Proxy::start(&home);
    proxy.wait_line("the way to add an account", |line| line.contains("maxpool login"));
}

#[test]
fn an_open_port_without_a_key_is_refused() {
    let home = Home::new()
        .accounts(&["a"])
        .set("proxy.host", json!("0.0.0.0"))
        .set("proxy.apiKey", json!(""));
    home.write();
    let ran = home.run(&["server", "--plain"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains("apiKey") || ran.stderr.contains("key"), "{}", ran.stderr);
}

#[test]
fn learned_quota_outlives_the_process() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::start();
    let (home, mut proxy) = start(&upstream, 1000);
    upstream
        .next("key-a", Answer::message("hi").limits(&crate::upstream::Limits::used(0.42, 0.33)));
    proxy.post(&hello()).assert_said("hi");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
    let state = home.path().join("maxpool.state.json");
    let mode = std::fs::metadata(&state).expect("written at exit").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let proxy = Proxy::start_as_is(&home);
    let account = proxy.account("a");
    assert_eq!(account["quota"]["unified5h"], 0.42, "{account:#}");
    assert_eq!(account["quota"]["unified7d"], 0.33);
    assert_eq!(account["usage"]["totalOutputTokens"], 15);
    std::fs::write(&state, "{broken").expect("break it");
    drop(proxy);
    let proxy = Proxy::start_as_is(&home);
    assert!(proxy.account("a")["quota"]["unified5h"].is_null());
    proxy.wait_line("a line about the state file", |line| line.contains("maxpool.state.json"));
}

#[test]
fn those_who_wait_are_answered_and_idle_connections_closed() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream, 60_000);
    let mut idle = proxy.connect();
    assert_eq!(idle.ask(&Ask::get("/maxpool/health")).status, 200);
    upstream.next("key-a", crate::upstream::failures::quota("five_hour", Duration::from_secs(60)));
    let ask = Ask::messages(&hello());
    let mut waiting = proxy.connect();
    waiting.send_ask(&ask);
    proxy.wait_status("it waits", |status| status["upstreamThrottle"]["queued"] == 1);
    proxy.terminate();
    let reply = waiting.read_reply(&ask);
    reply.assert_error(503, "restart_in_progress");
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(idle.read_to_close(), (Vec::new(), crate::harness::ReplyEnd::Closed));
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn what_is_left_is_told_every_five_seconds() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream, 60_000);
    let (mut client, _ask, gate, first) = streaming(&upstream, &proxy);
    let told = |proxy: &Proxy| {
        let log = proxy.log();
        let told = log.iter();
        told.filter(|line| line.contains("stopping: 1 request left")).count()
    };
    let since = std::time::Instant::now();
    proxy.terminate();
    crate::harness::until("a second line", || (told(&proxy) == 2).then_some(()));
    let took = since.elapsed();
    assert!((Duration::from_millis(4_900)..Duration::from_secs(9)).contains(&took), "{took:?}");
    gate.open();
    assert!(matches!(rest(&mut client, first).1, Piece::End));
    assert_eq!(proxy.wait_exit(), Some(0));
}

/// D2: the log of a stop says what caused it, how much is left and until when; its last line is
/// "stopped".
#[test]
fn the_log_tells_a_stop_from_its_signal_to_its_end() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream, 60_000);
    let (mut client, _ask, gate, first) = streaming(&upstream, &proxy);
    proxy.terminate();
    let stop = proxy.wait_line("the stop", |line| line.contains("stopping: "));
    assert!(stop.contains("stopping: 1 request left (SIGTERM), until 20"), "{stop}");
    assert!(stop.ends_with("in 1m"), "{stop}");
    gate.open();
    assert!(matches!(rest(&mut client, first).1, Piece::End));
    assert_eq!(proxy.wait_exit(), Some(0));
    let log = proxy.log();
    let line_of = |words: &str| log.iter().position(|line| line.contains(words));
    assert!(line_of("stopping: ") < line_of("POST /v1/messages"), "{log:?}");
    assert!(log.last().is_some_and(|line| line.ends_with("Z stopped")), "{log:?}");
}
