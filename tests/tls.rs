//! Upstreams behind TLS: trusted through `SSL_CERT_FILE` (SPEC A2), refused otherwise, and like
//! plain ones in everything else.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use crate::harness::{Ask, Client, Home, Piece, Proxy, hello, hello_stream, json};
use crate::upstream::{Answer, Digest, End, Message, Step, Upstream, failures};

/// A port that speaks TLS as `localhost` and `127.0.0.1` and forwards everything to the stand-in.
/// The certificate is valid for a hundred years, and its authority's key was thrown away.
fn terminate_tls(upstream: SocketAddr) -> SocketAddr {
    let certificate = CertificateDer::from(include_bytes!("data/server.der").to_vec());
    let key =
        PrivateKeyDer::try_from(include_bytes!("data/server-key.der").to_vec()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key fits");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    // This thread ends with the process; nothing waits for it.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let session = ServerConnection::new(config).expect("a session");
                if let Ok(plain) = TcpStream::connect(upstream) {
                    // When one side ends, both are closed.
                    let _over = pump(session, stream, plain);
                }
            });
        }
    });
    address
}

/// Forwards bytes both ways until one side ends, then closes the other.
fn pump(
    mut session: ServerConnection,
    mut outer: TcpStream,
    mut inner: TcpStream,
) -> std::io::Result<()> {
    outer.set_nonblocking(true)?;
    inner.set_nonblocking(true)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut moved = false;
        if session.wants_write() {
            match session.write_tls(&mut outer) {
                Ok(count) => moved |= count > 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        match session.read_tls(&mut outer) {
            Ok(0) => return Ok(()),
            Ok(_) => moved = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        session.process_new_packets().map_err(std::io::Error::other)?;
        if let Ok(count @ 1..) = session.reader().read(&mut buffer) {
            inner.set_nonblocking(false)?;
            inner.write_all(&buffer[..count])?;
            inner.set_nonblocking(true)?;
            moved = true;
        }
        if !session.wants_write() {
            match inner.read(&mut buffer) {
                Ok(0) => {
                    session.send_close_notify();
                    outer.set_nonblocking(false)?;
                    while session.wants_write() {
                        session.write_tls(&mut outer)?;
                    }
                    return Ok(());
                }
                Ok(count) => {
                    session.writer().write_all(&buffer[..count])?;
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !moved {
            let more = if session.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
            let mut fds = [
                PollFd::new(&outer, PollFlags::IN | more),
                PollFd::new(
                    &inner,
                    if session.wants_write() { PollFlags::empty() } else { PollFlags::IN },
                ),
            ];
            poll(&mut fds, None)?;
        }
    }
}

/// A proxy whose upstream is reached over TLS, with or without trust in the test's authority.
fn start(upstream: &Upstream, host: &str, trusted: bool) -> (Home, Proxy) {
    let port = terminate_tls(upstream.address()).port();
    let home = Home::new()
        .upstream(&format!("https://{host}:{port}"))
        .accounts(&["a"])
        .set("queue.enabled", json!(false));
    home.write();
    let mut command = home.command(&["server", "--plain"]);
    if trusted {
        let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ca.pem");
        command.env("SSL_CERT_FILE", authority);
    }
    (home, Proxy::spawn(command))
}

#[test]
fn an_authority_of_ssl_cert_file_is_trusted_by_name_and_by_address() {
    let upstream = Upstream::start();
    for host in ["localhost", "127.0.0.1"] {
        let (_home, proxy) = start(&upstream, host, true);
        proxy.post(&hello()).assert_said("Hello from upstream.");
        proxy.post(&hello_stream()).assert_said("Hello from upstream.");
    }
}

#[test]
fn an_unknown_authority_is_refused_with_its_reason_and_no_credential_is_sent() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "localhost", false);
    let message = proxy.post(&hello()).assert_error(503, "connection_unavailable");
    assert!(message.to_lowercase().contains("certificate"), "{message}");
    assert_eq!(upstream.requests().len(), 0);
    let account = proxy.account("a");
    assert_eq!(
        (&account["status"], &account["consecutiveFailures"]),
        (&json!("active"), &json!(0))
    );
}

#[test]
fn events_come_one_by_one_and_bytes_stay_what_they_are() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "localhost", true);
    let gate = upstream.gate();
    upstream.next("key-a", Answer::of(Message::long(9, 30)).at(5, Step::Hold(gate.clone())));
    let ask = Ask::messages(&hello_stream());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    assert_eq!(client.read_head(&ask).expect("a head").status, 200);
    let mut body = Vec::new();
    while !String::from_utf8_lossy(&body).contains("w1x") {
        let Piece::Bytes(bytes, _) = client.next_piece() else {
            panic!("the first events come before the gate");
        };
        body.extend(bytes);
    }
    gate.open();
    while let Piece::Bytes(bytes, _) = client.next_piece() {
        body.extend(bytes);
    }
    assert_eq!(Digest::of(&body), upstream.state().connections[0].sent);
    upstream.next("key-a", failures::flood(5_000_000, 3));
    let reply = proxy.post(&hello_stream());
    upstream.wait("the end of its flood", |state| {
        state.connections.iter().any(|connection| connection.sent == Digest::of(&reply.body))
    });
}

#[test]
fn a_big_request_a_stale_connection_and_a_reset_are_as_without_tls() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "localhost", true);
    let mut body = hello();
    body["system"] = json!("x".repeat(5_000_000));
    proxy.post(&body).assert_said("Hello from upstream.");
    assert_eq!(upstream.requests()[0].json(), body);
    for end in [End::Close, End::CloseOnNext] {
        for _ in 0..5 {
            upstream.next("key-a", Answer::message("hi").end(end));
            proxy.post(&hello()).assert_said("hi");
        }
    }
    upstream.next("key-a", Answer::of(Message::long(9, 9)).at(5, Step::Reset));
    let names = proxy.post(&hello_stream()).event_names();
    assert_eq!(names.last().map(String::as_str), Some("error"));
    assert_eq!(names.iter().filter(|name| *name == "error").count(), 1);
}

#[test]
fn a_client_that_leaves_ends_the_connection_behind_tls() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, "localhost", true);
    upstream.always("key-a", failures::silent());
    let clients: Vec<Client> = (0..40)
        .map(|_| {
            let mut client = proxy.connect();
            client.send_ask(&Ask::messages(&hello()));
            client
        })
        .collect();
    upstream.wait_requests(40);
    let since = std::time::Instant::now();
    drop(clients);
    upstream.wait("all of them closed", |state| {
        state.connections.iter().all(|connection| connection.left.is_some())
    });
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    proxy.wait_status("every lease come back", |status| status["scheduler"]["globalInFlight"] == 0);
}
