//! The commands that add an account to the config (SPEC T1, T3, T4): a browser login, an API key
//! from the terminal, and the import of Claude Code's tokens.
//!
//! They talk to a person and change nothing but the config file, in one locked write at the end. A
//! running server learns of a new account from the file.

pub(super) mod callback;
mod enrol;
pub(crate) mod import;
pub(crate) mod key;
pub(crate) mod login;
mod loopback;
