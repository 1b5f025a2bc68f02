//! Clients: they arrive, ask, wait, are served, fail over, leave and return, as the proxy and its
//! gate would have it.

use super::*;

impl World {
    pub(super) fn arrive(&mut self) -> Checked {
        let burst = if self.rng.chance(150) { self.rng.within(5, 14) } else { 1 };
        for _ in 0..burst {
            self.last_client += 1;
            let id = self.last_client;
            let request = self.draw_request(id);
            self.clients.insert(id, Client::new(request));
            self.ask(id)?;
        }
        Ok(())
    }

    pub(super) fn draw_request(&mut self, id: u64) -> Request {
        let rng = &mut self.rng;
        let profile =
            *rng.pick(&["claude", "claude", "claude", "all", "all", "work"]).unwrap_or(&"claude");
        let odd = rng.chance(10);
        let session = rng.chance(600).then(|| SessionKey(u128::from(rng.below(6))));
        let request = Request {
            profile: Arc::from(if odd { "nobody" } else { profile }),
            weight: u32::try_from(rng.within(1, 4)).unwrap_or(1),
            family: [None, Some("opus"), Some("haiku")][usize::try_from(rng.below(3)).unwrap_or(0)]
                .map(family),
            session,
            signed_thinking: rng.chance(150),
            thread: rng.chance(80).then(|| ThreadKey(u128::from(rng.below(4)))),
            pinned: None,
            shape: *rng
                .pick(&[
                    Shape::Stream,
                    Shape::Stream,
                    Shape::Stream,
                    Shape::NonStream,
                    Shape::CountTokens,
                ])
                .unwrap_or(&Shape::Stream),
            body_bytes: *rng.pick(&[0, 1_000, 500_000, 3_000_000]).unwrap_or(&0),
            holdable: !rng.chance(30),
            tolerance: rng.chance(400).then(|| Duration::from_millis(rng.within(2_000, 300_000))),
            resume: rng.chance(700).then(|| u128::from(id)),
            kin: Kin(u128::from(rng.below(5))),
            ..Request::new(id, self.now.mono)
        };
        let pinned = self.rng.chance(40).then(|| self.any_account()).flatten();
        let mut brought: Vec<AccountId> = Vec::new();
        for (id, known) in &self.accounts {
            if known.spec.access == Access::Bringers && self.rng.chance(500) {
                brought.push(*id);
            }
        }
        Request { pinned, brought, ..request }
    }

    pub(super) fn any_account(&mut self) -> Option<AccountId> {
        let ids: Vec<AccountId> = self.accounts.keys().copied().collect();
        self.rng.pick(&ids).copied()
    }

    /// The client's request asks for an account.
    pub(super) fn ask(&mut self, id: u64) -> Checked {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        client.state = State::Idle;
        let request = client.request.clone();
        if let (true, Some(session)) = (request.signed_thinking, request.session) {
            self.thinking.insert(session);
        }
        let mut ready = self.breaker_state();
        let free = self.sure_route(&request);
        let cached = self.cached_route(&request);
        // Other requests may leave the queue before the verdict is checked.
        let has_room = self.has_room(&request);
        let admitted = self.subject.admit(self.now, request.clone());
        if self.rng.chance(100) {
            self.cancel_someone()?;
        }
        if let Admitted::Queued(ticket) = &admitted {
            self.see("Admission::Queued");
            self.note(&[2, id]);
            self.wait(id, *ticket, &request)?;
        }
        // Grants that the same call made to waiting requests came first.
        let mut verdicts = Vec::new();
        while let Some(verdict) = self.subject.poll(self.now) {
            if let Verdict::Granted(ticket, given) = &verdict {
                let client = self.tickets.get(ticket).copied();
                self.check_breaker(&mut ready, client, given)?;
            }
            verdicts.push(verdict);
        }
        for verdict in verdicts {
            self.deliver(verdict)?;
        }
        match admitted {
            Admitted::Granted(given) => {
                self.see("Admission::Granted");
                self.check_breaker(&mut ready, Some(id), &given)?;
                if has_room {
                    self.check_no_overtaking(&request, given.account)?;
                }
                self.check_stays(cached, &request, &given)?;
                self.fly(id, given)
            }
            Admitted::Queued(_) => Ok(()),
            Admitted::Refused(refusal) => {
                self.see("Admission::Refused");
                self.see_refusal(&refusal);
                self.note(&[3, id]);
                if let (Some(account), RefusalReason::Limited(_)) = (free, &refusal.reason) {
                    return fail(
                        "nobody is refused whom an account could serve",
                        format!("{request:?} on {account:?}: {refusal:?}"),
                    );
                }
                self.give_up(id);
                Ok(())
            }
        }
    }

