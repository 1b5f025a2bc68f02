//! The life of a server: it prepares, serves when told to, hands over or stops, and finishes its
//! requests.
//!
//! ```text
//! prepare ─▶ (go) ─▶ serve ─yield─▶ let go ─retire─▶ finish, until deserted
//!                      │   ◀─resume──┘
//!                      └──drain─▶ finish, until nothing runs
//! ```
//!
//! It takes orders only from its leader. Signals that it receives itself are passed to the leader,
//! so that a signal to the whole process group counts once.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::link::{Heard, Link};
use super::listen::{bounds, listen};
use super::options::ServeOptions;
use super::wiring::{announce, build};
use crate::account::Role;
use crate::clock;
use crate::config::file;
use crate::config::state::{self, State};
use crate::control::hand_over::{self, Told};
use crate::control::{header_accounts, local, probe, reload};
use crate::error::{Error, Result};
use crate::event::{Event, RestartStep};
use crate::host::dashboard;
use crate::host::restart::{Control, Order, Origin, Report, Seat};
use crate::host::signals::Signals;
use crate::host::terminal::Dashboard;
use crate::proxy::context::Context;
use crate::proxy::exchange;
use crate::report::{Mode, Reporter};
use crate::scheduler::time::Mono;
use crate::server::Listener;

/// How often the state file is checked (SPEC A6: written within 30 s of a change).
const STATE_EVERY: Duration = Duration::from_secs(20);
/// How often accounts from request headers are checked for removal.
const RUNTIME_EVERY: Duration = Duration::from_secs(600);
/// An interval of 0 must not cause a busy loop.
const SYNC_MIN: Duration = Duration::from_millis(100);
/// Interval of the progress lines while running requests finish (SPEC R1).
const LEFT_TOLD_EVERY: Duration = Duration::from_secs(5);
/// Interval of the reports for the dashboard of the worker that took over.
const SEEN_TOLD_EVERY: Duration = Duration::from_millis(500);
/// Interval between two checks of what is left.
const LEFT_LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long requests that were cut may take to end.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);
/// At the end, a running refresh is waited for, because its token would be lost.
const REFRESH_SETTLE_MAX: Duration = Duration::from_secs(40);
/// How long a server that ends keeps trying to store tokens that are only in memory.
const STORE_AT_END_MAX: Duration = Duration::from_secs(5);
/// The same as [`REFRESH_SETTLE_MAX`] before a hand-over, where the leader waits no longer.
const YIELD_SETTLE_MAX: Duration = Duration::from_secs(10);
/// Time limit for writing the log's last lines; without a reader they are lost.
const LOG_FINISH_MAX: Duration = Duration::from_secs(2);

/// Why a worker stops without an order.
const LEADER_GONE: &str = "the leading process ended";

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All running requests finished.
    Clean,
    /// Some requests were cut off.
    Cut,
}

/// Why the server stops accepting requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    /// The program stops.
    Stopping,
    /// Another process serves.
    Retiring,
    /// Cut everything at once.
    Cutting,
}

/// The first worker: a thread of the leader.
///
/// # Errors
/// It cannot start: what is wrong, and what to do about it.
pub(super) fn as_thread(options: &ServeOptions, control: Control) -> Result<ExitCode> {
    live(options, &Link::new(control, None))
}

/// A later worker: a process. If it cannot start, its leader reports why.
///
/// # Errors
/// Signals cannot be taken over.
pub(super) fn as_process(options: &ServeOptions, control: Control) -> Result<ExitCode> {
    let signals = Signals::take()
        .map_err(|error| Error::ours(format!("cannot install signal handlers: {error}")))?;
    let link = Link::new(control, Some(signals));
    Ok(live(options, &link).unwrap_or(ExitCode::FAILURE))
}

fn live(options: &ServeOptions, link: &Link) -> Result<ExitCode> {
    let ended = start(options, link);
    if let Err(error) = &ended {
        link.report(&Report::Failed(error.to_string()));
    }
    link.control.close();
    Ok(match ended? {
        Ended::Clean => ExitCode::SUCCESS,
        Ended::Cut => ExitCode::FAILURE,
    })
}

