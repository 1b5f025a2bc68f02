//! Reads an answer while its bytes pass through (P6, P9, P13): first event, errors, usage,
//! thinking, end.
//!
//! Takes chunks as they come, keeps a few kilobytes at most however long the answer is, and never
//! changes or delays a byte.

use super::answer_json::{AnswerJson, ApiError, Reader, Usage};

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `text/event-stream`.
    Events,
    /// JSON.
    Json,
    /// Anything else, or compressed: nothing is read.
    Opaque,
}

/// The first complete event other than a ping: the commit point of a stream (P6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FirstEvent {
    /// Its `event` field, else the `type` in its data.
    pub(crate) name: String,
    /// Its error, if it is one; the answer then counts as that error.
    pub(crate) error: Option<ApiError>,
}

/// What is known so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Token counts.
    pub(crate) usage: Usage,
    /// Usage was reported.
    pub(crate) usage_seen: bool,
    /// `message_start` was seen.
    pub(crate) begun: bool,
    /// `message_stop` was seen; for a JSON body: its document was closed.
    pub(crate) stopped: bool,
    /// Signed thinking was seen (P9).
    pub(crate) signed_thinking: bool,
    /// The last error event, or the error in a JSON body.
    pub(crate) error: Option<ApiError>,
    /// `message.id`, or the top-level `id` of a JSON body (a batch's id, for example).
    pub(crate) id: Option<String>,
    /// `thread.id`, if the answer names one.
    pub(crate) thread: Option<String>,
    /// Complete events so far.
    pub(crate) events: u64,
}

/// Reads one answer's body.
#[derive(Debug)]
pub(crate) struct Scanner {
    form: Form,
    facts: Facts,
    first: Option<FirstEvent>,
    /// The data of the current event, or the body.
    data: Reader,
    line: Line,
    /// The name of the current field, as far as it matters.
    field: Vec<u8>,
    /// The name of the current event.
    name: Vec<u8>,
    /// The current event has had a field.
    has_fields: bool,
    /// The current event has had a `data` field.
    has_data: bool,
    /// The last byte was a carriage return, so a line feed does not start another line.
    after_cr: bool,
    /// Bytes of a byte order mark seen so far; its full length once that is settled.
    mark: usize,
    /// The result of [`Scanner::finish`], see [`Scanner::mend`].
    mend: Option<&'static [u8]>,
}

/// Position in a line of an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// At the first byte.
    Start,
    /// In the field name.
    Name,
    /// After the colon, where one space may follow.
    Colon(Field),
    /// In the value.
    Value(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Event,
    Data,
    /// A comment, `id`, `retry`, or an unknown field.
    Other,
}

impl Scanner {
    /// A scanner for a body of that form.
    pub(crate) fn new(form: Form) -> Self {
        Scanner {
            form,
            facts: Facts::default(),
            first: None,
            data: Reader::new(),
            line: Line::Start,
            field: Vec::new(),
            name: Vec::new(),
            has_fields: false,
            has_data: false,
            after_cr: false,
            mark: 0,
            mend: None,
        }
    }

