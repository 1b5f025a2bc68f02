//! The accounts as one request sees them: those that can serve, in which pass and with which score,
//! and those that cannot.

use super::request::Avoided;
use super::snapshot::{PassOrder, Terms, Tier};

/// An account that can serve now.
#[derive(Debug)]
pub(crate) struct Available {
    pub(crate) index: usize,
    pub(crate) tier: Option<Tier>,
    /// Why it serves only what no other can (S3).
    pub(crate) avoided: Vec<Avoided>,
    pub(crate) order: PassOrder,
    pub(crate) priority: i64,
    pub(crate) terms: Terms,
}

/// The accounts as one request sees them; kept between requests for its memory.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    pub(crate) available: Vec<Available>,
    /// The places of the others.
    pub(crate) out: Vec<usize>,
    /// How many of those are kept only by the brink or by a cold start (S6).
    pub(crate) restrained: usize,
}
