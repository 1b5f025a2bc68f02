//! What requests cost an account (SPEC S5, S6): the expected cost of each, the share of a window
//! that one unit of cost takes, and the consequences for the next request.
//!
//! The unit is one uncached input token. The actual cost of a request is known only when its answer
//! has ended, so it is estimated from the size of its body and from whether its prompt is cached on
//! the account. The estimate need not be exact: the share of a window per unit is learned from the
//! headers, and absorbs the average error. Counting the tokens reported by answers would be exact
//! but too late, because an account must be weighed before the answer. If others use the account
//! too, the learned share is too high, so the account is spared more than necessary, never less.

use std::time::Duration;

use super::policy::{
    BRINK_MARGIN, BRINK_MAX, BRINK_ROUNDING, COLD_SHARE, COLD_WINDOW, COST_WINDOW, FIVE_HOURS,
    RATE_SHARE_MIN, SAME_WINDOW,
};
use super::recent_load::Recent;
use super::time::{Mono, Wall};

/// Whether an account has the prompt of a request in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptCache {
    /// The account served the session within the lifetime of a cache.
    Warm,
    /// It did not, so the prompt must be written to its cache.
    Cold,
}

/// The expected cost of a request. A token has about four bytes; reading a cached one costs a tenth
/// of an input token, writing one a quarter more. The constant stands for the output.
pub(crate) fn expected(body_bytes: u64, cache: PromptCache) -> u64 {
    let input = match cache {
        PromptCache::Warm => body_bytes / 40,
        PromptCache::Cold => body_bytes.saturating_mul(5) / 16,
    };
    input.saturating_add(OUTPUT)
}

const OUTPUT: u64 = 2_500;

/// The costs of one account's requests.
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    in_flight: u64,
    /// The cost of requests whose head has not arrived yet.
    outstanding: u64,
    /// When the request was granted that may have brought the account to the brink; `None` once a
    /// head has arrived since.
    /// come since.
    risked: Option<Mono>,
    recent: Recent,
    cold: Recent,
    five_hours: Rate,
    week: Rate,
}

/// A window as the head of an answer describes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) used: f64,
    pub(crate) reset: Wall,
}

impl Costs {
    pub(crate) fn new() -> Costs {
        Costs {
            in_flight: 0,
            outstanding: 0,
            risked: None,
            recent: Recent::new(COST_WINDOW),
            cold: Recent::new(COLD_WINDOW),
            five_hours: Rate::default(),
            week: Rate::default(),
        }
    }

    /// Removes what is too old to count.
    pub(crate) fn advance(&mut self, now: Mono) {
        self.recent.advance(now);
        self.cold.advance(now);
    }

    /// A request is about to be granted. If the account is at the brink already, only requests
    /// exempt from it pass, and they do not extend it.
    pub(crate) fn risk(&mut self, now: Mono, five_hours: f64, week: f64) {
        if self.brink(now, five_hours, week).is_none() {
            self.risked = Some(now);
        }
    }

    /// A request goes to this account.
    pub(crate) fn grant(&mut self, now: Mono, cost: u64, cache: PromptCache) {
        self.in_flight = self.in_flight.saturating_add(cost);
        self.outstanding = self.outstanding.saturating_add(cost);
        self.recent.add(now, cost);
        match cache {
            PromptCache::Warm => {}
            PromptCache::Cold => self.cold.add(now, cost),
        }
    }

    /// The head of its answer has arrived and shows what is left of the window: the brink is over.
    pub(crate) fn head(&mut self, cost: u64) {
        self.never_answered(cost);
        self.risked = None;
    }

    /// The head of its answer will never arrive.
    pub(crate) fn never_answered(&mut self, cost: u64) {
        self.outstanding = self.outstanding.saturating_sub(cost);
    }

    /// Learns from the head of a served answer.
    pub(crate) fn learn(&mut self, cost: u64, five_hours: Option<Reading>, week: Option<Reading>) {
        self.five_hours.learn(cost, five_hours);
        self.week.learn(cost, week);
    }

    /// The request has ended.
    pub(crate) fn end(&mut self, cost: u64) {
        self.in_flight = self.in_flight.saturating_sub(cost);
    }

    /// S5: requests in flight, and requests at the rate of the last 15 minutes until the reset, as
    /// shares of the five hours.
    pub(crate) fn ahead(&self, elapsed: f64) -> f64 {
        let windows_left = (1.0 - elapsed) * FIVE_HOURS.as_secs_f64() / COST_WINDOW.as_secs_f64();
        let units = self.in_flight as f64 + self.recent.weight() as f64 * windows_left;
        self.five_hours.share(units).unwrap_or(0.0)
    }

    /// S6: until when the account takes no other requests because those in flight may fill a
    /// window.
    pub(crate) fn brink(&self, now: Mono, five_hours: f64, week: f64) -> Option<Mono> {
        let until = self.risked? + BRINK_MAX;
        if self.outstanding == 0 || until <= now {
            return None;
        }
        let risked = BRINK_MARGIN * self.outstanding as f64;
        let may_fill = |rate: &Rate, used: f64| {
            rate.share(risked).is_some_and(|share| used + BRINK_ROUNDING + share >= 1.0)
        };
        (may_fill(&self.five_hours, five_hours) || may_fill(&self.week, week)).then_some(until)
    }

    /// S6: until when a request without a cache here would leave too little for those that have
    /// one.
    pub(crate) fn cold_start(&self, cost: u64, five_hours: f64) -> Option<Mono> {
        let begun = self.cold.weight();
        let share =
            self.five_hours.share(begun.saturating_add(cost) as f64).filter(|_| begun > 0)?;
        (share > COLD_SHARE * (1.0 - five_hours)).then(|| self.cold.next_forgotten()).flatten()
    }
}

