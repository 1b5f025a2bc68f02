//! `enable`, `disable`, `remove`, `rename`, `priority` and `use`: through the running server if
//! there is one, otherwise in the file, under its lock. Both ways change the same file.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Context;
use super::args::Change;
use super::login::confirm;
use super::web::{Presence, Server};
use crate::account::http::percent_encoded;
use crate::config::near::{did_you_mean, nearest};
use crate::config::{Config, Credential, edit, file};
use crate::error::{Error, Result};
use crate::report::text;

/// Runs the command. On a terminal, `remove` asks first, because the credential is lost with the
/// account.
pub(super) fn command(context: &mut Context<'_>, change: &Change) -> Result<()> {
    if let Change::Remove { name } = change
        && io::stdin().is_terminal()
        && is_in_file(&file::load(&context.config_path()?)?, change)
    {
        let question = format!("Remove {} and its credential from the config?", text::name(name));
        if !confirm(context.out.stderr(), &question)? {
            return Err(Error::operator("nothing was removed"));
        }
    }
    apply(context, change)
}

/// Makes the change and reports the new state.
pub(super) fn apply(context: &mut Context<'_>, change: &Change) -> Result<()> {
    let path = context.config_path()?;
    let config = file::load(&path)?;
    // Without a port there can be no server; the file is changed all the same.
    let server = Server::of(&config).ok().filter(|server| server.presence() == Presence::Running);
    let through_server = server.as_ref().map(|server| through(server, change));
    if let Change::Retry { name } = change {
        return match through_server {
            Some(Some(Ok(()))) => {
                context.out.line(&said(change));
                Ok(())
            }
            Some(Some(Err(refused))) => Err(refused),
            Some(None) | None => Err(Error::operator(format!(
                "maxpool is not running, so {} has no blocks to lift; start it with: maxpool",
                text::name(name)
            ))),
        };
    }
    match through_server {
        Some(Some(Ok(()))) => {}
        Some(Some(Err(refused))) if !is_in_file(&config, change) => return Err(refused),
        Some(Some(Err(_)) | None) | None => {
            in_file(&path, change)?;
            if let Some(Err(error)) =
                server.map(|server| server.json("POST", "/maxpool/reload", None))
            {
                context.out.remark(&format!(
                    "maxpool: the config was changed, but the running proxy could not apply the \
                    change: {error}"
                ));
            }
        }
    }
    let said = said(change);
    context.out.line(&said);
    Ok(())
}

/// The server's own route for the change, if it has one.
fn through(server: &Server, change: &Change) -> Option<Result<()>> {
    let (path, body) = match change {
        Change::Enabled { name, enabled } => {
            let verb = if *enabled { "enable" } else { "disable" };
            (format!("/maxpool/accounts/{}/{verb}", percent_encoded(name)), None)
        }
        Change::Retry { name } => {
            (format!("/maxpool/accounts/{}/retry", percent_encoded(name)), None)
        }
        Change::Use { name: Some(name) } => {
            ("/maxpool/routing".to_owned(), Some(json!({ "mode": "preferred", "account": name })))
        }
        Change::Use { name: None } => {
            ("/maxpool/routing".to_owned(), Some(json!({ "mode": "automatic" })))
        }
        Change::Remove { .. } | Change::Rename { .. } | Change::Priority { .. } => return None,
    };
    Some(server.json("POST", &path, body.as_ref()).map(|_| ()))
}

/// Whether the account is in the file. An account from request headers is known only to the server.
fn is_in_file(config: &Config, change: &Change) -> bool {
    let has = |name: &str| config.accounts.iter().any(|account| account.name == name);
    match change {
        Change::Enabled { name, .. }
        | Change::Retry { name }
        | Change::Remove { name }
        | Change::Rename { name, .. }
        | Change::Priority { name, .. }
        | Change::Use { name: Some(name) } => has(name),
        Change::Use { name: None } => true,
    }
}

fn in_file(path: &Path, change: &Change) -> Result<()> {
    if let Change::Use { name: Some(name) } = change {
        can_be_preferred(&file::load(path)?, name)?;
    }
    file::update(path, |document| edit_document(document, change))
}

