//! Which connections are reused, with and without TLS, and that answers arrive complete however
//! they are split.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use ureq::SendBody;
use ureq::http::Request;

use super::wait::{self, Deadline, Waiter};
use super::*;

/// Longer than any wait should last.
const LIMIT: Duration = Duration::from_secs(20);

/// The answer to a request, by its target.
struct Script {
    target: &'static str,
    answer: Vec<u8>,
    /// The connection is closed after it.
    ends: bool,
}

/// An upstream on a free port. It reports each connection that the client closes.
struct Server {
    address: SocketAddr,
    https: bool,
    gone: Receiver<()>,
}

impl Server {
    /// Answers are sent in pieces of `piece` bytes, which split TLS records too.
    fn start(https: bool, piece: usize, script: Vec<Script>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, gone) = channel();
        let script = Arc::new(script);
        let tls = https.then(server_config);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, tell, tls) = (Arc::clone(&script), tell.clone(), tls.clone());
                thread::spawn(move || {
                    let tls = tls.map(|config| ServerConnection::new(config).unwrap());
                    serve(stream, tls, piece, &script, &tell);
                });
            }
        });
        Server { address, https, gone }
    }

    fn agent(&self) -> Agent {
        let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ca.pem");
        let tls = tls::client_config(Some(&authority)).unwrap();
        assert!(self.address.ip().is_loopback());
        agent(tls, ProxyPolicy::direct())
    }

    fn url(&self, target: &str) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{target}", self.address)
    }

    /// Makes one call; returns whether its connection was reused, and the answer.
    fn call(&self, agent: &Agent, method: &str, target: &str) -> (bool, Result<String, String>) {
        let waiter = Rc::new(Deadline::after(LIMIT));
        let _entered = wait::enter(Rc::clone(&waiter) as Rc<dyn Waiter>);
        let request = Request::builder().method(method).uri(self.url(target));
        let request = request.body(SendBody::none()).unwrap();
        let result = agent.run(request).map_err(|error| error.to_string()).and_then(|answer| {
            let mut text = String::new();
            let mut body = answer.into_body().into_reader();
            let read = body.read_to_string(&mut text);
            read.map(|_| text).map_err(|error| error.to_string())
        });
        (waiter.wire().reused.get(), result)
    }
}

fn server_config() -> Arc<ServerConfig> {
    let data = |name| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        std::fs::read(path.join(name)).unwrap()
    };
    let certificate = CertificateDer::from(data("server.der"));
    let key = PrivateKeyDer::try_from(data("server-key.der")).unwrap();
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    Arc::new(config.unwrap())
}

fn serve(
    mut stream: TcpStream,
    mut tls: Option<ServerConnection>,
    piece: usize,
    script: &[Script],
    tell: &Sender<()>,
) {
    stream.set_nodelay(true).unwrap();
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let read = match &mut tls {
                None => stream.read(&mut byte),
                Some(tls) => rustls::Stream::new(tls, &mut stream).read(&mut byte),
            };
            if !matches!(read, Ok(1)) {
                let _ = tell.send(());
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        let Some(entry) = script.iter().find(|entry| entry.target == target) else {
            // No answer, until the client leaves.
            let _ = stream.read(&mut [0]);
            return;
        };
        let mut wire = Vec::new();
        match &mut tls {
            None => wire.extend_from_slice(&entry.answer),
            Some(tls) => {
                tls.set_buffer_limit(None);
                tls.writer().write_all(&entry.answer).unwrap();
                if entry.ends {
                    tls.send_close_notify();
                }
                while tls.wants_write() {
                    tls.write_tls(&mut wire).unwrap();
                }
            }
        }
        for (number, piece) in wire.chunks(piece).enumerate() {
            if number > 0 {
                // So that the client usually finds nothing more to read.
                thread::sleep(Duration::from_micros(300));
            }
            if stream.write_all(piece).is_err() {
                return;
            }
        }
        if entry.ends {
            return;
        }
    }
}

