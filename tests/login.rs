//! Adding and changing accounts (SPEC T1, T3, T4, A5, section 8): the real commands, a scripted
//! authorize page and token endpoint, and a raw client as the browser, with and without a running
//! server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;

use crate::harness::home::epoch_ms;
use crate::harness::{
    Ask, Client, Home, PATIENCE, Proxy, Ran, Reply, Value, hello, hello_stream, json, oauth,
    provider, until,
};
use crate::upstream::oauth::{Mode, profile};
use crate::upstream::{Answer, Step, Upstream, failures};

/// A `maxpool login` that waits for the browser.
struct Login {
    child: Child,
    stderr: mpsc::Receiver<String>,
    said: Vec<String>,
    url: String,
}

impl Login {
    fn start(home: &Home, arguments: &[&str]) -> Login {
        let mut child = home.command(arguments).spawn().expect("start the program");
        let pipe = child.stderr.take().expect("its stderr");
        let (told, stderr) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _gone = told.send(line);
            }
        });
        let mut login = Login { child, stderr, said: Vec::new(), url: String::new() };
        login.url = login.hear("/oauth/authorize?").trim().to_owned();
        login
    }

    /// Waits for a line that contains this.
    fn hear(&mut self, part: &str) -> String {
        loop {
            let line = self
                .stderr
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("never said {part}: {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    fn query(&self, name: &str) -> String {
        let query = self.url.split_once('?').expect("a query").1;
        let pair = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(have, _)| *have == name);
        pair.unwrap_or_else(|| panic!("no {name} in {}", self.url))
            .1
            .replace("%3A", ":")
            .replace("%2F", "/")
            .replace("%20", " ")
    }

    fn port(&self) -> u16 {
        let uri = self.query("redirect_uri");
        let port =
            uri.strip_prefix("http://localhost:").and_then(|rest| rest.strip_suffix("/callback"));
        port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("redirect_uri is {uri}"))
    }

    /// Sends the browser back from the authorize page with this query; returns the page that is
    /// shown.
    fn come_back(&self, query: &str) -> Reply {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()));
        Client::connect(address).ask(&Ask::get(&format!("/callback?{query}")))
    }

    fn end(mut self) -> Ran {
        let status = until("the login end", || self.child.try_wait().expect("wait"));
        let mut stdout = String::new();
        self.child.stdout.take().expect("its stdout").read_to_string(&mut stdout).expect("read");
        self.said.extend(self.stderr.iter());
        Ran { status, stdout, stderr: self.said.join("\n") }
    }
}

fn home_of(upstream: &Upstream) -> Home {
    let home = Home::new().upstream(&upstream.url()).logins(&upstream.url());
    upstream
        .state()
        .oauth
        .profiles
        .insert("access-1".to_owned(), profile("uuid-1", "me@example.org", "org-1"));
    home
}

