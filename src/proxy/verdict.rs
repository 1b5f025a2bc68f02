//! Whom a refusal concerns (SPEC P7), from the answer and from what was asked. Pure.
//!
//! The alternative, a status that maps to "the account is bad", lets one odd request take the pool
//! from everybody: half of all refusals in the field are about the request, a route or a model. So
//! each refusal is charged to the narrowest thing that its own evidence proves, and where nothing
//! is proven the scheduler keeps it as a suspicion until an unrelated request meets the same.
//!
//! Order of evidence, the same everywhere:
//!
//! 1. What the API says explicitly (`allowed`, `rejected` of a window) goes before our thresholds.
//! 2. The answer's own evidence goes before what is on file; headers before words, words before the
//!    bare status.
//! 3. Words that say server-side go before words of quota.
//! 4. Times are read against the answer's own `Date`, then against our clock.

use std::fmt;

use crate::http::answer_json::ApiError;
use crate::scheduler::quota::{QuotaReport, Verdict as Said};
use crate::scheduler::{Kind, RouteClass};

/// Whom a refusal concerns, and by which proof. Until when is the scheduler's to say, see
/// [`crate::scheduler::Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) whom: Whom,
    pub(crate) proof: Proof,
}

/// Whom a refusal concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// No refusal at all, or one that every account would give.
    Nobody,
    /// This request on this account.
    OwnRequest,
    /// This route class of the account.
    RouteClass,
    /// A window of the account, with the family of the request that met it.
    Quota,
    /// One model on this account.
    Model,
    /// The account's credential.
    Credential,
    /// The account itself.
    Account,
    /// The account's way to the API.
    Way,
    /// The API, for one model family.
    Api,
    /// The way to the API.
    Network,
    /// Not known before an unrelated request meets the same.
    Unproven,
}

/// What proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Header,
    Words,
    Status,
    Nothing,
}

impl Whom {
    /// Nobody but the request itself has to bear it.
    pub(crate) fn blames_nobody(self) -> bool {
        match self {
            Whom::Nobody | Whom::OwnRequest => true,
            Whom::RouteClass
            | Whom::Quota
            | Whom::Model
            | Whom::Credential
            | Whom::Account
            | Whom::Way
            | Whom::Api
            | Whom::Network
            | Whom::Unproven => false,
        }
    }
}

impl fmt::Display for Verdict {
    /// For the log: the end of "429 rate_limit_error: …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.whom {
            Whom::Nobody => "no account set aside",
            Whom::OwnRequest => "this request's own, no account set aside",
            Whom::RouteClass => "only this kind of call on this account",
            Whom::Quota => "a limit of this account",
            Whom::Model => "this model on this account",
            Whom::Credential => "this account's credential",
            Whom::Account => "this account",
            Whom::Way => "this account's way to the API",
            Whom::Api => "the API, for this family of models",
            Whom::Network => "the network",
            Whom::Unproven => {
                "not proven: avoided until another request succeeds or is refused in the same way"
            }
        })?;
        f.write_str(match self.proof {
            Proof::Header => " (by its headers)",
            Proof::Words => " (by its words)",
            Proof::Status | Proof::Nothing => "",
        })
    }
}

/// What kind of refusal it is: the rows of P7, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Quota(Proof),
    /// It names what this request asks for.
    OwnRequest,
    /// Server-side by words, type or status.
    ServerSide(Proof),
    /// 429 without any evidence.
    BareLimit,
    /// 500.
    BareError,
    /// 502, 503, 504, and what gateways in front of the API answer.
    Way,
    /// 401, or a 403 that says the token is no longer valid.
    Credential(Proof),
    /// 402, or words about billing or a disabled organization.
    Account(Proof),
    /// Any other 403.
    Forbidden,
    /// The account does not have the model.
    Model,
    /// Each account may answer otherwise, and none is to blame.
    Elsewhere,
    /// The request's own fault: passed on as it is.
    PassOn,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused<'a> {
    pub(crate) status: u16,
    pub(crate) error: &'a ApiError,
    pub(crate) quota: &'a QuotaReport,
    pub(crate) kind: Kind,
    pub(crate) class: RouteClass,
}

