//! The local time zone, from `TZ` or `/etc/localtime`: usage is counted by local days.
//!
//! A zone file (RFC 9636) lists past transitions, and its last line is a rule for all later times
//! (a POSIX `TZ` string). Both are read here. A zone that cannot be read is treated as UTC.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::clock::{Civil, civil, days_from_civil};
use crate::scheduler::time::Wall;

/// The offset at a moment, in seconds east of UTC.
pub(crate) fn utc_offset_s(wall: Wall) -> i64 {
    static ZONE: OnceLock<Zone> = OnceLock::new();
    ZONE.get_or_init(Zone::of_this_machine).offset(wall.0.div_euclid(1000))
}

/// A moment as its parts in local time.
pub(crate) fn local(wall: Wall) -> Civil {
    civil(Wall(wall.0.saturating_add(utc_offset_s(wall) * 1000)))
}

/// The local date, counted in days since 1970-01-01.
pub(crate) fn local_day(wall: Wall) -> i64 {
    let Civil { year, month, day, .. } = local(wall);
    days_from_civil(year, month.into(), day.into()).unwrap_or_default()
}

/// `2026-11-29`.
pub(crate) fn date_of(day: i64) -> String {
    let Civil { year, month, day, .. } = civil(Wall(day.saturating_mul(DAY_MS)));
    format!("{year:04}-{month:02}-{day:02}")
}

/// Parses a date written by [`date_of`].
pub(crate) fn day_of(date: &str) -> Option<i64> {
    let mut parts = date.splitn(3, '-').map(|part| part.parse().ok());
    days_from_civil(parts.next()??, parts.next()??, parts.next()??)
}

const DAY_MS: i64 = 86_400_000;

/// Offsets from UTC over time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Zone {
    /// The offset before the first transition, in seconds.
    first: i64,
    /// Transition times and the offsets from then on, in seconds; ascending.
    changes: Vec<(i64, i64)>,
    /// The rule after the last transition.
    rule: Option<Rule>,
}

/// A POSIX `TZ` string, offsets in seconds east of Greenwich.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    standard: i64,
    summer: Option<Summer>,
}

#[derive(Clone, Debug, PartialEq)]
struct Summer {
    offset: i64,
    start: Change,
    end: Change,
}

/// When daylight saving time starts or ends: a day of the year and a time of that day in seconds.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    day: Day,
    time: i64,
}

#[derive(Clone, Debug, PartialEq)]
enum Day {
    /// `J60`: 1 to 365, not counting leap days.
    Julian(i64),
    /// `59`: 0 to 365, counting leap days.
    OfYear(i64),
    /// `M3.2.0`: month, week (5 is the last), day of the week (0 is Sunday).
    OfMonth(i64, i64, i64),
}

/// A zone file has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

impl Zone {
    /// The zone of this process; UTC if none is configured.
    fn of_this_machine() -> Zone {
        let named = std::env::var("TZ").ok();
        let zone = match named.as_deref().map(|name| name.trim_start_matches(':')) {
            None => read(Path::new("/etc/localtime")),
            // An empty `TZ` means UTC, as in libc.
            Some("") => None,
            Some(name) => of_file(name).or_else(|| {
                let rule = Some(Rule::parse(name)?);
                Some(Zone { rule, ..Zone::default() })
            }),
        };
        zone.unwrap_or_default()
    }

    /// The offset at a moment, in seconds.
    fn offset(&self, seconds: i64) -> i64 {
        let after = self.changes.partition_point(|(from, _)| *from <= seconds);
        match (&self.rule, self.changes.get(after.wrapping_sub(1))) {
            (Some(rule), _) if after == self.changes.len() => rule.offset(seconds),
            (_, Some((_, offset))) => *offset,
            (_, None) => self.first,
        }
    }

    /// Parses a zone file; `None` if it is not one.
    fn parse(bytes: &[u8]) -> Option<Zone> {
        let header = Header::parse(bytes)?;
        if header.version < b'2' {
            return header.body(&bytes[HEADER_BYTES..], 4, "");
        }
        // The first block has four-byte times; the second repeats and extends it with eight-byte
        // times.
        let second = bytes.get(HEADER_BYTES + header.length(4)..)?;
        let header = Header::parse(second)?;
        let footer = second.get(HEADER_BYTES + header.length(8)..)?;
        let footer = std::str::from_utf8(footer).ok()?.trim_matches('\n');
        header.body(&second[HEADER_BYTES..], 8, footer)
    }
}

fn of_file(name: &str) -> Option<Zone> {
    let path = match name.starts_with('/') {
        true => PathBuf::from(name),
        false => Path::new("/usr/share/zoneinfo").join(name),
    };
    read(&path)
}

