//! The scheduler's reasons in words, the same in `explain` and in the dashboard.

use super::status::PassedOver;

/// The rule by which an account was chosen.
pub(crate) fn chosen_by(word: &str) -> &str {
    match word {
        "pinned" | "thread" => "the request names something that belongs to this account",
        "preferred" => "it is the preferred account",
        "home" => "it is the session's home, where its prompt cache is",
        "current" => "it currently serves this session",
        "score" => "it has the best score of the accounts that can serve",
        other => other,
    }
}

/// Why a request waits, from the class of its wait (SPEC Q1) and the accounts that were passed
/// over.
pub(crate) fn wait_cause<'a>(word: &'a str, passed_over: &[PassedOver]) -> &'a str {
    let any = |is: fn(&str) -> bool| passed_over.iter().any(|it| is(&it.reason));
    match word {
        "capacity" if any(|reason| reason.starts_with("breaker")) => {
            "the breaker is open because the API is failing for every account"
        }
        "capacity" if any(|reason| reason.ends_with("limit of concurrent requests")) => {
            "the limit of concurrent requests is reached"
        }
        "quota" => "every account is at a limit",
        "weekly" => "every account has used up its week",
        "capacity" => "the API is failing or overloaded",
        "network" => "the network is down",
        other => other,
    }
}
