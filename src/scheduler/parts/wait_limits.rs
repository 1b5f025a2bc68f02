//! Whether a request is held (SPEC Q1), and for how long at most.
//!
//! Each matching account has an outlook: until when it is out, by class of waiting. A request is
//! held as long as there is an account whose outlook ends, class by class, within what is left of
//! that class's limit.

use std::time::Duration;

use super::block::WaitCause;
use super::obstacle::Ends;
use super::policy::{Policy, REST_WAIT_MAX};
use super::request::{Limit, Request, Shape, WaitClock};
use super::time::Mono;

/// When one account is expected back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// The latest known end of each class.
    at: [Option<Mono>; CLASSES.len()],
    /// Classes in which it also waits for other requests to end.
    on_release: [bool; CLASSES.len()],
    /// Until when a restraint delays the request (S6). A request that cannot wait that long is
    /// served at its limit.
    restrained: Option<Mono>,
    /// It is out for a reason that is never waited for.
    never: bool,
    /// When that block ends, if known; a request queued for another reason may use it.
    unawaited: Option<Mono>,
}

const CLASSES: [WaitCause; 5] = [
    WaitCause::Quota,
    WaitCause::Weekly,
    WaitCause::Capacity,
    WaitCause::Network,
    WaitCause::Credential,
];

fn index(cause: WaitCause) -> usize {
    match cause {
        WaitCause::Quota => 0,
        WaitCause::Weekly => 1,
        WaitCause::Capacity => 2,
        WaitCause::Network => 3,
        WaitCause::Credential => 4,
    }
}

impl Outlook {
    pub(crate) fn add(&mut self, cause: WaitCause, ends: Ends) {
        let class = index(cause);
        match ends {
            Ends::At(at) => self.at[class] = self.at[class].max(Some(at)),
            Ends::OnRelease => self.on_release[class] = true,
            Ends::Never => self.never = true,
        }
    }

    pub(crate) fn add_restraint(&mut self, until: Mono) {
        self.restrained = self.restrained.max(Some(until));
    }

    /// A block that is never waited for ends then.
    pub(crate) fn add_unawaited(&mut self, at: Mono) {
        self.unawaited = self.unawaited.max(Some(at));
    }

    /// The known end; `None` if it depends on other requests, or never comes.
    pub(crate) fn end(&self) -> Option<Mono> {
        if self.never {
            return None;
        }
        self.at.iter().copied().max().flatten().max(self.restrained)
    }

    pub(crate) fn is_never(&self) -> bool {
        self.never
    }

    /// The class of the reason that ends last.
    pub(crate) fn cause(&self) -> WaitCause {
        let timed = CLASSES.into_iter().filter(|cause| self.at[index(*cause)].is_some());
        let last = timed.max_by_key(|cause| self.at[index(*cause)]);
        let released = || CLASSES.into_iter().find(|cause| self.on_release[index(*cause)]);
        let restrained = || self.restrained.map(|_| WaitCause::Quota);
        last.or_else(released).or_else(restrained).unwrap_or(WaitCause::Capacity)
    }
}

/// How long a request may still wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// By class: until when it may be held, and which limit it then reaches.
    until: [(Mono, Limit); CLASSES.len()],
}

impl Allowance {
    /// `clock` is how long it has waited already.
    pub(crate) fn new(
        now: Mono,
        policy: &Policy,
        request: &Request,
        clock: WaitClock,
    ) -> Allowance {
        let since = clock.since.unwrap_or(now);
        let longest =
            policy.auto_max_wait.map_or(policy.max_wait, |auto| auto.min(policy.max_wait));
        let shape = match request.shape {
            Shape::Stream => None,
            // It is held up to its client's tolerance, even if the end is later (Q6).
            Shape::Fallback => None,
            Shape::NonStream => Some((since + policy.non_stream_max_wait, Limit::ClientTolerance)),
            Shape::CountTokens => Some((since + policy.count_tokens_max_wait, Limit::WaitLimit)),
        };
        let until = CLASSES.map(|cause| {
            let begun = match clock.cause {
                Some((waited, begun)) if waited == cause => begun,
                _ => now,
            };
            let class = begun + limit(policy, cause);
            let mut until = ((since + longest).min(class), Limit::WaitLimit);
            if let Some(shape) = shape.filter(|(at, _)| *at < until.0) {
                until = shape;
            }
            until
        });
        Allowance { until }
    }

