//! The entries of `accounts` (SPEC A3), and which of them count (SPEC A4).

use std::path::PathBuf;

use serde_json::Value;

use super::custody::{Previous, Spent};
use super::identity::free_name;
use super::reader::Section;
use super::{
    AccountEntry, AuthHeader, BaseUrl, Credential, ImportFrom, OauthCredential, Secret, Tokens,
};
use crate::scheduler::AccountLimit;
use crate::scheduler::time::Wall;

/// A usable entry and its position in the file, which is good only for the document that was read.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) index: usize,
    pub(super) entry: AccountEntry,
}

impl Placed {
    fn refresh(&self) -> Option<&Secret> {
        match &self.entry.credential {
            Credential::Oauth(oauth) => oauth.tokens.refresh.as_ref(),
            Credential::ApiKey(_) | Credential::Provider(_) => None,
        }
    }
}

/// The usable entries, each identity and each name once. Notices say what was left out or renamed.
pub(super) fn read(root: &Section<'_>) -> Vec<Placed> {
    let read = root.list("accounts", |index, section| {
        entry(section, index).map(|entry| Placed { index, entry })
    });
    let usable = read.into_iter().flatten().collect();
    let placed = without_shared_tokens(root, without_repeats(root, usable));
    with_own_names(root, placed)
}

/// Two entries of different identities with one refresh token are one account: both would redeem
/// it, and the second time would revoke the grant (SPEC T3).
fn without_shared_tokens(root: &Section<'_>, placed: Vec<Placed>) -> Vec<Placed> {
    let mut kept: Vec<Placed> = Vec::with_capacity(placed.len());
    for later in placed {
        let shares = |earlier: &&Placed| {
            let refresh = later.refresh();
            refresh.is_some() && refresh == earlier.refresh()
        };
        match kept.iter().find(shares) {
            Some(earlier) => root.notice(format!(
                "accounts[{}] {:?} is skipped: it has the refresh token of accounts[{}] {:?}, \
                 which can be used only once; log in to one of the two again with `maxpool login`",
                later.index, later.entry.name, earlier.index, earlier.entry.name
            )),
            None => kept.push(later),
        }
    }
    kept
}

/// Of two entries for the same account the later one stays.
fn without_repeats(root: &Section<'_>, placed: Vec<Placed>) -> Vec<Placed> {
    let mut kept: Vec<Placed> = Vec::with_capacity(placed.len());
    for later in placed {
        kept.retain(|earlier| {
            let repeats = earlier.entry.identity().is_same(&later.entry.identity());
            if repeats {
                root.notice(format!(
                    "accounts[{}] {:?} is the same account as accounts[{}] {:?}: the later one is \
                     used",
                    earlier.index, earlier.entry.name, later.index, later.entry.name
                ));
            }
            !repeats
        });
        kept.push(later);
    }
    kept
}

/// A later account with a taken name gets another one.
fn with_own_names(root: &Section<'_>, mut placed: Vec<Placed>) -> Vec<Placed> {
    for position in 1..placed.len() {
        let (earlier, rest) = placed.split_at(position);
        let has =
            |placed: &[Placed], name: &str| placed.iter().any(|other| other.entry.name == name);
        if has(earlier, &rest[0].entry.name) {
            // A name that a later entry has in the file stays with that entry.
            let name =
                free_name(&rest[0].entry.name, None, |name| has(earlier, name) || has(rest, name));
            root.notice(format!(
                "accounts[{}]: another account has the name {:?} too, so this one is called \
                 {name:?}",
                rest[0].index, rest[0].entry.name
            ));
            placed[position].entry.name = name;
        }
    }
    placed
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Oauth,
    ApiKey,
    Provider,
}