/// A fixed port, for programs that find each other through the file; outside the range of ephemeral
/// ports.
fn free_port() -> u16 {
    // Tests that run concurrently must not use the same one.
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 9_000).expect("below 9000");
    loop {
        let port = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        assert!(port < 20_000, "a free port");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[test]
fn a_login_ends_with_a_page_an_account_and_a_line() {
    let upstream = Upstream::start();
    let home = home_of(&upstream);
    home.write();
    let mut login = Login::start(&home, &["login"]);
    for (name, value) in [
        ("code", "true"),
        ("client_id", "9d1c250a-e61b-44d9-88ed-5944d1962f5e"),
        ("response_type", "code"),
        ("code_challenge_method", "S256"),
        (
            "scope",
            "org:create_api_key user:profile user:inference user:sessions:claude_code user:mcp_servers user:file_upload",
        ),
    ] {
        assert_eq!(login.query(name), value);
    }
    assert!(
        login.query("state").len() == 43 && login.query("code_challenge").len() == 43,
        "32 bytes each"
    );
    // Both loopback address families answer.
    let six = TcpStream::connect((Ipv6Addr::LOCALHOST, login.port()));
    assert!(six.is_ok() || !std::path::Path::new("/proc/net/if_inet6").exists());
    let (state, port) = (login.query("state"), login.port());
    // Other requests of a browser do not count as the callback.
    let odd = Client::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .ask(&Ask::get("/favicon.ico"));
    assert_eq!(odd.status, 400);
    let wrong = login.come_back("code=stolen-code-000000&state=another");
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.text().contains("Not logged in") && wrong.text().contains("another login attempt"),
        "{}",
        wrong.text()
    );
    login.hear("another login attempt");
    let page = login.come_back(&format!("code=good-code-0123456789&state={state}"));
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(
        page.text().contains("Logged in") && page.text().contains("me@example.org"),
        "{}",
        page.text()
    );
    assert!(
        !page.text().contains("access-1") && !page.text().contains("good-code"),
        "{}",
        page.text()
    );
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let ran = login.end();
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(ran.stdout.contains("me@example.org") && ran.stdout.lines().count() == 1, "{ran:?}");
    assert!(ran.stderr.contains("no account picker"), "{ran:?}");
    let exchange = upstream.state().oauth.exchanges[0].clone();
    assert_eq!(upstream.state().oauth.exchanges.len(), 1, "the stolen code was never sent");
    assert_eq!(
        (&exchange["grant_type"], &exchange["code"]),
        (&json!("authorization_code"), &json!("good-code-0123456789"))
    );
    assert_eq!(
        (&exchange["state"], &exchange["redirect_uri"]),
        (&json!(state), &json!(format!("http://localhost:{port}/callback")))
    );
    assert!(exchange["code_verifier"].as_str().is_some_and(|verifier| verifier.len() == 43));
    let token_call = upstream
        .requests()
        .into_iter()
        .find(|request| request.path() == "/v1/oauth/token")
        .expect("an exchange");
    assert!(token_call.header("user-agent").is_some_and(|agent| agent.starts_with("maxpool/")));
    let account = home.read()["accounts"][0].clone();
    for (key, value) in [
        ("name", "me@example.org"),
        ("type", "oauth"),
        ("accessToken", "access-1"),
        ("refreshToken", "refresh-1"),
        ("accountUuid", "uuid-1"),
        ("orgUuid", "org-1"),
    ] {
        assert_eq!(account[key], value, "{account:#}");
    }
    assert!(account["expiresAt"].as_u64().is_some_and(|at| at > epoch_ms() + 7 * 3_600_000));
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "the port is closed");
    // The same identity is the same account.
    upstream
        .state()
        .oauth
        .profiles
        .insert("access-2".to_owned(), profile("uuid-1", "me@example.org", "org-1"));
    let again = Login::start(&home, &["login"]);
    again.come_back(&format!("code=good-code-0123456789&state={}", again.query("state")));
    let ran = again.end();
    assert!(ran.stdout.contains("updated") && ran.status.code() == Some(0), "{ran:?}");
    let accounts = home.read()["accounts"].clone();
    assert_eq!(
        (accounts.as_array().map(Vec::len), &accounts[0]["accessToken"]),
        (Some(1), &json!("access-2"))
    );
    // The same e-mail address in another organisation is another account.
    upstream
        .state()
        .oauth
        .profiles
        .insert("access-3".to_owned(), profile("uuid-1", "me@example.org", "org-2"));
    let other = Login::start(&home, &["login"]);
    other.come_back(&format!("code=good-code-0123456789&state={}", other.query("state")));
    assert_eq!(other.end().status.code(), Some(0));
    let accounts = home.read()["accounts"].clone();
    assert_eq!(accounts.as_array().map(Vec::len), Some(2), "{accounts:#}");
    assert_eq!(accounts[1]["name"], "me@example.org (Some's Organization)");
}

