//! `explain`: which account a request would get from the running proxy, and why (SPEC S12).

use serde_json::Value;

use super::Context;
use super::args::ExplainOptions;
use super::status::{raw, unreadable};
use super::table::{Room, table, wrapped};
use super::web::Server;
use crate::account::http::percent_encoded;
use crate::clock::{self, human};
use crate::error::Result;
use crate::http::document;
use crate::report::reasons::{chosen_by, wait_cause};
use crate::report::status::{Candidate, Evidence, Explanation, Moment, PassedOver};
use crate::report::text::{self, repeats_status};
use crate::scheduler::time::Wall;

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
        document::read(&body).map_err(|error| unreadable(&server, &error))?;
    for line in explained(&explanation, clock::wall(), context.out.room()) {
        context.out.line(&line);
    }
    Ok(())
}

fn explained(explanation: &Explanation, now: Wall, room: Room) -> Vec<String> {
    let mut lines = wrapped(&verdict(explanation, now), 2, room);
    let asked = &explanation.request;
    if let Some(id) = asked.session.as_deref().map(|id| text::clean(id, 80)) {
        lines.extend(wrapped(
            &match asked.session_known {
                Some(false) => format!(
                    "session {id} is unknown (never seen, or idle for too long); this is what a \
                    request without a session would get"
                ),
                Some(true) | None => format!("session {id}"),
            },
            2,
            room,
        ));
    }
    if !explanation.candidates.is_empty() {
        lines.push(String::new());
        lines.extend(ranked(&explanation.candidates, room));
    }
    if !explanation.passed_over.is_empty() {
        lines.push(String::new());
        lines.push("passed over:".to_owned());
        for passed in &explanation.passed_over {
            lines.extend(wrapped(&format!("  {}", out(passed, now)), 6, room));
            let because = passed.evidence.as_ref().map(|it| because(it, now));
            let because = because.map(|because| wrapped(&format!("      {because}"), 6, room));
            lines.extend(because.into_iter().flatten());
            if let Some(by) = &passed.lifted_by {
                let by = format!("      lifted by {}", text::clean(by, 120));
                lines.extend(wrapped(&by, 6, room));
            }
        }
    }
    lines
}

/// What happens to the request, in one line.
pub(super) fn verdict(explanation: &Explanation, now: Wall) -> String {
    let why = text::clean(&explanation.why, 200);
    if let Some(name) = &explanation.chosen {
        return format!("goes to {}: {}", text::name(name), chosen_by(&why));
    }
    let until = explanation.until.map(|until| left(now, until));
    let cause_of = |word| wait_cause(word, &explanation.passed_over);
    match (why.split_once(": "), until) {
        (Some(("waits", cause)), Some(until)) => {
            format!("would wait {until}: {}", cause_of(cause))
        }
        (Some(("waits", cause)), None) => format!("would wait: {}", cause_of(cause)),
        (Some(("refused", cause)), _) => format!("would be refused: {cause}"),
        _ => format!("would get no account: {why}"),
    }
}

/// The accounts that can serve, best first, with the terms of their scores and other criteria.
fn ranked(candidates: &[Candidate], room: Room) -> Vec<String> {
    let terms = candidates.first().map(|first| first.terms.keys().cloned().collect());
    let terms: Vec<String> = terms.unwrap_or_default();
    let mut heading = vec!["RANK", "ACCOUNT", "TIER", "PRIORITY", "SCORE"];
    heading.extend(terms.iter().map(String::as_str));
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), text::hundredths);
    let row = |candidate: &Candidate| {
        let mut row = vec![
            candidate.rank.to_string(),
            text::name(&candidate.account),
            candidate.tier.clone(),
            candidate.priority.to_string(),
            number(candidate.score),
        ];
        let value = |term: &String| candidate.terms.get(term).and_then(Value::as_f64);
        row.extend(terms.iter().map(|term| number(value(term))));
        row
    };
    let rows: Vec<Vec<String>> = candidates.iter().map(row).collect();
    let mut lines = table(&heading, &rows, room).into_iter();
    let mut with_notes: Vec<String> = lines.next().into_iter().collect();
    for (line, candidate) in lines.zip(candidates) {
        with_notes.push(line);
        for note in &candidate.notes {
            with_notes.extend(wrapped(&format!("      {}", text::clean(note, 200)), 6, room));
        }
    }
    with_notes
}

/// `work: five-hour limit reached, back in 2h 13m`.
pub(super) fn out(passed: &PassedOver, now: Wall) -> String {
    let what = if passed.awaits_test() { "next look in" } else { "back in" };
    let until = passed.until.map(|until| format!(", {what} {}", left(now, until)));
    let reason = text::clean(&passed.reason, 120);
    format!("{}: {reason}{}", text::name(&passed.account), until.unwrap_or_default())
}

/// The answer behind a block: `429 from retry-after, 2m ago, request req_1: message`.
pub(super) fn because(evidence: &Evidence, now: Wall) -> String {
    let status = evidence.status.map(|status| status.to_string()).unwrap_or_default();
    let source = evidence
        .source
        .as_deref()
        .filter(|source| *source != "body" && !repeats_status(evidence.status, source))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

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
            explained(&explanation, Wall(60_000), None),
            [
                "goes to a: it has the best score of the accounts that can serve",
                "",
                "RANK  ACCOUNT  TIER    PRIORITY  SCORE  load  week",
                "1     a        normal  0         1.50   1.00  0.50",
                "      kept where its cache is",
                "",
                "passed over:",
                "  b: five_hour limit, back in 9m",
                "      429 retry-after, 1m ago, request req_1: limit \\u{1b}[2J",
            ]
        );
        for (explanation, line) in [
            (
                json!({"why": "waits: quota", "until": "1970-01-01T00:01:00Z"}),
                "would wait 1m: every account is at a limit",
            ),
            (json!({"why": "waits: network"}), "would wait: the network is down"),
            (
                json!({"why": "refused: all accounts are limited"}),
                "would be refused: all accounts are limited",
            ),
            (json!({"why": "odd"}), "would get no account: odd"),
            (json!({"why": "odd", "chosen": "a"}), "goes to a: odd"),
        ] {
            let explanation: Explanation = serde_json::from_value(explanation).unwrap();
            assert_eq!(explained(&explanation, Wall(0), None), [line]);
        }
        let session = |known: bool| {
            let request = json!({"session": "0a1b2c", "sessionKnown": known});
            let explanation = json!({"chosen": "a", "why": "home", "request": request});
            explained(&serde_json::from_value(explanation).unwrap(), Wall(0), None)
        };
        assert_eq!(
            session(true),
            ["goes to a: it is the session's home, where its prompt cache is", "session 0a1b2c",]
        );
        assert!(session(false)[1].starts_with("session 0a1b2c is unknown ("));
        let refused = Evidence {
            status: Some(401),
            source: Some("status 401".into()),
            ..Evidence::default()
        };
        assert_eq!(because(&refused, Wall(0)), "401");
    }
}
