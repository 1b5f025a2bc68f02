//! README, Makefile and program say the same.

use std::collections::BTreeMap;

use crate::harness::{Home, Value};

const README: &str = include_str!("../README.md");
const MAKEFILE: &str = include_str!("../Makefile");

/// The cells of the README's tables whose header begins with this word.
fn table(first: &str) -> Vec<Vec<String>> {
    let start = format!("| {first} |");
    let lines = README.lines().skip_while(|line| !line.starts_with(&start));
    lines
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells
                .map(|cell| cell.trim().trim_matches('`').to_owned())
                .collect()
        })
        .collect()
}

/// The leaves of a document by their dotted keys.
fn leaves(prefix: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                let key = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                leaves(&key, member, found);
            }
        }
        _ => {
            found.insert(prefix.to_owned(), value.clone());
        }
    }
}

#[test]
fn the_configuration_table_is_what_a_new_file_holds() {
    let home = Home::new();
    home.make_default(home.command(&["server", "--plain"]), &home.config_path());
    let mut file = BTreeMap::new();
    leaves("", &home.read(), &mut file);
    let mut documented = BTreeMap::new();
    for row in table("key") {
        documented.insert(row[0].clone(), row[1].clone());
    }
    assert!(documented.len() > 40, "the table was found: {documented:?}");
    for (key, default) in &documented {
        match (default.as_str(), file.get(key)) {
            ("absent", value) => assert_eq!(value, None, "{key}"),
            ("made at random", Some(Value::String(_))) => {}
            (text, Some(value)) => {
                let wanted: Value = serde_json::from_str(text)
                    .unwrap_or_else(|error| panic!("{key}: '{text}' is no JSON: {error}"));
                let same =
                    wanted == *value || (wanted.is_number() && wanted.as_f64() == value.as_f64());
                assert!(same, "{key}: README says {wanted}, a new file has {value}");
            }
            (_, None) => panic!("{key} is in README and not in a new file"),
        }
    }
    let unknown: Vec<&String> = file
        .keys()
        .filter(|key| !documented.contains_key(*key))
        .collect();
    assert!(
        unknown.is_empty(),
        "README does not say what these are: {unknown:?}"
    );
}

#[test]
fn the_targets_are_those_of_the_makefile() {
    let phony = MAKEFILE
        .lines()
        .filter_map(|line| line.strip_prefix(".PHONY: "));
    let mut have: Vec<&str> = phony.flat_map(|names| names.split(' ')).collect();
    let rows = table("target");
    let mut documented: Vec<&str> = rows
        .iter()
        .map(|row| row[0].strip_prefix("make").expect("a make command").trim())
        .map(|target| if target.is_empty() { "all" } else { target })
        .collect();
    have.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, have);
    for target in have {
        assert!(
            MAKEFILE
                .lines()
                .any(|line| line.starts_with(&format!("{target}:"))),
            "{target}"
        );
    }
}

/// The lines of the README's shell blocks.
fn shell_lines() -> impl Iterator<Item = &'static str> {
    README
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .flat_map(str::lines)
}

#[test]
fn every_command_in_readme_exists() {
    let home = Home::new();
    let mut commands = 0;
    for line in shell_lines() {
        let line = line.split('#').next().unwrap_or("");
        for part in line.split("&&").flat_map(|part| part.split("$(")) {
            let part = part.trim().trim_end_matches(['"', ')']);
            let Some(rest) = part.strip_prefix("maxpool") else {
                continue;
            };
            let Some(command) = rest.split_whitespace().next() else {
                continue;
            };
            let ran = home.run(&[command, "--help"]);
            assert_eq!(
                ran.status.code(),
                Some(0),
                "maxpool {command}: {}",
                ran.stderr
            );
            for option in rest
                .split_whitespace()
                .filter(|word| word.starts_with("--"))
            {
                assert!(
                    ran.stdout.contains(option),
                    "maxpool {command} {option}: {}",
                    ran.stdout
                );
            }
            commands += 1;
        }
    }
    assert!(commands >= 4, "{commands} commands were found");
}

#[test]
fn the_notice_is_there() {
    for word in [
        "unofficial",
        "contested",
        "may cost you the\naccounts",
        "accounts that you own",
        "API keys are the sanctioned way",
    ] {
        assert!(README.contains(word), "{word}");
    }
}

#[test]
fn help_names_every_command_that_it_explains() {
    let home = Home::new();
    let help = home.run(&["help"]).stdout;
    for command in ["server", "status", "env", "accounts", "help"] {
        assert!(help.contains(command), "{command}");
        let ran = home.run(&[command, "--help"]);
        assert_eq!(ran.status.code(), Some(0), "{command}");
    }
}
