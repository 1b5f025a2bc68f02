//! `status`: the running proxy's status, as text or as JSON.

use super::Context;
use super::out::Paint;
use super::table::table;
use super::web::Server;
use crate::clock::human;
use crate::error::{Error, Result};
use crate::http::document;

use crate::report::status::{Account, Moment, Status};
use crate::report::text;
use crate::scheduler::time::Wall;
use std::time::Duration;

/// `status --json`.
pub(super) fn json(context: &mut Context<'_>) -> Result<()> {
    let server = Server::of(&context.config()?)?;
    let body = server.json("GET", "/maxpool/status", None)?;
    raw(context, &body)
}

/// `status`.
pub(super) fn status(context: &mut Context<'_>) -> Result<()> {
    let server = Server::of(&context.config()?)?;
    let body = server.json("GET", "/maxpool/status", None)?;
    let status: Status = document::read(&body).map_err(|error| unreadable(&server, &error))?;
    let lines = overview(&status);
    for line in &lines {
        context.out.prose(line, 2);
    }
    if status.accounts.is_empty() {
        context.out.line("no accounts; add one with: maxpool login");
        return Ok(());
    }
    let rows: Vec<Vec<String>> =
        status.accounts.iter().map(|account| row(account, status.now.0)).collect();
    let heading = [
        "",
        "NAME",
        "TYPE",
        "STATE",
        "SESSION",
        "WEEK",
        "IN FLIGHT",
        "15 MIN",
        "FAILED",
        "PRIORITY",
    ];
    for (index, line) in table(&heading, &rows, context.out.room()).iter().enumerate() {
        let paint = match index.checked_sub(1).map(|index| &status.accounts[index]) {
            None => Paint::Strong,
            Some(account) if account.status == "error" => Paint::Bad,
            Some(account) if account.unavailable.is_some() || account.status != "active" => {
                Paint::Doubtful
            }
            Some(_) => Paint::Good,
        };
        let line = context.out.paint(paint, line);
        context.out.line(&line);
    }
    Ok(())
}

fn overview(status: &Status) -> Vec<String> {
    let routing = match &status.routing.preferred_account {
        Some(name) if status.routing.mode == "preferred" => format!("prefers {}", text::name(name)),
        Some(_) | None => format!("routing {}", status.routing.mode),
    };
    let uptime = human(Duration::from_millis(status.uptime_ms));
    let mut lines = vec![format!(
        "maxpool {} at {}, up {uptime}, {routing}, {} in flight",
        status.version, status.address, status.scheduler.global_in_flight
    )];
    if status.draining {
        lines.push("stopping: running requests finish, new ones are refused".to_owned());
    }
    let throttle = &status.upstream_throttle;
    if throttle.active {
        let until = throttle
            .until
            .map(|until| format!(", next probe in {}", left(status.now.0, until)))
            .unwrap_or_default();
        let reason =
            throttle.reason.as_deref().map(|reason| text::clean(reason, 120)).unwrap_or_default();
        lines.push(format!("breaker open: all Claude accounts are paused{until}: {reason}"));
    }
    let queue = &status.queue;
    if queue.waiting > 0 {
        let oldest = queue.oldest_ms.map(Duration::from_millis).map(human).unwrap_or_default();
        let next = queue
            .next_free_at
            .map(|at| format!(", next account free in {}", left(status.now.0, at)));
        lines.push(format!(
            "{} waiting, the oldest for {oldest}{}",
            queue.waiting,
            next.unwrap_or_default()
        ));
    }
    lines
}

