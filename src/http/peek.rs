//! Extracts what the proxy needs to know from a request body, in one pass over its bytes and
//! without building a document (P4, P9, P10, S9).
//!
//! Never fails and never changes a byte: from a broken body it returns what could be read.

use std::ops::Range;

use super::digest::{Digest, digest};
use super::headers::ClientOptions;
use super::json::{Cursor, Text};

/// Larger bodies are answered with 413.
pub(crate) const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The facts of one request body. If a key occurs twice the last one counts, as in most JSON
/// parsers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peek {
    /// The top-level `model`, decoded.
    pub(crate) model: Option<String>,
    /// Positions of the top-level `model` strings.
    pub(crate) models: ModelSpans,
    /// `stream` is `true`.
    pub(crate) stream: bool,
    /// `max_tokens`.
    pub(crate) max_tokens: Option<u64>,
    /// `thinking.type` is `enabled` or `adaptive`.
    pub(crate) thinking_on: bool,
    /// A message holds a `thinking` or `redacted_thinking` block with a signature (P9).
    pub(crate) signed_thinking: bool,
    /// Position of the value of `messages`.
    pub(crate) messages: Option<Range<usize>>,
    /// Digest of the first message; a later request of the same conversation has the same one,
    /// whatever its cache marks (S9).
    pub(crate) first_message: Option<u128>,
    /// Claude Code's session id from `metadata.user_id` (S9).
    pub(crate) session: Option<String>,
    /// `thread`.
    pub(crate) thread: Option<Thread>,
    /// The body was one complete JSON object. If not, fields that are absent here may still be in
    /// it.
    pub(crate) whole: bool,
}

/// Byte ranges of the top-level `model` strings, quotes included, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelSpans {
    /// The first few.
    pub(crate) first: Vec<Range<usize>>,
    /// There are more than listed.
    pub(crate) more: bool,
}

/// `thread` of a request (P10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thread {
    /// `thread.id`.
    pub(crate) id: Option<String>,
    /// `thread.type` is `continue`: the body holds only the end of the conversation.
    pub(crate) continues: bool,
}

/// Reads the facts of a body.
pub(crate) fn peek(body: &[u8]) -> Peek {
    let mut peek = Peek::default();
    let mut cursor = Cursor::new(body);
    let is_object = cursor.next() == Some(b'{');
    let walked = cursor.members(|cursor, key| peek.member(cursor, key));
    peek.whole = is_object && walked.is_some() && cursor.is_at_end();
    peek
}

/// The session key of S9 with `auto`: what the client declared, else Claude Code's session id
/// combined with its agent id or first message.
pub(crate) fn session_key(options: &ClientOptions, peek: &Peek) -> Option<u128> {
    if let Some(own) = &options.session {
        return Some(digest(&[b"session", own.as_bytes()]));
    }
    let session = options.claude_session.as_ref().or(peek.session.as_ref())?;
    let first_message = peek.first_message.unwrap_or_default().to_le_bytes();
    let (kind, part): (&[u8], &[u8]) = match &options.claude_agent {
        Some(agent) => (b"agent", agent.as_bytes()),
        None => (b"message", &first_message),
    };
    // The upper half identifies the session, so that all its conversations are found by its id.
    let conversation = digest(&[kind, session.as_bytes(), part]) & LOWER_HALF;
    Some(upper_half(session) | conversation)
}

/// Whether a session key was derived from this id, either declared by the client or Claude Code's.
pub(crate) fn is_session_of(key: u128, id: &str) -> bool {
    key == digest(&[b"session", id.as_bytes()]) || key & !LOWER_HALF == upper_half(id)
}

/// The short session id in the log, the dashboard and explanations.
pub(crate) fn session_tag(key: u128) -> String {
    format!("{:06x}", key & 0xff_ffff)
}

const LOWER_HALF: u128 = u64::MAX as u128;

fn upper_half(session: &str) -> u128 {
    digest(&[b"claude", session.as_bytes()]) & !LOWER_HALF
}

impl Peek {
    /// The request's weight (P4).
    pub(crate) fn weight(&self, body_bytes: usize) -> u32 {
        let size = u32::try_from(body_bytes.div_ceil(64_000)).unwrap_or(u32::MAX);
        size.max(1)
            .saturating_add(u32::from(self.max_tokens.is_some_and(|tokens| tokens > 16_000)))
            .saturating_add(u32::from(self.thinking_on))
    }

