//! The listening socket and the threads that serve it: the only file that knows the server library.
//!
//! The library (tiny_http 0.12) reads heads and hands requests over; it is small and dormant, and what it gets wrong is
//! guarded here, each guard with its reason:
//!
//! - a burst of connections can leave some waiting: [`keeper`] pokes it with connections that close at once;
//! - an accept error or a panic ends its accept loop: the server is built anew on a clone of the socket. The same error is how
//!   the loop is ended when another process takes over ([`Listener::pause`]): the library knows no other way that leaves the
//!   socket alone;
//! - it sets no limits on heads and idle connections: [`Sockets::sweep`] does;
//! - an unread body is read, and its whole length allocated, when a request is dropped: refused requests are answered past it
//!   and their connection is shut first.
//!
//! Workers are threads that take one request at a time; one that takes the last idle place starts another.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use tiny_http::Request;

use self::generation::Generation;
use self::keeper::Keeper;
use super::sockets::{ClientSocket, IDLE_LIMIT, Sockets};

pub(crate) use super::sockets::Answers;
use crate::clock;

mod generation;
mod keeper;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Workers' stacks: the deepest path is a TLS handshake inside the HTTP client.
const STACK_BYTES: usize = 256 * 1024;
/// Descriptors of clients' connections that the library can hang on before a restart is asked for.
const HUNG_MAX: usize = 64;
/// Connections by which the library is brought to take up everything that it has accepted, before it is told to stop.
const PAUSE_POKES: usize = 16;
/// Time that it is given for that.
const PAUSE_SETTLE: Duration = Duration::from_millis(10);
/// Time between two attempts to end the accept loop.
const PAUSE_LOOK: Duration = Duration::from_millis(2);
/// How long that is tried.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection of a process that has handed over is closed when it was idle this long: its client has surely read the answer, and
/// sends its next request, which ends the connection, long before.
const RETIRED_IDLE_MAX: Duration = Duration::from_secs(3);
/// Where clients' sockets cannot be seen, a process that has handed over ends after this long without a request.
const RETIRED_BLIND: Duration = Duration::from_secs(5);
/// Bytes of an unread body that are read for the sake of an orderly end; above, the connection is cut.
const UNREAD_BODY_MAX: usize = 1 << 30;
/// Size of one read of a body.
const READ_BYTES: usize = 256 * 1024;

/// Opens the listening socket with the options that accepted sockets inherit from it on Linux.
///
/// `send_timeout` is how long a client may take no byte of an answer.
///
/// # Errors
/// Those of `bind(2)`.
pub(crate) fn bind(address: SocketAddr, send_timeout: Duration) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    prepare(&listener, send_timeout)?;
    Ok(listener)
}

/// Sets the options of [`bind`] on a socket that came from elsewhere.
///
/// # Errors
/// Those of `setsockopt(2)` and `listen(2)`.
pub(crate) fn prepare(listener: &TcpListener, send_timeout: Duration) -> io::Result<()> {
    rustix::net::listen(listener, BACKLOG)?;
    sockopt::set_tcp_nodelay(listener, true)?;
    sockopt::set_socket_keepalive(listener, true)?;
    if !send_timeout.is_zero() {
        sockopt::set_socket_timeout(listener, sockopt::Timeout::Send, Some(send_timeout))?;
    }
    Ok(())
}

/// A request whose head has been read.
pub(crate) struct Inbound {
    request: Request,
    peer: SocketAddr,
    socket: Option<Arc<ClientSocket>>,
    sockets: Arc<Sockets<Request>>,
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than the limit.
    TooLarge,
    /// It ended early: the client left, sent bad framing, or stalled.
    Broken,
}

/// The way back to the client.
pub(crate) struct Outbound {
    writer: Option<Box<dyn Write + Send>>,
    peer: SocketAddr,
    socket: Option<Arc<ClientSocket>>,
    sockets: Arc<Sockets<Request>>,
    keep: bool,
}

impl Inbound {
    /// `GET`, `POST`, …
    pub(crate) fn method(&self) -> &str {
        self.request.method().as_str()
    }

