//! Parses the text of the config file into [`Config`] (SPEC A2). Pure: it touches no file.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::reader::{Findings, Section};
use super::{
    Config, Proxy, Routing, Secret, SessionAffinity, Timeouts, UpstreamProxy, accounts, locate,
    names_a_host,
};
use crate::error::{Error, Result};
use crate::scheduler::{Overage, Policy};

/// Practically no limit for one step of a request, and small enough that sums cannot overflow.
const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Config {
    /// Parses the text of a config file. The path is only for messages.
    #[cfg(test)]
    pub(crate) fn parse(text: &str, file: &Path) -> Result<Config> {
        Config::from_document(&document(text, file)?, text, file)
    }

    /// Reads a parsed document; `text` is used to find line numbers.
    pub(super) fn from_document(
        document: &Map<String, Value>,
        text: &str,
        file: &Path,
    ) -> Result<Config> {
        let findings = RefCell::new(Findings::default());
        let mut config = Section::root(document, &findings).read(read);
        let findings = findings.into_inner();
        if let Some(error) = findings.error(text, file) {
            return Err(error);
        }
        config.notices = findings.into_notices(text, file);
        Ok(config)
    }
}

/// Parses the text as JSON; an error names the line and the last key before the mistake.
pub(super) fn document(text: &str, file: &Path) -> Result<Map<String, Value>> {
    let at_line = |line: usize, problem: String| {
        Error::operator(format!("{}:{line}: {problem}", file.display()))
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(at_line(1, "expected an object, { … }, around all settings".to_owned())),
        Err(error) => {
            let before: usize =
                text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
            let place =
                locate::place_at_end(start_of(text, before + error.column().saturating_sub(1)))
                    .to_string();
            let place = if place.is_empty() { place } else { format!(" at {place}") };
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            Err(at_line(
                error.line(),
                format!("not valid JSON{place}: {what}; the file was left as it is"),
            ))
        }
    }
}

/// The start of the text, cut at a character boundary at or before `length` bytes.
fn start_of(text: &str, length: usize) -> &str {
    let mut length = length.min(text.len());
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    &text[..length]
}

fn read(root: &Section<'_>) -> Config {
    let accounts = accounts::read(root);
    let mut config = Config::default();
    root.section("proxy", |it| proxy(it, &mut config.proxy));
    if let Some(url) = root.base_url("upstream") {
        config.upstream = url;
    }
    config.upstream_proxy = upstream_proxy(root);
    root.share("switchThreshold", &mut config.policy.switch_threshold);
    config.routing = root.section("routing", |it| routing(it, &accounts));
    root.section("scheduler", |it| scheduler(it, &mut config));
    root.section("retry", |it| {
        it.count("maxAttemptsPerRequest", &mut config.policy.max_attempts);
        it.count("maxRetryBufferBytes", &mut config.retry.buffer_bytes_max);
    });
    root.section("queue", |it| queue(it, &mut config));
    root.section("timeouts", |it| timeouts(it, &mut config.timeouts));
    root.section("shutdown", |it| it.time_ms("drainTimeoutMs", &mut config.drain_timeout));
    root.section("sync", |it| it.time_ms("accountsIntervalMs", &mut config.sync_interval));
    config.quota_probe = root.seconds_or_off("quotaProbeSeconds", 60);
    config.log_dir = root.text_if_any("logDir").map(PathBuf::from);
    config.log_file = root.text_if_any("logFile").map(PathBuf::from);
    config.accounts = accounts.into_iter().map(|placed| placed.entry).collect();
    config
}

fn proxy(section: &Section<'_>, proxy: &mut Proxy) {
    section.text("host", &mut proxy.host);
    section.port("port", &mut proxy.port);
    proxy.api_key = section.text_if_any("apiKey").map(Secret::new);
    section.flag("requireKey", &mut proxy.require_key);
    section.count("maxConnections", &mut proxy.connections_max);
}

fn upstream_proxy(root: &Section<'_>) -> UpstreamProxy {
    const KEY: &str = "upstreamProxy";
    const WANTED: &str = "the URL of a proxy such as http://host:port, or false";
    match root.value(KEY) {
        None | Some(Value::Null) => UpstreamProxy::Environment,
        Some(Value::Bool(false)) => UpstreamProxy::Direct,
        Some(Value::String(text)) => {
            // The text is not shown: it may hold a password.
            let uri: Option<ureq::http::Uri> = text.parse().ok();
            if uri.is_none_or(|uri| uri.scheme_str() != Some("http") || !names_a_host(&uri)) {
                root.problem(KEY, format!("expected {WANTED}"));
            }
            UpstreamProxy::Url(Secret::new(text.as_str()))
        }
        Some(other) => root.wrong_type(KEY, WANTED, other).unwrap_or(UpstreamProxy::Environment),
    }
}