fn start(options: &ServeOptions, link: &Link) -> Result<Ended> {
    let Some(beginning) = link.wait_start() else {
        return Ok(Ended::Clean);
    };
    let mode = if beginning.seat == Seat::Terminal { Mode::Screen } else { Mode::Plain };
    let path = file::path(&|name| std::env::var_os(name))?;
    let mut config = if link.is_thread() {
        file::load_or_create(&path)?
    } else {
        // The running server has a config, so a missing file is a mistake; defaults would have no
        // accounts.
        file::load(&path)?
    };
    if let Some(directory) = &options.log_to {
        config.log_dir = Some(directory.clone());
    }
    if let Some(file) = &options.log_file {
        config.log_file = Some(file.clone());
    }
    let socket = listen(&config, beginning.socket, beginning.origin)?;
    let (events, reporter) = Reporter::start(mode, config.log_file.as_deref())?;
    let context = build(path, config, &events, &reporter)?;
    if !beginning.note.is_empty() {
        let text = format!("this process takes over because {}", beginning.note);
        events.warning(clock::wall(), text);
    }
    link.tell(&Report::Prepared, Some(&socket));
    let opened =
        link.wait_go().map(|learned| Worker::open(link, context, socket, &learned)).transpose();
    match opened {
        Ok(Some(worker)) => {
            let origin = beginning.origin;
            Ok(Worker { origin, mode, ..worker }.run(reporter))
        }
        Ok(None) => {
            reporter.finish(LOG_FINISH_MAX);
            Ok(Ended::Clean)
        }
        Err(error) => {
            reporter.finish(LOG_FINISH_MAX);
            Err(error)
        }
    }
}

/// A running server.
struct Worker<'a> {
    link: &'a Link,
    context: Arc<Context>,
    listener: Listener,
    origin: Origin,
    mode: Mode,
    /// What it handed over, and when.
    handed: Option<(State, Mono)>,
    /// What the next worker's dashboard already knows.
    told: Told,
    /// What made it stop, such as `SIGTERM`.
    stopped_by: String,
}

