//! Delivers an answer from the upstream to the client: the look-ahead to the commit point, the
//! stream, and the facts found in it.

use std::sync::Arc;
use std::time::Duration;

use super::classify::{self, ERROR_BYTES_MAX, LOOK_AHEAD_BYTES, LOOK_AHEAD_TIME, Meaning};
use super::course::{Attempted, Course};
use super::ended::{self, Ended};
use super::failed::Kept;
use super::forward::{Answer, Failure};
use super::reply;
use super::request::usage_of;
use super::stream::{Body, Committed, Uncommitted};
use ureq::http::header::{self, HeaderValue};

use crate::clock;
use crate::config::masking::Masked;
use crate::event::{Outcome as EndedAs, Stage};
use crate::gate::LeaseGuard;
use crate::http::headers;
use crate::http::ids::IdScanner;
use crate::http::sse::{self, Form, Scanner};
use crate::net::wait::Stop;
use crate::scheduler::quota::QuotaReport;
use crate::scheduler::{AccountId, Evidence, Outcome, RouteClass};
use crate::server::paths::{Pooled, Route};
use crate::zone;

/// How long to wait for the rest after an error event.
const REST_TIME: Duration = Duration::from_secs(1);

/// The result of delivering an answer below 400.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once by its one caller")]
pub(super) enum Delivery {
    /// The attempt is over.
    Over(Attempted),
    /// It is a refusal disguised as an answer (SPEC P6).
    Refused { hold: LeaseGuard, out: Uncommitted, kept: Option<Kept>, meaning: Meaning },
}

