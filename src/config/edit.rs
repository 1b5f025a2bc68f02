//! Changes of the config document that several commands make. Pure; [`super::file`] reads and
//! writes.
//!
//! Accounts are found by the names in [`Config::accounts`](super::Config) or by identity, never by
//! a position from an earlier reading.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::accounts::{self, Placed};
use super::identity::{Identity, free_name};
use super::reader::{Findings, Section};

/// The effect of [`put_account`], with the account's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// A new entry was added.
    Added(String),
    /// The existing entry of the account was updated.
    Updated(String),
}

/// The entry of the account with this name, even one that is skipped because it has no credential.
pub(crate) fn account_mut<'a>(
    document: &'a mut Map<String, Value>,
    name: &str,
) -> Option<&'a mut Map<String, Value>> {
    let index = index_of(document, name)?;
    entry_mut(document, index)
}

/// The entry of the account with this identity (SPEC A4).
pub(crate) fn account_of_mut<'a>(
    document: &'a mut Map<String, Value>,
    who: &Identity<'_>,
) -> Option<&'a mut Map<String, Value>> {
    let index = index_of_same(document, who)?;
    entry_mut(document, index)
}

/// Updates the entry with the identity `who`, or appends one. Name, enabled state and all keys that
/// are not in `fields` stay; a new account gets an unused name (SPEC A4, T1).
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
    let taken = names(document);
    let name = free_name(who.name, organisation, |name| taken.iter().any(|taken| taken == name));
    let mut entry = Map::new();
    entry.insert("name".to_owned(), Value::String(name.clone()));
    entry.extend(fields.into_iter().filter(|(key, _)| key != "name"));
    let accounts = document.entry("accounts").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(accounts) = accounts {
        accounts.push(Value::Object(entry));
    }
    Put::Added(name)
}

