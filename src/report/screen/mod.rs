//! The dashboard (D1): a frame is a pure function of the status, the state of the menus, the size
//! and what the terminal can show.
//!
//! It never looks at a clock (`status.now` is its time) and never writes: `host/terminal.rs` does.
//! Times are shown in minutes, so that a frame stays the same while nothing changes but the
//! seconds.

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

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// The facts, of this process or read from another one.
    pub(crate) status: Status,
    /// Seconds east of UTC, for the times of the activity log.
    pub(crate) utc_offset_s: i64,
    /// `status --watch`: what cannot be reached, if it cannot.
    pub(crate) lost: Option<String>,
    /// The sign-in that was started here last.
    pub(crate) sign_in: Option<SigningIn>,
}

/// A sign-in with a browser, in progress or just over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SigningIn {
    /// The page to open.
    pub(crate) url: Option<String>,
    /// What else the person is told.
    pub(crate) said: Vec<String>,
    /// What came of it.
    pub(crate) result: Option<String>,
}

/// The size of a terminal in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Cells in a row.
    pub(crate) cols: usize,
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

/// Lines of the log that the main page shows: a page up or down goes so far.
pub(crate) fn log_page(view: &View, ui: &Ui, size: Size) -> usize {
    let frame = Frame { view, status: &view.status, ui, size, signs: Signs::Ascii };
    let room = size.rows.saturating_sub(frame.head().len() + frame.foot().len());
    let log = match frame.layout(room).log {
        // It gets the whole page once the user scrolls.
        0 | 1 => room,
        log => log,
    };
    log.saturating_sub(1).max(1)
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

    /// Who gets how many lines. It depends on the size and the number of accounts alone, so that
    /// nothing moves when requests come and go; only a short window gives its last lines to whoever
    /// can use them.
    fn layout(&self, room: usize) -> Layout {
        let accounts = self.status.accounts.len();
        // Lines of the head that come and go with the queue and the breaker change no row.
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
        // A heading alone is of no use.
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
/// From this many lines below the accounts on, requests in flight and log have fixed places.
const LOWER_MIN: usize = 6;
/// Lines for the requests in flight, with their heading.
const FLIGHTS_MAX: usize = 12;

/// The lines of the main page.
struct Layout {
    columns: Columns,
    has_heading: bool,
    /// Accounts that are shown.
    accounts: usize,
    flights: usize,
    log: usize,
    /// The user scrolls in a window that is too small for the rest.
    only_log: bool,
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

/// Rounded down, so that 100 % means used up.
fn percent(share: f64) -> u32 {
    // A share is between 0 and 1 wherever it comes from; the cast saturates for what is not.
    (share * 100.0 + 1e-9) as u32
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