/// Sends bytes to the login's port and reads until `enough` is true or nothing more arrives.
fn send_raw(port: u16, bytes: &[u8], enough: impl Fn(&str) -> bool) -> (TcpStream, String) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream.write_all(bytes).expect("send");
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !enough(&String::from_utf8_lossy(&answer)) {
        match stream.read(&mut piece) {
            Ok(count @ 1..) => answer.extend(&piece[..count]),
            Ok(0) | Err(_) => break,
        }
    }
    (stream, String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn odd_clients_of_a_login_get_400_and_do_not_hold_it_up() {
    let upstream = Upstream::start();
    let home = home_of(&upstream);
    home.write();
    let login = Login::start(&home, &["login"]);
    let (state, port) = (login.query("state"), login.port());
    let good = format!("/callback?code=good-code-0123456789&state={state}");
    // One client in the middle of a head, one with another protocol, one with TLS; further ones
    // might have to wait for these to end.
    let mut open: Vec<TcpStream> = Vec::new();
    for bytes in [
        &b"GET /callback?code="[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ] {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
        (&stream).write_all(bytes).expect("send");
        open.push(stream);
    }
    let rows = [
        ("no path", "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("no query", "GET /callback HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("a path below", format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", good.replace('?', "/?"))),
        ("no GET", format!("HEAD {good} HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("no GET", format!("POST {good} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}")),
        (
            "a body that does not come",
            format!("GET {good} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"),
        ),
        (
            "a body that is not sent yet",
            format!(
                "POST {good} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            ),
        ),
        (
            "a body that nobody can hold",
            format!(
                "POST {good} HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n"
            ),
        ),
        ("chunks", format!("GET {good} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ("no request", "hello\r\n\r\n".to_owned()),
        (
            "no state",
            "GET /callback?code=good-code-0123456789 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        ),
        ("no code", format!("GET /callback?state={state} HTTP/1.1\r\nHost: x\r\n\r\n")),
    ];
    for (what, request) in rows {
        let is_head = |answer: &str| answer.contains("\r\n\r\n");
        let (stream, answer) = send_raw(port, request.as_bytes(), is_head);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer:?}");
        open.push(stream);
    }
    let page = login.come_back(&format!("code=good-code-0123456789&state={state}"));
    assert_eq!(page.status, 200, "{}", page.text());
    let ran = login.end();
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert_eq!(upstream.state().oauth.exchanges.len(), 1);
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    drop(open);
}

#[test]
fn a_login_that_is_denied_or_cannot_be_finished_changes_nothing() {
    let upstream = Upstream::start();
    let home = home_of(&upstream);
    home.write();
    let before = std::fs::read(home.config_path()).expect("read");
    let rows = [
        ("denied", "error=access_denied&error_description=The+user+said+%3Cb%3Eno%3C%2Fb%3E", None),
        (
            "a used code",
            "code=good-code-0123456789",
            Some(Answer::json(
                400,
                r#"{"error":"invalid_grant","error_description":"code good-code-0123456789 was used"}"#,
            )),
        ),
        ("the endpoint fails", "code=good-code-0123456789", Some(failures::server_error(500))),
        ("HTML", "code=good-code-0123456789", Some(Answer::bytes(200, b"<html>"))),
        ("a reset", "code=good-code-0123456789", Some(Answer::raw([Step::Reset]))),
    ];
    for (what, query, answer) in rows {
        if let Some(answer) = answer {
            upstream.next("", answer);
        }
        let login = Login::start(&home, &["login", "--name", "mine"]);
        let page = login.come_back(&format!("{query}&state={}", login.query("state")));
        assert_eq!(page.status, 400, "{what}: {}", page.text());
        assert!(page.text().contains("Not logged in"), "{what}: {}", page.text());
        assert!(
            !page.text().contains("<b>no") && !page.text().contains("good-code"),
            "{what}: {}",
            page.text()
        );
        let ran = login.end();
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(1), ""), "{what}: {ran:?}");
        assert!(!ran.stderr.contains("good-code"), "{what}: {ran:?}");
        assert_eq!(std::fs::read(home.config_path()).expect("read"), before, "{what}");
    }
}

#[test]
fn a_login_without_a_readable_profile_has_a_name_of_its_own() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).logins(&upstream.url());
    home.write();
    for (arguments, name) in [(&["login"][..], "account-1"), (&["login", "--name", "mine"], "mine")]
    {
        let login = Login::start(&home, arguments);
        login.come_back(&format!("code=good-code-0123456789&state={}", login.query("state")));
        let ran = login.end();
        assert_eq!(ran.status.code(), Some(0), "{ran:?}");
        assert!(ran.stdout.contains(name) && ran.stderr.contains("profile"), "{ran:?}");
    }
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let upstream = Upstream::start();
    let home = home_of(&upstream);
    home.write();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(home.path())
            .expect("list")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        names
    };
    let before = (names(), std::fs::read(home.config_path()).expect("read"));
    let mut login = Login::start(&home, &["login"]);
    let port = login.port();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&login.child),
        rustix::process::Signal::INT,
    )
    .expect("signal");
    let status = until("its end", || login.child.try_wait().expect("wait"));
    assert_ne!(status.code(), Some(0));
    assert_eq!((names(), std::fs::read(home.config_path()).expect("read")), before);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn a_browser_is_opened_and_a_code_can_be_pasted_on_a_terminal() {
    let upstream = Upstream::start();
    let home = home_of(&upstream);
    home.write();
    let tools = tool(
        &home,
        "xdg-open",
        "printf %s \"$1\" > \"$HOME/opened.tmp\"; mv \"$HOME/opened.tmp\" \"$HOME/opened\"",
    );
    let mut command = home.command(&[]);
    let login = format!("{} login", crate::harness::home::program().display());
    // The command needs a terminal.
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &login, "/dev/null"]).env_clear();
    for (name, value) in command.stdin(Stdio::null()).get_envs() {
        if let Some(value) = value {
            script.env(name, value);
        }
    }
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let spawned = script
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("skipped: there is no script(1) to lend a terminal");
        return;
    };
    let opened = until("the browser", || std::fs::read_to_string(home.path().join("opened")).ok());
    let state = opened.split("state=").nth(1).expect("a state").to_owned();
    let mut terminal = child.stdin.take().expect("its terminal");
    // Another site's address, a stray word, then the code as the provider's own page shows it.
    for line in [
        "http://localhost:1/callback?code=good-code-0123456789&state=other",
        "what",
        &format!("good-code-0123456789#{state}"),
    ] {
        writeln!(terminal, "{line}").expect("type");
        terminal.flush().expect("type");
    }
    let status = until("the login end", || child.try_wait().expect("wait"));
    let mut said = String::new();
    child.stdout.take().expect("its screen").read_to_string(&mut said).expect("read");
    assert_eq!(status.code(), Some(0), "{said}");
    for part in ["paste", "another login attempt", "neither", "added the account me@example.org"] {
        assert!(said.contains(part), "no {part}: {said}");
    }
    assert_eq!(upstream.state().oauth.exchanges.len(), 1);
    assert_eq!(home.read()["accounts"][0]["accessToken"], "access-1");
}

