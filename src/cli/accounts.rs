//! `accounts`: the configured accounts and the state of their tokens. Changes nothing and refreshes
//! nothing.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use super::args::AccountsView;
use super::out::Paint;
use super::table::{Room, table};
use super::web::{self, Presence, Server};
use crate::account::http::Http;
use crate::account::oauth::{self, Endpoints};
use crate::account::sources::{self, Sources};
use crate::clock::{self, human};
use crate::config::custody::Digest;
use crate::config::state::{self, State};
use crate::config::{AccountEntry, Config, Credential, OauthCredential, Secret, Tokens};
use crate::error::Result;
use crate::http::document;
use crate::report::screen::width;
use crate::report::status::Status;
use crate::report::text;
use crate::scheduler::time::Wall;

/// Profiles read at the same time: enough to be quick, few enough not to look like a flood.
const AT_ONCE: usize = 4;

/// `accounts`.
pub(super) fn list(context: &mut Context<'_>, view: AccountsView) -> Result<()> {
    let config = context.config()?;
    if view == AccountsView::Names {
        names(context, &config);
        return Ok(());
    }
    let (verbose, as_json) = (view == AccountsView::Verbose, view == AccountsView::Json);
    for notice in &config.notices {
        context.out.remark(&format!("maxpool: {notice}"));
    }
    if config.accounts.is_empty() && !as_json {
        context.out.line("no accounts");
        context.out.remark("Add one with: maxpool login");
        return Ok(());
    }
    remark_sources(context, &config);
    let now = clock::wall();
    let tiers = tiers(context, &config, now);
    // What a server has learned; a missing file is an empty state.
    let (known, _) = state::load(&state::path(&context.config_path()?));
    let live = live_states(&config);
    let state = |account: &AccountEntry| {
        let live = live.iter().find(|(name, _)| *name == account.name);
        live.map_or_else(|| word_of(account, now, &known).to_owned(), |(_, state)| state.clone())
    };
    if as_json {
        let accounts = config
            .accounts
            .iter()
            .zip(&tiers)
            .map(|(account, tier)| json_of(account, tier.as_deref(), &state(account), &known));
        let accounts = Value::Array(accounts.collect());
        context.out.line(&json!({ "accounts": accounts }).to_string());
        return Ok(());
    }
    let mut heading = vec!["NAME", "TYPE", "TIER", "TOKEN", "PRIORITY", "PROFILES"];
    if verbose {
        heading.extend(["EXPIRES", "REFRESHED"]);
    }
    let mut rows: Vec<Vec<String>> = config
        .accounts
        .iter()
        .zip(&tiers)
        .map(|(account, tier)| {
            let state = with_near_end(state(account), account, now);
            let mut row = row(account, tier.as_deref(), state);
            if verbose {
                row.extend([expires(account, now), refreshed(account, now, &known)]);
            }
            row
        })
        .collect();
    if verbose {
        make_room(&mut heading, &mut rows, context.out.room());
    }
    let lines = table(&heading, &rows, context.out.room());
    let head = context.out.paint(Paint::Strong, &lines[0]);
    context.out.line(&head);
    for line in &lines[1..] {
        context.out.line(line);
    }
    Ok(())
}

/// Leaves out the profiles if there is too little room for the times that `-v` asks for; the plain
/// list shows the profiles.
fn make_room(heading: &mut Vec<&str>, rows: &mut [Vec<String>], room: Room) {
    let is_too_wide = |room| table(heading, rows, None).iter().any(|line| width::of(line) > room);
    if !room.is_some_and(is_too_wide) {
        return;
    }
    heading.remove(PROFILES);
    for row in rows {
        row.remove(PROFILES);
    }
}

/// The column of the profiles.
const PROFILES: usize = 5;

/// The names alone, for completions.
fn names(context: &mut Context<'_>, config: &Config) {
    let names = config.accounts.iter().map(|account| account.name.as_str());
    // A name that a shell would split into lines cannot be completed.
    for name in names.filter(|name| !name.chars().any(char::is_control)) {
        context.out.line(name);
    }
}

/// Reports each `importFrom` that cannot be read.
fn remark_sources(context: &mut Context<'_>, config: &Config) {
    let home = (context.variable)("HOME").map(PathBuf::from);
    let read = Sources::default();
    for account in &config.accounts {
        if let Some(problem) = sources::problem_of(&read, account, home.as_deref()) {
            context.out.remark(&format!("maxpool: {}: {problem}", text::name(&account.name)));
        }
    }
}

