//! Times as people write them into error messages, in English and Chinese (SPEC V3). Pure.
//!
//! A time without a zone is China Standard Time: it is Chinese providers that write so. Every function reads at the start
//! of a lower-case text and returns what follows; what is no time is `None`.

use std::time::Duration;

use crate::clock::days_from_civil;
use crate::scheduler::time::Wall;

/// Whether more than a full date counts as a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    /// A text such as "reset at" stands before: a clock without a date and an epoch number are times too.
    Yes,
    /// Anything could stand here.
    No,
}

/// A moment: a date with or without a clock; where a time is announced also a clock alone (its next occurrence) or an
/// epoch number.
pub(super) fn moment(text: &str, now: Wall, announced: Announced) -> Option<Wall> {
    if let Some((day, rest)) = date(text, now) {
        let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || ",t的".contains(c));
        let rest = rest.strip_prefix("at ").unwrap_or(rest);
        let (of_day_ms, rest) = clock(rest).unwrap_or((0, rest));
        return Some(Wall(day * DAY_MS + of_day_ms - zone_ms(rest)));
    }
    if announced == Announced::No {
        return None;
    }
    if let Some(epoch) = epoch(text) {
        return Some(epoch);
    }
    let (of_day_ms, rest) = clock(text)?;
    let zone_ms = zone_ms(rest);
    let today = (now.0 + zone_ms).div_euclid(DAY_MS);
    let at = today * DAY_MS + of_day_ms - zone_ms;
    Some(Wall(if at > now.0 { at } else { at + DAY_MS }))
}

/// A span of one or more parts: `30 seconds`, `2h30m`, `1 hour and 5 minutes`, `5小时30分钟`.
pub(super) fn span(text: &str) -> Option<(Duration, &str)> {
    let mut total_s = 0.0;
    let mut rest = text;
    let mut found = false;
    // Every number of a text may begin a span, so a hostile text must not make each of them long.
    for _ in 0..SPAN_PARTS_MAX {
        let start = rest.trim_start_matches([' ', ',', '~']);
        let start = start.strip_prefix("and ").unwrap_or(start).trim_start();
        let Some((count, after)) = number(start) else {
            break;
        };
        let after = after.trim_start();
        let Some((unit_s, after)) = unit(after) else {
            break;
        };
        total_s += count * unit_s;
        (rest, found) = (after, true);
    }
    let is_sane = found && total_s.is_finite() && (0.0..1e9).contains(&total_s);
    is_sane.then(|| (Duration::from_secs_f64(total_s), rest))
}

/// `2026-11-22`, `2026/11/22`, `2026年11月22日`, `11月22日`, `nov 22, 2026`, `22 nov`, `明天`, `tomorrow`; as a day number.
fn date(text: &str, now: Wall) -> Option<(i64, &str)> {
    let today = (now.0 + CHINA_MS).div_euclid(DAY_MS);
    for (words, ahead) in [
        (["今天", "今日", "today"], 0),
        (["明天", "明日", "tomorrow"], 1),
    ] {
        if let Some(rest) = words.iter().find_map(|word| text.strip_prefix(word)) {
            return Some((today + ahead, rest));
        }
    }
    numeric_date(text)
        .or_else(|| chinese_date(text, today))
        .or_else(|| english_date(text, today))
}

fn numeric_date(text: &str) -> Option<(i64, &str)> {
    let (year, rest) = digits(text, 4, 4)?;
    let separator = rest.chars().next().filter(|c| "-/.".contains(*c))?;
    let (month, rest) = digits(rest.strip_prefix(separator)?, 1, 2)?;
    let (day, rest) = digits(rest.strip_prefix(separator)?, 1, 2)?;
    Some((days_from_civil(year, month, day)?, rest))
}

fn chinese_date(text: &str, today: i64) -> Option<(i64, &str)> {
    let with_year = digits(text, 4, 4)
        .and_then(|(year, rest)| Some((year, rest.trim_start().strip_prefix('年')?)));
    let (year, rest) = match with_year {
        Some((year, rest)) => (Some(year), rest.trim_start()),
        None => (None, text),
    };
    let (month, rest) = digits(rest, 1, 2)?;
    let (day, rest) = digits(rest.trim_start().strip_prefix('月')?.trim_start(), 1, 2)?;
    let rest = rest.trim_start().strip_prefix(['日', '号'])?;
    Some((day_of(year, month, day, today)?, rest))
}

