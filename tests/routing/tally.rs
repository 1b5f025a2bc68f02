//! The results of a replay.

use super::plan::{FORTNIGHT, HOUR, MINUTE, SECOND};
use super::upstream::Waste;
use super::work::{Kind, Session};

/// Sums over one or more replays.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Units of work that was requested, that could be done at best, and that was done.
    pub asked: f64,
    pub bound: f64,
    pub done: f64,
    /// Units of quota that it took, and those of them that were billed individually.
    pub spent: f64,
    pub paid: f64,
    /// The work done when a request first had to wait longer than a minute.
    before_dry: Option<f64>,
    before_dry_sum: f64,
    pub served: u64,
    /// Sessions that can have a cache.
    pub conversations: u64,
    pub moves: u64,
    /// Tokens written to one account's cache although another account had them cached.
    pub moved_tokens: u64,
    pub quota_429: u64,
    pub crowd_429: u64,
    /// Requests that were told to return, and sessions that did not.
    pub refused: u64,
    pub given_up: u64,
    waste: Waste,
    /// Waits longer than a second, in ms.
    waits: Vec<u64>,
}

impl Tally {
    pub fn new(sessions: &[Session]) -> Tally {
        let demand = sessions.iter().flat_map(Session::demand);
        let caches = |session: &&Session| {
            session.kind != Kind::Script && session.begins < FORTNIGHT && session.steps.len() > 1
        };
        Tally {
            asked: demand.map(|(_, worth)| worth).sum(),
            conversations: sessions.iter().filter(caches).count() as u64,
            ..Tally::default()
        }
    }

    /// A request that was made at `asked` has waited, when `done` units had been done.
    pub fn waited(&mut self, time: u64, asked: u64, done: f64) {
        if time > SECOND {
            self.waits.push(time);
        }
        if time > MINUTE && asked < FORTNIGHT && self.before_dry.is_none_or(|before| done < before)
        {
            self.before_dry = Some(done);
        }
    }

    /// Ends the fortnight.
    pub fn close(&mut self) {
        self.before_dry_sum = self.before_dry.unwrap_or(self.done);
    }

    pub fn waste(&mut self, waste: &Waste) {
        self.waste.weekly += waste.weekly;
        self.waste.weekly_quota += waste.weekly_quota;
    }

    pub fn add(&mut self, other: &Tally) {
        self.asked += other.asked;
        self.bound += other.bound;
        self.done += other.done;
        self.spent += other.spent;
        self.paid += other.paid;
        self.before_dry_sum += other.before_dry_sum;
        self.served += other.served;
        self.conversations += other.conversations;
        self.moves += other.moves;
        self.moved_tokens += other.moved_tokens;
        self.quota_429 += other.quota_429;
        self.crowd_429 += other.crowd_429;
        self.refused += other.refused;
        self.given_up += other.given_up;
        self.waste(&other.waste);
        self.waits.extend_from_slice(&other.waits);
    }

    fn percent(part: f64, whole: f64) -> f64 {
        if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
    }

    /// One row in a table of [`FIGURES`].
    pub fn row(&self, name: &str) -> Vec<String> {
        let figures = FIGURES.iter().map(|figure| {
            let value = (figure.of)(self);
            format!("{value:.*}", figure.decimals)
        });
        std::iter::once(name.to_owned()).chain(figures).collect()
    }
}

/// A figure by which routers are compared.
pub struct Figure {
    pub name: &'static str,
    pub better: Better,
    decimals: usize,
    pub of: fn(&Tally) -> f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

const fn more(name: &'static str, decimals: usize, of: fn(&Tally) -> f64) -> Figure {
    Figure { name, better: Better::More, decimals, of }
}

const fn less(name: &'static str, decimals: usize, of: fn(&Tally) -> f64) -> Figure {
    Figure { name, better: Better::Less, decimals, of }
}

pub const FIGURES: [Figure; 12] = [
    more("done, % of asked", 1, |it| Tally::percent(it.done, it.asked)),
    more("% of bound", 1, |it| Tally::percent(it.done, it.bound)),
    more("before the first wait of a minute, %", 1, |it| {
        Tally::percent(it.before_dry_sum, it.asked)
    }),
    // A router that wastes quota loses less of it at resets, so the two are one figure.
    less("weekly quota lost at resets or spent beyond the work, %", 1, |it| {
        Tally::percent(it.waste.weekly, it.waste.weekly_quota)
            + Tally::percent(it.spent - it.done, it.done)
    }),
    less("paid by the token, % of the work", 1, |it| Tally::percent(it.paid, it.spent)),
    less("moves per session", 2, |it| it.moves as f64 / it.conversations.max(1) as f64),
    less("cache rewritten by moves, Mtok", 0, |it| it.moved_tokens as f64 / 1e6),
    less("waits > 1 s", 0, |it| it.waits.len() as f64),
    less("hours of them", 0, |it| it.waits.iter().sum::<u64>() as f64 / HOUR as f64),
    less("sessions given up", 0, |it| it.given_up as f64),
    less("429 quota", 0, |it| it.quota_429 as f64),
    less("429 crowd", 0, |it| it.crowd_429 as f64),
];
