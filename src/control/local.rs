//! The routes that are answered here (SPEC P1): status, health, metrics, explain, and the few that
//! change something.

use std::sync::Arc;

use serde::Deserialize;
use ureq::http::HeaderValue;

use super::reload;
use crate::account::Origin;
use crate::account::limits::headers::family_or_id;
use crate::clock;
use crate::config::Config;
use crate::config::masking::Masked;
use crate::error::{Error, Fault};
use crate::event::{Outcome, Stage};
use crate::http::document;
use crate::http::headers::Headers;
use crate::http::peek::{is_session_of, session_tag};
use crate::proxy::context::Context;
use crate::proxy::ended::{Ended, answer};
use crate::proxy::exchange::LocalCall;
use crate::proxy::reply::{self, Reply};
use crate::report::ACTIVITY_MAX;
use crate::report::metrics::{self, Labels, Process};
use crate::report::status::build::{AccountFacts, CredentialFacts};
use crate::report::status::{self, build};
use crate::scheduler::{Request, SessionKey};
use crate::server::paths::{Local, Names, Switch};
use crate::zone;

/// Requests in flight listed in the status.
const REQUESTS_SHOWN_MAX: usize = 200;

/// Sessions listed in the status.
const SESSIONS_SHOWN_MAX: usize = 100;

/// An answer, ready to be sent.
struct Page {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

/// Answers a local route. Only changes and errors are logged.
pub(crate) fn serve(context: &Arc<Context>, call: LocalCall) {
    let page = page(context, &call);
    let LocalCall { line, out, watch, tracked, .. } = call;
    let ended = match page {
        Ok(page) => {
            let mut headers = Headers::default();
            headers.push("content-type", HeaderValue::from_static(page.content_type));
            headers.push("cache-control", HeaderValue::from_static("no-store"));
            match out.whole(page.status, headers.iter(), &Masked::bytes(page.body)) {
                Ok(()) => Ended { status: Some(page.status), outcome: Outcome::Local, cause: None },
                Err(_) => Ended::client_gone(Stage::Streaming, None),
            }
        }
        Err(reply) => answer(out, &reply),
    };
    if matches!(ended.outcome, Outcome::Local) && &*line.method != "POST" {
        return;
    }
    ended.tell(context, line, watch.elapsed());
    drop(tracked);
}

fn json(body: Vec<u8>) -> Page {
    Page { status: 200, content_type: "application/json", body }
}

fn page(context: &Arc<Context>, call: &LocalCall) -> Result<Page, Reply> {
    match &call.route {
        Local::Root => Ok(json(root())),
        Local::Health => Ok(json(health(context))),
        Local::Status => Ok(json(status_of(context, &call.config))),
        Local::Metrics(names) => Ok(Page {
            status: 200,
            content_type: metrics::CONTENT_TYPE,
            body: metrics_of(context, *names),
        }),
        Local::Explain { model, session, profile } => {
            Ok(json(explain(context, model.as_deref(), session.as_deref(), profile.as_deref())))
        }
        Local::Reload => reload::reload(context)
            .map(|changes| json(object("reloaded", &changes)))
            .map_err(|error| failed(&error)),
        Local::Routing => {
            let order: RoutingOrder = document::read(&call.body).map_err(|error| {
                reply::bad_control(&format!("invalid body for /maxpool/routing: {error}"))
            })?;
            let preferred = match (order.mode.as_str(), order.account) {
                ("automatic", _) => None,
                ("preferred", Some(account)) => Some(account),
                ("preferred", None) => {
                    return Err(reply::bad_control("mode preferred needs \"account\""));
                }
                (other, _) => {
                    let text = format!("mode is {other}; expected \"automatic\" or \"preferred\"");
                    return Err(reply::bad_control(&text));
                }
            };
            reload::set_routing(context, preferred.as_deref())
                .map(|changes| json(object("routing", &changes)))
                .map_err(|error| failed(&error))
        }
        Local::Account { name, to } => {
            if context.accounts.by_name(name).is_none() {
                return Err(reply::not_found(&reload::no_account(context, name)));
            }
            let changed = match to {
                Switch::Enable => reload::switch(context, name, true),
                Switch::Disable => reload::switch(context, name, false),
                Switch::Retry => reload::retry(context, name).map(|line| vec![line]),
                Switch::Refresh => refresh(context, name).map(|line| vec![line]),
            };
            changed.map(|changes| json(object("changed", &changes))).map_err(|error| failed(&error))
        }
        Local::WrongMethod { allow } => Err(reply::wrong_method(allow)),
        Local::Unknown => Err(reply::not_found("there is no such route under /maxpool")),
    }
}

/// Refreshes the account's token as a request would, so that a command need not do it: if two
/// processes refresh one token, one of them loses it (SPEC T7).
fn refresh(context: &Context, name: &str) -> Result<String, Error> {
    let id = context.accounts.by_name(name).map(|account| account.id());
    let asked = id.map(|id| context.accounts.credential_blocking(id));
    match asked {
        Some(Ok(_)) => Ok(format!("{name}: its token is usable")),
        Some(Err(unready)) => Err(Error::operator(format!("{name}: {}", unready.why()))),
        None => Err(Error::client(reload::no_account(context, name))),
    }
}

/// The body of `POST /maxpool/routing`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RoutingOrder {
    mode: String,
    account: Option<String>,
}

