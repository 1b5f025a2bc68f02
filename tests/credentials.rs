//! Tokens of logins (SPEC T2, P7): one refresh for all waiting requests, no token sent twice, and
//! the new pair on disk before it is used.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::home::epoch_ms;
use crate::harness::{Ask, Client, Home, Proxy, Reply, Value, hello, json, oauth, until};
use crate::upstream::oauth::Mode;
use crate::upstream::{Answer, Upstream, failures};

/// An OAuth account whose token expires in this many milliseconds.
fn running_out(name: &str, ms: i64) -> Value {
    let mut account = oauth(name);
    let now = i64::try_from(epoch_ms()).expect("now fits");
    account["expiresAt"] = json!(now + ms);
    account
}

/// A home with one account whose token has expired, and a spare API key that is used last.
fn start(upstream: &Upstream, account: Value) -> (Home, Proxy) {
    let name = account["name"].as_str().expect("a name").to_owned();
    upstream.state().oauth.grant(&format!("refresh-{name}"));
    let home = Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .account(account)
        .accounts(&["spare"])
        .priority(1, 5)
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

fn at_once(proxy: &Proxy, count: usize) -> Vec<Reply> {
    let address = proxy.address();
    let clients: Vec<_> = (0..count)
        .map(|_| std::thread::spawn(move || Client::connect(address).ask(&Ask::messages(&hello()))))
        .collect();
    clients.into_iter().map(|client| client.join().expect("a client")).collect()
}

/// The credentials of the messages that were served.
fn served(upstream: &Upstream) -> Vec<String> {
    let requests = upstream.requests();
    let messages = requests.iter().filter(|request| request.path() == "/v1/messages");
    messages.map(|request| request.credential().to_owned()).collect()
}

#[test]
fn a_hundred_requests_on_an_expired_token_cost_one_refresh() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream, running_out("a", -1000));
    upstream.state().oauth.mode = Mode::Late(Duration::from_millis(300));
    for reply in at_once(&proxy, 40) {
        reply.assert_said("Hello from upstream.");
    }
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-a"]);
    assert!(served(&upstream).iter().all(|key| key == "access-1" || key == "key-spare"));
    let account = home.read()["accounts"][0].clone();
    assert_eq!(
        (&account["accessToken"], &account["refreshToken"]),
        (&json!("access-1"), &json!("refresh-1"))
    );
    assert!(account["expiresAt"].as_u64().expect("milliseconds") > epoch_ms() + 7 * 3_600_000);
}

#[test]
fn the_new_pair_is_on_disk_before_it_serves() {
    let path = Arc::new(Mutex::new(None::<std::path::PathBuf>));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let upstream = {
        let (path, seen) = (Arc::clone(&path), Arc::clone(&seen));
        Upstream::with(move |request| {
            let path = path.lock().unwrap().clone().expect("the test set it");
            let text = std::fs::read_to_string(path).expect("the file is whole");
            let file: Value = serde_json::from_str(&text).expect("the file is JSON");
            let pair =
                (request.credential().to_owned(), file["accounts"][0]["accessToken"].clone());
            seen.lock().unwrap().push(pair);
            Answer::message("hi")
        })
    };
    upstream.state().oauth.grant("refresh-a");
    let home =
        Home::new().upstream(&upstream.url()).logins(&upstream.url()).account(running_out("a", -1));
    *path.lock().unwrap() = Some(home.config_path());
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("hi");
    assert_eq!(*seen.lock().unwrap(), [("access-1".to_owned(), json!("access-1"))]);
}

#[test]
fn a_token_is_refreshed_before_it_runs_out() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, running_out("a", 200_000));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    until("the refresh", || (upstream.state().oauth.refreshes.len() == 1).then_some(()));
    until("the new token serve", || {
        proxy.post(&hello()).assert_said("Hello from upstream.");
        (served(&upstream).last()? == "access-1").then_some(())
    });
}

#[test]
fn thirty_refusals_of_one_token_cost_one_refresh() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, oauth("a"));
    upstream.always("token-a", failures::token_expired());
    for reply in at_once(&proxy, 30) {
        reply.assert_said("Hello from upstream.");
    }
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-a"]);
    assert_eq!(proxy.account("a")["status"], "active");
}

#[test]
fn a_refresh_that_is_refused_needs_a_login_and_is_not_tried_again() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream, running_out("a", -1000));
    upstream.state().oauth.mode = Mode::InvalidGrant;
    let before = home.read()["accounts"].clone();
    for _ in 0..5 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert_eq!(served(&upstream), ["key-spare"; 5]);
    assert_eq!(upstream.state().oauth.refreshes, ["refresh-a"]);
    assert_eq!(proxy.account("a")["status"], "error");
    assert_eq!(home.read()["accounts"], before);
    proxy.wait_line("what to do", |line| line.contains("maxpool login") && line.contains('a'));
}

