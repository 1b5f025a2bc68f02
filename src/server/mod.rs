//! The front door: the listening socket, clients' connections, and who may enter.
//!
//! It uses the standard library's listener, `httparse`, `poll(2)`, and one thread for each active
//! connection. Read `listener`, then `acceptor` and `connection`; `head` and `body` parse, `door`
//! and `paths` decide who may enter and where a request goes.

mod acceptor;
mod body;
mod client;
mod connection;
pub(crate) mod door;
mod head;
mod listener;
pub(crate) mod paths;
mod registry;
mod shared;
mod target;

#[cfg(test)]
mod framing_tests;

pub(crate) use body::BodyError;
pub(crate) use client::ClientSocket;
pub(crate) use connection::{Inbound, Outbound};
pub(crate) use head::{DoorRefusal, RequestHead};
pub(crate) use listener::{Listener, bind, prepare};
pub(crate) use registry::Bounds;