/// An executable with this name in its own directory, for `PATH`.
fn tool(home: &Home, name: &str, script: &str) -> PathBuf {
    let directory = home.path().join("tools");
    std::fs::create_dir_all(&directory).expect("make a directory");
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    directory
}

#[test]
fn a_running_server_takes_a_new_login_up_at_once() {
    let upstream = Upstream::start();
    let mut dead = oauth("dead");
    dead["accountUuid"] = json!("uuid-1");
    dead["orgUuid"] = json!("org-1");
    upstream.always("token-dead", failures::token_expired());
    let home = home_of(&upstream)
        .account(dead)
        .set("queue.enabled", json!(false))
        .set("proxy.port", json!(free_port()))
        .set("sync.accountsIntervalMs", json!(3_600_000));
    let proxy = Proxy::start(&home);
    upstream.state().oauth.mode = Mode::InvalidGrant;
    proxy.post(&hello()).assert_error(502, "account_auth_error");
    assert_eq!(proxy.account("dead")["status"], "error");
    let login = Login::start(&home, &["login"]);
    login.come_back(&format!("code=good-code-0123456789&state={}", login.query("state")));
    let ran = login.end();
    assert!(ran.stdout.contains("updated the account dead"), "{ran:?}");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(proxy.account("dead")["status"], "active");
    assert_eq!(upstream.order().pop().as_deref(), Some("access-1"));
}

