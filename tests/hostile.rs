//! Hostile and unlucky sockets (SPEC P2, P11): each is bounded in memory, threads and time, and
//! everyone else is still served.

use std::time::{Duration, Instant};

use crate::harness::{Ask, Client, Home, Piece, Proxy, ReplyEnd, hello, hello_stream, json, until};
use crate::upstream::{Answer, Message, Step, Upstream, failures};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    (home, proxy)
}

/// Asserts that another client is served soon.
fn assert_serves(proxy: &Proxy) {
    let before = Instant::now();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let took = before.elapsed();
    assert!(took < Duration::from_secs(3), "served after {took:?}");
}

#[test]
fn a_thousand_idle_connections_cost_little_and_block_nobody() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = (proxy.resident_kib(), proxy.threads());
    let clients: Vec<Client> = (0..1000)
        .map(|_| {
            let mut client = proxy.connect();
            assert_eq!(client.ask(&Ask::get("/maxpool/health")).status, 200);
            client
        })
        .collect();
    assert_serves(&proxy);
    let grown = proxy.resident_kib().saturating_sub(before.0);
    assert!(grown < 64 * 1024, "{grown} KiB for a thousand connections");
    assert!(proxy.threads() < before.1 + 1100);
    drop(clients);
    until("the threads end", || (proxy.threads() < before.1 + 32).then_some(()));
    assert_serves(&proxy);
}

#[test]
fn five_hundred_half_sent_heads_are_cut_and_block_nobody() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = proxy.threads();
    // An empty line after a request does not begin a head.
    let (mut idle, health) = (proxy.connect(), Ask::get("/maxpool/health"));
    idle.send(&[&health.bytes(proxy.address())[..], b"\r\n"].concat());
    assert_eq!(idle.read_reply(&health).status, 200);
    let since = Instant::now();
    let mut clients: Vec<Client> = (0..500)
        .map(|number| {
            let mut client = proxy.connect();
            let head = Ask::messages(&hello()).bytes(proxy.address());
            client.send(&head[..10 + number % 60]);
            client
        })
        .collect();
    assert_serves(&proxy);
    for client in &mut clients {
        let (bytes, end) = client.read_to_close();
        assert_ne!(end, ReplyEnd::Silent, "a head slower than 10 s is not waited for: {bytes:?}");
    }
    let took = since.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(18)).contains(&took), "{took:?}");
    assert_eq!(idle.ask(&health).status, 200);
    until("the threads end", || (proxy.threads() < before + 32).then_some(()));
    assert_serves(&proxy);
}

#[test]
fn a_head_that_trickles_is_cut_all_the_same() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut client = proxy.connect();
    let since = Instant::now();
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n");
    client.patience(Duration::from_millis(200));
    let mut answer = Vec::new();
    let end = loop {
        let (bytes, end) = client.read_to_close();
        answer.extend(bytes);
        if end != ReplyEnd::Silent || since.elapsed() > Duration::from_secs(18) {
            break end;
        }
        let _sent = client.try_send(b"x-a: b\r\n");
    };
    assert_ne!(end, ReplyEnd::Silent, "a byte now and then does not keep it open");
    assert!(since.elapsed() > Duration::from_secs(5));
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(text.contains("took longer than 10 seconds"), "{text}");
}

#[test]
fn a_burst_of_connections_that_speak_later_is_served_whole() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut clients: Vec<Client> = (0..300).map(|_| proxy.connect()).collect();
    // Long enough for the proxy to have checked all of them.
    std::thread::sleep(Duration::from_millis(1200));
    let since = Instant::now();
    let ask = Ask::get("/maxpool/health");
    for client in &mut clients {
        client.send_ask(&ask);
    }
    for client in &mut clients {
        assert_eq!(client.read_reply(&ask).status, 200);
    }
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn an_endless_head_is_cut_without_being_kept() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = proxy.resident_kib();
    let lines = "x-a: b\r\n".repeat(8192);
    let line = "y".repeat(65536);
    for (filler, asked_before) in [(&lines, false), (&line, false), (&lines, true)] {
        let mut client = proxy.connect();
        if asked_before {
            let ask = Ask::messages(&hello());
            assert_eq!(client.ask(&ask).status, 200);
        }
        let since = Instant::now();
        let mut sent = client.try_send(b"GET / HTTP/1.1\r\nHost: localhost\r\nx-start: 1");
        if filler.starts_with('x') {
            sent = sent.and_then(|()| client.try_send(b"\r\n"));
        }
        let mut count = 0;
        while sent.is_ok() && count < 1024 {
            sent = client.try_send(filler.as_bytes());
            count += 1;
        }
        assert!(sent.is_err(), "64 MiB of head were taken");
        let took = since.elapsed();
        assert!(took < Duration::from_secs(8), "cut by its time, not by its size: {took:?}");
    }
    assert_serves(&proxy);
    let grown = proxy.peak_kib().saturating_sub(before);
    // Keeping one of these heads would take more than that.
    assert!(grown < 16 * 1024, "{grown} KiB");
}

