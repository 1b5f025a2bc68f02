//! The dashboard (D1): a frame is a pure function of the status, the state of the menus, the size,
//! and the terminal's abilities.
//!
//! It never looks at a clock (`status.now` is its time) and never writes; `host/terminal.rs` does.
//! Times are shown in minutes, so that a frame does not change every second.

mod accounts;
mod activity;
mod head;
pub(crate) mod line;
mod pages;
mod time;
pub(crate) mod width;

#[cfg(test)]
mod tests;

use std::time::Duration;

use accounts::Columns;
use line::{Ink, Line, Signs, Style};

use time::Local;
pub(crate) use time::short;

use super::status::Status;
use super::ui::{Page, Ui};

/// Everything that is drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// The facts, of this process or fetched from another one.
    pub(crate) status: Status,
    /// Seconds east of UTC, for the times of the activity log.
    pub(crate) utc_offset_s: i64,
    /// `status --watch`: why the server cannot be reached, if it cannot.
    pub(crate) lost: Option<String>,
    /// The most recent sign-in.
    pub(crate) sign_in: Option<SigningIn>,
}

/// A browser sign-in, in progress or just ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SigningIn {
    /// The page to open.
    pub(crate) url: Option<String>,
    /// Other messages to the user.
    pub(crate) said: Vec<String>,
    /// Its result.
    pub(crate) result: Option<String>,
}

/// The size of a terminal in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Cells in a row.
    pub(crate) cols: usize,
    pub(crate) rows: usize,
}

/// One string per row, at most `size.rows` of them, each at most `size.cols` cells wide.
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
        | Page::Entry { .. }
        | Page::SignIn { .. }
        | Page::Sessions { .. }
        | Page::Routing { .. }
        | Page::Explain { .. } => frame.page(room),
    };
    body.resize(room, Line::default());
    lines.append(&mut body);
    lines.extend(foot);
    lines.truncate(size.rows);
    let overlay = frame.overlay();
    lines.truncate(size.rows.saturating_sub(overlay.len()));
    lines.extend(overlay);
    lines.truncate(size.rows);
    lines.iter().map(|line| line.paint(size.cols, style)).collect()
}

/// Log lines on the main page, which is how far page up and page down scroll.
pub(crate) fn log_page(view: &View, ui: &Ui, size: Size) -> usize {
    let frame = Frame { view, status: &view.status, ui, size, signs: Signs::Ascii };
    let room = size.rows.saturating_sub(frame.head().len() + frame.foot().len());
    let log = match frame.layout(room).log {
        // The log gets the whole page once the user scrolls.
        0 | 1 => room,
        log => log,
    };
    log.saturating_sub(1).max(1)
}

/// The time until a frame must be drawn again although nothing has happened, because a countdown or
/// an age changes; at least a second, at most a minute.
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
    // Ages below a minute are shown in steps of ten seconds.
    let ages = if status.requests.is_empty() && status.queue.waiting == 0 {
        LONGEST
    } else {
        Duration::from_secs(10)
    };
    // Slightly after the moment itself, so that it is over by then.
    (soonest + Duration::from_millis(50)).min(ages).max(Duration::from_secs(1))
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
    fn local(&self) -> Local {
        Local { now: self.status.now.0, offset_s: self.view.utc_offset_s }
    }

    /// Accounts, requests in flight, activity.
    fn main(&self, room: usize) -> Vec<Line> {
        let status = self.status;
        let layout = self.layout(room);
        let columns = &layout.columns;
        if layout.only_log {
            return self.activity(room);
        }
        let mut lines = Vec::new();
        if layout.has_heading {
            lines.push(columns.heading(self.signs));
        }
        let sorted = status.in_order();
        for account in sorted.iter().take(layout.accounts) {
            lines.extend(columns.rows(account, status, self.signs));
        }
        if layout.accounts < sorted.len() {
            let more = sorted.len() - layout.accounts;
            lines.push(Line::of(Ink::Dim, format!("  and {more} more accounts")));
        }
        let log = layout.log;
        let mut flights = self.flights(layout.flights);
        flights.resize(layout.flights, Line::default());
        lines.extend(flights);
        lines.extend(self.activity(log));
        lines
    }

    /// Distributes the lines. The result depends only on the size and the number of accounts, so
    /// that nothing moves when requests come and go; only a short window gives its last lines to
    /// the part that can use them.
    fn layout(&self, room: usize) -> Layout {
        let accounts = self.status.accounts.len();
        // The lines for queue and breaker in the head come and go without moving any row.
        let rows = self.size.rows.saturating_sub(HEAD_AND_FOOT + LOWER_MIN);
        let columns = Columns::plan(self.status, self.size.cols, rows);
        let has_heading = accounts > 0 && room > accounts * columns.height() + 2;
        let least_below = if room >= 10 { 3 } else { 0 };
        let space = room.saturating_sub(usize::from(has_heading) + least_below);
        let all_fit = accounts * columns.height() <= space;
        let shown = if all_fit { accounts } else { space.saturating_sub(1) / columns.height() };
        let used = usize::from(has_heading) + shown * columns.height() + usize::from(!all_fit);
        let left = room.saturating_sub(used);
        let flights = if left >= LOWER_MIN {
            (left / 3).clamp(3, FLIGHTS_MAX)
        } else {
            let log = (self.status.activity.len() + 1).min(left / 2);
            match self.status.requests.len() {
                0 => 0,
                flights => (flights + 1).min(left - log),
            }
        };
        // A heading alone is useless.
        let flights = match left - flights {
            0 | 1 if flights > 0 => left,
            _ if flights < 2 => 0,
            _ => flights,
        };
        let log = left - flights;
        let only_log = log < 2 && self.ui.newer_lines(self.status) > 0;
        Layout { columns, has_heading, accounts: shown, flights, log, only_log }
    }
}

/// Lines of the headline, the routing, and the keys.
const HEAD_AND_FOOT: usize = 4;
/// With at least this many lines below the accounts, requests in flight and log have fixed
/// positions.
const LOWER_MIN: usize = 6;
/// Most lines for the requests in flight, including their heading.
const FLIGHTS_MAX: usize = 12;

/// The lines of the main page.
struct Layout {
    columns: Columns,
    has_heading: bool,
    /// Accounts shown.
    accounts: usize,
    flights: usize,
    log: usize,
    /// The user has scrolled in a window that is too small for anything else.
    only_log: bool,
}

/// Breaks `text` at spaces into lines of at most `cells`, at most `most` of them.
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

/// Rounded down, so that 100 % means fully used.
fn percent(share: f64) -> u32 {
    // The value should be between 0 and 1; the cast saturates otherwise.
    (share * 100.0 + 1e-9) as u32
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