/// Only an enabled Claude account can be preferred (SPEC S7).
fn can_be_preferred(config: &Config, name: &str) -> Result<()> {
    let Some(account) = config.accounts.iter().find(|account| account.name == name) else {
        return Err(unknown(name, config.accounts.iter().map(|account| account.name.as_str())));
    };
    match account.credential {
        Credential::Provider(_) => Err(Error::operator(format!(
            "{} is a provider; only a Claude account can be preferred",
            text::name(name)
        ))),
        Credential::Oauth(_) | Credential::ApiKey(_) if !account.enabled => {
            Err(Error::operator(format!(
                "{0} is disabled; to prefer it, enable it first: maxpool enable {0}",
                text::name(name)
            )))
        }
        Credential::Oauth(_) | Credential::ApiKey(_) => Ok(()),
    }
}

fn edit_document(document: &mut Map<String, Value>, change: &Change) -> Result<()> {
    let names = edit::names(document);
    let unknown = |name: &str| unknown(name, names.iter().map(String::as_str));
    match change {
        Change::Enabled { name, enabled } if edit::set_enabled(document, name, *enabled) => Ok(()),
        Change::Enabled { name, .. } => Err(unknown(name)),
        // Not stored in the file.
        Change::Retry { .. } => Ok(()),
        Change::Priority { name, priority } => {
            let entry = edit::account_mut(document, name).ok_or_else(|| unknown(name))?;
            entry.insert("priority".to_owned(), Value::from(*priority));
            Ok(())
        }
        Change::Remove { name } if edit::remove_account(document, name) => Ok(()),
        Change::Remove { name } => Err(unknown(name)),
        Change::Rename { name, .. } if !names.contains(name) => Err(unknown(name)),
        Change::Rename { new, .. } if new.chars().any(char::is_control) => {
            Err(Error::operator("the new name contains control characters; choose another name"))
        }
        Change::Rename { name, new } if edit::rename_account(document, name, new) => Ok(()),
        Change::Rename { new, .. } => Err(Error::operator(format!(
            "an account named {} already exists; choose another name",
            text::name(new)
        ))),
        Change::Use { name } => {
            edit::set_routing(document, name.as_deref());
            Ok(())
        }
    }
}

/// `there is no account wrok; did you mean work? The accounts are work and spare`.
pub(super) fn unknown<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Error {
    let names: Vec<&str> = names.collect();
    let near = nearest(name, names.iter().copied()).map(text::name);
    let meant = did_you_mean(near.as_deref());
    let shown: Vec<String> = names.iter().map(|name| text::name(name)).collect();
    let rest = match shown.as_slice() {
        [] => "there are none; add one with: maxpool login".to_owned(),
        [only] => format!("the only one is {only}"),
        several => format!("the accounts are {}", several.join(", ")),
    };
    let number = match name.parse::<u64>() {
        Ok(_) => "; accounts are referred to by name, not by number",
        Err(_) => "",
    };
    let gap = if meant.is_empty() { "; " } else { " (" };
    let end = if meant.is_empty() { "" } else { ")" };
    Error::operator(format!(
        "there is no account {}{number}{meant}{gap}{rest}{end}",
        text::name(name)
    ))
}

fn said(change: &Change) -> String {
    match change {
        Change::Enabled { name, enabled: true } => format!("enabled {}", text::name(name)),
        Change::Enabled { name, enabled: false } => format!("disabled {}", text::name(name)),
        Change::Retry { name } => format!("the next request will try {}", text::name(name)),
        Change::Remove { name } => format!("removed {}", text::name(name)),
        Change::Rename { name, new } => {
            format!("renamed {} to {}", text::name(name), text::name(new))
        }
        Change::Priority { name, priority } => {
            format!("{} now has priority {priority}", text::name(name))
        }
        Change::Use { name: Some(name) } => format!("{} is now preferred", text::name(name)),
        Change::Use { name: None } => "routing is now automatic".to_owned(),
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
