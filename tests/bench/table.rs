//! Markdown, medians and units.

use std::fmt::Write as _;

/// A table that is built row by row.
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(columns: &[&str]) -> Table {
        let mut text = format!("| {} |\n|", columns.join(" | "));
        for index in 0..columns.len() {
            text.push_str(if index == 0 { "---|" } else { "---:|" });
        }
        text.push('\n');
        Table { text }
    }

    pub fn row(&mut self, cells: &[String]) {
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    pub fn finish(self) -> String {
        self.text
    }
}

/// The value at this quantile of a sorted list.
pub fn at_share(sorted: &[u64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(0) as f64
}

/// The median of a few values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// Three significant digits.
pub fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "–".to_owned(),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Nanoseconds as milliseconds.
pub fn ms(nanoseconds: f64) -> String {
    let value = nanoseconds / 1e6;
    if value < 1.0 { format!("{value:.3}") } else { number(value) }
}

/// Bytes as megabytes.
pub fn mb(bytes: u64) -> String {
    number(bytes as f64 / 1e6)
}
