//! The listening socket and the threads that serve it: the only file that knows the server library.
//!
//! The library (tiny_http 0.12) reads heads and hands requests over; it is small and dormant, and what it gets wrong is
//! guarded here, each guard with its reason:
//!
//! - a burst of connections can leave some waiting: [`Keeper`] pokes it with connections that close at once;
//! - an accept error or a panic ends its accept loop: the server is built anew on a clone of the socket;
//! - it sets no limits on heads and idle connections: [`Sockets::sweep`] does;
//! - an unread body is read, and its whole length allocated, when a request is dropped: refused requests are answered past it
//!   and their connection is shut first.
//!
//! Workers are threads that take one request at a time; one that takes the last idle place starts another.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use tiny_http::{Request, Server};

use super::sockets::{Acquaintance, Begun, ClientSocket, LinedUp, Sockets};
use crate::clock;
use crate::scheduler::time::Mono;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Workers' stacks: the deepest path is a TLS handshake inside the HTTP client.
const STACK_BYTES: usize = 256 * 1024;
/// Idle workers that stay.
const IDLE_WORKERS_MIN: usize = 2;
/// Threads that serve requests, all together; the kernel's backlog holds what is beyond.
const WORKERS_MAX: usize = 4096;
/// How long an idle worker waits before it looks whether it is still needed.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two sweeps over the clients' sockets.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
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
/// Descriptors of clients' connections that the library can hang on before a restart is asked for.
const HUNG_MAX: usize = 64;
/// A server that ends at once, as it does while no descriptor is left, is not built anew more often than this.
const REBUILD_EVERY: Duration = Duration::from_secs(1);
/// Idle workers of a replaced server end after this long: by then its idle connections have been ended by the sweep.
const RETIRED_PATIENCE: Duration = Duration::from_secs(90);
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
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
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
        let result = loop {
            let filled = body.len();
            if expected.is_some_and(|expected| filled >= expected) {
                break Ok(());
            }
            let want = expected.map_or(READ_BYTES, |expected| (expected - filled).min(READ_BYTES));
            body.resize(filled + want, 0);
            let read = reader.read(&mut body[filled..]);
            body.truncate(filled + read.as_ref().copied().unwrap_or(0));
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
                Ok(_) if body.len() as u64 > limit => break Err(BodyError::TooLarge),
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
/// A thread of the library has panicked since the last proof that the port answers.
static LIBRARY_PANICKED: AtomicBool = AtomicBool::new(false);

type Handler = dyn Fn(Inbound) + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    sockets: Arc<Sockets<Request>>,
    address: SocketAddr,
    /// Ends the keeper.
    stop: Mutex<bool>,
    wake: Condvar,
    stopping: AtomicBool,
    busy: AtomicUsize,
    workers: AtomicUsize,
    new_peers: AtomicBool,
    too_slow: Vec<u8>,
    unsupported: Vec<u8>,
    probe: Vec<u8>,
}

/// One instance of the library's server, and the workers that take from it.
struct Generation {
    server: Server,
    /// True while a worker waits for the next request.
    turn: Mutex<bool>,
    turn_over: Condvar,
    idle: AtomicUsize,
    /// Its accept loop has ended.
    retired: AtomicBool,
}

/// The running listener.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    socket: TcpListener,
}

/// Answers and requests of the listener itself, as bytes of the wire.
pub(crate) struct Phrases {
    /// The answer to a head that does not end in time.
    pub(crate) too_slow: Vec<u8>,
    /// The answer to a version of HTTP that is not spoken.
    pub(crate) unsupported: Vec<u8>,
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
        quiet_library_panics();
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            sockets: Arc::new(Sockets::new(address.port())),
            address,
            stop: Mutex::new(false),
            wake: Condvar::new(),
            stopping: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            new_peers: AtomicBool::new(false),
            too_slow: phrases.too_slow,
            unsupported: phrases.unsupported,
            probe: phrases.probe,
        });
        let first = Generation::start(&shared, &socket)?;
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            socket: socket.try_clone()?,
            current: first,
        };
        thread::Builder::new()
            .name("keeper".into())
            .stack_size(STACK_BYTES)
            .spawn(move || keeper.run())?;
        Ok(Listener { shared, socket })
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

    /// Stops accepting and ends idle connections. Requests that are being served go on.
    pub(crate) fn stop_accepting(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        *self
            .shared
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        // On Linux this ends a blocked accept(2) and refuses new connections, for every clone of the socket.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        self.shared.sockets.shut_idle();
    }

    /// Ends the connections that have become idle since.
    pub(crate) fn close_idle(&self) {
        self.shared.sockets.shut_idle();
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.shared.sockets.shut_all();
    }

    /// True once [`Listener::stop_accepting`] was called: answers then end their connection.
    pub(crate) fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }
}

