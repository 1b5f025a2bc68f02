//! Parses a request head strictly: RFC 9112 without its tolerances for readers.
//!
//! `httparse` checks the characters of methods, targets, names and values. It also accepts line
//! ends without CR, and any number of empty lines before the request line. A strict server must
//! refuse both, because two readings of one message allow request smuggling; they are refused here.
//! What a head means (who may enter, how the body is framed) is decided in `door`.
//!
//! Pure: bytes in, result out; the caller reads more and asks again.

use std::mem::MaybeUninit;

use bytes::Bytes;

use crate::http::headers::Headers;

/// Length of a request line (SPEC P2).
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Size of the header lines. The door counts them without the whitespace around values, so there is
/// a little more room here: what it would accept must not depend on how the bytes arrive.
const LINES_BYTES_MAX: usize = 65 * 1024;
/// Header lines of one head.
pub(super) const HEADERS_MAX: usize = 100;
/// The text about a head that exceeds a limit.
pub(super) const HEAD_TOO_LARGE: &str = "more than 100 header lines or more than 64 KiB of headers";
/// Empty lines before a request line that are ignored, in bytes (RFC 9112 section 2.2).
const EMPTY_LINES_MAX: usize = 8;
/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A parsed request head. Its characters have been checked, its meaning has not.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    /// A token (RFC 9110 section 5.6.2).
    pub(crate) method: String,
    /// As received.
    pub(crate) target: String,
    /// Major and minor.
    pub(crate) version: (u8, u8),
    /// All header lines in order.
    pub(crate) headers: Headers,
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DoorRefusal {
    /// 400, 401, 403, 413, 417, 431 or 505.
    pub(crate) status: u16,
    /// The error type of P14.
    pub(crate) kind: &'static str,
    /// What was wrong.
    pub(crate) message: String,
    /// The connection must be closed: its framing cannot be trusted, or a body is unread.
    pub(crate) close: bool,
}

/// A refusal of a malformed head.
pub(super) fn refused(status: u16, message: impl Into<String>) -> DoorRefusal {
    DoorRefusal { status, kind: "invalid_request_error", message: message.into(), close: true }
}

/// The state of a connection's unread bytes.
#[derive(Debug)]
pub(super) enum Parsed {
    /// An incomplete head: more bytes are needed.
    Partial,
    /// A head, and its length in bytes.
    Complete(RequestHead, usize),
    /// Not a valid head; the connection ends with this answer.
    Refused(DoorRefusal),
}

/// Parses the head at the start of `bytes`.
///
/// Out of line, to keep its stack frame out of that of every request.
#[inline(never)]
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        let text = "this port speaks plain HTTP; use http:// instead of https:// in the base URL";
        return Parsed::Refused(refused(400, text));
    }
    let blank = empty_lines(bytes);
    if blank > EMPTY_LINES_MAX {
        return Parsed::Refused(refused(400, "empty lines instead of a request"));
    }
    let head = &bytes[blank..];
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut lines) {
        Ok(httparse::Status::Complete(length)) if !has_bare_line_end(&head[..length]) => {
            match taken_from(&request, &head[..length]) {
                Some(head) => Parsed::Complete(head, blank + length),
                None => Parsed::Refused(refused(400, "the request line is malformed")),
            }
        }
        Ok(httparse::Status::Partial) if is_too_large(head) => {
            Parsed::Refused(refused(431, HEAD_TOO_LARGE))
        }
        Ok(httparse::Status::Partial) if !has_bare_line_end(head) => Parsed::Partial,
        Ok(_) => Parsed::Refused(refused(400, "a header line does not end with CR LF")),
        Err(error) => Parsed::Refused(refusal_of(error, head)),
    }
}

/// Whether an incomplete head already exceeds the limits.
pub(super) fn is_too_large(bytes: &[u8]) -> bool {
    let head = &bytes[empty_lines(bytes)..];
    let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
    line > LINE_BYTES_MAX || head.len() - line > LINES_BYTES_MAX
}

/// Whether a head has begun. Leading empty lines do not count: some clients send one after a body
/// (RFC 9112 section 2.2) and then nothing for a while.
pub(super) fn has_begun(bytes: &[u8]) -> bool {
    !matches!(&bytes[empty_lines(bytes)..], b"" | b"\r")
}

/// Length of the complete empty lines before the request line.
fn empty_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    at
}

/// Whether there is a line feed without a carriage return before it. `httparse` refuses bare
/// carriage returns.
fn has_bare_line_end(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|&byte| {
        let bare = byte == b'\n' && before != b'\r';
        before = byte;
        bare
    })
}

/// Copies the parsed request out of `head`.
fn taken_from(request: &httparse::Request<'_, '_>, head: &[u8]) -> Option<RequestHead> {
    let mut headers = Headers::with_capacity(request.headers.len());
    // All values share one copy of the head: cloning one only increments a counter, where a
    // separate value would cost two allocations.
    let copy = Bytes::copy_from_slice(head);
    for line in request.headers.iter() {
        let from = line.value.as_ptr().addr() - head.as_ptr().addr();
        let value = copy.slice(from..from + line.value.len());
        headers.take(line.name, value).ok()?;
    }
    Some(RequestHead {
        method: request.method?.to_owned(),
        target: request.path?.to_owned(),
        version: (1, request.version?),
        headers,
    })
}

fn refusal_of(error: httparse::Error, head: &[u8]) -> DoorRefusal {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => refused(431, HEAD_TOO_LARGE),
        Error::Version if names_other_version(head) => {
            refused(505, "only HTTP/1.0 and HTTP/1.1 are supported")
        }
        Error::HeaderName => {
            refused(400, "a header name is not a token, or its line is folded (RFC 9112 section 5)")
        }
        Error::HeaderValue => refused(400, "a header value contains a control character"),
        Error::NewLine => refused(400, "a header line does not end with CR LF"),
        Error::Version | Error::Token | Error::Status => {
            refused(400, "the request line is malformed")
        }
    }
}

/// Whether the request line ends in a well-formed version (RFC 9112 section 2.3), possibly
/// incomplete. `httparse` knows only versions 1.0 and 1.1.
fn names_other_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let Some(version) = line.splitn(3, |&byte| byte == b' ').nth(2) else {
        return false;
    };
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, rest @ ..] if major.is_ascii_digit() => {
            matches!(rest, [] | [b'.']) || matches!(rest, [b'.', minor] if minor.is_ascii_digit())
        }
        _ => false,
    }
}
