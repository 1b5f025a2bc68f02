//! What an upstream's answer means for the account and for the request (P6, P7, P8). Pure.
//!
//! A pooled account's answer is judged at its head, with as much of its body as has come if it is an error. What the request does
//! next is in [`Next`]; the account's part is an [`Outcome`] for the scheduler.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::verdict::{self, Proof, Refused, Row, Verdict, Whom};
use crate::account::limits::body::wait_of_refusal;
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
/// The first event is looked for in at most so many bytes, and an error's body is judged by them …
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
    /// Of an error as much of its body as is there, see [`body_of`] for an event; of anything else nothing.
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
    /// What the lease is completed with. A success is one only if the body ends well; at [`Next::RefreshAndRetry`] it holds only
    /// if there is no other token to try.
    pub(crate) outcome: Outcome,
    /// What the request does.
    pub(crate) next: Next,
    /// Whom it concerns.
    pub(crate) verdict: Verdict,
    /// The status that was judged.
    pub(crate) status: u16,
    /// The upstream's error type; empty if it named none.
    pub(crate) kind: String,
    /// The upstream's words, bounded and without credentials; the status in words if it used none, empty for what is no error.
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
                // A route that an account may not use says nothing about its token.
                let next = match (self.seen.kind, self.seen.class) {
                    (Kind::Oauth, RouteClass::Messages) => Next::RefreshAndRetry,
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
            quota.retry_after = wait_of_refusal(&quota, self.seen.body, self.seen.now.wall);
        }
        Outcome::QuotaRejected { quota, evidence: self.evidence() }
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

/// The error of an answer. A body that is no JSON is its own message if it is text; a page says nothing that could be relied on.
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
mod tests {
    use bytes::Bytes;

    use std::time::Duration;

    use super::*;
    use crate::scheduler::quota::{Verdict as Said, WindowKind, WindowReading};
    use crate::testing::chance::{Random, rounds};

    use Next::{AnotherAccount, PassOn, RefreshAndRetry};

    struct Case {
        status: u16,
        kind: Kind,
        body: String,
        headers: Headers,
        quota: QuotaReport,
    }

    fn case(status: u16, kind: Kind, body: &str) -> Case {
        let (headers, quota) = (Headers::default(), QuotaReport::default());
        Case { status, kind, body: body.into(), headers, quota }
    }

    fn said(status: u16, kind: Kind, error: &str, message: &str) -> Case {
        let body =
            serde_json::json!({"type": "error", "error": {"type": error, "message": message}});
        case(status, kind, &body.to_string())
    }

    fn run(case: &Case) -> Meaning {
        classify(&Seen {
            status: case.status,
            headers: &case.headers,
            body: case.body.as_bytes(),
            kind: case.kind,
            class: RouteClass::Messages,
            quota: &case.quota,
            now: Now { wall: Wall(7), ..Now::default() },
        })
    }

