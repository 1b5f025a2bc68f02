//! The config file's lock, shared by the refreshes of this process (SPEC A5, R2).
//!
//! A refresh holds the lock while the token endpoint answers, so that no other process sends the same token meanwhile. Within
//! a process that would make the refreshes queue up behind the slowest, so those that begin shortly after one another hold it
//! together. Later ones wait for the next turn, and other processes get theirs in between.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::Config;
use crate::config::file::{self, Locked};
use crate::error::Result;
use crate::scheduler::time::Mono;

/// Where holders of the lock meet.
pub(super) struct Shelf {
    path: PathBuf,
    turn: Mutex<Weak<Turn>>,
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
        }
    }

    /// Joins the present turn if it is young, else waits for a new one.
    pub(super) fn take(&self, now: Mono) -> Result<Arc<Turn>> {
        // Held while waiting for the file's lock: who comes meanwhile joins the turn that begins then.
        let mut present = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = present
            .upgrade()
            .filter(|turn| now.since(turn.since) < JOIN_WITHIN)
        {
            return Ok(turn);
        }
        let turn = Arc::new(Turn {
            locked: Mutex::new(file::lock(&self.path)?),
            since: now,
        });
        *present = Arc::downgrade(&turn);
        Ok(turn)
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
    pub(super) fn commit(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<()>,
    ) -> Result<()> {
        let mut locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        locked.commit(change)
    }
}

/// All accounts of a start or of a morning find their tokens expired in the same moment.
const JOIN_WITHIN: Duration = Duration::from_secs(5);
