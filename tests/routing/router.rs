//! What a replay asks of whoever chooses the accounts.

use std::time::Duration;

use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Now, Wall};

/// Chooses an account for each request, knowing nothing but what the answers have said.
pub trait Router {
    /// A request's first question, and one more after every refusal, with the accounts that have
    /// refused it.
    fn ask(&mut self, now: u64, ask: &Ask<'_>) -> Answer;
    /// The head of an answer has come.
    fn head(&mut self, now: u64, lease: u64, status: u16, quota: &QuotaReport);
    /// The answer is over.
    fn done(&mut self, now: u64, lease: u64, end: End);
    /// Whoever waited has left.
    fn leave(&mut self, now: u64, ticket: u64);
    /// The next verdict about one who waits.
    fn wake(&mut self, now: u64) -> Option<(u64, Answer)>;
    /// When to look for verdicts though nothing happened.
    fn next(&self, now: u64) -> Option<u64>;
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub session: usize,
    /// None for programs that send single requests.
    pub key: Option<usize>,
    pub bytes: u64,
    pub weight: u32,
    pub refused_by: &'a [usize],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    Go {
        account: usize,
        lease: u64,
    },
    Wait {
        ticket: u64,
    },
    /// Nobody can serve it; what is known of when.
    No {
        wait: Option<u64>,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum End {
    Served,
    Quota(QuotaReport),
    ServerSide { retry_after: Duration },
}

/// Both clocks at this moment of the replay, far from zero.
pub fn clocks(now: u64) -> Now {
    Now { mono: Mono(50_000_000 + now), wall: wall(now) }
}

pub fn wall(now: u64) -> Wall {
    Wall(1_790_000_000_000_i64.saturating_add_unsigned(now))
}

/// The moment of the replay that this is on the monotonic clock.
pub fn moment(mono: Mono) -> u64 {
    mono.0 - 50_000_000
}

/// A window as the headers tell it: two decimals and no more.
pub fn reading(kind: WindowKind, used: f64, reset: u64) -> WindowReading {
    let full = used >= 1.0;
    WindowReading {
        kind,
        utilisation: Some(if full { 1.0 } else { (used * 100.0).floor() / 100.0 }),
        limit: None,
        remaining: None,
        reset: Some(wall(reset)),
        verdict: Some(if full { Verdict::Rejected } else { Verdict::Allowed }),
    }
}
