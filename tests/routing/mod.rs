//! How good the choice of accounts is: a made-up fortnight through the program's scheduler on a
//! virtual clock, and beside it through rules that others use and against a bound that knows the
//! future. Everything is decided by seeds.

pub mod bound;
pub mod plan;
mod real;
mod replay;
#[path = "../simulation/rng.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the simulator has it too, and needs more kinds of chance"
)]
mod rng;
pub mod router;
mod simple;
pub mod tally;
pub mod tuning;
mod upstream;
pub mod work;

use maxpool::scheduler::Policy;

use plan::{Scenario, Seat};
use router::Router;
use simple::{Rule, Simple, Stay};
use tally::Tally;
use tuning::Tuning;

/// One fortnight through every router: their names and how they did, ours first.
pub fn compare(
    scenario: &Scenario,
    load: u64,
    seed: u64,
    tunings: &[Tuning],
) -> Vec<(String, Tally)> {
    let mut rng = rng::Rng::new(seed);
    let seats = scenario.seats(&mut rng);
    let sessions = work::sessions(scenario, load as f64 / 100.0, &mut rng);
    let bound = bound::bound(&seats, &sessions);
    let tally = |(name, mut router): (String, Box<dyn Router>)| {
        let mut tally = replay::replay(&mut *router, &seats, &sessions);
        tally.bound = bound;
        (name, tally)
    };
    routers(tunings, &seats).into_iter().map(tally).collect()
}

fn routers(tunings: &[Tuning], seats: &[Seat]) -> Vec<(String, Box<dyn Router>)> {
    let mut routers: Vec<(String, Box<dyn Router>)> =
        vec![("**maxpool**".to_owned(), Box::new(real::Real::new(Policy::default(), seats)))];
    for tuning in tunings {
        routers.push((
            format!("maxpool, {}", tuning.text),
            Box::new(real::Real::new(tuning.policy.clone(), seats)),
        ));
    }
    for (name, rule) in [
        ("round-robin", Rule::RoundRobin),
        ("least used", Rule::LeastUsed),
        ("soonest reset first", Rule::SoonestReset),
    ] {
        for (stay, of) in [(Stay::Session, "sessions"), (Stay::Request, "requests")] {
            routers.push((format!("{name}, of {of}"), Box::new(Simple::new(rule, stay, seats))));
        }
    }
    routers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three plans at their limit: figures far from what they are now mean that routing got worse.
    #[test]
    fn the_scheduler_chooses_well() {
        let rows = compare(&plan::SCENARIOS[2], 100, 1, &[]);
        for (name, tally) in &rows {
            assert!(tally.done <= tally.bound, "{name} did more than can be done");
        }
        let find = |name: &str| &rows.iter().find(|(own, _)| own == name).expect("a row").1;
        let (ours, by_turns) = (&rows[0].1, find("round-robin, of requests"));
        let best = rows.iter().map(|(_, tally)| tally.done).fold(0.0, f64::max);
        let per_session = ours.moves as f64 / ours.conversations as f64;
        assert!(ours.done > 0.90 * ours.bound, "{ours:?}");
        assert!(ours.done > 0.96 * best, "another rule does more");
        assert!(ours.spent < 1.03 * ours.done, "caches are lost");
        assert!(per_session < 2.5, "sessions move {per_session} times");
        assert!(10 * ours.moved_tokens < 3 * by_turns.moved_tokens, "a cache is kept");
        assert!(ours.quota_429 <= 10, "{} are provoked", ours.quota_429);
    }

    #[test]
    fn a_fortnight_is_the_same_every_time() {
        let run = || compare(&plan::SCENARIOS[1], 60, 7, &[]);
        for ((name, one), (_, other)) in run().into_iter().zip(run()) {
            assert_eq!(format!("{one:?}"), format!("{other:?}"), "{name}");
            assert!(one.served > 1_000, "{name} does something");
        }
    }
}
