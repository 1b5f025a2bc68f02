//! The table: what is sent on a fresh connection, and what a strict server makes of it.
//!
//! A row with several verdicts is one where RFC 9112 and SPEC P2 leave a choice; the first is the one
//! to prefer. `Host` is always `localhost`, and no target is one that the program answers itself.

use super::{Seen, served};

/// One case.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is odd about it.
    pub name: &'static str,
    /// Where it is decided: a section of RFC 9112 (alone a number), of RFC 9110, or a rule of SPEC.
    pub rule: &'static str,
    /// What the client sends before it falls silent.
    pub bytes: Vec<u8>,
    /// Every right reading, the preferred one first.
    pub verdicts: Vec<Vec<Seen>>,
}

/// The verdict on a request whose method, target and body are given by its section.
enum Right {
    /// Served, and the connection stays open.
    Ok,
    /// Refused with one of these.
    No(&'static [u16]),
    /// Served, or refused with one of these.
    Choice(&'static [u16]),
    /// Not complete.
    Waits,
    /// Served, and then closed.
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
        lengths(),
        codings(),
        chunks(),
        trailers(),
        expectations(),
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
    let refused = |codes: &[u16]| {
        codes
            .iter()
            .map(|code| vec![Seen::Refused(*code)])
            .collect()
    };
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
    Row {
        name,
        rule,
        bytes: bytes.into(),
        verdicts,
    }
}

/// A row with verdicts of its own.
fn special(
    name: &'static str,
    rule: &'static str,
    bytes: impl Into<Vec<u8>>,
    verdicts: Vec<Vec<Seen>>,
) -> Row {
    Row {
        name,
        rule,
        bytes: bytes.into(),
        verdicts,
    }
}

fn get() -> Seen {
    served("GET", "/v1/models", b"")
}

fn post(body: &[u8]) -> Seen {
    served("POST", "/v1/messages", body)
}

/// The first line of a request that is right in all else.
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

/// What stands where the version should.
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

/// One header line among right ones.
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
    codes
        .iter()
        .map(|code| vec![Seen::Refused(*code)])
        .collect()
}

/// What ends lines, and what comes before the first.
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
    // Nothing at all is no message that has begun.
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

/// `Content-Length`. Where a body is served, it is `hello`.
#[rustfmt::skip] // one row a line
fn lengths() -> Vec<Row> {
    const LARGE: Right = No(&[413]);
    let rows: Vec<(&str, &str, &str, &str, Right)> = vec![
        ("a length", "6.2", "Content-Length: 5\r\n", "hello", Ok),
        ("a length in lower case and blanks", "6.2", "content-length:\t 5 \t\r\n", "hello", Ok),
        ("a length with leading zeros", "6.2", "Content-Length: 0005\r\n", "hello", Ok),
        ("a body that has not come", "6.2", "Content-Length: 5\r\n", "", Waits),
        ("a body that is one byte short", "6.2", "Content-Length: 5\r\n", "hell", Waits),
        ("a body of 256 MiB that has not come", "P4", "Content-Length: 268435456\r\n", "{", Waits),
        ("256 MiB and a byte", "P4", "Content-Length: 268435457\r\n", "", LARGE),
        ("60 GiB", "P4", "Content-Length: 64424509440\r\n", "", LARGE),
        ("2^63 - 1", "P4", "Content-Length: 9223372036854775807\r\n", "", LARGE),
        ("2^64 - 1", "P4", "Content-Length: 18446744073709551615\r\n", "", No(&[413, 400])),
        ("2^64 and 5", "6.2", "Content-Length: 18446744073709551621\r\n", "hello", No(&[413, 400])),
        ("a length of 40 digits", "6.2", "Content-Length: 9999999999999999999999999999999999999999\r\n", "", No(&[413, 400])),
        ("two equal lengths", "P2", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello", BAD),
        ("two different lengths", "6.3", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello", BAD),
        ("two lengths in different cases", "6.3", "Content-Length: 0\r\ncontent-LENGTH: 5\r\n", "hello", BAD),
        ("a list of equal lengths", "P2", "Content-Length: 5, 5\r\n", "hello", BAD),
        ("a list of different lengths", "6.3", "Content-Length: 5,6\r\n", "hello", BAD),
        ("a length and a comma", "6.3", "Content-Length: 5,\r\n", "hello", BAD),
        ("a plus sign", "6.2", "Content-Length: +5\r\n", "hello", BAD),
        ("a minus sign", "6.2", "Content-Length: -5\r\n", "hello", BAD),
        ("minus zero", "6.2", "Content-Length: -0\r\n", "", BAD),
        ("a space within", "6.2", "Content-Length: 5 5\r\n", "hello", BAD),
        ("hexadecimal", "6.2", "Content-Length: 0x5\r\n", "hello", BAD),
        ("letters", "6.2", "Content-Length: five\r\n", "hello", BAD),
        ("a digit and a letter", "6.2", "Content-Length: 5a\r\n", "hello", BAD),
        ("a fraction", "6.2", "Content-Length: 5.0\r\n", "hello", BAD),
        ("a power", "6.2", "Content-Length: 5e0\r\n", "hello", BAD),
        ("an underscore", "6.2", "Content-Length: 0_5\r\n", "hello", BAD),
        ("quotes", "6.2", "Content-Length: \"5\"\r\n", "hello", BAD),
        ("an empty length", "6.2", "Content-Length:\r\n", "", BAD),
        ("an empty length and another", "6.2", "Content-Length:\r\nContent-Length: 5\r\n", "hello", BAD),
        ("digits of another script", "6.2", "Content-Length: ٥\r\n", "hello", BAD),
        ("a vertical tab before the length", "P2", "Content-Length: \u{b}5\r\n", "hello", BAD),
        ("a form feed after the length", "P2", "Content-Length: 5\u{c}\r\n", "hello", BAD),
        ("a folded length", "5.2", "Content-Length:\r\n 5\r\n", "hello", BAD),
        ("a length and a space before its colon", "5.1", "Content-Length : 5\r\n", "hello", BAD),
        ("both length and coding", "6.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", BAD),
        ("both coding and length", "6.1", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n", BAD),
        ("length and an unknown coding", "6.1", "Transfer-Encoding: x\r\nContent-Length: 5\r\n", "hello", BAD),
    ];
    let mut all: Vec<Row> = rows.into_iter().map(|(name, rule, lines, body, right)| {
        row(name, rule, format!("{POST}{lines}\r\n{body}"), &right, post(b"hello"))
    }).collect();
    all.push(row("a length of zero", "6.2", format!("{POST}Content-Length: 0\r\n\r\n"), &Ok, post(b"")));
    all.push(row("many zeros", "6.2", format!("{POST}Content-Length: {}\r\n\r\n", "0".repeat(40)),
        &Choice(&[400, 413]), post(b"")));
    all.push(row("POST without a body", "6.3", format!("{POST}\r\n"), &Ok, post(b"")));
    all.push(row("GET with a body", "9110 9.3.1", format!("{GET}Content-Length: 5\r\n\r\nhello"), &Ok,
        served("GET", "/v1/models", b"hello")));
    all.push(row("a body of every byte", "6", [POST.as_bytes(), b"Content-Length: 256\r\n\r\n", &every_byte()].concat(),
        &Ok, post(&every_byte())));
    all.push(row("a body in HTTP/1.0", "6.2", "POST /v1/messages HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
        &Last, post(b"hello")));
    all.push(special("bytes after the body", "6.3", format!("{POST}Content-Length: 5\r\n\r\nhello world\r\n\r\n"),
        vec![vec![post(b"hello"), Seen::Refused(400)]]));
    all
}

fn every_byte() -> Vec<u8> {
    (0..=255).collect()
}

/// `Transfer-Encoding`. Where a body is served, it is `hello`.
#[rustfmt::skip] // one row a line
fn codings() -> Vec<Row> {
    let rows: Vec<(&str, &str, &[u8], Right)> = vec![
        ("chunked", "6.1", b"Transfer-Encoding: chunked\r\n", Ok),
        ("chunked in capitals", "7", b"transfer-encoding: CHUNKED\r\n", Ok),
        ("chunked between blanks", "5", b"Transfer-Encoding: \tchunked \t\r\n", Ok),
        ("chunked beside an offer to upgrade", "9110 7.8", b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", Ok),
        ("another coding", "6.1", b"Transfer-Encoding: gzip\r\n", BAD),
        ("another coding before chunked", "P2", b"Transfer-Encoding: gzip, chunked\r\n", BAD),
        ("another coding after chunked", "6.3", b"Transfer-Encoding: chunked, gzip\r\n", BAD),
        ("chunked twice in one line", "7.1", b"Transfer-Encoding: chunked, chunked\r\n", BAD),
        ("chunked twice in two lines", "7.1", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BAD),
        ("chunked and another coding in two lines", "6.1", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", BAD),
        ("identity", "6.1", b"Transfer-Encoding: identity\r\n", BAD),
        ("identity before chunked", "6.1", b"Transfer-Encoding: identity, chunked\r\n", BAD),
        ("no coding", "6.1", b"Transfer-Encoding:\r\n", BAD),
        ("chunked and a comma", "P2", b"Transfer-Encoding: chunked,\r\n", BAD),
        ("a comma and chunked", "P2", b"Transfer-Encoding: ,chunked\r\n", BAD),
        ("chunked with a parameter", "7", b"Transfer-Encoding: chunked;q=1\r\n", BAD),
        ("chunked in quotes", "6.1", b"Transfer-Encoding: \"chunked\"\r\n", BAD),
        ("a letter before chunked", "6.1", b"Transfer-Encoding: xchunked\r\n", BAD),
        ("a letter after chunked", "6.1", b"Transfer-Encoding: chunkedx\r\n", BAD),
        ("chunked and a vertical tab", "P2", b"Transfer-Encoding: \x0bchunked\r\n", BAD),
        ("chunked and a form feed", "P2", b"Transfer-Encoding: chunked\x0c\r\n", BAD),
        ("chunked and a no-break space", "6.1", b"Transfer-Encoding: chunked\xa0\r\n", BAD),
        ("chunked and a NUL", "9110 5.5", b"Transfer-Encoding: chunked\0\r\n", BAD),
        ("chunked in a folded line", "5.2", b"Transfer-Encoding:\r\n chunked\r\n", BAD),
        ("a space before the colon of a coding", "5.1", b"Transfer-Encoding : chunked\r\n", BAD),
    ];
    let mut all: Vec<Row> = rows.into_iter().map(|(name, rule, lines, right)| {
        let bytes = [POST.as_bytes(), lines, b"\r\n5\r\nhello\r\n0\r\n\r\n"].concat();
        row(name, rule, bytes, &right, post(b"hello"))
    }).collect();
    all.push(special("a coding in HTTP/1.0", "6.1",
        format!("POST /v1/messages HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), no(&[400])));
    all.push(row("TE asks for nothing that matters here", "7.4", format!("{GET}TE: trailers, gzip\r\n\r\n"), &Ok, get()));
    all
}

/// Chunked bodies. Where one is served, it is `hello`.
#[rustfmt::skip] // one row a line
fn chunks() -> Vec<Row> {
    const FAR: Right = No(&[413, 400]);
    let long = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "b".repeat(100_000));
    let short = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "b".repeat(200));
    let rows: Vec<(&str, &str, &[u8], Right)> = vec![
        ("two chunks", "7.1", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", Ok),
        ("leading zeros", "7.1", b"0005\r\nhello\r\n000\r\n\r\n", Ok),
        ("sixteen digits", "P2", b"0000000000000005\r\nhello\r\n0\r\n\r\n", Ok),
        ("an extension", "7.1.1", b"5;a\r\nhello\r\n0;b=c\r\n\r\n", Ok),
        ("an extension in quotes", "7.1.1", b"5;a=\"b;\\\"c\"\r\nhello\r\n0\r\n\r\n", Ok),
        ("blanks around an extension", "7.1.1", b"5 ; a = b\r\nhello\r\n0\r\n\r\n", Ok),
        ("an extension of 200 bytes", "7.1.1", short.as_bytes(), Ok),
        ("an extension of 100 KB", "7.1.1", long.as_bytes(), No(&[400, 413, 431])),
        ("a semicolon without an extension", "7.1.1", b"5;\r\nhello\r\n0\r\n\r\n", Choice(&[400])),
        ("a space after the size", "7.1", b"5 \r\nhello\r\n0\r\n\r\n", Choice(&[400])),
        ("an extension with LF in it", "7.1.1", b"5;a\nb\r\nhello\r\n0\r\n\r\n", BAD),
        ("an extension with CR in it", "7.1.1", b"5;a\rb\r\nhello\r\n0\r\n\r\n", BAD),
        ("an extension with a NUL in it", "7.1.1", b"5;a\0\r\nhello\r\n0\r\n\r\n", BAD),
        ("seventeen digits", "P2", b"00000000000000005\r\nhello\r\n0\r\n\r\n", BAD),
        ("seventeen digits with an overflow", "P2", b"10000000000000005\r\nhello\r\n0\r\n\r\n", FAR),
        ("2^64 - 1", "7.1", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", FAR),
        ("2^63", "7.1", b"8000000000000000\r\nhello\r\n0\r\n\r\n", FAR),
        ("256 MiB and a byte", "P4", b"10000001\r\nhello", No(&[413])),
        ("256 MiB that have not come", "P4", b"10000000\r\nhello", Waits),
        ("256 MiB and a byte in two chunks", "P4", b"1\r\nh\r\n10000000\r\nello", No(&[413])),
        ("a plus sign", "7.1", b"+5\r\nhello\r\n0\r\n\r\n", BAD),
        ("a minus sign", "7.1", b"-5\r\nhello\r\n0\r\n\r\n", BAD),
        ("a space before the size", "7.1", b" 5\r\nhello\r\n0\r\n\r\n", BAD),
        ("a tab before the size", "7.1", b"\t5\r\nhello\r\n0\r\n\r\n", BAD),
        ("a prefix", "7.1", b"0x5\r\nhello\r\n0\r\n\r\n", BAD),
        ("an underscore", "7.1", b"0_5\r\nhello\r\n0\r\n\r\n", BAD),
        ("no hexadecimal digit", "7.1", b"g\r\nhello\r\n0\r\n\r\n", BAD),
        ("a word after the size", "7.1", b"5 5\r\nhello\r\n0\r\n\r\n", BAD),
        ("an empty line for a size", "7.1", b"\r\nhello\r\n0\r\n\r\n", BAD),
        ("an extension without a size", "7.1", b";a\r\nhello\r\n0\r\n\r\n", BAD),
        ("a vertical tab after the size", "7.1", b"5\x0b\r\nhello\r\n0\r\n\r\n", BAD),
        ("a comma after the size", "7.1", b"5,\r\nhello\r\n0\r\n\r\n", BAD),
        ("LF alone after a size", "7.1", b"5\nhello\r\n0\r\n\r\n", BAD),
        ("CR alone after a size", "7.1", b"5\rhello\r\n0\r\n\r\n", BAD),
        ("CR twice after a size", "7.1", b"5\r\r\nhello\r\n0\r\n\r\n", BAD),
        ("LF alone after data", "7.1", b"5\r\nhello\n0\r\n\r\n", BAD),
        ("CR alone after data", "7.1", b"5\r\nhello\r0\r\n\r\n", BAD),
        ("nothing after data", "7.1", b"5\r\nhello0\r\n\r\n", BAD),
        ("more data than announced", "7.1", b"4\r\nhello\r\n0\r\n\r\n", BAD),
        ("less data than announced", "7.1", b"6\r\nhello\r\n0\r\n\r\n", BAD),
        ("LF alone after the last size", "7.1", b"5\r\nhello\r\n0\n\r\n", BAD),
        ("LF alone as the last line", "7.1", b"5\r\nhello\r\n0\r\n\n", BAD),
        ("no chunk yet", "7.1", b"", Waits),
        ("half a size", "7.1", b"5", Waits),
        ("a size without its LF", "7.1", b"5\r", Waits),
        ("a size alone", "7.1", b"5\r\n", Waits),
        ("half a chunk", "7.1", b"5\r\nhe", Waits),
        ("a chunk without its line end", "7.1", b"5\r\nhello", Waits),
        ("a chunk and half its line end", "7.1", b"5\r\nhello\r", Waits),
        ("no last chunk", "7.1", b"5\r\nhello\r\n", Waits),
        ("a last chunk without its line end", "7.1", b"5\r\nhello\r\n0", Waits),
        ("a last chunk without the empty line", "7.1", b"5\r\nhello\r\n0\r\n", Waits),
        ("a last chunk and half the empty line", "7.1", b"5\r\nhello\r\n0\r\n\r", Waits),
    ];
    let mut all: Vec<Row> = chunked(rows);
    all.push(special("no chunk but the last", "7.1", format!("{POST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        vec![vec![post(b"")]]));
    let all_bytes = [POST.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\nFf\r\n", &every_byte()[..255], b"\r\n1\r\n\xff\r\n0\r\n\r\n"];
    all.push(special("data of every byte", "7.1", all_bytes.concat(), vec![vec![post(&every_byte())]]));
    let single: Vec<u8> = (0..500).flat_map(|_| *b"1\r\nx\r\n").collect();
    all.push(special("500 chunks of a byte", "7.1",
        [POST.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &single, b"0\r\n\r\n"].concat(),
        vec![vec![post(&[b'x'; 500])]]));
    all
}

fn chunked(rows: Vec<(&'static str, &'static str, &[u8], Right)>) -> Vec<Row> {
    let head = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    let with_head = |body: &[u8]| [head.as_bytes(), body].concat();
    rows.into_iter()
        .map(|(name, rule, body, right)| row(name, rule, with_head(body), &right, post(b"hello")))
        .collect()
}

/// What follows the last chunk of `hello`.
#[rustfmt::skip] // one row a line
fn trailers() -> Vec<Row> {
    let many: String = (0..40).map(|number| format!("x-{number}: b\r\n")).collect();
    let many = format!("{many}\r\n");
    let flood = format!("{}\r\n", "x-a: b\r\n".repeat(12_000));
    let rows: Vec<(&str, &str, &[u8], Right)> = vec![
        ("a trailer", "7.1.2", b"x-a: b\r\n\r\n", Ok),
        ("two trailers", "7.1.2", b"x-a: b\r\nx-b:\r\n\r\n", Ok),
        ("trailers that would be framing", "9110 6.5.1", b"Content-Length: 3\r\nTransfer-Encoding: gzip\r\nHost: a\r\n\r\n", Choice(&[400])),
        ("bytes above 127 in a trailer", "9110 5.5", b"x-a: J\xfcrgen\r\n\r\n", Ok),
        ("40 trailers", "7.1.2", many.as_bytes(), Ok),
        ("96 KB of trailers", "7.1.2", flood.as_bytes(), No(&[400, 413, 431])),
        ("a trailer without a colon", "5", b"x-a\r\n\r\n", BAD),
        ("a trailer without a name", "5", b": b\r\n\r\n", BAD),
        ("a space before a trailer's colon", "5.1", b"x-a : b\r\n\r\n", BAD),
        ("a folded trailer", "5.2", b"x-a: b\r\n c\r\n\r\n", BAD),
        ("a blank before the first trailer", "5.2", b" x-a: b\r\n\r\n", BAD),
        ("a control character in a trailer", "P2", b"x-a: b\x01\r\n\r\n", BAD),
        ("LF alone after a trailer", "2.2", b"x-a: b\n\r\n", BAD),
        ("CR within a trailer", "2.2", b"x-a: b\rc\r\n\r\n", BAD),
        ("LF alone after trailers", "2.2", b"x-a: b\r\n\n", BAD),
        ("half a trailer", "7.1.2", b"x-a: b", Waits),
        ("a trailer without the empty line", "7.1.2", b"x-a: b\r\n", Waits),
        ("a request in place of trailers", "7.1.2", b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD),
    ];
    let rows = rows.into_iter().map(|(name, rule, end, right)| {
        let bytes = [POST.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", end].concat();
        row(name, rule, bytes, &right, post(b"hello"))
    });
    rows.collect()
}

/// `Expect`, with a body of `hello` that comes without having been asked for.
#[rustfmt::skip] // one row a line
fn expectations() -> Vec<Row> {
    const OTHER: Right = No(&[417]);
    let rows = vec![
        ("100-continue", "9110 10.1.1", "Expect: 100-continue\r\n", "hello", Ok),
        ("100-continue in another case", "9110 10.1.1", "EXPECT: 100-Continue\r\n", "hello", Ok),
        ("100-continue twice", "9110 10.1.1", "Expect: 100-continue\r\nExpect: 100-continue\r\n", "hello", Choice(&[417])),
        ("100-continue twice in a line", "9110 10.1.1", "Expect: 100-continue, 100-continue\r\n", "hello", Choice(&[417])),
        ("100-continue before the body", "9110 10.1.1", "Expect: 100-continue\r\n", "", Waits),
        ("another expectation", "9110 10.1.1", "Expect: 200-ok\r\n", "hello", OTHER),
        ("another expectation beside it", "9110 10.1.1", "Expect: 100-continue, x\r\n", "hello", OTHER),
        ("another expectation in a second line", "9110 10.1.1", "Expect: 100-continue\r\nExpect: x=y\r\n", "hello", OTHER),
        ("a longer word", "9110 10.1.1", "Expect: 100-continued\r\n", "hello", OTHER),
        ("an empty expectation", "9110 10.1.1", "Expect:\r\n", "hello", Choice(&[417])),
    ];
    let mut all: Vec<Row> = rows.into_iter().map(|(name, rule, lines, body, right)| {
        row(name, rule, format!("{POST}{lines}Content-Length: 5\r\n\r\n{body}"), &right, post(b"hello"))
    }).collect();
    let old = "POST /v1/messages HTTP/1.0\r\n";
    all.push(row("an expectation in HTTP/1.0 is ignored", "9110 10.1.1",
        format!("{old}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"), &Last, post(b"hello")));
    all.push(row("another expectation in HTTP/1.0", "9110 10.1.1",
        format!("{old}Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello"), &Choice(&[417]), post(b"hello")));
    if let Some(row) = all.last_mut() {
        row.verdicts[0].push(Seen::Closes);
    }
    all.push(row("an expectation without a body", "9110 10.1.1", format!("{GET}Expect: 100-continue\r\n\r\n"), &Ok, get()));
    all.push(row("an expectation and a length of zero", "9110 10.1.1",
        format!("{POST}Expect: 100-continue\r\nContent-Length: 0\r\n\r\n"), &Ok, post(b"")));
    all.push(row("an expectation and chunks", "9110 10.1.1",
        format!("{POST}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), &Ok, post(b"hello")));
    all.push(special("an expectation and a length above the limit", "P4",
        format!("{POST}Expect: 100-continue\r\nContent-Length: 268435457\r\n\r\n"), no(&[413])));
    all
}

/// `Connection`: each row is followed by a second request, which is read only if the first keeps the connection.
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
        special(
            "a request within a body",
            "6.3",
            inside,
            vec![vec![post(hidden.as_bytes())]],
        ),
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
        (
            "10 requests at once, the last with close",
            10,
            "Connection: close\r\n",
        ),
        ("50 requests at once", 50, ""),
        (
            "50 requests at once, the last with close",
            50,
            "Connection: close\r\n",
        ),
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

/// Sizes of heads.
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
    all.push(row("a target of 50 KB", "P2", format!("GET {longer} HTTP/1.1\r\n{HOST}\r\n"), &Choice(&[400, 431]), served("GET", &longer, b"")));
    let body = "b".repeat(100_000);
    all.push(row("a body of 100 KB", "6.2", format!("{POST}Content-Length: 100000\r\n\r\n{body}"), &Ok, post(body.as_bytes())));
    all
}

/// What is no HTTP/1 at all.
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
        special(
            "the front of a TLS greeting",
            "P2",
            *b"\x16\x03\x01\x02\x00",
            no(&[400]),
        ),
        special(
            "HTTP/2",
            "9113 3.4",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            no(&[505]),
        ),
        special(
            "HTTP/2 up to the empty line",
            "9113 3.4",
            "PRI * HTTP/2.0\r\n\r\n",
            no(&[505]),
        ),
        special(
            "HTTP/2 up to the first line end",
            "9113 3.4",
            "PRI * HTTP/2.0\r\n",
            no(&[505]),
        ),
        special(
            "HTTP/3.0 up to the first line end",
            "P2",
            "GET / HTTP/3.0\r\n",
            no(&[505]),
        ),
        special(
            "HTTP/0.9",
            "2.3",
            "GET /v1/models\r\n",
            vec![
                vec![Seen::Refused(400)],
                vec![Seen::Refused(505)],
                vec![Seen::Waits],
            ],
        ),
        special("NULs", "3", "\0\0\0\0\0\0\0\0\r\n\r\n", no(&[400])),
        special(
            "an SSH greeting",
            "3",
            "SSH-2.0-OpenSSH_9.6\r\n",
            vec![vec![Seen::Refused(400)], vec![Seen::Waits]],
        ),
        special(
            "a mail client",
            "3",
            "EHLO localhost\r\n\r\n",
            no(&[400, 505]),
        ),
        special(
            "a word and nothing else",
            "3",
            "nonsense\r\n\r\n",
            no(&[400]),
        ),
    ]
}
