//! The lower half of the main page: the requests in flight, and the log in compact lines.

use super::Frame;
use super::line::{Ink, Line};
use super::time::{age, amount, seconds};
use crate::report::status::{FinishedRequest, Line as LogLine, Request};
use crate::report::text::{clean, name};

/// From this width on, a request in flight also shows its stage and its path.
const WIDE: usize = 76;

impl Frame<'_> {
    /// Requests in flight, newest first; the heading says how old the oldest is.
    pub(super) fn flights(&self, room: usize) -> Vec<Line> {
        let status = self.status;
        if room < 2 {
            return Vec::new();
        }
        let mut heading = Line::of(Ink::Bold, "IN FLIGHT");
        heading.push(Ink::Dim, format!(" {}", status.requests_in_flight));
        if let Some(oldest) = status.requests.iter().map(|request| request.age_ms).max() {
            let dot = self.signs.dot();
            heading.push(Ink::Dim, format!("{dot}oldest {}", age(oldest)));
        }
        let mut lines = vec![heading];
        let all = status.requests.len();
        let shown = match room {
            _ if all < room => all,
            // The heading already gives their number.
            2 => 1,
            _ => room - 2,
        };
        lines.extend(status.requests.iter().rev().take(shown).map(|request| self.flight(request)));
        if status.requests_in_flight > shown && lines.len() < room {
            let more = status.requests_in_flight - shown;
            lines.push(Line::of(Ink::Dim, format!("  and {more} more")));
        }
        lines
    }

    fn flight(&self, request: &Request) -> Line {
        let wide = self.size.cols >= WIDE;
        let queued = request.stage == "queued";
        let mut line = Line::default();
        line.gap(2).column_right(Ink::Plain, &age(request.age_ms), 5, self.signs).gap(1);
        let ink = if queued { Ink::Yellow } else { Ink::Plain };
        if wide {
            line.column(ink, &request.stage, 10, self.signs).gap(1);
        }
        let account = match &request.account {
            Some(account) => clean(account, 60),
            None if wide || !queued => "-".into(),
            None => "queued".into(),
        };
        line.column(ink, &account, if wide { 16 } else { 12 }, self.signs).gap(1);
        let model = request.model.as_deref().map_or_else(|| "-".into(), short_model);
        line.column(Ink::Dim, &model, if wide { 18 } else { 10 }, self.signs).gap(1);
        let session = request.session.as_deref().unwrap_or("-");
        line.column(Ink::Dim, &clean(session, 40), 6, self.signs);
        if wide {
            line.gap(1).push(Ink::Dim, clean(&request.path, 120));
        }
        line
    }

    /// The log, newest first.
    pub(super) fn activity(&self, room: usize) -> Vec<Line> {
        let entries = &self.status.activity;
        if room < 2 {
            return Vec::new();
        }
        let newer = self.ui.newer_lines(self.status);
        let mut heading = Line::of(Ink::Bold, "ACTIVITY");
        if newer > 0 {
            heading.push(Ink::Dim, format!(" {newer} newer, PageDown shows them"));
        }
        let mut lines = vec![heading];
        if entries.is_empty() {
            lines.push(Line::of(Ink::Dim, "  nothing yet"));
        }
        let shown = entries.iter().rev().skip(newer).take(room - 1);
        lines.extend(shown.map(|entry| self.log_line(entry)));
        lines
    }

    fn log_line(&self, entry: &LogLine) -> Line {
        let local = self.local();
        let mut line = Line::of(Ink::Dim, format!("  {} ", local.when(entry.at.0)));
        let ink = if entry.warning { Ink::Yellow } else { Ink::Plain };
        let text = match &entry.request {
            Some(request) => self.compact(request),
            None => local.localised(&entry.text),
        };
        line.push(ink, clean(&text, 900));
        line
    }

    /// `work opus-4-8 200 5.3s 1.2k→340`, with the cause if it did not end well.
    fn compact(&self, request: &FinishedRequest) -> String {
        let mut words = vec![request.account.as_deref().map_or_else(|| "-".to_owned(), name)];
        words.extend(request.model.as_deref().map(short_model));
        match request.path.strip_prefix("/v1/messages") {
            Some("") => {}
            Some(below) if below.starts_with('/') => words.push(below[1..].to_owned()),
            Some(_) | None if request.method == "POST" => words.push(request.path.clone()),
            Some(_) | None => words.push(format!("{} {}", request.method, request.path)),
        }
        words.push(request.status.map_or_else(|| "-".to_owned(), |status| status.to_string()));
        words.push(seconds(request.total_ms));
        if let (Some(input), Some(output)) = (request.input_tokens, request.output_tokens) {
            words.push(format!("{}{}{}", amount(input), self.signs.arrow(), amount(output)));
        }
        let mut text = words.join(" ");
        if let Some(cause) = &request.cause {
            text.push_str(self.signs.dot());
            text.push_str(cause);
        }
        text
    }
}

/// A model id without the common parts: `claude-opus-4-8-20260101` becomes `opus-4-8`.
pub(super) fn short_model(id: &str) -> String {
    let short = id.strip_prefix("claude-").unwrap_or(id);
    let short = match short.rsplit_once('-') {
        Some((rest, date)) if date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => short,
    };
    clean(short, 60)
}
