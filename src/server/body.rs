//! Decodes a chunked request body (RFC 9112 section 7.1), strictly and with bounds.
//!
//! ```text
//! Size ──▶ Data ──▶ DataEnd ──▶ Size …
//!   └─ size 0 ──▶ Trailer ──▶ Done
//! ```
//!
//! Extensions and trailers are read and dropped: nothing that we forward may depend on them. Pure:
//! the caller passes in bytes and is told how many of them were used.

/// Length of one line: a chunk size with its extensions, or one trailer.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// Total size of the trailers.
const TRAILERS_BYTES_MAX: usize = 64 * 1024;
/// Hexadecimal digits of a chunk size.
const SIZE_DIGITS_MAX: usize = 16;

/// Why a body cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It exceeds the limit.
    TooLarge,
    /// It ended early, stalled, or has invalid framing.
    Broken,
}

/// Whether the body is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes are needed.
    More,
    /// The body and its trailers have been read.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailer,
}

/// The decoder of one body.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    /// The unfinished line.
    line: Vec<u8>,
    trailer_bytes: usize,
    /// Bytes of the body so far, including the current chunk.
    total: u64,
    limit: u64,
}

impl Chunked {
    /// A decoder for a body of at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Chunked {
        Chunked { state: State::Size, line: Vec::new(), trailer_bytes: 0, total: 0, limit }
    }

    /// Decodes `input` into `body`. Returns the number of bytes used; the rest belongs to the next
    /// request.
    pub(super) fn decode(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<(usize, Progress), BodyError> {
        let mut at = 0;
        while at < input.len() {
            if let State::Data(left) = self.state {
                let count = usize::try_from(left)
                    .map_or(input.len() - at, |left| left.min(input.len() - at));
                body.extend_from_slice(&input[at..at + count]);
                at += count;
                self.state = match left - count as u64 {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                continue;
            }
            let end = input[at..].iter().position(|&byte| byte == b'\n');
            let count = end.map_or(input.len() - at, |end| end + 1);
            if self.line.len() + count > LINE_BYTES_MAX {
                return Err(BodyError::Broken);
            }
            self.line.extend_from_slice(&input[at..at + count]);
            at += count;
            // The line is invalid already, so do not wait for its end.
            if self.state == State::DataEnd && !b"\r\n".starts_with(&self.line) {
                return Err(BodyError::Broken);
            }
            if end.is_some() && self.end_line()? == Progress::Done {
                return Ok((at, Progress::Done));
            }
        }
        Ok((at, Progress::More))
    }

    fn end_line(&mut self) -> Result<Progress, BodyError> {
        let taken = std::mem::take(&mut self.line);
        let line = taken.strip_suffix(b"\r\n").ok_or(BodyError::Broken)?;
        if line.contains(&b'\r') {
            return Err(BodyError::Broken);
        }
        match self.state {
            State::Size => {
                let size = size_of(line).ok_or(BodyError::Broken)?;
                // No sender has this many bytes: the size is an attempt to overflow a sum.
                if i64::try_from(size).is_err() {
                    return Err(BodyError::Broken);
                }
                self.total = self.total.saturating_add(size);
                if self.total > self.limit {
                    return Err(BodyError::TooLarge);
                }
                self.state = if size == 0 { State::Trailer } else { State::Data(size) };
            }
            State::DataEnd if line.is_empty() => self.state = State::Size,
            State::DataEnd => return Err(BodyError::Broken),
            State::Trailer if line.is_empty() => return Ok(Progress::Done),
            State::Trailer => {
                self.trailer_bytes += taken.len();
                if self.trailer_bytes > TRAILERS_BYTES_MAX || !is_field(line) {
                    return Err(BodyError::Broken);
                }
            }
            State::Data(_) => return Err(BodyError::Broken),
        }
        self.line = taken;
        self.line.clear();
        Ok(Progress::More)
    }
}

/// The size from a chunk's first line. Extensions are ignored, but must be text.
fn size_of(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > SIZE_DIGITS_MAX {
        return None;
    }
    let (digits, extension) = line.split_at(digits);
    let blank = extension.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let is_extension = match extension.get(blank) {
        None => blank == 0,
        Some(b';') => extension.iter().all(|&byte| is_text(byte)),
        Some(_) => false,
    };
    let text = std::str::from_utf8(digits).ok()?;
    is_extension.then(|| u64::from_str_radix(text, 16).ok())?
}

/// Whether a trailer is a valid field line (RFC 9112 section 5): a token, a colon, text.
fn is_field(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return false;
    };
    let (name, value) = line.split_at(colon);
    is_token(name) && value.iter().all(|&byte| is_text(byte))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_token_char =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_token_char)
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
