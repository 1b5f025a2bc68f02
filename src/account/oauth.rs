//! The OAuth protocol (SPEC T1, T2): endpoints, bodies, answers, profile and usage. Uses [`Http`]
//! for all calls.
//!
//! No text that leaves this module holds a token, a code or a verifier: messages of an endpoint are
//! shortened and stripped of control characters and of every secret in the call.

use std::time::Duration;

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

use serde_json::{Map, Value, json};

use super::http::{Http, HttpCall, HttpPhase, HttpReply, percent_encoded};
use super::limits::{dates, headers};
use crate::config::random::base64url;
use crate::config::{Secret, Tokens};
use crate::http::gzip;
use crate::scheduler::quota::QuotaReport;
use crate::scheduler::time::{Now, Wall};

/// The four endpoints of SPEC T1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Opened in the browser.
    pub(crate) authorize: String,
    /// Exchange and refresh.
    pub(crate) token: String,
    /// The identity of the account.
    pub(crate) profile: String,
    /// The account's use of its quota.
    pub(crate) usage: String,
}

impl Endpoints {
    /// The endpoints of SPEC T1, each replaced by its environment variable if that is not empty.
    pub(crate) fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Endpoints {
        let one = |name: &str, default: &str| {
            let set = variable(name).filter(|value| !value.is_empty());
            set.unwrap_or_else(|| default.to_owned())
        };
        Endpoints {
            authorize: one("MAXPOOL_OAUTH_AUTHORIZE_ENDPOINT", "https://claude.ai/oauth/authorize"),
            token: one(
                "MAXPOOL_OAUTH_TOKEN_ENDPOINT",
                "https://platform.claude.com/v1/oauth/token",
            ),
            profile: one(
                "MAXPOOL_OAUTH_PROFILE_ENDPOINT",
                "https://api.anthropic.com/api/oauth/profile",
            ),
            usage: one("MAXPOOL_OAUTH_USAGE_ENDPOINT", "https://api.anthropic.com/api/oauth/usage"),
        }
    }
}

/// Proves that whoever redeems a code is the one who asked for it (RFC 7636), and a state that
/// protects against foreign callbacks.
pub(crate) struct Proof {
    /// Sent with the exchange.
    pub(crate) verifier: Secret,
    /// Returned with the callback.
    pub(crate) state: Secret,
}

impl Proof {
    /// 32 random bytes each.
    pub(crate) fn new() -> crate::error::Result<Proof> {
        let random = || crate::config::random::bytes::<32>().map(|bytes| base64url(&bytes));
        // The state is part of the address that the user is shown.
        Ok(Proof { verifier: Secret::new(random()?), state: Secret::around(random()?) })
    }
}

/// RFC 7636, 4.2, method S256.
pub(crate) fn challenge(verifier: &str) -> String {
    base64url(&sha256(verifier.as_bytes()))
}

/// A short hash that identifies a token in logs without revealing it.
pub(crate) fn fingerprint(secret: &Secret) -> String {
    base64url(&sha256(secret.expose().as_bytes())[..6])
}

/// The page to open in the browser.
pub(crate) fn authorize_url(endpoints: &Endpoints, proof: &Proof, redirect_uri: &str) -> String {
    let query = [
        ("code", "true"),
        ("client_id", CLIENT_ID),
        ("response_type", "code"),
        ("redirect_uri", redirect_uri),
        ("scope", SCOPES),
        ("code_challenge", &challenge(proof.verifier.expose())),
        ("code_challenge_method", "S256"),
        ("state", proof.state.expose()),
    ];
    let query = query.map(|(name, value)| format!("{name}={}", percent_encoded(value)));
    let joint = if endpoints.authorize.contains('?') { '&' } else { '?' };
    format!("{}{joint}{}", endpoints.authorize, query.join("&"))
}

/// How a call to the token endpoint failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenFailure {
    /// Nothing was sent.
    NotSent { why: String },
    /// The request may have arrived, and a single-use token may be used up: no answer, an
    /// unreadable one, or that of a gateway (502, 504).
    FateUnknown {
        /// There was no answer at all.
        is_network: bool,
        why: String,
    },
    /// An answer that says nothing final about the credential: anything but `invalid_grant`.
    Temporary {
        /// `retry-after`, if present.
        retry_after: Option<Duration>,
        why: String,
    },
    /// The endpoint's own `invalid_grant`.
    Refused { why: String },
}

impl TokenFailure {
    pub(crate) fn why(&self) -> &str {
        match self {
            TokenFailure::NotSent { why }
            | TokenFailure::FateUnknown { why, .. }
            | TokenFailure::Temporary { why, .. }
            | TokenFailure::Refused { why } => why,
        }
    }
}

