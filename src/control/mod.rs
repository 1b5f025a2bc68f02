//! What is not a request's life: the local routes, changes of a running server, what one process
//! hands over to the next, the end of accounts from request headers, and the usage probe.

pub(crate) mod hand_over;
pub(crate) mod header_accounts;

pub(crate) mod local;
pub(crate) mod probe;
pub(crate) mod reload;
