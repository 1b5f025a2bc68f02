//! Taking over the login of Claude Code (SPEC T3): its file, a text, or the Keychain item of macOS.
//!
//! The tokens are copied; the source is never written.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::enrol::{self, Newcomer};
use super::login::{Desk, read_profile, told};
use super::loopback::say;
use crate::account::oauth::is_sendable;
use crate::account::token::Tokens;
use crate::config::{ImportFrom, Secret};
use crate::error::{Error, Result};
use crate::scheduler::time::Wall;

/// Where the tokens come from.
pub(crate) enum ImportSource<'a> {
    /// `--from PATH`.
    File(&'a Path),
    /// `--json TEXT`.
    Text(&'a str),
    /// Claude Code's own place for this home directory: the Keychain on macOS, else its file.
    ClaudeCode {
        /// `$HOME`.
        home: &'a Path,
    },
}

/// Copies the tokens into the config (SPEC T3). Returns the line that says what was done.
pub(crate) fn import(
    desk: &mut Desk<'_>,
    source: &ImportSource<'_>,
    name: Option<&str>,
) -> Result<String> {
    let tokens = match source {
        ImportSource::File(path) => tokens_of_file(path),
        ImportSource::Text(text) => {
            tokens_of_text(text).map_err(|why| format!("cannot use the text: {why}"))
        }
        ImportSource::ClaudeCode { home } => tokens_of_claude_code(home),
    };
    let tokens = tokens.map_err(Error::operator)?;
    let profile = read_profile(desk, tokens.access.as_ref())?;
    let newcomer = Newcomer { name, profile: &profile, tokens: &tokens, source: "import" };
    let put = enrol::store_oauth(desk.config, &newcomer)?;
    say(desk.out, WARNING)?;
    Ok(told(&put))
}

fn tokens_of_claude_code(home: &Path) -> std::result::Result<Tokens, String> {
    if cfg!(target_os = "macos")
        && let Some(text) = keychain_item()
    {
        return tokens_of_text(&text)
            .map_err(|why| format!("cannot use the Keychain item {KEYCHAIN_ITEM:?}: {why}"));
    }
    let path = home.join(".claude/.credentials.json");
    let hint = |why| format!("{why}; log in with Claude Code first, or give --from PATH");
    tokens_of_file(&path).map_err(hint)
}

/// macOS asks the user before it gives the item out.
fn keychain_item() -> Option<String> {
    let mut command = Command::new("/usr/bin/security");
    command
        .args(["find-generic-password", "-s", KEYCHAIN_ITEM, "-w"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Reads `{"claudeAiOauth": {"accessToken", "refreshToken", "expiresAt"}}` or the same flat.
pub(crate) fn tokens_of_text(text: &str) -> std::result::Result<Tokens, String> {
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
pub(crate) fn tokens_of_file(path: &Path) -> std::result::Result<Tokens, String> {
    let text = read_small(path).map_err(|cause| {
        format!("cannot read {}: {}", path.display(), crate::error::reason(&cause))
    })?;
    tokens_of_text(&text).map_err(|why| format!("cannot use {}: {why}", path.display()))
}

/// The file that an `importFrom` names; `None` if it is not a file, or the home directory is not known.
pub(crate) fn source_of(from: &ImportFrom, home: Option<&Path>) -> Option<PathBuf> {
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
const KEYCHAIN_ITEM: &str = "Claude Code-credentials";
const WARNING: &str = "Note: Claude Code keeps rotating this token, so one of the two will lose it sooner or later; `maxpool login` gives maxpool a login of its own.";

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
