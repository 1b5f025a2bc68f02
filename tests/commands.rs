//! The command line (SPEC section 8): results on stdout, everything else on stderr, exit 0, 1 or 2.

use crate::harness::{Home, Proxy, Ran, Value, hello, json, oauth, provider};
use crate::upstream::Upstream;

fn assert_ok(ran: &Ran) {
    assert_eq!(ran.status.code(), Some(0), "{ran:#?}");
}

/// A fixed port, for programs that must find each other through the file; outside the range of
/// ephemeral ports.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).expect("below 10000");
    let free =
        (first..32_000).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("a free port")
}

#[test]
fn version_and_help_go_to_stdout() {
    let home = Home::new();
    for arguments in [&["--version"][..], &["-V"], &["version"]] {
        let ran = home.run(arguments);
        assert_ok(&ran);
        assert_eq!(ran.stdout.trim(), format!("maxpool {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(ran.stderr, "");
    }
    for arguments in [&["--help"][..], &["-h"], &["help"]] {
        let ran = home.run(arguments);
        assert_ok(&ran);
        for command in ["server", "status", "env", "accounts", "help", "--plain", "--json"] {
            assert!(ran.stdout.contains(command), "no {command} in: {}", ran.stdout);
        }
        assert_eq!(ran.stderr, "");
        assert!(!ran.stdout.contains('\u{1b}'), "colour only on a terminal");
    }
    for command in ["server", "status", "env", "accounts"] {
        let ran = home.run(&[command, "--help"]);
        assert_ok(&ran);
        assert!(ran.stdout.contains(command), "{}", ran.stdout);
    }
    assert!(!home.config_path().exists(), "asking for help makes no file");
}

#[test]
fn wrong_usage_is_2_and_says_what_to_do() {
    let home = Home::new();
    home.write();
    for arguments in [
        &["serve"][..],
        &["--nonsense"],
        &["server", "--log"],
        &["server", "extra"],
        &["status", "--jso"],
        &["server", "--log-to"],
        &["env", "--with-key=yes"],
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}: {ran:#?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert!(ran.stderr.contains("help"), "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
}

#[test]
fn env_prints_exports_and_nothing_else() {
    let home = Home::new().set("proxy.port", json!(3999));
    home.write();
    let ran = home.run(&["env"]);
    assert_ok(&ran);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines.contains(&"export ANTHROPIC_BASE_URL=http://127.0.0.1:3999"), "{lines:#?}");
    assert!(
        lines.iter().all(|line| line.starts_with("export ") && line.contains('=')),
        "{lines:#?}"
    );
    assert!(!ran.stdout.contains("KEY"), "{}", ran.stdout);
    for name in ["CLAUDE_STREAM_IDLE_TIMEOUT_MS", "API_TIMEOUT_MS"] {
        assert!(
            lines.contains(&format!("export {name}=86400000").as_str()),
            "no {name}: {lines:#?}"
        );
    }
    let ran = home.run(&["env", "--with-key"]);
    assert_ok(&ran);
    let export = format!("export ANTHROPIC_API_KEY={}", crate::harness::home::KEY);
    assert!(ran.stdout.lines().any(|line| line == export), "{}", ran.stdout);
}

#[test]
fn what_env_prints_is_understood_by_a_shell() {
    let home = Home::new().set("proxy.host", json!("::1")).set("proxy.port", json!(3999));
    home.write();
    let ran = home.run(&["env"]);
    assert_ok(&ran);
    let script = format!("{}\nprintf %s \"$ANTHROPIC_BASE_URL\"", ran.stdout);
    let shell = std::process::Command::new("sh").args(["-c", &script]).output().expect("run sh");
    assert_eq!(String::from_utf8_lossy(&shell.stdout), "http://[::1]:3999");
}

#[test]
fn accounts_lists_and_changes_nothing() {
    let home = Home::new();
    home.write();
    let ran = home.run(&["accounts"]);
    assert_ok(&ran);
    assert!(ran.stdout.contains("no accounts"), "{ran:#?}");
    let home = Home::new()
        .accounts(&["plain"])
        .account(oauth("login"))
        .account(provider("glm", "zai", "http://127.0.0.1:9"))
        .set("accounts.0.priority", json!(7));
    home.write();
    let before = std::fs::read(home.config_path()).expect("read");
    let ran = home.run(&["accounts"]);
    assert_ok(&ran);
    for word in ["plain", "login", "glm", "apikey", "oauth", "provider", "7", "10"] {
        assert!(ran.stdout.contains(word), "no {word} in: {}", ran.stdout);
    }
    let ran = home.run(&["accounts", "-v"]);
    assert_ok(&ran);
    assert!(
        ran.stdout.contains("expires in 1d") || ran.stdout.contains("expires in 23h"),
        "{}",
        ran.stdout
    );
    let ran = home.run(&["accounts", "--json"]);
    assert_ok(&ran);
    let list: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let names = list.as_array().or_else(|| list["accounts"].as_array()).expect("a list");
    assert_eq!(
        names.iter().filter_map(|account| account["name"].as_str()).collect::<Vec<_>>(),
        ["plain", "login", "glm"]
    );
    assert_eq!(std::fs::read(home.config_path()).expect("read"), before);
}

#[test]
fn status_asks_the_running_proxy() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["alpha"])
        .set("proxy.port", json!(free_port()));
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let ran = home.run(&["status"]);
    assert_ok(&ran);
    assert!(ran.stdout.contains("alpha"), "{}", ran.stdout);
    let ran = home.run(&["status", "--json"]);
    assert_ok(&ran);
    let status: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(status["accounts"][0]["name"], "alpha");
    drop(proxy);
    let ran = home.run(&["status"]);
    assert_eq!(ran.status.code(), Some(1));
    assert_eq!(ran.stdout, "");
    assert!(
        ran.stderr.contains("maxpool server") || ran.stderr.contains("not running"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let home = Home::new();
    home.write();
    let shell = format!("'{}' help | true", crate::harness::home::program().display());
    let output = std::process::Command::new("sh").args(["-c", &shell]).output().expect("run sh");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
