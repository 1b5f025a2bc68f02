//! The scheduler as the simulator sees it: the real one, or the real one behind a planted bug,
//! which shows that every oracle can catch something.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use maxpool::scheduler::quota::QuotaReport;
use maxpool::scheduler::time::{Mono, Now};
use maxpool::scheduler::{
    AccountId, AccountSpec, Admission, Aftermath, Cancel, Fingerprint, Grant, HeadReport, Lease,
    Outcome, Overload, Policy, Request, RouteClass, Scheduler, SessionKey, Snapshot, Ticket, Trail,
    Wake,
};

/// The bug in the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A verdict is never delivered.
    SwallowsAVerdict,
    /// A verdict is delivered twice.
    RepeatsAVerdict,
    /// A quota rejection blocks nothing.
    IgnoresRejections,
    /// A cooldown blocks nothing.
    IgnoresCooldowns,
    /// An account is tried twice in one pass.
    ForgetsExclusions,
    /// Allows twice the safety caps.
    ExceedsCaps,
    /// A lease is never returned.
    LeaksALease,
    /// The last request in the queue is served first.
    ServesTheLastFirst,
    /// Wakes up too late.
    Oversleeps,
    /// Wakes up without end.
    Spins,
    /// Holds a request longer than its client tolerates.
    IgnoresTolerance,
    /// Ends a wait before the client has to leave.
    ExpiresEarly,
    /// Holds longer than the limit.
    IgnoresWaitLimits,
    /// A free slot is offered to no request until something else happens.
    ForgetsToWake,
    /// The breaker has more than one probe.
    ProbesTwice,
    /// A step of the wall clock counts as elapsed time.
    MixesClocks,
    /// Status counts wrongly.
    Miscounts,
    /// Two runs of the same seed differ.
    IsRandom,
    /// Sends signed thinking to providers.
    SendsThinkingAway,
    /// Continues to use a disabled account.
    IgnoresDisabling,
    /// Queues more requests than allowed.
    OverfillsTheQueue,
    /// Refuses a request that an account could serve.
    RefusesWithoutNeed,
    /// Continues a pass after all attempts are used up.
    TriesTooOften,
    /// A cooldown that has no end.
    BlocksForEver,
    /// Chooses by score where a cache should decide.
    MovesSessions,
    /// Blocks an account for all requests because of one of them.
    BlamesAtOnce,
    /// Never blocks an account because two requests met the same refusal.
    NeverProves,
    /// Forgets where a request was refused.
    RepeatsCalls,
}

/// A verdict as the simulator receives it; leases stay in here.
#[derive(Debug)]
pub(crate) enum Verdict {
    Granted(Ticket, Given),
    Expired(Ticket, maxpool::scheduler::Limit, maxpool::scheduler::Refusal),
    Refused(Ticket, maxpool::scheduler::Refusal),
}

/// A grant without its lease, which is identified by its number.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) lease: u64,
    pub(crate) account: AccountId,
    pub(crate) why: maxpool::scheduler::Why,
    pub(crate) clock: maxpool::scheduler::WaitClock,
    pub(crate) trail: Trail,
    pub(crate) waited: Duration,
}

#[derive(Debug)]
pub(crate) enum Admitted {
    Granted(Given),
    Queued(Ticket),
    Refused(maxpool::scheduler::Refusal),
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub(crate) enum Cancelled {
    Gone,
    AlreadyGranted(Given),
    AlreadyRefused(Option<maxpool::scheduler::Limit>),
    AlreadyPolled,
}

/// The scheduler with the leases that it has granted.
#[derive(Debug)]
pub(crate) struct Subject {
    scheduler: Scheduler,
    leases: BTreeMap<u64, Lease>,
    bug: Option<Bug>,
    tickets: Vec<Ticket>,
    verdicts: u64,
    repeated: Option<(Ticket, maxpool::scheduler::Refusal)>,
    /// Leases that a bug returned without the simulator's knowledge, with account and weight.
    ghosts: BTreeMap<u64, (AccountId, u32)>,
    /// How far the monotonic clock was made to jump.
    jumped: u64,
    distance: Option<i64>,
    silent: bool,
}

static RUNS: AtomicU64 = AtomicU64::new(0);

impl Subject {
    pub(crate) fn new(policy: &Policy, bug: Option<Bug>) -> Subject {
        let mut subject = Subject {
            scheduler: Scheduler::new(Policy::default()),
            leases: BTreeMap::new(),
            bug,
            tickets: Vec::new(),
            verdicts: 0,
            repeated: None,
            ghosts: BTreeMap::new(),
            jumped: 0,
            distance: None,
            silent: false,
        };
        subject.set_policy(Now::default(), policy);
        subject
    }

