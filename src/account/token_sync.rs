//! Brings memory, config, rescue file and sources together: on every sync, at the stop, and when
//! one process hands over to another (SPEC A5, A7, T3, T8).

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use super::accounts::Accounts;
use super::credential::{Account, Holding};
use super::import_from;
use super::keep::{Place, entry_of, store_in};
use super::sources::{self, SourceLimits};
use crate::clock::Stopwatch;
use crate::config::custody::{Kept, Record};
use crate::config::{Credential, file, noted, rescue};
use crate::error::Result;
use crate::scheduler::Kind;

impl Accounts {
    /// Brings memory, file and the sources of `importFrom` (SPEC T3) together: at start and on
    /// every sync. Waits for nobody: what cannot be had or written now is tried again.
    pub(crate) fn sync_tokens(&self) {
        for account in self.idle() {
            match import_from::read_for(&self.shared, &account, SOURCE_LIMITS) {
                Ok(Some(tokens)) => {
                    let noted = noted::spent(&self.shared.around.config);
                    if account.with_tokens(|state| state.take_import(&tokens, &noted)) {
                        (self.shared.around.renewed)(account.id);
                    }
                }
                Ok(None) => {}
                Err(why) => {
                    let name = account.profile().name.clone();
                    self.shared.say_once(&format!("{name}: {}", sources::unusable(&why)));
                }
            }
        }
        self.see_config();
        self.store_due(SYNC_WAIT);
    }

    /// Reads the config once more, so that a pair which something older has overwritten is written
    /// back, and keeps whatever is not kept yet: at the stop and before a hand-over.
    pub(crate) fn keep_all(&self) {
        self.see_config();
        self.store_due(STOP_WAIT);
    }

    /// The same for a process that nobody follows: goes on trying for `limit`, and says whose
    /// tokens are lost with it.
    pub(crate) fn keep_all_at_the_end(&self, limit: Duration) {
        let watch = Stopwatch::start();
        self.keep_all();
        let mut lost = self.at_risk();
        while !lost.is_empty() && watch.left_of(limit).is_some() {
            std::thread::sleep(END_PAUSE);
            self.keep_all();
            lost = self.at_risk();
        }
        for account in lost {
            let name = account.profile().name.clone();
            let why = account.storage_trouble().unwrap_or_else(|| "in memory only".to_owned());
            self.shared.say(format!(
                "{name}: its new tokens could not be saved and are lost with this process, so it \
                 has to sign in again with: maxpool login ({why})"
            ));
        }
    }

    /// Accounts of which something is in memory only.
    fn at_risk(&self) -> Vec<Arc<Account>> {
        let mut accounts = self.idle();
        accounts.retain(|account| account.with_tokens(|state| state.custody().is_at_risk()));
        accounts
    }

    /// Compares what the config holds by now with what is in memory.
    fn see_config(&self) {
        let Ok(config) = file::load(&self.shared.around.config) else {
            // Whoever reloads it says what is wrong with it.
            return;
        };
        for account in self.idle() {
            if let Some(Credential::Oauth(oauth)) =
                entry_of(&config, &account).map(|entry| &entry.credential)
                && account.with_tokens(|state| state.merge_file(&oauth.deposit()))
            {
                (self.shared.around.renewed)(account.id);
            }
        }
    }

    /// Changes the config file (SPEC A5).
    pub(crate) fn change_file<T>(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        file::update(&self.shared.around.config, change)
    }

    /// What another process needs to know because no file has it.
    pub(crate) fn unsaved(&self) -> Vec<Value> {
        let accounts = self.all();
        let oauth = accounts.iter().filter(|account| account.kind == Kind::Oauth);
        let unsaved = oauth.filter_map(|account| {
            let profile = account.profile();
            account.with_tokens(|state| {
                (state.custody().kept() != Kept::OnDisk || state.custody().is_at_risk())
                    .then(|| state.record(&profile.identity()).value())
            })
        });
        unsaved.collect()
    }

    /// Takes over what another process had in memory.
    pub(crate) fn take_over(&self, unsaved: &[Value]) {
        for record in unsaved.iter().filter_map(Record::read) {
            let accounts = self.all();
            let mut oauth = accounts.iter().filter(|account| account.kind == Kind::Oauth);
            let same =
                |account: &&Arc<Account>| account.profile().identity().is_same(&record.identity());
            // Its entry may have been given another name meanwhile.
            let holds = |account: &&Arc<Account>| {
                let deposit = &record.deposit;
                account.with_tokens(|state| state.custody().shares_a_token_with(deposit))
            };
            let account = oauth.clone().find(same).or_else(|| oauth.find(holds));
            if let Some(account) = account
                && account.with_tokens(|state| state.merge_record(&record))
            {
                (self.shared.around.renewed)(account.id);
            }
        }
        self.store_due(STOP_WAIT);
    }

    /// Writes what the config lacks, because the disk was full or the file was broken when it came.
    fn store_due(&self, limit: Duration) {
        let mut trouble = None;
        for account in self.idle() {
            if account.with_tokens(|state| state.custody().is_due())
                && let Err(why) = store_in(&self.shared, &account, Place::None, limit)
            {
                trouble = Some(format!(
                    "the new tokens of {} are not stored: {why}",
                    account.profile().name
                ));
            }
        }
        // What another process has rescued is moved, too; where that fails it stays where it is.
        if trouble.is_none() && rescue::has_pairs(&self.shared.around.config) {
            let moved = file::lock_within(&self.shared.around.config, limit)
                .and_then(|mut locked| locked.commit(|_| Ok(())));
            trouble = moved.err().map(|error| error.to_string());
        }
        let mut said = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != trouble {
            if let Some(trouble) = &trouble {
                self.shared.say(trouble.clone());
            }
            *said = trouble;
        }
    }

    /// OAuth accounts for which no refresh is in progress.
    fn idle(&self) -> Vec<Arc<Account>> {
        let mut all = self.all();
        all.retain(|account| {
            let held = account.held();
            held.flight.is_none() && matches!(&held.what, Holding::Oauth(_))
        });
        all
    }
}

/// A sync waits no longer for a source or for the config's lock.
const SYNC_WAIT: Duration = Duration::from_millis(250);
/// Accounts may share a source that is gone: it is waited for once.
const SOURCE_LIMITS: SourceLimits = SourceLimits { first: SYNC_WAIT, stalled: Duration::ZERO };
/// Between two tries of a process that is about to end.
const END_PAUSE: Duration = Duration::from_millis(250);
/// The last chance.
const STOP_WAIT: Duration = Duration::from_secs(3);