impl Worker<'_> {
    fn open<'a>(
        link: &'a Link,
        context: Arc<Context>,
        socket: TcpListener,
        learned: &str,
    ) -> Result<Worker<'a>> {
        if learned.is_empty() {
            if let Some(notice) = hand_over::restore_learned(&context) {
                context.events.warning(clock::wall(), notice);
            }
        } else {
            hand_over::take_over(&context, learned);
        }
        let handler = Arc::clone(&context);
        let bounds = bounds(&context.config());
        let listener = Listener::start(socket, bounds, move |head, inbound| {
            if let Some(call) = exchange::serve(&handler, head, inbound) {
                local::serve(&handler, call);
            }
        })
        .map_err(|error| Error::operator(format!("the server cannot start: {error}")))?;
        // Set only once, by the only listener.
        let _ = context.address.set(listener.address());
        Ok(Worker {
            link,
            context,
            listener,
            origin: Origin::Config,
            mode: Mode::Plain,
            handed: None,
            told: Told::default(),
            stopped_by: String::new(),
        })
    }

    fn run(mut self, reporter: Reporter) -> Ended {
        let seen = Arc::clone(&self.context);
        reporter.watch(move || seen.gate.look(|scheduler, now| scheduler.snapshot(now)));
        let mut screen = Screen { mode: self.mode, reporter: &reporter, dashboard: None };
        screen.open(&self.context);
        self.link.report(&Report::Serving(std::process::id()));
        announce(&self.context, &self.listener);
        let going = self.watch(&mut screen);
        let ended = self.finish(going);
        // The terminal is restored before anything is written to it.
        screen.close();
        if self.handed.is_none() {
            save_state(&self.context);
        }
        if let Some(capture) = &self.context.capture {
            capture.finish(LOG_FINISH_MAX);
        }
        self.context.gate.stop();
        if self.handed.is_none() {
            self.context.tell(Event::Stopped);
        }
        reporter.finish(LOG_FINISH_MAX);
        if self.handed.is_some() {
            // Only now are all requests that finished here in the log.
            self.tell_seen();
        }
        ended
    }

    /// The main loop: orders, the config file, the state file.
    fn watch(&mut self, screen: &mut Screen<'_>) -> Going {
        let start = clock::mono();
        let mut sync_due = start + self.context.config().sync_interval;
        let mut state_due = start + STATE_EVERY;
        let mut runtime_due = start + RUNTIME_EVERY;
        // The file may have changed since it was read, long ago if this worker took over, so the
        // first check always reads it again.
        let mut seen = None;
        loop {
            probe::follow(&self.context);
            let next = sync_due.min(state_due).min(runtime_due);
            match self.link.wait(next.since(clock::mono())) {
                Heard::Order(Order::Reload) => {
                    screen.reporter.reopen_file();
                    seen = file_stamp(&self.context);
                    // Changes and failures are reported as events; whoever asked should also hear
                    // that nothing changed.
                    if reload::reload(&self.context).is_ok_and(|changes| changes.is_empty()) {
                        let text = "config reloaded: nothing changed";
                        self.context.events.notice(clock::wall(), text);
                    }
                    self.link.report(&Report::Reloaded);
                }
                Heard::Order(order) => {
                    if let Some(going) = self.obey(order, screen) {
                        return going;
                    }
                }
                Heard::Gone => {
                    let text = "the leading process ended: stopping";
                    self.context.events.warning(clock::wall(), text);
                    self.stopped_by = LEADER_GONE.to_owned();
                    return Going::Stopping;
                }
                Heard::Nothing => {}
            }
            let now = clock::mono();
            if now >= sync_due {
                let stamp = file_stamp(&self.context);
                if stamp != seen {
                    seen = stamp;
                    let _ = reload::reload(&self.context);
                }
                // Tokens of `importFrom` change independently of the config file (SPEC T3).
                self.context.accounts.sync_tokens();
                sync_due = now + self.context.config().sync_interval.max(SYNC_MIN);
            }
            if now >= state_due {
                if self.handed.is_none() {
                    save_state(&self.context);
                }
                state_due = now + STATE_EVERY;
            }
            if now >= runtime_due {
                header_accounts::drop_unused(&self.context);
                runtime_due = now + RUNTIME_EVERY;
            }
        }
    }

    fn obey(&mut self, order: Order, screen: &mut Screen<'_>) -> Option<Going> {
        let context = Arc::clone(&self.context);
        let step = |step| context.tell(Event::Restart(step));
        match order {
            Order::Starting => step(RestartStep::Starting),
            Order::Failed(why) => step(RestartStep::Failed { why }),
            Order::Yield(number) => {
                save_state(&context);
                screen.close();
                self.listener.pause();
                // From here on another process writes tokens. A token that is being refreshed is
                // stored by this process, and handed over later if that takes longer.
                context.accounts.set_role(Role::Retired);
                context.accounts.settle(YIELD_SETTLE_MAX);
                context.accounts.keep_all();
                let learned = hand_over::handed_over(&context, Duration::MAX);
                let text = hand_over::text(&context, &learned);
                self.handed = Some((learned, clock::mono()));
                let whole = Report::Yielded(number, text);
                if let Err(error) = self.link.control.report(&whole, None) {
                    let text = format!("cannot hand over sessions: {error}");
                    context.events.warning(clock::wall(), text);
                    // The new process reads the state file instead.
                    self.link.report(&Report::Yielded(number, String::new()));
                }
            }
            Order::Resume(why) => {
                self.handed = None;
                context.accounts.set_role(Role::Active);
                self.listener.resume();
                screen.open(&context);
                step(RestartStep::Failed { why });
            }
            Order::Retire(pid) => {
                self.tell_seen();
                context.retire();
                step(RestartStep::Serving { pid });
                return Some(Going::Retiring);
            }
            Order::Learn(learned) => hand_over::take_over(&context, &learned),
            Order::Recall(seen) => hand_over::recall(&context, &seen),
            Order::Hear(text) => context.events.notice(clock::wall(), text),
            Order::Ping => self.link.report(&Report::Pong),
            Order::Drain(by) => {
                self.stopped_by = by;
                return Some(Going::Stopping);
            }
            Order::Cut => return Some(Going::Cutting),
            Order::Start { .. } | Order::Go(_) | Order::Reload => {}
        }
        None
    }

    /// Lets running requests finish, and cuts them off at the limit or when told to (SPEC R1, R2).
    fn finish(&mut self, mut going: Going) -> Ended {
        let context = Arc::clone(&self.context);
        self.begin_end(going);
        let start = clock::mono();
        let end = start + context.config().drain_timeout;
        let mut told = self.tell_stopping(going, start);
        let mut seen_told = start;
        let ended = loop {
            let now = clock::mono();
            let left = self.listener.busy();
            let over = match going {
                Going::Stopping => left == 0,
                Going::Retiring => self.listener.is_deserted(),
                Going::Cutting => true,
            };
            if over && going != Going::Cutting {
                break Ended::Clean;
            }
            if going == Going::Cutting || now >= end {
                let why = if now >= end {
                    "shutdown.drainTimeoutMs has passed"
                } else {
                    "a second signal arrived"
                };
                if left == 0 {
                    break Ended::Clean;
                }
                let are = if left == 1 { "request is" } else { "requests are" };
                let text = format!("{left} {are} cut: {why}");
                context.events.warning(clock::wall(), text);
                context.cut(why);
                break Ended::Cut;
            }
            if left > 0 && told.is_none_or(|told| now.since(told) >= LEFT_TOLD_EVERY) {
                told = Some(now);
                self.tell_left(going, left);
            }
            if going == Going::Retiring {
                refuse_waiting(&context);
            }
            if self.handed.is_some() && now.since(seen_told) >= SEEN_TOLD_EVERY {
                seen_told = now;
                self.tell_seen();
            }
            going = self.hear_while_ending(going);
        };
        if ended == Ended::Cut {
            self.listener.cut();
            self.wait_for_last_lines();
        }
        // No request needs another token, and nobody might wait for a refresh that starts now.
        context.accounts.set_role(Role::Retired);
        context.accounts.settle(REFRESH_SETTLE_MAX);
        match self.handed {
            Some(_) => context.accounts.keep_all(),
            // No other process can take what it cannot store.
            None => context.accounts.keep_all_at_the_end(STORE_AT_END_MAX),
        }
        // Also during a stop: the worker that took over writes it to the file.
        self.tell_learned();
        if going == Going::Retiring {
            self.part();
            // Requests that it had to cut have been reported. They do not count for a stop that
            // comes now, which may well lose nothing.
            return Ended::Clean;
        }
        ended
    }

    /// Requests that were cut still have to write their log lines.
    fn wait_for_last_lines(&self) {
        let end = clock::mono() + LAST_LINES_MAX;
        while self.listener.busy() > 0 && clock::mono() < end {
            std::thread::sleep(LEFT_LOOK_EVERY);
        }
    }

    /// Handles orders of the leader while requests are finishing; they may change how that ends.
    fn hear_while_ending(&mut self, going: Going) -> Going {
        let retiring = going == Going::Retiring;
        match self.link.wait(LEFT_LOOK_EVERY) {
            Heard::Order(Order::Drain(_)) | Heard::Gone if retiring => {
                self.begin_end(Going::Stopping);
                return Going::Stopping;
            }
            Heard::Order(Order::Cut) => return Going::Cutting,
            Heard::Order(Order::Learn(learned)) => hand_over::take_over(&self.context, &learned),
            Heard::Order(_) | Heard::Nothing | Heard::Gone => {}
        }
        going
    }

    fn begin_end(&self, going: Going) {
        match going {
            Going::Stopping => {
                self.context.stop();
                match self.origin {
                    Origin::Config => self.listener.stop_accepting(),
                    // The supervisor owns the socket: the next process that it starts serves new
                    // connections.
                    Origin::Supervisor => self.listener.pause(),
                }
                self.context.gate.with(|scheduler, now| scheduler.drain(now));
            }
            Going::Retiring => self.listener.retire(),
            Going::Cutting => {}
        }
    }

    /// Logs why it stops, how many requests are left and until when they may run. Returns that
    /// deadline if it was logged. A worker that has handed over is not the one that stops.
    fn tell_stopping(&self, going: Going, start: Mono) -> Option<Mono> {
        if going == Going::Retiring || self.handed.is_some() {
            return None;
        }
        self.context.tell(Event::Stopping {
            by: self.stopped_by.clone(),
            left: self.listener.busy(),
            until: clock::wall() + self.context.config().drain_timeout,
        });
        Some(start)
    }

    fn tell_left(&self, going: Going, left: usize) {
        match going {
            Going::Stopping | Going::Cutting => self.context.tell(Event::Draining { left }),
            Going::Retiring => {
                let requests = if left == 1 { "request" } else { "requests" };
                self.say(format!(
                    "restart: process {} is finishing {left} {requests}",
                    std::process::id()
                ));
            }
        }
    }

    /// Reports what was learned since the hand-over.
    fn tell_learned(&self) {
        if let Some((handed, at)) = &self.handed {
            let recent = clock::mono().since(*at);
            let since = hand_over::handed_over(&self.context, recent).since(handed);
            self.link.report(&Report::Learned(hand_over::text(&self.context, &since)));
        }
    }

    /// Reports what the dashboard has shown here, so that it is shown there too.
    fn tell_seen(&mut self) {
        let seen = hand_over::seen(&self.context, &mut self.told);
        if !seen.is_empty() {
            self.link.report(&Report::Seen(seen));
        }
    }

    /// The final report of a worker that has handed over.
    fn part(&self) {
        match self.mode {
            Mode::Screen => self.say("restart: done".to_owned()),
            Mode::Plain | Mode::Off => self.context.tell(Event::Restart(RestartStep::Done)),
        }
    }

    /// Logs a line of a worker that has handed over; if there is a dashboard, the other worker has
    /// it.
    fn say(&self, text: String) {
        match self.mode {
            Mode::Screen => self.link.report(&Report::Said(text)),
            Mode::Plain | Mode::Off => self.context.events.notice(clock::wall(), text),
        }
    }
}

