//! `env` and `run`: the environment that a client needs (SPEC C, Q6).

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::Context;
use super::web::{self, Presence, Server};
use crate::account::sign_in::import::ClaudeCode;
use crate::config::{CLIENT_TIMEOUT_MS, Config};
use crate::error::{Error, Result, reason};

const BASE_URL: &str = "ANTHROPIC_BASE_URL";
const STREAM_IDLE: &str = "CLAUDE_STREAM_IDLE_TIMEOUT_MS";
const TIMEOUT: &str = "API_TIMEOUT_MS";
const KEY: &str = "ANTHROPIC_API_KEY";
const HEADERS: &str = "ANTHROPIC_CUSTOM_HEADERS";
/// The header by which a client declares how long it tolerates a stream without content.
const DECLARATION: &str = "x-maxpool-client-stream-idle-ms";

/// Claude Code's own limit for a stream without content; the environment can only raise it.
const STREAM_IDLE_MS: u64 = 300_000;

/// `env`.
pub(super) fn env(context: &mut Context<'_>, config: &Config, with_key: bool) -> Result<()> {
    let mut variables = variables(config)?;
    if with_key {
        let key = config.proxy.api_key.as_ref();
        let key = key.ok_or_else(|| {
            Error::operator("the config has no proxy key; set proxy.apiKey in it")
        })?;
        variables.push((KEY, key.expose().to_owned()));
    }
    let lines: String = variables
        .iter()
        .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
        .collect();
    context.out.result(&lines);
    Ok(())
}

/// The base URL and the two limits of Claude Code, raised to the longest wait.
fn variables(config: &Config) -> Result<Vec<(&'static str, String)>> {
    let raised = |own| config.raised_limit(own).to_string();
    Ok(vec![
        (BASE_URL, web::base_url(config)?),
        (STREAM_IDLE, raised(STREAM_IDLE_MS)),
        (TIMEOUT, raised(CLIENT_TIMEOUT_MS)),
    ])
}

/// `run`: replaces this process by `claude`, so exit status and signals are claude's own. Returns
/// only with an error.
pub(super) fn run(
    context: &mut Context<'_>,
    config: &Config,
    arguments: &[OsString],
) -> Result<()> {
    let claude = find(context, "claude").ok_or_else(|| {
        Error::operator(
            "claude is not in PATH; install it with: npm install -g @anthropic-ai/claude-code",
        )
    })?;
    let server = Server::of(config)?;
    match server.presence() {
        Presence::Running => {}
        Presence::Absent => {
            return Err(Error::operator(format!(
                "no proxy answers at {}; start it in another terminal with: maxpool server",
                server.base()
            )));
        }
        Presence::Strange(what) => {
            return Err(Error::operator(format!(
                "{what}; stop the other program on that port, or set another proxy.port in the \
                 config"
            )));
        }
    }
    let is_set = |name: &str| (context.variable)(name).filter(|value| !value.is_empty());
    let variables = variables(config)?;
    let elsewhere =
        is_set(BASE_URL).filter(|url| !web::is_same_place(&url.to_string_lossy(), server.base()));
    if let Some(other) = &elsewhere {
        let other = other.to_string_lossy().escape_debug().to_string();
        context.out.remark(&format!(
            "maxpool: {BASE_URL} is already set to {other}, so claude does not use this proxy; \
             unset it to use the proxy"
        ));
    }
    if config.proxy.require_key && is_set(KEY).is_none() {
        context.out.remark(&format!(
            "maxpool: proxy.requireKey is true and {KEY} is not set, so requests will be refused; \
             set the key with: eval \"$(maxpool env --with-key)\""
        ));
    }
    if let Some(hint) = not_signed_in(context) {
        context.out.remark(&hint);
    }
    let mut command = Command::new(&claude);
    command.args(arguments);
    for (name, value) in &variables {
        if is_set(name).is_none() {
            command.env(name, value);
        }
    }
    let limit = |name: &str| match is_set(name) {
        Some(own) => own.to_str().and_then(|own| own.trim().parse().ok()),
        None => variables
            .iter()
            .find(|(other, _)| *other == name)
            .and_then(|(_, value)| value.parse().ok()),
    };
    let headers = is_set(HEADERS);
    if elsewhere.is_none()
        && let Some(headers) = declared(headers.as_deref(), limit(STREAM_IDLE), limit(TIMEOUT))
    {
        command.env(HEADERS, headers);
    }
    let failed = command.exec();
    Err(Error::operator(format!("cannot run {}: {}", claude.display(), reason(&failed))))
}

