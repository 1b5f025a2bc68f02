//! What is kept of an attempt that another account may better: its cause, what a wait would be for, and the upstream's own answer
//! in case nobody can do better.

use std::sync::Arc;

use super::classify::Meaning;
use super::ended::{Ended, answer};
use super::reply;
use super::request::ClientRequest;
use super::stream::{Body, Uncommitted};
use crate::event::{Event, Failover, Outcome as EndedAs, Stage};
use crate::http::headers::{self, BodyForm, Headers};
use crate::http::sse::Form;
use crate::scheduler::{Evidence, Kind, Outcome, Refusal, RefusalReason, WaitCause};

/// A failure that another account may cure.
pub(super) struct Failed {
    pub(super) from: Arc<str>,
    pub(super) kind: Kind,
    /// Bytes of the request have gone out.
    pub(super) was_sent: bool,
    pub(super) meaning: Meaning,
    pub(super) kept: Option<Kept>,
}

/// The end of a request that no account could serve and that does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtLast {
    /// The upstream's answer as it is.
    TheAnswer,
    /// The scheduler's refusal in our words: it knows when the first account is back.
    Refusal,
    /// 502 that names the account: our credential's troubles are none of the client's.
    Credential,
    /// 503 `connection_unavailable`.
    Network,
}

/// An answer that can be passed on later.
pub(super) struct Kept {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
    pub(super) form: Form,
}

impl Failed {
    /// The class of waiting that may cure it.
    pub(super) fn wait(&self) -> Option<WaitCause> {
        match self.meaning.outcome {
            Outcome::QuotaRejected { .. } => Some(WaitCause::Quota),
            Outcome::ServerSide { .. } | Outcome::ServerError { .. } => Some(WaitCause::Capacity),
            Outcome::Network { .. } => Some(WaitCause::Network),
            Outcome::Success
            | Outcome::Neutral
            | Outcome::Abandoned
            | Outcome::CredentialRefused { .. }
            | Outcome::NeedsLogin { .. }
            | Outcome::CredentialForbidden { .. } => None,
        }
    }

    /// What the client gets when no other account can serve.
    fn at_last(&self) -> AtLast {
        match self.meaning.outcome {
            Outcome::QuotaRejected { .. } => AtLast::Refusal,
            Outcome::Network { .. } => AtLast::Network,
            Outcome::CredentialRefused { .. }
            | Outcome::NeedsLogin { .. }
            | Outcome::CredentialForbidden { .. } => AtLast::Credential,
            // No credential for now, or the account has gone: a login would not help.
            Outcome::Abandoned => AtLast::Refusal,
            Outcome::Success
            | Outcome::Neutral
            | Outcome::ServerSide { .. }
            | Outcome::ServerError { .. } => AtLast::TheAnswer,
        }
    }

    /// Whether it tells the client more than `refusal` does.
    pub(super) fn outranks(&self, refusal: &Refusal) -> bool {
        let about_us = matches!(
            refusal.reason,
            RefusalReason::QueueFull | RefusalReason::Draining | RefusalReason::TooLargeToHold(_)
        );
        !about_us && self.at_last() != AtLast::Refusal
    }
}

/// Tells the log that a request moves on.
pub(super) fn tell_failover(request: &ClientRequest, failed: &Failed, to: Option<&Arc<str>>) {
    let meaning = &failed.meaning;
    let why = match meaning.outcome {
        Outcome::Network { .. } => format!("{}: {}", meaning.kind, meaning.message),
        _ => format!("{} {}: {}", meaning.status, meaning.kind, meaning.message),
    };
    let evidence = evidence_of(&failed.meaning.outcome).cloned();
    request.context.tell(Event::Failover(Failover {
        from: Arc::clone(&failed.from),
        to: to.cloned(),
        why,
        evidence: evidence.map(Arc::new),
        session: request.session_tag(),
    }));
}

fn evidence_of(outcome: &Outcome) -> Option<&Evidence> {
    match outcome {
        Outcome::QuotaRejected { evidence, .. }
        | Outcome::ServerSide { evidence, .. }
        | Outcome::ServerError { evidence }
        | Outcome::Network { evidence, .. }
        | Outcome::CredentialRefused { evidence }
        | Outcome::NeedsLogin { evidence }
        | Outcome::CredentialForbidden { evidence } => Some(evidence),
        Outcome::Success | Outcome::Neutral | Outcome::Abandoned => None,
    }
}

/// Gives the client what the last account said, since no other can do better.
pub(super) fn pass_on(out: Uncommitted, failed: Failed) -> Ended {
    let meaning = &failed.meaning;
    let at_last = failed.at_last();
    match (at_last, failed.kept) {
        (AtLast::TheAnswer, Some(kept)) => {
            kept.deliver(out, format!("{}: {}", meaning.kind, meaning.message))
        }
        (AtLast::TheAnswer | AtLast::Refusal, _) => answer(out, &reply::upstream_said(meaning)),
        (AtLast::Network, _) => answer(out, &reply::network(&meaning.kind, &meaning.message)),
        (AtLast::Credential, _) => {
            answer(out, &reply::credential(failed.kind, &failed.from, &meaning.message))
        }
    }
}

impl Kept {
    pub(super) fn deliver(mut self, out: Uncommitted, cause: String) -> Ended {
        let ended = |delivered: std::io::Result<u16>| match delivered {
            Ok(status) => {
                Ended { status: Some(status), outcome: EndedAs::PassedOn, cause: Some(cause) }
            }
            Err(_) => Ended::client_gone(Stage::Streaming, None),
        };
        headers::downstream(&mut self.headers, BodyForm::Reframed);
        if !out.is_held() {
            return ended(
                out.whole(self.status, &self.headers, &self.body).map(|delivered| delivered.status),
            );
        }
        let event = match self.form {
            Form::Events => self.body,
            Form::Json | Form::Opaque => reply::event_of_body(self.status, &self.body),
        };
        let sent = out.open(200, &self.headers, Body::Streamed).and_then(|mut committed| {
            committed.push(&event)?;
            committed.finish()
        });
        ended(sent.map(|()| 200))
    }
}
