//! The weekly tiers (SPEC S4): pure functions of the used share, the elapsed share of the week and
//! the thresholds.

use super::policy::{EFFECTIVE_USE_MAX, Policy};
use super::snapshot::Tier;

/// Used share of the week plus burn debt, the penalty for being ahead of the clock.
pub(crate) fn effective_use(policy: &Policy, used: f64, elapsed: Option<f64>) -> f64 {
    let debt = elapsed.map_or(0.0, |elapsed| (used - elapsed).max(0.0));
    (used + policy.weekly_burn_debt_weight * debt).min(EFFECTIVE_USE_MAX)
}

/// The tier of a share according to the thresholds alone.
pub(crate) fn of_share(policy: &Policy, share: f64) -> Tier {
    match share {
        share if share >= policy.weekly_exhausted => Tier::Exhausted,
        share if share >= policy.weekly_critical => Tier::Critical,
        share if share >= policy.weekly_reserve => Tier::Reserve,
        share if share >= policy.weekly_soft => Tier::Soft,
        _ => Tier::Normal,
    }
}

/// The tier used for selection: only actual use exhausts a week, pace makes it critical at most. A
/// week that is as full as a short window may be counts as reserve, whatever the weekly thresholds.
pub(crate) fn of_use(policy: &Policy, used: f64, elapsed: Option<f64>) -> Tier {
    if used >= policy.weekly_exhausted {
        return Tier::Exhausted;
    }
    let share = effective_use(policy, used, elapsed).max(used);
    let tier = of_share(policy, share).min(Tier::Critical);
    match used >= policy.switch_threshold {
        true => tier.max(Tier::Reserve),
        false => tier,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers() {
        let policy = Policy::default();
        let rows = [
            // rule, used, elapsed, raw, pace, state
            ("S4 normal", 0.10, Some(0.5), Tier::Normal, Tier::Normal, Tier::Normal),
            ("S4 soft", 0.65, Some(0.9), Tier::Soft, Tier::Soft, Tier::Soft),
            ("S4 reserve", 0.85, Some(0.9), Tier::Reserve, Tier::Reserve, Tier::Reserve),
            ("S4 critical", 0.95, Some(1.0), Tier::Critical, Tier::Critical, Tier::Critical),
            ("S4 exhausted", 0.985, Some(1.0), Tier::Exhausted, Tier::Exhausted, Tier::Exhausted),
            (
                "S4 pace exhausts only on paper",
                0.80,
                Some(0.1),
                Tier::Soft,
                Tier::Exhausted,
                Tier::Critical,
            ),
            ("S4 burn debt moves a tier", 0.50, Some(0.2), Tier::Normal, Tier::Soft, Tier::Soft),
            ("S4 no reset, no debt", 0.50, None, Tier::Normal, Tier::Normal, Tier::Normal),
        ];
        for (rule, used, elapsed, raw, pace, state) in rows {
            assert_eq!(of_share(&policy, used), raw, "{rule}: raw");
            assert_eq!(
                of_share(&policy, effective_use(&policy, used, elapsed)),
                pace,
                "{rule}: pace"
            );
            assert_eq!(of_use(&policy, used, elapsed), state, "{rule}: state");
        }
        let wasteful = Policy { weekly_burn_debt_weight: 9.0, ..Policy::default() };
        assert_eq!(effective_use(&wasteful, 0.9, Some(0.0)), 1.5, "S4: at most 1.5");
    }
}
