//! What the commands tell people, each on the real program: whether requests can be served, which
//! account serves a session, what was used, and what to do next (SPEC sections 8 and T4).

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::home::{Ran, oauth};
use crate::harness::{Ask, Home, Proxy, Value, hello, json, until};
use crate::upstream::failures::quota;
use crate::upstream::{Answer, Message, Upstream};

fn home(upstream: &Upstream) -> Home {
    Home::new().upstream(&upstream.url())
}

/// The proxy on a port that the system chooses and that the config then names, so that commands
/// find it.
fn start(home: &Home) -> Proxy {
    let proxy = Proxy::start(home);
    let mut config = home.read();
    config["proxy"]["port"] = json!(proxy.address().port());
    home.write_text(&config.to_string());
    proxy
}

/// A port on which nothing listens.
const NO_PORT: u16 = 1;

fn assert_said(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.status.code(), Some(code), "{ran:#?}");
    for word in words {
        assert!(ran.stdout.contains(word), "no {word:?} in: {}{}", ran.stdout, ran.stderr);
    }
}

fn first_line(ran: &Ran) -> &str {
    ran.stdout.lines().next().unwrap_or_default()
}

#[test]
fn t4_a_new_key_is_not_used_while_subscriptions_can_serve() {
    let upstream = Upstream::start();
    let home = home(&upstream).logins(&upstream.url()).account(oauth("a")).account(oauth("b"));
    home.write();
    let ran = home.run_with_input(&["login", "--api", "--name", "paid"], "sk-ant-api03-paid\n");
    assert_said(&ran, 0, &["added the API key paid with priority 5", "maxpool priority paid 0"]);
    assert!(ran.stderr.contains("Next: "), "{}", ran.stderr);
    let proxy = Proxy::start_as_is(&home);
    for _ in 0..30 {
        assert_eq!(proxy.post(&hello()).status, 200);
    }
    assert_eq!(upstream.count("sk-ant-api03-paid"), 0, "the key costs money");
}

#[test]
fn t4_what_does_not_look_like_a_key_needs_force_when_piped() {
    let home = Home::new();
    let ran = home.run_with_input(&["login", "--api"], "ghp_something\n");
    assert_said(&ran, 1, &[]);
    assert!(ran.stderr.contains("maxpool login --api --force"), "{}", ran.stderr);
    let ran = home.run_with_input(&["login", "--api", "--force"], "ghp_something\n");
    assert_said(&ran, 0, &["added the API key account-1"]);
    let ran = home.run_with_input(&["login", "--token", "--name", "t"], "sk-ant-oat01-x\n");
    assert_said(&ran, 0, &["added the account t"]);
    let entry = home.read()["accounts"][1].clone();
    assert_eq!(entry["type"], "oauth");
    assert_eq!(
        (&entry["accessToken"], entry.get("refreshToken")),
        (&json!("sk-ant-oat01-x"), None)
    );
}

#[test]
fn s12_sessions_are_explained_by_the_ids_that_people_see() {
    let upstream = Upstream::start();
    let home = home(&upstream).accounts(&["a", "b"]);
    let proxy = start(&home);
    let id = "0f8d2a4e-6f0b-4c8e-9d55-7c1b1d2e3f40";
    let ask = Ask::messages(&hello()).header("x-claude-code-session-id", id);
    assert_eq!(proxy.ask(&ask).status, 200);
    let status = proxy.status();
    let decision = &status["decisions"][0];
    assert_eq!(decision["request"]["model"], hello()["model"]);
    let tag = decision["request"]["session"].as_str().expect("the session's id").to_owned();
    let owner = decision["chosen"].as_str().expect("an account").to_owned();
    proxy.wait_line("the request", |line| line.contains(&format!("session={tag}")));
    for session in [id, &tag] {
        let ran = home.run(&["explain", "--session", session]);
        assert_said(&ran, 0, &[&format!("goes to {owner}: "), &format!("session {tag}")]);
        let ran = home.run(&["explain", "--session", session, "--json"]);
        let told: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(ran.stdout.lines().count(), 1);
        assert_eq!((&told["request"]["session"], &told["why"]), (&json!(tag), &json!("home")));
    }
    assert_said(&home.run(&["explain", "--session", "nobody"]), 0, &["session nobody is unknown"]);
}

#[test]
fn doctor_says_first_whether_a_request_can_be_served() {
    let upstream = Upstream::start();
    let idle = home(&upstream).accounts(&["work"]).set("proxy.port", json!(NO_PORT));
    idle.write();
    let ran = idle.run(&["doctor"]);
    assert!(first_line(&ran).contains("cannot be served now: maxpool is not running"), "{ran:#?}");
    let home = home(&upstream).accounts(&["work"]);
    let proxy = start(&home);
    let ran = home.run(&["doctor"]);
    assert!(first_line(&ran).contains("can be served now, by work"), "{ran:#?}");
    upstream.always("key-work", quota("seven_day", Duration::from_secs(3 * 86_400)));
    proxy.post(&hello());
    let ran = home.run(&["doctor"]);
    assert_said(&ran, 1, &["work: weekly limit reached, back in 3d"]);
    assert!(first_line(&ran).contains("cannot be served now: "), "{ran:#?}");
    assert_said(&home.run(&["disable", "work"]), 0, &["disabled work"]);
    let ran = home.run(&["doctor"]);
    assert!(first_line(&ran).contains("all accounts are disabled; enable one with"), "{ran:#?}");
    assert_eq!(ran.status.code(), Some(1));
}

