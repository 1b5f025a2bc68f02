//! Text from outside, made safe to show: no control characters, no invisible direction changes,
//! bounded.

use std::borrow::Cow;

/// Escapes everything in a text of several lines that a terminal could interpret as a command, as
/// `\u001b`, which inside JSON is equivalent. Only our own colours are kept.
pub(crate) fn inert(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_obeyed) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        if let Some(colour) = COLOURS.iter().find(|colour| found.starts_with(**colour)) {
            out.push_str(colour);
            rest = &found[colour.len()..];
            continue;
        }
        let mut letters = found.chars();
        if let Some(c) = letters.next() {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        rest = letters.as_str();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn is_obeyed(c: char) -> bool {
    is_dangerous(c) && !matches!(c, '\n' | '\t')
}

/// The colours of our own results.
const COLOURS: [&str; 5] = ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];

/// Appends `text` with everything escaped that a terminal or a log reader could interpret as a
/// command, at most `most` characters as shown; a cut is marked with `…`.
pub(crate) fn push_clean(out: &mut String, text: &str, most: usize) {
    if is_clean(text, most) {
        out.push_str(text);
        return;
    }
    let mut left = most;
    for c in text.chars() {
        let before = out.len();
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_dangerous(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
        let Some(rest) = left.checked_sub(out[before..].chars().count()) else {
            out.truncate(before);
            out.push('…');
            return;
        };
        left = rest;
    }
}

/// [`push_clean`] into a new string.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    push_clean(&mut out, text, most);
    out
}

/// Whether `text` is short and printable ASCII, as nearly all texts are: it is shown unchanged.
fn is_clean(text: &str, most: usize) -> bool {
    text.len() <= most && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// C0, DEL, C1, line and paragraph separators, direction marks and overrides, zero-width spaces,
/// the byte order mark, and invisible tags. Joiners are needed to write words and pictographs, and
/// are kept.
pub(crate) fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A number with two decimals, never `-0.00`.
pub(crate) fn hundredths(value: f64) -> String {
    format!("{:.2}", (value * 100.0).round() / 100.0 + 0.0)
}

/// A name as one word: quoted if it contains anything that could be mistaken for its end.
pub(crate) fn name(text: &str) -> String {
    let mut out = String::new();
    push_name(&mut out, text);
    out
}

/// Appends [`name`].
pub(crate) fn push_name(out: &mut String, text: &str) {
    let plain = |c: char| c.is_alphanumeric() || "-_.@+:/".contains(c);
    if !text.is_empty() && text.len() <= NAME_MAX && text.chars().all(plain) {
        out.push_str(text);
    } else {
        out.push_str(&quoted(text, NAME_MAX));
    }
}

/// `text` in double quotes, with inner quotes escaped.
pub(crate) fn quoted(text: &str, most: usize) -> String {
    let text = clean(text, most);
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether a source only repeats the answer's status.
pub(crate) fn repeats_status(status: Option<u16>, source: &str) -> bool {
    status.is_some_and(|status| source == format!("status {status}"))
}

/// Longest shown name of an account.
const NAME_MAX: usize = 80;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, shown) in [
            ("plain", "plain"),
            ("zero\u{200b}width", "zero\\u{200b}width"),
            ("两个 accounts", "两个 accounts"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{7f}\u{9b}", "\\u{7f}\\u{9b}"),
            ("safe\u{202e}efas", "safe\\u{202e}efas"),
            ("\u{2028}", "\\u{2028}"),
        ] {
            assert_eq!(clean(text, 100), shown);
        }
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(clean("abc", 3), "abc");
        assert_eq!(clean("ab\u{1b}c", 7), "ab…");
    }

    #[test]
    fn d4_what_commands_print_is_inert_and_stays_json() {
        for (text, shown) in [
            ("two\n\tlines", "two\n\tlines"),
            ("\x1b[32mok\x1b[0m", "\x1b[32mok\x1b[0m"),
            ("a\x1b]0;b\x07", "a\\u001b]0;b\\u0007"),
            ("\x1b[5mx\u{9b}", "\\u001b[5mx\\u009b"),
            ("\u{e0001}é两\u{202e}", "\\udb40\\udc01é两\\u202e"),
        ] {
            assert_eq!(inert(text), shown, "{text:?}");
        }
        let names = serde_json::json!(["\u{7f}\u{9b}\u{202e}\u{e0001}\n"]);
        let read: serde_json::Value = serde_json::from_str(&inert(&names.to_string())).unwrap();
        assert_eq!(read, names);
    }

    #[test]
    fn the_quick_look_finds_everything_at_every_place() {
        for c in '\0'..='\u{ff}' {
            let shown: String = match c {
                '\n' => "\\n".into(),
                '\r' => "\\r".into(),
                '\t' => "\\t".into(),
                c if c.is_control() => c.escape_unicode().collect(),
                c => c.into(),
            };
            for place in 0..20 {
                for other in [" ", "~", "a"] {
                    let (before, after) = (other.repeat(place), other.repeat(19 - place));
                    let text = format!("{before}{c}{after}");
                    assert_eq!(clean(&text, 100), format!("{before}{shown}{after}"));
                    assert_eq!(is_clean(&text, 100), matches!(c, ' '..='~'), "{c:?} {place}");
                }
            }
        }
    }

    #[test]
    fn numbers_have_two_digits_behind_the_point() {
        for (value, shown) in
            [(0.0, "0.00"), (-0.004, "0.00"), (0.126, "0.13"), (-1.05, "-1.05"), (12.999, "13.00")]
        {
            assert_eq!(hundredths(value), shown);
        }
    }

    #[test]
    fn a_name_is_one_word() {
        for (text, shown) in [
            ("work", "work"),
            ("me@example.com", "me@example.com"),
            ("", "\"\""),
            ("my account", "\"my account\""),
            ("a\"b", "\"a\\\"b\""),
            ("a\nb", "\"a\\\\nb\""),
            ("a-b_c.d@e+f:g/h9é两", "a-b_c.d@e+f:g/h9é两"),
            ("a=b", "\"a=b\""),
            ("a,b", "\"a,b\""),
        ] {
            assert_eq!(name(text), shown);
        }
    }
}
