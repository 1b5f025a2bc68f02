//! When a provider accepts requests of an account again (SPEC V3): read from the body of a 429,
//! since its headers rarely say. Pure.
//!
//! GLM sends a code and sometimes a time in a sentence, in English or Chinese; Kimi sends a type
//! and sometimes a number of seconds. A result is never more than a day ahead, and what cannot be
//! understood is left to the caller.

use std::time::Duration;

use serde_json::Value;

use super::{dates, said_time};
use crate::scheduler::quota::{QuotaReport, WindowReading};
use crate::scheduler::time::Wall;

/// How long the provider will refuse requests after an answer with these headers. `None` if they do
/// not say; then its body may.
pub(crate) fn wait_of_headers(headers: &QuotaReport, now: Wall) -> Option<Duration> {
    let is_full = |window: &&WindowReading| window.remaining.is_none_or(|left| left == 0);
    let by_headers = headers.retry_after.or_else(|| {
        let resets = headers.windows.iter().filter(is_full).filter_map(|window| window.reset);
        let last = resets.chain(headers.reset).filter(|reset| *reset > now).max()?;
        Some(now.until(last))
    });
    by_headers.map(|wait| wait.clamp(WAIT_MIN, WAIT_MAX))
}

/// The same, from the body. Dates in it are on the provider's clock, and so is `now`.
pub(crate) fn wait_of_body(body: &[u8], now: Wall) -> Option<Duration> {
    let text = String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES_MAX)]);
    let refusal = Refusal::read(&text);
    let wait = match refusal.code {
        Some(1302 | 1303 | 1305) => Some(MINUTE),
        Some(1304 | 1308 | 1309 | 1310 | 1316 | 1317) => Some(refusal.told(now).unwrap_or(HOUR)),
        _ => refusal.told(now).or(match refusal.kind.as_deref() {
            Some("rate_limit_reached_error" | "engine_overloaded_error") => Some(MINUTE),
            Some("exceeded_current_quota_error") => Some(HOUR),
            _ => None,
        }),
    };
    wait.map(|wait| wait.clamp(WAIT_MIN, WAIT_MAX))
}

/// The relevant parts of an error body.
#[derive(Debug, Default)]
struct Refusal {
    /// A code of GLM.
    code: Option<u32>,
    /// A type of Kimi.
    kind: Option<String>,
    /// A field that contains only the time.
    reset: Option<Value>,
    /// All messages, lower case.
    message: String,
}

impl Refusal {
    fn read(text: &str) -> Refusal {
        let mut refusal = Refusal::default();
        let text = text.trim_start_matches('\u{feff}').trim();
        // The first event of a stream has the same object after a field name.
        let json = text.lines().find_map(|line| line.strip_prefix("data:")).unwrap_or(text);
        match serde_json::from_str::<Value>(json.trim()) {
            Ok(document) => refusal.add(&document, NESTING_MAX),
            Err(_) => refusal.add_message(text, 0),
        }
        if refusal.code.is_none() {
            refusal.code = code_in_brackets(&refusal.message);
        }
        refusal
    }

    /// Collects from this object and nested ones: gateways wrap the provider's error into their
    /// own.
    fn add(&mut self, value: &Value, levels_left: u32) {
        let Value::Object(object) = value else {
            return;
        };
        for (key, value) in object {
            match (key.as_str(), value) {
                ("error", Value::Object(_)) if levels_left > 0 => self.add(value, levels_left - 1),
                ("code" | "type", value) => self.add_code(value),
                ("next_flush_time" | "reset_at", value) => {
                    self.reset.get_or_insert_with(|| value.clone());
                }
                ("message" | "msg" | "error", Value::String(text)) => {
                    self.add_message(text, levels_left);
                }
                _ => {}
            }
        }
    }

    /// Collects a message; some gateways repeat the whole error in it as text.
    fn add_message(&mut self, text: &str, levels_left: u32) {
        let inner =
            text.find('{').and_then(|start| serde_json::from_str::<Value>(&text[start..]).ok());
        match inner {
            Some(inner) if levels_left > 0 => self.add(&inner, levels_left - 1),
            _ => {
                self.message.push_str(&text.to_lowercase());
                self.message.push('\n');
            }
        }
    }

