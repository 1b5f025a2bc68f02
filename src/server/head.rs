//! Reading a request head, strictly: the reading side of RFC 9112 without its tolerances.
//!
//! `httparse` checks the characters of methods, targets, names and values. It also accepts what a
//! strict server must not, because two readings of one message are how requests are smuggled: line
//! ends without CR, any number of empty lines before the request line. Both are refused here. What
//! the head means (who may enter, how the body is framed) is the business of `door`.
//!
//! Pure: bytes in, verdict out; the caller reads more and asks again.

use std::mem::MaybeUninit;

use bytes::Bytes;

use crate::http::headers::Headers;

/// Bytes of a request line (SPEC P2).
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the header lines below it. The door counts them without the blanks around a value, so
/// here is a little more room: what it would let in must not depend on how the bytes arrive.
const LINES_BYTES_MAX: usize = 65 * 1024;
/// Header lines of one head.
pub(super) const HEADERS_MAX: usize = 100;
/// What is said of a head beyond the limits.
pub(super) const HEAD_TOO_LARGE: &str = "more than 100 header lines or more than 64 KiB of headers";
/// Bytes of empty lines before a request line that are ignored (RFC 9112 section 2.2).
const EMPTY_LINES_MAX: usize = 8;
/// The first byte of a TLS record that opens a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The parts of a request head. Characters have been checked, meanings have not.
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

/// A request that is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DoorRefusal {
    /// 400, 401, 403, 413, 417, 431 or 505.
    pub(crate) status: u16,
    /// The error type of P14.
    pub(crate) kind: &'static str,
    /// What was wrong, in words.
    pub(crate) message: String,
    /// The connection has to be closed: its framing cannot be trusted, or a body is unread.
    pub(crate) close: bool,
}

/// A refusal of the head as it is written.
pub(super) fn refused(status: u16, message: impl Into<String>) -> DoorRefusal {
    DoorRefusal { status, kind: "invalid_request_error", message: message.into(), close: true }
}

/// What a connection's unread bytes are.
#[derive(Debug)]
pub(super) enum Parsed {
    /// The beginning of a head: more bytes must come.
    Partial,
    /// A head, and the number of bytes that it took.
    Complete(RequestHead, usize),
    /// No head; the connection ends with this answer.
    Refused(DoorRefusal),
}

/// Reads the head at the beginning of `bytes`.
///
/// Out of line: its frame would lie below that of every request.
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

/// Whether a head that has not ended yet is longer than it may be.
pub(super) fn is_too_large(bytes: &[u8]) -> bool {
    let head = &bytes[empty_lines(bytes)..];
    let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
    line > LINE_BYTES_MAX || head.len() - line > LINES_BYTES_MAX
}

/// Whether a head has begun. Empty lines before it are no part of it: some clients send one behind
/// a body (RFC 9112 section 2.2), and then nothing for a while.
pub(super) fn has_begun(bytes: &[u8]) -> bool {
    !matches!(&bytes[empty_lines(bytes)..], b"" | b"\r")
}

/// The bytes of complete empty lines before the request line.
fn empty_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    at
}

/// Whether a line feed follows anything but a carriage return. Bare carriage returns are refused by
/// `httparse`.
fn has_bare_line_end(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|&byte| {
        let bare = byte == b'\n' && before != b'\r';
        before = byte;
        bare
    })
}

/// Copies what was read out of `head`.
fn taken_from(request: &httparse::Request<'_, '_>, head: &[u8]) -> Option<RequestHead> {
    let mut headers = Headers::with_capacity(request.headers.len());
    // All values lie in one copy of the head: a clone of one is a count, where a value of its own
    // is two allocations.
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

/// Whether the request line ends in a well-formed version (RFC 9112 section 2.3), or in as much of
/// one as has come. `httparse` knows versions 1.0 and 1.1 only.
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
