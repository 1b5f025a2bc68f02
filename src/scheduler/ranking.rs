//! The accounts as one request sees them: those that can serve, in which pass and with which score,
//! and those that cannot.

use super::snapshot::{PassOrder, Terms, Tier};

/// An account that can serve now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Available {
    pub(super) index: usize,
    pub(super) tier: Option<Tier>,
    pub(super) order: PassOrder,
    pub(super) priority: i64,
    pub(super) terms: Terms,
}

/// The accounts as one request sees them; kept between requests for its memory.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    pub(super) available: Vec<Available>,
    /// The places of the others.
    pub(super) out: Vec<usize>,
    /// How many of those are kept only by the brink or by a cold start (S6).
    pub(super) restrained: usize,
}
