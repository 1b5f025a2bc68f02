//! Counters for the metrics, as atomics; they only grow, are never reset, and are handed over at a
//! restart.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::labels::{BLOCK_REASONS, KINDS, block_reason};
use super::{Event, Finished, Outcome, RefreshResult};
use crate::scheduler::{Kind, Usage};

#[derive(Default)]
pub(crate) struct Counters {
    /// By outcome, then by kind; the last column is "no account".
    requests: [[AtomicU64; KINDS.len() + 1]; Outcome::LABELS.len()],
    tokens: [AtomicU64; 4],
    refreshes: [AtomicU64; RefreshResult::LABELS.len()],
    blocks: [AtomicU64; BLOCK_REASONS.len()],
    failovers: AtomicU64,
    breaker_opened: AtomicU64,
    held: AtomicU64,
    dropped: AtomicU64,
    blameless: AtomicU64,
    pub(crate) queue: Histogram,
    /// Time to the first byte.
    pub(crate) first_byte: Histogram,
    /// Time to the end.
    pub(crate) total: Histogram,
}

impl Counters {
    pub(super) fn count(&self, event: &Event) {
        match event {
            Event::Finished(finished) => self.count_finished(finished),
            Event::Refresh(refresh) => add(&self.refreshes[refresh.result.index()], 1),
            Event::Failover(_) => add(&self.failovers, 1),
            Event::BreakerOpen { .. } => add(&self.breaker_opened, 1),
            Event::Held(_) => add(&self.held, 1),
            Event::AccountBlocked(blocked) => {
                let word = block_reason(&blocked.block.reason);
                if let Some(index) = BLOCK_REASONS.iter().position(|reason| *reason == word) {
                    add(&self.blocks[index], 1);
                }
            }
            Event::Started(_)
            | Event::AccountBack { .. }
            | Event::Released { .. }
            | Event::BreakerProbe
            | Event::BreakerClosed { .. }
            | Event::Reloaded { .. }
            | Event::ReloadFailed { .. }
            | Event::Stopping { .. }
            | Event::Draining { .. }
            | Event::Stopped
            | Event::Restart(_)
            | Event::Notice { .. }
            | Event::Warning { .. } => {}
        }
    }

    fn count_finished(&self, finished: &Finished) {
        let kind = finished.account.as_ref().map(|(_, kind)| *kind);
        add(&self.requests[finished.outcome.index()][column(kind)], 1);
        if let Some(tokens) = finished.tokens {
            let Usage { input, output, cache_read, cache_write } = tokens;
            for (counter, value) in self.tokens.iter().zip([input, output, cache_read, cache_write])
            {
                add(counter, value);
            }
        }
        if finished.outcome == Outcome::Local {
            return;
        }
        self.queue.record(finished.queued);
        self.total.record(finished.total);
        if let Some(first) = finished.first_byte {
            self.first_byte.record(first);
        }
    }

    /// Every figure, in an order that is the same in each process of one version.
    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let single =
            [&self.failovers, &self.breaker_opened, &self.held, &self.dropped, &self.blameless];
        let histograms = [&self.queue, &self.first_byte, &self.total];
        let histograms =
            histograms.into_iter().flat_map(|one| one.buckets.iter().chain([&one.sum_us]));
        let rows = self.requests.iter().flatten().chain(&self.tokens).chain(&self.refreshes);
        rows.chain(&self.blocks).chain(single).chain(histograms)
    }

    /// The current figures, for a process that takes over.
    #[must_use]
    pub(crate) fn figures(&self) -> Vec<u64> {
        self.all().map(|counter| counter.load(Relaxed)).collect()
    }

    /// Adds figures of another process; those of a version with other counters are left out.
    pub(crate) fn add_figures(&self, figures: &[u64]) {
        if self.all().count() == figures.len() {
            self.all().zip(figures).for_each(|(counter, more)| add(counter, *more));
        }
    }

    /// A refusal that blames no account.
    pub(crate) fn count_blameless(&self) {
        add(&self.blameless, 1);
    }

    /// Refusals so far that blamed no account.
    pub(crate) fn blameless(&self) -> u64 {
        self.blameless.load(Relaxed)
    }

    pub(super) fn count_dropped(&self) {
        add(&self.dropped, 1);
    }

    /// Events dropped because the channel was full.
    #[must_use]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Finished requests by outcome and account kind (`None`: no account was involved), in all
    /// combinations.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, Option<Kind>, u64)> {
        let kinds = || KINDS.into_iter().map(Some).chain([None]);
        Outcome::LABELS.iter().zip(&self.requests).flat_map(move |(word, row)| {
            kinds().zip(row).map(|(kind, count)| (*word, kind, count.load(Relaxed)))
        })
    }

    /// Token usage of all answers so far.
    #[must_use]
    pub(crate) fn tokens(&self) -> Usage {
        let [input, output, cache_read, cache_write] = &self.tokens;
        Usage {
            input: input.load(Relaxed),
            output: output.load(Relaxed),
            cache_read: cache_read.load(Relaxed),
            cache_write: cache_write.load(Relaxed),
        }
    }

    /// Refreshes by label of the result.
    pub(crate) fn refreshes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RefreshResult::LABELS
            .iter()
            .zip(&self.refreshes)
            .map(|(word, count)| (*word, count.load(Relaxed)))
    }

    /// Blocks set so far, by reason.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        BLOCK_REASONS.iter().zip(&self.blocks).map(|(word, count)| (*word, count.load(Relaxed)))
    }

    /// Requests that moved to another account.
    #[must_use]
    pub(crate) fn failovers(&self) -> u64 {
        self.failovers.load(Relaxed)
    }

    /// Times that the shared breaker opened.
    #[must_use]
    pub(crate) fn breaker_opened(&self) -> u64 {
        self.breaker_opened.load(Relaxed)
    }

    #[must_use]
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }
}