/// The content of the token endpoint's answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Issued {
    /// The pair, or a part of it; an expiry in the past is ignored.
    pub(crate) tokens: Tokens,
    /// Lifetime of the access token; `None` if it is not positive.
    pub(crate) lifetime: Option<Duration>,
}

/// Redeems a refresh token in one attempt. If the answer has no new refresh token, the result keeps
/// this one; if it has no access token, the result has none.
pub(crate) fn refresh(
    http: &Http,
    endpoints: &Endpoints,
    token: &Secret,
    now: &dyn Fn() -> Now,
) -> Result<Issued, TokenFailure> {
    let body = json!({
        "grant_type": "refresh_token",
        "refresh_token": token.expose(),
        "client_id": CLIENT_ID,
    });
    let mut issued = token_call(http, endpoints, &body, &[token], now)?;
    issued.tokens.refresh.get_or_insert_with(|| token.clone());
    Ok(issued)
}

/// Redeems an authorization code in one attempt.
pub(crate) fn exchange(
    http: &Http,
    endpoints: &Endpoints,
    code: &Secret,
    proof: &Proof,
    redirect_uri: &str,
    now: &dyn Fn() -> Now,
) -> Result<Tokens, TokenFailure> {
    let body = json!({
        "grant_type": "authorization_code",
        "code": code.expose(),
        "state": proof.state.expose(),
        "client_id": CLIENT_ID,
        "redirect_uri": redirect_uri,
        "code_verifier": proof.verifier.expose(),
    });
    let secrets = [code, &proof.verifier, &proof.state];
    token_call(http, endpoints, &body, &secrets, now).map(|issued| issued.tokens)
}

fn token_call(
    http: &Http,
    endpoints: &Endpoints,
    body: &Value,
    secrets: &[&Secret],
    now: &dyn Fn() -> Now,
) -> Result<Issued, TokenFailure> {
    let call = HttpCall {
        method: "POST",
        url: endpoints.token.clone(),
        headers: headers([("content-type", "application/json".to_owned())]),
        body: Some(body.to_string().into_bytes()),
        timeout: TOKEN_TIMEOUT,
        reply_bytes_max: REPLY_BYTES_MAX,
    };
    let mut reply = http(call).map_err(|failure| {
        let said = cleaned(&failure.cause, secrets);
        let why = format!("no answer from the token endpoint: {said}");
        match failure.phase {
            HttpPhase::Connect => TokenFailure::NotSent { why },
            HttpPhase::MayHaveArrived => TokenFailure::FateUnknown { is_network: true, why },
        }
    })?;
    if reply.header("content-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"))
        || reply.body.starts_with(&GZIP_MARK)
    {
        reply.body = gzip::decoded(&reply.body, REPLY_BYTES_MAX);
    }
    let now = now();
    if !(200..=299).contains(&reply.status)
        && let Some(issued) = issued_of_error(&reply.body, secrets, now.wall)
    {
        return Ok(issued);
    }
    if (200..=299).contains(&reply.status) {
        return issued_of_answer(&reply.body, now.wall).ok_or_else(|| {
            let cut =
                reply.cut.as_ref().map(|cause| format!(" (cut off: {})", cleaned(cause, secrets)));
            TokenFailure::FateUnknown {
                is_network: cut.is_some(),
                why: format!(
                    "the token endpoint answered {} without a token{}",
                    reply.status,
                    cut.unwrap_or_default()
                ),
            }
        });
    }
    let said = said(&reply, secrets);
    Err(match reply.status {
        status @ (400 | 401) if is_invalid_grant(&reply.body) => {
            TokenFailure::Refused { why: format!("the token endpoint refused it: {status}{said}") }
        }
        status @ (502 | 504) => TokenFailure::FateUnknown {
            is_network: false,
            why: format!("the token endpoint answered {status}{said}"),
        },
        status => TokenFailure::Temporary {
            retry_after: reply
                .header("retry-after")
                .and_then(|text| dates::retry_after_of_text(text, now.wall)),
            why: format!("the token endpoint answered {status}{said}"),
        },
    })
}

/// Whether the answer is the only final one about a refresh token (RFC 6749, 5.2).
fn is_invalid_grant(body: &[u8]) -> bool {
    let answer: Option<Value> = serde_json::from_slice(without_mark(body)).ok();
    let error = answer.as_ref().and_then(|answer| answer.get("error"));
    let code = error.map(|error| error.get("type").unwrap_or(error));
    code.and_then(Value::as_str) == Some("invalid_grant")
}

