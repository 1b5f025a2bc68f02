//! A sign-in with a browser that a dashboard has started.
//!
//! The sign-in is that of `maxpool login`, on a thread of its own: the page to open and what else
//! it says are kept for the frames, and a socket pair stands in the place of its terminal, so that
//! the address or the code can be typed into the dashboard. One runs at a time, and each ends by
//! itself within the time that a login has.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::account::sign_in::login::{self, LoginOptions};
use crate::config::Secret;
use crate::error::Result;
use crate::event::Pulse;
use crate::report::screen::SigningIn;

/// Does the sign-in: tells the person through the writer, and gives the line that says what was
/// done.
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
    /// Where the code is typed, while a sign-in is under way.
    typed: Option<UnixStream>,
}

/// The login makes TLS connections.
const STACK: usize = 1024 * 1024;
/// Lines that are kept of what a sign-in says.
const SAID_MAX: usize = 4;

impl SignIns {
    pub(super) fn new(login: Box<Login>, pulse: &Arc<Pulse>) -> Arc<SignIns> {
        Arc::new(SignIns { login, pulse: Arc::clone(pulse), latest: Mutex::default() })
    }

    /// The sign-in that was started last.
    pub(super) fn shown(&self) -> Option<SigningIn> {
        self.lock().shown.clone()
    }

    /// Starts one; gives a line if it cannot.
    pub(super) fn begin(self: &Arc<SignIns>, account: Option<String>) -> Option<String> {
        let mut latest = self.lock();
        if latest.typed.is_some() {
            return Some(
                "this is the sign-in that is under way; it ends by itself in five minutes".into(),
            );
        }
        let started = UnixStream::pair().and_then(|(typed, terminal)| {
            let this = Arc::clone(self);
            let thread = thread::Builder::new().name("sign-in".into()).stack_size(STACK);
            thread.spawn(move || this.run(account.as_deref(), &terminal))?;
            Ok(typed)
        });
        match started {
            Ok(typed) => {
                *latest = Latest { shown: Some(SigningIn::default()), typed: Some(typed) };
                None
            }
            Err(error) => Some(format!("the sign-in cannot start: {error}")),
        }
    }

    /// What the person has typed to end it.
    pub(super) fn enter(&self, code: &Secret) -> Option<String> {
        let latest = self.lock();
        let Some(mut typed) = latest.typed.as_ref() else {
            return Some("no sign-in is under way; l begins one".into());
        };
        match writeln!(typed, "{}", code.expose()) {
            Ok(()) => None,
            Err(error) => Some(format!("that was not taken: {error}")),
        }
    }

    fn run(&self, account: Option<&str>, terminal: &UnixStream) {
        let browser = |url: &str| {
            self.change(|shown| shown.url = Some(url.to_owned()));
            login::open_browser(url);
        };
        let options =
            LoginOptions { name: account, terminal: Some(terminal.as_fd()), browser: &browser };
        let result = match (self.login)(&options, &mut Said(self)) {
            Ok(line) => line,
            Err(error) => format!("the sign-in failed: {error}"),
        };
        self.lock().typed = None;
        self.change(|shown| shown.result = Some(result));
    }

    fn change(&self, with: impl FnOnce(&mut SigningIn)) {
        with(self.lock().shown.get_or_insert_default());
        self.pulse.beat();
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what is said after the page was opened; what is said before stands on the page anyway.
struct Said<'a>(&'a SignIns);

impl Write for Said<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        self.0.change(|shown| {
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
