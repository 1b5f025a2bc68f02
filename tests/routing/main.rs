//! `make routing`: how good the choice of accounts is. Replays a made-up fortnight through the
//! program's scheduler on a virtual clock, and beside it through rules that others use and against
//! a bound that knows the future.
//!
//! It writes Markdown on stdout.

#![allow(unreachable_pub, reason = "a program of its own")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool of the tests"
)]

#[path = "mod.rs"]
mod routing;
#[path = "../bench/table.rs"]
#[allow(dead_code, reason = "the bench has more to tell")]
mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lexopt::prelude::*;
use routing::plan::SCENARIOS;
use routing::tally::Tally;
use routing::tuning::Tuning;
use table::Table;

const HELP: &str = "\
Replays a fortnight through the scheduler and through simpler rules.

usage: make routing ARGS='[options]'

  --seeds N         fortnights of each pool and load (default 4)
  --first N         the first seed (default 1)
  --pools LIST      of 1,2,3,5,8 accounts (default all), separated by commas
  --loads LIST      work in percent of the pool's quota (default 60,100,140)
  --set KEY=VALUE   one more row with this setting: switchThreshold or one of scheduler.*; several
                    in one row are separated by commas, several rows by another --set
";

struct Plan {
    seeds: u64,
    first: u64,
    pools: Vec<usize>,
    loads: Vec<u64>,
    tunings: Vec<Tuning>,
}

fn main() -> ExitCode {
    match arguments() {
        Ok(Some(plan)) => {
            run(&plan);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("routing: {error}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Option<Plan>, Box<dyn std::error::Error>> {
    let mut plan = Plan {
        seeds: 4,
        first: 1,
        pools: SCENARIOS.iter().map(|one| one.plans.len()).collect(),
        loads: vec![60, 100, 140],
        tunings: Vec::new(),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("seeds") => plan.seeds = parser.value()?.parse()?,
            Long("first") => plan.first = parser.value()?.parse()?,
            Long("pools") => plan.pools = list(&parser.value()?.string()?)?,
            Long("loads") => plan.loads = list(&parser.value()?.string()?)?,
            Long("set") => plan.tunings.push(Tuning::parse(&parser.value()?.string()?)?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(plan))
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, T::Err> {
    text.split(',').map(|word| word.trim().parse()).collect()
}

fn run(plan: &Plan) {
    let begun = Instant::now();
    let mut cases = Vec::new();
    for scenario in SCENARIOS {
        if plan.pools.contains(&scenario.plans.len()) {
            for load in &plan.loads {
                cases.extend((0..plan.seeds).map(|seed| (scenario, *load, plan.first + seed)));
            }
        }
    }
    let next = AtomicUsize::new(0);
    // By pool, load and row.
    let tallies = Mutex::new(BTreeMap::<(usize, u64, usize), (String, Tally)>::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((scenario, load, seed)) =
                    cases.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let rows = routing::compare(scenario, *load, *seed, &plan.tunings);
                    for (row, (name, tally)) in rows.into_iter().enumerate() {
                        let mut tallies = tallies.lock().unwrap();
                        let place = tallies
                            .entry((scenario.plans.len(), *load, row))
                            .or_insert_with(|| (name, Tally::default()));
                        place.1.add(&tally);
                    }
                }
            });
        }
    });
    print(plan, &tallies.into_inner().unwrap(), begun);
}

fn print(plan: &Plan, tallies: &BTreeMap<(usize, u64, usize), (String, Tally)>, begun: Instant) {
    let mut all: BTreeMap<usize, (String, Tally)> = BTreeMap::new();
    for scenario in SCENARIOS {
        for load in &plan.loads {
            let mut table = Table::new(&Tally::COLUMNS);
            let rows = tallies.range(
                (scenario.plans.len(), *load, 0)..=(scenario.plans.len(), *load, usize::MAX),
            );
            let mut requests = None;
            for ((_, _, row), (name, tally)) in rows {
                requests = requests.or(Some(tally.served));
                table.row(&tally.row(name));
                all.entry(*row).or_insert_with(|| (name.clone(), Tally::default())).1.add(tally);
            }
            if let Some(requests) = requests {
                println!(
                    "### {} accounts, work for {load} % of their quota\n\n{} requests served in {} fortnights.\n\n{}",
                    scenario.name,
                    requests,
                    plan.seeds,
                    table.finish()
                );
            }
        }
    }
    let mut table = Table::new(&Tally::COLUMNS);
    for (name, tally) in all.values() {
        table.row(&tally.row(name));
    }
    println!("### All of them\n\n{}", table.finish());
    eprintln!("routing: done in {:.0?}", begun.elapsed());
}
