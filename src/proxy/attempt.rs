//! One attempt: one request on one account, from the credential to the last byte, or to the reason
//! why another account must try.
//!
//! An attempt owns the lease of its account and the writer to the client, to which nothing has been
//! written yet ([`Uncommitted`]), and returns both in its result: [`Attempted::Ended`] has used
//! them up, [`Attempted::Failed`] returns the writer with the failure. So neither a retry after the
//! first byte nor a lease held by two accounts compiles. This file handles everything that concerns
//! this account alone: waiting for a refresh, the call, and one more call with a new token after a
//! 401. `exchange` decides which account comes next, and whether any does.
//!
//! Invariants:
//!
//! - Each lease ends once, with an outcome. If a path forgets, [`LeaseGuard`] ends it as abandoned.
//! - At most one refresh of this account per request (SPEC T2): `record.refreshed` remembers it
//!   across all attempts.
//! - The scheduler learns what an answer's head says about quota before the body is read, so that
//!   concurrent requests see it as early as possible.
//! - An error's body is masked before anything else sees it (SPEC D4).
//!
//! The alternative, one function that reads any answer and commits it at the right byte, would have
//! to undo its work when a 200 turns out to be an error. Here [`Delivery`] returns such an answer
//! as a refusal, and both kinds are handled by the one `match` on their meaning.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use ureq::http::{HeaderValue, Uri, header};

use super::classify::{self, ERROR_BYTES_MAX, Meaning, Next};
use super::course::{Attempted, Course};
use super::deliver::Delivery;
use super::ended::answer;
use super::failed::{Failed, Kept};
use super::forward::{self, Answer, Connection, Failure, Order, Unanswered};
use super::reply;
use super::request::ClientRequest;
use super::stream::Uncommitted;
use super::verdict::{Proof, Verdict, Whom};
use crate::account::limits::headers::report_of_headers;
use crate::account::provider::model_for;
use crate::account::{Cooling, Obstacle, Readiness, Ready, Refreshing, Unready};
use crate::clock;
use crate::config::masking::Masked;
use crate::event::Stage;
use crate::gate::{Granted, LeaseGuard};
use crate::http::headers::{self, Auth, Beta};
use crate::http::splice;
use crate::http::sse::{self, Form};
use crate::net::wait::Stop;
use crate::scheduler::quota::{QuotaReport, Verdict as Said};
use crate::scheduler::{
    Aftermath, Block, BlockReason, End, Evidence, HeadReport, Kind, Outcome, Request, Scope,
};

/// Runs the request on the granted account.
pub(super) fn run(
    request: &ClientRequest,
    demand: &Request,
    hold: LeaseGuard,
    granted: &Granted,
    out: Uncommitted,
) -> Attempted {
    request.tracked.stage(Stage::Connecting);
    request.tracked.account(Some(Arc::clone(&granted.name)));
    request.record.borrow_mut().account = Some((Arc::clone(&granted.name), granted.kind));
    let Some(account) = request.context.accounts.get(granted.account) else {
        // The account was removed after the grant.
        let after = hold.complete(Outcome::Abandoned);
        let failed = credential_failed(granted, after, "the account was removed".to_owned());
        return Attempted::Failed { out, failed: Box::new(failed) };
    };
    let profile = account.profile();
    let Ok(uri) = Uri::try_from([profile.upstream.as_str(), &request.target].concat()) else {
        hold.complete(Outcome::Abandoned);
        return Attempted::Ended(answer(out, &reply::bad_target()));
    };
    let beta = match (granted.kind, profile.strip_beta_headers) {
        (Kind::Oauth, false) => Beta::WithOauth,
        (Kind::Oauth, true) => Beta::OnlyOauth,
        (Kind::ApiKey | Kind::Provider, false) => Beta::AsSent,
        (Kind::ApiKey | Kind::Provider, true) => Beta::Strip,
    };
    let course = Course { request, demand, granted, account, uri, beta, sent: RefCell::default() };
    let readiness = request.context.accounts.credential(granted.account);
    course.with_credential(hold, readiness, out)
}

/// A failure before anything was sent: the account has no usable credential.
fn credential_failed(granted: &Granted, after: Aftermath, why: String) -> Failed {
    Failed {
        after,
        from: Arc::clone(&granted.name),
        kind: granted.kind,
        was_sent: false,
        meaning: Meaning {
            outcome: Outcome::Abandoned,
            next: Next::AnotherAccount,
            verdict: Verdict { whom: Whom::Credential, proof: Proof::Nothing },
            status: 502,
            kind: "account_auth_error".to_owned(),
            message: why,
        },
        kept: None,
    }
}

