//! Help texts, made from the table of commands.

use std::fmt::Write as _;

use super::spec::{COMMANDS, CommandSpec, HELP, OptionSpec, VERSION};

/// Column at which explanations begin.
const COLUMN: usize = 26;

/// `maxpool help`: every command with its options.
pub(super) fn all() -> String {
    let mut text = String::from(
        "maxpool: a local proxy that makes several Claude accounts work as one\n\n\
         Usage: maxpool [command] [options]\n\nCommands:\n",
    );
    for command in COMMANDS {
        entry(&mut text, 2, &synopsis(command), command.summary);
        for option in command.options {
            entry(&mut text, 6, &typed(option), option.help);
        }
    }
    text.push_str("\nOptions of every command:\n");
    entry(&mut text, 6, &typed(&HELP), HELP.help);
    entry(&mut text, 6, &typed(&VERSION), VERSION.help);
    text.push_str(
        "\nThe config file is $MAXPOOL_CONFIG, else maxpool.json in $XDG_CONFIG_HOME or ~/.config.\n\
         See maxpool(1) and maxpool(5) for the rest.\n",
    );
    text
}

/// `maxpool <command> --help`.
pub(super) fn of(command: &CommandSpec) -> String {
    let mut text = format!(
        "maxpool {}: {}\n\nUsage: maxpool {}",
        command.word,
        command.summary,
        synopsis(command)
    );
    if !command.options.is_empty() {
        text.push_str(" [options]");
    }
    text.push('\n');
    if !command.about.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}\n", command.about);
    }
    text.push_str("\nOptions:\n");
    for option in command.options.iter().chain([&HELP]) {
        entry(&mut text, 2, &typed(option), option.help);
    }
    text
}

fn synopsis(command: &CommandSpec) -> String {
    [&[command.word], command.operands].concat().join(" ")
}

/// `-v, --verbose` or `--name NAME`.
fn typed(option: &OptionSpec) -> String {
    let short = option.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    let value = option.value.map(|value| format!(" {value}")).unwrap_or_default();
    format!("{short}--{}{value}", option.long)
}

fn entry(text: &mut String, indent: usize, left: &str, right: &str) {
    let _ = writeln!(text, "{:indent$}{left:<width$} {right}", "", width = COLUMN - indent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_command_with_its_options() {
        let text = all();
        for command in COMMANDS {
            assert!(
                text.lines().any(|line| line.trim_start().starts_with(&synopsis(command))),
                "{}",
                command.word
            );
            for option in command.options {
                assert!(
                    text.contains(&typed(option)) && text.contains(option.help),
                    "--{}",
                    option.long
                );
            }
        }
        assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 120), "{text}");
    }

    #[test]
    fn a_command_has_its_own_help() {
        for command in COMMANDS {
            let text = of(command);
            assert!(text.starts_with(&format!("maxpool {}: ", command.word)), "{text}");
            assert!(text.contains("--help") && text.ends_with('\n'), "{text}");
        }
    }
}
