//! Which of two token pairs is newer: the one place that decides it (SPEC T7, T8).
//!
//! A refresh token can be redeemed once. Whoever holds an old copy of a pair and believes it to be
//! the newest loses the account: the live pair is overwritten, or the spent token is presented again
//! and the provider revokes the whole grant. So no caller compares two pairs by itself. The file, a
//! source, an import, a login, a hand-over, the rescue file and what a killed writer has left behind
//! all ask here, and every answer rests on a [`Proof`].
//!
//! ```text
//!                        what is compared with the pair that we hold
//!   digest of its refresh token is in our `spent`  ─────────────────────▶ older (Spent)
//!   our refresh token's digest is in its `spent`   ─────────────────────▶ newer (Spent)
//!   the place still holds what we saw there last   ─────────────────────▶ older (Unchanged)
//!   the place holds something else since           ─────────────────────▶ newer (Written)
//!   a source's pair, neither is known as spent     ── ends later? ──────▶ newer (Issued)
//!                                                      └── no ──────────▶ older (Issued)
//! ```
//!
//! The custody of one account's pair, in one process:
//!
//! ```text
//!          refreshed                     stored in the config
//!   ┌────────────────────▶ in memory ───────────────────────────▶ on disk
//!   │                        │   ▲                                │  │ ▲
//!   │        written beside  │   │ the file shows a spent pair    │  │ │ the file shows a newer pair:
//!   │                        ▼   └────────────────────────────────┘  │ │ ours becomes `previous`
//!   └──────────────────── in the rescue file ────────────────────────┘─┘
//!                                     the config takes it
//! ```
//!
//! A pair becomes spent only by [`Custody::renewed`], that is, when a successor was issued; its digest
//! then stays in the entry, so that every later reader can tell. The alternative, comparing ends,
//! fails with a wrong clock and with a source that writes any end it likes.
//!
//! Nothing in here reads a file, a clock or the network.

mod place;

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use serde_json::{Map, Value};

use super::identity::Identity;
use super::random::base64url;
use super::{Secret, Tokens};
use crate::scheduler::time::Wall;

pub(crate) use place::{Placed, Record, place, take_over};

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

    /// Adds all of `other`, which count as the older ones. True if that brought anything.
    pub(crate) fn add_all(&mut self, other: &Spent, held: Option<&Digest>) -> bool {
        let before = self.clone();
        let own = std::mem::take(&mut self.0);
        let mut all = other.0.clone();
        all.retain(|digest| !own.contains(digest));
        self.0 = all;
        for digest in own {
            self.add(digest, held);
        }
        *self != before
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

    /// Puts `tokens` in the place of the pair in use, which becomes `previous`.
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

/// Why one pair is newer than the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A successor of the older one was issued: its digest is among the spent ones.
    Spent,
    /// The place holds what was seen there last, and the other has come since.
    Unchanged,
    /// Somebody has written the place since it was seen last.
    Written,
    /// The newer one ends later.
    Issued,
}

/// How another pair stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// It is the same pair.
    Same,
    /// It is newer.
    Newer(Proof),
    /// It is older.
    Older(Proof),
}

/// Where another pair was found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'a> {
    /// In a place that we had looked at before, when it held `before`.
    Place { before: &'a Tokens },
    /// In the file that `importFrom` names.
    Source,
    /// A person asks for it: a login, or an import by command.
    Command,
}

/// How `theirs` stands to `ours`.
pub(crate) fn age_of(theirs: &Deposit, ours: &Deposit, found: Found<'_>) -> Age {
    let (pair, own) = (&theirs.live, &ours.live);
    if ours.spent.has(pair.refresh.as_ref()) {
        return Age::Older(Proof::Spent);
    }
    if pair.same_pair(own) {
        return Age::Same;
    }
    if theirs.spent.has(own.refresh.as_ref()) {
        return Age::Newer(Proof::Spent);
    }
    match found {
        Found::Place { before } if pair.same_pair(before) => Age::Older(Proof::Unchanged),
        Found::Place { .. } | Found::Command => Age::Newer(Proof::Written),
        Found::Source if pair.access.is_some() && pair.access == own.access => Age::Same,
        Found::Source if pair.access.is_some() && pair.expires_at > own.expires_at => {
            Age::Newer(Proof::Issued)
        }
        Found::Source => Age::Older(Proof::Issued),
    }
}

