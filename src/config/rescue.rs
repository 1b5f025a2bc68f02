//! The rescue file: token pairs that could not be written to the config (SPEC T7).
//!
//! It is next to the config, else in `$XDG_STATE_HOME` or `~/.local/state`. Every process reads it
//! together with the config, so its pairs count as if they were in the config. The next writer of
//! the config writes the pairs into it, and only then removes them from here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::atomic::{self, FileLock, Leftover, Reserved};
use super::custody::{self, Record};
use crate::error::{Error, Result};

/// Possible paths of this config's rescue file, the preferred one first. A symbolic link may have
/// been pointed elsewhere since the file was written, so the link's own directory counts as well.
fn paths(config: &Path) -> Vec<PathBuf> {
    let target = atomic::target_of(config).unwrap_or_else(|_| config.to_owned());
    let mut paths = Vec::new();
    for directory in [None, state_home()] {
        for file in [&target, config] {
            let mut name = file.file_stem().unwrap_or_default().to_owned();
            name.push(".rescue.json");
            let path = directory.as_deref().unwrap_or(atomic::directory_of(file)).join(name);
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths
}

/// `$XDG_STATE_HOME`, else `~/.local/state`.
fn state_home() -> Option<PathBuf> {
    if cfg!(test) {
        // Tests must not touch the home directory of the user who runs them.
        return None;
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))
}

/// A pair from one of these files.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rescued {
    place: PathBuf,
    pub(super) record: Record,
}

/// The pairs of this config in rescue files. An unreadable file counts as empty.
pub(super) fn read(config: &Path) -> Vec<Rescued> {
    let owners = owners_of(config);
    let mut found = Vec::new();
    for place in paths(config) {
        let pairs = atomic::read(&place).ok().and_then(|text| pairs_of(&text));
        for pair in pairs.into_iter().flatten() {
            if is_of(&pair, &owners)
                && let Some(record) = Record::read(&pair)
            {
                found.push(Rescued { place: place.clone(), record });
            }
        }
    }
    found
}

/// Whether there are pairs to be moved into the config.
pub(crate) fn has_pairs(config: &Path) -> bool {
    paths(config).iter().any(|path| path.exists()) && !read(config).is_empty()
}

/// Whether a rescue file of this config is being written, or an interrupted write has left a
/// temporary file.
pub(super) fn has_temporaries(config: &Path) -> bool {
    paths(config).iter().any(|path| atomic::has_temporaries(path))
}

/// Completes the rescue files that killed writers have left unfinished.
pub(super) fn recover(config: &Path) {
    for path in paths(config).iter().filter(|path| atomic::has_temporaries(path)) {
        // If the lock is taken, its holder does it for us.
        let _ = lock_within(path, RECOVER_WAIT);
    }
}

/// Puts the pairs into the document and returns the effects, in order.
pub(super) fn apply(document: &mut Map<String, Value>, rescued: &[Rescued]) {
    for Rescued { record, .. } in rescued {
        custody::place(document, record);
    }
}

/// Reserved space in a rescue file for a later pair.
#[derive(Debug)]
pub(crate) struct RescuePlace {
    path: PathBuf,
    reserved: Reserved,
}

/// Reserves space for one more pair, in the first directory where that is possible.
pub(crate) fn reserve(config: &Path, bytes: usize) -> Result<RescuePlace> {
    first_of(config, |path| {
        let lock = lock(path)?;
        let size = text_of(&pairs_in(&lock)?)?.len();
        Ok(RescuePlace { path: path.to_owned(), reserved: lock.reserve(size + bytes)? })
    })
}

/// Stores a pair, in the reserved space or in any other.
pub(crate) fn keep(config: &Path, place: Option<RescuePlace>, record: &Record) -> Result<()> {
    if let Some(RescuePlace { path, reserved }) = place
        && write(config, &path, record, Some(reserved)).is_ok()
    {
        return Ok(());
    }
    first_of(config, |path| write(config, path, record, None))
}

fn write(config: &Path, path: &Path, record: &Record, reserved: Option<Reserved>) -> Result<()> {
    let lock = lock(path)?;
    let mut pairs = pairs_in(&lock)?;
    let owners = owners_of(config);
    let mut record = record.clone();
    // A newer pair of the same account replaces its predecessor.
    pairs.retain(|pair| {
        let known = Record::read(pair).filter(|_| is_of(pair, &owners));
        !known.is_some_and(|known| record.supersedes(&known))
    });
    let mut pair = record.value();
    pair[OWNER] = Value::from(&*owners[0]);
    pairs.push(pair);
    let text = text_of(&pairs)?;
    match reserved {
        Some(reserved) => lock.replace_in(reserved, &text),
        None => lock.replace(&text),
    }
}

