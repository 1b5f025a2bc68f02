//! No credential appears anywhere (SPEC D4): after a long run with every kind of failure,
//! everything that the program wrote is searched for each of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::home::{KEY, epoch_ms};
use crate::harness::{Ask, Home, Proxy, hello, hello_stream, json, until};
use crate::upstream::oauth::Mode;
use crate::upstream::{Answer, Upstream, failures};

const OAUTH: [&str; 3] =
    ["sk-ant-oat01-AAAAaaaa0001", "sk-ant-ort01-BBBBbbbb0002", "sk-ant-oat01-CCCCcccc0003"];
const API_KEY: &str = "sk-ant-api03-DDDDdddd0004";
/// Without any shape that a mask could recognise.
const PROVIDER: &str = "77fe55aa.plainlooking0005";
const ZAI: &str = "zeta9f8e7d6c0006";
const KIMI: &str = "kappa1a2b3c4d0007";
/// The client's own credential, on a path that is relayed.
const CLIENT: &str = "sk-ant-oat01-EEEEeeee0008";
const PASSWORD: &str = "hunter2proxypassword0009";

fn secrets() -> Vec<&'static str> {
    let mut all = vec![
        API_KEY,
        PROVIDER,
        ZAI,
        KIMI,
        CLIENT,
        PASSWORD,
        KEY,
        "access-1",
        "refresh-1",
        "access-2",
        "refresh-2",
    ];
    all.extend(OAUTH);
    all
}

fn home(upstream: &Upstream) -> Home {
    Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .account(json!({"name": "login", "type": "oauth", "accessToken": OAUTH[0], "refreshToken": OAUTH[1], "expiresAt": epoch_ms() - 1000}))
        .account(json!({"name": "bare", "type": "oauth", "accessToken": OAUTH[2], "priority": 1}))
        .account(json!({"name": "key", "type": "apikey", "apiKey": API_KEY, "priority": 2}))
        .account(json!({"name": "own", "type": "provider", "provider": "deepseek", "authToken": PROVIDER, "upstream": upstream.url(), "priority": 30}))
        .set("queue.enabled", json!(false))
        .set("scheduler.cooldownMs", json!(50))
        .set("scheduler.networkCooldownMs", json!(50))
        .set("sync.accountsIntervalMs", json!(100))
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("list").flatten();
    let nested = entries
        .map(|entry| entry.path())
        .map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    nested.flatten().collect()
}

fn assert_clean(what: &str, text: &str) {
    for secret in secrets() {
        if let Some((before, after)) = text.split_once(secret) {
            let from = before.chars().rev().take(200).collect::<Vec<_>>();
            let from: String = from.into_iter().rev().collect();
            let to: String = after.chars().take(100).collect();
            panic!("{secret} is in {what}: …{from}[{secret}]{to}");
        }
    }
}

/// A refusal that repeats the credential it refuses, as some do.
fn echo(status: u16, kind: &str, secret: &str) -> Answer {
    Answer::error(status, kind, &format!("credential {secret} cannot do that (Bearer {secret})"))
}

