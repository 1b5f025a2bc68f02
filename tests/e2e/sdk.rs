//! The Python and JavaScript SDKs through the program: answers, failover, errors, retries.

use std::path::Path;
use std::time::Duration;

use crate::harness::{Home, Value, api_key, json};
use crate::programs;
use crate::stage::{PATIENCE, Stage, curable_failures, limited_for, tool_round_trip};
use crate::upstream::{Answer, Limits, Message, Request, Upstream, failures};

/// Anthropic's SDKs.
#[derive(Clone, Copy, Debug)]
pub enum Sdk {
    /// `anthropic` from PyPI.
    Python,
    /// `@anthropic-ai/sdk` from npm.
    JavaScript,
}

pub const SDKS: [Sdk; 2] = [Sdk::Python, Sdk::JavaScript];

impl Sdk {
    /// Runs one action of `client.py` or `client.cjs` with these client options, and returns its
    /// report.
    pub fn run(self, stage: &Stage, action: &str, options: &Value) -> Value {
        self.start(stage, action, options).seen(PATIENCE)
    }

    /// The same without waiting for the result.
    pub fn start(self, stage: &Stage, action: &str, options: &Value) -> Calling {
        let (program, script) = match self {
            Sdk::Python => (programs::python(), "client.py"),
            Sdk::JavaScript => (programs::node(), "client.cjs"),
        };
        let mut command = programs::command(program, &stage.client_home);
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script))
            .args([action, &options.to_string()])
            .env("ANTHROPIC_BASE_URL", stage.url())
            .env("ANTHROPIC_API_KEY", "any-key-will-do");
        Calling(programs::start(command))
    }
}

/// A call in progress.
pub struct Calling(programs::Running);

impl Calling {
    /// The client's report, once the call is over.
    pub fn seen(self, bound: Duration) -> Value {
        let ran = self.0.finish(bound);
        serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|_| panic!("the client said nothing of use: {ran:?}"))
    }
}

fn two_accounts(home: Home) -> Home {
    home.accounts(&["a", "b"]).priority(1, 1)
}

#[test]
fn sdks_get_whole_answers() {
    for sdk in SDKS {
        let stage = Stage::new("sdks_get_whole_answers", Upstream::start(), two_accounts);
        for action in ["plain", "stream", "accumulated"] {
            let seen = sdk.run(&stage, action, &json!({}));
            stage.seen(&format!("{sdk:?} {action}: {seen}"));
            assert_eq!(seen["text"], "Hello from upstream.");
        }
        let seen = sdk.run(&stage, "count", &json!({}));
        assert_eq!(seen["input_tokens"], 42);
        let seen = sdk.run(&stage, "models", &json!({}));
        stage.seen(&format!("{sdk:?} models: {seen}"));
        assert_eq!(seen["models"][0], "claude-opus-4-5-20251101");
    }
}

#[test]
fn sdks_use_tools() {
    for sdk in SDKS {
        let upstream = Upstream::with(|request| {
            tool_round_trip(request, "weather", &json!({"place": "Zürich"}))
        });
        let stage = Stage::new("sdks_use_tools", upstream, two_accounts);
        let seen = sdk.run(&stage, "tools", &json!({}));
        stage.seen(&format!("{sdk:?}: {seen}"));
        assert_eq!(seen["text"], "The tool said: sunny in Zürich");
    }
}

#[test]
fn sdks_see_every_delta() {
    let text: String = (0..3000).map(|number| format!("{number}✓ü\\\"\u{1F600} ")).collect();
    for sdk in SDKS {
        let answer = Answer::of(Message::text(text.trim_end())).pieces(97);
        let stage = Stage::new(
            "sdks_see_every_delta",
            Upstream::with(move |_| answer.clone()),
            two_accounts,
        );
        let seen = sdk.run(&stage, "stream", &json!({}));
        stage.seen(&format!(
            "{sdk:?}: {} deltas, first after {} s, all after {} s",
            seen["deltas"], seen["first_s"], seen["took_s"]
        ));
        assert_eq!(seen["text"], text.trim_end());
        assert_eq!(seen["deltas"], 3000);
        assert_eq!(seen["last"], "message_stop");
    }
}

