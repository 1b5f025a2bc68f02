//! All open connections and requests being served, and their limits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::client::ClientSocket;

/// Threads that may wait for the next request on a connection. Beyond this, connections become idle
/// at once, so that many silent ones take no threads.
const LINGERING_MAX: usize = 128;

/// The limits of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// `proxy.maxConnections`.
    pub(crate) connections: usize,
    /// `timeouts.clientMs`: how long a client may accept nothing of what was sent. Zero: no limit.
    pub(crate) client: Duration,
    /// The complete answer to a connection for which there is no room.
    pub(crate) crowded: Vec<u8>,
}

/// The connections and requests of a listener.
pub(super) struct Registry {
    pub(super) bounds: Bounds,
    /// Connections and requests for which the process has room.
    room: usize,
    /// Every open connection, so that all can be closed.
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

    /// Number of requests being served.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Whether every connection has ended.
    pub(super) fn is_deserted(&self) -> bool {
        self.busy() == 0 && lock(&self.open).is_empty()
    }

    /// Whether another connection may be opened.
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

    /// Closes every connection at once.
    pub(super) fn cut(&self) {
        let open: Vec<_> = lock(&self.open).values().filter_map(Weak::upgrade).collect();
        for socket in open {
            socket.shut();
        }
    }

    /// Counts a request as being served until the guard is dropped.
    pub(super) fn begin_request(&self) -> Counted<'_> {
        Counted::up(&self.busy)
    }

    /// Counts a thread that will serve a connection; [`Registry::occupied`] ends that.
    pub(super) fn occupy_thread(&self) {
        self.occupied.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the count of [`Registry::occupy_thread`] when dropped. There are two steps, because a
    /// new thread may take a while to start.
    pub(super) fn occupied(&self) -> Counted<'_> {
        Counted(&self.occupied)
    }

    /// Whether another thread may wait for the next request on its connection.
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

/// A counter that is one higher until this is dropped.
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