/// A latency histogram with fixed buckets.
#[derive(Default)]
pub(crate) struct Histogram {
    /// One per bound, and one for everything above the last; not cumulative.
    buckets: [AtomicU64; Histogram::BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// A snapshot of a histogram, cumulative as Prometheus expects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistogramReading {
    /// Upper bound in ms and the number of values up to it.
    pub(crate) buckets: Vec<(u64, u64)>,
    pub(crate) count: u64,
    pub(crate) sum: Duration,
}

impl Histogram {
    /// Upper bounds, from answers of the local machine up to held streams.
    pub(crate) const BOUNDS_MS: [u64; 14] =
        [1, 5, 25, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000];

    pub(crate) fn record(&self, value: Duration) {
        let index = Self::BOUNDS_MS
            .iter()
            .position(|bound| value <= Duration::from_millis(*bound))
            .unwrap_or(Self::BOUNDS_MS.len());
        add(&self.buckets[index], 1);
        add(&self.sum_us, u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    /// The current values. A value recorded meanwhile is counted in all buckets or in none, but the
    /// sum may already include it.
    #[must_use]
    pub(crate) fn read(&self) -> HistogramReading {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(Self::BOUNDS_MS.len());
        for (index, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            if let Some(bound) = Self::BOUNDS_MS.get(index) {
                buckets.push((*bound, count));
            }
        }
        HistogramReading { buckets, count, sum: Duration::from_micros(self.sum_us.load(Relaxed)) }
    }
}

fn column(kind: Option<Kind>) -> usize {
    kind.map_or(KINDS.len(), |kind| kind as usize)
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_includes_its_bounds() {
        let histogram = Histogram::default();
        for ms in [0, 1, 2, 5, 1_800_000, 1_800_001] {
            histogram.record(Duration::from_millis(ms));
        }
        let reading = histogram.read();
        assert_eq!(reading.buckets[0], (1, 2));
        assert_eq!(reading.buckets[1], (5, 4));
        assert_eq!(reading.buckets[13], (1_800_000, 5));
        assert_eq!(reading.count, 6);
        assert_eq!(reading.sum, Duration::from_millis(3_600_009));
    }

    #[test]
    fn every_figure_is_handed_over_once() {
        let counters = Counters::default();
        for (number, counter) in counters.all().enumerate() {
            add(counter, number as u64 + 1);
        }
        let next = Counters::default();
        next.add_figures(&counters.figures());
        next.add_figures(&[1, 2, 3]);
        assert_eq!(next.figures(), counters.figures());
        let mut addresses: Vec<_> = counters.all().map(std::ptr::from_ref).collect();
        let count = addresses.len();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), count);
        assert_eq!(count * size_of::<AtomicU64>(), size_of::<Counters>(), "none is left out");
    }

    #[test]
    fn a_finished_request_is_counted_under_its_outcome_and_kind() {
        let counters = Counters::default();
        let finished = Finished {
            method: "POST".into(),
            path: "/v1/messages".into(),
            account: Some(("work".into(), Kind::ApiKey)),
            status: Some(200),
            outcome: Outcome::Ok,
            cause: None,
            queued: Duration::ZERO,
            first_byte: None,
            total: Duration::from_millis(7),
            tokens: Some(Usage { input: 3, output: 4, cache_read: 5, cache_write: 6 }),
            session: None,
            model: None,
            attempts: 1,
        };
        counters.count(&Event::Finished(Box::new(finished.clone())));
        counters.count(&Event::Finished(Box::new(Finished {
            account: None,
            outcome: Outcome::Local,
            tokens: None,
            ..finished
        })));
        let counted: Vec<_> = counters.requests().filter(|(.., count)| *count > 0).collect();
        assert_eq!(counted, [("ok", Some(Kind::ApiKey), 1), ("local", None, 1)]);
        assert_eq!(counters.tokens().cache_write, 6);
        assert_eq!(counters.total.read().count, 1, "local routes are no latency");
        assert_eq!(counters.first_byte.read().count, 0);
    }
}
