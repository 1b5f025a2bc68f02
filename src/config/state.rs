//! What was learned and should outlive the process (SPEC A6): quota windows and totals. No
//! credentials.
//!
//! The types of the file are separate from the scheduler's, so that neither changes with the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::atomic::{self, FileLock};
use super::custody::Digest;
use super::days::{self, DayUse};
use super::identity::Identity;
use super::quota_state::{RejectionState, WindowState, verdict_of, word_of_verdict};
use crate::error::{Error, Result};
use crate::http::document;
use crate::scheduler::Usage;
use crate::scheduler::time::Wall;
use crate::scheduler::{
    AccountId, KnownSession, KnownThread, Learned, SessionKey, ThreadKey, UsageTotals,
};

/// The state file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct State {
    /// When it was written, in ms since the epoch.
    pub(crate) saved_at: i64,
    /// Used-up refresh tokens, see [`noted`](super::noted); every writer keeps what is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) spent: Vec<String>,
    /// One entry per account.
    pub(crate) accounts: Vec<AccountState>,
    /// Message batches, latest first.
    pub(crate) batches: Vec<BatchState>,
    /// Sessions, latest first; only for a hand-over between processes.
    pub(crate) sessions: Vec<SessionState>,
    /// Threads, in the same way.
    pub(crate) threads: Vec<ThreadState>,
}

/// The account that created a message batch. An account is identified by its position in the list
/// of accounts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct BatchState {
    pub(crate) id: String,
    pub(crate) account: usize,
}

/// The accounts of a session. The key is hexadecimal, since JSON has no integers of that size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SessionState {
    pub(crate) key: String,
    pub(crate) home: Option<usize>,
    pub(crate) current: Option<usize>,
    pub(crate) idle_ms: u64,
    pub(crate) thinking: bool,
}

/// The account of a thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ThreadState {
    pub(crate) key: String,
    pub(crate) account: usize,
    pub(crate) idle_ms: u64,
}

/// The facts about one account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct AccountState {
    pub(crate) name: String,
    pub(crate) account_uuid: Option<String>,
    pub(crate) org_uuid: Option<String>,
    pub(crate) windows: Vec<WindowState>,
    /// The last `unified-status`: `allowed`, `allowed_warning` or `rejected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unified_status: Option<String>,
    /// Until when paid extra usage counts as in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overage_until: Option<i64>,
    /// Rejections still in force.
    pub(crate) rejections: Vec<RejectionState>,
    pub(crate) totals: Totals,
    /// The last days, by model family.
    pub(crate) days: Vec<DayUse>,
    pub(crate) tokens: TokensState,
}

/// Facts about an account's tokens beyond the config, which may have been replaced by an old copy
/// by the next start. Digests only, no tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TokensState {
    /// The used-up refresh tokens.
    pub(crate) spent: Vec<String>,
    /// The refresh token that the token endpoint refused.
    pub(crate) refused: Option<String>,
    /// When a refresh last brought tokens.
    pub(crate) refreshed_at: Option<i64>,
}

/// Totals since the account was added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) cache_read_tokens: u64,
    pub(crate) cache_write_tokens: u64,
    pub(crate) last_used: Option<i64>,
}

impl State {
    /// The facts about the account `who` that are still valid: past windows are dropped, and so is
    /// a utilisation without a reset, which could keep an account out for ever.
    pub(crate) fn of(&self, who: &Identity<'_>, now: Wall) -> Option<Learned> {
        let found = self.accounts.iter().find(|account| account.identity().is_same(who))?;
        let windows = found.windows.iter().filter_map(|window| window.restore(now)).collect();
        let rejections = found.rejections.iter().filter_map(|known| known.restore(now)).collect();
        let totals = &found.totals;
        Some(Learned {
            windows,
            unified_status: found.unified_status.as_deref().and_then(verdict_of),
            overage_until: found.overage_until.map(Wall).filter(|until| *until > now),
            rejections,
            usage: UsageTotals {
                tokens: Usage {
                    input: totals.input_tokens,
                    output: totals.output_tokens,
                    cache_read: totals.cache_read_tokens,
                    cache_write: totals.cache_write_tokens,
                },
                requests: totals.requests,
                last_used: totals.last_used.map(Wall),
            },
        })
    }
}

