//! One fortnight on a virtual clock: clients, the API, and a router between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::plan::{FORTNIGHT, MINUTE, SECOND, Seat};
use super::router::{Answer, Ask, End, Router};
use super::tally::Tally;
use super::upstream::Account;
use super::work::{Kind, Session, Step};
use super::world::{Headers, World};

/// The time to the first word of an answer, and the time to a refusal.
const FIRST_WORD: u64 = 2 * SECOND;
const REFUSAL: u64 = 300;
/// A client that is refused without a time retries after `ASK_AGAIN`; no client retries before
/// `ASK_AGAIN_MIN`.
const ASK_AGAIN: u64 = 10 * MINUTE;
const ASK_AGAIN_MIN: u64 = 10 * SECOND;

/// The data of a replay, independent of the router.
pub struct Fortnight {
    pub world: World,
    pub seats: Vec<Seat>,
    pub sessions: Vec<Session>,
    /// By account: what its owner uses elsewhere.
    pub unseen: Vec<Vec<(u64, f64)>>,
}

struct Replay<'a> {
    router: &'a mut dyn Router,
    world: &'a World,
    sessions: &'a [Session],
    accounts: Vec<Account>,
    live: Vec<Live>,
    waiting: BTreeMap<u64, usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    event: u64,
    now: u64,
    tally: Tally,
}

/// The state of a session.
#[derive(Clone, Default)]
struct Live {
    step: usize,
    /// When the current request was first made, and how much was done by then.
    asked: u64,
    done_by_then: f64,
    refused_by: Vec<usize>,
    ticket: Option<u64>,
    flight: Option<Flight>,
    account: Option<usize>,
    caches: Vec<Cache>,
}

#[derive(Clone)]
struct Flight {
    lease: u64,
    account: usize,
    refusal: Option<End>,
    /// Additional cost when it ends.
    at_end: f64,
}

/// What an account's cache contains of a session.
#[derive(Clone, Copy)]
struct Cache {
    account: usize,
    tokens: u32,
    edition: u16,
    used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask(usize),
    Again(usize, usize),
    Head(usize),
    End(usize),
    /// The client's patience with this step is over.
    Enough(usize, usize),
}

/// Replays the fortnight through a router.
pub fn replay(router: &mut dyn Router, fortnight: &Fortnight) -> Tally {
    let Fortnight { world, seats, sessions, unseen } = fortnight;
    let accounts = seats.iter().zip(unseen).enumerate();
    let mut replay = Replay {
        router,
        world,
        sessions,
        accounts: accounts
            .map(|(number, (seat, unseen))| Account::new(number, *seat, unseen.clone(), world))
            .collect(),
        live: vec![Live::default(); sessions.len()],
        waiting: BTreeMap::new(),
        events: BinaryHeap::new(),
        event: 0,
        now: 0,
        tally: Tally::new(sessions),
    };
    replay.run();
    replay.tally
}

