//! Tokens that live outside the config: the files that `importFrom` and `maxpool import` name
//! (SPEC T3). Sources are read, never written.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::oauth::is_sendable;
use crate::config::{ImportFrom, Secret, Tokens};
use crate::error;
use crate::scheduler::time::Wall;

/// Reads `{"claudeAiOauth": {"accessToken", "refreshToken", "expiresAt"}}` or the same flat.
pub(crate) fn tokens_of_text(text: &str) -> Result<Tokens, String> {
    let document: Value =
        serde_json::from_str(text).map_err(|error| format!("no JSON (line {})", error.line()))?;
    let Some(entry) = document.get("claudeAiOauth").unwrap_or(&document).as_object() else {
        return Err("no object claudeAiOauth in it".to_owned());
    };
    let token = |name: &str| match entry.get(name).and_then(Value::as_str) {
        None | Some("") => Ok(None),
        Some(text) if is_sendable(text) => Ok(Some(Secret::new(text))),
        Some(_) => Err(format!("{name} holds characters that no token has")),
    };
    let (access, refresh) = (token("accessToken")?, token("refreshToken")?);
    if access.is_none() && refresh.is_none() {
        return Err("neither accessToken nor refreshToken in it".to_owned());
    }
    let expires_at = entry.get("expiresAt").and_then(Value::as_f64);
    let expires_at = expires_at.filter(|at| at.is_finite() && (0.0..1e15).contains(at));
    Ok(Tokens {
        access,
        refresh,
        // Below 1e12 it is seconds (SPEC A3).
        expires_at: expires_at
            .map(|at| Wall(if at < 1e12 { (at * 1000.0) as i64 } else { at as i64 })),
    })
}

/// The same from a file; an error says which and why.
pub(crate) fn tokens_of_file(path: &Path) -> Result<Tokens, String> {
    let text = read_small(path)
        .map_err(|cause| format!("cannot read {}: {}", path.display(), error::reason(&cause)))?;
    tokens_of_text(&text).map_err(|why| format!("cannot use {}: {why}", path.display()))
}

/// The file that an `importFrom` names; `None` if it is not a file, or the home directory is not known.
pub(super) fn path_of(from: &ImportFrom, home: Option<&Path>) -> Option<PathBuf> {
    match from {
        ImportFrom::Path(path) => match path.strip_prefix("~") {
            Ok(rest) => Some(home?.join(rest)),
            Err(_) => Some(path.clone()),
        },
        ImportFrom::Other => None,
    }
}

fn read_small(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SOURCE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Claude Code's file has a few hundred bytes, and the tokens of its MCP servers.
const SOURCE_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

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
