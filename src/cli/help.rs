//! Help texts, generated from the table of commands.

use std::fmt::Write as _;

use super::spec::{COMMANDS, CommandSpec, HELP, OptionSpec, VERSION};
use super::table::{Room, wrapped};

/// Column at which explanations start.
const COLUMN: usize = 28;
/// Longest line, for readability.
const WIDTH_MAX: usize = 80;
/// Minimum width of an explanation.
const HELP_MIN: usize = 24;
/// On narrower terminals, lines are broken by the terminal.
const WIDTH_MIN: usize = 40;

/// `maxpool help`: every command with its options, and the environment variables.
pub(super) fn all(room: Room) -> String {
    let mut page = Page::new(room);
    page.paragraph("maxpool: a local proxy that makes several Claude accounts work as one");
    page.paragraph("Usage: maxpool [command] [options]");
    page.text.push_str("Commands:\n");
    for command in COMMANDS {
        page.entry(2, &synopsis(command), command.summary);
        for option in command.options {
            page.entry(6, &typed(option), option.help);
        }
    }
    page.text.push_str("\nOptions of every command:\n");
    page.entry(6, &typed(&HELP), HELP.help);
    page.entry(6, &typed(&VERSION), VERSION.help);
    page.text.push_str("\nEnvironment:\n");
    for (name, help) in VARIABLES {
        page.entry(2, name, help);
    }
    page.text.push('\n');
    page.paragraph("See maxpool(1) and maxpool(5) for details.");
    page.text.trim_end().to_owned() + "\n"
}

/// `maxpool <command> --help`.
pub(super) fn of(command: &CommandSpec, room: Room) -> String {
    let mut page = Page::new(room);
    page.paragraph(&format!("maxpool {}: {}", command.word, command.summary));
    let options = if command.options.is_empty() { "" } else { " [options]" };
    page.paragraph(&format!("Usage: maxpool {}{options}", synopsis(command)));
    if !command.about.is_empty() {
        page.paragraph(command.about);
    }
    page.text.push_str("Options:\n");
    for option in command.options.iter().chain([&HELP]) {
        page.entry(2, &typed(option), option.help);
    }
    page.text
}

/// The environment variables that commands read.
pub(super) const VARIABLES: [(&str, &str); 8] = [
    ("MAXPOOL_CONFIG", "the config file; TEAMCLAUDE_CONFIG is the older name"),
    ("XDG_CONFIG_HOME", "the directory of maxpool.json otherwise (default: ~/.config)"),
    ("CLAUDE_CONFIG_DIR", "where Claude Code keeps its login (default: ~/.claude)"),
    ("SSL_CERT_FILE", "additional CA certificates, in PEM format"),
    ("HTTPS_PROXY, ALL_PROXY", "the HTTP proxy for upstream connections"),
    ("NO_PROXY", "hosts to reach without that proxy"),
    ("TZ", "the time zone for local times and days"),
    ("NO_COLOR", "if not empty, do not use colour"),
];

/// A help text under construction.
struct Page {
    text: String,
    width: usize,
}

impl Page {
    fn new(room: Room) -> Page {
        let width = room.unwrap_or(WIDTH_MAX).clamp(WIDTH_MIN, WIDTH_MAX);
        Page { text: String::new(), width }
    }

    fn paragraph(&mut self, text: &str) {
        for line in wrapped(text, 0, Some(self.width)) {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(self.text, "{line}");
        }
        self.text.push('\n');
    }

    fn entry(&mut self, indent: usize, left: &str, right: &str) {
        let column = COLUMN.min(self.width - HELP_MIN);
        let text = format!("{:indent$}{left}", "");
        let gap = match text.len() < column {
            true => format!("{text:column$}"),
            false => format!("{text} "),
        };
        let begin = " ".repeat(column);
        let lines = wrapped(&format!("{begin}{right}"), column, Some(self.width));
        for (number, line) in lines.iter().enumerate() {
            let line = match number {
                0 if gap.len() + line.trim_start().len() > self.width => {
                    let _ = writeln!(self.text, "{}", gap.trim_end());
                    line.clone()
                }
                0 => format!("{gap}{}", line.trim_start()),
                _ => line.clone(),
            };
            let _ = writeln!(self.text, "{line}");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Joins the lines of a text, since help breaks lines itself.
    fn flat(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn help_lists_every_command_with_its_options_and_the_variables() {
        let text = all(None);
        for command in COMMANDS {
            assert!(
                text.lines().any(|line| line.trim_start().starts_with(&synopsis(command))),
                "{}",
                command.word
            );
            for option in command.options {
                assert!(
                    text.contains(&typed(option)) && flat(&text).contains(option.help),
                    "--{}",
                    option.long
                );
            }
        }
        for (name, help) in VARIABLES {
            assert!(flat(&text).contains(&format!("{name} {help}")), "{name}");
        }
        assert!(text.is_ascii());
    }

    #[test]
    fn help_fits_the_terminal() {
        for room in [None, Some(80), Some(60), Some(40)] {
            let width = room.unwrap_or(WIDTH_MAX);
            let texts = COMMANDS.iter().map(|command| of(command, room)).chain([all(room)]);
            for line in texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()) {
                assert!(line.len() <= width, "{room:?}: {line}");
            }
        }
    }

    #[test]
    fn a_command_has_its_own_help() {
        for command in COMMANDS {
            let text = of(command, None);
            assert!(text.starts_with(&format!("maxpool {}: ", command.word)), "{text}");
            assert!(text.contains("--help") && text.ends_with('\n'), "{text}");
        }
    }
}
