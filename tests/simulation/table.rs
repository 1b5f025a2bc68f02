//! A small pool on virtual clocks, for tests that read like the rules they check.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use maxpool::scheduler::quota::{Family, QuotaReport, Verdict, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Now, Wall};
use maxpool::scheduler::{
    Access, AccountId, AccountSnapshot, AccountSpec, Admission, Aftermath, Evidence, Fingerprint,
    Grant, HeadReport, Kind, Lease, Outcome, Overload, Policy, Refusal, Request, RouteClass,
    Scheduler, Ticket, Unproven, Wake,
};

/// The scheduler with its clocks and the number of requests so far.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Now,
    requests: u64,
}

/// About noon on a Monday, far from zero on both clocks.
pub(crate) const START: Now = Now { mono: Mono(50_000_000), wall: Wall(1_790_000_000_000) };

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A family by its name.
pub(crate) fn family(name: &str) -> Family {
    Family(Arc::from(name))
}

/// A Claude subscription with the usual profiles.
pub(crate) fn oauth(name: &str) -> AccountSpec {
    AccountSpec {
        name: Arc::from(name),
        kind: Kind::Oauth,
        enabled: true,
        priority: 0,
        profiles: vec![Arc::from("claude"), Arc::from("all")],
        access: Access::Everyone,
        limit: maxpool::scheduler::AccountLimit::default(),
    }
}

/// A provider with the usual profile and priority.
pub(crate) fn provider(name: &str) -> AccountSpec {
    AccountSpec {
        kind: Kind::Provider,
        priority: 10,
        profiles: vec![Arc::from("all")],
        ..oauth(name)
    }
}

/// Evidence from an answer with this status and message.
pub(crate) fn evidence(status: u16, message: &str) -> Evidence {
    Evidence {
        status: Some(status),
        request_id: Some(Arc::from("req_1")),
        source: Arc::from("test"),
        at: START.wall,
        message: Arc::from(message),
    }
}

/// A window with this used share and reset.
pub(crate) fn window(kind: WindowKind, used: f64, reset: Option<Wall>) -> WindowReading {
    WindowReading {
        kind,
        utilisation: Some(used),
        limit: None,
        remaining: None,
        reset,
        verdict: None,
    }
}

/// Headers with these windows.
pub(crate) fn report(windows: Vec<WindowReading>) -> QuotaReport {
    QuotaReport { windows, ..QuotaReport::default() }
}

/// Headers of a rejection because of this window.
pub(crate) fn rejection(
    claim: Option<WindowKind>,
    reset: Option<Wall>,
    retry_after: Option<Duration>,
) -> QuotaReport {
    QuotaReport {
        verdict: Some(Verdict::Rejected),
        claim,
        reset,
        retry_after,
        ..QuotaReport::default()
    }
}

pub(crate) fn quota_rejected(quota: QuotaReport) -> Outcome {
    Outcome::QuotaRejected { quota, evidence: evidence(429, "this account's limit is exceeded") }
}