impl State {
    /// The facts about the tokens of the account `who`.
    pub(crate) fn tokens_of(&self, who: &Identity<'_>) -> Option<&TokensState> {
        let found = self.accounts.iter().find(|account| account.identity().is_same(who))?;
        Some(&found.tokens)
    }

    /// The days of the account `who`.
    pub(crate) fn days_of(&self, who: &Identity<'_>) -> &[DayUse] {
        let found = self.accounts.iter().find(|account| account.identity().is_same(who));
        found.map(|account| account.days.as_slice()).unwrap_or_default()
    }

    /// The current account for each account of the document.
    pub(crate) fn accounts_of(&self, ids: &[(Identity<'_>, AccountId)]) -> Vec<Option<AccountId>> {
        let same = |known: &AccountState| {
            let mut found = ids.iter().filter(|(who, _)| known.identity().is_same(who));
            found.next().map(|(_, id)| *id)
        };
        self.accounts.iter().map(same).collect()
    }

    /// The sessions and threads of accounts that still exist.
    pub(crate) fn known(
        &self,
        accounts: &[Option<AccountId>],
    ) -> (Vec<KnownSession>, Vec<KnownThread>) {
        let account = |place: usize| accounts.get(place).copied().flatten();
        let key = |text: &str| u128::from_str_radix(text, 16).ok();
        let sessions = self.sessions.iter().filter_map(|known| {
            Some(KnownSession {
                session: SessionKey(key(&known.key)?),
                home: known.home.and_then(account),
                current: known.current.and_then(account),
                idle: Duration::from_millis(known.idle_ms),
                thinking: known.thinking,
            })
        });
        let threads = self.threads.iter().filter_map(|known| {
            Some(KnownThread {
                thread: ThreadKey(key(&known.key)?),
                owner: account(known.account)?,
                idle: Duration::from_millis(known.idle_ms),
            })
        });
        (sessions.collect(), threads.collect())
    }

    /// Adds sessions and threads. `accounts` are the ids of the document's accounts, in order.
    pub(crate) fn add_known(
        &mut self,
        accounts: &[AccountId],
        sessions: &[KnownSession],
        threads: &[KnownThread],
    ) {
        let place = |id: AccountId| accounts.iter().position(|known| *known == id);
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.sessions.extend(sessions.iter().map(|known| SessionState {
            key: format!("{:x}", known.session.0),
            home: known.home.and_then(place),
            current: known.current.and_then(place),
            idle_ms: ms(known.idle),
            thinking: known.thinking,
        }));
        self.threads.extend(threads.iter().filter_map(|known| {
            Some(ThreadState {
                key: format!("{:x}", known.thread.0),
                account: place(known.owner)?,
                idle_ms: ms(known.idle),
            })
        }));
    }

    /// The same, with totals counted from `earlier` on.
    pub(crate) fn since(mut self, earlier: &State) -> State {
        for account in &mut self.accounts {
            let before = earlier.accounts.iter();
            let mut before = before.filter(|before| before.identity().is_same(&account.identity()));
            if let Some(before) = before.next() {
                account.totals = account.totals.since(&before.totals);
                account.days = days::since(&account.days, &before.days);
            }
        }
        self
    }
}

impl Totals {
    fn since(&self, earlier: &Totals) -> Totals {
        let less = |now: u64, before: u64| now.saturating_sub(before);
        Totals {
            requests: less(self.requests, earlier.requests),
            input_tokens: less(self.input_tokens, earlier.input_tokens),
            output_tokens: less(self.output_tokens, earlier.output_tokens),
            cache_read_tokens: less(self.cache_read_tokens, earlier.cache_read_tokens),
            cache_write_tokens: less(self.cache_write_tokens, earlier.cache_write_tokens),
            last_used: self.last_used,
        }
    }
}

impl AccountState {
    /// The file's form of `learned`.
    pub(crate) fn new(who: &Identity<'_>, learned: &Learned, days: Vec<DayUse>) -> AccountState {
        let usage = &learned.usage;
        AccountState {
            name: who.name.to_owned(),
            account_uuid: who.account_uuid.map(str::to_owned),
            org_uuid: who.org_uuid.map(str::to_owned),
            windows: learned.windows.iter().map(WindowState::new).collect(),
            unified_status: learned.unified_status.map(|said| word_of_verdict(said).to_owned()),
            overage_until: learned.overage_until.map(|until| until.0),
            rejections: learned.rejections.iter().map(RejectionState::new).collect(),
            totals: Totals {
                requests: usage.requests,
                input_tokens: usage.tokens.input,
                output_tokens: usage.tokens.output,
                cache_read_tokens: usage.tokens.cache_read,
                cache_write_tokens: usage.tokens.cache_write,
                last_used: usage.last_used.map(|at| at.0),
            },
            tokens: TokensState::default(),
            days,
        }
    }

    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            account_uuid: self.account_uuid.as_deref(),
            org_uuid: self.org_uuid.as_deref(),
        }
    }
}

