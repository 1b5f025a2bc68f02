//! One instance of the server library, and the workers that take requests from it.
//!
//! There is one at a time that takes connections. A former one whose accept loop has ended serves those that it has, until the
//! keeper finds that the last is gone.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tiny_http::{Request, Server};

use super::{Inbound, STACK_BYTES, Shared};
use crate::proxy::sockets::{Acquaintance, Begun, LinedUp};

/// Idle workers that stay.
const IDLE_WORKERS_MIN: usize = 2;
/// Threads that serve requests, all together; the kernel's backlog holds what is beyond.
const WORKERS_MAX: usize = 4096;
/// How long an idle worker waits before it looks whether it is still needed.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);

/// A server of the library.
pub(super) struct Generation {
    server: Server,
    /// True while a worker waits for the next request.
    turn: Mutex<bool>,
    /// The turn is free.
    next: Condvar,
    idle: AtomicUsize,
    /// Its accept loop has ended.
    pub(super) deaf: AtomicBool,
    /// Its last connection is gone: the workers end.
    over: AtomicBool,
}

impl Generation {
    pub(super) fn build(socket: TcpListener) -> io::Result<Arc<Generation>> {
        // The library panics when it gets no thread.
        let server = panic::catch_unwind(|| Server::from_listener(socket, None))
            .map_err(|_| io::Error::other("the server library cannot start its threads"))?
            .map_err(io::Error::other)?;
        Ok(Arc::new(Generation {
            server,
            turn: Mutex::new(false),
            next: Condvar::new(),
            idle: AtomicUsize::new(0),
            deaf: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }))
    }

    /// Starts the first workers.
    pub(super) fn staff(self: &Arc<Self>, shared: &Arc<Shared>) -> io::Result<()> {
        for _ in 0..IDLE_WORKERS_MIN {
            spawn_worker(shared, self)?;
        }
        Ok(())
    }

    /// Ends its workers, each when it is idle.
    pub(super) fn dismiss(&self) {
        self.over.store(true, Ordering::Release);
        for _ in 0..self.idle.load(Ordering::Acquire) {
            self.server.unblock();
        }
    }
}

fn spawn_worker(shared: &Arc<Shared>, generation: &Arc<Generation>) -> io::Result<()> {
    let (shared, generation) = (Arc::clone(shared), Arc::clone(generation));
    // Counted here, so that two workers that start at once do not both think that they are the last.
    generation.idle.fetch_add(1, Ordering::AcqRel);
    shared.workers.fetch_add(1, Ordering::AcqRel);
    let undo = (Arc::clone(&shared), Arc::clone(&generation));
    let spawned = thread::Builder::new()
        .name("worker".into())
        .stack_size(STACK_BYTES)
        .spawn(move || work(&shared, &generation));
    if let Err(error) = spawned {
        undo.0.workers.fetch_sub(1, Ordering::AcqRel);
        undo.1.idle.fetch_sub(1, Ordering::AcqRel);
        return Err(error);
    }
    Ok(())
}

/// A worker's life: it is counted idle while it waits for a request.
fn work(shared: &Arc<Shared>, generation: &Arc<Generation>) {
    while !generation.over.load(Ordering::Acquire) {
        match generation.take(shared) {
            Taken::Request(peer, place) => {
                let was_last = generation.idle.fetch_sub(1, Ordering::AcqRel) == 1;
                if was_last && shared.workers.load(Ordering::Acquire) < WORKERS_MAX {
                    // Without a thread to spare this worker comes back to the queue when it is done.
                    let _ = spawn_worker(shared, generation);
                }
                serve(shared, peer, place);
                generation.idle.fetch_add(1, Ordering::AcqRel);
            }
            Taken::Nothing => {
                let idle = generation.idle.load(Ordering::Acquire);
                let surplus = idle > IDLE_WORKERS_MIN
                    && generation
                        .idle
                        .compare_exchange(idle, idle - 1, Ordering::AcqRel, Ordering::Acquire)
                        .is_ok();
                if surplus {
                    break;
                }
            }
            // The accept loop has ended; connections that it accepted are still served here.
            Taken::AcceptEnded => {
                generation.deaf.store(true, Ordering::Release);
                shared.wake.notify_all();
            }
        }
    }
    shared.workers.fetch_sub(1, Ordering::AcqRel);
}

/// The turn of the one worker that waits for a request.
struct Turn<'a>(&'a Generation);

impl<'a> Turn<'a> {
    /// The turn, or none within [`WORKER_PATIENCE`].
    fn take(generation: &'a Generation) -> Option<Turn<'a>> {
        let taken = generation
            .turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (mut taken, _) = generation
            .next
            .wait_timeout_while(taken, WORKER_PATIENCE, |taken| *taken)
            .unwrap_or_else(PoisonError::into_inner);
        if *taken {
            return None;
        }
        *taken = true;
        Some(Turn(generation))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.turn.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.next.notify_one();
    }
}

/// What a worker got from the library.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for one match on one stack; a box would cost an allocation a request"
)]
enum Taken {
    Request(SocketAddr, LinedUp<Request>),
    Nothing,
    AcceptEnded,
}

impl Generation {
    /// Waits for a request. One worker at a time, so that the requests of a connection line up in their own order.
    fn take(&self, shared: &Shared) -> Taken {
        let Some(_turn) = Turn::take(self) else {
            return Taken::Nothing;
        };
        match self.server.recv_timeout(WORKER_PATIENCE) {
            Ok(Some(request)) => match request.remote_addr().copied() {
                Some(peer) => Taken::Request(peer, shared.sockets.line_up(peer, request)),
                // Not over TCP: there is no such listener.
                None => Taken::Nothing,
            },
            Ok(None) => Taken::Nothing,
            Err(_) => Taken::AcceptEnded,
        }
    }
}

/// Serves a request, and those of its connection that came meanwhile.
fn serve(shared: &Arc<Shared>, peer: SocketAddr, place: LinedUp<Request>) {
    let mut begun = match place {
        LinedUp::First(request, before) => Some(shared.sockets.begin(peer, request, before)),
        LinedUp::Waits => return,
        LinedUp::TooMany(request) => {
            drop(request.into_writer());
            return;
        }
    };
    while let Some(next) = begun {
        match next {
            Begun::Serve(request, socket, acquaintance) => {
                if acquaintance == Acquaintance::New {
                    meet(shared);
                }
                let sockets = Arc::clone(&shared.sockets);
                handle(
                    shared,
                    Inbound {
                        request,
                        peer,
                        socket,
                        sockets,
                    },
                );
            }
            // Without a word: its connection is closed.
            Begun::Ended(request) => drop(request.into_writer()),
        }
        begun = shared.sockets.next(peer);
    }
}

fn handle(shared: &Shared, inbound: Inbound) {
    shared.busy.fetch_add(1, Ordering::AcqRel);
    // A bug in one request must not take a worker, or with it the count of them.
    let _ = panic::catch_unwind(panic::AssertUnwindSafe(|| (shared.handler)(inbound)));
    shared.busy.fetch_sub(1, Ordering::AcqRel);
}

/// Tells the keeper of a new peer: where one connection is served, others of the same burst may wait.
fn meet(shared: &Shared) {
    if !shared.new_peers.swap(true, Ordering::AcqRel) {
        // Under the keeper's lock, so that it cannot fall asleep between its look and our call.
        let _awake = shared.lock();
        shared.wake.notify_all();
    }
}
