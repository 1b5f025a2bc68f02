//! Decides which of two token pairs is newer; nothing else in the program does (SPEC T7, T8).
//!
//! A refresh token can be redeemed only once. A process that holds an old copy of a pair and takes
//! it for the newest loses the account: the live pair is overwritten, or the used token is sent
//! again and the provider revokes the whole grant. So no caller compares two pairs itself. The
//! file, a source, an import, a login, a hand-over, the rescue file and the leftovers of killed
//! writers are all compared here, and every answer is based on a [`Proof`].
//!
//! ```text
//!                        what is compared with the pair that we hold
//!   digest of its refresh token is in a `spent`    ─────────────────────▶ older (Spent)
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
//!   │        written beside  │   │ the file shows a spent pair    │  │ │ the file has a newer one:
//!   │                        ▼   └────────────────────────────────┘  │ │ ours becomes `previous`
//!   └──────────────────── in the rescue file ────────────────────────┘─┘
//!                                     the config takes it
//! ```
//!
//! A pair that is replaced by a newer one goes into the list `previous` and stays there until a
//! successor has served a request. Two processes and a person change that list independently:
//! additions stay, and only what somebody has seen and then removed is removed, see
//! [`Previous::merged`].
//!
//! An old copy of the file lacks the latest digests, so the state file keeps them too, and every
//! reader of the config learns them, see [`noted`](super::noted).
//!
//! A pair becomes spent only by [`Custody::renewed`], that is, when a successor was issued. Its
//! digest then stays in the entry, so that every later reader can tell. The alternative, comparing
//! expiry times, fails with a wrong clock and with a source that writes arbitrary ones.
//!
//! Nothing here reads a file, a clock or the network.

use super::identity::Identity;
use super::{Secret, Tokens};

pub(crate) use super::deposit::Deposit;
pub(crate) use super::previous::{Displaced, DisplacedBy, Previous};
pub(crate) use super::record::{Placed, Record, place, take_over};
pub(crate) use super::spent::{Digest, Spent};

/// Why one pair is newer than the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A successor of the older one was issued: its digest is in a `spent` list.
    Spent,
    /// The place still holds what was last seen there, and the other pair has arrived since.
    Unchanged,
    /// Somebody has written to the place since it was last seen.
    Written,
    /// The newer one expires later.
    Issued,
}

/// How another pair compares with ours.
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
    /// In a place that held `before` when we last looked.
    Place { before: &'a Tokens },
    /// In the file of `importFrom`.
    Source,
    /// Brought by a person: a login, or an import by command.
    Command,
}

/// How `theirs` compares with `ours`.
pub(crate) fn age_of(theirs: &Deposit, ours: &Deposit, found: Found<'_>) -> Age {
    let (pair, own) = (&theirs.live, &ours.live);
    if ours.spent.has(pair.refresh.as_ref()) || theirs.spent.has(pair.refresh.as_ref()) {
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

/// Where the pair in use is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In the config.
    #[default]
    OnDisk,
    /// In the rescue file, because the config could not be written.
    Rescued,
    /// Only in memory.
    InMemory,
}

/// The custody of one account's pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Custody {
    own: Deposit,
    /// The content of the config when it was last seen.
    on_file: Tokens,
    /// The replaced pairs in it at that time.
    previous_on_file: Vec<Digest>,
    kept: Kept,
    /// The config's `previous` differs from ours.
    is_amended: bool,
    /// The pairs that are in some file.
    safe: Vec<Digest>,
    /// Refresh tokens that we have redeemed, while no file records that yet.
    unsaid: Vec<Digest>,
}

impl Custody {
    /// From an entry of the config.
    pub(crate) fn new(entry: Deposit) -> Custody {
        Custody {
            on_file: entry.live.clone(),
            previous_on_file: entry.previous.keys(),
            safe: entry.keys(),
            own: entry,
            ..Custody::default()
        }
    }

    pub(crate) fn live(&self) -> &Tokens {
        &self.own.live
    }

    pub(crate) fn kept(&self) -> Kept {
        self.kept
    }

    /// Whether the config must be written: it lacks the pair, or replaced pairs.
    pub(crate) fn is_due(&self) -> bool {
        self.kept != Kept::OnDisk || self.is_at_risk() || self.is_amended
    }

