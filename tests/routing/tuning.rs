//! Settings other than the defaults, by their names in the configuration.

use std::time::Duration;

use maxpool::scheduler::Policy;

/// A policy that differs from the defaults, and the text that it was parsed from.
#[derive(Clone, Debug)]
pub struct Tuning {
    pub text: String,
    pub policy: Policy,
}

impl Tuning {
    /// Parses `key=value,key=value`.
    pub fn parse(text: &str) -> Result<Tuning, String> {
        let mut policy = Policy::default();
        for pair in text.split(',') {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("'{pair}' is not KEY=VALUE"))?;
            let value: f64 = value.parse().map_err(|_| format!("'{value}' is not a number"))?;
            let ms =
                || Duration::try_from_secs_f64(value / 1_000.0).map_err(|error| error.to_string());
            match key {
                "switchThreshold" => policy.switch_threshold = value,
                "weeklySoftThreshold" => policy.weekly_soft = value,
                "weeklyReserveThreshold" => policy.weekly_reserve = value,
                "weeklyCriticalThreshold" => policy.weekly_critical = value,
                "weeklyExhaustedThreshold" => policy.weekly_exhausted = value,
                "weeklyBurnDebtWeight" => policy.weekly_burn_debt_weight = value,
                "scarcityWeight" => policy.scarcity_weight = value,
                "spreadShareWeight" => policy.spread_share_weight = value,
                "recoveryRampWeight" => policy.recovery_ramp_weight = value,
                "recoveryRampMs" => policy.recovery_ramp = ms()?,
                "spreadWindowMs" => policy.spread_window = ms()?,
                "sessionIdleMs" => policy.session_idle = ms()?,
                "weeklyMaxWaitMs" => policy.weekly_max_wait = ms()?,
                _ => return Err(format!("no setting is called '{key}'")),
            }
        }
        Ok(Tuning { text: text.to_owned(), policy })
    }
}
