//! `GET /maxpool/metrics`: Prometheus text (format 0.0.4).
//!
//! Accounts are identified by their position in the pool (`account="0"`); names and e-mails appear
//! only on request (D4).

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::text::clean;
use crate::event::labels::{self, BLOCK_REASONS};
use crate::event::{Counters, HistogramReading};
use crate::scheduler::{AccountSnapshot, Snapshot};

/// The content type of the answer.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How accounts are labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Labels {
    /// By position in the pool.
    Index,
    /// By name as well (`?names=1`).
    Names,
}

/// Facts about the process, from the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Resident memory, if the system reports it.
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    /// Time since its start.
    pub(crate) uptime: Duration,
}

impl Process {
    /// Reads `/proc/self`; on systems other than Linux only the uptime is known.
    pub(crate) fn look(uptime: Duration) -> Process {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        Process {
            resident_bytes: field("VmRSS:").map(|kib| kib.saturating_mul(1_024)),
            threads: field("Threads:"),
            // Includes the descriptor of the listing itself.
            descriptors: std::fs::read_dir("/proc/self/fd")
                .ok()
                .map(|list| (list.count() as u64).saturating_sub(1)),
            uptime,
        }
    }
}

/// The whole answer.
pub(crate) fn render(
    snapshot: &Snapshot,
    counters: &Counters,
    in_flight: usize,
    process: &Process,
    version: &str,
    labels: Labels,
) -> String {
    let mut page = Page { text: String::with_capacity(8 * 1024) };
    let info = [("version", version.to_owned())];
    page.family("maxpool_build_info", "gauge", "The running version.").sample("", &info, 1);
    requests(&mut page, counters, in_flight);
    queue_and_breaker(&mut page, snapshot, counters);
    latencies(&mut page, counters);
    tokens(&mut page, counters);
    account_gauges(&mut page, snapshot, labels);
    account_counters(&mut page, snapshot, labels);
    blocks(&mut page, counters);
    refreshes(&mut page, counters);
    process_facts(&mut page, process);
    page.text
}

/// The text under construction.
struct Page {
    text: String,
}

/// The samples of one metric.
struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing to a string cannot fail, here and below.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { page: self, name }
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "gauge", help).sample("", &[], value);
    }

    fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "counter", help).sample("", &[], value);
    }
}

