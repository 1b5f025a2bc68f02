//! What an upstream's answer means for the account and for the request (P6, P7, P8). Pure.
//!
//! An answer is judged once, from its head and as much of its body as an error has. `verdict` finds
//! the row of P7 that applies; this file turns the row into two results: what the request does next
//! ([`Next`]) and what the scheduler is told about the account ([`Outcome`]). They are separate on
//! purpose. A refusal may move the request on and blame no account, or be passed on and take the
//! account out; a single verdict for both would have to choose.
//!
//! Invariants:
//!
//! - No state is involved: the same answer to the same question always means the same. What
//!   depends on other requests (whether an unrelated one was refused alike) is decided by the
//!   scheduler's `suspicion`.
//! - The client's words are not evidence. An error may repeat the request, so the words of a 400 or
//!   403 count only at the beginning of the message, or with a type that is used for nothing else.
//! - No time is invented: an end comes from the answer or is left to the scheduler's policy.
//!
//! Messages are bounded and contain no credentials, because they end up in the log and the status.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::verdict::{self, Proof, Refused, Row, Verdict, Whom};
use crate::account::limits::body::{wait_of_body, wait_of_headers};
use crate::account::limits::headers::their_wall;
use crate::http::answer_json::ApiError;
use crate::http::headers::Headers;
use crate::http::sse::{self, Form};
use crate::scheduler::quota::QuotaReport;
use crate::scheduler::time::{Now, Wall};
use crate::scheduler::{
    Evidence, Fingerprint, Kind, Outcome, Overload, RouteClass, Unproven, policy,
};

/// An error answer is kept, to be passed on when no account can do better. A longer one is replaced
/// by our own words.
pub(crate) const ERROR_BYTES_MAX: usize = 1024 * 1024;
/// The first event is looked for in at most this many bytes, and an error is judged by them …
pub(crate) const LOOK_AHEAD_BYTES: usize = 64 * 1024;
/// … and for at most so long (SPEC P6).
pub(crate) const LOOK_AHEAD_TIME: Duration = Duration::from_secs(5);

/// An answer that is to be judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// HTTP status; of a 200 whose first event is an error that error's, see [`status_of`].
    pub(crate) status: u16,
    /// All its headers.
    pub(crate) headers: &'a Headers,
    /// Of an error as much of its body as is there, see [`body_of`] for an event; of anything else
    /// nothing.
    pub(crate) body: &'a [u8],
    /// The account's kind.
    pub(crate) kind: Kind,
    /// What was asked for (P3).
    pub(crate) class: RouteClass,
    /// What the headers said of quota.
    pub(crate) quota: &'a QuotaReport,
    /// When it came.
    pub(crate) now: Now,
}

/// A judged answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meaning {
    /// What the lease is completed with. A success is one only if the body ends well; at
    /// [`Next::RefreshAndRetry`] it holds only if there is no other token to try.
    pub(crate) outcome: Outcome,
    /// What the request does.
    pub(crate) next: Next,
    /// Whom it concerns.
    pub(crate) verdict: Verdict,
    /// The status that was judged.
    pub(crate) status: u16,
    /// The upstream's error type; empty if it named none.
    pub(crate) kind: String,
    /// The upstream's words, bounded and without credentials; the status in words if it used none,
    /// empty for what is no error.
    pub(crate) message: String,
}

/// What becomes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The client gets the answer byte for byte.
    PassOn,
    /// Another account; the client must not see this answer while one may serve.
    AnotherAccount,
    /// Refresh the token, then once more on this account.
    RefreshAndRetry,
}

/// Judges an answer of a pooled account.
pub(crate) fn classify(seen: &Seen<'_>) -> Meaning {
    let status = seen.status;
    let error = if status < 400 { ApiError::default() } else { error_of(seen.body) };
    let upstream = Upstream { seen, error: &error };
    if status < 400 {
        let verdict = Verdict { whom: Whom::Nobody, proof: Proof::Status };
        let (outcome, next) = (Outcome::Success, Next::PassOn);
        return Meaning {
            outcome,
            next,
            verdict,
            status,
            message: String::new(),
            kind: error.kind,
        };
    }
    let row = verdict::row(&Refused {
        status,
        error: &error,
        quota: seen.quota,
        kind: seen.kind,
        class: seen.class,
    });
    let (outcome, next, verdict) = upstream.judged(row);
    let message = upstream.message();
    Meaning { outcome, next, verdict, status, message, kind: error.kind }
}

