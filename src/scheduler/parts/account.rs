//! One account as the scheduler knows it: settings, windows, blocks, load, health.
//!
//! An account is available if no block is in force; there is no separate status.

mod looks;

use std::sync::Arc;
use std::time::Duration;

use super::block::{Block, End, Evidence, Scope};
use super::cost::{Costs, Reading};
use super::id::{AccountId, RouteClass};
use super::policy::{MESSAGE_CHARS_MAX, Policy, REST_TRUST};
use super::quota::{Family, Verdict, WindowKind};
use super::recent_load::{Counted, Hour, Recent};
use super::request::{AccountSpec, Avoided};
use super::score::{pressure, ramp};
use super::snapshot::{Tier, UsageTotals};
use super::storm::{Ramp, spread};
use super::suspicion::{Suspicion, Suspicions};
use super::tier;
use super::time::{Mono, Now, Wall};
use super::windows::{Full, Window, Windows};

/// An account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) id: AccountId,
    pub(crate) spec: AccountSpec,
    /// Removed from the config; dropped with its last lease.
    pub(crate) leaving: bool,
    pub(crate) windows: Windows,
    blocks: Vec<PlacedBlock>,
    pub(crate) suspicions: Suspicions,
    /// Avoided because of an answer that blames nobody (P7).
    mark: Option<Mark>,
    /// When the credential last served a request.
    served_at: Option<Mono>,
    /// When a usage reading last lifted blocks.
    lifted_at: Option<Mono>,
    recovered_at: Option<Mono>,
    pub(crate) in_flight: u32,
    pub(crate) messages_in_flight: u32,
    pub(crate) active_weight: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) failures: u32,
    last_failure: Option<Mono>,
    pub(crate) last_status: Option<u16>,
    pub(crate) last_response: Option<Duration>,
    pub(crate) last_error: Option<(Arc<str>, Wall)>,
    pub(crate) unified_status: Option<Verdict>,
    overage: Option<End>,
    /// Nothing expires before both of these; stored so that checking many accounts is fast.
    quiet_until: (Mono, Wall),
    pub(crate) hour: Hour,
    pub(crate) recent: Recent,
    pub(crate) costs: Costs,
    pub(crate) usage: UsageTotals,
    pub(crate) ramp: Ramp,
}

/// A block with its history.
#[derive(Debug)]
pub(crate) struct PlacedBlock {
    pub(crate) block: Block,
    /// The end before it was spread (S10).
    asked: End,
    /// When an answer last reported it.
    said: Mono,
    /// How often it was renewed at its end without any success in between.
    rests: u32,
    /// The lease that tests whether it still holds.
    looker: Option<u64>,
}

/// The state of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockState {
    InForce,
    /// Its time is over, and one request is testing it.
    BeingLooked,
    /// Its time is over, and the next request tests it.
    Lookable,
}

/// An account that answered 403 to a request that another account then served.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) until: Mono,
    pub(crate) evidence: Arc<Evidence>,
}

/// The parts of a request that blocks are matched with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) class: RouteClass,
    pub(crate) family: Option<&'a Family>,
    pub(crate) model: Option<&'a str>,
}

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The tested block no longer holds.
    Passed,
    /// Nothing was learned about it; the next request tests it.
    Returned,
    /// Nothing was learned about it because something else failed.
    InTrouble,
}

/// Whether there was already a block for all messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Free,
    Blocked,
}

const NEVER_QUIET: (Mono, Wall) = (Mono(0), Wall(i64::MIN));

/// More than the reasons and families of one upstream.
const BLOCKS_MAX: usize = 32;

impl Account {
    pub(crate) fn new(id: AccountId, spec: AccountSpec, policy: &Policy) -> Account {
        Account {
            id,
            spec,
            leaving: false,
            windows: Windows::default(),
            blocks: Vec::new(),
            suspicions: Suspicions::default(),
            mark: None,
            served_at: None,
            lifted_at: None,
            recovered_at: None,
            in_flight: 0,
            messages_in_flight: 0,
            active_weight: 0,
            completed: 0,
            failed: 0,
            failures: 0,
            last_failure: None,
            last_status: None,
            last_response: None,
            last_error: None,
            unified_status: None,
            overage: None,
            quiet_until: NEVER_QUIET,
            hour: Hour::new(),
            recent: Recent::new(policy.spread_window),
            costs: Costs::new(),
            usage: UsageTotals::default(),
            ramp: Ramp::default(),
        }
    }

