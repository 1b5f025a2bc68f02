//! Quota windows as types: what one answer says about them.

use std::sync::Arc;
use std::time::Duration;

use super::time::Wall;

/// A model family: the lower-case word that names it in a model id (`opus`, `sonnet`, `haiku`, …).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family(pub Arc<str>);

/// The windows of SPEC S1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WindowKind {
    /// `anthropic-ratelimit-unified-5h-*`, claim `five_hour`.
    FiveHour,
    /// `anthropic-ratelimit-unified-7d-*`, claim `seven_day`.
    SevenDay,
    /// A weekly window of one model family, claims such as `seven_day_opus`.
    SevenDayFamily(Family),
    /// `anthropic-ratelimit-{tokens,input-tokens,output-tokens}-*`: the one with the largest used
    /// share.
    Tokens,
    /// `anthropic-ratelimit-requests-*`.
    Requests,
    /// `x-ratelimit-*`, `x-rate-limit-*`, `ratelimit-*`.
    Generic,
}

/// The verdict in `anthropic-ratelimit-unified-status`, or in the `-status` of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `allowed`.
    Allowed,
    /// `allowed_warning`.
    AllowedWarning,
    /// `rejected`.
    Rejected,
}

/// One window as described by one answer. Missing parts are unknown, never zero.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowReading {
    /// Which window.
    pub kind: WindowKind,
    /// Used share as sent, finite and not negative; may exceed 1 (S1 keeps the raw value for
    /// status).
    pub utilisation: Option<f64>,
    /// The window's size in its own unit.
    pub limit: Option<u64>,
    /// What is left of it.
    pub remaining: Option<u64>,
    /// When it resets.
    pub reset: Option<Wall>,
    /// The per-window status header.
    pub verdict: Option<Verdict>,
}

/// Everything that the head of one answer says about quota.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaReport {
    /// The windows in the answer, each kind at most once.
    pub windows: Vec<WindowReading>,
    /// `anthropic-ratelimit-unified-status`.
    pub verdict: Option<Verdict>,
    /// `anthropic-ratelimit-unified-representative-claim`.
    pub claim: Option<WindowKind>,
    /// `anthropic-ratelimit-unified-reset`.
    pub reset: Option<Wall>,
    /// `anthropic-ratelimit-unified-overage-in-use`.
    pub overage_in_use: Option<bool>,
    /// `retry-after`, 1 s to 24 h; `None` if unreadable or negative.
    pub retry_after: Option<Duration>,
}
