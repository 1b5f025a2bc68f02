//! `make e2e`: Claude Code and Anthropic's SDKs, as people run them, through the program before the
//! scripted upstream.
//!
//! Every test refuses to run where there is any network but loopback, so that no client can talk to
//! anybody else. What a case has seen, with its times, is printed as a line.

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
