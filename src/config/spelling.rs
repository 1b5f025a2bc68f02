//! Writes a changed document and keeps the original text of everything that did not change (SPEC
//! A5).
//!
//! The old text is walked in parallel with the old and the new document. A value that is equal in
//! both is copied as written, with its whitespace and with numbers such as `1.10` or of thirty
//! digits, which a parser would change. Only changed values are written new, in the style around
//! them: over several indented lines, or on one line.

use serde::Serialize as _;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The text of `new`; `text` is the text of `old`.
pub(super) fn write(text: &str, old: &Map<String, Value>, new: &Map<String, Value>) -> String {
    // An empty file has no style of its own.
    let line_ends = old.is_empty() || text.trim().contains('\n');
    let style = if line_ends { Style::Lines(indent_of(text)) } else { Style::Compact };
    let mut out = String::with_capacity(text.len() + 256);
    let body = text.trim();
    out.push_str(&text[..text.len() - text.trim_start().len()]);
    let writer = Writer { style: &style };
    writer.object(&mut out, body, old, new, 0);
    out.push_str(&text[text.trim_end().len()..]);
    out
}

enum Style {
    /// Each member on its own line, with this indentation.
    Lines(String),
    /// Everything on one line.
    Compact,
}

struct Writer<'a> {
    style: &'a Style,
}

impl Writer<'_> {
    fn value(&self, out: &mut String, raw: Option<(&str, &Value)>, new: &Value, depth: usize) {
        match (raw, new) {
            (Some((raw, old)), new) if old == new => out.push_str(raw),
            (Some((raw, Value::Object(old))), Value::Object(new)) => {
                self.object(out, raw, old, new, depth);
            }
            (Some((raw, Value::Array(old))), Value::Array(new)) => {
                self.array(out, raw, old, new, depth);
            }
            (Some(_) | None, new) => self.fresh(out, new, depth),
        }
    }

    fn object(
        &self,
        out: &mut String,
        raw: &str,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        depth: usize,
    ) {
        let members = members_of(raw);
        let raw_of = |key: &String| {
            // If a key is repeated, the last one counts.
            let (_, raw) = members.iter().rev().find(|(name, _)| name == key)?;
            Some((raw.get(), old.get(key)?))
        };
        self.list(out, ('{', '}'), new.iter(), depth, |out, (key, value)| {
            self.fresh(out, &Value::from(key.as_str()), depth + 1);
            out.push_str(match self.style {
                Style::Lines(_) => ": ",
                Style::Compact => ":",
            });
            self.value(out, raw_of(key), value, depth + 1);
        });
    }

    fn array(&self, out: &mut String, raw: &str, old: &[Value], new: &[Value], depth: usize) {
        let items: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
        let mut used = vec![false; old.len()];
        // An unchanged element may have moved up because an earlier one was removed.
        let mut sources: Vec<Option<usize>> = new
            .iter()
            .map(|value| {
                let at = (0..old.len()).find(|&at| !used[at] && old[at] == *value)?;
                used[at] = true;
                Some(at)
            })
            .collect();
        for (at, source) in sources.iter_mut().enumerate() {
            if source.is_none() && used.get(at) == Some(&false) {
                used[at] = true;
                *source = Some(at);
            }
        }
        let pairs = new.iter().zip(sources);
        self.list(out, ('[', ']'), pairs, depth, |out, (value, source)| {
            let raw = source.and_then(|at| Some((items.get(at)?.get(), old.get(at)?)));
            self.value(out, raw, value, depth + 1);
        });
    }

    /// Writes brackets, commas and line ends around what `item` writes.
    fn list<T>(
        &self,
        out: &mut String,
        (open, close): (char, char),
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        item: impl Fn(&mut String, T),
    ) {
        let is_empty = items.len() == 0;
        out.push(open);
        for (number, value) in items.enumerate() {
            if number > 0 {
                out.push(',');
            }
            self.new_line(out, depth + 1);
            item(out, value);
        }
        if !is_empty {
            self.new_line(out, depth);
        }
        out.push(close);
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Style::Lines(indent) = self.style {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    /// Writes a value without an old text.
    fn fresh(&self, out: &mut String, value: &Value, depth: usize) {
        let text = match self.style {
            Style::Lines(indent) => text_of(value, PrettyFormatter::with_indent(indent.as_bytes())),
            Style::Compact => text_of(value, CompactFormatter),
        };
        for (number, line) in text.split('\n').enumerate() {
            if number > 0 {
                self.new_line(out, depth);
            }
            out.push_str(line);
        }
    }
}

fn text_of(value: &Value, formatter: impl Formatter) -> String {
    let mut bytes = Vec::new();
    // Our own documents have text keys and finite numbers, so this cannot fail.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    String::from_utf8(bytes).unwrap_or_default()
}

/// The members of an object in their order, including repeated ones.
fn members_of(raw: &str) -> Vec<(String, &RawValue)> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(raw);
    serde::Deserializer::deserialize_map(&mut reader, Members).unwrap_or_default()
}