impl Generation {
    fn start(shared: &Arc<Shared>, socket: &TcpListener) -> io::Result<Arc<Generation>> {
        let server = Server::from_listener(socket.try_clone()?, None).map_err(io::Error::other)?;
        let generation = Arc::new(Generation {
            server,
            turn: Mutex::new(false),
            turn_over: Condvar::new(),
            idle: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
        });
        for _ in 0..IDLE_WORKERS_MIN {
            spawn_worker(shared, &generation)?;
        }
        Ok(generation)
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
    let mut idle_since = clock::now().mono;
    loop {
        match generation.take(shared) {
            Taken::Request(peer, place) => {
                let was_last = generation.idle.fetch_sub(1, Ordering::AcqRel) == 1;
                if was_last && shared.workers.load(Ordering::Acquire) < WORKERS_MAX {
                    // Without a thread to spare this worker comes back to the queue when it is done.
                    let _ = spawn_worker(shared, generation);
                }
                serve(shared, peer, place);
                generation.idle.fetch_add(1, Ordering::AcqRel);
                idle_since = clock::now().mono;
            }
            Taken::Nothing => {
                let idle = generation.idle.load(Ordering::Acquire);
                let forgotten = generation.retired.load(Ordering::Acquire)
                    && shared.sockets.can_look()
                    && clock::now().mono.since(idle_since) >= RETIRED_PATIENCE;
                let surplus = (idle > IDLE_WORKERS_MIN || forgotten && idle > 0)
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
                generation.retired.store(true, Ordering::Release);
                shared.wake.notify_all();
            }
        }
    }
    shared.workers.fetch_sub(1, Ordering::AcqRel);
}

/// What a worker got from the library.
enum Taken {
    Request(SocketAddr, LinedUp<Request>),
    Nothing,
    AcceptEnded,
}

impl Generation {
    /// Waits for a request. One worker at a time, so that the requests of a connection line up in their own order.
    fn take(&self, shared: &Shared) -> Taken {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Not a plain lock: workers that wait for their turn must see, all at once, that they are not needed any more.
        let (mut turn, _) = self
            .turn_over
            .wait_timeout_while(turn, WORKER_PATIENCE, |taken| *taken)
            .unwrap_or_else(PoisonError::into_inner);
        if *turn {
            return Taken::Nothing;
        }
        *turn = true;
        drop(turn);
        let _turn = Turn(self);
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

/// A worker's turn; the next one's begins when it is dropped.
struct Turn<'a>(&'a Generation);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.turn.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.turn_over.notify_one();
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
        let _awake = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
        shared.wake.notify_all();
    }
}

/// The thread that keeps the library going.
struct Keeper {
    shared: Arc<Shared>,
    socket: TcpListener,
    current: Arc<Generation>,
}

impl Keeper {
    fn run(mut self) {
        let mut last_probe = clock::now().mono;
        let mut last_sweep = last_probe;
        let mut open = 0;
        let mut failed = 0_u32;
        let mut last_rebuild: Option<Mono> = None;
        while !self.rest() {
            if self.shared.new_peers.swap(false, Ordering::AcqRel) {
                self.poke();
            }
            let now = clock::now().mono;
            if now.since(last_sweep) >= SWEEP_EVERY {
                last_sweep = now;
                let swept = self
                    .shared
                    .sockets
                    .sweep(&self.shared.too_slow, &self.shared.unsupported);
                HUNG.fetch_add(swept.hung, Ordering::Relaxed);
                open = swept.open;
            }
            let suspicious = LIBRARY_PANICKED.swap(false, Ordering::AcqRel);
            if suspicious || now.since(last_probe) >= PROBE_EVERY && open > 0 {
                last_probe = now;
                failed = if self.answers() { 0 } else { failed + 1 };
            }
            let due = last_rebuild.is_none_or(|last| now.since(last) >= REBUILD_EVERY);
            if due && (self.current.retired.load(Ordering::Acquire) || failed >= 2) {
                failed = 0;
                last_rebuild = Some(now);
                self.rebuild();
            }
        }
    }

    /// Sleeps until the next sweep, a new peer, or the end; true at the end.
    fn rest(&self) -> bool {
        let stop = self
            .shared
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *stop {
            return true;
        }
        if self.shared.new_peers.load(Ordering::Acquire) {
            return false;
        }
        let (stop, _) = self
            .shared
            .wake
            .wait_timeout(stop, SWEEP_EVERY)
            .unwrap_or_else(PoisonError::into_inner);
        *stop
    }

    /// Connections that close at once: each makes the library's pool take up one that waits.
    fn poke(&self) {
        let address = reachable(self.shared.address);
        for pause in POKES {
            thread::sleep(pause);
            for _ in 0..POKE_SIZE {
                // A full backlog answers by itself later.
                let _ = TcpStream::connect_timeout(&address, PROBE_LIMIT);
            }
            self.shared.new_peers.store(false, Ordering::Release);
        }
    }

    /// A real request, so that a library that accepts and does not serve is noticed.
    fn answers(&self) -> bool {
        let ask = || -> io::Result<bool> {
            let mut stream =
                TcpStream::connect_timeout(&reachable(self.shared.address), PROBE_LIMIT)?;
            stream.set_read_timeout(Some(PROBE_LIMIT))?;
            stream.set_write_timeout(Some(PROBE_LIMIT))?;
            stream.write_all(&self.shared.probe)?;
            stream.shutdown(Shutdown::Write)?;
            let mut start = [0; 8];
            stream.read_exact(&mut start)?;
            Ok(&start == b"HTTP/1.1")
        };
        ask().unwrap_or(false)
    }

    /// A new server on the same socket. The old one's connections are served on by its own workers.
    fn rebuild(&mut self) {
        if let Ok(next) = Generation::start(&self.shared, &self.socket) {
            self.current = next;
        }
    }
}

/// Where a connection to our own socket goes: a wildcard address is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The library panics in its own threads over clients that leave early. Those lines help nobody; the panic is noted instead.
fn quiet_library_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if info
                .location()
                .is_some_and(|location| location.file().contains("tiny_http"))
            {
                LIBRARY_PANICKED.store(true, Ordering::Release);
            } else {
                before(info);
            }
        }));
    });
}
