//! Formats events as log lines (D2): no ANSI, no control characters from outside, bounded in
//! length, and complete enough to understand a night afterwards: what was blocked, until when,
//! because of which answer.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::mask::mask;
use super::text::{clean, name, push_clean, push_name, quoted, repeats_status};
use super::{Brief, Entry, Level};
use crate::clock::{human, iso, lasted, push_iso};
use crate::config::masking::Masked;
use crate::event::labels;
use crate::event::{
    AccountBlocked, Event, Failover, Finished, Held, Outcome, Refresh, RefreshResult, RestartStep,
    Stamped, Started,
};
use crate::scheduler::Evidence;
use crate::scheduler::time::Wall;

/// Longest text of one entry, in characters: even with four bytes each, a line is a single write to
/// a pipe.
const ENTRY_CHARS_MAX: usize = 900;
/// The usual length of a request's line without its path.
const LINE_BYTES: usize = 192;
/// Longest text from outside: a message, a header, a path.
const PIECE_CHARS_MAX: usize = 300;
/// Accounts listed individually at start.
const STARTED_ACCOUNTS_MAX: usize = 256;
/// Names listed by a reload.
const RELOAD_NAMES_MAX: usize = 20;

/// Passes the entries of one event to `take`: one entry, except that the start has one more for
/// each account.
pub(super) fn entries(stamped: &Stamped, take: &mut dyn FnMut(Entry)) {
    let at = stamped.at;
    let (level, text) = describe(at, &stamped.event);
    let mut entry = bounded(at, level, text);
    if let Event::Finished(finished) = &stamped.event {
        entry.brief = Some(brief_of(finished));
    }
    take(entry);
    if let Event::Started(started) = &stamped.event {
        account_entries(at, started).for_each(take);
    }
}

/// The line about events that were lost because the channel was full.
pub(super) fn dropped(at: Wall, lost: u64) -> Entry {
    let text = format!("warning: {lost} log lines were lost because the log is read too slowly");
    bounded(at, Level::Warning, text)
}

/// Appends a complete line of the plain log.
pub(super) fn push_line(out: &mut String, entry: &Entry) {
    push_iso(out, entry.at);
    out.push(' ');
    out.push_str(&entry.text);
    out.push('\n');
}

fn bounded(at: Wall, level: Level, text: String) -> Entry {
    let text = Masked::text(&clean(&mask(&text), ENTRY_CHARS_MAX));
    Entry { at, level, text, brief: None }
}

fn brief_of(finished: &Finished) -> Brief {
    Brief {
        method: Arc::clone(&finished.method),
        path: Arc::clone(&finished.path),
        account: finished.account.as_ref().map(|(name, _)| Arc::clone(name)),
        model: finished.model.clone(),
        status: finished.status,
        total: finished.total,
        tokens: finished.tokens.map(|tokens| (tokens.input, tokens.output)),
        cause: cause_of(finished),
    }
}

fn describe(at: Wall, event: &Event) -> (Level, String) {
    use Level::{Info, Warning};
    match event {
        Event::Started(started) => (Info, started_line(started)),
        Event::Finished(finished) => (finished_level(finished), finished_line(finished)),
        Event::Failover(failover) => (Warning, failover_line(failover)),
        Event::AccountBlocked(blocked) => (Warning, blocked_line(at, blocked)),
        Event::AccountBack { account, after } => {
            (Info, format!("account {} is back after {}", name(account), lasted(*after)))
        }
        Event::Held(held) => (Info, held_line(at, held)),
        Event::Released { session, account, waited } => {
            let session = session_part(session.as_ref());
            (
                Info,
                format!(
                    "held request sent to {} after {}{session}",
                    name(account),
                    lasted(*waited)
                ),
            )
        }
        Event::BreakerOpen { reason, until, failed_probes } => {
            (Warning, breaker_open_line(at, reason, *until, *failed_probes))
        }
        Event::BreakerProbe => (Info, "breaker: one request is probing the API".into()),
        Event::BreakerClosed { after, by } => (
            Info,
            format!("breaker closed after {}: {}", lasted(*after), clean(by, PIECE_CHARS_MAX)),
        ),
        Event::Refresh(refresh) => refresh_line(refresh),
        Event::Reloaded { added, removed, changed } => {
            (Info, reloaded_line(added, removed, changed))
        }
        Event::ReloadFailed { why } => (
            Warning,
            format!(
                "warning: config not reloaded, the old settings stay in force: {}",
                clean(why, PIECE_CHARS_MAX)
            ),
        ),
        Event::Stopping { by, left, until } => (Info, stopping_line(at, by, *left, *until)),
        Event::Draining { left } => {
            (Info, format!("stopping: {}", counted(*left, "request", "left")))
        }
        Event::Stopped => (Info, "stopped".into()),
        Event::Restart(step) => restart_line(step),
        Event::Notice { text } => (Info, text.clone()),
        Event::Warning { text } => (Warning, format!("warning: {text}")),
    }
}

