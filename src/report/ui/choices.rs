//! The contents of the menus' lists, and the initial positions of their cursors.

use crate::report::status::{Account, Status};

/// An action on an account's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Use it again.
    Enable,
    /// Stop using it.
    Disable,
    /// Renew its credential.
    SignIn,
    /// Lift its blocks.
    Retry,
    /// Give it another name.
    Rename,
    /// Remove it from the config.
    Delete,
}

/// The actions on an account's page. An account from request headers is not in the config, so it
/// cannot be renamed or deleted.
pub(crate) fn account_choices(account: &Account) -> Vec<Choice> {
    let mut choices = vec![if account.enabled { Choice::Disable } else { Choice::Enable }];
    if account.kind != "provider" {
        choices.push(Choice::SignIn);
    }
    choices.push(Choice::Retry);
    if !account.runtime {
        choices.extend([Choice::Rename, Choice::Delete]);
    }
    choices
}

/// Accounts that can be signed in to again.
pub(crate) fn sign_in_choices(status: &Status) -> Vec<&Account> {
    status.in_order().into_iter().filter(|account| account.kind != "provider").collect()
}

/// The initial cursor of that page.
pub(super) fn first_that_needs_login(status: &Status) -> usize {
    let choices = sign_in_choices(status);
    let needs = |account: &&Account| account.status == "error" && account.enabled;
    let dead = |account: &&Account| account.status == "error";
    let found = choices.iter().position(needs).or(choices.iter().position(dead));
    found.unwrap_or(0)
}

/// The lines of the routing page: automatic (`None`), then the enabled Claude accounts.
pub(crate) fn routing_choices(status: &Status) -> Vec<Option<&str>> {
    let accounts =
        status.accounts.iter().filter(|account| account.enabled && account.kind != "provider");
    std::iter::once(None).chain(accounts.map(|account| Some(account.name.as_str()))).collect()
}

/// The initial cursor of the routing page.
pub(super) fn present_choice(status: &Status) -> usize {
    let present = status.routing.preferred_account.as_deref();
    routing_choices(status).iter().position(|choice| *choice == present).unwrap_or(0)
}
