//! An assistant message in the formats of the Messages API: one JSON document, or server-sent
//! events.

use serde_json::{Value, json};

use super::Request;

/// A message and what it cost.
#[derive(Clone)]
pub struct Message {
    /// The text, which a stream sends word by word.
    pub text: String,
    /// Thinking and its signature, in a block before the text.
    pub thinking: Option<(String, String)>,
    /// Uncached input tokens.
    pub input: u64,
    /// Output tokens at the end.
    pub output: u64,
    /// Input tokens read from the cache.
    pub cache_read: u64,
    /// Input tokens written to the cache.
    pub cache_write: u64,
    /// Lines end in CRLF.
    pub crlf: bool,
}

impl Message {
    /// A message with this text and small token counts.
    pub fn text(text: &str) -> Message {
        Message {
            text: text.to_owned(),
            thinking: None,
            input: 25,
            output: 15,
            cache_read: 0,
            cache_write: 0,
            crlf: false,
        }
    }

    /// A message of this many text deltas of about this many bytes each.
    pub fn long(events: usize, bytes: usize) -> Message {
        let mut text = String::with_capacity(events * (bytes + 1));
        for index in 0..events {
            let word = format!("w{index}");
            text.push_str(&word);
            text.extend(std::iter::repeat_n('x', bytes.saturating_sub(word.len() + 1)));
            text.push(' ');
        }
        Message::text(text.trim_end())
    }

    /// Adds a signed thinking block before the text.
    #[must_use]
    pub fn thinking(mut self, thinking: &str, signature: &str) -> Message {
        self.thinking = Some((thinking.to_owned(), signature.to_owned()));
        self
    }

    /// Sets the token counts: input, output, cache read, cache write.
    #[must_use]
    pub fn tokens(mut self, input: u64, output: u64, cache_read: u64, cache_write: u64) -> Message {
        (self.input, self.output) = (input, output);
        (self.cache_read, self.cache_write) = (cache_read, cache_write);
        self
    }

    /// Uses CRLF line endings.
    #[must_use]
    pub fn crlf(mut self) -> Message {
        self.crlf = true;
        self
    }

    /// The document for a request without `stream`.
    pub(super) fn json(&self, request: &Request) -> Vec<u8> {
        let mut content = Vec::new();
        if let Some((thinking, signature)) = &self.thinking {
            content.push(json!({"type": "thinking", "thinking": thinking, "signature": signature}));
        }
        content.push(json!({"type": "text", "text": self.text}));
        let mut message = self.shell(request);
        message["content"] = Value::Array(content);
        message["stop_reason"] = json!("end_turn");
        message["usage"] = self.usage(self.output);
        message.to_string().into_bytes()
    }

    /// The events of a stream, one per part.
    pub(super) fn events(&self, request: &Request) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        let mut add = |data: Value| {
            let kind = data["type"].as_str().unwrap_or("").to_owned();
            let event = event(&kind, &data);
            events.push(if self.crlf {
                String::from_utf8_lossy(&event).replace('\n', "\r\n").into_bytes()
            } else {
                event
            });
        };
        let mut message = self.shell(request);
        message["usage"] = self.usage(1);
        add(json!({"type": "message_start", "message": message}));
        let mut index = 0;
        if let Some((thinking, signature)) = &self.thinking {
            add(
                json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
            );
            add(
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": thinking}}),
            );
            add(
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": signature}}),
            );
            add(json!({"type": "content_block_stop", "index": 0}));
            index = 1;
        }
        add(
            json!({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}),
        );
        add(json!({"type": "ping"}));
        for word in self.text.split_inclusive(' ') {
            add(
                json!({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": word}}),
            );
        }
        add(json!({"type": "content_block_stop", "index": index}));
        add(
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": self.usage(self.output)}),
        );
        add(json!({"type": "message_stop"}));
        events
    }

    fn shell(&self, request: &Request) -> Value {
        json!({
            "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
            "type": "message",
            "role": "assistant",
            "model": request.json().get("model").cloned().unwrap_or(json!("claude-sonnet-4-5-20250929")),
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
        })
    }

    fn usage(&self, output: u64) -> Value {
        json!({
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_write,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation": {"ephemeral_5m_input_tokens": self.cache_write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output,
            "service_tier": "standard",
        })
    }
}

/// One server-sent event.
pub fn event(kind: &str, data: &Value) -> Vec<u8> {
    format!("event: {kind}\ndata: {data}\n\n").into_bytes()
}

/// An `error` event as the API sends it.
pub fn error_event(kind: &str, message: &str) -> Vec<u8> {
    event(
        "error",
        &json!({"type": "error", "error": {"type": kind, "message": message, "details": null}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}),
    )
}

/// A text delta of about `bytes` bytes that cannot be compressed or predicted; advances `state`
/// (xorshift).
pub(super) fn random_delta(state: &mut u64, bytes: usize) -> Vec<u8> {
    let mut event = Vec::with_capacity(bytes + 128);
    event.extend_from_slice(b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"");
    for _ in 0..bytes / 8 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        event.extend(state.to_le_bytes().map(|byte| b'a' + (byte & 15)));
    }
    event.extend_from_slice(b"\"}}\n\n");
    event
}
