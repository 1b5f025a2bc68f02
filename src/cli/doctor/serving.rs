//! Whether a request can be served now, by which account, and if not, why and when: the first
//! question of every user. The running server is asked, because only it knows its blocks, its
//! breaker and the use of its accounts.

use super::{Finding, fine, odd, wrong};
use crate::cli::explain::{because, out, verdict};
use crate::cli::web::{Presence, Server};
use crate::clock::{self, human};
use crate::config::{Config, Credential};
use crate::error::Result;
use crate::http::document;
use crate::report::status::{Candidate, Explanation, Moment, REFUSED_BEFORE};
use crate::report::text;
use crate::scheduler::time::Wall;

const ABOUT: &str = "request";

/// A line with the answer, and one for each account that is out.
pub(super) fn now(config: &Result<Config>) -> Vec<Finding> {
    let config = match config {
        Ok(config) => config,
        Err(_) => {
            return vec![odd(ABOUT, "cannot be judged: the config cannot be read, see below")];
        }
    };
    let server = match Server::of(config) {
        Ok(server) => server,
        Err(error) => return vec![odd(ABOUT, format!("cannot be judged: {error}"))],
    };
    match server.presence() {
        Presence::Running => of_server(&server),
        Presence::Absent => vec![not_running(&server, config)],
        Presence::Strange(what) => {
            vec![wrong(ABOUT, format!("cannot be served: {what}; see the \"port\" line"))]
        }
    }
}

fn not_running(server: &Server, config: &Config) -> Finding {
    let usable = config.accounts.iter().filter(|account| account.enabled);
    let claude = usable.clone().any(|it| !matches!(it.credential, Credential::Provider(_)));
    let start = format!("start it with: maxpool server (nothing listens at {})", server.base());
    match (usable.count(), claude) {
        (0, _) if config.accounts.is_empty() => wrong(
            ABOUT,
            "cannot be served now: there is no account and maxpool is not running; run: maxpool \
             login, then: maxpool",
        ),
        (0, _) => wrong(
            ABOUT,
            "cannot be served now: all accounts are disabled and maxpool is not running; run: \
             maxpool enable NAME, then: maxpool",
        ),
        (_, false) => odd(
            ABOUT,
            format!("cannot be served now: maxpool is not running, and {ONLY_PROVIDERS}; {start}"),
        ),
        (_, true) => odd(ABOUT, format!("cannot be served now: maxpool is not running; {start}")),
    }
}

/// Providers serve only clients that ask for them.
const ONLY_PROVIDERS: &str = "only providers are enabled, which serve requests with the header \
                              \"x-maxpool-profile: all\"";

fn of_server(server: &Server) -> Vec<Finding> {
    let explained = |profile: &str| {
        let body = server.json("GET", &format!("/maxpool/explain?profile={profile}"), None)?;
        document::read::<Explanation>(&body).map_err(|error| {
            crate::error::Error::operator(format!("its answer cannot be read: {error}"))
        })
    };
    let explanation = match explained("claude") {
        Ok(explanation) => explanation,
        Err(error) => return vec![wrong(ABOUT, format!("cannot be judged: {error}"))],
    };
    let mut findings = of_explanation(&explanation, clock::wall());
    if explanation.chosen.is_none()
        && let Ok(Explanation { chosen: Some(name), .. }) = explained("all")
    {
        let text = format!(
            "one with the header \"x-maxpool-profile: all\" can be served now, by {}",
            text::name(&name)
        );
        findings.insert(1, odd(ABOUT, text));
    }
    findings
}

fn of_explanation(explanation: &Explanation, now: Wall) -> Vec<Finding> {
    let head = match &explanation.chosen {
        Some(name) => by(name, explanation),
        None => {
            let verdict = verdict(explanation, now);
            let advice = match advice(explanation) {
                "" => soonest(explanation, now).unwrap_or_default(),
                advice => advice.to_owned(),
            };
            wrong(ABOUT, format!("cannot be served now: a request {verdict}{advice}"))
        }
    };
    let all = explanation.passed_over.iter().filter(|it| it.reason != "not in this profile");
    let passed = all.map(|passed| {
        let evidence = passed.evidence.as_ref().map(|it| because(it, now));
        let evidence = evidence.filter(|text| !text.is_empty());
        let evidence = evidence.map(|text| format!(" ({text})")).unwrap_or_default();
        odd(ABOUT, format!("passed over: {}{evidence}", out(passed, now)))
    });
    std::iter::once(head).chain(passed).collect()
}

