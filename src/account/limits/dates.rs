//! Parses moments in headers: epoch numbers, delays, RFC 3339, HTTP dates. Pure.
//!
//! What cannot be parsed is `None`, never zero: a reset misread as 1970 would bring back an account
//! that is out.

use std::time::{Duration, UNIX_EPOCH};

use crate::clock::parse_rfc3339;
use crate::scheduler::time::Wall;

/// A reset header or field (SPEC S1): a number above 1e10 is epoch milliseconds, above 1e9 epoch
/// seconds, else seconds from now; other text is a date. In a comma-separated list the first
/// element counts.
pub(crate) fn reset_of_text(text: &str, now: Wall) -> Option<Wall> {
    let first = first_element(text);
    if let Ok(number) = first.parse::<f64>() {
        return reset_of_number(number, now);
    }
    // An HTTP date contains a comma itself, so its list element is the first two parts.
    parse_rfc3339(first).or_else(|| {
        let mut commas = text.match_indices(',').map(|(at, _)| at);
        commas.next()?;
        let end = commas.next().unwrap_or(text.len());
        parse_http_date(&text[..end])
    })
}

/// The number rule of SPEC S1.
pub(crate) fn reset_of_number(number: f64, now: Wall) -> Option<Wall> {
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let ms = if number > 1e10 {
        number
    } else if number > 1e9 {
        number * 1000.0
    } else {
        number * 1000.0 + now.0 as f64
    };
    (ms <= YEAR_10000_MS).then_some(Wall(ms.round() as i64))
}

