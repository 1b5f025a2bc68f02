//! Removes credentials from what is shown: recordings, log lines, and upstream messages in the
//! status (D4).
//!
//! Our own secrets are found by value first, see [`masking`]. Secrets that were never ours, such as
//! the token of a client's own login, are found by name in headers, and by shape and by key in
//! text, because a truncated body is not valid JSON any more.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::config::masking::{self, MASK};

/// Prefixes of all keys and tokens of the API.
const TOKEN_MARKS: [&str; 2] = ["sk-ant-", "mp-"];
/// Shortest text after a prefix that is taken for a token.
const TOKEN_REST_MIN: usize = 8;

/// The separator between a URL's scheme and its host.
const SCHEME_END: &str = "://";

/// Keys in JSON, forms and environments whose values are secrets, in lower case.
const SECRET_KEYS: [&str; 14] = [
    "access_token",
    "accesstoken",
    "refresh_token",
    "refreshtoken",
    "id_token",
    "code_verifier",
    "client_secret",
    "apikey",
    "api_key",
    "api-key",
    "authtoken",
    "auth_token",
    "authorization",
    "password",
];

/// Whether a header's value is never shown. Limits such as `anthropic-ratelimit-tokens-remaining`
/// are not secrets.
pub(crate) fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = ["-token", "-key", "-secret", "-password", "-credential", "-credentials"];
    name.contains("authorization")
        || name.contains("cookie")
        || ends.iter().any(|end| name.ends_with(end))
        || matches!(
            name.as_str(),
            "token" | "key" | "secret" | "password" | "x-api-key" | "api-key" | "apikey"
        )
}

/// The text without tokens, without the values of secret keys, and without the `code` of a login.
pub(crate) fn mask(text: &str) -> Cow<'_, str> {
    let mut text = masking::text(text);
    if FINDERS.marks.iter().any(|mark| mark.find(text.as_bytes()).is_some()) {
        text = Cow::Owned(without_tokens(&text));
    }
    let mut small = text.to_ascii_lowercase();
    for (finder, key) in FINDERS.keys.iter().zip(SECRET_KEYS) {
        if finder.find(small.as_bytes()).is_some() {
            text = Cow::Owned(without_values(&text, key));
            small = text.to_ascii_lowercase();
        }
    }
    if FINDERS.scheme.find(text.as_bytes()).is_some() {
        text = Cow::Owned(without_user_info(&text));
    }
    // `code` is a common word; it is a credential only next to a grant.
    if FINDERS.grant.find(text.as_bytes()).is_some() {
        text = Cow::Owned(without_values(&text, "code"));
    }
    text
}

/// Searchers for everything that may need masking. They are built once, because every line of the
/// log is searched.
struct Finders {
    marks: [Finder<'static>; TOKEN_MARKS.len()],
    keys: [Finder<'static>; SECRET_KEYS.len()],
    grant: Finder<'static>,
    scheme: Finder<'static>,
}

static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    marks: TOKEN_MARKS.map(Finder::new),
    keys: SECRET_KEYS.map(Finder::new),
    grant: Finder::new("authorization_code"),
    scheme: Finder::new(SCHEME_END),
});

/// Removes what precedes the host of a URL: a name and a password, or a token.
fn without_user_info(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(SCHEME_END) {
        let (before, host) = rest.split_at(at + SCHEME_END.len());
        out.push_str(before);
        let ends = |letter: char| letter.is_whitespace() || "/?#\"'<>\\`,;".contains(letter);
        let length = host.find(ends).unwrap_or(host.len());
        rest = match host[..length].rfind('@') {
            Some(at) => {
                out.push_str(MASK);
                &host[at..]
            }
            None => host,
        };
    }
    out.push_str(rest);
    out
}

