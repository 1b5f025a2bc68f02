//! Waits for the browser (SPEC T1): a small HTTP listener on both loopback families, beside a terminal for the impatient.
//!
//! Everything is watched by one `poll`, so a browser's idle spare connection holds nobody up. Dropping it closes every
//! socket; nothing else is ever opened, so Ctrl-C leaves nothing behind.

use std::io::{ErrorKind, Read as _, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::callback::{Return, of_paste, of_target};
use crate::clock::Stopwatch;
use crate::config::Secret;
use crate::error::{Error, Result, reason};

/// The listening side of one login.
pub(super) struct Loopback {
    listeners: Vec<TcpListener>,
    port: u16,
}

/// What the browser or the user brought.
pub(super) enum Arrival {
    /// The code, and the browser that waits for a page.
    Code(Secret, Page),
    /// A refusal in words.
    Denied(String, Page),
}

/// The browser's connection, if the answer came by one.
pub(super) struct Page(Option<TcpStream>);

struct Guest {
    stream: TcpStream,
    head: Vec<u8>,
    since: Stopwatch,
}

/// What a connection has come to.
enum Progress {
    Waiting,
    Target(String),
    Over,
}

impl Loopback {
    /// Opens the same free port on both families; one family is enough where the machine has no other.
    pub(super) fn open() -> Result<Loopback> {
        let failed = |cause: &std::io::Error| {
            Error::operator(format!(
                "cannot listen for the browser on this machine: {}",
                reason(cause)
            ))
        };
        for _ in 0..PORTS_TRIED {
            let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .or_else(|_| TcpListener::bind((Ipv6Addr::LOCALHOST, 0)));
            let first = first.map_err(|cause| failed(&cause))?;
            let port = first.local_addr().map_err(|cause| failed(&cause))?.port();
            let second = match first.local_addr() {
                Ok(SocketAddr::V4(_)) => TcpListener::bind((Ipv6Addr::LOCALHOST, port)),
                _ => Err(ErrorKind::Unsupported.into()),
            };
            let second = match second {
                Err(cause) if cause.kind() == ErrorKind::AddrInUse => continue,
                second => second.ok(),
            };
            let listeners: Vec<_> = [first].into_iter().chain(second).collect();
            for listener in &listeners {
                listener
                    .set_nonblocking(true)
                    .map_err(|cause| failed(&cause))?;
            }
            return Ok(Loopback { listeners, port });
        }
        Err(Error::operator(
            "found no port that is free on both loopback addresses; try again",
        ))
    }

    /// What the provider is to send the browser to.
    pub(super) fn redirect_uri(&self) -> String {
        format!("http://localhost:{}/callback", self.port)
    }

    /// Waits for the callback, or for a line on `terminal`, at most for `limit`.
    pub(super) fn wait(
        &self,
        state: &Secret,
        mut terminal: Option<BorrowedFd<'_>>,
        out: &mut dyn Write,
        limit: Duration,
    ) -> Result<Arrival> {
        let watch = Stopwatch::start();
        let mut guests: Vec<Guest> = Vec::new();
        let mut typed = Vec::new();
        while let Some(left) = watch.left_of(limit) {
            let ready = self.poll(&guests, terminal, left)?;
            if let Some(fd) = terminal.filter(|_| ready.terminal) {
                let Some(lines) = typed_lines(fd, &mut typed) else {
                    terminal = None;
                    continue;
                };
                for line in lines {
                    match of_paste(&line, state) {
                        Return::Code(code) => return Ok(Arrival::Code(code, Page(None))),
                        Return::Denied(words) => return Ok(Arrival::Denied(words, Page(None))),
                        Return::WrongState => say(out, WRONG_STATE_PASTED)?,
                        Return::Nothing if line.trim().is_empty() => {}
                        Return::Nothing => say(out, NOTHING_PASTED)?,
                    }
                }
            }
            self.accept(&mut guests);
            let mut at = 0;
            while at < guests.len() {
                match guests[at].read() {
                    Progress::Waiting => at += 1,
                    Progress::Over => drop(guests.swap_remove(at)),
                    Progress::Target(target) => {
                        let page = Page(Some(guests.swap_remove(at).stream));
                        match of_target(&target, state) {
                            Return::Code(code) => return Ok(Arrival::Code(code, page)),
                            Return::Denied(words) => return Ok(Arrival::Denied(words, page)),
                            Return::WrongState => {
                                page.show(Verdict::Refused, "This answer belongs to another login attempt. Nothing was changed.");
                                say(
                                    out,
                                    "An answer came that belongs to another login attempt; it was ignored.",
                                )?;
                            }
                            Return::Nothing => page.not_found(),
                        }
                    }
                }
            }
        }
        Err(Error::operator(format!(
            "no answer from the browser within {}; run the login again",
            crate::clock::human(limit)
        )))
    }

    fn poll(
        &self,
        guests: &[Guest],
        terminal: Option<BorrowedFd<'_>>,
        left: Duration,
    ) -> Result<Ready> {
        let mut watched: Vec<PollFd<'_>> =
            Vec::with_capacity(self.listeners.len() + guests.len() + 1);
        watched.extend(terminal.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        watched.extend(
            self.listeners
                .iter()
                .map(|listener| PollFd::new(listener, PollFlags::IN)),
        );
        watched.extend(
            guests
                .iter()
                .map(|guest| PollFd::new(&guest.stream, PollFlags::IN)),
        );
        // A guest that says nothing is looked at again, to be shown out.
        let wait = if guests.is_empty() {
            left
        } else {
            left.min(Duration::from_secs(1))
        };
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.subsec_nanos()) as _,
        };
        match poll(&mut watched, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(cause) => {
                return Err(Error::operator(format!(
                    "cannot wait for the browser: {}",
                    reason(&cause.into())
                )));
            }
        }
        let terminal = terminal.is_some()
            && watched
                .first()
                .is_some_and(|first| !first.revents().is_empty());
        Ok(Ready { terminal })
    }

    fn accept(&self, guests: &mut Vec<Guest>) {
        for listener in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                if guests.len() >= GUESTS_MAX {
                    drop(guests.remove(0));
                }
                guests.push(Guest {
                    stream,
                    head: Vec::new(),
                    since: Stopwatch::start(),
                });
            }
        }
    }
}

