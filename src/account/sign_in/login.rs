//! `maxpool login` (SPEC T1, T4): a browser login, or an API key from the terminal.
//!
//! Writes messages to [`Desk::out`] and changes nothing but the config file, in one write at the
//! end.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::enrol::{self, Enrolled, KEY_PRIORITY, Newcomer};
use super::loopback::{Arrival, Loopback, Person, Verdict, say};
use crate::account::http::Http;
use crate::account::oauth::{self, Endpoints, Profile, Proof, TokenFailure};
use crate::config::edit::Put;
use crate::config::{Secret, Tokens};
use crate::error::{Error, Result};
use crate::scheduler::time::Now;

/// What the commands that add accounts need.
pub(crate) struct Desk<'a> {
    /// The config file; created if it is missing.
    pub(crate) config: &'a Path,
    pub(crate) http: &'a Http,
    pub(crate) endpoints: &'a Endpoints,
    /// `clock::now`.
    pub(crate) now: &'a dyn Fn() -> Now,
    /// Where messages to the user go: stderr. The result is returned, for stdout.
    pub(crate) out: &'a mut dyn Write,
}

/// Options of a login.
pub(crate) struct LoginOptions<'a> {
    pub(crate) name: Option<&'a str>,
    /// Standard input if it is a terminal: the callback's URL or the code may be pasted there.
    pub(crate) terminal: Option<BorrowedFd<'a>>,
    /// Opens a URL for the user, see [`open_browser`].
    pub(crate) browser: &'a dyn Fn(&str),
    /// Whether the user has cancelled the login.
    pub(crate) is_cancelled: &'a dyn Fn() -> bool,
}

/// Signs in with a browser and stores the account. Returns a line that says what was done.
pub(crate) fn login(desk: &mut Desk<'_>, options: &LoginOptions<'_>) -> Result<String> {
    login_within(desk, options, LOGIN_TIME_MAX)
}

fn login_within(
    desk: &mut Desk<'_>,
    options: &LoginOptions<'_>,
    limit: Duration,
) -> Result<String> {
    let proof = Proof::new()?;
    let loopback = Loopback::open()?;
    let redirect_uri = loopback.redirect_uri();
    let url = oauth::authorize_url(desk.endpoints, &proof, &redirect_uri);
    say(desk.out, &format!("{INTRODUCTION}\n\n  {url}\n"))?;
    if options.terminal.is_some() {
        say(desk.out, PASTE_HINT)?;
    }
    (options.browser)(&url);
    let person = Person { terminal: options.terminal, is_cancelled: options.is_cancelled };
    let (code, page) = match loopback.wait(&proof.state, &person, desk.out, limit)? {
        Arrival::Code(code, page) => (code, page),
        Arrival::Denied(words, page) => {
            page.show(Verdict::Refused, &format!("The provider answered: {words}."));
            return Err(Error::operator(format!("the login was denied: {words}")));
        }
    };
    // Only one attempt: a code that may have arrived is used up.
    let stored = oauth::exchange(desk.http, desk.endpoints, &code, &proof, &redirect_uri, desk.now)
        .map_err(|failure| exchange_error(&failure))
        .and_then(|tokens| {
            let profile = read_profile(desk, tokens.access.as_ref())?;
            let newcomer = Newcomer {
                name: options.name,
                profile: &profile,
                tokens: &tokens,
                source: "login",
            };
            enrol::store_oauth(desk.config, &newcomer)
        });
    match stored {
        Ok(put) => {
            let line = told(&put)?;
            page.show(Verdict::Done, &format!("maxpool has {line}."));
            Ok(line)
        }
        Err(error) => {
            page.show(Verdict::Refused, &format!("{error}."));
            Err(error)
        }
    }
}

/// Reads the owner of the tokens. Without a readable profile the account merely lacks its e-mail
/// and its identity.
pub(super) fn read_profile(desk: &mut Desk<'_>, access: Option<&Secret>) -> Result<Profile> {
    let Some(access) = access else {
        return Ok(Profile::default());
    };
    match oauth::profile(desk.http, desk.endpoints, access) {
        Ok(profile) => Ok(profile),
        Err(why) => {
            say(
                desk.out,
                &format!(
                    "The profile could not be read ({why}), so the account is identified only by \
                     its name."
                ),
            )?;
            Ok(Profile::default())
        }
    }
}

/// The kind of a typed credential (SPEC T4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// An API key.
    Key,
    /// A long-lived OAuth token.
    Token,
}

/// A typed or piped credential.
pub(crate) struct TypedCredential<'a> {
    /// `--name`.
    pub(crate) name: Option<&'a str>,
    /// The kind that the user asked for.
    pub(crate) wanted: Wanted,
    /// The credential.
    pub(crate) secret: &'a Secret,
    /// Decides whether to store a credential that does not look like its kind. The argument is the
    /// question; an error means that nobody can answer it.
    pub(crate) accept: &'a dyn Fn(&str) -> Result<bool>,
}

/// Stores an API key that was typed into the dashboard.
pub(crate) fn add_api_key(desk: &mut Desk<'_>, name: Option<&str>, key: &Secret) -> Result<String> {
    let accept = |_: &str| Err(Error::operator(unlike_key(FORCE_KEY)));
    let typed = TypedCredential { name, wanted: Wanted::Key, secret: key, accept: &accept };
    add_typed(desk, &typed)
}

