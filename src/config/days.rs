//! The usage of each account on each local day, for `maxpool usage` (SPEC P13): in memory while the
//! server runs, and in the state file.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::scheduler::{AccountId, Usage};
use crate::zone;

/// Number of days kept.
pub(crate) const DAYS_KEPT: u32 = 31;

/// Model families counted separately for one account and day; further ones count as `other`.
const FAMILIES_MAX: usize = 16;

/// The usage of one day and family, in the form of the state file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DayUse {
    /// The local date, `2026-11-29`.
    pub(crate) day: String,
    /// The model family, such as `opus`; `other` if the model is unknown.
    pub(crate) family: String,
    requests: u64,
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
}

impl DayUse {
    pub(crate) fn new(day: String, family: String, counts: Counts) -> DayUse {
        let Counts { requests, input_tokens, output_tokens, .. } = counts;
        let Counts { cache_read_tokens, cache_write_tokens, .. } = counts;
        DayUse {
            day,
            family,
            requests,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            requests: self.requests,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cache_read_tokens: self.cache_read_tokens,
            cache_write_tokens: self.cache_write_tokens,
        }
    }
}

/// Sums of requests and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) cache_read_tokens: u64,
    pub(crate) cache_write_tokens: u64,
}

impl Counts {
    /// One request that used these tokens.
    fn one(tokens: Usage) -> Counts {
        Counts {
            requests: 1,
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            cache_read_tokens: tokens.cache_read,
            cache_write_tokens: tokens.cache_write,
        }
    }

    /// The sum of both.
    pub(crate) fn plus(self, other: Counts) -> Counts {
        self.joined(other, u64::saturating_add)
    }

    /// The difference, at least zero.
    fn minus(self, other: Counts) -> Counts {
        self.joined(other, u64::saturating_sub)
    }

    fn joined(self, other: Counts, join: impl Fn(u64, u64) -> u64) -> Counts {
        Counts {
            requests: join(self.requests, other.requests),
            input_tokens: join(self.input_tokens, other.input_tokens),
            output_tokens: join(self.output_tokens, other.output_tokens),
            cache_read_tokens: join(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens: join(self.cache_write_tokens, other.cache_write_tokens),
        }
    }
}

/// Subtracts the days in `earlier` from those in `now`.
pub(super) fn since(now: &[DayUse], earlier: &[DayUse]) -> Vec<DayUse> {
    let less = |day: &DayUse| {
        let mut known = earlier.iter();
        let known = known.find(|known| known.day == day.day && known.family == day.family);
        let counts = day.counts().minus(known.map(DayUse::counts).unwrap_or_default());
        DayUse::new(day.day.clone(), day.family.clone(), counts)
    };
    now.iter().map(less).filter(|day| day.counts() != Counts::default()).collect()
}

/// The running server's totals.
#[derive(Debug, Default)]
pub(crate) struct DailyUse(Mutex<BTreeMap<AccountId, Days>>);

/// By local day, then by family.
type Days = BTreeMap<i64, BTreeMap<String, Counts>>;

impl DailyUse {
    /// Counts an answer of this day that reported its usage.
    pub(crate) fn note(&self, account: AccountId, day: i64, family: Option<&str>, tokens: Usage) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let days = accounts.entry(account).or_default();
        add(days, day, family.unwrap_or(OTHER), Counts::one(tokens));
    }

    /// Adds what the state file or another process has counted.
    pub(crate) fn restore(&self, account: AccountId, known: &[DayUse]) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let days = accounts.entry(account).or_default();
        for known in known {
            if let Some(day) = zone::day_of(&known.day) {
                add(days, day, &known.family, known.counts());
            }
        }
    }

    /// The usage of all accounts on this day.
    pub(crate) fn on(&self, day: i64) -> Counts {
        let accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let families = accounts.values().filter_map(|days| days.get(&day));
        families
            .flat_map(|families| families.values())
            .fold(Counts::default(), |sum, counts| sum.plus(*counts))
    }

    /// The days up to `today`, earliest first.
    pub(crate) fn of(&self, account: AccountId, today: i64) -> Vec<DayUse> {
        let accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = today - i64::from(DAYS_KEPT) + 1..=today;
        let days = accounts.get(&account).into_iter().flat_map(|days| days.range(kept.clone()));
        let uses = days.flat_map(|(day, families)| {
            let day_use = |(family, counts): (&String, &Counts)| {
                DayUse::new(zone::date_of(*day), family.clone(), *counts)
            };
            families.iter().map(day_use)
        });
        uses.collect()
    }
}

/// The family of requests with an unknown model.
const OTHER: &str = "other";

fn add(days: &mut Days, day: i64, family: &str, counts: Counts) {
    let families = days.entry(day).or_default();
    let full = families.len() >= FAMILIES_MAX && !families.contains_key(family);
    let sum = families.entry(if full { OTHER } else { family }.to_owned()).or_default();
    *sum = sum.plus(counts);
    while days.len() > DAYS_KEPT as usize {
        days.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: AccountId = AccountId(1);

    fn tokens(input: u64) -> Usage {
        Usage { input, output: 1, cache_read: 2, cache_write: 3 }
    }

    #[test]
    fn p13_days_and_families_are_summed_apart_for_31_days() {
        let uses = DailyUse::default();
        for day in 100..140 {
            uses.note(A, day, Some("opus"), tokens(5));
        }
        uses.note(A, 139, Some("opus"), tokens(7));
        uses.note(A, 139, None, tokens(1));
        let days = uses.of(A, 139);
        assert_eq!(days.len(), 32);
        assert_eq!((&*days[0].day, days[0].requests), ("1970-04-20", 1));
        let last: Vec<_> = days
            .iter()
            .filter(|day| day.day == "1970-05-20")
            .map(|day| (&*day.family, day.requests, day.input_tokens))
            .collect();
        assert_eq!(last, [("opus", 2, 12), ("other", 1, 1)]);
        assert!(uses.of(AccountId(2), 139).is_empty());
        uses.note(AccountId(2), 139, None, tokens(100));
        assert_eq!((uses.on(139).input_tokens, uses.on(139).requests), (113, 4));
        assert_eq!(uses.on(99), Counts::default());
        // A day later the oldest has been dropped, although nothing was added.
        assert_eq!(uses.of(A, 140).len(), 31);
    }

    #[test]
    fn r2_what_was_handed_over_is_not_counted_twice() {
        let (old, new) = (DailyUse::default(), DailyUse::default());
        old.note(A, 10, Some("opus"), tokens(5));
        let handed = old.of(A, 10);
        new.restore(A, &handed);
        old.note(A, 10, Some("opus"), tokens(6));
        new.restore(A, &since(&old.of(A, 10), &handed));
        assert_eq!(new.of(A, 10), old.of(A, 10));
        assert!(since(&handed, &handed).is_empty());
    }

    #[test]
    fn families_are_bounded() {
        let uses = DailyUse::default();
        for number in 0..100 {
            uses.note(A, 1, Some(&format!("model-{number}")), tokens(1));
        }
        let days = uses.of(A, 1);
        assert_eq!(days.len(), FAMILIES_MAX + 1);
        assert_eq!(days.iter().map(|day| day.requests).sum::<u64>(), 100);
    }
}
