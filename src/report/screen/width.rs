//! How many terminal cells a character takes: 0, 1 or 2 (Unicode Standard Annex 11, and actual
//! terminals).
//!
//! Ambiguous characters count as one. Sequences that some fonts join into one picture count as
//! their parts, which at worst leaves a gap; every line of a frame starts at an absolute position,
//! so an error does not propagate.

/// Cells of one character.
pub(crate) fn of_char(c: char) -> usize {
    let code = c as u32;
    if (0x20..0x7f).contains(&code) {
        return 1;
    }
    if c.is_control() || is_in(&ZERO, code) {
        return 0;
    }
    if code >= 0x1100 && is_in(&WIDE, code) { 2 } else { 1 }
}

/// Cells of a text.
pub(crate) fn of(text: &str) -> usize {
    text.chars().map(of_char).sum()
}

/// As much of `text` as fits into `cells`, with `mark` at the end if it was cut.
pub(crate) fn fit(text: &str, cells: usize, mark: char) -> String {
    if of(text) <= cells {
        return text.to_owned();
    }
    let Some(room) = cells.checked_sub(of_char(mark)) else {
        return String::new();
    };
    let mut used = 0;
    let mut out = String::new();
    for c in text.chars() {
        used += of_char(c);
        if used > room {
            break;
        }
        out.push(c);
    }
    out.push(mark);
    out
}

/// As much of both ends of `text` as fits into `cells`, with `mark` in the middle if it was cut:
/// similar names often differ only at the end.
pub(crate) fn fit_middle(text: &str, cells: usize, mark: char) -> String {
    if of(text) <= cells {
        return text.to_owned();
    }
    let Some(room) = cells.checked_sub(of_char(mark)) else {
        return String::new();
    };
    let (mut front, mut used) = (String::new(), 0);
    for c in text.chars() {
        used += of_char(c);
        if used > room.div_ceil(2) {
            break;
        }
        front.push(c);
    }
    let (mut back, mut used) = (Vec::new(), of(&front));
    for c in text.chars().rev() {
        used += of_char(c);
        if used > room {
            break;
        }
        back.push(c);
    }
    front.push(mark);
    front.extend(back.into_iter().rev());
    front
}

fn is_in(ranges: &[(u32, u32)], code: u32) -> bool {
    let next = ranges.partition_point(|(first, _)| *first <= code);
    next > 0 && code <= ranges[next - 1].1
}

/// Combining marks, joiners and selectors.
const ZERO: [(u32, u32); 44] = [
    (0x0300, 0x036f),
    (0x0483, 0x0489),
    (0x0591, 0x05bd),
    (0x05bf, 0x05bf),
    (0x05c1, 0x05c2),
    (0x05c4, 0x05c5),
    (0x0610, 0x061a),
    (0x064b, 0x065f),
    (0x0670, 0x0670),
    (0x06d6, 0x06dc),
    (0x06df, 0x06e4),
    (0x0900, 0x0902),
    (0x093a, 0x093a),
    (0x093c, 0x093c),
    (0x0941, 0x0948),
    (0x094d, 0x094d),
    (0x0951, 0x0957),
    (0x0981, 0x0981),
    (0x09bc, 0x09bc),
    (0x09c1, 0x09c4),
    (0x09cd, 0x09cd),
    (0x0a41, 0x0a51),
    (0x0ac1, 0x0acd),
    (0x0b41, 0x0b44),
    (0x0bcd, 0x0bcd),
    (0x0c3e, 0x0c40),
    (0x0c46, 0x0c56),
    (0x0d41, 0x0d44),
    (0x0e31, 0x0e31),
    (0x0e34, 0x0e3a),
    (0x0e47, 0x0e4e),
    (0x0eb1, 0x0eb1),
    (0x0eb4, 0x0ebc),
    (0x0ec8, 0x0ecd),
    (0x1160, 0x11ff),
    (0x1ab0, 0x1aff),
    (0x1dc0, 0x1dff),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x206f),
    (0x20d0, 0x20f0),
    (0xfe00, 0xfe0f),
    (0xfe20, 0xfe2f),
    (0xe0100, 0xe01ef),
];

