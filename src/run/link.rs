//! A worker's connection to its leader: orders in, reports out, and the worker's own signals, which
//! it passes to the leader.

use std::cell::Cell;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::host::restart::{Control, Order, Origin, Received, Report, Seat};
use crate::host::signals::{Signal, Signals};
use crate::platform::poll_for;

/// How often a waiting worker checks its surroundings.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// The connection to the leader.
pub(super) struct Link {
    pub(super) control: Control,
    /// Only for a worker with a process of its own.
    signals: Option<Signals>,
    /// The leader has ended, so this process has to act on what it would report.
    orphaned: Cell<bool>,
}

/// The result of a wait.
pub(super) enum Heard {
    Order(Order),
    /// The leader has ended.
    Gone,
    Nothing,
}

impl Link {
    pub(super) fn new(control: Control, signals: Option<Signals>) -> Link {
        Link { control, signals, orphaned: Cell::new(false) }
    }

    /// Whether this worker is a thread of the leader rather than a process.
    pub(super) fn is_thread(&self) -> bool {
        self.signals.is_none()
    }

    pub(super) fn report(&self, report: &Report) {
        self.tell(report, None);
    }

    pub(super) fn tell(&self, report: &Report, socket: Option<&TcpListener>) {
        // If the leader is gone, the next wait notices it.
        let _ = self.control.report(report, socket.map(|socket| socket.as_fd()));
    }

    pub(super) fn wait(&self, limit: Duration) -> Heard {
        self.listen(limit).0
    }

    fn listen(&self, limit: Duration) -> (Heard, Option<OwnedFd>) {
        let orphaned = self.orphaned.get();
        let mut fds = Vec::new();
        if !orphaned {
            fds.push(PollFd::new(&self.control, PollFlags::IN));
        }
        if let Some(signals) = &self.signals {
            fds.extend(signals.watched());
        }
        poll_for(&mut fds, limit);
        for signal in self.signals.iter().flat_map(Signals::arrived) {
            match signal {
                Signal::Terminate | Signal::Interrupt if orphaned => {
                    return (Heard::Order(Order::Cut), None);
                }
                Signal::Terminate | Signal::Interrupt => {
                    self.report(&Report::Quit(signal.name().to_owned()))
                }
                Signal::Restart => self.report(&Report::Restart),
                // A terminal sends it to the leader too.
                Signal::HangUp | Signal::Suspend => {}
            }
        }
        if orphaned {
            return (Heard::Nothing, None);
        }
        match self.control.next_order() {
            Received::Message(order, socket) => (Heard::Order(order), socket),
            Received::Nothing => (Heard::Nothing, None),
            Received::End => {
                self.orphaned.set(true);
                (Heard::Gone, None)
            }
        }
    }

    /// The first order; `None` if the worker should not start.
    pub(super) fn wait_start(&self) -> Option<Beginning> {
        loop {
            match self.listen(LOOK_EVERY) {
                (Heard::Order(Order::Start { origin, seat, note }), socket) => {
                    return Some(Beginning { origin, seat, note, socket });
                }
                (Heard::Gone | Heard::Order(Order::Drain(_) | Order::Cut), _) => return None,
                (Heard::Order(_) | Heard::Nothing, _) => {}
            }
        }
    }

    /// What the previous worker has learned, once this one may serve; `None` if it should not.
    pub(super) fn wait_go(&self) -> Option<String> {
        loop {
            match self.wait(LOOK_EVERY) {
                Heard::Order(Order::Go(learned)) => return Some(learned),
                Heard::Gone | Heard::Order(Order::Drain(_) | Order::Cut) => return None,
                Heard::Order(_) | Heard::Nothing => {}
            }
        }
    }
}

/// The content of the first order.
pub(super) struct Beginning {
    pub(super) origin: Origin,
    pub(super) seat: Seat,
    pub(super) note: String,
    pub(super) socket: Option<OwnedFd>,
}
