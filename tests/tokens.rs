//! Tokens and their file (SPEC T2, T3, T6, A5, A7): whatever the token endpoint, the disk or a
//! second process does, no pair is lost, no token is sent twice, and the client learns what is
//! wrong.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::home::{KEY, epoch_ms, program};
use crate::harness::{
    Ask, Client, Home, Proxy, Reply, Value, api_key, hello, json, oauth, provider, until,
};
use crate::upstream::oauth::Mode;
use crate::upstream::{Answer, Upstream, failures};

/// An OAuth account whose token expired a second ago.
fn expired(name: &str) -> Value {
    let mut account = oauth(name);
    account["expiresAt"] = json!(epoch_ms() - 1000);
    account
}

fn home_of(upstream: &Upstream, accounts: &[Value]) -> Home {
    let home = Home::new().upstream(&upstream.url()).logins(&upstream.url());
    accounts.iter().fold(home, |home, account| home.account(account.clone()))
}

/// A home with one expired account whose refresh token is valid.
fn one_expired(upstream: &Upstream) -> Home {
    upstream.state().oauth.grant("refresh-a");
    home_of(upstream, &[expired("a")])
}

fn at_once(proxy: &Proxy, count: usize) -> Vec<Reply> {
    let address = proxy.address();
    let clients: Vec<_> = (0..count)
        .map(|_| std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello()))))
        .collect();
    clients.into_iter().map(|client| client.join().expect("a client")).collect()
}

fn served(upstream: &Upstream) -> Vec<String> {
    let requests = upstream.requests();
    let messages = requests.iter().filter(|request| request.path() == "/v1/messages");
    messages.map(|request| request.credential().to_owned()).collect()
}

/// The tokens of an account in the file.
fn pair(home: &Home, index: usize) -> (String, String) {
    let account = &home.read()["accounts"][index];
    let text = |name: &str| account[name].as_str().unwrap_or("").to_owned();
    (text("accessToken"), text("refreshToken"))
}

fn pair_is(home: &Home, access: &str, refresh: &str) {
    assert_eq!(pair(home, 0), (access.to_owned(), refresh.to_owned()));
}

fn control(proxy: &Proxy, target: &str) -> Reply {
    proxy.ask(&Ask::post(target, &json!({})).header("x-api-key", KEY))
}

fn leftovers(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(home.path()).expect("list").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("tmp") || name.contains(".new")).collect()
}

