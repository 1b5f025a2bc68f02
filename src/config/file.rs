//! The config file: where it is, how it is read, and how it is changed without losing anything
//! (SPEC A1, A5).
//!
//! It holds every credential, so nothing here ever replaces it with defaults, and each write
//! changes only what the write is about: key order, unknown keys and what another process wrote in
//! the meantime survive.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::atomic::{self, FileLock, Leftover, Reserved, SiblingLock};
use super::custody::{self, Digest, Record};
use super::rescue::{self, Rescued};
use super::{Config, edit, noted, parse, random, settings, spelling, state};
use crate::error::{Error, Result};

/// Where the config is (SPEC A1). `variable` looks into the environment.
pub(crate) fn path(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let given = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = given("MAXPOOL_CONFIG").or_else(|| given("TEAMCLAUDE_CONFIG")) {
        return Ok(path);
    }
    // A relative XDG directory is invalid and has to be ignored (XDG Base Directory Specification).
    let directory = given("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let directory = directory.or_else(|| given("HOME").map(|home| home.join(".config")));
    directory.map(|directory| directory.join("maxpool.json")).ok_or_else(|| {
        Error::operator(
            "cannot tell where the config file is: HOME is not set; set it, or set MAXPOOL_CONFIG \
             to the file",
        )
    })
}

/// Reads the config, with the token pairs that are in the rescue file. A missing file is an error
/// of kind `NotFound`.
pub(crate) fn load(path: &Path) -> Result<Config> {
    let text = atomic::read(path)?;
    let mut document = parse::document(&text, path)?;
    rescue::apply(&mut document, &rescue::read(path));
    noted::apply(path, &mut document);
    Config::from_document(&document, &text, path)
}

/// The same for a caller that is about to send a refresh token: what killed writers have left
/// behind is put into the file first, since it may hold the successor of that token.
pub(crate) fn load_whole(path: &Path, limit: Duration) -> Result<Config> {
    if !atomic::has_temporaries(path) && !rescue::has_temporaries(path) {
        return load(path);
    }
    let Ok(mut locked) = lock_within(path, limit) else {
        return load(path);
    };
    // Where it cannot be written it counts all the same, and stays where it is.
    let _ = locked.commit(|_| Ok(()));
    locked.config()
}

/// Reads the config of a server that starts: creates the file if it is missing, and stores in it a
/// proxy key and names of accounts that it lacks. Where that cannot be stored, the config is served
/// all the same, with a notice.
pub(crate) fn load_or_create(path: &Path) -> Result<Config> {
    let mut config = match load(path) {
        Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => {
            create(path)?;
            load(path)?
        }
        loaded => loaded?,
    };
    let settled = lock(path).and_then(|mut locked| {
        locked.lock.clear_token_locks();
        locked.commit(|document| settle(document).map(|_| ()))
    });
    match settled {
        Ok(()) => load(path),
        Err(error) => {
            config.notices.push(error.while_doing("the config file is used as it is").to_string());
            Ok(config)
        }
    }
}

/// Fills in what a file should hold and a person need not type.
fn settle(document: &mut Map<String, Value>) -> Result<()> {
    let proxy = document.entry("proxy").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(proxy) = proxy
        && !proxy.contains_key("apiKey")
    {
        proxy.insert("apiKey".to_owned(), Value::String(random::proxy_key()?));
    }
    edit::store_names(document);
    Ok(())
}

/// One change of the file: lock, read again, change, write. Returns what `change` returns; after an
/// error the file is as it was.
pub(crate) fn update<T>(
    path: &Path,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
) -> Result<T> {
    lock(path)?.commit(change)
}

/// The same for a command that may be the first to run: a missing file is created before.
pub(crate) fn update_or_create<T>(
    path: &Path,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
) -> Result<T> {
    if !path.exists() {
        create(path)?;
    }
    update(path, change)
}

/// Takes the lock of the file and reads it.
pub(crate) fn lock(path: &Path) -> Result<Locked> {
    lock_within(path, atomic::LOCK_WAIT)
}

/// The same for a caller that cannot wait that long.
pub(crate) fn lock_within(path: &Path, limit: Duration) -> Result<Locked> {
    // Without the file there is nothing to lock, and no lock file should come into being.
    if !path.exists() {
        atomic::read(path)?;
    }
    let lock = FileLock::take_within(path, limit)?;
    let mut locked = Locked {
        path: path.to_owned(),
        lock,
        text: String::new(),
        written: Map::new(),
        document: Map::new(),
        leftovers: Vec::new(),
        rescued: Vec::new(),
    };
    locked.reread()?;
    Ok(locked)
}

/// The lock for the exchange of one refresh token, whoever has it in whichever entry (SPEC T7).
pub(crate) fn lock_token(path: &Path, token: &Digest, limit: Duration) -> Result<SiblingLock> {
    let target = atomic::target_of(path).map_err(|cause| Error::file("follow", path, &cause))?;
    SiblingLock::take(&atomic::token_lock_of(&target, token.as_str()), limit)
}

/// Whether the file could be replaced now, as far as that can be told without changing it. False
/// where the file system knows no locks.
pub(crate) fn probe(path: &Path, limit: Duration) -> Result<bool> {
    FileLock::probe(path, limit)
}

/// The config under its lock; the lock goes with the value.
///
/// It shows what the file says together with what the rescue file and a killed writer have left
/// behind, and the next change writes all of it.
#[derive(Debug)]
pub(crate) struct Locked {
    path: PathBuf,
    lock: FileLock,
    text: String,
    /// As the file has it.
    written: Map<String, Value>,
    /// The same with what was left behind.
    document: Map<String, Value>,
    leftovers: Vec<Leftover>,
    rescued: Vec<Rescued>,
}

impl Locked {
    /// Reads the file again, in case someone edited it by hand meanwhile.
    pub(crate) fn reread(&mut self) -> Result<()> {
        let text = self.lock.read()?;
        self.written = parse::document(&text, &self.path)?;
        self.document = self.written.clone();
        self.text = text;
        rescue::recover(&self.path);
        self.rescued = rescue::read(&self.path);
        rescue::apply(&mut self.document, &self.rescued);
        if self.leftovers.is_empty() {
            self.leftovers = self.lock.leftovers();
        }
        for leftover in &self.leftovers {
            take_over(&mut self.document, &leftover.text);
        }
        noted::apply(&self.path, &mut self.document);
        Ok(())
    }

    pub(crate) fn config(&self) -> Result<Config> {
        Config::from_document(&self.document, &self.text, &self.path)
    }

    /// False where the file system knows no locks, so that two writers exclude each other only by
    /// luck.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// Makes the place for this document with this many more bytes, and makes sure that the file
    /// can be replaced, by replacing it with itself. Some files can be read and written but not
    /// replaced, such as a mount of a single file or an immutable file, and no other test tells.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<Reserved> {
        self.keep_a_copy();
        self.lock.replace(&self.text)?;
        self.lock.reserve(self.text.len() + more)
    }

    /// Reads the file again, applies `change` to it and writes it, if that changed anything. After
    /// an error the file is as it was.
    pub(crate) fn commit<T>(
        &mut self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        self.commit_in(None, change)
    }

    /// The same in a place that was made for it.
    pub(crate) fn commit_in<T>(
        &mut self,
        reserved: Option<Reserved>,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        self.reread()?;
        let mut changed = self.document.clone();
        let result = change(&mut changed)?;
        if changed != self.written {
            let text = spelling::write(&self.text, &self.written, &changed);
            if reserved.is_none() {
                // A pair that has just come is not kept waiting for it, see `reserve`.
                self.keep_a_copy();
            }
            match reserved {
                Some(reserved) => self.lock.replace_in(reserved, &text)?,
                None => self.lock.replace(&text)?,
            }
            // What cannot be noted there is in the entries all the same.
            let _ = noted::note(&self.path, &changed);
            self.written = changed.clone();
            self.document = changed;
            self.text = text;
        }
        // The file holds by now what these held.
        self.lock.clear(std::mem::take(&mut self.leftovers));
        rescue::forget(&self.path, &std::mem::take(&mut self.rescued));
        Ok(result)
    }
}

