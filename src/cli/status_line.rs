//! `status --line`: one line for a shell prompt or Claude Code's status line.
//!
//! It runs at every prompt, so it does not use the HTTP client, whose certificates alone take
//! longer to load than the server takes to answer. A prompt is no place for errors: if anything is
//! wrong, no line is printed and the exit status is 0.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::Context;
use crate::clock::human;
use crate::config::Config;
use crate::http::document;
use crate::report::status::{Account, Moment, Status};
use crate::report::text;
use crate::scheduler::time::Wall;

/// Prints the line, if a server answers.
pub(super) fn print(context: &mut Context<'_>) {
    let status = context.config().ok().and_then(|config| ask(&config));
    if let Some(status) = status {
        context.out.line(&line(&status));
    }
}

/// How long a prompt waits for a server that hangs.
const PATIENCE: Duration = Duration::from_millis(500);
/// A status has about ten kilobytes per account.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn ask(config: &Config) -> Option<Status> {
    let host = match config.proxy.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let address: SocketAddr = (host, config.proxy.port).to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let key = config.proxy.api_key.as_ref().map(|key| key.expose()).unwrap_or_default();
    // A key that a header cannot contain is not the key of a running server.
    if key.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return None;
    }
    let request = format!(
        "GET /maxpool/status HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let is_good = answer.starts_with(b"HTTP/1.1 200 ");
    is_good.then(|| document::read(&answer[head + 4..]).ok())?
}

/// `2 of 3 ready · work 5h 62% (2h 13m) wk 31% · 4 in flight · 1 waiting`.
fn line(status: &Status) -> String {
    let now = status.now.0;
    let enabled = status.accounts.iter().filter(|account| account.enabled);
    let total = enabled.clone().count();
    let is_ready = |account: &&Account| account.unavailable.is_none() && !account.awaits_test();
    let ready = enabled.clone().filter(is_ready).count();
    let mut parts = vec![match total {
        0 if status.accounts.is_empty() => "no accounts".to_owned(),
        0 => "all accounts disabled".to_owned(),
        _ => format!("{ready} of {total} ready"),
    }];
    if status.draining {
        parts.push("stopping".to_owned());
    }
    if status.upstream_throttle.active {
        parts.push(match status.upstream_throttle.until {
            Some(until) => format!("breaker open, probe in {}", left(now, until)),
            None => "breaker open".to_owned(),
        });
    }
    if ready == 0 {
        let back = enabled
            .clone()
            .filter(|account| !account.awaits_test())
            .filter_map(|account| Some((account.unavailable.as_ref()?.until?, account)))
            .min_by_key(|(until, _)| *until);
        parts.extend(back.map(|(until, account)| {
            format!("{} back in {}", text::name(&account.name), left(now, until))
        }));
    }
    let current = status.current_account.as_ref();
    let current =
        status.accounts.iter().find(|account| Some(&account.name) == current && account.enabled);
    // While no account can serve, the account that served last is not worth showing.
    parts.extend(current.filter(|_| ready > 0).map(|account| used(account, now)));
    for (count, what) in
        [(status.requests_in_flight as u64, "in flight"), (status.queue.waiting, "waiting")]
    {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.join(" · ")
}

/// An account with its utilisation.
fn used(account: &Account, now: Wall) -> String {
    let quota = &account.quota;
    let mut said = text::name(&account.name);
    for (label, share, reset) in [
        ("5h", quota.unified5h, quota.unified5h_reset),
        ("wk", quota.unified7d, quota.unified7d_reset),
    ] {
        if let Some(share) = share {
            said.push_str(&format!(" {label} {}%", (share * 100.0).round()));
            let reset = reset.map(|at| left(now, Moment(Wall(at))));
            said.push_str(&reset.map(|left| format!(" ({left})")).unwrap_or_default());
        }
    }
    said
}

fn left(now: Wall, Moment(until): Moment) -> String {
    human(now.until(until))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn of(status: serde_json::Value) -> String {
        line(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn one_line_says_who_can_serve_and_who_does() {
        let work = json!({"name": "work", "enabled": true,
            "quota": {"unified5h": 0.62, "unified5hReset": 7_980_000, "unified7d": 0.31}});
        let limited = json!({"name": "me@example.com", "enabled": true,
            "unavailable": {"reason": "five-hour limit reached", "until": "1970-01-01T02:13:00.000Z"}});
        let off = json!({"name": "off", "enabled": false});
        assert_eq!(
            of(json!({"now": "1970-01-01T00:00:00.000Z", "currentAccount": "work",
                "accounts": [work, limited, off], "requestsInFlight": 4, "queue": {"waiting": 1}})),
            "1 of 2 ready · work 5h 62% (2h 13m) wk 31% · 4 in flight · 1 waiting"
        );
        assert_eq!(
            of(json!({"now": "1970-01-01T00:00:00.000Z", "accounts": [limited],
                "upstreamThrottle": {"active": true, "until": "1970-01-01T00:00:05.000Z"}})),
            "0 of 1 ready · breaker open, probe in 5s · me@example.com back in 2h 13m"
        );
        assert_eq!(of(json!({})), "no accounts");
        assert_eq!(of(json!({"accounts": [off]})), "all accounts disabled");
    }
}
