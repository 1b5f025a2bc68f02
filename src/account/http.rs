//! HTTP as the accounts need it: one call, its answer, or how far it got.
//!
//! The network itself is passed in as [`Http`], so this module never opens a connection, and a
//! test's token endpoint is a closure. A body or a header value may hold a credential: `Debug`
//! shows neither.

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// Performs one call: a single attempt that follows no redirects and reads the whole body.
///
/// No status is a failure here, and neither is a body that ends too early: the part that arrived
/// may hold a token. The implementation must keep to `timeout`, from the look-up to the last byte
/// of the body, and must cut the body at `reply_bytes_max`.
pub(crate) type Http = dyn Fn(HttpCall) -> Result<HttpReply, HttpFailure> + Send + Sync;

/// One request. The headers include `accept: application/json` and `user-agent`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpCall {
    /// `GET` or `POST`.
    pub(crate) method: &'static str,
    /// Absolute, `https` or (in tests) `http`.
    pub(crate) url: String,
    /// Lower-case names; values are visible ASCII.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// `None`: no body and no `content-length`.
    pub(crate) body: Option<Vec<u8>>,
    /// For the whole call.
    pub(crate) timeout: Duration,
    /// Most bytes read of the answer's body.
    pub(crate) reply_bytes_max: usize,
}

/// An answer of any status.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    /// In the order sent, names as sent.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Why the body ended too early, if it did; [`HttpReply::whole`] turns that into a failure.
    pub(crate) cut: Option<String>,
}

/// How far a call without an answer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpPhase {
    /// Look-up, connect, proxy or TLS handshake: nothing of the request was sent, so it may be
    /// repeated.
    Connect,
    /// At least one byte was sent: the other side may have acted on it.
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
    /// The answer, if it is complete.
    pub(crate) fn whole(self) -> Result<HttpReply, HttpFailure> {
        match self.cut {
            Some(cause) => Err(HttpFailure { phase: HttpPhase::MayHaveArrived, cause }),
            None => Ok(self),
        }
    }

    /// The first header with that name, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let value = &self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?.1;
        std::str::from_utf8(value).ok().map(str::trim)
    }
}

/// Escapes a part of a path or a query: everything except the unreserved characters of RFC 3986
/// section 2.3.
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