/// East Asian wide and full-width characters, and pictographs.
const WIDE: [(u32, u32); 81] = [
    (0x1100, 0x115f),
    (0x231a, 0x231b),
    (0x2329, 0x232a),
    (0x23e9, 0x23ec),
    (0x23f0, 0x23f0),
    (0x23f3, 0x23f3),
    (0x25fd, 0x25fe),
    (0x2614, 0x2615),
    (0x2648, 0x2653),
    (0x267f, 0x267f),
    (0x2693, 0x2693),
    (0x26a1, 0x26a1),
    (0x26aa, 0x26ab),
    (0x26bd, 0x26be),
    (0x26c4, 0x26c5),
    (0x26ce, 0x26ce),
    (0x26d4, 0x26d4),
    (0x26ea, 0x26ea),
    (0x26f2, 0x26f3),
    (0x26f5, 0x26f5),
    (0x26fa, 0x26fa),
    (0x26fd, 0x26fd),
    (0x2705, 0x2705),
    (0x270a, 0x270b),
    (0x2728, 0x2728),
    (0x274c, 0x274c),
    (0x274e, 0x274e),
    (0x2753, 0x2755),
    (0x2757, 0x2757),
    (0x2795, 0x2797),
    (0x27b0, 0x27b0),
    (0x27bf, 0x27bf),
    (0x2b1b, 0x2b1c),
    (0x2b50, 0x2b50),
    (0x2b55, 0x2b55),
    (0x2e80, 0x303e),
    (0x3041, 0x3247),
    (0x3250, 0x4dbf),
    (0x4e00, 0xa4c6),
    (0xa960, 0xa97c),
    (0xac00, 0xd7a3),
    (0xf900, 0xfad9),
    (0xfe10, 0xfe19),
    (0xfe30, 0xfe6b),
    (0xff01, 0xff60),
    (0xffe0, 0xffe6),
    (0x16fe0, 0x1b2fb),
    (0x1f004, 0x1f004),
    (0x1f0cf, 0x1f0cf),
    (0x1f18e, 0x1f18e),
    (0x1f191, 0x1f19a),
    (0x1f200, 0x1f320),
    (0x1f32d, 0x1f335),
    (0x1f337, 0x1f37c),
    (0x1f37e, 0x1f393),
    (0x1f3a0, 0x1f3ca),
    (0x1f3cf, 0x1f3d3),
    (0x1f3e0, 0x1f3f0),
    (0x1f3f4, 0x1f3f4),
    (0x1f3f8, 0x1f43e),
    (0x1f440, 0x1f440),
    (0x1f442, 0x1f4fc),
    (0x1f4ff, 0x1f53d),
    (0x1f54b, 0x1f54e),
    (0x1f550, 0x1f567),
    (0x1f57a, 0x1f57a),
    (0x1f595, 0x1f596),
    (0x1f5a4, 0x1f5a4),
    (0x1f5fb, 0x1f64f),
    (0x1f680, 0x1f6c5),
    (0x1f6cc, 0x1f6cc),
    (0x1f6d0, 0x1f6d2),
    (0x1f6d5, 0x1f6df),
    (0x1f6eb, 0x1f6ec),
    (0x1f6f4, 0x1f6fc),
    (0x1f7e0, 0x1f7f0),
    (0x1f90c, 0x1f93a),
    (0x1f93c, 0x1f945),
    (0x1f947, 0x1f9ff),
    (0x1fa70, 0x1faf6),
    (0x20000, 0x3fffd),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_characters_and_texts() {
        for (text, cells) in [
            ("", 0),
            ("work", 4),
            ("工作", 4),
            ("한국", 4),
            ("e\u{301}", 1),
            ("ｆｕｌｌ", 8),
            ("🚀", 2),
            ("█░…·▶", 5),
            ("\u{1b}", 0),
            ("\u{200b}", 0),
        ] {
            assert_eq!(of(text), cells, "{text:?}");
        }
    }

    #[test]
    fn a_cut_text_never_exceeds_its_room() {
        for (text, room, cut) in [
            ("work", 4, "work"),
            ("workers", 4, "wor…"),
            ("工作帐号", 5, "工作…"),
            ("工作帐号", 4, "工…"),
            ("工作", 1, "…"),
            ("x", 0, ""),
            ("", 0, ""),
        ] {
            assert_eq!(fit(text, room, '…'), cut);
            assert!(of(&fit(text, room, '…')) <= room);
        }
    }

    #[test]
    fn d1_a_name_is_cut_in_its_middle() {
        for (text, room, cut) in [
            ("work", 4, "work"),
            ("me@example.com", 9, "me@e….com"),
            ("me@example.com", 8, "me@e…com"),
            ("工作帐号甲乙", 6, "工…乙"),
            ("工作帐号", 1, "…"),
            ("xyz", 0, ""),
        ] {
            assert_eq!(fit_middle(text, room, '…'), cut);
            assert!(of(&fit_middle(text, room, '…')) <= room);
        }
    }

    #[test]
    fn the_tables_are_in_order() {
        for table in [&ZERO[..], &WIDE[..]] {
            assert!(table.windows(2).all(|pair| pair[0].1 < pair[1].0));
            assert!(table.iter().all(|(first, last)| first <= last));
        }
    }
}
