//! Ids that belong to the account that created them (SPEC P3): containers and files that a request
//! or an answer names in its JSON. Pure.
//!
//! Keys are searched for in the raw bytes. Text that merely quotes JSON has its quotes escaped, so
//! no key matches there.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use memchr::memmem::Finder;

/// The distinct ids that a body names.
pub(crate) fn named(body: &[u8]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    collect(body, &mut ids);
    ids
}

/// Finds the ids that an answer names while it passes through.
#[derive(Debug, Default)]
pub(crate) struct IdScanner {
    ids: BTreeSet<String>,
    /// The end of the bytes so far, where an id may have begun.
    tail: Vec<u8>,
}

impl IdScanner {
    /// Takes the next bytes, split anywhere.
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        let (seam, _) = chunk.split_at(chunk.len().min(SPAN_MAX));
        if !self.tail.is_empty() {
            let joined = [self.tail.as_slice(), seam].concat();
            collect(&joined, &mut self.ids);
        }
        collect(chunk, &mut self.ids);
        if chunk.len() >= SPAN_MAX {
            self.tail.clear();
        }
        self.tail.extend_from_slice(&chunk[chunk.len().saturating_sub(SPAN_MAX)..]);
        let excess = self.tail.len().saturating_sub(SPAN_MAX);
        self.tail.drain(..excess);
    }

    /// The ids found, sorted.
    pub(crate) fn into_ids(self) -> BTreeSet<String> {
        self.ids
    }
}

fn collect(bytes: &[u8], ids: &mut BTreeSet<String>) {
    for key in KEYS.iter() {
        for at in key.find_iter(bytes) {
            if ids.len() >= IDS_MAX {
                return;
            }
            if let Some(id) = value(&bytes[at + key.needle().len()..]) {
                ids.insert(id.to_owned());
            }
        }
    }
}

/// `: "id"`, or `: {... "id": "id"`.
fn value(rest: &[u8]) -> Option<&str> {
    let rest = &rest[..rest.len().min(SPAN_MAX)];
    let rest = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let Some(object) = rest.strip_prefix(b"{") else {
        return text(rest);
    };
    let at = ID.find_iter(object).find(|at| is_member(&object[..*at]))?;
    text(object[at + ID.needle().len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// Whether the text after `before` is a member of the same object, not of a nested one.
fn is_member(before: &[u8]) -> bool {
    let mut depth = Some(0_usize);
    let mut quoted = false;
    let mut escaped = false;
    for byte in before {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth = depth.map(|depth| depth + 1),
            // Nothing follows the end of the object itself.
            b'}' | b']' if !quoted => depth = depth.and_then(|depth| depth.checked_sub(1)),
            _ => {}
        }
    }
    depth == Some(0) && !quoted
}

fn text(rest: &[u8]) -> Option<&str> {
    let rest = rest.strip_prefix(b"\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let id = std::str::from_utf8(&rest[..end]).ok()?;
    let is_id = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!id.is_empty() && id.len() <= ID_BYTES_MAX && id.chars().all(is_id)).then_some(id)
}

/// Built once: building one takes longer than searching a small answer.
static KEYS: LazyLock<[Finder<'_>; 2]> =
    LazyLock::new(|| ["\"container\"", "\"file_id\""].map(Finder::new));
static ID: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("\"id\""));
/// Longest distance from a key to the end of its id.
const SPAN_MAX: usize = 512;
/// The API has no longer ids.
const ID_BYTES_MAX: usize = 128;
/// Most ids taken from one body.
const IDS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_a_body_names() {
        for (body, expected) in [
            (r#"{"container":"container_1"}"#, &["container_1"][..]),
            (r#"{"container" : {"skills": [], "id" : "container_2"}}"#, &["container_2"]),
            (r#"{"content":[{"source":{"type":"file","file_id":"file_1"}}]}"#, &["file_1"]),
            (r#"{"content":[{"file_id":"file_1"},{"file_id": "file_2"}]}"#, &["file_1", "file_2"]),
            (r#"{"text":"{\"file_id\":\"file_1\"}"}"#, &[]),
            (
                r#"{"container":{"skills":[{"type":"custom","id":"skill_1"}],"id":"container_3"}}"#,
                &["container_3"],
            ),
            (r#"{"container":{"note":"a \"} b","id":"container_4"}}"#, &["container_4"]),
            (r#"{"container":null,"file_id":7}"#, &[]),
            (r#"{"container":{"skills":[]},"id":"msg_1"}"#, &[]),
            (r#"{"file_id":"not an id"}"#, &[]),
        ] {
            let found: Vec<String> = named(body.as_bytes()).into_iter().collect();
            assert_eq!(found, expected, "{body}");
            for at in 0..=body.len() {
                let mut scanner = IdScanner::default();
                let (first, second) = body.as_bytes().split_at(at);
                scanner.feed(first);
                scanner.feed(second);
                let found: Vec<String> = scanner.into_ids().into_iter().collect();
                assert_eq!(found, expected, "{body} split at {at}");
            }
        }
    }
}
