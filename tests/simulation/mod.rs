//! The scheduler through its public interface: its rules one by one, and a simulator that lets chance find what the rules miss.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod model;
mod rng;
mod rules;
mod seeds;
mod subject;
mod table;
mod world;
