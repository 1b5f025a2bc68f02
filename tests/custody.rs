//! Custody of tokens (SPEC A5, T2, T7): a refresh token is used once, and the new pair is never
//! lost, whatever the token endpoint, the disk or a signal does.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::home::{KEY, epoch_ms, program};
use crate::harness::proxy::status_of;
use crate::harness::{Ask, Client, Home, Proxy, Value, hello, json, oauth, until};
use crate::outcomes::ms_until;
use crate::upstream::oauth::Mode;
use crate::upstream::{Answer, End, Gate, Step, Upstream, failures};

/// An OAuth account whose token expires in this many seconds.
pub(super) fn ending_in(name: &str, seconds: i64) -> Value {
    let mut account = oauth(name);
    let now = i64::try_from(epoch_ms()).expect("a time");
    account["expiresAt"] = json!(now + seconds * 1000);
    account
}

/// A home with one account whose refresh token is valid.
pub(super) fn home_of(upstream: &Upstream, account: Value) -> Home {
    upstream.state().oauth.grant("refresh-a");
    Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .account(account)
        .set("sync.accountsIntervalMs", json!(100))
        .set("queue.enabled", json!(false))
}

/// The tokens of the first account in the file.
pub(super) fn pair(home: &Home) -> (String, String) {
    let account = &home.read()["accounts"][0];
    let text = |name: &str| account[name].as_str().unwrap_or("").to_owned();
    (text("accessToken"), text("refreshToken"))
}

pub(super) fn numbered(number: u32) -> (String, String) {
    (format!("access-{number}"), format!("refresh-{number}"))
}

/// Every refresh token that reached the endpoint.
pub(super) fn sent(upstream: &Upstream) -> Vec<String> {
    let requests = upstream.requests();
    let refreshes = requests.iter().filter(|request| request.path() == "/v1/oauth/token");
    refreshes.map(|request| request.json()["refresh_token"].as_str().unwrap_or("").into()).collect()
}

/// The tokens that messages were sent with.
fn served(upstream: &Upstream) -> Vec<String> {
    let requests = upstream.requests();
    let messages = requests.iter().filter(|request| request.path() == "/v1/messages");
    messages.map(|request| request.credential().to_owned()).collect()
}

/// The token endpoint's answer with the first pair and these additional members.
pub(super) fn issued(more: Value) -> String {
    let mut body = json!({"access_token": "access-1", "refresh_token": "refresh-1"});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string()
}

/// The next refresh is answered with the first pair once the gate is opened.
pub(super) fn hold_refresh(upstream: &Upstream) -> Gate {
    let gate = upstream.gate();
    let answer = Answer::json(200, &issued(json!({"expires_in": 3600})));
    upstream.next("", answer.before(Step::Hold(gate.clone())));
    gate
}

/// The server under strace, which makes system calls fail; `None` without strace.
fn failing(home: &Home, rules: &[&str]) -> Option<Command> {
    if !Command::new("strace").arg("-V").output().is_ok_and(|ran| ran.status.success()) {
        eprintln!("skipped: there is no strace to let system calls fail");
        return None;
    }
    home.write();
    let mut starter = vec!["strace", "-f", "-qq", "-o", "/dev/null"];
    starter.extend(rules.iter().flat_map(|rule| ["-e", rule]));
    Some(home.command_under(&starter, &["server", "--plain"]))
}

/// Waits until a signal that was sent to the process has interrupted it.
fn wait_heard(pid: u32, signal: Signal) {
    until("the signal be heard", || {
        let pending = ["SigPnd:", "ShdPnd:"].map(|name| status_of(pid, name));
        let is_pending = |mask: &str| {
            let mask = u64::from_str_radix(mask, 16).unwrap_or(0);
            mask >> (signal.as_raw() - 1) & 1 == 1
        };
        (!pending.iter().any(|mask| is_pending(mask))).then_some(())
    });
}

