//! What answers do to accounts (SPEC P7, S2, P8, S11): the head when it arrives, the outcome at the
//! end.
//!
//! An attempt reports twice. The head already contains the quota windows and a rejection, and other
//! requests that are about to choose an account should know them seconds before a long stream ends.
//! The outcome contains the result of the body and of the attempt. Doing everything at the end
//! would be simpler, but would send a burst of requests to an account that the first head has shown
//! to be full.
//!
//! Whatever an answer proves becomes a block with a reason, an end and its evidence, never a status
//! flag: two overlapping reasons must each end at their own time. Completing releases the lease
//! last, because a block counts the requests in flight to prepare the other accounts for a storm
//! (S10).

use std::sync::Arc;
use std::time::Duration;

use super::parts::account::{Account, Mark};
use super::parts::block::{Block, BlockReason, End, Evidence, Scope};
use super::parts::breaker::Probe;
use super::parts::id::RouteClass;
use super::parts::outcome::{Blame, HeadReport, Outcome, Overload};
use super::parts::policy::{
    ACCOUNT_WAIT, MODEL_WAIT, RETRY_AFTER_MAX, RETRY_AFTER_MIN, SERVER_SIDE_WAIT,
    SERVER_SIDE_WAIT_MAX, UNKNOWN_RESET_WAIT,
};
use super::parts::quota::{Family, QuotaReport, Verdict, WindowKind};
use super::parts::recent_load::Counted;
use super::parts::request::{Kind, Lease, SessionKey};
use super::parts::snapshot::Source;
use super::parts::suspicion::{Cooldown, Finding, Fingerprint, Refused};
use super::parts::time::{Mono, Now};
use super::parts::trail::{Aftermath, PastRefusal, RefusedFor, Unproven};
use super::parts::windows::{Rejected, Windows, rejected};
use super::{LeaseRecord, Look, Looking, Progress, Scheduler};

impl Scheduler {
    /// The head of an answer has arrived: learns windows, blocks what it rejects, settles the
    /// breaker's probe, and ends the lease's part in a storm's ramp.
    pub fn observe(&mut self, now: Now, lease: &Lease, head: &HeadReport<'_>) {
        let now = self.touch(now);
        let Some(index) = self.index(lease.account) else {
            return;
        };
        self.look = Look::Now;
        let served = (200..400).contains(&head.status);
        self.accounts[index].last_status = Some(head.status);
        let Some(held) = self.leases.get_mut(&lease.id) else {
            return;
        };
        if std::mem::take(&mut held.ramped) {
            self.accounts[index].ramp.head();
        }
        let (class, family) = (held.class, held.family.clone());
        // P3: limits reported for another class count only for that class, at the end.
        if class != RouteClass::Messages {
            return;
        }
        let account = &mut self.accounts[index];
        account.unified_status = head.quota.verdict.or(account.unified_status);
        account.stir();
        account.windows.learn(now, head.quota, family.as_ref(), Source::Answer);
        learn_overage(now, account, head, family.as_ref());
        if served {
            account.windows.look_passed(lease.id);
        }
        if std::mem::replace(&mut held.progress, Progress::Answering) == Progress::Outstanding {
            account.costs.head(held.cost);
            if served {
                let reading = |kind| account.reading(now.wall, &kind);
                let five_hours = reading(WindowKind::FiveHour);
                let week = reading(WindowKind::SevenDay);
                account.costs.learn(held.cost, five_hours, week);
            }
        }
        let paid = served && head.quota.overage_in_use == Some(true);
        if account.is_claude()
            && let Some(breaker) = self.breakers.get_mut(family.as_ref())
        {
            breaker.head(now.mono, lease.id, head.status);
        }
        if paid {
            // S11: the API serves it, whatever it rejected before. A family's own limit is
            // different: this answer may be for another family.
            let of_family =
                |kind: &Option<WindowKind>| matches!(kind, Some(WindowKind::SevenDayFamily(_)));
            self.accounts[index].lift_reasons(
                now,
                |reason| matches!(reason, BlockReason::Quota(kind) if !of_family(kind)),
            );
        }
        if head.quota.verdict == Some(Verdict::Rejected) && !paid {
            self.reject(
                now,
                index,
                Rejection { class, family: family.as_ref(), quota: head.quota },
                &head.evidence,
            );
        }
        if let Some(held) = self.leases.get(&lease.id).filter(|_| served) {
            let (session, cached) = (held.session, cached_since(held));
            self.settle_session(index, session, cached);
        }
    }

