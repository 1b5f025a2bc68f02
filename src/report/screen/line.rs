//! One line of a frame: pieces of styled text, cut and padded by terminal cells.

use super::width;
use crate::report::text::clean;

/// The style of a piece. Without colour every style looks the same, so a style never carries
/// meaning alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// The terminal's default.
    Plain,
    Bold,
    /// Headings and secondary text.
    Dim,
    /// Use below 0.70, and ready.
    Green,
    /// Use below 0.90, and limited for a while.
    Yellow,
    /// Higher use, and whatever needs a person.
    Red,
    Cyan,
    /// The line under the cursor.
    Reverse,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Ink::Plain => "",
            Ink::Bold => "\x1b[1m",
            Ink::Dim => "\x1b[2m",
            Ink::Green => "\x1b[32m",
            Ink::Yellow => "\x1b[33m",
            Ink::Red => "\x1b[31m",
            Ink::Cyan => "\x1b[36m",
            Ink::Reverse => "\x1b[7m",
        }
    }
}

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether colours are used.
    pub(crate) inks: Inks,
    /// Which characters are used for bars and marks.
    pub(crate) signs: Signs,
}

/// Whether colours are used (`NO_COLOR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inks {
    /// ANSI colours.
    Colour,
    /// None.
    None,
}

/// The characters for bars and marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signs {
    /// Block elements, for UTF-8 locales.
    Unicode,
    /// `#` and `-`.
    Ascii,
}

impl Signs {
    /// Marks a cut.
    pub(crate) fn cut(self) -> char {
        match self {
            Signs::Unicode => '…',
            Signs::Ascii => '~',
        }
    }

    /// Separates facts on a line.
    pub(crate) fn dot(self) -> &'static str {
        match self {
            Signs::Unicode => " · ",
            Signs::Ascii => " | ",
        }
    }

    /// Between input and output tokens.
    pub(crate) fn arrow(self) -> &'static str {
        match self {
            Signs::Unicode => "→",
            Signs::Ascii => "->",
        }
    }

    /// A full and an empty cell of a bar.
    pub(crate) fn bar(self) -> (char, char) {
        match self {
            Signs::Unicode => ('█', '░'),
            Signs::Ascii => ('#', '-'),
        }
    }

    /// The mark of a serving account.
    pub(crate) fn serving(self) -> char {
        match self {
            Signs::Unicode => '▶',
            Signs::Ascii => '>',
        }
    }
}

/// A line under construction.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    pieces: Vec<(Ink, String)>,
    cells: usize,
}

impl Line {
    /// A line of one piece.
    pub(crate) fn of(ink: Ink, text: impl Into<String>) -> Line {
        let mut line = Line::default();
        line.push(ink, text);
        line
    }

    /// Adds a piece. All text of a frame passes through here, so this is where control characters
    /// are removed, whatever their source.
    pub(crate) fn push(&mut self, ink: Ink, text: impl Into<String>) -> &mut Line {
        let text = clean(&text.into(), usize::MAX);
        self.cells += width::of(&text);
        self.pieces.push((ink, text));
        self
    }

    /// Adds a piece of exactly `cells` cells, cut or padded on the right.
    pub(crate) fn column(&mut self, ink: Ink, text: &str, cells: usize, signs: Signs) -> &mut Line {
        let text = width::fit(&clean(text, usize::MAX), cells, signs.cut());
        let gap = cells - width::of(&text);
        self.push(ink, text);
        self.gap(gap)
    }

    /// The same, padded on the left.
    pub(crate) fn column_right(
        &mut self,
        ink: Ink,
        text: &str,
        cells: usize,
        signs: Signs,
    ) -> &mut Line {
        let text = width::fit(&clean(text, usize::MAX), cells, signs.cut());
        self.gap(cells - width::of(&text));
        self.push(ink, text)
    }

    /// Adds spaces.
    pub(crate) fn gap(&mut self, cells: usize) -> &mut Line {
        if cells > 0 {
            self.push(Ink::Plain, " ".repeat(cells));
        }
        self
    }

    /// Right-aligns `right` in a line of `cells`, if it fits with a space before it.
    pub(crate) fn right(&mut self, right: Line, cells: usize) -> &mut Line {
        if let Some(gap) = cells.checked_sub(self.cells + right.cells)
            && gap > 0
        {
            self.gap(gap);
            self.cells += right.cells;
            self.pieces.extend(right.pieces);
        }
        self
    }

    /// The line followed by another one.
    pub(crate) fn then(mut self, next: Line) -> Line {
        self.cells += next.cells;
        self.pieces.extend(next.pieces);
        self
    }

    /// Its width in cells.
    pub(crate) fn cells(&self) -> usize {
        self.cells
    }

