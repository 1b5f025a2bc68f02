//! What an entry of the config says about its tokens: the pair in use, those that it displaced, and
//! the digests of those that are used up (SPEC T7, T8).

use serde_json::{Map, Value};

use super::previous::{Displaced, DisplacedBy, Previous};
use super::spent::{Digest, Spent};
use super::tokens::Tokens;

/// What an entry of the config says about its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Deposit {
    /// The pair in use.
    pub(crate) live: Tokens,
    pub(crate) previous: Previous,
    pub(crate) spent: Spent,
}

impl Deposit {
    /// Of an entry, whatever else is wrong with it.
    pub(crate) fn read(entry: &Map<String, Value>) -> Deposit {
        Deposit {
            live: Tokens::read(entry),
            previous: Previous::read(entry.get("previous")),
            spent: Spent::read(entry.get("spent")),
        }
    }

    /// Into an entry.
    pub(crate) fn write(&self, entry: &mut Map<String, Value>) {
        self.live.write(entry);
        self.previous.write(entry);
        self.spent.write(entry);
    }

    /// Puts `tokens` in place of the pair in use, which is kept as `previous` if it is worth it.
    pub(crate) fn displace(&mut self, tokens: Tokens, by: DisplacedBy) {
        let displaced = std::mem::replace(&mut self.live, tokens);
        self.previous.add(Displaced { tokens: displaced, by });
        self.tidy();
    }

    /// Learns which of the tokens that it or `other` holds are used up, from digests that may be
    /// of any account. True if there was something new.
    pub(crate) fn learn(&mut self, used: &[Digest], other: &Tokens) -> bool {
        let tokens = self.previous.tokens().chain([&self.live, other]);
        let digests = tokens.filter_map(|tokens| tokens.refresh.as_ref().map(Digest::of));
        let news: Vec<Digest> = digests
            .filter(|digest| used.contains(digest) && !self.spent.digests().any(|it| it == digest))
            .collect();
        for digest in &news {
            self.spent.add(digest.clone(), None);
        }
        !news.is_empty()
    }

    /// What tells its pairs from others.
    pub(super) fn keys(&self) -> Vec<Digest> {
        self.live.key().into_iter().chain(self.previous.keys()).collect()
    }

    /// Whether both know the same token, used up or not: then they are of one account.
    pub(super) fn shares(&self, other: &Deposit) -> bool {
        let mut theirs = other.keys();
        theirs.extend(other.spent.digests().cloned());
        let own = self.keys();
        own.iter().chain(self.spent.digests()).any(|digest| theirs.contains(digest))
    }

    /// Takes out of `previous` what is used up or in use.
    pub(super) fn tidy(&mut self) {
        let previous = std::mem::take(&mut self.previous);
        self.previous = previous.without(&self.spent, &self.live);
    }
}
