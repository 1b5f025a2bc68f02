//! `status --watch`: the dashboard attached to the running proxy. Reads its status, and makes
//! changes like the commands.

use std::io::Write;
use std::sync::Arc;

use super::Context;
use super::args::Change;
use super::web::{self, Server};
use super::{change, out};
use crate::account::http::{Http, percent_encoded};
use crate::account::oauth::Endpoints;
use crate::account::sign_in::import::{self, ClaudeCode, ImportSource};
use crate::account::sign_in::login::{self, Desk};
use crate::clock;
use crate::error::{Error, Result};
use crate::host::dashboard;
use crate::http::document;
use crate::report::status::Status;
use crate::report::text;
use crate::report::ui::Action;

/// Runs until the user leaves.
pub(super) fn watch(context: &Context<'_>) -> Result<()> {
    let config = context.config()?;
    let server = Server::of(&config)?;
    let http = web::http(context, &config)?;
    let fetch = move || {
        let body =
            server.json("GET", "/maxpool/status", None).map_err(|error| error.to_string())?;
        document::read::<Status>(&body)
            .map_err(|error| format!("the answer of {} cannot be read: {error}", server.base()))
    };
    // Without a server there is nothing to watch; this is reported before the terminal is taken
    // over.
    fetch().map_err(Error::operator)?;
    let network = Arc::clone(&http);
    let act = move |action| act(&http, action).unwrap_or_else(|error| error.to_string());
    let login = Box::new(move |options: &login::LoginOptions<'_>, out: &mut dyn Write| {
        let variable = |name: &str| std::env::var_os(name);
        let (mut said, mut remarked) = (Vec::new(), Vec::new());
        let context =
            Context { out: out::Out::new(&mut said, &mut remarked, false), variable: &variable };
        at_desk(&context, &network, out, |desk| login::login(desk, options))
    });
    dashboard::attach(fetch, act, login)
        .map_err(|error| Error::operator(format!("no dashboard: {error}")))
}

/// Carries out a confirmed action. Returns a line.
fn act(http: &Arc<Http>, action: Action) -> Result<String> {
    let variable = |name: &str| std::env::var_os(name);
    let (mut said, mut remarked) = (Vec::new(), Vec::new());
    let mut context =
        Context { out: out::Out::new(&mut said, &mut remarked, false), variable: &variable };
    let changed = match action {
        Action::Enable(name) => {
            change::apply(&mut context, &Change::Enabled { name, enabled: true })
        }
        Action::Disable(name) => {
            change::apply(&mut context, &Change::Enabled { name, enabled: false })
        }
        Action::Rename { from, to } => {
            change::apply(&mut context, &Change::Rename { name: from, new: to })
        }
        Action::Retry(name) => {
            let path = format!("/maxpool/accounts/{}/retry", percent_encoded(&name));
            Server::of(&context.config()?)?.json("POST", &path, None)?;
            return Ok(format!(
                "{}: blocks lifted; the next request will try it",
                text::name(&name)
            ));
        }
        Action::ReplaceKey(name, key) => {
            return at_desk(&context, http, &mut std::io::sink(), |desk| {
                login::add_api_key(desk, Some(&name), &key)
            });
        }
        Action::Delete(name) => change::apply(&mut context, &Change::Remove { name }),
        Action::Prefer(name) => change::apply(&mut context, &Change::Use { name: Some(name) }),
        Action::Automatic => change::apply(&mut context, &Change::Use { name: None }),
        Action::Sync => return reload(&context).map(|()| "the config was read again".to_owned()),
        Action::Import => {
            let claude = ClaudeCode::of(variable);
            let claude = claude.ok_or_else(|| Error::operator("HOME is not set"))?;
            let source = ImportSource::ClaudeCode(&claude);
            return at_desk(&context, http, &mut std::io::sink(), |desk| {
                import::import(desk, &source, None)
            });
        }
        Action::AddKey(key) => {
            return at_desk(&context, http, &mut std::io::sink(), |desk| {
                login::add_api_key(desk, None, &key)
            });
        }
        // Handled by the dashboard itself, or not offered when it is attached.
        Action::Restart
        | Action::Quit
        | Action::Redraw
        | Action::SignIn(_)
        | Action::SignInCode(_)
        | Action::CancelSignIn => Ok(()),
    };
    changed?;
    Ok(last_line(&remarked).or_else(|| last_line(&said)).unwrap_or_else(|| "done".into()))
}

fn at_desk(
    context: &Context<'_>,
    http: &Arc<Http>,
    out: &mut dyn Write,
    work: impl FnOnce(&mut Desk<'_>) -> Result<String>,
) -> Result<String> {
    let line = work(&mut Desk {
        config: &context.config_path()?,
        http: &**http,
        endpoints: &Endpoints::from_environment(&|name| std::env::var(name).ok()),
        now: &clock::now,
        out,
    })?;
    reload(context)?;
    Ok(line)
}

fn reload(context: &Context<'_>) -> Result<()> {
    Server::of(&context.config()?)?.json("POST", "/maxpool/reload", None).map(drop)
}

fn last_line(bytes: &[u8]) -> Option<String> {
    String::from_utf8_lossy(bytes).lines().last().map(str::to_owned)
}
