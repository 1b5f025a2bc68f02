//! The meaning of the config file, rule by rule (SPEC A2).

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use super::super::{Queue, Retry, Scheduler};
use super::*;
use crate::config::BaseUrl;

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("c.json"))
}

fn error_of(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a2_an_empty_object_gives_every_default() {
    let config = parse("{}").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.policy, Policy::default());
}

#[test]
fn a2_defaults_are_those_of_the_table() {
    let ms = Duration::from_millis;
    let Config { proxy, policy, scheduler, retry, queue, timeouts, .. } = Config::default();
    assert_eq!((proxy.host.as_str(), proxy.port, proxy.require_key), ("127.0.0.1", 3456, false));
    assert_eq!(Config::default().upstream.as_str(), "https://api.anthropic.com");
    assert_eq!(policy.switch_threshold, 0.9);
    assert_eq!(scheduler.session_affinity, SessionAffinity::Auto);
    assert_eq!(policy.overage, Overage::Last);
    assert_eq!((policy.max_attempts, retry.buffer_bytes_max), (0, 10_485_760));
    assert_eq!((queue.stream_client_tolerance, queue.heartbeat), (ms(280_000), ms(10_000)));
    assert_eq!(queue.stream_forward_grace, ms(10_000));
    assert_eq!((timeouts.connect, timeouts.headers), (ms(10_000), ms(120_000)));
    assert_eq!((timeouts.non_stream_headers, timeouts.idle), (ms(600_000), ms(240_000)));
    assert_eq!(timeouts.client, ms(60_000));
    assert_eq!(
        (Config::default().drain_timeout, Config::default().sync_interval),
        (ms(600_000), ms(15_000))
    );
}

#[test]
fn a2_a_time_limit_of_zero_is_none() {
    let text = r#"{"timeouts": {"connectMs": 0, "headersMs": 0, "nonStreamHeadersMs": 0, "idleMs": 0, "clientMs": 0}}"#;
    let timeouts = parse(text).unwrap().timeouts;
    assert_eq!((timeouts.connect, timeouts.headers), (NO_LIMIT, NO_LIMIT));
    assert_eq!((timeouts.non_stream_headers, timeouts.idle), (NO_LIMIT, NO_LIMIT));
    // The code that uses it handles 0.
    assert_eq!(timeouts.client, Duration::ZERO);
}

