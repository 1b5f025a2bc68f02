//! Tables and paragraphs, fitted to the terminal's width.

use crate::report::screen::width;

/// The width available for tables and lines; `None` if they are not for a terminal.
pub(super) type Room = Option<usize>;

/// Columns are not made narrower than this.
const COLUMN_MIN: usize = 8;

/// Rows under a heading, columns two spaces apart, without trailing spaces. Widths are in cells: a
/// wide character takes two.
///
/// If there is too little room, the widest columns shrink first; then the last ones are omitted.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>], room: Room) -> Vec<String> {
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let columns = all().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| width::of(cell)).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(widest).collect();
    if let Some(room) = room {
        narrow(&mut widths, room);
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &wide)| {
            let cell = width::fit(cell, wide, '…');
            format!("{cell}{}", " ".repeat(wide - width::of(&cell).min(wide)))
        });
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    all().map(line).collect()
}

fn narrow(widths: &mut Vec<usize>, room: usize) {
    let taken = |widths: &[usize]| widths.iter().sum::<usize>() + 2 * widths.len().max(1) - 2;
    while taken(widths) > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > COLUMN_MIN => *widest -= 1,
            _ => {
                widths.pop();
            }
        }
    }
}

/// Wraps `text` into lines that fit, all but the first indented.
pub(super) fn wrapped(text: &str, indent: usize, room: Room) -> Vec<String> {
    let Some(room) = room.filter(|room| width::of(text) > *room) else {
        return vec![text.to_owned()];
    };
    let mut lines = Vec::new();
    let mut line = String::new();
    // Spaces before the next word: an indentation, and the padding of columns, stay as they are.
    let mut gap = 0;
    let mut is_empty = true;
    for word in text.split(' ') {
        if word.is_empty() {
            gap += 1;
            continue;
        }
        if !is_empty && width::of(&line) + gap + width::of(word) > room {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
        } else {
            line.push_str(&" ".repeat(gap));
        }
        line.push_str(word);
        is_empty = false;
        gap = 1;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect()
    }

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let short = rows(&[&["ä", "1"], &["longer", ""]]);
        assert_eq!(table(&["name", "n"], &short, None), ["name    n", "ä       1", "longer"]);
        let wide = rows(&[&["研究室", "1"], &["lab", "2"]]);
        assert_eq!(table(&["name", "n"], &wide, None), ["name    n", "研究室  1", "lab     2"]);
    }

    #[test]
    fn a_table_fits_into_its_room() {
        let long = rows(&[&["me@example.com", "limited for two hours", "7"]]);
        let heading = ["NAME", "STATE", "N"];
        assert_eq!(
            table(&heading, &long, Some(30)),
            ["NAME           STATE         N", "me@example.c…  limited for…  7"]
        );
        for room in 1..60 {
            for line in table(&heading, &long, Some(room)) {
                assert!(width::of(&line) <= room.max(COLUMN_MIN), "{room}: {line}");
            }
        }
    }

    #[test]
    fn prose_is_wrapped_at_words() {
        let text = "  one two three four";
        assert_eq!(wrapped(text, 4, Some(10)), ["  one two", "    three", "    four"]);
        assert_eq!(wrapped(text, 4, None), [text]);
        assert_eq!(wrapped("longerthanthat", 4, Some(5)), ["longerthanthat"]);
        let columns = "note  port         nothing is listening";
        assert_eq!(
            wrapped(columns, 19, Some(30)),
            ["note  port         nothing is", "                   listening"]
        );
    }
}
