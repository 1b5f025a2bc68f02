//! The settings as a JSON document: for a new file, and for comparing two configs.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Config, Routing, SessionAffinity, parse};

/// The settings of `config` under the file's keys, in its order (SPEC A2). Omits the key and the
/// accounts, which are secret, and the settings that are absent by default.
pub(crate) fn document(config: &Config) -> Value {
    let (policy, queue) = (&config.policy, &config.queue);
    let (mode, preferred) = match &config.routing {
        Routing::Automatic => ("automatic", None),
        Routing::Preferred(name) => ("preferred", Some(name)),
    };
    json!({
        "proxy": {
            "host": config.proxy.host,
            "port": config.proxy.port,
            "apiKey": null,
            "requireKey": config.proxy.require_key,
            "maxConnections": config.proxy.connections_max,
        },
        "upstream": config.upstream.as_str(),
        "switchThreshold": number(policy.switch_threshold),
        "routing": { "mode": mode, "preferredAccount": preferred },
        "scheduler": scheduler(config),
        "retry": {
            "maxAttemptsPerRequest": policy.max_attempts,
            "maxRetryBufferBytes": config.retry.buffer_bytes_max,
        },
        "queue": {
            "enabled": policy.queue_enabled,
            "maxWaitMs": ms(policy.max_wait),
            "autoMaxWaitMs": policy.auto_max_wait.map(ms),
            "capacityMaxWaitMs": ms(policy.capacity_max_wait),
            "weeklyMaxWaitMs": ms(policy.weekly_max_wait),
            "networkMaxWaitMs": ms(policy.network_max_wait),
            "unprovenMaxWaitMs": ms(policy.unproven_max_wait),
            "countTokensMaxWaitMs": ms(policy.count_tokens_max_wait),
            "nonStreamMaxWaitMs": ms(policy.non_stream_max_wait),
            "streamClientToleranceMs": ms(queue.stream_client_tolerance),
            "maxQueuedBodyBytes": policy.max_queued_body_bytes,
            "maxQueuedBytes": policy.max_queued_bytes,
            "maxConcurrentQueued": policy.max_queued,
            "pollMs": ms(policy.poll),
            "heartbeatMs": ms(queue.heartbeat),
            "streamForwardGraceMs": ms(queue.stream_forward_grace),
        },
        "timeouts": {
            "connectMs": ms(config.timeouts.connect),
            "headersMs": ms(config.timeouts.headers),
            "nonStreamHeadersMs": ms(config.timeouts.non_stream_headers),
            "idleMs": ms(config.timeouts.idle),
            "clientMs": ms(config.timeouts.client),
        },
        "shutdown": { "drainTimeoutMs": ms(config.drain_timeout) },
        "sync": { "accountsIntervalMs": ms(config.sync_interval) },
        "quotaProbeSeconds": number(config.quota_probe.unwrap_or_default().as_secs_f64()),
        "accounts": [],
    })
}

fn scheduler(config: &Config) -> Value {
    let (policy, scheduler) = (&config.policy, &config.scheduler);
    json!({
        "mode": scheduler.mode,
        "safetyMaxActivePerAccount": policy.max_active_per_account,
        "safetyMaxGlobalActive": policy.max_active_global,
        "cooldownMs": ms(policy.cooldown),
        "maxCooldownMs": ms(policy.max_cooldown),
        "networkCooldownMs": ms(policy.network_cooldown),
        "weeklySoftThreshold": number(policy.weekly_soft),
        "weeklyReserveThreshold": number(policy.weekly_reserve),
        "weeklyCriticalThreshold": number(policy.weekly_critical),
        "weeklyExhaustedThreshold": number(policy.weekly_exhausted),
        "weeklyBurnDebtWeight": number(policy.weekly_burn_debt_weight),
        "scarcityWeight": number(policy.scarcity_weight),
        "spreadShareWeight": number(policy.spread_share_weight),
        "recoveryRampWeight": number(policy.recovery_ramp_weight),
        "recoveryRampMs": ms(policy.recovery_ramp),
        "spreadWindowMs": ms(policy.spread_window),
        "sessionAffinity": word(&SessionAffinity::WORDS, scheduler.session_affinity),
        "sessionIdleMs": ms(policy.session_idle),
        "overage": word(&parse::OVERAGE, policy.overage),
    })
}

fn ms(time: Duration) -> Value {
    number(time.as_secs_f64() * 1_000.0)
}

/// A whole number is written without a fraction.
fn number(value: f64) -> Value {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it saturates, which shows it is not equal"
    )]
    let whole = value as i64;
    #[expect(clippy::cast_precision_loss, reason = "compared with what it came from")]
    if whole as f64 == value {
        return whole.into();
    }
    value.into()
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> Option<&'static str> {
    let known = words.iter().find(|(_, known)| *known == value);
    known.map(|(word, _)| *word)
}
