//! The config file's lock, shared by the refreshes of this process (SPEC A5, R2).
//!
//! A refresh holds the lock while the token endpoint answers, so that no other process sends the
//! same single-use token meanwhile. If each refresh took the lock for itself, all of them would
//! queue up behind the slowest one. Therefore refreshes that begin within [`JOIN_WITHIN`] of the
//! first share one guard; a later one waits until that guard is gone, which gives other processes
//! their chance in between.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::Config;
use crate::config::file::{self, Locked};
use crate::error::Result;
use crate::scheduler::time::Mono;

pub(super) struct RefreshLock {
    path: PathBuf,
    /// The guard of the moment, if anybody holds it. This mutex is held for moments only.
    current: Mutex<Weak<RefreshLockGuard>>,
    /// Held while waiting for the file's lock.
    next: Mutex<()>,
}

/// The held lock. The last reference to it releases the file.
pub(super) struct RefreshLockGuard {
    since: Mono,
    locked: Mutex<Locked>,
}

impl RefreshLock {
    pub(super) fn new(path: PathBuf) -> RefreshLock {
        RefreshLock { path, current: Mutex::default(), next: Mutex::default() }
    }

    /// Shares the current guard if it is young, else waits for the file.
    pub(super) fn take(&self, now: Mono) -> Result<Arc<RefreshLockGuard>> {
        // Whoever comes while another waits shares the guard that the other one gets.
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let young = |guard: &Arc<RefreshLockGuard>| now.since(guard.since) < JOIN_WITHIN;
        if let Some(guard) = self.current().upgrade().filter(young) {
            return Ok(guard);
        }
        let guard =
            Arc::new(RefreshLockGuard { locked: Mutex::new(file::lock(&self.path)?), since: now });
        *self.current() = Arc::downgrade(&guard);
        Ok(guard)
    }

    /// For a change that takes a moment: shares the current guard whatever its age, so that nobody
    /// who disables an account waits for another account's token endpoint.
    pub(super) fn join(&self, now: Mono) -> Result<Arc<RefreshLockGuard>> {
        let current = self.current().upgrade();
        current.map_or_else(|| self.take(now), Ok)
    }

    fn current(&self) -> MutexGuard<'_, Weak<RefreshLockGuard>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file can be read at all.
    pub(super) fn is_readable(&self) -> bool {
        file::load(&self.path).is_ok()
    }
}

impl RefreshLockGuard {
    /// What the file says now.
    pub(super) fn read(&self) -> Result<Config> {
        let mut locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        locked.reread()?;
        locked.config()
    }

    /// Changes the file, see [`Locked::commit`].
    pub(super) fn commit<T>(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T>,
    ) -> Result<T> {
        let mut locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        locked.commit(change)
    }
}

/// All accounts of a start or of a morning find their tokens expired in the same moment.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::mpsc;

    use super::*;
    use crate::testing::scratch::Scratch;

    #[test]
    fn a_change_shares_the_guard_of_a_slow_refresh_while_another_refresh_waits() {
        let home = Scratch::new();
        let path = home.path("maxpool.json");
        std::fs::write(&path, "{\"accounts\": []}").unwrap();
        let lock = Arc::new(RefreshLock::new(path));
        let slow = lock.take(Mono(0)).unwrap();
        let late = Mono(6_000);
        let (told, hears) = mpsc::channel();
        let waiting = std::thread::spawn({
            let lock = lock.clone();
            move || {
                told.send(()).unwrap();
                lock.take(late).map(|guard| guard.since)
            }
        });
        hears.recv().unwrap();
        let joined = lock.join(late).unwrap();
        assert!(Arc::ptr_eq(&slow, &joined), "at once, whoever waits");
        joined
            .commit(|document| {
                document.insert("zebra".to_owned(), Value::from(1));
                Ok(())
            })
            .unwrap();
        assert!(!waiting.is_finished(), "the next guard exists only after this one");
        drop((slow, joined));
        assert_eq!(waiting.join().unwrap().unwrap(), late);
    }
}
