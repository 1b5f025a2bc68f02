//! What can be seen from outside: explanations (SPEC S12), refusals with their reasons (P14),
//! snapshots.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use super::admit::Decision;
use super::parts::account::Account;
use super::parts::affinity::{KnownSession, KnownThread};
use super::parts::block::{BlockReason, Evidence, LiftedBy, Scope, WaitCause};
use super::parts::cost::PromptCache;
use super::parts::id::RouteClass;
use super::parts::obstacle::{Ends, Obstacle};
use super::parts::policy::DECISIONS_MAX;
use super::parts::quota::{Family, Verdict};
use super::parts::ranking::{Available, Ranking};
use super::parts::request::{Refusal, RefusalReason, Request, Standing, Ticket};
use super::parts::snapshot::{
    AccountSnapshot, BlockSnapshot, BreakerSnapshot, CachedPrompt, Candidate, Effect,
    ExplainedVerdict, Explanation, QueueSnapshot, Snapshot, Status, Tier, WeeklySnapshot,
};
use super::parts::tier;
use super::parts::time::{Mono, Now, Wall};
use super::parts::trail::Trail;
use super::parts::wait_limits::Outlook;
use super::select::{Ask, Route, mismatch};
use super::{Intake, Scheduler};

impl Scheduler {
    /// S12: what would become of this request now. Changes nothing.
    #[must_use]
    pub fn explain(&self, now: Now, request: &Request) -> Explanation {
        let tried_until = now.mono + self.pass_pause(request.last_failure);
        let mut ask = self.ask(now, request, &request.excluded, tried_until);
        let mut ranking = Ranking::default();
        let decision = self.decide(now, request, &mut ask, &mut ranking);
        let verdict = match decision {
            _ if self.intake == Intake::Draining => {
                ExplainedVerdict::Refuse(RefusalReason::Draining)
            }
            Decision::Serve(choice) => {
                ExplainedVerdict::Chosen(self.accounts[choice.index].id, choice.why)
            }
            Decision::Hold(cause) => {
                let outlooks = self.outlooks(now, &ask);
                let end = outlooks.iter().filter_map(Outlook::end).min();
                ExplainedVerdict::Wait(cause, end.map(|end| end.since(now.mono)))
            }
            Decision::Refuse(refusal) => ExplainedVerdict::Refuse(refusal.reason),
        };
        let mut explanation = Explanation::empty();
        self.describe(now, request.id, &ask, &ranking, verdict, &mut explanation);
        explanation.in_order()
    }

    /// The last decisions, oldest first.
    pub fn decisions(&self) -> impl Iterator<Item = Explanation> {
        self.decisions.iter().map(|one| one.clone().in_order())
    }

    /// Adds a decision to `decisions`, whose memory is used again.
    pub(super) fn record(
        &self,
        now: Now,
        request: u64,
        ask: &Ask<'_>,
        ranking: &Ranking,
        verdict: ExplainedVerdict,
        decisions: &mut VecDeque<Explanation>,
    ) {
        let used = if decisions.len() >= DECISIONS_MAX { decisions.pop_front() } else { None };
        let mut explanation = used.unwrap_or_else(Explanation::empty);
        self.describe(now, request, ask, ranking, verdict, &mut explanation);
        decisions.push_back(explanation);
    }

    fn describe(
        &self,
        now: Now,
        request: u64,
        ask: &Ask<'_>,
        ranking: &Ranking,
        verdict: ExplainedVerdict,
        into: &mut Explanation,
    ) {
        into.at = now.wall;
        into.request = request;
        into.model = ask.model.cloned();
        into.session = ask.session;
        into.verdict = verdict;
        into.candidates.clear();
        into.candidates.extend(ranking.available.iter().map(|one| self.candidate(one)));
        into.cache = self.cached_prompt(now, ask);
        into.passed_over.clear();
        let out = ranking.out.iter().map(|index| &self.accounts[*index]);
        into.passed_over.extend(out.filter_map(|account| self.standing(now, account, ask)));
    }

