//! Who may enter, and how the request is framed (P2). Checks a received head; reads no socket.

use std::net::IpAddr;

use subtle::ConstantTimeEq;
use ureq::http::header;

use super::head::{DoorRefusal, HEAD_TOO_LARGE, HEADERS_MAX, RequestHead, refused};
use super::paths::{self, Local, Route};
use super::target;
use crate::http::headers::{self, Headers};
use crate::http::peek::BODY_BYTES_MAX;

/// The settings that decide who may enter.
#[derive(Clone, Copy)]
pub(crate) struct Door<'a> {
    /// `proxy.host`.
    pub(crate) host: &'a str,
    /// `proxy.apiKey`; if it is empty, no key matches.
    pub(crate) key: &'a [u8],
    /// `proxy.requireKey`.
    pub(crate) require_key: bool,
}

/// How the request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    NoBody,
    /// `content-length`, at most [`crate::http::peek::BODY_BYTES_MAX`].
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
}

/// A request that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// How its body is sent.
    pub(crate) form: Form,
    /// Its route.
    pub(crate) route: Route,
}

/// How a request's body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// How its end is found.
    pub(crate) framing: Framing,
    /// `expect: 100-continue` was sent: the client waits for permission to send the body.
    pub(crate) expects_continue: bool,
}

impl Door<'_> {
    /// Checks a head from `peer`: framing and target first, then the key or else `Host`, then
    /// `Origin`.
    ///
    /// # Errors
    /// The answer to send; the request must not be used.
    pub(crate) fn check(&self, head: &RequestHead, peer: IpAddr) -> Result<Entry, DoorRefusal> {
        let form = form(head)?;
        let entry = Entry { form, route: paths::route(&head.method, &head.target) };
        self.check_sender(head, &entry.route, peer)
            .map_err(|refusal| DoorRefusal { close: form.framing != Framing::NoBody, ..refusal })?;
        Ok(entry)
    }

    /// Whether either key header holds the proxy key, compared in constant time.
    pub(crate) fn holds_key(&self, headers: &Headers) -> bool {
        let mut keys = headers.iter().filter(|(name, _)| headers::is_key_header(name));
        !self.key.is_empty()
            && keys.any(|(name, value)| {
                let key = headers::bare_key(value);
                // `authorization` carries a key only together with its scheme (RFC 6750 section
                // 2.1).
                let whole = key.len() == value.trim_ascii().len();
                let misplaced = whole && name == "authorization";
                !misplaced && bool::from(key.ct_eq(self.key))
            })
    }

    /// A client that needs a key is judged by it first, one without a key by `Host`.
    fn check_sender(
        &self,
        head: &RequestHead,
        route: &Route,
        peer: IpAddr,
    ) -> Result<(), DoorRefusal> {
        let local_peer = peer.to_canonical().is_loopback();
        let needs_key = match route {
            Route::Local(Local::Health) => false,
            Route::Local(local) if local.needs_key() => true,
            _ => self.require_key || !local_peer,
        };
        let holds_key = self.holds_key(&head.headers);
        if needs_key && !holds_key {
            return Err(DoorRefusal {
                status: 401,
                kind: "authentication_error",
                message: NEEDS_KEY.to_owned(),
                close: true,
            });
        }
        // A page that uses DNS rebinding does not know the key. A client in a container does, and
        // reaches us as host.docker.internal. A remote peer without a key can only ask for our
        // health.
        if local_peer && !holds_key {
            self.check_host(head)?;
        }
        check_origin(&head.headers)
    }

    fn check_host(&self, head: &RequestHead) -> Result<(), DoorRefusal> {
        // Only HTTP/1.0 can lack a Host here, and no browser uses that.
        let Some(value) = head.headers.get(header::HOST) else {
            return Ok(());
        };
        let ours = std::str::from_utf8(value)
            .ok()
            .and_then(host_of)
            .is_some_and(|host| self.is_ours(host));
        if ours {
            return Ok(());
        }
        Err(forbidden(format!(
            "the host {:?} is not this proxy's: use 127.0.0.1, localhost or the proxy.host of the \
             configuration",
            shown(value)
        )))
    }

    fn is_ours(&self, host: &str) -> bool {
        let configured = self.host.trim_start_matches('[').trim_end_matches(']');
        let literal: Option<IpAddr> = host.parse().ok();
        literal.is_some_and(|ip| ip.to_canonical().is_loopback())
            || host.eq_ignore_ascii_case("localhost")
            || (!configured.is_empty() && host.eq_ignore_ascii_case(configured))
    }
}

