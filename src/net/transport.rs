//! The HTTP client's connections: non-blocking TCP, with TLS on top if the upstream uses it.
//!
//! A call collects its head and body into one send, and every wait goes through the thread's
//! [`Waiter`](super::wait::Waiter). A reset is never reported as end of file, because the client
//! would take it for the end of the body.

use std::fmt;
use std::io::{self, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::idle::{Idle, PlaceId};
use super::proxies::ProxyPolicy;
use super::socket::{Broken, as_failure, connect_any, receive, send_all};
use super::tunnel::ask_proxy;
use super::wait::{self, Phase, current};
use crate::clock;

/// Initial size of the input buffer; it grows for a larger response head. With 600 streams of small
/// events, each KB here costs 0.6 MB.
const INPUT_BYTES: usize = 4 * 1024;
/// Size once a read has filled it, since more data is coming.
const INPUT_BYTES_BUSY: usize = 16 * 1024;
/// The client's own limit refuses a head that does not fit.
const INPUT_BYTES_MAX: usize = 128 * 1024;
/// Size of the buffer in which the client writes heads and pieces of bodies; a small request gets
/// less. The client writes whole lines and fails if one does not fit, so a request with a larger
/// head gets a larger buffer.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Larger request buffers are freed while the answer streams.
const OUTPUT_BYTES_KEPT: usize = 4 * 1024;
/// Collected output is sent at this size even if more is coming.
const PENDING_BYTES: usize = 64 * 1024;
/// How much rustls reads from the socket at once, or more. Only a hint: a different value causes
/// extra calls.
const TLS_READ_BYTES: usize = 4096;

/// Opens the agent's connections.
pub(crate) struct WireConnector {
    tls: Arc<ClientConfig>,
    proxies: Arc<ProxyPolicy>,
    idle: Arc<Idle<Resting>>,
}

impl fmt::Debug for WireConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireConnector")
    }
}

impl WireConnector {
    pub(crate) fn new(tls: Arc<ClientConfig>, proxies: Arc<ProxyPolicy>) -> WireConnector {
        WireConnector { tls, proxies, idle: Arc::new(Idle::new()) }
    }
}

impl Connector for WireConnector {
    type Out = WireTransport;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _chained: Option<()>,
    ) -> Result<Option<WireTransport>, Error> {
        let https = details.needs_tls();
        let authority = details.uri.authority().ok_or(Error::HostNotFound)?;
        let home = Home { place: self.idle.place(https, authority), idle: Arc::clone(&self.idle) };
        let age_max = details.config.max_idle_age();
        while let Some(resting) = self.idle.take(home.place, clock::mono(), age_max) {
            if let Some(transport) = resting.wake(&home) {
                return Ok(Some(transport));
            }
        }
        let mut socket = connect_any(&details.addrs)?;
        let host = details.uri.host().ok_or(Error::HostNotFound)?.trim_matches(['[', ']']);
        if let Some(proxy) = self.proxies.proxy_for(details.uri) {
            let port = details.uri.port_u16().unwrap_or(if https { 443 } else { 80 });
            ask_proxy(&mut socket, proxy, host, port)?;
        }
        let tls = if https { Some(handshake(&mut socket, &self.tls, host)?) } else { None };
        current().wire().connected.set(true);
        Ok(Some(WireTransport {
            home,
            link: Some(Link { socket, tls }),
            buffers: WireBuffers::default(),
            pending: Vec::new(),
            deaf: false,
            is_dry: false,
            calls: Calls::None,
        }))
    }
}

/// Out of line: its stack frame is large, and a call without TLS does not need it.
#[inline(never)]
fn handshake(
    socket: &mut TcpStream,
    config: &Arc<ClientConfig>,
    host: &str,
) -> Result<Box<ClientConnection>, Error> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::Io(io::Error::other(format!("{host} is not a valid name for TLS"))))?;
    let tls = ClientConnection::new(Arc::clone(config), name).map_err(Error::Rustls)?;
    let mut tls = Box::new(tls);
    // A response of any size must fit between two reads of the client.
    tls.set_buffer_limit(None);
    while tls.is_handshaking() {
        let interest = if tls.wants_write() { PollFlags::OUT } else { PollFlags::IN };
        let moved = if tls.wants_write() { tls.write_tls(socket) } else { tls.read_tls(socket) };
        match moved {
            Ok(0) => {
                return Err(Error::Io(io::Error::other(
                    "the upstream closed the connection during the TLS handshake",
                )));
            }
            Ok(_) => {
                if let Err(error) = tls.process_new_packets() {
                    // The alert tells the other side why; one attempt is enough.
                    let _ = tls.write_tls(socket);
                    return Err(Error::Rustls(error));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait::one(socket.as_fd(), interest, Phase::Connect).map_err(io::Error::from)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Io(as_failure(error))),
        }
    }
    Ok(tls)
}

