//! One request's life. The files declared first are pure: no I/O, no clock, no locks.

pub(crate) mod classify;
pub(crate) mod reply;

mod attempt;
pub(crate) mod context;
pub(crate) mod control;
mod deliver;
pub(crate) mod exchange;
mod failed;
pub(crate) mod forward;
mod job;
pub(crate) mod local;
pub(crate) mod patience;
pub(crate) mod probe;
mod relay;
pub(crate) mod runtime;
pub(crate) mod stream;
