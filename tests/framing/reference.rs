//! A slow parser of a whole byte stream, to check other parsers against.
//!
//! It reads byte by byte, copies freely, and keeps every reading that RFC 9112 and SPEC P2 allow. A
//! *fault* is a reason why a request must be refused; with several of them, the client may be told
//! any one. A *doubt* is a reason why it may be refused.

use super::{Seen, served};

/// The preferred reading of everything that a client has sent.
pub fn read_stream(bytes: &[u8]) -> Vec<Seen> {
    readings(bytes).swap_remove(0)
}

/// All correct readings, the preferred one first.
pub fn readings(bytes: &[u8]) -> Vec<Vec<Seen>> {
    let mut stream = Stream { bytes, at: 0 };
    let mut seen: Vec<Seen> = Vec::new();
    let mut others: Vec<Vec<Seen>> = Vec::new();
    let ends = loop {
        let mut verdict = Verdict::default();
        let read = read_message(&mut stream, &mut verdict);
        let with = |last: Seen| [seen.as_slice(), &[last]].concat();
        others.extend(verdict.doubts.iter().map(|code| with(Seen::Refused(*code))));
        match read {
            Read::Nothing { skipped } => {
                // Whether empty lines begin a message is not specified.
                others.extend(skipped.then(|| with(Seen::Waits)));
                break Vec::new();
            }
            Read::Request(request, stays) => {
                seen.push(request);
                let closed = [seen.as_slice(), &[Seen::Closes]].concat();
                match stays {
                    Stays::Yes => {}
                    Stays::Perhaps => others.push(closed),
                    Stays::No => break vec![Seen::Closes],
                }
            }
            Read::Incomplete => {
                let mut ends = verdict.refusals();
                ends.push(Seen::Waits);
                break ends;
            }
            Read::Refused => break verdict.refusals(),
        }
    };
    let mut all: Vec<Vec<Seen>> = match ends.as_slice() {
        [] => vec![seen],
        ends => {
            let with = |last: &Seen| [seen.as_slice(), std::slice::from_ref(last)].concat();
            ends.iter().map(with).collect()
        }
    };
    all.extend(others);
    all
}

/// How reading one message ended.
enum Read {
    /// No message has begun.
    Nothing {
        /// Whether empty lines, or part of one, were read.
        skipped: bool,
    },
    Request(Seen, Stays),
    /// Refused if it already has a fault, otherwise waited for.
    Incomplete,
    /// Complete enough to be refused for its faults.
    Refused,
}

/// Whether the connection stays open after a request (RFC 9112 section 9.3).
#[derive(Clone, Copy)]
enum Stays {
    Yes,
    No,
    /// HTTP/1.0 with keep-alive.
    Perhaps,
}

#[derive(Default)]
struct Verdict {
    faults: Vec<u16>,
    doubts: Vec<u16>,
    /// A fault in the body is in a complete part, so waiting for more would be wrong.
    sealed: bool,
}

impl Verdict {
    fn fault(&mut self, code: u16) {
        if !self.faults.contains(&code) {
            self.faults.push(code);
        }
    }

    fn doubt(&mut self, code: u16) {
        if !self.doubts.contains(&code) {
            self.doubts.push(code);
        }
    }

    fn refusals(&self) -> Vec<Seen> {
        self.faults.iter().map(|code| Seen::Refused(*code)).collect()
    }
}

/// Bytes and the position up to which they have been read.
struct Stream<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A line without its CRLF. A bare CR or LF does not end a line and stays in it.
enum Line {
    Whole(Vec<u8>),
    /// Without a final CR, which may be half a line ending.
    Partial(Vec<u8>),
}

impl Stream<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn line(&mut self) -> Line {
        let mut line = Vec::new();
        while let Some(byte) = self.peek(0) {
            if byte == b'\r' && self.peek(1) == Some(b'\n') {
                self.at += 2;
                return Line::Whole(line);
            }
            self.at += 1;
            line.push(byte);
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Line::Partial(line)
    }
}

