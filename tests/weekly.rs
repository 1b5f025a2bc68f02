//! The weekly tiers (SPEC S4), learned from headers and seen from outside.

use std::time::Duration;

use crate::harness::{Ask, Home, Proxy, Value, hello, json};
use crate::upstream::{Answer, Limits, Upstream};

/// A weekly window whose pace does not raise its use: it ends in six hours.
fn week(used: f64) -> Answer {
    let limits = Limits::new()
        .status("allowed")
        .window("5h", 0.1, Duration::from_secs(3600))
        .window("7d", used, Duration::from_secs(6 * 3600));
    Answer::message("hi").limits(&limits)
}

/// Accounts whose weekly use was learned from one answer each.
fn start(upstream: &Upstream, used: &[(&str, f64)]) -> (Home, Proxy) {
    let names: Vec<&str> = used.iter().map(|(name, _)| *name).collect();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&names).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    for (name, used) in used {
        upstream.always(&format!("key-{name}"), week(*used));
    }
    for _ in used {
        proxy.post(&hello()).assert_said("hi");
    }
    for name in names {
        assert_eq!(upstream.count(&format!("key-{name}")), 1, "{name} is known from one answer");
    }
    (home, proxy)
}

fn weekly(proxy: &Proxy, name: &str) -> Value {
    proxy.account(name)["weekly"].clone()
}

#[test]
fn the_tiers_are_shown() {
    let allowed = |used: f64| (used, week(used));
    // If the API says nothing, our own threshold decides.
    let unsaid = |used: f64| {
        let limits = Limits::new().window("7d", used, Duration::from_secs(6 * 3600));
        (used, Answer::message("hi").limits(&limits))
    };
    let rows = [
        (allowed(0.10), "normal", "normal", "active"),
        (allowed(0.70), "soft", "soft", "active"),
        (allowed(0.88), "reserve", "reserve", "active"),
        (allowed(0.96), "critical", "critical", "active"),
        (allowed(0.99), "critical", "exhausted", "active"),
        (unsaid(0.99), "exhausted", "exhausted", "exhausted"),
    ];
    for ((used, answer), state, raw, status) in rows {
        let upstream = Upstream::start();
        let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
        let proxy = Proxy::start(&home);
        upstream.always("key-a", answer);
        proxy.post(&hello()).assert_said("hi");
        let weekly = weekly(&proxy, "a");
        assert_eq!((&weekly["state"], &weekly["rawState"]), (&json!(state), &json!(raw)), "{used}");
        let effective = weekly["effectiveUsage"].as_f64().expect("a number");
        assert!((effective - used).abs() < 0.02, "{used}: {effective}");
        assert_eq!(proxy.account("a")["status"], status, "{used}");
    }
}

#[test]
fn an_account_without_a_weekly_value_is_unknown() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    assert_eq!(weekly(&proxy, "a")["state"], "unknown");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(weekly(&proxy, "a")["rawState"], "unknown");
}

#[test]
fn pace_counts_as_well_as_use() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    // Half is used six days before the reset: 0.5 + 0.6 * (0.5 - 1/7) = 0.714.
    let limits = Limits::new().window("7d", 0.5, Duration::from_secs(6 * 86400));
    upstream.next("key-a", Answer::message("hi").limits(&limits));
    proxy.post(&hello()).assert_said("hi");
    let weekly = weekly(&proxy, "a");
    assert_eq!(weekly["rawState"], "normal");
    assert_eq!(weekly["paceState"], "soft");
    assert_eq!(weekly["state"], "soft");
    let effective = weekly["effectiveUsage"].as_f64().expect("a number");
    assert!((effective - 0.714).abs() < 0.01, "{effective}");
}

#[test]
fn new_work_avoids_reserve_and_critical_while_another_can() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &[("a", 0.88), ("b", 0.96), ("c", 0.30)]);
    for _ in 0..6 {
        proxy.post(&hello()).assert_said("hi");
    }
    assert_eq!(["key-a", "key-b", "key-c"].map(|key| upstream.count(key)), [1, 1, 7]);
}

#[test]
fn reserve_comes_before_critical_and_critical_before_nothing() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &[("a", 0.88), ("b", 0.96)]);
    for _ in 0..4 {
        proxy.post(&hello()).assert_said("hi");
    }
    assert_eq!(["key-a", "key-b"].map(|key| upstream.count(key)), [5, 1]);
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, &[("a", 0.99), ("b", 0.96)]);
    for _ in 0..4 {
        proxy.post(&hello()).assert_said("hi");
    }
    assert_eq!(["key-a", "key-b"].map(|key| upstream.count(key)), [1, 5]);
}

#[test]
fn a_bound_session_stays_in_reserve() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b"]);
    let proxy = Proxy::start(&home);
    let ask = Ask::messages(&hello()).header("x-maxpool-session", "s");
    upstream.always("key-a", week(0.88));
    upstream.always("key-b", week(0.88));
    proxy.ask(&ask).assert_said("hi");
    let bound = upstream.order().pop().expect("a request");
    let other = if bound == "key-a" { "key-b" } else { "key-a" };
    upstream.always(other, week(0.10));
    // Another session's request shows that the other account is healthy.
    proxy.post(&hello()).assert_said("hi");
    for _ in 0..3 {
        proxy.ask(&ask).assert_said("hi");
        assert_eq!(upstream.order().pop().expect("a request"), bound);
    }
}

#[test]
fn a_week_that_all_have_used_up_fails_fast_with_its_time() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    upstream.always("key-a", week(1.0));
    proxy.post(&hello()).assert_said("hi");
    let reply = proxy.post(&hello());
    let message = reply.assert_error(429, "rate_limit_error");
    assert!(message.contains("in 5h 5") || message.contains("in 6h"), "{message}");
    let retry: u64 = reply.header("retry-after").expect("known").parse().expect("seconds");
    assert!((6 * 3600 - 10..=6 * 3600 + 2).contains(&retry), "{retry}");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn unreadable_values_are_ignored_and_the_last_good_one_stays() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).accounts(&["a"]);
    let proxy = Proxy::start(&home);
    upstream.next("key-a", week(0.70));
    proxy.post(&hello()).assert_said("hi");
    for bad in ["NaN", "-1", "", "lots", "inf", "1e999"] {
        let limits = Limits::new().header("anthropic-ratelimit-unified-7d-utilization", bad);
        upstream.next("key-a", Answer::message("hi").limits(&limits));
        proxy.post(&hello()).assert_said("hi");
        let used = proxy.account("a")["quota"]["unified7d"].as_f64().expect("a number");
        assert!((used - 0.70).abs() < 1e-9, "{bad:?} read as {used}");
    }
    let limits = Limits::new().window("7d", 1.25, Duration::from_secs(6 * 3600));
    upstream.next("key-a", Answer::message("hi").limits(&limits));
    proxy.post(&hello()).assert_said("hi");
    let quota = proxy.account("a")["quota"].clone();
    assert_eq!(quota["unified7d"].as_f64(), Some(1.0), "above 1 counts as 1");
    assert_eq!(quota["unified7dRaw"].as_f64(), Some(1.25), "status keeps the raw value");
}
