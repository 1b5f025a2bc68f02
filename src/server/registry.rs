//! Every open connection and every request in service, and how many of them there may be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::client::ClientSocket;

/// Threads that have a connection and no request. Beyond that, connections rest at once, so that a
/// crowd of silent ones costs no threads.
const LINGERING_MAX: usize = 128;

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// `proxy.maxConnections`.
    pub(crate) connections: usize,
    /// `timeouts.clientMs`: a client must take some of what was sent every so often. Zero: no
    /// limit.
    pub(crate) client: Duration,
    /// The whole answer to a connection for which there is no room.
    pub(crate) crowded: Vec<u8>,
}

/// The connections and requests of a listener.
pub(super) struct Registry {
    pub(super) bounds: Bounds,
    /// Connections and requests that the process has room for.
    room: usize,
    /// Every open connection, to be cut.
    open: Mutex<HashMap<u64, Weak<ClientSocket>>>,
    next_id: AtomicU64,
    busy: AtomicUsize,
    /// Threads that have a connection.
    occupied: AtomicUsize,
}

impl Registry {
    pub(super) fn new(bounds: Bounds, room: usize) -> Registry {
        Registry {
            bounds,
            room,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            occupied: AtomicUsize::new(0),
        }
    }

    /// Requests being served.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Whether every connection has ended.
    pub(super) fn is_deserted(&self) -> bool {
        self.busy() == 0 && lock(&self.open).is_empty()
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
        Open { registry: Arc::clone(self), id }
    }

    /// Cuts every connection.
    pub(super) fn cut(&self) {
        let open: Vec<_> = lock(&self.open).values().filter_map(Weak::upgrade).collect();
        for socket in open {
            socket.shut();
        }
    }

    /// Counts a request in service until the guard is dropped.
    pub(super) fn begin_request(&self) -> Counted<'_> {
        Counted::up(&self.busy)
    }

    /// Counts a thread that is to serve a connection; [`Registry::occupied`] ends that.
    pub(super) fn occupy_thread(&self) {
        self.occupied.fetch_add(1, Ordering::AcqRel);
    }

    /// The count that [`Registry::occupy_thread`] began, until it is dropped. In two steps, since a
    /// thread that is to count itself may take a while to start.
    pub(super) fn occupied(&self) -> Counted<'_> {
        Counted(&self.occupied)
    }

    /// Whether one more thread may wait for its connection's next request.
    pub(super) fn may_linger(&self) -> bool {
        let occupied = self.occupied.load(Ordering::Relaxed);
        occupied.saturating_sub(self.busy.load(Ordering::Relaxed)) <= LINGERING_MAX
    }
}

/// The registration of an open connection.
pub(super) struct Open {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.registry.open).remove(&self.id);
    }
}

/// One more in a counter, until it is dropped.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl Counted<'_> {
    pub(super) fn up(counter: &AtomicUsize) -> Counted<'_> {
        counter.fetch_add(1, Ordering::AcqRel);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