    /// Whether it may serve at all.
    pub(crate) fn serves(&self) -> bool {
        self.spec.enabled && !self.leaving
    }

    pub(crate) fn is_claude(&self) -> bool {
        self.spec.kind.is_claude()
    }

    pub(crate) fn has_profile(&self, profile: &str) -> bool {
        self.spec.profiles.iter().any(|own| **own == *profile)
    }

    /// The blocks in force, including those that only a test can end.
    pub(crate) fn blocks(&self, now: Now) -> impl Iterator<Item = &Block> {
        self.placed(now).map(|held| &held.block)
    }

    pub(crate) fn is_blocked_for_messages(&self, now: Now) -> bool {
        self.blocks(now).any(|block| block.scope.is_for_all_messages())
    }

    pub(crate) fn placed(&self, now: Now) -> impl Iterator<Item = &PlacedBlock> {
        self.blocks.iter().filter(move |held| held.is_held(now))
    }

    /// Whether the credential has served recently, so that a rest after a 401 is waited for (Q1).
    pub(crate) fn has_served_lately(&self, now: Mono) -> bool {
        self.served_at.is_some_and(|at| now.since(at) < REST_TRUST)
    }

    pub(crate) fn mark(&self, now: Mono) -> Option<&Mark> {
        self.mark.as_ref().filter(|mark| mark.until > now)
    }

    /// P7: it answered 403 to a request that another account served.
    pub(crate) fn set_mark(&mut self, mark: Mark) {
        self.stir();
        self.mark = Some(mark);
    }

    /// The suspicion that makes this account avoided for a class of requests (P7).
    pub(crate) fn suspected(&self, now: Now, class: RouteClass) -> Option<&Suspicion> {
        let own = self.suspicions.in_force(now).filter(|one| one.class == class);
        own.max_by_key(|one| one.until)
    }

    /// Adds a block. One with the same reason and scope is extended; a newer reset replaces an
    /// older one. Returns whether the account was blocked for all messages before.
    pub(crate) fn put_block(&mut self, now: Now, mut block: Block) -> Before {
        self.stir();
        let blocked = self.is_blocked_for_messages(now);
        block.evidence = bounded(block.evidence);
        let same = |held: &&mut PlacedBlock| {
            held.block.reason == block.reason && held.block.scope == block.scope
        };
        match self.blocks.iter_mut().find(same) {
            Some(held) => {
                let end = prolonged(now, held.asked, block.end);
                // The head of an answer causes the block before the message in its body is known.
                let wordless = held.block.evidence.message.is_empty();
                if end != held.asked || wordless {
                    held.block.evidence = block.evidence;
                }
                held.asked = end;
                held.block.end = end;
                held.said = now.mono;
                held.looker = None;
            }
            None => {
                // There are only a few reasons for whole accounts; only families invented by an
                // upstream could make the list grow.
                if matches!(block.scope, Scope::Model(_)) {
                    self.make_room_for_a_model();
                }
                if self.blocks.len() < BLOCKS_MAX || block.scope.is_for_all_messages() {
                    let (asked, said) = (block.end, now.mono);
                    self.blocks.push(PlacedBlock { block, asked, said, rests: 0, looker: None });
                }
            }
        }
        if blocked { Before::Blocked } else { Before::Free }
    }

    /// Removes the blocks selected by `ends`; returns true if there were any.
    fn lift(&mut self, now: Now, ends: impl Fn(&PlacedBlock) -> bool) -> bool {
        self.stir();
        let before = self.blocks.len();
        self.blocks.retain(|held| !ends(held));
        if self.blocks.len() == before {
            return false;
        }
        if !self.blocks.iter().any(|held| held.block.scope.is_for_all_messages()) {
            self.recovered_at = Some(now.mono);
        }
        true
    }

