//! Decodes terminal input into keys: sequences and characters split over reads, and pasted text.
//!
//! Pure: it never reads a terminal and never looks at a clock. A lone escape byte may be the Esc
//! key or the start of a sequence; the caller says when nothing followed ([`Keys::idle`]).

use memchr::memmem;

/// A key, or pasted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A printable character.
    Char(char),
    Enter,
    Esc,
    Up,
    Down,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Backspace or delete.
    Backspace,
    /// Ctrl-L: redraw everything.
    Redraw,
    /// Pasted text; only an entry field uses it.
    Paste(String),
}

/// The longest sequence and the longest paste that are kept; longer ones are dropped.
const SEQUENCE_MAX: usize = 32;
const PASTE_MAX: usize = 4_096;
/// More characters than this in one read are a paste, on a terminal that does not mark pastes.
const TYPED_AT_ONCE_MAX: usize = 8;

const PASTE_BEGIN: &[u8] = b"\x1b[200~";
const PASTE_END: &[u8] = b"\x1b[201~";

/// Input that does not form a complete key yet.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    rest: Vec<u8>,
    /// The text of an unfinished marked paste.
    paste: Option<Vec<u8>>,
}

impl Keys {
    /// The keys that one read has completed.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.rest.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while self.step(&mut keys) {}
        as_paste(keys)
    }

    /// True while a lone escape byte may still become a sequence.
    pub(crate) fn is_open(&self) -> bool {
        self.paste.is_none() && self.rest.first() == Some(&0x1b)
    }

    /// Nothing followed for a while: decodes what is there.
    pub(crate) fn idle(&mut self) -> Vec<Key> {
        if !self.is_open() {
            return Vec::new();
        }
        // An incomplete sequence is not a key.
        let alone = self.rest.len() == 1;
        self.rest.clear();
        if alone { vec![Key::Esc] } else { Vec::new() }
    }

    /// Takes one key from the front; false if there is no complete one.
    fn step(&mut self, keys: &mut Vec<Key>) -> bool {
        if self.paste.is_some() {
            return self.step_in_paste(keys);
        }
        let Some(&first) = self.rest.first() else {
            return false;
        };
        if first == 0x1b {
            return self.step_in_sequence(keys);
        }
        let Some(length) = char_length(&self.rest) else {
            return false;
        };
        let taken: Vec<u8> = self.rest.drain(..length).collect();
        match taken[..] {
            [b'\r' | b'\n'] => keys.push(Key::Enter),
            [0x7f | 0x08] => keys.push(Key::Backspace),
            [0x0c] => keys.push(Key::Redraw),
            _ => {
                let text = String::from_utf8_lossy(&taken);
                keys.extend(
                    text.chars().filter(|c| !c.is_control() && *c != '\u{fffd}').map(Key::Char),
                );
            }
        }
        true
    }

    /// `ESC [ … final`, `ESC O x`, or an escape before something else.
    fn step_in_sequence(&mut self, keys: &mut Vec<Key>) -> bool {
        let Some(second) = self.rest.get(1) else {
            return false;
        };
        let length = match second {
            b'[' => {
                let body = &self.rest[2..];
                let Some(at) = body.iter().position(|byte| (0x40..=0x7e).contains(byte)) else {
                    if body.len() > SEQUENCE_MAX {
                        self.rest.clear();
                    }
                    return false;
                };
                at + 3
            }
            b'O' if self.rest.len() >= 3 => 3,
            b'O' => return false,
            // Two escapes: the first one was the Esc key.
            0x1b => {
                self.rest.remove(0);
                keys.push(Key::Esc);
                return true;
            }
            // Alt with a character is not a key of ours. Its character must not act by itself
            // either.
            _ => match char_length(&self.rest[1..]) {
                Some(length) => length + 1,
                None => return false,
            },
        };
        let sequence: Vec<u8> = self.rest.drain(..length).collect();
        match &sequence[..] {
            PASTE_BEGIN => self.paste = Some(Vec::new()),
            [0x1b, b'[' | b'O', b'A'] => keys.push(Key::Up),
            [0x1b, b'[' | b'O', b'B'] => keys.push(Key::Down),
            [0x1b, b'O', b'M'] => keys.push(Key::Enter),
            b"\x1b[5~" => keys.push(Key::PageUp),
            b"\x1b[6~" => keys.push(Key::PageDown),
            _ => {}
        }
        true
    }

    fn step_in_paste(&mut self, keys: &mut Vec<Key>) -> bool {
        let Some(mut text) = self.paste.take() else {
            return false;
        };
        if let Some(end) = memmem::find(&self.rest, PASTE_END) {
            text.extend(self.rest.drain(..end));
            self.rest.drain(..PASTE_END.len());
            text.truncate(PASTE_MAX);
            keys.push(Key::Paste(String::from_utf8_lossy(&text).into_owned()));
            return true;
        }
        // The end mark may be split: keep what may be its start.
        let keep = (1..PASTE_END.len())
            .rev()
            .find(|length| self.rest.ends_with(&PASTE_END[..*length]))
            .unwrap_or(0);
        let taken = self.rest.len() - keep;
        text.extend(self.rest.drain(..taken));
        text.truncate(PASTE_MAX);
        self.paste = Some(text);
        false
    }
}

