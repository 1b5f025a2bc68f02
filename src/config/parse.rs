//! From the text of the config file to [`Config`] (SPEC A2). Pure: it touches no file.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::reader::{Findings, Section};
use super::{
    BaseUrl, Config, Proxy, Queue, Retry, Routing, Scheduler, Secret, SessionAffinity, Timeouts,
    UpstreamProxy, accounts, locate, names_a_host,
};
use crate::error::{Error, Result};
use crate::scheduler::Overage;

/// As good as no limit on the time of one step of a request, and far from where sums of times end.
const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Config {
    /// Reads the text of a config file. The path is for messages only.
    pub(crate) fn parse(text: &str, file: &Path) -> Result<Config> {
        Config::from_document(&document(text, file)?, text, file)
    }

    /// Reads a document whose text is `text`, where lines are looked up.
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

/// The text as JSON; an error names the line and the key that stands last before the mistake.
pub(super) fn document(text: &str, file: &Path) -> Result<Map<String, Value>> {
    let at_line = |line: usize, problem: String| {
        Error::operator(format!("{}:{line}: {problem}", file.display()))
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(at_line(
            1,
            "expected an object, { … }, around all settings".to_owned(),
        )),
        Err(error) => {
            let before: usize = text
                .split_inclusive('\n')
                .take(error.line().saturating_sub(1))
                .map(str::len)
                .sum();
            let place =
                locate::place_at_end(start_of(text, before + error.column().saturating_sub(1)))
                    .to_string();
            let place = if place.is_empty() {
                place
            } else {
                format!(" at {place}")
            };
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            Err(at_line(
                error.line(),
                format!("not valid JSON{place}: {what}; the file was left as it is"),
            ))
        }
    }
}

/// The start of the text, cut at a character border at or before `length` bytes.
fn start_of(text: &str, length: usize) -> &str {
    let mut length = length.min(text.len());
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    &text[..length]
}

fn read(root: &Section<'_>) -> Config {
    let default = Config::default();
    let accounts = accounts::read(root);
    Config {
        proxy: root.section("proxy", proxy),
        upstream: base_url(root, "upstream").unwrap_or(default.upstream),
        upstream_proxy: upstream_proxy(root),
        switch_threshold: root.share("switchThreshold", default.switch_threshold),
        routing: root.section("routing", |section| routing(section, &accounts)),
        scheduler: root.section("scheduler", scheduler),
        retry: root.section("retry", retry),
        queue: root.section("queue", queue),
        timeouts: root.section("timeouts", timeouts),
        drain_timeout: root.section("shutdown", |it| {
            it.time_ms("drainTimeoutMs", default.drain_timeout)
        }),
        sync_interval: root.section("sync", |it| {
            it.time_ms("accountsIntervalMs", default.sync_interval)
        }),
        quota_probe: root.seconds_or_off("quotaProbeSeconds", 60),
        log_dir: root.text_if_any("logDir").map(PathBuf::from),
        accounts: accounts.into_iter().map(|placed| placed.entry).collect(),
        notices: Vec::new(),
    }
}

fn proxy(section: &Section<'_>) -> Proxy {
    let default = Proxy::default();
    Proxy {
        host: section.text("host", &default.host),
        port: section.port("port", default.port),
        api_key: section.text_if_any("apiKey").map(Secret::new),
        require_key: section.flag("requireKey", default.require_key),
    }
}

/// A base URL, if the key is there and is one.
pub(super) fn base_url(section: &Section<'_>, key: &'static str) -> Option<BaseUrl> {
    let text = section.text_if_any(key)?;
    let url = BaseUrl::parse(&text);
    if url.is_none() {
        section.problem(
            key,
            "expected an http:// or https:// URL of a host and perhaps a path, without user, query or fragment",
        );
    }
    url
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
        Some(other) => root
            .wrong_type(KEY, WANTED, other)
            .unwrap_or(UpstreamProxy::Environment),
    }
}

fn routing(section: &Section<'_>, accounts: &[accounts::Placed]) -> Routing {
    let is_preferred = section.word("mode", &[("automatic", false), ("preferred", true)], false);
    let account = section.text_if_any("preferredAccount");
    match account {
        Some(name) if is_preferred => {
            if !accounts.iter().any(|placed| placed.entry.name == name) {
                section.notice(format!("routing.preferredAccount: there is no account {name:?}, so routing is automatic"));
            }
            Routing::Preferred(name)
        }
        Some(_) | None => Routing::Automatic,
    }
}

