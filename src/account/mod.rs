//! Accounts: who they are, what they have to show, and what answers say about their quota.
//!
//! [`Accounts`] is the live set. A request asks it for the credential of the account that the scheduler has chosen
//! ([`Accounts::credential`]) and tells it of a 401 ([`Accounts::refused`]); either may start the account's one refresh,
//! see [`refresh`]. A hot sync asks what a freshly read config changes ([`Accounts::diff`]) and applies it piece by piece.
//!
//! Nothing in here decides where a request goes, locks the scheduler, or prints. Credentials leave it only as header
//! values and in the config file.

#[cfg(test)]
mod fuzz_tests;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod oauth;
pub(crate) mod provider;
mod refresh;
mod refresh_lock;
pub(crate) mod sign_in;
mod single_flight;
pub(crate) mod sync;
mod token;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::config::{
    AccountEntry, AuthHeader, BaseUrl, Config, Credential, Identity, ImportFrom, Secret,
};
use crate::error;
use crate::event::Events;
use crate::scheduler::time::{Mono, Now, Wall};
use crate::scheduler::{Access, AccountId, AccountSpec, Kind};

use http::Http;
use oauth::{Endpoints, UsageReading};
use refresh_lock::RefreshLock;
pub(crate) use single_flight::SingleFlight;
pub(crate) use token::{Cooling, Obstacle};
use token::{Pause, Plan, Switch, TokenState, Tokens};

/// What the live set works with.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// The config file, where new pairs are stored.
    pub(crate) config: PathBuf,
    /// The network.
    pub(crate) http: Arc<Http>,
    /// The OAuth endpoints.
    pub(crate) endpoints: Endpoints,
    /// Where refreshes are reported.
    pub(crate) events: Events,
    /// `clock::now`, or a test's own clock.
    pub(crate) now: Arc<dyn Fn() -> Now + Send + Sync>,
    /// The home directory, for `~/` in `importFrom`.
    pub(crate) home: Option<PathBuf>,
    /// Called when a refresh has changed an account's tokens, before those who wait for it go on: the scheduler's blocks
    /// for the old credential end. Called without any lock held.
    pub(crate) renewed: Arc<dyn Fn(AccountId) + Send + Sync>,
}

/// The live set of accounts. Its locks are held for moments only and never across I/O.
pub(crate) struct Accounts {
    around: Surroundings,
    live: RwLock<Vec<Arc<Account>>>,
    settings: RwLock<Settings>,
    /// The config file's lock, for refreshes.
    refresh_lock: RefreshLock,
    /// Why new tokens could not be written, as far as it was said.
    trouble: Mutex<Option<String>>,
    /// How many requests that are not decided yet have brought each account of a request. Locked
    /// while one is looked up and made.
    bringers: Mutex<BTreeMap<AccountId, usize>>,
    /// Rung when one of them lets go.
    let_go: Condvar,
}

/// What the config says beside the accounts.
#[derive(Clone)]
struct Settings {
    upstream: BaseUrl,
    pause: Pause,
}

/// One account.
pub(crate) struct Account {
    id: AccountId,
    kind: Kind,
    profile: RwLock<Arc<AccountProfile>>,
    held: Mutex<Held>,
    /// When a request last brought it; only for [`Origin::Request`].
    touched: AtomicU64,
}

/// Everything about an account but its credential; replaced as a whole by a hot sync.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AccountProfile {
    /// Unique, for people.
    pub(crate) name: Arc<str>,
    /// `enabled`.
    pub(crate) enabled: bool,
    /// Lower is preferred.
    pub(crate) priority: i64,
    /// `profiles`.
    pub(crate) profiles: Vec<Arc<str>>,
    /// `accountUuid`.
    pub(crate) account_uuid: Option<Arc<str>>,
    /// `orgUuid`.
    pub(crate) org_uuid: Option<Arc<str>>,
    /// `provider`.
    pub(crate) provider: Arc<str>,
    /// Where its requests go.
    pub(crate) upstream: BaseUrl,
    /// In which header its credential goes.
    pub(crate) auth_header: AuthHeader,
    /// `model`.
    pub(crate) model: Option<Arc<str>>,
    /// `modelMap`.
    pub(crate) model_map: Arc<[(String, String)]>,
    /// `stripBetaHeaders`.
    pub(crate) strip_beta_headers: bool,
    /// `importFrom`.
    import_from: Option<ImportFrom>,
    /// Where the account comes from.
    pub(crate) origin: Origin,
}