/// Many characters in one read are a paste, unless they are repeated movement keys.
fn as_paste(keys: Vec<Key>) -> Vec<Key> {
    let typed =
        keys.iter().filter(|key| matches!(key, Key::Char(c) if !matches!(c, 'j' | 'k'))).count();
    if typed <= TYPED_AT_ONCE_MAX {
        return keys;
    }
    let text = keys
        .into_iter()
        .filter_map(|key| match key {
            Key::Char(c) => Some(c.to_string()),
            Key::Enter => Some("\n".into()),
            Key::Paste(text) => Some(text),
            Key::Esc
            | Key::Up
            | Key::Down
            | Key::PageUp
            | Key::PageDown
            | Key::Backspace
            | Key::Redraw => None,
        })
        .collect();
    vec![Key::Paste(text)]
}

/// Length of the first character; `None` if it is incomplete. An invalid byte counts as one.
fn char_length(bytes: &[u8]) -> Option<usize> {
    let length = match bytes.first()? {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let following = bytes
        .iter()
        .skip(1)
        .take(length - 1)
        .take_while(|byte| (0x80..0xc0).contains(*byte))
        .count();
    if following == length - 1 {
        Some(length)
    } else if bytes.len() > following + 1 {
        // An interrupted character: its bytes so far count as one piece.
        Some(following + 1)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(reads: &[&[u8]]) -> Vec<Key> {
        let mut keys = Keys::default();
        reads.iter().flat_map(|read| keys.feed(read)).collect()
    }

    #[test]
    fn bytes_become_keys() {
        let chars = |text: &str| text.chars().map(Key::Char).collect::<Vec<_>>();
        let rows: Vec<(&[&[u8]], Vec<Key>)> = vec![
            (&[b"qy"], chars("qy")),
            (&[b"\x1b[A\x1b[B"], vec![Key::Up, Key::Down]),
            (&[b"\x1bOA"], vec![Key::Up]),
            (&[b"\x1b", b"[", b"B"], vec![Key::Down]),
            (&[b"\x1b[1;5C\x1b[15~x"], chars("x")),
            (&[b"\x1bq"], vec![]),
            (&[b"\x1b[5~", b"\x1b[6", b"~"], vec![Key::PageUp, Key::PageDown]),
            (&[b"\x1b\x1b[A"], vec![Key::Esc, Key::Up]),
            (&[b"\r\n"], vec![Key::Enter, Key::Enter]),
            (&[b"\x7f\x08"], vec![Key::Backspace, Key::Backspace]),
            (&[b"\x0c"], vec![Key::Redraw]),
            (&[b"\x01\x02\x00"], vec![]),
            (&[b"\xc3\xa9\xe5\xb7\xa5"], chars("é工")),
            (&[b"\xe5", b"\xb7", b"\xa5"], chars("工")),
            (&[b"\xff\xc3a"], chars("a")),
            (&[b"jjjjjjjjjjjj"], chars("jjjjjjjjjjjj")),
            (&[b"sk-ant-api03-abc\r"], vec![Key::Paste("sk-ant-api03-abc\n".into())]),
            (&[b"\x1b[200~qy\x1b[201~j"], vec![Key::Paste("qy".into()), Key::Char('j')]),
            (&[b"\x1b[200~q", b"y\x1b[2", b"01~"], vec![Key::Paste("qy".into())]),
            (&[b"\x1b[200~a\x1b[Ab\x1b[201~"], vec![Key::Paste("a\x1b[Ab".into())]),
        ];
        for (reads, keys) in rows {
            assert_eq!(feed(reads), keys, "{reads:?}");
        }
    }

    #[test]
    fn an_escape_is_a_key_when_nothing_follows() {
        let mut keys = Keys::default();
        assert_eq!(keys.feed(b"\x1b"), []);
        assert!(keys.is_open());
        assert_eq!(keys.idle(), [Key::Esc]);
        assert!(!keys.is_open());
        assert_eq!(keys.feed(b"\x1b["), []);
        assert_eq!(keys.idle(), [], "a sequence that stops is no key");
        assert_eq!(keys.feed(b"q"), [Key::Char('q')]);
    }

    #[test]
    fn what_never_ends_is_bounded() {
        let mut keys = Keys::default();
        for _ in 0..1_000 {
            let _ = keys.feed(b"\x1b[0;0;0;0");
        }
        assert!(keys.rest.len() < 100);
        let mut keys = Keys::default();
        let _ = keys.feed(PASTE_BEGIN);
        for _ in 0..1_000 {
            let _ = keys.feed(&[b'x'; 100]);
        }
        assert_eq!(keys.feed(PASTE_END), [Key::Paste("x".repeat(PASTE_MAX))]);
    }

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_keys() {
        // Relevant sequences, split at every position.
        let stream: &[u8] = b"a\x1b[A\x1bOB\xe5\xb7\xa5\x1b[200~p\x1b[201~\x1b[5~z\r\x7f";
        let whole = feed(&[stream]);
        for cut in 1..stream.len() {
            assert_eq!(feed(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(feed(&bytes), whole);
    }
}
