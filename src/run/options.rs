//! Options of the server from the command line.

use std::path::PathBuf;

/// Options of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServeOptions {
    /// `--log-to DIR`.
    pub(crate) log_to: Option<PathBuf>,
    /// `--log-file FILE`.
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) plain: bool,
}