    /// Whether something would be lost with this process: a pair, or the fact that a token is used
    /// up.
    pub(crate) fn is_at_risk(&self) -> bool {
        !self.unsaid.is_empty() || self.own.keys().iter().any(|key| !self.safe.contains(key))
    }

    /// Whether only this process knows that the token is used up.
    pub(crate) fn is_unsaid(&self, token: &Secret) -> bool {
        self.unsaid.contains(&Digest::of(token))
    }

    /// Whether the refresh token may be sent: it has no successor yet.
    pub(crate) fn is_spendable(&self) -> bool {
        self.own.live.refresh.is_some() && !self.own.spent.has(self.own.live.refresh.as_ref())
    }

    /// Learns from digests of all accounts which of our tokens are used up: the config may be an
    /// old copy that lacks the digest of the token that is about to be sent.
    pub(crate) fn learn_noted(&mut self, noted: &[Digest]) {
        self.own.learn(noted, &Tokens::default());
    }

    /// How the config's entry compares with what we hold. Changes nothing.
    pub(crate) fn age_of(&self, entry: &Deposit) -> Age {
        age_of(entry, &self.own, Found::Place { before: &self.on_file })
    }

    /// Handles a newly read config: takes over a newer pair. Returns true if the pair in use
    /// changed.
    ///
    /// An older pair is not taken over; the config must be written again, see [`Custody::kept`].
    pub(crate) fn see_file(&mut self, entry: &Deposit) -> bool {
        let age = self.age_of(entry);
        self.safe = entry.keys();
        if age == Age::Older(Proof::Unchanged) {
            return false;
        }
        self.on_file = entry.live.clone();
        self.own.spent.add_all(&entry.spent, None);
        self.unsaid.retain(|digest| !entry.spent.digests().any(|said| said == digest));
        let seen = std::mem::replace(&mut self.previous_on_file, entry.previous.keys());
        match age {
            Age::Same => {
                self.own.live.expires_at = entry.live.expires_at;
                // A pair in the rescue file counts as if it were in the config, and must be moved
                // there.
                if self.kept == Kept::InMemory {
                    self.kept = Kept::OnDisk;
                }
                self.merge_previous(entry, &seen);
                false
            }
            Age::Older(_) => {
                // Replaced pairs that only an old copy has were not removed by us.
                self.previous_on_file = seen;
                if self.kept == Kept::OnDisk {
                    self.kept = Kept::InMemory;
                }
                false
            }
            Age::Newer(proof) => {
                // The pair that it replaces is kept, unless that is spent.
                self.own.displace(entry.live.clone(), DisplacedBy::Person);
                // Only a process that rotated our pair knew our replaced pairs. A file written by
                // anybody else may be an old copy.
                self.merge_previous(entry, if proof == Proof::Spent { &seen } else { &[] });
                self.kept = Kept::OnDisk;
                true
            }
        }
    }

    fn merge_previous(&mut self, entry: &Deposit, seen: &[Digest]) {
        self.own.previous = Previous::merged(&self.own.previous, &entry.previous, seen);
        self.own.tidy();
        self.is_amended = self.own.previous != entry.previous;
    }