    /// When the last block for all messages ends, if there are any and that is known.
    pub(crate) fn returns(&self, now: Now) -> Option<Mono> {
        self.blocks(now)
            // A block that awaits a test has no known end.
            .filter(|block| block.scope.is_for_all_messages() && !block.end.has_passed(now))
            .try_fold(None, |last, block| Some(last.max(Some(block.end.mono(now)?))))
            .flatten()
    }

    /// Removes what has expired.
    pub(crate) fn expire(&mut self, now: Now) -> Expired {
        self.recent.advance(now.mono);
        self.costs.advance(now.mono);
        if now.mono < self.quiet_until.0 && now.wall < self.quiet_until.1 {
            return Expired::Nothing;
        }
        let expired = self.forget(now);
        self.quiet_until = self.next_end(now.mono);
        expired
    }

    /// Something with an end was learned.
    pub(crate) fn stir(&mut self) {
        self.quiet_until = NEVER_QUIET;
    }

    /// The next end on each clock.
    fn next_end(&self, now: Mono) -> (Mono, Wall) {
        let mut first = (Mono::MAX, Wall(i64::MAX));
        let marks = self.mark(now).map(|mark| mark.until);
        let suspicions = self.suspicions.first_end(now);
        for at in marks.into_iter().chain(suspicions) {
            first.0 = first.0.min(at);
        }
        // A block that awaits a test has no end of its own.
        let timed = self.blocks.iter().filter(|held| !held.is_over(now));
        let ends = timed.map(|held| held.block.end).chain(self.overage);
        for end in ends {
            if let End::At { mono, wall } = end {
                first.0 = first.0.min(mono.unwrap_or(Mono::MAX));
                first.1 = first.1.min(wall.unwrap_or(Wall(i64::MAX)));
            }
        }
        first.1 = first.1.min(self.windows.first_reset().unwrap_or(Wall(i64::MAX)));
        first
    }

    fn forget(&mut self, now: Now) -> Expired {
        let mut expired = Expired::Nothing;
        if self.windows.expire(now.wall) {
            expired = Expired::Something;
        }
        if self.overage.is_some_and(|end| end.has_passed(now)) {
            self.overage = None;
            expired = Expired::Something;
        }
        let mut ended: Option<Mono> = None;
        let before = self.blocks.len();
        self.blocks.retain(|held| {
            let passed = !held.is_held(now);
            if passed && held.block.scope.is_for_all_messages() {
                ended = ended.max(Some(moment_of(now, held.block.end)));
            }
            !passed
        });
        if self.blocks.len() != before {
            expired = Expired::Something;
        }
        let still = self.blocks.iter().any(|held| held.block.scope.is_for_all_messages());
        match ended {
            Some(at) if !still => {
                self.recovered_at = Some(at);
                Expired::Recovered
            }
            _ => expired,
        }
    }

    /// The end of the last block whose end may be spread: cooldowns and retry-after, but never a
    /// reset, because no block outlasts a reset (S2).
    pub(crate) fn spreadable(&self, now: Now) -> Option<(Mono, usize)> {
        let ends = self.blocks.iter().enumerate().filter_map(|(index, held)| match held.asked {
            End::At { mono: Some(mono), wall: None }
                if held.block.scope.is_for_all_messages() && !held.block.end.has_passed(now) =>
            {
                Some((mono, index))
            }
            _ => None,
        });
        ends.max()
    }

    fn move_end(&mut self, index: usize, mono: Mono) {
        self.stir();
        self.blocks[index].block.end = End::At { mono: Some(mono), wall: None };
    }

    /// Counts one more consecutive failure. Requests that were in progress at the previous failure
    /// count as part of it.
    pub(crate) fn count_failure(&mut self, now: Now, granted: Mono) {
        if self.failures == 0 || self.last_failure.is_none_or(|last| granted >= last) {
            self.failures = self.failures.saturating_add(1);
        }
        self.last_failure = Some(now.mono);
    }

    pub(crate) fn count_success(&mut self, now: Now) {
        self.served_at = Some(now.mono);
        self.failures = 0;
        self.last_failure = None;
        self.last_error = None;
    }

