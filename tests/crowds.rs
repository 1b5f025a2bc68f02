//! Many connections at once (SPEC P2, F2): they cost only descriptors, and clients that are served
//! stay served.

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use crate::harness::{Ask, Client, Home, Proxy, ReplyEnd, hello, hello_stream, json, until};
use crate::restart::restart;
use crate::upstream::{Answer, Message, Step, Upstream};

/// Runs one crowd at a time, since this process has a limit on open connections as well.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(upstream: &Upstream, limits: &str) -> (Home, Proxy) {
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start_limited(&home, limits);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    (home, proxy)
}

/// The wanted number of connections, limited by what this process and the program may open.
fn affordable(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let bound =
        |value: Option<u64>| usize::try_from(value.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let own = bound(limit.current) / 10 * 6;
    wanted.min(own).min(bound(limit.maximum) / 10 * 9)
}

/// Additional resident memory allowed for an unoptimised debug build.
const DEBUG_KIB: u64 = if cfg!(debug_assertions) { 20 * 1024 } else { 0 };

fn assert_idle_cost(wanted: usize, resident_kib_max: u64) {
    let _alone = alone();
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "ulimit -n $(ulimit -Hn)");
    let count = affordable(wanted);
    let ask = Ask::get("/maxpool/health");
    let mut clients: Vec<Client> = Vec::with_capacity(count);
    for number in 0..count {
        let mut client = proxy.connect();
        // Some clients have been served before, others have not sent anything yet.
        if number % 20 == 0 {
            assert_eq!(client.ask(&ask).status, 200);
        }
        clients.push(client);
    }
    until("idle connections rest without threads", || {
        (proxy.threads() < 40 && proxy.descriptors() > count).then_some(())
    });
    let since = Instant::now();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let took = since.elapsed();
    let soon = if cfg!(debug_assertions) { 1000 } else { 20 };
    assert!(took < Duration::from_millis(soon), "served after {took:?}");
    let resident = proxy.resident_kib();
    eprintln!("{count} idle connections: {resident} KiB resident, answered in {took:?}");
    assert!(resident < resident_kib_max + DEBUG_KIB, "{resident} KiB");
    for client in clients.iter_mut().step_by(count / 50) {
        assert_eq!(client.ask(&ask).status, 200, "an idle connection can still be used");
    }
    let before = proxy.descriptors();
    drop(clients);
    until("their descriptors come back", || {
        (proxy.descriptors() + count <= before + 64).then_some(())
    });
}

#[test]
fn three_thousand_idle_connections_cost_descriptors_only() {
    assert_idle_cost(3_000, 20 * 1024);
}

#[test]
fn ten_thousand_idle_connections_cost_descriptors_only() {
    assert_idle_cost(10_000, 25 * 1024);
}

#[test]
fn a_flood_that_says_nothing_takes_nothing_from_those_who_are_served() {
    let _alone = alone();
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "ulimit -n 1024");
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let held = Answer::of(message.clone()).at(6, Step::Hold(gate.clone()));
    upstream.next("key-a", held);
    let streaming = Ask::messages(&hello_stream());
    let mut stream = proxy.connect();
    stream.send_ask(&streaming);
    upstream.wait_requests(2);
    let mut regular = proxy.connect();
    regular.patience(Duration::from_secs(5));
    let ask = Ask::messages(&hello());
    let mut flood = Vec::new();
    for number in 0..affordable(5_000) {
        let bound = Duration::from_secs(2);
        flood.extend(TcpStream::connect_timeout(&proxy.address(), bound).ok());
        if number % 100 == 0 {
            regular.ask(&ask).assert_said("Hello from upstream.");
        }
    }
    // A new client is served even while the whole flood is connected.
    let mut newcomer = proxy.connect();
    newcomer.patience(Duration::from_secs(5));
    newcomer.ask(&ask).assert_said("Hello from upstream.");
    regular.ask(&ask).assert_said("Hello from upstream.");
    gate.open();
    stream.read_reply(&streaming).assert_said(&message.text);
    drop(flood);
    until("the descriptors come back", || (proxy.descriptors() < 100).then_some(()));
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn six_hundred_clients_of_other_versions_leave_nothing_over() {
    let _alone = alone();
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "ulimit -n 1024");
    let before = (proxy.descriptors(), proxy.threads());
    let since = Instant::now();
    let mut clients = Vec::new();
    for number in 0..600 {
        let mut client = proxy.connect();
        client.patience(Duration::from_secs(3));
        let bytes: &[u8] = if number % 2 == 0 {
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        } else {
            b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n"
        };
        let _refused_early = client.try_send(bytes);
        clients.push(client);
    }
    for client in &mut clients {
        let (bytes, _) = client.read_to_close();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 505 "), "{text}");
    }
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    // The clients keep their ends open.
    until("descriptors and threads come back", || {
        let now = (proxy.descriptors(), proxy.threads());
        (now.0 <= before.0 + 8 && now.1 <= before.1 + 32).then_some(())
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

/// Whether the server has closed this idle connection, as its client sees it.
fn is_closed(client: &Client) -> bool {
    let socket = client.socket();
    socket.set_nonblocking(true).expect("not to wait");
    let seen = socket.peek(&mut [0]);
    socket.set_nonblocking(false).expect("to wait again");
    !seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn requests_that_come_while_a_hand_over_closes_idle_connections_are_served() {
    let _alone = alone();
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "ulimit -n $(ulimit -Hn)");
    let ask = Ask::get("/maxpool/health");
    let mut clients: Vec<Client> = (0..affordable(600)).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&ask).status, 200);
    }
    // Idle long enough that the old worker does not have to wait for their next request.
    std::thread::sleep(Duration::from_millis(4500));
    restart(&proxy);
    until("the first one is closed", || clients.iter().any(is_closed).then_some(()));
    let mut asked: Vec<Client> = Vec::new();
    for mut client in clients {
        if !is_closed(&client) && client.try_send(&ask.bytes(proxy.address())).is_ok() {
            asked.push(client);
        }
    }
    let lost = asked.iter_mut().filter_map(|client| match client.read_head(&ask) {
        Ok(head) => (head.status != 200).then_some(ReplyEnd::Complete),
        Err(end) => Some(end),
    });
    let lost = lost.count();
    eprintln!("{lost} of {} requests lost", asked.len());
    // A request sent just as its connection is closed is lost with any server.
    assert!(lost <= 8 + asked.len() / 10, "{lost} of {}", asked.len());
}
