//! A scripted stand-in for the Anthropic API on a loopback port.
//!
//! The test sets the answer for each credential. The stand-in answers in the real formats, can fail
//! in every way that a network and an API can fail, and records every request as raw bytes. It
//! never opens a connection of its own and knows nothing about the proxy.

pub mod answer;
pub mod failures;
pub mod limits;
pub mod message;
pub mod oauth;
pub mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "the demo program needs fewer of them")]
pub use answer::{Answer, End, Framing, Step};
pub use limits::Limits;
pub use message::Message;
pub use wire::Request;

/// How long a test waits for something that should happen at once. Generous, since the machine may
/// be loaded.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The running stand-in; dropping it closes every connection and ends its threads.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// The state shared by the threads of one stand-in.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    fallback: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
}

/// Everything that a test can read or change while the stand-in runs.
#[derive(Default)]
pub struct State {
    /// Every request, in order of completion.
    pub requests: Vec<Arc<Request>>,
    /// Every connection, in order of acceptance.
    pub connections: Vec<Connection>,
    /// The state of the OAuth endpoints.
    pub oauth: oauth::Desk,
    queued: HashMap<String, VecDeque<Answer>>,
    always: HashMap<String, Answer>,
    at_head: HashMap<String, Answer>,
    gates: usize,
    open_gates: HashSet<usize>,
    sockets: HashMap<usize, TcpStream>,
    stopping: bool,
}

/// What happened on one connection.
pub struct Connection {
    /// When it was accepted.
    pub opened: Instant,
    /// When the peer was seen to close or reset it.
    pub left: Option<Instant>,
    /// When this side was done with it.
    pub ended: Option<Instant>,
    /// The body bytes of the last answer, without their framing.
    pub sent: Digest,
    /// When each body part of the last answer was written, and its length.
    pub writes: Vec<(Instant, usize)>,
}

/// Length and checksum (FNV-1a) of bytes, to compare 100 MB without keeping them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub len: u64,
    pub hash: u64,
}

/// A point at which an answer waits until the test opens it.
#[derive(Clone)]
pub struct Gate {
    number: usize,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Starts a stand-in that answers like a healthy API unless the test scripts something else.
    pub fn start() -> Upstream {
        Upstream::with(Answer::healthy)
    }

    /// Starts a stand-in that calls `fallback` whenever no answer is scripted for the request's
    /// credential.
    pub fn with(fallback: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Upstream {
        Upstream::on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), fallback)
    }

    /// The same on a given address.
    pub fn on(
        address: SocketAddr,
        fallback: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind(address).expect("bind the stand-in's port");
        let address = listener.local_addr().expect("the listener has an address");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            fallback: Box::new(fallback),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || wire::accept(&listener, &shared))
        };
        Upstream { address, shared, accepting: Some(accepting) }
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for a configuration.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds an answer to this credential's queue; queued answers are used once each, before
    /// anything else.
    pub fn next(&self, credential: &str, answer: Answer) {
        let mut state = self.shared.lock();
        let queue = state.queued.entry(credential.to_owned()).or_default();
        queue.push_back(answer);
    }

    /// Sets this credential's answer for when its queue is empty.
    pub fn always(&self, credential: &str, answer: Answer) {
        self.shared.lock().always.insert(credential.to_owned(), answer);
    }

    /// Removes what was scripted for this credential, so that it is healthy again.
    pub fn heal(&self, credential: &str) {
        let mut state = self.shared.lock();
        state.queued.remove(credential);
        state.always.remove(credential);
    }

    /// Answers this credential's next request as soon as its head is read, leaving the body in the
    /// socket.
    pub fn next_at_head(&self, credential: &str, answer: Answer) {
        self.shared.lock().at_head.insert(credential.to_owned(), answer);
    }

    /// A new closed gate for [`Step::Hold`].
    pub fn gate(&self) -> Gate {
        let mut state = self.shared.lock();
        state.gates += 1;
        Gate { number: state.gates, shared: Arc::clone(&self.shared) }
    }

    /// The recorded state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.shared.lock().requests.clone()
    }

    /// How many requests this credential has sent.
    pub fn count(&self, credential: &str) -> usize {
        let state = self.shared.lock();
        state.requests.iter().filter(|request| request.credential() == credential).count()
    }

    /// The credentials in the order of their requests.
    pub fn order(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.requests.iter().map(|request| request.credential().to_owned()).collect()
    }

    /// The only request so far.
    pub fn only_request(&self) -> Arc<Request> {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "requests at the upstream");
        Arc::clone(&requests[0])
    }

    /// Waits until `ready` accepts the recorded state; panics with `what` if it does not within
    /// [`PATIENCE`].
    pub fn wait(&self, what: &str, ready: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        while !ready(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the upstream never saw {what} ({} requests, {} connections, {} left)",
                state.requests.len(),
                state.connections.len(),
                state.connections.iter().filter(|connection| connection.left.is_some()).count()
            );
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until at least `count` requests are complete.
    pub fn wait_requests(&self, count: usize) {
        self.wait(&format!("{count} requests"), |state| state.requests.len() >= count);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let sockets = {
            let mut state = self.shared.lock();
            state.stopping = true;
            self.shared.changed.notify_all();
            std::mem::take(&mut state.sockets)
        };
        for socket in sockets.into_values() {
            // It may already be closed, which is just as good.
            let _closed = socket.shutdown(std::net::Shutdown::Both);
        }
        // The accept loop checks `stopping` after each connection, so another connection wakes it.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
    }
}

impl Shared {
    /// Locks the state, even after an assertion failed while a test held the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all threads that wait for it.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_all();
        value
    }

    /// The answer to a request: from the queue, the credential's standing answer, the OAuth
    /// endpoints, or the fallback.
    fn answer(&self, request: &Request) -> Answer {
        let scripted = {
            let mut state = self.lock();
            let credential = request.credential();
            let queued = state.queued.get_mut(credential).and_then(VecDeque::pop_front);
            queued
                .or_else(|| state.always.get(credential).cloned())
                .or_else(|| state.oauth.answer(request))
        };
        scripted.unwrap_or_else(|| (self.fallback)(request))
    }

    /// Waits on this connection until `gate` is open (`None`: no gate) or `time` has passed; false
    /// if the peer left or the stand-in stops.
    fn pause(&self, connection: usize, gate: Option<usize>, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.lock();
        loop {
            if state.stopping || state.connections[connection].left.is_some() {
                return false;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || gate.is_some_and(|gate| state.open_gates.contains(&gate)) {
                return true;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Gate {
    /// Lets all waiting and future answers pass.
    pub fn open(&self) {
        self.shared.update(|state| {
            state.open_gates.insert(self.number);
        });
    }
}

impl Digest {
    /// The digest of no bytes.
    pub const EMPTY: Digest = Digest { len: 0, hash: 0xcbf2_9ce4_8422_2325 };

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut digest = Digest::EMPTY;
        digest.add(bytes);
        digest
    }

    /// Adds more bytes; how they are split does not matter.
    pub fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