/// The consequences of one behaviour of the token endpoint if the account is the only one.
struct Row {
    what: &'static str,
    mode: Mode,
    /// The refresh token was used before, by another program that kept the new pair.
    used_up: bool,
    status: u16,
    error: &'static str,
    /// In the status: the account's state, the credential's state, the block's reason.
    account: (&'static str, &'static str, &'static str),
    rotated: bool,
}

#[test]
fn every_way_of_the_token_endpoint_leaves_the_right_account_client_and_file() {
    let row = |what, mode, status, error, account| Row {
        what,
        mode,
        used_up: false,
        status,
        error,
        account,
        rotated: status == 200,
    };
    let needs_login = ("error", "needs login", "needs_login");
    let cooling = ("active", "expired", "refresh_failed");
    let rows = [
        row("normal", Mode::Rotate, 200, "", ("active", "valid", "")),
        row("late", Mode::Late(Duration::from_millis(700)), 200, "", ("active", "valid", "")),
        row("refused", Mode::InvalidGrant, 502, "account_auth_error", needs_login),
        Row {
            used_up: true,
            ..row("reuse detected", Mode::Rotate, 502, "account_auth_error", needs_login)
        },
        row("429", Mode::RateLimited, 529, "overloaded_error", cooling),
        row("HTML", Mode::Html, 529, "overloaded_error", cooling),
        row("nothing in it", Mode::NoToken, 529, "overloaded_error", cooling),
        row("500 after it rotated", Mode::FailAfterRotation, 529, "overloaded_error", cooling),
        row(
            "reset after it rotated",
            Mode::ResetAfterRotation,
            503,
            "connection_unavailable",
            ("active", "expired", "refresh_network"),
        ),
    ];
    for row in rows {
        let what = row.what;
        let upstream = Upstream::start();
        let home = one_expired(&upstream).set("queue.enabled", json!(false));
        let proxy = Proxy::start(&home);
        upstream.state().oauth.mode = row.mode;
        if row.used_up {
            // Another program uses it first.
            let body = json!({"grant_type": "refresh_token", "refresh_token": "refresh-a"});
            Client::connect(upstream.address()).ask(&Ask::post("/v1/oauth/token", &body));
        }
        let sent_before = upstream.state().oauth.refreshes.len();
        let before = std::fs::read(home.config_path()).expect("read");
        for _ in 0..3 {
            let reply = proxy.post(&hello());
            if row.status == 200 {
                reply.assert_said("Hello from upstream.");
            } else {
                let message = reply.assert_error(row.status, row.error);
                assert!(message.contains('a'), "{what}: it names the account: {message}");
                assert!(!message.contains("refresh-a"), "{what}: {message}");
            }
        }
        let account = proxy.account("a");
        assert_eq!(account["status"], row.account.0, "{what}: {account:#}");
        assert_eq!(account["credential"]["state"], row.account.1, "{what}: {account:#}");
        let blocks = account["blocks"].to_string();
        assert!(blocks.contains(row.account.2), "{what}: {blocks}");
        let refreshes = upstream.state().oauth.refreshes[sent_before..].to_vec();
        assert_eq!(refreshes, ["refresh-a"], "{what}: sent once within one refresh");
        if row.rotated {
            pair_is(&home, "access-1", "refresh-1");
        } else {
            assert_eq!(
                std::fs::read(home.config_path()).expect("read"),
                before,
                "{what}: the file is as it was"
            );
        }
        assert!(leftovers(&home).is_empty(), "{what}: {:?}", leftovers(&home));
        let log = proxy.log().join("\n");
        assert!(log.contains("a: ") || log.contains(" a "), "{what}: the log tells: {log}");
    }
}

#[test]
fn after_a_cooldown_a_token_of_unknown_fate_is_tried_once_more_and_then_needs_a_login() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream)
        .set("queue.enabled", json!(false))
        .set("scheduler.networkCooldownMs", json!(2000));
    let proxy = Proxy::start(&home);
    upstream.state().oauth.mode = Mode::ResetAfterRotation;
    proxy.post(&hello()).assert_error(503, "connection_unavailable");
    until("the endpoint call it used", || {
        proxy.post(&hello());
        (upstream.state().oauth.reused == ["refresh-a"]).then_some(())
    });
    proxy.wait_status("that it needs a login", |status| status["accounts"][0]["status"] == "error");
    let sent = upstream.state().oauth.refreshes.len();
    for _ in 0..3 {
        proxy.post(&hello()).assert_error(502, "account_auth_error");
    }
    assert_eq!(upstream.state().oauth.refreshes.len(), sent, "a condemned token is not sent again");
    pair_is(&home, "token-a", "refresh-a");
}

#[test]
fn a_request_waits_for_the_end_of_a_cooldown_and_is_served() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream).set("scheduler.cooldownMs", json!(1500));
    let proxy = Proxy::start(&home);
    upstream.state().oauth.mode = Mode::NoToken;
    let address = proxy.address();
    let client = std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello())));
    proxy.wait_status("it wait", |status| status["queue"]["waiting"] == 1);
    upstream.state().oauth.mode = Mode::Rotate;
    client.join().expect("a client").assert_said("Hello from upstream.");
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-a", "refresh-a"]);
    pair_is(&home, "access-1", "refresh-1");
}

#[test]
fn a_hundred_requests_on_one_expired_account_are_all_served_by_one_refresh() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream);
    let proxy = Proxy::start(&home);
    upstream.state().oauth.mode = Mode::Late(Duration::from_millis(500));
    for reply in at_once(&proxy, 100) {
        reply.assert_said("Hello from upstream.");
    }
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-a"]);
    assert_eq!(served(&upstream), vec!["access-1"; 100]);
    assert_eq!(proxy.account("a")["inFlight"], 0);
}

