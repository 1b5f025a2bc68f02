//! `api`: one call with an account's credential, to that account's own upstream only.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::args::ApiOptions;
use super::change::unknown;
use super::held_signals::HeldSignals;
use super::web::{self, Presence, Server};
use crate::account::http::HttpCall;
use crate::account::oauth::Endpoints;
use crate::account::{Accounts, Origin, Ready, Role, Surroundings};
use crate::clock;
use crate::config::state::{self, State};
use crate::config::{AccountEntry, Config, Credential};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::report::mask::mask;
use crate::report::text;
use crate::scheduler::AccountId;

const TIMEOUT: Duration = Duration::from_secs(600);
const REPLY_BYTES_MAX: usize = 256 * 1024 * 1024;
const OAUTH_BETA: &str = "oauth-2025-04-20";

/// `api`: prints the body of the answer; exit 1 if the status is 400 or more.
pub(super) fn call(context: &mut Context<'_>, options: &ApiOptions) -> Result<ExitCode> {
    let path = context.config_path()?;
    let config = context.config()?;
    let http = web::http(context, &config)?;
    let variable = |name: &str| (context.variable)(name).and_then(|value| value.into_string().ok());
    let around = Surroundings {
        config: path.clone(),
        http: Arc::clone(&http),
        endpoints: Endpoints::from_environment(&variable),
        events: Events::off(),
        now: Arc::new(clock::now),
        home: (context.variable)("HOME").map(Into::into),
        renewed: Arc::new(|_| {}),
    };
    let accounts = Arc::new(Accounts::new(around, &config));
    accounts.set_role(Role::Brief);
    // What a server has learned about used and refused tokens; a missing file is an empty state.
    let (known, _) = state::load(&state::path(&path));
    let (entry, ready) = choose(&accounts, &config, &known, options.account.as_deref())?;
    let upstream = entry.upstream.as_ref().unwrap_or(&config.upstream);
    let mut headers = vec![
        (ready.header, ready.value.expose().to_owned()),
        ("anthropic-version", "2023-06-01".to_owned()),
        ("user-agent", concat!("maxpool/", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    if matches!(entry.credential, Credential::Oauth(_)) {
        headers.push(("anthropic-beta", OAUTH_BETA.to_owned()));
    }
    if options.data.is_some() {
        headers.push(("content-type", "application/json".to_owned()));
    }
    let default_method = if options.data.is_some() { "POST" } else { "GET" };
    let url = format!("{}{}", upstream.as_str(), options.path);
    let call = HttpCall {
        method: options.method.unwrap_or(default_method),
        url: url.clone(),
        headers,
        body: options.data.clone().map(String::into_bytes),
        timeout: TIMEOUT,
        reply_bytes_max: REPLY_BYTES_MAX,
    };
    let reply = http(call).map_err(|failure| {
        Error::upstream(format!("{url} gave no answer: {}; see: maxpool doctor", failure.cause))
    })?;
    match reply.status {
        // An error may quote the credential that it refuses (D4).
        400.. => context.out.bytes(mask(&String::from_utf8_lossy(&reply.body)).as_bytes()),
        _ => context.out.bytes(&reply.body),
    }
    if !reply.body.is_empty() && !reply.body.ends_with(b"\n") {
        context.out.result("\n");
    }
    if reply.status < 400 {
        return Ok(ExitCode::SUCCESS);
    }
    context.out.remark(&format!(
        "maxpool: {url} answered {} to {}",
        reply.status,
        text::name(&entry.name)
    ));
    Ok(ExitCode::FAILURE)
}

/// The named account, or the first enabled one that has a credential; an expired token is
/// refreshed.
fn choose<'c>(
    accounts: &Arc<Accounts>,
    config: &'c Config,
    known: &State,
    name: Option<&str>,
) -> Result<(&'c AccountEntry, Ready)> {
    let wanted: Vec<&AccountEntry> = match name {
        Some(name) => config.accounts.iter().filter(|account| account.name == name).collect(),
        None => config.accounts.iter().filter(|account| account.enabled).collect(),
    };
    if wanted.is_empty() {
        let names = config.accounts.iter().map(|account| account.name.as_str());
        return Err(match name {
            Some(name) => unknown(name, names),
            None => Error::operator("there is no enabled account; add one with: maxpool login"),
        });
    }
    let mut failures = Vec::new();
    for (number, entry) in wanted.into_iter().enumerate() {
        let id = AccountId(u32::try_from(number).unwrap_or(u32::MAX));
        let account = accounts.insert(id, entry, Origin::Config);
        if let Some(tokens) = known.tokens_of(&entry.identity()) {
            account.recall(tokens);
        }
        if let Err(error) = renew(accounts, config, id, &entry.name) {
            failures.push(error.to_string());
            continue;
        }
        let held = HeldSignals::begin();
        let asked = accounts.credential_blocking(id);
        drop(held);
        match asked {
            Ok(ready) => return Ok((entry, ready)),
            Err(unready) => {
                failures.push(format!("{}: {}", text::name(&entry.name), unready.why()));
            }
        }
    }
    Err(Error::operator(format!("no account can be used: {}", failures.join("; "))))
}

/// Lets the running server refresh an expired token, if there is a server: if two processes refresh
/// one token, one of them loses it (SPEC T7).
fn renew(accounts: &Arc<Accounts>, config: &Config, id: AccountId, name: &str) -> Result<()> {
    if !accounts.is_due(id) {
        return Ok(());
    }
    let server = Server::of(config).ok().filter(|server| server.presence() == Presence::Running);
    let Some(server) = server else {
        return Ok(());
    };
    server.refresh(name)?;
    accounts.sync_tokens();
    Ok(())
}