/// A 200 that is no answer to what was asked (P6): its body is empty or a page.
pub(crate) fn no_answer(seen: &Seen<'_>, what: &str) -> Meaning {
    let error = ApiError { message: what.to_owned(), ..ApiError::default() };
    let upstream = Upstream { seen, error: &error };
    Meaning {
        outcome: Outcome::Unproven {
            unproven: Unproven::NoAnswer,
            fingerprint: upstream.fingerprint(),
            evidence: upstream.evidence(),
        },
        next: Next::AnotherAccount,
        verdict: Verdict { whom: Whom::Unproven, proof: Proof::Nothing },
        status: 502,
        kind: "api_error".to_owned(),
        message: what.to_owned(),
    }
}

/// The status that an error type stands for (P6). An unknown one is the upstream's own trouble.
pub(crate) fn status_of(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 500,
    }
}

/// The error type that a status stands for, where an answer names none.
pub(crate) fn kind_of(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    }
}

/// An error event as the body of an answer.
pub(crate) fn body_of(error: &ApiError) -> Vec<u8> {
    let mut shown = serde_json::json!({ "type": error.kind, "message": error.message });
    if let Some(code) = &error.code {
        shown["details"] = serde_json::json!({ "error_code": code });
    }
    serde_json::json!({ "type": "error", "error": shown }).to_string().into_bytes()
}

struct Upstream<'a> {
    seen: &'a Seen<'a>,
    error: &'a ApiError,
}

impl Upstream<'_> {
    /// The outcome for the account, what the request does, and whom it concerns.
    fn judged(&self, row: Row) -> (Outcome, Next, Verdict) {
        let evidence = || self.evidence();
        let fingerprint = self.fingerprint();
        let (outcome, next, whom, proof) = match row {
            Row::Quota(proof) => (self.quota(), Next::AnotherAccount, Whom::Quota, proof),
            Row::OwnRequest => {
                let outcome = Outcome::OwnRequest { evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::OwnRequest, Proof::Words)
            }
            Row::ServerSide(proof) => {
                let overload = match self.seen.status {
                    429 => Overload::Refused429,
                    _ => Overload::Overloaded529,
                };
                (self.server_side(overload), Next::AnotherAccount, Whom::Api, proof)
            }
            Row::BareLimit => {
                let unproven = Unproven::Limit(self.seen.quota.retry_after);
                let outcome = Outcome::Unproven { unproven, fingerprint, evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::Unproven, Proof::Nothing)
            }
            Row::BareError => {
                let unproven = Unproven::Error;
                let outcome = Outcome::Unproven { unproven, fingerprint, evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::Unproven, Proof::Nothing)
            }
            Row::Way => {
                let outcome = Outcome::ServerError { fingerprint, evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::Way, Proof::Status)
            }
            Row::Credential(proof) => {
                // A route that an account may not use says nothing about its token, unless it says
                // so in words.
                let next = match (self.seen.kind, self.seen.class, proof) {
                    (Kind::Oauth, RouteClass::Messages, _) | (Kind::Oauth, _, Proof::Words) => {
                        Next::RefreshAndRetry
                    }
                    _ => Next::AnotherAccount,
                };
                let outcome = Outcome::CredentialRefused { evidence: evidence() };
                (outcome, next, Whom::Credential, proof)
            }
            Row::Account(proof) => {
                let outcome = Outcome::Unusable { evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::Account, proof)
            }
            Row::Forbidden => {
                let outcome = Outcome::Forbidden { evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::Nobody, Proof::Nothing)
            }
            Row::Model => {
                let outcome = Outcome::ModelMissing { evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::Model, Proof::Words)
            }
            Row::Elsewhere => {
                let outcome = Outcome::OwnRequest { evidence: evidence() };
                (outcome, Next::AnotherAccount, Whom::Nobody, Proof::Words)
            }
            Row::PassOn => (Outcome::Neutral, Next::PassOn, Whom::Nobody, Proof::Status),
        };
        let whom = match (whom, self.seen.class) {
            (Whom::Quota | Whom::Credential | Whom::Way | Whom::Api, class)
                if class != RouteClass::Messages =>
            {
                Whom::RouteClass
            }
            (whom, _) => whom,
        };
        (outcome, next, Verdict { whom, proof })
    }

    fn fingerprint(&self) -> Fingerprint {
        let Seen { class, status, .. } = *self.seen;
        Fingerprint::of(class, status, &self.error.kind, &self.error.message)
    }

    fn quota(&self) -> Outcome {
        let mut quota = self.seen.quota.clone();
        if self.seen.kind == Kind::Provider {
            // Their headers rarely say when it ends, but their words do (V3).
            quota.retry_after = self.provider_wait();
        }
        Outcome::QuotaRejected { quota, evidence: self.evidence() }
    }

    /// The windows of the headers are on our clock by now, and a date in the body is on theirs.
    fn provider_wait(&self) -> Option<Duration> {
        let Seen { quota, headers, body, now, .. } = *self.seen;
        wait_of_headers(quota, now.wall)
            .or_else(|| wait_of_body(body, their_wall(headers.iter(), now.wall)))
    }

    fn server_side(&self, overload: Overload) -> Outcome {
        Outcome::ServerSide {
            overload,
            retry_after: self.seen.quota.retry_after,
            fingerprint: self.fingerprint(),
            evidence: self.evidence(),
        }
    }

    fn evidence(&self) -> Evidence {
        Evidence {
            message: Arc::from(self.message()),
            ..evidence_of(
                self.seen.status,
                self.seen.headers,
                &self.error.message,
                self.seen.now.wall,
            )
        }
    }

    fn message(&self) -> String {
        match (self.error.message.as_str(), self.error.kind.as_str()) {
            ("", "") => format!("status {}", self.seen.status),
            ("", kind) => kind.to_owned(),
            (message, _) => message.to_owned(),
        }
    }
}

