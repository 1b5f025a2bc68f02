//! The listening socket: who owns it, how many connections there may be, and how it is handed over.
//!
//! One thread accepts (`acceptor`); each connection with something to say has a thread of its own
//! (`connection`). This file holds what they share and what the rest of the program may ask for.
//! Nothing here knows a request's meaning: the handler is passed in.
//!
//! Why not the server library of the design card: its faults cannot be mended from outside. README
//! names them.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::acceptor::{Acceptor, Wake};
use super::client::ClientSocket;
use super::connection::{Connection, Inbound};
use super::door::DoorRefusal;
use super::head::RequestHead;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Stack of a connection's thread: the deepest path is a TLS handshake inside the HTTP client.
const STACK_BYTES: usize = 256 * 1024;
/// Threads without a connection that wait for one.
const IDLE_THREADS_MAX: usize = 64;
/// How long they wait.
const IDLE_THREAD_LIMIT: Duration = Duration::from_secs(10);
/// Threads that have a connection and no request. Beyond that, connections rest at once, so that a
/// crowd of silent ones costs no threads.
const LINGERING_MAX: usize = 128;
/// Descriptors that are left for files, look-ups and idle upstream connections: this many, and one
/// in sixteen of the limit.
const SPARE_DESCRIPTORS: usize = 10;
/// With room for fewer connections and requests than this the server does not start.
const ROOM_MIN: usize = 16;
/// How long the acceptor may take to follow an order.
const ORDER_LIMIT: Duration = Duration::from_secs(2);

/// Opens the listening socket.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    prepare(&listener)?;
    Ok(listener)
}

/// Makes a socket that came from elsewhere fit for [`Listener::start`].
///
/// # Errors
/// Those of `listen(2)`.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    rustix::net::listen(listener, BACKLOG)?;
    listener.set_nonblocking(true)
}

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// `proxy.maxConnections`.
    pub(crate) connections: usize,
    /// `timeouts.clientMs`: a client must take some of what was sent every so often. Zero: no limit.
    pub(crate) client: Duration,
    /// The whole answer to a connection for which there is no room.
    pub(crate) crowded: Vec<u8>,
}

type Handler = dyn Fn(Result<RequestHead, DoorRefusal>, Inbound<'_>) + Send + Sync;

/// What the acceptor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It accepts.
    Open,
    /// It leaves new connections to whoever else has the socket.
    Paused,
    /// Another process serves: idle connections are closed after a short while.
    Retired,
    /// The program stops: idle connections are closed at once.
    Stopping,
    /// It ends.
    Over,
}

/// An order and whether it is followed.
struct Orders {
    mode: Mode,
    followed: Mode,
}

/// What all threads of the listener share.
pub(super) struct Shared {
    pub(super) handler: Box<Handler>,
    pub(super) bounds: Bounds,
    pub(super) wake: Wake,
    /// Connections and requests that the process has room for.
    room: usize,
    orders: Mutex<Orders>,
    followed: Condvar,
    /// Connections that come back to rest.
    returning: Mutex<Vec<Connection>>,
    /// Every open connection, to be cut.
    open: Mutex<HashMap<u64, Weak<ClientSocket>>>,
    next_id: AtomicU64,
    busy: AtomicUsize,
    /// Threads that have a connection.
    occupied: AtomicUsize,
    idle_threads: AtomicUsize,
    /// Hands a connection to a thread that is waiting for one, never to a queue.
    to_idle: Sender<Connection>,
    from_acceptor: Receiver<Connection>,
}

/// The running listener.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// For [`Listener::stop_accepting`]; the acceptor has its own.
    socket: Mutex<Option<TcpListener>>,
}

impl Listener {
    /// Serves `socket`, which [`bind`] or [`prepare`] has made ready. `handler` runs on the
    /// connection's thread for each head, also for one that was refused.
    ///
    /// # Errors
    /// No descriptor, too few of them to serve with, or no thread.
    pub(crate) fn start(
        socket: TcpListener,
        bounds: Bounds,
        handler: impl Fn(Result<RequestHead, DoorRefusal>, Inbound<'_>) + Send + Sync + 'static,
    ) -> io::Result<Listener> {
        let address = socket.local_addr()?;
        let accepting = socket.try_clone()?;
        let (wake, woken) = Wake::new()?;
        let reserve = socket.try_clone()?;
        // The kernel gives the lowest free number, so all below it are in use.
        let used = usize::try_from(reserve.as_raw_fd()).unwrap_or(0) + 1;
        let room = room(used)?.min(bounds.connections.saturating_mul(2));
        let (to_idle, from_acceptor) = crossbeam_channel::bounded(0);
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            bounds,
            wake,
            room,
            orders: Mutex::new(Orders { mode: Mode::Open, followed: Mode::Open }),
            followed: Condvar::new(),
            returning: Mutex::default(),
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            occupied: AtomicUsize::new(0),
            idle_threads: AtomicUsize::new(0),
            to_idle,
            from_acceptor,
        });
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

    /// Requests being served.
    pub(crate) fn busy(&self) -> usize {
        self.shared.busy.load(Ordering::Acquire)
    }

    /// Whether every connection has ended.
    pub(crate) fn is_deserted(&self) -> bool {
        self.busy() == 0 && lock(&self.shared.open).is_empty()
    }

    /// Takes no more connections when this returns, and leaves them to whoever else has the socket:
    /// the kernel keeps those that come. Those that were taken are served on.
    pub(crate) fn pause(&self) {
        self.shared.order(Mode::Paused);
    }

