//! Admission (SPEC Q1–Q3, S8): grant, hold or refuse.
//!
//! All waiting requests are considered, in order, before a new one. So a new request is served at
//! once only by an account that no waiting request can use: it never overtakes such a request, and
//! never waits for a request that its own account cannot serve.

use std::time::Duration;

use super::parts::account::{Account, Target, keeps_out};
use super::parts::block::{Block, BlockReason, WaitCause};
use super::parts::cost::PromptCache;
use super::parts::id::{AccountId, RouteClass};
use super::parts::obstacle::Ends;
use super::parts::policy::{LIMITED_PASS_PAUSE, PASS_PAUSE, POLL_MIN};
use super::parts::queue::Full;
use super::parts::quota::WindowKind;
use super::parts::ranking::Ranking;
use super::parts::request::Why;
use super::parts::request::{
    Admission, Cancel, Grant, Lease, Refusal, RefusalReason, Request, Shape, Ticket, WaitClock,
    Wake,
};
use super::parts::snapshot::ExplainedVerdict;
use super::parts::time::{Mono, Now};
use super::parts::wait_limits::{Allowance, Outlook, Prospect, judge, tick};
use super::select::{Ask, Choice, Patience, Restraint, Route};
use super::{Intake, LeaseRecord, Look, Looking, Progress, Scheduler};

impl Scheduler {
    /// Asks for an account: the first time, and again after each failed attempt, with the failed
    /// account in `excluded`.
    pub fn admit(&mut self, now: Now, mut request: Request) -> Admission {
        let now = self.touch(now);
        self.bear_a_fallback(now, &mut request);
        if let (true, Some(session)) = (request.signed_thinking, request.session)
            && self.affinity.note_thinking(session)
        {
            self.look = Look::Now;
        }
        self.look_through(now);
        if let Some(reason) = self.refused_unseen(&request) {
            return Admission::Refused(Refusal::plain(reason));
        }
        let tried_until = now.mono + self.pass_pause(request.last_failure);
        let tried = self.left_out(now, &request);
        let mut ranking = std::mem::take(&mut self.ranking);
        if request.trail.may_begin_suspense() {
            let ask = self.ask(now, &request, &tried, tried_until);
            self.rank(now, &ask, &mut ranking);
            // No account is left to try: wait for an explanation if there was a refusal without
            // evidence.
            if ranking.available.is_empty() {
                request.trail.begin_suspense(now.mono, &self.policy);
            }
        }
        let mut ask = self.ask(now, &request, &tried, tried_until);
        let decision = self.decide(now, &request, &mut ask, &mut ranking);
        let verdict = match &decision {
            Decision::Serve(choice) => {
                ExplainedVerdict::Chosen(self.accounts[choice.index].id, choice.why)
            }
            Decision::Hold(cause) => ExplainedVerdict::Wait(*cause, None),
            Decision::Refuse(refusal) => ExplainedVerdict::Refuse(refusal.reason.clone()),
        };
        let mut decisions = std::mem::take(&mut self.decisions);
        self.record(now, request.id, &ask, &ranking, verdict, &mut decisions);
        self.decisions = decisions;
        self.ranking = ranking;
        match decision {
            Decision::Serve(choice) => {
                let clock = request.clock;
                Admission::Granted(self.grant(now, &request, choice, clock, Duration::ZERO))
            }
            Decision::Hold(cause) => {
                let clock = tick(now.mono, request.clock, cause);
                self.look = Look::Now;
                let next_pass = if tried.is_empty() { now.mono } else { tried_until };
                request.excluded = tried;
                Admission::Queued(self.queue.join(now, request, clock, next_pass))
            }
            Decision::Refuse(refusal) => Admission::Refused(refusal),
        }
    }

