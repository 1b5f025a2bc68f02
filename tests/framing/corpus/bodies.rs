//! Bodies: lengths, codings, chunks, trailers and expectations.

use super::super::{Seen, served};
use super::Right::{Choice, Last, No, Ok, Waits};
use super::{BAD, GET, HOST, POST, Right, Row, get, no, post, row, special};

/// `Content-Length`. Every served body is `hello`.
#[rustfmt::skip] // one row a line
pub(super) fn lengths() -> Vec<Row> {
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

/// `Transfer-Encoding`. Every served body is `hello`.
#[rustfmt::skip] // one row a line
pub(super) fn codings() -> Vec<Row> {
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

/// Chunked bodies. Every served body is `hello`.
#[rustfmt::skip] // one row a line
pub(super) fn chunks() -> Vec<Row> {
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

/// Bytes after the last chunk of `hello`.
#[rustfmt::skip] // one row a line
pub(super) fn trailers() -> Vec<Row> {
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

/// `Expect`, with a body of `hello` that is sent without waiting for `100 Continue`.
#[rustfmt::skip] // one row a line
pub(super) fn expectations() -> Vec<Row> {
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
