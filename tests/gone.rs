//! Clients that leave (SPEC P12): noticed within a second at every stage, without blaming an
//! account or leaking anything.

use std::time::{Duration, Instant};

use crate::harness::{Ask, Client, Home, Proxy, hello, hello_stream, json, until};
use crate::upstream::{Answer, Message, Step, Upstream, failures};

/// A second, plus a margin for a loaded machine.
const SOON: Duration = Duration::from_millis(2000);

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Close,
    Reset,
    HalfClose,
}

const WAYS: [Leave; 3] = [Leave::Close, Leave::Reset, Leave::HalfClose];

impl Leave {
    /// Leaves; the caller keeps the client if it only half-closes.
    fn go(self, client: Client) -> Option<Client> {
        match self {
            Leave::Close => None,
            Leave::Reset => {
                client.reset();
                None
            }
            Leave::HalfClose => {
                client.half_close();
                Some(client)
            }
        }
    }
}

/// Waits until the proxy has left every upstream connection that had a request, and asserts that
/// this was soon enough.
fn assert_left(upstream: &Upstream, since: Instant, count: usize) {
    upstream.wait(&format!("{count} connections closed"), |state| {
        state.connections.iter().filter(|connection| connection.left.is_some()).count() >= count
    });
    let state = upstream.state();
    let last =
        state.connections.iter().filter_map(|connection| connection.left).max().expect("one");
    let took = last.saturating_duration_since(since);
    assert!(took < SOON, "noticed after {took:?}");
}

fn assert_nothing_left(proxy: &Proxy) {
    let status = proxy.wait_status("every lease come back", |status| {
        status["scheduler"]["globalInFlight"] == 0 && status["upstreamThrottle"]["queued"] == 0
    });
    let account = &status["accounts"][0];
    assert_eq!(account["status"], "active", "nobody is blamed: {account:#}");
    assert_eq!(account["consecutiveFailures"], 0);
    assert!(
        account["cooldownUntil"].is_null() && account["rateLimitedUntil"].is_null(),
        "{account:#}"
    );
}

#[test]
fn while_waiting_for_headers() {
    for leave in WAYS {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream);
        upstream.next("key-a", failures::silent());
        let mut client = proxy.connect();
        client.send_ask(&Ask::messages(&hello()));
        upstream.wait_requests(1);
        let from = proxy.log().len();
        let since = Instant::now();
        let _kept = leave.go(client);
        assert_left(&upstream, since, 1);
        assert_nothing_left(&proxy);
        proxy.wait_line_after(from, "a line about it", |line| line.contains("/v1/messages"));
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
}

#[test]
fn while_streaming() {
    for leave in WAYS {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream);
        upstream.next("key-a", Answer::of(Message::long(9, 9)).at(4, Step::AwaitLeave));
        let ask = Ask::messages(&hello_stream());
        let mut client = proxy.connect();
        client.send_ask(&ask);
        assert_eq!(client.read_head(&ask).expect("a head").status, 200);
        let since = Instant::now();
        let _kept = leave.go(client);
        assert_left(&upstream, since, 1);
        assert_nothing_left(&proxy);
    }
}

#[test]
fn while_waiting_in_the_queue() {
    for leave in WAYS {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream);
        upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(3600)));
        for body in [hello_stream(), hello_stream()] {
            let mut client = proxy.connect();
            client.send_ask(&Ask::messages(&body));
            proxy.wait_status("it waits", |status| status["upstreamThrottle"]["queued"] == 1);
            let since = Instant::now();
            let _kept = leave.go(client);
            proxy.wait_status("the ticket come back", |status| {
                status["upstreamThrottle"]["queued"] == 0
            });
            assert!(since.elapsed() < SOON, "{leave:?}: {:?}", since.elapsed());
        }
    }
}

#[test]
fn while_connecting() {
    // A listener with a full backlog does not answer new connections.
    let full = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&full, &any).expect("bind");
    rustix::net::listen(&full, 0).expect("listen");
    let listener = std::net::TcpListener::from(full);
    let address = listener.local_addr().expect("an address");
    let mut filling = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog never fills");
    }
    let home = Home::new()
        .upstream(&format!("http://{address}"))
        .accounts(&["a"])
        .set("timeouts.connectMs", json!(60_000));
    let proxy = Proxy::start(&home);
    for leave in WAYS {
        let mut client = proxy.connect();
        client.send_ask(&Ask::messages(&hello()));
        proxy.wait_status("it connects", |status| status["scheduler"]["globalInFlight"] == 1);
        let since = Instant::now();
        let _kept = leave.go(client);
        proxy.wait_status("the lease come back", |status| {
            status["scheduler"]["globalInFlight"] == 0
        });
        assert!(since.elapsed() < SOON, "{leave:?}: {:?}", since.elapsed());
        assert_nothing_left(&proxy);
    }
}

#[test]
fn in_the_middle_of_its_own_request() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for cut in [1, 20, 60, 200] {
        for leave in WAYS {
            let mut client = proxy.connect();
            let bytes = Ask::messages(&hello()).bytes(proxy.address());
            client.send(&bytes[..cut.min(bytes.len() - 1)]);
            let _kept = leave.go(client);
        }
    }
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.requests().len(), 1);
    assert_nothing_left(&proxy);
}

#[test]
fn two_hundred_at_once_while_waiting_for_headers() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("scheduler.safetyMaxActivePerAccount", json!(300))
        .set("scheduler.safetyMaxGlobalActive", json!(300));
    let proxy = Proxy::start(&home);
    let before = (proxy.threads(), proxy.descriptors());
    upstream.always("key-a", failures::silent());
    let clients: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = proxy.connect();
            client.send_ask(&Ask::messages(&hello_stream()));
            client
        })
        .collect();
    upstream.wait_requests(200);
    let since = Instant::now();
    drop(clients);
    assert_left(&upstream, since, 200);
    assert_nothing_left(&proxy);
    until("threads and descriptors come back", || {
        (proxy.threads() <= before.0 + 16 && proxy.descriptors() <= before.1 + 16).then_some(())
    });
}

#[test]
fn two_hundred_at_once_while_waiting_in_the_queue() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream.always("key-a", failures::quota("five_hour", Duration::from_secs(3600)));
    let clients: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = proxy.connect();
            client.send_ask(&Ask::messages(&hello_stream()));
            client
        })
        .collect();
    proxy.wait_status("all wait", |status| status["upstreamThrottle"]["queued"] == 200);
    let since = Instant::now();
    drop(clients);
    proxy.wait_status("every ticket come back", |status| status["upstreamThrottle"]["queued"] == 0);
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

#[test]
fn one_that_left_does_not_cost_the_others_their_place() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("scheduler.safetyMaxGlobalActive", json!(1));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    upstream.next("key-a", Answer::message("first").before(Step::Hold(gate.clone())));
    let ask = Ask::messages(&hello_stream());
    let mut clients = Vec::new();
    for number in 0..6_u64 {
        let mut client = proxy.connect();
        client.send_ask(&ask);
        if number == 0 {
            upstream.wait_requests(1);
        } else {
            proxy.wait_status("it waits", |status| status["upstreamThrottle"]["queued"] == number);
        }
        clients.push(client);
    }
    clients.remove(3);
    clients.remove(1);
    proxy.wait_status("two have left", |status| status["upstreamThrottle"]["queued"] == 3);
    gate.open();
    for (number, mut client) in clients.into_iter().enumerate() {
        let reply = client.read_reply(&ask);
        assert_eq!(reply.status, 200, "client {number}");
    }
    assert_eq!(upstream.requests().len(), 4);
}