    /// How the body is read.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Takes the next bytes, split anywhere.
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        let chunk = self.behind_mark(chunk);
        match self.form {
            Form::Events => self.lines(chunk),
            Form::Json => {
                self.data.feed(chunk);
                self.facts.stopped = self.data.document().whole;
            }
            Form::Opaque => {}
        }
    }

    /// The body has ended, well or not. An event that lacks only its blank line counts if its data
    /// is complete.
    pub(crate) fn finish(&mut self) {
        self.mend = Some(self.mend());
        match self.form {
            Form::Events => {
                if self.line != Line::Start {
                    self.end_line();
                }
                if self.data.document().whole {
                    self.end_event();
                }
            }
            Form::Json => {
                let body = self.data.take();
                self.facts.stopped = body.whole;
                self.facts.error =
                    body.error.clone().filter(|_| body.kind.as_deref() != Some("message"));
                self.facts.add(body);
            }
            Form::Opaque => {}
        }
    }

    /// The first complete event other than a ping. The caller looks for it in at most 64 KiB and
    /// for at most 5 s.
    pub(crate) fn first(&self) -> Option<&FirstEvent> {
        self.first.as_ref()
    }

    /// The top-level `type` of a JSON body, as soon as it is known.
    pub(crate) fn json_kind(&self) -> Option<&str> {
        match self.form {
            Form::Json => self.data.document().kind.as_deref(),
            Form::Events | Form::Opaque => None,
        }
    }

    /// A whole JSON body that is an error, by its type or, without any, by its `error`.
    pub(crate) fn is_json_error(&self) -> bool {
        match (self.form, self.data.document()) {
            (Form::Json, AnswerJson { kind: Some(kind), .. }) => kind == "error",
            (Form::Json, AnswerJson { kind: None, error, whole, .. }) => *whole && error.is_some(),
            (Form::Events | Form::Opaque, _) => false,
        }
    }

    /// What is known so far. For a JSON body only `stopped` is known before [`Scanner::finish`].
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What must be written before an event of our own, or before the end of a broken stream.
    ///
    /// Bytes already sent cannot be taken back, and the next blank line would pass half an event to
    /// the client's JSON parser. The last `event` field of an event wins and clients ignore pings
    /// unread, so the broken event is turned into a ping.
    pub(crate) fn mend(&self) -> &'static [u8] {
        if let Some(mend) = self.mend {
            return mend;
        }
        let at_start = self.line == Line::Start;
        match (self.form, self.has_fields || !at_start) {
            (Form::Json | Form::Opaque, _) | (_, false) => b"",
            // Only the blank line is missing. If the event ended with a carriage return, an extra
            // line feed is harmless.
            (Form::Events, true) if self.data.document().whole => b"\n\n",
            (Form::Events, true) if at_start => b"event: ping\n\n",
            (Form::Events, true) => b"\nevent: ping\n\n",
        }
    }

    fn lines(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            let is_second_half = self.after_cr && byte == b'\n';
            self.after_cr = false;
            if is_second_half {
                rest = &rest[1..];
                continue;
            }
            let (piece, tail) =
                rest.split_at(memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()));
            self.piece(piece);
            let Some((&end, tail)) = tail.split_first() else {
                return;
            };
            self.after_cr = end == b'\r';
            self.end_line();
            rest = tail;
        }
    }

    /// A part of a line without its end.
    fn piece(&mut self, piece: &[u8]) {
        let mut rest = piece;
        if self.line == Line::Start && !rest.is_empty() {
            self.field.clear();
            self.line = Line::Name;
        }
        if self.line == Line::Name {
            let Some(colon) = rest.iter().position(|&byte| byte == b':') else {
                return keep(&mut self.field, rest, FIELD_BYTES_MAX);
            };
            keep(&mut self.field, &rest[..colon], FIELD_BYTES_MAX);
            rest = &rest[colon + 1..];
            self.begin_value();
        }
        if let Line::Colon(field) = self.line
            && let Some(&first) = rest.first()
        {
            rest = if first == b' ' { &rest[1..] } else { rest };
            self.line = Line::Value(field);
        }
        match self.line {
            Line::Value(Field::Data) => self.data.feed(rest),
            Line::Value(Field::Event) => keep(&mut self.name, rest, NAME_BYTES_MAX),
            Line::Value(Field::Other) | Line::Start | Line::Name | Line::Colon(_) => {}
        }
    }

    fn begin_value(&mut self) {
        let field = match self.field.as_slice() {
            b"data" => Field::Data,
            b"event" => Field::Event,
            _ => Field::Other,
        };
        self.line = Line::Colon(field);
        self.has_fields |= field != Field::Other;
        match field {
            Field::Data if self.has_data => self.data.line_break(),
            Field::Data => self.has_data = true,
            Field::Event => self.name.clear(),
            Field::Other => {}
        }
    }

    fn end_line(&mut self) {
        match self.line {
            Line::Start => self.end_event(),
            // A field name without a colon has an empty value.
            Line::Name => self.begin_value(),
            Line::Colon(_) | Line::Value(_) => {}
        }
        self.line = Line::Start;
    }

    /// At a blank line. An event without data is not dispatched (WHATWG HTML section 9.2.6).
    fn end_event(&mut self) {
        let data = self.data.take();
        // An incomplete document counts as none, as it does for every client.
        let data = if data.whole { data } else { AnswerJson::default() };
        self.has_fields = false;
        if !std::mem::take(&mut self.has_data) {
            return self.name.clear();
        }
        let kind = data.kind.as_deref().unwrap_or_default();
        // Every event of the API has a type; a provider's error may have none.
        let is_untyped = kind.is_empty() && self.name.is_empty();
        let is_error =
            self.name == b"error" || kind == "error" || is_untyped && data.error.is_some();
        let error = is_error.then(|| data.error.clone().unwrap_or_default());
        self.facts.events += 1;
        let is = |event: &str| kind == event || (kind.is_empty() && self.name == event.as_bytes());
        self.facts.begun |= is("message_start");
        self.facts.stopped |= is("message_stop");
        let is_ping = is("ping");
        if self.first.is_none() && (error.is_some() || !is_ping) {
            let name = if self.name.is_empty() {
                kind.to_owned()
            } else {
                String::from_utf8_lossy(&self.name).into_owned()
            };
            self.first = Some(FirstEvent { name, error: error.clone() });
        }
        self.name.clear();
        if error.is_some() {
            self.facts.error = error;
        }
        self.facts.add(data);
    }

    /// Skips a byte order mark and returns what follows.
    fn behind_mark<'b>(&mut self, chunk: &'b [u8]) -> &'b [u8] {
        let mut rest = chunk;
        while let Some(&expected) = MARK.get(self.mark) {
            match rest.split_first() {
                None => return rest,
                Some((&byte, tail)) if byte == expected => {
                    self.mark += 1;
                    rest = tail;
                }
                Some(_) => {
                    let seen = std::mem::replace(&mut self.mark, MARK.len());
                    // It was not a mark after all.
                    self.feed(&MARK[..seen]);
                }
            }
        }
        rest
    }
}

