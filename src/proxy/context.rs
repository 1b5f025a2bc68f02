//! What every request of the process shares.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use rustls::ClientConfig;

use crate::account::Accounts;
use crate::clock;
use crate::config::days::DailyUse;
use crate::config::state::State;
use crate::config::{Config, UpstreamProxy};
use crate::event::{Event, Events};
use crate::gate::Gate;
use crate::net::proxies::HttpProxy;
use crate::net::{self, Agent, ProxyPolicy};
use crate::report::Activity;
use crate::report::capture::{Capture, Trace};
use crate::scheduler::AccountId;
use crate::scheduler::time::Mono;

/// Different complaints that are made.
const COMPLAINTS_MAX: usize = 64;
/// Ids of batches, containers and files whose account is remembered.
const BATCHES_MAX: usize = 10_000;

/// The process's state behind all requests. Locks in here are held for moments only.
pub(crate) struct Context {
    /// The scheduler.
    pub(crate) gate: Gate,
    /// Credentials.
    pub(crate) accounts: Arc<Accounts>,
    /// Where facts go.
    pub(crate) events: Events,
    /// The last log lines, for the status.
    pub(crate) activity: Arc<Activity>,
    /// Records every request (`--log-to`).
    pub(crate) capture: Option<Capture>,
    /// What each account did on each of the last days.
    pub(crate) daily_use: DailyUse,
    /// The config file.
    pub(crate) config_path: PathBuf,
    /// When the process began.
    pub(crate) started: Mono,
    /// The address that clients connect to, once there is one.
    pub(crate) address: OnceLock<std::net::SocketAddr>,
    config: RwLock<Arc<Config>>,
    agent: RwLock<Agent>,
    tls: Arc<ClientConfig>,
    /// Which account has created which batch; the oldest are forgotten.
    batches: Mutex<VecDeque<(String, AccountId)>>,
    stopping: AtomicBool,
    /// Why what still runs was cut, if it was.
    cut: OnceLock<&'static str>,
    retired: AtomicBool,
    requests: AtomicU64,
    /// The quota probe.
    pub(crate) probe: ProbeBell,
    /// What the state file holds.
    saved: Mutex<Option<State>>,
    /// Complaints that were made already.
    complaints: Mutex<Vec<String>>,
}

/// What a [`Context`] is made of.
pub(crate) struct Parts {
    /// The scheduler.
    pub(crate) gate: Gate,
    /// Credentials.
    pub(crate) accounts: Arc<Accounts>,
    /// Where facts go.
    pub(crate) events: Events,
    /// The last log lines.
    pub(crate) activity: Arc<Activity>,
    /// Records every request, if that was asked for.
    pub(crate) capture: Option<Capture>,
    /// The config file.
    pub(crate) config_path: PathBuf,
    /// What it says.
    pub(crate) config: Config,
    /// The trust of upstream connections.
    pub(crate) tls: Arc<ClientConfig>,
}

impl Context {
    /// The shared state of a process that begins now.
    ///
    /// # Errors
    /// The upstream proxy cannot be used; the text says why.
    pub(crate) fn new(parts: Parts) -> Result<Context, String> {
        let agent = net::agent(Arc::clone(&parts.tls), proxies(&parts.config)?);
        Ok(Context {
            gate: parts.gate,
            accounts: parts.accounts,
            events: parts.events,
            activity: parts.activity,
            capture: parts.capture,
            daily_use: DailyUse::default(),
            config_path: parts.config_path,
            started: clock::now().mono,
            address: OnceLock::new(),
            config: RwLock::new(Arc::new(parts.config)),
            agent: RwLock::new(agent),
            tls: parts.tls,
            batches: Mutex::default(),
            stopping: AtomicBool::new(false),
            cut: OnceLock::new(),
            retired: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            probe: ProbeBell::default(),
            saved: Mutex::default(),
            complaints: Mutex::default(),
        })
    }

