//! Custody of tokens (SPEC A5, T3, T7, T8): older tokens never replace newer ones, whichever
//! program writes the file.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use super::custody::{ending_in, hold_refresh, home_of, issued, numbered, pair, sent};
use crate::harness::home::{KEY, epoch_ms};
use crate::harness::proxy::status_of;
use crate::harness::{Ask, Client, Home, Proxy, Reply, Value, hello, json, oauth, until};
use crate::upstream::oauth::{Mode, profile};
use crate::upstream::{Answer, Step, Upstream, failures};

fn reload(proxy: &Proxy) -> Reply {
    proxy.ask(&Ask::post("/maxpool/reload", &json!({})).header("x-api-key", KEY))
}

/// The file as an editor opened before the refresh would save it.
fn old_copy(home: &Home) -> String {
    std::fs::read_to_string(home.config_path()).expect("read")
}

fn credentials(path: &Path, access: &str, refresh: &str, seconds: u64) {
    let oauth = json!({"accessToken": access, "refreshToken": refresh,
        "expiresAt": epoch_ms() + seconds * 1000});
    std::fs::write(path, json!({"claudeAiOauth": oauth}).to_string()).expect("write");
}

#[test]
fn an_old_copy_that_is_saved_by_hand_is_overwritten_at_once() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let proxy = Proxy::start(&home);
    let old = old_copy(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    for by in ["a sync", "a reload", "SIGHUP"] {
        let mut edited: Value = serde_json::from_str(&old).expect("JSON");
        edited["accounts"][0]["note"] = json!(by);
        home.write_text(&edited.to_string());
        match by {
            "a reload" => assert_eq!(reload(&proxy).status, 200),
            "SIGHUP" => proxy.signal(Signal::HUP),
            _ => {}
        }
        until(by, || (pair(&home) == numbered(1)).then_some(()));
        assert_eq!(home.read()["accounts"][0]["note"], by, "the edit itself stays");
    }
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(sent(&upstream), ["refresh-a"]);
}

#[test]
fn an_old_copy_that_nobody_has_looked_at_yet_is_overwritten_at_the_stop_and_at_a_restart() {
    for signal in [Signal::TERM, Signal::USR2] {
        let upstream = Upstream::start();
        let home =
            home_of(&upstream, ending_in("a", -1)).set("sync.accountsIntervalMs", json!(3_600_000));
        let mut proxy = Proxy::start(&home);
        let old = old_copy(&home);
        proxy.post(&hello()).assert_said("Hello from upstream.");
        home.write_text(&old);
        let pid = proxy.status()["pid"].clone();
        proxy.signal(signal);
        if signal == Signal::TERM {
            assert_eq!(proxy.wait_exit(), Some(0));
            drop(proxy);
            proxy = Proxy::start_as_is(&home);
        } else {
            proxy.wait_status("the new worker", |status| status["pid"] != pid);
        }
        assert_eq!(pair(&home), numbered(1), "{signal:?}");
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert_eq!(sent(&upstream), ["refresh-a"], "{signal:?}");
    }
}

#[test]
fn a_link_that_is_pointed_at_an_old_copy_gets_the_live_pair() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    home.write();
    let [new, old] = ["new.json", "old.json"].map(|name| home.path().join(name));
    std::fs::copy(home.config_path(), &old).expect("copy");
    std::fs::rename(home.config_path(), &new).expect("move");
    std::os::unix::fs::symlink(&new, home.config_path()).expect("link");
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(pair(&home), numbered(1));
    std::fs::remove_file(home.config_path()).expect("unlink");
    std::os::unix::fs::symlink(&old, home.config_path()).expect("link");
    until("the old copy have the live pair", || (pair(&home) == numbered(1)).then_some(()));
    assert!(std::fs::symlink_metadata(home.config_path()).expect("there").is_symlink());
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(sent(&upstream), ["refresh-a"]);
}