impl Course<'_> {
    /// Calls with each credential of the account: the current one, and once its successor after a
    /// 401.
    fn with_credential(
        &self,
        mut hold: LeaseGuard,
        first: Readiness,
        mut out: Uncommitted,
    ) -> Attempted {
        let mut readiness = first;
        let mut refused: Option<Meaning> = None;
        let mut refused_token: Option<u64> = None;
        loop {
            let ready = match readiness {
                Readiness::Ready(ready) => ready,
                Readiness::Refreshing(Refreshing { flight, limit, is_ours }) => {
                    self.request.record.borrow_mut().refreshed.push(self.granted.account);
                    if self.request.client_wait.wait_for_refresh(&flight, limit).is_err() {
                        hold.complete(Outcome::Abandoned);
                        return Attempted::Ended(self.client_gone(Stage::Connecting));
                    }
                    readiness = self.after_refresh(refused_token, is_ours);
                    continue;
                }
                Readiness::Unready(unready) => {
                    let failed = self.without_credential(hold, unready, refused);
                    return Attempted::Failed { out, failed: Box::new(failed) };
                }
            };
            let answer = match self.call(&ready) {
                Ok(answer) => answer,
                Err(Unanswered::Failed(failure)) => return self.no_answer(hold, failure, out),
                Err(Unanswered::NobodysFault(text)) => {
                    hold.complete(Outcome::Abandoned);
                    return Attempted::Ended(answer(out, &reply::nobodys_fault(&text)));
                }
            };
            let (kept, meaning);
            match self.take(hold, answer, out) {
                Delivery::Over(attempted) => return attempted,
                Delivery::Refused { hold: again, out: still, kept: own, meaning: said } => {
                    (hold, out, kept, meaning) = (again, still, own, said);
                }
            }
            match meaning.next {
                Next::RefreshAndRetry => {
                    readiness = self.after_401(ready.generation);
                    refused = Some(meaning);
                    refused_token = Some(ready.generation);
                }
                Next::AnotherAccount => return self.failed(hold, kept, meaning, out),
                Next::PassOn => return Attempted::Ended(self.passed_on(hold, kept, meaning, out)),
            }
        }
    }

    /// Delivers an answer, or returns its meaning.
    fn take(&self, hold: LeaseGuard, answer: Answer, out: Uncommitted) -> Delivery {
        let quota = self.observe(&hold, &answer);
        if answer.status < 400 {
            return self.deliver(hold, answer, &quota, out);
        }
        match self.read_error(answer, &quota) {
            Ok((kept, meaning)) => Delivery::Refused { hold, out, kept, meaning },
            Err(_) => {
                hold.complete(Outcome::Abandoned);
                Delivery::Over(Attempted::Ended(self.stopped()))
            }
        }
    }

    /// The credential to send after a refresh. A token that the API has refused for this request is
    /// never sent again, only its successor.
    fn after_refresh(&self, refused: Option<u64>, is_ours: bool) -> Readiness {
        let (accounts, account) = (&self.request.context.accounts, self.granted.account);
        match refused {
            Some(generation) => accounts.refused_again(account, generation),
            None if is_ours => accounts.credential(account),
            None => accounts.refreshed(account),
        }
    }

    /// The credential to send after the API has refused this token.
    fn after_401(&self, generation: u64) -> Readiness {
        let (accounts, account) = (&self.request.context.accounts, self.granted.account);
        match self.request.record.borrow().refreshed.contains(&account) {
            true => accounts.refused_again(account, generation),
            false => accounts.refused(account, generation),
        }
    }

    /// Passes the head of an answer to the scheduler and the recording; returns what it says about
    /// quota.
    fn observe(&self, hold: &LeaseGuard, answer: &Answer) -> QuotaReport {
        let lines: Vec<_> = answer.headers.iter().collect();
        let quota = report_of_headers(lines, clock::now());
        let evidence = if answer.status < 400 && quota.verdict != Some(Said::Rejected) {
            // It causes no block.
            Evidence::default()
        } else {
            classify::evidence_of(answer.status, &answer.headers, "", clock::wall())
        };
        let after = self.request.watch.elapsed();
        self.request.trace.borrow_mut().answer(
            &self.granted.name,
            answer.status,
            after,
            answer.headers.iter(),
        );
        hold.observe(HeadReport { status: answer.status, quota: &quota, evidence });
        quota
    }

    fn call(&self, ready: &Ready) -> Result<Answer, Unanswered> {
        self.sent.replace(Some(ready.clone()));
        let request = self.request;
        let value = HeaderValue::from_str(ready.value.expose())
            .map_err(|error| Unanswered::unsendable(&ureq::Error::Http(error.into())))?;
        let auth = Auth::Pooled { name: ready.header, value };
        let headers = headers::upstream(&request.headers, auth, self.beta);
        let profile = self.account.profile();
        let model = request.peek.model.as_deref();
        let replacement = model.and_then(|model| model_for(&profile, model));
        let spliced = match replacement {
            Some(to) => splice::replace_model(&request.body, &request.peek.models, to).parts,
            None => vec![Cow::Borrowed(request.body.as_slice())],
        };
        let order = Order {
            method: &request.method,
            uri: &self.uri,
            headers: &headers,
            body: request.has_body.then_some(spliced.as_slice()),
        };
        request.record.borrow_mut().attempts += 1;
        request.trace.borrow_mut().attempt(&self.granted.name, &self.uri, headers.iter());
        forward::send(&request.context.agent(), &order, &request.client_wait, Connection::Pooled)
    }

    /// The account has no usable credential: reports its block to the scheduler.
    fn without_credential(
        &self,
        hold: LeaseGuard,
        unready: Unready,
        refused: Option<Meaning>,
    ) -> Failed {
        let (evidence, said) = match refused {
            Some(Meaning { outcome: Outcome::CredentialRefused { evidence }, message, .. }) => {
                (evidence, format!(" (the upstream said: {message})"))
            }
            Some(_) | None => (
                Evidence {
                    at: clock::wall(),
                    source: Arc::from(match unready {
                        Unready::Cooling(_) => "token refresh",
                        _ => "no usable credential",
                    }),
                    ..Evidence::default()
                },
                String::new(),
            ),
        };
        let (after, why) = match unready {
            Unready::NeedsLogin { why } => {
                let evidence = Evidence { message: Arc::from(format!("{why}{said}")), ..evidence };
                let after = hold.complete(Outcome::NeedsLogin { evidence });
                (after, format!("needs login: {why}"))
            }
            Unready::CredentialRefused => {
                let after = hold.complete(Outcome::CredentialRefused { evidence });
                (after, "its credential was refused by the API".to_owned())
            }
            Unready::Cooling(cooling) => {
                let message = Arc::from(format!("{}{said}", cooling.why));
                let after = self.cool(hold, &cooling, Evidence { message, ..evidence });
                (after, format!("its token cannot be refreshed now: {}", cooling.why))
            }
            Unready::Disabled | Unready::Gone => {
                let after = hold.complete(Outcome::Abandoned);
                (after, "it was disabled or removed".to_owned())
            }
        };
        credential_failed(self.granted, after, format!("{why}{said}"))
    }

    /// Blocks the account until the end of `cooling`, when the next refresh may start. If the API
    /// has refused the token, the account rests as after any 401, at most until the next refresh,
    /// and requests do not wait for the network.
    fn cool(&self, hold: LeaseGuard, cooling: &Cooling, evidence: Evidence) -> Aftermath {
        let (account, until) = (self.granted.account, cooling.until);
        let reason = match cooling.obstacle {
            _ if cooling.is_refused => {
                let outcome = Outcome::CredentialRefused { evidence };
                return hold.complete_with(outcome, |scheduler, now| {
                    scheduler.end_rest_by(now, account, until);
                });
            }
            Obstacle::Network => BlockReason::RefreshNetwork,
            Obstacle::Endpoint | Obstacle::Local => BlockReason::RefreshFailed,
        };
        let end = End::At { mono: Some(until), wall: None };
        let block = Block { reason, end, scope: Scope::Account, evidence: Arc::new(evidence) };
        hold.complete_with(Outcome::Abandoned, |scheduler, now| {
            scheduler.block(now, account, block);
        })
    }

    /// Reads an error answer completely, or until it is too long to keep, and classifies it.
    fn read_error(
        &self,
        mut answer: Answer,
        quota: &QuotaReport,
    ) -> Result<(Option<Kept>, Meaning), Stop> {
        let mut body = Vec::new();
        let whole = loop {
            let read = answer.read(&self.request.client_wait, |bytes| {
                body.extend_from_slice(bytes);
                bytes.len()
            });
            match read {
                Ok(0) => break true,
                Ok(_) if body.len() > ERROR_BYTES_MAX => break false,
                Ok(_) => {}
                Err(Failure::Stopped(stop)) => return Err(stop),
                // What has arrived says enough about the account; for the client it would be
                // truncated.
                Err(Failure::Network(_)) => break false,
            }
        };
        let Answer { status, headers, .. } = answer;
        if sse::is_encoded(headers.text("content-encoding")) {
            // It cannot be searched for secrets, and nobody asked for it, so it is not passed on.
            self.request.trace.borrow_mut().body(&body);
            return Ok((None, self.judge(status, &headers, b"", quota)));
        }
        let body = self.hidden(body, if whole { Masked::bytes } else { Masked::torn });
        self.request.trace.borrow_mut().body(&body);
        let meaning = self.judge(status, &headers, &body, quota);
        let form =
            Form::of(headers.text(header::CONTENT_TYPE), headers.text(header::CONTENT_ENCODING));
        Ok((whole.then_some(Kept { status, headers, body, form }), meaning))
    }
}
