//! Replaces a file as a whole or not at all, under an advisory lock (SPEC A5).
//!
//! Writers of one file exclude each other by a lock on a sibling file, `<name>.lock`. After locking
//! it, a writer checks that the path still names that file: a lock on a deleted file excludes
//! nobody. Readers need no lock, since a rename shows them either the old file or the new one.
//!
//! The place for a later write can be reserved ([`FileLock::reserve`]): a temporary file of the
//! needed size, on the disk, with its own lock, so that nobody mistakes it for what a killed writer
//! has left behind.

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

/// Files larger than this are not ours.
pub(super) const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Nobody holds the lock of a file longer than a slow disk needs for a write.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(15);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Longer than any note.
const NOTE_BYTES_MAX: usize = 64;
/// A refresh token whose fate nobody has learned in this time has run out or was replaced.
const NOTE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// As many links as Linux follows.
const LINKS_MAX: usize = 40;

/// The right to replace one file, for as long as this value lives.
#[derive(Debug)]
pub(super) struct FileLock {
    target: PathBuf,
    lock: SiblingLock,
    /// The file as it was read: what others, who take no lock, write after that is not overwritten.
    seen: Cell<Option<Stamp>>,
}

/// What tells one content of a file from another.
type Stamp = (u64, u64, i64, i64);

/// A locked file beside another. Closing it gives the lock back.
#[derive(Debug)]
pub(crate) struct SiblingLock {
    path: PathBuf,
    file: File,
    /// False where the file system knows no locks.
    is_locked: bool,
}