/// What the head of an answer says of a block that it may cause (P7). `words` are those of
/// the body, as far as it is known; it is named where no header says it.
pub(crate) fn evidence_of(status: u16, headers: &Headers, words: &str, at: Wall) -> Evidence {
    let request_id = headers
        .text("request-id")
        .or_else(|| headers.text("x-request-id"))
        .filter(|id| id.len() <= REQUEST_ID_BYTES_MAX);
    let source = match plainest(status, headers) {
        Some((name, value)) => bounded(&format!("{name}: {}", String::from_utf8_lossy(value))),
        None if words.is_empty() => format!("status {status}"),
        None => "body".to_owned(),
    };
    Evidence {
        status: Some(status),
        request_id: request_id.map(Arc::from),
        source: Arc::from(source),
        at,
        message: Arc::from(""),
    }
}

/// The header line that says it most plainly.
fn plainest(status: u16, headers: &Headers) -> Option<(&str, &[u8])> {
    let says_it = |line: &(&str, &[u8])| {
        let (name, value) = (line.0, line.1.trim_ascii());
        (name.ends_with("-status") && name.contains("ratelimit") && value == b"rejected")
            || (name.ends_with("-remaining") && value == b"0")
    };
    let line = headers.iter().find(says_it).filter(|_| status == 429);
    let waits = |line: &(&str, &[u8])| line.0 == "retry-after";
    line.or_else(|| headers.iter().find(waits))
}

/// The error of an answer. A body that is no JSON is its own message if it is text; a page says
/// nothing that could be relied on.
fn error_of(body: &[u8]) -> ApiError {
    let found = sse::read(Form::Json, body).error;
    let error =
        found.unwrap_or_else(|| ApiError { message: plain_text(body), ..ApiError::default() });
    ApiError { kind: bounded(&error.kind), message: bounded(&error.message), code: error.code }
}

fn plain_text(body: &[u8]) -> String {
    let start = &body[..body.len().min(4 * policy::MESSAGE_CHARS_MAX)];
    let text = String::from_utf8_lossy(start).trim().to_owned();
    let is_text =
        !text.starts_with(['<', '{', '[']) && !text.contains(['\0', char::REPLACEMENT_CHARACTER]);
    if is_text { text } else { String::new() }
}

/// A stranger's text for our logs: short, on one line, and without anything that looks like a key.
fn bounded(text: &str) -> String {
    // Enough for any limit, and cheap for a text of any length.
    let words = text.split_whitespace().take(policy::MESSAGE_CHARS_MAX).map(without_key);
    let text = words.collect::<Vec<_>>().join(" ");
    if text.chars().count() <= policy::MESSAGE_CHARS_MAX {
        return text;
    }
    text.chars().take(policy::MESSAGE_CHARS_MAX - 1).chain(['…']).collect()
}

fn without_key(word: &str) -> Cow<'_, str> {
    let begins_key = |at: usize| KEY_STARTS.iter().find(|start| word[at..].starts_with(**start));
    let bounds = word.char_indices().scan(true, |after_other, (at, c)| {
        let is_first = std::mem::replace(after_other, !c.is_alphanumeric());
        Some((at, is_first))
    });
    let mut starts =
        bounds.filter(|(_, is_first)| *is_first).filter_map(|(at, _)| Some((at, begins_key(at)?)));
    match starts.next() {
        Some((at, start)) => Cow::Owned(format!("{}{start}…", &word[..at])),
        None => Cow::Borrowed(word),
    }
}

/// How keys and tokens begin.
const KEY_STARTS: [&str; 3] = ["sk-", "mp-", "eyJ"];
const REQUEST_ID_BYTES_MAX: usize = 128;

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
