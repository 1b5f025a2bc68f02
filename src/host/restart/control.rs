//! Messages between the leader and its workers: frames on a pair of stream sockets, some with a
//! descriptor.
//!
//! A frame's text is a word, a line end and the rest. Unknown words are skipped, so that an earlier
//! version of the program can start a later one. The sockets are stream sockets, because packet
//! sockets limit the size of a message and do not exist everywhere. A peer that does not read loses
//! messages, and its deadlines expose it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, getsockname, recvmsg, sendmsg, sockopt,
};

use crate::clock;
use crate::platform::{self, poll_for};

/// Orders of the leader to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first message: prepare to serve. May carry the listening socket.
    Start {
        /// Who opened the socket.
        origin: Origin,
        /// Where to show what happens.
        seat: Seat,
        /// Why the previous worker is gone, if it did not hand over.
        note: String,
    },
    /// Serve. The text is what the previous worker has learned; empty if nothing was handed over.
    Go(String),
    /// A new worker is being started.
    Starting,
    /// Stop accepting connections and report what was learned. The number comes back in
    /// [`Report::Yielded`].
    Yield(u32),
    /// The new worker failed, for this reason: accept connections again.
    Resume(String),
    /// The new worker failed before this one was asked to yield.
    Failed(String),
    /// The process of this number serves: finish all requests, then end.
    Retire(u32),
    /// What a worker that has ended learned after its hand-over.
    Learn(String),
    /// What the dashboard of a worker that has handed over has shown.
    Recall(String),
    /// A log line of a worker that has handed over.
    Hear(String),
    /// Stop: accept no more connections, finish running requests, then end. The text is what asked
    /// for it, such as `SIGTERM`.
    Drain(String),
    /// Cut off what still runs, and end.
    Cut,
    /// Read the config again.
    Reload,
    /// Answer with [`Report::Pong`].
    Ping,
}

/// Who opened a worker's listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// We did, as the config says.
    Config,
    /// A supervisor did and keeps it open: it must never be shut down, only closed.
    Supervisor,
}

/// Where a worker shows what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// On a terminal, for a person.
    Terminal,
    /// As lines, for a supervisor, a script or a pipe.
    Background,
}

/// Reports of a worker to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Ready to serve. Carries the listening socket.
    Prepared,
    /// Serving, as the process of this number.
    Serving(u32),
    /// No longer accepts connections; the text is what it has learned.
    Yielded(u32, String),
    /// Cannot start, for this reason.
    Failed(String),
    /// What was learned since [`Report::Yielded`], sent at the end.
    Learned(String),
    /// What the dashboard has shown: the log and the figures of the last hour.
    Seen(String),
    /// A log line for the worker that has the screen now.
    Said(String),
    /// The config was read again, successfully or not.
    Reloaded,
    /// Alive.
    Pong,
    /// The user, or the worker itself, wants a restart.
    Restart,
    /// The user wants the server to stop, by this signal.
    Quit(String),
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Control {
    fd: OwnedFd,
    /// Locked while one frame is sent.
    sending: Mutex<()>,
    incoming: Mutex<Incoming>,
}

