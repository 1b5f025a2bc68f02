//! What a request's body says, found in one pass over its bytes without building a document (P4, P9, P10, S9).
//!
//! Never fails and never changes a byte: of a broken body it gives what could be read.

use std::ops::Range;

/// A longer body is 413.
pub(crate) const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The facts of one request body. Of keys that occur twice the last one counts, as for most JSON readers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peek {
    /// The top-level `model`, decoded.
    pub(crate) model: Option<String>,
    /// Where the top-level `model` strings are.
    pub(crate) models: ModelSpans,
    /// `stream` is `true`.
    pub(crate) stream: bool,
    /// `max_tokens`.
    pub(crate) max_tokens: Option<u64>,
    /// `thinking.type` is `enabled` or `adaptive`.
    pub(crate) thinking_on: bool,
    /// A message holds a `thinking` or `redacted_thinking` block with a signature (P9).
    pub(crate) signed_thinking: bool,
    /// Digest of the first message: the same for a conversation's later requests, cache marks or not (S9).
    pub(crate) first_message: Option<u128>,
    /// Claude Code's session id from `metadata.user_id` (S9).
    pub(crate) session: Option<String>,
    /// `thread`.
    pub(crate) thread: Option<Thread>,
    /// The body was one whole JSON object. If not, what is absent here may still be in it.
    pub(crate) whole: bool,
}

/// Byte ranges of the top-level `model` strings, quotes included, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelSpans {
    /// The first few.
    pub(crate) first: Vec<Range<usize>>,
    /// There are more than are listed.
    pub(crate) more: bool,
}

/// `thread` of a request (P10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thread {
    /// `thread.id`.
    pub(crate) id: Option<String>,
    /// `thread.type` is `continue`: only a tail of the conversation is in the body.
    pub(crate) continues: bool,
}

/// Looks at a body.
pub(crate) fn peek(_body: &[u8]) -> Peek {
    Peek::default()
}

impl Peek {
    /// The request's weight (P4).
    pub(crate) fn weight(&self, body_bytes: usize) -> u32 {
        let size = u32::try_from(body_bytes.div_ceil(64_000)).unwrap_or(u32::MAX);
        size.max(1)
            .saturating_add(u32::from(self.max_tokens.is_some_and(|n| n > 16_000)))
            .saturating_add(u32::from(self.thinking_on))
    }
}
