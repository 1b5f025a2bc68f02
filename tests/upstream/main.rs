//! The stand-in API as a program, for `make demo` and for trying things by hand.
//!
//! It prints its address on the first line of stdout and then one line per request, until it is
//! stopped.

#![allow(dead_code, unreachable_pub, reason = "the tests use what this program does not")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool of the tests")]

#[path = "mod.rs"]
mod upstream;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use upstream::{Answer, Limits, Message, Request, Upstream, failures};

const HELP: &str = "\
A stand-in for the Anthropic API on a loopback port.

usage: cargo run --example upstream -- [options]

  --port N               listen on this port (default: any free one)
  --events N             text events in a streamed answer (default 12)
  --delay-ms N           time between two events (default 0)
  --bytes N              bytes of text in each event (default 16)
  --limit CRED=N/SECONDS this credential answers 429 (five hours' quota) once it has served N requests, for SECONDS;
                         may be given several times
  --used CRED=F,W        shares used of its five-hour and weekly window that it reports (default 0.2,0.3)
  --fail CRED=KIND       this credential always fails: 401, 403, 429, server429, 500, 529, reset, silent
";

/// The behaviour selected by the arguments.
#[derive(Default)]
struct Script {
    port: u16,
    events: usize,
    delay: Duration,
    bytes: usize,
    limits: HashMap<String, (usize, Duration)>,
    used: HashMap<String, (f64, f64)>,
    failing: HashMap<String, String>,
}

/// One credential's count in its current window, and when that window was used up.
#[derive(Default)]
struct Tally {
    served: usize,
    limited_until: Option<Instant>,
}

fn main() -> ExitCode {
    let script = match arguments() {
        Ok(Some(script)) => script,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("upstream: {error}");
            return ExitCode::from(2);
        }
    };
    let tallies = Mutex::new(HashMap::<String, Tally>::new());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, script.port));
    let upstream = Upstream::on(address, move |request| {
        let answer = answer(&script, &tallies, request);
        println!(
            "{} {} with {}: {}",
            request.method,
            request.target,
            request.credential(),
            answer.1
        );
        answer.0
    });
    println!("{}", upstream.url());
    loop {
        std::thread::park();
    }
}

/// The answer, and a word that describes it.
fn answer(
    script: &Script,
    tallies: &Mutex<HashMap<String, Tally>>,
    request: &Request,
) -> (Answer, String) {
    let credential = request.credential();
    if let Some(kind) = script.failing.get(credential) {
        let answer = match kind.as_str() {
            "401" => failures::unauthorized(),
            "403" => failures::forbidden(),
            "429" => failures::quota("five_hour", Duration::from_secs(60)),
            "server429" => failures::server_side(),
            "529" => failures::overloaded(),
            "reset" => failures::reset(),
            "silent" => failures::silent(),
            _ => failures::server_error(500),
        };
        return (answer, kind.clone());
    }
    if request.path() != "/v1/messages" {
        return (Answer::healthy(request), "answered".to_owned());
    }
    let mut tallies = tallies.lock().unwrap();
    let tally = tallies.entry(credential.to_owned()).or_default();
    if let Some((most, time)) = script.limits.get(credential) {
        if tally.limited_until.is_some_and(|until| until <= Instant::now()) {
            *tally = Tally::default();
        }
        if tally.served >= *most {
            let until = *tally.limited_until.get_or_insert(Instant::now() + *time);
            let left = until.saturating_duration_since(Instant::now());
            return (failures::quota("five_hour", left), "429, out of quota".to_owned());
        }
    }
    tally.served += 1;
    let (five_hour, weekly) = script.used.get(credential).copied().unwrap_or((0.2, 0.3));
    let message = Message::long(script.events, script.bytes).tokens(1200, 300, 20_000, 500);
    let mut answer = Answer::of(message).limits(&Limits::used(five_hour, weekly));
    if !script.delay.is_zero() {
        answer = answer.paced(script.delay);
    }
    (answer, format!("served, its request {}", tally.served))
}

fn arguments() -> Result<Option<Script>, lexopt::Error> {
    let mut script = Script { events: 12, bytes: 16, ..Script::default() };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => script.port = parser.value()?.parse()?,
            Long("events") => script.events = parser.value()?.parse()?,
            Long("delay-ms") => script.delay = Duration::from_millis(parser.value()?.parse()?),
            Long("bytes") => script.bytes = parser.value()?.parse()?,
            Long("limit") => {
                let (name, value) = pair(&parser.value()?.string()?, '=')?;
                let (count, seconds) = pair(&value, '/')?;
                let seconds = Duration::from_secs(number(&seconds)?);
                script.limits.insert(name, (number(&count)?, seconds));
            }
            Long("used") => {
                let (name, value) = pair(&parser.value()?.string()?, '=')?;
                let (five_hour, weekly) = pair(&value, ',')?;
                script.used.insert(name, (number(&five_hour)?, number(&weekly)?));
            }
            Long("fail") => {
                let (name, kind) = pair(&parser.value()?.string()?, '=')?;
                script.failing.insert(name, kind);
            }
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(script))
}

fn pair(text: &str, separator: char) -> Result<(String, String), lexopt::Error> {
    let (left, right) =
        text.split_once(separator).ok_or_else(|| format!("'{text}' lacks a '{separator}'"))?;
    Ok((left.to_owned(), right.to_owned()))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, lexopt::Error> {
    text.parse().map_err(|_| format!("'{text}' is not a number here").into())
}
