//! Accounts: their credentials, and what answers say about their quota.

pub(crate) mod date;
pub(crate) mod http;
pub(crate) mod quota;
