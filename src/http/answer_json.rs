//! Extracts known fields from one JSON document of an answer while its bytes arrive, split
//! anywhere.
//!
//! Keeps the path of the current position for a few levels, and at most a kilobyte of the current
//! value, however long or deep the document is. Lenient like [`super::json`]: it does not validate
//! the text, it only looks for known keys.

use super::json::{is_delimiter, quote_or_escape, resolved, unescape};

/// Token counts of one answer, each the largest value seen (P13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// `input_tokens`.
    pub(crate) input: u64,
    /// `output_tokens`.
    pub(crate) output: u64,
    /// `cache_read_input_tokens`.
    pub(crate) cache_read: u64,
    /// `cache_creation_input_tokens`.
    pub(crate) cache_write: u64,
}

/// An error of the API in an event or a body, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// `error.type`.
    pub(crate) kind: String,
    /// `error.message`, cut at a few hundred bytes.
    pub(crate) message: String,
    /// `error.details.error_code`.
    pub(crate) code: Option<String>,
}

/// What one document said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerJson {
    /// Top-level `type`.
    pub(crate) kind: Option<String>,
    /// `usage`, or that of `message`; `None` if the document has neither.
    pub(crate) usage: Option<Usage>,
    /// A thinking block with a signature, a redacted one with data, or a streamed signature (P9).
    pub(crate) signed_thinking: bool,
    /// `error`.
    pub(crate) error: Option<ApiError>,
    /// `id`, or that of `message`.
    pub(crate) id: Option<String>,
    /// `thread.id`, or that of `message`.
    pub(crate) thread: Option<String>,
    /// The document is an object, was closed, and nothing followed it.
    pub(crate) whole: bool,
}

/// Reads one document.
#[derive(Debug)]
pub(crate) struct Reader {
    document: AnswerJson,
    at: At,
    depth: usize,
    /// The member or element at each open level.
    path: [Key; LEVELS],
    is_object: [bool; LEVELS],
    /// The next string is a key.
    wants_key: bool,
    /// The current key or value, as far as it is of interest.
    word: Vec<u8>,
    /// How many more bytes of it to keep.
    room: usize,
    /// The last byte was a backslash.
    in_escape: bool,
    block: Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Between,
    Key,
    Text,
    Scalar,
    /// Something followed the end of the document.
    Beyond,
}

/// What has been seen of the current content block or delta.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    is_thinking: bool,
    is_redacted: bool,
    is_signature: bool,
    has_signature: bool,
    has_data: bool,
}

/// Keys that matter somewhere in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    CacheCreationInputTokens,
    CacheReadInputTokens,
    Content,
    ContentBlock,
    Data,
    Delta,
    Details,
    /// An element of an array.
    Element,
    Error,
    ErrorCode,
    Id,
    InputTokens,
    Message,
    Other,
    OutputTokens,
    Signature,
    Thread,
    Type,
    Usage,
}

