//! What answers do to accounts (SPEC P7, S2, P8, S11): the head when it arrives, the outcome at the
//! end.
//!
//! An attempt reports twice. The head already knows the quota windows and a rejection, and everyone
//! else who is about to choose should know them seconds before a long stream ends. The outcome
//! knows what the body said and how the attempt ended. Doing all of it at the end would be simpler,
//! and would send a burst of requests into an account that the first head has shown to be full.
//!
//! Whatever an answer proves becomes a block with a reason, an end and the evidence, never a status
//! flag: two reasons that overlap must each end at their own time. Completing releases the lease
//! last, because a block looks at who is still in flight to prepare the others for a storm (S10).

use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::block::{Block, BlockReason, End, Evidence, Scope};
use super::breaker::{Fingerprint, Probe, Seen};
use super::obstacle::{Ends, Obstacle};
use super::outcome::{Blame, HeadReport, Outcome, Overload};
use super::policy::{
    BREAKER_ACCOUNTS_MIN, FORBIDDEN_WAIT, RETRY_AFTER_MAX, RETRY_AFTER_MIN, SERVER_SIDE_WAIT,
    SERVER_SIDE_WAIT_MAX, UNKNOWN_RESET_WAIT,
};
use super::quota::{QuotaReport, Verdict, WindowKind};
use super::recent_load::Counted;
use super::request::{Kind, Lease, SessionKey, Shape};
use super::select::{Ask, Patience, Restraint, Route, mismatch};
use super::snapshot::Source;
use super::time::{Mono, Now};
use super::windows::{Rejected, rejected};
use super::{LeaseRecord, Look, Progress, Scheduler};

impl Scheduler {
    /// The head of an answer is there: learns windows, blocks what it rejects, settles the
    /// breaker's probe, ends the lease's part in a storm's ramp.
    pub fn observe(&mut self, now: Now, lease: &Lease, head: &HeadReport<'_>) {
        let now = self.touch(now);
        let Some(index) = self.index(lease.account) else {
            return;
        };
        self.look = Look::Now;
        let served = (200..400).contains(&head.status);
        let account = &mut self.accounts[index];
        account.last_status = Some(head.status);
        account.unified_status = head.quota.verdict.or(account.unified_status);
        account.stir();
        account.windows.learn(now, head.quota, Source::Answer);
        learn_overage(now, account, head);
        if served {
            account.windows.look_passed(lease.id);
        }
        let (is_claude, paid) =
            (account.is_claude(), served && head.quota.overage_in_use == Some(true));
        if let Some(held) = self.leases.get_mut(&lease.id) {
            let account = &mut self.accounts[index];
            if std::mem::take(&mut held.ramped) {
                account.ramp.head();
            }
            if std::mem::replace(&mut held.progress, Progress::Answering) == Progress::Outstanding {
                account.costs.head(now.mono, held.cost);
                if served {
                    let reading = |kind| account.reading(now.wall, &kind);
                    let five_hours = reading(WindowKind::FiveHour);
                    let week = reading(WindowKind::SevenDay);
                    account.costs.learn(held.cost, five_hours, week);
                }
            }
        }
        if is_claude {
            self.breaker.head(now.mono, lease.id, head.status);
        }
        if head.quota.verdict == Some(Verdict::Rejected) && !paid {
            self.reject(now, index, head.quota, &head.evidence);
        }
        if let Some(held) = self.leases.get(&lease.id).filter(|_| served) {
            let (session, cached) = (held.session, cached_since(held));
            self.settle_session(index, session, cached);
        }
    }

    /// The attempt is over.
    pub fn complete(&mut self, now: Now, lease: Lease, outcome: Outcome) {
        let now = self.touch(now);
        let Some(held) = self.leases.remove(&lease.id) else {
            return;
        };
        self.look = Look::Now;
        let Some(index) = self.index(held.account) else {
            return;
        };
        self.end_look(now, index, lease.id, &outcome);
        self.end_probe(now, index, lease.id, &outcome);
        self.count(now, index, &held, &outcome);
        self.charge(now, index, &held, outcome);
        self.release(index, &held);
    }

