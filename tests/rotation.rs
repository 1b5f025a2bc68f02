//! Which account serves (SPEC S3, S7, S8, S9), as seen from outside.

use std::time::Duration;

use crate::harness::{Ask, Home, Proxy, hello, json, oauth, provider, until};
use crate::upstream::{Answer, Limits, Upstream, failures};

fn start(upstream: &Upstream, home: Home) -> (Home, Proxy) {
    let home = home.upstream(&upstream.url());
    let proxy = Proxy::start(&home);
    (home, proxy)
}

fn in_session(session: &str) -> Ask {
    Ask::messages(&hello()).header("x-maxpool-session", session)
}

/// Sends the request and returns the credential that served it.
fn served_by(upstream: &Upstream, proxy: &Proxy, ask: &Ask) -> String {
    let reply = proxy.ask(ask);
    assert_eq!(reply.status, 200, "{}", reply.text());
    upstream.order().pop().expect("a request")
}

#[test]
fn without_a_session_requests_rotate_over_three_accounts() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a", "b", "c"]));
    for _ in 0..12 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    let order = upstream.order();
    for key in ["key-a", "key-b", "key-c"] {
        assert_eq!(upstream.count(key), 4, "{order:?}");
    }
    assert!(order.windows(2).all(|two| two[0] != two[1]), "{order:?}");
}

#[test]
fn a_session_stays_and_sessions_spread() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a", "b", "c"]));
    let mut homes = Vec::new();
    for session in ["one", "two", "three"] {
        let first = served_by(&upstream, &proxy, &in_session(session));
        for _ in 0..4 {
            assert_eq!(served_by(&upstream, &proxy, &in_session(session)), first);
        }
        homes.push(first);
    }
    homes.sort();
    assert_eq!(homes, ["key-a", "key-b", "key-c"]);
    for (session, _) in [("one", 0), ("two", 1), ("three", 2)] {
        let again = served_by(&upstream, &proxy, &in_session(session));
        assert_eq!(again, served_by(&upstream, &proxy, &in_session(session)));
    }
    let bindings = proxy.status()["sessions"]["stickyBindings"].clone();
    assert_eq!(bindings, 3);
}

/// A request as Claude Code sends it.
fn claude_code(session: &str, first: &str) -> serde_json::Value {
    let mut body = hello();
    body["messages"] = json!([{"role": "user", "content": first}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "go on"}]);
    body["metadata"] = json!({"user_id": session});
    body
}

#[test]
fn claude_codes_own_ids_make_sessions() {
    let long_id = |id: &str| format!("user_0f4e9a_account_77aa_session_{id}");
    let json_id =
        |id: &str| json!({"device_id": "d", "account_uuid": "", "session_id": id}).to_string();
    type Form = Box<dyn Fn(&str, &str) -> Ask>;
    let forms: Vec<(&str, Form)> = vec![
        (
            "header",
            Box::new(|id, first| {
                Ask::messages(&claude_code("", first)).header("X-Claude-Code-Session-Id", id)
            }),
        ),
        ("user_id", Box::new(move |id, first| Ask::messages(&claude_code(&long_id(id), first)))),
        (
            "user_id as JSON",
            Box::new(move |id, first| Ask::messages(&claude_code(&json_id(id), first))),
        ),
    ];
    for (name, ask) in forms {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream, Home::new().accounts(&["a", "b", "c"]));
        let main = served_by(&upstream, &proxy, &ask("s1", "hello"));
        let other = served_by(&upstream, &proxy, &ask("s2", "hello"));
        let subagent = served_by(&upstream, &proxy, &ask("s1", "a subagent's first message"));
        assert_ne!(main, other, "{name}: sessions spread");
        assert_ne!(main, subagent, "{name}: a subagent is a session of its own");
        for _ in 0..3 {
            assert_eq!(served_by(&upstream, &proxy, &ask("s1", "hello")), main, "{name}");
            assert_eq!(served_by(&upstream, &proxy, &ask("s2", "hello")), other, "{name}");
        }
    }
}