#[test]
fn an_endless_head_behind_a_request_in_service_is_not_read() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let gate = upstream.gate();
    let message = Message::long(2, 20);
    upstream.next("key-a", Answer::of(message).at(1, Step::Hold(gate.clone())));
    let mut client = proxy.connect();
    client.send_ask(&Ask::messages(&hello_stream()));
    upstream.wait_requests(2);
    let before = proxy.resident_kib();
    // Unread data fills the kernel's buffers, and then the client has to wait.
    let bound = Some(Duration::from_secs(2));
    client.socket().set_write_timeout(bound).expect("set a limit");
    let lines = "x-a: b\r\n".repeat(8192);
    let mut sent = client.try_send(b"GET / HTTP/1.1\r\nHost: localhost\r\n");
    let mut count = 0;
    while sent.is_ok() && count < 1024 {
        sent = client.try_send(lines.as_bytes());
        count += 1;
    }
    assert!(sent.is_err(), "64 MiB of head were taken");
    let grown = proxy.peak_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    gate.open();
    let (text, end) = client.read_to_close();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(text.contains("HTTP/1.1 431 "), "{text} {end:?}");
    assert_serves(&proxy);
}

#[test]
fn large_bodies_on_idle_connections_are_never_taken_for_heads() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let mut body = hello();
    body["messages"][0]["content"] = json!("x".repeat(700_000));
    let ask = Ask::messages(&body);
    // Connections arrive, carry one request and stay, at any phase of the proxy's sweeps.
    let mut clients = Vec::new();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until && clients.len() < 400 {
        let mut client = proxy.connect();
        assert_eq!(client.ask(&ask).status, 200);
        clients.push(client);
    }
    // After two sweeps, every connection that should be cut is.
    std::thread::sleep(Duration::from_secs(2));
    for client in &mut clients {
        assert_eq!(client.ask(&Ask::get("/maxpool/health")).status, 200);
    }
}

#[test]
fn a_later_head_has_as_little_time_as_the_first() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = proxy.descriptors();
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&Ask::get("/maxpool/health")).status, 200);
    }
    // The amount read before is known only from the next sweep on, which cannot be observed.
    std::thread::sleep(Duration::from_secs(2));
    let since = Instant::now();
    for client in &mut clients {
        client.send(b"GET / HTTP/1.1\r\nHost: loc");
        client.patience(Duration::from_secs(30));
    }
    for client in &mut clients {
        let (_, end) = client.read_to_close();
        assert_ne!(end, ReplyEnd::Silent);
    }
    let took = since.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(18)).contains(&took), "{took:?}");
    // Even while the clients keep their ends open.
    until("the descriptors come back", || (proxy.descriptors() <= before + 8).then_some(()));
    drop(clients);
}

