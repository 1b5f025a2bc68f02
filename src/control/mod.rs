//! Everything outside a request's life: the local routes, changes of a running server, the
//! hand-over from one process to the next, the removal of header accounts, and the usage probe.

pub(crate) mod hand_over;
pub(crate) mod header_accounts;

pub(crate) mod local;
pub(crate) mod probe;
pub(crate) mod reload;
