//! The table of accounts: which columns fit, and one row per account (two if the window is narrow
//! and tall enough).

use super::line::{Ink, Line, Signs};
use super::time::{seconds, short};
use super::{percent, width};
use crate::report::status::{Account, LoadSpan, Moment, Status};
use crate::report::text::clean;
use crate::scheduler::time::Wall;

/// The widths of the columns; 0 omits one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    name: usize,
    kind: usize,
    priority: usize,
    state: usize,
    bar: usize,
    reset: usize,
    details: Details,
}

/// Where tier, requests and failures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Details {
    /// In their own columns.
    Inline,
    /// On a second line.
    Below,
    /// Not at all.
    Hidden,
}

const MARK: usize = 2;
/// Room for nearly every word with its countdown. The width is fixed, so that nothing moves when a
/// state changes.
const STATE: usize = 14;
const STATE_WIDE: usize = 20;
const STATE_NARROW: usize = 11;
const TIER: usize = 9;
const ACTIVE: usize = 6;
const SPAN: usize = 13;
const FAILED: usize = 6;
const DETAILS: usize = TIER + ACTIVE + 2 * SPAN + FAILED + 5;

impl Columns {
    /// The best layout for `cells` columns and `rows` lines of the whole table.
    pub(super) fn plan(status: &Status, cells: usize, rows: usize) -> Columns {
        let longest =
            |of: &dyn Fn(&Account) -> usize| status.accounts.iter().map(of).max().unwrap_or(0);
        let names = longest(&|account| width::of(&account.name));
        let kinds = longest(&|account| width::of(kind_of(account)));
        let priorities = longest(&|account| priority_of(account).len());
        let mut plan = Columns {
            name: names.clamp(8, 14),
            kind: kinds.clamp(4, 6),
            priority: if priorities > 0 { priorities.max(PRIORITY.len()) } else { 0 },
            state: STATE,
            bar: 5,
            reset: 6,
            details: Details::Inline,
        };
        if plan.cells() > cells {
            let fits = rows > 2 * status.accounts.len();
            plan.details = if fits { Details::Below } else { Details::Hidden };
            if fits {
                plan.priority = 0;
            }
        }
        let sacrifices: [fn(&mut Columns); 5] = [
            |plan| plan.kind = 0,
            |plan| plan.priority = 0,
            |plan| plan.bar = 0,
            |plan| plan.reset = 0,
            |plan| plan.state = STATE_NARROW,
        ];
        for sacrifice in sacrifices {
            if plan.cells() > cells {
                sacrifice(&mut plan);
            }
        }
        let over = plan.cells().saturating_sub(cells);
        plan.name = plan.name.saturating_sub(over).max(4);
        plan.grow(cells, names, kinds);
        plan
    }

    /// Distributes the remaining cells to names, states, kinds and bars.
    fn grow(&mut self, cells: usize, names: usize, kinds: usize) {
        let mut free = cells.saturating_sub(self.cells());
        let mut give = |column: &mut usize, wanted: usize| {
            let more = wanted.saturating_sub(*column).min(free);
            *column += more;
            free -= more;
        };
        give(&mut self.name, names.min(28));
        give(&mut self.state, if cells >= 120 { STATE_WIDE } else { STATE });
        if self.kind > 0 {
            give(&mut self.kind, kinds.min(12));
        }
        if self.bar > 0 {
            self.bar += free / 2;
        }
    }

    fn cells(&self) -> usize {
        let details = if self.details == Details::Inline { DETAILS } else { 0 };
        MARK + column(self.name)
            + column(self.kind)
            + column(self.priority)
            + column(self.state)
            + 2 * self.gauge()
            + 1
            + details
    }

    /// Label, bar, percentage and time to reset.
    fn gauge(&self) -> usize {
        2 + 1 + column(self.bar) + 4 + if self.reset > 0 { 1 + self.reset } else { 0 }
    }

    /// Lines per account.
    pub(super) fn height(&self) -> usize {
        match self.details {
            Details::Inline | Details::Hidden => 1,
            Details::Below => 2,
        }
    }

