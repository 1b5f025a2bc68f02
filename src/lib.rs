//! maxpool: a local proxy that makes several Claude accounts work as one that never runs dry.
//!
//! This is the architecture page: read it first, then follow the arrows.
//!
//! ```text
//!  argv, file      secrets       decisions          one request               facts
//! ┌──────────┐   ┌───────────┐   ┌───────────┐    ┌─────────────────────┐    ┌─────────────┐
//! │ cli      │──▶│ account   │──▶│ scheduler │◀──▶│ server → proxy      │───▶│ report      │
//! │ config   │   │ (tokens,  │   │ pure,     │gate│ receive → admit →   │evts│ screen, log,│
//! └──────────┘   │ limits)   │   │ `now`     │    │ forward → stream →  │    │ JSON        │
//!                └───────────┘   │ passed in │    │ settle              │    └─────────────┘
//!                                └───────────┘    └─────────────────────┘
//! ```
//!
//! # Rooms, in the order in which they may import each other
//!
//! `scheduler` < `http` < `platform`, `clock`, `error`, `event`, `zone` < `config` < `net` <
//! `account` < `gate` < `report` < `server` < `proxy` < `control` < `host` < `run` < `cli`. A test
//! enforces this order, and that no two files of a room import each other in a circle.
//!
//! | room | what it does, and where to begin |
//! |---|---|
//! | [`scheduler`] | Decides which account serves, who waits, and for how long. Pure. |
//! | `http` | Messages as bytes: headers, a JSON cursor, request bodies, events. Pure. |
//! | `platform` | What differs between Linux and other Unixes. |
//! | `clock` | The only place that reads time. |
//! | `zone` | The local time zone. |
//! | `event` | What happened, as plain data; sending one never blocks. |
//! | `config` | The file with every credential: one locked read-modify-write per change. |
//! | `net` | Outgoing connections: name look-up, TCP, proxies, TLS; one wait for all. |
//! | `account` | Credentials, their single-flight `refresh`, sign-in, limits read from answers. |
//! | `gate` | The only lock around the scheduler; its first page is the lock contract. |
//! | `report` | The plain log, the dashboard's frames, status and metrics. |
//! | `server` | The listening socket, clients' connections, and who may enter. |
//! | `proxy` | The life of a request; `exchange` reads from top to bottom. |
//! | `control` | Local routes, reload, hand-over of what was learned, the usage probe. |
//! | `host` | Signals, the terminal, restarts, supervisors. |
//! | `run` | The wiring, and the life of a server. |
//! | `cli` | Commands, from arguments to an exit code. |
//!
//! # Threads
//!
//! | thread | does | ends |
//! |---|---|---|
//! | main | leads: takes signals, starts and replaces servers (below) | with the process |
//! | `serve` | obeys the leader, watches the config and the state file | after its last request |
//! | `accept` | accepts connections and polls idle ones | at the stop |
//! | `connection` | serves each request of a client from beginning to end | when the client is idle |
//! | `pacer` | wakes the scheduler at its next deadline, notices clock jumps | at the stop |
//! | `report` | is the only writer of the log | after its last line |
//! | `dashboard` | draws, and reads keys; only on a terminal | with the terminal |
//! | `order` | does what a key of the dashboard asked for | when it is done |
//! | `capture` | writes recordings; only with `--log-to` | at the stop |
//! | `probe` | reads the usage of idle accounts; only with `quotaProbeSeconds` | at the stop |
//! | `refresh`, `lookup` | one bounded call | when it is answered |
//!
//! There is one `connection` thread per active client. In a worker process main is `serve`.
//!
//! # Processes
//!
//! The process that was started keeps its pid and leads. Its first server is one of its threads; a
//! restart starts the program again as a child process, passes it the listening socket and what was
//! learned, and lets the old server finish (`host/restart.rs`, `run/worker.rs`).
//!
//! # Invariants
//!
//! - At most one server accepts connections from the listening socket; between two of them the
//!   kernel queues new ones.
//! - A lease ends in exactly one outcome; dropping one is `Abandoned`. A ticket gets exactly one
//!   verdict.
//! - A retry takes the uncommitted writer by value, so none can be written after the first byte of
//!   an answer.
//! - A client's body is kept as bytes and sent as bytes; only the model's name is ever replaced.
//! - No credential is in an event, an error, a status or a debug print; `Secret` prints nothing.
//! - A refreshed token is on disk before it is used.

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

/// Runs the program with the process's arguments and returns its exit code (0, 1 failed, 2 wrong
/// usage).
pub fn run() -> ExitCode {
    cli::main()
}
