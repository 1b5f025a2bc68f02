//! The accept thread: it accepts new connections and watches those that rest without a thread.
//!
//! One `poll` waits for the listening socket, for every resting connection and for a wake-up by the
//! other threads. 10,000 idle connections cost their descriptors and a slower poll, not threads.
//!
//! No error of `accept(2)` ends the loop. If there is no room, the most expendable resting
//! connection is closed; if there is none, the new connection is refused with an answer, for which
//! one descriptor is held in reserve.

use std::io::{self, PipeReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::client::ClientSocket;
use super::connection::Connection;
use super::shared::{Mode, Shared};
use crate::clock;
use crate::platform::poll_for;
use crate::scheduler::time::Mono;

/// A connection between two requests is closed after this long.
const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// The same after a hand-over: the client has read its last answer, and the next request, after
/// which the connection ends, would have come long ago.
const RETIRED_IDLE_LIMIT: Duration = Duration::from_secs(3);
/// New connections accepted before the idle ones are polled again.
const ACCEPTS_AT_ONCE: usize = 256;
/// How long accepting pauses after an error that does not concern a single connection.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Whether to accept another connection at once.
enum Accepted {
    More,
    NoMore,
}

/// The accept thread's state.
pub(super) struct Acceptor {
    shared: Arc<Shared>,
    socket: Option<TcpListener>,
    woken: PipeReader,
    /// Closed for a moment when no descriptor is left.
    reserve: Option<TcpListener>,
    resting: Vec<Connection>,
    /// Accepting is paused until then.
    accept_from: Mono,
}

impl Acceptor {
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: TcpListener,
        woken: PipeReader,
        reserve: TcpListener,
    ) -> Acceptor {
        Acceptor {
            shared,
            socket: Some(socket),
            woken,
            reserve: Some(reserve),
            resting: Vec::new(),
            accept_from: Mono(0),
        }
    }

    /// Runs until [`Mode::Over`].
    pub(super) fn run(mut self) {
        loop {
            let mode = self.shared.follow();
            let idle_limit = match mode {
                Mode::Open | Mode::Paused => IDLE_LIMIT,
                Mode::Retired => RETIRED_IDLE_LIMIT,
                Mode::Stopping => Duration::ZERO,
                Mode::Over => return,
            };
            if matches!(mode, Mode::Retired | Mode::Stopping) {
                self.socket = None;
                self.reserve = None;
            }
            let accepts = mode == Mode::Open && clock::mono() >= self.accept_from;
            let newcomers = self.wait(accepts, idle_limit);
            self.resting.extend(self.shared.take_returning());
            self.close_idle(idle_limit);
            if newcomers {
                self.accept();
            }
        }
    }

    /// Waits once for everything. Idle connections with something to read go to threads; returns
    /// true if there are new connections.
    fn wait(&mut self, accepts: bool, idle_limit: Duration) -> bool {
        let now = clock::mono();
        let paused = (self.accept_from > now).then_some(self.accept_from);
        let ends = self.resting.iter().map(|resting| resting.rests_until(idle_limit));
        let next = ends.chain(paused).min();
        let limit = next.map_or(LOOK_AGAIN, |next| next.since(now).min(LOOK_AGAIN));
        let mut fds = Vec::with_capacity(self.resting.len() + 2);
        fds.push(PollFd::new(&self.woken, PollFlags::IN));
        fds.extend(
            self.resting
                .iter()
                .map(|resting| PollFd::from_borrowed_fd(resting.socket().as_fd(), PollFlags::IN)),
        );
        let listening = self.socket.as_ref().filter(|_| accepts);
        fds.extend(listening.map(|socket| PollFd::new(socket, PollFlags::IN)));
        // Rounded up, so that the deadline has passed when it is checked.
        if !poll_for(&mut fds, limit + Duration::from_millis(1)) {
            return false;
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let is_woken = is_ready(&fds[0]);
        let newcomers = fds.len() > self.resting.len() + 1 && fds.last().is_some_and(is_ready);
        let ready: Vec<usize> =
            (0..self.resting.len()).filter(|&at| is_ready(&fds[at + 1])).collect();
        drop(fds);
        if is_woken {
            self.shared.is_woken(&self.woken);
        }
        for at in ready.into_iter().rev() {
            let connection = self.resting.swap_remove(at);
            self.shared.dispatch(connection);
        }
        newcomers
    }

    /// Closes connections that have been idle too long. If a head has begun, a thread answers that
    /// it was too slow. Data that arrived since the last wait is still served, also when a
    /// hand-over ends hundreds of connections at once.
    fn close_idle(&mut self, idle_limit: Duration) {
        let now = clock::mono();
        let over = |resting: &mut Connection| resting.rests_until(idle_limit) <= now;
        for connection in self.resting.extract_if(.., over) {
            if connection.is_in_head() || connection.socket().is_readable() {
                self.shared.dispatch(connection);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_AT_ONCE {
            let Some(socket) = &self.socket else { return };
            let accepted = match socket.accept() {
                Ok((stream, peer)) => {
                    self.welcome(stream, peer);
                    Accepted::More
                }
                Err(error) => self.failed(&error),
            };
            if matches!(accepted, Accepted::NoMore) {
                return;
            }
        }
    }

    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Ok(socket) = ClientSocket::new(stream, peer, self.shared.registry.bounds.client) else {
            return;
        };
        while !self.shared.registry.has_room() {
            if !self.give_one_up() {
                socket.write_at_once(&self.shared.registry.bounds.crowded);
                return;
            }
        }
        let socket = Arc::new(socket);
        let connection =
            Connection::new(Arc::clone(&socket), self.shared.registry.register(&socket));
        if self.shared.registry.may_linger() {
            self.shared.dispatch(connection);
        } else {
            self.resting.push(connection);
        }
    }

    /// Closes the most expendable idle connection.
    fn give_one_up(&mut self) -> bool {
        self.resting.extend(self.shared.take_returning());
        let least = (0..self.resting.len()).min_by_key(|&at| self.resting[at].expendability());
        least.map(|at| self.resting.swap_remove(at)).is_some()
    }

    fn failed(&mut self, error: &io::Error) -> Accepted {
        use rustix::io::Errno;
        match Errno::from_io_error(error) {
            Some(Errno::AGAIN) => Accepted::NoMore,
            // The connection ended before it was accepted.
            Some(Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => Accepted::More,
            Some(Errno::MFILE | Errno::NFILE) if self.give_one_up() => Accepted::More,
            Some(Errno::MFILE | Errno::NFILE) if self.reserve.is_some() => {
                self.turn_away();
                self.pause()
            }
            _ => self.pause(),
        }
    }

    fn pause(&mut self) -> Accepted {
        self.accept_from = clock::mono() + ERROR_PAUSE;
        Accepted::NoMore
    }

    /// Answers one new connection with the reserved descriptor.
    fn turn_away(&mut self) {
        self.reserve = None;
        let Some(socket) = &self.socket else { return };
        if let Ok((mut stream, _)) = socket.accept() {
            let _ = stream.set_nonblocking(true);
            let _ = stream.write(&self.shared.registry.bounds.crowded);
        }
        self.reserve = socket.try_clone().ok();
    }
}

/// The longest single `poll`; nothing relies on it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
