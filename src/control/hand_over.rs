//! What was learned and outlives a process (SPEC A6, R1): accounts' quota and blocks, and for a process that takes over also sessions,
//! threads and batches.

use std::time::Duration;

use crate::account::Origin;
use crate::clock;
use crate::config::state::{self, AccountState, BatchState, State};
use crate::proxy::context::Context;
use crate::scheduler::AccountId;
use crate::zone;

/// Sessions and threads that are handed over: so many that all of them fit into one message between processes, which has some 200 KB.
const SESSIONS_HANDED_OVER: usize = 1000;
const THREADS_HANDED_OVER: usize = 300;
/// Message batches whose account is kept.
const BATCHES_KEPT: usize = 500;

/// Gives the scheduler back what an earlier process has learned. Gives a line if the file could not be used.
pub(crate) fn restore_learned(context: &Context) -> Option<String> {
    let (known, notice) = state::load(&state::path(&context.config_path));
    restore(context, &known);
    notice
}

/// The same with what another process tells.
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

/// The same for a process that takes over: with the sessions that were used within `recent`, whose prompt caches are where they were
/// served.
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
