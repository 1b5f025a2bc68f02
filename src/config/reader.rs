//! Reads values of the config document strictly: the right type and in range, or a problem that
//! names the key.
//!
//! Every key that is read becomes a known key; keys that are never read are reported as unknown. An
//! absent key gets its default; `null` counts as absent only if the key may be null.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::BaseUrl;
use super::locate::{self, Place, Step};
use super::near::nearest;
use crate::error::Error;

/// Longer times are reduced to this. No deadline can overflow, and nobody waits a hundred years.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<(Place, String)>,
    unknown: Vec<Unknown>,
    /// Every key that was read, outside the list of accounts.
    known: Vec<String>,
    /// Lines for the user that do not concern a single key.
    pub(super) notices: Vec<String>,
}

impl Findings {
    /// All problems as one error, one per line; `None` if there are none.
    pub(super) fn error(&self, text: &str, file: &Path) -> Option<Error> {
        let line = |(place, problem): &(Place, String)| {
            format!("{}:{}: {place}: {problem}", file.display(), locate::line_of(text, place))
        };
        let lines: Vec<String> = self.problems.iter().map(line).collect();
        (!lines.is_empty()).then(|| Error::operator(lines.join("\n")))
    }

    /// Lines to be shown once. All unknown keys share one line, however many another version or
    /// program has left there, and it is short, since log lines are cut.
    pub(super) fn into_notices(self, text: &str, file: &Path) -> Vec<String> {
        let (idle, told): (Vec<&Unknown>, Vec<&Unknown>) =
            self.unknown.iter().partition(|key| key.instead() == Some(NOTHING));
        let named = |unknown: &Unknown| {
            let line = locate::line_of(text, &unknown.place);
            let hint = unknown.hint(&self.known).unwrap_or_default();
            (line, format!("{} (line {line}{hint})", unknown.place))
        };
        let mut keys: Vec<(usize, String)> = told.into_iter().map(named).collect();
        keys.sort_by_key(|(line, _)| *line);
        let mut parts: Vec<String> = Vec::new();
        if !keys.is_empty() {
            parts.push(keys.into_iter().map(|(_, key)| key).collect::<Vec<_>>().join(", "));
        }
        if !idle.is_empty() {
            let names: Vec<String> = idle.iter().map(|key| key.place.to_string()).collect();
            parts.push(format!("without a replacement: {}", names.join(", ")));
        }
        if self.unknown.iter().any(|key| key.instead().is_some()) {
            parts.push("see maxpool(5)".to_owned());
        }
        let how_many = match self.unknown.len() {
            1 => "unknown key".to_owned(),
            several => format!("{several} unknown keys"),
        };
        let line =
            || format!("{}: {how_many}, kept but not used: {}", file.display(), parts.join("; "));
        let all = (!self.unknown.is_empty()).then(line);
        all.into_iter().chain(self.notices).collect()
    }
}

/// A key that does not exist.
#[derive(Debug)]
struct Unknown {
    place: Place,
    /// The most similar key of the same section.
    nearest: Option<String>,
}

impl Unknown {
    /// What replaces a key of the Node program.
    fn instead(&self) -> Option<&'static str> {
        let Some(Step::Key(key)) = self.place.0.last() else {
            return None;
        };
        let found = OF_THE_NODE_PROGRAM.iter().find(|(other, _)| other == key);
        found.map(|(_, instead)| *instead)
    }

    /// What to write instead, if known.
    fn hint(&self, known: &[String]) -> Option<String> {
        if let Some(instead) = self.instead() {
            return Some(format!("; {instead}"));
        }
        let Some(Step::Key(key)) = self.place.0.last() else {
            return None;
        };
        let elsewhere = || {
            let named = |path: &&String| path.rsplit('.').next().unwrap_or_default() == key;
            known.iter().find(named).cloned()
        };
        let meant = self.nearest.clone().or_else(elsewhere)?;
        Some(format!("; did you mean {meant}?"))
    }
}

/// Keys of later versions of the Node program, and what replaces them here.
const OF_THE_NODE_PROGRAM: [(&str, &str); 14] = [
    ("crossProviderFallbackPolicy", "use accounts[].profiles"),
    ("routingMode", "use routing.mode and accounts[].profiles"),
    ("providers", "use accounts[] of type provider"),
    ("restartDrainTimeoutMs", "use shutdown.drainTimeoutMs"),
    ("streamHoldMaxMs", "use queue.maxWaitMs"),
    ("eventLog", "use logFile"),
    ("concurrencyWeight", "use scheduler.spreadShareWeight"),
    ("weeklyAwareScoring", "use scheduler.scarcityWeight"),
    ("preventSleep", NOTHING),
    ("updateCheck", NOTHING),
    ("autoUpdate", NOTHING),
    ("autoApply", NOTHING),
    ("ui", NOTHING),
    ("effort", NOTHING),
];

