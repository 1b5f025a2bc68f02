//! Header lists: what goes upstream, what comes back, and what the client asks of us in `x-maxpool-*`.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// Header lines in the order in which they came. Names keep their case; every look-up ignores it.
///
/// Names and values lie one behind the other: a request's lines are copied several times, and an allocation for each name and
/// value was a quarter of all that it made. What is dropped stays in the texts, out of everybody's sight.
#[derive(Clone, Default)]
pub(crate) struct Headers {
    names: String,
    values: Vec<u8>,
    lines: Vec<Line>,
}

/// Where one line's name and value are.
#[derive(Clone)]
struct Line {
    name: Range<usize>,
    value: Range<usize>,
}

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
    /// An empty list with room for about this many lines.
    pub(crate) fn with_room(lines: usize) -> Headers {
        Headers {
            names: String::with_capacity(lines * NAME_BYTES),
            values: Vec::with_capacity(lines * VALUE_BYTES),
            lines: Vec::with_capacity(lines),
        }
    }

    /// The same lines with room for a few more.
    fn with_more_room(&self) -> Headers {
        let mut copy = Headers {
            names: String::with_capacity(self.names.len() + LINES_ADDED * NAME_BYTES),
            values: Vec::with_capacity(self.values.len() + LINES_ADDED * VALUE_BYTES),
            lines: Vec::with_capacity(self.lines.len() + LINES_ADDED),
        };
        copy.names.push_str(&self.names);
        copy.values.extend_from_slice(&self.values);
        copy.lines.extend_from_slice(&self.lines);
        copy
    }

    /// Number of lines.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Names and values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.lines.iter().map(|line| (line.name(&self.names), line.value(&self.values)))
    }

    /// The first value of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        let at = self.position(name, 0)?;
        Some(self.lines[at].value(&self.values))
    }

    /// The first value of that name, if it is UTF-8, without surrounding blanks.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        Some(trimmed(std::str::from_utf8(self.get(name)?).ok()?))
    }

    /// All values of that name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let at = self.position(name, from)?;
            from = at + 1;
            Some(self.lines[at].value(&self.values))
        })
    }

    /// Adds a line at the end.
    pub(crate) fn push(&mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.as_ref(), value.as_ref());
        self.lines.push(Line {
            name: self.names.len()..self.names.len() + name.len(),
            value: self.values.len()..self.values.len() + value.len(),
        });
        self.names.push_str(name);
        self.values.extend_from_slice(value);
    }

    /// All names behind each other and all values, for whoever looks at the bytes of a list of which nothing was dropped.
    pub(crate) fn bytes(&self) -> (&[u8], &[u8]) {
        (self.names.as_bytes(), &self.values)
    }

    /// The first line of that name from this one on.
    fn position(&self, name: &str, from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let line = self.lines.get(at)?;
            // Most names differ in length, and that is seen without reading any.
            if line.name.end - line.name.start == name.len()
                && line.is_named(self.names.as_bytes(), name)
            {
                return Some(at);
            }
            at += 1;
        }
    }

    /// Gives the first line of that name this value.
    fn replace_first(&mut self, name: &str, value: &[u8]) {
        let end = self.values.len();
        if let Some(at) = self.position(name, 0) {
            self.lines[at].value = end..end + value.len();
            self.values.extend_from_slice(value);
        }
    }

    /// The non-empty elements of a comma-separated list over all its lines.
    fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    /// Whether the sender wants no other message on this connection (RFC 9112 section 9.6).
    pub(crate) fn asks_to_close(&self) -> bool {
        self.list("connection").any(|option| is_same(option, b"close"))
    }

    /// What belongs to one connection only.
    fn of_connection(&self) -> OfConnection {
        let named = self.list("connection");
        OfConnection {
            named: named.filter(|name| !is_hop_by_hop(name)).map(<[u8]>::to_vec).collect(),
        }
    }
}

