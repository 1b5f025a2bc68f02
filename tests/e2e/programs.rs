//! External programs: where they are, what environment they get, and how they are run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// The result of a client that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` after a signal, such as ours when it took too long.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// A running client.
pub struct Running {
    child: Child,
    start: Instant,
    outputs: [mpsc::Receiver<String>; 2],
}

/// `claude` from `PATH`, or the program named by `$CLAUDE`.
pub fn claude() -> PathBuf {
    find("CLAUDE", "claude").unwrap_or_else(|| {
        panic!("no `claude` on the path and no $CLAUDE: npm install @anthropic-ai/claude-code")
    })
}

/// `node`, after checking that it finds the SDK.
pub fn node() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(find_node)
}

/// `python3`, after checking that it finds the SDK.
pub fn python() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(find_python)
}

fn find_node() -> PathBuf {
    let node = find("NODE", "node")
        .unwrap_or_else(|| panic!("no `node` on the path: install Node.js 20 or later"));
    let found = probe(&node, &["-e", "require('@anthropic-ai/sdk')"]);
    assert!(found, "node finds no SDK through NODE_PATH: npm install @anthropic-ai/sdk");
    node
}

fn find_python() -> PathBuf {
    let python = find("PYTHON", "python3")
        .unwrap_or_else(|| panic!("no `python3` on the path: install Python 3"));
    let found = probe(&python, &["-c", "import anthropic"]);
    assert!(found, "python3 finds no SDK: pip install anthropic");
    python
}

/// A client's command; of the caller's environment it gets only the paths of programs and
/// libraries.
pub fn command(program: &Path, home: &Path) -> Command {
    refuse_network();
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).current_dir(home);
    for name in ["PATH", "NODE_PATH", "PYTHONPATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn start(mut command: Command) -> Running {
    use std::os::unix::process::CommandExt as _;
    let start = Instant::now();
    let mut child = command.process_group(0).spawn().expect("start the client");
    let collect = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _read = pipe.read_to_end(&mut bytes);
            }
            let _nobody_waits = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        receiver
    };
    let stdout = collect(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = collect(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    Running { child, start, outputs: [stdout, stderr] }
}

impl Running {
    /// Waits for the client to end, and kills it after `bound`.
    pub fn finish(mut self, bound: Duration) -> Ran {
        let deadline = self.start + bound;
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the client") {
                break status.code();
            }
            if Instant::now() >= deadline {
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = self.start.elapsed();
        self.kill();
        // A grandchild outside the process group may keep the pipes open; its output is then lost.
        let text = |receiver: &mpsc::Receiver<String>| {
            receiver.recv_timeout(Duration::from_secs(5)).unwrap_or_default()
        };
        Ran { code, stdout: text(&self.outputs[0]), stderr: text(&self.outputs[1]), took }
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        let group = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process_group(group, rustix::process::Signal::TERM)
            .expect("signal the client");
    }

    /// Kills it and all its children.
    fn kill(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _killed = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _reaped = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// Panics if a client could reach the network.
fn refuse_network() {
    let devices =
        std::fs::read_to_string("/proc/net/dev").expect("read the list of network devices");
    let others: Vec<&str> = devices
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .filter(|name| *name != "lo")
        .collect();
    assert!(
        others.is_empty(),
        "there is a network here ({}); run this through `make e2e`",
        others.join(", ")
    );
}

fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(chosen) = std::env::var_os(variable) {
        return Some(chosen.into());
    }
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn probe(program: &Path, arguments: &[&str]) -> bool {
    let mut command = command(program, &std::env::temp_dir());
    command.args(arguments);
    start(command).finish(Duration::from_secs(60)).code == Some(0)
}
