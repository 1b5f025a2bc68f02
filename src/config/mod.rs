//! The configuration: every setting with its default, in types that cannot hold an invalid value.
//!
//! The text is read once, strictly (SPEC A2): a value of the wrong type or out of range is an error
//! that names file, line and key, and nothing is coerced. Harmless oddities, such as an unknown key
//! or an account without a credential, become notices. Credentials are never written anywhere
//! except to the config file itself, see [`mod@file`].

mod accounts;
pub(crate) mod atomic;
pub(crate) mod custody;
pub(crate) mod days;
mod deposit;
pub(crate) mod edit;
pub(crate) mod fault;
pub(crate) mod file;
#[cfg(test)]
mod fuzz_tests;
pub(crate) mod identity;
mod locate;
pub(crate) mod masking;
pub(crate) mod near;
pub(crate) mod noted;
mod parse;
mod previous;
mod quota_state;
pub(crate) mod random;
mod reader;
mod record;
pub(crate) mod rescue;
mod secret;
pub(crate) mod settings;
mod spelling;
mod spent;
pub(crate) mod state;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::scheduler::Policy;

pub(crate) use identity::Identity;
pub(crate) use secret::Secret;
pub(crate) use tokens::Tokens;

/// The content of the config file, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// `proxy`: the listening side.
    pub(crate) proxy: Proxy,
    /// `upstream`: the API for Claude accounts.
    pub(crate) upstream: BaseUrl,
    /// `upstreamProxy`: how upstream connections leave this machine.
    pub(crate) upstream_proxy: UpstreamProxy,
    /// The scheduler's settings: `switchThreshold`, and most of `scheduler`, `retry` and `queue`.
    /// Its [`Default`] holds their default values.
    pub(crate) policy: Policy,
    pub(crate) routing: Routing,
    pub(crate) scheduler: Scheduler,
    pub(crate) retry: Retry,
    pub(crate) queue: Queue,
    pub(crate) timeouts: Timeouts,
    /// `shutdown.drainTimeoutMs`: how long running streams may take to end.
    pub(crate) drain_timeout: Duration,
    /// `sync.accountsIntervalMs`: how often the file is checked for changes.
    pub(crate) sync_interval: Duration,
    /// `quotaProbeSeconds`; `None` is off.
    pub(crate) quota_probe: Option<Duration>,
    /// `logDir`, the same as `--log-to`.
    pub(crate) log_dir: Option<PathBuf>,
    /// `logFile`, the same as `--log-file`.
    pub(crate) log_file: Option<PathBuf>,
    /// `accounts`: the usable ones in file order, each identity and each name once (SPEC A4).
    pub(crate) accounts: Vec<AccountEntry>,
    /// Lines to be shown once: unknown keys, accounts that were skipped or renamed.
    pub(crate) notices: Vec<String>,
}

/// `proxy`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proxy {
    /// `host`: a name or an address literal, IPv6 without brackets.
    pub(crate) host: String,
    /// `port`; 0 lets the system choose.
    pub(crate) port: u16,
    /// `apiKey`; `None` if it is absent, null or empty.
    pub(crate) api_key: Option<Secret>,
    /// `requireKey`: loopback clients need the key for inference too.
    pub(crate) require_key: bool,
    /// `maxConnections`: limit of client connections; 0: as many as the descriptors allow.
    pub(crate) connections_max: usize,
}

/// An `http` or `https` URL with a host and optionally a path, without trailing slash, user, query
/// or fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BaseUrl(Arc<str>);

impl BaseUrl {
    /// Parses a URL; `None` if it is anything else.
    pub(crate) fn parse(text: &str) -> Option<BaseUrl> {
        let uri: ureq::http::Uri = text.parse().ok()?;
        let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = uri.query().is_none() && !text.contains(['#', '@']);
        let base = text.trim_end_matches('/');
        // Requests contain `/v1` themselves. A host may have that name, too.
        let base = match uri.path().trim_end_matches('/').ends_with("/v1") {
            true => base.trim_end_matches("v1").trim_end_matches('/'),
            false => base,
        };
        (has_scheme && is_bare && names_a_host(&uri)).then(|| BaseUrl(base.into()))
    }

