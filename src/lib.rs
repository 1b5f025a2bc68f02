//! maxpool: a local proxy that makes several Claude accounts work as one.
//!
//! This page is replaced by the architecture page as the modules arrive.

// Dead code is allowed while the modules are being joined; removed with the last of them.
#![allow(dead_code)]

mod account;
mod cli;
mod clock;
mod config;
mod error;
mod event;
mod gate;
mod host;
mod net;
mod proxy;
mod report;
mod run;
pub mod scheduler;

pub use run::run;
