//! Parses what answers say about an account's limits. Pure: bytes in, readings out.
//!
//! `headers` reads Anthropic's rate-limit headers and the usage endpoint, `body` the refusals of
//! other providers, `dates` the moments in both.

pub(crate) mod body;
pub(crate) mod dates;
pub(crate) mod headers;
mod said_time;
