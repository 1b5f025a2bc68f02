//! The work of a fortnight: when each session begins, and what its requests need. Only the seed
//! decides it, whichever router is used.

use super::plan::{DAY, FORTNIGHT, HOUR, MINUTE, SECOND, Scenario, Seat};
use super::rng::Rng;
use super::world::World;

/// Tokens of instructions and tools at the start of every conversation.
const BASE: u32 = 18_000;

/// The kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Someone at a terminal: bursts of requests, pauses to think, a cache that grows.
    Interactive,
    /// An agent that runs unattended for hours.
    Agent,
    /// A program that sends unrelated requests without a session.
    Script,
}

/// A conversation or a run.
#[derive(Clone, Debug)]
pub struct Session {
    pub kind: Kind,
    pub begins: u64,
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Time between the previous answer and this request.
    pub pause: u64,
    /// Time until the answer is complete.
    pub takes: u64,
    /// Tokens of the whole conversation.
    pub context: u32,
    /// How often the conversation was summarised; only the head of an older edition's cache is
    /// usable.
    pub edition: u16,
    pub output: u32,
    /// The cost where its cache is, which is also the work done when it is served.
    pub worth: f64,
}

impl Kind {
    /// How long one request may wait before the client abandons the session.
    pub fn patience(self) -> u64 {
        match self {
            Kind::Interactive => HOUR,
            Kind::Agent => 8 * HOUR,
            Kind::Script => 2 * HOUR,
        }
    }
}

impl Step {
    /// Units of quota if this many of its tokens are cached.
    pub fn cost(&self, cached: u32) -> f64 {
        self.input_cost(cached) + self.output_cost()
    }

    /// The part that is known when the answer's head arrives.
    pub fn input_cost(&self, cached: u32) -> f64 {
        let cached = cached.min(self.context);
        0.1 * f64::from(cached) + 1.25 * f64::from(self.context - cached)
    }

    /// The part that is known when the answer has ended.
    pub fn output_cost(&self) -> f64 {
        5.0 * f64::from(self.output)
    }

    /// How much of a cached conversation it can use.
    pub fn shares(&self, tokens: u32, edition: u16) -> u32 {
        if edition == self.edition { tokens.min(self.context) } else { tokens.min(BASE) }
    }
}

/// The sessions of a fortnight that need `load` times the pool's quota, sorted by their start.
pub fn sessions(scenario: &Scenario, load: f64, world: &World, rng: &mut Rng) -> Vec<Session> {
    let days = Days::new(world, rng);
    let budget = load * scenario.quota(world);
    let mut sessions = Vec::new();
    let mut worth = 0.0;
    while worth < budget {
        let kind = match rng.below(100) {
            chance if chance >= 100 - world.scripts => Kind::Script,
            chance if chance >= (100 - world.scripts) * 7 / 9 => Kind::Agent,
            _ => Kind::Interactive,
        };
        let begins = days.begin(kind, rng);
        let is_team = world.teams && kind == Kind::Agent && rng.chance(250);
        let members = if is_team { rng.within(5, 30) } else { 1 };
        for _ in 0..members {
            let begins = begins + if is_team { rng.below(3 * SECOND) } else { 0 };
            let mut steps = steps(kind, world, rng);
            if is_team {
                steps.truncate(10 + geometric(rng, 40) as usize);
            }
            let session = Session { kind, begins, steps };
            worth += session.worth();
            sessions.push(session);
        }
    }
    sessions.sort_by_key(|session| session.begins);
    sessions
}

impl Session {
    /// When its requests would be made within the fortnight if none ever waited, and how much work
    /// each is.
    pub fn demand(&self) -> impl Iterator<Item = (u64, f64)> {
        let mut at = self.begins;
        self.steps
            .iter()
            .map(move |step| {
                let asked = at + step.pause;
                at = asked + step.takes;
                (asked, step.worth)
            })
            .take_while(|(asked, _)| *asked < FORTNIGHT)
    }

    fn worth(&self) -> f64 {
        self.demand().map(|(_, worth)| worth).sum()
    }
}

/// What a subscription's owner does with it elsewhere: the time and cost of each request.
pub fn unseen(seat: &Seat, world: &World, rng: &mut Rng) -> Vec<(u64, f64)> {
    if world.unseen == 0.0 || !seat.plan.is_subscription() {
        return Vec::new();
    }
    let budget = world.unseen * 2.0 * seat.weekly_quota;
    let days = Days::new(world, rng);
    let (mut requests, mut worth) = (Vec::new(), 0.0);
    while worth < budget {
        let kind = Kind::Interactive;
        let session =
            Session { kind, begins: days.begin(kind, rng), steps: steps(kind, world, rng) };
        worth += session.worth();
        requests.extend(session.demand());
    }
    requests.sort_by_key(|(at, _)| *at);
    requests
}

/// How busy each day is: working days vary a lot, and some are twice as busy as others.
struct Days([u64; 14]);