    /// The real scheduler, for calls that only read or that no bug affects.
    pub(crate) fn real(&mut self) -> &mut Scheduler {
        &mut self.scheduler
    }

    fn now(&mut self, now: Now) -> Now {
        if self.bug != Some(Bug::MixesClocks) {
            return now;
        }
        let distance = now.wall.0 - i64::try_from(now.mono.0).unwrap_or(i64::MAX);
        let forward = distance - self.distance.replace(distance).unwrap_or(distance);
        self.jumped += u64::try_from(forward).unwrap_or(0);
        self.at(now)
    }

    fn at(&self, now: Now) -> Now {
        Now { mono: Mono(now.mono.0 + self.jumped), ..now }
    }

    pub(crate) fn set_policy(&mut self, now: Now, policy: &Policy) {
        let now = self.now(now);
        let mut policy = policy.clone();
        match self.bug {
            Some(Bug::ExceedsCaps) => {
                policy.max_active_per_account *= 2;
                policy.max_active_global *= 2;
            }
            Some(Bug::IgnoresWaitLimits) => {
                policy.max_wait *= 4;
                policy.auto_max_wait = None;
                policy.non_stream_max_wait *= 4;
                policy.count_tokens_max_wait *= 4;
            }
            Some(Bug::IgnoresCooldowns) => {
                policy.cooldown = Duration::ZERO;
                policy.network_cooldown = Duration::ZERO;
            }
            Some(Bug::OverfillsTheQueue) => policy.max_queued += 5,
            Some(Bug::TriesTooOften) => policy.max_attempts = 0,
            _ => {}
        }
        self.scheduler.set_policy(now, policy);
    }

    pub(crate) fn update_account(&mut self, now: Now, id: AccountId, mut spec: AccountSpec) {
        let now = self.now(now);
        spec.enabled |= self.bug == Some(Bug::IgnoresDisabling);
        self.scheduler.update_account(now, id, spec);
    }

    pub(crate) fn note_thinking(&mut self, now: Now, session: SessionKey) {
        let now = self.now(now);
        if self.bug != Some(Bug::SendsThinkingAway) {
            self.scheduler.note_thinking(now, session);
        }
    }

    pub(crate) fn admit(&mut self, now: Now, mut request: Request) -> Admitted {
        let now = self.now(now);
        match self.bug {
            Some(Bug::ForgetsExclusions) => request.excluded.clear(),
            Some(Bug::IgnoresTolerance) => request.tolerance = None,
            Some(Bug::ExpiresEarly) => {
                request.tolerance = request.tolerance.map(|tolerance| tolerance / 2)
            }
            Some(Bug::SendsThinkingAway) => request.signed_thinking = false,
            Some(Bug::MovesSessions) => request.session = None,
            Some(Bug::RepeatsCalls) => {
                request.trail = Trail::default();
                request.excluded.clear();
            }
            Some(Bug::RefusesWithoutNeed) => request.holdable &= !request.id.is_multiple_of(7),
            _ => {}
        }
        let refuse = self.bug == Some(Bug::RefusesWithoutNeed) && request.id.is_multiple_of(11);
        let weight = request.weight;
        let ready = self.breaker_is_ready(now);
        let thread = request.thread.is_some();
        match self.scheduler.admit(now, request) {
            Admission::Granted(grant) if refuse && !thread => {
                let refusal = maxpool::scheduler::Refusal {
                    reason: maxpool::scheduler::RefusalReason::Limited(
                        maxpool::scheduler::WaitCause::Capacity,
                    ),
                    wait: None,
                    cause: None,
                    accounts: Vec::new(),
                };
                self.scheduler.complete(now, grant.lease, Outcome::Abandoned);
                Admitted::Refused(refusal)
            }
            Admission::Granted(grant) => Admitted::Granted(self.give(now, grant, ready, weight)),
            Admission::Queued(ticket) => {
                self.tickets.push(ticket);
                Admitted::Queued(ticket)
            }
            Admission::Refused(refusal) => Admitted::Refused(refusal),
        }
    }

