//! Removes accounts that requests brought in their headers (SPEC V1); `proxy` registers them.

use crate::event::Event;
use crate::proxy::context::Context;

/// Drops accounts that no request has used for a day.
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
