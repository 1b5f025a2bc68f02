//! Config changes by commands, with and without a server.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::testing::scratch::Scratch;

const CONFIG: &str = r#"{
  "proxy": {"port": PORT, "apiKey": "mp-key"},
  "routing": {"mode": "preferred", "preferredAccount": "work"},
  "mine": [1],
  "accounts": [
    {"name": "work", "type": "apikey", "apiKey": "SECRET"},
    {"name": "old", "type": "apikey", "apiKey": "SECRET", "enabled": false, "x": 1},
    {"name": "glm", "type": "provider", "provider": "zai", "authToken": "SECRET"}
  ]
}
"#;

/// Applies the change to a file whose server would listen on `port`; returns the result, stdout,
/// stderr and the file.
fn changed(port: u16, change: &Change) -> (Result<()>, String, String, Value) {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    std::fs::write(&file, CONFIG.replace("PORT", &port.to_string())).unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let variable = |name: &str| (name == "MAXPOOL_CONFIG").then(|| OsString::from(&file));
    let result = apply(&mut Context::for_tests(&mut stdout, &mut stderr, &variable), change);
    let document = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    (result, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), document)
}

fn enabled(name: &str, enabled: bool) -> Change {
    Change::Enabled { name: name.to_owned(), enabled }
}

fn renamed(name: &str, new: &str) -> Change {
    Change::Rename { name: name.to_owned(), new: new.to_owned() }
}

fn preferred(name: &str) -> Change {
    Change::Use { name: Some(name.to_owned()) }
}

#[test]
fn c_without_a_server_the_file_is_changed() {
    let routing = |mode: &str, account: Value| json!({"mode": mode, "preferredAccount": account});
    for (change, said, pointer, value) in [
        (enabled("old", true), "enabled old\n", "/accounts/1/enabled", json!(true)),
        (enabled("glm", false), "disabled glm\n", "/accounts/2/enabled", json!(false)),
        (enabled("work", false), "disabled work\n", "/routing", routing("automatic", Value::Null)),
        (
            Change::Remove { name: "work".to_owned() },
            "removed work\n",
            "/accounts/0/name",
            json!("old"),
        ),
        (
            Change::Remove { name: "work".to_owned() },
            "removed work\n",
            "/routing/mode",
            json!("automatic"),
        ),
        (renamed("work", "home"), "renamed work to home\n", "/accounts/0/name", json!("home")),
        (
            renamed("work", "home"),
            "renamed work to home\n",
            "/routing",
            routing("preferred", json!("home")),
        ),
        (
            Change::Priority { name: "old".to_owned(), priority: -2 },
            "old now has priority -2\n",
            "/accounts/1/priority",
            json!(-2),
        ),
        (
            Change::Use { name: None },
            "routing is now automatic\n",
            "/routing",
            routing("automatic", Value::Null),
        ),
        (
            preferred("work"),
            "work is now preferred\n",
            "/routing",
            routing("preferred", json!("work")),
        ),
    ] {
        let (result, stdout, stderr, document) = changed(0, &change);
        assert_eq!((result, stdout.as_str(), stderr.as_str()), (Ok(()), said, ""), "{change:?}");
        assert_eq!(document.pointer(pointer), Some(&value), "{change:?}");
        assert_eq!(
            (&document["mine"], &document["proxy"]["apiKey"]),
            (&json!([1]), &json!("mp-key"))
        );
    }
}

#[test]
fn c_what_cannot_be_changed_is_said_and_the_file_stays() {
    for (change, error) in [
        (enabled("none", true), "there is no account none; the accounts are work, old, glm"),
        (
            Change::Remove { name: "a b".to_owned() },
            "there is no account \"a b\"; the accounts are work, old, glm",
        ),
        (renamed("none", "x"), "there is no account none; the accounts are work, old, glm"),
        (renamed("work", "old"), "an account named old already exists; choose another name"),
        (renamed("work", "a\n"), "the new name contains control characters; choose another name"),
        (
            Change::Priority { name: "none".to_owned(), priority: 1 },
            "there is no account none; the accounts are work, old, glm",
        ),
        (preferred("none"), "there is no account none; the accounts are work, old, glm"),
        (preferred("glm"), "glm is a provider; only a Claude account can be preferred"),
        (preferred("old"), "old is disabled; to prefer it, enable it first: maxpool enable old"),
    ] {
        let (result, stdout, _, document) = changed(0, &change);
        assert_eq!((result.unwrap_err().to_string().as_str(), stdout.as_str()), (error, ""));
        let untouched: Value = serde_json::from_str(&CONFIG.replace("PORT", "0")).unwrap();
        assert_eq!(document, untouched, "{change:?}");
    }
}

