//! The known quota windows of an account, and which of them an answer rejected (SPEC S1–S3).
//!
//! A window past its reset is dropped at the next check. Nothing here parses headers.

use std::time::Duration;

use super::policy::{FIVE_HOURS, LONG_BLOCK, UNKNOWN_RESET_WAIT, WEEK};
use super::quota::{Family, QuotaReport, Verdict, WindowKind, WindowReading};
use super::snapshot::{Source, WindowSnapshot};
use super::time::{Mono, Now, Wall};

/// The windows of one account, each kind at most once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows {
    list: Vec<Window>,
}

/// The current state of one window.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) kind: WindowKind,
    /// The family whose requests met it, if the upstream limits families separately (S2).
    pub(crate) family: Option<Family>,
    /// Used share, 0 to 1 (S1: larger values count as 1).
    pub(crate) used: Option<f64>,
    pub(crate) raw: Option<f64>,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    pub(crate) reset: Option<Wall>,
    learned: Now,
    source: Source,
    /// The lease that tests whether a limit without a known end still holds.
    looker: Option<u64>,
}

/// What a full window means for the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Out until its reset.
    Until(Wall),
    /// Its end is unknown: out until then, then one request may test it (S3).
    LookAt(Mono),
    /// One request may test it now.
    Lookable,
    /// One request is testing it.
    Looked,
}

/// The used share from which `retry` forgets a window: no default threshold is higher.
const FULL: f64 = 0.98;
/// More kinds than any upstream has; a hostile one cannot make the list grow.
const WINDOWS_MAX: usize = 16;

impl Windows {
    /// The windows that have not passed.
    pub(crate) fn iter(&self, wall: Wall) -> impl Iterator<Item = &Window> {
        self.list.iter().filter(move |window| window.reset.is_none_or(|reset| reset > wall))
    }

    pub(crate) fn get(&self, wall: Wall, kind: &WindowKind) -> Option<&Window> {
        self.iter(wall).find(|window| window.kind == *kind)
    }

    /// The window of that kind that applies to requests of this family.
    fn get_for(&self, wall: Wall, kind: &WindowKind, family: Option<&Family>) -> Option<&Window> {
        let family = family_of(kind, family);
        self.iter(wall).find(|window| window.kind == *kind && window.family == family)
    }

    pub(crate) fn of_family(&self, wall: Wall, family: &Family) -> Option<&Window> {
        self.iter(wall).find(|window| match &window.kind {
            WindowKind::SevenDayFamily(own) => own == family,
            WindowKind::FiveHour
            | WindowKind::SevenDay
            | WindowKind::Tokens
            | WindowKind::Requests
            | WindowKind::Generic => false,
        })
    }

    /// Drops what has passed; returns true if there was something.
    pub(crate) fn expire(&mut self, wall: Wall) -> bool {
        let before = self.list.len();
        self.list.retain(|window| window.reset.is_none_or(|reset| reset > wall));
        self.list.len() != before
    }

    /// The earliest reset.
    pub(crate) fn first_reset(&self) -> Option<Wall> {
        self.list.iter().filter_map(|window| window.reset).min()
    }

    /// Updates the windows from an answer to a request of this family, or from the probe. Missing
    /// values stay as they were.
    pub(crate) fn learn(
        &mut self,
        now: Now,
        report: &QuotaReport,
        family: Option<&Family>,
        source: Source,
    ) {
        for reading in &report.windows {
            let reset = reading
                .reset
                .or_else(|| report.reset.filter(|_| report.claim.as_ref() == Some(&reading.kind)));
            let is_rejected = reading.verdict == Some(Verdict::Rejected)
                && !(says_served(report) && concerns(&reading.kind, family));
            let family = family_of(&reading.kind, family);
            self.take(now, Told { reading, family, reset, is_rejected }, source);
        }
    }

