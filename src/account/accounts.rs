//! The live set of accounts, and what a request that was given one of them needs from it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::credential::{Account, Holding, Readiness, Ready, Unready, ready};
use super::oauth::{self, UsageReading};
use super::refresh;
use super::single_flight::{self, SingleFlight};
use super::surroundings::{Role, Shared, Surroundings};
use super::token::{Cooling, Obstacle, Plan, Switch, TokenState};
use crate::config::Config;
use crate::error;
use crate::scheduler::time::Now;
use crate::scheduler::{AccountId, Kind};

/// The live set of accounts. Its locks are held for moments only and never across I/O.
pub(crate) struct Accounts {
    pub(super) shared: Arc<Shared>,
    live: RwLock<Vec<Arc<Account>>>,
    /// Why new tokens could not be written, as far as it is known.
    pub(super) trouble: Mutex<Option<String>>,
    /// How many requests that are not decided yet have brought each account of a request. Locked
    /// while one is looked up and made.
    pub(super) bringers: Mutex<BTreeMap<AccountId, usize>>,
    /// Rung when one of them lets go.
    pub(super) let_go: Condvar,
}

impl Accounts {
    /// Without accounts yet.
    pub(crate) fn new(around: Surroundings, config: &Config) -> Accounts {
        Accounts {
            shared: Arc::new(Shared::new(around, config)),
            trouble: Mutex::default(),
            live: RwLock::default(),
            bringers: Mutex::default(),
            let_go: Condvar::new(),
        }
    }

    /// The account of that id.
    pub(crate) fn get(&self, id: AccountId) -> Option<Arc<Account>> {
        self.read_live().iter().find(|account| account.id == id).cloned()
    }

