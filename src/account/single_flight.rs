//! Single flight: one piece of work, such as a token refresh, that several callers wait for.
//!
//! A caller either blocks for a bounded time, or registers a waker and keeps watching its client.
//! The flight ends when its [`SingleFlightGuard`] is dropped, so a panic ends it too and nobody
//! waits for ever.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Stopwatch;

type Waker = Box<dyn FnOnce() + Send>;

/// The waiting side. It carries no result: ask the account again once the flight has ended.
#[derive(Clone)]
pub(crate) struct SingleFlight(Arc<Shared>);

/// Owned by the caller that does the work; dropping it ends the flight.
pub(crate) struct SingleFlightGuard(Arc<Shared>);

struct Shared {
    /// The wakers to call at the end; `None` after the end.
    waiting: Mutex<Option<Vec<Waker>>>,
    ended: Condvar,
    begun: Stopwatch,
}

/// Starts a flight: the guard for the caller that does the work, the other half for those that
/// wait.
pub(crate) fn begin() -> (SingleFlightGuard, SingleFlight) {
    let shared = Arc::new(Shared {
        waiting: Mutex::new(Some(Vec::new())),
        ended: Condvar::new(),
        begun: Stopwatch::start(),
    });
    (SingleFlightGuard(shared.clone()), SingleFlight(shared))
}

impl SingleFlight {
    /// Blocks until the end, at most for `limit`. Returns true if it has ended.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.0.ended.wait_timeout_while(waiting, limit, |waiting| waiting.is_some());
        let (waiting, _) = wait.unwrap_or_else(PoisonError::into_inner);
        waiting.is_none()
    }

    /// Calls `wake` once, from any thread: at the end, or now if it has ended already. It must not
    /// block.
    pub(crate) fn on_end(&self, wake: Waker) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.as_mut() {
            Some(wakers) => wakers.push(wake),
            None => {
                drop(waiting);
                wake();
            }
        }
    }

    /// What is left of `limit`, counted from its beginning.
    pub(super) fn left_of(&self, limit: Duration) -> Option<Duration> {
        self.0.begun.left_of(limit)
    }

    /// True once it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl std::fmt::Debug for SingleFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.has_ended() { "SingleFlight(ended)" } else { "SingleFlight" })
    }
}

impl Drop for SingleFlightGuard {
    fn drop(&mut self) {
        let wakers = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.ended.notify_all();
        for wake in wakers.into_iter().flatten() {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::mpsc;

    use super::*;

    #[test]
    fn everyone_hears_of_the_end_whenever_they_ask() {
        let (guard, flight) = begin();
        let (told, hears) = mpsc::channel();
        let waker = |told: &mpsc::Sender<u8>, n| {
            let told = told.clone();
            Box::new(move || told.send(n).unwrap())
        };
        flight.on_end(waker(&told, 1));
        assert!(!flight.has_ended() && !flight.wait(Duration::ZERO));
        let blocked = std::thread::spawn({
            let flight = flight.clone();
            move || flight.wait(Duration::from_secs(30))
        });
        drop(guard);
        assert!(blocked.join().unwrap() && flight.has_ended());
        flight.on_end(waker(&told, 2));
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_panic_of_the_one_at_work_ends_the_flight() {
        let (guard, flight) = begin();
        let work = std::thread::spawn(move || {
            let _guard = guard;
            std::panic::resume_unwind(Box::new("lost"));
        });
        assert!(work.join().is_err() && flight.wait(Duration::from_secs(30)));
    }
}
