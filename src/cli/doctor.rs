//! `doctor`: a line for each thing that can be wrong, with what to do about it. Changes nothing and
//! spends no quota: it only checks whether an upstream answers.

mod environment;
mod finding;
mod running;
mod serving;
mod storage;

use std::fs;
use std::net::{TcpListener, ToSocketAddrs as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use environment::environment;
use finding::{Finding, Verdict, fine, odd, wrong};
use running::what_it_knows;

use super::Context;
use super::accounts::{Token, again, ends_within_month, is_dead};
use super::out::Paint;
use super::web::{self, Presence, Server};
use crate::account::http::HttpCall;
use crate::account::limits::dates;
use crate::account::sources::{self, Sources};
use crate::clock::{self, human};
use crate::config::state::{self, State};
use crate::config::{AccountEntry, BaseUrl, Config, Credential, OauthCredential, Tokens, file};
use crate::error::{Error, Result, reason};
use crate::net::tls;
use crate::proxy::context::proxies;
use crate::report::mask::mask;
use crate::report::text;
use crate::scheduler::time::Wall;

const REACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How far this machine's clock may differ from the upstream's, against which token expiry and
/// resets are measured.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(60);

/// Checks everything; exit 1 if something is wrong.
pub(super) fn examine(context: &mut Context<'_>) -> Result<ExitCode> {
    let path = context.config_path()?;
    let mut findings = Vec::new();
    let mut is_readable = true;
    // First: can a request be served? The rest explains why not, or what may be odd all the same.
    let loaded = file::load(&path);
    let is_missing = |error: &Error| error.io_kind() == Some(std::io::ErrorKind::NotFound);
    findings.extend(match &loaded {
        // Before the first login there is no file, which is the same as having no accounts.
        Err(error) if is_missing(error) => serving::now(&Ok(Config::default())),
        loaded => serving::now(loaded),
    });
    let config = match loaded {
        Ok(config) => {
            findings.push(fine("config", path.display().to_string()));
            findings.extend(config.notices.iter().map(|notice| odd("config", notice)));
            config
        }
        Err(error) if is_missing(&error) => {
            let text = format!("{} does not exist yet; maxpool login creates it", path.display());
            findings.push(odd("config", text));
            Config::default()
        }
        Err(error) => {
            findings.push(wrong("config", error.to_string()));
            is_readable = false;
            Config::default()
        }
    };
    findings.extend(modes(&path));
    if is_readable && path.exists() {
        findings.extend(storage::storage(&path));
    }
    if is_readable {
        let home = (context.variable)("HOME").map(PathBuf::from);
        // What a server has learned; a missing file is an empty state.
        let (known, _) = state::load(&state::path(&path));
        let (port, refused) = port(&config);
        let known = Judged { state: known, refused };
        findings.extend(accounts(&config, &known, home.as_deref(), clock::wall()));
        findings.extend(port);
    }
    findings.extend(certificates(context));
    if is_readable {
        findings.extend(upstreams(context, &config));
        findings.extend(environment(context, &config));
    } else {
        // Results for the defaults would look as if the file had asked for them.
        let text =
            "accounts, port, upstreams and environment will be checked once the config can be read";
        findings.push(odd("config", text));
    }
    let mut exit = ExitCode::SUCCESS;
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Fine => context.out.paint(Paint::Good, "ok   "),
            Verdict::Odd => context.out.paint(Paint::Doubtful, "note "),
            Verdict::Wrong => context.out.paint(Paint::Bad, "WRONG"),
        };
        if finding.verdict == Verdict::Wrong {
            exit = ExitCode::FAILURE;
        }
        // A config error has one line per mistake.
        for line in mask(&finding.text).lines() {
            context.out.prose(&format!("{word} {:<12} {line}", finding.about), 19);
        }
    }
    Ok(exit)
}

fn modes(path: &Path) -> Vec<Finding> {
    let Ok(found) = fs::metadata(path) else {
        return Vec::new();
    };
    let mode = found.mode() & 0o777;
    let mut findings = Vec::new();
    if mode & 0o077 == 0 {
        findings.push(fine("modes", format!("only its owner can read the config ({mode:04o})")));
    } else {
        let text = format!(
            "others can read the config, which holds credentials ({mode:04o}); run: chmod 600 {}",
            path.display()
        );
        findings.push(wrong("modes", text));
    }
    findings
}

/// What is known about the accounts beyond the config.
#[derive(Default)]
struct Judged {
    state: State,
    /// The running proxy's findings about single accounts, by name.
    refused: Vec<(String, Finding)>,
}

