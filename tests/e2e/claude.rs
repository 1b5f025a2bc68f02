//! `claude -p` through the program.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Home, Value, json, oauth};
use crate::programs;
use crate::stage::{Stage, curable_failures, tool_result, tool_round_trip, tool_use};
use crate::upstream::message::error_event;
use crate::upstream::{Answer, Limits, Message, Request, Step, Upstream, failures};

/// Two accounts, of which the first is preferred.
fn two_accounts(home: Home) -> Home {
    home.account(oauth("a")).account(oauth("b")).priority(1, 1)
}

fn equal_accounts(home: Home) -> Home {
    home.account(oauth("a")).account(oauth("b"))
}

#[test]
fn claude_says_hi() {
    let stage = Stage::new("claude_says_hi", Upstream::start(), equal_accounts);
    let ran = stage.run_claude(&["-p", "say hi"]);
    stage.seen(&format!("{:?} in {:.1?}; {:?}", ran.stdout, ran.took, stage.requests()));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
}

#[test]
fn claude_does_not_notice_a_failover() {
    for (name, failure) in curable_failures() {
        let stage =
            Stage::new("claude_does_not_notice_a_failover", Upstream::start(), two_accounts);
        stage.upstream.always("token-a", failure);
        let ran = stage.run_claude(&["-p", "say hi"]);
        stage.seen(&format!("{name}: {:.1?}, {:?}", ran.took, stage.asked()));
        assert_eq!(
            (ran.code, ran.stdout.trim()),
            (Some(0), "Hello from upstream."),
            "{name}: {ran:?}"
        );
        assert_eq!(stage.asked(), ["token-a", "token-b"], "{name}");
    }
}

#[test]
fn claude_hears_at_once_that_its_plan_has_no_long_context() {
    let words = "Extra usage is required for long context requests.";
    let accounts: [(usize, fn(Home) -> Home); 2] = [
        (1, |home| home.account(oauth("a"))),
        (3, |home| home.account(oauth("a")).account(oauth("b")).account(oauth("c"))),
    ];
    for (count, accounts) in accounts {
        let upstream = Upstream::with(move |request| {
            let beta = request.header("anthropic-beta").unwrap_or_default();
            match beta.contains("context-1m") {
                true => Answer::error(429, "rate_limit_error", words),
                false => Answer::healthy(request),
            }
        });
        let stage = Stage::new("claude_hears_at_once", upstream, accounts);
        let ran = stage.run_claude(&["-p", "say hi", "--model", "claude-sonnet-4-5[1m]"]);
        let asked = stage.asked();
        stage.seen(&format!(
            "{count} accounts: {:?} in {:.1?} after {} calls",
            ran.stdout,
            ran.took,
            asked.len()
        ));
        assert!(ran.stdout.contains(words), "{ran:?}");
        assert!(ran.took < Duration::from_secs(20), "{ran:?}");
        let other = stage.run_claude(&["-p", "say hi", "--model", "claude-haiku-4-5"]);
        assert_eq!(other.stdout.trim(), "Hello from upstream.", "nobody is set aside: {other:?}");
        assert!(other.took < Duration::from_secs(20), "{other:?}");
    }
}

#[test]
fn claude_uses_a_tool() {
    let upstream = Upstream::with(|request| match request.path() {
        "/v1/messages" => tool_round_trip(
            request,
            "Bash",
            &json!({"command": "echo wrench", "description": "Say wrench"}),
        ),
        _ => Answer::healthy(request),
    });
    let stage = Stage::new("claude_uses_a_tool", upstream, equal_accounts);
    let ran = stage.run_claude(&["-p", "use a tool", "--allowedTools", "Bash(echo:*)"]);
    stage.seen(&format!("{:?} in {:.1?}; {:?}", ran.stdout, ran.took, stage.requests()));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "The tool said: wrench"), "{ran:?}");
    let order = stage.asked();
    assert!(
        order.iter().all(|credential| *credential == order[0]),
        "one session, one account: {order:?}"
    );
}

#[test]
fn claude_sees_every_delta() {
    let text: String = (0..2000).map(|number| format!("{number}✓ü\\\"\u{1F600} ")).collect();
    let answer = Answer::of(Message::text(text.trim_end())).pieces(97);
    let stage = Stage::new(
        "claude_sees_every_delta",
        Upstream::with(move |_| answer.clone()),
        equal_accounts,
    );
    let ran = stage.run_claude(&[
        "-p",
        "say much",
        "--output-format",
        "stream-json",
        "--include-partial-messages",
        "--verbose",
    ]);
    let mut said = String::new();
    let mut deltas = 0;
    for line in ran.stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(part) = line["event"]["delta"]["text"].as_str() {
            said.push_str(part);
            deltas += 1;
        }
    }
    stage.seen(&format!("{deltas} deltas in {:.1?}", ran.took));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!((deltas, said.as_str()), (2000, text.trim_end()));
}

