//! Decodes gzip (RFC 1952, 1951), for an answer that was compressed although we did not ask for it.
//!
//! Only answers of the token endpoint come here, because they hold a token that cannot be fetched
//! twice. The decoder is small and slow, is bounded, and returns what it has when the data ends
//! early.

/// The decoded content of `data` as far as it can be read, at most `limit` bytes.
pub(crate) fn decoded(data: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(start) = header_end(data) {
        let mut reader = Bits { data: &data[start..], at: 0 };
        while let Some(Block::More) = block(&mut reader, &mut out, limit) {}
    }
    out.truncate(limit);
    out
}

fn header_end(data: &[u8]) -> Option<usize> {
    let flags = *data.get(3)?;
    if data.get(..3)? != [0x1f, 0x8b, 8] {
        return None;
    }
    let mut at = 10;
    if flags & 4 != 0 {
        at += 2 + usize::from(*data.get(at)?) + (usize::from(*data.get(at + 1)?) << 8);
    }
    // A name and a comment, each terminated by a zero.
    for flag in [8, 16] {
        if flags & flag != 0 {
            at += data.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    (at <= data.len()).then_some(at)
}

/// A bit reader, least significant bit first.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<usize> {
        let byte = *self.data.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(usize::from(bit))
    }

    fn number(&mut self, bits: u32) -> Option<usize> {
        (0..bits).try_fold(0, |number, place| Some(number | self.bit()? << place))
    }
}

