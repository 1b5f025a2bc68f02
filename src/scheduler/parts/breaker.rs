//! The shared breaker (SPEC P8): when the API itself is in trouble, one request probes for all.
//!
//! ```text
//!            the same refusal everywhere                  time is up              granted
//!   Closed ───────────────────────────▶ Paused ─ ─ ─ ─ ─ ─ ─ ─ ─ ─▶ (ready) ─────────────▶ Probing
//!     ▲  ▲                                ▲  ▲                                            │ │ │
//!     │  └─ five seconds ── Pacing ◀──────┼──┼── any answer but 408, 429, 5xx ────────────┘ │ │
//!     │                                   │  └── abandoned: handed back, ready at once ─────┘ │
//!     └── the fourth failure in a row ────┴───── failed: 5, 10, 20 s ─────────────────────────┘
//! ```
//!
//! Each model family has its own breaker, because the API may be short of one kind of model and not
//! of another.
//!
//! It knows nothing about the accounts' blocks: the caller decides whether a refusal is the same
//! everywhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::block::Evidence;
use super::id::AccountId;
use super::policy::{
    BREAKER_PACING, BREAKER_PROBES_MAX, BREAKER_REARM, BREAKER_REST, BREAKERS_MAX, REFUSAL_MEMORY,
    REFUSALS_MAX, STEP,
};
use super::quota::Family;
use super::snapshot::BreakerSnapshot;
use super::suspicion::Fingerprint;
use super::time::{Mono, Now, Wall};

/// The breakers of all Claude accounts, one per family.
#[derive(Debug, Default)]
pub(crate) struct Breakers {
    /// The most recently used one is last.
    list: Vec<(Option<Family>, Breaker)>,
}

impl Breakers {
    pub(crate) fn get(&self, family: Option<&Family>) -> Option<&Breaker> {
        self.list.iter().find(|(own, _)| own.as_ref() == family).map(|(_, breaker)| breaker)
    }

    pub(crate) fn pass(&self, now: Mono, family: Option<&Family>) -> Pass {
        self.get(family).map_or(Pass::Free, |breaker| breaker.pass(now))
    }

    /// The pause is over, and the next request probes.
    pub(crate) fn awaits_probe(&self, now: Mono, family: Option<&Family>) -> bool {
        self.get(family).is_some_and(
            |breaker| matches!(breaker.state, State::Paused { until, .. } if until <= now),
        )
    }

    /// The family's breaker, if it has one: most families never meet a refusal.
    pub(crate) fn get_mut(&mut self, family: Option<&Family>) -> Option<&mut Breaker> {
        let found = self.list.iter_mut().find(|(own, _)| own.as_ref() == family);
        found.map(|(_, breaker)| breaker)
    }

    /// The family's breaker, created if necessary.
    pub(crate) fn of(&mut self, family: Option<&Family>) -> &mut Breaker {
        let index = match self.list.iter().position(|(own, _)| own.as_ref() == family) {
            Some(index) => index,
            None => {
                if self.list.len() >= BREAKERS_MAX {
                    let closed = self.list.iter().position(|(_, one)| one.state == State::Closed);
                    self.list.remove(closed.unwrap_or(0));
                }
                self.list.push((family.cloned(), Breaker::default()));
                self.list.len() - 1
            }
        };
        &mut self.list[index].1
    }

    /// Ends the pauses, so that the next request probes.
    pub(crate) fn end_pauses(&mut self, now: Mono) {
        for (_, breaker) in &mut self.list {
            if let State::Paused { until, .. } = &mut breaker.state {
                *until = now.min(*until);
            }
        }
    }

    /// The breaker with the longest pause, else the one that tripped last; the count covers all of
    /// them.
    pub(crate) fn snapshot(&self, now: Now) -> BreakerSnapshot {
        let all = self.list.iter().map(|(family, breaker)| BreakerSnapshot {
            family: family.clone(),
            ..breaker.snapshot(now)
        });
        let count = self.list.iter().map(|(_, breaker)| breaker.count).sum();
        let worst = all.max_by_key(|one| (one.active, one.until, one.last_at));
        BreakerSnapshot { count, ..worst.unwrap_or_default() }
    }
}

