//! The dashboard's keys and menus (D1) as a state machine: a key in, perhaps an [`Action`] out.
//!
//! Nothing is changed before a question is answered with `y`, and an unknown key does nothing.
//! Whoever runs the action reports its result with [`Ui::tell`].
//!
//! ```text
//!           a                Enter              Enter            y
//!   main ───────▶ accounts ─────────▶ account ─────────▶ question ──▶ action
//!     │                                  └─ a name or a key to type ──▲
//!     ├ l: sign in ── Enter ── question ── y ──▶ the page to open, and a place for the code
//!     │ m: routing, e: explain, v: sessions, ?: help
//!     └ s: at once; r, q: question             Esc: one page back; any but y: as it was
//! ```

use super::keys::Key;
use super::status::{Account, Status};
use super::text::name;
use crate::config::Secret;
pub(crate) use choices::{Choice, account_choices, routing_choices, sign_in_choices};
use choices::{first_that_needs_login, present_choice};
use questions::{requests, restart_question, stop_question};

mod choices;
mod entry;
mod questions;

/// What the user wants to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Lets an account serve again.
    Enable(String),
    /// Takes an account out of service.
    Disable(String),
    /// Removes an account from the config.
    Delete(String),
    /// Lifts an account's blocks, so that the next request tries it (P7).
    Retry(String),
    /// Renames an account.
    Rename { from: String, to: String },
    /// Signs in to an account again in a browser, or to a new one.
    SignIn(Option<String>),
    /// The address or the code that completes the sign-in in progress.
    SignInCode(Secret),
    /// Cancels the sign-in in progress.
    CancelSignIn,
    /// Replaces an account's API key.
    ReplaceKey(String, Secret),
    /// Prefers an account.
    Prefer(String),
    /// Returns to automatic routing.
    Automatic,
    /// Reads the config again.
    Sync,
    /// Imports Claude Code's login (T3).
    Import,
    /// Adds an API key (T4).
    AddKey(Secret),
    /// Restarts the server (R2).
    Restart,
    /// Stops the server (R1); an attached dashboard only ends itself.
    Quit,
    /// Redraws everything.
    Redraw,
}