fn started_line(started: &Started) -> String {
    format!(
        "maxpool {} listens on {}, config {}, {}",
        started.version,
        started.address,
        clean(&started.config, PIECE_CHARS_MAX),
        counted(started.accounts.len(), "account", "").trim_end()
    )
}

fn account_entries(at: Wall, started: &Started) -> impl Iterator<Item = Entry> {
    started.accounts.iter().take(STARTED_ACCOUNTS_MAX).map(move |account| {
        let note = account.note.as_deref().map(|note| format!(", {note}")).unwrap_or_default();
        let text =
            format!("account {} ({}{note})", name(&account.name), labels::kind(account.kind));
        bounded(at, Level::Info, text)
    })
}

fn finished_level(finished: &Finished) -> Level {
    match finished.outcome {
        Outcome::Ok | Outcome::Local | Outcome::ClientGone { .. } => Level::Info,
        Outcome::PassedOn | Outcome::Refused | Outcome::Broken => Level::Warning,
    }
}

/// Every request writes one, so it is built piece by piece: the formatting machinery of std takes
/// ten times as long.
fn finished_line(finished: &Finished) -> String {
    let path = &finished.path;
    let mut line = String::with_capacity(LINE_BYTES + path.len().min(PIECE_CHARS_MAX));
    push_clean(&mut line, &finished.method, 20);
    line.push(' ');
    push_clean(&mut line, path, PIECE_CHARS_MAX);
    line.push(' ');
    match &finished.account {
        Some((account, _)) => push_name(&mut line, account),
        None => line.push('-'),
    }
    match finished.status {
        Some(status) => push_field(&mut line, " ", status.into()),
        None => line.push_str(" -"),
    }
    if let Some(cause) = cause_of(finished) {
        line.push_str(" cause=");
        line.push_str(&quoted(&cause, PIECE_CHARS_MAX));
    }
    push_ms(&mut line, " queue=", finished.queued);
    match finished.first_byte {
        Some(first) => push_ms(&mut line, " first=", first),
        None => line.push_str(" first=-"),
    }
    push_ms(&mut line, " total=", finished.total);
    if let Some(tokens) = finished.tokens {
        push_field(&mut line, " in=", tokens.input);
        push_field(&mut line, " out=", tokens.output);
        push_field(&mut line, " cache_read=", tokens.cache_read);
        push_field(&mut line, " cache_write=", tokens.cache_write);
    }
    if let Some(model) = &finished.model {
        line.push_str(" model=");
        push_name(&mut line, model);
    }
    push_field(&mut line, " attempts=", finished.attempts.into());
    push_session(&mut line, finished.session.as_ref());
    line
}

fn push_field(line: &mut String, label: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ = write!(line, "{label}{value}");
}

fn push_ms(line: &mut String, label: &str, span: Duration) {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    push_field(line, label, ms);
    line.push_str("ms");
}

/// The known cause, else what the outcome implies; nothing if all went well.
fn cause_of(finished: &Finished) -> Option<String> {
    if let Outcome::ClientGone { stage, output_started } = finished.outcome {
        let output = if output_started { "output had started" } else { "no output yet" };
        let left = format!(
            "client left while {} after {}, {output}",
            stage.word(),
            lasted(finished.total)
        );
        return Some(left);
    }
    finished.cause.clone().or_else(|| match finished.outcome {
        Outcome::Ok | Outcome::Local | Outcome::PassedOn => None,
        Outcome::Refused => Some("answered by maxpool".into()),
        Outcome::Broken => Some("the answer broke off".into()),
        Outcome::ClientGone { .. } => Some("client left".into()),
    })
}

fn failover_line(failover: &Failover) -> String {
    let to = match &failover.to {
        Some(to) => name(to),
        None => "the queue".into(),
    };
    format!(
        "failover {} -> {to}: {}{}{}",
        name(&failover.from),
        clean(&failover.why, PIECE_CHARS_MAX),
        evidence_part(failover.evidence.as_deref(), &failover.why),
        session_part(failover.session.as_ref())
    )
}

fn blocked_line(at: Wall, blocked: &AccountBlocked) -> String {
    let block = &blocked.block;
    let scope = match labels::scope(&block.scope) {
        Some(family) => format!(" for {}", piece(family)),
        None => String::new(),
    };
    let until = match block.until {
        Some(until) => format!("until {}", moment(at, until)),
        None => "until its credential changes".into(),
    };
    format!(
        "account {} is {}{scope}, {}, {until}{}",
        name(&blocked.account),
        labels::effect(block.effect),
        labels::block_phrase(&block.reason),
        evidence_part(Some(&block.evidence), "")
    )
}

fn held_line(at: Wall, held: &Held) -> String {
    let until = match held.until {
        Some(until) => format!("an account is expected at {}", moment(at, until)),
        None => "it takes the next free slot".into(),
    };
    format!(
        "request held ({}): {until}, {}{}",
        labels::wait_cause(held.cause),
        counted(held.queued, "request", "waiting"),
        session_part(held.session.as_ref())
    )
}