#[test]
fn a_token_that_was_spent_before_the_stop_is_not_presented_after_the_start() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let mut proxy = Proxy::start(&home);
    let old = old_copy(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.stop();
    drop(proxy);
    // A backup is restored while no server runs: the live pair is gone, but the spent token is
    // known.
    home.write_text(&old);
    upstream.always("token-a", failures::unauthorized());
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_error(502, "account_auth_error");
    assert_eq!(sent(&upstream), ["refresh-a"]);
    assert_eq!(proxy.account("a")["credential"]["state"], "needs login");
    let ran = home.run(&["api", "/v1/models"]);
    assert!(!ran.status.success());
    assert_eq!(sent(&upstream), ["refresh-a"], "nor by a command: {}", ran.stderr);
    let listed = home.run(&["accounts"]);
    assert!(listed.stdout.contains("needs login"), "{}", listed.stdout);
}

#[test]
fn a_source_never_brings_a_spent_pair_back_whatever_its_end() {
    let upstream = Upstream::start();
    let home =
        home_of(&upstream, json!({"name": "a", "type": "oauth", "importFrom": "~/source.json"}));
    let source = home.path().join("source.json");
    credentials(&source, "token-a", "refresh-a", 60);
    let proxy = Proxy::start(&home);
    // A minute is less than five, so the token is refreshed; from then on the source holds a spent
    // pair.
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(sent(&upstream), ["refresh-a"]);
    for access in ["token-a", "token-other"] {
        credentials(&source, access, "refresh-a", 1_000_000);
        assert_eq!(reload(&proxy).status, 200);
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert_eq!(pair(&home), numbered(1), "{access}");
    }
    assert_eq!(sent(&upstream), ["refresh-a"]);
    let last = upstream.requests().last().expect("a request").credential().to_owned();
    assert_eq!(last, "access-1");
    // A newer pair that does not descend from ours is imported.
    upstream.state().oauth.grant("refresh-cli");
    credentials(&source, "token-cli", "refresh-cli", 2_000_000);
    assert_eq!(reload(&proxy).status, 200);
    until("the newer pair serve", || {
        proxy.post(&hello()).assert_said("Hello from upstream.");
        (upstream.requests().last()?.credential() == "token-cli").then_some(())
    });
}

#[test]
fn an_import_of_a_spent_pair_is_refused() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let mut proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.stop();
    let source = home.path().join("source.json");
    credentials(&source, "token-a", "refresh-a", 1_000_000);
    let before = old_copy(&home);
    let text = std::fs::read_to_string(&source).expect("read");
    let path = source.to_str().expect("a path");
    for (arguments, input) in [
        (&["import", "--from", path][..], ""),
        (&["import", "--from", path, "--name", "a"], ""),
        (&["import", "--from", path, "--name", "another"], ""),
        (&["import", "--json", "-"], text.as_str()),
    ] {
        let ran = home.run_with_input(arguments, input);
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("old copy"), "{}", ran.stderr);
        assert_eq!(old_copy(&home), before, "{arguments:?}");
    }
}

#[test]
fn an_import_of_a_pair_that_only_the_state_file_knows_as_spent_is_refused() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let mut proxy = Proxy::start(&home);
    let old = old_copy(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.stop();
    let source = home.path().join("source.json");
    credentials(&source, "token-a", "refresh-a", 1_000_000);
    let path = source.to_str().expect("a path");
    let mut renamed: Value = serde_json::from_str(&old).expect("JSON");
    renamed["accounts"][0] = oauth("b");
    let mut empty = renamed.clone();
    empty["accounts"] = json!([]);
    // An old copy of the config lacks the digest, and so does one without the account.
    for config in [old, renamed.to_string(), empty.to_string()] {
        home.write_text(&config);
        for arguments in
            [&["import", "--from", path][..], &["import", "--from", path, "--name", "b"]]
        {
            let ran = home.run(arguments);
            assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {ran:?}");
            assert!(ran.stderr.contains("old copy"), "{}", ran.stderr);
            let accounts = home.read()["accounts"].to_string();
            assert!(!accounts.contains("import"), "{arguments:?}: {accounts}");
        }
    }
}

