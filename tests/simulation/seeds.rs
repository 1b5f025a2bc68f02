//! Runs the simulator over many seeds, over seeds that once found a bug, and over planted bugs.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::subject::Bug;
use super::world::{Options, Violation, run};

const SOUND: Options = Options { bug: None, telling: false };

/// Seeds in `make test`, unless `MAXPOOL_SIM_SEEDS` is set.
const SEEDS: u64 = 1_000;

/// Runs of fewer seeds need not cover every variant.
const SEEDS_FOR_COVERAGE: u64 = 500;

/// Everything that must occur over all seeds, so that no oracle guards something that never
/// happens.
const EXPECTED: &[&str] = &[
    "Admission::Granted",
    "Admission::Queued",
    "Admission::Refused",
    "BlockReason::CredentialRefused",
    "BlockReason::Unusable",
    "BlockReason::NeedsLogin",
    "BlockReason::Network",
    "BlockReason::Overloaded",
    "BlockReason::Quota",
    "BlockReason::ServerError",
    "BlockReason::ServerSide",
    "Cancel::AlreadyGranted",
    "Cancel::AlreadyRefused",
    "Cancel::Cancelled",
    "ExplainedVerdict::Chosen",
    "ExplainedVerdict::Refuse",
    "ExplainedVerdict::Wait",
    "Limit::ClientTolerance",
    "Limit::Suspense",
    "Limit::WaitLimit",
    "Outcome::Abandoned",
    "Outcome::Broken",
    "Outcome::CredentialRefused",
    "Outcome::Forbidden",
    "Outcome::ModelMissing",
    "Outcome::NeedsLogin",
    "Outcome::Network",
    "Outcome::Network nobody",
    "Outcome::Neutral",
    "Outcome::OwnRequest",
    "Outcome::QuotaRejected",
    "Outcome::ServerError",
    "Outcome::ServerSide 429",
    "Outcome::ServerSide 529",
    "Outcome::Success",
    "Outcome::Unproven",
    "Outcome::Unusable",
    "PassedOver::AccountFull",
    "PassedOver::AlreadyTried",
    "PassedOver::AtBrink",
    "PassedOver::BeingLooked",
    "PassedOver::Blocked",
    "PassedOver::BreakerOpen",
    "PassedOver::BreakerPacing",
    "PassedOver::BreakerProbing",
    "PassedOver::ColdStart",
    "PassedOver::Disabled",
    "PassedOver::FamilyExhausted",
    "PassedOver::InSuspense",
    "PassedOver::Leaving",
    "PassedOver::LimitReached",
    "PassedOver::NotBrought",
    "PassedOver::NotPinned",
    "PassedOver::OtherProfile",
    "PassedOver::OverageInUse",
    "PassedOver::PoolFull",
    "PassedOver::Ramping",
    "PassedOver::SignedThinking",
    "PassedOver::WeekExhausted",
    "PassedOver::WindowFull",
    "RefusalReason::AttemptsExhausted",
    "RefusalReason::CredentialsOnly",
    "RefusalReason::Draining",
    "RefusalReason::Limited",
    "RefusalReason::NoAccount",
    "RefusalReason::NoneEnabled",
    "RefusalReason::QueueFull",
    "RefusalReason::ThinkingNeedsClaude",
    "RefusalReason::ThreadElsewhere",
    "RefusalReason::TooLargeToHold",
    "RefusalReason::UnknownProfile",
    "Status::Active",
    "Status::Error",
    "Status::Exhausted",
    "Status::Throttled",
    "Tier::Critical",
    "Tier::Exhausted",
    "Tier::Normal",
    "Tier::Reserve",
    "Tier::Soft",
    "WaitCause::Capacity",
    "WaitCause::Credential",
    "WaitCause::Network",
    "WaitCause::Quota",
    "WaitCause::Weekly",
    "Wake::Expired",
    "Wake::Granted",
    "Wake::Refused",
    "Why::Current",
    "Why::Home",
    "Why::LongLook",
    "Why::Pinned",
    "Why::Preferred",
    "Why::Score",
    "Why::Thread",
    "a refusal was not proven",
    "a refusal was proven",
    "breaker probed",
    "the refusal was the request's own",
];

#[test]
fn every_seed_keeps_every_promise() {
    let seeds = number("MAXPOOL_SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("MAXPOOL_SIM_FIRST").unwrap_or(0);
    let begun = Instant::now();
    let next = AtomicU64::new(first);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8)) {
            scope.spawn(|| work(&next, first + seeds, &totals));
        }
    });
    let totals = totals.into_inner().expect("no seed panics with the lock held");
    if let Some((seed, violation)) = totals.found.iter().min_by_key(|(seed, _)| *seed) {
        tell(*seed, violation);
    }
    eprintln!(
        "{seeds} seeds, {} steps, {} grants in {:.1?}",
        totals.steps,
        totals.grants,
        begun.elapsed()
    );
    if seeds >= SEEDS_FOR_COVERAGE {
        let missing: Vec<_> =
            EXPECTED.iter().filter(|name| !totals.seen.contains(**name)).collect();
        assert!(missing.is_empty(), "never occurred: {missing:?}");
        let unknown: Vec<_> =
            totals.seen.iter().filter(|name| !EXPECTED.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "occurred, but nobody expects it: {unknown:?}");
    }
}