    /// Decides what happens to a request now, given the accounts as ranked. A request that would be
    /// refused is served if only a restraint kept it from an account (S6).
    pub(super) fn decide(
        &self,
        now: Now,
        request: &Request,
        ask: &mut Ask<'_>,
        ranking: &mut Ranking,
    ) -> Decision {
        self.rank(now, ask, ranking);
        if request.trail.suspense_ends(&self.policy).is_some_and(|at| at <= now.mono) {
            // Its last attempt took longer than the rest of its suspense, so there is no further
            // one.
            return Decision::Refuse(self.refusal(now, ask, None));
        }
        let may_try = self.policy.max_attempts == 0 || request.attempts < self.policy.max_attempts;
        let choose = |ask: &Ask<'_>, ranking: &Ranking| {
            self.choose(now, ask, &ranking.available).filter(|_| may_try)
        };
        if let Some(choice) = choose(ask, ranking) {
            return Decision::Serve(choice);
        }
        if may_try && let Some(choice) = self.long_look(now, ask) {
            return Decision::Serve(choice);
        }
        let refusal = match self.may_hold(now, request, ask, ranking) {
            Ok(cause) => return Decision::Hold(cause),
            Err(refusal) => refusal,
        };
        if ranking.restrained > 0 && may_try {
            ask.restraint = Restraint::Waived;
            self.rank(now, ask, ranking);
            if let Some(choice) = choose(ask, ranking) {
                return Decision::Serve(choice);
            }
        }
        Decision::Refuse(refusal)
    }

    /// The client left while its request was waiting.
    pub fn cancel(&mut self, now: Now, ticket: Ticket) -> Cancel {
        let now = self.touch(now);
        if let Some(place) = self.queue.place_of(ticket) {
            if let Some(waiter) = self.queue.leave(place) {
                self.queue.expect_back(now.mono, place, &waiter.request);
            }
            self.look_for_the_last();
            return Cancel::Cancelled;
        }
        let Some(index) = self.wakes.iter().position(|wake| wake.ticket() == ticket) else {
            return Cancel::AlreadyPolled;
        };
        match self.wakes.remove(index) {
            Some(Wake::Granted { grant, .. }) => Cancel::AlreadyGranted(grant),
            Some(Wake::Expired { limit, .. }) => Cancel::AlreadyRefused(Some(limit)),
            Some(Wake::Refused { .. }) | None => Cancel::AlreadyRefused(None),
        }
    }

    /// The only request in the queue is not limited by cold starts (S6), and the departed one may
    /// have left a probe to those in suspense (P8).
    pub(super) fn look_for_the_last(&mut self) {
        let in_line = self.queue.in_line();
        if in_line == 1 || in_line < self.queue.len() {
            self.look = Look::Now;
        }
    }

    /// The next verdict about a ticket, in order of delivery. Call it until it returns `None` after
    /// every other call and at `next_wakeup`.
    pub fn poll(&mut self, now: Now) -> Option<Wake> {
        let now = self.touch(now);
        if self.wakes.is_empty() {
            self.look_through(now);
        }
        self.wakes.pop_front()
    }

    /// When to poll again if nothing else happens; `None` if nothing is waiting. Always later than
    /// `now` once `poll` has returned `None`.
    #[must_use]
    pub fn next_wakeup(&self, now: Now) -> Option<Mono> {
        if !self.wakes.is_empty() {
            return Some(now.mono);
        }
        if self.queue.is_empty() {
            return None;
        }
        // A reset is on the wall clock, which may be set at any time, so never sleep long by the
        // monotonic one.
        let latest = now.mono + self.policy.poll.max(POLL_MIN);
        match self.look {
            Look::Now => Some(now.mono),
            Look::At { due, .. } => Some(due.min(latest)),
        }
    }

    /// Refusals that do not depend on any account.
    fn refused_unseen(&self, request: &Request) -> Option<RefusalReason> {
        match self.intake {
            Intake::Draining => return Some(RefusalReason::Draining),
            Intake::Open => {}
        }
        match request.pinned {
            _ if self.accounts.is_empty() => Some(RefusalReason::NoAccount),
            Some(id) => self.account(id).is_none().then_some(RefusalReason::NoAccount),
            None => {
                let known = self
                    .accounts
                    .iter()
                    .any(|account| !account.leaving && account.has_profile(&request.profile));
                (!known).then_some(RefusalReason::UnknownProfile)
            }
        }
    }

    /// The accounts on which this request has failed, except those with a block for it: when the
    /// block ends, such an account serves the request, whatever the others have answered (Q2). A
    /// short block does not count, so that cooldowns of zero cannot cause a busy loop.
    fn left_out(&self, now: Now, request: &Request) -> Vec<AccountId> {
        let target = Target {
            class: request.class,
            family: request.family.as_ref(),
            model: request.model.as_deref(),
        };
        let keeps_away = |block: &Block| {
            let is_limit = matches!(block.reason, BlockReason::Quota(_));
            let least = if is_limit { LIMITED_PASS_PAUSE } else { PASS_PAUSE / 2 };
            keeps_out(&block.scope, target)
                && block.end.mono(now).is_some_and(|end| end > now.mono + least)
        };
        let is_blocked = |id: &AccountId| {
            self.account(*id).is_some_and(|account| account.blocks(now).any(keeps_away))
        };
        request.excluded.iter().copied().filter(|id| !is_blocked(id)).collect()
    }

    /// How long accounts are excluded after a finished pass.
    pub(super) fn pass_pause(&self, last_failure: Option<WaitCause>) -> Duration {
        match last_failure {
            Some(WaitCause::Network) => PASS_PAUSE.max(self.policy.network_cooldown),
            Some(WaitCause::Quota | WaitCause::Weekly) => LIMITED_PASS_PAUSE,
            Some(WaitCause::Capacity | WaitCause::Credential) | None => PASS_PAUSE,
        }
    }

    /// Q1, Q3 for a request that gets no account now: what it would wait for, or why it cannot
    /// wait.
    pub(super) fn may_hold(
        &self,
        now: Now,
        request: &Request,
        ask: &Ask<'_>,
        ranking: &Ranking,
    ) -> Result<WaitCause, Refusal> {
        if let Route::Thread(_) = ask.route {
            return Err(self.refusal(now, ask, Some(RefusalReason::ThreadElsewhere)));
        }
        if !ranking.available.is_empty() {
            return Err(self.refusal(now, ask, Some(RefusalReason::AttemptsExhausted)));
        }
        let outlooks = self.outlooks(now, ask);
        let allowance = Allowance::new(now.mono, &self.policy, request, request.clock);
        let cause = match judge(now.mono, &allowance, &outlooks) {
            Prospect::Wait { cause, .. } => cause,
            Prospect::Expired(_) | Prospect::Hopeless => return Err(self.refusal(now, ask, None)),
        };
        let reason = match (ask.patience, self.queue.room(&self.policy, request.body_bytes)) {
            (Patience::CanWait, Ok(())) => return Ok(cause),
            (Patience::CanWait, Err(Full)) => Some(RefusalReason::QueueFull),
            (Patience::CannotWait, _) if self.has_queue() && self.is_too_large(request) => {
                Some(RefusalReason::TooLargeToHold(cause))
            }
            (Patience::CannotWait, _) => None,
        };
        Err(self.refusal(now, ask, reason))
    }

    /// When each matching account is expected back; identical outlooks are listed once.
    pub(super) fn outlooks(&self, now: Now, ask: &Ask<'_>) -> Vec<Outlook> {
        let mut outlooks = Vec::new();
        for account in &self.accounts {
            let mut outlook = Outlook::default();
            let mut matches = true;
            self.obstacles(now, account, ask, |obstacle| {
                matches = obstacle.is_a_wait();
                match (obstacle.is_restraint(), obstacle.ends(now)) {
                    (true, Ends::At(until)) => outlook.add_restraint(until),
                    (_, ends) => outlook.add(obstacle.cause(), ends),
                }
                if let Some(at) = obstacle.unawaited_end(now) {
                    outlook.add_unawaited(at);
                }
                true
            });
            if matches && !outlooks.contains(&outlook) {
                outlooks.push(outlook);
            }
        }
        outlooks
    }

    /// Takes an account for a request.
    pub(super) fn grant(
        &mut self,
        now: Now,
        request: &Request,
        choice: Choice,
        clock: WaitClock,
        waited: Duration,
    ) -> Grant {
        self.last_lease += 1;
        let id = self.last_lease;
        let is_message = request.class == RouteClass::Messages;
        let looking = self.looking(now, request, choice.index);
        let (cost, cache) = self.cost_of(now, request, choice.index);
        let account = &mut self.accounts[choice.index];
        let five_hours = account.used(now.wall, &WindowKind::FiveHour);
        let week = account.used(now.wall, &WindowKind::SevenDay);
        account.costs.risk(now.mono, five_hours, week);
        account.costs.grant(now.mono, cost, cache);
        occupy(now, id, account, request, choice.why);
        let held = LeaseRecord {
            account: account.id,
            weight: request.weight,
            profile: request.profile.clone(),
            class: request.class,
            kin: request.kin,
            model: request.model.clone(),
            looking,
            trail: request.trail.clone(),
            family: request.family.clone(),
            session: request.session,
            granted: now,
            cost,
            progress: Progress::Outstanding,
            ramped: is_message && account.ramp.grant(now.mono),
        };
        if is_message {
            self.messages_in_flight += 1;
            if account.is_claude()
                && let Some(breaker) = self.breakers.get_mut(request.family.as_ref())
            {
                breaker.grant(now.mono, id);
            }
        }
        let grant = Grant {
            lease: Lease { id, account: account.id },
            account: account.id,
            name: account.spec.name.clone(),
            kind: account.spec.kind,
            why: choice.why,
            waited,
            clock,
            trail: request.trail.clone(),
        };
        self.last_chosen = Some(account.id);
        if let Some(session) = request.session {
            self.affinity.bind(now.mono, session, account.id, self.policy.session_idle);
            self.affinity.note(now.mono, session, choice.home, choice.critical);
        }
        self.leases.insert(id, held);
        // Waiting requests may now be waiting for another reason, with another limit.
        self.look = Look::Now;
        grant
    }

    /// S5: the expected cost of a request on this account.
    fn cost_of(&self, now: Now, request: &Request, index: usize) -> (u64, PromptCache) {
        let ask = self.ask(now, request, &[], now.mono);
        let cache = ask.cache_on(now.mono, self.accounts[index].id);
        (ask.cost(cache), cache)
    }
}

