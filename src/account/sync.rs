//! Hot sync (SPEC A7): what a freshly read config changes in the live set, as a plain value, and
//! how it is applied.
//!
//! `control/reload` applies it, piece by piece, to the scheduler and to this set, so that both know
//! the same accounts. Accounts of request headers (SPEC V1) are left alone; `proxy` brings them,
//! and `control` takes out those that nobody brings any more.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::accounts::Accounts;
use super::credential::{Account, AccountProfile, Holding, Origin, kind_of};
use super::surroundings::Settings;
use crate::config::{AccountEntry, Config, Credential};
use crate::scheduler::{AccountId, AccountSpec, Kind};

/// What a config changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Diff {
    /// To be registered: the scheduler gives an id, then [`Accounts::insert`].
    pub(crate) added: Vec<AccountEntry>,
    /// To be taken out: [`Accounts::remove`]; the scheduler lets them drain.
    pub(crate) removed: Vec<AccountId>,
    /// To be changed: [`Accounts::update`].
    pub(crate) changed: Vec<Change>,
}

/// One account that the config shows in another way than it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) id: AccountId,
    /// As it should be.
    pub(crate) entry: AccountEntry,
    /// The same for the scheduler.
    pub(crate) spec: AccountSpec,
    /// For people, such as `priority 0 -> 5`. Holds no credential.
    pub(crate) said: Vec<String>,
}

/// What became of a credential in an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CredentialChange {
    /// Tell the scheduler, so that it ends the blocks that only a new credential ends.
    New,
    Same,
}

/// A request's hold on an account that its headers describe: as long as it lasts, the account keeps
/// its token and its address. Dropped as soon as it is certain where the request is served.
pub(crate) struct Brought {
    id: AccountId,
    accounts: Arc<Accounts>,
}

impl Brought {
    pub(crate) fn id(&self) -> AccountId {
        self.id
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        let mut bringers = self.accounts.bringers();
        if let Some(count) = bringers.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                bringers.remove(&self.id);
            }
        }
        self.accounts.let_go.notify_all();
    }
}

/// What became of an account that a request's headers describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OfRequest {
    /// It is new, and has this name.
    Added(Arc<str>),
    /// The models to ask for became others.
    Changed,
    /// It is as it was.
    Known,
    /// The config has an account of that name, which stays as it is and serves in its place.
    Outranked,
}

/// As many different tokens of one provider are in use as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyAtOnce;

impl Accounts {
    /// What `config` changes. Changes nothing by itself.
    pub(crate) fn diff(&self, config: &Config) -> Diff {
        let (mut left, of_requests): (Vec<_>, Vec<_>) =
            self.all().into_iter().partition(|account| account.profile().origin == Origin::Config);
        let mut diff = Diff::default();
        for entry in &config.accounts {
            let same = |account: &Arc<Account>| {
                account.kind == kind_of(entry)
                    && account.profile().identity().is_same(&entry.identity())
            };
            // One that a person has given another name in the file still holds its token.
            let renamed = |account: &Arc<Account>| match &entry.credential {
                Credential::Oauth(oauth) => {
                    let profile = account.profile();
                    let has_own =
                        |other: &AccountEntry| other.identity().is_same(&profile.identity());
                    account.kind == Kind::Oauth
                        && !config.accounts.iter().any(has_own)
                        && account.with_tokens(|state| {
                            state.custody().shares_a_token_with(&oauth.deposit())
                        })
                }
                Credential::ApiKey(_) | Credential::Provider(_) => false,
            };
            let known = left.iter().position(same).or_else(|| left.iter().position(renamed));
            match known {
                Some(at) => diff.changed.extend(change(&left.remove(at), entry, config)),
                None => diff.added.push(entry.clone()),
            }
        }
        // A name of the config outranks one that only a request's headers gave.
        let has_name = |account: &&Arc<Account>| {
            let profile = account.profile();
            config.accounts.iter().any(|entry| *entry.name == *profile.name)
        };
        let outranked = of_requests.iter().filter(has_name);
        diff.removed = left.iter().chain(outranked).map(|account| account.id).collect();
        diff
    }

    /// The settings beside the accounts; to be called before the accounts of the same config are
    /// applied.
    pub(crate) fn set_settings(&self, config: &Config) {
        self.shared.set_settings(config);
    }

    /// What the scheduler needs to know to give `entry` an id.
    pub(crate) fn spec_of(&self, entry: &AccountEntry, origin: Origin) -> AccountSpec {
        AccountProfile::of(entry, &self.shared.settings(), origin).for_scheduler(kind_of(entry))
    }