impl Line {
    fn name<'a>(&self, names: &'a str) -> &'a str {
        names.get(self.name.clone()).unwrap_or_default()
    }

    /// Cheaper than to compare it as text, whose ends would be looked at.
    fn is_named(&self, names: &[u8], name: &str) -> bool {
        let own = names.get(self.name.clone());
        own.is_some_and(|own| is_same(own, name.as_bytes()))
    }

    fn value<'a>(&self, values: &'a [u8]) -> &'a [u8] {
        values.get(self.value.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
impl PartialEq for Headers {
    fn eq(&self, other: &Headers) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Which lines of a list belong to one connection only: by RFC 9110 section 7.6.1, or because `connection` names them.
struct OfConnection {
    /// What `connection` names beside those that always belong to it; mostly nothing.
    named: Vec<Vec<u8>>,
}

impl OfConnection {
    fn has(&self, name: &str) -> bool {
        is_hop_by_hop(name.as_bytes())
            || self.named.iter().any(|named| is_same(named, name.as_bytes()))
    }
}

/// Of one connection (RFC 9110 section 7.6.1 and what is in use beside it).
fn is_hop_by_hop(name: &[u8]) -> bool {
    // By length first: every line of every head is asked.
    let of_that_length: &[&str] = match name.len() {
        2 => &["te"],
        7 => &["trailer", "upgrade"],
        10 => &["connection", "keep-alive"],
        14 => &["http2-settings"],
        16 => &["proxy-connection"],
        17 => &["transfer-encoding"],
        18 => &["proxy-authenticate"],
        19 => &["proxy-authorization"],
        25 => &["proxy-authentication-info"],
        _ => &[],
    };
    let mut hops = of_that_length.iter();
    hops.any(|hop| is_same(name, hop.as_bytes()))
}

/// Values may be credentials, so only names are printed (D4).
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// The request's headers as they go upstream (P5): everything but framing; `host` and `content-length` are the sender's.
pub(crate) fn upstream(client: &Headers, auth: Auth<'_>, beta: Beta) -> Headers {
    let drops_beta = matches!(beta, Beta::Strip | Beta::OnlyOauth);
    let of_connection = client.of_connection();
    let stays = |name: &str| {
        of_connection.has(name)
            || ENDS_HERE.iter().any(|own| is_named(name, own))
            || OUR_PREFIXES.iter().any(|prefix| starts_with(name, prefix))
            || (drops_beta && is_named(name, BETA))
    };
    let is_foreign_key = |name: &str, value: &[u8]| is_key_header(name) && !auth.keeps(value);
    let mut sent = client.with_more_room();
    let Headers { names, values, lines } = &mut sent;
    lines.retain(|line| {
        let name = line.name(names);
        !stays(name) && !is_foreign_key(name, line.value(values))
    });
    sent.push("accept-encoding", "identity");
    if matches!(beta, Beta::WithOauth | Beta::OnlyOauth) {
        add_oauth_beta(&mut sent);
    }
    if let Auth::Pooled { name, value } = auth {
        sent.push(name, value);
    }
    sent
}

/// Leaves of the answer's headers those that go to the client (P11). CORS headers never leave us (P2).
pub(crate) fn downstream(answer: &mut Headers, body: BodyForm) {
    let of_connection = answer.of_connection();
    let Headers { names, lines, .. } = answer;
    lines.retain(|line| {
        let name = line.name(names);
        !of_connection.has(name)
            && !starts_with(name, "access-control-")
            && (body == BodyForm::Unmodified || !is_named(name, "content-length"))
    });
}

/// Reads the client's options; `x-teamclaude-*` is the old spelling and loses against the new one.
pub(crate) fn client_options(headers: &Headers) -> ClientOptions {
    let either = |[new, old]: [&str; 2]| filled(headers, new).or_else(|| filled(headers, old));
    ClientOptions {
        profile: either(["x-maxpool-profile", "x-teamclaude-profile"]),
        session: either(["x-maxpool-session", "x-teamclaude-session"]),
        claude_session: filled(headers, "x-claude-code-session-id"),
        claude_agent: filled(headers, "x-claude-code-agent-id"),
        stream_idle: either([
            "x-maxpool-client-stream-idle-ms",
            "x-teamclaude-client-stream-idle-ms",
        ])
        .and_then(|ms| ms.parse().ok())
        .filter(|&ms: &u64| ms > 0)
        .map(Duration::from_millis),
    }
}

/// Whether the client brought a credential of Anthropic's own (`sk-ant-…`), so that P3's relay applies.
pub(crate) fn has_own_credential(headers: &Headers) -> bool {
    let mut keys = headers.iter().filter(|(name, _)| is_key_header(name));
    keys.any(|(_, value)| is_real(value))
}

/// The bare key of an `authorization` or `x-api-key` value: what follows `Bearer`, if that is there.
pub(crate) fn bare_key(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked(7) {
        Some((scheme, key)) if is_same(scheme, b"bearer ") => key.trim_ascii_start(),
        _ => value,
    }
}

/// The two headers that may hold a key.
pub(crate) fn is_key_header(name: &str) -> bool {
    is_named(name, "authorization") || is_named(name, "x-api-key")
}

impl Auth<'_> {
    /// Whether a key header of the client goes upstream.
    fn keeps(self, value: &[u8]) -> bool {
        match self {
            Auth::Pooled { .. } => false,
            Auth::Own => is_real(value),
            Auth::Untouched { proxy_key } => bare_key(value) != proxy_key,
        }
    }
}

fn is_real(value: &[u8]) -> bool {
    bare_key(value).starts_with(b"sk-ant-")
}

/// Equal but for case. The library's comparison reads sixteen letters before it says no, and names that have the length of a
/// sought one mostly differ in their first.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(a, b)| a == b || a.eq_ignore_ascii_case(b))
}

