//! The server's own dashboard: its content comes from the proxy's context, and its keys do what the
//! control routes (P1) and the signals (R1, R2) do.
//!
//! A change may have to wait for the config's lock, and an import for the network, so each runs on
//! its own thread and reports its result in the activity log.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGTERM, SIGUSR2};

use super::sign_in::{Login, SignIns};
use super::signals::Signals;
use super::terminal::{Dashboard, Parts};
use crate::account::oauth::Endpoints;
use crate::account::sign_in::import::{self, ClaudeCode, ImportSource};
use crate::account::sign_in::login::{self, Desk};
use crate::account::wire;
use crate::clock;
use crate::config::edit;
use crate::control::{local, reload};
use crate::error::{Error, Result};
use crate::event::Pulse;
use crate::proxy::context::Context;
use crate::report::screen::View;
use crate::report::status::Status;
use crate::report::text::name;
use crate::report::ui::{Action, Seat};

/// Takes over the terminal for the server.
///
/// # Errors
/// There is no usable terminal; the caller then writes the plain log.
pub(crate) fn start(context: &Arc<Context>) -> io::Result<Dashboard> {
    let (seen, acting) = (Arc::clone(context), Arc::clone(context));
    let pulse = context.events.in_flight().pulse();
    let signing_in = Arc::clone(context);
    let sign_ins = SignIns::new(
        Box::new(move |options, out| {
            let line = with_desk(&signing_in, out, |desk| login::login(desk, options))?;
            reload::reload(&signing_in)?;
            Ok(line)
        }),
        pulse,
    );
    let shown = Arc::clone(&sign_ins);
    Dashboard::start(Parts {
        look: Box::new(move || View {
            status: local::status_now(&seen, &seen.config()),
            sign_in: shown.shown(),
            ..View::default()
        }),
        act: Box::new(move |action| act(&acting, &sign_ins, action)),
        told: None,
        pulse: Arc::clone(pulse),
        seat: Seat::Server,
    })
}

/// Draws a server of another process until the user leaves (`status --watch`). `fetch` gets its
/// status once a second; `act` carries out a confirmed action on its own thread and returns a line;
/// `login` signs in.
///
/// # Errors
/// There is no usable terminal.
pub(crate) fn attach(
    mut fetch: impl FnMut() -> std::result::Result<Status, String>,
    act: impl Fn(Action) -> String + Send + Sync + 'static,
    login: Box<Login>,
) -> io::Result<()> {
    let signals = Signals::take()?;
    let view: Arc<Mutex<View>> = Arc::default();
    let (shown, told) = (Arc::clone(&view), Arc::new(Mutex::new(None)));
    let pulse: Arc<Pulse> = Arc::default();
    let act = Arc::new(act);
    refresh(&view, &mut fetch);
    let (latest, answered) = (Arc::clone(&told), Arc::clone(&pulse));
    let sign_ins = SignIns::new(login, &pulse);
    let signing_in = Arc::clone(&sign_ins);
    let dashboard = Dashboard::start(Parts {
        look: Box::new(move || View {
            sign_in: signing_in.shown(),
            ..shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }),
        act: Box::new(move |action| match action {
            Action::Redraw => None,
            Action::Quit => signal(SIGTERM, "leaving"),
            Action::SignIn(account) => sign_ins.begin(account),
            Action::SignInCode(code) => sign_ins.enter(&code),
            Action::CancelSignIn => sign_ins.cancel(),
            action => {
                let (act, latest, answered) =
                    (Arc::clone(&act), Arc::clone(&latest), Arc::clone(&answered));
                let spawned = thread::Builder::new()
                    .name("order".into())
                    .stack_size(ORDER_STACK)
                    .spawn(move || {
                        *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(act(action));
                        answered.beat();
                    });
                Some(
                    spawned.map_or_else(
                        |error| format!("that failed: {error}"),
                        |_| "requested".into(),
                    ),
                )
            }
        }),
        told: Some(told),
        pulse: Arc::clone(&pulse),
        seat: Seat::Attached,
    })?;
    while !dashboard.is_over() {
        if signals.wait(FETCH_EVERY).is_some() {
            return Ok(());
        }
        refresh(&view, &mut fetch);
        pulse.beat();
    }
    Ok(())
}

/// Interval between two requests to an attached server.
const FETCH_EVERY: Duration = Duration::from_secs(1);
const ORDER_STACK: usize = 512 * 1024;

fn refresh(view: &Mutex<View>, fetch: &mut impl FnMut() -> std::result::Result<Status, String>) {
    let fetched = fetch();
    let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
    match fetched {
        Ok(status) => *view = View { status, ..View::default() },
        // The last known status stays on the screen below the reason.
        Err(why) => view.lost = Some(why),
    }
}