    /// Registers an account under the id that `give` gets from the scheduler. The table is locked
    /// meanwhile: giving an id may hand the account to a request that waits, whose worker is not to
    /// look for it in vain.
    pub(crate) fn register(
        &self,
        entry: &AccountEntry,
        origin: Origin,
        give: impl FnOnce(AccountSpec) -> AccountId,
    ) -> Arc<Account> {
        let spec = self.spec_of(entry, origin);
        let profile = AccountProfile::of(entry, &self.shared.settings(), origin);
        let now = self.shared.now().mono;
        self.add(|| Arc::new(Account::new(give(spec), entry, profile, now)))
    }

    /// Registers an account under an id that is given already.
    pub(crate) fn insert(
        &self,
        id: AccountId,
        entry: &AccountEntry,
        origin: Origin,
    ) -> Arc<Account> {
        self.register(entry, origin, |_| id)
    }

    /// Makes an account what `entry` says. Tokens are merged, so an entry that was read before a
    /// refresh ended does no harm.
    pub(crate) fn update(&self, id: AccountId, entry: &AccountEntry) -> CredentialChange {
        let Some(account) = self.get(id) else {
            return CredentialChange::Same;
        };
        let before = account.profile();
        let profile = AccountProfile::of(entry, &self.shared.settings(), before.origin);
        account.set_profile(profile);
        if entry.enabled && !before.enabled {
            // As a retry does (SPEC P7, ways out).
            self.retry(id);
        }
        let is_new = match (&mut account.held().what, &entry.credential) {
            (Holding::Oauth(state), Credential::Oauth(oauth)) => state.merge_file(&oauth.deposit()),
            (
                Holding::Fixed { secret, generation },
                Credential::ApiKey(new) | Credential::Provider(new),
            ) if secret != new => {
                *secret = new.clone();
                *generation += 1;
                true
            }
            _ => false,
        };
        if is_new { CredentialChange::New } else { CredentialChange::Same }
    }

