//! The gate before the scheduler: the only place that locks it.
//!
//! The scheduler is plain data behind one mutex. A decision takes microseconds and a request takes
//! seconds, so the lock is nearly always free. Finer locks, or a thread for the scheduler, would
//! only add orders of events that nobody has considered. One lock is enough because nothing slow
//! happens under it, and because no verdict can be missed:
//!
//! - [`Gate::with`] is the only way in. It takes the lock, runs one call of the scheduler, drains
//!   `poll` until it is dry, computes the next deadline and releases the lock. Only then does it
//!   put verdicts into the slots of the waiting requests.
//! - Under the lock: no I/O, no event, no formatting, no other lock. A slot's lock is taken after
//!   the scheduler's has been released, and a waiter never holds its slot's lock while it calls the
//!   gate.
//! - Each ticket has one slot, made under the same lock as the ticket, so a verdict always finds
//!   its slot.
//! - The pacer checks again before it sleeps: it reads its deadline under the mutex under which a
//!   new deadline is announced, so an earlier deadline always wakes it.
//! - A lease travels in a [`LeaseGuard`]. Dropping the guard completes the lease as abandoned, so
//!   an early return or a panic gives the account's slot back.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::clock;
use crate::platform::Bell;
use crate::scheduler::time::{Mono, Now};
use crate::scheduler::{
    AccountId, Admission, Aftermath, Cancel, Grant, HeadReport, Lease, Outcome, Refusal, Request,
    Scheduler, Ticket, Wake,
};

/// The pacer's stack: it calls the scheduler and nothing else.
const STACK_BYTES: usize = 256 * 1024;
/// If the two clocks disagree by this much since the last check, the wall clock was set or the
/// machine slept.
const CLOCK_STEP_MIN: Duration = Duration::from_secs(2);
/// How often the clocks are compared while nothing else is due.
const CLOCK_LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a waiting request is told in the end.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Go on with this account.
    Granted(LeaseGuard, Granted),
    /// A wait limit has been reached.
    Expired(crate::scheduler::Limit, Refusal),
    /// No account will come back in time.
    Refused(Refusal),
}

/// A grant without its lease.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) account: AccountId,
    pub(crate) name: Arc<str>,
    pub(crate) kind: crate::scheduler::Kind,
    /// For [`Request::clock`].
    pub(crate) clock: crate::scheduler::WaitClock,
    /// For [`Request::trail`].
    pub(crate) trail: crate::scheduler::Trail,
}

/// The answer to [`Gate::admit`].
#[derive(Debug)]
pub(crate) enum Admitted {
    /// Go on.
    Granted(LeaseGuard, Granted),
    /// Wait for the verdict.
    Queued(Waiting),
    /// Answer the client.
    Refused(Refusal),
}

/// Called after the wall clock was set or the machine has slept.
type OnStep = dyn Fn() + Send + Sync;

struct Inner {
    scheduler: Scheduler,
    slots: HashMap<Ticket, Arc<Slot>>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// When the pacer wakes next; [`Mono::MAX`] if nothing is due.
    due: Mutex<Due>,
    earlier: Condvar,
}

struct Due {
    at: Mono,
    stop: bool,
}

/// The scheduler behind its lock.
#[derive(Clone)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

/// Where one ticket's verdict is put. The bell is added after the ticket is made, so that no
/// descriptor is opened under the lock.
#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
    delivered: Condvar,
}

