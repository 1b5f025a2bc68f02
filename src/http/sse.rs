//! What an answer says while its bytes go by (P6, P9, P13): first event, errors, usage, thinking, its end.
//!
//! Takes chunks as they come, keeps a few kilobytes at most however long the answer is, and never changes or delays a byte.

use super::answer_json::{AnswerJson, ApiError, Reader, Usage};

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `text/event-stream`.
    Events,
    /// JSON.
    Json,
    /// Anything else, or encoded: nothing is read.
    Opaque,
}

/// The first complete event that is not a ping: the commit point of a stream (P6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FirstEvent {
    /// Its `event` field, else the `type` in its data.
    pub(crate) name: String,
    /// What it says if it is an error: the answer then counts as that error.
    pub(crate) error: Option<ApiError>,
}

/// What is known so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Token counts.
    pub(crate) usage: Usage,
    /// Anything was said about usage.
    pub(crate) usage_seen: bool,
    /// `message_stop` came; of a JSON body: its document was closed.
    pub(crate) stopped: bool,
    /// Signed thinking appeared (P9).
    pub(crate) signed_thinking: bool,
    /// The last error event, or the error of a JSON body.
    pub(crate) error: Option<ApiError>,
    /// `message.id`, or the top-level `id` of a JSON body (a batch's id, for example).
    pub(crate) id: Option<String>,
    /// `thread.id`, where the answer names one.
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
    /// The data of the present event, or the body.
    data: Reader,
    line: Line,
    /// The name of the present field, as far as it matters.
    field: Vec<u8>,
    /// The name of the present event.
    name: Vec<u8>,
    /// The present event has had a field.
    has_fields: bool,
    /// It has had a `data` field.
    has_data: bool,
    /// The last byte was a carriage return, so a line feed is not another line.
    after_cr: bool,
    /// How much of a byte order mark has been seen; its length once that is settled.
    mark: usize,
    /// What [`Scanner::finish`] found to be mended.
    mend: Option<&'static [u8]>,
}

/// Where in a line of an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// At its first byte.
    Start,
    /// In the field's name.
    Name,
    /// Behind the colon, where one blank may follow.
    Colon(Field),
    /// In the value.
    Value(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Event,
    Data,
    /// A comment, `id`, `retry`, or an unknown one.
    Other,
}

impl Scanner {
    /// For a body of that form.
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

    /// The body has ended, well or not: an event whose last blank line is missing counts if its data is whole.
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

    /// The first complete event but pings, once there is one. The caller looks for at most 64 KiB or
    /// 5 s.
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

    /// What is known so far; of a JSON body everything but `stopped` is known after [`Scanner::finish`].
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What has to be written before an event of our own, or before the end of a torn stream.
    ///
    /// What an event stream has sent cannot be taken back, and the next blank line would hand half an event to the client's JSON parser. An
    /// event takes the name that came last, and clients pass over pings unread, so the torn one is made a ping.
    pub(crate) fn mend(&self) -> &'static [u8] {
        if let Some(mend) = self.mend {
            return mend;
        }
        let at_start = self.line == Line::Start;
        match (self.form, self.has_fields || !at_start) {
            (Form::Json | Form::Opaque, _) | (_, false) => b"",
            // Only the blank line is missing. One line feed more does no harm where the event has ended with a carriage return.
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
            // A name without a colon is a field with an empty value.
            Line::Name => self.begin_value(),
            Line::Colon(_) | Line::Value(_) => {}
        }
        self.line = Line::Start;
    }

    /// At a blank line. An event without data is none (WHATWG HTML section 9.2.6).
    fn end_event(&mut self) {
        let data = self.data.take();
        // Half a document is none, as for every client.
        let data = if data.whole { data } else { AnswerJson::default() };
        self.has_fields = false;
        if !std::mem::take(&mut self.has_data) {
            return self.name.clear();
        }
        let kind = data.kind.as_deref().unwrap_or_default();
        let is_error = self.name == b"error" || kind == "error";
        let error = is_error.then(|| data.error.clone().unwrap_or_default());
        self.facts.events += 1;
        self.facts.stopped |= kind == "message_stop";
        let is_ping = kind == "ping" || (kind.is_empty() && self.name == b"ping");
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

    /// What follows a byte order mark, which itself says nothing.
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
                    // It was no mark after all.
                    self.feed(&MARK[..seen]);
                }
            }
        }
        rest
    }
}

