//! The ways out of a block (SPEC T2, P7): rests after which one request tests the account, tests of
//! blocks that have lasted hours, and what lifts a block before its end.

use std::time::Duration;

use super::super::block::{Block, BlockReason, End, Scope};
use super::super::policy::{LONG_BLOCK, MODELS_MISSING_MAX, READING_LIFTS_EVERY, REST_MAX, RESTS};
use super::super::quota::{Family, Verdict, WindowKind};
use super::super::time::{Mono, Now};
use super::{Account, BlockState, Looked, PlacedBlock, Target, bounded, keeps_out};

impl Account {
    /// Forgets the model that was found missing longest ago.
    pub(super) fn make_room_for_a_model(&mut self) {
        let models = || {
            let blocks = self.blocks.iter().enumerate();
            blocks.filter(|(_, held)| matches!(held.block.scope, Scope::Model(_)))
        };
        if models().count() >= MODELS_MISSING_MAX
            && let Some((oldest, _)) = models().min_by_key(|(_, held)| held.said)
        {
            self.blocks.remove(oldest);
        }
    }

    /// Removes the blocks whose reasons `ends` selects.
    pub(crate) fn lift_reasons(&mut self, now: Now, ends: impl Fn(&BlockReason) -> bool) {
        self.lift(now, |held| ends(&held.block.reason));
    }

    /// T2: the credential or the account was refused again. It rests longer each time; requests in
    /// progress when the last rest began say nothing new.
    pub(crate) fn put_rest(
        &mut self,
        now: Now,
        sent: Mono,
        mut block: Block,
        fixed: Option<Duration>,
    ) {
        self.stir();
        let same = |held: &&PlacedBlock| {
            held.block.reason == block.reason && held.block.scope == block.scope
        };
        let rests = match self.blocks.iter().find(same) {
            Some(held) if sent < held.said => return,
            Some(held) => held.rests.saturating_add(1),
            None => 0,
        };
        block.evidence = bounded(block.evidence);
        block.end = End::after(now, fixed.unwrap_or_else(|| rest(rests)));
        self.blocks.retain(|held| !same(&held));
        let (asked, said) = (block.end, now.mono);
        self.blocks.push(PlacedBlock { block, asked, said, rests, looker: None });
    }

    /// Limits a rest after a 401 to `at`.
    pub(crate) fn end_rest_by(&mut self, at: Mono) {
        self.stir();
        for held in &mut self.blocks {
            if let (BlockReason::CredentialRefused, End::At { mono: Some(end), .. }) =
                (&held.block.reason, &mut held.block.end)
            {
                *end = at.min(*end);
                held.asked = held.block.end;
            }
        }
    }

    /// A request goes to the account and tests whatever awaits a test.
    pub(crate) fn start_look(&mut self, now: Now, lease: u64, target: Target<'_>) {
        for held in &mut self.blocks {
            if held.state(now) == BlockState::Lookable && keeps_out(&held.block.scope, target) {
                held.looker = Some(lease);
            }
        }
    }

    /// Ways out: this lease tests blocks of many hours, and the windows behind them.
    pub(crate) fn start_long_look(&mut self, now: Now, lease: u64, target: Target<'_>) {
        for held in &mut self.blocks {
            if held.is_due_for_long_look(now) && keeps_out(&held.block.scope, target) {
                held.looker = Some(lease);
            }
        }
        self.windows.start_long_look(now, lease);
    }

    pub(crate) fn end_look(&mut self, now: Now, lease: u64, looked: Looked) {
        match looked {
            Looked::Passed => {
                self.lift(now, |held| held.looker == Some(lease));
            }
            Looked::Returned | Looked::InTrouble => {
                for held in self.blocks.iter_mut().filter(|held| held.looker == Some(lease)) {
                    held.looker = None;
                    // One test in six hours, whatever its result.
                    if looked == Looked::InTrouble && !held.block.reason.needs_look() {
                        held.said = now.mono;
                    }
                }
            }
        }
    }

    /// Ways out: forgets everything that keeps the account out except a missing credential.
    pub(crate) fn retry(&mut self, now: Now) {
        self.lift(now, |held| held.block.reason != BlockReason::NeedsLogin);
        self.suspicions.clear();
        self.mark = None;
        self.windows.forget_full();
        self.set_overage(None);
        self.unified_status = self.unified_status.filter(|said| *said != Verdict::Rejected);
        self.failures = 0;
        self.last_failure = None;
    }

    /// Ways out: a usage reading that shows room lifts older blocks.
    pub(crate) fn lift_by_reading(&mut self, now: Now, has_room: impl Fn(&WindowKind) -> bool) {
        if self.lifted_at.is_some_and(|at| now.mono.since(at) < READING_LIFTS_EVERY) {
            return;
        }
        let by_reading = |held: &PlacedBlock| match (&held.block.reason, &held.block.scope) {
            (BlockReason::Quota(Some(kind)), scope) => {
                let of_family = |family: &Family| WindowKind::SevenDayFamily(family.clone());
                let family = match scope {
                    Scope::Family(family) => has_room(&of_family(family)),
                    Scope::Account | Scope::Class(_) | Scope::Model(_) => false,
                };
                has_room(kind) || family
            }
            (BlockReason::Quota(None), _) => {
                has_room(&WindowKind::FiveHour) && has_room(&WindowKind::SevenDay)
            }
            (_, _) => false,
        };
        if self.lift(now, by_reading) {
            self.lifted_at = Some(now.mono);
        }
    }
}

impl PlacedBlock {
    pub(crate) fn is_held(&self, now: Now) -> bool {
        !self.block.end.has_passed(now) || self.block.reason.needs_look()
    }

    /// Whether its time is over, so that only a test can end it.
    pub(crate) fn is_over(&self, now: Mono) -> bool {
        let ended = match self.block.end {
            End::At { mono, wall: None } => mono.is_none_or(|at| at <= now),
            End::At { wall: Some(_), .. } | End::CredentialChange => false,
        };
        ended && self.block.reason.needs_look()
    }

    pub(crate) fn state(&self, now: Now) -> BlockState {
        match (self.block.end.has_passed(now), self.looker) {
            (false, _) => BlockState::InForce,
            (true, Some(_)) => BlockState::BeingLooked,
            (true, None) => BlockState::Lookable,
        }
    }

    /// Ways out: it holds for more than six hours, and nobody has tested it for as long.
    pub(crate) fn is_due_for_long_look(&self, now: Now) -> bool {
        self.long_look_at(now).is_some_and(|at| at <= now.mono)
    }

    /// When a block of many hours may be tested.
    pub(crate) fn long_look_at(&self, now: Now) -> Option<Mono> {
        let at = self.said + LONG_BLOCK;
        let end = self.block.end.mono(now)?;
        (self.looker.is_none() && end > at).then_some(at)
    }
}

/// The length of a rest after this many consecutive ones (T2).
fn rest(before: u32) -> Duration {
    let index = usize::try_from(before).unwrap_or(usize::MAX);
    match RESTS.get(index) {
        Some(rest) => *rest,
        None => {
            let doublings = before.saturating_sub(RESTS.len() as u32 - 1).min(16);
            RESTS[RESTS.len() - 1].saturating_mul(1 << doublings).min(REST_MAX)
        }
    }
}