impl Scheduler {
    /// Why this request tries an account again that has refused it, if it does.
    fn looking(&self, now: Now, request: &Request, index: usize) -> Looking {
        let account = &self.accounts[index];
        if request.trail.refusal_by(account.id).is_none() {
            return Looking::No;
        }
        let ask = self.ask(now, request, &[], now.mono);
        match self.is_proof(account, &ask) {
            true => Looking::ForProof,
            false => Looking::Again,
        }
    }
}

/// Adds a request to the account; it tests whatever awaits a test.
fn occupy(now: Now, id: u64, account: &mut Account, request: &Request, why: Why) {
    account.in_flight += 1;
    account.active_weight = account.active_weight.saturating_add(u64::from(request.weight));
    account.recent.add(now.mono, u64::from(request.weight));
    account.usage.last_used = Some(now.wall);
    let target = Target {
        class: request.class,
        family: request.family.as_ref(),
        model: request.model.as_deref(),
    };
    account.start_look(now, id, target);
    if why == Why::LongLook {
        account.start_long_look(now, id, target);
    }
    if request.class == RouteClass::Messages {
        account.messages_in_flight += 1;
        account.windows.start_look(now, id, |window| window.concerns(request.family.as_ref()));
    }
}

/// The decision about a request.
#[derive(Debug)]
pub(super) enum Decision {
    Serve(Choice),
    Hold(WaitCause),
    Refuse(Refusal),
}

impl Scheduler {
    /// Q6: after its held streams have ended at the client's tolerance, a client asks once without
    /// streaming, and again after each 529. Such a request continues the same wait: it is held up
    /// to its own limit even if the end is later, where another request without streaming would be
    /// answered at once (Q1).
    fn bear_a_fallback(&self, now: Now, request: &mut Request) {
        if request.shape == Shape::NonStream
            && let Some(session) = request.session
            && self.queue.was_held(now.mono, session)
        {
            let bearable = self.policy.non_stream_max_wait;
            request.tolerance = Some(request.tolerance.map_or(bearable, |own| own.min(bearable)));
            request.shape = Shape::Fallback;
        }
    }
}