impl Facts {
    /// Counts are running totals of one answer, so the largest is the last (P13).
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
    /// From `content-type` and `content-encoding` of the answer.
    pub(crate) fn of(content_type: Option<&str>, content_encoding: Option<&str>) -> Form {
        let media_type = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
        let media_type = media_type.trim_ascii().to_ascii_lowercase();
        if is_encoded(content_encoding) {
            Form::Opaque
        } else if media_type == "text/event-stream" {
            Form::Events
        } else if media_type == "application/json" || media_type.ends_with("+json") {
            Form::Json
        } else {
            Form::Opaque
        }
    }
}

/// Whether a body is compressed, from its `content-encoding`.
pub(crate) fn is_encoded(content_encoding: Option<&str>) -> bool {
    content_encoding.is_some_and(|coding| !matches!(coding.trim_ascii(), "" | "identity"))
}

/// The facts of a body that is at hand as a whole.
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
/// One more than the longest name that matters.
const FIELD_BYTES_MAX: usize = 6;
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::chance::{Random, rounds};

    const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"m",
        "usage":{"input_tokens":25,"cache_creation_input_tokens":3,"cache_read_input_tokens":900,"output_tokens":1}}}"#;

    fn stream(events: &[(&str, &str)]) -> String {
        events
            .iter()
            .map(|(name, data)| format!("event: {name}\ndata: {}\n\n", data.replace('\n', "")))
            .collect()
    }

    fn scan(form: Form, chunks: &[&[u8]]) -> Scanner {
        let mut scanner = Scanner::new(form);
        for chunk in chunks {
            scanner.feed(chunk);
        }
        scanner.finish();
        scanner
    }

    fn events(text: &str) -> Scanner {
        scan(Form::Events, &[text.as_bytes()])
    }

    fn usual() -> String {
        stream(&[
            ("message_start", START),
            (
                "content_block_start",
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            ),
            ("ping", r#"{"type":"ping"}"#),
            (
                "content_block_delta",
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Eq\u00410"}}"#,
            ),
            ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#),
            (
                "message_delta",
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#,
            ),
            (
                "message_delta",
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5,"input_tokens":26}}"#,
            ),
            ("message_stop", r#"{"type":"message_stop"}"#),
        ])
    }

    #[test]
    fn a_usual_stream() {
        let expected = Facts {
            usage: Usage { input: 26, output: 7, cache_read: 900, cache_write: 3 },
            usage_seen: true,
            stopped: true,
            signed_thinking: true,
            error: None,
            id: Some("msg_1".into()),
            thread: None,
            events: 8,
        };
        let text = usual();
        for text in [text.clone(), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
            let whole = events(&text);
            assert_eq!(*whole.facts(), expected, "P13, P9");
            assert_eq!(
                whole.first(),
                Some(&FirstEvent { name: "message_start".into(), error: None }),
                "P6"
            );
            assert_eq!(whole.mend(), b"");
            let bytes = text.as_bytes();
            for at in 0..bytes.len() {
                let split = scan(Form::Events, &[&bytes[..at], &bytes[at..]]);
                assert_eq!(split.facts(), whole.facts(), "P13 split at {at}");
                assert_eq!(split.first(), whole.first(), "P6 split at {at}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(scan(Form::Events, &single).facts(), whole.facts(), "P13 byte by byte");
        }
    }

    #[test]
    fn first_events() {
        let overloaded =
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        let error = |kind: &str, message: &str| {
            Some(ApiError { kind: kind.into(), message: message.into(), code: None })
        };
        #[rustfmt::skip] // one row a line
        let rows = [
            ("P6 an error", format!("event: error\ndata: {overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
            ("P6 no event field", format!("data: {overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
            ("P6 the name alone says it", "event: error\ndata: oops\n\n".into(), Some(("error", error("", "")))),
            ("P6 no blanks", format!("event:error\ndata:{overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
            ("P6 several data lines", "event: error\ndata: {\"type\":\"error\",\ndata: \"error\":{\"type\":\"x\"}}\n\n".into(), Some(("error", error("x", "")))),
            ("P6 not complete", "event: message_start\ndata: {\"type\":".into(), None),
            ("P6 at the end the blank line may lack", format!("event: error\ndata: {overloaded}"), Some(("error", error("overloaded_error", "Overloaded")))),
            ("P6 comments and eventless names are none", ": hi\n\nevent: x\n\nid: 1\n\nevent: ping\ndata: {}\n\n".into(), None),
            ("P6 pings are passed over", "event: ping\ndata: {\"type\":\"ping\"}\n\ndata: {\"type\":\"ping\"}\n\ndata: {\"type\":\"x\"}\n\n".into(), Some(("x", None))),
            ("P6 the last name counts", "event: a\nevent: b\ndata\n\n".into(), Some(("b", None))),
            ("P6 fields are exact", "events: a\n data: {}\ndatas: x\n\n".into(), None),
            ("P6 a mark before it", format!("\u{feff}event: error\ndata: {overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
            ("P6 a mark later is text", "\n\u{feff}data: {}\n\n".into(), None),
            ("nothing", String::new(), None),
        ];
        for (rule, text, expected) in rows {
            let expected = expected.map(|(name, error)| FirstEvent { name: name.into(), error });
            assert_eq!(events(&text).first(), expected.as_ref(), "{rule} {text:?}");
        }
    }

    #[test]
    fn later_errors() {
        let text = usual()
            + &stream(&[(
                "error",
                r#"{"type":"error","error":{"details":{"error_code":"c"},"message":"a\nb","type":"api_error"}}"#,
            )]);
        let error = events(&text).facts().error.clone();
        let expected =
            ApiError { kind: "api_error".into(), message: "a\nb".into(), code: Some("c".into()) };
        assert_eq!(error, Some(expected), "P6");
    }

    #[test]
    fn bodies() {
        let block = |block: Value| json!({"type": "message", "id": "msg_2", "content": [{"type": "text", "text": "x"}, block], "usage": {"input_tokens": 3, "output_tokens": 4}});
        #[rustfmt::skip] // one row a line
        let rows = [
            ("P9 signature", block(json!({"type": "thinking", "thinking": "x", "signature": "s"})), true),
            ("P9 redacted", block(json!({"data": "d", "type": "redacted_thinking"})), true),
            ("P9 unsigned", block(json!({"type": "thinking", "thinking": "x", "signature": ""})), false),
            ("P9 another block's signature", block(json!({"type": "text", "signature": "s"})), false),
            ("P9 deeper", block(json!({"type": "tool_use", "input": {"content": [{"type": "thinking", "signature": "s"}]}})), false),
        ];
        for (rule, body, signed) in rows {
            let text = body.to_string();
            let whole = read(Form::Json, text.as_bytes());
            assert_eq!(whole.signed_thinking, signed, "{rule}");
            assert_eq!(
                (whole.usage.input, whole.usage.output, whole.stopped),
                (3, 4, true),
                "P13 {rule}"
            );
            assert_eq!(whole.id.as_deref(), Some("msg_2"));
            for at in 0..text.len() {
                let (head, tail) = text.as_bytes().split_at(at);
                assert_eq!(*scan(Form::Json, &[head, tail]).facts(), whole, "split at {at}");
                assert!(!scan(Form::Json, &[head]).facts().stopped, "cut at {at}");
            }
        }
        let two = json!({"content": [{"type": "thinking"}, {"signature": "s", "type": "text"}]})
            .to_string();
        assert!(!read(Form::Json, two.as_bytes()).signed_thinking, "P9 two blocks are two");
        assert!(!read(Form::Json, b"{}{}").stopped && read(Form::Json, b" {} \n").stopped);
    }

    #[test]
    fn errors_in_bodies() {
        let error = |kind: &str, message: &str| {
            Some(ApiError { kind: kind.into(), message: message.into(), code: None })
        };
        #[rustfmt::skip] // one row a line
        let rows = [
            (r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow \"down\""}}"#, error("rate_limit_error", "slow \"down\"")),
            (r#"{"error":"nope"}"#, error("", "nope")),
            (r#"{"message":"nope"}"#, error("", "nope")),
            (r#"{"error":{"message":"first"},"message":"second"}"#, error("", "first")),
            (r#"{"type":"message","message":"x"}"#, None),
            (r#"{"error":null}"#, None),
            ("<html>", None),
        ];
        for (body, expected) in rows {
            assert_eq!(read(Form::Json, body.as_bytes()).error, expected, "{body}");
        }
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "ä".repeat(5_000));
        let message = read(Form::Json, long.as_bytes()).error.unwrap().message;
        assert!(message.len() < 1_100 && message.ends_with("ä…"), "bounded");
    }

    #[test]
    fn torn_streams_are_mended() {
        let own = "event: error\ndata: {\"type\":\"error\"}\n\n";
        let text = usual();
        for text in [text.clone(), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
            for at in 0..=text.len() {
                let torn = &text[..at];
                let mended = format!("{torn}{}{own}", String::from_utf8_lossy(events(torn).mend()));
                let slow = slow_events(&mended);
                let (last, before) = slow.split_last().unwrap();
                assert_eq!(last.0, "error", "torn at {at}");
                assert_eq!(last.1, r#"{"type":"error"}"#, "torn at {at}");
                let readable = |(name, data): &(String, String)| {
                    name == "ping" || serde_json::from_str::<Value>(data).is_ok()
                };
                assert!(before.iter().all(readable), "P6 torn at {at}: {before:?}");
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut scanner = Scanner::new(Form::Events);
        let piece = [b'x'; 64 * 1024];
        for head in [
            "",
            ": ",
            "\nevent: ",
            "\ndata: ",
            "\ndata: {\"type\":\"",
            "\",\"error\":{\"message\":\"",
        ] {
            scanner.feed(head.as_bytes());
            for _ in 0..16 {
                scanner.feed(&piece);
            }
        }
        for _ in 0..16 {
            scanner.feed(&[b'['; 64 * 1024]);
        }
        let kept = format!("{scanner:?}").len();
        assert!(kept < 16 * 1024, "kept {kept}");
    }

    /// Splits a stream the slow and obvious way.
    fn slow_events(text: &str) -> Vec<(String, String)> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let (mut name, mut data, mut found) = (String::new(), None::<String>, Vec::new());
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    found.push((name.clone(), data));
                }
                name.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => name = value.to_owned(),
                "data" => match &mut data {
                    Some(data) => *data = format!("{data}\n{value}"),
                    None => data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
        found
    }

    fn slow_facts(text: &str) -> (Facts, Option<FirstEvent>) {
        let (mut facts, mut first) = (Facts::default(), None);
        for (name, data) in slow_events(text) {
            let value: Value =
                serde_json::from_str(&data).ok().filter(Value::is_object).unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let kind = text(&value["type"]);
            facts.events += 1;
            facts.stopped |= kind == "message_stop";
            for usage in [&value["usage"], &value["message"]["usage"]] {
                for (key, total) in [
                    ("input_tokens", &mut facts.usage.input),
                    ("output_tokens", &mut facts.usage.output),
                    ("cache_read_input_tokens", &mut facts.usage.cache_read),
                    ("cache_creation_input_tokens", &mut facts.usage.cache_write),
                ] {
                    if let Some(tokens) = usage[key].as_u64() {
                        *total = tokens.max(*total);
                        facts.usage_seen = true;
                    }
                }
            }
            let filled = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
            let block = &value["content_block"];
            facts.signed_thinking |= (value["delta"]["type"] == "signature_delta"
                && filled(&value["delta"]["signature"]))
                || (block["type"] == "thinking" && filled(&block["signature"]))
                || (block["type"] == "redacted_thinking" && filled(&block["data"]));
            facts.id = value["message"]["id"].as_str().map(str::to_owned).or(facts.id);
            let error = (name == "error" || kind == "error").then(|| ApiError {
                kind: text(&value["error"]["type"]),
                message: text(&value["error"]["message"]),
                code: None,
            });
            facts.error = error.clone().or(facts.error);
            let is_ping = kind == "ping" || (kind.is_empty() && name == "ping");
            if error.is_some() || !is_ping {
                first.get_or_insert(FirstEvent {
                    name: if name.is_empty() { kind } else { name },
                    error,
                });
            }
        }
        (facts, first)
    }

    fn random_stream(random: &mut Random) -> String {
        let mut text = String::new();
        let end = *random.pick(&["\n", "\r\n", "\r"]);
        for _ in 0..random.below(8) {
            let number = random.below(1_000);
            let junk = random.json(2).replace(['\n', '\r'], " ");
            let data = match random.below(9) {
                0 => format!(
                    r#"{{"x":{junk},"type":"message_start","message":{{"id":"m{number}","usage":{{"input_tokens":{number}}}}}}}"#
                ),
                1 => format!(
                    r#"{{"usage":{{"output_tokens":{number},"cache_read_input_tokens":null}},"type":"message_delta","z":{junk}}}"#
                ),
                2 => r#"{"type":"message_stop"}"#.into(),
                3 => format!(r#"{{"type":"error","error":{{"message":"e{number}","x":{junk},"type":"api_error"}}}}"#),
                4 => format!(
                    r#"{{"content_block":{{"x":{junk},"type":"redacted_thinking","data":"d"}},"type":"content_block_start"}}"#
                ),
                5 => r#"{"type":"content_block_delta","delta":{"signature":"s\\","type":"signature_delta"}}"#.into(),
                6 => r#"{"type":"content_block_delta","delta":{"signature":"","type":"signature_delta"}}"#.into(),
                7 => "[DONE]".into(),
                _ => format!(r#"{{"type":"ping","message":{{"x":{junk}}}}}"#),
            };
            let field = random.word(&["data: ", "data:", "data: ", "data:  "]);
            let name = random.word(&[
                "event: a",
                "event:error",
                "event",
                ": c",
                "id: 7",
                "retry: 1",
                "evento: x",
                "",
            ]);
            if !name.is_empty() {
                text += &format!("{name}{end}");
            }
            if random.chance(10) {
                let half =
                    data.char_indices().nth(data.chars().count() / 2).map_or(0, |(at, _)| at);
                text += &format!("{field}{}{end}{end}", &data[..half]);
                continue;
            }
            let folded =
                data.replacen(',', &format!(",{end}data: "), usize::from(random.chance(20)));
            text += &format!("{field}{folded}");
            text += &if random.chance(90) { end.repeat(2) } else { end.to_owned() };
        }
        // A torn end is judged by `finish`, about which the slow reader knows nothing.
        text + end + end
    }

    #[test]
    fn agrees_with_the_slow_reader_however_it_is_split() {
        let mut random = Random::new(31);
        let mut signed = 0;
        for _ in rounds(3_000) {
            let text = random_stream(&mut random);
            let (facts, first) = slow_facts(&text);
            signed += u32::from(facts.signed_thinking);
            let mut scanner = Scanner::new(Form::Events);
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at(1 + random.below(rest.len().min(40)));
                scanner.feed(chunk);
                rest = tail;
            }
            scanner.finish();
            assert_eq!(*scanner.facts(), facts, "{text:?}");
            assert_eq!(scanner.first(), first.as_ref(), "{text:?}");
        }
        assert!(signed > 100, "the generator draws what is looked for");
    }

    #[test]
    fn garbage_does_no_harm() {
        let mut random = Random::new(32);
        for _ in rounds(5_000) {
            let mut text = random_stream(&mut random).into_bytes();
            for _ in 0..random.below(6) {
                let at = random.below(text.len());
                text[at] = random.next() as u8;
            }
            let whole = scan(Form::Events, &[&text]);
            let split: Vec<&[u8]> = text.chunks(1 + random.below(9)).collect();
            assert_eq!(scan(Form::Events, &split).facts(), whole.facts());
            assert_eq!(scan(Form::Events, &split).mend(), whole.mend());
            let body = random.broken_json();
            let split: Vec<&[u8]> = body.chunks(1 + random.below(9)).collect();
            assert_eq!(*scan(Form::Json, &split).facts(), read(Form::Json, &body));
        }
    }

    #[test]
    fn forms() {
        #[rustfmt::skip] // one row a line
        let rows = [
            (Some("text/event-stream; charset=utf-8"), None, Form::Events),
            (Some("Text/Event-Stream"), Some("identity"), Form::Events),
            (Some("application/json"), None, Form::Json),
            (Some("application/problem+json"), Some(""), Form::Json),
            (Some("application/json"), Some("gzip"), Form::Opaque),
            (Some("text/html"), None, Form::Opaque),
            (None, None, Form::Opaque),
        ];
        for (content_type, encoding, expected) in rows {
            assert_eq!(Form::of(content_type, encoding), expected, "{content_type:?} {encoding:?}");
        }
    }
}