/// Where an account comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The config file.
    Config,
    /// A request's headers (SPEC V1): never written to disk, and only for requests that bring the
    /// same token and address.
    Request,
}

/// The credential and what is under way with it.
struct Held {
    what: Holding,
    flight: Option<SingleFlight>,
}

enum Holding {
    /// An API key or a provider's token.
    Fixed { secret: Secret, generation: u64 },
    /// An OAuth account's tokens.
    Oauth(Box<TokenState>),
}

/// A credential, ready for a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ready {
    /// `authorization` or `x-api-key`.
    pub(crate) header: &'static str,
    /// The header's value.
    pub(crate) value: Secret,
    /// Say this with [`Accounts::refused`].
    pub(crate) generation: u64,
}

/// Why there is no credential.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Unready {
    /// Only a new login helps: the scheduler's `NeedsLogin`.
    NeedsLogin {
        /// In words.
        why: String,
    },
    /// An API key or a provider's token was refused: the scheduler's `CredentialRefused`.
    CredentialRefused,
    /// A refresh failed for now: a cooldown until then.
    Cooling(Cooling),
    /// Its token has run out and a disabled account does not refresh.
    Disabled,
    /// There is no such account any more.
    Gone,
}

/// The state of an account's credential.
#[derive(Clone, Debug)]
pub(crate) enum Readiness {
    /// Send it.
    Ready(Ready),
    /// A refresh is under way. When the flight has ended, ask [`Accounts::credential`] again.
    Refreshing(SingleFlight),
    /// There is none.
    Unready(Unready),
}

