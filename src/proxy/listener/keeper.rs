//! The thread that keeps the server library going: it pokes, probes and rebuilds it, and looks after the clients' sockets.

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::EventfdFlags;

use super::{Door, Generation, HUNG, Shared};
use crate::clock;
use crate::scheduler::time::Mono;

/// Time between two sweeps over the clients' sockets when there are none …
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// … and while there are some, or were lately. What a head without an end can grow to within this time is what it can cost.
const SWEEP_SOON: Duration = Duration::from_millis(250);
/// A sweep takes one part in so many of all time, as far as these limits let it: it takes longer the more sockets there are.
const SWEEP_SHARE: u32 = 200;
/// How long somebody was there lately.
const LATELY: Duration = Duration::from_secs(10);
/// When the library is poked after a request from a new peer: early for a burst, late for a scheduler that was busy.
const POKES: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(6),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
];
/// Connections made by one poke: each can free one that waits.
const POKE_SIZE: usize = 2;
/// Seconds between two proofs that the port answers.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// A port that does not answer for this long is served by a new server.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// Time between two looks whether the answer is there.
const PROBE_LOOK: Duration = Duration::from_millis(100);
/// Time between two attempts to build a new server.
const REBUILD_EVERY: Duration = Duration::from_millis(100);
/// After one, others may be needed soon: what made it necessary is often not over.
const WARY: Duration = Duration::from_secs(5);
/// Descriptors that must be free for one: with fewer its accept loop would end at once.
const FREE_MIN: usize = 8;
/// Descriptors that are held back, so that something can be done when no others are left.
const RESERVE: usize = 4;
/// When descriptors are short, a connection that has not sent a head for this long is given up.
const FRESH_MAX_IN_NEED: Duration = Duration::from_secs(2);

/// A thread of the library has panicked since the last proof that the port answers.
static LIBRARY_PANICKED: AtomicBool = AtomicBool::new(false);
/// The library's accept loop has ended by a panic, which nothing else tells.
static ACCEPTOR_PANICKED: AtomicBool = AtomicBool::new(false);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    former: Vec<Former>,
    reserve: Vec<OwnedFd>,
    /// Until then trouble is looked for more often.
    wary_until: Mono,
    /// Until then somebody was there lately.
    lively_until: Mono,
    /// Time between two sweeps.
    sweep_every: Duration,
}

/// A server that takes no more connections, but still has some.
struct Former {
    generation: Arc<Generation>,
    /// Everyone who was connected when it was first looked at, as far as they still are.
    peers: Option<HashSet<SocketAddr>>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Keeper {
        let mut keeper = Keeper {
            shared,
            former: Vec::new(),
            reserve: Vec::new(),
            wary_until: Mono(0),
            lively_until: clock::mono() + LATELY,
            sweep_every: SWEEP_SOON,
        };
        keeper.fill_reserve();
        keeper
    }

    pub(super) fn run(mut self) {
        let mut last_probe = clock::mono();
        let mut last_sweep = last_probe;
        let mut open = 0;
        let mut failed = 0_u32;
        loop {
            let door = self.rest();
            if door == Door::Over {
                break;
            }
            if door == Door::Open && self.shared.new_peers.swap(false, Ordering::AcqRel) {
                self.lively_until = clock::mono() + LATELY;
                self.poke();
            }
            let now = clock::mono();
            if now.since(last_sweep) >= self.sweep_every {
                last_sweep = now;
                open = self.sweep();
                self.pace(now, open);
            }
            if door == Door::Shut {
                continue;
            }
            if ACCEPTOR_PANICKED.swap(false, Ordering::AcqRel) {
                self.current().deaf.store(true, Ordering::Release);
            }
            if self.current().deaf.load(Ordering::Acquire) {
                // Known to be deaf: there is nothing to prove.
                LIBRARY_PANICKED.store(false, Ordering::Release);
                failed = 0;
                self.rebuild();
                self.wary_until = clock::mono() + WARY;
                continue;
            }
            let suspicious = failed > 0 || LIBRARY_PANICKED.swap(false, Ordering::AcqRel);
            if suspicious || now.since(last_probe) >= PROBE_EVERY && open > 0 {
                last_probe = now;
                failed = if self.answers() { 0 } else { failed + 1 };
            }
            if failed >= 2 {
                failed = 0;
                self.rebuild();
            }
        }
        for former in self.former {
            former.generation.dismiss();
        }
    }

    /// Sleeps until the next sweep, a new peer, or a change.
    fn rest(&self) -> Door {
        let keeping = self.shared.lock();
        if keeping.door == Door::Over
            || keeping.door == Door::Open && self.shared.new_peers.load(Ordering::Acquire)
        {
            return keeping.door;
        }
        // A panic of the accept loop wakes nobody.
        let limit = if clock::mono() < self.wary_until {
            REBUILD_EVERY
        } else {
            self.sweep_every
        };
        let woken = self.shared.wake.wait_timeout(keeping, limit);
        let (keeping, _) = woken.unwrap_or_else(PoisonError::into_inner);
        keeping.door
    }

    fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.shared.lock().current)
    }

    /// Looks at all clients' sockets, and lets old servers end that have none left. Gives the number of open ones.
    fn sweep(&mut self) -> usize {
        let idle_max = self.shared.lock().idle_max;
        let (sockets, phrases) = (&self.shared.sockets, &self.shared.phrases);
        let swept = sockets.sweep(&phrases.answers, idle_max);
        HUNG.fetch_add(swept.hung, Ordering::Relaxed);
        if swept.unread > 0 {
            // They may be about to be read. If not, nothing else may come that would have them taken up.
            self.shared.new_peers.store(true, Ordering::Release);
        }
        if let Some(peers) = swept.peers {
            self.former.retain_mut(|former| {
                let left = former.peers.get_or_insert_with(|| peers.clone());
                left.retain(|peer| peers.contains(peer));
                if left.is_empty() {
                    former.generation.dismiss();
                }
                !left.is_empty()
            });
        }
        let mut keeping = self.shared.lock();
        keeping.open = swept.open;
        keeping.sweeps += 1;
        swept.open
    }

    /// When the next sweep is due, by who is there and what the one that began at `begun` has cost.
    fn pace(&mut self, begun: Mono, open: usize) {
        let now = clock::mono();
        if open > 0 {
            self.lively_until = now + LATELY;
        }
        self.sweep_every = if now < self.lively_until {
            (now.since(begun) * SWEEP_SHARE).clamp(SWEEP_SOON, SWEEP_EVERY)
        } else {
            SWEEP_EVERY
        };
    }

    /// Connections that close at once: each makes the library's pool take up one that waits.
    fn poke(&self) {
        let address = reachable(self.shared.address);
        for pause in POKES {
            thread::sleep(pause);
            for _ in 0..POKE_SIZE {
                knock(address);
            }
            self.shared.new_peers.store(false, Ordering::Release);
        }
    }

    /// A real request, so that a library that accepts and does not serve is noticed. It may only be waiting, and others with it: what
    /// cures that is tried meanwhile.
    fn answers(&self) -> bool {
        let address = reachable(self.shared.address);
        let watch = clock::Stopwatch::start();
        let ask = || -> io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)?;
            stream.set_read_timeout(Some(PROBE_LOOK))?;
            stream.set_write_timeout(Some(PROBE_LIMIT))?;
            stream.write_all(&self.shared.phrases.probe)?;
            stream.shutdown(Shutdown::Write)?;
            let mut first = [0];
            loop {
                match stream.read(&mut first) {
                    Ok(count) => return Ok(count == 1),
                    Err(error) if watch.left_of(PROBE_LIMIT).is_none() => return Err(error),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        (0..POKE_SIZE).for_each(|_| knock(address));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        ask().unwrap_or(false)
    }

    /// A new server on the same socket. The old one's connections are served on by its own workers.
    fn rebuild(&mut self) {
        self.reserve.clear();
        if !are_free(FREE_MIN) {
            // Without a look many of them are not known: there was no descriptor to look with.
            self.sweep();
            // Clients between two requests must make room: they can come again, and the port is deaf without.
            self.shared.sockets.shut_idle(FRESH_MAX_IN_NEED);
            return;
        }
        let mut keeping = self.shared.lock();
        let Some(socket) = keeping.socket.clone() else {
            return;
        };
        if keeping.door != Door::Open {
            return;
        }
        let clone = keeping.spare.take().map_or_else(|| socket.try_clone(), Ok);
        let next = clone.and_then(Generation::build).and_then(|next| {
            next.staff(&self.shared)?;
            Ok(next)
        });
        if let Ok(next) = next {
            let generation = std::mem::replace(&mut keeping.current, next);
            self.former.push(Former {
                generation,
                peers: None,
            });
        }
        keeping.spare = socket.try_clone().ok();
        drop(keeping);
        self.fill_reserve();
    }

    fn fill_reserve(&mut self) {
        self.reserve = descriptors(RESERVE);
    }
}

/// A connection that closes at once. A full backlog answers by itself later.
pub(super) fn knock(address: SocketAddr) {
    let _ = TcpStream::connect_timeout(&address, PROBE_LIMIT);
}

fn are_free(count: usize) -> bool {
    descriptors(count).len() == count
}

/// As many descriptors of no use as can be had, up to `count`.
fn descriptors(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map_while(|_| rustix::event::eventfd(0, EventfdFlags::CLOEXEC).ok())
        .collect()
}

/// Where a connection to our own socket goes: a wildcard address is reached over loopback.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The library panics in its own threads over clients that leave early, and when descriptors or threads run out. Those lines help
/// nobody; the panic is noted instead. Its threads are the only ones without a name.
pub(super) fn quiet_library_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let file = info.location().map_or("", |location| location.file());
            if file.contains("tiny_http") || thread::current().name().is_none() {
                LIBRARY_PANICKED.store(true, Ordering::Release);
                // Sockets are cloned by the accept loop alone.
                if file.contains("refined_tcp_stream") {
                    ACCEPTOR_PANICKED.store(true, Ordering::Release);
                }
            } else {
                before(info);
            }
        }));
    });
}