    /// The request target as it came.
    pub(crate) fn target(&self) -> &str {
        self.request.url()
    }

    /// Major and minor version of HTTP.
    pub(crate) fn version(&self) -> (u8, u8) {
        (self.request.http_version().0, self.request.http_version().1)
    }

    /// The client's address.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer.ip()
    }

    /// Names and values in order.
    pub(crate) fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.request
            .headers()
            .iter()
            .map(|header| (header.field.as_str().as_str(), header.value.as_str()))
    }

    /// Whether the library has closed its reading side already, so that a client's hang-up looks the same.
    pub(crate) fn reading_side_closed(&self) -> bool {
        if self.version() == (1, 0) {
            return true;
        }
        self.headers().any(|(name, value)| {
            name.eq_ignore_ascii_case("connection") && {
                let value = value.to_ascii_lowercase();
                value.contains("close") || value.contains("upgrade")
            }
        })
    }

    /// Reads the whole body, at most `limit` bytes. Answers `Expect: 100-continue` first.
    pub(crate) fn read_body(
        &mut self,
        length: Option<u64>,
        limit: u64,
    ) -> Result<Vec<u8>, BodyError> {
        if length.is_some_and(|length| length > limit) {
            return Err(BodyError::TooLarge);
        }
        let expected = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let mut body = Vec::with_capacity(expected.unwrap_or(0).min(READ_BYTES));
        let socket = self.socket.clone();
        if let Some(socket) = &socket {
            socket.body_moved();
        }
        // Behind the end of such a request the library closes the reading side itself.
        let end_is_seen = !self.reading_side_closed();
        let reader = self.request.as_reader();
        let mut filled = 0;
        let result = loop {
            if expected.is_some_and(|expected| filled >= expected) {
                break Ok(());
            }
            // Room is made, and so filled with zeros, only once.
            if filled == body.len() {
                let left = expected.map_or(READ_BYTES, |expected| expected - filled);
                body.resize(filled + left.min(READ_BYTES), 0);
            }
            let read = reader.read(&mut body[filled..]);
            filled += read.as_ref().copied().unwrap_or(0);
            match read {
                // The library's decoder gives a connection that ends within a chunk as the end of the body.
                Ok(0)
                    if socket.as_ref().is_some_and(|socket| {
                        socket.has_stalled() || end_is_seen && socket.has_left()
                    }) =>
                {
                    break Err(BodyError::Broken);
                }
                Ok(0) if expected.is_none() => break Ok(()),
                Ok(0) => break Err(BodyError::Broken),
                Ok(_) if filled as u64 > limit => break Err(BodyError::TooLarge),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break Err(BodyError::Broken),
            }
            if let Some(socket) = &socket {
                socket.body_moved();
            }
        };
        if let Some(socket) = &socket {
            socket.body_done();
        }
        body.truncate(filled);
        result.map(|()| body)
    }

    /// Answers without reading the body, and ends the connection. `unread` is the body's length where it is known.
    pub(crate) fn refuse(self, answer: &[u8], unread: Option<u64>) {
        let Some(socket) = self.socket.clone() else {
            self.refuse_in_turn(answer);
            return;
        };
        self.sockets.end(self.peer);
        socket.answer_and_close(answer);
        if unread.is_some_and(|length| length > UNREAD_BODY_MAX as u64) {
            // Dropping it would allocate the announced length. The library's thread on this connection waits for ever.
            std::mem::forget(self.request);
            HUNG.fetch_add(1, Ordering::Relaxed);
        } else {
            drop(self.request.into_writer());
        }
    }

    /// The same without a socket of our own: through the library, which reads the rest of the body first.
    fn refuse_in_turn(self, answer: &[u8]) {
        let mut out = self.into_outbound();
        // The client may be gone: nothing is lost.
        let _ = out.write(answer);
    }

    /// Ends the reading part. The body must have been read.
    pub(crate) fn into_outbound(self) -> Outbound {
        let Inbound {
            request,
            peer,
            socket,
            sockets,
        } = self;
        Outbound {
            writer: Some(request.into_writer()),
            peer,
            socket,
            sockets,
            keep: false,
        }
    }
}

