//! How the server is to run, as far as the command line says.

use std::path::PathBuf;

/// How the server is to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServeOptions {
    /// `--log-to DIR`.
    pub(crate) log_to: Option<PathBuf>,
    /// `--log-file FILE`.
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) plain: bool,
}
