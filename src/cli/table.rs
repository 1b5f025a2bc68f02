//! Columns of text.

use crate::report::screen::width;

/// Rows under a heading, columns two spaces apart, without spaces at the ends of lines. Widths are in cells: a wide character takes two.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let columns = all().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| width::of(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &wide)| format!("{cell}{}", " ".repeat(wide - width::of(cell).min(wide))));
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let rows = [vec!["ä".to_owned(), "1".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["name", "n"], &rows), ["name    n", "ä       1", "longer"]);
        let rows =
            [vec!["研究室".to_owned(), "1".to_owned()], vec!["lab".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows), ["name    n", "研究室  1", "lab     2"]);
    }
}
