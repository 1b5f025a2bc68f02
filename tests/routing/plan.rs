//! The subject of a replay: the accounts of a pool, and the load on them.
//!
//! Quota is counted in units of one uncached input token: a cache write costs 1.25 of them, a cache
//! read 0.1, an output token 5. The actual sizes of the windows are unpublished; the plans keep the
//! published ratios of 1, 5 and 20, and a week holds eight full five-hour windows, which matches
//! reports of people who use up their plans.

use super::rng::Rng;
use super::world::World;
use Plan::{Key, Max5, Max20, Pro, Provider};

pub const SECOND: u64 = 1_000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;
pub const WEEK: u64 = 7 * DAY;
/// The length of a replay.
pub const FORTNIGHT: u64 = 2 * WEEK;
/// The length of a window, which begins with its first request; the next request after its end
/// opens another.
pub const FIVE_HOURS: u64 = 5 * HOUR;

/// The kind of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Pro,
    Max5,
    Max20,
    /// An API key: it has no relevant window, and every unit is billed.
    Key,
    /// Another provider with a five-hour quota and no weekly one.
    Provider,
}

impl Plan {
    /// Units per five hours.
    pub fn session_quota(self) -> f64 {
        let pro = 1_500_000.0;
        match self {
            Pro => pro,
            Max5 | Provider => 5.0 * pro,
            Max20 => 20.0 * pro,
            Key => f64::INFINITY,
        }
    }

    /// Units per week.
    pub fn weekly_quota(self, world: &World) -> f64 {
        match self {
            Pro | Max5 | Max20 => world.week * self.session_quota(),
            Key | Provider => f64::INFINITY,
        }
    }

    /// The number of requests in flight above which the API refuses, whatever quota is left.
    fn crowd(self, world: &World) -> u32 {
        let most = match self {
            Pro => 12,
            Max5 | Provider => 20,
            Max20 => 32,
            Key => 50,
        };
        (f64::from(most) * world.crowd) as u32
    }

    pub fn is_subscription(self) -> bool {
        matches!(self, Pro | Max5 | Max20)
    }
}

/// An account at the start of the replay.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub plan: Plan,
    pub weekly_quota: f64,
    /// The most requests in flight that it accepts.
    pub crowd: u32,
    /// The first reset of its week, in ms after the start; then every seven days.
    pub first_reset: u64,
    /// Units of its week that are already used.
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

/// Pools that contain other accounts than subscriptions.
pub const MIXED: [Scenario; 2] = [
    Scenario { name: "4: two Max 5x, an API key, a provider", plans: &[Max5, Max5, Key, Provider] },
    Scenario {
        name: "6: Max 20x, two Max 5x, Pro, an API key, a provider",
        plans: &[Max20, Max5, Max5, Pro, Key, Provider],
    },
];

impl Scenario {
    /// The accounts at random moments of their weeks, with a random part of each week used.
    pub fn seats(&self, world: &World, rng: &mut Rng) -> Vec<Seat> {
        self.plans
            .iter()
            .map(|plan| {
                // Resets are on a full minute, at any hour of the week.
                let first_reset = MINUTE * rng.within(60, WEEK / MINUTE - 60);
                let elapsed = 1.0 - first_reset as f64 / WEEK as f64;
                let weekly_quota = plan.weekly_quota(world);
                let used = elapsed * rng.below(900) as f64 / 1_000.0;
                let spent = if weekly_quota.is_finite() { weekly_quota * used } else { 0.0 };
                Seat { plan: *plan, weekly_quota, crowd: plan.crowd(world), first_reset, spent }
            })
            .collect()
    }

    /// The total quota of its subscriptions for the fortnight, in units.
    pub fn quota(&self, world: &World) -> f64 {
        let weeks = self.plans.iter().filter(|plan| plan.is_subscription());
        2.0 * weeks.map(|plan| plan.weekly_quota(world)).sum::<f64>()
    }
}