impl Reader {
    /// Before the first byte.
    pub(crate) fn new() -> Self {
        Reader {
            document: AnswerJson::default(),
            at: At::Between,
            depth: 0,
            path: [Key::Other; LEVELS],
            is_object: [false; LEVELS],
            wants_key: false,
            word: Vec::new(),
            room: 0,
            in_escape: false,
            block: Block::default(),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, tail)) = rest.split_first() {
            let (end, after) = match self.at {
                At::Between => {
                    self.between(byte);
                    // A number or a literal starts with its first byte, a string after the quote.
                    if self.at != At::Scalar {
                        rest = tail;
                    }
                    continue;
                }
                At::Key | At::Text => (self.end_of_string(rest), 1),
                At::Scalar => (rest.iter().position(|&byte| is_delimiter(byte)), 0),
                At::Beyond => return,
            };
            let Some(end) = end else {
                return self.keep(rest);
            };
            self.end(&rest[..end]);
            rest = &rest[end + after..];
        }
    }

    /// A line feed between two data lines of an event; JSON strings cannot contain one.
    pub(crate) fn line_break(&mut self) {
        match self.at {
            At::Key | At::Text => self.at = At::Beyond,
            At::Between | At::Scalar | At::Beyond => self.feed(b"\n"),
        }
    }

    /// What has been read so far.
    pub(crate) fn document(&self) -> &AnswerJson {
        &self.document
    }

    /// Returns what has been read and starts over.
    pub(crate) fn take(&mut self) -> AnswerJson {
        let word = std::mem::take(&mut self.word);
        let fresh = Reader { word, ..Reader::new() };
        std::mem::replace(self, fresh).document
    }

    /// Position of the quote that ends the current string.
    fn end_of_string(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = usize::from(self.in_escape);
        loop {
            at += quote_or_escape(bytes.get(at..).unwrap_or_default());
            let found = bytes.get(at);
            if matches!(found, Some(b'\\')) {
                at += 2;
                continue;
            }
            // The last backslash escapes a byte of the next chunk.
            self.in_escape = at > bytes.len();
            return found.map(|_| at);
        }
    }

    /// A key or value ends with these bytes. Most arrive in one piece and need no copy.
    fn end(&mut self, bytes: &[u8]) {
        let mut word = Vec::new();
        let mut whole = &bytes[..self.room.min(bytes.len())];
        if !self.word.is_empty() {
            self.keep(bytes);
            word = std::mem::take(&mut self.word);
            whole = &word;
        }
        match self.at {
            At::Key => self.key(whole),
            At::Text | At::Scalar | At::Between | At::Beyond => self.value(whole),
        }
        if !word.is_empty() {
            self.word = word;
        }
        self.at = At::Between;
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            _ if self.document.whole => {
                self.document.whole = false;
                self.at = At::Beyond;
            }
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(byte == b'}'),
            b',' => self.wants_key = self.in_object(),
            b':' => self.wants_key = false,
            b'"' if self.wants_key => self.start(At::Key, KEY_BYTES_MAX),
            b'"' => self.start(At::Text, self.interest()),
            _ => self.start(At::Scalar, self.interest()),
        }
    }

    fn open(&mut self, is_object: bool) {
        // A new block starts; what an earlier one contained does not count for it.
        if let [Key::Content, Key::Element]
        | [Key::Message, Key::Content, Key::Element]
        | [Key::ContentBlock | Key::Delta] = self.here()
        {
            self.block = Block::default();
        }
        if let Some((key, level)) =
            self.path.get_mut(self.depth).zip(self.is_object.get_mut(self.depth))
        {
            *key = if is_object { Key::Other } else { Key::Element };
            *level = is_object;
        }
        self.depth += 1;
        self.wants_key = self.in_object();
    }

    fn close(&mut self, is_object: bool) {
        self.wants_key = false;
        self.depth = self.depth.saturating_sub(1);
        self.document.whole = self.depth == 0 && is_object;
        if self.depth == 0 && !self.document.whole {
            self.at = At::Beyond;
        }
    }

    /// Whether the current level is an object whose keys matter.
    fn in_object(&self) -> bool {
        let level = self.depth.checked_sub(1);
        level.and_then(|level| self.is_object.get(level)).is_some_and(|is_object| *is_object)
    }

    /// The path to the current value; empty where nothing is of interest.
    fn here(&self) -> &[Key] {
        self.path.get(..self.depth).unwrap_or_default()
    }

    fn start(&mut self, at: At, room: usize) {
        self.at = at;
        self.word.clear();
        self.room = room;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let (kept, _) = bytes.split_at(self.room.min(bytes.len()));
        self.word.extend_from_slice(kept);
        self.room -= kept.len();
    }

    fn key(&mut self, word: &[u8]) {
        let key = match Key::of(word) {
            Key::Other if word.contains(&b'\\') => Key::of(unescape(word).as_bytes()),
            key => key,
        };
        self.wants_key = false;
        if let Some(level) = self.depth.checked_sub(1).and_then(|level| self.path.get_mut(level)) {
            *level = key;
        }
    }

    /// How many bytes of a value at this position are worth keeping.
    fn interest(&self) -> usize {
        match self.here().last() {
            None | Some(Key::Other | Key::Element) => 0,
            Some(Key::Message | Key::Error) => MESSAGE_BYTES_MAX,
            Some(Key::Signature | Key::Data) => 1,
            Some(_) => WORD_BYTES_MAX,
        }
    }

    /// A scalar value has ended.
    fn value(&mut self, word: &[u8]) {
        let path = self.path;
        let document = &mut self.document;
        match path.get(..self.depth).unwrap_or_default() {
            [Key::Type] => document.kind = Some(unescape(word)),
            [Key::Id] | [Key::Message, Key::Id] => document.id = Some(unescape(word)),
            [Key::Thread, Key::Id] | [Key::Message, Key::Thread, Key::Id] => {
                document.thread = Some(unescape(word))
            }
            [Key::Usage, count] | [Key::Message, Key::Usage, count] => {
                count_tokens(document, *count, word)
            }
            [Key::Error, Key::Type] => error(document).kind = unescape(word),
            [Key::Error | Key::Message] if self.at == At::Text => error_text(document, word),
            [Key::Error, Key::Message] => error(document).message = bounded(word),
            [Key::Error, Key::Details, Key::ErrorCode] => {
                error(document).code = Some(unescape(word))
            }
            [Key::Content, Key::Element, part]
            | [Key::Message, Key::Content, Key::Element, part]
            | [Key::ContentBlock | Key::Delta, part] => {
                self.block.add(*part, word);
                document.signed_thinking |= self.block.is_signed();
            }
            _ => {}
        }
    }
}

