//! Tokens outside the config: the files of `importFrom` and `maxpool import` (SPEC T3). Sources are
//! read, never written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::oauth::is_sendable;
use crate::config::custody::Digest;
use crate::config::{AccountEntry, Credential, ImportFrom, Secret, Tokens};
use crate::error;
use crate::scheduler::time::Wall;

/// Parses `{"claudeAiOauth": {"accessToken", "refreshToken", "expiresAt"}}`, or the same without
/// the outer object.
pub(crate) fn tokens_of_text(text: &str) -> Result<Tokens, String> {
    let document: Value =
        serde_json::from_str(text).map_err(|error| format!("not JSON (line {})", error.line()))?;
    let Some(entry) = document.get("claudeAiOauth").unwrap_or(&document).as_object() else {
        return Err("it contains no claudeAiOauth object".to_owned());
    };
    let token = |name: &str| match entry.get(name).and_then(Value::as_str) {
        None | Some("") => Ok(None),
        // A refresh token is sent in JSON, which can carry any text.
        Some(text) if name == REFRESH || is_sendable(text) => Ok(Some(Secret::new(text))),
        Some(_) => Err(format!("{name} contains characters that no token contains")),
    };
    let (access, refresh) = (token("accessToken")?, token(REFRESH)?);
    if access.is_none() && refresh.is_none() {
        return Err("it contains neither accessToken nor refreshToken".to_owned());
    }
    let expires_at = entry.get("expiresAt").and_then(Value::as_f64);
    let expires_at = expires_at.filter(|at| at.is_finite() && (0.0..1e15).contains(at));
    Ok(Tokens {
        access,
        refresh,
        // Below 1e12 it is in seconds (SPEC A3).
        expires_at: expires_at
            .map(|at| Wall(if at < 1e12 { (at * 1000.0) as i64 } else { at as i64 })),
    })
}

/// The same from a file; an error names the file and the reason.
pub(crate) fn tokens_of_file(path: &Path) -> Result<Tokens, String> {
    let text = read_small(path)
        .map_err(|cause| format!("cannot read {}: {}", path.display(), error::reason(&cause)))?;
    tokens_of_text(&text).map_err(|why| format!("cannot use {}: {why}", path.display()))
}

/// The file of an `importFrom`; `None` if it is not a file, or the home directory is unknown.
pub(super) fn path_of(from: &ImportFrom, home: Option<&Path>) -> Option<PathBuf> {
    match from {
        ImportFrom::Path(path) => match path.strip_prefix("~") {
            Ok(rest) => Some(home?.join(rest)),
            Err(_) => Some(path.clone()),
        },
        ImportFrom::Other => None,
    }
}

/// Why the source of an account cannot be used, in words for the user; `None` if it can be used, or
/// if there is no source.
///
/// A source that does not respond is waited for only once, for all accounts together.
pub(crate) fn problem_of(
    sources: &Sources,
    account: &AccountEntry,
    home: Option<&Path>,
) -> Option<String> {
    let Credential::Oauth(oauth) = &account.credential else {
        return None;
    };
    let why = match path_of(oauth.import_from.as_ref()?, home) {
        Some(path) => sources.read(&path, LIMITS).err()?,
        None => "it does not name a file".to_owned(),
    };
    Some(unusable(&why))
}

/// The message about a source that cannot be used.
pub(super) fn unusable(why: &str) -> String {
    format!("importFrom cannot be used: {why}; sign in there, or run: maxpool login")
}