#[test]
fn an_answer_without_a_token_is_temporary_and_the_token_is_not_sent_again_at_once() {
    for (name, mode) in [
        ("html", Mode::Html),
        ("nothing in it", Mode::NoToken),
        ("429", Mode::RateLimited),
        ("500 after it rotated", Mode::FailAfterRotation),
        ("reset after it rotated", Mode::ResetAfterRotation),
    ] {
        let upstream = Upstream::start();
        let (home, proxy) = start(&upstream, running_out("a", -1000));
        upstream.state().oauth.mode = mode;
        let before = home.read()["accounts"].clone();
        for _ in 0..4 {
            proxy.post(&hello()).assert_said("Hello from upstream.");
        }
        let refreshes = upstream.state().oauth.refreshes.len();
        assert_eq!(refreshes, 1, "{name}: sent once within one refresh");
        assert!(upstream.state().oauth.reused.is_empty(), "{name}");
        let account = proxy.account("a");
        assert_ne!(account["status"], "error", "{name}: {account:#}");
        assert_eq!(home.read()["accounts"], before, "{name}");
    }
}

#[test]
fn an_endpoint_that_is_silent_blocks_nobody_else() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, oauth("b"));
    upstream.state().oauth.mode = Mode::Silent;
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream), ["token-b"]);
}

#[test]
fn an_answer_without_a_refresh_token_keeps_the_old_one() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream, running_out("a", -1000));
    upstream.state().oauth.mode = Mode::KeepsRefreshToken;
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let account = home.read()["accounts"][0].clone();
    assert_eq!(
        (&account["accessToken"], &account["refreshToken"]),
        (&json!("access-1"), &json!("refresh-a"))
    );
}

#[test]
fn a_failed_refresh_of_a_token_that_is_still_good_changes_nothing() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, running_out("a", 120_000));
    upstream.state().oauth.mode = Mode::InvalidGrant;
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert_eq!(served(&upstream), ["token-a"; 3]);
}

#[test]
fn an_account_that_is_disabled_or_cannot_refresh_never_asks() {
    let upstream = Upstream::start();
    let mut disabled = running_out("off", -1000);
    disabled["enabled"] = json!(false);
    let mut bare = oauth("bare");
    bare.as_object_mut().expect("an object").remove("refreshToken");
    upstream.always("token-bare", failures::token_expired());
    let home = Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .account(disabled)
        .account(bare)
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let message = proxy.post(&hello()).assert_error(502, "account_auth_error");
    assert!(message.contains("bare"), "{message}");
    assert!(upstream.state().oauth.refreshes.is_empty());
    assert_eq!(proxy.account("bare")["status"], "error");
}

#[test]
fn a_new_login_in_the_file_heals_the_account() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream, running_out("a", -1000));
    upstream.state().oauth.mode = Mode::InvalidGrant;
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(proxy.account("a")["status"], "error");
    let mut config = home.read();
    config["accounts"][0]["accessToken"] = json!("token-fresh");
    config["accounts"][0]["refreshToken"] = json!("refresh-fresh");
    config["accounts"][0]["expiresAt"] = json!(epoch_ms() + 86_400_000);
    home.write_text(&config.to_string());
    proxy.signal(rustix::process::Signal::HUP);
    proxy.wait_status("it is active", |status| status["accounts"][0]["status"] == "active");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream).last().map(String::as_str), Some("token-fresh"));
}

#[test]
fn another_process_that_refreshed_first_is_believed() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream, oauth("a"));
    // The file has changed, and the server has not noticed yet.
    let mut config = home.read();
    config["accounts"][0]["accessToken"] = json!("token-theirs");
    config["accounts"][0]["refreshToken"] = json!("refresh-theirs");
    home.write_text(&config.to_string());
    upstream.always("token-a", failures::token_expired());
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream).last().map(String::as_str), Some("token-theirs"));
    assert!(upstream.state().oauth.refreshes.is_empty(), "nothing was rotated");
}

#[test]
fn unknown_keys_and_key_order_survive_a_refresh() {
    let upstream = Upstream::start();
    let mut account = running_out("a", -1000);
    account["myOwnNote"] = json!("kept");
    upstream.state().oauth.grant("refresh-a");
    let home = Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .set("zebra", json!({"b": 1, "a": [1, 2]}))
        .account(account);
    let proxy = Proxy::start(&home);
    let keys =
        |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let before = home.read();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let after = home.read();
    assert_eq!(after["accounts"][0]["accessToken"], "access-1");
    assert_eq!(after["accounts"][0]["myOwnNote"], "kept");
    assert_eq!(after["zebra"], before["zebra"]);
    assert_eq!(keys(&after), keys(&before));
    let mut expected = keys(&before["accounts"][0]);
    expected.push("spent".to_owned());
    assert_eq!(keys(&after["accounts"][0]), expected, "T8 and the digest of the spent token");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(home.config_path()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<String> = std::fs::read_dir(home.path())
        .expect("list")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
