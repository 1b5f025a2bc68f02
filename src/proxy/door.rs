//! Who may come in, and with what framing (P2). Judges a received head; reads no socket.

use std::net::IpAddr;

use super::headers::Headers;
use super::paths::Route;

/// A received request head. Nothing in it has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// As received.
    pub(crate) method: &'a str,
    /// The request target as received.
    pub(crate) target: &'a str,
    /// Major and minor.
    pub(crate) version: (u8, u8),
    /// All header lines.
    pub(crate) headers: &'a Headers,
}

/// The settings of the door.
#[derive(Clone, Copy)]
pub(crate) struct Door<'a> {
    /// `proxy.host`.
    pub(crate) host: &'a str,
    /// `proxy.apiKey`; empty: no key fits.
    pub(crate) key: &'a [u8],
    /// `proxy.requireKey`.
    pub(crate) require_key: bool,
}

/// How the request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    NoBody,
    /// `content-length`, at most [`super::peek::BODY_BYTES_MAX`].
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
}

/// A request that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its body's framing.
    pub(crate) framing: Framing,
    /// `expect: 100-continue` was sent and the body has to be asked for.
    pub(crate) expects_continue: bool,
    /// Where it goes.
    pub(crate) route: Route,
}

/// A request that was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DoorRefusal {
    /// 400, 401, 403, 413, 417, 431 or 505.
    pub(crate) status: u16,
    /// The error type of P14.
    pub(crate) kind: &'static str,
    /// What was wrong, in words.
    pub(crate) message: String,
    /// The connection has to be closed: its framing cannot be trusted, or a body is unread.
    pub(crate) close: bool,
}

impl Door<'_> {
    /// Judges a head that came from `peer`: framing and target first, then the key, else `Host` and `Origin`.
    ///
    /// # Errors
    /// The answer to give; nothing of the request may be used then.
    pub(crate) fn check(&self, _head: &Head<'_>, _peer: IpAddr) -> Result<Entry, DoorRefusal> {
        Ok(Entry {
            framing: Framing::NoBody,
            expects_continue: false,
            route: Route::Other,
        })
    }

    /// Whether either key header holds the proxy key, compared in constant time.
    pub(crate) fn holds_key(&self, _headers: &Headers) -> bool {
        false
    }
}
