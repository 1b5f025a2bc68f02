//! maxpool: a local proxy that makes several Claude accounts work as one that never runs dry.
//!
//! This is the architecture page: read it first, then follow the arrows.
//!
//! ```text
//!  argv, file        secrets          decisions              one request                        facts
//! ┌──────────┐    ┌───────────┐    ┌──────────────┐    ┌──────────────────────────┐    ┌────────────────────┐
//! │ cli      │───▶│ account   │───▶│ scheduler    │◀──▶│ proxy                    │───▶│ report             │
//! │ config   │    │ (tokens,  │    │ pure, `now`  │gate│ receive → admit → forward│evts│ screen | log | JSON│
//! └──────────┘    │ quota)    │    │ passed in    │    │ → stream → settle        │    └────────────────────┘
//!                 └───────────┘    └──────────────┘    └──────────────────────────┘
//! ```
//!
//! # Modules, in the order in which they may import each other
//!
//! `scheduler` < `http` < `platform`, `clock`, `error`, `event`, `zone` < `config` < `net` < `account` < `gate` < `report` < `server` < `proxy`
//! < `control` < `host` < `run`, `cli` (a test holds them to it).
//!
//! - [`scheduler`]: which account, who waits, for how long. Pure: no I/O, threads, locks, clock or randomness.
//! - `platform`: what differs between Linux and other Unixes.
//! - `clock`: the only place that reads time. `zone`: the local time zone. `event`: what happened, as plain data; sending one never blocks.
//! - `config`: the file with every credential; one locked read-modify-write per change. `net`: connections that we make.
//! - `account`: credentials, their refresh, and what answers say about quota.
//! - `gate`: the only lock around the scheduler; its first page is the lock contract.
//! - `http`: messages as bytes; pure. `server`: the listening socket, clients' connections, who may enter.
//! - `proxy`: a request's life. `exchange` reads top to bottom.
//! - `control`: what is not a request's life: local routes, reload, hand-over of what was learned, usage probe.
//! - `report`: the plain log, the dashboard, status and metrics. `host`: signals, terminal, restart, supervisors.
//!
//! # Threads
//!
//! | thread | does | ends |
//! |---|---|---|
//! | main | leads: takes the signals, starts and replaces the servers (below) | with the process |
//! | `serve` (in a worker process: main) | obeys the leader, looks at the config and the state file | when its last request has ended |
//! | `accept` | accepts, and watches the connections that rest, all in one `poll` | at the stop |
//! | `connection` (one per client that has something to say) | reads heads, serves each request from beginning to end | some seconds after its connection fell silent |
//! | `pacer` | wakes the scheduler at its next deadline, notices that the clock jumped | at the stop |
//! | `report` | is the only writer of the log | after its last line |
//! | `probe` (only with `quotaProbeSeconds`) | reads the usage of idle accounts, one at a time | when the setting is off |
//! | refreshes, name look-ups | one bounded call | when it is answered |
//!
//! # Processes
//!
//! The process that was started keeps its pid and leads. Its first server is a thread of its own; a restart starts the program anew as a
//! child, passes it the listening socket and what was learned, and lets the old server finish (`host/restart.rs`, `run/worker.rs`).
//!
//! # Invariants
//!
//! - At most one server takes connections from the listening socket; between two of them the kernel keeps those that come.
//! - A lease ends in exactly one outcome; dropping one is `Abandoned`. A ticket gets exactly one verdict.
//! - A retry takes the uncommitted writer by value, so none can be written after the first byte of an answer.
//! - A client's body is kept as bytes and sent as bytes; only the model's name is ever replaced.
//! - No credential is in an event, an error, a status or a debug print; `Secret` prints nothing.
//! - A refreshed token is on the disk before it serves.

mod account;
mod cli;
mod clock;
mod config;
mod control;
mod error;
mod event;
mod gate;
mod host;
mod http;
mod net;
mod platform;
mod proxy;
mod report;
mod run;
pub mod scheduler;
mod server;
#[cfg(test)]
#[path = "../tests/unit/mod.rs"]
mod testing;
mod zone;

use std::process::ExitCode;

/// Runs the program with the process's arguments and gives its exit code (0, 1 failed, 2 wrong
/// usage).
pub fn run() -> ExitCode {
    cli::main()
}
