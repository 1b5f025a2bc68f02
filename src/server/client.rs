//! One client's socket: non-blocking reads, bounded writes and waits, and whether the client has
//! left.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{Shutdown, sockopt};

use crate::clock;
use crate::platform::{self, PeerWait, poll_for, wait_with_peer};

/// Size of one read of a head.
const READ_BYTES: usize = 16 * 1024;
/// Bytes read and dropped after a refusal, so that the client can read the answer.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
/// Time limit for that.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// Time limit for writing a refusal.
pub(super) const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// A client's socket. Its serving thread reads and writes; any thread may end it.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    stream: TcpStream,
    peer: SocketAddr,
    /// The current answer is complete and the connection may carry another request.
    kept: AtomicBool,
    /// The request was refused, and parts of it may still be in transit.
    unread: AtomicBool,
    /// The answer is incomplete, but the client would take the end of the connection for its end.
    torn: AtomicBool,
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The result of a wait for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// A read will not block: bytes, the end, or an error.
    Readable,
    /// The time is over.
    TimeOut,
}

impl ClientSocket {
    /// Takes over an accepted connection. If the client acknowledges nothing for `client_limit`
    /// while data is waiting for it, the kernel closes the connection; zero means never.
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

    /// Appends available bytes to `buffer`; 0 bytes mean that the client sends no more.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is available; otherwise the connection is broken.
    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(READ_BYTES);
        self.read_spare(buffer)
    }

    /// The same, but reads at most the spare capacity of `buffer`.
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
            // A signal ends a poll early, but not the wait.
            if clock::mono() >= end {
                return Waited::TimeOut;
            }
        }
    }

    /// Writes all of `bytes`. The client must accept some of them every `limit`; zero means no
    /// limit.
    ///
    /// # Errors
    /// The client is gone or accepted nothing for too long.
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

    /// Writes as much of `bytes` as can be sent without waiting, for a thread that must not block.
    pub(super) fn write_at_once(&self, bytes: &[u8]) {
        // If it does not arrive, the client sees the connection end.
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

    /// The answer broke off, and the client must not take the end of the connection for its end.
    pub(super) fn tear(&self) {
        self.torn.store(true, Ordering::Relaxed);
    }

    /// Whether a read would not block: bytes, the end, or an error.
    pub(super) fn is_readable(&self) -> bool {
        poll_for(&mut [PollFd::new(&self.stream, PollFlags::IN)], Duration::ZERO)
    }

    /// Whether another request may follow; reset by the call.
    pub(super) fn take_kept(&self) -> bool {
        self.kept.swap(false, Ordering::Relaxed)
    }

    /// Closes the connection so that the client can read the last answer. Closing it with unread
    /// input would reset it, and the client would lose what has not arrived yet.
    pub(super) fn finish(&self) {
        if self.torn.load(Ordering::Relaxed) {
            // Closing now resets the connection.
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
            return;
        }
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
        if self.unread.load(Ordering::Relaxed) || self.is_readable() {
            self.drain();
        }
    }

    /// Shuts down both directions, which wakes every thread that waits for the socket.
    pub(super) fn shut(&self) {
        // It may be closed already.
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

/// The longest single `poll`, because a `Duration` cannot express "for ever".
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