/// Target, method, answer, its body, whether the server closes the connection, and whether it may
/// be reused.
type Row = (&'static str, &'static str, String, &'static str, bool, bool);

fn rows() -> Vec<Row> {
    let row = |target, method, answer: &str, body, ends, again| {
        (target, method, answer.replace('\n', "\r\n"), body, ends, again)
    };
    vec![
        row("/length", "GET", "HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", "hello", false, true),
        row("/none", "GET", "HTTP/1.1 200 OK\ncontent-length: 0\n\n", "", false, true),
        row("/204", "GET", "HTTP/1.1 204 No Content\n\n", "", false, true),
        row("/304", "GET", "HTTP/1.1 304 Not Modified\ncontent-length: 5\n\n", "", false, true),
        row(
            "/304c",
            "GET",
            "HTTP/1.1 304 Not Modified\ntransfer-encoding: chunked\n\n",
            "",
            false,
            true,
        ),
        row("/head", "HEAD", "HTTP/1.1 200 OK\ncontent-length: 5\n\n", "", false, true),
        row(
            "/hints",
            "GET",
            "HTTP/1.1 103 Early Hints\nlink: x\n\nHTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
            "hello",
            false,
            true,
        ),
        row("/100", "GET", "HTTP/1.1 100 Continue\n\nHTTP/1.1 204 No Content\n\n", "", false, true),
        row(
            "/302",
            "GET",
            "HTTP/1.1 302 Found\nlocation: /length\ncontent-length: 5\n\nthere",
            "there",
            false,
            true,
        ),
        row(
            "/307",
            "GET",
            "HTTP/1.1 307 Temporary Redirect\nlocation: /length\ncontent-length: 0\n\n",
            "",
            false,
            true,
        ),
        row(
            "/chunked",
            "GET",
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n3\nhel\n2;x=y\nlo\n0\n\n",
            "hello",
            false,
            true,
        ),
        row(
            "/trailers",
            "GET",
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n5\nhello\n0\na: b\nc: d\n\n",
            "hello",
            false,
            true,
        ),
        row(
            "/1.0-alive",
            "GET",
            "HTTP/1.0 200 OK\nconnection: keep-alive\ncontent-length: 5\n\nhello",
            "hello",
            false,
            true,
        ),
        row("/1.0", "GET", "HTTP/1.0 200 OK\ncontent-length: 5\n\nhello", "hello", false, false),
        row(
            "/close",
            "GET",
            "HTTP/1.1 200 OK\nconnection: close\ncontent-length: 5\n\nhello",
            "hello",
            false,
            false,
        ),
        row("/close204", "GET", "HTTP/1.1 204 No Content\nconnection: close\n\n", "", false, false),
        row(
            "/101",
            "GET",
            "HTTP/1.1 101 Switching Protocols\nupgrade: x\nconnection: upgrade\n\n",
            "",
            false,
            false,
        ),
        row("/to-the-end", "GET", "HTTP/1.1 200 OK\n\nhello", "hello", true, false),
        row(
            "/half-end",
            "GET",
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n5\nhello\n0\n",
            "hello",
            true,
            false,
        ),
    ]
}

fn scripts(rows: &[Row]) -> Vec<Script> {
    rows.iter()
        .map(|(target, _, answer, _, ends, _)| Script {
            target,
            answer: answer.clone().into_bytes(),
            ends: *ends,
        })
        .collect()
}

#[test]
fn a_connection_is_used_again_where_its_answer_was_whole_and_nothing_else() {
    for https in [false, true] {
        for piece in [usize::MAX, 7, 1] {
            let rows = rows();
            let server = Server::start(https, piece, scripts(&rows));
            for (target, method, _, body, _, again) in &rows {
                let agent = server.agent();
                let what = format!("{target}, https {https}, pieces of {piece}");
                let (reused, said) = server.call(&agent, method, target);
                assert_eq!((reused, said.as_deref()), (false, Ok(*body)), "{what}");
                let (reused, said) = server.call(&agent, "GET", "/length");
                assert_eq!((reused, said.as_deref()), (*again, Ok("hello")), "{what}");
                let (reused, said) = server.call(&agent, "GET", "/length");
                assert_eq!((reused, said.as_deref()), (true, Ok("hello")), "{what}");
            }
        }
    }
}

/// A body that just fits into the buffer with its head.
const FULL: &str = match std::str::from_utf8(&[b'x'; 16_342]) {
    Ok(text) => text,
    Err(_) => "",
};

#[test]
fn bytes_behind_an_answer_end_its_connection() {
    for https in [false, true] {
        let mut rows = rows();
        rows.retain(|row| row.5 && !row.4);
        for row in &mut rows {
            row.2.push_str("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad");
        }
        // Exactly one read: the rest stays in the socket, or inside TLS.
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 16342\r\n\r\n";
        let full = format!("{head}{}", "x".repeat(16 * 1024 - head.len()));
        rows.push(("/full", "GET", full + "HTTP", FULL, false, true));
        rows.push((
            "/good",
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood".into(),
            "good",
            false,
            true,
        ));
        // One piece: the surplus arrives with the answer.
        let server = Server::start(https, usize::MAX, scripts(&rows));
        for (target, method, _, body, _, _) in &rows {
            let agent = server.agent();
            let (_, said) = server.call(&agent, method, target);
            assert_eq!(said.as_deref(), Ok(*body), "{target}");
            let (reused, said) = server.call(&agent, "GET", "/good");
            let expected = (*target == "/good", Ok("good"));
            assert_eq!((reused, said.as_deref()), expected, "{target} {https}");
        }
    }
}

#[test]
fn a_large_answer_in_pieces_of_any_size_comes_whole() {
    let text: String = (0..60_000).map(|number| format!("{number} ")).collect();
    let plain = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    let mut chunked = String::from("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in text.as_bytes().chunks(1000) {
        let chunk = std::str::from_utf8(chunk).unwrap();
        chunked.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    chunked.push_str("0\r\n\r\n");
    for https in [false, true] {
        for piece in [1_000, 4_096, 16_384, 16_406, 40_000, usize::MAX] {
            let script = |target, answer: &String| Script {
                target,
                answer: answer.clone().into_bytes(),
                ends: false,
            };
            let script = vec![script("/plain", &plain), script("/chunked", &chunked)];
            let server = Server::start(https, piece, script);
            let agent = server.agent();
            for (number, target) in ["/plain", "/chunked", "/plain"].iter().enumerate() {
                let (reused, said) = server.call(&agent, "GET", target);
                assert!(said.as_ref() == Ok(&text), "{target} {https} {piece}");
                assert_eq!(reused, number > 0, "{target} {https} {piece}");
            }
        }
    }
}

#[test]
fn what_tls_has_deciphered_and_kept_is_not_waited_for() {
    for more in [1, 5, 3_000] {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n";
        // More than one read, with the end in one small read of the socket together with the rest.
        let body = "x".repeat(16 * 1024 - head.len() + more);
        let answer = head.replace("12345", &body.len().to_string()) + &body;
        let script = Script { target: "/", answer: answer.into_bytes(), ends: false };
        let server = Server::start(true, usize::MAX, vec![script]);
        let agent = server.agent();
        for again in [false, true] {
            let (reused, said) = server.call(&agent, "GET", "/");
            assert!(said.as_ref() == Ok(&body), "{more} {again}");
            assert_eq!(reused, again, "{more}");
        }
    }
}

#[test]
fn an_answer_that_is_left_or_torn_ends_its_connection() {
    for https in [false, true] {
        let mut rows = rows();
        rows.truncate(1);
        let mut torn = rows[0].clone();
        torn.0 = "/torn";
        torn.2.truncate(torn.2.len() - 2);
        torn.4 = true;
        rows.push(torn);
        let server = Server::start(https, usize::MAX, scripts(&rows));
        let agent = server.agent();
        let left = agent.get(server.url("/length")).call().unwrap();
        drop(left);
        server.gone.recv_timeout(LIMIT).unwrap();
        let (reused, said) = server.call(&agent, "GET", "/torn");
        assert!(!reused && said.is_err(), "{said:?}");
        let (reused, said) = server.call(&agent, "GET", "/length");
        assert_eq!((reused, said.as_deref()), (false, Ok("hello")));
    }
}

#[test]
fn a_client_that_is_given_up_ends_its_idle_connections() {
    for https in [false, true] {
        let server = Server::start(https, usize::MAX, scripts(&rows()));
        let agent = server.agent();
        let left = agent.get(server.url("/length")).call().unwrap();
        let (reused, _) = server.call(&agent, "GET", "/length");
        assert!(!reused);
        let mut text = String::new();
        let mut body = left.into_body().into_reader();
        body.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        // It keeps the client alive.
        drop(body);
        drop(agent);
        server.gone.recv_timeout(LIMIT).expect("one ends");
        server.gone.recv_timeout(LIMIT).expect("so does the other");
    }
}
