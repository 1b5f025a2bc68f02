//! The scheduler: pure decisions over accounts, windows, sessions and the queue.
//!
//! No I/O, threads, locks, clock, environment or randomness in here; time arrives as [`time::Now`].

pub mod quota;
pub mod time;
