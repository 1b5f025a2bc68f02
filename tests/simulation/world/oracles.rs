//! The oracles: what must hold after every step.

use super::*;

impl World {
    /// Nobody waits, nothing is in flight, and after a day every account serves again.
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
        // A step back of the wall clock may have moved resets away again.
        self.now.wall = self.now.wall + Duration::from_secs(30 * 86_400);
        self.expire();
        let ids: Vec<AccountId> =
            self.accounts.iter().filter(|(_, known)| !known.leaving).map(|(id, _)| *id).collect();
        for id in ids {
            self.pass_to(self.now.mono + Duration::from_secs(1));
            let request =
                Request { pinned: Some(id), brought: vec![id], ..Request::new(0, self.now.mono) };
            match self.subject.admit(self.now, request) {
                Admitted::Granted(given) => {
                    self.subject.complete(self.now, given.lease, Outcome::Success)
                }
                other => {
                    return fail(
                        "everything settles",
                        format!("{id:?} does not serve again: {other:?}"),
                    );
                }
            }
        }
        Ok(())
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
        if let Some(why) = known.forbids(self.now, &self.policy, request, thinking) {
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
        if request.excluded.contains(&given.account) {
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
        if client.grants_in_pass >= most {
            return fail(
                "attempts are bounded",
                format!("{} in a pass of {most}", client.grants_in_pass),
            );
        }
        Ok(())
    }

    pub(super) fn breaker_state(&mut self) -> Option<bool> {
        let breaker = self.subject.real().breaker(self.now);
        let ready = breaker.until.is_some_and(|until| until <= self.now.wall);
        breaker.active.then_some(ready && !breaker.probe_in_flight)
    }

    /// P8: while it is open nobody passes, and then one.
    pub(super) fn check_breaker(
        &mut self,
        before: Option<bool>,
        claude: u32,
        given: &Given,
    ) -> Checked {
        if self.blind || !self.is_claude(given.account) {
            return Ok(());
        }
        if self.probe.is_some() {
            return fail("one probe at a time", format!("{given:?} beside {:?}", self.probe));
        }
        match before {
            None => Ok(()),
            Some(true) if claude <= 1 => {
                self.see("breaker probed");
                self.probe = Some(given.lease);
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
        one.profile == other.profile
            && one.family == other.family
            && thinks(one) == thinks(other)
            && one.pinned == other.pinned
            && one.brought == other.brought
            && one.thread.is_none()
            && other.thread.is_none()
    }

    /// Q2 within a class: nobody who came before still waits.
    pub(super) fn check_order(&self, request: &Request, place: u64) -> Checked {
        for (ticket, id) in &self.tickets {
            let Some(client) = self.clients.get(id) else {
                continue;
            };
            let State::Waiting { place: other, paused, .. } = client.state else {
                continue;
            };
            if other < place && paused <= self.now.mono && self.alike(&client.request, request) {
                return fail(
                    "first in, first out",
                    format!("{ticket:?} of client {id} at {other} still waits behind {place}"),
                );
            }
        }
        Ok(())
    }

    /// Q2: a newcomer passes nobody of its class.
    pub(super) fn check_no_overtaking(&self, request: &Request) -> Checked {
        let waits = request.holdable;
        for id in self.tickets.values() {
            let Some(client) = self.clients.get(id) else {
                continue;
            };
            let State::Waiting { paused, .. } = client.state else {
                continue;
            };
            if waits
                && paused <= self.now.mono
                && self.alike(&client.request, request)
                && client.request.excluded.is_empty()
            {
                return fail(
                    "first in, first out",
                    format!("{request:?} passes client {id}: {client:?}"),
                );
            }
        }
        Ok(())
    }

    /// Nobody is let go before its time.
    pub(super) fn check_expiry(&self, request: &Request, id: u64, limit: Limit) -> Checked {
        let since =
            self.clients.get(&id).and_then(|client| client.first_wait).unwrap_or(self.now.mono);
        let waited = self.now.mono.since(since);
        let bears = request.tolerance.map(|tolerance| request.arrived + tolerance);
        // A fallback of a held stream bears its limit from its arrival on.
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
        // A snapshot is long work; a wrong count does not go away by itself.
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

    /// After `poll` is dry nobody waits whom an account could serve, and nobody waits longer than
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
            if request.excluded.is_empty() && asked.iter().any(|other| self.alike(other, &request))
            {
                continue;
            }
            let explained = self.subject.real().explain(self.now, &request);
            if let ExplainedVerdict::Chosen(account, _) = explained.verdict {
                return fail(
                    "no lost wake-up",
                    format!("client {id} waits, {account:?} could serve it: {request:?}"),
                );
            }
            for one in &explained.passed_over {
                self.see(passed_over_name(&one.reason));
            }
            self.tell(|_| format!("client {id} waits: {:?}", explained.passed_over));
            asked.push(request);
        }
        Ok(())
    }
}

/// Steps from one look at a whole snapshot to the next.
const SNAPSHOT_EVERY: u64 = 4;
