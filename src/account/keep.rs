//! Stores what refreshes and sources have brought: in the config, else in the rescue file, else in
//! memory until one of them can be written (SPEC A5, T7, T8).
//!
//! A pair is placed in the config by the token that it replaces, see [`custody::place`]. A pair
//! that is only in memory is reported once, shown in the status, stored again at every sync and at
//! the stop, and handed over at a restart.

use std::time::Duration;

use serde_json::{Map, Value};

use super::credential::Account;
use super::surroundings::Shared;
use crate::config::atomic::Reserved;
use crate::config::custody::{Kept, Placed, Record};
use crate::config::rescue::{self, RescuePlace};
use crate::config::{AccountEntry, Config, Credential, custody, file};
use crate::error::Result;

/// Space reserved for a pair.
pub(super) enum Place {
    /// Next to the config.
    Config(Reserved),
    /// In a rescue file.
    Rescue(RescuePlace),
    /// None was reserved.
    None,
}

/// The entry of this account: with its identity, else the one that has its token under another
/// name.
pub(super) fn entry_of<'c>(config: &'c Config, account: &Account) -> Option<&'c AccountEntry> {
    let profile = account.profile();
    let same = |entry: &&AccountEntry| entry.identity().is_same(&profile.identity());
    let holds = |entry: &&AccountEntry| match &entry.credential {
        Credential::Oauth(oauth) => {
            account.with_tokens(|state| state.custody().shares_a_token_with(&oauth.deposit()))
        }
        Credential::ApiKey(_) | Credential::Provider(_) => false,
    };
    config.accounts.iter().find(same).or_else(|| config.accounts.iter().find(holds))
}

/// Stores the account's pair, and reports where it is if not in the config.
pub(super) fn store(shared: &Shared, account: &Account, limit: Duration) {
    // The account shows the problem in its status.
    let _ = store_in(shared, account, Place::None, limit);
}

/// The same with reserved space. An error says why the pair is not in the config.
pub(super) fn store_in(
    shared: &Shared,
    account: &Account,
    place: Place,
    limit: Duration,
) -> std::result::Result<(), String> {
    let profile = account.profile();
    let record = account.with_tokens(|state| state.record(&profile.identity()));
    let (reserved, rescue_place) = match place {
        Place::Config(reserved) => (Some(reserved), None),
        Place::Rescue(place) => (None, Some(place)),
        Place::None => (None, None),
    };
    let error = match into_config(shared, &record, reserved, limit) {
        Ok(placed) => {
            account.with_tokens(|state| state.stored(&record, Kept::OnDisk, None));
            account.release();
            settle(shared, account, &placed);
            return Ok(());
        }
        Err(error) => error.to_string(),
    };
    let is_at_risk = account.with_tokens(|state| {
        state.custody().kept() != Kept::OnDisk || state.custody().is_at_risk()
    });
    if !is_at_risk {
        // Only the removal of superfluous pairs failed.
        return Err(error);
    }
    let kept = match rescue::keep(&shared.around.config, rescue_place, &record) {
        Ok(()) => Kept::Rescued,
        Err(_) => Kept::InMemory,
    };
    account.with_tokens(|state| state.stored(&record, kept, Some(error.clone())));
    if kept == Kept::Rescued {
        account.release();
    }
    Err(match kept {
        Kept::Rescued => format!("it is in the rescue file: {error}"),
        Kept::OnDisk | Kept::InMemory => format!("it is in memory only: {error}"),
    })
}

fn into_config(
    shared: &Shared,
    record: &Record,
    reserved: Option<Reserved>,
    limit: Duration,
) -> Result<Placed> {
    let put = |document: &mut Map<String, Value>| Ok(custody::place(document, record));
    let mut locked = file::lock_within(&shared.around.config, limit)?;
    if let Ok(placed) = locked.commit_in(reserved, put) {
        return Ok(placed);
    }
    // The reserved space may have been useless, or the lock file was deleted meanwhile.
    drop(locked);
    file::lock_within(&shared.around.config, limit)?.commit(put)
}

/// Reports a pair that is not simply in its entry.
fn settle(shared: &Shared, account: &Account, placed: &Placed) {
    let name = account.profile().name.clone();
    match placed {
        Placed::Stored | Placed::Known => {}
        Placed::Removed => shared.say(format!(
            "{name}: its new tokens were dropped because the account was removed from the config"
        )),
        Placed::Beside => {
            shared.say(format!(
                "{name}: the config holds a newer login, so the refreshed tokens are kept beside it"
            ));
            if let Ok(config) = file::load(&shared.around.config)
                && let Some(Credential::Oauth(oauth)) =
                    entry_of(&config, account).map(|entry| &entry.credential)
            {
                account.with_tokens(|state| state.merge_file(&oauth.deposit()));
            }
        }
    }
}
