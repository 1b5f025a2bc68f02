//! The dashboard on a real terminal (SPEC D1): every way of ending restores the terminal, and keys
//! do what they say.
//!
//! script(1) provides the terminal; without it these tests print a note and pass.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::home::program;
use crate::harness::{Ask, Client, Home, Proxy, Value, hello, json, oauth, until};
use crate::upstream::oauth::profile;
use crate::upstream::{Upstream, failures};

/// The sequences that take over and restore the terminal.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A terminal that runs the program.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    pid: Pid,
    /// The terminal's device, such as `/dev/pts/7`.
    device: String,
}

impl Terminal {
    /// Runs the program with these arguments on 80 columns and 24 rows; `None` without script(1).
    fn start(home: &Home, arguments: &str) -> Option<Terminal> {
        let run = format!(
            // The shell survives Ctrl-C, so that it can report the state of the terminal
            // afterwards.
            "trap : INT; stty rows 24 cols 80; echo \"device $(tty)\"; echo \"before $(stty -g)\"; \
             sh -c 'echo \"pid $$\"; exec \"{}\" {arguments}'; echo \"ended $?\"; echo \"after $(stty -g)\"",
            program().display()
        );
        let mut command = Command::new("script");
        command.args(["-qfc", &run, "/dev/null"]).env_clear();
        for (name, value) in home.command(&[]).get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let spawned = command
            .envs([("TERM", "xterm"), ("LANG", "C.UTF-8"), ("SHELL", "/bin/sh"), ("NO_COLOR", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut script) = spawned else {
            eprintln!("skipped: there is no script(1) to lend a terminal");
            return None;
        };
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, kept) = (script.stdout.take().expect("a screen"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                kept.lock().expect("no panic").extend(&bytes[..count]);
            }
        });
        let mut terminal = Terminal { script, shown, pid: Pid::INIT, device: String::new() };
        terminal.device = terminal.word("device");
        let pid = terminal.word("pid").parse().expect("a number");
        terminal.pid = Pid::from_raw(pid).expect("a process");
        Some(terminal)
    }

    /// Everything written so far.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    /// The rest of the line that begins with this word, once the line is complete.
    fn word(&self, word: &str) -> String {
        until(word, || {
            let text = self.text();
            let line = text.split_inclusive('\n').find_map(|line| {
                let line = line.rsplit('\x1b').next().unwrap_or(line);
                let start = line.find(&format!("{word} "))?;
                line.ends_with('\n').then(|| line[start..].trim().to_owned())
            })?;
            Some(line[word.len() + 1..].to_owned())
        })
    }

    /// Waits for this text after the first `from` bytes.
    fn wait_after(&self, from: usize, words: &str) {
        until(&format!("{words:?} on the screen"), || {
            let shown = self.shown.lock().expect("no panic");
            String::from_utf8_lossy(&shown[from..]).contains(words).then_some(())
        });
    }

    fn shown_bytes(&self) -> usize {
        self.shown.lock().expect("no panic").len()
    }

    /// Types `keys` and waits until `brings` appears on the screen.
    fn press(&mut self, keys: &str, brings: &str) {
        let from = self.shown_bytes();
        let typed = self.script.stdin.as_mut().expect("a keyboard");
        typed.write_all(keys.as_bytes()).expect("type");
        typed.flush().expect("type");
        self.wait_after(from, brings);
    }

    /// The server's address, from the headline.
    fn address(&self) -> SocketAddr {
        let text = self.text();
        let address = text.split("http://").nth(1).expect("an address");
        let end = address.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
        address[..end.unwrap_or(address.len())].parse().expect("an address")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("signal it");
    }

