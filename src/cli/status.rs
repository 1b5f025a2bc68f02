//! `status` and `explain`: what the running proxy says of itself, as text or as the JSON that it sent.

use super::Context;
use super::args::ExplainOptions;
use super::out::Paint;
use super::table::table;
use super::web::Server;
use crate::account::http::percent_encoded;
use crate::clock::{self, human};
use crate::error::{Error, Result};

use crate::report::status::{Account, Evidence, Explanation, Moment, Status};
use crate::report::text::{self, repeats_status};
use crate::scheduler::time::Wall;
use std::time::Duration;

/// `status`.
pub(super) fn status(context: &mut Context<'_>, as_json: bool) -> Result<()> {
    let server = Server::of(&context.config()?)?;
    let body = server.json("GET", "/maxpool/status", None)?;
    if as_json {
        return raw(context, &body);
    }
    let status: Status =
        serde_json::from_slice(&body).map_err(|error| unreadable(&server, &error))?;
    let lines = overview(&status);
    for line in &lines {
        context.out.line(line);
    }
    if status.accounts.is_empty() {
        context.out.line("no accounts: add one with maxpool login");
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
    for (index, line) in table(&heading, &rows).iter().enumerate() {
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
        lines.push("draining: what is in flight finishes, nothing new begins".to_owned());
    }
    let throttle = &status.upstream_throttle;
    if throttle.active {
        let until = throttle
            .until
            .map(|until| format!(", probes in {}", left(status.now.0, until)))
            .unwrap_or_default();
        let reason =
            throttle.reason.as_deref().map(|reason| text::clean(reason, 120)).unwrap_or_default();
        lines.push(format!("all Claude accounts pause{until}: {reason}"));
    }
    let queue = &status.queue;
    if queue.waiting > 0 {
        let oldest = queue.oldest_ms.map(Duration::from_millis).map(human).unwrap_or_default();
        let next = queue
            .next_free_at
            .map(|at| format!(", the next account frees in {}", left(status.now.0, at)));
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
            let until = unavailable
                .until
                .map(|until| format!(", {} left", left(now, until)))
                .unwrap_or_default();
            format!("{}{until}", text::clean(&unavailable.reason, 60))
        }
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

/// `explain`.
pub(super) fn explain(context: &mut Context<'_>, options: &ExplainOptions) -> Result<()> {
    let server = Server::of(&context.config()?)?;
    let asked =
        [("model", &options.model), ("session", &options.session), ("profile", &options.profile)];
    let query: Vec<String> = asked
        .iter()
        .filter_map(|(key, value)| {
            value.as_ref().map(|value| format!("{key}={}", percent_encoded(value)))
        })
        .collect();
    let body = server.json("GET", &format!("/maxpool/explain?{}", query.join("&")), None)?;
    if options.json {
        return raw(context, &body);
    }
    let explanation: Explanation =
        serde_json::from_slice(&body).map_err(|error| unreadable(&server, &error))?;
    for line in explained(&explanation, clock::wall()) {
        context.out.line(&line);
    }
    Ok(())
}

fn explained(explanation: &Explanation, now: Wall) -> Vec<String> {
    let mut lines = vec![match (&explanation.chosen, explanation.until) {
        (Some(name), _) => {
            format!("{}, by {}", text::name(name), text::clean(&explanation.why, 80))
        }
        (None, Some(until)) => {
            format!(
                "no account now: {}, for {}",
                text::clean(&explanation.why, 200),
                left(now, until)
            )
        }
        (None, None) => format!("no account now: {}", text::clean(&explanation.why, 200)),
    }];
    if !explanation.candidates.is_empty() {
        let terms = explanation
            .candidates
            .first()
            .map(|first| first.terms.keys().cloned().collect::<Vec<String>>());
        let terms = terms.unwrap_or_default();
        let mut heading = vec!["RANK", "ACCOUNT", "TIER", "PRIORITY", "SCORE"];
        heading.extend(terms.iter().map(String::as_str));
        let has_notes = explanation.candidates.iter().any(|candidate| !candidate.notes.is_empty());
        if has_notes {
            heading.push("NOTES");
        }
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), text::hundredths);
        let row =
            |candidate: &crate::report::status::Candidate| {
                let mut row = vec![
                    candidate.rank.to_string(),
                    text::name(&candidate.account),
                    candidate.tier.clone(),
                    candidate.priority.to_string(),
                    number(candidate.score),
                ];
                row.extend(terms.iter().map(|term| {
                    number(candidate.terms.get(term).and_then(serde_json::Value::as_f64))
                }));
                if has_notes {
                    row.push(text::clean(&candidate.notes.join("; "), 200));
                }
                row
            };
        let rows: Vec<Vec<String>> = explanation.candidates.iter().map(row).collect();
        lines.push(String::new());
        lines.extend(table(&heading, &rows));
    }
    if !explanation.passed_over.is_empty() {
        lines.push(String::new());
        lines.push("passed over:".to_owned());
        let rows: Vec<Vec<String>> = explanation
            .passed_over
            .iter()
            .map(|passed| {
                vec![
                    format!("  {}", text::name(&passed.account)),
                    text::clean(&passed.reason, 80),
                    passed
                        .until
                        .map(|until| format!("{} left", left(now, until)))
                        .unwrap_or_default(),
                ]
            })
            .collect();
        // What an answer said is too long for a column: it stands below.
        for (line, passed) in table(&[], &rows).into_iter().skip(1).zip(&explanation.passed_over) {
            lines.push(line);
            let because = passed.evidence.as_ref().map(|it| because(it, now));
            lines.extend(because.map(|because| format!("      {because}")));
        }
    }
    lines
}

