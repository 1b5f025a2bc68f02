//! Writes a new or renewed account into the config (SPEC T1, T3, T4) in one locked change, updating
//! an existing entry with the same identity.

use std::path::Path;

use serde_json::{Map, Value};

use crate::account::oauth::Profile;
use crate::config::custody::{Age, Deposit, Digest, DisplacedBy, Found, Proof, age_of};
use crate::config::edit::{self, Put};
use crate::config::identity::free_name;
use crate::config::{Identity, Secret, Tokens, file, noted, state};
use crate::error::Result;

/// An OAuth account to be stored.
pub(super) struct Newcomer<'a> {
    pub(super) name: Option<&'a str>,
    /// Empty if the profile could not be read.
    pub(super) profile: &'a Profile,
    pub(super) tokens: &'a Tokens,
    /// The entry's `source`.
    pub(super) source: &'static str,
}

/// The result of storing an OAuth account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Enrolled {
    /// It was stored.
    Put(Put),
    /// It was stored beside the entry with this name, which may or may not be the same account.
    Beside(Put, String),
    /// The refresh token is used up, so the tokens are not taken. The entry of this name has newer
    /// ones, as far as there is one.
    Spent(Option<String>),
}

/// Stores an OAuth account: updates the entry with the same identity, else adds one. The replaced
/// tokens stay in the entry until the new ones have served a request (SPEC T8).
pub(super) fn store_oauth(config: &Path, newcomer: &Newcomer<'_>) -> Result<Enrolled> {
    let known_tokens =
        KnownTokens { spent: noted::spent(config), refused: state::refused_tokens(config) };
    file::update_or_create(config, |document| {
        let Newcomer { name, profile, tokens, source } = newcomer;
        let wanted = name
            .or(profile.email.as_deref())
            .map_or_else(|| numbered_name(document), str::to_owned);
        // Without an account id, the tokens themselves identify their owner.
        let known =
            (profile.account_uuid.is_none()).then(|| name_of_tokens(document, tokens)).flatten();
        let is_known = known.is_some();
        let wanted = known.unwrap_or(wanted);
        let tokens = match usable(document, tokens, &who(&wanted, profile), &known_tokens) {
            Ok(tokens) => tokens,
            Err(newer) => return Ok(Enrolled::Spent(newer)),
        };
        let same = edit::account_of_mut(document, &who(&wanted, profile));
        let taken_by_a_key = same.as_deref().is_some_and(|entry| !is_oauth(entry));
        let unsure = same.filter(|entry| !is_known && !is_surely(entry, profile)).is_some();
        let beside = unsure.then(|| wanted.clone());
        let wanted = if taken_by_a_key || unsure { other_name(document, &wanted) } else { wanted };
        let fields = fields_of(newcomer);
        let put = edit::put_account(
            document,
            &who(&wanted, profile),
            profile.org_name.as_deref(),
            fields,
        );
        let (Put::Added(stored) | Put::Updated(stored)) = &put;
        if let Some(entry) = edit::account_mut(document, stored) {
            let mut held = Deposit::read(entry);
            let by = match *source {
                "import" => DisplacedBy::Import,
                _ => DisplacedBy::Person,
            };
            held.displace(tokens, by);
            held.write(entry);
            // The source would restore its own tokens.
            entry.shift_remove("importFrom");
        }
        Ok(match beside {
            Some(name) => Enrolled::Beside(put, name),
            None => Enrolled::Put(put),
        })
    })
}

fn fields_of(newcomer: &Newcomer<'_>) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut text = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            fields.insert(key.to_owned(), value.into());
        }
    };
    text("type", Some("oauth"));
    // A user who has to sign in again needs to know with which e-mail.
    let source = match &newcomer.profile.email {
        Some(email) => format!("{} as {email}", newcomer.source),
        None => newcomer.source.to_owned(),
    };
    text("source", Some(&source));
    text("accountUuid", newcomer.profile.account_uuid.as_deref());
    text("orgUuid", newcomer.profile.org_uuid.as_deref());
    fields
}

/// What the state file says of refresh tokens.
struct KnownTokens {
    spent: Vec<Digest>,
    refused: Vec<Digest>,
}