fn only_readable(path: &std::path::Path, is_so: bool) {
    let mode = if is_so { 0o555 } else { 0o755 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn a_lifetime_that_cannot_be_believed_costs_one_refresh_and_lasts_until_it_is_refused() {
    let past = epoch_ms() / 1000 - 5_000;
    for more in [
        json!({"expires_in": 0}),
        json!({"expires_in": -5}),
        json!({"expires_at": past}),
        json!({"expires_at": past * 1000, "expires_in": 0}),
    ] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1));
        let mut proxy = Proxy::start(&home);
        upstream.always("", Answer::json(200, &issued(more.clone())));
        for _ in 0..10 {
            proxy.post(&hello()).assert_said("Hello from upstream.");
        }
        assert_eq!(sent(&upstream), ["refresh-a"], "{more}");
        assert_eq!(proxy.account("a")["credential"]["state"], "valid", "{more}");
        // The API refuses the new token: still at most one refresh in ten seconds.
        upstream.always("access-1", failures::unauthorized());
        for _ in 0..5 {
            proxy.post(&hello()).assert_error(502, "account_auth_error");
        }
        assert_eq!(sent(&upstream), ["refresh-a"], "{more}");
        proxy.terminate();
        assert_eq!(proxy.wait_exit(), Some(0), "{more}");
        assert_eq!(sent(&upstream).len(), 1, "{more}: not at the stop either");
        assert_eq!(pair(&home), numbered(1), "{more}");
    }
}

#[test]
fn an_endpoint_that_gives_the_refused_access_token_again_is_asked_once() {
    for lifetime in [0, 3600] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", 10_000));
        let proxy = Proxy::start(&home);
        upstream.always("token-a", failures::unauthorized());
        let again = |number: u32| {
            let answer = json!({"access_token": "token-a", "expires_in": lifetime,
                "refresh_token": format!("refresh-{number}")});
            Answer::json(200, &answer.to_string())
        };
        (1..=20).for_each(|number| upstream.next("", again(number)));
        for _ in 0..3 {
            proxy.post(&hello()).assert_error(502, "account_auth_error");
        }
        assert_eq!(sent(&upstream), ["refresh-a"], "{lifetime}");
        assert_eq!(pair(&home), ("token-a".into(), "refresh-1".into()));
    }
}

#[test]
fn a_token_of_unknown_fate_is_sent_once_more_and_not_again() {
    for answer in [
        failures::reset(),
        failures::closed(),
        failures::garbage(),
        Answer::json(502, "{}"),
        Answer::json(504, "{}"),
        Answer::json(200, "{\"access_token\":"),
    ] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1))
            .set("scheduler.cooldownMs", json!(100))
            .set("scheduler.networkCooldownMs", json!(100));
        let proxy = Proxy::start(&home);
        upstream.always("", answer);
        until("it is sent once more", || {
            let reply = proxy.post(&hello());
            assert_ne!(reply.status, 200, "{}", reply.text());
            (sent(&upstream).len() == 2).then_some(())
        });
        rests_for_a_quarter_of_an_hour(&proxy);
        assert_eq!(sent(&upstream), ["refresh-a", "refresh-a"]);
        // A new login ends that.
        let mut config = home.read();
        config["accounts"][0]["refreshToken"] = json!("refresh-login");
        home.write_text(&config.to_string());
        upstream.state().oauth.grant("refresh-login");
        upstream.heal("");
        until("the new login serve", || (proxy.post(&hello()).status == 200).then_some(()));
    }
}

