//! The config file: where it is, how it is read, and how it is changed without losing anything
//! (SPEC A1, A5).
//!
//! It holds every credential, so nothing here ever replaces it by defaults, and each write changes
//! only what the write is about: key order and unknown keys survive, and so does what another
//! process wrote in the meantime.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use super::atomic::{self, FileLock};
use super::{Config, edit, parse, random, settings};
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
            "no place for the config file: HOME is not set; set it, or MAXPOOL_CONFIG to the file",
        )
    })
}

/// Reads the config. A missing file is an error of kind `NotFound`.
pub(crate) fn load(path: &Path) -> Result<Config> {
    Config::parse(&atomic::read(path)?, path)
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
    let settled = update(path, |document| settle(document).map(|_| ()));
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

/// Takes the lock of the file and reads it. For a change that needs time in its middle, such as a
/// refresh.
pub(crate) fn lock(path: &Path) -> Result<Locked> {
    // Without the file there is nothing to lock, and no lock file should come into being.
    if !path.exists() {
        atomic::read(path)?;
    }
    let lock = FileLock::take(path)?;
    let mut locked =
        Locked { path: path.to_owned(), lock, text: String::new(), document: Map::new() };
    locked.reread()?;
    Ok(locked)
}

/// The config under its lock; the lock goes with the value.
#[derive(Debug)]
pub(crate) struct Locked {
    path: PathBuf,
    lock: FileLock,
    text: String,
    document: Map<String, Value>,
}

impl Locked {
    /// Reads the file again, in case someone edited it by hand meanwhile.
    pub(crate) fn reread(&mut self) -> Result<()> {
        let text = self.lock.read()?;
        self.document = parse::document(&text, &self.path)?;
        self.text = text;
        Ok(())
    }

    pub(crate) fn config(&self) -> Result<Config> {
        Config::from_document(&self.document, &self.text, &self.path)
    }

    /// Reads the file again, applies `change` to it and writes it, if that changed anything. After
    /// an error the file is as it was.
    pub(crate) fn commit<T>(
        &mut self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        self.reread()?;
        let mut changed = self.document.clone();
        let result = change(&mut changed)?;
        if changed != self.document {
            let text = pretty(&changed, &self.text)?;
            self.lock.replace(&text)?;
            self.document = changed;
            self.text = text;
        }
        Ok(result)
    }
}

/// The document as text, in the manner of the text that it replaces: its indentation and whether it
/// ends with a line end.
fn pretty(document: &Map<String, Value>, old: &str) -> Result<String> {
    let indent = old.lines().nth(1).map(|line| &line[..line.len() - line.trim_start().len()]);
    let indent = indent.filter(|indent| (1..=8).contains(&indent.len())).unwrap_or("  ");
    let mut bytes = Vec::with_capacity(old.len() + 256);
    let mut serializer =
        Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent.as_bytes()));
    let written = document.serialize(&mut serializer).map_err(|error| error.to_string());
    let text = written.and_then(|()| String::from_utf8(bytes).map_err(|error| error.to_string()));
    let mut text = text
        .map_err(|error| Error::ours(format!("the config cannot be written as JSON: {error}")))?;
    if old.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
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