fn read_message(stream: &mut Stream<'_>, verdict: &mut Verdict) -> Read {
    if let Some(read) = skip_empty_lines(stream, verdict) {
        return read;
    }
    let (line, whole) = match stream.line() {
        Line::Whole(line) => (line, true),
        Line::Partial(line) => (line, false),
    };
    let first = judge_request_line(&line, whole, verdict);
    if line.len() > HEADER_BYTES_MAX {
        verdict.fault(431);
    }
    if !whole {
        judge_early(stream, verdict, |early| {
            judge_request_line(&line, true, early);
        });
        return Read::Incomplete;
    }
    let Some(headers) = read_fields(stream, verdict, 431) else {
        return Read::Incomplete;
    };
    judge_hosts(&headers, first.version, verdict);
    judge_expectations(&headers, first.version, verdict);
    let framing = judge_framing(&headers, first.version, verdict);
    if !verdict.faults.is_empty() {
        return Read::Refused;
    }
    let body = match framing {
        Framing::Length(length) => read_length(stream, length),
        Framing::Chunked => read_chunks(stream, verdict),
    };
    match body {
        Some(body) => Read::Request(
            served(&first.method, &first.target, &body),
            stays(&headers, first.version),
        ),
        None if verdict.sealed => Read::Refused,
        None => Read::Incomplete,
    }
}

