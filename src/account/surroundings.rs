//! What the live set of accounts and its refreshes need from outside.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::http::Http;
use super::oauth::Endpoints;
use super::sources::Sources;
use super::token::Pause;
use crate::config::{BaseUrl, Config};
use crate::event::Events;
use crate::scheduler::AccountId;
use crate::scheduler::time::Now;

/// What the live set needs from outside.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// The config file, where new pairs are stored.
    pub(crate) config: PathBuf,
    pub(crate) http: Arc<Http>,
    pub(crate) endpoints: Endpoints,
    /// Receives the reports about refreshes.
    pub(crate) events: Events,
    /// `clock::now`, or a test's own clock.
    pub(crate) now: Arc<dyn Fn() -> Now + Send + Sync>,
    /// The home directory, for `~/` in `importFrom`.
    pub(crate) home: Option<PathBuf>,
    /// Called when a refresh has changed an account's tokens, before the waiting requests continue,
    /// so that the scheduler ends blocks for the old credential. Called without any lock held.
    pub(crate) renewed: Arc<dyn Fn(AccountId) + Send + Sync>,
}

/// The surroundings, and what changes with the config; shared with refresh threads.
pub(super) struct Shared {
    pub(super) around: Surroundings,
    settings: RwLock<Settings>,
    /// The files of `importFrom`.
    pub(super) sources: Sources,
    role: Mutex<Role>,
    said: Mutex<Vec<String>>,
}

/// Whether this process may refresh; only one process may at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It may.
    Active,
    /// It may, but it ends soon: what a refresh brings must be stored.
    Brief,
    /// It may not, because another process has taken over or because this one is about to end; it
    /// reads new tokens from the file.
    Retired,
}

/// What the config says apart from the accounts.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) upstream: BaseUrl,
    pub(super) pause: Pause,
}

impl Shared {
    pub(super) fn new(around: Surroundings, config: &Config) -> Shared {
        Shared {
            settings: RwLock::new(Settings::of(config)),
            around,
            sources: Sources::default(),
            role: Mutex::new(Role::Active),
            said: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Now {
        (self.around.now)()
    }

    pub(super) fn role(&self) -> Role {
        *self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_role(&self, role: Role) {
        *self.role.lock().unwrap_or_else(PoisonError::into_inner) = role;
    }

    /// Emits a line for the user.
    pub(super) fn say(&self, text: String) {
        self.around.events.warning(self.now().wall, text);
    }

    /// The same, but never twice.
    pub(super) fn say_once(&self, text: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < SAID_MAX && !said.iter().any(|said| said == text) {
            said.push(text.to_owned());
            drop(said);
            self.say(text.to_owned());
        }
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_settings(&self, config: &Config) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Settings::of(config);
    }
}

impl Settings {
    pub(super) fn of(config: &Config) -> Settings {
        Settings {
            upstream: config.upstream.clone(),
            pause: Pause {
                network: config.policy.network_cooldown,
                first: config.policy.cooldown,
                longest: config.policy.max_cooldown,
            },
        }
    }
}

/// Lines remembered as already emitted.
const SAID_MAX: usize = 256;