#[test]
fn thirty_refusals_at_once_cost_one_refresh_and_all_are_served() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, &[oauth("a")]);
    upstream.state().oauth.grant("refresh-a");
    let gate = upstream.gate();
    upstream.always(
        "token-a",
        failures::token_expired().before(crate::upstream::Step::Hold(gate.clone())),
    );
    let proxy = Proxy::start(&home);
    let address = proxy.address();
    let clients: Vec<_> = (0..30)
        .map(|_| std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello()))))
        .collect();
    upstream.wait("thirty requests with the old token", |state| state.requests.len() >= 30);
    gate.open();
    for client in clients {
        client.join().expect("a client").assert_said("Hello from upstream.");
    }
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-a"]);
    assert_eq!(upstream.count("token-a"), 30);
    assert_eq!(upstream.count("access-1"), 30);
    pair_is(&home, "access-1", "refresh-1");
}

#[test]
fn every_request_with_a_new_token_finds_it_on_the_disk() {
    let wrong = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let path = std::sync::Arc::new(std::sync::Mutex::new(std::path::PathBuf::new()));
    let upstream = {
        let (wrong, path) = (wrong.clone(), path.clone());
        Upstream::with(move |request| {
            let text = std::fs::read_to_string(&*path.lock().unwrap()).unwrap_or_default();
            let number = request.credential().strip_prefix("access-").unwrap_or("?");
            let both = text.contains(&format!("\"access-{number}\""))
                && text.contains(&format!("\"refresh-{number}\""));
            if !both {
                wrong.lock().unwrap().push(format!("{} before {text}", request.credential()));
            }
            Answer::message("hi")
        })
    };
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        upstream.state().oauth.grant(&format!("refresh-{name}"));
    }
    let home = home_of(&upstream, &names.map(expired));
    *path.lock().unwrap() = home.config_path();
    let proxy = Proxy::start(&home);
    until("five refreshes", || {
        for reply in at_once(&proxy, 5) {
            reply.assert_said("hi");
        }
        (upstream.state().oauth.refreshes.len() >= 5).then_some(())
    });
    let wrong = wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(upstream.state().oauth.reused.is_empty());
}

#[test]
fn two_servers_on_one_config_refresh_once_and_say_who_did() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream);
    upstream.state().oauth.mode = Mode::Late(Duration::from_millis(500));
    let first = Proxy::start(&home);
    let second = Proxy::start_as_is(&home);
    let (one, two) = (first.address(), second.address());
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let address = if number % 2 == 0 { one } else { two };
            std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello())))
        })
        .collect();
    for client in clients {
        client.join().expect("a client").assert_said("Hello from upstream.");
    }
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-a"]);
    assert_eq!(served(&upstream), vec!["access-1"; 10]);
    pair_is(&home, "access-1", "refresh-1");
    let told = |proxy: &Proxy| {
        let line = proxy.wait_line("what became of the refresh", |line| line.contains("token"));
        assert!(
            line.contains(&format!("process {}", proxy.pid()))
                || line.contains(&proxy.pid().to_string()),
            "{line}"
        );
        line
    };
    let lines = [told(&first), told(&second)];
    let refreshed = lines.iter().filter(|line| line.contains("refreshed")).count();
    assert_eq!(refreshed, 1, "{lines:#?}");
}

#[test]
fn an_edit_by_hand_in_the_middle_of_a_refresh_survives_it() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream);
    upstream.state().oauth.mode = Mode::Late(Duration::from_millis(800));
    let proxy = Proxy::start(&home);
    let address = proxy.address();
    let client = std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello())));
    upstream.wait("the refresh", |state| !state.oauth.refreshes.is_empty());
    let mut config = home.read();
    config["accounts"][0]["priority"] = json!(3);
    config["accounts"].as_array_mut().expect("a list").insert(0, api_key("new"));
    config["myNote"] = json!("mine");
    home.write_text(&config.to_string());
    client.join().expect("a client").assert_said("Hello from upstream.");
    assert_eq!(pair(&home, 1), ("access-1".to_owned(), "refresh-1".to_owned()));
    let after = home.read();
    assert_eq!(after["accounts"][0]["apiKey"], "key-new");
    assert_eq!(after["accounts"][1]["priority"], 3);
    assert_eq!(after["myNote"], "mine");
}