/// Starts a confirmed action, and says so.
fn act(context: &Arc<Context>, sign_ins: &Arc<SignIns>, action: Action) -> Option<String> {
    let doing = match &action {
        Action::SignIn(account) => return sign_ins.begin(account.clone()),
        Action::SignInCode(code) => return sign_ins.enter(code),
        Action::CancelSignIn => return sign_ins.cancel(),
        Action::Retry(account) => format!("retrying {}", name(account)),
        Action::Rename { from, to } => format!("renaming {} to {}", name(from), name(to)),
        Action::ReplaceKey(account, _) => format!("replacing the key of {}", name(account)),
        Action::Redraw => return None,
        Action::Quit => return signal(SIGTERM, "stopping"),
        Action::Restart => return signal(SIGUSR2, "restarting"),
        Action::Enable(account) => format!("enabling {}", name(account)),
        Action::Disable(account) => format!("disabling {}", name(account)),
        Action::Delete(account) => format!("deleting {}", name(account)),
        Action::Prefer(account) => format!("preferring {}", name(account)),
        Action::Automatic => "returning to automatic routing".into(),
        Action::Sync => "reading the config".into(),
        Action::Import => "importing".into(),
        Action::AddKey(_) => "adding the key".into(),
    };
    let context = Arc::clone(context);
    let failed = format!("{doing} failed");
    let spawned =
        thread::Builder::new().name("order".into()).stack_size(ORDER_STACK).spawn(move || {
            match carry_out(&context, &action) {
                Ok(Some(done)) => context.events.notice(clock::wall(), done),
                // The reload has reported the change.
                Ok(None) => {}
                Err(error) => context.events.warning(clock::wall(), format!("{failed}: {error}")),
            }
        });
    Some(match spawned {
        Ok(_) => doing,
        Err(error) => format!("{doing} failed: {error}"),
    })
}

/// Sends this process the same signal as from outside.
fn signal(number: i32, doing: &str) -> Option<String> {
    Some(match signal_hook::low_level::raise(number) {
        Ok(()) => doing.to_owned(),
        Err(error) => format!("{doing} failed: {error}"),
    })
}

/// Carries out an action. Returns a line if the config reload does not report it.
fn carry_out(context: &Context, action: &Action) -> Result<Option<String>> {
    match action {
        Action::Enable(account) => reload::switch(context, account, true).map(drop)?,
        Action::Disable(account) => reload::switch(context, account, false).map(drop)?,
        Action::Prefer(account) => reload::set_routing(context, Some(account)).map(drop)?,
        Action::Automatic => reload::set_routing(context, None).map(drop)?,
        Action::Delete(account) => {
            delete(context, account)?;
            reload::reload(context)?;
        }
        Action::Retry(account) => return reload::retry(context, account).map(Some),
        Action::Rename { from, to } => {
            rename(context, from, to)?;
            reload::reload(context)?;
            return Ok(Some(format!("renamed {} to {}", name(from), name(to))));
        }
        Action::ReplaceKey(account, key) => {
            let line = at_desk(context, |desk| login::add_api_key(desk, Some(account), key))?;
            reload::reload(context)?;
            return Ok(Some(line));
        }
        Action::Sync => {
            let changes = reload::reload(context)?;
            return Ok(changes.is_empty().then(|| "config reloaded: nothing changed".to_owned()));
        }
        Action::Import => {
            let claude = ClaudeCode::of(|name| std::env::var_os(name));
            let claude = claude.ok_or_else(|| Error::operator("HOME is not set"))?;
            let source = ImportSource::ClaudeCode(&claude);
            let line = at_desk(context, |desk| import::import(desk, &source, None))?;
            reload::reload(context)?;
            return Ok(Some(line));
        }
        Action::AddKey(key) => {
            let line = at_desk(context, |desk| login::add_api_key(desk, None, key))?;
            reload::reload(context)?;
            return Ok(Some(line));
        }
        Action::Redraw
        | Action::Quit
        | Action::Restart
        | Action::SignIn(_)
        | Action::SignInCode(_)
        | Action::CancelSignIn => {}
    }
    Ok(None)
}

fn delete(context: &Context, account: &str) -> Result<()> {
    context.accounts.change_file(|document| {
        if edit::remove_account(document, account) {
            return Ok(());
        }
        Err(Error::client(format!("{account} is not in the config file")))
    })
}

fn rename(context: &Context, from: &str, to: &str) -> Result<()> {
    context.accounts.change_file(|document| {
        if edit::rename_account(document, from, to) {
            return Ok(());
        }
        Err(Error::client(format!("{from} is not in the config file, or {to} is already")))
    })
}

/// Adds accounts in the same way as the commands; their messages go into the log.
fn at_desk(
    context: &Context,
    work: impl FnOnce(&mut Desk<'_>) -> Result<String>,
) -> Result<String> {
    let mut said = Vec::new();
    let result = with_desk(context, &mut said, work);
    for line in String::from_utf8_lossy(&said).lines().filter(|line| !line.trim().is_empty()) {
        context.events.notice(clock::wall(), line);
    }
    result
}

fn with_desk(
    context: &Context,
    out: &mut dyn Write,
    work: impl FnOnce(&mut Desk<'_>) -> Result<String>,
) -> Result<String> {
    work(&mut Desk {
        config: &context.config_path,
        http: &*wire::http(context.agent()),
        endpoints: &Endpoints::from_environment(&|name| std::env::var(name).ok()),
        now: &clock::now,
        out,
    })
}