#[test]
fn every_new_refresh_token_is_kept_whatever_else_is_wrong_with_the_answer() {
    let whole = issued(json!({"expires_in": 3600}));
    let cut = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{whole}",
        whole.len() + 100
    );
    let torn_chunk = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{whole}\r\n",
        whole.len()
    );
    let no_access = r#"{"refresh_token":"refresh-1","expires_in":3600}"#;
    let rows = [
        ("cut transfer", Answer::raw_bytes(cut.as_bytes()), true),
        ("no last chunk", Answer::raw_bytes(torn_chunk.as_bytes()), true),
        ("reset", Answer::raw([Step::Send(cut.into_bytes()), Step::Reset]), true),
        ("byte-order mark", Answer::json(200, &format!("\u{feff}{whole}")), true),
        ("gzip", Answer::json(200, &whole).gzipped(), true),
        ("201", Answer::json(201, &whole), true),
        ("text/html", Answer::bytes(200, whole.as_bytes()).end(End::Close), true),
        ("500", Answer::json(500, &whole), true),
        ("302", Answer::json(302, &whole), true),
        ("403", Answer::json(403, &whole), true),
        ("no access token", Answer::json(200, no_access), false),
    ];
    for (what, answer, serves) in rows {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1));
        let proxy = Proxy::start(&home);
        upstream.next("", answer);
        let reply = proxy.post(&hello());
        assert_eq!(reply.status == 200, serves, "{what}: {}", reply.text());
        assert_eq!(pair(&home).1, "refresh-1", "{what}");
        assert_eq!(sent(&upstream), ["refresh-a"], "{what}");
    }
}

#[test]
fn a_valid_token_is_not_risked_where_the_file_cannot_be_replaced() {
    for (what, rules) in [
        ("a bind mount", ["trace=rename", "inject=rename:error=EBUSY"]),
        ("an immutable file", ["trace=rename", "inject=rename:error=EPERM"]),
        ("a full disk", ["trace=pwrite64", "inject=pwrite64:error=ENOSPC"]),
        ("a broken disk", ["trace=fsync", "inject=fsync:error=EIO"]),
    ] {
        let upstream = Upstream::start();
        // Less than five minutes are left, so a refresh is due.
        let home = home_of(&upstream, ending_in("a", 120));
        let Some(command) = failing(&home, &rules) else {
            return;
        };
        let proxy = Proxy::spawn(command);
        for _ in 0..3 {
            proxy.post(&hello()).assert_said("Hello from upstream.");
        }
        assert_eq!(served(&upstream), ["token-a"; 3], "{what}");
        proxy.wait_line("that it is not sent", |line| line.contains("the token was not sent"));
        assert_eq!(sent(&upstream), [""; 0], "{what}");
        assert_eq!(pair(&home), ("token-a".into(), "refresh-a".into()), "{what}");
    }
}

#[test]
fn a_request_whose_token_is_still_good_does_not_wait_for_a_refresh_that_hangs() {
    let upstream = Upstream::start();
    // Less than five minutes are left, so a refresh is due.
    let home = home_of(&upstream, ending_in("a", 120));
    let proxy = Proxy::start(&home);
    let gate = hold_refresh(&upstream);
    for _ in 0..2 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert_eq!(served(&upstream), ["token-a"; 2]);
    assert_eq!(sent(&upstream), ["refresh-a"], "it is under way");
    // The API now refuses the old token, so every request that has met this waits for the refresh.
    upstream.always("token-a", failures::unauthorized());
    let client = proxy.post_aside(&hello());
    upstream.wait("the refusal", |state| state.requests.len() == 4);
    gate.open();
    client.join().expect("a client").assert_said("Hello from upstream.");
    assert_eq!(served(&upstream), ["token-a", "token-a", "token-a", "access-1"]);
    assert_eq!(sent(&upstream), ["refresh-a"]);
    assert_eq!(pair(&home), numbered(1));
}

/// How often the refresh thread has slept, which it does once before each retry to get a lock.
fn tries_of_the_refresh(worker: u32) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{worker}/task")).expect("list").flatten();
    let mut ids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok());
    let refresh = ids.find(|id| status_of(*id, "Name:") == "refresh")?;
    status_of(refresh, "voluntary_ctxt_switches:").parse().ok()
}

