//! The API's side: what an account may still use, and what its answers say about that.

use std::time::Duration;

use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind};

use super::plan::{FIVE_HOURS, FORTNIGHT, MINUTE, Plan, Seat, WEEK};
use super::router::{End, reading, wall};
use super::world::{Headers, World};

/// One account as the API sees it.
pub struct Account {
    seat: Seat,
    week_reset: u64,
    week_used: f64,
    /// Its end and how much of it is used; none is open until the next request.
    window: Option<(u64, f64)>,
    in_flight: u32,
    /// What its owner still uses elsewhere, with the next request last.
    unseen: Vec<(u64, f64)>,
    number: usize,
    headers: Headers,
    pub waste: Waste,
}

/// Quota that expired unused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waste {
    pub weekly: f64,
    pub weekly_quota: f64,
}

/// How long requests beyond the crowd limit are told to wait.
const CROWD_WAIT: Duration = Duration::from_secs(10);

impl Account {
    pub fn new(number: usize, seat: Seat, mut unseen: Vec<(u64, f64)>, world: &World) -> Account {
        unseen.reverse();
        Account {
            seat,
            week_reset: seat.first_reset,
            week_used: seat.spent,
            window: None,
            in_flight: 0,
            unseen,
            number,
            headers: world.headers,
            waste: Waste::default(),
        }
    }

    /// Whether every unit of it is billed.
    pub fn is_paid(&self) -> bool {
        self.seat.plan == Plan::Key
    }

    /// Closes windows that have ended, and counts what was left of them.
    pub fn pass(&mut self, now: u64) {
        while let Some((at, cost)) = self.unseen.pop_if(|(at, _)| *at <= now) {
            self.pass_to(at);
            let (end, used) = self.window.unwrap_or((at + FIVE_HOURS, 0.0));
            let is_open = used < self.seat.plan.session_quota();
            if is_open && self.week_used < self.seat.weekly_quota {
                self.window = Some((end, used + cost));
                self.week_used += cost;
            }
        }
        self.pass_to(now);
    }

    fn pass_to(&mut self, now: u64) {
        while self.week_reset <= now.min(FORTNIGHT) {
            if self.seat.plan.is_subscription() {
                let quota = self.seat.weekly_quota;
                self.waste.weekly += (quota - self.week_used).max(0.0);
                self.waste.weekly_quota += quota;
            }
            self.week_used = 0.0;
            self.week_reset += WEEK;
        }
        if self.window.is_some_and(|(end, _)| end <= now) {
            self.window = None;
        }
    }

    /// Accepts a request, or says why not.
    pub fn take(&mut self, now: u64, cost: f64) -> Option<End> {
        self.pass(now);
        if self.in_flight >= self.seat.crowd {
            return Some(End::ServerSide { retry_after: CROWD_WAIT });
        }
        if self.week_used >= self.seat.weekly_quota {
            return Some(self.refusal(WindowKind::SevenDay, now, self.week_reset));
        }
        let (end, used) = self.window.unwrap_or((now + FIVE_HOURS, 0.0));
        if used >= self.seat.plan.session_quota() {
            return Some(self.refusal(WindowKind::FiveHour, now, end));
        }
        self.window = Some((end, used + cost));
        self.week_used += cost;
        self.in_flight += 1;
        None
    }

    /// An answer has ended, and cost this much more than was known at its head.
    pub fn end(&mut self, now: u64, cost: f64) {
        self.pass(now);
        self.in_flight -= 1;
        if let Some((_, used)) = &mut self.window {
            *used += cost;
        }
        self.week_used += cost;
    }

    /// The limit headers of an answer. Those of API keys are irrelevant here.
    pub fn headers(&mut self, now: u64) -> QuotaReport {
        self.pass(now);
        let mut windows = Vec::with_capacity(2);
        if let Some((end, used)) = self.window.filter(|_| !self.is_paid()) {
            let used = used / self.seat.plan.session_quota();
            windows.push(reading(WindowKind::FiveHour, used, self.told(now, end)));
        }
        if self.seat.weekly_quota.is_finite() {
            let used = self.week_used / self.seat.weekly_quota;
            windows.push(reading(WindowKind::SevenDay, used, self.told(now, self.week_reset)));
        }
        QuotaReport { windows, verdict: Some(Verdict::Allowed), ..QuotaReport::default() }
    }

    /// A reset as an answer at this moment reports it.
    fn told(&self, now: u64, reset: u64) -> u64 {
        match self.headers {
            Headers::Real => {
                let chance = super::rng::Rng::new(now ^ (self.number as u64) << 48).below(MINUTE);
                reset + chance
            }
            Headers::Ideal => reset,
        }
    }

    fn refusal(&mut self, claim: WindowKind, now: u64, reset: u64) -> End {
        End::Quota(QuotaReport {
            verdict: Some(Verdict::Rejected),
            claim: Some(claim),
            reset: Some(wall(self.told(now, reset))),
            ..self.headers(now)
        })
    }
}