/// Checks the form of a head, whoever sent it.
///
/// # Errors
/// The answer to send; the start of the next request cannot be determined.
pub(super) fn form(head: &RequestHead) -> Result<Form, DoorRefusal> {
    check_line(head)?;
    check_lines(head)?;
    let framing = framing(head)?;
    let expects_continue = expects_continue(head)? && framing != Framing::NoBody;
    Ok(Form { framing, expects_continue })
}

/// Checks version, method and target.
fn check_line(head: &RequestHead) -> Result<(), DoorRefusal> {
    if !matches!(head.version, (1, 0 | 1)) {
        return Err(refused(505, "only HTTP/1.0 and HTTP/1.1 are supported"));
    }
    if head.method.len() > METHOD_BYTES_MAX {
        return Err(refused(400, "the request method is longer than 32 characters"));
    }
    // With TRACE, the upstream's answer would show the pooled credential to the client.
    if ["CONNECT", "TRACE", "TRACK"].contains(&head.method.as_str()) {
        return Err(refused(400, format!("the method {} is not supported", head.method)));
    }
    target::check(&head.target).map_err(|problem| refused(400, problem))
}

/// Checks number and size of the header lines, and `Host` (RFC 9112 section 3.2).
fn check_lines(head: &RequestHead) -> Result<(), DoorRefusal> {
    if head.headers.len() > HEADERS_MAX || head.headers.bytes() > HEADER_BYTES_MAX {
        return Err(refused(431, HEAD_TOO_LARGE));
    }
    check_number_of_hosts(head)
}

fn check_number_of_hosts(head: &RequestHead) -> Result<(), DoorRefusal> {
    match head.headers.all(header::HOST).count() {
        0 if head.version == (1, 1) => Err(refused(400, "an HTTP/1.1 request needs a Host header")),
        0 | 1 => Ok(()),
        _ => Err(refused(400, "more than one Host header")),
    }
}

/// The body's framing. Everything ambiguous is refused, because two readings of one message allow
/// request smuggling.
fn framing(head: &RequestHead) -> Result<Framing, DoorRefusal> {
    let mut codings = head.headers.all(header::TRANSFER_ENCODING);
    let mut lengths = head.headers.all(header::CONTENT_LENGTH);
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::NoBody),
        (None, Some(length)) if lengths.next().is_none() => content_length(length),
        (None, Some(_)) => Err(refused(400, "more than one Content-Length")),
        (Some(_), Some(_)) => Err(refused(400, "both Content-Length and Transfer-Encoding")),
        (Some(_), None) if head.version == (1, 0) => {
            Err(refused(400, "Transfer-Encoding in an HTTP/1.0 request"))
        }
        (Some(coding), None)
            if codings.next().is_none() && coding.trim_ascii().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(Framing::Chunked)
        }
        (Some(_), None) => Err(refused(400, "a transfer coding other than chunked")),
    }
}

fn content_length(value: &[u8]) -> Result<Framing, DoorRefusal> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(refused(400, "Content-Length is not a number"));
    }
    let text = std::str::from_utf8(digits).unwrap_or_default();
    match text.parse() {
        Ok(0) => Ok(Framing::NoBody),
        Ok(length) if length <= BODY_BYTES_MAX => Ok(Framing::Length(length)),
        // A number of digits alone fails to parse only if it is too large.
        _ => Err(refused(413, "the request body is larger than 256 MiB, the limit of maxpool")),
    }
}

fn expects_continue(head: &RequestHead) -> Result<bool, DoorRefusal> {
    let mut expectations = head.headers.all(header::EXPECT).map(<[u8]>::trim_ascii).peekable();
    // RFC 9110 section 10.1.1: ignored in HTTP/1.0.
    if head.version == (1, 0) || expectations.peek().is_none() {
        return Ok(false);
    }
    if expectations.all(|value| value.eq_ignore_ascii_case(b"100-continue")) {
        return Ok(true);
    }
    Err(refused(417, "an expectation other than 100-continue"))
}

/// Refuses pages of another origin. Programs send neither header.
fn check_origin(headers: &Headers) -> Result<(), DoorRefusal> {
    let host = headers.get(header::HOST).map(<[u8]>::trim_ascii).unwrap_or_default();
    for origin in headers.all(header::ORIGIN).map(<[u8]>::trim_ascii) {
        let authority =
            origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        if host.is_empty()
            || !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        {
            return Err(forbidden(format!(
                "requests from web pages are refused; this one came from {:?}",
                shown(origin)
            )));
        }
    }
    if headers
        .all("sec-fetch-site")
        .any(|site| site.trim_ascii().eq_ignore_ascii_case(b"cross-site"))
    {
        return Err(forbidden("requests from web pages of other sites are refused".to_owned()));
    }
    Ok(())
}

