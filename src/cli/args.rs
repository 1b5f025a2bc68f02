//! Parses arguments into a [`Command`], in two stages: what was typed, then what it means.
//!
//! Pure: the arguments are passed in. A mistake is a [`Misuse`], which leads to exit code 2.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::spec::{self, CommandSpec, Name, OptionSpec};
use crate::config::days::DAYS_KEPT;
use crate::config::near::{did_you_mean, nearest};
use crate::report::mask::mask;
use crate::run::ServeOptions;

/// What the program should do.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Server(ServeOptions),
    /// `run`: the arguments for `claude`.
    Run(Vec<OsString>),
    Env {
        with_key: bool,
    },
    Login(LoginOptions),
    Import(ImportOptions),
    Accounts(AccountsView),
    Change(Change),
    Status(StatusView),
    Usage {
        days: u32,
        json: bool,
    },
    Explain(ExplainOptions),
    Api(ApiOptions),
    Doctor,
    Service(Supervisor),
    Completions(Shell),
    /// `help`, or `--help` of a command.
    Help(Option<&'static CommandSpec>),
    Version,
}

/// `login`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoginOptions {
    /// The kind of login.
    pub(crate) by: LoginBy,
    pub(crate) force: bool,
    pub(crate) name: Option<String>,
}

/// The kind of login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LoginBy {
    /// In the browser.
    #[default]
    Browser,
    /// `--api`: an API key.
    Key,
    /// `--token`: a long-lived OAuth token.
    Token,
}

/// The output format of `accounts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccountsView {
    /// A table.
    Text,
    /// `-v`: a table with times.
    Verbose,
    Json,
    Names,
}

impl AccountsView {
    const OPTIONS: [(&str, AccountsView); 3] = [
        ("json", AccountsView::Json),
        ("names", AccountsView::Names),
        ("verbose", AccountsView::Verbose),
    ];
}

/// The supervisor whose file `service` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supervisor {
    /// A systemd unit.
    Systemd,
    /// A systemd socket unit.
    Socket,
    /// A `run` script.
    Runit,
    /// A program section.
    Supervisord,
    /// A property list.
    Launchd,
}

impl Supervisor {
    /// All of them, with the words for them.
    pub(super) const WORDS: [(&str, Supervisor); 5] = [
        ("systemd", Supervisor::Systemd),
        ("socket", Supervisor::Socket),
        ("runit", Supervisor::Runit),
        ("supervisord", Supervisor::Supervisord),
        ("launchd", Supervisor::Launchd),
    ];
}

/// `import`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImportOptions {
    pub(crate) from: Option<PathBuf>,
    pub(crate) json: Option<String>,
    pub(crate) name: Option<String>,
}

/// A change of the config that also concerns the running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// `enable` and `disable`.
    Enabled {
        name: String,
        /// The new state.
        enabled: bool,
    },
    /// `retry`: not stored in the file.
    Retry {
        /// The account.
        name: String,
    },
    /// `remove`.
    Remove {
        name: String,
    },
    Rename {
        name: String,
        new: String,
    },
    Priority {
        name: String,
        /// The lower, the sooner the account is used.
        priority: i64,
    },
    /// `use`; `None` is `--auto`.
    Use {
        name: Option<String>,
    },
}

/// The output format of `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusView {
    /// Text, once.
    Text,
    Json,
    /// `--watch`: the dashboard.
    Watch,
    Line,
}

impl StatusView {
    const OPTIONS: [(&str, StatusView); 3] =
        [("json", StatusView::Json), ("watch", StatusView::Watch), ("line", StatusView::Line)];
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

impl Shell {
    const WORDS: [(&str, Shell); 3] =
        [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];
}

/// Invalid arguments: what is wrong, and which command's help tells more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misuse(pub(crate) String);

/// Parses the arguments after the program's name.
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

/// A command with its options, each one from its table, and its operands.
struct TypedCommand {
    spec: &'static CommandSpec,
    options: Vec<(&'static OptionSpec, Option<OsString>)>,
    operands: Vec<String>,
}

impl TypedCommand {
    fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(option, _)| option.long == long)
    }

    /// The value of an option as text; if it is repeated, the last one counts.
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

    fn misuse(&self, what: &str) -> Misuse {
        misuse(self.spec, what)
    }
}

fn misuse(spec: &CommandSpec, what: &str) -> Misuse {
    let see = if what.ends_with('?') { " See" } else { "; see" };
    Misuse(format!("{what}{see} maxpool {} --help", spec.word))
}

