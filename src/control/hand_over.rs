//! What was learned and outlives a process (SPEC A6, R2): quota and blocks of the accounts, and for
//! a process that takes over also sessions, threads and batches.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::account::Origin;
use crate::clock;
use crate::config::Identity;
use crate::config::state::{self, AccountState, BatchState, State};
use crate::http::document;
use crate::proxy::context::Context;
use crate::report::ACTIVITY_MAX;
use crate::report::status::Line;
use crate::report::status::build::{entry_of, line_of};
use crate::scheduler::{AccountId, LoadMinute};
use crate::zone;

/// How many sessions and threads are handed over. All of them must fit into one message between
/// processes, which is limited to about 200 KB.
const SESSIONS_HANDED_OVER: usize = 1000;
const THREADS_HANDED_OVER: usize = 300;
/// How many message batches are remembered with their account.
const BATCHES_KEPT: usize = 500;
/// Limits for log lines and account figures, which are handed over in a message of their own.
const LINES_BYTES_MAX: usize = 100_000;
const LOADS_MAX: usize = 40;

/// Restores what an earlier process has learned from the state file. Returns a line if the file
/// could not be used.
pub(crate) fn restore_learned(context: &Context) -> Option<String> {
    let (known, notice) = state::load(&state::path(&context.config_path));
    restore(context, &known);
    notice
}

/// Restores what the file or another process has passed on.
pub(crate) fn restore(context: &Context, known: &State) {
    let accounts = context.accounts.all();
    let mut ids = Vec::new();
    let profiles: Vec<_> = accounts.iter().map(|account| account.profile()).collect();
    for (account, profile) in accounts.iter().zip(&profiles) {
        ids.push((profile.identity(), account.id()));
        if let Some(tokens) = known.tokens_of(&profile.identity()) {
            account.recall(tokens);
        }
        let learned = known.of(&profile.identity(), clock::wall());
        if let Some(learned) = learned {
            context.gate.with(|scheduler, now| scheduler.restore(now, account.id(), &learned));
        }
        context.daily_use.restore(account.id(), known.days_of(&profile.identity()));
    }
    let owners = known.accounts_of(&ids);
    let (sessions, threads) = known.known(&owners);
    context.gate.with(|scheduler, now| scheduler.recall(now, &sessions, &threads));
    for batch in known.batches.iter().rev() {
        let owner = owners.get(batch.account).copied().flatten();
        if let (Some(owner), None) = (owner, context.owner_of_batch(&batch.id)) {
            context.remember_batch(&batch.id, owner);
        }
    }
}

/// What has been learned, as the state file keeps it.
pub(crate) fn learned(context: &Context) -> State {
    document(context).0
}

/// The same for a process that takes over, with the sessions that were used within `recent`: their
/// prompt caches are where they were served.
pub(crate) fn handed_over(context: &Context, recent: Duration) -> State {
    let (mut state, accounts) = document(context);
    let (mut sessions, mut threads) = context.gate.look(|scheduler, now| {
        (
            scheduler.known_sessions(now, SESSIONS_HANDED_OVER),
            scheduler.known_threads(now, THREADS_HANDED_OVER),
        )
    });
    sessions.retain(|known| known.idle <= recent);
    threads.retain(|known| known.idle <= recent);
    state.add_known(&accounts, &sessions, &threads);
    state
}

fn document(context: &Context) -> (State, Vec<AccountId>) {
    let accounts = context.accounts.all();
    let mut state = State::default();
    let mut ids = Vec::new();
    let today = zone::local_day(clock::wall());
    for account in accounts.iter() {
        let profile = account.profile();
        if profile.origin != Origin::Config {
            continue;
        }
        let learned = context.gate.look(|scheduler, now| scheduler.learned(now, account.id()));
        if let Some(learned) = learned {
            ids.push(account.id());
            let days = context.daily_use.of(account.id(), today);
            let mut entry = AccountState::new(&profile.identity(), &learned, days);
            entry.tokens = account.tokens_state();
            state.accounts.push(entry);
        }
    }
    for (id, owner) in context.known_batches(BATCHES_KEPT) {
        if let Some(account) = ids.iter().position(|known| *known == owner) {
            state.batches.push(BatchState { id, account });
        }
    }
    (state, ids)
}

/// What dashboard and metrics show of the past, for a process that takes over: the log, the requests
/// that ended on each account within the last hour, and the counters.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Seen {
    /// Oldest first.
    lines: Vec<Line>,
    loads: Vec<AccountLoad>,
    counters: Vec<u64>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AccountLoad {
    name: String,
    account_uuid: Option<String>,
    org_uuid: Option<String>,
    /// Age, requests, failures, weight and milliseconds of each minute.
    minutes: Vec<[u64; 5]>,
    /// Attempts since the start of the program.
    completed: u64,
    failed: u64,
}

/// What was already handed over.
#[derive(Default)]
pub(crate) struct Told {
    /// The number of the next line of the log.
    next_line: u64,
    /// The time, in minutes of the monotonic clock, and the figures at that time.
    at: u64,
    loads: HashMap<AccountId, Vec<LoadMinute>>,
    /// Completed and failed attempts.
    attempts: HashMap<AccountId, (u64, u64)>,
    counters: Vec<u64>,
}