/// The breaker of one family.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: State,
    refusals: VecDeque<Seen>,
    /// The number of refusals ever seen; only the last ones are kept.
    refused: u64,
    answered: Answered,
    /// After it has given up probing: it does not trip before this.
    rests_until: Option<Mono>,
    count: u64,
    last_at: Option<Wall>,
    /// The refusal that last tripped it.
    evidence: Option<Arc<Evidence>>,
    /// When a probe was answered.
    closed_at: Option<Mono>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Paused {
        until: Mono,
        failures: u32,
    },
    Probing {
        lease: u64,
        failures: u32,
    },
    /// The probe was answered. Its lease may still turn out to have failed.
    Pacing {
        until: Mono,
        next: Mono,
        lease: u64,
        failures: u32,
    },
}

/// The last good head: earlier refusals no longer count. A good head may be followed by an error as
/// its first event (SPEC P6); then they count again.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    lease: u64,
    /// Number of refusals before it.
    refused: u64,
    /// The same for the previous good head.
    before: u64,
}

/// A server-side refusal that the breaker remembers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Mono,
    pub(crate) account: AccountId,
    pub(crate) fingerprint: Fingerprint,
    /// The end of the pause that the upstream asked for.
    pub(crate) asked: Option<Mono>,
}

/// Whether the breaker lets another request to a Claude account pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Free,
    Open(Mono),
    Probing,
    Paced(Mono),
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Answered,
    Failed,
    /// It did not reach the upstream, or its client left.
    Returned,
}

impl Breaker {
    pub(crate) fn pass(&self, now: Mono) -> Pass {
        match self.state {
            State::Closed => Pass::Free,
            State::Paused { until, .. } if until > now => Pass::Open(until),
            State::Paused { .. } => Pass::Free,
            State::Probing { .. } => Pass::Probing,
            State::Pacing { until, next, .. } if until > now && next > now => Pass::Paced(next),
            State::Pacing { .. } => Pass::Free,
        }
    }

    /// A request goes to a Claude account after [`Breaker::pass`] allowed it.
    pub(crate) fn grant(&mut self, now: Mono, lease: u64) {
        self.state = match self.state {
            State::Paused { failures, .. } => State::Probing { lease, failures },
            State::Pacing { until, lease, failures, .. } if until > now => {
                State::Pacing { until, next: now + STEP, lease, failures }
            }
            State::Pacing { .. } | State::Closed => State::Closed,
            State::Probing { lease, failures } => State::Probing { lease, failures },
        };
    }

    /// The head of an answer from a Claude account.
    pub(crate) fn head(&mut self, now: Mono, lease: u64, status: u16) {
        if (200..400).contains(&status) {
            let before = self.answered.refused;
            self.answered = Answered { lease, refused: self.refused, before };
            self.rests_until = None;
        }
        self.settle(
            now,
            lease,
            match status {
                408 | 429 | 500..=599 => Probe::Failed,
                _ => Probe::Answered,
            },
        );
    }

    /// The end of an attempt. A good head has already settled a probe, unless the attempt failed
    /// all the same.
    pub(crate) fn settle(&mut self, now: Mono, lease: u64, probe: Probe) {
        if probe == Probe::Failed && self.answered.lease == lease {
            self.answered.refused = self.answered.before;
        }
        let failures = match (self.state, probe) {
            (State::Probing { lease: prober, failures }, _)
            | (State::Pacing { lease: prober, failures, .. }, Probe::Failed)
                if prober == lease =>
            {
                failures
            }
            _ => return,
        };
        if probe == Probe::Answered {
            self.closed_at = Some(now);
        }
        self.state = match probe {
            Probe::Answered => {
                State::Pacing { until: now + BREAKER_PACING, next: now, lease, failures }
            }
            Probe::Returned => State::Paused { until: now, failures },
            Probe::Failed if failures + 1 >= BREAKER_PROBES_MAX => {
                self.refusals.clear();
                self.rests_until = Some(now + BREAKER_REST);
                State::Closed
            }
            Probe::Failed => State::Paused { until: now + rearm(failures), failures: failures + 1 },
        };
    }

