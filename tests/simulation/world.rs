//! A simulated world around the scheduler: accounts with limits and failures, clients that arrive,
//! wait, leave and return, a gate that keeps its contract, and oracles that check every step.
//!
//! One seed decides everything. After a chaotic phase, the faults stop and everything must settle.

mod answers;
mod clients;
mod names;
mod oracles;
mod outside;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use maxpool::scheduler::quota::{Family, QuotaReport, Verdict as Says, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Now, Wall};
use maxpool::scheduler::{
    Access, AccountId, AccountLimit, AccountSpec, Avoided, Blame, BlockReason, Candidate, Effect,
    Evidence, ExplainedVerdict, Fingerprint, Kin, Kind, Limit, Outcome, Overage, Overload,
    PassedOver, Policy, RefusalReason, Request, RouteClass, Routing, SessionKey, Shape, Standing,
    ThreadKey, Ticket, Tier, Unproven, WaitCause, Why,
};

use super::model::{Known, Places};
use super::rng::Rng;
use super::subject::{Admitted, Bug, Cancelled, Given, Subject, Verdict};

use answers::{Faults, Plan, Truth, evidence, family, policy};
use names::{outcome_name, passed_over_name, variant};

/// What an oracle found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) oracle: &'static str,
    pub(crate) what: String,
}

/// The results of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// A digest of everything that happened.
    pub(crate) trace: u64,
    pub(crate) steps: u64,
    pub(crate) grants: u64,
    /// Every variant of every decision that occurred.
    pub(crate) seen: BTreeSet<String>,
    /// The latest events, if requested.
    pub(crate) tale: Vec<String>,
}

type Checked = Result<(), Violation>;

/// How to run a seed.
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
    probes: BTreeMap<Option<Family>, u64>,
    /// When a breaker last closed.
    closed_at: Option<Mono>,
    /// When the requests that an account has served were sent, and their kin.
    served: BTreeMap<AccountId, Vec<(Mono, Kin)>>,
    /// The kin of requests that met an unproven refusal with this message on an account since it
    /// last served one.
    met: BTreeMap<(AccountId, String), BTreeSet<Kin>>,
    met_at: BTreeMap<(AccountId, String), Mono>,
    /// When two unrelated requests last proved that refusal.
    proven: BTreeMap<(AccountId, String), Mono>,
    /// Which account last served a session, and when that request was granted.
    caches: BTreeMap<SessionKey, (AccountId, Mono)>,
    /// The breaker cannot be tracked in this step.
    blind: bool,
    draining: bool,
    settling: bool,
    last_client: u64,
    report: Report,
    telling: bool,
}

#[derive(Debug)]
struct Client {
    request: Request,
    state: State,
    grants_in_pass: usize,
    grants: u32,
    first_wait: Option<Mono>,
    /// Since when only the brink or a cold start has kept it waiting.
    restrained: Option<Mono>,
    granted: Mono,
    /// Which accounts refused it without evidence, when, and how long it must avoid each.
    refused_by: BTreeMap<AccountId, (Mono, Duration)>,
    returns: u32,
}

#[derive(Debug)]
enum State {
    Idle,
    Waiting { ticket: Ticket, since: Mono, place: u64, paused: Mono },
    Flying { lease: u64, account: AccountId, plan: Box<Plan> },
    Gone,
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
            probes: BTreeMap::new(),
            closed_at: None,
            served: BTreeMap::new(),
            met: BTreeMap::new(),
            met_at: BTreeMap::new(),
            proven: BTreeMap::new(),
            caches: BTreeMap::new(),
            blind: false,
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

    /// Proceeds from event to event and wake-up to wake-up, as the gate does.
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
        fail("everything settles", format!("{} events left after {most} steps", self.events.len()))
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

    /// Asserts that nothing is due before the announced wake-up.
    fn expect_silence(&mut self) -> Checked {
        match self.subject.poll(self.now) {
            None => Ok(()),
            Some(verdict) => {
                fail("next_wakeup is never late", format!("{verdict:?} at {:?}", self.now.mono))
            }
        }
    }

    /// Delivers all verdicts, then runs the oracles.
    fn settle_step(&mut self) -> Checked {
        self.report.steps += 1;
        let mut ready = self.breaker_state();
        while let Some(verdict) = self.subject.poll(self.now) {
            if let Verdict::Granted(ticket, given) = &verdict {
                let client = self.tickets.get(ticket).copied();
                self.check_breaker(&mut ready, client, given)?;
            }
            self.deliver(verdict)?;
        }
        self.blind = false;
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

    fn is_claude(&self, id: AccountId) -> bool {
        self.accounts.get(&id).is_some_and(|known| known.spec.kind.is_claude())
    }

    fn schedule(&mut self, at: Mono, event: Event) {
        self.event += 1;
        self.events.insert((at, self.event), event);
    }

    fn see(&mut self, what: &str) {
        self.report.see_once(what);
    }

    fn see_refusal(&mut self, refusal: &maxpool::scheduler::Refusal) {
        self.see(&format!("RefusalReason::{}", variant(&format!("{:?}", refusal.reason))));
        if let Some(cause) = refusal.cause {
            self.see(&format!("WaitCause::{cause:?}"));
        }
        for one in &refusal.accounts {
            self.see(passed_over_name(&one.reason));
        }
        self.tell(|_| format!("{refusal:?}"));
    }

    /// Adds to the digest of the run.
    fn note(&mut self, words: &[u64]) {
        for word in words.iter().chain([&self.now.mono.0]) {
            self.report.trace =
                (self.report.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
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
            restrained: None,
            granted: Mono(0),
            refused_by: BTreeMap::new(),
            returns: 0,
        }
    }
}

fn fail<T>(oracle: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { oracle, what })
}
