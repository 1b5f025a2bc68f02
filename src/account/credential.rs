//! One account: its facts from the config or a request, and its credential.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::plan::Cooling;
use super::single_flight::SingleFlight;
use super::surroundings::Settings;
use super::token::TokenState;
use crate::config::atomic::SiblingLock;
use crate::config::custody::Kept;
use crate::config::state::TokensState;
use crate::config::{AccountEntry, AuthHeader, BaseUrl, Credential, Identity, ImportFrom, Secret};
use crate::scheduler::time::{Mono, Wall};
use crate::scheduler::{Access, AccountId, AccountLimit, AccountSpec, Kind};

pub(crate) struct Account {
    pub(super) id: AccountId,
    pub(super) kind: Kind,
    profile: RwLock<Arc<AccountProfile>>,
    held: Mutex<Held>,
    /// When a request last used it; only for [`Origin::Request`].
    touched: AtomicU64,
    /// See [`Account::hold`].
    spent_locks: Mutex<Vec<SiblingLock>>,
}

/// Everything about an account except its credential; replaced as a whole by a hot sync.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AccountProfile {
    /// Unique, for display.
    pub(crate) name: Arc<str>,
    pub(crate) enabled: bool,
    /// The lower, the sooner it is used.
    pub(crate) priority: i64,
    pub(crate) profiles: Vec<Arc<str>>,
    pub(crate) account_uuid: Option<Arc<str>>,
    pub(crate) org_uuid: Option<Arc<str>>,
    pub(crate) provider: Arc<str>,
    /// Where its requests go.
    pub(crate) upstream: BaseUrl,
    /// The header that carries its credential.
    pub(crate) auth_header: AuthHeader,
    pub(crate) model: Option<Arc<str>>,
    pub(crate) model_map: Arc<[(String, String)]>,
    pub(crate) strip_beta_headers: bool,
    limit: AccountLimit,
    pub(super) import_from: Option<ImportFrom>,
    /// Where the account comes from.
    pub(crate) origin: Origin,
}

/// Where an account comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Config,
    /// Request headers (SPEC V1): never written to disk, and used only for requests with the same
    /// token and address.
    Request,
}

/// The credential, and the refresh in progress.
pub(super) struct Held {
    pub(super) what: Holding,
    pub(super) flight: Option<SingleFlight>,
    /// The generation of the access token when that flight began.
    pub(super) flight_generation: u64,
}

impl Held {
    /// Whether the access token has changed since the refresh in progress began.
    pub(super) fn is_overtaken(&self) -> bool {
        matches!(&self.what, Holding::Oauth(state) if state.generation() != self.flight_generation)
    }
}

pub(super) enum Holding {
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
    /// Pass this to `Accounts::refused`.
    pub(crate) generation: u64,
}

/// Why there is no credential.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Unready {
    /// Only a new login helps; the scheduler's `NeedsLogin`.
    NeedsLogin { why: String },
    /// An API key or a provider's token was refused; the scheduler's `CredentialRefused`.
    CredentialRefused,
    /// A refresh failed temporarily; a cooldown until the given time.
    Cooling(Cooling),
    /// Its token has expired, and a disabled account does not refresh.
    Disabled,
    /// The account no longer exists.
    Gone,
}

/// The state of an account's credential.
#[derive(Clone, Debug)]
pub(crate) enum Readiness {
    /// It can be sent.
    Ready(Ready),
    /// A refresh is in progress.
    Refreshing(Refreshing),
    /// There is no credential.
    Unready(Unready),
}

/// A refresh in progress. When the flight has ended, or after `limit` at the latest, ask again.
#[derive(Clone, Debug)]
pub(crate) struct Refreshing {
    pub(crate) flight: SingleFlight,
    pub(crate) limit: Duration,
    /// This call has started it.
    pub(crate) is_ours: bool,
}

impl Unready {
    /// Why there is none, and what to do about it.
    pub(crate) fn why(&self) -> String {
        match self {
            Unready::NeedsLogin { why } => format!("{why}; sign in again with: maxpool login"),
            Unready::CredentialRefused => {
                "the API refused its credential; sign in again with: maxpool login".to_owned()
            }
            Unready::Cooling(cooling) => format!("its token could not be renewed: {}", cooling.why),
            Unready::Disabled => {
                "it is disabled and its token has expired; enable it with: maxpool enable NAME"
                    .to_owned()
            }
            Unready::Gone => "it is no longer in the config".to_owned(),
        }
    }
}

impl Account {
    /// A new account, with the id that the scheduler has assigned.
    pub(super) fn new(
        id: AccountId,
        entry: &AccountEntry,
        profile: AccountProfile,
        now: Mono,
    ) -> Account {
        Account {
            id,
            kind: kind_of(entry),
            profile: RwLock::new(Arc::new(profile)),
            held: Mutex::new(Held {
                what: Holding::of(&entry.credential),
                flight: None,
                flight_generation: 0,
            }),
            touched: AtomicU64::new(now.0),
            spent_locks: Mutex::default(),
        }
    }

    /// The scheduler's id for it.
    pub(crate) fn id(&self) -> AccountId {
        self.id
    }

    /// The kind of its credential, which never changes.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The current facts apart from the credential.
    pub(crate) fn profile(&self) -> Arc<AccountProfile> {
        self.profile.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state of its credential, for the status: `valid`, `expired` or `needs login`.
    pub(crate) fn credential_state(&self, now: Wall) -> &'static str {
        match &self.held().what {
            Holding::Fixed { .. } => "valid",
            Holding::Oauth(state) => state.word(now),
        }
    }

