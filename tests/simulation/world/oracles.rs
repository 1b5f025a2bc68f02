//! The oracles, which check what must hold after every step.

use super::*;

impl World {
    /// No request waits or is in flight, and after a day every account serves again.
    pub(super) fn check_settled(&mut self) -> Checked {
        if !self.tickets.is_empty() || !self.clients.is_empty() {
            return fail("everything settles", format!("{:?} {:?}", self.tickets, self.clients));
        }
        self.check_snapshot()?;
        let snapshot = self.subject.snapshot(self.now);
        if snapshot.in_flight != 0 || snapshot.queue.waiting != 0 || snapshot.queue.bytes != 0 {
            return fail("everything settles", format!("{snapshot:?}"));
        }
        self.pass_to(self.now.mono + Duration::from_secs(9 * 86_400));
        // If the wall clock was set back, resets may have moved away again.
        self.now.wall = self.now.wall + Duration::from_secs(30 * 86_400);
        self.expire();
        let ids: Vec<AccountId> =
            self.accounts.iter().filter(|(_, known)| !known.leaving).map(|(id, _)| *id).collect();
        for id in ids {
            self.check_serves(id, Outcome::CredentialRefused { evidence: Evidence::default() })?;
            // No rest is longer (T2); after it, one request probes.
            self.check_serves(id, Outcome::Success)?;
        }
        Ok(())
    }

    /// A quarter of an hour later, the account takes a request, which ends with this outcome.
    fn check_serves(&mut self, id: AccountId, outcome: Outcome) -> Checked {
        self.pass_to(self.now.mono + maxpool::scheduler::policy::REST_MAX);
        let request =
            Request { pinned: Some(id), brought: vec![id], ..Request::new(0, self.now.mono) };
        match self.subject.admit(self.now, request) {
            Admitted::Granted(given) => {
                self.subject.complete(self.now, given.lease, outcome);
                Ok(())
            }
            other => fail(
                "every block of ours ends or has a look",
                format!("{id:?} does not serve again: {other:?}"),
            ),
        }
    }

    pub(super) fn check_grant(&mut self, id: u64, given: &Given) -> Checked {
        let Some(client) = self.clients.get(&id) else {
            return Ok(());
        };
        let request = &client.request;
        let Some(known) = self.accounts.get(&given.account) else {
            return fail("no grant on a blocked account", format!("{given:?}: no such account"));
        };
        let thinking = request.signed_thinking
            || request.session.is_some_and(|session| self.thinking.contains(&session));
        let may_look = given.why == Why::LongLook
            && known.said_at(&self.policy, request.family.as_ref())
                + Duration::from_secs(6 * 3_600)
                <= self.now.mono;
        if let Some(why) = known.forbids(self.now, &self.policy, request, thinking)
            && !may_look
        {
            return fail(
                "no grant on a blocked account",
                format!("{given:?} for {request:?}: {why}"),
            );
        }
        if known.spec.access == Access::Bringers && !request.brought.contains(&given.account) {
            return fail(
                "no request goes to an account that another one brought",
                format!("{given:?} for {request:?}"),
            );
        }
        if request.pinned.is_some_and(|pinned| pinned != given.account) {
            return fail("no grant on a blocked account", format!("{given:?} for {request:?}"));
        }
        // A request in suspense has its own oracle.
        let in_suspense = client.refused_by.contains_key(&given.account);
        if request.excluded.contains(&given.account) && !in_suspense {
            return fail("no grant on an excluded account", format!("{given:?} for {request:?}"));
        }
        let cap = self.policy.max_active_per_account;
        if known.in_flight >= cap || self.is_full() {
            return fail(
                "in flight never above the caps",
                format!("{given:?}: {} of {cap}, or all", known.in_flight),
            );
        }
        let most = match self.policy.max_attempts {
            0 => self.truth.len(),
            most => usize::try_from(most).unwrap_or(usize::MAX),
        };
        if client.grants_in_pass >= most && !in_suspense {
            return fail(
                "attempts are bounded",
                format!("{} in a pass of {most}", client.grants_in_pass),
            );
        }
        Ok(())
    }