/// Adds the expiry to the state of a token that cannot be renewed, if it is near.
fn with_near_end(state: String, account: &AccountEntry, now: Wall) -> String {
    match ends_within_month(account, now) {
        Some(left) if state == Token::Valid.word() => {
            format!("{state}, expires in {}", human(left))
        }
        Some(_) | None => state,
    }
}

/// What the running server knows about credentials beyond the config: that they were refused, or
/// are only in memory. Empty without a server.
fn live_states(config: &Config) -> Vec<(String, String)> {
    let server = Server::of(config).ok().filter(|server| server.presence() == Presence::Running);
    let body = server.and_then(|server| server.json("GET", "/maxpool/status", None).ok());
    let status: Option<Status> = body.and_then(|body| document::read(&body).ok());
    let accounts = status.map(|status| status.accounts).unwrap_or_default();
    let states = accounts.into_iter().filter_map(|account| {
        let state = account.credential?.state;
        // The config itself provides the other states, and more recent ones.
        matches!(state.as_str(), "needs login" | "refused" | "in memory only")
            .then_some((account.name, state))
    });
    states.collect()
}

fn row(account: &AccountEntry, tier: Option<&str>, state: String) -> Vec<String> {
    let mut name = text::name(&account.name);
    if !account.enabled {
        name.push_str(" (disabled)");
    }
    vec![
        name,
        type_of(account).to_owned(),
        tier.unwrap_or("-").to_owned(),
        state,
        account.priority.to_string(),
        text::clean(&account.profiles.join(","), 60),
    ]
}

/// The state of the account's credential.
fn word_of(account: &AccountEntry, now: Wall, known: &State) -> &'static str {
    if is_dead(account, known, now) { "needs login" } else { Token::of(account, now).word() }
}

/// Whether it is a login whose access token has expired, and whose refresh token is used up or was
/// refused.
pub(super) fn is_dead(account: &AccountEntry, known: &State, now: Wall) -> bool {
    let Credential::Oauth(oauth) = &account.credential else {
        return false;
    };
    let known = known.tokens_of(&account.identity());
    let cannot_renew = oauth.tokens.refresh.as_ref().is_some_and(|refresh| {
        let digest = Digest::of(refresh);
        oauth.spent.has(Some(refresh))
            || known.is_some_and(|known| {
                known.refused.as_deref() == Some(digest.as_str())
                    || known.spent.iter().any(|spent| spent == digest.as_str())
            })
    });
    cannot_renew && Token::of(account, now) == Token::Renewable
}

/// `3h 12m ago`.
fn refreshed(account: &AccountEntry, now: Wall, known: &State) -> String {
    let at = known.tokens_of(&account.identity()).and_then(|tokens| tokens.refreshed_at);
    at.map_or_else(|| "-".to_owned(), |at| format!("{} ago", human(Wall(at).until(now))))
}

/// `expires in 3h 12m`, or how long ago.
fn expires(account: &AccountEntry, now: Wall) -> String {
    let Credential::Oauth(OauthCredential { tokens: Tokens { expires_at: Some(at), .. }, .. }) =
        &account.credential
    else {
        return "-".to_owned();
    };
    if *at > now {
        format!("expires in {}", human(now.until(*at)))
    } else {
        format!("expired {} ago", human(at.until(now)))
    }
}

fn json_of(account: &AccountEntry, tier: Option<&str>, state: &str, known: &State) -> Value {
    let tokens = match &account.credential {
        Credential::Oauth(oauth) => Some(&oauth.tokens),
        Credential::ApiKey(_) | Credential::Provider(_) => None,
    };
    json!({
        "name": account.name,
        "type": type_of(account),
        "provider": account.provider,
        "enabled": account.enabled,
        "priority": account.priority,
        "profiles": account.profiles,
        "tier": tier,
        "token": {
            "state": state,
            "expiresAt": tokens.and_then(|tokens| tokens.expires_at).map(clock::iso),
            "refreshedAt": known
                .tokens_of(&account.identity())
                .and_then(|tokens| tokens.refreshed_at)
                .map(|at| clock::iso(Wall(at))),
            "renewable": tokens.is_some_and(|tokens| tokens.refresh.is_some()),
        },
        "accountUuid": account.account_uuid,
        "orgUuid": account.org_uuid,
        "upstream": account.upstream.as_ref().map(|upstream| upstream.as_str()),
        "source": account.source,
    })
}

