//! The measurements, one after another, and their tables.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::load::{self, Destination, Load, Served};
use super::process::{Tree, machine_cpu};
use super::servers::{KEY, Program, Server, Upstream};
use super::streams::{self, Seen, Streams};
use super::stub::{Clock, Stub};
use super::table::{Table, at_share, mb, median, ms, number};

/// Numbers of connections that send small requests.
pub const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Sizes of large requests in bytes.
const BODIES: [usize; 2] = [1_000_000, 10_000_000];
/// Numbers of concurrent streams.
pub const STREAMS: [usize; 4] = [1, 50, 150, 600];
/// Events of each stream, and the time between two of them.
const EVENTS: usize = 200;
const PACE: Duration = Duration::from_millis(50);
/// Numbers of streams that start at the same moment, and events of each.
const BURSTS: [usize; 2] = [150, 600];
const BURST_EVENTS: usize = 20;
/// The share of a core that other programs may use before a measurement is marked.
const NEIGHBOURS: f64 = 0.3;
/// The time before anything is counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// How often each program is started in each round.
const STARTS: usize = 5;
/// The sizes of a large answer and of a large request (SPEC F2).
const ANSWER_BYTES: usize = 100_000_000;
const REQUEST_BYTES: usize = 30_000_000;

/// What to measure.
pub struct Plan {
    pub rounds: usize,
    pub time: Duration,
    pub sections: Vec<Section>,
    pub connections: Vec<usize>,
    pub streams: Vec<usize>,
    pub with_direct: bool,
    pub with_tls: bool,
    pub programs: Vec<(String, Program)>,
    /// Programs that were asked for but are not installed.
    pub missing: Vec<String>,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Start,
    Json,
    Bodies,
    Streams,
    Burst,
    Memory,
}

impl Section {
    pub const ALL: [Section; 6] = [
        Section::Start,
        Section::Json,
        Section::Bodies,
        Section::Streams,
        Section::Burst,
        Section::Memory,
    ];

    pub fn named(word: &str) -> Option<Section> {
        let names = ["start", "json", "bodies", "streams", "burst", "memory"];
        let index = names.iter().position(|name| *name == word)?;
        Some(Section::ALL[index])
    }
}

/// One of the programs that are measured in turns.
struct Runner {
    name: String,
    to: Destination,
    tree: Option<Tree>,
    _server: Option<Server>,
}

impl Runner {
    fn cpu(&self) -> Duration {
        self.tree.map_or(Duration::ZERO, Tree::cpu)
    }

    fn resident(&self) -> u64 {
        self.tree.map_or(0, Tree::resident)
    }
}

/// Runs the plan; each section of the report is shown as soon as it is complete.
pub fn run(plan: &Plan, mut show: impl FnMut(&str)) -> io::Result<()> {
    raise_descriptor_limit();
    let clock = Clock::start();
    let stub = Stub::start(clock)?;
    for name in &plan.missing {
        show(&format!("{name}: not installed, left out.\n\n"));
    }
    if plan.sections.contains(&Section::Start) {
        show(&start_up(plan, stub)?);
    }
    let mut links = vec![("plain HTTP to the upstream", Upstream::Plain(stub.plain))];
    if plan.with_tls {
        links.push(("TLS to the upstream", Upstream::Tls(stub.tls)));
    }
    for (words, upstream) in links {
        let runners = runners(plan, upstream)?;
        if plan.sections.contains(&Section::Json) {
            show(&small_requests(plan, &runners, words)?);
        }
        if plan.sections.contains(&Section::Bodies) {
            show(&large_requests(plan, &runners, words)?);
        }
        if plan.sections.contains(&Section::Streams) {
            show(&event_streams(plan, &runners, words, clock)?);
        }
    }
    if plan.sections.contains(&Section::Burst) {
        show(&bursts(plan, stub, clock)?);
    }
    if plan.sections.contains(&Section::Memory) {
        show(&memory(plan, stub, clock)?);
    }
    Ok(())
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // 600 streams need about 1,300 descriptors; a lower limit shows up as a failed measurement.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn told(what: &str) {
    eprintln!("bench: {what}");
}

