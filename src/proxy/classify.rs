//! What an upstream's answer means for the account and for the request (P6, P7, P8). Pure.
//!
//! A pooled account's answer is judged at its head, with as much of its body as has come if it is an error. What the request does
//! next is in [`Next`]; the account's part is an [`Outcome`] for the scheduler.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::account::limits::body::wait_of_refusal;
use crate::http::answer_json::ApiError;
use crate::http::headers::Headers;
use crate::http::sse::{self, Form};
use crate::scheduler::quota::{QuotaReport, Verdict};
use crate::scheduler::time::{Now, Wall};
use crate::scheduler::{Evidence, Fingerprint, Kind, Outcome, Overload, policy};

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
    let (outcome, next) = match status {
        200..=399 => (Outcome::Success, Next::PassOn),
        401 => upstream.unauthorised(),
        403 => upstream.forbidden(),
        429 => upstream.limited(),
        529 => upstream.server_side(Overload::Overloaded529),
        // Besides the four of P7 those with which a gateway in front of the API reports that it cannot reach it.
        500 | 502..=504 | 520..=527 | 530 => {
            (Outcome::ServerError { evidence: upstream.evidence() }, Next::AnotherAccount)
        }
        _ => (Outcome::Neutral, Next::PassOn),
    };
    let message = if status < 400 { String::new() } else { upstream.message() };
    Meaning { outcome, next, status, message, kind: error.kind }
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
    fn unauthorised(&self) -> (Outcome, Next) {
        let evidence = self.evidence();
        match self.seen.kind {
            Kind::Oauth => (Outcome::NeedsLogin { evidence }, Next::RefreshAndRetry),
            Kind::ApiKey | Kind::Provider => {
                (Outcome::CredentialRefused { evidence }, Next::AnotherAccount)
            }
        }
    }

    /// A 403 is about the credential if a provider says it (there it is nearly always an exhausted plan), or if the API says
    /// `permission_error` or names what a credential is or belongs to.
    ///
    /// If what it names is a model, a beta or a feature, the account is fine for everything else: the next one is tried and nobody is
    /// blamed. Anything else, such as the API's "request not allowed" and a firewall's page, would be said to every account: it is the
    /// client's.
    fn forbidden(&self) -> (Outcome, Next) {
        let words = words(&self.error.message);
        let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
        let about_credential = matches!(
            self.error.kind.as_str(),
            "permission_error" | "authentication_error" | "billing_error"
        ) || has(&CREDENTIAL_WORDS);
        if self.seen.kind == Kind::Provider {
            (Outcome::CredentialForbidden { evidence: self.evidence() }, Next::AnotherAccount)
        } else if !about_credential {
            (Outcome::Neutral, Next::PassOn)
        } else if has(&FEATURE_WORDS) {
            (Outcome::Neutral, Next::AnotherAccount)
        } else {
            (Outcome::CredentialForbidden { evidence: self.evidence() }, Next::AnotherAccount)
        }
    }

    /// Which 429 (P7): what says server-side wins, and without evidence it is nobody's limit.
    fn limited(&self) -> (Outcome, Next) {
        let is_quota = self.seen.kind == Kind::Provider
            || (!says_server_side(self.error)
                && (says_quota(&self.error.message) || shows_limit(self.seen.quota)));
        if !is_quota {
            return self.server_side(Overload::Refused429);
        }
        let mut quota = self.seen.quota.clone();
        if self.seen.kind == Kind::Provider {
            // Their headers rarely say when it ends, but their words do (V3).
            quota.retry_after = wait_of_refusal(&quota, self.seen.body, self.seen.now.wall);
        }
        let outcome = Outcome::QuotaRejected { quota, evidence: self.evidence() };
        (outcome, Next::AnotherAccount)
    }

    fn server_side(&self, overload: Overload) -> (Outcome, Next) {
        let outcome = Outcome::ServerSide {
            overload,
            retry_after: self.seen.quota.retry_after,
            fingerprint: Fingerprint::of(&self.error.kind, &self.error.message),
            evidence: self.evidence(),
        };
        (outcome, Next::AnotherAccount)
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
        Some((name, value)) => {
            bounded(&format!("{}: {}", name.to_ascii_lowercase(), String::from_utf8_lossy(value)))
        }
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
        let (name, value) = (line.0.to_ascii_lowercase(), line.1.trim_ascii());
        (name.ends_with("-status") && name.contains("ratelimit") && value == b"rejected")
            || (name.ends_with("-remaining") && value == b"0")
    };
    let line = headers.iter().find(says_it).filter(|_| status == 429);
    let waits = |line: &(&str, &[u8])| line.0.eq_ignore_ascii_case("retry-after");
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

