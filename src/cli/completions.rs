//! Completions for bash, zsh and fish, made from the table of commands.

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

/// What a value or an operand is completed with.
enum Kind {
    Directory,
    File,
    Words(&'static [&'static str]),
    Commands,
    Nothing,
}

/// By the name of the placeholder.
fn kind(placeholder: &str) -> Kind {
    match placeholder {
        "DIR" => Kind::Directory,
        "[ARGS]" => Kind::File,
        "SHELL" => Kind::Words(&["bash", "zsh", "fish"]),
        "METHOD" => Kind::Words(&super::args::METHODS),
        "[COMMAND]" => Kind::Commands,
        _ => Kind::Nothing,
    }
}

/// The option's own placeholder; a PATH of `api` is none of the file system, one of an option is.
fn option_kind(value: &str) -> Kind {
    if value == "PATH" { Kind::File } else { kind(value) }
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
            let reply = bash_reply(&option_kind(value));
            let _ = writeln!(values, "    {}:--{}) {reply}; return ;;", command.word, option.long);
        }
        let operand = command.operands.last().map_or(Kind::Nothing, |operand| kind(operand));
        let all: Vec<String> = options_of(command).map(switches).collect();
        let plain = match operand {
            // Everything behind run belongs to claude.
            Kind::File => "COMPREPLY=($(compgen -f -- \"$cur\"))".to_owned(),
            Kind::Nothing | Kind::Directory => {
                format!("COMPREPLY=($(compgen -W '{}' -- \"$cur\"))", all.join(" "))
            }
            Kind::Words(words) => bash_words(&format!("{} {}", words.join(" "), all.join(" "))),
            Kind::Commands => bash_words(&format!("{} {}", words(), all.join(" "))),
        };
        let _ = writeln!(commands, "    {}) {plain} ;;", command.word);
    }
    let server: Vec<String> = options_of(&COMMANDS[0]).chain([&VERSION]).map(switches).collect();
    format!(
        "# bash completion for maxpool
_maxpool() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command=server word
  COMPREPLY=()
  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
    case $word in -*) ;; *) command=$word; break ;; esac
  done
  if [ \"$cur\" = = ]; then cur=; elif [ \"$prev\" = = ]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  case $command:$prev in
{values}  esac
  if [ \"$COMP_CWORD\" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{} {}' -- \"$cur\"))
    return
  fi
  case $command in
{commands}  esac
}}
complete -F _maxpool maxpool
",
        words(),
        server.join(" ")
    )
}

fn bash_reply(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "COMPREPLY=($(compgen -d -- \"$cur\"))".to_owned(),
        Kind::File => "COMPREPLY=($(compgen -f -- \"$cur\"))".to_owned(),
        Kind::Words(words) => bash_words(&words.join(" ")),
        Kind::Commands => bash_words(&words()),
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
            // Everything behind run belongs to claude.
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
    format!(
        "#compdef maxpool
# zsh completion for maxpool
_maxpool() {{
  local curcontext=$curcontext state line
  local -a commands
  commands=(
{descriptions}  )
  _arguments -C -s {} '1:command:->command' '*::argument:->argument'
  case $state in
  command) _describe command commands ;;
  argument)
    case $words[1] in
{commands}    esac ;;
  esac
}}
if [ \"$funcstack[1]\" = _maxpool ]; then _maxpool \"$@\"; else compdef _maxpool maxpool; fi
",
        server.join(" ")
    )
}

fn zsh_option(option: &OptionSpec) -> String {
    let value = option
        .value
        .map(|value| format!(":{}:{}", value.to_lowercase(), zsh_action(&option_kind(value))));
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
        Kind::Nothing => " ".to_owned(),
    }
}

/// Text within single quotes and within zsh's own brackets and colons.
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
        let operand = command.operands.last().map_or(Kind::Nothing, |operand| kind(operand));
        let words = match operand {
            Kind::Words(words) => words.join(" "),
            Kind::Commands => words(),
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
    let value = option.value.map(|value| match option_kind(value) {
        Kind::Directory => " -x -a '(__fish_complete_directories)'".to_owned(),
        Kind::File => " -r -F".to_owned(),
        Kind::Words(words) => format!(" -x -a '{}'", words.join(" ")),
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