/// All running servers and the direct connection.
fn runners(plan: &Plan, upstream: Upstream) -> io::Result<Vec<Runner>> {
    let mut runners = Vec::new();
    if plan.with_direct {
        let to = match upstream {
            Upstream::Plain(address) => Destination { address, tls: None },
            Upstream::Tls(address) => Destination { address, tls: Some(client_config()?) },
        };
        runners.push(Runner { name: "direct".to_owned(), to, tree: None, _server: None });
    }
    for (name, program) in &plan.programs {
        if matches!((program, upstream), (Program::Shunt(_), Upstream::Tls(_))) {
            continue;
        }
        let server = Server::start(program, upstream, &request("json", SMALL_BODY))
            .map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        runners.push(Runner {
            name: name.clone(),
            to: server.destination(),
            tree: Some(server.tree()),
            _server: Some(server),
        });
    }
    Ok(runners)
}

fn client_config() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(include_bytes!("../data/ca.pem")) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

const SMALL_BODY: &str = r#"{"model":"claude-sonnet-4-5","max_tokens":1024,"messages":[{"role":"user","content":"Say hello."}]}"#;
const STREAM_BODY: &str = r#"{"model":"claude-sonnet-4-5","max_tokens":1024,"stream":true,"messages":[{"role":"user","content":"Say hello."}]}"#;

/// A request as an API client sends it, with the answer that the stub is to give.
fn request(answer: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: {answer}\r\nanthropic-version: 2023-06-01\r\n\
         anthropic-beta: claude-code-20250219\r\ncontent-type: application/json\r\nuser-agent: claude-cli/2.1.0 (external, cli)\r\n\
         x-api-key: {KEY}\r\nx-app: cli\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A request whose conversation has about this many bytes.
fn large_request(bytes: usize) -> Vec<u8> {
    let line = "The quick brown fox jumps over the lazy dog, and says \\\"so\\\".\\n";
    let content = line.repeat(bytes / line.len());
    request(
        "json",
        &format!(
            r#"{{"model":"claude-sonnet-4-5","max_tokens":1024,"messages":[{{"role":"user","content":"{content}"}}]}}"#
        ),
    )
}

/// The order of a round, rotated so that no program is always first.
fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |index| (index + round) % count)
}

/// Each runner's figure relative to that of nginx, or else to the first one.
fn ratios(values: &[f64], names: &[&str]) -> Vec<String> {
    let anchor = names.iter().position(|name| *name == "nginx").unwrap_or(0);
    values.iter().map(|value| number(value / values[anchor])).collect()
}

fn names(runners: &[Runner]) -> Vec<&str> {
    runners.iter().map(|runner| runner.name.as_str()).collect()
}

/// The results of one program's turns.
struct Turns<T> {
    results: Vec<T>,
    /// The share of a core that other programs used, turn by turn.
    neighbours: Vec<f64>,
    /// Cores that the load generator and the stub used, turn by turn.
    own: Vec<f64>,
}

impl<T> Turns<T> {
    fn new() -> Turns<T> {
        Turns { results: Vec::new(), neighbours: Vec::new(), own: Vec::new() }
    }

    /// The program's name, with a mark if other programs used too much of the machine.
    fn named(&self, name: &str) -> String {
        let is_disturbed = median(self.neighbours.iter().copied()) > NEIGHBOURS;
        format!("{name}{}", if is_disturbed { " *" } else { "" })
    }
}

/// One measurement, together with the use of the machine by other programs meanwhile.
fn observed<T>(
    turns: &mut Turns<T>,
    cpu: impl Fn() -> Duration,
    measure: impl FnOnce() -> io::Result<T>,
) -> io::Result<()> {
    let itself = Tree(std::process::id());
    let moment = || (Instant::now(), machine_cpu(), itself.own_cpu(), cpu());
    let before = moment();
    turns.results.push(measure()?);
    let after = moment();
    let seconds = (after.0 - before.0).as_secs_f64();
    let cores = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() / seconds;
    let own = cores(before.2, after.2);
    turns.own.push(own);
    turns.neighbours.push(cores(before.1, after.1) - own - cores(before.3, after.3));
    Ok(())
}

