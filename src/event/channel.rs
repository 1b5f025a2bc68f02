//! A bounded channel from many threads to one: sending never blocks, every wait of the receiver ends.
//!
//! That of the standard library cannot be closed while senders are left, wakes a sleeping receiver for every item, and brings the code of
//! all its kinds for each type that is sent.

use std::collections::VecDeque;
use std::iter;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a receiver without a limit sleeps at once.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);

/// The end that sends. The channel is closed when all of them are gone, or when one closes it.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The end that receives.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// The time is over; something may still come.
    Yet,
    /// The channel is closed, and what was in it has been received.
    Ever,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something has come, or the channel is closed.
    filled: Condvar,
    /// The channel is closed; apart from the other, so that a receiver can sleep while the channel fills.
    closed: Condvar,
    most: usize,
}

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    is_closed: bool,
    /// The receiver is asleep until something comes.
    is_awaited: bool,
}

/// A channel that holds at most `most`.
pub(crate) fn bounded<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            senders: 1,
            is_closed: false,
            is_awaited: false,
        }),
        filled: Condvar::new(),
        closed: Condvar::new(),
        most,
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, mut state: MutexGuard<'_, State<T>>) {
        state.is_closed = true;
        drop(state);
        self.filled.notify_all();
        self.closed.notify_all();
    }
}

impl<T> Sender<T> {
    /// Passes `item` on; gives it back when the channel is full or closed.
    pub(crate) fn try_send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if state.is_closed || state.items.len() >= self.0.most {
            return Err(item);
        }
        state.items.push_back(item);
        // A call for nobody would still be a system call for some.
        let wakes = std::mem::take(&mut state.is_awaited);
        drop(state);
        if wakes {
            self.0.filled.notify_one();
        }
        Ok(())
    }

    /// Nothing more can be sent; what was sent is still received.
    pub(crate) fn close(&self) {
        self.0.close(self.0.lock());
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.lock().senders += 1;
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.0.close(state);
        }
    }
}

impl<T> Receiver<T> {
    /// The next item, waiting at most `limit` for it.
    pub(crate) fn recv_timeout(&self, limit: Duration) -> Result<T, Nothing> {
        let (mut state, _) = self
            .0
            .filled
            .wait_timeout_while(self.0.lock(), limit, |state| {
                state.is_awaited = state.items.is_empty() && !state.is_closed;
                state.is_awaited
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.is_awaited = false;
        match state.items.pop_front() {
            Some(item) => Ok(item),
            None if state.is_closed => Err(Nothing::Ever),
            None => Err(Nothing::Yet),
        }
    }

    /// The next item; nothing once the channel is closed and empty.
    pub(crate) fn recv(&self) -> Option<T> {
        loop {
            match self.recv_timeout(LOOK_AGAIN) {
                Ok(item) => return Some(item),
                Err(Nothing::Yet) => {}
                Err(Nothing::Ever) => return None,
            }
        }
    }

    /// The next item that is there.
    fn try_recv(&self) -> Option<T> {
        self.0.lock().items.pop_front()
    }

    /// All that is there.
    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
        iter::from_fn(|| self.try_recv())
    }

    /// Waits until the channel is closed, at most for `limit`; says whether it is.
    pub(crate) fn closes_within(&self, limit: Duration) -> bool {
        let (state, _) = self
            .0
            .closed
            .wait_timeout_while(self.0.lock(), limit, |state| !state.is_closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.is_closed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_full_channel_gives_back_and_a_closed_one_is_emptied_first() {
        let (sender, receiver) = bounded(2);
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(Nothing::Yet));
        let sent: Vec<_> = (1..=3).map(|n| sender.try_send(n)).collect();
        assert_eq!(sent, [Ok(()), Ok(()), Err(3)]);
        assert!(!receiver.closes_within(Duration::ZERO));
        sender.close();
        assert!(receiver.closes_within(Duration::ZERO));
        assert_eq!(sender.try_send(4), Err(4));
        assert_eq!(receiver.recv_timeout(LONG), Ok(1));
        assert_eq!((receiver.try_recv(), receiver.try_recv()), (Some(2), None));
        assert_eq!(receiver.recv_timeout(LONG), Err(Nothing::Ever));
    }

    #[test]
    fn the_last_sender_closes() {
        let (sender, receiver) = bounded::<u8>(1);
        let other = sender.clone();
        drop(sender);
        assert!(!receiver.closes_within(Duration::ZERO));
        drop(other);
        assert!(receiver.closes_within(LONG));
        assert_eq!(receiver.recv(), None);
    }

    #[test]
    fn a_sleeping_receiver_hears_of_every_item_and_of_the_end() {
        let (sender, receiver) = bounded(3);
        let listener = thread::spawn(move || iter::from_fn(|| receiver.recv()).sum::<u64>());
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for n in 1..=1_000 {
                        while sender.try_send(n).is_err() {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        senders
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(listener.join().unwrap(), 4 * 500_500);
    }
}