    /// Records a refusal.
    pub(crate) fn saw(&mut self, seen: Seen) {
        while self.refusals.front().is_some_and(|old| old.at + REFUSAL_MEMORY <= seen.at)
            || self.refusals.len() >= REFUSALS_MAX
        {
            self.refusals.pop_front();
        }
        self.refusals.push_back(seen);
        self.refused += 1;
    }

    /// The refusals with this fingerprint that still count.
    pub(crate) fn alike(&self, now: Mono, fingerprint: Fingerprint) -> impl Iterator<Item = &Seen> {
        let since_answered = self.refused.saturating_sub(self.answered.refused);
        let count = usize::try_from(since_answered).unwrap_or(usize::MAX);
        self.refusals
            .iter()
            .rev()
            .take(count)
            .filter(move |seen| seen.fingerprint == fingerprint && seen.at + REFUSAL_MEMORY > now)
    }

    /// Whether it is neither tripped nor resting.
    pub(crate) fn can_trip(&self, now: Mono) -> bool {
        let open = matches!(self.state, State::Paused { .. } | State::Probing { .. });
        !open && self.rests_until.is_none_or(|until| until <= now)
    }

    pub(crate) fn trip(&mut self, now: Now, until: Mono, evidence: &Evidence) {
        self.state = State::Paused { until, failures: 0 };
        self.count += 1;
        self.last_at = Some(now.wall);
        self.evidence = Some(Arc::new(evidence.clone()));
    }

    /// When it last closed because a probe was answered.
    pub(crate) fn closed_at(&self) -> Option<Mono> {
        self.closed_at
    }

    /// The refusal that last tripped it.
    pub(crate) fn evidence(&self) -> Option<&Arc<Evidence>> {
        self.evidence.as_ref()
    }

    pub(crate) fn snapshot(&self, now: Now) -> BreakerSnapshot {
        let (active, until, probe_in_flight) = match self.state {
            State::Paused { until, .. } => (true, Some(now.wall + until.since(now.mono)), false),
            State::Probing { .. } => (true, None, true),
            State::Closed | State::Pacing { .. } => (false, None, false),
        };
        BreakerSnapshot {
            active,
            until,
            reason: self.evidence.as_ref().map(|it| it.message.clone()),
            probe_in_flight,
            count: self.count,
            last_at: self.last_at,
            family: None,
        }
    }
}

fn rearm(failures: u32) -> Duration {
    let index = usize::try_from(failures).unwrap_or(usize::MAX).min(BREAKER_REARM.len() - 1);
    BREAKER_REARM[index]
}

#[cfg(test)]
mod tests {
    use super::super::id::RouteClass;
    use super::*;

    fn now(ms: u64) -> Now {
        Now { mono: Mono(ms), wall: Wall(0) }
    }