/// One entry; `None` if it has no usable credential, and a notice says so.
fn entry(section: &Section<'_>, index: usize) -> Option<AccountEntry> {
    let name = section.text_if_any("name").unwrap_or_else(|| format!("account-{}", index + 1));
    let keys = Keys::read(section);
    let kinds = [("oauth", Kind::Oauth), ("apikey", Kind::ApiKey), ("provider", Kind::Provider)];
    let kind = section.word("type", &kinds).unwrap_or_else(|| keys.kind());
    let (default_provider, default_priority, default_profiles) = match kind {
        Kind::Oauth | Kind::ApiKey => ("anthropic", 0, vec!["claude".to_owned(), "all".to_owned()]),
        Kind::Provider => ("custom", 10, vec!["all".to_owned()]),
    };
    let provider = section.text_if_any("provider").unwrap_or_else(|| default_provider.to_owned());
    let upstream = section.base_url("upstream").or_else(|| default_upstream(kind, &provider));
    let auth_headers =
        [("authorization", AuthHeader::Authorization), ("x-api-key", AuthHeader::XApiKey)];
    // Everything is read before anything is judged, so that each key of the entry is a known one.
    let mut rest = AccountEntry {
        enabled: true,
        priority: section.integer("priority", default_priority),
        profiles: profiles(section).unwrap_or(default_profiles),
        account_uuid: section.text_if_any("accountUuid"),
        org_uuid: section.text_if_any("orgUuid"),
        source: section.text_if_any("source"),
        auth_header: section.word("authHeader", &auth_headers),
        model: section.text_if_any("model"),
        model_map: model_map(section),
        strip_beta_headers: false,
        limit: section.section("limit", |limit| AccountLimit {
            five_hour: limit.share_if_any("fiveHour"),
            week: limit.share_if_any("week"),
        }),
        credential: Credential::Oauth(OauthCredential::default()),
        name,
        provider,
        upstream,
    };
    section.flag("enabled", &mut rest.enabled);
    section.flag("stripBetaHeaders", &mut rest.strip_beta_headers);
    match keys.credential(kind, rest.upstream.as_ref()) {
        Ok(credential) => Some(AccountEntry { credential, ..rest }),
        Err(why) => {
            section.notice(format!("accounts[{index}] {:?} is skipped: {why}", rest.name));
            None
        }
    }
}

/// Where a provider lives that the entry names without a URL (SPEC V1).
fn default_upstream(kind: Kind, provider: &str) -> Option<BaseUrl> {
    match (kind, provider) {
        (Kind::Provider, "zai") => BaseUrl::parse("https://api.z.ai/api/anthropic"),
        (Kind::Provider, "kimi") => BaseUrl::parse("https://api.kimi.com/coding"),
        _ => None,
    }
}

/// The credential keys of an entry, whatever its type.
struct Keys {
    oauth: OauthCredential,
    api_key: Option<Secret>,
    auth_token: Option<Secret>,
}

impl Keys {
    fn read(section: &Section<'_>) -> Keys {
        let secret = |key| section.text_if_any(key).map(Secret::new);
        Keys {
            oauth: OauthCredential {
                tokens: Tokens {
                    access: secret("accessToken"),
                    refresh: secret("refreshToken"),
                    expires_at: expires_at(section),
                },
                import_from: import_from(section),
                previous: Previous::read(section.value("previous")),
                spent: Spent::read(section.value("spent")),
            },
            api_key: secret("apiKey"),
            auth_token: secret("authToken"),
        }
    }

    /// The type of an entry that does not name one.
    fn kind(&self) -> Kind {
        if self.auth_token.is_some() {
            Kind::Provider
        } else if self.api_key.is_some() {
            Kind::ApiKey
        } else {
            Kind::Oauth
        }
    }

