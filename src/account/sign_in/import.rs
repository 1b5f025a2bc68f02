//! Imports the login of Claude Code (SPEC T3): from its file, from a text, or from the macOS
//! Keychain.
//!
//! The tokens are copied; the source is never written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::enrol::{self, Newcomer};
use super::login::{Desk, read_profile, told};
use super::loopback::say;
use crate::account::oauth::sha256;
use crate::account::sources::{tokens_of_file, tokens_of_text};
use crate::config::Tokens;
use crate::error::{Error, Result};

/// The source of the tokens.
pub(crate) enum ImportSource<'a> {
    /// `--from PATH`.
    File(&'a Path),
    /// `--json TEXT`.
    Text(&'a str),
    /// Claude Code's own storage: the Keychain on macOS, else its file.
    ClaudeCode(&'a ClaudeCode),
}

/// Where Claude Code keeps its login (SPEC T3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaudeCode {
    directory: PathBuf,
    keychain_item: String,
}

impl ClaudeCode {
    /// From the environment; `None` without a home directory.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<OsString>) -> Option<ClaudeCode> {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(directory) = path("CLAUDE_CONFIG_DIR") {
            // Claude Code distinguishes its installations by the digest of that path.
            let digest = sha256(directory.as_os_str().as_encoded_bytes());
            let tag: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
            return Some(ClaudeCode { directory, keychain_item: format!("{KEYCHAIN_ITEM}-{tag}") });
        }
        let directory = path("HOME")?.join(".claude");
        Some(ClaudeCode { directory, keychain_item: KEYCHAIN_ITEM.to_owned() })
    }

    /// Its login. An error says what to do.
    fn tokens(&self) -> std::result::Result<Tokens, String> {
        if cfg!(target_os = "macos")
            && let Some(text) = self.in_keychain()
        {
            return tokens_of_text(&text).map_err(|why| {
                format!("cannot use the Keychain item {:?}: {why}", self.keychain_item)
            });
        }
        let hint = |why| format!("{why}; sign in with Claude Code first, or give --from PATH");
        tokens_of_file(&self.directory.join(".credentials.json")).map_err(hint)
    }

    /// macOS asks the user before it releases the item.
    fn in_keychain(&self) -> Option<String> {
        let mut command = Command::new("/usr/bin/security");
        command
            .args(["find-generic-password", "-s", &self.keychain_item, "-w"])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    }

    /// Whether Claude Code is signed in, as far as that is known without prompting for the
    /// Keychain.
    pub(crate) fn is_signed_in(&self) -> bool {
        let has = |path: &Path, key: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let document: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            document.is_some_and(|it| it.get(key).is_some_and(|it| !it.is_null()))
        };
        let beside = self.directory.with_extension("json");
        tokens_of_file(&self.directory.join(".credentials.json")).is_ok()
            || has(&beside, "oauthAccount")
            || has(&self.directory.join(".claude.json"), "oauthAccount")
            || has(&self.directory.join("settings.json"), "apiKeyHelper")
    }
}

/// Copies the tokens into the config (SPEC T3). Returns a line that says what was done.
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
        ImportSource::ClaudeCode(claude) => claude.tokens(),
    };
    let tokens = tokens.map_err(Error::operator)?;
    let profile = read_profile(desk, tokens.access.as_ref())?;
    let newcomer = Newcomer { name, profile: &profile, tokens: &tokens, source: "import" };
    let put = enrol::store_oauth(desk.config, &newcomer)?;
    let line = told(&put)?;
    say(desk.out, WARNING)?;
    Ok(line)
}

const KEYCHAIN_ITEM: &str = "Claude Code-credentials";
const WARNING: &str = "\
Note: Claude Code keeps rotating this token, so sooner or later one of the two
loses it; \"maxpool login\" gives maxpool a separate login.";

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