fn read(path: &Path) -> Option<Zone> {
    use std::io::Read as _;
    // Opening a FIFO would block whoever asks for the time.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Zone::parse(&bytes)
}

const HEADER_BYTES: usize = 44;

/// The counts at the start of a block.
struct Header {
    version: u8,
    is_utc: usize,
    is_standard: usize,
    leaps: usize,
    times: usize,
    types: usize,
    letters: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Header> {
        let head = bytes.get(..HEADER_BYTES)?;
        if !head.starts_with(b"TZif") {
            return None;
        }
        let count = |number: usize| {
            let count = number_at(head, 20 + 4 * number, 4)?;
            usize::try_from(count).ok().filter(|count| *count <= bytes.len())
        };
        Some(Header {
            version: head[4],
            is_utc: count(0)?,
            is_standard: count(1)?,
            leaps: count(2)?,
            times: count(3)?,
            types: count(4)?,
            letters: count(5)?,
        })
    }

    /// Size of the block after the header, with times of this width.
    fn length(&self, width: usize) -> usize {
        self.times * (width + 1)
            + self.types * 6
            + self.letters
            + self.leaps * (width + 4)
            + self.is_standard
            + self.is_utc
    }

    fn body(&self, bytes: &[u8], width: usize, footer: &str) -> Option<Zone> {
        let types = self.times * (width + 1);
        let offset_of = |kind: usize| {
            (kind < self.types).then(|| number_at(bytes, types + kind * 6, 4)).flatten()
        };
        let mut changes = Vec::with_capacity(self.times);
        for number in 0..self.times {
            let kind = *bytes.get(self.times * width + number)?;
            changes.push((number_at(bytes, number * width, width)?, offset_of(kind.into())?));
        }
        Some(Zone { first: offset_of(0)?, changes, rule: Rule::parse(footer) })
    }
}

