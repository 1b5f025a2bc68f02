//! An upper bound that no router can beat: the most work that the pool's quota allows if the whole
//! fortnight is known in advance.
//!
//! At every moment, the work done is at most all work requested before it plus all work that the
//! quota allows after it. The smallest of these sums is the bound. It assumes that requests wait
//! indefinitely and caches are never lost, so it may be unreachable.

use super::plan::{FIVE_HOURS, FORTNIGHT, HOUR, Seat, WEEK};
use super::work::Session;

/// In units of work.
pub fn bound(seats: &[Seat], sessions: &[Session]) -> f64 {
    let mut demand: Vec<(u64, f64)> = sessions.iter().flat_map(Session::demand).collect();
    demand.sort_by_key(|(at, _)| *at);
    // A window may be exceeded by its last request.
    let most = demand.iter().map(|(_, worth)| *worth).fold(0.0, f64::max);
    let (mut asked, mut next) = (0.0, 0);
    let mut least = f64::MAX;
    for hour in 0..=FORTNIGHT / HOUR {
        let at = hour * HOUR;
        while next < demand.len() && demand[next].0 < at {
            asked += demand[next].1;
            next += 1;
        }
        let quota: f64 = seats.iter().map(|seat| quota_after(seat, at, most)).sum();
        least = least.min(asked + quota);
    }
    least
}

/// What an account could still do between `at` and the end.
fn quota_after(seat: &Seat, at: u64, most: f64) -> f64 {
    let (mut begin, mut end) = (0, seat.first_reset);
    let mut left = seat.weekly_quota - seat.spent;
    let mut sum = 0.0;
    while begin < FORTNIGHT {
        let (from, to) = (begin.max(at), end.min(FORTNIGHT));
        if from < to {
            // One window may have been opened just before and not been used.
            let windows = (to - from).div_ceil(FIVE_HOURS) + 1;
            let sessions = windows as f64 * (seat.plan.session_quota() + most);
            sum += sessions.min(left + most);
        }
        (begin, end) = (end, end + WEEK);
        left = seat.weekly_quota;
    }
    sum
}
