#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

type Headers<'a> = &'a [(&'a str, &'a str)];

fn read(headers: Headers<'_>) -> Result<Vec<AccountEntry>, String> {
    accounts_of_headers(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
}

/// `name priority upstream model|map token`.
fn short(entry: &AccountEntry) -> String {
    let Credential::Provider(token) = &entry.credential else {
        return "not a provider".to_owned();
    };
    assert!(entry.strip_beta_headers && entry.enabled && entry.profiles == ["all"], "V1");
    let map: Vec<String> =
        entry.model_map.iter().map(|(from, to)| format!("{from}={to}")).collect();
    let model = entry.model.clone().unwrap_or_else(|| map.join(","));
    let upstream = entry.upstream.as_ref().unwrap().as_str();
    format!("{} {} {upstream} {model} {}", entry.name, entry.priority, token.expose())
}

#[test]
fn headers_make_accounts() {
    let glm = "glm-fallback 10 https://api.z.ai/api/anthropic";
    let kimi = "kimi-fallback 20 https://api.kimi.com/coding";
    let table: &[(&str, Headers<'_>, Vec<String>)] = &[
        ("V1 nothing", &[("x-maxpool-profile", "all"), ("x-maxpool-zai-model", "m")], vec![]),
        (
            "V1 GLM",
            &[("X-MaxPool-ZAI-Token", "t")],
            vec![format!("{glm} opus=glm-5.3,sonnet=glm-5.3,haiku=glm-5.3,default=glm-5.3 t")],
        ),
        (
            "V1 the model header, not for haiku",
            &[("x-maxpool-zai-token", "t"), ("x-maxpool-zai-model", "m")],
            vec![format!("{glm} opus=m,sonnet=m,haiku=glm-5.3,default=m t")],
        ),
        (
            "V1 sonnet follows opus",
            &[("x-maxpool-zai-token", "t"), ("x-maxpool-zai-opus-model", "o")],
            vec![format!("{glm} opus=o,sonnet=o,haiku=glm-5.3,default=o t")],
        ),
        (
            "V1 each its own",
            &[
                ("x-maxpool-zai-token", "t"),
                ("x-maxpool-zai-model", "m"),
                ("x-maxpool-zai-opus-model", "o"),
                ("x-maxpool-zai-sonnet-model", "s"),
                ("x-maxpool-zai-haiku-model", "h"),
            ],
            vec![format!("{glm} opus=o,sonnet=s,haiku=h,default=s t")],
        ),
        (
            "V1 opus alone with a model",
            &[
                ("x-maxpool-zai-token", "t"),
                ("x-maxpool-zai-model", "m"),
                ("x-maxpool-zai-opus-model", "o"),
            ],
            vec![format!("{glm} opus=o,sonnet=m,haiku=glm-5.3,default=m t")],
        ),
        ("V1 Kimi", &[("x-maxpool-kimi-token", "k")], vec![format!("{kimi} kimi-k3 k")]),
        (
            "V1 Kimi's model and place",
            &[
                ("x-maxpool-kimi-token", "k"),
                ("x-maxpool-kimi-model", "k9"),
                ("x-maxpool-kimi-base-url", "http://127.0.0.1:9/a/"),
            ],
            vec!["kimi-fallback 20 http://127.0.0.1:9/a k9 k".to_owned()],
        ),
        (
            "V1 the old spelling",
            &[
                ("x-teamclaude-zai-token", "t"),
                ("x-teamclaude-kimi-token", "k"),
                ("x-teamclaude-zai-haiku-model", "h"),
            ],
            vec![
                format!("{glm} opus=glm-5.3,sonnet=glm-5.3,haiku=h,default=glm-5.3 t"),
                format!("{kimi} kimi-k3 k"),
            ],
        ),
        (
            "V1 the present spelling wins, an empty value is none",
            &[
                ("x-teamclaude-kimi-token", "old"),
                ("x-maxpool-kimi-token", "new"),
                ("x-maxpool-kimi-model", " "),
            ],
            vec![format!("{kimi} kimi-k3 new")],
        ),
    ];
    for (rule, headers, expected) in table {
        let entries = read(headers).unwrap();
        assert_eq!(entries.iter().map(short).collect::<Vec<_>>(), *expected, "{rule}");
    }
}

#[test]
fn a_header_that_cannot_be_used_is_the_clients_error() {
    for (headers, words) in [
        (
            [("x-maxpool-kimi-token", "a b"), ("x", "")],
            "x-maxpool-kimi-token contains characters that are not allowed in it",
        ),
        (
            [("x-maxpool-zai-token", "t\u{e9}"), ("x", "")],
            "x-maxpool-zai-token contains characters that are not allowed in it",
        ),
        (
            [("x-maxpool-zai-token", "t"), ("x-maxpool-zai-base-url", "ftp://x")],
            "x-maxpool-zai-base-url is not an http or https URL",
        ),
        (
            [("x-maxpool-zai-token", "t"), ("x-teamclaude-zai-base-url", "https://a@b")],
            "x-maxpool-zai-base-url is not an http or https URL",
        ),
    ] {
        assert_eq!(read(&headers), Err(words.to_owned()));
    }
}

#[test]
fn the_model_is_chosen_by_the_first_rule_that_fits() {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
    };
    let all = map(&[
        ("opus", "o"),
        ("claude-opus-4-8", "o8"),
        ("sonnet", "s"),
        ("haiku", "h"),
        ("default", "d"),
    ]);
    let no_default = map(&[("sonnet", "s"), ("fable", "f")]);
    let table = [
        ("V2 fixed", Some("k3"), &all, "claude-opus-4-8", Some("k3")),
        ("V2 full id before family", None, &all, "claude-opus-4-8", Some("o8")),
        ("V2 family", None, &all, "claude-opus-4-1", Some("o")),
        ("V2 family by substring", None, &all, "anthropic/Claude-3-5-SONNET-x", Some("s")),
        ("V2 default", None, &all, "gpt-5", Some("d")),
        ("V2 a full id that is a family word", None, &all, "haiku", Some("h")),
        ("V2 another family of the map", None, &no_default, "claude-fable-5", Some("f")),
        ("V2 unchanged", None, &no_default, "claude-opus-4-8", None),
        ("V2 the word default is no id", None, &no_default, "default", None),
        ("V2 already so", Some("k3"), &all, "k3", None),
        ("V2 empty", None, &no_default, "", None),
    ];
    for (rule, model, map, asked, expected) in table {
        let chosen = choose(model, map, asked);
        assert_eq!(chosen, expected, "{rule}");
    }
}
