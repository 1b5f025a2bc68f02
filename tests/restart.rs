//! Restarts and supervisors (SPEC R2, R3).

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::home::program;
use crate::harness::{Ask, Client, Home, Proxy, ReplyEnd, hello, hello_stream, json, until};
use crate::upstream::{Answer, Message, Step, Upstream, failures};

#[test]
fn a_restart_refuses_no_connection_and_cuts_no_stream() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("scheduler.safetyMaxGlobalActive", json!(300))
        .set("scheduler.safetyMaxActivePerAccount", json!(300));
    let mut proxy = Proxy::start(&home);
    let address = proxy.address();
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    for key in ["key-a", "key-b"] {
        upstream.always(
            key,
            Answer::of(message.clone()).at(6, Step::Hold(gate.clone())),
        );
    }
    let streams: Vec<_> = (0..50)
        .map(|_| {
            std::thread::spawn(move || {
                Client::connect(address).ask(&Ask::messages(&hello_stream()))
            })
        })
        .collect();
    upstream.wait_requests(50);
    for key in ["key-a", "key-b"] {
        upstream.heal(key);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (served, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let newcomers = {
        let (stop, served, failed) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&failed));
        std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok(stream) = std::net::TcpStream::connect(address) else {
                    failed.fetch_add(1, Ordering::Relaxed);
                    failures.push("refused".to_owned());
                    continue;
                };
                drop(stream);
                let reply = Client::connect(address).ask(&Ask::messages(&hello()));
                if reply.status == 200 {
                    served.fetch_add(1, Ordering::Relaxed);
                } else {
                    failed.fetch_add(1, Ordering::Relaxed);
                    failures.push(format!("{} {:?} {}", reply.status, reply.end, reply.text()));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            failures
        })
    };
    for round in 0..5 {
        let from = proxy.log().len();
        let before = served.load(Ordering::Relaxed);
        proxy.signal(Signal::USR2);
        proxy.wait_line_after(from, "the new worker's start", |line| {
            line.contains(&address.port().to_string())
        });
        until("service go on", || {
            (served.load(Ordering::Relaxed) > before + 5).then_some(())
        });
        assert!(
            proxy.is_running(),
            "the process keeps its pid in round {round}"
        );
    }
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    stop.store(true, Ordering::Relaxed);
    let failures = newcomers.join().expect("the newcomers");
    assert!(
        failures.is_empty(),
        "{} failed: {failures:?}",
        failures.len()
    );
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn who_waits_is_sent_to_the_new_worker_by_the_end_of_its_connection() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("queue.heartbeatMs", json!(100));
    let proxy = Proxy::start(&home);
    let out = Duration::from_secs(100);
    upstream.always("key-a", failures::quota("five_hour", out));
    let (stream, plain) = (Ask::messages(&hello_stream()), Ask::messages(&hello()));
    let (mut streaming, mut waiting) = (proxy.connect(), proxy.connect());
    streaming.send_ask(&stream);
    let head = streaming.read_head(&stream).expect("heartbeats");
    assert_eq!(head.status, 200);
    waiting.send_ask(&plain);
    proxy.wait_status("both wait", |status| {
        status["upstreamThrottle"]["queued"] == 2
    });
    proxy.signal(Signal::USR2);
    let reply = waiting.read_reply(&plain);
    reply.assert_error(503, "restart_in_progress");
    assert_eq!(reply.header("connection"), Some("close"));
    let (text, end) = streaming.read_to_close();
    assert!(String::from_utf8_lossy(&text).contains("restart_in_progress"));
    assert_eq!(end, ReplyEnd::Closed);
}

#[test]
fn learned_quota_is_handed_over() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    upstream.next(
        "key-a",
        Answer::message("hi").limits(&crate::upstream::Limits::used(0.31, 0.22)),
    );
    proxy.post(&hello()).assert_said("hi");
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "the new worker's start", |line| {
        line.contains(&proxy.address().port().to_string())
    });
    proxy.wait_status("the quota", |status| {
        status["accounts"][0]["quota"]["unified5h"] == 0.31
    });
}

#[test]
fn a_new_worker_that_cannot_start_leaves_the_old_one_serving() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("sync.accountsIntervalMs", json!(3_600_000));
    let proxy = Proxy::start(&home);
    home.write_text("{ broken");
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "why it failed", |line| line.contains("maxpool.json"));
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
}

#[test]
fn sighup_reads_the_file_again() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("sync.accountsIntervalMs", json!(3_600_000));
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let mut config = home.read();
    config["accounts"][0]["enabled"] = json!(false);
    config["accounts"]
        .as_array_mut()
        .expect("a list")
        .push(crate::harness::api_key("b"));
    home.write_text(&config.to_string());
    proxy.signal(Signal::HUP);
    proxy.wait_status("the new account", |status| {
        status["accounts"]
            .as_array()
            .is_some_and(|list| list.len() == 2)
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.order(), ["key-a", "key-b"]);
    home.write_text("{\"accounts\": 5}");
    let from = proxy.log().len();
    proxy.signal(Signal::HUP);
    proxy.wait_line_after(from, "why the old settings stay", |line| {
        line.contains("accounts")
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn systemd_hears_that_it_is_ready_and_that_it_stops() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    home.write();
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind a datagram socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("bound the reads");
    let mut command = home.command(&["server", "--plain"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut proxy = Proxy::spawn(command);
    let hear = |word: &str| {
        let mut buffer = [0; 4096];
        loop {
            let count = socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("no {word}: {error}"));
            if String::from_utf8_lossy(&buffer[..count])
                .lines()
                .any(|line| line == word)
            {
                return;
            }
        }
    };
    hear("READY=1");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    hear("STOPPING=1");
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn a_socket_that_a_supervisor_opened_is_used() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    home.write();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let script = format!(
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec '{}' server --plain",
        program().display()
    );
    let prepared = home.command(&[]);
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .env_clear()
        .current_dir(home.path());
    for (name, value) in prepared.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut proxy = Proxy::spawn(command);
    assert_eq!(proxy.address(), address);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn a_closed_stdout_and_no_terminal_are_no_error() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    home.write();
    let mut command = home.command(&["server"]);
    command.stdout(Stdio::null());
    let proxy = Proxy::spawn(command);
    proxy.post(&hello()).assert_said("Hello from upstream.");
}
