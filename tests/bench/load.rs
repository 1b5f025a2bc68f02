//! The load generator: several connections on one thread, each sending its next request as soon as
//! the previous one is answered.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection};

use super::link::{Link, More, Read};
use super::wire::{Incoming, Kind};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where requests go.
#[derive(Clone)]
pub struct Destination {
    pub address: SocketAddr,
    /// TLS from here on; only used without a proxy in between.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Destination {
    pub fn connect(&self) -> io::Result<Link> {
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        let tls = match &self.tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let client =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Some(Connection::Client(client))
            }
        };
        Link::new(socket, tls)
    }
}

/// What to send, and how.
pub struct Load {
    pub request: Vec<u8>,
    pub connections: usize,
    /// Requests during this time are not counted.
    pub warm_up: Duration,
    pub time: Duration,
}

/// The results of a load.
pub struct Served {
    /// The time of each request in nanoseconds, sorted.
    pub latencies: Vec<u64>,
    pub seconds: f64,
    /// Processor time of the measured program.
    pub cpu: Duration,
}

impl Served {
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// Microseconds of processor time for each request.
    pub fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len().max(1) as f64
    }
}

struct Client {
    link: Link,
    incoming: Incoming,
    since: Instant,
    watches_room: bool,
    is_idle: bool,
}

/// Runs the load; `cpu` returns the processor time used so far.
pub fn run(to: &Destination, load: &Load, cpu: impl Fn() -> Duration) -> io::Result<Served> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::new();
    for index in 0..load.connections {
        let link = to.connect()?;
        epoll::add(&epoll, &link, EventData::new_u64(index as u64), EventFlags::IN)?;
        clients.push(Client {
            link,
            incoming: Incoming::default(),
            since: Instant::now(),
            watches_room: false,
            is_idle: false,
        });
    }
    let start = Instant::now();
    let count_from = start + load.warm_up;
    let end = count_from + load.time;
    let mut cpu_before = load.warm_up.is_zero().then(|| (start, cpu()));
    let mut latencies = Vec::new();
    for (index, client) in clients.iter_mut().enumerate() {
        client.ask(&epoll, index, &load.request)?;
    }
    let mut idle = 0;
    let mut buffer = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut ended = end;
    let mut cpu_after = Duration::ZERO;
    while idle < clients.len() {
        let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if start.elapsed() > load.warm_up + load.time + PATIENCE {
            return Err(io::Error::other("no answer for too long"));
        }
        for event in &events {
            let index = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
            let client = &mut clients[index];
            if !client.advance(&epoll, index, &mut buffer)? {
                continue;
            }
            let now = Instant::now();
            if now >= count_from && cpu_before.is_none() {
                // This request began during the warm-up.
                cpu_before = Some((now, cpu()));
            } else if cpu_before.is_some() && (now <= end || latencies.is_empty()) {
                latencies.push(u64::try_from((now - client.since).as_nanos()).unwrap_or(u64::MAX));
                ended = now;
            }
            if now < end || latencies.is_empty() {
                client.ask(&epoll, index, &load.request)?;
            } else {
                if idle == 0 {
                    cpu_after = cpu();
                }
                client.is_idle = true;
                idle += 1;
            }
        }
    }
    latencies.sort_unstable();
    let (counted_from, cpu_before) = cpu_before.unwrap_or((start, Duration::ZERO));
    Ok(Served {
        latencies,
        seconds: (ended - counted_from).as_secs_f64(),
        cpu: cpu_after.saturating_sub(cpu_before),
    })
}

impl Client {
    fn ask(&mut self, epoll: &OwnedFd, index: usize, request: &[u8]) -> io::Result<()> {
        self.incoming.clear();
        self.since = Instant::now();
        self.link.send(request)?;
        self.watch(epoll, index)
    }

    fn watch(&mut self, epoll: &OwnedFd, index: usize) -> io::Result<()> {
        if self.watches_room != self.link.wants_write() {
            self.watches_room = !self.watches_room;
            let room = if self.watches_room { EventFlags::OUT } else { EventFlags::empty() };
            epoll::modify(
                epoll,
                &self.link,
                EventData::new_u64(index as u64),
                EventFlags::IN | room,
            )?;
        }
        Ok(())
    }

    /// Reads what is available; true once the answer is complete.
    fn advance(&mut self, epoll: &OwnedFd, index: usize, buffer: &mut Vec<u8>) -> io::Result<bool> {
        self.link.flush()?;
        let mut whole = false;
        loop {
            match self.link.read(buffer)? {
                Read::Nothing => break,
                Read::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Read::Bytes(more) => {
                    whole = self
                        .incoming
                        .feed(Kind::Response, buffer, |_| ())
                        .map_err(io::Error::other)?;
                    if more == More::No {
                        break;
                    }
                }
            }
        }
        self.watch(epoll, index)?;
        if whole && self.incoming.status() != 200 {
            let head = String::from_utf8_lossy(self.incoming.head()).into_owned();
            return Err(io::Error::other(head));
        }
        Ok(whole && !self.is_idle)
    }
}
