//! `make demo`: shows failover on this machine alone, without credentials or network access.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the tests use what this program does not"
)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a tool of the tests")]

#[path = "mod.rs"]
mod demo;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../upstream/mod.rs"]
mod upstream;

use std::process::ExitCode;

fn main() -> ExitCode {
    match demo::play(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}