/// Answers calls on a free port, one per connection, and returns their request lines.
fn server<const N: usize>(
    answers: [(u16, &'static str); N],
) -> (u16, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        answers
            .iter()
            .map(|(status, body)| answer(&listener.accept().unwrap().0, *status, body))
            .collect()
    });
    (port, serving)
}

/// Reads one request and answers it; returns its request line and body.
fn answer(mut socket: &TcpStream, status: u16, body: &str) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = socket.read(&mut buffer).unwrap();
        request.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, sent)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if count > 0 && sent.len() < length.unwrap_or(0) {
            continue;
        }
        assert!(head.to_lowercase().contains("x-api-key: mp-key"), "{head}");
        let length = body.len();
        write!(
            socket,
            "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .unwrap();
        return format!("{} {sent}", head.lines().next().unwrap()).trim_end().to_owned();
    }
}

const HEALTH: (u16, &str) = (200, r#"{"status":"ok","version":"2.0.0"}"#);

#[test]
fn c_a_running_server_is_asked() {
    for (change, line) in [
        (enabled("a b/c", false), "POST /maxpool/accounts/a%20b%2Fc/disable HTTP/1.1"),
        (Change::Use { name: None }, "POST /maxpool/routing HTTP/1.1 {\"mode\":\"automatic\"}"),
        (
            preferred("work"),
            "POST /maxpool/routing HTTP/1.1 {\"mode\":\"preferred\",\"account\":\"work\"}",
        ),
    ] {
        let (port, serving) = server([HEALTH, (200, "{}")]);
        let (result, _, stderr, document) = changed(port, &change);
        assert_eq!((result, stderr.as_str()), (Ok(()), ""), "{change:?}");
        assert_eq!(serving.join().unwrap(), ["GET /maxpool/health HTTP/1.1", line]);
        assert_eq!(
            document["routing"]["preferredAccount"], "work",
            "the server writes the file, not the command"
        );
    }
}

#[test]
fn c_what_has_no_route_is_written_and_the_server_told() {
    let (port, serving) = server([HEALTH, (200, "{}")]);
    let (result, stdout, _, document) = changed(port, &renamed("work", "home"));
    assert_eq!((result, stdout.as_str()), (Ok(()), "renamed work to home\n"));
    assert_eq!(serving.join().unwrap()[1], "POST /maxpool/reload HTTP/1.1");
    assert_eq!(document["accounts"][0]["name"], "home");
}

#[test]
fn c_a_server_that_refuses_is_believed_about_accounts_of_its_own() {
    let refusal =
        r#"{"type":"error","error":{"type":"not_found_error","message":"there is no account x"}}"#;
    let (port, serving) = server([HEALTH, (404, refusal)]);
    let (result, ..) = changed(port, &enabled("x", true));
    assert_eq!(result.unwrap_err().to_string(), "there is no account x");
    serving.join().unwrap();
    // An account in the file is changed there: the server may have read an older file, or cannot
    // write.
    let (port, serving) = server([HEALTH, (500, refusal), (200, "{}")]);
    let (result, _, stderr, document) = changed(port, &enabled("old", true));
    assert_eq!((result, stderr.as_str()), (Ok(()), ""));
    assert_eq!(document["accounts"][1]["enabled"], true);
    serving.join().unwrap();
}

#[test]
fn c_a_server_that_cannot_reload_is_told_about() {
    let refusal = r#"{"type":"error","error":{"type":"proxy_error","message":"no"}}"#;
    let (port, serving) = server([HEALTH, (500, refusal)]);
    let (result, _, stderr, _) = changed(port, &renamed("work", "home"));
    assert_eq!(result, Ok(()), "the change is made");
    assert_eq!(
        stderr,
        "maxpool: the config was changed, but the running proxy could not apply the change: no\n"
    );
    serving.join().unwrap();
}

#[test]
fn c_another_program_on_the_port_is_left_alone() {
    let (port, serving) = server([(200, "<html>")]);
    let (result, ..) = changed(port, &enabled("old", true));
    assert_eq!(result, Ok(()));
    assert_eq!(serving.join().unwrap().len(), 1);
}
