//! The first lines and the last one: address and totals, alerts, keys.

use std::time::Duration;

use super::line::{Ink, Line};
use super::time::{age, amount, short};
use super::{Frame, count, counted, percent, width};
use crate::report::text::clean;
use crate::report::ui::{Page, Seat};

/// Below this height the headline is a single line.
const TALL: usize = 12;

impl Frame<'_> {
    /// Headline, routing, and alerts.
    pub(super) fn head(&self) -> Vec<Line> {
        let status = self.status;
        let dot = self.signs.dot();
        let routing = match &status.routing.preferred_account {
            Some(name) => format!("prefers {}", clean(name, 60)),
            None => "automatic".into(),
        };
        let mut lines = Vec::new();
        if self.size.rows < TALL {
            let address = status.address.strip_prefix("http://").unwrap_or(&status.address);
            let mut title = Line::of(Ink::Bold, "maxpool");
            title.gap(1).push(Ink::Cyan, address.to_owned());
            title.push(Ink::Dim, dot).push(Ink::Plain, routing);
            for fact in [Some(self.uptime()), self.next_free(), self.weeks_left()] {
                let fact = format!("{dot}{}", fact.unwrap_or_default());
                if fact.len() > dot.len() && title.cells() + width::of(&fact) <= self.size.cols {
                    title.push(Ink::Dim, fact);
                }
            }
            lines.push(title);
        } else {
            let mut title = Line::of(Ink::Bold, format!("maxpool {}", status.version));
            title.gap(1).push(Ink::Cyan, status.address.clone());
            let facts = [self.next_free(), self.weeks_left(), self.today()];
            let mut facts = self.joined(facts.into_iter().flatten());
            let up = Line::of(Ink::Dim, self.uptime());
            if title.cells() + dot.len() + facts.cells() + 2 + up.cells() <= self.size.cols {
                if facts.cells() > 0 {
                    title.push(Ink::Dim, dot);
                }
                title = title.then(std::mem::take(&mut facts));
            }
            title.right(up, self.size.cols);
            lines.push(title);
            if facts.cells() > 0 {
                lines.push(facts);
            }
            lines.push(Line::of(
                Ink::Plain,
                format!(
                    "{routing}{dot}{} in flight{dot}{}",
                    status.requests_in_flight,
                    counted(status.sessions.sticky_bindings, "session")
                ),
            ));
        }
        lines.extend(self.alerts());
        lines
    }

    /// As many facts as fit into one line.
    fn joined(&self, facts: impl Iterator<Item = String>) -> Line {
        let mut line = Line::default();
        for fact in facts {
            let before = if line.cells() > 0 { self.signs.dot() } else { "" };
            if line.cells() + width::of(before) + width::of(&fact) <= self.size.cols {
                line.push(Ink::Plain, before).push(Ink::Plain, fact);
            }
        }
        line
    }

    fn uptime(&self) -> String {
        format!("up {}", short(Duration::from_millis(self.status.uptime_ms)))
    }

    /// The first account to become available among those that are out.
    fn next_free(&self) -> Option<String> {
        let out = self
            .status
            .accounts
            .iter()
            .filter(|account| account.enabled && !account.awaits_test())
            .filter_map(|account| Some((account.unavailable.as_ref()?.until?, &account.name)));
        let (at, name) = out.min()?;
        let cells = if self.size.cols < 100 { 16 } else { 40 };
        let name = width::fit_middle(&clean(name, 80), cells, self.signs.cut());
        Some(format!("next free {} ({name})", self.local().when(at.0)))
    }

    /// How much of the weekly quota of all enabled Claude accounts is left, on average.
    fn weeks_left(&self) -> Option<String> {
        let serving = self.status.accounts.iter().filter(|account| account.enabled);
        let used: Vec<f64> = serving.filter_map(|account| account.quota.unified7d).collect();
        if used.is_empty() {
            return None;
        }
        let left = 1.0 - used.iter().sum::<f64>() / used.len() as f64;
        Some(format!("weeks {}% left", percent(left.max(0.0))))
    }

    fn today(&self) -> Option<String> {
        let today = self.status.today.as_ref()?;
        let (input, output) = (amount(today.input), amount(today.output));
        Some(format!("today {input}{}{output} tokens", self.signs.arrow()))
    }

    /// Only what matters now: lost connection, stopping, breaker, queue, no account.
    fn alerts(&self) -> Vec<Line> {
        let status = self.status;
        let mut lines = Vec::new();
        if let Some(lost) = &self.view.lost {
            lines.push(Line::of(Ink::Red, clean(lost, 300)));
        }
        if status.draining {
            let left = counted(count(status.requests_in_flight), "request");
            let rest = if self.size.cols < 60 { "" } else { ", new requests are refused" };
            let text = format!("stopping: {left} left{rest}");
            lines.push(Line::of(Ink::Yellow, text));
        }
        if status.upstream_throttle.active {
            lines.push(Line::of(Ink::Red, self.breaker_line()));
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

    fn breaker_line(&self) -> String {
        let breaker = &self.status.upstream_throttle;
        let mut text = match (breaker.probe_in_flight, breaker.until) {
            (true, _) => "breaker open: one request is probing".to_owned(),
            (false, Some(until)) => {
                format!("breaker open: probe in {}", short(self.status.now.0.until(until.0)))
            }
            (false, None) => "breaker open".to_owned(),
        };
        if let Some(reason) = &breaker.reason {
            text.push_str(self.signs.dot());
            text.push_str(&clean(reason, 200));
        }
        text
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
            None => "next account: unknown".to_owned(),
        };
        format!("queue: {} waiting{dot}oldest {oldest}{dot}{next}", queue.waiting)
    }

    /// The keys of this page.
    pub(super) fn foot(&self) -> Vec<Line> {
        if self.size.rows < 4 {
            return Vec::new();
        }
        let keys: Vec<(&str, &str)> = match self.ui.page() {
            Page::Main => self.main_keys(),
            Page::Help { .. } => vec![("j/k", "scroll"), ("Esc", "back")],
            Page::Explain { .. } => vec![("j/k", "earlier/later"), ("Esc", "back")],
            Page::Entry { .. } => vec![("Enter", "done"), ("Esc", "back")],
            Page::Sessions { .. } => vec![("j/k", "scroll"), ("Esc", "back")],
            Page::Accounts { .. }
            | Page::Account { .. }
            | Page::SignIn { .. }
            | Page::Routing { .. } => {
                vec![("j/k", "move"), ("Enter", "choose"), ("Esc", "back")]
            }
        };
        let mut line = Line::default();
        for (key, does) in keys {
            line.gap(if line.cells() > 0 { 2 } else { 0 });
            line.push(Ink::Cyan, key).gap(1).push(Ink::Dim, does);
        }
        vec![line]
    }

    /// The keys that fit; the help page lists the others.
    fn main_keys(&self) -> Vec<(&'static str, &'static str)> {
        let mut keys = vec![
            ("a", "accounts"),
            ("l", "login"),
            ("m", "routing"),
            ("s", "sync"),
            ("e", "explain"),
            ("v", "sessions"),
            ("r", "restart"),
            ("q", "quit"),
            ("?", "help"),
        ];
        if self.ui.seat() == Seat::Attached {
            keys.retain(|(key, _)| *key != "r");
        }
        let needs_login = self.status.accounts.iter().any(|it| it.enabled && it.status == "error");
        let (sooner, later) = if needs_login { ("m", "l") } else { ("l", "m") };
        for less_wanted in ["s", "v", "e", "r", sooner, later, "a"] {
            let cells: usize =
                keys.iter().map(|(key, does)| width::of(key) + width::of(does) + 3).sum();
            if cells <= self.size.cols + 2 {
                break;
            }
            keys.retain(|(key, _)| *key != less_wanted);
        }
        keys
    }

    /// A question or a result, drawn over the last lines of the frame so that nothing else moves.
    pub(super) fn overlay(&self) -> Vec<Line> {
        if let Some(question) = self.ui.question() {
            let most = self.size.rows.saturating_sub(2).clamp(1, 6);
            let lines = super::wrapped(&format!("{question} y/n"), self.size.cols, most);
            return lines.into_iter().map(|text| Line::of(Ink::Yellow, text)).collect();
        }
        self.ui.note().map(|note| Line::of(Ink::Yellow, clean(note, 300))).into_iter().collect()
    }
}
