//! Changes of a running server: a reread config (SPEC A7) and the control routes (P1).
//!
//! Each change is written to the file first, under the lock of A5, and then takes effect like an
//! edit by hand: the file is read again, and the differences are applied to the scheduler and the
//! accounts.

use std::sync::{Mutex, PoisonError};

use crate::account::Origin;
use crate::account::sync::CredentialChange;
use crate::clock;
use crate::config::near::{did_you_mean, nearest};
use crate::config::{self, Config, edit, file, settings};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::proxy::context::{Context, proxies};
use crate::scheduler::Routing;

/// Serializes changes: of two concurrent reloads, one could apply an older file after a newer one.
static APPLYING: Mutex<()> = Mutex::new(());

/// Reads the config file again and applies the differences. Returns a line for each change.
///
/// # Errors
/// The file cannot be used; all settings stay as they were.
pub(crate) fn reload(context: &Context) -> Result<Vec<String>> {
    let _one = APPLYING.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = file::load(&context.config_path).and_then(|config| {
        // Checked before anything is applied: an invalid setting keeps all the old ones.
        proxies(&config).map(|_| config).map_err(Error::operator)
    });
    match loaded {
        Ok(config) => Ok(apply(context, config)),
        Err(error) => {
            context.tell(Event::ReloadFailed { why: error.to_string() });
            Err(error)
        }
    }
}

/// Applies a config at start, without reporting changes.
pub(crate) fn apply_first(context: &Context, config: &Config) {
    for entry in &config.accounts {
        register(context, entry);
    }
    route(context, config);
}

fn register(context: &Context, entry: &config::AccountEntry) {
    context.accounts.register(entry, Origin::Config, |spec| {
        context.gate.with(|scheduler, now| scheduler.add_account(now, spec))
    });
}

fn apply(context: &Context, config: Config) -> Vec<String> {
    let old = context.config();
    let mut lines = Vec::new();
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    if old.proxy.host != config.proxy.host || old.proxy.port != config.proxy.port {
        lines.push("proxy.host or proxy.port changed: takes effect after a restart".to_owned());
    }
    let diff = context.accounts.diff(&config);
    context.accounts.set_settings(&config);
    for id in diff.removed {
        if let Some(account) = context.accounts.remove(id) {
            context.gate.with(|scheduler, now| scheduler.remove_account(now, id));
            removed.push(account.profile().name.to_string());
        }
    }
    for change in diff.changed {
        let name = change.entry.name.clone();
        let credential = context.accounts.update(change.id, &change.entry);
        context.gate.with(|scheduler, now| {
            scheduler.update_account(now, change.id, change.spec);
            if credential == CredentialChange::New {
                scheduler.clear_credential_blocks(now, change.id);
            }
        });
        lines.push(format!("{name}: {}", change.said.join(", ")));
    }
    for entry in &diff.added {
        register(context, entry);
        added.push(entry.name.clone());
    }
    let settings = settings_changed(&old, &config);
    let policy = config.policy.clone();
    context.gate.with(|scheduler, now| scheduler.set_policy(now, policy));
    let proxy_changed = old.upstream_proxy != config.upstream_proxy;
    for notice in config.notices.iter().filter(|notice| !old.notices.contains(notice)) {
        context.events.warning(clock::wall(), notice.clone());
    }
    context.accounts.sync_tokens();
    route(context, &config);
    context.set_config(config);
    context.probe.look_again();
    if proxy_changed {
        // It was checked above, so it cannot fail here.
        let _ = context.renew_agent();
    }
    lines.extend(settings);
    if !(added.is_empty() && removed.is_empty() && lines.is_empty()) {
        context.tell(Event::Reloaded {
            added: added.clone(),
            removed: removed.clone(),
            changed: lines.clone(),
        });
    }
    let mut all: Vec<String> = added.into_iter().map(|name| format!("added {name}")).collect();
    all.extend(removed.into_iter().map(|name| format!("removed {name}")));
    all.extend(lines);
    all
}

/// Names the groups of settings that differ.
fn settings_changed(old: &Config, new: &Config) -> Vec<String> {
    let (before, after) = (settings::document(old), settings::document(new));
    let differs = |key: &str| match key {
        "upstreamProxy" => old.upstream_proxy != new.upstream_proxy,
        "proxy.requireKey" => old.proxy.require_key != new.proxy.require_key,
        "proxy.apiKey" => old.proxy.api_key != new.proxy.api_key,
        key => before[key] != after[key],
    };
    let mut keys = SETTINGS.to_vec();
    keys.retain(|key| differs(key));
    keys.iter().map(|key| format!("{key} changed")).collect()
}

