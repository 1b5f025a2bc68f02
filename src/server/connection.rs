//! One client's connection and the thread that serves it: read a head, serve the request, answer,
//! repeat.
//!
//! ```text
//! accepted ──▶ waiting ──head──▶ serving ──answered, kept──▶ waiting …
//!                │ silent for a second      │
//!                ▼                          └─▶ finished
//!             resting (in the acceptor's poll set, without a thread)
//!                │ bytes: back to waiting on a thread
//!                └─ idle too long, or its place is needed: closed
//! ```
//!
//! A request is served on the thread that has read it: handing it to another thread cost a third of
//! the processor time of a small request. Bytes that follow a request stay in the buffer for the
//! next one.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::body::{BodyError, Chunked, Progress};
use super::client::{ClientSocket, REFUSAL_LIMIT, Waited};
use super::door::Framing;
use super::head::{self, DoorRefusal, Parsed, RequestHead, refused};
use super::registry::{Open, Registry};
use crate::clock;
use crate::scheduler::time::Mono;

/// Time limit for a head, from its first byte (SPEC P2).
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Longest pause between two bytes of a body (SPEC P2).
const BODY_STALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a thread waits for the next request before its connection becomes idle.
const LINGER: Duration = Duration::from_secs(1);
/// The buffer for a body grows by this much at a time, whatever length was announced.
const BODY_STEP: usize = 256 * 1024;

/// Serves one request, or answers a head that was refused.
pub(super) type Handler = dyn Fn(Result<RequestHead, DoorRefusal>, Inbound<'_>) + Send + Sync;

/// A client's connection between two requests.
pub(super) struct Connection {
    socket: Arc<ClientSocket>,
    /// Bytes that were read but not used yet.
    buffer: Vec<u8>,
    /// Start of the wait for the next head.
    since: Mono,
    /// Arrival of the first byte of that head.
    head_since: Option<Mono>,
    served: bool,
    _open: Open,
}

/// The result of the wait for a head.
enum Next {
    Head(RequestHead),
    Refused(DoorRefusal),
    /// Nothing arrived for a while: the thread can serve another connection.
    Rest,
    Closed,
}

impl Connection {
    pub(super) fn new(socket: Arc<ClientSocket>, open: Open) -> Connection {
        Connection {
            socket,
            buffer: Vec::new(),
            since: clock::mono(),
            head_since: None,
            served: false,
            _open: open,
        }
    }

    pub(super) fn socket(&self) -> &ClientSocket {
        &self.socket
    }

    /// The order in which idle connections are closed when there are too many: those that never
    /// sent a request first, then those that have been idle longest.
    pub(super) fn expendability(&self) -> (bool, Mono) {
        (self.served, self.since)
    }

    /// How long it may stay idle, given that an idle connection may live for `idle_max`.
    pub(super) fn rests_until(&self, idle_max: Duration) -> Mono {
        match self.head_since {
            Some(since) => since + HEAD_LIMIT,
            None => self.since + idle_max,
        }
    }

    /// Whether a head has begun, so that its client deserves an answer.
    pub(super) fn is_in_head(&self) -> bool {
        self.head_since.is_some()
    }

    /// Serves requests until the connection ends, or returns it when it becomes idle.
    pub(super) fn run(mut self, registry: &Registry, handler: &Handler) -> Option<Connection> {
        loop {
            let head = match self.next_head(registry) {
                Next::Head(head) => Ok(head),
                Next::Refused(refusal) => Err(refusal),
                Next::Rest => return Some(self),
                Next::Closed => return None,
            };
            self.served = true;
            let busy = registry.begin_request();
            let inbound = Inbound { socket: &self.socket, buffer: &mut self.buffer };
            handler(head, inbound);
            drop(busy);
            if !self.socket.take_kept() {
                if !self.buffer.is_empty() {
                    // A client that has sent a bad request may be sending more.
                    self.socket.leave_unread();
                }
                self.socket.finish();
                return None;
            }
            self.since = clock::mono();
            self.head_since = head::has_begun(&self.buffer).then_some(self.since);
        }
    }

    fn next_head(&mut self, registry: &Registry) -> Next {
        let linger = if registry.may_linger() { LINGER } else { Duration::ZERO };
        let rest_at = clock::mono() + linger;
        // Only the end of a line can complete a head or show that it is invalid.
        let mut look = !self.buffer.is_empty();
        loop {
            if look {
                match head::parse(&self.buffer) {
                    Parsed::Partial => {}
                    Parsed::Complete(head, length) => {
                        self.buffer.drain(..length);
                        return Next::Head(head);
                    }
                    Parsed::Refused(refusal) => return Next::Refused(refusal),
                }
            }
            let now = clock::mono();
            let head_end = self.head_since.map_or(Mono::MAX, |since| since + HEAD_LIMIT);
            if now >= head_end {
                let text = "the request's head took longer than 10 seconds";
                return Next::Refused(refused(400, text));
            }
            if self.socket.wait_readable(head_end.min(rest_at).since(now)) == Waited::TimeOut {
                if clock::mono() < rest_at {
                    continue;
                }
                self.rest();
                return Next::Rest;
            }
            let from = self.buffer.len();
            match self.socket.read(&mut self.buffer) {
                Ok(0) => return Next::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Next::Closed,
            }
            if head::has_begun(&self.buffer) {
                self.head_since.get_or_insert_with(clock::mono);
            }
            look = from == 0
                || head::is_too_large(&self.buffer)
                || self.buffer[from..].contains(&b'\n');
        }
    }

    /// Frees memory while the connection is idle.
    fn rest(&mut self) {
        self.buffer.shrink_to_fit();
    }
}

/// The receiving side of the request being served.
pub(crate) struct Inbound<'a> {
    socket: &'a Arc<ClientSocket>,
    buffer: &'a mut Vec<u8>,
}

