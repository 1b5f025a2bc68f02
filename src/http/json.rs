//! A cursor over JSON text: walks objects and arrays, skips what the caller does not want, and
//! builds nothing.
//!
//! It never recurses into what it skips and never copies. It is lenient: broken text is read up to
//! the error, and some invalid text (`tru`, `[}`) may pass as a value. Every step returns `None`
//! where the text is broken or ends.

use std::borrow::Cow;
use std::ops::Range;

/// A position in JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

/// A string as written in the text.
#[derive(Clone, Debug)]
pub(crate) struct Text<'a> {
    /// Between the quotes.
    raw: &'a [u8],
    escaped: bool,
    /// Its position, quotes included.
    pub(crate) span: Range<usize>,
}

impl<'a> Cursor<'a> {
    /// At the beginning, after a byte order mark if there is one.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let mark: &[u8] = b"\xef\xbb\xbf";
        let at = if text.starts_with(mark) { mark.len() } else { 0 };
        Cursor { text, at }
    }

    /// Walks an object: `each` is called after every colon and must consume the value. Any other
    /// value is skipped.
    pub(crate) fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, &Text<'a>) -> Option<()>,
    ) -> Option<()> {
        if self.next()? != b'{' {
            return self.skip();
        }
        self.at += 1;
        if self.next()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.next()?;
            let key = self.string()?;
            if self.next()? != b':' {
                return None;
            }
            self.at += 1;
            each(self, &key)?;
            if self.ends(b'}')? {
                return Some(());
            }
        }
    }

    /// Walks an array: `each` is called with the index of every element and must consume it. Any
    /// other value is skipped.
    pub(crate) fn elements(
        &mut self,
        mut each: impl FnMut(&mut Self, usize) -> Option<()>,
    ) -> Option<()> {
        if self.next()? != b'[' {
            return self.skip();
        }
        self.at += 1;
        if self.next()? == b']' {
            self.at += 1;
            return Some(());
        }
        for number in 0.. {
            each(self, number)?;
            if self.ends(b']')? {
                return Some(());
            }
        }
        None
    }

    /// A string value, or `Some(None)` for any other value, which is skipped.
    pub(crate) fn text(&mut self) -> Option<Option<Text<'a>>> {
        if self.next()? == b'"' {
            return self.string().map(Some);
        }
        self.skip().map(|()| None)
    }

    /// Skips a value and returns its bytes.
    pub(crate) fn raw(&mut self) -> Option<&'a [u8]> {
        self.next()?;
        let start = self.at;
        self.skip()?;
        self.text.get(start..self.at)
    }

    /// Skips a value of any depth.
    pub(crate) fn skip(&mut self) -> Option<()> {
        match self.next()? {
            b'"' => self.string().map(|_| ()),
            b'{' | b'[' => self.skip_nested(),
            _ => {
                let rest = self.text.get(self.at..)?;
                let scalar = rest.iter().position(|&byte| is_delimiter(byte));
                let length = scalar.unwrap_or(rest.len());
                self.at += length;
                (length > 0).then_some(())
            }
        }
    }

    /// The cursor's position.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Whether only whitespace is left.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.next().is_none()
    }

    /// The next byte that is not whitespace; the cursor stays on it.
    pub(crate) fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// After an element: true at the closing bracket, false after a comma.
    fn ends(&mut self, bracket: u8) -> Option<bool> {
        let byte = self.next()?;
        self.at += 1;
        match byte {
            b',' => Some(false),
            _ if byte == bracket => Some(true),
            _ => None,
        }
    }

    /// Only counts brackets, so that depth costs nothing.
    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match *self.text.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// The string whose opening quote is at the cursor.
    fn string(&mut self) -> Option<Text<'a>> {
        let start = self.at;
        if *self.text.get(start)? != b'"' {
            return None;
        }
        let mut at = start + 1;
        let mut escaped = false;
        loop {
            at += quote_or_escape(self.text.get(at..)?);
            match self.text.get(at)? {
                b'"' => break,
                _ => {
                    escaped = true;
                    at += 2;
                }
            }
        }
        self.at = at + 1;
        Some(Text { raw: self.text.get(start + 1..at)?, escaped, span: start..at + 1 })
    }
}

