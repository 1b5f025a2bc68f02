//! Parses what an answer says about quota into a [`QuotaReport`] (SPEC S1). Pure.
//!
//! Header names and claims are Anthropic's: `5h`, `7d`, `7d_<family>` in headers correspond to the
//! claims `five_hour`, `seven_day`, `seven_day_<family>`. What cannot be parsed is left out, never
//! treated as zero.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::dates;
use crate::scheduler::policy::{FIVE_HOURS, WEEK};
use crate::scheduler::quota::{Family, QuotaReport, Verdict, WindowKind, WindowReading};
use crate::scheduler::time::{Now, Wall};

/// Reads the head of any answer, including errors. If a header occurs twice, the first one counts.
///
/// Dates and epochs are interpreted relative to the answer's own `Date` (SPEC P7), so that a wrong
/// local clock changes no wait.
pub(crate) fn report_of_headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])> + Clone,
    now: Now,
) -> QuotaReport {
    let there = Now { wall: their_wall(headers.clone(), now.wall), ..now };
    let ahead = there.wall.0.saturating_sub(now.wall.0);
    let mut report = read_headers(headers, there);
    let resets = report.windows.iter_mut().map(|window| &mut window.reset);
    for reset in resets.chain([&mut report.reset]).flatten() {
        reset.0 = reset.0.saturating_sub(ahead);
    }
    heed_retry_after(&mut report, now.wall);
    report
}

/// The time on the clock of whoever answered, from the answer's `Date` (SPEC P7).
pub(crate) fn their_wall<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    now: Wall,
) -> Wall {
    let date = headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("date"));
    let date = date.and_then(|(_, value)| std::str::from_utf8(value).ok());
    let theirs = date.and_then(|text| dates::reset_of_text(text.trim(), now));
    // `Date` has a resolution of one second, and the answer takes time to arrive.
    theirs.filter(|theirs| theirs.0.abs_diff(now.0) >= CLOCK_ERROR_MIN_MS).unwrap_or(now)
}

/// A reset further ahead than the length of its window was computed with another clock; if the
/// answer also says how long to wait, that counts (SPEC P7).
fn heed_retry_after(report: &mut QuotaReport, now: Wall) {
    let Some(wait) = report.retry_after else {
        return;
    };
    let length = |kind: &WindowKind| match kind {
        WindowKind::FiveHour => FIVE_HOURS,
        WindowKind::SevenDay
        | WindowKind::SevenDayFamily(_)
        | WindowKind::Tokens
        | WindowKind::Requests
        | WindowKind::Generic => WEEK,
    };
    let claimed = report.claim.as_ref().map_or(WEEK, length);
    let resets = report.windows.iter_mut().map(|window| (length(&window.kind), &mut window.reset));
    for (length, reset) in resets.chain([(claimed, &mut report.reset)]) {
        if reset.is_some_and(|reset| reset > now + (length + CLOCK_ERROR_MAX)) {
            *reset = Some(now + wait);
        }
    }
}

/// Tolerance for a reset after the length of its window; beyond it, a clock is wrong.
const CLOCK_ERROR_MAX: Duration = Duration::from_secs(60);

/// If our clock differs this much from the answer's, it is wrong.
const CLOCK_ERROR_MIN_MS: u64 = 5_000;

fn read_headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    now: Now,
) -> QuotaReport {
    let mut report = QuotaReport::default();
    let mut tokens = Candidates::<3>::default();
    let mut generic = Candidates::<6>::default();
    let mut requests = Candidates::<1>::default();
    for (name, value) in headers {
        // For most headers the first letter shows that they are irrelevant.
        if !name.starts_with(['a', 'A', 'x', 'X', 'r', 'R']) {
            continue;
        }
        let name = lower_case(name);
        let Some(value) = std::str::from_utf8(value).ok().map(str::trim) else {
            continue;
        };
        if let Some(rest) = name.strip_prefix("anthropic-ratelimit-") {
            if let Some(rest) = rest.strip_prefix("unified-") {
                read_unified(&mut report, rest, value, now.wall);
            } else if let Some((what, part)) = rest.rsplit_once('-') {
                match what {
                    "tokens" => tokens.read(0, part, value, now.wall),
                    "input-tokens" => tokens.read(1, part, value, now.wall),
                    "output-tokens" => tokens.read(2, part, value, now.wall),
                    "requests" => requests.read(0, part, value, now.wall),
                    _ => {}
                }
            }
        } else if let Some((slot, part)) = generic_part(&name) {
            generic.read(slot, part, value, now.wall);
        } else if name == "retry-after" && report.retry_after.is_none() {
            report.retry_after = dates::retry_after_of_text(value, now.wall);
        }
    }
    report.windows.extend(tokens.fullest(WindowKind::Tokens));
    report.windows.extend(requests.fullest(WindowKind::Requests));
    report.windows.extend(generic.fullest(WindowKind::Generic));
    report
}