/// RFC 9112 section 2.2: at least one empty line is ignored; ignoring more is optional.
fn skip_empty_lines(stream: &mut Stream<'_>, verdict: &mut Verdict) -> Option<Read> {
    let begin = stream.at;
    let mut count = 0;
    loop {
        match (stream.peek(0), stream.peek(1)) {
            (Some(b'\r'), Some(b'\n')) => stream.at += 2,
            (Some(b'\n'), _) => {
                verdict.doubt(400);
                stream.at += 1;
            }
            (None, _) | (Some(b'\r'), None) => {
                let skipped = stream.at > begin || stream.peek(0).is_some();
                return Some(Read::Nothing { skipped });
            }
            (Some(_), _) => return None,
        }
        count += 1;
        if count > 1 {
            verdict.doubt(400);
        }
        if stream.at - begin > HEADER_BYTES_MAX {
            verdict.fault(400);
            verdict.fault(431);
            return Some(Read::Refused);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Old,
    New,
    Other,
}

struct First {
    method: String,
    target: String,
    version: Version,
}

/// RFC 9112 section 3, also for a line that is still incomplete.
fn judge_request_line(line: &[u8], whole: bool, verdict: &mut Verdict) -> First {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |word: usize| {
        let word = words.get(word).copied().unwrap_or_default();
        String::from_utf8_lossy(word).into_owned()
    };
    let version = match words.get(2) {
        Some(word) => judge_version(word, whole || words.len() > 3, verdict),
        None => Version::Other,
    };
    if words.len() > 3 || (whole && words.len() < 3) {
        verdict.fault(400);
        if words.len() == 2 || words.iter().any(|word| word.starts_with(b"HTTP/")) {
            verdict.fault(505);
        }
    }
    judge_method(words[0], whole || words.len() > 1, verdict);
    if let Some(target) = words.get(1) {
        judge_target(target, whole || words.len() > 2, verdict);
    }
    First { method: text(0), target: text(1), version }
}

/// RFC 9112 section 2.3. An invalid version may be read as another one.
fn judge_version(word: &[u8], whole: bool, verdict: &mut Verdict) -> Version {
    match word {
        b"HTTP/1.1" => return Version::New,
        b"HTTP/1.0" => return Version::Old,
        _ => {}
    }
    if !whole && (b"HTTP/1.0".starts_with(word) || b"HTTP/1.1".starts_with(word)) {
        return Version::Other;
    }
    let is_digit = |at: usize| word.get(at).is_some_and(u8::is_ascii_digit);
    let named = word.starts_with(b"HTTP/");
    if named && word.len() == 8 && is_digit(5) && word[6] == b'.' && is_digit(7) {
        verdict.fault(505);
    } else {
        verdict.fault(400);
        if named && (word.len() == 5 || is_digit(5)) {
            verdict.fault(505);
        }
    }
    Version::Other
}

fn judge_method(word: &[u8], whole: bool, verdict: &mut Verdict) {
    if word.iter().any(|byte| !is_token_byte(*byte)) || (whole && word.is_empty()) {
        verdict.fault(400);
    }
    if whole && matches!(word, b"CONNECT" | b"TRACE") {
        verdict.fault(400);
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if word.len() > 32 || !word.iter().all(plain) || word == b"TRACK" {
        verdict.doubt(400);
    }
    if word.len() > 1024 {
        verdict.fault(400);
        verdict.fault(431);
    }
}

/// RFC 9112 section 3.2.1 and SPEC P2.
fn judge_target(word: &[u8], whole: bool, verdict: &mut Verdict) {
    if word.iter().any(|byte| !matches!(byte, 0x21..=0x7e)) || word.contains(&b'#') {
        verdict.fault(400);
    }
    if word.first().is_some_and(|byte| *byte != b'/') || (whole && word.is_empty()) {
        verdict.fault(400);
    }
    if word.len() > 63 * 1024 {
        verdict.doubt(400);
        verdict.doubt(431);
    }
    if word.iter().any(|byte| b"\\\"<>[]^`{|}".contains(byte)) {
        verdict.doubt(400);
    }
    if !whole {
        // A fault that the complete target would have may be reported early.
        let mut early = Verdict::default();
        judge_path(word, &mut early);
        if !early.faults.is_empty() || !early.doubts.is_empty() {
            verdict.doubt(400);
        }
        return;
    }
    judge_path(word, verdict);
}

fn judge_path(target: &[u8], verdict: &mut Verdict) {
    let path = target.split(|byte| *byte == b'?').next();
    let mut path = path.unwrap_or_default().to_vec();
    if has_bad_escape(target) {
        verdict.doubt(400);
    }
    for round in 0.. {
        for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
            let name = segment.split(|byte| *byte == b';').next();
            if matches!(segment, b"." | b"..") {
                let by_slashes = path.split(|byte| *byte == b'/').any(|part| part == segment);
                if by_slashes {
                    verdict.fault(400);
                }
                verdict.doubt(400);
            }
            if matches!(name, Some(b"." | b"..")) {
                verdict.doubt(400);
            }
        }
        if round > 0 && path.iter().any(u8::is_ascii_control) {
            verdict.doubt(400);
        }
        if path.contains(&b'\\') || round > 3 {
            verdict.doubt(400);
        }
        let decoded = decode(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
}

fn has_bad_escape(text: &[u8]) -> bool {
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 3);
        let good = digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
        if text[at] == b'%' && !good {
            return true;
        }
        at += 1;
    }
    false
}

/// Decodes percent-encoding once.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// A name in lower case, and a value without surrounding blanks.
type Field = (Vec<u8>, Vec<u8>);

/// Header or trailer lines up to the empty line (RFC 9112 section 5); `None` if it has not arrived
/// or never can.
fn read_fields(stream: &mut Stream<'_>, verdict: &mut Verdict, large: u16) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let (begin, mut count) = (stream.at, 0);
    loop {
        let (line, whole) = match stream.line() {
            Line::Whole(line) => (line, true),
            Line::Partial(line) => (line, false),
        };
        if whole && line.is_empty() {
            break;
        }
        if whole {
            count += 1;
        }
        match judge_field(&line, whole) {
            Ok(field) => fields.extend(field),
            Err(()) => verdict.fault(400),
        }
        if count > HEADERS_MAX || stream.at - begin > HEADER_BYTES_MAX {
            verdict.fault(large);
            verdict.doubt(400);
        }
        if !whole {
            judge_early(stream, verdict, |early| {
                if !line.is_empty() && judge_field(&line, true).is_err() {
                    early.fault(400);
                }
            });
            return None;
        }
    }
    Some(fields)
}

/// A line that lacks only its LF may already be refused for what it will be.
fn judge_early(stream: &Stream<'_>, verdict: &mut Verdict, judge: impl Fn(&mut Verdict)) {
    if stream.bytes.last() == Some(&b'\r') {
        let mut early = Verdict::default();
        judge(&mut early);
        early.faults.iter().for_each(|code| verdict.doubt(*code));
    }
}

/// One line. An incomplete line without a fault yields no field.
fn judge_field(line: &[u8], whole: bool) -> Result<Option<Field>, ()> {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = match colon {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    };
    let bad_name = name.iter().any(|byte| !is_token_byte(*byte)) || (colon == Some(0));
    let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    let bad_value = value.is_some_and(|value| value.iter().any(is_control));
    if bad_name || bad_value || (whole && colon.is_none()) {
        return Err(());
    }
    let field = |value: &[u8]| (name.to_ascii_lowercase(), trim(value).to_vec());
    Ok(value.filter(|_| whole).map(field))
}

/// RFC 9110 section 5.6.3: only spaces and tabs are optional white space.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn all<'a>(headers: &'a [Field], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let found = headers.iter().filter(move |(have, _)| have == name.as_bytes());
    found.map(|(_, value)| value.as_slice())
}

fn list<'a>(headers: &'a [Field], name: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    let members = all(headers, name).flat_map(|value| value.split(|byte| *byte == b','));
    members.map(|member| trim(member).to_ascii_lowercase())
}