    /// An account that the simulator is certain could serve this request now.
    pub(super) fn sure_route(&mut self, request: &Request) -> Option<AccountId> {
        if request.thread.is_some() || request.attempts > 0 || self.draining || self.is_full() {
            return None;
        }
        let explained = self.subject.real().explain(self.now, request);
        match explained.verdict {
            ExplainedVerdict::Chosen(id, _) => Some(id),
            ExplainedVerdict::Wait(..) | ExplainedVerdict::Refuse(_) => None,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let flying: u32 = self.accounts.values().map(|known| known.in_flight).sum();
        flying >= self.policy.max_active_global
    }

    pub(super) fn wait(&mut self, id: u64, ticket: Ticket, request: &Request) -> Checked {
        if !self.ended.is_empty() && self.ended.contains(&ticket)
            || self.tickets.contains_key(&ticket)
        {
            return fail("every ticket ends once", format!("{ticket:?} was given twice"));
        }
        let place = self.places.join(self.now.mono, request.resume);
        let pause = match request.last_failure {
            Some(WaitCause::Network) => self.policy.network_cooldown.max(Duration::from_secs(1)),
            _ => Duration::from_secs(1),
        };
        let paused =
            if request.excluded.is_empty() { self.now.mono } else { self.now.mono + pause };
        self.tickets.insert(ticket, id);
        let trail = self.subject.real().trail_of(ticket).cloned();
        if let Some(client) = self.clients.get_mut(&id) {
            client.request.trail = trail.unwrap_or_default();
            client.first_wait = client.first_wait.or(Some(self.now.mono));
            client.restrained = None;
            client.state = State::Waiting { ticket, since: self.now.mono, place, paused };
        }
        if self.rng.chance(self.faults.leave) {
            let after = self.rng.within(1, 60_000);
            self.schedule(self.now.mono + Duration::from_millis(after), Event::Leave(id, ticket));
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, verdict: Verdict) -> Checked {
        self.tell(|world| format!("{verdict:?} in {:?}", world.now));
        let ticket = match &verdict {
            Verdict::Granted(ticket, _)
            | Verdict::Expired(ticket, ..)
            | Verdict::Refused(ticket, _) => *ticket,
        };
        let Some(id) = self.tickets.remove(&ticket) else {
            return fail(
                "every ticket ends once",
                format!("{ticket:?} ended again or never began: {verdict:?}"),
            );
        };
        self.ended.insert(ticket);
        let Some(client) = self.clients.get(&id) else {
            return Ok(());
        };
        let request = client.request.clone();
        let State::Waiting { since, place, .. } = client.state else {
            return fail("every ticket ends once", format!("client {id} does not wait"));
        };
        self.note(&[4, id]);
        match verdict {
            Verdict::Granted(_, given) => {
                self.see("Wake::Granted");
                self.check_order(&request, place, given.account)?;
                if given.waited != self.now.mono.since(since) {
                    return fail(
                        "snapshot sums agree",
                        format!("waited {:?}, not {:?}", given.waited, self.now.mono.since(since)),
                    );
                }
                if let Some(client) = self.clients.get_mut(&id) {
                    client.request.excluded.clear();
                    client.request.attempts = 0;
                    client.grants_in_pass = 0;
                }
                self.fly(id, given)
            }
            Verdict::Expired(_, limit, refusal) => {
                self.see(&format!("Limit::{limit:?}"));
                self.see("Wake::Expired");
                self.see_refusal(&refusal);
                self.check_expiry(&request, id, limit)?;
                if limit == Limit::ClientTolerance {
                    self.places.keep(self.now.mono, request.resume, place);
                    return self.may_return(id);
                }
                self.give_up(id);
                Ok(())
            }
            Verdict::Refused(_, refusal) => {
                self.see("Wake::Refused");
                self.see_refusal(&refusal);
                self.give_up(id);
                Ok(())
            }
        }
    }

    fn end_probe(&mut self, lease: u64) {
        self.probes.retain(|_, probe| *probe != lease);
    }

    /// An answer succeeded, so earlier suspicions of its account are over.
    fn remember_served(&mut self, id: u64, account: AccountId) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let (sent, kin) = (client.granted, client.request.kin);
        self.served.entry(account).or_default().push((sent, kin));
        let since = &self.met_at;
        self.met.retain(|key, _| key.0 != account || since.get(key).is_some_and(|at| *at > sent));
    }

    /// A refusal concerned only its request: suspicions that this request alone raised are dropped.
    fn forget_own(&mut self, id: u64) {
        if let Some(client) = self.clients.get(&id) {
            let own = BTreeSet::from([client.request.kin]);
            self.met.retain(|_, kins| *kins != own);
        }
    }

    fn remember_refusal(&mut self, id: u64, account: AccountId, outcome: &Outcome) {
        let Outcome::Unproven { unproven, evidence, .. } = outcome else {
            return;
        };
        let wait = match unproven {
            Unproven::Limit(retry_after) => retry_after.unwrap_or(Duration::from_secs(5)),
            Unproven::Error | Unproven::NoAnswer => self.policy.cooldown,
        };
        // The request's own wait limit may be shorter.
        let most = match unproven {
            Unproven::Limit(_) | Unproven::NoAnswer => self.policy.unproven_max_wait,
            Unproven::Error => self.policy.capacity_max_wait,
        };
        if let Some(client) = self.clients.get_mut(&id) {
            client.refused_by.insert(account, (self.now.mono, wait.min(most)));
            let key = (account, evidence.message.to_string());
            let old = self.met_at.get(&key).is_some_and(|at| {
                *at + maxpool::scheduler::policy::SUSPICION_MEMORY <= self.now.mono
            });
            if old {
                self.met.remove(&key);
            }
            self.met.entry(key.clone()).or_default().insert(client.request.kin);
            self.met_at.insert(key, self.now.mono);
        }
    }

    /// The client's attempt begins.
    pub(super) fn fly(&mut self, id: u64, given: Given) -> Checked {
        self.note(&[5, id, u64::from(given.account.0), given.lease]);
        self.tell(|_| format!("client {id} gets {given:?}"));
        self.report.grants += 1;
        self.see(match given.why {
            Why::Pinned => "Why::Pinned",
            Why::Thread => "Why::Thread",
            Why::Preferred => "Why::Preferred",
            Why::Home => "Why::Home",
            Why::Current => "Why::Current",
            Why::Score(_) => "Why::Score",
            Why::LongLook => "Why::LongLook",
        });
        self.check_grant(id, &given)?;
        self.check_repeat(id, &given)?;
        let plan = self.plan(id, given.account);
        if let Some(known) = self.accounts.get_mut(&given.account) {
            known.in_flight += 1;
            known.moved = self.now.mono;
        }
        let quick = self.rng.chance(300);
        let head_after = self.rng.within(1, if quick { 100 } else { 20_000 });
        let end_after = head_after + self.rng.within(0, if quick { 100 } else { 60_000 });
        let now = self.now.mono;
        if plan.head.is_some() {
            self.schedule(now + Duration::from_millis(head_after), Event::Head(id, given.lease));
        }
        self.schedule(now + Duration::from_millis(end_after), Event::End(id, given.lease));
        if let Some(client) = self.clients.get_mut(&id) {
            if let Some(known) = self.accounts.get_mut(&given.account) {
                known.weight += u64::from(client.request.weight);
            }
            client.grants += 1;
            // An attempt in suspense is not part of a pass and has its own oracle.
            client.grants_in_pass += usize::from(!client.refused_by.contains_key(&given.account));
            client.request.clock = given.clock;
            client.request.trail = given.trail.clone();
            client.granted = self.now.mono;
            client.state =
                State::Flying { lease: given.lease, account: given.account, plan: Box::new(plan) };
        }
        Ok(())
    }

    pub(super) fn head(&mut self, id: u64, lease: u64) -> Checked {
        let Some(Client { state: State::Flying { account, plan, .. }, .. }) = self.clients.get(&id)
        else {
            return Ok(());
        };
        let (account, plan) = (*account, plan.clone());
        let family = self.clients.get(&id).and_then(|client| client.request.family.clone());
        let Some((status, quota)) = plan.head else {
            return Ok(());
        };
        let open = self.subject.real().breaker_of(self.now, family.as_ref()).active;
        self.subject.observe(self.now, lease, status, &quota, evidence(self.now, status, "head"));
        if open && !self.subject.real().breaker_of(self.now, family.as_ref()).active {
            self.closed_at = Some(self.now.mono);
        }
        self.end_probe(lease);
        if let Some(known) = self.accounts.get_mut(&account) {
            known.answered(self.now, status, &quota, family.as_ref());
        }
        if status == 200 {
            self.remember_cache(id, account);
        }
        if status == 200 && self.rng.chance(100) {
            let session = self.clients.get(&id).and_then(|client| client.request.session);
            if let (Some(session), true) = (session, self.is_claude(account)) {
                self.thinking.insert(session);
                self.subject.note_thinking(self.now, session);
            }
            let thread = ThreadKey(u128::from(self.rng.below(4)));
            self.subject.real().note_thread(self.now, thread, account);
        }
        Ok(())
    }

    pub(super) fn end(&mut self, id: u64, lease: u64) -> Checked {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        let State::Flying { lease: flying, account, plan } =
            std::mem::replace(&mut client.state, State::Idle)
        else {
            return Ok(());
        };
        let weight = client.request.weight;
        let family = client.request.family.clone();
        debug_assert_eq!(lease, flying);
        self.end_probe(lease);
        self.note(&[6, id]);
        if let Some(known) = self.accounts.get_mut(&account) {
            known.in_flight -= 1;
            known.weight -= u64::from(weight);
            known.ended += u64::from(matches!(
                plan.outcome,
                Outcome::Success | Outcome::Neutral | Outcome::OwnRequest { .. }
            ));
            known.ended(self.now, &self.policy, &plan.outcome, family.as_ref());
            if known.leaving && known.in_flight == 0 {
                self.accounts.remove(&account);
            }
        }
        if let (Outcome::Success, Some(truth)) = (&plan.outcome, self.truth.get_mut(&account)) {
            truth.spend(self.now, weight);
        }
        if plan.outcome == Outcome::Success {
            self.remember_cache(id, account);
            self.remember_served(id, account);
        }
        self.see(outcome_name(&plan.outcome));
        let open = self.subject.real().breaker_of(self.now, family.as_ref()).active;
        let after = self.subject.complete(self.now, lease, plan.outcome.clone());
        if open && !self.subject.real().breaker_of(self.now, family.as_ref()).active {
            self.closed_at = Some(self.now.mono);
        }
        if let Outcome::Unproven { evidence, .. } = &plan.outcome {
            if after.is_the_end() {
                self.forget_own(id);
            } else {
                self.remember_refusal(id, account, &plan.outcome);
                self.check_proof(account, &evidence.message)?;
            }
        }
        if self.rng.chance(100) {
            self.cancel_someone()?;
        }
        let cause = match &plan.outcome {
            Outcome::Success | Outcome::Neutral | Outcome::Abandoned => {
                self.give_up(id);
                return Ok(());
            }
            Outcome::QuotaRejected { .. } => Some(WaitCause::Quota),
            Outcome::ServerSide { .. } | Outcome::Unproven { .. } | Outcome::ServerError { .. } => {
                Some(WaitCause::Capacity)
            }
            Outcome::CredentialRefused { .. } => Some(WaitCause::Credential),
            Outcome::Network { .. } => Some(WaitCause::Network),
            Outcome::Broken { .. }
            | Outcome::OwnRequest { .. }
            | Outcome::NeedsLogin { .. }
            | Outcome::ModelMissing { .. }
            | Outcome::Forbidden { .. }
            | Outcome::Unusable { .. } => None,
        };
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        client.request.excluded.push(account);
        client.request.attempts += 1;
        client.request.last_failure = cause;
        client.request.trail.add(after.clone(), &self.policy);
        if after.is_the_end() {
            self.see("the refusal was the request's own");
            self.give_up(id);
            return Ok(());
        }
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        if client.grants >= 60 {
            self.give_up(id);
            return Ok(());
        }
        self.ask(id)
    }

    /// The race between a client that leaves and a grant that has not been polled.
    pub(super) fn cancel_someone(&mut self) -> Checked {
        let tickets: Vec<(Ticket, u64)> =
            self.tickets.iter().map(|(ticket, id)| (*ticket, *id)).collect();
        match self.rng.pick(&tickets) {
            Some((ticket, id)) => self.leave(*id, *ticket),
            None => Ok(()),
        }
    }

    pub(super) fn leave(&mut self, id: u64, ticket: Ticket) -> Checked {
        let Some(client) = self.clients.get(&id) else {
            return Ok(());
        };
        let State::Waiting { ticket: own, place, .. } = client.state else {
            return Ok(());
        };
        if own != ticket {
            return Ok(());
        }
        let request = client.request.clone();
        self.tickets.remove(&ticket);
        self.ended.insert(ticket);
        let cancelled = self.subject.cancel(self.now, ticket);
        self.tell(|_| format!("client {id} leaves {ticket:?} at {place}: {cancelled:?}"));
        match cancelled {
            Cancelled::Gone => {
                self.see("Cancel::Cancelled");
                self.places.keep(self.now.mono, request.resume, place);
                self.may_return(id)
            }
            Cancelled::AlreadyGranted(given) => {
                self.see("Cancel::AlreadyGranted");
                // It may have been the breaker's probe, which then passes to another request.
                self.blind = true;
                self.probes.clear();
                if let Some(known) = self.accounts.get_mut(&given.account) {
                    known.ended(self.now, &self.policy, &Outcome::Abandoned, None);
                }
                self.subject.complete(self.now, given.lease, Outcome::Abandoned);
                self.give_up(id);
                Ok(())
            }
            Cancelled::AlreadyRefused(limit) => {
                self.see("Cancel::AlreadyRefused");
                if limit == Some(Limit::ClientTolerance) {
                    self.places.keep(self.now.mono, request.resume, place);
                }
                self.may_return(id)
            }
            Cancelled::AlreadyPolled => {
                fail("every ticket ends once", format!("{ticket:?} of client {id} is unknown"))
            }
        }
    }

    /// A client that left may return within a minute, or later.
    pub(super) fn may_return(&mut self, id: u64) -> Checked {
        let returns = self.clients.get(&id).map_or(9, |client| client.returns);
        if returns < 3 && self.rng.chance(600) && !self.settling {
            let after = self.rng.within(0, 80_000);
            self.schedule(self.now.mono + Duration::from_millis(after), Event::Back(id));
            if let Some(client) = self.clients.get_mut(&id) {
                client.state = State::Idle;
            }
        } else {
            self.give_up(id);
        }
        Ok(())
    }

    pub(super) fn come_back(&mut self, id: u64) -> Checked {
        let now = self.now.mono;
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        client.returns += 1;
        client.first_wait = None;
        client.grants_in_pass = 0;
        client.request = Request {
            arrived: now,
            excluded: Vec::new(),
            attempts: 0,
            last_failure: None,
            clock: maxpool::scheduler::WaitClock::default(),
            ..client.request.clone()
        };
        self.ask(id)
    }

    pub(super) fn give_up(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.state = State::Gone;
        }
        self.clients.remove(&id);
    }
}
