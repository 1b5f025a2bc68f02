//! Providers (SPEC section 7, P9, S8): Claude first and the others when it is out, each with its
//! own credential, model and limits.

use std::time::Duration;

use crate::harness::home::{KEY, epoch_ms};
use crate::harness::{
    Ask, Home, Proxy, Reply, Value, api_key, hello, hello_stream, json, provider, until,
};
use crate::upstream::{Answer, Limits, Message, Upstream, failures};

const HOUR: Duration = Duration::from_secs(3600);

/// A request with the profile `all`.
fn all(body: &Value) -> Ask {
    Ask::messages(body).header("x-maxpool-profile", "all")
}

fn control(proxy: &Proxy, target: &str) -> Reply {
    proxy.ask(&Ask::post(target, &json!({})).header("x-api-key", KEY))
}

/// Claude, GLM and Kimi upstreams, each with its own address.
struct World {
    claude: Upstream,
    glm: Upstream,
    kimi: Upstream,
}

impl World {
    fn new() -> World {
        World {
            claude: Upstream::start(),
            glm: Upstream::with(|_| Answer::message("Hello from GLM.")),
            kimi: Upstream::with(|_| Answer::message("Hello from Kimi.")),
        }
    }

    /// One API key and both providers in the config.
    fn home(&self) -> Home {
        Home::new()
            .upstream(&self.claude.url())
            .account(api_key("c"))
            .account(provider("glm", "zai", &self.glm.url()))
            .account(provider("kimi", "kimi", &self.kimi.url()))
            .set("accounts.1.modelMap", json!({"opus": "glm-5.3", "sonnet": "glm-5.3", "haiku": "glm-air", "default": "glm-5.3"}))
            .set("accounts.1.stripBetaHeaders", json!(true))
            .set("accounts.2.priority", json!(20))
            .set("accounts.2.model", json!("kimi-k3"))
    }

    /// `ask` with the headers that define both providers, in one of the two spellings.
    fn with_headers(&self, ask: Ask, prefix: &str) -> Ask {
        ask.header(&format!("{prefix}zai-token"), "zai-secret-0001")
            .header(&format!("{prefix}zai-base-url"), &self.glm.url())
            .header(&format!("{prefix}kimi-token"), "kimi-secret-0002")
            .header(&format!("{prefix}kimi-base-url"), &self.kimi.url())
    }

    fn claude_is_out(&self) {
        self.claude.always("key-c", failures::quota("five_hour", HOUR));
    }
}

#[test]
fn claude_comes_first_then_the_others_by_priority_and_claude_again_at_once() {
    let world = World::new();
    let home = world.home();
    let proxy = Proxy::start(&home);
    let said = |text: &str| proxy.ask(&all(&hello())).assert_said(text);
    said("Hello from upstream.");
    world.claude.always("key-c", failures::quota("five_hour", Duration::from_secs(3)));
    said("Hello from GLM.");
    world.glm.next("provider-glm", failures::glm("1302", "Rate limit reached for requests"));
    said("Hello from Kimi.");
    assert_eq!(proxy.account("glm")["status"], "throttled");
    // A request that may not use providers waits for Claude, and must not block a provider's
    // request behind it in the queue.
    let address = proxy.address();
    let waiting = std::thread::spawn(move || {
        crate::harness::Client::connect(address).ask(&Ask::messages(&hello()))
    });
    proxy.wait_status("one wait", |status| status["queue"]["waiting"] == 1);
    said("Hello from Kimi.");
    world.claude.heal("key-c");
    waiting.join().expect("a client").assert_said("Hello from upstream.");
    said("Hello from upstream.");
    assert_eq!(world.glm.requests().len(), 2);
    assert_eq!(world.kimi.requests().len(), 2);
}