fn breaker_open_line(at: Wall, reason: &str, until: Option<Wall>, failed_probes: u32) -> String {
    let until = match until {
        Some(until) => format!(", next probe at {}", moment(at, until)),
        None => String::new(),
    };
    let failed = match failed_probes {
        0 => String::new(),
        count => format!(", {count} failed probes in a row"),
    };
    format!("breaker open: {}{until}{failed}", clean(reason, PIECE_CHARS_MAX))
}

fn refresh_line(refresh: &Refresh) -> (Level, String) {
    let account = name(&refresh.account);
    let print = |print: &Option<String>| clean(print.as_deref().unwrap_or("-"), 20);
    let change = format!("{} -> {}, pid {}", print(&refresh.old), print(&refresh.new), refresh.pid);
    let (what, how, why) = match &refresh.result {
        RefreshResult::Rotated => ("token of", "refreshed", None),
        RefreshResult::Adopted => ("token of", "read from the config file", None),
        RefreshResult::Failed(why) => ("token refresh of", "failed, will be retried: ", Some(why)),
        RefreshResult::Refused(why) => {
            ("token refresh of", "refused, run `maxpool login`: ", Some(why))
        }
        RefreshResult::NotStored(why) => ("token of", "refreshed but not stored: ", Some(why)),
    };
    let level = match why {
        None => Level::Info,
        Some(_) => Level::Warning,
    };
    let why = why.map(|why| piece(why)).unwrap_or_default();
    (level, format!("{what} {account} {how}{why} ({change})"))
}

/// `stopping: 2 requests left (SIGTERM), until 2026-11-22T03:00:00.000Z, in 10m`.
fn stopping_line(at: Wall, by: &str, left: usize, until: Wall) -> String {
    let mut line = format!("stopping: {} ({})", counted(left, "request", "left"), piece(by));
    if left > 0 {
        line.push_str(&format!(", until {}", moment(at, until)));
    }
    line
}

fn reloaded_line(added: &[String], removed: &[String], changed: &[String]) -> String {
    let mut line = String::from("config reloaded: ");
    let said = line.len();
    // A change describes itself: `work: priority 0 -> 5`, `routing changed`.
    for (what, names) in [("added ", added), ("removed ", removed), ("", changed)] {
        for (position, name) in names.iter().take(RELOAD_NAMES_MAX).enumerate() {
            line.push_str(match position {
                0 if line.len() > said => "; ",
                0 => "",
                _ => ", ",
            });
            if position == 0 {
                line.push_str(what);
            }
            push_clean(&mut line, name, 120);
        }
        let more = names.len().saturating_sub(RELOAD_NAMES_MAX);
        if more > 0 {
            push_field(&mut line, " and ", more as u64);
            line.push_str(" more");
        }
    }
    if line.len() == said {
        line.push_str("nothing changed");
    }
    line
}

fn restart_line(step: &RestartStep) -> (Level, String) {
    match step {
        RestartStep::Starting => (Level::Info, "restart: starting the new process".into()),
        RestartStep::Serving { pid } => (
            Level::Info,
            format!("restart: process {pid} is serving, this one is finishing its requests"),
        ),
        RestartStep::Done => (Level::Info, "restart: done".into()),
        RestartStep::Failed { why } => (
            Level::Warning,
            format!("warning: restart failed, this process keeps running: {}", piece(why)),
        ),
    }
}

/// ` [status 429; request-id req_1; retry-after: 12; "message"]`, or nothing if nothing is known.
/// Omits what `said` already contains.
fn evidence_part(evidence: Option<&Evidence>, said: &str) -> String {
    let Some(evidence) = evidence else {
        return String::new();
    };
    let mut part = String::new();
    let mut push = |text: &str| {
        part.push_str(if part.is_empty() { " [" } else { "; " });
        part.push_str(text);
    };
    if let Some(status) = evidence.status {
        push(&format!("status {status}"));
    }
    if let Some(id) = &evidence.request_id {
        push(&format!("request-id {}", piece(id)));
    }
    let says_more = |text: &str| !text.is_empty() && !repeats_status(evidence.status, text);
    if says_more(&evidence.source) {
        push(&piece(&evidence.source));
    }
    if says_more(&evidence.message) && !said.contains(&*evidence.message) {
        push(&quoted(&evidence.message, PIECE_CHARS_MAX));
    }
    if !part.is_empty() {
        part.push(']');
    }
    part
}

fn session_part(session: Option<&Arc<str>>) -> String {
    let mut part = String::new();
    push_session(&mut part, session);
    part
}

fn push_session(line: &mut String, session: Option<&Arc<str>>) {
    if let Some(tag) = session {
        line.push_str(" session=");
        push_clean(line, tag, 40);
    }
}

/// `2026-11-22T03:00:00.000Z, in 4h 12m`.
fn moment(at: Wall, then: Wall) -> String {
    let left = at.until(then);
    if left == Duration::ZERO {
        return iso(then);
    }
    format!("{}, in {}", iso(then), human(left))
}

fn piece(text: &str) -> String {
    clean(text, PIECE_CHARS_MAX)
}

fn counted(count: usize, one: &str, state: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {one}{plural} {state}")
}

#[cfg(test)]
mod tests;