fn says_server_side(error: &ApiError) -> bool {
    let message = error.message.to_lowercase();
    error.kind == "overloaded_error"
        || message.contains("not your usage limit")
        || message.contains("temporarily limiting")
}

fn says_quota(message: &str) -> bool {
    let words = words(message);
    let names_owner = words.iter().any(|word| OWNER_WORDS.contains(&word.as_str()));
    let names_end = words.iter().any(|word| END_WORDS.iter().any(|end| word.starts_with(end)));
    (names_owner && names_end) || message.to_lowercase().contains("usage limit reached")
}

/// Whether the headers show a limit that is used up.
fn shows_limit(quota: &QuotaReport) -> bool {
    let rejected = |verdict| verdict == Some(Verdict::Rejected);
    let at_limit = |used: Option<f64>, left: Option<u64>| {
        used.is_some_and(|used| used >= 1.0) || left == Some(0)
    };
    let mut windows = quota.windows.iter();
    rejected(quota.verdict)
        || windows.any(|window| {
            rejected(window.verdict) || at_limit(window.utilisation, window.remaining)
        })
}

/// Lower-case words, apart from any punctuation.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
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

/// Whose limit it is, if one of these stands together with one of [`END_WORDS`] (P7).
const OWNER_WORDS: [&str; 10] = [
    "account",
    "accounts",
    "organization",
    "organizations",
    "organisation",
    "plan",
    "plans",
    "session",
    "weekly",
    "quota",
];
/// That it is used up; also as the beginning of a longer word, such as `limits`.
const END_WORDS: [&str; 4] = ["limit", "exceeded", "exhausted", "reached"];
/// What a 403 about a credential speaks of.
const CREDENTIAL_WORDS: [&str; 20] = [
    "account",
    "accounts",
    "api_key",
    "authentication",
    "authorization",
    "billing",
    "credential",
    "credentials",
    "disabled",
    "key",
    "login",
    "oauth",
    "organization",
    "permission",
    "plan",
    "scope",
    "subscription",
    "suspended",
    "token",
    "workspace",
];
/// What only a few requests ask for.
const FEATURE_WORDS: [&str; 7] =
    ["beta", "feature", "features", "model", "models", "context", "tool"];
