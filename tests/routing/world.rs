//! What is not as usual in a replay. A policy that was tuned in one world has to hold in others.

/// The differences between one world and another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct World {
    /// Share of each subscription's quota that its owner uses elsewhere, unseen.
    pub unseen: f64,
    /// A quarter of the agents are teams of 5 to 30 subagents that begin at once.
    pub teams: bool,
    /// The spreads of all sizes times this.
    pub tails: f64,
    /// Minutes until a prompt cache forgets what was not used.
    pub cache_minutes: u64,
    /// A conversation is summed up when it has grown to so many tokens, and goes on with so many.
    pub compact: (u32, u32),
    /// Of a hundred sessions, so many are programs with single requests.
    pub scripts: u64,
    /// A week in full five-hour windows.
    pub week: f64,
    /// The limits of requests in flight times this.
    pub crowd: f64,
    pub headers: Headers,
}

/// What the headers of an answer tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// As those of the real API: an answer's output is counted when it ends, after its head has
    /// come, and the reset of one window is told up to a minute late, each time differently.
    Real,
    /// An answer is counted whole before its head comes, and resets are exact.
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

/// What [`World::parse`] knows.
pub const WORDS: &str = "usual, unseen10, unseen20, unseen30, teams, heavy, hour, long, scripts, \
    noscripts, week5, week12, nocrowd, ideal";

impl World {
    /// From words: `unseen20,teams`.
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