/// The host of `host[:port]`, without the brackets of an IPv6 literal.
fn host_of(value: &str) -> Option<&str> {
    let value = value.trim();
    let (host, port) = match value.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            // Only an address may be in brackets.
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => value.split_at(value.find(':').unwrap_or(value.len())),
    };
    let port_is_one = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty()
                || (digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    port_is_one.then_some(host)
}

/// Text from the client, made safe for our own messages.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(80).collect()
}

fn forbidden(message: String) -> DoorRefusal {
    DoorRefusal { status: 403, kind: "permission_error", message, close: true }
}

const METHOD_BYTES_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = 64 * 1024;
const NEEDS_KEY: &str = "the proxy key is missing or wrong: send proxy.apiKey of maxpool.json in \
                         x-api-key or Authorization: Bearer";

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::testing::chance::{Random, rounds};

    const KEY: &str = "mp-key";
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const AWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 9));
    const OPEN: Door<'_> = Door { host: "127.0.0.1", key: KEY.as_bytes(), require_key: false };

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in lines {
            headers.take(name, Bytes::copy_from_slice(value.as_bytes())).expect("a header line");
        }
        headers
    }

    fn check(
        door: &Door<'_>,
        line: Line<'_>,
        lines: &[(&str, &str)],
        peer: IpAddr,
    ) -> Result<Entry, DoorRefusal> {
        let (method, target, version) = line;
        let head = RequestHead {
            method: method.to_owned(),
            target: target.to_owned(),
            version,
            headers: headers(lines),
        };
        door.check(&head, peer)
    }

    fn status(result: &Result<Entry, DoorRefusal>) -> u16 {
        result.as_ref().map_or_else(|refusal| refusal.status, |_| 200)
    }

    type Line<'a> = (&'a str, &'a str, (u8, u8));
    const POST: Line<'_> = ("POST", "/v1/messages?beta=true", (1, 1));
    const HOST: (&str, &str) = ("Host", "localhost:3456");

    #[test]
    fn request_lines() {
        #[rustfmt::skip] // one row a line
        let rows: &[(&str, Line<'_>, u16)] = &[
            ("P2 fine", POST, 200),
            ("P2 HTTP/1.0", ("GET", "/", (1, 0)), 200),
            ("P2 version", ("GET", "/", (2, 0)), 505),
            ("P2 version", ("GET", "/", (0, 9)), 505),
            ("P2 version", ("GET", "/", (1, 2)), 505),
            ("P2 any token is a method", ("M-SEARCH", "/x", (1, 1)), 200),
            ("P2 CONNECT", ("CONNECT", "localhost:80", (1, 1)), 400),
            ("P2 TRACE shows credentials", ("TRACE", "/v1/x", (1, 1)), 400),
            ("P2 absolute form", ("GET", "http://localhost/", (1, 1)), 400),
            ("P2 asterisk", ("OPTIONS", "*", (1, 1)), 400),
            ("P2 no target", ("GET", "", (1, 1)), 400),
            ("P2 control character", ("GET", "/a\u{1}", (1, 1)), 400),
            ("P2 blank", ("GET", "/a b", (1, 1)), 400),
            ("P2 above 127", ("GET", "/ä", (1, 1)), 400),
            ("P2 fragment", ("GET", "/a#b", (1, 1)), 400),
            ("P2 dot segment", ("GET", "/v1/../x", (1, 1)), 400),
            ("P2 dot segment", ("GET", "/v1/.", (1, 1)), 400),
            ("P2 dot segment with parameters", ("GET", "/v1/..;a/x", (1, 1)), 400),
            ("P2 dot segment encoded", ("GET", "/v1/%2e%2E/x", (1, 1)), 400),
            ("P2 dot segment half encoded", ("GET", "/v1/.%2e/x", (1, 1)), 400),
            ("P2 dot segment behind an encoded slash", ("GET", "/v1/a%2f..%2fb", (1, 1)), 400),
            ("P2 dot segment encoded twice", ("GET", "/v1/%252e%252e/x", (1, 1)), 400),
            ("P2 encoded without end", ("GET", "/%2525252525252525252e", (1, 1)), 400),
            ("P2 backslash", ("GET", "/v1\\x", (1, 1)), 400),
            ("P2 backslash encoded", ("GET", "/v1/%5C..", (1, 1)), 400),
            ("P2 control character encoded", ("GET", "/v1/%0d%0ax", (1, 1)), 400),
            ("P2 dots in names", ("GET", "/v1/...a/..b/c..?x=../y\\", (1, 1)), 200),
            ("P2 encoded otherwise", ("GET", "/v1/a%20b%25", (1, 1)), 200),
        ];
        for (rule, line, expected) in rows {
            let result = check(&OPEN, *line, &[HOST], HERE);
            assert_eq!(status(&result), *expected, "{rule} {line:?}");
            assert!(result.err().is_none_or(|refusal| refusal.close), "{rule} closes");
        }
        assert_eq!(
            status(&check(&OPEN, ("GET", &"/a".repeat(40_000), (1, 1)), &[HOST], HERE)),
            400
        );
    }

    #[test]
    fn hosts() {
        let named = Door { host: "pool.lan", ..OPEN };
        #[rustfmt::skip] // one row a line
        let rows = [
            ("127.0.0.1", 200),
            ("127.0.0.1:1", 200),
            ("127.8.9.10:3456", 200),
            ("[::1]", 200),
            ("[::1]:3456", 200),
            ("[0:0:0:0:0:0:0:1]:80", 200),
            ("[::ffff:127.0.0.1]", 200),
            ("LocalHost:3456", 200),
            ("pool.lan:3456", 200),
            ("POOL.LAN", 200),
            ("localhost.attacker.com", 403),
            ("attacker.localhost", 403),
            ("127.0.0.1.attacker.com", 403),
            ("127.0.0.1@attacker.com", 403),
            ("127.1", 403),
            ("2130706433", 403),
            ("0.0.0.0", 403),
            ("192.168.1.9", 403),
            ("::1", 403),
            ("[::1", 403),
            ("[::1]x", 403),
            ("[localhost]", 403),
            ("[127.0.0.1]", 403),
            ("[fe80::1]", 403),
            ("localhost:99999", 403),
            ("localhost:8x", 403),
            ("localhost:80:80", 403),
            ("localhost.", 403),
            ("", 403),
        ];
        for (host, expected) in rows {
            let result = check(&named, POST, &[("host", host)], HERE);
            assert_eq!(status(&result), expected, "P2 Host {host}");
        }
    }

    #[test]
    fn pages() {
        type Lines = &'static [(&'static str, &'static str)];
        #[rustfmt::skip] // one row a line
        let rows: &[(&str, Lines, u16)] = &[
            ("own origin", &[("origin", "http://LOCALHOST:3456")], 200),
            ("another port is another origin", &[("origin", "http://localhost:8080")], 403),
            ("foreign", &[("origin", "https://evil.example")], 403),
            ("opaque", &[("origin", "null")], 403),
            ("empty", &[("origin", "")], 403),
            ("no scheme", &[("origin", "localhost:3456")], 403),
            ("two", &[("origin", "http://localhost:3456"), ("origin", "http://a")], 403),
            ("address bar", &[("sec-fetch-site", "none")], 200),
            ("same origin", &[("sec-fetch-site", "same-origin")], 200),
            ("cross-site", &[("Sec-Fetch-Site", "Cross-Site")], 403),
            ("even with the key", &[("origin", "http://a"), ("x-api-key", KEY)], 403),
        ];
        for (row, lines, expected) in rows {
            let lines: Vec<_> = [HOST].iter().chain(*lines).copied().collect();
            assert_eq!(status(&check(&OPEN, POST, &lines, HERE)), *expected, "P2 {row}");
        }
    }

    #[test]
    fn keys() {
        type Lines = &'static [(&'static str, &'static str)];
        let strict = Door { require_key: true, ..OPEN };
        let none: Lines = &[];
        let api: Lines = &[("X-Api-Key", KEY)];
        let bearer: Lines = &[("authorization", "bearer mp-key")];
        let wrong: Lines = &[("x-api-key", "mp-kex"), ("authorization", "Bearer mp-key2")];
        let either: Lines = &[("x-api-key", "sk-ant-own"), ("authorization", "Bearer mp-key")];
        let status_route = ("GET", "/maxpool/status", (1, 1));
        let health = ("GET", "/maxpool/health", (1, 1));
        let unknown = ("GET", "/maxpool/x", (1, 1));
        type Row<'a> = (&'a str, &'a Door<'a>, Line<'a>, &'a str, Lines, IpAddr, u16);
        #[rustfmt::skip] // one row a line
        let rows: &[Row<'_>] = &[
            ("loopback needs none", &OPEN, POST, "localhost", none, HERE, 200),
            ("loopback, requireKey", &strict, POST, "localhost", none, HERE, 401),
            ("loopback, requireKey", &strict, POST, "localhost", api, HERE, 200),
            ("peer from elsewhere", &OPEN, POST, "10.0.0.1", none, AWAY, 401),
            ("peer from elsewhere", &OPEN, POST, "10.0.0.1", bearer, AWAY, 200),
            ("either header", &OPEN, POST, "10.0.0.1", either, AWAY, 200),
            ("wrong", &OPEN, POST, "10.0.0.1", wrong, AWAY, 401),
            ("a foreign Host says nothing yet", &strict, POST, "evil.example", none, HERE, 401),
            ("the Host rule is for those without", &strict, POST, "evil.example", api, HERE, 200),
            ("the Host rule is for those without", &OPEN, POST, "host.docker.internal", api, HERE, 200),
            ("P1 local routes", &OPEN, status_route, "localhost", none, HERE, 401),
            ("P1 local routes", &OPEN, status_route, "localhost", bearer, HERE, 200),
            ("P1 health needs none", &strict, health, "localhost", none, HERE, 200),
            ("P1 health needs none", &OPEN, health, "pool.example", none, AWAY, 200),
            ("P1 health, rebound", &OPEN, health, "evil.example", none, HERE, 403),
            ("P1 404 is no secret", &OPEN, unknown, "localhost", none, HERE, 200),
            ("P1 404 elsewhere", &OPEN, unknown, "localhost", none, AWAY, 401),
        ];
        for (row, door, line, host, lines, peer, expected) in rows {
            let lines: Vec<_> = [("host", *host)].iter().chain(*lines).copied().collect();
            assert_eq!(
                status(&check(door, *line, &lines, *peer)),
                *expected,
                "P2 {row} {host} {peer}"
            );
        }
        let keyless = Door { key: b"", ..strict };
        assert_eq!(
            status(&check(&keyless, POST, &[HOST, ("x-api-key", "")], HERE)),
            401,
            "P2 no key fits"
        );
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap_or(AWAY);
        assert_eq!(
            status(&check(&OPEN, POST, &[HOST], mapped)),
            200,
            "P2 loopback in the other family"
        );
        let unread = check(&strict, POST, &[HOST, ("content-length", "3")], HERE);
        assert!(unread.is_err_and(|refusal| refusal.close), "P2 an unread body");
        let empty = check(&strict, POST, &[HOST], HERE);
        assert!(empty.is_err_and(|refusal| !refusal.close), "P2 nothing unread");
    }

    #[test]
    fn garbage_does_no_harm() {
        let mut random = Random::new(51);
        let mut entered = 0;
        for _ in rounds(20_000) {
            let pieces = [
                "/", "v1", "maxpool", "..", "%2e", "%5c", "%00", "?", "messages", "%", ";", "a",
                "\u{e4}", " ", "http:", "*",
            ];
            let target: String = (0..random.below(8)).map(|_| random.word(&pieces)).collect();
            let names = [
                "host",
                "content-length",
                "transfer-encoding",
                "expect",
                "origin",
                "x-api-key",
                "connection",
            ];
            let values = [
                "localhost",
                "5",
                "chunked",
                "100-continue",
                "[::1]:",
                "[",
                "mp-key",
                "",
                "http://",
            ];
            let mut headers = Headers::default();
            headers.take("host", Bytes::from_static(b"127.0.0.1")).expect("a header line");
            for _ in 0..random.below(4) {
                let value =
                    if random.chance(20) { random.bytes(12) } else { random.word(&values).into() };
                // An invalid value does not get past any parser.
                let _ = headers.take(random.word(&names), value.into());
            }
            let method = random.word(&["GET", "POST", "TRACE"]);
            let head = RequestHead {
                method: method.to_owned(),
                target: format!("/{target}"),
                version: (1, 1),
                headers,
            };
            let Ok(entry) = OPEN.check(&head, HERE) else {
                continue;
            };
            entered += 1;
            let path = target::decode(target::split(&head.target).0);
            assert!(
                !path.split('/').any(|segment| matches!(segment, "." | ".."))
                    && !path.contains('\\'),
                "P2 {target}"
            );
            let is_ours = path.split('/').find(|segment| !segment.is_empty()) == Some("maxpool");
            assert!(
                !is_ours || matches!(entry.route, Route::Local(_)),
                "P1 never forwarded: {target}"
            );
        }
        assert!(entered > 1_000, "some of it is let in");
    }
}