    /// Reads one top-level member.
    fn member(&mut self, cursor: &mut Cursor<'_>, key: &Text<'_>) -> Option<()> {
        match key.name().as_ref() {
            b"model" => {
                let text = cursor.text()?;
                self.model = text.as_ref().and_then(|text| text.decode(TEXT_BYTES_MAX));
                if let Some(text) = text {
                    self.models.add(text.span);
                }
                Some(())
            }
            b"stream" => {
                self.stream = cursor.raw()? == b"true";
                Some(())
            }
            b"max_tokens" => {
                self.max_tokens = whole_number(cursor.raw()?);
                Some(())
            }
            b"thinking" => self.thinking(cursor),
            b"messages" => {
                cursor.next()?;
                let start = cursor.position();
                self.messages = None;
                self.walk_messages(cursor)?;
                self.messages = Some(start..cursor.position());
                Some(())
            }
            b"metadata" => self.metadata(cursor),
            b"thread" => self.thread(cursor),
            _ => cursor.skip(),
        }
    }

    fn thinking(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        self.thinking_on = false;
        cursor.members(|cursor, key| match key.name().as_ref() {
            b"type" => {
                let kind = cursor.text()?;
                self.thinking_on = kind
                    .is_some_and(|kind| matches!(kind.name().as_ref(), b"enabled" | b"adaptive"));
                Some(())
            }
            _ => cursor.skip(),
        })
    }

    fn metadata(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        self.session = None;
        cursor.members(|cursor, key| match key.name().as_ref() {
            b"user_id" => {
                let id = cursor.text()?.and_then(|id| id.decode(TEXT_BYTES_MAX));
                self.session = id.as_deref().and_then(session_of);
                Some(())
            }
            _ => cursor.skip(),
        })
    }

    fn thread(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let mut thread = Thread::default();
        let is_object = cursor.next()? == b'{';
        let walked = cursor.members(|cursor, key| match key.name().as_ref() {
            b"id" => {
                thread.id = cursor.text()?.and_then(|id| id.decode(TEXT_BYTES_MAX));
                Some(())
            }
            b"type" => {
                thread.continues =
                    cursor.text()?.is_some_and(|kind| kind.name().as_ref() == b"continue");
                Some(())
            }
            _ => cursor.skip(),
        });
        self.thread = is_object.then_some(thread);
        walked
    }

    fn walk_messages(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        self.first_message = None;
        cursor.elements(|cursor, number| {
            let mut digest = Digest::default();
            let walked =
                cursor.members(|cursor, key| match (key.name().as_ref(), cursor.next()?) {
                    (b"content", b'[') => {
                        cursor.elements(|cursor, _| self.block(cursor, number, &mut digest))
                    }
                    // The same message may be a string now and a list of one text later, when it
                    // gets a cache mark.
                    (b"content", b'"') if number == 0 => {
                        digest.add(b"text");
                        digest.add(cursor.raw()?);
                        Some(())
                    }
                    _ => cursor.skip(),
                });
            if number == 0 {
                self.first_message = digest.value();
            }
            walked
        })
    }

    /// Reads one content block. Of the first message everything counts except cache marks, which
    /// move as the conversation grows.
    fn block(
        &mut self,
        cursor: &mut Cursor<'_>,
        message: usize,
        digest: &mut Digest,
    ) -> Option<()> {
        let (mut thinking, mut redacted, mut signature, mut data) = (false, false, false, false);
        let walked = cursor.members(|cursor, key| {
            let name = key.name();
            match name.as_ref() {
                b"type" => {
                    let kind = cursor.text()?;
                    let kind = kind.as_ref().map(Text::name).unwrap_or_default();
                    thinking |= kind.as_ref() == b"thinking";
                    redacted |= kind.as_ref() == b"redacted_thinking";
                }
                b"cache_control" => cursor.skip()?,
                name => {
                    let value = cursor.raw()?;
                    let filled = value.first() == Some(&b'"') && value.len() > 2;
                    signature |= filled && name == b"signature";
                    data |= filled && name == b"data";
                    if message == 0 {
                        digest.add(name);
                        digest.add(value);
                    }
                }
            }
            Some(())
        });
        self.signed_thinking |= (thinking && signature) || (redacted && data);
        walked
    }
}

