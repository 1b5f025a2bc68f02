//! The answer's way to the client: its framing, its heartbeats, and the point after which nothing
//! can be taken back.
//!
//! ```text
//!            heartbeat                 open
//! Untouched ───────────▶ Held ───────────────────▶ Open ──finish──▶ Over
//!     │                    │ (200, event stream)     │
//!     │ open               │ an error: as an event   │ broken: error event, or cut
//!     └──────────────────▶ Open                      ▼
//!                                                   Over
//! ```
//!
//! [`Uncommitted`] and [`Committed`] are the two ends of the commit point (SPEC P6): a retry needs
//! the first, and opening an answer consumes it. What is written is collected and leaves when the
//! worker is about to wait, or at [`CORK_BYTES`].

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use ureq::http::HeaderValue;

use super::error_events::ErrorEvents;
use super::reply::Reply;
use crate::clock::{self, Stopwatch};
use crate::config::masking::{self, Masked};
use crate::http::headers::{self, Headers};
use crate::server::{ClientSocket, Outbound};

/// Collected bytes are sent at this size even if more are at hand.
const CORK_BYTES: usize = 16 * 1024;
/// A real event, because clients' watchdogs do not take a comment for a sign of life (SPEC Q4).
const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// What the client's request says about the form of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientForm {
    /// HTTP/1.1 or later: chunks are understood.
    pub(crate) chunks: bool,
    /// `HEAD`: no body.
    pub(crate) head_only: bool,
    /// The client wants another request on this connection, and may have it.
    pub(crate) keep_alive: bool,
}

/// How a body is delimited on the way to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// As many bytes as announced.
    Length(u64),
    /// To its own end.
    Streamed,
    /// None, whatever the headers say (HEAD, 204, 304).
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untouched,
    Held,
    Open(Framing),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Bytes that are still owed.
    Length(u64),
    Chunked,
    /// HTTP/1.0: the end of the connection is the end of the body.
    ToTheEnd,
    None,
}

struct Down {
    out: Option<Outbound>,
    form: ClientForm,
    state: State,
    cork: Vec<u8>,
    clock: Stopwatch,
    first_byte: Option<Duration>,
    status: Option<u16>,
}

/// The part of a response that a waiting worker may still touch: it sends what is due and
/// heartbeats.
#[derive(Clone)]
pub(crate) struct Line(Rc<RefCell<Down>>);

/// A response of which the client has seen nothing but our own heartbeats.
pub(crate) struct Uncommitted(Line);

/// A response that has begun: its account can no longer be changed.
pub(crate) struct Committed(Line, Option<ErrorEvents>);

impl Uncommitted {
    /// Takes over the way to the client. `clock` runs since the request's last byte.
    pub(crate) fn new(out: Outbound, form: ClientForm, clock: Stopwatch) -> Uncommitted {
        let down = Down {
            out: Some(out),
            form,
            state: State::Untouched,
            cork: Vec::new(),
            clock,
            first_byte: None,
            status: None,
        };
        Uncommitted(Line(Rc::new(RefCell::new(down))))
    }

    /// The handle for the waiting worker.
    pub(crate) fn line(&self) -> Line {
        self.0.clone()
    }

    /// Whether heartbeats have gone out, so that only an event stream can follow.
    pub(crate) fn is_held(&self) -> bool {
        self.0.0.borrow().state == State::Held
    }

    /// Begins the upstream's answer. After heartbeats only its body can follow: the caller has made
    /// sure that it is an event stream of status 200.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn open<'a>(
        self,
        status: u16,
        lines: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: Body,
    ) -> io::Result<Committed> {
        {
            let mut down = self.0.0.borrow_mut();
            if down.state == State::Held {
                down.state = State::Open(down.streamed());
            } else {
                down.head(status, lines, body);
                // The head alone is worth a packet only if the first bytes are not at hand; the
                // next wait sends it.
            }
        }
        Ok(Committed(self.0, None))
    }

    /// Gives an answer of our own and ends the response. Gives the status that the client saw.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn reply(self, reply: &Reply) -> io::Result<u16> {
        let held = self.is_held();
        let mut down = self.0.0.borrow_mut();
        down.form.keep_alive &= !reply.close;
        if held {
            let event = Masked::bytes(reply.event());
            down.state = State::Open(down.streamed());
            down.push(&event)?;
        } else {
            let body = Masked::bytes(reply.body());
            let headers = reply.headers();
            down.head(reply.status, headers.iter(), Body::Length(body.len() as u64));
            down.push(&body)?;
        }
        down.finish()?;
        Ok(down.status.unwrap_or(reply.status))
    }

    /// Gives an answer whose bytes are at hand and ends the response. It is an error or a page of
    /// our own, so no credential may go out in it.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn whole<'a>(
        self,
        status: u16,
        lines: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: &Masked<Vec<u8>>,
    ) -> io::Result<()> {
        let mut down = self.0.0.borrow_mut();
        down.head(status, lines, Body::Length(body.len() as u64));
        down.push(body)?;
        down.finish()
    }
}

