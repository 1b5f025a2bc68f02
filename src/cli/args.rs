//! From arguments to a [`Command`], in two stages: what was typed, then what it means.
//!
//! Pure but for the arguments that are handed in. A mistake is a [`Misuse`], which ends in exit code 2.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::spec::{self, CommandSpec, Name, OptionSpec};
use crate::report::mask::mask;
use crate::run::ServeOptions;

/// What the program is to do.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Server(ServeOptions),
    /// `run`: the arguments of `claude`.
    Run(Vec<OsString>),
    Env {
        with_key: bool,
    },
    Login(LoginOptions),
    Import(ImportOptions),
    Accounts {
        /// `-v`.
        verbose: bool,
        json: bool,
    },
    Change(Change),
    Status(StatusView),
    Explain(ExplainOptions),
    Api(ApiOptions),
    Doctor,
    Completions(Shell),
    /// `help`, or `--help` of a command.
    Help(Option<&'static CommandSpec>),
    Version,
}

/// `login`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoginOptions {
    /// `--api`: a key instead of the browser.
    pub(crate) api: bool,
    pub(crate) name: Option<String>,
}

/// `import`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImportOptions {
    pub(crate) from: Option<PathBuf>,
    pub(crate) json: Option<String>,
    pub(crate) name: Option<String>,
}

/// A change of the config that the running server should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// `enable` and `disable`.
    Enabled {
        name: String,
        /// From now on.
        enabled: bool,
    },
    Remove {
        name: String,
    },
    Rename {
        name: String,
        new: String,
    },
    Priority {
        name: String,
        /// Lower is preferred.
        priority: i64,
    },
    /// `use`; none is `--auto`.
    Use {
        name: Option<String>,
    },
}

/// How `status` shows what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusView {
    /// A table, once.
    Text,
    Json,
    /// `--watch`: the dashboard.
    Watch,
}

/// `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExplainOptions {
    pub(crate) model: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) json: bool,
}

/// `api`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiOptions {
    pub(crate) path: String,
    pub(crate) account: Option<String>,
    pub(crate) method: Option<&'static str>,
    pub(crate) data: Option<String>,
}

/// The shells that have completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Arguments that make no sense: what is wrong, and whose help says more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misuse(pub(crate) String);

/// Reads the arguments behind the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Misuse> {
    let typed = typed(Parser::from_args(arguments))?;
    match typed {
        Typed::Help(command) => Ok(Command::Help(command)),
        Typed::Version => Ok(Command::Version),
        Typed::Run(arguments) => Ok(Command::Run(arguments)),
        Typed::Command(typed) => meant(typed),
    }
}

enum Typed {
    Help(Option<&'static CommandSpec>),
    Version,
    Run(Vec<OsString>),
    Command(TypedCommand),
}

/// A command with its options and operands, each option one of its table.
struct TypedCommand {
    spec: &'static CommandSpec,
    options: Vec<(&'static OptionSpec, Option<OsString>)>,
    operands: Vec<String>,
}

impl TypedCommand {
    fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(option, _)| option.long == long)
    }

    /// The value of an option as text; given twice, the last one counts.
    fn text(&mut self, long: &str) -> Result<Option<String>, Misuse> {
        self.value(long)
            .map(|value| {
                value
                    .into_string()
                    .map_err(|_| self.misuse(&format!("the value of --{long} is not UTF-8")))
            })
            .transpose()
    }

    fn value(&mut self, long: &str) -> Option<OsString> {
        let position = self.options.iter().rposition(|(option, _)| option.long == long)?;
        self.options.remove(position).1
    }

    fn exclude(&self, one: &str, other: &str) -> Result<(), Misuse> {
        if self.has(one) && self.has(other) {
            return Err(self.misuse(&format!("--{one} and --{other} exclude each other")));
        }
        Ok(())
    }

    fn misuse(&self, what: &str) -> Misuse {
        misuse(self.spec, what)
    }
}

fn misuse(spec: &CommandSpec, what: &str) -> Misuse {
    Misuse(format!("{what}; see maxpool {} --help", spec.word))
}

