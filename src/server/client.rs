//! One client's socket: reads that never block, writes and waits that end, and whether the client
//! has left.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{Shutdown, sockopt};

use crate::clock;
use crate::platform::{self, PeerWait, poll_for, wait_with_peer};

/// Bytes that one read of a head may take.
const READ_BYTES: usize = 16 * 1024;
/// Bytes that are read and dropped after a refusal, so that the client can read the answer.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
/// How long that may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// How long a refusal may take to be written.
pub(super) const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// A client's socket. Its serving thread reads and writes; any thread may end it.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    stream: TcpStream,
    peer: SocketAddr,
    /// The present answer is complete and the connection may carry another request.
    kept: AtomicBool,
    /// The request was refused, and parts of it may still be on their way.
    unread: AtomicBool,
    /// The end of the connection would be taken for the end of an answer that is not whole.
    torn: AtomicBool,
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What a wait for bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// A read will not block: bytes, the end, or an error.
    Readable,
    /// The time is over.
    TimeOut,
}

impl ClientSocket {
    /// Takes over an accepted connection. A client that leaves its side of the connection silent
    /// while bytes wait for it is cut by the kernel after `client_limit`; zero means never.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`: the connection is dead already.
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        client_limit: Duration,
    ) -> io::Result<ClientSocket> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        if !client_limit.is_zero() {
            platform::set_user_timeout(&stream, client_limit)?;
        }
        Ok(ClientSocket {
            stream,
            peer,
            kept: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            torn: AtomicBool::new(false),
        })
    }

    /// The client's address.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer.ip()
    }

    /// Appends what has come to `buffer`; 0 bytes are the end of what the client sends.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has come; else the connection is broken.
    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(READ_BYTES);
        self.read_spare(buffer)
    }

    /// The same, at most as much as `buffer` has room for.
    pub(super) fn read_spare(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let into = rustix::buffer::spare_capacity(buffer);
            match rustix::io::read(&self.stream, into) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Waits until there is something to read.
    pub(super) fn wait_readable(&self, limit: Duration) -> Waited {
        let end = clock::mono() + limit;
        loop {
            let left = end.since(clock::mono());
            let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
            if poll_for(&mut fds, left) {
                return Waited::Readable;
            }
            // A signal ends a poll early, not the wait.
            if clock::mono() >= end {
                return Waited::TimeOut;
            }
        }
    }

    /// Writes all of `bytes`. The client must take some of them every `limit`; zero is no limit.
    ///
    /// # Errors
    /// The client is gone or took nothing for too long.
    pub(super) fn write(&self, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
        let limit = if limit.is_zero() { Duration::MAX } else { limit };
        let mut end = None;
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    end = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let now = clock::mono();
                    let end = *end.get_or_insert_with(|| now + limit);
                    if now >= end {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
                    let left = end.since(now).min(LOOK_AGAIN);
                    if wait_with_peer(self.stream.as_fd(), &mut fds, left) == PeerWait::Left {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes as much of `bytes` as can be sent without waiting: for a thread that others need.
    pub(super) fn write_at_once(&self, bytes: &[u8]) {
        // Whom it does not reach sees the connection end.
        let _ = (&self.stream).write(bytes);
    }

    /// The answer is complete, and another request may follow.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The request was refused, and parts of it may be unread.
    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// The answer broke, and its client must not take the end of the connection for its end.
    pub(super) fn tear(&self) {
        self.torn.store(true, Ordering::Relaxed);
    }

    /// Whether there is something to read now: bytes, the end, or an error.
    pub(super) fn is_readable(&self) -> bool {
        poll_for(&mut [PollFd::new(&self.stream, PollFlags::IN)], Duration::ZERO)
    }

    /// Whether another request may follow; asked once for each.
    pub(super) fn take_kept(&self) -> bool {
        self.kept.swap(false, Ordering::Relaxed)
    }

    /// Ends the connection so that the client can read the last answer: closing over unread bytes
    /// would reset it before that, and take back what has not reached the client.
    pub(super) fn finish(&self) {
        if self.torn.load(Ordering::Relaxed) {
            // Closing resets the connection now.
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
            return;
        }
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
        if self.unread.load(Ordering::Relaxed) || self.is_readable() {
            self.drain();
        }
    }

    /// Ends both directions: wakes every thread that waits for the socket.
    pub(super) fn shut(&self) {
        // Closed already is as good.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
    }

    fn drain(&self) {
        let end = clock::mono() + DRAIN_LIMIT;
        let mut sink = [0; 4096];
        let mut left = DRAIN_BYTES_MAX;
        while left > 0 {
            if self.wait_readable(end.since(clock::mono())) == Waited::TimeOut {
                return;
            }
            match (&self.stream).read(&mut sink) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// No single `poll` is longer: `poll(2)` has no way to say "for ever" in a time.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
