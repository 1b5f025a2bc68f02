#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::testing::chance::{Random, rounds};

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"m",
    "usage":{"input_tokens":25,"cache_creation_input_tokens":3,"cache_read_input_tokens":900,"output_tokens":1}}}"#;

fn stream(events: &[(&str, &str)]) -> String {
    events
        .iter()
        .map(|(name, data)| format!("event: {name}\ndata: {}\n\n", data.replace('\n', "")))
        .collect()
}

fn scan(form: Form, chunks: &[&[u8]]) -> Scanner {
    let mut scanner = Scanner::new(form);
    for chunk in chunks {
        scanner.feed(chunk);
    }
    scanner.finish();
    scanner
}

fn events(text: &str) -> Scanner {
    scan(Form::Events, &[text.as_bytes()])
}

fn usual() -> String {
    stream(&[
        ("message_start", START),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        ),
        ("ping", r#"{"type":"ping"}"#),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Eq\u00410"}}"#,
        ),
        ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#),
        (
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#,
        ),
        (
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5,"input_tokens":26}}"#,
        ),
        ("message_stop", r#"{"type":"message_stop"}"#),
    ])
}

#[test]
fn a_usual_stream() {
    let expected = Facts {
        usage: Usage { input: 26, output: 7, cache_read: 900, cache_write: 3 },
        usage_seen: true,
        begun: true,
        stopped: true,
        signed_thinking: true,
        error: None,
        id: Some("msg_1".into()),
        thread: None,
        events: 8,
    };
    let text = usual();
    for text in [text.clone(), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
        let whole = events(&text);
        assert_eq!(*whole.facts(), expected, "P13, P9");
        assert_eq!(
            whole.first(),
            Some(&FirstEvent { name: "message_start".into(), error: None }),
            "P6"
        );
        assert_eq!(whole.mend(), b"");
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            let split = scan(Form::Events, &[&bytes[..at], &bytes[at..]]);
            assert_eq!(split.facts(), whole.facts(), "P13 split at {at}");
            assert_eq!(split.first(), whole.first(), "P6 split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(scan(Form::Events, &single).facts(), whole.facts(), "P13 byte by byte");
    }
}

#[test]
fn where_a_message_begins_and_ends() {
    let rows = [
        (
            "its first event is another",
            "event: x\ndata: {}\n\ndata: {\"type\":\"message_start\"}\n\n",
            (true, false),
        ),
        (
            "names alone",
            "event: message_start\ndata: {}\n\nevent: message_stop\ndata: {}\n\n",
            (true, true),
        ),
        (
            "the data goes before the name",
            "event: message_stop\ndata: {\"type\":\"message_start\"}\n\n",
            (true, false),
        ),
        ("a ping", "event: ping\ndata: {}\n\n", (false, false)),
    ];
    for (rule, text, expected) in rows {
        let facts = read(Form::Events, text.as_bytes());
        assert_eq!((facts.begun, facts.stopped), expected, "P6 {rule}");
    }
}

#[test]
fn first_events() {
    let overloaded =
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let error = |kind: &str, message: &str| {
        Some(ApiError { kind: kind.into(), message: message.into(), code: None })
    };
    #[rustfmt::skip] // one row a line
    let rows = [
        ("P6 an error", format!("event: error\ndata: {overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
        ("P6 no event field", format!("data: {overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
        ("P6 the name alone says it", "event: error\ndata: oops\n\n".into(), Some(("error", error("", "")))),
        ("P6 no blanks", format!("event:error\ndata:{overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
        ("P6 several data lines", "event: error\ndata: {\"type\":\"error\",\ndata: \"error\":{\"type\":\"x\"}}\n\n".into(), Some(("error", error("x", "")))),
        ("P6 not complete", "event: message_start\ndata: {\"type\":".into(), None),
        ("P6 at the end the blank line may lack", format!("event: error\ndata: {overloaded}"), Some(("error", error("overloaded_error", "Overloaded")))),
        ("P6 comments and eventless names are none", ": hi\n\nevent: x\n\nid: 1\n\nevent: ping\ndata: {}\n\n".into(), None),
        ("P6 pings are passed over", "event: ping\ndata: {\"type\":\"ping\"}\n\ndata: {\"type\":\"ping\"}\n\ndata: {\"type\":\"x\"}\n\n".into(), Some(("x", None))),
        ("P6 the last name counts", "event: a\nevent: b\ndata\n\n".into(), Some(("b", None))),
        ("P6 fields are exact", "events: a\n data: {}\ndatas: x\n\n".into(), None),
        ("P6 a mark before it", format!("\u{feff}event: error\ndata: {overloaded}\n\n"), Some(("error", error("overloaded_error", "Overloaded")))),
        ("P6 a mark later is text", "\n\u{feff}data: {}\n\n".into(), None),
        ("nothing", String::new(), None),
    ];
    for (rule, text, expected) in rows {
        let expected = expected.map(|(name, error)| FirstEvent { name: name.into(), error });
        assert_eq!(events(&text).first(), expected.as_ref(), "{rule} {text:?}");
    }
}

#[test]
fn later_errors() {
    let text = usual()
        + &stream(&[(
            "error",
            r#"{"type":"error","error":{"details":{"error_code":"c"},"message":"a\nb","type":"api_error"}}"#,
        )]);
    let error = events(&text).facts().error.clone();
    let expected =
        ApiError { kind: "api_error".into(), message: "a\nb".into(), code: Some("c".into()) };
    assert_eq!(error, Some(expected), "P6");
}

#[test]
fn bodies() {
    let block = |block: Value| json!({"type": "message", "id": "msg_2", "content": [{"type": "text", "text": "x"}, block], "usage": {"input_tokens": 3, "output_tokens": 4}});
    #[rustfmt::skip] // one row a line
    let rows = [
        ("P9 signature", block(json!({"type": "thinking", "thinking": "x", "signature": "s"})), true),
        ("P9 redacted", block(json!({"data": "d", "type": "redacted_thinking"})), true),
        ("P9 unsigned", block(json!({"type": "thinking", "thinking": "x", "signature": ""})), false),
        ("P9 another block's signature", block(json!({"type": "text", "signature": "s"})), false),
        ("P9 deeper", block(json!({"type": "tool_use", "input": {"content": [{"type": "thinking", "signature": "s"}]}})), false),
    ];
    for (rule, body, signed) in rows {
        let text = body.to_string();
        let whole = read(Form::Json, text.as_bytes());
        assert_eq!(whole.signed_thinking, signed, "{rule}");
        assert_eq!(
            (whole.usage.input, whole.usage.output, whole.stopped),
            (3, 4, true),
            "P13 {rule}"
        );
        assert_eq!(whole.id.as_deref(), Some("msg_2"));
        for at in 0..text.len() {
            let (head, tail) = text.as_bytes().split_at(at);
            assert_eq!(*scan(Form::Json, &[head, tail]).facts(), whole, "split at {at}");
            assert!(!scan(Form::Json, &[head]).facts().stopped, "cut at {at}");
        }
    }
    let two =
        json!({"content": [{"type": "thinking"}, {"signature": "s", "type": "text"}]}).to_string();
    assert!(!read(Form::Json, two.as_bytes()).signed_thinking, "P9 two blocks are two");
    assert!(!read(Form::Json, b"{}{}").stopped && read(Form::Json, b" {} \n").stopped);
}

#[test]
fn errors_in_bodies() {
    let error = |kind: &str, message: &str| {
        Some(ApiError { kind: kind.into(), message: message.into(), code: None })
    };
    #[rustfmt::skip] // one row a line
    let rows = [
        (r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow \"down\""}}"#, error("rate_limit_error", "slow \"down\"")),
        (r#"{"error":"nope"}"#, error("", "nope")),
        (r#"{"message":"nope"}"#, error("", "nope")),
        (r#"{"error":{"message":"first"},"message":"second"}"#, error("", "first")),
        (r#"{"type":"message","message":"x"}"#, None),
        (r#"{"error":null}"#, None),
        ("<html>", None),
    ];
    for (body, expected) in rows {
        assert_eq!(read(Form::Json, body.as_bytes()).error, expected, "{body}");
    }
    let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "ä".repeat(5_000));
    let message = read(Form::Json, long.as_bytes()).error.unwrap().message;
    assert!(message.len() < 1_100 && message.ends_with("ä…"), "bounded");
}

#[test]
fn torn_streams_are_mended() {
    let own = "event: error\ndata: {\"type\":\"error\"}\n\n";
    let text = usual();
    for text in [text.clone(), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
        for at in 0..=text.len() {
            let torn = &text[..at];
            let mended = format!("{torn}{}{own}", String::from_utf8_lossy(events(torn).mend()));
            let slow = slow_events(&mended);
            let (last, before) = slow.split_last().unwrap();
            assert_eq!(last.0, "error", "torn at {at}");
            assert_eq!(last.1, r#"{"type":"error"}"#, "torn at {at}");
            let readable = |(name, data): &(String, String)| {
                name == "ping" || serde_json::from_str::<Value>(data).is_ok()
            };
            assert!(before.iter().all(readable), "P6 torn at {at}: {before:?}");
        }
    }
}

#[test]
fn memory_is_bounded() {
    let mut scanner = Scanner::new(Form::Events);
    let piece = [b'x'; 64 * 1024];
    for head in
        ["", ": ", "\nevent: ", "\ndata: ", "\ndata: {\"type\":\"", "\",\"error\":{\"message\":\""]
    {
        scanner.feed(head.as_bytes());
        for _ in 0..16 {
            scanner.feed(&piece);
        }
    }
    for _ in 0..16 {
        scanner.feed(&[b'['; 64 * 1024]);
    }
    let kept = format!("{scanner:?}").len();
    assert!(kept < 16 * 1024, "kept {kept}");
}

/// A slow but obviously correct reference.
fn slow_events(text: &str) -> Vec<(String, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut name, mut data, mut found) = (String::new(), None::<String>, Vec::new());
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if line.is_empty() {
            if let Some(data) = data.take() {
                found.push((name.clone(), data));
            }
            name.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => match &mut data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => data = Some(value.to_owned()),
            },
            _ => {}
        }
    }
    found
}

fn slow_facts(text: &str) -> (Facts, Option<FirstEvent>) {
    let (mut facts, mut first) = (Facts::default(), None);
    for (name, data) in slow_events(text) {
        let value: Value =
            serde_json::from_str(&data).ok().filter(Value::is_object).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&value["type"]);
        facts.events += 1;
        let is = |event: &str| kind == event || (kind.is_empty() && name == event);
        facts.begun |= is("message_start");
        facts.stopped |= is("message_stop");
        for usage in [&value["usage"], &value["message"]["usage"]] {
            for (key, total) in [
                ("input_tokens", &mut facts.usage.input),
                ("output_tokens", &mut facts.usage.output),
                ("cache_read_input_tokens", &mut facts.usage.cache_read),
                ("cache_creation_input_tokens", &mut facts.usage.cache_write),
            ] {
                if let Some(tokens) = usage[key].as_u64() {
                    *total = tokens.max(*total);
                    facts.usage_seen = true;
                }
            }
        }
        let filled = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        let block = &value["content_block"];
        facts.signed_thinking |= (value["delta"]["type"] == "signature_delta"
            && filled(&value["delta"]["signature"]))
            || (block["type"] == "thinking" && filled(&block["signature"]))
            || (block["type"] == "redacted_thinking" && filled(&block["data"]));
        facts.id = value["message"]["id"].as_str().map(str::to_owned).or(facts.id);
        let error = (name == "error" || kind == "error").then(|| ApiError {
            kind: text(&value["error"]["type"]),
            message: text(&value["error"]["message"]),
            code: None,
        });
        facts.error = error.clone().or(facts.error);
        let is_ping = kind == "ping" || (kind.is_empty() && name == "ping");
        if error.is_some() || !is_ping {
            first.get_or_insert(FirstEvent {
                name: if name.is_empty() { kind } else { name },
                error,
            });
        }
    }
    (facts, first)
}

fn random_stream(random: &mut Random) -> String {
    let mut text = String::new();
    let end = *random.pick(&["\n", "\r\n", "\r"]);
    for _ in 0..random.below(8) {
        let number = random.below(1_000);
        let junk = random.json(2).replace(['\n', '\r'], " ");
        let data = match random.below(9) {
            0 => format!(
                r#"{{"x":{junk},"type":"message_start","message":{{"id":"m{number}","usage":{{"input_tokens":{number}}}}}}}"#
            ),
            1 => format!(
                r#"{{"usage":{{"output_tokens":{number},"cache_read_input_tokens":null}},"type":"message_delta","z":{junk}}}"#
            ),
            2 => r#"{"type":"message_stop"}"#.into(),
            3 => format!(r#"{{"type":"error","error":{{"message":"e{number}","x":{junk},"type":"api_error"}}}}"#),
            4 => format!(
                r#"{{"content_block":{{"x":{junk},"type":"redacted_thinking","data":"d"}},"type":"content_block_start"}}"#
            ),
            5 => r#"{"type":"content_block_delta","delta":{"signature":"s\\","type":"signature_delta"}}"#.into(),
            6 => r#"{"type":"content_block_delta","delta":{"signature":"","type":"signature_delta"}}"#.into(),
            7 => "[DONE]".into(),
            _ => format!(r#"{{"type":"ping","message":{{"x":{junk}}}}}"#),
        };
        let field = random.word(&["data: ", "data:", "data: ", "data:  "]);
        let name = random.word(&[
            "event: a",
            "event:error",
            "event",
            ": c",
            "id: 7",
            "retry: 1",
            "evento: x",
            "",
        ]);
        if !name.is_empty() {
            text += &format!("{name}{end}");
        }
        if random.chance(10) {
            let half = data.char_indices().nth(data.chars().count() / 2).map_or(0, |(at, _)| at);
            text += &format!("{field}{}{end}{end}", &data[..half]);
            continue;
        }
        let folded = data.replacen(',', &format!(",{end}data: "), usize::from(random.chance(20)));
        text += &format!("{field}{folded}");
        text += &if random.chance(90) { end.repeat(2) } else { end.to_owned() };
    }
    // A broken end is handled by `finish`, which the reference does not model.
    text + end + end
}

#[test]
fn agrees_with_the_slow_reader_however_it_is_split() {
    let mut random = Random::new(31);
    let mut signed = 0;
    for _ in rounds(3_000) {
        let text = random_stream(&mut random);
        let (facts, first) = slow_facts(&text);
        signed += u32::from(facts.signed_thinking);
        let mut scanner = Scanner::new(Form::Events);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(1 + random.below(rest.len().min(40)));
            scanner.feed(chunk);
            rest = tail;
        }
        scanner.finish();
        assert_eq!(*scanner.facts(), facts, "{text:?}");
        assert_eq!(scanner.first(), first.as_ref(), "{text:?}");
    }
    assert!(signed > 100, "the generator draws what is looked for");
}

#[test]
fn garbage_does_no_harm() {
    let mut random = Random::new(32);
    for _ in rounds(5_000) {
        let mut text = random_stream(&mut random).into_bytes();
        for _ in 0..random.below(6) {
            let at = random.below(text.len());
            text[at] = random.next() as u8;
        }
        let whole = scan(Form::Events, &[&text]);
        let split: Vec<&[u8]> = text.chunks(1 + random.below(9)).collect();
        assert_eq!(scan(Form::Events, &split).facts(), whole.facts());
        assert_eq!(scan(Form::Events, &split).mend(), whole.mend());
        let body = random.broken_json();
        let split: Vec<&[u8]> = body.chunks(1 + random.below(9)).collect();
        assert_eq!(*scan(Form::Json, &split).facts(), read(Form::Json, &body));
    }
}

#[test]
fn forms() {
    #[rustfmt::skip] // one row a line
    let rows = [
        (Some("text/event-stream; charset=utf-8"), None, Form::Events),
        (Some("Text/Event-Stream"), Some("identity"), Form::Events),
        (Some("application/json"), None, Form::Json),
        (Some("application/problem+json"), Some(""), Form::Json),
        (Some("application/json"), Some("gzip"), Form::Opaque),
        (Some("text/html"), None, Form::Opaque),
        (None, None, Form::Json),
        (Some("text/plain; charset=utf-8"), None, Form::Json),
        (Some("application/octet-stream"), None, Form::Opaque),
    ];
    for (content_type, encoding, expected) in rows {
        assert_eq!(Form::of(content_type, encoding), expected, "{content_type:?} {encoding:?}");
    }
}
