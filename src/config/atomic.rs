//! Replaces a file whole or not at all, under an advisory lock (SPEC A5).
//!
//! Writers of one file exclude each other by a lock on a sibling file, `<name>.lock`, which stays
//! where it is: removing it would let two writers hold two locks. Readers need no lock, since a
//! rename shows them the old file or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// Files larger than this are not ours.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Longer than the longest refresh, which holds the lock while it waits for the token endpoint.
const LOCK_TRIES_MAX: u32 = 4_500;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// As many links as Linux follows.
const LINKS_MAX: usize = 40;

/// The right to replace one file, for as long as this value lives.
#[derive(Debug)]
pub(super) struct FileLock {
    target: PathBuf,
    /// Closing it gives the lock back.
    _lock: File,
}

impl FileLock {
    /// Waits for the lock of the file that `path` leads to, and clears away what a killed writer
    /// left behind.
    pub(super) fn take(path: &Path) -> Result<FileLock> {
        let target = target_of(path).map_err(|cause| Error::file("follow", path, &cause))?;
        let name = beside(&target, "", ".lock");
        let lock = private()
            .create(true)
            .truncate(false)
            .open(&name)
            .map_err(|cause| Error::file("make the lock", &name, &cause))?;
        if let Ok(old) = fs::metadata(&target) {
            keep_owner(&lock, &old).map_err(|cause| Error::file("lock", &target, &cause))?;
        }
        for _ in 0..LOCK_TRIES_MAX {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    clear_leftovers(&target);
                    return Ok(FileLock { target, _lock: lock });
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(cause) => return Err(Error::file("lock", &target, &cause.into())),
            }
        }
        Err(Error::operator(format!(
            "cannot lock {}: another process has held {} for more than {} s; end it and try again",
            target.display(),
            name.display(),
            (LOCK_PAUSE * LOCK_TRIES_MAX).as_secs()
        )))
    }

    pub(super) fn read(&self) -> Result<String> {
        read(&self.target)
    }

    pub(super) fn exists(&self) -> bool {
        self.target.exists()
    }

    /// Puts `text` in the place of the file. After an error the file is as it was.
    pub(super) fn replace(&self, text: &str) -> Result<()> {
        let temporary = temporary_of(&self.target);
        let written = self.write_and_rename(&temporary, text);
        if written.is_err() {
            // The error that is told is the one of the write; what stays behind is cleared by the
            // next writer.
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(|cause| Error::file("write", &self.target, &cause))
    }

    fn write_and_rename(&self, temporary: &Path, text: &str) -> io::Result<()> {
        let directory = File::open(directory_of(&self.target))?;
        let mut file = private().create_new(true).open(temporary)?;
        file.write_all(text.as_bytes())?;
        if let Ok(old) = fs::metadata(&self.target) {
            keep_mode(&file, &old)?;
            keep_owner(&file, &old)?;
        }
        file.sync_all()?;
        fs::rename(temporary, &self.target)?;
        // The file is replaced by now. Some file systems cannot sync a directory, and to call that
        // a failed write would be wrong: the caller would go on as if the old content were
        // there.
        let _ = directory.sync_all();
        Ok(())
    }
}

/// The text of a file; an error says what is wrong with it.
pub(super) fn read(path: &Path) -> Result<String> {
    let failed = |cause: io::Error| Error::file("read", path, &cause);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::operator(format!("cannot read {}: it is not a file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::operator(format!(
            "cannot read {}: it is larger than 16 MiB",
            path.display()
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        Error::operator(format!(
            "{}:{line}: not UTF-8 text; the file was left as it is",
            path.display()
        ))
    })
}

/// Open options for a file that nobody else may read, from its first moment.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    options.write(true).mode(0o600).custom_flags(flags);
    options
}

/// The file that `path` leads to, through symbolic links, whether it exists or not.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&target) {
            // A relative link counts from the directory that it stands in.
            Ok(link) => target = directory_of(&target).join(link),
            // Anything that is no link, or not there.
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        Some(_) | None => Path::new("."),
    }
}

/// `<directory>/<before><name><after>`.
fn beside(path: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(after);
    directory_of(path).join(name)
}

/// A name that no other write of this process and no other process uses.
fn temporary_of(target: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    beside(target, ".", &format!(".{}.{count}.tmp", std::process::id()))
}

/// Removes temporary files of this target. Their writers held the lock that we hold now, so they
/// are gone.
fn clear_leftovers(target: &Path) {
    let Ok(entries) = fs::read_dir(directory_of(target)) else {
        return;
    };
    let prefix = beside(target, ".", ".");
    for entry in entries.flatten() {
        let path = entry.path();
        let rest =
            path.as_os_str().as_encoded_bytes().strip_prefix(prefix.as_os_str().as_encoded_bytes());
        if rest.is_some_and(is_temporary_suffix)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether this is `<digits>.<digits>.tmp`.
fn is_temporary_suffix(suffix: &[u8]) -> bool {
    let parts: Vec<&[u8]> = suffix.split(|&byte| byte == b'.').collect();
    let is_number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    matches!(parts[..], [process, count, b"tmp"] if is_number(process) && is_number(count))
}

/// A mode stricter than 0600 stays.
fn keep_mode(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let strict = old.mode() & 0o600;
    if strict == 0o600 {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(strict))
}

/// A command that root runs on a user's config must not take the file away from the user. Only root
/// can give files away, so where it fails there was nothing to keep.
fn keep_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        let _ = std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a5_only_our_own_temporary_files_are_leftovers() {
        for (suffix, is_ours) in [
            ("12.0.tmp", true),
            ("12.tmp", false),
            ("12.0.tmp.bak", false),
            ("a.0.tmp", false),
            (".0.tmp", false),
            ("lock", false),
        ] {
            assert_eq!(is_temporary_suffix(suffix.as_bytes()), is_ours, "{suffix}");
        }
    }
}
