//! Identifiers of accounts and requests.

/// An account's id, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u32);

/// The route classes of P3: limits and refusals count for their own class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteClass {
    /// `/v1/messages` and `/v1/complete`: the only ones that use message quota.
    #[default]
    Messages,
    /// `count_tokens`.
    CountTokens,
    /// `/v1/models` and below.
    Models,
    /// Anything else.
    Rest,
}

impl RouteClass {
    pub(super) const ALL: [RouteClass; 4] =
        [RouteClass::Messages, RouteClass::CountTokens, RouteClass::Models, RouteClass::Rest];
}

/// Requests of one session with the same first message are kin: they may fail for the same reason,
/// so one proves nothing about another (P7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kin(pub u128);
