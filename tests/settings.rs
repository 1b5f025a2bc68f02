//! The configuration as the running program reads it (SPEC A1 to A4).

use crate::harness::{Home, Proxy, hello, json, oauth, until};
use crate::upstream::Upstream;

#[test]
fn the_path_is_found_in_the_order_of_the_rules() {
    let home = Home::new();
    let place = |name: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("make it");
        path
    };
    let first = place("one/first.json");
    let second = place("two/second.json");
    let third = place("three/maxpool.json");
    let fourth = place(".config/maxpool.json");
    let run = |variables: &[(&str, &std::path::Path)], made: &std::path::Path| {
        let mut command = home.command(&["server", "--plain"]);
        command.env_remove("MAXPOOL_CONFIG");
        for (name, path) in variables {
            command.env(name, path);
        }
        home.make_default(command, made);
    };
    let xdg = third.parent().expect("a parent");
    let all = [
        ("MAXPOOL_CONFIG", first.as_path()),
        ("TEAMCLAUDE_CONFIG", &second),
        ("XDG_CONFIG_HOME", xdg),
    ];
    let files = [&first, &second, &third, &fourth];
    for (set, made) in files.iter().enumerate() {
        run(&all[set..], made);
        let there = files.map(|path| path.exists());
        assert_eq!(there, std::array::from_fn(|index| index <= set), "with {:?}", &all[set..]);
    }
}

#[test]
fn an_unknown_key_is_reported_once_and_does_not_stop_it() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("queue.maxWaitMz", json!(5))
        .set("colour", json!("blue"));
    let proxy = Proxy::start(&home);
    for key in ["queue.maxWaitMz", "colour"] {
        proxy.wait_line(key, |line| line.contains(key));
        assert_eq!(proxy.log().iter().filter(|line| line.contains(key)).count(), 1, "{key}");
    }
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(home.read()["colour"], "blue");
}

#[test]
fn an_entry_without_a_credential_is_skipped_with_a_line_and_the_others_load() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .account(json!({"name": "empty", "type": "apikey"}))
        .account(json!({"name": "blank", "type": "oauth", "accessToken": ""}))
        .accounts(&["good"]);
    let proxy = Proxy::start(&home);
    for name in ["empty", "blank"] {
        proxy.wait_line(name, |line| line.contains(name));
    }
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let names: Vec<String> = proxy.status()["accounts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|account| account["name"].to_string())
        .collect();
    assert_eq!(names, ["\"good\""]);
}

#[test]
fn the_entry_added_last_wins_and_a_taken_name_changes() {
    let upstream = Upstream::start();
    let with_uuid = |name: &str, token: &str, uuid: &str| {
        let mut account = oauth(name);
        account["accessToken"] = json!(token);
        account["refreshToken"] = json!(format!("refresh-{token}"));
        account["accountUuid"] = json!(uuid);
        account
    };
    let home = Home::new()
        .upstream(&upstream.url())
        .account(with_uuid("one", "old-token", "u-1"))
        .account(with_uuid("renamed", "new-token", "u-1"))
        .account(with_uuid("twin", "twin-token-1", "u-2"))
        .account(with_uuid("twin", "twin-token-2", "u-3"));
    let proxy = Proxy::start(&home);
    let status = proxy.status();
    let names: Vec<&str> = status["accounts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|account| account["name"].as_str())
        .collect();
    assert_eq!(names, ["renamed", "twin", "twin-2"], "{:#?}", proxy.log());
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    let mut order = upstream.order();
    order.sort();
    assert_eq!(order, ["new-token", "twin-token-1", "twin-token-2"]);
}

#[test]
fn an_expiry_in_seconds_is_understood() {
    let upstream = Upstream::start();
    let mut account = oauth("a");
    account["expiresAt"] = json!(crate::harness::home::epoch_ms() / 1000 + 86_400);
    let home = Home::new().upstream(&upstream.url()).account(account);
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.order(), ["token-a"]);
}

#[test]
fn an_upstream_may_have_a_path() {
    let upstream = Upstream::with(|request| {
        assert!(request.target.starts_with("/api/anthropic/v1/"), "{}", request.target);
        crate::upstream::Answer::message("from below")
    });
    for slash in ["", "/"] {
        let home = Home::new()
            .upstream(&format!("{}/api/anthropic{slash}", upstream.url()))
            .accounts(&["a"]);
        let proxy = Proxy::start(&home);
        proxy.post(&hello()).assert_said("from below");
        assert_eq!(
            upstream.requests().pop().expect("a request").target,
            "/api/anthropic/v1/messages"
        );
    }
}

#[test]
fn ipv6_loopback_is_served() {
    let upstream = Upstream::start();
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("proxy.host", json!("::1"));
    let proxy = Proxy::start(&home);
    assert!(proxy.address().is_ipv6());
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn a_proxy_in_the_environment_never_takes_loopback_and_a_configured_one_is_used() {
    let upstream = Upstream::start();
    let trap =
        Upstream::with(|_| crate::upstream::Answer::error(500, "api_error", "through the proxy"));
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("upstreamProxy", json!(null));
    home.write();
    // Absent, not null, so that the environment decides.
    let mut config = home.read();
    config.as_object_mut().expect("an object").remove("upstreamProxy");
    home.write_text(&config.to_string());
    let mut command = home.command(&["server", "--plain"]);
    command
        .env("HTTP_PROXY", trap.url())
        .env("HTTPS_PROXY", trap.url())
        .env("ALL_PROXY", trap.url());
    let proxy = Proxy::spawn(command);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(
        trap.requests().len(),
        0,
        "loopback is never sent through a proxy of the environment"
    );
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("upstreamProxy", json!(trap.url()))
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let _any = proxy.post(&hello());
    until("the configured proxy be asked", || (!trap.requests().is_empty()).then_some(()));
}