/// The indentation of the first line that has one.
fn indent_of(text: &str) -> String {
    let mut indents = text.lines().map(|line| &line[..line.len() - line.trim_start().len()]);
    let first = indents.find(|indent| (1..=8).contains(&indent.len()));
    first.unwrap_or("  ").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn changed(text: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let old: Map<String, Value> = serde_json::from_str(text).unwrap();
        let mut new = old.clone();
        change(&mut new);
        let written = write(text, &old, &new);
        assert_eq!(serde_json::from_str::<Map<String, Value>>(&written).unwrap(), new, "{written}");
        written
    }

    #[test]
    fn a5_what_was_not_changed_keeps_its_spelling() {
        let text = "{\n\t\"n\": 1.10,\n\t\"long\": 123456789012345678901234567890,\n\t\"e\": 1E2, \"list\": [1.0,  2.50],\n\t\"accounts\": [\n\t\t{\"name\": \"\\u0061\", \"x\": 1.0},\n\t\t{\"name\": \"b\",\n\t\t \"t\": 1}\n\t]\n}\n";
        let written = changed(text, |document| document["accounts"][1]["t"] = 2.into());
        for kept in [
            "\"n\": 1.10,",
            "123456789012345678901234567890,",
            "1E2,",
            "[1.0,  2.50]",
            "{\"name\": \"\\u0061\", \"x\": 1.0}",
            "\n\t\t\t\"t\": 2",
        ] {
            assert!(written.contains(kept), "{kept} in {written}");
        }
        assert!(written.ends_with("}\n"));
        assert_eq!(changed(text, |_| {}).len(), text.len() + "\n\t".len() - " ".len());
    }

    #[test]
    fn a_removed_element_moves_the_others_as_they_stand() {
        let text = "{\n  \"a\": [\n    {\"n\": 1.0},\n    {\"n\": 2.0},\n    {\"n\": 3.00}\n  ]\n}";
        let written = changed(text, |document| {
            document["a"].as_array_mut().unwrap().remove(0);
        });
        assert_eq!(written, "{\n  \"a\": [\n    {\"n\": 2.0},\n    {\"n\": 3.00}\n  ]\n}");
    }

    #[test]
    fn a_file_on_one_line_stays_on_one_line() {
        let text = r#"{"a":{"b":[1,2],"c":1.10},"d":{}}"#;
        let written = changed(text, |document| {
            document["a"]["b"][1] = serde_json::json!({"x": [1, "y"]});
            document.insert("e".to_owned(), serde_json::json!(["z"]));
        });
        assert_eq!(written, r#"{"a":{"b":[1,{"x":[1,"y"]}],"c":1.10},"d":{},"e":["z"]}"#);
    }

    #[test]
    fn a_repeated_key_is_written_once_as_it_counted() {
        let written = changed(r#"{"a":1.0,"b":2,"a":3.0}"#, |document| document["b"] = 4.into());
        assert_eq!(written, r#"{"a":3.0,"b":4}"#);
    }
}