#[test]
fn after_a_busy_life_with_every_failure_no_credential_is_anywhere() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    home.write();
    let logs = home.path().join("captured");
    let mut command =
        home.command(&["server", "--plain", "--log-to", logs.to_str().expect("a path")]);
    command.env("RUST_BACKTRACE", "full");
    let proxy = Proxy::spawn(command);
    let cmdline = std::fs::read_to_string(format!("/proc/{}/cmdline", proxy.pid())).expect("read");
    assert_clean("the command line", &cmdline);
    let mut replies = Vec::new();
    let mut all = |stream: bool| {
        let body = if stream { hello_stream() } else { hello() };
        let ask = Ask::messages(&body)
            .header("x-maxpool-profile", "all")
            .header("x-maxpool-zai-token", ZAI)
            .header("x-maxpool-zai-base-url", &upstream.url())
            .header("x-teamclaude-kimi-token", KIMI)
            .header("x-teamclaude-kimi-base-url", &upstream.url())
            .header("x-api-key", KEY)
            .header("cookie", "session=hunter2proxypassword0009");
        let reply = proxy.ask(&ask);
        replies.push(format!("{:?} {}", reply.headers, reply.text()));
    };
    // The token endpoint with one behaviour after another; it also repeats what it was sent.
    upstream.next("", Answer::json(429, &json!({"error": "slow_down", "error_description": format!("token {} came too often", OAUTH[1])}).to_string()));
    all(false);
    for mode in [Mode::Html, Mode::NoToken, Mode::RateLimited, Mode::InvalidGrant] {
        upstream.state().oauth.mode = mode;
        all(true);
    }
    // Each account in turn refuses with its credential in the message.
    let refusals = [
        (400, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
        (403, "permission_error"),
        (401, "authentication_error"),
    ];
    for (status, kind) in refusals {
        for secret in [OAUTH[2], API_KEY, PROVIDER, ZAI, KIMI] {
            if status != 400 {
                upstream.always(secret, echo(status, kind, secret));
            }
        }
        for stream in [false, true] {
            all(stream);
            std::thread::sleep(Duration::from_millis(60));
        }
    }
    for secret in [OAUTH[2], API_KEY, PROVIDER, ZAI, KIMI] {
        upstream.always(
            secret,
            failures::first_event_error("api_error", &format!("what is {secret}?")),
        );
    }
    all(true);
    for secret in [OAUTH[2], API_KEY, PROVIDER, ZAI, KIMI] {
        upstream.always(secret, failures::reset());
    }
    all(true);
    // A stream that breaks off with the credential in its last words.
    upstream.always(PROVIDER, Answer::message("half").at(3, crate::upstream::Step::Reset));
    all(true);
    upstream.state().oauth.mode = Mode::Rotate;
    upstream.state().oauth.grant("refresh-0");
    let mut config = home.read();
    config["accounts"][0]["refreshToken"] = json!("refresh-0");
    home.write_text(&config.to_string());
    proxy.signal(rustix::process::Signal::HUP);
    until("the new pair", || {
        all(false);
        (home.read()["accounts"][0]["accessToken"] == "access-1").then_some(())
    });
    // A relayed credential, a wrong key, a wrong path, a broken config.
    proxy.ask(
        &Ask::get("/api/oauth/claude_cli/client_data")
            .header("authorization", &format!("Bearer {CLIENT}")),
    );
    proxy.ask(&Ask::post(
        "/v1/oauth/token",
        &json!({"grant_type": "refresh_token", "refresh_token": CLIENT}),
    ));
    for target in ["/maxpool/status", "/maxpool/reload"] {
        proxy.ask(&Ask::post(target, &json!({})).header("x-api-key", PASSWORD));
    }
    let good = std::fs::read_to_string(home.config_path()).expect("read");
    home.write_text(&good.replacen("\"apiKey\"", "\"apiKey\" \"typo\"", 1));
    let reply = proxy.ask(&Ask::post("/maxpool/reload", &json!({})).header("x-api-key", KEY));
    replies.push(reply.text());
    let mut wrong = home_json(&good);
    wrong["upstreamProxy"] = json!(format!("http://user:{PASSWORD}@nowhere:port"));
    home.write_text(&wrong.to_string());
    replies
        .push(proxy.ask(&Ask::post("/maxpool/reload", &json!({})).header("x-api-key", KEY)).text());
    replies.push(home.run(&["accounts"]).stderr);
    home.write_text(&good);
    proxy.ask(&Ask::post("/maxpool/reload", &json!({})).header("x-api-key", KEY));
    // All output that shows anything.
    for target in [
        "/maxpool/status",
        "/maxpool/metrics?names=1",
        "/maxpool/explain?profile=all&session=s",
        "/maxpool/health",
        "/",
    ] {
        let reply = proxy.ask(&Ask::get(target).header("x-api-key", KEY));
        assert_eq!(reply.status, 200, "{target}");
        assert_clean(target, &reply.text());
    }
    for arguments in [
        &["accounts", "-v"][..],
        &["accounts", "--json"],
        &["env"],
        &["doctor"],
        &["api", "/v1/nothing", "--account", "own"],
        &["api", "/v1/messages", "--account", "bare", "--data", "{}"],
    ] {
        let ran = home.run(arguments);
        // The output of `api` is the upstream's answer itself, which repeats credentials only in
        // this test.
        let shown = if arguments[0] == "api" {
            ran.stderr
        } else {
            format!("{}{}", ran.stdout, ran.stderr)
        };
        assert_clean(&format!("{arguments:?}"), &shown);
    }
    for reply in &replies {
        assert_clean("an answer", reply);
    }
    proxy.terminate();
    let mut proxy = proxy;
    proxy.wait_exit();
    assert_clean("the log", &proxy.log().join("\n"));
    assert_clean("stdout", &proxy.printed().join("\n"));
    let mut looked_at = 0;
    for path in files(home.path()) {
        // The config itself and the copy from before the first change.
        if path == home.config_path() || path.ends_with("maxpool.json.before-2.0") {
            continue;
        }
        assert_clean(
            &path.display().to_string(),
            &String::from_utf8_lossy(&std::fs::read(&path).expect("read")),
        );
        looked_at += 1;
    }
    assert!(looked_at > 20, "the captured requests, the state and the lock: {looked_at}");
    assert!(proxy.log().len() > 30, "a busy life: {:#?}", proxy.log());
}

fn home_json(text: &str) -> crate::harness::Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_key_from_stdin_is_in_no_argument_and_no_output() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).logins(&upstream.url());
    home.write();
    let ran = home.run_with_input(&["login", "--api", "--name", "work"], &format!("{API_KEY}\n"));
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert_clean("what it printed", &format!("{}{}", ran.stdout, ran.stderr));
    assert_eq!(home.read()["accounts"][0]["apiKey"], API_KEY);
    let ran = home.run(&["login", "--api", API_KEY]);
    assert_eq!(ran.status.code(), Some(2), "never argv: {ran:?}");
    assert_clean("the complaint", &format!("{}{}", ran.stdout, ran.stderr));
}