    fn name(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Success => "success",
            Outcome::Neutral => "neutral",
            Outcome::Broken { .. } => "broken",
            Outcome::OwnRequest { .. } => "own",
            Outcome::Unproven { .. } => "unproven",
            Outcome::ModelMissing { .. } => "model",
            Outcome::Unusable { .. } => "unusable",
            Outcome::Abandoned => "abandoned",
            Outcome::QuotaRejected { .. } => "quota",
            Outcome::ServerSide { overload: Overload::Refused429, .. } => "server-side 429",
            Outcome::ServerSide { overload: Overload::Overloaded529, .. } => "529",
            Outcome::ServerError { .. } => "5xx",
            Outcome::Network { .. } => "network",
            Outcome::CredentialRefused { .. } => "refused",
            Outcome::NeedsLogin { .. } => "needs login",
            Outcome::Forbidden { .. } => "forbidden",
        }
    }

    #[test]
    fn statuses() {
        use Kind::{ApiKey, Oauth, Provider};
        #[rustfmt::skip] // one row a line
        let rows = [
            ("2xx", 200, Oauth, "success", PassOn),
            ("2xx", 204, Provider, "success", PassOn),
            ("3xx", 307, Oauth, "success", PassOn),
            ("any other 4xx", 400, Oauth, "neutral", PassOn),
            ("any other 4xx", 408, Oauth, "neutral", PassOn),
            ("any other 4xx", 413, ApiKey, "neutral", PassOn),
            ("V4", 404, Provider, "neutral", PassOn),
            ("401 on OAuth", 401, Oauth, "refused", RefreshAndRetry),
            ("401 on an API key", 401, ApiKey, "refused", AnotherAccount),
            ("401 on a provider", 401, Provider, "refused", AnotherAccount),
            ("429 without evidence", 429, Oauth, "unproven", AnotherAccount),
            ("V3 a provider's 429", 429, Provider, "quota", AnotherAccount),
            ("500", 500, Oauth, "unproven", AnotherAccount),
            ("402", 402, Oauth, "unusable", AnotherAccount),
            ("501 is no failure of the account's", 501, Oauth, "neutral", PassOn),
            ("502", 502, ApiKey, "5xx", AnotherAccount),
            ("503", 503, Provider, "5xx", AnotherAccount),
            ("504", 504, Oauth, "5xx", AnotherAccount),
            ("a gateway's", 522, Oauth, "5xx", AnotherAccount),
            ("529", 529, Oauth, "529", AnotherAccount),
        ];
        for (rule, status, kind, outcome, next) in rows {
            let got = run(&case(status, kind, ""));
            assert_eq!(
                (name(&got.outcome), got.next, got.status),
                (outcome, next, status),
                "P7 {rule} {status}"
            );
        }
    }

    #[test]
    fn which_429() {
        use Kind::{Oauth, Provider};
        let limit = "rate_limit_error";
        #[rustfmt::skip] // one row a line
        let rows = [
            ("names the account", limit, "This request would exceed your account's rate limit. Please try again later.", "quota"),
            ("names the organization", limit, "This request would exceed your organization's rate limit of 40,000 input tokens per minute", "quota"),
            ("names the plan", limit, "You have exhausted your Plan", "quota"),
            ("names the session", limit, "Session limit reached ∙ resets 3pm", "quota"),
            ("names the week", limit, "weekly limits apply", "quota"),
            ("names the quota", limit, "quota exceeded", "quota"),
            ("usage limit reached", limit, "Claude AI usage limit reached|1750000000", "quota"),
            ("server-side wins", limit, "Server is temporarily limiting requests (not your usage limit) · account limit", "server-side 429"),
            ("temporarily", limit, "We are Temporarily Limiting requests of all accounts", "server-side 429"),
            ("overloaded", "overloaded_error", "Your account has reached its limit", "server-side 429"),
            ("no owner", limit, "Too many requests: limit reached", "unproven"),
            ("no end", limit, "Your account sends too much", "unproven"),
            ("a plane is no plan", limit, "the plane and the explanation reached", "unproven"),
            ("a number of tokens", limit, "Number of request tokens has exceeded your per-minute rate limit", "unproven"),
            ("nothing", "", "", "unproven"),
        ];
        for (rule, kind, message, expected) in rows {
            assert_eq!(
                name(&run(&said(429, Oauth, kind, message)).outcome),
                expected,
                "P7 {rule}: {message}"
            );
            assert_eq!(
                name(&run(&said(429, Provider, kind, message)).outcome),
                "quota",
                "V3 {rule}"
            );
        }
        let text = run(&case(429, Oauth, "Your account has reached its limit"));
        assert_eq!(name(&text.outcome), "quota", "P7 plain text");
        let page = run(&case(429, Oauth, "<html>Your account has reached its limit</html>"));
        assert_eq!(name(&page.outcome), "unproven", "P7 a page is no evidence");
    }

    #[test]
    fn limits_in_headers() {
        let window = |utilisation, remaining, verdict| {
            let reading = WindowReading {
                kind: WindowKind::FiveHour,
                utilisation,
                limit: Some(5),
                remaining,
                reset: None,
                verdict,
            };
            QuotaReport { windows: vec![reading], ..QuotaReport::default() }
        };
        let verdict = |verdict| QuotaReport { verdict: Some(verdict), ..QuotaReport::default() };
        #[rustfmt::skip] // one row a line
        let rows = [
            ("rejected", verdict(Said::Rejected), "quota"),
            ("allowed", verdict(Said::Allowed), "unproven"),
            ("a warning", verdict(Said::AllowedWarning), "unproven"),
            ("its window rejected", window(None, None, Some(Said::Rejected)), "quota"),
            ("at its limit", window(Some(1.0), None, None), "quota"),
            ("below", window(Some(0.99), Some(1), None), "unproven"),
            ("nothing left", window(None, Some(0), None), "quota"),
            ("retry-after alone is none", QuotaReport { retry_after: Some(Duration::from_secs(9)), ..QuotaReport::default() }, "unproven"),
        ];
        for (rule, quota, expected) in rows {
            let got = run(&Case { quota: quota.clone(), ..case(429, Kind::Oauth, "") });
            assert_eq!(name(&got.outcome), expected, "P7 {rule}");
            if let Outcome::QuotaRejected { quota: kept, .. } = got.outcome {
                assert_eq!(kept, quota, "P7 the report goes along");
            }
        }
        let both = Case {
            quota: verdict(Said::Rejected),
            ..said(429, Kind::Oauth, "rate_limit_error", "not your usage limit")
        };
        assert_eq!(name(&run(&both).outcome), "quota", "P7 headers go before words");
    }

    #[test]
    fn a_provider_says_when() {
        let glm = r#"{"error":{"code":"1302","message":"high concurrency"}}"#;
        let waits = |kind, retry_after| {
            let quota = QuotaReport { retry_after, ..QuotaReport::default() };
            match run(&Case { quota, ..case(429, kind, glm) }).outcome {
                Outcome::QuotaRejected { quota, .. } => quota.retry_after,
                _ => None,
            }
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(waits(Kind::Provider, None), seconds(60), "V3 in its body");
        assert_eq!(waits(Kind::Provider, seconds(7)), seconds(7), "V3 in its headers first");
    }

    #[test]
    fn the_other_rows() {
        use Kind::{ApiKey, Oauth, Provider};
        let (permission, invalid) = ("permission_error", "invalid_request_error");
        let (missing, limit) = ("not_found_error", "rate_limit_error");
        #[rustfmt::skip] // one row a line
        let rows = [
            (403, ApiKey, permission, "Your API key does not have permission to use the specified resource.", "forbidden", AnotherAccount),
            (403, Oauth, "forbidden", "Request not allowed", "forbidden", AnotherAccount),
            (403, Provider, "access_terminated_error", "only for coding agents", "forbidden", AnotherAccount),
            (403, Oauth, permission, "OAuth token has been revoked.", "refused", RefreshAndRetry),
            (403, Oauth, permission, "The access token has expired", "refused", RefreshAndRetry),
            (403, ApiKey, permission, "This key was revoked", "refused", AnotherAccount),
            (403, Oauth, "billing_error", "Payment required", "unusable", AnotherAccount),
            (403, Oauth, permission, "Your account has been suspended", "unusable", AnotherAccount),
            (400, Oauth, invalid, "This organization has been disabled.", "unusable", AnotherAccount),
            (400, ApiKey, invalid, "Your credit balance is too low to access the Anthropic API.", "unusable", AnotherAccount),
            (400, ApiKey, invalid, "Your organization's billing is not set up", "unusable", AnotherAccount),
            (400, Oauth, invalid, "the account was disabled yesterday", "neutral", PassOn),
            (400, Oauth, invalid, "messages.0: this organization has been disabled", "neutral", PassOn),
            (402, ApiKey, "billing_error", "Pay", "unusable", AnotherAccount),
            (429, Oauth, limit, "Extra usage is required for long context requests", "own", AnotherAccount),
            (429, Oauth, limit, "Fast-mode needs something more", "own", AnotherAccount),
            (429, Oauth, limit, "Usage credits are required for this", "own", AnotherAccount),
            (400, Oauth, invalid, "The long context beta is not yet available for this subscription.", "own", AnotherAccount),
            (400, Oauth, invalid, "model: claude-opus-4-1", "model", AnotherAccount),
            (400, Oauth, invalid, "Invalid model name", "model", AnotherAccount),
            (400, Oauth, invalid, "messages.0.content: \"model: x\" is invalid", "neutral", PassOn),
            (404, Oauth, missing, "model: claude-opus-4-1", "model", AnotherAccount),
            (404, ApiKey, missing, "The requested model does not exist", "model", AnotherAccount),
            (404, Oauth, missing, "File not found: file_abc", "own", AnotherAccount),
            (404, Oauth, "", "", "neutral", PassOn),
            (500, Oauth, "overloaded_error", "Overloaded", "529", AnotherAccount),
        ];
        for (status, kind, error, message, outcome, next) in rows {
            let got = run(&said(status, kind, error, message));
            assert_eq!(
                (name(&got.outcome), got.next),
                (outcome, next),
                "P7 {status} {kind:?} {error}: {message}"
            );
        }
        let page = run(&case(403, Oauth, "<html>Your account has been suspended</html>"));
        assert_eq!(name(&page.outcome), "forbidden", "P7 a firewall's page");
    }

    #[test]
    fn first_events() {
        #[rustfmt::skip] // one row a line
        let rows = [
            ("overloaded_error", 529, "529", AnotherAccount),
            ("rate_limit_error", 429, "unproven", AnotherAccount),
            ("api_error", 500, "unproven", AnotherAccount),
            ("timeout_error", 504, "5xx", AnotherAccount),
            ("authentication_error", 401, "refused", RefreshAndRetry),
            ("permission_error", 403, "forbidden", AnotherAccount),
            ("invalid_request_error", 400, "neutral", PassOn),
            ("not_found_error", 404, "model", AnotherAccount),
            ("request_too_large", 413, "neutral", PassOn),
            ("", 500, "unproven", AnotherAccount),
        ];
        for (kind, status, outcome, next) in rows {
            let error = ApiError { kind: kind.into(), message: "m".into(), code: None };
            assert_eq!(status_of(kind), status, "P6 {kind}");
            let body = String::from_utf8_lossy(&body_of(&error)).into_owned();
            let got = run(&case(status, Kind::Oauth, &body));
            assert_eq!((name(&got.outcome), got.next), (outcome, next), "P6 {kind}");
            assert_eq!((got.kind.as_str(), got.message.as_str()), (kind, "m"), "P6 {kind}");
        }
        for status in [401, 402, 403, 404, 413, 429, 504, 529] {
            assert_eq!(status_of(kind_of(status)), status);
        }
    }

    #[test]
    fn evidence() {
        let mut limited = said(
            429,
            Kind::Oauth,
            "rate_limit_error",
            "quota exceeded for sk-ant-api03-secret, \"mp-key\"",
        );
        limited.headers.take("Request-Id", Bytes::from_static(b"req_1")).expect("a header line");
        limited.headers.take("retry-after", Bytes::from_static(b"12")).expect("a header line");
        limited
            .headers
            .take("Anthropic-RateLimit-Unified-Status", Bytes::from_static(b"rejected"))
            .expect("a header line");
        let Outcome::QuotaRejected { evidence, .. } = run(&limited).outcome else {
            unreachable!("P7 quota");
        };
        assert_eq!(evidence.status, Some(429));
        assert_eq!(evidence.request_id.as_deref(), Some("req_1"));
        assert_eq!(&*evidence.source, "anthropic-ratelimit-unified-status: rejected");
        assert_eq!(&*evidence.message, "quota exceeded for sk-… \"mp-…", "D4");
        assert_eq!(evidence.at, Wall(7));
        let head = evidence_of(429, &limited.headers, "", Wall(7));
        assert_eq!(
            (head.source, head.request_id),
            (evidence.source, evidence.request_id),
            "the head alone names the same header"
        );
        let Outcome::ServerError { evidence, .. } =
            run(&case(503, Kind::Oauth, "upstream connect error")).outcome
        else {
            unreachable!("P7 5xx");
        };
        assert_eq!((&*evidence.source, &*evidence.message), ("body", "upstream connect error"));
        let Outcome::ServerError { evidence, .. } = run(&case(503, Kind::Oauth, "<html>")).outcome
        else {
            unreachable!("P7 5xx");
        };
        assert_eq!((&*evidence.source, &*evidence.message), ("status 503", "status 503"));
    }

    #[test]
    fn fingerprints() {
        let of = |message: &str| match run(&said(529, Kind::Oauth, "overloaded_error", message))
            .outcome
        {
            Outcome::ServerSide { fingerprint, .. } => Some(fingerprint),
            _ => None,
        };
        assert!(of("Overloaded").is_some(), "P8");
        assert_eq!(
            of("busy, request req_011 refused"),
            of("busy, request req_022 refused"),
            "P8 without what holds a digit"
        );
        assert_ne!(of("Overloaded"), of("Busy"), "P8");
    }

    #[test]
    fn texts_are_bounded() {
        let text = bounded(&"wörd ".repeat(1_000));
        assert!(text.chars().count() <= policy::MESSAGE_CHARS_MAX && text.ends_with('…'), "{text}");
        assert_eq!(bounded(&"x".repeat(5_000)).chars().count(), policy::MESSAGE_CHARS_MAX);
        assert_eq!(bounded(" a\n\tb task-force"), "a b task-force");
    }

    #[test]
    fn garbage_does_no_harm() {
        let mut random = Random::new(41);
        for _ in rounds(20_000) {
            let body = if random.chance(50) { random.broken_json() } else { random.bytes(300) };
            let status = *random.pick(&[200, 401, 403, 429, 500, 529]);
            let mut headers = Headers::default();
            let _ = headers.take("retry-after", random.bytes(20).into());
            let _ = headers.take("request-id", random.bytes(200).into());
            let quota = QuotaReport::default();
            let kind = *random.pick(&[Kind::Oauth, Kind::ApiKey, Kind::Provider]);
            let seen = Seen {
                status,
                headers: &headers,
                body: &body,
                kind,
                class: RouteClass::Messages,
                quota: &quota,
                now: Now::default(),
            };
            assert!(classify(&seen).message.chars().count() <= policy::MESSAGE_CHARS_MAX);
        }
    }
}
