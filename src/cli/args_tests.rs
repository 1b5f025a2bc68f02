//! What arguments mean (SPEC C).

#![allow(clippy::unwrap_used)]

use super::super::spec::COMMANDS;
use super::*;

fn parsed(line: &str) -> Result<Command, Misuse> {
    parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
}

/// The debug text of the command, which is enough for comparison.
fn meaning(line: &str) -> String {
    match parsed(line) {
        Ok(Command::Help(command)) => format!("Help({:?})", command.map(|command| command.word)),
        Ok(command) => format!("{command:?}"),
        Err(Misuse(text)) => text,
    }
}

#[test]
fn each_command_is_understood() {
    let server = "Server(ServeOptions { log_to: None, log_file: None, plain: false })";
    for (line, is) in [
        ("", server),
        ("server", server),
        ("--plain", "Server(ServeOptions { log_to: None, log_file: None, plain: true })"),
        (
            "--log-to=/d server",
            "unexpected argument \"server\" for server; see maxpool server --help",
        ),
        (
            "server --log-to /d --plain",
            "Server(ServeOptions { log_to: Some(\"/d\"), log_file: None, plain: true })",
        ),
        (
            "server --log-to=/d",
            "Server(ServeOptions { log_to: Some(\"/d\"), log_file: None, plain: false })",
        ),
        ("env", "Env { with_key: false }"),
        ("env --with-key", "Env { with_key: true }"),
        (
            "server --log-file f",
            "Server(ServeOptions { log_to: None, log_file: Some(\"f\"), plain: false })",
        ),
        ("login", "Login(LoginOptions { by: Browser, force: false, name: None })"),
        (
            "login --api --name=a",
            "Login(LoginOptions { by: Key, force: false, name: Some(\"a\") })",
        ),
        ("login --token --force", "Login(LoginOptions { by: Token, force: true, name: None })"),
        (
            "login --name a --name b",
            "Login(LoginOptions { by: Browser, force: false, name: Some(\"b\") })",
        ),
        ("import", "Import(ImportOptions { from: None, json: None, name: None })"),
        (
            "import --from /c --name n",
            "Import(ImportOptions { from: Some(\"/c\"), json: None, name: Some(\"n\") })",
        ),
        (
            "import --json {}",
            "Import(ImportOptions { from: None, json: Some(\"{}\"), name: None })",
        ),
        ("accounts", "Accounts(Text)"),
        ("accounts --json", "Accounts(Json)"),
        ("accounts --names", "Accounts(Names)"),
        ("accounts -v", "Accounts(Verbose)"),
        ("enable a", "Change(Enabled { name: \"a\", enabled: true })"),
        ("disable a", "Change(Enabled { name: \"a\", enabled: false })"),
        ("retry a", "Change(Retry { name: \"a\" })"),
        ("disable -- -a", "Change(Enabled { name: \"-a\", enabled: false })"),
        ("remove a", "Change(Remove { name: \"a\" })"),
        ("rename a b", "Change(Rename { name: \"a\", new: \"b\" })"),
        ("priority a 5", "Change(Priority { name: \"a\", priority: 5 })"),
        ("priority a -12", "Change(Priority { name: \"a\", priority: -12 })"),
        ("use a", "Change(Use { name: Some(\"a\") })"),
        ("use --auto", "Change(Use { name: None })"),
        ("status", "Status(Text)"),
        ("status --json", "Status(Json)"),
        ("status --watch", "Status(Watch)"),
        ("status --line", "Status(Line)"),
        ("usage", "Usage { days: 7, json: false }"),
        ("usage --days 31 --json", "Usage { days: 31, json: true }"),
        ("service launchd", "Service(Launchd)"),
        (
            "explain --model m --session=s --profile p --json",
            "Explain(ExplainOptions { model: Some(\"m\"), session: Some(\"s\"), profile: Some(\"p\"), json: true })",
        ),
        (
            "api /v1/models",
            "Api(ApiOptions { path: \"/v1/models\", account: None, method: None, data: None })",
        ),
        (
            "api /a --account=x --method post --data [1]",
            "Api(ApiOptions { path: \"/a\", account: Some(\"x\"), method: Some(\"POST\"), data: Some(\"[1]\") })",
        ),
        ("doctor", "Doctor"),
        ("completions zsh", "Completions(Zsh)"),
        ("help", "Help(None)"),
        ("help run", "Help(Some(\"run\"))"),
        ("--help", "Help(None)"),
        ("-h", "Help(None)"),
        ("version", "Version"),
        ("--version", "Version"),
        ("-V", "Version"),
        ("status --version", "Version"),
    ] {
        assert_eq!(meaning(line), is, "maxpool {line}");
    }
}

#[test]
fn each_command_has_its_help() {
    for command in COMMANDS {
        for option in ["--help", "-h"] {
            let expected = match (command.name, option) {
                (Name::Run, "-h") => "Run([\"-h\"])".to_owned(),
                _ => format!("Help({:?})", Some(command.word)),
            };
            assert_eq!(meaning(&format!("{} {option}", command.word)), expected);
        }
    }
}

