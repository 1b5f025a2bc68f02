//! Token pairs outside the config, and how they get into it (SPEC T7).

use serde_json::{Map, Value};

use super::Tokens;
use super::deposit::Deposit;
use super::identity::Identity;
use super::previous::{Displaced, DisplacedBy, Previous};
use super::spent::Digest;

/// A pair outside the config: in the rescue file, in a hand-over, or in the leftover of a killed
/// writer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) account_uuid: Option<String>,
    pub(crate) org_uuid: Option<String>,
    pub(crate) deposit: Deposit,
    /// The pair in the config when this one arrived, known to be older.
    pub(crate) replaces: Option<Digest>,
    /// Replaced pairs that are not needed any more: only these may be dropped.
    pub(super) dropped: Vec<Digest>,
}

impl Record {
    /// The identity of its account (SPEC A4).
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            account_uuid: self.account_uuid.as_deref(),
            org_uuid: self.org_uuid.as_deref(),
        }
    }

    /// Parses an object with the keys of an entry.
    pub(crate) fn read(value: &Value) -> Option<Record> {
        let entry = value.as_object()?;
        let text = |key: &str| {
            entry
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let deposit = Deposit::read(entry);
        let dropped = entry.get(DROPPED).and_then(Value::as_array);
        let dropped = dropped.into_iter().flatten().filter_map(Value::as_str);
        (!deposit.live.is_empty()).then(|| Record {
            name: text("name").unwrap_or_default(),
            account_uuid: text("accountUuid"),
            org_uuid: text("orgUuid"),
            deposit,
            replaces: text(REPLACES).as_deref().and_then(Digest::read),
            dropped: dropped.filter_map(Digest::read).collect(),
        })
    }

    /// The inverse of [`Record::read`].
    pub(crate) fn value(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("name".to_owned(), self.name.as_str().into());
        for (key, text) in [("accountUuid", &self.account_uuid), ("orgUuid", &self.org_uuid)] {
            if let Some(text) = text {
                entry.insert(key.to_owned(), text.as_str().into());
            }
        }
        self.deposit.write(&mut entry);
        if let Some(digest) = &self.replaces {
            entry.insert(REPLACES.to_owned(), digest.as_str().into());
        }
        if !self.dropped.is_empty() {
            let dropped = self.dropped.iter().map(|digest| Value::from(digest.as_str()));
            entry.insert(DROPPED.to_owned(), dropped.collect());
        }
        Value::Object(entry)
    }

    /// The replaced pairs for the entry: nothing that others have added is lost.
    pub(super) fn previous_beside(&self, entry: &Deposit) -> Previous {
        Previous::merged(&self.deposit.previous, &entry.previous, &self.dropped)
    }

    /// Whether this record makes `known`, of the same account, superfluous. If so, it takes over
    /// the replaced pairs and the digests of `known`.
    pub(super) fn supersedes(&mut self, known: &Record) -> bool {
        let is_later = self.deposit.spent.has(known.deposit.live.refresh.as_ref())
            || known.deposit.live.same_pair(&self.deposit.live);
        if is_later {
            // A record is not an entry from which somebody may have removed something.
            let (ours, theirs) = (&self.deposit.previous, &known.deposit.previous);
            self.deposit.previous = Previous::merged(ours, theirs, &[]);
            self.deposit.spent.add_all(&known.deposit.spent, None);
            self.deposit.tidy();
        }
        is_later
    }

    pub(super) fn is_newer_than(&self, live: &Tokens) -> bool {
        self.deposit.spent.has(live.refresh.as_ref())
            || self.replaces.is_some() && self.replaces == live.key()
    }
}

/// The effect of [`place`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// An entry has the pair now.
    Stored,
    /// An entry already had it, or a successor.
    Known,
    /// A newer login stays in the entry, which keeps the pair as `previous`.
    Beside,
    /// The entry no longer exists.
    Removed,
}