    fn add_code(&mut self, value: &Value) {
        let number = match value {
            Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match (number, value.as_str()) {
            (Some(code), _) if GLM_CODES.contains(&code) => self.code = self.code.or(Some(code)),
            (None, Some(word)) if KIMI_TYPES.contains(&word) => self.kind = Some(word.to_owned()),
            _ => {}
        }
    }

    /// The wait that the answer specifies: its field, else a span, else a date.
    fn told(&self, now: Wall) -> Option<Duration> {
        let field = self.reset.as_ref().and_then(|reset| match reset {
            Value::Number(number) => dates::reset_of_number(number.as_f64()?, now),
            Value::String(text) => moment(&text.trim().to_lowercase()),
            _ => None,
        });
        let field = field.and_then(|reset| wait_until(reset, now));
        field.or_else(|| span_in(&self.message)).or_else(|| moment_in(&self.message, now))
    }
}

/// `[1308][usage limit …]`, the form of a code in GLM's streams.
fn code_in_brackets(message: &str) -> Option<u32> {
    message.split('[').skip(1).find_map(|part| {
        let code = part.split(']').next()?.trim().parse().ok()?;
        GLM_CODES.contains(&code).then_some(code)
    })
}

/// "after 12 seconds", "resets in 30 minutes", "30 秒后".
fn span_in(message: &str) -> Option<Duration> {
    if let Some((wait, _)) = behind(message, &SPAN_FOLLOWS, said_time::span) {
        return Some(wait);
    }
    numbers(message).find_map(|at| {
        let (wait, rest) = said_time::span(&message[at..])?;
        rest.trim_start().starts_with('后').then_some(wait)
    })
}

/// A date: after "reset at" and the like, else before "重置", else the latest one in the text.
fn moment_in(message: &str, now: Wall) -> Option<Duration> {
    let until = |text: &str| wait_until(moment(text.trim_start_matches(SKIPPED))?, now);
    if let Some(wait) = behind(message, &MOMENT_FOLLOWS, until) {
        return Some(wait);
    }
    let dates = || numbers(message).filter_map(|at| Some((at, said_time::date(&message[at..])?)));
    let reset = message.find("重置");
    let before_reset = reset.and_then(|place| dates().take_while(|(at, _)| *at < place).last());
    match before_reset {
        Some((_, reset)) => wait_until(reset, now),
        None => dates().filter_map(|(_, reset)| wait_until(reset, now)).max(),
    }
}

/// The first match of `read` directly after one of `words`.
fn behind<'a, T>(
    message: &'a str,
    words: &[&str],
    read: impl Fn(&'a str) -> Option<T>,
) -> Option<T> {
    let mut places =
        words.iter().flat_map(|word| message.match_indices(word).map(|(at, _)| at + word.len()));
    places.find_map(|at| read(&message[at..]))
}

/// Parses a moment; after an announcing word an epoch number counts too.
fn moment(text: &str) -> Option<Wall> {
    said_time::date(text).or_else(|| said_time::epoch(text))
}

/// A time that has just passed still means a short wait, since clocks differ; an older one means
/// nothing.
fn wait_until(reset: Wall, now: Wall) -> Option<Duration> {
    if reset > now {
        return Some(now.until(reset));
    }
    (reset + JUST_PASSED > now).then_some(MINUTE)
}

/// Positions where numbers start.
fn numbers(text: &str) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    (0..bytes.len()).filter(move |&at| is_digit(at) && (at == 0 || !is_digit(at - 1)))
}

/// The codes of SPEC V3, and others of the same series that may come with a time.
const GLM_CODES: std::ops::RangeInclusive<u32> = 1300..=1399;
const KIMI_TYPES: [&str; 3] =
    ["rate_limit_reached_error", "engine_overloaded_error", "exceeded_current_quota_error"];
const SPAN_FOLLOWS: [&str; 4] = ["after ", "again in ", "reset in ", "resets in "];
const MOMENT_FOLLOWS: [&str; 3] = ["next_flush_time", "reset at", "resets at"];
/// Characters between such a word and the time.
const SKIPPED: [char; 5] = [' ', '"', '\'', ':', '='];
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const WAIT_MIN: Duration = Duration::from_secs(1);
/// SPEC V3: at most 24 h.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
const JUST_PASSED: Duration = Duration::from_secs(600);
/// Errors are shorter; a longer body is something else.
const BODY_BYTES_MAX: usize = 64 * 1024;
const NESTING_MAX: u32 = 4;

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