/// Removes pairs that are in the config now; the file is deleted with the last one.
pub(super) fn forget(config: &Path, rescued: &[Rescued]) {
    let owners = owners_of(config);
    for path in paths(config) {
        let placed: Vec<&Rescued> =
            rescued.iter().filter(|rescued| rescued.place == path).collect();
        if placed.is_empty() {
            continue;
        }
        // If a pair cannot be removed now, the next writer removes it; until then it is known to be
        // old.
        let _ = forget_in(&path, &owners, &placed);
    }
}

fn forget_in(path: &Path, owners: &[String], placed: &[&Rescued]) -> Result<()> {
    let lock = lock(path)?;
    let mut pairs = pairs_in(&lock)?;
    pairs.retain(|pair| {
        let record = Record::read(pair).filter(|_| is_of(pair, owners));
        !record.is_some_and(|record| placed.iter().any(|placed| placed.record == record))
    });
    if pairs.is_empty() {
        return lock.remove();
    }
    lock.replace(&text_of(&pairs)?)
}

fn lock(path: &Path) -> Result<FileLock> {
    lock_within(path, atomic::LOCK_WAIT)
}

fn lock_within(path: &Path, limit: Duration) -> Result<FileLock> {
    // That of the config is there, or was taken away on purpose.
    let is_in = |home: PathBuf| path.starts_with(home);
    if let Some(directory) = path.parent()
        && state_home().is_some_and(is_in)
    {
        let made = std::fs::create_dir_all(directory);
        made.map_err(|cause| Error::file("create the directory", directory, &cause))?;
    }
    let lock = FileLock::take_within(path, limit)?;
    let leftovers = lock.leftovers();
    if take_over(&lock, &leftovers).is_ok() {
        lock.clear(leftovers);
    }
    Ok(lock)
}

/// Adds the pairs in the leftovers of killed writers.
fn take_over(lock: &FileLock, leftovers: &[Leftover]) -> Result<()> {
    let mut pairs = pairs_in(lock)?;
    let known = pairs.len();
    for pair in leftovers.iter().filter_map(|leftover| pairs_of(&leftover.text)).flatten() {
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    if pairs.len() == known {
        return Ok(());
    }
    lock.replace(&text_of(&pairs)?)
}

fn first_of<T>(config: &Path, attempt: impl Fn(&Path) -> Result<T>) -> Result<T> {
    let mut failure = None;
    for path in paths(config) {
        match attempt(&path) {
            Ok(done) => return Ok(done),
            Err(error) => failure.get_or_insert(error),
        };
    }
    Err(failure.unwrap_or_else(|| Error::operator("there is no place for a rescue file")))
}

/// What identifies the config of a pair, since in the state directory several may share one file:
/// its real path, and the path as given, which stays the same when a link is pointed elsewhere.
fn owners_of(config: &Path) -> [String; 2] {
    let given = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let target = std::fs::canonicalize(config).unwrap_or_else(|_| given.clone());
    [target, given].map(|path| path.to_string_lossy().into_owned())
}

fn is_of(pair: &Value, owners: &[String]) -> bool {
    let owner = pair.get(OWNER).and_then(Value::as_str);
    owner.is_some_and(|owner| owners.iter().any(|known| known == owner))
}

/// The pairs of a rescue file that is to be written. One that holds anything else stays as it is:
/// a person may still get a token out of it.
fn pairs_in(lock: &FileLock) -> Result<Vec<Value>> {
    let text = if lock.exists() { lock.read()? } else { String::new() };
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    pairs_of(&text).ok_or_else(|| Error::operator("it is not a rescue file of maxpool"))
}

fn pairs_of(text: &str) -> Option<Vec<Value>> {
    let mut document: Value = serde_json::from_str(text).ok()?;
    match document.get_mut(PAIRS)?.take() {
        Value::Array(pairs) => Some(pairs),
        _ => None,
    }
}

fn text_of(pairs: &[Value]) -> Result<String> {
    let document = json!({ "about": ABOUT, PAIRS: pairs });
    serde_json::to_string_pretty(&document)
        .map(|text| text + "\n")
        .map_err(|error| Error::ours(format!("the rescue file cannot be written: {error}")))
}

/// A reader of the config does not wait longer for another process.
const RECOVER_WAIT: Duration = Duration::from_millis(250);
const OWNER: &str = "config";
const PAIRS: &str = "pairs";
const ABOUT: &str = "Tokens that could not be written to the config of maxpool. Do not delete this \
                     file: maxpool moves them into the config as soon as the config can be \
                     written.";