    /// P7: a request does not retry an account that has refused it without evidence until something
    /// has changed.
    pub(super) fn check_repeat(&self, id: u64, given: &Given) -> Checked {
        let Some(client) = self.clients.get(&id) else {
            return Ok(());
        };
        let Some((at, wait)) = client.refused_by.get(&given.account) else {
            return Ok(());
        };
        let served = self.served.get(&given.account).is_some_and(|served| {
            served.iter().any(|(sent, kin)| sent >= at && *kin != client.request.kin)
        });
        let closed = self.closed_at.is_some_and(|closed| closed >= *at);
        match *at + *wait <= self.now.mono || served || closed {
            true => Ok(()),
            false => fail(
                "no call is repeated without a change",
                format!("client {id} was refused at {at:?} for {wait:?}: {given:?}"),
            ),
        }
    }

    /// P7: a refusal that only one request has met does not affect the others; one that two
    /// unrelated requests have met does.
    pub(super) fn check_proof(&mut self, account: AccountId, message: &str) -> Checked {
        let key = (account, message.to_owned());
        let Some(kins) = self.met.get(&key).map(BTreeSet::len) else {
            return Ok(());
        };
        let snapshot = self.subject.snapshot(self.now);
        let Some(account) = snapshot.accounts.iter().find(|one| one.id == account) else {
            return Ok(());
        };
        let out = || account.blocks.iter().filter(|block| block.effect == Effect::Out);
        let by_this = out().any(|block| *block.evidence.message == *message);
        let aside = out().any(|block| {
            matches!(block.reason, BlockReason::ServerSide | BlockReason::ServerError)
        });
        // Two others may have proven the same before, and that block may still be in force.
        let longest = self.policy.max_cooldown;
        let was_proven = self.proven.get(&key).is_some_and(|at| *at + longest > self.now.mono);
        if kins > 1 && aside {
            self.proven.insert(key, self.now.mono);
        }
        match (kins, by_this, aside) {
            (1, true, _) if !was_proven => fail(
                "an unrelated request is never delayed by one request's unproven refusal",
                format!("{account:?}"),
            ),
            (2.., _, false) => {
                fail("two unrelated requests that meet the same do trip it", format!("{account:?}"))
            }
            (_, _, out) => {
                self.see(if out { "a refusal was proven" } else { "a refusal was not proven" });
                Ok(())
            }
        }
    }

    /// For each family: whether its breaker is open and, if so, ready for a probe; and how many
    /// requests have passed since.
    pub(super) fn breaker_state(&mut self) -> BTreeMap<Option<Family>, (Option<bool>, u32)> {
        let families = [None, Some(family("opus")), Some(family("haiku"))];
        let state = families.map(|family| {
            let breaker = self.subject.real().breaker_of(self.now, family.as_ref());
            let ready = breaker.until.is_some_and(|until| until <= self.now.wall);
            (family, (breaker.active.then_some(ready && !breaker.probe_in_flight), 0))
        });
        state.into_iter().collect()
    }

    /// P8: while the breaker is open no request passes, then a single one does.
    pub(super) fn check_breaker(
        &mut self,
        before: &mut BTreeMap<Option<Family>, (Option<bool>, u32)>,
        client: Option<u64>,
        given: &Given,
    ) -> Checked {
        if self.blind || !self.is_claude(given.account) {
            return Ok(());
        }
        let client = client.and_then(|id| self.clients.get(&id));
        let Some(family) = client.map(|client| client.request.family.clone()) else {
            return Ok(());
        };
        if let Some(probe) = self.probes.get(&family) {
            return fail("one probe at a time", format!("{given:?} beside {probe:?}"));
        }
        let Some((before, passed)) = before.get_mut(&family) else {
            return Ok(());
        };
        *passed += 1;
        match before {
            None => Ok(()),
            Some(true) if *passed <= 1 => {
                self.see("breaker probed");
                self.probes.insert(family, given.lease);
                Ok(())
            }
            Some(_) => fail("one probe at a time", format!("{given:?} while the breaker is open")),
        }
    }

    pub(super) fn alike(&self, one: &Request, other: &Request) -> bool {
        let thinks = |request: &Request| {
            request.signed_thinking
                || request.session.is_some_and(|session| self.thinking.contains(&session))
        };
        // A request's own history decides what happens to it.
        let is_plain = |request: &Request| request.trail.is_empty();
        is_plain(one)
            && is_plain(other)
            && one.profile == other.profile
            && one.family == other.family
            && thinks(one) == thinks(other)
            && one.pinned == other.pinned
            && one.brought == other.brought
            && one.thread.is_none()
            && other.thread.is_none()
    }

