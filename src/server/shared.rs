//! What the listener, the acceptor and the connection threads share: modes of the acceptor,
//! threads, and the return of connections that become idle.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::connection::{Connection, Handler};
use super::registry::{Counted, Registry, lock};

/// Stack of a connection thread: the deepest path is a TLS handshake inside the HTTP client.
pub(super) const STACK_BYTES: usize = 256 * 1024;
/// Threads without a connection that wait for one.
const IDLE_THREADS_MAX: usize = 64;
/// How long such a thread waits.
const IDLE_THREAD_LIMIT: Duration = Duration::from_secs(10);
/// How long the acceptor may take to change its mode.
const ORDER_LIMIT: Duration = Duration::from_secs(2);

/// What the acceptor has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Accept connections.
    Open,
    /// Leave new connections to the other process that has the socket.
    Paused,
    /// Another process serves: close connections soon after they become idle.
    Retired,
    /// The program stops: close idle connections at once.
    Stopping,
    /// End.
    Over,
}

/// The mode, and whether the acceptor has adopted it.
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
    /// Connections that have become idle.
    returning: Mutex<Vec<Connection>>,
    idle_threads: AtomicUsize,
    /// Passes a connection to a waiting thread; without one the send fails.
    to_idle: Sender<Connection>,
    from_acceptor: Receiver<Connection>,
}

impl Shared {
    /// Also returns the pipe that the acceptor polls and passes to [`Shared::is_woken`].
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

    /// Sets the acceptor's mode and waits until it is adopted.
    pub(super) fn order(&self, mode: Mode) {
        let mut orders = lock(&self.orders);
        if orders.followed == Mode::Over {
            return;
        }
        orders.mode = mode;
        self.wake();
        let is_pending = |orders: &mut Orders| orders.followed != orders.mode;
        let waited = self.followed.wait_timeout_while(orders, ORDER_LIMIT, is_pending);
        // If the acceptor has ended, it adopts nothing and accepts nothing.
        drop(waited);
    }

    /// The current mode, which the acceptor adopts with this call.
    pub(super) fn follow(&self) -> Mode {
        let mut orders = lock(&self.orders);
        if orders.followed != orders.mode {
            orders.followed = orders.mode;
            self.followed.notify_all();
        }
        orders.mode
    }

    /// Ends the acceptor's current wait, or its next one.
    fn wake(&self) {
        if !self.wake.rung.swap(true, Ordering::AcqRel) {
            // A full pipe wakes it too.
            let _ = (&self.wake.writer).write(&[0]);
        }
    }

    /// Called when the acceptor is awake.
    pub(super) fn is_woken(&self, mut woken: &PipeReader) {
        // In this order, so that a later wake-up is seen in the next round.
        let _ = woken.read(&mut [0; 64]);
        self.wake.rung.store(false, Ordering::Release);
    }

    /// Connections that have become idle since the last call.
    pub(super) fn take_returning(&self) -> Vec<Connection> {
        std::mem::take(&mut lock(&self.returning))
    }

    /// Passes a connection to an idle thread, or to a new one.
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

    /// The loop of a connection thread: one connection after another.
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