/// Reads the usage endpoint's JSON (SPEC T1): `limits[]`, or the older form with one object per
/// window. `None` if it is neither.
///
/// The older form cannot distinguish 1 % from 100 %, so it is used only if there is no `limits[]`.
pub(crate) fn report_of_usage(body: &[u8], now: Now) -> Option<QuotaReport> {
    let Ok(Value::Object(usage)) = serde_json::from_slice(body) else {
        return None;
    };
    let mut report = QuotaReport::default();
    if let Some(Value::Array(limits)) = usage.get("limits") {
        for limit in limits {
            let kind = match limit.get("kind").and_then(Value::as_str) {
                Some("session") => Some(WindowKind::FiveHour),
                Some("weekly_all") => Some(WindowKind::SevenDay),
                Some("weekly_scoped") => scoped_family(limit).map(WindowKind::SevenDayFamily),
                _ => None,
            };
            add_usage(&mut report, kind, limit.get("percent"), limit.get("resets_at"), now.wall);
        }
        return Some(report);
    }
    let mut known = false;
    for (claim, window) in &usage {
        if let Some(kind) = window_of_claim(claim) {
            known = true;
            add_usage(
                &mut report,
                Some(kind),
                window.get("utilization"),
                window.get("resets_at"),
                now.wall,
            );
        }
    }
    known.then_some(report)
}

/// The family of a model id or a model's display name: `claude-opus-4-8` → `opus`.
///
/// For a Claude id it is the first alphabetic word after `claude`, so that a new family gets its
/// own windows too; for any other name it is a known word in it.
pub(crate) fn family_of_model(model: &str) -> Option<Family> {
    let model = lower_case(model);
    let known = || FAMILIES.iter().copied().find(|word| model.contains(word));
    let word = match model.rsplit_once(CLAUDE) {
        Some((_, rest)) => rest
            .split(|c: char| !c.is_ascii_alphanumeric())
            .find(|word| word.len() > 2 && word.bytes().all(|b| b.is_ascii_lowercase()))
            .or_else(known),
        None => known(),
    };
    word.map(family)
}

/// The family of a model: its whole id if no word in it names a line of models (S2).
pub(crate) fn family_or_id(model: &str) -> Family {
    family_of_model(model).unwrap_or_else(|| family(model))
}

/// The window of a `representative-claim` or of a key in the usage JSON; `None` for `overage` and
/// unknown words.
pub(crate) fn window_of_claim(claim: &str) -> Option<WindowKind> {
    match &*lower_case(claim.trim()) {
        "five_hour" | "5h" => Some(WindowKind::FiveHour),
        "seven_day" | "7d" => Some(WindowKind::SevenDay),
        claim => {
            let rest = claim.strip_prefix("seven_day_").or_else(|| claim.strip_prefix("7d_"))?;
            match rest {
                // A window of applications that sign in with OAuth, not of a model.
                "" | "oauth_apps" => None,
                "oi" | "overage_included" => {
                    Some(WindowKind::SevenDayFamily(family(OVERAGE_INCLUDED)))
                }
                rest => Some(WindowKind::SevenDayFamily(family(rest))),
            }
        }
    }
}

fn read_unified(report: &mut QuotaReport, rest: &str, value: &str, now: Wall) {
    match rest {
        "status" => fill(&mut report.verdict, verdict(value)),
        "representative-claim" => fill(&mut report.claim, window_of_claim(value)),
        "reset" => fill(&mut report.reset, dates::reset_of_text(value, now)),
        "overage-in-use" => fill(&mut report.overage_in_use, truth(value)),
        rest => {
            let Some((window, part)) = rest.rsplit_once('-') else {
                return;
            };
            let Some(kind) = window_of_claim(window) else {
                return;
            };
            match part {
                "utilization" => {
                    if let Some(share) = utilisation(value) {
                        fill(&mut reading(report, kind).utilisation, Some(share));
                    }
                }
                "reset" => {
                    if let Some(reset) = dates::reset_of_text(value, now) {
                        fill(&mut reading(report, kind).reset, Some(reset));
                    }
                }
                "status" => {
                    if let Some(verdict) = verdict(value) {
                        fill(&mut reading(report, kind).verdict, Some(verdict));
                    }
                }
                _ => {}
            }
        }
    }
}

/// The windows of one kind, kept apart until the fullest is known.
#[derive(Clone)]
struct Candidates<const N: usize>([Candidate; N]);

#[derive(Clone, Copy, Default)]
struct Candidate {
    limit: Option<u64>,
    remaining: Option<u64>,
    reset: Option<Wall>,
}

impl<const N: usize> Default for Candidates<N> {
    fn default() -> Self {
        Candidates([Candidate::default(); N])
    }
}

impl<const N: usize> Candidates<N> {
    fn read(&mut self, slot: usize, part: &str, value: &str, now: Wall) {
        let Some(candidate) = self.0.get_mut(slot) else {
            return;
        };
        match part {
            "limit" => fill(&mut candidate.limit, count(value)),
            "remaining" => fill(&mut candidate.remaining, count(value)),
            "reset" => fill(&mut candidate.reset, dates::reset_of_text(value, now)),
            _ => {}
        }
    }