impl<'a> Text<'a> {
    /// The string's bytes with escapes resolved. A string too long to be of interest is returned as
    /// written.
    pub(crate) fn name(&self) -> Cow<'a, [u8]> {
        if self.escaped && self.raw.len() <= NAME_BYTES_MAX {
            resolved(self.raw)
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// The decoded string, if it takes at most `bytes_max` in the text.
    pub(crate) fn decode(&self, bytes_max: usize) -> Option<String> {
        (self.raw.len() <= bytes_max).then(|| unescape(self.raw))
    }
}

/// Whether this byte ends a number or a literal.
pub(super) fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b',' | b':' | b'{' | b'}' | b'[' | b']' | b'"' | b' ' | b'\t' | b'\r' | b'\n')
}

/// The bytes of a string with escapes resolved, borrowed if it has none.
pub(super) fn resolved(raw: &[u8]) -> Cow<'_, [u8]> {
    if raw.contains(&b'\\') { Cow::Owned(unescape(raw).into_bytes()) } else { Cow::Borrowed(raw) }
}

/// Resolves escapes; invalid ones become U+FFFD or stay.
pub(crate) fn unescape(raw: &[u8]) -> String {
    let text = match std::str::from_utf8(raw) {
        Ok(text) if !raw.contains(&b'\\') => return text.to_owned(),
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(raw),
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let mut tail = rest[at + 1..].chars();
        match tail.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                rest = unescape_unit(tail.as_str(), &mut out);
                continue;
            }
            Some(other) => out.push(other),
            None => {}
        }
        rest = tail.as_str();
    }
    out.push_str(rest);
    out
}

/// Decodes what follows `\u`, including the second half of a surrogate pair, and returns the rest.
fn unescape_unit<'t>(text: &'t str, out: &mut String) -> &'t str {
    let Some((high, rest)) = hex_unit(text) else {
        out.push(char::REPLACEMENT_CHARACTER);
        return text;
    };
    if let 0xd800..=0xdbff = high
        && let Some((low @ 0xdc00..=0xdfff, rest)) = rest.strip_prefix("\\u").and_then(hex_unit)
    {
        let scalar = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        out.push(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
        return rest;
    }
    out.push(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
    rest
}

fn hex_unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let unit = u32::from_str_radix(digits, 16).ok().filter(|_| all_hex)?;
    Some((unit, rest))
}

/// The index of the first quote or backslash, or the length.
pub(crate) fn quote_or_escape(bytes: &[u8]) -> usize {
    memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len())
}

/// No known key or literal is longer, even with every letter written as `\uXXXX`.
const NAME_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chance::{Random, rounds};

    #[test]
    fn strings_are_decoded_as_serde_json_does() {
        let rows = [
            r#""""#,
            r#""plain""#,
            r#""a\"b\\c\/d\b\f\n\r\t""#,
            r#""\u0041\u00e4\u4f60""#,
            r#""\ud83d\ude00x""#,
            r#""你好 ä""#,
        ];
        for text in rows {
            let decoded =
                Cursor::new(text.as_bytes()).text().flatten().and_then(|text| text.decode(100));
            assert_eq!(decoded, serde_json::from_str(text).ok(), "{text}");
        }
    }

    #[test]
    fn broken_escapes_are_replaced() {
        let rows = [
            (r"\ud83d", "\u{fffd}"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\ude00\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\u12", "\u{fffd}12"),
            (r"\u+123x", "\u{fffd}+123x"),
            (r"\uääx", "\u{fffd}ääx"),
            (r"\q", "q"),
            ("\\", ""),
        ];
        for (raw, expected) in rows {
            assert_eq!(unescape(raw.as_bytes()), expected, "{raw}");
        }
        assert_eq!(unescape(b"a\xffb\\n"), "a\u{fffd}b\n");
    }

    #[test]
    fn whole_documents_are_skipped_to_their_end() {
        let mut random = Random::new(2);
        for _ in rounds(2_000) {
            let text = random.json(5);
            let mut cursor = Cursor::new(text.as_bytes());
            assert_eq!(cursor.skip(), Some(()), "{text}");
            assert!(cursor.is_at_end(), "{text}");
        }
    }

    #[test]
    fn depth_and_garbage_do_no_harm() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(Cursor::new(deep.as_bytes()).skip(), None);
        let mut random = Random::new(3);
        for _ in rounds(20_000) {
            let text = random.broken_json();
            let mut cursor = Cursor::new(&text);
            let walked = cursor.members(|cursor, key| {
                let _name = key.name();
                cursor.elements(|cursor, _| cursor.raw().map(|_| ()))
            });
            assert!(walked.is_none() || cursor.at <= text.len());
        }
    }
}