    fn take(&mut self, now: Now, learned: Told<'_>, source: Source) {
        let Told { reading, family, reset, is_rejected } = learned;
        let is_same = |window: &Window| window.kind == reading.kind && window.family == family;
        let raw = reading.utilisation.filter(|used| used.is_finite() && *used >= 0.0);
        let has_use = raw.is_some() || reading.remaining.is_some();
        let share = used_share(raw, reading.limit, reading.remaining);
        // S3: a window that is rejected is out, whatever its share.
        let share = if is_rejected { Some(1.0) } else { share };
        if reset.is_some_and(|reset| reset <= now.wall) {
            self.list.retain(|window| !is_same(window));
            return;
        }
        if !has_use && reset.is_none() && !is_rejected {
            return;
        }
        let room = self.list.len() < WINDOWS_MAX;
        let known = self.list.iter_mut().find(|window| is_same(window));
        let Some(window) = known else {
            if room {
                self.list.push(Window {
                    kind: reading.kind.clone(),
                    family,
                    used: share,
                    raw,
                    limit: reading.limit,
                    remaining: reading.remaining,
                    reset,
                    learned: now,
                    source,
                    looker: None,
                });
            }
            return;
        };
        if is_rejected || !has_use && reading.verdict.is_some() {
            let known = used_share(window.raw, window.limit, window.remaining);
            window.used = if is_rejected { Some(1.0) } else { known };
            window.looker = None;
        }
        if has_use {
            window.used = share;
            window.raw = raw;
            window.limit = reading.limit;
            window.remaining = reading.remaining;
            window.looker = None;
        }
        window.reset = reset.or(window.reset);
        window.learned = now;
        window.source = source;
    }

    /// A6: drops what has no reset or has passed; answers received since take precedence.
    pub(crate) fn restore(&mut self, now: Now, saved: &[WindowSnapshot]) {
        for window in saved {
            let known = self.get_for(now.wall, &window.kind, window.family.as_ref()).is_some();
            if known
                || window.reset.is_none_or(|reset| reset <= now.wall)
                || self.list.len() >= WINDOWS_MAX
            {
                continue;
            }
            self.list.push(Window {
                kind: window.kind.clone(),
                family: window.family.clone(),
                used: used_share(window.raw, window.limit, window.remaining),
                raw: window.raw.filter(|used| used.is_finite() && *used >= 0.0),
                limit: window.limit,
                remaining: window.remaining,
                reset: window.reset,
                learned: Now { mono: now.mono, wall: window.learned_at },
                source: Source::Restored,
                looker: None,
            });
        }
    }

    /// This lease tests every full window without a known end to which `concerns` applies.
    pub(crate) fn start_look(&mut self, now: Now, lease: u64, concerns: impl Fn(&Window) -> bool) {
        for window in &mut self.list {
            if concerns(window) && window.full(now) == Full::Lookable {
                window.looker = Some(lease);
            }
        }
    }

    /// The lease that tested was served: the tested limits no longer hold, unless its answer has
    /// confirmed them.
    pub(crate) fn look_passed(&mut self, lease: u64) {
        self.list.retain(|window| window.looker != Some(lease));
    }

    /// The test was refused: the limit holds for another while.
    pub(crate) fn look_failed(&mut self, now: Now, lease: u64) {
        for window in self.list.iter_mut().filter(|window| window.looker == Some(lease)) {
            window.looker = None;
            window.learned = now;
        }
    }

    /// The test failed for another reason: a limit that ends in many hours is left alone for as
    /// long again, and one without a known end is tested by the next request.
    pub(crate) fn look_ended_in_trouble(&mut self, now: Now, lease: u64) {
        for window in self.list.iter_mut().filter(|window| window.looker == Some(lease)) {
            window.looker = None;
            if window.reset.is_some() {
                window.learned = now;
            }
        }
    }

    /// Ways out: this lease tests the full windows about which nothing was learned for many hours.
    pub(crate) fn start_long_look(&mut self, now: Now, lease: u64) {
        for window in self.list.iter_mut().filter(|window| window.is_due_for_long_look(now)) {
            window.looker = Some(lease);
        }
    }