/// A big-endian number of four or eight bytes.
fn number_at(bytes: &[u8], at: usize, width: usize) -> Option<i64> {
    let bytes = bytes.get(at..at + width)?;
    match bytes.len() {
        4 => Some(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        _ => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
    }
}

impl Rule {
    /// Parses `CET-1CEST,M3.5.0,M10.5.0/3`.
    fn parse(text: &str) -> Option<Rule> {
        let mut text = Reader(text);
        text.name()?;
        let standard = -text.time()?;
        if text.0.is_empty() {
            return Some(Rule { standard, summer: None });
        }
        text.name()?;
        let offset = match text.0.starts_with(',') {
            true => standard + 3600,
            false => -text.time()?,
        };
        let (start, end) = (text.change()?, text.change()?);
        let summer = Some(Summer { offset, start, end });
        text.0.is_empty().then_some(Rule { standard, summer })
    }

    fn offset(&self, seconds: i64) -> i64 {
        let Some(summer) = &self.summer else {
            return self.standard;
        };
        let Civil { year, .. } = civil(Wall((seconds + self.standard).saturating_mul(1000)));
        let start = summer.start.in_year(year) - self.standard;
        let end = summer.end.in_year(year) - summer.offset;
        // In the southern hemisphere summer spans the new year.
        let is_summer = match start <= end {
            true => (start..end).contains(&seconds),
            false => !(end..start).contains(&seconds),
        };
        if is_summer { summer.offset } else { self.standard }
    }
}

impl Change {
    /// The transition in local time, in seconds as if local time were UTC.
    fn in_year(&self, year: i64) -> i64 {
        let first_of = |month: i64| days_from_civil(year, month, 1).unwrap_or_default();
        let is_leap = first_of(3) - first_of(2) == 29;
        let day = match self.day {
            Day::OfYear(day) => first_of(1) + day,
            Day::Julian(day) => first_of(1) + day - 1 + i64::from(is_leap && day >= 60),
            Day::OfMonth(month, week, weekday) => {
                let first = first_of(month);
                let next = match month {
                    12 => days_from_civil(year + 1, 1, 1).unwrap_or_default(),
                    month => first_of(month + 1),
                };
                // 1 January 1970 was a Thursday.
                let ahead = (weekday - (first + 4)).rem_euclid(7);
                let day = first + ahead + 7 * (week - 1);
                if day < next { day } else { day - 7 }
            }
        };
        day * 86_400 + self.time
    }
}

/// The unread rest of a `TZ` string.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let length = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn skip(&mut self, prefix: char) -> Option<()> {
        self.0 = self.0.strip_prefix(prefix)?;
        Some(())
    }

    fn name(&mut self) -> Option<()> {
        if self.skip('<').is_some() {
            self.take(|c| c != '>');
            return self.skip('>');
        }
        (self.take(|c| c.is_ascii_alphabetic()).len() >= 3).then_some(())
    }

    fn number(&mut self) -> Option<i64> {
        self.take(|c| c.is_ascii_digit()).parse().ok().filter(|number| *number < 1000)
    }

    /// `-1`, `5:30` or `02:00:00`, in seconds.
    fn time(&mut self) -> Option<i64> {
        let sign = if self.skip('-').is_some() { -1 } else { 1 };
        let _ = self.skip('+');
        let mut seconds = self.number()? * 3600;
        for unit in [60, 1] {
            if self.skip(':').is_some() {
                seconds += self.number()? * unit;
            }
        }
        Some(sign * seconds)
    }

    fn change(&mut self) -> Option<Change> {
        self.skip(',')?;
        let day = if self.skip('J').is_some() {
            Day::Julian(self.number().filter(|day| (1..=365).contains(day))?)
        } else if self.skip('M').is_some() {
            let month = self.number().filter(|month| (1..=12).contains(month))?;
            self.skip('.')?;
            let week = self.number().filter(|week| (1..=5).contains(week))?;
            self.skip('.')?;
            Day::OfMonth(month, week, self.number().filter(|day| *day <= 6)?)
        } else {
            Day::OfYear(self.number().filter(|day| *day <= 365)?)
        };
        let time = match self.skip('/') {
            Some(()) => self.time()?,
            None => 2 * 3600,
        };
        Some(Change { day, time })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::parse_rfc3339;

    fn seconds(text: &str) -> i64 {
        parse_rfc3339(text).unwrap().0 / 1000
    }

    #[test]
    fn rules_give_the_offset_of_each_season() {
        for (rule, at, offset) in [
            ("UTC0", "2026-01-01T00:00:00Z", 0),
            ("IST-5:30", "2026-01-01T00:00:00Z", 19_800),
            ("<+0330>-3:30", "2026-01-01T00:00:00Z", 12_600),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-01-01T00:00:00Z", 3_600),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-29T00:59:59Z", 3_600),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-29T01:00:00Z", 7_200),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-25T00:59:59Z", 7_200),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-25T01:00:00Z", 3_600),
            ("EST5EDT,M3.2.0,M11.1.0", "2026-07-01T00:00:00Z", -14_400),
            ("EST5EDT,M3.2.0,M11.1.0", "2026-12-31T00:00:00Z", -18_000),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", "2026-01-01T00:00:00Z", 39_600),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", "2026-07-01T00:00:00Z", 36_000),
            ("AAA0BBB,J60/0,J61/0", "2024-03-01T12:00:00Z", 3_600),
            ("AAA0BBB,J60/0,J61/0", "2024-02-29T12:00:00Z", 0),
            ("AAA0BBB,59/0,60/0", "2024-02-29T12:00:00Z", 3_600),
        ] {
            let rule = Rule::parse(rule).unwrap();
            assert_eq!(rule.offset(seconds(at)), offset, "{rule:?} {at}");
        }
        for text in ["", "X", "CET", "CET-1CEST", "CET-1CEST,M13.1.0,M1.1.0", "CET-1CEST,M3.5.0"] {
            assert_eq!(Rule::parse(text), None, "{text}");
        }
    }

    fn header(version: u8, counts: [u32; 6]) -> Vec<u8> {
        let mut bytes = [b"TZif", [version].as_slice(), &[0; 15]].concat();
        bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes
    }

    #[test]
    fn a_zone_file_has_changes_and_a_rule() {
        // Two local time types: +0 and +1 h. At 1000 s it changes to the second, which a rule then
        // keeps.
        let kinds = [0_i32, 3600]
            .iter()
            .flat_map(|offset| [offset.to_be_bytes().as_slice(), &[0, 0]].concat());
        let kinds: Vec<u8> = kinds.collect();
        let mut file = header(b'2', [0, 0, 0, 0, 1, 4]);
        file.extend([0; 6]);
        file.extend(b"UTC\0");
        file.extend(header(b'2', [0, 0, 0, 1, 2, 4]));
        file.extend(1000_i64.to_be_bytes());
        file.push(1);
        file.extend(&kinds);
        file.extend(b"AAA\0\nAAA-2\n");
        let zone = Zone::parse(&file).unwrap();
        assert_eq!((zone.offset(999), zone.offset(1000)), (0, 7200));
        let old = Zone { rule: None, ..zone };
        assert_eq!((old.offset(999), old.offset(1000)), (0, 3600));
        for length in 0..file.len() {
            // A truncated file never causes a panic.
            let _ = Zone::parse(&file[..length]);
        }
        assert_eq!(Zone::parse(b"TZif"), None);
        assert_eq!(Zone::default().offset(5), 0);
    }
}
