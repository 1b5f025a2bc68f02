//! The wiring: config, accounts, gate, reporter, proxy, exit code. [`worker`] has the life of a server, the leader in
//! `host/restart.rs` starts it and takes the signals.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, Weak};

use crate::account::oauth::Endpoints;
use crate::account::{Accounts, Surroundings};
use crate::clock;
use crate::config::Config;
use crate::control::reload;
use crate::error::{Error, Result};
use crate::event::{Event, Events, Started, StartedAccount};
use crate::gate::Gate;
use crate::host::restart::{self, Origin, Seat};
use crate::host::terminal;
use crate::net;
use crate::proxy::context::{Context, Parts};
use crate::proxy::reply;
use crate::report::Reporter;
use crate::report::capture::Capture;
use crate::scheduler::Scheduler;
use crate::server::{self, Bounds, Listener};

mod link;
mod worker;

/// Runs the program with the process's arguments and gives its exit code (0, 1 failed, 2 wrong usage).
pub fn run() -> ExitCode {
    crate::cli::main()
}

/// How the server is to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServeOptions {
    /// `--log-to DIR`.
    pub(crate) log_to: Option<PathBuf>,
    /// `--plain`.
    pub(crate) plain: bool,
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// It cannot start: what is wrong, and what to do about it.
pub(crate) fn serve(options: &ServeOptions) -> Result<ExitCode> {
    raise_descriptor_limit();
    if let Some(control) = restart::as_worker()? {
        return worker::as_process(options, control);
    }
    // Asked now: a terminal that has been closed is none any more.
    let seat =
        if terminal::is_wanted() && !options.plain { Seat::Terminal } else { Seat::Background };
    let options = options.clone();
    restart::lead(seat, move |control| worker::as_thread(&options, control))
}

/// Accounts, gate and everything that requests share.
fn build(
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
    let proxies = crate::proxy::context::proxies(&config).map_err(Error::operator)?;
    let shared: Arc<OnceLock<Weak<Context>>> = Arc::default();
    let renewed = Arc::clone(&shared);
    let current = Arc::clone(&shared);
    let first = net::agent(Arc::clone(&tls), proxies);
    let around = Surroundings {
        config: path.clone(),
        // A hot change of upstreamProxy is for refreshes too.
        http: crate::account::wire::http_by(move || match current.get().and_then(Weak::upgrade) {
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
    };
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
    // Set once, here.
    let _ = shared.set(Arc::downgrade(&context));
    reload::apply_first(&context, &context.config());
    context.accounts.sync_tokens();
    for notice in notices {
        events.warning(clock::wall(), notice);
    }
    Ok(context)
}

/// The wall clock was set, or the machine slept: idle upstream connections are dead by now.
fn clock_stepped(context: &Context) {
    if context.renew_agent().is_ok() {
        context.events.notice(
            clock::wall(),
            "the clock jumped: idle upstream connections are dropped, windows judged anew",
        );
    }
}

/// A proxy that anybody in the network could use without a key is never opened (SPEC P2).
fn refuse_open_door(config: &Config, passed: Option<&TcpListener>) -> Result<()> {
    let named = || match config.proxy.host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => config.proxy.host.eq_ignore_ascii_case("localhost"),
    };
    let (loopback, host) = match passed.and_then(|socket| socket.local_addr().ok()) {
        Some(address) => (address.ip().to_canonical().is_loopback(), address.ip().to_string()),
        None => (named(), config.proxy.host.clone()),
    };
    if loopback || config.proxy.api_key.is_some() {
        return Ok(());
    }
    Err(Error::operator(format!(
        "proxy.host is {host}, which others can reach, and proxy.apiKey is empty; set a key, or proxy.host to 127.0.0.1"
    )))
}

/// The socket to serve: the one that was passed, if it is still the right one, or a new one.
fn listen(config: &Config, passed: Option<OwnedFd>, origin: Origin) -> Result<TcpListener> {
    let passed = passed.map(TcpListener::from);
    let supervised = passed.as_ref().filter(|_| origin == Origin::Supervisor);
    refuse_open_door(config, supervised)?;
    let addresses = addresses(config)?;
    let wanted = |socket: &TcpListener| {
        let Ok(has) = socket.local_addr() else {
            return false;
        };
        let port = config.proxy.port;
        (port == 0 || has.port() == port)
            && addresses.iter().any(|address| address.ip() == has.ip())
    };
    match passed {
        Some(socket) if origin == Origin::Supervisor || wanted(&socket) => {
            server::prepare(&socket).map_err(|error| {
                Error::ours(format!("the listening socket is of no use: {error}"))
            })?;
            Ok(socket)
        }
        Some(_) | None => bind(config, addresses),
    }
}

fn addresses(config: &Config) -> Result<Vec<SocketAddr>> {
    let (host, port) = (config.proxy.host.as_str(), config.proxy.port);
    let found = (host, port).to_socket_addrs().map_err(|error| {
        Error::operator(format!("proxy.host {host} cannot be looked up: {error}"))
    })?;
    Ok(found.collect())
}

fn bind(config: &Config, addresses: Vec<SocketAddr>) -> Result<TcpListener> {
    let mut last = None;
    for address in addresses {
        match server::bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some((address, error)),
        }
    }
    let Some((address, error)) = last else {
        return Err(Error::operator(format!("proxy.host {} has no address", config.proxy.host)));
    };
    let what = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "the port is in use, perhaps by another maxpool; stop that, or choose another proxy.port".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => "permission denied; choose a proxy.port above 1023".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address; correct proxy.host".to_owned(),
        _ => error.to_string(),
    };
    Err(Error::operator(format!("cannot listen on {address}: {what}")))
}

/// The listener's bounds.
fn bounds(config: &Config) -> Bounds {
    Bounds {
        connections: match config.proxy.connections_max {
            0 => usize::MAX,
            count => count,
        },
        client: config.timeouts.client,
        crowded: reply::on_the_wire(&reply::crowded()),
    }
}

fn announce(context: &Context, listener: &Listener) {
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
        let text = "there is no usable account: add one with `maxpool login`, it is picked up while the server runs";
        context.events.warning(clock::wall(), text);
    }
}

/// Each stream takes a few descriptors: the soft limit is raised as far as it goes.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not permitted the old limit holds.
    let _ = setrlimit(Resource::Nofile, limit);
}