fn accounts(config: &Config, known: &Judged, home: Option<&Path>, now: Wall) -> Vec<Finding> {
    if config.accounts.is_empty() {
        return vec![wrong("accounts", "there is no usable account; add one with: maxpool login")];
    }
    if !config.accounts.iter().any(|account| account.enabled) {
        return vec![wrong(
            "accounts",
            "all accounts are disabled; enable one with: maxpool enable NAME",
        )];
    }
    let mut findings = Vec::new();
    let read = Sources::default();
    for account in &config.accounts {
        let refused = known.refused.iter().find(|(name, _)| *name == account.name);
        findings.push(
            refused
                .map(|(_, finding)| finding.clone())
                .or_else(|| dead(account, &known.state, now))
                .or_else(|| ends_soon(account, now))
                .unwrap_or_else(|| token(account, now)),
        );
        if let Some(problem) = sources::problem_of(&read, account, home) {
            let text = format!("{}: {problem}", text::name(&account.name));
            findings.push(if account.enabled {
                wrong("source", text)
            } else {
                odd("source", text)
            });
        }
    }
    findings
}

/// A login whose refresh token is used up or was refused.
fn dead(account: &AccountEntry, known: &State, now: Wall) -> Option<Finding> {
    (account.enabled && is_dead(account, known, now)).then(|| {
        let name = text::name(&account.name);
        let text = format!(
            "{name}: needs login: its refresh token has been used up or was refused; {}",
            again(account)
        );
        wrong("token", text)
    })
}

/// Mentions a token that cannot be renewed some time before it ends.
fn ends_soon(account: &AccountEntry, now: Wall) -> Option<Finding> {
    let left = human(ends_within_month(account, now)?);
    let name = text::name(&account.name);
    let text = format!("{name}: expires in {left} and cannot be renewed; {}", again(account));
    Some(odd("token", text))
}

fn token(account: &AccountEntry, now: Wall) -> Finding {
    let name = text::name(&account.name);
    let disabled = if account.enabled { "" } else { " (disabled)" };
    let expires = match &account.credential {
        Credential::Oauth(OauthCredential {
            tokens: Tokens { expires_at: Some(at), .. }, ..
        }) if *at > now => {
            format!(", expires in {}", human(now.until(*at)))
        }
        Credential::Oauth(_) | Credential::ApiKey(_) | Credential::Provider(_) => String::new(),
    };
    match Token::of(account, now) {
        Token::Key => fine("token", format!("{name}{disabled}: has a key")),
        Token::Valid => fine("token", format!("{name}{disabled}: valid{expires}")),
        Token::Renewable => {
            fine("token", format!("{name}{disabled}: expired; the next request renews it"))
        }
        Token::Imported => {
            fine("token", format!("{name}{disabled}: read from its source when the server starts"))
        }
        Token::Expired if !account.enabled => odd("token", format!("{name}{disabled}: expired")),
        Token::Expired => {
            wrong("token", format!("{name}: expired and cannot be renewed; {}", again(account)))
        }
    }
}

/// What listens on the port, and the running proxy's findings about single accounts.
fn port(config: &Config) -> (Vec<Finding>, Vec<(String, Finding)>) {
    let server = match Server::of(config) {
        Ok(server) => server,
        Err(error) => return (vec![odd("port", error.to_string())], Vec::new()),
    };
    let finding = match server.presence() {
        Presence::Running => {
            let mut findings = vec![fine("port", format!("maxpool answers at {}", server.base()))];
            let known = what_it_knows(&server, config);
            findings.extend(known.findings);
            return (findings, known.refused);
        }
        Presence::Strange(what) => wrong(
            "port",
            format!("{what}; stop that program, or set another proxy.port in the config"),
        ),
        Presence::Absent => {
            match TcpListener::bind((config.proxy.host.as_str(), config.proxy.port)) {
                Ok(_) => odd(
                    "port",
                    format!(
                        "nothing is listening at {}; maxpool is not running; start it with: \
                         maxpool server",
                        server.base()
                    ),
                ),
                Err(error) => wrong(
                    "port",
                    format!(
                        "cannot listen at {}: {}; set another proxy.host or proxy.port in the \
                         config",
                        server.base(),
                        reason(&error)
                    ),
                ),
            }
        }
    };
    (vec![finding], Vec::new())
}

fn certificates(context: &Context<'_>) -> Vec<Finding> {
    let extra =
        (context.variable)("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    vec![match (tls::client_config(extra.as_deref()), &extra) {
        (Err(why), _) => wrong("CA", why),
        (Ok(_), Some(extra)) => {
            fine("CA", format!("built-in certificates and those of {}", extra.display()))
        }
        (Ok(_), None) => fine("CA", "built-in certificates"),
    }]
}