    /// The text; a path that starts with a slash can be appended to it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a URL has a host and, if it has a port, a valid one.
fn names_a_host(uri: &ureq::http::Uri) -> bool {
    let Some(authority) = uri.authority() else {
        return false;
    };
    let address = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port =
        address.strip_prefix(authority.host()).and_then(|rest| match rest.strip_prefix(':') {
            Some(port) => port.parse().ok(),
            None => rest.is_empty().then_some(0),
        });
    let port: Option<u16> = port;
    !authority.host().is_empty() && port.is_some()
}

/// `upstreamProxy`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum UpstreamProxy {
    /// Absent: `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured.
    Environment,
    /// One proxy for all upstreams; the URL may hold a password.
    Url(Secret),
    /// `false`: always direct.
    Direct,
}

/// `routing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    /// `mode: automatic`, or `preferred` without an account.
    Automatic,
    /// `mode: preferred` with `preferredAccount`.
    Preferred(String),
}

/// `scheduler`, except what the policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scheduler {
    /// `mode`: a label that status shows.
    pub(crate) mode: String,
    /// `sessionAffinity` (SPEC S9).
    pub(crate) session_affinity: SessionAffinity,
}

/// `scheduler.sessionAffinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionAffinity {
    /// `x-maxpool-session`, else Claude Code's own session id.
    Auto,
    /// `x-maxpool-session` alone.
    Header,
    /// No bindings.
    Off,
}

impl SessionAffinity {
    const WORDS: [(&str, SessionAffinity); 3] = [
        ("auto", SessionAffinity::Auto),
        ("header", SessionAffinity::Header),
        ("off", SessionAffinity::Off),
    ];
}

/// `retry`, except what the policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    /// `maxRetryBufferBytes`: a larger request has only one attempt.
    pub(crate) buffer_bytes_max: usize,
}

/// `queue`, except what the policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// `streamClientToleranceMs` (SPEC Q6).
    pub(crate) stream_client_tolerance: Duration,
    /// `heartbeatMs`. It may be 0; the sender of heartbeats guards against that.
    pub(crate) heartbeat: Duration,
    /// `streamForwardGraceMs`.
    pub(crate) stream_forward_grace: Duration,
}

/// `timeouts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// `connectMs`.
    pub(crate) connect: Duration,
    /// `headersMs`: until the head of a streamed answer.
    pub(crate) headers: Duration,
    /// `nonStreamHeadersMs`: until the head of any other answer.
    pub(crate) non_stream_headers: Duration,
    /// `idleMs`: silence of the upstream within an answer.
    pub(crate) idle: Duration,
    /// `clientMs`: how long a client may accept nothing.
    pub(crate) client: Duration,
}

/// One entry of `accounts` with a usable credential (SPEC A3).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AccountEntry {
    /// `name`, made unique (SPEC A4).
    pub(crate) name: String,
    /// `type` and the matching credential.
    pub(crate) credential: Credential,
    pub(crate) enabled: bool,
    /// `priority`; the lower, the sooner it is used.
    pub(crate) priority: i64,
    pub(crate) profiles: Vec<String>,
    pub(crate) account_uuid: Option<String>,
    pub(crate) org_uuid: Option<String>,
    /// `source`: where the entry came from, for display.
    pub(crate) source: Option<String>,
    /// `provider`: `anthropic`, `zai`, `kimi`, or any word.
    pub(crate) provider: String,
    /// `upstream`; `None` means the config's own. Always set for `type: provider`.
    pub(crate) upstream: Option<BaseUrl>,
    /// `authHeader`; `None` means the usual one for the credential (SPEC P5).
    pub(crate) auth_header: Option<AuthHeader>,
    /// `model`: replaces every model.
    pub(crate) model: Option<String>,
    /// `modelMap`: from full model id, family or `default` to a model, in file order.
    pub(crate) model_map: Vec<(String, String)>,
    pub(crate) strip_beta_headers: bool,
    /// `limit`: used shares at which the account is taken out (SPEC S3).
    pub(crate) limit: crate::scheduler::AccountLimit,
}