    fn candidate(&self, one: &Available) -> Candidate {
        let account = &self.accounts[one.index];
        Candidate {
            account: account.id,
            name: account.spec.name.clone(),
            rank: 0,
            tier: one.tier,
            avoided: one.avoided.clone(),
            pass: one.order,
            priority: account.spec.priority,
            score: one.terms.total(),
            terms: one.terms,
        }
    }

    /// Where the session was served last, as long as its prompt is cached there.
    fn cached_prompt(&self, now: Now, ask: &Ask<'_>) -> Option<CachedPrompt> {
        let served = ask.binding?.last_served()?;
        let account = match ask.cache_on(now.mono, served) {
            PromptCache::Warm => self.account(served)?,
            PromptCache::Cold => return None,
        };
        Some(CachedPrompt {
            account: account.id,
            name: account.spec.name.clone(),
            tokens: ask.body_bytes / 4,
        })
    }

    /// What keeps the account away longest; none if nothing does.
    fn standing(&self, now: Now, account: &Account, ask: &Ask<'_>) -> Option<Standing> {
        let mut longest: Option<(Ends, Obstacle<'_>)> = None;
        self.obstacles(now, account, ask, |obstacle| {
            let ends = obstacle.ends(now);
            if longest.as_ref().is_none_or(|(known, _)| order(ends) > order(*known)) {
                longest = Some((ends, obstacle));
            }
            true
        });
        let (ends, obstacle) = longest?;
        Some(Standing {
            account: account.id,
            name: account.spec.name.clone(),
            kind: account.spec.kind,
            reason: obstacle.reason(now),
            wait: match ends {
                Ends::At(at) => Some(at.since(now.mono)),
                // A 403 is never waited for, and ends all the same.
                Ends::OnRelease | Ends::Never => {
                    obstacle.unawaited_end(now).map(|at| at.since(now.mono))
                }
            },
            evidence: match obstacle {
                Obstacle::BreakerOpen(_)
                | Obstacle::BreakerProbing
                | Obstacle::BreakerPacing(_) => {
                    self.breakers.get(ask.family).and_then(|breaker| breaker.evidence())
                }
                _ => obstacle.evidence(),
            }
            .cloned(),
        })
    }

    /// P14: the true cause, over the enabled accounts that match. `reason` none: what their blocks
    /// say.
    pub(super) fn refusal(
        &self,
        now: Now,
        ask: &Ask<'_>,
        reason: Option<RefusalReason>,
    ) -> Refusal {
        let matching: Vec<&Account> =
            self.accounts.iter().filter(|account| mismatch(account, ask).is_none()).collect();
        let accounts: Vec<Standing> =
            matching.iter().filter_map(|account| self.standing(now, account, ask)).collect();
        let outlooks = self.outlooks(now, ask);
        // One that only waits for others to end may be back at any moment: no time is honest then.
        let soonest = outlooks
            .iter()
            .filter(|outlook| !outlook.is_never())
            .min_by_key(|outlook| outlook.end());
        let cause = soonest.map(Outlook::cause);
        let hopeless = || match () {
            () if matching.is_empty() => self.no_route(ask),
            () if soonest.is_none() => RefusalReason::CredentialsOnly(
                matching.iter().map(|account| account.spec.name.clone()).collect(),
            ),
            // A provider would have served, so that Claude's limits alone would be half of the
            // truth.
            () if self.is_barred(ask) => RefusalReason::ThinkingNeedsClaude,
            () => RefusalReason::Limited(cause.unwrap_or(WaitCause::Capacity)),
        };
        Refusal {
            reason: reason.unwrap_or_else(hopeless),
            wait: soonest.and_then(Outlook::end).map(|end| end.since(now.mono)),
            cause,
            accounts,
        }
    }

    /// P9 keeps the request from a provider that it could go to otherwise.
    fn is_barred(&self, ask: &Ask<'_>) -> bool {
        self.accounts
            .iter()
            .any(|account| matches!(mismatch(account, ask), Some(Obstacle::SignedThinking)))
    }

    /// Why no account matches at all.
    fn no_route(&self, ask: &Ask<'_>) -> RefusalReason {
        let any = |wanted: fn(&Obstacle<'_>) -> bool| {
            self.accounts
                .iter()
                .filter_map(|account| mismatch(account, ask))
                .any(|obstacle| wanted(&obstacle))
        };
        match ask.route {
            _ if self.is_barred(ask) => RefusalReason::ThinkingNeedsClaude,
            _ if any(|obstacle| matches!(obstacle, Obstacle::Disabled)) => {
                RefusalReason::NoneEnabled
            }
            Route::Thread(_) => RefusalReason::ThreadElsewhere,
            Route::Pinned(_) => RefusalReason::NoAccount,
            Route::Any if self.accounts.iter().all(|account| account.leaving) => {
                RefusalReason::NoAccount
            }
            Route::Any => RefusalReason::UnknownProfile,
        }
    }

    /// Everything that status shows.
    #[must_use]
    pub fn snapshot(&self, now: Now) -> Snapshot {
        Snapshot {
            at: now,
            switch_threshold: self.policy.switch_threshold,
            routing: self.routing,
            current: self.last_chosen.filter(|id| self.account(*id).is_some()),
            accounts: self
                .accounts
                .iter()
                .map(|account| self.account_snapshot(now, account))
                .collect(),
            in_flight: self.in_flight(),
            admission_paused: self.intake == Intake::Draining,
            max_active_per_account: self.policy.max_active_per_account,
            max_active_global: self.policy.max_active_global,
            breaker: self.breakers.snapshot(now),
            queue: self.queue_snapshot(now),
            sticky_bindings: self.affinity.bindings(now.mono, self.policy.session_idle),
            thinking_protected: self.affinity.thinking_sessions(),
            threads: self.affinity.threads(),
        }
    }

    /// What a ticket waits for; nothing once it has its verdict.
    #[must_use]
    pub fn waits_for(&self, ticket: Ticket) -> Option<WaitCause> {
        let waiter = self.queue.iter().find(|waiter| waiter.ticket == ticket)?;
        waiter.clock.cause.map(|(cause, _)| cause)
    }

    /// What the request of a ticket has met so far, with its suspense.
    #[must_use]
    pub fn trail_of(&self, ticket: Ticket) -> Option<&Trail> {
        let waiter = self.queue.iter().find(|waiter| waiter.ticket == ticket)?;
        Some(&waiter.request.trail)
    }

    /// The breaker of one family.
    #[must_use]
    pub fn breaker_of(&self, now: Now, family: Option<&Family>) -> BreakerSnapshot {
        self.breakers.get(family).map(|breaker| breaker.snapshot(now)).unwrap_or_default()
    }

    /// The shared breaker alone, which costs less than a snapshot.
    #[must_use]
    pub fn breaker(&self, now: Now) -> BreakerSnapshot {
        self.breakers.snapshot(now)
    }

    fn queue_snapshot(&self, now: Now) -> QueueSnapshot {
        let mut by_cause: Vec<(WaitCause, usize)> = Vec::new();
        for (cause, _) in self.queue.iter().filter_map(|waiter| waiter.clock.cause) {
            match by_cause.iter_mut().find(|(known, _)| *known == cause) {
                Some((_, count)) => *count += 1,
                None => by_cause.push((cause, 1)),
            }
        }
        by_cause.sort();
        let release = self.queue.iter().filter_map(|waiter| waiter.release).min();
        QueueSnapshot {
            waiting: self.queue.len(),
            oldest: self.queue.iter().map(|waiter| now.mono.since(waiter.since.mono)).max(),
            bytes: self.queue.bytes(),
            next_release: release.map(|at| at.since(now.mono)),
            by_cause,
        }
    }

    fn account_snapshot(&self, now: Now, account: &Account) -> AccountSnapshot {
        let weekly = self.weekly(now, account);
        let blocks = account.snapshot_blocks(now);
        let of_messages = || blocks.iter().filter(|block| is_of_messages(block));
        let until = |limited: bool| -> Option<Wall> {
            of_messages()
                // A rest after a 401 is no cooldown.
                .filter(|block| block.reason != BlockReason::CredentialRefused)
                .filter(|block| is_429(&block.reason) == limited)
                .filter_map(|block| block.until)
                .max()
        };
        let rejected = of_messages().any(|block| matches!(block.reason, BlockReason::Quota(_)));
        AccountSnapshot {
            id: account.id,
            name: account.spec.name.clone(),
            kind: account.spec.kind,
            enabled: account.spec.enabled,
            leaving: account.leaving,
            profiles: account.spec.profiles.clone(),
            priority: account.spec.priority,
            status: status(&blocks, weekly.state),
            in_flight: account.in_flight,
            active_weight: account.active_weight,
            completed: account.completed,
            failed: account.failed,
            consecutive_failures: account.failures,
            last_status: account.last_status,
            last_response: account.last_response,
            last_15m: account.hour.last(now.mono, 15),
            last_1h: account.hour.last(now.mono, 60),
            last_error: account.last_error.as_ref().map(|(message, _)| message.clone()),
            last_error_at: account.last_error.as_ref().map(|(_, at)| *at),
            cooldown_until: until(false),
            rate_limited_until: until(true),
            windows: account.windows.iter(now.wall).map(|window| window.snapshot()).collect(),
            // The verdict belongs to a window and goes with it (S2).
            unified_status: account
                .unified_status
                .filter(|verdict| *verdict != Verdict::Rejected || rejected),
            weekly,
            overage_in_use: account.overage(now).is_some(),
            usage: account.usage,
            blocks,
        }
    }

    /// S4.
    fn weekly(&self, now: Now, account: &Account) -> WeeklySnapshot {
        let rejected = account.blocks(now).any(|block| is_weekly(&block.reason));
        let known =
            account.week(now.wall).and_then(|week| Some((week.used?, week.elapsed(now.wall))));
        let Some((used, elapsed)) = known else {
            return WeeklySnapshot {
                state: rejected.then_some(Tier::Exhausted),
                ..WeeklySnapshot::default()
            };
        };
        let effective = tier::effective_use(&self.policy, used, elapsed);
        WeeklySnapshot {
            state: match rejected {
                true => Some(Tier::Exhausted),
                false => account.tier(now, &self.policy, None),
            },
            raw_state: Some(tier::of_share(&self.policy, used)),
            pace_state: Some(tier::of_share(&self.policy, effective)),
            effective_usage: Some(effective),
        }
    }

    /// What a process that takes over should know of sessions (S9, P9): the `count` that were used
    /// last, the latest first.
    #[must_use]
    pub fn known_sessions(&self, now: Now, count: usize) -> Vec<KnownSession> {
        let idle = self.policy.session_idle;
        self.affinity.known_sessions(now.mono, idle, count)
    }

    /// The same of threads (P10).
    #[must_use]
    pub fn known_threads(&self, now: Now, count: usize) -> Vec<KnownThread> {
        let idle = self.policy.session_idle;
        self.affinity.known_threads(now.mono, idle, count)
    }

    /// Takes over what [`Scheduler::known_sessions`] and [`Scheduler::known_threads`] of another
    /// process have told.
    pub fn recall(&mut self, now: Now, sessions: &[KnownSession], threads: &[KnownThread]) {
        let now = self.touch(now);
        for known in sessions.iter().rev() {
            self.affinity.recall_session(now.mono, known);
        }
        for known in threads.iter().rev() {
            self.affinity.recall_thread(now.mono, known);
        }
    }
}

impl Explanation {
    /// Best first. Decisions are kept as they were made: sorting them all would cost each request
    /// more than its choice.
    fn in_order(mut self) -> Explanation {
        self.candidates.sort_by(by_rank);
        for (index, candidate) in self.candidates.iter_mut().enumerate() {
            candidate.rank = index + 1;
        }
        self.passed_over.sort_by_key(|one| one.account);
        self
    }

