//! The quota probe (SPEC T6): reads the usage endpoint of idle accounts, so that their figures do
//! not become outdated.
//!
//! It runs only while `quotaProbeSeconds` is set. A round asks one account after another with a
//! pause in between, and each round starts with a different account. The probe spends nothing,
//! blocks nothing, and never uses a disabled account. If a reading fails, the old figures keep
//! their age.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::account::oauth::UsageReading;
use crate::clock;
use crate::event::Event;
use crate::proxy::context::Context;
use crate::scheduler::time::{Mono, Now};
use crate::scheduler::{AccountId, AccountSnapshot, Kind, Source, WindowSnapshot};

/// The pause between two readings is this part of the interval, within these bounds.
const GAP_PART: u32 = 6;
const GAP_MIN: Duration = Duration::from_secs(6);
const GAP_MAX: Duration = Duration::from_secs(20);
/// The pause after the endpoint has answered 429.
const GAP_SLOW: Duration = Duration::from_secs(120);
/// A usage answer is a few KiB of JSON, and refreshes have their own thread.
const STACK_BYTES: usize = 512 * 1024;

/// Starts the probe if the settings ask for it and it is not running.
pub(crate) fn follow(context: &Arc<Context>) {
    let mut occupied = context.probe.lock();
    if *occupied || interval(context).is_none() {
        return;
    }
    let own = Arc::clone(context);
    let thread = thread::Builder::new()
        .name("probe".into())
        .stack_size(STACK_BYTES)
        .spawn(move || Probe::new(&own).run());
    // If no thread can be started, the next call tries again.
    *occupied = thread.is_ok();
}

/// The configured interval; `None` ends the probe.
fn interval(context: &Context) -> Option<Duration> {
    context.config().quota_probe.filter(|_| context.keeps_connections())
}

struct Probe<'a> {
    context: &'a Context,
    rounds: usize,
}

impl<'a> Probe<'a> {
    fn new(context: &'a Context) -> Probe<'a> {
        Probe { context, rounds: 0 }
    }

    /// Runs round after round. The thread ends under the bell's lock, so that nobody takes it for
    /// running any more.
    fn run(mut self) {
        loop {
            let round = {
                let mut occupied = self.context.probe.lock();
                match interval(self.context) {
                    Some(interval) => interval,
                    None => {
                        *occupied = false;
                        return;
                    }
                }
            };
            self.rounds_of(round);
        }
    }

    /// Rounds of one interval, until the settings change.
    fn rounds_of(&mut self, interval: Duration) {
        let mut pace = Pace::of(interval);
        loop {
            let start = clock::now().mono;
            let mut idle = self.idle(interval);
            if !idle.is_empty() {
                let first = self.rounds % idle.len();
                idle.rotate_left(first);
            }
            self.rounds = self.rounds.wrapping_add(1);
            for id in idle {
                // The account may have become busy since the round started.
                if !self.idle(interval).contains(&id) {
                    continue;
                }
                let pause = self.read(id, &mut pace);
                if !self.sleep(interval, clock::now().mono + pause) {
                    return;
                }
            }
            if !self.sleep(interval, start + interval) {
                return;
            }
        }
    }

    fn idle(&self, interval: Duration) -> Vec<AccountId> {
        let (snapshot, now) =
            self.context.gate.look(|scheduler, now| (scheduler.snapshot(now), now));
        let idle = snapshot.accounts.iter().filter(|account| is_idle(account, interval, now));
        idle.map(|account| account.id).collect()
    }

    /// Reads one account; returns the pause before the next.
    fn read(&self, id: AccountId, pace: &mut Pace) -> Duration {
        match self.context.accounts.usage(id) {
            UsageReading::Read(report) => {
                self.context.gate.with(|scheduler, now| scheduler.learn(now, id, &report));
                pace.easier()
            }
            UsageReading::TooOften { retry_after } => {
                let gap = pace.slower();
                retry_after.map_or(gap, |asked| gap.max(asked))
            }
            UsageReading::Failed(why) => {
                if let Some(account) = self.context.accounts.get(id) {
                    let name = account.profile().name.clone();
                    let text = format!("{name}: cannot read its usage: {why}");
                    if self.context.first_time(&text) {
                        self.context.tell(Event::Notice { text });
                    }
                }
                pace.gap
            }
        }
    }

    /// Sleeps until `end`. Returns false if the settings change meanwhile.
    fn sleep(&self, interval: Duration, end: Mono) -> bool {
        let mut occupied = self.context.probe.lock();
        loop {
            if self::interval(self.context) != Some(interval) {
                return false;
            }
            let now = clock::now().mono;
            if now >= end {
                return true;
            }
            occupied = self.context.probe.wait(occupied, end.since(now));
        }
    }
}

/// An enabled OAuth account with no request in flight and no answer for one interval; answers would
/// bring fresher figures than the probe.
fn is_idle(account: &AccountSnapshot, interval: Duration, now: Now) -> bool {
    let answered = |window: &WindowSnapshot| {
        window.source == Source::Answer && window.learned_at + interval > now.wall
    };
    account.kind == Kind::Oauth
        && account.enabled
        && !account.leaving
        && account.in_flight == 0
        && !account.windows.iter().any(answered)
}

/// The probe's pace.
struct Pace {
    least: Duration,
    gap: Duration,
}

impl Pace {
    fn of(interval: Duration) -> Pace {
        let least = (interval / GAP_PART).clamp(GAP_MIN, GAP_MAX);
        Pace { least, gap: least }
    }