#[test]
fn claude_stays_on_its_account_and_another_session_takes_the_other() {
    let stage = Stage::new("claude_stays_on_its_account", Upstream::start(), equal_accounts);
    let sessions = ["6f9619ff-8b86-4011-b42d-00c04fc964ff", "7a9619ff-8b86-4011-b42d-00c04fc964ff"];
    for turn in 0..3 {
        for session in sessions {
            let how = if turn == 0 { "--session-id" } else { "--resume" };
            let ran = stage.run_claude(&["-p", how, session, &format!("turn {turn}")]);
            assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
        }
    }
    for session in sessions {
        let requests = stage.upstream.requests();
        let own = requests
            .iter()
            .filter(|request| request.header("x-claude-code-session-id") == Some(session));
        let credentials: Vec<&str> = own.map(|request| request.credential()).collect();
        stage.seen(&format!("{session}: {credentials:?}"));
        assert!(credentials.len() >= 3, "{credentials:?}");
        assert!(
            credentials.iter().all(|credential| *credential == credentials[0]),
            "{credentials:?}"
        );
    }
    assert!(stage.upstream.count("token-a") >= 3 && stage.upstream.count("token-b") >= 3);
}

#[test]
fn claudes_agent_is_a_session_of_its_own() {
    let upstream = Upstream::with(|request| {
        if request.path() != "/v1/messages" {
            return Answer::healthy(request);
        }
        if request.header("x-claude-code-agent-id").is_some() {
            return Answer::message("I am the agent.");
        }
        match tool_result(request) {
            Some(result) => Answer::message(&format!("The agent said: {result}")),
            None => tool_use(
                "Agent",
                &json!({"description": "Say it", "prompt": "say who you are", "subagent_type": "general-purpose"}),
            ),
        }
    });
    let stage = Stage::new("claudes_agent_is_a_session_of_its_own", upstream, equal_accounts);
    let ran = stage.run_claude(&["-p", "ask an agent", "--allowedTools", "Agent"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (agents, own): (Vec<_>, Vec<_>) = stage
        .upstream
        .requests()
        .into_iter()
        .partition(|request| request.header("x-claude-code-agent-id").is_some());
    let by = |requests: &[Arc<Request>]| -> Vec<String> {
        requests.iter().map(|request| request.credential().to_owned()).collect()
    };
    stage.seen(&format!(
        "{:.1?}, the session by {:?}, its agent by {:?}",
        ran.took,
        by(&own),
        by(&agents)
    ));
    // Newer versions wait for their agents in the background, so the final output differs.
    assert!(own.len() >= 2 && !agents.is_empty(), "{:?}", stage.requests());
    assert!(by(&own).iter().all(|credential| *credential == by(&own)[0]), "{:?}", by(&own));
    assert_ne!(by(&own)[0], by(&agents)[0], "the agent takes the account that is less used");
}

#[test]
fn claude_keeps_signed_thinking() {
    let upstream = Upstream::with(|request| match (request.path(), tool_result(request)) {
        ("/v1/messages", _) => {
            Answer::of(Message::text("Thought through.").thinking("Let me think.", "c2lnbmF0dXJl"))
        }
        _ => Answer::healthy(request),
    });
    let stage = Stage::new("claude_keeps_signed_thinking", upstream, equal_accounts);
    let session = "8b9619ff-8b86-4011-b42d-00c04fc964ff";
    for how in ["--session-id", "--resume"] {
        let ran = stage.run_claude(&["-p", how, session, "think"]);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Thought through."), "{ran:?}");
    }
    let last = stage.upstream.requests().pop().unwrap();
    let signed = String::from_utf8_lossy(&last.body).contains("c2lnbmF0dXJl");
    let status = stage.proxy.status();
    stage.seen(&format!("signature sent back: {signed}; sessions {}", status["sessions"]));
    assert_eq!(status["sessions"]["thinkingProtected"], 1, "{}", status["sessions"]);
}

#[test]
fn claude_that_leaves_takes_its_stream_with_it() {
    let answer = Answer::of(Message::long(200, 16)).paced(Duration::from_millis(500));
    let stage =
        Stage::new("claude_that_leaves", Upstream::with(move |_| answer.clone()), equal_accounts);
    let running = programs::start(stage.claude(&["-p", "say much"]));
    stage.upstream.wait_requests(1);
    stage.proxy.wait_status("a stream", |status| status["scheduler"]["globalInFlight"] == 1);
    let left = std::time::Instant::now();
    running.terminate();
    stage.upstream.wait("the stream's end", |state| {
        state.connections.iter().any(|connection| connection.left.is_some())
    });
    stage.seen(&format!("the upstream's connection closed {:.0?} after SIGTERM", left.elapsed()));
    stage.proxy.wait_status("no lease", |status| status["scheduler"]["globalInFlight"] == 0);
    let account = stage.proxy.status()["accounts"].clone();
    assert!(
        account.as_array().unwrap().iter().all(|account| account["failedRequests"] == 0),
        "{account}"
    );
    drop(running.finish(crate::stage::PATIENCE));
}

#[test]
fn claude_with_a_wrong_key_says_so() {
    let locked = |home: Home| equal_accounts(home).set("proxy.requireKey", json!(true));
    let stage = Stage::new("claude_with_a_wrong_key_says_so", Upstream::start(), locked);
    let ran = stage.run_claude(&["-p", "say hi"]);
    stage.seen(&format!("wrong key: {ran:?}"));
    assert_ne!(ran.code, Some(0));
    assert_eq!(stage.upstream.requests().len(), 0);
    for name in ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"] {
        let mut command = stage.claude(&["-p", "say hi"]);
        command.env_remove("ANTHROPIC_AUTH_TOKEN").env(name, crate::harness::home::KEY);
        let ran = programs::start(command).finish(crate::stage::PATIENCE);
        stage.seen(&format!("the key as {name}: {:?} in {:.1?}", ran.stdout, ran.took));
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
    }
}

#[test]
fn claude_that_is_signed_in_is_served_by_the_pool() {
    let stage = Stage::new("claude_that_is_signed_in", Upstream::start(), equal_accounts);
    let directory = stage.client_home.join(".claude");
    std::fs::create_dir_all(&directory).unwrap();
    let login = json!({"claudeAiOauth": {
        "accessToken": "sk-ant-oat01-of-the-client", "refreshToken": "sk-ant-ort01-of-the-client",
        "expiresAt": crate::harness::home::epoch_ms() + 86_400_000,
        "scopes": ["user:inference", "user:profile"], "subscriptionType": "max",
    }});
    std::fs::write(directory.join(".credentials.json"), login.to_string()).unwrap();
    let mut command = stage.claude(&["-p", "say hi"]);
    command.env_remove("ANTHROPIC_AUTH_TOKEN");
    let ran = programs::start(command).finish(crate::stage::PATIENCE);
    stage.seen(&format!("{:?} in {:.1?}; {:?}", ran.stdout, ran.took, stage.requests()));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
    let pooled = stage
        .upstream
        .requests()
        .iter()
        .filter(|request| request.path() == "/v1/messages")
        .all(|request| request.credential().starts_with("token-"));
    assert!(pooled, "{:?}", stage.requests());
}

#[test]
fn claude_gets_over_a_stream_that_breaks() {
    let half = |step| Answer::of(Message::long(40, 16)).at(20, step);
    let breaks = [
        ("reset", half(Step::Reset)),
        ("end in the middle", half(Step::Fin)),
        (
            "error event in the middle",
            half(Step::Send(chunk(&error_event("overloaded_error", "Overloaded"))))
                .at(20, Step::Fin),
        ),
    ];
    for (name, answer) in breaks {
        let stage =
            Stage::new("claude_gets_over_a_stream_that_breaks", Upstream::start(), equal_accounts);
        stage.upstream.next("token-a", answer.clone());
        stage.upstream.next("token-b", answer);
        let ran = stage.run_claude(&["-p", "say hi"]);
        let streams: Vec<bool> =
            stage.upstream.requests().iter().map(|request| request.wants_stream()).collect();
        stage.seen(&format!(
            "{name}: {:?} in {:.1?}, requests with stream {streams:?}",
            ran.stdout, ran.took
        ));
        for line in stage.proxy.log().iter().filter(|line| line.contains("POST")) {
            stage.seen(line);
        }
        assert_eq!(
            (ran.code, ran.stdout.trim()),
            (Some(0), "Hello from upstream."),
            "{name}: {ran:?}"
        );
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[test]
fn claude_waits_for_a_slow_answer() {
    let slow = Answer::message("Hello from upstream.").before(Step::Pause(Duration::from_secs(25)));
    let stage = Stage::new(
        "claude_waits_for_a_slow_answer",
        Upstream::with(move |_| slow.clone()),
        equal_accounts,
    );
    let ran = stage.run_claude(&["-p", "say hi"]);
    stage.seen(&format!("{:?} in {:.1?}", ran.stdout, ran.took));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
    assert_eq!(stage.upstream.requests().len(), 1);
}

#[test]
fn claude_does_not_notice_that_a_token_was_renewed() {
    let stage = Stage::new(
        "claude_does_not_notice_that_a_token_was_renewed",
        Upstream::start(),
        two_accounts,
    );
    stage.upstream.state().oauth.grant("refresh-a");
    stage.upstream.always("token-a", failures::token_expired());
    let ran = stage.run_claude(&["-p", "say hi"]);
    stage.seen(&format!("{:?} in {:.1?}; {:?}", ran.stdout, ran.took, stage.requests()));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
    assert_eq!(stage.upstream.count("token-b"), 0, "{:?}", stage.requests());
    assert_eq!(stage.upstream.state().oauth.refreshes, ["refresh-a"]);
}

#[test]
fn claude_brings_providers_that_serve_while_its_accounts_are_out() {
    let (glm, kimi) = (Upstream::start(), Upstream::start());
    glm.always("glm-token", Answer::message("Hello from GLM."));
    kimi.always("kimi-token", Answer::message("Hello from Kimi."));
    let headers = [
        "x-maxpool-profile: all".to_owned(),
        "x-maxpool-zai-token: glm-token".to_owned(),
        format!("x-maxpool-zai-base-url: {}/api/anthropic", glm.url()),
        "x-maxpool-kimi-token: kimi-token".to_owned(),
        format!("x-maxpool-kimi-base-url: {}/coding", kimi.url()),
    ]
    .join("\n");
    let stage = Stage::new("claude_brings_providers", Upstream::start(), equal_accounts);
    let out = Duration::from_secs(4);
    let say = |expected: &str| {
        let mut command = stage.claude(&["-p", "say hi"]);
        command.env("ANTHROPIC_CUSTOM_HEADERS", &headers);
        let ran = programs::start(command).finish(crate::stage::PATIENCE);
        stage.seen(&format!("{:?} in {:.1?}", ran.stdout, ran.took));
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), expected), "{ran:?}");
    };
    say("Hello from upstream.");
    for token in ["token-a", "token-b"] {
        stage.upstream.always(token, failures::quota("five_hour", out));
    }
    say("Hello from GLM.");
    glm.always(
        "glm-token",
        failures::glm(
            "1308",
            "Usage limit reached for 5 hour. Your limit will reset at 2036-01-01 00:00:00",
        ),
    );
    say("Hello from Kimi.");
    for token in ["token-a", "token-b"] {
        stage.upstream.heal(token);
    }
    std::thread::sleep(out);
    say("Hello from upstream.");
    let to_glm = glm.requests();
    assert_eq!(to_glm[0].path(), "/api/anthropic/v1/messages");
    assert_eq!(to_glm[0].header("anthropic-beta"), None);
    stage.seen(&format!(
        "GLM was asked for {}, Kimi for {}",
        to_glm[0].json()["model"],
        kimi.only_request().json()["model"]
    ));
    for request in stage.upstream.requests().iter().chain(&to_glm).chain(&kimi.requests()) {
        let head = String::from_utf8_lossy(&request.head).to_lowercase();
        assert!(!head.contains("x-maxpool"), "{head}");
    }
}