#[test]
fn a_hung_endpoint_holds_up_neither_the_switch_nor_a_client_that_leaves() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream).account(expired("b")).accounts(&["spare"]).priority(2, 5);
    upstream.state().oauth.mode = Mode::Silent;
    let proxy = Proxy::start(&home);
    let mut client = proxy.connect();
    client.send_ask(&Ask::messages(&hello()));
    upstream.wait("the refresh", |state| !state.oauth.refreshes.is_empty());
    let start = Instant::now();
    for name in ["a", "b"] {
        let reply = control(&proxy, &format!("/maxpool/accounts/{name}/disable"));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(home.read()["accounts"][0]["enabled"], false);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream), ["key-spare"]);
    client.reset();
    proxy.wait_status("the lease come back", |status| status["accounts"][0]["inFlight"] == 0);
}

#[test]
fn disabled_accounts_never_refresh() {
    let upstream = Upstream::start();
    let mut off = expired("off");
    off["enabled"] = json!(false);
    upstream.state().oauth.grant("refresh-off");
    let home = home_of(&upstream, &[off])
        .accounts(&["a"])
        .set("sync.accountsIntervalMs", json!(100))
        .set("quotaProbeSeconds", json!(60));
    let proxy = Proxy::start(&home);
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
        control(&proxy, "/maxpool/reload");
    }
    let ran = home.run(&["accounts"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(upstream.state().oauth.refreshes.is_empty());
    // Once enabled, it refreshes like any other.
    control(&proxy, "/maxpool/accounts/off/enable");
    control(&proxy, "/maxpool/accounts/a/disable");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-off"]);
}

#[test]
fn a_source_that_cannot_be_read_is_said_once() {
    let upstream = Upstream::start();
    let mut account = oauth("a");
    account["importFrom"] = json!("~/nowhere/.credentials.json");
    let home = home_of(&upstream, &[account]).set("sync.accountsIntervalMs", json!(100));
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let said = || proxy.log().into_iter().filter(|line| line.contains("nowhere"));
    assert_eq!(said().count(), 1, "{:?}", said().collect::<Vec<_>>());
    assert!(said().all(|line| line.contains("a: importFrom cannot be used: cannot read ")));
}

#[test]
fn an_import_is_read_again_and_never_refreshed_while_its_source_is_newer() {
    let upstream = Upstream::start();
    let mut account = expired("a");
    account["importFrom"] = json!("~/claude/.credentials.json");
    upstream.state().oauth.grant("refresh-a");
    let home = home_of(&upstream, &[account]).set("sync.accountsIntervalMs", json!(100));
    let write = |number: u32, life_ms: u64| {
        std::fs::create_dir_all(home.path().join("claude")).expect("make a directory");
        let text = json!({"claudeAiOauth": {
            "accessToken": format!("cli-{number}"),
            "refreshToken": format!("cli-refresh-{number}"),
            "expiresAt": epoch_ms() + life_ms,
            "scopes": ["user:inference"],
        }});
        std::fs::write(home.path().join("claude/.credentials.json"), text.to_string())
            .expect("write");
    };
    write(1, 3_600_000);
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream), ["cli-1"]);
    write(2, 7_200_000);
    until("the newer pair serve", || {
        proxy.post(&hello()).assert_said("Hello from upstream.");
        (served(&upstream).last()? == "cli-2").then_some(())
    });
    until("the newer pair be in the file", || (pair(&home, 0).0 == "cli-2").then_some(()));
    // Claude Code has rotated, and the API refuses the token that we hold: the source is read
    // before the endpoint is asked.
    write(3, 9_000_000);
    upstream.always("cli-2", failures::token_expired());
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream).last().map(String::as_str), Some("cli-3"));
    assert!(upstream.state().oauth.refreshes.is_empty());
}

