//! What the API has said about an account's limits outlives the process (SPEC A6, R2): without the
//! verdict that came with the windows, they alone would exclude an account that the API serves.

use std::time::Duration;

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, hello, json};
use crate::restart::restart;
use crate::upstream::{Answer, Limits, Upstream, failures};

const HOUR: Duration = Duration::from_secs(3600);

/// How one process is replaced by another.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Restart,
    StopAndStart,
}

fn home(upstream: &Upstream, names: &[&str]) -> Home {
    Home::new().upstream(&upstream.url()).accounts(names).set("queue.enabled", json!(false))
}

fn again(mut proxy: Proxy, home: &Home, way: Way) -> Proxy {
    match way {
        Way::Restart => {
            restart(&proxy);
            proxy
        }
        Way::StopAndStart => {
            proxy.terminate();
            assert_eq!(proxy.wait_exit(), Some(0));
            Proxy::start(home)
        }
    }
}

/// Serves one request, replaces the process, and serves another request.
fn serves_on(limits: &Limits) {
    for way in [Way::Restart, Way::StopAndStart] {
        let upstream = Upstream::start();
        let home = home(&upstream, &["a"]);
        let proxy = Proxy::start(&home);
        upstream.always("key-a", Answer::message("hi").limits(limits));
        proxy.post(&hello()).assert_said("hi");
        let before = proxy.account("a");
        let proxy = again(proxy, &home, way);
        let after = proxy.account("a");
        for key in ["status", "weekly", "avoided", "overageInUse"] {
            assert_eq!(after[key], before[key], "{key}, {way:?}");
        }
        proxy.post(&hello()).assert_said("hi");
    }
}

#[test]
fn a_full_week_that_the_api_allows_serves_on_in_the_next_process() {
    serves_on(&Limits::new().status("allowed_warning").window("7d", 0.99, HOUR));
}

#[test]
fn paid_overage_serves_on_in_the_next_process() {
    let overage = "anthropic-ratelimit-unified-overage-in-use";
    serves_on(&Limits::new().status("rejected").window("5h", 1.0, HOUR).header(overage, "true"));
}

#[test]
fn a_rejection_holds_in_the_next_process_and_retry_still_lifts_it() {
    for (claim, way) in [
        ("five_hour", Way::Restart),
        ("five_hour", Way::StopAndStart),
        ("seven_day_sonnet", Way::Restart),
        ("seven_day_sonnet", Way::StopAndStart),
    ] {
        let upstream = Upstream::start();
        let home = home(&upstream, &["a"]);
        let proxy = Proxy::start(&home);
        upstream.next("key-a", failures::quota(claim, HOUR));
        proxy.post(&hello()).assert_error(429, "rate_limit_error");
        let before = proxy.account("a");
        let proxy = again(proxy, &home, way);
        let after = proxy.account("a");
        for key in ["status", "rateLimitedUntil"] {
            assert_eq!(after[key], before[key], "{key}, {claim}, {way:?}");
        }
        let block = &after["blocks"][0];
        assert_eq!(block["window"], claim, "{block:#}");
        assert_eq!(block["evidence"]["status"], 429, "{block:#}");
        proxy.post(&hello()).assert_error(429, "rate_limit_error");
        assert_eq!(upstream.count("key-a"), 1, "{claim}, {way:?}: the upstream was not asked");
        let other = json!({"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []});
        match claim {
            "five_hour" => drop(proxy.post(&other).assert_error(429, "rate_limit_error")),
            _ => assert_eq!(proxy.post(&other).status, 200, "{claim} concerns one family"),
        }
        let retry = Ask::new("POST", "/maxpool/accounts/a/retry").header("x-api-key", KEY);
        assert_eq!(proxy.ask(&retry).status, 200);
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
}
