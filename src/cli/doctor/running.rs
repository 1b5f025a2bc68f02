//! What the running proxy knows and the config does not: credentials that were refused, another
//! version, another key.

use super::{Finding, odd, wrong};
use crate::cli::accounts::again;
use crate::cli::web::Server;
use crate::config::Config;
use crate::http::document;
use crate::report::status::Status;
use crate::report::text;

/// Asks it. Nothing to say is the best news.
pub(super) fn what_it_knows(server: &Server, config: &Config) -> Vec<Finding> {
    let status = match server.json("GET", "/maxpool/status", None) {
        Ok(body) => document::read::<Status>(&body).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match status {
        Ok(status) => of_status(&status, config),
        Err(why) => vec![wrong(
            "proxy",
            format!(
                "{} does not report its status: {why}; was it started with another config?",
                server.base()
            ),
        )],
    }
}

fn of_status(status: &Status, config: &Config) -> Vec<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let mut findings = Vec::new();
    if status.version != own {
        let text = format!(
            "the running proxy is version {}, and this program is {own}; restart the proxy with r \
            in its dashboard or with SIGUSR2",
            text::clean(&status.version, 40)
        );
        findings.push(odd("proxy", text));
    }
    for account in status.accounts.iter().filter(|it| it.status == "error") {
        let said = account
            .blocks
            .iter()
            .filter(|block| block.until.is_none())
            .find_map(|block| block.evidence.as_ref()?.message.as_deref())
            .map(|said| format!(" ({})", text::clean(said, 200)));
        let entry = config.accounts.iter().find(|entry| entry.name == account.name);
        let again = match account.kind.as_str() {
            "oauth" => &entry.map_or_else(|| "sign in again with: maxpool login".to_owned(), again),
            "apikey" => "add a valid key with: maxpool login --api",
            _ => "put a valid authToken into its entry in the config",
        };
        let name = text::name(&account.name);
        let text = format!("{name}: the upstream refuses it{}; {again}", said.unwrap_or_default());
        findings.push(wrong("token", text));
    }
    findings
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
        let block = json!({"text": "needs login", "until": null, "evidence": {"message": "no refresh token"}});
        let status: Status = serde_json::from_value(json!({
            "version": "1.9.0",
            "accounts": [
                {"name": "work", "type": "oauth", "status": "error", "blocks": [block]},
                {"name": "my key", "type": "apikey", "status": "error"},
                {"name": "glm", "type": "provider", "status": "error"},
                {"name": "spare", "type": "oauth", "status": "throttled"},
            ],
        }))
        .unwrap();
        let own = env!("CARGO_PKG_VERSION");
        let found: Vec<(Verdict, String)> = of_status(&status, &config())
            .into_iter()
            .map(|finding| (finding.verdict, finding.text))
            .collect();
        assert_eq!(
            found,
            [
                (
                    Verdict::Odd,
                    format!("the running proxy is version 1.9.0, and this program is {own}; \
                    restart the proxy with r in its dashboard or with SIGUSR2")
                ),
                (
                    Verdict::Wrong,
                    "work: the upstream refuses it (no refresh token); sign in again as me@example.com with: maxpool login".to_owned()
                ),
                (
                    Verdict::Wrong,
                    "\"my key\": the upstream refuses it; add a valid key with: maxpool login --api".to_owned()
                ),
                (
                    Verdict::Wrong,
                    "glm: the upstream refuses it; put a valid authToken into its entry in the config".to_owned()
                ),
            ]
        );
    }
}
