//! `make bench`: what the program costs compared with a direct connection, nginx, an async Rust
//! proxy (shunt) and the npm package, all measured in turns in the same run.
//!
//! Everything runs on loopback and is bounded. The load generator, the upstream stub and the
//! servers share the machine, so figures can only be compared within one run. The report is
//! Markdown on stdout; progress goes to stderr.

#![allow(unreachable_pub, reason = "a program of its own")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool of the tests"
)]

mod link;
mod load;
mod measure;
mod process;
mod servers;
mod streams;
mod stub;
mod table;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::*;
use measure::{Plan, Section};
use servers::Program;

const HELP: &str = "\
Measures maxpool beside a direct connection, nginx, shunt and the npm package.

usage: make bench ARGS='[options]'

  --rounds N        measure everything N times and take medians (default 3)
  --seconds N       of each measurement of small requests (default 2)
  --connections N   of small requests, instead of 1, 16 and 64
  --only SECTIONS   of start,json,bodies,streams,burst,memory (default all), separated by commas
  --without NAMES   of direct,nginx,shunt,npm,maxpool,static,tls: leave these out
  --streams N       at once, instead of 1, 50, 150 and 600
  --binary [NAME=]PATH  measure this build of maxpool (default: the one beside this program); may be given several times

nginx, shunt (of the crate shunt-proxy) and maxpool of the npm package are looked for on PATH; $MAXPOOL_NODE says where else the
last is. A row with a * had neighbours on the machine that took more than 0.3 of a core.
";

fn main() -> ExitCode {
    let plan = match arguments() {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::from(2);
        }
    };
    // Each table is printed as soon as it is complete, so that a later failure does not lose it.
    match measure::run(&plan, |table| print!("{table}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Option<Plan>, Box<dyn std::error::Error>> {
    let mut rounds = 3;
    let mut seconds = 2.0;
    let mut sections = Section::ALL.to_vec();
    let mut without = Vec::new();
    let mut connections = measure::CONNECTIONS.to_vec();
    let mut streams = measure::STREAMS.to_vec();
    let mut binaries = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("rounds") => rounds = parser.value()?.parse()?,
            Long("seconds") => seconds = parser.value()?.parse()?,
            Long("connections") => connections = vec![parser.value()?.parse()?],
            Long("streams") => streams = vec![parser.value()?.parse()?],
            Long("binary") => binaries.push(parser.value()?.string()?),
            Long("without") => without = words(&parser.value()?.string()?),
            Long("only") => {
                sections = Vec::new();
                for word in words(&parser.value()?.string()?) {
                    sections
                        .push(Section::named(&word).ok_or(format!("there is no section {word}"))?);
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let is_left = |name: &str| !without.iter().any(|word| word == name);
    let mut programs = Vec::new();
    let mut missing = Vec::new();
    let mut offer = |name: &str, path: Option<PathBuf>, program: fn(PathBuf) -> Program| match path
    {
        _ if !is_left(name) => {}
        Some(path) => programs.push((name.to_owned(), program(path))),
        None => missing.push(name.to_owned()),
    };
    offer("nginx", on_path("nginx"), Program::Nginx);
    offer("shunt", on_path("shunt"), Program::Shunt);
    let node = std::env::var_os("MAXPOOL_NODE").map(PathBuf::from);
    let node = node.or_else(|| on_path("maxpool").filter(|path| is_script(path)));
    offer("npm", node, Program::Node);
    let there = |path: &Path| {
        let path = std::path::absolute(path).ok();
        path.filter(|path| path.is_file())
    };
    if binaries.is_empty() {
        offer("maxpool", there(&beside("maxpool")), Program::Maxpool);
        offer("static", there(Path::new("target/static/maxpool")), Program::Maxpool);
    }
    for binary in &binaries {
        let (name, path) = binary.split_once('=').unwrap_or(("maxpool", binary));
        offer(name, there(Path::new(path)), Program::Maxpool);
    }
    Ok(Some(Plan {
        rounds,
        time: Duration::try_from_secs_f64(seconds)?,
        sections,
        connections,
        streams,
        with_direct: is_left("direct"),
        with_tls: is_left("tls"),
        programs,
        missing,
    }))
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

/// A program in the directory of this binary.
fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let build = own.parent().and_then(Path::parent);
    build.unwrap_or(Path::new(".")).join(name)
}

/// A program on `PATH` or in the usual directories for servers.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).map(|directory| directory.join(name));
    let usual = [Path::new("/usr/sbin").join(name), Path::new("/usr/local/sbin").join(name)];
    own.chain(usual).find(|path| path.is_file())
}

/// Tells the npm package's command, which is a script, from our program of the same name.
fn is_script(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!"))
}