impl ModelSpans {
    fn add(&mut self, span: Range<usize>) {
        if self.first.len() < SPANS_MAX {
            self.first.push(span);
        } else {
            self.more = true;
        }
    }
}

/// What follows `_session_`, or the field of a user id that is itself JSON (S9).
fn session_of(user_id: &str) -> Option<String> {
    if let Some((_, session)) = user_id.rsplit_once("_session_") {
        return Some(session.to_owned()).filter(|session| !session.is_empty());
    }
    let mut found = None;
    let _end = Cursor::new(user_id.as_bytes()).members(|cursor, key| match key.name().as_ref() {
        b"session_id" => {
            found = cursor.text()?.and_then(|id| id.decode(TEXT_BYTES_MAX));
            Some(())
        }
        _ => cursor.skip(),
    });
    found.filter(|session| !session.is_empty())
}

/// A non-negative number, truncated to an integer.
fn whole_number(raw: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(raw).ok()?;
    let number = text.parse().ok();
    // Only for numbers written as 1e5 or 4096.0; the conversion saturates.
    number.or_else(|| {
        text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0).map(|n| n as u64)
    })
}

const SPANS_MAX: usize = 8;
/// Ids and names longer than this are ignored.
const TEXT_BYTES_MAX: usize = 2_048;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::chance::{Random, rounds};

    fn look(body: &Value) -> Peek {
        peek(body.to_string().as_bytes())
    }

    #[test]
    fn facts_of_a_request() {
        let body = br#"  {"mod\u0065l" : "claude-\u006fpus-4","stream":true ,"max_tokens":32000,
            "tools":[{"model":"x","stream":false}],"system":"\"model\":\"y\"",
            "thinking":{"budget_tokens":1024,"type":"enabled"},
            "metadata":{"user_id":"user_ab_account__session_0f-1"},
            "thread":{"id":"th_1","type":"continue"},
            "messages":[{"role":"user","content":"hi","model":"z"}]} "#;
        let peek = peek(body);
        assert_eq!(peek.model.as_deref(), Some("claude-opus-4"), "P4");
        assert_eq!(&body[peek.models.first[0].clone()], br#""claude-\u006fpus-4""#, "P4");
        assert_eq!(peek.models.first.len(), 1, "V2 only the top level");
        assert!(peek.stream && peek.thinking_on && !peek.signed_thinking && peek.whole, "P4");
        assert_eq!(
            &body[peek.messages.clone().unwrap()],
            br#"[{"role":"user","content":"hi","model":"z"}]"#,
            "Q6"
        );
        assert_eq!(peek.max_tokens, Some(32_000), "P4");
        assert_eq!(peek.session.as_deref(), Some("0f-1"), "S9");
        let thread = Thread { id: Some("th_1".into()), continues: true };
        assert_eq!(peek.thread, Some(thread), "P10");
        assert_eq!(peek.weight(body.len()), 3, "P4");
    }

    #[test]
    fn the_last_of_two_keys_counts() {
        let peek = peek(
            br#"{"model":"a","stream":true,"thinking":{"type":"enabled"},"thread":{"type":"continue"},"model":"b",
                "stream":false,"thinking":{"type":"disabled"},"thread":null,"max_tokens":1,"max_tokens":2}"#,
        );
        assert_eq!((peek.model.as_deref(), peek.max_tokens), (Some("b"), Some(2)));
        assert_eq!(peek.models.first.len(), 2);
        assert!(!peek.stream && !peek.thinking_on && peek.thread.is_none());
    }

    #[test]
    fn weights() {
        #[rustfmt::skip] // one row a line
        let rows = [
            (0, None, false, 1),
            (64_000, Some(16_000), false, 1),
            (64_001, Some(16_000), false, 2),
            (1, Some(16_001), false, 2),
            (1, None, true, 2),
            (30_000_000, Some(64_000), true, 471),
        ];
        for (bytes, max_tokens, thinking_on, expected) in rows {
            let peek = Peek { max_tokens, thinking_on, ..Peek::default() };
            assert_eq!(peek.weight(bytes), expected, "P4 {bytes} {max_tokens:?} {thinking_on}");
        }
    }

    #[test]
    fn numbers_and_kinds() {
        #[rustfmt::skip] // one row a line
        let rows = [
            ("4096", Some(4096)), ("4096.9", Some(4096)), ("1e5", Some(100_000)), ("-1", None), ("\"5\"", None), ("null", None),
            ("18446744073709551616", Some(u64::MAX)), ("nan", None), ("[5]", None),
        ];
        for (text, expected) in rows {
            let body = format!(r#"{{"max_tokens":{text},"stream":"true","thinking":"enabled"}}"#);
            let peek = peek(body.as_bytes());
            assert_eq!(peek.max_tokens, expected, "P4 {text}");
            assert!(!peek.stream && !peek.thinking_on && peek.whole, "P4 other types say nothing");
        }
    }

    #[test]
    fn signed_thinking() {
        #[rustfmt::skip] // one row a line
        let rows = [
            ("P9 signature", json!([{"type": "thinking", "thinking": "x", "signature": "s"}]), true),
            ("P9 whatever the order", json!([{"type": "text"}, {"signature": "s", "type": "thinking"}]), true),
            ("P9 redacted", json!([{"type": "redacted_thinking", "data": "d"}]), true),
            ("P9 unsigned", json!([{"type": "thinking", "thinking": "x", "signature": ""}]), false),
            ("P9 unsigned", json!([{"type": "thinking", "thinking": "x"}]), false),
            ("P9 a provider's own", json!([{"type": "thinking", "signature": null}]), false),
            ("P9 another block", json!([{"type": "text", "signature": "s", "data": "d"}]), false),
            ("P9 deeper is text", json!([{"type": "tool_use", "input": {"type": "thinking", "signature": "s"}}]), false),
            ("P9 text", json!("{\"type\":\"thinking\",\"signature\":\"s\"}"), false),
        ];
        for (rule, content, expected) in rows {
            let message = json!({"role": "assistant", "content": content});
            let body = json!({"messages": [{"role": "user", "content": "hi"}, message]});
            assert_eq!(look(&body).signed_thinking, expected, "{rule} {body}");
        }
        let escaped =
            br#"{"messages":[{"content":[{"\u0074ype":"thin\u006bing","sign\u0061ture":"s"}]}]}"#;
        assert!(peek(escaped).signed_thinking, "P9 escapes");
    }

    #[test]
    fn a_conversation_keeps_its_digest() {
        let first = |content: Value| {
            look(&json!({"messages": [{"role": "user", "content": content}, {"role": "x"}]}))
                .first_message
        };
        let plain = first(json!("hello"));
        assert!(plain.is_some(), "S9");
        let list = json!([{"type": "text", "text": "hello"}]);
        let marked =
            json!([{"cache_control": {"type": "ephemeral"}, "type": "text", "text": "hello"}]);
        assert_eq!(first(list), plain, "S9 a list of one text");
        assert_eq!(first(marked), plain, "S9 a cache mark");
        assert_ne!(first(json!("hello ")), plain, "S9");
        assert_ne!(
            first(json!([{"type": "text", "text": "hello"}, {"type": "text", "text": "x"}])),
            plain,
            "S9"
        );
        assert_eq!(look(&json!({"messages": []})).first_message, None, "S9");
        let twice = peek(br#"{"messages":[{"content":"hello"}],"messages":[]}"#);
        assert_eq!(twice.first_message, None, "S9 the last key counts");
        let longer = json!({"messages": [{"content": "hello", "role": "user"}, {"role": "assistant", "content": "x"}]});
        assert_eq!(look(&longer).first_message, plain, "S9 later messages do not count");
    }

    #[test]
    fn sessions() {
        #[rustfmt::skip] // one row a line
        let rows = [
            ("user_1_account_2_session_3", Some("3")),
            ("a_session_b_session_c", Some("c")),
            (r#"{"device_id":"d","session_id":"s-1","x":{"session_id":"no"}}"#, Some("s-1")),
            (r#"{"session_id":7}"#, None),
            (r#"{"session_id":"s"#, None),
            ("user_1_session_", None),
            ("plain", None),
            ("", None),
        ];
        for (user_id, expected) in rows {
            let peek = look(&json!({"metadata": {"user_id": user_id}}));
            assert_eq!(peek.session.as_deref(), expected, "S9 {user_id}");
        }
        let long = "x".repeat(10_000);
        assert_eq!(
            look(&json!({"metadata": {"user_id": format!("_session_{long}")}})).session,
            None,
            "S9 bounded"
        );
    }

    #[test]
    fn session_keys() {
        let body = |text: &str, session: &str| {
            look(
                &json!({"metadata": {"user_id": format!("_session_{session}")}, "messages": [{"content": text}]}),
            )
        };
        let options = |session: &str, claude: &str, agent: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            ClientOptions {
                session: some(session),
                claude_session: some(claude),
                claude_agent: some(agent),
                ..Default::default()
            }
        };
        let key = |options: &ClientOptions, peek: &Peek| session_key(options, peek);
        let none = options("", "", "");
        assert_eq!(
            key(&none, &look(&json!({"messages": [{"content": "a"}]}))),
            None,
            "S9 no key, no binding"
        );
        assert_eq!(
            key(&none, &body("a", "1")),
            key(&options("", "1", ""), &look(&json!({"messages": [{"content": "a"}]}))),
            "S9"
        );
        assert_ne!(
            key(&none, &body("a", "1")),
            key(&none, &body("b", "1")),
            "S9 a subagent by its first message"
        );
        assert_ne!(key(&none, &body("a", "1")), key(&none, &body("a", "2")), "S9");
        assert_eq!(
            key(&options("", "1", "g"), &body("a", "")),
            key(&options("", "1", "g"), &body("b", "")),
            "S9 agent id"
        );
        assert_ne!(
            key(&options("", "1", "g"), &body("a", "")),
            key(&options("", "1", ""), &body("a", "")),
            "S9 agent id"
        );
        assert_eq!(
            key(&options("s", "1", "g"), &body("a", "1")),
            key(&options("s", "2", ""), &body("b", "")),
            "S9 ours first"
        );
        for (made, id, is) in [
            (key(&none, &body("a", "1")), "1", true),
            (key(&none, &body("b", "1")), "1", true),
            (key(&options("", "1", "g"), &body("a", "")), "1", true),
            (key(&options("s", "1", "g"), &body("a", "1")), "s", true),
            (key(&options("s", "1", "g"), &body("a", "1")), "1", false),
            (key(&none, &body("a", "1")), "2", false),
        ] {
            assert_eq!(made.is_some_and(|key| is_session_of(key, id)), is, "S12 {id}");
        }
    }

    #[test]
    fn broken_bodies_give_what_could_be_read() {
        let rows: [(&[u8], Option<&str>); 7] = [
            (br#"{"model":"a","messages":[{"#, Some("a")),
            (br#"{"model":"a" "stream":true}"#, Some("a")),
            (br#"{"model":"a"}x"#, Some("a")),
            (br#"{"model":"a"#, None),
            (br#"["model","a"]"#, None),
            (b"", None),
            (b"\x1f\x8b\x08", None),
        ];
        for (body, model) in rows {
            let peek = peek(body);
            assert_eq!(peek.model.as_deref(), model, "P4 {body:?}");
            assert!(!peek.whole, "P4 {body:?}");
        }
        assert!(peek(b"\xef\xbb\xbf{} \n").whole);
    }

    #[test]
    fn agrees_with_serde_json() {
        let mut random = Random::new(11);
        let mut with_model = 0;
        for _ in rounds(5_000) {
            let text = random.object(4);
            let value: Value = serde_json::from_str(&text).unwrap();
            let peek = peek(text.as_bytes());
            assert_eq!(peek.model.as_deref(), value["model"].as_str(), "{text}");
            assert_eq!(peek.stream, value["stream"] == true, "{text}");
            assert!(peek.whole, "{text}");
            with_model += u32::from(peek.model.is_some());
        }
        assert!(with_model > 500, "the generator draws what is looked for");
    }

    #[test]
    fn garbage_does_no_harm() {
        let mut random = Random::new(12);
        for _ in rounds(20_000) {
            let text = random.broken_json();
            let peek = peek(&text);
            assert!(peek.models.first.iter().all(|span| span.end <= text.len()));
        }
        let deep = format!(r#"{{"messages":{}"#, "[{\"content\":".repeat(300_000));
        assert!(!peek(deep.as_bytes()).whole, "depth costs no stack");
        let many = format!("{{{}\"model\":\"z\"}}", r#""model":"a","#.repeat(100_000));
        let peek = peek(many.as_bytes());
        assert!(peek.models.more && peek.models.first.len() == SPANS_MAX, "spans are bounded");
        assert_eq!(peek.model.as_deref(), Some("z"));
    }
}
