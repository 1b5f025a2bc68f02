//! The score of an account for a request (SPEC S6), and the pressure in it (S5). A lower score is
//! preferred.
//!
//! Quota that is about to be lost at a reset is cheap in proportion to what would be lost, on a
//! logarithmic scale: the difference between 5 and 10 minutes before a reset matters as much as
//! that between one and two hours. A linear scale (used share less elapsed share) would treat a
//! week that loses half of its quota tomorrow like one that is merely ahead of its pace.

use std::time::Duration;

use super::policy::{
    FAILURE_WEIGHT, FIVE_HOUR_WEIGHT, LOAD_WEIGHT, PRESSURE_ROOM, Policy, WEEK_WEIGHT,
};
use super::snapshot::Terms;
use super::time::Mono;

/// The inputs of a score.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) active_weight: u64,
    pub(crate) request_weight: u32,
    /// S5 of the five hours and of the week; 0 if unknown.
    pub(crate) five_hour_pressure: f64,
    pub(crate) week_pressure: f64,
    /// Weight of the requests of this account, and of all accounts, in the spread window.
    pub(crate) recent: u64,
    pub(crate) recent_all: u64,
    /// 1 just after a recovery, 0 at the end of the ramp.
    pub(crate) ramp: f64,
    pub(crate) failures: u32,
}

/// S5: positive if quota runs out before time does, negative if quota would be lost.
pub(crate) fn pressure(used: f64, elapsed: f64) -> f64 {
    let used = used.clamp(0.0, 1.0);
    ((PRESSURE_ROOM - elapsed) / (PRESSURE_ROOM - used)).ln()
}

pub(crate) fn terms(policy: &Policy, facts: &Facts) -> Terms {
    let share = match facts.recent_all {
        0 => 0.0,
        all => facts.recent as f64 / all as f64,
    };
    let scarcity = policy.scarcity_weight;
    Terms {
        load: LOAD_WEIGHT * (facts.active_weight as f64 + f64::from(facts.request_weight)),
        five_hour: scarcity * FIVE_HOUR_WEIGHT * facts.five_hour_pressure,
        week: scarcity * WEEK_WEIGHT * facts.week_pressure,
        spread: policy.spread_share_weight * share,
        recovery: policy.recovery_ramp_weight * facts.ramp,
        failures: FAILURE_WEIGHT * f64::from(facts.failures) * facts.ramp,
    }
}

/// The part of the ramp that is left `now`.
pub(crate) fn ramp(now: Mono, since: Option<Mono>, length: Duration) -> f64 {
    let Some(since) = since else { return 0.0 };
    if length.is_zero() {
        return 0.0;
    }
    let past = now.0.saturating_sub(since.0) as f64 / length.as_millis() as f64;
    (1.0 - past).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Facts = Facts {
        active_weight: 0,
        request_weight: 1,
        five_hour_pressure: 0.0,
        week_pressure: 0.0,
        recent: 0,
        recent_all: 0,
        ramp: 0.0,
        failures: 0,
    };

    fn facts(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = PLAIN;
        change(&mut facts);
        facts
    }

    #[test]
    fn s6_terms_of_the_score() {
        let busy = facts(|it| (it.active_weight, it.request_weight) = (4, 2));
        let spread = facts(|it| (it.recent, it.recent_all) = (1, 4));
        let failing = facts(|it| (it.ramp, it.failures) = (0.5, 2));
        let rows = [
            ("the request's own weight", PLAIN, 0.1),
            ("active weight", busy, 0.6),
            ("2 of the five hours", facts(|it| it.five_hour_pressure = 0.5), 1.1),
            ("5 of the week", facts(|it| it.week_pressure = -0.5), -2.4),
            ("spread share by 3", spread, 0.85),
            ("recovery by 4, falling", facts(|it| it.ramp = 0.5), 2.1),
            ("failures by 5, fading with it", failing, 7.1),
            ("failures cost nothing after the ramp", facts(|it| it.failures = 9), 0.1),
        ];
        for (rule, facts, score) in rows {
            let total = terms(&Policy::default(), &facts).total();
            assert!((total - score).abs() < 1e-9, "S6 {rule}: {total}");
        }
    }

    #[test]
    fn s5_pressure() {
        assert_eq!(pressure(0.3, 0.3), 0.0, "in step with time");
        assert!(pressure(0.5, 0.1) > 0.0, "quota runs out first");
        assert!(pressure(0.5, 0.95) < pressure(0.5, 0.9), "and is lost");
        assert!(pressure(7.0, 0.0).is_finite() && pressure(0.0, 1.0).is_finite());
    }

    #[test]
    fn a_ramp_falls_to_nothing() {
        let length = Duration::from_secs(300);
        assert_eq!(ramp(Mono(0), None, length), 0.0);
        assert_eq!(ramp(Mono(1_000), Some(Mono(1_000)), length), 1.0);
        assert_eq!(ramp(Mono(151_000), Some(Mono(1_000)), length), 0.5);
        assert_eq!(ramp(Mono(301_000), Some(Mono(1_000)), length), 0.0);
        assert_eq!(ramp(Mono(1_000), Some(Mono(1_000)), Duration::ZERO), 0.0);
    }
}
