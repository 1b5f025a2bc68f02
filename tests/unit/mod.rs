//! What the unit tests of several rooms share: seeded chance, and a directory that goes with its
//! test.
//!
//! `src/lib.rs` includes it as `testing`, so that no room of the program carries it.

pub(crate) mod chance;
pub(crate) mod scratch;