impl AccountEntry {
    /// The e-mail address with which the account signs in, if its entry tells: its name, or what
    /// `login` has stored in `source`.
    pub(crate) fn email(&self) -> Option<&str> {
        if self.name.contains('@') {
            return Some(&self.name);
        }
        let (_, email) = self.source.as_deref()?.split_once(" as ")?;
        Some(email)
    }

    /// The identity (SPEC A4).
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            account_uuid: self.account_uuid.as_deref(),
            org_uuid: self.org_uuid.as_deref(),
        }
    }
}

/// `type` of an account and its credential.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Credential {
    /// `oauth`: a Claude subscription. Has at least one of access token, refresh token and source.
    Oauth(OauthCredential),
    /// `apikey`: an Anthropic API key.
    ApiKey(Secret),
    /// `provider`: `authToken`, else `apiKey`.
    Provider(Secret),
}

/// The credential of an OAuth account.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct OauthCredential {
    /// The tokens in the entry itself.
    pub(crate) tokens: Tokens,
    /// `importFrom`: the file whose tokens are used while they are newer (SPEC T3).
    pub(crate) import_from: Option<ImportFrom>,
    /// `previous`: the pairs that these tokens have replaced.
    pub(crate) previous: custody::Previous,
    /// `spent`: the refresh tokens that are used up.
    pub(crate) spent: custody::Spent,
}

impl OauthCredential {
    /// The entry's tokens, with the replaced and the used ones.
    pub(crate) fn deposit(&self) -> custody::Deposit {
        custody::Deposit {
            live: self.tokens.clone(),
            previous: self.previous.clone(),
            spent: self.spent.clone(),
        }
    }
}

/// `importFrom`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ImportFrom {
    /// A path (also as `{"path": …}`); a leading `~/` is not expanded yet.
    Path(PathBuf),
    /// Anything else; it stays in the file unchanged.
    Other,
}

/// `authHeader`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthHeader {
    /// `authorization`: `Bearer <credential>`.
    Authorization,
    XApiKey,
}

impl Config {
    /// The value to which `run` and `env` raise a client's own limit, in milliseconds (SPEC Q6):
    /// the longest wait, but never less than before.
    pub(crate) fn raised_limit(&self, own: u64) -> u64 {
        let wait = u64::try_from(self.policy.max_wait.as_millis()).unwrap_or(u64::MAX);
        wait.max(own).min(CLIENT_TIMER_MS_MAX)
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            proxy: Proxy::default(),
            upstream: BaseUrl("https://api.anthropic.com".into()),
            upstream_proxy: UpstreamProxy::Environment,
            policy: Policy::default(),
            routing: Routing::Automatic,
            scheduler: Scheduler::default(),
            retry: Retry::default(),
            queue: Queue::default(),
            timeouts: Timeouts::default(),
            drain_timeout: ms(600_000),
            sync_interval: ms(15_000),
            quota_probe: None,
            log_dir: None,
            log_file: None,
            accounts: Vec::new(),
            notices: Vec::new(),
        }
    }
}

impl Default for Proxy {
    fn default() -> Proxy {
        Proxy {
            host: "127.0.0.1".to_owned(),
            port: 3456,
            api_key: None,
            require_key: false,
            connections_max: 16_384,
        }
    }
}

impl Default for Scheduler {
    fn default() -> Scheduler {
        Scheduler {
            mode: "adaptive-least-loaded".to_owned(),
            session_affinity: SessionAffinity::Auto,
        }
    }
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { buffer_bytes_max: 10_485_760 }
    }
}

/// The limit of Claude Code and the SDKs for a request, in milliseconds.
pub(crate) const CLIENT_TIMEOUT_MS: u64 = 600_000;
/// A JavaScript timer with a longer time fires at once.
const CLIENT_TIMER_MS_MAX: u64 = 2_147_483_647;

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            stream_client_tolerance: ms(280_000),
            heartbeat: ms(10_000),
            stream_forward_grace: ms(10_000),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: ms(10_000),
            headers: ms(120_000),
            non_stream_headers: ms(600_000),
            idle: ms(240_000),
            client: ms(60_000),
        }
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
