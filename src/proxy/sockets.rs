//! The clients' sockets, beside the server library that owns them: who is idle, who is slow, who has left.
//!
//! The library never gives its sockets away. Their numbers stand in `/proc/self/fd`, and `pidfd_getfd` on ourselves makes a
//! duplicate of each without unsafe code. Where that is not permitted (old kernels, a strict seccomp filter, other systems)
//! the table stays empty: requests are served all the same, but a client that leaves is noticed only when it is written to,
//! and slow heads are not ended. How much has been read of a head that is not complete the kernel tells ([`diagnostics`]); where it
//! does not, time alone bounds heads.
//!
//! ```text
//!                ┌────────a part of a head─────────┐
//!                ▼                                 │
//! accepted ──▶ Fresh ──head──▶ Busy ──answered──▶ Idle ──head──▶ Busy …
//!                │ 10 s,        │ body stalls 30 s   │ 75 s
//!                │ 256 KiB      │                    │
//!                ▼              ▼                    ▼
//!              ended      reading side closed      ended
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::scheduler::time::Mono;

use self::diagnostics::Diagnostics;
use self::heads::{EndingHead, Reading};
use self::look::{Found, Looker};

pub(crate) use self::client::ClientSocket;

mod client;
mod diagnostics;
mod heads;
mod look;

/// A head must be complete this long after its connection (SPEC P2).
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// What the server library may have read of a head that is not complete: far more than a head that is accepted can have (SPEC P2).
const HEAD_MAX: u64 = 256 * 1024;
/// Heads that are looked at in one sweep; with more the oldest looks come first.
const HEADS_AT_ONCE: usize = 128;
/// A connection between two requests is closed after this long.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// Requests of one connection that may wait for the one before them.
const WAITING_MAX: usize = 64;
/// Duplicates of idle connections that are kept for their next request.
const KEPT_MAX: usize = 512;

/// Where a connection is between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Connected, no complete head yet.
    Fresh(Mono),
    /// A request is being served.
    Busy,
    /// Between two requests.
    Idle(Mono),
    /// Ended by us; it stays visible only if the library's thread hangs.
    Ended(Mono),
}

struct Peer<R> {
    /// Where it was seen last in the table of descriptors.
    number: Option<RawFd>,
    state: State,
    kept: Option<Arc<ClientSocket>>,
    /// What tells this connection from a later one of the same address.
    inode: Option<u64>,
    /// Requests that came before the last one was answered.
    waiting: VecDeque<R>,
    /// A worker serves the connection: until its [`Sockets::next`] finds nothing more, whatever comes waits for it.
    served: bool,
    /// When the reading of its head was looked at last.
    looked: Mono,
    /// Since when it is known.
    since: Mono,
    /// What is being read of its next head.
    head: Reading,
}

impl<R> Peer<R> {
    fn unknown() -> Peer<R> {
        Peer {
            number: None,
            state: State::Fresh(clock::mono()),
            kept: None,
            inode: None,
            waiting: VecDeque::new(),
            served: false,
            looked: Mono(0),
            since: clock::mono(),
            head: Reading::first(),
        }
    }

    fn becomes_idle(&mut self) {
        self.state = State::Idle(clock::mono());
        self.head.begins();
    }

    /// Somebody else ends it. Our own duplicate would keep it alive.
    fn ends(&mut self, now: Mono) {
        self.state = State::Ended(now);
        self.kept = None;
    }

    /// What a look at its head goes by: none where no head can be coming. While it is the same, the bytes between two looks are those of
    /// one head.
    fn head_key(&self) -> Option<(u32, u32)> {
        let bodies = self.kept.as_ref().map(|kept| kept.bodies_read());
        let bodies = match self.state {
            State::Ended(_) => return None,
            // The library reads on behind a request whose body is complete.
            State::Busy => bodies??,
            State::Fresh(_) | State::Idle(_) => bodies.flatten().unwrap_or(0),
        };
        Some((self.head.round(), bodies))
    }