impl SiblingLock {
    /// Waits for the lock of the file at `path`, which is made if it is missing.
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
        // It may have been deleted, and made anew by somebody, between the two calls above.
        Ok(lock.is_in_place().then_some(lock))
    }

    /// Whether the path still names the file that is locked.
    fn is_in_place(&self) -> bool {
        is_same_file(&self.file, &self.path)
    }

    fn is_old(&self) -> bool {
        let written = self.file.metadata().map(|found| Wall(found.mtime().saturating_mul(1000)));
        written.is_ok_and(|at| at.until(clock::wall()) > NOTE_KEPT)
    }

    /// Gives the lock back and takes its file away: nobody shall wait for it any more.
    pub(crate) fn remove(self) {
        if self.is_in_place() && fault::step(Step::Remove, &self.path).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// What its holders have noted in its file; empty if nothing was, or if it cannot be read.
    pub(crate) fn noted(&self) -> String {
        let mut bytes = [0; NOTE_BYTES_MAX];
        let length = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Notes something for whoever takes the lock next.
    pub(crate) fn note(&self, text: &str) -> io::Result<()> {
        fault::step(Step::Write, &self.path)?;
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Whether the lock excludes anybody.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked
    }
}

/// The place of a text that will come: a temporary file of its size, on the disk.
#[derive(Debug)]
pub(crate) struct Reserved {
    path: PathBuf,
    file: File,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // After the rename the path names nothing, or the file of somebody else.
        if is_same_file(&self.file, &self.path) && fault::step(Step::Remove, &self.path).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl FileLock {
    /// Waits for the lock of the file that `path` leads to.
    pub(super) fn take(path: &Path) -> Result<FileLock> {
        FileLock::take_within(path, LOCK_WAIT)
    }

    /// The same with a bound of its own.
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

    /// Puts `text` in place of the file. After an error the file is as it was.
    pub(super) fn replace(&self, text: &str) -> Result<()> {
        self.make(text.as_bytes())
            .and_then(|reserved| self.put(&reserved, text))
            .map_err(|cause| Error::file("write", &self.target, &cause))
    }

    /// Makes the place for a text of this many bytes.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reserved> {
        self.make(&vec![b' '; bytes])
            .map_err(|cause| Error::file("create a temporary file beside", &self.target, &cause))
    }

    /// Puts `text` in place of the file, in the place that was made for it. After an error the
    /// file is as it was.
    pub(super) fn replace_in(&self, reserved: Reserved, text: &str) -> Result<()> {
        if !is_same_file(&reserved.file, &reserved.path) {
            // Somebody has cleared it away.
            return self.replace(text);
        }
        let written = fault::step(Step::Write, &reserved.path)
            .and_then(|()| reserved.file.write_all_at(text.as_bytes(), 0))
            .and_then(|()| reserved.file.set_len(text.len() as u64))
            .and_then(|()| sync(&reserved))
            .and_then(|()| self.put(&reserved, text));
        written.map_err(|cause| Error::file("write", &self.target, &cause))
    }

    /// A temporary file with these bytes, on the disk.
    fn make(&self, bytes: &[u8]) -> io::Result<Reserved> {
        let path = temporary_of(&self.target);
        fault::step(Step::Open, &path)?;
        let file = private().read(true).create_new(true).open(&path)?;
        let reserved = Reserved { path, file };
        // Tells a place that is in use from what a killed writer has left behind. Where there are
        // no locks the number of the process does.
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
        // The file is replaced by now. Some file systems cannot sync a directory, and to call that
        // a failed write would be wrong: the caller would go on as if the old content were
        // there.
        if fault::step(Step::SyncDirectory, &self.target).is_ok() {
            let _ = directory.sync_all();
        }
        Ok(())
    }

    /// Writes `text` into a file beside, whose name is that of this one and `suffix`. One that is
    /// there stays as it is.
    pub(super) fn copy_beside(&self, suffix: &str, text: &str) -> io::Result<()> {
        let path = beside(&self.target, "", suffix);
        fault::step(Step::Open, &path)?;
        let file = private().create_new(true).open(&path)?;
        let copied = fault::step(Step::Write, &path)
            .and_then(|()| file.write_all_at(text.as_bytes(), 0))
            .and_then(|()| file.sync_all());
        if copied.is_err() {
            // A part of it would be taken for the whole.
            let _ = fs::remove_file(&path);
        }
        copied
    }

    /// Removes the file, and the lock's file with it.
    pub(super) fn remove(self) -> Result<()> {
        fault::step(Step::Remove, &self.target)
            .and_then(|()| fs::remove_file(&self.target))
            .map_err(|cause| Error::file("remove", &self.target, &cause))?;
        self.lock.remove();
        Ok(())
    }

    /// What killed writers have left behind: their files and what those hold. To be cleared away
    /// with [`FileLock::clear`].
    pub(super) fn leftovers(&self) -> Vec<Leftover> {
        let found = temporaries_of(&self.target).into_iter();
        found.filter_map(|(path, pid)| Leftover::of(path, pid)).collect()
    }

    /// Removes the locks of tokens whose holders were killed. One that is held stays, and so does
    /// for a day one in which something is noted.
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

    /// Removes leftovers.
    pub(super) fn clear(&self, leftovers: Vec<Leftover>) {
        for leftover in leftovers {
            if fault::step(Step::Remove, &leftover.path).is_ok() {
                let _ = fs::remove_file(&leftover.path);
            }
        }
    }
}

/// The file of a writer that is no more.
#[derive(Debug)]
pub(super) struct Leftover {
    path: PathBuf,
    pub(super) text: String,
    /// Held, so that nobody else reads it at the same time.
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
    options.write(true).mode(0o600).custom_flags(nofollow());
    options
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

/// The file that `path` leads to, through symbolic links, whether it exists or not.
pub(super) fn target_of(path: &Path) -> io::Result<PathBuf> {
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

/// The lock for the exchange of one refresh token of the config.
pub(super) fn token_lock_of(target: &Path, digest: &str) -> PathBuf {
    beside(target, ".", &format!(".{digest}.lock"))
}

/// Whether a writer of the file that `path` leads to is at work, or has left something behind.
pub(super) fn has_temporaries(path: &Path) -> bool {
    target_of(path).is_ok_and(|target| !temporaries_of(&target).is_empty())
}

/// The temporary files of writers of `target`, and their processes.
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

/// A name that no other write of this process and no other process uses.
fn temporary_of(target: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    beside(target, ".", &format!(".{}.{count}.tmp", std::process::id()))
}

/// The process of `<process>.<count>.tmp`.
fn writer_of(suffix: &[u8]) -> Option<i32> {
    let (process, rest) = std::str::from_utf8(suffix).ok()?.split_once('.')?;
    let count = rest.strip_suffix(".tmp")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(process) && is_number(count)).then(|| process.parse().unwrap_or(i32::MAX))
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
            assert_eq!(writer_of(suffix.as_bytes()).is_some(), is_ours, "{suffix}");
        }
    }
}