/// A frame's header: the length of its text as four bytes, big-endian, and the number of
/// descriptors that come with it.
const HEADER_BYTES: usize = 5;
/// Far above what is ever handed over: a larger length is not a valid frame.
const TEXT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most bytes per read.
const READ_BYTES: usize = 64 * 1024;
/// Longest pause of a peer in the middle of a frame.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// The result of [`Control::receive`].
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A message, and its descriptor.
    Message(T, Option<OwnedFd>),
    /// Nothing, or nothing that this version knows.
    Nothing,
    /// The other side is gone.
    End,
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Control {
    /// A connected pair.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(crate) fn pair() -> io::Result<(Control, Control)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Control::over(one.into()), Control::over(other.into())))
    }

    fn over(fd: OwnedFd) -> Control {
        Control { fd, sending: Mutex::default(), incoming: Mutex::default() }
    }

    /// The end that a worker process receives as its standard input.
    ///
    /// # Errors
    /// Standard input is something else.
    pub(crate) fn from_stdin() -> io::Result<Control> {
        let fd = rustix::stdio::stdin().try_clone_to_owned()?;
        let is_local = getsockname(&fd)?.address_family() == AddressFamily::UNIX;
        if !is_local || sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Replaced so that nothing reads a message from standard input by mistake. Without
        // /dev/null it stays as it is.
        if let Ok(null) = std::fs::File::open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(null);
        }
        Ok(Control::over(fd))
    }

    /// Sends an order.
    pub(crate) fn order(&self, order: &Order, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(&order.encode(), socket)
    }

    /// Sends a report.
    pub(crate) fn report(&self, report: &Report, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(&report.encode(), socket)
    }

    /// The next order, if one is there.
    pub(crate) fn next_order(&self) -> Received<Order> {
        self.receive(Order::decode)
    }

    /// The next report, if one is there.
    pub(crate) fn next_report(&self) -> Received<Report> {
        self.receive(Report::decode)
    }

    /// Closes the connection for both sides, whoever else has this end.
    pub(crate) fn close(&self) {
        // The other end may be closed already.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// For the standard input of a new process.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one frame, in a single `sendmsg` if the kernel accepts it.
    fn send(&self, text: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_be_bytes());
        header[4] = u8::from(socket.is_some());
        let frame = [&header, text.as_bytes()].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::DONTWAIT;
        let mut sent = sendmsg(&self.fd, &[IoSlice::new(&frame)], &mut ancillary, flags)?;
        let end = clock::mono() + SEND_LIMIT;
        while sent < frame.len() {
            match rustix::net::send(&self.fd, &frame[sent..], flags) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if clock::mono() < end => {
                    let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
                    poll_for(&mut fds, end.since(clock::mono()));
                }
                Err(error) => {
                    // Half a frame was sent: the peer could not parse what follows.
                    self.close();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Reads no further than the end of one frame, so that `poll` reports the next one.
    fn receive<T>(&self, decode: impl Fn(&str) -> Option<T>) -> Received<T> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let missing = match incoming.missing() {
                Some(0) => break,
                Some(missing) => missing,
                None => return Received::End,
            };
            let start = incoming.frame.len();
            incoming.frame.resize(start + missing.min(READ_BYTES), 0);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut incoming.frame[start..])];
            let got = recvmsg(&self.fd, &mut into, &mut ancillary, RecvFlags::DONTWAIT);
            let count = got.as_ref().map_or(0, |got| got.bytes);
            incoming.frame.truncate(start + count);
            let socket = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            if let Some(socket) = socket {
                platform::close_on_exec(&socket);
                incoming.socket = Some(socket);
            }
            match got {
                Ok(_) if count > 0 => {}
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Ok(_) | Err(_) => return Received::End,
            }
        }
        let frame = std::mem::take(&mut incoming.frame);
        let socket = incoming.socket.take();
        match std::str::from_utf8(&frame[HEADER_BYTES..]).ok().and_then(decode) {
            Some(message) => Received::Message(message, socket),
            None => Received::Nothing,
        }
    }
}

/// A partly received frame and its descriptor.
#[derive(Debug, Default)]
struct Incoming {
    frame: Vec<u8>,
    socket: Option<OwnedFd>,
}

impl Incoming {
    /// Bytes missing from the frame, as far as its header tells; `None` if it is not a valid frame.
    fn missing(&self) -> Option<usize> {
        let Some(header) = self.frame.first_chunk::<HEADER_BYTES>() else {
            return Some(HEADER_BYTES - self.frame.len());
        };
        let [a, b, c, d, descriptors] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        let is_frame = length <= TEXT_BYTES_MAX && descriptors <= 1;
        is_frame.then(|| HEADER_BYTES + length - self.frame.len())
    }
}