    fn breaker_is_ready(&self, now: Now) -> bool {
        if self.bug != Some(Bug::ProbesTwice) {
            return false;
        }
        let breaker = self.scheduler.breaker(now);
        breaker.active
            && !breaker.probe_in_flight
            && breaker.until.is_some_and(|until| until <= now.wall)
    }

    fn give(&mut self, now: Now, grant: Grant, probe: bool, weight: u32) -> Given {
        let given = Given {
            lease: grant.lease.id(),
            account: grant.account,
            why: grant.why,
            clock: grant.clock,
            trail: grant.trail,
            waited: grant.waited,
        };
        if probe && grant.kind.is_claude() && self.bug == Some(Bug::ProbesTwice) {
            self.ghosts.insert(given.lease, (given.account, weight));
            self.scheduler.complete(now, grant.lease, Outcome::Abandoned);
        } else {
            self.leases.insert(given.lease, grant.lease);
        }
        given
    }

    pub(crate) fn cancel(&mut self, now: Now, ticket: Ticket) -> Cancelled {
        let now = self.now(now);
        self.tickets.retain(|known| *known != ticket);
        match self.scheduler.cancel(now, ticket) {
            Cancel::Cancelled => Cancelled::Gone,
            Cancel::AlreadyGranted(grant) => {
                Cancelled::AlreadyGranted(self.give(now, grant, false, 0))
            }
            Cancel::AlreadyRefused(limit) => Cancelled::AlreadyRefused(limit),
            Cancel::AlreadyPolled => Cancelled::AlreadyPolled,
        }
    }

    pub(crate) fn poll(&mut self, now: Now) -> Option<Verdict> {
        let now = self.now(now);
        if let Some((ticket, refusal)) = self.repeated.take() {
            return Some(Verdict::Refused(ticket, refusal));
        }
        if std::mem::take(&mut self.silent) {
            return None;
        }
        let ready = self.breaker_is_ready(now);
        let wake = self.scheduler.poll(now)?;
        self.verdicts += 1;
        if self.bug == Some(Bug::SwallowsAVerdict) && self.verdicts.is_multiple_of(5) {
            if let Wake::Granted { grant, .. } = wake {
                self.scheduler.complete(now, grant.lease, Outcome::Abandoned);
            }
            return self.poll(now);
        }
        let ticket = wake.ticket();
        if self.bug == Some(Bug::ServesTheLastFirst) && matches!(wake, Wake::Granted { .. }) {
            // The last request in the queue gets the grant, and the first one takes its place.
            if let Some(last) = self.tickets.iter().position(|known| *known == ticket) {
                let end = self.tickets.len() - 1;
                if last != end {
                    return Some(self.swapped(now, wake, last, end));
                }
            }
        }
        self.tickets.retain(|known| *known != ticket);
        Some(match wake {
            Wake::Granted { grant, .. } => {
                Verdict::Granted(ticket, self.give(now, grant, ready, 1))
            }
            Wake::Expired { limit, refusal, .. } => {
                if self.bug == Some(Bug::RepeatsAVerdict) {
                    self.repeated = Some((ticket, refusal.clone()));
                }
                Verdict::Expired(ticket, limit, refusal)
            }
            Wake::Refused { refusal, .. } => Verdict::Refused(ticket, refusal),
        })
    }