#[test]
fn a_body_that_stalls_is_given_up() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let since = Instant::now();
    // The server reads a body of up to a kilobyte together with the head, which has a shorter time
    // limit.
    let clients = [(900, 5..40), (500_000, 20..40)].map(|(length, seconds)| {
        let mut client = proxy.connect();
        client.patience(Duration::from_secs(45));
        let head = format!("POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{{\"model\":");
        client.send(head.as_bytes());
        (client, seconds)
    });
    assert_serves(&proxy);
    for (mut client, seconds) in clients {
        let (_, end) = client.read_to_close();
        assert_ne!(end, ReplyEnd::Silent);
        let took = since.elapsed().as_secs();
        assert!(seconds.contains(&took), "{took} s, not within {seconds:?}");
    }
    assert_eq!(proxy.status()["scheduler"]["globalInFlight"], 0);
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn thousands_of_connections_that_come_and_go_leave_nothing() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = (proxy.threads(), proxy.descriptors());
    for number in 0..2000 {
        let mut client = proxy.connect();
        match number % 4 {
            0 => drop(client),
            1 => client.reset(),
            2 => {
                let _sent =
                    client.try_send(b"GET /maxpool/health HTTP/1.1\r\nHost: localhost\r\n\r\n");
                client.reset();
            }
            _ => {
                let _sent = client.try_send(
                    b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{",
                );
            }
        }
    }
    assert_serves(&proxy);
    until("threads and descriptors come back", || {
        (proxy.threads() <= before.0 + 32 && proxy.descriptors() <= before.1 + 32).then_some(())
    });
    let log = proxy.log().join("\n");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn when_descriptors_run_out_the_port_answers_again_as_soon_as_some_are_free() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    home.write();
    let program = crate::harness::home::program();
    let shell = format!("ulimit -n 64; exec '{}' server --plain", program.display());
    let mut command = home.command(&[]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &shell]).env_clear().current_dir(home.path());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    limited
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command.arg("unused");
    let proxy = Proxy::spawn(limited);
    assert_serves(&proxy);
    for _ in 0..3 {
        let many: Vec<_> = (0..200)
            .filter_map(|_| {
                std::net::TcpStream::connect_timeout(&proxy.address(), Duration::from_secs(2)).ok()
            })
            .collect();
        assert!(many.len() > 30);
        drop(many);
        until("the port answer again", || {
            let Ok(stream) =
                std::net::TcpStream::connect_timeout(&proxy.address(), Duration::from_secs(1))
            else {
                return None;
            };
            drop(stream);
            let mut client = proxy.connect();
            client.patience(Duration::from_secs(2));
            let ask = Ask::get("/maxpool/health");
            client.try_send(&ask.bytes(proxy.address())).ok()?;
            (client.read_reply(&ask).status == 200).then_some(())
        });
    }
    assert_serves(&proxy);
}

#[test]
fn upstreams_that_never_stop_talking_are_bounded() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = proxy.resident_kib();
    upstream.next("key-a", failures::endless_head());
    assert!(proxy.post(&hello()).status >= 500);
    let two_megabytes =
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: {}\r\n\r\n{{}}", "y".repeat(2 << 20));
    upstream.next("key-a", Answer::raw_bytes(two_megabytes.as_bytes()));
    let reply = proxy.post(&hello());
    assert!(reply.status >= 500, "{}", reply.status);
    let grown = proxy.peak_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
    until("the account come back", || (proxy.post(&hello()).status == 200).then_some(()));
}

#[test]
fn an_event_that_never_ends_is_passed_on_without_being_kept() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = proxy.resident_kib();
    let answer = Answer::events([&b"data: "[..]]).at(
        1,
        Step::Repeat {
            bytes: [format!("{:x}\r\n", 65536).into_bytes(), vec![b'x'; 65536], b"\r\n".to_vec()]
                .concat(),
            times: 500,
        },
    );
    upstream.next("key-a", answer);
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    let mut length = 0;
    let end = loop {
        match client.next_piece() {
            Piece::Bytes(bytes, _) => length += bytes.len(),
            end => break end,
        }
    };
    assert!(matches!(end, Piece::End));
    assert_eq!(length, 6 + 500 * 65536);
    let grown = proxy.peak_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
}

#[test]
fn an_error_body_that_never_ends_is_not_kept() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let before = proxy.resident_kib();
    let head = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk =
        [format!("{:x}\r\n", 65536).into_bytes(), vec![b'x'; 65536], b"\r\n".to_vec()].concat();
    upstream.next(
        "key-a",
        Answer::raw([Step::Send(head.into()), Step::Repeat { bytes: chunk, times: 2000 }]),
    );
    let reply = proxy.post(&hello());
    assert!(reply.status >= 500, "{}", reply.status);
    let grown = proxy.peak_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
}
