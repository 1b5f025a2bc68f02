//! Restarts (SPEC R2): no connection is refused and no stream is cut, and the program looks like
//! one process from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::harness::home::KEY;
use crate::harness::{
    Ask, Client, Home, Piece, Proxy, Reply, ReplyEnd, hello, hello_stream, json, until,
};
use crate::upstream::{Answer, Gate, Message, Step, Upstream, failures};

/// The results of sending one request every 10 ms.
#[derive(Default)]
pub struct Load {
    pub stop: AtomicBool,
    pub served: AtomicUsize,
    pub slowest_ms: AtomicUsize,
}

impl Load {
    /// Four clients, each with a new connection every 40 ms, and one that keeps its connection for
    /// as long as it stays open.
    pub fn start(proxy: &Proxy) -> (Arc<Load>, Vec<JoinHandle<Vec<String>>>) {
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

/// Streams that pause in the middle until the gate opens.
pub fn held_streams(
    upstream: &Upstream,
    proxy: &Proxy,
    count: usize,
    message: &Message,
    gate: &Gate,
) -> Vec<JoinHandle<Reply>> {
    let before = upstream.requests().len();
    for key in ["key-a", "key-b"] {
        upstream.always(key, Answer::of(message.clone()).at(6, Step::Hold(gate.clone())));
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

/// The processes started by this one, the youngest last.
pub fn workers(proxy: &Proxy) -> Vec<u32> {
    children(proxy.pid())
}

pub fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("list processes").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let after = stat.rsplit(')').next().unwrap_or_default();
        let mut words = after.split_whitespace();
        // A zombie has already exited.
        let state = words.next();
        if state != Some("Z") && words.next() == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}

pub fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// Sends SIGUSR2 and waits for the new worker.
pub fn restart(proxy: &Proxy) {
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    wait_started(proxy, from);
    proxy.wait_line_after(from, "the old worker's last line", |line| {
        line.contains("is serving, this one is finishing")
    });
}

pub fn wait_started(proxy: &Proxy, from: usize) {
    let port = proxy.address().port().to_string();
    proxy.wait_line_after(from, "the new worker's start", |line| {
        line.contains("listens on") && line.contains(&port)
    });
}

pub fn two_accounts(upstream: &Upstream) -> Home {
    Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("scheduler.safetyMaxGlobalActive", json!(300))
        .set("scheduler.safetyMaxActivePerAccount", json!(300))
}

#[test]
fn sessions_and_batches_stay_where_they_were_through_a_restart() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b", "c"]);
    let mut proxy = Proxy::start(&home);
    let ask = |session: usize| {
        Ask::messages(&hello()).header("x-maxpool-session", &format!("session {session}"))
    };
    let batch = |id: &str| Ask::get(&format!("/v1/messages/batches/{id}"));
    let keys = |from: usize| -> Vec<String> {
        let requests = upstream.requests();
        requests[from..].iter().map(|seen| seen.credential().to_owned()).collect()
    };
    for session in 0..6 {
        assert_eq!(proxy.ask(&ask(session)).status, 200);
    }
    // More sessions than are handed over. All of them must fit, and the first six are used again
    // below.
    let mut client = proxy.connect();
    for session in 100..1300 {
        let ask = Ask::get("/v1/models").header("x-maxpool-session", &session.to_string());
        assert_eq!(client.ask(&ask).status, 200);
    }
    for session in 0..6 {
        assert_eq!(proxy.ask(&ask(session)).status, 200);
    }
    let made = Answer::json(200, r#"{"id":"msgbatch_1","type":"message_batch"}"#);
    for key in ["key-a", "key-b", "key-c"] {
        upstream.next(key, made.clone());
    }
    let create = Ask::post("/v1/messages/batches", &json!({"requests": []}));
    assert_eq!(proxy.ask(&create).status, 200);
    let mut before = keys(0);
    assert_eq!(before[..6], before[1206..1212]);
    let before = before.split_off(1206);
    assert_eq!(before.len(), 7);
    restart(&proxy);
    let log = proxy.log().join("\n");
    assert!(!log.contains("cannot hand over"), "{log}");
    let from = upstream.requests().len();
    // In reverse, so that plain rotation would not result in the same order.
    for session in (0..6).rev() {
        assert_eq!(proxy.ask(&ask(session)).status, 200);
    }
    let mut after = keys(from);
    after.reverse();
    assert_eq!(after, before[..6], "each session where its cache is");
    let from = upstream.requests().len();
    for _ in 0..3 {
        let _status = proxy.ask(&batch("msgbatch_1")).status;
    }
    assert_eq!(keys(from), vec![before[6].clone(); 3], "the batch's account");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
    let proxy = Proxy::start_as_is(&home);
    let from = upstream.requests().len();
    for _ in 0..3 {
        let _status = proxy.ask(&batch("msgbatch_1")).status;
    }
    assert_eq!(keys(from), vec![before[6].clone(); 3], "from the state file");
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
        until("service goes on", || (load.served() > before + 25).then_some(()));
        assert!(proxy.is_running(), "the process keeps its pid");
        assert!(proxy.resident_kib() > 0);
        resident = workers(&proxy).into_iter().map(resident_kib).collect();
    }
    load.stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
    // Adds streams of a worker that is a separate process.
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
    // Workers without streams exit.
    until("one worker is left", || (workers(&proxy).len() == 1).then_some(()));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn a_storm_of_clients_does_not_notice_restarts() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let proxy = Proxy::start(&home);
    let address = proxy.address();
    let load = Arc::<Load>::default();
    let threads: Vec<_> = (0..12)
        .map(|number| {
            let load = Arc::clone(&load);
            // Some requests go to the API and some to local routes; some clients keep their
            // connection for as long as it stays open.
            let ask =
                if number % 3 == 0 { Ask::messages(&hello()) } else { Ask::get("/maxpool/health") };
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                let mut kept: Option<Client> = None;
                while !load.stop.load(Ordering::Relaxed) && failures.len() < 10 {
                    let start = Instant::now();
                    let mut client = kept.take().unwrap_or_else(|| Client::connect(address));
                    let reply = client.ask(&ask);
                    if number % 2 == 0 && reply.header("connection") != Some("close") {
                        kept = Some(client);
                    }
                    load.note(reply, start, &mut failures);
                }
                failures
            })
        })
        .collect();
    for _ in 0..5 {
        let before = load.served();
        restart(&proxy);
        until("service goes on", || (load.served() > before + 200).then_some(()));
    }
    load.stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
    eprintln!(
        "{} requests, {} failed, slowest {} ms",
        load.served(),
        failures.len(),
        load.slowest_ms.load(Ordering::Relaxed)
    );
    assert!(failures.is_empty(), "{failures:?}");
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
    until("service goes on", || (load.served() > before + 10).then_some(()));
    load.stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
    assert!(failures.is_empty(), "{failures:?}");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn learned_quota_is_handed_over_with_what_the_old_worker_learns_later() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    upstream
        .next("key-a", Answer::message("hi").limits(&crate::upstream::Limits::used(0.31, 0.22)));
    proxy.post(&hello()).assert_said("hi");
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 3, &message, &gate);
    // With a directory in its place, the state file cannot be what helps.
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
fn those_who_wait_are_told_to_come_again() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.heartbeatMs", json!(50));
    let proxy = Proxy::start(&home);
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(60)));
    let ask = Ask::messages(&hello());
    let mut plain = proxy.connect();
    plain.send_ask(&ask);
    proxy.wait_status("one waits", |status| status["upstreamThrottle"]["queued"] == 1);
    let mut streaming = proxy.connect();
    let stream_ask = Ask::messages(&hello_stream());
    streaming.send_ask(&stream_ask);
    // Its first ping has begun the answer, so only an event can end it.
    assert_eq!(streaming.read_head(&stream_ask).expect("a head").status, 200);
    proxy.wait_status("both wait", |status| status["upstreamThrottle"]["queued"] == 2);
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
        proxy.log().iter().any(|line| line.ends_with("restart: done")).then_some(())
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

