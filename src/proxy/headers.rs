//! Header lists: what goes upstream, what comes back, and what the client asks of us in `x-maxpool-*`.

use std::fmt;
use std::time::Duration;

/// Header lines in the order in which they came. Names keep their case; every look-up ignores it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, Vec<u8>)>);

/// Whose credential a request carries upstream.
#[derive(Clone, Copy)]
pub(crate) enum Auth<'a> {
    /// The account's (P5): this header and nothing that the client sent. The value is complete (`Bearer …`).
    Pooled {
        /// `authorization` or `x-api-key`.
        name: &'a str,
        /// The whole value.
        value: &'a str,
    },
    /// The client's own login (P3): only key headers that hold a real credential.
    Own,
    /// A token request of the client (T5): whatever it sent, but never our proxy key.
    Untouched {
        /// `proxy.apiKey`.
        proxy_key: &'a [u8],
    },
}

/// What happens to `anthropic-beta` (P5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beta {
    /// Passed as it is.
    AsSent,
    /// `oauth-2025-04-20` is added if it is missing: OAuth accounts.
    WithOauth,
    /// Dropped: `stripBetaHeaders`.
    Strip,
    /// Dropped, then the OAuth one added: an OAuth account with `stripBetaHeaders`.
    OnlyOauth,
}

/// How an answer's body leaves us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyForm {
    /// The upstream's bytes and its length: `content-length` is kept.
    Unmodified,
    /// Framed by us: `content-length` is dropped.
    Reframed,
}

/// What the client says about its request in headers (S8, S9, Q6). Provider credentials are read elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientOptions {
    /// `x-maxpool-profile`.
    pub(crate) profile: Option<String>,
    /// `x-maxpool-session`.
    pub(crate) session: Option<String>,
    /// `x-claude-code-session-id`.
    pub(crate) claude_session: Option<String>,
    /// `x-claude-code-agent-id`.
    pub(crate) claude_agent: Option<String>,
    /// `x-maxpool-client-stream-idle-ms`, as declared: the 95 % of Q6 are the reader's.
    pub(crate) stream_idle: Option<Duration>,
}

impl Headers {
    /// The first value of that name.
    pub(crate) fn get(&self, _name: &str) -> Option<&[u8]> {
        None
    }

    /// The first value of that name, if it is UTF-8, without surrounding blanks.
    pub(crate) fn text(&self, _name: &str) -> Option<&str> {
        None
    }

    /// All values of that name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_slice())
    }

    /// Adds a line at the end.
    pub(crate) fn push(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.push((name.into(), value.into()));
    }

    /// Drops every line of that name.
    pub(crate) fn remove(&mut self, _name: &str) {}
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// The request's headers as they go upstream (P5): everything but framing; `host` and `content-length` are the sender's.
pub(crate) fn upstream(_client: &Headers, _auth: Auth<'_>, _beta: Beta) -> Headers {
    Headers::default()
}

/// The answer's headers as they go to the client (P11).
pub(crate) fn downstream(_upstream: &Headers, _body: BodyForm) -> Headers {
    Headers::default()
}

/// Reads the client's options; `x-teamclaude-*` is the old spelling and loses against the new one.
pub(crate) fn client_options(_headers: &Headers) -> ClientOptions {
    ClientOptions::default()
}

/// Whether the client brought a credential of Anthropic's own (`sk-ant-…`), so that P3's relay applies.
pub(crate) fn has_own_credential(_headers: &Headers) -> bool {
    false
}