#[derive(Default)]
struct SlotState {
    verdict: Option<Wake>,
    bell: Option<Arc<Bell>>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, wake: Wake) {
        let mut state = self.lock();
        state.verdict = Some(wake);
        if let Some(bell) = &state.bell {
            bell.ring();
        }
        self.delivered.notify_all();
    }

    /// Adds the bell, and rings it at once if the verdict is already there.
    fn hang(&self, bell: &Arc<Bell>) {
        let mut state = self.lock();
        if state.verdict.is_some() {
            bell.ring();
        }
        state.bell = Some(Arc::clone(bell));
    }

    /// Waits for a verdict that another thread is delivering right now.
    fn wait(&self) -> Wake {
        let mut state = self.lock();
        loop {
            match state.verdict.take() {
                Some(wake) => return wake,
                None => state = self.delivered.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A lease that cannot leak: dropped without [`LeaseGuard::complete`], it counts as abandoned.
#[derive(Debug)]
pub(crate) struct LeaseGuard {
    gate: Gate,
    lease: Option<Lease>,
}

/// A place in the queue. Dropping it gives the place up.
pub(crate) struct Waiting {
    gate: Gate,
    ticket: Ticket,
    slot: Arc<Slot>,
    bell: Arc<Bell>,
    over: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waiting({:?})", self.ticket)
    }
}

impl Gate {
    /// Puts `scheduler` behind the lock and starts the pacer. `on_step` runs, outside the lock,
    /// after the wall clock was set or the machine has slept.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(
        scheduler: Scheduler,
        on_step: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Gate> {
        let inner = Inner { scheduler, slots: HashMap::new() };
        let due = Due { at: Mono::MAX, stop: false };
        let shared =
            Shared { inner: Mutex::new(inner), due: Mutex::new(due), earlier: Condvar::new() };
        let gate = Gate { shared: Arc::new(shared) };
        let pacer = gate.clone();
        let on_step: Box<OnStep> = Box::new(on_step);
        thread::Builder::new()
            .name("pacer".into())
            .stack_size(STACK_BYTES)
            .spawn(move || pacer.pace(&*on_step))?;
        Ok(gate)
    }

    /// Runs one call of the scheduler under its lock and delivers every verdict that follows from
    /// it.
    pub(crate) fn with<T>(&self, call: impl FnOnce(&mut Scheduler, Now) -> T) -> T {
        let mut inner = self.lock();
        let now = clock::now();
        let result = call(&mut inner.scheduler, now);
        self.settle(inner, now);
        result
    }

    /// Reads the scheduler. Nothing changes, so no verdict can follow.
    pub(crate) fn look<T>(&self, call: impl FnOnce(&Scheduler, Now) -> T) -> T {
        let inner = self.lock();
        call(&inner.scheduler, clock::now())
    }

    pub(crate) fn admit(&self, request: Request) -> Admitted {
        let mut inner = self.lock();
        let now = clock::now();
        let admission = inner.scheduler.admit(now, request);
        let slot = match &admission {
            Admission::Queued(ticket) => {
                let slot = Arc::<Slot>::default();
                inner.slots.insert(*ticket, Arc::clone(&slot));
                slot
            }
            Admission::Granted(_) | Admission::Refused(_) => Arc::default(),
        };
        self.settle(inner, now);
        match admission {
            Admission::Granted(grant) => {
                let (guard, granted) = self.guard(grant);
                Admitted::Granted(guard, granted)
            }
            Admission::Refused(refusal) => Admitted::Refused(refusal),
            Admission::Queued(ticket) => match Bell::new() {
                Ok(bell) => {
                    let bell = Arc::new(bell);
                    slot.hang(&bell);
                    let gate = self.clone();
                    Admitted::Queued(Waiting { gate, ticket, slot, bell, over: false })
                }
                // Without a descriptor the request cannot be woken, so it must not wait.
                Err(_) => self.unqueue(ticket, &slot),
            },
        }
    }

    fn unqueue(&self, ticket: Ticket, slot: &Slot) -> Admitted {
        let refused = Refusal {
            reason: crate::scheduler::RefusalReason::QueueFull,
            wait: None,
            cause: None,
            accounts: Vec::new(),
        };
        let wake = match self.cancel(ticket) {
            Cancel::Cancelled | Cancel::AlreadyRefused(_) => return Admitted::Refused(refused),
            Cancel::AlreadyGranted(grant) => Wake::Granted { ticket, grant },
            Cancel::AlreadyPolled => slot.wait(),
        };
        match wake {
            Wake::Granted { grant, .. } => {
                let (guard, granted) = self.guard(grant);
                Admitted::Granted(guard, granted)
            }
            Wake::Expired { refusal, .. } | Wake::Refused { refusal, .. } => {
                Admitted::Refused(refusal)
            }
        }
    }

    fn cancel(&self, ticket: Ticket) -> Cancel {
        let mut inner = self.lock();
        let now = clock::now();
        inner.slots.remove(&ticket);
        let cancelled = inner.scheduler.cancel(now, ticket);
        self.settle(inner, now);
        cancelled
    }

    fn guard(&self, grant: Grant) -> (LeaseGuard, Granted) {
        let Grant { lease, account, name, kind, clock, trail, .. } = grant;
        (
            LeaseGuard { gate: self.clone(), lease: Some(lease) },
            Granted { account, name, kind, clock, trail },
        )
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drains the verdicts, announces the next deadline, releases the lock and delivers.
    fn settle(&self, mut inner: MutexGuard<'_, Inner>, now: Now) {
        let mut deliveries = Vec::new();
        while let Some(wake) = inner.scheduler.poll(now) {
            if let Some(slot) = inner.slots.remove(&wake.ticket()) {
                deliveries.push((slot, wake));
            }
        }
        let next = inner.scheduler.next_wakeup(now);
        drop(inner);
        if let Some(next) = next {
            self.announce(next);
        }
        for (slot, wake) in deliveries {
            slot.deliver(wake);
        }
    }

    /// Wakes the pacer if the next deadline is now earlier.
    fn announce(&self, next: Mono) {
        let mut due = self.shared.due.lock().unwrap_or_else(PoisonError::into_inner);
        if next < due.at {
            due.at = next;
            self.shared.earlier.notify_one();
        }
    }

    /// The pacer's loop: sleeps until the earliest deadline, and compares the clocks regularly.
    fn pace(&self, on_step: &OnStep) {
        let mut last = clock::now();
        loop {
            {
                let mut due = self.shared.due.lock().unwrap_or_else(PoisonError::into_inner);
                if due.stop {
                    return;
                }
                let now = clock::now().mono;
                if due.at > now {
                    let sleep = due.at.since(now).min(CLOCK_LOOK_EVERY);
                    let (woken, _) = self
                        .shared
                        .earlier
                        .wait_timeout(due, sleep)
                        .unwrap_or_else(PoisonError::into_inner);
                    due = woken;
                }
                if due.stop {
                    return;
                }
                if due.at <= clock::now().mono {
                    // Consumed: the call below announces the next deadline.
                    due.at = Mono::MAX;
                } else if clock::now().mono.since(last.mono) < CLOCK_LOOK_EVERY {
                    continue;
                }
            }
            let now = clock::now();
            if stepped(last, now) {
                self.with(|scheduler, now| scheduler.clock_stepped(now));
                on_step();
            }
            last = now;
            self.with(|_, _| ());
        }
    }

    /// Ends the pacer, at the end of the program only: deadlines wake nobody after that.
    pub(crate) fn stop(&self) {
        self.shared.due.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.earlier.notify_all();
    }
}

/// Whether the two clocks moved differently between two readings.
fn stepped(before: Now, after: Now) -> bool {
    let mono = i64::try_from(after.mono.since(before.mono).as_millis()).unwrap_or(i64::MAX);
    let wall = after.wall.0.saturating_sub(before.wall.0);
    u128::from(wall.abs_diff(mono)) >= CLOCK_STEP_MIN.as_millis()
}

impl LeaseGuard {
    /// Reports the head of an answer.
    pub(crate) fn observe(&self, head: HeadReport<'_>) {
        if let Some(lease) = &self.lease {
            self.gate.with(|scheduler, now| scheduler.observe(now, lease, &head));
        }
    }

    /// Completes the lease. The result is for the request's trail, if the request continues.
    pub(crate) fn complete(mut self, outcome: Outcome) -> Aftermath {
        self.end(outcome, |_, _| ())
    }

    /// The same, together with another change: waiting requests see both or neither.
    pub(crate) fn complete_with(
        mut self,
        outcome: Outcome,
        change: impl FnOnce(&mut Scheduler, Now),
    ) -> Aftermath {
        self.end(outcome, change)
    }

    fn end(&mut self, outcome: Outcome, change: impl FnOnce(&mut Scheduler, Now)) -> Aftermath {
        let Some(lease) = self.lease.take() else {
            return Aftermath::default();
        };
        self.gate.with(|scheduler, now| {
            let after = scheduler.complete(now, lease, outcome);
            change(scheduler, now);
            after
        })
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned, |_, _| ());
    }
}

impl Waiting {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Readable once there is a verdict.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The verdict, if there is one.
    pub(crate) fn verdict(&mut self) -> Option<Verdict> {
        let wake = self.slot.lock().verdict.take()?;
        self.over = true;
        Some(match wake {
            Wake::Granted { grant, .. } => {
                let (guard, granted) = self.gate.guard(grant);
                Verdict::Granted(guard, granted)
            }
            Wake::Expired { limit, refusal, .. } => Verdict::Expired(limit, refusal),
            Wake::Refused { refusal, .. } => Verdict::Refused(refusal),
        })
    }
}

impl Drop for Waiting {
    /// The client has left: the next request gets the place, and a grant already made is handed
    /// back.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let cancelled = self.gate.cancel(self.ticket);
        match cancelled {
            Cancel::Cancelled | Cancel::AlreadyRefused(_) => {}
            Cancel::AlreadyGranted(grant) => drop(self.gate.guard(grant)),
            // Another thread has polled the verdict: it is in the slot, or is about to be, and may
            // hold an account.
            Cancel::AlreadyPolled => {
                if let Wake::Granted { grant, .. } = self.slot.wait() {
                    drop(self.gate.guard(grant));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::time::Wall;

    #[test]
    fn a_step_of_the_wall_clock_is_told_from_time_passing() {
        let at = |mono: u64, wall: i64| Now { mono: Mono(mono), wall: Wall(wall) };
        assert!(!stepped(at(0, 1_000), at(60_000, 61_000)));
        assert!(!stepped(at(0, 1_000), at(1_000, 3_500)));
        assert!(stepped(at(0, 0), at(1_000, 3_600_000)));
        assert!(stepped(at(0, 3_600_000), at(1_000, 0)));
    }
}
