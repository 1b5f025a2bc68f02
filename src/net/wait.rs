//! The single wait of a request's thread: everything that may wake it while one of its connections
//! is not ready.
//!
//! The [`Waiter`] of the running request is a thread-local, because the HTTP client calls the
//! transport without a context.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::clock;
use crate::platform::poll_for;
use crate::scheduler::time::Mono;

/// What a connection is doing while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for an account.
    Queue,
    /// Name look-up, TCP, upstream proxy and TLS handshake.
    Connect,
    Send,
    /// Waiting for bytes of the answer.
    Receive,
}

/// How a wait ended normally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// One of the descriptors is ready.
    Io,
    /// The caller's own pause is over.
    Pause,
}

/// Why a wait must not continue. Passed through the HTTP client as an [`io::Error`] of kind
/// `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The downstream client has left.
    ClientGone,
    /// Look-up, connect and handshake took longer than `timeouts.connectMs`.
    ConnectTimeout,
    /// The upstream accepted no bytes of the request for too long.
    SendTimeout,
    /// No response head within `timeouts.headersMs`.
    HeadTimeout,
    /// No bytes of the answer arrived for `timeouts.idleMs`.
    IdleTimeout,
    /// The time to look for the first event is over (SPEC P6); the call can be read further.
    LookAheadOver,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::ClientGone => "the client has left",
            Stop::ConnectTimeout => "connecting took too long",
            Stop::SendTimeout => "the upstream stopped reading the request",
            Stop::HeadTimeout => "the upstream sent no answer in time",
            Stop::IdleTimeout => "the upstream fell silent in the middle of its answer",
            Stop::LookAheadOver => "the first event is not complete yet",
        })
    }
}

impl std::error::Error for Stop {}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> io::Error {
        io::Error::other(stop)
    }
}

impl Stop {
    /// The reason inside an error that came back through the HTTP client.
    pub(crate) fn of(error: &ureq::Error) -> Option<Stop> {
        match error {
            ureq::Error::Io(error) => Stop::of_io(error),
            _ => None,
        }
    }

    /// The reason inside an I/O error, also if the client wrapped it.
    pub(crate) fn of_io(error: &io::Error) -> Option<Stop> {
        let inner = error.get_ref()?;
        if let Some(stop) = inner.downcast_ref::<Stop>() {
            return Some(*stop);
        }
        match inner.downcast_ref::<ureq::Error>() {
            Some(error) => Stop::of(error),
            None => inner.downcast_ref::<io::Error>().and_then(Stop::of_io),
        }
    }
}

/// What the transport reports about the connection of the current call.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Size of the request's head, set by the caller so that the transport's output buffer can hold
    /// any line of it.
    pub(crate) head_bytes: Cell<usize>,
    /// Size of the request's head and body; 0 if unknown. A small request needs no large output
    /// buffer.
    pub(crate) request_bytes: Cell<usize>,
    /// The connection had served an earlier call.
    pub(crate) reused: Cell<bool>,
    /// TCP (and TLS) were established for this call.
    pub(crate) connected: Cell<bool>,
    /// Bytes of this call handed to the kernel.
    pub(crate) sent: Cell<u64>,
    /// Bytes received of this call's answer.
    pub(crate) received: Cell<u64>,
}

/// Decides how long a connection of this thread may wait, and what else ends the wait.
pub(crate) trait Waiter {
    /// Blocks until one of `fds` is ready or `pause` is over.
    fn wait(
        &self,
        fds: &mut [PollFd<'_>],
        phase: Phase,
        pause: Option<Duration>,
    ) -> Result<Ready, Stop>;

    /// Where the transport records its facts.
    fn wire(&self) -> &Wire;
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Waiter>>> = const { RefCell::new(None) };
}

/// Restores the thread's previous waiter when dropped.
pub(crate) struct Entered(Option<Rc<dyn Waiter>>);

impl Drop for Entered {
    fn drop(&mut self) {
        let earlier = self.0.take();
        CURRENT.with(|current| *current.borrow_mut() = earlier);
    }
}

/// Makes `waiter` decide for this thread's connections until the guard is dropped.
#[must_use]
pub(crate) fn enter(waiter: Rc<dyn Waiter>) -> Entered {
    Entered(CURRENT.with(|current| current.borrow_mut().replace(waiter)))
}

/// The thread's waiter; a plain time limit if none was installed.
pub(crate) fn current() -> Rc<dyn Waiter> {
    CURRENT
        .with(|current| current.borrow().clone())
        .unwrap_or_else(|| Rc::new(Deadline::after(UNENTERED_LIMIT)))
}

/// Total time for calls without a waiter of their own.
const UNENTERED_LIMIT: Duration = Duration::from_secs(30);

/// The waiter of calls that are not made for a client: one limit for everything.
#[derive(Debug)]
pub(crate) struct Deadline {
    end: Mono,
    wire: Wire,
}

impl Deadline {
    /// Stops every wait once `limit` from now is over.
    pub(crate) fn after(limit: Duration) -> Deadline {
        Deadline { end: clock::mono() + limit, wire: Wire::default() }
    }
}

impl Waiter for Deadline {
    fn wait(
        &self,
        fds: &mut [PollFd<'_>],
        phase: Phase,
        pause: Option<Duration>,
    ) -> Result<Ready, Stop> {
        let start = clock::mono();
        let left = self.end.since(start);
        let limit = pause.map_or(left, |pause| pause.min(left));
        let limit_end = start + limit;
        loop {
            let now = clock::mono();
            if poll_for(fds, limit_end.since(now)) {
                return Ok(Ready::Io);
            }
            // A signal ends a poll early, but not the wait.
            if clock::mono() >= limit_end {
                break;
            }
        }
        if pause.is_some_and(|pause| pause < left) {
            return Ok(Ready::Pause);
        }
        Err(match phase {
            Phase::Connect | Phase::Queue => Stop::ConnectTimeout,
            Phase::Send => Stop::SendTimeout,
            Phase::Receive if self.wire.received.get() == 0 => Stop::HeadTimeout,
            Phase::Receive => Stop::IdleTimeout,
        })
    }

    fn wire(&self) -> &Wire {
        &self.wire
    }
}

/// Waits for `fd` alone with the current waiter.
pub(crate) fn one(
    fd: rustix::fd::BorrowedFd<'_>,
    interest: PollFlags,
    phase: Phase,
) -> Result<(), Stop> {
    let mut fds = [PollFd::from_borrowed_fd(fd, interest)];
    current().wait(&mut fds, phase, None).map(|_| ())
}
