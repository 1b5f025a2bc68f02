//! The pages behind the keys: help, accounts, one account, texts to type, sign in, routing,
//! explain, sessions.

use super::activity::short_model;
use super::line::{Ink, Line};
use super::time::age;
use super::{Frame, short, width, wrapped};
use crate::report::reasons::{chosen_by, wait_cause};
use crate::report::status::{Account, Explanation, PassedOver, Session};
use crate::report::text::{clean, hundredths, name, repeats_status};
use crate::report::ui::{
    Choice, Page, Wanted, account_choices, help_of, routing_choices, sign_in_choices,
};

/// Longer texts are cut.
const LINES_OF_A_TEXT_MAX: usize = 6;

impl Frame<'_> {
    /// The open page, in `room` lines.
    pub(super) fn page(&self, room: usize) -> Vec<Line> {
        match self.ui.page() {
            Page::Main => Vec::new(),
            Page::Help { top } => self.help(&help_of(self.ui.seat()), *top, room),
            Page::Accounts { cursor } => {
                self.list("ACCOUNTS", &self.accounts_lines(), *cursor, room)
            }
            Page::Account { account, cursor } => self.account_page(account, *cursor, room),
            Page::Entry { wanted: Wanted::SignInCode, shown } => self.signing_in(shown, room),
            Page::Entry { wanted, shown } => self.entry_page(wanted, shown),
            Page::SignIn { cursor } => self.list("SIGN IN", &self.sign_in_lines(), *cursor, room),
            Page::Sessions { top } => self.sessions_page(*top, room),
            Page::Routing { cursor } => self.routing_page(*cursor, room),
            Page::Explain { cursor } => self.explain_page(*cursor, room),
        }
    }

    /// The keys from `top` on, but never less than a full page if there are enough.
    fn help(&self, keys: &[(&str, &str)], top: usize, room: usize) -> Vec<Line> {
        let entry = |(key, does): &(&str, &str)| {
            let mut key = *key;
            let line = |part| {
                let mut line = Line::default();
                line.gap(2)
                    .column(Ink::Cyan, std::mem::take(&mut key), 15, self.signs)
                    .gap(1)
                    .push(Ink::Plain, part);
                line
            };
            self.wrapped(does, 18).into_iter().map(line).collect()
        };
        let entries: Vec<Vec<Line>> = keys.iter().map(entry).collect();
        let space = room.saturating_sub(1);
        let (mut last, mut left) = (entries.len(), space);
        while let Some(before) = last.checked_sub(1)
            && let Some(rest) = left.checked_sub(entries[before].len())
        {
            (last, left) = (before, rest);
        }
        let shown = entries.into_iter().skip(top.min(last)).flatten().take(space);
        std::iter::once(Line::of(Ink::Bold, "HELP")).chain(shown).collect()
    }

    /// A heading and the part of the list around the cursor.
    fn list(&self, heading: &str, entries: &[Line], cursor: usize, room: usize) -> Vec<Line> {
        // The list may have become shorter since the cursor moved.
        let cursor = cursor.min(entries.len().saturating_sub(1));
        let mut lines = vec![Line::of(Ink::Bold, heading)];
        let space = room.saturating_sub(1);
        let first = cursor.saturating_sub(space.saturating_sub(1));
        for (position, entry) in entries.iter().enumerate().skip(first).take(space) {
            let mark = Line::of(Ink::Plain, if position == cursor { "> " } else { "  " });
            let line = mark.then(entry.clone());
            lines.push(if position == cursor { line.chosen(self.size.cols) } else { line });
        }
        lines
    }

    fn accounts_lines(&self) -> Vec<Line> {
        let accounts = self.status.in_order();
        let accounts = accounts.into_iter().map(|account| self.account_line(account));
        accounts
            .chain([
                Line::of(Ink::Cyan, "import the login of Claude Code"),
                Line::of(Ink::Cyan, "add an API key"),
            ])
            .collect()
    }

    fn account_line(&self, account: &Account) -> Line {
        let mut line = Line::default();
        let cells = if self.size.cols < 60 { 16 } else { 24 };
        let name = width::fit_middle(&clean(&account.name, 60), cells, self.signs.cut());
        line.column(Ink::Plain, &name, cells, self.signs).gap(1);
        line.column(Ink::Dim, &account.kind, 9, self.signs);
        line.push(Ink::Dim, if account.enabled { "enabled" } else { "disabled" });
        line
    }

    fn account_page(&self, account: &str, cursor: usize, room: usize) -> Vec<Line> {
        let Some(known) = self.status.accounts.iter().find(|known| known.name == account) else {
            return vec![Line::of(Ink::Dim, "this account no longer exists")];
        };
        let choices: Vec<Line> = account_choices(known)
            .into_iter()
            .map(|choice| {
                let text = match choice {
                    Choice::Enable => "enable",
                    Choice::Disable => "disable",
                    Choice::SignIn if known.kind == "apikey" => "replace the key",
                    Choice::SignIn => "sign in again",
                    Choice::Retry => "retry: lift its blocks",
                    Choice::Rename => "rename",
                    Choice::Delete => "delete",
                };
                Line::of(Ink::Plain, text)
            })
            .collect();
        let mut lines =
            self.list(&format!("ACCOUNT {}", clean(account, 60)), &choices, cursor, room);
        lines.push(Line::default());
        lines.extend(self.account_facts(known));
        lines
    }

    /// All facts about an account, each block with the answer that caused it.
    fn account_facts(&self, account: &Account) -> Vec<Line> {
        let mut lines = self.fact("upstream", &account.upstream);
        lines.extend(self.fact("profiles", &account.profiles.join(", ")));
        if let Some(credential) = &account.credential {
            // The expiry of a refused token means nothing.
            let until = match credential.expires_at.filter(|_| credential.state == "valid") {
                Some(at) => format!(", expires in {}", short(self.status.now.0.until(at.0))),
                None => String::new(),
            };
            lines.extend(self.fact("credential", &format!("{}{until}", credential.state)));
        }
        let usage = &account.usage;
        lines.extend(self.fact(
            "tokens",
            &format!(
                "{} in, {} out, {} read from cache, {} written to it",
                usage.total_input_tokens,
                usage.total_output_tokens,
                usage.total_cache_read_tokens,
                usage.total_cache_write_tokens
            ),
        ));
        // A full window is not a block, but keeps the account out too.
        if let Some(out) = &account.unavailable
            && !account.blocks.iter().any(|block| block.text == out.reason)
        {
            let until = out.until.map_or_else(String::new, |at| {
                format!(", for {}", short(self.status.now.0.until(at.0)))
            });
            lines.extend(self.fact("out", &format!("{}{until}", out.reason)));
        }
        for block in &account.blocks {
            let until = match block.until {
                Some(at) => format!(", for {}", short(self.status.now.0.until(at.0))),
                None => ", until its credential changes".into(),
            };
            lines.extend(self.fact("blocked", &format!("{}{until}", block.text)));
            if let Some(evidence) = &block.evidence {
                lines.extend(self.fact("", &self.evidence(evidence)));
            }
        }
        if let Some(error) = &account.last_error {
            lines.extend(self.fact("last error", error));
        }
        lines
    }

    /// A labelled fact, in as many lines as it takes.
    fn fact(&self, what: &str, text: &str) -> Vec<Line> {
        let mut what = what;
        self.wrapped(text, 13)
            .into_iter()
            .map(|part| {
                let mut line = Line::default();
                line.gap(2)
                    .column(Ink::Dim, std::mem::take(&mut what), 11, self.signs)
                    .push(Ink::Plain, part);
                line
            })
            .collect()
    }

    /// Wraps untrusted text, leaving `before` cells free at the left.
    fn wrapped(&self, text: &str, before: usize) -> Vec<String> {
        let cells = self.size.cols.saturating_sub(before).max(1);
        wrapped(&clean(text, 900), cells, LINES_OF_A_TEXT_MAX)
    }

    fn entry_page(&self, wanted: &Wanted, shown: &str) -> Vec<Line> {
        let (heading, hint) = match wanted {
            Wanted::NewKey => {
                ("ADD AN API KEY".to_owned(), "Type or paste the key; it is not shown.")
            }
            Wanted::KeyOf(account) => (
                format!("NEW API KEY OF {}", name(account)),
                "Type or paste the key; it is not shown.",
            ),
            Wanted::NameOf(account) => (format!("RENAME {}", name(account)), "Type the new name."),
            Wanted::SignInCode => (String::new(), ""),
        };
        vec![
            Line::of(Ink::Bold, heading),
            Line::of(Ink::Plain, format!("  {hint}")),
            self.typed(shown),
        ]
    }

    /// The typed text, or its end if it is longer than the line.
    fn typed(&self, shown: &str) -> Line {
        let room = self.size.cols.saturating_sub(8);
        let length = shown.chars().count();
        let end: String = shown.chars().skip(length.saturating_sub(room)).collect();
        Line::of(Ink::Plain, format!("  {end}_"))
    }

    fn sign_in_lines(&self) -> Vec<Line> {
        let accounts = sign_in_choices(self.status).into_iter().map(|account| {
            let mut line = self.account_line(account);
            if account.status == "error" {
                let needs = if account.kind == "apikey" { "key refused" } else { "needs login" };
                line.push(Ink::Red, format!("  {needs}"));
            }
            line
        });
        accounts.chain([Line::of(Ink::Cyan, "sign in to another account")]).collect()
    }

    /// The address to open, or the result.
    fn signing_in(&self, shown: &str, room: usize) -> Vec<Line> {
        let mut lines = vec![Line::of(Ink::Bold, "SIGN IN")];
        let Some(sign_in) = &self.view.sign_in else {
            lines.push(Line::of(Ink::Dim, "  no sign-in is in progress"));
            return lines;
        };
        if let Some(result) = &sign_in.result {
            lines.extend(
                self.wrapped(result, 2).into_iter().map(|part| indented(2, Ink::Bold, part)),
            );
            return lines;
        }
        let Some(url) = &sign_in.url else {
            lines.push(Line::of(Ink::Dim, "  opening the browser"));
            return lines;
        };
        let texts = [
            "A page should have opened in the browser. If not, open this one:",
            "If the browser is on another machine, paste the address of its last page, or the \
             code:",
        ];
        let text = |text: &str| {
            let parts = self.wrapped(text, 2).into_iter();
            parts.map(|part| indented(2, Ink::Plain, part)).collect::<Vec<_>>()
        };
        lines.extend(text(texts[0]));
        // In full lines without indentation, so that it can be copied.
        let url: Vec<char> = clean(url, 4_000).chars().collect();
        let pieces = url.chunks(self.size.cols.max(1));
        lines.extend(pieces.map(|piece| Line::of(Ink::Cyan, piece.iter().collect::<String>())));
        lines.extend(text(texts[1]));
        if lines.len() >= room {
            // The input field matters more than an address that would be cut.
            lines.truncate(1);
            lines.extend(text(
                "A page should have opened in the browser. Enlarge the window to see its address, \
                 or paste the code:",
            ));
        }
        lines.push(self.typed(shown));
        lines.extend(sign_in.said.iter().flat_map(|said| text(said)));
        lines
    }

    fn sessions_page(&self, top: usize, room: usize) -> Vec<Line> {
        let sessions = &self.status.sessions;
        let mut heading = Line::of(Ink::Bold, "SESSIONS");
        heading.push(Ink::Dim, format!(" {}", sessions.sticky_bindings));
        let mut lines = vec![heading];
        if sessions.list.is_empty() {
            lines.push(Line::of(
                Ink::Dim,
                "  none yet; clients name their session with each request",
            ));
        }
        let top = top.min(sessions.list.len().saturating_sub(room.saturating_sub(1)));
        let shown = sessions.list.iter().skip(top).take(room.saturating_sub(1));
        lines.extend(shown.map(|session| self.session_line(session)));
        lines
    }

    fn session_line(&self, session: &Session) -> Line {
        let wide = self.size.cols >= 60;
        let mut line = Line::default();
        line.gap(2).column(Ink::Plain, &clean(&session.id, 40), 6, self.signs).gap(1);
        let account = session.account.as_deref().unwrap_or("-");
        let cells = if wide { 24 } else { 12 };
        let account = width::fit_middle(&clean(account, 80), cells, self.signs.cut());
        line.column(Ink::Plain, &account, cells, self.signs).gap(1);
        line.push(Ink::Dim, format!("idle {}", age(session.idle_ms)));
        if let Some(home) =
            session.home.as_deref().filter(|home| session.account.as_deref() != Some(home))
        {
            line.push(Ink::Yellow, format!("{}home {}", self.signs.dot(), name(home)));
        }
        if session.thinking {
            line.push(Ink::Dim, format!("{}signed thinking", self.signs.dot()));
        }
        line
    }

    fn routing_page(&self, cursor: usize, room: usize) -> Vec<Line> {
        let present = self.status.routing.preferred_account.as_deref();
        let entries: Vec<Line> = routing_choices(self.status)
            .into_iter()
            .map(|choice| {
                let text = match choice {
                    None => "automatic: by session, priority and cost".to_owned(),
                    Some(account) => clean(account, 60),
                };
                let mut line = Line::of(Ink::Plain, text);
                if choice == present {
                    line.push(Ink::Dim, "  (now)");
                }
                line
            })
            .collect();
        self.list("ROUTING", &entries, cursor, room)
    }

    fn explain_page(&self, cursor: usize, room: usize) -> Vec<Line> {
        let decisions = &self.status.decisions;
        let cursor = cursor.min(decisions.len().saturating_sub(1));
        let Some(decision) = decisions.iter().rev().nth(cursor) else {
            return vec![Line::of(Ink::Bold, "EXPLAIN"), Line::of(Ink::Dim, "  no request yet")];
        };
        let mut heading =
            Line::of(Ink::Bold, format!("EXPLAIN {} of {}", cursor + 1, decisions.len()));
        heading.push(Ink::Dim, self.request_of(decision));
        let mut lines = vec![heading];
        lines.extend(self.decision(decision));
        if lines.len() > room {
            lines.truncate(room.saturating_sub(1));
            lines.push(Line::of(Ink::Dim, "  enlarge the window to see the rest"));
        }
        lines
    }

    /// The verdict, the ranked accounts with the terms of their scores, and why the others were
    /// passed over.
    fn decision(&self, decision: &Explanation) -> Vec<Line> {
        let mut lines = self.verdict(decision);
        for candidate in &decision.candidates {
            let mut line = Line::default();
            line.gap(2).column_right(Ink::Dim, &candidate.rank.to_string(), 2, self.signs).gap(1);
            let ink = if decision.chosen.as_deref() == Some(candidate.account.as_str()) {
                Ink::Green
            } else {
                Ink::Plain
            };
            line.column(ink, &clean(&candidate.account, 60), 20, self.signs).gap(1);
            let score = candidate.score.map_or_else(|| "?".into(), hundredths);
            line.column_right(Ink::Plain, &score, 6, self.signs);
            // All of these take precedence over the score.
            let notes: Vec<String> =
                candidate.notes.iter().map(|note| format!("  {}", clean(note, 90))).collect();
            let notes = notes.concat();
            let is_beside = line.cells() + width::of(&notes) <= self.size.cols;
            if is_beside {
                line.push(Ink::Yellow, notes.as_str());
            }
            if candidate.tier != "normal" && candidate.tier != "unknown" {
                line.push(Ink::Yellow, format!("  week {}", clean(&candidate.tier, 20)));
            }
            if candidate.priority != 0 {
                line.push(Ink::Dim, format!("  priority {}", candidate.priority));
            }
            let terms = candidate.terms.iter().filter_map(|(term, value)| {
                let value = value.as_f64().filter(|value| *value != 0.0)?;
                let sign = if value < 0.0 { "-" } else { "+" };
                Some(format!("{sign} {term} {}", hundredths(value.abs())))
            });
            let terms = terms.collect::<Vec<_>>().join(" ");
            let terms = format!("  = {}", terms.strip_prefix("+ ").unwrap_or(&terms));
            if line.cells() + width::of(&terms) <= self.size.cols {
                line.push(Ink::Dim, terms);
                lines.push(line);
            } else {
                lines.push(line);
                let parts = self.wrapped(&terms, 6);
                lines.extend(parts.into_iter().map(|part| indented(6, Ink::Dim, part)));
            }
            if !is_beside {
                let parts = self.wrapped(&notes, 6);
                lines.extend(parts.into_iter().map(|part| indented(6, Ink::Yellow, part)));
            }
        }
        for passed in &decision.passed_over {
            lines.extend(self.passed_over(passed));
        }
        lines
    }

    /// Which request it was: its time, number, model and session, as far as they are known.
    fn request_of(&self, decision: &Explanation) -> String {
        let request = &decision.request;
        let facts = [
            request.at.map(|at| self.local().clock(at.0)),
            request.id.map(|id| format!("request {id}")),
            request.model.as_deref().map(short_model),
            request.session.as_deref().map(|session| clean(session, 40)),
        ];
        facts.into_iter().flatten().map(|fact| format!("{}{fact}", self.signs.dot())).collect()
    }

    /// What became of the request, in as many lines as it takes.
    fn verdict(&self, decision: &Explanation) -> Vec<Line> {
        let why = clean(&decision.why, 200);
        let text = match (&decision.chosen, why.split_once(": ")) {
            (Some(account), _) => format!("went to {}: {}", name(account), chosen_by(&why)),
            (None, Some(("waits", cause))) => {
                format!("waited: {}", wait_cause(cause, &decision.passed_over))
            }
            (None, Some(("refused", cause))) => format!("was refused: {cause}"),
            (None, _) => format!("got no account: {why}"),
        };
        self.wrapped(&text, 2).into_iter().map(|part| indented(2, Ink::Bold, part)).collect()
    }

    fn passed_over(&self, passed: &PassedOver) -> Vec<Line> {
        let mut line = Line::default();
        line.gap(4)
            .push(Ink::Dim, "- ")
            .column(Ink::Plain, &clean(&passed.account, 60), 20, self.signs)
            .gap(1);
        let what = if passed.awaits_test() { "next look in" } else { "for" };
        let until = passed.until.map_or_else(String::new, |until| {
            format!(", {what} {}", short(self.status.now.0.until(until.0)))
        });
        let before = line.cells();
        let mut parts = self.wrapped(&format!("{}{until}", passed.reason), before).into_iter();
        line.push(Ink::Yellow, parts.next().unwrap_or_default());
        let mut lines = vec![line];
        lines.extend(parts.map(|part| indented(before, Ink::Yellow, part)));
        if let Some(evidence) = &passed.evidence {
            let parts = self.wrapped(&self.evidence(evidence), 6);
            lines.extend(parts.into_iter().map(|part| indented(6, Ink::Dim, part)));
        }
        lines
    }

    fn evidence(&self, evidence: &crate::report::status::Evidence) -> String {
        let mut parts = Vec::new();
        if let Some(status) = evidence.status {
            parts.push(format!("status {status}"));
        }
        if let Some(id) = &evidence.request_id {
            parts.push(clean(id, 80));
        }
        if let Some(source) = &evidence.source
            && !repeats_status(evidence.status, source)
        {
            parts.push(clean(source, 120));
        }
        if let Some(message) = &evidence.message {
            parts.push(clean(message, 200));
        }
        parts.join(self.signs.dot())
    }
}

fn indented(cells: usize, ink: Ink, text: String) -> Line {
    let mut line = Line::default();
    line.gap(cells).push(ink, text);
    line
}
