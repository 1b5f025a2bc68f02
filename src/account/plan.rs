//! What an account's tokens can be used for now, and what prevents their use (SPEC T2). `token`
//! decides which of these applies.

use crate::scheduler::time::Mono;

/// Why an OAuth account needs a new login, or waits. One line for the user.
pub(crate) type Why = String;

/// Where a refresh failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// On the way to the token endpoint; this does not count against the account.
    Network,
    /// At the endpoint: 429, 5xx, an answer without an access token.
    Endpoint,
    /// On this machine: the config could not be locked, read or written.
    Local,
}

/// A pause after a refresh that failed temporarily.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cooling {
    pub(crate) obstacle: Obstacle,
    /// When the next refresh may start.
    pub(crate) until: Mono,
    pub(crate) why: Why,
    /// The API has refused the access token, so this is a rest after a 401 (SPEC P7).
    pub(crate) is_refused: bool,
}

/// What to do for a caller that needs the access token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    Serve,
    Refresh,
    /// Wait.
    Cooling(Cooling),
    /// A login is needed.
    NeedsLogin(Why),
    /// The API refuses the token; it rests, and then one request tests it.
    Refused,
    /// Its token cannot be used, and a disabled account never refreshes.
    Disabled,
}

/// Whether an account is enabled, see `TokenState::plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// `enabled: true`.
    On,
    /// `enabled: false`.
    Off,
}