impl Facts {
    /// Counts are running totals of one answer, so the largest is the latest (P13).
    fn add(&mut self, document: AnswerJson) {
        if let Some(usage) = document.usage {
            self.usage_seen = true;
            self.usage.input = self.usage.input.max(usage.input);
            self.usage.output = self.usage.output.max(usage.output);
            self.usage.cache_read = self.usage.cache_read.max(usage.cache_read);
            self.usage.cache_write = self.usage.cache_write.max(usage.cache_write);
        }
        self.signed_thinking |= document.signed_thinking;
        if document.id.is_some() {
            self.id = document.id;
        }
        if document.thread.is_some() {
            self.thread = document.thread;
        }
    }
}

impl Form {
    /// The form that `content-type` and `content-encoding` of the answer indicate.
    pub(crate) fn of(content_type: Option<&str>, content_encoding: Option<&str>) -> Form {
        let media_type = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
        let media_type = media_type.trim_ascii().to_ascii_lowercase();
        if is_encoded(content_encoding) {
            Form::Opaque
        } else if media_type == "text/event-stream" {
            Form::Events
        } else if matches!(&*media_type, "text/plain" | "")
            || media_type.ends_with("/json")
            || media_type.ends_with("+json")
        {
            // Without a content type it may be JSON, and scanning other text finds nothing.
            Form::Json
        } else {
            Form::Opaque
        }
    }
}

/// Whether a body is compressed, from its `content-encoding`.
pub(crate) fn is_encoded(content_encoding: Option<&str>) -> bool {
    let is_plain = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    content_encoding.is_some_and(|coding| !is_plain(coding.trim_ascii()))
}

/// Reads a body that is complete in memory.
pub(crate) fn read(form: Form, body: &[u8]) -> Facts {
    let mut scanner = Scanner::new(form);
    scanner.feed(body);
    scanner.finish();
    scanner.facts
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    let room = bytes_max.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
}

const MARK: [u8; 3] = *b"\xef\xbb\xbf";
/// One more than the longest field name that matters.
const FIELD_BYTES_MAX: usize = 6;
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
