//! Completions for bash, zsh and fish, generated from the table of commands.

use std::fmt::Write as _;

use super::args::Shell;
use super::spec::{COMMANDS, CommandSpec, HELP, Name, OptionSpec, VERSION};

/// The script for a shell.
pub(super) fn of(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    }
}

/// How a value or an operand is completed.
enum Kind {
    Directory,
    File,
    Words(&'static [&'static str]),
    Commands,
    /// Account names, as printed by "maxpool accounts --names".
    Accounts,
    Nothing,
}

/// Derived from the placeholder's name.
fn kind(placeholder: &str) -> Kind {
    match placeholder {
        "DIR" => Kind::Directory,
        "[ARGS]" => Kind::File,
        "SHELL" => Kind::Words(&["bash", "zsh", "fish"]),
        "KIND" => Kind::Words(&["systemd", "socket", "runit", "supervisord", "launchd"]),
        "NAME" | "[NAME]" => Kind::Accounts,
        "METHOD" => Kind::Words(&super::args::METHODS),
        "[COMMAND]" => Kind::Commands,
        _ => Kind::Nothing,
    }
}

/// How an option's value is completed. A PATH or FILE is a file, but the PATH of `api` is not;
/// `--name` takes a new name.
fn option_kind(option: &OptionSpec, value: &str) -> Kind {
    match value {
        "PATH" | "FILE" => Kind::File,
        "NAME" if option.long == "name" => Kind::Nothing,
        value => kind(value),
    }
}

/// How the first operand is completed; later ones are new names and numbers.
fn operand_kind(command: &CommandSpec) -> Kind {
    let operand = command.operands.iter().find(|operand| **operand != "[--]");
    operand.map_or(Kind::Nothing, |operand| kind(operand))
}

fn words() -> String {
    COMMANDS.iter().map(|command| command.word).collect::<Vec<&str>>().join(" ")
}

fn options_of(command: &CommandSpec) -> impl Iterator<Item = &OptionSpec> {
    command.options.iter().chain([&HELP])
}

fn switches(option: &OptionSpec) -> String {
    let short = option.short.map(|short| format!("-{short} ")).unwrap_or_default();
    format!("{short}--{}", option.long)
}

fn bash() -> String {
    let mut values = String::new();
    let mut commands = String::new();
    for command in COMMANDS {
        for option in command.options {
            let Some(value) = option.value else { continue };
            let reply = bash_reply(&option_kind(option, value));
            let _ = writeln!(values, "    {}:--{}) {reply}; return ;;", command.word, option.long);
        }
        let all: Vec<String> = options_of(command).map(switches).collect();
        let plain = match operand_kind(command) {
            // Everything after run belongs to claude.
            Kind::File => "COMPREPLY=($(compgen -f -- \"$cur\"))".to_owned(),
            Kind::Nothing | Kind::Directory => {
                format!("COMPREPLY=($(compgen -W '{}' -- \"$cur\"))", all.join(" "))
            }
            Kind::Words(words) => bash_words(&format!("{} {}", words.join(" "), all.join(" "))),
            Kind::Accounts => format!(
                "{}; [ \"$operands\" -eq 0 ] && _maxpool_accounts",
                bash_words(&all.join(" "))
            ),
            Kind::Commands => bash_words(&format!("{} {}", words(), all.join(" "))),
        };
        let _ = writeln!(commands, "    {}) {plain} ;;", command.word);
    }
    let server: Vec<String> = options_of(&COMMANDS[0]).chain([&VERSION]).map(switches).collect();
    include_str!("completions/maxpool.bash")
        .replace("@VALUES@", &values)
        .replace("@COMMANDS@", &commands)
        .replace("@WORDS@", &words())
        .replace("@OPTIONS@", &server.join(" "))
}

fn bash_reply(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "COMPREPLY=($(compgen -d -- \"$cur\"))".to_owned(),
        Kind::File => "COMPREPLY=($(compgen -f -- \"$cur\"))".to_owned(),
        Kind::Words(words) => bash_words(&words.join(" ")),
        Kind::Commands => bash_words(&words()),
        Kind::Accounts => "_maxpool_accounts".to_owned(),
        Kind::Nothing => ":".to_owned(),
    }
}

fn bash_words(words: &str) -> String {
    format!("COMPREPLY=($(compgen -W '{words}' -- \"$cur\"))")
}