#[test]
fn no_credential_reaches_another_upstream() {
    for prefix in ["x-maxpool-", "x-teamclaude-"] {
        let world = World::new();
        let home = Home::new().upstream(&world.claude.url()).account(api_key("c"));
        let proxy = Proxy::start(&home);
        let before = std::fs::read(home.config_path()).expect("read");
        let ask = |body: &Value| {
            world.with_headers(
                Ask::messages(body).header(&format!("{prefix}profile"), "all"),
                prefix,
            )
        };
        proxy.ask(&ask(&hello())).assert_said("Hello from upstream.");
        world.claude_is_out();
        proxy.ask(&ask(&hello())).assert_said("Hello from GLM.");
        world
            .glm
            .always("zai-secret-0001", failures::glm("1308", "Usage limit reached for 5 hour."));
        proxy.ask(&ask(&hello_stream())).assert_said("Hello from Kimi.");
        world.kimi.always("kimi-secret-0002", failures::unauthorized());
        let reply = proxy.ask(&ask(&hello()).header("x-maxpool-unknown", "x"));
        assert!(reply.status >= 400, "{}", reply.text());
        for (upstream, own) in [
            (&world.claude, "key-c"),
            (&world.glm, "zai-secret-0001"),
            (&world.kimi, "kimi-secret-0002"),
        ] {
            for request in upstream.requests() {
                assert_eq!(request.credential(), own);
                let text = String::from_utf8_lossy(&request.head).to_lowercase()
                    + &String::from_utf8_lossy(&request.body);
                for secret in ["key-c", "zai-secret-0001", "kimi-secret-0002"] {
                    assert!(secret == own || !text.contains(secret), "{secret} in {text}");
                }
                assert!(!text.contains("x-maxpool-") && !text.contains("x-teamclaude-"), "{text}");
            }
        }
        let shown = format!("{}{}{}", proxy.log().join("\n"), proxy.status(), reply.text());
        for secret in ["zai-secret-0001", "kimi-secret-0002", "key-c"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        assert_eq!(
            std::fs::read(home.config_path()).expect("read"),
            before,
            "never written to disk"
        );
        let status = proxy.status();
        let names: Vec<&str> = status["accounts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|account| account["name"].as_str())
            .collect();
        assert_eq!(names, ["c", "glm-fallback", "kimi-fallback"]);
        assert_eq!(
            (&status["accounts"][1]["priority"], &status["accounts"][2]["priority"]),
            (&json!(10), &json!(20))
        );
        assert_eq!(status["accounts"][1]["runtime"], true);
    }
}

#[test]
fn headers_without_the_profile_bring_nothing() {
    let world = World::new();
    let home = Home::new().upstream(&world.claude.url()).account(api_key("c"));
    let proxy = Proxy::start(&home);
    proxy
        .ask(&world.with_headers(Ask::messages(&hello()), "x-maxpool-"))
        .assert_said("Hello from upstream.");
    assert_eq!(proxy.status()["accounts"].as_array().map(Vec::len), Some(1));
    let head = String::from_utf8_lossy(&world.claude.only_request().head).to_lowercase();
    assert!(!head.contains("secret"), "{head}");
}

#[test]
fn header_accounts_are_updated_by_name_and_a_users_disable_stays() {
    let world = World::new();
    let home = Home::new()
        .upstream(&world.claude.url())
        .account(api_key("c"))
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    let glm = |token: &str| {
        all(&hello())
            .header("x-maxpool-zai-token", token)
            .header("x-maxpool-zai-base-url", &world.glm.url())
    };
    proxy.ask(&glm("zai-one")).assert_said("Hello from GLM.");
    world.glm.always("zai-one", failures::unauthorized());
    let reply = proxy.ask(&glm("zai-one"));
    assert!(matches!(reply.status, 429 | 502), "{} {}", reply.status, reply.text());
    assert_eq!(proxy.account("glm-fallback")["status"], "error");
    // A different token is a new credential, so it is tried at once.
    proxy.ask(&glm("zai-two")).assert_said("Hello from GLM.");
    assert_eq!(proxy.status()["accounts"].as_array().map(Vec::len), Some(2));
    assert_eq!(control(&proxy, "/maxpool/accounts/glm-fallback/disable").status, 200);
    for token in ["zai-two", "zai-three"] {
        let count = world.glm.requests().len();
        let reply = proxy.ask(&glm(token));
        assert_eq!(reply.status, 429, "{}", reply.text());
        assert_eq!(world.glm.requests().len(), count);
    }
    assert_eq!(proxy.account("glm-fallback")["enabled"], false);
    assert_eq!(control(&proxy, "/maxpool/accounts/glm-fallback/enable").status, 200);
    proxy.ask(&glm("zai-three")).assert_said("Hello from GLM.");
    assert_eq!(world.glm.order().pop().as_deref(), Some("zai-three"));
}

#[test]
fn an_account_of_the_file_outranks_a_header_of_its_name() {
    let world = World::new();
    let mut own = provider("glm-fallback", "zai", &world.glm.url());
    own["authToken"] = json!("provider-own");
    let home = Home::new().upstream(&world.claude.url()).account(api_key("c")).account(own);
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    proxy.ask(&world.with_headers(all(&hello()), "x-maxpool-")).assert_said("Hello from GLM.");
    assert_eq!(world.glm.only_request().credential(), "provider-own");
}

#[test]
fn a_header_that_cannot_be_used_is_named_and_not_repeated() {
    let world = World::new();
    let home = Home::new().upstream(&world.claude.url()).account(api_key("c"));
    let proxy = Proxy::start(&home);
    let ask = all(&hello())
        .header("x-maxpool-zai-token", "zai-secret-0001")
        .header("x-maxpool-zai-base-url", "ftp://nowhere");
    let message = proxy.ask(&ask).assert_error(400, "invalid_request_error");
    assert!(message.contains("x-maxpool-zai-base-url") && !message.contains("secret"), "{message}");
    let ask = all(&hello()).header("x-maxpool-zai-token", "zai secret 0001");
    let message = proxy.ask(&ask).assert_error(400, "invalid_request_error");
    assert!(message.contains("zai-token") && !message.contains("0001"), "{message}");
}

#[test]
fn the_model_map_changes_the_model_and_not_one_other_byte() {
    let world = World::new();
    let home = world.home();
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    let send = |body: &str| {
        let ask = Ask::new("POST", "/v1/messages?beta=true")
            .header("content-type", "application/json")
            .header("anthropic-beta", "context-1m-2025-08-07")
            .header("x-maxpool-profile", "all")
            .body(body.as_bytes().to_vec());
        proxy.ask(&ask).assert_said("Hello from GLM.");
        let request = world.glm.requests().pop().expect("a request");
        assert_eq!(request.target, "/v1/messages?beta=true");
        assert_eq!(request.header("anthropic-beta"), None, "stripBetaHeaders");
        String::from_utf8(request.body.clone()).expect("text")
    };
    let rows = [
        (
            "opus",
            r#"{"model":"claude-opus-4-8","messages":[]}"#,
            r#"{"model":"glm-5.3","messages":[]}"#,
        ),
        (
            "haiku",
            r#"{ "messages":[] ,"model" : "claude-haiku-4-5"  }"#,
            r#"{ "messages":[] ,"model" : "glm-air"  }"#,
        ),
        ("default", "{\n\t\"model\":\"claude-mythos-1\"\n}", "{\n\t\"model\":\"glm-5.3\"\n}"),
        (
            "escapes",
            r#"{"model":"claude-opus","x":"\u00e9\/\"model\":\"claude-opus\""}"#,
            r#"{"model":"glm-5.3","x":"\u00e9\/\"model\":\"claude-opus\""}"#,
        ),
        (
            "an escaped key",
            r#"{"mod\u0065l":"claude-opus","n":1e400}"#,
            r#"{"mod\u0065l":"glm-5.3","n":1e400}"#,
        ),
        (
            "twice",
            r#"{"model":"claude-opus","model":"claude-haiku"}"#,
            r#"{"model":"glm-air","model":"glm-air"}"#,
        ),
        (
            "deep ones stay",
            r#"{"tools":[{"model":"claude-opus"}],"messages":[{"role":"user","content":[{"model":"claude-opus"}]}],"model":"claude-opus"}"#,
            r#"{"tools":[{"model":"claude-opus"}],"messages":[{"role":"user","content":[{"model":"claude-opus"}]}],"model":"glm-5.3"}"#,
        ),
        (
            "none",
            r#"{"messages":[{"role":"user","content":"model"}]}"#,
            r#"{"messages":[{"role":"user","content":"model"}]}"#,
        ),
        ("no string", r#"{"model":7,"messages":[]}"#, r#"{"model":7,"messages":[]}"#),
    ];
    for (what, sent, expected) in rows {
        assert_eq!(send(sent), expected, "{what}");
    }
}

#[test]
fn header_accounts_ask_for_the_models_of_their_headers() {
    let world = World::new();
    let home = Home::new().upstream(&world.claude.url()).account(api_key("c"));
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    let model = |named: &[(&str, &str)], asked: &str| {
        let mut body = hello();
        body["model"] = json!(asked);
        let ask = all(&body)
            .header("x-maxpool-zai-token", "zai-t")
            .header("x-maxpool-zai-base-url", &world.glm.url());
        let ask = named.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        proxy.ask(&ask).assert_said("Hello from GLM.");
        world.glm.requests().pop().expect("a request").json()["model"]
            .as_str()
            .unwrap_or("")
            .to_owned()
    };
    assert_eq!(model(&[], "claude-sonnet-4-5"), "glm-5.3");
    assert_eq!(model(&[("x-maxpool-zai-model", "glm-9")], "claude-opus-4-5"), "glm-9");
    assert_eq!(model(&[("x-maxpool-zai-model", "glm-9")], "claude-haiku-4-5"), "glm-5.3");
    let three = [
        ("x-maxpool-zai-opus-model", "o"),
        ("x-maxpool-zai-sonnet-model", "s"),
        ("x-teamclaude-zai-haiku-model", "h"),
    ];
    assert_eq!(model(&three, "claude-opus-4-5"), "o");
    assert_eq!(model(&three, "claude-haiku-4-5"), "h");
    assert_eq!(model(&three, "something-else"), "s", "default = sonnet");
    control(&proxy, "/maxpool/accounts/glm-fallback/disable");
    proxy.ask(&world.with_headers(all(&hello()), "x-maxpool-")).assert_said("Hello from Kimi.");
    assert_eq!(world.kimi.only_request().json()["model"], "kimi-k3");
}

#[test]
fn a_provider_has_its_own_header_prefix_and_model() {
    let world = World::new();
    let local = Upstream::with(|_| Answer::message("Hello from here."));
    let mut own = provider("local", "local", &format!("{}/api/anthropic", local.url()));
    own["authHeader"] = json!("x-api-key");
    own["model"] = json!("qwen3-coder");
    let home = Home::new().upstream(&world.claude.url()).account(api_key("c")).account(own);
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    proxy.ask(&all(&hello()).header("anthropic-beta", "kept")).assert_said("Hello from here.");
    let request = local.only_request();
    assert_eq!(request.target, "/api/anthropic/v1/messages");
    assert_eq!(request.header("x-api-key"), Some("provider-local"));
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("anthropic-beta"), Some("kept"));
    assert_eq!(request.json()["model"], "qwen3-coder");
}

#[test]
fn a_provider_without_count_tokens_is_not_blamed() {
    let world = World::new();
    let home = world.home();
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    let unknown = r#"{"timestamp":"2026-08-01T00:00:00Z","status":404,"error":"Not Found","path":"/v1/messages/count_tokens"}"#;
    world.glm.next("provider-glm", Answer::json(404, unknown));
    let ask = Ask::post("/v1/messages/count_tokens", &hello()).header("x-maxpool-profile", "all");
    let reply = proxy.ask(&ask);
    assert_eq!((reply.status, reply.text().as_str()), (404, unknown));
    let glm = proxy.account("glm");
    assert_eq!((&glm["status"], &glm["consecutiveFailures"]), (&json!("active"), &json!(0)));
    assert!(world.kimi.requests().is_empty());
    proxy.ask(&all(&hello())).assert_said("Hello from GLM.");
}

/// A body whose last answer contains a signed thinking block.
fn with_signed_thinking() -> Value {
    json!({
        "model": "claude-opus-4-5", "max_tokens": 64,
        "messages": [
            {"role": "user", "content": "Think"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}, {"type": "text", "text": "yes"}]},
            {"role": "user", "content": "And?"},
        ],
    })
}

