//! Parses times in the error messages of providers, in the forms that GLM and Kimi use (SPEC V3).
//! Pure.
//!
//! A date without a zone is China Standard Time, as GLM writes it. Every function parses at the
//! start of a lower-case text. Other forms, such as month names or a time without a date, are not
//! supported: no known provider sends them, and a code without a readable time has a default wait.

use std::time::Duration;

use crate::clock::days_from_civil;
use crate::scheduler::time::Wall;

/// A date with or without a time of day: `2026-11-22 07:15:00`, `2026/11/22 07:15 (utc+8)`,
/// `2026-11-21t23:15:00.5z`.
pub(super) fn date(text: &str) -> Option<Wall> {
    let (year, rest) = digits(text, 4, 4)?;
    let separator = rest.chars().next().filter(|c| "-/".contains(*c))?;
    let (month, rest) = digits(rest.strip_prefix(separator)?, 1, 2)?;
    let (day, rest) = digits(rest.strip_prefix(separator)?, 1, 2)?;
    let day = days_from_civil(year, month, day)?;
    let (of_day_ms, rest) = clock(rest.trim_start_matches([' ', 't'])).unwrap_or((0, rest));
    Some(Wall(day * DAY_MS + of_day_ms - zone_ms(rest)))
}

/// Seconds or milliseconds since the epoch, in this century.
pub(super) fn epoch(text: &str) -> Option<Wall> {
    let seconds = digits(text, 10, 10).map(|(seconds, _)| seconds * 1_000);
    let ms = seconds.or_else(|| digits(text, 13, 13).map(|(ms, _)| ms))?;
    Some(Wall(ms))
}

/// A number and its unit: `30 seconds`, `15 秒`. Also returns the rest of the text.
pub(super) fn span(text: &str) -> Option<(Duration, &str)> {
    let (count, rest) = digits(text.trim_start(), 1, 9)?;
    let rest = rest.trim_start();
    let (unit_s, rest) =
        UNITS.iter().find_map(|(word, unit_s)| Some((*unit_s, rest.strip_prefix(word)?)))?;
    let count = u64::try_from(count).ok()?;
    Some((Duration::from_secs(count * unit_s), rest))
}

/// `7:15`, `07:15:00`, `07:15:00.5`, as milliseconds of the day.
fn clock(text: &str) -> Option<(i64, &str)> {
    let (hour, rest) = digits(text, 1, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2, 2)?;
    let second = rest.strip_prefix(':').and_then(|rest| digits(rest, 2, 2));
    let (second, rest) = second.unwrap_or((0, rest));
    // A fraction of a second does not matter for a quota.
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let is_time = hour <= 24 && minute <= 59 && second <= 60;
    is_time.then_some((((hour * 60 + minute) * 60 + second) * 1000, rest))
}

/// Milliseconds east of Greenwich: `z`, `utc`, `gmt`, `+08:00`, `(utc+8)`, else China Standard
/// Time.
fn zone_ms(text: &str) -> i64 {
    let text = text.trim_start_matches([' ', '(']);
    let named = ["utc", "gmt", "z"].iter().find_map(|name| text.strip_prefix(name));
    let without = if named.is_some() { 0 } else { CHINA_MS };
    let rest = named.unwrap_or(text);
    let (sign, rest) = match (rest.strip_prefix('+'), rest.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (None, Some(rest)) => (-1, rest),
        (None, None) => return without,
    };
    let Some((hours, rest)) = digits(rest, 1, 2).filter(|(hours, _)| *hours <= 14) else {
        return without;
    };
    let minutes = rest.strip_prefix(':').and_then(|rest| digits(rest, 2, 2));
    let minutes = minutes.map_or(0, |(minutes, _)| minutes);
    sign * (hours * 60 + minutes) * 60_000
}

/// A number of `least` to `most` digits; with more digits it is something else.
fn digits(text: &str, least: usize, most: usize) -> Option<(i64, &str)> {
    let length = text.bytes().take(most + 1).take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(length);
    (least..=most).contains(&length).then(|| number.parse().ok().map(|number| (number, rest)))?
}

const UNITS: [(&str, u64); 9] = [
    ("second", 1),
    ("minute", 60),
    ("hour", 3600),
    ("day", 86_400),
    ("秒", 1),
    ("分钟", 60),
    ("个小时", 3600),
    ("小时", 3600),
    ("天", 86_400),
];
const DAY_MS: i64 = 24 * 3_600_000;
/// China Standard Time has no daylight saving time.
const CHINA_MS: i64 = 8 * 3_600_000;
