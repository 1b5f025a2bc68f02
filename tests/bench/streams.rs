//! Many concurrent event streams: the time to the first byte, and the delay of each event.

use std::io;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use super::link::{Link, More, Read};
use super::load::Destination;
use super::stub::{Clock, STAMP, STAMP_DIGITS};
use super::wire::{Incoming, Kind};

/// The streams to request.
#[derive(Clone, Copy)]
pub struct Streams {
    pub count: usize,
    pub events: usize,
    pub pace: Duration,
    /// Sends all requests at once, as a burst, instead of spreading them over the first `pace`.
    pub is_burst: bool,
}

/// The results; all times are in nanoseconds and sorted.
pub struct Seen {
    /// Time from the request to the first byte of the first event.
    pub first: Vec<u64>,
    /// Time from sending each event in the stub to reading it here.
    pub delays: Vec<u64>,
    /// Processor time of the measured program.
    pub cpu: Duration,
}

impl Streams {
    fn time(self) -> Duration {
        self.pace * u32::try_from(self.events).unwrap_or(u32::MAX)
    }
}

struct Client {
    link: Link,
    incoming: Incoming,
    text: Vec<u8>,
    asked: u64,
    first: Option<u64>,
    events: usize,
}

/// Runs the streams on connections that were opened beforehand. Unless they are a burst, each
/// begins a little after the previous one, so that events are spread evenly. `halfway` is called
/// once, in the middle.
pub fn run(
    to: &Destination,
    streams: Streams,
    request: &[u8],
    clock: Clock,
    cpu: impl Fn() -> Duration,
    mut halfway: impl FnMut(),
) -> io::Result<Seen> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::new();
    for index in 0..streams.count {
        let link = to.connect()?;
        epoll::add(&epoll, &link, EventData::new_u64(index as u64), EventFlags::IN)?;
        clients.push(Some(Client {
            link,
            incoming: Incoming::default(),
            text: Vec::new(),
            asked: 0,
            first: None,
            events: 0,
        }));
    }
    let mut seen = Seen {
        first: Vec::new(),
        delays: Vec::with_capacity(streams.count * streams.events),
        cpu: Duration::ZERO,
    };
    let cpu_before = cpu();
    let start = Instant::now();
    let patience = streams.time() * 4 + Duration::from_secs(60);
    let mut is_halfway = false;
    let (mut begun, mut over) = (0, 0);
    let mut buffer = Vec::new();
    let mut events = Vec::with_capacity(256);
    while over < streams.count {
        let spread = if streams.is_burst { Duration::ZERO } else { streams.pace };
        let due = |index: usize| spread.mul_f64(index as f64 / streams.count as f64);
        while begun < streams.count && start.elapsed() >= due(begun) {
            if let Some(client) = &mut clients[begun] {
                client.asked = clock.now();
                client.link.send(request)?;
            }
            begun += 1;
        }
        if !is_halfway && start.elapsed() >= streams.time() / 2 {
            is_halfway = true;
            halfway();
        }
        if start.elapsed() > patience {
            return Err(io::Error::other(format!(
                "{} of {} streams never ended",
                streams.count - over,
                streams.count
            )));
        }
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: if begun < streams.count { 1_000_000 } else { 50_000_000 },
        };
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let index = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
            let Some(client) = &mut clients[index] else {
                continue;
            };
            if client.advance(clock, &mut buffer, &mut seen.delays)? {
                if client.events != streams.events {
                    let head = String::from_utf8_lossy(client.incoming.head());
                    return Err(io::Error::other(format!(
                        "a stream of {} events instead of {}: {head}",
                        client.events, streams.events
                    )));
                }
                let first = client.first.unwrap_or(u64::MAX);
                seen.first.push(first.saturating_sub(client.asked));
                clients[index] = None;
                over += 1;
            }
        }
    }
    seen.cpu = cpu().saturating_sub(cpu_before);
    for list in [&mut seen.first, &mut seen.delays] {
        list.sort_unstable();
    }
    Ok(seen)
}

impl Client {
    /// Reads what is available; true at the end of the stream.
    fn advance(
        &mut self,
        clock: Clock,
        buffer: &mut Vec<u8>,
        delays: &mut Vec<u64>,
    ) -> io::Result<bool> {
        self.link.flush()?;
        loop {
            match self.link.read(buffer)? {
                Read::Nothing => return Ok(false),
                Read::End if self.incoming.is_to_end() => return Ok(true),
                Read::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Read::Bytes(more) => {
                    let now = clock.now();
                    let text = &mut self.text;
                    let whole = self
                        .incoming
                        .feed(Kind::Response, buffer, |bytes| text.extend_from_slice(bytes))
                        .map_err(io::Error::other)?;
                    if self.incoming.body_bytes > 0 && self.first.is_none() {
                        self.first = Some(now);
                    }
                    self.events += take_stamps(text, now, delays);
                    if whole {
                        return Ok(true);
                    }
                    if more == More::No {
                        return Ok(false);
                    }
                }
            }
        }
    }
}

/// Removes the time stamps of all complete events from the text and counts them.
fn take_stamps(text: &mut Vec<u8>, now: u64, delays: &mut Vec<u64>) -> usize {
    let (mut count, mut at) = (0, 0);
    while let Some(found) = text[at..].windows(STAMP.len()).position(|window| window == STAMP) {
        let from = at + found + STAMP.len();
        let Some(digits) = text.get(from..from + STAMP_DIGITS) else {
            at += found;
            break;
        };
        let sent = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
        delays.push(now.saturating_sub(sent.unwrap_or(0)));
        count += 1;
        at = from + STAMP_DIGITS;
    }
    let keep = (text.len() - at).min(STAMP.len() + STAMP_DIGITS);
    let cut = text.len() - keep;
    text.drain(..cut.max(at));
    count
}
