//! Times, spans and amounts as the dashboard shows them: short, local, and without seconds where a
//! second must not change the frame.

use std::time::Duration;

use crate::clock::{civil, parse_rfc3339};
use crate::scheduler::time::Wall;

/// Local time at a reference moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) now: Wall,
    /// Seconds east of UTC.
    pub(super) offset_s: i64,
}

const DAY_MS: i64 = 86_400_000;
/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
/// `2026-11-22T00:58:00.000Z`, the log's time format.
const STAMP_BYTES: usize = 24;

impl Local {
    /// `20:18`; on another day `Sun 20:18`, with the date if the weekday would be ambiguous.
    pub(super) fn when(self, at: Wall) -> String {
        let (here, there) = (self.shifted(self.now), self.shifted(at));
        let (today, day) = (here.0.div_euclid(DAY_MS), there.0.div_euclid(DAY_MS));
        let parts = civil(there);
        let time = format!("{:02}:{:02}", parts.hour, parts.minute);
        match day - today {
            0 => time,
            -6..=6 => {
                let weekday = WEEKDAYS[usize::try_from(day.rem_euclid(7)).unwrap_or(0)];
                format!("{weekday} {time}")
            }
            _ => format!("{:04}-{:02}-{:02} {time}", parts.year, parts.month, parts.day),
        }
    }

    /// `20:18:05`.
    pub(super) fn clock(self, at: Wall) -> String {
        let parts = civil(self.shifted(at));
        format!("{:02}:{:02}:{:02}", parts.hour, parts.minute, parts.second)
    }

    /// The text of a log line with each time in it rewritten by [`Local::when`].
    pub(super) fn localised(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(found) = rest.find("Z").filter(|_| rest.len() >= STAMP_BYTES) {
            let end = found + 1;
            let stamp = end.checked_sub(STAMP_BYTES).and_then(|start| {
                let stamp = rest.get(start..end)?;
                Some((start, stamp.contains('T').then(|| parse_rfc3339(stamp))??))
            });
            match stamp {
                Some((start, at)) => {
                    out.push_str(&rest[..start]);
                    out.push_str(&self.when(at));
                }
                None => out.push_str(&rest[..end]),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }

    fn shifted(self, at: Wall) -> Wall {
        Wall(at.0.saturating_add(self.offset_s.saturating_mul(1_000)))
    }
}

/// A span without seconds, in at most six characters for anything that a quota window can last:
/// `<1m`, `12m`, `2h 14m`, `17h`, `3d 4h`.
pub(crate) fn short(span: Duration) -> String {
    let minutes = span.as_secs().div_ceil(60);
    let (hours, days) = (minutes / 60, minutes / (24 * 60));
    match minutes {
        _ if span.as_secs() < 60 => "<1m".into(),
        0..60 => format!("{minutes}m"),
        60..600 => two(hours, 'h', minutes % 60, 'm'),
        600..1_440 => format!("{hours}h"),
        _ => two(days, 'd', hours % 24, 'h'),
    }
}

fn two(large: u64, large_unit: char, small: u64, small_unit: char) -> String {
    if small == 0 {
        return format!("{large}{large_unit}");
    }
    format!("{large}{large_unit} {small}{small_unit}")
}

/// An age in coarse steps: `<10s`, `10s` … `50s`, then minutes.
pub(super) fn age(ms: u64) -> String {
    match ms / 10_000 {
        0 => "<10s".into(),
        tens @ 1..6 => format!("{tens}0s"),
        _ => format!("{}m", ms / 60_000),
    }
}

/// An elapsed duration: `0.8s`, `12s`, `3m`.
pub(super) fn seconds(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        10_000..60_000 => format!("{}s", ms / 1_000),
        _ => short(Duration::from_millis(ms)),
    }
}

/// A number of tokens: `340`, `1.2k`, `12k`, `3.4M`.
pub(super) fn amount(count: u64) -> String {
    let scaled = |unit: u64, letter: char| {
        if count < 10 * unit {
            format!("{}.{}{letter}", count / unit, count % unit / (unit / 10))
        } else {
            format!("{}{letter}", count / unit)
        }
    };
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => scaled(1_000, 'k'),
        1_000_000..1_000_000_000 => scaled(1_000_000, 'M'),
        _ => scaled(1_000_000_000, 'G'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T22:45:00.000Z, a Saturday.
    const NOW: Wall = Wall(1_795_301_100_000);

    #[test]
    fn d1_times_are_local_and_say_the_day_where_it_is_another() {
        let hours = |hours: i64| Wall(NOW.0 + hours * 3_600_000);
        let local = Local { now: NOW, offset_s: 3_600 };
        for (at, text) in [
            (hours(0), "23:45"),
            (hours(1), "Sun 00:45"),
            (hours(-24), "Fri 23:45"),
            (hours(6 * 24), "Fri 23:45"),
            (hours(7 * 24), "2026-11-28 23:45"),
            (hours(-7 * 24), "2026-11-14 23:45"),
        ] {
            assert_eq!(local.when(at), text);
        }
        assert_eq!(local.clock(hours(0)), "23:45:00");
    }

    #[test]
    fn the_times_inside_of_a_log_line_become_local() {
        let local = Local { now: NOW, offset_s: -3_600 };
        for (text, shown) in [
            ("out, until 2026-11-21T23:58:00.000Z, in 2h", "out, until 22:58, in 2h"),
            ("2026-11-22T23:58:00.000Z", "Sun 22:58"),
            ("a Z and 2026-11-21T23:58:00.000Z2026-11-21T20:58:00.000Z", "a Z and 22:5819:58"),
            (
                "no time: 2026-11-21 23:58:00.000Z or ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
                "no time: 2026-11-21 23:58:00.000Z or ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
            ),
            ("9999-99-99T99:99:99.999Z é工Z", "9999-99-99T99:99:99.999Z é工Z"),
        ] {
            assert_eq!(local.localised(text), shown);
        }
    }

    #[test]
    fn spans_ages_and_amounts_are_short() {
        for (seconds, text) in [
            (0, "<1m"),
            (59, "<1m"),
            (60, "1m"),
            (61, "2m"),
            (3_600, "1h"),
            (8_040, "2h 14m"),
            (35_940, "9h 59m"),
            (61_200, "17h"),
            (86_400, "1d"),
            (273_600, "3d 4h"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
            assert!(text.len() <= 6);
        }
        for (ms, text) in [
            (0, "<10s"),
            (9_999, "<10s"),
            (10_000, "10s"),
            (59_000, "50s"),
            (60_000, "1m"),
            (754_000, "12m"),
        ] {
            assert_eq!(age(ms), text);
        }
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0k"),
            (1_234, "1.2k"),
            (12_999, "12k"),
            (999_999, "999k"),
            (1_250_000, "1.2M"),
            (5_000_000_000, "5.0G"),
        ] {
            assert_eq!(amount(count), text);
        }
        assert_eq!(seconds(5_321), "5.3s");
    }
}
