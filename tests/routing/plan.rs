//! What a replay is about: the accounts of a pool, and how much is asked of them.
//!
//! Quota is counted in units of one uncached input token: a cache write is 1.25 of them, a cache
//! read 0.1, a token of output 5. Nobody outside knows how large the windows are; the plans keep
//! the published ratios of 1, 5 and 20, and a week holds eight full five-hour windows, which is
//! what people who use their plans up report.

use super::rng::Rng;
use Plan::{Max5, Max20, Pro};

pub const SECOND: u64 = 1_000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;
pub const WEEK: u64 = 7 * DAY;
/// How long a replay is.
pub const FORTNIGHT: u64 = 2 * WEEK;
/// From its first request on, then it is over and the next request opens another.
pub const FIVE_HOURS: u64 = 5 * HOUR;

/// A subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Pro,
    Max5,
    Max20,
}

impl Plan {
    /// Units in five hours.
    pub fn session_quota(self) -> f64 {
        let pro = 1_500_000.0;
        match self {
            Pro => pro,
            Max5 => 5.0 * pro,
            Max20 => 20.0 * pro,
        }
    }

    /// Units in a week.
    pub fn weekly_quota(self) -> f64 {
        8.0 * self.session_quota()
    }

    /// Requests in flight above which the API refuses for its own sake, whatever quota is left.
    pub fn crowd(self) -> u32 {
        match self {
            Pro => 12,
            Max5 => 20,
            Max20 => 32,
        }
    }
}

/// An account as it stands when the replay begins.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub plan: Plan,
    /// The first reset of its week, in ms after the beginning; then every seven days.
    pub first_reset: u64,
    /// Units of its week that are gone already.
    pub spent: f64,
}

/// A pool and its load.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub plans: &'static [Plan],
}

pub const SCENARIOS: [Scenario; 5] = [
    Scenario { name: "1: one Max 5x", plans: &[Max5] },
    Scenario { name: "2: two Max 5x", plans: &[Max5, Max5] },
    Scenario { name: "3: Max 20x, Max 5x, Pro", plans: &[Max20, Max5, Pro] },
    Scenario { name: "5: Max 20x, three Max 5x, Pro", plans: &[Max20, Max5, Max5, Max5, Pro] },
    Scenario {
        name: "8: two Max 20x, three Max 5x, three Pro",
        plans: &[Max20, Max20, Max5, Max5, Max5, Pro, Pro, Pro],
    },
];

impl Scenario {
    /// The accounts at odd moments of their weeks, used as far as chance will have it.
    pub fn seats(&self, rng: &mut Rng) -> Vec<Seat> {
        self.plans
            .iter()
            .map(|plan| {
                // Resets are on the minute, at any hour of the week.
                let first_reset = MINUTE * rng.within(60, WEEK / MINUTE - 60);
                let elapsed = 1.0 - first_reset as f64 / WEEK as f64;
                let spent = plan.weekly_quota() * elapsed * rng.below(900) as f64 / 1_000.0;
                Seat { plan: *plan, first_reset, spent }
            })
            .collect()
    }

    /// What the pool could do in the fortnight, in units.
    pub fn quota(&self) -> f64 {
        2.0 * self.plans.iter().map(|plan| plan.weekly_quota()).sum::<f64>()
    }
}
