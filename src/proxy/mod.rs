//! One request's life. The files declared first are pure: no I/O, no clock, no locks.

pub(crate) mod classify;
pub(crate) mod digest;
pub(crate) mod document;
pub(crate) mod door;
pub(crate) mod headers;
pub(crate) mod json;
pub(crate) mod paths;
pub(crate) mod peek;
pub(crate) mod reply;
pub(crate) mod splice;
pub(crate) mod sse;

mod attempt;
pub(crate) mod context;
pub(crate) mod control;
mod deliver;
pub(crate) mod exchange;
mod failed;
pub(crate) mod forward;
mod job;
pub(crate) mod listener;
pub(crate) mod local;
pub(crate) mod patience;
pub(crate) mod probe;
mod relay;
pub(crate) mod runtime;
pub(crate) mod sockets;
pub(crate) mod stream;