    /// Q1: whether everything that keeps the account out ends in time.
    fn covers(&self, now: Mono, outlook: &Outlook) -> bool {
        let timed = (0..CLASSES.len())
            .all(|class| outlook.at[class].is_none_or(|at| at <= self.until[class].0));
        let released =
            (0..CLASSES.len()).all(|class| !outlook.on_release[class] || self.until[class].0 > now);
        let restrained = outlook.restrained.is_none() || self.restraint().0 > now;
        !outlook.never && timed && released && restrained
    }

    /// A restraint counts as a wait for quota.
    fn restraint(&self) -> (Mono, Limit) {
        self.until[index(WaitCause::Quota)]
    }
}

/// What happens to a request that no account can serve now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// It waits for this reason; `look_at` is when the result may change although nothing happened.
    Wait { cause: WaitCause, look_at: Mono },
    /// Its time is up.
    Expired(Limit),
    /// No account comes back in time.
    Hopeless,
}

/// Applies Q1 to the outlooks of all matching accounts.
pub(crate) fn judge(now: Mono, allowance: &Allowance, outlooks: &[Outlook]) -> Prospect {
    let covered = || outlooks.iter().filter(|outlook| allowance.covers(now, outlook));
    let first = covered().min_by_key(|outlook| outlook.end().unwrap_or(Mono::MAX));
    let Some(first) = first else {
        let expired = outlooks.iter().filter(|outlook| !outlook.never).find_map(|outlook| {
            let class = (0..CLASSES.len())
                .find(|class| outlook.on_release[*class] && allowance.until[*class].0 <= now);
            let restrained = || outlook.restrained.map(|_| allowance.restraint());
            let (until, limit) = class.map(|class| allowance.until[class]).or_else(restrained)?;
            (until <= now).then_some(limit)
        });
        return expired.map_or(Prospect::Hopeless, Prospect::Expired);
    };
    let ends = outlooks.iter().flat_map(|outlook| {
        let others = [outlook.unawaited, outlook.restrained];
        outlook.at.into_iter().chain(others).flatten()
    });
    let limits = covered().flat_map(|outlook| {
        let released = (0..CLASSES.len()).filter(|class| outlook.on_release[*class]);
        let restrained = outlook.restrained.map(|_| allowance.restraint().0);
        released.map(|class| allowance.until[class].0).chain(restrained)
    });
    Prospect::Wait {
        cause: first.cause(),
        look_at: ends.chain(limits).filter(|at| *at > now).min().unwrap_or(Mono::MAX),
    }
}

/// The clock of a request that is held for this reason from now on.
pub(crate) fn tick(now: Mono, clock: WaitClock, cause: WaitCause) -> WaitClock {
    WaitClock {
        since: clock.since.or(Some(now)),
        cause: match clock.cause {
            Some((waited, begun)) if waited == cause => Some((waited, begun)),
            _ => Some((cause, now)),
        },
        restrained: clock.restrained,
    }
}

