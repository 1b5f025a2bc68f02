//! One recording as text.

use crate::clock::iso;
use crate::config::masking::{self, Masked};
use crate::report::mask::{is_secret_header, mask};
use crate::report::text::is_dangerous;
use crate::scheduler::time::Wall;

/// Bytes of one body that are shown.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;

/// A header's name and value, as they came.
pub(crate) type Header = (String, Vec<u8>);

/// Everything of one request, as it goes to the writer.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) at: Wall,
    pub(super) number: u64,
    pub(super) parts: Vec<Part>,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) enum Part {
    /// A line of our own; what it quotes is masked when it is written.
    Line(String),
    /// Headers as they came.
    Head(Vec<Header>),
    /// The first bytes of a body, a little more than are shown, and the length of all.
    Body { bytes: Vec<u8>, length: u64 },
    /// A body that is compressed, and its length.
    Encoded { encoding: String, length: u64 },
}

/// The whole file. Each part is masked by itself, with what is known of its form.
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

/// JSON with indents where it is JSON and whole, else the first bytes as they came.
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

/// The text without anything that a terminal would obey when the file is shown; line ends and tabs
/// stay.
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