    /// The credential of an entry of this type, or why it has none.
    fn credential(
        self,
        kind: Kind,
        upstream: Option<&BaseUrl>,
    ) -> Result<Credential, &'static str> {
        let OauthCredential { tokens: Tokens { access, refresh, .. }, import_from, .. } =
            &self.oauth;
        match kind {
            Kind::Oauth if access.is_none() && refresh.is_none() && import_from.is_none() => {
                Err("it has no accessToken, no refreshToken and no importFrom")
            }
            Kind::Oauth if access.as_ref().is_some_and(|token| !fits_a_header(token)) => {
                Err("its accessToken contains characters that cannot be sent in a header")
            }
            Kind::Oauth => Ok(Credential::Oauth(self.oauth)),
            Kind::ApiKey => {
                sendable(self.api_key, "it has no apiKey", "apiKey").map(Credential::ApiKey)
            }
            Kind::Provider if upstream.is_none() => Err("it has no upstream"),
            Kind::Provider => {
                let (secret, key) = match self.auth_token {
                    Some(secret) => (Some(secret), "authToken"),
                    None => (self.api_key, "apiKey"),
                };
                sendable(secret, "it has no authToken and no apiKey", key).map(Credential::Provider)
            }
        }
    }
}

fn sendable(
    secret: Option<Secret>,
    missing: &'static str,
    key: &str,
) -> Result<Secret, &'static str> {
    let secret = secret.ok_or(missing)?;
    match (fits_a_header(&secret), key) {
        (true, _) => Ok(secret),
        (false, "apiKey") => Err("its apiKey contains characters that cannot be sent in a header"),
        (false, _) => Err("its authToken contains characters that cannot be sent in a header"),
    }
}

fn fits_a_header(secret: &Secret) -> bool {
    secret.expose().bytes().all(|byte| byte.is_ascii_graphic())
}

/// `expiresAt` in ms; a value below 1e12 is seconds.
fn expires_at(section: &Section<'_>) -> Option<Wall> {
    const KEY: &str = "expiresAt";
    let value = match section.value(KEY) {
        None | Some(Value::Null) => return None,
        Some(value) => value,
    };
    let Some(number) = value.as_f64().filter(|number| *number >= 0.0) else {
        return section.wrong_type(KEY, "a time in ms since 1970, 0 or more", value);
    };
    let ms = if number < 1e12 { number * 1_000.0 } else { number };
    #[expect(clippy::cast_possible_truncation, reason = "a float beyond the range saturates")]
    Some(Wall(ms as i64))
}

fn import_from(section: &Section<'_>) -> Option<ImportFrom> {
    match section.value("importFrom")? {
        Value::Null => None,
        Value::String(path) if path.is_empty() => None,
        Value::String(path) => Some(ImportFrom::Path(PathBuf::from(path))),
        Value::Object(object) => match object.get("path") {
            Some(Value::String(path)) => Some(ImportFrom::Path(PathBuf::from(path))),
            _ => Some(ImportFrom::Other),
        },
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Some(ImportFrom::Other),
    }
}

fn profiles(section: &Section<'_>) -> Option<Vec<String>> {
    const KEY: &str = "profiles";
    let value = section.value(KEY)?;
    let texts =
        value.as_array().map(|list| list.iter().map(|item| item.as_str().map(str::to_owned)));
    let texts: Option<Vec<String>> = texts.and_then(Iterator::collect);
    texts.or_else(|| section.wrong_type(KEY, "a list of strings", value))
}

fn model_map(section: &Section<'_>) -> Vec<(String, String)> {
    const KEY: &str = "modelMap";
    let value = match section.value(KEY) {
        None | Some(Value::Null) => return Vec::new(),
        Some(value) => value,
    };
    let pair = |(from, to): (&String, &Value)| {
        Some((from.clone(), to.as_str().filter(|to| !to.is_empty())?.to_owned()))
    };
    let pairs: Option<Vec<(String, String)>> =
        value.as_object().and_then(|map| map.iter().map(pair).collect());
    pairs
        .or_else(|| {
            section.wrong_type(
                KEY,
                "an object of strings, from a model or family to a model",
                value,
            )
        })
        .unwrap_or_default()
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
