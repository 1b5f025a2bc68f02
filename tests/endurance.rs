//! Everything at once under load: accounts that fail in every way of SPEC P7, tokens that rotate
//! and are revoked, restarts, edits of the configuration, and clients that leave. No request is
//! lost or served twice, no byte is wrong, and nothing leaks (F6).
//!
//! A short version runs with the tests; `make soak` requests 100,000 with `MAXPOOL_SOAK_REQUESTS`.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::home::{KEY, epoch_ms};
use crate::harness::{Ask, Client, Home, Proxy, Reply, ReplyEnd, json, oauth, until};
use crate::restart::{resident_kib, restart, workers};
use crate::upstream::{Answer, Message, Request, Upstream, failures};

const SUBSCRIPTIONS: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 3] = ["a", "b", "c"];
/// A subscription's token is revoked after this many requests.
const USES_OF_A_TOKEN: u32 = 100;
/// In one request of this many, the client leaves early.
const LEAVES: usize = 40;

/// What the stand-in has seen.
#[derive(Default)]
struct Seen {
    /// Requests per token.
    uses: HashMap<String, u32>,
    /// Successful answers per request number.
    answered: HashMap<usize, u32>,
    requests: u64,
}

/// What the clients have seen.
#[derive(Default)]
struct Tally {
    served: AtomicUsize,
    waited: AtomicUsize,
    /// Proper errors by type.
    refused: Mutex<BTreeMap<String, usize>>,
    /// Requests that were told to retry because of a restart, and did.
    again: AtomicUsize,
    left: AtomicUsize,
    lost: Mutex<Vec<String>>,
    slowest_ms: AtomicUsize,
}

/// Resources that the program's processes hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    processes: usize,
    threads: u64,
    descriptors: usize,
    resident_kib: u64,
}

/// The same number for the same seed.
fn dice(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 29
}

fn number_of(request: &Request) -> usize {
    let body = String::from_utf8_lossy(&request.body);
    let digits = body.split("mark-").nth(1).unwrap_or_default();
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("every request has its number")
}

/// The text expected in answer to the request with this number, from a few bytes to some kilobytes.
fn words(number: usize) -> String {
    let mut text = format!("answer to mark-{number}.");
    let mut chance = dice(number as u64 + 7);
    for _ in 0..chance % 97 {
        chance = dice(chance);
        let words = [" ok", " \"quoted\"", " ä你", "\n", " data: {}", " 😀", "\\", " event: x"];
        text.push_str(words[chance as usize % words.len()]);
        text.push_str(&chance.to_string());
    }
    text
}

fn answer(seen: &Mutex<Seen>, request: &Request) -> Answer {
    let number = number_of(request);
    let credential = request.credential().to_owned();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.requests += 1;
    if !credential.starts_with("key-") {
        let uses = seen.uses.entry(credential).or_default();
        *uses += 1;
        if *uses > USES_OF_A_TOKEN {
            return failures::token_expired();
        }
    }
    match dice(seen.requests) % 1_000 {
        0..3 => failures::server_side().header("retry-after", "1"),
        3..6 => failures::overloaded().header("retry-after", "1"),
        6..8 => failures::quota("five_hour", Duration::from_secs(2)),
        8..28 => failures::server_error(500),
        28..43 => failures::server_error(503),
        43..58 => failures::edge_html(502),
        58..83 => failures::reset(),
        83..108 => failures::closed(),
        108..123 => failures::garbage(),
        123..138 => failures::first_event_error("api_error", "Internal server error"),
        // Without a time, an account would be set aside for 30 s, and the run would take hours.
        138..148 => {
            failures::ping_then_error("overloaded_error", "Overloaded").header("retry-after", "1")
        }
        _ => {
            *seen.answered.entry(number).or_default() += 1;
            let message = Message::text(&words(number));
            let message = if number.is_multiple_of(3) { message.crlf() } else { message };
            let answer = Answer::of(message);
            if number.is_multiple_of(5) { answer.pieces(1 + number % 61) } else { answer }
        }
    }
}

