//! The wiring: config, accounts, gate, reporter, proxy, signals, exit code.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::account::oauth::Endpoints;
use crate::account::{Accounts, Surroundings};
use crate::clock;
use crate::config::state;
use crate::config::{Config, file};
use crate::error::{Error, Result};
use crate::event::{Event, Events, Started, StartedAccount};
use crate::gate::Gate;
use crate::host::dashboard;
use crate::host::signals::{Signal, Signals};
use crate::host::terminal::{self, Dashboard};
use crate::net;
use crate::proxy::context::{Context, Parts};
use crate::proxy::listener::{self, Listener, Phrases};
use crate::proxy::{control, exchange, probe, reply, runtime};
use crate::report::capture::Capture;
use crate::report::{Mode, Reporter};
use crate::scheduler::Scheduler;
use crate::scheduler::time::Mono;

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

/// How often the state file is looked after (SPEC A6: within 30 s of a change).
const STATE_EVERY: Duration = Duration::from_secs(20);
/// How often accounts of request headers are looked after.
const RUNTIME_EVERY: Duration = Duration::from_secs(600);
/// Time between two lines of progress while the server drains (SPEC R1).
const DRAIN_TOLD_EVERY: Duration = Duration::from_secs(5);
/// Time between two looks at what is left while the server drains.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(20);
/// A refresh that is under way at the end is waited for, because its token would be lost.
const REFRESH_SETTLE_MAX: Duration = Duration::from_secs(40);
/// The log's last lines are written within this time, or not at all when nobody reads them.
const LOG_FINISH_MAX: Duration = Duration::from_secs(2);

/// Who sits before the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// A person, at a terminal.
    Terminal,
    /// A supervisor, a script, a pipe.
    Background,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// Everything that ran has ended.
    Clean,
    /// What still ran was cut.
    Cut,
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// It cannot start: what is wrong, and what to do about it.
pub(crate) fn serve(options: &ServeOptions) -> Result<ExitCode> {
    let signals = Signals::take()
        .map_err(|error| Error::ours(format!("signals cannot be taken over: {error}")))?;
    raise_descriptor_limit();
    let path = file::path(&|name| std::env::var_os(name))?;
    let mut config = file::load_or_create(&path)?;
    if let Some(directory) = &options.log_to {
        config.log_dir = Some(directory.clone());
    }
    refuse_open_door(&config)?;
    // Asked now: a terminal that has been closed is none any more.
    let seat = if terminal::is_wanted() {
        Seat::Terminal
    } else {
        Seat::Background
    };
    let mode = if seat == Seat::Terminal && !options.plain {
        Mode::Screen
    } else {
        Mode::Plain
    };
    let (events, reporter) = Reporter::start(mode);
    let served = serve_with((mode, seat), &signals, path, config, &events, &reporter);
    reporter.finish(LOG_FINISH_MAX);
    served
}

fn serve_with(
    (mode, seat): (Mode, Seat),
    signals: &Signals,
    path: PathBuf,
    config: Config,
    events: &Events,
    reporter: &Reporter,
) -> Result<ExitCode> {
    let socket = bind(&config)?;
    let context = build(path, config, events, reporter)?;
    let handler = Arc::clone(&context);
    let listener = Listener::start(socket, phrases(), move |inbound| {
        exchange::serve(&handler, inbound)
    })
    .map_err(|error| Error::ours(format!("the server cannot start its threads: {error}")))?;
    // Set once, by the only listener.
    let _ = context.address.set(listener.address());
    let seen = Arc::clone(&context);
    reporter.watch(move || seen.gate.look(|scheduler, now| scheduler.snapshot(now)));
    let dashboard = open_dashboard(mode, &context, reporter);
    announce(&context, &listener);
    let drained = watch(&context, &listener, signals, seat);
    // The terminal is given back before anything is written on it.
    drop(dashboard);
    save_state(&context);
    if let Some(capture) = &context.capture {
        capture.finish(LOG_FINISH_MAX);
    }
    context.gate.stop();
    Ok(match drained {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Cut => ExitCode::FAILURE,
    })
}

/// The dashboard, if there is a terminal for it; else the log is written.
fn open_dashboard(mode: Mode, context: &Arc<Context>, reporter: &Reporter) -> Option<Dashboard> {
    if mode != Mode::Screen {
        return None;
    }
    match dashboard::start(context) {
        Ok(dashboard) => Some(dashboard),
        Err(error) => {
            reporter.write_plainly();
            context
                .events
                .notice(clock::wall(), format!("no dashboard: {error}"));
            None
        }
    }
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
    let tls = net::tls::client_config(
        std::env::var_os("SSL_CERT_FILE")
            .map(PathBuf::from)
            .as_deref(),
    )
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
                context
                    .gate
                    .with(|scheduler, now| scheduler.clear_credential_blocks(now, id));
            }
        }),
    };
    let accounts = Arc::new(Accounts::new(around, &config));
    let stepped = Arc::clone(&shared);
    let gate = Gate::start(Scheduler::new(config.policy()), move || {
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
    control::apply_first(&context, &context.config());
    context.accounts.sync_tokens();
    for notice in notices
        .into_iter()
        .chain(control::restore_learned(&context))
    {
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
fn refuse_open_door(config: &Config) -> Result<()> {
    let loopback = match config.proxy.host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => config.proxy.host.eq_ignore_ascii_case("localhost"),
    };
    if loopback || config.proxy.api_key.is_some() {
        return Ok(());
    }
    Err(Error::operator(format!(
        "proxy.host is {}, which others can reach, and proxy.apiKey is empty; set a key, or proxy.host to 127.0.0.1",
        config.proxy.host
    )))
}

fn bind(config: &Config) -> Result<TcpListener> {
    let (host, port) = (config.proxy.host.as_str(), config.proxy.port);
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| {
            Error::operator(format!("proxy.host {host} cannot be looked up: {error}"))
        })?
        .collect();
    let mut last = None;
    for address in addresses {
        match listener::bind(address, config.timeouts.client) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some((address, error)),
        }
    }
    let Some((address, error)) = last else {
        return Err(Error::operator(format!("proxy.host {host} has no address")));
    };
    let what = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "the port is in use, perhaps by another maxpool; stop that, or choose another proxy.port".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => "permission denied; choose a proxy.port above 1023".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address; correct proxy.host".to_owned(),
        _ => error.to_string(),
    };
    Err(Error::operator(format!(
        "cannot listen on {address}: {what}"
    )))
}

