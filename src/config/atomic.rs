//! Replaces a file completely or not at all, under an advisory lock (SPEC A5).
//!
//! Writers of a file exclude each other by a lock on a sibling file, `<name>.lock`. After locking
//! it, a writer checks that the path still names that file, because a lock on a deleted file
//! excludes nobody. Readers need no lock, since a rename shows them either the old file or the new
//! one.
//!
//! The space for a later write can be reserved ([`FileLock::reserve`]): a temporary file of the
//! required size, on disk, with its own lock, so that nobody takes it for the leftover of a killed
//! writer.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::fault::{self, Step};
use crate::clock::{self, Stopwatch};
use crate::error::{Error, Result};
use crate::platform;
use crate::scheduler::time::Wall;

/// Larger files are not ours.
pub(super) const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Nobody holds the lock of a file longer than a slow disk needs for a write.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(15);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Notes are shorter.
const NOTE_BYTES_MAX: usize = 64;
/// A refresh token whose fate is still unknown after this time has expired or was replaced.
const NOTE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The limit of Linux for a chain of links.
const LINKS_MAX: usize = 40;

/// The right to replace one file while this value exists.
#[derive(Debug)]
pub(super) struct FileLock {
    target: PathBuf,
    lock: SiblingLock,
    /// The file's state when it was read: later writes by programs that take no lock must not be
    /// overwritten.
    seen: Cell<Option<Stamp>>,
}

/// Tells versions of a file apart.
type Stamp = (u64, u64, i64, i64);

/// A locked sibling file. Closing it releases the lock.
#[derive(Debug)]
pub(crate) struct SiblingLock {
    path: PathBuf,
    file: File,
    /// False if the file system does not support locks.
    is_locked: bool,
}

