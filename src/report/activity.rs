//! The last lines of the log, kept for the dashboard and the status.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::scheduler::time::Wall;

/// How much an entry matters; the dashboard colours it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
}

/// One line of the activity log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// When.
    pub(crate) at: Wall,
    /// How much it matters.
    pub(crate) level: Level,
    /// One line without control characters, bounded.
    pub(crate) text: String,
}

/// The last lines, oldest first.
#[derive(Default)]
pub(crate) struct Activity {
    entries: Mutex<VecDeque<Entry>>,
}

impl Activity {
    pub(super) fn push(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == ACTIVITY_MAX {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The last `most`, oldest first.
    pub(crate) fn last(&self, most: usize) -> Vec<Entry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().skip(entries.len().saturating_sub(most)).cloned().collect()
    }
}

/// How many lines the activity log holds.
pub(crate) const ACTIVITY_MAX: usize = 200;
