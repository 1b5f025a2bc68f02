//! Headers: what goes upstream, what comes back, and the client's options in `x-maxpool-*`.
//!
//! They are kept in the `http` crate's map, which the HTTP client takes as it is. The map keeps the
//! order of names and the lines of each name. It lower-cases names, which HTTP/1.1 and SPEC P5
//! permit and the client library would do anyway.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use ureq::http::header::{self, AsHeaderName, HeaderName, HeaderValue};
use ureq::http::{Error, HeaderMap, StatusCode};

/// The header lines of one message.
#[derive(Clone, Default)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) struct Headers(HeaderMap);

/// Whose credential a request carries upstream.
#[derive(Clone)]
pub(crate) enum Auth<'a> {
    /// The account's (P5): this header, and no credential of the client's. The value is complete
    /// (`Bearer …`).
    Pooled {
        /// `authorization` or `x-api-key`.
        name: &'static str,
        /// The whole value.
        value: HeaderValue,
    },
    /// The client's own login (P3): only key headers that hold a real credential.
    Own,
    /// A token request of the client (T5): whatever it sent, except our proxy key.
    Untouched {
        /// `proxy.apiKey`.
        proxy_key: &'a [u8],
    },
}

/// What happens to `anthropic-beta` (P5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beta {
    /// Passed on unchanged.
    AsSent,
    /// `oauth-2025-04-20` is added if it is missing (OAuth accounts).
    WithOauth,
    /// Dropped (`stripBetaHeaders`).
    Strip,
    /// Replaced by the OAuth value alone: an OAuth account with `stripBetaHeaders`.
    OnlyOauth,
}

/// The client's options in request headers (S8, S9, Q6). Provider credentials are read elsewhere.
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
    /// `x-maxpool-client-stream-idle-ms`, as declared; the reader takes 95 % of it (Q6).
    pub(crate) stream_idle: Option<Duration>,
}

impl Headers {
    /// An empty list with room for this many lines.
    pub(crate) fn with_capacity(lines: usize) -> Headers {
        Headers(HeaderMap::with_capacity(lines))
    }

    /// Number of lines.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The size of all lines on the wire: name, colon, space, value, line end.
    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
    }

    /// Names and values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    /// The first value of that name. The constants in [`header`] are looked up faster than strings.
    pub(crate) fn get(&self, name: impl AsHeaderName) -> Option<&[u8]> {
        self.0.get(name).map(HeaderValue::as_bytes)
    }

    /// The first value of that name, trimmed, if it is UTF-8.
    pub(crate) fn text(&self, name: impl AsHeaderName) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok().map(str::trim)
    }

    /// All values of that name.
    pub(crate) fn all(&self, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
        self.0.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    /// Adds a line that was received.
    ///
    /// # Errors
    /// The name is not a token or too long, or the value contains a control character.
    pub(crate) fn take(&mut self, name: &str, value: Bytes) -> Result<(), Error> {
        let (name, value) =
            (HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_maybe_shared(value)?);
        self.0.append(name, value);
        Ok(())
    }

    /// Replaces all lines of that name by this one.
    pub(crate) fn replace(&mut self, name: &'static str, value: impl Into<HeaderValue>) {
        self.0.insert(name, value.into());
    }

    /// Adds a line of our own.
    pub(crate) fn push(&mut self, name: &'static str, value: impl Into<HeaderValue>) {
        self.0.append(name, value.into());
    }

    /// The non-empty elements of a comma-separated list over all its lines.
    fn list(&self, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    /// Whether the sender asks to close the connection (RFC 9112 section 9.6).
    pub(crate) fn asks_to_close(&self) -> bool {
        self.list(header::CONNECTION).any(|option| option.eq_ignore_ascii_case(b"close"))
    }

    /// The end-to-end lines for which `keep` returns true, without hop-by-hop headers (RFC 9110
    /// section 7.6.1) and those that `connection` names.
    fn forwarded(
        &self,
        keep: impl Fn(&str, &[u8]) -> bool,
    ) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let named: Vec<&[u8]> = self.list(header::CONNECTION).collect();
        let of_connection = move |name: &str| {
            HOP_BY_HOP.contains(&name)
                || named.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
        };
        self.0.iter().filter(move |(name, value)| {
            !of_connection(name.as_str()) && keep(name.as_str(), value.as_bytes())
        })
    }
}