impl Tally {
    /// Accepts a complete answer or a proper error; anything else is a loss.
    fn judge(&self, number: usize, reply: &Reply, begun: Instant) {
        let text = reply.text();
        let took = usize::try_from(begun.elapsed().as_millis()).unwrap_or(usize::MAX);
        self.slowest_ms.fetch_max(took, Ordering::Relaxed);
        self.waited.fetch_add(usize::from(took >= 1_000), Ordering::Relaxed);
        let whole = reply.end == ReplyEnd::Complete;
        if whole && reply.status == 200 && !text.contains("\"type\":\"error\"") {
            if reply.said() == words(number) {
                self.served.fetch_add(1, Ordering::Relaxed);
                return;
            }
        } else if whole && text.contains("\"type\":\"error\"") && !text.contains("message_start") {
            let kind = text.split("\"type\":\"").filter_map(|rest| rest.split('"').next());
            let kind = kind.filter(|kind| *kind != "error" && *kind != "ping").last();
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            *refused.entry(kind.unwrap_or("?").to_owned()).or_default() += 1;
            return;
        }
        let what = format!("{number}: {} {:?} {text}", reply.status, reply.end);
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

fn ask(number: usize) -> Ask {
    let body = json!({
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 64,
        "stream": number.is_multiple_of(2),
        "messages": [{"role": "user", "content": format!("mark-{number}")}],
    });
    let ask = Ask::messages(&body);
    // Some requests belong to sessions.
    match number % 4 {
        0 => ask.header("x-maxpool-session", &format!("session-{}", number % 40)),
        _ => ask,
    }
}

/// One client, which sends request after request on one connection for as long as it stays open.
fn client(proxy: &Proxy, tally: &Tally, next: &AtomicUsize, total: usize) {
    let mut kept: Option<Client> = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            return;
        }
        let begun = Instant::now();
        let ask = ask(number);
        if number % LEAVES == 7 {
            leave(proxy.connect(), &ask, number);
            tally.left.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let reply = loop {
            let mut client = kept.take().unwrap_or_else(|| proxy.connect());
            client.patience(Duration::from_secs(120));
            let reply = client.ask(&ask);
            if reply.end == ReplyEnd::Complete && reply.header("connection") != Some("close") {
                kept = Some(client);
            }
            if !reply.text().contains("restart_in_progress") {
                break reply;
            }
            // Requests that are waiting at a restart are told to retry (Q5), as clients do.
            tally.again.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(200));
        };
        tally.judge(number, &reply, begun);
    }
}

/// Leaves at once, a little later, or after the answer's head.
fn leave(mut client: Client, ask: &Ask, number: usize) {
    client.send_ask(ask);
    match number / LEAVES % 3 {
        0 => {}
        1 => std::thread::sleep(Duration::from_millis(number as u64 % 50)),
        _ => {
            let _head = client.read_head(ask);
        }
    }
    if number.is_multiple_of(2) {
        client.reset();
    }
}

fn held(proxy: &Proxy) -> Held {
    let mut pids = workers(proxy);
    pids.push(proxy.pid());
    let mut held = Held { processes: pids.len(), threads: 0, descriptors: 0, resident_kib: 0 };
    for pid in pids {
        let count = |name: &str| {
            std::fs::read_dir(format!("/proc/{pid}/{name}")).map_or(0, Iterator::count)
        };
        held.threads += count("task") as u64;
        held.descriptors += count("fd");
        held.resident_kib += resident_kib(pid);
    }
    held
}