    #[test]
    fn one_probe_then_one_every_250_ms() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.pass(Mono(0)), Pass::Free);
        breaker.trip(now(0), Mono(5_000), &Evidence::default());
        assert!(!breaker.can_trip(Mono(0)));
        assert_eq!(breaker.pass(Mono(4_999)), Pass::Open(Mono(5_000)));
        assert_eq!(breaker.pass(Mono(5_000)), Pass::Free);
        breaker.grant(Mono(5_000), 1);
        assert_eq!(breaker.pass(Mono(5_000)), Pass::Probing);
        breaker.head(Mono(5_100), 99, 200);
        assert_eq!(breaker.pass(Mono(5_100)), Pass::Probing, "P8: only the probe's answer counts");
        breaker.head(Mono(5_200), 1, 400);
        assert_eq!(breaker.pass(Mono(5_200)), Pass::Free, "P8: a 400 closes it");
        breaker.grant(Mono(5_200), 2);
        assert_eq!(breaker.pass(Mono(5_300)), Pass::Paced(Mono(5_450)));
        assert_eq!(breaker.pass(Mono(10_200)), Pass::Free, "P8: for 5 s");
    }

    #[test]
    fn failed_probes_back_off_and_the_fourth_gives_up() {
        let mut breaker = Breaker::default();
        breaker.trip(now(0), Mono(0), &Evidence::default());
        let mut at = Mono(0);
        for (lease, status, pause) in [(1, 429, 5_000), (2, 529, 10_000), (3, 408, 20_000)] {
            breaker.grant(at, lease);
            breaker.head(at, lease, status);
            let until = Mono(at.0 + pause);
            assert_eq!(breaker.pass(at), Pass::Open(until), "P8: re-arm after {status}");
            at = until;
        }
        breaker.grant(at, 4);
        breaker.settle(at, 4, Probe::Failed);
        assert_eq!(breaker.pass(at), Pass::Free, "P8: after four in a row each account by itself");
        assert!(!breaker.can_trip(at));
        assert!(breaker.can_trip(at + BREAKER_REST));
    }

    #[test]
    fn an_abandoned_probe_is_handed_back() {
        let mut breaker = Breaker::default();
        breaker.trip(now(0), Mono(0), &Evidence::default());
        breaker.grant(Mono(0), 1);
        breaker.settle(Mono(7), 1, Probe::Returned);
        assert_eq!(breaker.pass(Mono(7)), Pass::Free);
        breaker.grant(Mono(7), 2);
        breaker.settle(Mono(8), 1, Probe::Failed);
        assert_eq!(
            breaker.pass(Mono(8)),
            Pass::Probing,
            "P8: one that is no probe any more says nothing"
        );
    }

    #[test]
    fn a_good_head_with_an_error_behind_it_is_no_answer() {
        let mut breaker = Breaker::default();
        let fingerprint = Fingerprint::of(RouteClass::Messages, 529, "a", "b");
        let seen =
            |account| Seen { at: Mono(1), account: AccountId(account), fingerprint, asked: None };
        for lease in [7, 8] {
            breaker.head(Mono(1), lease, 200);
            breaker.settle(Mono(1), lease, Probe::Failed);
            breaker.saw(seen(lease as u32));
        }
        assert_eq!(breaker.alike(Mono(2), fingerprint).count(), 2, "P6, P8");
        breaker.trip(now(2), Mono(2), &Evidence::default());
        breaker.grant(Mono(2), 9);
        breaker.head(Mono(3), 9, 200);
        assert_eq!(breaker.pass(Mono(3)), Pass::Free, "P8: closed at header time");
        breaker.settle(Mono(4), 9, Probe::Failed);
        assert_eq!(breaker.pass(Mono(4)), Pass::Open(Mono(5_004)), "P6: it was refused");
        breaker.head(Mono(5), 10, 200);
        breaker.settle(Mono(6), 9, Probe::Failed);
        assert_eq!(breaker.alike(Mono(6), fingerprint).count(), 0, "another one was answered");
    }

    #[test]
    fn success_forgets_refusals() {
        let mut breaker = Breaker::default();
        let fingerprint = Fingerprint::of(RouteClass::Messages, 529, "a", "b");
        let seen = |at| Seen { at, account: AccountId(0), fingerprint, asked: None };
        breaker.saw(seen(Mono(0)));
        assert_eq!(breaker.alike(Mono(59_999), fingerprint).count(), 1);
        assert_eq!(breaker.alike(Mono(60_000), fingerprint).count(), 0);
        breaker.saw(seen(Mono(60_000)));
        breaker.head(Mono(60_001), 9, 200);
        assert_eq!(breaker.alike(Mono(60_002), fingerprint).count(), 0);
    }
}
