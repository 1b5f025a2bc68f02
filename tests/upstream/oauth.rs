//! The OAuth endpoints of the stand-in: single-use refresh tokens, and every way in which a
//! rotation can go wrong.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::{Answer, Step};
use super::{Limits, Request};

/// What the token endpoint does with a known refresh token.
#[derive(Clone, Default)]
pub enum Mode {
    /// Rotates and answers with the new pair.
    #[default]
    Rotate,
    /// Rotates, and answers this much later.
    Late(Duration),
    /// Rotates, then resets the connection.
    ResetAfterRotation,
    /// Rotates, then answers 500.
    FailAfterRotation,
    /// Answers 400 `invalid_grant` and rotates nothing.
    InvalidGrant,
    /// Answers 429.
    RateLimited,
    /// Answers 200 with HTML.
    Html,
    /// Answers 200 with `{}`.
    NoToken,
    /// Rotates the access token only: the answer contains no refresh token, and the old one stays
    /// valid.
    KeepsRefreshToken,
    /// Does not answer.
    Silent,
}

/// The state of the OAuth endpoints.
#[derive(Default)]
pub struct Desk {
    /// The current behaviour of the token endpoint.
    pub mode: Mode,
    /// Every refresh token that was sent, in order.
    pub refreshes: Vec<String>,
    /// Every code that was exchanged, with the whole body.
    pub exchanges: Vec<Value>,
    /// Refresh tokens that were sent again after they were used up.
    pub reused: Vec<String>,
    /// What `/api/oauth/profile` answers for an access token.
    pub profiles: HashMap<String, Value>,
    /// What `/api/oauth/usage` answers for an access token.
    pub usage: HashMap<String, Value>,
    /// The lifetime of a new access token in seconds.
    pub lifetime_s: u64,
    grants: HashMap<String, Grant>,
    rotations: usize,
}

/// The state of a refresh token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grant {
    Good,
    Used,
}

impl Desk {
    /// Registers a refresh token.
    pub fn grant(&mut self, refresh_token: &str) {
        self.grants.insert(refresh_token.to_owned(), Grant::Good);
    }

    /// The answer to a request for one of the OAuth endpoints; `None` for every other path.
    pub(super) fn answer(&mut self, request: &Request) -> Option<Answer> {
        let known = |table: &HashMap<String, Value>| {
            table.get(request.credential()).map_or_else(
                || Answer::error(401, "authentication_error", "Invalid bearer token"),
                |value| Answer::json(200, &value.to_string()),
            )
        };
        match request.path() {
            "/v1/oauth/token" => Some(self.token(request)),
            "/api/oauth/profile" => Some(known(&self.profiles)),
            "/api/oauth/usage" => Some(known(&self.usage)),
            "/oauth/authorize" => Some(authorize(request)),
            _ => None,
        }
    }

    fn token(&mut self, request: &Request) -> Answer {
        let body = request.json();
        if body["grant_type"] == "authorization_code" {
            self.exchanges.push(body);
            return self.rotated(true);
        }
        let sent = body["refresh_token"].as_str().unwrap_or("").to_owned();
        self.refreshes.push(sent.clone());
        match self.mode {
            Mode::InvalidGrant => return invalid_grant(),
            Mode::RateLimited => {
                return Answer::error(
                    429,
                    "rate_limit_error",
                    "Rate limited. Please try again later.",
                )
                .limits(&Limits::new().retry_after(30));
            }
            Mode::Html => {
                return Answer::bytes(200, b"<!doctype html><title>Just a moment...</title>")
                    .header("content-type", "text/html");
            }
            Mode::NoToken => return Answer::json(200, "{}"),
            Mode::Silent => return Answer::raw([Step::AwaitLeave]),
            _ => {}
        }
        match self.grants.get(&sent) {
            Some(Grant::Good) => {}
            Some(Grant::Used) => {
                self.reused.push(sent);
                return invalid_grant();
            }
            None => return invalid_grant(),
        }
        let keeps = matches!(self.mode, Mode::KeepsRefreshToken);
        if !keeps {
            self.grants.insert(sent, Grant::Used);
        }
        let rotated = self.rotated(!keeps);
        match self.mode {
            Mode::Late(wait) => rotated.before(Step::Pause(wait)),
            Mode::ResetAfterRotation => Answer::raw([Step::Reset]),
            Mode::FailAfterRotation => Answer::error(500, "api_error", "Internal server error"),
            _ => rotated,
        }
    }

    /// A new pair: `access-N` and, if asked for, `refresh-N`.
    fn rotated(&mut self, with_refresh_token: bool) -> Answer {
        self.rotations += 1;
        let number = self.rotations;
        let lifetime = if self.lifetime_s == 0 { 28800 } else { self.lifetime_s };
        let mut body = json!({
            "token_type": "Bearer",
            "access_token": format!("access-{number}"),
            "expires_in": lifetime,
            "scope": "user:inference user:profile",
        });
        if with_refresh_token {
            let refresh_token = format!("refresh-{number}");
            self.grant(&refresh_token);
            body["refresh_token"] = json!(refresh_token);
        }
        Answer::json(200, &body.to_string())
    }
}

/// Redirects the browser back as after the user's consent.
fn authorize(request: &Request) -> Answer {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let value = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(have, _)| *have == name)
            .map_or("", |(_, value)| value)
    };
    let back = value("redirect_uri").replace("%3A", ":").replace("%2F", "/");
    let location = format!("{back}?code=scripted-code&state={}", value("state"));
    Answer::bytes(302, b"").header("location", &location)
}

fn invalid_grant() -> Answer {
    Answer::json(
        400,
        r#"{"error":"invalid_grant","error_description":"Refresh token not found or invalid"}"#,
    )
}

/// A profile as the API returns it.
pub fn profile(account: &str, email: &str, organisation: &str) -> Value {
    json!({
        "account": {"uuid": account, "email": email, "full_name": "Some One", "display_name": "Some", "has_claude_max": true, "has_claude_pro": false},
        "organization": {"uuid": organisation, "name": "Some's Organization", "organization_type": "claude_max"},
    })
}
