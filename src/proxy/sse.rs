//! What an answer says while its bytes go by (P6, P9, P13): first event, errors, usage, thinking, its end.
//!
//! Takes chunks as they come, keeps a few hundred bytes however long the answer is, and never changes or delays a byte.

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

/// Token counts of one answer, each the largest that was seen (P13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// `input_tokens`.
    pub(crate) input: u64,
    /// `output_tokens`.
    pub(crate) output: u64,
    /// `cache_read_input_tokens`.
    pub(crate) cache_read: u64,
    /// `cache_creation_input_tokens`.
    pub(crate) cache_write: u64,
}

/// An error of the API in an event or a body, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// `error.type`.
    pub(crate) kind: String,
    /// `error.message`, cut at a few hundred bytes.
    pub(crate) message: String,
    /// `error.details.error_code`.
    pub(crate) code: Option<String>,
}

/// The first complete event: the commit point of a stream (P6).
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
    facts: Facts,
    first: Option<FirstEvent>,
}

impl Scanner {
    /// For a body of that form.
    pub(crate) fn new(_form: Form) -> Self {
        Scanner {
            facts: Facts::default(),
            first: None,
        }
    }

    /// Takes the next bytes, split anywhere.
    pub(crate) fn feed(&mut self, _chunk: &[u8]) {}

    /// The body has ended: an event whose last blank line is missing counts if its data is whole.
    pub(crate) fn finish(&mut self) {}

    /// The first complete event, once there is one. The caller looks for at most 64 KiB or 5 s.
    pub(crate) fn first(&self) -> Option<&FirstEvent> {
        self.first.as_ref()
    }

    /// What is known so far.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What has to be written before an event of our own, so that a client takes a torn event for a ping and ours for itself.
    pub(crate) fn mend(&self) -> &'static [u8] {
        b""
    }
}

impl Form {
    /// From `content-type` and `content-encoding` of the answer.
    pub(crate) fn of(_content_type: Option<&str>, _content_encoding: Option<&str>) -> Form {
        Form::Opaque
    }
}

/// The facts of a body that is at hand as a whole.
pub(crate) fn read(form: Form, body: &[u8]) -> Facts {
    let mut scanner = Scanner::new(form);
    scanner.feed(body);
    scanner.finish();
    scanner.facts
}