/// Puts a record into the document: into the entry with the token that the pair replaces, whatever
/// its current name, else into the entry with the same identity, unless that has a newer pair.
pub(crate) fn place(document: &mut Map<String, Value>, record: &Record) -> Placed {
    let spent = &record.deposit.spent;
    let Some(Value::Array(entries)) = document.get_mut("accounts") else {
        return Placed::Removed;
    };
    let mut entries: Vec<&mut Map<String, Value>> =
        entries.iter_mut().filter_map(Value::as_object_mut).collect();
    // Entries that share a token keep sharing it: an entry left with the used token would send it
    // one day.
    let mut placed = None;
    for entry in &mut entries {
        let mut held = Deposit::read(entry);
        if record.is_newer_than(&held.live) {
            held.live = record.deposit.live.clone();
            placed = Some(Placed::Stored);
        } else if held.previous.replace(spent, &record.deposit.live) {
            placed.get_or_insert(Placed::Beside);
        } else {
            continue;
        }
        held.previous = record.previous_beside(&held);
        held.spent.add_all(spent, None);
        held.tidy();
        held.write(entry);
    }
    if let Some(placed) = placed {
        return placed;
    }
    // Of several entries with one identity the last one counts (SPEC A4). If there is none, the
    // entry may have been renamed, in this file or in an old copy of it.
    let same = |entry: &&mut Map<String, Value>| identity_is(entry, &record.identity());
    let shares = |entry: &&mut Map<String, Value>| record.deposit.shares(&Deposit::read(entry));
    let at = entries.iter().rposition(same);
    let Some(at) = at.or_else(|| entries.iter().rposition(shares)) else {
        return Placed::Removed;
    };
    let entry = &mut entries[at];
    let before = Deposit::read(entry);
    let mut held = before.clone();
    let placed = beside_or_known(&mut held, record);
    if held != before {
        held.write(entry);
    }
    placed
}

/// Puts a record into the entry with its identity, which does not have the token that it replaces.
fn beside_or_known(held: &mut Deposit, record: &Record) -> Placed {
    let theirs = &record.deposit;
    let is_known =
        held.live.same_pair(&theirs.live) || held.spent.has(theirs.live.refresh.as_ref());
    held.spent.add_all(&theirs.spent, None);
    let placed = if is_known {
        held.previous = record.previous_beside(held);
        Placed::Known
    } else if held.live.is_empty()
        || held.live.refresh.is_none() && held.live.access == theirs.live.access
    {
        held.previous = record.previous_beside(held);
        held.live = theirs.live.clone();
        Placed::Stored
    } else {
        // The writer of the entry did not know the pair, and so has removed nothing of it.
        held.previous = Previous::merged(&theirs.previous, &held.previous, &[]);
        let tokens = theirs.live.clone();
        held.previous.add(Displaced { tokens, by: DisplacedBy::Person });
        Placed::Beside
    };
    held.tidy();
    placed
}

/// Takes over the pair of an entry in the leftover of a killed writer, `record`, if it is a
/// successor of a pair in the document, if it was a login, or if the document has none.
pub(crate) fn take_over(document: &mut Map<String, Value>, record: &Record, entry: &Value) {
    let theirs = &record.deposit;
    let Some(Value::Array(entries)) = document.get_mut("accounts") else {
        return;
    };
    let mut same = None;
    for own in entries.iter_mut().filter_map(Value::as_object_mut) {
        let held = Deposit::read(own);
        let has_pair =
            held.live.same_pair(&theirs.live) || held.spent.has(theirs.live.refresh.as_ref());
        let is_login = theirs.previous.has(&held.live);
        if has_pair {
            return;
        }
        if theirs.spent.has(held.live.refresh.as_ref()) || is_login {
            let mut merged = theirs.clone();
            merged.spent.add_all(&held.spent, None);
            merged.previous = Previous::merged(&theirs.previous, &held.previous, &[]);
            merged.tidy();
            merged.write(own);
            return;
        }
        if identity_is(own, &record.identity()) {
            same = Some(());
        }
    }
    if same.is_none() && theirs.live.refresh.is_some() {
        entries.push(entry.clone());
    }
}

fn identity_is(entry: &Map<String, Value>, who: &Identity<'_>) -> bool {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let own = Identity {
        name: text("name").unwrap_or_default(),
        account_uuid: text("accountUuid"),
        org_uuid: text("orgUuid"),
    };
    own.is_same(who)
}

const REPLACES: &str = "replaces";
const DROPPED: &str = "dropped";
