//! The test peer for framing: three descriptions of how a strict HTTP/1.1 server reads a byte
//! stream.
//!
//! They are a table of cases with correct verdicts, a slow parser to check other parsers against,
//! and a generator that derives more inputs from the cases. They were written from RFC 9110, RFC
//! 9112 and SPEC P2 without the program's own parser, so that its mistakes are not copied. No I/O
//! and no imports, so that unit tests can include this file by its path.

#![allow(
    clippy::panic,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each of the two crates that include this uses a part of it"
)]

pub mod corpus;
pub mod generate;
pub mod reference;

/// One thing that happens on a connection on which a client sends bytes and then falls silent.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// A complete request, passed on with exactly this method, target and body.
    Served {
        method: String,
        target: String,
        /// Without its framing and trailers.
        body: Vec<u8>,
    },
    /// Always last: the connection ends after the previous request, as that request asked (RFC 9112
    /// section 9.3). Later bytes are not read.
    Closes,
    /// Always last: answered with this status, and the connection is closed.
    Refused(u16),
    /// Always last: a message has begun and is incomplete. No part of it is passed on. Empty lines
    /// alone do not begin a message.
    Waits,
}

/// A served request, such as `GET /v1/models` with an empty body.
pub fn served(method: &str, target: &str, body: &[u8]) -> Seen {
    Seen::Served { method: method.to_owned(), target: target.to_owned(), body: body.to_vec() }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Seen::Served { method, target, body } => {
                write!(f, "Served({method:.40} {target:.80}")?;
                match body.len() {
                    0 => write!(f, ")"),
                    1..=200 => write!(f, ", \"{}\")", body.escape_ascii()),
                    length => write!(f, ", {length} bytes)"),
                }
            }
            Seen::Closes => write!(f, "Closes"),
            Seen::Refused(status) => write!(f, "Refused({status})"),
            Seen::Waits => write!(f, "Waits"),
        }
    }
}