    /// P7: what an outcome does to the account's health.
    fn charge(&mut self, now: Now, index: usize, held: &LeaseRecord, outcome: Outcome) {
        let (reason, end, evidence) = match outcome {
            Outcome::Success => {
                self.accounts[index].count_success();
                self.settle_session(index, held.session, cached_since(held));
                return;
            }
            Outcome::Neutral
            | Outcome::Abandoned
            | Outcome::Network { blame: Blame::Nobody, .. } => return,
            Outcome::QuotaRejected { quota, evidence } => {
                if self.reject(now, index, &quota, &evidence) {
                    self.accounts[index].count_failure(now, held.granted.mono);
                }
                return;
            }
            Outcome::ServerSide { overload, retry_after, fingerprint, evidence } => {
                self.set_aside(now, index, overload, retry_after, &evidence);
                if self.accounts[index].is_claude() {
                    self.weigh_breaker(now, index, held, fingerprint, retry_after, &evidence);
                }
                return;
            }
            Outcome::ServerError { evidence } => {
                self.accounts[index].count_failure(now, held.granted.mono);
                let wait = self.error_cooldown(self.accounts[index].failures);
                (BlockReason::ServerError, End::after(now, wait), evidence)
            }
            Outcome::Network { blame: Blame::Account, evidence } => {
                let end = End::after(now, self.policy.network_cooldown);
                (BlockReason::Network, end, evidence)
            }
            Outcome::CredentialRefused { evidence } => {
                let end = End::CredentialChange;
                (BlockReason::CredentialRefused, end, evidence)
            }
            Outcome::NeedsLogin { evidence } => {
                (BlockReason::NeedsLogin, End::CredentialChange, evidence)
            }
            Outcome::CredentialForbidden { evidence } => {
                let end = End::after(now, FORBIDDEN_WAIT);
                (BlockReason::Forbidden, end, evidence)
            }
        };
        self.block_for(now, index, reason, end, evidence);
    }

    /// The account's place is free again. Last, so that a block still sees who is in flight (S10).
    fn release(&mut self, index: usize, held: &LeaseRecord) {
        let account = &mut self.accounts[index];
        match held.progress {
            Progress::Outstanding => account.costs.never_answered(held.cost),
            Progress::Answering => {}
        }
        account.costs.end(held.cost);
        account.in_flight = account.in_flight.saturating_sub(1);
        account.active_weight = account.active_weight.saturating_sub(u64::from(held.weight));
        if held.ramped {
            account.ramp.head();
        }
        self.reap();
    }

    fn count(&mut self, now: Now, index: usize, held: &LeaseRecord, outcome: &Outcome) {
        let counted = match outcome {
            Outcome::Success | Outcome::Neutral => Counted::Completed,
            Outcome::Abandoned | Outcome::Network { blame: Blame::Nobody, .. } => return,
            Outcome::QuotaRejected { evidence, .. }
            | Outcome::ServerSide { evidence, .. }
            | Outcome::ServerError { evidence }
            | Outcome::Network { blame: Blame::Account, evidence }
            | Outcome::CredentialRefused { evidence }
            | Outcome::NeedsLogin { evidence }
            | Outcome::CredentialForbidden { evidence } => {
                self.accounts[index].remember_error(evidence);
                Counted::Failed
            }
        };
        let took = now.mono.since(held.granted.mono);
        self.accounts[index].record(now, held.weight, took, counted);
    }

    /// S3: the request that looked at a limit without a known end has come back.
    fn end_look(&mut self, now: Now, index: usize, lease: u64, outcome: &Outcome) {
        let windows = &mut self.accounts[index].windows;
        match outcome {
            Outcome::Success => windows.look_passed(lease),
            Outcome::QuotaRejected { .. } => windows.look_failed(now, lease),
            Outcome::Neutral
            | Outcome::Abandoned
            | Outcome::ServerSide { .. }
            | Outcome::ServerError { .. }
            | Outcome::Network { .. }
            | Outcome::CredentialRefused { .. }
            | Outcome::NeedsLogin { .. }
            | Outcome::CredentialForbidden { .. } => windows.look_returned(lease),
        }
    }