impl Order {
    fn encode(&self) -> String {
        match self {
            Order::Start { origin, seat, note } => {
                let origin = match origin {
                    Origin::Config => "config",
                    Origin::Supervisor => "supervisor",
                };
                let seat = match seat {
                    Seat::Terminal => "terminal",
                    Seat::Background => "background",
                };
                format!("start\n{origin} {seat}\n{note}")
            }
            Order::Go(state) => format!("go\n{state}"),
            Order::Starting => "starting\n".to_owned(),
            Order::Yield(number) => format!("yield\n{number}"),
            Order::Resume(why) => format!("resume\n{why}"),
            Order::Failed(why) => format!("failed\n{why}"),
            Order::Retire(pid) => format!("retire\n{pid}"),
            Order::Learn(state) => format!("learn\n{state}"),
            Order::Recall(seen) => format!("recall\n{seen}"),
            Order::Hear(text) => format!("hear\n{text}"),
            Order::Drain(by) => format!("drain\n{by}"),
            Order::Cut => "cut\n".to_owned(),
            Order::Reload => "reload\n".to_owned(),
            Order::Ping => "ping\n".to_owned(),
        }
    }

    fn decode(text: &str) -> Option<Order> {
        let (word, rest) = text.split_once('\n')?;
        Some(match word {
            "start" => {
                let (how, note) = rest.split_once('\n')?;
                let (origin, seat) = how.split_once(' ')?;
                let origin = match origin {
                    "supervisor" => Origin::Supervisor,
                    _ => Origin::Config,
                };
                let seat = match seat {
                    "terminal" => Seat::Terminal,
                    _ => Seat::Background,
                };
                let note = note.to_owned();
                Order::Start { origin, seat, note }
            }
            "go" => Order::Go(rest.to_owned()),
            "starting" => Order::Starting,
            "yield" => Order::Yield(rest.parse().ok()?),
            "resume" => Order::Resume(rest.to_owned()),
            "failed" => Order::Failed(rest.to_owned()),
            "retire" => Order::Retire(rest.parse().ok()?),
            "learn" => Order::Learn(rest.to_owned()),
            "recall" => Order::Recall(rest.to_owned()),
            "hear" => Order::Hear(rest.to_owned()),
            "drain" => Order::Drain(rest.to_owned()),
            "cut" => Order::Cut,
            "reload" => Order::Reload,
            "ping" => Order::Ping,
            _ => return None,
        })
    }
}

impl Report {
    fn encode(&self) -> String {
        match self {
            Report::Prepared => "prepared\n".to_owned(),
            Report::Serving(pid) => format!("serving\n{pid}"),
            Report::Yielded(number, state) => format!("yielded\n{number}\n{state}"),
            Report::Failed(why) => format!("failed\n{why}"),
            Report::Learned(state) => format!("learned\n{state}"),
            Report::Seen(seen) => format!("seen\n{seen}"),
            Report::Said(text) => format!("said\n{text}"),
            Report::Reloaded => "reloaded\n".to_owned(),
            Report::Pong => "pong\n".to_owned(),
            Report::Restart => "restart\n".to_owned(),
            Report::Quit(by) => format!("quit\n{by}"),
        }
    }