fn scheduler(section: &Section<'_>) -> Scheduler {
    let default = Scheduler::default();
    let scheduler = Scheduler {
        mode: section.text("mode", &default.mode),
        safety_max_active_per_account: section.count(
            "safetyMaxActivePerAccount",
            default.safety_max_active_per_account,
        ),
        safety_max_global_active: section
            .count("safetyMaxGlobalActive", default.safety_max_global_active),
        cooldown: section.time_ms("cooldownMs", default.cooldown),
        cooldown_max: section.time_ms("maxCooldownMs", default.cooldown_max),
        network_cooldown: section.time_ms("networkCooldownMs", default.network_cooldown),
        weekly_soft: section.share(WEEKLY[0], default.weekly_soft),
        weekly_reserve: section.share(WEEKLY[1], default.weekly_reserve),
        weekly_critical: section.share(WEEKLY[2], default.weekly_critical),
        weekly_exhausted: section.share(WEEKLY[3], default.weekly_exhausted),
        weekly_burn_debt_weight: section
            .weight("weeklyBurnDebtWeight", default.weekly_burn_debt_weight),
        scarcity_weight: section.weight("scarcityWeight", default.scarcity_weight),
        spread_share_weight: section.weight("spreadShareWeight", default.spread_share_weight),
        recovery_ramp_weight: section.weight("recoveryRampWeight", default.recovery_ramp_weight),
        recovery_ramp: section.time_ms("recoveryRampMs", default.recovery_ramp),
        spread_window: section.time_ms("spreadWindowMs", default.spread_window),
        session_affinity: section.word(
            "sessionAffinity",
            &[
                ("auto", SessionAffinity::Auto),
                ("header", SessionAffinity::Header),
                ("off", SessionAffinity::Off),
            ],
            default.session_affinity,
        ),
        session_idle: section.time_ms("sessionIdleMs", default.session_idle),
        overage: section.word(
            "overage",
            &[("last", Overage::Last), ("never", Overage::Never)],
            default.overage,
        ),
    };
    weekly_ascends(section, &scheduler);
    scheduler
}

const WEEKLY: [&str; 4] = [
    "weeklySoftThreshold",
    "weeklyReserveThreshold",
    "weeklyCriticalThreshold",
    "weeklyExhaustedThreshold",
];

/// Names the first weekly threshold that lies below the one before it.
fn weekly_ascends(section: &Section<'_>, scheduler: &Scheduler) {
    let values = [
        scheduler.weekly_soft,
        scheduler.weekly_reserve,
        scheduler.weekly_critical,
        scheduler.weekly_exhausted,
    ];
    for step in 1..WEEKLY.len() {
        if values[step] < values[step - 1] {
            let (lower, lower_value, value) = (WEEKLY[step - 1], values[step - 1], values[step]);
            section.problem(
                WEEKLY[step],
                format!(
                    "expected at least {lower} ({}), found {}",
                    Value::from(lower_value),
                    Value::from(value)
                ),
            );
            return;
        }
    }
}

fn retry(section: &Section<'_>) -> Retry {
    let default = Retry::default();
    Retry {
        attempts_max: section.count("maxAttemptsPerRequest", default.attempts_max),
        buffer_bytes_max: section.count("maxRetryBufferBytes", default.buffer_bytes_max),
    }
}

fn queue(section: &Section<'_>) -> Queue {
    let default = Queue::default();
    Queue {
        enabled: section.flag("enabled", default.enabled),
        wait_max: section.time_ms("maxWaitMs", default.wait_max),
        auto_wait_max: section.time_ms_if_any("autoMaxWaitMs"),
        capacity_wait_max: section.time_ms("capacityMaxWaitMs", default.capacity_wait_max),
        weekly_wait_max: section.time_ms("weeklyMaxWaitMs", default.weekly_wait_max),
        network_wait_max: section.time_ms("networkMaxWaitMs", default.network_wait_max),
        count_tokens_wait_max: section
            .time_ms("countTokensMaxWaitMs", default.count_tokens_wait_max),
        non_stream_wait_max: section.time_ms("nonStreamMaxWaitMs", default.non_stream_wait_max),
        stream_client_tolerance: section
            .time_ms("streamClientToleranceMs", default.stream_client_tolerance),
        queued_body_bytes_max: section.count("maxQueuedBodyBytes", default.queued_body_bytes_max),
        queued_bytes_max: section.count("maxQueuedBytes", default.queued_bytes_max),
        queued_max: section.count("maxConcurrentQueued", default.queued_max),
        poll: section.time_ms("pollMs", default.poll),
        heartbeat: section.time_ms("heartbeatMs", default.heartbeat),
        stream_forward_grace: section.time_ms("streamForwardGraceMs", default.stream_forward_grace),
    }
}

fn timeouts(section: &Section<'_>) -> Timeouts {
    let default = Timeouts::default();
    // A limit that ends everything at once would be of no use to anybody: 0 means none, as elsewhere in the world.
    let limit = |key, default| match section.time_ms(key, default) {
        Duration::ZERO => NO_LIMIT,
        limit => limit,
    };
    Timeouts {
        connect: limit("connectMs", default.connect),
        headers: limit("headersMs", default.headers),
        non_stream_headers: limit("nonStreamHeadersMs", default.non_stream_headers),
        idle: limit("idleMs", default.idle),
        client: section.time_ms("clientMs", default.client),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
