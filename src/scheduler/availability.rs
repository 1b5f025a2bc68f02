//! Whether an account can serve a request now (SPEC S3, S6): everything that stands in the way.
//!
//! Availability is the absence of obstacles, asked anew each time, and not a state that is kept: a
//! kept one would have to be updated whenever a window, a block, a cap or the breaker changes.

use super::Scheduler;
use super::parts::account::{Account, BlockState, keeps_out};
use super::parts::block::{BlockReason, WaitCause};
use super::parts::breaker::Pass;
use super::parts::cost::PromptCache;
use super::parts::id::RouteClass;
use super::parts::obstacle::Obstacle;
use super::parts::policy::Overage;
use super::parts::queue::Waiter;
use super::parts::quota::{Family, WindowKind};
use super::parts::request::{Routing, Shape};
use super::parts::storm::Room;
use super::parts::time::{Mono, Now};
use super::parts::trail::RefusedFor;
use super::parts::windows::{Full, Window};
use super::select::{Ask, Patience, Restraint, Route, mismatch};

impl Scheduler {
    /// Everything that keeps this request from this account, until `visit` says stop by returning
    /// false.
    pub(super) fn obstacles<'a>(
        &'a self,
        now: Now,
        account: &'a Account,
        ask: &Ask<'_>,
        mut visit: impl FnMut(Obstacle<'a>) -> bool,
    ) {
        if let Some(obstacle) = mismatch(account, ask) {
            visit(obstacle);
            return;
        }
        if ask.tried.contains(&account.id)
            && !ask.trail.has_suspense_on(account.id)
            && !visit(Obstacle::Tried { until: ask.tried_until, cause: ask.last_failure })
        {
            return;
        }
        if let Some(obstacle) = self.own_refusal(now, account, ask)
            && !visit(obstacle)
        {
            return;
        }
        let lately = account.has_served_lately(now.mono);
        for held in account.placed(now).filter(|held| keeps_out(&held.block.scope, ask.target())) {
            // Other classes are answered, not held (P7).
            let is_rest = lately
                && ask.class == RouteClass::Messages
                && held.block.reason == BlockReason::CredentialRefused;
            let obstacle = match (held.state(now), is_rest) {
                (BlockState::Lookable, _) => continue,
                (BlockState::InForce, true) => Obstacle::Rest(&held.block),
                (BlockState::BeingLooked, true) => Obstacle::BlockBeingLooked(&held.block),
                (BlockState::InForce | BlockState::BeingLooked, false) => {
                    Obstacle::Block(&held.block)
                }
            };
            if !visit(obstacle) {
                return;
            }
        }
        // P3: message quota is used by messages alone, and the others never wait behind them.
        if ask.class != RouteClass::Messages {
            let others = account.in_flight.saturating_sub(account.messages_in_flight);
            if is_reached(others, self.policy.max_active_per_account) {
                visit(Obstacle::AccountFull);
            }
            return;
        }
        for window in account.windows.iter(now.wall) {
            if let Some(obstacle) = self.full(now, account, window, ask.family)
                && !visit(obstacle)
            {
                return;
            }
        }
        if let (Some(end), Overage::Never) = (account.overage(now), self.policy.overage)
            && !visit(Obstacle::Overage { until: end.mono(now) })
        {
            return;
        }
        self.crowding(now, account, ask, visit);
    }

