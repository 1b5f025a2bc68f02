//! The plain log (SPEC D2), and that no output contains a credential (D4).

use std::time::Duration;

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, hello, hello_stream, json, oauth, provider};
use crate::upstream::{Answer, Message, Step, Upstream, failures};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .priority(1, 1)
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Whether the line begins with an ISO 8601 time.
fn has_time(line: &str) -> bool {
    let shape: String = line
        .chars()
        .take(19)
        .map(|letter| if letter.is_ascii_digit() { '0' } else { letter })
        .collect();
    shape == "0000-00-00T00:00:00"
}

#[test]
fn it_begins_with_version_address_config_and_accounts() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["alpha"])
        .account(oauth("beta"))
        .account(provider("gamma", "zai", &upstream.url()));
    let proxy = Proxy::start(&home);
    let wanted = [
        env!("CARGO_PKG_VERSION").to_owned(),
        proxy.address().to_string(),
        home.config_path().display().to_string(),
        "alpha".to_owned(),
        "beta".to_owned(),
        "gamma".to_owned(),
        "apikey".to_owned(),
        "oauth".to_owned(),
        "provider".to_owned(),
    ];
    for word in wanted {
        proxy.wait_line(&word, |line| line.contains(&word));
    }
    assert!(proxy.printed().is_empty(), "nothing on stdout");
}

#[test]
fn a_request_is_one_line_with_what_happened() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let from = proxy.log().len();
    upstream.next("key-a", Answer::of(Message::text("hi").tokens(1234, 567, 0, 0)));
    proxy.ask(&Ask::post("/v1/messages?beta=true", &hello_stream())).assert_said("hi");
    let line = proxy.wait_line_after(from, "the request", |line| line.contains("/v1/messages"));
    for word in ["POST", "/v1/messages", "a", "200", "ms", "1234", "567"] {
        assert!(line.contains(word), "no {word} in: {line}");
    }
    let lines = proxy.log().iter().skip(from).filter(|line| line.contains("POST")).count();
    assert_eq!(lines, 1);
}

#[test]
fn a_failover_and_a_failure_say_why() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let from = proxy.log().len();
    upstream.next("key-a", failures::quota("five_hour", Duration::from_secs(3600)));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.wait_line_after(from, "the event of the 429", |line| {
        line.contains("429") && line.contains('a')
    });
    let from = proxy.log().len();
    upstream.next("key-b", failures::invalid());
    assert_eq!(proxy.post(&hello()).status, 400);
    let line = proxy.wait_line_after(from, "the failed request", |line| line.contains("400"));
    assert!(
        line.contains("messages: at least one message is required")
            || line.contains("invalid_request_error"),
        "the cause is in it: {line}"
    );
    let from = proxy.log().len();
    upstream.next("key-b", Answer::of(Message::long(9, 9)).at(4, Step::Reset));
    assert_eq!(proxy.post(&hello_stream()).event_names().last().map(String::as_str), Some("error"));
    proxy.wait_line_after(from, "the broken stream", |line| line.contains("/v1/messages"));
}

#[test]
fn every_line_is_whole_dated_and_plain() {
    let upstream = Upstream::start();
    let (_home, mut proxy) = start(&upstream);
    upstream.next(
        "key-a",
        Answer::error(400, "invalid_request_error", "two\nlines\r\nand \u{1b}[31mred"),
    );
    assert_eq!(proxy.post(&hello()).status, 400);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let _odd = proxy.ask(&Ask::get("/v1/models?x=%1b%0a"));
    let _refused = proxy.ask(&Ask::get("/").header("Host", "attacker.example"));
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
    let log = proxy.log();
    assert!(log.len() > 5, "{log:#?}");
    for line in &log {
        assert!(has_time(line), "no time: {line}");
        assert!(!line.contains(|letter: char| letter.is_control()), "{line:?}");
    }
}

#[test]
fn no_credential_is_in_anything_that_is_written() {
    let upstream = Upstream::start();
    let mut keyed = provider("glm", "zai", &upstream.url());
    keyed["authHeader"] = json!("x-api-key");
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["secret-one", "secret-two"])
        .account(oauth("secret-three"))
        .account(keyed)
        .set("queue.enabled", json!(false))
        .set("timeouts.nonStreamHeadersMs", json!(300));
    let mut proxy = Proxy::start(&home);
    let mut seen = String::new();
    let fallible = [
        failures::unauthorized(),
        failures::forbidden(),
        failures::quota("five_hour", Duration::from_secs(60)),
        failures::garbage(),
        failures::silent(),
        failures::server_error(500),
        failures::reset(),
    ];
    let client_key = "sk-ant-api03-the-clients-very-own-key";
    for answer in fallible {
        for key in ["key-secret-one", "key-secret-two", "token-secret-three", "provider-glm"] {
            upstream.next(key, answer.clone());
        }
        let reply = proxy.ask(
            &Ask::messages(&hello())
                .header("x-api-key", client_key)
                .header("authorization", "Bearer sk-ant-oat01-the-clients-own-token")
                .header("x-maxpool-profile", "all"),
        );
        seen.push_str(&reply.text());
        let wrong =
            proxy.ask(&Ask::get("/maxpool/status").header("x-api-key", "mp-almost-the-right-key"));
        seen.push_str(&wrong.text());
    }
    let _own = proxy.ask(&Ask::get("/v1/files?key=x").header("x-api-key", client_key));
    seen.push_str(&proxy.status().to_string());
    for arguments in [
        &["accounts"][..],
        &["accounts", "-v"],
        &["accounts", "--json"],
        &["status", "--json"],
        &["env"],
    ] {
        let ran = home.run(arguments);
        seen.push_str(&ran.stdout);
        seen.push_str(&ran.stderr);
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
    seen.push_str(&proxy.log().join("\n"));
    seen.push_str(&proxy.printed().join("\n"));
    for entry in std::fs::read_dir(home.path()).expect("list the home").flatten() {
        let is_config =
            entry.path() == home.config_path() || entry.path().ends_with("maxpool.json.before-2.0");
        if !is_config && entry.path().is_file() {
            seen.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path()).expect("read")));
        }
    }
    for secret in [
        "key-secret-one",
        "key-secret-two",
        "token-secret-three",
        "refresh-secret-three",
        "provider-glm",
        client_key,
        "sk-ant-oat01-the-clients-own-token",
        "mp-almost-the-right-key",
        KEY,
    ] {
        let at = seen.find(secret);
        let around = at.map(|at| &seen[at.saturating_sub(200)..(at + 60).min(seen.len())]);
        assert!(at.is_none(), "{secret} was written: …{}…", around.unwrap_or(""));
    }
}