    /// `taken` bytes of the connection have been read. True if that is too much for a head.
    fn look_at_head(&mut self, taken: u64, bodies: u32, now: Mono) -> bool {
        let head = self.head.look(taken, bodies, now);
        if head > 0 && matches!(self.state, State::Idle(_)) {
            // A later head has as long as the first.
            self.state = State::Fresh(now);
        }
        head > HEAD_MAX
    }

    /// Ends the connection, unless no descriptor is left to do it with. Our own duplicate would keep it alive half closed, and its
    /// number may be the one that is known: it goes last.
    fn shut(&mut self, looker: &Looker, peer: SocketAddr) {
        let kept = self.kept.take();
        let found = kept.or_else(|| {
            let fd = looker.duplicate_of(self.number?, peer)?;
            Some(Arc::new(ClientSocket::new(fd)))
        });
        if let Some(socket) = found {
            socket.shut();
            self.state = State::Ended(clock::mono());
        }
    }

    fn known_socket(&self, looker: &Looker, peer: SocketAddr) -> Option<Arc<ClientSocket>> {
        if let Some(kept) = &self.kept
            && !kept.has_left()
        {
            return Some(Arc::clone(kept));
        }
        let fd = looker.duplicate_of(self.number?, peer)?;
        Some(Arc::new(ClientSocket::new(fd)))
    }
}

/// The place of a request in its connection's order.
pub(crate) enum LinedUp<R> {
    /// It is the only one, and what the connection was before it.
    First(R, State),
    /// It waits until the one before it has been answered.
    Waits,
    /// Too many wait already: the connection is to be ended.
    TooMany(R),
}

/// What becomes of a request that the library hands over.
pub(crate) enum Begun<R> {
    /// It is to be served.
    Serve(R, Option<Arc<ClientSocket>>, Acquaintance),
    /// Its connection has ended: nothing that comes out of it may be served.
    Ended(R),
}

/// Answers to clients whose request never comes to a worker, as bytes of the wire.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// To a head that does not end in time.
    pub(crate) too_slow: Vec<u8>,
    /// To a head that does not end at all.
    pub(crate) too_large: Vec<u8>,
    /// To a connection on which the library hangs, which it does over a later version of HTTP.
    pub(crate) unsupported: Vec<u8>,
}

/// What a look at all sockets did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Connections of clients that are open.
    pub(crate) open: usize,
    /// Connections whose library thread hangs since this look.
    pub(crate) hung: usize,
    /// Connections that bring bytes which nobody reads: the library has not taken them up.
    pub(crate) unread: usize,
    /// Everyone who is connected, if all could be seen.
    pub(crate) peers: Option<HashSet<SocketAddr>>,
}

/// Whether a connection has carried a request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acquaintance {
    /// Its first request, as far as can be seen.
    New,
    /// A later one.
    Known,
}

/// A look at a head that is to be made.
struct Look {
    looked: Mono,
    key: (u32, u32),
    number: RawFd,
    local: SocketAddr,
    peer: SocketAddr,
}

/// All connections of clients to one port.
pub(crate) struct Sockets<R> {
    looker: Option<Looker>,
    diagnostics: Option<Diagnostics>,
    peers: Mutex<HashMap<SocketAddr, Peer<R>>>,
}

impl<R> Sockets<R> {
    /// A table for the clients of `port`.
    pub(crate) fn new(port: u16) -> Sockets<R> {
        Sockets {
            looker: Looker::open(port),
            diagnostics: Diagnostics::open(),
            peers: Mutex::default(),
        }
    }

    /// Whether clients that leave can be noticed here.
    pub(crate) fn can_look(&self) -> bool {
        self.looker.is_some()
    }

