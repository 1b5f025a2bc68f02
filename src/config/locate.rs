//! Finds a key in the text of the config file, for errors that name a line.
//!
//! serde_json keeps no positions, so the text is walked again when something is wrong. The walk
//! accepts any text, because it also has to find the last key before a syntax error.

use std::fmt;

use crate::http::json::Cursor;

/// One step of a path to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A path to a value, shown as `accounts[2].priority`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(pub(super) Vec<Step>);

impl Place {
    /// The path extended by one step.
    pub(super) fn then(&self, step: Step) -> Place {
        let mut steps = self.0.clone();
        steps.push(step);
        Place(steps)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    if number > 0 {
                        out.write_str(".")?;
                    }
                    // A key in the file may contain anything, also control characters.
                    write!(out, "{}", key.escape_debug())?;
                }
                Step::Index(index) => write!(out, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The line of the key at `place`, counted from 1, or of its closest existing parent. If a key is
/// repeated, the last one counts, as for its value.
pub(super) fn line_of(text: &str, place: &Place) -> usize {
    let mut best = (0, 0);
    walk(text, |steps, offset| {
        if steps.len() >= best.0 && place.0.starts_with(steps) {
            best = (steps.len(), offset);
        }
    });
    line_at(text, best.1)
}

/// The line of a byte offset, counted from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// The path of the last key in a broken text.
///
/// Anything may be in the place of a key in such a text, even a credential (D4), so the path ends
/// before anything that does not look like a key.
pub(super) fn place_at_end(text: &str) -> Place {
    // A text that ends inside or after a key has reached that key, as if a colon followed.
    let ends = ["", ":", "\":"].map(|end| walk(&format!("{text}{end}"), |_, _| {}));
    let mut steps = ends.into_iter().max_by_key(Vec::len).unwrap_or_default();
    let known = steps.iter().take_while(|step| match step {
        Step::Key(key) => {
            key.len() <= KEY_BYTES_MAX && key.bytes().all(|byte| byte.is_ascii_alphabetic())
        }
        Step::Index(_) => true,
    });
    let known = known.count();
    steps.truncate(known);
    Place(steps)
}

/// Config keys are words; the longest has 25 letters.
const KEY_BYTES_MAX: usize = 32;

/// The nesting limit of serde_json.
const DEPTH_MAX: usize = 128;

/// Calls `visit` with the path and the offset of each key and element. Returns the path at which
/// the text ends or breaks.
fn walk(text: &str, mut visit: impl FnMut(&[Step], usize)) -> Vec<Step> {
    let mut steps = Vec::new();
    // The remaining steps are the path at which a broken text ends.
    let _ = descend(&mut Cursor::new(text.as_bytes()), &mut steps, &mut visit);
    steps
}

fn descend(
    cursor: &mut Cursor<'_>,
    steps: &mut Vec<Step>,
    visit: &mut dyn FnMut(&[Step], usize),
) -> Option<()> {
    let depth = steps.len();
    match cursor.next()? {
        b'{' if depth < DEPTH_MAX => cursor.members(|cursor, key| {
            steps.truncate(depth);
            steps.push(Step::Key(key.decode(usize::MAX).unwrap_or_default()));
            visit(steps, key.span.start);
            descend(cursor, steps, visit)
        }),
        b'[' if depth < DEPTH_MAX => cursor.elements(|cursor, number| {
            cursor.next()?;
            steps.truncate(depth);
            steps.push(Step::Index(number));
            visit(steps, cursor.position());
            descend(cursor, steps, visit)
        }),
        _ => cursor.skip(),
    }?;
    steps.truncate(depth);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
  "proxy": { "host": "a,\"}]:{", "port": 1 },
  "list": [
    1, [2,
    3], {"a": [],
      "b\u0062": 4 }
  ],
  "proxy": {
    "port": 2
  }
}"#;

    fn place(text: &str) -> Place {
        let step =
            |part: &str| part.parse().map_or_else(|_| Step::Key(part.to_owned()), Step::Index);
        Place(text.split('/').filter(|part| !part.is_empty()).map(step).collect())
    }

    #[test]
    fn a_key_is_found_on_its_line() {
        for (way, line) in [
            ("", 1),
            ("list", 3),
            ("list/0", 4),
            ("list/1/1", 5),
            ("list/2", 5),
            ("list/2/a", 5),
            ("list/2/bb", 6),
            ("proxy/port", 9),
            ("proxy", 8),
            ("list/7", 3),
            ("proxy/none", 8),
            ("none", 1),
        ] {
            assert_eq!(line_of(TEXT, &place(way)), line, "{way}");
        }
    }

    #[test]
    fn the_last_key_before_a_break_is_known() {
        for (text, shown) in [
            ("", ""),
            ("{", ""),
            (r#"{"a": 1, "b": {"c": tru"#, "b.c"),
            (r#"{"a": [1, {"x": 2}, {"y"#, r#"a[2].y"#),
            (r#"{"a": {}, "b"#, "b"),
            ("]]}}", ""),
            (r#"{"a\u001b[31m": 1"#, ""),
            (r#"{"accounts": [{"sk-ant-oat01-x"#, "accounts[0]"),
            ("\"\\", ""),
        ] {
            assert_eq!(place_at_end(text).to_string(), shown, "{text}");
        }
        let odd = Place(vec![Step::Key("a\u{1b}[31m".to_owned())]);
        assert_eq!(odd.to_string(), r"a\u{1b}[31m");
    }
}