/// An outcome in which the API itself is in trouble: the account is set aside for 30 s.
pub(crate) fn set_aside() -> Outcome {
    Outcome::ServerSide {
        overload: Overload::Overloaded529,
        retry_after: None,
        // Never the same fingerprint twice, or the breaker would open.
        fingerprint: print(&words_of(NEXT.fetch_add(1, Ordering::Relaxed))),
        evidence: evidence(529, "try later"),
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

fn words_of(mut number: u64) -> String {
    let mut words = String::new();
    for _ in 0..8 {
        words.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    words
}

/// The fingerprint of this message.
pub(crate) fn print(message: &str) -> Fingerprint {
    Fingerprint::of(RouteClass::Messages, 429, "rate_limit_error", message)
}

/// A server error.
pub(crate) fn server_error() -> Outcome {
    Outcome::ServerError { fingerprint: print("later"), evidence: evidence(503, "try later") }
}

/// A refusal without a reason.
pub(crate) fn bare(unproven: Unproven) -> Outcome {
    let status = match unproven {
        Unproven::Limit(_) => 429,
        Unproven::Error | Unproven::NoAnswer => 500,
    };
    Outcome::Unproven { unproven, fingerprint: print("Error"), evidence: evidence(status, "Error") }
}

pub(crate) fn refused(retry_after: Option<Duration>, message: &str) -> Outcome {
    Outcome::ServerSide {
        overload: Overload::Refused429,
        retry_after,
        fingerprint: print(message),
        evidence: evidence(429, message),
    }
}

impl Table {
    pub(crate) fn new(policy: Policy) -> Table {
        Table { scheduler: Scheduler::new(policy), now: START, requests: 0 }
    }

    /// A table with this many subscriptions named `a`, `b`, … whose weekly resets are known.
    pub(crate) fn with(accounts: u8) -> (Table, Vec<AccountId>) {
        let mut table = Table::new(Policy::default());
        let ids =
            (0..accounts).map(|n| table.add(oauth(&char::from(b'a' + n).to_string()))).collect();
        (table, ids)
    }

    pub(crate) fn add(&mut self, spec: AccountSpec) -> AccountId {
        self.scheduler.add_account(self.now, spec)
    }

    /// Advances both clocks.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        self.now.wall = self.now.wall + time;
    }

    pub(crate) fn wall_after(&self, time: Duration) -> Wall {
        self.now.wall + time
    }

    pub(crate) fn request(&mut self) -> Request {
        self.requests += 1;
        Request::new(self.requests, self.now.mono)
    }

    pub(crate) fn admit(&mut self, request: Request) -> Admission {
        self.scheduler.admit(self.now, request)
    }

    #[track_caller]
    pub(crate) fn granted(&mut self, request: Request) -> Grant {
        match self.admit(request) {
            Admission::Granted(grant) => grant,
            other => panic!("expected a grant, got {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn queued(&mut self, request: Request) -> Ticket {
        match self.admit(request) {
            Admission::Queued(ticket) => ticket,
            other => panic!("expected a ticket, got {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, request: Request) -> Refusal {
        match self.admit(request) {
            Admission::Refused(refusal) => refusal,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    pub(crate) fn head(&mut self, lease: &Lease, status: u16, quota: &QuotaReport) {
        let head = HeadReport { status, quota, evidence: evidence(status, "head") };
        self.scheduler.observe(self.now, lease, &head);
    }

    pub(crate) fn complete(&mut self, lease: Lease, outcome: Outcome) -> Aftermath {
        self.scheduler.complete(self.now, lease, outcome)
    }

    /// Gets a grant for the request, answers it with 200 and ends it; returns the account.
    #[track_caller]
    pub(crate) fn serve(&mut self, request: Request) -> AccountId {
        let grant = self.granted(request);
        self.head(&grant.lease, 200, &QuotaReport::default());
        self.complete(grant.lease, Outcome::Success);
        grant.account
    }

    /// Blocks an account by an answer to a separate request.
    #[track_caller]
    pub(crate) fn fail(&mut self, account: AccountId, outcome: Outcome) {
        let request = Request { pinned: Some(account), ..self.request() };
        let grant = self.granted(request);
        self.complete(grant.lease, outcome);
    }

    /// Reports windows of an account as the probe does.
    pub(crate) fn learn(&mut self, account: AccountId, windows: Vec<WindowReading>) {
        self.scheduler.learn(self.now, account, &report(windows));
    }

    pub(crate) fn poll(&mut self) -> Vec<Wake> {
        std::iter::from_fn(|| self.scheduler.poll(self.now)).collect()
    }

    /// The grants made now, in order, with their tickets.
    #[track_caller]
    pub(crate) fn wakes(&mut self) -> Vec<(Ticket, Grant)> {
        let grant = |wake| match wake {
            Wake::Granted { ticket, grant } => (ticket, grant),
            other => panic!("expected a grant, got {other:?}"),
        };
        self.poll().into_iter().map(grant).collect()
    }

    /// Advances the time from one wake-up to the next until something is polled; returns how long
    /// that took.
    #[track_caller]
    pub(crate) fn until_wake(&mut self) -> (Duration, Vec<Wake>) {
        let start = self.now.mono;
        loop {
            let wakes = self.poll();
            if !wakes.is_empty() {
                return (self.now.mono.since(start), wakes);
            }
            let Some(at) = self.scheduler.next_wakeup(self.now) else {
                panic!("nobody waits");
            };
            assert!(at > self.now.mono, "a wake-up that is not ahead");
            self.pass(at.since(self.now.mono));
        }
    }

    #[track_caller]
    pub(crate) fn account(&self, id: AccountId) -> AccountSnapshot {
        let accounts = self.scheduler.snapshot(self.now).accounts;
        let Some(account) = accounts.into_iter().find(|account| account.id == id) else {
            panic!("no such account")
        };
        account
    }

    /// Time until the account's last block ends.
    #[track_caller]
    pub(crate) fn blocked_for(&self, id: AccountId) -> Option<Duration> {
        self.account(id).blocks.iter().filter_map(|block| block.remaining).max()
    }
}