fn english_date(text: &str, today: i64) -> Option<(i64, &str)> {
    let (month, day, rest) = match month(text) {
        Some((month, rest)) => {
            let (day, rest) = digits(rest.trim_start(), 1, 2)?;
            (month, day, rest)
        }
        None => {
            let (day, rest) = digits(text, 1, 2)?;
            let rest = ordinal(rest).trim_start_matches([' ', '-']);
            let (month, rest) = month(rest)?;
            (month, day, rest)
        }
    };
    let rest = ordinal(rest);
    let year = digits(rest.trim_start_matches([',', ' ', '-']), 4, 4)
        .filter(|(_, after)| !after.starts_with(':'));
    let (year, rest) = match year {
        Some((year, rest)) => (Some(year), rest),
        None => (None, rest),
    };
    Some((day_of(year, month, day, today)?, rest))
}

/// Without a year: the next such day.
fn day_of(year: Option<i64>, month: i64, day: i64, today: i64) -> Option<i64> {
    match year {
        Some(year) => days_from_civil(year, month, day),
        None => {
            let this_year = 1970 + today * 400 / 146_097;
            let days = (this_year - 1..=this_year + 1)
                .filter_map(|year| days_from_civil(year, month, day));
            days.into_iter().find(|day| *day >= today)
        }
    }
}

fn month(text: &str) -> Option<(i64, &str)> {
    let (number, name) = (1..)
        .zip(MONTHS)
        .find(|(_, name)| text.starts_with(&name[..3]))?;
    let rest = text.strip_prefix(name).unwrap_or(&text[3..]);
    let rest = rest.strip_prefix("t ").unwrap_or(rest);
    let rest = rest.strip_prefix('.').unwrap_or(rest);
    rest.starts_with([' ', '-'])
        .then(|| (number, rest.trim_start_matches([' ', '-'])))
}

fn ordinal(text: &str) -> &str {
    ["st", "nd", "rd", "th"]
        .iter()
        .find_map(|ending| text.strip_prefix(ending))
        .unwrap_or(text)
}

/// `16:23:15.5`, `4:23 pm`, `4pm`, `16时23分15秒`, `下午4点半`; as milliseconds of the day.
fn clock(text: &str) -> Option<(i64, &str)> {
    let halves = [
        ("上午", 0),
        ("早上", 0),
        ("凌晨", 0),
        ("下午", 12),
        ("晚上", 12),
    ];
    let half = halves
        .iter()
        .find_map(|(word, hours)| Some((Some(*hours), text.strip_prefix(word)?)));
    let (half, text) = half.unwrap_or((None, text));
    let (hour, rest) = digits(text.trim_start(), 1, 2)?;
    let ((minute, second, ms), rest) = western_clock(rest)
        .or_else(|| chinese_clock(rest))
        .or_else(|| {
            // "4pm": an hour alone needs its half of the day.
            english_half(rest).map(|_| ((0, 0, 0), rest))
        })?;
    let (half, rest) = match english_half(rest) {
        Some((half, rest)) => (Some(half), rest),
        None => (half, rest),
    };
    let hour = match half {
        Some(0) if hour == 12 => 0,
        Some(12) if hour < 12 => hour + 12,
        _ => hour,
    };
    (hour <= 24 && minute <= 59 && second <= 60)
        .then(|| (((hour * 60 + minute) * 60 + second) * 1000 + ms, rest))
}

fn western_clock(text: &str) -> Option<((i64, i64, i64), &str)> {
    let (minute, rest) = digits(text.strip_prefix([':', '：'])?, 2, 2)?;
    let Some((second, rest)) = rest
        .strip_prefix([':', '：'])
        .and_then(|rest| digits(rest, 2, 2))
    else {
        return Some(((minute, 0, 0), rest));
    };
    let fraction = rest.strip_prefix('.').map_or(0, |rest| {
        rest.bytes().take_while(u8::is_ascii_digit).count()
    });
    if fraction == 0 {
        return Some(((minute, second, 0), rest));
    }
    let ms = rest[1..=fraction]
        .bytes()
        .chain(*b"00")
        .take(3)
        .fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    Some(((minute, second, ms), &rest[1 + fraction..]))
}

fn chinese_clock(text: &str) -> Option<((i64, i64, i64), &str)> {
    let rest = text.trim_start().strip_prefix(['时', '点'])?;
    if let Some(rest) = rest.strip_prefix('半') {
        return Some(((30, 0, 0), rest));
    }
    let Some((minute, rest)) = part(rest, '分') else {
        return Some(((0, 0, 0), rest));
    };
    let (second, rest) = part(rest, '秒').unwrap_or((0, rest));
    Some(((minute, second, 0), rest))
}

