//! Storm control (SPEC S10): an account that takes over many requests at once gets them one by one,
//! and blocks do not all end at the same time.

use super::policy::{SPREAD_GAP, SPREAD_MAX, STEP, STORM_RAMP};
use super::time::Mono;

/// One account's ramp. Counts the requests that it was given since the storm and whose head has not
/// arrived yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ramp {
    state: State,
    pending: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Off,
    /// A storm may arrive until then; the ramp starts with its first request.
    Armed { until: Mono },
    /// One more request at a time after every step.
    Running { since: Mono },
}

/// Whether the ramp admits another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Free,
    /// At that time, or when a head arrives.
    From(Mono),
}

impl Ramp {
    pub(crate) fn arm(&mut self, now: Mono) {
        self.state = match self.pending {
            0 => State::Armed { until: now + STORM_RAMP },
            _ => State::Running { since: now },
        };
    }

    pub(crate) fn room(&self, now: Mono) -> Room {
        match self.state {
            State::Running { since } if since + STORM_RAMP > now => {
                let steps = now.since(since).as_millis() / STEP.as_millis();
                let steps = u32::try_from(steps).unwrap_or(u32::MAX);
                match self.pending <= steps {
                    true => Room::Free,
                    false => Room::From(since + STEP.saturating_mul(self.pending))
                        .at_most(since + STORM_RAMP),
                }
            }
            State::Off | State::Armed { .. } | State::Running { .. } => Room::Free,
        }
    }

    /// Counts a request; returns true if its head must be reported with [`Ramp::head`].
    pub(crate) fn grant(&mut self, now: Mono) -> bool {
        self.state = match self.state {
            State::Armed { until } if until > now => State::Running { since: now },
            State::Running { since } if since + STORM_RAMP > now => State::Running { since },
            State::Off | State::Armed { .. } | State::Running { .. } => State::Off,
        };
        let counts = self.state != State::Off;
        self.pending += u32::from(counts);
        counts
    }

    /// The head of a counted request has arrived, or never will.
    pub(crate) fn head(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }
}

impl Room {
    fn at_most(self, end: Mono) -> Room {
        match self {
            Room::Free => Room::Free,
            Room::From(at) => Room::From(at.min(end)),
        }
    }
}

/// New ends for blocks of different accounts: none within a second of another, none earlier than
/// requested, none more than five seconds later, and the earliest unchanged. Input and output are
/// in the order of `asked`.
pub(crate) fn spread(asked: &[Mono]) -> Vec<Mono> {
    let mut before: Option<Mono> = None;
    let apart = |end: &Mono| {
        let free = before.map_or(*end, |before| before + SPREAD_GAP);
        let moved = (*end).max(free).min(*end + SPREAD_MAX);
        before = before.max(Some(moved));
        moved
    };
    asked.iter().map(apart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_opens_by_one_every_250_ms() {
        let mut ramp = Ramp::default();
        assert!(!ramp.grant(Mono(0)), "no storm");
        ramp.arm(Mono(1_000));
        assert_eq!(ramp.room(Mono(9_000)), Room::Free, "S10: the first is taken at once");
        assert!(ramp.grant(Mono(9_000)));
        assert_eq!(ramp.room(Mono(9_000)), Room::From(Mono(9_250)));
        assert_eq!(ramp.room(Mono(9_250)), Room::Free);
        assert!(ramp.grant(Mono(9_250)));
        assert_eq!(ramp.room(Mono(9_400)), Room::From(Mono(9_500)));
        ramp.head();
        assert_eq!(ramp.room(Mono(9_400)), Room::Free, "S10: counted until the head");
        assert!(ramp.grant(Mono(9_400)));
        assert_eq!(ramp.room(Mono(39_000)), Room::Free, "S10: for 30 s");
        assert!(!ramp.grant(Mono(39_000)));
    }

    #[test]
    fn a_storm_that_does_not_come_is_forgotten() {
        let mut ramp = Ramp::default();
        ramp.arm(Mono(0));
        assert!(!ramp.grant(Mono(30_000)));
        assert_eq!(ramp.room(Mono(30_000)), Room::Free);
    }

    #[test]
    fn ends_are_spread() {
        let rows: &[(&str, &[u64], &[u64])] = &[
            ("S10 alone", &[10_000], &[10_000]),
            ("S10 far apart", &[10_000, 11_000], &[10_000, 11_000]),
            (
                "S10 the earliest keeps its time",
                &[10_000, 10_000, 10_500],
                &[10_000, 11_000, 12_000],
            ),
            (
                "S10 by up to 5 s",
                &[0, 0, 0, 0, 0, 0, 0, 0],
                &[0, 1_000, 2_000, 3_000, 4_000, 5_000, 5_000, 5_000],
            ),
        ];
        for (rule, asked, ends) in rows {
            let asked: Vec<Mono> = asked.iter().copied().map(Mono).collect();
            let ends: Vec<Mono> = ends.iter().copied().map(Mono).collect();
            assert_eq!(spread(&asked), ends, "{rule}");
        }
    }
}