/// Opens without waiting for a writer, and reads only regular files: reading a FIFO would never
/// end.
fn read_small(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    file.take(SOURCE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The known sources. A file on a dead network mount blocks every thread that touches it, so each
/// read has its own thread, and there is only one for each path at a time.
#[derive(Default)]
pub(crate) struct Sources(Mutex<BTreeMap<PathBuf, Arc<Mutex<Source>>>>);

#[derive(Default)]
struct Source {
    /// A read that was given up.
    stalled: Option<Receiver<Result<Tokens, String>>>,
    /// The refresh token at the last read.
    held: Option<Digest>,
}

/// Time limits for reading a source.
#[derive(Clone, Copy)]
pub(super) struct SourceLimits {
    /// For a source that may respond.
    pub(super) first: Duration,
    /// For a source that did not respond last time.
    pub(super) stalled: Duration,
}

impl Sources {
    /// The refresh token in the file when it was last read.
    pub(super) fn held(&self, path: &Path) -> Option<Digest> {
        let source = self.of(path);
        let source = source.lock().unwrap_or_else(PoisonError::into_inner);
        source.held.clone()
    }

    /// Reads the file as it is now, or says why it cannot be read, within `limits`.
    pub(super) fn read(&self, path: &Path, limits: SourceLimits) -> Result<Tokens, String> {
        let source = self.of(path);
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        let no_answer = || format!("{} does not answer", path.display());
        if let Some(earlier) = source.stalled.take() {
            // The earlier read may have returned old content.
            if let Err(RecvTimeoutError::Timeout) = earlier.recv_timeout(limits.stalled) {
                source.stalled = Some(earlier);
                return Err(no_answer());
            }
        }
        let reading = begin(path)?;
        match reading.recv_timeout(limits.first) {
            Ok(read) => {
                if let Ok(tokens) = &read {
                    source.held = tokens.refresh.as_ref().map(Digest::of);
                }
                read
            }
            Err(RecvTimeoutError::Timeout) => {
                source.stalled = Some(reading);
                Err(no_answer())
            }
            Err(RecvTimeoutError::Disconnected) => Err(format!("cannot read {}", path.display())),
        }
    }

    /// One lock per path, so that a stalled source holds up no other.
    fn of(&self, path: &Path) -> Arc<Mutex<Source>> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sources.entry(path.to_owned()).or_default())
    }
}

fn begin(path: &Path) -> Result<Receiver<Result<Tokens, String>>, String> {
    let (told, reading) = std::sync::mpsc::channel();
    let owned = path.to_owned();
    let thread = std::thread::Builder::new().name("source".to_owned()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || {
        // The receiver may be gone.
        let _ = told.send(tokens_of_file(&owned));
    });
    match started {
        Ok(_) => Ok(reading),
        Err(cause) => Err(format!("cannot read {}: {}", path.display(), error::reason(&cause))),
    }
}

/// A person waits for it.
const LIMITS: SourceLimits =
    SourceLimits { first: Duration::from_secs(2), stalled: Duration::ZERO };
const REFRESH: &str = "refreshToken";
/// Claude Code's file holds a few hundred bytes, and the tokens of its MCP servers.
const SOURCE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// For reading and parsing a small file.
const STACK_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn t3_a_read_that_came_late_is_not_taken_for_what_is_there_now() {
        let directory = std::env::temp_dir().join(format!("sources-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("credentials.json");
        let write = |token: &str| {
            let text = format!(r#"{{"accessToken":"a-{token}","refreshToken":"r-{token}"}}"#);
            std::fs::write(&path, text).unwrap();
        };
        write("old");
        let sources = Sources::default();
        let limit = Duration::from_secs(10);
        let late = tokens_of_file(&path);
        let (told, reading) = std::sync::mpsc::channel();
        sources.of(&path).lock().unwrap().stalled = Some(reading);
        let impatient = SourceLimits { first: limit, stalled: Duration::ZERO };
        assert!(sources.read(&path, impatient).is_err(), "it has not answered yet");
        told.send(late).unwrap();
        write("new");
        let read = sources.read(&path, SourceLimits { first: limit, stalled: limit }).unwrap();
        assert_eq!(read.refresh.unwrap().expose(), "r-new");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn sources_may_begin_at_home() {
        let from = |path: &str| ImportFrom::Path(PathBuf::from(path));
        let home = Path::new("/h");
        for (from, home, expected) in [
            (from("~/a/b"), Some(home), Some("/h/a/b")),
            (from("~/a/b"), None, None),
            (from("/a/b"), None, Some("/a/b")),
            (from("~x/b"), Some(home), Some("~x/b")),
            (ImportFrom::Other, Some(home), None),
        ] {
            assert_eq!(path_of(&from, home), expected.map(PathBuf::from));
        }
    }
}
