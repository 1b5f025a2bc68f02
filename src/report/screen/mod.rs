//! The dashboard (D1): a frame is a pure function of the status, the state of the menus, the size
//! and what the terminal can show.
//!
//! It never looks at a clock (`status.now` is its time) and never writes: `host/terminal.rs` does.
//! Times are shown in minutes, so that a frame stays the same while nothing changes but the
//! seconds.

mod accounts;
pub(crate) mod line;
mod pages;
pub(crate) mod width;

#[cfg(test)]
mod tests;

use std::time::Duration;

use accounts::Columns;
use line::{Ink, Line, Signs, Style};

use super::status::{Request, Status};
use super::text::clean;
use super::ui::{Page, Ui};
use crate::clock::civil;
use crate::scheduler::time::Wall;

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// The facts, of this process or read from another one.
    pub(crate) status: Status,
    /// Seconds east of UTC, for the times of the activity log.
    pub(crate) utc_offset_s: i64,
    /// `status --watch`: what cannot be reached, if it cannot.
    pub(crate) lost: Option<String>,
}

/// The size of a terminal in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Cells in a row.
    pub(crate) cols: usize,
    /// Rows.
    pub(crate) rows: usize,
}

/// One text a row, at most `size.rows` of them, each at most `size.cols` cells wide.
pub(crate) fn render(view: &View, ui: &Ui, size: Size, style: Style) -> Vec<String> {
    let frame = Frame { view, status: &view.status, ui, size, signs: style.signs };
    let mut lines = frame.head();
    let foot = frame.foot();
    let room = size.rows.saturating_sub(lines.len() + foot.len());
    let mut body = match ui.page() {
        Page::Main => frame.main(room),
        Page::Help { .. }
        | Page::Accounts { .. }
        | Page::Account { .. }
        | Page::Key { .. }
        | Page::Routing { .. }
        | Page::Explain { .. } => frame.page(room),
    };
    body.resize(room, Line::default());
    lines.append(&mut body);
    lines.extend(foot);
    lines.truncate(size.rows);
    lines.iter().map(|line| line.paint(size.cols, style)).collect()
}

/// The ages at which a frame says something else though nothing has happened: the time until the
/// next of them, at least a second, at most a minute.
pub(crate) fn next_look(status: &Status) -> Duration {
    const LONGEST: Duration = Duration::from_secs(60);
    let now = status.now.0;
    let blocks =
        status.accounts.iter().flat_map(|account| account.blocks.iter().map(|block| block.until));
    let others = status
        .accounts
        .iter()
        .map(|account| account.unavailable.as_ref().and_then(|out| out.until));
    let resets = status
        .accounts
        .iter()
        .flat_map(|account| account.windows.iter().map(|window| window.reset));
    let soonest = blocks
        .chain(others)
        .chain(resets)
        .chain([status.upstream_throttle.until, status.queue.next_free_at])
        .flatten()
        .map(|at| now.until(at.0))
        .filter(|left| !left.is_zero())
        .min()
        .unwrap_or(LONGEST);
    // Ages are shown in steps of ten seconds below a minute.
    let ages = if status.requests.is_empty() && status.queue.waiting == 0 {
        LONGEST
    } else {
        Duration::from_secs(10)
    };
    // A little later than the moment itself: by then it is over.
    (soonest + Duration::from_millis(50)).min(ages).max(Duration::from_secs(1))
}

/// A span without seconds, in at most six letters for all that a quota window can last: `<1m`,
/// `12m`, `2h 14m`, `17h`, `3d 4h`.
pub(crate) fn short(span: Duration) -> String {
    let minutes = span.as_secs().div_ceil(60);
    let (hours, days) = (minutes / 60, minutes / (24 * 60));
    match minutes {
        _ if span.as_secs() < 60 => "<1m".into(),
        0..60 => format!("{minutes}m"),
        60..600 => two(hours, 'h', minutes % 60, 'm'),
        600..1_440 => format!("{hours}h"),
        _ => two(days, 'd', hours % 24, 'h'),
    }
}

fn two(large: u64, large_unit: char, small: u64, small_unit: char) -> String {
    if small == 0 {
        return format!("{large}{large_unit}");
    }
    format!("{large}{large_unit} {small}{small_unit}")
}

/// An age in steps that do not follow the seconds: `<10s`, `10s` … `50s`, then minutes.
fn age(ms: u64) -> String {
    match ms / 10_000 {
        0 => "<10s".into(),
        tens @ 1..6 => format!("{tens}0s"),
        _ => format!("{}m", ms / 60_000),
    }
}

/// One frame under construction.
struct Frame<'a> {
    view: &'a View,
    status: &'a Status,
    ui: &'a Ui,
    size: Size,
    signs: Signs,
}

