//! The pass over the queue (SPEC Q2, Q3): what happens to each waiting request, in order, whenever
//! something may have changed for it.

use std::time::Duration;

use super::parts::block::WaitCause;
use super::parts::policy::STORM_REQUESTS;
use super::parts::queue::{Place, Waiter};
use super::parts::ranking::Ranking;
use super::parts::request::{Limit, Refusal, RefusalReason, Restrained, Wake};
use super::parts::snapshot::ExplainedVerdict;
use super::parts::time::{Mono, Now};
use super::parts::wait_limits::{Allowance, Outlook, Prospect, judge, tick};
use super::seen_classes::SeenClasses;
use super::select::{Ask, Choice, Restraint, Route};
use super::{DRIFT_MS_MAX, Intake, Look, Scheduler};

impl Scheduler {
    /// Goes through the queue if anything may have changed for it.
    pub(super) fn look_through(&mut self, now: Now) {
        let distance = now.wall.0.saturating_sub_unsigned(now.mono.0);
        match self.look {
            Look::At { due, distance: last }
                if due > now.mono && last.abs_diff(distance) < DRIFT_MS_MAX =>
            {
                return;
            }
            Look::At { .. } | Look::Now => {}
        }
        loop {
            self.look = Look::At { due: Mono::MAX, distance };
            let places: Vec<Place> = self.queue.places().collect();
            let mut seen = SeenClasses::default();
            let mut due = self.next_return(now);
            for place in places {
                let step = self.step(now, place, &mut seen);
                due = due.min(self.take_step(now, place, step));
            }
            // A grant leaves less for the others, so the second pass grants nothing; but they may
            // wait for another reason now.
            if self.look != Look::Now {
                self.look = Look::At { due, distance };
                return;
            }
        }
    }

    /// The time at which an account comes back to so many waiting requests that its ramp starts
    /// again (S10), which changes what they wait for.
    fn next_return(&self, now: Now) -> Mono {
        if self.queue.len() < STORM_REQUESTS {
            return Mono::MAX;
        }
        let returns = self.accounts.iter().filter_map(|account| account.returns(now));
        returns.min().unwrap_or(Mono::MAX)
    }

    /// Decides about one waiting request.
    fn step(&mut self, now: Now, place: Place, seen: &mut SeenClasses) -> Step {
        if self.intake == Intake::Draining {
            return Step::Refuse(Refusal::plain(RefusalReason::Draining));
        }
        let mut ranking = std::mem::take(&mut self.ranking);
        let step = self.judge_waiter(now, place, seen, &mut ranking);
        self.ranking = ranking;
        if let Step::Grant(choice, _) = &step {
            self.record_grant(now, place, *choice);
        }
        step
    }

    fn record_grant(&mut self, now: Now, place: Place, choice: Choice) {
        let mut decisions = std::mem::take(&mut self.decisions);
        if let Some(waiter) = self.queue.get(place) {
            let ask = self.ask(now, &waiter.request, waiter.tried(now.mono), waiter.next_pass);
            let verdict = ExplainedVerdict::Chosen(self.accounts[choice.index].id, choice.why);
            self.record(now, waiter.request.id, &ask, &self.ranking, verdict, &mut decisions);
        }
        self.decisions = decisions;
    }

