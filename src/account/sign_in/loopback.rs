//! Waits for the browser (SPEC T1): a page on both loopback addresses, and a terminal as the
//! alternative.
//!
//! tiny_http serves the page. It reads requests on its own threads and limits neither the time nor
//! the number nor the heads of its connections, and a fifth connection at the same moment may have
//! to wait for one of the first four. That is enough here: the port is random and local, it is open
//! for five minutes at most, the process does nothing else, and the user can paste the answer
//! instead. Only one thing could end the login: when the library drops a request, it allocates and
//! awaits the announced length of the body. So a request with a body is answered and then kept (see
//! [`dismiss`]). Nothing outlives the process, so Ctrl-C leaves nothing behind.

use std::io::{Cursor, ErrorKind, Write};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tiny_http::{Header, Method, Request, Response, Server};

use super::callback::{Return, is_callback, of_paste, of_target};
use crate::clock::Stopwatch;
use crate::config::Secret;
use crate::error::{Error, Result, reason};
use crate::platform::poll_for;

/// The listening side of one login.
pub(super) struct Loopback {
    servers: Vec<Server>,
    /// Copies of the same sockets, to close them at once; the library's thread does so only some
    /// time later.
    sockets: Vec<TcpListener>,
    port: u16,
}

/// The alternative way to an answer, and the way to cancel.
pub(super) struct Person<'a> {
    /// Where the address or the code may be pasted.
    pub(super) terminal: Option<BorrowedFd<'a>>,
    pub(super) is_cancelled: &'a dyn Fn() -> bool,
}

/// The answer from the browser or the user.
pub(super) enum Arrival {
    /// The code, and the browser that waits for a page.
    Code(Secret, Page),
    /// A refusal, in words.
    Denied(String, Page),
}

/// The browser's request, if the answer came from a browser.
pub(super) struct Page(Option<Request>);

impl Loopback {
    /// Opens the same free port on both loopback addresses; one is enough on a machine without the
    /// other.
    pub(super) fn open() -> Result<Loopback> {
        let (sockets, port) = bind()?;
        let mut loopback = Loopback { servers: Vec::new(), sockets: Vec::new(), port };
        for socket in sockets {
            loopback.sockets.push(socket.try_clone().map_err(|cause| cannot_listen(&cause))?);
            let server = Server::from_listener(socket, None).map_err(std::io::Error::other);
            loopback.servers.push(server.map_err(|cause| cannot_listen(&cause))?);
        }
        Ok(loopback)
    }

    /// The address to which the provider should redirect the browser.
    pub(super) fn redirect_uri(&self) -> String {
        format!("http://localhost:{}/callback", self.port)
    }

    /// Waits for the callback, or for a line on the terminal, at most for `limit`.
    pub(super) fn wait(
        &self,
        state: &Secret,
        person: &Person<'_>,
        out: &mut dyn Write,
        limit: Duration,
    ) -> Result<Arrival> {
        let watch = Stopwatch::start();
        let mut terminal = person.terminal;
        let mut typed = Vec::new();
        while let Some(left) = watch.left_of(limit) {
            if (person.is_cancelled)() {
                return Err(Error::operator("the login was cancelled"));
            }
            let mut watched: Vec<PollFd<'_>> = Vec::from_iter(
                terminal.map(|terminal| PollFd::from_borrowed_fd(terminal, PollFlags::IN)),
            );
            let is_typed = poll_for(&mut watched, left.min(LOOK_EVERY));
            if let Some(fd) = terminal.filter(|_| is_typed) {
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
            while let Some(request) = self.next_callback()? {
                let returned = of_target(request.url(), state);
                let page = Page(Some(request));
                match returned {
                    Return::Code(code) => return Ok(Arrival::Code(code, page)),
                    Return::Denied(words) => return Ok(Arrival::Denied(words, page)),
                    Return::WrongState => {
                        page.show(Verdict::Refused, WRONG_STATE_PAGE);
                        say(out, WRONG_STATE_ARRIVED)?;
                    }
                    Return::Nothing => page.show(Verdict::Refused, NO_CODE_PAGE),
                }
            }
        }
        Err(Error::operator(format!(
            "no answer from the browser within {}; run the login again",
            crate::clock::human(limit)
        )))
    }

