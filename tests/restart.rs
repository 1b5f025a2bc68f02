//! Restarts (SPEC R2): no connection refused, no stream cut, one process as seen from outside.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::harness::home::program;
use crate::harness::{
    Ask, Client, Home, Piece, Proxy, Reply, ReplyEnd, hello, hello_stream, json, until,
};
use crate::upstream::{Answer, Gate, Message, Step, Upstream, failures};

/// What came of a request every 10 ms.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: AtomicUsize,
    slowest_ms: AtomicUsize,
}

impl Load {
    /// Four clients, each with a new connection every 40 ms, and one that keeps its connection as long as it may.
    fn start(proxy: &Proxy) -> (Arc<Load>, Vec<JoinHandle<Vec<String>>>) {
        let load = Arc::<Load>::default();
        let address = proxy.address();
        let mut threads: Vec<JoinHandle<Vec<String>>> = (0..4)
            .map(|number| {
                let load = Arc::clone(&load);
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(10 * number));
                    let mut failures = Vec::new();
                    let mut due = Instant::now();
                    while !load.stop.load(Ordering::Relaxed) {
                        let Ok(stream) = std::net::TcpStream::connect(address) else {
                            failures.push("refused".to_owned());
                            continue;
                        };
                        let mut client = Client::of(stream);
                        load.note(client.ask(&Ask::messages(&hello())), due, &mut failures);
                        due += Duration::from_millis(40);
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                    failures
                })
            })
            .collect();
        let keeping = Arc::clone(&load);
        threads.push(std::thread::spawn(move || {
            let mut failures = Vec::new();
            let mut client = Client::connect(address);
            while !keeping.stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let reply = client.ask(&Ask::messages(&hello()));
                if reply.header("connection") == Some("close") {
                    client = Client::connect(address);
                }
                keeping.note(reply, start, &mut failures);
                std::thread::sleep(Duration::from_millis(10));
            }
            failures
        }));
        (load, threads)
    }

    fn note(&self, reply: Reply, start: Instant, failures: &mut Vec<String>) {
        if reply.status == 200 && reply.end == ReplyEnd::Complete {
            self.served.fetch_add(1, Ordering::Relaxed);
            let took = usize::try_from(start.elapsed().as_millis()).unwrap_or(usize::MAX);
            self.slowest_ms.fetch_max(took, Ordering::Relaxed);
        } else {
            failures.push(format!("{} {:?} {}", reply.status, reply.end, reply.text()));
        }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

/// Streams that stop in the middle until the gate opens.
fn held_streams(
    upstream: &Upstream,
    proxy: &Proxy,
    count: usize,
    message: &Message,
    gate: &Gate,
) -> Vec<JoinHandle<Reply>> {
    let before = upstream.requests().len();
    for key in ["key-a", "key-b"] {
        upstream.always(
            key,
            Answer::of(message.clone()).at(6, Step::Hold(gate.clone())),
        );
    }
    let address = proxy.address();
    let streams = (0..count)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                client.patience(Duration::from_secs(60));
                client.ask(&Ask::messages(&hello_stream()))
            })
        })
        .collect();
    upstream.wait_requests(before + count);
    for key in ["key-a", "key-b"] {
        upstream.heal(key);
    }
    streams
}

/// The processes that this one has started, youngest last.
fn workers(proxy: &Proxy) -> Vec<u32> {
    children(proxy.pid())
}

fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("list processes")
        .flatten()
    {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let after = stat.rsplit(')').next().unwrap_or_default();
        let mut words = after.split_whitespace();
        // A zombie has ended.
        let state = words.next();
        if state != Some("Z") && words.next() == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}

fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// SIGUSR2, and the wait for the new worker.
fn restart(proxy: &Proxy) {
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    wait_started(proxy, from);
    proxy.wait_line_after(from, "the old worker's last line", |line| {
        line.contains("serves, this one finishes")
    });
}

fn wait_started(proxy: &Proxy, from: usize) {
    let port = proxy.address().port().to_string();
    proxy.wait_line_after(from, "the new worker's start", |line| {
        line.contains("listens on") && line.contains(&port)
    });
}

