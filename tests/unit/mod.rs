//! Shared parts of the unit tests of several modules: a seeded random generator, and a directory
//! that is removed after its test.
//!
//! `src/lib.rs` includes this file as `testing`, so that no module of the program contains it.

pub(crate) mod chance;
pub(crate) mod scratch;