    /// Forgets the windows that are used up: the next answer reports them again.
    pub(crate) fn forget_full(&mut self) {
        self.list.retain(|window| window.used < Some(FULL));
    }

    /// The test ended without an answer: the next request may test.
    pub(crate) fn look_returned(&mut self, lease: u64) {
        for window in self.list.iter_mut().filter(|window| window.looker == Some(lease)) {
            window.looker = None;
        }
    }
}

/// One reading, with its family and its reset.
struct Told<'a> {
    reading: &'a WindowReading,
    family: Option<Family>,
    reset: Option<Wall>,
    /// The answer says so of this window, and does not say that it was served in spite of it.
    is_rejected: bool,
}

/// The answer says that its request was allowed, or that paid extra usage serves it (S3, S11).
fn says_served(report: &QuotaReport) -> bool {
    matches!(report.verdict, Some(Verdict::Allowed | Verdict::AllowedWarning))
        || report.overage_in_use == Some(true)
}

/// Whether a window of that kind is one that this request met.
fn concerns(kind: &WindowKind, family: Option<&Family>) -> bool {
    match kind {
        WindowKind::SevenDayFamily(own) => family.is_none_or(|family| family == own),
        WindowKind::FiveHour
        | WindowKind::SevenDay
        | WindowKind::Tokens
        | WindowKind::Requests
        | WindowKind::Generic => true,
    }
}

impl Window {
    /// Whether it applies to a request of this family.
    pub(crate) fn concerns(&self, family: Option<&Family>) -> bool {
        let own = match &self.kind {
            WindowKind::SevenDayFamily(own) => return family == Some(own),
            WindowKind::FiveHour
            | WindowKind::SevenDay
            | WindowKind::Tokens
            | WindowKind::Requests
            | WindowKind::Generic => self.family.as_ref(),
        };
        own.is_none() || family.is_none() || own == family
    }

    /// Elapsed share of the window, if its length and reset are known and it has not passed.
    pub(crate) fn elapsed(&self, wall: Wall) -> Option<f64> {
        let length = length(&self.kind)?;
        let reset = self.reset.filter(|reset| *reset > wall)?;
        let left = reset.0.saturating_sub(wall.0) as f64 / length.as_millis() as f64;
        Some((1.0 - left).clamp(0.0, 1.0))
    }

    /// Used share in percent, rounded down as everywhere in the display.
    pub(crate) fn percent(&self) -> u8 {
        // The value should be between 0 and 1 (S1); the cast saturates otherwise.
        (self.used.unwrap_or(0.0) * 100.0 + 1e-9) as u8
    }

    /// Used and elapsed share, if both are known.
    pub(crate) fn pace(&self, wall: Wall) -> Option<(f64, f64)> {
        Some((self.used?, self.elapsed(wall)?))
    }

    /// What it means that this window is full; the caller decides at which share it counts as full.
    pub(crate) fn full(&self, now: Now) -> Full {
        match (self.reset, self.looker) {
            (Some(reset), _) => Full::Until(reset),
            (None, Some(_)) => Full::Looked,
            (None, None) => match self.learned.mono + UNKNOWN_RESET_WAIT {
                at if at > now.mono => Full::LookAt(at),
                _ => Full::Lookable,
            },
        }
    }

    /// Ways out: it has more than six hours left, and nothing was learned about it for as long.
    pub(crate) fn is_due_for_long_look(&self, now: Now) -> bool {
        self.long_look_at(now).is_some_and(|at| at <= now.mono)
    }

    /// When a window that ends in many hours may be tested.
    pub(crate) fn long_look_at(&self, now: Now) -> Option<Mono> {
        let at = self.learned.mono + LONG_BLOCK;
        let end = now.mono_at(self.reset?);
        (self.looker.is_none() && end > at).then_some(at)
    }

