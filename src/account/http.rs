//! The few words in which accounts speak HTTP: one call, its answer, or how far it got.
//!
//! The network itself is handed in as [`Http`], so this module never opens a connection, and a
//! test's fake token endpoint is a closure. A body and a header value may hold a credential:
//! `Debug` shows neither.

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// Performs one call: one attempt, no redirects followed, the answer's body read whole.
///
/// A status is never a failure here, and neither is a body that ends too early: what has come of it
/// may hold a token. The implementer keeps to `timeout` from the first look-up to the last byte of
/// the body and to `reply_bytes_max`, where a longer body is cut.
pub(crate) type Http = dyn Fn(HttpCall) -> Result<HttpReply, HttpFailure> + Send + Sync;

/// One request. `accept: application/json` and the `user-agent` are among the headers already.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpCall {
    /// `GET` or `POST`.
    pub(crate) method: &'static str,
    /// Absolute, `https` or (in tests) `http`.
    pub(crate) url: String,
    /// Lower-case names; values are visible ASCII.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Absent: no body and no `content-length`.
    pub(crate) body: Option<Vec<u8>>,
    /// For everything together.
    pub(crate) timeout: Duration,
    /// The most that is read of the answer's body.
    pub(crate) reply_bytes_max: usize,
}

/// An answer of any status.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    /// In the order sent, names as sent.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Why the body may end too early; [`HttpReply::whole`] makes a failure of it.
    pub(crate) cut: Option<String>,
}

/// How far a call got that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpPhase {
    /// Look-up, connect, proxy or TLS handshake: nothing of the request was sent, so it may be sent
    /// again.
    Connect,
    /// At least one byte was handed to the network: the other side may have acted on it.
    MayHaveArrived,
}

/// A call without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpFailure {
    /// Decides whether the call may be repeated.
    pub(crate) phase: HttpPhase,
    /// For people: lower case, without the request's content.
    pub(crate) cause: String,
}

impl HttpReply {
    /// The answer, if all of it has come.
    pub(crate) fn whole(self) -> Result<HttpReply, HttpFailure> {
        match self.cut {
            Some(cause) => Err(HttpFailure { phase: HttpPhase::MayHaveArrived, cause }),
            None => Ok(self),
        }
    }

    /// The first header of that name, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let value = &self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?.1;
        std::str::from_utf8(value).ok().map(str::trim)
    }
}

/// A part of a path or a query: all but the unreserved characters of RFC 3986 section 2.3 escaped.
pub(crate) fn percent_encoded(text: &str) -> PercentEncode<'_> {
    const RESERVED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED)
}

impl fmt::Debug for HttpCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

impl fmt::Debug for HttpReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} bytes", self.status, self.body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_paths() {
        let encoded = percent_encoded("a b/ü?(x)~-._").to_string();
        assert_eq!(encoded, "a%20b%2F%C3%BC%3F%28x%29~-._");
    }
}
