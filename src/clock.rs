//! The only module that reads a clock, and how times are written.
//!
//! Everything else receives a [`Now`], so that decisions can be replayed. All times here are UTC;
//! `zone` knows the local time zone.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::scheduler::time::{Mono, Now, Wall};

/// Reads both clocks.
pub(crate) fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// The wall clock: for resets and expiry.
pub(crate) fn wall() -> Wall {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(span) => Wall(ms(span)),
        Err(before) => Wall(-ms(before.duration())),
    }
}

/// The format of the `date` header (RFC 9110 section 5.6.7).
pub(crate) fn http_date(wall: Wall) -> String {
    let ms = u64::try_from(wall.0).unwrap_or(0);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms))
}

/// The monotonic clock: for waits and cooldowns. It starts at [`BEFORE`] when first read.
pub(crate) fn mono() -> Mono {
    static START: OnceLock<Instant> = OnceLock::new();
    let span = START.get_or_init(Instant::now).elapsed();
    Mono(BEFORE + u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 2))
}

/// The monotonic clock starts at one year, in milliseconds, so that moments before our start, as
/// another process hands them over, can be represented.
const BEFORE: u64 = 365 * 24 * 3600 * 1000;

/// The system's monotonic clock in microseconds, for supervisors that compare it with their own
/// (sd_notify).
pub(crate) fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}

/// Measures a span more precisely than the milliseconds of [`Mono`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// What is left of `limit`; `None` once it is used up.
    pub(crate) fn left_of(self, limit: Duration) -> Option<Duration> {
        limit.checked_sub(self.elapsed()).filter(|left| !left.is_zero())
    }
}

/// A moment as its parts in UTC, for file names and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    /// The year, astronomical numbering.
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: u32,
    /// 1 to 31.
    pub(crate) day: u32,
    /// 0 to 23.
    pub(crate) hour: u32,
    /// 0 to 59.
    pub(crate) minute: u32,
    /// 0 to 59: Unix time has no leap seconds.
    pub(crate) second: u32,
    /// 0 to 999.
    pub(crate) ms: u32,
}

const DAY_MS: i64 = 86_400_000;

/// The parts of `wall` in UTC.
pub(crate) fn civil(wall: Wall) -> Civil {
    let (days, ms) = (wall.0.div_euclid(DAY_MS), wall.0.rem_euclid(DAY_MS));
    // Converts days to a date in the proleptic Gregorian calendar. Years start in March so that the
    // leap day comes last. See H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    // civil_from_days.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let small = |value: i64| u32::try_from(value).unwrap_or(0);
    Civil {
        year: era * 400 + year_of_era + i64::from(month <= 2),
        month: small(month),
        day: small(day_of_year - (153 * month_index + 2) / 5 + 1),
        hour: small(ms / 3_600_000),
        minute: small(ms / 60_000 % 60),
        second: small(ms / 1_000 % 60),
        ms: small(ms % 1_000),
    }
}

/// `YYYY-MM-DDTHH:MM:SS.mmmZ`, the format of every time meant for other programs (SPEC P1).
pub(crate) fn iso(wall: Wall) -> String {
    let mut text = String::new();
    push_iso(&mut text, wall);
    text
}

/// Appends [`iso`].
pub(crate) fn push_iso(out: &mut String, wall: Wall) {
    let at = civil(wall);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year, at.month, at.day, at.hour, at.minute, at.second, at.ms
    );
}

/// Parses an RFC 3339 time with an offset and any number of fraction digits. `None` if it is not
/// one.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Wall> {
    let text = text.trim();
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let time = rest.get(..8)?;
    let (year, month, day) = (digits(date, 0, 4)?, digits(date, 5, 2)?, digits(date, 8, 2)?);
    let (hour, minute, second) = (digits(time, 0, 2)?, digits(time, 3, 2)?, digits(time, 6, 2)?);
    let separators = [&date[4..5], &date[7..8], &time[2..3], &time[5..6]];
    if separators != ["-", "-", ":", ":"] || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ms, zone) = fraction(&rest[8..])?;
    let seconds = (days_from_civil(year, month, day)? * 24 + hour) * 3_600 + minute * 60 + second
        - offset_s(zone)?;
    Some(Wall(seconds * 1_000 + fraction_ms))
}

/// The milliseconds of a leading `.fraction`, and the rest of the text.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return None;
    }
    let ms = rest[..length]
        .bytes()
        .chain(*b"00")
        .take(3)
        .fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    Some((ms, &rest[length..]))
}

