//! A pair of tokens, as in an entry of the config, in a source or from the token endpoint.

use serde_json::{Map, Value};

use super::secret::Secret;
use super::spent::Digest;
use crate::scheduler::time::Wall;

/// The tokens of an OAuth account.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tokens {
    /// `accessToken`: sent with requests.
    pub(crate) access: Option<Secret>,
    /// `refreshToken`: can be exchanged for the next pair, once.
    pub(crate) refresh: Option<Secret>,
    /// `expiresAt`: expiry of the access token, in milliseconds; `None` if unknown.
    pub(crate) expires_at: Option<Wall>,
}

impl Tokens {
    /// True if both have the same secrets; a corrected expiry alone does not make another pair.
    pub(crate) fn same_pair(&self, other: &Tokens) -> bool {
        self.access == other.access && self.refresh == other.refresh
    }

    pub(super) fn is_empty(&self) -> bool {
        self.access.is_none() && self.refresh.is_none()
    }

    /// The secret that identifies the pair.
    pub(super) fn key_secret(&self) -> Option<&Secret> {
        self.refresh.as_ref().or(self.access.as_ref())
    }

    /// The digest of that secret.
    pub(super) fn key(&self) -> Option<Digest> {
        self.key_secret().map(Digest::of)
    }

    /// Reads the keys of an entry, whatever else is wrong with it.
    pub(super) fn read(entry: &Map<String, Value>) -> Tokens {
        let secret = |key: &str| {
            let text = entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            text.map(Secret::new)
        };
        let end = entry.get("expiresAt").and_then(Value::as_f64).filter(|end| *end >= 0.0);
        #[expect(clippy::cast_possible_truncation, reason = "a float beyond the range saturates")]
        // Below 1e12 it is in seconds (SPEC A3).
        let end = end.map(|end| Wall(if end < 1e12 { end * 1000.0 } else { end } as i64));
        Tokens { access: secret("accessToken"), refresh: secret("refreshToken"), expires_at: end }
    }

    /// Writes the pair into an entry. Keys that the pair does not have are removed, because the
    /// expiry or the refresh token of another pair would be taken for its own.
    pub(super) fn write(&self, entry: &mut Map<String, Value>) {
        let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().into());
        let end = self.expires_at.map(|end| Value::from(end.0));
        for (key, value) in [
            ("accessToken", text(&self.access)),
            ("refreshToken", text(&self.refresh)),
            ("expiresAt", end),
        ] {
            match value {
                Some(value) => {
                    entry.insert(key.to_owned(), value);
                }
                None => {
                    entry.shift_remove(key);
                }
            }
        }
    }
}
