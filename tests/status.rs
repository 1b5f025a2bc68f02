//! The status document keeps the field names and structure of the program that this one replaces,
//! so that scripts keep working.

use std::time::Duration;

use crate::harness::{Ask, Home, Proxy, Value, hello, hello_stream, json, oauth, provider};
use crate::upstream::{Answer, Limits, Step, Upstream, failures};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .account(oauth("b"))
        .account(provider("glm", "zai", &upstream.url()))
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// The dotted keys that a document lacks.
fn missing(document: &Value, keys: &[&str]) -> Vec<String> {
    let absent = keys.iter().filter(|key| {
        let mut place = document;
        for part in key.split('.') {
            match place.get(part) {
                Some(next) => place = next,
                None => return true,
            }
        }
        false
    });
    absent.map(|key| (*key).to_owned()).collect()
}

const TOP: &[&str] = &[
    "currentAccount",
    "switchThreshold",
    "routing.mode",
    "routing.preferredAccount",
    "accounts",
    "scheduler.mode",
    "scheduler.globalInFlight",
    "scheduler.admissionPaused",
    "scheduler.safetyMaxActivePerAccount",
    "scheduler.safetyMaxGlobalActive",
    "upstreamThrottle.active",
    "upstreamThrottle.until",
    "upstreamThrottle.reason",
    "upstreamThrottle.probeInFlight",
    "upstreamThrottle.count",
    "upstreamThrottle.lastAt",
    "upstreamThrottle.queued",
    "upstreamThrottle.oldestQueuedMs",
    "sessions.stickyBindings",
    "sessions.thinkingProtected",
];

const ACCOUNT: &[&str] = &[
    "name",
    "type",
    "provider",
    "enabled",
    "upstream",
    "profiles",
    "priority",
    "runtime",
    "status",
    "inFlight",
    "activeWeight",
    "completedRequests",
    "failedRequests",
    "consecutiveFailures",
    "lastStatus",
    "lastResponseMs",
    "load.current.inFlight",
    "load.current.activeWeight",
    "load.last15m.requests",
    "load.last15m.failed",
    "load.last15m.weight",
    "load.last15m.avgMs",
    "load.last1h.requests",
    "load.last1h.failed",
    "load.last1h.weight",
    "load.last1h.avgMs",
    "lastError",
    "lastErrorAt",
    "cooldownUntil",
    "rateLimitedUntil",
    "quota.unified5h",
    "quota.unified7d",
    "quota.unified5hRaw",
    "quota.unified7dRaw",
    "quota.unified5hReset",
    "quota.unified7dReset",
    "quota.unified7dSonnet",
    "quota.unified7dSonnetReset",
    "quota.unifiedStatus",
    "quota.tokensLimit",
    "quota.tokensRemaining",
    "quota.requestsLimit",
    "quota.requestsRemaining",
    "quota.resetsAt",
    "quota.genericLimit",
    "quota.genericRemaining",
    "quota.genericReset",
    "weekly.state",
    "weekly.rawState",
    "weekly.effectiveUsage",
    "weekly.paceState",
    "usage.totalInputTokens",
    "usage.totalOutputTokens",
    "usage.totalRequests",
    "usage.lastUsed",
];

#[test]
fn every_field_is_there_from_the_start() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let status = proxy.status();
    assert_eq!(missing(&status, TOP), Vec::<String>::new(), "{status:#}");
    let accounts = status["accounts"].as_array().expect("a list");
    assert_eq!(accounts.len(), 3);
    for account in accounts {
        assert_eq!(missing(account, ACCOUNT), Vec::<String>::new(), "{account:#}");
        assert_eq!(account["status"], "active");
        assert_eq!(account["enabled"], true);
        assert!(account["rateLimitedUntil"].is_null() && account["cooldownUntil"].is_null());
        assert_eq!(account["runtime"], false, "it is in the file");
    }
    let kinds: Vec<&Value> = accounts.iter().map(|account| &account["type"]).collect();
    assert_eq!(kinds, ["apikey", "oauth", "provider"]);
    let profiles: Vec<&Value> = accounts.iter().map(|account| &account["profiles"]).collect();
    assert_eq!(profiles, [&json!(["claude", "all"]), &json!(["claude", "all"]), &json!(["all"])]);
    let priorities: Vec<&Value> = accounts.iter().map(|account| &account["priority"]).collect();
    assert_eq!(priorities, [&json!(0), &json!(0), &json!(10)]);
    assert_eq!(accounts[0]["provider"], "anthropic");
    assert_eq!(accounts[2]["provider"], "zai");
    assert_eq!(status["switchThreshold"], 0.9);
    assert_eq!(status["routing"], json!({"mode": "automatic", "preferredAccount": null}));
    assert_eq!(status["scheduler"]["safetyMaxActivePerAccount"], 50);
    assert_eq!(status["scheduler"]["safetyMaxGlobalActive"], 150);
    assert_eq!(status["scheduler"]["mode"], "adaptive-least-loaded");
    assert_eq!(status["scheduler"]["admissionPaused"], false);
    assert_eq!(status["upstreamThrottle"]["active"], false);
}