#[test]
fn claude_tells_its_user_why_nothing_serves() {
    type Case = (&'static str, fn(Home) -> Home, Option<Answer>, &'static str);
    let week = failures::quota("seven_day", Duration::from_secs(4 * 86_400));
    let cases: [Case; 4] = [
        ("no account", |home| home, None, "maxpool login"),
        ("the week is used up", two_accounts, Some(week), "week"),
        ("forbidden", two_accounts, Some(failures::forbidden()), "forbids this request"),
        ("a bad request", two_accounts, Some(failures::invalid()), "at least one message"),
    ];
    for (name, prepare, answer, words) in cases {
        let upstream = Upstream::with(move |request| {
            answer.clone().unwrap_or_else(|| Answer::healthy(request))
        });
        let stage = Stage::new("claude_tells_its_user_why", upstream, prepare);
        let ran = stage.run_claude(&["-p", "say hi"]);
        let asked = stage.proxy.log().iter().filter(|line| line.contains("POST")).count();
        stage
            .seen(&format!("{name}: {:?} after {:.1?} and {asked} requests", ran.stdout, ran.took));
        assert_eq!(ran.code, Some(1), "{name}: {ran:?}");
        // Newer versions ask again with fewer features after a 400.
        assert!(asked <= 8, "{name}: {asked} requests");
        assert!(ran.stdout.contains(words), "{name}: {ran:?}");
    }
}