/// Bytes in transit between the HTTP client and the socket.
#[derive(Default)]
struct WireBuffers {
    input: Vec<u8>,
    /// `input[start..end]` has been received and not consumed.
    start: usize,
    end: usize,
    /// The last read filled all the room there was.
    filled: bool,
    output: Vec<u8>,
    progress: bool,
}

impl Buffers for WireBuffers {
    fn output(&mut self) -> &mut [u8] {
        let waiter = current();
        let whole = match waiter.wire().request_bytes.get() {
            0 => OUTPUT_BYTES,
            bytes => bytes.min(OUTPUT_BYTES),
        };
        let size = whole.max(waiter.wire().head_bytes.get());
        if self.output.len() < size {
            self.output = vec![0; size];
        }
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.input.len() && self.input.len() < INPUT_BYTES_MAX {
            self.input.resize((self.input.len() * 2).max(INPUT_BYTES), 0);
        } else if self.filled && self.input.len() < INPUT_BYTES_BUSY {
            self.input.resize(INPUT_BYTES_BUSY, 0);
        }
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
        self.filled = self.end == self.input.len();
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start += amount;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        if self.output.is_empty() {
            self.output = vec![0; OUTPUT_BYTES];
        }
        if self.input.len() - self.end < self.output.len() {
            self.input.resize(self.end + self.output.len(), 0);
        }
        (&mut self.input[self.end..], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.end > self.start && self.progress
    }
}

/// The connection itself.
struct Link {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

/// Where a connection goes between two calls.
#[derive(Clone)]
struct Home {
    idle: Arc<Idle<Resting>>,
    place: PlaceId,
}

/// An idle connection.
struct Resting {
    link: Link,
    buffers: WireBuffers,
    /// Empty; kept for its capacity.
    pending: Vec<u8>,
}

impl Resting {
    /// Makes it ready for the next call; `None` if the upstream has closed it.
    fn wake(mut self, home: &Home) -> Option<WireTransport> {
        self.link.is_quiet().then(|| WireTransport {
            home: home.clone(),
            link: Some(self.link),
            buffers: self.buffers,
            pending: self.pending,
            deaf: false,
            is_dry: false,
            calls: Calls::Before,
        })
    }
}

/// One connection to an upstream, for one call.
pub(crate) struct WireTransport {
    home: Home,
    /// `None` after the call: the connection is idle.
    link: Option<Link>,
    buffers: WireBuffers,
    pending: Vec<u8>,
    /// The upstream accepts no more of the request; its answer may still be read.
    deaf: bool,
    /// The last read emptied the socket, so the next one starts by waiting.
    is_dry: bool,
    calls: Calls,
}

/// Which calls a connection has served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    /// Just connected, none yet.
    None,
    /// Earlier ones.
    Before,
    /// One is using it now.
    Active,
}

impl fmt::Debug for WireTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireTransport")
    }
}

/// For a call that continues after the client has returned its connection, which never happens.
fn given_back() -> io::Error {
    io::Error::other("the connection has been given back")
}

impl WireTransport {
    /// Marks the start of a call on this connection for the waiter.
    fn begin_call(&mut self) {
        if self.calls != Calls::Active {
            let waiter = current();
            waiter.wire().reused.set(self.calls == Calls::Before);
            waiter.wire().connected.set(true);
            self.calls = Calls::Active;
        }
    }