#[test]
fn a2_absent_keys_take_their_default_at_every_level() {
    let config =
        parse(r#"{"queue": {"maxWaitMs": 5}, "scheduler": {"weeklySoftThreshold": 0.1}}"#).unwrap();
    let default = Config::default();
    let expected = Config {
        policy: Policy { max_wait: Duration::from_millis(5), weekly_soft: 0.1, ..default.policy },
        ..default
    };
    assert_eq!(config, expected);
}

#[test]
fn a2_every_value_is_read() {
    let config = parse(
        r#"{
        "proxy": {"host": "::1", "port": 0, "apiKey": "k", "requireKey": true, "maxConnections": 15},
        "upstream": "http://localhost:8080/base/", "upstreamProxy": "http://u:p@proxy:8080",
        "switchThreshold": 1, "routing": {"mode": "preferred", "preferredAccount": "a"},
        "scheduler": {"mode": "x", "safetyMaxActivePerAccount": 1, "safetyMaxGlobalActive": 2, "cooldownMs": 3,
          "maxCooldownMs": 4, "networkCooldownMs": 5, "weeklySoftThreshold": 0, "weeklyReserveThreshold": 0.5,
          "weeklyCriticalThreshold": 0.5, "weeklyExhaustedThreshold": 1, "weeklyBurnDebtWeight": 1.5, "scarcityWeight": 7,
          "spreadShareWeight": 8, "recoveryRampWeight": 9, "recoveryRampMs": 10, "spreadWindowMs": 11,
          "sessionAffinity": "header", "sessionIdleMs": 12, "overage": "never"},
        "retry": {"maxAttemptsPerRequest": 3, "maxRetryBufferBytes": 4.0},
        "queue": {"enabled": false, "maxWaitMs": 1.5, "autoMaxWaitMs": 2, "capacityMaxWaitMs": 3, "weeklyMaxWaitMs": 4,
          "networkMaxWaitMs": 5, "unprovenMaxWaitMs": 9, "countTokensMaxWaitMs": 6, "nonStreamMaxWaitMs": 7, "streamClientToleranceMs": 8,
          "maxQueuedBodyBytes": 9, "maxQueuedBytes": 10, "maxConcurrentQueued": 11, "pollMs": 12, "heartbeatMs": 13,
          "streamForwardGraceMs": 14},
        "timeouts": {"connectMs": 1, "headersMs": 2, "nonStreamHeadersMs": 3, "idleMs": 4, "clientMs": 5},
        "shutdown": {"drainTimeoutMs": 6}, "sync": {"accountsIntervalMs": 7}, "quotaProbeSeconds": 60, "logFile": "/l/f", "logDir": "/l",
        "accounts": [{"name": "a", "apiKey": "sk"}]}"#,
    )
    .unwrap();
    let ms = Duration::from_millis;
    let expected = Config {
        proxy: Proxy {
            host: "::1".to_owned(),
            port: 0,
            api_key: Some(Secret::new("k")),
            require_key: true,
            connections_max: 15,
        },
        upstream: BaseUrl::parse("http://localhost:8080/base").unwrap(),
        upstream_proxy: UpstreamProxy::Url(Secret::new("http://u:p@proxy:8080")),
        policy: Policy {
            switch_threshold: 1.0,
            max_active_per_account: 1,
            max_active_global: 2,
            cooldown: ms(3),
            max_cooldown: ms(4),
            network_cooldown: ms(5),
            weekly_soft: 0.0,
            weekly_reserve: 0.5,
            weekly_critical: 0.5,
            weekly_exhausted: 1.0,
            weekly_burn_debt_weight: 1.5,
            scarcity_weight: 7.0,
            spread_share_weight: 8.0,
            recovery_ramp_weight: 9.0,
            recovery_ramp: ms(10),
            spread_window: ms(11),
            session_idle: ms(12),
            overage: Overage::Never,
            max_attempts: 3,
            queue_enabled: false,
            max_wait: Duration::from_micros(1_500),
            auto_max_wait: Some(ms(2)),
            capacity_max_wait: ms(3),
            weekly_max_wait: ms(4),
            network_max_wait: ms(5),
            unproven_max_wait: ms(9),
            count_tokens_max_wait: ms(6),
            non_stream_max_wait: ms(7),
            max_queued_body_bytes: 9,
            max_queued_bytes: 10,
            max_queued: 11,
            poll: ms(12),
        },
        routing: Routing::Preferred("a".to_owned()),
        scheduler: Scheduler { mode: "x".to_owned(), session_affinity: SessionAffinity::Header },
        retry: Retry { buffer_bytes_max: 4 },
        queue: Queue {
            stream_client_tolerance: ms(8),
            heartbeat: ms(13),
            stream_forward_grace: ms(14),
        },
        timeouts: Timeouts {
            connect: ms(1),
            headers: ms(2),
            non_stream_headers: ms(3),
            idle: ms(4),
            client: ms(5),
        },
        drain_timeout: ms(6),
        sync_interval: ms(7),
        quota_probe: Some(ms(60_000)),
        log_dir: Some("/l".into()),
        log_file: Some("/l/f".into()),
        accounts: config.accounts.clone(),
        notices: Vec::new(),
    };
    assert_eq!(config, expected);
}