#[test]
fn a_new_token_serves_no_request_before_it_is_stored_however_long_that_takes() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", 120));
    let proxy = Proxy::start(&home);
    let worker = u32::try_from(proxy.status()["pid"].as_u64().expect("a pid")).expect("a pid");
    let gate = hold_refresh(&upstream);
    // This request has reached its wait limit, so later ones do not wait for the refresh either.
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let held = home.lock_config();
    let before = tries_of_the_refresh(worker).expect("it is under way");
    gate.open();
    until("it wait for the lock", || (tries_of_the_refresh(worker)? >= before + 20).then_some(()));
    let client = proxy.post_aside(&hello());
    until("it wait on", || (tries_of_the_refresh(worker)? >= before + 40).then_some(()));
    assert_eq!(served(&upstream), ["token-a"]);
    drop(held);
    client.join().expect("a client").assert_said("Hello from upstream.");
    assert_eq!(served(&upstream), ["token-a", "access-1"]);
    assert_eq!(pair(&home), numbered(1));
}

#[test]
fn a_request_whose_token_is_still_good_does_not_wait_for_a_config_that_is_locked() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", 120));
    let proxy = Proxy::start(&home);
    let held = home.lock_config();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let failed = |line: &String| line.contains("the token was not sent");
    assert!(!proxy.log().iter().any(failed), "it waited for the refresh to give up");
    drop(held);
    until("the refresh go on", || (pair(&home) == numbered(1)).then_some(()));
    assert_eq!(sent(&upstream), ["refresh-a"]);
}

#[test]
fn two_servers_and_a_restart_use_a_short_lived_pair_to_its_end() {
    let upstream = Upstream::start();
    upstream.state().oauth.lifetime_s = 120;
    let home = home_of(&upstream, ending_in("a", -1));
    let mut first = Proxy::start(&home);
    let second = Proxy::start_as_is(&home);
    for _ in 0..3 {
        first.post(&hello()).assert_said("Hello from upstream.");
        second.post(&hello()).assert_said("Hello from upstream.");
    }
    first.stop();
    Proxy::start_as_is(&home).post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(sent(&upstream), ["refresh-a"]);
}

#[test]
fn without_locks_tokens_are_stored_all_the_same_and_that_is_said_once() {
    for error in ["ENOLCK", "EOPNOTSUPP", "ENOSYS"] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1));
        let inject = format!("inject=flock:error={error}");
        let Some(command) = failing(&home, &["trace=flock", &inject]) else {
            return;
        };
        let proxy = Proxy::spawn(command);
        for _ in 0..3 {
            proxy.post(&hello()).assert_said("Hello from upstream.");
        }
        assert_eq!(pair(&home), numbered(1), "{error}");
        assert_eq!(sent(&upstream), ["refresh-a"], "{error}");
        let said =
            proxy.log().iter().filter(|line| line.contains("does not support locks")).count();
        assert_eq!(said, 1, "{error}: {:#?}", proxy.log());
    }
}

/// A home whose config cannot be written, and possibly no other directory either.
struct Sealed {
    home: Home,
    directory: PathBuf,
}

impl Sealed {
    fn new(upstream: &Upstream) -> Sealed {
        let home = home_of(upstream, ending_in("a", -1));
        home.write();
        let directory = home.path().join("etc");
        std::fs::create_dir(&directory).expect("make a directory");
        std::fs::rename(home.config_path(), directory.join("pool.json")).expect("move");
        std::os::unix::fs::symlink("etc/pool.json", home.config_path()).expect("link");
        Sealed { home, directory }
    }

    /// The server with that state directory; `None` if it cannot be kept from writing.
    fn server(&self, state: &str) -> Option<Proxy> {
        let mut command = self.home.powerless()?;
        command.env("HOME", self.home.path().join(state));
        Some(Proxy::spawn(command))
    }

    fn seal(&self) {
        only_readable(&self.directory, true);
        only_readable(self.home.path(), true);
    }

    fn open(&self) {
        only_readable(self.home.path(), false);
        only_readable(&self.directory, false);
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.open();
    }
}

