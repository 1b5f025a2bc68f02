//! Recent work of an account in rings of counters: what status shows (15 minutes, an hour) and the
//! share that S6 weighs.

use std::time::Duration;

use super::snapshot::Load;
use super::time::Mono;

/// The last hour by the minute.
#[derive(Clone, Debug)]
pub(crate) struct Hour {
    minutes: [Minute; MINUTES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    number: u64,
    requests: u64,
    failed: u64,
    weight: u64,
    millis: u64,
}

/// What ended within one minute, as one process tells it to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadMinute {
    /// How many minutes ago.
    pub age: u64,
    /// Attempts that ended.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Their weights together.
    pub weight: u64,
    /// Their durations together.
    pub millis: u64,
}

/// How an attempt counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Completed,
    Failed,
}

const MINUTES: usize = 60;

impl Hour {
    pub(crate) fn new() -> Hour {
        Hour { minutes: [Minute::default(); MINUTES] }
    }

    pub(crate) fn add(&mut self, now: Mono, weight: u32, took: Duration, counted: Counted) {
        let number = now.0 / 60_000;
        let minute = &mut self.minutes[number as usize % MINUTES];
        if minute.number != number {
            *minute = Minute { number, ..Minute::default() };
        }
        minute.requests += 1;
        minute.failed += u64::from(counted == Counted::Failed);
        minute.weight = minute.weight.saturating_add(u64::from(weight));
        minute.millis =
            minute.millis.saturating_add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// The minutes in which something ended.
    pub(crate) fn minutes(&self, now: Mono) -> Vec<LoadMinute> {
        let present = now.0 / 60_000;
        let known = self.minutes.iter().filter(|minute| minute.requests > 0);
        let known = known.map(|minute| LoadMinute {
            age: present.saturating_sub(minute.number),
            requests: minute.requests,
            failed: minute.failed,
            weight: minute.weight,
            millis: minute.millis,
        });
        known.filter(|minute| minute.age < MINUTES as u64).collect()
    }

    /// Adds what ended in another process.
    pub(crate) fn recall(&mut self, now: Mono, minutes: &[LoadMinute]) {
        for told in minutes.iter().filter(|told| told.age < MINUTES as u64) {
            let number = (now.0 / 60_000).saturating_sub(told.age);
            let minute = &mut self.minutes[number as usize % MINUTES];
            if minute.number < number {
                *minute = Minute { number, ..Minute::default() };
            }
            if minute.number == number {
                minute.requests = minute.requests.saturating_add(told.requests);
                minute.failed = minute.failed.saturating_add(told.failed);
                minute.weight = minute.weight.saturating_add(told.weight);
                minute.millis = minute.millis.saturating_add(told.millis);
            }
        }
    }

    /// The last `minutes` minutes, including the present one.
    pub(crate) fn last(&self, now: Mono, minutes: u64) -> Load {
        let first = (now.0 / 60_000).saturating_sub(minutes.saturating_sub(1));
        let mut sum = Minute::default();
        for minute in self.minutes.iter().filter(|minute| minute.number >= first) {
            sum.requests += minute.requests;
            sum.failed += minute.failed;
            sum.weight = sum.weight.saturating_add(minute.weight);
            sum.millis = sum.millis.saturating_add(minute.millis);
        }
        Load {
            requests: sum.requests,
            failed: sum.failed,
            weight: sum.weight,
            average: sum.millis.checked_div(sum.requests).map(Duration::from_millis),
        }
    }
}

/// What was granted within a time, to a sixteenth of it. The sum is kept, since every score asks
/// for it.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    slot_ms: u64,
    /// The number of the present slot.
    present: u64,
    slots: [u64; SLOTS],
    sum: u64,
}

const SLOTS: usize = 16;

impl Recent {
    pub(crate) fn new(window: Duration) -> Recent {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Recent { slot_ms: (window / SLOTS as u64).max(1), present: 0, slots: [0; SLOTS], sum: 0 }
    }

