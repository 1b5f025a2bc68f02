//! A pair of tokens, as an entry of the config, a source or the token endpoint has it.

use super::secret::Secret;
use crate::scheduler::time::Wall;

/// The tokens of an OAuth account.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tokens {
    /// `accessToken`: serves requests.
    pub(crate) access: Option<Secret>,
    /// `refreshToken`: gets the next pair, once.
    pub(crate) refresh: Option<Secret>,
    /// `expiresAt`: when the access token ends, in milliseconds; `None` is unknown.
    pub(crate) expires_at: Option<Wall>,
}

impl Tokens {
    /// True if the two hold the same secrets; a corrected expiry alone makes no other pair.
    pub(crate) fn same_pair(&self, other: &Tokens) -> bool {
        self.access == other.access && self.refresh == other.refresh
    }
}