#[test]
fn signed_thinking_in_a_request_is_kept_from_providers_and_told() {
    let world = World::new();
    let home = world.home().set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    // The first request meets the refusal itself, the second one what is known afterwards.
    for _ in 0..2 {
        let reply = proxy.ask(&all(&with_signed_thinking()).header("x-maxpool-session", "s"));
        let message = reply.assert_error(429, "rate_limit_error");
        assert!(message.contains("thinking") && message.contains("provider"), "{message}");
        assert!(message.contains("59m") || message.contains("1h"), "{message}");
    }
    let mut redacted = with_signed_thinking();
    redacted["messages"][1]["content"][0] = json!({"type": "redacted_thinking", "data": "ZW5j"});
    proxy.ask(&all(&redacted)).assert_error(429, "rate_limit_error");
    // This applies to the whole session, even if its next request has no thinking.
    proxy
        .ask(&all(&hello()).header("x-maxpool-session", "s"))
        .assert_error(429, "rate_limit_error");
    assert!(world.glm.requests().is_empty() && world.kimi.requests().is_empty());
    proxy.ask(&all(&hello()).header("x-maxpool-session", "other")).assert_said("Hello from GLM.");
    let mut foreign = with_signed_thinking();
    foreign["messages"][1]["content"][0] =
        json!({"type": "thinking", "thinking": "hm", "signature": ""});
    proxy.ask(&all(&foreign)).assert_said("Hello from GLM.");
}