    /// The attempt is over. Add the result to the request's trail.
    pub fn complete(&mut self, now: Now, lease: Lease, outcome: Outcome) -> Aftermath {
        let now = self.touch(now);
        let Some(held) = self.leases.remove(&lease.id) else {
            return Aftermath::default();
        };
        self.look = Look::Now;
        let Some(index) = self.index(held.account) else {
            return Aftermath::default();
        };
        self.end_look(now, index, lease.id, &outcome);
        self.end_probe(now, index, (lease.id, &held), &outcome);
        self.count(now, index, &held, &outcome);
        let after = self.charge(now, index, &held, outcome);
        self.release(index, &held);
        looked(now, &held, after)
    }

    /// P7: what an outcome does to the account, and to its own request.
    fn charge(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        outcome: Outcome,
    ) -> Aftermath {
        // Requests of other classes are answered, not held (P7).
        let never_held = held.class != RouteClass::Messages;
        let after = Aftermath { never_held, ..Aftermath::default() };
        match outcome {
            Outcome::Success => {
                self.served(now, index, held);
                Aftermath::default()
            }
            Outcome::Neutral
            | Outcome::Broken { .. }
            | Outcome::Abandoned
            | Outcome::Network { blame: Blame::Nobody, .. } => Aftermath::default(),
            Outcome::OwnRequest { .. } => Aftermath { never_held: true, ..after },
            Outcome::QuotaRejected { quota, evidence } => {
                let (class, family) = (held.class, held.family.as_ref());
                self.reject(now, index, Rejection { class, family, quota: &quota }, &evidence);
                self.count_failure(now, index, held);
                after
            }
            Outcome::ServerSide { overload, retry_after, fingerprint, evidence } => {
                let aside = Aside { overload, retry_after, fingerprint };
                self.set_aside(now, index, held, aside, &evidence);
                after
            }
            Outcome::Unproven { unproven, fingerprint, evidence } => {
                self.unproven(now, index, held, (unproven, fingerprint), evidence)
            }
            Outcome::ServerError { fingerprint, evidence } => {
                let wait = self.server_error(now, index, held, fingerprint, evidence);
                let why = RefusedFor::Delay(now.mono + wait);
                Aftermath { refusal: Some(past(now, held, why)), ..after }
            }
            Outcome::Network { blame: Blame::Account, evidence } => {
                let end = End::after(now, self.policy.network_cooldown);
                let scope = match held.class {
                    RouteClass::Messages => Scope::Account,
                    class => Scope::Class(class),
                };
                self.block_for(now, index, BlockReason::Network, (end, scope), evidence);
                Aftermath::default()
            }
            Outcome::ModelMissing { .. }
            | Outcome::Forbidden { .. }
            | Outcome::CredentialRefused { .. }
            | Outcome::Unusable { .. }
            | Outcome::NeedsLogin { .. } => self.charge_account(now, index, held, outcome),
        }
    }

    /// P7: outcomes about the account, its credential or its models, rather than about limits or
    /// trouble.
    fn charge_account(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        outcome: Outcome,
    ) -> Aftermath {
        let never_held = held.class != RouteClass::Messages;
        let after = Aftermath { never_held, ..Aftermath::default() };
        match outcome {
            Outcome::ModelMissing { evidence } => {
                let Some(model) = &held.model else {
                    return Aftermath { never_held: true, ..after };
                };
                let end = End::after(now, MODEL_WAIT);
                let scope = Scope::Model(model.clone());
                self.block_for(now, index, BlockReason::ModelMissing, (end, scope), evidence);
                // Another account may have it, and is waited for if it is out temporarily.
                after
            }
            Outcome::Forbidden { evidence } => {
                let forbidden = Some((held.account, Arc::new(evidence)));
                Aftermath { never_held: true, forbidden, ..after }
            }
            Outcome::CredentialRefused { evidence } => {
                self.rest(now, index, held, (BlockReason::CredentialRefused, None), evidence);
                after
            }
            Outcome::Unusable { evidence } => {
                let fixed = Some(ACCOUNT_WAIT);
                self.rest(now, index, held, (BlockReason::Unusable, fixed), evidence);
                after
            }
            Outcome::NeedsLogin { evidence } => {
                let end = End::CredentialChange;
                self.block_for(
                    now,
                    index,
                    BlockReason::NeedsLogin,
                    (end, Scope::Account),
                    evidence,
                );
                after
            }
            _ => after,
        }
    }