fn judge_hosts(headers: &[Field], version: Version, verdict: &mut Verdict) {
    let count = all(headers, "host").count();
    if count > 1 || (count == 0 && version != Version::Old) {
        verdict.fault(400);
    }
}

/// RFC 9110 section 10.1.1.
fn judge_expectations(headers: &[Field], version: Version, verdict: &mut Verdict) {
    let members: Vec<Vec<u8>> = list(headers, "expect").collect();
    let other = members.iter().any(|member| !member.is_empty() && member != b"100-continue");
    if other && version != Version::Old {
        verdict.fault(417);
    } else if other || members.len() > 1 || members.iter().any(Vec::is_empty) {
        verdict.doubt(417);
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

/// RFC 9112 section 6, and SPEC P2 where it is stricter.
fn judge_framing(headers: &[Field], version: Version, verdict: &mut Verdict) -> Framing {
    let codings: Vec<&[u8]> = all(headers, "transfer-encoding").collect();
    let lengths: Vec<&[u8]> = all(headers, "content-length").collect();
    if !codings.is_empty() {
        let chunked = codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked");
        if !chunked || !lengths.is_empty() || version == Version::Old {
            verdict.fault(400);
        }
    }
    if lengths.len() > 1 {
        verdict.fault(400);
    }
    let mut length = 0_u64;
    for value in lengths {
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            verdict.fault(400);
            continue;
        }
        length = 0;
        for digit in value {
            let digit = u64::from(digit - b'0');
            length = length.saturating_mul(10).saturating_add(digit);
        }
        let many = value.len() > 19;
        if length > BODY_BYTES_MAX {
            verdict.fault(413);
            if many {
                verdict.fault(400);
            }
        } else if many {
            verdict.doubt(400);
            verdict.doubt(413);
        }
    }
    if codings.is_empty() { Framing::Length(length) } else { Framing::Chunked }
}

fn stays(headers: &[Field], version: Version) -> Stays {
    let wants = |word: &[u8]| list(headers, "connection").any(|member| member == word);
    match version {
        _ if wants(b"close") => Stays::No,
        Version::New => Stays::Yes,
        Version::Old | Version::Other if wants(b"keep-alive") => Stays::Perhaps,
        Version::Old | Version::Other => Stays::No,
    }
}

fn read_length(stream: &mut Stream<'_>, length: u64) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    for _ in 0..length {
        body.push(stream.peek(0)?);
        stream.at += 1;
    }
    Some(body)
}

