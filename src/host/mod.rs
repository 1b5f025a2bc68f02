//! What belongs to the machine: signals, the terminal, restarts, supervisors.

pub(crate) mod dashboard;
pub(crate) mod notify;
pub(crate) mod restart;
pub(crate) mod signals;
pub(crate) mod terminal;