/// The answer behind a block: `429 from retry-after, 2m ago, request req_1: message`.
fn because(evidence: &Evidence, now: Wall) -> String {
    let status = evidence.status.map(|status| status.to_string()).unwrap_or_default();
    let source = evidence
        .source
        .as_deref()
        .filter(|source| !repeats_status(evidence.status, source))
        .map(|source| format!(" {}", text::clean(source, 60)))
        .unwrap_or_default();
    let ago =
        evidence.at.map(|Moment(at)| format!(", {} ago", human(at.until(now)))).unwrap_or_default();
    let request =
        evidence.request_id.as_deref().map(|id| format!(", request {}", text::clean(id, 60)));
    let message =
        evidence.message.as_deref().map(|message| format!(": {}", text::clean(message, 120)));
    format!("{status}{source}{ago}{}{}", request.unwrap_or_default(), message.unwrap_or_default())
        .trim()
        .to_owned()
}

fn left(now: Wall, Moment(until): Moment) -> String {
    human(now.until(until))
}

/// The JSON as it came.
fn raw(context: &mut Context<'_>, body: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(body);
    context.out.line(text.trim_end());
    Ok(())
}

fn unreadable(server: &Server, error: &serde_json::Error) -> Error {
    Error::operator(format!(
        "the answer of {} is not what this version reads: {error}; is it maxpool?",
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
                "draining: what is in flight finishes, nothing new begins",
                "all Claude accounts pause, probes in 5s: overloaded\\n",
                "2 waiting, the oldest for 45s, the next account frees in 1m",
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
    fn s12_an_explanation_shows_terms_and_evidence() {
        let explanation: Explanation = serde_json::from_value(json!({
            "chosen": "a", "why": "score",
            "candidates": [{"account": "a", "rank": 1, "tier": "normal", "priority": 0, "score": 1.5,
                "terms": {"load": 1.0, "week": 0.5}, "notes": ["kept where its cache is"]}],
            "passedOver": [{"account": "b", "reason": "five_hour limit", "until": "1970-01-01T00:10:00.000Z",
                "evidence": {"status": 429, "source": "retry-after", "requestId": "req_1",
                    "at": "1970-01-01T00:00:00.000Z", "message": "limit \u{1b}[2J"}}]
        }))
        .unwrap();
        assert_eq!(
            explained(&explanation, Wall(60_000)),
            [
                "a, by score",
                "",
                "RANK  ACCOUNT  TIER    PRIORITY  SCORE  load  week  NOTES",
                "1     a        normal  0         1.50   1.00  0.50  kept where its cache is",
                "",
                "passed over:",
                "  b  five_hour limit  9m left",
                "      429 retry-after, 1m ago, request req_1: limit \\u{1b}[2J",
            ]
        );
        let none: Explanation =
            serde_json::from_value(json!({"why": "waits", "until": "1970-01-01T00:01:00Z"}))
                .unwrap();
        assert_eq!(explained(&none, Wall(0)), ["no account now: waits, for 1m"]);
        let refused = Evidence {
            status: Some(401),
            source: Some("status 401".into()),
            ..Evidence::default()
        };
        assert_eq!(because(&refused, Wall(0)), "401");
    }
}