impl Outbound {
    /// Writes all of `bytes` and sends them at once.
    ///
    /// # Errors
    /// The client is gone, or took nothing for `timeouts.clientMs`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(writer) = self.writer.as_mut() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        writer.write_all(bytes)?;
        writer.flush()
    }

    /// The client's socket, where it can be looked at.
    pub(crate) fn socket(&self) -> Option<&Arc<ClientSocket>> {
        self.socket.as_ref()
    }

    /// The answer is complete and the connection may carry another request.
    pub(crate) fn keep_alive(mut self) {
        self.keep = true;
    }
}

impl Drop for Outbound {
    /// Without [`Outbound::keep_alive`] the connection ends: whatever was sent is not to be taken for a whole answer.
    fn drop(&mut self) {
        if self.keep {
            self.sockets.idle(self.peer);
            self.writer = None;
            return;
        }
        self.sockets.end(self.peer);
        let writer = self.writer.take();
        match &self.socket {
            Some(socket) => {
                // The client must get what was written; its reading side ends by our FIN.
                let _ = rustix::net::shutdown(socket.as_ref(), rustix::net::Shutdown::Both);
                drop(writer);
            }
            None => drop(writer),
        }
    }
}

/// Connections on which the library's thread hangs for ever.
static HUNG: AtomicUsize = AtomicUsize::new(0);

type Handler = dyn Fn(Inbound) + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    sockets: Arc<Sockets<Request>>,
    address: SocketAddr,
    keeping: Mutex<Keeping>,
    wake: Condvar,
    busy: AtomicUsize,
    workers: AtomicUsize,
    new_peers: AtomicBool,
    phrases: Phrases,
}

/// What the keeper and its owner agree on.
struct Keeping {
    door: Door,
    /// The socket, and a clone for a moment in which no descriptor is left to make one; none once it belongs to others only.
    socket: Option<Arc<TcpListener>>,
    spare: Option<TcpListener>,
    current: Arc<Generation>,
    /// A connection between two requests is closed after this long.
    idle_max: Duration,
    /// Connections that were open at the last sweep, and the number of sweeps.
    open: usize,
    sweeps: u64,
}

/// Whether connections are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    Shut,
    /// The keeper and the workers end.
    Over,
}

/// The running listener.
pub(crate) struct Listener {
    shared: Arc<Shared>,
}

/// Answers and requests of the listener itself, as bytes of the wire.
pub(crate) struct Phrases {
    pub(crate) answers: Answers,
    /// A request that every working server answers.
    pub(crate) probe: Vec<u8>,
}