fn type_of(account: &AccountEntry) -> &'static str {
    match account.credential {
        Credential::Oauth(_) => "oauth",
        Credential::ApiKey(_) => "apikey",
        Credential::Provider(_) => "provider",
    }
}

/// The state of a credential as far as the config tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A key, which does not expire.
    Key,
    /// Not expired, or without an expiry time.
    Valid,
    /// Expired; the next request refreshes it.
    Renewable,
    /// Expired, and cannot be refreshed.
    Expired,
    /// Read from another program's file when the server starts.
    Imported,
}

impl Token {
    /// The state at `now`.
    pub(super) fn of(account: &AccountEntry, now: Wall) -> Token {
        let OauthCredential { tokens, import_from, .. } = match &account.credential {
            Credential::ApiKey(_) | Credential::Provider(_) => return Token::Key,
            Credential::Oauth(oauth) => oauth,
        };
        let is_current = tokens.access.is_some() && tokens.expires_at.is_none_or(|at| at > now);
        match (is_current, tokens.refresh.is_some(), import_from.is_some()) {
            (true, _, _) => Token::Valid,
            (false, _, true) => Token::Imported,
            (false, true, false) => Token::Renewable,
            (false, false, false) => Token::Expired,
        }
    }

    /// The word for people and scripts.
    pub(super) fn word(self) -> &'static str {
        match self {
            Token::Key => "key",
            Token::Valid => "valid",
            Token::Renewable => "renews on use",
            Token::Expired => "needs login",
            Token::Imported => "imported on use",
        }
    }
}

/// Time left of a token that cannot be renewed, if it is near its end (SPEC T4).
pub(super) fn ends_within_month(account: &AccountEntry, now: Wall) -> Option<Duration> {
    let Credential::Oauth(OauthCredential { tokens, import_from: None, .. }) = &account.credential
    else {
        return None;
    };
    let end = tokens.expires_at.filter(|end| *end > now && tokens.refresh.is_none())?;
    Some(now.until(end)).filter(|left| *left <= ENDS_SOON)
}

/// How long before its end a token is mentioned (SPEC T4).
const ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);

/// How to sign in again, and with which e-mail.
pub(super) fn again(account: &AccountEntry) -> String {
    let email = account.email().map(|email| format!(" as {}", text::clean(email, 80)));
    let option = match account.source.as_deref() {
        Some(source) if source.starts_with("login --token") => " --token",
        Some(_) | None => "",
    };
    format!("sign in again{} with: maxpool login{option}", email.unwrap_or_default())
}