#[derive(Debug, Default)]
struct Totals {
    steps: u64,
    grants: u64,
    seen: BTreeSet<String>,
    found: Vec<(u64, Violation)>,
}

fn work(next: &AtomicU64, end: u64, totals: &Mutex<Totals>) {
    let mut own = Totals::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        let (report, outcome) = run(seed, SOUND);
        own.steps += report.steps;
        own.grants += report.grants;
        own.seen.extend(report.seen);
        if let Err(violation) = outcome {
            own.found.push((seed, violation));
            break;
        }
        if seed.is_multiple_of(16) {
            let (again, _) = run(seed, SOUND);
            if again.trace != report.trace {
                own.found.push((seed, random()));
            }
        }
    }
    let mut totals = totals.lock().expect("no seed panics with the lock held");
    totals.steps += own.steps;
    totals.grants += own.grants;
    totals.seen.extend(own.seen);
    totals.found.extend(own.found);
}

#[test]
fn what_was_found_once_stays_fixed() {
    for line in include_str!("../regressions.txt").lines() {
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        if let ["scheduler", seed] = words[..] {
            let seed = seed.parse().expect("a seed is a number");
            if let (_, Err(violation)) = run(seed, SOUND) {
                tell(seed, &violation);
            }
        }
    }
}

#[test]
fn every_planted_bug_is_caught() {
    for (bug, oracle) in BUGS {
        let options = Options { bug: Some(bug), telling: false };
        let caught = (0..SEEDS_FOR_A_BUG).find(|seed| match run(*seed, options) {
            (_, Err(violation)) => violation.oracle == oracle,
            (first, Ok(())) => oracle == RANDOM && run(*seed, options).0.trace != first.trace,
        });
        let Some(seed) = caught else {
            panic!("{bug:?} is not caught by the oracle that should: {oracle}")
        };
        eprintln!("{bug:?}: {oracle} (seed {seed})");
    }
}

/// Planted bugs, each with the oracle that must catch it.
const BUGS: [(Bug, &str); 28] = [
    (Bug::SwallowsAVerdict, "snapshot sums agree"),
    (Bug::RepeatsAVerdict, "every ticket ends once"),
    (Bug::IgnoresRejections, "no grant on a blocked account"),
    (Bug::IgnoresCooldowns, "no grant on a blocked account"),
    (Bug::ForgetsExclusions, "no grant on an excluded account"),
    (Bug::ExceedsCaps, "in flight never above the caps"),
    (Bug::LeaksALease, "leases equal what is in flight"),
    (Bug::ServesTheLastFirst, "first in, first out"),
    (Bug::Oversleeps, "next_wakeup is never late"),
    (Bug::Spins, "next_wakeup is never zero twice"),
    (Bug::IgnoresTolerance, "deadlines are kept"),
    (Bug::ExpiresEarly, "deadlines are kept"),
    (Bug::IgnoresWaitLimits, "deadlines are kept"),
    (Bug::ForgetsToWake, "no lost wake-up"),
    (Bug::ProbesTwice, "one probe at a time"),
    (Bug::MixesClocks, "a clock step moves resets only"),
    (Bug::Miscounts, "snapshot sums agree"),
    (Bug::IsRandom, RANDOM),
    (Bug::SendsThinkingAway, "no grant on a blocked account"),
    (Bug::IgnoresDisabling, "no grant on a blocked account"),
    (Bug::OverfillsTheQueue, "the queue is bounded"),
    (Bug::RefusesWithoutNeed, "nobody is refused whom an account could serve"),
    (Bug::TriesTooOften, "attempts are bounded"),
    (Bug::BlocksForEver, "every block of ours ends or has a look"),
    (Bug::MovesSessions, "a session stays where its cache is"),
    (Bug::BlamesAtOnce, "an unrelated request is never delayed by one request's unproven refusal"),
    (Bug::NeverProves, "two unrelated requests that meet the same do trip it"),
    (Bug::RepeatsCalls, "no call is repeated without a change"),
];

/// An oracle that does not catch its bug within this many seeds is too weak.
const SEEDS_FOR_A_BUG: u64 = 300;

const RANDOM: &str = "same seed, same trace";

fn random() -> Violation {
    Violation { oracle: RANDOM, what: "a second run went otherwise".to_owned() }
}

/// Runs the seed again and prints the events that led to the violation.
fn tell(seed: u64, violation: &Violation) {
    let (report, _) = run(seed, Options { telling: true, ..SOUND });
    let tale = report.tale.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
    panic!(
        "{tale}\nseed {seed}: {}: {}\nadd `scheduler {seed}` to tests/regressions.txt",
        violation.oracle, violation.what
    );
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