#[test]
fn an_old_copy_with_a_spent_pair_of_an_account_that_was_removed_meanwhile_displaces_no_login() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let proxy = Proxy::start(&home);
    let old = old_copy(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    // Removed and added again: the new entry does not know the old token.
    let mut config = home.read();
    config["accounts"] = json!([]);
    home.write_text(&config.to_string());
    assert_eq!(reload(&proxy).status, 200);
    proxy.wait_status("no account", |status| status["accounts"] == json!([]));
    let mut login = ending_in("a", 10_000);
    login["accessToken"] = json!("token-login");
    login["refreshToken"] = json!("refresh-login");
    config["accounts"] = json!([login]);
    home.write_text(&config.to_string());
    assert_eq!(reload(&proxy).status, 200);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    home.write_text(&old);
    assert_eq!(reload(&proxy).status, 200);
    until("the login be written back", || (pair(&home).1 == "refresh-login").then_some(()));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(sent(&upstream), ["refresh-a"]);
}

#[test]
fn an_import_of_a_spent_pair_in_place_of_a_refused_one_is_taken_while_the_server_runs() {
    let upstream = Upstream::start();
    let mut account = ending_in("a", -1);
    account["accountUuid"] = json!("u-1");
    let home = home_of(&upstream, account);
    let who = profile("u-1", "me@example.com", "o-1");
    upstream.state().oauth.profiles.insert("token-late".to_owned(), who);
    let mut proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.stop();
    // The token that replaces it is refused.
    let mut config = home.read();
    config["accounts"][0]["expiresAt"] = json!(1_000);
    home.write_text(&config.to_string());
    upstream.state().oauth.mode = Mode::InvalidGrant;
    let mut proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_error(502, "account_auth_error");
    proxy.terminate();
    // By now, the state file records that it was refused.
    proxy.wait_exit();
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_error(502, "account_auth_error");
    assert_eq!(sent(&upstream), ["refresh-a", "refresh-1", "refresh-1"]);
    let source = home.path().join("source.json");
    credentials(&source, "token-late", "refresh-a", 1_000_000);
    let ran = home.run(&["import", "--from", source.to_str().expect("a path")]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(ran.stdout.contains("updated the account a"), "{ran:?}");
    assert_eq!(reload(&proxy).status, 200);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let last = upstream.requests().last().expect("a request").credential().to_owned();
    assert_eq!(last, "token-late");
    assert_eq!(sent(&upstream).len(), 3, "what is spent is not sent");
}

#[test]
fn a_login_that_may_be_another_account_is_stored_beside() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, oauth("me@example.com"));
    home.write();
    let profiles = [("token-one", profile("u-1", "me@example.com", "o-1"))];
    upstream.state().oauth.profiles.extend(profiles.map(|(token, who)| (token.to_owned(), who)));
    let text = |access: &str| {
        json!({"accessToken": access, "refreshToken": format!("refresh-{access}"),
            "expiresAt": epoch_ms() + 1_000_000})
        .to_string()
    };
    let ran = home.run_with_input(&["import", "--json", "-"], &text("token-one"));
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let accounts = home.read()["accounts"].clone();
    assert_eq!(accounts[0]["accessToken"], "token-me@example.com", "{accounts:#}");
    assert_eq!(accounts[0]["refreshToken"], "refresh-me@example.com", "{accounts:#}");
    assert_eq!(accounts[1]["accessToken"], "token-one", "{accounts:#}");
    assert_ne!(accounts[1]["name"], "me@example.com");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("it may be the same account as me@example.com: if so,"), "{said}");
    // The same without a profile: the entry with an identity must not be updated either.
    let ran = home
        .run_with_input(&["import", "--json", "-", "--name", "me@example.com"], &text("token-two"));
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let accounts = home.read()["accounts"].clone();
    assert_eq!(accounts.as_array().map(Vec::len), Some(3), "{accounts:#}");
    assert_eq!(accounts[0]["accessToken"], "token-me@example.com", "{accounts:#}");
}

