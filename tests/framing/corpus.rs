//! The table of cases: the bytes sent on a new connection, and how a strict server reads them.
//!
//! A row with several verdicts is one where RFC 9112 and SPEC P2 leave a choice; the preferred one
//! is first. `Host` is always `localhost`, and no target is one that the program answers itself.

mod bodies;

use super::{Seen, served};

/// One case.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is unusual about it.
    pub name: &'static str,
    /// The source of the verdict: a section of RFC 9112 (a bare number) or RFC 9110, or a SPEC
    /// rule.
    pub rule: &'static str,
    /// What the client sends before it falls silent.
    pub bytes: Vec<u8>,
    /// All correct readings, the preferred one first.
    pub verdicts: Vec<Vec<Seen>>,
}

/// The verdict on a request whose method, target and body follow from its section.
enum Right {
    /// Served, and the connection stays open.
    Ok,
    /// Refused with one of these statuses.
    No(&'static [u16]),
    /// Served, or refused with one of these statuses.
    Choice(&'static [u16]),
    /// Incomplete.
    Waits,
    /// Served, then the connection is closed.
    Last,
}
use Right::{Choice, Last, No, Ok, Waits};

/// All cases.
pub fn rows() -> Vec<Row> {
    let sections = [
        request_lines(),
        versions(),
        targets(),
        header_lines(),
        line_ends(),
        hosts(),
        bodies::lengths(),
        bodies::codings(),
        bodies::chunks(),
        bodies::trailers(),
        bodies::expectations(),
        connections(),
        pipelines(),
        limits(),
        other_protocols(),
    ];
    sections.into_iter().flatten().collect()
}

const BAD: Right = No(&[400]);
const HOST: &str = "Host: localhost\r\n";
const GET: &str = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n";
const POST: &str = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n";

fn row(
    name: &'static str,
    rule: &'static str,
    bytes: impl Into<Vec<u8>>,
    right: &Right,
    request: Seen,
) -> Row {
    let refused = |codes: &[u16]| codes.iter().map(|code| vec![Seen::Refused(*code)]).collect();
    let verdicts = match right {
        Ok => vec![vec![request]],
        No(codes) => refused(codes),
        Choice(codes) => {
            let mut verdicts: Vec<Vec<Seen>> = refused(codes);
            verdicts.insert(0, vec![request]);
            verdicts
        }
        Waits => vec![vec![Seen::Waits]],
        Last => vec![vec![request, Seen::Closes]],
    };
    Row { name, rule, bytes: bytes.into(), verdicts }
}

/// A row with explicit verdicts.
fn special(
    name: &'static str,
    rule: &'static str,
    bytes: impl Into<Vec<u8>>,
    verdicts: Vec<Vec<Seen>>,
) -> Row {
    Row { name, rule, bytes: bytes.into(), verdicts }
}

fn get() -> Seen {
    served("GET", "/v1/models", b"")
}

fn post(body: &[u8]) -> Seen {
    served("POST", "/v1/messages", body)
}

/// Request lines of otherwise correct requests.
#[rustfmt::skip] // one row a line
fn request_lines() -> Vec<Row> {
    let rows: Vec<(&str, &str, &[u8], Right, &str)> = vec![
        ("plain", "3", b"GET /v1/models HTTP/1.1", Ok, "GET"),
        ("a method of one's own", "9110 9.1", b"M-SEARCH /v1/models HTTP/1.1", Ok, "M-SEARCH"),
        ("a method of odd token characters", "9110 5.6.2", b"A!#$%&'*+.^_`|~9 /v1/models HTTP/1.1", Choice(&[400]), "A!#$%&'*+.^_`|~9"),
        ("DELETE", "9110 9.3.5", b"DELETE /v1/models HTTP/1.1", Ok, "DELETE"),
        ("OPTIONS", "9110 9.3.7", b"OPTIONS /v1/models HTTP/1.1", Ok, "OPTIONS"),
        ("HEAD", "9110 9.3.2", b"HEAD /v1/models HTTP/1.1", Ok, "HEAD"),
        ("no words", "3", b"GET", BAD, ""),
        ("two words", "3", b"GET /v1/models", No(&[400, 505]), ""),
        ("four words", "3", b"GET /v1/models x HTTP/1.1", BAD, ""),
        ("a word after the version", "3", b"GET /v1/models HTTP/1.1 x", BAD, ""),
        ("two spaces after the method", "3", b"GET  /v1/models HTTP/1.1", BAD, ""),
        ("two spaces before the version", "3", b"GET /v1/models  HTTP/1.1", BAD, ""),
        ("a space before the method", "3", b" GET /v1/models HTTP/1.1", BAD, ""),
        ("a space after the version", "3", b"GET /v1/models HTTP/1.1 ", BAD, ""),
        ("a tab after the method", "3", b"GET\t/v1/models HTTP/1.1", BAD, ""),
        ("a tab before the version", "3", b"GET /v1/models\tHTTP/1.1", BAD, ""),
        ("a vertical tab after the method", "3", b"GET\x0b/v1/models HTTP/1.1", BAD, ""),
        ("a form feed before the version", "3", b"GET /v1/models\x0cHTTP/1.1", BAD, ""),
        ("no target", "3", b"GET  HTTP/1.1", BAD, ""),
        ("no method", "3", b" /v1/models HTTP/1.1", BAD, ""),
        ("a method that is no token", "9110 5.6.2", b"G@T /v1/models HTTP/1.1", BAD, ""),
        ("a method with a colon", "9110 5.6.2", b"GET: /v1/models HTTP/1.1", BAD, ""),
        ("a method above 127", "9110 5.6.2", b"G\xc9T /v1/models HTTP/1.1", BAD, ""),
        ("a NUL in the method", "9110 5.6.2", b"G\0T /v1/models HTTP/1.1", BAD, ""),
        ("DEL in the method", "9110 5.6.2", b"GET\x7f /v1/models HTTP/1.1", BAD, ""),
        ("an answer sent as a request", "3", b"HTTP/1.1 200 OK", BAD, ""),
        ("CONNECT", "P2", b"CONNECT localhost:443 HTTP/1.1", BAD, ""),
        ("CONNECT with a path", "P2", b"CONNECT /v1/models HTTP/1.1", BAD, ""),
        ("TRACE, which would show the credential", "9110 9.3.8", b"TRACE /v1/models HTTP/1.1", BAD, ""),
    ];
    rows.into_iter().map(|(name, rule, line, right, method)| {
        let bytes = [line, b"\r\n", HOST.as_bytes(), b"\r\n"].concat();
        row(name, rule, bytes, &right, served(method, "/v1/models", b""))
    }).collect()
}

/// Words in the place of the version.
#[rustfmt::skip] // one row a line
fn versions() -> Vec<Row> {
    const OTHER: Right = No(&[505]);
    const ODD: Right = No(&[400, 505]);
    let rows = vec![
        ("HTTP/1.0 ends the connection", "9.3", "HTTP/1.0", Last),
        ("HTTP/0.9", "2.3", "HTTP/0.9", OTHER),
        ("HTTP/1.2", "P2", "HTTP/1.2", OTHER),
        ("HTTP/1.9", "P2", "HTTP/1.9", OTHER),
        ("HTTP/2.0", "2.3", "HTTP/2.0", OTHER),
        ("HTTP/3.0", "2.3", "HTTP/3.0", OTHER),
        ("HTTP/0.0", "2.3", "HTTP/0.0", OTHER),
        ("HTTP/2 without a minor version", "2.3", "HTTP/2", ODD),
        ("a minor version of two digits", "2.3", "HTTP/1.10", ODD),
        ("a major version of two digits", "2.3", "HTTP/01.1", ODD),
        ("a version without its dot", "2.3", "HTTP/11", ODD),
        ("a version with nothing after its dot", "2.3", "HTTP/1.", ODD),
        ("a version and a letter", "2.3", "HTTP/1.1x", ODD),
        ("lower case", "2.3", "http/1.1", BAD),
        ("mixed case", "2.3", "Http/1.1", BAD),
        ("another name", "2.3", "HTTPS/1.1", BAD),
        ("another protocol", "2.3", "ICY/1.1", BAD),
        ("no slash", "2.3", "HTTP1.1", BAD),
        ("no number", "2.3", "HTTP/", No(&[400, 505])),
        ("a sign before the number", "2.3", "HTTP/+1.1", BAD),
        ("a comma for the dot", "2.3", "HTTP/1,1", ODD),
    ];
    rows.into_iter().map(|(name, rule, version, right)| {
        row(name, rule, format!("GET /v1/models {version}\r\n{HOST}\r\n"), &right, get())
    }).collect()
}

#[rustfmt::skip] // one row a line
fn targets() -> Vec<Row> {
    let rows: Vec<(&str, &str, &[u8], Right)> = vec![
        ("a query", "3.2.1", b"/v1/models?limit=1&after=a/b?c", Ok),
        ("an empty query", "3.2.1", b"/v1/models?", Ok),
        ("an escape", "9110 4.2.3", b"/v1/a%20b%C3%BC", Ok),
        ("sub-delimiters", "3.2.1", b"/v1/a!$&'()*+,=:@-._~b", Ok),
        ("dots in names", "P2", b"/v1/...a/..b/c..?x=../y", Ok),
        ("an empty segment", "3.2.1", b"/v1//x", Ok),
        ("absolute form", "P2", b"http://localhost/v1/models", BAD),
        ("absolute form of another host", "P2", b"http://attacker.example/v1/models", BAD),
        ("authority form", "P2", b"localhost:80", BAD),
        ("asterisk form", "P2", b"*", BAD),
        ("no slash at the front", "3.2.1", b"v1/models", BAD),
        ("a query alone", "3.2.1", b"?x=1", BAD),
        ("a fragment", "3.2", b"/v1/models#top", BAD),
        ("a control character", "P2", b"/v1/mo\x01dels", BAD),
        ("a NUL", "P2", b"/v1/mo\0dels", BAD),
        ("DEL", "P2", b"/v1/mo\x7fdels", BAD),
        ("a tab", "P2", b"/v1/mo\tdels", BAD),
        ("bytes above 127", "3.2.1", b"/v1/mod\xe8les", BAD),
        ("UTF-8", "3.2.1", "/v1/modèles".as_bytes(), BAD),
        ("dot segments", "P2", b"/v1/../models", BAD),
        ("dot segments at the end", "P2", b"/v1/models/..", BAD),
        ("dot segments at the front", "P2", b"/../v1/models", BAD),
        ("a single dot", "P2", b"/v1/./models", BAD),
        ("a single dot at the end before a query", "P2", b"/v1/.?x", BAD),
        ("encoded dots", "P2", b"/v1/%2e%2E/models", BAD),
        ("half encoded dots", "P2", b"/v1/.%2e/models", BAD),
        ("an encoded single dot", "P2", b"/v1/%2e/models", BAD),
        ("dots encoded twice", "P2", b"/v1/%252e%252e/models", BAD),
        ("dots between encoded slashes", "P2", b"/v1/a%2f..%2fmodels", BAD),
        ("dots with parameters", "P2", b"/v1/..;a=b/models", Choice(&[400])),
        ("a backslash", "3.2.1", b"/v1\\models", Choice(&[400])),
        ("dots between backslashes", "3.2.1", b"/v1\\..\\models", Choice(&[400])),
        ("an encoded NUL", "P2", b"/v1/a%00b", Choice(&[400])),
        ("an encoded line end", "P2", b"/v1/a%0d%0ab", Choice(&[400])),
        ("a percent sign that escapes nothing", "9110 4.2.3", b"/v1/a%zzb", Choice(&[400])),
        ("a percent sign at the end", "9110 4.2.3", b"/v1/a%", Choice(&[400])),
        ("half an escape", "9110 4.2.3", b"/v1/a%4", Choice(&[400])),
        ("quotes and angles", "3.2.1", b"/v1/a<b>\"c\"", Choice(&[400])),
        ("braces and bars", "3.2.1", b"/v1/{a}|b", Choice(&[400])),
        ("a grave accent and a caret", "3.2.1", b"/v1/a`b^c", Choice(&[400])),
    ];
    rows.into_iter().map(|(name, rule, target, right)| {
        let bytes = [b"GET ", target, b" HTTP/1.1\r\n", HOST.as_bytes(), b"\r\n"].concat();
        let request = served("GET", &String::from_utf8_lossy(target), b"");
        row(name, rule, bytes, &right, request)
    }).collect()
}

/// One header line among correct ones.
#[rustfmt::skip] // one row a line
fn header_lines() -> Vec<Row> {
    let high = [b"x-a: ", every_high_byte().as_slice(), b"\r\n"].concat();
    let rows: Vec<(&str, &str, &[u8], Right)> = vec![
        ("an empty value", "5", b"x-a:\r\n", Ok),
        ("blanks and tabs around a value", "5", b"x-a: \t b \t\r\n", Ok),
        ("no blank before a value", "5", b"x-a:b\r\n", Ok),
        ("a tab within a value", "9110 5.5", b"x-a: b\tc\r\n", Ok),
        ("colons in a value", "5", b"x-a: b:c::d\r\n", Ok),
        ("Latin-1 in a value", "9110 5.5", b"X-User: J\xfcrgen\r\n", Ok),
        ("UTF-8 in a value", "9110 5.5", "X-User: Jürgen\r\n".as_bytes(), Ok),
        ("every byte above 127", "9110 5.5", &high, Ok),
        ("a name of odd token characters", "9110 5.6.2", b"!#$%&'*+-.^_`|~9: b\r\n", Ok),
        ("the same name twice", "9110 5.3", b"x-a: b\r\nX-A: c\r\n", Ok),
        ("no colon", "5", b"x-a\r\n", BAD),
        ("an empty name", "5", b": b\r\n", BAD),
        ("a space before the colon", "5.1", b"x-a : b\r\n", BAD),
        ("a tab before the colon", "5.1", b"x-a\t: b\r\n", BAD),
        ("a space within a name", "5", b"x a: b\r\n", BAD),
        ("a slash in a name", "9110 5.6.2", b"x/a: b\r\n", BAD),
        ("a parenthesis in a name", "9110 5.6.2", b"x(a): b\r\n", BAD),
        ("a quote in a name", "9110 5.6.2", b"\"x-a\": b\r\n", BAD),
        ("a name above 127", "9110 5.6.2", b"x-\xfc: b\r\n", BAD),
        ("a NUL in a name", "9110 5.6.2", b"x-\0a: b\r\n", BAD),
        ("a line folded with a space", "5.2", b"x-a: b\r\n c\r\n", BAD),
        ("a line folded with a tab", "5.2", b"x-a: b\r\n\tc\r\n", BAD),
        ("a folded line that looks like a header", "5.2", b"X-V: a\r\n X-Injected: 1\r\n", BAD),
        ("a folded line of blanks alone", "5.2", b"x-a: b\r\n  \r\n", BAD),
        ("a NUL in a value", "9110 5.5", b"x-a: b\0c\r\n", BAD),
        ("a control character in a value", "P2", b"x-a: b\x01c\r\n", BAD),
        ("an escape character in a value", "P2", b"x-a: b\x1b[2Jc\r\n", BAD),
        ("DEL in a value", "P2", b"x-a: b\x7fc\r\n", BAD),
        ("a vertical tab before a value", "P2", b"x-a:\x0bb\r\n", BAD),
        ("a form feed after a value", "P2", b"x-a: b\x0c\r\n", BAD),
        ("a value of one NUL", "9110 5.5", b"x-a: \0\r\n", BAD),
    ];
    let mut all: Vec<Row> = rows.into_iter().map(|(name, rule, lines, right)| {
        row(name, rule, [GET.as_bytes(), lines, b"\r\n"].concat(), &right, get())
    }).collect();
    all.push(special("a folded line before the first header", "2.2",
        format!("GET /v1/models HTTP/1.1\r\n x-a: b\r\n{HOST}\r\n"), no(&[400])));
    all
}

fn every_high_byte() -> Vec<u8> {
    (0x80..=0xff).collect()
}

fn no(codes: &[u16]) -> Vec<Vec<Seen>> {
    codes.iter().map(|code| vec![Seen::Refused(*code)]).collect()
}

/// Line endings, and bytes before the first line.
#[rustfmt::skip] // one row a line
fn line_ends() -> Vec<Row> {
    let line = "GET /v1/models HTTP/1.1";
    let rows: Vec<(&str, &str, String, Right)> = vec![
        ("an empty line first", "2.2", format!("\r\n{GET}\r\n"), Ok),
        ("three empty lines first", "2.2", format!("\r\n\r\n\r\n{GET}\r\n"), Choice(&[400])),
        ("an empty line of LF alone first", "2.2", format!("\n{GET}\r\n"), Choice(&[400])),
        ("a CR alone first", "2.2", format!("\r{GET}\r\n"), BAD),
        ("a blank line that is not empty first", "2.2", format!(" \r\n{GET}\r\n"), BAD),
        ("LF alone everywhere", "2.2", format!("{line}\nHost: localhost\n\n"), BAD),
        ("LF alone after the request line", "2.2", format!("{line}\n{HOST}\r\n"), BAD),
        ("LF alone after a header", "2.2", format!("{line}\r\nx-a: b\n{HOST}\r\n"), BAD),
        ("LF alone before the empty line", "2.2", format!("{line}\r\nHost: localhost\n\r\n"), BAD),
        ("LF alone as the empty line", "2.2", format!("{GET}\n"), BAD),
        ("CR alone after the request line", "2.2", format!("{line}\r{HOST}\r\n"), BAD),
        ("CR alone between two headers", "2.2", format!("{line}\r\nx-a: b\r{HOST}\r\n"), BAD),
        ("CR within a value", "2.2", format!("{GET}x-a: b\rc\r\n\r\n"), BAD),
        ("CR twice at a line's end", "2.2", format!("{GET}x-a: b\r\r\n\r\n"), BAD),
        ("CR twice at the head's end", "2.2", format!("{GET}\r\r\n"), BAD),
        ("CR within a name", "2.2", format!("{GET}x\r-a: b\r\n\r\n"), BAD),
        ("CR in the target", "2.2", format!("GET /v1/mo\rdels HTTP/1.1\r\n{HOST}\r\n"), BAD),
        ("nothing", "2.2", String::new(), Waits),
        ("half a request line", "2.2", "GET /v1/mod".into(), Waits),
        ("a request line without its LF", "2.2", format!("{line}\r"), Waits),
        ("a request line alone", "2.2", format!("{line}\r\n"), Waits),
        ("half a header line", "2.2", format!("{line}\r\nHost: loc"), Waits),
        ("a head without its empty line", "2.2", GET.into(), Waits),
        ("a head without its last LF", "2.2", format!("{GET}\r"), Waits),
    ];
    let mut all: Vec<Row> = rows.into_iter()
        .map(|(name, rule, bytes, right)| row(name, rule, bytes, &right, get()))
        .collect();
    // No message has begun if there are no bytes at all.
    for row in all.iter_mut().filter(|row| row.bytes.is_empty()) {
        row.verdicts = vec![Vec::new()];
    }
    all.push(special("an empty line alone", "2.2", "\r\n", vec![vec![]]));
    all
}

#[rustfmt::skip] // one row a line
fn hosts() -> Vec<Row> {
    let line = "GET /v1/models HTTP/1.1\r\n";
    let old = "GET /v1/models HTTP/1.0\r\n";
    let rows: Vec<(&str, &str, String, Right)> = vec![
        ("Host in capitals", "3.2", format!("{line}HOST: localhost\r\n\r\n"), Ok),
        ("Host with a port", "3.2", format!("{line}Host: localhost:3456\r\n\r\n"), Ok),
        ("no Host", "3.2", format!("{line}\r\n"), BAD),
        ("another header alone", "3.2", format!("{line}x-a: b\r\n\r\n"), BAD),
        ("two Hosts", "3.2", format!("{line}{HOST}{HOST}\r\n"), BAD),
        ("two different Hosts", "3.2", format!("{line}{HOST}Host: attacker.example\r\n\r\n"), BAD),
        ("two Hosts in different cases", "3.2", format!("{line}{HOST}hOST: localhost\r\n\r\n"), BAD),
        ("no Host in HTTP/1.0", "3.2", format!("{old}\r\n"), Last),
        ("two Hosts in HTTP/1.0", "3.2", format!("{old}{HOST}{HOST}\r\n"), BAD),
    ];
    rows.into_iter().map(|(name, rule, bytes, right)| row(name, rule, bytes, &right, get())).collect()
}

/// `Connection`: each row is followed by a second request, which is read only if the first one
/// keeps the connection open.
#[rustfmt::skip] // one row a line
fn connections() -> Vec<Row> {
    let (new, old) = ("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n", "GET /v1/models HTTP/1.0\r\nHost: localhost\r\n");
    let rows = vec![
        ("nothing said", "9.3", new, "", true),
        ("keep-alive", "9.3", new, "Connection: keep-alive\r\n", true),
        ("close", "9.6", new, "Connection: close\r\n", false),
        ("close in capitals", "9110 7.6.1", new, "CONNECTION: CLOSE\r\n", false),
        ("close in a list", "9110 7.6.1", new, "Connection: x-a ,close\r\n", false),
        ("close and keep-alive", "9.3", new, "Connection: keep-alive, close\r\n", false),
        ("close in a second line", "9110 5.3", new, "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("a word that holds close", "9110 7.6.1", new, "Connection: closed, not-close\r\n", true),
        ("an offer to upgrade", "9110 7.8", new, "Connection: Upgrade\r\nUpgrade: websocket\r\n", true),
        ("an offer to upgrade to HTTP/2", "9110 7.8", new, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", true),
        ("HTTP/1.0", "9.3", old, "", false),
        ("HTTP/1.0 and close", "9.3", old, "Connection: close\r\n", false),
    ];
    let second = "GET /v1/second HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut all: Vec<Row> = rows.into_iter().map(|(name, rule, head, lines, stays)| {
        let next = if stays { served("GET", "/v1/second", b"") } else { Seen::Closes };
        special(name, rule, format!("{head}{lines}\r\n{second}"), vec![vec![get(), next]])
    }).collect();
    all.push(special("HTTP/1.0 and keep-alive", "9.3", format!("{old}Connection: Keep-Alive\r\n\r\n{second}"),
        vec![vec![get(), served("GET", "/v1/second", b"")], vec![get(), Seen::Closes]]));
    all
}

fn pipelines() -> Vec<Row> {
    let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let length = format!("{POST}Content-Length: 5\r\n\r\nhello");
    let hidden = "GET /v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let inside = format!("{POST}Content-Length: {}\r\n\r\n{hidden}", hidden.len());
    let mut all = vec![
        special("a request within a body", "6.3", inside, vec![vec![post(hidden.as_bytes())]]),
        special(
            "chunks, then a length, then chunks",
            "9.3.2",
            format!("{chunked}{length}{chunked}"),
            vec![vec![post(b"hello"), post(b"hello"), post(b"hello")]],
        ),
        special(
            "empty lines between requests",
            "2.2",
            format!("{length}\r\n{GET}\r\n"),
            vec![vec![post(b"hello"), get()]],
        ),
        special(
            "a bad request after a good one",
            "9.3.2",
            format!("{length}GET /v1/../x HTTP/1.1\r\n{HOST}\r\n{hidden}"),
            vec![vec![post(b"hello"), Seen::Refused(400)]],
        ),
        special(
            "a good request after a bad one",
            "P2",
            format!("{POST}Content-Length: 4, 4\r\n\r\n{hidden}"),
            no(&[400]),
        ),
        special(
            "half a request after a good one",
            "9.3.2",
            format!("{length}{GET}"),
            vec![vec![post(b"hello"), Seen::Waits]],
        ),
        special(
            "garbage after the last chunk",
            "9.3.2",
            format!("{chunked}\0\0\0\0\r\n\r\n"),
            vec![vec![post(b"hello"), Seen::Refused(400)]],
        ),
        special(
            "another version after a good request",
            "2.3",
            format!("{length}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            vec![vec![post(b"hello"), Seen::Refused(505)]],
        ),
    ];
    for (name, count, last) in [
        ("2 requests at once", 2, ""),
        ("10 requests at once, the last with close", 10, "Connection: close\r\n"),
        ("50 requests at once", 50, ""),
        ("50 requests at once, the last with close", 50, "Connection: close\r\n"),
    ] {
        let mut bytes = String::new();
        let mut verdict = Vec::new();
        for number in 1..=count {
            let lines = if number == count { last } else { "" };
            let target = format!("/v1/x/{number}");
            bytes.push_str(&format!("GET {target} HTTP/1.1\r\n{HOST}{lines}\r\n"));
            verdict.push(served("GET", &target, b""));
        }
        if !last.is_empty() {
            verdict.push(Seen::Closes);
        }
        all.push(special(name, "9.3.2", bytes, vec![verdict]));
    }
    all
}

#[rustfmt::skip] // one row a line
fn limits() -> Vec<Row> {
    const LARGE: Right = No(&[431]);
    let lines = |count: usize| "x-a: b\r\n".repeat(count);
    let value = |length: usize| format!("x-a: {}\r\n", "v".repeat(length));
    let rows: Vec<(&str, &str, String, Right)> = vec![
        ("100 headers", "P2", format!("{GET}{}\r\n", lines(99)), Ok),
        ("101 headers", "P2", format!("{GET}{}\r\n", lines(100)), LARGE),
        ("a header of 20 KB", "P2", format!("{GET}{}\r\n", value(20_000)), Ok),
        ("a header of 63 KB", "P2", format!("{GET}{}\r\n", value(64_500)), Ok),
        ("60 headers of 1 KB", "P2", format!("{GET}{}\r\n", value(1000).repeat(60)), Ok),
        ("a header of 66 KB", "P2", format!("{GET}{}\r\n", value(67_600)), LARGE),
        ("70 headers of 1 KB", "P2", format!("{GET}{}\r\n", value(1000).repeat(70)), LARGE),
        ("a header of 100 KB that does not end", "P2", format!("{GET}x-a: {}", "v".repeat(100_000)), LARGE),
        ("a header name of 100 KB that does not end", "P2", format!("{GET}{}", "n".repeat(100_000)), No(&[431, 400])),
        ("100 KB of headers that do not end", "P2", format!("{GET}{}", lines(12_500)), LARGE),
        ("a header name of 1000 bytes", "P2", format!("{GET}{}: b\r\n\r\n", "n".repeat(1000)), Ok),
        ("a method of 20,000 bytes", "3", format!("{} /v1/models HTTP/1.1\r\n{HOST}\r\n", "M".repeat(20_000)), No(&[400, 431])),
        ("a method of 100 KB that does not end", "3", "M".repeat(100_000), No(&[400, 431])),
        ("a target of 100 KB that does not end", "3", format!("GET /{}", "t".repeat(100_000)), No(&[400, 431])),
        ("80 KB of empty lines", "2.2", "\r\n".repeat(40_000), No(&[400, 431])),
    ];
    let mut all: Vec<Row> = rows.into_iter().map(|(name, rule, bytes, right)| row(name, rule, bytes, &right, get())).collect();
    let long = format!("/{}", "t".repeat(20_000));
    all.push(row("a target of 20 KB", "P2", format!("GET {long} HTTP/1.1\r\n{HOST}\r\n"), &Ok, served("GET", &long, b"")));
    let longer = format!("/{}", "t".repeat(50_000));
    all.push(row("a target of 50 KB", "P2", format!("GET {longer} HTTP/1.1\r\n{HOST}\r\n"), &Ok, served("GET", &longer, b"")));
    let longest = format!("/{}", "t".repeat(64 * 1024 - 20));
    all.push(row("a target of 64 KB", "P2", format!("GET {longest} HTTP/1.1\r\n{HOST}\r\n"), &Choice(&[400, 431]), served("GET", &longest, b"")));
    let filler: String = (0..9).map(|line| format!("x-{line}: {}\r\n", "h".repeat(7_000))).collect();
    all.push(row("a target of 50 KB and 63 KB of headers", "P2", format!("GET {longer} HTTP/1.1\r\n{HOST}{filler}\r\n"), &Ok, served("GET", &longer, b"")));
    let body = "b".repeat(100_000);
    all.push(row("a body of 100 KB", "6.2", format!("{POST}Content-Length: 100000\r\n\r\n{body}"), &Ok, post(body.as_bytes())));
    all
}

/// Protocols other than HTTP/1.
fn other_protocols() -> Vec<Row> {
    let hello: Vec<u8> = [
        &b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"[..],
        &[0x5a; 32],
        b"\x20",
        &[0xa5; 32],
        b"\x00\x06\x13\x01\x13\x02\x13\x03\x01\x00\x00\x75",
    ]
    .concat();
    vec![
        special("a TLS greeting", "P2", hello, no(&[400])),
        special("the front of a TLS greeting", "P2", *b"\x16\x03\x01\x02\x00", no(&[400])),
        special(
            "HTTP/2",
            "9113 3.4",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            no(&[505]),
        ),
        special("HTTP/2 up to the empty line", "9113 3.4", "PRI * HTTP/2.0\r\n\r\n", no(&[505])),
        special("HTTP/2 up to the first line end", "9113 3.4", "PRI * HTTP/2.0\r\n", no(&[505])),
        special("HTTP/3.0 up to the first line end", "P2", "GET / HTTP/3.0\r\n", no(&[505])),
        special(
            "HTTP/0.9",
            "2.3",
            "GET /v1/models\r\n",
            vec![vec![Seen::Refused(400)], vec![Seen::Refused(505)], vec![Seen::Waits]],
        ),
        special("NULs", "3", "\0\0\0\0\0\0\0\0\r\n\r\n", no(&[400])),
        special(
            "an SSH greeting",
            "3",
            "SSH-2.0-OpenSSH_9.6\r\n",
            vec![vec![Seen::Refused(400)], vec![Seen::Waits]],
        ),
        special("a mail client", "3", "EHLO localhost\r\n\r\n", no(&[400, 505])),
        special("a word and nothing else", "3", "nonsense\r\n\r\n", no(&[400])),
    ]
}