    fn judge_waiter(
        &self,
        now: Now,
        place: Place,
        seen: &mut SeenClasses,
        ranking: &mut Ranking,
    ) -> Step {
        let Some(waiter) = self.queue.get(place) else {
            return Step::Gone;
        };
        seen.judged += 1;
        let request = &waiter.request;
        let mut ask = self.ask(now, request, waiter.tried(now.mono), waiter.next_pass);
        // If the thread's owner became known during the wait, any suitable account serves it.
        if let (Route::Thread(_), None) = (ask.route, request.pinned) {
            ask.route = Route::Any;
        }
        let suspense_ends = request.trail.suspense_ends(&self.policy);
        if suspense_ends.is_some_and(|at| at <= now.mono) {
            return Step::Expire(Limit::Suspense, self.refusal(now, &ask, None));
        }
        if !request.trail.is_in_suspense() {
            ask.others_waiting = ask.others_waiting.saturating_sub(1);
        }
        let restrained = waiter.clock.restrained;
        if restrained.ends(now.mono).is_some_and(|at| at <= now.mono) {
            ask.restraint = Restraint::Waived;
        }
        let waited = now.mono.since(waiter.since.mono);
        let (outlooks, kept) = match self.look_once(now, &ask, seen, ranking) {
            Ok(choice) => return Step::Grant(choice, waited),
            Err(Kept { outlooks, restrained }) => (outlooks, restrained),
        };
        let tolerance = request.tolerance.map(|tolerance| request.arrived + tolerance);
        let allowance = Allowance::new(now.mono, &self.policy, request, waiter.clock);
        let end = match judge(now.mono, &allowance, &outlooks) {
            _ if tolerance.is_some_and(|until| until <= now.mono) => Ok(Limit::ClientTolerance),
            Prospect::Wait { cause, look_at } => {
                let most = seen.kept_at_most(self.queue.len());
                let restrained = restrained.look(now.mono, kept.then_some(most));
                let spared = restrained.ends(now.mono).filter(|_| kept);
                let long_look = self.next_long_look(now, &ask);
                return Step::Stay {
                    cause,
                    look_at: [tolerance, spared, suspense_ends, long_look]
                        .into_iter()
                        .flatten()
                        .fold(look_at, Mono::min),
                    release: outlooks.iter().filter_map(|outlook| outlook.end()).min(),
                    restrained,
                };
            }
            Prospect::Expired(limit) => Ok(limit),
            Prospect::Hopeless => Err(()),
        };
        // Its own limit comes first: the restraint is ignored (S6).
        if kept {
            ask.restraint = Restraint::Waived;
            self.rank(now, &ask, ranking);
            if let Some(choice) = self.choose(now, &ask, &ranking.available) {
                return Step::Grant(choice, waited);
            }
        }
        match end {
            Ok(limit) => Step::Expire(limit, self.refusal(now, &ask, None)),
            Err(()) => Step::Refuse(self.refusal(now, &ask, None)),
        }
    }

    /// An account for a waiting request, or its reason to wait; asked only once for all that are
    /// alike.
    fn look_once(
        &self,
        now: Now,
        ask: &Ask<'_>,
        seen: &mut SeenClasses,
        ranking: &mut Ranking,
    ) -> Result<Choice, Kept> {
        if let Some(index) = seen.class(now, ask) {
            let class = &seen.classes[index];
            let restrained = class.restrained_from.is_some();
            return Err(Kept { outlooks: class.outlooks.clone(), restrained });
        }
        self.rank(now, ask, ranking);
        let choice = self.choose(now, ask, &ranking.available);
        if let Some(choice) = choice.or_else(|| self.long_look(now, ask)) {
            return Ok(choice);
        }
        let outlooks = self.outlooks(now, ask);
        let restrained = ranking.restrained > 0;
        seen.remember(ask, restrained, &outlooks);
        Err(Kept { outlooks, restrained })
    }

    /// Carries the decision out. Returns when this request must be checked again.
    fn take_step(&mut self, now: Now, place: Place, step: Step) -> Mono {
        match step {
            Step::Gone => {}
            Step::Stay { cause, look_at, release, restrained } => {
                if let Some(waiter) = self.queue.get_mut(place) {
                    let was = waiter.clock.cause.map(|(cause, _)| cause);
                    if was == Some(WaitCause::Capacity) && cause != WaitCause::Capacity {
                        // It no longer waits for the breaker, whose probe those in suspense, judged
                        // before it, have left to it (P8).
                        self.look = Look::Now;
                    }
                    waiter.clock = tick(now.mono, waiter.clock, cause);
                    waiter.clock.restrained = restrained;
                    waiter.release = release;
                }
                return look_at;
            }
            Step::Grant(choice, waited) => {
                if let Some(Waiter { ticket, request, clock, .. }) = self.queue.leave(place) {
                    let grant = self.grant(now, &request, choice, clock, waited);
                    self.wakes.push_back(Wake::Granted { ticket, grant });
                }
            }
            Step::Expire(limit, refusal) => {
                if let Some(Waiter { ticket, request, .. }) = self.queue.leave(place) {
                    if limit == Limit::ClientTolerance {
                        self.queue.expect_back(now.mono, place, &request);
                    }
                    self.wakes.push_back(Wake::Expired { ticket, limit, refusal });
                }
                self.look_for_the_last();
            }
            Step::Refuse(refusal) => {
                if let Some(Waiter { ticket, .. }) = self.queue.leave(place) {
                    self.wakes.push_back(Wake::Refused { ticket, refusal });
                }
                self.look_for_the_last();
            }
        }
        Mono::MAX
    }
}

/// Why a request keeps waiting.
struct Kept {
    outlooks: Vec<Outlook>,
    /// An account would serve it but for a cold-start limit or the brink (S6).
    restrained: bool,
}

/// The decision about a waiting request.
#[derive(Debug)]
enum Step {
    Gone,
    Stay { cause: WaitCause, look_at: Mono, release: Option<Mono>, restrained: Restrained },
    Grant(Choice, Duration),
    Expire(Limit, Refusal),
    Refuse(Refusal),
}
