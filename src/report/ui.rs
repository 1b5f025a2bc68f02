//! The dashboard's keys and menus (D1) as a state machine: a key in, perhaps an [`Action`] out.
//!
//! Nothing is changed before a question was answered with `y`; a key that means nothing does
//! nothing. The one who runs the action tells its result with [`Ui::tell`].
//!
//! ```text
//!           a                Enter              Enter            y
//!   main ───────▶ accounts ─────────▶ account ─────────▶ question ──▶ action
//!     │ m: routing, e: explain, ?: help        any but y: back as it was
//!     └ s: at once; r, q: question             Esc: one page back
//! ```

use super::keys::Key;
use super::status::{Account, Status};
use super::text::name;
use crate::config::Secret;

/// What the user wants done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Lets an account serve again.
    Enable(String),
    /// Takes an account out of service.
    Disable(String),
    /// Takes an account out of the config.
    Delete(String),
    /// Prefers an account.
    Prefer(String),
    /// Back to automatic routing.
    Automatic,
    /// Reads the config again.
    Sync,
    /// Copies the login of Claude Code (T3).
    Import,
    /// Adds an API key (T4).
    AddKey(Secret),
    /// R2.
    Restart,
    /// R1; with an attached dashboard, only that ends.
    Quit,
    /// Draws everything anew.
    Redraw,
}

/// What is on the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Page {
    /// Accounts, requests, activity.
    #[default]
    Main,
    /// The keys.
    Help {
        /// The first line that is shown.
        top: usize,
    },
    /// The accounts and two ways to add one.
    Accounts {
        /// The line under the cursor.
        cursor: usize,
    },
    /// What can be done with one account.
    Account {
        /// Which.
        account: String,
        /// The line under the cursor.
        cursor: usize,
    },
    /// Entry of an API key.
    Key {
        /// How long it is so far.
        typed: usize,
    },
    /// Automatic, then the accounts that can be preferred.
    Routing {
        /// The line under the cursor.
        cursor: usize,
    },
    /// The last decisions.
    Explain {
        /// 0 is the latest.
        cursor: usize,
    },
}

/// Whose dashboard it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seat {
    /// The server's own.
    #[default]
    Server,
    /// `status --watch`.
    Attached,
}

/// The menus.
#[derive(Debug, Default)]
pub(crate) struct Ui {
    seat: Seat,
    page: Page,
    question: Option<(String, Action)>,
    note: Option<String>,
    entry: String,
    /// The number of the first line of the log that is shown, once the user has scrolled.
    scrolled_to: Option<u64>,
    /// Lines of the log on a page.
    log_page: usize,
}