#[test]
fn signed_thinking_in_an_answer_binds_the_session_to_claude() {
    let world = World::new();
    let home = world.home().set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let thought = Message::text("Done.")
        .thinking("Let me see", "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pk");
    let rows = [
        ("streamed", true, Answer::of(thought.clone())),
        ("streamed byte by byte", true, Answer::of(thought.clone()).pieces(1)),
        ("streamed in threes, CRLF", true, Answer::of(thought.clone().crlf()).pieces(3)),
        ("as JSON", false, Answer::of(thought)),
    ];
    for (what, streamed, answer) in rows {
        world.claude.heal("key-c");
        world.claude.next("key-c", answer);
        let session = |body: &Value| all(body).header("x-maxpool-session", what);
        let body = if streamed { hello_stream() } else { hello() };
        proxy.ask(&session(&body)).assert_said("Done.");
        world.claude_is_out();
        for _ in 0..2 {
            let reply = proxy.ask(&session(&hello()));
            let message = reply.assert_error(429, "rate_limit_error");
            assert!(message.contains("thinking"), "{what}: {message}");
        }
        assert!(world.glm.requests().is_empty(), "{what}");
        // Start afresh for the next row.
        assert!(anew(&proxy, &home), "{what}");
    }
}

/// Removes and adds the account, which clears its windows and blocks. True if it is then available.
fn anew(proxy: &Proxy, home: &Home) -> bool {
    let config = home.read();
    let mut without = config.clone();
    without["accounts"].as_array_mut().expect("a list").remove(0);
    home.write_text(&without.to_string());
    control(proxy, "/maxpool/reload");
    home.write_text(&config.to_string());
    control(proxy, "/maxpool/reload");
    proxy.account("c")["unavailable"].is_null()
}

