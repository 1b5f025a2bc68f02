//! The program's scheduler as a router.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use maxpool::scheduler::quota::QuotaReport;
use maxpool::scheduler::{
    Access, AccountId, AccountLimit, AccountSpec, Admission, Cancel, Evidence, Fingerprint, Grant,
    HeadReport, Kind, Lease, Outcome, Overload, Policy, Refusal, Request, RouteClass, Scheduler,
    SessionKey, Ticket, WaitCause, Wake,
};

use super::plan::{Plan, Seat};
use super::router::{Answer, Ask, End, Router, clocks, moment, wall};

pub struct Real {
    scheduler: Scheduler,
    accounts: Vec<AccountId>,
    /// By session, each of which has one request at a time.
    requests: BTreeMap<usize, Request>,
    leases: BTreeMap<u64, (Lease, usize)>,
    tickets: BTreeMap<Ticket, (u64, usize)>,
    last: u64,
}

impl Real {
    pub fn new(policy: Policy, seats: &[Seat]) -> Real {
        let mut scheduler = Scheduler::new(Policy {
            // Virtual clocks do not jump, so they need not be checked in between.
            poll: Duration::from_secs(600),
            ..policy
        });
        let spec = |(number, seat): (usize, &Seat)| {
            let (kind, priority) = match seat.plan {
                Plan::Pro | Plan::Max5 | Plan::Max20 => (Kind::Oauth, 0),
                Plan::Key => (Kind::ApiKey, 5),
                Plan::Provider => (Kind::Provider, 10),
            };
            AccountSpec {
                name: Arc::from(format!("account-{number}")),
                kind,
                enabled: true,
                priority,
                profiles: vec![Arc::from("claude")],
                access: Access::Everyone,
                limit: AccountLimit::default(),
            }
        };
        let specs = seats.iter().enumerate().map(spec);
        let accounts = specs.map(|spec| scheduler.add_account(clocks(0), spec)).collect();
        Real {
            scheduler,
            accounts,
            requests: BTreeMap::new(),
            leases: BTreeMap::new(),
            tickets: BTreeMap::new(),
            last: 0,
        }
    }

    fn number(&self, id: AccountId) -> usize {
        self.accounts.iter().position(|own| *own == id).expect("accounts stay")
    }

    fn go(&mut self, session: usize, grant: Grant) -> Answer {
        if let Some(request) = self.requests.get_mut(&session) {
            request.clock = grant.clock;
        }
        let (account, lease) = (self.number(grant.account), grant.lease.id());
        self.leases.insert(lease, (grant.lease, session));
        Answer::Go { account, lease }
    }
}

fn no(refusal: &Refusal) -> Answer {
    let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Answer::No { wait: refusal.wait.map(ms) }
}

fn evidence(now: u64, status: u16) -> Evidence {
    Evidence { status: Some(status), at: wall(now), ..Evidence::default() }
}

impl Router for Real {
    fn ask(&mut self, now: u64, ask: &Ask<'_>) -> Answer {
        let mono = clocks(now).mono;
        if ask.refused_by.is_empty() {
            self.last += 1;
            let request = Request {
                session: ask.key.map(|key| SessionKey(key as u128)),
                weight: ask.weight,
                body_bytes: ask.bytes,
                ..Request::new(self.last, mono)
            };
            self.requests.insert(ask.session, request);
        }
        let Some(request) = self.requests.get(&ask.session).cloned() else {
            return Answer::No { wait: None };
        };
        match self.scheduler.admit(clocks(now), request) {
            Admission::Granted(grant) => self.go(ask.session, grant),
            Admission::Queued(ticket) => {
                self.last += 1;
                self.tickets.insert(ticket, (self.last, ask.session));
                Answer::Wait { ticket: self.last }
            }
            Admission::Refused(refusal) => no(&refusal),
        }
    }

    fn head(&mut self, now: u64, lease: u64, status: u16, quota: &QuotaReport) {
        if let Some((lease, _)) = self.leases.get(&lease) {
            let head = HeadReport { status, quota, evidence: evidence(now, status) };
            self.scheduler.observe(clocks(now), lease, &head);
        }
    }

    fn done(&mut self, now: u64, lease: u64, end: End) {
        let Some((lease, session)) = self.leases.remove(&lease) else {
            return;
        };
        let (outcome, failure) = match end {
            End::Served => (Outcome::Success, None),
            End::Quota(quota) => {
                let evidence = evidence(now, 429);
                (Outcome::QuotaRejected { quota, evidence }, Some(WaitCause::Quota))
            }
            End::ServerSide { retry_after } => {
                let refused = Outcome::ServerSide {
                    overload: Overload::Refused429,
                    retry_after: Some(retry_after),
                    fingerprint: Fingerprint::of(
                        RouteClass::Messages,
                        429,
                        "rate_limit_error",
                        "too many at once",
                    ),
                    evidence: evidence(now, 429),
                };
                (refused, Some(WaitCause::Capacity))
            }
        };
        if let (Some(cause), Some(request)) = (failure, self.requests.get_mut(&session)) {
            request.excluded.push(lease.account());
            request.attempts += 1;
            request.last_failure = Some(cause);
        }
        self.scheduler.complete(clocks(now), lease, outcome);
    }

    fn leave(&mut self, now: u64, ticket: u64) {
        let Some(left) = self.tickets.iter().find(|(_, (number, _))| *number == ticket) else {
            return;
        };
        let left = *left.0;
        self.tickets.remove(&left);
        if let Cancel::AlreadyGranted(grant) = self.scheduler.cancel(clocks(now), left) {
            self.scheduler.complete(clocks(now), grant.lease, Outcome::Abandoned);
        }
    }

    fn wake(&mut self, now: u64) -> Option<(u64, Answer)> {
        loop {
            let wake = self.scheduler.poll(clocks(now))?;
            let Some((number, session)) = self.tickets.remove(&wake.ticket()) else {
                continue;
            };
            let answer = match wake {
                Wake::Granted { grant, .. } => {
                    if let Some(request) = self.requests.get_mut(&session) {
                        request.excluded.clear();
                        request.attempts = 0;
                    }
                    self.go(session, grant)
                }
                Wake::Expired { refusal, .. } | Wake::Refused { refusal, .. } => no(&refusal),
            };
            return Some((number, answer));
        }
    }

    fn next(&self, now: u64) -> Option<u64> {
        self.scheduler.next_wakeup(clocks(now)).map(moment)
    }
}