    /// Stores the upstream's message.
    pub(crate) fn remember_error(&mut self, evidence: &Evidence) {
        self.last_error = Some((cut(&evidence.message), evidence.at));
        if evidence.status.is_some() {
            self.last_status = evidence.status;
        }
    }

    /// A broken answer used quota all the same.
    pub(crate) fn count_use(&mut self) {
        self.usage.requests += 1;
    }

    pub(crate) fn record(&mut self, now: Now, weight: u32, took: Duration, counted: Counted) {
        match counted {
            Counted::Completed => {
                self.completed += 1;
                self.usage.requests += 1;
                self.last_response = Some(took);
            }
            Counted::Failed => self.failed += 1,
        }
        self.hour.add(now.mono, weight, took, counted);
    }

    /// The rest of the recovery ramp, from 1 to 0.
    pub(crate) fn recovering(&self, now: Mono, policy: &Policy) -> f64 {
        ramp(
            now,
            self.recovered_at.max(self.last_failure.filter(|_| self.recovered_at.is_none())),
            policy.recovery_ramp,
        )
    }

    /// S11: what an answer said about paid extra usage, and until when that holds.
    pub(crate) fn set_overage(&mut self, until: Option<End>) {
        self.stir();
        self.overage = until;
    }

    pub(crate) fn overage(&self, now: Now) -> Option<End> {
        self.overage.filter(|end| !end.has_passed(now))
    }

    /// S5 for the five hours, including requests in flight and those expected until the reset.
    pub(crate) fn five_hour_pressure(&self, wall: Wall) -> f64 {
        let window = self.windows.get(wall, &WindowKind::FiveHour);
        match window.and_then(|window| window.pace(wall)) {
            Some((used, elapsed)) => pressure(used + self.costs.ahead(elapsed), elapsed),
            None => 0.0,
        }
    }

    /// S5 for the week of a request of this family: the larger value if the family has its own
    /// week.
    pub(crate) fn week_pressure(&self, wall: Wall, family: Option<&Family>) -> f64 {
        let of = |window: &Window| {
            let (used, elapsed) = window.pace(wall)?;
            Some(pressure(used, elapsed))
        };
        let own = family.and_then(|family| self.windows.of_family(wall, family));
        match (self.week(wall).and_then(of), own.and_then(of)) {
            (Some(all), Some(own)) => all.max(own),
            (all, own) => all.or(own).unwrap_or(0.0),
        }
    }

    /// The used share of a window; zero if it is unknown or the window has not started.
    pub(crate) fn used(&self, wall: Wall, kind: &WindowKind) -> f64 {
        let window = self.windows.get(wall, kind);
        window.and_then(|window| window.used).unwrap_or(0.0)
    }

    /// The window as the last head described it, if that is enough for a measurement.
    pub(crate) fn reading(&self, wall: Wall, kind: &WindowKind) -> Option<Reading> {
        let window = self.windows.get(wall, kind)?;
        Some(Reading { used: window.used?, reset: window.reset? })
    }

    /// S3, S4: the last `unified-status` allows requests. Verdicts about single windows do not
    /// count.
    pub(crate) fn is_allowed(&self) -> bool {
        match self.unified_status {
            Some(Verdict::Allowed | Verdict::AllowedWarning) => true,
            Some(Verdict::Rejected) | None => false,
        }
    }

    /// S3: why this account serves only what no other can. Every reason to avoid an account belongs
    /// in this list.
    pub(crate) fn avoided(
        &self,
        now: Now,
        policy: &Policy,
        target: Target<'_>,
    ) -> impl Iterator<Item = Avoided> {
        // P3: only messages use message quota.
        let is_message = target.class == RouteClass::Messages;
        let near = self.windows.iter(now.wall).filter(move |window| {
            is_message
                && window.concerns(target.family)
                && near_share(policy, &window.kind)
                    .is_some_and(|share| window.used.is_some_and(|used| used >= share))
        });
        let near = near
            .map(|window| Avoided::Near { kind: window.kind.clone(), percent: window.percent() });
        let paid = self.overage(now).filter(|_| is_message).map(|_| Avoided::PaidOverage);
        let forbidden = self.mark(now.mono).filter(|_| is_message).map(|_| Avoided::Forbidden);
        let suspected = self.suspected(now, target.class).map(|_| Avoided::Suspected);
        near.chain(paid).chain(forbidden).chain(suspected)
    }

