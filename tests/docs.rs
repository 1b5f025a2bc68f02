//! README, Makefile and program agree.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::harness::{Home, Value};

const README: &str = include_str!("../README.md");
const MAKEFILE: &str = include_str!("../Makefile");

/// The cells of the README's table whose header begins with this word.
fn table(first: &str) -> Vec<Vec<String>> {
    let start = format!("| {first} |");
    let lines = README.lines().skip_while(|line| !line.starts_with(&start));
    lines
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        })
        .collect()
}

/// The leaves of a document, by their dotted keys.
fn leaves(prefix: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
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
    let unknown: Vec<&String> = file.keys().filter(|key| !documented.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "README does not say what these are: {unknown:?}");
}

#[test]
fn the_targets_are_those_of_the_makefile() {
    let phony = MAKEFILE.lines().filter_map(|line| line.strip_prefix(".PHONY: "));
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
        assert!(MAKEFILE.lines().any(|line| line.starts_with(&format!("{target}:"))), "{target}");
    }
}

/// The files below a directory, as relative paths.
fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(place) = left.pop() {
        for entry in std::fs::read_dir(place).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let inner = path.strip_prefix(directory).expect("it is below");
                found.push(inner.display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_install_puts_somewhere_uninstall_takes_away() {
    let home = Home::new();
    let destination = home.path().join("destination");
    std::fs::create_dir(&destination).expect("make a directory");
    let binary = crate::harness::home::program();
    let make = |target: &str| {
        let made = Command::new("make")
            .args(["--silent", "PREFIX=/usr", target])
            .arg(format!("BINARY={}", binary.display()))
            .arg(format!("DESTDIR={}", destination.display()))
            .env_remove("MAKEFLAGS")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        match made {
            Ok(made) => {
                let said = String::from_utf8_lossy(&made.stderr);
                assert!(made.status.success(), "make {target}: {said}");
                true
            }
            Err(_) => {
                eprintln!("skipped: make is not installed");
                false
            }
        }
    };
    if !make("install") {
        return;
    }
    assert_eq!(
        files_below(&destination),
        [
            "usr/bin/maxpool",
            "usr/share/bash-completion/completions/maxpool",
            "usr/share/fish/vendor_completions.d/maxpool.fish",
            "usr/share/man/man1/maxpool.1",
            "usr/share/man/man5/maxpool.5",
            "usr/share/zsh/site-functions/_maxpool",
        ]
    );
    let fish = destination.join("usr/share/fish/vendor_completions.d/maxpool.fish");
    let script = std::fs::read_to_string(fish).expect("read it");
    assert!(script.contains("complete -c maxpool"), "{script}");
    make("uninstall");
    let left: Vec<_> = std::fs::read_dir(&destination)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "uninstall leaves {left:?}");
}

/// The lines of the README's shell blocks.
fn shell_lines() -> impl Iterator<Item = &'static str> {
    README.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).flat_map(str::lines)
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
            assert_eq!(ran.status.code(), Some(0), "maxpool {command}: {}", ran.stderr);
            for option in rest.split_whitespace().filter(|word| word.starts_with("--")) {
                assert!(ran.stdout.contains(option), "maxpool {command} {option}: {}", ran.stdout);
            }
            commands += 1;
        }
    }
    assert!(commands >= 4, "{commands} commands were found");
}

#[test]
fn the_notice_is_there() {
    let readme = README.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in [
        "unofficial",
        "contested",
        "may cost you the accounts",
        "accounts that you own",
        "API keys are the sanctioned way",
    ] {
        assert!(readme.contains(word), "{word}");
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
