//! The setup of every case: the scripted upstream, the program in front of it, and clients that use
//! the program.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::harness::{Home, Proxy, Value, home, json};
use crate::programs::{self, Ran};
use crate::upstream::message::event;
use crate::upstream::{Answer, Request, Upstream, failures};

/// The program with its upstream, and a home directory for clients.
pub struct Stage {
    pub upstream: Upstream,
    pub proxy: Proxy,
    /// The clients' home directory, instead of the user's.
    pub client_home: PathBuf,
    home: Home,
    start: Instant,
    name: &'static str,
}

/// No client takes longer, unless a case says so.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Keeps Claude Code from any request besides the one it is asked for.
const QUIET: [(&str, &str); 4] = [
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("DISABLE_TELEMETRY", "1"),
    ("DISABLE_ERROR_REPORTING", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
];

/// Without `requireKey`, the program accepts any token.
const TOKEN: &str = "any-token-will-do";

impl Stage {
    /// Sets up a case; `prepare` gets a configuration with the upstream and no accounts yet.
    pub fn new(
        name: &'static str,
        upstream: Upstream,
        prepare: impl FnOnce(Home) -> Home,
    ) -> Stage {
        let home = prepare(Home::new().upstream(&upstream.url()).logins(&upstream.url()));
        let client_home = home.path().join("client");
        std::fs::create_dir_all(&client_home).expect("make the clients' home");
        let proxy = Proxy::start(&home);
        Stage { upstream, proxy, client_home, home, start: Instant::now(), name }
    }

    /// The program's URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.proxy.address())
    }

    /// Claude Code, pointed at the program and kept from other requests.
    pub fn claude(&self, arguments: &[&str]) -> Command {
        let mut command = programs::command(&programs::claude(), &self.client_home);
        command
            .args(arguments)
            .env("ANTHROPIC_BASE_URL", self.url())
            .env("ANTHROPIC_AUTH_TOKEN", TOKEN)
            .envs(QUIET);
        command
    }

    /// Runs Claude Code to its end.
    pub fn run_claude(&self, arguments: &[&str]) -> Ran {
        programs::start(self.claude(arguments)).finish(PATIENCE)
    }

    /// `maxpool run` with these arguments for Claude Code.
    pub fn maxpool_run(&self, arguments: &[&str]) -> Command {
        let directory = self.client_home.join("bin");
        std::fs::create_dir_all(&directory).expect("make a directory for claude");
        let claude = programs::claude().canonicalize().expect("claude is a file");
        std::os::unix::fs::symlink(claude, directory.join("claude")).expect("link claude");
        let mut path = vec![directory];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));

        let mut command = programs::command(&home::program(), &self.client_home);
        command.arg("run").arg("--").args(arguments).envs(QUIET).env("ANTHROPIC_AUTH_TOKEN", TOKEN);
        command
            .env("PATH", std::env::join_paths(path).expect("a path"))
            .env("MAXPOOL_CONFIG", self.own_port());
        command
    }

    /// The variables that `maxpool env` exports.
    pub fn exports(&self) -> Vec<(String, String)> {
        let mut command = programs::command(&home::program(), &self.client_home);
        command.arg("env").env("MAXPOOL_CONFIG", self.own_port());
        let ran = programs::start(command).finish(PATIENCE);
        let lines = ran.stdout.lines().map(|line| {
            let (name, value) = line
                .strip_prefix("export ")
                .and_then(|rest| rest.split_once('='))
                .expect("exports only");
            (name.to_owned(), value.trim_matches('\'').to_owned())
        });
        lines.collect()
    }

    /// A copy of the configuration with the port that the program was given.
    fn own_port(&self) -> PathBuf {
        let mut config = self.home.read();
        config["proxy"]["port"] = json!(self.proxy.address().port());
        let path = self.client_home.join("maxpool.json");
        std::fs::write(&path, config.to_string()).expect("write a configuration");
        path
    }

    /// The credentials that messages were requested with, in order.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.upstream.requests();
        let messages = requests.iter().filter(|request| request.path() == "/v1/messages");
        messages.map(|request| request.credential().to_owned()).collect()
    }

    /// Prints one observation of a case.
    pub fn seen(&self, text: &str) {
        println!("  {}: {text}", self.name);
    }

    /// Each request that reached the upstream, one line each.
    pub fn requests(&self) -> Vec<String> {
        let describe = |request: &Request| {
            format!("{} {} with {}", request.method, request.target, request.credential())
        };
        self.upstream.requests().iter().map(|request| describe(request)).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(directory) = std::env::var_os("E2E_RECORD") {
            std::fs::create_dir_all(&directory).expect("make the directory of records");
            let path = PathBuf::from(directory).join(format!("{}.txt", self.name));
            use std::io::Write as _;
            let mut file = std::fs::File::options()
                .append(true)
                .create(true)
                .open(path)
                .expect("open the record");
            file.write_all(self.record().as_bytes()).expect("write the record");
        }
    }
}