#[test]
fn a_pair_that_only_the_rescue_file_takes_outlives_a_kill() {
    let upstream = Upstream::start();
    let sealed = Sealed::new(&upstream);
    std::fs::create_dir(sealed.home.path().join("me")).expect("make a directory");
    let Some(mut proxy) = sealed.server("me") else {
        return;
    };
    sealed.seal();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let rescue = sealed.home.path().join("me/.local/state/pool.rescue.json");
    let mode = std::fs::metadata(&rescue).expect("the rescue file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let storage = proxy.account("a")["credential"]["storage"].to_string();
    assert!(storage.contains("rescue file"), "{storage}");
    proxy.signal(Signal::KILL);
    proxy.wait_exit();
    let Some(next) = sealed.server("me") else {
        return;
    };
    next.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(served(&upstream), ["access-1", "access-1"]);
    assert_eq!(sent(&upstream), ["refresh-a"], "the pair was found, so nothing was sent");
    sealed.open();
    until("the config take it", || (pair(&sealed.home) == numbered(1)).then_some(()));
    until("the rescue file go", || (!rescue.exists()).then_some(()));
}

#[test]
fn a_pair_in_memory_only_is_handed_over_at_a_restart_and_stored_at_the_stop() {
    let upstream = Upstream::start();
    let sealed = Sealed::new(&upstream);
    let Some(mut proxy) = sealed.server("nowhere") else {
        return;
    };
    sealed.seal();
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let account = proxy.account("a");
    assert_eq!(account["credential"]["state"], "in memory only", "{account:#}");
    let line = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(line, "the new worker", |line| line.contains("restart"));
    until("the new worker serve", || {
        let status = proxy.status();
        (status["pid"] != json!(0) && proxy.post(&hello()).status == 200).then_some(())
    });
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert!(served(&upstream).iter().all(|token| token == "access-1"), "{:?}", served(&upstream));
    assert_eq!(sent(&upstream), ["refresh-a"]);
    assert_eq!(pair(&sealed.home).1, "refresh-a", "still in memory only");
    sealed.open();
    proxy.stop();
    assert_eq!(pair(&sealed.home), numbered(1));
}

#[test]
fn a_stop_tries_for_a_while_to_save_a_pair_and_says_whose_is_lost() {
    for is_opened in [true, false] {
        let upstream = Upstream::start();
        let sealed = Sealed::new(&upstream);
        let Some(mut proxy) = sealed.server("nowhere") else {
            return;
        };
        sealed.seal();
        proxy.post(&hello()).assert_said("Hello from upstream.");
        proxy.terminate();
        if is_opened {
            proxy.wait_line("it stop", |line| line.contains("stopping"));
            sealed.open();
        }
        assert_eq!(proxy.wait_exit(), Some(0));
        let log = proxy.log().join("\n");
        let is_told = log.contains("a: its new tokens could not be saved and are lost");
        assert_eq!(is_told, !is_opened, "{log}");
        sealed.open();
        assert_eq!(pair(&sealed.home) == numbered(1), is_opened, "{log}");
    }
}

#[test]
fn a_refresh_token_may_be_any_text() {
    let long = "x".repeat(20_000);
    for token in ["with blanks in it", "ключ\u{1f511}\n", long.as_str()] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1));
        let proxy = Proxy::start(&home);
        let answer = json!({"access_token": "access-odd", "refresh_token": token, "expires_in": 0});
        upstream.next("", Answer::json(200, &answer.to_string()));
        upstream.state().oauth.grant(token);
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert_eq!(pair(&home), ("access-odd".to_owned(), token.to_owned()));
        drop(proxy);
        // With an expired access token, the odd refresh token is exchanged for the next pair.
        let mut config = home.read();
        config["accounts"][0]["expiresAt"] = json!(1_700_000_000_000_u64);
        home.write_text(&config.to_string());
        let proxy = Proxy::start_as_is(&home);
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert_eq!(sent(&upstream), ["refresh-a", token]);
        assert_eq!(pair(&home), numbered(1));
    }
}