    fn empty() -> Explanation {
        Explanation {
            at: Wall::default(),
            request: 0,
            model: None,
            session: None,
            verdict: ExplainedVerdict::Refuse(RefusalReason::NoAccount),
            candidates: Vec::new(),
            passed_over: Vec::new(),
            cache: None,
        }
    }
}

impl Refusal {
    /// Without anything about accounts.
    pub(super) fn plain(reason: RefusalReason) -> Refusal {
        Refusal { reason, wait: None, cause: None, accounts: Vec::new() }
    }
}

fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    (a.pass, a.priority).cmp(&(b.pass, b.priority)).then(a.score.total_cmp(&b.score))
}

/// Never is longest, then the latest known end, then what others decide.
fn order(ends: Ends) -> (u8, u64) {
    match ends {
        Ends::OnRelease => (0, 0),
        Ends::At(at) => (1, at.0),
        Ends::Never => (2, 0),
    }
}

/// P1: the account's status in one word.
fn status(blocks: &[BlockSnapshot], week: Option<Tier>) -> Status {
    let any = |wanted: fn(&BlockReason) -> bool| {
        blocks.iter().any(|block| is_of_messages(block) && wanted(&block.reason))
    };
    let dead = |reason: &BlockReason| {
        matches!(reason, BlockReason::NeedsLogin | BlockReason::CredentialRefused)
    };
    match week {
        _ if any(dead) => Status::Error,
        Some(Tier::Exhausted) => Status::Exhausted,
        _ if any(is_429) => Status::Throttled,
        _ => Status::Active,
    }
}