#[test]
fn a_conversation_with_signed_thinking_waits_for_claude() {
    let world = World::new();
    let home = world.home();
    let proxy = Proxy::start(&home);
    world.claude.next("key-c", failures::quota("five_hour", Duration::from_secs(2)));
    proxy.ask(&all(&with_signed_thinking())).assert_said("Hello from upstream.");
    assert!(world.glm.requests().is_empty() && world.kimi.requests().is_empty());
    assert_eq!(world.claude.requests().len(), 2);
}

#[test]
fn what_a_provider_itself_has_signed_binds_nobody() {
    let world = World::new();
    let home = world.home();
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    world.glm.next(
        "provider-glm",
        Answer::of(Message::text("Done.").thinking("hm", "their-own-signature")),
    );
    let ask = all(&hello_stream()).header("x-maxpool-session", "s");
    proxy.ask(&ask).assert_said("Done.");
    proxy.ask(&ask).assert_said("Hello from GLM.");
}

#[test]
fn a_body_that_cannot_be_read_to_its_end_is_kept_from_providers() {
    let world = World::new();
    let home =
        world.home().set("queue.enabled", json!(false)).set("accounts.0.enabled", json!(false));
    let proxy = Proxy::start(&home);
    for body in [
        &br#"{"model":"m","messages":[{"content":[{"type":"thinking","signature":"x""#[..],
        b"{} {}",
        b"not json",
    ] {
        let ask =
            Ask::new("POST", "/v1/messages").header("x-maxpool-profile", "all").body(body.to_vec());
        let message = proxy.ask(&ask).assert_error(400, "invalid_request_error");
        assert!(message.contains("JSON") && message.contains("provider"), "{message}");
    }
    assert!(world.glm.requests().is_empty() && world.kimi.requests().is_empty());
}

