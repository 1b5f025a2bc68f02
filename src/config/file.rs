//! The config file: its path, how it is read, and how it is changed without losing anything (SPEC
//! A1, A5).
//!
//! It holds every credential, so nothing here ever replaces it with defaults, and each write
//! changes only what it is about: key order, unknown keys and changes by other processes are kept.

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

/// The path of the config (SPEC A1). `variable` looks up an environment variable.
pub(crate) fn path(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let given = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = given("MAXPOOL_CONFIG").or_else(|| given("TEAMCLAUDE_CONFIG")) {
        return Ok(path);
    }
    // A relative XDG directory is invalid and must be ignored (XDG Base Directory Specification).
    let directory = given("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let directory = directory.or_else(|| given("HOME").map(|home| home.join(".config")));
    directory.map(|directory| directory.join("maxpool.json")).ok_or_else(|| {
        Error::operator(
            "cannot tell where the config file is: HOME is not set; set it, or set MAXPOOL_CONFIG \
             to the file",
        )
    })
}

/// Reads the config together with the token pairs in the rescue file. A missing file is an error of
/// kind `NotFound`.
pub(crate) fn load(path: &Path) -> Result<Config> {
    let text = atomic::read(path)?;
    let mut document = parse::document(&text, path)?;
    rescue::apply(&mut document, &rescue::read(path));
    noted::apply(path, &mut document);
    Config::from_document(&document, &text, path)
}

/// The same for a caller that is about to send a refresh token: leftovers of killed writers are
/// merged into the file first, because they may hold the successor of that token.
pub(crate) fn load_whole(path: &Path, limit: Duration) -> Result<Config> {
    if !atomic::has_temporaries(path) && !rescue::has_temporaries(path) {
        return load(path);
    }
    let Ok(mut locked) = lock_within(path, limit) else {
        return load(path);
    };
    // If they cannot be written they count all the same, and stay where they are.
    let _ = locked.commit(|_| Ok(()));
    locked.config()
}

/// Reads the config for a server that starts: creates the file if it is missing, and adds a missing
/// proxy key and missing account names. If that cannot be stored, the config is used all the same,
/// with a notice.
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

/// Adds what a file should contain but a person need not write.
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

/// One change of the file: lock, read again, change, write. Returns the result of `change`; after
/// an error the file is unchanged.
pub(crate) fn update<T>(
    path: &Path,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
) -> Result<T> {
    lock(path)?.commit(change)
}

/// The same for a command that may be the first to run: creates a missing file before.
pub(crate) fn update_or_create<T>(
    path: &Path,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
) -> Result<T> {
    if !path.exists() {
        create(path)?;
    }
    update(path, change)
}

/// Locks the file and reads it.
pub(crate) fn lock(path: &Path) -> Result<Locked> {
    lock_within(path, atomic::LOCK_WAIT)
}

/// The same with an explicit time limit.
pub(crate) fn lock_within(path: &Path, limit: Duration) -> Result<Locked> {
    // Without the file there is nothing to lock, and no lock file should be created.
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

/// The lock for exchanging one refresh token, whichever entry has it (SPEC T7).
pub(crate) fn lock_token(path: &Path, token: &Digest, limit: Duration) -> Result<SiblingLock> {
    let target = atomic::target_of(path).map_err(|cause| Error::file("follow", path, &cause))?;
    SiblingLock::take(&atomic::token_lock_of(&target, token.as_str()), limit)
}

/// Whether the file could be replaced now, as far as that can be told without changing it. False if
/// the file system does not support locks.
pub(crate) fn probe(path: &Path, limit: Duration) -> Result<bool> {
    FileLock::probe(path, limit)
}

/// The config under its lock, which is released with the value.
///
/// It shows the file together with the rescue file and the leftovers of killed writers, and the
/// next change writes all of that.
#[derive(Debug)]
pub(crate) struct Locked {
    path: PathBuf,
    lock: FileLock,
    text: String,
    /// The content of the file.
    written: Map<String, Value>,
    /// The same with rescued pairs and leftovers.
    document: Map<String, Value>,
    leftovers: Vec<Leftover>,
    rescued: Vec<Rescued>,
}

impl Locked {
    /// Reads the file again, in case someone has edited it by hand meanwhile.
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

    /// False if the file system does not support locks, so that two writers exclude each other only
    /// by luck.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// Reserves space for this document plus `more` bytes, and makes sure that the file can be
    /// replaced by replacing it with itself. Some files can be read and written but not replaced,
    /// such as a bind-mounted or an immutable file, and no other check detects that.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<Reserved> {
        self.keep_a_copy();
        self.lock.replace(&self.text)?;
        self.lock.reserve(self.text.len() + more)
    }

    /// Reads the file again, applies `change` to it, and writes it if that changed anything. After
    /// an error the file is unchanged.
    pub(crate) fn commit<T>(
        &mut self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        self.commit_in(None, change)
    }

    /// The same with reserved space.
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
                // The backup must not delay a pair that has just arrived, see `reserve`.
                self.keep_a_copy();
            }
            match reserved {
                Some(reserved) => self.lock.replace_in(reserved, &text)?,
                None => self.lock.replace(&text)?,
            }
            // If this fails, the digests are still in the entries.
            let _ = noted::note(&self.path, &changed);
            self.written = changed.clone();
            self.document = changed;
            self.text = text;
        }
        // Their content is in the file now.
        self.lock.clear(std::mem::take(&mut self.leftovers));
        rescue::forget(&self.path, &std::mem::take(&mut self.rescued));
        Ok(result)
    }
}

impl Locked {
    /// Makes a backup of a Node program's file before its first change, for users who want to go
    /// back. If that fails, it is no reason to lose a token.
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

/// Suffix of that backup.
const COPY_SUFFIX: &str = ".before-2.0";

/// Takes over pairs from the leftover of a killed writer: successors of pairs in the file, and
/// pairs of accounts that the file does not have.
fn take_over(document: &mut Map<String, Value>, text: &str) {
    let Ok(left) = serde_json::from_str::<Map<String, Value>>(text) else {
        // Reserved space that was never filled, or a partial file: its writer had not put it to
        // use.
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

/// The content of a new file: every default, and `key`.
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
