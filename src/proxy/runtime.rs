//! Accounts that a request brings in its headers (SPEC V1): registered by name, updated when they change, dropped after a day unused,
//! never written to disk.

use super::context::Context;
use super::job::Job;
use super::reply::{self, Reply};
use crate::account::provider::accounts_of_headers;
use crate::account::{CredentialChange, Origin};
use crate::clock;
use crate::config::AccountEntry;
use crate::event::Event;
use crate::scheduler::AccountId;
use crate::scheduler::time::Mono;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An account of a request's headers is dropped when no request has brought it for so long.
const UNUSED_MAX: Duration = Duration::from_secs(86_400);
/// The profile whose requests may bring accounts.
const PROFILE: &str = "all";

/// When each account of a request's headers was brought last.
#[derive(Default)]
pub(crate) struct Brought(Mutex<HashMap<AccountId, Mono>>);

/// Registers or updates the accounts that the request's headers describe.
pub(super) fn take_header_accounts(job: &Job) -> Result<(), Reply> {
    if job.options.profile.as_deref() != Some(PROFILE) {
        return Ok(());
    }
    let lines = job.headers.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let entries = accounts_of_headers(lines).map_err(|why| reply::bad_header(&why))?;
    for entry in entries {
        take(&job.context, entry);
    }
    Ok(())
}

fn take(context: &Context, mut entry: AccountEntry) {
    // One at a time: two requests with the same headers must not register the account twice.
    let mut brought = context.brought.0.lock().unwrap_or_else(PoisonError::into_inner);
    let now = clock::now().mono;
    let known = context.accounts.by_name(&entry.name);
    let Some(account) = known else {
        let spec = context.accounts.spec_of(&entry, Origin::Request);
        let id = context.gate.with(|scheduler, now| scheduler.add_account(now, spec));
        context.accounts.insert(id, &entry, Origin::Request);
        brought.insert(id, now);
        context.tell(Event::Notice { text: format!("{} was added from a request's headers", entry.name) });
        return;
    };
    if account.profile().origin != Origin::Request {
        // The user's own account of that name is not changed by a header.
        return;
    }
    brought.insert(account.id(), now);
    entry.enabled = account.profile().enabled;
    let before = account.profile();
    let credential = context.accounts.update(account.id(), &entry);
    if credential == CredentialChange::New || !Arc::ptr_eq(&before, &account.profile()) && *before != *account.profile() {
        let spec = account.for_scheduler(account.kind());
        context.gate.with(|scheduler, now| {
            scheduler.update_account(now, account.id(), spec);
            if credential == CredentialChange::New {
                scheduler.clear_credential_blocks(now, account.id());
            }
        });
    }
}

/// Drops the accounts that no request has brought for a day.
pub(crate) fn drop_unused(context: &Context) {
    let now = clock::now().mono;
    let mut brought = context.brought.0.lock().unwrap_or_else(PoisonError::into_inner);
    brought.retain(|id, last| {
        if now.since(*last) < UNUSED_MAX {
            return true;
        }
        if let Some(account) = context.accounts.remove(*id) {
            context.gate.with(|scheduler, now| scheduler.remove_account(now, *id));
            let text = format!("{} was dropped: no request has brought it for a day", account.profile().name);
            context.tell(Event::Notice { text });
        }
        false
    });
}
