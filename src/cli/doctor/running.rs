//! What the running proxy knows beyond the config: refused credentials, another version, another
//! key.

use super::{Finding, odd, wrong};
use crate::cli::accounts::again;
use crate::cli::web::Server;
use crate::config::Config;
use crate::http::document;
use crate::report::status::{Account, Block, Status};
use crate::report::text;

/// Its findings; none if all is well.
#[derive(Default)]
pub(super) struct Known {
    pub(super) findings: Vec<Finding>,
    /// Findings about single accounts, by name. Each replaces the config's finding about that
    /// account's token.
    pub(super) refused: Vec<(String, Finding)>,
}

/// Asks the running proxy.
pub(super) fn what_it_knows(server: &Server, config: &Config) -> Known {
    let status = match server.json("GET", "/maxpool/status", None) {
        Ok(body) => document::read::<Status>(&body).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match status {
        Ok(status) => of_status(&status, config),
        Err(why) => {
            let text = format!(
                "{} does not report its status: {why}; was it started with another config?",
                server.base()
            );
            Known { findings: vec![wrong("proxy", text)], ..Known::default() }
        }
    }
}

fn of_status(status: &Status, config: &Config) -> Known {
    let own = env!("CARGO_PKG_VERSION");
    let mut known = Known::default();
    if status.version != own {
        let text = format!(
            "the running proxy is version {}, and this program is {own}; restart the proxy with r \
             in its dashboard or with SIGUSR2",
            text::clean(&status.version, 40)
        );
        known.findings.push(odd("proxy", text));
    }
    for account in status.accounts.iter().filter(|account| account.enabled) {
        let found = refusal(account, config)
            .map(|text| wrong("token", text))
            .or_else(|| forbidden(account, config).map(|text| odd("token", text)));
        known.refused.extend(found.map(|finding| (account.name.clone(), finding)));
    }
    known
}

/// The API's refusal of an account, with its message and what to do about it.
fn refusal(account: &Account, config: &Config) -> Option<String> {
    let name = text::name(&account.name);
    let block = |reason: &str| account.blocks.iter().find(|block| block.reason == reason);
    if let Some(block) = block("unusable") {
        return Some(format!(
            "{name}: the API says that the account cannot be used{}; settle that with the \
             provider, then run: maxpool retry {name}",
            said(words(block))
        ));
    }
    let needs_login = block("needs_login");
    if let Some(block) = needs_login.or_else(|| block("credential_refused")) {
        let what = if needs_login.is_some() { "needs login" } else { "the API refuses it" };
        return Some(format!("{name}: {what}{}; {}", said(words(block)), renewed(account, config)));
    }
    (account.status == "error")
        .then(|| format!("{name}: the API refuses it; {}", renewed(account, config)))
}

/// Mentions that the last request got a 403. It is charged to nobody (SPEC P7), because a firewall
/// may have sent it or it may concern that request alone, so the account stays in use.
fn forbidden(account: &Account, config: &Config) -> Option<String> {
    (account.last_status == Some(403)).then(|| {
        format!(
            "{}: still in use, but its last request was answered with 403{}; if that goes on, \
             check what the account is allowed to do and that no firewall or proxy blocks it, or {}",
            text::name(&account.name),
            said(account.last_error.as_deref()),
            renewed(account, config)
        )
    })
}

fn words(block: &Block) -> Option<&str> {
    block.evidence.as_ref()?.message.as_deref()
}

fn said(words: Option<&str>) -> String {
    let words = words.map(|words| text::clean(words.trim_end_matches('.'), 200));
    words.filter(|words| !words.is_empty()).map(|words| format!(" ({words})")).unwrap_or_default()
}

/// How to replace the account's credential.
fn renewed(account: &Account, config: &Config) -> String {
    let name = text::name(&account.name);
    let entry = config.accounts.iter().find(|entry| entry.name == account.name);
    match account.kind.as_str() {
        "oauth" => entry.map_or_else(|| "sign in again with: maxpool login".to_owned(), again),
        "apikey" => format!("replace the key with: maxpool login --api --name {name}"),
        _ => "put a valid authToken into its entry in the config".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::Verdict;

    fn config() -> Config {
        let text = r#"{"accounts": [{"name": "work", "type": "oauth", "accessToken": "t",
            "source": "login as me@example.com"}]}"#;
        Config::parse(text, std::path::Path::new("c.json")).unwrap()
    }

    #[test]
    fn a_refused_credential_and_another_version_are_told() {
        let login = json!({"reason": "needs_login", "evidence": {"message": "no refresh token"}});
        let rest = json!({"reason": "credential_refused", "until": "2026-11-22T03:00:00Z",
            "evidence": {"message": "invalid x-api-key"}});
        let billing = json!({"reason": "unusable", "evidence": {"message": "Credit is too low."}});
        let status: Status = serde_json::from_value(json!({
            "version": "1.9.0",
            "accounts": [
                {"name": "work", "type": "oauth", "enabled": true, "status": "error", "blocks": [login]},
                {"name": "my key", "type": "apikey", "enabled": true, "status": "error", "blocks": [rest]},
                {"name": "poor", "type": "apikey", "enabled": true, "blocks": [billing]},
                {"name": "odd", "type": "apikey", "enabled": true, "status": "active",
                    "lastStatus": 403, "lastError": "Not allowed."},
                {"name": "glm", "type": "provider", "enabled": true, "status": "error"},
                {"name": "off", "type": "provider", "enabled": false, "status": "error"},
                {"name": "spare", "type": "oauth", "enabled": true, "status": "throttled",
                    "lastStatus": 429},
            ],
        }))
        .unwrap();
        let own = env!("CARGO_PKG_VERSION");
        let known = of_status(&status, &config());
        assert_eq!(
            known.findings,
            [odd(
                "proxy",
                format!(
                    "the running proxy is version 1.9.0, and this program is {own}; restart the \
                     proxy with r in its dashboard or with SIGUSR2"
                )
            )]
        );
        let refused: Vec<&str> =
            known.refused.iter().map(|(_, finding)| finding.text.as_str()).collect();
        assert_eq!(
            refused,
            [
                "work: needs login (no refresh token); sign in again as me@example.com with: \
                 maxpool login",
                "\"my key\": the API refuses it (invalid x-api-key); replace the key with: maxpool \
                 login --api --name \"my key\"",
                "poor: the API says that the account cannot be used (Credit is too low); settle \
                 that with the provider, then run: maxpool retry poor",
                "odd: still in use, but its last request was answered with 403 (Not allowed); if \
                 that goes on, check what the account is allowed to do and that no firewall or \
                 proxy blocks it, or replace the key with: maxpool login --api --name odd",
                "glm: the API refuses it; put a valid authToken into its entry in the config",
            ]
        );
        assert_eq!(known.refused[1].0, "my key");
        let notes = known.refused.iter().filter(|(_, finding)| finding.verdict == Verdict::Odd);
        let notes: Vec<&str> = notes.map(|(name, _)| name.as_str()).collect();
        assert_eq!(notes, ["odd"], "a 403 takes nothing from the account");
    }
}