#[test]
fn figures_follow_what_happens() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let reset = Duration::from_secs(7200);
    let limits = Limits::new()
        .status("allowed_warning")
        .window("5h", 0.42, reset)
        .window("7d", 0.61, 24 * reset)
        .counted("tokens", 80_000, 20_000, reset)
        .counted("requests", 50, 49, reset);
    upstream.next("key-a", Answer::message("hi").limits(&limits));
    proxy.post(&hello()).assert_said("hi");
    upstream.next("key-a", failures::invalid());
    assert_eq!(proxy.post(&hello()).status, 400);
    upstream.next("key-a", failures::server_error(503));
    assert_eq!(proxy.post(&hello()).status, 503);
    let account = proxy.account("a");
    let quota = &account["quota"];
    assert_eq!((&quota["unified5h"], &quota["unified7d"]), (&json!(0.42), &json!(0.61)));
    assert_eq!((&quota["unified5hRaw"], &quota["unified7dRaw"]), (&json!(0.42), &json!(0.61)));
    assert_eq!(quota["unifiedStatus"], "allowed_warning");
    assert_eq!(
        (&quota["tokensLimit"], &quota["tokensRemaining"]),
        (&json!(80_000), &json!(20_000))
    );
    assert_eq!((&quota["requestsLimit"], &quota["requestsRemaining"]), (&json!(50), &json!(49)));
    let ms = quota["unified5hReset"].as_u64().expect("milliseconds");
    let now = crate::harness::home::epoch_ms();
    assert!((now + 7_100_000..now + 7_300_000).contains(&ms), "{ms}");
    assert_eq!(account["lastStatus"], 503);
    assert_eq!(account["consecutiveFailures"], 1);
    assert_eq!(
        account["failedRequests"], 1,
        "a refusal of the request itself is nobody's failure: {account:#}"
    );
    assert!(!account["lastError"].is_null() && !account["lastErrorAt"].is_null());
    assert_eq!(account["load"]["last15m"]["requests"], 3, "{:#}", account["load"]);
    assert_eq!(account["load"]["last1h"]["requests"], 3);
    assert_eq!(account["load"]["current"]["inFlight"], 0);
    assert_eq!(proxy.status()["currentAccount"], "a");
}

#[test]
fn quota_is_learned_from_refusals_too() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for key in ["key-a", "token-b"] {
        upstream.always(key, failures::invalid().limits(&Limits::used(0.77, 0.5)));
    }
    assert_eq!(proxy.post(&hello()).status, 400);
    assert_eq!(proxy.post(&hello()).status, 400);
    for name in ["a", "b"] {
        assert_eq!(proxy.account(name)["quota"]["unified5h"], 0.77, "{name}");
    }
}

#[test]
fn the_status_of_an_account_has_four_words() {
    let rows = [
        (failures::unauthorized(), "error"),
        (failures::quota("five_hour", Duration::from_secs(600)), "throttled"),
        (failures::bare_429(), "throttled"),
        (failures::quota("seven_day", Duration::from_secs(600)), "exhausted"),
        (failures::overloaded(), "active"),
        (failures::server_error(500), "active"),
    ];
    for (answer, word) in rows {
        let upstream = Upstream::start();
        let home = Home::new()
            .upstream(&upstream.url())
            .accounts(&["a"])
            .set("queue.enabled", json!(false));
        let proxy = Proxy::start(&home);
        upstream.always("key-a", answer);
        let reply = proxy.post(&hello_stream());
        assert!(reply.status >= 400);
        assert_eq!(proxy.account("a")["status"], word, "{}", reply.text());
    }
}

#[test]
fn a_request_that_the_upstream_has_is_waiting_and_then_streaming() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let gate = upstream.gate();
    upstream.next("key-a", Answer::message("hi").before(Step::Hold(gate.clone())));
    let ask = Ask::messages(&hello());
    let mut client = proxy.connect();
    client.send_ask(&ask);
    proxy.wait_status("the request be with the upstream", |status| {
        status["requests"][0]["stage"] == "waiting"
    });
    gate.open();
    client.read_reply(&ask).assert_said("hi");
}

#[test]
fn a_key_that_the_api_refuses_is_shown_as_refused() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    assert_eq!(proxy.account("a")["credential"]["state"], "valid");
    upstream.always("key-a", Answer::error(401, "authentication_error", "invalid x-api-key"));
    proxy.post(&hello());
    assert_eq!(proxy.account("a")["credential"]["state"], "refused");
}