#[test]
fn an_agent_id_stands_for_the_first_message() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a", "b", "c"]));
    let ask = |agent: &str, first: &str| {
        Ask::messages(&claude_code("", first))
            .header("x-claude-code-session-id", "s1")
            .header("x-claude-code-agent-id", agent)
    };
    let one = served_by(&upstream, &proxy, &ask("agent-1", "first"));
    let two = served_by(&upstream, &proxy, &ask("agent-2", "first"));
    assert_ne!(one, two);
    assert_eq!(served_by(&upstream, &proxy, &ask("agent-1", "another first message")), one);
    assert_eq!(served_by(&upstream, &proxy, &ask("agent-2", "another first message")), two);
}

#[test]
fn affinity_can_be_for_the_header_alone_or_off() {
    for (setting, own_header_sticks) in [("header", true), ("off", false)] {
        let upstream = Upstream::start();
        let home =
            Home::new().accounts(&["a", "b"]).set("scheduler.sessionAffinity", json!(setting));
        let (_home, proxy) = start(&upstream, home);
        let by_user = Ask::messages(&claude_code("user_1_account__session_9", "x"));
        let first = served_by(&upstream, &proxy, &by_user);
        assert_ne!(served_by(&upstream, &proxy, &by_user), first, "{setting}: rotates");
        let first = served_by(&upstream, &proxy, &in_session("s"));
        let sticks = served_by(&upstream, &proxy, &in_session("s")) == first;
        assert_eq!(sticks, own_header_sticks, "{setting}");
    }
}

#[test]
fn a_displaced_session_returns_home() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a", "b"]));
    let home = served_by(&upstream, &proxy, &in_session("s"));
    upstream.next(&home, failures::overloaded().header("retry-after", "2"));
    let away = served_by(&upstream, &proxy, &in_session("s"));
    assert_ne!(away, home);
    assert_eq!(served_by(&upstream, &proxy, &in_session("s")), away, "while home is blocked");
    until("the session return home", || {
        (served_by(&upstream, &proxy, &in_session("s")) == home).then_some(())
    });
    assert_eq!(served_by(&upstream, &proxy, &in_session("s")), home);
}

#[test]
fn the_better_priority_serves_while_it_can() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a", "b"]).priority(0, 5);
    let (_home, proxy) = start(&upstream, home);
    for _ in 0..4 {
        assert_eq!(served_by(&upstream, &proxy, &Ask::messages(&hello())), "key-b");
    }
    upstream.next("key-b", failures::overloaded().header("retry-after", "1"));
    assert_eq!(served_by(&upstream, &proxy, &in_session("s")), "key-a");
    until("the session move to the better account", || {
        (served_by(&upstream, &proxy, &in_session("s")) == "key-b").then_some(())
    });
}

#[test]
fn a_disabled_account_never_serves() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a", "b"]).set("accounts.0.enabled", json!(false));
    let (_home, proxy) = start(&upstream, home);
    for _ in 0..4 {
        assert_eq!(served_by(&upstream, &proxy, &Ask::messages(&hello())), "key-b");
    }
    assert_eq!(proxy.account("a")["enabled"], false);
}

#[test]
fn the_preferred_account_serves_while_it_can() {
    let upstream = Upstream::start();
    let home = Home::new()
        .accounts(&["a", "b", "c"])
        .set("routing.mode", json!("preferred"))
        .set("routing.preferredAccount", json!("b"));
    let (_home, proxy) = start(&upstream, home);
    for _ in 0..4 {
        assert_eq!(served_by(&upstream, &proxy, &Ask::messages(&hello())), "key-b");
    }
    assert_eq!(proxy.status()["routing"], json!({"mode": "preferred", "preferredAccount": "b"}));
    upstream.next("key-b", failures::quota("five_hour", Duration::from_secs(3600)));
    for _ in 0..4 {
        assert_ne!(served_by(&upstream, &proxy, &Ask::messages(&hello())), "key-b");
    }
}