/// D1: the dashboard's log, the figures of the last hour and the metrics counters continue.
#[test]
fn a_restart_keeps_the_activity_and_the_figures() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let held = held_streams(&upstream, &proxy, 1, &message, &gate);
    let before = proxy.wait_status("three are counted", |status| {
        status["accounts"][0]["load"]["last1h"]["requests"] == 3
    });
    restart(&proxy);
    let is_there = |status: &crate::harness::Value, requests: u64| {
        let load = &status["accounts"][0]["load"];
        let lines = status["activity"].as_array().expect("lines").iter();
        let served = lines.filter(|line| line["request"]["status"] == 200).count() as u64;
        status["pid"] != before["pid"]
            && load["last1h"]["requests"] == requests
            && load["last15m"]["requests"] == requests
            && load["last1h"]["avgMs"].is_u64()
            && served == requests
    };
    proxy.wait_status("the new worker knows them", |status| is_there(status, 3));
    gate.open();
    for stream in held {
        stream.join().expect("a client").assert_said(&message.text);
    }
    let after = proxy.wait_status("and what the old one finished", |status| is_there(status, 4));
    let lines = after["activity"].as_array().expect("lines");
    let times: Vec<&str> = lines.iter().filter_map(|line| line["at"].as_str()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let metrics = proxy.ask(&Ask::get("/maxpool/metrics").header("x-api-key", KEY)).text();
    for line in [
        "maxpool_requests_total{outcome=\"ok\",kind=\"apikey\"} 4",
        "maxpool_request_seconds_count 4",
        "maxpool_account_requests_total{account=\"0\",kind=\"apikey\",result=\"completed\"} 4",
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line}: {metrics}");
    }
}
