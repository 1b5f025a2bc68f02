//! The meaning of entries in `accounts` (SPEC A3, A4).

#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::super::Config;
use super::*;

fn read_config(accounts: &str) -> Config {
    Config::parse(&format!("{{\"accounts\": [{accounts}]}}"), Path::new("c.json")).unwrap()
}

fn one(account: &str) -> AccountEntry {
    let config = read_config(account);
    assert_eq!(
        (config.accounts.len(), config.notices.len()),
        (1, 0),
        "{account}: {:?}",
        config.notices
    );
    config.accounts[0].clone()
}

fn names(config: &Config) -> Vec<&str> {
    config.accounts.iter().map(|account| account.name.as_str()).collect()
}

#[test]
fn a3_defaults_of_each_type() {
    let account = one(r#"{"type": "oauth", "accessToken": "t"}"#);
    let tokens = Tokens { access: Some(Secret::new("t")), ..Tokens::default() };
    let claude = AccountEntry {
        name: "account-1".to_owned(),
        credential: Credential::Oauth(OauthCredential { tokens, ..OauthCredential::default() }),
        enabled: true,
        priority: 0,
        profiles: vec!["claude".to_owned(), "all".to_owned()],
        account_uuid: None,
        org_uuid: None,
        source: None,
        provider: "anthropic".to_owned(),
        upstream: None,
        auth_header: None,
        model: None,
        model_map: Vec::new(),
        strip_beta_headers: false,
        limit: AccountLimit::default(),
    };
    assert_eq!(account, claude);
    let account = one(r#"{"type": "apikey", "name": "k", "apiKey": "sk"}"#);
    let api_key = AccountEntry {
        name: "k".to_owned(),
        credential: Credential::ApiKey(Secret::new("sk")),
        ..claude.clone()
    };
    assert_eq!(account, api_key);
    let account =
        one(r#"{"type": "provider", "name": "p", "authToken": "t", "upstream": "http://h/x"}"#);
    let provider = AccountEntry {
        name: "p".to_owned(),
        credential: Credential::Provider(Secret::new("t")),
        priority: 10,
        profiles: vec!["all".to_owned()],
        provider: "custom".to_owned(),
        upstream: BaseUrl::parse("http://h/x"),
        ..claude
    };
    assert_eq!(account, provider);
}

#[test]
fn a3_every_key_is_read() {
    let account = one(
        r#"{"name": "n", "type": "provider", "enabled": false, "priority": -3, "profiles": ["x"], "accountUuid": "u",
            "orgUuid": "o", "accessToken": null, "refreshToken": null, "expiresAt": null, "importFrom": null,
            "source": "s", "apiKey": "unused", "authToken": "t", "provider": "zai", "upstream": "https://h",
            "authHeader": "x-api-key", "model": "m", "modelMap": {"opus": "a", "default": "b"},
            "stripBetaHeaders": true, "limit": {"fiveHour": 0.5, "week": 1}}"#,
    );
    let expected = AccountEntry {
        name: "n".to_owned(),
        credential: Credential::Provider(Secret::new("t")),
        enabled: false,
        priority: -3,
        profiles: vec!["x".to_owned()],
        account_uuid: Some("u".to_owned()),
        org_uuid: Some("o".to_owned()),
        source: Some("s".to_owned()),
        provider: "zai".to_owned(),
        upstream: BaseUrl::parse("https://h"),
        auth_header: Some(AuthHeader::XApiKey),
        model: Some("m".to_owned()),
        model_map: vec![
            ("opus".to_owned(), "a".to_owned()),
            ("default".to_owned(), "b".to_owned()),
        ],
        strip_beta_headers: true,
        limit: AccountLimit { five_hour: Some(0.5), week: Some(1.0) },
    };
    assert_eq!(account, expected);
}

#[test]
fn a3_tokens() {
    let oauth = |text: &str| match one(&format!("{{\"type\": \"oauth\", {text}}}")).credential {
        Credential::Oauth(oauth) => oauth,
        other => unreachable!("{other:?}"),
    };
    let path = |path: &str| Some(ImportFrom::Path(path.into()));
    assert_eq!(oauth(r#""refreshToken": "r""#).tokens.refresh, Some(Secret::new("r")));
    assert_eq!(oauth(r#""importFrom": "~/c.json""#).import_from, path("~/c.json"));
    assert_eq!(oauth(r#""importFrom": {"path": "/c.json"}"#).import_from, path("/c.json"));
    assert_eq!(oauth(r#""importFrom": {"keychain": "x"}"#).import_from, Some(ImportFrom::Other));
    for (rule, text, wall) in [
        ("ms", "1790000000000", Some(1_790_000_000_000)),
        ("below 1e12 is seconds", "1790000000", Some(1_790_000_000_000)),
        ("seconds with a fraction", "1790000000.5", Some(1_790_000_000_500)),
        ("the border", "1000000000000", Some(1_000_000_000_000)),
        ("long ago", "0", Some(0)),
        ("unknown", "null", None),
        ("far", "1e300", Some(i64::MAX)),
    ] {
        let read = oauth(&format!("\"accessToken\": \"t\", \"expiresAt\": {text}"));
        assert_eq!(read.tokens.expires_at, wall.map(Wall), "{rule}");
    }
}

#[test]
fn a3_a_type_that_is_not_named_follows_from_the_credential() {
    for (text, is_it) in [
        (r#"{"accessToken": "t"}"#, "oauth"),
        (r#"{"importFrom": "/c"}"#, "oauth"),
        (r#"{"apiKey": "t"}"#, "apikey"),
        (r#"{"authToken": "t", "upstream": "http://h"}"#, "provider"),
    ] {
        let word = match one(text).credential {
            Credential::Oauth(_) => "oauth",
            Credential::ApiKey(_) => "apikey",
            Credential::Provider(_) => "provider",
        };
        assert_eq!(word, is_it, "{text}");
    }
}

#[test]
fn v1_known_providers_need_no_upstream() {
    for (provider, upstream) in
        [("zai", "https://api.z.ai/api/anthropic"), ("kimi", "https://api.kimi.com/coding")]
    {
        let account =
            one(&format!(r#"{{"type": "provider", "provider": "{provider}", "apiKey": "t"}}"#));
        assert_eq!(account.upstream, BaseUrl::parse(upstream));
    }
}

#[test]
fn a3_an_entry_without_a_usable_credential_is_skipped_with_a_line() {
    for (entry, why) in [
        (r#""type": "oauth""#, "it has no accessToken, no refreshToken and no importFrom"),
        (
            r#""type": "oauth", "accessToken": """#,
            "it has no accessToken, no refreshToken and no importFrom",
        ),
        (r#""apiKey": null"#, "it has no accessToken, no refreshToken and no importFrom"),
        (r#""type": "apikey""#, "it has no apiKey"),
        (
            r#""type": "apikey", "apiKey": "a\nb""#,
            "its apiKey contains characters that cannot be sent in a header",
        ),
        (
            r#""type": "oauth", "accessToken": "ü""#,
            "its accessToken contains characters that cannot be sent in a header",
        ),
        (r#""type": "provider", "authToken": "t""#, "it has no upstream"),
        (r#""type": "provider", "upstream": "http://h""#, "it has no authToken and no apiKey"),
        (
            r#""type": "provider", "upstream": "http://h", "authToken": "a b""#,
            "its authToken contains characters that cannot be sent in a header",
        ),
    ] {
        let config = read_config(&format!(
            r#"{{"name": "bad", {entry}}}, {{"name": "good", "apiKey": "k"}}"#
        ));
        assert_eq!(names(&config), ["good"], "{entry}");
        assert_eq!(config.notices, [format!("accounts[0] \"bad\" is skipped: {why}")], "{entry}");
    }
}

#[test]
fn a3_wrong_types_name_entry_and_key() {
    for (entry, error) in [
        (
            r#""type": "api""#,
            "type: expected \"oauth\" or \"apikey\" or \"provider\", found another string",
        ),
        (r#""name": 5"#, "name: expected a string, found 5"),
        (r#""accessToken": 5"#, "accessToken: expected a string, found 5"),
        (r#""priority": "1""#, "priority: expected a whole number, found a string"),
        (r#""priority": 1.5"#, "priority: expected a whole number, found 1.5"),
        (r#""profiles": "all""#, "profiles: expected a list of strings, found a string"),
        (r#""profiles": [1]"#, "profiles: expected a list of strings, found a list"),
        (
            r#""expiresAt": "soon""#,
            "expiresAt: expected a time in ms since 1970, 0 or more, found a string",
        ),
        (r#""expiresAt": -1"#, "expiresAt: expected a time in ms since 1970, 0 or more, found -1"),
        (
            r#""modelMap": {"opus": 1}"#,
            "modelMap: expected an object of strings, from a model or family to a model, found an \
             object",
        ),
        (
            r#""authHeader": "cookie""#,
            "authHeader: expected \"authorization\" or \"x-api-key\", found another string",
        ),
        (
            r#""stripBetaHeaders": "yes""#,
            "stripBetaHeaders: expected true or false, found a string",
        ),
        (r#""limit": 0.5"#, "limit: expected an object, found 0.5"),
        (r#""limit": {"week": 80}"#, "limit.week: expected a number from 0 to 1, found 80"),
        (r#""enabled": null"#, "enabled: expected true or false, found null"),
    ] {
        let text = format!("{{\"accounts\": [{{}},\n{{\n{entry}}}]}}");
        let found = Config::parse(&text, Path::new("c.json")).unwrap_err().to_string();
        assert_eq!(found, format!("c.json:3: accounts[1].{error}"));
    }
}

#[test]
fn a4_of_two_entries_for_one_account_the_later_stays() {
    let config = read_config(
        r#"{"name": "a", "accountUuid": "u1", "apiKey": "1"}, {"name": "b", "apiKey": "2"},
           {"name": "c", "accountUuid": "u1", "apiKey": "3"}, {"name": "b", "apiKey": "4"}"#,
    );
    assert_eq!(names(&config), ["c", "b"]);
    assert_eq!(config.accounts[1].credential, Credential::ApiKey(Secret::new("4")));
    assert_eq!(
        config.notices,
        [
            "accounts[0] \"a\" is the same account as accounts[2] \"c\": the later one is used",
            "accounts[1] \"b\" is the same account as accounts[3] \"b\": the later one is used",
        ]
    );
}

#[test]
fn a4_an_entry_that_cannot_be_used_displaces_none() {
    let config = read_config(r#"{"name": "a", "apiKey": "1"}, {"name": "a", "type": "apikey"}"#);
    assert_eq!(names(&config), ["a"]);
}

#[test]
fn a4_a_second_account_with_a_taken_name_is_renamed() {
    let config = read_config(
        r#"{"name": "a", "accountUuid": "u1", "apiKey": "1"}, {"name": "a", "accountUuid": "u2", "apiKey": "2"},
           {"name": "a-2", "accountUuid": "u3", "apiKey": "3"}, {"name": "a", "accountUuid": "u4", "apiKey": "4"}"#,
    );
    assert_eq!(names(&config), ["a", "a-3", "a-2", "a-4"]);
    assert_eq!(
        config.notices[0],
        "accounts[1]: another account has the name \"a\" too, so this one is called \"a-3\""
    );
}
