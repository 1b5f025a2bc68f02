//! What is kept of an attempt that another account may better: its cause, what a wait would be for,
//! and the upstream's own answer in case nobody can do better.

use std::sync::Arc;

use super::classify::Meaning;
use super::ended::{Ended, answer};
use super::reply;
use super::request::ClientRequest;
use super::stream::{Body, Uncommitted};
use super::verdict::Whom;
use crate::config::masking::Masked;
use crate::event::{Event, Failover, Outcome as EndedAs, Stage};
use crate::http::headers::{self, Headers};
use crate::http::sse::Form;
use crate::scheduler::{Aftermath, Kind, Outcome, Refusal, RefusalReason, Unproven, WaitCause};

/// A failure that another account may cure.
pub(super) struct Failed {
    pub(super) from: Arc<str>,
    pub(super) kind: Kind,
    /// Bytes of the request have gone out.
    pub(super) was_sent: bool,
    pub(super) meaning: Meaning,
    /// What it means for the next attempt.
    pub(super) after: Aftermath,
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
    /// 502 with the API's words about the account.
    Account,
    /// 502 in our words: a 403 would sign the client's user out.
    Forbidden,
    /// 502 in our words: there was no answer, or a page.
    NoAnswer,
    /// 503 `connection_unavailable`.
    Network,
}

/// An answer that can be passed on later.
pub(super) struct Kept {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: Masked<Vec<u8>>,
    pub(super) form: Form,
}

impl Failed {
    /// The class of waiting that may cure it.
    pub(super) fn wait(&self) -> Option<WaitCause> {
        match self.meaning.outcome {
            Outcome::QuotaRejected { .. } => Some(WaitCause::Quota),
            Outcome::ServerSide { .. } | Outcome::Unproven { .. } | Outcome::ServerError { .. } => {
                Some(WaitCause::Capacity)
            }
            Outcome::Network { .. } => Some(WaitCause::Network),
            Outcome::CredentialRefused { .. } => Some(WaitCause::Credential),
            Outcome::Success
            | Outcome::Neutral
            | Outcome::Broken { .. }
            | Outcome::Abandoned
            | Outcome::OwnRequest { .. }
            | Outcome::NeedsLogin { .. }
            | Outcome::Unusable { .. }
            | Outcome::ModelMissing { .. }
            | Outcome::Forbidden { .. } => None,
        }
    }

    /// The API's word about what this request asks for.
    pub(super) fn is_about_the_request(&self) -> bool {
        self.meaning.verdict.whom == Whom::OwnRequest
    }

    /// What the client gets when no other account can serve.
    fn at_last(&self) -> AtLast {
        match self.meaning.outcome {
            Outcome::QuotaRejected { .. } => AtLast::Refusal,
            Outcome::Network { .. } => AtLast::Network,
            Outcome::CredentialRefused { .. } | Outcome::NeedsLogin { .. } => AtLast::Credential,
            Outcome::Unusable { .. } => AtLast::Account,
            Outcome::Forbidden { .. } => AtLast::Forbidden,
            // No credential for now, or the account has gone: a login would not help.
            Outcome::Abandoned => AtLast::Refusal,
            Outcome::Unproven { unproven: Unproven::NoAnswer, .. } => AtLast::NoAnswer,
            Outcome::Success
            | Outcome::Neutral
            | Outcome::Broken { .. }
            | Outcome::OwnRequest { .. }
            | Outcome::ModelMissing { .. }
            | Outcome::ServerSide { .. }
            | Outcome::Unproven { .. }
            | Outcome::ServerError { .. } => AtLast::TheAnswer,
        }
    }

    /// Whether it tells the client more than `refusal` does. Of a thread whose account cannot serve,
    /// the client has to know that another one may serve the whole conversation (SPEC P10).
    pub(super) fn outranks(&self, refusal: &Refusal) -> bool {
        let goes_first = matches!(
            refusal.reason,
            RefusalReason::QueueFull
                | RefusalReason::Draining
                | RefusalReason::TooLargeToHold(_)
                | RefusalReason::ThreadElsewhere
        );
        !goes_first && self.at_last() != AtLast::Refusal
    }
}

/// Tells the log that a request moves on.
pub(super) fn tell_failover(request: &ClientRequest, failed: &Failed, to: Option<&Arc<str>>) {
    let meaning = &failed.meaning;
    let why = match meaning.outcome {
        Outcome::Network { .. } => format!("{}: {}", meaning.kind, meaning.message),
        _ => {
            let Meaning { status, kind, message, verdict, .. } = meaning;
            format!("{status} {kind}: {}; {verdict}", message.trim_end_matches('.'))
        }
    };
    let evidence = meaning.outcome.evidence().cloned();
    request.context.tell(Event::Failover(Failover {
        from: Arc::clone(&failed.from),
        to: to.cloned(),
        why,
        evidence: evidence.map(Arc::new),
        session: request.session_tag(),
    }));
}

/// Gives the client what the last account said, since no other can do better.
pub(super) fn pass_on(out: Uncommitted, failed: Failed) -> Ended {
    let meaning = &failed.meaning;
    let at_last = failed.at_last();
    match (at_last, failed.kept) {
        (AtLast::TheAnswer, Some(kept)) => {
            kept.deliver(out, format!("{}: {}; {}", meaning.kind, meaning.message, meaning.verdict))
        }
        (AtLast::TheAnswer | AtLast::Refusal, _) => answer(out, &reply::upstream_said(meaning)),
        (AtLast::Account, _) => answer(out, &reply::account_refused(&failed.from, meaning)),
        (AtLast::Forbidden, _) => answer(out, &reply::forbidden(meaning)),
        (AtLast::NoAnswer, _) => answer(out, &reply::no_answer(&failed.from, &meaning.message)),
        (AtLast::Network, _) => answer(out, &reply::network(&meaning.kind, &meaning.message)),
        (AtLast::Credential, _) => {
            answer(out, &reply::credential(failed.kind, &failed.from, &meaning.message))
        }
    }
}

impl Kept {
    pub(super) fn deliver(self, out: Uncommitted, cause: String) -> Ended {
        let ended = |delivered: std::io::Result<u16>| match delivered {
            Ok(status) => {
                Ended { status: Some(status), outcome: EndedAs::PassedOn, cause: Some(cause) }
            }
            Err(_) => Ended::client_gone(Stage::Streaming, None),
        };
        let headers = headers::downstream(&self.headers);
        if !out.is_held() {
            let sent = out.whole(self.status, headers, &self.body);
            return ended(sent.map(|()| self.status));
        }
        let event = match self.form {
            Form::Events => self.body.to_vec(),
            Form::Json | Form::Opaque => reply::event_of_body(self.status, &self.body),
        };
        let sent = out.open(200, headers, Body::Streamed).and_then(|mut committed| {
            committed.push(&event)?;
            committed.finish()
        });
        ended(sent.map(|()| 200))
    }
}
