//! `login` and `import`: runs the sign-in of `account` with the terminal, the network and the
//! config of this process.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write};
use std::os::fd::AsFd as _;

use super::Context;
use super::args::{ImportOptions, LoginBy, LoginOptions};
use super::web::{self, Presence, Server};
use crate::account::oauth::Endpoints;
use crate::account::sign_in::import::{self, ClaudeCode, ImportSource};
use crate::account::sign_in::login::{TypedCredential, Wanted};
use crate::account::sign_in::{key, login};
use crate::clock;
use crate::config::file;
use crate::error::{Error, Result, reason};

/// `login`: a browser login, or with `--api` or `--token` a typed or piped credential.
pub(super) fn login(context: &mut Context<'_>, options: &LoginOptions) -> Result<()> {
    let name = options.name.as_deref();
    let (wanted, what) = match options.by {
        LoginBy::Browser => return login_by_browser(context, name),
        LoginBy::Key => (Wanted::Key, "API key"),
        LoginBy::Token => (Wanted::Token, "Token"),
    };
    let secret = key::read_key(context.out.stderr(), what)?;
    let accept = |question: &str| match (options.force, io::stdin().is_terminal()) {
        (true, _) => Ok(true),
        (false, true) => confirm(&mut io::stderr(), question),
        (false, false) => Err(Error::operator(match wanted {
            Wanted::Key => login::unlike_key("maxpool login --api --force"),
            Wanted::Token => login::unlike_token("maxpool login --token --force"),
        })),
    };
    add(context, |desk| {
        login::add_typed(desk, &TypedCredential { name, wanted, secret: &secret, accept: &accept })
    })
}

fn login_by_browser(context: &mut Context<'_>, name: Option<&str>) -> Result<()> {
    let stdin = io::stdin();
    let terminal = stdin.is_terminal().then(|| stdin.as_fd());
    add(context, |desk| {
        let options = login::LoginOptions {
            name,
            terminal,
            browser: &login::open_browser,
            is_cancelled: &|| false,
        };
        login::login(desk, &options)
    })
}

/// Asks on the terminal; anything but `y` or `yes` means no.
pub(super) fn confirm(out: &mut dyn Write, question: &str) -> Result<bool> {
    let asked = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    asked.and_then(|()| io::stdin().lock().read_line(&mut answer)).map_err(|error| {
        Error::operator(format!("cannot ask on the terminal: {}", reason(&error)))
    })?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// `import`.
pub(super) fn import(context: &mut Context<'_>, options: &ImportOptions) -> Result<()> {
    let piped;
    let claude;
    let source = match (&options.from, options.json.as_deref()) {
        (Some(path), _) => ImportSource::File(path),
        (None, Some("-")) => {
            piped = read_stdin()?;
            ImportSource::Text(&piped)
        }
        (None, Some(text)) => ImportSource::Text(text),
        (None, None) => {
            claude = ClaudeCode::of(context.variable).ok_or_else(|| {
                Error::operator("HOME is not set; name the file with --from PATH")
            })?;
            ImportSource::ClaudeCode(&claude)
        }
    };
    add(context, |desk| import::import(desk, &source, options.name.as_deref()))
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| {
        Error::operator(format!("cannot read standard input: {}", reason(&error)))
    })?;
    Ok(text)
}

/// Claude Code's file has a few kilobytes.
const INPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Adds an account, notifies the running server, and reports what was done.
fn add(
    context: &mut Context<'_>,
    add: impl FnOnce(&mut login::Desk<'_>) -> Result<String>,
) -> Result<()> {
    let path = context.config_path()?;
    // A broken file is reported before anybody signs in for nothing.
    let config = context.config()?;
    let http = web::http(context, &config)?;
    let text = |name: &str| (context.variable)(name).and_then(|value| value.into_string().ok());
    let endpoints = Endpoints::from_environment(&text);
    let mut desk = login::Desk {
        config: &path,
        http: &*http,
        endpoints: &endpoints,
        now: &clock::now,
        out: context.out.stderr(),
    };
    let done = add(&mut desk)?;
    context.out.line(&done);
    // A server that cannot be notified now finds the change by itself (SPEC A7).
    let server = file::load(&path).ok().and_then(|config| Server::of(&config).ok());
    let server = server.filter(|server| server.presence() == Presence::Running);
    let next = match server.map(|server| server.json("POST", "/maxpool/reload", None)) {
        Some(Ok(_)) => "The running proxy uses it now. Next: maxpool run",
        Some(Err(_)) => {
            "The running proxy has not picked it up yet; see: maxpool doctor. Next: maxpool run"
        }
        None => {
            "Next: add another account the same way, or start the proxy with \"maxpool\" and then, \
             in another terminal, Claude Code with \"maxpool run\"."
        }
    };
    context.out.remark(next);
    Ok(())
}