/// The codes of one alphabet: the number of codes of each length, and the symbols in order.
struct Codes {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Codes {
    fn of(lengths: &[usize]) -> Codes {
        let mut counts = [0; 16];
        for &length in lengths {
            counts[length] += 1;
        }
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|&at| lengths[at] > 0).collect();
        symbols.sort_by_key(|&symbol| (lengths[symbol], symbol));
        Codes { counts, symbols }
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Option<usize> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for length in 1..16 {
            code |= bits.bit()?;
            let count = self.counts[length];
            if code < first + count {
                return self.symbols.get(index + code - first).copied();
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

enum Block {
    More,
    Last,
}

fn block(bits: &mut Bits<'_>, out: &mut Vec<u8>, limit: usize) -> Option<Block> {
    let is_last = bits.bit()? == 1;
    match bits.number(2)? {
        0 => {
            let start = bits.at.div_ceil(8);
            let length =
                usize::from(u16::from_le_bytes(bits.data.get(start..start + 2)?.try_into().ok()?));
            let rest = bits.data.get(start + 4..)?;
            out.extend_from_slice(&rest[..length.min(rest.len())]);
            bits.at = (start + 4 + length) * 8;
        }
        1 => {
            let mut lengths = [8; 288];
            lengths[144..256].fill(9);
            lengths[256..280].fill(7);
            inflate(bits, &Codes::of(&lengths), &Codes::of(&[5; 30]), out, limit)?;
        }
        2 => {
            let (literals, distances) = dynamic(bits)?;
            inflate(bits, &literals, &distances, out, limit)?;
        }
        _ => return None,
    }
    Some(if is_last || out.len() > limit { Block::Last } else { Block::More })
}

/// The codes that a dynamic block defines itself (RFC 1951, 3.2.7).
fn dynamic(bits: &mut Bits<'_>) -> Option<(Codes, Codes)> {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let (literals, distances) = (bits.number(5)? + 257, bits.number(5)? + 1);
    let count = bits.number(4)? + 4;
    let mut lengths = [0; 19];
    for &place in &ORDER[..count] {
        lengths[place] = bits.number(3)?;
    }
    let codes = Codes::of(&lengths);
    let mut lengths: Vec<usize> = Vec::with_capacity(literals + distances);
    while lengths.len() < literals + distances {
        let (value, times) = match codes.symbol(bits)? {
            length @ 0..16 => (length, 1),
            16 => (*lengths.last()?, 3 + bits.number(2)?),
            17 => (0, 3 + bits.number(3)?),
            _ => (0, 11 + bits.number(7)?),
        };
        lengths.extend(std::iter::repeat_n(value, times));
    }
    let distance_lengths = lengths.get(literals..literals + distances)?;
    Some((Codes::of(&lengths[..literals]), Codes::of(distance_lengths)))
}

fn inflate(
    bits: &mut Bits<'_>,
    literals: &Codes,
    distances: &Codes,
    out: &mut Vec<u8>,
    limit: usize,
) -> Option<()> {
    while out.len() <= limit {
        let symbol = literals.symbol(bits)?;
        let Some(place) = symbol.checked_sub(257) else {
            if symbol == 256 {
                return Some(());
            }
            out.push(u8::try_from(symbol).ok()?);
            continue;
        };
        let length = LENGTHS.get(place)? + bits.number(*LENGTH_BITS.get(place)?)?;
        let place = distances.symbol(bits)?;
        let distance = DISTANCES.get(place)?
            + bits.number(u32::try_from(place / 2).ok()?.saturating_sub(1))?;
        for _ in 0..length {
            let from = out.len().checked_sub(distance)?;
            out.push(out[from]);
        }
    }
    Some(())
}

const LENGTHS: [usize; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];
const LENGTH_BITS: [u32; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCES: [usize; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use base64::Engine as _;

    use super::*;

    const ANSWER: &str =
        r#"{"access_token":"access-1","refresh_token":"refresh-1","expires_in":3600}"#;
    /// Made with zlib: fixed codes, stored, and dynamic codes.
    const FIXED: &str = "H4sIAAAAAAACA6tWSkxOTi0uji/Jz07NU7KCcnUNlXSUilLTilKLM+BSUD5YLrWiIBPIic8EShibGRjUAgAgGsdISQAAAA==";
    const STORED: &str = "H4sIAAAAAAAEAwFJALb/eyJhY2Nlc3NfdG9rZW4iOiJhY2Nlc3MtMSIsInJlZnJlc2hfdG9rZW4iOiJyZWZyZXNoLTEiLCJleHBpcmVzX2luIjozNjAwfSAax0hJAAAA";
    const DYNAMIC: &str = "H4sIAAAAAAACAx2OQW4DMQhFr1J5zcJgjE2WvUgVpUSKWs2MnHQRVb17P1lhw+Pzfstj/4rt4/E8opzKe5xXrELlftlfjZ97rNNtu8aK7RJvr++x9uvtO0Ad508wlZiUnNhIOjUjdTKlycQVM0FVxRSEAwEjHXU6NVHw2AanijqVujj1YWTgDHXgP9CfmDs4t8zFIlckMCOKM5MF4dzyiua5nnctBSxNBox4ajrAUGpacBpLdZJWlUQrwwwbYvka2Zs5dXAtNxryUxrmDXlNkVz+/gE8jJsuRAEAAA==";

    fn data(text: &str) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    }

    #[test]
    fn every_kind_of_block_is_read() {
        assert_eq!(decoded(&data(FIXED), 1000), ANSWER.as_bytes());
        assert_eq!(decoded(&data(STORED), 1000), ANSWER.as_bytes());
        let long = String::from_utf8(decoded(&data(DYNAMIC), 10_000)).unwrap();
        let squares: String = (0..60).map(|number| format!("{},", number * number)).collect();
        assert_eq!(
            long,
            format!(
                "{{\"token_type\":\"Bearer\",\"scope\":\"user:inference user:profile\",\"pad\":\"{squares}\"}}"
            )
        );
    }

    #[test]
    fn what_breaks_off_gives_what_has_come_and_nothing_panics() {
        for text in [FIXED, STORED, DYNAMIC] {
            let data = data(text);
            let whole = decoded(&data, 10_000);
            for length in 0..data.len() {
                assert!(whole.starts_with(&decoded(&data[..length], 10_000)));
                let mut broken = data.clone();
                broken[length] ^= 0x55;
                assert!(decoded(&broken, 300).len() <= 300);
            }
            assert_eq!(decoded(&data, 10), whole[..10]);
        }
    }
}