#[test]
fn a_profile_chooses_among_the_accounts_that_have_it() {
    let upstream = Upstream::start();
    let mut work = oauth("work");
    work["profiles"] = json!(["work"]);
    let home =
        Home::new().accounts(&["a"]).account(work).account(provider("glm", "zai", &upstream.url()));
    let (_home, proxy) = start(&upstream, home);
    let with = |profile: &str| Ask::messages(&hello()).header("x-maxpool-profile", profile);
    for _ in 0..3 {
        assert_eq!(served_by(&upstream, &proxy, &Ask::messages(&hello())), "key-a");
        assert_eq!(served_by(&upstream, &proxy, &with("claude")), "key-a");
        assert_eq!(served_by(&upstream, &proxy, &with("work")), "token-work");
        assert_eq!(
            served_by(&upstream, &proxy, &with("all")),
            "key-a",
            "Claude accounts come first"
        );
    }
    let message = proxy.ask(&with("nobody-has-this")).assert_error(400, "invalid_request_error");
    assert!(
        message.contains("nobody-has-this") || message.contains("x-maxpool-profile"),
        "{message}"
    );
    upstream.always("key-a", failures::quota("five_hour", Duration::from_secs(3600)));
    assert_eq!(served_by(&upstream, &proxy, &with("all")), "provider-glm");
}

#[test]
fn a_short_window_near_its_limit_is_used_last_and_a_full_one_not_at_all() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a", "b"]).set("queue.enabled", json!(false));
    let (_home, proxy) = start(&upstream, home);
    let window =
        |used: f64| Limits::new().status("allowed").window("5h", used, Duration::from_secs(3600));
    upstream.always("key-a", Answer::message("hi").limits(&window(0.93)));
    upstream.always("key-b", Answer::message("hi").limits(&window(0.2)));
    for _ in 0..8 {
        proxy.post(&hello()).assert_said("hi");
    }
    assert_eq!(upstream.count("key-a"), 1, "S3: above switchThreshold since its first answer");
    upstream.always("key-b", Answer::message("hi").limits(&window(1.0)));
    proxy.post(&hello()).assert_said("hi");
    proxy.post(&hello()).assert_said("hi");
    assert_eq!(upstream.count("key-a"), 2, "S3: it serves what no other can");
    upstream.always("key-a", Answer::message("hi").limits(&window(1.0)));
    proxy.post(&hello()).assert_said("hi");
    let reply = proxy.post(&hello());
    reply.assert_error(429, "rate_limit_error");
    assert!(reply.header("retry-after").is_some(), "the reset is known");
}

#[test]
fn a_window_of_one_family_blocks_that_family_only() {
    let upstream = Upstream::start();
    let home = Home::new().accounts(&["a"]).set("queue.enabled", json!(false));
    let (_home, proxy) = start(&upstream, home);
    upstream.next("key-a", failures::quota("seven_day_opus", Duration::from_secs(86400)));
    let mut opus = hello();
    opus["model"] = json!("claude-opus-4-1-20250805");
    proxy.post(&opus).assert_error(429, "rate_limit_error");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.post(&opus).assert_error(429, "rate_limit_error");
    assert_eq!(upstream.count("key-a"), 2);
}

#[test]
fn near_its_reset_an_account_is_cheap() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream, Home::new().accounts(&["a", "b"]));
    let window =
        |reset: u64| Limits::new().status("allowed").window("5h", 0.55, Duration::from_secs(reset));
    // The first answer has no limit headers, so that both accounts are used before one becomes
    // cheap.
    upstream.next("key-a", Answer::message("hi"));
    upstream.always("key-a", Answer::message("hi").limits(&window(600)));
    upstream.always("key-b", Answer::message("hi").limits(&window(5 * 3600 - 360)));
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("hi");
    }
    assert_eq!((upstream.count("key-a"), upstream.count("key-b")), (2, 1), "both are known now");
    for _ in 0..10 {
        proxy.post(&hello()).assert_said("hi");
    }
    let share = upstream.count("key-a") - 2;
    assert!(share >= 8, "{share} of 10 went to the account whose window ends in ten minutes");
}
