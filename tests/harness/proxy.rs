//! The program as a running server.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::client::{Ask, Client};
use super::home::{Home, KEY};
use super::reply::Reply;
use super::{PATIENCE, until};

/// A server that is killed with all its children when dropped.
pub struct Proxy {
    child: Child,
    address: SocketAddr,
    stderr: Arc<Lines>,
    stdout: Arc<Lines>,
    status: Option<ExitStatus>,
}

/// The lines received from a pipe.
#[derive(Default)]
struct Lines {
    read: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Proxy {
    /// Writes the home's configuration, starts `maxpool server --plain`, and waits until it logs
    /// its address.
    pub fn start(home: &Home) -> Proxy {
        home.write();
        Proxy::start_as_is(home)
    }

    /// The same with the configuration that is already on disk.
    pub fn start_as_is(home: &Home) -> Proxy {
        Proxy::spawn(home.command(&["server", "--plain"]))
    }

    /// The same, recording every request, see [`Home::recordings`].
    pub fn start_recording(home: &Home) -> Proxy {
        home.write();
        let path = home.recordings_path();
        let path = path.to_str().expect("a path");
        Proxy::spawn(home.command(&["server", "--plain", "--log-to", path]))
    }

    /// The same under limits given as shell commands.
    pub fn start_limited(home: &Home, limits: &str) -> Proxy {
        home.write();
        Proxy::spawn(home.limited(limits))
    }

    /// Starts a prepared command and waits until it logs its address.
    pub fn spawn(mut command: Command) -> Proxy {
        let mut child = command.process_group(0).spawn().expect("start the program");
        let stderr = Lines::of(child.stderr.take());
        let stdout = Lines::of(child.stdout.take());
        let mut proxy = Proxy {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            stderr,
            stdout,
            status: None,
        };
        let line = proxy.wait_line("the line with its address", |line| address_in(line).is_some());
        proxy.address = address_in(&line).expect("the line has an address");
        proxy
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a new connection, and its complete answer.
    pub fn ask(&self, ask: &Ask) -> Reply {
        let mut client = self.connect();
        client.send_ask(ask);
        client.read_reply(ask)
    }

    /// `POST /v1/messages` with this body.
    pub fn post(&self, body: &Value) -> Reply {
        self.ask(&Ask::messages(body))
    }

    /// The same on a new thread, for an answer that takes a while.
    pub fn post_aside(&self, body: &Value) -> std::thread::JoinHandle<Reply> {
        let (address, ask) = (self.address, Ask::messages(body));
        std::thread::spawn(move || Client::connect(address).ask(&ask))
    }

    /// The status document.
    pub fn status(&self) -> Value {
        let reply = self.ask(&Ask::get("/maxpool/status").header("x-api-key", KEY));
        assert_eq!(reply.status, 200, "status: {}", reply.text());
        reply.json()
    }

    /// One account in the status document.
    pub fn account(&self, name: &str) -> Value {
        let status = self.status();
        let accounts = status["accounts"].as_array().expect("accounts are a list");
        let found = accounts.iter().find(|account| account["name"] == name);
        found.unwrap_or_else(|| panic!("no account {name} in {status:#}")).clone()
    }

    /// Polls the status until `ready` accepts it.
    pub fn wait_status(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        until(what, || Some(self.status()).filter(|status| ready(status)))
    }

    /// Everything on stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.lock().0.clone()
    }

    /// The last lines of the log, for failure messages.
    fn tail(&self) -> String {
        let log = self.log();
        log[log.len().saturating_sub(40)..].join("\n")
    }

    /// Everything on stdout so far.
    pub fn printed(&self) -> Vec<String> {
        self.stdout.lock().0.clone()
    }

    /// Waits for a line on stderr; lines that were already logged count too.
    pub fn wait_line(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.wait_line_after(0, what, matches)
    }

    /// The same, starting with line number `from`.
    pub fn wait_line_after(
        &self,
        from: usize,
        what: &str,
        matches: impl Fn(&str) -> bool,
    ) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut read = self.stderr.lock();
        loop {
            if let Some(line) = read.0.iter().skip(from).find(|line| matches(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !read.1,
                "the log never had {what}; it ends with:\n{}",
                read.0[read.0.len().saturating_sub(40)..].join("\n")
            );
            read = self
                .stderr
                .changed
                .wait_timeout(read, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("send a signal");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Stops it gracefully and waits for it to exit.
    pub fn stop(&mut self) {
        self.terminate();
        assert_eq!(self.wait_exit(), Some(0));
    }

    /// Waits for the process to exit and returns its exit code (`None` after a signal).
    pub fn wait_exit(&mut self) -> Option<i32> {
        self.wait_exit_within(PATIENCE)
    }

    /// The same with its own time limit.
    pub fn wait_exit_within(&mut self, bound: Duration) -> Option<i32> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the program") {
                self.status = Some(status);
                // Its last output may still be in the pipes.
                self.stderr.wait_end();
                self.stdout.wait_end();
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server never ended; its log:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the process is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Current resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.proc_status("VmRSS:")
    }

    /// The highest resident memory in KiB so far.
    pub fn peak_kib(&self) -> u64 {
        self.proc_status("VmHWM:")
    }

    /// Current number of threads.
    pub fn threads(&self) -> u64 {
        self.proc_status("Threads:")
    }

    /// Current number of open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("list descriptors").count()
    }

    fn proc_status(&self, name: &str) -> u64 {
        let number = status_of(self.pid(), name);
        number.parse().unwrap_or_else(|_| panic!("{name} is {number:?}"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.status.is_none() {
            let group = Pid::from_child(&self.child);
            let _killed = rustix::process::kill_process_group(group, Signal::KILL);
            let _reaped = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}\n---", self.tail());
        }
    }
}

impl Lines {
    /// Reads a pipe to its end on a new thread.
    fn of(pipe: Option<impl Read + Send + 'static>) -> Arc<Lines> {
        let lines = Arc::new(Lines::default());
        let reading = Arc::clone(&lines);
        std::thread::spawn(move || {
            if let Some(pipe) = pipe {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
                    let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                    reading.lock().0.push(text);
                    reading.changed.notify_all();
                    line.clear();
                }
            }
            reading.lock().1 = true;
            reading.changed.notify_all();
        });
        lines
    }

    /// Waits for the end of the pipe, which a leftover process may keep open.
    fn wait_end(&self) {
        let ended = |read: &mut (Vec<String>, bool)| !read.1;
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE / 4, ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<String>, bool)> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel's value for a process under this name, such as `VmRSS:`; empty if there is none.
pub fn status_of(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let text = text.expect("read the process's status");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).unwrap_or("").to_owned()
}

/// The first loopback address with a port in a line of text.
fn address_in(line: &str) -> Option<SocketAddr> {
    for host in ["127.0.0.1:", "[::1]:", "0.0.0.0:", "[::]:"] {
        let Some(at) = line.find(host) else { continue };
        let digits: String =
            line[at + host.len()..].chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() || digits == "0" {
            continue;
        }
        let local = host.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
        return format!("{local}{digits}").parse().ok();
    }
    None
}
