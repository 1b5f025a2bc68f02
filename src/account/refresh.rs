//! The one refresh of an account (SPEC T2), on a thread of its own.
//!
//! The order is the contract: lock the config file, read it again and take a newer pair from there; else send the refresh
//! token; write the new pair to the disk; then serve with it. A refresh token that may have arrived is not sent again
//! within one refresh, whatever the answer was: it is single-use, and a second use can revoke the whole grant. A caller
//! that goes away stops nothing.
//!
//! ```text
//!   lock ─▶ re-read ─▶ newer pair there? ─yes─▶ adopted
//!             ▲             │ no
//!             │             ▼
//!   (once, if refused) ◀── send ──▶ new pair ─▶ write, fsync, rename ─▶ rotated
//!                            │
//!                            ├─▶ 400, 401, 403 and nothing newer in the file ─▶ refused
//!                            └─▶ anything else ─▶ failed, cooldown
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::credential::Account;
use super::http::HttpPhase;
use super::oauth::{self, TokenFailure};
use super::refresh_lock::RefreshLockGuard;
use super::single_flight::SingleFlightGuard;
use super::sources;
use super::surroundings::Shared;
use super::token::{Obstacle, Plan, Stored, Switch, TokenState};
use crate::config::{Config, Credential, Identity, Secret, Tokens, edit};
use crate::error::{Error, Result};
use crate::event::{Event, Refresh, RefreshResult};

/// Longer than a refresh ever takes, waiting for the file's lock included.
pub(super) const LONGEST: Duration = Duration::from_secs(180);

/// Starts the refresh. The caller holds the account's lock, and sets its flight if this succeeds.
pub(super) fn start(
    shared: Arc<Shared>,
    account: Arc<Account>,
    flight: SingleFlightGuard,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("refresh".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(move || {
        let ending = Ending { shared, account, _flight: flight };
        let work = Work { shared: &ending.shared, account: &ending.account };
        work.run();
    })?;
    Ok(())
}

/// Ends the flight on every way out. `drop` frees the account for another refresh; the guard goes
/// after that, and only then wakes those who wait.
struct Ending {
    shared: Arc<Shared>,
    account: Arc<Account>,
    _flight: SingleFlightGuard,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (pause, now) = (self.shared.settings().pause, self.shared.now());
            let why = "the refresh broke off by a bug in maxpool".to_owned();
            let fail =
                |state: &mut TokenState| state.failed(Obstacle::Local, None, why, &pause, now);
            self.account.with_tokens(fail);
        }
        self.account.held().flight = None;
    }
}

struct Work<'a> {
    shared: &'a Shared,
    account: &'a Account,
}

/// How it ended.
struct End {
    result: RefreshResult,
    old: Option<Secret>,
    new: Option<Secret>,
}

/// The config file during a refresh.
enum Place {
    /// Locked, and a new pair can be written.
    File(Arc<RefreshLockGuard>),
    /// It is not to be had, for this reason; the pair has to live in memory.
    Memory(Error),
}

