//! Token pairs that could not be written when they came: kept in memory, written as soon as the
//! config file takes them.

use std::sync::{Arc, PoisonError};

use serde_json::{Map, Value};

use super::accounts::Accounts;
use super::credential::{Account, Holding};
use super::refresh::{newer_import, store};
use crate::config::Credential;
use crate::error::Result;

impl Accounts {
    /// Brings memory, file and the sources of `importFrom` (SPEC T3) together: at start and on every sync. What still
    /// cannot be written is said once.
    pub(crate) fn sync_tokens(&self) {
        for account in self.all() {
            let is_flying = account.held().flight.is_some();
            let tokens = (!is_flying).then(|| newer_import(&self.shared, &account)).flatten();
            if tokens.is_some_and(|tokens| account.with_tokens(|state| state.take_import(tokens))) {
                (self.shared.around.renewed)(account.id);
            }
        }
        let trouble = self.store_unsaved().err().map(|error| error.to_string());
        let mut said = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != trouble {
            if let Some(trouble) = &trouble {
                let text =
                    format!("new tokens are in memory only, a restart would lose them: {trouble}");
                self.shared.around.events.warning(self.shared.now().wall, text);
            }
            *said = trouble;
        }
    }

    /// Changes the config file (SPEC A5), beside a refresh of this process that may hold its lock just now.
    pub(crate) fn change_file<T>(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        self.shared.refresh_lock.join(self.shared.now().mono)?.commit(change)
    }

    /// Writes the pairs that are in memory only, because the disk was full or the file was broken when they came.
    fn store_unsaved(&self) -> Result<()> {
        let is_due = |account: &Arc<Account>| {
            let held = account.held();
            held.flight.is_none()
                && matches!(&held.what, Holding::Oauth(state) if state.is_unsaved())
        };
        let due: Vec<_> = self.all().into_iter().filter(is_due).collect();
        if due.is_empty() {
            return Ok(());
        }
        let guard = self.shared.refresh_lock.join(self.shared.now().mono)?;
        let config = guard.read()?;
        for account in due {
            let profile = account.profile();
            let mine =
                config.accounts.iter().find(|entry| entry.identity().is_same(&profile.identity()));
            let Some(Credential::Oauth(on_file)) = mine.map(|entry| &entry.credential) else {
                continue;
            };
            let unsaved = account.with_tokens(|state| {
                state.merge_file(&on_file.tokens);
                state.is_unsaved().then(|| state.tokens().clone())
            });
            if let Some(tokens) = unsaved {
                store(&guard, &profile.identity(), &tokens)?;
                account.with_tokens(|state| state.saved(&tokens));
            }
        }
        Ok(())
    }
}
