//! Idle upstream connections, kept for the next call to the same place.
//!
//! The HTTP client's own pool stays empty. It searches all idle connections several times per call
//! (ureq 3.5.1) under one lock, under which it also asks the kernel about a connection, and it
//! returns the least recently used one. This pool returns the most recently used one, whose buffers
//! are still in the processor's caches, so that connections left over from a burst age and are
//! closed.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ureq::http::uri::Authority;

use crate::scheduler::time::Mono;

/// Idle connections kept for each place.
const PER_PLACE_MAX: usize = 128;
/// Below the 60 s after which common front ends close an idle connection.
pub(super) const AGE_MAX: Duration = Duration::from_secs(50);

/// All idle connections, by place.
pub(crate) struct Idle<T> {
    /// Places are never removed: there are only as many as the config has named.
    places: Mutex<Vec<Place<T>>>,
}

struct Place<T> {
    https: bool,
    authority: Authority,
    /// Each with the end of its last call, in that order.
    resting: VecDeque<(Mono, T)>,
}

/// Identifies a place in an [`Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaceId(usize);

impl<T> Idle<T> {
    pub(crate) fn new() -> Idle<T> {
        Idle { places: Mutex::default() }
    }

    /// The place for this scheme and authority.
    pub(crate) fn place(&self, https: bool, authority: &Authority) -> PlaceId {
        let mut places = self.lock();
        let known =
            places.iter().position(|place| place.https == https && place.authority == *authority);
        PlaceId(known.unwrap_or_else(|| {
            places.push(Place { https, authority: authority.clone(), resting: VecDeque::new() });
            places.len() - 1
        }))
    }

    /// Keeps a connection whose call has ended. Closes the oldest ones if this place has too many,
    /// and those of every place that are too old.
    pub(crate) fn put(&self, place: PlaceId, now: Mono, connection: T) {
        let mut ending = Vec::new();
        let mut places = self.lock();
        if let Some(place) = places.get_mut(place.0) {
            place.resting.push_back((now, connection));
            if place.resting.len() > PER_PLACE_MAX {
                ending.extend(place.resting.pop_front());
            }
        }
        for place in places.iter_mut() {
            while let Some((since, _)) = place.resting.front()
                && now.since(*since) >= AGE_MAX
            {
                ending.extend(place.resting.pop_front());
            }
        }
        // Closing them takes system calls, so the lock is released first.
        drop(places);
        drop(ending);
    }

    /// The most recently used connection, if that was less than `age_max` ago.
    pub(crate) fn take(&self, place: PlaceId, now: Mono, age_max: Duration) -> Option<T> {
        let mut places = self.lock();
        let place = places.get_mut(place.0)?;
        let (since, _) = place.resting.back()?;
        let age = now.since(*since);
        if age >= AGE_MAX {
            // All others are older still.
            let ending = mem::take(&mut place.resting);
            drop(places);
            drop(ending);
            return None;
        }
        if age >= age_max {
            return None;
        }
        place.resting.pop_back().map(|(_, connection)| connection)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place<T>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY_AGE: Duration = Duration::MAX;

    fn authority(text: &'static str) -> Authority {
        Authority::from_static(text)
    }

    fn second(second: u64) -> Mono {
        Mono(second * 1000)
    }

    #[test]
    fn the_newest_comes_first_and_only_from_its_own_place() {
        let idle = Idle::new();
        let a = idle.place(true, &authority("a.example"));
        let b = idle.place(true, &authority("b.example"));
        let plain = idle.place(false, &authority("a.example"));
        assert_eq!(idle.place(true, &authority("A.example")), a);
        assert!(a != b && a != plain && b != plain);
        for (place, name) in [(a, "a1"), (b, "b1"), (a, "a2"), (plain, "p1")] {
            idle.put(place, second(1), name);
        }
        let take = |place| idle.take(place, second(2), ANY_AGE);
        assert_eq!(take(a), Some("a2"));
        assert_eq!(take(a), Some("a1"));
        assert_eq!(take(a), None);
        assert_eq!(take(b), Some("b1"));
        assert_eq!(take(plain), Some("p1"));
    }

    #[test]
    fn old_ones_end_and_a_caller_may_want_a_younger_one() {
        let idle = Idle::new();
        let a = idle.place(true, &authority("a.example"));
        let b = idle.place(true, &authority("b.example"));
        idle.put(a, second(0), 1);
        assert_eq!(idle.take(a, second(1), Duration::ZERO), None);
        assert_eq!(idle.take(a, second(1), Duration::from_secs(1)), None);
        assert_eq!(idle.take(a, second(49), ANY_AGE), Some(1));
        idle.put(a, second(0), 2);
        assert_eq!(idle.take(a, second(50), ANY_AGE), None);
        assert!(idle.lock().iter().all(|place| place.resting.is_empty()));
        idle.put(a, second(60), 3);
        idle.put(a, second(70), 4);
        // A call to another place expires them too.
        idle.put(b, second(110), 5);
        assert_eq!(idle.lock()[0].resting, [(second(70), 4)]);
    }

    #[test]
    fn there_are_never_too_many() {
        let idle = Idle::new();
        let a = idle.place(true, &authority("a.example"));
        for number in 0..=PER_PLACE_MAX {
            idle.put(a, second(1), number);
        }
        let places = idle.lock();
        assert_eq!(places[0].resting.len(), PER_PLACE_MAX);
        assert_eq!(places[0].resting.front(), Some(&(second(1), 1)));
    }
}
