//! The API's side: what an account may still use, and what its answers say of it.

use std::time::Duration;

use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind};

use super::plan::{FIVE_HOURS, FORTNIGHT, Seat, WEEK};
use super::router::{End, reading, wall};

/// One account as the API sees it.
pub struct Account {
    seat: Seat,
    week_reset: u64,
    week_used: f64,
    /// Its end and what is used of it; none is open until the next request.
    window: Option<(u64, f64)>,
    in_flight: u32,
    pub waste: Waste,
}

/// Quota that was there and expired.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waste {
    pub weekly: f64,
    pub weekly_quota: f64,
    pub session: f64,
    pub session_quota: f64,
}

/// A crowd is told to come back then.
const CROWD_WAIT: Duration = Duration::from_secs(10);

impl Account {
    pub fn new(seat: Seat) -> Account {
        Account {
            seat,
            week_reset: seat.first_reset,
            week_used: seat.spent,
            window: None,
            in_flight: 0,
            waste: Waste::default(),
        }
    }

    /// Forgets what has passed, and counts what was left of it.
    pub fn pass(&mut self, now: u64) {
        while self.week_reset <= now.min(FORTNIGHT) {
            let quota = self.seat.plan.weekly_quota();
            self.waste.weekly += (quota - self.week_used).max(0.0);
            self.waste.weekly_quota += quota;
            self.week_used = 0.0;
            self.week_reset += WEEK;
        }
        if let Some((end, used)) = self.window
            && end <= now
        {
            let quota = self.seat.plan.session_quota();
            self.waste.session += (quota - used).max(0.0);
            self.waste.session_quota += quota;
            self.window = None;
        }
    }

    /// Takes a request, or says why not.
    pub fn take(&mut self, now: u64, cost: f64) -> Option<End> {
        self.pass(now);
        if self.in_flight >= self.seat.plan.crowd() {
            return Some(End::ServerSide { retry_after: CROWD_WAIT });
        }
        if self.week_used >= self.seat.plan.weekly_quota() {
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

    pub fn end(&mut self) {
        self.in_flight -= 1;
    }

    /// The limit headers of an answer.
    pub fn headers(&mut self, now: u64) -> QuotaReport {
        self.pass(now);
        let mut windows = Vec::with_capacity(2);
        if let Some((end, used)) = self.window {
            let used = used / self.seat.plan.session_quota();
            windows.push(reading(WindowKind::FiveHour, used, end));
        }
        let used = self.week_used / self.seat.plan.weekly_quota();
        windows.push(reading(WindowKind::SevenDay, used, self.week_reset));
        QuotaReport { windows, verdict: Some(Verdict::Allowed), ..QuotaReport::default() }
    }

    fn refusal(&mut self, claim: WindowKind, now: u64, reset: u64) -> End {
        End::Quota(QuotaReport {
            verdict: Some(Verdict::Rejected),
            claim: Some(claim),
            reset: Some(wall(reset)),
            ..self.headers(now)
        })
    }
}
