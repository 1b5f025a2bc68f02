//! The demonstration: three simulated accounts, one of which reaches its limit, and a client that
//! does not notice.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::harness::{Ask, Home, Proxy, hello_stream};
use crate::upstream::{Answer, Limits, Message, Upstream, failures};

const NAMES: [&str; 3] = ["work", "home", "spare"];
const WORDS: &str = "Every request went to the account that could best afford it.";

/// Runs the demonstration and describes each step; fails if the client notices anything.
pub fn play(out: &mut impl Write) -> std::io::Result<()> {
    let upstream = Upstream::start();
    for name in NAMES {
        let message = Message::text(WORDS).tokens(1_800, 240, 24_000, 600);
        let answer =
            Answer::of(message).limits(&Limits::used(0.3, 0.2)).paced(Duration::from_millis(8));
        upstream.always(&format!("key-{name}"), answer);
    }
    let home = Home::new().upstream(&upstream.url()).accounts(&NAMES);
    writeln!(out, "A stand-in for the API listens on {}.", upstream.url())?;
    writeln!(out, "Nothing leaves this machine, and no account is real.\n")?;
    writeln!(out, "$ maxpool server --plain")?;
    let mut proxy = Proxy::start(&home);
    let mut shown = 0;
    show_log(out, &proxy, &mut shown)?;

    writeln!(out, "\nSix streamed requests, one after the other:")?;
    requests(out, &upstream, &proxy, 6)?;
    show_log(out, &proxy, &mut shown)?;

    let limited = upstream.order().first().cloned().unwrap_or_default();
    let name = limited.trim_start_matches("key-");
    writeln!(out, "\nNow '{name}' reaches its five-hour limit: the API answers it with 429.")?;
    upstream.always(&limited, failures::quota("five_hour", Duration::from_secs(2 * 3600)));
    requests(out, &upstream, &proxy, 6)?;
    show_log(out, &proxy, &mut shown)?;

    let refused = upstream.count(&limited);
    writeln!(
        out,
        "\n'{name}' was asked {refused} times, the last time in vain; the client saw twelve whole answers."
    )?;
    writeln!(out, "$ maxpool status, in short:")?;
    let status = proxy.status();
    for account in status["accounts"].as_array().into_iter().flatten() {
        let text = |key: &str| account[key].as_str().unwrap_or("-").to_owned();
        let served = &account["usage"]["totalRequests"];
        writeln!(
            out,
            "  {:<6} {:<10} {served} requests, limited until {}",
            text("name"),
            text("status"),
            text("rateLimitedUntil")
        )?;
    }
    proxy.terminate();
    let code = proxy.wait_exit();
    show_log(out, &proxy, &mut shown)?;
    writeln!(out, "\nThe server has ended with exit code {}.", code.unwrap_or(-1))
}

/// Sends requests, and prints which account served each and how long it took.
fn requests(
    out: &mut impl Write,
    upstream: &Upstream,
    proxy: &Proxy,
    count: usize,
) -> std::io::Result<()> {
    for _ in 0..count {
        let before = Instant::now();
        let reply = proxy.ask(&Ask::messages(&hello_stream()));
        let took = before.elapsed().as_millis();
        if reply.status != 200 || reply.said() != WORDS {
            return Err(std::io::Error::other(format!(
                "the client noticed: {} {}",
                reply.status,
                reply.text()
            )));
        }
        let by = upstream.order().pop().unwrap_or_default();
        let events = reply.events().len();
        writeln!(
            out,
            "  client: 200, {events} events in {took} ms, by '{}'",
            by.trim_start_matches("key-")
        )?;
    }
    Ok(())
}

/// Prints the lines that the server has logged since the last call.
fn show_log(out: &mut impl Write, proxy: &Proxy, shown: &mut usize) -> std::io::Result<()> {
    // The log line of the last request may appear shortly after its answer.
    std::thread::sleep(Duration::from_millis(150));
    let log = proxy.log();
    for line in log.iter().skip(*shown) {
        writeln!(out, "  server | {line}")?;
    }
    *shown = log.len();
    Ok(())
}

#[test]
fn the_demonstration_ends_well_and_shows_the_failover() {
    let mut out = Vec::new();
    play(&mut out).expect("the client notices nothing");
    let text = String::from_utf8(out).expect("text");
    assert_eq!(text.matches("client: 200").count(), 12, "{text}");
    assert!(text.contains("429"), "{text}");
    assert!(text.contains("throttled"), "{text}");
    assert!(text.contains("exit code 0"), "{text}");
}
