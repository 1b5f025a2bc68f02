//! The upstream of every measurement: one thread, one epoll instance, and answers that cost as
//! little as possible.
//!
//! The request's `accept` header, which every proxy forwards, selects the answer: `json` (the
//! default), `sse EVENTS PACE_US`, or `bytes COUNT`. Each event of a stream contains the time at
//! which it was sent.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Connection, ServerConfig, ServerConnection};

use super::link::{Link, More, Read};
use super::wire::{self, Incoming, Kind};

/// A small API answer.
const JSON: &[u8] = br#"{"id":"msg_01","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"Hello."}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":12,"output_tokens":5,"cache_read_input_tokens":0,"cache_creation_input_tokens":0}}"#;
/// The first event of a stream.
const START: &[u8] = b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-4-5\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":12,\"output_tokens\":1}}}\n\n";
/// The last event of a stream.
const STOP: &[u8] = b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
/// Marks the time stamp in an event.
pub const STAMP: &[u8] = b"@@";
/// Digits of the time stamp: nanoseconds since [`Clock`]'s start.
pub const STAMP_DIGITS: usize = 16;
/// Bytes of each event of a stream.
const EVENT_BYTES: usize = 200;
/// The most bytes of a large answer that are buffered at once.
const BLOCK_BYTES: usize = 256 * 1024;

/// A clock that the stub and the clients share.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    pub fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The addresses of the stub, which runs until the process ends.
#[derive(Clone, Copy)]
pub struct Stub {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
}

impl Stub {
    pub fn start(clock: Clock) -> io::Result<Stub> {
        let plain = TcpListener::bind("127.0.0.1:0")?;
        let tls = TcpListener::bind("127.0.0.1:0")?;
        for listener in [&plain, &tls] {
            rustix::net::listen(listener, 1024)?;
            listener.set_nonblocking(true)?;
        }
        let stub = Stub { plain: plain.local_addr()?, tls: tls.local_addr()? };
        let run = Loop::new(clock, plain, tls)?;
        std::thread::Builder::new().name("stub".into()).spawn(move || {
            if let Err(error) = run.run() {
                panic!("the upstream stub has ended: {error}");
            }
        })?;
        Ok(stub)
    }
}

struct Peer {
    link: Link,
    incoming: Incoming,
    /// Tells a new connection from an earlier one in the same slot.
    generation: u64,
    watches_room: bool,
    answer: Answer,
}

#[derive(Clone, Copy)]
enum Answer {
    None,
    Stream { left: usize, pace: Duration, next: u64 },
    Bytes { left: usize },
}

struct Loop {
    clock: Clock,
    epoll: OwnedFd,
    timer: OwnedFd,
    listeners: [TcpListener; 2],
    tls: Arc<ServerConfig>,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    generation: u64,
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
    json: Vec<u8>,
    buffer: Vec<u8>,
}

const TIMER: u64 = u64::MAX;
const LISTENERS: u64 = u64::MAX - 2;