    /// The exit status, after checking that the terminal is in its previous state.
    fn wait_restored(&self) -> String {
        let ended = self.word("ended");
        assert_eq!(self.word("after"), self.word("before"), "the modes");
        let text = self.text();
        let (taken, given) = (text.rfind(ENTER), text.rfind(LEAVE));
        assert!(taken.is_some() && given > taken, "the screen: {text:?}");
        ended
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// A way of ending the program: its name and how to do it.
type Way = (&'static str, fn(&mut Terminal));

fn home(upstream: &Upstream) -> Home {
    let home = Home::new().upstream(&upstream.url()).accounts(&["first", "second"]);
    home.write();
    home
}

/// A name that would change the title, ring the bell, clear the screen and reverse the text
/// direction.
const EVIL: &str = "e\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\u{2066}\u{200f}\u{2028}";

/// Asserts that no control character of [`EVIL`] reaches the terminal.
fn assert_obeys_nothing(what: &str, text: &str) {
    let evil = ["\u{1b}]", "\u{7}", "\u{9b}", "\u{202e}", "\u{2066}", "\u{200f}", "\u{2028}"];
    for evil in evil {
        assert!(!text.contains(evil), "{evil:?} in {what}: {text:?}");
    }
}

#[test]
fn d4_the_name_of_an_account_is_never_obeyed() {
    let upstream = Upstream::start();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("its address").port()
    };
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&[EVIL])
        .set("accounts.0.apiKey", json!("key-evil"))
        .set("routing", json!({"mode": "automatic"}))
        .set("proxy.port", json!(port));
    home.write();
    let proxy = Proxy::start_as_is(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let line = proxy.wait_line("its line", |line| line.contains("/v1/messages"));
    assert_obeys_nothing("the log", &line);
    for arguments in [
        &["accounts"][..],
        &["accounts", "--json"],
        &["status"],
        &["status", "--json"],
        &["explain"],
        &["doctor"],
        &["disable", EVIL],
        &["enable", EVIL],
    ] {
        let ran = home.run(arguments);
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert_obeys_nothing(&format!("{arguments:?}"), &text);
        if arguments.contains(&"--json") {
            let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
            assert_eq!(json["accounts"][0]["name"], EVIL, "the value is the same");
        }
    }
    let Some(terminal) = Terminal::start(&home, "status --watch") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    // The shell and the dashboard set up the terminal before the first frame.
    let text = terminal.text();
    let frame = text.split(ENTER).nth(1).unwrap_or_default();
    assert_obeys_nothing("the dashboard", frame);
    assert!(frame.contains("e\\u{1b}]"), "{frame:?}");
}

#[test]
fn every_way_out_gives_the_terminal_back() {
    let upstream = Upstream::start();
    let ways: [Way; 5] = [
        ("q and y", |terminal| {
            terminal.press("q", "Stop the server?");
            terminal.press("y", LEAVE);
        }),
        ("Ctrl-C", |terminal| terminal.press("\x03", LEAVE)),
        ("SIGTERM", |terminal| terminal.signal(Signal::TERM)),
        ("SIGHUP", |terminal| terminal.signal(Signal::HUP)),
        ("SIGINT", |terminal| terminal.signal(Signal::INT)),
    ];
    for (way, go) in ways {
        let home = home(&upstream);
        let Some(mut terminal) = Terminal::start(&home, "") else {
            return;
        };
        terminal.wait_after(0, "a accounts");
        assert!(terminal.text().contains(ENTER), "{way}");
        go(&mut terminal);
        assert_eq!(terminal.wait_restored(), "0", "{way}");
    }
    let home = home(&upstream);
    let Some(terminal) = Terminal::start(&home, "") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    terminal.signal(Signal::QUIT);
    assert_ne!(terminal.wait_restored(), "0", "SIGQUIT ends it at once");
}

#[test]
fn a_stop_by_job_control_lends_the_terminal_back_for_a_while() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let Some(mut terminal) = Terminal::start(&home, "") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    let from = terminal.shown_bytes();
    terminal.signal(Signal::TSTP);
    terminal.wait_after(from, LEAVE);
    until("it stands still", || {
        let stat = format!("/proc/{}/stat", terminal.pid.as_raw_nonzero());
        let stat = std::fs::read_to_string(stat).ok()?;
        stat.contains(") T ").then_some(())
    });
    let from = terminal.shown_bytes();
    terminal.signal(Signal::CONT);
    terminal.wait_after(from, ENTER);
    terminal.wait_after(from, "a accounts");
    // Ctrl-\ would kill the program at once and leave the terminal as it is.
    terminal.press("\x1c?", "nothing changes unless you press y");
    terminal.press("\x1b", "ACTIVITY");
    terminal.press("q", "Stop the server?");
    terminal.press("y", LEAVE);
    assert_eq!(terminal.wait_restored(), "0");
}

#[test]
fn another_size_is_drawn_at_once() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let Some(terminal) = Terminal::start(&home, "") else {
        return;
    };
    terminal.wait_after(0, "r restart  q quit  ? help");
    let from = terminal.shown_bytes();
    let resized =
        Command::new("stty").args(["-F", &terminal.device, "rows", "8", "cols", "40"]).status();
    assert!(resized.is_ok_and(|status| status.success()), "stty");
    terminal.wait_after(from, "m routing  q quit  ? help");
}

/// Whether the account is enabled in the file, which the next start uses.
fn is_enabled(home: &Home, index: usize) -> bool {
    home.read()["accounts"][index]["enabled"] != json!(false)
}

#[test]
fn changes_by_keys_are_asked_stored_and_undone() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let Some(mut terminal) = Terminal::start(&home, "") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    terminal.press("a", "> first");
    terminal.press("j\r", "ACCOUNT second");
    terminal.press("\r", "Disable second?");
    assert!(is_enabled(&home, 1), "nothing changes before the answer");
    terminal.press("y", "disabled");
    until("it is stored", || (!is_enabled(&home, 1)).then_some(()));
    terminal.press("aj\r\r", "Enable second?");
    terminal.press("y", "config reloaded");
    until("it is undone", || is_enabled(&home, 1).then_some(()));
    terminal.press("mj\r", "Prefer first?");
    terminal.press("y", "prefers first");
    until("it is stored", || (home.read()["routing"]["preferredAccount"] == "first").then_some(()));
    terminal.press("mk\r", "Return to automatic routing?");
    terminal.press("y", "automatic");
    until("it is undone", || (home.read()["routing"]["mode"] == "automatic").then_some(()));
}