/// The state file of a config: `maxpool.json` → `maxpool.state.json`.
pub(crate) fn path(config: &Path) -> PathBuf {
    match config.extension() {
        Some(extension) if extension == "json" => config.with_extension("state.json"),
        Some(_) | None => {
            let mut name = config.as_os_str().to_owned();
            name.push(".state.json");
            PathBuf::from(name)
        }
    }
}

/// Reads the state. A missing or unreadable file gives an empty state; the returned text reports an
/// unreadable one.
pub(crate) fn load(path: &Path) -> (State, Option<String>) {
    let parsed = atomic::read(path).and_then(|text| {
        document::read(text.as_bytes())
            .map_err(|error| Error::operator(format!("{}: {error}", path.display())))
    });
    match parsed {
        Ok(state) => (state, None),
        // The first start: nothing has been learned yet.
        Err(error) if error.io_kind() == Some(std::io::ErrorKind::NotFound) => {
            (State::default(), None)
        }
        Err(error) => (State::default(), Some(format!("learned quota starts empty: {error}"))),
    }
}

/// Writes the state, completely or not at all.
pub(crate) fn save(path: &Path, state: &State) -> Result<()> {
    let lock = FileLock::take(path)?;
    lock.clear(lock.leftovers());
    let state = State { spent: load(path).0.spent, ..state.clone() };
    let text = serde_json::to_string_pretty(&state);
    let text =
        text.map_err(|error| Error::ours(format!("the state cannot be written as JSON: {error}")))?;
    lock.replace(&(text + "\n"))
}