/// RFC 9112 section 7.1; `None` if the body is incomplete or has a fault.
fn read_chunks(stream: &mut Stream<'_>, verdict: &mut Verdict) -> Option<Vec<u8>> {
    let mut body: Vec<u8> = Vec::new();
    loop {
        let (line, whole) = match stream.line() {
            Line::Whole(line) => (line, true),
            Line::Partial(line) => (line, false),
        };
        let size = judge_chunk_size(&line, whole, body.len() as u64, verdict);
        if !whole || !verdict.faults.is_empty() {
            verdict.sealed = whole;
            return None;
        }
        if size == 0 {
            break;
        }
        for _ in 0..size {
            body.push(stream.peek(0)?);
            stream.at += 1;
        }
        for expected in *b"\r\n" {
            if stream.peek(0)? != expected {
                verdict.fault(400);
                verdict.sealed = true;
                return None;
            }
            stream.at += 1;
        }
    }
    let trailers = read_fields(stream, verdict, 400);
    if verdict.faults.contains(&400) && stream.bytes.len() > HEADER_BYTES_MAX {
        verdict.doubt(413);
        verdict.doubt(431);
    }
    let trailers = trailers?;
    if !verdict.faults.is_empty() {
        verdict.sealed = true;
        return None;
    }
    // RFC 9110 section 6.5.1 forbids these in trailers; they are dropped with the rest or refused.
    let framing: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"trailer"];
    if trailers.iter().any(|(name, _)| framing.contains(&name.as_slice())) {
        verdict.doubt(400);
    }
    Some(body)
}

/// A chunk's size line without its line ending.
fn judge_chunk_size(line: &[u8], whole: bool, before: u64, verdict: &mut Verdict) -> u64 {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let mut size = 0_u64;
    for digit in &line[..digits] {
        let digit = u64::from(char::from(*digit).to_digit(16).unwrap_or_default());
        size = size.saturating_mul(16).saturating_add(digit);
    }
    if (digits == 0 && (whole || !line.is_empty())) || digits > 16 {
        verdict.fault(400);
    }
    if size.saturating_add(before) > BODY_BYTES_MAX {
        verdict.fault(413);
        if size > u64::MAX / 4 {
            verdict.fault(400);
        }
    }
    let extension = &line[digits..];
    let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    let begins_well = matches!(trim(extension).first(), None | Some(b';'));
    if extension.iter().any(is_control) || !begins_well {
        verdict.fault(400);
    }
    if !is_extension(extension) || extension.len() > 250 {
        verdict.doubt(400);
    }
    if extension.len() > 16 * 1024 {
        verdict.fault(400);
        verdict.doubt(413);
        verdict.doubt(431);
    }
    size
}

/// RFC 9112 section 7.1.1.
fn is_extension(mut text: &[u8]) -> bool {
    fn skip_blanks(text: &[u8]) -> &[u8] {
        let count = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        &text[count..]
    }
    fn skip_token(text: &[u8]) -> Option<&[u8]> {
        let count = text.iter().take_while(|byte| is_token_byte(**byte)).count();
        (count > 0).then(|| &text[count..])
    }
    fn skip_quoted(text: &[u8]) -> Option<&[u8]> {
        let mut escaped = false;
        for (at, byte) in text.iter().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return Some(&text[at + 1..]),
                _ => {}
            }
        }
        None
    }
    while !text.is_empty() {
        let Some((b';', rest)) = skip_blanks(text).split_first() else {
            return false;
        };
        let Some(rest) = skip_token(skip_blanks(rest)) else {
            return false;
        };
        text = rest;
        if let Some((b'=', value)) = skip_blanks(rest).split_first() {
            let value = skip_blanks(value);
            let after =
                if value.first() == Some(&b'"') { skip_quoted(value) } else { skip_token(value) };
            let Some(after) = after else {
                return false;
            };
            text = after;
        }
    }
    true
}

const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;