    pub(crate) fn snapshot(&self) -> WindowSnapshot {
        WindowSnapshot {
            kind: self.kind.clone(),
            family: self.family.clone(),
            used: self.used,
            raw: self.raw,
            limit: self.limit,
            remaining: self.remaining,
            reset: self.reset,
            learned_at: self.learned.wall,
            source: self.source,
        }
    }
}

/// A window that an answer rejected, and its reset if that is known and in the future.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    pub(crate) window: Option<WindowKind>,
    pub(crate) reset: Option<Wall>,
}

/// S2: the windows named by the claim or by the status of single windows, else those at their
/// limit, else an unnamed one.
pub(crate) fn rejected(
    now: Now,
    report: &QuotaReport,
    known: &Windows,
    family: Option<&Family>,
) -> Vec<Rejected> {
    let reading = |kind: &WindowKind| report.windows.iter().find(|reading| reading.kind == *kind);
    let ahead = |reset: &Wall| *reset > now.wall;
    let claimed = |kind: &WindowKind| report.reset.filter(|_| report.claim.as_ref() == Some(kind));
    let reset_of = |kind: &WindowKind| {
        let own = reading(kind).and_then(|reading| reading.reset).filter(ahead);
        let known = || known.get_for(now.wall, kind, family).and_then(|window| window.reset);
        own.or_else(|| claimed(kind).filter(ahead)).or_else(known)
    };
    let full = |reading: &&WindowReading| {
        used_share(reading.utilisation, reading.limit, reading.remaining)
            .is_some_and(|used| used >= 1.0)
    };
    let says_rejected = |reading: &&WindowReading| reading.verdict == Some(Verdict::Rejected);

    let mut kinds: Vec<WindowKind> = report.claim.iter().cloned().collect();
    kinds.extend(report.windows.iter().filter(says_rejected).map(|reading| reading.kind.clone()));
    if kinds.is_empty() {
        kinds.extend(report.windows.iter().filter(full).map(|reading| reading.kind.clone()));
    }
    if kinds.is_empty() {
        kinds.extend(
            known
                .iter(now.wall)
                .filter(|window| window.used >= Some(1.0) && window.concerns(family))
                .map(|window| window.kind.clone()),
        );
    }
    kinds.sort();
    kinds.dedup();
    if kinds.is_empty() {
        let reset = report.reset.filter(ahead);
        return vec![Rejected { window: None, reset }];
    }
    let rejected = |kind: WindowKind| Rejected { reset: reset_of(&kind), window: Some(kind) };
    kinds.into_iter().map(rejected).collect()
}

/// S2: a window other than the two of the account belongs to the family whose request met it, or to
/// the one in its name.
fn family_of(kind: &WindowKind, family: Option<&Family>) -> Option<Family> {
    match kind {
        WindowKind::FiveHour | WindowKind::SevenDay | WindowKind::SevenDayFamily(_) => None,
        WindowKind::Tokens | WindowKind::Requests | WindowKind::Generic => family.cloned(),
    }
}

fn used_share(raw: Option<f64>, limit: Option<u64>, remaining: Option<u64>) -> Option<f64> {
    let raw = raw.filter(|used| used.is_finite() && *used >= 0.0);
    match (raw, limit, remaining) {
        (Some(raw), _, _) => Some(raw.min(1.0)),
        (None, _, Some(0)) => Some(1.0),
        (None, Some(limit), Some(remaining)) if limit > 0 => {
            Some((1.0 - remaining as f64 / limit as f64).max(0.0))
        }
        (None, _, _) => None,
    }
}

/// The length of a window, if it is fixed.
fn length(kind: &WindowKind) -> Option<Duration> {
    match kind {
        WindowKind::FiveHour => Some(FIVE_HOURS),
        WindowKind::SevenDay | WindowKind::SevenDayFamily(_) => Some(WEEK),
        WindowKind::Tokens | WindowKind::Requests | WindowKind::Generic => None,
    }
}
