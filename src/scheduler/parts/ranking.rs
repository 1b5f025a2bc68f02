//! The accounts as ranked for one request: those that can serve, with their passes and scores, and
//! the others.

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

/// The accounts as ranked for one request; kept between requests to reuse its memory.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    pub(crate) available: Vec<Available>,
    /// The indices of the others.
    pub(crate) out: Vec<usize>,
    /// How many of those are held back only by the brink or by the cold-start limit (S6).
    pub(crate) restrained: usize,
}