    /// An answer that ended well: clears suspicion, and marks accounts that answered 403 to the
    /// same request.
    fn served(&mut self, now: Now, index: usize, held: &LeaseRecord) {
        let account = &mut self.accounts[index];
        account.suspicions.served(held.granted.mono, held.class, held.kin);
        account.stir();
        if held.class == RouteClass::Messages {
            account.count_success(now);
            let mark = |evidence: &Arc<Evidence>| Mark {
                until: now.mono + ACCOUNT_WAIT,
                evidence: evidence.clone(),
            };
            for (id, evidence) in held.trail.forbidden() {
                if *id != held.account
                    && let Some(account) = self.account_mut(*id)
                {
                    account.set_mark(mark(evidence));
                }
            }
        }
        self.settle_session(index, held.session, cached_since(held));
    }

    fn count_failure(&mut self, now: Now, index: usize, held: &LeaseRecord) {
        if held.class == RouteClass::Messages {
            self.accounts[index].count_failure(now, held.granted.mono);
        }
    }

    /// P7: a refusal without evidence.
    fn unproven(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        (unproven, fingerprint): (Unproven, Fingerprint),
        evidence: Evidence,
    ) -> Aftermath {
        let class = held.class;
        if held.looking == Looking::ForProof {
            // An unrelated request was served in between: the refusal is this request's own.
            for account in &mut self.accounts {
                account.suspicions.lift(fingerprint, held.kin);
                for raised in held.trail.fingerprints() {
                    account.suspicions.lift(raised, held.kin);
                }
                account.stir();
            }
            return Aftermath { never_held: true, ends: true, ..Aftermath::default() };
        }
        let (finding, wait) = self.suspect(now, index, held, fingerprint, &evidence);
        let why = RefusedFor::Unproven { unproven, fingerprint };
        // Proven or not, the refusal may still turn out to be the request's own.
        let refusal = Some(past(now, held, why));
        if finding == Finding::Proven {
            match unproven {
                Unproven::Limit(retry_after) => {
                    let overload = Overload::Refused429;
                    let aside = Aside { overload, retry_after, fingerprint };
                    self.set_aside(now, index, held, aside, &evidence);
                }
                Unproven::Error | Unproven::NoAnswer => {
                    self.cool(now, index, held, (fingerprint, wait), evidence);
                    self.count_failure(now, index, held);
                }
            }
        }
        let never_held = class != RouteClass::Messages;
        Aftermath { refusal, never_held, ..Aftermath::default() }
    }

    /// P7: trouble on the way to the account. Returns how long its request leaves the account
    /// alone.
    fn server_error(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        fingerprint: Fingerprint,
        evidence: Evidence,
    ) -> Duration {
        self.count_failure(now, index, held);
        let (finding, wait) = self.suspect(now, index, held, fingerprint, &evidence);
        if finding == Finding::Proven {
            self.cool(now, index, held, (fingerprint, wait), evidence);
        }
        wait
    }

    fn suspect(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        fingerprint: Fingerprint,
        evidence: &Evidence,
    ) -> (Finding, Duration) {
        let cooldown = Cooldown { first: self.policy.cooldown, longest: self.policy.max_cooldown };
        let refused = Refused {
            sent: held.granted.mono,
            class: held.class,
            kin: held.kin,
            fingerprint,
            evidence: Arc::new(evidence.clone()),
        };
        let account = &mut self.accounts[index];
        account.stir();
        account.suspicions.refused(now.mono, refused, cooldown)
    }

    /// Two unrelated requests have met the same: the account is out for the length of its
    /// suspicion.
    fn cool(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        (fingerprint, wait): (Fingerprint, Duration),
        evidence: Evidence,
    ) {
        let scope = (End::after(now, wait), Scope::Class(held.class));
        self.block_for(now, index, BlockReason::ServerError, scope, evidence.clone());
        self.weigh_breaker(now, index, held, (fingerprint, None), &evidence);
    }

