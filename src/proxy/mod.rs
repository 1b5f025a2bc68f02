//! One request's life. The files declared first are pure: no I/O, no clock, no locks.

pub(crate) mod classify;
pub(crate) mod reply;
pub(crate) mod verdict;

mod attempt;
pub(crate) mod client_wait;
pub(crate) mod context;
mod course;
mod deliver;
pub(crate) mod ended;
mod error_events;
pub(crate) mod exchange;
mod failed;
pub(crate) mod forward;
pub(crate) mod header_accounts;
pub(crate) mod no_account;
mod relay;
mod request;
pub(crate) mod stream;
