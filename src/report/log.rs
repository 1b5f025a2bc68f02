//! One line for one event (D2): no ANSI, no control characters from outside, bounded in length, and enough in it to understand a
//! night afterwards.

use super::{Entry, Level};
use crate::event::Stamped;
use crate::scheduler::time::Wall;

pub(super) fn entry(stamped: &Stamped) -> Entry {
    Entry {
        at: stamped.at,
        level: Level::Info,
        text: format!("{:?}", stamped.event),
    }
}

pub(super) fn dropped(at: Wall, lost: u64) -> Entry {
    Entry {
        at,
        level: Level::Warning,
        text: format!("{lost} log lines were lost: the log is read too slowly"),
    }
}

pub(super) fn push_line(text: &mut String, entry: &Entry) {
    text.push_str(&format!("{} {}\n", entry.at.0, entry.text));
}