    /// T2, P7: the account is refused and rests, then one request tests it.
    fn rest(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        (reason, fixed): (BlockReason, Option<Duration>),
        evidence: Evidence,
    ) {
        let scope = match (held.class, fixed) {
            (RouteClass::Messages, _) | (_, Some(_)) => Scope::Account,
            (class, None) => Scope::Class(class),
        };
        let evidence = Arc::new(evidence);
        let block = Block { reason, end: End::after(now, Duration::ZERO), scope, evidence };
        self.rest_block(now, index, held.granted.mono, block, fixed);
    }

    /// Releases the lease. Done last, so that a block still counts this request as in flight (S10).
    fn release(&mut self, index: usize, held: &LeaseRecord) {
        let account = &mut self.accounts[index];
        match held.progress {
            Progress::Outstanding => account.costs.never_answered(held.cost),
            Progress::Answering => {}
        }
        account.costs.end(held.cost);
        account.in_flight = account.in_flight.saturating_sub(1);
        account.active_weight = account.active_weight.saturating_sub(u64::from(held.weight));
        if held.class == RouteClass::Messages {
            account.messages_in_flight = account.messages_in_flight.saturating_sub(1);
            self.messages_in_flight = self.messages_in_flight.saturating_sub(1);
        }
        if held.ramped {
            account.ramp.head();
        }
        self.reap();
    }

    fn count(&mut self, now: Now, index: usize, held: &LeaseRecord, outcome: &Outcome) {
        let counted = match outcome {
            Outcome::Success | Outcome::Neutral | Outcome::OwnRequest { .. } => Counted::Completed,
            Outcome::Abandoned | Outcome::Network { blame: Blame::Nobody, .. } => return,
            Outcome::Broken { evidence }
            | Outcome::QuotaRejected { evidence, .. }
            | Outcome::ServerSide { evidence, .. }
            | Outcome::Unproven { evidence, .. }
            | Outcome::ServerError { evidence, .. }
            | Outcome::Network { blame: Blame::Account, evidence }
            | Outcome::CredentialRefused { evidence }
            | Outcome::NeedsLogin { evidence }
            | Outcome::Unusable { evidence }
            | Outcome::ModelMissing { evidence }
            | Outcome::Forbidden { evidence } => {
                self.accounts[index].remember_error(evidence);
                Counted::Failed
            }
        };
        if matches!(outcome, Outcome::Broken { .. }) {
            self.accounts[index].count_use();
        }
        let took = now.mono.since(held.granted.mono);
        self.accounts[index].record(now, held.weight, took, counted);
    }

    /// P8 for a probe that its head has not settled.
    fn end_probe(
        &mut self,
        now: Now,
        index: usize,
        (lease, held): (u64, &LeaseRecord),
        outcome: &Outcome,
    ) {
        if !self.accounts[index].is_claude() {
            return;
        }
        let probe = match outcome {
            Outcome::Success
            | Outcome::Neutral
            | Outcome::Broken { .. }
            | Outcome::OwnRequest { .. }
            | Outcome::CredentialRefused { .. }
            | Outcome::Unusable { .. }
            | Outcome::ModelMissing { .. }
            | Outcome::Forbidden { .. } => Probe::Answered,
            Outcome::Abandoned | Outcome::NeedsLogin { .. } => Probe::Returned,
            Outcome::QuotaRejected { .. }
            | Outcome::ServerSide { .. }
            | Outcome::Unproven { .. }
            | Outcome::ServerError { .. }
            | Outcome::Network { .. } => Probe::Failed,
        };
        if let Some(breaker) = self.breakers.get_mut(held.family.as_ref()) {
            breaker.settle(now.mono, lease, probe);
        }
    }

    /// S9: the account that serves a session becomes its home, if it has none or a worse one, and
    /// has its prompt cached.
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