/// That the request can be served, and by which account. One that the API has refused is tested
/// first and serves only if the refusal is over, so it is not the answer by itself.
fn by(name: &str, explanation: &Explanation) -> Finding {
    let was_refused =
        |candidate: &&Candidate| candidate.notes.iter().any(|note| note == REFUSED_BEFORE);
    let chosen = explanation.candidates.iter().find(|candidate| candidate.account == name);
    let name = text::name(name);
    if chosen.filter(was_refused).is_none() {
        return fine(ABOUT, format!("can be served now, by {name}"));
    }
    let next = explanation.candidates.iter().find(|candidate| !was_refused(candidate));
    match next.map(|next| text::name(&next.account)) {
        Some(next) => fine(
            ABOUT,
            format!(
                "can be served now, by {next} (after another try with {name}, which the API has refused)"
            ),
        ),
        None => odd(
            ABOUT,
            format!("can be served now only if the API accepts {name} again, which it has refused"),
        ),
    }
}

/// The first account to come back, if the request itself would not wait for it.
fn soonest(explanation: &Explanation, now: Wall) -> Option<String> {
    let waiting = explanation.passed_over.iter().filter(|it| !it.awaits_test());
    let ends = waiting.filter_map(|it| Some((it.until?, &it.account)));
    let (Moment(until), account) = ends.min()?;
    (explanation.until.is_none()).then(|| {
        format!("; the first to return is {}, in {}", text::name(account), human(now.until(until)))
    })
}

/// What to do if only the user can help.
fn advice(explanation: &Explanation) -> &'static str {
    match explanation.why.as_str() {
        "refused: all accounts are disabled" => "; enable one with: maxpool enable NAME",
        "refused: no account" => "; add one with: maxpool login",
        "refused: no account has this profile" => "; add a Claude account with: maxpool login",
        "refused: no account has a working credential" => "; see the \"token\" lines",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn the_first_line_says_who_serves_or_why_nobody_does() {
        let week = json!({"account": "work", "reason": "weekly limit reached",
            "until": "1970-01-04T04:00:00Z",
            "evidence": {"status": 429, "source": "retry-after", "message": "Usage limit"}});
        let other = json!({"account": "glm", "reason": "not in this profile"});
        for (explanation, expected) in [
            (
                json!({"chosen": "work", "why": "score", "passedOver": [other]}),
                vec![(Verdict::Fine, "can be served now, by work")],
            ),
            (
                json!({"chosen": "dead", "why": "score", "candidates": [
                    {"account": "dead", "notes": [REFUSED_BEFORE]}, {"account": "work"}]}),
                vec![(
                    Verdict::Fine,
                    "can be served now, by work (after another try with dead, which the API has \
                     refused)",
                )],
            ),
            (
                json!({"chosen": "dead", "why": "score",
                    "candidates": [{"account": "dead", "notes": [REFUSED_BEFORE]}]}),
                vec![(
                    Verdict::Odd,
                    "can be served now only if the API accepts dead again, which it has refused",
                )],
            ),
            (
                json!({"why": "refused: all accounts are limited", "passedOver": [week, other]}),
                vec![
                    (
                        Verdict::Wrong,
                        "cannot be served now: a request would be refused: all accounts are limited; \
                         the first to return is work, in 3d 4h",
                    ),
                    (
                        Verdict::Odd,
                        "passed over: work: weekly limit reached, back in 3d 4h (429 retry-after: \
                         Usage limit)",
                    ),
                ],
            ),
            (
                json!({"why": "waits: quota", "until": "1970-01-01T00:10:00Z"}),
                vec![(
                    Verdict::Wrong,
                    "cannot be served now: a request would wait 10m: every account is at a limit",
                )],
            ),
            (
                json!({"why": "refused: all accounts are disabled"}),
                vec![(
                    Verdict::Wrong,
                    "cannot be served now: a request would be refused: all accounts are disabled; \
                     enable one with: maxpool enable NAME",
                )],
            ),
        ] {
            let explanation = serde_json::from_value(explanation).unwrap();
            let found = of_explanation(&explanation, Wall(0));
            let found: Vec<_> =
                found.iter().map(|finding| (finding.verdict, finding.text.as_str())).collect();
            assert_eq!(found, expected);
        }
    }
}