    /// The settings of this moment.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes new settings for the requests that come.
    pub(crate) fn set_config(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// The HTTP client with its idle connections.
    pub(crate) fn agent(&self) -> Agent {
        self.agent.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets every idle upstream connection: they are dead after a sleep or a change of network,
    /// or lead through another proxy. Connections in use go on.
    ///
    /// # Errors
    /// The upstream proxy of the settings cannot be used; the old client stays.
    pub(crate) fn renew_agent(&self) -> Result<(), String> {
        let agent = net::agent(Arc::clone(&self.tls), proxies(&self.config())?);
        *self.agent.write().unwrap_or_else(PoisonError::into_inner) = agent;
        Ok(())
    }

    /// A number for a request, unique in this process.
    pub(crate) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Says that the process is ending: answers close their connections, new requests are turned
    /// away.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.probe.look_again();
    }

    /// Says that another process serves: answers close their connections, so that clients come to
    /// the other one.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.probe.look_again();
    }

    /// Says that every connection is about to be cut, and why (SPEC R1).
    pub(crate) fn cut(&self, why: &'static str) {
        // What was said first is why.
        let _ = self.cut.set(why);
    }

    /// Why every connection was cut, if it was.
    pub(crate) fn cut_for(&self) -> Option<&'static str> {
        self.cut.get().copied()
    }

    /// Whether connections may carry another request.
    pub(crate) fn keeps_connections(&self) -> bool {
        !self.is_stopping() && !self.retired.load(Ordering::Acquire)
    }

    /// Whether the process is ending.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Remembers which account has created a batch, a container or a file.
    pub(crate) fn remember_batch(&self, id: &str, account: AccountId) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.retain(|(known, _)| known != id);
        batches.push_back((id.to_owned(), account));
        if batches.len() > BATCHES_MAX {
            batches.pop_front();
        }
    }

    /// The account that has created a batch, a container or a file, if that is known.
    pub(crate) fn owner_of_batch(&self, id: &str) -> Option<AccountId> {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.iter().find(|(known, _)| known == id).map(|(_, owner)| *owner)
    }

    /// The `count` batches that were created last, the latest first.
    pub(crate) fn known_batches(&self, count: usize) -> Vec<(String, AccountId)> {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.iter().rev().take(count).cloned().collect()
    }

    /// Whether the state file holds `learned` already.
    pub(crate) fn state_is_saved(&self, learned: &State) -> bool {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(learned)
    }

    /// The state file holds `learned` now.
    pub(crate) fn state_saved(&self, learned: State) {
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(learned);
    }

    /// True the first time that `complaint` is made: what fails every few seconds is told once.
    pub(crate) fn first_time(&self, complaint: &str) -> bool {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.iter().any(|made| made == complaint) || complaints.len() >= COMPLAINTS_MAX {
            return false;
        }
        complaints.push(complaint.to_owned());
        true
    }

    /// The record of a request that begins now; it stays empty unless requests are recorded.
    pub(crate) fn trace(&self) -> Trace {
        self.capture.as_ref().map_or_else(Trace::off, |capture| capture.begin(clock::wall()))
    }

    /// Emits an event of this moment.
    pub(crate) fn tell(&self, event: Event) {
        self.events.emit(clock::wall(), event);
    }
}

/// Where the usage probe's thread sleeps (SPEC T6). It lies here because the context rings it.
#[derive(Default)]
pub(crate) struct ProbeBell {
    /// There is a thread.
    occupied: Mutex<bool>,
    rung: Condvar,
}

impl ProbeBell {
    /// The settings have changed, or the process is ending.
    pub(crate) fn look_again(&self) {
        let _seen = self.lock();
        self.rung.notify_all();
    }

    /// Whether there is a thread, to be looked at or changed.
    pub(crate) fn lock(&self) -> MutexGuard<'_, bool> {
        self.occupied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the bell is rung, at most for `limit`.
    pub(crate) fn wait<'a>(
        &self,
        occupied: MutexGuard<'a, bool>,
        limit: Duration,
    ) -> MutexGuard<'a, bool> {
        let woken = self.rung.wait_timeout(occupied, limit);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The upstream proxies that the settings and the environment ask for.
pub(crate) fn proxies(config: &Config) -> Result<ProxyPolicy, String> {
    match &config.upstream_proxy {
        UpstreamProxy::Direct => Ok(ProxyPolicy::direct()),
        UpstreamProxy::Url(url) => HttpProxy::parse(url.expose())
            .map(ProxyPolicy::always)
            .map_err(|why| format!("upstreamProxy: {why}")),
        UpstreamProxy::Environment => ProxyPolicy::from_env(|name| std::env::var(name).ok()),
    }
}