    /// S2: blocks what an answer rejected: the account's two windows for all messages, any other
    /// for the family whose request met it. A rejection of another class counts for that class
    /// (P3).
    fn reject(&mut self, now: Now, index: usize, said: Rejection<'_>, evidence: &Evidence) {
        let Rejection { class, family, quota } = said;
        let evidence = Arc::new(evidence.clone());
        let retry =
            quota.retry_after.map(|wait| now.mono + wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX));
        let nothing = Windows::default();
        let known = match class {
            RouteClass::Messages => &self.accounts[index].windows,
            RouteClass::CountTokens | RouteClass::Models | RouteClass::Rest => &nothing,
        };
        for Rejected { window, reset } in rejected(now, quota, known, family) {
            let scope = match (class, &window, family) {
                (RouteClass::Messages, None, _)
                | (RouteClass::Messages, Some(WindowKind::FiveHour | WindowKind::SevenDay), _) => {
                    Scope::Class(RouteClass::Messages)
                }
                (RouteClass::Messages, Some(_), Some(family)) => Scope::Family(family.clone()),
                (RouteClass::Messages, Some(WindowKind::SevenDayFamily(named)), None) => {
                    Scope::Family(named.clone())
                }
                (class, Some(_), _) | (class, None, _) => Scope::Class(class),
            };
            let unknown = || (reset.is_none()).then(|| now.mono + UNKNOWN_RESET_WAIT);
            let block = Block {
                reason: BlockReason::Quota(window),
                end: End::At { mono: retry.or_else(unknown), wall: reset },
                scope,
                evidence: evidence.clone(),
            };
            self.place_block(now, index, block);
        }
    }

    /// P7: the API refuses temporarily, which concerns the request's family.
    fn set_aside(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        aside: Aside,
        evidence: &Evidence,
    ) {
        let Aside { overload, retry_after, fingerprint } = aside;
        let (reason, unasked) = match overload {
            Overload::Refused429 => (BlockReason::ServerSide, SERVER_SIDE_WAIT),
            Overload::Overloaded529 => (BlockReason::Overloaded, SERVER_SIDE_WAIT_MAX),
        };
        let wait = retry_after.unwrap_or(unasked).clamp(RETRY_AFTER_MIN, SERVER_SIDE_WAIT_MAX);
        let scope = match (held.class, &held.family) {
            (RouteClass::Messages, Some(family)) => Scope::Family(family.clone()),
            (class, _) => Scope::Class(class),
        };
        self.block_for(now, index, reason, (End::after(now, wait), scope), evidence.clone());
        self.weigh_breaker(now, index, held, (fingerprint, retry_after), evidence);
    }

    fn block_for(
        &mut self,
        now: Now,
        index: usize,
        reason: BlockReason,
        (end, scope): (End, Scope),
        evidence: Evidence,
    ) {
        let block = Block { reason, end, scope, evidence: Arc::new(evidence) };
        self.place_block(now, index, block);
    }
}

/// What an answer rejected, and which request met it.
#[derive(Clone, Copy)]
struct Rejection<'a> {
    class: RouteClass,
    family: Option<&'a Family>,
    quota: &'a QuotaReport,
}

/// A refusal that sets an account aside.
struct Aside {
    overload: Overload,
    retry_after: Option<Duration>,
    fingerprint: Fingerprint,
}

fn past(now: Now, held: &LeaseRecord, why: RefusedFor) -> PastRefusal {
    PastRefusal { account: held.account, at: now.mono, why }
}

/// An attempt in suspense without a result still counts as one: the next one waits for the next
/// delay, or a failing name look-up would be repeated without a pause.
fn looked(now: Now, held: &LeaseRecord, after: Aftermath) -> Aftermath {
    if after.refusal.is_some() || held.looking == Looking::No {
        return after;
    }
    let known = held.trail.refusal_by(held.account);
    Aftermath { refusal: known.map(|known| past(now, held, known.why)), ..after }
}

/// Since when the prompt of a served request is cached; counting tokens caches nothing.
fn cached_since(held: &LeaseRecord) -> Option<Mono> {
    (held.cost > 0).then_some(held.granted.mono)
}

/// S11: until when paid extra usage counts as in use. A 429, and any answer that does not report
/// it, ends it.
fn learn_overage(now: Now, account: &mut Account, head: &HeadReport<'_>, family: Option<&Family>) {
    if head.status == 429 || head.quota.overage_in_use != Some(true) {
        account.set_overage(None);
        return;
    }
    let rejected = rejected(now, head.quota, &account.windows, family);
    let reset = rejected.iter().filter_map(|one| one.reset).max();
    let retry = head.quota.retry_after.map(|wait| now.mono + wait);
    account.set_overage(Some(End::At {
        mono: retry.or_else(|| reset.is_none().then(|| now.mono + UNKNOWN_RESET_WAIT)),
        wall: reset,
    }));
}