/// The page on the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Page {
    /// Accounts, requests, activity.
    #[default]
    Main,
    /// The keys.
    Help {
        /// The first line shown.
        top: usize,
    },
    /// The accounts, and two ways to add one.
    Accounts {
        /// The line under the cursor.
        cursor: usize,
    },
    /// What can be done with one account.
    Account {
        account: String,
        /// The line under the cursor.
        cursor: usize,
    },
    /// Something to type.
    Entry {
        /// What it is for.
        wanted: Wanted,
        /// The text as shown; a secret is hidden.
        shown: String,
    },
    /// The accounts to sign in to again, and a new one.
    SignIn {
        /// The line under the cursor.
        cursor: usize,
    },
    /// Sessions and their accounts.
    Sessions {
        /// The first line shown.
        top: usize,
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

/// What is typed on [`Page::Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The API key of a new account.
    NewKey,
    /// The new API key of this account.
    KeyOf(String),
    /// The new name of this account.
    NameOf(String),
    /// The address or the code that completes the sign-in in progress.
    SignInCode,
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

#[derive(Debug, Default)]
pub(crate) struct Ui {
    seat: Seat,
    page: Page,
    question: Option<(String, Action)>,
    note: Option<String>,
    entry: String,
    /// The number of the first line of the log shown, once the user has scrolled.
    scrolled_to: Option<u64>,
    /// Lines of the log per page.
    log_page: usize,
}

/// What each key does.
pub(crate) const HELP: [(&str, &str); 15] = [
    ("a", "accounts: add, sign in, enable, disable, retry, rename, delete"),
    ("l", "sign in again; opens on the account that needs it"),
    ("m", "routing: automatic, or one preferred account"),
    ("s", "sync: read the config again now"),
    ("e", "explain: why the last requests went where they went"),
    ("v", "sessions and the accounts where they live"),
    RESTART_HELP,
    ("q", "quit: running requests finish first"),
    ("j k", "down and up, like the arrow keys"),
    ("PageUp PageDown", "earlier and later lines of the log"),
    ("Enter", "choose"),
    ("Esc", "back; cancels a sign-in in progress"),
    ("y n", "answer a question; nothing changes unless you press y"),
    ("Ctrl-L", "redraw the screen"),
    ("Ctrl-C", "quit without asking; a second time cuts running requests"),
];
const RESTART_HELP: (&str, &str) = ("r", "restart without refusing or cutting anything");

/// The keys of a dashboard, and what each of them does.
pub(crate) fn help_of(seat: Seat) -> Vec<(&'static str, &'static str)> {
    let mut help = HELP.to_vec();
    match seat {
        Seat::Server => {}
        Seat::Attached => {
            help.retain(|line| *line != RESTART_HELP);
            for (key, does) in &mut help {
                match *key {
                    "q" => *does = "leave the dashboard; the server keeps running",
                    "Ctrl-C" => *does = "leave without asking",
                    _ => {}
                }
            }
        }
    }
    help
}

impl Ui {
    /// Starts on the main page.
    pub(crate) fn new(seat: Seat) -> Ui {
        Ui { seat, ..Ui::default() }
    }

    /// Whose dashboard it is.
    pub(crate) fn seat(&self) -> Seat {
        self.seat
    }

    /// Sets how far page up and page down scroll the log, as it is drawn.
    pub(crate) fn set_log_page(&mut self, lines: usize) {
        self.log_page = lines;
    }

    /// Log lines newer than the first one shown, if the user has scrolled.
    pub(crate) fn newer_lines(&self, status: &Status) -> usize {
        let newer = self.scrolled_to.map_or(0, |number| status.lines_after(number));
        newer.min(status.activity.len().saturating_sub(1))
    }

    /// What is on the screen.
    pub(crate) fn page(&self) -> &Page {
        &self.page
    }

    /// The question on the screen, to be answered with `y` or `n`.
    pub(crate) fn question(&self) -> Option<&str> {
        self.question.as_ref().map(|(text, _)| text.as_str())
    }

    /// The result of the last action, until the next key.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Shows the result of an action.
    pub(crate) fn tell(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }

    /// Handles one key. The lists of the menus are those of `status`, as drawn.
    pub(crate) fn press(&mut self, key: Key, status: &Status) -> Option<Action> {
        if key == Key::Redraw {
            return Some(Action::Redraw);
        }
        if let Some((_, action)) = &self.question {
            return match key {
                Key::Char('y' | 'Y') => {
                    self.page = match action {
                        Action::Quit | Action::Restart => self.page.clone(),
                        // That page shows the address to open and takes the code.
                        Action::SignIn(_) => {
                            self.entry.clear();
                            Page::Entry { wanted: Wanted::SignInCode, shown: String::new() }
                        }
                        _ => Page::Main,
                    };
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
                match moved(&key, top, help_of(self.seat).len()) {
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
            Page::Entry { wanted, .. } => self.on_entry(key, wanted, status),
            Page::SignIn { cursor } => self.on_sign_in(&key, cursor, status),
            Page::Sessions { top } => {
                match moved(&key, top, status.sessions.list.len()) {
                    Some(top) => self.page = Page::Sessions { top },
                    None if key == Key::Esc => self.page = Page::Main,
                    None => {}
                }
                None
            }
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
            'l' => self.page = Page::SignIn { cursor: first_that_needs_login(status) },
            'm' => self.page = Page::Routing { cursor: present_choice(status) },
            's' => return Some(Action::Sync),
            'e' => self.page = Page::Explain { cursor: 0 },
            'v' => self.page = Page::Sessions { top: 0 },
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
                "Import the login of Claude Code? Claude Code keeps rotating that token; `maxpool \
                 login` gives an independent one."
                    .into(),
                Action::Import,
            ),
            Key::Enter if cursor == accounts + 1 => {
                self.enter(Wanted::NewKey);
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
            // The account was removed while its page was open.
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
        let to = account.name.clone();
        let finishing = match account.in_flight {
            0 => String::new(),
            running => format!(" Its {} in flight will finish.", requests(running)),
        };
        match account_choices(account).get(cursor) {
            Some(Choice::Enable) => {
                self.ask(
                    format!("Enable {shown}? It will serve again at once."),
                    Action::Enable(to),
                );
            }
            Some(Choice::Disable) => self.ask(
                format!("Disable {shown}? New requests will go to other accounts.{finishing}"),
                Action::Disable(to),
            ),
            Some(Choice::SignIn) => self.ask_to_sign_in(account),
            Some(Choice::Retry) => self.ask(
                format!(
                    "Retry {shown}? Its blocks will be lifted, and the next request will try \
                         it."
                ),
                Action::Retry(to),
            ),
            Some(Choice::Rename) => self.enter(Wanted::NameOf(to)),
            Some(Choice::Delete) => self.ask(
                format!(
                    "Delete {shown} and its credential from the config? This cannot be undone; \
                     you would have to add it again.{finishing}"
                ),
                Action::Delete(to),
            ),
            None => {}
        }
    }

    fn ask_to_sign_in(&mut self, account: &Account) {
        if account.kind == "apikey" {
            self.enter(Wanted::KeyOf(account.name.clone()));
            return;
        }
        let question = format!(
            "Sign in again to {}? A page will open in the browser; the account that you sign in \
             to there will be stored.",
            name(&account.name)
        );
        self.ask(question, Action::SignIn(Some(account.name.clone())));
    }

    fn on_sign_in(&mut self, key: &Key, cursor: usize, status: &Status) -> Option<Action> {
        let accounts = sign_in_choices(status);
        if let Some(cursor) = moved(key, cursor, accounts.len() + 1) {
            self.page = Page::SignIn { cursor };
            return None;
        }
        match (key, accounts.get(cursor)) {
            (Key::Esc, _) => self.page = Page::Main,
            (Key::Enter, Some(account)) => self.ask_to_sign_in(account),
            (Key::Enter, None) => self.ask(
                "Sign in to another account? A page will open in the browser; the account that \
                 you sign in to there will be added."
                    .into(),
                Action::SignIn(None),
            ),
            _ => {}
        }
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
                    "Return to automatic routing? Each request will go where it costs least; \
                     sessions stay where they are."
                        .into(),
                    Action::Automatic,
                ),
                Some(Some(account)) => self.ask(
                    format!(
                        "Prefer {}? All Claude requests will go there as long as it can \
                             serve.",
                        name(account)
                    ),
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

/// The new cursor after a movement key, within `count` lines.
fn moved(key: &Key, cursor: usize, count: usize) -> Option<usize> {
    let last = count.saturating_sub(1);
    match key {
        Key::Down | Key::Char('j') => Some((cursor + 1).min(last)),
        Key::Up | Key::Char('k') => Some(cursor.min(last).saturating_sub(1)),
        _ => None,
    }
}

fn quit_question(seat: Seat, status: &Status) -> String {
    match seat {
        Seat::Attached => "Leave the dashboard? The server keeps running.".into(),
        Seat::Server => stop_question(status),
    }
}

#[cfg(test)]
mod tests;
