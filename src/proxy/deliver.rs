//! An answer's way from the upstream to the client: the look-ahead to the commit point, the stream, and what it told.

use std::time::Duration;

use super::classify::{self, ERROR_BYTES_MAX, LOOK_AHEAD_BYTES, LOOK_AHEAD_TIME, Next};
use super::course::{Attempted, Course};
use super::ended::{self, Ended};
use super::failed::Kept;
use super::forward::{Answer, Failure, NetworkCode, NetworkFailure};
use super::reply;
use super::request::usage_of;
use super::stream::{Committed, Uncommitted};
use crate::clock;
use crate::event::{Outcome as EndedAs, Stage};
use crate::gate::LeaseGuard;
use crate::http::headers::{self, BodyForm};
use crate::http::sse::{Form, Scanner};
use crate::net::wait::Stop;
use crate::scheduler::quota::QuotaReport;
use crate::scheduler::{AccountId, Outcome};
use crate::server::paths::{Pooled, Route};
use crate::zone;

/// What follows an error event is waited for so long.
const REST_TIME: Duration = Duration::from_secs(1);

impl Course<'_> {
    /// An answer below 400: to the client, unless its first event turns out to be an error.
    pub(super) fn deliver(
        &self,
        hold: LeaseGuard,
        mut answer: Answer,
        quota: QuotaReport,
        out: Uncommitted,
    ) -> Attempted {
        self.request.tracked.stage(Stage::Waiting);
        let form =
            Form::of(answer.headers.text("content-type"), answer.headers.text("content-encoding"));
        let mut scanner = Scanner::new(form);
        let mut ahead = Vec::new();
        let looked = self.look_ahead(&mut answer, &mut scanner, form, &mut ahead);
        if scanner.first().is_some_and(|first| first.error.is_some()) {
            self.hide_in(&mut ahead);
        }
        self.request.trace.borrow_mut().body(&ahead);
        let ended = match looked {
            Ok(ended) => ended,
            Err(Failure::Stopped(_)) => {
                hold.complete(Outcome::Abandoned);
                return Attempted::Ended(self.stopped());
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
            self.hide_in(&mut ahead);
            let mut said = classify::body_of(error);
            self.hide_in(&mut said);
            let Answer { status, headers, .. } = answer;
            let meaning = self.judge(classify::status_of(&error.kind), &headers, &said, &quota);
            let kept = whole.then_some(Kept { status, headers, body: ahead, form });
            return match meaning.next {
                Next::PassOn => Attempted::Ended(self.passed_on(hold, kept, meaning, out)),
                // A stream that begins with a 401 is too rare for a second call: the next account takes over.
                Next::AnotherAccount | Next::RefreshAndRetry => {
                    self.failed(hold, kept, meaning, out)
                }
            };
        }
        if out.is_held() && form != Form::Events {
            let whole = ended || self.read_rest(&mut answer, &mut ahead);
            hold.complete(if whole { Outcome::Success } else { Outcome::Neutral });
            return Attempted::Ended(ended::answer(out, &reply::not_a_stream(answer.status)));
        }
        headers::downstream(&mut answer.headers, BodyForm::Reframed);
        let (status, body) = (answer.status, answer.body);
        self.request.tracked.stage(Stage::Streaming);
        // No other account can be needed any more.
        self.request.record.borrow_mut().brought.clear();
        let opened = out.open(status, &answer.headers, body).and_then(|mut committed| {
            if form == Form::Events {
                committed.guard_errors();
            }
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
        let client_wait = &self.request.client_wait;
        let is_stream = form == Form::Events;
        client_wait.look_ahead(is_stream.then_some(LOOK_AHEAD_TIME));
        let result = loop {
            let read = answer.read(client_wait, |bytes| {
                scanner.feed(bytes);
                ahead.extend_from_slice(bytes);
                bytes.len()
            });
            match read {
                Ok(0) => break Ok(true),
                Ok(_)
                    if !is_stream
                        || scanner.first().is_some()
                        || ahead.len() >= LOOK_AHEAD_BYTES =>
                {
                    break Ok(false);
                }
                Ok(_) => {}
                Err(Failure::Stopped(Stop::LookAheadOver)) => break Ok(false),
                Err(failure) => break Err(failure),
            }
        };
        client_wait.look_ahead(None);
        result
    }

    /// Reads what is left of an error. False if it is too long or torn.
    fn read_rest(&self, answer: &mut Answer, into: &mut Vec<u8>) -> bool {
        let client_wait = &self.request.client_wait;
        // The next account is not kept waiting by an upstream that leaves its stream open behind the error.
        client_wait.look_ahead(Some(REST_TIME));
        let whole = self.read_to_end(answer, into);
        client_wait.look_ahead(None);
        whole
    }

    fn read_to_end(&self, answer: &mut Answer, into: &mut Vec<u8>) -> bool {
        while into.len() <= ERROR_BYTES_MAX {
            match answer.read(&self.request.client_wait, |bytes| {
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
        hold: LeaseGuard,
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
            let read = answer.read(&self.request.client_wait, |bytes| {
                scanner.feed(bytes);
                self.request.trace.borrow_mut().body(bytes);
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
        // What the last event has told holds, however the connection ends after it.
        let failure = failure.filter(|failure| match failure {
            Failure::Network(_) => !has_told_its_end(&scanner),
            Failure::Stopped(_) => true,
        });
        let torn = failure.is_none() && answer.to_the_end && is_unfinished_message(&scanner);
        self.request.record.borrow_mut().first_byte = committed.line().first_byte();
        self.settle_facts(&scanner);
        match failure {
            None if torn => {
                hold.complete(Outcome::Neutral);
                self.break_off(
                    &scanner,
                    committed,
                    "the upstream closed the connection in the middle of its answer",
                    status,
                )
            }
            None => {
                hold.complete(if scanner.facts().error.is_some() {
                    Outcome::Neutral
                } else {
                    Outcome::Success
                });
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
                let mut cause = format!("{}: {}", error.kind, error.message).into_bytes();
                self.hide_in(&mut cause);
                let cause = Some(String::from_utf8_lossy(&cause).into_owned());
                Ended { status, outcome: EndedAs::PassedOn, cause }
            }
            None => Ended { status, outcome: EndedAs::Ok, cause: None },
        }
    }

    /// Ends an answer that broke after its first byte: one error event where the form allows it (SPEC P6).
    fn break_off(
        &self,
        scanner: &Scanner,
        committed: Committed,
        why: &str,
        status: Option<u16>,
    ) -> Ended {
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
        self.request.record.borrow_mut().tokens = usage;
        if let Some(usage) = usage {
            let family = self.demand.family.as_ref().map(|family| &*family.0);
            let today = zone::local_day(clock::wall());
            self.request.context.daily_use.note(account, today, family, usage);
        }
        let thinking =
            self.demand.session.filter(|_| facts.signed_thinking && self.granted.kind.is_claude());
        let thread = self.request.thread_named(facts.thread.as_deref());
        if usage.is_some() || thinking.is_some() || thread.is_some() {
            self.request.context.gate.with(|scheduler, now| {
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
        if let (Route::Batches { id: None }, Some(id)) = (&self.request.route, &facts.id)
            && &*self.request.method == "POST"
        {
            self.request.context.remember_batch(id, account);
        }
    }

    /// A count of tokens is no use of them.
    fn counts_tokens(&self) -> bool {
        !matches!(self.request.route, Route::Pooled(Pooled::CountTokens))
    }
}

/// An event stream that has begun a message and not ended it.
fn is_unfinished_message(scanner: &Scanner) -> bool {
    let begun = scanner.first().is_some_and(|first| first.name == "message_start");
    begun && !has_told_its_end(scanner)
}

/// An event stream whose last event has come: `message_stop`, or an error.
fn has_told_its_end(scanner: &Scanner) -> bool {
    let facts = scanner.facts();
    scanner.form() == Form::Events && (facts.stopped || facts.error.is_some())
}
