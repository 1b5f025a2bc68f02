//! Taking over the login of Claude Code (SPEC T3): its file, a text, or the Keychain item of macOS.
//!
//! The tokens are copied; the source is never written.

use std::path::Path;
use std::process::{Command, Stdio};

use super::enrol::{self, Newcomer};
use super::login::{Desk, read_profile, told};
use super::loopback::say;
use crate::account::sources::{tokens_of_file, tokens_of_text};
use crate::config::Tokens;
use crate::error::{Error, Result};

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
    let line = told(&put)?;
    say(desk.out, WARNING)?;
    Ok(line)
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

const KEYCHAIN_ITEM: &str = "Claude Code-credentials";
const WARNING: &str = "Note: Claude Code keeps rotating this token, so one of the two will lose it sooner or later; `maxpool login` gives maxpool a login of its own.";

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
