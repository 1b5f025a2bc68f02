//! What the completion scripts offer in the real shells for each line (SPEC C). A shell that is not
//! installed is reported and skipped.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::Home;

/// Calls the function as bash does when Tab is pressed after `$2`.
const BASH: &str = r#"
. "$1"
COMP_WORDBREAKS=$' \t\n"\'@><=;|&(:'
COMP_LINE=$2 COMP_POINT=${#2}
_maxpool
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Types `$2` and Tab into a separate zsh in which each added match is recorded.
const ZSH: &str = r#"
zmodload zsh/zpty || exit 3
export COMPLETIONS=$1 NOTES=$PWD/notes
: > notes
cat > setup <<'END'
PROMPT=
autoload -Uz compinit && compinit -u -d $PWD/dump
. $COMPLETIONS
bindkey '^I' complete-word
compadd() {
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return $?; fi
  local -a hits
  builtin compadd -A hits "$@"
  (( $#hits )) && print -rl -- $hits >> $NOTES
  builtin compadd "$@"
}
comppostfuncs=(leave)
leave() { print -r -- END >> $NOTES; exit }
print -r -- READY >> $NOTES
END
zpty z zsh -f -i
zpty -w z '. ./setup'
repeat 400; do grep -q READY notes && break; zpty -t z || exit 4; sleep 0.05; done
zpty -n -w z "$2"$'\t'
repeat 400; do grep -q END notes && break; sleep 0.05; done
grep -v -e READY -e END notes
zpty -d z
exit 0
"#;

/// What fish itself offers for `$2`.
const FISH: &str = r#"source $argv[1]; complete -C $argv[2] | string replace -r '\t.*' ''; true"#;

/// Each line, some words that are offered after it, and some that are not.
const LINES: [(&str, &[&str], &[&str]); 16] = [
    ("maxpool ", &["server", "run", "status", "explain", "version", "help"], &["bash", "--json"]),
    ("maxpool st", &["status"], &["server"]),
    ("maxpool --", &["--plain", "--log-to", "--version", "--help"], &["--json"]),
    ("maxpool status --", &["--json", "--watch", "--help"], &["--plain", "--version"]),
    ("maxpool completions ", &["bash", "zsh", "fish"], &["status"]),
    ("maxpool help ex", &["explain"], &["server"]),
    ("maxpool api --method P", &["POST", "PUT", "PATCH"], &["GET", "some-file"]),
    ("maxpool server --log-to ", &["some-dir"], &["some-file"]),
    ("maxpool import --from so", &["some-file"], &["status"]),
    ("maxpool run ", &["some-file"], &["status"]),
    ("maxpool enable ", &["work", "spare"], &["status", "some-file"]),
    ("maxpool remove sp", &["spare"], &["work"]),
    ("maxpool priority work ", &[], &["work", "spare", "some-file"]),
    ("maxpool api --account w", &["work"], &["spare"]),
    ("maxpool service s", &["systemd", "socket", "supervisord"], &["runit", "status"]),
    ("maxpool login --name ", &[], &["status", "some-file", "--api"]),
];

#[test]
fn bash_offers_what_fits() {
    offers("bash", &["--norc", "-c", BASH, "bash"]);
}

#[test]
fn zsh_offers_what_fits() {
    offers("zsh", &["-f", "-c", ZSH, "zsh"]);
}

#[test]
fn fish_offers_what_fits() {
    offers("fish", &["--no-config", "-c", FISH]);
}

/// Asks the shell about each line; the script's path and the line are its last arguments.
fn offers(shell: &str, arguments: &[&str]) {
    let home = Home::new().accounts(&["work", "spare", "me@example.com"]);
    home.write();
    std::fs::create_dir(home.path().join("some-dir")).expect("make a directory");
    std::fs::write(home.path().join("some-file"), "").expect("make a file");
    let script = home.run(&["completions", shell]).stdout;
    let path = home.path().join(format!("completions.{shell}"));
    std::fs::write(&path, script).expect("write the completions");
    for (line, offered, others) in LINES {
        let Some(found) = ask(shell, arguments, &path, line, &home) else {
            eprintln!("skipped: {shell} is not installed, so its completions are not tested");
            return;
        };
        for word in offered {
            assert!(found.contains(*word), "{shell}: {line:?} lacks {word}: {found:?}");
        }
        for word in others {
            assert!(!found.contains(*word), "{shell}: {line:?} offers {word}: {found:?}");
        }
    }
}

fn ask(
    shell: &str,
    arguments: &[&str],
    script: &Path,
    line: &str,
    home: &Home,
) -> Option<BTreeSet<String>> {
    let ran = Command::new(shell)
        .args(arguments)
        .arg(script)
        .arg(line)
        .env_clear()
        .env("PATH", path_with_program())
        .env("HOME", home.path())
        .env("MAXPOOL_CONFIG", home.config_path())
        .env("TERM", "xterm")
        .current_dir(home.path())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let complaints = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{shell} {line:?}: {complaints}");
    let words = String::from_utf8_lossy(&ran.stdout).into_owned();
    Some(
        words
            .lines()
            .map(|word| word.trim().trim_end_matches('/').to_owned())
            .filter(|word| !word.is_empty())
            .collect(),
    )
}

/// The shell runs the program to list account names, so it must be on `PATH`.
fn path_with_program() -> std::ffi::OsString {
    let program = crate::harness::home::program();
    let own = program.parent().expect("the program is in a directory").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path))).expect("a path")
}

#[test]
fn bash_completes_the_last_part_of_an_address() {
    let home = Home::new().accounts(&["me@example.com", "me@example.org"]);
    home.write();
    let path = home.path().join("completions.bash");
    std::fs::write(&path, home.run(&["completions", "bash"]).stdout).expect("write");
    let arguments = ["--norc", "-c", BASH, "bash"];
    let Some(found) = ask("bash", &arguments, &path, "maxpool use me@example.c", &home) else {
        eprintln!("skipped: bash is not installed");
        return;
    };
    // Bash treats the part before the @ as a separate word, which stays.
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["example.com"]);
}