/// All rounds of a load on all runners in turns.
fn rounds<T>(
    plan: &Plan,
    runners: &[Runner],
    what: &str,
    one: impl Fn(&Runner) -> io::Result<T>,
) -> io::Result<Vec<Turns<T>>> {
    let mut all: Vec<Turns<T>> = runners.iter().map(|_| Turns::new()).collect();
    for round in 0..plan.rounds {
        told(&format!("{what}, round {} of {}", round + 1, plan.rounds));
        for index in turns(runners.len(), round) {
            let runner = &runners[index];
            observed(&mut all[index], || runner.cpu(), || one(runner))
                .map_err(|error| io::Error::other(format!("{what}, {}: {error}", runner.name)))?;
        }
    }
    Ok(all)
}

fn small_requests(plan: &Plan, runners: &[Runner], words: &str) -> io::Result<String> {
    let mut text = format!("### Small JSON requests, {words}\n\n");
    let mut table = Table::new(&[
        "connections",
        "through",
        "requests/s",
        "of nginx",
        "median ms",
        "added ms",
        "99 % ms",
        "CPU µs each",
        "load's cores",
    ]);
    for &connections in &plan.connections {
        let load = Load {
            request: request("json", SMALL_BODY),
            connections,
            warm_up: WARM_UP,
            time: plan.time,
        };
        let results =
            rounds(plan, runners, &format!("{connections} connections, {words}"), |runner| {
                load::run(&runner.to, &load, || runner.cpu())
            })?;
        let rates: Vec<f64> =
            results.iter().map(|served| median(served.results.iter().map(Served::rate))).collect();
        let middle = |served: &Turns<Served>, share| {
            median(served.results.iter().map(|one| at_share(&one.latencies, share)))
        };
        let direct = middle(&results[0], 0.5);
        for (index, share) in ratios(&rates, &names(runners)).into_iter().enumerate() {
            let served = &results[index];
            let p50 = middle(served, 0.5);
            let added =
                if plan.with_direct && index > 0 { ms(p50 - direct) } else { "–".to_owned() };
            let cpu = if runners[index].tree.is_some() {
                number(median(served.results.iter().map(Served::cpu_each)))
            } else {
                "–".to_owned()
            };
            table.row(&[
                connections.to_string(),
                served.named(&runners[index].name),
                format!("{:.0}", rates[index]),
                share,
                ms(p50),
                added,
                ms(middle(served, 0.99)),
                cpu,
                number(median(served.own.iter().copied())),
            ]);
        }
    }
    text += &table.finish();
    text.push('\n');
    Ok(text)
}

fn large_requests(plan: &Plan, runners: &[Runner], words: &str) -> io::Result<String> {
    let mut text = format!("### Large requests on one connection, {words}\n\n");
    let mut table =
        Table::new(&["body", "through", "median ms", "of nginx", "MB/s", "CPU ms each"]);
    for bytes in BODIES {
        let load = Load {
            request: large_request(bytes),
            connections: 1,
            warm_up: Duration::ZERO,
            time: plan.time,
        };
        let results =
            rounds(plan, runners, &format!("{} MB, {words}", bytes / 1_000_000), |runner| {
                load::run(&runner.to, &load, || runner.cpu())
            })?;
        let times: Vec<f64> = results
            .iter()
            .map(|served| median(served.results.iter().map(|one| at_share(&one.latencies, 0.5))))
            .collect();
        for (index, share) in ratios(&times, &names(runners)).into_iter().enumerate() {
            let cpu = if runners[index].tree.is_some() {
                number(median(results[index].results.iter().map(Served::cpu_each)) / 1e3)
            } else {
                "–".to_owned()
            };
            let speed = load.request.len() as f64 / 1e6 / (times[index] / 1e9);
            table.row(&[
                format!("{} MB", bytes / 1_000_000),
                results[index].named(&runners[index].name),
                ms(times[index]),
                share,
                number(speed),
                cpu,
            ]);
        }
    }
    text += &table.finish();
    text.push('\n');
    Ok(text)
}

