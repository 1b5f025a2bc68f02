//! A world around the scheduler: accounts that have limits and bad days, clients that come, wait, leave and come back, a gate
//! that keeps its contract, and oracles that look at every step.
//!
//! One seed decides everything. After the chaos the faults stop and all must settle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use maxpool::scheduler::quota::{Family, QuotaReport, Verdict as Says, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Now, Wall};
use maxpool::scheduler::{
    AccountId, AccountSpec, Blame, Evidence, ExplainedVerdict, Fingerprint, Kind, Limit, Outcome,
    Overage, Overload, Policy, RefusalReason, Request, Routing, SessionKey, Shape, ThreadKey,
    Ticket, WaitCause, Why,
};

use super::model::{Known, Places};
use super::rng::Rng;
use super::subject::{Admitted, Bug, Cancelled, Given, Subject, Verdict};

/// What an oracle found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) oracle: &'static str,
    pub(crate) what: String,
}

/// What a run was like.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// A digest of everything that happened.
    pub(crate) trace: u64,
    pub(crate) steps: u64,
    pub(crate) grants: u64,
    /// Every variant of every decision that occurred.
    pub(crate) seen: BTreeSet<String>,
    /// The last happenings, when asked for.
    pub(crate) tale: Vec<String>,
}

type Checked = Result<(), Violation>;

/// How a seed is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) bug: Option<Bug>,
    pub(crate) telling: bool,
}

struct World {
    rng: Rng,
    now: Now,
    subject: Subject,
    policy: Policy,
    accounts: BTreeMap<AccountId, Known>,
    truth: BTreeMap<AccountId, Truth>,
    clients: BTreeMap<u64, Client>,
    tickets: BTreeMap<Ticket, u64>,
    ended: BTreeSet<Ticket>,
    events: BTreeMap<(Mono, u64), Event>,
    event: u64,
    places: Places,
    thinking: BTreeSet<SessionKey>,
    faults: Faults,
    trouble_until: Mono,
    probe: Option<u64>,
    draining: bool,
    settling: bool,
    last_client: u64,
    report: Report,
    telling: bool,
}

/// What an account can really do.
#[derive(Debug)]
struct Truth {
    five: (f64, Wall),
    week: (f64, Wall),
    opus: (f64, Wall),
}

/// How often things go wrong in this seed, in a thousand; most are zero in most seeds.
#[derive(Debug, Default)]
struct Faults {
    server_side: u64,
    overloaded: u64,
    server_error: u64,
    network: u64,
    dns: u64,
    credential: u64,
    login: u64,
    forbidden: u64,
    neutral: u64,
    abandon: u64,
    leave: u64,
    headless: u64,
    odd_reports: u64,
    overage: u64,
    trouble: u64,
    steps: u64,
    edits: u64,
    probes: u64,
    drains: u64,
}

#[derive(Debug)]
struct Client {
    request: Request,
    state: State,
    grants_in_pass: usize,
    grants: u32,
    first_wait: Option<Mono>,
    returns: u32,
}

#[derive(Debug)]
enum State {
    Idle,
    Waiting {
        ticket: Ticket,
        since: Mono,
        place: u64,
        paused: Mono,
    },
    Flying {
        lease: u64,
        account: AccountId,
        plan: Plan,
    },
    Gone,
}

#[derive(Clone, Debug)]
struct Plan {
    head: Option<(u16, QuotaReport)>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive,
    Head(u64, u64),
    End(u64, u64),
    Leave(u64, Ticket),
    Back(u64),
    Odd,
    Look,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, options: Options) -> (Report, Checked) {
    let mut world = World::new(seed, options);
    let outcome = world.live();
    (world.report, outcome)
}

impl World {
    fn new(seed: u64, options: Options) -> World {
        let mut rng = Rng::new(seed);
        let now = Now {
            mono: Mono(rng.below(1 << 40)),
            wall: Wall(1_790_000_000_000 + i64::try_from(rng.below(1 << 36)).unwrap_or(0)),
        };
        let policy = policy(&mut rng);
        let faults = Faults::new(&mut rng);
        let mut world = World {
            now,
            subject: Subject::new(&policy, options.bug),
            policy,
            accounts: BTreeMap::new(),
            truth: BTreeMap::new(),
            clients: BTreeMap::new(),
            tickets: BTreeMap::new(),
            ended: BTreeSet::new(),
            events: BTreeMap::new(),
            event: 0,
            places: Places::default(),
            thinking: BTreeSet::new(),
            faults,
            trouble_until: Mono(0),
            probe: None,
            draining: false,
            settling: false,
            last_client: 0,
            report: Report::default(),
            telling: options.telling,
            rng,
        };
        for _ in 0..world.rng.within(1, 6) {
            world.add_account();
        }
        world
    }

    fn live(&mut self) -> Checked {
        let arrivals = self.rng.within(10, 40);
        let mut at = self.now.mono;
        for _ in 0..arrivals {
            at = at
                + Duration::from_millis(
                    self.rng
                        .pick(&[0, 0, 1, 20, 400, 3_000, 20_000, 200_000])
                        .map_or(0, |most| most * 2 / 3 + 1),
                );
            let spread = self.rng.below(1_000);
            self.schedule(at + Duration::from_millis(spread), Event::Arrive);
            if self.rng.chance(300) {
                self.schedule(at, Event::Odd);
            }
            if self.rng.chance(200) {
                self.schedule(at + Duration::from_millis(spread / 2), Event::Look);
            }
        }
        self.run_events(20_000)?;
        self.stop_faults()?;
        self.run_events(40_000)?;
        self.check_settled()
    }