fn part(text: &str, unit: char) -> Option<(i64, &str)> {
    let (number, rest) = digits(text.trim_start(), 1, 2)?;
    Some((number, rest.trim_start().strip_prefix(unit)?))
}

fn english_half(text: &str) -> Option<(i64, &str)> {
    let text = text.trim_start();
    let halves = [("am", 0), ("a.m.", 0), ("pm", 12), ("p.m.", 12)];
    halves
        .iter()
        .find_map(|(word, hours)| Some((*hours, text.strip_prefix(word)?)))
}

/// Milliseconds east of Greenwich: `z`, `utc`, `gmt`, `+08:00`, `utc+8`, `(utc-5)`, else China Standard Time.
fn zone_ms(text: &str) -> i64 {
    let text = text.trim_start_matches([' ', '(', '（', '[']);
    let named = ["utc", "gmt", "z"]
        .iter()
        .find_map(|name| text.strip_prefix(name));
    let rest = named.unwrap_or(text);
    let sign = match rest.chars().next() {
        Some('+') => 1,
        Some('-') => -1,
        _ => 0,
    };
    let without = if named.is_some() { 0 } else { CHINA_MS };
    let Some((hours, rest)) = rest
        .get(1..)
        .filter(|_| sign != 0)
        .and_then(|rest| digits(rest, 1, 2))
    else {
        return without;
    };
    let (minutes, _) = digits(rest.strip_prefix(':').unwrap_or(rest), 2, 2).unwrap_or((0, rest));
    if hours > 14 || minutes > 59 {
        return without;
    }
    sign * (hours * HOUR_MS + minutes * MINUTE_MS)
}

/// Seconds or milliseconds since the epoch.
fn epoch(text: &str) -> Option<Wall> {
    let (number, _) = number(text)?;
    if (1e9..1e11).contains(&number) {
        Some(Wall((number * 1000.0) as i64))
    } else {
        (1e12..1e14)
            .contains(&number)
            .then_some(Wall(number as i64))
    }
}

fn number(text: &str) -> Option<(f64, &str)> {
    let length = text
        .bytes()
        .take(NUMBER_BYTES_MAX + 1)
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    if length > NUMBER_BYTES_MAX {
        return None;
    }
    let (number, rest) = text.split_at(length);
    // A full stop behind a number ends the sentence.
    Some((number.trim_end_matches('.').parse().ok()?, rest))
}

fn unit(text: &str) -> Option<(f64, &str)> {
    let (unit_s, rest) = UNITS
        .iter()
        .find_map(|(word, unit_s)| Some((*unit_s, text.strip_prefix(word)?)))?;
    // "5 members" is no five months, nor minutes.
    (!rest.starts_with(|c: char| c.is_ascii_alphabetic())).then_some((unit_s, rest))
}

/// A number of `least` to `most` digits; more digits than that are another number.
fn digits(text: &str, least: usize, most: usize) -> Option<(i64, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(length);
    (least..=most)
        .contains(&length)
        .then(|| number.parse().ok().map(|number| (number, rest)))?
}

/// Longer words before those that they begin with.
const UNITS: [(&str, f64); 33] = [
    ("milliseconds", 0.001),
    ("millisecond", 0.001),
    ("ms", 0.001),
    ("毫秒", 0.001),
    ("seconds", 1.0),
    ("second", 1.0),
    ("secs", 1.0),
    ("sec", 1.0),
    ("s", 1.0),
    ("秒钟", 1.0),
    ("秒", 1.0),
    ("minutes", 60.0),
    ("minute", 60.0),
    ("mins", 60.0),
    ("min", 60.0),
    ("m", 60.0),
    ("分钟", 60.0),
    ("分", 60.0),
    ("hours", 3600.0),
    ("hour", 3600.0),
    ("hrs", 3600.0),
    ("hr", 3600.0),
    ("h", 3600.0),
    ("个小时", 3600.0),
    ("小时", 3600.0),
    ("小時", 3600.0),
    ("days", 86_400.0),
    ("day", 86_400.0),
    ("d", 86_400.0),
    ("天", 86_400.0),
    ("日", 86_400.0),
    ("weeks", 604_800.0),
    ("week", 604_800.0),
];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
/// From weeks to milliseconds.
const SPAN_PARTS_MAX: usize = 8;
/// No time needs as many digits.
const NUMBER_BYTES_MAX: usize = 32;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// China Standard Time has no summer time.
const CHINA_MS: i64 = 8 * HOUR_MS;
