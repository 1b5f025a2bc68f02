//! The stand-in's connections, which read requests as raw bytes and write answers step by step.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::answer::{Answer, End, Step};
use super::{Connection, Digest, Shared};

/// One request as received.
pub struct Request {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// When its last byte was received.
    pub at: Instant,
    /// The head's bytes, including the empty line.
    pub head: Vec<u8>,
    /// The body without its framing.
    pub body: Vec<u8>,
    pub method: String,
    /// The request target, including the query.
    pub target: String,
    /// Names as sent, and values.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The first value of a header, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The bearer token or API key; empty if there is none.
    pub fn credential(&self) -> &str {
        let bearer = self.header("authorization").map(|value| {
            let scheme = value.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer "));
            scheme.map_or(value, |_| &value[7..])
        });
        bearer.or_else(|| self.header("x-api-key")).unwrap_or("")
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    /// The body as JSON; null if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether the body asks for a stream.
    pub fn wants_stream(&self) -> bool {
        self.json()["stream"] == serde_json::Value::Bool(true)
    }
}

/// Accepts connections until the stand-in stops, with one reading and one answering thread for
/// each.
pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        let mut state = shared.lock();
        if state.stopping {
            return;
        }
        let Ok((stream, _)) = accepted else {
            drop(state);
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let number = state.connections.len();
        state.connections.push(Connection {
            opened: Instant::now(),
            left: None,
            ended: None,
            sent: Digest::EMPTY,
            writes: Vec::new(),
        });
        let (Ok(reading), Ok(kept)) = (stream.try_clone(), stream.try_clone()) else {
            continue;
        };
        state.sockets.insert(number, kept);
        drop(state);
        shared.changed.notify_all();
        let _best_effort = stream.set_nodelay(true);
        let inbox = Arc::new(Inbox::default());
        {
            let (inbox, shared) = (Arc::clone(&inbox), Arc::clone(shared));
            std::thread::spawn(move || read_all(reading, number, &inbox, &shared));
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let line = Line { stream, number, inbox, shared };
            line.serve();
        });
    }
}

/// Bytes that the reading thread has received and the answering thread has not yet taken.
#[derive(Default)]
struct Inbox {
    received: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

/// Reads until the peer is gone, so that a disconnect is noticed at once, whatever the answering
/// thread is doing.
fn read_all(mut stream: TcpStream, number: usize, inbox: &Inbox, shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            // This must come before the answering thread is told, which then ends the connection on
            // our side.
            shared.update(|state| {
                let connection = &mut state.connections[number];
                if connection.ended.is_none() {
                    connection.left = Some(Instant::now());
                }
            });
        }
        let mut received = inbox.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.0.extend_from_slice(&buffer[..count]);
        received.1 = count == 0;
        drop(received);
        inbox.changed.notify_all();
        if count == 0 {
            break;
        }
    }
}

/// One connection, as seen by its answering thread.
struct Line {
    stream: TcpStream,
    number: usize,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
}

impl Line {
    /// Answers request after request.
    fn serve(mut self) {
        let mut doomed = false;
        while let Some(mut request) = self.read_head() {
            if doomed {
                break;
            }
            let credential = request.credential().to_owned();
            let early = self.shared.lock().at_head.remove(&credential);
            let answer = match early {
                Some(answer) => {
                    self.record(&request);
                    answer
                }
                None => {
                    let Some(body) = self.read_body(&request) else {
                        break;
                    };
                    request.body = body;
                    request.at = Instant::now();
                    let answer = self.shared.answer(&request);
                    self.record(&request);
                    answer
                }
            };
            match self.perform(&answer, &request) {
                End::KeepAlive => {}
                End::CloseOnNext => doomed = true,
                End::Close => break,
            }
        }
        self.shared.update(|state| {
            let connection = &mut state.connections[self.number];
            connection.ended = Some(Instant::now());
            state.sockets.remove(&self.number);
        });
        let _closed = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Adds the request to the record.
    fn record(&self, request: &Request) {
        let copy = Request {
            connection: request.connection,
            at: request.at,
            head: request.head.clone(),
            body: request.body.clone(),
            method: request.method.clone(),
            target: request.target.clone(),
            headers: request.headers.clone(),
        };
        self.shared.update(|state| state.requests.push(Arc::new(copy)));
    }

    /// Waits for a complete head; `None` if the connection ends before.
    fn read_head(&self) -> Option<Request> {
        let head = self
            .take(|bytes| bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4))?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Some(Request {
            connection: self.number,
            at: Instant::now(),
            head,
            body: Vec::new(),
            method,
            target,
            headers,
        })
    }