fn limit(policy: &Policy, cause: WaitCause) -> Duration {
    match cause {
        WaitCause::Quota => Duration::MAX,
        WaitCause::Weekly => policy.weekly_max_wait,
        WaitCause::Capacity => policy.capacity_max_wait,
        WaitCause::Network => policy.network_max_wait,
        WaitCause::Credential => REST_WAIT_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono(1_000_000);

    fn outlook(rows: &[(WaitCause, Ends)]) -> Outlook {
        let mut outlook = Outlook::default();
        for (cause, ends) in rows {
            outlook.add(*cause, *ends);
        }
        outlook
    }

    fn after(secs: u64) -> Ends {
        Ends::At(NOW + Duration::from_secs(secs))
    }

    fn verdict(shape: Shape, clock: WaitClock, outlooks: &[Outlook]) -> Prospect {
        let request = Request { shape, ..Request::new(1, NOW) };
        judge(NOW, &Allowance::new(NOW, &Policy::default(), &request, clock), outlooks)
    }

    fn hold(cause: WaitCause, secs: u64) -> Prospect {
        Prospect::Wait { cause, look_at: NOW + Duration::from_secs(secs) }
    }

    #[test]
    fn held_within_the_limit_of_its_class() {
        use WaitCause::{Capacity, Network, Quota, Weekly};
        let rows: &[(&str, Shape, Outlook, Prospect)] = &[
            ("Q1 quota", Shape::Stream, outlook(&[(Quota, after(86_400))]), hold(Quota, 86_400)),
            ("Q1 maxWaitMs", Shape::Stream, outlook(&[(Quota, after(86_401))]), Prospect::Hopeless),
            ("Q1 capacity", Shape::Stream, outlook(&[(Capacity, after(900))]), hold(Capacity, 900)),
            (
                "Q1 capacityMaxWaitMs",
                Shape::Stream,
                outlook(&[(Capacity, after(901))]),
                Prospect::Hopeless,
            ),
            (
                "Q1 weekly fails fast",
                Shape::Stream,
                outlook(&[(Weekly, after(1))]),
                Prospect::Hopeless,
            ),
            ("Q1 network", Shape::Stream, outlook(&[(Network, after(15))]), hold(Network, 15)),
            (
                "Q1 networkMaxWaitMs",
                Shape::Stream,
                outlook(&[(Network, after(16))]),
                Prospect::Hopeless,
            ),
            (
                "Q1 non-streaming",
                Shape::NonStream,
                outlook(&[(Quota, after(240))]),
                hold(Quota, 240),
            ),
            (
                "Q1 nonStreamMaxWaitMs",
                Shape::NonStream,
                outlook(&[(Quota, after(241))]),
                Prospect::Hopeless,
            ),
            (
                "Q1 countTokensMaxWaitMs",
                Shape::CountTokens,
                outlook(&[(Quota, after(9))]),
                Prospect::Hopeless,
            ),
            (
                "Q1 a safety cap",
                Shape::Stream,
                outlook(&[(Capacity, Ends::OnRelease)]),
                hold(Capacity, 900),
            ),
            (
                "Q1 a cap of one that counts tokens",
                Shape::CountTokens,
                outlook(&[(Capacity, Ends::OnRelease)]),
                hold(Capacity, 8),
            ),
            (
                "Q1 never waited for",
                Shape::Stream,
                outlook(&[(Quota, after(1)), (Capacity, Ends::Never)]),
                Prospect::Hopeless,
            ),
            (
                "Q1 each reason within its own limit",
                Shape::Stream,
                outlook(&[
                    (Quota, after(7_200)),
                    (Capacity, after(30)),
                    (Capacity, Ends::OnRelease),
                ]),
                hold(Quota, 30),
            ),
        ];
        for (rule, shape, one, expected) in rows {
            assert_eq!(verdict(*shape, WaitClock::default(), &[*one]), *expected, "{rule}");
        }
    }

    #[test]
    fn one_account_in_time_is_enough() {
        let week = outlook(&[(WaitCause::Weekly, after(60))]);
        let quota = outlook(&[(WaitCause::Quota, after(3_600))]);
        let verdict = verdict(Shape::Stream, WaitClock::default(), &[week, quota]);
        assert_eq!(
            verdict,
            hold(WaitCause::Quota, 60),
            "and the other one is looked at when it may be back"
        );
    }

    #[test]
    fn one_clock_over_all_waits() {
        let clock = WaitClock {
            since: Some(Mono(0)),
            cause: Some((WaitCause::Capacity, Mono(100_000))),
            ..WaitClock::default()
        };
        let full = outlook(&[(WaitCause::Capacity, Ends::OnRelease)]);
        assert_eq!(
            verdict(Shape::Stream, clock, &[full]),
            Prospect::Expired(Limit::WaitLimit),
            "Q1: 900 s are over"
        );
        assert_eq!(
            verdict(Shape::NonStream, clock, &[full]),
            Prospect::Expired(Limit::ClientTolerance),
            "Q6"
        );
        let blocked = outlook(&[(WaitCause::Capacity, after(1))]);
        assert_eq!(verdict(Shape::Stream, clock, &[blocked]), Prospect::Hopeless);
        let quota = outlook(&[(WaitCause::Quota, after(1))]);
        assert_eq!(verdict(Shape::Stream, clock, &[quota]), hold(WaitCause::Quota, 1));
        assert_eq!(tick(NOW, clock, WaitCause::Capacity), clock);
        let other = WaitClock {
            since: Some(Mono(0)),
            cause: Some((WaitCause::Quota, NOW)),
            ..WaitClock::default()
        };
        assert_eq!(tick(NOW, clock, WaitCause::Quota), other);
    }
}