impl Family<'_> {
    fn sample(
        &mut self,
        suffix: &str,
        labels: &[(&str, String)],
        value: impl Display,
    ) -> &mut Self {
        self.line(suffix, labels, &value);
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, String)], value: &dyn Display) {
        let text = &mut self.page.text;
        text.push_str(self.name);
        text.push_str(suffix);
        for (position, (label, value)) in labels.iter().enumerate() {
            let opening = if position == 0 { '{' } else { ',' };
            let _ = write!(text, "{opening}{label}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }

    fn histogram(&mut self, reading: &HistogramReading) {
        for (bound_ms, count) in &reading.buckets {
            self.sample("_bucket", &[("le", seconds(Duration::from_millis(*bound_ms)))], count);
        }
        self.sample("_bucket", &[("le", "+Inf".into())], reading.count);
        self.sample("_sum", &[], seconds(reading.sum));
        self.sample("_count", &[], reading.count);
    }
}

fn requests(page: &mut Page, counters: &Counters, in_flight: usize) {
    let mut family = page.family(
        "maxpool_requests_total",
        "counter",
        "Finished requests by outcome and kind of account.",
    );
    for (outcome, kind, count) in counters.requests() {
        let kind = kind.map_or("none", labels::kind);
        family.sample("", &[("outcome", outcome.into()), ("kind", kind.into())], count);
    }
    page.gauge("maxpool_requests_in_flight", "Requests in flight.", in_flight);
    page.counter(
        "maxpool_failovers_total",
        "Requests that moved to another account.",
        counters.failovers(),
    );
}

fn queue_and_breaker(page: &mut Page, snapshot: &Snapshot, counters: &Counters) {
    let queue = &snapshot.queue;
    page.gauge("maxpool_queue_length", "Requests waiting for an account.", queue.waiting);
    let oldest = queue.oldest.unwrap_or_default();
    page.gauge(
        "maxpool_queue_oldest_seconds",
        "Age of the oldest waiting request.",
        seconds(oldest),
    );
    page.gauge(
        "maxpool_queue_bytes",
        "Size of the bodies of waiting requests in bytes.",
        queue.bytes,
    );
    page.counter("maxpool_held_total", "Requests that have been held.", counters.held());
    page.counter(
        "maxpool_blameless_refusals_total",
        "Refusals that were no account's fault.",
        counters.blameless(),
    );
    let breaker = &snapshot.breaker;
    let state = if breaker.probe_in_flight {
        "probing"
    } else if breaker.active {
        "open"
    } else {
        "closed"
    };
    let mut family = page.family(
        "maxpool_breaker_state",
        "gauge",
        "1 for the current state of the shared breaker.",
    );
    for known in ["closed", "open", "probing"] {
        family.sample("", &[("state", known.into())], u8::from(known == state));
    }
    page.counter(
        "maxpool_breaker_opened_total",
        "Number of times that the shared breaker has opened.",
        counters.breaker_opened(),
    );
    let paused = u8::from(snapshot.admission_paused);
    page.gauge(
        "maxpool_admission_paused",
        "1 while the server is stopping or handing over.",
        paused,
    );
}

fn latencies(page: &mut Page, counters: &Counters) {
    page.family("maxpool_queue_seconds", "histogram", "Time in the queue.")
        .histogram(&counters.queue.read());
    page.family("maxpool_first_byte_seconds", "histogram", "Time to the first byte of the answer.")
        .histogram(&counters.first_byte.read());
    page.family("maxpool_request_seconds", "histogram", "Time to the end of the answer.")
        .histogram(&counters.total.read());
}

fn tokens(page: &mut Page, counters: &Counters) {
    let tokens = counters.tokens();
    page.family("maxpool_tokens_total", "counter", "Tokens of all answers by kind.")
        .sample("", &[("kind", "input".into())], tokens.input)
        .sample("", &[("kind", "output".into())], tokens.output)
        .sample("", &[("kind", "cache_read".into())], tokens.cache_read)
        .sample("", &[("kind", "cache_write".into())], tokens.cache_write);
}

/// The labels that identify an account.
fn account_label(
    index: usize,
    account: &AccountSnapshot,
    labels: Labels,
) -> Vec<(&'static str, String)> {
    let mut label =
        vec![("account", index.to_string()), ("kind", labels::kind(account.kind).to_owned())];
    if labels == Labels::Names {
        label.push(("name", account.name.to_string()));
    }
    label
}

fn account_gauges(page: &mut Page, snapshot: &Snapshot, labels: Labels) {
    let label = |index, account| account_label(index, account, labels);
    let pool = || snapshot.accounts.iter().enumerate();
    let mut family =
        page.family("maxpool_account_enabled", "gauge", "1 if the account is enabled.");
    for (index, account) in pool() {
        family.sample("", &label(index, account), u8::from(account.enabled));
    }
    let mut family =
        page.family("maxpool_account_in_flight", "gauge", "Requests in flight on the account.");
    for (index, account) in pool() {
        family.sample("", &label(index, account), account.in_flight);
    }
    let mut family = page.family(
        "maxpool_account_used_ratio",
        "gauge",
        "Used share of a quota window, from 0 to 1.",
    );
    for (index, account) in pool() {
        for window in &account.windows {
            let share = window.used.or_else(|| share_of(window.limit, window.remaining));
            if let Some(share) = share {
                let mut label = label(index, account);
                label.push(("window", labels::window(&window.kind)));
                family.sample("", &label, serde_json::Value::from(share));
            }
        }
    }
    let mut family = page.family(
        "maxpool_account_reset_timestamp_seconds",
        "gauge",
        "When a quota window resets, as Unix time.",
    );
    for (index, account) in pool() {
        for window in &account.windows {
            if let Some(reset) = window.reset {
                let mut label = label(index, account);
                label.push(("window", labels::window(&window.kind)));
                family.sample("", &label, reset.0 / 1_000);
            }
        }
    }
    let mut family = page.family("maxpool_account_blocks", "gauge", "Blocks in force by reason.");
    for (index, account) in pool() {
        for reason in BLOCK_REASONS {
            let in_force =
                account.blocks.iter().filter(|block| labels::block_reason(&block.reason) == reason);
            let mut label = label(index, account);
            label.push(("reason", reason.to_owned()));
            family.sample("", &label, in_force.count());
        }
    }
}

fn account_counters(page: &mut Page, snapshot: &Snapshot, labels: Labels) {
    let label = |index, account| account_label(index, account, labels);
    let pool = || snapshot.accounts.iter().enumerate();
    let mut family = page.family(
        "maxpool_account_requests_total",
        "counter",
        "Requests that the account has finished, by result.",
    );
    for (index, account) in pool() {
        for (result, count) in [("completed", account.completed), ("failed", account.failed)] {
            let mut label = label(index, account);
            label.push(("result", result.to_owned()));
            family.sample("", &label, count);
        }
    }
    let mut family = page.family(
        "maxpool_account_tokens_total",
        "counter",
        "Tokens that the account has used, by direction; kept in the state file.",
    );
    for (index, account) in pool() {
        let tokens = &account.usage.tokens;
        for (direction, count) in [
            ("input", tokens.input),
            ("output", tokens.output),
            ("cache_read", tokens.cache_read),
            ("cache_write", tokens.cache_write),
        ] {
            let mut label = label(index, account);
            label.push(("direction", direction.to_owned()));
            family.sample("", &label, count);
        }
    }
}

fn blocks(page: &mut Page, counters: &Counters) {
    let mut family = page.family("maxpool_blocks_total", "counter", "Blocks set so far by reason.");
    for (reason, count) in counters.blocks() {
        family.sample("", &[("reason", reason.into())], count);
    }
}

fn refreshes(page: &mut Page, counters: &Counters) {
    let mut family =
        page.family("maxpool_token_refreshes_total", "counter", "Token refreshes by result.");
    for (result, count) in counters.refreshes() {
        family.sample("", &[("result", result.into())], count);
    }
    page.counter(
        "maxpool_events_dropped_total",
        "Log lines lost because the log was read too slowly.",
        counters.dropped(),
    );
}

fn process_facts(page: &mut Page, process: &Process) {
    if let Some(bytes) = process.resident_bytes {
        page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", bytes);
    }
    if let Some(threads) = process.threads {
        page.gauge("process_threads", "Threads of the process.", threads);
    }
    if let Some(descriptors) = process.descriptors {
        page.gauge("process_open_fds", "Number of open file descriptors.", descriptors);
    }
    page.gauge("maxpool_uptime_seconds", "Time since the server started.", seconds(process.uptime));
}

fn share_of(limit: Option<u64>, remaining: Option<u64>) -> Option<f64> {
    let (limit, remaining) = (limit?, remaining?);
    (limit > 0).then(|| 1.0 - remaining.min(limit) as f64 / limit as f64)
}

/// Seconds with milliseconds as decimals, as the format requires.
fn seconds(span: Duration) -> String {
    let ms = span.subsec_millis();
    if ms == 0 {
        return span.as_secs().to_string();
    }
    let decimals = format!("{ms:03}");
    format!("{}.{}", span.as_secs(), decimals.trim_end_matches('0'))
}

/// A label value: no control characters, `\` and `"` escaped as the format requires.
fn escaped(value: &str) -> String {
    clean(value, 200).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::report::status::tests::snapshot;

    fn page(labels: Labels) -> String {
        let counters = Counters::default();
        counters.queue.record(Duration::from_millis(3));
        let process = Process {
            resident_bytes: Some(4_096),
            threads: Some(3),
            descriptors: Some(9),
            uptime: Duration::from_millis(1_500),
        };
        render(&snapshot(), &counters, 3, &process, "2.0.0", labels)
    }

    #[test]
    fn the_page_tells_what_the_issue_lists() {
        let page = page(Labels::Index);
        for line in [
            "maxpool_build_info{version=\"2.0.0\"} 1",
            "maxpool_requests_total{outcome=\"ok\",kind=\"oauth\"} 0",
            "maxpool_requests_total{outcome=\"refused\",kind=\"none\"} 0",
            "maxpool_requests_in_flight 3",
            "maxpool_queue_length 2",
            "maxpool_queue_oldest_seconds 1.5",
            "maxpool_queue_seconds_bucket{le=\"0.001\"} 0",
            "maxpool_queue_seconds_bucket{le=\"0.005\"} 1",
            "maxpool_queue_seconds_bucket{le=\"+Inf\"} 1",
            "maxpool_queue_seconds_sum 0.003",
            "maxpool_tokens_total{kind=\"cache_write\"} 0",
            "maxpool_account_used_ratio{account=\"0\",kind=\"oauth\",window=\"seven_day\"} 0.62",
            "maxpool_account_reset_timestamp_seconds{account=\"0\",kind=\"oauth\",window=\"five_hour\"} 1795304700",
            "maxpool_account_blocks{account=\"0\",kind=\"oauth\",reason=\"quota\"} 1",
            "maxpool_account_blocks{account=\"0\",kind=\"oauth\",reason=\"network\"} 0",
            "maxpool_breaker_state{state=\"open\"} 1",
            "maxpool_breaker_state{state=\"closed\"} 0",
            "maxpool_token_refreshes_total{result=\"rotated\"} 0",
            "process_resident_memory_bytes 4096",
            "process_threads 3",
            "maxpool_uptime_seconds 1.5",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
        }
    }

    #[test]
    fn the_manual_names_every_metric_and_no_other() {
        const MANUAL: &str = include_str!("../../man/maxpool.1");
        let page = page(Labels::Index);
        let shown: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let named: BTreeSet<&str> = MANUAL
            .split_whitespace()
            .filter(|word| ["maxpool_", "process_"].iter().any(|it| word.starts_with(it)))
            .collect();
        assert_eq!(named, shown);
    }

    #[test]
    fn names_are_shown_only_when_asked_for() {
        assert!(!page(Labels::Index).contains("\"work\""));
        assert!(page(Labels::Names).contains("name=\"work\""));
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\\\nd");
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        let process = Process::look(Duration::ZERO);
        assert!(process.resident_bytes.is_none_or(|bytes| bytes > 100_000));
        assert!(process.threads.is_none_or(|threads| threads >= 1));
    }

    /// Checked with `promtool` of Debian's `prometheus` package, if it is installed.
    #[test]
    fn promtool_finds_nothing_to_complain_about() {
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = promtool else {
            return;
        };
        promtool.stdin.take().unwrap().write_all(page(Labels::Names).as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