#[test]
fn sdks_do_not_notice_a_failover() {
    for sdk in SDKS {
        for (number, (name, failure)) in curable_failures().into_iter().enumerate() {
            let action = ["stream", "plain"][number % 2];
            let stage =
                Stage::new("sdks_do_not_notice_a_failover", Upstream::start(), two_accounts);
            stage.upstream.always("key-a", failure);
            let seen = sdk.run(&stage, action, &json!({"max_retries": 0}));
            let case = format!("{sdk:?} {action} {name}");
            assert_eq!(seen["text"], "Hello from upstream.", "{case}");
            assert_eq!(stage.upstream.order(), ["key-a", "key-b"], "{case}");
            stage.seen(&format!("{case}: {} s", seen["took_s"]));
        }
    }
}

#[test]
fn sdks_get_our_errors_in_their_own_classes() {
    let no_wait = |home: Home| two_accounts(home).set("queue.enabled", json!(false));
    let one_second = |home: Home| home.accounts(&["a"]).set("queue.maxWaitMs", json!(1000));
    let locked = |home: Home| two_accounts(home).set("proxy.requireKey", json!(true));
    let nobody = |home: Home| no_wait(home).set("upstream", json!("http://127.0.0.1:9"));
    for sdk in SDKS {
        let stage =
            Stage::new("sdks_get_our_errors", Upstream::with(limited_for(7200)), one_second);
        for action in ["plain", "count"] {
            let error = error_of(&stage, sdk, action, "RateLimitError", 429, "rate_limit_error");
            let wait = error["retry_after"].as_str().and_then(|text| text.parse::<u64>().ok());
            assert!((7000..=7202).contains(&wait.unwrap_or(0)), "{error}");
            assert_eq!(error["should_retry"], "false", "{error}");
        }
        // The class of a status of 500 or more differs between SDK versions.
        let stage =
            Stage::new("sdks_get_our_errors", Upstream::with(|_| failures::overloaded()), no_wait);
        error_of(&stage, sdk, "plain", "", 529, "overloaded_error");
        let stage = Stage::new("sdks_get_our_errors", Upstream::start(), nobody);
        error_of(&stage, sdk, "plain", "", 503, "connection_unavailable");
        let stage = Stage::new(
            "sdks_get_our_errors",
            Upstream::with(|_| failures::unauthorized()),
            two_accounts,
        );
        error_of(&stage, sdk, "plain", "", 502, "account_auth_error");
        let stage = Stage::new("sdks_get_our_errors", Upstream::start(), locked);
        error_of(&stage, sdk, "plain", "AuthenticationError", 401, "authentication_error");
        let stage = Stage::new(
            "sdks_get_our_errors",
            Upstream::with(|_| failures::invalid()),
            two_accounts,
        );
        error_of(&stage, sdk, "plain", "BadRequestError", 400, "invalid_request_error");
        assert_eq!(
            stage.upstream.count("key-b"),
            0,
            "what is wrong with the request is no account's fault"
        );
    }
}

fn error_of(stage: &Stage, sdk: Sdk, action: &str, class: &str, status: u16, kind: &str) -> Value {
    let seen = sdk.run(stage, action, &json!({"max_retries": 0}));
    let error = seen["error"].clone();
    stage.seen(&format!("{sdk:?} {action}: {error}"));
    assert!(class.is_empty() || error["class"] == class, "{sdk:?} {seen}");
    assert_eq!(error["status"], status, "{sdk:?} {seen}");
    assert_eq!(error["type"], kind, "{sdk:?} {seen}");
    error
}

#[test]
fn sdks_come_back_when_we_say_so_and_only_then() {
    for sdk in SDKS {
        // Unavailable for two seconds and not held: the client should wait that long.
        let no_queue = |home: Home| home.accounts(&["a"]).set("queue.enabled", json!(false));
        let stage = Stage::new("sdks_come_back", Upstream::with(limited_for(2)), no_queue);
        let seen = sdk.run(&stage, "plain", &json!({"max_retries": 2}));
        stage.seen(&format!("{sdk:?}, out for 2 s: {seen}"));
        assert_eq!(seen["text"], "Hello from upstream.");
        assert!((1.0..10.0).contains(&seen["took_s"].as_f64().unwrap()), "{seen}");

        // Unavailable for two hours: reported once, without a wait in the client.
        let stage = Stage::new("sdks_come_back", Upstream::with(limited_for(7200)), no_queue);
        let seen = sdk.run(&stage, "plain", &json!({"max_retries": 2}));
        stage.seen(&format!("{sdk:?}, out for 2 h: {seen}"));
        assert_eq!(seen["error"]["status"], 429);
        assert!(seen["took_s"].as_f64().unwrap() < 5.0, "{seen}");
        assert_eq!(stage.upstream.requests().len(), 1);
    }
}