#[test]
fn import_copies_what_claude_code_has_and_warns_once() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).logins(&upstream.url());
    upstream
        .state()
        .oauth
        .profiles
        .insert("cli-access".to_owned(), profile("uuid-9", "cli@example.org", "org-9"));
    home.write();
    let ran = home.run(&["import"]);
    assert_eq!(
        (ran.status.code(), ran.stdout.as_str()),
        (Some(1), ""),
        "there is none yet: {ran:?}"
    );
    // The layout that Claude Code 2.1 writes on Linux.
    let credentials = json!({"claudeAiOauth": {
        "accessToken": "cli-access", "refreshToken": "cli-refresh", "expiresAt": epoch_ms() + 3_600_000,
        "scopes": ["user:inference", "user:profile"], "subscriptionType": "max", "rateLimitTier": "default_claude_max_20x",
    }});
    std::fs::create_dir(home.path().join(".claude")).expect("make a directory");
    std::fs::write(home.path().join(".claude/.credentials.json"), credentials.to_string())
        .expect("write");
    for (arguments, word) in [(&["import"][..], "added"), (&["import"], "updated")] {
        let ran = home.run(arguments);
        assert_eq!(ran.status.code(), Some(0), "{ran:?}");
        assert!(ran.stdout.contains(word) && ran.stdout.contains("cli@example.org"), "{ran:?}");
        assert_eq!(
            ran.stderr.lines().filter(|line| line.contains("maxpool login")).count(),
            1,
            "{ran:?}"
        );
    }
    let account = home.read()["accounts"][0].clone();
    assert_eq!(
        (&account["accessToken"], &account["refreshToken"]),
        (&json!("cli-access"), &json!("cli-refresh"))
    );
    let flat = json!({"accessToken": "flat-access", "refreshToken": "flat-refresh"}).to_string();
    let ran = home.run(&["import", "--json", &flat, "--name", "flat"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert_eq!(home.read()["accounts"][1]["name"], "flat");
    for broken in ["{", "{}", r#"{"claudeAiOauth":{"accessToken":7}}"#] {
        let before = home.read();
        let ran = home.run(&["import", "--json", broken]);
        assert_eq!(ran.status.code(), Some(1), "{broken}: {ran:?}");
        assert_eq!(home.read(), before);
    }
}

#[test]
fn commands_give_the_same_file_with_a_server_and_without() {
    let upstream = Upstream::start();
    let port = free_port();
    let make = || {
        home_of(&upstream)
            .accounts(&["a", "b"])
            .account(json!({"name": "c d", "type": "oauth", "accessToken": "t", "refreshToken": "r", "expiresAt": 1_999_999_999_999_u64, "note": "mine"}))
            .account(provider("glm", "zai", &upstream.url()))
            .set("proxy.port", json!(port))
            .set("zebra", json!({"x": 1}))
            .set("sync.accountsIntervalMs", json!(3_600_000))
    };
    let commands: [&[&str]; 12] = [
        &["disable", "a"],
        &["enable", "a"],
        &["priority", "b", "7"],
        &["use", "c d"],
        &["rename", "c d", "e"],
        &["disable", "e"],
        &["enable", "e"],
        &["use", "b"],
        &["use", "--auto"],
        &["disable", "glm"],
        &["remove", "b"],
        &["priority", "glm", "33"],
    ];
    let wrong: [&[&str]; 6] = [
        &["disable", "nobody"],
        &["use", "glm"],
        &["rename", "a", "e"],
        &["remove", "nobody"],
        &["priority", "nobody", "1"],
        &["use", "nobody"],
    ];
    let (alone, served) = (make(), make());
    alone.write();
    served.write();
    for command in commands {
        let ran = alone.run(command);
        assert_eq!(ran.status.code(), Some(0), "{command:?}: {ran:?}");
    }
    for command in wrong {
        let ran = alone.run(command);
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(1), ""), "{command:?}: {ran:?}");
    }
    let proxy = Proxy::start_as_is(&served);
    for command in commands {
        let ran = served.run(command);
        assert_eq!(ran.status.code(), Some(0), "{command:?}: {ran:?}");
        assert_eq!(ran.stdout.lines().count(), 1, "{command:?}: {ran:?}");
    }
    for command in wrong {
        let ran = served.run(command);
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(1), ""), "{command:?}: {ran:?}");
    }
    let text = |home: &Home| std::fs::read_to_string(home.config_path()).expect("read");
    assert_eq!(text(&served), text(&alone));
    // The server has applied all changes.
    let status = proxy.status();
    let mut accounts: Vec<_> = status["accounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|account| {
            (account["name"].clone(), account["enabled"].clone(), account["priority"].clone())
        })
        .collect();
    // Without a UUID, a new name is a new identity (A4), which comes last.
    accounts.sort_by_key(|(name, ..)| name.to_string());
    assert_eq!(
        accounts,
        [
            (json!("a"), json!(true), json!(0)),
            (json!("e"), json!(true), json!(0)),
            (json!("glm"), json!(false), json!(33))
        ]
    );
}