/// The same of text.
pub(crate) fn is_named(name: &str, sought: &str) -> bool {
    name.len() == sought.len() && is_same(name.as_bytes(), sought.as_bytes())
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| is_named(start, prefix))
}

fn filled(headers: &Headers, name: &str) -> Option<String> {
    let value = headers.text(name)?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Without surrounding blanks, which few texts have.
pub(super) fn trimmed(text: &str) -> &str {
    match text.as_bytes() {
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => text,
        _ => text.trim(),
    }
}

/// Joins the first line that is there, because some gateways read only that one.
fn add_oauth_beta(headers: &mut Headers) {
    if headers.list(BETA).any(|beta| is_same(beta, OAUTH_BETA.as_bytes())) {
        return;
    }
    let joined = match headers.get(BETA) {
        None => return headers.push(BETA, OAUTH_BETA),
        Some(value) if value.trim_ascii().is_empty() => OAUTH_BETA.into(),
        Some(value) => [value, b",", OAUTH_BETA.as_bytes()].concat(),
    };
    headers.replace_first(BETA, &joined);
}

/// Room for a line's name and value, as they are in the wild.
const NAME_BYTES: usize = 24;
const VALUE_BYTES: usize = 40;
/// Room for what is added on the way upstream: a credential is as long as a few lines.
const LINES_ADDED: usize = 4;

const BETA: &str = "anthropic-beta";
const OAUTH_BETA: &str = "oauth-2025-04-20";

/// Set anew on the way upstream, or answered here.
const ENDS_HERE: [&str; 4] = ["host", "content-length", "accept-encoding", "expect"];

/// Headers to us; the second is the old spelling.
const OUR_PREFIXES: [&str; 2] = ["x-maxpool-", "x-teamclaude-"];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in lines {
            headers.push(name, value);
        }
        headers
    }

    const POOLED: Auth<'_> = Auth::Pooled { name: "authorization", value: "Bearer pooled" };

    #[test]
    fn request_headers() {
        let identity = ("accept-encoding", "identity");
        let credential = ("authorization", "Bearer pooled");
        type Lines = &'static [(&'static str, &'static str)];
        #[rustfmt::skip] // one row a line
        let rows: &[(&str, Lines, Lines)] = &[
            ("P5 everything else passes, case, order and repetition kept", &[("X-Stainless-Lang", "js"), ("User-Agent", "claude-cli/2.1"), ("a", "1"), ("A", "2")], &[("X-Stainless-Lang", "js"), ("User-Agent", "claude-cli/2.1"), ("a", "1"), ("A", "2")]),
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
        let names = |body| {
            let mut kept = sent.clone();
            downstream(&mut kept, body);
            kept.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            names(BodyForm::Unmodified),
            [
                "Content-Type",
                "Content-Encoding",
                "Content-Length",
                "request-id",
                "Set-Cookie",
                "Set-Cookie"
            ],
            "P11, P2 no CORS header"
        );
        assert_eq!(
            names(BodyForm::Reframed),
            ["Content-Type", "Content-Encoding", "request-id", "Set-Cookie", "Set-Cookie"],
            "P11 our own framing"
        );
        let mut kept = sent.clone();
        downstream(&mut kept, BodyForm::Reframed);
        assert_eq!(kept.len(), 5, "P11");
        assert_eq!(kept.get("content-length"), None, "P11 dropped for good");
        assert_eq!(kept.text("request-id"), Some("req_1"), "P11");
        let cookies: Vec<_> = kept.all("set-cookie").collect();
        assert_eq!(cookies, [b"a", b"b"], "P11 every one of them");
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
        client.push("x-name", [0xe9, b' ', 0xff]);
        let got = upstream(&client, POOLED, Beta::AsSent);
        assert_eq!(got.get("X-Name"), Some(&[0xe9, b' ', 0xff][..]), "P5 byte for byte");
        assert_eq!(got.text("x-name"), None);
    }
}
