//! What was learned and should outlive the process (SPEC A6): quota windows and totals. No credentials.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The state file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct State {
    /// When it was written, in ms since the epoch.
    pub(crate) saved_at: i64,
    /// One entry an account.
    pub(crate) accounts: Vec<AccountState>,
}

/// What is known of one account. Restored to the account with the same identity (SPEC A4).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AccountState {
    /// The account's name.
    pub(crate) name: String,
    /// `accountUuid`.
    pub(crate) account_uuid: Option<String>,
    /// `orgUuid`.
    pub(crate) org_uuid: Option<String>,
    /// Quota windows.
    pub(crate) windows: Vec<WindowState>,
    /// Sums over the account's life.
    pub(crate) totals: Totals,
}

/// One quota window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WindowState {
    /// `five_hour`, `seven_day`, `seven_day_<family>`, `tokens`, `requests` or `generic`.
    pub(crate) window: String,
    /// Used share as it was sent.
    pub(crate) utilisation: Option<f64>,
    /// The window's size.
    pub(crate) limit: Option<u64>,
    /// What was left of it.
    pub(crate) remaining: Option<u64>,
    /// When it starts anew, in ms since the epoch.
    pub(crate) reset: Option<i64>,
    /// When this was learned, in ms since the epoch.
    pub(crate) learned_at: i64,
    /// Whether the API refused for this window.
    pub(crate) rejected: bool,
}

/// Sums over an account's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Totals {
    /// Requests that were sent.
    pub(crate) requests: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// Input tokens.
    pub(crate) input_tokens: u64,
    /// Output tokens.
    pub(crate) output_tokens: u64,
    /// Tokens read from the prompt cache.
    pub(crate) cache_read_tokens: u64,
    /// Tokens written to the prompt cache.
    pub(crate) cache_write_tokens: u64,
    /// The last request, in ms since the epoch.
    pub(crate) last_used: Option<i64>,
}

/// Where the state of a config is: `maxpool.json` → `maxpool.state.json`.
pub(crate) fn path(config: &Path) -> PathBuf {
    config.with_extension("state.json")
}

/// Reads the state. The text is a notice, if there is one: a missing or corrupt file gives an empty state.
pub(crate) fn load(_path: &Path, _now: crate::scheduler::time::Wall) -> (State, Option<String>) {
    (State::default(), None)
}

/// Writes the state, whole or not at all.
pub(crate) fn save(_path: &Path, _state: &State) -> Result<()> {
    Err(Error::ours("not written yet"))
}