/// The tier of each account from its profile: `unknown` if it cannot be read, `None` for accounts
/// without one.
fn tiers(context: &Context<'_>, config: &Config, now: Wall) -> Vec<Option<String>> {
    let text = |name: &str| (context.variable)(name).and_then(|value| value.into_string().ok());
    let endpoints = Endpoints::from_environment(&text);
    let http = web::http(context, config).ok();
    let tier = |account: &AccountEntry| -> Option<String> {
        let Credential::Oauth(oauth) = &account.credential else {
            return None;
        };
        let token =
            oauth.tokens.access.as_ref().filter(|_| Token::of(account, now) == Token::Valid);
        let read = |(http, token): (&Http, &Secret)| oauth::profile(http, &endpoints, token).ok();
        let profile = http.as_deref().zip(token).and_then(read);
        Some(profile.map_or("unknown", |profile| profile.tier.word()).to_owned())
    };
    let mut tiers = Vec::with_capacity(config.accounts.len());
    for group in config.accounts.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let reading: Vec<_> =
                group.iter().map(|account| scope.spawn(|| tier(account))).collect();
            tiers.extend(reading.into_iter().map(|reading| reading.join().unwrap_or_default()));
        });
    }
    tiers
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ffi::OsString;

    use super::*;
    use crate::testing::scratch::Scratch;

    fn listed(config: &str, view: AccountsView) -> (String, String) {
        let scratch = Scratch::new();
        let file = scratch.path("c.json");
        std::fs::write(&file, config).unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let variable = |name: &str| match name {
            "MAXPOOL_CONFIG" => Some(OsString::from(&file)),
            // Nothing listens on port 1, so no profile can be read.
            "MAXPOOL_OAUTH_PROFILE_ENDPOINT" => Some("http://127.0.0.1:1/".into()),
            _ => None,
        };
        list(&mut Context::for_tests(&mut stdout, &mut stderr, &variable), view).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), config, "nothing is changed");
        assert_eq!(scratch.names(), ["c.json"]);
        (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// Nothing listens on port 1, so there is no server to ask.
    const ACCOUNTS: &str = r#"{"proxy": {"port": 1}, "accounts": [
        {"name": "work", "type": "oauth", "accessToken": "SECRET", "expiresAt": 9999999999999},
        {"name": "my key", "type": "apikey", "apiKey": "SECRET", "priority": 3, "enabled": false},
        {"name": "glm", "type": "provider", "provider": "zai", "authToken": "SECRET"},
        {"name": "old", "type": "oauth", "accessToken": "SECRET", "refreshToken": "SECRET", "expiresAt": 1},
        {"name": "lost", "type": "oauth"}]}"#;

    #[test]
    fn accounts_are_listed_with_token_state_and_tier() {
        let (stdout, stderr) = listed(ACCOUNTS, AccountsView::Text);
        assert_eq!(
            stdout,
            "NAME                 TYPE      TIER     TOKEN          PRIORITY  PROFILES\n\
             work                 oauth     unknown  valid          0         claude,all\n\
             \"my key\" (disabled)  apikey    -        key            3         claude,all\n\
             glm                  provider  -        key            10        all\n\
             old                  oauth     unknown  renews on use  0         claude,all\n"
        );
        assert_eq!(
            stderr,
            "maxpool: accounts[4] \"lost\" is skipped: it has no accessToken, no refreshToken and no importFrom\n"
        );
    }

    #[test]
    fn the_end_of_a_token_that_nothing_renews_is_shown_thirty_days_ahead() {
        let day = 86_400_000;
        for (days, refresh, shown) in [
            (20, "", "valid, expires in "),
            (31, "", "valid  "),
            (20, r#""refreshToken": "SECRET","#, "valid  "),
        ] {
            let end = clock::wall().0 + days * day;
            let config = format!(
                r#"{{"proxy": {{"port": 1}}, "accounts": [{{"name": "a", "type": "oauth",
                    "accessToken": "SECRET", {refresh} "expiresAt": {end}}}]}}"#
            );
            let (stdout, _) = listed(&config, AccountsView::Text);
            assert!(stdout.contains(shown), "{days}: {stdout}");
        }
    }

    #[test]
    fn verbose_says_when_tokens_expire() {
        let (stdout, _) = listed(ACCOUNTS, AccountsView::Verbose);
        assert!(stdout.contains("valid          0         claude,all  expires in "), "{stdout}");
        assert!(
            stdout.contains("renews on use  0         claude,all  expired ")
                && stdout.contains(" ago"),
            "{stdout}"
        );
    }

    #[test]
    fn a_narrow_terminal_shows_times_rather_than_profiles() {
        let row = ["work", "oauth", "Max", "valid", "0", "claude,all", "expires in 8h", "2h ago"];
        let mut heading = vec!["N", "TYPE", "TIER", "TOKEN", "PRIO", "PROFILES", "EXPIRES", "R"];
        let mut rows = vec![row.map(str::to_owned).to_vec()];
        make_room(&mut heading, &mut rows, Some(65));
        assert_eq!(heading.len(), 8, "it fits");
        make_room(&mut heading, &mut rows, Some(60));
        assert_eq!(
            table(&heading, &rows, Some(60)),
            [
                "N     TYPE   TIER  TOKEN  PRIO  EXPIRES        R",
                "work  oauth  Max   valid  0     expires in 8h  2h ago"
            ]
        );
    }

    #[test]
    fn json_holds_the_same_and_no_credential() {
        let (stdout, _) = listed(ACCOUNTS, AccountsView::Json);
        let document: Value = serde_json::from_str(&stdout).unwrap();
        let work = &document["accounts"][0];
        assert_eq!((&work["name"], &work["tier"]), (&json!("work"), &json!("unknown")));
        assert_eq!(
            work["token"],
            json!({"state": "valid", "expiresAt": "2286-11-20T17:46:39.999Z", "refreshedAt": null, "renewable": false})
        );
        assert_eq!(document["accounts"].as_array().unwrap().len(), 4);
        assert!(!stdout.contains("SECRET"));
    }

    #[test]
    fn no_accounts_is_no_failure() {
        assert_eq!(listed(r#"{"proxy": {"port": 1}}"#, AccountsView::Text).0, "no accounts\n");
        assert_eq!(
            listed(r#"{"proxy": {"port": 1}}"#, AccountsView::Json).0,
            "{\"accounts\":[]}\n"
        );
    }
}