/// The upstreams of the config and of its enabled accounts, each once.
fn upstreams(context: &Context<'_>, config: &Config) -> Vec<Finding> {
    let proxies = match proxies(config) {
        Ok(proxies) => proxies,
        Err(why) => return vec![wrong("proxy", why)],
    };
    let mut urls: Vec<&BaseUrl> = Vec::new();
    let enabled = config.accounts.iter().filter(|account| account.enabled);
    for url in enabled
        .map(|account| account.upstream.as_ref().unwrap_or(&config.upstream))
        .chain([&config.upstream])
    {
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    let mut findings = Vec::new();
    for url in urls {
        findings.extend(storage::unencrypted(url));
        let Ok(uri) = url.as_str().parse::<ureq::http::Uri>() else {
            continue;
        };
        match proxies.proxy_for(&uri) {
            Some(proxy) => findings
                .push(fine("proxy", format!("{} is reached through {proxy:?}", url.as_str()))),
            None => {
                let (resolved, is_found) = resolve(&uri);
                // Several upstreams may be one machine.
                if !findings.contains(&resolved) {
                    findings.push(resolved);
                }
                if !is_found {
                    continue;
                }
            }
        }
        findings.extend(reach(context, config, url));
    }
    findings
}

fn resolve(uri: &ureq::http::Uri) -> (Finding, bool) {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    match (host.trim_matches(['[', ']']), port).to_socket_addrs() {
        Ok(addresses) => {
            let addresses: Vec<String> =
                addresses.map(|address| address.ip().to_string()).collect();
            (fine("DNS", format!("{host} resolves to {}", addresses.join(", "))), true)
        }
        Err(error) => (
            wrong("DNS", format!("cannot resolve {host}: {}; check the network", reason(&error))),
            false,
        ),
    }
}

/// Whether an upstream answers, and how far its clock is from ours.
fn reach(context: &Context<'_>, config: &Config, url: &BaseUrl) -> Vec<Finding> {
    let http = match web::http(context, config) {
        Ok(http) => http,
        // The CA's or the proxy's line gives the reason.
        Err(_) => return Vec::new(),
    };
    let call = |method: &'static str, path: &str| HttpCall {
        method,
        url: format!("{}{path}", url.as_str()),
        headers: vec![("user-agent", concat!("maxpool/", env!("CARGO_PKG_VERSION")).to_owned())],
        body: None,
        timeout: REACH_TIMEOUT,
        reply_bytes_max: 1024 * 1024,
    };
    let reply = match http(call("HEAD", "/")) {
        Ok(reply) => reply,
        Err(failure) => {
            let text = format!(
                "{} does not answer: {}; check the network and the upstream in the config",
                url.as_str(),
                failure.cause
            );
            return vec![wrong("upstream", text)];
        }
    };
    // Without body and credential the request is refused everywhere and spends nothing; a missing
    // path answers 404.
    let mut findings = vec![match http(call("POST", "/v1/messages")) {
        Ok(asked) if asked.status == 404 => {
            let url = url.as_str();
            let text = format!(
                "{url}/v1/messages does not exist (status 404); correct the upstream in the config"
            );
            wrong("upstream", text)
        }
        Ok(asked) => {
            // The API answers 400 or 401 to a request without body and credential.
            let status = match asked.status {
                400 | 401 => String::new(),
                status => format!(" (status {status})"),
            };
            fine("upstream", format!("{} answers{status}", url.as_str()))
        }
        Err(failure) => wrong(
            "upstream",
            format!("{}/v1/messages does not answer: {}", url.as_str(), failure.cause),
        ),
    }];
    let theirs = reply.header("date").and_then(|date| dates::reset_of_text(date, clock::wall()));
    findings.push(match theirs {
        Some(theirs) => clock_against(theirs, clock::wall()),
        None => odd("clock", "cannot be checked: the upstream's answer has no date"),
    });
    findings
}

fn clock_against(theirs: Wall, ours: Wall) -> Finding {
    let (ahead, behind) = (theirs.until(ours), ours.until(theirs));
    let off = ahead.max(behind);
    if off <= CLOCK_OFF_MAX {
        return fine("clock", "agrees with the upstream's clock");
    }
    let way = if ahead > behind { "ahead of" } else { "behind" };
    wrong(
        "clock",
        format!(
            "this machine's clock is {} {way} the upstream's; correct it, otherwise waits and \
            token expiry are miscalculated",
            human(off)
        ),
    )
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
