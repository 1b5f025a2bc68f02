//! The scheduler through its public interface: tests of its rules, and a simulator that finds by
//! chance what those miss.

#![allow(clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "what was measured is shown with --nocapture")]

mod model;
mod rng;
mod rules;
mod seeds;
mod speed;
mod subject;
mod table;
mod world;
