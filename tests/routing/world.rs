//! Variations of the replayed world. A policy that was tuned in one world must do well in others.

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct World {
    /// The share of each subscription's quota that its owner uses elsewhere, unseen.
    pub unseen: f64,
    /// A quarter of the agents are teams of 5 to 30 subagents that start at once.
    pub teams: bool,
    /// A factor on the spreads of all sizes.
    pub tails: f64,
    /// Minutes until a prompt cache expires.
    pub cache_minutes: u64,
    /// A conversation is summarised when it has grown to the first number of tokens, and continues
    /// with the second.
    pub compact: (u32, u32),
    /// The percentage of sessions that are programs with unrelated requests.
    pub scripts: u64,
    /// A week's quota in full five-hour windows.
    pub week: f64,
    /// A factor on the limits of requests in flight.
    pub crowd: f64,
    pub headers: Headers,
}

/// What the headers of an answer report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// Like the real API: an answer's output is counted when it ends, after its head was sent, and
    /// a window's reset is reported up to a minute late, differently each time.
    Real,
    /// An answer is counted completely before its head arrives, and resets are exact.
    Ideal,
}

pub const USUAL: World = World {
    unseen: 0.0,
    teams: false,
    tails: 1.0,
    cache_minutes: 5,
    compact: (150_000, 30_000),
    scripts: 10,
    week: 8.0,
    crowd: 1.0,
    headers: Headers::Real,
};

/// The words that [`World::parse`] accepts.
pub const WORDS: &str = "usual, unseen10, unseen20, unseen30, teams, heavy, hour, long, scripts, \
    noscripts, week5, week12, nocrowd, ideal";

impl World {
    /// Parses words such as `unseen20,teams`.
    pub fn parse(text: &str) -> Result<World, String> {
        let mut world = USUAL;
        for word in text.split(',') {
            match word {
                "usual" => {}
                "unseen10" => world.unseen = 0.1,
                "unseen20" => world.unseen = 0.2,
                "unseen30" => world.unseen = 0.3,
                "teams" => world.teams = true,
                "heavy" => world.tails = 1.4,
                "hour" => world.cache_minutes = 60,
                "long" => world.compact = (700_000, 50_000),
                "scripts" => world.scripts = 40,
                "noscripts" => world.scripts = 0,
                "week5" => world.week = 5.0,
                "week12" => world.week = 12.0,
                "nocrowd" => world.crowd = 100.0,
                "ideal" => world.headers = Headers::Ideal,
                _ => return Err(format!("no world is called '{word}'; there are {WORDS}")),
            }
        }
        Ok(world)
    }
}