impl SiblingLock {
    /// Waits for the lock of the file at `path`, which is created if it is missing.
    pub(crate) fn take(path: &Path, limit: Duration) -> Result<SiblingLock> {
        let watch = Stopwatch::start();
        loop {
            if let Some(lock) = SiblingLock::try_take(path)
                .map_err(|cause| Error::file("create the lock", path, &cause))?
            {
                return Ok(lock);
            }
            if watch.left_of(limit).is_none() {
                return Err(Error::operator(format!(
                    "cannot lock {}: another process has held it for more than {} s; end that \
                     process and try again",
                    path.display(),
                    limit.as_secs()
                )));
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    fn try_take(path: &Path) -> io::Result<Option<SiblingLock>> {
        fault::step(Step::Open, path)?;
        let file = private().read(true).create(true).truncate(false).open(path)?;
        let locked = fault::step(Step::Lock, path)
            .map_err(|cause| Errno::from_io_error(&cause).unwrap_or(Errno::IO))
            .and_then(|()| flock(&file, FlockOperation::NonBlockingLockExclusive));
        let is_locked = match locked {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => false,
            Err(cause) => return Err(cause.into()),
        };
        let lock = SiblingLock { path: path.to_owned(), file, is_locked };
        // Somebody may have deleted and recreated it between the two calls above.
        Ok(lock.is_in_place().then_some(lock))
    }

    /// Whether the path still names the locked file.
    fn is_in_place(&self) -> bool {
        is_same_file(&self.file, &self.path)
    }

    fn is_old(&self) -> bool {
        let written = self.file.metadata().map(|found| Wall(found.mtime().saturating_mul(1000)));
        written.is_ok_and(|at| at.until(clock::wall()) > NOTE_KEPT)
    }

    /// Releases the lock and deletes its file, so that nobody waits for it any more.
    pub(crate) fn remove(self) {
        if self.is_in_place() && fault::step(Step::Remove, &self.path).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// The note in its file; empty if there is none, or if it cannot be read.
    pub(crate) fn noted(&self) -> String {
        let mut bytes = [0; NOTE_BYTES_MAX];
        let length = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Leaves a note for the next holder of the lock.
    pub(crate) fn note(&self, text: &str) -> io::Result<()> {
        fault::step(Step::Write, &self.path)?;
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Whether the lock really excludes others.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked
    }
}

/// Reserved space for a later text: a temporary file of its size, on disk.
#[derive(Debug)]
pub(crate) struct Reserved {
    path: PathBuf,
    file: File,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // After the rename the path names nothing, or another file.
        if is_same_file(&self.file, &self.path) && fault::step(Step::Remove, &self.path).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl FileLock {
    /// Waits for the lock of the file to which `path` leads.
    pub(super) fn take(path: &Path) -> Result<FileLock> {
        FileLock::take_within(path, LOCK_WAIT)
    }

    /// The same with an explicit time limit.
    pub(super) fn take_within(path: &Path, limit: Duration) -> Result<FileLock> {
        let target = target_of(path).map_err(|cause| Error::file("follow", path, &cause))?;
        let lock = SiblingLock::take(&beside(&target, "", ".lock"), limit)?;
        if let Ok(old) = fs::metadata(&target) {
            keep_owner(&lock.file, &old).map_err(|cause| Error::file("lock", &target, &cause))?;
        }
        Ok(FileLock { target, lock, seen: Cell::new(None) })
    }

    /// Whether the file that `path` leads to could be replaced, as far as that can be told without
    /// changing anything: takes the lock, makes a place, renames that and removes both. What only
    /// the last rename would tell stays unknown, such as a rule of a security module, or a sticky
    /// directory of somebody else. The answer is whether the lock excludes anybody.
    pub(super) fn probe(path: &Path, limit: Duration) -> Result<bool> {
        let failed = |cause| Error::file("replace", path, &cause);
        let target = target_of(path).map_err(failed)?;
        let had_a_lock = beside(&target, "", ".lock").exists();
        let lock = FileLock::take_within(path, limit)?;
        let probed = lock.probe_locked().map(|()| lock.is_locked()).map_err(failed);
        if !had_a_lock {
            lock.lock.remove();
        }
        probed
    }

    fn probe_locked(&self) -> io::Result<()> {
        let mut reserved = self.make(&vec![b' '; fs::read(&self.target)?.len()])?;
        let aside = temporary_of(&self.target);
        fault::step(Step::Rename, &aside)?;
        fs::rename(&reserved.path, &aside)?;
        reserved.path = aside;
        platform::why_not_replaceable(&self.target).map_or(Ok(()), |why| Err(io::Error::other(why)))
    }

    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    pub(super) fn read(&self) -> Result<String> {
        self.seen.set(stamp_of(&self.target));
        read(&self.target)
    }

    pub(super) fn exists(&self) -> bool {
        self.target.exists()
    }

    /// Replaces the file's content by `text`. After an error the file is unchanged.
    pub(super) fn replace(&self, text: &str) -> Result<()> {
        self.make(text.as_bytes())
            .and_then(|reserved| self.put(&reserved, text))
            .map_err(|cause| Error::file("write", &self.target, &cause))
    }

    /// Reserves space for a text of this many bytes.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reserved> {
        self.make(&vec![b' '; bytes])
            .map_err(|cause| Error::file("create a temporary file beside", &self.target, &cause))
    }

    /// Replaces the file's content by `text`, using the reserved space. After an error the file is
    /// unchanged.
    pub(super) fn replace_in(&self, reserved: Reserved, text: &str) -> Result<()> {
        if !is_same_file(&reserved.file, &reserved.path) {
            // Somebody has deleted it.
            return self.replace(text);
        }
        let written = fault::step(Step::Write, &reserved.path)
            .and_then(|()| reserved.file.write_all_at(text.as_bytes(), 0))
            .and_then(|()| reserved.file.set_len(text.len() as u64))
            .and_then(|()| sync(&reserved))
            .and_then(|()| self.put(&reserved, text));
        written.map_err(|cause| Error::file("write", &self.target, &cause))
    }

    /// Creates a temporary file with these bytes, on disk.
    fn make(&self, bytes: &[u8]) -> io::Result<Reserved> {
        let path = temporary_of(&self.target);
        fault::step(Step::Open, &path)?;
        let file = private().read(true).create_new(true).open(&path)?;
        let reserved = Reserved { path, file };
        // The lock distinguishes it from the leftover of a killed writer. Without support for
        // locks, the process number does.
        let _ = flock(&reserved.file, FlockOperation::NonBlockingLockExclusive);
        if let Ok(old) = fs::metadata(&self.target) {
            keep_mode(&reserved.file, &old)?;
            keep_owner(&reserved.file, &old)?;
        }
        fault::step(Step::Write, &reserved.path)?;
        reserved.file.write_all_at(bytes, 0)?;
        sync(&reserved)?;
        Ok(reserved)
    }

    fn put(&self, reserved: &Reserved, text: &str) -> io::Result<()> {
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("it would be larger than 16 MiB, which cannot be read"));
        }
        let directory = File::open(directory_of(&self.target))?;
        if !self.lock.is_in_place() {
            return Err(io::Error::other("another program deleted its lock; try again"));
        }
        if self.seen.get().is_some_and(|seen| stamp_of(&self.target) != Some(seen)) {
            return Err(io::Error::other("another program changed it at the same time; try again"));
        }
        fault::step(Step::Rename, &self.target)?;
        fs::rename(&reserved.path, &self.target)?;
        self.seen.set(stamp_of(&self.target));
        // The file has been replaced already. Some file systems cannot sync a directory; reporting
        // a failed write would be wrong, because the caller would assume the old content.
        if fault::step(Step::SyncDirectory, &self.target).is_ok() {
            let _ = directory.sync_all();
        }
        Ok(())
    }

    /// Writes `text` to a file with the same name plus `suffix`. An existing one is kept.
    pub(super) fn copy_beside(&self, suffix: &str, text: &str) -> io::Result<()> {
        let path = beside(&self.target, "", suffix);
        fault::step(Step::Open, &path)?;
        let file = private().create_new(true).open(&path)?;
        let copied = fault::step(Step::Write, &path)
            .and_then(|()| file.write_all_at(text.as_bytes(), 0))
            .and_then(|()| file.sync_all());
        if copied.is_err() {
            // A part must not be mistaken for the whole.
            let _ = fs::remove_file(&path);
        }
        copied
    }

    /// Deletes the file and its lock file.
    pub(super) fn remove(self) -> Result<()> {
        fault::step(Step::Remove, &self.target)
            .and_then(|()| fs::remove_file(&self.target))
            .map_err(|cause| Error::file("remove", &self.target, &cause))?;
        self.lock.remove();
        Ok(())
    }

    /// Leftovers of killed writers with their content. Delete them with [`FileLock::clear`].
    pub(super) fn leftovers(&self) -> Vec<Leftover> {
        let found = temporaries_of(&self.target).into_iter();
        found.filter_map(|(path, pid)| Leftover::of(path, pid)).collect()
    }

    /// Deletes the token locks of killed processes. Held ones stay, and those with a note stay for
    /// a day.
    pub(super) fn clear_token_locks(&self) {
        let Ok(entries) = fs::read_dir(directory_of(&self.target)) else {
            return;
        };
        let prefix = beside(&self.target, ".", ".");
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.as_os_str().as_encoded_bytes();
            let rest = name.strip_prefix(prefix.as_os_str().as_encoded_bytes());
            if rest.is_some_and(|rest| rest.ends_with(b".lock"))
                && let Ok(Some(lock)) = SiblingLock::try_take(&path)
                && lock.is_locked()
                && (lock.noted().is_empty() || lock.is_old())
            {
                lock.remove();
            }
        }
    }

    /// Deletes leftovers.
    pub(super) fn clear(&self, leftovers: Vec<Leftover>) {
        for leftover in leftovers {
            if fault::step(Step::Remove, &leftover.path).is_ok() {
                let _ = fs::remove_file(&leftover.path);
            }
        }
    }
}

/// The temporary file of a dead writer.
#[derive(Debug)]
pub(super) struct Leftover {
    path: PathBuf,
    pub(super) text: String,
    /// Locked, so that nobody else reads it at the same time.
    _lock: File,
}

impl Leftover {
    /// `None` if its writer is alive.
    fn of(path: PathBuf, pid: i32) -> Option<Leftover> {
        let mut file = OpenOptions::new().read(true).custom_flags(nofollow()).open(&path).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) if !is_alive(pid) => {}
            Err(_) => return None,
        }
        let mut bytes = Vec::new();
        (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(Leftover { path, text: String::from_utf8(bytes).unwrap_or_default(), _lock: file })
    }
}

fn is_alive(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
}

fn sync(reserved: &Reserved) -> io::Result<()> {
    fault::step(Step::Sync, &reserved.path)?;
    reserved.file.sync_all()
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        (Ok(_) | Err(_), _) => false,
    }
}