/// Where the pair in use is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In the config.
    #[default]
    OnDisk,
    /// In the rescue file, because the config could not be written.
    Rescued,
    /// Nowhere else.
    InMemory,
}

/// The custody of one account's pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Custody {
    own: Deposit,
    /// What the config held when it was last seen.
    on_file: Tokens,
    /// The pair that it kept beside that.
    previous_on_file: Option<Digest>,
    kept: Kept,
    /// The config's `previous` is not ours.
    is_amended: bool,
}

impl Custody {
    /// As the config has it.
    pub(crate) fn new(entry: Deposit) -> Custody {
        Custody {
            on_file: entry.live.clone(),
            previous_on_file: previous_key(&entry),
            own: entry,
            ..Custody::default()
        }
    }

    pub(crate) fn live(&self) -> &Tokens {
        &self.own.live
    }

    pub(crate) fn spent(&self) -> &Spent {
        &self.own.spent
    }

    pub(crate) fn kept(&self) -> Kept {
        self.kept
    }

    /// The config is to be written: it lacks the pair, or what is kept beside it.
    pub(crate) fn is_due(&self) -> bool {
        self.kept != Kept::OnDisk || self.is_amended
    }

    /// Whether the refresh token may be sent: it has no successor yet.
    pub(crate) fn is_spendable(&self) -> bool {
        self.own.live.refresh.is_some() && !self.own.spent.has(self.own.live.refresh.as_ref())
    }

    /// Digests that another record of the same account knows.
    pub(crate) fn learn(&mut self, spent: &Spent) {
        self.own.spent.add_all(spent, None);
    }

    /// How the entry of the config stands to what we hold. Changes nothing.
    pub(crate) fn age_of(&self, entry: &Deposit) -> Age {
        age_of(entry, &self.own, Found::Place { before: &self.on_file })
    }

    /// The config was read: a newer pair is taken over. True if the pair in use became another.
    ///
    /// An older one is not: the config is to be written again, see [`Custody::kept`].
    pub(crate) fn see_file(&mut self, entry: &Deposit) -> bool {
        let age = self.age_of(entry);
        if age == Age::Older(Proof::Unchanged) {
            return false;
        }
        self.on_file = entry.live.clone();
        self.previous_on_file = previous_key(entry);
        self.own.spent.add_all(&entry.spent, None);
        match age {
            Age::Same => {
                self.own.live.expires_at = entry.live.expires_at;
                // A pair in the rescue file is seen as if it stood in the config, and is to be moved.
                if self.kept == Kept::InMemory {
                    self.kept = Kept::OnDisk;
                }
                if !self.is_amended {
                    self.own.previous = entry.previous.clone();
                }
                self.is_amended = self.own.previous != entry.previous;
                false
            }
            Age::Older(_) => {
                if self.kept == Kept::OnDisk {
                    self.kept = Kept::InMemory;
                }
                false
            }
            Age::Newer(_) => {
                // What it displaces is kept, unless that is spent: then nothing but a rotation has
                // happened, and what the entry keeps counts.
                self.own.previous = None;
                self.own.displace(entry.live.clone(), DisplacedBy::Person);
                if self.own.previous.is_none() {
                    let spent = &self.own.spent;
                    let is_good =
                        |previous: &&Previous| !spent.has(previous.tokens.refresh.as_ref());
                    self.own.previous = entry.previous.as_ref().filter(is_good).cloned();
                }
                self.kept = Kept::OnDisk;
                self.is_amended = self.own.previous != entry.previous;
                true
            }
        }
    }

    /// The source was read: a newer pair of it is taken over. True if the pair in use became another.
    pub(crate) fn see_source(&mut self, pair: &Tokens) -> bool {
        let theirs = Deposit { live: pair.clone(), ..Deposit::default() };
        match age_of(&theirs, &self.own, Found::Source) {
            Age::Newer(_) => {
                self.own.displace(pair.clone(), DisplacedBy::Import);
                self.kept = Kept::InMemory;
                true
            }
            Age::Same | Age::Older(_) => false,
        }
    }

