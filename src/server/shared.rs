//! What the listener, the acceptor and the connections' threads share: orders to the acceptor, the
//! threads, and the way back of connections that come to rest.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::connection::{Connection, Handler};
use super::registry::{Counted, Registry, lock};

/// Stack of a connection's thread: the deepest path is a TLS handshake inside the HTTP client.
pub(super) const STACK_BYTES: usize = 256 * 1024;
/// Threads without a connection that wait for one.
const IDLE_THREADS_MAX: usize = 64;
/// How long they wait.
const IDLE_THREAD_LIMIT: Duration = Duration::from_secs(10);
/// How long the acceptor may take to follow an order.
const ORDER_LIMIT: Duration = Duration::from_secs(2);

/// What the acceptor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It accepts.
    Open,
    /// It leaves new connections to the other process that has the socket.
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

/// Wakes the acceptor.
struct Wake {
    writer: PipeWriter,
    rung: AtomicBool,
}

/// What all threads of the listener share.
pub(super) struct Shared {
    pub(super) registry: Arc<Registry>,
    handler: Box<Handler>,
    wake: Wake,
    orders: Mutex<Orders>,
    followed: Condvar,
    /// Connections that come back to rest.
    returning: Mutex<Vec<Connection>>,
    idle_threads: AtomicUsize,
    /// Hands a connection to a thread that is waiting for one, never to a queue.
    to_idle: Sender<Connection>,
    from_acceptor: Receiver<Connection>,
}

impl Shared {
    /// Also gives what the acceptor has to poll, and to pass to [`Shared::is_woken`].
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(
        registry: Registry,
        handler: Box<Handler>,
    ) -> io::Result<(Shared, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        let (to_idle, from_acceptor) = crossbeam_channel::bounded(0);
        let shared = Shared {
            registry: Arc::new(registry),
            handler,
            wake: Wake { writer, rung: AtomicBool::new(false) },
            orders: Mutex::new(Orders { mode: Mode::Open, followed: Mode::Open }),
            followed: Condvar::new(),
            returning: Mutex::default(),
            idle_threads: AtomicUsize::new(0),
            to_idle,
            from_acceptor,
        };
        Ok((shared, reader))
    }

    /// Gives the acceptor an order and waits until it is followed.
    pub(super) fn order(&self, mode: Mode) {
        let mut orders = lock(&self.orders);
        if orders.followed == Mode::Over {
            return;
        }
        orders.mode = mode;
        self.wake();
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

    /// Ends the acceptor's present wait, or its next one.
    fn wake(&self) {
        if !self.wake.rung.swap(true, Ordering::AcqRel) {
            // A full pipe wakes as well.
            let _ = (&self.wake.writer).write(&[0]);
        }
    }

    /// The acceptor is awake.
    pub(super) fn is_woken(&self, mut woken: &PipeReader) {
        // In this order: whoever wakes after this is seen in the next round.
        let _ = woken.read(&mut [0; 64]);
        self.wake.rung.store(false, Ordering::Release);
    }

    /// Connections that have come back since the last call.
    pub(super) fn take_returning(&self) -> Vec<Connection> {
        std::mem::take(&mut lock(&self.returning))
    }

    /// Gives a connection to a thread: one that is idle, else a new one.
    pub(super) fn dispatch(self: &Arc<Self>, connection: Connection) {
        self.registry.occupy_thread();
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
            drop(self.registry.occupied());
            connection.socket().write_at_once(&self.registry.bounds.crowded);
        }
    }

    /// The life of a connection thread: one connection after the other.
    fn serve_from(&self, mut next: Option<Connection>) {
        while let Some(connection) = next {
            let occupied = self.registry.occupied();
            if let Some(resting) = connection.run(&self.registry, &*self.handler) {
                lock(&self.returning).push(resting);
                self.wake();
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