    /// The same line in reverse video over the whole width, for the cursor.
    pub(crate) fn chosen(self, cells: usize) -> Line {
        let mut text: String = self.pieces.into_iter().map(|(_, text)| text).collect();
        let used = width::of(&text);
        text.push_str(&" ".repeat(cells.saturating_sub(used)));
        Line::of(Ink::Reverse, text)
    }

    /// The styled text, at most `cells` wide, without trailing spaces.
    pub(crate) fn paint(&self, cells: usize, style: Style) -> String {
        let mut out = String::new();
        let mut left = cells;
        let mut pieces = self.without_end_blanks(style.inks);
        let mut rest: usize = pieces.iter().map(|(_, text)| width::of(text)).sum();
        for (ink, text) in &mut pieces {
            let here = width::of(text);
            if rest > left && here >= left {
                // The edge is in this piece and more text follows: mark the cut here.
                text.push_str("  ");
                *text = width::fit(text, left, style.signs.cut());
            }
            match style.inks {
                Inks::Colour if *ink != Ink::Plain && !text.is_empty() => {
                    out.push_str(ink.code());
                    out.push_str(text);
                    out.push_str("\x1b[0m");
                }
                Inks::Colour | Inks::None => out.push_str(text),
            }
            rest -= here;
            left = left.saturating_sub(here);
            if left == 0 {
                break;
            }
        }
        out
    }

    /// Drops trailing spaces, which cost bytes and show nothing, unless they are in reverse video.
    fn without_end_blanks(&self, inks: Inks) -> Vec<(Ink, String)> {
        let mut pieces = self.pieces.clone();
        while let Some((ink, text)) = pieces.last_mut() {
            if *ink == Ink::Reverse && inks == Inks::Colour {
                break;
            }
            text.truncate(text.trim_end().len());
            if !text.is_empty() {
                break;
            }
            pieces.pop();
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::text::is_dangerous;

    const PLAIN: Style = Style { inks: Inks::None, signs: Signs::Unicode };
    const COLOUR: Style = Style { inks: Inks::Colour, signs: Signs::Unicode };

    #[test]
    fn a_line_is_cut_at_its_edge_and_keeps_no_blanks() {
        let mut line = Line::of(Ink::Bold, "maxpool");
        line.gap(1).push(Ink::Plain, "工作").gap(4);
        for (cells, text) in [
            (40, "maxpool 工作"),
            (16, "maxpool 工作"),
            (12, "maxpool 工作"),
            (11, "maxpool 工…"),
            (8, "maxpool…"),
            (3, "ma…"),
            (0, ""),
        ] {
            let painted = line.paint(cells, PLAIN);
            assert_eq!(painted, text, "{cells}");
            assert!(width::of(&painted) <= cells);
        }
        assert_eq!(line.paint(40, COLOUR), "\x1b[1mmaxpool\x1b[0m 工作");
    }

    #[test]
    fn columns_are_exact_and_the_right_side_needs_room() {
        let mut line = Line::default();
        line.column(Ink::Plain, "工作帐号", 7, Signs::Unicode).column_right(
            Ink::Plain,
            "9",
            3,
            Signs::Ascii,
        );
        assert_eq!(line.cells(), 10);
        assert_eq!(line.paint(99, PLAIN), "工作帐…  9");
        let mut line = Line::of(Ink::Plain, "left");
        line.right(Line::of(Ink::Plain, "right"), 9);
        assert_eq!(line.paint(99, PLAIN), "left");
        line.right(Line::of(Ink::Plain, "right"), 10);
        assert_eq!(line.paint(99, PLAIN), "left right");
    }

    #[test]
    fn d4_nothing_that_a_terminal_obeys_gets_into_a_line() {
        let evil = "a\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{2066}\u{200e}\u{200b}\u{2028}\r\n";
        let mut line = Line::of(Ink::Red, evil);
        line.column(Ink::Plain, evil, 9, Signs::Ascii).column_right(
            Ink::Plain,
            evil,
            9,
            Signs::Ascii,
        );
        for line in [line.clone(), line.chosen(300)] {
            let painted = line.paint(300, PLAIN);
            assert!(painted.chars().all(|c| !is_dangerous(c)), "{painted:?}");
            assert!(painted.starts_with("a\\u{1b}]0;x"), "{painted:?}");
            assert_eq!(width::of(&painted), painted.chars().count());
        }
    }

    #[test]
    fn the_chosen_line_fills_its_width() {
        let line = Line::of(Ink::Red, "one").chosen(6);
        assert_eq!(line.paint(6, COLOUR), "\x1b[7mone   \x1b[0m");
        assert_eq!(line.paint(6, PLAIN), "one");
    }
}
