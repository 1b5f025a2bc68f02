//! The interface to supervisors (SPEC R3): readiness, a watchdog, sockets that they open, signals,
//! and streams that are not read.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::home::program;
use crate::harness::{Ask, Client, Home, Proxy, hello, json};
use crate::upstream::Upstream;

fn home(upstream: &Upstream) -> Home {
    Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("sync.accountsIntervalMs", json!(3_600_000))
}

/// The socket on which a supervisor receives notifications.
struct Ear(UnixDatagram);

impl Ear {
    fn new(socket: UnixDatagram) -> Ear {
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("bound the reads");
        Ear(socket)
    }

    /// Returns the first of these lines in the next message that contains one of them.
    fn hear(&self, lines: &[&str]) -> String {
        let mut buffer = [0; 4096];
        loop {
            let count = self.0.recv(&mut buffer);
            let count = count.unwrap_or_else(|error| panic!("none of {lines:?}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if let Some(line) = text.lines().find(|line| lines.contains(line)) {
                return line.to_owned();
            }
        }
    }

    /// Receives messages that contain these lines, in exactly this order.
    fn hear_all(&self, lines: &[&str]) {
        let all = ["READY=1", "RELOADING=1", "STOPPING=1"];
        for line in lines {
            assert_eq!(self.hear(&all), *line, "of {lines:?}");
        }
    }
}

#[test]
fn it_says_when_it_is_ready_when_it_changes_and_when_it_stops() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    home.write();
    let path = home.path().join("notify");
    let ear = Ear::new(UnixDatagram::bind(&path).expect("bind"));
    let mut command = home.command(&["server", "--plain"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut proxy = Proxy::spawn(command);
    ear.hear_all(&["READY=1"]);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.signal(Signal::HUP);
    ear.hear_all(&["RELOADING=1", "READY=1"]);
    proxy.signal(Signal::USR2);
    ear.hear_all(&["RELOADING=1", "READY=1"]);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let good = home.read().to_string();
    home.write_text("{ broken");
    proxy.signal(Signal::USR2);
    ear.hear_all(&["RELOADING=1", "READY=1"]);
    home.write_text(&good);
    proxy.terminate();
    ear.hear_all(&["STOPPING=1"]);
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[cfg(not(portable))]
#[test]
fn the_watchdog_hears_of_the_worker_that_serves() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    home.write();
    let name = format!("maxpool-watchdog-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let ear = Ear::new(UnixDatagram::bind_addr(&address).expect("bind"));
    let mut command = home.command(&["server", "--plain"]);
    command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "300000");
    let mut proxy = Proxy::spawn(command);
    ear.hear(&["READY=1"]);
    for _ in 0..3 {
        ear.hear(&["WATCHDOG=1"]);
    }
    proxy.signal(Signal::USR2);
    ear.hear(&["READY=1"]);
    for _ in 0..3 {
        ear.hear(&["WATCHDOG=1"]);
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

/// The program with this socket as descriptor 3, as a supervisor starts it.
#[cfg(not(portable))]
fn activated(home: &Home, listener: OwnedFd, count: &str) -> Command {
    let script = format!(
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS={count} exec '{}' server --plain",
        program().display()
    );
    let prepared = home.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_clear().current_dir(home.path());
    for (name, value) in prepared.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.stdin(Stdio::from(listener)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[cfg(not(portable))]
#[test]
fn a_socket_that_a_supervisor_opened_is_used_and_outlives_the_program() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    home.write();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let start = || {
        let clone = listener.try_clone().expect("clone the socket");
        Proxy::spawn(activated(&home, clone.into(), "1"))
    };
    let mut proxy = start();
    assert_eq!(proxy.address(), address);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "the new worker's start", |line| {
        line.contains("listens on") && line.contains(&address.to_string())
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
    // New connections are served by the next process.
    let ask = Ask::messages(&hello());
    let mut early = Client::connect(address);
    early.send_ask(&ask);
    let mut proxy = start();
    early.read_reply(&ask).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[cfg(not(portable))]
#[test]
fn what_a_supervisor_passes_by_mistake_is_named() {
    let home = Home::new().accounts(&["a"]);
    home.write();
    let datagram = UnixDatagram::unbound().expect("a socket");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let rows = [
        (OwnedFd::from(datagram), "1", "not a listening TCP socket"),
        (OwnedFd::from(listener), "2", "LISTEN_FDS is 2"),
    ];
    for (passed, count, words) in rows {
        let ran = crate::harness::home::finish(activated(&home, passed, count), "");
        assert_eq!(ran.status.code(), Some(1), "{words}");
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
}

#[test]
fn sighup_reads_the_file_again() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let proxy = Proxy::start(&home);
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let mut config = home.read();
    config["accounts"][0]["enabled"] = json!(false);
    config["accounts"].as_array_mut().expect("a list").push(crate::harness::api_key("b"));
    home.write_text(&config.to_string());
    proxy.signal(Signal::HUP);
    proxy.wait_status("the new account", |status| {
        status["accounts"].as_array().is_some_and(|list| list.len() == 2)
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
    assert_eq!(upstream.order(), ["key-a", "key-b"]);
    let from = proxy.log().len();
    proxy.signal(Signal::HUP);
    proxy.wait_line_after(from, "that it was read", |line| {
        line.contains("config reloaded: nothing changed")
    });
    home.write_text("{\"accounts\": 5}");
    let from = proxy.log().len();
    proxy.signal(Signal::HUP);
    proxy.wait_line_after(from, "why the old settings stay", |line| line.contains("accounts"));
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

#[test]
fn nobody_has_to_read_what_it_prints() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    home.write();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("its address")
    };
    let mut config = home.read();
    config["proxy"]["port"] = json!(port.port());
    home.write_text(&config.to_string());
    // The streams are closed, not just unread.
    let script = format!("exec '{}' server --plain <&- >&- 2>&-", program().display());
    let prepared = home.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_clear().current_dir(home.path());
    for (name, value) in prepared.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let mut child = command.spawn().expect("start it");
    let answered = crate::harness::until("it serves", || {
        let stream = std::net::TcpStream::connect(port).ok()?;
        Some(Client::of(stream).ask(&Ask::messages(&hello())))
    });
    answered.assert_said("Hello from upstream.");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::USR2).expect("ask for a restart");
    for _ in 0..20 {
        Client::connect(port).ask(&Ask::messages(&hello())).assert_said("Hello from upstream.");
    }
    rustix::process::kill_process(pid, Signal::TERM).expect("stop it");
    let status = crate::harness::until("it ends", || child.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(0));
}

/// runit's own processes, which end with the test.
struct Runit {
    runsv: std::process::Child,
    service: std::path::PathBuf,
}

impl Runit {
    fn sv(&self, command: &[&str]) -> String {
        let ran = Command::new("sv")
            .args(command)
            .arg(&self.service)
            .output()
            .expect("sv comes with runsv");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    fn pid(&self) -> Option<i32> {
        let pid = std::fs::read_to_string(self.service.join("supervise/pid")).ok()?;
        pid.trim().parse().ok()
    }
}

impl Drop for Runit {
    fn drop(&mut self) {
        self.sv(&["force-shutdown"]);
        let _ended = self.runsv.wait();
    }
}

#[test]
fn runit_starts_drains_and_restarts_it() {
    let upstream = Upstream::start();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("its address")
    };
    let home = home(&upstream).set("proxy.port", json!(port.port()));
    home.write();
    let service = home.path().join("service");
    std::fs::create_dir(&service).expect("make a service");
    let (log, config) = (home.path().join("log"), home.config_path());
    let script = format!(
        "#!/bin/sh\nexec >> '{}' 2>&1\nexec env MAXPOOL_CONFIG='{}' '{}' server --plain\n",
        log.display(),
        config.display(),
        program().display()
    );
    std::fs::write(service.join("run"), script).expect("write what it runs");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(service.join("run"), executable).expect("let it be run");
    let mut command = Command::new("runsv");
    command.arg(&service).env("HOME", home.path());
    let streams = command.stdin(Stdio::null()).stdout(Stdio::null());
    let Ok(runsv) = streams.stderr(Stdio::null()).spawn() else {
        eprintln!("skipped: runit is not installed, so nothing is run under it");
        return;
    };
    let runit = Runit { runsv, service };
    let connect = |what: &str| {
        let stream = crate::harness::until(what, || std::net::TcpStream::connect(port).ok());
        Client::of(stream)
    };
    let ask = Ask::messages(&hello());
    connect("it serves").ask(&ask).assert_said("Hello from upstream.");
    // A crash.
    let first = runit.pid().expect("it runs");
    let pid = rustix::process::Pid::from_raw(first).expect("a process");
    rustix::process::kill_process(pid, Signal::KILL).expect("kill it");
    crate::harness::until("another process", || runit.pid().filter(|pid| *pid != first));
    connect("it serves again").ask(&ask).assert_said("Hello from upstream.");
    // A stop while an answer is in progress.
    let slow = crate::upstream::Answer::of(crate::upstream::Message::long(20, 8))
        .paced(Duration::from_millis(50));
    upstream.always("key-a", slow);
    let mut client = connect("it serves");
    let ask = Ask::messages(&crate::harness::hello_stream());
    client.send_ask(&ask);
    crate::harness::until("the answer has begun", || {
        (upstream.requests().len() == 3).then_some(())
    });
    let said = runit.sv(&["-w", "20", "down"]);
    assert!(said.starts_with("ok: down"), "{said}");
    let reply = client.read_reply(&ask);
    assert_eq!(reply.event_names().last().map(String::as_str), Some("message_stop"));
    // Each line is complete and begins with its time.
    let log = std::fs::read_to_string(log).expect("a log");
    let is_whole = |line: &str| line.get(10..11) == Some("T") && line.get(23..24) == Some("Z");
    assert!(log.lines().all(is_whole) && log.ends_with('\n'), "{log}");
    assert!(!log.contains('\x1b') && log.contains("POST /v1/messages a 200"), "{log}");
}
