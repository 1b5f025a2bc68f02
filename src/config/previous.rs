//! The pairs of an entry that were replaced by others, each kept until a successor has served a
//! request (SPEC T8).
//!
//! There may be several: a login that is replaced by an import before it has served is as valuable
//! as the pair that it replaced itself. Two processes and a person change the list independently,
//! so additions of either side are kept, see [`Previous::merged`].
//! each other, so what one of them has added stays, see [`Previous::merged`].

use serde_json::{Map, Value};

use super::spent::{Digest, Spent};
use super::tokens::Tokens;

/// Who replaced a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DisplacedBy {
    /// A login or an edit of the file: an independent grant.
    Person,
    /// An import: its source may have rotated the pair since, so its refresh token is never sent
    /// again.
    Import,
}

/// A pair that was replaced by another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Displaced {
    pub(crate) tokens: Tokens,
    pub(crate) by: DisplacedBy,
}

/// All of them, the most recently replaced one last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Previous(Vec<Displaced>);

impl Previous {
    /// Whether the list contains the pair.
    pub(super) fn has(&self, pair: &Tokens) -> bool {
        self.0.iter().any(|known| known.tokens.same_pair(pair))
    }

    /// Adds a pair, and drops the oldest beyond [`PREVIOUS_MAX`].
    pub(super) fn add(&mut self, displaced: Displaced) {
        let Some(key) = displaced.tokens.key_secret() else {
            return;
        };
        self.0.retain(|known| known.tokens.key_secret() != Some(key));
        self.0.push(displaced);
        if self.0.len() > PREVIOUS_MAX {
            self.0.remove(0);
        }
    }

    /// Removes the most recently replaced pair.
    pub(super) fn take_last(&mut self) -> Option<Displaced> {
        self.0.pop()
    }

    /// Removes all. Returns true if there were any.
    pub(super) fn clear(&mut self) -> bool {
        let had_any = !self.0.is_empty();
        self.0.clear();
        had_any
    }

    /// Removes used-up pairs, and the pair `live`, which is in use.
    pub(super) fn without(mut self, spent: &Spent, live: &Tokens) -> Previous {
        let key = live.key_secret();
        self.0.retain(|known| {
            known.tokens.key_secret() != key && !spent.has(known.tokens.refresh.as_ref())
        });
        self
    }

    /// Replaces a pair by its `successor`. Returns true if there was one.
    pub(super) fn replace(&mut self, spent: &Spent, successor: &Tokens) -> bool {
        let replaced = self.0.iter().rposition(|known| spent.has(known.tokens.refresh.as_ref()));
        let Some(at) = replaced else {
            return false;
        };
        let by = self.0.remove(at).by;
        self.add(Displaced { tokens: successor.clone(), by });
        true
    }

    /// The same for a pair whose refresh token may be sent.
    #[cfg(test)]
    pub(super) fn has_to_send(&self, pair: &Tokens) -> bool {
        let mut good = self.0.iter().filter(|known| known.by == DisplacedBy::Person);
        good.any(|known| known.tokens.same_pair(pair))
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = &Tokens> {
        self.0.iter().map(|known| &known.tokens)
    }

    /// Digests that identify the pairs.
    pub(super) fn keys(&self) -> Vec<Digest> {
        self.0.iter().filter_map(|known| known.tokens.key()).collect()
    }

    /// Merges our list with theirs. Both started from `seen`: what one side has removed since then
    /// stays removed, and what one side has added stays.
    pub(super) fn merged(ours: &Previous, theirs: &Previous, seen: &[Digest]) -> Previous {
        let has = |list: &Previous, tokens: &Tokens| {
            list.0.iter().any(|known| known.tokens.key_secret() == tokens.key_secret())
        };
        let is_seen = |tokens: &Tokens| {
            !seen.is_empty() && tokens.key().is_some_and(|key| seen.contains(&key))
        };
        let mut merged = Previous::default();
        for (list, other) in [(theirs, ours), (ours, theirs)] {
            for known in &list.0 {
                let tokens = &known.tokens;
                if !has(&merged, tokens) && (has(other, tokens) || !is_seen(tokens)) {
                    merged.add(known.clone());
                }
            }
        }
        merged
    }

    /// Reads a single pair, or a list of them.
    pub(super) fn read(value: Option<&Value>) -> Previous {
        let mut previous = Previous::default();
        let pairs = match value {
            Some(Value::Array(pairs)) => pairs.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        for entry in pairs.iter().filter_map(Value::as_object) {
            let by = match entry.get(BY).and_then(Value::as_str) {
                Some(IMPORT) => DisplacedBy::Import,
                Some(_) | None => DisplacedBy::Person,
            };
            previous.add(Displaced { tokens: Tokens::read(entry), by });
        }
        previous
    }

    pub(super) fn write(&self, entry: &mut Map<String, Value>) {
        let value = |displaced: &Displaced| {
            let mut pair = Map::new();
            displaced.tokens.write(&mut pair);
            if displaced.by == DisplacedBy::Import {
                pair.insert(BY.to_owned(), IMPORT.into());
            }
            Value::Object(pair)
        };
        match self.0.as_slice() {
            [] => {
                entry.shift_remove(PREVIOUS);
            }
            [one] => {
                entry.insert(PREVIOUS.to_owned(), value(one));
            }
            several => {
                entry.insert(PREVIOUS.to_owned(), several.iter().map(value).collect());
            }
        }
    }
}

/// Nobody logs in more often without a request in between.
const PREVIOUS_MAX: usize = 32;
const PREVIOUS: &str = "previous";
const BY: &str = "by";
const IMPORT: &str = "import";
