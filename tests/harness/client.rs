//! A raw HTTP/1.1 client that sends exactly the bytes the test wants and records when each byte of
//! the answer arrived.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;
use super::reply::{Head, Reply, ReplyEnd};

/// One request to send.
#[derive(Clone)]
pub struct Ask {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    decoding: Decoding,
}

/// The result of reading a body.
pub enum Piece {
    /// Body bytes without their framing, and when they arrived.
    Bytes(Vec<u8>, Instant),
    /// The body is complete.
    End,
    /// The connection ended before the body did.
    Cut(ReplyEnd),
}

/// The position of the reader within the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decoding {
    Nothing,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
}

impl Ask {
    /// A request without a body.
    pub fn new(method: &str, target: &str) -> Ask {
        Ask {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn get(target: &str) -> Ask {
        Ask::new("GET", target)
    }

    /// `POST` of a JSON body.
    pub fn post(target: &str, body: &Value) -> Ask {
        Ask::new("POST", target)
            .header("content-type", "application/json")
            .header("anthropic-version", "2023-06-01")
            .body(body.to_string().into_bytes())
    }

    /// `POST /v1/messages` of a JSON body.
    pub fn messages(body: &Value) -> Ask {
        Ask::post("/v1/messages", body)
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body and announces its length.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Ask {
        self.body = Some(body);
        self
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    /// The bytes on the wire; adds `host` unless the test set one.
    pub fn bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let has_host = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        if !has_host {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::of(TcpStream::connect_timeout(&address, PATIENCE).expect("connect to the server"))
    }

    /// Uses an existing connection.
    pub fn of(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("bound the reads");
        stream.set_write_timeout(Some(PATIENCE)).expect("bound the writes");
        stream.set_nodelay(true).expect("send at once");
        Client { stream, received: Vec::new(), decoding: Decoding::Nothing }
    }

    /// The local address, which the server sees as its peer.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a local address")
    }

    /// From now on, waits at most this long for bytes.
    pub fn patience(&self, bound: Duration) {
        self.stream.set_read_timeout(Some(bound)).expect("bound the reads");
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send to the server");
    }

    /// Sends as many of these bytes as the server accepts.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn send_ask(&mut self, ask: &Ask) {
        let host = self.stream.peer_addr().expect("a peer");
        self.send(&ask.bytes(host));
    }

    /// Sends a request and reads its complete answer; the connection can be reused.
    pub fn ask(&mut self, ask: &Ask) -> Reply {
        self.send_ask(ask);
        self.read_reply(ask)
    }

    /// Reads the complete answer to `ask`.
    pub fn read_reply(&mut self, ask: &Ask) -> Reply {
        let head = match self.read_head(ask) {
            Ok(head) => head,
            Err(end) => return Reply::without_head(end, std::mem::take(&mut self.received)),
        };
        let mut reply = Reply::of(head);
        loop {
            match self.next_piece() {
                Piece::Bytes(bytes, at) => {
                    reply.body.extend_from_slice(&bytes);
                    reply.arrivals.push((at, bytes.len()));
                }
                Piece::End => return reply,
                Piece::Cut(end) => {
                    reply.end = end;
                    return reply;
                }
            }
        }
    }

    /// Reads an answer's head, including interim ones.
    pub fn read_head(&mut self, ask: &Ask) -> Result<Head, ReplyEnd> {
        let mut interim = Vec::new();
        loop {
            let length = loop {
                let end = self.received.windows(4).position(|four| four == b"\r\n\r\n");
                if let Some(at) = end {
                    break at + 4;
                }
                self.fill()?;
            };
            let rest = self.received.split_off(length);
            let bytes = std::mem::replace(&mut self.received, rest);
            let head = Head::parse(&bytes, Instant::now());
            if head.status / 100 == 1 {
                interim.push(head.status);
                continue;
            }
            self.decoding = Decoding::of(&head, ask.method());
            return Ok(Head { interim, ..head });
        }
    }

    /// Reads the next bytes of the body.
    pub fn next_piece(&mut self) -> Piece {
        loop {
            if let Some(piece) = self.decode() {
                return piece;
            }
            match self.fill() {
                Ok(()) => {}
                Err(ReplyEnd::Closed) if self.decoding == Decoding::UntilClose => {
                    self.decoding = Decoding::Nothing;
                    return Piece::End;
                }
                Err(end) => return Piece::Cut(end),
            }
        }
    }

    /// Reads until the server closes, whatever it sends.
    pub fn read_to_close(&mut self) -> (Vec<u8>, ReplyEnd) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.received), end);
            }
        }
    }

    /// Shuts down the sending side and stays to read.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("close the sending side");
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
            .expect("choose to reset");
    }

    /// The socket, for options that only single tests need.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Decodes received bytes as far as possible; `None` if more are needed.
    fn decode(&mut self) -> Option<Piece> {
        loop {
            match self.decoding {
                Decoding::Nothing | Decoding::Length(0) => {
                    self.decoding = Decoding::Nothing;
                    return Some(Piece::End);
                }
                Decoding::Length(left) => {
                    let bytes = self.take_up_to(left)?;
                    self.decoding = Decoding::Length(left - bytes.len() as u64);
                    return Some(Piece::Bytes(bytes, Instant::now()));
                }
                Decoding::UntilClose => {
                    let bytes = self.take_up_to(u64::MAX)?;
                    return Some(Piece::Bytes(bytes, Instant::now()));
                }
                Decoding::ChunkSize => {
                    let line = self.take_line()?;
                    let digits = line.split(';').next().unwrap_or("").trim();
                    let size = u64::from_str_radix(digits, 16)
                        .unwrap_or_else(|_| panic!("'{line}' is no chunk size"));
                    self.decoding =
                        if size == 0 { Decoding::Trailer } else { Decoding::Chunk(size) };
                }
                Decoding::Chunk(left) => {
                    let bytes = self.take_up_to(left)?;
                    let left = left - bytes.len() as u64;
                    self.decoding =
                        if left == 0 { Decoding::ChunkEnd } else { Decoding::Chunk(left) };
                    return Some(Piece::Bytes(bytes, Instant::now()));
                }
                Decoding::ChunkEnd => {
                    let line = self.take_line()?;
                    assert_eq!(line, "", "a chunk ends with its announced length");
                    self.decoding = Decoding::ChunkSize;
                }
                Decoding::Trailer => {
                    let line = self.take_line()?;
                    if line.is_empty() {
                        self.decoding = Decoding::Nothing;
                    }
                }
            }
        }
    }

    /// At most `most` of the received bytes; `None` if there are none.
    fn take_up_to(&mut self, most: u64) -> Option<Vec<u8>> {
        if self.received.is_empty() {
            return None;
        }
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.received.len());
        let rest = self.received.split_off(count);
        Some(std::mem::replace(&mut self.received, rest))
    }

    fn take_line(&mut self) -> Option<String> {
        let at = self.received.windows(2).position(|two| two == b"\r\n")?;
        let rest = self.received.split_off(at + 2);
        let line = std::mem::replace(&mut self.received, rest);
        Some(String::from_utf8_lossy(&line[..at]).into_owned())
    }

    /// Waits for more bytes.
    fn fill(&mut self) -> Result<(), ReplyEnd> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ReplyEnd::Closed),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(ReplyEnd::Silent)
            }
            Err(_) => Err(ReplyEnd::Reset),
        }
    }
}

impl Decoding {
    fn of(head: &Head, method: &str) -> Decoding {
        if method == "HEAD" || head.status == 204 || head.status == 304 {
            return Decoding::Nothing;
        }
        if head
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            return Decoding::ChunkSize;
        }
        match head.header("content-length") {
            Some(length) => Decoding::Length(length.parse().expect("a length is a number")),
            None => Decoding::UntilClose,
        }
    }
}