impl Locked {
    /// Leaves a copy of a file of the Node program beside it before its first change, for whoever
    /// wants to go back. Not having one is no reason to lose a token.
    fn keep_a_copy(&self) {
        let ours = ["queue", "streamClientToleranceMs"];
        let is_ours = self.written.get(ours[0]).is_some_and(|queue| queue.get(ours[1]).is_some());
        let accounts = self.written.get("accounts").and_then(Value::as_array);
        let has_accounts = accounts.is_some_and(|accounts| !accounts.is_empty());
        if has_accounts && !is_ours && !state::path(&self.path).exists() {
            let _ = self.lock.copy_beside(COPY_SUFFIX, &self.text);
        }
    }
}

/// What the name of the copy of a file of the Node program ends in.
const COPY_SUFFIX: &str = ".before-2.0";

/// Takes the pairs of a document that a killed writer had not put in its place yet: those that are
/// successors of what the file has, and those of accounts that it has not.
fn take_over(document: &mut Map<String, Value>, text: &str) {
    let Ok(left) = serde_json::from_str::<Map<String, Value>>(text) else {
        // The place of something that never came, or a part of a file that was never finished:
        // whoever wrote it had not put it to use.
        return;
    };
    let entries = left.get("accounts").and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        let Some(record) = Record::read(entry) else {
            continue;
        };
        custody::take_over(document, &record, entry);
    }
}

/// Writes a new file with all defaults and a random key, unless another process was faster.
fn create(path: &Path) -> Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|cause| Error::file("create the directory", directory, &cause))?;
    }
    let lock = FileLock::take(path)?;
    if lock.exists() {
        return Ok(());
    }
    lock.replace(&new_file(random::proxy_key()?)?)
}

/// The text of a new file: every default, and `key`.
fn new_file(key: String) -> Result<String> {
    let mut document = settings::document(&Config::default());
    document["proxy"]["apiKey"] = Value::String(key);
    let text = serde_json::to_string_pretty(&document);
    let text = text
        .map_err(|error| Error::ours(format!("the config cannot be written as JSON: {error}")))?;
    Ok(text + "\n")
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
