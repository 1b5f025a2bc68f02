//! How good the choice of accounts is: a simulated fortnight through the program's scheduler on a
//! virtual clock, compared with simple rules used elsewhere and with a bound that knows the future.
//! Seeds decide everything.

pub mod bound;
pub mod hindsight;
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
pub mod verdict;
pub mod work;
pub mod world;

use maxpool::scheduler::Policy;

use hindsight::Hindsight;
use plan::{Scenario, Seat};
use replay::Fortnight;
use rng::Rng;
use router::Router;
use simple::{Heeds, Rule, Simple, Stay};
use tally::Tally;
use tuning::Tuning;
use world::World;

/// What determines a fortnight, and which routers are used besides the scheduler.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub scenario: &'a Scenario,
    /// Work as a percentage of the pool's quota.
    pub load: u64,
    pub seed: u64,
    pub world: &'a World,
    pub tunings: &'a [Tuning],
    pub rivals: Rivals,
}

/// Whether the simple rules are compared as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rivals {
    All,
    None,
}

/// One fortnight through every router: names and results, the scheduler first.
pub fn compare(case: &Case<'_>) -> Vec<(String, Tally)> {
    let (fortnight, _) = fortnight(case);
    let bound = bound::bound(&fortnight.seats, &fortnight.sessions);
    let tally = |(name, mut router): (String, Box<dyn Router>)| {
        let mut tally = replay::replay(&mut *router, &fortnight);
        tally.bound = bound;
        (name, tally)
    };
    routers(case, &fortnight.seats).into_iter().map(tally).collect()
}

/// How much of the reachable work the scheduler does.
pub fn search(case: &Case<'_>, steps: u32) -> Hindsight {
    let (fortnight, mut rng) = fortnight(case);
    let bound = bound::bound(&fortnight.seats, &fortnight.sessions);
    let asked = Tally::new(&fortnight.sessions).asked;
    hindsight::search(&fortnight, bound, asked, steps, &mut rng)
}

fn fortnight(case: &Case<'_>) -> (Fortnight, Rng) {
    let mut rng = Rng::new(case.seed);
    let world = *case.world;
    let seats = case.scenario.seats(&world, &mut rng);
    let sessions = work::sessions(case.scenario, case.load as f64 / 100.0, &world, &mut rng);
    let unseen = seats.iter().map(|seat| work::unseen(seat, &world, &mut rng)).collect();
    (Fortnight { world, seats, sessions, unseen }, rng)
}

fn routers(case: &Case<'_>, seats: &[Seat]) -> Vec<(String, Box<dyn Router>)> {
    let mut routers: Vec<(String, Box<dyn Router>)> =
        vec![("**maxpool**".to_owned(), Box::new(real::Real::new(Policy::default(), seats)))];
    for tuning in case.tunings {
        routers.push((
            format!("maxpool, {}", tuning.text),
            Box::new(real::Real::new(tuning.policy.clone(), seats)),
        ));
    }
    if case.rivals == Rivals::None {
        return routers;
    }
    for (name, rule) in [
        ("round-robin", Rule::RoundRobin),
        ("least used", Rule::LeastUsed),
        ("soonest reset first", Rule::SoonestReset),
    ] {
        for (stay, heeds, of) in [
            (Stay::Session, Heeds::Refusals, "sessions"),
            (Stay::Session, Heeds::Headers, "sessions, heeding headers"),
            (Stay::Request, Heeds::Refusals, "requests"),
        ] {
            let router = Simple::new(rule, stay, heeds, seats);
            routers.push((format!("{name}, of {of}"), Box::new(router)));
        }
    }
    routers
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdict::Verdict;

    fn case(scenario: usize, load: u64, seed: u64) -> Case<'static> {
        Case {
            scenario: &plan::SCENARIOS[scenario],
            load,
            seed,
            world: &world::USUAL,
            tunings: &[],
            rivals: Rivals::All,
        }
    }

    /// A short `make routing`: no simple rule is better than the scheduler beyond noise.
    #[test]
    fn the_scheduler_chooses_well() {
        let cases = [case(1, 100, 101), case(2, 100, 101), case(2, 100, 102), case(1, 140, 102)];
        let fortnights: Vec<_> = cases.iter().map(compare).collect();
        for (name, tally) in fortnights.iter().flatten() {
            assert!(tally.done <= tally.bound, "{name} did more than can be done");
        }
        let names: Vec<String> = fortnights[0].iter().map(|(name, _)| name.clone()).collect();
        let tallies: Vec<Vec<Tally>> = fortnights
            .into_iter()
            .map(|rows| rows.into_iter().map(|(_, tally)| tally).collect())
            .collect();
        for compared in verdict::judge(&names, 1, &tallies) {
            assert_ne!(compared.verdict, Verdict::Behind, "{compared:?}");
        }
        let ours = &tallies[0][0];
        assert!(ours.done > 0.90 * ours.bound, "{ours:?}");
        assert!(ours.moves < ours.conversations, "sessions move {} times", ours.moves);
        assert!(ours.quota_429 <= 20, "{} are provoked", ours.quota_429);
    }

    #[test]
    fn a_fortnight_is_the_same_every_time() {
        let run = || compare(&case(1, 60, 7));
        for ((name, one), (_, other)) in run().into_iter().zip(run()) {
            assert_eq!(format!("{one:?}"), format!("{other:?}"), "{name}");
            assert!(one.served > 1_000, "{name} does something");
        }
    }
}
