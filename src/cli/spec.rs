//! The commands and their options, once: parser, help, completions and the man page's test all read this table.

/// A command of SPEC section 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Server,
    Run,
    Env,
    Login,
    Import,
    Accounts,
    Enable,
    Disable,
    Remove,
    Rename,
    Priority,
    Use,
    Status,
    Explain,
    Api,
    Doctor,
    Completions,
    Help,
    Version,
}

/// What a command is called and takes.
#[derive(Debug)]
pub(super) struct CommandSpec {
    pub(super) name: Name,
    pub(super) word: &'static str,
    /// What follows the options; in brackets where it may be left out.
    pub(super) operands: &'static [&'static str],
    /// One line for the list.
    pub(super) summary: &'static str,
    /// Further lines for its own help; may be empty.
    pub(super) about: &'static str,
    pub(super) options: &'static [OptionSpec],
}

/// An option of a command.
#[derive(Debug)]
pub(super) struct OptionSpec {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// What its value is called, if it takes one.
    pub(super) value: Option<&'static str>,
    pub(super) help: &'static str,
}

const fn flag(long: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { long, short: None, value: None, help }
}

const fn valued(long: &'static str, value: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { long, short: None, value: Some(value), help }
}

/// Options that every command takes. Before a command, `--version` does too.
pub(super) const HELP: OptionSpec =
    OptionSpec { long: "help", short: Some('h'), value: None, help: "print help" };
/// See [`HELP`].
pub(super) const VERSION: OptionSpec =
    OptionSpec { long: "version", short: Some('V'), value: None, help: "print the version" };

/// Options of each command, `--help` left out.
pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        name: Name::Server,
        word: "server",
        operands: &[],
        summary: "run the proxy (also without a command)",
        about: "Shows the dashboard on a terminal and writes a plain log otherwise. SIGTERM lets running requests finish, SIGHUP
reads the config again, SIGUSR2 restarts without cutting a stream.",
        options: &[
            valued("log-to", "DIR", "write one file per request to DIR, credentials masked"),
            flag("plain", "write the plain log on a terminal too"),
        ],
    },
    CommandSpec {
        name: Name::Run,
        word: "run",
        operands: &["[--]", "[ARGS]"],
        summary: "run claude through the proxy",
        about: "Everything but a first --help goes to claude. What \"maxpool env\" prints is put into its environment; a value that is
set already stays. Its exit status is kept.",
        options: &[],
    },
    CommandSpec {
        name: Name::Env,
        word: "env",
        operands: &[],
        summary: "print the environment for clients",
        about: "For a shell: eval \"$(maxpool env)\"",
        options: &[flag("with-key", "also print the proxy key as ANTHROPIC_API_KEY")],
    },
    CommandSpec {
        name: Name::Login,
        word: "login",
        operands: &[],
        summary: "add an account by signing in",
        about: "Opens the browser. There is no account picker: the account that is signed in at claude.ai is the one that is added. To
add another one, sign out there first or use a private window. Signing in again with a known account updates it.",
        options: &[
            flag("api", "add an Anthropic API key, read from the terminal or from standard input"),
            valued("name", "NAME", "call the account NAME"),
        ],
    },
    CommandSpec {
        name: Name::Import,
        word: "import",
        operands: &[],
        summary: "add the account that Claude Code is signed in to",
        about: "Stores a copy of its tokens. Claude Code goes on renewing them, so \"maxpool login\" is the better way.",
        options: &[
            valued("from", "PATH", "read this file instead of ~/.claude/.credentials.json"),
            valued("json", "TEXT", "read TEXT instead of a file"),
            valued("name", "NAME", "call the account NAME"),
        ],
    },
    CommandSpec {
        name: Name::Accounts,
        word: "accounts",
        operands: &[],
        summary: "list the accounts",
        about: "",
        options: &[
            OptionSpec { long: "verbose", short: Some('v'), value: None, help: "also say when tokens expire" },
            flag("json", "print JSON"),
        ],
    },
    CommandSpec {
        name: Name::Enable,
        word: "enable",
        operands: &["NAME"],
        summary: "let an account serve again",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Disable,
        word: "disable",
        operands: &["NAME"],
        summary: "keep an account, but let it serve nothing",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Remove,
        word: "remove",
        operands: &["NAME"],
        summary: "remove an account and its credential from the config",
        about: "Running requests finish.",
        options: &[],
    },
    CommandSpec {
        name: Name::Rename,
        word: "rename",
        operands: &["NAME", "NEW"],
        summary: "give an account another name",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Priority,
        word: "priority",
        operands: &["NAME", "NUMBER"],
        summary: "set the priority of an account; lower is preferred",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Use,
        word: "use",
        operands: &["[NAME]"],
        summary: "prefer one account, or none",
        about: "Give either NAME or --auto.",
        options: &[flag("auto", "choose automatically again")],
    },
    CommandSpec {
        name: Name::Status,
        word: "status",
        operands: &[],
        summary: "show the running proxy",
        about: "",
        options: &[flag("json", "print JSON"), flag("watch", "attach the dashboard to the running proxy")],
    },
    CommandSpec {
        name: Name::Explain,
        word: "explain",
        operands: &[],
        summary: "say which account a request would get, and why",
        about: "Asks the running proxy.",
        options: &[
            valued("model", "MODEL", "for a request of this model"),
            valued("session", "KEY", "for a request of this session"),
            valued("profile", "PROFILE", "for a request of this profile (default: claude)"),
            flag("json", "print JSON"),
        ],
    },
    CommandSpec {
        name: Name::Api,
        word: "api",
        operands: &["PATH"],
        summary: "make one call with an account's credential",
        about: "The call goes to the account's own upstream, for example: maxpool api /v1/models",
        options: &[
            valued("account", "NAME", "use this account (default: the first usable one)"),
            valued("method", "METHOD", "use this method (default: GET, with data POST)"),
            valued("data", "JSON", "send this body"),
        ],
    },
    CommandSpec {
        name: Name::Doctor,
        word: "doctor",
        operands: &[],
        summary: "look for what is wrong",
        about: "Prints a line for each check, and exits with 1 if something is wrong.",
        options: &[],
    },
    CommandSpec {
        name: Name::Completions,
        word: "completions",
        operands: &["SHELL"],
        summary: "print completions for bash, zsh or fish",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Help,
        word: "help",
        operands: &["[COMMAND]"],
        summary: "print help",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Version,
        word: "version",
        operands: &[],
        summary: "print the version",
        about: "",
        options: &[],
    },
];

/// The command of this word.
pub(super) fn command(word: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|command| command.word == word)
}
