//! A look at our own descriptors: which of them are the server library's sockets, and whose.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::net::wait::poll_for;

/// A handle on ourselves, and the port whose clients are looked for.
pub(super) struct Looker {
    ourselves: OwnedFd,
    port: u16,
}

impl Looker {
    /// None where the kernel does not permit it.
    pub(super) fn open(port: u16) -> Option<Looker> {
        let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
        // A try on any descriptor tells.
        pidfd_getfd(&ourselves, ourselves.as_raw_fd(), PidfdGetfdFlags::empty()).ok()?;
        Some(Looker { ourselves, port })
    }

    /// A duplicate of `number` if it is the socket of `peer`.
    pub(super) fn duplicate_of(&self, number: RawFd, peer: SocketAddr) -> Option<OwnedFd> {
        pidfd_getfd(&self.ourselves, number, PidfdGetfdFlags::empty())
            .ok()
            .filter(|fd| is_peer(fd, peer))
    }

    /// Whether bytes wait in the socket of `peer` to be read.
    pub(super) fn has_unread(&self, number: RawFd, peer: SocketAddr) -> bool {
        self.duplicate_of(number, peer)
            .is_some_and(|fd| poll_for(&mut [PollFd::new(&fd, PollFlags::IN)], Duration::ZERO))
    }

    /// The socket of `peer`, looked for among numbers that are not `known` first: new connections have new ones.
    pub(super) fn find(&self, known: &HashSet<RawFd>, peer: SocketAddr) -> Found {
        let (old, new): (Vec<RawFd>, Vec<RawFd>) = own_numbers()
            .into_iter()
            .partition(|number| known.contains(number));
        let mut exhausted = old.is_empty() && new.is_empty();
        for number in new.into_iter().chain(old) {
            match pidfd_getfd(&self.ourselves, number, PidfdGetfdFlags::empty()) {
                Ok(fd) if is_peer(&fd, peer) => return Found::Socket(number, fd),
                Err(Errno::MFILE | Errno::NFILE) => exhausted = true,
                Ok(_) | Err(_) => {}
            }
        }
        if exhausted {
            Found::Unknown
        } else {
            Found::Nothing
        }
    }

    /// Shows every connection of a client: number, our address, its address, duplicate. False if no descriptor was left to look at
    /// one.
    pub(super) fn scan(
        &self,
        mut show: impl FnMut(RawFd, SocketAddr, SocketAddr, OwnedFd),
    ) -> bool {
        let numbers = own_numbers();
        let mut complete = !numbers.is_empty();
        for number in numbers {
            let fd = match pidfd_getfd(&self.ourselves, number, PidfdGetfdFlags::empty()) {
                Ok(fd) => fd,
                Err(error) => {
                    complete &= !matches!(error, Errno::MFILE | Errno::NFILE);
                    continue;
                }
            };
            let local = rustix::net::getsockname(&fd).ok();
            let local = local.and_then(|local| SocketAddr::try_from(local).ok());
            let peer = rustix::net::getpeername(&fd).ok().flatten();
            let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
            if let (Some(local), Some(peer)) = (local, peer)
                && local.port() == self.port
            {
                show(number, local, peer, fd);
            }
        }
        complete
    }
}

/// The numbers of our open descriptors.
fn own_numbers() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn is_peer(fd: &OwnedFd, peer: SocketAddr) -> bool {
    let found = rustix::net::getpeername(fd).ok().flatten();
    found.and_then(|found| SocketAddr::try_from(found).ok()) == Some(peer)
}

/// What a look for one peer's socket found.
pub(super) enum Found {
    /// Its number and a duplicate.
    Socket(RawFd, OwnedFd),
    /// It is not connected any more.
    Nothing,
    /// No descriptor was left to look with.
    Unknown,
}