/// Every key with values that must be refused, and what the error says is expected.
#[test]
fn a2_wrong_types_and_ranges_name_the_key() {
    const TIME: &str = "expected a time in ms, 0 or more, found ";
    const COUNT: &str = "expected a whole number, 0 or more, found ";
    const WEIGHT: &str = "expected a number, 0 or more, found ";
    const SHARE: &str = "expected a number from 0 to 1, found ";
    const FLAG: &str = "expected true or false, found ";
    const TEXT: &str = "expected a string, found ";
    const PORT: &str = "expected a port from 0 to 65535, found ";
    let table: &[(&str, &[&str], &str)] = &[
        ("proxy.host", &["1", "null", "[]"], TEXT),
        ("proxy.port", &["-1", "65536", "1.5", "\"3456\"", "null", "true"], PORT),
        ("proxy.apiKey", &["1", "false", "{}"], TEXT),
        ("proxy.requireKey", &["0", "null", "\"false\""], FLAG),
        ("switchThreshold", &["-0.1", "1.01", "null", "\"0.9\"", "90"], SHARE),
        ("scheduler.mode", &["1", "null"], TEXT),
        ("scheduler.safetyMaxActivePerAccount", &["-1", "1.5", "null", "\"5\""], COUNT),
        ("scheduler.safetyMaxGlobalActive", &["-1", "true"], COUNT),
        ("scheduler.cooldownMs", &["-1", "null", "\"30000\"", "[]"], TIME),
        ("scheduler.maxCooldownMs", &["-0.5"], TIME),
        ("scheduler.networkCooldownMs", &["false"], TIME),
        ("scheduler.weeklySoftThreshold", &["2"], SHARE),
        ("scheduler.weeklyReserveThreshold", &["-1"], SHARE),
        ("scheduler.weeklyCriticalThreshold", &["null"], SHARE),
        ("scheduler.weeklyExhaustedThreshold", &["1.1"], SHARE),
        ("scheduler.weeklyBurnDebtWeight", &["-1", "null"], WEIGHT),
        ("scheduler.scarcityWeight", &["-6"], WEIGHT),
        ("scheduler.spreadShareWeight", &["\"3\""], WEIGHT),
        ("scheduler.recoveryRampWeight", &["{}"], WEIGHT),
        ("scheduler.recoveryRampMs", &["-1"], TIME),
        ("scheduler.spreadWindowMs", &["-1"], TIME),
        ("scheduler.sessionIdleMs", &["-1"], TIME),
        ("retry.maxAttemptsPerRequest", &["-1", "0.5"], COUNT),
        ("retry.maxRetryBufferBytes", &["-1", "null"], COUNT),
        ("queue.enabled", &["1"], FLAG),
        ("queue.maxWaitMs", &["null"], TIME),
        (
            "queue.autoMaxWaitMs",
            &["-1", "false"],
            "expected a time in ms, 0 or more, or null, found ",
        ),
        ("queue.capacityMaxWaitMs", &["-1"], TIME),
        ("queue.weeklyMaxWaitMs", &["-1"], TIME),
        ("queue.networkMaxWaitMs", &["-1"], TIME),
        ("queue.countTokensMaxWaitMs", &["-1"], TIME),
        ("queue.nonStreamMaxWaitMs", &["-1"], TIME),
        ("queue.streamClientToleranceMs", &["-1"], TIME),
        ("queue.maxQueuedBodyBytes", &["-1"], COUNT),
        ("queue.maxQueuedBytes", &["-1"], COUNT),
        ("queue.maxConcurrentQueued", &["-1"], COUNT),
        ("queue.pollMs", &["-1"], TIME),
        ("queue.heartbeatMs", &["-1"], TIME),
        ("queue.streamForwardGraceMs", &["-1"], TIME),
        ("timeouts.connectMs", &["-1"], TIME),
        ("timeouts.headersMs", &["-1"], TIME),
        ("timeouts.nonStreamHeadersMs", &["-1"], TIME),
        ("timeouts.idleMs", &["-1"], TIME),
        ("timeouts.clientMs", &["-1"], TIME),
        ("shutdown.drainTimeoutMs", &["-1"], TIME),
        ("sync.accountsIntervalMs", &["-1"], TIME),
        (
            "quotaProbeSeconds",
            &["59", "-1", "null", "0.5"],
            "expected 0 (off) or at least 60 seconds, found ",
        ),
        ("logDir", &["1", "[]"], TEXT),
        ("routing.preferredAccount", &["1"], TEXT),
        (
            "routing.mode",
            &["\"prefered\"", "null"],
            "expected \"automatic\" or \"preferred\", found ",
        ),
        (
            "scheduler.sessionAffinity",
            &["\"on\""],
            "expected \"auto\" or \"header\" or \"off\", found another string",
        ),
        ("scheduler.overage", &["true"], "expected \"last\" or \"never\", found true"),
        (
            "upstreamProxy",
            &["true", "1"],
            "expected the URL of a proxy such as http://host:port, or false, found ",
        ),
        ("upstream", &["1"], TEXT),
        ("accounts", &["{}", "null"], "expected a list, found "),
        ("proxy", &["1", "null"], "expected an object, found "),
        ("queue", &["[]"], "expected an object, found "),
    ];
    for (key, values, wanted) in table {
        for value in *values {
            let text = match key.split_once('.') {
                Some((section, key)) => format!("{{\n\"{section}\": {{\n\"{key}\": {value} }} }}"),
                None => format!("{{\n\n\"{key}\": {value} }}"),
            };
            let error = error_of(&text);
            let start = format!("c.json:3: {key}: {wanted}");
            assert!(error.starts_with(&start), "{key} = {value}\n{error}\n{start}");
        }
    }
}