impl Loop {
    fn new(clock: Clock, plain: TcpListener, tls: TcpListener) -> io::Result<Loop> {
        let certificate = CertificateDer::from(include_bytes!("../data/server.der").to_vec());
        let key = PrivateKeyDer::try_from(include_bytes!("../data/server-key.der").to_vec())
            .map_err(io::Error::other)?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(io::Error::other)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        epoll::add(&epoll, &plain, EventData::new_u64(LISTENERS), EventFlags::IN)?;
        epoll::add(&epoll, &tls, EventData::new_u64(LISTENERS + 1), EventFlags::IN)?;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_011\r\ncontent-length: {}\r\n\r\n",
            JSON.len()
        );
        let mut json = head.into_bytes();
        json.extend_from_slice(JSON);
        Ok(Loop {
            clock,
            epoll,
            timer,
            listeners: [plain, tls],
            tls: Arc::new(config),
            peers: Vec::new(),
            free: Vec::new(),
            generation: 0,
            due: BinaryHeap::new(),
            json,
            buffer: Vec::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    TIMER => {
                        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    }
                    listener @ LISTENERS.. => {
                        // If descriptors run out, the measurement that fails will report it.
                        let _ = self.accept(usize::try_from(listener - LISTENERS).unwrap_or(0));
                    }
                    index => self.serve(usize::try_from(index).unwrap_or(0)),
                }
            }
            self.send_due()?;
        }
    }

    fn accept(&mut self, which: usize) -> io::Result<()> {
        loop {
            let (socket, _) = self.listeners[which].accept()?;
            let tls = match which {
                0 => None,
                _ => Some(Connection::Server(
                    ServerConnection::new(Arc::clone(&self.tls)).map_err(io::Error::other)?,
                )),
            };
            self.generation += 1;
            let peer = Peer {
                link: Link::new(socket, tls)?,
                incoming: Incoming::default(),
                generation: self.generation,
                watches_room: false,
                answer: Answer::None,
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            epoll::add(&self.epoll, &peer.link, EventData::new_u64(index as u64), EventFlags::IN)?;
            self.peers[index] = Some(peer);
        }
    }

    fn serve(&mut self, index: usize) {
        let Some(mut peer) = self.peers[index].take() else {
            return;
        };
        match self.advance(index, &mut peer) {
            Ok(true) => self.peers[index] = Some(peer),
            Ok(false) | Err(_) => self.free.push(index),
        }
    }

    /// False at the end of the connection.
    fn advance(&mut self, index: usize, peer: &mut Peer) -> io::Result<bool> {
        peer.link.flush()?;
        loop {
            match peer.link.read(&mut self.buffer)? {
                Read::Nothing => break,
                Read::End => return Ok(false),
                Read::Bytes(more) => {
                    let whole = peer.incoming.feed(Kind::Request, &self.buffer, |_| ());
                    if whole.map_err(io::Error::other)? {
                        self.answer(index, peer)?;
                        peer.incoming.clear();
                    }
                    if more == More::No {
                        break;
                    }
                }
            }
        }
        // After everything that may flush: the rest is either sent now or waits until the socket is
        // writable.
        send_blocks(peer)?;
        self.watch(index, peer)?;
        Ok(true)
    }

    fn watch(&self, index: usize, peer: &mut Peer) -> io::Result<()> {
        if peer.watches_room != peer.link.wants_write() {
            peer.watches_room = !peer.watches_room;
            let room = if peer.watches_room { EventFlags::OUT } else { EventFlags::empty() };
            epoll::modify(
                &self.epoll,
                &peer.link,
                EventData::new_u64(index as u64),
                EventFlags::IN | room,
            )?;
        }
        Ok(())
    }

    fn answer(&mut self, index: usize, peer: &mut Peer) -> io::Result<()> {
        let order = wire::header(peer.incoming.head(), "accept")
            .and_then(|value| std::str::from_utf8(value).ok());
        let mut words = order.unwrap_or("json").split(' ');
        let kind = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match kind {
            "sse" => {
                let left = usize::try_from(number()).unwrap_or(0);
                let pace = Duration::from_micros(number());
                let now = self.clock.now();
                peer.link.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nrequest-id: req_011\r\ntransfer-encoding: chunked\r\n\r\n")?;
                send_chunk(&mut peer.link, START)?;
                peer.answer = Answer::Stream { left, pace, next: now };
                self.due.push(Reverse((now, index, peer.generation)));
            }
            "bytes" => {
                let left = usize::try_from(number()).unwrap_or(0);
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {left}\r\n\r\n"
                );
                peer.link.send(head.as_bytes())?;
                peer.answer = Answer::Bytes { left };
                send_blocks(peer)?;
            }
            _ => peer.link.send(&self.json)?,
        }
        Ok(())
    }

    /// Sends the events that are due, and sets the timer for the next one.
    fn send_due(&mut self) -> io::Result<()> {
        while let Some(Reverse((at, index, generation))) = self.due.peek().copied() {
            let now = self.clock.now();
            if at > now {
                let wait = Duration::from_nanos(at - now);
                let value = Timespec {
                    tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: i64::from(wait.subsec_nanos()),
                };
                let once = Timespec { tv_sec: 0, tv_nsec: 0 };
                let spec = Itimerspec { it_interval: once, it_value: value };
                timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::empty(), &spec)?;
                return Ok(());
            }
            self.due.pop();
            let Some(mut peer) = self.peers[index].take_if(|peer| peer.generation == generation)
            else {
                continue;
            };
            if self.send_event(index, &mut peer).is_ok() {
                self.peers[index] = Some(peer);
            } else {
                self.free.push(index);
            }
        }
        Ok(())
    }

    fn send_event(&mut self, index: usize, peer: &mut Peer) -> io::Result<()> {
        let Answer::Stream { left, pace, next } = peer.answer else {
            return Ok(());
        };
        if left == 0 {
            send_chunk(&mut peer.link, STOP)?;
            peer.link.send(b"0\r\n\r\n")?;
            peer.answer = Answer::None;
        } else {
            send_chunk(&mut peer.link, &event(self.clock.now()))?;
            let next = next + u64::try_from(pace.as_nanos()).unwrap_or(0);
            peer.answer = Answer::Stream { left: left - 1, pace, next };
            self.due.push(Reverse((next, index, peer.generation)));
        }
        self.watch(index, peer)
    }
}

fn event(now: u64) -> Vec<u8> {
    let mut event = b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"".to_vec();
    event.extend_from_slice(STAMP);
    event.extend_from_slice(format!("{now:0STAMP_DIGITS$}").as_bytes());
    let end = b"\"}}\n\n";
    event.resize(EVENT_BYTES - end.len(), b'x');
    event.extend_from_slice(end);
    event
}

fn send_chunk(link: &mut Link, bytes: &[u8]) -> io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    link.send(&chunk)
}

/// Sends a large answer until the socket accepts no more.
fn send_blocks(peer: &mut Peer) -> io::Result<()> {
    static BLOCK: [u8; BLOCK_BYTES] = [b'x'; BLOCK_BYTES];
    while let Answer::Bytes { left } = peer.answer
        && !peer.link.wants_write()
    {
        let count = left.min(BLOCK_BYTES);
        peer.link.send(&BLOCK[..count])?;
        peer.answer =
            if left > count { Answer::Bytes { left: left - count } } else { Answer::None };
    }
    Ok(())
}
