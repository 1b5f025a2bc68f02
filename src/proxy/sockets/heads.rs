//! Heads that never end, and the end of connections that bring them.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{SendFlags, Shutdown};

use super::Answers;
use super::client::{ClientSocket, LINGER_QUIET};
use super::look::Looker;
use crate::clock;
use crate::net::wait::poll_for;
use crate::scheduler::time::Mono;

/// A head that has grown within this time is still being read.
const TRICKLE: Duration = Duration::from_secs(3);

/// What is known of the reading of a connection's next head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// What had been read of the connection when this head could begin, as far as a look has told.
    from: Option<u64>,
    /// Bodies that had been read then.
    bodies: u32,
    /// What had been read at the last look, and when that last was more than before.
    taken: u64,
    moved: Mono,
    /// How often a head could begin.
    round: u32,
}

impl Reading {
    /// That of a new connection.
    pub(super) fn first() -> Reading {
        Reading {
            from: Some(0),
            bodies: 0,
            taken: 0,
            moved: Mono(0),
            round: 0,
        }
    }

    /// A head may begin: whatever was read before is no part of it.
    pub(super) fn begins(&mut self) {
        self.from = None;
        self.round = self.round.wrapping_add(1);
    }

    /// Tells this head from those before it.
    pub(super) fn round(&self) -> u32 {
        self.round
    }

    /// `taken` bytes of the connection have been read, with them `bodies` whole bodies. Gives the bytes of the head.
    pub(super) fn look(&mut self, taken: u64, bodies: u32, now: Mono) -> u64 {
        if bodies != self.bodies {
            self.bodies = bodies;
            self.from = None;
        }
        if taken != self.taken {
            self.taken = taken;
            self.moved = now;
        }
        taken.saturating_sub(*self.from.get_or_insert(taken))
    }

    /// Whether it has grown lately.
    pub(super) fn moves(&self, now: Mono) -> bool {
        now.since(self.moved) < TRICKLE
    }
}

/// A connection whose head never came whole, and that is being ended.
pub(super) struct EndingHead<'a> {
    socket: ClientSocket,
    number: RawFd,
    peer: SocketAddr,
    read: Option<&'a [u8]>,
}

impl<'a> EndingHead<'a> {
    /// Nothing more is read from now on. `read` is the answer if the library's thread is known to read on: it closes at once when it
    /// finds the end, so that nothing can be said later. None if no descriptor is left to do it with.
    pub(super) fn begin(
        looker: &Looker,
        number: RawFd,
        peer: SocketAddr,
        read: Option<&'a [u8]>,
    ) -> Option<EndingHead<'a>> {
        let socket = ClientSocket::new(looker.duplicate_of(number, peer)?);
        if let Some(answer) = read {
            // A new connection takes it without waiting; one that does not has not earned it.
            let _ = rustix::net::send(&socket, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        // A thread that still reads the head sees the end of it, gives up and closes its descriptor; one that hangs does not.
        let _ = rustix::net::shutdown(&socket, Shutdown::Read);
        socket.take_all();
        Some(EndingHead {
            socket,
            number,
            peer,
            read,
        })
    }
}

/// Gives the library's threads a moment, which is one for all, and ends the connections. Gives the number of those that hang.
pub(super) fn end(looker: &Looker, ending: &[EndingHead<'_>], answers: &Answers) -> usize {
    let limit = clock::mono() + LINGER_QUIET;
    let mut hung = 0;
    for head in ending {
        // Both directions are shut when the library closes, which is always told.
        let mut fds = [PollFd::new(&head.socket, PollFlags::PRI)];
        poll_for(&mut fds, limit.since(clock::mono()));
        let hangs = looker.duplicate_of(head.number, head.peer).is_some();
        hung += usize::from(hangs);
        let rest = match head.read {
            Some(_) => &[],
            None if hangs => &*answers.unsupported,
            None => &*answers.too_slow,
        };
        head.socket.answer_and_close(rest);
    }
    hung
}
