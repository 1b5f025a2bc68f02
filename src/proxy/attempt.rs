//! One attempt: one request on one account, from the credential to the last byte or to the reason why another account must try.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Uri;

use super::classify::{self, Meaning, Next, Seen};
use super::exchange::{answer, wait_for_flight};
use super::forward::{self, Answer, Failure, NetworkCode, NetworkFailure, Order};
use super::headers::{self, Auth, Beta, BodyForm, Headers};
use super::job::{Ended, Job, usage_of};
use super::paths::Route;
use super::reply;
use super::splice;
use super::sse::{Form, Scanner};
use super::stream::{Body, Committed, Uncommitted};
use crate::account::provider::model_for;
use crate::account::quota::report_of_headers;
use crate::account::{Account, Cooling, Obstacle, Readiness, Ready, Unready};
use crate::clock;
use crate::event::{Event, Failover, Outcome as EndedAs, Stage};
use crate::gate::{Granted, Hold};
use crate::net::wait::{Stop, Waiter};
use crate::scheduler::quota::QuotaReport;
use crate::scheduler::{
    AccountId, Blame, Block, BlockReason, End, Evidence, HeadReport, Kind, Outcome, Refusal, RefusalReason, Request,
    Scope, WaitCause,
};

/// The first event is looked for in at most so many bytes …
const LOOK_AHEAD_BYTES: usize = 64 * 1024;
/// … and for at most so long (SPEC P6).
const LOOK_AHEAD_TIME: Duration = Duration::from_secs(5);
/// An error answer is kept, to be passed on when no account can do better. A longer one is replaced by our own words.
const ERROR_BYTES_MAX: usize = 1024 * 1024;

/// What came of an attempt.
pub(super) enum Attempted {
    /// The request is over.
    Ended(Ended),
    /// Another account may do better; the client has seen nothing.
    Failed {
        /// The way to the client.
        out: Uncommitted,
        /// What happened.
        failed: Failed,
    },
}

/// A failure that another account may cure.
pub(super) struct Failed {
    from: Arc<str>,
    kind: Kind,
    /// Bytes of the request have gone out.
    pub(super) was_sent: bool,
    meaning: Meaning,
    kept: Option<Kept>,
}

/// The end of a request that no account could serve and that does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtLast {
    /// The upstream's answer as it is.
    TheAnswer,
    /// 429 in our words: other accounts' limits end at other times.
    Limited,
    /// 502 that names the account: our credential's troubles are none of the client's.
    Credential,
    /// 503 `connection_unavailable`.
    Network,
}

/// An answer that can be passed on later.
pub(super) struct Kept {
    status: u16,
    headers: Headers,
    body: Vec<u8>,
    form: Form,
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
            Outcome::QuotaRejected { .. } => AtLast::Limited,
            Outcome::Network { .. } => AtLast::Network,
            Outcome::CredentialRefused { .. } | Outcome::NeedsLogin { .. } | Outcome::CredentialForbidden { .. } => {
                AtLast::Credential
            }
            Outcome::Abandoned => AtLast::Credential,
            Outcome::Success | Outcome::Neutral | Outcome::ServerSide { .. } | Outcome::ServerError { .. } => {
                AtLast::TheAnswer
            }
        }
    }

    /// Whether it tells the client more than `refusal` does.
    pub(super) fn outranks(&self, refusal: &Refusal) -> bool {
        let about_us = matches!(
            refusal.reason,
            RefusalReason::QueueFull | RefusalReason::Draining | RefusalReason::TooLargeToHold(_)
        );
        !about_us && self.at_last() != AtLast::Limited
    }
}