/// Reads a file; an error says what is wrong with it.
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

/// Options for a file that nobody else may read, from its creation on.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(nofollow());
    options
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

/// The file to which `path` leads through symbolic links, whether it exists or not.
pub(super) fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&target) {
            // A relative link is resolved against its own directory.
            Ok(link) => target = directory_of(&target).join(link),
            // Not a link, or missing.
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        Some(_) | None => Path::new("."),
    }
}

/// `<directory>/<before><name><after>`.
pub(super) fn beside(path: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(after);
    directory_of(path).join(name)
}

/// The lock file for exchanging one refresh token of the config.
pub(super) fn token_lock_of(target: &Path, digest: &str) -> PathBuf {
    beside(target, ".", &format!(".{digest}.lock"))
}

/// Whether a writer of the file at `path` is running, or has left something behind.
pub(super) fn has_temporaries(path: &Path) -> bool {
    target_of(path).is_ok_and(|target| !temporaries_of(&target).is_empty())
}

/// The temporary files of writers of `target`, with their process numbers.
fn temporaries_of(target: &Path) -> Vec<(PathBuf, i32)> {
    let Ok(entries) = fs::read_dir(directory_of(target)) else {
        return Vec::new();
    };
    let prefix = beside(target, ".", ".");
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.as_os_str().as_encoded_bytes();
        let rest = name.strip_prefix(prefix.as_os_str().as_encoded_bytes());
        if let Some(pid) = rest.and_then(writer_of)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            found.push((path, pid));
        }
    }
    found
}

/// A name that no other write of this or another process uses.
fn temporary_of(target: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    beside(target, ".", &format!(".{}.{count}.tmp", std::process::id()))
}

/// The process number in `<process>.<count>.tmp`.
fn writer_of(suffix: &[u8]) -> Option<i32> {
    let (process, rest) = std::str::from_utf8(suffix).ok()?.split_once('.')?;
    let count = rest.strip_suffix(".tmp")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(process) && is_number(count)).then(|| process.parse().unwrap_or(i32::MAX))
}

/// Keeps a mode stricter than 0600.
fn keep_mode(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let strict = old.mode() & 0o600;
    if strict == 0o600 {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(strict))
}

/// A command that root runs on a user's config must not change the owner of the file. Only root can
/// change owners, so a failure means that there was nothing to restore.
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
            assert_eq!(writer_of(suffix.as_bytes()).is_some(), is_ours, "{suffix}");
        }
    }
}
