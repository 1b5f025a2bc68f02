//! Many clients on accounts that fail at random in every way of SPEC P7: no request is lost, and no
//! client gets another's answer.
//!
//! `MAXPOOL_CHAOS_REQUESTS` sets the number of requests. Each answer repeats the mark of its
//! request.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::harness::{Ask, Home, Proxy, Reply, ReplyEnd, json, until};
use crate::upstream::{Answer, Message, Request, Step, Upstream, failures};

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

/// The same numbers in every run, in whatever order the requests arrive.
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

/// Counts a complete answer or a proper error; anything else is a loss.
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

/// Kinds of requests that every account refuses because of the request itself.
const POISONS: [&str; 4] = ["long-context", "bare-limit", "broken-body", "other-route"];
/// One request in this many is poisoned.
const POISONED: usize = 100;
/// How long the upstream takes; long enough that the machine's own delays matter little.
const SERVICE: Duration = Duration::from_millis(20);

/// The kind of poison in a request's body or path, if any.
fn poison_of(request: &Request) -> Option<usize> {
    if request.path() == "/v1/messages/batches" {
        return Some(3);
    }
    let body = String::from_utf8_lossy(&request.body);
    POISONS.iter().position(|poison| body.contains(&format!("poison {poison}")))
}

fn poisoned_answer(poison: usize) -> Answer {
    match poison {
        0 => Answer::error(
            429,
            "rate_limit_error",
            "Extra usage is required for long context requests.",
        ),
        1 => Answer::error(429, "rate_limit_error", "Error"),
        2 => Answer::error(500, "api_error", "Internal server error"),
        _ => Answer::error(
            401,
            "authentication_error",
            "OAuth authentication is currently not supported.",
        ),
    }
}

fn poisoned_ask(number: usize) -> (usize, Ask) {
    let poison = number / POISONED % POISONS.len();
    if poison == 3 {
        return (poison, Ask::get("/v1/messages/batches"));
    }
    let body = json!({
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": format!("poison {} mark-{number}", POISONS[poison])}],
    });
    (poison, Ask::messages(&body))
}

/// The results of one round.
#[derive(Default)]
struct Round {
    /// Durations of the plain requests in microseconds.
    plain: Vec<u64>,
    /// Durations of the poisoned requests in microseconds.
    poisoned: Vec<u64>,
}

/// Plain requests by several clients; if asked for, one in a hundred is replaced by a poisoned one.
fn round(total: usize, poison: bool) -> Round {
    let upstream = Upstream::with(|request| {
        let answer = match poison_of(request) {
            Some(poison) => poisoned_answer(poison),
            None => Answer::of(Message::text(&mark_of(request))),
        };
        answer.before(Step::Pause(SERVICE))
    });
    let proxy = Proxy::start(&Home::new().upstream(&upstream.url()).accounts(&NAMES));
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Round::default());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS / 4 {
            scope.spawn(|| {
                let mut client = proxy.connect();
                client.patience(Duration::from_secs(120));
                let mut own = Round::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        break;
                    }
                    let begun = Instant::now();
                    // The last requests are not poisoned: when no other request is served, suspense
                    // takes as long as it may.
                    if poison && number % POISONED == POISONED / 2 && number < total * 3 / 4 {
                        let (poison, ask) = poisoned_ask(number);
                        let reply = client.ask(&ask);
                        let expected: &[u16] = [&[429][..], &[429], &[500], &[502]][poison];
                        assert!(
                            expected.contains(&reply.status),
                            "{}: {} {}",
                            POISONS[poison],
                            reply.status,
                            reply.text()
                        );
                        own.poisoned.push(begun.elapsed().as_micros() as u64);
                        continue;
                    }
                    let mark = format!("mark-{number}");
                    let body = json!({
                        "model": "claude-sonnet-4-5-20250929",
                        "max_tokens": 64,
                        "messages": [{"role": "user", "content": mark}],
                    });
                    assert_eq!(client.ask(&Ask::messages(&body)).said(), mark);
                    own.plain.push(begun.elapsed().as_micros() as u64);
                }
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.plain.extend(own.plain);
                all.poisoned.extend(own.poisoned);
            });
        }
    });
    let status = proxy.status();
    for account in status["accounts"].as_array().into_iter().flatten() {
        let error = &account["status"];
        assert_ne!(*error, "error", "{account:#}");
    }
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn percentile(sorted: &[u64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted[at.min(sorted.len() - 1)] as f64 / 1000.0
}

#[test]
fn poisoned_requests_take_nothing_from_plain_ones() {
    let asked = std::env::var("MAXPOOL_CHAOS_REQUESTS").ok().and_then(|text| text.parse().ok());
    let total: usize = asked.unwrap_or(2_400);
    let rounds = if asked.is_some() { 10 } else { 4 };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        let poison = number % 2 == 1;
        let mut round = round(total / rounds, poison);
        round.plain.sort_unstable();
        round.poisoned.sort_unstable();
        if poison { &mut with } else { &mut without }.push(round);
    }
    let (beside, beside_slowest) = tell("plain requests beside 1 % poisoned ones", &with);
    let (alone, _) = tell("plain requests alone", &without);
    let poisoned = with.iter().map(|round| percentile(&round.poisoned, 1.0)).fold(0.0, f64::max);
    eprintln!("soak: poisoned requests: the slowest took {poisoned:.0} ms");
    // A request that waited for another's refusal would take seconds.
    assert!(beside_slowest < 3_000.0, "{beside_slowest} ms");
    // Other tests run on the same machine during a short run, so the bound is looser.
    let most = if asked.is_some() { alone * 1.1 } else { alone * 1.1 + 500.0 };
    assert!(beside <= most, "{beside} ms beside poisoned requests, {alone} ms without");
}

/// Prints how long the rounds' plain requests took. Returns the 99th percentile of the least
/// disturbed round and the slowest request of all, in milliseconds.
fn tell(what: &str, rounds: &[Round]) -> (f64, f64) {
    let least = |share| {
        let all = rounds.iter().map(|round| percentile(&round.plain, share));
        all.fold(f64::INFINITY, f64::min)
    };
    let slowest = rounds.iter().map(|round| percentile(&round.plain, 1.0)).fold(0.0, f64::max);
    let count: usize = rounds.iter().map(|round| round.plain.len()).sum();
    let [median, last] = [0.5, 0.99].map(least);
    eprintln!(
        "soak: {count} {what}: median {median:.1} ms, 99th percentile {last:.1} ms, slowest {slowest:.0} ms"
    );
    (last, slowest)
}