/// Stores an API key or a long-lived token (SPEC T4). Returns a line that says what was done.
pub(crate) fn add_typed(desk: &mut Desk<'_>, typed: &TypedCredential<'_>) -> Result<String> {
    let text = typed.secret.expose();
    let (what, option) = match typed.wanted {
        Wanted::Key => ("key", "--api"),
        Wanted::Token => ("token", "--token"),
    };
    if text.is_empty() {
        return Err(Error::operator(format!(
            "no {what} was given; type it, or pipe it in: maxpool login {option} < FILE"
        )));
    }
    if !oauth::is_sendable(text) {
        return Err(Error::operator(format!(
            "that is not a {what}: it contains spaces or other characters that no {what} \
             contains; copy it again"
        )));
    }
    // A token that was entered as a key is stored as a token.
    let is_token = text.starts_with(TOKEN_PREFIX);
    let is_like = match typed.wanted {
        Wanted::Key => is_token || text.starts_with(KEY_PREFIX),
        Wanted::Token => is_token,
    };
    if !is_like {
        let prefix = if typed.wanted == Wanted::Key { KEY_PREFIX } else { TOKEN_PREFIX };
        let question = format!("this does not look like a {what} ({prefix}…); store it anyway?");
        if !(typed.accept)(&question)? {
            return Err(Error::operator("nothing was stored"));
        }
    }
    if is_token || typed.wanted == Wanted::Token {
        return add_token(desk, typed.name, typed.secret);
    }
    Ok(match enrol::store_key(desk.config, typed.name, typed.secret)? {
        Put::Added(name) => format!(
            "added the API key {name} with priority {KEY_PRIORITY}: it serves after your \
             subscriptions, because it costs money; change that with: maxpool priority {name} 0"
        ),
        Put::Updated(name) => format!("updated the API key {name}"),
    })
}

fn add_token(desk: &mut Desk<'_>, name: Option<&str>, token: &Secret) -> Result<String> {
    let tokens = Tokens { access: Some(token.clone()), refresh: None, expires_at: None };
    let profile = read_profile(desk, Some(token))?;
    let newcomer = Newcomer { name, profile: &profile, tokens: &tokens, source: "login --token" };
    let put = enrol::store_oauth(desk.config, &newcomer)?;
    told(&put)
}

/// The error for piped input that does not look like a key.
pub(crate) fn unlike_key(again: &str) -> String {
    format!("this does not look like an Anthropic API key ({KEY_PREFIX}…); if it is one: {again}")
}

/// The same for a token.
pub(crate) fn unlike_token(again: &str) -> String {
    format!(
        "this does not look like a token of \"claude setup-token\" ({TOKEN_PREFIX}…); if it is \
         one: {again}"
    )
}

const FORCE_KEY: &str = "maxpool login --api --force";
const KEY_PREFIX: &str = "sk-ant-api";
const TOKEN_PREFIX: &str = "sk-ant-oat";

/// Opens a URL with the system's opener; without one, the user can copy the URL from the screen.
pub(crate) fn open_browser(url: &str) {
    use std::os::unix::process::CommandExt as _;
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in this terminal must not reach the browser.
    command.process_group(0);
    if let Ok(mut child) = command.spawn() {
        let reap = move || {
            // Its exit status means nothing: most openers return before the page is shown.
            let _ = child.wait();
        };
        let _reaper = std::thread::Builder::new().stack_size(64 * 1024).spawn(reap);
    }
}

/// `added the account work`; an error if nothing was stored.
pub(super) fn told(enrolled: &Enrolled) -> Result<String> {
    Ok(match enrolled {
        Enrolled::Put(Put::Added(name)) => format!("added the account {name}"),
        Enrolled::Put(Put::Updated(name)) => {
            format!("updated the account {name}, which already existed")
        }
        Enrolled::Beside(Put::Added(name) | Put::Updated(name), other) => format!(
            "added the account {name}; it may be the same account as {other}: if so, remove the \
             old one with `maxpool remove {other}`"
        ),
        Enrolled::Spent(newer) => {
            let why = match newer {
                Some(name) => format!(
                    "the account {name} has newer ones, which are kept; if it needs a login, run"
                ),
                None => "their refresh token has been used up; sign in again with".to_owned(),
            };
            return Err(Error::operator(format!(
                "these tokens are an old copy: {why}: maxpool login"
            )));
        }
    })
}

fn exchange_error(failure: &TokenFailure) -> Error {
    let again = match failure {
        TokenFailure::NotSent { .. } => "check the connection and run the login again",
        TokenFailure::FateUnknown { .. }
        | TokenFailure::Temporary { .. }
        | TokenFailure::Refused { .. } => "run the login again",
    };
    Error::upstream(format!("the login could not be finished: {}; {again}", failure.why()))
}

/// Lines that fit into 80 columns, as everywhere where a message has lines of its own.
const INTRODUCTION: &str = "\
Open this page in a browser and sign in. There is no account picker: the page
takes the account that the browser is signed in to. For another account sign
out there first, or open the page in a private window.";
const PASTE_HINT: &str = "\
If the browser is on another machine, paste the address of its last page, or
the code, here.";
/// Enough for a password, a second factor and a search for the phone.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