    /// A request of `peer` takes its place in its connection's order: it comes back if it is first, else it waits for
    /// [`Sockets::next`], so that nothing is served that comes behind a request which ends its connection.
    ///
    /// To be called in the order in which the library hands requests over; [`Sockets::begin`] is to follow.
    pub(crate) fn line_up(&self, peer: SocketAddr, request: R) -> LinedUp<R> {
        if self.looker.is_none() {
            return LinedUp::First(request, State::Idle(Mono(0)));
        }
        let mut peers = self.lock();
        let entry = peers.entry(peer).or_insert_with(Peer::unknown);
        // Not the state: an answered request leaves its connection idle some moments before its worker lets go of it, and the
        // client may be faster. Two workers on one connection would take each other's state for their own.
        // Its head, and those before it, are read.
        entry.head.begins();
        if !entry.served {
            entry.served = true;
            let before = std::mem::replace(&mut entry.state, State::Busy);
            return LinedUp::First(request, before);
        }
        if entry.waiting.len() >= WAITING_MAX {
            // One unanswered request would shift the answers of all that follow: the whole connection ends.
            if let Some(kept) = &entry.kept {
                kept.shut();
            }
            return LinedUp::TooMany(request);
        }
        entry.waiting.push_back(request);
        LinedUp::Waits
    }

    /// The request that is first of its connection begins. `before` is what [`Sockets::line_up`] found.
    pub(crate) fn begin(&self, peer: SocketAddr, request: R, before: State) -> Begun<R> {
        let Some(looker) = self.looker.as_ref() else {
            return Begun::Serve(request, None, Acquaintance::New);
        };
        // A sweep may have seen its socket long before.
        let acquaintance = match before {
            State::Fresh(_) => Acquaintance::New,
            State::Busy | State::Idle(_) | State::Ended(_) => Acquaintance::Known,
        };
        if !matches!(before, State::Ended(_)) {
            let mut peers = self.lock();
            let entry = peers.entry(peer).or_insert_with(Peer::unknown);
            if let Some(socket) = entry.known_socket(looker, peer) {
                entry.kept = Some(Arc::clone(&socket));
                return Begun::Serve(request, Some(socket), acquaintance);
            }
        }
        let known = self
            .lock()
            .values()
            .filter_map(|entry| entry.number)
            .collect();
        let found = looker.find(&known, peer);
        let mut peers = self.lock();
        let entry = peers.entry(peer).or_insert_with(Peer::unknown);
        match found {
            Found::Socket(number, fd) => {
                let inode = rustix::fs::fstat(&fd).ok().map(|stat| stat.st_ino);
                if matches!(before, State::Ended(_)) && inode.is_some() && inode == entry.inode {
                    // Ended by us, and not gone yet.
                    entry.state = before;
                    return Begun::Ended(request);
                }
                let socket = Arc::new(ClientSocket::new(fd));
                entry.inode = inode;
                entry.number = Some(number);
                entry.kept = Some(Arc::clone(&socket));
                Begun::Serve(request, Some(socket), Acquaintance::New)
            }
            // Reset by the client, or ended by us after the library had read on.
            Found::Nothing => {
                entry.state = State::Ended(clock::mono());
                Begun::Ended(request)
            }
            Found::Unknown => Begun::Serve(request, None, Acquaintance::New),
        }
    }

    /// The next request of a connection whose last one has been served.
    pub(crate) fn next(&self, peer: SocketAddr) -> Option<Begun<R>> {
        let mut peers = self.lock();
        let entry = peers.get_mut(&peer)?;
        match entry.state {
            State::Ended(_) => {
                let Some(request) = entry.waiting.pop_front() else {
                    entry.served = false;
                    return None;
                };
                Some(Begun::Ended(request))
            }
            State::Fresh(_) | State::Busy | State::Idle(_) => {
                let Some(request) = entry.waiting.pop_front() else {
                    // A worker that ended without an answer must not leave its connection busy for ever.
                    if entry.state == State::Busy {
                        entry.becomes_idle();
                    }
                    entry.served = false;
                    return None;
                };
                entry.state = State::Busy;
                Some(Begun::Serve(
                    request,
                    entry.kept.clone(),
                    Acquaintance::Known,
                ))
            }
        }
    }