#[test]
fn no_number_of_signals_cuts_a_refresh_in_flight() {
    for signals in [
        &[Signal::TERM][..],
        &[Signal::INT, Signal::INT, Signal::INT],
        &[Signal::USR2],
        &[Signal::USR2, Signal::TERM, Signal::TERM, Signal::TERM],
    ] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1));
        let mut proxy = Proxy::start(&home);
        let gate = hold_refresh(&upstream);
        let client = proxy.post_aside(&hello());
        upstream.wait("the refresh", |state| !state.requests.is_empty());
        for (number, signal) in signals.iter().enumerate() {
            proxy.signal(*signal);
            // Two identical signals sent at the same moment are delivered only once.
            wait_heard(proxy.pid(), *signal);
            let said = match (signal, number) {
                (&Signal::USR2, 0) => "starting the new process",
                (_, 0) => "stopping: 1 request left",
                (&Signal::INT, 1) => "a second signal arrived",
                _ => continue,
            };
            proxy.wait_line(said, |line| line.contains(said));
        }
        assert_eq!(pair(&home).1, "refresh-a", "{signals:?}: it is under way");
        gate.open();
        if signals.contains(&Signal::TERM) || signals.contains(&Signal::INT) {
            proxy.wait_exit();
        }
        until("the pair be stored", || (pair(&home) == numbered(1)).then_some(()));
        let _answered_or_cut = client.join();
        assert_eq!(sent(&upstream), ["refresh-a"], "{signals:?}");
    }
}

#[test]
fn a_command_that_refreshes_holds_signals_until_the_pair_is_stored() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let upstream = Upstream::start();
        let home = home_of(&upstream, ending_in("a", -1));
        home.write();
        let gate = hold_refresh(&upstream);
        let mut child = home.command(&["api", "/v1/models"]).spawn().expect("start the program");
        upstream.wait("the refresh", |state| !state.requests.is_empty());
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).expect("send a signal");
        wait_heard(child.id(), signal);
        assert!(child.try_wait().expect("look").is_none(), "{signal:?} ended it in its refresh");
        gate.open();
        let status = child.wait().expect("wait");
        assert!(!status.success(), "{signal:?}: the signal counts once the pair is stored");
        assert_eq!(pair(&home), numbered(1), "{signal:?}");
    }
}

#[test]
fn locks_of_tokens_are_cleared_after_a_refresh_and_after_a_kill() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let locks = || {
        let entries = std::fs::read_dir(home.path()).expect("list").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with('.')).collect::<Vec<_>>()
    };
    let mut proxy = Proxy::start(&home);
    let worker = i32::try_from(proxy.status()["pid"].as_i64().expect("a pid")).expect("a pid");
    let gate = hold_refresh(&upstream);
    let client = proxy.post_aside(&hello());
    upstream.wait("the refresh", |state| !state.requests.is_empty());
    assert_eq!(locks().len(), 2, "the token's lock and the place: {:?}", locks());
    // Kills both, since a worker whose leader is gone would shut down gracefully.
    let worker = rustix::process::Pid::from_raw(worker).expect("a pid");
    proxy.signal(Signal::KILL);
    rustix::process::kill_process(worker, Signal::KILL).expect("kill");
    proxy.wait_exit();
    drop(proxy);
    gate.open();
    let _nothing = client.join();
    assert_eq!(locks().len(), 2, "{:?}", locks());
    upstream.state().oauth.grant("refresh-a");
    let proxy = Proxy::start_as_is(&home);
    let left = locks();
    assert_eq!(left.len(), 1, "{left:?}: the token may be used up, which its lock says");
    assert_ne!(proxy.post(&hello()).status, 200, "it is not sent again at once");
    assert_eq!(sent(&upstream).len(), 1);
    until("it is sent once more", || (proxy.post(&hello()).status == 200).then_some(()));
    assert_eq!(sent(&upstream).len(), 2);
    assert_eq!(locks(), [""; 0], "after a refresh");
}

