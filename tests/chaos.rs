//! Many clients before accounts that fail at random in every way of SPEC P7: nobody is lost, nobody gets another's answer.
//!
//! `MAXPOOL_CHAOS_REQUESTS` sets the number of requests; the answer to a request repeats the request's own mark.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Ask, Home, Proxy, Reply, ReplyEnd, json, until};
use crate::upstream::{Answer, Message, Request, Upstream, failures};

const CLIENTS: usize = 64;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The mark in a request's body.
fn mark_of(request: &Request) -> String {
    let body = String::from_utf8_lossy(&request.body);
    let from = body.find("mark-").expect("every request has one");
    body[from..]
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The same numbers in every run, whatever the order of the requests.
fn dice(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 29
}

fn answer(request: &Request, number: u64) -> Answer {
    let mark = mark_of(request);
    match dice(number) % 1_000 {
        0..3 => failures::server_side().header("retry-after", "1"),
        3..6 => failures::overloaded().header("retry-after", "1"),
        6..8 => failures::quota("five_hour", Duration::from_secs(2)),
        8..38 => failures::server_error(500),
        38..58 => failures::server_error(503),
        58..78 => failures::edge_html(502),
        78..118 => failures::reset(),
        118..158 => failures::closed(),
        158..178 => failures::garbage(),
        178..198 => failures::first_event_error("api_error", "Internal server error"),
        _ => Answer::of(Message::text(&mark)),
    }
}

#[derive(Default)]
struct Tally {
    served: AtomicUsize,
    refused: AtomicUsize,
}

/// Counts a whole answer or an honest error; anything else is a loss.
fn judge(tally: &Tally, mark: &str, reply: &Reply) {
    assert_eq!(reply.end, ReplyEnd::Complete, "{mark}: {}", reply.text());
    let text = reply.text();
    if text.contains("\"type\":\"error\"") {
        assert!(!text.contains("message_start"), "{mark}: an error after the commit: {text}");
        tally.refused.fetch_add(1, Ordering::Relaxed);
        return;
    }
    assert_eq!(reply.status, 200, "{mark}: {text}");
    assert_eq!(reply.said(), mark, "somebody else's answer");
    tally.served.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn accounts_that_fail_at_random_lose_nobody() {
    let total: usize = std::env::var("MAXPOOL_CHAOS_REQUESTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000);
    let numbers = AtomicU64::new(0);
    let upstream =
        Upstream::with(move |request| answer(request, numbers.fetch_add(1, Ordering::Relaxed)));
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&NAMES)
        .set("scheduler.cooldownMs", json!(20))
        .set("scheduler.maxCooldownMs", json!(200))
        .set("scheduler.networkCooldownMs", json!(20))
        .set("scheduler.weeklySoftThreshold", json!(0.65));
    let proxy = Proxy::start(&home);
    let (threads, descriptors) = (proxy.threads(), proxy.descriptors());
    let tally = Arc::<Tally>::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = proxy.connect();
                client.patience(Duration::from_secs(120));
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return;
                    }
                    let mark = format!("mark-{number}");
                    let body = json!({
                        "model": "claude-sonnet-4-5-20250929",
                        "max_tokens": 64,
                        "stream": number.is_multiple_of(2),
                        "messages": [{"role": "user", "content": mark}],
                    });
                    judge(&tally, &mark, &client.ask(&Ask::messages(&body)));
                }
            });
        }
    });
    let (served, refused) =
        (tally.served.load(Ordering::Relaxed), tally.refused.load(Ordering::Relaxed));
    assert_eq!(served + refused, total, "nobody is lost");
    assert!(served * 100 >= total * 95, "{served} of {total} were served");
    let status = proxy.wait_status("every lease come back", |status| {
        status["scheduler"]["globalInFlight"] == 0 && status["upstreamThrottle"]["queued"] == 0
    });
    let failed: u64 = status["accounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|account| account["failedRequests"].as_u64())
        .sum();
    assert!(failed > 0, "the accounts did fail");
    until("threads and descriptors come back", || {
        let pooled = 64 + NAMES.len();
        (proxy.threads() <= threads + 16 && proxy.descriptors() <= descriptors + pooled)
            .then_some(())
    });
    eprintln!(
        "{total} requests: {served} served, {refused} honest errors, {failed} failed attempts, {} upstream; {} threads, {} descriptors, peak {} KiB",
        upstream.requests().len(),
        proxy.threads(),
        proxy.descriptors(),
        proxy.peak_kib()
    );
}
