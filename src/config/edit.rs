//! Changes of the config document that more than one command makes. Pure; [`super::file`] reads and writes.
//!
//! Accounts are found by the names that [`Config::accounts`](super::Config) shows, or by identity, never by a position that
//! was known from an earlier reading.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::accounts::{self, Placed};
use super::identity::{Identity, free_name};
use super::reader::{Findings, Section};

/// What [`put_account`] did, with the account's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// There is a new entry.
    Added(String),
    /// The entry of the same account was changed.
    Updated(String),
}

/// The entry of the account with this name, also of one that is skipped for want of a credential.
pub(crate) fn account_mut<'a>(
    document: &'a mut Map<String, Value>,
    name: &str,
) -> Option<&'a mut Map<String, Value>> {
    let index = index_of(document, name)?;
    entry_mut(document, index)
}

/// The entry of the same account as `who` (SPEC A4).
pub(crate) fn account_of_mut<'a>(
    document: &'a mut Map<String, Value>,
    who: &Identity<'_>,
) -> Option<&'a mut Map<String, Value>> {
    let index = index_of_same(document, who)?;
    entry_mut(document, index)
}

/// Updates the entry of the same account as `who` with `fields`, or appends one. Name, enabled state and all keys that
/// `fields` does not have stay; a new account gets a free name (SPEC A4, T1).
pub(crate) fn put_account(
    document: &mut Map<String, Value>,
    who: &Identity<'_>,
    organisation: Option<&str>,
    fields: Map<String, Value>,
) -> Put {
    let is_kept = |key: &str| matches!(key, "name" | "enabled");
    if let Some(index) = index_of_same(document, who) {
        let name = name_at(document, index);
        if let Some(entry) = entry_mut(document, index) {
            entry.extend(fields.into_iter().filter(|(key, _)| !is_kept(key)));
        }
        return Put::Updated(name);
    }
    let names = all_names(document);
    let name = free_name(who.name, organisation, |name| {
        names.iter().any(|taken| taken == name)
    });
    let mut entry = Map::new();
    entry.insert("name".to_owned(), Value::String(name.clone()));
    entry.extend(fields.into_iter().filter(|(key, _)| key != "name"));
    let accounts = document
        .entry("accounts")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(accounts) = accounts {
        accounts.push(Value::Object(entry));
    }
    Put::Added(name)
}

/// Removes the account with this name, and every further entry of the same account, which would come to light otherwise.
/// `false` if there is none.
pub(crate) fn remove_account(document: &mut Map<String, Value>, name: &str) -> bool {
    let Some(index) = index_of(document, name) else {
        return false;
    };
    let removed: Vec<usize> = match read(document)
        .into_iter()
        .find(|placed| placed.index == index)
    {
        Some(found) => {
            let who = found.entry.identity();
            let named = |index: usize| raw_identity_is(document, index, &who);
            (0..entries(document).len())
                .filter(|&other| other == index || named(other))
                .collect()
        }
        None => vec![index],
    };
    if let Some(Value::Array(accounts)) = document.get_mut("accounts") {
        for index in removed.into_iter().rev() {
            accounts.remove(index);
        }
    }
    if preferred(document) == Some(name) {
        set_routing(document, None);
    }
    true
}

/// Gives the account `name` the name `new`. `false` if there is no such account or the new name is taken.
pub(crate) fn rename_account(document: &mut Map<String, Value>, name: &str, new: &str) -> bool {
    if name != new && all_names(document).iter().any(|taken| taken == new) {
        return false;
    }
    let Some(entry) = account_mut(document, name) else {
        return false;
    };
    entry.insert("name".to_owned(), Value::String(new.to_owned()));
    if preferred(document) == Some(name) {
        set_routing(document, Some(new));
    }
    true
}

/// Preferred mode with this account, or automatic.
pub(crate) fn set_routing(document: &mut Map<String, Value>, preferred: Option<&str>) {
    let routing = document
        .entry("routing")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(routing) = routing {
        let mode = if preferred.is_some() {
            "preferred"
        } else {
            "automatic"
        };
        routing.insert("mode".to_owned(), mode.into());
        routing.insert("preferredAccount".to_owned(), preferred.into());
    }
}

/// Stores the names that repeated names were changed to.
pub(super) fn store_names(document: &mut Map<String, Value>) {
    for Placed { index, entry: read } in read(document) {
        if let Some(entry) = entry_mut(document, index) {
            if entry.get("name").and_then(Value::as_str) != Some(&read.name) {
                entry.insert("name".to_owned(), Value::String(read.name));
            }
        }
    }
}

/// The usable accounts; what is wrong with the document is of no interest here.
fn read(document: &Map<String, Value>) -> Vec<Placed> {
    let findings = RefCell::new(Findings::default());
    Section::root(document, &findings).read(accounts::read)
}

fn entries(document: &Map<String, Value>) -> &[Value] {
    document
        .get("accounts")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn entry_mut(document: &mut Map<String, Value>, index: usize) -> Option<&mut Map<String, Value>> {
    document
        .get_mut("accounts")?
        .get_mut(index)?
        .as_object_mut()
}

/// The name as it is in the file, or the one that stands for a missing one.
fn raw_name(document: &Map<String, Value>, index: usize) -> String {
    let name = entries(document)
        .get(index)
        .and_then(|entry| entry.get("name")?.as_str());
    name.filter(|name| !name.is_empty())
        .map_or_else(|| format!("account-{}", index + 1), str::to_owned)
}

fn raw_identity_is(document: &Map<String, Value>, index: usize, who: &Identity<'_>) -> bool {
    let name = raw_name(document, index);
    let text = |key| {
        entries(document)
            .get(index)
            .and_then(|entry| entry.get(key)?.as_str())
    };
    let given = |key| text(key).filter(|text| !text.is_empty());
    let raw = Identity {
        name: &name,
        account_uuid: given("accountUuid"),
        org_uuid: given("orgUuid"),
    };
    raw.is_same(who)
}

/// The name that the entry is shown under.
fn name_at(document: &Map<String, Value>, index: usize) -> String {
    let shown = read(document)
        .into_iter()
        .find(|placed| placed.index == index);
    shown.map_or_else(|| raw_name(document, index), |placed| placed.entry.name)
}

/// Usable accounts first, then the last entry that has the name in the file.
fn index_of(document: &Map<String, Value>, name: &str) -> Option<usize> {
    let usable = read(document)
        .into_iter()
        .find(|placed| placed.entry.name == name);
    usable.map(|placed| placed.index).or_else(|| {
        (0..entries(document).len())
            .rev()
            .find(|&index| raw_name(document, index) == name)
    })
}

fn index_of_same(document: &Map<String, Value>, who: &Identity<'_>) -> Option<usize> {
    let usable = read(document)
        .into_iter()
        .rev()
        .find(|placed| placed.entry.identity().is_same(who));
    usable.map(|placed| placed.index).or_else(|| {
        (0..entries(document).len())
            .rev()
            .find(|&index| raw_identity_is(document, index, who))
    })
}

fn all_names(document: &Map<String, Value>) -> Vec<String> {
    let raw = (0..entries(document).len()).map(|index| raw_name(document, index));
    raw.chain(read(document).into_iter().map(|placed| placed.entry.name))
        .collect()
}

fn preferred(document: &Map<String, Value>) -> Option<&str> {
    document.get("routing")?.get("preferredAccount")?.as_str()
}