#[test]
fn a2_nothing_narrower_than_the_ranges_is_refused() {
    for text in [
        r#"{"queue": {"pollMs": 0, "heartbeatMs": 0, "maxWaitMs": 1e300, "maxQueuedBytes": 1e300}}"#,
        r#"{"timeouts": {"connectMs": 0}, "scheduler": {"safetyMaxGlobalActive": 0, "scarcityWeight": 1e9}}"#,
        r#"{"proxy": {"port": 65535}, "switchThreshold": 0, "quotaProbeSeconds": 1e18}"#,
    ] {
        parse(text).unwrap();
    }
    let config = parse(r#"{"queue": {"maxWaitMs": 1e300, "maxQueuedBytes": 1e300}}"#).unwrap();
    assert_eq!(config.policy.max_wait, Duration::from_secs(100 * 365 * 86_400));
    assert_eq!(config.policy.max_queued_bytes, u64::MAX);
}

#[test]
fn a2_weekly_thresholds_ascend() {
    let text = "{\"scheduler\": {\n\"weeklyReserveThreshold\": 0.96 } }";
    assert_eq!(
        error_of(text),
        "c.json:1: scheduler.weeklyCriticalThreshold: expected at least weeklyReserveThreshold (0.96), found 0.95"
    );
    let text =
        "{\"scheduler\": {\n\"weeklySoftThreshold\": 0.9,\n\"weeklyReserveThreshold\": 0.8 } }";
    assert!(
        error_of(text).starts_with("c.json:3: scheduler.weeklyReserveThreshold: "),
        "{}",
        error_of(text)
    );
}

#[test]
fn a2_all_mistakes_are_told_at_once() {
    let error = error_of(
        "{\"switchThreshold\": 2,\n\"proxy\": {\"port\": -1},\n\"accounts\": [1,\n{\"enabled\": 1}]}",
    );
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines,
        [
            "c.json:3: accounts[0]: expected an object, found 1",
            "c.json:4: accounts[1].enabled: expected true or false, found 1",
            "c.json:2: proxy.port: expected a port from 0 to 65535, found -1",
            "c.json:1: switchThreshold: expected a number from 0 to 1, found 2",
        ]
    );
}

#[test]
fn a1_broken_json_names_line_and_key() {
    for (text, error) in [
        ("", "c.json:1: not valid JSON: EOF while parsing a value; the file was left as it is"),
        ("[]", "c.json:1: expected an object, { … }, around all settings"),
        (
            "{\n\"proxy\": {\n\"port\": 34x }}",
            "c.json:3: not valid JSON at proxy.port: expected `,` or `}`; the file was left as it is",
        ),
        (
            "{\n\"accounts\": [{\"name\": \"ü\",\n\"apiKey\": \"sk-ant-secret }]}",
            "c.json:3: not valid JSON at accounts[0].apiKey: EOF while parsing a string; the file was left as it is",
        ),
        (
            "{\"upstream\": \"x\",}",
            "c.json:1: not valid JSON at upstream: trailing comma; the file was left as it is",
        ),
        ("{} {}", "c.json:1: not valid JSON: trailing characters; the file was left as it is"),
    ] {
        assert_eq!(error_of(text), error, "{text}");
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(1_000), "]".repeat(1_000));
    assert!(error_of(&deep).contains("recursion limit exceeded"));
}

#[test]
fn a2_unknown_keys_are_one_line_with_what_was_meant() {
    let text = "{\"prots\": 1,\n\"proxy\": {\"prot\": 2},\n\"accounts\": [\n{\"apiKey\": \"k\", \"enabeld\": 3}]}";
    assert_eq!(
        parse(text).unwrap().notices,
        ["c.json: 3 unknown keys, kept but not used: prots (line 1; did you mean proxy?), \
          proxy.prot (line 2; did you mean proxy.port?), \
          accounts[0].enabeld (line 4; did you mean accounts[0].enabled?)"]
    );
    for (text, line) in [
        ("{\"nonsense\": 1}", "c.json: unknown key, kept but not used: nonsense (line 1)"),
        (
            "{\"port\": 1}",
            "c.json: unknown key, kept but not used: port (line 1; did you mean proxy.port?)",
        ),
        (
            "{\"scheduler\": {\"crossProviderFallbackPolicy\": \"when-exhausted\"}}",
            "c.json: unknown key, kept but not used: scheduler.crossProviderFallbackPolicy \
             (line 1; use accounts[].profiles); see maxpool(5)",
        ),
        (
            "{\"ui\": {}, \"effort\": 1,\n\"eventLog\": {}}",
            "c.json: 3 unknown keys, kept but not used: eventLog (line 2; use logFile); \
             without a replacement: ui, effort; see maxpool(5)",
        ),
    ] {
        assert_eq!(parse(text).unwrap().notices, [line]);
    }
}

