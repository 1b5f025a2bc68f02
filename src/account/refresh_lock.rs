//! The config file's lock, shared by the refreshes of this process (SPEC A5, R2).
//!
//! A refresh holds the lock while the token endpoint answers, so that no other process sends the
//! same token meanwhile. Within a process that would make the refreshes queue up behind the
//! slowest, so those that begin shortly after one another hold it together. Later ones wait for the
//! next turn, and other processes get theirs in between.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::Config;
use crate::config::file::{self, Locked};
use crate::error::Result;
use crate::scheduler::time::Mono;

/// Where holders of the lock meet.
pub(super) struct Shelf {
    path: PathBuf,
    /// Held for moments only.
    turn: Mutex<Weak<Turn>>,
    /// Held while waiting for the file's lock.
    next: Mutex<()>,
}

/// One holding of the lock; it is given back with the last reference.
pub(super) struct Turn {
    since: Mono,
    locked: Mutex<Locked>,
}

impl Shelf {
    /// For the config at this path.
    pub(super) fn new(path: PathBuf) -> Shelf {
        Shelf {
            path,
            turn: Mutex::default(),
            next: Mutex::default(),
        }
    }

    /// Joins the present turn if it is young, else waits for a new one.
    pub(super) fn take(&self, now: Mono) -> Result<Arc<Turn>> {
        // Who comes while another waits joins the turn that begins then.
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let young = |turn: &Arc<Turn>| now.since(turn.since) < JOIN_WITHIN;
        if let Some(turn) = self.present().upgrade().filter(young) {
            return Ok(turn);
        }
        let turn = Arc::new(Turn {
            locked: Mutex::new(file::lock(&self.path)?),
            since: now,
        });
        *self.present() = Arc::downgrade(&turn);
        Ok(turn)
    }

    /// For a change that is made in a moment: joins the present turn whatever its age, so that
    /// nobody who switches an account off waits for another account's token endpoint.
    pub(super) fn join(&self, now: Mono) -> Result<Arc<Turn>> {
        let present = self.present().upgrade();
        present.map_or_else(|| self.take(now), Ok)
    }

    fn present(&self) -> MutexGuard<'_, Weak<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file can be read at all.
    pub(super) fn is_readable(&self) -> bool {
        file::load(&self.path).is_ok()
    }
}

impl Turn {
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
    fn a_change_joins_the_turn_of_a_slow_refresh_while_another_refresh_waits_for_the_next() {
        let home = Scratch::new();
        let path = home.path("maxpool.json");
        std::fs::write(&path, "{\"accounts\": []}").unwrap();
        let shelf = Arc::new(Shelf::new(path));
        let slow = shelf.take(Mono(0)).unwrap();
        let late = Mono(6_000);
        let (told, hears) = mpsc::channel();
        let waiting = std::thread::spawn({
            let shelf = shelf.clone();
            move || {
                told.send(()).unwrap();
                shelf.take(late).map(|turn| turn.since)
            }
        });
        hears.recv().unwrap();
        let joined = shelf.join(late).unwrap();
        assert!(Arc::ptr_eq(&slow, &joined), "at once, whoever waits");
        joined
            .commit(|document| {
                document.insert("zebra".to_owned(), Value::from(1));
                Ok(())
            })
            .unwrap();
        assert!(
            !waiting.is_finished(),
            "the next turn is not before the end of this one"
        );
        drop((slow, joined));
        assert_eq!(waiting.join().unwrap().unwrap(), late);
    }
}