    /// The request of `peer` has been answered; its connection waits for another.
    pub(crate) fn idle(&self, peer: SocketAddr) {
        let mut peers = self.lock();
        let crowded = peers.len() > KEPT_MAX;
        if let Some(entry) = peers.get_mut(&peer) {
            entry.becomes_idle();
            if crowded {
                entry.kept = None;
            }
        }
    }

    /// The connection of `peer` is being closed by us.
    pub(crate) fn end(&self, peer: SocketAddr) {
        if let Some(entry) = self.lock().get_mut(&peer) {
            entry.ends(clock::mono());
        }
    }

    /// Ends the connections that wait for a request, and those that have not sent a head for `fresh_min`.
    pub(crate) fn shut_idle(&self, fresh_min: Duration) {
        let Some(looker) = &self.looker else {
            return;
        };
        let now = clock::mono();
        for (peer, entry) in self.lock().iter_mut() {
            let ends = match entry.state {
                State::Idle(_) => true,
                State::Fresh(since) => now.since(since) >= fresh_min,
                State::Busy | State::Ended(_) => false,
            };
            if ends {
                entry.shut(looker, *peer);
            }
        }
    }

    /// Ends every connection of a client.
    pub(crate) fn shut_all(&self) {
        let Some(looker) = &self.looker else {
            return;
        };
        looker.scan(|_, _, _, fd| ClientSocket::new(fd).shut());
    }

    /// One look at all sockets: new ones are noted, slow, endless and idle ones are ended.
    pub(crate) fn sweep(&self, answers: &Answers, idle_max: Duration) -> Swept {
        let Some(looker) = &self.looker else {
            return Swept::default();
        };
        let now = clock::mono();
        // Numbers only: a look at all connections must not need a second descriptor for each.
        let mut seen: HashMap<SocketAddr, (RawFd, SocketAddr)> = HashMap::new();
        let complete = looker.scan(|number, local, peer, _| {
            seen.entry(peer).or_insert((number, local));
        });
        let mut ending = Vec::new();
        let mut heads = Vec::new();
        let mut swept = Swept {
            peers: complete.then(|| seen.keys().copied().collect()),
            ..Swept::default()
        };
        {
            let mut peers = self.lock();
            // Who came since the scan began may not have been seen.
            peers.retain(|peer, entry| {
                !complete || seen.contains_key(peer) || entry.served || entry.since >= now
            });
            for (peer, (number, local)) in seen {
                let entry = peers.entry(peer).or_insert_with(Peer::unknown);
                entry.number = Some(number);
                match entry.state {
                    State::Fresh(since) if now.since(since) >= HEAD_LIMIT => {
                        let read = entry.head.moves(now).then_some(&*answers.too_slow);
                        let end = EndingHead::begin(looker, number, peer, read);
                        if let Some(end) = end {
                            entry.ends(now);
                            ending.push(end);
                        }
                    }
                    State::Idle(since) if now.since(since) >= idle_max => {
                        entry.shut(looker, peer);
                    }
                    State::Busy => {
                        if let Some(socket) = &entry.kept {
                            socket.end_stalled_body(now);
                        }
                    }
                    State::Fresh(_) | State::Idle(_) | State::Ended(_) => {}
                }
                if matches!(entry.state, State::Fresh(_)) {
                    swept.unread += usize::from(looker.has_unread(number, peer));
                }
                if let Some(key) = entry.head_key() {
                    heads.push(Look {
                        looked: entry.looked,
                        key,
                        number,
                        local,
                        peer,
                    });
                }
                swept.open += usize::from(!matches!(entry.state, State::Ended(_)));
            }
        }
        self.look_at_heads(looker, heads, &answers.too_large, &mut ending);
        swept.hung = heads::end(looker, &ending, answers);
        swept
    }