    fn decode(text: &str) -> Option<Report> {
        let (word, rest) = text.split_once('\n')?;
        Some(match word {
            "prepared" => Report::Prepared,
            "serving" => Report::Serving(rest.parse().ok()?),
            "yielded" => {
                let (number, state) = rest.split_once('\n')?;
                Report::Yielded(number.parse().ok()?, state.to_owned())
            }
            "failed" => Report::Failed(rest.to_owned()),
            "learned" => Report::Learned(rest.to_owned()),
            "seen" => Report::Seen(rest.to_owned()),
            "said" => Report::Said(rest.to_owned()),
            "reloaded" => Report::Reloaded,
            "pong" => Report::Pong,
            "restart" => Report::Restart,
            "quit" => Report::Quit(rest.to_owned()),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn every_order_and_report_arrives_as_it_was_sent() {
        let (leader, worker) = Control::pair().unwrap();
        let start =
            |origin| Order::Start { origin, seat: Seat::Terminal, note: "two\nlines".into() };
        let orders = [
            start(Origin::Config),
            start(Origin::Supervisor),
            Order::Go("{}\n".repeat(20_000)),
            Order::Go(String::new()),
            Order::Starting,
            Order::Yield(7),
            Order::Resume("a\nb".into()),
            Order::Failed(String::new()),
            Order::Retire(4711),
            Order::Learn("{}".into()),
            Order::Recall("{}".into()),
            Order::Hear("a line".into()),
            Order::Drain("SIGTERM".into()),
            Order::Cut,
            Order::Reload,
            Order::Ping,
        ];
        for order in orders {
            leader.order(&order, None).unwrap();
            let Received::Message(got, None) = worker.next_order() else {
                panic!("{order:?} did not arrive");
            };
            assert_eq!(got, order);
        }
        let reports = [
            Report::Prepared,
            Report::Serving(4711),
            Report::Yielded(7, "{\n}".into()),
            Report::Failed("why".into()),
            Report::Learned(String::new()),
            Report::Seen("{}".into()),
            Report::Said("a line".into()),
            Report::Reloaded,
            Report::Pong,
            Report::Restart,
            Report::Quit("SIGINT".into()),
        ];
        for report in reports {
            worker.report(&report, None).unwrap();
            let Received::Message(got, None) = leader.next_report() else {
                panic!("{report:?} did not arrive");
            };
            assert_eq!(got, report);
        }
        assert!(matches!(leader.next_report(), Received::Nothing));
    }

    #[test]
    fn a_socket_travels_with_its_message() {
        let (leader, worker) = Control::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        leader.order(&Order::Drain("SIGTERM".into()), Some(listener.as_fd())).unwrap();
        drop(listener);
        let Received::Message(Order::Drain(_), Some(socket)) = worker.next_order() else {
            panic!("no socket");
        };
        assert_eq!(TcpListener::from(socket).local_addr().unwrap(), address);
    }

    #[test]
    fn an_unknown_word_is_skipped_and_the_end_is_told() {
        let (leader, worker) = Control::pair().unwrap();
        for text in ["dance\nnow", "no line end", "yield\nx", "\n"] {
            leader.send(text, None).unwrap();
            assert!(matches!(worker.next_order(), Received::Nothing), "{text:?}");
        }
        leader.order(&Order::Cut, None).unwrap();
        drop(leader);
        assert!(matches!(worker.next_order(), Received::Message(Order::Cut, None)));
        assert!(matches!(worker.next_order(), Received::End));
    }

    #[test]
    fn a_message_larger_than_the_sockets_buffers_arrives_whole_with_its_socket() {
        let (leader, worker) = Control::pair().unwrap();
        let learned = "learned ".repeat(500_000);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (message, next) = std::thread::scope(|scope| {
            scope.spawn(|| {
                leader.order(&Order::Go(learned.clone()), Some(listener.as_fd())).unwrap();
                leader.order(&Order::Ping, None).unwrap();
            });
            let readable = || poll_for(&mut [PollFd::new(&worker, PollFlags::IN)], SEND_LIMIT);
            let next = || {
                while readable() {
                    match worker.next_order() {
                        Received::Nothing => {}
                        other => return other,
                    }
                }
                Received::Nothing
            };
            (next(), next())
        });
        let Received::Message(Order::Go(got), Some(socket)) = message else {
            panic!("no message, or no socket with it");
        };
        assert!(got == learned, "{} bytes of {}", got.len(), learned.len());
        assert_eq!(TcpListener::from(socket).local_addr().unwrap(), address);
        assert!(matches!(next, Received::Message(Order::Ping, None)));
    }

    #[test]
    fn a_peer_that_reads_nothing_blocks_nobody() {
        let (leader, _worker) = Control::pair().unwrap();
        let failed = (0..100_000).find(|_| leader.order(&Order::Ping, None).is_err());
        assert!(failed.is_some());
    }
}