    /// From event to event and wake-up to wake-up, as the gate does it.
    fn run_events(&mut self, most: u64) -> Checked {
        for _ in 0..most {
            let wakeup = self.subject.next_wakeup(self.now);
            self.note(&[1, wakeup.map_or(0, |at| at.0)]);
            if wakeup.is_some_and(|at| at <= self.now.mono) {
                return fail(
                    "next_wakeup is never zero twice",
                    format!("{wakeup:?} at {:?}", self.now.mono),
                );
            }
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let (at, is_event) = match (wakeup, event) {
                (None, None) => return Ok(()),
                (Some(wakeup), Some(event)) if event < wakeup => (event, true),
                (Some(wakeup), _) => (wakeup, false),
                (None, Some(event)) => (event, true),
            };
            if self.rng.chance(150) && at.since(self.now.mono) > Duration::from_millis(2) {
                let part = u64::try_from(at.since(self.now.mono).as_millis()).unwrap_or(u64::MAX);
                let early = self.rng.within(1, part - 1);
                self.pass_to(Mono(self.now.mono.0 + early));
                self.expect_silence()?;
            }
            self.pass_to(at);
            if is_event {
                if wakeup.is_some_and(|wakeup| wakeup > at) || wakeup.is_none() {
                    self.expect_silence()?;
                }
                let Some((_, event)) = self.events.pop_first() else {
                    return Ok(());
                };
                self.happen(event)?;
            }
            self.settle_step()?;
        }
        fail(
            "everything settles",
            format!("{} events left after {most} steps", self.events.len()),
        )
    }

    fn pass_to(&mut self, at: Mono) {
        let time = at.since(self.now.mono);
        self.now.mono = at;
        self.now.wall = self.now.wall + time;
        self.expire();
    }

    fn expire(&mut self) {
        for known in self.accounts.values_mut() {
            known.expire(self.now);
        }
    }

    /// Nothing is due before the wake-up that was announced.
    fn expect_silence(&mut self) -> Checked {
        match self.subject.poll(self.now) {
            None => Ok(()),
            Some(verdict) => fail(
                "next_wakeup is never late",
                format!("{verdict:?} at {:?}", self.now.mono),
            ),
        }
    }

    /// Delivers all verdicts, then lets the oracles look.
    fn settle_step(&mut self) -> Checked {
        self.report.steps += 1;
        let ready = self.breaker_state();
        let mut claude = 0;
        while let Some(verdict) = self.subject.poll(self.now) {
            if let Verdict::Granted(_, given) = &verdict {
                claude += u32::from(self.is_claude(given.account));
                self.check_breaker(ready, claude, given)?;
            }
            self.deliver(verdict)?;
        }
        self.check_all()
    }

    fn happen(&mut self, event: Event) -> Checked {
        self.tell(|world| format!("{event:?} in {:?}", world.now));
        match event {
            Event::Arrive => self.arrive(),
            Event::Head(client, lease) => self.head(client, lease),
            Event::End(client, lease) => self.end(client, lease),
            Event::Leave(client, ticket) => self.leave(client, ticket),
            Event::Back(client) => self.come_back(client),
            Event::Odd => self.odd(),
            Event::Look => self.look(),
        }
    }

    fn arrive(&mut self) -> Checked {
        let burst = if self.rng.chance(150) {
            self.rng.within(5, 14)
        } else {
            1
        };
        for _ in 0..burst {
            self.last_client += 1;
            let id = self.last_client;
            let request = self.draw_request(id);
            self.clients.insert(id, Client::new(request));
            self.ask(id)?;
        }
        Ok(())
    }