fn failed(error: &Error) -> Reply {
    match error.fault() {
        Fault::Client => reply::bad_control(&error.to_string()),
        Fault::Operator | Fault::Upstream | Fault::Ours => {
            reply::control_failed(&error.to_string())
        }
    }
}

fn object(key: &str, lines: &[String]) -> Vec<u8> {
    serde_json::json!({ "ok": true, key: lines }).to_string().into_bytes()
}

fn root() -> Vec<u8> {
    serde_json::json!({ "name": "maxpool", "version": env!("CARGO_PKG_VERSION"), "status": "ok" })
        .to_string()
        .into_bytes()
}

fn health(context: &Context) -> Vec<u8> {
    let state = if context.is_stopping() { "draining" } else { "ok" };
    serde_json::json!({ "status": state, "version": env!("CARGO_PKG_VERSION") })
        .to_string()
        .into_bytes()
}

/// The current status as JSON.
fn status_of(context: &Context, config: &Config) -> Vec<u8> {
    serde_json::to_vec(&status_now(context, config)).unwrap_or_default()
}

/// The current status, for the route and for the dashboard.
pub(crate) fn status_now(context: &Context, config: &Config) -> status::Status {
    let (snapshot, decisions, general, sessions) = context.gate.look(|scheduler, now| {
        let decisions: Vec<_> = scheduler.decisions().collect();
        let general = scheduler.explain(now, &plain_request(Some("all")));
        let sessions = scheduler.known_sessions(now, SESSIONS_SHOWN_MAX);
        (scheduler.snapshot(now), decisions, general, sessions)
    });
    let activity = context.activity.last(ACTIVITY_MAX);
    let facts = build::Facts {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        started: context.started,
        address: context
            .address
            .get()
            .map_or_else(String::new, |address| format!("http://{address}")),
        config_path: context.config_path.display().to_string(),
        mode: config.scheduler.mode.clone(),
        accounts: account_facts(context),
        requests: context.events.in_flight().list(REQUESTS_SHOWN_MAX),
        requests_in_flight: context.events.in_flight().len(),
        today: context.daily_use.on(zone::local_day(clock::wall())),
        sessions,
        activity,
        counters: context.events.counters(),
        decisions: &decisions,
        general: Some(&general),
    };
    build::status(&snapshot, &facts)
}

/// Facts about accounts that the scheduler does not have.
fn account_facts(context: &Context) -> Vec<AccountFacts> {
    let accounts = context.accounts.all();
    let facts = accounts.iter().map(|account| {
        let profile = account.profile();
        AccountFacts {
            id: account.id(),
            provider: profile.provider.clone(),
            upstream: profile.upstream.as_str().into(),
            runtime: profile.origin == Origin::Request,
            credential: Some(CredentialFacts {
                state: account.credential_state(clock::wall()),
                expires_at: account.expires_at(),
                refreshed_at: account.renewed_at(),
                storage: account.storage_trouble(),
            }),
        }
    });
    facts.collect()
}

fn metrics_of(context: &Context, names: Names) -> Vec<u8> {
    let snapshot = context.gate.look(|scheduler, now| scheduler.snapshot(now));
    let labels = match names {
        Names::Hidden => Labels::Index,
        Names::Shown => Labels::Names,
    };
    let process = Process::look(clock::now().mono.since(context.started));
    let in_flight = context.events.in_flight().len();
    let version = env!("CARGO_PKG_VERSION");
    metrics::render(&snapshot, context.events.counters(), in_flight, &process, version, labels)
        .into_bytes()
}

/// A request without special needs, as `explain` uses it.
fn plain_request(profile: Option<&str>) -> Request {
    let mut request = Request::new(u64::MAX, clock::now().mono);
    if let Some(profile) = profile {
        request.profile = Arc::from(profile);
    }
    request
}

fn explain(
    context: &Context,
    model: Option<&str>,
    session: Option<&str>,
    profile: Option<&str>,
) -> Vec<u8> {
    let mut request = plain_request(profile);
    request.model = model.map(Arc::from);
    request.family = model.map(family_or_id);
    let known = session.map(|id| known_session(context, id));
    request.session = known.flatten();
    let explanation = context.gate.look(|scheduler, now| scheduler.explain(now, &request));
    let asked = status::Explained {
        model: model.map(str::to_owned),
        session: match known.flatten() {
            Some(SessionKey(key)) => Some(session_tag(key)),
            None => session.map(str::to_owned),
        },
        session_known: known.map(|known| known.is_some()),
        profile: profile.map(str::to_owned),
        ..status::Explained::default()
    };
    let mut shown = build::explanation(&explanation, Some(asked));
    let snapshot = context.gate.look(|scheduler, now| scheduler.snapshot(now));
    build::mark_refused(&mut shown, &snapshot);
    serde_json::to_vec(&shown).unwrap_or_default()
}

/// Finds the session that a person means, by the short id in the log or by the id that the client
/// gave it. If several match, such as a conversation and its subagents, the most recently used one
/// wins.
fn known_session(context: &Context, id: &str) -> Option<SessionKey> {
    let known = context.gate.look(|scheduler, now| scheduler.known_sessions(now, usize::MAX));
    let keys = known.iter().map(|known| known.session);
    let short = id.to_ascii_lowercase();
    keys.clone()
        .find(|SessionKey(key)| session_tag(*key) == short)
        .or_else(|| keys.clone().find(|SessionKey(key)| is_session_of(*key, id)))
}