/// The first row of P7 that fits.
pub(crate) fn row(refused: &Refused<'_>) -> Row {
    let Refused { status, error, quota, kind, class } = *refused;
    let message = Message::of(&error.message);
    match status {
        401 => Row::Credential(Proof::Status),
        402 => Row::Account(Proof::Status),
        400 | 403 if error.kind == "billing_error" => Row::Account(Proof::Words),
        403 if message.says_token_ended() => Row::Credential(Proof::Words),
        403 if message.says_account_ended() => Row::Account(Proof::Words),
        403 => Row::Forbidden,
        429 => limited(error, &message, quota, kind),
        400 if message.names_own_wish() => Row::OwnRequest,
        400 if message.says_account_ended() => Row::Account(Proof::Words),
        400 if class == RouteClass::Messages && message.says_model_invalid() => Row::Model,
        404 if class == RouteClass::Messages && error.kind == "not_found_error" => {
            match message.speaks_of_other_things() {
                true => Row::Elsewhere,
                false => Row::Model,
            }
        }
        529 => Row::ServerSide(Proof::Status),
        _ if status >= 500 && error.kind == "overloaded_error" => Row::ServerSide(Proof::Words),
        500 => Row::BareError,
        502..=504 | 520..=527 | 530 => Row::Way,
        _ => Row::PassOn,
    }
}

/// Which 429: headers go before words, and words of quota count only where none says server-side.
fn limited(error: &ApiError, message: &Message, quota: &QuotaReport, kind: Kind) -> Row {
    let server_side = error.kind == "overloaded_error" || message.says_server_side();
    if shows_limit(quota) {
        Row::Quota(Proof::Header)
    } else if kind == Kind::Provider {
        Row::Quota(Proof::Status)
    } else if message.says_quota() && !server_side {
        Row::Quota(Proof::Words)
    } else if message.names_own_wish() {
        Row::OwnRequest
    } else if server_side {
        Row::ServerSide(Proof::Words)
    } else {
        Row::BareLimit
    }
}

/// Whether the headers show a limit that is used up.
fn shows_limit(quota: &QuotaReport) -> bool {
    let rejected = |said| said == Some(Said::Rejected);
    let at_limit = |used: Option<f64>, left: Option<u64>| {
        used.is_some_and(|used| used >= 1.0) || left == Some(0)
    };
    let mut windows = quota.windows.iter();
    rejected(quota.verdict)
        || windows.any(|window| {
            rejected(window.verdict) || at_limit(window.utilisation, window.remaining)
        })
}

/// An error's message, lower-case.
struct Message {
    text: String,
    /// Apart from any punctuation.
    words: Vec<String>,
}

impl Message {
    fn of(text: &str) -> Message {
        let text = text.trim().to_lowercase();
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let words = words.map(str::to_owned).collect();
        Message { text, words }
    }

    fn has(&self, list: &[&str]) -> bool {
        self.words.iter().any(|word| list.contains(&word.as_str()))
    }

    /// These words in a row; a trailing `s` of the last one does not matter.
    fn has_phrase(&self, phrase: &[&str]) -> bool {
        self.words.windows(phrase.len()).any(|words| {
            let mut pairs = words.iter().zip(phrase);
            pairs.all(|(word, wanted)| word == wanted || word.strip_suffix('s') == Some(wanted))
        })
    }

    fn begins_with(&self, phrase: &[&str]) -> bool {
        self.words.len() >= phrase.len()
            && self.words.iter().zip(phrase).all(|(word, wanted)| word == wanted)
    }

    fn says_server_side(&self) -> bool {
        self.has_phrase(&["not", "your", "usage", "limit"])
            || self.has_phrase(&["temporarily", "limiting"])
    }

    fn says_quota(&self) -> bool {
        let names_end =
            self.words.iter().any(|word| END_WORDS.iter().any(|end| word.starts_with(end)));
        let names_owner = OWNER_WORDS.iter().any(|owner| self.has_phrase(&[owner]));
        (names_owner && names_end) || self.has_phrase(&["usage", "limit", "reached"])
    }

    /// It names something that only this request asks for.
    fn names_own_wish(&self) -> bool {
        OWN_WISHES.iter().any(|wish| self.has_phrase(wish))
    }

    fn says_token_ended(&self) -> bool {
        self.has(&["token", "tokens", "oauth", "credential", "credentials", "key", "session"])
            && self.has(&["revoked", "expired"])
    }