/// Writes a status line and header lines; the caller adds its own lines and the empty one.
pub(crate) fn write_head<'a>(
    status: u16,
    lines: impl Iterator<Item = (&'a str, &'a [u8])>,
    to: &mut Vec<u8>,
) {
    let known = StatusCode::from_u16(status).unwrap_or_default();
    to.reserve(HEAD_BYTES);
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(known.as_str().as_bytes());
    to.extend_from_slice(b" ");
    to.extend_from_slice(known.canonical_reason().unwrap_or_default().as_bytes());
    to.extend_from_slice(b"\r\n");
    for (name, value) in lines {
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(b": ");
        to.extend_from_slice(value);
        to.extend_from_slice(b"\r\n");
    }
}

/// Enough for the head of most answers.
const HEAD_BYTES: usize = 1024;

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Headers {
        Headers(map)
    }
}

impl From<&Headers> for HeaderMap {
    fn from(headers: &Headers) -> HeaderMap {
        headers.0.clone()
    }
}

/// Hop-by-hop headers (RFC 9110 section 7.6.1, and others in common use).
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Values may be credentials, so only names are printed (D4).
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// The request's headers for the upstream (P5), without framing: the sender sets `host` and
/// `content-length`.
pub(crate) fn upstream(client: &Headers, auth: Auth<'_>, beta: Beta) -> Headers {
    let drops_beta = matches!(beta, Beta::Strip | Beta::OnlyOauth);
    let lines = client.forwarded(|name, value| {
        !(ENDS_HERE.contains(&name)
            || OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || (drops_beta && name == BETA)
            || (is_key_header(name) && !auth.keeps(value)))
    });
    // Room for `accept-encoding`, the credential, the length, and the beta list.
    let mut sent = Headers::with_capacity(client.len() + 4);
    for (name, value) in lines {
        sent.0.append(name.clone(), value.clone());
    }
    sent.0.append(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if matches!(beta, Beta::WithOauth | Beta::OnlyOauth) {
        add_oauth_beta(&mut sent);
    }
    if let Auth::Pooled { name, value } = auth {
        sent.push(name, value);
    }
    sent
}

/// The answer's headers for the client (P11): without framing, which is ours, and without CORS
/// headers, which are never sent (P2).
pub(crate) fn downstream(answer: &Headers) -> impl Iterator<Item = (&str, &[u8])> {
    answer
        .forwarded(|name, _| name != "content-length" && !name.starts_with("access-control-"))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// Reads the client's options; `x-teamclaude-*` is the old spelling, and the new one takes
/// precedence. If a header occurs several times, the first non-empty value counts.
pub(crate) fn client_options(headers: &Headers) -> ClientOptions {
    let mut read = ClientOptions::default();
    let (mut old_profile, mut old_session, mut idle, mut old_idle) = (None, None, None, None);
    // A single pass, because most requests have none of them.
    for (name, value) in headers.iter() {
        let place = match name {
            "x-maxpool-profile" => &mut read.profile,
            "x-maxpool-session" => &mut read.session,
            "x-claude-code-session-id" => &mut read.claude_session,
            "x-claude-code-agent-id" => &mut read.claude_agent,
            "x-maxpool-client-stream-idle-ms" => &mut idle,
            "x-teamclaude-profile" => &mut old_profile,
            "x-teamclaude-session" => &mut old_session,
            "x-teamclaude-client-stream-idle-ms" => &mut old_idle,
            _ => continue,
        };
        let text = std::str::from_utf8(value).map(str::trim).unwrap_or_default();
        if place.is_none() && !text.is_empty() {
            *place = Some(text.to_owned());
        }
    }
    read.profile = read.profile.or(old_profile);
    read.session = read.session.or(old_session);
    read.stream_idle = idle
        .or(old_idle)
        .and_then(|ms| ms.parse().ok())
        .filter(|&ms: &u64| ms > 0)
        .map(Duration::from_millis);
    read
}

/// Whether the client sent an Anthropic credential of its own (`sk-ant-…`), so that P3 relays the
/// request with it.
pub(crate) fn has_own_credential(headers: &Headers) -> bool {
    let mut keys = headers.iter().filter(|(name, _)| is_key_header(name));
    keys.any(|(_, value)| is_real(value))
}

/// The bare key in an `authorization` or `x-api-key` value, without `Bearer`.
pub(crate) fn bare_key(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii_start(),
        _ => value,
    }
}

/// The two headers that may hold a key.
pub(crate) fn is_key_header(name: &str) -> bool {
    matches!(name, "authorization" | "x-api-key")
}

impl Auth<'_> {
    /// Whether a key header of the client is sent upstream.
    fn keeps(&self, value: &[u8]) -> bool {
        match self {
            Auth::Pooled { .. } => false,
            Auth::Own => is_real(value),
            Auth::Untouched { proxy_key } => bare_key(value) != *proxy_key,
        }
    }
}