    /// P8 for a probe whose head has not settled it.
    fn end_probe(&mut self, now: Now, index: usize, lease: u64, outcome: &Outcome) {
        if !self.accounts[index].is_claude() {
            return;
        }
        let probe = match outcome {
            Outcome::Success
            | Outcome::Neutral
            | Outcome::CredentialRefused { .. }
            | Outcome::CredentialForbidden { .. } => Probe::Answered,
            Outcome::Abandoned | Outcome::NeedsLogin { .. } => Probe::Returned,
            Outcome::QuotaRejected { .. }
            | Outcome::ServerSide { .. }
            | Outcome::ServerError { .. }
            | Outcome::Network { .. } => Probe::Failed,
        };
        self.breaker.settle(now.mono, lease, probe);
    }

    /// S9: who serves a session is its home, if it has none or a worse one, and has its prompt cached.
    fn settle_session(&mut self, index: usize, session: Option<SessionKey>, cached: Option<Mono>) {
        let Some(session) = session else { return };
        let account = &self.accounts[index];
        let id = account.id;
        let binding = self.affinity.binding(self.latest, session, Duration::MAX);
        let home = binding
            .and_then(|binding| binding.home)
            .and_then(|home| self.account(home))
            .filter(|home| !home.leaving);
        let rank = |account: &Account| (account.spec.kind, account.spec.priority);
        let is_better = |home: &Account| {
            account.spec.priority < home.spec.priority
                || (home.spec.kind == Kind::Provider && rank(account) < rank(home))
        };
        if home.is_none_or(is_better) {
            self.affinity.settle(session, id);
        }
        if let Some(since) = cached {
            self.affinity.served(session, id, since);
        }
    }

