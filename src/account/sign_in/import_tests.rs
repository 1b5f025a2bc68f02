#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::account::http::{HttpFailure, HttpPhase, HttpReply};
use crate::account::oauth::Endpoints;
use crate::config::{Credential, Secret, file};
use crate::scheduler::time::{Now, Wall};
use crate::testing::scratch::Scratch;

fn pair(access: &str, refresh: &str, expires_at: Option<i64>) -> Tokens {
    let token = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
    Tokens { access: token(access), refresh: token(refresh), expires_at: expires_at.map(Wall) }
}

#[test]
fn both_layouts_are_read_and_everything_else_is_refused() {
    let end = Some(1_795_304_700_000);
    for (rule, text, expected) in [
        (
            "T3 Claude Code's layout",
            r#"{"claudeAiOauth":{"accessToken":"a","refreshToken":"r","expiresAt":1795304700000,"scopes":["x"]},"mcpOAuth":{}}"#,
            Ok(pair("a", "r", end)),
        ),
        (
            "T3 flat, seconds",
            r#"{"accessToken":"a","refreshToken":"r","expiresAt":1795304700}"#,
            Ok(pair("a", "r", end)),
        ),
        ("T3 access alone", r#"{"accessToken":"a"}"#, Ok(pair("a", "", None))),
        (
            "T3 refresh alone",
            r#"{"refreshToken":"r","accessToken":"","expiresAt":-1}"#,
            Ok(pair("", "r", None)),
        ),
        (
            "T3 nothing in it",
            r#"{"claudeAiOauth":{}}"#,
            Err("it contains neither accessToken nor refreshToken"),
        ),
        ("T3 no object", r#"{"claudeAiOauth":7}"#, Err("it contains no claudeAiOauth object")),
        (
            "T3 not sendable",
            r#"{"accessToken":"a\nb"}"#,
            Err("accessToken contains characters that no token contains"),
        ),
        ("T3 no JSON", "\nsk-ant-oat01-secret", Err("not JSON (line 2)")),
    ] {
        assert_eq!(tokens_of_text(text), expected.map_err(str::to_owned), "{rule}");
    }
}

struct Shop {
    directory: Scratch,
    profile: std::result::Result<HttpReply, HttpFailure>,
}

impl Shop {
    fn new(profile: &str) -> Shop {
        let reply = HttpReply {
            status: 200,
            headers: Vec::new(),
            body: profile.as_bytes().to_vec(),
            cut: None,
        };
        Shop { directory: Scratch::new(), profile: Ok(reply) }
    }

    /// The result and the messages.
    fn import(&self, source: &ImportSource<'_>, name: Option<&str>) -> (Result<String>, String) {
        let mut said = Vec::new();
        let config = self.directory.path("maxpool.json");
        let endpoints = Endpoints::from_environment(&|_| None);
        let profile = self.profile.clone();
        let mut desk = Desk {
            config: &config,
            http: &move |_| profile.clone(),
            endpoints: &endpoints,
            now: &Now::default,
            out: &mut said,
        };
        let result = import(&mut desk, source, name);
        (result, String::from_utf8(said).unwrap())
    }
}

fn claude_at(variable: &str, directory: &Path) -> Option<ClaudeCode> {
    ClaudeCode::of(|name| (name == variable).then(|| directory.into()))
}

#[test]
fn t3_claude_code_keeps_its_login_where_its_directory_is() {
    let claude = claude_at("CLAUDE_CONFIG_DIR", Path::new("/x/claude")).unwrap();
    assert_eq!(claude.directory, Path::new("/x/claude"));
    // printf %s /x/claude | sha256sum
    assert_eq!(claude.keychain_item, "Claude Code-credentials-ec2ddaa6");
    let claude = claude_at("HOME", Path::new("/home/me")).unwrap();
    assert_eq!(claude.directory, Path::new("/home/me/.claude"));
    assert_eq!(claude.keychain_item, "Claude Code-credentials");
    assert_eq!(claude_at("OTHER", Path::new("/home/me")), None);
    let directory = Scratch::new();
    let claude = claude_at("HOME", &directory.path("")).unwrap();
    assert!(!claude.is_signed_in());
    std::fs::write(directory.path(".claude.json"), r#"{"oauthAccount": {}}"#).unwrap();
    assert!(claude.is_signed_in());
}

#[test]
fn an_import_is_a_copy_with_the_identity_of_the_profile_and_a_warning() {
    let shop = Shop::new(r#"{"account":{"uuid":"u","email":"a@b"},"organization":{"uuid":"o"}}"#);
    let (result, said) =
        shop.import(&ImportSource::Text(r#"{"accessToken":"a","refreshToken":"r"}"#), None);
    assert_eq!(result.unwrap(), "added the account a@b");
    assert_eq!(said, format!("{WARNING}\n"));
    let source = shop.directory.path(".claude/.credentials.json");
    std::fs::create_dir_all(source.parent().unwrap()).unwrap();
    let text =
        r#"{"claudeAiOauth":{"accessToken":"a2","refreshToken":"r2","expiresAt":5000000000000}}"#;
    std::fs::write(&source, text).unwrap();
    let claude = claude_at("HOME", &shop.directory.path("")).unwrap();
    let (result, _) = shop.import(&ImportSource::ClaudeCode(&claude), Some("x"));
    assert_eq!(result.unwrap(), "updated the account a@b, which already existed");
    assert_eq!(std::fs::read_to_string(&source).unwrap(), text, "the source is never written");
    let config = file::load(&shop.directory.path("maxpool.json")).unwrap();
    let Credential::Oauth(oauth) = &config.accounts[0].credential else {
        unreachable!("an import is an OAuth account");
    };
    assert_eq!(oauth.tokens, pair("a2", "r2", Some(5_000_000_000_000)));
    assert_eq!(config.accounts[0].account_uuid.as_deref(), Some("u"));
}

#[test]
fn without_a_profile_the_name_is_what_there_is() {
    let mut shop = Shop::new("");
    shop.profile =
        Err(HttpFailure { phase: HttpPhase::Connect, cause: "no route to a-token".to_owned() });
    let (result, said) =
        shop.import(&ImportSource::Text(r#"{"accessToken":"a-token"}"#), Some("cli"));
    assert_eq!(result.unwrap(), "added the account cli");
    assert!(said.contains("(no route to [hidden])") && !said.contains("a-token"), "{said}");
}

#[test]
fn errors_name_the_source_and_no_token() {
    let shop = Shop::new("{}");
    let missing = shop.directory.path("missing.json");
    let (result, _) = shop.import(&ImportSource::File(&missing), None);
    assert_eq!(
        result.unwrap_err().to_string(),
        format!("cannot read {}: no such file or directory", missing.display())
    );
    let claude = claude_at("HOME", &shop.directory.path("")).unwrap();
    let (result, _) = shop.import(&ImportSource::ClaudeCode(&claude), None);
    assert!(
        result
            .unwrap_err()
            .to_string()
            .ends_with("; sign in with Claude Code first, or give --from PATH")
    );
    let (result, _) = shop.import(&ImportSource::Text("sk-ant-oat01-secret"), None);
    assert_eq!(result.unwrap_err().to_string(), "cannot use the text: not JSON (line 1)");
    assert!(!shop.directory.path("maxpool.json").exists(), "nothing was written");
}
