//! Everything that the program reports about itself, as plain data.

use std::sync::Arc;
use std::time::Duration;

use super::in_flight::Stage;
use crate::scheduler::time::Wall;
use crate::scheduler::{BlockSnapshot, Evidence, Kind, Usage, WaitCause};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The listening socket is open.
    Started(Started),
    /// A request has ended, in whatever way.
    Finished(Box<Finished>),
    /// A request moves to another account before its client has seen a byte (P6).
    Failover(Failover),
    /// An account cannot be used for a while.
    AccountBlocked(AccountBlocked),
    /// The last block of an account has ended.
    AccountBack {
        account: Arc<str>,
        after: Duration,
    },
    /// A request waits in the queue (Q1).
    Held(Held),
    /// A waiting request got an account.
    Released {
        /// The session's short id.
        session: Option<Arc<str>>,
        account: Arc<str>,
        waited: Duration,
    },
    /// The shared breaker has opened (P8).
    BreakerOpen {
        /// The fingerprint or message that tripped it.
        reason: String,
        /// When the probe may be sent.
        until: Option<Wall>,
        /// Failed probes in a row so far.
        failed_probes: u32,
    },
    /// One request probes on behalf of all.
    BreakerProbe,
    /// The breaker is closed again.
    BreakerClosed {
        after: Duration,
        /// What closed it, such as `status 200`.
        by: String,
    },
    /// A token refresh has ended (T2).
    Refresh(Refresh),
    /// The config was read again (A7).
    Reloaded {
        added: Vec<String>,
        /// Names of accounts that are gone.
        removed: Vec<String>,
        /// What else changed, such as `work: priority 0 -> 5` or `switchThreshold 0.9 -> 0.8`.
        changed: Vec<String>,
    },
    /// The config could not be read; the old settings stay in effect.
    ReloadFailed {
        /// File, line, key and what was expected.
        why: String,
    },
    /// The server was told to stop; running requests may finish (R1).
    Stopping {
        /// Who told it, such as `SIGTERM`.
        by: String,
        /// Requests still running.
        left: usize,
        /// When requests that still run are cut off.
        until: Wall,
    },
    /// Progress while running requests finish.
    Draining {
        left: usize,
    },
    /// The last event of a server.
    Stopped,
    Restart(RestartStep),
    /// Something worth a line that needs no action.
    Notice {
        text: String,
    },
    /// Something that the operator should look at.
    Warning {
        /// The line: what happened, to what, what to do.
        text: String,
    },
}

/// Start-up facts (D2).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Started {
    /// `CARGO_PKG_VERSION` of the running program.
    pub(crate) version: &'static str,
    /// `http://127.0.0.1:3456`.
    pub(crate) address: String,
    pub(crate) config: String,
    /// Name and kind, such as `oauth` or `provider zai`.
    pub(crate) accounts: Vec<StartedAccount>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StartedAccount {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    /// A remark, such as `disabled` or `needs login`.
    pub(crate) note: Option<String>,
}

/// How a request ended, by who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The upstream answered below 400 and the body ended well.
    Ok,
    /// The upstream's own 4xx or 5xx was passed on.
    PassedOn,
    /// We answered with an error of our own (P14).
    Refused,
    /// The answer broke off after its first byte had gone to the client.
    Broken,
    /// The client left before its answer had ended (P12).
    ClientGone {
        stage: Stage,
        /// Whether part of the answer had been sent.
        output_started: bool,
    },
    /// A local route or a relay with the client's own credential.
    Local,
}

impl Outcome {
    /// The labels in the metrics, in counter order.
    pub(crate) const LABELS: [&'static str; 6] =
        ["ok", "passed_on", "refused", "broken", "client_gone", "local"];

    pub(super) fn index(self) -> usize {
        match self {
            Outcome::Ok => 0,
            Outcome::PassedOn => 1,
            Outcome::Refused => 2,
            Outcome::Broken => 3,
            Outcome::ClientGone { .. } => 4,
            Outcome::Local => 5,
        }
    }
}

/// One finished request: the line of D2.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finished {
    pub(crate) method: Arc<str>,
    /// The path without its query.
    pub(crate) path: Arc<str>,
    /// The account that served it or was the last to try.
    pub(crate) account: Option<(Arc<str>, Kind)>,
    /// The status that the client got; absent if it left before.
    pub(crate) status: Option<u16>,
    pub(crate) outcome: Outcome,
    pub(crate) cause: Option<String>,
    /// Time in the queue, all waits added.
    pub(crate) queued: Duration,
    /// From the request's last byte to the answer's first; absent if none came.
    pub(crate) first_byte: Option<Duration>,
    /// From the request's head to the end.
    pub(crate) total: Duration,
    /// Tokens, if the answer reported them.
    pub(crate) tokens: Option<Usage>,
    /// The session's short id, not the key itself.
    pub(crate) session: Option<Arc<str>>,
    /// The requested model.
    pub(crate) model: Option<Arc<str>>,
    /// Attempts upstream; 0 if it got no account.
    pub(crate) attempts: u32,
}

/// A request moves to another account.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failover {
    pub(crate) from: Arc<str>,
    /// The next account; absent when the request goes to the queue.
    pub(crate) to: Option<Arc<str>>,
    pub(crate) why: String,
    pub(crate) evidence: Option<Arc<Evidence>>,
    /// The session's short id.
    pub(crate) session: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AccountBlocked {
    pub(crate) account: Arc<str>,
    /// Why, until when, and because of which answer.
    pub(crate) block: BlockSnapshot,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    /// The session's short id.
    pub(crate) session: Option<Arc<str>>,
    pub(crate) cause: WaitCause,
    pub(crate) until: Option<Wall>,
    /// Requests waiting now, this one included.
    pub(crate) queued: usize,
}

/// The end of a token refresh.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refresh {
    pub(crate) account: Arc<str>,
    pub(crate) result: RefreshResult,
    /// Short hash of the refresh token that was used.
    pub(crate) old: Option<String>,
    /// Short hash of the new or adopted refresh token.
    pub(crate) new: Option<String>,
    pub(crate) pid: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RefreshResult {
    /// A new pair, on disk.
    Rotated,
    /// Another process had refreshed it: its pair was read from the file.
    Adopted,
    /// A temporary failure, followed by a cooldown. Holds the reason.
    Failed(String),
    /// A final failure: needs login. Holds the reason.
    Refused(String),
    /// A new pair is in use but could not be written to the file. Holds the reason.
    NotStored(String),
}

impl RefreshResult {
    /// The labels in the metrics, in counter order.
    pub(crate) const LABELS: [&'static str; 5] =
        ["rotated", "adopted", "failed", "refused", "not_stored"];

    pub(super) fn index(&self) -> usize {
        match self {
            RefreshResult::Rotated => 0,
            RefreshResult::Adopted => 1,
            RefreshResult::Failed(_) => 2,
            RefreshResult::Refused(_) => 3,
            RefreshResult::NotStored(_) => 4,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RestartStep {
    /// The new process is being started.
    Starting,
    /// The new process serves; the old one finishes its requests.
    Serving { pid: u32 },
    /// The old process has nothing left to do.
    Done,
    /// The new process did not start; the old one keeps running.
    Failed { why: String },
}
