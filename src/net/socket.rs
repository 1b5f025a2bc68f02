//! Raw sockets: connecting, sending and receiving, each wait through the thread's
//! [`Waiter`](super::wait::Waiter).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};
use ureq::Error;

use super::wait::{self, Phase, Ready, current};
use crate::platform;

/// Delay before the next address of a name is tried as well (recommended by RFC 8305).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Connects to the first address that answers; another one is added every [`NEXT_ADDRESS_AFTER`].
pub(super) fn connect_any(addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
    let mut rest = addresses.iter();
    let mut pending: Vec<OwnedFd> = Vec::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let next = rest.next();
        if let Some(address) = next {
            match start_connect(address) {
                Ok(socket) => pending.push(socket),
                Err(error) => {
                    last_error = error;
                    continue;
                }
            }
        }
        if pending.is_empty() {
            return Err(Error::Io(last_error));
        }
        let pause = (rest.len() > 0).then_some(NEXT_ADDRESS_AFTER);
        match wait_connected(&mut pending, pause)? {
            Some(Ok(socket)) => {
                let socket = TcpStream::from(socket);
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Some(Err(error)) => last_error = error,
            None => {}
        }
    }
}

/// Waits once for all attempts: returns a connected socket, the error of a failed attempt, or
/// nothing within `pause`.
fn wait_connected(
    pending: &mut Vec<OwnedFd>,
    pause: Option<Duration>,
) -> Result<Option<io::Result<OwnedFd>>, Error> {
    let done = {
        let mut fds: Vec<PollFd<'_>> =
            pending.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)).collect();
        if current().wait(&mut fds, Phase::Connect, pause).map_err(io::Error::from)? == Ready::Pause
        {
            return Ok(None);
        }
        // With a single descriptor a waiter need not set `revents`.
        if fds.len() == 1 { Some(0) } else { fds.iter().position(|fd| !fd.revents().is_empty()) }
    };
    let Some(done) = done else { return Ok(None) };
    let socket = pending.swap_remove(done);
    match sockopt::socket_error(&socket) {
        Ok(Ok(())) => Ok(Some(Ok(socket))),
        Ok(Err(errno)) | Err(errno) => Ok(Some(Err(errno.into()))),
    }
}

fn start_connect(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = platform::tcp_socket(family)?;
    // Detects dead peers even while nothing is being sent.
    sockopt::set_socket_keepalive(&socket, true)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

pub(super) fn send_all(mut socket: &TcpStream, mut bytes: &[u8], phase: Phase) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait::one(socket.as_fd(), PollFlags::OUT, phase)?
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(as_failure(error)),
        }
    }
    Ok(())
}

pub(super) fn receive(
    mut socket: &TcpStream,
    buffer: &mut [u8],
    phase: Phase,
) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait::one(socket.as_fd(), PollFlags::IN, phase)?
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(as_failure(error)),
        }
    }
}

/// Turns a reset or an abort into an error that the client does not mistake for the end of the
/// body.
pub(super) fn as_failure(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::UnexpectedEof => io::Error::other(Broken(error.to_string())),
        _ => error,
    }
}

/// The upstream closed the connection in the middle of something.
#[derive(Debug)]
pub(crate) struct Broken(pub(super) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}
