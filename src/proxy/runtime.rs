//! Accounts that a request brings in its headers (SPEC V1): registered by name, updated when they change, dropped after a day unused,
//! never written to disk.

use super::context::Context;
use super::job::Job;
use super::reply::{self, Reply};
use crate::account::provider::accounts_of_headers;
use crate::account::sync::{CredentialChange, OfRequest};
use crate::config::AccountEntry;
use crate::event::Event;

/// The profile whose requests may bring accounts.
const PROFILE: &str = "all";

/// Registers or updates the accounts that the request's headers describe.
///
/// # Errors
/// A header cannot be used: the answer to give.
pub(super) fn take_header_accounts(job: &Job) -> Result<(), Reply> {
    if job.options.profile.as_deref() != Some(PROFILE) {
        return Ok(());
    }
    let entries = accounts_of_headers(job.headers.iter()).map_err(|why| reply::bad_header(&why))?;
    for entry in &entries {
        take(&job.context, entry);
    }
    Ok(())
}

fn take(context: &Context, entry: &AccountEntry) {
    let register = |spec| {
        context
            .gate
            .with(|scheduler, now| scheduler.add_account(now, spec))
    };
    match context.accounts.of_request(entry, register) {
        OfRequest::Known(_) => {}
        OfRequest::Added(_) => {
            context.tell(Event::Notice {
                text: format!("{} was added from a request's headers", entry.name),
            });
        }
        OfRequest::Changed(id, credential) => {
            let Some(account) = context.accounts.get(id) else {
                return;
            };
            let spec = account.profile().for_scheduler(account.kind());
            context.gate.with(|scheduler, now| {
                scheduler.update_account(now, id, spec);
                if credential == CredentialChange::New {
                    scheduler.clear_credential_blocks(now, id);
                }
            });
        }
    }
}

/// Drops the accounts that no request has brought for a day.
pub(crate) fn drop_unused(context: &Context) {
    for id in context.accounts.forgotten() {
        if let Some(account) = context.accounts.remove(id) {
            context
                .gate
                .with(|scheduler, now| scheduler.remove_account(now, id));
            let text = format!(
                "{} was dropped: no request has brought it for a day",
                account.profile().name
            );
            context.tell(Event::Notice { text });
        }
    }
}
