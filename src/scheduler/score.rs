//! The score of an account for a request (SPEC S6). Lower is preferred.

use std::time::Duration;

use super::policy::{FAILURE_WEIGHT, Policy, UNKNOWN_WEEK_BONUS};
use super::snapshot::Terms;
use super::time::Mono;

/// What a score depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) active_weight: u64,
    pub(super) request_weight: u32,
    /// S5.
    pub(super) scarcity: f64,
    /// Weight given to this account and to all in the spread window.
    pub(super) recent: u64,
    pub(super) recent_all: u64,
    /// 1 just after a recovery, 0 when the ramp is over.
    pub(super) ramp: f64,
    pub(super) failures: u32,
    pub(super) week: Week,
}

/// Is the weekly reset known?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Week {
    Known,
    Unknown,
}

pub(super) fn terms(policy: &Policy, facts: &Facts) -> Terms {
    let share = match facts.recent_all {
        0 => 0.0,
        all => facts.recent as f64 / all as f64,
    };
    Terms {
        load: facts.active_weight as f64 + f64::from(facts.request_weight),
        scarcity: policy.scarcity_weight * facts.scarcity,
        spread: policy.spread_share_weight * share,
        recovery: policy.recovery_ramp_weight * facts.ramp,
        failures: FAILURE_WEIGHT * f64::from(facts.failures) * facts.ramp,
        unknown_week: match facts.week {
            Week::Known => 0.0,
            Week::Unknown => -UNKNOWN_WEEK_BONUS,
        },
    }
}

/// The part of the ramp that is left `now`.
pub(super) fn ramp(now: Mono, since: Option<Mono>, length: Duration) -> f64 {
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
        scarcity: 0.0,
        recent: 0,
        recent_all: 0,
        ramp: 0.0,
        failures: 0,
        week: Week::Known,
    };

    #[test]
    fn terms_of_the_score() {
        let rows: &[(&str, Facts, f64)] = &[
            ("S6 the request's own weight", PLAIN, 1.0),
            ("S6 active weight", Facts { active_weight: 4, request_weight: 2, ..PLAIN }, 6.0),
            ("S6 scarcity by 6", Facts { scarcity: 0.5, ..PLAIN }, 4.0),
            ("S6 spread share by 3", Facts { recent: 1, recent_all: 4, ..PLAIN }, 1.75),
            ("S6 nothing recent, no share", Facts { recent: 0, recent_all: 0, ..PLAIN }, 1.0),
            ("S6 recovery by 4, falling", Facts { ramp: 0.5, ..PLAIN }, 3.0),
            ("S6 failures by 5, fading with it", Facts { ramp: 0.5, failures: 2, ..PLAIN }, 8.0),
            ("S6 failures cost nothing after the ramp", Facts { failures: 9, ..PLAIN }, 1.0),
            ("S6 weekly reset unknown", Facts { week: Week::Unknown, ..PLAIN }, 0.5),
        ];
        for (rule, facts, score) in rows {
            let total = terms(&Policy::default(), facts).total();
            assert!((total - score).abs() < 1e-9, "{rule}: {total}");
        }
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
