//! How a request ends, and the one way to end it with an answer of our own.

use super::reply::Reply;
use super::stream::Uncommitted;
use crate::event::{Outcome, Stage};

/// How a request ended.
pub(crate) struct Ended {
    /// The status that the client saw.
    pub(crate) status: Option<u16>,
    /// In one word.
    pub(crate) outcome: Outcome,
    /// Why not well.
    pub(crate) cause: Option<String>,
}

impl Ended {
    /// The client has left.
    pub(crate) fn client_gone(stage: Stage, status: Option<u16>) -> Ended {
        let outcome = Outcome::ClientGone { stage, output_started: status.is_some() };
        Ended { status, outcome, cause: Some(format!("the client left while {}", stage.word())) }
    }
}

/// Gives an answer of our own.
pub(crate) fn answer(out: Uncommitted, reply: &Reply) -> Ended {
    let cause = Some(reply.message.clone());
    match out.reply(reply) {
        Ok(delivered) => Ended { status: Some(delivered.status), outcome: Outcome::Refused, cause },
        Err(_) => Ended::client_gone(Stage::Streaming, None),
    }
}
