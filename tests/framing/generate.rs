//! Derives any number of inputs from the cases of the table, and compares a parser with the
//! reference.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Seen;
use super::corpus::rows;
use super::reference::readings;

/// Runs `rounds` inputs through `ours` and the reference. Panics with the seed, round and input of
/// the first one that is read differently or makes `ours` panic.
///
/// `ours` gets everything that the client sends, and the ascending positions within it at which its
/// reads are split. It returns what it saw until the client fell silent.
pub fn compare(seed: u64, rounds: u64, ours: impl Fn(&[u8], &[usize]) -> Vec<Seen>) {
    let generator = Generator::new();
    for round in 0..rounds {
        let (bytes, cuts) = generator.input(seed, round);
        let what = || {
            let text = bytes.escape_ascii();
            format!("seed {seed}, round {round}, reads cut at {cuts:?}:\n\"{text}\"\n")
        };
        let seen = catch_unwind(AssertUnwindSafe(|| ours(&bytes, &cuts)));
        let seen =
            seen.unwrap_or_else(|_| std::panic::panic_any(format!("it panicked: {}", what())));
        let right = readings(&bytes);
        assert!(
            right.contains(&seen),
            "{}was read as {seen:?}, which is none of {right:?}",
            what()
        );
    }
}

/// Generates inputs: the same seed and round give the same input.
pub struct Generator {
    /// Cases without any refusal, used most often because mutations cause refusals soon enough.
    good: Vec<Vec<u8>>,
    all: Vec<Vec<u8>>,
}

impl Generator {
    /// Uses all cases except the large ones, which would only slow it down.
    pub fn new() -> Generator {
        let (mut good, mut all) = (Vec::new(), Vec::new());
        for row in rows() {
            if row.bytes.len() > SEED_BYTES_MAX {
                continue;
            }
            if !matches!(row.verdicts[0].last(), Some(Seen::Refused(_))) {
                good.push(row.bytes.clone());
            }
            all.push(row.bytes);
        }
        Generator { good, all }
    }

    /// The bytes to send, and where to split the reads.
    pub fn input(&self, seed: u64, round: u64) -> (Vec<u8>, Vec<usize>) {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round);
        let mut bytes = self.seed(&mut chance).clone();
        for _ in 0..chance.below(4) {
            self.change(&mut chance, &mut bytes);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        let cuts = cuts(&mut chance, bytes.len());
        (bytes, cuts)
    }

    fn seed(&self, chance: &mut Chance) -> &Vec<u8> {
        let from = if chance.below(4) == 0 { &self.all } else { &self.good };
        chance.pick(from)
    }

    fn change(&self, chance: &mut Chance, bytes: &mut Vec<u8>) {
        let at = chance.below(bytes.len() + 1);
        let span = at..bytes.len().min(at + 1 + chance.below(12));
        match chance.below(15) {
            0 => {
                let piece = *chance.pick(PIECES);
                insert(bytes, at, piece);
            }
            1 => insert(bytes, at, &[chance.byte()]),
            2 => drop(bytes.drain(span)),
            3 => {
                let piece = bytes[span].to_vec();
                insert(bytes, at, &piece);
            }
            4 if at < bytes.len() => bytes[at] = chance.byte(),
            5 if bytes.len() > 1 => {
                let other = chance.below(bytes.len());
                bytes.swap(at.min(other), other);
            }
            6 => {
                for byte in &mut bytes[span] {
                    *byte ^= if byte.is_ascii_alphabetic() { 0x20 } else { 0 };
                }
            }
            7 => bytes.truncate(at),
            8 => change_number(chance, bytes),
            9 => {
                let other = self.seed(chance);
                bytes.extend_from_slice(other);
            }
            10 => {
                let other = self.seed(chance);
                let from = chance.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => change_lines(chance, bytes, &self.all),
        }
    }
}

/// Duplicates, removes, swaps or inserts whole lines.
fn change_lines(chance: &mut Chance, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let mut lines = lines_of(bytes);
    if lines.is_empty() {
        return;
    }
    let (at, other) = (chance.below(lines.len()), chance.below(lines.len()));
    match chance.below(5) {
        0 => lines.insert(at, lines[at].clone()),
        1 => drop(lines.remove(at)),
        2 => lines.swap(at, other),
        3 => lines.insert(at, chance.pick(PIECES).to_vec()),
        _ => {
            let other = chance.pick(seeds);
            let foreign = lines_of(other);
            if !foreign.is_empty() {
                lines.insert(at, chance.pick(&foreign).clone());
            }
        }
    }
    *bytes = lines.concat();
}

/// The lines with their line endings.
fn lines_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(<[u8]>::to_vec).collect()
}

/// Replaces one number with another.
fn change_number(chance: &mut Chance, bytes: &mut Vec<u8>) {
    let begins =
        |at: &usize| bytes[*at].is_ascii_digit() && (*at == 0 || !bytes[*at - 1].is_ascii_digit());
    let numbers: Vec<usize> = (0..bytes.len()).filter(begins).collect();
    if numbers.is_empty() {
        return;
    }
    let at = *chance.pick(&numbers);
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let end = at + digits.count();
    let number = *chance.pick(NUMBERS);
    bytes.splice(at..end, number.iter().copied());
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

/// No splits, a few, or one after every byte.
fn cuts(chance: &mut Chance, length: usize) -> Vec<usize> {
    if chance.below(20) == 0 {
        return (1..length).collect();
    }
    let mut cuts: Vec<usize> = (0..chance.below(8)).map(|_| chance.below(length + 1)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// SplitMix64: the same seed gives the same run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        let below = self.next() % u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(below).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        if self.below(2) == 0 {
            *self.pick(b"\r\n \t:;,/?%.\0\x0b\x0c\x7f\x80\xff0159afAF-+_\"\\")
        } else {
            self.next().to_le_bytes()[0]
        }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Pieces that are inserted anywhere or replace lines.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"\x0b",
    b"\xff",
    b"..",
    b"%2e",
    b" HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"Host: localhost\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\nUpgrade: x\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: x\r\n",
    b"x-a: b\r\n",
    b" c\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"1\r\nx\r\n",
    b"5;a=b\r\nhello\r\n",
    b";a=\"b\"",
];

const NUMBERS: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"2",
    b"4",
    b"6",
    b"05",
    b"10",
    b"11",
    b"100",
    b"417",
    b"268435456",
    b"268435457",
    b"10000001",
    b"18446744073709551616",
    b"99999999999999999999999",
    b"0000000000000005",
    b"00000000000000005",
];

const SEED_BYTES_MAX: usize = 700;
const INPUT_BYTES_MAX: usize = 3000;
