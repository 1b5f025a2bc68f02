//! Tests of the running program: the real binary, a scripted upstream and a raw client.
//!
//! There is one module per area. Everything uses loopback ports that the system chooses and
//! temporary homes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests fail by panicking"
)]
// Not every test target uses all of the harness and the stand-in.
#![allow(dead_code, unused_imports)]

mod harness;
mod upstream;

mod breaker;
mod chaos;
mod commands;
mod completions;
mod control;
mod credentials;
mod crowds;
mod custody;
mod custody_edits;
mod dashboard;
mod demo;
mod descriptors;
mod docs;
mod door;
mod endurance;
mod errors;
mod failover;
mod forwarding;
mod framing;
mod gone;
mod heartbeats;
mod hostile;
mod kept_limits;
mod leader;
mod lifecycle;
mod login;
mod logs;
mod masking;
mod outcomes;
mod people;
mod providers;
mod queue;
mod refusals;
mod restart;
mod rotation;
mod routes;
mod routing;
mod secrets;
mod settings;
mod simulation;
mod sockets;
mod sockets_rows;
mod stand_in;
mod status;
mod streaming;
mod supervisor;
mod threads;
mod tidy;
mod tls;
mod tokens;
mod usage;
mod verdicts;
mod weekly;
