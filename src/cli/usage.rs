//! `usage`: what each account did on each day, from the state file alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Context;
use super::out::Paint;
use super::table::table;
use crate::clock;
use crate::config::days::Counts;
use crate::config::state::{self, State};
use crate::error::{Error, Result};
use crate::report::text;
use crate::zone;

/// `usage`.
pub(super) fn usage(context: &mut Context<'_>, days: u32, as_json: bool) -> Result<()> {
    let (state, problem) = state::load(&state::path(&context.config_path()?));
    if let Some(problem) = problem {
        return Err(Error::operator(format!("cannot show the usage of the last days: {problem}")));
    }
    let today = zone::local_day(clock::wall());
    let lines = lines_since(&state, &zone::date_of(today - i64::from(days) + 1));
    if as_json {
        let entries: Vec<Value> = lines.iter().map(Line::json).collect();
        let sum = json_of(sum_of(&lines));
        context.out.line(&json!({ "days": days, "usage": entries, "total": sum }).to_string());
        return Ok(());
    }
    if lines.is_empty() {
        context.out.line(&format!("no requests in the last {}", counted(days)));
        return Ok(());
    }
    let mut rows: Vec<Vec<String>> = lines.iter().map(Line::row).collect();
    let total = [vec!["total".to_owned(), String::new(), String::new()], cells(sum_of(&lines))];
    rows.push(total.concat());
    let heading =
        ["DAY", "ACCOUNT", "MODEL", "REQUESTS", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE"];
    let lines = table(&heading, &rows, context.out.room());
    for (number, line) in lines.iter().enumerate() {
        let is_strong = number == 0 || number + 1 == lines.len();
        let line = if is_strong { context.out.paint(Paint::Strong, line) } else { line.clone() };
        context.out.line(&line);
    }
    Ok(())
}

/// One account's day with one model family.
struct Line<'a> {
    day: &'a str,
    account: &'a str,
    family: &'a str,
    counts: Counts,
}

impl Line<'_> {
    fn row(&self) -> Vec<String> {
        let own = vec![self.day.to_owned(), text::name(self.account), text::clean(self.family, 40)];
        [own, cells(self.counts)].concat()
    }

    fn json(&self) -> Value {
        let mut entry = json_of(self.counts);
        if let Value::Object(entry) = &mut entry {
            entry.insert("day".to_owned(), self.day.into());
            entry.insert("account".to_owned(), self.account.into());
            entry.insert("family".to_owned(), self.family.into());
        }
        entry
    }
}

fn json_of(counts: Counts) -> Value {
    serde_json::to_value(counts).unwrap_or_default()
}

fn cells(counts: Counts) -> Vec<String> {
    vec![
        counts.requests.to_string(),
        short(counts.input_tokens),
        short(counts.output_tokens),
        short(counts.cache_read_tokens),
        short(counts.cache_write_tokens),
    ]
}

/// The usage since that day: latest day first, then by account and family.
fn lines_since<'a>(state: &'a State, first: &str) -> Vec<Line<'a>> {
    let mut sums: BTreeMap<(&str, &str, &str), Counts> = BTreeMap::new();
    for account in &state.accounts {
        // Dates in this format sort as text.
        for day in account.days.iter().filter(|day| day.day.as_str() >= first) {
            let sum = sums.entry((&day.day, &account.name, &day.family)).or_default();
            *sum = sum.plus(day.counts());
        }
    }
    let line = |((day, account, family), counts)| Line { day, account, family, counts };
    let mut lines: Vec<Line<'_>> = sums.into_iter().map(line).collect();
    lines.sort_by(|a, b| b.day.cmp(a.day));
    lines
}

fn sum_of(lines: &[Line<'_>]) -> Counts {
    lines.iter().fold(Counts::default(), |sum, line| sum.plus(line.counts))
}

/// `950`, `12.3k`, `4.56M`: three digits are enough.
fn short(count: u64) -> String {
    let scaled = |unit: f64, letter: char| {
        let value = count as f64 / unit;
        match value {
            value if value < 9.995 => format!("{value:.2}{letter}"),
            value if value < 99.95 => format!("{value:.1}{letter}"),
            value => format!("{value:.0}{letter}"),
        }
    };
    match count {
        0..1_000 => count.to_string(),
        1_000..999_500 => scaled(1e3, 'k'),
        999_500..999_500_000 => scaled(1e6, 'M'),
        _ => scaled(1e9, 'G'),
    }
}

fn counted(days: u32) -> String {
    if days == 1 { "day".to_owned() } else { format!("{days} days") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::days::DayUse;
    use crate::config::state::AccountState;

    fn day(day: &str, family: &str, requests: u64) -> DayUse {
        let counts = Counts { requests, input_tokens: 1_234, ..Counts::default() };
        DayUse::new(day.into(), family.into(), counts)
    }

    #[test]
    fn days_are_listed_with_the_latest_first() {
        let account =
            |name: &str, days| AccountState { name: name.into(), days, ..AccountState::default() };
        let state = State {
            accounts: vec![
                account("b", vec![day("2026-01-01", "opus", 1), day("2026-01-02", "opus", 2)]),
                account("a", vec![day("2026-01-02", "haiku", 3), day("2025-12-31", "opus", 9)]),
            ],
            ..State::default()
        };
        let lines = lines_since(&state, "2026-01-01");
        let rows: Vec<String> = lines.iter().map(|line| line.row().join(" ")).collect();
        assert_eq!(
            rows,
            [
                "2026-01-02 a haiku 3 1.23k 0 0 0",
                "2026-01-02 b opus 2 1.23k 0 0 0",
                "2026-01-01 b opus 1 1.23k 0 0 0",
            ]
        );
        assert_eq!(sum_of(&lines).requests, 6);
    }

    #[test]
    fn counts_have_three_digits() {
        for (count, shown) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00k"),
            (12_345, "12.3k"),
            (99_960, "100k"),
            (999_499, "999k"),
            (999_500, "1.00M"),
            (4_560_000, "4.56M"),
            (7_000_000_000, "7.00G"),
        ] {
            assert_eq!(short(count), shown);
        }
    }
}