fn phrases() -> Phrases {
    Phrases {
        too_slow: reply::on_the_wire(&reply::head_too_slow()),
        unsupported: reply::on_the_wire(&reply::version_unsupported()),
        probe: b"GET /maxpool/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            .to_vec(),
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
    if !listener.can_notice_clients() {
        let text = "this system does not let maxpool watch its clients' sockets: one that leaves is noticed late";
        context.events.notice(clock::wall(), text);
    }
}

/// The main thread's life: signals, the config file, the state file.
fn watch(context: &Arc<Context>, listener: &Listener, signals: &Signals, seat: Seat) -> Drained {
    let start = clock::now().mono;
    let mut sync_due = start + context.config().sync_interval;
    let mut state_due = start + STATE_EVERY;
    let mut runtime_due = start + RUNTIME_EVERY;
    let mut seen = file_stamp(context);
    loop {
        probe::follow(context);
        let now = clock::now().mono;
        let next = sync_due.min(state_due).min(runtime_due);
        match signals.wait(next.since(now)) {
            Some(Signal::Terminate | Signal::Interrupt) => {
                return drain(context, listener, signals);
            }
            // The terminal was closed: without it the server would be left behind unseen (R3).
            Some(Signal::HangUp) if seat == Seat::Terminal => {
                return drain(context, listener, signals);
            }
            Some(Signal::HangUp) => {
                // What failed was told as an event.
                let _ = control::reload(context);
                seen = file_stamp(context);
            }
            Some(Signal::Restart) => {
                context
                    .events
                    .warning(clock::wall(), "restart is not available in this build");
            }
            None => {}
        }
        let now = clock::now().mono;
        if now >= sync_due {
            let stamp = file_stamp(context);
            if stamp != seen {
                seen = stamp;
                let _ = control::reload(context);
            }
            // Tokens of `importFrom` change without the config file (SPEC T3).
            context.accounts.sync_tokens();
            sync_due = now + context.config().sync_interval.max(SYNC_MIN);
        }
        if now >= state_due {
            save_state(context);
            state_due = now + STATE_EVERY;
        }
        if now >= runtime_due {
            runtime::drop_unused(context);
            runtime_due = now + RUNTIME_EVERY;
        }
    }
}

/// An interval of 0 must not keep the processor busy.
const SYNC_MIN: Duration = Duration::from_millis(100);

/// What tells one version of the config file from another: its identity, size and times.
fn file_stamp(context: &Context) -> Option<(u64, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(&context.config_path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

fn save_state(context: &Context) {
    let learned = control::learned(context);
    if context.state_is_saved(&learned) {
        return;
    }
    let path = state::path(&context.config_path);
    let mut stamped = learned.clone();
    stamped.saved_at = clock::wall().0;
    match state::save(&path, &stamped) {
        Ok(()) => context.state_saved(learned),
        Err(error) => {
            let text = format!("what was learned cannot be stored: {error}");
            if context.first_time(&text) {
                context.events.warning(clock::wall(), text);
            }
        }
    }
}

/// Stops accepting, lets what runs finish, and cuts it at the limit or at a second signal (SPEC R1).
fn drain(context: &Arc<Context>, listener: &Listener, signals: &Signals) -> Drained {
    context.stop();
    listener.stop_accepting();
    context.gate.with(|scheduler, now| scheduler.drain(now));
    let start = clock::now().mono;
    let end = start + context.config().drain_timeout;
    let mut told = Mono(0);
    let result = loop {
        let left = listener.busy();
        if left == 0 {
            break Drained::Clean;
        }
        let now = clock::now().mono;
        if now >= end {
            context.events.warning(
                clock::wall(),
                format!("{left} requests are cut: shutdown.drainTimeoutMs is over"),
            );
            break Drained::Cut;
        }
        if told == Mono(0) || now.since(told) >= DRAIN_TOLD_EVERY {
            told = now;
            context.tell(Event::Draining { left });
        }
        listener.close_idle();
        match signals.wait(DRAIN_LOOK_EVERY) {
            Some(Signal::Terminate | Signal::Interrupt) => {
                context.events.warning(
                    clock::wall(),
                    format!("{left} requests are cut by a second signal"),
                );
                break Drained::Cut;
            }
            Some(Signal::HangUp | Signal::Restart) | None => {}
        }
    };
    if result == Drained::Cut {
        listener.cut();
    }
    context.accounts.settle(REFRESH_SETTLE_MAX);
    result
}

/// Each stream takes a few descriptors: the soft limit is raised as far as it goes.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not permitted the old limit holds.
    let _ = setrlimit(Resource::Nofile, limit);
}
