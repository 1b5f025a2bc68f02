//! The man pages match the program: the same commands and options, the same keys and defaults, and
//! working examples.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

use super::spec::COMMANDS;
use crate::config::{Config, Credential, file};
use crate::testing::scratch::Scratch;

const COMMANDS_PAGE: &str = include_str!("../../man/maxpool.1");
const CONFIG_PAGE: &str = include_str!("../../man/maxpool.5");

/// The lines of each command's section, by its name.
fn parts() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in COMMANDS_PAGE.lines().take_while(|line| *line != ".Sh ENVIRONMENT") {
        if let Some(rest) = line.strip_prefix(".It Cm ") {
            parts.push((rest.split(' ').next().unwrap(), Vec::new()));
        }
        if let Some((_, lines)) = parts.last_mut() {
            lines.push(line);
        }
    }
    parts
}

#[test]
fn the_page_has_every_command_in_the_order_of_the_table() {
    let words: Vec<&str> = COMMANDS.iter().map(|command| command.word).collect();
    assert_eq!(parts().iter().map(|(word, _)| *word).collect::<Vec<&str>>(), words);
}

#[test]
fn the_page_has_the_options_of_the_table_and_no_others() {
    for (command, (_, lines)) in COMMANDS.iter().zip(parts()) {
        let listed: Vec<&str> =
            lines.iter().filter(|line| line.starts_with(".It Fl")).copied().collect();
        let expected: Vec<String> = command
            .options
            .iter()
            .map(|option| {
                let short = option.short.map(|short| format!("{short} , Fl ")).unwrap_or_default();
                let value = option
                    .value
                    .map(|value| format!(" Ar {}", value.to_lowercase()))
                    .unwrap_or_default();
                format!(".It Fl {short}-{}{value}", option.long)
            })
            .collect();
        assert_eq!(listed, expected, "{}", command.word);
    }
}

#[test]
fn the_page_has_the_operands_of_the_table() {
    for (command, (_, lines)) in COMMANDS.iter().zip(parts()) {
        let operands: Vec<String> = command
            .operands
            .iter()
            .map(|operand| operand.trim_matches(['[', ']']).to_lowercase())
            .collect();
        let operands = operands.iter().filter(|operand| *operand != "--");
        assert!(
            operands.clone().all(|operand| lines[0].split(' ').any(|word| word == operand)),
            "{}",
            lines[0]
        );
    }
}

/// The keys of an object with their values; nested keys become paths.
fn leaves(prefix: &str, object: &Map<String, Value>, into: &mut Vec<(String, Value)>) {
    for (key, value) in object {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(inner) => leaves(&path, inner, into),
            other => into.push((path, other.clone())),
        }
    }
}

#[test]
fn a2_the_page_has_every_key_with_its_default() {
    let scratch = Scratch::new();
    let path = scratch.path("c.json");
    file::load_or_create(&path).unwrap();
    let document: Map<String, Value> =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut keys = Vec::new();
    leaves("", &document, &mut keys);
    let mut expected: Vec<String> = keys
        .iter()
        .filter(|(key, _)| key != "accounts")
        .map(|(key, default)| match (key.as_str(), default) {
            ("proxy.apiKey", _) => format!(".It Va {key} Pq generated"),
            (_, Value::String(text)) => format!(".It Va {key} Pq {text}"),
            (_, other) => format!(".It Va {key} Pq {other}"),
        })
        .collect();
    expected.extend([
        ".It Va upstreamProxy Pq absent".to_owned(),
        ".It Va logDir Pq absent".to_owned(),
        ".It Va logFile Pq absent".to_owned(),
    ]);
    let settings = CONFIG_PAGE.lines().take_while(|line| *line != ".Ss Accounts");
    let mut listed: Vec<&str> = settings.filter(|line| line.starts_with(".It Va ")).collect();
    expected.sort();
    listed.sort_unstable();
    assert_eq!(listed, expected);
}

#[test]
fn a3_the_page_has_every_key_of_an_account() {
    let part = CONFIG_PAGE.split_once(".Ss Accounts").unwrap().1;
    for key in [
        "name",
        "type",
        "enabled",
        "priority",
        "profiles",
        "accountUuid",
        "orgUuid",
        "accessToken",
        "refreshToken",
        "expiresAt",
        "importFrom",
        "source",
        "apiKey",
        "authToken",
        "provider",
        "upstream",
        "authHeader",
        "model",
        "modelMap",
        "stripBetaHeaders",
    ] {
        let is_here =
            |line: &str| line.starts_with(".It Va ") && line.split(' ').any(|word| word == key);
        assert!(part.lines().any(is_here), "{key}");
    }
}

/// The literal blocks of a page.
fn displays(page: &str) -> Vec<String> {
    let blocks = page.split(".Bd -literal -offset indent\n").skip(1);
    blocks.map(|block| block.split(".Ed\n").next().unwrap().to_owned()).collect()
}

#[test]
fn v1_each_example_is_a_config_that_works() {
    let examples: Vec<String> =
        displays(CONFIG_PAGE).into_iter().filter(|block| block.starts_with('{')).collect();
    assert_eq!(examples.len(), 5);
    for example in examples {
        let config = Config::parse(&example, Path::new("example")).unwrap();
        assert_eq!(
            (config.accounts.len(), config.notices.len()),
            (1, 0),
            "{example}{:?}",
            config.notices
        );
        let is_provider = matches!(config.accounts[0].credential, Credential::Provider(_));
        assert_eq!(is_provider, config.accounts[0].upstream.is_some());
    }
}

fn pages() -> [PathBuf; 2] {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    [directory.join("maxpool.1"), directory.join("maxpool.5")]
}

/// The program, if the machine has it.
fn installed(name: &str) -> Option<Command> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())?;
    Some(Command::new(found))
}

#[test]
fn the_pages_are_clean_under_mandoc() {
    let Some(mut mandoc) = installed("mandoc") else {
        return;
    };
    let output = mandoc.arg("-Tlint").args(pages()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
