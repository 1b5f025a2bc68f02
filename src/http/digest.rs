//! Short fixed-size keys for long values: sessions, threads, first messages, bodies. Equal input
//! gives an equal digest, also in another process.
//!
//! Not cryptographic: a client can construct a collision, but gains only its own session back.

/// A 128-bit digest of a sequence of parts; part boundaries are significant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    state: u128,
    parts: u64,
}

impl Digest {
    /// Adds a part.
    pub(crate) fn add(&mut self, part: &[u8]) {
        let (blocks, rest) = part.as_chunks::<16>();
        for block in blocks {
            self.mix(u128::from_le_bytes(*block));
        }
        let mut last = [0; 16];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.mix(u128::from_le_bytes(last));
        self.mix(part.len() as u128);
        self.parts += 1;
    }

    /// The digest of all parts, or `None` if there were none.
    pub(crate) fn value(mut self) -> Option<u128> {
        let parts = self.parts;
        self.mix(u128::from(parts));
        self.mix(0);
        (parts > 0).then_some(self.state)
    }

    /// Each step is a bijection in the state and in the block, so a single step loses no input.
    fn mix(&mut self, block: u128) {
        let state = (self.state ^ block).wrapping_mul(FACTOR);
        self.state = (state ^ (state >> 67)).wrapping_add(STEP);
    }
}

/// The digest of these parts.
pub(crate) fn digest(parts: &[&[u8]]) -> u128 {
    let mut digest = Digest::default();
    for part in parts {
        digest.add(part);
    }
    digest.value().unwrap_or_default()
}

/// Odd, so that multiplication can be inverted; the multiplier of PCG's 128-bit generator.
const FACTOR: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
/// Keeps a zero state from staying zero.
const STEP: u128 = 0x5851_f42d_4c95_7f2d_1405_7b7e_f767_814f;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::testing::chance::Random;

    #[test]
    fn different_input_differs() {
        let mut seen = HashSet::new();
        let mut low_halves = HashSet::new();
        let mut random = Random::new(7);
        let mut parts: Vec<Vec<Vec<u8>>> = vec![
            vec![vec![]],
            vec![vec![], vec![]],
            vec![vec![0]],
            vec![vec![0, 0]],
            vec![vec![0; 16]],
            vec![vec![0; 32]],
            vec![b"ab".into(), b"c".into()],
            vec![b"a".into(), b"bc".into()],
            vec![b"abc".into()],
        ];
        parts.extend((0..50_000_u32).map(|n| vec![n.to_be_bytes().to_vec()]));
        parts.extend((0..1_000).map(|n| vec![vec![b'x'; 100 + n]]));
        parts.extend((0..10_000).map(|n| {
            let mut bytes = vec![b'a'; 64];
            bytes[n % 64] = random.next() as u8;
            bytes.extend((n as u32).to_le_bytes());
            vec![bytes]
        }));
        for input in &parts {
            let slices: Vec<&[u8]> = input.iter().map(Vec::as_slice).collect();
            let value = digest(&slices);
            assert!(seen.insert(value), "{input:?}");
            low_halves.insert(value as u32);
        }
        // Among 61,000 random 32-bit numbers, fewer than one collision is expected.
        assert!(parts.len() - low_halves.len() < 10, "the low half is well mixed");
    }
}