/// Removes the account with this name, and all other entries of the same account, which would
/// otherwise become effective again. Returns `false` if there is none.
pub(crate) fn remove_account(document: &mut Map<String, Value>, name: &str) -> bool {
    let Some(index) = index_of(document, name) else {
        return false;
    };
    let removed: Vec<usize> = match read(document).into_iter().find(|placed| placed.index == index)
    {
        Some(found) => {
            let who = found.entry.identity();
            let named = |index: usize| raw_identity_is(document, index, &who);
            (0..entries(document).len()).filter(|&other| other == index || named(other)).collect()
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

/// Renames the account `name` to `new`. Returns `false` if there is no such account or the new name
/// is taken.
pub(crate) fn rename_account(document: &mut Map<String, Value>, name: &str, new: &str) -> bool {
    if name != new && names(document).iter().any(|taken| taken == new) {
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

/// Enables or disables the account with this name; a disabled one is no longer preferred (SPEC S7).
/// Returns `false` if there is none.
pub(crate) fn set_enabled(document: &mut Map<String, Value>, name: &str, enabled: bool) -> bool {
    let Some(entry) = account_mut(document, name) else {
        return false;
    };
    entry.insert("enabled".to_owned(), Value::Bool(enabled));
    if !enabled && preferred(document) == Some(name) {
        set_routing(document, None);
    }
    true
}

/// Sets preferred mode with this account, or automatic mode.
pub(crate) fn set_routing(document: &mut Map<String, Value>, preferred: Option<&str>) {
    let routing = document.entry("routing").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(routing) = routing {
        let mode = if preferred.is_some() { "preferred" } else { "automatic" };
        routing.insert("mode".to_owned(), mode.into());
        routing.insert("preferredAccount".to_owned(), preferred.into());
    }
}

/// Stores the new names that duplicate names were given.
pub(super) fn store_names(document: &mut Map<String, Value>) {
    for Placed { index, entry: read } in read(document) {
        if let Some(entry) = entry_mut(document, index)
            && entry.get("name").and_then(Value::as_str) != Some(&read.name)
        {
            entry.insert("name".to_owned(), Value::String(read.name));
        }
    }
}

/// The usable accounts; problems of the document do not matter here.
fn read(document: &Map<String, Value>) -> Vec<Placed> {
    let findings = RefCell::new(Findings::default());
    Section::root(document, &findings).read(accounts::read)
}

/// The names of all accounts: of the usable ones as displayed, of the others as in the file.
pub(crate) fn names(document: &Map<String, Value>) -> Vec<String> {
    let usable = read(document);
    let mut names: Vec<String> = usable.iter().map(|placed| placed.entry.name.clone()).collect();
    for index in 0..entries(document).len() {
        let name = raw_name(document, index);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn entries(document: &Map<String, Value>) -> &[Value] {
    document.get("accounts").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn entry_mut(document: &mut Map<String, Value>, index: usize) -> Option<&mut Map<String, Value>> {
    document.get_mut("accounts")?.get_mut(index)?.as_object_mut()
}

/// The name in the file, or the placeholder for a missing one.
fn raw_name(document: &Map<String, Value>, index: usize) -> String {
    let name = entries(document).get(index).and_then(|entry| entry.get("name")?.as_str());
    name.filter(|name| !name.is_empty())
        .map_or_else(|| format!("account-{}", index + 1), str::to_owned)
}

fn raw_identity_is(document: &Map<String, Value>, index: usize, who: &Identity<'_>) -> bool {
    let name = raw_name(document, index);
    let text = |key| entries(document).get(index).and_then(|entry| entry.get(key)?.as_str());
    let given = |key| text(key).filter(|text| !text.is_empty());
    let raw =
        Identity { name: &name, account_uuid: given("accountUuid"), org_uuid: given("orgUuid") };
    raw.is_same(who)
}

/// The displayed name of the entry.
fn name_at(document: &Map<String, Value>, index: usize) -> String {
    let shown = read(document).into_iter().find(|placed| placed.index == index);
    shown.map_or_else(|| raw_name(document, index), |placed| placed.entry.name)
}

/// Usable accounts first, then the last entry with that name in the file.
fn index_of(document: &Map<String, Value>, name: &str) -> Option<usize> {
    let usable = read(document).into_iter().find(|placed| placed.entry.name == name);
    usable.map(|placed| placed.index).or_else(|| {
        (0..entries(document).len()).rev().find(|&index| raw_name(document, index) == name)
    })
}

fn index_of_same(document: &Map<String, Value>, who: &Identity<'_>) -> Option<usize> {
    let usable =
        read(document).into_iter().rev().find(|placed| placed.entry.identity().is_same(who));
    usable.map(|placed| placed.index).or_else(|| {
        (0..entries(document).len()).rev().find(|&index| raw_identity_is(document, index, who))
    })
}

/// `routing.preferredAccount`.
pub(crate) fn preferred(document: &Map<String, Value>) -> Option<&str> {
    document.get("routing")?.get("preferredAccount")?.as_str()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn document(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    const TWINS: &str = r#"{"routing": {"mode": "preferred", "preferredAccount": "a"}, "accounts": [
        {"name": "a", "accountUuid": "u1", "apiKey": "1"}, {"name": "a", "accountUuid": "u2", "apiKey": "2"},
        {"name": "old", "accountUuid": "u1", "orgUuid": "o", "apiKey": "0"}, {"name": "lost", "type": "apikey"},
        {"apiKey": "4"}]}"#;

    #[test]
    fn accounts_are_found_by_the_names_that_are_shown() {
        // accounts[2] repeats accounts[0] and is the one that is used, so "a" is the account of u2.
        for (name, key) in
            [("old", Some("0")), ("a", Some("2")), ("account-5", Some("4")), ("b", None)]
        {
            let mut document = document(TWINS);
            let entry = account_mut(&mut document, name);
            assert_eq!(entry.and_then(|entry| entry["apiKey"].as_str()), key, "{name}");
        }
        assert!(account_mut(&mut document(TWINS), "lost").is_some(), "one without a credential");
        let who = Identity { name: "x", account_uuid: Some("u2"), org_uuid: Some("o2") };
        assert_eq!(account_of_mut(&mut document(TWINS), &who).unwrap()["apiKey"], "2");
    }

    #[test]
    fn a_removed_account_does_not_come_back_as_its_older_entry() {
        let mut document = document(TWINS);
        assert!(remove_account(&mut document, "old"));
        let left: Vec<&Value> = document["accounts"].as_array().unwrap().iter().collect();
        assert_eq!(left.len(), 3);
        assert_eq!(
            (&left[0]["apiKey"], &left[1]["name"]),
            (&Value::from("2"), &Value::from("lost"))
        );
        assert!(!remove_account(&mut document, "old"));
        assert!(remove_account(&mut document, "lost"));
        assert_eq!(document["routing"]["mode"], "preferred");
        assert!(remove_account(&mut document, "a"));
        assert_eq!(document["routing"]["mode"], "automatic", "S7: the preferred account is gone");
        assert_eq!(document["routing"]["preferredAccount"], Value::Null);
    }

    #[test]
    fn a_new_name_must_be_free() {
        let mut document = document(TWINS);
        assert!(!rename_account(&mut document, "a", "lost"));
        assert!(!rename_account(&mut document, "none", "b"));
        assert!(rename_account(&mut document, "a", "b"));
        assert_eq!(document["accounts"][1]["name"], "b");
        assert_eq!(document["routing"]["preferredAccount"], "b");
    }

    #[test]
    fn t1_the_same_identity_is_updated_in_place() {
        let mut document = document(
            r#"{"accounts": [{"name": "me", "enabled": false, "accessToken": "old", "mine": 1, "accountUuid": "u"}]}"#,
        );
        let who = Identity { name: "mail@x", account_uuid: Some("u"), org_uuid: Some("o") };
        let fields = |token: &str| serde_json::json!({"name": "mail@x", "enabled": true, "accessToken": token});
        let fields = |token: &str| fields(token).as_object().unwrap().clone();
        assert_eq!(
            put_account(&mut document, &who, None, fields("new")),
            Put::Updated("me".to_owned())
        );
        assert_eq!(
            Value::Object(document.clone()),
            serde_json::json!({"accounts":
                [{"name": "me", "enabled": false, "accessToken": "new", "mine": 1, "accountUuid": "u"}]})
        );
        let other = Identity { name: "me", account_uuid: Some("u2"), ..who };
        assert_eq!(
            put_account(&mut document, &other, Some("Org"), fields("3")),
            Put::Added("me (Org)".to_owned())
        );
        assert_eq!(
            document["accounts"][1],
            serde_json::json!({"name": "me (Org)", "enabled": true, "accessToken": "3"})
        );
    }

    #[test]
    fn a_first_account_makes_the_list() {
        let mut document = Map::new();
        let who = Identity { name: "a", account_uuid: None, org_uuid: None };
        assert_eq!(put_account(&mut document, &who, None, Map::new()), Put::Added("a".to_owned()));
        assert_eq!(document["accounts"], serde_json::json!([{"name": "a"}]));
        set_routing(&mut document, Some("a"));
        assert_eq!(
            document["routing"],
            serde_json::json!({"mode": "preferred", "preferredAccount": "a"})
        );
    }

    #[test]
    fn a4_names_that_had_to_change_are_stored() {
        let mut document = document(TWINS);
        document["accounts"].as_array_mut().unwrap().remove(2);
        store_names(&mut document);
        let names: Vec<&Value> =
            document["accounts"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
        assert_eq!(names, ["a", "a-2", "lost", "account-4"]);
    }
}
