//! The live set of accounts, and what a request needs from the account that it was given.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::credential::{
    Account, AccountProfile, Holding, Readiness, Ready, Refreshing, Unready, ready,
};
use super::oauth::{self, UsageReading};
use super::plan::{Cooling, Obstacle, Plan, Switch};
use super::refresh;
use super::single_flight::SingleFlight;
use super::surroundings::{Role, Shared, Surroundings};
use super::token::TokenState;
use crate::config::Config;
use crate::error;
use crate::scheduler::time::Now;
use crate::scheduler::{AccountId, Kind};

/// The live set of accounts. Its locks are held only briefly and never during I/O.
pub(crate) struct Accounts {
    pub(super) shared: Arc<Shared>,
    live: RwLock<Vec<Arc<Account>>>,
    /// Why new tokens could not be written, if they could not.
    pub(super) trouble: Mutex<Option<String>>,
    /// For each account from request headers, the number of requests that use it and are not
    /// answered yet. Locked while such an account is looked up or created.
    pub(super) bringers: Mutex<BTreeMap<AccountId, usize>>,
    /// Notified when one of them releases its account.
    pub(super) let_go: Condvar,
}

impl Accounts {
    /// An empty set.
    pub(crate) fn new(around: Surroundings, config: &Config) -> Accounts {
        Accounts {
            shared: Arc::new(Shared::new(around, config)),
            trouble: Mutex::default(),
            live: RwLock::default(),
            bringers: Mutex::default(),
            let_go: Condvar::new(),
        }
    }

    /// The account with that id.
    pub(crate) fn get(&self, id: AccountId) -> Option<Arc<Account>> {
        self.read_live().iter().find(|account| account.id == id).cloned()
    }

    /// The account with that name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Account>> {
        self.read_live().iter().find(|account| &*account.profile().name == name).cloned()
    }

    /// All accounts in the order of their registration.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.read_live().clone()
    }

    /// The credential for a request to that account. Returns at once.
    pub(crate) fn credential(self: &Arc<Self>, id: AccountId) -> Readiness {
        self.ask(id, |state, switch, now| state.plan(switch, now), None)
    }

    /// The same for a request that has waited for a refresh that another one has started.
    pub(crate) fn refreshed(self: &Arc<Self>, id: AccountId) -> Readiness {
        self.ask(id, |state, switch, now| state.plan_after_refresh(switch, now), None)
    }

    /// The API has answered 401 to the credential of `generation`. Returns at once: a newer
    /// credential if there is one by now, else the account's one refresh, else why there is
    /// neither.
    pub(crate) fn refused(self: &Arc<Self>, id: AccountId, generation: u64) -> Readiness {
        let plan =
            |state: &mut TokenState, switch, now| state.plan_after_401(generation, switch, now);
        self.ask(id, plan, Some(generation))
    }

    /// The same for a request that has already had a refresh of this account: it does not get a
    /// second one (SPEC T2).
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

    /// Sets who may refresh from now on. A process that has handed over uses the tokens that its
    /// successor writes.
    pub(crate) fn set_role(&self, role: Role) {
        self.shared.set_role(role);
    }

    /// Whether a request now would have the token refreshed.
    pub(crate) fn is_due(&self, id: AccountId) -> bool {
        let now = self.shared.now();
        self.get(id).is_some_and(|account| match &account.held().what {
            Holding::Oauth(state) => state.plan(Switch::On, now) == Plan::Refresh,
            Holding::Fixed { .. } => false,
        })
    }

    /// Allows another attempt at once after a temporary failure of a refresh.
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
                Readiness::Refreshing(refreshing) => {
                    refreshing.flight.wait(refresh::LONGEST);
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

    /// Reads the usage endpoint for an OAuth account (SPEC T6). Blocks, and refreshes as a request
    /// would; a refusal by this endpoint has no effect on the account.
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

    /// Waits until no refresh is in progress, at most `limit`, because a process that ends during a
    /// refresh loses the token. Returns true if none is left.
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
        let now = self.shared.now();
        let switch = if profile.enabled { Switch::On } else { Switch::Off };
        let (flight, is_ours) = match &held.flight {
            // Whatever was asked, the refresh in progress will answer it. A 401 to the token that
            // is being replaced says nothing new.
            Some(flight) => (flight.clone(), false),
            None => match plan(state, switch, now) {
                Plan::Refresh => match refresh::start(&self.shared, &account) {
                    Ok(flight) => {
                        held.flight_generation = state.generation();
                        (held.flight.insert(flight).clone(), true)
                    }
                    Err(cause) => {
                        let cooling = self.not_started(state, &cause);
                        return match refused {
                            Some(_) => Readiness::Unready(cooling),
                            None => planned(state.plan(switch, now), state, &profile),
                        };
                    }
                },
                other => return planned(other, state, &profile),
            },
        };
        // A token that the refresh has brought is not used before the refresh has stored it.
        let is_good = state.is_usable(now)
            && state.generation() == held.flight_generation
            && refused != Some(state.generation());
        let limit = match flight.left_of(GOOD_TOKEN_WAIT) {
            None if is_good => return planned(Plan::Serve, state, &profile),
            Some(left) if is_good => left,
            Some(_) | None => refresh::LONGEST,
        };
        Readiness::Refreshing(Refreshing { flight, limit, is_ours })
    }

    /// Records that a refresh could not start. Gives what that means for a token that was refused.
    fn not_started(&self, state: &mut TokenState, cause: &io::Error) -> Unready {
        let why = format!("cannot start a thread for the refresh: {}", error::reason(cause));
        let (pause, now) = (self.shared.settings().pause, self.shared.now());
        state.failed(Obstacle::Local, None, why.clone(), &pause, now);
        Unready::Cooling(Cooling {
            obstacle: Obstacle::Local,
            until: now.mono,
            why,
            is_refused: true,
        })
    }

    /// Adds the account that `make` creates. The table is locked meanwhile, so that no lookup of an
    /// id that is already known fails.
    pub(super) fn add(&self, make: impl FnOnce() -> Arc<Account>) -> Arc<Account> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let account = make();
        live.push(account.clone());
        account
    }

    /// Removes an account; requests that use it continue with their credential.
    pub(crate) fn remove(&self, id: AccountId) -> Option<Arc<Account>> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let at = live.iter().position(|account| account.id == id)?;
        Some(live.remove(at))
    }

    fn read_live(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Account>>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a plan other than [`Plan::Refresh`].
fn planned(plan: Plan, state: &TokenState, profile: &AccountProfile) -> Readiness {
    Readiness::Unready(match (plan, &state.tokens().access) {
        (Plan::Serve, Some(access)) => {
            return Readiness::Ready(ready(profile, access, state.generation()));
        }
        (Plan::Serve | Plan::Refresh, _) => {
            Unready::NeedsLogin { why: "it has no token".to_owned() }
        }
        (Plan::Cooling(cooling), _) => Unready::Cooling(cooling),
        (Plan::NeedsLogin(why), _) => Unready::NeedsLogin { why },
        (Plan::Refused, _) => Unready::CredentialRefused,
        (Plan::Disabled, _) => Unready::Disabled,
    })
}

/// A request whose token is still good waits only as long as an endpoint usually takes, and then
/// uses the old token while the refresh continues: the endpoint or a lock may hang (SPEC T2).
const GOOD_TOKEN_WAIT: Duration = Duration::from_secs(5);
/// Refreshes that one blocking call may wait for.
const ASKS_MAX: usize = 4;
