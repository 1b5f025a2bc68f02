//! Starts the server, as a leader or as a worker started by one.
//!
//! [`wiring`] puts the parts together and [`worker`] is the life of a server. The leader, in
//! `host/restart.rs`, starts workers and takes the signals.

use std::process::ExitCode;

pub(crate) use options::ServeOptions;

use crate::error::Result;
use crate::host::restart::{self, Seat};
use crate::host::terminal;

mod link;
mod listen;
mod options;
mod wiring;
mod worker;

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// It cannot start: what is wrong, and what to do about it.
pub(crate) fn serve(options: &ServeOptions) -> Result<ExitCode> {
    raise_descriptor_limit();
    if let Some(control) = restart::as_worker()? {
        return worker::as_process(options, control);
    }
    // Checked now: a terminal that has been closed since no longer counts.
    let seat =
        if terminal::is_wanted() && !options.plain { Seat::Terminal } else { Seat::Background };
    let options = options.clone();
    restart::lead(seat, move |control| worker::as_thread(&options, control))
}

/// Raises the soft limit of descriptors as far as possible, because each stream takes a few.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If that is not permitted, the old limit stays.
    let _ = setrlimit(Resource::Nofile, limit);
}