#[test]
fn an_attached_dashboard_changes_the_server_and_leaves_it_running() {
    let upstream = Upstream::start();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("its address").port()
    };
    let home = home(&upstream).set("proxy.port", json!(port));
    home.write();
    let proxy = Proxy::start_as_is(&home);
    let Some(mut terminal) = Terminal::start(&home, "status --watch") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    Client::connect(proxy.address())
        .ask(&Ask::messages(&hello()))
        .assert_said("Hello from upstream.");
    terminal.wait_after(0, "first sonnet-4-5 200 0.");
    terminal.press("a\r\r", "Disable first?");
    terminal.press("y", "disabled");
    let is_off = |status: &Value| status["accounts"][0]["enabled"] == json!(false);
    proxy.wait_status("it is disabled", is_off);
    assert!(!is_enabled(&home, 0));
    terminal.press("q", "The server keeps running.");
    terminal.press("y", LEAVE);
    assert_eq!(terminal.wait_restored(), "0");
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn d1_the_dashboard_signs_in_again_and_the_account_serves() {
    let upstream = Upstream::start();
    let mut account = oauth("work");
    account["accountUuid"] = json!("uuid-1");
    let who = profile("uuid-1", "me@example.org", "org-1");
    upstream.state().oauth.profiles.insert("access-1".to_owned(), who);
    let home = Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .set("accounts", json!([account]));
    home.write();
    let Some(mut terminal) = Terminal::start(&home, "") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    terminal.press("l", "> work");
    terminal.press("\r", "Sign in again to work?");
    assert!(!terminal.text().contains("code_challenge"), "nothing happens before the answer");
    terminal.press("y", "state=");
    let cancelled = callback_of(&terminal);
    terminal.press("\x1b", "sign-in cancelled");
    until("its page is closed", || TcpStream::connect(&cancelled).is_err().then_some(()));
    terminal.press("l\ry", "state=");
    terminal.wait_after(0, "paste the address");
    terminal.press("not-a-code?", "***********_");
    terminal.press("\r", "another login attempt");
    // The code alone would be accepted too, but the full address contains the state, which tells
    // one sign-in from another.
    let shown = terminal.text().replace(['\r', '\n'], "");
    let plain = without_escapes(&shown);
    let state = plain.rsplit("state=").next().expect("a state");
    let state: String =
        state.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    terminal.press(
        &format!(
            "\x1b[200~http://localhost:1/callback?code=good-code-0123456789&state={}\x1b[201~\r",
            &state[..43]
        ),
        "the account work",
    );
    until("it is stored", || {
        let stored = &home.read()["accounts"][0];
        (stored["accessToken"] == "access-1").then_some(())
    });
    terminal.press("\x1b", "ACTIVITY");
}

/// The address where the sign-in waits for the browser, as shown on the screen.
fn callback_of(terminal: &Terminal) -> String {
    let shown = without_escapes(&terminal.text().replace(['\r', '\n'], ""));
    let (_, rest) = shown.rsplit_once("localhost%3A").expect("an address");
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    format!("127.0.0.1:{port}")
}

/// The text without cursor movements.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    for (number, part) in text.split('\x1b').enumerate() {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        plain.push_str(if number == 0 { part } else { &part[end..] });
    }
    plain
}

#[test]
fn d1_a_block_is_lifted_by_retry_and_an_account_is_renamed() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    upstream.always("key-first", failures::quota("five_hour", Duration::from_secs(3_600)));
    let Some(mut terminal) = Terminal::start(&home, "") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    let address = terminal.address();
    Client::connect(address).ask(&Ask::messages(&hello())).assert_said("Hello from upstream.");
    terminal.wait_after(0, "next free ");
    terminal.wait_after(0, "limited 1h");
    terminal.press("a\rjj\r", "Retry first?");
    terminal.press("y", "blocks lifted");
    terminal.press("a\rjjj\r", "RENAME first");
    terminal.press("2\r", "Rename first to first2?");
    terminal.press("y", "renamed first to first2");
    until("it is stored", || (home.read()["accounts"][0]["name"] == "first2").then_some(()));
}

#[test]
fn d1_the_log_is_scrolled_with_page_up_and_page_down() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let Some(mut terminal) = Terminal::start(&home, "") else {
        return;
    };
    terminal.wait_after(0, "a accounts");
    let mut client = Client::connect(terminal.address());
    for _ in 0..30 {
        client.ask(&Ask::messages(&hello())).assert_said("Hello from upstream.");
    }
    // The last request is recognisable: once it is drawn, all of them can be scrolled to.
    let mut last = hello();
    last["model"] = json!("claude-haiku-4-5");
    client.ask(&Ask::messages(&last)).assert_said("Hello from upstream.");
    terminal.wait_after(0, "haiku-4-5 200 0.");
    terminal.press("\x1b[5~", "newer, PageDown shows them");
    terminal.press("\x1b[5~\x1b[5~\x1b[5~\x1b[5~", "listens on");
    terminal.press("\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~", "ACTIVITY");
}
