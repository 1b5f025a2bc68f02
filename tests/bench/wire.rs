//! As much HTTP/1.1 as this program needs: heads, lengths and chunks, parsed incrementally.

use std::fmt;

/// A longer head is an error.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One message that is being parsed.
#[derive(Default)]
pub struct Incoming {
    head: Vec<u8>,
    state: State,
    /// Body bytes so far.
    pub body_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// Bytes that are still missing.
    Length(usize),
    /// A chunk's size line; the size so far.
    Size(usize),
    /// The rest of that line.
    SizeLine(usize),
    /// Bytes of a chunk that are still missing.
    Chunk(usize),
    /// Bytes still missing between a chunk and the next size line.
    ChunkEnd(usize),
    /// The trailer section; consecutive line feeds so far.
    Trailer(usize),
    /// Everything until the end of the connection.
    ToEnd,
    Whole,
}

/// Whether the message is a request or a response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
}

/// The message is malformed.
#[derive(Debug)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl Incoming {
    /// Prepares for the next message on the connection.
    pub fn clear(&mut self) {
        self.head.clear();
        self.state = State::Head;
        self.body_bytes = 0;
    }

    /// The head's bytes once it is complete.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    pub fn status(&self) -> u16 {
        let digits = self.head.get(9..12).unwrap_or_default();
        std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Whether only the end of the connection ends the body.
    pub fn is_to_end(&self) -> bool {
        self.state == State::ToEnd
    }

    /// Consumes bytes, passes those of the body on, and returns whether the message is complete.
    /// Bytes after a complete message are an error, since nothing here pipelines.
    pub fn feed(
        &mut self,
        kind: Kind,
        mut bytes: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<bool, Malformed> {
        while !bytes.is_empty() {
            bytes = self.step(kind, bytes, &mut body)?;
        }
        Ok(self.state == State::Whole)
    }

    fn step<'a>(
        &mut self,
        kind: Kind,
        bytes: &'a [u8],
        body: &mut impl FnMut(&[u8]),
    ) -> Result<&'a [u8], Malformed> {
        match self.state {
            State::Head => self.take_head(kind, bytes),
            State::Length(left) => {
                let rest = self.pass(bytes, left, body);
                let left = left - (bytes.len() - rest.len());
                self.state = if left == 0 { State::Whole } else { State::Length(left) };
                Ok(rest)
            }
            State::ToEnd => Ok(self.pass(bytes, usize::MAX, body)),
            State::Size(size) => {
                let digit = char::from(bytes[0]).to_digit(16);
                self.state = match digit {
                    Some(digit) => State::Size(size * 16 + digit as usize),
                    None => State::SizeLine(size),
                };
                Ok(if digit.is_some() { &bytes[1..] } else { bytes })
            }
            State::SizeLine(size) => {
                if bytes[0] == b'\n' {
                    self.state = if size == 0 { State::Trailer(1) } else { State::Chunk(size) };
                }
                Ok(&bytes[1..])
            }
            State::Chunk(left) => {
                let rest = self.pass(bytes, left, body);
                let left = left - (bytes.len() - rest.len());
                self.state = if left == 0 { State::ChunkEnd(2) } else { State::Chunk(left) };
                Ok(rest)
            }
            State::ChunkEnd(left) => {
                self.state = if left == 1 { State::Size(0) } else { State::ChunkEnd(left - 1) };
                Ok(&bytes[1..])
            }
            State::Trailer(feeds) => {
                let feeds = match bytes[0] {
                    b'\n' => feeds + 1,
                    b'\r' => feeds,
                    _ => 0,
                };
                self.state = if feeds == 2 { State::Whole } else { State::Trailer(feeds) };
                Ok(&bytes[1..])
            }
            State::Whole => Err(Malformed("bytes behind the end of a message")),
        }
    }

    fn take_head<'a>(&mut self, kind: Kind, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let from = before.saturating_sub(3);
        let Some(at) = self.head[from..].windows(4).position(|window| window == b"\r\n\r\n") else {
            return if self.head.len() > HEAD_BYTES_MAX {
                Err(Malformed("a head without an end"))
            } else {
                Ok(&[])
            };
        };
        let end = from + at + 4;
        self.head.truncate(end);
        let chunked = header(&self.head, "transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
        let length = header(&self.head, "content-length");
        self.state = match length {
            _ if chunked => State::Size(0),
            None if kind == Kind::Response => State::ToEnd,
            None => State::Whole,
            Some(value) => match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok())
            {
                Some(0) => State::Whole,
                Some(length) => State::Length(length),
                None => return Err(Malformed("a length that is no number")),
            },
        };
        Ok(&bytes[end - before..])
    }

    fn pass<'a>(&mut self, bytes: &'a [u8], most: usize, body: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let (now, rest) = bytes.split_at(bytes.len().min(most));
        self.body_bytes += now.len();
        body(now);
        rest
    }
}

/// The value of the first header with that name.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (own, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        own.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}
