//! System calls that only Linux has, each with a replacement for other Unixes.
//!
//! These are `eventfd`, `POLLRDHUP`, socket flags at creation, `TCP_USER_TIMEOUT`, abstract socket
//! names, attributes of files, and a way to take over a descriptor by its number. Each stands here behind a function
//! with a second body for everyone else. Built with `--cfg portable`, Linux takes the second bodies
//! as well; that is how they are tested. What they cannot do is listed in the manual, "Other
//! Unixes".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};

#[cfg(all(target_os = "linux", not(portable)))]
use linux as system;
#[cfg(not(all(target_os = "linux", not(portable))))]
use other as system;

pub(crate) use system::{
    Bell, inherited_listener, notify_address, set_user_timeout, why_not_replaceable,
};

/// How [`wait_with_peer`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerWait {
    /// The peer closed the connection, or its half of it.
    Left,
    /// One of the descriptors is ready.
    Ready,
    /// Neither happened; the time may be over.
    TimeOut,
}

/// Calls `poll(2)` once on `fds` and returns whether one is ready before `limit` is over. A signal
/// ends it early.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], limit: Duration) -> bool {
    for fd in fds.iter_mut() {
        fd.clear_revents();
    }
    // A time too long for the type means no limit.
    let limit = Timespec::try_from(limit).ok();
    matches!(poll(fds, limit.as_ref()), Ok(count) if count > 0)
}

/// Calls `poll` once on `fds` and also returns when the peer of `socket` leaves. With several
/// descriptors, `revents` tells which are ready; for a single one it is left unchanged.
pub(crate) fn wait_with_peer(
    socket: BorrowedFd<'_>,
    fds: &mut [PollFd<'_>],
    limit: Duration,
) -> PeerWait {
    let wait = system::poll_with_peer(socket, fds, limit);
    if wait == PeerWait::Ready && fds.len() > 1 {
        poll_for(fds, Duration::ZERO);
    }
    wait
}

/// A non-blocking TCP socket with close-on-exec set.
///
/// # Errors
/// Those of `socket(2)`.
pub(crate) fn tcp_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = system::socket(family, SocketType::STREAM)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// A local datagram socket with close-on-exec set.
///
/// # Errors
/// Those of `socket(2)`.
pub(crate) fn local_datagram_socket() -> io::Result<OwnedFd> {
    system::socket(AddressFamily::UNIX, SocketType::DGRAM)
}

/// Sets close-on-exec on a descriptor that came from another process.
pub(crate) fn close_on_exec(fd: impl AsFd) {
    // Fails only for a closed descriptor.
    let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
}

#[cfg(all(target_os = "linux", not(portable)))]
mod linux {
    use std::os::fd::{AsRawFd as _, RawFd};

    use rustix::event::EventfdFlags;
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    use rustix::net::{SocketAddrUnix, SocketFlags, sockopt};
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    use super::*;

    pub(super) fn socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
        Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
    }

    /// Wakes one thread that waits in `poll`; once rung, it stays readable.
    #[derive(Debug)]
    pub(crate) struct Bell(OwnedFd);

    impl Bell {
        /// # Errors
        /// No descriptor is left.
        pub(crate) fn new() -> io::Result<Bell> {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            Ok(Bell(rustix::event::eventfd(0, flags)?))
        }

        pub(crate) fn ring(&self) {
            // If the counter is full, the descriptor is readable already.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }
    }

    impl AsFd for Bell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    pub(super) fn poll_with_peer(
        socket: BorrowedFd<'_>,
        fds: &[PollFd<'_>],
        limit: Duration,
    ) -> PeerWait {
        let peer = PollFd::from_borrowed_fd(socket, PollFlags::RDHUP);
        let (ready, left) = if let [only] = fds {
            let mut both = [peer, only.clone()];
            (poll_for(&mut both, limit), !both[0].revents().is_empty())
        } else {
            let mut all = vec![peer];
            all.extend(fds.iter().cloned());
            (poll_for(&mut all, limit), !all[0].revents().is_empty())
        };
        match (ready, left) {
            (_, true) => PeerWait::Left,
            (true, false) => PeerWait::Ready,
            (false, false) => PeerWait::TimeOut,
        }
    }

    /// The longest time that the kernel accepts, in milliseconds.
    const USER_TIMEOUT_MAX: u32 = i32::MAX.unsigned_abs();

    /// Makes the kernel close a connection whose peer acknowledges nothing for `limit`
    /// (`TCP_USER_TIMEOUT`, tcp(7)).
    ///
    /// # Errors
    /// Those of `setsockopt(2)`: the connection is dead already.
    pub(crate) fn set_user_timeout(socket: impl AsFd, limit: Duration) -> io::Result<()> {
        let millis = u32::try_from(limit.as_millis()).unwrap_or(USER_TIMEOUT_MAX);
        Ok(sockopt::set_tcp_user_timeout(socket, millis.min(USER_TIMEOUT_MAX))?)
    }

    /// The address in `NOTIFY_SOCKET`; a leading `@` marks an abstract name (sd_notify(3)).
    pub(crate) fn notify_address(name: &str) -> Option<SocketAddrUnix> {
        match name.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()).ok(),
            None => SocketAddrUnix::new(name).ok(),
        }
    }

    /// Why nothing can be renamed to this path, as far as the file itself tells; `None` too where
    /// the kernel cannot say.
    pub(crate) fn why_not_replaceable(path: &Path) -> Option<&'static str> {
        let (at, flags) = (AtFlags::empty(), StatxFlags::empty());
        let found = statx(rustix::fs::CWD, path, at, flags).ok()?;
        let attributes = found.stx_attributes & found.stx_attributes_mask;
        if attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Some("it is mounted on its own; mount its directory instead");
        }
        attributes
            .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND)
            .then_some("it is immutable or may only grow; see chattr(1)")
    }

    /// The listening socket that this process was started with as descriptor `number`: the system
    /// is asked for a duplicate as if we were another process, because a bare number owns nothing.
    ///
    /// # Errors
    /// Why it is not available, in words for a user.
    pub(crate) fn inherited_listener(number: RawFd) -> Result<OwnedFd, &'static str> {
        let refused = "the passed socket cannot be used here (pidfd_getfd is not permitted)";
        let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|_| refused)?;
        if ourselves.as_raw_fd() == number {
            return Err("no descriptor was passed");
        }
        let socket =
            pidfd_getfd(&ourselves, number, PidfdGetfdFlags::empty()).map_err(|_| refused)?;
        match sockopt::socket_acceptconn(&socket) {
            Ok(true) => Ok(socket),
            Ok(false) | Err(_) => Err("the passed descriptor is not a listening TCP socket"),
        }
    }
}