#[test]
fn a_hot_sync_takes_up_every_class_of_account() {
    let upstream = Upstream::start();
    let glm = provider("glm", "zai", &upstream.url());
    let home = home_of(&upstream, &[oauth("login"), api_key("plain"), glm])
        .set("sync.accountsIntervalMs", json!(3_600_000));
    let proxy = Proxy::start(&home);
    let mut config = home.read();
    for account in config["accounts"].as_array_mut().expect("a list") {
        account["priority"] = json!(account["priority"].as_i64().unwrap_or(0) + 40);
        account["profiles"] = json!(["claude", "all", "extra"]);
    }
    config["accounts"][0]["accessToken"] = json!("token-new");
    config["accounts"][1]["apiKey"] = json!("key-new");
    config["accounts"][2]["authToken"] = json!("provider-new");
    config["accounts"].as_array_mut().expect("a list").extend([
        oauth("login2"),
        api_key("plain2"),
        provider("kimi", "kimi", &upstream.url()),
    ]);
    home.write_text(&config.to_string());
    proxy.signal(rustix::process::Signal::HUP);
    let status = proxy.wait_status("six accounts", |status| {
        status["accounts"].as_array().is_some_and(|list| list.len() == 6)
    });
    for (index, priority) in [(0, 40), (1, 40), (2, 40)] {
        assert_eq!(status["accounts"][index]["priority"], priority, "{status:#}");
        assert_eq!(status["accounts"][index]["profiles"], json!(["claude", "all", "extra"]));
    }
    for (name, credential) in [
        ("login", "token-new"),
        ("plain", "key-new"),
        ("glm", "provider-new"),
        ("login2", "token-login2"),
        ("plain2", "key-plain2"),
        ("kimi", "provider-kimi"),
    ] {
        let mut config = home.read();
        for account in config["accounts"].as_array_mut().expect("a list") {
            account["enabled"] = json!(account["name"] == name);
        }
        home.write_text(&config.to_string());
        let reply = control(&proxy, "/maxpool/reload");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let ask = Ask::messages(&hello()).header("x-maxpool-profile", "all");
        proxy.ask(&ask).assert_said("Hello from upstream.");
        assert_eq!(served(&upstream).last().map(String::as_str), Some(credential));
    }
    let mut config = home.read();
    config["accounts"] = json!([config["accounts"][1].clone()]);
    config["accounts"][0]["enabled"] = json!(true);
    home.write_text(&config.to_string());
    control(&proxy, "/maxpool/reload");
    assert_eq!(proxy.status()["accounts"].as_array().map(Vec::len), Some(1));
    home.write_text("{\"accounts\": [");
    let reply = control(&proxy, "/maxpool/reload");
    assert!(reply.status >= 400 && reply.text().contains("maxpool.json"), "{}", reply.text());
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream).last().map(String::as_str), Some("key-new"));
}

#[test]
fn a_removed_account_finishes_what_it_has_begun() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, &[]).accounts(&["a", "b"]);
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let slow = Answer::message("slow but sure").at(3, crate::upstream::Step::Hold(gate.clone()));
    upstream.next("key-a", slow);
    let mut client = proxy.connect();
    let ask = Ask::messages(&crate::harness::hello_stream());
    client.send_ask(&ask);
    upstream.wait_requests(1);
    let mut config = home.read();
    config["accounts"].as_array_mut().expect("a list").remove(0);
    home.write_text(&config.to_string());
    assert_eq!(control(&proxy, "/maxpool/reload").status, 200);
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert_eq!(served(&upstream)[1..], ["key-b", "key-b", "key-b"]);
    gate.open();
    client.read_reply(&ask).assert_said("slow but sure");
    let status = proxy.wait_status("it be gone", |status| {
        status["accounts"].as_array().is_some_and(|list| list.len() == 1)
    });
    assert_eq!(status["accounts"][0]["name"], "b");
}

#[test]
fn a_new_upstream_proxy_is_for_refreshes_too() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    // Nothing listens on this proxy, so every request through it fails.
    let mut config = home.read();
    config["upstreamProxy"] = json!("http://127.0.0.1:9");
    home.write_text(&config.to_string());
    assert_eq!(control(&proxy, "/maxpool/reload").status, 200);
    proxy.post(&hello());
    assert!(upstream.state().oauth.refreshes.is_empty(), "the refresh went past the new proxy");
    pair_is(&home, "token-a", "refresh-a");
}

#[test]
fn where_nothing_can_be_written_the_pair_lives_in_memory_and_is_written_later() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream).set("sync.accountsIntervalMs", json!(100));
    home.write();
    let Some(command) = home.powerless() else {
        return;
    };
    let writable = |mode| {
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(mode)).expect("chmod")
    };
    let proxy = Proxy::spawn(command);
    writable(0o555);
    let before = std::fs::read(home.config_path()).expect("read");
    for _ in 0..2 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert_eq!(served(&upstream), ["access-1", "access-1"]);
    assert_eq!(std::fs::read(home.config_path()).expect("read"), before, "nothing changes on disk");
    proxy.wait_line("that it is in memory only", |line| {
        line.contains("maxpool.json") && line.contains("memory")
    });
    writable(0o755);
    until("the pair reach the disk", || (pair(&home, 0).0 == "access-1").then_some(()));
    pair_is(&home, "access-1", "refresh-1");
    assert!(upstream.state().oauth.reused.is_empty());
}