/// What may be stored of these tokens for the account `who` (SPEC T3): all of it, or the access
/// token alone if the refresh token is used up and the stored pair was refused. Else the account
/// that has a newer pair, as far as there is one.
fn usable(
    document: &mut Map<String, Value>,
    tokens: &Tokens,
    who: &Identity<'_>,
    known: &KnownTokens,
) -> std::result::Result<Tokens, Option<String>> {
    let theirs = Deposit { live: tokens.clone(), ..Deposit::default() };
    let is_spent =
        |held: &Deposit| age_of(&theirs, held, Found::Command) == Age::Older(Proof::Spent);
    let entries = document.get("accounts").and_then(Value::as_array).into_iter().flatten();
    let mut entries = entries.filter_map(Value::as_object);
    let (name, stored) = match entries.find(|entry| is_spent(&Deposit::read(entry))) {
        Some(entry) => (entry.get("name").and_then(Value::as_str), Deposit::read(entry)),
        None => {
            let same = edit::account_of_mut(document, who).map(|entry| Deposit::read(entry));
            let mut stored = same.unwrap_or_default();
            stored.learn(&known.spent, tokens);
            if !is_spent(&stored) {
                return Ok(tokens.clone());
            }
            (None, stored)
        }
    };
    let token = stored.live.refresh.as_ref();
    let is_refused = token.is_some_and(|token| known.refused.contains(&Digest::of(token)));
    if is_refused && tokens.access.is_some() {
        return Ok(Tokens { refresh: None, ..tokens.clone() });
    }
    Err(name.filter(|_| !stored.spent.has(token)).map(str::to_owned))
}

/// Whether the entry certainly matches the profile, and not only by its name.
fn is_surely(entry: &Map<String, Value>, profile: &Profile) -> bool {
    let uuid = entry.get("accountUuid").and_then(Value::as_str).filter(|uuid| !uuid.is_empty());
    let held = Deposit::read(entry);
    let is_empty = held.live.access.is_none() && held.live.refresh.is_none();
    is_empty || uuid.is_some() && uuid == profile.account_uuid.as_deref()
}

fn who<'a>(name: &'a str, profile: &'a Profile) -> Identity<'a> {
    Identity {
        name,
        account_uuid: profile.account_uuid.as_deref(),
        org_uuid: profile.org_uuid.as_deref(),
    }
}

/// Stores an API key. If the key is known already, nothing changes and the result names its
/// account.
pub(super) fn store_key(config: &Path, name: Option<&str>, key: &Secret) -> Result<Put> {
    file::update_or_create(config, |document| {
        if let Some(known) = name_with(document, "apiKey", key) {
            return Ok(Put::Updated(known));
        }
        let wanted = name.map_or_else(|| numbered_name(document), str::to_owned);
        let taken = edit::account_mut(document, &wanted).is_some_and(|entry| !is_key(entry));
        let wanted = if taken { other_name(document, &wanted) } else { wanted };
        let who = Identity { name: &wanted, account_uuid: None, org_uuid: None };
        let mut fields = Map::new();
        fields.insert("type".to_owned(), "apikey".into());
        fields.insert("source".to_owned(), "login --api".into());
        fields.insert("apiKey".to_owned(), key.expose().into());
        let put = edit::put_account(document, &who, None, fields);
        if let Put::Added(name) = &put
            && let Some(entry) = edit::account_mut(document, name)
        {
            entry.insert("priority".to_owned(), KEY_PRIORITY.into());
        }
        Ok(put)
    })
}

/// A new API key is used after the subscriptions, which have been paid for (SPEC T4).
pub(super) const KEY_PRIORITY: i64 = 5;

/// The entry that has one of these tokens.
fn name_of_tokens(document: &Map<String, Value>, tokens: &Tokens) -> Option<String> {
    let with = |key, token: &Option<Secret>| name_with(document, key, token.as_ref()?);
    with("refreshToken", &tokens.refresh).or_else(|| with("accessToken", &tokens.access))
}

/// The name of the entry that has this secret under this key.
fn name_with(document: &Map<String, Value>, key: &str, secret: &Secret) -> Option<String> {
    let entries = document.get("accounts")?.as_array()?;
    let entry = entries
        .iter()
        .find(|entry| entry.get(key).and_then(Value::as_str) == Some(secret.expose()))?;
    entry.get("name")?.as_str().map(str::to_owned)
}

/// The first unused name of `account-1`, `account-2`, …
fn numbered_name(document: &mut Map<String, Value>) -> String {
    let mut number = 1_u64;
    loop {
        let name = format!("account-{number}");
        if edit::account_mut(document, &name).is_none() {
            return name;
        }
        number += 1;
    }
}

/// A login must not overwrite an API key of the same name, nor the other way round.
fn other_name(document: &mut Map<String, Value>, wanted: &str) -> String {
    let document = std::cell::RefCell::new(document);
    free_name(wanted, None, |name| edit::account_mut(&mut document.borrow_mut(), name).is_some())
}

fn is_oauth(entry: &Map<String, Value>) -> bool {
    match entry.get("type").and_then(Value::as_str) {
        Some(kind) => kind == "oauth",
        None => !entry.contains_key("apiKey") && !entry.contains_key("authToken"),
    }
}

fn is_key(entry: &Map<String, Value>) -> bool {
    match entry.get("type").and_then(Value::as_str) {
        Some(kind) => kind == "apikey",
        None => entry.contains_key("apiKey") && !entry.contains_key("authToken"),
    }
}

#[cfg(test)]
#[path = "enrol_tests.rs"]
mod tests;