#[test]
fn a_token_of_unknown_fate_is_known_as_such_after_a_restart() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1))
        .set("scheduler.networkCooldownMs", json!(100))
        .set("scheduler.cooldownMs", json!(100));
    let mut proxy = Proxy::start(&home);
    upstream.always("", failures::reset());
    until("it is sent", || {
        assert_ne!(proxy.post(&hello()).status, 200);
        (!sent(&upstream).is_empty()).then_some(())
    });
    proxy.stop();
    for starts in 1..=3 {
        let mut proxy = Proxy::start_as_is(&home);
        if starts == 1 {
            until("it is sent once more", || {
                assert_ne!(proxy.post(&hello()).status, 200);
                (sent(&upstream).len() == 2).then_some(())
            });
        } else {
            upstream.heal("");
            rests_for_a_quarter_of_an_hour(&proxy);
        }
        assert_eq!(sent(&upstream), ["refresh-a", "refresh-a"], "start {starts}");
        proxy.stop();
    }
}

/// Requests meanwhile fail at once, and the status says when the token will be sent again.
fn rests_for_a_quarter_of_an_hour(proxy: &Proxy) {
    until("the account rest", || {
        assert_ne!(proxy.post(&hello()).status, 200);
        let rest = ms_until(&proxy.account("a")["cooldownUntil"])?;
        (14 * 60_000..=15 * 60_000).contains(&rest).then_some(())
    });
}

#[test]
fn a_command_has_the_running_server_refresh() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let proxy = Proxy::start(&home);
    // The command finds the server through the port in the config.
    let mut config = home.read();
    config["proxy"]["port"] = json!(proxy.address().port());
    home.write_text(&config.to_string());
    let ran = home.run(&["api", "/v1/models"]);
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(pair(&home), numbered(1));
    assert_eq!(sent(&upstream), ["refresh-a"]);
    let line = proxy.wait_line("the refresh", |line| line.contains("refreshed"));
    // The server's own worker has refreshed it.
    let pid = proxy.status()["pid"].to_string();
    assert!(line.contains(&format!("pid {pid}")), "{line}");
}

#[test]
fn a_refresh_that_the_server_was_refused_is_not_tried_behind_its_back() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, ending_in("a", -1));
    let proxy = Proxy::start(&home);
    let mut config = home.read();
    config["proxy"]["port"] = json!(proxy.address().port());
    home.write_text(&config.to_string());
    upstream.state().oauth.mode = Mode::InvalidGrant;
    let ran = home.run(&["api", "/v1/models"]);
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("maxpool login"), "{}", ran.stderr);
    assert_eq!(sent(&upstream), ["refresh-a"]);
}

#[test]
fn an_account_whose_refresh_hangs_holds_up_no_other() {
    let upstream = Upstream::start();
    let home = home_of(&upstream, {
        let mut account = ending_in("a", -1);
        account["profiles"] = json!(["claude"]);
        account
    })
    .account({
        let mut account = ending_in("b", -1);
        account["profiles"] = json!(["other"]);
        account
    });
    upstream.state().oauth.grant("refresh-b");
    let proxy = Proxy::start(&home);
    let gate = hold_refresh(&upstream);
    let client = proxy.post_aside(&hello());
    upstream.wait("the refresh", |state| !state.requests.is_empty());
    let other = Ask::messages(&hello()).header("x-maxpool-profile", "other");
    proxy.ask(&other).assert_said("Hello from upstream.");
    assert_eq!(sent(&upstream), ["refresh-a", "refresh-b"]);
    let reload = Ask::post("/maxpool/reload", &json!({})).header("x-api-key", KEY);
    assert_eq!(proxy.ask(&reload).status, 200, "nor a reload");
    gate.open();
    client.join().expect("a client").assert_said("Hello from upstream.");
}