#[test]
fn doctor_finds_an_upstream_without_messages() {
    let upstream = Upstream::start();
    let home = |path: &str| Home::new().upstream(&format!("{}{path}", upstream.url()));
    let home = |path: &str| home(path).accounts(&["work"]);
    let wrong = home("/nowhere");
    wrong.write();
    let ran = wrong.run(&["doctor"]);
    assert_said(&ran, 1, &["/nowhere/v1/messages does not exist", "correct the upstream"]);
    let asked = upstream.requests().len();
    let joined = home("/v1");
    joined.write();
    joined.run(&["doctor"]);
    let paths: Vec<_> =
        upstream.requests()[asked..].iter().map(|request| request.path().to_owned()).collect();
    assert!(paths.iter().any(|path| path == "/v1/messages"), "joined once: {paths:?}");
}

#[test]
fn p13_usage_is_told_without_a_server() {
    let upstream = Upstream::start();
    let home = home(&upstream).accounts(&["a"]);
    assert_said(&home.run(&["usage"]), 0, &["no requests in the last 7 days"]);
    upstream.always("key-a", Answer::of(Message::text("hi").tokens(100, 20, 3, 4)));
    for round in 1..=2 {
        let mut proxy = start(&home);
        for _ in 0..2 {
            proxy.post(&hello()).assert_said("hi");
        }
        proxy.terminate();
        assert_eq!(proxy.wait_exit(), Some(0));
        let ran = home.run(&["usage", "--json"]);
        assert_said(&ran, 0, &[]);
        assert_eq!(ran.stdout.lines().count(), 1);
        let told: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let used = &told["usage"][0];
        assert_eq!(used["account"], "a");
        assert_eq!(used["requests"], 2 * round, "over a restart: {told}");
        assert_eq!(
            (&used["inputTokens"], &used["outputTokens"]),
            (&json!(200 * round), &json!(40 * round))
        );
        assert_eq!(told["total"]["requests"], 2 * round);
    }
    assert_said(&home.run(&["usage"]), 0, &["DAY", "total", "400"]);
}

#[test]
fn a_status_line_is_one_line_or_nothing() {
    let upstream = Upstream::start();
    let idle = Home::new().set("proxy.port", json!(NO_PORT));
    idle.write();
    let ran = idle.run(&["status", "--line"]);
    assert_eq!((ran.status.code(), &*ran.stdout, &*ran.stderr), (Some(0), "", ""));
    let home = home(&upstream).accounts(&["a", "b"]);
    let proxy = start(&home);
    proxy.post(&hello());
    let ran = home.run(&["status", "--line"]);
    assert_eq!(ran.stdout.lines().count(), 1);
    assert_said(&ran, 0, &["2 of 2 ready"]);
}

#[test]
fn d2_the_log_is_kept_in_a_file_that_can_be_rotated() {
    let upstream = Upstream::start();
    let home = home(&upstream).accounts(&["a"]);
    home.write();
    let file = home.path().join("maxpool.log");
    let path = file.display().to_string();
    let proxy = Proxy::spawn(home.command(&["server", "--plain", "--log-file", &path]));
    let holds = |file: &std::path::Path, words: &str| {
        std::fs::read_to_string(file).unwrap_or_default().contains(words).then_some(())
    };
    proxy.post(&hello());
    until("the request be in the file", || holds(&file, "POST /v1/messages"));
    std::fs::rename(&file, home.path().join("old.log")).expect("rotate");
    proxy.signal(Signal::HUP);
    until("the reload be in the new file", || holds(&file, "config reloaded"));
}

#[test]
fn what_is_misspelt_is_answered_with_the_nearest() {
    let home = Home::new().accounts(&["work", "spare"]).set("proxy.prot", json!(1));
    home.write();
    for (arguments, code, words) in [
        (&["staus"][..], 2, "did you mean status?"),
        (&["status", "--jsn"], 2, "did you mean --json?"),
        (&["enable", "wrok"], 1, "did you mean work?"),
        (&["use", "spar"], 1, "did you mean spare?"),
        (&["rename", "1", "x"], 1, "accounts are referred to by name"),
        (&["accounts"], 0, "proxy.prot (line 3; did you mean proxy.port?)"),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.status.code(), Some(code), "{ran:#?}");
        let said = ran.stderr.replace("line 4", "line 3");
        assert!(said.contains(words) || said.contains("did you mean proxy.port?"), "{ran:#?}");
    }
}

#[test]
fn a_misspelt_account_is_answered_so_by_the_running_server_too() {
    let upstream = Upstream::start();
    let home = home(&upstream).accounts(&["work", "spare"]);
    let _proxy = start(&home);
    for arguments in [&["enable", "wrok"][..], &["disable", "Work"], &["retry", "wor"]] {
        let ran = home.run(arguments);
        assert_eq!(ran.status.code(), Some(1), "{ran:#?}");
        assert!(ran.stderr.contains("did you mean work?"), "{ran:#?}");
    }
    assert!(home.run(&["use", "spar"]).stderr.contains("did you mean spare?"));
}

#[test]
fn run_says_what_to_do_when_claude_code_is_signed_in_to_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::start();
    let home = home(&upstream).accounts(&["a"]);
    let _proxy = start(&home);
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).expect("make a directory");
    std::fs::write(bin.join("claude"), "#!/bin/sh\nexit 7\n").expect("write a script");
    std::fs::set_permissions(bin.join("claude"), PermissionsExt::from_mode(0o755)).expect("mode");
    let run = || {
        let mut command = home.command(&["run"]);
        command.env("PATH", format!("{}:/bin:/usr/bin", bin.display()));
        crate::harness::home::finish(command, "")
    };
    let ran = run();
    assert_eq!(ran.status.code(), Some(7), "the exit status is claude's");
    assert!(ran.stderr.contains("maxpool env --with-key"), "{}", ran.stderr);
    std::fs::write(home.path().join(".claude.json"), r#"{"oauthAccount": {}}"#).expect("write");
    assert_eq!(run().stderr, "");
}
