//! The last lines of the log, kept for the dashboard and the status.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::masking::Masked;
use crate::scheduler::time::Wall;

/// The severity of an entry; the dashboard colours it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Normal operation.
    Info,
    /// Needs attention.
    Warning,
}

/// One line of the activity log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) at: Wall,
    /// Its severity.
    pub(crate) level: Level,
    /// One line without control characters, bounded.
    pub(crate) text: Masked<String>,
    /// The facts of a finished request, for the dashboard's shorter line.
    pub(crate) brief: Option<Brief>,
}

/// The facts of a finished request that the dashboard shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Brief {
    pub(crate) method: Arc<str>,
    /// The path without its query.
    pub(crate) path: Arc<str>,
    pub(crate) account: Option<Arc<str>>,
    pub(crate) model: Option<Arc<str>>,
    pub(crate) status: Option<u16>,
    pub(crate) total: Duration,
    /// Input and output tokens, if the answer reported them.
    pub(crate) tokens: Option<(u64, u64)>,
    /// Why it did not end well.
    pub(crate) cause: Option<String>,
}

/// The last lines, oldest first.
#[derive(Default)]
pub(crate) struct Activity {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    kept: VecDeque<Entry>,
    /// Total number of lines so far.
    count: u64,
}

impl Activity {
    pub(super) fn push(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.kept.len() == ACTIVITY_MAX {
            entries.kept.pop_front();
        }
        entries.kept.push_back(entry);
        entries.count += 1;
    }

    /// Takes over the lines of an earlier process, merged by time.
    pub(crate) fn recall(&self, earlier: Vec<Entry>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.count += earlier.len() as u64;
        let mut all: Vec<Entry> = earlier.into_iter().chain(entries.kept.drain(..)).collect();
        // A stable sort: of lines with the same time the earlier process's come first.
        all.sort_by_key(|entry| entry.at);
        let surplus = all.len().saturating_sub(ACTIVITY_MAX);
        entries.kept.extend(all.into_iter().skip(surplus));
    }

    /// The last `most` lines, oldest first, each with its number (how many lines precede it).
    pub(crate) fn last(&self, most: usize) -> Vec<(u64, Entry)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let first = entries.count - entries.kept.len() as u64;
        let numbered = (first..).zip(&entries.kept);
        let skipped = entries.kept.len().saturating_sub(most);
        numbered.skip(skipped).map(|(number, entry)| (number, entry.clone())).collect()
    }
}

/// Lines that the activity log keeps.
pub(crate) const ACTIVITY_MAX: usize = 200;