    /// A refresh has brought `tokens` for `sent`, which is used up by that. `source` is what a
    /// source still offers.
    ///
    /// True if it is the pair in use now. If a login or an edit has displaced the one that was sent, that
    /// stays, and the new pair is kept beside it.
    pub(crate) fn renewed(
        &mut self,
        sent: &Secret,
        tokens: Tokens,
        source: Option<&Digest>,
    ) -> bool {
        if tokens.refresh.as_ref() != Some(sent) {
            self.own.spent.add(Digest::of(sent), source);
        }
        if self.own.live.refresh.as_ref() != Some(sent) {
            self.own.previous = Some(Previous { tokens, by: DisplacedBy::Person });
            self.is_amended = true;
            return false;
        }
        self.own.live = tokens;
        self.kept = Kept::InMemory;
        true
    }

    /// Where the pair of `record` is now.
    pub(crate) fn stored(&mut self, record: &Record, kept: Kept) {
        if kept == Kept::OnDisk {
            self.on_file = record.deposit.live.clone();
            self.previous_on_file = previous_key(&record.deposit);
            self.is_amended = self.own.previous != record.deposit.previous;
        }
        if record.deposit.live.same_pair(&self.own.live) {
            self.kept = kept;
        }
    }

    /// The pair in use was refused for good: the one that it displaced takes its place, if that may
    /// still be good. `is_dead` tells of refresh tokens that were refused.
    pub(crate) fn fall_back(&mut self, is_dead: impl Fn(&Secret) -> bool) -> bool {
        let Some(Previous { mut tokens, by }) = self.own.previous.take() else {
            return false;
        };
        self.is_amended = true;
        let spent = &self.own.spent;
        let is_good = |token: &Secret| {
            by == DisplacedBy::Person && !spent.has(Some(token)) && !is_dead(token)
        };
        tokens.refresh = tokens.refresh.filter(is_good);
        if tokens.access.is_none() && tokens.refresh.is_none() {
            return false;
        }
        self.own.live = tokens;
        self.kept = Kept::InMemory;
        true
    }

    /// The pair in use has served a request, so what it displaced is not needed any more.
    pub(crate) fn served(&mut self) {
        self.is_amended |= self.own.previous.take().is_some();
    }

    /// Another process hands over what it has. True if the pair in use became another.
    pub(crate) fn see_record(&mut self, record: &Record) -> bool {
        let theirs = &record.deposit;
        self.own.spent.add_all(&theirs.spent, None);
        if theirs.live.same_pair(&self.own.live) || self.own.spent.has(theirs.live.refresh.as_ref())
        {
            return false;
        }
        if record.is_newer_than(&self.own.live) {
            self.own.live = theirs.live.clone();
            self.own.previous = theirs.previous.clone();
            self.kept = Kept::InMemory;
            return true;
        }
        self.own.previous = Some(Previous { tokens: theirs.live.clone(), by: DisplacedBy::Person });
        self.is_amended = true;
        false
    }

    /// Whether the entry holds this pair, one that it replaces, or one that replaces it.
    pub(crate) fn shares_a_token_with(&self, entry: &Deposit) -> bool {
        let (own, theirs) = (self.own.live.refresh.as_ref(), entry.live.refresh.as_ref());
        theirs.is_some() && theirs == own || self.own.spent.has(theirs) || entry.spent.has(own)
    }

    /// What a file or another process needs to know to keep the pair.
    pub(crate) fn record(&self, who: &Identity<'_>) -> Record {
        Record {
            name: who.name.to_owned(),
            account_uuid: who.account_uuid.map(str::to_owned),
            org_uuid: who.org_uuid.map(str::to_owned),
            deposit: self.own.clone(),
            replaces: key_of(&self.on_file),
            previous_seen: self.previous_on_file.clone(),
        }
    }
}

/// The digest of what tells a pair from others.
fn key_of(pair: &Tokens) -> Option<Digest> {
    pair.refresh.as_ref().or(pair.access.as_ref()).map(Digest::of)
}

fn previous_key(entry: &Deposit) -> Option<Digest> {
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

#[cfg(test)]
#[path = "custody_tests.rs"]
mod tests;