    /// After a 429.
    fn slower(&mut self) -> Duration {
        self.gap = self.gap.mul_f64(1.5).min(GAP_SLOW);
        self.gap
    }

    /// After an answer.
    fn easier(&mut self) -> Duration {
        self.gap = self.gap.mul_f64(0.9).max(self.least);
        self.gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::limits::headers::report_of_headers;
    use crate::scheduler::time::Wall;
    use crate::scheduler::{
        AccountSpec, Admission, Evidence, HeadReport, Outcome, Policy, Request, Scheduler,
    };

    fn seconds(pace: &[Duration]) -> Vec<u64> {
        pace.iter().map(Duration::as_secs).collect()
    }

    #[test]
    fn only_an_enabled_oauth_account_that_has_answered_nothing_lately_is_asked() {
        let at =
            |ms: u64| Now { mono: Mono(ms), wall: Wall(i64::try_from(ms).unwrap_or(i64::MAX)) };
        let spec = |kind, enabled| AccountSpec {
            name: Arc::from("a"),
            kind,
            enabled,
            priority: 0,
            profiles: vec![Arc::from("claude")],
            access: crate::scheduler::Access::Everyone,
            limit: crate::scheduler::AccountLimit::default(),
        };
        let minute = Duration::from_secs(60);
        for (rule, kind, enabled, idle) in [
            ("T6", Kind::Oauth, true, true),
            ("T6 disabled", Kind::Oauth, false, false),
            ("T6 a key", Kind::ApiKey, true, false),
            ("T6 a provider", Kind::Provider, true, false),
        ] {
            let mut scheduler = Scheduler::new(Policy::default());
            scheduler.add_account(at(0), spec(kind, enabled));
            let account = scheduler.snapshot(at(1)).accounts.remove(0);
            assert_eq!(is_idle(&account, minute, at(1)), idle, "{rule}");
        }
        let mut scheduler = Scheduler::new(Policy::default());
        let id = scheduler.add_account(at(0), spec(Kind::Oauth, true));
        let look = |scheduler: &Scheduler, ms| scheduler.snapshot(at(ms)).accounts.remove(0);
        let Admission::Granted(grant) = scheduler.admit(at(0), Request::new(1, Mono(0))) else {
            unreachable!("it is free");
        };
        assert!(!is_idle(&look(&scheduler, 1), minute, at(1)), "T6 in use");
        let quota = report_of_headers(
            [
                ("anthropic-ratelimit-unified-5h-utilization", &b"0.5"[..]),
                ("anthropic-ratelimit-unified-5h-reset", b"9000"),
            ],
            at(1_000),
        );
        let head = HeadReport { status: 200, quota: &quota, evidence: Evidence::default() };
        scheduler.observe(at(1_000), &grant.lease, &head);
        scheduler.complete(at(1_000), grant.lease, Outcome::Success);
        assert!(!is_idle(&look(&scheduler, 60_999), minute, at(60_999)), "T6 it has just told");
        assert!(is_idle(&look(&scheduler, 61_001), minute, at(61_001)), "T6 its word is old");
        scheduler.learn(at(61_001), id, &quota);
        assert!(is_idle(&look(&scheduler, 61_002), minute, at(61_002)), "T6 a probe is no answer");
    }

    #[test]
    fn the_pause_is_a_part_of_the_interval_and_grows_with_each_refusal() {
        for (rule, interval, gap) in
            [("T6 the least", 60, 10), ("T6 not below", 12, 6), ("T6 not above", 3600, 20)]
        {
            let gap_s = Pace::of(Duration::from_secs(interval)).gap.as_secs();
            assert_eq!(gap_s, gap, "{rule}");
        }
        let mut pace = Pace::of(Duration::from_secs(3600));
        let slower: Vec<_> = (0..6).map(|_| pace.slower()).collect();
        assert_eq!(seconds(&slower), [30, 45, 67, 101, 120, 120], "T6 429");
        let easier: Vec<_> = (0..30).map(|_| pace.easier()).collect();
        assert_eq!(seconds(&easier[..3]), [108, 97, 87], "T6 and back");
        assert_eq!(easier.last().map(Duration::as_secs), Some(20), "T6 not below");
    }
}
