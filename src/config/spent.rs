//! Digests of refresh tokens for which a successor was issued (SPEC T7, T8).

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use serde_json::{Map, Value};

use super::random::base64url;
use super::secret::Secret;

/// The hash of a refresh token, which identifies it after it was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest(Arc<str>);

impl Digest {
    /// The digest of a token.
    pub(crate) fn of(token: &Secret) -> Digest {
        let mut hash = [0; 32];
        // The TLS library provides the hash and is linked anyway.
        if let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 {
            hash.copy_from_slice(
                suite.common.hash_provider.hash(token.expose().as_bytes()).as_ref(),
            );
        }
        Digest(base64url(&hash[..DIGEST_BYTES]).into())
    }

    /// The text in files and in the names of locks.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses the text in a file.
    pub(crate) fn read(text: &str) -> Option<Digest> {
        let is_digest = (8..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        is_digest.then(|| Digest(text.into()))
    }
}

/// The refresh tokens of one account for which a successor was issued, latest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent(Vec<Digest>);

impl Spent {
    /// Whether the list contains that token.
    pub(crate) fn has(&self, token: Option<&Secret>) -> bool {
        token.is_some_and(|token| self.0.contains(&Digest::of(token)))
    }

    pub(crate) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.0.iter()
    }

    /// Adds a digest, and drops the oldest beyond [`SPENT_MAX`], but never `held`, which a source
    /// still offers.
    pub(crate) fn add(&mut self, digest: Digest, held: Option<&Digest>) {
        if let Some(at) = self.0.iter().position(|known| *known == digest) {
            self.0.remove(at);
        }
        self.0.push(digest);
        while self.0.len() > SPENT_MAX {
            let oldest = self.0.iter().position(|known| Some(known) != held);
            self.0.remove(oldest.unwrap_or(0));
        }
    }

    /// Adds all of `other`. If there is no room for all, the latest of both stay: the two lists
    /// differ only in their last tokens.
    pub(crate) fn add_all(&mut self, other: &Spent, held: Option<&Digest>) {
        if other.0.iter().all(|digest| self.0.contains(digest)) {
            return;
        }
        let own = std::mem::take(&mut self.0);
        let mut latest_first: Vec<Digest> = Vec::with_capacity(own.len() + other.0.len());
        for back in 1..=own.len().max(other.0.len()) {
            for list in [&own, &other.0] {
                let digest = list.len().checked_sub(back).map(|at| &list[at]);
                latest_first.extend(digest.filter(|it| !latest_first.contains(it)).cloned());
            }
        }
        for digest in latest_first.into_iter().rev() {
            self.add(digest, held);
        }
    }

    /// The list under the key `spent`.
    pub(super) fn read(value: Option<&Value>) -> Spent {
        let list = value.and_then(Value::as_array);
        let digests = list.into_iter().flatten().filter_map(Value::as_str).filter_map(Digest::read);
        let mut spent = Spent::default();
        for digest in digests {
            spent.add(digest, None);
        }
        spent
    }

    pub(super) fn write(&self, entry: &mut Map<String, Value>) {
        if self.0.is_empty() {
            return;
        }
        let list = self.0.iter().map(|digest| Value::from(digest.as_str())).collect();
        entry.insert(SPENT.to_owned(), Value::Array(list));
    }
}

impl FromIterator<Digest> for Spent {
    fn from_iter<T: IntoIterator<Item = Digest>>(digests: T) -> Spent {
        let mut spent = Spent::default();
        for digest in digests {
            spent.add(digest, None);
        }
        spent
    }
}

/// SPEC T8. A restored backup is seldom older than this many rotations.
const SPENT_MAX: usize = 64;
/// Even a quarter of a hash would distinguish 64 tokens.
const DIGEST_BYTES: usize = 16;
const SPENT: &str = "spent";
