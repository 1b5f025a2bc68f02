//! Accounts that a request describes in its headers (SPEC V1): registered by name, updated when
//! they change, dropped after a day unused, never written to disk.

use super::context::Context;
use super::reply::{self, Reply};
use super::request::ClientRequest;
use crate::account::provider::accounts_of_headers;
use crate::account::sync::{Brought, OfRequest, TooManyAtOnce};
use crate::config::AccountEntry;
use crate::event::Event;
use crate::scheduler::AccountId;

/// The profile whose requests may describe accounts.
const PROFILE: &str = "all";

/// Registers or updates the accounts that the request's headers describe. The request keeps them in
/// its record until it is certain where it is served, and is the only one that may be sent to them.
///
/// # Errors
/// A header is invalid, or too many tokens are in use: the answer to send.
pub(super) fn take_header_accounts(request: &ClientRequest) -> Result<(), Reply> {
    if request.options.profile.as_deref() != Some(PROFILE) {
        return Ok(());
    }
    // Collected once and searched for each header of V1.
    let lines: Vec<_> = request.headers.iter().collect();
    let entries = accounts_of_headers(lines.into_iter()).map_err(|why| reply::bad_header(&why))?;
    for entry in &entries {
        let brought = take(&request.context, entry)
            .map_err(|TooManyAtOnce| reply::too_many_tokens(&entry.name))?;
        request.record.borrow_mut().brought.extend(brought);
    }
    Ok(())
}

fn take(context: &Context, entry: &AccountEntry) -> Result<Option<Brought>, TooManyAtOnce> {
    let register = |replaced: Option<AccountId>, spec| {
        context.gate.with(|scheduler, now| {
            if let Some(id) = replaced {
                scheduler.remove_account(now, id);
            }
            scheduler.add_account(now, spec)
        })
    };
    let (what, brought) = context.accounts.of_request(entry, register)?;
    match what {
        // A change of its models concerns only the proxy; the scheduler does not use them.
        OfRequest::Known | OfRequest::Changed | OfRequest::Outranked => {}
        OfRequest::Added(name) => context
            .tell(Event::Notice { text: format!("{name} was added from a request's headers") }),
    }
    Ok(brought)
}