fn routing(section: &Section<'_>, accounts: &[accounts::Placed]) -> Routing {
    let is_preferred = section.word("mode", &[("automatic", false), ("preferred", true)]);
    let account = section.text_if_any("preferredAccount");
    match account {
        Some(name) if is_preferred == Some(true) => {
            if !accounts.iter().any(|placed| placed.entry.name == name) {
                section.notice(format!(
                    "routing.preferredAccount: there is no account {name:?}, so routing is automatic"
                ));
            }
            Routing::Preferred(name)
        }
        Some(_) | None => Routing::Automatic,
    }
}

fn scheduler(section: &Section<'_>, config: &mut Config) {
    let policy = &mut config.policy;
    section.text("mode", &mut config.scheduler.mode);
    section.count("safetyMaxActivePerAccount", &mut policy.max_active_per_account);
    section.count("safetyMaxGlobalActive", &mut policy.max_active_global);
    section.time_ms("cooldownMs", &mut policy.cooldown);
    section.time_ms("maxCooldownMs", &mut policy.max_cooldown);
    section.time_ms("networkCooldownMs", &mut policy.network_cooldown);
    section.share(WEEKLY[0], &mut policy.weekly_soft);
    section.share(WEEKLY[1], &mut policy.weekly_reserve);
    section.share(WEEKLY[2], &mut policy.weekly_critical);
    section.share(WEEKLY[3], &mut policy.weekly_exhausted);
    section.weight("weeklyBurnDebtWeight", &mut policy.weekly_burn_debt_weight);
    section.weight("scarcityWeight", &mut policy.scarcity_weight);
    section.weight("spreadShareWeight", &mut policy.spread_share_weight);
    section.weight("recoveryRampWeight", &mut policy.recovery_ramp_weight);
    section.time_ms("recoveryRampMs", &mut policy.recovery_ramp);
    section.time_ms("spreadWindowMs", &mut policy.spread_window);
    if let Some(affinity) = section.word("sessionAffinity", &SessionAffinity::WORDS) {
        config.scheduler.session_affinity = affinity;
    }
    section.time_ms("sessionIdleMs", &mut policy.session_idle);
    if let Some(overage) = section.word("overage", &OVERAGE) {
        policy.overage = overage;
    }
    weekly_ascends(section, policy);
}

pub(super) const OVERAGE: [(&str, Overage); 2] =
    [("last", Overage::Last), ("never", Overage::Never)];

const WEEKLY: [&str; 4] = [
    "weeklySoftThreshold",
    "weeklyReserveThreshold",
    "weeklyCriticalThreshold",
    "weeklyExhaustedThreshold",
];

/// Reports the first weekly threshold that is below the one before it.
fn weekly_ascends(section: &Section<'_>, policy: &Policy) {
    let values = [
        policy.weekly_soft,
        policy.weekly_reserve,
        policy.weekly_critical,
        policy.weekly_exhausted,
    ];
    for step in 1..WEEKLY.len() {
        if values[step] < values[step - 1] {
            let lower = WEEKLY[step - 1];
            let (lower_value, value) = (Value::from(values[step - 1]), Value::from(values[step]));
            section.problem(
                WEEKLY[step],
                format!("expected at least {lower} ({lower_value}), found {value}"),
            );
            return;
        }
    }
}

fn queue(section: &Section<'_>, config: &mut Config) {
    let (policy, queue) = (&mut config.policy, &mut config.queue);
    section.flag("enabled", &mut policy.queue_enabled);
    section.time_ms("maxWaitMs", &mut policy.max_wait);
    section.time_ms_if_any("autoMaxWaitMs", &mut policy.auto_max_wait);
    section.time_ms("capacityMaxWaitMs", &mut policy.capacity_max_wait);
    section.time_ms("weeklyMaxWaitMs", &mut policy.weekly_max_wait);
    section.time_ms("networkMaxWaitMs", &mut policy.network_max_wait);
    section.time_ms("unprovenMaxWaitMs", &mut policy.unproven_max_wait);
    section.time_ms("countTokensMaxWaitMs", &mut policy.count_tokens_max_wait);
    section.time_ms("nonStreamMaxWaitMs", &mut policy.non_stream_max_wait);
    section.time_ms("streamClientToleranceMs", &mut queue.stream_client_tolerance);
    section.count("maxQueuedBodyBytes", &mut policy.max_queued_body_bytes);
    section.count("maxQueuedBytes", &mut policy.max_queued_bytes);
    section.count("maxConcurrentQueued", &mut policy.max_queued);
    section.time_ms("pollMs", &mut policy.poll);
    section.time_ms("heartbeatMs", &mut queue.heartbeat);
    section.time_ms("streamForwardGraceMs", &mut queue.stream_forward_grace);
}

fn timeouts(section: &Section<'_>, timeouts: &mut Timeouts) {
    for (key, limit) in [
        ("connectMs", &mut timeouts.connect),
        ("headersMs", &mut timeouts.headers),
        ("nonStreamHeadersMs", &mut timeouts.non_stream_headers),
        ("idleMs", &mut timeouts.idle),
    ] {
        section.time_ms(key, limit);
        // A limit of zero would end everything at once, so 0 means no limit, as usual.
        if limit.is_zero() {
            *limit = NO_LIMIT;
        }
    }
    section.time_ms("clientMs", &mut timeouts.client);
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