    /// S2: blocks what an answer rejected. True if that is more than one model family.
    fn reject(&mut self, now: Now, index: usize, quota: &QuotaReport, evidence: &Evidence) -> bool {
        let evidence = Arc::new(evidence.clone());
        let retry =
            quota.retry_after.map(|wait| now.mono + wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX));
        let mut everyone = false;
        for Rejected { window, reset } in rejected(now, quota, &self.accounts[index].windows) {
            let scope = match &window {
                Some(WindowKind::SevenDayFamily(family)) => Scope::Family(family.clone()),
                Some(
                    WindowKind::FiveHour
                    | WindowKind::SevenDay
                    | WindowKind::Tokens
                    | WindowKind::Requests
                    | WindowKind::Generic,
                )
                | None => Scope::Account,
            };
            everyone |= scope == Scope::Account;
            let unknown = || (reset.is_none()).then(|| now.mono + UNKNOWN_RESET_WAIT);
            let block = Block {
                reason: BlockReason::Quota(window),
                end: End::At { mono: retry.or_else(unknown), wall: reset },
                scope,
                evidence: evidence.clone(),
            };
            self.place_block(now, index, block);
        }
        everyone
    }

    /// P7: a refusal that is not the account's limit.
    fn set_aside(
        &mut self,
        now: Now,
        index: usize,
        overload: Overload,
        retry_after: Option<Duration>,
        evidence: &Evidence,
    ) {
        let (reason, unasked) = match overload {
            Overload::Refused429 => (BlockReason::ServerSide, SERVER_SIDE_WAIT),
            Overload::Overloaded529 => (BlockReason::Overloaded, SERVER_SIDE_WAIT_MAX),
        };
        let wait = retry_after.unwrap_or(unasked).clamp(RETRY_AFTER_MIN, SERVER_SIDE_WAIT_MAX);
        self.block_for(now, index, reason, End::after(now, wait), evidence.clone());
    }

    fn block_for(
        &mut self,
        now: Now,
        index: usize,
        reason: BlockReason,
        end: End,
        evidence: Evidence,
    ) {
        let block = Block { reason, end, scope: Scope::Account, evidence: Arc::new(evidence) };
        self.place_block(now, index, block);
    }

    /// P7: `cooldownMs`·2^(failures−1), at most `maxCooldownMs`.
    fn error_cooldown(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.policy.cooldown.saturating_mul(1 << doublings).min(self.policy.max_cooldown)
    }

    /// P8: is it the same refusal everywhere?
    fn weigh_breaker(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        fingerprint: Fingerprint,
        retry_after: Option<Duration>,
        evidence: &Evidence,
    ) {
        let longest = self.policy.max_cooldown.max(RETRY_AFTER_MIN);
        self.breaker.saw(Seen {
            at: now.mono,
            request: held.request,
            account: self.accounts[index].id,
            fingerprint,
            asked: retry_after.map(|wait| now.mono + wait.clamp(RETRY_AFTER_MIN, longest)),
        });
        if !self.breaker.can_trip(now.mono) {
            return;
        }
        let own = || {
            self.breaker.alike(now.mono, fingerprint).filter(|seen| seen.request == held.request)
        };
        let mut refusers: Vec<_> = own().map(|seen| seen.account).collect();
        refusers.sort();
        refusers.dedup();
        if refusers.len() < BREAKER_ACCOUNTS_MIN {
            return;
        }
        let own_blocks = refusers
            .iter()
            .filter_map(|id| self.account(*id))
            .filter_map(|account| refused_until(now, account));
        let Some(until) = own().filter_map(|seen| seen.asked).max().or_else(|| own_blocks.max())
        else {
            return;
        };
        if self.is_refused_everywhere(now, held, fingerprint, until) {
            self.breaker.trip(now, until, evidence);
        }
    }

    /// Every enabled account that this request could use has refused in the same way or is out for
    /// longer than `until`.
    fn is_refused_everywhere(
        &self,
        now: Now,
        held: &LeaseRecord,
        fingerprint: Fingerprint,
        until: Mono,
    ) -> bool {
        let ask = Ask {
            profile: &held.profile,
            family: held.family.as_ref(),
            model: None,
            session: None,
            weight: held.weight,
            thinking: false,
            route: Route::Any,
            // Only Claude accounts are looked at, and none of them was brought.
            brought: &[],
            tried: &[],
            tried_until: now.mono,
            last_failure: None,
            patience: Patience::CannotWait,
            binding: None,
            shape: Shape::Stream,
            body_bytes: 0,
            restraint: Restraint::Waived,
            others_waiting: 0,
        };
        let mut compatible = self
            .accounts
            .iter()
            .filter(|account| account.is_claude() && mismatch(account, &ask).is_none());
        compatible.all(|account| {
            let refused =
                self.breaker.alike(now.mono, fingerprint).any(|seen| seen.account == account.id);
            refused || self.is_out_until(now, account, &ask, until)
        })
    }

    /// True if blocks or windows keep the account out at least until then.
    fn is_out_until(&self, now: Now, account: &Account, ask: &Ask<'_>, until: Mono) -> bool {
        let mut out = false;
        self.obstacles(now, account, ask, |obstacle| {
            out |= match obstacle {
                Obstacle::Block(_)
                | Obstacle::Window(_)
                | Obstacle::Limit(_)
                | Obstacle::Overage { .. } => match obstacle.ends(now) {
                    Ends::At(at) => at >= until,
                    Ends::Never => true,
                    Ends::OnRelease => false,
                },
                _ => false,
            };
            !out
        });
        out
    }
}

/// Since when a request that was served has its prompt cached; counting tokens caches nothing.
fn cached_since(held: &LeaseRecord) -> Option<Mono> {
    (held.cost > 0).then_some(held.granted.mono)
}

/// The end of an account's own server-side blocks.
fn refused_until(now: Now, account: &Account) -> Option<Mono> {
    let server_side =
        |block: &&Block| matches!(block.reason, BlockReason::ServerSide | BlockReason::Overloaded);
    account.blocks(now).filter(server_side).filter_map(|block| block.end.mono(now)).max()
}

/// S11: until when paid extra usage counts as in use. A 429, and any answer that does not say so, ends it.
fn learn_overage(now: Now, account: &mut Account, head: &HeadReport<'_>) {
    if head.status == 429 || head.quota.overage_in_use != Some(true) {
        account.set_overage(None);
        return;
    }
    let rejected = rejected(now, head.quota, &account.windows);
    let reset = rejected.iter().filter_map(|one| one.reset).max();
    let retry = head.quota.retry_after.map(|wait| now.mono + wait);
    account.set_overage(Some(End::At {
        mono: retry.or_else(|| reset.is_none().then(|| now.mono + UNKNOWN_RESET_WAIT)),
        wall: reset,
    }));
}