impl Committed {
    /// The handle for the waiting worker.
    pub(crate) fn line(&self) -> Line {
        self.0.clone()
    }

    /// Passes bytes on.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let line = &self.0;
        match &mut self.1 {
            Some(events) => events.feed(bytes, |bytes| line.0.borrow_mut().push(bytes)),
            None => line.0.borrow_mut().push(bytes),
        }
    }

    /// From here on the bytes are those of an event stream, whose errors are looked through.
    pub(crate) fn guard_errors(&mut self) {
        self.1 = Some(ErrorEvents::default());
    }

    /// What is held of an event that never ended goes out, too.
    fn let_go(&mut self) -> io::Result<()> {
        let held = self.1.take().map(|mut events| events.finish()).unwrap_or_default();
        self.0.0.borrow_mut().push(&held)
    }

    /// Ends a whole answer.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.let_go()?;
        self.0.0.borrow_mut().finish()
    }

    /// Ends an answer that broke: with `event` where the body may still grow, else by cutting the
    /// connection, so that nobody takes it for whole.
    pub(crate) fn broken(mut self, event: Option<&[u8]>) {
        // A client that is gone is noticed by the next line.
        let _ = self.let_go();
        let event = event.map(|event| Masked::bytes(event.to_vec()));
        let mut down = self.0.0.borrow_mut();
        let grows = matches!(down.state, State::Open(Framing::Chunked | Framing::ToTheEnd));
        let told = match event {
            Some(event) if grows => down.push(&event).and_then(|()| down.finish()),
            _ => down.flush().and(Err(io::ErrorKind::UnexpectedEof.into())),
        };
        if told.is_err() {
            down.cut();
        }
    }
}

impl Line {
    /// Sends what has been collected.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }

    /// Sends a sign of life; the first one opens the response as an event stream.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn heartbeat(&self) -> io::Result<()> {
        let mut down = self.0.borrow_mut();
        match down.state {
            State::Untouched => {
                let mut headers = Headers::default();
                let form = HeaderValue::from_static("text/event-stream; charset=utf-8");
                headers.push("content-type", form);
                headers.push("cache-control", HeaderValue::from_static("no-cache"));
                down.head(200, headers.iter(), Body::Streamed);
                down.state = State::Held;
            }
            State::Held => {}
            State::Open(_) | State::Over => return Ok(()),
        }
        let framing = down.streamed();
        down.frame(framing, PING);
        down.flush()
    }

    /// The client's socket, until the answer is complete.
    pub(crate) fn socket(&self) -> Option<Arc<ClientSocket>> {
        self.0.borrow().out.as_ref().map(|out| Arc::clone(out.socket()))
    }

    /// From the request's last byte to the first byte of the answer, heartbeats not counted.
    pub(crate) fn first_byte(&self) -> Option<Duration> {
        self.0.borrow().first_byte
    }

    /// The status that the client has seen.
    pub(crate) fn status(&self) -> Option<u16> {
        self.0.borrow().status
    }
}

impl Down {
    fn streamed(&self) -> Framing {
        if self.form.chunks { Framing::Chunked } else { Framing::ToTheEnd }
    }

