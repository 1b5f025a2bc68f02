//! The test peer for framing: what a byte stream means to a strict HTTP/1.1 server, three times
//! over.
//!
//! A table of cases with the right verdicts, a slow parser to check any other parser against, and a
//! generator that turns the cases into many more. It was written from RFC 9110, RFC 9112 and SPEC
//! P2 and knows nothing of the program's own parser: a mistake made there cannot be repeated here
//! by copying. No I/O and no imports, so that unit tests can include this file by its path.

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

/// One thing that happens on a connection on which a client sends bytes and then says nothing more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// A complete request, handed on with exactly this method, target and body.
    Served {
        method: String,
        target: String,
        /// Without its framing, and without trailers.
        body: Vec<u8>,
    },
    /// Always last: the connection ends after the request before it, as that request wanted (RFC
    /// 9112 section 9.3). What follows on the connection is not read.
    Closes,
    /// Always last: answered with this status, and the connection is closed.
    Refused(u16),
    /// Always last: a message has begun and is not complete. Nothing of it is handed on. Empty
    /// lines alone begin no message.
    Waits,
}

/// `GET /v1/models` with an empty body, and the like.
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