fn event_streams(plan: &Plan, runners: &[Runner], words: &str, clock: Clock) -> io::Result<String> {
    let pace = PACE.as_millis();
    let mut text =
        format!("### Streams of {EVENTS} events of 200 bytes, one every {pace} ms, {words}\n\n");
    let mut table = Table::new(&[
        "streams",
        "through",
        "first byte ms",
        "99 % ms",
        "event median ms",
        "of nginx",
        "event 99 % ms",
        "of nginx",
        "CPU µs an event",
        "RSS MB",
    ]);
    let order = request(&format!("sse {EVENTS} {}", PACE.as_micros()), STREAM_BODY);
    for &count in &plan.streams {
        let wanted = Streams { count, events: EVENTS, pace: PACE, is_burst: false };
        let results = rounds(plan, runners, &format!("{count} streams, {words}"), |runner| {
            let mut resident = 0;
            let seen = streams::run(
                &runner.to,
                wanted,
                &order,
                clock,
                || runner.cpu(),
                || resident = runner.resident(),
            )?;
            Ok((seen, resident))
        })?;
        let middle = |seen: &Turns<(Seen, u64)>, of: fn(&Seen) -> &Vec<u64>, share| {
            median(seen.results.iter().map(|(one, _)| at_share(of(one), share)))
        };
        let medians: Vec<f64> =
            results.iter().map(|seen| middle(seen, |one| &one.delays, 0.5)).collect();
        let late: Vec<f64> =
            results.iter().map(|seen| middle(seen, |one| &one.delays, 0.99)).collect();
        let (of_median, of_late) =
            (ratios(&medians, &names(runners)), ratios(&late, &names(runners)));
        for (index, seen) in results.iter().enumerate() {
            let events = (count * EVENTS) as f64;
            let (cpu, resident) = match runners[index].tree {
                None => ("–".to_owned(), "–".to_owned()),
                Some(_) => (
                    number(median(
                        seen.results.iter().map(|(one, _)| one.cpu.as_secs_f64() * 1e6 / events),
                    )),
                    number(median(seen.results.iter().map(|(_, bytes)| *bytes as f64 / 1e6))),
                ),
            };
            table.row(&[
                count.to_string(),
                seen.named(&runners[index].name),
                ms(middle(seen, |one| &one.first, 0.5)),
                ms(middle(seen, |one| &one.first, 0.99)),
                ms(medians[index]),
                of_median[index].clone(),
                ms(late[index]),
                of_late[index].clone(),
                cpu,
                resident,
            ]);
        }
    }
    text += &table.finish();
    text.push('\n');
    Ok(text)
}

/// Streams that all begin at the same moment, on a process that has served one request before.
fn bursts(plan: &Plan, stub: Stub, clock: Clock) -> io::Result<String> {
    let mut table =
        Table::new(&["streams", "through", "first byte ms", "99 % ms", "event 99 % ms"]);
    let order = request(&format!("sse {BURST_EVENTS} {}", PACE.as_micros()), STREAM_BODY);
    for count in BURSTS {
        let wanted = Streams { count, events: BURST_EVENTS, pace: PACE, is_burst: true };
        let mut all: Vec<Turns<Seen>> = plan.programs.iter().map(|_| Turns::new()).collect();
        for round in 0..plan.rounds {
            told(&format!("burst of {count}, round {} of {}", round + 1, plan.rounds));
            for index in turns(plan.programs.len(), round) {
                let (name, program) = &plan.programs[index];
                let failed = |error| io::Error::other(format!("{name}: {error}"));
                let probe = request("json", SMALL_BODY);
                let server =
                    Server::start(program, Upstream::Plain(stub.plain), &probe).map_err(failed)?;
                let cpu = || server.tree().cpu();
                observed(&mut all[index], cpu, || {
                    streams::run(&server.destination(), wanted, &order, clock, cpu, || ())
                })
                .map_err(failed)?;
            }
        }
        for ((name, _), seen) in plan.programs.iter().zip(&all) {
            let middle = |of: fn(&Seen) -> &Vec<u64>, share| {
                ms(median(seen.results.iter().map(|one| at_share(of(one), share))))
            };
            table.row(&[
                count.to_string(),
                seen.named(name),
                middle(|one| &one.first, 0.5),
                middle(|one| &one.first, 0.99),
                middle(|one| &one.delays, 0.99),
            ]);
        }
    }
    Ok(format!("### A burst on a fresh process\n\n{}\n", table.finish()))
}