fn zsh() -> String {
    let mut descriptions = String::new();
    let mut commands = String::new();
    for command in COMMANDS {
        let _ = writeln!(descriptions, "    '{}:{}'", command.word, zsh_text(command.summary));
        if command.name == Name::Run {
            // Everything after run belongs to claude.
            let _ = writeln!(commands, "    run) _files ;;");
            continue;
        }
        let mut parts: Vec<String> = options_of(command).map(zsh_option).collect();
        for operand in command.operands {
            let what = operand.trim_matches(['[', ']']).to_lowercase();
            parts.push(format!("':{what}:{}'", zsh_action(&kind(operand))));
        }
        let _ = writeln!(commands, "    {}) _arguments -s {} ;;", command.word, parts.join(" "));
    }
    let server: Vec<String> = options_of(&COMMANDS[0]).chain([&VERSION]).map(zsh_option).collect();
    include_str!("completions/_maxpool")
        .replace("@DESCRIPTIONS@", &descriptions)
        .replace("@COMMANDS@", &commands)
        .replace("@OPTIONS@", &server.join(" "))
}

fn zsh_option(option: &OptionSpec) -> String {
    let value = option.value.map(|value| {
        format!(":{}:{}", value.to_lowercase(), zsh_action(&option_kind(option, value)))
    });
    let equals = if option.value.is_some() { "=" } else { "" };
    let rest = format!("[{}]{}", zsh_text(option.help), value.unwrap_or_default());
    match option.short {
        Some(short) => format!("'(-{short} --{0})'{{-{short},--{0}{equals}}}'{rest}'", option.long),
        None => format!("'--{}{equals}{rest}'", option.long),
    }
}

fn zsh_action(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "_files -/".to_owned(),
        Kind::File => "_files".to_owned(),
        Kind::Words(words) => format!("({})", words.join(" ")),
        Kind::Commands => format!("({})", words()),
        Kind::Accounts => "_maxpool_accounts".to_owned(),
        Kind::Nothing => " ".to_owned(),
    }
}

/// Text inside single quotes and inside zsh's brackets and colons.
fn zsh_text(text: &str) -> String {
    text.replace('\'', "'\\''").replace(':', "\\:").replace('[', "\\[").replace(']', "\\]")
}

fn fish() -> String {
    let mut script = String::from("# fish completion for maxpool\ncomplete -c maxpool -f\n");
    for command in COMMANDS {
        let _ = writeln!(
            script,
            "complete -c maxpool -n __fish_use_subcommand -a {} -d '{}'",
            command.word,
            fish_text(command.summary)
        );
    }
    fish_option(&mut script, "__fish_use_subcommand", &VERSION);
    for option in options_of(&COMMANDS[0]) {
        fish_option(&mut script, "__fish_use_subcommand", option);
    }
    for command in COMMANDS {
        let condition = format!("'__fish_seen_subcommand_from {}'", command.word);
        for option in options_of(command) {
            fish_option(&mut script, &condition, option);
        }
        let words = match operand_kind(command) {
            Kind::Words(words) => words.join(" "),
            Kind::Commands => words(),
            Kind::Accounts => FISH_ACCOUNTS.to_owned(),
            Kind::File => {
                let _ = writeln!(script, "complete -c maxpool -n {condition} -F");
                continue;
            }
            Kind::Directory | Kind::Nothing => continue,
        };
        let _ = writeln!(script, "complete -c maxpool -n {condition} -a '{words}'");
    }
    script
}

fn fish_option(script: &mut String, condition: &str, option: &OptionSpec) {
    let short = option.short.map(|short| format!(" -s {short}")).unwrap_or_default();
    let value = option.value.map(|value| match option_kind(option, value) {
        Kind::Directory => " -x -a '(__fish_complete_directories)'".to_owned(),
        Kind::File => " -r -F".to_owned(),
        Kind::Words(words) => format!(" -x -a '{}'", words.join(" ")),
        Kind::Accounts => format!(" -x -a '{FISH_ACCOUNTS}'"),
        Kind::Commands | Kind::Nothing => " -x".to_owned(),
    });
    let _ = writeln!(
        script,
        "complete -c maxpool -n {condition}{short} -l {}{} -d '{}'",
        option.long,
        value.unwrap_or_default(),
        fish_text(option.help)
    );
}

const FISH_ACCOUNTS: &str = "(maxpool accounts --names 2>/dev/null)";

fn fish_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_completed_in_every_shell() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = of(shell);
            for command in COMMANDS {
                assert!(script.contains(command.word), "{shell:?} {}", command.word);
                for option in command.options {
                    let typed = match shell {
                        Shell::Bash | Shell::Zsh => format!("--{}", option.long),
                        Shell::Fish => format!("-l {}", option.long),
                    };
                    assert!(script.contains(&typed), "{shell:?} {typed}");
                }
            }
        }
    }
}