/// What each key does.
pub(crate) const HELP: [(&str, &str); 12] = [
    ("a", "accounts: enable, disable, delete, import, add a key"),
    ("m", "routing: automatic, or one preferred account"),
    ("s", "sync: read the config again now"),
    ("e", "explain: why the last requests went where they went"),
    ("r", "restart without refusing or cutting anything"),
    ("q", "quit: running requests finish first"),
    ("j k", "down and up, as the arrows do"),
    ("Enter", "choose"),
    ("Esc", "back"),
    ("y n", "answer a question; nothing changes without a y"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-C", "quit without a question; a second time cuts what runs"),
];

/// The longest API key that is taken.
const ENTRY_MAX: usize = 512;

impl Ui {
    /// On the main page.
    pub(crate) fn new(seat: Seat) -> Ui {
        Ui { seat, ..Ui::default() }
    }

    /// Whose dashboard it is.
    pub(crate) fn seat(&self) -> Seat {
        self.seat
    }

    /// How far a page up or down in the log goes: as it is drawn.
    pub(crate) fn set_log_page(&mut self, lines: usize) {
        self.log_page = lines;
    }

    /// Lines of the log that are newer than the first one shown, because the user has scrolled.
    pub(crate) fn newer_lines(&self, status: &Status) -> usize {
        let newer = self.scrolled_to.map_or(0, |number| status.lines_after(number));
        newer.min(status.activity.len().saturating_sub(1))
    }

    /// What is on the screen.
    pub(crate) fn page(&self) -> &Page {
        &self.page
    }

    /// What is being asked; it wants `y` or `n`.
    pub(crate) fn question(&self) -> Option<&str> {
        self.question.as_ref().map(|(text, _)| text.as_str())
    }

    /// What came of the last action, until the next key.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Shows what came of an action.
    pub(crate) fn tell(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }

    /// One key. The lists of the menus are those of `status`, as they were drawn.
    pub(crate) fn press(&mut self, key: Key, status: &Status) -> Option<Action> {
        if key == Key::Redraw {
            return Some(Action::Redraw);
        }
        if let Some((_, action)) = &self.question {
            return match key {
                Key::Char('y' | 'Y') => {
                    let leaves_page = !matches!(action, Action::Quit | Action::Restart);
                    if leaves_page {
                        self.page = Page::Main;
                    }
                    self.question.take().map(|(_, action)| action)
                }
                Key::Char('n' | 'N') | Key::Esc => {
                    self.question = None;
                    None
                }
                _ => None,
            };
        }
        self.note = None;
        match self.page.clone() {
            Page::Main => self.on_main(&key, status),
            Page::Help { top } => {
                match moved(&key, top, HELP.len()) {
                    Some(top) => self.page = Page::Help { top },
                    None if matches!(key, Key::Esc | Key::Char('?' | 'q') | Key::Enter) => {
                        self.page = Page::Main;
                    }
                    None => {}
                }
                None
            }
            Page::Accounts { cursor } => self.on_accounts(&key, cursor, status),
            Page::Account { account, cursor } => self.on_account(&key, account, cursor, status),
            Page::Key { .. } => self.on_key_entry(key),
            Page::Routing { cursor } => self.on_routing(&key, cursor, status),
            Page::Explain { cursor } => {
                match moved(&key, cursor, status.decisions.len()) {
                    Some(cursor) => self.page = Page::Explain { cursor },
                    None if key == Key::Esc => self.page = Page::Main,
                    None => {}
                }
                None
            }
        }
    }

    fn scroll(&mut self, status: &Status, newer: usize) {
        let lines = status.activity.len();
        let newer = newer.min(lines.saturating_sub(self.log_page));
        let first = lines.checked_sub(1 + newer).filter(|_| newer > 0);
        self.scrolled_to = first.map(|first| status.activity[first].number);
    }

    fn on_main(&mut self, key: &Key, status: &Status) -> Option<Action> {
        let newer = self.newer_lines(status);
        match key {
            Key::PageUp => self.scroll(status, newer + self.log_page),
            Key::PageDown => self.scroll(status, newer.saturating_sub(self.log_page)),
            Key::Esc => self.scrolled_to = None,
            _ => {}
        }
        let Key::Char(key) = key else {
            return None;
        };
        match key {
            'a' => self.page = Page::Accounts { cursor: 0 },
            'm' => self.page = Page::Routing { cursor: present_choice(status) },
            's' => return Some(Action::Sync),
            'e' => self.page = Page::Explain { cursor: 0 },
            'r' if self.seat == Seat::Server => self.ask(restart_question(status), Action::Restart),
            'q' => self.ask(quit_question(self.seat, status), Action::Quit),
            '?' => self.page = Page::Help { top: 0 },
            _ => {}
        }
        None
    }

    fn on_accounts(&mut self, key: &Key, cursor: usize, status: &Status) -> Option<Action> {
        let listed = status.in_order();
        let accounts = listed.len();
        if let Some(cursor) = moved(key, cursor, accounts + 2) {
            self.page = Page::Accounts { cursor };
            return None;
        }
        match key {
            Key::Esc => self.page = Page::Main,
            Key::Enter if cursor < accounts => {
                self.page = Page::Account { account: listed[cursor].name.clone(), cursor: 0 };
            }
            Key::Enter if cursor == accounts => self.ask(
                "Import the login of Claude Code? It keeps rotating that token; `maxpool login` gives an independent one."
                    .into(),
                Action::Import,
            ),
            Key::Enter if cursor == accounts + 1 => {
                self.entry.clear();
                self.page = Page::Key { typed: 0 };
            }
            _ => {}
        }
        None
    }

    fn on_account(
        &mut self,
        key: &Key,
        account: String,
        cursor: usize,
        status: &Status,
    ) -> Option<Action> {
        let listed = status.in_order();
        let found = listed.iter().enumerate().find(|(_, known)| known.name == account);
        let Some((position, known)) = found else {
            // It left while its page was open.
            self.page = Page::Accounts { cursor: 0 };
            return None;
        };
        if let Some(cursor) = moved(key, cursor, account_choices(known).len()) {
            self.page = Page::Account { account, cursor };
            return None;
        }
        match key {
            Key::Esc => self.page = Page::Accounts { cursor: position },
            Key::Enter => self.choose_for_account(known, cursor),
            _ => {}
        }
        None
    }

    fn choose_for_account(&mut self, account: &Account, cursor: usize) {
        let shown = name(&account.name);
        let finishing = match account.in_flight {
            0 => String::new(),
            running => format!(" Its {} in flight will finish.", requests(running)),
        };
        match account_choices(account).get(cursor) {
            Some(Choice::Enable) => {
                self.ask(format!("Enable {shown}? It serves again at once."), Action::Enable(account.name.clone()));
            }
            Some(Choice::Disable) => self.ask(
                format!("Disable {shown}? New requests go elsewhere.{finishing}"),
                Action::Disable(account.name.clone()),
            ),
            Some(Choice::Delete) if account.runtime => {
                self.tell(format!("{shown} comes from request headers and would come back; disable it instead"));
            }
            Some(Choice::Delete) => self.ask(
                format!(
                    "Delete {shown} and its credential from the config? Only adding it anew brings it back.{finishing}"
                ),
                Action::Delete(account.name.clone()),
            ),
            None => {}
        }
    }

    fn on_key_entry(&mut self, key: Key) -> Option<Action> {
        match key {
            Key::Esc => {
                self.entry.clear();
                self.page = Page::Accounts { cursor: 0 };
                return None;
            }
            Key::Enter => return self.key_entered(),
            Key::Backspace => {
                self.entry.pop();
            }
            Key::Char(c) => self.type_in(&c.to_string()),
            Key::Paste(text) => self.type_in(text.lines().next().unwrap_or_default()),
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Redraw => {}
        }
        self.page = Page::Key { typed: self.entry.chars().count() };
        None
    }

    /// Printable ASCII only: a key holds nothing else, and a stray byte must not become part of it.
    fn type_in(&mut self, text: &str) {
        let room = ENTRY_MAX.saturating_sub(self.entry.len());
        self.entry.extend(text.chars().filter(char::is_ascii_graphic).take(room));
    }

    fn key_entered(&mut self) -> Option<Action> {
        if self.entry.is_empty() {
            self.tell("type or paste an API key, or leave with Esc");
            return None;
        }
        let key = Secret::new(std::mem::take(&mut self.entry));
        self.page = Page::Accounts { cursor: 0 };
        self.ask(
            "Add this API key as an account? It is stored in the config and serves at once.".into(),
            Action::AddKey(key),
        );
        None
    }

    fn on_routing(&mut self, key: &Key, cursor: usize, status: &Status) -> Option<Action> {
        let choices = routing_choices(status);
        if let Some(cursor) = moved(key, cursor, choices.len()) {
            self.page = Page::Routing { cursor };
            return None;
        }
        match key {
            Key::Esc => self.page = Page::Main,
            Key::Enter if cursor == present_choice(status) => self.page = Page::Main,
            Key::Enter => match choices.get(cursor) {
                Some(None) => self.ask(
                    "Return to automatic routing? Each request goes where it costs least; sessions stay where they are.".into(),
                    Action::Automatic,
                ),
                Some(Some(account)) => self.ask(
                    format!("Prefer {}? All Claude requests go there as long as it can serve.", name(account)),
                    Action::Prefer((*account).to_owned()),
                ),
                None => {}
            },
            _ => {}
        }
        None
    }

    fn ask(&mut self, question: String, action: Action) {
        self.question = Some((question, action));
    }
}

/// What an account's page offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Let it serve again.
    Enable,
    /// Take it out of service.
    Disable,
    /// Take it out of the config.
    Delete,
}