/// Parses the answer of SPEC T1. `None` if it has no usable token.
///
/// Anything may follow the JSON: it only has to be complete.
pub(crate) fn issued_of_answer(body: &[u8], now: Wall) -> Option<Issued> {
    let mut documents = serde_json::Deserializer::from_slice(without_mark(body)).into_iter();
    let Some(Ok(Value::Object(answer))) = documents.next() else {
        return None;
    };
    let token = |name: &str| answer.get(name)?.as_str().filter(|text| !text.is_empty());
    // An access token goes into a header. A refresh token goes into JSON, which can carry any text,
    // and it is the only valid one, whatever it looks like.
    let access = token("access_token").filter(|text| is_sendable(text)).map(Secret::new);
    let refresh = token("refresh_token").map(Secret::new);
    if access.is_none() && refresh.is_none() {
        return None;
    }
    let lifetime = lifetime_of_answer(&answer, now);
    let expires_at = lifetime.map(|lifetime| now + lifetime);
    Some(Issued { tokens: Tokens { access, refresh, expires_at }, lifetime })
}

/// The same of an answer whose status says that there is none: a new refresh token that it has
/// brought all the same is the only one by now. One that names an error, or gives back what was
/// sent, brings none.
fn issued_of_error(body: &[u8], secrets: &[&Secret], now: Wall) -> Option<Issued> {
    let answer: Value = serde_json::from_slice(without_mark(body)).ok()?;
    let issued = issued_of_answer(body, now).filter(|_| answer.get("error").is_none())?;
    let is_new = issued.tokens.refresh.as_ref().is_some_and(|token| !secrets.contains(&token));
    is_new.then_some(issued)
}

/// Without a byte-order mark.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// True for text that fits into a header unchanged.
pub(crate) fn is_sendable(token: &str) -> bool {
    !token.is_empty()
        && token.len() <= TOKEN_BYTES_MAX
        && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Lifetime of the access token; `None` if the answer gives none, or one that has ended by our
/// clock, which may be wrong.
fn lifetime_of_answer(answer: &Map<String, Value>, now: Wall) -> Option<Duration> {
    let number = |name: &str| {
        let value = answer.get(name)?;
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
        (number.is_finite() && number.abs() < 1e15).then_some(number)
    };
    let seconds = match (number("expires_in"), number("expires_at")) {
        (Some(lifetime), _) => lifetime,
        (None, Some(at)) => {
            let ms = if at < 1e12 { at * 1000.0 } else { at };
            (ms - now.0 as f64) / 1000.0
        }
        (None, None) => LIFETIME_DEFAULT.as_secs_f64(),
    };
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(LIFETIME_S_MAX)))
}

/// The profile endpoint's facts (SPEC T1); missing parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// `account.uuid`.
    pub(crate) account_uuid: Option<String>,
    /// `account.email`.
    pub(crate) email: Option<String>,
    /// `account.display_name`.
    pub(crate) display_name: Option<String>,
    /// From `account.has_claude_max` and `.has_claude_pro`.
    pub(crate) tier: Tier,
    /// `organization.uuid`.
    pub(crate) org_uuid: Option<String>,
    /// `organization.name`.
    pub(crate) org_name: Option<String>,
}

/// The kind of subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tier {
    /// `has_claude_max`.
    Max,
    /// `has_claude_pro`.
    Pro,
    /// Neither.
    #[default]
    Subscription,
}

impl Tier {
    /// The word in `maxpool accounts`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Tier::Max => "Max",
            Tier::Pro => "Pro",
            Tier::Subscription => "subscription",
        }
    }
}

/// Reads the profile. An error is one line for the user.
pub(crate) fn profile(
    http: &Http,
    endpoints: &Endpoints,
    access: &Secret,
) -> Result<Profile, String> {
    let reply = get(http, &endpoints.profile, access, None)?;
    if reply.status != 200 {
        return Err(format!(
            "the profile endpoint answered {}{}",
            reply.status,
            said(&reply, &[access])
        ));
    }
    let answer: Value = serde_json::from_slice(&reply.body)
        .map_err(|_| "the profile endpoint did not answer with JSON".to_owned())?;
    let text = |object: &str, name: &str| {
        let text = answer.get(object)?.get(name)?.as_str()?;
        let text = cleaned(text, &[]);
        (!text.is_empty()).then_some(text)
    };
    let has = |name: &str| {
        answer.get("account").and_then(|account| account.get(name)) == Some(&Value::Bool(true))
    };
    Ok(Profile {
        account_uuid: text("account", "uuid"),
        email: text("account", "email"),
        display_name: text("account", "display_name"),
        tier: match (has("has_claude_max"), has("has_claude_pro")) {
            (true, _) => Tier::Max,
            (false, true) => Tier::Pro,
            (false, false) => Tier::Subscription,
        },
        org_uuid: text("organization", "uuid"),
        org_name: text("organization", "name"),
    })
}