    /// The next request that may be the callback; all others are refused.
    fn next_callback(&self) -> Result<Option<Request>> {
        for server in &self.servers {
            while let Some(request) = server.try_recv().map_err(|cause| cannot_listen(&cause))? {
                if is_awaited(&request) {
                    return Ok(Some(request));
                }
                dismiss(request);
            }
        }
        Ok(None)
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // If a listening socket cannot be shut down, the library closes it a moment later.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }
}

/// Binds the same free port on both loopback addresses.
fn bind() -> Result<(Vec<TcpListener>, u16)> {
    for _ in 0..PORTS_TRIED {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .or_else(|_| TcpListener::bind((Ipv6Addr::LOCALHOST, 0)));
        let first = first.map_err(|cause| cannot_listen(&cause))?;
        let address = first.local_addr().map_err(|cause| cannot_listen(&cause))?;
        let second = match address {
            SocketAddr::V4(_) => TcpListener::bind((Ipv6Addr::LOCALHOST, address.port())),
            SocketAddr::V6(_) => Err(ErrorKind::Unsupported.into()),
        };
        let second = match second {
            Err(cause) if cause.kind() == ErrorKind::AddrInUse => continue,
            second => second.ok(),
        };
        return Ok(([first].into_iter().chain(second).collect(), address.port()));
    }
    Err(Error::operator("no port is free on both loopback addresses; try again"))
}

fn cannot_listen(cause: &std::io::Error) -> Error {
    Error::operator(format!("cannot listen for the browser on this machine: {}", reason(cause)))
}

/// Whether it looks like a browser's callback request: `GET`, our one path, no body.
fn is_awaited(request: &Request) -> bool {
    let has_body = request.headers().iter().any(|header| {
        header.field.equiv("transfer-encoding")
            || header.field.equiv("expect")
            || (header.field.equiv("content-length") && header.value.as_str().trim() != "0")
    });
    *request.method() == Method::Get && is_callback(request.url()) && !has_body
}

/// Answers with 400. A request whose body has not been read must not be dropped, because the
/// library would allocate the announced length and read to the end. Such a request is kept, and its
/// connection ends with the process.
fn dismiss(request: Request) {
    let response = Response::from_data(NOTHING_HERE).with_status_code(400);
    let is_unread = request
        .body_length()
        .is_some_and(|length| length > 0 && (length > READ_BYTES_MAX || expects(&request)));
    if !is_unread {
        // It does not matter whether the answer arrives.
        let _ = request.respond(response);
        return;
    }
    // The only way to answer that leaves the body unread.
    mem::forget(request.upgrade("HTTP/1.1", response));
}

fn expects(request: &Request) -> bool {
    let mut headers = request.headers().iter();
    headers.any(|header| header.field.equiv("expect"))
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
    if typed.len() > LINE_BYTES_MAX {
        typed.clear();
    }
    Some(lines)
}

/// What the page says.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    /// The account was stored.
    Done,
    /// It was not.
    Refused,
}

impl Page {
    /// Shows the result in the browser, if one is waiting; it does not matter whether that arrives.
    pub(super) fn show(self, verdict: Verdict, text: &str) {
        let Some(request) = self.0 else {
            return;
        };
        let (status, title, colour) = match verdict {
            Verdict::Done => (200, "Logged in", "#2e7d32"),
            Verdict::Refused => (400, "Not logged in", "#b3261e"),
        };
        let html = PAGE
            .replace("{title}", title)
            .replace("{colour}", colour)
            .replace("{text}", &escaped(text));
        let mut response: Response<Cursor<Vec<u8>>> =
            Response::from_data(html).with_status_code(status);
        for (name, value) in PAGE_HEADERS {
            if let Ok(header) = Header::from_bytes(name, value) {
                response.add_header(header);
            }
        }
        let _ = request.respond(response);
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn say(out: &mut dyn Write, text: &str) -> Result<()> {
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|cause| {
        Error::operator(format!("cannot write to the terminal: {}", reason(&cause)))
    })
}

const NOTHING_PASTED: &str = "That is neither the address of the last page nor a code; try again.";
pub(super) const WRONG_STATE_PASTED: &str =
    "That address belongs to another login attempt; paste the one from this attempt.";
const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>maxpool: {title}</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:18vh auto 0;padding:0 1em;\
color:#1c1b1f;background:#fdfcfb}h1{font-size:1.5em;color:{colour}}@media(prefers-color-scheme:dark){body{color:#e6e1e5;\
background:#1c1b1f}h1{filter:brightness(1.6)}}</style><h1>{title}</h1><p>{text}</p><p>You can close this page.</p></html>";
const PAGE_HEADERS: [(&str, &str); 3] = [
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
];
const WRONG_STATE_PAGE: &str = "This answer belongs to another login attempt. Nothing was changed.";
const WRONG_STATE_ARRIVED: &str = "An answer that belongs to another login attempt was ignored.";
const NO_CODE_PAGE: &str = "This answer contains no code. Nothing was changed.";
const NOTHING_HERE: &str = "maxpool waits here for the browser to come back from a login.\n";
const PORTS_TRIED: u32 = 20;
/// The library has no descriptor to wait for; nobody notices a delay this short.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// tiny_http reads bodies up to this size before it returns the request.
const READ_BYTES_MAX: usize = 1024;
const LINE_BYTES_MAX: usize = 16 * 1024;