    fn swapped(&mut self, now: Now, wake: Wake, first: usize, last: usize) -> Verdict {
        let stolen = self.tickets[last];
        let Wake::Granted { grant, .. } = wake else { unreachable!("only grants are swapped") };
        self.tickets.remove(first);
        // The real place of the stolen ticket is given up: its owner was served, and the other
        // request waits for ever.
        let cancelled = self.scheduler.cancel(now, stolen);
        drop(cancelled);
        self.tickets.retain(|known| *known != stolen);
        Verdict::Granted(stolen, self.give(now, grant, false, 1))
    }

    pub(crate) fn next_wakeup(&mut self, now: Now) -> Option<Mono> {
        let now = self.now(now);
        let at = self.scheduler.next_wakeup(now)?;
        let at = Mono(at.0.saturating_sub(self.jumped));
        Some(match self.bug {
            Some(Bug::Oversleeps) => at + Duration::from_secs(7),
            Some(Bug::Spins) => Mono(now.mono.0 - self.jumped),
            Some(Bug::IsRandom) => {
                at + Duration::from_millis(RUNS.fetch_add(1, Ordering::Relaxed) % 2)
            }
            _ => at,
        })
    }

    pub(crate) fn observe(
        &mut self,
        now: Now,
        lease: u64,
        status: u16,
        quota: &QuotaReport,
        evidence: maxpool::scheduler::Evidence,
    ) {
        let now = self.now(now);
        let Some(lease) = self.leases.get(&lease) else {
            return;
        };
        let quiet = QuotaReport::default();
        let quota = if self.bug == Some(Bug::IgnoresRejections) { &quiet } else { quota };
        let head = HeadReport { status, quota, evidence };
        self.scheduler.observe(now, lease, &head);
    }

    pub(crate) fn complete(&mut self, now: Now, lease: u64, mut outcome: Outcome) -> Aftermath {
        let now = self.now(now);
        self.ghosts.remove(&lease);
        let Some(lease) = self.leases.remove(&lease) else {
            return Aftermath::default();
        };
        match self.bug {
            Some(Bug::LeaksALease) if lease.id().is_multiple_of(9) => return Aftermath::default(),
            Some(Bug::ForgetsToWake) => self.silent = true,
            Some(Bug::BlocksForEver) => {
                if let Outcome::ServerError { evidence, .. } = &outcome {
                    let block = maxpool::scheduler::Block {
                        reason: maxpool::scheduler::BlockReason::Network,
                        end: maxpool::scheduler::End::CredentialChange,
                        scope: maxpool::scheduler::Scope::Account,
                        evidence: std::sync::Arc::new(evidence.clone()),
                    };
                    self.scheduler.block(now, lease.account(), block);
                }
            }
            Some(Bug::IgnoresRejections) => {
                if let Outcome::QuotaRejected { evidence, .. } = outcome {
                    outcome =
                        Outcome::Network { blame: maxpool::scheduler::Blame::Account, evidence };
                }
            }
            Some(Bug::BlamesAtOnce) => {
                if let Outcome::Unproven { fingerprint, evidence, .. } = outcome {
                    let (overload, retry_after) = (Overload::Overloaded529, None);
                    outcome = Outcome::ServerSide { overload, retry_after, fingerprint, evidence };
                }
            }
            Some(Bug::NeverProves) => {
                if let Outcome::Unproven { fingerprint, .. } = &mut outcome {
                    let own = usize::try_from(lease.id()).unwrap_or(0);
                    let word: String = std::iter::repeat_n('x', own).collect();
                    *fingerprint = Fingerprint::of(RouteClass::Messages, 500, "", &word);
                }
            }
            _ => {}
        }
        self.scheduler.complete(now, lease, outcome)
    }

    pub(crate) fn snapshot(&mut self, now: Now) -> Snapshot {
        let now = self.now(now);
        let mut snapshot = self.scheduler.snapshot(now);
        for (id, weight) in self.ghosts.values() {
            snapshot.in_flight += 1;
            for account in snapshot.accounts.iter_mut().filter(|account| account.id == *id) {
                account.in_flight += 1;
                account.active_weight += u64::from(*weight);
            }
        }
        if self.bug == Some(Bug::Miscounts) && snapshot.queue.waiting > 2 {
            snapshot.queue.waiting -= 1;
        }
        snapshot
    }
}
