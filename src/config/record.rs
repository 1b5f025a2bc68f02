//! Pairs on their own, outside of the config, and how they get into it (SPEC T7).

use serde_json::{Map, Value};

use super::Tokens;
use super::deposit::{Deposit, Digest, DisplacedBy, Previous, key_of, previous_key};
use super::identity::Identity;

/// A pair on its own, outside of the config: in the rescue file, in a hand-over, or in what a
/// killed writer has left behind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) account_uuid: Option<String>,
    pub(crate) org_uuid: Option<String>,
    pub(crate) deposit: Deposit,
    /// What the config held when the pair came, known as older.
    pub(crate) replaces: Option<Digest>,
    /// What it kept beside that: only this may be forgotten.
    pub(super) previous_seen: Option<Digest>,
}

impl Record {
    /// Whose it is (SPEC A4).
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            account_uuid: self.account_uuid.as_deref(),
            org_uuid: self.org_uuid.as_deref(),
        }
    }

    /// Reads an object that has the keys of an entry.
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
        (deposit.live.access.is_some() || deposit.live.refresh.is_some()).then(|| Record {
            name: text("name").unwrap_or_default(),
            account_uuid: text("accountUuid"),
            org_uuid: text("orgUuid"),
            deposit,
            replaces: text(REPLACES).as_deref().and_then(Digest::read),
            previous_seen: text(PREVIOUS_SEEN).as_deref().and_then(Digest::read),
        })
    }

    /// The same object.
    pub(crate) fn value(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("name".to_owned(), self.name.as_str().into());
        for (key, text) in [("accountUuid", &self.account_uuid), ("orgUuid", &self.org_uuid)] {
            if let Some(text) = text {
                entry.insert(key.to_owned(), text.as_str().into());
            }
        }
        self.deposit.write(&mut entry);
        for (key, digest) in [(REPLACES, &self.replaces), (PREVIOUS_SEEN, &self.previous_seen)] {
            if let Some(digest) = digest {
                entry.insert(key.to_owned(), digest.as_str().into());
            }
        }
        Value::Object(entry)
    }

    /// What the entry is to keep beside the pair: nothing of what others have put there is lost.
    pub(super) fn previous_beside(&self, entry: &Deposit) -> Option<Previous> {
        let theirs = entry.previous.as_ref();
        let is_theirs = theirs.is_some_and(|previous| {
            !self.deposit.spent.has(previous.tokens.refresh.as_ref())
                && previous_key(entry) != self.previous_seen
        });
        if is_theirs { entry.previous.clone() } else { self.deposit.previous.clone() }
    }

    pub(super) fn is_newer_than(&self, live: &Tokens) -> bool {
        self.deposit.spent.has(live.refresh.as_ref())
            || self.replaces.is_some() && self.replaces == key_of(live)
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// An entry has the pair now.
    Stored,
    /// An entry has it, or a successor, already.
    Known,
    /// A newer login stays in the entry, which keeps the pair as `previous`.
    Beside,
    /// There is no longer such an entry.
    Removed,
}

/// Puts a record into the document: into the entry that holds the token which the pair replaces,
/// whatever that entry is called by now, else into the entry of the same identity, if what that
/// holds is not newer.
pub(crate) fn place(document: &mut Map<String, Value>, record: &Record) -> Placed {
    let spent = &record.deposit.spent;
    let Some(Value::Array(entries)) = document.get_mut("accounts") else {
        return Placed::Removed;
    };
    let mut entries: Vec<&mut Map<String, Value>> =
        entries.iter_mut().filter_map(Value::as_object_mut).collect();
    // Entries that share a token go on sharing it: one that was left with the spent token would
    // present it one day.
    let mut placed = None;
    for entry in &mut entries {
        let mut held = Deposit::read(entry);
        if record.is_newer_than(&held.live) {
            held.live = record.deposit.live.clone();
            held.previous = record.previous_beside(&held);
            held.spent.add_all(spent, None);
            held.write(entry);
            placed = Some(Placed::Stored);
        } else if let Some(previous) = &mut held.previous
            && spent.has(previous.tokens.refresh.as_ref())
        {
            previous.tokens = record.deposit.live.clone();
            held.spent.add_all(spent, None);
            held.write(entry);
            placed.get_or_insert(Placed::Beside);
        }
    }
    if let Some(placed) = placed {
        return placed;
    }
    let same = |entry: &&mut &mut Map<String, Value>| identity_is(entry, &record.identity());
    // Of several entries of one identity the last one counts (SPEC A4).
    let Some(entry) = entries.iter_mut().rev().find(same) else {
        return Placed::Removed;
    };
    let before = Deposit::read(entry);
    let mut held = before.clone();
    held.spent.add_all(spent, None);
    let is_empty = held.live.access.is_none() && held.live.refresh.is_none();
    let is_known = held.live.same_pair(&record.deposit.live)
        || before.spent.has(record.deposit.live.refresh.as_ref());
    let placed = if is_known {
        if held.live.same_pair(&record.deposit.live) {
            held.previous = record.previous_beside(&before);
        }
        Placed::Known
    } else if is_empty
        || before.live.refresh.is_none() && before.live.access == record.deposit.live.access
    {
        held.live = record.deposit.live.clone();
        Placed::Stored
    } else {
        held.previous =
            Some(Previous { tokens: record.deposit.live.clone(), by: DisplacedBy::Person });
        Placed::Beside
    };
    if held != before {
        held.write(entry);
    }
    placed
}

/// Takes over the pair of an entry that a killed writer has left behind, `record`, if it is a
/// successor of what the document has, if it was a login, or if nobody has it.
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
        let is_login =
            theirs.previous.as_ref().is_some_and(|previous| previous.tokens.same_pair(&held.live));
        if has_pair {
            return;
        }
        if theirs.spent.has(held.live.refresh.as_ref()) || is_login {
            theirs.write(own);
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
const PREVIOUS_SEEN: &str = "previousSeen";