    pub(super) fn heading(&self, signs: Signs) -> Line {
        let mut line = Line::default();
        line.gap(MARK);
        line.column(Ink::Dim, "ACCOUNT", self.name, signs).gap(1);
        if self.kind > 0 {
            line.column(Ink::Dim, "KIND", self.kind, signs).gap(1);
        }
        if self.priority > 0 {
            line.column_right(Ink::Dim, PRIORITY, self.priority, signs).gap(1);
        }
        line.column(Ink::Dim, "STATE", self.state, signs).gap(1);
        line.column(Ink::Dim, "SESSION", self.gauge(), signs).gap(1);
        line.column(Ink::Dim, "WEEK", self.gauge(), signs);
        if self.details == Details::Inline {
            line.gap(1).column(Ink::Dim, "TIER", TIER, signs);
            line.gap(1).column_right(Ink::Dim, "ACTIVE", ACTIVE, signs);
            line.gap(1).column_right(Ink::Dim, "15 MIN", SPAN, signs);
            line.gap(1).column_right(Ink::Dim, "1 HOUR", SPAN, signs);
            line.gap(1).column_right(Ink::Dim, "FAILED", FAILED, signs);
        }
        line
    }

    /// The lines of one account.
    pub(super) fn rows(&self, account: &Account, status: &Status, signs: Signs) -> Vec<Line> {
        let mut row = Line::default();
        if account.in_flight > 0 {
            row.push(Ink::Green, signs.serving().to_string()).gap(1);
        } else {
            row.gap(MARK);
        }
        let state = state_of(account, status);
        let name = width::fit_middle(&clean(&account.name, 200), self.name, signs.cut());
        let ink = if account.enabled { Ink::Plain } else { Ink::Dim };
        row.column(ink, &name, self.name, signs).gap(1);
        if self.kind > 0 {
            row.column(Ink::Dim, kind_of(account), self.kind, signs).gap(1);
        }
        if self.priority > 0 {
            row.column_right(Ink::Plain, &priority_of(account), self.priority, signs).gap(1);
        }
        row.column(state.ink, &state.fitting(self.state), self.state, signs).gap(1);
        if account.kind == "provider" {
            self.provider(&mut row, account, signs);
        } else {
            let [first, second] = gauges(account);
            self.draw(&mut row, &first, status.now.0, signs);
            row.gap(1);
            self.draw(&mut row, &second, status.now.0, signs);
        }
        match self.details {
            Details::Inline => {
                self.inline(&mut row, account, signs);
                vec![row]
            }
            Details::Below => vec![row, below(account, signs)],
            Details::Hidden => vec![row],
        }
    }

    /// The limits of a provider are mostly unknown, so its results are shown instead.
    fn provider(&self, row: &mut Line, account: &Account, signs: Signs) {
        let dot = signs.dot();
        let mut text = format!(
            "{} active{dot}{} ok{dot}{} failed",
            account.in_flight, account.completed_requests, account.failed_requests
        );
        if let Some(last) = last_of(account) {
            text.push_str(&format!("{dot}{last}"));
        }
        let cells = 2 * self.gauge() + 1;
        let generic =
            Gauge::of("", account.quota.generic_limit, account.quota.generic_remaining, None);
        let limit = generic.used.map(|used| (used, format!("{dot}limit {}%", percent(used))));
        match limit {
            Some((used, limit)) if width::of(&text) + width::of(&limit) <= cells => {
                let rest = cells - width::of(&text);
                row.push(Ink::Plain, text).column(ink_of(used), &limit, rest, signs);
            }
            Some(_) | None => {
                row.column(Ink::Plain, &text, cells, signs);
            }
        }
    }