/// The sending side of the request being served.
pub(crate) struct Outbound {
    socket: Arc<ClientSocket>,
    limit: Duration,
}

impl Inbound<'_> {
    /// The client's address.
    pub(crate) fn peer(&self) -> IpAddr {
        self.socket.peer()
    }

    /// Asks the client to send the body that it announced (RFC 9110 section 10.1.1).
    pub(crate) fn ask_for_body(&self) {
        // If the client is gone, the following read notices it.
        let _ = self.socket.write(b"HTTP/1.1 100 Continue\r\n\r\n", REFUSAL_LIMIT);
    }

    /// Reads the whole body, at most `limit` bytes.
    ///
    /// # Errors
    /// It is too long or incomplete.
    pub(crate) fn read_body(&mut self, framing: Framing, limit: u64) -> Result<Vec<u8>, BodyError> {
        match framing {
            Framing::NoBody => Ok(Vec::new()),
            Framing::Length(length) if length > limit => Err(BodyError::TooLarge),
            Framing::Length(length) => {
                let length = usize::try_from(length).map_err(|_| BodyError::TooLarge)?;
                self.read_length(length)
            }
            Framing::Chunked => self.read_chunks(limit),
        }
    }

    fn read_length(&mut self, length: usize) -> Result<Vec<u8>, BodyError> {
        if self.buffer.len() >= length {
            let body = self.buffer[..length].to_vec();
            self.buffer.drain(..length);
            return Ok(body);
        }
        let mut body = std::mem::take(self.buffer);
        while body.len() < length {
            if body.len() == body.capacity() {
                body.reserve_exact((length - body.len()).min(BODY_STEP.max(body.len())));
            }
            self.wait_for_more()?;
            read_some(self.socket.read_spare(&mut body))?;
        }
        // Bytes after the body belong to the next request.
        *self.buffer = body.split_off(length);
        Ok(body)
    }

    fn read_chunks(&mut self, limit: u64) -> Result<Vec<u8>, BodyError> {
        let mut body = Vec::new();
        let mut decoder = Chunked::new(limit);
        loop {
            let (used, progress) = decoder.decode(self.buffer, &mut body)?;
            self.buffer.drain(..used);
            if progress == Progress::Done {
                return Ok(body);
            }
            self.wait_for_more()?;
            read_some(self.socket.read(self.buffer))?;
        }
    }

    fn wait_for_more(&self) -> Result<(), BodyError> {
        match self.socket.wait_readable(BODY_STALL_LIMIT) {
            Waited::Readable => Ok(()),
            Waited::TimeOut => Err(BodyError::Broken),
        }
    }

    /// Answers and closes the connection; parts of the request may be unread.
    pub(crate) fn refuse(self, answer: &[u8]) {
        self.socket.leave_unread();
        // The client may be gone; nothing is lost then.
        let _ = self.socket.write(answer, REFUSAL_LIMIT);
    }

    /// Switches from reading to writing. The body must have been read. The client must accept some
    /// of what is written every `limit`; zero means no limit.
    pub(crate) fn into_outbound(self, limit: Duration) -> Outbound {
        Outbound { socket: Arc::clone(self.socket), limit }
    }
}

/// A read of zero bytes means that the client ended the body early.
fn read_some(result: io::Result<usize>) -> Result<(), BodyError> {
    match result {
        Ok(0) => Err(BodyError::Broken),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(_) => Err(BodyError::Broken),
    }
}

impl Outbound {
    /// Writes all of `bytes` and sends them at once.
    ///
    /// # Errors
    /// The client is gone, or accepted nothing for too long.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write(bytes, self.limit)
    }

    /// The client's socket, for waits that watch it.
    pub(crate) fn socket(&self) -> &Arc<ClientSocket> {
        &self.socket
    }

    /// The answer broke off. Only the way the connection ends can tell the client, so it is reset.
    pub(crate) fn tear(self) {
        self.socket.tear();
    }

    /// The answer is complete and the connection may carry another request. Without this call the
    /// connection is closed, so that a partial answer is not taken for a whole one.
    pub(crate) fn keep_alive(self) {
        self.socket.keep();
    }
}