/// Stage one. Which options exist depends on the command; without one, options belong to `server`.
fn typed(mut parser: Parser) -> Result<Typed, Misuse> {
    let mut spec: Option<&'static CommandSpec> = None;
    let mut options = Vec::new();
    let mut operands = Vec::new();
    loop {
        let shown = spec.unwrap_or(&spec::COMMANDS[0]);
        let Some(argument) = parser.next().map_err(|error| misuse(shown, &error.to_string()))?
        else {
            break;
        };
        let option = match argument {
            Arg::Value(value) => {
                let value =
                    value.into_string().map_err(|_| misuse(shown, "an argument is not UTF-8"))?;
                // Options in front of a command would be lost on it, so a command comes first.
                if spec.is_some() || !options.is_empty() {
                    operands.push(value);
                    continue;
                }
                let found = spec::command(&value).ok_or_else(|| unknown_command(&value))?;
                if found.name == Name::Run {
                    return Ok(run(parser));
                }
                spec = Some(found);
                continue;
            }
            Arg::Short(digit @ '0'..='9') if shown.name == Name::Priority => {
                let rest =
                    parser.optional_value().unwrap_or_default().into_string().unwrap_or_default();
                operands.push(format!("-{digit}{rest}"));
                continue;
            }
            Arg::Long(long) => find(shown, &format!("--{long}"), |option| option.long == long),
            Arg::Short(short) => {
                find(shown, &format!("-{short}"), |option| option.short == Some(short))
            }
        }?;
        if option.long == spec::HELP.long {
            return Ok(Typed::Help(spec));
        }
        if option.long == spec::VERSION.long {
            return Ok(Typed::Version);
        }
        let value = match option.value {
            Some(_) => Some(parser.value().map_err(|error| misuse(shown, &error.to_string()))?),
            None => None,
        };
        options.push((option, value));
    }
    let spec = spec.unwrap_or(&spec::COMMANDS[0]);
    Ok(Typed::Command(TypedCommand { spec, options, operands }))
}

fn unknown_command(word: &str) -> Misuse {
    Misuse(format!("there is no command {word:?}; maxpool help lists them"))
}

fn find(
    spec: &'static CommandSpec,
    typed: &str,
    is_it: impl Fn(&OptionSpec) -> bool,
) -> Result<&'static OptionSpec, Misuse> {
    let common = [&spec::HELP, &spec::VERSION];
    let found = spec.options.iter().chain(common).find(|option| is_it(option));
    found.ok_or_else(|| misuse(spec, &format!("{} has no option {typed}", spec.word)))
}

/// `run`: only a first `--help` is ours, and a first `--` is dropped.
fn run(mut parser: Parser) -> Typed {
    let mut arguments: Vec<OsString> = parser.raw_args().map(Iterator::collect).unwrap_or_default();
    match arguments.first() {
        Some(first) if first == "--help" => return Typed::Help(spec::command("run")),
        Some(first) if first == "--" => {
            arguments.remove(0);
        }
        Some(_) | None => {}
    }
    Typed::Run(arguments)
}