    fn draw(&self, row: &mut Line, gauge: &Gauge, now: Wall, signs: Signs) {
        let before = row.cells();
        row.push(Ink::Dim, gauge.label.get(..2).unwrap_or("  ")).gap(1);
        let Some(used) = gauge.used else {
            let rest = self.gauge() - 3;
            row.column(Ink::Dim, if self.bar > 0 { "not known yet" } else { "  ?" }, rest, signs);
            return;
        };
        let ink = ink_of(used);
        if self.bar > 0 {
            let (full, empty) = signs.bar();
            let filled = filled(used, self.bar);
            row.push(ink, full.to_string().repeat(filled));
            row.push(Ink::Dim, empty.to_string().repeat(self.bar - filled)).gap(1);
        }
        row.column_right(ink, &format!("{}%", percent(used)), 4, signs);
        if self.reset > 0 {
            let left = gauge.reset.map(|at| short(now.until(at))).unwrap_or_default();
            row.gap(1).column(Ink::Dim, &left, self.reset, signs);
        }
        debug_assert_eq!(row.cells() - before, self.gauge());
    }

    fn inline(&self, row: &mut Line, account: &Account, signs: Signs) {
        let (ink, tier) = tier_of(account).unwrap_or((Ink::Plain, ""));
        row.gap(1).column(ink, tier, TIER, signs);
        row.gap(1).column_right(Ink::Plain, &account.in_flight.to_string(), ACTIVE, signs);
        row.gap(1).column_right(Ink::Plain, &span(&account.load.last15m), SPAN, signs);
        row.gap(1).column_right(Ink::Plain, &span(&account.load.last1h), SPAN, signs);
        let failed = account.load.last1h.failed;
        let ink = if failed > 0 { Ink::Yellow } else { Ink::Plain };
        row.gap(1).column_right(ink, &failed.to_string(), FAILED, signs);
    }
}

/// The heading of the priorities.
const PRIORITY: &str = "PRIO";

/// Empty for 0, the usual value.
fn priority_of(account: &Account) -> String {
    if account.priority == 0 { String::new() } else { account.priority.to_string() }
}

/// The width of a column with the space after it; 0 if it is omitted.
fn column(cells: usize) -> usize {
    if cells > 0 { cells + 1 } else { 0 }
}

fn below(account: &Account, signs: Signs) -> Line {
    let dot = signs.dot();
    let mut facts = Vec::new();
    if account.kind != "provider" {
        facts.push(format!("{} active", account.in_flight));
    }
    if account.priority != 0 {
        facts.push(format!("priority {}", account.priority));
    }
    facts.push(format!("15m {}", span(&account.load.last15m)));
    facts.push(format!("1h {}", span(&account.load.last1h)));
    let mut line = Line::default();
    line.gap(MARK + 2).push(Ink::Dim, facts.join(dot));
    let failed = account.load.last1h.failed;
    if failed > 0 {
        line.push(Ink::Dim, dot).push(Ink::Yellow, format!("{failed} failed"));
    }
    if let Some((ink, tier)) = tier_of(account) {
        line.push(Ink::Dim, format!("{dot}week ")).push(ink, tier);
    }
    line
}

/// `200 in 0.8s`.
fn last_of(account: &Account) -> Option<String> {
    let status = account.last_status?;
    Some(match account.last_response_ms {
        Some(ms) => format!("{status} in {}", seconds(ms)),
        None => status.to_string(),
    })
}

/// A quota window as drawn.
struct Gauge {
    label: &'static str,
    used: Option<f64>,
    reset: Option<Wall>,
}

impl Gauge {
    fn of(
        label: &'static str,
        limit: Option<u64>,
        remaining: Option<u64>,
        reset: Option<Moment>,
    ) -> Gauge {
        let used = match (limit, remaining) {
            (Some(limit), Some(remaining)) if limit > 0 => {
                Some(1.0 - remaining.min(limit) as f64 / limit as f64)
            }
            _ => None,
        };
        Gauge { label, used, reset: reset.map(|at| at.0) }
    }
}

/// Session and week, or tokens and requests for an account that has only those.
fn gauges(account: &Account) -> [Gauge; 2] {
    let quota = &account.quota;
    let unified = quota.unified5h.is_some() || quota.unified7d.is_some();
    if !unified
        && (quota.tokens_limit.is_some()
            || quota.requests_limit.is_some()
            || account.kind == "apikey")
    {
        return [
            Gauge::of("tk", quota.tokens_limit, quota.tokens_remaining, quota.resets_at),
            Gauge::of("rq", quota.requests_limit, quota.requests_remaining, quota.resets_at),
        ];
    }
    [
        Gauge { label: "5h", used: quota.unified5h, reset: quota.unified5h_reset.map(Wall) },
        Gauge { label: "wk", used: quota.unified7d, reset: quota.unified7d_reset.map(Wall) },
    ]
}