/// Waiting requests are not waited for (SPEC Q5): they are answered, and the clients retry with the
/// new process. A later request on an old connection is served if it can be served at once.
fn refuse_waiting(context: &Context) {
    let waiting = context.gate.look(|scheduler, now| scheduler.snapshot(now).queue.waiting);
    if waiting > 0 {
        context.gate.with(|scheduler, now| scheduler.drain(now));
        context.gate.with(|scheduler, now| scheduler.resume(now));
    }
}

/// The dashboard if there is a terminal for it, otherwise the plain log.
struct Screen<'a> {
    mode: Mode,
    reporter: &'a Reporter,
    dashboard: Option<Dashboard>,
}

impl Screen<'_> {
    fn open(&mut self, context: &Arc<Context>) {
        if self.mode != Mode::Screen {
            return;
        }
        match dashboard::start(context) {
            Ok(dashboard) => self.dashboard = Some(dashboard),
            Err(error) => {
                self.reporter.write_plainly();
                context.events.notice(clock::wall(), format!("no dashboard: {error}"));
            }
        }
    }

    fn close(&mut self) {
        self.dashboard = None;
    }
}

/// Tells versions of the config file apart: its identity, size and times.
fn file_stamp(context: &Context) -> Option<(u64, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(&context.config_path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

fn save_state(context: &Context) {
    let learned = hand_over::learned(context);
    if context.state_is_saved(&learned) {
        return;
    }
    let path = state::path(&context.config_path);
    let mut stamped = learned.clone();
    stamped.saved_at = clock::wall().0;
    match state::save(&path, &stamped) {
        Ok(()) => context.state_saved(learned),
        Err(error) => {
            let text = format!("cannot store the learned quota and totals: {error}");
            if context.first_time(&text) {
                context.events.warning(clock::wall(), text);
            }
        }
    }
}