fn without_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Each step continues after the text it has examined, so the search is linear in any text.
    while let Some(at) = rest.find(['s', 'm']) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let length = token_length(found).filter(|_| !ends_in_a_word(&out));
        match length {
            Some(length) => {
                out.push_str(MASK);
                rest = &found[length..];
            }
            None => {
                out.push_str(&found[..1]);
                rest = &found[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Whether the text ends in the middle of a word; the letters of an escape such as `\n`, `\u0022`
/// or `%22` do not count.
fn ends_in_a_word(text: &str) -> bool {
    let is_hex = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_hexdigit);
    if let Some([b'\\', b'u', digits @ ..]) = text.as_bytes().last_chunk::<6>()
        && is_hex(digits)
    {
        return false;
    }
    match text.as_bytes() {
        [.., b'\\', b'b' | b'f' | b'n' | b'r' | b't'] => false,
        [.., b'%', high, low] if is_hex(&[*high, *low]) => false,
        [.., last] => last.is_ascii_alphanumeric(),
        [] => false,
    }
}

/// The length of the token at the start of `text`, if there is one.
fn token_length(text: &str) -> Option<usize> {
    let mark = TOKEN_MARKS.iter().find(|mark| text.starts_with(**mark))?;
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let rest = text.bytes().skip(mark.len()).take_while(|byte| is_part(byte)).count();
    (rest >= TOKEN_REST_MIN).then_some(mark.len() + rest)
}

/// The position of `key` in the text, ignoring case.
fn find_key(text: &str, key: &str) -> Option<usize> {
    let (text, key) = (text.as_bytes(), key.as_bytes());
    let (small, large) = (key[0], key[0].to_ascii_uppercase());
    memchr::memchr2_iter(small, large, text)
        .find(|&at| text.get(at..at + key.len()).is_some_and(|part| part.eq_ignore_ascii_case(key)))
}

/// Masks what follows `key`: `"key": "…"`, the same inside another string, or `key=…` in a form.
fn without_values(text: &str, key: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find_key(rest, key) {
        let (before, found) = rest.split_at(at);
        let (name, after) = found.split_at(key.len());
        out.push_str(before);
        let is_in_a_word = ends_in_a_word(&out);
        out.push_str(name);
        rest = after;
        if !is_in_a_word && let Some((skipped, value)) = value_of(after) {
            out.push_str(&after[..skipped]);
            out.push_str(MASK);
            rest = &after[skipped + value..];
        }
    }
    out.push_str(rest);
    out
}

/// Start and length of the value after a key; `None` if no value follows.
fn value_of(after: &str) -> Option<(usize, usize)> {
    let quotes = after.len() - after.trim_start_matches(['\\', '"', '\'']).len();
    let spaced = after[quotes..].trim_start();
    let separator = spaced.chars().next().filter(|c| matches!(c, ':' | '='))?;
    let value = spaced[1..].trim_start();
    let opened = value.trim_start_matches(['\\', '"', '\'']);
    let begin = after.len() - opened.len();
    let is_quoted = opened.len() < value.len();
    if separator == ':' && quotes > 0 && !is_quoted {
        // null, a number or an object: nothing to mask.
        return None;
    }
    let ends = |c: char| match is_quoted {
        true => matches!(c, '"' | '\'' | '\\'),
        false => matches!(c, '&' | '"' | '\'' | ',' | ';') || c.is_whitespace(),
    };
    let scheme = SCHEMES.iter().find(|scheme| {
        opened.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    });
    let scheme = scheme.map_or(0, |scheme| scheme.len());
    let length = scheme + opened[scheme..].find(ends).unwrap_or(opened.len() - scheme);
    (length > 0).then_some((begin, length))
}

/// Schemes before the credential in `Authorization`.
const SCHEMES: [&str; 2] = ["bearer ", "basic "];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_hold_secrets() {
        for name in [
            "Authorization",
            "proxy-authorization",
            "x-api-key",
            "X-Api-Key",
            "cookie",
            "Set-Cookie",
            "x-maxpool-zai-token",
            "x-teamclaude-kimi-token",
            "x-auth-token",
        ] {
            assert!(is_secret_header(name), "{name}");
        }
        for name in [
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-input-tokens-limit",
            "anthropic-beta",
            "request-id",
            "host",
            "x-maxpool-session",
        ] {
            assert!(!is_secret_header(name), "{name}");
        }
    }

    #[test]
    fn secrets_in_text() {
        for (text, shown) in [
            ("a sk-ant-api03-abcDEF_123-xyz b", "a [masked] b"),
            ("\"sk-ant-oat01-abcdefgh\"", "\"[masked]\""),
            ("sk-ant- and sk-ant-abc stay", "sk-ant- and sk-ant-abc stay"),
            ("camp-meeting2026", "camp-meeting2026"),
            ("key mp-0123456789abcdef", "key [masked]"),
            (
                "{\n  \"refresh_token\": \"r-1\",\n  \"grant_type\": \"refresh_token\"\n}",
                "{\n  \"refresh_token\": \"[masked]\",\n  \"grant_type\": \"refresh_token\"\n}",
            ),
            ("{\"access_token\":\"cut o", "{\"access_token\":\"[masked]"),
            (
                "grant_type=refresh_token&refresh_token=abc&x=1",
                "grant_type=refresh_token&refresh_token=[masked]&x=1",
            ),
            ("{\"expires\":1,\"access_token\":null}", "{\"expires\":1,\"access_token\":null}"),
            ("the access_token is stale", "the access_token is stale"),
            (
                "{\"grant_type\":\"authorization_code\",\"code\":\"c1\",\"state\":\"s\"}",
                "{\"grant_type\":\"authorization_code\",\"code\":\"[masked]\",\"state\":\"s\"}",
            ),
            ("{\"code\":\"fn main() {}\"}", "{\"code\":\"fn main() {}\"}"),
            (
                "{\\\"apiKey\\\":\\\"k1\\\",\\\"n\\\":1}",
                "{\\\"apiKey\\\":\\\"[masked]\\\",\\\"n\\\":1}",
            ),
            ("my_password_hint: \"x\"", "my_password_hint: \"x\""),
            ("{\"x-api-key\": \"k1\"}", "{\"x-api-key\": \"[masked]\"}"),
            (
                "{\"Authorization\":\"Bearer k1 k2\",\"n\":1}",
                "{\"Authorization\":\"[masked]\",\"n\":1}",
            ),
            ("Authorization: Bearer k1, next", "Authorization: [masked], next"),
            ("AUTHORIZATION=basic k1&b=2", "AUTHORIZATION=[masked]&b=2"),
            ("export REFRESH_TOKEN=r1 A=b", "export REFRESH_TOKEN=[masked] A=b"),
            ("MY_ANTHROPIC_API_KEY='k1'", "MY_ANTHROPIC_API_KEY='[masked]'"),
            ("a\\nsk-ant-api03-abcdefgh", "a\\n[masked]"),
            ("a%22sk-ant-api03-abcdefgh%22", "a%22[masked]%22"),
            ("a\\u0022mp-0123456789abcdef", "a\\u0022[masked]"),
            ("the authorization of the request", "the authorization of the request"),
            ("max_tokens: 5, total_tokens=3", "max_tokens: 5, total_tokens=3"),
            ("工作 \"password\" : \"密码\" 工作", "工作 \"password\" : \"[masked]\" 工作"),
            ("at https://bob:pw@host:1/x?y, or", "at https://[masked]@host:1/x?y, or"),
            ("\"http://t0k3n@host\" http://b:p@q@h", "\"http://[masked]@host\" http://[masked]@h"),
            ("http://host/a@b https://h?c@d", "http://host/a@b https://h?c@d"),
            ("", ""),
        ] {
            assert_eq!(mask(text), shown);
        }
    }

    #[test]
    fn every_key_and_every_mark_is_known() {
        for key in SECRET_KEYS {
            let text = format!("{key}=x1");
            assert_eq!(mask(&text), format!("{key}=[masked]"));
        }
        for mark in TOKEN_MARKS {
            let text = format!("{mark}01234567");
            assert_eq!(mask(&text), "[masked]");
        }
    }

    #[test]
    fn no_text_makes_it_slow() {
        // Quadratic work on this much text would take half a minute.
        for piece in ["mp-", "sk-ant-", "password ", "\"password\":", "s", "\\\"'", "://a@", "://"]
        {
            let text = piece.repeat(200_000 / piece.len());
            assert!(!mask(&text).is_empty());
        }
    }
}