    /// Puts the head into the cork.
    fn head<'a>(
        &mut self,
        status: u16,
        lines: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: Body,
    ) {
        let framing = match body {
            _ if self.form.head_only => Framing::None,
            Body::None => Framing::None,
            Body::Length(length) => Framing::Length(length),
            Body::Streamed => self.streamed(),
        };
        if framing == Framing::ToTheEnd {
            self.form.keep_alive = false;
        }
        self.status = Some(status);
        let cork = &mut self.cork;
        let start = cork.len();
        let mut is_dated = false;
        let lines = lines.inspect(|(name, _)| is_dated |= *name == "date");
        headers::write_head(status, lines, cork);
        // An upstream may repeat a credential in any header.
        if masking::bytes(&cork[start..]).is_some() {
            let masked = masked_head(&cork[start..]);
            cork.truncate(start);
            cork.extend_from_slice(&masked);
        }
        if !is_dated {
            // Writing into memory cannot fail.
            let _ = write!(cork, "date: {}\r\n", clock::http_date(clock::wall()));
        }
        match (framing, body) {
            (Framing::Length(length), _) | (Framing::None, Body::Length(length)) => {
                let _ = write!(cork, "content-length: {length}\r\n");
            }
            (Framing::Chunked, _) => cork.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            (Framing::ToTheEnd | Framing::None, _) => {}
        }
        if !self.form.keep_alive {
            cork.extend_from_slice(b"connection: close\r\n");
        }
        cork.extend_from_slice(b"\r\n");
        self.state = State::Open(framing);
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Open(framing) = self.state else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if bytes.is_empty() {
            return Ok(());
        }
        if self.first_byte.is_none() {
            self.first_byte = Some(self.clock.elapsed());
        }
        let framing = match framing {
            Framing::Length(owed) => {
                let count = bytes.len() as u64;
                if count > owed {
                    return Err(io::Error::other("the answer is longer than its Content-Length"));
                }
                Framing::Length(owed - count)
            }
            other => other,
        };
        self.state = State::Open(framing);
        if bytes.len() >= CORK_BYTES && matches!(framing, Framing::Length(_) | Framing::ToTheEnd) {
            self.flush()?;
            return self.send(bytes);
        }
        self.frame(framing, bytes);
        if self.cork.len() >= CORK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Puts a piece of the body into the cork.
    fn frame(&mut self, framing: Framing, bytes: &[u8]) {
        match framing {
            Framing::Chunked => {
                let _ = write!(self.cork, "{:x}\r\n", bytes.len());
                self.cork.extend_from_slice(bytes);
                self.cork.extend_from_slice(b"\r\n");
            }
            Framing::Length(_) | Framing::ToTheEnd => self.cork.extend_from_slice(bytes),
            Framing::None => {}
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.state {
            State::Open(Framing::Chunked) => self.cork.extend_from_slice(b"0\r\n\r\n"),
            State::Open(Framing::Length(owed)) if owed > 0 => {
                self.flush()?;
                self.cut();
                return Err(io::Error::other("the answer is shorter than its Content-Length"));
            }
            State::Open(_) => {}
            State::Untouched | State::Held | State::Over => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        self.flush()?;
        self.state = State::Over;
        if let Some(out) = self.out.take()
            && self.form.keep_alive
        {
            out.keep_alive();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.cork.is_empty() {
            return Ok(());
        }
        let cork = std::mem::take(&mut self.cork);
        let sent = self.send(&cork);
        self.cork = cork;
        self.cork.clear();
        sent
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(out) = self.out.as_mut() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let sent = out.write(bytes);
        if sent.is_err() {
            self.cut();
        }
        sent
    }

    /// Ends the connection: the client must not take what it has for whole.
    fn cut(&mut self) {
        let ends_by_closing = self.state == State::Open(Framing::ToTheEnd);
        self.state = State::Over;
        self.cork.clear();
        if let Some(out) = self.out.take()
            && ends_by_closing
        {
            out.tear();
        }
    }
}

/// The head without any credential in its values. A name is left alone: somebody's key may be a
/// word such as `anthropic`, and no client would know what `[masked]-ratelimit-reset` is.
fn masked_head(head: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len());
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let start = memmem::find(line, b": ").map_or(line.len(), |colon| colon + 2);
        let (name, value) = line.split_at(start);
        out.extend_from_slice(name);
        out.extend_from_slice(masking::bytes(value).as_deref().unwrap_or(value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn d4_a_key_that_is_a_word_breaks_no_header() {
        drop(Secret::new("x-odd-word-0007"));
        let head =
            b"HTTP/1.1 200 OK\r\nx-odd-word-0007-limit: 5\r\nnote: no x-odd-word-0007: here\r\n";
        let shown = b"HTTP/1.1 200 OK\r\nx-odd-word-0007-limit: 5\r\nnote: no [masked]: here\r\n";
        assert_eq!(masked_head(head), shown);
    }
}
