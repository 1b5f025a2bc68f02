//! The queue (SPEC Q2, Q3, Q6): the waiting requests in their order, and the places kept for those
//! that may return.
//!
//! It decides nothing about accounts. A place is a number; the order of the numbers is the order of
//! service.

use std::collections::{BTreeMap, VecDeque};

use super::policy::{Policy, RETURN_WITHIN, RETURNS_MAX};
use super::request::{AccountId, Request, SessionKey, Ticket, WaitClock};
use super::time::{Mono, Now};

/// All waiting requests.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiters: BTreeMap<Place, Waiter>,
    places: BTreeMap<Ticket, Place>,
    returns: VecDeque<Return>,
    /// The number of those not in suspense.
    in_line: usize,
    bytes: u64,
    last_ticket: u64,
    last_place: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

/// One waiting request.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) ticket: Ticket,
    pub(crate) request: Request,
    pub(crate) since: Now,
    pub(crate) clock: WaitClock,
    /// The accounts of the finished pass stay excluded until then.
    pub(crate) next_pass: Mono,
    /// When an account is expected back for it.
    pub(crate) release: Option<Mono>,
}

/// A place kept for a request that left because its client could wait no longer.
#[derive(Debug)]
struct Return {
    key: u128,
    session: Option<SessionKey>,
    place: Place,
    until: Mono,
}

/// Q3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Waiter {
    /// The accounts on which this request has just failed.
    pub(crate) fn tried(&self, now: Mono) -> &[AccountId] {
        match self.next_pass > now {
            true => &self.request.excluded,
            false => &[],
        }
    }
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// The number of requests that wait for an account, without those in suspense (SPEC S8): only
    /// they make other requests wait.
    pub(crate) fn in_line(&self) -> usize {
        self.in_line
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The waiting requests in the order of service.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values()
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.waiters.keys().copied()
    }

    pub(crate) fn get(&self, place: Place) -> Option<&Waiter> {
        self.waiters.get(&place)
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Waiter> {
        self.waiters.get_mut(&place)
    }

    /// Whether there is room for another request.
    pub(crate) fn room(&self, policy: &Policy, bytes: u64) -> Result<(), Full> {
        let fits = self.len() < policy.max_queued
            && self.bytes.saturating_add(bytes) <= policy.max_queued_bytes;
        if fits { Ok(()) } else { Err(Full) }
    }

    /// Adds a request at the end, or at the place that it left within the last minute (Q6).
    pub(crate) fn join(
        &mut self,
        now: Now,
        request: Request,
        clock: WaitClock,
        next_pass: Mono,
    ) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let place =
            request.resume.and_then(|key| self.take_return(now.mono, key)).unwrap_or_else(|| {
                self.last_place += 1;
                Place(self.last_place)
            });
        self.bytes = self.bytes.saturating_add(request.body_bytes);
        self.places.insert(ticket, place);
        self.in_line += usize::from(!request.trail.is_in_suspense());
        let waiter = Waiter { ticket, request, since: now, clock, next_pass, release: None };
        self.waiters.insert(place, waiter);
        ticket
    }

    pub(crate) fn leave(&mut self, place: Place) -> Option<Waiter> {
        let waiter = self.waiters.remove(&place)?;
        self.places.remove(&waiter.ticket);
        self.in_line -= usize::from(!waiter.request.trail.is_in_suspense());
        self.bytes = self.bytes.saturating_sub(waiter.request.body_bytes);
        Some(waiter)
    }

    pub(crate) fn place_of(&self, ticket: Ticket) -> Option<Place> {
        self.places.get(&ticket).copied()
    }

    /// Keeps the place of a request that has left, in case it returns.
    pub(crate) fn expect_back(&mut self, now: Mono, place: Place, request: &Request) {
        let Some(key) = request.resume else { return };
        self.forget_returns(now);
        if self.returns.len() >= RETURNS_MAX {
            self.returns.pop_front();
        }
        self.returns.push_back(Return {
            key,
            session: request.session,
            place,
            until: now + RETURN_WITHIN,
        });
    }

    /// Whether a request of this session was held within the last minute for as long as its client
    /// could wait.
    pub(crate) fn was_held(&self, now: Mono, session: SessionKey) -> bool {
        let mut lately = self.returns.iter().filter(|one| one.until > now);
        lately.any(|one| one.session == Some(session))
    }

    fn take_return(&mut self, now: Mono, key: u128) -> Option<Place> {
        self.forget_returns(now);
        let index = self.returns.iter().position(|one| one.key == key)?;
        self.returns.remove(index).map(|one| one.place)
    }

    fn forget_returns(&mut self, now: Mono) {
        while self.returns.front().is_some_and(|one| one.until <= now) {
            self.returns.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn join(queue: &mut Queue, at: u64, resume: Option<u128>) -> Ticket {
        let now = Now { mono: Mono(at), ..Now::default() };
        let request = Request { resume, body_bytes: 10, ..Request::new(at, Mono(at)) };
        queue.join(now, request, WaitClock::default(), Mono(at))
    }

    fn order(queue: &Queue) -> Vec<Ticket> {
        queue.iter().map(|waiter| waiter.ticket).collect()
    }

    fn leaves(queue: &mut Queue, at: u64, ticket: Ticket) {
        let place = queue.place_of(ticket).unwrap();
        let waiter = queue.leave(place).unwrap();
        queue.expect_back(Mono(at), place, &waiter.request);
    }

    #[test]
    fn an_old_place_waits_a_minute() {
        let mut queue = Queue::default();
        let first = join(&mut queue, 0, Some(7));
        let second = join(&mut queue, 1, None);
        leaves(&mut queue, 1_000, first);
        let stranger = join(&mut queue, 2_000, Some(8));
        let back = join(&mut queue, 60_999, Some(7));
        assert_eq!(order(&queue), [back, second, stranger], "Q6");
        leaves(&mut queue, 61_000, back);
        let late = join(&mut queue, 121_000, Some(7));
        assert_eq!(order(&queue), [second, stranger, late], "Q6: within 60 s");
    }

    #[test]
    fn twins_come_back_to_two_places() {
        let mut queue = Queue::default();
        let twins = [join(&mut queue, 0, Some(7)), join(&mut queue, 1, Some(7))];
        let third = join(&mut queue, 2, None);
        for twin in twins {
            leaves(&mut queue, 3, twin);
        }
        let back = [
            join(&mut queue, 4, Some(7)),
            join(&mut queue, 5, Some(7)),
            join(&mut queue, 6, Some(7)),
        ];
        assert_eq!(order(&queue), [back[0], back[1], third, back[2]]);
    }

    #[test]
    fn bounds_are_kept() {
        let policy = Policy { max_queued: 3, max_queued_bytes: 25, ..Policy::default() };
        let mut queue = Queue::default();
        join(&mut queue, 0, None);
        assert_eq!(queue.room(&policy, 15), Ok(()), "Q3");
        assert_eq!(queue.room(&policy, 16), Err(Full), "Q3: bytes");
        let second = join(&mut queue, 1, None);
        join(&mut queue, 2, None);
        assert_eq!(queue.room(&policy, 0), Err(Full), "Q3: number");
        let place = queue.place_of(second).unwrap();
        assert!(queue.leave(place).is_some());
        assert_eq!((queue.len(), queue.bytes()), (2, 20));
    }
}