impl Replay<'_> {
    fn run(&mut self) {
        for (number, session) in self.sessions.iter().enumerate() {
            if let Some(step) = session.steps.first() {
                self.schedule(session.begins + step.pause, Event::Ask(number));
            }
        }
        loop {
            while let Some((ticket, answer)) = self.router.wake(self.now) {
                if let Some(session) = self.waiting.remove(&ticket) {
                    self.live[session].ticket = None;
                    self.live[session].refused_by.clear();
                    self.take(session, answer);
                }
            }
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let wake = self.router.next(self.now);
            let Some(at) = event.into_iter().chain(wake).min() else {
                break;
            };
            if at >= FORTNIGHT {
                break;
            }
            self.now = at.max(self.now);
            if event == Some(at)
                && let Some(Reverse((_, _, event))) = self.events.pop()
            {
                self.happen(event);
            }
        }
        for account in &mut self.accounts {
            account.pass(FORTNIGHT);
            self.tally.waste(&account.waste);
        }
        self.tally.close();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask(session) => {
                let live = &mut self.live[session];
                live.asked = self.now;
                live.done_by_then = self.tally.done;
                live.refused_by.clear();
                self.ask(session);
            }
            Event::Again(session, step) if self.live[session].step == step => self.ask(session),
            Event::Head(session) => self.head(session),
            Event::End(session) => self.end(session),
            Event::Enough(session, step) if self.live[session].step == step => {
                if let Some(ticket) = self.live[session].ticket.take() {
                    self.waiting.remove(&ticket);
                    self.router.leave(self.now, ticket);
                    self.give_up(session);
                }
            }
            Event::Again(..) | Event::Enough(..) => {}
        }
    }

    fn ask(&mut self, session: usize) {
        let (kind, step) = (self.sessions[session].kind, self.step(session));
        let bytes = 4 * u64::from(step.context);
        let ask = Ask {
            session,
            key: (kind != Kind::Script).then_some(session),
            bytes,
            // SPEC P4: the size, plus one for the long answers that agents request.
            weight: u32::try_from(bytes.div_ceil(64_000)).unwrap_or(1).max(1)
                + u32::from(kind != Kind::Script),
            refused_by: &self.live[session].refused_by,
        };
        let answer = self.router.ask(self.now, &ask);
        self.take(session, answer);
    }

    fn take(&mut self, session: usize, answer: Answer) {
        let patience = self.live[session].asked + self.sessions[session].kind.patience();
        let step = self.live[session].step;
        match answer {
            Answer::Go { account, lease } => self.send(session, account, lease),
            Answer::Wait { ticket } => {
                self.waiting.insert(ticket, session);
                self.live[session].ticket = Some(ticket);
                self.schedule(patience.max(self.now), Event::Enough(session, step));
            }
            Answer::No { wait } => {
                self.tally.refused += 1;
                self.live[session].refused_by.clear();
                let again = self.now + wait.unwrap_or(ASK_AGAIN).max(ASK_AGAIN_MIN);
                if again > patience {
                    self.give_up(session);
                } else {
                    self.schedule(again, Event::Again(session, step));
                }
            }
        }
    }

    fn send(&mut self, session: usize, account: usize, lease: u64) {
        let step = self.step(session);
        let lifetime = self.world.cache_minutes * MINUTE;
        let cached = |cache: &Cache| match cache.used + lifetime >= self.now {
            true => step.shares(cache.tokens, cache.edition),
            false => 0,
        };
        let live = &self.live[session];
        let here = live.caches.iter().find(|cache| cache.account == account);
        let warm = here.map_or(0, cached);
        let elsewhere = live.caches.iter().map(cached).max().unwrap_or(0);
        let cost = step.cost(warm);
        // What the API counts when the head arrives, and when the answer has ended.
        let costs = match self.world.headers {
            Headers::Real => (step.input_cost(warm), step.output_cost()),
            Headers::Ideal => (cost, 0.0),
        };
        let refusal = self.accounts[account].take(self.now, costs.0);
        let head = match &refusal {
            None => {
                self.tally.spent += cost;
                if self.accounts[account].is_paid() {
                    self.tally.paid += cost;
                }
                self.serve(session, account, &step, elsewhere.saturating_sub(warm));
                FIRST_WORD
            }
            Some(End::Quota(_)) => {
                self.tally.quota_429 += 1;
                REFUSAL
            }
            Some(End::ServerSide { .. } | End::Served) => {
                self.tally.crowd_429 += 1;
                REFUSAL
            }
        };
        self.live[session].flight = Some(Flight { lease, account, refusal, at_end: costs.1 });
        self.schedule(self.now + head, Event::Head(session));
    }

    /// Sends the request to the account that will answer it; `lost` of its tokens are cached, but
    /// elsewhere.
    fn serve(&mut self, session: usize, account: usize, step: &Step, lost: u32) {
        let live = &mut self.live[session];
        self.tally.waited(self.now - live.asked, live.asked, live.done_by_then);
        if live.account.is_some_and(|before| before != account)
            && self.sessions[session].kind != Kind::Script
        {
            self.tally.moves += 1;
            self.tally.moved_tokens += u64::from(lost);
        }
        live.account = Some(account);
        live.caches.retain(|cache| cache.account != account);
        live.caches.push(Cache {
            account,
            tokens: step.context,
            edition: step.edition,
            used: self.now,
        });
    }

    fn head(&mut self, session: usize) {
        let Some(flight) = self.live[session].flight.clone() else {
            return;
        };
        match flight.refusal {
            None => {
                let quota = self.accounts[flight.account].headers(self.now);
                self.router.head(self.now, flight.lease, 200, &quota);
                let rest = self.step(session).takes.saturating_sub(FIRST_WORD);
                self.schedule(self.now + rest, Event::End(session));
            }
            Some(end) => {
                self.live[session].flight = None;
                let quota = match &end {
                    End::Quota(quota) => quota.clone(),
                    End::ServerSide { .. } | End::Served => {
                        self.accounts[flight.account].headers(self.now)
                    }
                };
                self.router.head(self.now, flight.lease, 429, &quota);
                self.router.done(self.now, flight.lease, end);
                self.live[session].refused_by.push(flight.account);
                self.ask(session);
            }
        }
    }

    fn end(&mut self, session: usize) {
        let Some(flight) = self.live[session].flight.take() else {
            return;
        };
        self.accounts[flight.account].end(self.now, flight.at_end);
        self.router.done(self.now, flight.lease, End::Served);
        self.tally.served += 1;
        self.tally.done += self.step(session).worth;
        let live = &mut self.live[session];
        live.step += 1;
        if let Some(next) = self.sessions[session].steps.get(live.step) {
            let at = self.now + next.pause;
            self.schedule(at, Event::Ask(session));
        }
    }

    fn give_up(&mut self, session: usize) {
        let live = &mut self.live[session];
        self.tally.waited(self.now - live.asked, live.asked, live.done_by_then);
        live.step = usize::MAX;
        self.tally.given_up += 1;
    }

    fn step(&self, session: usize) -> Step {
        self.sessions[session].steps[self.live[session].step]
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.event += 1;
        self.events.push(Reverse((at, self.event, event)));
    }
}
