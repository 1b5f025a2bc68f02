//! What an entry of the config says about its tokens: the pair in use, the one that it displaced,
//! and the digests of those that are used up (SPEC T7, T8).

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use serde_json::{Map, Value};

use super::random::base64url;
use super::secret::Secret;
use super::tokens::Tokens;
use crate::scheduler::time::Wall;

/// A refresh token's hash, by which it is known after it was used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest(Arc<str>);

impl Digest {
    /// The digest of a token.
    pub(crate) fn of(token: &Secret) -> Digest {
        let mut hash = [0; 32];
        // The hash comes out of the TLS library, which has it anyway.
        if let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 {
            hash.copy_from_slice(
                suite.common.hash_provider.hash(token.expose().as_bytes()).as_ref(),
            );
        }
        Digest(base64url(&hash[..DIGEST_BYTES]).into())
    }

    /// For the file, and for the name of a lock.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in a file.
    pub(crate) fn read(text: &str) -> Option<Digest> {
        let is_digest = (8..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        is_digest.then(|| Digest(text.into()))
    }
}

/// The refresh tokens of one account for which a successor was issued, the latest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent(Vec<Digest>);

impl Spent {
    /// Whether that token is among them.
    pub(crate) fn has(&self, token: Option<&Secret>) -> bool {
        token.is_some_and(|token| self.0.contains(&Digest::of(token)))
    }

    pub(crate) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.0.iter()
    }

    /// Adds one, and forgets the oldest beyond [`SPENT_MAX`], but never `held`, which a source
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

    /// Adds all of `other`. Where there is no room for all, the latest of both stay: the two know
    /// the same tokens but for the last ones.
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

    fn write(&self, entry: &mut Map<String, Value>) {
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

/// Who has displaced a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DisplacedBy {
    /// A login or an edit of the file: an independent grant.
    Person,
    /// An import: the pair may be one that its source has rotated since, so its refresh token is
    /// never sent again.
    Import,
}

/// The pair that another one displaced, kept until its successor has served a request (SPEC T8).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Previous {
    pub(crate) tokens: Tokens,
    pub(crate) by: DisplacedBy,
}

impl Previous {
    pub(super) fn read(value: Option<&Value>) -> Option<Previous> {
        let entry = value?.as_object()?;
        let tokens = tokens_of(entry);
        let by = match entry.get("by").and_then(Value::as_str) {
            Some("import") => DisplacedBy::Import,
            Some(_) | None => DisplacedBy::Person,
        };
        (tokens.access.is_some() || tokens.refresh.is_some()).then_some(Previous { tokens, by })
    }

    fn value(&self) -> Value {
        let mut entry = Map::new();
        put_tokens(&mut entry, &self.tokens);
        if self.by == DisplacedBy::Import {
            entry.insert("by".to_owned(), "import".into());
        }
        Value::Object(entry)
    }
}

/// What an entry of the config says about its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Deposit {
    /// The pair in use.
    pub(crate) live: Tokens,
    pub(crate) previous: Option<Previous>,
    pub(crate) spent: Spent,
}

impl Deposit {
    /// Of an entry, whatever else is wrong with it.
    pub(crate) fn read(entry: &Map<String, Value>) -> Deposit {
        Deposit {
            live: tokens_of(entry),
            previous: Previous::read(entry.get(PREVIOUS)),
            spent: Spent::read(entry.get(SPENT)),
        }
    }

    /// Into an entry. What the pair does not have is taken out: the end or the refresh token of
    /// another pair would be read as its own.
    pub(crate) fn write(&self, entry: &mut Map<String, Value>) {
        put_tokens(entry, &self.live);
        match &self.previous {
            Some(previous) => {
                entry.insert(PREVIOUS.to_owned(), previous.value());
            }
            None => {
                entry.shift_remove(PREVIOUS);
            }
        }
        self.spent.write(entry);
    }

    /// Puts `tokens` in place of the pair in use, which becomes `previous`.
    pub(crate) fn displace(&mut self, tokens: Tokens, by: DisplacedBy) {
        let displaced = std::mem::replace(&mut self.live, tokens);
        // One with the same refresh token is the same grant.
        let is_worth_it = match &displaced.refresh {
            Some(refresh) => self.live.refresh.as_ref() != Some(refresh),
            None => displaced.access.is_some(),
        };
        if is_worth_it
            && !displaced.same_pair(&self.live)
            && !self.spent.has(displaced.refresh.as_ref())
        {
            self.previous = Some(Previous { tokens: displaced, by });
        }
    }
}

/// The digest of what tells a pair from others.
pub(super) fn key_of(pair: &Tokens) -> Option<Digest> {
    pair.refresh.as_ref().or(pair.access.as_ref()).map(Digest::of)
}

pub(super) fn previous_key(entry: &Deposit) -> Option<Digest> {
    entry.previous.as_ref().and_then(|previous| key_of(&previous.tokens))
}

fn tokens_of(entry: &Map<String, Value>) -> Tokens {
    let secret = |key: &str| {
        let text = entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(Secret::new)
    };
    let end = entry.get("expiresAt").and_then(Value::as_f64).filter(|end| *end >= 0.0);
    #[expect(clippy::cast_possible_truncation, reason = "a float beyond the range saturates")]
    // Below 1e12 it is seconds (SPEC A3).
    let end = end.map(|end| Wall(if end < 1e12 { end * 1000.0 } else { end } as i64));
    Tokens { access: secret("accessToken"), refresh: secret("refreshToken"), expires_at: end }
}

fn put_tokens(entry: &mut Map<String, Value>, tokens: &Tokens) {
    let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().into());
    let end = tokens.expires_at.map(|end| Value::from(end.0));
    for (key, value) in [
        ("accessToken", text(&tokens.access)),
        ("refreshToken", text(&tokens.refresh)),
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

/// SPEC T8. What a backup brings back is seldom older than this many rotations.
const SPENT_MAX: usize = 64;
/// A quarter of a hash would do to tell 64 tokens apart.
const DIGEST_BYTES: usize = 16;
const SPENT: &str = "spent";
const PREVIOUS: &str = "previous";
