//! One attempt: one request on one account, from the credential to the last byte or to the reason why another account must try.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use ureq::http::Uri;

use super::classify::{self, Meaning, Next, Seen};
use super::exchange::{answer, wait_for_refresh};
use super::failed::{Failed, Kept};
use super::forward::{self, Answer, Connection, Failure, NetworkCode, Order, Unanswered};
use super::job::{Ended, Job};
use super::reply;
use super::stream::Uncommitted;
use crate::account::limits::headers::report_of_headers;
use crate::account::provider::model_for;
use crate::account::{Account, Cooling, Obstacle, Readiness, Ready, Unready};
use crate::clock;
use crate::config::Secret;
use crate::event::Stage;
use crate::gate::{Granted, LeaseGuard};
use crate::http::headers::{self, Auth, Beta, Headers};
use crate::http::splice;
use crate::http::sse::Form;
use crate::net::wait::{Stop, Waiter};
use crate::scheduler::quota::{QuotaReport, Verdict};
use crate::scheduler::{
    Blame, Block, BlockReason, End, Evidence, HeadReport, Kind, Outcome, Request, Scope,
};

/// An error answer is kept, to be passed on when no account can do better. A longer one is replaced by our own words.
pub(super) const ERROR_BYTES_MAX: usize = 1024 * 1024;

/// What stands in the place of a credential that an upstream repeats.
const HIDDEN: &[u8] = b"[hidden]";

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
    pub(super) job: &'a Job,
    pub(super) request: &'a Request,
    pub(super) granted: &'a Granted,
    account: Arc<Account>,
    uri: Uri,
    beta: Beta,
    /// The credential of the last call.
    sent: RefCell<Option<Secret>>,
}

/// Runs the request on the account that was granted.
pub(super) fn run(
    job: &Job,
    request: &Request,
    hold: LeaseGuard,
    granted: &Granted,
    out: Uncommitted,
) -> Attempted {
    job.tracked.stage(Stage::Connecting);
    job.tracked.account(Some(Arc::clone(&granted.name)));
    job.record.borrow_mut().account = Some((Arc::clone(&granted.name), granted.kind));
    let Some(account) = job.context.accounts.get(granted.account) else {
        // Removed between the grant and now.
        hold.complete(Outcome::Abandoned);
        let failed =
            credential_failed(granted, Outcome::Abandoned, "the account was removed".to_owned());
        return Attempted::Failed { out, failed: Box::new(failed) };
    };
    let profile = account.profile();
    let Ok(uri) = Uri::try_from([profile.upstream.as_str(), &job.target].concat()) else {
        hold.complete(Outcome::Abandoned);
        return Attempted::Ended(answer(out, &reply::bad_target()));
    };
    let beta = match (granted.kind, profile.strip_beta_headers) {
        (Kind::Oauth, false) => Beta::WithOauth,
        (Kind::Oauth, true) => Beta::OnlyOauth,
        (Kind::ApiKey | Kind::Provider, false) => Beta::AsSent,
        (Kind::ApiKey | Kind::Provider, true) => Beta::Strip,
    };
    let course = Course { job, request, granted, account, uri, beta, sent: RefCell::default() };
    let readiness = job.context.accounts.credential(granted.account);
    course.with_credential(hold, readiness, out)
}

/// A failure before anything was sent: the account has no credential to show.
fn credential_failed(granted: &Granted, outcome: Outcome, why: String) -> Failed {
    Failed {
        from: Arc::clone(&granted.name),
        kind: granted.kind,
        was_sent: false,
        meaning: Meaning {
            outcome,
            next: Next::AnotherAccount,
            status: 502,
            kind: "account_auth_error".to_owned(),
            message: why,
        },
        kept: None,
    }
}