#[cfg(not(all(target_os = "linux", not(portable))))]
mod other {
    use std::os::fd::RawFd;

    use rustix::io::Errno;
    use rustix::net::{RecvFlags, SocketAddrUnix};

    use super::*;

    pub(super) fn socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
        let socket = rustix::net::socket(family, kind, None)?;
        close_on_exec(&socket);
        Ok(socket)
    }

    /// Wakes one thread that waits in `poll`; once rung, it stays readable.
    #[derive(Debug)]
    pub(crate) struct Bell {
        reader: io::PipeReader,
        writer: io::PipeWriter,
    }

    impl Bell {
        /// # Errors
        /// No descriptors are left.
        pub(crate) fn new() -> io::Result<Bell> {
            let (reader, writer) = io::pipe()?;
            rustix::io::ioctl_fionbio(&writer, true)?;
            Ok(Bell { reader, writer })
        }

        pub(crate) fn ring(&self) {
            // If the pipe is full, it is readable already.
            let _ = rustix::io::write(&self.writer, &[0]);
        }
    }

    impl AsFd for Bell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.reader.as_fd()
        }
    }

    /// How often to check on a peer that sent more than its request: `poll` would return at once
    /// because of those bytes.
    const LOOK_AGAIN: Duration = Duration::from_millis(250);

    pub(super) fn poll_with_peer(
        socket: BorrowedFd<'_>,
        fds: &[PollFd<'_>],
        limit: Duration,
    ) -> PeerWait {
        let asked = if has_bytes(socket) { PollFlags::empty() } else { PollFlags::IN };
        let limit = if asked.is_empty() { limit.min(LOOK_AGAIN) } else { limit };
        let mut all = vec![PollFd::from_borrowed_fd(socket, asked)];
        all.extend(fds.iter().cloned());
        let ready = poll_for(&mut all, limit);
        let of_peer = all[0].revents();
        if of_peer.intersects(PollFlags::HUP | PollFlags::ERR)
            || of_peer.contains(PollFlags::IN) && !has_bytes(socket)
        {
            return PeerWait::Left;
        }
        if ready && all[1..].iter().any(|fd| !fd.revents().is_empty()) {
            return PeerWait::Ready;
        }
        PeerWait::TimeOut
    }

    /// Whether bytes are waiting to be read. False at end of stream, on an error, and for an empty
    /// buffer.
    fn has_bytes(socket: BorrowedFd<'_>) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        loop {
            match rustix::net::recv(socket, &mut [0; 1][..], flags) {
                Ok((_, length)) => return length > 0,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Does nothing here; our own limit for slow clients still applies.
    ///
    /// # Errors
    /// None.
    pub(crate) fn set_user_timeout(_socket: impl AsFd, _limit: Duration) -> io::Result<()> {
        Ok(())
    }

    /// The address in `NOTIFY_SOCKET`; abstract names do not exist here.
    pub(crate) fn notify_address(name: &str) -> Option<SocketAddrUnix> {
        SocketAddrUnix::new(name).ok().filter(|_| !name.starts_with('@'))
    }

    /// Only the rename itself tells.
    pub(crate) fn why_not_replaceable(_: &Path) -> Option<&'static str> {
        None
    }

    /// # Errors
    /// Always.
    pub(crate) fn inherited_listener(_number: RawFd) -> Result<OwnedFd, &'static str> {
        Err("sockets can be passed on Linux only")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(10);

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_bell_wakes_a_wait_once_and_for_all() {
        let (_client, server) = connected();
        let bell = Bell::new().unwrap();
        let wait = |limit| {
            let mut fds = [PollFd::new(&bell, PollFlags::IN)];
            wait_with_peer(server.as_fd(), &mut fds, limit)
        };
        assert_eq!(wait(SOON), PeerWait::TimeOut);
        bell.ring();
        bell.ring();
        assert_eq!(wait(LATE), PeerWait::Ready);
        assert_eq!(wait(LATE), PeerWait::Ready);
    }

    #[test]
    fn a_peer_that_closes_or_half_closes_has_left() {
        for half in [true, false] {
            let (client, server) = connected();
            assert_eq!(wait_with_peer(server.as_fd(), &mut [], SOON), PeerWait::TimeOut);
            if half {
                client.shutdown(std::net::Shutdown::Write).unwrap();
            } else {
                drop(client);
            }
            assert_eq!(wait_with_peer(server.as_fd(), &mut [], LATE), PeerWait::Left);
        }
    }

    #[test]
    fn bytes_of_the_next_request_neither_wake_nor_mean_that_the_peer_left() {
        let (mut client, server) = connected();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let mut fds = [PollFd::new(&server, PollFlags::IN)];
        assert!(poll_for(&mut fds, LATE));
        assert_eq!(wait_with_peer(server.as_fd(), &mut [], SOON), PeerWait::TimeOut);
        let bell = Bell::new().unwrap();
        bell.ring();
        let mut fds = [PollFd::new(&bell, PollFlags::IN)];
        assert_eq!(wait_with_peer(server.as_fd(), &mut fds, LATE), PeerWait::Ready);
        let silent = Bell::new().unwrap();
        let mut fds = [PollFd::new(&silent, PollFlags::IN), PollFd::new(&bell, PollFlags::IN)];
        assert_eq!(wait_with_peer(server.as_fd(), &mut fds, LATE), PeerWait::Ready);
        assert_eq!(fds.map(|fd| fd.revents()), [PollFlags::empty(), PollFlags::IN]);
    }
}
