//! The refresh of an account's tokens (SPEC T2, T7), one at a time and on its own thread.
//!
//! The order of the steps is the contract, because a refresh token can be redeemed only once: the
//! endpoint may revoke the whole grant if it sees the token twice, and if the answer is lost, so is
//! the only good pair. Therefore space for the successor is reserved before the token is sent, and
//! the successor is on disk before it is used.
//!
//! - Each token has its own lock, held for as long as the endpoint takes, so that no other process
//!   sends the same token. The config's lock is held only while the space is reserved and while it
//!   is filled, so that a slow endpoint does not hold up other writers.
//! - A refresh runs on its own thread, and the requests that need it wait for its end; those whose
//!   token is still good wait for five seconds at most. On the thread of the request that noticed
//!   the need, a client that disconnects would interrupt the refresh between the answer and the
//!   disk.
//! - A token that may have arrived is not sent again within one refresh, whatever the answer was.
//!   It is tried once more after the cooldown, because most such answers come from a gateway.
//!
//! ```text
//!   lock the token ─▶ read file, rescue file, source ─▶ newer pair there? ─yes─▶ adopted
//!        ▲                                                │ no
//!        │ (another token by now)                         ▼
//!        ├──────────────────────────  reserve space: temporary file, written, synced
//!        │                                                │      ╲ impossible, access token
//!        │                                                ▼       ▶ valid: not sent, failed
//!        │  refused, and the replaced pair           send once
//!        └─ or another one may still be good ──────┐      │
//!                                                  │      ├─▶ `invalid_grant` ─▶ refused
//!                                                  └──────┤
//!                                                         ├─▶ fate unknown, or failed ─▶ cooldown
//!                                                         ▼
//!        new pair ─▶ config (compare and set), else rescue file, else memory ─▶ serve
//! ```
//!
//! A caller that disconnects does not stop a refresh. This file does not decide which of two pairs
//! is newer; [`custody`](crate::config::custody) does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::credential::Account;
use super::import_from;
use super::keep::{self, Place};
use super::oauth::{self, Issued, TokenFailure};
use super::plan::{Obstacle, Plan, Switch};
use super::sent::{self, Fate, Sends};
use super::single_flight::{self, SingleFlight, SingleFlightGuard};
use super::sources::SourceLimits;
use super::surroundings::{Role, Shared};
use super::token::TokenState;
use crate::config::atomic::SiblingLock;
use crate::config::custody::Digest;
use crate::config::rescue;
use crate::config::{Credential, Secret, file, noted};
use crate::event::{Event, Refresh, RefreshResult};

/// Longer than any refresh, including waits for locks.
pub(super) const LONGEST: Duration = Duration::from_secs(180);