#[test]
fn a_login_keeps_what_it_displaces_until_it_has_served() {
    let upstream = Upstream::start();
    let mut account = ending_in("me@example.com", 10_000);
    account["accountUuid"] = json!("u-1");
    let home = home_of(&upstream, account);
    home.write();
    let who = profile("u-1", "me@example.com", "o-1");
    upstream.state().oauth.profiles.insert("token-new".to_owned(), who);
    let text = json!({"accessToken": "token-new", "refreshToken": "refresh-new",
        "expiresAt": epoch_ms() + 1_000_000_000})
    .to_string();
    let ran = home.run_with_input(&["import", "--json", "-"], &text);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let entry = home.read()["accounts"][0].clone();
    assert_eq!(entry["accessToken"], "token-new");
    assert_eq!(entry["previous"]["accessToken"], "token-me@example.com", "{entry:#}");
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    until("what was displaced be forgotten", || {
        home.read()["accounts"][0].get("previous").is_none().then_some(())
    });
}

#[test]
fn of_two_entries_with_one_refresh_token_the_later_is_left_out() {
    let upstream = Upstream::start();
    let twin = |name: &str, uuid: Option<&str>| {
        let mut account = ending_in(name, -1);
        account["refreshToken"] = json!("refresh-a");
        if let Some(uuid) = uuid {
            account["accountUuid"] = json!(uuid);
        }
        account
    };
    for uuids in [[None, None], [Some("u-1"), Some("u-2")], [Some("u-1"), None]] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, twin("first", uuids[0])).account(twin("second", uuids[1]));
        let proxy = Proxy::start(&home);
        let line =
            proxy.wait_line("both names", |line| line.contains("first") && line.contains("second"));
        assert!(line.contains("refresh token"), "{line}");
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert_eq!(proxy.status()["accounts"].as_array().map(Vec::len), Some(1));
        assert_eq!(sent(&upstream), ["refresh-a"]);
    }
    drop(upstream);
}

#[test]
fn an_entry_that_is_renamed_or_moved_during_its_refresh_gets_its_pair() {
    for change in ["renamed", "moved", "removed"] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1)).account(oauth("b"));
        let proxy = Proxy::start(&home);
        let gate = hold_refresh(&upstream);
        let client = proxy.post_aside(&hello());
        upstream.wait("the refresh", |state| !state.requests.is_empty());
        let mut config = home.read();
        let accounts = config["accounts"].as_array_mut().expect("a list");
        match change {
            "renamed" => accounts[0]["name"] = json!("another"),
            "moved" => accounts.reverse(),
            _ => drop(accounts.remove(0)),
        }
        home.write_text(&config.to_string());
        gate.open();
        let _any_answer = client.join();
        if change == "removed" {
            proxy.wait_line("that it is dropped", |line| line.contains("dropped"));
            assert!(!old_copy(&home).contains("refresh-1"));
            continue;
        }
        until(change, || {
            let accounts = home.read()["accounts"].clone();
            let mut accounts = accounts.as_array().into_iter().flatten();
            accounts.any(|account| account["refreshToken"] == "refresh-1").then_some(())
        });
        let config = home.read();
        let names: Vec<&str> = config["accounts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|account| account["refreshToken"] == "refresh-1")
            .filter_map(|account| account["name"].as_str())
            .collect();
        assert_eq!(names, [if change == "renamed" { "another" } else { "a" }], "{config:#}");
        assert_eq!(sent(&upstream), ["refresh-a"], "{change}");
    }
}