    fn draw_request(&mut self, id: u64) -> Request {
        let rng = &mut self.rng;
        let profile = *rng
            .pick(&["claude", "claude", "claude", "all", "all", "work"])
            .unwrap_or(&"claude");
        let odd = rng.chance(10);
        let session = rng
            .chance(600)
            .then(|| SessionKey(u128::from(rng.below(6))));
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
            tolerance: rng
                .chance(400)
                .then(|| Duration::from_millis(rng.within(2_000, 300_000))),
            resume: rng.chance(700).then(|| u128::from(id)),
            ..Request::new(id, self.now.mono)
        };
        let pinned = self.rng.chance(40).then(|| self.any_account()).flatten();
        Request { pinned, ..request }
    }

    fn any_account(&mut self) -> Option<AccountId> {
        let ids: Vec<AccountId> = self.accounts.keys().copied().collect();
        self.rng.pick(&ids).copied()
    }

    /// The client's request asks for an account.
    fn ask(&mut self, id: u64) -> Checked {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        client.state = State::Idle;
        let request = client.request.clone();
        if let (true, Some(session)) = (request.signed_thinking, request.session) {
            self.thinking.insert(session);
        }
        let ready = self.breaker_state();
        let free = self.sure_route(&request);
        match self.subject.admit(self.now, request.clone()) {
            Admitted::Granted(given) => {
                self.see("Admission::Granted");
                let claude = u32::from(self.is_claude(given.account));
                self.check_breaker(ready, claude, &given)?;
                self.check_no_overtaking(&request)?;
                self.fly(id, given)
            }
            Admitted::Queued(ticket) => {
                self.see("Admission::Queued");
                self.note(&[2, id]);
                self.wait(id, ticket, &request)
            }
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
    fn sure_route(&mut self, request: &Request) -> Option<AccountId> {
        if request.thread.is_some() || request.attempts > 0 || self.draining || self.is_full() {
            return None;
        }
        let explained = self.subject.real().explain(self.now, request);
        match explained.verdict {
            ExplainedVerdict::Chosen(id, _) => Some(id),
            ExplainedVerdict::Wait(..) | ExplainedVerdict::Refuse(_) => None,
        }
    }

    fn is_full(&self) -> bool {
        let flying: u32 = self.accounts.values().map(|known| known.in_flight).sum();
        flying >= self.policy.max_active_global
    }

    fn wait(&mut self, id: u64, ticket: Ticket, request: &Request) -> Checked {
        if !self.ended.is_empty() && self.ended.contains(&ticket)
            || self.tickets.contains_key(&ticket)
        {
            return fail(
                "every ticket ends once",
                format!("{ticket:?} was given twice"),
            );
        }
        let place = self.places.join(self.now.mono, request.resume);
        let pause = match request.last_failure {
            Some(WaitCause::Network) => self.policy.network_cooldown.max(Duration::from_secs(1)),
            _ => Duration::from_secs(1),
        };
        let paused = if request.excluded.is_empty() {
            self.now.mono
        } else {
            self.now.mono + pause
        };
        self.tickets.insert(ticket, id);
        if let Some(client) = self.clients.get_mut(&id) {
            client.first_wait = client.first_wait.or(Some(self.now.mono));
            client.state = State::Waiting {
                ticket,
                since: self.now.mono,
                place,
                paused,
            };
        }
        if self.rng.chance(self.faults.leave) {
            let after = self.rng.within(1, 60_000);
            self.schedule(
                self.now.mono + Duration::from_millis(after),
                Event::Leave(id, ticket),
            );
        }
        Ok(())
    }

    fn deliver(&mut self, verdict: Verdict) -> Checked {
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
            return fail(
                "every ticket ends once",
                format!("client {id} does not wait"),
            );
        };
        self.note(&[4, id]);
        match verdict {
            Verdict::Granted(_, given) => {
                self.see("Wake::Granted");
                self.check_order(&request, place)?;
                if given.waited != self.now.mono.since(since) {
                    return fail(
                        "snapshot sums agree",
                        format!(
                            "waited {:?}, not {:?}",
                            given.waited,
                            self.now.mono.since(since)
                        ),
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

    /// The client's attempt begins.
    fn fly(&mut self, id: u64, given: Given) -> Checked {
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
        });
        self.check_grant(id, &given)?;
        let plan = self.plan(id, given.account);
        if let Some(known) = self.accounts.get_mut(&given.account) {
            known.in_flight += 1;
        }
        let quick = self.rng.chance(300);
        let head_after = self.rng.within(1, if quick { 100 } else { 20_000 });
        let end_after = head_after + self.rng.within(0, if quick { 100 } else { 60_000 });
        let now = self.now.mono;
        if plan.head.is_some() {
            self.schedule(
                now + Duration::from_millis(head_after),
                Event::Head(id, given.lease),
            );
        }
        self.schedule(
            now + Duration::from_millis(end_after),
            Event::End(id, given.lease),
        );
        if let Some(client) = self.clients.get_mut(&id) {
            if let Some(known) = self.accounts.get_mut(&given.account) {
                known.weight += u64::from(client.request.weight);
            }
            client.grants += 1;
            client.grants_in_pass += 1;
            client.request.clock = given.clock;
            client.state = State::Flying {
                lease: given.lease,
                account: given.account,
                plan,
            };
        }
        Ok(())
    }

    fn head(&mut self, id: u64, lease: u64) -> Checked {
        let Some(Client {
            state: State::Flying { account, plan, .. },
            ..
        }) = self.clients.get(&id)
        else {
            return Ok(());
        };
        let (account, plan) = (*account, plan.clone());
        let Some((status, quota)) = plan.head else {
            return Ok(());
        };
        self.subject.observe(
            self.now,
            lease,
            status,
            &quota,
            evidence(self.now, status, "head"),
        );
        if self.probe == Some(lease) {
            self.probe = None;
        }
        if let Some(known) = self.accounts.get_mut(&account) {
            if status == 200 {
                known.served(self.now);
            }
            known.learn(self.now, &quota);
        }
        if status == 200 && self.rng.chance(100) {
            let session = self
                .clients
                .get(&id)
                .and_then(|client| client.request.session);
            if let (Some(session), true) = (session, self.is_claude(account)) {
                self.thinking.insert(session);
                self.subject.note_thinking(self.now, session);
            }
            let thread = ThreadKey(u128::from(self.rng.below(4)));
            self.subject.real().note_thread(self.now, thread, account);
        }
        Ok(())
    }

    fn end(&mut self, id: u64, lease: u64) -> Checked {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        let State::Flying {
            lease: flying,
            account,
            plan,
        } = std::mem::replace(&mut client.state, State::Idle)
        else {
            return Ok(());
        };
        let weight = client.request.weight;
        debug_assert_eq!(lease, flying);
        if self.probe == Some(lease) {
            self.probe = None;
        }
        self.note(&[6, id]);
        if let Some(known) = self.accounts.get_mut(&account) {
            known.in_flight -= 1;
            known.weight -= u64::from(weight);
            known.ended += u64::from(matches!(plan.outcome, Outcome::Success | Outcome::Neutral));
            known.ended(self.now, &self.policy, &plan.outcome);
            if known.leaving && known.in_flight == 0 {
                self.accounts.remove(&account);
            }
        }
        if let (Outcome::Success, Some(truth)) = (&plan.outcome, self.truth.get_mut(&account)) {
            truth.spend(self.now, weight);
        }
        self.see(outcome_name(&plan.outcome));
        self.subject.complete(self.now, lease, plan.outcome.clone());
        if self.rng.chance(100) {
            self.cancel_someone()?;
        }
        let cause = match &plan.outcome {
            Outcome::Success | Outcome::Neutral | Outcome::Abandoned => {
                self.give_up(id);
                return Ok(());
            }
            Outcome::QuotaRejected { .. } => Some(WaitCause::Quota),
            Outcome::ServerSide { .. } | Outcome::ServerError { .. } => Some(WaitCause::Capacity),
            Outcome::Network { .. } => Some(WaitCause::Network),
            Outcome::CredentialRefused { .. }
            | Outcome::NeedsLogin { .. }
            | Outcome::CredentialForbidden { .. } => None,
        };
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        client.request.excluded.push(account);
        client.request.attempts += 1;
        client.request.last_failure = cause;
        if client.grants >= 60 {
            self.give_up(id);
            return Ok(());
        }
        self.ask(id)
    }

    /// The race between a client that leaves and a grant that has not been polled.
    fn cancel_someone(&mut self) -> Checked {
        let tickets: Vec<(Ticket, u64)> = self
            .tickets
            .iter()
            .map(|(ticket, id)| (*ticket, *id))
            .collect();
        match self.rng.pick(&tickets) {
            Some((ticket, id)) => self.leave(*id, *ticket),
            None => Ok(()),
        }
    }

    fn leave(&mut self, id: u64, ticket: Ticket) -> Checked {
        let Some(client) = self.clients.get(&id) else {
            return Ok(());
        };
        let State::Waiting {
            ticket: own, place, ..
        } = client.state
        else {
            return Ok(());
        };
        if own != ticket {
            return Ok(());
        }
        let request = client.request.clone();
        self.tickets.remove(&ticket);
        self.ended.insert(ticket);
        match self.subject.cancel(self.now, ticket) {
            Cancelled::Cancelled => {
                self.see("Cancel::Cancelled");
                self.places.keep(self.now.mono, request.resume, place);
                self.may_return(id)
            }
            Cancelled::AlreadyGranted(given) => {
                self.see("Cancel::AlreadyGranted");
                if let Some(known) = self.accounts.get_mut(&given.account) {
                    known.ended(self.now, &self.policy, &Outcome::Abandoned);
                }
                self.subject
                    .complete(self.now, given.lease, Outcome::Abandoned);
                self.give_up(id);
                Ok(())
            }
            Cancelled::AlreadyPolled => fail(
                "every ticket ends once",
                format!("{ticket:?} of client {id} is unknown"),
            ),
        }
    }

    /// A client that left may come back within a minute, or later.
    fn may_return(&mut self, id: u64) -> Checked {
        let returns = self.clients.get(&id).map_or(9, |client| client.returns);
        if returns < 3 && self.rng.chance(600) && !self.settling {
            let after = self.rng.within(0, 80_000);
            self.schedule(
                self.now.mono + Duration::from_millis(after),
                Event::Back(id),
            );
            if let Some(client) = self.clients.get_mut(&id) {
                client.state = State::Idle;
            }
        } else {
            self.give_up(id);
        }
        Ok(())
    }

    fn come_back(&mut self, id: u64) -> Checked {
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

    fn give_up(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.state = State::Gone;
        }
        self.clients.remove(&id);
    }

    /// What the account will answer.
    fn plan(&mut self, id: u64, account: AccountId) -> Plan {
        let request = self.clients.get(&id).map(|client| client.request.clone());
        let claude = self.is_claude(account);
        let trouble = self.trouble_until > self.now.mono && claude;
        let retry_after = self
            .rng
            .chance(500)
            .then(|| Duration::from_secs(self.rng.within(1, 40)));
        let now = self.now;
        let said = |status: u16, message: &str| evidence(now, status, message);
        if self.settling {
            return Plan {
                head: Some((200, QuotaReport::default())),
                outcome: Outcome::Success,
            };
        }
        let f = &self.faults;
        let total = [
            f.server_side,
            f.overloaded,
            f.server_error,
            f.network,
            f.dns,
            f.credential,
            f.login,
            f.forbidden,
            f.neutral,
            f.abandon,
            f.headless,
        ];
        let mut draw = self.rng.below(1_000);
        let mut kind = usize::MAX;
        for (index, share) in total.into_iter().enumerate() {
            if draw < share {
                kind = index;
                break;
            }
            draw -= share;
        }
        let refusal = |overload, status, message: &str| Plan {
            head: Some((status, QuotaReport::default())),
            outcome: Outcome::ServerSide {
                overload,
                retry_after,
                fingerprint: Fingerprint::of("rate_limit_error", message),
                evidence: said(status, message),
            },
        };
        if trouble {
            return refusal(Overload::Refused429, 429, "temporarily limiting requests");
        }
        let odd = self.rng.chance(self.faults.odd_reports);
        let overage = self.rng.chance(self.faults.overage);
        let Some(request) = request else {
            return Plan {
                head: None,
                outcome: Outcome::Abandoned,
            };
        };
        let (mut quota, full) = match self.truth.get_mut(&account) {
            Some(truth) if claude => truth.report(self.now, &request),
            Some(_) | None => (QuotaReport::default(), false),
        };
        if odd {
            self.spoil(&mut quota);
        }
        if overage {
            quota.overage_in_use = Some(self.rng.chance(700));
        }
        if full {
            quota.retry_after = retry_after;
            return Plan {
                head: Some((429, quota.clone())),
                outcome: Outcome::QuotaRejected {
                    quota,
                    evidence: said(429, "limit exceeded"),
                },
            };
        }
        let fine = Some((200, quota));
        match kind {
            0 => refusal(Overload::Refused429, 429, "not your usage limit"),
            1 => refusal(Overload::Overloaded529, 529, "overloaded"),
            2 => Plan {
                head: Some((503, QuotaReport::default())),
                outcome: Outcome::ServerError {
                    evidence: said(503, "broken"),
                },
            },
            3 => Plan {
                head: None,
                outcome: Outcome::Network {
                    blame: Blame::Account,
                    evidence: said(0, "reset"),
                },
            },
            4 => Plan {
                head: None,
                outcome: Outcome::Network {
                    blame: Blame::Nobody,
                    evidence: said(0, "no such host"),
                },
            },
            5 => Plan {
                head: Some((401, QuotaReport::default())),
                outcome: Outcome::CredentialRefused {
                    evidence: said(401, "no"),
                },
            },
            6 => Plan {
                head: None,
                outcome: Outcome::NeedsLogin {
                    evidence: said(401, "expired"),
                },
            },
            7 => Plan {
                head: Some((403, QuotaReport::default())),
                outcome: Outcome::CredentialForbidden {
                    evidence: said(403, "no"),
                },
            },
            8 => Plan {
                head: Some((400, QuotaReport::default())),
                outcome: Outcome::Neutral,
            },
            9 => Plan {
                head: fine.filter(|_| self.rng.chance(500)),
                outcome: Outcome::Abandoned,
            },
            10 => Plan {
                head: None,
                outcome: Outcome::Success,
            },
            _ => Plan {
                head: fine,
                outcome: Outcome::Success,
            },
        }
    }

    /// Makes a report strange: no reset, nonsense, a reset that has passed, a limit without an end.
    fn spoil(&mut self, quota: &mut QuotaReport) {
        let past = self.now.wall + Duration::ZERO;
        for window in &mut quota.windows {
            match self.rng.below(5) {
                0 => window.reset = None,
                1 => window.utilisation = Some(f64::NAN),
                2 => window.reset = Some(past),
                3 => {
                    window.utilisation = Some(1.3);
                    window.reset = None;
                }
                _ => window.utilisation = None,
            }
        }
    }

    /// Something from outside: a clock is set, the configuration changes, the probe reads quota, the API is in trouble.
    fn odd(&mut self) -> Checked {
        let f = &self.faults;
        let shares = [f.trouble, f.steps, f.edits, f.probes, f.drains];
        let kind = self.rng.below(5);
        let share = shares[usize::try_from(kind).unwrap_or(0)];
        if !self.rng.chance(share) {
            return Ok(());
        }
        match kind {
            0 => {
                let lasts = self.rng.within(1_000, 90_000);
                self.trouble_until = self.now.mono + Duration::from_millis(lasts);
                Ok(())
            }
            1 => self.step_clock(),
            2 => self.edit(),
            3 => self.probe_quota(),
            _ => self.drain_or_resume(),
        }
    }

    fn step_clock(&mut self) -> Checked {
        let before = self.subject.snapshot(self.now);
        let size = i64::try_from(self.rng.within(50, 7_200_000)).unwrap_or(0);
        let step = if self.rng.chance(500) { size } else { -size };
        self.now.wall = Wall(self.now.wall.0 + step);
        self.expire();
        if self.rng.chance(500) {
            self.subject.real().clock_stepped(self.now);
        }
        let after = self.subject.snapshot(self.now);
        self.note(&[7, step.unsigned_abs()]);
        for (old, new) in before.accounts.iter().zip(&after.accounts) {
            for block in &old.blocks {
                let same = |other: &&maxpool::scheduler::BlockSnapshot| {
                    other.reason == block.reason && other.scope == block.scope
                };
                let timed = !matches!(block.reason, maxpool::scheduler::BlockReason::Quota(_));
                let now = new
                    .blocks
                    .iter()
                    .find(same)
                    .and_then(|block| block.remaining);
                if timed && now != block.remaining {
                    return fail(
                        "a clock step moves resets only",
                        format!("{block:?} has {now:?} left after {step} ms"),
                    );
                }
            }
        }
        Ok(())
    }

    fn edit(&mut self) -> Checked {
        let id = self.any_account();
        self.note(&[8, id.map_or(0, |id| u64::from(id.0))]);
        match (self.rng.below(7), id) {
            (0, _) => self.add_account(),
            (1, Some(id)) if self.accounts.len() > 1 => {
                self.subject.real().remove_account(self.now, id);
                let gone = self.accounts.get_mut(&id).is_none_or(|known| {
                    known.leaving = true;
                    known.in_flight == 0
                });
                if gone {
                    self.accounts.remove(&id);
                }
            }
            (2 | 3, Some(id)) => {
                let priority = i64::try_from(self.rng.below(3)).unwrap_or(0);
                let toggle = self.rng.chance(500);
                if let Some(known) = self.accounts.get_mut(&id) {
                    known.spec.priority = priority;
                    known.spec.enabled ^= toggle;
                    let spec = known.spec.clone();
                    self.subject.update_account(self.now, id, spec);
                }
            }
            (4, Some(id)) => {
                let routing = if self.rng.chance(600) {
                    Routing::Preferred(id)
                } else {
                    Routing::Automatic
                };
                let refused = self.subject.real().set_routing(self.now, routing).is_err();
                self.note(&[u64::from(refused)]);
            }
            (5, Some(id)) => {
                self.subject.real().clear_credential_blocks(self.now, id);
                if let Some(known) = self.accounts.get_mut(&id) {
                    known.lift_credentials();
                }
            }
            _ => {
                self.policy.max_active_per_account =
                    u32::try_from(self.rng.within(1, 5)).unwrap_or(1);
                self.policy.overage = if self.rng.chance(500) {
                    Overage::Never
                } else {
                    Overage::Last
                };
                let policy = self.policy.clone();
                self.subject.set_policy(self.now, &policy);
            }
        }
        Ok(())
    }

    fn probe_quota(&mut self) -> Checked {
        let Some(id) = self.any_account() else {
            return Ok(());
        };
        let Some(truth) = self.truth.get_mut(&id) else {
            return Ok(());
        };
        let request = Request::new(0, self.now.mono);
        let (mut quota, _) = truth.report(self.now, &request);
        quota.verdict = None;
        self.subject.real().learn(self.now, id, &quota);
        if let Some(known) = self.accounts.get_mut(&id) {
            known.learn(self.now, &quota);
        }
        Ok(())
    }

    fn drain_or_resume(&mut self) -> Checked {
        self.draining ^= true;
        match self.draining {
            true => self.subject.real().drain(self.now),
            false => self.subject.real().resume(self.now),
        }
        if self.draining {
            let after = self.rng.within(1, 5_000);
            self.schedule(self.now.mono + Duration::from_millis(after), Event::Odd);
        }
        Ok(())
    }

    /// Explanations change nothing and agree with themselves.
    fn look(&mut self) -> Checked {
        self.last_client += 1;
        let request = self.draw_request(self.last_client);
        let explained = self.subject.real().explain(self.now, &request);
        for one in &explained.passed_over {
            self.see(&format!(
                "PassedOver::{}",
                variant(&format!("{:?}", one.reason))
            ));
            if let maxpool::scheduler::PassedOver::Blocked(reason) = &one.reason {
                self.see(&format!("BlockReason::{}", variant(&format!("{reason:?}"))));
            }
        }
        self.see(&format!(
            "ExplainedVerdict::{}",
            variant(&format!("{:?}", explained.verdict))
        ));
        let both = explained.candidates.len() + explained.passed_over.len();
        if both != self.subject.real().snapshot(self.now).accounts.len() {
            return fail("snapshot sums agree", format!("{explained:?}"));
        }
        if let ExplainedVerdict::Chosen(id, _) = explained.verdict {
            if !explained.candidates.iter().any(|one| one.account == id) {
                return fail(
                    "snapshot sums agree",
                    format!("chosen but no candidate: {explained:?}"),
                );
            }
        }
        Ok(())
    }

    fn add_account(&mut self) {
        let number = self.truth.len();
        let kind = *self
            .rng
            .pick(&[
                Kind::Oauth,
                Kind::Oauth,
                Kind::Oauth,
                Kind::ApiKey,
                Kind::Provider,
            ])
            .unwrap_or(&Kind::Oauth);
        let profiles: &[&str] = match kind {
            Kind::Provider => &["all"],
            Kind::Oauth | Kind::ApiKey if self.rng.chance(250) => &["claude", "all", "work"],
            Kind::Oauth | Kind::ApiKey => &["claude", "all"],
        };
        let spec = AccountSpec {
            name: Arc::from(format!("account-{number}")),
            kind,
            enabled: true,
            priority: if kind == Kind::Provider { 10 } else { 0 },
            profiles: profiles.iter().map(|profile| Arc::from(*profile)).collect(),
        };
        let id = self.subject.real().add_account(self.now, spec.clone());
        let draw = |rng: &mut Rng| rng.below(1_100) as f64 / 1_000.0;
        let truth = Truth {
            five: (
                draw(&mut self.rng),
                self.now.wall + Duration::from_millis(self.rng.within(1_000, 18_000_000)),
            ),
            week: (
                draw(&mut self.rng) * 0.9,
                self.now.wall + Duration::from_millis(self.rng.within(1_000, 604_800_000)),
            ),
            opus: (
                draw(&mut self.rng),
                self.now.wall + Duration::from_millis(self.rng.within(1_000, 604_800_000)),
            ),
        };
        let mut known = Known::new(spec);
        if self.rng.chance(200) {
            let window = maxpool::scheduler::WindowSnapshot {
                kind: WindowKind::FiveHour,
                used: Some(truth.five.0.min(1.0)),
                raw: Some(truth.five.0),
                limit: None,
                remaining: None,
                reset: Some(truth.five.1),
                learned_at: self.now.wall,
                source: maxpool::scheduler::Source::Answer,
            };
            let learned = maxpool::scheduler::Learned {
                windows: vec![window],
                ..Default::default()
            };
            self.subject.real().restore(self.now, id, &learned);
            known.restore_learned(WindowKind::FiveHour, truth.five.0, truth.five.1, self.now);
        }
        self.accounts.insert(id, known);
        self.truth.insert(id, truth);
    }

    /// From here on nothing fails any more.
    fn stop_faults(&mut self) -> Checked {
        self.settling = true;
        self.faults = Faults::default();
        self.trouble_until = Mono(0);
        if self.draining {
            self.drain_or_resume()?;
            self.events.clear();
        }
        let ids: Vec<AccountId> = self.accounts.keys().copied().collect();
        for id in ids {
            self.subject.real().clear_credential_blocks(self.now, id);
            if let Some(known) = self.accounts.get_mut(&id).filter(|known| !known.leaving) {
                known.lift_credentials();
                known.spec.enabled = true;
                let spec = known.spec.clone();
                self.subject.update_account(self.now, id, spec);
            }
        }
        self.settle_step()?;
        for _ in 0..5 {
            self.last_client += 1;
            let id = self.last_client;
            self.clients
                .insert(id, Client::new(Request::new(id, self.now.mono)));
            self.ask(id)?;
            self.settle_step()?;
        }
        Ok(())
    }

    /// Nobody waits, nothing is in flight, and after a day every account serves again.
    fn check_settled(&mut self) -> Checked {
        if !self.tickets.is_empty() || !self.clients.is_empty() {
            return fail(
                "everything settles",
                format!("{:?} {:?}", self.tickets, self.clients),
            );
        }
        let snapshot = self.subject.snapshot(self.now);
        if snapshot.in_flight != 0 || snapshot.queue.waiting != 0 || snapshot.queue.bytes != 0 {
            return fail("everything settles", format!("{snapshot:?}"));
        }
        self.pass_to(self.now.mono + Duration::from_secs(9 * 86_400));
        // A step back of the wall clock may have moved resets away again.
        self.now.wall = self.now.wall + Duration::from_secs(30 * 86_400);
        self.expire();
        let ids: Vec<AccountId> = self
            .accounts
            .iter()
            .filter(|(_, known)| !known.leaving)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let request = Request {
                pinned: Some(id),
                ..Request::new(0, self.now.mono)
            };
            match self.subject.admit(self.now, request) {
                Admitted::Granted(given) => {
                    self.subject
                        .complete(self.now, given.lease, Outcome::Success)
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

    fn check_grant(&mut self, id: u64, given: &Given) -> Checked {
        let Some(client) = self.clients.get(&id) else {
            return Ok(());
        };
        let request = &client.request;
        let Some(known) = self.accounts.get(&given.account) else {
            return fail(
                "no grant on a blocked account",
                format!("{given:?}: no such account"),
            );
        };
        let thinking = request.signed_thinking
            || request
                .session
                .is_some_and(|session| self.thinking.contains(&session));
        if let Some(why) = known.forbids(self.now, &self.policy, request, thinking) {
            return fail(
                "no grant on a blocked account",
                format!("{given:?} for {request:?}: {why}"),
            );
        }
        if request.pinned.is_some_and(|pinned| pinned != given.account) {
            return fail(
                "no grant on a blocked account",
                format!("{given:?} for {request:?}"),
            );
        }
        if request.excluded.contains(&given.account) {
            return fail(
                "no grant on an excluded account",
                format!("{given:?} for {request:?}"),
            );
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

    fn breaker_state(&mut self) -> Option<bool> {
        let breaker = self.subject.real().snapshot(self.now).breaker;
        let ready = breaker.until.is_some_and(|until| until <= self.now.wall);
        breaker.active.then_some(ready && !breaker.probe_in_flight)
    }

    /// P8: while it is open nobody passes, and then one.
    fn check_breaker(&mut self, before: Option<bool>, claude: u32, given: &Given) -> Checked {
        if !self.is_claude(given.account) {
            return Ok(());
        }
        if self.probe.is_some() {
            return fail(
                "one probe at a time",
                format!("{given:?} beside {:?}", self.probe),
            );
        }
        match before {
            None => Ok(()),
            Some(true) if claude <= 1 => {
                self.see("breaker probed");
                self.probe = Some(given.lease);
                Ok(())
            }
            Some(_) => fail(
                "one probe at a time",
                format!("{given:?} while the breaker is open"),
            ),
        }
    }

    fn alike(&self, one: &Request, other: &Request) -> bool {
        let thinks = |request: &Request| {
            request.signed_thinking
                || request
                    .session
                    .is_some_and(|session| self.thinking.contains(&session))
        };
        one.profile == other.profile
            && one.family == other.family
            && thinks(one) == thinks(other)
            && one.pinned == other.pinned
            && one.thread.is_none()
            && other.thread.is_none()
    }

    /// Q2 within a class: nobody who came before still waits.
    fn check_order(&self, request: &Request, place: u64) -> Checked {
        for (ticket, id) in &self.tickets {
            let Some(client) = self.clients.get(id) else {
                continue;
            };
            let State::Waiting {
                place: other,
                paused,
                ..
            } = client.state
            else {
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
    fn check_no_overtaking(&mut self, request: &Request) -> Checked {
        // Verdicts that are not polled yet are on their way.
        let mut verdicts = Vec::new();
        while let Some(verdict) = self.subject.poll(self.now) {
            verdicts.push(verdict);
        }
        for verdict in verdicts {
            self.deliver(verdict)?;
        }
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
    fn check_expiry(&self, request: &Request, id: u64, limit: Limit) -> Checked {
        let since = self
            .clients
            .get(&id)
            .and_then(|client| client.first_wait)
            .unwrap_or(self.now.mono);
        let waited = self.now.mono.since(since);
        let bears = request
            .tolerance
            .map(|tolerance| request.arrived + tolerance);
        let shape = request.shape == Shape::NonStream && waited >= self.policy.non_stream_max_wait;
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

    fn check_all(&mut self) -> Checked {
        self.check_waiters()?;
        let snapshot = self.subject.snapshot(self.now);
        let mut flying = 0;
        for account in &snapshot.accounts {
            let Some(known) = self.accounts.get(&account.id) else {
                return fail(
                    "snapshot sums agree",
                    format!("{} is not known", account.name),
                );
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
            self.report
                .see_once(&format!("Status::{:?}", account.status));
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

    /// After `poll` is dry nobody waits whom an account could serve, and nobody waits longer than it may.
    fn check_waiters(&mut self) -> Checked {
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
            let waited = self
                .now
                .mono
                .since(client.first_wait.unwrap_or(self.now.mono));
            let bears = request
                .tolerance
                .is_none_or(|tolerance| request.arrived + tolerance > self.now.mono);
            let allowed = match request.shape {
                Shape::Stream => longest,
                Shape::NonStream => longest.min(self.policy.non_stream_max_wait),
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
            self.tell(|_| format!("client {id} waits: {:?}", explained.passed_over));
            asked.push(request);
        }
        Ok(())
    }

    fn is_claude(&self, id: AccountId) -> bool {
        self.accounts
            .get(&id)
            .is_some_and(|known| known.spec.kind.is_claude())
    }

    fn schedule(&mut self, at: Mono, event: Event) {
        self.event += 1;
        self.events.insert((at, self.event), event);
    }

    fn see(&mut self, what: &str) {
        self.report.see_once(what);
    }

    fn see_refusal(&mut self, refusal: &maxpool::scheduler::Refusal) {
        self.see(&format!(
            "RefusalReason::{}",
            variant(&format!("{:?}", refusal.reason))
        ));
        if let Some(cause) = refusal.cause {
            self.see(&format!("WaitCause::{cause:?}"));
        }
        for one in &refusal.accounts {
            self.see(&format!(
                "PassedOver::{}",
                variant(&format!("{:?}", one.reason))
            ));
        }
        self.tell(|_| format!("{refusal:?}"));
    }

    /// Adds to the digest of the run.
    fn note(&mut self, words: &[u64]) {
        for word in words.iter().chain([&self.now.mono.0]) {
            self.report.trace = (self.report.trace ^ word)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(17);
        }
    }

    fn tell(&mut self, line: impl Fn(&World) -> String) {
        if self.telling {
            let line = line(self);
            self.report.tale.push(line);
        }
    }
}

impl Report {
    fn see_once(&mut self, what: &str) {
        if !self.seen.contains(what) {
            self.seen.insert(what.to_owned());
        }
    }
}

impl Client {
    fn new(request: Request) -> Client {
        Client {
            request,
            state: State::Idle,
            grants_in_pass: 0,
            grants: 0,
            first_wait: None,
            returns: 0,
        }
    }
}

impl Truth {
    fn renew(&mut self, now: Now) {
        for (window, length) in [
            (&mut self.five, 18_000),
            (&mut self.week, 604_800),
            (&mut self.opus, 604_800),
        ] {
            if window.1 <= now.wall {
                *window = (0.0, now.wall + Duration::from_secs(length));
            }
        }
    }

    fn spend(&mut self, now: Now, weight: u32) {
        self.renew(now);
        self.five.0 += f64::from(weight) * 0.01;
        self.week.0 += f64::from(weight) * 0.002;
        self.opus.0 += f64::from(weight) * 0.004;
    }

    /// What the account says of its quota, and whether it rejects this request.
    fn report(&mut self, now: Now, request: &Request) -> (QuotaReport, bool) {
        self.renew(now);
        let opus = family("opus");
        let is_opus = request.family.as_ref() == Some(&opus);
        let windows = [
            (WindowKind::FiveHour, self.five),
            (WindowKind::SevenDay, self.week),
            (WindowKind::SevenDayFamily(opus), self.opus),
        ];
        let full = windows.iter().find(|(kind, (used, _))| {
            *used >= 1.0 && (is_opus || !matches!(kind, WindowKind::SevenDayFamily(_)))
        });
        let quota = QuotaReport {
            verdict: Some(if full.is_some() {
                Says::Rejected
            } else {
                Says::Allowed
            }),
            claim: full.map(|(kind, _)| kind.clone()),
            reset: full.map(|(_, (_, reset))| *reset),
            windows: windows
                .iter()
                .map(|(kind, (used, reset))| reading(kind.clone(), *used, *reset))
                .collect(),
            ..QuotaReport::default()
        };
        (quota, full.is_some())
    }
}

impl Faults {
    /// Most kinds of fault are off in most seeds, so that rare ones are seen without the rest.
    fn new(rng: &mut Rng) -> Faults {
        let mut share = |most: u64| {
            if rng.chance(400) {
                rng.within(1, most)
            } else {
                0
            }
        };
        Faults {
            server_side: share(200),
            overloaded: share(150),
            server_error: share(200),
            network: share(150),
            dns: share(80),
            credential: share(30),
            login: share(30),
            forbidden: share(40),
            neutral: share(150),
            abandon: share(150),
            leave: share(500),
            headless: share(100),
            odd_reports: share(300),
            overage: share(200),
            trouble: share(900),
            steps: share(900),
            edits: share(1_000),
            probes: share(1_000),
            drains: share(300),
        }
    }
}

fn policy(rng: &mut Rng) -> Policy {
    let secs = Duration::from_secs;
    let small = rng.chance(600);
    Policy {
        max_active_per_account: u32::try_from(if small { rng.within(1, 4) } else { 50 })
            .unwrap_or(50),
        max_active_global: u32::try_from(if small { rng.within(2, 10) } else { 150 })
            .unwrap_or(150),
        cooldown: secs(rng.within(1, 30)),
        max_cooldown: secs(rng.within(30, 900)),
        network_cooldown: secs(rng.within(1, 5)),
        max_attempts: u32::try_from(rng.below(4)).unwrap_or(0),
        overage: if rng.chance(300) {
            Overage::Never
        } else {
            Overage::Last
        },
        max_wait: secs(*rng.pick(&[60, 3_600, 86_400]).unwrap_or(&3_600)),
        auto_max_wait: rng.chance(200).then(|| secs(40)),
        capacity_max_wait: secs(*rng.pick(&[5, 60, 900]).unwrap_or(&900)),
        weekly_max_wait: secs(*rng.pick(&[0, 0, 86_400]).unwrap_or(&0)),
        queue_enabled: !rng.chance(50),
        max_queued: usize::try_from(*rng.pick(&[0, 3, 256]).unwrap_or(&256)).unwrap_or(256),
        max_queued_bytes: *rng.pick(&[4_000_000, 1 << 30]).unwrap_or(&(1 << 30)),
        max_queued_body_bytes: *rng.pick(&[1_000_000, 1 << 28]).unwrap_or(&(1 << 28)),
        session_idle: secs(*rng.pick(&[30, 3_600]).unwrap_or(&3_600)),
        poll: Duration::from_millis(*rng.pick(&[5_000, 60_000, 3_600_000]).unwrap_or(&60_000)),
        ..Policy::default()
    }
}

fn reading(kind: WindowKind, used: f64, reset: Wall) -> WindowReading {
    WindowReading {
        kind,
        utilisation: Some(used),
        limit: None,
        remaining: None,
        reset: Some(reset),
        verdict: None,
    }
}

fn family(name: &str) -> Family {
    Family(Arc::from(name))
}

fn evidence(now: Now, status: u16, message: &str) -> Evidence {
    Evidence {
        status: (status != 0).then_some(status),
        request_id: None,
        source: Arc::from("simulated"),
        at: now.wall,
        message: Arc::from(message),
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "Outcome::Success",
        Outcome::Neutral => "Outcome::Neutral",
        Outcome::Abandoned => "Outcome::Abandoned",
        Outcome::QuotaRejected { .. } => "Outcome::QuotaRejected",
        Outcome::ServerSide {
            overload: Overload::Refused429,
            ..
        } => "Outcome::ServerSide 429",
        Outcome::ServerSide {
            overload: Overload::Overloaded529,
            ..
        } => "Outcome::ServerSide 529",
        Outcome::ServerError { .. } => "Outcome::ServerError",
        Outcome::Network {
            blame: Blame::Account,
            ..
        } => "Outcome::Network",
        Outcome::Network {
            blame: Blame::Nobody,
            ..
        } => "Outcome::Network nobody",
        Outcome::CredentialRefused { .. } => "Outcome::CredentialRefused",
        Outcome::NeedsLogin { .. } => "Outcome::NeedsLogin",
        Outcome::CredentialForbidden { .. } => "Outcome::CredentialForbidden",
    }
}

/// The name of a variant in its debug text.
fn variant(text: &str) -> &str {
    text.split(['(', ' ', '{']).next().unwrap_or(text)
}

fn fail<T>(oracle: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { oracle, what })
}