/// Starts the refresh. The caller holds the account's lock, and stores the returned flight.
pub(super) fn start(shared: &Arc<Shared>, account: &Arc<Account>) -> io::Result<SingleFlight> {
    let (guard, flight) = single_flight::begin();
    let (shared, account) = (Arc::clone(shared), Arc::clone(account));
    let thread = std::thread::Builder::new().name("refresh".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(move || {
        let ending = Ending { shared, account, _flight: guard };
        let work = Work { shared: &ending.shared, account: &ending.account };
        work.run();
    })?;
    Ok(flight)
}

/// Ends the flight on every way out. `drop` first allows the account another refresh; the guard is
/// dropped after that, and only then wakes the waiting callers.
struct Ending {
    shared: Arc<Shared>,
    account: Arc<Account>,
    _flight: SingleFlightGuard,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (pause, now) = (self.shared.settings().pause, self.shared.now());
            let why = "the refresh was aborted by a bug in maxpool".to_owned();
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

/// The result of a refresh.
struct End {
    result: RefreshResult,
    old: Option<Secret>,
    new: Option<Secret>,
}

/// The result for one token.
enum Step {
    Ended(End),
    /// Another refresh token must be redeemed now.
    Another,
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
        for _ in 0..TOKENS_MAX {
            let token = self.state(|state| state.spendable().cloned());
            let step = match token {
                Some(token) => self.redeem(token),
                None => match self.look_elsewhere() {
                    Ok(Some(adopted)) => Step::Ended(adopted),
                    Ok(None) => Step::Ended(self.fail("there is no longer a refresh token")),
                    Err(why) => Step::Ended(self.fail(&why)),
                },
            };
            if let Step::Ended(end) = step {
                return end;
            }
        }
        self.fail("its refresh token keeps changing")
    }

    fn redeem(&self, token: Secret) -> Step {
        let lock = match self.lock(&token) {
            Ok(lock) => lock,
            Err(why) => return Step::Ended(self.fail(&why)),
        };
        let step = self.redeem_locked(token.clone(), lock.as_ref());
        let is_said_nowhere = self.state(|state| state.custody().is_unsaid(&token));
        match lock {
            // No file records that the token is used up, so its lock does.
            Some(lock) if is_said_nowhere => {
                sent::note(Some(&lock), Some(Fate::Spent));
                self.account.hold(lock);
            }
            // Each token has its own lock file, and nobody else would delete it.
            Some(lock) if Fate::of(&lock).is_none() => lock.remove(),
            Some(_) | None => {}
        }
        step
    }

    fn redeem_locked(&self, token: Secret, lock: Option<&SiblingLock>) -> Step {
        match self.look_elsewhere() {
            Ok(Some(adopted)) => return Step::Ended(adopted),
            Ok(None) if self.state(|state| state.spendable() != Some(&token)) => {
                return Step::Another;
            }
            Ok(None) => {}
            Err(why) => return Step::Ended(self.fail(&why)),
        }
        if self.shared.role() == Role::Retired {
            return Step::Ended(
                self.fail("this process is about to exit, so it does not send the token"),
            );
        }
        if self.state(|state| state.custody().is_at_risk()) {
            // One pair that is only in memory is enough.
            keep::store(self.shared, self.account, CONFIG_LOCK_WAIT);
        }
        match lock.and_then(Fate::of) {
            Some(Fate::Spent) => {
                self.state(|state| state.learn_noted(&[Digest::of(&token)]));
                return Step::Another;
            }
            Some(Fate::Sent(sends)) => {
                let (pause, now) = (self.shared.settings().pause, self.now());
                if self.state(|state| state.sent_before(&token, sends, &pause, now)) {
                    return Step::Ended(self.fail(SENT_BEFORE));
                }
            }
            None => {}
        }
        match self.make_place(&token) {
            Ok(place) => self.send(token, place, lock),
            Err(why) => {
                let why =
                    format!("its successor could not be stored, so the token was not sent: {why}");
                Step::Ended(self.fail(&why))
            }
        }
    }

    fn send(&self, token: Secret, place: Place, lock: Option<&SiblingLock>) -> Step {
        let around = &self.shared.around;
        let before = lock.and_then(Fate::of);
        let times = before.map_or(0, Fate::times).saturating_add(1);
        sent::note(lock, Some(Fate::Sent(Sends { times, at: self.now().wall })));
        // Read before, so that nothing happens between the answer and the write.
        let source = import_from::held_by(self.shared, self.account);
        let mut dials_left = DIALS_MAX;
        let failure = loop {
            dials_left -= 1;
            let answer = oauth::refresh(&*around.http, &around.endpoints, &token, &*around.now);
            match answer {
                Ok(issued) => {
                    let end = self.succeeded(place, token, &issued, source.as_ref());
                    sent::note(lock, None);
                    return Step::Ended(end);
                }
                // A process that is about to end may be gone before the answer to a second call.
                Err(TokenFailure::NotSent { .. })
                    if dials_left > 0 && self.shared.role() != Role::Retired => {}
                Err(failure) => break failure,
            }
        };
        // The space is not needed now, and must not be in the way of the next token.
        drop(place);
        let why = failure.why().to_owned();
        let (pause, now) = (self.shared.settings().pause, self.now());
        match &failure {
            TokenFailure::NotSent { .. } | TokenFailure::Temporary { .. } => {
                sent::note(lock, before);
            }
            TokenFailure::FateUnknown { .. } => {}
            TokenFailure::Refused { .. } => sent::note(lock, None),
        }
        match failure {
            TokenFailure::NotSent { .. } => {
                self.state(|state| state.failed(Obstacle::Network, None, why.clone(), &pause, now));
            }
            TokenFailure::FateUnknown { is_network, .. } => {
                let obstacle = if is_network { Obstacle::Network } else { Obstacle::Endpoint };
                self.state(|state| state.fate_unknown(&token, obstacle, why.clone(), &pause, now));
            }
            TokenFailure::Temporary { retry_after, .. } => {
                let obstacle = Obstacle::Endpoint;
                self.state(|state| state.failed(obstacle, retry_after, why.clone(), &pause, now));
            }
            TokenFailure::Refused { .. } => return self.refused(token, why),
        }
        Step::Ended(End { result: RefreshResult::Failed(why), old: Some(token), new: None })
    }

    /// The lock of the token. If no directory can hold it there is no lock, and two processes
    /// exclude each other only by what they read.
    fn lock(&self, token: &Secret) -> Result<Option<SiblingLock>, String> {
        let path = &self.shared.around.config;
        match file::lock_token(path, &Digest::of(token), TOKEN_LOCK_WAIT) {
            Ok(lock) => {
                if !lock.is_locked() {
                    self.shared.say_once(NO_LOCKS);
                }
                Ok(Some(lock))
            }
            Err(error) if error.io_kind().is_some() && !self.is_usable() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Reserves space for the successor, or says why that is impossible and the token must not be
    /// sent.
    fn make_place(&self, token: &Secret) -> Result<Place, String> {
        let path = &self.shared.around.config;
        let made = file::lock_within(path, CONFIG_LOCK_WAIT).and_then(|mut locked| {
            if !locked.is_locked() {
                self.shared.say_once(NO_LOCKS);
            }
            locked.reserve(SUCCESSOR_BYTES)
        });
        let error = match made {
            Ok(reserved) => return Ok(Place::Config(reserved)),
            Err(error) => error,
        };
        if self.is_usable() {
            return Err(error.to_string());
        }
        let bytes = SUCCESSOR_BYTES + token.expose().len();
        match rescue::reserve(path, bytes) {
            Ok(place) => Ok(Place::Rescue(place)),
            // Memory is good enough as long as the process lives.
            Err(_) if self.shared.role() == Role::Active => Ok(Place::None),
            Err(_) => Err(error.to_string()),
        }
    }

    /// Takes over a newer pair from the file, the rescue file or the source. `Some` if nothing else
    /// is needed; an error says why the account must not be refreshed now.
    fn look_elsewhere(&self) -> Result<Option<End>, String> {
        let old = self.state(|state| state.tokens().refresh.clone());
        let mut changed = false;
        let noted = noted::spent(&self.shared.around.config);
        self.state(|state| state.learn_noted(&noted));
        match file::load_whole(&self.shared.around.config, CONFIG_LOCK_WAIT) {
            Ok(config) => {
                let entry = keep::entry_of(&config, self.account);
                match entry.map(|entry| (entry.enabled, &entry.credential)) {
                    Some((true, Credential::Oauth(oauth))) => {
                        let now = self.now();
                        changed = self.state(|state| state.merge_file(&oauth.deposit(), now));
                    }
                    Some((false, Credential::Oauth(_))) => {
                        return Err("it has been disabled in the config".to_owned());
                    }
                    _ => return Err("it is no longer in the config".to_owned()),
                }
            }
            Err(error) if self.is_usable() => return Err(error.to_string()),
            Err(_) => {}
        }
        if let Ok(Some(tokens)) = import_from::read_for(self.shared, self.account, SOURCE_LIMITS)
            && self.state(|state| state.take_import(&tokens, &noted))
        {
            changed = true;
            keep::store(self.shared, self.account, CONFIG_LOCK_WAIT);
        }
        // A sync may have taken another pair since this refresh began.
        changed |= self.account.held().is_overtaken();
        let now = self.now();
        let is_enough = changed && self.state(|state| state.plan(Switch::On, now) == Plan::Serve);
        Ok(is_enough.then(|| End {
            result: RefreshResult::Adopted,
            old,
            new: self.state(|state| state.tokens().refresh.clone()),
        }))
    }

    fn succeeded(
        &self,
        place: Place,
        sent: Secret,
        issued: &Issued,
        source: Option<&Digest>,
    ) -> End {
        let now = self.now();
        self.state(|state| state.renewed(&sent, issued, source, now));
        let kept = keep::store_in(self.shared, self.account, place, CONFIG_LOCK_WAIT);
        if issued.tokens.access.is_none() {
            let why = "the token endpoint answered without an access token".to_owned();
            let pause = self.shared.settings().pause;
            self.state(|state| state.failed(Obstacle::Endpoint, None, why, &pause, now));
        }
        End {
            result: match kept {
                Ok(()) => RefreshResult::Rotated,
                Err(why) => RefreshResult::NotStored(why),
            },
            old: Some(sent),
            new: issued.tokens.refresh.clone(),
        }
    }

    fn refused(&self, sent: Secret, why: String) -> Step {
        // Another process may have rotated it; an unreadable config has nothing newer.
        if let Ok(Some(adopted)) = self.look_elsewhere() {
            return Step::Ended(adopted);
        }
        if self.state(|state| state.refused(&sent, why.clone())) {
            keep::store(self.shared, self.account, CONFIG_LOCK_WAIT);
            let now = self.now();
            if self.state(|state| state.plan(Switch::On, now)) == Plan::Serve {
                let new = self.state(|state| state.tokens().refresh.clone());
                return Step::Ended(End { result: RefreshResult::Adopted, old: Some(sent), new });
            }
            return Step::Another;
        }
        Step::Ended(End { result: RefreshResult::Refused(why), old: Some(sent), new: None })
    }

    /// A local failure: nothing was sent.
    fn fail(&self, why: &str) -> End {
        let (pause, now) = (self.shared.settings().pause, self.now());
        self.state(|state| state.failed(Obstacle::Local, None, why.to_owned(), &pause, now));
        End { result: RefreshResult::Failed(why.to_owned()), old: None, new: None }
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

/// Attempts to connect if nothing could be sent.
const DIALS_MAX: u32 = 2;
/// Refresh tokens that one refresh may involve: its own, the replaced ones, and one that another
/// process has written meanwhile.
const TOKENS_MAX: usize = 4;
/// Longer than another process takes for the same exchange.
const TOKEN_LOCK_WAIT: Duration = Duration::from_secs(60);
/// Nobody holds the config's lock longer than a write takes.
const CONFIG_LOCK_WAIT: Duration = Duration::from_secs(10);
/// A source on a dead mount does not respond.
const SOURCE_LIMITS: SourceLimits =
    SourceLimits { first: Duration::from_secs(2), stalled: Duration::from_secs(2) };
const SENT_BEFORE: &str = "its refresh token was sent before and no answer came";
/// How much larger a successor may be than the pair that it replaces.
const SUCCESSOR_BYTES: usize = 32 * 1024;
const NO_LOCKS: &str =
    "the file system of the config does not support locks; run only one maxpool with it";
/// For a TLS handshake and parsing one small answer.
const STACK_BYTES: usize = 512 * 1024;

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
