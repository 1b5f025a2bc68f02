//! Digests of used-up refresh tokens in the state file, beside those in the config (SPEC T8).
//!
//! The `spent` list of an entry is lost when somebody saves an old copy of the config over it, or
//! removes the entry. A reader that has never seen the list would then take the old copy for the
//! news and present its token. So whoever writes the config notes here what its entries say, and
//! whoever reads it, a source, or what a command brings, learns it from here. Nobody takes a digest
//! out again but to make room.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::atomic::{self, FileLock};
use super::deposit::Deposit;
use super::spent::{Digest, Spent};
use super::state;
use super::tokens::Tokens;
use crate::error::{Error, Result};

/// The tokens that are known as used up, of all accounts. A file that cannot be read knows none.
pub(crate) fn spent(config: &Path) -> Vec<Digest> {
    let text = atomic::read(&state::path(config)).unwrap_or_default();
    digests_of(serde_json::from_str(&text).ok().as_ref())
}

/// Adds to the `spent` of each entry which of its tokens are used up, as the state file of `config`
/// or another entry says.
pub(super) fn apply(config: &Path, document: &mut Map<String, Value>) {
    let Some(Value::Array(entries)) = document.get_mut("accounts") else {
        return;
    };
    let mut used = spent(config);
    for entry in entries.iter().filter_map(Value::as_object) {
        used.extend(Spent::read(entry.get(SPENT)).digests().cloned());
    }
    for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
        let mut held = Deposit::read(entry);
        if held.learn(&used, &Tokens::default()) {
            held.spent.write(entry);
        }
    }
}

/// Notes what the entries of the config say.
pub(super) fn note(config: &Path, document: &Map<String, Value>) -> Result<()> {
    let entries = document.get("accounts").and_then(Value::as_array);
    let entries = entries.into_iter().flatten().filter_map(Value::as_object);
    let latest = |entry: &Map<String, Value>| {
        let spent = Spent::read(entry.get(SPENT));
        let digests: Vec<Digest> = spent.digests().cloned().collect();
        digests[digests.len().saturating_sub(OF_ENTRY)..].to_vec()
    };
    let said: Vec<Digest> = entries.flat_map(latest).collect();
    let known = spent(config);
    if said.iter().all(|digest| known.contains(digest)) {
        return Ok(());
    }
    let path = state::path(config);
    let lock = FileLock::take_within(&path, WAIT)?;
    lock.clear(lock.leftovers());
    let mut document = match lock.exists() {
        true => serde_json::from_str(&lock.read()?)
            .map_err(|error| Error::operator(format!("{}: {error}", path.display())))?,
        false => Map::new(),
    };
    let mut noted = digests_of(Some(&document));
    for digest in said {
        noted.retain(|known| *known != digest);
        noted.push(digest);
    }
    let noted = noted[noted.len().saturating_sub(NOTED_MAX)..].iter();
    document.insert(SPENT.to_owned(), noted.map(|digest| Value::from(digest.as_str())).collect());
    let text = serde_json::to_string_pretty(&document)
        .map_err(|error| Error::ours(format!("the state cannot be written as JSON: {error}")))?;
    lock.replace(&(text + "\n"))
}

fn digests_of(document: Option<&Map<String, Value>>) -> Vec<Digest> {
    let list = document.and_then(|document| document.get(SPENT)).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).filter_map(Digest::read).collect()
}

const SPENT: &str = "spent";
/// Of each entry: a process that has not looked for longer has long been refused by the API.
const OF_ENTRY: usize = 8;
/// Enough for 128 accounts.
const NOTED_MAX: usize = 1024;
/// Whoever writes the state file holds its lock for a moment.
const WAIT: Duration = Duration::from_secs(2);
