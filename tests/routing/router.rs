//! The interface between a replay and a router.

use std::time::Duration;

use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Now, Wall};

/// Chooses an account for each request, knowing only what the answers have said.
pub trait Router {
    /// Called for each request, and again after every refusal with the accounts that have refused
    /// it.
    fn ask(&mut self, now: u64, ask: &Ask<'_>) -> Answer;
    /// The head of an answer has arrived.
    fn head(&mut self, now: u64, lease: u64, status: u16, quota: &QuotaReport);
    /// The answer has ended.
    fn done(&mut self, now: u64, lease: u64, end: End);
    /// A waiting request has left.
    fn leave(&mut self, now: u64, ticket: u64);
    /// The next verdict on a waiting request.
    fn wake(&mut self, now: u64) -> Option<(u64, Answer)>;
    /// When to ask for verdicts even if nothing happens before.
    fn next(&self, now: u64) -> Option<u64>;
}

#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub session: usize,
    /// None for programs that send unrelated requests.
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
    /// No account can serve it; when one might, if known.
    No {
        wait: Option<u64>,
    },
}

#[derive(Clone, Debug)]
pub enum End {
    Served,
    Quota(QuotaReport),
    ServerSide { retry_after: Duration },
}

/// Both clocks at this moment of the replay, both far from zero.
pub fn clocks(now: u64) -> Now {
    Now { mono: Mono(50_000_000 + now), wall: wall(now) }
}

pub fn wall(now: u64) -> Wall {
    Wall(1_790_000_000_000_i64.saturating_add_unsigned(now))
}

/// The moment of the replay at this monotonic time.
pub fn moment(mono: Mono) -> u64 {
    mono.0 - 50_000_000
}

/// A window as the headers report it, with two decimals.
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