fn two_accounts(upstream: &Upstream) -> Home {
    Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("scheduler.safetyMaxGlobalActive", json!(300))
        .set("scheduler.safetyMaxActivePerAccount", json!(300))
}

#[test]
fn five_restarts_refuse_no_connection_and_cut_no_stream() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let begun = Instant::now();
    let mut streams = held_streams(&upstream, &proxy, 50, &message, &gate);
    let (load, threads) = Load::start(&proxy);
    let mut resident = Vec::new();
    for _ in 0..5 {
        let before = load.served();
        restart(&proxy);
        until("service goes on", || {
            (load.served() > before + 10).then_some(())
        });
        assert!(proxy.is_running(), "the process keeps its pid");
        assert!(proxy.resident_kib() > 0);
        resident = workers(&proxy).into_iter().map(resident_kib).collect();
    }
    load.stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("a client"))
        .collect();
    // Those of a worker that is a process of its own.
    streams.extend(held_streams(&upstream, &proxy, 10, &message, &gate));
    restart(&proxy);
    gate.open();
    let lost = streams
        .into_iter()
        .map(|stream| stream.join().expect("a client"))
        .filter(|reply| reply.end != ReplyEnd::Complete || reply.said() != message.text)
        .inspect(|reply| eprintln!("lost: {} {:?} {}", reply.status, reply.end, reply.text()))
        .count();
    eprintln!(
        "60 streams, {lost} lost; {} requests, {} failed, slowest {} ms; six restarts in {:?}; resident KiB: {} and {resident:?}",
        load.served(),
        failures.len(),
        load.slowest_ms.load(Ordering::Relaxed),
        begun.elapsed(),
        proxy.resident_kib(),
    );
    assert_eq!(lost, 0, "streams lost");
    assert!(failures.is_empty(), "{failures:?}");
    // Whoever has nothing left goes.
    until("one worker is left", || {
        (workers(&proxy).len() == 1).then_some(())
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn restarts_as_fast_as_they_can_be_asked_for_lose_nothing() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let (load, threads) = Load::start(&proxy);
    for _ in 0..40 {
        proxy.signal(Signal::USR2);
        std::thread::sleep(Duration::from_millis(25));
    }
    let before = load.served();
    until("service goes on", || {
        (load.served() > before + 10).then_some(())
    });
    load.stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("a client"))
        .collect();
    assert!(failures.is_empty(), "{failures:?}");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn learned_quota_is_handed_over_with_what_the_old_worker_learns_later() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    upstream.next(
        "key-a",
        Answer::message("hi").limits(&crate::upstream::Limits::used(0.31, 0.22)),
    );
    proxy.post(&hello()).assert_said("hi");
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 3, &message, &gate);
    // The state file plays no part in it.
    std::fs::create_dir(home.path().join("maxpool.state.json")).expect("be in the way");
    restart(&proxy);
    let account = proxy.account("a");
    assert_eq!(account["quota"]["unified5h"], 0.31, "{account:#}");
    assert_eq!(account["usage"]["totalRequests"], 1);
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    proxy.wait_status("the old worker's last words", |status| {
        status["accounts"][0]["usage"]["totalRequests"] == 4
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
    let good = home.read().to_string();
    home.write_text("{ broken");
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "why it failed", |line| {
        line.contains("restart failed") && line.contains("maxpool.json")
    });
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert!(workers(&proxy).is_empty());
    home.write_text(&good);
    restart(&proxy);
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

/// A copy of the program that can be replaced.
fn own_copy(home: &Home) -> PathBuf {
    let path = home.path().join("maxpool-copy");
    std::fs::copy(program(), &path).expect("copy the program");
    path
}

fn replace(path: &std::path::Path, bytes: &[u8], mode: u32) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).expect("write a program");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).expect("its mode");
    std::fs::rename(&beside, path).expect("put it in place");
}