impl Stage {
    /// Everything that was sent, and the program's log.
    fn record(&self) -> String {
        let mut text = String::new();
        for request in self.upstream.requests() {
            let after = request.at.duration_since(self.start).as_secs_f64();
            let body = match request.json() {
                Value::Null => String::from_utf8_lossy(&request.body).into_owned(),
                json => serde_json::to_string_pretty(&json).unwrap(),
            };
            let head = String::from_utf8_lossy(&request.head);
            text.push_str(&format!(
                "=== {after:.3} s, connection {}\n{head}{body}\n\n",
                request.connection
            ));
        }
        text.push_str(&format!("=== log\n{}\n", self.proxy.log().join("\n")));
        text
    }
}

/// Failures of one account that another account can make up for, each with a short name.
pub fn curable_failures() -> Vec<(&'static str, Answer)> {
    vec![
        ("429 quota", failures::quota("five_hour", Duration::from_secs(7200))),
        ("429 server-side", failures::server_side()),
        ("529", failures::overloaded()),
        ("500", failures::server_error(500)),
        ("401", failures::unauthorized()),
        ("403", failures::forbidden()),
        ("reset", failures::reset()),
        ("error event", failures::first_event_error("overloaded_error", "Overloaded")),
    ]
}

/// Answers every message with a quota 429 for this many seconds after the first request, then like
/// a healthy API.
pub fn limited_for(seconds: u64) -> impl Fn(&Request) -> Answer + Send + Sync {
    let end = OnceLock::new();
    move |request| {
        let end = *end.get_or_init(|| Instant::now() + Duration::from_secs(seconds));
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Answer::healthy(request);
        }
        failures::quota("five_hour", left)
    }
}

/// Calls this tool, and once its result is among the messages, repeats the result.
pub fn tool_round_trip(request: &Request, tool: &str, input: &Value) -> Answer {
    match tool_result(request) {
        Some(result) => Answer::message(&format!("The tool said: {result}")),
        None => tool_use(tool, input),
    }
}

/// A streamed tool call with its input in two parts, as the API sends it.
pub fn tool_use(tool: &str, input: &Value) -> Answer {
    let message = json!({"id": "msg_01Tool", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929",
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 20, "output_tokens": 1}});
    let block = json!({"type": "tool_use", "id": "toolu_01A", "name": tool, "input": {}});
    let input = input.to_string();
    let mut half = input.len() / 2;
    while !input.is_char_boundary(half) {
        half += 1;
    }
    let part = |json: &str| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": json}});
    let events = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        part(&input[..half]),
        part(&input[half..]),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 30}}),
        json!({"type": "message_stop"}),
    ];
    Answer::events(events.iter().map(|data| event(data["type"].as_str().unwrap(), data)))
}

/// The text of the newest tool result in a request.
pub fn tool_result(request: &Request) -> Option<String> {
    let body = request.json();
    let messages = body["messages"].as_array()?;
    let mut blocks =
        messages.iter().rev().filter_map(|message| message["content"].as_array()).flatten();
    let result = blocks.rfind(|block| block["type"] == "tool_result")?;
    Some(match &result["content"] {
        Value::String(text) => text.clone(),
        content => content[0]["text"].as_str().unwrap_or_default().to_owned(),
    })
}
