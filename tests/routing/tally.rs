//! What a replay was like.

use super::plan::{FORTNIGHT, HOUR, MINUTE, SECOND};
use super::upstream::Waste;
use super::work::{Kind, Session};

/// Sums over one replay or several.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Units of work that was asked for, that could be done at best, and that was done.
    pub asked: f64,
    pub bound: f64,
    pub done: f64,
    /// Units of quota that it took.
    pub spent: f64,
    /// What was done when somebody first had to wait longer than a minute.
    before_dry: Option<f64>,
    before_dry_sum: f64,
    pub served: u64,
    /// Sessions that can have a cache.
    pub conversations: u64,
    pub moves: u64,
    /// Tokens that were written to a cache though another account had them.
    pub moved_tokens: u64,
    pub quota_429: u64,
    pub crowd_429: u64,
    /// Requests that were told to come back, and sessions that did not.
    pub refused: u64,
    pub given_up: u64,
    waste: Waste,
    /// Longer than a second, in ms.
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

    /// A request has waited, since `asked`, when `done` had been done.
    pub fn waited(&mut self, time: u64, asked: u64, done: f64) {
        if time > SECOND {
            self.waits.push(time);
        }
        if time > MINUTE && asked < FORTNIGHT && self.before_dry.is_none_or(|before| done < before)
        {
            self.before_dry = Some(done);
        }
    }

    /// The fortnight is over.
    pub fn close(&mut self) {
        self.before_dry_sum = self.before_dry.unwrap_or(self.done);
    }

    pub fn waste(&mut self, waste: &Waste) {
        self.waste.weekly += waste.weekly;
        self.waste.weekly_quota += waste.weekly_quota;
        self.waste.session += waste.session;
        self.waste.session_quota += waste.session_quota;
    }

    pub fn add(&mut self, other: &Tally) {
        self.asked += other.asked;
        self.bound += other.bound;
        self.done += other.done;
        self.spent += other.spent;
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

    /// The heads of [`Tally::row`].
    pub const COLUMNS: [&str; 11] = [
        "router",
        "done, % of asked",
        "% of bound",
        "before the first wait of a minute, %",
        "weekly quota lost at resets, %",
        "spent beyond the work, %",
        "moves per session",
        "cache rewritten by moves, Mtok",
        "waits > 1 s: count, hours in all",
        "sessions given up",
        "429 quota, crowd",
    ];

    pub fn row(&self, name: &str) -> Vec<String> {
        let percent = |part: f64, whole: f64| match whole > 0.0 {
            true => format!("{:.1}", 100.0 * part / whole),
            false => "–".to_owned(),
        };
        let hours = self.waits.iter().sum::<u64>() as f64 / HOUR as f64;
        vec![
            name.to_owned(),
            percent(self.done, self.asked),
            percent(self.done, self.bound),
            percent(self.before_dry_sum, self.asked),
            percent(self.waste.weekly, self.waste.weekly_quota),
            percent(self.spent - self.done, self.done),
            format!("{:.2}", self.moves as f64 / self.conversations.max(1) as f64),
            format!("{:.1}", self.moved_tokens as f64 / 1e6),
            format!("{}, {hours:.0}", self.waits.len()),
            self.given_up.to_string(),
            format!("{}, {}", self.quota_429, self.crowd_429),
        ]
    }
}