/// What has been shown and counted since the last hand-over, as JSON; empty if there is nothing.
pub(crate) fn seen(context: &Context, told: &mut Told) -> String {
    let mut seen = Seen::default();
    let mut bytes = 0;
    let lines = context.activity.last(ACTIVITY_MAX);
    for numbered in lines.iter().rev().take_while(|(number, _)| *number >= told.next_line) {
        bytes += 2 * numbered.1.text.len() + 300;
        if bytes > LINES_BYTES_MAX {
            break;
        }
        seen.lines.push(line_of(numbered));
    }
    seen.lines.reverse();
    told.next_line = lines.last().map_or(told.next_line, |(number, _)| number + 1);
    let now = clock::mono().0 / 60_000;
    let snapshot = context.gate.look(|scheduler, now| scheduler.snapshot(now));
    for account in context.accounts.all().iter().take(LOADS_MAX) {
        let profile = account.profile();
        let minutes = context.gate.look(|scheduler, now| scheduler.load_minutes(now, account.id()));
        let before = told.loads.insert(account.id(), minutes.clone()).unwrap_or_default();
        let counted = snapshot.accounts.iter().find(|known| known.id == account.id());
        let (completed, failed) = counted.map_or((0, 0), |known| (known.completed, known.failed));
        let (told_completed, told_failed) =
            told.attempts.insert(account.id(), (completed, failed)).unwrap_or_default();
        let who = profile.identity();
        seen.loads.push(AccountLoad {
            name: who.name.to_owned(),
            account_uuid: who.account_uuid.map(str::to_owned),
            org_uuid: who.org_uuid.map(str::to_owned),
            minutes: since(&minutes, &before, now - told.at),
            completed: completed.saturating_sub(told_completed),
            failed: failed.saturating_sub(told_failed),
        });
    }
    told.at = now;
    seen.loads.retain(|load| !load.minutes.is_empty() || load.completed + load.failed > 0);
    let figures = context.events.counters().figures();
    let before = std::mem::replace(&mut told.counters, figures.clone());
    let before = before.into_iter().chain(std::iter::repeat(0));
    seen.counters =
        figures.iter().zip(before).map(|(now, told)| now.saturating_sub(told)).collect();
    if seen.counters.iter().all(|counter| *counter == 0) {
        seen.counters.clear();
    }
    if seen.lines.is_empty() && seen.loads.is_empty() && seen.counters.is_empty() {
        return String::new();
    }
    serde_json::to_string(&seen).unwrap_or_default()
}

/// Subtracts the figures that were already handed over, `ago` minutes ago.
fn since(minutes: &[LoadMinute], before: &[LoadMinute], ago: u64) -> Vec<[u64; 5]> {
    let now = minutes.iter().map(|minute| {
        let told = before.iter().find(|told| told.age + ago == minute.age);
        let told = told.copied().unwrap_or_default();
        [
            minute.age,
            minute.requests.saturating_sub(told.requests),
            minute.failed.saturating_sub(told.failed),
            minute.weight.saturating_sub(told.weight),
            minute.millis.saturating_sub(told.millis),
        ]
    });
    now.filter(|[_, requests, ..]| *requests > 0).collect()
}

/// Adds the log, the figures and the counters of another process to our own.
pub(crate) fn recall(context: &Context, seen: &str) {
    // If it cannot be read, the dashboard merely has a gap.
    let seen: Seen = document::read(seen.as_bytes()).unwrap_or_default();
    context.activity.recall(seen.lines.into_iter().map(entry_of).collect());
    let accounts = context.accounts.all();
    for load in &seen.loads {
        let who = Identity {
            name: &load.name,
            account_uuid: load.account_uuid.as_deref(),
            org_uuid: load.org_uuid.as_deref(),
        };
        let Some(account) = accounts.iter().find(|it| it.profile().identity().is_same(&who)) else {
            continue;
        };
        let minutes: Vec<LoadMinute> = load
            .minutes
            .iter()
            .map(|[age, requests, failed, weight, millis]| LoadMinute {
                age: *age,
                requests: *requests,
                failed: *failed,
                weight: *weight,
                millis: *millis,
            })
            .collect();
        let id = account.id();
        context.gate.with(|scheduler, now| {
            scheduler.recall_load(now, id, &minutes);
            scheduler.recall_counts(id, load.completed, load.failed);
        });
    }
    context.events.counters().add_figures(&seen.counters);
    context.events.in_flight().pulse().beat();
}
/// What one process passes to the next over their socket.
#[derive(Serialize)]
struct HandOver<'a> {
    #[serde(flatten)]
    learned: &'a State,
    #[serde(flatten)]
    unsaved: Unsaved,
}

/// Tokens that are in no file yet.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Unsaved {
    tokens: Vec<serde_json::Value>,
}

/// What the next process receives.
pub(crate) fn text(context: &Context, learned: &State) -> String {
    let unsaved = Unsaved { tokens: context.accounts.unsaved() };
    serde_json::to_string(&HandOver { learned, unsaved }).unwrap_or_default()
}

/// Takes over what another process has learned.
pub(crate) fn take_over(context: &Context, learned: &str) {
    // Both are parts of one object; each reader ignores the other's fields.
    let json = learned.as_bytes();
    let read = document::read(json).and_then(|state: State| Ok((state, document::read(json)?)));
    match read {
        Ok((state, Unsaved { tokens })) => {
            restore(context, &state);
            context.accounts.take_over(&tokens);
        }
        Err(error) => {
            let text = format!("cannot read what the previous process handed over: {error}");
            context.events.warning(clock::wall(), text);
        }
    }
}