#[test]
fn a_config_that_breaks_during_a_refresh_gets_the_pair_once_it_is_whole_again() {
    for broken in ["invalid", "empty", "deleted", "a directory", "a link to nowhere"] {
        for is_killed in [false, true] {
            let upstream = Upstream::start();
            let home = home_of(&upstream, ending_in("a", -1));
            let mut proxy = Proxy::start(&home);
            let whole = old_copy(&home);
            let gate = hold_refresh(&upstream);
            let client = proxy.post_aside(&hello());
            upstream.wait("the refresh", |state| !state.requests.is_empty());
            let path = home.config_path();
            match broken {
                "invalid" => home.write_text("{\"accounts\": ["),
                "empty" => home.write_text(""),
                _ => std::fs::remove_file(&path).expect("remove"),
            }
            match broken {
                "a directory" => std::fs::create_dir(&path).expect("make a directory"),
                "a link to nowhere" => {
                    std::os::unix::fs::symlink("nowhere/pool.json", &path).expect("link");
                }
                _ => {}
            }
            gate.open();
            client.join().expect("a client").assert_said("Hello from upstream.");
            if is_killed {
                proxy.signal(Signal::KILL);
                proxy.wait_exit();
            }
            match broken {
                "a directory" => std::fs::remove_dir(&path).expect("remove"),
                "a link to nowhere" => std::fs::remove_file(&path).expect("remove"),
                _ => {}
            }
            home.write_text(&whole);
            let proxy = if is_killed { Proxy::start_as_is(&home) } else { proxy };
            until(broken, || (pair(&home) == numbered(1)).then_some(()));
            proxy.post(&hello()).assert_said("Hello from upstream.");
            assert_eq!(sent(&upstream), ["refresh-a"], "{broken}, killed: {is_killed}");
        }
    }
}

#[test]
fn what_is_no_rescue_file_is_not_overwritten_and_the_pair_goes_elsewhere() {
    for foreign in ["{\"pairs\": [{\"refreshToken\": \"cut o", "[]", "{\"pairs\": 3}"] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1));
        let mut proxy = Proxy::start(&home);
        let whole = old_copy(&home);
        let gate = hold_refresh(&upstream);
        let client = proxy.post_aside(&hello());
        upstream.wait("the refresh", |state| !state.requests.is_empty());
        let rescue = home.path().join("maxpool.rescue.json");
        std::fs::write(&rescue, foreign).expect("write");
        home.write_text("{");
        gate.open();
        client.join().expect("a client").assert_said("Hello from upstream.");
        assert_eq!(std::fs::read_to_string(&rescue).expect("read"), foreign);
        proxy.signal(Signal::KILL);
        proxy.wait_exit();
        home.write_text(&whole);
        let proxy = Proxy::start_as_is(&home);
        until("the pair be found", || (pair(&home) == numbered(1)).then_some(()));
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert_eq!(sent(&upstream), ["refresh-a"]);
        assert_eq!(std::fs::read_to_string(&rescue).expect("read"), foreign);
    }
}

#[test]
fn a_source_that_never_answers_holds_up_nothing() {
    let upstream = Upstream::start();
    let home = home_of(
        &upstream,
        json!({"name": "a", "type": "oauth", "accessToken": "token-a", "importFrom": "~/pipe"}),
    );
    let made = Command::new("mkfifo").arg(home.path().join("pipe")).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    let mut proxy = Proxy::start(&home);
    let start = Instant::now();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(reload(&proxy).status, 200);
    proxy.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(proxy.log().iter().any(|line| line.contains("not a file")), "{:#?}", proxy.log());
}

#[test]
fn a_lock_that_another_process_holds_for_long_holds_up_neither_sync_nor_reload_nor_stop() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", 10_000));
    let mut proxy = Proxy::start(&home);
    let held = home.lock_config();
    // Any edit that the server must read from the file will do.
    let mut config = home.read();
    config["accounts"][0]["priority"] = json!(3);
    home.write_text(&config.to_string());
    let start = Instant::now();
    assert_eq!(reload(&proxy).status, 200);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.wait_status("the edit", |status| status["accounts"][0]["priority"] == 3);
    proxy.stop();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    drop(held);
}