#[test]
fn on_a_full_disk_the_pair_lives_in_memory_and_is_written_later() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream).set("sync.accountsIntervalMs", json!(100));
    home.write();
    // With the signal ignored, a file that grows past the limit fails like a full disk.
    let proxy = Proxy::spawn(home.limited("trap '' XFSZ"));
    let limit = |bytes| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(proxy.pid()).expect("a pid"));
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
        limit.current = bytes;
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit)
            .expect("set a limit");
    };
    limit(Some(100));
    let before = std::fs::read(home.config_path()).expect("read");
    for _ in 0..2 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert_eq!(std::fs::read(home.config_path()).expect("read"), before, "nothing changes on disk");
    assert!(leftovers(&home).is_empty(), "{:?}", leftovers(&home));
    proxy.wait_line("that it is in memory only", |line| {
        line.contains("maxpool.json") && line.contains("memory")
    });
    limit(None);
    until("the pair reach the disk", || (pair(&home, 0).0 == "access-1").then_some(()));
    pair_is(&home, "access-1", "refresh-1");
    assert!(upstream.state().oauth.reused.is_empty());
}

#[test]
fn a_symbolic_link_is_followed_and_stays_one() {
    let upstream = Upstream::start();
    let home = one_expired(&upstream);
    home.write();
    let real = home.path().join("dotfiles");
    std::fs::create_dir(&real).expect("make a directory");
    std::fs::rename(home.config_path(), real.join("pool.json")).expect("move");
    std::os::unix::fs::symlink("dotfiles/pool.json", home.config_path()).expect("link");
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    pair_is(&home, "access-1", "refresh-1");
    let kind = std::fs::symlink_metadata(home.config_path()).expect("there").file_type();
    assert!(kind.is_symlink(), "the link was replaced");
    let target = std::fs::metadata(real.join("pool.json")).expect("there");
    assert_eq!(target.permissions().mode() & 0o777, 0o600);
}

/// The process is killed at a system call of the write.
#[test]
fn a_kill_at_any_step_of_the_write_leaves_a_whole_file_and_loses_no_pair_that_served() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|ran| ran.status.success()) {
        eprintln!("skipped: there is no strace to stop the program at a system call");
        return;
    }
    let mut steps = Vec::new();
    // Counted from the answer: the lock, reads, then the bytes, their length, fsync, rename,
    // directory.
    for (call, times) in
        [("openat", 3), ("pwrite64", 1), ("ftruncate", 1), ("fsync", 2), ("rename", 1)]
    {
        steps.extend((1..=times).map(|number| (call, number)));
    }
    let mut ends = [0, 0];
    for (call, number) in steps {
        let upstream = Upstream::start();
        let home = one_expired(&upstream);
        let mut proxy = Proxy::start(&home);
        let gate = upstream.gate();
        let rotated =
            json!({"access_token": "access-1", "refresh_token": "refresh-1", "expires_in": 3600});
        let hold = crate::upstream::Step::Hold(gate.clone());
        upstream.next("", Answer::json(200, &rotated.to_string()).before(hold));
        let address = proxy.address();
        let client =
            std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello())));
        upstream.wait_requests(1);
        // Attached while the endpoint holds its answer, so the write comes next.
        let thread = refresh_thread(proxy.pid());
        let inject = format!("inject={call}:signal=SIGKILL:when={number}");
        let mut strace = Command::new("strace")
            .args([
                "-p",
                &thread.to_string(),
                "-e",
                &format!("trace={call}"),
                "-e",
                &inject,
                "-o",
                "/dev/null",
            ])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("start strace");
        let status = format!("/proc/{}/task/{thread}/status", proxy.pid());
        until("strace be attached", || {
            let text = std::fs::read_to_string(&status).ok()?;
            let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
            (tracer.trim() != "0").then_some(())
        });
        gate.open();
        let reply = client.join().expect("a client");
        let killed = reply.status == 0;
        let _ended = strace.kill();
        let _reaped = strace.wait();
        let what = format!("{call} {number}: killed {killed}");
        let pair = pair(&home, 0);
        let (old, new) = (
            ("token-a".to_owned(), "refresh-a".to_owned()),
            ("access-1".to_owned(), "refresh-1".to_owned()),
        );
        assert!(pair == old || pair == new, "{what}: {pair:?}");
        ends[usize::from(pair == new)] += u32::from(killed);
        if pair == old {
            assert!(served(&upstream).is_empty(), "{what}: a pair served that is lost");
        }
        if killed {
            proxy.wait_exit();
        }
        drop(proxy);
        // The next server starts with what is there, and removes leftovers.
        let next = Proxy::start_as_is(&home);
        // The endpoint has rotated, so the old token no longer works.
        upstream.state().oauth.mode = Mode::InvalidGrant;
        let reply = next.post(&hello());
        // What was written before the kill is found by the next process, renamed or not.
        let is_known = pair == new || matches!(call, "ftruncate" | "fsync" | "rename");
        assert_eq!(reply.status == 200, is_known, "{what}: {} {}", reply.status, reply.text());
        assert!(leftovers(&home).is_empty(), "{what}: {:?}", leftovers(&home));
    }
    assert!(ends[0] >= 3 && ends[1] >= 1, "killed before the rename and after it: {ends:?}");
}

