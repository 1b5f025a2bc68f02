//! Puts a server together: config, accounts, gate, reporter, proxy.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use ureq::Agent;

use crate::account::oauth::Endpoints;
use crate::account::{Accounts, Surroundings, wire};
use crate::clock;
use crate::config::Config;
use crate::control::reload;
use crate::error::{Error, Result};
use crate::event::{Event, Events, Started, StartedAccount};
use crate::gate::Gate;
use crate::net;
use crate::proxy::context::{Context, Parts, proxies};
use crate::proxy::no_account;
use crate::report::Reporter;
use crate::report::capture::Capture;
use crate::scheduler::Scheduler;
use crate::server::Listener;

/// Builds accounts, gate and everything that requests share.
pub(super) fn build(
    path: PathBuf,
    config: Config,
    events: &Events,
    reporter: &Reporter,
) -> Result<Arc<Context>> {
    let capture = config
        .log_dir
        .as_ref()
        .map(|directory| Capture::start(directory, clock::wall(), events))
        .transpose()?;
    let tls =
        net::tls::client_config(std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).as_deref())
            .map_err(Error::operator)?;
    let proxies = proxies(&config).map_err(Error::operator)?;
    let shared: Arc<OnceLock<Weak<Context>>> = Arc::default();
    let first = net::agent(Arc::clone(&tls), proxies);
    let around = surroundings(path.clone(), events, first, &shared);
    let accounts = Arc::new(Accounts::new(around, &config));
    let stepped = Arc::clone(&shared);
    let gate = Gate::start(Scheduler::new(config.policy.clone()), move || {
        if let Some(context) = stepped.get().and_then(Weak::upgrade) {
            clock_stepped(&context);
        }
    })
    .map_err(|error| Error::ours(format!("the server cannot start its threads: {error}")))?;
    let notices = config.notices.clone();
    let parts = Parts {
        gate,
        accounts,
        events: events.clone(),
        activity: Arc::clone(reporter.activity()),
        capture,
        config_path: path,
        config,
        tls,
    };
    let context = Arc::new(Context::new(parts).map_err(Error::operator)?);
    // Set only once, here.
    let _ = shared.set(Arc::downgrade(&context));
    reload::apply_first(&context, &context.config());
    context.accounts.sync_tokens();
    for notice in notices {
        events.warning(clock::wall(), notice);
    }
    Ok(context)
}

/// What accounts need from outside; `shared` is set once the context exists.
fn surroundings(
    config: PathBuf,
    events: &Events,
    first: Agent,
    shared: &Arc<OnceLock<Weak<Context>>>,
) -> Surroundings {
    let renewed = Arc::clone(shared);
    let current = Arc::clone(shared);
    Surroundings {
        config,
        // Refreshes follow a changed upstreamProxy too.
        http: wire::http_by(move || match current.get().and_then(Weak::upgrade) {
            Some(context) => context.agent(),
            None => first.clone(),
        }),
        endpoints: Endpoints::from_environment(&|name| std::env::var(name).ok()),
        events: events.clone(),
        now: Arc::new(clock::now),
        home: std::env::var_os("HOME").map(PathBuf::from),
        renewed: Arc::new(move |id| {
            if let Some(context) = renewed.get().and_then(Weak::upgrade) {
                context.gate.with(|scheduler, now| scheduler.clear_credential_blocks(now, id));
            }
        }),
    }
}

/// Runs after the wall clock was set or the machine slept: idle upstream connections are dead by
/// now.
fn clock_stepped(context: &Context) {
    if context.renew_agent().is_ok() {
        context.events.notice(
            clock::wall(),
            "the clock jumped: idle upstream connections are closed and quota windows evaluated \
             again",
        );
    }
}

/// Logs what was started.
pub(super) fn announce(context: &Context, listener: &Listener) {
    let accounts = context.accounts.all();
    context.tell(Event::Started(Started {
        version: env!("CARGO_PKG_VERSION"),
        address: format!("http://{}", listener.address()),
        config: context.config_path.display().to_string(),
        accounts: accounts
            .iter()
            .map(|account| StartedAccount {
                name: account.profile().name.clone(),
                kind: account.kind(),
                note: (!account.profile().enabled).then(|| "disabled".to_owned()),
            })
            .collect(),
    }));
    if accounts.is_empty() {
        context.events.warning(clock::wall(), no_account::NO_ACCOUNT);
    }
}
