//! How long a worker waits for what, and for whom: the one wait of a request's life.
//!
//! Every wait watches the client's socket, so that a client who leaves is noticed at once (SPEC
//! P12), sends what has been collected for the client, and sends heartbeats when they are due (SPEC
//! Q4).

use std::cell::Cell;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::stream::Line;
use crate::account::SingleFlight;
use crate::clock;
use crate::event::Tracked;
use crate::net::wait::{Phase, Ready, Stop, Waiter, Wire};
use crate::platform::{Bell, PeerWait, poll_for, wait_with_peer};
use crate::scheduler::time::Mono;
use crate::server::ClientSocket;

/// The time-outs of one attempt (SPEC A2 `timeouts`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Look-up, connect and handshake together.
    pub(crate) connect: Duration,
    /// From the request's last byte to the end of the response head.
    pub(crate) head: Duration,
    /// Between two reads of the answer, and between two writes of the request.
    pub(crate) idle: Duration,
}

/// When heartbeats are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeats {
    /// The first one.
    pub(crate) first: Mono,
    /// Between two.
    pub(crate) every: Duration,
}

/// The waiter of one request.
pub(crate) struct ClientWait {
    line: Line,
    tracked: Rc<Tracked>,
    client: Option<Arc<ClientSocket>>,
    heartbeat: Cell<Option<Mono>>,
    heartbeat_every: Cell<Duration>,
    limits: Cell<Limits>,
    connect_end: Cell<Mono>,
    head_end: Cell<Option<Mono>>,
    head_done: Cell<bool>,
    look_ahead_end: Cell<Option<Mono>>,
    wire: Wire,
}

impl ClientWait {
    /// For the request whose answer goes to `line`.
    pub(crate) fn new(line: Line, tracked: Rc<Tracked>, limits: Limits) -> ClientWait {
        ClientWait {
            client: line.socket(),
            line,
            tracked,
            heartbeat: Cell::new(None),
            heartbeat_every: Cell::new(Duration::MAX),
            limits: Cell::new(limits),
            connect_end: Cell::new(Mono::MAX),
            head_end: Cell::new(None),
            head_done: Cell::new(false),
            look_ahead_end: Cell::new(None),
            wire: Wire::default(),
        }
    }

    /// Heartbeats are sent from `beats.first` on, or from when they were due already.
    pub(crate) fn beat(&self, beats: Heartbeats) {
        let first = self.heartbeat.get().map_or(beats.first, |due| due.min(beats.first));
        self.heartbeat.set(Some(first));
        self.heartbeat_every.set(beats.every);
    }

    /// A new attempt begins.
    pub(crate) fn begin_attempt(&self) {
        self.connect_end.set(clock::mono() + self.limits.get().connect);
        self.head_end.set(None);
        self.head_done.set(false);
        self.look_ahead_end.set(None);
        self.wire.reused.set(false);
        self.wire.connected.set(false);
        self.wire.sent.set(0);
        self.wire.received.set(0);
    }

    /// The response head is complete.
    pub(crate) fn head_is_done(&self) {
        self.head_done.set(true);
    }

    /// Reads stop with [`Stop::LookAheadOver`] once `limit` is over; `None` ends that.
    pub(crate) fn look_ahead(&self, limit: Option<Duration>) {
        self.look_ahead_end.set(limit.map(|limit| clock::mono() + limit));
    }

    /// Waits for a verdict's bell.
    pub(crate) fn wait_for(&self, bell: BorrowedFd<'_>) -> Result<(), Stop> {
        let mut fds = [PollFd::from_borrowed_fd(bell, PollFlags::IN)];
        self.wait(&mut fds, Phase::Queue, None).map(|_| ())
    }

    /// Waits for a token refresh that another thread does, at most for `limit`.
    pub(super) fn wait_for_refresh(
        &self,
        flight: &SingleFlight,
        limit: Duration,
    ) -> Result<(), Stop> {
        let Ok(bell) = Bell::new() else {
            // Without a descriptor nothing can wake this thread; the refresh is bounded in time.
            flight.wait(limit);
            return Ok(());
        };
        let bell = Arc::new(bell);
        let ringer = Arc::clone(&bell);
        flight.on_end(Box::new(move || ringer.ring()));
        let mut fds = [PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)];
        self.wait(&mut fds, Phase::Queue, Some(limit)).map(|_| ())
    }

    /// The status that the client has seen already.
    pub(crate) fn status_seen(&self) -> Option<u16> {
        self.line.status()
    }

    /// Where the present phase ends, and how.
    fn end_of(&self, phase: Phase, now: Mono) -> (Mono, Stop) {
        let limits = self.limits.get();
        let phase_end = match phase {
            Phase::Queue => return (Mono::MAX, Stop::HeadTimeout),
            Phase::Connect => (self.connect_end.get(), Stop::ConnectTimeout),
            Phase::Send => (now + limits.idle, Stop::SendTimeout),
            Phase::Receive if self.head_done.get() => (now + limits.idle, Stop::IdleTimeout),
            Phase::Receive => {
                let end = self.head_end.get().unwrap_or(now + limits.head);
                self.head_end.set(Some(end));
                (end, Stop::HeadTimeout)
            }
        };
        match self.look_ahead_end.get() {
            Some(end) if phase == Phase::Receive && end < phase_end.0 => (end, Stop::LookAheadOver),
            _ => phase_end,
        }
    }

    /// One `poll` over the connection's descriptors and the client's socket.
    fn poll(&self, fds: &mut [PollFd<'_>], limit: Duration) -> Result<Ready, Stop> {
        let Some(client) = &self.client else {
            return Ok(if poll_for(fds, limit) { Ready::Io } else { Ready::Pause });
        };
        match wait_with_peer(client.as_fd(), fds, limit) {
            PeerWait::Left => Err(Stop::ClientGone),
            PeerWait::Ready => Ok(Ready::Io),
            PeerWait::TimeOut => Ok(Ready::Pause),
        }
    }
}

impl Waiter for ClientWait {
    fn wait(
        &self,
        fds: &mut [PollFd<'_>],
        phase: Phase,
        pause: Option<Duration>,
    ) -> Result<Ready, Stop> {
        // The client gets what is there before anybody sleeps.
        self.line.flush().map_err(|_| Stop::ClientGone)?;
        if phase == Phase::Receive {
            self.tracked.awaits_answer();
        }
        let start = clock::mono();
        let (end, stop) = self.end_of(phase, start);
        let pause_end = pause.map(|pause| start + pause);
        loop {
            let now = clock::mono();
            if let Some(due) = self.heartbeat.get()
                && now >= due
            {
                self.line.heartbeat().map_err(|_| Stop::ClientGone)?;
                self.heartbeat.set(Some(now + self.heartbeat_every.get()));
            }
            let next = end
                .min(pause_end.unwrap_or(Mono::MAX))
                .min(self.heartbeat.get().unwrap_or(Mono::MAX));
            if self.poll(fds, next.since(now).min(LOOK_AGAIN))? == Ready::Io {
                return Ok(Ready::Io);
            }
            let now = clock::mono();
            if now >= end {
                return Err(stop);
            }
            if pause_end.is_some_and(|end| now >= end) {
                return Ok(Ready::Pause);
            }
        }
    }

    fn wire(&self) -> &Wire {
        &self.wire
    }
}

/// No single `poll` is longer: a guard against arithmetic, not a poll interval that anything relies
/// on.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
