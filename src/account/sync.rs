//! Hot sync (SPEC A7): what a newly read config changes in the live set, as a plain value, and how
//! it is applied.
//!
//! `control/reload` applies it piece by piece to the scheduler and to this set, so that both know
//! the same accounts. Accounts from request headers (SPEC V1) are not affected: `proxy` adds them,
//! and `control` removes the unused ones.

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
    /// To be added: the scheduler assigns an id, then [`Accounts::insert`].
    pub(crate) added: Vec<AccountEntry>,
    /// To be removed: [`Accounts::remove`]; the scheduler lets them drain.
    pub(crate) removed: Vec<AccountId>,
    /// To be changed: [`Accounts::update`].
    pub(crate) changed: Vec<Change>,
}

/// An account that differs from its entry in the config.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) id: AccountId,
    /// Its new entry.
    pub(crate) entry: AccountEntry,
    /// The same for the scheduler.
    pub(crate) spec: AccountSpec,
    /// For display, such as `priority 0 -> 5`. Contains no credential.
    pub(crate) said: Vec<String>,
}

/// The effect of an update on the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CredentialChange {
    /// Tell the scheduler, so that it ends the blocks that only a new credential can end.
    New,
    Same,
}

/// A request's claim to the account that its headers describe: the account keeps its token and
/// address while a claim exists. Dropped as soon as it is certain where the request is served.
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

/// The effect of a request's headers on the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OfRequest {
    /// The account is new, and has this name.
    Added(Arc<str>),
    /// Its models changed.
    Changed,
    /// It is unchanged.
    Known,
    /// The config has an account of that name, which stays as it is and serves instead.
    Outranked,
}

/// The limit of different tokens in use for one provider is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyAtOnce;

impl Accounts {
    /// What `config` would change. Changes nothing itself.
    pub(crate) fn diff(&self, config: &Config) -> Diff {
        let (mut left, of_requests): (Vec<_>, Vec<_>) =
            self.all().into_iter().partition(|account| account.profile().origin == Origin::Config);
        let mut diff = Diff::default();
        for entry in &config.accounts {
            let same = |account: &Arc<Account>| {
                account.kind == kind_of(entry)
                    && account.profile().identity().is_same(&entry.identity())
            };
            // An account that was renamed in the file still has its token.
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
        // A name in the config takes precedence over one from request headers.
        let has_name = |account: &&Arc<Account>| {
            let profile = account.profile();
            config.accounts.iter().any(|entry| *entry.name == *profile.name)
        };
        let outranked = of_requests.iter().filter(has_name);
        diff.removed = left.iter().chain(outranked).map(|account| account.id).collect();
        diff
    }

    /// Applies the settings apart from the accounts; call it before the accounts of the same config
    /// are applied.
    pub(crate) fn set_settings(&self, config: &Config) {
        self.shared.set_settings(config);
    }

    /// The scheduler's view of `entry`, to get an id for it.
    pub(crate) fn spec_of(&self, entry: &AccountEntry, origin: Origin) -> AccountSpec {
        AccountProfile::of(entry, &self.shared.settings(), origin).for_scheduler(kind_of(entry))
    }

    /// Registers an account under the id that `give` gets from the scheduler. The table is locked
    /// meanwhile: the scheduler may give the new account to a waiting request at once, and that
    /// request must find it here.
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

    /// Registers an account under an id that was assigned already.
    pub(crate) fn insert(
        &self,
        id: AccountId,
        entry: &AccountEntry,
        origin: Origin,
    ) -> Arc<Account> {
        self.register(entry, origin, |_| id)
    }

    /// Changes an account to match `entry`. Tokens are merged, so an entry that was read before a
    /// refresh ended does no harm.
    pub(crate) fn update(&self, id: AccountId, entry: &AccountEntry) -> CredentialChange {
        let Some(account) = self.get(id) else {
            return CredentialChange::Same;
        };
        let before = account.profile();
        let profile = AccountProfile::of(entry, &self.shared.settings(), before.origin);
        account.set_profile(profile);
        if entry.enabled && !before.enabled {
            // Enabling an account lifts its blocks, like a retry (SPEC P7, ways out).
            self.retry(id);
        }
        let is_new = match (&mut account.held().what, &entry.credential) {
            (Holding::Oauth(state), Credential::Oauth(oauth)) => {
                state.merge_file(&oauth.deposit(), self.shared.now())
            }
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

    /// Finds or creates the account that a request's headers describe (SPEC V1).
    ///
    /// An account is identified by its provider, token and address, so that what is learned about
    /// one never affects another. A new token or address takes the name and the place of an account
    /// that no request needs any more. If all are needed, because clients use different tokens at
    /// the same time, it is registered beside them under a name of its own.
    ///
    /// `register` removes the replaced account from the scheduler and assigns an id to the new one.
    /// It is called with locks of this set held, and must not call this set.
    pub(crate) fn of_request(
        self: &Arc<Self>,
        entry: &AccountEntry,
        register: impl FnOnce(Option<AccountId>, AccountSpec) -> AccountId,
    ) -> Result<(OfRequest, Option<Brought>), TooManyAtOnce> {
        // A request that has just been answered releases its account a moment after its client has
        // seen the answer.
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
        // Its name may have a number appended, and a user's disable is kept.
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
        // One that a user has disabled is replaced last, because its successor is disabled too.
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

    /// The accounts from request headers for this provider.
    fn of_provider(&self, entry: &AccountEntry) -> Vec<Arc<Account>> {
        let is_own = |account: &Arc<Account>| {
            let profile = account.profile();
            profile.origin == Origin::Request && *profile.provider == *entry.provider
        };
        let mut own = self.all();
        own.retain(is_own);
        own
    }

    /// This name, or the first unused one of `name-2`, `name-3`, …
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

    /// Accounts from request headers that no request has used for a day, to be removed. One that a
    /// user has disabled stays, or it would come back enabled.
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

    /// Lets the dashboard and the routes enable or disable an account before the file is written.
    pub(crate) fn set_enabled(&self, id: AccountId, enabled: bool) {
        if let Some(account) = self.get(id) {
            account.set_enabled(enabled);
        }
    }
}

/// Whether a request has the same token and address.
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
/// Different tokens of one provider that clients may use at the same time.
const AT_ONCE_MAX: usize = 16;
/// How long a new token waits for the name of an account whose last request may have just been
/// answered.
const LET_GO_WAIT: Duration = Duration::from_millis(50);

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
