//! The table of commands and options, shared by parser, help, completions and the man page's test.

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
    Retry,
    Remove,
    Rename,
    Priority,
    Use,
    Status,
    Usage,
    Explain,
    Api,
    Doctor,
    Service,
    Completions,
    Help,
    Version,
}

/// A command's name and arguments.
#[derive(Debug)]
pub(super) struct CommandSpec {
    pub(super) name: Name,
    pub(super) word: &'static str,
    /// Operands after the options; in brackets if optional.
    pub(super) operands: &'static [&'static str],
    /// One line for the list of commands.
    pub(super) summary: &'static str,
    /// More text for the command's own help; may be empty.
    pub(super) about: &'static str,
    pub(super) options: &'static [OptionSpec],
}

/// An option of a command.
#[derive(Debug)]
pub(super) struct OptionSpec {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// The name of its value, if it takes one.
    pub(super) value: Option<&'static str>,
    pub(super) help: &'static str,
}

const fn flag(long: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { long, short: None, value: None, help }
}

const fn valued(long: &'static str, value: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { long, short: None, value: Some(value), help }
}

/// Accepted by every command. Before a command, `--version` is accepted too.
pub(super) const HELP: OptionSpec =
    OptionSpec { long: "help", short: Some('h'), value: None, help: "print help" };
/// See [`HELP`].
pub(super) const VERSION: OptionSpec =
    OptionSpec { long: "version", short: Some('V'), value: None, help: "print the version" };

/// All commands with their options, without `--help`.
pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        name: Name::Server,
        word: "server",
        operands: &[],
        summary: "run the proxy; the same as maxpool without a command",
        about: "On a terminal it shows the dashboard, otherwise it writes a plain log to standard error. \
                SIGTERM lets running requests finish, SIGHUP re-reads the config, and SIGUSR2 restarts \
                without cutting a stream.",
        options: &[
            valued("log-to", "DIR", "write one file per request to DIR, credentials masked"),
            valued("log-file", "FILE", "also append the plain log to FILE; SIGHUP reopens it"),
            flag("plain", "write the plain log even on a terminal"),
        ],
    },
    CommandSpec {
        name: Name::Run,
        word: "run",
        operands: &["[--]", "[ARGS]"],
        summary: "run Claude Code through the proxy",
        about: "All arguments except a leading --help are passed to claude, which gets the \
                variables that \"maxpool env\" prints; a variable that is already set keeps its \
                value. The exit status is claude's.",
        options: &[],
    },
    CommandSpec {
        name: Name::Env,
        word: "env",
        operands: &[],
        summary: "print the environment variables that clients need",
        about: "For a POSIX shell: eval \"$(maxpool env)\"",
        options: &[flag("with-key", "also print the proxy key, as ANTHROPIC_API_KEY")],
    },
    CommandSpec {
        name: Name::Login,
        word: "login",
        operands: &[],
        summary: "add a Claude account by signing in with a browser",
        about: "There is no account picker: the account that the browser is signed in to at claude.ai is \
                added. To add another one, sign out there first or use a private window. Signing in \
                again with a known account updates it.",
        options: &[
            flag("api", "add an Anthropic API key, typed or piped in"),
            flag("token", "add a token of \"claude setup-token\", typed or piped in"),
            flag("force", "accept a key or token that does not look like one"),
            valued("name", "NAME", "use NAME as the account's name"),
        ],
    },
    CommandSpec {
        name: Name::Import,
        word: "import",
        operands: &[],
        summary: "add the account that Claude Code is signed in to",
        about: "Stores a copy of its tokens. Claude Code keeps renewing its copy, so \"maxpool \
        login\", which gives maxpool separate tokens, is usually better.",
        options: &[
            valued("from", "PATH", "read this file instead of Claude Code's own"),
            valued("json", "TEXT", "read TEXT, or standard input for -, instead of a file"),
            valued("name", "NAME", "use NAME as the account's name"),
        ],
    },
    CommandSpec {
        name: Name::Accounts,
        word: "accounts",
        operands: &[],
        summary: "list the accounts",
        about: "",
        options: &[
            OptionSpec {
                long: "verbose",
                short: Some('v'),
                value: None,
                help: "also show when tokens expire and when they were last renewed",
            },
            flag("json", "print JSON"),
            flag("names", "print only the names, one per line"),
        ],
    },
    CommandSpec {
        name: Name::Enable,
        word: "enable",
        operands: &["NAME"],
        summary: "use an account again, and lift its blocks",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Disable,
        word: "disable",
        operands: &["NAME"],
        summary: "stop using an account but keep its credential",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Retry,
        word: "retry",
        operands: &["NAME"],
        summary: "lift an account's blocks, except a missing credential",
        about: "The running proxy then tries the account with its next request.",
        options: &[],
    },
    CommandSpec {
        name: Name::Remove,
        word: "remove",
        operands: &["NAME"],
        summary: "remove an account and its credential from the config",
        about: "Asks first if standard input is a terminal. Running requests finish.",
        options: &[],
    },
    CommandSpec {
        name: Name::Rename,
        word: "rename",
        operands: &["NAME", "NEW"],
        summary: "rename an account",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Priority,
        word: "priority",
        operands: &["NAME", "NUMBER"],
        summary: "set an account's priority; a lower number is preferred",
        about: "",
        options: &[],
    },
    CommandSpec {
        name: Name::Use,
        word: "use",
        operands: &["[NAME]"],
        summary: "prefer one account, or choose automatically again",
        about: "Give either NAME or --auto.",
        options: &[flag("auto", "choose automatically again")],
    },
    CommandSpec {
        name: Name::Status,
        word: "status",
        operands: &[],
        summary: "show the state of the running proxy",
        about: "",
        options: &[
            flag("json", "print JSON"),
            flag("watch", "show the dashboard of the running proxy"),
            flag("line", "print one line for a prompt; nothing if no proxy runs"),
        ],
    },
    CommandSpec {
        name: Name::Usage,
        word: "usage",
        operands: &[],
        summary: "show requests and tokens per day, account and model",
        about: "Reads the state file, so no proxy has to be running. A running proxy writes that \
        file within 30 seconds of a change.",
        options: &[
            valued("days", "N", "show the last N days, 1 to 31 (default: 7)"),
            flag("json", "print JSON"),
        ],
    },
    CommandSpec {
        name: Name::Explain,
        word: "explain",
        operands: &[],
        summary: "show which account a request would get, and why",
        about: "Asks the running proxy.",
        options: &[
            valued("model", "MODEL", "for a request for this model"),
            valued("session", "ID", "for this session, by its id in the log or in Claude Code"),
            valued("profile", "PROFILE", "for a request with this profile (default: claude)"),
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
            valued("method", "METHOD", "use this method (default: GET, or POST with --data)"),
            valued("data", "JSON", "send this body"),
        ],
    },
    CommandSpec {
        name: Name::Doctor,
        word: "doctor",
        operands: &[],
        summary: "check whether requests can be served and what is wrong",
        about: "Prints a line for each check, changes nothing, and exits with 1 if something is wrong.",
        options: &[],
    },
    CommandSpec {
        name: Name::Service,
        word: "service",
        operands: &["KIND"],
        summary: "print a service file for a supervisor",
        about: "KIND is systemd, socket (a systemd socket unit to go with the service), runit, \
        supervisord or launchd. The file is for this user, this program file and this config. Its \
        comments say where to save it and how to start it.",
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

/// The command of this name.
pub(super) fn command(word: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|command| command.word == word)
}