impl Listener {
    /// Serves `socket`: `handler` runs on a worker thread for each request.
    ///
    /// # Errors
    /// The socket cannot be cloned, or no thread can be started.
    pub(crate) fn start(
        socket: TcpListener,
        phrases: Phrases,
        handler: impl Fn(Inbound) + Send + Sync + 'static,
    ) -> io::Result<Listener> {
        keeper::quiet_library_panics();
        let address = socket.local_addr()?;
        // Another process, or a supervisor, may have left it so.
        socket.set_nonblocking(false)?;
        let current = Generation::build(socket.try_clone()?)?;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            sockets: Arc::new(Sockets::new(address.port())),
            address,
            keeping: Mutex::new(Keeping {
                door: Door::Open,
                spare: socket.try_clone().ok(),
                socket: Some(Arc::new(socket)),
                current: Arc::clone(&current),
                idle_max: IDLE_LIMIT,
                open: 0,
                sweeps: 0,
            }),
            wake: Condvar::new(),
            busy: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            new_peers: AtomicBool::new(false),
            phrases,
        });
        current.staff(&shared)?;
        let keeper = Keeper::new(Arc::clone(&shared));
        thread::Builder::new()
            .name("keeper".into())
            .stack_size(STACK_BYTES)
            .spawn(move || keeper.run())?;
        Ok(Listener { shared })
    }

    /// The address that clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Whether clients that leave are noticed while their request waits.
    pub(crate) fn can_notice_clients(&self) -> bool {
        self.shared.sockets.can_look()
    }

    /// Requests being served.
    pub(crate) fn busy(&self) -> usize {
        self.shared.busy.load(Ordering::Acquire)
    }

    /// Connections that are lost to the library; above [`HUNG_MAX`] a restart is due.
    pub(crate) fn wants_restart() -> bool {
        HUNG.load(Ordering::Relaxed) > HUNG_MAX
    }

    /// Takes no more connections, and leaves them to whoever else has the socket: the kernel keeps those that come. Those that
    /// were taken are served on.
    ///
    /// The accept loop ends because its next `accept(2)` fails: the socket does not block for a moment, and a connection of our own wakes
    /// the call that is waiting.
    pub(crate) fn pause(&self) {
        let (socket, generation) = {
            let mut keeping = self.shared.lock();
            keeping.door = Door::Shut;
            (keeping.socket.clone(), Arc::clone(&keeping.current))
        };
        let Some(socket) = socket else { return };
        if generation.deaf.load(Ordering::Acquire) {
            return;
        }
        let address = keeper::reachable(self.shared.address);
        for _ in 0..PAUSE_POKES {
            keeper::knock(address);
        }
        thread::sleep(PAUSE_SETTLE);
        let watch = clock::Stopwatch::start();
        let _ = socket.set_nonblocking(true);
        while !generation.deaf.load(Ordering::Acquire) && watch.left_of(PAUSE_MAX).is_some() {
            keeper::knock(address);
            thread::sleep(PAUSE_LOOK);
        }
        let _ = socket.set_nonblocking(false);
    }

    /// Takes connections again after [`Listener::pause`].
    pub(crate) fn resume(&self) {
        self.shared.lock().door = Door::Open;
        self.shared.wake.notify_all();
    }

    /// After [`Listener::pause`]: another process serves now. The socket is let go, and connections are closed as they become idle.
    pub(crate) fn retire(&self) {
        let mut keeping = self.shared.lock();
        keeping.socket = None;
        keeping.spare = None;
        keeping.idle_max = RETIRED_IDLE_MAX;
        keeping.sweeps = 0;
    }

    /// After [`Listener::retire`], for `retired` now: whether every connection has ended.
    pub(crate) fn is_deserted(&self, retired: Duration) -> bool {
        if self.busy() > 0 {
            return false;
        }
        if !self.can_notice_clients() {
            return retired >= RETIRED_BLIND;
        }
        let keeping = self.shared.lock();
        // One that was accepted in the last moment is seen by the second look at the latest.
        keeping.sweeps >= 2 && keeping.open == 0
    }

    /// Stops accepting, for every process that has the socket, and ends idle connections. Requests that are being served go on.
    pub(crate) fn stop_accepting(&self) {
        let socket = {
            let mut keeping = self.shared.lock();
            keeping.door = Door::Shut;
            keeping.spare = None;
            keeping.socket.take()
        };
        if let Some(socket) = socket {
            // On Linux this ends a blocked accept(2) and refuses new connections, for every clone of the socket.
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        }
        self.close_idle();
    }

    /// Ends request bodies that have stalled; for the time in which the keeper is gone.
    pub(crate) fn end_stalled(&self) {
        let (sockets, phrases) = (&self.shared.sockets, &self.shared.phrases);
        sockets.sweep(&phrases.answers, IDLE_LIMIT);
    }

    /// Ends the connections that have become idle since.
    pub(crate) fn close_idle(&self) {
        self.shared.sockets.shut_idle(Duration::ZERO);
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.shared.sockets.shut_all();
    }
}

impl Drop for Listener {
    /// Ends the keeper and the workers that have nothing to do.
    fn drop(&mut self) {
        let mut keeping = self.shared.lock();
        keeping.door = Door::Over;
        keeping.socket = None;
        keeping.spare = None;
        keeping.current.dismiss();
        drop(keeping);
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