    fn says_account_ended(&self) -> bool {
        let begins = |first: &str| {
            ["organization", "organisation", "account"]
                .iter()
                .any(|second| self.begins_with(&[first, second]))
        };
        self.begins_with(&["your", "credit", "balance"])
            || ((begins("this") || begins("your"))
                && self.has(&["disabled", "suspended", "billing"]))
    }

    /// It says that there is no such model, and not that a model cannot do what is asked for. Only
    /// the beginning counts: what follows may repeat the client's own text.
    fn says_model_invalid(&self) -> bool {
        if self.text.starts_with("model:") {
            return true;
        }
        let spaced: Vec<&str> = self.text.split_whitespace().take(MODEL_WORDS_MAX).collect();
        let bare = |word: &&str| word.trim_matches(|c: char| c.is_ascii_punctuation()).to_owned();
        let words: Vec<String> = spaced.iter().map(bare).collect();
        let Some(at) =
            words.iter().position(|word| matches!(word.as_str(), "model" | "models" | "model's"))
        else {
            return false;
        };
        let ends = |phrase: &&[&str]| {
            let start = at.checked_sub(phrase.len());
            start.is_some_and(|start| words[start..at].iter().zip(*phrase).all(|(a, b)| a == b))
        };
        let mut rest = &words[at + 1..];
        if NO_SUCH.iter().any(ends) {
            // "Invalid model parameter" is about something else.
            let is_name = |word: &String| {
                NAME_WORDS.contains(&word.as_str())
                    || word.contains(|c: char| c == '-' || c.is_ascii_digit())
            };
            let is_last = spaced[at].ends_with(|c: char| c.is_ascii_punctuation());
            let is_quoted =
                spaced.get(at + 1).is_some_and(|next| !next.starts_with(char::is_alphanumeric));
            return is_last || is_quoted || rest.first().is_none_or(is_name);
        }
        // "model", what it is called, and what is wrong with that. A path before it says that it is
        // a part of the body.
        if !words[..at].iter().all(|word| word.chars().all(char::is_alphabetic)) {
            return false;
        }
        for _ in 0..3 {
            let begins = |phrase: &&[&str]| {
                rest.len() >= phrase.len() && rest.iter().zip(*phrase).all(|(a, b)| a == b)
            };
            if IS_INVALID.iter().any(begins) {
                return true;
            }
            rest = rest.get(1..).unwrap_or_default();
        }
        false
    }

    /// Of something else than a model that may be missing.
    fn speaks_of_other_things(&self) -> bool {
        !self.has(&["model", "models"]) && self.has(&OTHER_THINGS)
    }
}

/// Whose limit it is, if one of these stands together with one of [`END_WORDS`].
const OWNER_WORDS: [&str; 7] =
    ["account", "organization", "organisation", "plan", "session", "weekly", "quota"];
/// That it is used up; also as the beginning of a longer word, such as `limits` or `exceeded`.
const END_WORDS: [&str; 4] = ["limit", "exceed", "exhaust", "reached"];
/// What only some requests ask for.
const OWN_WISHES: [&[&str]; 4] =
    [&["extra", "usage"], &["long", "context"], &["fast", "mode"], &["usage", "credit"]];
/// What a `not_found_error` may be about besides a model.
#[rustfmt::skip] // one kind of thing a line
const OTHER_THINGS: [&str; 22] = [
    "file", "files", "document", "image", "url",
    "container", "containers",
    "batch", "batches",
    "skill", "skills", "tool", "tools",
    "thread", "message", "prompt", "workspace", "server",
    "endpoint", "route", "path", "resource",
];
/// An error about a model's name says so at once.
const MODEL_WORDS_MAX: usize = 10;
/// Before "model": there is none of that name.
const NO_SUCH: [&[&str]; 6] = [
    &["invalid"],
    &["unknown"],
    &["unsupported"],
    &["unrecognized"],
    &["not", "a", "valid"],
    &["no", "such"],
];
/// Behind it: it is the name that is meant.
const NAME_WORDS: [&str; 8] =
    ["name", "id", "identifier", "specified", "requested", "given", "provided", "in"];
/// Behind the model's name: there is none of that name.
const IS_INVALID: [&[&str]; 7] = [
    &["is", "invalid"],
    &["is", "not", "valid"],
    &["is", "not", "a", "valid"],
    &["is", "unknown"],
    &["does", "not", "exist"],
    &["not", "found"],
    &["was", "not", "found"],
];