impl Frame<'_> {
    /// Title, routing, and the lines that matter now.
    fn head(&self) -> Vec<Line> {
        let status = self.status;
        let dot = self.signs.dot();
        let mut title = Line::of(Ink::Bold, format!("maxpool {}", status.version));
        title.gap(1).push(Ink::Cyan, status.address.clone());
        let routing = match &status.routing.preferred_account {
            Some(name) => format!("prefers {}", clean(name, 60)),
            None => "automatic".into(),
        };
        let busy = format!(
            "{}{dot}{} in flight{dot}{}",
            routing,
            status.requests_in_flight,
            counted(status.sessions.sticky_bindings, "session")
        );
        let mut lines = Vec::new();
        if self.size.rows < 12 {
            title.right(Line::of(Ink::Plain, routing), self.size.cols);
            lines.push(title);
        } else {
            let up = Line::of(
                Ink::Dim,
                format!("up {}", short(Duration::from_millis(status.uptime_ms))),
            );
            title.right(up, self.size.cols);
            lines.push(title);
            lines.push(Line::of(Ink::Plain, busy));
        }
        lines.extend(self.alerts());
        lines
    }

    /// Only what matters now: lost connection, stopping, breaker, queue, no account.
    fn alerts(&self) -> Vec<Line> {
        let status = self.status;
        let now = status.now.0;
        let dot = self.signs.dot();
        let mut lines = Vec::new();
        if let Some(lost) = &self.view.lost {
            lines.push(Line::of(Ink::Red, clean(lost, 300)));
        }
        if status.draining {
            let left = counted(count(status.requests_in_flight), "request");
            lines.push(Line::of(
                Ink::Yellow,
                format!("stopping: {left} left, new ones are refused"),
            ));
        }
        let breaker = &status.upstream_throttle;
        if breaker.active {
            let mut text = match (breaker.probe_in_flight, breaker.until) {
                (true, _) => "breaker open: one request probes".to_owned(),
                (false, Some(until)) => {
                    format!("breaker open: probe in {}", short(now.until(until.0)))
                }
                (false, None) => "breaker open".to_owned(),
            };
            if let Some(reason) = &breaker.reason {
                text.push_str(dot);
                text.push_str(&clean(reason, 200));
            }
            lines.push(Line::of(Ink::Red, text));
        }
        if status.queue.waiting > 0 {
            lines.push(Line::of(Ink::Yellow, self.queue_line()));
        }
        if status.accounts.is_empty() && self.view.lost.is_none() {
            lines.push(Line::of(
                Ink::Red,
                "no account: run `maxpool login`, or press a; until then requests get 503",
            ));
        }
        lines
    }

    fn queue_line(&self) -> String {
        let queue = &self.status.queue;
        let dot = self.signs.dot();
        let oldest = age(queue.oldest_ms.unwrap_or(0));
        let next = queue.next_free_at.map(|at| short(self.status.now.0.until(at.0)));
        if self.size.cols < 60 {
            let next = next.unwrap_or_else(|| "?".into());
            return format!("queue: {} since {oldest}{dot}free in {next}", queue.waiting);
        }
        let next = match next {
            Some(next) => format!("next account in {next}"),
            None => "next account: not known".to_owned(),
        };
        format!("queue: {} waiting{dot}oldest {oldest}{dot}{next}", queue.waiting)
    }

    /// A question, a note, or the keys.
    fn foot(&self) -> Vec<Line> {
        if let Some(question) = self.ui.question() {
            let most = self.size.rows.saturating_sub(3).clamp(1, 5);
            let lines = wrapped(&format!("{question} y/n"), self.size.cols, most);
            return lines.into_iter().map(|text| Line::of(Ink::Yellow, text)).collect();
        }
        if let Some(note) = self.ui.note() {
            return vec![Line::of(Ink::Yellow, clean(note, 300))];
        }
        if self.size.rows < 4 {
            return Vec::new();
        }
        let keys: &[(&str, &str)] = match self.ui.page() {
            Page::Main => &[
                ("a", "accounts"),
                ("m", "routing"),
                ("s", "sync"),
                ("e", "explain"),
                ("r", "restart"),
                ("q", "quit"),
                ("?", "help"),
            ],
            Page::Help { .. } => &[("j/k", "scroll"), ("Esc", "back")],
            Page::Explain { .. } => &[("j/k", "earlier/later"), ("Esc", "back")],
            Page::Key { .. } => &[("Enter", "add"), ("Esc", "back")],
            Page::Accounts { .. } | Page::Account { .. } | Page::Routing { .. } => {
                &[("j/k", "move"), ("Enter", "choose"), ("Esc", "back")]
            }
        };
        // Where they do not all fit, the ways out and to the others stay.
        let (first, last) = keys.split_at(keys.len().saturating_sub(2));
        let cells = |(key, does): &(&str, &str)| width::of(key) + 1 + width::of(does) + 2;
        let mut left = (self.size.cols + 2).saturating_sub(last.iter().map(cells).sum());
        let fitting = first.iter().take_while(|key| {
            let rest = left.checked_sub(cells(key));
            left = rest.unwrap_or(0);
            rest.is_some()
        });
        let mut line = Line::default();
        for (key, does) in fitting.chain(last) {
            line.gap(if line.cells() > 0 { 2 } else { 0 });
            line.push(Ink::Cyan, *key).gap(1).push(Ink::Dim, *does);
        }
        vec![line]
    }

    /// Accounts, requests in flight, activity: each as much as is useful, the accounts first.
    fn main(&self, room: usize) -> Vec<Line> {
        let status = self.status;
        let flights = status.requests.len();
        // What the lower half must have before an account gets a second line: two headings, two
        // requests, two log lines.
        let lower = if flights > 0 { 4 + flights.min(2) } else { 3 };
        let columns = Columns::plan(status, self.size.cols, room.saturating_sub(lower));
        let mut lines = Vec::new();
        let heading = usize::from(
            room > status.accounts.len() * columns.height() + 2 && !status.accounts.is_empty(),
        );
        if heading == 1 {
            lines.push(columns.heading(self.signs));
        }
        let sorted = status.in_order();
        let least_below = if room >= 10 { 3 } else { 0 };
        let space = room.saturating_sub(heading + least_below);
        let shown = if sorted.len() * columns.height() <= space {
            sorted.len()
        } else {
            space.saturating_sub(1) / columns.height()
        };
        for account in sorted.iter().take(shown) {
            lines.extend(columns.rows(account, status, self.signs));
        }
        if shown < sorted.len() {
            lines.push(Line::of(Ink::Dim, format!("  and {} more accounts", sorted.len() - shown)));
        }
        let left = room.saturating_sub(lines.len());
        let activity_wants = (status.activity.len() + 1).min(left / 2);
        let flights = self.flights(left.saturating_sub(activity_wants));
        let left = left - flights.len();
        lines.extend(flights);
        lines.extend(self.activity(left));
        lines
    }

    /// Requests in flight, newest first; the heading says how old the oldest is.
    fn flights(&self, room: usize) -> Vec<Line> {
        let status = self.status;
        if room < 2 || status.requests.is_empty() {
            return Vec::new();
        }
        let dot = self.signs.dot();
        let oldest = status.requests.iter().map(|request| request.age_ms).max().unwrap_or(0);
        let mut heading = Line::of(Ink::Bold, "IN FLIGHT");
        heading
            .push(Ink::Dim, format!(" {}{dot}oldest {}", status.requests_in_flight, age(oldest)));
        let mut lines = vec![heading];
        let all = status.requests.len();
        let shown = match room {
            _ if all < room => all,
            // The heading says how many there are.
            2 => 1,
            _ => room - 2,
        };
        lines.extend(status.requests.iter().rev().take(shown).map(|request| self.flight(request)));
        if status.requests_in_flight > shown && lines.len() < room {
            lines.push(Line::of(
                Ink::Dim,
                format!("  and {} more", status.requests_in_flight - shown),
            ));
        }
        lines
    }

    fn flight(&self, request: &Request) -> Line {
        let wide = self.size.cols >= 70;
        let mut line = Line::default();
        line.gap(2).column_right(Ink::Plain, &age(request.age_ms), 5, self.signs).gap(1);
        let ink = if request.stage == "queued" { Ink::Yellow } else { Ink::Plain };
        line.column(ink, &request.stage, 10, self.signs).gap(1);
        let account = request.account.as_deref().map_or_else(|| "-".into(), |name| clean(name, 60));
        line.column(Ink::Plain, &account, if wide { 20 } else { 14 }, self.signs).gap(1);
        if wide {
            line.column(
                Ink::Dim,
                &clean(request.model.as_deref().unwrap_or("-"), 60),
                24,
                self.signs,
            )
            .gap(1);
        }
        line.push(Ink::Dim, clean(&request.path, 120));
        line
    }

    /// The activity log, newest first.
    fn activity(&self, room: usize) -> Vec<Line> {
        let entries = &self.status.activity;
        if room < 2 {
            return Vec::new();
        }
        let mut lines = vec![Line::of(Ink::Bold, "ACTIVITY")];
        if entries.is_empty() {
            lines.push(Line::of(Ink::Dim, "  nothing yet"));
        }
        for entry in entries.iter().rev().take(room - 1) {
            let at = civil(Wall(entry.at.0.0.saturating_add(self.view.utc_offset_s * 1_000)));
            let mut line =
                Line::of(Ink::Dim, format!("  {:02}:{:02}:{:02} ", at.hour, at.minute, at.second));
            let ink = if entry.warning { Ink::Yellow } else { Ink::Plain };
            line.push(ink, clean(&entry.text, 900));
            lines.push(line);
        }
        lines
    }
}

/// `text` in lines of at most `cells`, broken at blanks, at most `most` of them.
fn wrapped(text: &str, cells: usize, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let more_lines = lines.len() < most;
        let Some(last) = lines.last_mut() else { break };
        if last.is_empty() {
            last.push_str(word);
        } else if width::of(last) + 1 + width::of(word) <= cells || !more_lines {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