/// Stage one. The command determines which options exist; without one, they are those of `server`.
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
                // Options before a command would have no effect, so a command must come first.
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
    let near = nearest(word, spec::COMMANDS.iter().map(|command| command.word));
    // What was typed may be a key, and the message may end up in a log.
    let word = mask(word);
    Misuse(match near {
        Some(near) => {
            format!("unknown command {word:?}; did you mean {near}? See maxpool help")
        }
        None => format!("unknown command {word:?}; see maxpool help"),
    })
}

fn find(
    spec: &'static CommandSpec,
    typed: &str,
    is_it: impl Fn(&OptionSpec) -> bool,
) -> Result<&'static OptionSpec, Misuse> {
    let common = [&spec::HELP, &spec::VERSION];
    let found = spec.options.iter().chain(common).find(|option| is_it(option));
    found.ok_or_else(|| unknown_option(spec, typed))
}

/// Suggests the most similar option, or the setting that replaces it.
fn unknown_option(spec: &CommandSpec, typed: &str) -> Misuse {
    let long = typed.trim_start_matches('-');
    let words = spec.options.iter().chain([&spec::HELP, &spec::VERSION]).map(|option| option.long);
    let near = nearest(long, words).filter(|_| typed.starts_with("--"));
    let typed = mask(typed);
    let setting = match long {
        "port" | "host" => format!("; set proxy.{long} in the config"),
        "config" => "; set MAXPOOL_CONFIG in the environment".to_owned(),
        _ => did_you_mean(near.map(|near| format!("--{near}")).as_deref()),
    };
    misuse(spec, &format!("unknown option {typed} for {}{setting}", spec.word))
}

/// The value for one of these words.
fn one_of<T: Copy>(
    typed: &TypedCommand,
    placeholder: &str,
    word: &str,
    words: &[(&str, T)],
) -> Result<T, Misuse> {
    if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
        return Ok(*value);
    }
    let known = || words.iter().map(|(known, _)| *known);
    let near = did_you_mean(nearest(word, known()));
    let known = known().collect::<Vec<&str>>().join(", ");
    Err(typed.misuse(&format!("{placeholder} must be one of {known}; got {:?}{near}", mask(word))))
}

/// `run`: only a leading `--help` is ours, and a leading `--` is dropped.
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
    let mut operands = checked_operands(&mut typed)?.into_iter();
    let mut next = || operands.next().unwrap_or_default();
    Ok(match typed.spec.name {
        Name::Server => Command::Server(ServeOptions {
            plain: typed.has("plain"),
            log_to: typed.value("log-to").map(PathBuf::from),
            log_file: typed.value("log-file").map(PathBuf::from),
        }),
        Name::Run => Command::Run(Vec::new()),
        Name::Env => Command::Env { with_key: typed.has("with-key") },
        Name::Login => login(&mut typed)?,
        Name::Import => import(&mut typed)?,
        Name::Accounts => {
            let view = one_view(&typed, &AccountsView::OPTIONS)?;
            Command::Accounts(view.unwrap_or(AccountsView::Text))
        }
        Name::Enable => Command::Change(Change::Enabled { name: next(), enabled: true }),
        Name::Disable => Command::Change(Change::Enabled { name: next(), enabled: false }),
        Name::Retry => Command::Change(Change::Retry { name: next() }),
        Name::Remove => Command::Change(Change::Remove { name: next() }),
        Name::Rename => Command::Change(Change::Rename { name: next(), new: next() }),
        Name::Priority => {
            let (name, number) = (next(), next());
            let priority = number.parse();
            let priority = priority.map_err(|_| {
                typed.misuse(&format!("expected a whole number, got {:?}", mask(&number)))
            })?;
            Command::Change(Change::Priority { name, priority })
        }
        Name::Use => match (Some(next()).filter(|name| !name.is_empty()), typed.has("auto")) {
            (Some(_), true) | (None, false) => {
                return Err(typed.misuse("use needs either NAME or --auto"));
            }
            (name, _) => Command::Change(Change::Use { name }),
        },
        Name::Status => {
            let view = one_view(&typed, &StatusView::OPTIONS)?;
            Command::Status(view.unwrap_or(StatusView::Text))
        }
        Name::Usage => Command::Usage { days: days(&mut typed)?, json: typed.has("json") },
        Name::Explain => Command::Explain(ExplainOptions {
            model: typed.text("model")?,
            session: typed.text("session")?,
            profile: typed.text("profile")?,
            json: typed.has("json"),
        }),
        Name::Api => api(&mut typed, next())?,
        Name::Doctor => Command::Doctor,
        Name::Service => Command::Service(one_of(&typed, "KIND", &next(), &Supervisor::WORDS)?),
        Name::Completions => Command::Completions(one_of(&typed, "SHELL", &next(), &Shell::WORDS)?),
        Name::Help => Command::Help(match next().as_str() {
            "" => None,
            word => Some(spec::command(word).ok_or_else(|| unknown_command(word))?),
        }),
        Name::Version => Command::Version,
    })
}