/// What to do if Claude Code itself is not signed in: it would ask for a login, although the proxy
/// has accounts.
fn not_signed_in(context: &Context<'_>) -> Option<String> {
    let is_set = |name: &str| (context.variable)(name).is_some_and(|value| !value.is_empty());
    let has_credential =
        [KEY, "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"].into_iter().any(is_set);
    // On macOS the login is in the Keychain, and reading it would prompt the user.
    if cfg!(target_os = "macos") || has_credential {
        return None;
    }
    let claude = ClaudeCode::of(context.variable)?;
    (!claude.is_signed_in()).then(|| {
        "maxpool: Claude Code is not signed in and will ask you to log in. Sign in there once \
         (any of your accounts will do), or give it the proxy's key instead: \
         eval \"$(maxpool env --with-key)\" && maxpool run"
            .to_owned()
    })
}

/// The user's own headers plus the declaration of how long the client waits, which is the shorter
/// of its two limits. `None` if it is declared already, or if a limit is unknown.
fn declared(
    own: Option<&OsStr>,
    stream_idle_ms: Option<u64>,
    timeout_ms: Option<u64>,
) -> Option<OsString> {
    let limit = stream_idle_ms?.min(timeout_ms?);
    let line = format!("{DECLARATION}: {limit}");
    let Some(own) = own else {
        return Some(line.into());
    };
    let shown = own.to_string_lossy();
    let name_of =
        |line: &str| line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
    if shown.lines().any(|line| name_of(line) == DECLARATION) {
        return None;
    }
    let mut headers = own.to_owned();
    if !shown.ends_with('\n') {
        headers.push("\n");
    }
    headers.push(line);
    Some(headers)
}

/// The first executable file of that name in `PATH`.
fn find(context: &Context<'_>, name: &str) -> Option<PathBuf> {
    let path = (context.variable)("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| !directory.as_os_str().is_empty())
        .map(|it| it.join(name))
        .find(|file| {
            file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

/// Quotes a value for a POSIX shell, if that is necessary.
pub(super) fn quoted(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&byte);
    if !value.is_empty() && value.bytes().all(is_plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Secret;
    use std::time::Duration;

    fn config(wait_ms: u64) -> Config {
        let mut config = Config::default();
        config.policy.max_wait = Duration::from_millis(wait_ms);
        config.proxy.api_key = Some(Secret::new("mp-it's"));
        config
    }

    fn printed(config: &Config, with_key: bool) -> String {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut context = Context::for_tests(&mut stdout, &mut stderr, &|_| None);
        env(&mut context, config, with_key).unwrap();
        assert_eq!(stderr, b"");
        String::from_utf8(stdout).unwrap()
    }

    #[test]
    fn env_prints_exports_and_the_key_only_when_asked() {
        let exports = "export ANTHROPIC_BASE_URL=http://127.0.0.1:3456\n\
                       export CLAUDE_STREAM_IDLE_TIMEOUT_MS=86400000\n\
                       export API_TIMEOUT_MS=86400000\n";
        assert_eq!(printed(&config(86_400_000), false), exports);
        assert_eq!(
            printed(&config(86_400_000), true),
            format!("{exports}export ANTHROPIC_API_KEY='mp-it'\\''s'\n")
        );
    }

    #[test]
    fn q6_the_limits_are_raised_and_never_lowered_and_no_timer_overflows() {
        for (wait, idle, timeout) in [
            (0, "300000", "600000"),
            (400_000, "400000", "600000"),
            (u64::MAX, "2147483647", "2147483647"),
        ] {
            let variables = variables(&config(wait)).unwrap();
            assert_eq!((variables[1].1.as_str(), variables[2].1.as_str()), (idle, timeout));
        }
    }

    #[test]
    fn values_are_quoted_only_where_needed() {
        for (value, shown) in [
            ("http://127.0.0.1:3456", "http://127.0.0.1:3456"),
            ("http://[::1]:3456", "'http://[::1]:3456'"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(x)'", "'$(x)'\\'''"),
        ] {
            assert_eq!(quoted(value), shown);
        }
    }

    #[test]
    fn q6_run_declares_what_the_client_bears_beside_the_users_own_headers() {
        let line = |ms: u64| format!("x-maxpool-client-stream-idle-ms: {ms}");
        for (rule, own, idle, timeout, headers) in [
            ("alone", None, Some(7), Some(9), Some(line(7))),
            ("the shorter limit counts", None, Some(9), Some(7), Some(line(7))),
            ("an unreadable limit is not declared", None, None, Some(7), None),
            ("added", Some("x-a: 1"), Some(7), Some(7), Some(format!("x-a: 1\n{}", line(7)))),
            (
                "added behind a line end",
                Some("x-a: 1\n"),
                Some(7),
                Some(7),
                Some(format!("x-a: 1\n{}", line(7))),
            ),
            (
                "the user's own stays",
                Some("a: 1\nX-Maxpool-Client-Stream-Idle-Ms : 5"),
                Some(7),
                Some(7),
                None,
            ),
        ] {
            assert_eq!(
                declared(own.map(OsStr::new), idle, timeout),
                headers.map(OsString::from),
                "{rule}"
            );
        }
    }
}