    /// The window with the largest used share; among equals the one that ends last, because all of
    /// them must have room.
    fn fullest(&self, kind: WindowKind) -> Option<WindowReading> {
        let said = |c: &&Candidate| c.limit.is_some() || c.remaining.is_some() || c.reset.is_some();
        let fullest = self.0.iter().filter(said).max_by(|a, b| {
            let by_share = a.used_share().total_cmp(&b.used_share());
            by_share.then(a.reset.cmp(&b.reset))
        })?;
        Some(WindowReading {
            kind,
            utilisation: None,
            limit: fullest.limit,
            remaining: fullest.remaining,
            reset: fullest.reset,
            verdict: None,
        })
    }
}

impl Candidate {
    /// Negative if unknown, so that any known share is larger.
    fn used_share(&self) -> f64 {
        match (self.limit, self.remaining) {
            (_, Some(0)) => 1.0,
            (Some(limit), Some(remaining)) if limit > 0 => {
                1.0 - (remaining as f64 / limit as f64).min(1.0)
            }
            _ => -1.0,
        }
    }
}

/// For `x-ratelimit-limit`, `ratelimit-remaining-requests`, …: which of the six it is, and `limit`,
/// `remaining` or `reset`.
fn generic_part(name: &str) -> Option<(usize, &str)> {
    let prefixes = ["x-ratelimit-", "x-rate-limit-", "ratelimit-"];
    let (slot, rest) =
        prefixes.iter().enumerate().find_map(|(slot, p)| Some((slot, name.strip_prefix(p)?)))?;
    match rest.strip_suffix("-requests").or_else(|| rest.strip_prefix("requests-")) {
        Some(part) => Some((slot + prefixes.len(), part)),
        None => Some((slot, rest)),
    }
}

fn scoped_family(limit: &Value) -> Option<Family> {
    let model = limit.get("scope")?.get("model")?;
    let name = model.get("display_name").or_else(|| model.get("id"))?.as_str()?;
    let first_word = || name.split_whitespace().next().map(|word| family(&lower_case(word)));
    family_of_model(name).or_else(first_word)
}

fn add_usage(
    report: &mut QuotaReport,
    kind: Option<WindowKind>,
    percent: Option<&Value>,
    reset: Option<&Value>,
    now: Wall,
) {
    let share =
        percent.and_then(Value::as_f64).filter(|p| p.is_finite() && *p >= 0.0).map(|p| p / 100.0);
    let reset = match reset {
        Some(Value::String(text)) => dates::reset_of_text(text, now),
        Some(Value::Number(number)) => number.as_f64().and_then(|n| dates::reset_of_number(n, now)),
        _ => None,
    };
    if let Some(kind) = kind
        && (share.is_some() || reset.is_some())
    {
        let reading = reading(report, kind);
        fill(&mut reading.utilisation, share);
        fill(&mut reading.reset, reset);
    }
}

/// The reading of that kind, added if there is none yet.
fn reading(report: &mut QuotaReport, kind: WindowKind) -> &mut WindowReading {
    let at = report.windows.iter().position(|window| window.kind == kind).unwrap_or_else(|| {
        report.windows.push(WindowReading {
            kind,
            utilisation: None,
            limit: None,
            remaining: None,
            reset: None,
            verdict: None,
        });
        report.windows.len() - 1
    });
    &mut report.windows[at]
}

fn fill<T>(place: &mut Option<T>, value: Option<T>) {
    if place.is_none() {
        *place = value;
    }
}

fn verdict(value: &str) -> Option<Verdict> {
    match &*lower_case(value) {
        "allowed" => Some(Verdict::Allowed),
        "allowed_warning" => Some(Verdict::AllowedWarning),
        "rejected" => Some(Verdict::Rejected),
        _ => None,
    }
}

fn truth(value: &str) -> Option<bool> {
    match &*lower_case(value) {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn utilisation(value: &str) -> Option<f64> {
    let share = first_element(value).parse::<f64>().ok()?;
    (share.is_finite() && share >= 0.0).then_some(share)
}

/// A count; a fraction is dropped, and so is a parameter such as `;w=60` of the IETF draft.
fn count(value: &str) -> Option<u64> {
    let number = first_element(value).split(';').next()?.trim().parse::<f64>().ok()?;
    (number.is_finite() && (0.0..=COUNT_MAX).contains(&number)).then_some(number as u64)
}

fn first_element(value: &str) -> &str {
    value.split(',').next().unwrap_or(value).trim()
}

fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

fn family(word: &str) -> Family {
    Family(Arc::from(word))
}

/// The family of `7d_oi` (`seven_day_overage_included`), which Claude Code shows as the limit of
/// this one.
const OVERAGE_INCLUDED: &str = "fable";
/// The part of a Claude model id before its family.
const CLAUDE: &str = "claude";
/// Words that name a family anywhere in a name.
const FAMILIES: [&str; 5] = ["opus", "sonnet", "haiku", "fable", "mythos"];
/// Up to this number every integer is exactly representable as a double.
const COUNT_MAX: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