    /// Takes connections again after [`Listener::pause`].
    pub(crate) fn resume(&self) {
        self.shared.order(Mode::Open);
    }

    /// After [`Listener::pause`]: another process serves now. The socket is let go, and connections
    /// are closed as they become idle.
    pub(crate) fn retire(&self) {
        *lock(&self.socket) = None;
        self.shared.order(Mode::Retired);
    }

    /// Stops accepting, for every process that has the socket, and ends idle connections. Requests
    /// that are being served go on.
    pub(crate) fn stop_accepting(&self) {
        if let Some(socket) = lock(&self.socket).take() {
            // On Linux this refuses new connections for every clone of the socket; elsewhere they
            // are refused once the last clone is closed.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
        self.shared.order(Mode::Stopping);
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        let open: Vec<_> = lock(&self.shared.open).values().filter_map(Weak::upgrade).collect();
        for socket in open {
            socket.shut();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.order(Mode::Over);
    }
}

/// Connections and requests that fit in the descriptors of this process, of which `used` are taken.
/// Each connection counts one, and each request in service another, for the upstream's.
fn room(used: usize) -> io::Result<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let kept = used + SPARE_DESCRIPTORS;
    let room = limit.saturating_sub(kept + limit / 16);
    if room < ROOM_MIN {
        let least = (kept + ROOM_MIN) * 16 / 15 + 1;
        return Err(io::Error::other(format!(
            "this process may open only {limit} files; raise that to {least} or more (ulimit -n)"
        )));
    }
    Ok(room)
}

impl Shared {
    /// Gives the acceptor an order and waits until it is followed.
    fn order(&self, mode: Mode) {
        let mut orders = lock(&self.orders);
        if orders.followed == Mode::Over {
            return;
        }
        orders.mode = mode;
        self.wake.ring();
        let is_pending = |orders: &mut Orders| orders.followed != orders.mode;
        let waited = self.followed.wait_timeout_while(orders, ORDER_LIMIT, is_pending);
        // An acceptor that is gone follows nothing, and accepts nothing.
        drop(waited);
    }

    /// The present order, which the acceptor follows from now on.
    pub(super) fn follow(&self) -> Mode {
        let mut orders = lock(&self.orders);
        if orders.followed != orders.mode {
            orders.followed = orders.mode;
            self.followed.notify_all();
        }
        orders.mode
    }

    /// Whether one more connection may be open.
    pub(super) fn has_room(&self) -> bool {
        let open = lock(&self.open).len();
        open < self.bounds.connections && open + self.busy.load(Ordering::Relaxed) < self.room
    }

    /// Registers a connection until the guard is dropped.
    pub(super) fn register(self: &Arc<Self>, socket: &Arc<ClientSocket>) -> Open {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(id, Arc::downgrade(socket));
        Open { shared: Arc::clone(self), id }
    }

    /// Counts a request in service until the guard is dropped.
    pub(super) fn begin_request(&self) -> Counted<'_> {
        Counted::up(&self.busy)
    }

    /// Whether one more thread may wait for its connection's next request.
    pub(super) fn may_linger(&self) -> bool {
        let occupied = self.occupied.load(Ordering::Relaxed);
        occupied.saturating_sub(self.busy.load(Ordering::Relaxed)) <= LINGERING_MAX
    }

    /// Connections that have come back since the last call.
    pub(super) fn take_returning(&self) -> Vec<Connection> {
        std::mem::take(&mut lock(&self.returning))
    }

    /// Gives a connection to a thread: one that is idle, else a new one.
    pub(super) fn dispatch(self: &Arc<Self>, connection: Connection) {
        // Counted here, not by the thread: it may take a while to start.
        self.occupied.fetch_add(1, Ordering::AcqRel);
        let connection = match self.to_idle.try_send(connection) {
            Ok(()) => return,
            Err(TrySendError::Full(connection) | TrySendError::Disconnected(connection)) => {
                connection
            }
        };
        let slot = Arc::new(Mutex::new(Some(connection)));
        let (shared, taken) = (Arc::clone(self), Arc::clone(&slot));
        let spawned = thread::Builder::new().name("connection".into()).stack_size(STACK_BYTES);
        let spawned = spawned.spawn(move || {
            let connection = lock(&taken).take();
            drop(taken);
            shared.serve_from(connection);
        });
        if spawned.is_err()
            && let Some(connection) = lock(&slot).take()
        {
            self.occupied.fetch_sub(1, Ordering::AcqRel);
            connection.socket().write_at_once(&self.bounds.crowded);
        }
    }

    /// The life of a connection thread: one connection after the other.
    fn serve_from(&self, mut next: Option<Connection>) {
        while let Some(connection) = next {
            let occupied = Counted(&self.occupied);
            if let Some(resting) = connection.run(self) {
                lock(&self.returning).push(resting);
                self.wake.ring();
            }
            drop(occupied);
            let idle = Counted::up(&self.idle_threads);
            if self.idle_threads.load(Ordering::Relaxed) > IDLE_THREADS_MAX {
                return;
            }
            next = self.from_acceptor.recv_timeout(IDLE_THREAD_LIMIT).ok();
            drop(idle);
        }
    }
}

/// The registration of an open connection.
pub(super) struct Open {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.shared.open).remove(&self.id);
    }
}

/// One more in a counter, until it is dropped.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl Counted<'_> {
    fn up(counter: &AtomicUsize) -> Counted<'_> {
        counter.fetch_add(1, Ordering::AcqRel);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
