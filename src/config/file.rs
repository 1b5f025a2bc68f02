//! The config file: where it is, how it is read, and how it is changed without losing anything (SPEC A1, A5).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Config;
use crate::error::{Error, Result};

/// Where the config is (SPEC A1). `variable` looks into the environment.
pub(crate) fn path(_variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    Err(Error::ours("not written yet"))
}

/// Reads the config. A missing file is an error of kind `NotFound`.
pub(crate) fn load(_path: &Path) -> Result<Config> {
    Err(Error::ours("not written yet"))
}

/// Reads the config; creates it with defaults and a random key if it is missing.
pub(crate) fn load_or_create(_path: &Path) -> Result<Config> {
    Err(Error::ours("not written yet"))
}

/// One change of the file: lock, read again, change, write. Returns what `change` returns; an error of it changes nothing.
pub(crate) fn update<T>(
    path: &Path,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
) -> Result<T> {
    lock(path)?.commit(change)
}

/// Takes the lock of the file and reads it. For a change that needs time in its middle, such as a refresh.
pub(crate) fn lock(_path: &Path) -> Result<Locked> {
    Err(Error::ours("not written yet"))
}

/// The config under its lock; the lock goes with the value.
pub(crate) struct Locked {
    document: Map<String, Value>,
}

impl Locked {
    /// Reads the file again, in case someone edited it by hand meanwhile.
    pub(crate) fn reread(&mut self) -> Result<()> {
        Err(Error::ours("not written yet"))
    }

    /// What the file holds.
    pub(crate) fn document(&self) -> &Map<String, Value> {
        &self.document
    }

    /// What the file says.
    pub(crate) fn config(&self) -> Result<Config> {
        Err(Error::ours("not written yet"))
    }

    /// Reads the file again, applies `change` to it and writes it, if that changed anything. On an error the file is as it was.
    pub(crate) fn commit<T>(
        &mut self,
        _change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        Err(Error::ours("not written yet"))
    }
}

/// The entry of the account with this name as [`Config::accounts`] shows it, within a document that is being changed.
pub(crate) fn account_mut<'a>(
    _document: &'a mut Map<String, Value>,
    _name: &str,
) -> Option<&'a mut Map<String, Value>> {
    None
}

/// The same by identity: the entry that is the same account as `who` (SPEC A4).
pub(crate) fn account_of_mut<'a>(
    _document: &'a mut Map<String, Value>,
    _who: &super::Identity<'_>,
) -> Option<&'a mut Map<String, Value>> {
    None
}