/// What `poll` found that cannot be found by trying.
struct Ready {
    terminal: bool,
}

impl Guest {
    fn read(&mut self) -> Progress {
        let mut piece = [0; 2048];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Progress::Over,
                Ok(count) => self.head.extend_from_slice(&piece[..count]),
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => break,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Over,
            }
            if self.head.len() > HEAD_BYTES_MAX {
                return Progress::Over;
            }
        }
        let head = String::from_utf8_lossy(&self.head);
        if head.contains("\r\n\r\n") || head.contains("\n\n") {
            let mut words = head.split_ascii_whitespace();
            return match (words.next(), words.next()) {
                (Some("GET"), Some(target)) => Progress::Target(target.to_owned()),
                (Some(_), Some(_)) => Progress::Target(String::new()),
                _ => Progress::Over,
            };
        }
        if self.since.elapsed() > GUEST_TIME_MAX {
            Progress::Over
        } else {
            Progress::Waiting
        }
    }
}

/// The lines that are complete by now; `None` at the end of the input.
fn typed_lines(fd: BorrowedFd<'_>, typed: &mut Vec<u8>) -> Option<Vec<String>> {
    let mut piece = [0; 1024];
    match rustix::io::read(fd, &mut piece) {
        Ok(0) => return None,
        Ok(count) => typed.extend_from_slice(&piece[..count]),
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
        Err(_) => return None,
    }
    let mut lines = Vec::new();
    while let Some(end) = typed.iter().position(|byte| *byte == b'\n') {
        lines.push(String::from_utf8_lossy(&typed[..end]).into_owned());
        typed.drain(..=end);
    }
    if typed.len() > HEAD_BYTES_MAX {
        typed.clear();
    }
    Some(lines)
}

/// What a page announces.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    /// The account is there.
    Done,
    /// It is not.
    Refused,
}

impl Page {
    /// Shows the end of the login in the browser, if it is one that waits; whether it gets there matters to nobody.
    pub(super) fn show(self, verdict: Verdict, text: &str) {
        let (status, title, colour) = match verdict {
            Verdict::Done => ("200 OK", "Logged in", "#2e7d32"),
            Verdict::Refused => ("400 Bad Request", "Not logged in", "#b3261e"),
        };
        let html = PAGE
            .replace("{title}", title)
            .replace("{colour}", colour)
            .replace("{text}", &escaped(text));
        self.send(status, &html);
    }

    fn not_found(self) {
        self.send("404 Not Found", "");
    }

    fn send(self, status: &str, html: &str) {
        let Some(mut stream) = self.0 else {
            return;
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
             referrer-policy: no-referrer\r\nconnection: close\r\n\r\n{html}",
            html.len()
        );
        let sent = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_write_timeout(Some(Duration::from_secs(2))))
            .and_then(|()| stream.write_all(answer.as_bytes()));
        if sent.is_ok() {
            // The page was sent; how the browser hangs up does not matter.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

pub(super) fn say(out: &mut dyn Write, text: &str) -> Result<()> {
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|cause| {
        Error::operator(format!("cannot write to the terminal: {}", reason(&cause)))
    })
}

const NOTHING_PASTED: &str = "That is neither the address of the last page nor a code; try again.";
pub(super) const WRONG_STATE_PASTED: &str =
    "That address belongs to another login attempt; paste the one that this attempt ended at.";
const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>maxpool: {title}</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:18vh auto 0;padding:0 1em;\
color:#1c1b1f;background:#fdfcfb}h1{font-size:1.5em;color:{colour}}@media(prefers-color-scheme:dark){body{color:#e6e1e5;\
background:#1c1b1f}h1{filter:brightness(1.6)}}</style><h1>{title}</h1><p>{text}</p><p>You can close this page.</p></html>";
const PORTS_TRIED: u32 = 20;
/// A browser opens two or three; everything beyond is somebody else's.
const GUESTS_MAX: usize = 16;
const GUEST_TIME_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