fn start_up(plan: &Plan, stub: Stub) -> io::Result<String> {
    let mut times: Vec<Vec<f64>> = plan.programs.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        told(&format!("start-up, round {} of {}", round + 1, plan.rounds));
        for index in turns(plan.programs.len(), round) {
            let (name, program) = &plan.programs[index];
            for _ in 0..STARTS {
                let server = Server::start(
                    program,
                    Upstream::Plain(stub.plain),
                    &request("json", SMALL_BODY),
                )
                .map_err(|error| io::Error::other(format!("{name}: {error}")))?;
                times[index].push(server.start_up.as_secs_f64() * 1e3);
            }
        }
    }
    let mut table = Table::new(&["", "from start to first answer, ms"]);
    for ((name, _), times) in plan.programs.iter().zip(times) {
        table.row(&[(*name).to_owned(), number(median(times))]);
    }
    Ok(format!("### Start-up\n\n{}\n", table.finish()))
}

/// Memory of freshly started servers.
fn memory(plan: &Plan, stub: Stub, clock: Clock) -> io::Result<String> {
    let mut table = Table::new(&[
        "",
        "idle MB",
        "after 10,000 requests",
        "with 150 streams",
        "peak of a 100 MB answer",
        "peak of a 30 MB request",
    ]);
    for (name, program) in &plan.programs {
        told(&format!("memory of {name}"));
        let fresh = || {
            Server::start(program, Upstream::Plain(stub.plain), &request("json", SMALL_BODY))
                .map_err(|error| io::Error::other(format!("{name}: {error}")))
        };
        let server = fresh()?;
        // Gives the server time to release what start-up needed.
        std::thread::sleep(Duration::from_secs(2));
        let idle = server.tree().resident();
        let small = Load {
            request: request("json", SMALL_BODY),
            connections: 16,
            warm_up: Duration::ZERO,
            time: Duration::from_secs(2),
        };
        let start = Instant::now();
        let mut served = 0;
        while served < 10_000 && start.elapsed() < Duration::from_secs(30) {
            served += load::run(&server.destination(), &small, || Duration::ZERO)?.latencies.len();
        }
        let after = server.tree().resident();
        let server = fresh()?;
        let wanted = Streams { count: 150, events: 60, pace: PACE, is_burst: false };
        let order = request(&format!("sse {} {}", wanted.events, PACE.as_micros()), STREAM_BODY);
        let mut streaming = 0;
        streams::run(
            &server.destination(),
            wanted,
            &order,
            clock,
            || Duration::ZERO,
            || streaming = server.tree().resident(),
        )?;
        let answer = peak_added(&fresh()?, request(&format!("bytes {ANSWER_BYTES}"), SMALL_BODY))?;
        let body = peak_added(&fresh()?, large_request(REQUEST_BYTES))?;
        table.row(&[
            (*name).to_owned(),
            mb(idle),
            mb(after),
            mb(streaming),
            format!("+{}", mb(answer)),
            format!("+{}", mb(body)),
        ]);
    }
    Ok(format!("### Resident memory\n\n{}\n", table.finish()))
}

/// How much one request raises the peak of resident memory.
fn peak_added(server: &Server, request: Vec<u8>) -> io::Result<u64> {
    let tree = server.tree();
    tree.forget_peak();
    let before = tree.resident();
    let once = Load { request, connections: 1, warm_up: Duration::ZERO, time: Duration::ZERO };
    load::run(&server.destination(), &once, || Duration::ZERO)?;
    Ok(tree.peak().saturating_sub(before))
}