#[test]
fn a2_upstreams_are_urls() {
    for (url, read) in [
        ("https://api.anthropic.com", Some("https://api.anthropic.com")),
        ("http://127.0.0.1:8080/", Some("http://127.0.0.1:8080")),
        ("http://[::1]:8080/a/b/", Some("http://[::1]:8080/a/b")),
        ("HTTPS://host", Some("HTTPS://host")),
        ("https://host/v1", Some("https://host")),
        ("https://host/a/v1//", Some("https://host/a")),
        ("https://host/a-v1", Some("https://host/a-v1")),
        ("http://v1/", Some("http://v1")),
        ("ftp://host", None),
        ("host", None),
        ("https://", None),
        ("https://user:secret@host", None),
        ("https://host?a=b", None),
        ("https://host/#f", None),
        ("https://host:99999", None),
        ("https://host:", None),
        ("https://ho st", None),
        ("", None),
    ] {
        assert_eq!(BaseUrl::parse(url).as_ref().map(BaseUrl::as_str), read, "{url}");
    }
    let error = error_of(r#"{"upstream": "https://user:secret@host"}"#);
    assert!(
        error.starts_with("c.json:1: upstream: expected an http:// or https:// URL"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a2_upstream_proxy() {
    for (value, read) in [
        ("null", UpstreamProxy::Environment),
        ("false", UpstreamProxy::Direct),
        ("\"http://p:1\"", UpstreamProxy::Url(Secret::new("http://p:1"))),
    ] {
        assert_eq!(
            parse(&format!("{{\"upstreamProxy\": {value}}}")).unwrap().upstream_proxy,
            read,
            "{value}"
        );
    }
    for value in ["\"socks5://p:1\"", "\"p\"", "\"\"", "\"http://\"", "\"http://user:secret@\""] {
        let error = error_of(&format!("{{\"upstreamProxy\": {value}}}"));
        assert_eq!(
            error,
            "c.json:1: upstreamProxy: expected the URL of a proxy such as http://host:port, or false"
        );
    }
}

#[test]
fn s7_preferred_routing_needs_an_account() {
    for (text, routing, notices) in [
        (r#"{"routing": {"mode": "preferred"}}"#, Routing::Automatic, 0),
        (r#"{"routing": {"mode": "preferred", "preferredAccount": null}}"#, Routing::Automatic, 0),
        (r#"{"routing": {"preferredAccount": "a"}}"#, Routing::Automatic, 0),
        (
            r#"{"routing": {"mode": "preferred", "preferredAccount": "a"}}"#,
            Routing::Preferred("a".to_owned()),
            1,
        ),
    ] {
        let config = parse(text).unwrap();
        assert_eq!((config.routing, config.notices.len()), (routing, notices), "{text}");
    }
}

#[test]
fn a1_a_key_that_is_empty_is_none() {
    for (text, key) in [
        (r#"{"proxy": {"apiKey": ""}}"#, None),
        (r#"{"proxy": {"apiKey": null}}"#, None),
        (r#"{"proxy": {"apiKey": "k"}}"#, Some(Secret::new("k"))),
    ] {
        assert_eq!(parse(text).unwrap().proxy.api_key, key, "{text}");
    }
}

#[test]
fn d4_no_part_of_the_config_shows_a_credential() {
    let text = r#"{"proxy": {"apiKey": "SECRET1"}, "upstreamProxy": "http://u:SECRET2@p", "accounts": [
        {"name": "a", "type": "oauth", "accessToken": "SECRET3", "refreshToken": "SECRET4", "source": "login"},
        {"name": "b", "apiKey": "SECRET5"}, {"name": "c", "authToken": "SECRET6", "upstream": "http://h"},
        {"name": "d", "apiKey": "SECRET7 with a space"}]}"#;
    let config = parse(text).unwrap();
    assert_eq!(config.accounts.len(), 3);
    assert!(!format!("{config:?}").contains("SECRET"));
    let wrong =
        text.replace("\"name\": \"a\"", "\"name\": 1").replace("\"login\"", "[\"SECRET8\"]");
    assert!(!error_of(&wrong).contains("SECRET"), "{}", error_of(&wrong));
}