/// The thread that refreshes.
fn refresh_thread(pid: u32) -> u32 {
    until("the refresh's thread", || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut found = tasks.flatten().filter(|task| {
            std::fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.trim() == "refresh")
        });
        found.next()?.file_name().to_string_lossy().parse().ok()
    })
}

#[test]
fn the_probe_reads_idle_accounts_and_changes_nothing_else() {
    let upstream = Upstream::start();
    let usage = json!({"limits": [
        {"kind": "session", "percent": 41, "resets_at": crate::upstream::limits::rfc3339(std::time::SystemTime::now() + Duration::from_secs(3600))},
        {"kind": "weekly_all", "percent": 12, "resets_at": crate::upstream::limits::rfc3339(std::time::SystemTime::now() + Duration::from_secs(86_400))},
    ]});
    let mut off = oauth("off");
    off["enabled"] = json!(false);
    for name in ["token-a", "token-off"] {
        upstream.state().oauth.usage.insert(name.to_owned(), usage.clone());
    }
    let home = home_of(&upstream, &[oauth("a"), off])
        .accounts(&["key"])
        .set("sync.accountsIntervalMs", json!(100));
    let proxy = Proxy::start(&home);
    assert!(upstream.requests().is_empty(), "off by default");
    let mut config = home.read();
    config["quotaProbeSeconds"] = json!(60);
    home.write_text(&config.to_string());
    let status = proxy.wait_status("what the probe learned", |status| {
        status["accounts"][0]["quota"]["unified5h"] == 0.41
    });
    assert_eq!(status["accounts"][0]["status"], "active");
    let asked: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| (request.credential().to_owned(), request.path().to_owned()))
        .collect();
    assert_eq!(asked, [("token-a".to_owned(), "/api/oauth/usage".to_owned())]);
    let request = upstream.only_request();
    assert_eq!(request.header("anthropic-beta"), Some("oauth-2025-04-20"));
    assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("maxpool/")));
}

#[test]
fn a_probe_that_is_refused_blocks_nobody() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, &[oauth("a")]).set("quotaProbeSeconds", json!(60));
    let answers = [
        Answer::error(429, "rate_limit_error", "slow down"),
        failures::forbidden(),
        failures::unauthorized(),
    ];
    for (round, answer) in answers.into_iter().enumerate() {
        upstream.next("token-a", answer);
        let proxy = Proxy::start(&home);
        upstream.wait("the probe", |state| {
            let probes =
                state.requests.iter().filter(|request| request.path() == "/api/oauth/usage");
            probes.count() == round + 1
        });
        proxy.post(&hello()).assert_said("Hello from upstream.");
        let account = proxy.account("a");
        assert_eq!(
            (&account["status"], &account["credential"]["state"]),
            (&json!("active"), &json!("valid"))
        );
        assert!(account["blocks"].as_array().is_none_or(Vec::is_empty), "{account:#}");
        assert!(upstream.state().oauth.refreshes.is_empty());
    }
}