#[test]
fn run_gives_everything_but_a_first_help_to_claude() {
    for (line, is) in [
        ("run", "Run([])"),
        ("run --help", "Help(Some(\"run\"))"),
        ("run -p hi --help", "Run([\"-p\", \"hi\", \"--help\"])"),
        ("run -- --help", "Run([\"--help\"])"),
        ("run -- -- x", "Run([\"--\", \"x\"])"),
        ("run -x --y=1 --version", "Run([\"-x\", \"--y=1\", \"--version\"])"),
    ] {
        assert_eq!(meaning(line), is);
    }
}

#[test]
fn misuse_says_what_and_where_to_look() {
    for (line, text) in [
        ("bogus", "unknown command \"bogus\"; see maxpool help"),
        ("help bogus", "unknown command \"bogus\"; see maxpool help"),
        ("staus", "unknown command \"staus\"; did you mean status? See maxpool help"),
        ("help logn", "unknown command \"logn\"; did you mean login? See maxpool help"),
        (
            "status --jsno",
            "unknown option --jsno for status; did you mean --json? See maxpool status --help",
        ),
        (
            "server --port=1",
            "unknown option --port for server; set proxy.port in the config; see maxpool server \
             --help",
        ),
        ("login --force", "--force needs --api or --token; see maxpool login --help"),
        ("login --api --token", "give either --api or --token, not both; see maxpool login --help"),
        (
            "usage --days 0",
            "expected a number of days from 1 to 31, got \"0\"; see maxpool usage --help",
        ),
        (
            "service systmd",
            "KIND must be one of systemd, socket, runit, supervisord, launchd; got \"systmd\"; \
             did you mean systemd? See maxpool service --help",
        ),
        ("--bogus", "unknown option --bogus for server; see maxpool server --help"),
        ("status --with-key", "unknown option --with-key for status; see maxpool status --help"),
        ("accounts -x", "unknown option -x for accounts; see maxpool accounts --help"),
        ("enable", "enable needs NAME; see maxpool enable --help"),
        ("rename a", "rename needs NEW; see maxpool rename --help"),
        ("enable a b", "unexpected argument \"b\" for enable; see maxpool enable --help"),
        ("env x", "unexpected argument \"x\" for env; see maxpool env --help"),
        ("priority a high", "expected a whole number, got \"high\"; see maxpool priority --help"),
        ("priority a 1.5", "expected a whole number, got \"1.5\"; see maxpool priority --help"),
        ("use", "use needs either NAME or --auto; see maxpool use --help"),
        ("use a --auto", "use needs either NAME or --auto; see maxpool use --help"),
        (
            "status --json --watch",
            "give either --json or --watch, not both; see maxpool status --help",
        ),
        (
            "import --from a --json b",
            "give either --from or --json, not both; see maxpool import --help",
        ),
        (
            "completions csh",
            "SHELL must be one of bash, zsh, fish; got \"csh\"; did you mean zsh? See maxpool \
             completions --help",
        ),
        (
            "api v1/models",
            "PATH must start with a single / and be percent-encoded, as in /v1/models; see \
            maxpool api --help",
        ),
        (
            "api //evil.com/",
            "PATH must start with a single / and be percent-encoded, as in /v1/models; see \
            maxpool api --help",
        ),
        (
            "api /a --method B@D",
            "--method must be one of GET, POST, PUT, PATCH, DELETE, HEAD; see maxpool api --help",
        ),
        ("api /a --data {", "--data is not valid JSON; see maxpool api --help"),
        (
            "login --name=",
            "--name must not be empty or contain control characters; see maxpool login --help",
        ),
        ("server --log-to", "missing argument for option '--log-to'; see maxpool server --help"),
        (
            "env --with-key=1",
            "unexpected argument for option '--with-key': \"1\"; see maxpool env --help",
        ),
    ] {
        assert_eq!(meaning(line), text, "maxpool {line}");
    }
    let empty = parse(["enable", ""].map(OsString::from)).unwrap_err();
    assert_eq!(empty.0, "NAME is empty; see maxpool enable --help");
    let name = parse(["login", "--name", "a\u{1b}"].map(OsString::from)).unwrap_err();
    assert!(name.0.starts_with("--name must not be empty"), "{name:?}");
}

#[test]
fn arguments_that_are_no_text() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = || OsString::from_vec(vec![b'/', 0xff]);
    let parse = |words: [OsString; 3]| parse(words);
    assert!(parse(["enable".into(), odd(), "x".into()]).unwrap_err().0.contains("is not UTF-8"));
    assert!(
        parse(["login".into(), "--name".into(), odd()]).unwrap_err().0.contains("is not UTF-8")
    );
    let Ok(Command::Server(options)) = parse(["server".into(), "--log-to".into(), odd()]) else {
        unreachable!("a path may be any bytes");
    };
    assert_eq!(options.log_to, Some(PathBuf::from(odd())));
    let Ok(Command::Run(arguments)) = parse(["run".into(), odd(), "x".into()]) else {
        unreachable!("so may an argument of claude");
    };
    assert_eq!(arguments, [odd(), "x".into()]);
}

#[test]
fn the_table_holds_together() {
    for command in COMMANDS {
        assert_eq!(
            COMMANDS.iter().filter(|other| other.word == command.word).count(),
            1,
            "{}",
            command.word
        );
        for option in command.options {
            let same = command.options.iter().filter(|other| other.long == option.long).count();
            assert_eq!(same, 1, "{} --{}", command.word, option.long);
        }
    }
    assert_eq!(COMMANDS[0].name, Name::Server, "options without a command are the server's");
}