    pub(crate) fn week(&self, wall: Wall) -> Option<&Window> {
        self.windows.get(wall, &WindowKind::SevenDay)
    }

    /// S4 for a request of this family; `None` is unknown. A limit that one request may test counts
    /// as critical, and so does a week that the API still allows.
    pub(crate) fn tier(&self, now: Now, policy: &Policy, family: Option<&Family>) -> Option<Tier> {
        let of = |window: &Window| {
            let tier = tier::of_use(policy, window.used?, window.elapsed(now.wall));
            let serves = || self.is_allowed() || window.full(now) == Full::Lookable;
            match tier {
                Tier::Exhausted if serves() => Some(Tier::Critical),
                tier => Some(tier),
            }
        };
        let own = family.and_then(|family| self.windows.of_family(now.wall, family));
        self.week(now.wall).and_then(of).max(own.and_then(of))
    }
}

/// The used share from which a window is near its end (S3).
fn near_share(policy: &Policy, kind: &WindowKind) -> Option<f64> {
    match kind {
        WindowKind::FiveHour | WindowKind::Tokens | WindowKind::Requests => {
            Some(policy.switch_threshold)
        }
        WindowKind::SevenDay | WindowKind::SevenDayFamily(_) => Some(policy.weekly_exhausted),
        WindowKind::Generic => None,
    }
}

/// What expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    Nothing,
    Something,
    /// The last block for all messages.
    Recovered,
}

/// S10: moves the ends of blocks of different accounts apart.
pub(crate) fn spread_blocks(now: Now, accounts: &mut [Account]) {
    let mut ends: Vec<(Mono, usize, usize)> = accounts
        .iter()
        .enumerate()
        .filter_map(|(account, state)| {
            state.spreadable(now).map(|(end, block)| (end, account, block))
        })
        .collect();
    ends.sort();
    let asked: Vec<Mono> = ends.iter().map(|(end, ..)| *end).collect();
    for ((_, account, block), end) in ends.into_iter().zip(spread(&asked)) {
        accounts[account].move_end(block, end);
    }
}

/// Whether a block applies to such a request. A request of unknown family or model may belong to
/// any.
pub(crate) fn keeps_out(scope: &Scope, target: Target<'_>) -> bool {
    let is_message = target.class == RouteClass::Messages;
    match scope {
        Scope::Account => true,
        Scope::Class(blocked) => target.class == *blocked,
        Scope::Family(blocked) => {
            is_message && target.family.is_none_or(|family| family == blocked)
        }
        Scope::Model(blocked) => is_message && target.model == Some(&**blocked),
    }
}

fn prolonged(now: Now, old: End, new: End) -> End {
    match (old, new) {
        (End::CredentialChange, _) | (_, End::CredentialChange) => End::CredentialChange,
        (old, new) if old.has_passed(now) => new,
        (End::At { mono: old_mono, wall: old_wall }, End::At { mono, wall }) => {
            End::At { mono: old_mono.max(mono), wall: wall.or(old_wall) }
        }
    }
}

/// The time of a past end on the monotonic clock.
fn moment_of(now: Now, end: End) -> Mono {
    let End::At { mono, wall } = end else {
        return now.mono;
    };
    let wall = wall.map(|wall| {
        let ago = u64::try_from(wall.until(now.wall).as_millis()).unwrap_or(u64::MAX);
        Mono(now.mono.0.saturating_sub(ago))
    });
    mono.max(wall).unwrap_or(now.mono).min(now.mono)
}

fn bounded(evidence: Arc<Evidence>) -> Arc<Evidence> {
    if evidence.message.len() <= MESSAGE_CHARS_MAX {
        return evidence;
    }
    let message = cut(&evidence.message);
    Arc::new(Evidence { message, ..(*evidence).clone() })
}

fn cut(message: &Arc<str>) -> Arc<str> {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => Arc::from(&message[..end]),
        None => message.clone(),
    }
}