    /// Expiry of its access token, for `accounts -v`; `None` for keys and if it is unknown.
    pub(crate) fn expires_at(&self) -> Option<Wall> {
        match &self.held().what {
            Holding::Fixed { .. } => None,
            Holding::Oauth(state) => state.tokens().expires_at,
        }
    }

    /// When a refresh last brought tokens.
    pub(crate) fn renewed_at(&self) -> Option<Wall> {
        match &self.held().what {
            Holding::Fixed { .. } => None,
            Holding::Oauth(state) => state.renewed_at(),
        }
    }

    /// Why the tokens are not in the config, and where they are instead; `None` if they are.
    pub(crate) fn storage_trouble(&self) -> Option<String> {
        let held = self.held();
        let Holding::Oauth(state) = &held.what else {
            return None;
        };
        let (kept, why) = state.trouble()?;
        Some(match kept {
            Kept::Rescued => {
                format!("in the rescue file, because the config cannot be written: {why}")
            }
            Kept::OnDisk | Kept::InMemory => format!("in memory only: {why}"),
        })
    }

    /// The facts about the tokens for the state file.
    pub(crate) fn tokens_state(&self) -> TokensState {
        match &self.held().what {
            Holding::Fixed { .. } => TokensState::default(),
            Holding::Oauth(state) => state.for_the_state_file(),
        }
    }

    /// Restores what the state file has kept.
    pub(crate) fn recall(&self, known: &TokensState) {
        if let Holding::Oauth(state) = &mut self.held().what {
            state.recall(known);
        }
    }

    /// Keeps the lock of a used token whose successor is only in memory, until that is stored.
    pub(super) fn hold(&self, lock: SiblingLock) {
        self.spent_locks.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
    }

    /// Releases these locks: a file records now that the tokens are used up.
    pub(super) fn release(&self) {
        let held =
            std::mem::take(&mut *self.spent_locks.lock().unwrap_or_else(PoisonError::into_inner));
        held.into_iter().for_each(SiblingLock::remove);
    }

    pub(super) fn served(&self, generation: u64) {
        if let Holding::Oauth(state) = &mut self.held().what {
            state.served(generation);
        }
    }

    pub(super) fn set_profile(&self, profile: AccountProfile) {
        *self.profile.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(profile);
    }

    /// Enables or disables the account before the file is written.
    pub(super) fn set_enabled(&self, enabled: bool) {
        let mut profile = self.profile.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut profile).enabled = enabled;
    }

    pub(super) fn touch(&self, now: Mono) {
        self.touched.store(now.0, Ordering::Relaxed);
    }

    pub(super) fn touched(&self) -> Mono {
        Mono(self.touched.load(Ordering::Relaxed))
    }

    /// Only OAuth accounts are refreshed; another kind would have an empty state here.
    pub(super) fn with_tokens<T>(&self, look: impl FnOnce(&mut TokenState) -> T) -> T {
        match &mut self.held().what {
            Holding::Oauth(state) => look(state),
            Holding::Fixed { .. } => look(&mut TokenState::default()),
        }
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccountProfile {
    pub(super) fn of(entry: &AccountEntry, settings: &Settings, origin: Origin) -> AccountProfile {
        let shared = |text: &String| Arc::from(text.as_str());
        AccountProfile {
            name: shared(&entry.name),
            enabled: entry.enabled,
            priority: entry.priority,
            profiles: entry.profiles.iter().map(shared).collect(),
            account_uuid: entry.account_uuid.as_ref().map(shared),
            org_uuid: entry.org_uuid.as_ref().map(shared),
            provider: shared(&entry.provider),
            upstream: entry.upstream.clone().unwrap_or_else(|| settings.upstream.clone()),
            auth_header: entry.auth_header.unwrap_or(match kind_of(entry) {
                // SPEC P5.
                Kind::Oauth | Kind::Provider => AuthHeader::Authorization,
                Kind::ApiKey => AuthHeader::XApiKey,
            }),
            model: entry.model.as_ref().map(shared),
            model_map: entry.model_map.clone().into(),
            strip_beta_headers: entry.strip_beta_headers,
            limit: entry.limit,
            import_from: match &entry.credential {
                Credential::Oauth(oauth) => oauth.import_from.clone(),
                Credential::ApiKey(_) | Credential::Provider(_) => None,
            },
            origin,
        }
    }

    /// The identity (SPEC A4).
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            account_uuid: self.account_uuid.as_deref(),
            org_uuid: self.org_uuid.as_deref(),
        }
    }

    /// The account as the scheduler sees it.
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
            limit: self.limit,
        }
    }
}

impl Holding {
    fn of(credential: &Credential) -> Holding {
        match credential {
            Credential::Oauth(oauth) => Holding::Oauth(Box::new(TokenState::new(oauth.deposit()))),
            Credential::ApiKey(secret) | Credential::Provider(secret) => {
                Holding::Fixed { secret: secret.clone(), generation: 1 }
            }
        }
    }
}

/// The scheduler's kind for an entry's type.
pub(crate) fn kind_of(entry: &AccountEntry) -> Kind {
    match entry.credential {
        Credential::Oauth(_) => Kind::Oauth,
        Credential::ApiKey(_) => Kind::ApiKey,
        Credential::Provider(_) => Kind::Provider,
    }
}

pub(super) fn ready(profile: &AccountProfile, secret: &Secret, generation: u64) -> Ready {
    let (header, value) = match profile.auth_header {
        AuthHeader::Authorization => {
            ("authorization", Secret::around(format!("Bearer {}", secret.expose())))
        }
        AuthHeader::XApiKey => ("x-api-key", secret.clone()),
    };
    Ready { header, value, generation }
}