    /// S6: a request that has a cache on the account, costs less or cannot wait as long may pass
    /// one that the brink or a cold start delays.
    fn may_pass(&mut self, request: &Request, other: u64, account: AccountId) -> bool {
        let Some(client) = self.clients.get(&other) else {
            return true;
        };
        let (mut other, restrained) = (client.request.clone(), client.restrained);
        (other.attempts, other.thread) = (0, None);
        other.excluded.clear();
        // Each queued request has its own time limit for restraints.
        let own = self.clients.get(&request.id).and_then(|own| own.first_wait);
        // A session may have a cache that the simulator does not know of.
        let differs = request.session != other.session
            || request.body_bytes < other.body_bytes
            || request.shape != other.shape
            || request.tolerance.is_some()
            || request.clock != other.clock
            || own.is_some();
        if !differs || restrained.is_some() {
            return differs;
        }
        let explained = self.subject.real().explain(self.now, &other);
        // If the queue is full, a new request is exempt from the restraints that apply to waiting
        // ones.
        let spared = matches!(explained.verdict, ExplainedVerdict::Chosen(..));
        spared
            || explained.passed_over.iter().any(|one| {
                let restraint = matches!(one.reason, PassedOver::ColdStart | PassedOver::AtBrink);
                restraint || one.account == account && one.reason == PassedOver::AccountFull
            })
    }

    pub(super) fn remember_cache(&mut self, id: u64, account: AccountId) {
        if let Some(client) = self.clients.get(&id)
            && let Some(session) = client.request.session
            && client.request.shape != Shape::CountTokens
        {
            let own = (account, client.granted);
            let last = self.caches.entry(session).or_insert(own);
            if last.1 <= own.1 {
                *last = own;
            }
        }
    }

    /// S7b: the account that has the session's prompt in its cache, unless something other than a
    /// score favours another.
    pub(super) fn cached_route(&mut self, request: &Request) -> Option<AccountId> {
        let (account, at) = *self.caches.get(&request.session?)?;
        // Waiting requests are served first and may use up the capacity.
        if !self.tickets.is_empty() {
            return None;
        }
        let idle = Duration::from_secs(300).min(self.policy.session_idle);
        if at + idle <= self.now.mono {
            return None;
        }
        let explained = self.subject.real().explain(self.now, request);
        let own = explained.candidates.iter().find(|one| one.account == account)?;
        let leaves = |one: &Candidate| one.avoided.iter().any(Avoided::drives_away);
        let leaves = leaves(own) || own.tier >= Some(Tier::Critical);
        let outranked = explained.candidates.iter().any(|one| one.priority < own.priority);
        (!leaves && !outranked).then_some(account)
    }

    pub(super) fn check_stays(
        &self,
        cached: Option<AccountId>,
        request: &Request,
        given: &Given,
    ) -> Checked {
        // In suspense, accounts that have all refused the request are tried by turns (P7).
        if !request.trail.is_empty() {
            return Ok(());
        }
        match (given.why, cached) {
            (Why::Score(_), Some(account)) if account != given.account => fail(
                "a session stays where its cache is",
                format!("{request:?} has its cache on {account:?} and gets {given:?}"),
            ),
            _ => Ok(()),
        }
    }

    /// S6: the brink and cold starts delay no request longer than they may.
    fn check_restraints(&mut self) -> Checked {
        let waiting: Vec<u64> = self.tickets.values().copied().collect();
        for id in waiting {
            let Some(client) = self.clients.get(&id) else {
                continue;
            };
            let State::Waiting { paused, .. } = client.state else {
                continue;
            };
            let mut request = client.request.clone();
            if paused <= self.now.mono {
                request.excluded.clear();
            }
            (request.attempts, request.thread) = (0, None);
            // A request that cannot wait is not restrained.
            request.holdable = false;
            let explained = self.subject.real().explain(self.now, &request);
            let served = matches!(explained.verdict, ExplainedVerdict::Chosen(..));
            let since = match (served, client.restrained) {
                (true, since) => Some(since.unwrap_or(self.now.mono)),
                (false, _) => None,
            };
            if since.is_some_and(|since| since + Duration::from_secs(600) < self.now.mono) {
                return fail(
                    "a restraint ends",
                    format!("client {id} waits since {since:?} at {:?}", self.now.mono),
                );
            }
            if let Some(client) = self.clients.get_mut(&id) {
                client.restrained = since;
            }
        }
        Ok(())
    }

