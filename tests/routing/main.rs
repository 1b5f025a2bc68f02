//! `make routing`: how good the choice of accounts is. Replays a simulated fortnight through the
//! program's scheduler on a virtual clock, and compares it with simple rules used elsewhere and
//! with a bound that knows the future.
//!
//! The report is Markdown on stdout.

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
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lexopt::prelude::*;
use routing::plan::{MIXED, SCENARIOS, Scenario};
use routing::tally::{FIGURES, Tally};
use routing::tuning::Tuning;
use routing::verdict::{Verdict, judge};
use routing::world::{USUAL, WORDS, World};
use routing::{Case, Rivals};
use table::Table;

const HELP: &str = "\
Replays a fortnight through the scheduler and through simpler rules.

usage: make routing ARGS='[options]'

  --seeds N         fortnights of each pool and load (default 4)
  --first N         the first seed (default 1)
  --fresh           the first seed is the present time, so that nothing was tuned on it
  --pools LIST      of 1,2,3,5,8 accounts, or 4,6 with an API key and a provider (default all)
  --loads LIST      work in percent of the pool's quota (default 60,100,140)
  --world WORDS     what is not as usual, several words separated by commas
  --set KEY=VALUE   one more row with this setting: switchThreshold or one of scheduler.*; several
                    in one row are separated by commas, several rows by another --set
  --ours            without the simpler rules
  --summary         without the tables of single pools and loads
  --hindsight N     instead: search N steps for what could have been reached, the future known
";

struct Plan {
    seeds: u64,
    first: u64,
    pools: Vec<usize>,
    loads: Vec<u64>,
    world: World,
    tunings: Vec<Tuning>,
    rivals: Rivals,
    tables: Tables,
    hindsight: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tables {
    All,
    Summary,
}

fn main() -> ExitCode {
    match arguments() {
        Ok(Some(plan)) => {
            run(&plan);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            print!("{HELP}\nThe worlds are {WORDS}.\n");
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
        pools: SCENARIOS.iter().chain(&MIXED).map(|one| one.plans.len()).collect(),
        loads: vec![60, 100, 140],
        world: USUAL,
        tunings: Vec::new(),
        rivals: Rivals::All,
        tables: Tables::All,
        hindsight: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("seeds") => plan.seeds = parser.value()?.parse()?,
            Long("first") => plan.first = parser.value()?.parse()?,
            Long("fresh") => plan.first = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            Long("pools") => plan.pools = list(&parser.value()?.string()?)?,
            Long("loads") => plan.loads = list(&parser.value()?.string()?)?,
            Long("world") => plan.world = World::parse(&parser.value()?.string()?)?,
            Long("set") => plan.tunings.push(Tuning::parse(&parser.value()?.string()?)?),
            Long("ours") => plan.rivals = Rivals::None,
            Long("summary") => plan.tables = Tables::Summary,
            Long("hindsight") => plan.hindsight = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(plan))
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, T::Err> {
    text.split(',').map(|word| word.trim().parse()).collect()
}

/// One fortnight and the results of every router in it.
struct Played {
    accounts: usize,
    load: u64,
    seed: u64,
    rows: Vec<(String, Tally)>,
}

fn run(plan: &Plan) {
    let begun = Instant::now();
    let mut cases = Vec::new();
    for scenario in SCENARIOS.iter().chain(&MIXED) {
        if plan.pools.contains(&scenario.plans.len()) {
            for load in &plan.loads {
                cases.extend((0..plan.seeds).map(|seed| Case {
                    scenario,
                    load: *load,
                    seed: plan.first + seed,
                    world: &plan.world,
                    tunings: &plan.tunings,
                    rivals: plan.rivals,
                }));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let played = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (accounts, load, seed) = (case.scenario.plans.len(), case.load, case.seed);
                    if let Some(steps) = plan.hindsight {
                        look_back(case, steps);
                        continue;
                    }
                    let rows = routing::compare(case);
                    played.lock().unwrap().push(Played { accounts, load, seed, rows });
                }
            });
        }
    });
    let mut played = played.into_inner().unwrap();
    played.sort_by_key(|one| (one.accounts, one.load, one.seed));
    print(plan, &played);
    eprintln!("routing: seeds from {}, done in {:.0?}", plan.first, begun.elapsed());
}

fn look_back(case: &Case<'_>, steps: u32) {
    let found = routing::search(case, steps);
    println!(
        "{}, load {}, seed {}: bound {:.1} %, found {:.1} %, maxpool {:.1} %, {:.1} % of what was found",
        case.scenario.name,
        case.load,
        case.seed,
        100.0 * found.bound,
        100.0 * found.found,
        100.0 * found.ours,
        100.0 * found.ours / found.found
    );
}

fn print(plan: &Plan, played: &[Played]) {
    if plan.tables == Tables::All {
        for scenario in SCENARIOS.iter().chain(&MIXED) {
            for load in &plan.loads {
                let accounts = scenario.plans.len();
                let title = format!("{} accounts, work for {load} % of their quota", scenario.name);
                print_table(plan, &title, played, |one| {
                    one.accounts == accounts && one.load == *load
                });
            }
        }
    }
    let has = |pools: &[Scenario], one: &Played| {
        pools.iter().any(|pool| pool.plans.len() == one.accounts)
    };
    print_table(plan, "All pools of subscriptions", played, |one| has(&SCENARIOS, one));
    print_table(plan, "All pools with an API key and a provider", played, |one| has(&MIXED, one));
}

fn print_table(plan: &Plan, title: &str, played: &[Played], which: impl Fn(&Played) -> bool) {
    let played: Vec<&Played> = played.iter().filter(|one| which(one)).collect();
    let Some(first) = played.first() else {
        return;
    };
    let mut sums: BTreeMap<usize, Tally> = BTreeMap::new();
    for (row, (_, tally)) in played.iter().flat_map(|one| one.rows.iter().enumerate()) {
        sums.entry(row).or_default().add(tally);
    }
    let columns: Vec<&str> =
        std::iter::once("router").chain(FIGURES.iter().map(|figure| figure.name)).collect();
    let mut table = Table::new(&columns);
    let names: Vec<String> = first.rows.iter().map(|(name, _)| name.clone()).collect();
    for (name, tally) in names.iter().zip(sums.values()) {
        table.row(&tally.row(name));
    }
    let own = 1 + plan.tunings.len();
    let fortnights: Vec<Vec<Tally>> = played
        .iter()
        .map(|one| one.rows.iter().map(|(_, tally)| tally.clone()).collect())
        .collect();
    let verdicts = judge(&names, own, &fortnights);
    if !verdicts.is_empty() {
        let words = verdicts.iter().map(|compared| match compared.verdict {
            Verdict::Best => "best".to_owned(),
            Verdict::WithinNoise => "within noise".to_owned(),
            Verdict::Behind => format!("behind {}", compared.rival),
        });
        let row: Vec<String> = std::iter::once("maxpool is".to_owned()).chain(words).collect();
        table.row(&row);
    }
    let served = sums.values().next().map_or(0, |tally| tally.served);
    println!(
        "### {title}\n\n{served} requests served in {} fortnights.\n\n{}",
        played.len(),
        table.finish()
    );
    for compared in verdicts.iter().filter(|one| one.verdict == Verdict::Behind) {
        println!(
            "{}: behind {} by {:.2}, standard error {:.2}",
            compared.figure, compared.rival, -compared.ahead, compared.error
        );
    }
}
