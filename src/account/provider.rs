//! Providers (SPEC V1, V2): the accounts that request headers describe, and the model that an
//! account is asked for. Pure.
//!
//! Such an account is created from a request, exists only in memory and is never written to disk.

use crate::config::{AccountEntry, BaseUrl, Credential, Secret};

use super::AccountProfile;
use super::oauth::is_sendable;

/// Parses the provider headers of a request with profile `all`: one entry for each provider whose
/// token is present. An error is for the client: which header is invalid.
pub(crate) fn accounts_of_headers<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
) -> Result<Vec<AccountEntry>, String> {
    let find = |name: &str| {
        let of = |prefix: &str| {
            let mut same = headers.clone().filter(|(given, _)| is_named(given, prefix, name));
            same.find_map(|(_, value)| Some(value.trim_ascii()).filter(|value| !value.is_empty()))
        };
        let value = PREFIXES.iter().find_map(|prefix| of(prefix));
        value.map(|value| text_of(name, value)).transpose()
    };
    let mut entries = Vec::new();
    if let Some(token) = find("zai-token")? {
        let model = find("zai-model")?;
        let or_model = |own: Option<String>| own.or_else(|| model.clone());
        let opus = or_model(find("zai-opus-model")?).unwrap_or_else(|| GLM_MODEL.to_owned());
        let sonnet = or_model(find("zai-sonnet-model")?).unwrap_or_else(|| opus.clone());
        let haiku = find("zai-haiku-model")?.unwrap_or_else(|| GLM_MODEL.to_owned());
        let map = [("opus", &opus), ("sonnet", &sonnet), ("haiku", &haiku), ("default", &sonnet)];
        entries.push(AccountEntry {
            provider: "zai".to_owned(),
            upstream: upstream("zai-base-url", find("zai-base-url")?, GLM_UPSTREAM)?,
            model_map: map.map(|(family, model)| (family.to_owned(), model.clone())).into(),
            ..entry(GLM_NAME, GLM_PRIORITY, &token)
        });
    }
    if let Some(token) = find("kimi-token")? {
        entries.push(AccountEntry {
            provider: "kimi".to_owned(),
            upstream: upstream("kimi-base-url", find("kimi-base-url")?, KIMI_UPSTREAM)?,
            model: Some(find("kimi-model")?.unwrap_or_else(|| KIMI_MODEL.to_owned())),
            ..entry(KIMI_NAME, KIMI_PRIORITY, &token)
        });
    }
    Ok(entries)
}

/// The model to request from this account instead of `asked` (SPEC V2): the fixed one, else by full
/// id, else by the family whose word is in it, else the default. `None`: leave it unchanged.
pub(crate) fn model_for<'a>(profile: &'a AccountProfile, asked: &str) -> Option<&'a str> {
    choose(profile.model.as_deref(), &profile.model_map, asked)
}

fn choose<'a>(fixed: Option<&'a str>, map: &'a [(String, String)], asked: &str) -> Option<&'a str> {
    let of =
        |wanted: &str| map.iter().find(|(key, _)| key == wanted).map(|(_, model)| model.as_str());
    let by_id = || of(asked).filter(|_| asked != DEFAULT);
    let by_family = || {
        let asked = asked.to_ascii_lowercase();
        let is_word =
            |key: &str| key != DEFAULT && key.bytes().all(|byte| byte.is_ascii_alphabetic());
        let fits = |key: &str| is_word(key) && asked.contains(&key.to_ascii_lowercase());
        map.iter().find(|(key, _)| fits(key)).map(|(_, model)| model.as_str())
    };
    let chosen = fixed.or_else(by_id).or_else(by_family).or_else(|| of(DEFAULT));
    chosen.filter(|model| *model != asked)
}

fn entry(name: &str, priority: i64, token: &str) -> AccountEntry {
    AccountEntry {
        name: name.to_owned(),
        credential: Credential::Provider(Secret::of_a_client(token)),
        enabled: true,
        priority,
        profiles: vec!["all".to_owned()],
        account_uuid: None,
        org_uuid: None,
        source: Some("request headers".to_owned()),
        provider: String::new(),
        upstream: None,
        auth_header: None,
        model: None,
        model_map: Vec::new(),
        strip_beta_headers: true,
        limit: crate::scheduler::AccountLimit::default(),
    }
}

fn is_named(given: &str, prefix: &str, name: &str) -> bool {
    let head = given.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    head && given.get(prefix.len()..).is_some_and(|rest| rest.eq_ignore_ascii_case(name))
}

fn text_of(name: &str, value: &[u8]) -> Result<String, String> {
    match std::str::from_utf8(value) {
        Ok(text) if is_sendable(text) => Ok(text.to_owned()),
        _ => Err(format!("x-maxpool-{name} contains characters that are not allowed in it")),
    }
}

fn upstream(header: &str, given: Option<String>, default: &str) -> Result<Option<BaseUrl>, String> {
    let text = given.as_deref().unwrap_or(default);
    let url = BaseUrl::parse(text)
        .ok_or_else(|| format!("x-maxpool-{header} is not an http or https URL"))?;
    Ok(Some(url))
}

/// The current spelling first.
const PREFIXES: [&str; 2] = ["x-maxpool-", "x-teamclaude-"];
const DEFAULT: &str = "default";
/// Numbers and names from SPEC V1.
const GLM_NAME: &str = "glm-fallback";
const GLM_PRIORITY: i64 = 10;
const GLM_UPSTREAM: &str = "https://api.z.ai/api/anthropic";
const GLM_MODEL: &str = "glm-5.3";
const KIMI_NAME: &str = "kimi-fallback";
const KIMI_PRIORITY: i64 = 20;
const KIMI_UPSTREAM: &str = "https://api.kimi.com/coding";
const KIMI_MODEL: &str = "kimi-k3";

#[cfg(test)]
#[path = "provider_tests.rs"]
mod tests;