    /// The reason why a waiting request does not use an account must be true.
    fn check_reason(&self, one: &Standing) -> Checked {
        let Some(known) = self.accounts.get(&one.account) else {
            return Ok(());
        };
        let untrue = match &one.reason {
            PassedOver::WindowFull { percent, .. } => *percent < 100,
            PassedOver::AtBrink => known.moved + Duration::from_secs(5) <= self.now.mono,
            _ => false,
        };
        match untrue {
            true => fail("nobody waits whom an avoided account could serve", format!("{one:?}")),
            false => Ok(()),
        }
    }

    /// Q2: within a class, no earlier request is still waiting.
    pub(super) fn check_order(
        &mut self,
        request: &Request,
        place: u64,
        account: AccountId,
    ) -> Checked {
        let passed =
            self.passed(|client, other| other < place && self.alike(&client.request, request));
        for id in passed {
            if !self.may_pass(request, id, account) {
                return fail(
                    "first in, first out",
                    format!("client {id} still waits: {request:?} {:?}", self.clients.get(&id)),
                );
            }
        }
        Ok(())
    }

    /// Q2: a new request for which the queue has room does not overtake its class. One that would
    /// otherwise be refused is exempt from the restraints on waiting requests (S6).
    pub(super) fn check_no_overtaking(&mut self, request: &Request, account: AccountId) -> Checked {
        if !request.holdable {
            return Ok(());
        }
        let passed = self.passed(|client, _| {
            self.alike(&client.request, request) && client.request.excluded.is_empty()
        });
        for id in passed {
            if !self.may_pass(request, id, account) {
                return fail(
                    "first in, first out",
                    format!("{request:?} passes client {id}: {:?}", self.clients.get(&id)),
                );
            }
        }
        Ok(())
    }

    pub(super) fn has_room(&self, request: &Request) -> bool {
        let bodies = self.tickets.values().filter_map(|id| self.clients.get(id));
        let bytes: u64 = bodies.map(|client| client.request.body_bytes).sum();
        self.tickets.len() < self.policy.max_queued
            && request.body_bytes <= self.policy.max_queued_body_bytes
            && bytes + request.body_bytes <= self.policy.max_queued_bytes
    }

    /// The waiting requests that are overtaken, except those in a pause between two passes.
    fn passed(&self, is_passed: impl Fn(&Client, u64) -> bool) -> Vec<u64> {
        let waiting = self.tickets.values().filter(|id| {
            let Some(client) = self.clients.get(id) else {
                return false;
            };
            match client.state {
                State::Waiting { place, paused, .. } => {
                    paused <= self.now.mono && is_passed(client, place)
                }
                _ => false,
            }
        });
        waiting.copied().collect()
    }

    /// No wait ends before its time.
    pub(super) fn check_expiry(&self, request: &Request, id: u64, limit: Limit) -> Checked {
        let since =
            self.clients.get(&id).and_then(|client| client.first_wait).unwrap_or(self.now.mono);
        let waited = self.now.mono.since(since);
        let bears = request.tolerance.map(|tolerance| request.arrived + tolerance);
        // A fallback of a held stream keeps its limit from its arrival on.
        let longest = waited.max(self.now.mono.since(request.arrived));
        let shape = request.shape == Shape::NonStream && longest >= self.policy.non_stream_max_wait;
        if limit == Limit::ClientTolerance
            && !shape
            && bears.is_none_or(|until| until > self.now.mono)
        {
            return fail(
                "deadlines are kept",
                format!("client {id} could bear more after {waited:?}"),
            );
        }
        Ok(())
    }

    pub(super) fn check_all(&mut self) -> Checked {
        self.check_waiters()?;
        self.check_restraints()?;
        // A snapshot is expensive, and a wrong count does not go away by itself.
        if !self.report.steps.is_multiple_of(SNAPSHOT_EVERY) {
            return Ok(());
        }
        self.check_snapshot()
    }

