//! A temporary home directory with a configuration file, and the program run in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// A temporary directory, removed with its contents when dropped.
pub struct Home {
    directory: PathBuf,
    config: Value,
    logins: String,
}

/// The result of a command that has ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// The proxy key in all tests.
pub const KEY: &str = "mp-test-key-0123456789abcdefghij";

/// The OAuth endpoints' variables, and their paths below the stand-in's address.
const OAUTH_ENDPOINTS: [(&str, &str); 4] = [
    ("MAXPOOL_OAUTH_AUTHORIZE_ENDPOINT", "/oauth/authorize"),
    ("MAXPOOL_OAUTH_TOKEN_ENDPOINT", "/v1/oauth/token"),
    ("MAXPOOL_OAUTH_PROFILE_ENDPOINT", "/api/oauth/profile"),
    ("MAXPOOL_OAUTH_USAGE_ENDPOINT", "/api/oauth/usage"),
];

impl Home {
    /// A home whose proxy takes any free port and has neither a real upstream nor an account.
    pub fn new() -> Home {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Cargo tells integration tests which directory to use, but not other programs.
        let parent = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, Into::into);
        let directory = parent.join(format!("maxpool-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("make a temporary home");
        Home {
            directory,
            // Nothing listens there: a test that forgets the endpoints must not reach the real
            // ones.
            logins: "http://127.0.0.1:9".to_owned(),
            config: json!({
                "proxy": {"host": "127.0.0.1", "port": 0, "apiKey": KEY},
                // Nothing listens on this port, so a forgotten upstream never reaches the network.
                "upstream": "http://127.0.0.1:9",
                "upstreamProxy": false,
                "accounts": [],
            }),
        }
    }

    /// Sends everything to this upstream.
    #[must_use]
    pub fn upstream(self, url: &str) -> Home {
        self.set("upstream", json!(url))
    }

    /// Uses this stand-in for sign-ins, refreshes and profiles.
    #[must_use]
    pub fn logins(mut self, url: &str) -> Home {
        self.logins = url.to_owned();
        self
    }

    /// Sets one value by its dotted key.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Home {
        let mut place = &mut self.config;
        for part in key.split('.') {
            place = match part.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[part],
            };
        }
        *place = value;
        self
    }

    /// Adds an account.
    #[must_use]
    pub fn account(mut self, account: Value) -> Home {
        self.config["accounts"].as_array_mut().expect("accounts are a list").push(account);
        self
    }

    /// Adds API-key accounts with these names: name `a`, key `key-a`.
    #[must_use]
    pub fn accounts(mut self, names: &[&str]) -> Home {
        for name in names {
            self = self.account(api_key(name));
        }
        self
    }

    #[must_use]
    pub fn priority(mut self, index: usize, priority: usize) -> Home {
        self.config["accounts"][index]["priority"] = json!(priority);
        self
    }

    /// Writes the configuration to disk.
    pub fn write(&self) {
        let text = serde_json::to_string_pretty(&self.config).expect("a value is JSON");
        self.write_text(&text);
    }

    /// Writes any text as the configuration, with mode 0600.
    pub fn write_text(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(self.config_path(), text).expect("write the configuration");
        std::fs::set_permissions(self.config_path(), std::fs::Permissions::from_mode(0o600))
            .expect("protect the configuration");
    }

    /// The configuration on disk.
    pub fn read(&self) -> Value {
        let text = std::fs::read(self.config_path()).expect("read the configuration");
        serde_json::from_slice(&text).expect("the configuration is JSON")
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The path of the configuration.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("maxpool.json")
    }

    /// Holds the config's lock, as another process would, until the result is dropped.
    pub fn lock_config(&self) -> std::fs::File {
        let path = self.path().join("maxpool.json.lock");
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.expect("open the lock");
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("lock");
        file
    }

    /// The program with these arguments in this home; of the caller's environment it gets only
    /// `PATH`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.directory)
            .env("MAXPOOL_CONFIG", self.config_path())
            .envs(OAUTH_ENDPOINTS.map(|(name, path)| (name, format!("{}{path}", self.logins))))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The same, started through another program, whose command line comes first.
    pub fn command_under(&self, starter: &[&str], arguments: &[&str]) -> Command {
        let prepared = self.command(&[]);
        let mut command = Command::new(starter[0]);
        command
            .args(&starter[1..])
            .arg(program())
            .args(arguments)
            .env_clear()
            .envs(prepared.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The server in this home under its own limits, given as shell commands.
    pub fn limited(&self, limits: &str) -> Command {
        let script = format!("{limits}; exec \"$0\" \"$@\"");
        self.command_under(&["sh", "-c", &script], &["server", "--plain"])
    }

    /// The server with the file permissions of an ordinary user, since root may write anywhere;
    /// `None` where that is not possible.
    pub fn powerless(&self) -> Option<Command> {
        const SERVER: [&str; 2] = ["server", "--plain"];
        const DROP_POWER: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
        if !rustix::process::geteuid().is_root() {
            return Some(self.command(&SERVER));
        }
        let tried = Command::new(DROP_POWER[0]).args(&DROP_POWER[1..]).arg("true").status();
        if !tried.is_ok_and(|status| status.success()) {
            eprintln!("skipped: root may write anywhere, and setpriv cannot take that away here");
            return None;
        }
        Some(self.command_under(&DROP_POWER, &SERVER))
    }

    /// The requests that a server has recorded, see [`Proxy::start_recording`].
    ///
    /// [`Proxy::start_recording`]: super::Proxy::start_recording
    pub fn recordings(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.recordings_path()).expect("list").flatten();
        let read = |path| std::fs::read(path).expect("read");
        entries.map(|entry| String::from_utf8_lossy(&read(entry.path())).into_owned()).collect()
    }

    pub(super) fn recordings_path(&self) -> PathBuf {
        self.directory.join("recorded")
    }

    /// Starts a server to create the missing configuration, and stops it; whether it got its
    /// default port does not matter.
    pub fn make_default(&self, mut command: Command, path: &Path) {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the program");
        super::until("the configuration be made", || {
            let text = std::fs::read(path).ok()?;
            serde_json::from_slice::<Value>(&text).ok()
        });
        let _killed = child.kill();
        let _reaped = child.wait();
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments), "")
    }

    /// Runs a command with this text on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        finish(command, input)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}

