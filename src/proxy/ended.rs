//! How a request ends, and the one way to end it with an answer of our own.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::reply::Reply;
use super::stream::Uncommitted;
use crate::event::{Event, Finished, Outcome, Stage};

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

    /// Where we have cut the connections ourselves, the client has not left.
    pub(crate) fn or_cut(self, context: &Context) -> Ended {
        match (self.outcome, context.cut_for()) {
            (Outcome::ClientGone { stage, .. }, Some(why)) => Ended {
                status: self.status,
                outcome: Outcome::Broken,
                cause: Some(format!("cut while {}: {why}", stage.word())),
            },
            _ => self,
        }
    }

    /// The one line in the log of a request that no account had to do with.
    pub(crate) fn tell(self, context: &Context, line: Line, total: Duration) {
        let Ended { status, outcome, cause } = self.or_cut(context);
        context.tell(Event::Finished(Box::new(Finished {
            method: line.method,
            path: line.path,
            account: None,
            status,
            outcome,
            cause,
            queued: Duration::ZERO,
            first_byte: None,
            total,
            tokens: None,
            session: None,
            model: None,
            attempts: 0,
        })));
    }
}

/// What the log says of a request line.
#[derive(Clone)]
pub(crate) struct Line {
    /// `GET`.
    pub(crate) method: Arc<str>,
    /// The path without its query.
    pub(crate) path: Arc<str>,
}

/// Gives an answer of our own.
pub(crate) fn answer(out: Uncommitted, reply: &Reply) -> Ended {
    let cause = Some(reply.message.clone());
    match out.reply(reply) {
        Ok(status) => Ended { status: Some(status), outcome: Outcome::Refused, cause },
        Err(_) => Ended::client_gone(Stage::Streaming, None),
    }
}