    /// Finds or makes the account that a request's headers describe (SPEC V1).
    ///
    /// An account is what its provider, its token and its address are, so what is learned of one
    /// never concerns another. One with a new token or address takes the name, and the place, of
    /// one that no request needs any more. While all are needed, because clients bring different
    /// tokens at once, it is registered beside them under a name of its own.
    ///
    /// `register` takes the account that is replaced out of the scheduler and gives the new one its
    /// id; it is called with locks of this set held, and must not ask this set anything.
    pub(crate) fn of_request(
        self: &Arc<Self>,
        entry: &AccountEntry,
        register: impl FnOnce(Option<AccountId>, AccountSpec) -> AccountId,
    ) -> Result<(OfRequest, Option<Brought>), TooManyAtOnce> {
        // A request that has just been answered lets go a moment after its client has seen the
        // answer.
        let is_crowded = |bringers: &mut BTreeMap<AccountId, usize>| {
            let own = self.of_provider(entry);
            let is_needed = |account: &Arc<Account>| bringers.contains_key(&account.id);
            !own.is_empty()
                && own.iter().all(is_needed)
                && !own.iter().any(|account| is_same(account, entry))
        };
        let waited = self.let_go.wait_timeout_while(self.bringers(), LET_GO_WAIT, is_crowded);
        let (mut bringers, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let of_config = |account: Arc<Account>| account.profile().origin == Origin::Config;
        if self.by_name(&entry.name).is_some_and(of_config) {
            return Ok((OfRequest::Outranked, None));
        }
        let own = self.of_provider(entry);
        let (what, id) = match own.iter().find(|account| is_same(account, entry)) {
            Some(account) => (self.brought_again(account, entry), account.id),
            None => {
                let account = self.brought_first(entry, &own, &bringers, register)?;
                (OfRequest::Added(account.profile().name.clone()), account.id)
            }
        };
        *bringers.entry(id).or_default() += 1;
        let brought = Brought { id, accounts: Arc::clone(self) };
        Ok((what, Some(brought)))
    }

    fn brought_again(&self, account: &Arc<Account>, entry: &AccountEntry) -> OfRequest {
        account.touch(self.shared.now().mono);
        let old = account.profile();
        // Its name may have a number behind it, and a user's disable stays.
        let entry =
            AccountEntry { name: old.name.to_string(), enabled: old.enabled, ..entry.clone() };
        if AccountProfile::of(&entry, &self.shared.settings(), Origin::Request) == *old {
            return OfRequest::Known;
        }
        self.update(account.id, &entry);
        OfRequest::Changed
    }

    fn brought_first(
        &self,
        entry: &AccountEntry,
        own: &[Arc<Account>],
        bringers: &BTreeMap<AccountId, usize>,
        register: impl FnOnce(Option<AccountId>, AccountSpec) -> AccountId,
    ) -> Result<Arc<Account>, TooManyAtOnce> {
        let idle = own.iter().filter(|account| !bringers.contains_key(&account.id));
        // One that a user has disabled goes last: its successor is disabled as well.
        let replaced = idle.min_by_key(|account| (!account.profile().enabled, account.touched()));
        let entry = match replaced {
            Some(old) => AccountEntry {
                name: old.profile().name.to_string(),
                enabled: old.profile().enabled,
                ..entry.clone()
            },
            None if own.len() >= AT_ONCE_MAX => return Err(TooManyAtOnce),
            None => AccountEntry {
                name: self.free_name(&entry.name),
                enabled: own.iter().all(|account| account.profile().enabled),
                ..entry.clone()
            },
        };
        let old = replaced.map(|account| account.id);
        if let Some(id) = old {
            self.remove(id);
        }
        Ok(self.register(&entry, Origin::Request, |spec| register(old, spec)))
    }

    /// The accounts that requests have brought for this provider.
    fn of_provider(&self, entry: &AccountEntry) -> Vec<Arc<Account>> {
        let is_own = |account: &Arc<Account>| {
            let profile = account.profile();
            profile.origin == Origin::Request && *profile.provider == *entry.provider
        };
        let mut own = self.all();
        own.retain(is_own);
        own
    }

    /// This name, or the first of `name-2`, `name-3`, … that no account has.
    fn free_name(&self, name: &str) -> String {
        if self.by_name(name).is_none() {
            return name.to_owned();
        }
        let mut numbered = (2..).map(|number: u32| format!("{name}-{number}"));
        let free = numbered.find(|name| self.by_name(name).is_none());
        free.unwrap_or_else(|| name.to_owned())
    }

    fn bringers(&self) -> MutexGuard<'_, BTreeMap<AccountId, usize>> {
        self.bringers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accounts of requests that no request has brought for a day, to be taken out. One that a user
    /// has disabled stays, or it would come back enabled.
    pub(crate) fn forgotten(&self) -> Vec<AccountId> {
        let now = self.shared.now().mono;
        let bringers = self.bringers();
        let is_forgotten = |account: &&Arc<Account>| {
            let profile = account.profile();
            profile.origin == Origin::Request
                && profile.enabled
                && !bringers.contains_key(&account.id)
                && now.since(account.touched()) > FORGET_AFTER
        };
        self.all().iter().filter(is_forgotten).map(|account| account.id).collect()
    }

    /// The dashboard and the routes switch an account before the file says so.
    pub(crate) fn set_enabled(&self, id: AccountId, enabled: bool) {
        if let Some(account) = self.get(id) {
            account.set_enabled(enabled);
        }
    }
}

/// Whether a request brings the same token for the same address.
fn is_same(account: &Account, entry: &AccountEntry) -> bool {
    Some(&account.profile().upstream) == entry.upstream.as_ref()
        && !credential_differs(account, &entry.credential)
}

fn change(account: &Account, entry: &AccountEntry, config: &Config) -> Option<Change> {
    let old = account.profile();
    let new = AccountProfile::of(entry, &Settings::of(config), old.origin);
    let mut said = Vec::new();
    let mut say = |what: &str, old: &dyn std::fmt::Display, new: &dyn std::fmt::Display| {
        said.push(format!("{what} {old} -> {new}"));
    };
    if old.name != new.name {
        say("name", &old.name, &new.name);
    }
    if old.enabled != new.enabled {
        say("enabled", &old.enabled, &new.enabled);
    }
    if old.priority != new.priority {
        say("priority", &old.priority, &new.priority);
    }
    if old.profiles != new.profiles {
        say("profiles", &old.profiles.join(","), &new.profiles.join(","));
    }
    if old.upstream != new.upstream {
        say("upstream", &old.upstream.as_str(), &new.upstream.as_str());
    }
    if credential_differs(account, &entry.credential) {
        said.push("new credential".to_owned());
    }
    if said.is_empty() && *old != new {
        said.push("settings".to_owned());
    }
    (!said.is_empty()).then(|| Change {
        id: account.id,
        spec: new.for_scheduler(account.kind),
        entry: entry.clone(),
        said,
    })
}

fn credential_differs(account: &Account, new: &Credential) -> bool {
    match (&account.held().what, new) {
        (Holding::Oauth(state), Credential::Oauth(oauth)) => state.would_take(&oauth.deposit()),
        (Holding::Fixed { secret, .. }, Credential::ApiKey(new) | Credential::Provider(new)) => {
            secret != new
        }
        _ => false,
    }
}

/// SPEC V1: dropped after a day unused.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Different tokens of one provider that clients may bring at once.
const AT_ONCE_MAX: usize = 16;
/// How long a new token waits for the name of an account whose last request may have been answered
/// just now.
const LET_GO_WAIT: Duration = Duration::from_millis(50);

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
