//! Signals as values: each writes a byte to its own pipe, which one thread reads.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR2};

use crate::platform::poll_for;

/// Requests to the process from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM: finish running requests, then end.
    Terminate,
    /// SIGINT: the same.
    Interrupt,
    /// SIGHUP: read the config again; on a terminal, end.
    HangUp,
    /// SIGUSR2: restart without losing a connection.
    Restart,
    /// SIGTSTP: stop until continued; only after [`Signals::take_suspend`].
    Suspend,
}

impl Signal {
    /// Its name in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
            Signal::HangUp => "SIGHUP",
            Signal::Restart => "SIGUSR2",
            Signal::Suspend => "SIGTSTP",
        }
    }
}

/// The pipes of all signals.
pub(crate) struct Signals {
    pipes: Vec<(Signal, UnixStream)>,
}

impl Signals {
    /// Takes over the signals of this process.
    ///
    /// # Errors
    /// No descriptors are left, or the system refuses.
    pub(crate) fn take() -> io::Result<Signals> {
        let wanted = [
            (Signal::Terminate, SIGTERM),
            (Signal::Interrupt, SIGINT),
            (Signal::HangUp, SIGHUP),
            (Signal::Restart, SIGUSR2),
        ];
        let mut pipes = Vec::with_capacity(wanted.len());
        for (signal, number) in wanted {
            pipes.push((signal, pipe_of(number)?));
        }
        Ok(Signals { pipes })
    }

    /// Also takes over job control, once. The caller then has to stop the process itself.
    pub(crate) fn take_suspend(&mut self) {
        let taken = self.pipes.iter().any(|(signal, _)| *signal == Signal::Suspend);
        // Without a descriptor the system stops the process by itself.
        if !taken && let Ok(pipe) = pipe_of(SIGTSTP) {
            self.pipes.push((Signal::Suspend, pipe));
        }
    }

    /// What to poll for signals.
    pub(crate) fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        let pipes = self.pipes.iter();
        pipes.map(|(_, pipe)| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN))
    }

    /// Signals that have arrived, at most one of each kind.
    pub(crate) fn arrived(&self) -> impl Iterator<Item = Signal> {
        self.pipes.iter().filter_map(|(signal, pipe)| {
            let mut reader: &UnixStream = pipe;
            // One byte per signal; the rest stays for the next call.
            reader.read_exact(&mut [0]).ok().map(|()| *signal)
        })
    }

    /// The next signal, or `None` after `limit`. Two of one kind at once may count as one.
    pub(crate) fn wait(&self, limit: Duration) -> Option<Signal> {
        let mut fds: Vec<PollFd<'_>> = self
            .pipes
            .iter()
            .map(|(_, pipe)| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN))
            .collect();
        if !poll_for(&mut fds, limit) {
            return None;
        }
        let ready = fds.iter().position(|fd| !fd.revents().is_empty())?;
        let (signal, pipe) = &self.pipes[ready];
        let mut reader: &UnixStream = pipe;
        // One byte per signal; the rest stays for the next call.
        reader.read_exact(&mut [0]).ok()?;
        Some(*signal)
    }
}

fn pipe_of(number: i32) -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(number, write)?;
    Ok(read)
}