/// Tells the log that a request moves on.
pub(super) fn tell_failover(job: &Job, failed: &Failed, to: Option<&Arc<str>>) {
    let meaning = &failed.meaning;
    let why = match meaning.outcome {
        Outcome::Network { .. } => format!("{}: {}", meaning.kind, meaning.message),
        _ => format!("{} {}: {}", meaning.status, meaning.kind, meaning.message),
    };
    let evidence = evidence_of(&failed.meaning.outcome).cloned();
    job.context.tell(Event::Failover(Failover {
        from: Arc::clone(&failed.from),
        to: to.cloned(),
        why,
        evidence: evidence.map(Arc::new),
        session: job.session_tag(),
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
        (AtLast::TheAnswer, Some(kept)) => kept.deliver(out, format!("{}: {}", meaning.kind, meaning.message)),
        (AtLast::TheAnswer | AtLast::Limited, _) => answer(out, &reply::upstream_said(meaning)),
        (AtLast::Network, _) => answer(out, &reply::network(&meaning.kind, &meaning.message)),
        (AtLast::Credential, _) => answer(out, &reply::credential(failed.kind, &failed.from, &meaning.message)),
    }
}

impl Kept {
    fn deliver(self, out: Uncommitted, cause: String) -> Ended {
        let ended = |delivered: std::io::Result<u16>| match delivered {
            Ok(status) => Ended { status: Some(status), outcome: EndedAs::PassedOn, cause: Some(cause) },
            Err(_) => Ended::client_gone(Stage::Streaming, None),
        };
        let headers = headers::downstream(&self.headers, BodyForm::Reframed);
        if !out.is_held() {
            return ended(out.whole(self.status, &headers, &self.body).map(|delivered| delivered.status));
        }
        let event = match self.form {
            Form::Events => self.body,
            Form::Json | Form::Opaque => reply::event_of_body(self.status, &self.body),
        };
        let sent = out.open(200, &headers, Body::Streamed).and_then(|mut committed| {
            committed.push(&event)?;
            committed.finish()
        });
        ended(sent.map(|()| 200))
    }
}

/// Which token a call is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// The one that was at hand.
    First,
    /// One that was fetched because of a 401 to this request.
    Refreshed,
}

/// The parts of an attempt that stay the same over a repeated call.
struct Course<'a> {
    job: &'a Job,
    request: &'a Request,
    granted: &'a Granted,
    account: Arc<Account>,
    uri: Uri,
    beta: Beta,
}