/// Each row is a refusal and how long the account must be left alone.
#[test]
fn a_providers_429_says_when_it_ends() {
    let provider_upstream = Upstream::with(|_| Answer::message("served"));
    let china = |wait: Duration| {
        // China Standard Time is UTC+8 all year.
        let at = crate::upstream::limits::rfc3339(std::time::SystemTime::now() + wait + 8 * HOUR);
        at.trim_end_matches('Z').replace('T', " ")
    };
    let two_hours = 2 * HOUR;
    let bare = |status: u16, body: &str| Answer::json(status, body);
    let rows: Vec<(&str, Answer, u64)> = vec![
        ("1302", failures::glm("1302", "Rate limit reached for requests"), 60),
        ("1303", failures::glm("1303", "当前API请求过多，请稍后重试。"), 60),
        ("1305 as a number", bare(429, r#"{"error":{"code":1305,"message":"overloaded"}}"#), 60),
        ("1304 in words", failures::glm("1304", "daily limit"), 3600),
        ("1308", failures::glm("1308", &format!("Usage limit reached for 5 hour. Your limit will reset at {}", china(two_hours))), 7200),
        ("1308 in Chinese", failures::glm("1308", &format!("已达到 5 小时的使用上限。您的限额将在 {} 重置。", china(two_hours))), 7200),
        ("1310 next_flush_time", bare(429, &json!({"error": {"code": "1310", "message": "weekly", "next_flush_time": china(3 * HOUR)}}).to_string()), 10_800),
        ("1316 a week away is a day", failures::glm("1316", &format!("reset at {}", china(150 * HOUR))), 86_400),
        ("1309 without a time", failures::glm("1309", "Your plan has expired"), 3600),
        ("Kimi seconds", failures::kimi("rate_limit_reached_error", "max organization concurrency: 3, please try again after 7 seconds"), 7),
        ("Kimi without", failures::kimi("rate_limit_reached_error", "request reached organization max RPM"), 60),
        ("Kimi engine", failures::kimi("engine_overloaded_error", "The engine is currently overloaded"), 60),
        ("Kimi balance", failures::kimi("exceeded_current_quota_error", "Your account is suspended, please check your plan"), 3600),
        ("a header wins", failures::glm("1308", "Usage limit reached").limits(&Limits::new().retry_after(90)), 90),
        ("a generic header", failures::glm("1302", "x").header("x-ratelimit-remaining", "0").header("x-ratelimit-reset", "120"), 120),
        ("nothing known", bare(429, "slow down"), 60),
        ("gzip with a header", bare(429, r#"{"error":{"code":"1308"}}"#).gzipped().header("retry-after", "75"), 75),
    ];
    let mut home =
        Home::new().upstream(&provider_upstream.url()).set("queue.enabled", json!(false));
    for index in 0..rows.len() {
        let mut account = provider(&format!("p{index}"), "zai", &provider_upstream.url());
        account["profiles"] = json!([format!("only{index}")]);
        home = home.account(account);
    }
    let proxy = Proxy::start(&home);
    for (index, (what, answer, wait_s)) in rows.into_iter().enumerate() {
        provider_upstream.next(&format!("provider-p{index}"), answer);
        let ask = Ask::messages(&hello()).header("x-maxpool-profile", &format!("only{index}"));
        let reply = proxy.ask(&ask);
        reply.assert_error(429, "rate_limit_error");
        let told: u64 = reply.header("retry-after").unwrap_or("0").parse().unwrap_or(0);
        // Wake-ups that are close together are spread over five seconds (S10).
        assert!(
            (wait_s.saturating_sub(3)..=wait_s + 8).contains(&told),
            "{what}: retry-after {told}, not {wait_s}: {}",
            reply.text()
        );
        let account = proxy.account(&format!("p{index}"));
        assert_eq!(account["status"], "throttled", "{what}: {account:#}");
        assert!(account["rateLimitedUntil"].is_string(), "{what}");
    }
}

#[test]
fn a_refused_provider_is_named_and_a_forbidden_request_blames_nobody() {
    let world = World::new();
    let home = world
        .home()
        .set("queue.enabled", json!(false))
        .set("accounts.0.enabled", json!(false))
        .set("accounts.2.enabled", json!(false));
    let proxy = Proxy::start(&home);
    world.glm.next(
        "provider-glm",
        Answer::error(401, "authentication_error", "token expired or incorrect"),
    );
    let message = proxy.ask(&all(&hello())).assert_error(502, "provider_auth_error");
    assert!(message.contains("glm") && !message.contains("provider-glm"), "{message}");
    assert_eq!(proxy.account("glm")["status"], "error");
    proxy.ask(&all(&hello())).assert_error(502, "provider_auth_error");
    assert_eq!(world.glm.requests().len(), 1, "not before the credential changes");
    let mut config = home.read();
    config["accounts"][1]["authToken"] = json!("provider-new");
    home.write_text(&config.to_string());
    control(&proxy, "/maxpool/reload");
    world.glm.next(
        "provider-new",
        Answer::error(403, "permission_error", "Your plan does not include this model"),
    );
    let message = proxy.ask(&all(&hello())).assert_error(502, "proxy_error");
    assert!(message.contains("Your plan"), "{message}");
    assert!(proxy.account("glm")["cooldownUntil"].is_null(), "a 403 alone blames nobody");
}

#[test]
fn a_provider_that_fails_moves_the_request_on_like_any_other() {
    let world = World::new();
    let home = world.home();
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    let thrown = [
        failures::server_error(500),
        failures::edge_html(502),
        failures::overloaded(),
        failures::reset(),
        failures::first_event_error("overloaded_error", "busy"),
    ];
    for answer in thrown {
        world.glm.always("provider-glm", answer);
        proxy.ask(&all(&hello_stream())).assert_said("Hello from Kimi.");
        // Clears the cooldown.
        control(&proxy, "/maxpool/accounts/glm/disable");
        let config = home.read();
        let mut without = config.clone();
        without["accounts"].as_array_mut().expect("a list").remove(1);
        home.write_text(&without.to_string());
        control(&proxy, "/maxpool/reload");
        home.write_text(&config.to_string());
        control(&proxy, "/maxpool/reload");
        control(&proxy, "/maxpool/accounts/glm/enable");
    }
    assert!(world.glm.requests().len() >= 5);
}

#[test]
fn a_providers_figures_are_in_status_and_log() {
    let world = World::new();
    let home = world.home();
    let proxy = Proxy::start(&home);
    world.claude_is_out();
    let reset = (epoch_ms() / 1000 + 600).to_string();
    let limits = Limits::new()
        .header("x-ratelimit-limit", "120")
        .header("x-ratelimit-remaining", "77")
        .header("x-ratelimit-reset", &reset);
    world.glm.next("provider-glm", Answer::message("one").limits(&limits));
    proxy.ask(&all(&hello())).assert_said("one");
    world.glm.next("provider-glm", failures::server_error(500));
    proxy.ask(&all(&hello())).assert_said("Hello from Kimi.");
    let glm = proxy.account("glm");
    assert_eq!(
        (&glm["completedRequests"], &glm["failedRequests"], &glm["lastStatus"]),
        (&json!(1), &json!(1), &json!(500)),
        "{glm:#}"
    );
    assert!(glm["lastResponseMs"].is_u64(), "{glm:#}");
    assert_eq!(
        (&glm["quota"]["genericLimit"], &glm["quota"]["genericRemaining"]),
        (&json!(120), &json!(77)),
        "{glm:#}"
    );
    assert_eq!(glm["usage"]["totalOutputTokens"], 15);
    assert_eq!((&glm["type"], &glm["provider"]), (&json!("provider"), &json!("zai")));
    let gate = world.kimi.gate();
    world.kimi.next(
        "provider-kimi",
        Answer::message("slow").before(crate::upstream::Step::Hold(gate.clone())),
    );
    let mut client = proxy.connect();
    let ask = all(&hello());
    client.send_ask(&ask);
    proxy.wait_status("one in flight", |status| status["accounts"][2]["inFlight"] == 1);
    gate.open();
    client.read_reply(&ask).assert_said("slow");
    let line = proxy.wait_line("the request on GLM", |line| {
        line.contains("POST") && line.contains("glm") && line.contains("200")
    });
    assert!(line.contains("/v1/messages"), "{line}");
    proxy.wait_line("that GLM failed", |line| {
        line.contains("glm") && line.contains("500") && line.contains("kimi")
    });
}
