//! `login` and `import`: what `account` does, with the terminal, the network and the config of this process.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use super::Context;
use super::args::{ImportOptions, LoginOptions};
use super::web::{self, Presence, Server};
use crate::account::oauth::Endpoints;
use crate::account::sign_in::import::{self, ImportSource};
use crate::account::sign_in::{key, login};
use crate::clock;
use crate::config::{Secret, file};
use crate::error::{Error, Result};

/// `login`: a browser login, or with `--api` a key.
pub(super) fn login(context: &mut Context<'_>, options: &LoginOptions) -> Result<()> {
    let name = options.name.as_deref();
    if options.api {
        let key = key::read_key(context.out.stderr())?;
        return add_key(context, name, &key);
    }
    let stdin = io::stdin();
    let terminal = stdin.is_terminal().then(|| stdin.as_fd());
    at_desk(context, |desk| {
        let options = login::LoginOptions { name, terminal, browser: &login::open_browser };
        login::login(desk, &options)
    })
}

/// Stores an API key.
pub(super) fn add_key(context: &mut Context<'_>, name: Option<&str>, key: &Secret) -> Result<()> {
    at_desk(context, |desk| login::add_api_key(desk, name, key))
}

/// `import`.
pub(super) fn import(context: &mut Context<'_>, options: &ImportOptions) -> Result<()> {
    let home = (context.variable)("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let source = match (&options.from, &options.json, &home) {
        (Some(path), _, _) => ImportSource::File(path),
        (None, Some(text), _) => ImportSource::Text(text),
        (None, None, Some(home)) => ImportSource::ClaudeCode { home },
        (None, None, None) => {
            return Err(Error::operator("HOME is not set; name the file with --from PATH"));
        }
    };
    at_desk(context, |desk| import::import(desk, &source, options.name.as_deref()))
}

/// Adds an account, tells the running server, and says what was done.
fn at_desk(
    context: &mut Context<'_>,
    add: impl FnOnce(&mut login::Desk<'_>) -> Result<String>,
) -> Result<()> {
    let path = context.config_path()?;
    // A broken file is told before anybody signs in for nothing.
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
    // A server that does not hear of it now finds it by itself (SPEC A7).
    if let Some(server) = file::load(&path).ok().and_then(|config| Server::of(&config).ok())
        && server.presence() == Presence::Running
    {
        let _ = server.json("POST", "/maxpool/reload", None);
    }
    Ok(())
}