    /// The account of that name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Account>> {
        self.read_live().iter().find(|account| &*account.profile().name == name).cloned()
    }

    /// All, in the order of their registration.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.read_live().clone()
    }

    /// What a request to that account needs. Returns at once.
    pub(crate) fn credential(self: &Arc<Self>, id: AccountId) -> Readiness {
        self.ask(id, |state, switch, now| state.plan(switch, now), None)
    }

    /// The API has answered 401 to the credential of `generation`. Returns at once: the newer
    /// credential if there is one by now, else the account's one refresh, else why not.
    pub(crate) fn refused(self: &Arc<Self>, id: AccountId, generation: u64) -> Readiness {
        let plan =
            |state: &mut TokenState, switch, now| state.plan_after_401(generation, switch, now);
        self.ask(id, plan, Some(generation))
    }

    /// The same for a request that has had its refresh of this account already: no second one (SPEC
    /// T2).
    pub(crate) fn refused_again(self: &Arc<Self>, id: AccountId, generation: u64) -> Readiness {
        let plan = |state: &mut TokenState, switch, now| {
            state.plan_after_second_401(generation, switch, now)
        };
        self.ask(id, plan, Some(generation))
    }

    /// The credential of `generation` has served a request.
    pub(crate) fn served(&self, id: AccountId, generation: u64) {
        if let Some(account) = self.get(id) {
            account.served(generation);
        }
    }

    /// Who may refresh from now on. One that has handed over takes what its successor brings.
    pub(crate) fn set_role(&self, role: Role) {
        self.shared.set_role(role);
    }

    /// A request of this moment would have the token renewed.
    pub(crate) fn is_due(&self, id: AccountId) -> bool {
        let now = self.shared.now();
        self.get(id).is_some_and(|account| match &account.held().what {
            Holding::Oauth(state) => state.plan(Switch::On, now) == Plan::Refresh,
            Holding::Fixed { .. } => false,
        })
    }

    /// A refresh that failed for now may be tried again at once.
    pub(crate) fn retry(&self, id: AccountId) {
        if let Some(account) = self.get(id)
            && let Holding::Oauth(state) = &mut account.held().what
        {
            state.retry();
        }
    }

    /// Like [`Accounts::credential`], but waits for a refresh: for commands, which have no client
    /// to watch.
    pub(crate) fn credential_blocking(self: &Arc<Self>, id: AccountId) -> Result<Ready, Unready> {
        let mut readiness = self.credential(id);
        for _ in 0..ASKS_MAX {
            match readiness {
                Readiness::Ready(ready) => return Ok(ready),
                Readiness::Unready(unready) => return Err(unready),
                Readiness::Refreshing(flight) => {
                    flight.wait(refresh::LONGEST);
                    readiness = self.credential(id);
                }
            }
        }
        Err(Unready::Cooling(Cooling {
            obstacle: Obstacle::Local,
            until: self.shared.now().mono,
            why: "the refresh has not finished".to_owned(),
            is_refused: false,
        }))
    }

    /// Reads the usage endpoint for an OAuth account (SPEC T6). Blocks; refreshes as a request
    /// would, and a refusal of the endpoint condemns nothing.
    pub(crate) fn usage(self: &Arc<Self>, id: AccountId) -> UsageReading {
        let access =
            self.get(id).filter(|account| account.kind == Kind::Oauth).and_then(|account| {
                self.credential_blocking(id).ok()?;
                account.with_tokens(|state| state.tokens().access.clone())
            });
        match access {
            Some(access) => oauth::usage(
                &*self.shared.around.http,
                &self.shared.around.endpoints,
                &access,
                &*self.shared.around.now,
            ),
            None => UsageReading::Failed("it has no usable token".to_owned()),
        }
    }

    /// Waits until no refresh is in progress, at most `limit`: a process that ends in the middle of
    /// one loses the token. True if none is left.
    pub(crate) fn settle(&self, limit: Duration) -> bool {
        let end = self.shared.now().mono + limit;
        let flights: Vec<SingleFlight> =
            self.all().iter().filter_map(|account| account.held().flight.clone()).collect();
        flights.iter().all(|flight| {
            let now = self.shared.now().mono;
            flight.wait(end.since(now))
        })
    }

    fn ask(
        self: &Arc<Self>,
        id: AccountId,
        plan: impl FnOnce(&mut TokenState, Switch, Now) -> Plan,
        refused: Option<u64>,
    ) -> Readiness {
        let Some(account) = self.get(id) else {
            return Readiness::Unready(Unready::Gone);
        };
        let profile = account.profile();
        let mut held = account.held();
        let held = &mut *held;
        let state = match &mut held.what {
            Holding::Fixed { secret, generation } => {
                return if refused == Some(*generation) {
                    Readiness::Unready(Unready::CredentialRefused)
                } else {
                    Readiness::Ready(ready(&profile, secret, *generation))
                };
            }
            Holding::Oauth(state) => state,
        };
        if let Some(flight) = &held.flight {
            // Whatever was asked, the answer is in progress. A 401 to the token that is being
            // replaced says nothing new.
            return Readiness::Refreshing(flight.clone());
        }
        let switch = if profile.enabled { Switch::On } else { Switch::Off };
        let unready = match plan(state, switch, self.shared.now()) {
            Plan::Serve => match &state.tokens().access {
                Some(access) => {
                    return Readiness::Ready(ready(&profile, access, state.generation()));
                }
                None => Unready::NeedsLogin { why: "it has no token".to_owned() },
            },
            Plan::Refresh => {
                let (guard, flight) = single_flight::begin();
                match refresh::start(self.shared.clone(), account.clone(), guard) {
                    Ok(()) => {
                        held.flight = Some(flight.clone());
                        return Readiness::Refreshing(flight);
                    }
                    Err(cause) => self.not_started(state, &cause, refused.is_some()),
                }
            }
            Plan::Cooling(cooling) => Unready::Cooling(cooling),
            Plan::NeedsLogin(why) => Unready::NeedsLogin { why },
            Plan::Refused => Unready::CredentialRefused,
            Plan::Disabled => Unready::Disabled,
        };
        Readiness::Unready(unready)
    }

    fn not_started(&self, state: &mut TokenState, cause: &io::Error, is_refused: bool) -> Unready {
        let why = format!("cannot start a thread for the refresh: {}", error::reason(cause));
        let (pause, now) = (self.shared.settings().pause, self.shared.now());
        state.failed(Obstacle::Local, None, why.clone(), &pause, now);
        Unready::Cooling(Cooling { obstacle: Obstacle::Local, until: now.mono, why, is_refused })
    }

    /// Adds the account that `make` makes. The table is locked meanwhile, so that nobody looks in
    /// vain for an account whose id is already known.
    pub(super) fn add(&self, make: impl FnOnce() -> Arc<Account>) -> Arc<Account> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let account = make();
        live.push(account.clone());
        account
    }

    /// Takes an account out; requests that hold it go on with what they have.
    pub(crate) fn remove(&self, id: AccountId) -> Option<Arc<Account>> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let at = live.iter().position(|account| account.id == id)?;
        Some(live.remove(at))
    }

    fn read_live(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Account>>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refreshes that one blocking question may wait for.
const ASKS_MAX: usize = 4;
