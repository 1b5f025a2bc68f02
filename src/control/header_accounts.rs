//! The end of accounts that requests have brought in their headers (SPEC V1); `proxy` registers
//! them.

use crate::event::Event;
use crate::proxy::context::Context;

/// Drops the accounts that no request has brought for a day.
pub(crate) fn drop_unused(context: &Context) {
    for id in context.accounts.forgotten() {
        if let Some(account) = context.accounts.remove(id) {
            context.gate.with(|scheduler, now| scheduler.remove_account(now, id));
            let text = format!(
                "{} was removed: no request has named it for a day",
                account.profile().name
            );
            context.tell(Event::Notice { text });
        }
    }
}