#[test]
fn a_lock_whose_file_was_deleted_while_it_was_held_excludes_the_next_writer_no_more_than_it_should()
{
    let upstream = Upstream::start();
    let home = home_of(&upstream, oauth("a"));
    home.write();
    let first = home.lock_config();
    let mut waiting = home.command(&["rename", "a", "b"]).spawn().expect("start the program");
    // It keeps retrying, and sleeps between two attempts.
    let pid = waiting.id();
    let sleeps =
        || -> u32 { status_of(pid, "voluntary_ctxt_switches:").parse().expect("a number") };
    let tries_again = |times: u32| {
        let before = sleeps();
        until("it try again", || (sleeps() >= before + times).then_some(()));
    };
    tries_again(10);
    assert!(waiting.try_wait().expect("look").is_none(), "it waits for the lock");
    // Another program replaces the lock file and holds the lock of the new one.
    let (old, new) = (home.path().join("maxpool.json.lock"), home.path().join("another"));
    let second = std::fs::File::create(&new).expect("make a lock");
    flock(&second, FlockOperation::LockExclusive).expect("lock");
    std::fs::rename(&new, &old).expect("replace the lock");
    drop(first);
    tries_again(10);
    assert!(waiting.try_wait().expect("look").is_none(), "two writers at one time");
    assert_eq!(home.read()["accounts"][0]["name"], "a");
    drop(second);
    assert!(waiting.wait().expect("wait").success());
    assert_eq!(home.read()["accounts"][0]["name"], "b");
}

#[test]
fn what_a_killed_writer_left_behind_is_read_merged_and_then_deleted() {
    let upstream = Upstream::start();
    upstream.state().oauth.grant("refresh-1");
    let home = home_of(&upstream, ending_in("a", -1));
    let mut proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.stop();
    drop(proxy);
    // The file before the rename, and beside it the temporary file that was to replace it.
    let new = old_copy(&home);
    let mut old: Value = serde_json::from_str(&new).expect("JSON");
    old["accounts"][0] = ending_in("a", -1);
    old["note"] = json!("an edit after the kill");
    home.write_text(&old.to_string());
    let left = home.path().join(".maxpool.json.999999999.0.tmp");
    let torn = home.path().join(".maxpool.json.999999998.7.tmp");
    std::fs::write(&left, &new).expect("write");
    std::fs::write(&torn, &new[..new.len() / 2]).expect("write");
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(pair(&home), numbered(1));
    assert_eq!(home.read()["note"], "an edit after the kill");
    assert_eq!(sent(&upstream), ["refresh-a"]);
    assert!(!left.exists() && !torn.exists());
}

#[test]
fn a_refresh_changes_no_spelling_and_no_size_of_what_it_is_not_about() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    home.write();
    let mut config = home.read();
    config["many"] = json!(vec!["minified ".repeat(1_000); 900]);
    let mut text = config.to_string();
    text.truncate(text.len() - 1);
    text.push_str(
        r#","numbers":[1.10,1e3,123456789012345678901234567890,-0.0,1E+2],"odd":"é\u00e9\/"}"#,
    );
    assert!(text.len() > 8_000_000, "{}", text.len());
    home.write_text(&text);
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(pair(&home), numbered(1));
    let after = old_copy(&home);
    assert!(after.len() < text.len() + 1_000, "{} became {}", text.len(), after.len());
    let tail =
        r#""numbers":[1.10,1e3,123456789012345678901234567890,-0.0,1E+2],"odd":"é\u00e9\/"}"#;
    assert!(after.trim_end().ends_with(tail), "{}", &after[after.len() - 200..]);
}