fn row(account: &Account, now: Wall) -> Vec<String> {
    let mut state = match (&account.unavailable, account.enabled) {
        (_, false) => "disabled".to_owned(),
        (Some(unavailable), true) => {
            let until = unavailable.until.map(|until| match account.awaits_test() {
                true => format!(", next look in {}", left(now, until)),
                false => format!(", {} left", left(now, until)),
            });
            let until = until.unwrap_or_default();
            format!("{}{until}", text::clean(&unavailable.reason, 60))
        }
        (None, true) if account.awaits_test() => {
            "refused by the API, the next request tries it again".to_owned()
        }
        (None, true) if !account.avoided.is_empty() => text::clean(&account.avoided.join("; "), 80),
        (None, true) => account.status.clone(),
    };
    if account.leaving {
        state.push_str(", leaving");
    }
    let used = |share: Option<f64>, reset_ms: Option<i64>| {
        let Some(share) = share else {
            return "-".to_owned();
        };
        let reset =
            reset_ms.map(|at| format!(" ({})", human(now.until(Wall(at))))).unwrap_or_default();
        format!("{}%{reset}", (share * 100.0).round() as i64)
    };
    let quota = &account.quota;
    vec![
        if account.in_flight > 0 { "*" } else { "" }.to_owned(),
        text::name(&account.name),
        if account.kind == "provider" {
            format!("provider {}", account.provider)
        } else {
            account.kind.clone()
        },
        state,
        used(quota.unified5h, quota.unified5h_reset),
        used(quota.unified7d, quota.unified7d_reset),
        account.in_flight.to_string(),
        account.load.last15m.requests.to_string(),
        account.failed_requests.to_string(),
        account.priority.to_string(),
    ]
}

fn left(now: Wall, Moment(until): Moment) -> String {
    human(now.until(until))
}

/// Prints the JSON unchanged.
pub(super) fn raw(context: &mut Context<'_>, body: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(body);
    context.out.line(text.trim_end());
    Ok(())
}

pub(super) fn unreadable(server: &Server, error: &serde_json::Error) -> Error {
    Error::operator(format!(
        "the answer of {} cannot be read: {error}; is it maxpool, of this version?",
        server.base()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_overview_says_what_matters_now() {
        let status: Status = serde_json::from_value(json!({
            "version": "2.0.0", "address": "http://127.0.0.1:1", "uptimeMs": 8_040_000,
            "routing": {"mode": "preferred", "preferredAccount": "a b"}, "scheduler": {"globalInFlight": 3},
            "now": "2026-01-01T00:00:00.000Z", "draining": true,
            "upstreamThrottle": {"active": true, "until": "2026-01-01T00:00:05.000Z", "reason": "overloaded\n"},
            "queue": {"waiting": 2, "oldestMs": 45_000, "nextFreeAt": "2026-01-01T00:01:00.000Z"}
        }))
        .unwrap();
        assert_eq!(
            overview(&status),
            [
                "maxpool 2.0.0 at http://127.0.0.1:1, up 2h 14m, prefers \"a b\", 3 in flight",
                "stopping: running requests finish, new ones are refused",
                "breaker open: all Claude accounts are paused, next probe in 5s: overloaded\\n",
                "2 waiting, the oldest for 45s, next account free in 1m",
            ]
        );
    }

    #[test]
    fn an_account_is_one_row() {
        let account: Account = serde_json::from_value(json!({
            "name": "a", "type": "provider", "provider": "zai", "enabled": true, "status": "throttled", "inFlight": 1,
            "priority": 10, "unavailable": {"reason": "limit", "until": "1970-01-01T01:00:00.000Z"},
            "quota": {"unified5h": 0.424, "unified5hReset": 7_200_000}, "load": {"last15m": {"requests": 9}}
        }))
        .unwrap();
        let row = row(&account, Wall(0));
        assert_eq!(
            row,
            ["*", "a", "provider zai", "limit, 1h left", "42% (2h)", "-", "1", "9", "0", "10"]
        );
    }

    #[test]
    fn a_refused_credential_says_when_the_next_look_is() {
        let account: Account = serde_json::from_value(json!({
            "name": "a", "enabled": true, "status": "error",
            "unavailable": {"reason": "refused by the API", "until": "1970-01-01T00:02:00.000Z"},
            "blocks": [{"reason": "credential_refused", "text": "refused by the API"}]
        }))
        .unwrap();
        assert_eq!(row(&account, Wall(0))[3], "refused by the API, next look in 2m");
    }
}