/// The share of a window that one unit of cost takes, as observed in answers.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    /// The window being measured: its reset and its first used share.
    window: Option<Reading>,
    /// The cost of the answers since that first reading.
    cost: u64,
    /// Kept from one window to the next: plans do not change.
    per_unit: Option<f64>,
}

impl Rate {
    fn learn(&mut self, cost: u64, reading: Option<Reading>) {
        let Some(reading) = reading else { return };
        let first = match self.window {
            // The reset of one window varies by a minute between answers.
            Some(first) if apart(first.reset, reading.reset) < SAME_WINDOW => first,
            Some(_) | None => {
                self.restart(reading);
                return;
            }
        };
        if reading.used < first.used {
            self.restart(reading);
            return;
        }
        self.cost = self.cost.saturating_add(cost);
        let share = reading.used - first.used;
        if reading.used < 1.0 && share > RATE_SHARE_MIN && self.cost > 0 {
            self.per_unit = Some(share / self.cost as f64);
        }
    }

    fn restart(&mut self, reading: Reading) {
        self.window = Some(reading);
        self.cost = 0;
    }

    fn share(&self, units: f64) -> Option<f64> {
        self.per_unit.map(|per_unit| per_unit * units)
    }
}

fn apart(one: Wall, other: Wall) -> Duration {
    one.until(other).max(other.until(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(used: f64, reset_secs: i64) -> Option<Reading> {
        Some(Reading { used, reset: Wall(reset_secs * 1_000) })
    }

    /// One unit takes a millionth of the five hours and a ten-millionth of the week.
    fn measured() -> Costs {
        let mut costs = Costs::new();
        costs.learn(9_999_999, reading(0.10, 18_000), reading(0.10, 600_000));
        costs.learn(500_000, reading(0.60, 18_030), reading(0.15, 599_970));
        costs
    }

    #[test]
    fn s5_the_cost_of_a_window_is_learned_and_kept() {
        let mut costs = measured();
        assert!((costs.five_hours.per_unit.unwrap_or(0.0) - 1e-6).abs() < 1e-12);
        assert!((costs.week.per_unit.unwrap_or(0.0) - 1e-7).abs() < 1e-12);
        costs.learn(1, reading(0.01, 36_000), None);
        assert!(costs.five_hours.per_unit.is_some(), "kept across windows");
        costs.learn(1, reading(0.04, 36_000), None);
        let known = costs.five_hours.per_unit;
        assert!(
            known.is_some_and(|rate| rate < 1e-5),
            "three hundredths are too little to measure by"
        );
        costs.learn(1_000_000, reading(1.0, 36_000), None);
        assert_eq!(costs.five_hours.per_unit, known, "a full window hides the rest");
        assert_eq!(Costs::new().ahead(0.0), 0.0, "unknown adds nothing");
    }

    #[test]
    fn s5_what_is_coming_counts() {
        let mut costs = measured();
        costs.grant(Mono(0), 100_000, PromptCache::Warm);
        assert!((costs.ahead(1.0) - 0.1).abs() < 1e-9, "what is in flight");
        costs.head(100_000);
        costs.end(100_000);
        assert!(
            (costs.ahead(0.5) - 1.0).abs() < 1e-9,
            "a quarter of an hour's work, for ten more quarters"
        );
        costs.advance(Mono(900_000));
        assert_eq!(costs.ahead(0.5), 0.0);
    }

    #[test]
    fn s6_the_brink_lasts_until_a_head_comes_and_five_seconds_at_most() {
        let mut costs = measured();
        assert_eq!(costs.brink(Mono(0), 0.99, 0.1), None, "nothing is in flight");
        costs.risk(Mono(1_000), 0.70, 0.1);
        costs.grant(Mono(1_000), 100_000, PromptCache::Warm);
        assert_eq!(costs.brink(Mono(1_000), 0.69, 0.1), None);
        assert_eq!(costs.brink(Mono(1_000), 0.70, 0.1), Some(Mono(6_000)));
        assert_eq!(costs.brink(Mono(1_000), 0.0, 0.97), Some(Mono(6_000)), "week");
        costs.risk(Mono(3_000), 0.70, 0.1);
        costs.grant(Mono(3_000), 100_000, PromptCache::Warm);
        assert_eq!(costs.brink(Mono(6_000), 0.70, 0.1), None, "not longer for those let through");
        costs.risk(Mono(7_000), 0.70, 0.1);
        costs.grant(Mono(7_000), 100_000, PromptCache::Warm);
        costs.head(100_000);
        assert_eq!(costs.brink(Mono(7_500), 0.99, 0.1), None, "a head has come");
    }

    #[test]
    fn s6_cold_starts_take_a_twentieth_of_what_is_left_in_ten_minutes() {
        let mut costs = measured();
        let late = 0.5;
        assert_eq!(costs.cold_start(900_000, late), None, "one at least");
        costs.grant(Mono(0), 10_000, PromptCache::Cold);
        assert_eq!(costs.cold_start(15_000, late), None, "0.025 of it is the limit");
        assert!(costs.cold_start(15_001, late).is_some_and(|at| at <= Mono(600_000)));
        assert_eq!(costs.cold_start(15_001, 0.4), None);
        costs.advance(Mono(600_000));
        assert_eq!(costs.cold_start(900_000, late), None);
        let mut unknown = Costs::new();
        unknown.grant(Mono(0), 10_000_000, PromptCache::Cold);
        assert_eq!(unknown.cold_start(10_000_000, late), None);
    }
}