impl Work<'_> {
    fn run(&self) {
        let end = self.refresh();
        let name = self.account.profile().name.clone();
        match end.result {
            RefreshResult::Rotated | RefreshResult::Adopted | RefreshResult::NotStored(_) => {
                (self.shared.around.renewed)(self.account.id);
            }
            RefreshResult::Failed(_) | RefreshResult::Refused(_) => {}
        }
        let event = Event::Refresh(Refresh {
            account: name,
            result: end.result,
            old: end.old.as_ref().map(oauth::fingerprint),
            new: end.new.as_ref().map(oauth::fingerprint),
            pid: std::process::id(),
        });
        self.shared.around.events.emit(self.now().wall, event);
    }

    fn refresh(&self) -> End {
        let place = match self.lock() {
            Ok(place) => place,
            Err(why) => return self.failed(Obstacle::Local, None, why, None),
        };
        match self.look_elsewhere(&place) {
            Ok(Some(adopted)) => return adopted,
            Ok(None) => {}
            Err(why) => return self.failed(Obstacle::Local, None, why, None),
        }
        let mut sent: Vec<Secret> = Vec::new();
        let mut dials_left = DIALS_MAX;
        loop {
            let Some(token) = self.state(|state| state.tokens().refresh.clone()) else {
                return self.failed(
                    Obstacle::Local,
                    None,
                    "there is no refresh token any more".to_owned(),
                    None,
                );
            };
            let around = &self.shared.around;
            let answer = oauth::refresh(&*around.http, &around.endpoints, &token, &*around.now);
            let failure = match answer {
                Ok(tokens) => return self.succeeded(&place, token, tokens),
                Err(failure) => failure,
            };
            match failure {
                TokenFailure::NoAnswer { phase: HttpPhase::Connect, .. } if dials_left > 1 => {
                    dials_left -= 1
                }
                TokenFailure::NoAnswer { why, .. } => {
                    return self.failed(Obstacle::Network, None, why, Some(token));
                }
                TokenFailure::Temporary { retry_after, why } => {
                    return self.failed(Obstacle::Endpoint, retry_after, why, Some(token));
                }
                TokenFailure::Refused { why } => {
                    sent.push(token.clone());
                    // Perhaps somebody else has rotated it; a config that cannot say has nothing newer.
                    if let Ok(Some(adopted)) = self.look_elsewhere(&place) {
                        return adopted;
                    }
                    let other = self.state(|state| state.tokens().refresh.clone());
                    if other.is_none_or(|other| sent.contains(&other)) {
                        return self.refused(token, why);
                    }
                }
            }
        }
    }

    /// Takes the file's lock. An error, in words, means not now.
    fn lock(&self) -> std::result::Result<Place, String> {
        let lock = &self.shared.refresh_lock;
        let error = match lock.take(self.now().mono) {
            Ok(guard) => return Ok(Place::File(guard)),
            Err(error) => error,
        };
        // While there is another way, the token is not put at risk. And a lock that another process holds is no reason to
        // go on without it: that process may be sending this very token.
        let is_broken = error.io_kind().is_some() || !lock.is_readable();
        if self.is_usable() || !is_broken {
            return Err(error.to_string());
        }
        Ok(Place::Memory(error))
    }

    /// Takes over a newer pair from the file or from `importFrom`. `Some` if that is all that was needed.
    fn look_elsewhere(&self, place: &Place) -> std::result::Result<Option<End>, String> {
        let old = self.state(|state| state.tokens().refresh.clone());
        let mut changed = false;
        if let Place::File(guard) = place {
            match guard.read() {
                Ok(config) => {
                    let tokens = self.tokens_in(&config)?;
                    changed = self.state(|state| state.merge_file(&tokens));
                }
                Err(error) if self.is_usable() => return Err(error.to_string()),
                Err(_) => {}
            }
        }
        if let Some(tokens) = newer_import(self.shared, self.account) {
            changed |= self.state(|state| state.take_import(tokens.clone()));
            if let Place::File(guard) = place
                && store(guard, &self.account.profile().identity(), &tokens).is_ok()
            {
                self.state(|state| state.saved(&tokens));
            }
        }
        let now = self.now();
        let is_enough = changed && self.state(|state| state.plan(Switch::On, now) == Plan::Serve);
        Ok(is_enough.then(|| End {
            result: RefreshResult::Adopted,
            old,
            new: self.state(|state| state.tokens().refresh.clone()),
        }))
    }

    /// The tokens that the file has for this account; an error if it shall not be refreshed at all.
    fn tokens_in(&self, config: &Config) -> std::result::Result<Tokens, String> {
        let profile = self.account.profile();
        let mine =
            config.accounts.iter().find(|entry| entry.identity().is_same(&profile.identity()));
        match mine.map(|entry| (entry.enabled, &entry.credential)) {
            Some((true, Credential::Oauth(oauth))) => Ok(oauth.tokens.clone()),
            Some((false, Credential::Oauth(_))) => {
                Err("it has been disabled in the config".to_owned())
            }
            _ => Err("it is not in the config any more".to_owned()),
        }
    }

    fn succeeded(&self, place: &Place, sent: Secret, tokens: Tokens) -> End {
        let stored = match place {
            Place::File(guard) => store(guard, &self.account.profile().identity(), &tokens),
            Place::Memory(error) => Err(error.clone()),
        };
        let now = self.now();
        let kept = if stored.is_ok() { Stored::OnDisk } else { Stored::InMemory };
        self.state(|state| state.renewed(&sent, tokens.clone(), kept, now));
        End {
            result: match stored {
                Ok(()) => RefreshResult::Rotated,
                Err(error) => RefreshResult::NotStored(error.to_string()),
            },
            old: Some(sent),
            new: tokens.refresh,
        }
    }

    fn failed(
        &self,
        obstacle: Obstacle,
        retry_after: Option<Duration>,
        why: String,
        old: Option<Secret>,
    ) -> End {
        let (pause, now) = (self.shared.settings().pause, self.now());
        self.state(|state| state.failed(obstacle, retry_after, why.clone(), &pause, now));
        End { result: RefreshResult::Failed(why), old, new: None }
    }

    fn refused(&self, sent: Secret, why: String) -> End {
        self.state(|state| state.refused(&sent, why.clone()));
        End { result: RefreshResult::Refused(why), old: Some(sent), new: None }
    }

    fn is_usable(&self) -> bool {
        let now = self.now();
        self.state(|state| state.is_usable(now))
    }

    fn now(&self) -> crate::scheduler::time::Now {
        self.shared.now()
    }

    fn state<T>(&self, look: impl FnOnce(&mut TokenState) -> T) -> T {
        self.account.with_tokens(look)
    }
}

/// The source's pair, if there is one and it is newer than the account's.
pub(super) fn newer_import(shared: &Shared, account: &Account) -> Option<Tokens> {
    let profile = account.profile();
    let home = shared.around.home.as_deref();
    let source = sources::path_of(profile.import_from.as_ref()?, home)?;
    let tokens = sources::tokens_of_file(&source).ok()?;
    account.with_tokens(|state| tokens.is_newer_than(state.tokens())).then_some(tokens)
}

/// Writes a pair into the account's entry, and nothing else.
pub(super) fn store(guard: &RefreshLockGuard, who: &Identity<'_>, tokens: &Tokens) -> Result<()> {
    guard.commit(|document| {
        let entry = edit::account_of_mut(document, who);
        let entry =
            entry.ok_or_else(|| Error::operator("the account is not in the config any more"))?;
        edit::put_tokens(entry, tokens);
        Ok(())
    })
}

/// Calls that may fail before anything was sent.
const DIALS_MAX: u32 = 2;
/// The TLS handshake and the JSON of one small answer.
const STACK_BYTES: usize = 512 * 1024;

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
