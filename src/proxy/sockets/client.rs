//! A duplicate of one client's socket: who has left, who has stalled, and a last word past the server library.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::clock;
use crate::net::wait::poll_for;
use crate::scheduler::time::Mono;

/// A body must bring a byte this often (SPEC P2).
const BODY_STALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a refused client may still be reading our answer.
const LINGER_LIMIT: Duration = Duration::from_secs(2);
/// More than a socket can hold.
const UNREAD_MAX: usize = 16 << 20;
/// Quiet this long after our answer: the client has read it or never will.
pub(super) const LINGER_QUIET: Duration = Duration::from_millis(300);

/// A duplicate of one client's socket.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    fd: OwnedFd,
    /// Monotonic milliseconds of the last byte of a body that is being read; 0 while none is.
    body_progress: AtomicU64,
    /// The reading side was ended by us because the body brought nothing for too long.
    stalled: AtomicBool,
    /// Bodies that were read to their end.
    bodies: AtomicU32,
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl ClientSocket {
    pub(super) fn new(fd: OwnedFd) -> ClientSocket {
        ClientSocket {
            fd,
            body_progress: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            bodies: AtomicU32::new(0),
        }
    }

    /// A byte of the body has come, or its reading begins.
    pub(crate) fn body_moved(&self) {
        self.body_progress
            .store(clock::mono().0.max(1), Ordering::Relaxed);
    }

    /// The body is complete: its stall limit ends.
    pub(crate) fn body_done(&self) {
        // In this order: whoever sees that none is being read sees that this one was.
        self.bodies.fetch_add(1, Ordering::Relaxed);
        self.body_progress.store(0, Ordering::Release);
    }

    /// Bodies that were read to their end; none while one is being read.
    pub(super) fn bodies_read(&self) -> Option<u32> {
        let reading = self.body_progress.load(Ordering::Acquire) != 0;
        (!reading).then(|| self.bodies.load(Ordering::Relaxed))
    }

    /// A body that has brought nothing for too long ends for its reader as if the client had closed; the reader can still answer.
    pub(super) fn end_stalled_body(&self, now: Mono) {
        let since = self.body_progress.load(Ordering::Relaxed);
        if since != 0 && now.since(Mono(since)) >= BODY_STALL_LIMIT {
            self.stalled.store(true, Ordering::Relaxed);
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Read);
        }
    }

    /// True if its body was ended by us, so that its end proves nothing.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Ends both directions: wakes whoever is blocked on the socket.
    pub(crate) fn shut(&self) {
        // Already closed is as good as closed.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    /// True if the client has closed its side or reset the connection.
    pub(crate) fn has_left(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        poll_for(&mut fds, Duration::ZERO)
    }

    /// Sends a last answer past the server library, then ends the connection in a way that lets the client read it.
    pub(crate) fn answer_and_close(&self, answer: &[u8]) {
        let mut rest = answer;
        while !rest.is_empty() {
            let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
            if !poll_for(&mut fds, LINGER_LIMIT) {
                break;
            }
            match rustix::net::send(&self.fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => rest = &rest[count..],
                Err(_) => break,
            }
        }
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
        self.drain();
        self.shut();
    }

    /// Takes what has come from whoever else reads the socket.
    pub(super) fn take_all(&self) {
        let mut sink = [0; 16 * 1024];
        let mut taken = 0;
        while taken < UNREAD_MAX {
            match rustix::net::recv(&self.fd, &mut sink, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(_) => break,
                Ok((count, _)) => taken += count,
            }
        }
    }

    /// Reads and forgets what the client still sends: closing over unread bytes would reset the connection before the client
    /// has read the answer.
    fn drain(&self) {
        let end = clock::mono() + LINGER_LIMIT;
        let mut sink = [0; 16 * 1024];
        while clock::mono() < end {
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            if !poll_for(&mut fds, LINGER_QUIET) {
                break;
            }
            match rustix::net::recv(&self.fd, &mut sink, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}