/// Changes a number in the file like another program that takes the lock of SPEC A5.
fn edit(home: &Home, queued: usize) {
    let path = home.config_path();
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(home.path().join("maxpool.json.lock"))
        .expect("open the lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("take the lock");
    let mut config = home.read();
    config["queue"]["maxConcurrentQueued"] = json!(queued);
    let new = home.path().join("edited.json");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .expect("write the file");
    file.write_all(config.to_string().as_bytes()).expect("write the file");
    std::fs::rename(&new, &path).expect("put it in its place");
}

/// Edits through commands, control routes and by hand until `over` is set.
fn edits(proxy: &Proxy, home: &Home, over: &AtomicBool) -> usize {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let state = if count % 2 == 0 { "disable" } else { "enable" };
        match count / 2 % 3 {
            0 => {
                let route = format!("/maxpool/accounts/c/{state}");
                let reply = proxy.ask(&Ask::post(&route, &json!({})).header("x-api-key", KEY));
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
            1 => {
                let priority = if count % 2 == 0 { "1" } else { "0" };
                let ran = home.run(&["priority", "b", priority]);
                assert!(ran.status.success(), "{ran:?}");
            }
            _ => {
                edit(home, 256 + count % 2);
                proxy.signal(Signal::HUP);
            }
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(150));
    }
    count
}

#[test]
fn restarts_rotations_edits_and_leavers_under_load_lose_nobody() {
    let total: usize = std::env::var("MAXPOOL_SOAK_REQUESTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_500);
    let restarts = (total / 5_000).clamp(2, 20);
    let seen = Arc::<Mutex<Seen>>::default();
    let upstream = {
        let seen = Arc::clone(&seen);
        Upstream::with(move |request| answer(&seen, request))
    };
    // Tokens live this much longer than the five minutes at which they are renewed.
    upstream.state().oauth.lifetime_s = 320;
    let mut home = Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .accounts(&KEYS)
        .set("scheduler.cooldownMs", json!(20))
        .set("scheduler.maxCooldownMs", json!(200))
        .set("scheduler.networkCooldownMs", json!(20))
        .set("sync.accountsIntervalMs", json!(200));
    for name in SUBSCRIPTIONS {
        upstream.state().oauth.grant(&format!("refresh-{name}"));
        let mut account = oauth(name);
        account["expiresAt"] = json!(epoch_ms() + 302_000);
        home = home.account(account);
    }
    let mut proxy = Proxy::start(&home);
    let begun = Instant::now();
    let tally = Tally::default();
    let next = AtomicUsize::new(0);
    // From the first restart on, a separate worker process serves.
    restart(&proxy);
    settled(&proxy);
    let idle = held(&proxy);
    // Memory is compared with that of a program that has already served requests.
    let warm = total / 10;
    load(&proxy, &tally, &next, warm);
    settled(&proxy);
    let worked = held(&proxy);
    let over = AtomicBool::new(false);
    let edited = std::thread::scope(|scope| {
        let editing = scope.spawn(|| edits(&proxy, &home, &over));
        let loading = scope.spawn(|| load(&proxy, &tally, &next, total));
        for number in 1..=restarts {
            let due = warm + (total - warm) * number / (restarts + 1);
            while next.load(Ordering::Relaxed) < due && !loading.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
            }
            restart(&proxy);
        }
        let loaded = loading.join();
        over.store(true, Ordering::Relaxed);
        let edited = editing.join();
        loaded.expect("the clients");
        edited.expect("the edits")
    });
    settled(&proxy);
    until("threads and descriptors come back", || {
        let now = held(&proxy);
        // A few idle threads remain, and idle upstream connections stay open for a while.
        (now.threads <= idle.threads + 16 && now.descriptors <= idle.descriptors + 70).then_some(())
    });
    let after = held(&proxy);
    let desk = {
        let state = upstream.state();
        (state.oauth.refreshes.len(), state.oauth.reused.clone())
    };
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let doubled = seen.answered.values().filter(|count| **count > 1).count();
    let lost = tally.lost.lock().unwrap_or_else(PoisonError::into_inner);
    let refusals = tally.refused.lock().unwrap_or_else(PoisonError::into_inner);
    let refused: usize = refusals.values().sum();
    let [served, waited, again, left] = [&tally.served, &tally.waited, &tally.again, &tally.left]
        .map(|count| count.load(Ordering::Relaxed));
    eprintln!(
        "soak: {total} requests in {:.0?}: {served} served, {waited} of them waited a second or longer, {refused} honest errors {refusals:?}, {again} came again after a restart, {left} left by their clients, {} lost or wrong, {doubled} doubled\n\
         soak: {} requests upstream; {} restarts, {edited} edits, {} tokens renewed, {} sent twice; slowest answer {} ms\n\
         soak: idle at first {idle:?}\nsoak: after a tenth {worked:?}\nsoak: at the end    {after:?}",
        begun.elapsed(),
        lost.len(),
        seen.requests,
        restarts + 1,
        desk.0,
        desk.1.len(),
        tally.slowest_ms.load(Ordering::Relaxed),
    );
    assert!(lost.is_empty(), "{:#?}", &lost[..lost.len().min(5)]);
    assert_eq!(served + refused + left, total, "nobody is lost");
    assert!(served * 100 >= (total - left) * 93, "{served} were served");
    assert_eq!(doubled, 0, "served twice");
    assert!(desk.1.is_empty(), "refresh tokens sent twice: {:?}", desk.1);
    assert!(desk.0 > SUBSCRIPTIONS.len() - 1, "tokens do rotate");
    assert!(after.resident_kib < worked.resident_kib + 30_000, "memory grows");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

/// Runs the clients until this many requests have been made.
fn load(proxy: &Proxy, tally: &Tally, next: &AtomicUsize, total: usize) {
    // Other tests run on the same machine during a short run.
    let clients = if total > 5_000 { 96 } else { 32 };
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| client(proxy, tally, next, total));
        }
    });
    // Every client has drawn one number past the end.
    next.store(total, Ordering::Relaxed);
}

/// Waits until no lease and no ticket is left, and only the newest worker.
fn settled(proxy: &Proxy) {
    proxy.wait_status("every lease come back", |status| {
        status["scheduler"]["globalInFlight"] == 0 && status["upstreamThrottle"]["queued"] == 0
    });
    until("one worker is left", || (workers(proxy).len() == 1).then_some(()));
}