    /// Forgets what is older than the window.
    pub(crate) fn advance(&mut self, now: Mono) {
        // Asked of every account at each request: a division each would be felt (F7).
        if now.0 < (self.present + 1).saturating_mul(self.slot_ms) {
            return;
        }
        let number = now.0 / self.slot_ms;
        let passed = (number - self.present).min(SLOTS as u64);
        for slot in number - passed + 1..=number {
            let weight = std::mem::take(&mut self.slots[slot as usize % SLOTS]);
            self.sum = self.sum.saturating_sub(weight);
        }
        self.present = number;
    }

    pub(crate) fn add(&mut self, now: Mono, weight: u64) {
        self.advance(now);
        let slot = &mut self.slots[self.present as usize % SLOTS];
        *slot = slot.saturating_add(weight);
        self.sum = self.sum.saturating_add(weight);
    }

    /// When the oldest part is forgotten, if there is any.
    pub(crate) fn next_forgotten(&self) -> Option<Mono> {
        let first = self.present.saturating_sub(SLOTS as u64 - 1);
        let oldest = (first..=self.present).find(|slot| self.slots[*slot as usize % SLOTS] > 0)?;
        Some(Mono((oldest + SLOTS as u64) * self.slot_ms))
    }

    /// As of the last `advance`.
    pub(crate) fn weight(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_forgets_what_is_older() {
        let mut hour = Hour::new();
        let at = |minute: u64| Mono(minute * 60_000);
        hour.add(at(1_000), 3, Duration::from_millis(100), Counted::Completed);
        hour.add(at(1_010), 1, Duration::from_millis(300), Counted::Failed);
        let last = hour.last(at(1_010), 15);
        assert_eq!((last.requests, last.failed, last.weight), (2, 1, 4));
        assert_eq!(last.average, Some(Duration::from_millis(200)));
        assert_eq!(hour.last(at(1_015), 15).requests, 1, "the first is older than 15 minutes");
        assert_eq!(hour.last(at(1_059), 60).requests, 2);
        assert_eq!(hour.last(at(1_060), 60).requests, 1);
        assert_eq!(hour.last(at(5_000), 60), Load::default());
    }

    #[test]
    fn d1_an_hour_goes_on_in_another_process() {
        let (mut old, mut new) = (Hour::new(), Hour::new());
        let at = |minute: u64| Mono(minute * 60_000 + 5);
        old.add(at(1_000), 3, Duration::from_millis(100), Counted::Completed);
        old.add(at(1_010), 1, Duration::from_millis(300), Counted::Failed);
        new.add(at(5_000), 1, Duration::from_millis(500), Counted::Completed);
        new.recall(at(5_001), &old.minutes(at(1_011)));
        let last = new.last(at(5_001), 15);
        assert_eq!((last.requests, last.failed, last.weight), (3, 1, 5));
        assert_eq!(last.average, Some(Duration::from_millis(300)));
        assert_eq!(new.last(at(5_005), 15).requests, 2, "each minute keeps its age");
        assert_eq!(old.minutes(at(1_060)).len(), 1, "what is older than an hour is not told");
    }

    #[test]
    fn recent_weight_slides() {
        let mut recent = Recent::new(Duration::from_millis(1_600));
        recent.add(Mono(10_000), 2);
        recent.add(Mono(10_800), 5);
        for (at, weight) in
            [(11_500, 7), (11_599, 7), (11_600, 5), (12_399, 5), (12_400, 0), (20_000, 0)]
        {
            recent.advance(Mono(at));
            assert_eq!(recent.weight(), weight, "at {at}");
        }
        recent.add(Mono(20_000), 3);
        assert_eq!(recent.weight(), 3);
        let mut none = Recent::new(Duration::ZERO);
        none.add(Mono(5), 1);
        assert_eq!(none.weight(), 1);
    }
}