/// `retry-after` (SPEC P7): seconds or a date, limited to 1 s to 24 h; `None` if unreadable or
/// negative.
pub(crate) fn retry_after_of_text(text: &str, now: Wall) -> Option<Duration> {
    let text = text.trim();
    let wait_ms = match text.parse::<f64>() {
        // `inf` is not a number of seconds, but a number with 400 digits is.
        Ok(seconds) if seconds < 0.0 || !text.contains(|c: char| c.is_ascii_digit()) => {
            return None;
        }
        Ok(seconds) => (seconds * 1000.0).min(RETRY_AFTER_MAX.as_millis() as f64) as i64,
        Err(_) => {
            let then = parse_http_date(text).or_else(|| parse_rfc3339(text))?;
            let wait = then.0.saturating_sub(now.0);
            if wait < 0 {
                return None;
            }
            wait
        }
    };
    let wait = Duration::from_millis(u64::try_from(wait_ms).ok()?);
    Some(wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

/// Any of the three forms of RFC 9110, 5.6.7.
fn parse_http_date(text: &str) -> Option<Wall> {
    let then = httpdate::parse_http_date(text.trim()).ok()?;
    let ms = then.duration_since(UNIX_EPOCH).ok()?.as_millis();
    i64::try_from(ms).ok().map(Wall)
}

fn first_element(text: &str) -> &str {
    text.split(',').next().unwrap_or(text).trim()
}

/// 1 s: SPEC P7.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// 24 h: SPEC P7.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Later moments are not dates but noise.
const YEAR_10000_MS: f64 = 253_402_300_800_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T22:45:00Z.
    const NOW: Wall = Wall(1_795_301_100_000);

    #[test]
    fn a_reset_is_read_in_every_form_or_not_at_all() {
        let table: &[(&str, &str, Option<i64>)] = &[
            ("S1 epoch seconds", "1795304700", Some(1_795_304_700_000)),
            ("S1 epoch seconds with a fraction", "1795304700.25", Some(1_795_304_700_250)),
            ("S1 epoch milliseconds", "1795304700123", Some(1_795_304_700_123)),
            ("S1 just above 1e10 is milliseconds", "10000000001", Some(10_000_000_001)),
            ("S1 just above 1e9 is seconds", "1000000001", Some(1_000_000_001_000)),
            ("S1 seconds from now", "90", Some(NOW.0 + 90_000)),
            ("S1 a fraction of a second from now", "0.5", Some(NOW.0 + 500)),
            ("S1 zero is now", "0", Some(NOW.0)),
            ("S1 comma list", "60, 3600", Some(NOW.0 + 60_000)),
            ("S1 RFC 3339", "2026-11-21T23:45:00Z", Some(1_795_304_700_000)),
            ("S1 RFC 3339 with an offset", "2026-11-22T07:45:00+08:00", Some(1_795_304_700_000)),
            (
                "S1 RFC 3339 with microseconds",
                "2026-11-21T23:45:00.123456Z",
                Some(1_795_304_700_123),
            ),
            (
                "S1 RFC 3339, one digit of fraction, west",
                "2026-11-21T18:45:00.5-05:00",
                Some(1_795_304_700_500),
            ),
            (
                "S1 RFC 3339 in a list",
                "2026-11-21T23:45:00Z, 2027-01-01T00:00:00Z",
                Some(1_795_304_700_000),
            ),
            ("S1 HTTP date", "Sat, 21 Nov 2026 23:45:00 GMT", Some(1_795_304_700_000)),
            (
                "S1 HTTP date in a list",
                "Sat, 21 Nov 2026 23:45:00 GMT, Sun, 22 Nov 2026 23:45:00 GMT",
                Some(1_795_304_700_000),
            ),
            ("S1 leap day", "2028-02-29T00:00:00Z", Some(1_835_395_200_000)),
            ("S1 a day that does not exist", "2027-02-29T00:00:00Z", None),
            ("S1 negative", "-5", None),
            ("S1 NaN", "NaN", None),
            ("S1 infinite", "inf", None),
            ("S1 too far", "1e300", None),
            ("S1 empty", "", None),
            ("S1 a word", "soon", None),
            ("S1 a comma alone", ",", None),
            ("S1 rubbish after a date", "2026-11-21T23:45:00Zzz", None),
            ("S1 not ASCII", "２０２６", None),
        ];
        for (rule, text, expected) in table {
            assert_eq!(reset_of_text(text, NOW).map(|w| w.0), *expected, "{rule}: {text:?}");
        }
    }

    #[test]
    fn retry_after_is_held_between_a_second_and_a_day() {
        let table: &[(&str, &str, Option<u64>)] = &[
            ("P7 seconds", "17", Some(17_000)),
            ("P7 a fraction", "1.5", Some(1_500)),
            ("P7 zero is held at a second", "0", Some(1_000)),
            ("P7 less than a second", "0.2", Some(1_000)),
            ("P7 a day and a half", "124633", Some(86_400_000)),
            ("P7 beyond all measure", "1e300", Some(86_400_000)),
            ("P7 HTTP date", "Sat, 21 Nov 2026 22:46:00 GMT", Some(60_000)),
            ("P7 HTTP date, old form", "Saturday, 21-Nov-26 22:46:00 GMT", Some(60_000)),
            ("P7 a date far ahead", "Sun, 21 Nov 2027 22:46:00 GMT", Some(86_400_000)),
            ("P7 a date that has passed is negative", "Sat, 21 Nov 2026 22:44:00 GMT", None),
            ("P7 negative", "-1", None),
            ("P7 NaN", "nan", None),
            ("P7 a word that Rust takes for a number", "Infinity", None),
            ("P7 a number with too many digits", &"9".repeat(400), Some(86_400_000)),
            ("P7 unreadable", "a while", None),
            ("P7 empty", "", None),
        ];
        for (rule, text, expected) in table {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(retry_after_of_text(text, NOW), expected, "{rule}: {text:?}");
        }
    }

    #[test]
    fn no_text_makes_the_date_reader_panic() {
        let seeds = ["2026-11-21T23:45:00.1234+08:00", "Sat, 21 Nov 2026 23:45:00 GMT"];
        for seed in seeds {
            for cut in 0..=seed.len() {
                for extra in ["", "é", ":", "-", "9", ",", "\u{ff11}"] {
                    let text = format!("{}{extra}{}", &seed[..cut], &seed[cut..]);
                    let _ = reset_of_text(&text, NOW);
                    let _ = retry_after_of_text(&text, NOW);
                }
            }
        }
    }
}