#[test]
fn a_new_program_that_is_broken_leaves_the_old_one_serving() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    home.write();
    let copy = own_copy(&home);
    let prepared = home.command(&[]);
    let mut command = Command::new(&copy);
    command.args(["server", "--plain"]).env_clear();
    for (name, value) in prepared.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut proxy = Proxy::spawn(command);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 5, &message, &gate);
    let (load, threads) = Load::start(&proxy);
    let rows: [(&[u8], u32, &str); 5] = [
        (b"#!/bin/sh\nexit 3\n", 0o755, "exit status: 3"),
        (b"#!/bin/sh\nkill -9 $$\n", 0o755, "signal: 9"),
        (b"#!/bin/sh\nexec true <&-\n", 0o755, "before it served"),
        (b"not a program", 0o755, "restart failed"),
        (b"#!/bin/sh\nexit 0\n", 0o644, "ermission denied"),
    ];
    for (program, mode, word) in rows {
        replace(&copy, program, mode);
        let from = proxy.log().len();
        proxy.signal(Signal::USR2);
        proxy.wait_line_after(from, word, |line| {
            line.contains("restart failed") && line.contains(word)
        });
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert!(proxy.is_running());
    }
    std::fs::remove_file(&copy).expect("remove the program");
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "why", |line| line.contains("restart failed"));
    replace(
        &copy,
        &std::fs::read(program()).expect("the program"),
        0o755,
    );
    restart(&proxy);
    let serving = workers(&proxy);
    assert_eq!(serving.len(), 1);
    let runs = std::fs::read_link(format!("/proc/{}/exe", serving[0])).expect("what it runs");
    assert_eq!(runs, copy, "the program that was put in place");
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    load.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        assert_eq!(thread.join().expect("a client"), Vec::<String>::new());
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn those_who_wait_are_told_to_come_again() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("queue.heartbeatMs", json!(50));
    let proxy = Proxy::start(&home);
    upstream.next(
        "key-a",
        failures::quota("five_hour", Duration::from_secs(60)),
    );
    let ask = Ask::messages(&hello());
    let mut plain = proxy.connect();
    plain.send_ask(&ask);
    proxy.wait_status("the first waits", |status| {
        status["upstreamThrottle"]["queued"] == 1
    });
    let mut streaming = proxy.connect();
    let stream_ask = Ask::messages(&hello_stream());
    streaming.send_ask(&stream_ask);
    // Its first heartbeat: the answer has begun, so that the end can only be an event.
    assert_eq!(
        streaming.read_head(&stream_ask).expect("a head").status,
        200
    );
    proxy.wait_status("both wait", |status| {
        status["upstreamThrottle"]["queued"] == 2
    });
    restart(&proxy);
    let reply = plain.read_reply(&ask);
    reply.assert_error(503, "restart_in_progress");
    assert_eq!(reply.header("retry-after"), Some("1"));
    let mut text = Vec::new();
    while let Piece::Bytes(bytes, _) = streaming.next_piece() {
        text.extend(bytes);
    }
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("event: error"), "{text}");
    until("the old worker ends", || {
        proxy
            .log()
            .iter()
            .any(|line| line.ends_with("restart: done"))
            .then_some(())
    });
}

#[test]
fn an_old_connection_serves_one_more_request_and_closes() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let proxy = Proxy::start(&home);
    let mut kept = proxy.connect();
    let ask = Ask::messages(&hello());
    kept.ask(&ask).assert_said("Hello from upstream.");
    let mut idle = proxy.connect();
    idle.ask(&ask).assert_said("Hello from upstream.");
    restart(&proxy);
    let reply = kept.ask(&ask);
    reply.assert_said("Hello from upstream.");
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(kept.read_to_close().1, ReplyEnd::Closed);
    let since = Instant::now();
    let (bytes, end) = idle.read_to_close();
    assert_eq!((bytes.len(), end), (0, ReplyEnd::Closed));
    assert!(since.elapsed() < Duration::from_secs(10));
    let reply = proxy.post(&hello());
    reply.assert_said("Hello from upstream.");
    assert_ne!(reply.header("connection"), Some("close"));
}

