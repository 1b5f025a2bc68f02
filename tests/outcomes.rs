//! What an answer means for the account and the request (SPEC P7), row by row.

use std::time::Duration;

use crate::harness::home::epoch_ms;
use crate::harness::{Home, Proxy, Value, hello, hello_stream, json};
use crate::upstream::{Answer, Limits, Upstream, failures};

const HOUR: Duration = Duration::from_secs(3600);

/// The table does not specify how this row counts.
const ANY: u64 = u64::MAX;

/// Accounts `a` (always first) and `b`. Nothing waits, so that the end of every path is visible at
/// once.
fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .priority(1, 1)
        .set("timeouts.headersMs", json!(400))
        .set("timeouts.nonStreamHeadersMs", json!(400))
        .set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// Milliseconds from now until an ISO 8601 time of the status document; `None` for null.
pub(super) fn ms_until(time: &Value) -> Option<i64> {
    let text = time.as_str()?;
    assert_eq!((text.len(), text.ends_with('Z')), (24, true), "YYYY-MM-DDTHH:MM:SS.mmmZ: {text}");
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().expect("a number");
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // A date from a day count, with years that begin in March (Howard Hinnant's `days_from_civil`).
    let shifted = if month <= 2 { year - 1 } else { year };
    let month_index = (month + 9) % 12;
    let day_of_year = (153 * month_index + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    let seconds = days * 86400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    let now = i64::try_from(epoch_ms()).expect("now fits");
    Some(seconds * 1000 + number(20, 23) - now)
}

/// Which field of the status shows the block, and the bounds of its duration.
enum Block {
    None,
    Limited { from: u64, to: u64 },
    Cooling { from: u64, to: u64 },
}

struct Row {
    name: &'static str,
    answer: Answer,
    status: &'static str,
    block: Block,
    failures: u64,
}

fn rows() -> Vec<Row> {
    let row = |name, answer, status, block, failures| Row { name, answer, status, block, failures };
    let limited = |from, to| Block::Limited { from, to };
    let cooling = |from, to| Block::Cooling { from, to };
    vec![
        row(
            "429 five_hour",
            failures::quota("five_hour", HOUR),
            "throttled",
            limited(3560, 3602),
            1,
        ),
        row(
            "429 requests used up",
            failures::counted("requests", 2 * HOUR),
            "throttled",
            limited(7190, 7202),
            1,
        ),
        row(
            "429 tokens used up",
            failures::counted("tokens", HOUR),
            "throttled",
            limited(3560, 3602),
            1,
        ),
        row(
            "429 whose message says quota",
            failures::quota_message("Claude AI usage limit reached"),
            "throttled",
            limited(50, 61),
            1,
        ),
        row(
            "429 whose message names the organization's limit",
            failures::quota_message("Your organization has exceeded its rate limit of 50 requests"),
            "throttled",
            limited(50, 61),
            1,
        ),
        row(
            "429 quota with the later retry-after",
            failures::quota_message("weekly limit reached").header("retry-after", "7200"),
            "throttled",
            limited(7190, 7201),
            1,
        ),
        row("429 server-side", failures::server_side(), "throttled", limited(3, 6), 0),
        row(
            "429 server-side with retry-after",
            failures::server_side().header("retry-after", "20"),
            "throttled",
            limited(17, 21),
            0,
        ),
        row(
            "429 server-side is held at 30 s",
            failures::server_side().header("retry-after", "4000"),
            "throttled",
            limited(26, 31),
            0,
        ),
        row("429 without evidence", failures::bare_429(), "throttled", limited(26, 31), 0),
        row(
            "429 overloaded_error",
            Answer::error(429, "overloaded_error", "Overloaded"),
            "throttled",
            limited(3, 6),
            0,
        ),
        row("529", failures::overloaded(), "active", cooling(26, 31), 0),
        row(
            "529 with retry-after",
            failures::overloaded().header("retry-after", "8"),
            "active",
            cooling(5, 9),
            0,
        ),
        row("500", failures::server_error(500), "active", cooling(26, 31), 0),
        row("502", failures::edge_html(502), "active", cooling(26, 31), 1),
        row("503", failures::server_error(503), "active", cooling(26, 31), 1),
        row("504", failures::edge_html(504), "active", cooling(26, 31), 1),
        row("403", failures::forbidden(), "active", cooling(1790, 1801), 0),
        row("401 on an API key", failures::unauthorized(), "error", Block::None, 0),
        row("reset before the answer", failures::reset(), "active", cooling(3, 6), 0),
        row("closed before the answer", failures::closed(), "active", cooling(3, 6), 0),
        row("silent until the header timeout", failures::silent(), "active", cooling(3, 6), 0),
        row("half a head", failures::half_head(), "active", cooling(3, 6), 0),
        row(
            "a stream that begins with an overloaded_error",
            failures::first_event_error("overloaded_error", "Overloaded"),
            "active",
            cooling(26, 31),
            0,
        ),
        row(
            "a stream that begins with an api_error",
            failures::first_event_error("api_error", "Internal server error"),
            "active",
            cooling(26, 31),
            0,
        ),
        row(
            "a stream that begins with a rate_limit_error about quota",
            failures::first_event_error("rate_limit_error", "usage limit reached")
                .limits(&Limits::rejected("five_hour", HOUR)),
            "throttled",
            limited(3560, 3602),
            1,
        ),
        row(
            "an error event split across chunks",
            failures::first_event_error("overloaded_error", "Overloaded").pieces(9),
            "active",
            cooling(26, 31),
            0,
        ),
    ]
}

#[test]
fn a_failure_that_another_account_may_cure_moves_on_and_blocks_as_the_table_says() {
    let mut wrong = Vec::new();
    for row in rows() {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream);
        upstream.always("key-a", row.answer.clone());
        let reply = proxy.post(&hello_stream());
        let mut complain = |text: String| wrong.push(format!("{}: {text}", row.name));
        if reply.status != 200 || reply.said() != "Hello from upstream." {
            complain(format!("the client saw {} {}", reply.status, reply.text()));
        }
        if upstream.order() != ["key-a", "key-b"] {
            complain(format!("the accounts were asked in the order {:?}", upstream.order()));
        }
        let account = proxy.account("a");
        if account["status"] != row.status {
            complain(format!("status {} instead of {}", account["status"], row.status));
        }
        if row.failures != ANY && account["consecutiveFailures"] != row.failures {
            complain(format!(
                "{} failures instead of {}",
                account["consecutiveFailures"], row.failures
            ));
        }
        let limited = ms_until(&account["rateLimitedUntil"]);
        let cooling = ms_until(&account["cooldownUntil"]);
        let within = |ms: Option<i64>, from: u64, to: u64| {
            ms.is_some_and(|ms| (from * 1000..=to * 1000).contains(&u64::try_from(ms).unwrap_or(0)))
        };
        let right = match row.block {
            Block::None => limited.is_none(),
            Block::Limited { from, to } => within(limited, from, to) && cooling.is_none(),
            Block::Cooling { from, to } => within(cooling, from, to) && limited.is_none(),
        };
        if !right {
            complain(format!(
                "rateLimitedUntil in {limited:?} ms, cooldownUntil in {cooling:?} ms"
            ));
        }
        upstream.heal("key-a");
        let again = proxy.post(&hello());
        if again.status != 200 || upstream.order().last().map(String::as_str) != Some("key-b") {
            complain(format!("the next request went to {:?}", upstream.order().last()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_no_account_can_cure_is_passed_on_byte_for_byte_and_blames_nobody() {
    let rows = [
        ("400", 400, failures::invalid()),
        ("thread_unsupported_request", 400, failures::thread_unsupported()),
        ("413", 413, Answer::error(413, "request_too_large", "Request exceeds the maximum size")),
        ("422", 422, Answer::json(422, "{\"odd\" : true}")),
        (
            "400 in HTML",
            400,
            Answer::bytes(400, b"<html>bad</html>").header("content-type", "text/html"),
        ),
        (
            "a refusal by the model",
            200,
            Answer::json(200, r#"{"type":"message","stop_reason":"refusal","content":[]}"#),
        ),
    ];
    for (name, status, answer) in rows {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream);
        upstream.always("key-a", answer);
        let reply = proxy.post(&hello());
        assert_eq!(reply.status, status, "{name}");
        let sent = upstream.state().connections[0].sent;
        assert_eq!(crate::upstream::Digest::of(&reply.body), sent, "{name}");
        assert_eq!(reply.header("request-id"), Some("req_011CSHoEeqs5C35K2UUqR7Fy"), "{name}");
        assert_eq!(upstream.order(), ["key-a"], "{name}");
        let account = proxy.account("a");
        assert_eq!(account["status"], "active", "{name}");
        assert_eq!(account["consecutiveFailures"], 0, "{name}");
        assert!(
            account["cooldownUntil"].is_null() && account["rateLimitedUntil"].is_null(),
            "{name}"
        );
    }
}

#[test]
fn when_all_are_out_the_client_learns_the_true_cause() {
    let own = |status: u16| (status, None);
    let rows = [
        ("quota", failures::quota("five_hour", HOUR), (429, Some("rate_limit_error"))),
        ("server-side 429", failures::server_side(), own(429)),
        ("bare 429", failures::bare_429(), own(429)),
        ("529", failures::overloaded(), own(529)),
        ("500", failures::server_error(500), own(500)),
        ("502", failures::edge_html(502), own(502)),
        ("503", failures::server_error(503), own(503)),
        ("401", failures::unauthorized(), (502, Some("account_auth_error"))),
        ("403", failures::forbidden(), (502, Some("proxy_error"))),
        ("reset", failures::reset(), (503, Some("connection_unavailable"))),
        ("silent", failures::silent(), (503, Some("connection_unavailable"))),
    ];
    for (name, answer, (status, kind)) in rows {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream);
        upstream.always("key-a", answer.clone());
        upstream.always("key-b", answer);
        let reply = proxy.post(&hello());
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
        match kind {
            Some(kind) => {
                let (have, message) = reply.error();
                assert!(kind.is_empty() || have == kind, "{name}: {have}");
                match name {
                    "401" => assert!(message.contains('a') && message.contains('b'), "{message}"),
                    "403" => {
                        assert!(message.contains("not allowed for this organization"), "{message}")
                    }
                    _ => {}
                }
            }
            None => {
                // The upstream counts a write only after it is done.
                let have = crate::upstream::Digest::of(&reply.body);
                upstream.wait(&format!("{name}: its own answer arrive"), |state| {
                    state.connections.iter().any(|connection| connection.sent == have)
                });
            }
        }
        assert_eq!(upstream.order(), ["key-a", "key-b"], "{name}: one pass over the accounts");
    }
}

#[test]
fn quota_that_all_have_used_up_comes_with_the_soonest_time() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream.always("key-a", failures::quota("five_hour", 2 * HOUR));
    upstream.always("key-b", failures::quota("five_hour", HOUR));
    let reply = proxy.post(&hello());
    let message = reply.assert_error(429, "rate_limit_error");
    let retry: u64 =
        reply.header("retry-after").expect("the time is known").parse().expect("seconds");
    assert!((3590..=3602).contains(&retry), "{retry}");
    assert!(reply.header("x-should-retry").is_some());
    assert!(message.contains("in 1h") || message.contains("in 59m"), "{message}");
    let before = upstream.requests().len();
    let again = proxy.post(&hello());
    again.assert_error(429, "rate_limit_error");
    assert_eq!(upstream.requests().len(), before, "what is known is not asked again");
}

#[test]
fn a_block_remembers_its_evidence() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream.always("key-a", failures::quota("five_hour", HOUR));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let account = proxy.account("a");
    let text = account["blocks"].to_string();
    assert!(text.contains("429") && text.contains("req_011CSHoEeqs5C35K2UUqR7Fy"), "{account:#}");
}

#[test]
fn every_kind_of_block_names_what_the_answer_said() {
    let limit = "This request would exceed your account's rate limit. Please try again later.";
    let rejected = "anthropic-ratelimit-unified-status: rejected";
    let rows = [
        (failures::quota("five_hour", HOUR), "quota", rejected, limit),
        (failures::server_side(), "server_side", "body", "not your usage limit"),
        (
            failures::overloaded().header("retry-after", "17"),
            "overloaded",
            "retry-after: 17",
            "Overloaded",
        ),
        (failures::server_error(500), "server_error", "body", "Internal server error"),
        (failures::reset(), "network", "reset", "reset"),
        (failures::forbidden(), "forbidden", "body", "not allowed for this organization"),
        (failures::unauthorized(), "credential_refused", "body", "invalid x-api-key"),
    ];
    for (answer, reason, source, words) in rows {
        let upstream = Upstream::start();
        let (_home, proxy) = start(&upstream);
        upstream.always("key-a", answer);
        proxy.post(&hello()).assert_said("Hello from upstream.");
        let account = proxy.account("a");
        assert_said(&account, reason, source, words);
        // Every block ends by itself or is probed, and the status says so.
        assert!(account["blocks"][0]["until"].is_string(), "{account:#}");
        assert!(account["blocks"][0]["liftedBy"].is_string(), "{account:#}");
    }
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .account(json!({"name": "a", "type": "oauth", "accessToken": "key-a"}))
        .accounts(&["b"]);
    let proxy = Proxy::start(&home);
    upstream.always("key-a", failures::unauthorized());
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let account = proxy.account("a");
    assert_said(&account, "credential_refused", "body", "invalid x-api-key");
}

/// Asserts that the account's only block has this reason, from this header or body, with this text.
fn assert_said(account: &Value, reason: &str, source: &str, words: &str) {
    let block = &account["blocks"][0];
    assert_eq!(block["reason"], reason, "{account:#}");
    let evidence = &block["evidence"];
    assert_eq!(evidence["source"], source, "{reason}: {account:#}");
    let message = evidence["message"].as_str().unwrap_or_default();
    assert!(message.contains(words), "{reason}: {account:#}");
    assert!(evidence["at"].is_string(), "{reason}: {account:#}");
}

#[test]
fn cooldowns_double_and_a_success_ends_the_count() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("queue.enabled", json!(false))
        .set("scheduler.cooldownMs", json!(40))
        .set("scheduler.maxCooldownMs", json!(100));
    let proxy = Proxy::start(&home);
    upstream.always("key-a", failures::server_error(503));
    for failures in 1..=4_u64 {
        let seen = upstream.requests().len();
        let reply = crate::harness::until("an attempt", || {
            let reply = proxy.post(&hello());
            (upstream.requests().len() > seen).then_some(reply)
        });
        assert_eq!(reply.status, 503);
        let account = proxy.account("a");
        assert_eq!(account["consecutiveFailures"], failures, "{account:#}");
    }
    upstream.heal("key-a");
    crate::harness::until("a success", || (proxy.post(&hello()).status == 200).then_some(()));
    assert_eq!(proxy.account("a")["consecutiveFailures"], 0);
}

#[test]
fn one_accounts_refusals_never_pause_the_others() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream.always("key-a", failures::server_side());
    for _ in 0..5 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    assert_eq!(upstream.count("key-a"), 1);
    assert_eq!(proxy.status()["upstreamThrottle"]["active"], false);
}

#[test]
fn count_tokens_fails_over_too() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream.always("key-a", failures::overloaded());
    let reply = proxy.ask(&crate::harness::Ask::post("/v1/messages/count_tokens", &hello()));
    assert_eq!(reply.json()["input_tokens"], 42);
    let reply = proxy.ask(&crate::harness::Ask::get("/v1/models"));
    assert_eq!(reply.status, 200);
}