/// The operands, as many as the command takes, none of them empty.
fn checked_operands(typed: &mut TypedCommand) -> Result<Vec<String>, Misuse> {
    let wanted = typed.spec.operands;
    let least = wanted.iter().filter(|operand| !operand.starts_with('[')).count();
    let given = typed.operands.len();
    if given < least {
        return Err(typed.misuse(&format!("{} needs {}", typed.spec.word, wanted[given])));
    }
    if given > wanted.len() {
        let extra = &typed.operands[wanted.len()];
        // A surplus operand may be a key, and the message may end up in a log.
        let extra = mask(extra);
        return Err(typed.misuse(&format!("unexpected argument {extra:?} for {}", typed.spec.word)));
    }
    if let Some(position) = typed.operands.iter().position(String::is_empty) {
        return Err(
            typed.misuse(&format!("{} is empty", wanted[position].trim_matches(['[', ']'])))
        );
    }
    Ok(std::mem::take(&mut typed.operands))
}

/// The requested view; two of them exclude each other.
fn one_view<T: Copy>(typed: &TypedCommand, views: &[(&str, T)]) -> Result<Option<T>, Misuse> {
    let mut asked = views.iter().filter(|(option, _)| typed.has(option));
    let view = asked.next();
    if let (Some((one, _)), Some((other, _))) = (view, asked.next()) {
        return Err(typed.misuse(&format!("give either --{one} or --{other}, not both")));
    }
    Ok(view.map(|(_, view)| *view))
}

fn login(typed: &mut TypedCommand) -> Result<Command, Misuse> {
    let by = one_view(typed, &[("api", LoginBy::Key), ("token", LoginBy::Token)])?;
    let force = typed.has("force");
    if force && by.is_none() {
        return Err(typed.misuse("--force needs --api or --token"));
    }
    Ok(Command::Login(LoginOptions {
        by: by.unwrap_or_default(),
        force,
        name: account_name(typed)?,
    }))
}

fn import(typed: &mut TypedCommand) -> Result<Command, Misuse> {
    if typed.has("from") && typed.has("json") {
        return Err(typed.misuse("give either --from or --json, not both"));
    }
    Ok(Command::Import(ImportOptions {
        from: typed.value("from").map(PathBuf::from),
        json: typed.text("json")?,
        name: account_name(typed)?,
    }))
}

/// `--days`: at most the number that the state file keeps.
fn days(typed: &mut TypedCommand) -> Result<u32, Misuse> {
    let Some(text) = typed.text("days")? else {
        return Ok(DAYS_SHOWN);
    };
    match text.parse() {
        Ok(days @ 1..=DAYS_KEPT) => Ok(days),
        _ => Err(typed.misuse(&format!(
            "expected a number of days from 1 to {DAYS_KEPT}, got {:?}",
            mask(&text)
        ))),
    }
}

/// Days that `usage` shows by default.
const DAYS_SHOWN: u32 = 7;

/// `--name`: without control characters, which would break every table and log line.
fn account_name(typed: &mut TypedCommand) -> Result<Option<String>, Misuse> {
    let name = typed.text("name")?;
    match name {
        Some(name) if name.is_empty() || name.chars().any(char::is_control) => {
            Err(typed.misuse("--name must not be empty or contain control characters"))
        }
        name => Ok(name),
    }
}

/// Values of `--method`.
pub(super) const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];

/// `api`: the path must stay on the account's own upstream, and characters that could smuggle in a
/// header line are refused.
fn api(typed: &mut TypedCommand, path: String) -> Result<Command, Misuse> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || path.starts_with("//") || !is_plain(&path) {
        return Err(typed
            .misuse("PATH must start with a single / and be percent-encoded, as in /v1/models"));
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
                return Err(
                    typed.misuse(&format!("--method must be one of {}", METHODS.join(", ")))
                );
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