/// The lines of an account's page.
pub(crate) fn account_choices(account: &Account) -> [Choice; 2] {
    [if account.enabled { Choice::Disable } else { Choice::Enable }, Choice::Delete]
}

/// The lines of the routing page: automatic (`None`), then the enabled Claude accounts.
pub(crate) fn routing_choices(status: &Status) -> Vec<Option<&str>> {
    let accounts =
        status.accounts.iter().filter(|account| account.enabled && account.kind != "provider");
    std::iter::once(None).chain(accounts.map(|account| Some(account.name.as_str()))).collect()
}

/// Where the cursor of the routing page stands at first.
fn present_choice(status: &Status) -> usize {
    let present = status.routing.preferred_account.as_deref();
    routing_choices(status).iter().position(|choice| *choice == present).unwrap_or(0)
}

/// The cursor after a key that moves it, within `count` lines.
fn moved(key: &Key, cursor: usize, count: usize) -> Option<usize> {
    let last = count.saturating_sub(1);
    match key {
        Key::Down | Key::Char('j') => Some((cursor + 1).min(last)),
        Key::Up | Key::Char('k') => Some(cursor.min(last).saturating_sub(1)),
        _ => None,
    }
}

fn restart_question(status: &Status) -> String {
    format!(
        "Restart? A new process takes over and no connection is refused.{}{}",
        finishing(status, " on the old one"),
        waiting(status)
    )
}

fn quit_question(seat: Seat, status: &Status) -> String {
    match seat {
        Seat::Attached => "Leave the dashboard? The server goes on.".into(),
        Seat::Server => {
            format!(
                "Stop the server? New requests are refused.{}{}",
                finishing(status, ""),
                waiting(status)
            )
        }
    }
}

fn finishing(status: &Status, on: &str) -> String {
    match in_flight(status) {
        0 => String::new(),
        running => format!(" {} in flight will finish{on}.", requests(running)),
    }
}

fn in_flight(status: &Status) -> u64 {
    let waiting = usize::try_from(status.queue.waiting).unwrap_or(usize::MAX);
    u64::try_from(status.requests_in_flight.saturating_sub(waiting)).unwrap_or(u64::MAX)
}

fn waiting(status: &Status) -> String {
    match status.queue.waiting {
        0 => String::new(),
        waiting => format!(" {} waiting will be told to ask again.", requests(waiting)),
    }
}

fn requests(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} request{plural}")
}

#[cfg(test)]
mod tests;
