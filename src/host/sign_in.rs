//! A browser sign-in started from a dashboard.
//!
//! It is the sign-in of `maxpool login`, on its own thread. The page to open and the login's
//! messages are kept for the frames, and a socket pair replaces the terminal, so that the address
//! or the code can be typed into the dashboard. Only one runs at a time. It ends when it is
//! cancelled or when the login's time is up.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::account::sign_in::login::{self, LoginOptions};
use crate::config::Secret;
use crate::error::Result;
use crate::event::Pulse;
use crate::report::screen::SigningIn;

/// Performs the sign-in: writes messages for the user, and returns a line with the result.
pub(crate) type Login = dyn Fn(&LoginOptions<'_>, &mut dyn Write) -> Result<String> + Send + Sync;

/// The sign-ins of one dashboard.
pub(super) struct SignIns {
    login: Box<Login>,
    pulse: Arc<Pulse>,
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    shown: Option<SigningIn>,
    running: Option<Running>,
    /// Numbers the sign-ins, so that a cancelled one that has not ended yet shows nothing.
    number: u64,
}

/// A sign-in in progress.
struct Running {
    /// Where the typed code goes.
    typed: UnixStream,
    cancelled: Arc<AtomicBool>,
}

/// The login makes TLS connections.
const STACK: usize = 1024 * 1024;
/// Messages of a sign-in that are kept.
const SAID_MAX: usize = 4;

impl SignIns {
    pub(super) fn new(login: Box<Login>, pulse: &Arc<Pulse>) -> Arc<SignIns> {
        Arc::new(SignIns { login, pulse: Arc::clone(pulse), latest: Mutex::default() })
    }

    /// The most recently started sign-in.
    pub(super) fn shown(&self) -> Option<SigningIn> {
        self.lock().shown.clone()
    }

    /// Starts a sign-in; returns a line if it cannot.
    pub(super) fn begin(self: &Arc<SignIns>, account: Option<String>) -> Option<String> {
        let mut latest = self.lock();
        if latest.running.is_some() {
            return Some("a sign-in is already in progress; Esc cancels it".into());
        }
        let number = latest.number + 1;
        let started = UnixStream::pair().and_then(|(typed, terminal)| {
            let this = Arc::clone(self);
            let cancelled = Arc::new(AtomicBool::new(false));
            let running = Running { typed, cancelled: Arc::clone(&cancelled) };
            let thread = thread::Builder::new().name("sign-in".into()).stack_size(STACK);
            thread.spawn(move || this.run(number, account.as_deref(), &terminal, &cancelled))?;
            Ok(running)
        });
        match started {
            Ok(running) => {
                let shown = Some(SigningIn::default());
                *latest = Latest { shown, running: Some(running), number };
                None
            }
            Err(error) => Some(format!("cannot start the sign-in: {error}")),
        }
    }

    /// Passes on what the user has typed to complete it.
    pub(super) fn enter(&self, code: &Secret) -> Option<String> {
        let latest = self.lock();
        let Some(mut typed) = latest.running.as_ref().map(|running| &running.typed) else {
            return Some("no sign-in is in progress; press l to start one".into());
        };
        match writeln!(typed, "{}", code.expose()) {
            Ok(()) => None,
            Err(error) => Some(format!("that was not accepted: {error}")),
        }
    }

    /// Cancels the sign-in in progress. If its code has arrived already, the code is exchanged all
    /// the same, because it can be used only once, and the account is stored.
    pub(super) fn cancel(&self) -> Option<String> {
        let mut latest = self.lock();
        let running = latest.running.take()?;
        running.cancelled.store(true, Ordering::Relaxed);
        latest.shown = None;
        latest.number += 1;
        Some("sign-in cancelled".into())
    }

    fn run(
        &self,
        number: u64,
        account: Option<&str>,
        terminal: &UnixStream,
        cancelled: &AtomicBool,
    ) {
        let browser = |url: &str| {
            self.change(number, |latest| latest.shown().url = Some(url.to_owned()));
            login::open_browser(url);
        };
        let options = LoginOptions {
            name: account,
            terminal: Some(terminal.as_fd()),
            browser: &browser,
            is_cancelled: &|| cancelled.load(Ordering::Relaxed),
        };
        let result = match (self.login)(&options, &mut Said(self, number)) {
            Ok(line) => line,
            Err(error) => format!("the sign-in failed: {error}"),
        };
        self.change(number, |latest| {
            latest.running = None;
            latest.shown().result = Some(result);
        });
    }

    /// Updates what is shown of this sign-in, unless it was cancelled.
    fn change(&self, number: u64, with: impl FnOnce(&mut Latest)) {
        let mut latest = self.lock();
        if latest.number == number {
            with(&mut latest);
            self.pulse.beat();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latest {
    fn shown(&mut self) -> &mut SigningIn {
        self.shown.get_or_insert_default()
    }
}

/// Keeps the messages of this sign-in after the page was opened. Until then the dashboard shows
/// texts of its own.
struct Said<'a>(&'a SignIns, u64);

impl Write for Said<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        self.0.change(self.1, |latest| {
            let shown = latest.shown();
            if shown.url.is_some() {
                shown.said.extend(lines.map(str::to_owned));
                let surplus = shown.said.len().saturating_sub(SAID_MAX);
                shown.said.drain(..surplus);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