/// How keys and tokens begin.
const KEY_STARTS: [&str; 3] = ["sk-", "mp-", "eyJ"];
const REQUEST_ID_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scheduler::quota::{WindowKind, WindowReading};
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
            quota: &case.quota,
            now: Now { wall: Wall(7), ..Now::default() },
        })
    }

    fn name(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Success => "success",
            Outcome::Neutral => "neutral",
            Outcome::Abandoned => "abandoned",
            Outcome::QuotaRejected { .. } => "quota",
            Outcome::ServerSide { overload: Overload::Refused429, .. } => "server-side 429",
            Outcome::ServerSide { overload: Overload::Overloaded529, .. } => "529",
            Outcome::ServerError { .. } => "5xx",
            Outcome::Network { .. } => "network",
            Outcome::CredentialRefused { .. } => "refused",
            Outcome::NeedsLogin { .. } => "needs login",
            Outcome::CredentialForbidden { .. } => "forbidden",
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
            ("401 on OAuth", 401, Oauth, "needs login", RefreshAndRetry),
            ("401 on an API key", 401, ApiKey, "refused", AnotherAccount),
            ("401 on a provider", 401, Provider, "refused", AnotherAccount),
            ("429 without evidence", 429, Oauth, "server-side 429", AnotherAccount),
            ("V3 a provider's 429", 429, Provider, "quota", AnotherAccount),
            ("500", 500, Oauth, "5xx", AnotherAccount),
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
            ("no owner", limit, "Too many requests: limit reached", "server-side 429"),
            ("no end", limit, "Your account sends too much", "server-side 429"),
            ("a plane is no plan", limit, "the plane and the explanation reached", "server-side 429"),
            ("a number of tokens", limit, "Number of request tokens has exceeded your per-minute rate limit", "server-side 429"),
            ("nothing", "", "", "server-side 429"),
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
        assert_eq!(name(&page.outcome), "server-side 429", "P7 a page is no evidence");
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
            ("rejected", verdict(Verdict::Rejected), "quota"),
            ("allowed", verdict(Verdict::Allowed), "server-side 429"),
            ("a warning", verdict(Verdict::AllowedWarning), "server-side 429"),
            ("its window rejected", window(None, None, Some(Verdict::Rejected)), "quota"),
            ("at its limit", window(Some(1.0), None, None), "quota"),
            ("below", window(Some(0.99), Some(1), None), "server-side 429"),
            ("nothing left", window(None, Some(0), None), "quota"),
            ("retry-after alone is none", QuotaReport { retry_after: Some(Duration::from_secs(9)), ..QuotaReport::default() }, "server-side 429"),
        ];
        for (rule, quota, expected) in rows {
            let got = run(&Case { quota: quota.clone(), ..case(429, Kind::Oauth, "") });
            assert_eq!(name(&got.outcome), expected, "P7 {rule}");
            if let Outcome::QuotaRejected { quota: kept, .. } = got.outcome {
                assert_eq!(kept, quota, "P7 the report goes along");
            }
        }
        let both = Case {
            quota: verdict(Verdict::Rejected),
            ..said(429, Kind::Oauth, "rate_limit_error", "not your usage limit")
        };
        assert_eq!(name(&run(&both).outcome), "server-side 429", "P7 server-side wins");
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
    fn which_403() {
        use Kind::{ApiKey, Oauth, Provider};
        let permission = "permission_error";
        let passed = ("neutral", PassOn);
        let blocked = ("forbidden", AnotherAccount);
        #[rustfmt::skip] // one row a line
        let rows = [
            (ApiKey, permission, "Your API key does not have permission to use the specified resource.", blocked),
            (Oauth, permission, "OAuth authentication is currently not allowed for this organization.", blocked),
            (Oauth, permission, "OAuth token does not meet scope requirement user:inference", blocked),
            (Oauth, "invalid_request_error", "This organization has been disabled.", blocked),
            (Oauth, "authentication_error", "OAuth token has been revoked", blocked),
            (Oauth, permission, "", blocked),
            (Oauth, permission, "Your plan does not include the model claude-opus-5", ("neutral", AnotherAccount)),
            (Oauth, permission, "The beta is not enabled for this account", ("neutral", AnotherAccount)),
            (Oauth, "forbidden", "Request not allowed", passed),
            (Oauth, "", "", passed),
            (Provider, "", "Forbidden", blocked),
            (Provider, "access_terminated_error", "only for coding agents", blocked),
        ];
        for (kind, error, message, expected) in rows {
            let got = run(&said(403, kind, error, message));
            assert_eq!(
                (name(&got.outcome), got.next),
                expected,
                "P7 403 {kind:?} {error} {message}"
            );
        }
        let page = run(&case(403, Oauth, "<html>Attention Required! Your account token</html>"));
        assert_eq!((name(&page.outcome), page.next), passed, "P7 a firewall's page");
    }

    #[test]
    fn first_events() {
        #[rustfmt::skip] // one row a line
        let rows = [
            ("overloaded_error", 529, "529", AnotherAccount),
            ("rate_limit_error", 429, "server-side 429", AnotherAccount),
            ("api_error", 500, "5xx", AnotherAccount),
            ("timeout_error", 504, "5xx", AnotherAccount),
            ("authentication_error", 401, "needs login", RefreshAndRetry),
            ("permission_error", 403, "forbidden", AnotherAccount),
            ("invalid_request_error", 400, "neutral", PassOn),
            ("not_found_error", 404, "neutral", PassOn),
            ("request_too_large", 413, "neutral", PassOn),
            ("", 500, "5xx", AnotherAccount),
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
        limited.headers.push("Request-Id", "req_1");
        limited.headers.push("retry-after", "12");
        limited.headers.push("Anthropic-RateLimit-Unified-Status", "rejected");
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
        let Outcome::ServerError { evidence } =
            run(&case(503, Kind::Oauth, "upstream connect error")).outcome
        else {
            unreachable!("P7 5xx");
        };
        assert_eq!((&*evidence.source, &*evidence.message), ("body", "upstream connect error"));
        let Outcome::ServerError { evidence } = run(&case(503, Kind::Oauth, "<html>")).outcome
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
            headers.push("retry-after", random.bytes(20));
            headers.push("request-id", random.bytes(200));
            let quota = QuotaReport::default();
            let kind = *random.pick(&[Kind::Oauth, Kind::ApiKey, Kind::Provider]);
            let seen = Seen {
                status,
                headers: &headers,
                body: &body,
                kind,
                quota: &quota,
                now: Now::default(),
            };
            assert!(classify(&seen).message.chars().count() <= policy::MESSAGE_CHARS_MAX);
        }
    }
}