impl Course<'_> {
    /// Delivers an answer below 400 to the client, unless it turns out to be an error or no valid
    /// answer.
    pub(super) fn deliver(
        &self,
        hold: LeaseGuard,
        mut answer: Answer,
        quota: &QuotaReport,
        out: Uncommitted,
    ) -> Delivery {
        let form = Form::of(
            answer.headers.text(header::CONTENT_TYPE),
            answer.headers.text(header::CONTENT_ENCODING),
        );
        let mut scanner = Scanner::new(form);
        let mut ahead = Vec::new();
        let looked = self.look_ahead(&mut answer, &mut scanner, form, &mut ahead);
        if scanner.first().is_some_and(|first| first.error.is_some()) || scanner.is_json_error() {
            ahead = self.hidden(ahead, Masked::bytes).to_vec();
        }
        self.request.trace.borrow_mut().body(&ahead);
        let ended = match looked {
            Ok(ended) => ended,
            Err(Failure::Stopped(_)) => {
                hold.complete(Outcome::Abandoned);
                return Delivery::Over(Attempted::Ended(self.stopped()));
            }
            Err(network @ Failure::Network(_)) => {
                return Delivery::Over(self.no_answer(hold, network, out));
            }
        };
        if let Some(what) = self.not_an_answer(&answer, &scanner, &ahead, ended) {
            let meaning = self.judge_no_answer(&answer, quota, what);
            return Delivery::Refused { hold, out, kept: None, meaning };
        }
        if let Some(error) = scanner.first().and_then(|first| first.error.as_ref()) {
            if !ended {
                // Read to the end, so that the connection can be reused.
                self.read_rest(&mut answer, &mut ahead);
            }
            let body = self.hidden(classify::body_of(error), Masked::bytes);
            let status = classify::status_of(&error.kind);
            let meaning = self.judge(status, &answer.headers, &body, quota);
            let mut headers = answer.headers;
            headers.replace("content-type", HeaderValue::from_static("application/json"));
            let kept = Some(Kept { status, headers, body, form: Form::Json });
            return Delivery::Refused { hold, out, kept, meaning };
        }
        if scanner.is_json_error() {
            let whole = ended || self.read_rest(&mut answer, &mut ahead);
            let body = self.hidden(ahead, if whole { Masked::bytes } else { Masked::torn });
            if whole && !self.is_for_an_answer(&answer) {
                // It is passed on, and its length may have changed.
                answer.body = Body::Length(body.len() as u64);
                let all = (scanner, body.to_vec(), true);
                return Delivery::Over(self.commit(hold, answer, all, out));
            }
            let error = sse::read(Form::Json, &body).error.unwrap_or_default();
            let status = classify::status_of(&error.kind);
            let meaning = self.judge(status, &answer.headers, &body, quota);
            let Answer { headers, .. } = answer;
            let kept = whole.then_some(Kept { status, headers, body, form });
            return Delivery::Refused { hold, out, kept, meaning };
        }
        Delivery::Over(self.commit(hold, answer, (scanner, ahead, ended), out))
    }

    /// The commit point: from here on the answer belongs to the client.
    fn commit(
        &self,
        hold: LeaseGuard,
        mut answer: Answer,
        (scanner, mut ahead, ended): (Scanner, Vec<u8>, bool),
        out: Uncommitted,
    ) -> Attempted {
        self.served();
        if out.is_held() && scanner.form() != Form::Events {
            let whole = ended || self.read_rest(&mut answer, &mut ahead);
            hold.complete(if whole { Outcome::Success } else { Outcome::Neutral });
            return Attempted::Ended(ended::answer(out, &reply::not_a_stream(answer.status)));
        }
        let (status, body) = (answer.status, answer.body);
        self.request.tracked.stage(Stage::Streaming);
        // No other account can be needed from now on.
        self.request.record.borrow_mut().brought.clear();
        let lines = headers::downstream(&answer.headers);
        let opened = out.open(status, lines, body).and_then(|mut committed| {
            if scanner.form() == Form::Events {
                committed.guard_errors();
            }
            committed.push(&ahead)?;
            Ok(committed)
        });
        let mut ids = IdScanner::default();
        if self.demand.class == RouteClass::Messages {
            ids.feed(&ahead);
        }
        drop(ahead);
        match opened {
            Ok(committed) => {
                Attempted::Ended(self.stream(hold, answer, (scanner, ids), committed, ended))
            }
            Err(_) => {
                hold.complete(Outcome::Abandoned);
                Attempted::Ended(self.client_gone(Stage::Streaming))
            }
        }
    }

    /// Whether a 200 to a messages request has to be a message (SPEC P6).
    fn is_for_an_answer(&self, answer: &Answer) -> bool {
        answer.status == 200
            && self.demand.class == RouteClass::Messages
            && &*self.request.method == "POST"
    }

    /// What arrived instead of a valid answer, if so.
    fn not_an_answer(
        &self,
        answer: &Answer,
        scanner: &Scanner,
        ahead: &[u8],
        ended: bool,
    ) -> Option<&'static str> {
        if !self.is_for_an_answer(answer) {
            return None;
        }
        let is_page = answer.headers.text(header::CONTENT_TYPE).is_some_and(|value| {
            value
                .trim_ascii_start()
                .get(..9)
                .is_some_and(|start| start.eq_ignore_ascii_case("text/html"))
        });
        let text = beginning(ahead);
        match scanner.form() {
            _ if ended && text.is_empty() => Some("the upstream's answer was empty"),
            Form::Opaque if is_page => Some("the upstream answered with an HTML page"),
            _ if text.starts_with(b"<") => Some("the upstream answered with an HTML page"),
            Form::Events if ended && scanner.first().is_none() => {
                Some("the upstream ended its stream before the first event")
            }
            Form::Events | Form::Json | Form::Opaque => None,
        }
    }

    /// Reads up to the commit point (SPEC P6). Returns true if the body has ended already.
    fn look_ahead(
        &self,
        answer: &mut Answer,
        scanner: &mut Scanner,
        form: Form,
        ahead: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let client_wait = &self.request.client_wait;
        let is_answer = self.is_for_an_answer(answer);
        let is_looked_at = form == Form::Events || is_answer;
        client_wait.look_ahead(is_looked_at.then_some(LOOK_AHEAD_TIME));
        let result = loop {
            let read = answer.read(client_wait, |bytes| {
                scanner.feed(bytes);
                ahead.extend_from_slice(bytes);
                bytes.len()
            });
            match read {
                Ok(0) => break Ok(true),
                Ok(_) if !is_looked_at || ahead.len() >= LOOK_AHEAD_BYTES => break Ok(false),
                Ok(_) if is_decided(scanner, ahead) => break Ok(false),
                Ok(_) => {}
                Err(Failure::Stopped(Stop::LookAheadOver)) => break Ok(false),
                Err(failure) => break Err(failure),
            }
        };
        client_wait.look_ahead(None);
        result
    }

    /// Reads the rest of an error. Returns false if it is too long or truncated.
    fn read_rest(&self, answer: &mut Answer, into: &mut Vec<u8>) -> bool {
        let client_wait = &self.request.client_wait;
        // An upstream that leaves its stream open after an error must not delay the next account.
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

    /// Passes on the rest of the body, and settles.
    fn stream(
        &self,
        hold: LeaseGuard,
        mut answer: Answer,
        (mut scanner, mut ids): (Scanner, IdScanner),
        mut committed: Committed,
        mut ended: bool,
    ) -> Ended {
        let status = Some(answer.status);
        // Ids in a message were created for it, or belong to its account already.
        let names_ids = self.demand.class == RouteClass::Messages;
        let failure = loop {
            if ended {
                break None;
            }
            let read = answer.read(&self.request.client_wait, |bytes| {
                scanner.feed(bytes);
                if names_ids {
                    ids.feed(bytes);
                }
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
        // What the last event has said counts, however the connection ends after it.
        let failure = failure.filter(|failure| match failure {
            Failure::Network(_) => !has_told_its_end(&scanner),
            Failure::Stopped(_) => true,
        });
        let torn = failure.is_none() && is_unfinished_message(&scanner);
        self.request.record.borrow_mut().first_byte = committed.line().first_byte();
        self.settle_facts(&scanner);
        for id in ids.into_ids() {
            self.request.context.remember_batch(&id, self.granted.account);
        }
        match failure {
            None if torn => {
                let why = "the upstream ended its answer in mid-message";
                hold.complete(broken(why));
                self.break_off(&scanner, committed, why, status)
            }
            None => {
                let error = self.error_event(&scanner);
                hold.complete(match &error {
                    // The API itself has broken off the message.
                    Some(error) if scanner.facts().begun => broken(error),
                    Some(_) => Outcome::Neutral,
                    None => Outcome::Success,
                });
                self.finish(error, committed, status)
            }
            Some(Failure::Stopped(_)) => {
                hold.complete(Outcome::Abandoned);
                drop(committed);
                let stage = Stage::Streaming;
                Ended { status, ..Ended::client_gone(stage, status) }
            }
            Some(Failure::Network(network)) => {
                hold.complete(broken(&network.text));
                self.break_off(&scanner, committed, &network.text, status)
            }
        }
    }

    /// The error event that ended a stream, without secrets.
    fn error_event(&self, scanner: &Scanner) -> Option<String> {
        let error = scanner.facts().error.as_ref()?;
        let text = format!("{}: {}", error.kind, error.message).into_bytes();
        let text = self.hidden(text, Masked::bytes);
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    fn finish(&self, error: Option<String>, committed: Committed, status: Option<u16>) -> Ended {
        if committed.finish().is_err() {
            return Ended::client_gone(Stage::Streaming, status);
        }
        let outcome = if error.is_some() { EndedAs::PassedOn } else { EndedAs::Ok };
        Ended { status, outcome, cause: error }
    }

    /// Ends an answer that broke off after its first byte, with one error event if the form allows
    /// it (SPEC P6).
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
        let cause = Some(format!("the answer broke off: {why}"));
        Ended { status, outcome: EndedAs::Broken, cause }
    }

    /// Stores the facts found in the answer: tokens, thinking, thread, batch.
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
        // A new batch or file.
        if let (Route::Batches { id: None } | Route::Other, Some(id)) =
            (&self.request.route, &facts.id)
            && &*self.request.method == "POST"
        {
            self.request.context.remember_batch(id, account);
        }
    }

    /// Whether the answer only counts tokens, which uses none.
    fn counts_tokens(&self) -> bool {
        !matches!(self.request.route, Route::Pooled(Pooled::CountTokens))
    }
}

/// Whether enough has arrived to know what kind of answer it is.
fn is_decided(scanner: &Scanner, ahead: &[u8]) -> bool {
    match scanner.form() {
        Form::Events => scanner.first().is_some() || beginning(ahead).starts_with(b"<"),
        Form::Json => {
            scanner.json_kind().is_some_and(|kind| kind != "error")
                || beginning(ahead).starts_with(b"<")
        }
        Form::Opaque => !beginning(ahead).is_empty(),
    }
}

/// The body without leading whitespace and a byte order mark.
fn beginning(body: &[u8]) -> &[u8] {
    let body = body.trim_ascii_start();
    body.strip_prefix(b"\xef\xbb\xbf").map_or(body, <[u8]>::trim_ascii_start)
}

/// The outcome of an answer that broke after its first byte.
fn broken(why: &str) -> Outcome {
    let evidence = Evidence {
        source: Arc::from("the answer's end"),
        at: clock::wall(),
        message: Arc::from(why),
        ..Evidence::default()
    };
    Outcome::Broken { evidence }
}

/// Whether an event stream has started a message but not ended it.
fn is_unfinished_message(scanner: &Scanner) -> bool {
    scanner.facts().begun && !has_told_its_end(scanner)
}

/// Whether the last event of an event stream has arrived: `message_stop`, or an error.
fn has_told_its_end(scanner: &Scanner) -> bool {
    let facts = scanner.facts();
    scanner.form() == Form::Events && (facts.stopped || facts.error.is_some())
}