    /// P7: what this request itself has met on the account, and what has become of it since.
    fn own_refusal<'a>(&self, now: Now, account: &Account, ask: &Ask<'_>) -> Option<Obstacle<'a>> {
        let refusal = ask.trail.refusal_by(account.id)?;
        match refusal.why {
            RefusedFor::Delay(until) => (until > now.mono)
                .then_some(Obstacle::Tried { until, cause: Some(WaitCause::Capacity) }),
            RefusedFor::Unproven { .. } => {
                let look_at = ask.trail.look_at_refuser(refusal, &self.policy);
                let look_at = look_at.filter(|at| *at > now.mono)?;
                let closed = self.breakers.get(ask.family).and_then(|breaker| breaker.closed_at());
                let answers_again = closed.is_some_and(|at| at >= refusal.at);
                let is_free = answers_again || self.is_proof(account, ask);
                (!is_free).then_some(Obstacle::Suspense(look_at))
            }
        }
    }

    /// The account has served an unrelated request since it refused this one.
    pub(super) fn is_proof(&self, account: &Account, ask: &Ask<'_>) -> bool {
        ask.trail.refusal_by(account.id).is_some_and(|refusal| {
            account.suspicions.has_served_since(ask.class, ask.kin, refusal.at)
        })
    }

    /// The obstacles that other requests are: caps, ramps, the breaker.
    fn crowding<'a>(
        &self,
        now: Now,
        account: &Account,
        ask: &Ask<'_>,
        mut visit: impl FnMut(Obstacle<'a>) -> bool,
    ) {
        if is_reached(account.messages_in_flight, self.policy.max_active_per_account)
            && !visit(Obstacle::AccountFull)
        {
            return;
        }
        if is_reached(self.messages_in_flight, self.policy.max_active_global)
            && !visit(Obstacle::PoolFull)
        {
            return;
        }
        // One that cannot wait is not made to wait by a ramp, unless it would pass those who do.
        let can_wait = ask.patience == Patience::CanWait || self.queue.in_line() > 0;
        match account.ramp.room(now.mono) {
            Room::From(at) if can_wait => {
                if !visit(Obstacle::Ramp(at)) {
                    return;
                }
            }
            Room::From(_) | Room::Free => {}
        }
        if account.is_claude() {
            let goes_on = match self.breakers.pass(now.mono, ask.family) {
                Pass::Open(until) => visit(Obstacle::BreakerOpen(until)),
                Pass::Probing => visit(Obstacle::BreakerProbing),
                Pass::Paced(next) if can_wait => visit(Obstacle::BreakerPacing(next)),
                Pass::Free if self.leaves_probe_to_others(now, ask) => {
                    visit(Obstacle::BreakerProbing)
                }
                Pass::Paced(_) | Pass::Free => true,
            };
            if !goes_on {
                return;
            }
        }
        // Last, so that an account whose first obstacle is a restraint has no other.
        if let Some(obstacle) = self.restraint(now, account, ask) {
            visit(obstacle);
        }
    }

    /// P8: a request in suspense may be what is wrong, so that its probe would say nothing about
    /// the API. Anybody else who waits for the breaker probes first.
    fn leaves_probe_to_others(&self, now: Now, ask: &Ask<'_>) -> bool {
        let waits_for_it = |waiter: &Waiter| {
            let request = &waiter.request;
            let capacity = matches!(waiter.clock.cause, Some((WaitCause::Capacity, _)));
            capacity
                && !request.trail.is_in_suspense()
                && request.class == RouteClass::Messages
                && request.family.as_ref() == ask.family
        };
        ask.trail.is_in_suspense()
            && self.breakers.awaits_probe(now.mono, ask.family)
            && self.queue.iter().any(waits_for_it)
    }

    /// S6: the brink, and cold starts while requests wait. Who must go to this account is spared
    /// the second, since it could not go anywhere else meanwhile.
    fn restraint<'a>(&self, now: Now, account: &Account, ask: &Ask<'_>) -> Option<Obstacle<'a>> {
        match (ask.restraint, ask.shape) {
            (Restraint::Waived, _) | (_, Shape::CountTokens) => return None,
            (Restraint::Heeded, Shape::Stream | Shape::NonStream | Shape::Fallback) => {}
        }
        if account.overage(now).is_some() {
            return None;
        }
        let five_hours = account.used(now.wall, &WindowKind::FiveHour);
        let week = account.used(now.wall, &WindowKind::SevenDay);
        // A reset in between ends either.
        let or_reset = |until: Mono| {
            let measured = |kind: &WindowKind| match kind {
                WindowKind::FiveHour | WindowKind::SevenDay => true,
                WindowKind::SevenDayFamily(_)
                | WindowKind::Tokens
                | WindowKind::Requests
                | WindowKind::Generic => false,
            };
            let windows = account.windows.iter(now.wall);
            let resets =
                windows.filter(|window| measured(&window.kind)).filter_map(|window| window.reset);
            resets.fold(until, |until, reset| until.min(now.mono_at(reset)))
        };
        if let Some(until) = account.costs.brink(now.mono, five_hours, week) {
            return Some(Obstacle::Brink(or_reset(until)));
        }
        let is_free = ask.route == Route::Any && self.routing != Routing::Preferred(account.id);
        if !is_free || ask.others_waiting == 0 {
            return None;
        }
        match ask.cache_on(now.mono, account.id) {
            PromptCache::Warm => None,
            PromptCache::Cold => account
                .costs
                .cold_start(ask.cost(PromptCache::Cold), five_hours)
                .map(|until| Obstacle::ColdStart(or_reset(until))),
        }
    }

    /// S3, S4: does this window keep the request out? The API serves paid overage beyond every
    /// window, so that only the owner's own limit counts then.
    fn full<'a>(
        &self,
        now: Now,
        account: &Account,
        window: &'a Window,
        family: Option<&Family>,
    ) -> Option<Obstacle<'a>> {
        let used = window.used?;
        let limit = account.spec.limit;
        let (full, own) = match &window.kind {
            WindowKind::FiveHour => (1.0, limit.five_hour),
            WindowKind::Tokens | WindowKind::Requests | WindowKind::Generic => (1.0, None),
            WindowKind::SevenDay | WindowKind::SevenDayFamily(_) if account.is_allowed() => {
                (1.0, limit.week)
            }
            WindowKind::SevenDay | WindowKind::SevenDayFamily(_) => {
                (self.policy.weekly_exhausted.min(1.0), limit.week)
            }
        };
        if !window.concerns(family) || window.full(now) == Full::Lookable {
            return None;
        }
        if used >= full && account.overage(now).is_none() {
            return Some(Obstacle::Window(window));
        }
        own.is_some_and(|own| used >= own).then_some(Obstacle::Limit(window))
    }

    /// What stands in the way first, if anything does.
    pub(super) fn first_obstacle<'a>(
        &'a self,
        now: Now,
        account: &'a Account,
        ask: &Ask<'_>,
    ) -> Option<Obstacle<'a>> {
        let mut first = None;
        self.obstacles(now, account, ask, |obstacle| {
            first = Some(obstacle);
            false
        });
        first
    }
}

/// A cap of zero is none.
fn is_reached(active: u32, cap: u32) -> bool {
    cap != 0 && active >= cap
}
