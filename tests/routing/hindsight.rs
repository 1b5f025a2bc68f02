//! How much better the choice of accounts could have been: a search that knows the whole fortnight.
//!
//! The scheduler weighs an account by how soon its week ends. Here it is given false ends, for each
//! account and six hours at a time, and changes that lead to more work are kept. The result can be
//! reached by a router that knows the future; the true optimum may be higher still.

use maxpool::scheduler::Policy;
use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind};

use super::plan::{FORTNIGHT, HOUR, WEEK};
use super::real::Real;
use super::replay::{Fortnight, replay};
use super::rng::Rng;
use super::router::{Answer, Ask, End, Router, wall};

/// As shares of the work requested.
#[derive(Clone, Copy, Debug)]
pub struct Hindsight {
    pub bound: f64,
    pub found: f64,
    pub ours: f64,
}

const SLOT: u64 = 6 * HOUR;
const SLOTS: usize = (FORTNIGHT / SLOT) as usize;

/// By account and slot: how much sooner its week is said to end, as a fraction of a week.
type Shifts = Vec<[f64; SLOTS]>;

/// Searches for this many steps.
pub fn search(
    fortnight: &Fortnight,
    bound: f64,
    asked: f64,
    steps: u32,
    rng: &mut Rng,
) -> Hindsight {
    let accounts = fortnight.seats.len();
    let done = |shifts: &Shifts| {
        let inner = Real::new(Policy::default(), &fortnight.seats);
        let mut router = Told { inner, shifts: shifts.clone(), leases: Vec::new() };
        replay(&mut router, fortnight).done
    };
    let mut best: Shifts = vec![[0.0; SLOTS]; accounts];
    let ours = done(&best);
    let mut found = ours;
    for step in 0..steps {
        let mut next = best.clone();
        // Wide changes first, narrow ones later.
        let span = if step < steps / 3 { 8 } else { 1 + rng.below(4) as usize };
        for _ in 0..=rng.below(3) {
            let account = rng.below(accounts as u64) as usize;
            let slot = rng.below(SLOTS as u64) as usize;
            let change = [-0.6, -0.3, -0.1, 0.1, 0.3, 0.6][rng.below(6) as usize];
            for shift in next[account].iter_mut().skip(slot).take(span) {
                *shift += change;
            }
        }
        let now = done(&next);
        if now >= found {
            (best, found) = (next, now);
        }
    }
    Hindsight { bound: bound / asked, found: found / asked, ours: ours / asked }
}

/// The scheduler with false ends of the weeks.
struct Told {
    inner: Real,
    shifts: Shifts,
    leases: Vec<(u64, usize)>,
}

impl Told {
    fn note(&mut self, answer: Answer) -> Answer {
        if let Answer::Go { account, lease } = answer {
            self.leases.push((lease, account));
        }
        answer
    }

    /// A refusal contains the true end, or the account would be tried in vain.
    fn bend(&self, now: u64, account: usize, quota: &QuotaReport) -> QuotaReport {
        let mut quota = quota.clone();
        let shift = self.shifts[account][((now / SLOT) as usize).min(SLOTS - 1)];
        if quota.verdict != Some(Verdict::Allowed) || shift == 0.0 {
            return quota;
        }
        for window in quota.windows.iter_mut().filter(|it| it.kind == WindowKind::SevenDay) {
            let left = window.reset.map_or(WEEK, |reset| wall(now).until(reset).as_millis() as u64);
            let told = (left as f64 - shift * WEEK as f64).clamp(HOUR as f64, WEEK as f64);
            window.reset = Some(wall(now + told as u64));
        }
        quota
    }
}

impl Router for Told {
    fn ask(&mut self, now: u64, ask: &Ask<'_>) -> Answer {
        let answer = self.inner.ask(now, ask);
        self.note(answer)
    }

    fn head(&mut self, now: u64, lease: u64, status: u16, quota: &QuotaReport) {
        let account =
            self.leases.iter().find(|(own, _)| *own == lease).map(|(_, account)| *account);
        let quota = account.map_or_else(|| quota.clone(), |one| self.bend(now, one, quota));
        self.inner.head(now, lease, status, &quota);
    }

    fn done(&mut self, now: u64, lease: u64, end: End) {
        self.leases.retain(|(own, _)| *own != lease);
        self.inner.done(now, lease, end);
    }

    fn leave(&mut self, now: u64, ticket: u64) {
        self.inner.leave(now, ticket);
    }

    fn wake(&mut self, now: u64) -> Option<(u64, Answer)> {
        let (ticket, answer) = self.inner.wake(now)?;
        Some((ticket, self.note(answer)))
    }

    fn next(&self, now: u64) -> Option<u64> {
        self.inner.next(now)
    }
}