/// The program: where cargo says in a test, and in the parent directory in an example.
/// `MAXPOOL_PROGRAM` names another one, such as one for another machine under an emulator.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("MAXPOOL_PROGRAM") {
        return path.into();
    }
    if let Some(path) = option_env!("CARGO_BIN_EXE_maxpool") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a path of its own");
    let build = own.parent().and_then(Path::parent).expect("examples are in a build directory");
    build.join("maxpool")
}

/// Runs a command to its end, with a time limit.
pub fn finish(mut command: Command, input: &str) -> Ran {
    let mut child = command.spawn().expect("start the program");
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input may close it.
        let _written = stdin.write_all(input.as_bytes());
    }
    let collect = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                let _read = pipe.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = collect(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = collect(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let deadline = Instant::now() + super::PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for the program") {
            break status;
        }
        if Instant::now() >= deadline {
            let _killed = child.kill();
            let _reaped = child.wait();
            panic!(
                "the command never ended; stdout: {}; stderr: {}",
                stdout.join().unwrap_or_default(),
                stderr.join().unwrap_or_default()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ran {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    }
}

/// An API-key account: name `a`, key `key-a`.
pub fn api_key(name: &str) -> Value {
    json!({"name": name, "type": "apikey", "apiKey": format!("key-{name}")})
}

/// An OAuth account whose token is valid for a day: name `a`, token `token-a`, refresh token
/// `refresh-a`.
pub fn oauth(name: &str) -> Value {
    json!({
        "name": name,
        "type": "oauth",
        "accessToken": format!("token-{name}"),
        "refreshToken": format!("refresh-{name}"),
        "expiresAt": epoch_ms() + 86_400_000,
    })
}

/// A provider account: name `a`, token `provider-a`.
pub fn provider(name: &str, word: &str, url: &str) -> Value {
    json!({
        "name": name,
        "type": "provider",
        "provider": word,
        "authToken": format!("provider-{name}"),
        "upstream": url,
    })
}

/// The wall clock in milliseconds.
pub fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
