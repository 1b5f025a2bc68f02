//! The listening socket: its owner, the number of connections, and the hand-over.
//!
//! One thread accepts (`acceptor`), and each active connection has its own thread (`connection`);
//! `shared` and `registry` hold what they share. This file is the interface for the rest of the
//! program. Nothing here interprets a request: the handler is passed in.
//!
//! It replaces the library tiny_http, whose faults cannot be fixed from outside; README lists them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};
use std::thread;

use super::acceptor::Acceptor;
use super::connection::Inbound;
use super::head::{DoorRefusal, RequestHead};
use super::registry::{Bounds, Registry, lock};
use super::shared::{Mode, STACK_BYTES, Shared};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 1024;
/// Descriptors kept free for files, look-ups and idle upstream connections: this many, plus a
/// sixteenth of the limit.
const SPARE_DESCRIPTORS: usize = 10;
/// The server does not start with room for fewer connections and requests than this.
const ROOM_MIN: usize = 16;
/// Opens the listening socket.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    prepare(&listener)?;
    Ok(listener)
}

/// Prepares a socket from elsewhere for [`Listener::start`].
///
/// # Errors
/// Those of `listen(2)`.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    rustix::net::listen(listener, BACKLOG)?;
    listener.set_nonblocking(true)
}

/// The running listener.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// For [`Listener::stop_accepting`]; the acceptor has its own copy.
    socket: Mutex<Option<TcpListener>>,
}

impl Listener {
    /// Serves `socket`, prepared by [`bind`] or [`prepare`]. `handler` runs on the connection's
    /// thread for each head, including refused ones.
    ///
    /// # Errors
    /// No descriptor is left, or too few to serve with, or no thread can be started.
    /// No descriptor, too few of them to serve with, or no thread.
    pub(crate) fn start(
        socket: TcpListener,
        bounds: Bounds,
        handler: impl Fn(Result<RequestHead, DoorRefusal>, Inbound<'_>) + Send + Sync + 'static,
    ) -> io::Result<Listener> {
        let address = socket.local_addr()?;
        let accepting = socket.try_clone()?;
        let reserve = socket.try_clone()?;
        // The kernel assigns the lowest free number, so all below it are in use.
        let used = usize::try_from(reserve.as_raw_fd()).unwrap_or(0) + 1;
        let room = room(used)?.min(bounds.connections.saturating_mul(2));
        let (shared, woken) = Shared::new(Registry::new(bounds, room), Box::new(handler))?;
        let shared = Arc::new(shared);
        let acceptor = Acceptor::new(Arc::clone(&shared), accepting, woken, reserve);
        thread::Builder::new()
            .name("accept".into())
            .stack_size(STACK_BYTES)
            .spawn(move || acceptor.run())?;
        Ok(Listener { shared, address, socket: Mutex::new(Some(socket)) })
    }

    /// The address that clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of requests being served.
    pub(crate) fn busy(&self) -> usize {
        self.shared.registry.busy()
    }

    /// Whether every connection has ended.
    pub(crate) fn is_deserted(&self) -> bool {
        self.shared.registry.is_deserted()
    }

    /// Once this returns, no connections are accepted; the other process that has the socket
    /// accepts them, and the kernel queues new ones. Open connections are still served.
    pub(crate) fn pause(&self) {
        self.shared.order(Mode::Paused);
    }

    /// Accepts connections again after [`Listener::pause`].
    pub(crate) fn resume(&self) {
        self.shared.order(Mode::Open);
    }

    /// After [`Listener::pause`]: another process serves now. Closes the socket, and each
    /// connection once it is idle.
    pub(crate) fn retire(&self) {
        *lock(&self.socket) = None;
        self.shared.order(Mode::Retired);
    }

    /// Stops accepting, for every process that has the socket, and closes idle connections.
    /// Requests being served continue.
    pub(crate) fn stop_accepting(&self) {
        if let Some(socket) = lock(&self.socket).take() {
            // On Linux this refuses new connections for every copy of the socket; elsewhere they
            // are refused once the last copy is closed.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
        self.shared.order(Mode::Stopping);
    }

    /// Closes every connection at once.
    pub(crate) fn cut(&self) {
        self.shared.registry.cut();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.order(Mode::Over);
    }
}

/// How many connections and requests fit into this process's descriptors, of which `used` are
/// taken. A connection takes one, and a request being served another one for the upstream.
fn room(used: usize) -> io::Result<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let kept = used + SPARE_DESCRIPTORS;
    let room = limit.saturating_sub(kept + limit / 16);
    if room < ROOM_MIN {
        let least = (kept + ROOM_MIN) * 16 / 15 + 1;
        return Err(io::Error::other(format!(
            "this process may open only {limit} files; raise the limit to {least} or more (ulimit \
             -n)"
        )));
    }
    Ok(room)
}