/// Stage two.
fn meant(mut typed: TypedCommand) -> Result<Command, Misuse> {
    check_operands(&typed)?;
    let mut operands = std::mem::take(&mut typed.operands).into_iter();
    let mut next = || operands.next().unwrap_or_default();
    Ok(match typed.spec.name {
        Name::Server => Command::Server(ServeOptions {
            plain: typed.has("plain"),
            log_to: typed.value("log-to").map(PathBuf::from),
        }),
        Name::Run => Command::Run(Vec::new()),
        Name::Env => Command::Env { with_key: typed.has("with-key") },
        Name::Login => {
            Command::Login(LoginOptions { api: typed.has("api"), name: account_name(&mut typed)? })
        }
        Name::Import => {
            typed.exclude("from", "json")?;
            Command::Import(ImportOptions {
                from: typed.value("from").map(PathBuf::from),
                json: typed.text("json")?,
                name: account_name(&mut typed)?,
            })
        }
        Name::Accounts => {
            Command::Accounts { verbose: typed.has("verbose"), json: typed.has("json") }
        }
        Name::Enable => Command::Change(Change::Enabled { name: next(), enabled: true }),
        Name::Disable => Command::Change(Change::Enabled { name: next(), enabled: false }),
        Name::Remove => Command::Change(Change::Remove { name: next() }),
        Name::Rename => Command::Change(Change::Rename { name: next(), new: next() }),
        Name::Priority => {
            let (name, number) = (next(), next());
            let priority = number.parse();
            let priority =
                priority.map_err(|_| typed.misuse(&format!("{number:?} is no whole number")))?;
            Command::Change(Change::Priority { name, priority })
        }
        Name::Use => match (Some(next()).filter(|name| !name.is_empty()), typed.has("auto")) {
            (Some(_), true) | (None, false) => {
                return Err(typed.misuse("use needs either NAME or --auto"));
            }
            (name, _) => Command::Change(Change::Use { name }),
        },
        Name::Status => {
            typed.exclude("json", "watch")?;
            Command::Status(match (typed.has("json"), typed.has("watch")) {
                (true, _) => StatusView::Json,
                (false, true) => StatusView::Watch,
                (false, false) => StatusView::Text,
            })
        }
        Name::Explain => Command::Explain(ExplainOptions {
            model: typed.text("model")?,
            session: typed.text("session")?,
            profile: typed.text("profile")?,
            json: typed.has("json"),
        }),
        Name::Api => api(&mut typed, next())?,
        Name::Doctor => Command::Doctor,
        Name::Completions => Command::Completions(shell(&typed, &next())?),
        Name::Help => Command::Help(match next().as_str() {
            "" => None,
            word => Some(spec::command(word).ok_or_else(|| unknown_command(word))?),
        }),
        Name::Version => Command::Version,
    })
}

/// Whether there are as many operands as the command takes, none of them empty.
fn check_operands(typed: &TypedCommand) -> Result<(), Misuse> {
    let wanted = typed.spec.operands;
    let least = wanted.iter().filter(|operand| !operand.starts_with('[')).count();
    let given = typed.operands.len();
    if given < least {
        return Err(typed.misuse(&format!("{} needs {}", typed.spec.word, wanted[given])));
    }
    if given > wanted.len() {
        let extra = &typed.operands[wanted.len()];
        // What was typed too much may be a key, and this may end in a log.
        let extra = mask(extra);
        return Err(typed.misuse(&format!("{} does not take {extra:?}", typed.spec.word)));
    }
    if let Some(position) = typed.operands.iter().position(String::is_empty) {
        return Err(
            typed.misuse(&format!("{} is empty", wanted[position].trim_matches(['[', ']'])))
        );
    }
    Ok(())
}

fn shell(typed: &TypedCommand, word: &str) -> Result<Shell, Misuse> {
    match word {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        other => {
            Err(typed
                .misuse(&format!("there are completions for bash, zsh and fish, not {other:?}")))
        }
    }
}

/// `--name`: without control characters, which would disturb every table and log line it appears in.
fn account_name(typed: &mut TypedCommand) -> Result<Option<String>, Misuse> {
    let name = typed.text("name")?;
    match name {
        Some(name) if name.is_empty() || name.chars().any(char::is_control) => {
            Err(typed.misuse("--name needs a text without control characters"))
        }
        name => Ok(name),
    }
}

/// What `--method` may be.
pub(super) const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];

/// `api`: the path stays on the account's own upstream, and what a header line could be smuggled in by is refused.
fn api(typed: &mut TypedCommand, path: String) -> Result<Command, Misuse> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || path.starts_with("//") || !is_plain(&path) {
        return Err(typed
            .misuse("PATH has to begin with one / and to be percent-encoded, such as /v1/models"));
    }
    let method = typed.text("method")?;
    let known = method
        .as_ref()
        .map(|method| METHODS.iter().find(|known| known.eq_ignore_ascii_case(method)));
    let options = ApiOptions {
        path,
        account: typed.text("account")?,
        method: match known {
            Some(None) => {
                return Err(typed.misuse(&format!("--method needs one of {}", METHODS.join(", "))));
            }
            Some(Some(known)) => Some(*known),
            None => None,
        },
        data: typed.text("data")?,
    };
    if options
        .data
        .as_ref()
        .is_some_and(|data| serde_json::from_str::<serde::de::IgnoredAny>(data).is_err())
    {
        return Err(typed.misuse("--data is not valid JSON"));
    }
    Ok(Command::Api(options))
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