    /// Handles a newly read source: takes over its pair if that is newer and not among the used
    /// ones in `noted`. Returns true if the pair in use changed.
    pub(crate) fn see_source(&mut self, pair: &Tokens, noted: &[Digest]) -> bool {
        self.own.learn(noted, pair);
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

    /// A refresh has brought `tokens` for `sent`, which is used up now. `source` is the refresh
    /// token that a source still offers.
    ///
    /// Returns true if the new pair is now in use. If a login or an edit has replaced the sent pair
    /// meanwhile, that stays in use, and the new pair is kept beside it.
    pub(crate) fn renewed(
        &mut self,
        sent: &Secret,
        tokens: Tokens,
        source: Option<&Digest>,
    ) -> bool {
        if tokens.refresh.as_ref() != Some(sent) {
            let digest = Digest::of(sent);
            self.own.spent.add(digest.clone(), source);
            self.unsaid.push(digest);
        }
        if self.own.live.refresh.as_ref() != Some(sent) {
            self.own.previous.add(Displaced { tokens, by: DisplacedBy::Person });
            self.own.tidy();
            self.is_amended = true;
            return false;
        }
        self.own.live = tokens;
        self.kept = Kept::InMemory;
        true
    }

    /// Records where the pair of `record` is now.
    pub(crate) fn stored(&mut self, record: &Record, kept: Kept) {
        if kept == Kept::OnDisk {
            self.on_file = record.deposit.live.clone();
            self.previous_on_file = record.deposit.previous.keys();
            self.is_amended = self.own.previous != record.deposit.previous;
        }
        if kept != Kept::InMemory {
            self.safe.extend(record.deposit.keys());
            let said = |digest: &Digest| record.deposit.spent.digests().any(|said| said == digest);
            self.unsaid.retain(|digest| !said(digest));
        }
        if record.deposit.live.same_pair(&self.own.live) {
            self.kept = kept;
        }
    }

    /// The pair in use was refused for good: the most recently replaced pair that may still be good
    /// takes its place. `is_dead` tells which refresh tokens were refused.
    pub(crate) fn fall_back(&mut self, is_dead: impl Fn(&Secret) -> bool) -> bool {
        while let Some(Displaced { mut tokens, by }) = self.own.previous.take_last() {
            self.is_amended = true;
            let spent = &self.own.spent;
            let is_good = |token: &Secret| {
                by == DisplacedBy::Person && !spent.has(Some(token)) && !is_dead(token)
            };
            tokens.refresh = tokens.refresh.filter(is_good);
            if !tokens.is_empty() {
                self.own.live = tokens;
                self.kept = Kept::InMemory;
                return true;
            }
        }
        false
    }

    /// The pair in use has served a request, so the pairs that it replaced are no longer needed.
    pub(crate) fn served(&mut self) {
        self.is_amended |= self.own.previous.clear();
    }

    /// Handles a hand-over from another process. Returns true if the pair in use changed.
    pub(crate) fn see_record(&mut self, record: &Record) -> bool {
        let theirs = &record.deposit;
        let before = self.own.previous.clone();
        let is_new = |digest: &&Digest| !self.own.spent.digests().any(|known| known == *digest);
        self.unsaid.extend(theirs.spent.digests().filter(is_new).cloned());
        self.own.spent.add_all(&theirs.spent, None);
        let is_newer = record.is_newer_than(&self.own.live);
        let is_known = theirs.live.same_pair(&self.own.live)
            || self.own.spent.has(theirs.live.refresh.as_ref());
        self.own.previous = match is_known || is_newer {
            true => record.previous_beside(&self.own),
            false => Previous::merged(&theirs.previous, &self.own.previous, &[]),
        };
        if is_newer && !is_known {
            self.own.live = theirs.live.clone();
            self.kept = Kept::InMemory;
        } else if !is_known {
            let tokens = theirs.live.clone();
            self.own.previous.add(Displaced { tokens, by: DisplacedBy::Person });
        }
        self.own.tidy();
        self.is_amended |= self.own.previous != before;
        is_newer && !is_known
    }

    /// Whether the entry has this pair, one that it replaces, or one that replaces it.
    pub(crate) fn shares_a_token_with(&self, entry: &Deposit) -> bool {
        let (own, theirs) = (self.own.live.refresh.as_ref(), entry.live.refresh.as_ref());
        theirs.is_some() && theirs == own || self.own.spent.has(theirs) || entry.spent.has(own)
    }

    /// What a file or another process needs in order to keep the pair.
    pub(crate) fn record(&self, who: &Identity<'_>) -> Record {
        let own = self.own.previous.keys();
        let mut dropped = self.previous_on_file.clone();
        // Pairs that we still have were not removed, even if the file that receives the record
        // lacks them: we have seen the file together with the rescue file.
        dropped.retain(|key| !own.contains(key));
        Record {
            name: who.name.to_owned(),
            account_uuid: who.account_uuid.map(str::to_owned),
            org_uuid: who.org_uuid.map(str::to_owned),
            deposit: self.own.clone(),
            replaces: self.on_file.key(),
            dropped,
        }
    }
}

#[cfg(test)]
#[path = "custody_model_tests.rs"]
mod model;
#[cfg(test)]
#[path = "custody_tests.rs"]
mod tests;
