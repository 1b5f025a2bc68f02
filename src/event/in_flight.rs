//! The requests in flight, for the dashboard and the status. A request takes a short lock at its
//! start, at each stage and at its end, and none per chunk.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::scheduler::time::{Mono, Wall};

#[derive(Default)]
pub(crate) struct InFlightTable {
    table: Mutex<Table>,
    pulse: Arc<Pulse>,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// In order of arrival, because keys only grow.
    entries: BTreeMap<u64, InFlight>,
}

/// What is known when a request starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestMeta {
    /// Start time, for its age.
    pub(crate) since: Mono,
    /// Start time, for display.
    pub(crate) at: Wall,
    pub(crate) method: Arc<str>,
    /// The path without its query.
    pub(crate) path: Arc<str>,
    /// The session's short id.
    pub(crate) session: Option<Arc<str>>,
    /// The requested model.
    pub(crate) model: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// The body is being read.
    #[default]
    Receiving,
    /// The request waits for an account.
    Queued,
    /// The request is connecting or being sent.
    Connecting,
    /// The request was sent and has no answer yet.
    Waiting,
    /// The answer is being sent to the client.
    Streaming,
}

impl Stage {
    /// The word for people and for the status.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Stage::Receiving => "receiving",
            Stage::Queued => "queued",
            Stage::Connecting => "connecting",
            Stage::Waiting => "waiting",
            Stage::Streaming => "streaming",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InFlight {
    /// Unique while the program runs, increasing.
    pub(crate) id: u64,
    pub(crate) meta: RequestMeta,
    pub(crate) stage: Stage,
    pub(crate) account: Option<Arc<str>>,
}

/// A request's entry in the table; dropping it removes the entry.
pub(crate) struct Tracked {
    table: Arc<InFlightTable>,
    id: u64,
    stage: Cell<Stage>,
}

impl InFlightTable {
    /// Enters a request. Local routes are left out, or whoever reads the table would see his own
    /// request.
    #[must_use]
    pub(crate) fn begin(self: &Arc<InFlightTable>, meta: RequestMeta) -> Tracked {
        let id = {
            let mut table = self.lock();
            let id = table.next;
            table.next += 1;
            if is_local(&meta.path) {
                return Tracked { table: Arc::clone(self), id, stage: Cell::default() };
            }
            table.entries.insert(id, InFlight { id, meta, stage: Stage::default(), account: None });
            id
        };
        self.pulse.beat();
        Tracked { table: Arc::clone(self), id, stage: Cell::default() }
    }

    /// A copy of the table, oldest first, at most `most` entries.
    #[must_use]
    pub(crate) fn list(&self, most: usize) -> Vec<InFlight> {
        self.lock().entries.values().take(most).cloned().collect()
    }

    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Notifies the dashboard of changes.
    #[must_use]
    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    fn change(&self, id: u64, with: impl FnOnce(&mut InFlight)) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            with(entry);
        }
        self.pulse.beat();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_local(path: &str) -> bool {
    path.strip_prefix("/maxpool").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Tracked {
    /// The request has reached `stage`.
    pub(crate) fn stage(&self, stage: Stage) {
        self.stage.set(stage);
        self.table.change(self.id, |entry| entry.stage = stage);
    }

    /// The request waits for bytes from the upstream, so it has been sent.
    pub(crate) fn awaits_answer(&self) {
        if self.stage.get() == Stage::Connecting {
            self.stage(Stage::Waiting);
        }
    }

    /// The request is now with `account`, or with none.
    pub(crate) fn account(&self, account: Option<Arc<str>>) {
        self.table.change(self.id, |entry| entry.account = account);
    }

    /// The session and the model, once the body has been read.
    pub(crate) fn describe(&self, session: Option<Arc<str>>, model: Option<Arc<str>>) {
        self.table.change(self.id, |entry| {
            entry.meta.session = session;
            entry.meta.model = model;
        });
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.table.lock().entries.remove(&self.id);
        self.table.pulse.beat();
    }
}

/// Wakes one sleeping reader when something changed, at most once each time it is armed.
///
/// The reader calls [`Pulse::arm`], then reads, then sleeps. A writer makes its change first and
/// then calls [`Pulse::beat`]. So each change is either seen by the read or wakes the sleep, and a
/// thousand changes cost one wake-up.
#[derive(Default)]
pub(crate) struct Pulse {
    armed: AtomicBool,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Pulse {
    /// Sets what wakes the reader; it must not block. Later calls have no effect.
    pub(crate) fn connect(&self, wake: Box<dyn Fn() + Send + Sync>) {
        // A second dashboard in one process would be a bug; it would only get no wake-ups.
        let _ = self.wake.set(wake);
    }

    /// The next change wakes the reader.
    pub(crate) fn arm(&self) {
        self.armed.store(true, SeqCst);
    }

    pub(crate) fn beat(&self) {
        if self.armed.load(SeqCst)
            && self.armed.swap(false, SeqCst)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_request_is_listed_while_its_guard_lives() {
        let table = Arc::new(InFlightTable::default());
        let first = table.begin(RequestMeta::default());
        let second = table.begin(RequestMeta::default());
        first.stage(Stage::Streaming);
        first.account(Some("work".into()));
        let list = table.list(10);
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].stage, Stage::Streaming);
        assert_eq!(list[0].account.as_deref(), Some("work"));
        assert_eq!(table.list(1)[0].id, first.id);
        drop(first);
        assert_eq!(table.list(10)[0].id, second.id);
        drop(second);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn who_looks_does_not_see_itself() {
        let table = Arc::new(InFlightTable::default());
        let meta = |path: &str| RequestMeta { path: path.into(), ..RequestMeta::default() };
        let status = table.begin(meta("/maxpool/status"));
        status.stage(Stage::Streaming);
        assert_eq!(table.len(), 0);
        let _other = table.begin(meta("/maxpools"));
        drop(status);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_pulse_wakes_once_for_each_time_it_was_armed() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let pulse = Pulse::default();
        pulse.beat();
        let counted = Arc::clone(&wakes);
        pulse.connect(Box::new(move || {
            counted.fetch_add(1, SeqCst);
        }));
        pulse.beat();
        assert_eq!(wakes.load(SeqCst), 0, "nobody had asked");
        pulse.arm();
        pulse.beat();
        pulse.beat();
        assert_eq!(wakes.load(SeqCst), 1);
        pulse.arm();
        pulse.beat();
        assert_eq!(wakes.load(SeqCst), 2);
    }
}