/// P1: what concerns other route classes, or a single model, says nothing about the account's
/// state.
fn is_of_messages(block: &BlockSnapshot) -> bool {
    match &block.scope {
        Scope::Account | Scope::Class(RouteClass::Messages) | Scope::Family(_) => true,
        Scope::Class(RouteClass::CountTokens | RouteClass::Models | RouteClass::Rest)
        | Scope::Model(_) => false,
    }
}

impl Account {
    /// What keeps the account away or makes it avoided, for display.
    fn snapshot_blocks(&self, now: Now) -> Vec<BlockSnapshot> {
        let blocks = self.blocks(now).map(|block| BlockSnapshot {
            reason: block.reason.clone(),
            scope: block.scope.clone(),
            effect: Effect::Out,
            lifted_by: block.reason.lifted_by(),
            until: block.end.wall(now),
            remaining: block.end.mono(now).map(|end| end.since(now.mono)),
            evidence: block.evidence.clone(),
        });
        let avoided = |reason, scope, until: Mono, lifted_by, evidence: &Arc<Evidence>| {
            let remaining = until.since(now.mono);
            BlockSnapshot {
                reason,
                scope,
                effect: Effect::Avoided,
                lifted_by,
                until: Some(now.wall + remaining),
                remaining: Some(remaining),
                evidence: evidence.clone(),
            }
        };
        let suspicions = self.suspicions.in_force(now).map(|one| {
            let reason = match one.evidence.status {
                Some(429) => BlockReason::ServerSide,
                Some(_) | None => BlockReason::ServerError,
            };
            let scope = Scope::Class(one.class);
            avoided(reason, scope, one.until, LiftedBy::UnrelatedRequest, &one.evidence)
        });
        let mark = self.mark(now.mono).map(|mark| {
            let scope = Scope::Class(RouteClass::Messages);
            avoided(BlockReason::Forbidden, scope, mark.until, LiftedBy::Time, &mark.evidence)
        });
        blocks.chain(suspicions).chain(mark).collect()
    }
}

fn is_429(reason: &BlockReason) -> bool {
    matches!(reason, BlockReason::Quota(_) | BlockReason::ServerSide)
}

fn is_weekly(reason: &BlockReason) -> bool {
    matches!(reason, BlockReason::Quota(Some(super::parts::quota::WindowKind::SevenDay)))
}
