//! One attempt's fixed parts, and the ways in which it can end.
//!
//! Both the attempt and the delivery of its answer end through here, so that each outcome is told
//! to the scheduler and worded for the client in one place.

use std::cell::RefCell;
use std::sync::Arc;

use ureq::http::Uri;

use super::classify::{self, LOOK_AHEAD_BYTES, Meaning, Next, Seen};
use super::ended::{Ended, answer};
use super::failed::{Failed, Kept};
use super::forward::{Answer, Failure, NetworkCode};
use super::reply;
use super::request::ClientRequest;
use super::stream::Uncommitted;
use super::verdict::{Proof, Verdict, Whom};
use crate::account::{Account, Ready};
use crate::clock;
use crate::config::masking::Masked;
use crate::event::Stage;
use crate::gate::{Granted, LeaseGuard};
use crate::http::headers::{self, Beta, Headers};
use crate::net::wait::Waiter as _;
use crate::scheduler::quota::QuotaReport;
use crate::scheduler::{Blame, Evidence, Outcome, Request};

/// What came of an attempt.
pub(super) enum Attempted {
    /// The request is over.
    Ended(Ended),
    /// Another account may do better; the client has seen nothing.
    Failed {
        /// The way to the client.
        out: Uncommitted,
        /// What happened.
        failed: Box<Failed>,
    },
}

/// The parts of an attempt that stay the same over a repeated call.
pub(super) struct Course<'a> {
    pub(super) request: &'a ClientRequest,
    pub(super) demand: &'a Request,
    pub(super) granted: &'a Granted,
    pub(super) account: Arc<Account>,
    pub(super) uri: Uri,
    pub(super) beta: Beta,
    /// The credential of the last call.
    pub(super) sent: RefCell<Option<Ready>>,
}

impl Course<'_> {
    /// The upstream's own word, which no other account would change.
    pub(super) fn passed_on(
        &self,
        hold: LeaseGuard,
        kept: Option<Kept>,
        meaning: Meaning,
        out: Uncommitted,
    ) -> Ended {
        hold.complete(meaning.outcome.clone());
        match kept {
            Some(kept) => kept.deliver(out, format!("{}: {}", meaning.kind, meaning.message)),
            None => answer(out, &reply::upstream_said(&meaning)),
        }
    }

    /// No answer came: the network's fault, or the client left.
    pub(super) fn no_answer(
        &self,
        hold: LeaseGuard,
        failure: Failure,
        out: Uncommitted,
    ) -> Attempted {
        let network = match failure {
            Failure::Stopped(_) => {
                hold.complete(Outcome::Abandoned);
                return Attempted::Ended(self.stopped());
            }
            Failure::Network(network) => network,
        };
        let blame = match network.code {
            // A name look-up is a matter of this machine: no account can help it.
            NetworkCode::Dns => Blame::Nobody,
            NetworkCode::Refused
            | NetworkCode::Unreachable
            | NetworkCode::Reset
            | NetworkCode::Timeout
            | NetworkCode::Tls
            | NetworkCode::Garbage
            | NetworkCode::Other => Blame::Account,
        };
        let evidence = Evidence {
            source: Arc::from(network.code.word()),
            at: clock::wall(),
            message: Arc::from(network.text.as_str()),
            ..Evidence::default()
        };
        let meaning = Meaning {
            outcome: Outcome::Network { blame, evidence },
            next: Next::AnotherAccount,
            verdict: Verdict { whom: Whom::Network, proof: Proof::Nothing },
            status: 503,
            kind: network.code.word().to_owned(),
            message: network.text,
        };
        let after = hold.complete(meaning.outcome.clone());
        let failed = Failed {
            after,
            from: Arc::clone(&self.granted.name),
            kind: self.granted.kind,
            was_sent: self.request.client_wait.wire().sent.get() > 0,
            meaning,
            kept: None,
        };
        Attempted::Failed { out, failed: Box::new(failed) }
    }

    /// The credential of the last call is good.
    pub(super) fn served(&self) {
        if let Some(sent) = &*self.sent.borrow() {
            self.request.context.accounts.served(self.granted.account, sent.generation);
        }
    }

    /// Upstreams have been seen to repeat in an error the credential that they refuse. It is no
    /// part of what they say. `mask` takes out every other secret: [`Masked::bytes`], or
    /// [`Masked::torn`] where the end is missing.
    pub(super) fn hidden(
        &self,
        mut body: Vec<u8>,
        mask: fn(Vec<u8>) -> Masked<Vec<u8>>,
    ) -> Masked<Vec<u8>> {
        let sent = self.sent.borrow();
        let secret = sent
            .as_ref()
            .map_or(&b""[..], |sent| headers::bare_key(sent.value.expose().as_bytes()));
        let mut from = 0;
        // It may be too short to be known everywhere.
        while !secret.is_empty()
            && let Some(at) = body[from..].windows(secret.len()).position(|part| part == secret)
        {
            let at = from + at;
            body.splice(at..at + secret.len(), HIDDEN.iter().copied());
            from = at + HIDDEN.len();
        }
        mask(body)
    }

    pub(super) fn judge(
        &self,
        status: u16,
        headers: &Headers,
        body: &[u8],
        quota: &QuotaReport,
    ) -> Meaning {
        let body = &body[..body.len().min(LOOK_AHEAD_BYTES)];
        classify::classify(&Seen {
            status,
            headers,
            body,
            kind: self.granted.kind,
            class: self.demand.class,
            quota,
            now: clock::now(),
        })
    }

    /// A 200 that is no answer (SPEC P6).
    pub(super) fn judge_no_answer(
        &self,
        answer: &Answer,
        quota: &QuotaReport,
        what: &str,
    ) -> Meaning {
        let seen = Seen {
            status: answer.status,
            headers: &answer.headers,
            body: &[],
            kind: self.granted.kind,
            class: self.demand.class,
            quota,
            now: clock::now(),
        };
        classify::no_answer(&seen, what)
    }

    pub(super) fn failed(
        &self,
        hold: LeaseGuard,
        kept: Option<Kept>,
        meaning: Meaning,
        out: Uncommitted,
    ) -> Attempted {
        // A 403 to a pooled account never reaches the client as such (P7): it would sign its user
        // out.
        let kept = kept.filter(|_| !matches!(meaning.status, 401..=403));
        let after = hold.complete(meaning.outcome.clone());
        if meaning.verdict.whom.blames_nobody() {
            self.request.context.events.counters().count_blameless();
        }
        let (from, kind) = (Arc::clone(&self.granted.name), self.granted.kind);
        let failed = Failed { from, kind, was_sent: true, meaning, after, kept };
        Attempted::Failed { out, failed: Box::new(failed) }
    }

    pub(super) fn stopped(&self) -> Ended {
        let wire = self.request.client_wait.wire();
        let has_begun = wire.received.get() > 0 || wire.sent.get() > 0;
        self.client_gone(if has_begun { Stage::Waiting } else { Stage::Connecting })
    }

    pub(super) fn client_gone(&self, stage: Stage) -> Ended {
        Ended::client_gone(stage, self.request.client_wait.status_seen())
    }
}

/// What stands in place of a credential that an upstream repeats.
const HIDDEN: &[u8] = b"[hidden]";