fn is_real(value: &[u8]) -> bool {
    bare_key(value).starts_with(b"sk-ant-")
}

/// Appends to the first existing line, because some gateways read only that one.
fn add_oauth_beta(headers: &mut Headers) {
    if headers.list(BETA).any(|beta| beta.eq_ignore_ascii_case(OAUTH_BETA.as_bytes())) {
        return;
    }
    let Some(first) = headers.0.get_mut(BETA) else {
        return headers.push(BETA, HeaderValue::from_static(OAUTH_BETA));
    };
    let joined = match first.as_bytes().trim_ascii() {
        b"" => OAUTH_BETA.into(),
        _ => [first.as_bytes(), b",", OAUTH_BETA.as_bytes()].concat(),
    };
    *first = HeaderValue::from_bytes(&joined).expect("two header values make one");
}

const BETA: &str = "anthropic-beta";
const OAUTH_BETA: &str = "oauth-2025-04-20";

/// Set again for the upstream, or handled here.
const ENDS_HERE: [&str; 4] = ["host", "content-length", "accept-encoding", "expect"];

/// Headers addressed to maxpool; the second is the old spelling.
const OUR_PREFIXES: [&str; 2] = ["x-maxpool-", "x-teamclaude-"];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in lines {
            let value = Bytes::copy_from_slice(value.as_bytes());
            headers.take(name, value).expect("a header line");
        }
        headers
    }

    const POOLED: Auth<'_> =
        Auth::Pooled { name: "authorization", value: HeaderValue::from_static("Bearer pooled") };

    #[test]
    fn request_headers() {
        let identity = ("accept-encoding", "identity");
        let credential = ("authorization", "Bearer pooled");
        type Lines = &'static [(&'static str, &'static str)];
        #[rustfmt::skip] // one row a line
        let rows: &[(&str, Lines, Lines)] = &[
            ("P5 everything else passes, order and repetition kept", &[("X-Stainless-Lang", "js"), ("User-Agent", "claude-cli/2.1"), ("a", "1"), ("A", "2")], &[("X-Stainless-Lang", "js"), ("User-Agent", "claude-cli/2.1"), ("a", "1"), ("A", "2")]),
            ("P5 hop-by-hop", &[("Connection", "close"), ("Keep-Alive", "timeout=5"), ("TE", "trailers"), ("Trailer", "x"), ("Transfer-Encoding", "chunked"), ("Upgrade", "h2c"), ("Proxy-Connection", "close"), ("HTTP2-Settings", "x"), ("Proxy-Authenticate", "x"), ("Proxy-Authentication-Info", "x")], &[]),
            ("P5 what Connection names, over several lines and lists", &[("connection", "x-a , X-B"), ("Connection", ",x-c"), ("X-A", "1"), ("x-b", "2"), ("x-C", "3"), ("x-d", "4")], &[("x-d", "4")]),
            ("P5 host, length, encoding, expect", &[("Host", "localhost"), ("content-length", "3"), ("Accept-Encoding", "gzip, br"), ("Expect", "100-continue")], &[]),
            ("P5 ours, both spellings", &[("X-Maxpool-Zai-Token", "secret"), ("x-teamclaude-profile", "all"), ("x-maxpool", "other")], &[("x-maxpool", "other")]),
            ("P5 the client's credentials", &[("Authorization", "Bearer sk-ant-oat"), ("X-Api-Key", "mp-x"), ("Proxy-Authorization", "Basic x")], &[]),
        ];
        for (name, sent, expected) in rows {
            let got = upstream(&headers(sent), POOLED, Beta::AsSent);
            let mut expected = expected.to_vec();
            expected.extend([identity, credential]);
            assert!(got == headers(&expected), "{name}: {got:?}");
        }
    }

    #[test]
    fn credentials_on_a_relay() {
        let client =
            headers(&[("Authorization", "bearer  sk-ant-oat01-x"), ("x-api-key", "mp-key")]);
        let keys = |auth| {
            upstream(&client, auth, Beta::AsSent).iter().filter(|(n, _)| is_key_header(n)).count()
        };
        assert_eq!(keys(Auth::Own), 1, "P3 only the real one");
        assert_eq!(keys(Auth::Untouched { proxy_key: b"mp-key" }), 1, "T5 all but ours");
        assert_eq!(keys(Auth::Untouched { proxy_key: b"mp-other" }), 2, "T5 untouched");
        assert!(has_own_credential(&client), "P3 real");
        for (value, real) in [
            ("sk-ant-api03-x", true),
            ("Bearer sk-ant-oat01-x", true),
            ("BEARER sk-ant-x", true),
            ("Bearersk-ant-x", false),
            ("Basic sk-ant-x", false),
            ("mp-sk-ant-x", false),
            ("", false),
        ] {
            assert_eq!(has_own_credential(&headers(&[("X-API-Key", value)])), real, "P3 {value}");
        }
    }

    #[test]
    fn beta_headers() {
        use Beta::{AsSent, OnlyOauth, Strip, WithOauth};
        type Values = &'static [&'static str];
        #[rustfmt::skip] // one row a line
        let rows: &[(&str, Beta, Values, Values)] = &[
            ("P5 added when absent", WithOauth, &[], &["oauth-2025-04-20"]),
            ("P5 joined to what is there", WithOauth, &["a,b"], &["a,b,oauth-2025-04-20"]),
            ("P5 found in a list", WithOauth, &["a, OAuth-2025-04-20 ,b"], &["a, OAuth-2025-04-20 ,b"]),
            ("P5 found in another line", WithOauth, &["a", "oauth-2025-04-20"], &["a", "oauth-2025-04-20"]),
            ("P5 a longer name is another one", WithOauth, &["oauth-2025-04-201"], &["oauth-2025-04-201,oauth-2025-04-20"]),
            ("P5 an empty line", WithOauth, &[" "], &["oauth-2025-04-20"]),
            ("P5 stripped in every line", Strip, &["a", "b"], &[]),
            ("P5 stripped, yet the login needs its own", OnlyOauth, &["a", "b"], &["oauth-2025-04-20"]),
            ("P5 as sent", AsSent, &["a", ""], &["a", ""]),
        ];
        for (name, beta, sent, expected) in rows {
            let client =
                headers(&sent.iter().map(|value| ("Anthropic-Beta", *value)).collect::<Vec<_>>());
            let got = upstream(&client, POOLED, *beta);
            let got: Vec<&[u8]> = got.all("anthropic-beta").collect();
            let expected: Vec<&[u8]> = expected.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn answer_headers() {
        let sent = headers(&[
            ("Content-Type", "application/json"),
            ("Content-Encoding", "gzip"),
            ("Content-Length", "5"),
            ("Connection", "keep-alive, x-hop"),
            ("X-Hop", "1"),
            ("Transfer-Encoding", "chunked"),
            ("request-id", "req_1"),
            ("Access-Control-Allow-Origin", "*"),
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
        ]);
        let kept: Vec<_> = downstream(&sent).collect();
        let names: Vec<_> = kept.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["content-type", "content-encoding", "request-id", "set-cookie", "set-cookie"],
            "P11 our own framing, P2 no CORS header"
        );
        let values: Vec<_> = kept.iter().map(|(_, value)| *value).collect();
        let expected: [&[u8]; 5] = [b"application/json", b"gzip", b"req_1", b"a", b"b"];
        assert_eq!(values, expected, "P11 every one of them");
    }

    #[test]
    fn options_of_the_client() {
        let read = client_options(&headers(&[
            ("X-Maxpool-Profile", " all "),
            ("x-teamclaude-profile", "claude"),
            ("x-teamclaude-session", "s1"),
            ("X-Claude-Code-Session-Id", "c1"),
            ("x-claude-code-agent-id", ""),
            ("x-maxpool-client-stream-idle-ms", "900000"),
        ]));
        let expected = ClientOptions {
            profile: Some("all".into()),
            session: Some("s1".into()),
            claude_session: Some("c1".into()),
            claude_agent: None,
            stream_idle: Some(Duration::from_secs(900)),
        };
        assert_eq!(read, expected, "S8, S9, Q6, V1 old spelling");
        for bad in ["", "0", "-1", "1.5", "9m", "99999999999999999999"] {
            let read = client_options(&headers(&[("x-maxpool-client-stream-idle-ms", bad)]));
            assert_eq!(read.stream_idle, None, "Q6 unreadable is not declared: {bad}");
        }
    }

    #[test]
    fn values_are_not_printed() {
        let printed = format!("{:?}", headers(&[("authorization", "Bearer sk-ant-secret")]));
        assert_eq!(printed, r#"["authorization"]"#, "D4");
    }

    #[test]
    fn bytes_above_127_pass() {
        let mut client = Headers::default();
        client.take("x-name", Bytes::from_static(&[0xe9, b' ', 0xff])).expect("a header line");
        let got = upstream(&client, POOLED, Beta::AsSent);
        assert_eq!(got.get("X-Name"), Some(&[0xe9, b' ', 0xff][..]), "P5 byte for byte");
        assert_eq!(got.text("x-name"), None);
    }
}
