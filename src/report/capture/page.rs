//! Renders one recording as text.

use crate::clock::iso;
use crate::config::masking::{self, Masked};
use crate::report::mask::{is_secret_header, mask};
use crate::report::text::is_dangerous;
use crate::scheduler::time::Wall;

/// Bytes shown of one body.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;

/// A header's name and value, as received.
pub(crate) type Header = (String, Vec<u8>);

/// The whole record of one request, as sent to the writer.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) at: Wall,
    pub(super) number: u64,
    pub(super) parts: Vec<Part>,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) enum Part {
    /// A line of our own; text that it quotes is masked when it is written.
    Line(String),
    /// Headers as received.
    Head(Vec<Header>),
    /// The first bytes of a body, a few more than are shown, and the total length.
    Body { bytes: Vec<u8>, length: u64 },
    /// A compressed body: only its encoding and length.
    Encoded { encoding: String, length: u64 },
}

/// The whole file. Each part is masked separately, according to its form.
pub(super) fn render(page: &Page) -> Masked<String> {
    let mut text = format!("{} request {}\n", iso(page.at), page.number);
    for part in &page.parts {
        match part {
            Part::Line(line) => {
                text.push_str(&harmless(&mask(line)).replace('\n', "\\n"));
                text.push('\n');
            }
            Part::Head(headers) => head(&mut text, headers),
            Part::Body { bytes, length } => {
                let before = text.len();
                let shown = bytes.len().min(BODY_BYTES_MAX);
                let omitted = length.saturating_sub(shown as u64);
                text.push_str(&body(bytes, shown, omitted));
                if !text[before..].ends_with('\n') {
                    text.push('\n');
                }
                if omitted > 0 {
                    text.push_str(&format!("[{omitted} more bytes]\n"));
                }
                text.push('\n');
            }
            Part::Encoded { encoding, length } => {
                text.push_str(&format!("[{length} bytes of {}]\n\n", harmless(&mask(encoding))));
            }
        }
    }
    Masked::text(&text)
}

fn head(text: &mut String, headers: &[Header]) {
    for (name, value) in headers {
        let value = if is_secret_header(name) {
            "[masked]".to_owned()
        } else {
            harmless(&mask(&String::from_utf8_lossy(value))).replace('\n', "\\n")
        };
        text.push_str(&harmless(name));
        text.push_str(": ");
        text.push_str(&value);
        text.push('\n');
    }
    text.push('\n');
}

/// Indented JSON if the body is complete JSON, else its first bytes as received.
fn body(bytes: &[u8], shown: usize, omitted: u64) -> String {
    let json = (omitted == 0)
        .then(|| serde_json::from_slice::<serde_json::Value>(bytes).ok())
        .flatten()
        .filter(|json| json.is_object() || json.is_array())
        .and_then(|json| serde_json::to_string_pretty(&json).ok());
    let text = json
        .unwrap_or_else(|| String::from_utf8_lossy(&masking::start_of(bytes, shown)).into_owned());
    harmless(&mask(&text))
}

/// Escapes everything that a terminal would interpret when the file is shown, except line ends and
/// tabs.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\n' | '\t') || !is_dangerous(c) {
            out.push(c);
        } else if c != '\r' {
            out.extend(c.escape_unicode());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_pretty_where_they_are_json() {
        for (bytes, omitted, text) in [
            (&b"{\"b\":1,\"a\":[2]}"[..], 0, "{\n  \"b\": 1,\n  \"a\": [\n    2\n  ]\n}"),
            (b"{\"b\":1", 9, "{\"b\":1"),
            (b"event: ping\r\ndata: {}\r\n\r\n", 0, "event: ping\ndata: {}\n\n"),
            (b"42", 0, "42"),
            (b"\xff\x1b[2J", 0, "\u{fffd}\\u{1b}[2J"),
        ] {
            assert_eq!(body(bytes, bytes.len(), omitted), text);
        }
    }
}