impl Days {
    fn new(world: &World, rng: &mut Rng) -> Days {
        Days(std::array::from_fn(|day| {
            let busy = (100.0 * lognormal(rng, 0.5 * world.tails)) as u64;
            if day % 7 < 5 { busy } else { busy / 8 }
        }))
    }

    fn begin(&self, kind: Kind, rng: &mut Rng) -> u64 {
        let mut left = rng.below(self.0.iter().sum());
        let mut day = 0;
        while left >= self.0[day] {
            left -= self.0[day];
            day += 1;
        }
        // Two peaks for people; agents are also started in the evening, and programs run at any
        // time.
        let middle = match (kind, rng.below(10)) {
            (Kind::Interactive, 0..5) => 10 * HOUR,
            (Kind::Interactive, _) => 14 * HOUR + 30 * MINUTE,
            (Kind::Agent, 0..4) => 11 * HOUR,
            (Kind::Agent, 4..7) => 15 * HOUR,
            (Kind::Agent, _) => 19 * HOUR,
            (Kind::Script, _) => 12 * HOUR,
        };
        let spread = match kind {
            Kind::Interactive => 90 * MINUTE,
            Kind::Agent => 2 * HOUR,
            Kind::Script => 5 * HOUR,
        };
        let at = middle as f64 + normal(rng) * spread as f64;
        day as u64 * DAY + (at.max(0.0) as u64).min(DAY - SECOND)
    }
}

fn steps(kind: Kind, world: &World, rng: &mut Rng) -> Vec<Step> {
    match kind {
        Kind::Interactive => {
            let prompts = 1 + geometric(rng, 12);
            // Each prompt is a burst of requests with tool calls in between, followed by a pause
            // for reading.
            let bursts: Vec<u64> = (0..prompts).map(|_| 1 + geometric(rng, 6)).collect();
            let pauses = bursts.iter().flat_map(|burst| {
                std::iter::once(Pause::Thinking).chain((1..*burst).map(|_| Pause::Tool))
            });
            conversation(pauses.collect(), world, rng)
        }
        Kind::Agent => {
            let requests = 60 + geometric(rng, 200);
            conversation((0..requests).map(|_| Pause::Tool).collect(), world, rng)
        }
        Kind::Script => (0..20 + geometric(rng, 80))
            .map(|_| {
                let context = (3_000.0 * lognormal(rng, 0.8 * world.tails)) as u32;
                let output = (500.0 * lognormal(rng, 0.6 * world.tails)) as u32;
                let mut step = Step {
                    pause: rng.within(0, 2 * SECOND),
                    takes: takes(output),
                    context,
                    edition: 0,
                    output,
                    worth: 0.0,
                };
                step.worth = step.cost(0);
                step
            })
            .collect(),
    }
}

enum Pause {
    Tool,
    Thinking,
}

fn conversation(pauses: Vec<Pause>, world: &World, rng: &mut Rng) -> Vec<Step> {
    let size = |rng: &mut Rng, spread: f64| lognormal(rng, spread * world.tails);
    let mut context = BASE + (8_000.0 * size(rng, 0.8)) as u32;
    let mut edition = 0;
    let mut cached = (0, 0);
    let mut steps = Vec::with_capacity(pauses.len());
    // The age of a cache counts from the request that used it last, so the answer's own time is
    // included.
    let mut age = 0;
    for pause in pauses {
        let pause = match pause {
            Pause::Tool => (4_000.0 * size(rng, 1.0)) as u64,
            Pause::Thinking => (75_000.0 * size(rng, 1.3)) as u64,
        };
        let output = (350.0 * size(rng, 0.9)) as u32;
        let mut step = Step { pause, takes: takes(output), context, edition, output, worth: 0.0 };
        let warm = if age + pause <= world.cache_minutes * MINUTE {
            step.shares(cached.0, cached.1)
        } else {
            0
        };
        step.worth = step.cost(warm);
        cached = (context, edition);
        age = step.takes;
        steps.push(step);
        context += output + (900.0 * size(rng, 1.0)) as u32;
        if context > world.compact.0 {
            context = world.compact.1;
            edition += 1;
        }
    }
    steps
}

/// 2 s to the first word, then 70 tokens per second.
fn takes(output: u32) -> u64 {
    2 * SECOND + u64::from(output) * SECOND / 70
}

fn unit(rng: &mut Rng) -> f64 {
    (rng.next() >> 11) as f64 / (1_u64 << 53) as f64
}

fn normal(rng: &mut Rng) -> f64 {
    let (radius, angle) = (unit(rng).max(1e-12), unit(rng));
    (-2.0 * radius.ln()).sqrt() * (angle * std::f64::consts::TAU).cos()
}

/// Around 1, never far below, sometimes far above.
fn lognormal(rng: &mut Rng, spread: f64) -> f64 {
    (normal(rng) * spread).exp().min(40.0)
}

fn geometric(rng: &mut Rng, mean: u64) -> u64 {
    (-(1.0 - unit(rng)).ln() * mean as f64) as u64
}
