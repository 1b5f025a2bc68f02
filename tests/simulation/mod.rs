//! The scheduler through its public interface: its rules one by one, and a simulator that lets
//! chance find what the rules miss.

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