    /// Looks how much has been read of heads that are not complete, and begins to end those that do not end by themselves.
    fn look_at_heads<'a>(
        &self,
        looker: &Looker,
        mut looks: Vec<Look>,
        too_large: &'a [u8],
        ending: &mut Vec<EndingHead<'a>>,
    ) {
        let Some(diagnostics) = &self.diagnostics else {
            return;
        };
        if looks.len() > HEADS_AT_ONCE {
            looks.sort_unstable_by_key(|look| look.looked);
            looks.truncate(HEADS_AT_ONCE);
        }
        let now = clock::mono();
        for look in looks {
            let taken = diagnostics.taken(look.local, look.peer);
            let mut peers = self.lock();
            let Some(entry) = peers.get_mut(&look.peer) else {
                continue;
            };
            entry.looked = now;
            let (Some(taken), Some(key)) = (taken, entry.head_key()) else {
                continue;
            };
            if key != look.key || !entry.look_at_head(taken, key.1, now) {
                continue;
            }
            if entry.state == State::Busy {
                // The answer to the request before it is on its way: nothing else can be said on this connection.
                entry.shut(looker, look.peer);
            } else if let Some(end) =
                EndingHead::begin(looker, look.number, look.peer, Some(too_large))
            {
                entry.ends(now);
                ending.push(end);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Peer<R>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_head_that_is_not_complete_has_a_limit() {
        let at = |second: u64| Mono(second * 1000);
        let mut peer: Peer<u8> = Peer::unknown();
        peer.state = State::Fresh(at(1));
        assert!(!peer.look_at_head(HEAD_MAX, 0, at(2)));
        assert_eq!(peer.state, State::Fresh(at(1)));
        assert!(peer.look_at_head(HEAD_MAX + 1, 0, at(2)));
        let key = peer.head_key();
        assert!(key.is_some());
        peer.state = State::Busy;
        assert_eq!(peer.head_key(), None, "its socket is not known");
        peer.becomes_idle();
        assert_ne!(
            peer.head_key(),
            key,
            "a look that began before tells nothing"
        );
        let idle = peer.state;
        assert!(!peer.look_at_head(1 << 40, 0, at(4)), "that was the body");
        assert_eq!(peer.state, idle);
        assert!(!peer.look_at_head((1 << 40) + 1, 0, at(5)));
        assert_eq!(peer.state, State::Fresh(at(5)), "a later head");
        assert!(!peer.look_at_head((1 << 40) + HEAD_MAX, 0, at(6)));
        assert_eq!(peer.state, State::Fresh(at(5)));
        assert!(peer.look_at_head((1 << 40) + HEAD_MAX + 1, 0, at(6)));
        assert!(
            !peer.look_at_head((1 << 40) + HEAD_MAX + 2, 1, at(6)),
            "a body was read between"
        );
        assert!(peer.look_at_head((1 << 41) + HEAD_MAX, 1, at(6)));
    }

    /// A worker has sent its answer, and is not done yet, when the client's next request comes.
    #[test]
    fn a_connection_is_served_by_one_worker_at_a_time() {
        let sockets: Sockets<u8> = Sockets::new(1);
        if !sockets.can_look() {
            return;
        }
        let peer = SocketAddr::from(([127, 0, 0, 1], 2));
        assert!(matches!(
            sockets.line_up(peer, 1),
            LinedUp::First(1, State::Fresh(_))
        ));
        sockets.idle(peer);
        assert!(matches!(sockets.line_up(peer, 2), LinedUp::Waits));
        assert!(matches!(sockets.next(peer), Some(Begun::Serve(2, _, _))));
        assert!(matches!(sockets.lock()[&peer].state, State::Busy));
        sockets.idle(peer);
        assert!(sockets.next(peer).is_none());
        assert!(matches!(
            sockets.line_up(peer, 3),
            LinedUp::First(3, State::Idle(_))
        ));
        assert!(matches!(sockets.lock()[&peer].state, State::Busy));
        sockets.end(peer);
        assert!(matches!(sockets.line_up(peer, 4), LinedUp::Waits));
        assert!(matches!(sockets.next(peer), Some(Begun::Ended(4))));
        assert!(sockets.next(peer).is_none());
    }
}