impl Accounts {
    /// Without accounts yet.
    pub(crate) fn new(around: Surroundings, config: &Config) -> Accounts {
        Accounts {
            refresh_lock: RefreshLock::new(around.config.clone()),
            trouble: Mutex::default(),
            around,
            live: RwLock::default(),
            settings: RwLock::new(Settings::of(config)),
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

    /// The account that is the same as `who` (SPEC A4).
    #[cfg(test)]
    pub(crate) fn by_identity(&self, who: &Identity<'_>) -> Option<Arc<Account>> {
        self.read_live().iter().find(|account| account.profile().identity().is_same(who)).cloned()
    }

    /// All, in the order of their registration.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.read_live().clone()
    }

    /// What a request to that account needs. Returns at once.
    pub(crate) fn credential(self: &Arc<Self>, id: AccountId) -> Readiness {
        self.ask(id, |state, switch, now| state.plan(switch, now), None)
    }

    /// The API has answered 401 to the credential of `generation`. Returns at once: the newer credential if there is one
    /// by now, else the account's one refresh, else why not.
    pub(crate) fn refused(self: &Arc<Self>, id: AccountId, generation: u64) -> Readiness {
        let plan =
            |state: &mut TokenState, switch, now| state.plan_after_401(generation, switch, now);
        self.ask(id, plan, Some(generation))
    }

    /// The same for a credential that this request got from [`Accounts::refused`] already: no second refresh (SPEC P7).
    pub(crate) fn refused_again(self: &Arc<Self>, id: AccountId, generation: u64) -> Readiness {
        let plan = |state: &mut TokenState, switch, now| {
            state.plan_after_second_401(generation, switch, now)
        };
        self.ask(id, plan, Some(generation))
    }

    /// Like [`Accounts::credential`], but waits for a refresh: for commands, which have no client to watch.
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
            until: (self.around.now)().mono,
            why: "the refresh does not end".to_owned(),
        }))
    }

    /// Reads the usage endpoint for an OAuth account (SPEC T6). Blocks; refreshes as a request would, and a refusal of the
    /// endpoint condemns nothing.
    pub(crate) fn usage(self: &Arc<Self>, id: AccountId) -> UsageReading {
        let access =
            self.get(id).filter(|account| account.kind == Kind::Oauth).and_then(|account| {
                self.credential_blocking(id).ok()?;
                account.with_tokens(|state| state.tokens().access.clone())
            });
        match access {
            Some(access) => {
                oauth::usage(&*self.around.http, &self.around.endpoints, &access, &*self.around.now)
            }
            None => UsageReading::Failed("it has no usable token".to_owned()),
        }
    }

    /// Waits until no refresh is under way, at most `limit`: a process that ends in the middle of one loses the token.
    /// True if none is left.
    pub(crate) fn settle(&self, limit: Duration) -> bool {
        let end = (self.around.now)().mono + limit;
        let flights: Vec<SingleFlight> =
            self.all().iter().filter_map(|account| account.held().flight.clone()).collect();
        flights.iter().all(|flight| {
            let now = (self.around.now)().mono;
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
            // Whatever was asked, the answer is under way. A 401 to the token that is being replaced says nothing new.
            return Readiness::Refreshing(flight.clone());
        }
        let switch = if profile.enabled { Switch::On } else { Switch::Off };
        let unready = match plan(state, switch, (self.around.now)()) {
            Plan::Serve => match &state.tokens().access {
                Some(access) => {
                    return Readiness::Ready(ready(&profile, access, state.generation()));
                }
                None => Unready::NeedsLogin { why: "it has no token".to_owned() },
            },
            Plan::Refresh => {
                let (guard, flight) = single_flight::begin();
                match refresh::start(self.clone(), account.clone(), guard) {
                    Ok(()) => {
                        held.flight = Some(flight.clone());
                        return Readiness::Refreshing(flight);
                    }
                    Err(cause) => {
                        let why = format!(
                            "cannot start a thread for the refresh: {}",
                            error::reason(&cause)
                        );
                        let now = (self.around.now)();
                        state.failed(
                            Obstacle::Local,
                            None,
                            why.clone(),
                            &self.settings().pause,
                            now,
                        );
                        Unready::Cooling(Cooling {
                            obstacle: Obstacle::Local,
                            until: now.mono,
                            why,
                        })
                    }
                }
            }
            Plan::Cooling(cooling) => Unready::Cooling(cooling),
            Plan::NeedsLogin(why) => Unready::NeedsLogin { why },
            Plan::Disabled => Unready::Disabled,
        };
        Readiness::Unready(unready)
    }

    fn read_live(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Account>>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Account {
    /// The scheduler's number for it.
    pub(crate) fn id(&self) -> AccountId {
        self.id
    }

    /// What kind of credential it has; that never changes.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Everything but the credential, as of now.
    pub(crate) fn profile(&self) -> Arc<AccountProfile> {
        self.profile.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of its credential, for the status: `valid`, `expired` or `needs login`.
    pub(crate) fn credential_state(&self, now: Wall) -> &'static str {
        match &self.held().what {
            Holding::Fixed { .. } => "valid",
            Holding::Oauth(state) => state.word(now),
        }
    }

    /// When its access token ends, for `accounts -v`; `None` for keys and where it is not known.
    pub(crate) fn expires_at(&self) -> Option<Wall> {
        match &self.held().what {
            Holding::Fixed { .. } => None,
            Holding::Oauth(state) => state.tokens().expires_at,
        }
    }

    fn touch(&self, now: Mono) {
        self.touched.store(now.0, Ordering::Relaxed);
    }

    fn touched(&self) -> Mono {
        Mono(self.touched.load(Ordering::Relaxed))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccountProfile {
    /// Who this is (SPEC A4).
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            account_uuid: self.account_uuid.as_deref(),
            org_uuid: self.org_uuid.as_deref(),
        }
    }

    /// What the scheduler needs to know.
    pub(crate) fn for_scheduler(&self, kind: Kind) -> AccountSpec {
        AccountSpec {
            name: self.name.clone(),
            kind,
            enabled: self.enabled,
            priority: self.priority,
            profiles: self.profiles.clone(),
            access: match self.origin {
                Origin::Config => Access::Everyone,
                Origin::Request => Access::Bringers,
            },
        }
    }
}

impl Settings {
    fn of(config: &Config) -> Settings {
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

impl Holding {
    fn of(credential: &Credential) -> Holding {
        match credential {
            Credential::Oauth(tokens) => {
                Holding::Oauth(Box::new(TokenState::new(Tokens::of(tokens))))
            }
            Credential::ApiKey(secret) | Credential::Provider(secret) => {
                Holding::Fixed { secret: secret.clone(), generation: 1 }
            }
        }
    }
}

/// The scheduler's word for the type of an entry.
pub(crate) fn kind_of(entry: &AccountEntry) -> Kind {
    match entry.credential {
        Credential::Oauth(_) => Kind::Oauth,
        Credential::ApiKey(_) => Kind::ApiKey,
        Credential::Provider(_) => Kind::Provider,
    }
}

fn ready(profile: &AccountProfile, secret: &Secret, generation: u64) -> Ready {
    let (header, value) = match profile.auth_header {
        AuthHeader::Authorization => {
            ("authorization", Secret::new(format!("Bearer {}", secret.expose())))
        }
        AuthHeader::XApiKey => ("x-api-key", secret.clone()),
    };
    Ready { header, value, generation }
}

/// Refreshes that one blocking question may wait for.
const ASKS_MAX: usize = 4;