/// The result of a reading of the usage endpoint (SPEC T6). It says nothing about the account's
/// health.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum UsageReading {
    Read(QuotaReport),
    /// 429: read less often.
    TooOften {
        /// `retry-after`, if present.
        retry_after: Option<Duration>,
    },
    /// Any other failure, in words.
    Failed(String),
}

/// Reads the usage endpoint once.
pub(crate) fn usage(
    http: &Http,
    endpoints: &Endpoints,
    access: &Secret,
    now: &dyn Fn() -> Now,
) -> UsageReading {
    let reply = match get(http, &endpoints.usage, access, Some(OAUTH_BETA)) {
        Ok(reply) => reply,
        Err(why) => return UsageReading::Failed(why),
    };
    match reply.status {
        200 => match headers::report_of_usage(&reply.body, now()) {
            Some(report) => UsageReading::Read(report),
            None => UsageReading::Failed("the usage endpoint gave an unreadable answer".to_owned()),
        },
        429 => UsageReading::TooOften {
            retry_after: reply
                .header("retry-after")
                .and_then(|text| dates::retry_after_of_text(text, now().wall)),
        },
        status => UsageReading::Failed(format!(
            "the usage endpoint answered {status}{}",
            said(&reply, &[access])
        )),
    }
}

fn get(http: &Http, url: &str, access: &Secret, beta: Option<&str>) -> Result<HttpReply, String> {
    let mut headers = headers([("authorization", format!("Bearer {}", access.expose()))]);
    headers.extend(beta.map(|beta| ("anthropic-beta", beta.to_owned())));
    let call = HttpCall {
        method: "GET",
        url: url.to_owned(),
        headers,
        body: None,
        timeout: READ_TIMEOUT,
        reply_bytes_max: REPLY_BYTES_MAX,
    };
    http(call).and_then(HttpReply::whole).map_err(|failure| cleaned(&failure.cause, &[access]))
}

fn headers<const N: usize>(own: [(&'static str, String); N]) -> Vec<(&'static str, String)> {
    let mut all =
        vec![("accept", "application/json".to_owned()), ("user-agent", USER_AGENT.to_owned())];
    all.extend(own);
    all
}

/// `: <the endpoint's message>`, or nothing if there is no readable one.
fn said(reply: &HttpReply, secrets: &[&Secret]) -> String {
    let Ok(answer) = serde_json::from_slice::<Value>(&reply.body) else {
        return String::new();
    };
    let error = answer.get("error");
    let nested = |name: &str| error.and_then(|error| error.get(name)).and_then(Value::as_str);
    let code = error.and_then(Value::as_str).or_else(|| nested("type"));
    let text =
        answer.get("error_description").and_then(Value::as_str).or_else(|| nested("message"));
    let words: Vec<&str> = code.into_iter().chain(text).collect();
    if words.is_empty() {
        return String::new();
    }
    format!(" ({})", cleaned(&words.join(": "), secrets))
}

/// Makes foreign text fit for a line: no control characters, none of our secrets, limited length.
pub(crate) fn cleaned(text: &str, secrets: &[&Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if !secret.expose().is_empty() {
            text = text.replace(secret.expose(), "[hidden]");
        }
    }
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.trim().chars().map(shown).take(SAID_CHARS_MAX).collect();
    text
}

pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    // The TLS library provides the hash and is linked anyway.
    let mut digest = [0; 32];
    if let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 {
        digest.copy_from_slice(suite.common.hash_provider.hash(data).as_ref());
    }
    digest
}

/// The public client of SPEC T1; it has no secret.
const CLIENT_ID: &str = "9d1c250a-e61b-44d9-88ed-5944d1962f5e";
const SCOPES: &str = "org:create_api_key user:profile user:inference user:sessions:claude_code user:mcp_servers user:file_upload";
/// The beta flag without which the API refuses OAuth tokens.
pub(crate) const OAUTH_BETA: &str = "oauth-2025-04-20";
/// maxpool identifies itself under its own name.
pub(crate) const USER_AGENT: &str = concat!("maxpool/", env!("CARGO_PKG_VERSION"));
/// Short enough for those who wait, long enough for a slow network: giving up a refresh may cost
/// the account.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(15);
const REPLY_BYTES_MAX: usize = 256 * 1024;
/// Used if the answer has neither `expires_in` nor `expires_at` (SPEC T1).
const LIFETIME_DEFAULT: Duration = Duration::from_secs(3600);
/// A century; anything longer is not a valid lifetime.
const LIFETIME_S_MAX: f64 = 3.2e9;
/// The first bytes of gzip data (RFC 1952).
const GZIP_MARK: [u8; 2] = [0x1f, 0x8b];
/// Far above the size of any known credential.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
const SAID_CHARS_MAX: usize = 200;

#[cfg(test)]
#[path = "oauth_tests.rs"]
mod tests;
