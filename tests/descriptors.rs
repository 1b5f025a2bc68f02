//! A process that runs out of descriptors (SPEC P2): the port must answer again as soon as some are
//! free.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::home::program;
use crate::harness::{Ask, Client, Home, Proxy, hello, hello_stream, json, until};
use crate::upstream::{Answer, Message, Step, Upstream};

/// A server limited to this many descriptors.
fn start(upstream: &Upstream, limit: usize) -> (Home, Proxy) {
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    home.write();
    let script = format!("ulimit -n {limit}; exec '{}' server --plain", program().display());
    let prepared = home.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_clear().current_dir(home.path());
    for (name, value) in prepared.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let proxy = Proxy::spawn(command);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    (home, proxy)
}

/// Requests the health route on new connections until it is answered.
fn wait_health(proxy: &Proxy) -> Duration {
    let since = Instant::now();
    until("the port answers", || {
        let mut client = Client::connect(proxy.address());
        client.patience(Duration::from_millis(500));
        let ask = Ask::get("/maxpool/health");
        client.try_send(&ask.bytes(proxy.address())).ok()?;
        (client.read_reply(&ask).status == 200).then_some(())
    });
    since.elapsed()
}

#[test]
fn the_port_answers_again_when_descriptors_are_free() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, 64);
    let threads = proxy.threads();
    for round in 0..3 {
        // More than fit, in three states: silent, with half a head, idle after an answer.
        let mut crowd: Vec<Client> = (0..120).map(|_| proxy.connect()).collect();
        for (number, client) in crowd.iter_mut().enumerate() {
            client.patience(Duration::from_millis(20));
            let ask = Ask::get("/maxpool/health");
            match number % 3 {
                0 => {}
                1 => drop(client.try_send(b"GET /maxpool/health HTTP/1.1\r\nHo")),
                _ => {
                    let _sent = client.try_send(&ask.bytes(proxy.address()));
                }
            }
        }
        until("the crowd has all the room", || (proxy.descriptors() >= 44).then_some(()));
        drop(crowd);
        let took = wait_health(&proxy);
        eprintln!("round {round}: answers {took:?} after the crowd has left");
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
    until("service is back", || (proxy.post(&hello()).status == 200).then_some(()));
    until("threads and descriptors are back", || {
        (proxy.threads() <= threads + 16 && proxy.descriptors() < 40).then_some(())
    });
}

#[test]
fn idle_connections_make_room() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, 64);
    // They stay connected, and would do so for 75 s.
    let mut crowd = Vec::new();
    let ask = Ask::get("/maxpool/health");
    for _ in 0..60 {
        let mut client = proxy.connect();
        client.patience(Duration::from_millis(200));
        if client.try_send(&ask.bytes(proxy.address())).is_ok() {
            client.read_reply(&ask);
        }
        crowd.push(client);
    }
    let took = wait_health(&proxy);
    eprintln!("answers {took:?} with the crowd still there");
    drop(crowd);
}

/// SPEC A2 `proxy.maxConnections`: idle connections make room; if none is idle, the new client is
/// told.
#[test]
fn connections_are_bounded_by_the_setting() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("proxy.maxConnections", json!(3));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let ask = Ask::messages(&hello_stream());
    let mut streams = Vec::new();
    for count in 1..=3 {
        upstream.next("key-a", Answer::of(message.clone()).at(6, Step::Hold(gate.clone())));
        let mut client = proxy.connect();
        client.send_ask(&ask);
        upstream.wait_requests(count);
        streams.push(client);
    }
    let mut fourth = proxy.connect();
    let (answer, _) = fourth.read_to_close();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("proxy.maxConnections"), "{answer}");
    gate.open();
    for client in &mut streams {
        client.read_reply(&ask).assert_said(&message.text);
    }
    // They stay connected and count as idle after a second, which makes room.
    until("an idle connection makes room", || {
        let mut client = proxy.connect();
        let health = Ask::get("/maxpool/health");
        client.try_send(&health.bytes(proxy.address())).ok()?;
        (client.read_reply(&health).status == 200).then_some(())
    });
}

#[test]
fn streams_that_run_are_not_touched_by_a_crowd() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, 64);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    upstream.next("key-a", Answer::of(message.clone()).at(6, Step::Hold(gate.clone())));
    let address = proxy.address();
    let stream = std::thread::spawn(move || {
        let mut client = Client::connect(address);
        client.patience(Duration::from_secs(60));
        client.ask(&Ask::messages(&hello_stream()))
    });
    upstream.wait_requests(2);
    let crowd: Vec<Client> = (0..120).map(|_| proxy.connect()).collect();
    until("the crowd has all the room", || (proxy.descriptors() >= 44).then_some(()));
    gate.open();
    stream.join().expect("a client").assert_said(&message.text);
    drop(crowd);
    wait_health(&proxy);
}