/// There is no replacement.
const NOTHING: &str = "";

/// An object of the document, or the place of a missing one.
pub(super) struct Section<'a> {
    values: Option<&'a Map<String, Value>>,
    place: Place,
    asked: RefCell<Vec<&'static str>>,
    findings: &'a RefCell<Findings>,
}

impl<'a> Section<'a> {
    /// The document itself.
    pub(super) fn root(
        values: &'a Map<String, Value>,
        findings: &'a RefCell<Findings>,
    ) -> Section<'a> {
        Section::at(Some(values), Place::default(), findings)
    }

    fn at(
        values: Option<&'a Map<String, Value>>,
        place: Place,
        findings: &'a RefCell<Findings>,
    ) -> Section<'a> {
        Section { values, place, asked: RefCell::default(), findings }
    }

    /// Reads the object under `key` with `read`, and reports the keys that it did not read.
    pub(super) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Section<'a>) -> T) -> T {
        let values = match self.value(key) {
            None => None,
            Some(Value::Object(values)) => Some(values),
            Some(other) => self.wrong_type(key, "an object", other),
        };
        Section::at(values, self.place_of(key), self.findings).read(read)
    }

    /// Reads each object of the list under `key` with `read`.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        read: impl Fn(usize, &Section<'a>) -> T,
    ) -> Vec<T> {
        let values = match self.value(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => return self.wrong_type(key, "a list", other).unwrap_or_default(),
        };
        let mut read_values = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let place = self.place_of(key).then(Step::Index(index));
            match value {
                Value::Object(values) => {
                    let section = Section::at(Some(values), place, self.findings);
                    read_values.push(section.read(|section| read(index, section)));
                }
                other => self
                    .findings
                    .borrow_mut()
                    .problems
                    .push((place, expected("an object", &found(other)))),
            }
        }
        read_values
    }

    /// Runs `read` on this section and reports the keys that it did not read.
    pub(super) fn read<T>(self, read: impl FnOnce(&Section<'a>) -> T) -> T {
        let value = read(&self);
        let asked = self.asked.borrow();
        for key in self.values.into_iter().flat_map(Map::keys) {
            if !asked.contains(&key.as_str()) {
                let place = self.place.then(Step::Key(key.clone()));
                let nearest = nearest(key, asked.iter().copied());
                let nearest = nearest.map(|near| self.place_of(near).to_string());
                self.findings.borrow_mut().unknown.push(Unknown { place, nearest });
            }
        }
        if !self.place.0.iter().any(|step| matches!(step, Step::Index(_))) {
            let known = asked.iter().map(|key| self.place_of(key).to_string());
            self.findings.borrow_mut().known.extend(known);
        }
        value
    }

    /// Reports a problem with the value of `key`.
    pub(super) fn problem(&self, key: &str, text: impl Into<String>) {
        let place = self.place_of(key);
        self.findings.borrow_mut().problems.push((place, text.into()));
    }

    /// Reports a line for the user that is not a problem.
    pub(super) fn notice(&self, text: impl Into<String>) {
        self.findings.borrow_mut().notices.push(text.into());
    }

    /// The raw value of `key`. Makes the key a known one.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().push(key);
        self.values?.get(key)
    }

    /// `true` or `false`. Here and below, an absent key leaves the variable at its default.
    pub(super) fn flag(&self, key: &'static str, flag: &mut bool) {
        match self.value(key) {
            None => {}
            Some(Value::Bool(given)) => *flag = *given,
            Some(other) => self.wrong_type(key, "true or false", other).unwrap_or(()),
        }
    }

    /// A text with at least one character.
    pub(super) fn text(&self, key: &'static str, text: &mut String) {
        match self.value(key) {
            None => {}
            Some(Value::String(given)) if !given.is_empty() => text.clone_from(given),
            Some(Value::String(_)) => self.problem(key, expected("a string", "an empty string")),
            Some(other) => self.wrong_type(key, "a string", other).unwrap_or(()),
        }
    }

    /// A text that may be absent, null or empty, all with the same meaning.
    pub(super) fn text_if_any(&self, key: &'static str) -> Option<String> {
        match self.value(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
            Some(other) => self.wrong_type(key, "a string", other),
        }
    }

    /// A base URL, if the key is present and valid.
    pub(super) fn base_url(&self, key: &'static str) -> Option<BaseUrl> {
        let text = self.text_if_any(key)?;
        let url = BaseUrl::parse(&text);
        if url.is_none() {
            self.problem(
                key,
                "expected an http:// or https:// URL with a host and an optional path, without \
                 user, query or fragment",
            );
        }
        url
    }

    /// One of several words, if the key is present.
    pub(super) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let wanted = quoted.join(" or ");
        match self.value(key) {
            None => None,
            Some(Value::String(text)) => {
                let word = words.iter().find(|(word, _)| word == text);
                if word.is_none() {
                    self.problem(key, expected(&wanted, "another string"));
                }
                word.map(|(_, value)| *value)
            }
            Some(other) => self.wrong_type(key, &wanted, other),
        }
    }

    /// A time in milliseconds.
    pub(super) fn time_ms(&self, key: &'static str, time: &mut Duration) {
        if let Some(ms) = self.number(key, "a time in ms, 0 or more", f64::MAX) {
            *time = time_from_ms(ms);
        }
    }

    /// A time in milliseconds, or null.
    pub(super) fn time_ms_if_any(&self, key: &'static str, time: &mut Option<Duration>) {
        if self.value(key).is_some_and(Value::is_null) {
            *time = None;
        } else if let Some(ms) = self.number(key, "a time in ms, 0 or more, or null", f64::MAX) {
            *time = Some(time_from_ms(ms));
        }
    }

    /// The weight of a term in a sum.
    pub(super) fn weight(&self, key: &'static str, weight: &mut f64) {
        if let Some(given) = self.number(key, "a number, 0 or more", f64::MAX) {
            *weight = given;
        }
    }

    /// A share from 0 to 1.
    pub(super) fn share(&self, key: &'static str, share: &mut f64) {
        if let Some(given) = self.number(key, "a number from 0 to 1", 1.0) {
            *share = given;
        }
    }

    /// A share from 0 to 1, if the key is present.
    pub(super) fn share_if_any(&self, key: &'static str) -> Option<f64> {
        self.number(key, "a number from 0 to 1", 1.0)
    }

    /// A count or a size. Values beyond the type's range become its largest value.
    pub(super) fn count<T: TryFrom<u64>>(&self, key: &'static str, count: &mut T) {
        let Some(given) = self.whole(key, "a whole number, 0 or more", u64::MAX) else {
            return;
        };
        // Only 32-bit types cannot hold every `u64`.
        let fitting = T::try_from(given).or_else(|_| T::try_from(u64::from(u32::MAX)));
        if let Ok(fitting) = fitting {
            *count = fitting;
        }
    }

    /// A TCP port.
    pub(super) fn port(&self, key: &'static str, port: &mut u16) {
        let given = self.whole(key, "a port from 0 to 65535", u64::from(u16::MAX));
        if let Some(given) = given.and_then(|given| u16::try_from(given).ok()) {
            *port = given;
        }
    }

    /// Seconds: 0, or at least `least`.
    pub(super) fn seconds_or_off(&self, key: &'static str, least: u32) -> Option<Duration> {
        let wanted = format!("0 (off) or at least {least} seconds");
        let seconds = self.number(key, &wanted, f64::MAX).filter(|seconds| *seconds > 0.0)?;
        if seconds < f64::from(least) {
            self.problem(key, expected(&wanted, &Value::from(seconds).to_string()));
            return None;
        }
        Some(time_from_ms(seconds * 1_000.0))
    }

    /// A whole number of any sign.
    pub(super) fn integer(&self, key: &'static str, default: i64) -> i64 {
        let value = match self.value(key) {
            None => return default,
            Some(value) => value,
        };
        #[expect(clippy::cast_possible_truncation, reason = "the bounds keep it exact")]
        let from_float =
            |float: f64| (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64);
        let integer = value.as_i64().or_else(|| value.as_f64().and_then(from_float));
        integer.or_else(|| self.wrong_type(key, "a whole number", value)).unwrap_or(default)
    }

    fn number(&self, key: &'static str, wanted: &str, limit: f64) -> Option<f64> {
        let value = self.value(key)?;
        let number = value.as_f64().filter(|number| (0.0..=limit).contains(number));
        number.or_else(|| self.wrong_type(key, wanted, value))
    }

    /// A whole number up to `limit`; numbers beyond the range of `u64` count as its largest value.
    fn whole(&self, key: &'static str, wanted: &str, limit: u64) -> Option<u64> {
        let value = self.value(key)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, as wanted"
        )]
        let from_float =
            |float: f64| (float >= 0.0 && float.fract() == 0.0).then_some(float as u64);
        let whole = value.as_u64().or_else(|| value.as_f64().and_then(from_float));
        whole.filter(|whole| *whole <= limit).or_else(|| self.wrong_type(key, wanted, value))
    }

    /// Reports a value of the wrong type. Returns `None`, so that the caller uses a default.
    pub(super) fn wrong_type<T>(&self, key: &str, wanted: &str, value: &Value) -> Option<T> {
        self.problem(key, expected(wanted, &found(value)));
        None
    }

    fn place_of(&self, key: &str) -> Place {
        self.place.then(Step::Key(key.to_owned()))
    }
}

/// `expected a port from 0 to 65535, found null`.
pub(super) fn expected(wanted: &str, found: &str) -> String {
    format!("expected {wanted}, found {found}")
}

/// Describes a value without revealing secrets: for a text, only that it is one.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn time_from_ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or(TIME_MAX).min(TIME_MAX)
}
