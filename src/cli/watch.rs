//! `status --watch`: the dashboard of a server that runs somewhere else.
//!
//! This thread reads the server's status once a second and after each change; the dashboard's own thread draws it and runs what the user
//! confirms, by the same roads as the commands.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Context;
use super::args::{Change, ImportOptions};
use super::out::Out;
use super::web::Server;
use super::{change, login};
use crate::clock::Stopwatch;
use crate::config::Secret;
use crate::error::{Error, Result, reason};
use crate::event::Pulse;
use crate::host::signals::Signals;
use crate::host::terminal::{Dashboard, Parts};
use crate::report::screen::View;
use crate::report::status::Status;
use crate::report::ui::{Action, Seat};

/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How soon a key or a confirmed change is noticed here.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the two threads share.
#[derive(Default)]
struct Shared {
    view: Mutex<View>,
    quit: AtomicBool,
    /// Something was changed: do not wait for the next second.
    ask: AtomicBool,
    pulse: Arc<Pulse>,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the dashboard until the user leaves it.
pub(super) fn watch(context: &mut Context<'_>) -> Result<()> {
    if !std::io::stdout().is_terminal() {
        return Err(Error::operator(
            "status --watch needs a terminal; use: maxpool status",
        ));
    }
    let server = Arc::new(Server::of(&context.config()?)?);
    let shared = Arc::new(Shared::default());
    // A server that does not run is told in a line, not on a screen that is gone at once.
    *shared.view() = View {
        status: read(&server)?,
        ..View::default()
    };
    let signals = Signals::take().map_err(|error| {
        Error::ours(format!("signals cannot be taken over: {}", reason(&error)))
    })?;
    let dashboard = Dashboard::start(parts(&server, &shared)).map_err(|error| {
        Error::operator(format!(
            "the dashboard cannot be shown here: {}",
            reason(&error)
        ))
    })?;
    let mut since = Stopwatch::start();
    while !shared.quit.load(Ordering::Relaxed) && !dashboard.is_over() {
        // Any signal ends it: there is nothing to drain or to reload here.
        if signals.wait(LOOK_EVERY).is_some() {
            break;
        }
        if shared.ask.swap(false, Ordering::Relaxed) || since.left_of(ASK_EVERY).is_none() {
            refresh(&server, &shared);
            since = Stopwatch::start();
        }
    }
    drop(dashboard);
    Ok(())
}

fn parts(server: &Arc<Server>, shared: &Arc<Shared>) -> Parts {
    let (looked, acting, server) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(server));
    Parts {
        look: Box::new(move || looked.view().clone()),
        act: Box::new(move |action| {
            let told = act(&server, &acting, action);
            acting.ask.store(true, Ordering::Relaxed);
            told
        }),
        pulse: Arc::clone(&shared.pulse),
        seat: Seat::Attached,
    }
}

/// Reads the status into the view; while it cannot be read the last one stays, with the reason.
fn refresh(server: &Server, shared: &Shared) {
    let read = read(server);
    let mut view = shared.view();
    match read {
        Ok(status) => {
            view.status = status;
            view.lost = None;
        }
        Err(error) => view.lost = Some(error.to_string()),
    }
    drop(view);
    shared.pulse.beat();
}

fn read(server: &Server) -> Result<Status> {
    let body = server.json("GET", "/maxpool/status", None)?;
    serde_json::from_slice(&body).map_err(|error| {
        Error::operator(format!(
            "{} answers, but not as maxpool: {error}",
            server.base()
        ))
    })
}

/// Does what was confirmed; gives the line that says what came of it.
fn act(server: &Server, shared: &Shared, action: Action) -> Option<String> {
    let changed = |change| Some(captured(|context| change::apply(context, &change)));
    match action {
        Action::Enable(name) => changed(Change::Enabled {
            name,
            enabled: true,
        }),
        Action::Disable(name) => changed(Change::Enabled {
            name,
            enabled: false,
        }),
        Action::Delete(name) => changed(Change::Remove { name }),
        Action::Prefer(name) => changed(Change::Use { name: Some(name) }),
        Action::Automatic => changed(Change::Use { name: None }),
        Action::Sync => Some(match server.json("POST", "/maxpool/reload", None) {
            Ok(_) => "the config was read again".to_owned(),
            Err(error) => error.to_string(),
        }),
        Action::Import => Some(captured(|context| {
            login::import(context, &ImportOptions::default())
        })),
        Action::AddKey(key) => Some(add_key(&key)),
        Action::Restart => Some(match restart(shared.view().status.pid) {
            Ok(()) => "the server was told to restart".to_owned(),
            Err(error) => error.to_string(),
        }),
        Action::Quit => {
            shared.quit.store(true, Ordering::Relaxed);
            None
        }
        Action::Redraw => None,
    }
}

fn add_key(key: &Secret) -> String {
    captured(|context| login::add_key(context, None, key))
}

/// There is no route for it: only who may signal the process may restart it.
fn restart(pid: u32) -> Result<()> {
    let process = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let process =
        process.ok_or_else(|| Error::operator("the server did not say its process number"))?;
    rustix::process::kill_process(process, rustix::process::Signal::USR2).map_err(|cause| {
        Error::operator(format!(
            "process {pid} cannot be told to restart: {}",
            reason(&cause.into())
        ))
    })
}

/// Runs a command and gives its last line in the place of writing it.
fn captured(command: impl FnOnce(&mut Context<'_>) -> Result<()>) -> String {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let variable = |name: &str| -> Option<OsString> { std::env::var_os(name) };
    let done = command(&mut Context {
        out: Out::new(&mut stdout, &mut stderr, false),
        variable: &variable,
    });
    if let Err(error) = done {
        return error.to_string();
    }
    let said = if stderr.is_empty() { stdout } else { stderr };
    String::from_utf8_lossy(&said)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}
