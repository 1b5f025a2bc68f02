//! The file of `--log-file`: the plain log, written whatever the terminal shows.
//!
//! Like the log on stderr it is never waited for: what cannot be written is lost, and the server
//! keeps serving. It is reopened on request, so that a rotated file is left alone.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result, reason};

/// The file, owned by the thread that writes the log.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    rotated: Arc<AtomicBool>,
}

impl LogFile {
    /// Opens the file for appending, readable only by its owner; setting `rotated` reopens it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: &Path, rotated: Arc<AtomicBool>) -> Result<LogFile> {
        let file = open(path).map_err(|error| {
            Error::operator(format!(
                "cannot write the log file {}: {}; give another --log-file or logFile",
                path.display(),
                reason(&error)
            ))
        })?;
        Ok(LogFile { path: path.to_owned(), file: Some(file), rotated })
    }

    /// Appends whole lines.
    pub(super) fn write(&mut self, lines: &str) {
        if self.rotated.swap(false, Ordering::AcqRel) {
            // The old file is closed even if a new one cannot be created.
            self.file = open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(lines.as_bytes());
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::scratch::Scratch;

    #[test]
    fn a_rotated_file_is_left_alone() {
        let scratch = Scratch::new();
        let path = scratch.path("maxpool.log");
        let rotated = Arc::new(AtomicBool::new(false));
        let mut log = LogFile::open(&path, Arc::clone(&rotated)).unwrap();
        log.write("one\n");
        std::fs::rename(&path, scratch.path("old.log")).unwrap();
        log.write("two\n");
        rotated.store(true, Ordering::Release);
        log.write("three\n");
        let read = |name: &str| std::fs::read_to_string(scratch.path(name)).unwrap();
        assert_eq!(
            (read("old.log").as_str(), read("maxpool.log").as_str()),
            ("one\ntwo\n", "three\n")
        );
        let error = LogFile::open(&scratch.path("no/such/place"), rotated).err().unwrap();
        assert!(error.to_string().contains("cannot write the log file"), "{error}");
    }
}
