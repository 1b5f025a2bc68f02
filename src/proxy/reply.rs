//! Answers of our own (P14): the API's error shape, the true cause in words, as a response or as an SSE event.

use std::time::Duration;

use super::door::DoorRefusal;
use super::headers::Headers;

/// An answer that we give ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// HTTP status.
    pub(crate) status: u16,
    /// The error type of P14.
    pub(crate) kind: &'static str,
    /// What happened, to what, what to do.
    pub(crate) message: String,
    /// When it is worth coming back.
    pub(crate) retry_after: Option<Duration>,
    /// `x-should-retry`.
    pub(crate) should_retry: bool,
    /// `error.details.error_code`.
    pub(crate) error_code: Option<&'static str>,
    /// `allow`, with 405.
    pub(crate) allow: Option<&'static str>,
    /// The connection is closed after it.
    pub(crate) close: bool,
}

impl Reply {
    /// The JSON body.
    pub(crate) fn body(&self) -> Vec<u8> {
        Vec::new()
    }

    /// All headers but framing (`content-length`, `connection`).
    pub(crate) fn headers(&self) -> Headers {
        Headers::default()
    }

    /// The same as one SSE event, for a stream that has begun.
    pub(crate) fn event(&self) -> Vec<u8> {
        Vec::new()
    }
}

impl From<DoorRefusal> for Reply {
    fn from(refusal: DoorRefusal) -> Reply {
        Reply {
            status: refusal.status,
            kind: refusal.kind,
            message: refusal.message,
            retry_after: None,
            should_retry: false,
            error_code: None,
            allow: None,
            close: refusal.close,
        }
    }
}