#[test]
fn remove_lets_a_running_account_finish() {
    let upstream = Upstream::start();
    let home = home_of(&upstream).accounts(&["a", "b"]).set("proxy.port", json!(free_port()));
    let proxy = Proxy::start(&home);
    let gate = upstream.gate();
    upstream.next("key-a", Answer::message("to the end").at(2, Step::Hold(gate.clone())));
    let mut client = proxy.connect();
    let ask = Ask::messages(&hello_stream());
    client.send_ask(&ask);
    upstream.wait_requests(1);
    let ran = home.run(&["remove", "a"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    gate.open();
    client.read_reply(&ask).assert_said("to the end");
    assert_eq!(upstream.order(), ["key-a", "key-b", "key-b", "key-b"]);
    proxy.wait_status("it be gone", |status| {
        status["accounts"].as_array().is_some_and(|list| list.len() == 1)
    });
}

#[test]
fn api_calls_with_an_accounts_credential_its_own_upstream_only() {
    let claude = Upstream::start();
    let own =
        Upstream::with(|request| Answer::json(200, &json!({"path": request.target}).to_string()));
    let mut expired = oauth("login");
    expired["expiresAt"] = json!(epoch_ms() - 1000);
    claude.state().oauth.grant("refresh-login");
    let home = home_of(&claude).account(expired).accounts(&["k"]).account(provider(
        "p",
        "deepseek",
        &format!("{}/anthropic", own.url()),
    ));
    home.write();
    let ran = home.run(&["api", "/v1/models"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(serde_json::from_str::<Value>(&ran.stdout).is_ok(), "{ran:?}");
    let request = claude.requests().pop().expect("a request");
    assert_eq!(
        (request.credential(), request.header("anthropic-beta")),
        ("access-1", Some("oauth-2025-04-20"))
    );
    assert_eq!(
        home.read()["accounts"][0]["refreshToken"],
        "refresh-1",
        "a renewed token is stored"
    );
    let ran = home.run(&["api", "/v1/x?y=1", "--account", "p", "--data", "{\"a\":1}"]);
    assert_eq!(
        (ran.status.code(), ran.stdout.trim()),
        (Some(0), r#"{"path":"/anthropic/v1/x?y=1"}"#),
        "{ran:?}"
    );
    let request = own.only_request();
    assert_eq!(
        (request.method.as_str(), request.credential(), request.body.as_slice()),
        ("POST", "provider-p", &b"{\"a\":1}"[..])
    );
    let ran = home.run(&["api", "/v1/nothing", "--account", "k"]);
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(ran.stdout.contains("not_found_error") && ran.stderr.contains("404"), "{ran:?}");
    for arguments in [
        &["api", "http://127.0.0.1:9/v1/models"][..],
        &["api", "//127.0.0.1:9/x"],
        &["api", "@127.0.0.1:9/"],
        &["api", "v1/models"],
        &["api", "/v1/models", "--account", "nobody"],
    ] {
        let count = claude.requests().len();
        let ran = home.run(arguments);
        let strayed =
            claude.requests()[count..].iter().any(|request| !request.path().starts_with('/'));
        assert!(ran.status.code() != Some(0) && !strayed, "{arguments:?}: {ran:?}");
    }
}

#[test]
fn run_becomes_the_client_and_keeps_its_exit_status() {
    let upstream = Upstream::start();
    let home = home_of(&upstream).accounts(&["a"]).set("proxy.port", json!(free_port()));
    let tools = tool(
        &home,
        "claude",
        "echo \"$ANTHROPIC_BASE_URL|$API_TIMEOUT_MS|$ANTHROPIC_CUSTOM_HEADERS|$ANTHROPIC_API_KEY|$*\"; exit 7",
    );
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = home.command(arguments);
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).envs(variables.iter().copied());
        crate::harness::home::finish(command, "")
    };
    home.write();
    let ran = run(&["run"], &[]);
    assert_eq!(ran.status.code(), Some(1), "no server: {ran:?}");
    assert!(ran.stderr.contains("maxpool server"), "{ran:?}");
    let proxy = Proxy::start_as_is(&home);
    let ran = run(&["run", "--", "-p", "a b", "--help"], &[]);
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    let expected = format!(
        "http://{}|86400000|x-maxpool-client-stream-idle-ms: 86400000||-p a b --help",
        proxy.address()
    );
    assert_eq!(ran.stdout.trim(), expected);
    let ran = run(
        &["run", "--version"],
        &[("API_TIMEOUT_MS", "5000"), ("ANTHROPIC_CUSTOM_HEADERS", "x-a: b")],
    );
    let expected = format!(
        "http://{}|5000|x-a: b\nx-maxpool-client-stream-idle-ms: 5000||--version",
        proxy.address()
    );
    assert_eq!(ran.stdout.trim(), expected, "{ran:?}");
}