impl Course<'_> {
    /// Calls with each credential that the account has to offer: the current one, and once its successor after a 401.
    fn with_credential(&self, hold: LeaseGuard, first: Readiness, out: Uncommitted) -> Attempted {
        let mut readiness = first;
        let mut refused: Option<Meaning> = None;
        loop {
            let ready = match readiness {
                Readiness::Ready(ready) => ready,
                Readiness::Refreshing(flight) => {
                    self.job.record.borrow_mut().refreshed.push(self.granted.account);
                    if wait_for_refresh(self.job, &flight).is_err() {
                        hold.complete(Outcome::Abandoned);
                        return Attempted::Ended(self.client_gone(Stage::Connecting));
                    }
                    readiness = self.job.context.accounts.credential(self.granted.account);
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
            let quota = report_of_headers(answer.headers.iter(), clock::now());
            let evidence = if answer.status < 400 && quota.verdict != Some(Verdict::Rejected) {
                // Nothing is blocked by it.
                Evidence::default()
            } else {
                classify::evidence_of(answer.status, &answer.headers, "", clock::wall())
            };
            let after = self.job.watch.elapsed();
            self.job.trace.borrow_mut().answer(
                &self.granted.name,
                answer.status,
                after,
                answer.headers.iter(),
            );
            hold.observe(HeadReport { status: answer.status, quota: &quota, evidence });
            if answer.status < 400 {
                self.job.context.accounts.served(self.granted.account, ready.generation);
                return self.deliver(hold, answer, quota, out);
            }
            let (kept, meaning) = match self.read_error(answer, &quota) {
                Ok(read) => read,
                Err(stop) => {
                    hold.complete(Outcome::Abandoned);
                    return Attempted::Ended(self.stopped(stop));
                }
            };
            match meaning.next {
                Next::RefreshAndRetry => {
                    let (accounts, account) = (&self.job.context.accounts, self.granted.account);
                    let was_refreshed = self.job.record.borrow().refreshed.contains(&account);
                    readiness = if was_refreshed {
                        accounts.refused_again(account, ready.generation)
                    } else {
                        accounts.refused(account, ready.generation)
                    };
                    refused = Some(meaning);
                }
                Next::AnotherAccount => return self.failed(hold, kept, meaning, out),
                Next::PassOn => return Attempted::Ended(self.passed_on(hold, kept, meaning, out)),
            }
        }
    }

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

    fn call(&self, ready: &Ready) -> Result<Answer, Unanswered> {
        self.sent.replace(Some(ready.value.clone()));
        let job = self.job;
        let auth = Auth::Pooled { name: ready.header, value: ready.value.expose() };
        let headers = headers::upstream(&job.headers, auth, self.beta);
        let profile = self.account.profile();
        let model = job.peek.model.as_deref();
        let replacement = model.and_then(|model| model_for(&profile, model));
        let spliced = match replacement {
            Some(to) => splice::replace_model(&job.body, &job.peek.models, to).parts,
            None => vec![Cow::Borrowed(job.body.as_slice())],
        };
        let order = Order {
            method: &job.method,
            uri: &self.uri,
            headers: &headers,
            body: job.has_body.then_some(spliced.as_slice()),
        };
        job.record.borrow_mut().attempts += 1;
        job.trace.borrow_mut().attempt(&self.granted.name, &self.uri, headers.iter());
        forward::send(&job.context.agent(), &order, &job.patience, Connection::Pooled)
    }

    /// The account has nothing to show: its block is told to the scheduler.
    fn without_credential(
        &self,
        hold: LeaseGuard,
        unready: Unready,
        refused: Option<Meaning>,
    ) -> Failed {
        let (evidence, said) = match refused {
            Some(Meaning { outcome: Outcome::NeedsLogin { evidence }, message, .. }) => {
                (evidence, format!(" (the upstream said: {message})"))
            }
            Some(_) | None => (
                Evidence {
                    at: clock::wall(),
                    source: Arc::from("no usable credential"),
                    ..Evidence::default()
                },
                String::new(),
            ),
        };
        let why = match unready {
            Unready::NeedsLogin { why } => {
                let evidence = Evidence { message: Arc::from(format!("{why}{said}")), ..evidence };
                hold.complete(Outcome::NeedsLogin { evidence });
                format!("needs login: {why}")
            }
            Unready::CredentialRefused => {
                hold.complete(Outcome::CredentialRefused { evidence });
                "its credential was refused".to_owned()
            }
            Unready::Cooling(cooling) if cooling.obstacle == Obstacle::Refused => {
                hold.complete(Outcome::Abandoned);
                self.cool(&cooling);
                let outcome = Outcome::CredentialRefused { evidence };
                let why = format!("its token is {}{said}", cooling.why);
                return credential_failed(self.granted, outcome, why);
            }
            Unready::Cooling(cooling) => {
                hold.complete(Outcome::Abandoned);
                self.cool(&cooling);
                format!("its token cannot be refreshed now: {}", cooling.why)
            }
            Unready::Disabled | Unready::Gone => {
                hold.complete(Outcome::Abandoned);
                "it was disabled or removed".to_owned()
            }
        };
        credential_failed(self.granted, Outcome::Abandoned, format!("{why}{said}"))
    }

    fn cool(&self, cooling: &Cooling) {
        let reason = match cooling.obstacle {
            Obstacle::Network => BlockReason::RefreshNetwork,
            Obstacle::Endpoint | Obstacle::Local => BlockReason::RefreshFailed,
            Obstacle::Refused => BlockReason::CredentialRefused,
        };
        let evidence = Evidence {
            source: Arc::from("token refresh"),
            at: clock::wall(),
            message: Arc::from(cooling.why.as_str()),
            ..Evidence::default()
        };
        let end = End::At { mono: Some(cooling.until), wall: None };
        let block = Block { reason, end, scope: Scope::Account, evidence: Arc::new(evidence) };
        self.job
            .context
            .gate
            .with(|scheduler, now| scheduler.block(now, self.granted.account, block));
    }

    /// No answer came: the network's fault, or the client left.
    pub(super) fn no_answer(
        &self,
        hold: LeaseGuard,
        failure: Failure,
        out: Uncommitted,
    ) -> Attempted {
        let network = match failure {
            Failure::Stopped(stop) => {
                hold.complete(Outcome::Abandoned);
                return Attempted::Ended(self.stopped(stop));
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
            status: 503,
            kind: network.code.word().to_owned(),
            message: network.text,
        };
        hold.complete(meaning.outcome.clone());
        let failed = Failed {
            from: Arc::clone(&self.granted.name),
            kind: self.granted.kind,
            was_sent: self.job.patience.wire().sent.get() > 0,
            meaning,
            kept: None,
        };
        Attempted::Failed { out, failed: Box::new(failed) }
    }

    /// Reads an error answer whole, or until it is too long to keep, and classifies it.
    fn read_error(
        &self,
        mut answer: Answer,
        quota: &QuotaReport,
    ) -> Result<(Option<Kept>, Meaning), Stop> {
        let mut body = Vec::new();
        let whole = loop {
            let read = answer.read(&self.job.patience, |bytes| {
                body.extend_from_slice(bytes);
                bytes.len()
            });
            match read {
                Ok(0) => break true,
                Ok(_) if body.len() > ERROR_BYTES_MAX => break false,
                Ok(_) => {}
                Err(Failure::Stopped(stop)) => return Err(stop),
                // What has come says enough about the account; to the client it would be torn.
                Err(Failure::Network(_)) => break false,
            }
        };
        self.hide_in(&mut body);
        self.job.trace.borrow_mut().body(&body);
        let Answer { status, headers, .. } = answer;
        let meaning = self.judge(status, &headers, &body, quota);
        let form = Form::of(headers.text("content-type"), headers.text("content-encoding"));
        Ok((whole.then_some(Kept { status, headers, body, form }), meaning))
    }

    /// Upstreams have been seen to repeat in an error the credential that they refuse. It is no part of what they say.
    pub(super) fn hide_in(&self, body: &mut Vec<u8>) {
        let sent = self.sent.borrow();
        let Some(secret) = sent
            .as_ref()
            .map(|sent| headers::bare_key(sent.expose().as_bytes()))
            .filter(|secret| !secret.is_empty())
        else {
            return;
        };
        let mut from = 0;
        while let Some(at) = body[from..].windows(secret.len()).position(|part| part == secret) {
            let at = from + at;
            body.splice(at..at + secret.len(), HIDDEN.iter().copied());
            from = at + HIDDEN.len();
        }
    }

    pub(super) fn judge(
        &self,
        status: u16,
        headers: &Headers,
        body: &[u8],
        quota: &QuotaReport,
    ) -> Meaning {
        let body = &body[..body.len().min(super::deliver::LOOK_AHEAD_BYTES)];
        classify::classify(&Seen {
            status,
            headers,
            body,
            kind: self.granted.kind,
            quota,
            now: clock::now(),
        })
    }

    pub(super) fn failed(
        &self,
        hold: LeaseGuard,
        kept: Option<Kept>,
        meaning: Meaning,
        out: Uncommitted,
    ) -> Attempted {
        // A 403 to a pooled account never reaches the client as such (P7): it would sign its user out.
        let kept = kept.filter(|_| meaning.status != 403);
        hold.complete(meaning.outcome.clone());
        let (from, kind) = (Arc::clone(&self.granted.name), self.granted.kind);
        let failed = Failed { from, kind, was_sent: true, meaning, kept };
        Attempted::Failed { out, failed: Box::new(failed) }
    }

    pub(super) fn stopped(&self, _stop: Stop) -> Ended {
        let received = self.job.patience.wire().received.get() > 0;
        self.client_gone(if received || self.job.patience.wire().sent.get() > 0 {
            Stage::Waiting
        } else {
            Stage::Connecting
        })
    }

    pub(super) fn client_gone(&self, stage: Stage) -> Ended {
        Ended::client_gone(stage, self.job.patience.status_seen())
    }
}
