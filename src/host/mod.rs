//! The program's environment: signals, the terminal, restarts, supervisors.

mod canvas;
pub(crate) mod dashboard;
pub(crate) mod notify;
pub(crate) mod restart;
pub(crate) mod sign_in;
pub(crate) mod signals;
pub(crate) mod terminal;
