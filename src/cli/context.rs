//! What every command needs: its output, the environment and the config.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::out::Out;
use crate::config::{Config, file};
use crate::error::Result;

/// The surroundings of a command.
pub(super) struct Context<'a> {
    pub(super) out: Out<'a>,
    /// Looks up an environment variable.
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Context<'_> {
    /// The path of the config.
    pub(super) fn config_path(&self) -> Result<PathBuf> {
        file::path(self.variable)
    }

    /// The config, or defaults if there is no file yet, since commands that only read do not create
    /// one.
    pub(super) fn config(&self) -> Result<Config> {
        match file::load(&self.config_path()?) {
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => Ok(Config::default()),
            loaded => loaded,
        }
    }
}

#[cfg(test)]
impl<'a> Context<'a> {
    pub(super) fn for_tests(
        stdout: &'a mut Vec<u8>,
        stderr: &'a mut Vec<u8>,
        variable: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Context<'a> {
        Context { out: Out::new(stdout, stderr, false), variable }
    }
}