#[test]
fn a_signal_to_the_whole_group_counts_once() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let mut streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    restart(&proxy);
    streams.extend(held_streams(&upstream, &proxy, 2, &message, &gate));
    let from = proxy.log().len();
    let group = Pid::from_raw(i32::try_from(proxy.pid()).expect("a pid")).expect("a pid");
    rustix::process::kill_process_group(group, Signal::INT).expect("send a signal");
    proxy.wait_line_after(from, "the stop", |line| {
        line.contains("stopping: 2 requests left")
    });
    assert!(proxy.is_running());
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn after_a_restart_a_second_signal_cuts_all_workers() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let mut streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    restart(&proxy);
    streams.extend(held_streams(&upstream, &proxy, 2, &message, &gate));
    let from = proxy.log().len();
    proxy.terminate();
    proxy.wait_line_after(from, "the stop", |line| line.contains("stopping"));
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(1));
    for stream in streams {
        let reply = stream.join().expect("a client");
        assert_ne!(reply.end, ReplyEnd::Complete);
    }
    assert!(workers(&proxy).is_empty());
}

#[test]
fn an_old_worker_is_cut_at_the_limit_and_the_new_one_goes_on() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream).set("shutdown.drainTimeoutMs", json!(300));
    let mut proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    restart(&proxy);
    for stream in streams {
        assert_ne!(stream.join().expect("a client").end, ReplyEnd::Complete);
    }
    proxy.wait_line("the cut", |line| {
        line.contains("2 requests are cut: shutdown.drainTimeoutMs")
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn a_worker_that_is_killed_is_replaced() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    restart(&proxy);
    let kill = |pid: u32| {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("kill a worker");
    };
    for _ in 0..3 {
        let worker = until("one worker", || {
            let workers = workers(&proxy);
            (workers.len() == 1).then(|| workers[0])
        });
        let from = proxy.log().len();
        kill(worker);
        until("it is gone", || {
            workers(&proxy)
                .iter()
                .all(|pid| *pid != worker)
                .then_some(())
        });
        // Never refused: the socket outlives the worker.
        until("it is served", || {
            (proxy.post(&hello()).status == 200).then_some(())
        });
        proxy.wait_line_after(from, "why", |line| {
            line.contains("takes over") && line.contains("signal: 9")
        });
        assert!(proxy.is_running());
    }
    // A supervisor must see what does not heal.
    kill(workers(&proxy)[0]);
    assert_eq!(proxy.wait_exit(), Some(1));
    let last = proxy.log().pop().expect("a line");
    assert!(last.contains("signal: 9"), "{last}");
}

#[test]
fn workers_do_not_outlive_their_leader() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    restart(&proxy);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    let worker = workers(&proxy).pop().expect("a worker");
    proxy.signal(Signal::KILL);
    assert_eq!(proxy.wait_exit(), None);
    until("the port closes", || {
        std::net::TcpStream::connect(proxy.address())
            .is_err()
            .then_some(())
    });
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    until("the worker ends", || {
        (!std::path::Path::new(&format!("/proc/{worker}/stat")).exists()
            || resident_kib(worker) == 0)
            .then_some(())
    });
}

#[test]
fn the_port_stays_taken_through_a_restart() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let proxy = Proxy::start(&home);
    restart(&proxy);
    let second = Home::new()
        .accounts(&["b"])
        .set("proxy.port", json!(proxy.address().port()));
    second.write();
    let ran = second.run(&["server", "--plain"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains("the port is in use"), "{}", ran.stderr);
}

#[test]
fn another_port_takes_effect_with_a_restart() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("its address").port();
    let mut config = home.read();
    config["proxy"]["port"] = json!(port);
    home.write_text(&config.to_string());
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "why", |line| {
        line.contains("restart failed") && line.contains("the port is in use")
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
    drop(free);
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "the new port", |line| {
        line.contains("listens on") && line.contains(&port.to_string())
    });
    let reply = Client::connect(([127, 0, 0, 1], port).into()).ask(&Ask::messages(&hello()));
    reply.assert_said("Hello from upstream.");
    until("the old port closes", || {
        std::net::TcpStream::connect(proxy.address())
            .is_err()
            .then_some(())
    });
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn threads_lost_to_odd_requests_come_back_by_a_restart() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream).set("sync.accountsIntervalMs", json!(100));
    let mut proxy = Proxy::start(&home);
    let from = proxy.log().len();
    for _ in 0..66 {
        let mut client = proxy.connect();
        client.send(
            b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        );
        let ask = Ask::post("/v1/messages", &json!({}));
        assert_eq!(client.read_reply(&ask).status, 413);
    }
    wait_started(&proxy, from);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}
