//! Accounts: their identity, their credentials, and what answers say about their quota.
//!
//! [`Accounts`] is the live set. A request asks it for the credential of the account that the
//! scheduler has chosen ([`Accounts::credential`]) and reports a 401 ([`Accounts::refused`]);
//! either may start the account's one refresh, see [`refresh`]. A hot sync asks what a newly read
//! config changes ([`Accounts::diff`]) and applies it piece by piece.
//!
//! Nothing here decides where a request goes, locks the scheduler, or prints. Credentials leave
//! this module only as header values and in the config file.

mod accounts;
mod credential;
#[cfg(test)]
mod fuzz_tests;
pub(crate) mod http;
mod import_from;
mod keep;
pub(crate) mod limits;
pub(crate) mod oauth;
mod plan;
pub(crate) mod provider;
mod refresh;
mod sent;
pub(crate) mod sign_in;
mod single_flight;
pub(crate) mod sources;
mod surroundings;
pub(crate) mod sync;
mod token;
mod token_sync;
pub(crate) mod wire;

pub(crate) use accounts::Accounts;
pub(crate) use credential::{
    Account, AccountProfile, Origin, Readiness, Ready, Refreshing, Unready,
};
pub(crate) use plan::{Cooling, Obstacle};
pub(crate) use single_flight::SingleFlight;
pub(crate) use surroundings::{Role, Surroundings};