    pub(super) fn check_snapshot(&mut self) -> Checked {
        let snapshot = self.subject.snapshot(self.now);
        let mut flying = 0;
        for account in &snapshot.accounts {
            let Some(known) = self.accounts.get(&account.id) else {
                return fail("snapshot sums agree", format!("{} is not known", account.name));
            };
            let own = (known.in_flight, known.weight, known.ended);
            let said = (account.in_flight, account.active_weight, account.completed);
            if own != said {
                return fail(
                    "leases equal what is in flight",
                    format!("{}: {said:?}, not {own:?}", account.name),
                );
            }
            flying += account.in_flight;
            self.report.see_once(&format!("Status::{:?}", account.status));
            if let Some(tier) = account.weekly.state {
                self.report.see_once(&format!("Tier::{tier:?}"));
            }
        }
        let bytes: u64 = self
            .tickets
            .values()
            .filter_map(|id| self.clients.get(id))
            .map(|client| client.request.body_bytes)
            .sum();
        let queue = (snapshot.queue.waiting, snapshot.queue.bytes);
        if snapshot.accounts.len() != self.accounts.len()
            || snapshot.in_flight != flying
            || queue != (self.tickets.len(), bytes)
        {
            return fail(
                "snapshot sums agree",
                format!(
                    "{flying} in flight, {} waiting, {bytes} bytes: {snapshot:?}",
                    self.tickets.len()
                ),
            );
        }
        if queue.0 > self.policy.max_queued || queue.1 > self.policy.max_queued_bytes {
            return fail("the queue is bounded", format!("{queue:?}"));
        }
        Ok(())
    }

    /// After `poll` returns nothing, no waiting request could be served, and none waits longer than
    /// it may.
    pub(super) fn check_waiters(&mut self) -> Checked {
        let waiting: Vec<u64> = self.tickets.values().copied().collect();
        let mut asked: Vec<Request> = Vec::new();
        let longest = self
            .policy
            .auto_max_wait
            .map_or(self.policy.max_wait, |auto| auto.min(self.policy.max_wait));
        for id in waiting {
            let Some(client) = self.clients.get(&id) else {
                continue;
            };
            let State::Waiting { paused, .. } = client.state else {
                continue;
            };
            let mut request = client.request.clone();
            let waited = self.now.mono.since(client.first_wait.unwrap_or(self.now.mono));
            let bears = request
                .tolerance
                .is_none_or(|tolerance| request.arrived + tolerance > self.now.mono);
            let allowed = match request.shape {
                Shape::Stream => longest,
                Shape::NonStream | Shape::Fallback => longest.min(self.policy.non_stream_max_wait),
                Shape::CountTokens => longest.min(self.policy.count_tokens_max_wait),
            };
            if !bears || waited > allowed {
                return fail(
                    "deadlines are kept",
                    format!("client {id} waits for {waited:?} of {allowed:?}: {request:?}"),
                );
            }
            if paused <= self.now.mono {
                request.excluded.clear();
            }
            request.attempts = 0;
            request.thread = None;
            // A request that follows a held stream waits as a fallback (Q6), which the simulator
            // cannot see.
            if request.shape == Shape::NonStream {
                request.shape = Shape::Fallback;
            }
            if request.excluded.is_empty() && asked.iter().any(|other| self.alike(other, &request))
            {
                continue;
            }
            let explained = self.subject.real().explain(self.now, &request);
            // A new request that finds the queue full is exempt from the restraints; a waiting one
            // is not.
            let has_room = self.has_room(&request);
            if let (ExplainedVerdict::Chosen(account, _), true) = (&explained.verdict, has_room) {
                return fail(
                    "no lost wake-up",
                    format!(
                        "client {id} waits, {account:?} could serve it: {request:?} {explained:?}"
                    ),
                );
            }
            for one in &explained.passed_over {
                self.check_reason(one)?;
                self.see(passed_over_name(&one.reason));
            }
            self.tell(|_| format!("client {id} waits: {:?}", explained.passed_over));
            asked.push(request);
        }
        Ok(())
    }
}

/// Steps between two checks of a whole snapshot.
const SNAPSHOT_EVERY: u64 = 4;
