//! Answers of the stand-in: a head, body parts with a framing, and steps that may go wrong at any
//! point.

use std::time::Duration;

use super::message::Message;
use super::{Gate, Limits, Request};

/// One step of sending an answer.
#[derive(Clone)]
pub enum Step {
    /// Writes these bytes unchanged.
    Send(Vec<u8>),
    /// Writes a body part between the two halves of its frame.
    Body {
        /// The bytes before and after the part on the wire.
        frame: (Vec<u8>, Vec<u8>),
        bytes: Vec<u8>,
    },
    /// Waits; if the client leaves meanwhile, the answer ends.
    Pause(Duration),
    /// Waits until the test opens the gate.
    Hold(Gate),
    /// Sends nothing more until the client has left.
    AwaitLeave,
    /// Writes the same bytes repeatedly: endless heads and bodies.
    Repeat {
        bytes: Vec<u8>,
        /// How many times to write them.
        times: usize,
    },
    /// Chunked text deltas of at least this many bytes in total, generated from a seed.
    Flood {
        total: u64,
        /// The seed of the text.
        seed: u64,
    },
    /// Closes the connection in the ordinary way at this point.
    Fin,
    /// Resets the connection at this point.
    Reset,
}

/// What happens to the connection after a complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It waits for the next request.
    KeepAlive,
    /// It is closed at once, without announcement.
    Close,
    /// It is closed when the next request arrives, like a stale connection in the other side's
    /// pool.
    CloseOnNext,
}

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Transfer-Encoding: chunked`, one chunk per part.
    Chunked,
    /// `Content-Length`.
    Length,
    /// Neither: the body ends with the connection.
    UntilClose,
}

/// The body before it is divided into parts.
#[derive(Clone)]
enum Body {
    /// These bytes, one element per part.
    Parts(Vec<Vec<u8>>),
    /// An assistant message, as events or one JSON document, as the request asks.
    Message(Box<Message>),
    /// The same, always as events.
    Stream(Box<Message>),
}

/// One scripted answer.
#[derive(Clone)]
pub struct Answer {
    /// What happens to the connection afterwards.
    pub end: End,
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    framing: Option<Framing>,
    piece: Option<usize>,
    before: Vec<Step>,
    inserted: Vec<(usize, Step)>,
    raw: Option<Vec<Step>>,
}

impl Answer {
    /// What a healthy API answers to this request.
    pub fn healthy(request: &Request) -> Answer {
        match (request.method.as_str(), request.path()) {
            ("POST", "/v1/messages") => Answer::message("Hello from upstream."),
            ("POST", "/v1/messages/count_tokens") => Answer::json(200, r#"{"input_tokens":42}"#),
            ("GET", "/v1/models") => Answer::json(200, MODELS),
            ("POST", "/v1/complete") => Answer::json(
                200,
                r#"{"type":"completion","id":"compl_1","completion":" Hello","stop_reason":"stop_sequence","model":"claude-2.1"}"#,
            ),
            _ => Answer::error(404, "not_found_error", "Not found"),
        }
    }

    /// An assistant message with this text, as events or JSON, as the request asks.
    pub fn message(text: &str) -> Answer {
        Answer::of(Message::text(text))
    }

    /// An assistant message.
    pub fn of(message: Message) -> Answer {
        Answer::new(200, Body::Message(Box::new(message)))
    }

    /// An assistant message as events, whatever the request asks for.
    pub fn stream(message: Message) -> Answer {
        Answer::new(200, Body::Stream(Box::new(message)))
    }

    /// Events given as bytes, one element per part.
    pub fn events<E: Into<Vec<u8>>>(events: impl IntoIterator<Item = E>) -> Answer {
        let parts = events.into_iter().map(Into::into).collect();
        Answer::new(200, Body::Parts(parts))
            .header("content-type", "text/event-stream; charset=utf-8")
    }

    /// A JSON document.
    pub fn json(status: u16, body: &str) -> Answer {
        Answer::bytes(status, body.as_bytes()).header("content-type", "application/json")
    }

    /// Any bytes, without a content type.
    pub fn bytes(status: u16, body: &[u8]) -> Answer {
        Answer::new(status, Body::Parts(vec![body.to_vec()]))
    }

    /// The API's error shape.
    pub fn error(status: u16, kind: &str, message: &str) -> Answer {
        let error = serde_json::json!({
            "type": "error",
            "error": {"type": kind, "message": message},
            "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
        });
        Answer::json(status, &error.to_string())
            .header("request-id", "req_011CSHoEeqs5C35K2UUqR7Fy")
    }

    /// Exactly these steps, without a generated head; then the connection is closed.
    pub fn raw(steps: impl IntoIterator<Item = Step>) -> Answer {
        let mut answer = Answer::new(200, Body::Parts(Vec::new()));
        answer.raw = Some(steps.into_iter().collect());
        answer.end = End::Close;
        answer
    }

    /// Exactly these bytes; then the connection is closed.
    pub fn raw_bytes(bytes: &[u8]) -> Answer {
        Answer::raw([Step::Send(bytes.to_vec())])
    }

    fn new(status: u16, body: Body) -> Answer {
        Answer {
            end: End::KeepAlive,
            status,
            headers: Vec::new(),
            body,
            framing: None,
            piece: None,
            before: Vec::new(),
            inserted: Vec::new(),
            raw: None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds limit headers.
    #[must_use]
    pub fn limits(mut self, limits: &Limits) -> Answer {
        self.headers.extend(limits.headers());
        self
    }

    /// Sets the framing. The default is chunked for events and a length for everything else.
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Answer {
        self.framing = Some(framing);
        if framing == Framing::UntilClose {
            self.end = End::Close;
        }
        self
    }

    /// Sets what happens to the connection.
    #[must_use]
    pub fn end(mut self, end: End) -> Answer {
        self.end = end;
        self
    }

    /// Adds a step before the head.
    #[must_use]
    pub fn before(mut self, step: Step) -> Answer {
        self.before.push(step);
        self
    }

    /// Sends an interim head such as `100 Continue` or `103 Early Hints` first.
    #[must_use]
    pub fn interim(self, status_line: &str, headers: &str) -> Answer {
        let head = format!("HTTP/1.1 {status_line}\r\n{headers}\r\n");
        self.before(Step::Send(head.into_bytes()))
    }

    /// Adds a step before body part `index`; an index past the end means before the end of the
    /// body.
    #[must_use]
    pub fn at(mut self, index: usize, step: Step) -> Answer {
        self.inserted.push((index, step));
        self
    }

    /// Waits this long before every body part but the first.
    #[must_use]
    pub fn paced(mut self, pause: Duration) -> Answer {
        // Message bodies get their parts only when they are rendered, so this adds a step before
        // every part that may exist.
        for index in 1..4096 {
            self.inserted.push((index, Step::Pause(pause)));
        }
        self
    }

    /// Splits the body into parts of this many bytes, regardless of event boundaries.
    #[must_use]
    pub fn pieces(mut self, bytes: usize) -> Answer {
        self.piece = Some(bytes);
        self
    }

    /// Encodes the body with gzip (stored, not compressed) and announces it.
    #[must_use]
    pub fn gzipped(mut self) -> Answer {
        if let Body::Parts(parts) = &mut self.body {
            *parts = vec![gzip(&parts.concat())];
        }
        self.header("content-encoding", "gzip")
    }

    /// The steps for this request.
    pub(super) fn steps(&self, request: &Request) -> Vec<Step> {
        let mut steps = self.before.clone();
        if let Some(raw) = &self.raw {
            steps.extend(raw.iter().cloned());
            return steps;
        }
        let (parts, events) = self.parts(request);
        let framing =
            self.framing.unwrap_or(if events { Framing::Chunked } else { Framing::Length });
        let length: usize = parts.iter().map(Vec::len).sum();
        steps.push(Step::Send(self.head(framing, length, events)));
        if request.method == "HEAD" {
            return steps;
        }
        let mut index = 0;
        for bytes in parts {
            self.insert(&mut steps, index..index + 1);
            steps.push(Step::Body { frame: frame(framing, bytes.len()), bytes });
            index += 1;
        }
        self.insert(&mut steps, index..index + 1);
        if !steps.iter().any(|step| matches!(step, Step::Flood { .. })) {
            // Pauses past the end do not count, but a fault placed "whenever it ends" does.
            self.insert_faults(&mut steps, index + 1);
        }
        if framing == Framing::Chunked {
            steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
        }
        steps
    }

    fn insert(&self, steps: &mut Vec<Step>, range: std::ops::Range<usize>) {
        let here = self.inserted.iter().filter(|(at, _)| range.contains(at));
        steps.extend(here.map(|(_, step)| step.clone()));
    }

    fn insert_faults(&self, steps: &mut Vec<Step>, from: usize) {
        let late = self
            .inserted
            .iter()
            .filter(|(at, step)| *at >= from && !matches!(step, Step::Pause(_)));
        steps.extend(late.map(|(_, step)| step.clone()));
    }

    /// The body parts, and whether they are events.
    fn parts(&self, request: &Request) -> (Vec<Vec<u8>>, bool) {
        let (mut parts, events) = match &self.body {
            Body::Parts(parts) => {
                let events = self.headers.iter().any(|(name, value)| {
                    name.eq_ignore_ascii_case("content-type") && value.contains("event-stream")
                });
                (parts.clone(), events)
            }
            Body::Message(message) if !request.wants_stream() => {
                (vec![message.json(request)], false)
            }
            Body::Message(message) | Body::Stream(message) => (message.events(request), true),
        };
        if let Some(piece) = self.piece {
            let whole = parts.concat();
            parts = whole.chunks(piece.max(1)).map(<[u8]>::to_vec).collect();
        }
        (parts, events)
    }

    fn head(&self, framing: Framing, length: usize, events: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let has = |name: &str| self.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
        if !has("content-type") && matches!(self.body, Body::Message(_) | Body::Stream(_)) {
            head.push_str(if events {
                "content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
            } else {
                "content-type: application/json\r\n"
            });
        }
        if !has("request-id") {
            head.push_str("request-id: req_011CSHoEeqs5C35K2UUqR7Fy\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match framing {
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::Length => head.push_str(&format!("content-length: {length}\r\n")),
            Framing::UntilClose => head.push_str("connection: close\r\n"),
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// The bytes before and after a part on the wire.
fn frame(framing: Framing, length: usize) -> (Vec<u8>, Vec<u8>) {
    match framing {
        Framing::Chunked => (format!("{length:x}\r\n").into_bytes(), b"\r\n".to_vec()),
        Framing::Length | Framing::UntilClose => (Vec::new(), Vec::new()),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        413 => "Payload Too Large",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        529 => "Overloaded",
        _ => "Whatever",
    }
}

/// RFC 1952 with stored blocks (RFC 1951, 3.2.4): valid gzip without a compressor.
pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blocks: Vec<&[u8]> = plain.chunks(0xffff).collect();
    for (index, block) in blocks.iter().enumerate() {
        let length = u16::try_from(block.len()).expect("a block is at most 65535 bytes");
        packed.push(u8::from(index + 1 == blocks.len()));
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(&(!length).to_le_bytes());
        packed.extend_from_slice(block);
    }
    let mut crc = u32::MAX;
    for byte in plain {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    packed.extend_from_slice(&(!crc).to_le_bytes());
    let length = u32::try_from(plain.len()).expect("test bodies are below 4 GiB");
    packed.extend_from_slice(&length.to_le_bytes());
    packed
}

/// The beginning of the API's model list.
const MODELS: &str = r#"{"data":[{"type":"model","id":"claude-opus-4-5-20251101","display_name":"Claude Opus 4.5","created_at":"2025-11-24T00:00:00Z"},{"type":"model","id":"claude-sonnet-4-5-20250929","display_name":"Claude Sonnet 4.5","created_at":"2025-09-29T00:00:00Z"}],"has_more":false,"first_id":"claude-opus-4-5-20251101","last_id":"claude-sonnet-4-5-20250929"}"#;