/// Seconds east of UTC of `Z`, `+hh:mm` or `-hh:mm`.
fn offset_s(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    if zone.len() != 6 || zone.as_bytes()[3] != b':' {
        return None;
    }
    let (hours, minutes) = (digits(zone, 1, 2)?, digits(zone, 4, 2)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// Days from the epoch to a date. `None` if the date does not exist.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_index = (month + 9) % 12;
    let day_of_year = (153 * month_index + 2) / 5 + day - 1;
    Some(
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year
            - 719_468,
    )
}

/// `length` ASCII digits at `from` as a number.
fn digits(text: &str, from: usize, length: usize) -> Option<i64> {
    let part = text.get(from..from + length)?;
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
}

/// A span for people, in at most two units: `45s`, `12m 30s`, `2h 14m`, `3d 4h`.
///
/// Rounded up, so that a wait is never announced as shorter than it is.
pub(crate) fn human(span: Duration) -> String {
    let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    let minutes = seconds.div_ceil(60);
    let hours = minutes.div_ceil(60);
    let (large, small) = if seconds < 60 {
        ((seconds, 's'), (0, 's'))
    } else if seconds < 3_600 {
        ((seconds / 60, 'm'), (seconds % 60, 's'))
    } else if minutes < 24 * 60 {
        ((minutes / 60, 'h'), (minutes % 60, 'm'))
    } else {
        ((hours / 24, 'd'), (hours % 24, 'h'))
    };
    let mut text = format!("{}{}", large.0, large.1);
    if small.0 > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, " {}{}", small.0, small.1);
    }
    text
}

/// A span that is over: `1ms`, `4.2s`, and from ten seconds on as [`human`] writes it.
pub(crate) fn lasted(span: Duration) -> String {
    match span.as_millis() {
        ms @ 0..1_000 => format!("{ms}ms"),
        ms @ 1_000..10_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        _ => human(span),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_written_with_milliseconds_in_utc() {
        for (wall, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_772_323_199_999, "2026-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso(Wall(wall)), text);
            assert_eq!(parse_rfc3339(text), Some(Wall(wall)), "{text}");
        }
        for (wall, text) in [
            (253_402_300_800_000, "10000-01-01T00:00:00.000Z"),
            (-62_167_219_200_001, "-001-12-31T23:59:59.999Z"),
            (i64::MAX, "292278994-08-17T07:12:55.807Z"),
        ] {
            assert_eq!(iso(Wall(wall)), text);
        }
    }

    #[test]
    fn rfc_3339_is_read_with_fractions_and_offsets() {
        for (text, wall) in [
            ("1970-01-01T00:00:01Z", Some(1_000)),
            ("1970-01-01t00:00:01z", Some(1_000)),
            ("1970-01-01 00:00:01Z", Some(1_000)),
            ("1970-01-01T00:00:00.5Z", Some(500)),
            ("1970-01-01T00:00:00.123456789Z", Some(123)),
            ("1970-01-01T08:00:00+08:00", Some(0)),
            ("1969-12-31T18:30:00.25-05:30", Some(250)),
            (" 1970-01-01T00:00:00Z ", Some(0)),
            ("1970-01-01T00:00:60Z", Some(60_000)),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01T00:00:00.Z", None),
            ("1970-01-01T24:00:00Z", None),
            ("1970-02-29T00:00:00Z", None),
            ("1970-13-01T00:00:00Z", None),
            ("1970-00-01T00:00:00Z", None),
            ("1970-01-01T00:00:00+0800", None),
            ("1970-01-01T00:00:00+24:00", None),
            ("1970/01/01T00:00:00Z", None),
            ("+970-01-01T00:00:00Z", None),
            ("1970-01-01Tüü:00:00Z", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(parse_rfc3339(text), wall.map(Wall), "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_goes_to_a_date_and_back() {
        for day in (-146_097..146_097).step_by(7) {
            let at = civil(Wall(day * DAY_MS));
            assert_eq!(days_from_civil(at.year, i64::from(at.month), i64::from(at.day)), Some(day));
        }
    }

    #[test]
    fn spans_are_said_in_two_units_and_rounded_up() {
        for (ms, text) in [
            (0, "0s"),
            (1, "1s"),
            (45_000, "45s"),
            (59_001, "1m"),
            (750_000, "12m 30s"),
            (3_600_000, "1h"),
            (8_040_000, "2h 14m"),
            (11_519_001, "3h 12m"),
            (86_399_001, "1d"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(human(Duration::from_millis(ms)), text, "{ms} ms");
        }
    }

    #[test]
    fn what_is_over_is_not_rounded_up_to_a_second() {
        for (ms, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (9_999, "9.9s"),
            (10_000, "10s"),
            (61_000, "1m 1s"),
        ] {
            assert_eq!(lasted(Duration::from_millis(ms)), text, "{ms} ms");
        }
    }

    #[test]
    fn the_clocks_move_forward_together() {
        let before = now();
        let watch = Stopwatch::start();
        while watch.left_of(Duration::from_millis(3)).is_some() {}
        let after = now();
        assert!(after.mono.since(before.mono) >= Duration::from_millis(2));
        assert!(after.wall.0 > 1_577_836_800_000, "the wall clock counts from 1970");
    }
}