#[test]
fn the_first_change_of_an_older_program_s_file_leaves_a_copy_beside_it() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    home.write();
    let before = old_copy(&home);
    let copy = home.path().join("maxpool.json.before-2.0");
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(std::fs::read_to_string(&copy).expect("the copy"), before);
    let mode = std::fs::metadata(&copy).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(proxy);
    // The copy is made only once, and a file created by this program gets none.
    assert_eq!(home.run(&["rename", "a", "b"]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&copy).expect("the copy"), before);
    let fresh = Home::new();
    fresh.make_default(fresh.command(&["server"]), &fresh.config_path());
    let ran = fresh.run_with_input(&["login", "--api", "--force"], "sk-ant-api03-abcdefgh\n");
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(!fresh.path().join("maxpool.json.before-2.0").exists());
}

/// Every file of the home with its content, and the inode of the config.
fn files(home: &Home) -> (Vec<(String, String)>, u64) {
    let entries = std::fs::read_dir(home.path()).expect("list").flatten();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).expect("read");
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .collect();
    files.sort();
    (files, std::fs::metadata(home.config_path()).expect("there").ino())
}

#[test]
fn doctor_changes_nothing() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    home.write();
    let before = files(&home);
    let checked = home.run(&["doctor"]).stdout;
    assert!(checked.contains("ok    storage "), "{checked}");
    assert_eq!(files(&home), before);
}

#[cfg(not(portable))]
#[test]
fn doctor_tells_a_config_that_cannot_be_replaced() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    home.write();
    let doctor = |before: &str, after: &str| {
        let script = format!("{before} || exit 77; \"$0\" \"$@\"; {after}");
        let starter = ["unshare", "-m", "sh", "-c", &script];
        crate::harness::home::finish(home.command_under(&starter, &["doctor"]), "")
    };
    for (what, before, after, words) in [
        (
            "a bind mount",
            "mount --bind maxpool.json maxpool.json",
            "true",
            "it is mounted on its own",
        ),
        (
            "an immutable file",
            "chattr +i maxpool.json",
            "chattr -i maxpool.json",
            "it is immutable",
        ),
    ] {
        let ran = doctor(before, after);
        if ran.status.code() == Some(77) || ran.stderr.contains("unshare") {
            eprintln!("skipped {what}: it cannot be made here: {}", ran.stderr);
            continue;
        }
        let line = ran.stdout.lines().find(|line| line.starts_with("WRONG storage"));
        assert!(line.is_some() && ran.stdout.contains(words), "{what}: {ran:#?}");
    }
}

#[test]
fn accounts_and_doctor_tell_a_dead_login_the_last_refresh_and_what_cannot_be_stored() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let mut proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.stop();
    drop(proxy);
    let listed = home.run(&["accounts", "-v"]).stdout;
    assert!(listed.contains("REFRESHED") && listed.contains("s ago"), "{listed}");
    let checked = home.run(&["doctor"]).stdout;
    assert!(
        checked.contains("ok    storage      the config can be locked and replaced"),
        "{checked}"
    );
    assert!(checked.contains("ok    token        a: valid"), "{checked}");
    // Its refresh token is used up, and its access token has expired.
    let mut config = home.read();
    config["accounts"][0]["refreshToken"] = json!("refresh-a");
    config["accounts"][0]["expiresAt"] = json!(1_000);
    config["upstream"] = json!("http://upstream.invalid:8080");
    home.write_text(&config.to_string());
    let held = home.lock_config();
    let checked = home.run(&["doctor"]);
    assert_eq!(checked.status.code(), Some(1));
    for words in [
        "WRONG token        a: needs login",
        "WRONG storage      renewed tokens cannot be stored: cannot lock",
        "note  TLS          http://upstream.invalid:8080 is not encrypted",
    ] {
        assert!(checked.stdout.contains(words), "{words}: {}", checked.stdout);
    }
    drop(held);
    let listed = home.run(&["accounts"]).stdout;
    assert!(listed.contains("needs login"), "{listed}");
}