/// The groups, as a reload reports them.
const SETTINGS: [&str; 12] = [
    "upstream",
    "upstreamProxy",
    "switchThreshold",
    "routing",
    "scheduler",
    "retry",
    "queue",
    "timeouts",
    "proxy.requireKey",
    "proxy.apiKey",
    "shutdown",
    "quotaProbeSeconds",
];

/// Applies the config's routing. If the account cannot be preferred, routing stays automatic and a
/// line says so.
fn route(context: &Context, config: &Config) {
    let routing = match &config.routing {
        config::Routing::Automatic => Routing::Automatic,
        config::Routing::Preferred(name) => match context.accounts.by_name(name) {
            Some(account) => Routing::Preferred(account.id()),
            None => {
                context.events.warning(
                    clock::wall(),
                    format!(
                        "routing.preferredAccount: there is no account {name}; routing stays \
                             automatic"
                    ),
                );
                Routing::Automatic
            }
        },
    };
    if context.gate.with(|scheduler, now| scheduler.set_routing(now, routing)).is_err() {
        context.events.warning(
            clock::wall(),
            "routing.preferredAccount: only an enabled Claude account can be preferred; routing \
             stays automatic",
        );
        // Automatic routing is never refused.
        let _ = context.gate.with(|scheduler, now| scheduler.set_routing(now, Routing::Automatic));
    }
}

/// Prefers an account, or none; stored in the file.
///
/// # Errors
/// The account does not exist or cannot be preferred, or the file cannot be written.
pub(crate) fn set_routing(context: &Context, preferred: Option<&str>) -> Result<Vec<String>> {
    if let Some(name) = preferred {
        let account = context
            .accounts
            .by_name(name)
            .ok_or_else(|| Error::client(no_account(context, name)))?;
        if !account.kind().is_claude() || !account.profile().enabled {
            return Err(Error::client(format!(
                "{name} cannot be preferred: only an enabled Claude account can"
            )));
        }
    }
    context.accounts.change_file(|document| {
        edit::set_routing(document, preferred);
        Ok(())
    })?;
    reload(context)
}

/// Enables or disables an account; stored in the file, unless the account comes from request
/// headers.
///
/// # Errors
/// The account does not exist, or the file cannot be written.
pub(crate) fn switch(context: &Context, name: &str, enabled: bool) -> Result<Vec<String>> {
    let account =
        context.accounts.by_name(name).ok_or_else(|| Error::client(no_account(context, name)))?;
    if account.profile().origin == Origin::Request {
        context.accounts.set_enabled(account.id(), enabled);
        let spec = account.profile().for_scheduler(account.kind());
        context.gate.with(|scheduler, now| scheduler.update_account(now, account.id(), spec));
        return Ok(vec![format!("{name}: enabled {enabled}")]);
    }
    context.accounts.change_file(|document| {
        if !edit::set_enabled(document, name, enabled) {
            return Err(Error::client(format!("{name} is no longer in the config file")));
        }
        Ok(())
    })?;
    reload(context)
}

/// Lifts all blocks of an account except a missing credential, so that the next request tries it
/// (SPEC P7). Returns the line that says so.
///
/// # Errors
/// The account does not exist.
pub(crate) fn retry(context: &Context, name: &str) -> Result<String> {
    let account =
        context.accounts.by_name(name).ok_or_else(|| Error::client(no_account(context, name)))?;
    context.accounts.retry(account.id());
    context.gate.with(|scheduler, now| scheduler.retry(now, account.id()));
    Ok(format!("{name}: blocks lifted; the next request will try it"))
}

/// The error that no account has that name, with the most similar name.
pub(crate) fn no_account(context: &Context, name: &str) -> String {
    let accounts = context.accounts.all();
    let profiles: Vec<_> = accounts.iter().map(|account| account.profile()).collect();
    let near = nearest(name, profiles.iter().map(|profile| &*profile.name));
    let rest = match near {
        Some(_) => did_you_mean(near),
        None => "; see: maxpool accounts".to_owned(),
    };
    format!("there is no account {name}{rest}")
}
