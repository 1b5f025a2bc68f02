//! `make e2e`: Claude Code and Anthropic's SDKs, run as people run them, through the program with
//! the scripted upstream behind it.
//!
//! Every test refuses to run where a network other than loopback is available, so that no client
//! can contact anything else. Each case prints what it observed, with times.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests fail by panicking"
)]
#![allow(dead_code, unused_imports, reason = "the harness and the stand-in serve other tests too")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../upstream/mod.rs"]
mod upstream;

mod claude;
mod held;
mod programs;
mod restart;
mod sdk;
mod stage;