    /// Sends what was collected. A peer that has closed its receiving side is not an error: its
    /// answer may be on the way.
    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let Link { socket, tls } = self.link.as_mut().ok_or_else(given_back)?;
        let result = match tls {
            None => send_all(socket, &self.pending, Phase::Send),
            Some(tls) => send_tls(tls, socket, &self.pending),
        };
        let wire = current();
        wire.wire().sent.set(wire.wire().sent.get() + self.pending.len() as u64);
        self.pending.clear();
        match result {
            Err(error) if wait::Stop::of_io(&error).is_none() => {
                self.deaf = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Reads what is available, waiting for the first byte; 0 at the end.
    fn fill(&mut self, first: First) -> io::Result<usize> {
        let target = self.buffers.input_append_buf();
        if target.is_empty() {
            return Err(io::Error::other("the response head is too large"));
        }
        let Link { socket, tls } = self.link.as_mut().ok_or_else(given_back)?;
        match tls {
            None => {
                if first == First::Wait {
                    wait::one(socket.as_fd(), PollFlags::IN, Phase::Receive)?;
                }
                let count = receive(socket, target, Phase::Receive)?;
                self.is_dry = count < target.len();
                Ok(count)
            }
            Some(tls) => receive_tls(tls, socket, target, first, &mut self.is_dry),
        }
    }
}

impl Link {
    /// Whether nothing has arrived since the last call, neither unrequested bytes nor the end.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let Some(tls) = &mut self.tls else {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let peeked = rustix::net::recv(&self.socket, &mut byte, flags);
            return matches!(peeked, Err(Errno::AGAIN));
        };
        loop {
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return false,
                Ok(_) if tls.process_new_packets().is_err() => return false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A reset. Only a silent connection can be reused.
                Err(_) => return false,
            }
        }
        matches!(tls.reader().read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn send_tls(tls: &mut ClientConnection, socket: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(PENDING_BYTES) {
        tls.writer().write_all(piece)?;
        while tls.wants_write() {
            match tls.write_tls(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait::one(socket.as_fd(), PollFlags::OUT, Phase::Send)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(as_failure(error)),
            }
        }
    }
    Ok(())
}

/// Whether to read before waiting. The answer to what was just sent, or the next event of a stream,
/// is never there yet, so an immediate read would waste a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Read,
    Wait,
}

fn receive_tls(
    tls: &mut ClientConnection,
    socket: &mut TcpStream,
    buffer: &mut [u8],
    mut first: First,
    is_dry: &mut bool,
) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // TCP ended without close_notify: the answer was truncated.
            Err(error) => return Err(as_failure(error)),
        }
        if first == First::Wait {
            first = First::Read;
            wait::one(socket.as_fd(), PollFlags::IN, Phase::Receive)?;
        }
        match tls.read_tls(socket) {
            Ok(count) => {
                *is_dry = count < TLS_READ_BYTES;
                tls.process_new_packets()
                    .map_err(|error| io::Error::other(Broken(error.to_string())))?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait::one(socket.as_fd(), PollFlags::IN, Phase::Receive)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(as_failure(error)),
        }
        // Key updates and the like need a reply.
        while tls.wants_write() {
            match tls.write_tls(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
}

impl Transport for WireTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _timeout: NextTimeout) -> Result<(), Error> {
        self.begin_call();
        if self.deaf {
            return Ok(());
        }
        self.pending.extend_from_slice(&self.buffers.output[..amount]);
        if self.pending.len() >= PENDING_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn await_input(&mut self, _timeout: NextTimeout) -> Result<bool, Error> {
        self.begin_call();
        let first = if self.pending.is_empty() && !self.is_dry { First::Read } else { First::Wait };
        self.flush()?;
        if self.pending.capacity() > OUTPUT_BYTES_KEPT {
            self.pending = Vec::new();
        }
        if self.buffers.output.len() > OUTPUT_BYTES_KEPT {
            self.buffers.output = Vec::new();
        }
        let count = self.fill(first)?;
        let wire = current();
        wire.wire().received.set(wire.wire().received.get() + count as u64);
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    /// The client asks this at the end of a call, before it would put the connection into its own
    /// pool. The connection goes to our pool instead, and the client is told that it is closed.
    fn is_open(&mut self) -> bool {
        let is_good = !self.deaf && self.calls == Calls::Active && self.pending.is_empty();
        if let Some(link) = self.link.take().filter(|_| is_good) {
            let resting = Resting {
                link,
                buffers: mem::take(&mut self.buffers),
                pending: mem::take(&mut self.pending),
            };
            self.home.idle.put(self.home.place, clock::mono(), resting);
        }
        false
    }

    fn is_tls(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.tls.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_grows_for_a_large_head_and_stops_at_its_limit() {
        let mut buffers = WireBuffers::default();
        let mut room = buffers.input_append_buf().len();
        while room > 0 {
            buffers.input_appended(room);
            buffers.input_consume(0);
            room = buffers.input_append_buf().len();
        }
        assert_eq!(buffers.input().len(), INPUT_BYTES_MAX);
        assert!(!buffers.can_use_input());
        buffers.input_consume(INPUT_BYTES_MAX);
        assert!(buffers.input().is_empty());
    }
}