impl Key {
    fn of(name: &[u8]) -> Key {
        match name {
            b"cache_creation_input_tokens" => Key::CacheCreationInputTokens,
            b"cache_read_input_tokens" => Key::CacheReadInputTokens,
            b"content" => Key::Content,
            b"content_block" => Key::ContentBlock,
            b"data" => Key::Data,
            b"delta" => Key::Delta,
            b"details" => Key::Details,
            b"error" => Key::Error,
            b"error_code" => Key::ErrorCode,
            b"id" => Key::Id,
            b"input_tokens" => Key::InputTokens,
            b"message" => Key::Message,
            b"output_tokens" => Key::OutputTokens,
            b"signature" => Key::Signature,
            b"thread" => Key::Thread,
            b"type" => Key::Type,
            b"usage" => Key::Usage,
            _ => Key::Other,
        }
    }
}

impl Block {
    fn add(&mut self, part: Key, word: &[u8]) {
        match part {
            Key::Type => {
                let kind = resolved(word);
                self.is_thinking = *kind == *b"thinking";
                self.is_redacted = *kind == *b"redacted_thinking";
                self.is_signature = *kind == *b"signature_delta";
            }
            Key::Signature => self.has_signature = !word.is_empty(),
            Key::Data => self.has_data = !word.is_empty(),
            _ => {}
        }
    }

    fn is_signed(self) -> bool {
        ((self.is_thinking || self.is_signature) && self.has_signature)
            || (self.is_redacted && self.has_data)
    }
}

fn error(document: &mut AnswerJson) -> &mut ApiError {
    document.error.get_or_insert_default()
}

/// Some providers send `"error": "text"`, or only `"message"`.
fn error_text(document: &mut AnswerJson, word: &[u8]) {
    let error = error(document);
    if error.message.is_empty() {
        error.message = bounded(word);
    }
}

fn count_tokens(document: &mut AnswerJson, count: Key, word: &[u8]) {
    let Some(tokens) = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()) else {
        return;
    };
    let usage = document.usage.get_or_insert_default();
    let total = match count {
        Key::InputTokens => &mut usage.input,
        Key::OutputTokens => &mut usage.output,
        Key::CacheReadInputTokens => &mut usage.cache_read,
        Key::CacheCreationInputTokens => &mut usage.cache_write,
        _ => return,
    };
    *total = tokens;
}

/// Decodes a text that may have been cut in the middle of a character or an escape.
fn bounded(word: &[u8]) -> String {
    let whole = word.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let is_cut = word.len() >= MESSAGE_BYTES_MAX;
    let mut text = unescape(if is_cut { whole.as_bytes() } else { word });
    if is_cut {
        text.push('…');
    }
    text
}

/// The deepest path of interest is `message.content[].type`.
const LEVELS: usize = 4;
/// Room for the longest key with every letter escaped.
const KEY_BYTES_MAX: usize = 192;
const WORD_BYTES_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 1_024;