/// The refresh tokens that a server with this config has seen refused.
pub(crate) fn refused_tokens(config: &Path) -> Vec<Digest> {
    let (known, _) = load(&path(config));
    let refused = known.accounts.iter().filter_map(|account| account.tokens.refused.as_deref());
    refused.filter_map(Digest::read).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::scheduler::quota::{Family, Verdict, WindowKind};
    use crate::scheduler::{KnownRejection, Source, WindowSnapshot};
    use crate::testing::scratch::Scratch;

    fn window(kind: WindowKind, raw: Option<f64>, reset: Option<i64>) -> WindowSnapshot {
        WindowSnapshot {
            kind,
            family: None,
            used: raw.map(|raw| raw.min(1.0)),
            raw,
            limit: Some(10),
            remaining: Some(3),
            reset: reset.map(Wall),
            learned_at: Wall(5),
            source: Source::Answer,
        }
    }

    fn learned(windows: Vec<WindowSnapshot>) -> Learned {
        Learned {
            windows,
            usage: UsageTotals {
                tokens: Usage { input: 1, output: 2, cache_read: 3, cache_write: 4 },
                requests: 5,
                last_used: Some(Wall(6)),
            },
            unified_status: Some(Verdict::AllowedWarning),
            overage_until: Some(Wall(100)),
            rejections: vec![KnownRejection {
                window: Some(WindowKind::FiveHour),
                family: Some(Family("opus".into())),
                until: Wall(100),
                said_at: Wall(7),
                status: Some(429),
            }],
        }
    }

    const WHO: Identity<'_> = Identity { name: "a", account_uuid: Some("u"), org_uuid: None };

    #[test]
    fn a6_what_was_learned_comes_back_by_identity() {
        let scratch = Scratch::new();
        let file = scratch.path("maxpool.state.json");
        let family = WindowKind::SevenDayFamily(Family("opus".into()));
        let kinds = [
            WindowKind::FiveHour,
            WindowKind::SevenDay,
            family,
            WindowKind::Tokens,
            WindowKind::Requests,
            WindowKind::Generic,
        ];
        let known =
            learned(kinds.into_iter().map(|kind| window(kind, Some(1.25), Some(100))).collect());
        let state = State {
            saved_at: 50,
            accounts: vec![AccountState::new(&WHO, &known, Vec::new())],
            ..State::default()
        };
        save(&file, &state).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let (read, notice) = load(&file);
        assert_eq!((&read, notice), (&state, None));
        let renamed = Identity { name: "b", ..WHO };
        let mut restored = read.of(&renamed, Wall(99)).unwrap();
        for window in &mut restored.windows {
            assert_eq!(window.source, Source::Restored);
            window.source = Source::Answer;
        }
        assert_eq!(restored, known);
        assert_eq!(
            read.of(&Identity { name: "b", account_uuid: None, org_uuid: None }, Wall(99)),
            None
        );
    }

    #[test]
    fn a6_what_no_longer_holds_is_dropped() {
        for (rule, window, stays) in [
            ("a window in force", window(WindowKind::SevenDay, Some(0.5), Some(100)), true),
            ("a window that has passed", window(WindowKind::SevenDay, Some(0.5), Some(99)), false),
            ("a use without a reset", window(WindowKind::SevenDay, Some(0.5), None), false),
        ] {
            let state = State {
                saved_at: 0,
                accounts: vec![AccountState::new(&WHO, &learned(vec![window]), Vec::new())],
                ..State::default()
            };
            assert_eq!(
                state.of(&WHO, Wall(99)).unwrap().windows.len(),
                usize::from(stays),
                "{rule}"
            );
        }
    }

    #[test]
    fn r2_what_came_since_is_what_a_process_that_has_handed_over_tells() {
        let of = |requests, input, windows| {
            let mut known = learned(windows);
            known.usage = UsageTotals {
                tokens: Usage { input, ..Usage::default() },
                requests,
                last_used: Some(Wall(7)),
            };
            AccountState::new(&WHO, &known, Vec::new())
        };
        let earlier =
            State { saved_at: 0, accounts: vec![of(3, 100, Vec::new())], ..State::default() };
        let now = State {
            saved_at: 0,
            accounts: vec![of(5, 170, vec![window(WindowKind::FiveHour, Some(0.5), Some(100))])],
            ..State::default()
        };
        let since = now.since(&earlier).of(&WHO, Wall(0)).unwrap();
        assert_eq!((since.usage.requests, since.usage.tokens.input), (2, 70));
        assert_eq!(since.usage.last_used, Some(Wall(7)));
        assert_eq!(since.windows.len(), 1);
    }

    #[test]
    fn a6_a_corrupt_file_is_one_line_and_the_first_start_is_none() {
        let scratch = Scratch::new();
        assert_eq!(load(&scratch.path("missing")), (State::default(), None));
        for (what, text) in [
            ("empty", ""),
            ("cut", "{\"savedAt\": 1, \"accounts\": [{\"na"),
            ("another shape", "[1]"),
            ("wrong types", r#"{"savedAt": "x", "accounts": []}"#),
        ] {
            let file = scratch.path(what);
            std::fs::write(&file, text).unwrap();
            let (state, notice) = load(&file);
            assert_eq!(state, State::default());
            let notice = notice.unwrap();
            assert!(
                notice.starts_with("learned quota starts empty: ") && !notice.contains('\n'),
                "{notice}"
            );
        }
    }

    #[test]
    fn a6_the_state_lies_beside_the_config() {
        assert_eq!(path(Path::new("/a/maxpool.json")), Path::new("/a/maxpool.state.json"));
        assert_eq!(path(Path::new("/a/pool.conf")), Path::new("/a/pool.conf.state.json"));
    }
}