/// Runs the request on the account that was granted.
pub(super) fn run(job: &Job, request: &Request, hold: Hold, granted: &Granted, out: Uncommitted) -> Attempted {
    job.tracked.stage(Stage::Connecting);
    job.tracked.account(Some(Arc::clone(&granted.name)));
    job.record.borrow_mut().account = Some((Arc::clone(&granted.name), granted.kind));
    let Some(account) = job.context.accounts.get(granted.account) else {
        // Removed between the grant and now.
        hold.complete(Outcome::Abandoned);
        let failed = credential_failed(granted, Outcome::Abandoned, "the account was removed".to_owned());
        return Attempted::Failed { out, failed };
    };
    let profile = account.profile();
    let Ok(uri) = format!("{}{}", profile.upstream.as_str(), job.target).parse::<Uri>() else {
        hold.complete(Outcome::Abandoned);
        return Attempted::Ended(answer(out, &reply::bad_target()));
    };
    let beta = match (granted.kind, profile.strip_beta_headers) {
        (Kind::Oauth, false) => Beta::WithOauth,
        (Kind::Oauth, true) => Beta::OnlyOauth,
        (Kind::ApiKey | Kind::Provider, false) => Beta::AsSent,
        (Kind::ApiKey | Kind::Provider, true) => Beta::Strip,
    };
    let course = Course { job, request, granted, account, uri, beta };
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
    fn with_credential(&self, hold: Hold, first: Readiness, out: Uncommitted) -> Attempted {
        let mut readiness = first;
        let mut token = Token::First;
        let mut refused: Option<(Evidence, String)> = None;
        loop {
            let ready = match readiness {
                Readiness::Ready(ready) => ready,
                Readiness::Refreshing(flight) => {
                    if wait_for_flight(self.job, &flight).is_err() {
                        hold.complete(Outcome::Abandoned);
                        return Attempted::Ended(self.client_gone(Stage::Connecting));
                    }
                    readiness = self.job.context.accounts.credential(self.granted.account);
                    continue;
                }
                Readiness::Unready(unready) => {
                    let failed = self.without_credential(hold, unready, refused);
                    return Attempted::Failed { out, failed };
                }
            };
            let answer = match self.call(&ready) {
                Ok(answer) => answer,
                Err(failure) => return self.no_answer(hold, failure, out),
            };
            let quota = report_of_headers(
                answer.headers.0.iter().map(|(name, value)| (name.as_str(), value.as_slice())),
                clock::now(),
            );
            let evidence = evidence(&answer);
            hold.observe(HeadReport { status: answer.status, quota: &quota, evidence: evidence.clone() });
            if answer.status < 400 {
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
                    let accounts = &self.job.context.accounts;
                    readiness = match token {
                        Token::First => accounts.refused(self.granted.account, ready.generation),
                        Token::Refreshed => accounts.refused_again(self.granted.account, ready.generation),
                    };
                    token = Token::Refreshed;
                    refused = Some((evidence, meaning.message));
                }
                Next::AnotherAccount => return self.failed(hold, kept, meaning, out),
                Next::PassOn => return Attempted::Ended(self.passed_on(hold, kept, meaning, out)),
            }
        }
    }

    /// The upstream's own word, which no other account would change.
    fn passed_on(&self, hold: Hold, kept: Option<Kept>, meaning: Meaning, out: Uncommitted) -> Ended {
        hold.complete(meaning.outcome.clone());
        match kept {
            Some(kept) => kept.deliver(out, format!("{}: {}", meaning.kind, meaning.message)),
            None => answer(out, &reply::upstream_said(&meaning)),
        }
    }

    fn call(&self, ready: &Ready) -> Result<Answer, Failure> {
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
        forward::send(&job.context.agent(), &order, &job.patience)
    }

    /// The account has nothing to show: its block is told to the scheduler.
    fn without_credential(&self, hold: Hold, unready: Unready, refused: Option<(Evidence, String)>) -> Failed {
        let (evidence, said) = match refused {
            Some((evidence, said)) => (evidence, Some(said)),
            None => (Evidence { at: clock::wall(), source: Arc::from("no usable credential"), ..Evidence::default() }, None),
        };
        let why = match unready {
            Unready::NeedsLogin { why } => {
                let evidence = Evidence { message: Arc::from(why.as_str()), ..evidence };
                hold.complete(Outcome::NeedsLogin { evidence });
                format!("needs login: {why}")
            }
            Unready::CredentialRefused => {
                hold.complete(Outcome::CredentialRefused { evidence });
                "its credential was refused".to_owned()
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
        let why = match said {
            Some(said) => format!("{why} (the upstream said: {said})"),
            None => why,
        };
        credential_failed(self.granted, Outcome::Abandoned, why)
    }

    fn cool(&self, cooling: &Cooling) {
        let reason = match cooling.obstacle {
            Obstacle::Network => BlockReason::RefreshNetwork,
            Obstacle::Endpoint | Obstacle::Local => BlockReason::RefreshFailed,
        };
        let evidence = Evidence {
            source: Arc::from("token refresh"),
            at: clock::wall(),
            message: Arc::from(cooling.why.as_str()),
            ..Evidence::default()
        };
        let end = End::At { mono: Some(cooling.until), wall: None };
        let block = Block { reason, end, scope: Scope::Account, evidence: Arc::new(evidence) };
        self.job.context.gate.with(|scheduler, now| scheduler.block(now, self.granted.account, block));
    }

    /// No answer came: the network's fault, or the client left.
    fn no_answer(&self, hold: Hold, failure: Failure, out: Uncommitted) -> Attempted {
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
        Attempted::Failed { out, failed }
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
        let Answer { status, headers, .. } = answer;
        let meaning = self.judge(status, &headers, &body, quota);
        let form = Form::of(headers.text("content-type"), headers.text("content-encoding"));
        Ok((whole.then_some(Kept { status, headers, body, form }), meaning))
    }

    fn judge(&self, status: u16, headers: &Headers, body: &[u8], quota: &QuotaReport) -> Meaning {
        let body = &body[..body.len().min(LOOK_AHEAD_BYTES)];
        classify::classify(&Seen { status, headers, body, kind: self.granted.kind, quota, now: clock::now() })
    }

    fn failed(&self, hold: Hold, kept: Option<Kept>, meaning: Meaning, out: Uncommitted) -> Attempted {
        // A 403 to a pooled account never reaches the client as such (P7): it would sign its user out.
        let kept = kept.filter(|_| meaning.status != 403);
        hold.complete(meaning.outcome.clone());
        let (from, kind) = (Arc::clone(&self.granted.name), self.granted.kind);
        Attempted::Failed { out, failed: Failed { from, kind, was_sent: true, meaning, kept } }
    }

    /// An answer below 400: to the client, unless its first event turns out to be an error.
    fn deliver(
        &self,
        hold: Hold,
        mut answer: Answer,
        quota: QuotaReport,
        out: Uncommitted,
    ) -> Attempted {
        self.job.tracked.stage(Stage::Waiting);
        let form = Form::of(answer.headers.text("content-type"), answer.headers.text("content-encoding"));
        let mut scanner = Scanner::new(form);
        let mut ahead = Vec::new();
        let looked = self.look_ahead(&mut answer, &mut scanner, form, &mut ahead);
        let ended = match looked {
            Ok(ended) => ended,
            Err(Failure::Stopped(stop)) => {
                hold.complete(Outcome::Abandoned);
                return Attempted::Ended(self.stopped(stop));
            }
            Err(network @ Failure::Network(_)) => return self.no_answer(hold, network, out),
        };
        if ended && form == Form::Events && answer.status == 200 && scanner.first().is_none() {
            let text = "the upstream ended its stream before the first event".to_owned();
            let failure = Failure::Network(NetworkFailure { code: NetworkCode::Reset, text });
            return self.no_answer(hold, failure, out);
        }
        if let Some(error) = scanner.first().and_then(|first| first.error.as_ref()) {
            let whole = ended || self.read_rest(&mut answer, &mut ahead);
            let Answer { status, headers, .. } = answer;
            let meaning = self.judge(classify::status_of(&error.kind), &headers, &classify::body_of(error), &quota);
            let kept = whole.then_some(Kept { status, headers, body: ahead, form });
            return match meaning.next {
                Next::PassOn => Attempted::Ended(self.passed_on(hold, kept, meaning, out)),
                // A stream that begins with a 401 is too rare for a second call: the next account takes over.
                Next::AnotherAccount | Next::RefreshAndRetry => self.failed(hold, kept, meaning, out),
            };
        }
        if out.is_held() && form != Form::Events {
            let whole = ended || self.read_rest(&mut answer, &mut ahead);
            hold.complete(if whole { Outcome::Success } else { Outcome::Neutral });
            return Attempted::Ended(super::exchange::answer(out, &reply::not_a_stream(answer.status)));
        }
        let headers = headers::downstream(&answer.headers, BodyForm::Reframed);
        let (status, body) = (answer.status, answer.body);
        self.job.tracked.stage(Stage::Streaming);
        let opened = out.open(status, &headers, body).and_then(|mut committed| {
            committed.push(&ahead)?;
            Ok(committed)
        });
        drop(ahead);
        match opened {
            Ok(committed) => Attempted::Ended(self.stream(hold, answer, scanner, committed, ended)),
            Err(_) => {
                hold.complete(Outcome::Abandoned);
                Attempted::Ended(self.client_gone(Stage::Streaming))
            }
        }
    }

    /// Reads up to the commit point (SPEC P6). True if the body has ended already.
    fn look_ahead(
        &self,
        answer: &mut Answer,
        scanner: &mut Scanner,
        form: Form,
        ahead: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let patience = &self.job.patience;
        let is_stream = form == Form::Events;
        patience.look_ahead(is_stream.then_some(LOOK_AHEAD_TIME));
        let result = loop {
            let read = answer.read(patience, |bytes| {
                scanner.feed(bytes);
                ahead.extend_from_slice(bytes);
                bytes.len()
            });
            match read {
                Ok(0) => break Ok(true),
                Ok(_) if !is_stream || scanner.first().is_some() || ahead.len() >= LOOK_AHEAD_BYTES => break Ok(false),
                Ok(_) => {}
                Err(Failure::Stopped(Stop::LookAheadOver)) => break Ok(false),
                Err(failure) => break Err(failure),
            }
        };
        patience.look_ahead(None);
        result
    }

    /// Reads what is left of an error. False if it is too long or torn.
    fn read_rest(&self, answer: &mut Answer, into: &mut Vec<u8>) -> bool {
        while into.len() <= ERROR_BYTES_MAX {
            match answer.read(&self.job.patience, |bytes| {
                into.extend_from_slice(bytes);
                bytes.len()
            }) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// Passes the rest of the body on, and settles.
    fn stream(
        &self,
        hold: Hold,
        mut answer: Answer,
        mut scanner: Scanner,
        mut committed: Committed,
        mut ended: bool,
    ) -> Ended {
        let status = Some(answer.status);
        let failure = loop {
            if ended {
                break None;
            }
            let read = answer.read(&self.job.patience, |bytes| {
                scanner.feed(bytes);
                (bytes.is_empty(), committed.push(bytes))
            });
            match read {
                Ok((_, Err(_))) => break Some(Failure::Stopped(Stop::ClientGone)),
                Ok((true, Ok(()))) => ended = true,
                Ok((false, Ok(()))) => {}
                Err(failure) => break Some(failure),
            }
        };
        scanner.finish();
        let torn = failure.is_none() && answer.to_the_end && is_unfinished_message(&scanner);
        self.job.record.borrow_mut().first_byte = committed.line().first_byte();
        self.settle_facts(&scanner);
        match failure {
            None if torn => {
                hold.complete(Outcome::Neutral);
                self.break_off(&scanner, committed, "the upstream closed the connection in the middle of its answer", status)
            }
            None => {
                hold.complete(if scanner.facts().error.is_some() { Outcome::Neutral } else { Outcome::Success });
                self.finish(&scanner, committed, status)
            }
            Some(Failure::Stopped(_)) => {
                hold.complete(Outcome::Abandoned);
                drop(committed);
                let stage = Stage::Streaming;
                Ended { status, ..Ended::client_gone(stage, status) }
            }
            Some(Failure::Network(network)) => {
                hold.complete(Outcome::Neutral);
                self.break_off(&scanner, committed, &network.text, status)
            }
        }
    }

    fn finish(&self, scanner: &Scanner, committed: Committed, status: Option<u16>) -> Ended {
        if committed.finish().is_err() {
            return Ended::client_gone(Stage::Streaming, status);
        }
        match &scanner.facts().error {
            Some(error) => {
                let cause = Some(format!("{}: {}", error.kind, error.message));
                Ended { status, outcome: EndedAs::PassedOn, cause }
            }
            None => Ended { status, outcome: EndedAs::Ok, cause: None },
        }
    }

    /// Ends an answer that broke after its first byte: one error event where the form allows it (SPEC P6).
    fn break_off(&self, scanner: &Scanner, committed: Committed, why: &str, status: Option<u16>) -> Ended {
        let event = (scanner.form() == Form::Events).then(|| {
            let mut event = scanner.mend().to_vec();
            event.extend_from_slice(&reply::broken_stream(&self.granted.name, why).event());
            event
        });
        committed.broken(event.as_deref());
        let cause = Some(format!("the answer broke: {why}"));
        Ended { status, outcome: EndedAs::Broken, cause }
    }

    /// What the answer told: tokens, thinking, thread, batch.
    fn settle_facts(&self, scanner: &Scanner) {
        let facts = scanner.facts();
        let account: AccountId = self.granted.account;
        let usage = (facts.usage_seen && self.counts_tokens()).then(|| usage_of(facts.usage));
        self.job.record.borrow_mut().tokens = usage;
        let thinking = self.request.session.filter(|_| facts.signed_thinking && self.granted.kind.is_claude());
        let thread = self.job.thread_named(facts.thread.as_deref());
        if usage.is_some() || thinking.is_some() || thread.is_some() {
            self.job.context.gate.with(|scheduler, now| {
                if let Some(usage) = usage {
                    scheduler.add_usage(now, account, usage);
                }
                if let Some(session) = thinking {
                    scheduler.note_thinking(now, session);
                }
                if let Some(thread) = thread {
                    scheduler.note_thread(now, thread, account);
                }
            });
        }
        if let (Route::Batches { id: None }, Some(id)) = (&self.job.route, &facts.id)
            && &*self.job.method == "POST"
        {
            self.job.context.remember_batch(id, account);
        }
    }

    /// A count of tokens is no use of them.
    fn counts_tokens(&self) -> bool {
        !matches!(self.job.route, Route::Pooled(super::paths::Pooled::CountTokens))
    }

    fn stopped(&self, _stop: Stop) -> Ended {
        let received = self.job.patience.wire().received.get() > 0;
        self.client_gone(if received || self.job.patience.wire().sent.get() > 0 { Stage::Waiting } else { Stage::Connecting })
    }

    fn client_gone(&self, stage: Stage) -> Ended {
        Ended::client_gone(stage, self.job.patience.status_seen())
    }
}

/// An event stream that has begun a message and not ended it.
fn is_unfinished_message(scanner: &Scanner) -> bool {
    let begun = scanner.first().is_some_and(|first| first.name == "message_start");
    begun && !scanner.facts().stopped && scanner.facts().error.is_none()
}

/// What is kept beside a block that this answer may cause.
fn evidence(answer: &Answer) -> Evidence {
    let request_id = answer.headers.text("request-id").or_else(|| answer.headers.text("x-request-id"));
    let source = match answer.headers.text("retry-after") {
        Some(value) => format!("retry-after: {value}"),
        None => format!("status {}", answer.status),
    };
    Evidence {
        status: Some(answer.status),
        request_id: request_id.map(Arc::from),
        source: Arc::from(source),
        at: clock::wall(),
        message: Arc::from(""),
    }
}