fn kind_of(account: &Account) -> &str {
    if account.kind == "provider" && !account.provider.is_empty() {
        return &account.provider;
    }
    &account.kind
}

/// The router's view of an account.
struct State {
    ink: Ink,
    word: String,
    /// Time until it ends, if known.
    left: Option<String>,
}

impl State {
    fn of(ink: Ink, word: &str) -> State {
        State { ink, word: word.to_owned(), left: None }
    }

    fn until(mut self, until: Option<Moment>, now: Wall) -> State {
        self.left = until.map(|at| short(now.until(at.0)));
        self
    }

    fn cells(&self) -> usize {
        width::of(&self.word) + self.left.as_ref().map_or(0, |left| 1 + width::of(left))
    }

    /// Word and countdown; if both do not fit, the countdown matters more.
    fn fitting(&self, cells: usize) -> String {
        match &self.left {
            Some(left) if self.cells() <= cells => format!("{} {left}", self.word),
            Some(left) => format!("out {left}"),
            None => self.word.clone(),
        }
    }
}

fn state_of(account: &Account, status: &Status) -> State {
    let dead = account.status == "error";
    let now = status.now.0;
    if account.leaving {
        return State::of(Ink::Dim, "leaving");
    }
    if !account.enabled {
        // A disabled account must still show that its credential is dead.
        return if dead {
            State::of(Ink::Red, "off, no login")
        } else {
            State::of(Ink::Dim, "disabled")
        };
    }
    if let Some(unavailable) = &account.unavailable {
        let ink = if dead { Ink::Red } else { Ink::Yellow };
        return State::of(ink, &clean(&unavailable.short, 24)).until(unavailable.until, now);
    }
    if dead {
        // Its rest is over, and the next request tests it (T2).
        return State::of(Ink::Red, "refused");
    }
    if let Some((block, family)) =
        account.blocks.iter().find_map(|block| Some((block, block.family.as_ref()?)))
    {
        return State::of(Ink::Yellow, &format!("no {}", clean(family, 20)))
            .until(block.until, now);
    }
    if account.overage_in_use {
        return State::of(Ink::Yellow, "overage");
    }
    if !account.avoided.is_empty() {
        return State::of(Ink::Yellow, "used last");
    }
    match account.weekly.state.as_str() {
        // Serves only sessions bound to it, or when no other account can.
        "reserve" => State::of(Ink::Yellow, "reserve"),
        "critical" => State::of(Ink::Red, "critical"),
        _ => State::of(Ink::Green, "ready"),
    }
}

fn tier_of(account: &Account) -> Option<(Ink, &str)> {
    match account.weekly.state.as_str() {
        "soft" => Some((Ink::Green, "soft")),
        "reserve" => Some((Ink::Yellow, "reserve")),
        "critical" => Some((Ink::Red, "critical")),
        "exhausted" => Some((Ink::Red, "exhausted")),
        _ => None,
    }
}

/// `40 (0.9s)`: requests and their mean latency.
fn span(load: &LoadSpan) -> String {
    match load.avg_ms {
        Some(ms) => format!("{} ({})", load.requests, seconds(ms)),
        None => load.requests.to_string(),
    }
}

/// Green below 0.70, yellow below 0.90, red above (D1).
fn ink_of(used: f64) -> Ink {
    if used < 0.70 {
        Ink::Green
    } else if used < 0.90 {
        Ink::Yellow
    } else {
        Ink::Red
    }
}

/// Number of filled cells: any use fills one, and only a full window fills all.
fn filled(used: f64, cells: usize) -> usize {
    let whole = (used * cells as f64) as usize;
    let least = usize::from(used > 0.0);
    whole.max(least).min(cells)
}
