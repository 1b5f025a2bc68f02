//! Seeded chance and random JSON.

/// How many rounds a test runs: `times`, multiplied by `MAXPOOL_FUZZ_TIMES` if set (`make soak`).
pub(crate) fn rounds(times: usize) -> std::ops::Range<usize> {
    let factor = std::env::var("MAXPOOL_FUZZ_TIMES").ok();
    let factor = factor.and_then(|text| text.parse().ok()).unwrap_or(1);
    0..times.saturating_mul(factor)
}

/// SplitMix64: the same seed gives the same run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub(crate) fn word<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    pub(crate) fn bytes(&mut self, length_max: usize) -> Vec<u8> {
        let length = self.below(length_max);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// The text with bytes changed, duplicated or removed, or with its end cut off.
    pub(crate) fn broken(&mut self, text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..1 + self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] = *self.pick(b"\"\\{}[],:.-+%&=# 0129aeT\0\xff\n"),
                2 => {
                    bytes.remove(at);
                }
                3 => bytes.truncate(at),
                _ => {
                    let end = at + self.below(bytes.len() - at).min(40);
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }

    /// A JSON value nested at most `depth` deep, with blanks, escapes and the keys that this
    /// program looks for, also in wrong places.
    pub(crate) fn json(&mut self, depth: usize) -> String {
        let mut out = String::new();
        self.value(depth, &mut out);
        out
    }

    /// An object with random members like those of a request; keys may occur twice.
    pub(crate) fn object(&mut self, depth: usize) -> String {
        let mut out = String::new();
        self.members(depth, &mut out);
        out
    }

    /// JSON that was cut or changed, or bytes that never were JSON.
    pub(crate) fn broken_json(&mut self) -> Vec<u8> {
        if self.chance(10) {
            return self.bytes(200);
        }
        let mut text = self.object(4).into_bytes();
        for _ in 0..self.below(4) {
            let at = self.below(text.len());
            text[at] = *self.pick(b"\"\\{}[],: a\0\xff\n");
        }
        if self.chance(50) {
            text.truncate(self.below(text.len() + 1));
        }
        text
    }

    pub(crate) fn string(&mut self) -> String {
        let mut out = String::from("\"");
        for _ in 0..self.below(12) {
            let piece = [
                "a",
                "model",
                " ",
                "{",
                "}",
                "[",
                "]",
                ",",
                ":",
                "\\\"",
                "\\\\",
                "\\n",
                "\\u0041",
                "\\ud83d\\ude00",
                "ä",
                "你",
                "\\/",
            ];
            out.push_str(self.word(&piece));
        }
        out.push('"');
        out
    }

    fn value(&mut self, depth: usize, out: &mut String) {
        self.blanks(out);
        match self.below(if depth == 0 { 5 } else { 9 }) {
            0 | 1 => out.push_str(&self.string()),
            2 => out.push_str(self.word(&["true", "false", "null"])),
            3 | 4 => out.push_str(self.word(&[
                "0",
                "-1",
                "16001",
                "1.5e3",
                "18446744073709551616",
                "32000",
            ])),
            5 | 6 => self.members(depth, out),
            _ => {
                out.push('[');
                for number in 0..self.below(4) {
                    if number > 0 {
                        out.push(',');
                    }
                    self.value(depth - 1, out);
                }
                self.blanks(out);
                out.push(']');
            }
        }
        self.blanks(out);
    }

    fn members(&mut self, depth: usize, out: &mut String) {
        out.push('{');
        for number in 0..self.below(7) {
            if number > 0 {
                out.push(',');
            }
            self.blanks(out);
            if self.chance(60) {
                let keys = [
                    "model",
                    "model",
                    "model",
                    "mod\\u0065l",
                    "\\u006dodel",
                    "stream",
                    "type",
                    "messages",
                    "content",
                    "models",
                    "mode",
                    "signature",
                ];
                out.push_str(&format!("\"{}\"", self.word(&keys)));
            } else {
                out.push_str(&self.string());
            }
            self.blanks(out);
            out.push(':');
            self.value(depth.saturating_sub(1), out);
        }
        self.blanks(out);
        out.push('}');
    }

    fn blanks(&mut self, out: &mut String) {
        if self.chance(20) {
            out.push_str(self.word(&[" ", "\n", "\t\r\n  "]));
        }
    }
}
