//! Typed text: an API key, a name, or the code at the end of a sign-in.

use super::{Action, Page, Ui, Wanted};
use crate::config::Secret;
use crate::report::keys::Key;
use crate::report::status::Status;
use crate::report::text::{is_dangerous, name};

/// Longest accepted text; the address at the end of a sign-in is longer than any key.
const ENTRY_MAX: usize = 2_048;
/// The longest name.
const NAME_MAX: usize = 80;

impl Ui {
    pub(super) fn enter(&mut self, wanted: Wanted) {
        self.entry.clear();
        if let Wanted::NameOf(old) = &wanted {
            self.entry.clone_from(old);
        }
        self.show_entry(wanted);
    }

    fn show_entry(&mut self, wanted: Wanted) {
        let shown = match &wanted {
            Wanted::NameOf(_) => self.entry.clone(),
            Wanted::NewKey | Wanted::KeyOf(_) | Wanted::SignInCode => {
                "*".repeat(self.entry.chars().count())
            }
        };
        self.page = Page::Entry { wanted, shown };
    }

    pub(super) fn on_entry(&mut self, key: Key, wanted: Wanted, status: &Status) -> Option<Action> {
        match key {
            Key::Esc => {
                self.entry.clear();
                self.page = match wanted {
                    Wanted::NewKey => Page::Accounts { cursor: 0 },
                    Wanted::KeyOf(account) | Wanted::NameOf(account) => {
                        Page::Account { account, cursor: 0 }
                    }
                    Wanted::SignInCode => {
                        self.page = Page::Main;
                        return Some(Action::CancelSignIn);
                    }
                };
                return None;
            }
            Key::Enter => return self.entered(wanted, status),
            Key::Backspace => {
                self.entry.pop();
            }
            Key::Char(c) => self.type_in(&wanted, &c.to_string()),
            Key::Paste(text) => self.type_in(&wanted, text.lines().next().unwrap_or_default()),
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Redraw => {}
        }
        self.show_entry(wanted);
        None
    }

    /// A secret accepts only printable ASCII: it contains nothing else, and a stray byte must not
    /// become part of it. A name accepts anything that can be shown.
    fn type_in(&mut self, wanted: &Wanted, text: &str) {
        let is_name = matches!(wanted, Wanted::NameOf(_));
        let most = if is_name { NAME_MAX } else { ENTRY_MAX };
        let room = most.saturating_sub(self.entry.chars().count());
        let fits = |c: &char| if is_name { !is_dangerous(*c) } else { c.is_ascii_graphic() };
        self.entry.extend(text.chars().filter(fits).take(room));
    }

    fn entered(&mut self, wanted: Wanted, status: &Status) -> Option<Action> {
        let entry = std::mem::take(&mut self.entry);
        let entry = entry.trim();
        if entry.is_empty() {
            self.tell("nothing was typed; press Esc to go back");
            self.show_entry(wanted);
            return None;
        }
        match wanted {
            Wanted::NewKey => {
                self.page = Page::Accounts { cursor: 0 };
                self.ask(
                    "Add this API key as an account? It will be stored in the config and used at \
                     once."
                        .into(),
                    Action::AddKey(Secret::new(entry)),
                );
            }
            Wanted::KeyOf(account) => {
                let question = format!(
                    "Replace the API key of {}? The old key will be deleted, and the new one used \
                     at once.",
                    name(&account)
                );
                self.page = Page::Account { account: account.clone(), cursor: 0 };
                self.ask(question, Action::ReplaceKey(account, Secret::new(entry)));
            }
            Wanted::NameOf(from) => self.named(from, entry.to_owned(), status),
            Wanted::SignInCode => {
                self.page = Page::Entry { wanted: Wanted::SignInCode, shown: String::new() };
                return Some(Action::SignInCode(Secret::new(entry)));
            }
        }
        None
    }

    fn named(&mut self, from: String, to: String, status: &Status) {
        if to == from {
            self.page = Page::Account { account: from, cursor: 0 };
            return;
        }
        if status.accounts.iter().any(|account| account.name == to) {
            self.tell(format!("{} is already the name of another account", name(&to)));
            self.entry = to;
            self.show_entry(Wanted::NameOf(from));
            return;
        }
        let question = format!(
            "Rename {} to {}? Its credential and settings are kept.",
            name(&from),
            name(&to)
        );
        self.page = Page::Account { account: from.clone(), cursor: 0 };
        self.ask(question, Action::Rename { from, to });
    }
}