    /// Waits for the body that the head announces.
    fn read_body(&self, request: &Request) -> Option<Vec<u8>> {
        if request
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            let mut body = Vec::new();
            loop {
                let line = self.take(|bytes| {
                    bytes.windows(2).position(|two| two == b"\r\n").map(|at| at + 2)
                })?;
                let size = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
                let chunk = self.take(|bytes| (bytes.len() >= size + 2).then_some(size + 2))?;
                if size == 0 {
                    return Some(body);
                }
                body.extend_from_slice(&chunk[..size]);
            }
        }
        let length = match request.header("content-length") {
            Some(value) => value.parse::<usize>().ok()?,
            None => 0,
        };
        self.take(|bytes| (bytes.len() >= length).then_some(length))
    }

    /// Waits until `complete` returns how many of the received bytes belong together, and takes
    /// those.
    fn take(&self, complete: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        let mut received = self.inbox.received.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(count) = complete(&received.0) {
                let rest = received.0.split_off(count);
                return Some(std::mem::replace(&mut received.0, rest));
            }
            if received.1 {
                return None;
            }
            received = self.inbox.changed.wait(received).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Executes an answer; returns what happens to the connection.
    fn perform(&mut self, answer: &Answer, request: &Request) -> End {
        self.shared.update(|state| {
            let connection = &mut state.connections[self.number];
            connection.sent = Digest::EMPTY;
            connection.writes.clear();
        });
        for step in answer.steps(request) {
            if !self.step(&step) {
                self.note_a_failed_write(&step);
                return End::Close;
            }
        }
        answer.end
    }

    /// A write fails if the peer has left, which the reading thread may notice only after this
    /// thread has ended.
    fn note_a_failed_write(&self, step: &Step) {
        if matches!(
            step,
            Step::Send(_) | Step::Body { .. } | Step::Repeat { .. } | Step::Flood { .. }
        ) {
            self.shared.update(|state| {
                let left = &mut state.connections[self.number].left;
                left.get_or_insert(Instant::now());
            });
        }
    }

    /// Executes one step; false if the connection is over.
    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Send(bytes) => self.stream.write_all(bytes).is_ok(),
            Step::Body { frame, bytes } => self.write_body(frame, bytes),
            Step::Pause(time) => self.shared.pause(self.number, None, *time),
            Step::Hold(gate) => {
                self.shared.pause(self.number, Some(gate.number), Duration::from_secs(3600))
            }
            Step::AwaitLeave => {
                self.shared.pause(self.number, None, Duration::from_secs(3600));
                false
            }
            Step::Repeat { bytes, times } => {
                (0..*times).all(|_| self.stream.write_all(bytes).is_ok())
            }
            Step::Flood { total, seed } => self.flood(*total, *seed),
            Step::Fin => {
                let _closed = self.stream.shutdown(std::net::Shutdown::Write);
                false
            }
            Step::Reset => {
                self.shared.update(|state| {
                    state.connections[self.number].ended = Some(Instant::now());
                });
                // Dissolving the association resets the connection at once, even if other handles
                // of the socket exist.
                let _reset = rustix::net::connect_unspec(&self.stream);
                false
            }
        }
    }

    /// Writes one body part in its frame and records it.
    fn write_body(&mut self, frame: &(Vec<u8>, Vec<u8>), bytes: &[u8]) -> bool {
        let mut framed = Vec::with_capacity(frame.0.len() + bytes.len() + frame.1.len());
        framed.extend_from_slice(&frame.0);
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(&frame.1);
        if !bytes.is_empty() {
            // Counted before the write, so that a client that has read the bytes finds them
            // counted.
            let mut state = self.shared.lock();
            let connection = &mut state.connections[self.number];
            connection.sent.add(bytes);
            connection.writes.push((Instant::now(), bytes.len()));
        }
        self.stream.write_all(&framed).is_ok()
    }

    /// Sends chunked text deltas until `total` body bytes have been sent.
    fn flood(&mut self, total: u64, seed: u64) -> bool {
        let mut digest = self.shared.lock().connections[self.number].sent;
        let (mut sent, mut state) = (0_u64, seed | 1);
        let mut whole = true;
        while sent < total && whole {
            let event = super::message::random_delta(&mut state, 16 * 1024);
            let mut framed = format!("{:x}\r\n", event.len()).into_bytes();
            framed.extend_from_slice(&event);
            framed.extend_from_slice(b"\r\n");
            whole = self.stream.write_all(&framed).is_ok();
            digest.add(&event);
            sent += event.len() as u64;
        }
        self.shared.update(|state| state.connections[self.number].sent = digest);
        whole
    }
}
