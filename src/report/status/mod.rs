//! The JSON of `GET /maxpool/status`, which is also what the dashboard draws.
//!
//! Field names and nesting of the first part are those of the Node program, so that existing
//! scripts keep working; new fields were added to them. Unknown values are `null`, numbers are
//! numbers, and times are `YYYY-MM-DDTHH:MM:SS.mmmZ`, except the quota resets that have always been
//! milliseconds. The types are used in both directions: the server writes them, `status` and
//! `status --watch` read them, and a field that an older server does not send gets its default.

pub(crate) mod build;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::{iso, parse_rfc3339};
use crate::event::labels;
use crate::scheduler::LiftedBy;
use crate::scheduler::time::Wall;

/// A moment as its ISO 8601 text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Moment(pub(crate) Wall);

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        iso(moment.0)
    }
}

impl TryFrom<String> for Moment {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Moment, Self::Error> {
        let at = parse_rfc3339(&text).ok_or("expected an RFC 3339 time")?;
        Ok(Moment(at))
    }
}

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Status {
    /// The account chosen most recently.
    pub(crate) current_account: Option<String>,
    pub(crate) switch_threshold: f64,
    pub(crate) routing: Routing,
    pub(crate) accounts: Vec<Account>,
    pub(crate) scheduler: Scheduler,
    pub(crate) upstream_throttle: Throttle,
    pub(crate) sessions: Sessions,
    /// Fields from here on are new; the Node program did not have them.
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) now: Moment,
    pub(crate) uptime_ms: u64,
    pub(crate) address: String,
    pub(crate) config_path: String,
    /// The server is stopping: requests in flight finish, no new ones start.
    pub(crate) draining: bool,
    pub(crate) queue: Queue,
    pub(crate) tokens: TokenTotals,
    /// Since midnight, local time; `null` if unknown.
    pub(crate) today: Option<TokenTotals>,
    /// Requests in flight, oldest first, bounded; `scheduler.globalInFlight` counts those that hold
    /// an account.
    pub(crate) requests: Vec<Request>,
    pub(crate) requests_in_flight: usize,
    /// The last decisions (S12), oldest first.
    pub(crate) decisions: Vec<Explanation>,
    /// The last log lines, oldest first.
    pub(crate) activity: Vec<Line>,
    /// Log lines lost because the log was read too slowly.
    pub(crate) events_dropped: u64,
    /// Refusals that were no account's fault; no account was set aside for them.
    pub(crate) blameless_refusals: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Routing {
    /// `automatic` or `preferred`.
    pub(crate) mode: String,
    pub(crate) preferred_account: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Account {
    pub(crate) name: String,
    /// `oauth`, `apikey` or `provider`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `anthropic`, `zai`, `kimi` or the config's own word.
    pub(crate) provider: String,
    pub(crate) enabled: bool,
    pub(crate) upstream: String,
    pub(crate) profiles: Vec<String>,
    pub(crate) priority: i64,
    /// Created from request headers (V1), not in the config.
    pub(crate) runtime: bool,
    /// `active`, `throttled`, `exhausted` or `error` (P1).
    pub(crate) status: String,
    pub(crate) in_flight: u64,
    pub(crate) active_weight: u64,
    pub(crate) completed_requests: u64,
    pub(crate) failed_requests: u64,
    pub(crate) consecutive_failures: u64,
    pub(crate) last_status: Option<u16>,
    pub(crate) last_response_ms: Option<u64>,
    pub(crate) load: Load,
    pub(crate) last_error: Option<String>,
    pub(crate) last_error_at: Option<Moment>,
    /// End of a block from 5xx, 529, 403, network or refresh.
    pub(crate) cooldown_until: Option<Moment>,
    /// End of a block from a 429.
    pub(crate) rate_limited_until: Option<Moment>,
    pub(crate) quota: Quota,
    pub(crate) weekly: Weekly,
    pub(crate) usage: Usage,
    /// New: why the router would pass it over now, whatever the request; `null` if it would not.
    pub(crate) unavailable: Option<Unavailable>,
    /// New: why it is used last although it is available (S3), in words; empty if it is not.
    pub(crate) avoided: Vec<String>,
    /// New: paid extra usage is in use (S11).
    pub(crate) overage_in_use: bool,
    /// New: removed from the config, finishing its requests.
    pub(crate) leaving: bool,
    /// New: every block in force, with the answer that caused it.
    pub(crate) blocks: Vec<Block>,
    /// New: every known quota window.
    pub(crate) windows: Vec<Window>,
    /// New: facts about its credential.
    pub(crate) credential: Option<Credential>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Unavailable {
    pub(crate) reason: String,
    /// The same in one or two words.
    pub(crate) short: String,
    pub(crate) until: Option<Moment>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Block {
    /// `quota`, `server_side`, `overloaded`, `server_error`, `network`, `forbidden`,
    /// `credential_refused`, `needs_login`, `refresh_failed`, `refresh_network`, `unusable`,
    /// `model_missing`.
    pub(crate) reason: String,
    /// The window of a `quota` block, if the upstream named it.
    pub(crate) window: Option<String>,
    /// The same in words.
    pub(crate) text: String,
    /// `null`: until the credential changes.
    pub(crate) until: Option<Moment>,
    /// The model or model family, if the block is limited to one.
    pub(crate) family: Option<String>,
    /// `messages`, `count_tokens`, `models` or `other`; `null` for the whole account.
    pub(crate) route_class: Option<String>,
    /// `out`, or `avoided`: used only if no other account can serve.
    pub(crate) effect: String,
    /// What lifts it, apart from `maxpool retry`.
    pub(crate) lifted_by: String,
    pub(crate) evidence: Option<Evidence>,
}

/// The answer that caused a decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Evidence {
    pub(crate) status: Option<u16>,
    pub(crate) request_id: Option<String>,
    /// The header or the part of the body that was decisive.
    pub(crate) source: Option<String>,
    pub(crate) at: Option<Moment>,
    pub(crate) message: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Window {
    /// `five_hour`, `seven_day`, `seven_day_<family>`, `tokens`, `requests`, `generic`.
    pub(crate) window: String,
    /// The model family that it counts, if the upstream limits families separately.
    pub(crate) family: Option<String>,
    /// 0 to 1.
    pub(crate) used: Option<f64>,
    pub(crate) reset: Option<Moment>,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    /// When it was learned.
    pub(crate) learned_at: Option<Moment>,
    /// The source: `answer`, `probe` or `state file`.
    pub(crate) source: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Credential {
    /// `valid`, `expired`, `needs login`, `refused`, `in memory only`.
    pub(crate) state: String,
    pub(crate) expires_at: Option<Moment>,
    pub(crate) refreshed_at: Option<Moment>,
    pub(crate) storage: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Load {
    pub(crate) current: LoadNow,
    pub(crate) last15m: LoadSpan,
    pub(crate) last1h: LoadSpan,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LoadNow {
    pub(crate) in_flight: u64,
    pub(crate) active_weight: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LoadSpan {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) weight: u64,
    pub(crate) avg_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Quota {
    pub(crate) unified5h: Option<f64>,
    pub(crate) unified7d: Option<f64>,
    pub(crate) unified5h_raw: Option<f64>,
    pub(crate) unified7d_raw: Option<f64>,
    /// Epoch ms, like every `…Reset` here.
    pub(crate) unified5h_reset: Option<i64>,
    pub(crate) unified7d_reset: Option<i64>,
    pub(crate) unified7d_sonnet: Option<f64>,
    pub(crate) unified7d_sonnet_reset: Option<i64>,
    pub(crate) unified_status: Option<String>,
    pub(crate) tokens_limit: Option<u64>,
    pub(crate) tokens_remaining: Option<u64>,
    pub(crate) requests_limit: Option<u64>,
    pub(crate) requests_remaining: Option<u64>,
    pub(crate) resets_at: Option<Moment>,
    pub(crate) generic_limit: Option<u64>,
    pub(crate) generic_remaining: Option<u64>,
    pub(crate) generic_reset: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Weekly {
    pub(crate) state: String,
    pub(crate) raw_state: String,
    pub(crate) effective_usage: Option<f64>,
    pub(crate) pace_state: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Usage {
    pub(crate) total_input_tokens: u64,
    pub(crate) total_output_tokens: u64,
    pub(crate) total_requests: u64,
    pub(crate) last_used: Option<Moment>,
    /// New.
    pub(crate) total_cache_read_tokens: u64,
    /// New.
    pub(crate) total_cache_write_tokens: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Scheduler {
    pub(crate) mode: String,
    pub(crate) global_in_flight: u64,
    pub(crate) admission_paused: bool,
    pub(crate) safety_max_active_per_account: u64,
    pub(crate) safety_max_global_active: u64,
}

/// The shared breaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Throttle {
    pub(crate) active: bool,
    pub(crate) until: Option<Moment>,
    pub(crate) reason: Option<String>,
    pub(crate) probe_in_flight: bool,
    /// Failed probes in a row while it is open.
    pub(crate) count: u64,
    pub(crate) last_at: Option<Moment>,
    pub(crate) queued: u64,
    pub(crate) oldest_queued_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Sessions {
    pub(crate) sticky_bindings: u64,
    pub(crate) thinking_protected: u64,
    /// New: the most recently used sessions, latest first, bounded.
    pub(crate) list: Vec<Session>,
}

/// The account of a session (S9).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Session {
    /// The short id, as in the log.
    pub(crate) id: String,
    /// The account that served it last.
    pub(crate) account: Option<String>,
    /// The account that it returns to.
    pub(crate) home: Option<String>,
    pub(crate) idle_ms: u64,
    /// It contains signed thinking, so no provider serves it.
    pub(crate) thinking: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Queue {
    pub(crate) waiting: u64,
    pub(crate) oldest_ms: Option<u64>,
    pub(crate) bytes: u64,
    /// Number of requests waiting for `quota`, `weekly`, `capacity`, `network`.
    pub(crate) by_cause: Map<String, Value>,
    /// When the next account becomes free, if known.
    pub(crate) next_free_at: Option<Moment>,
}

/// Since the program started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TokenTotals {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) cache_read: u64,
    pub(crate) cache_write: u64,
}

/// A request in flight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) since: Moment,
    pub(crate) age_ms: u64,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) stage: String,
    pub(crate) account: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) session: Option<String>,
}

/// A log line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Line {
    /// How many lines precede it.
    pub(crate) number: u64,
    pub(crate) at: Moment,
    pub(crate) warning: bool,
    pub(crate) text: String,
    /// Its facts, if the line is about a finished request.
    pub(crate) request: Option<FinishedRequest>,
}

/// A finished request, as the dashboard shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct FinishedRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) account: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) total_ms: u64,
    pub(crate) input_tokens: Option<u64>,
    pub(crate) output_tokens: Option<u64>,
    pub(crate) cause: Option<String>,
}

/// S12: why this account and no other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) request: Explained,
    pub(crate) chosen: Option<String>,
    /// The rule (`preferred`, `home`, `score` …), or what happens to the request instead.
    pub(crate) why: String,
    /// When it would be served, if it would wait.
    pub(crate) until: Option<Moment>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) passed_over: Vec<PassedOver>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Explained {
    pub(crate) id: Option<u64>,
    pub(crate) at: Option<Moment>,
    pub(crate) profile: Option<String>,
    pub(crate) model: Option<String>,
    /// The session's short id, or what was asked for if there is no such session.
    pub(crate) session: Option<String>,
    /// Whether the session exists; absent if no session was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session_known: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Candidate {
    pub(crate) account: String,
    pub(crate) rank: u64,
    pub(crate) tier: String,
    pub(crate) priority: i64,
    pub(crate) score: Option<f64>,
    /// The terms of S6 by name, in the order in which they are added.
    pub(crate) terms: Map<String, Value>,
    /// Criteria that take precedence over the score, in words.
    pub(crate) notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PassedOver {
    pub(crate) account: String,
    pub(crate) reason: String,
    pub(crate) until: Option<Moment>,
    /// What lifts a block, apart from `maxpool retry`; `null` if it is not a block.
    pub(crate) lifted_by: Option<String>,
    pub(crate) evidence: Option<Evidence>,
}

/// The note of a candidate that the API has refused, and that the next request tries.
pub(crate) const REFUSED_BEFORE: &str = "the API has refused it; the next request tries it again";

impl Account {
    /// Whether it is out because the API refused it: one request tries it at the end, so that the
    /// end of the block alone brings nothing back (T2).
    pub(crate) fn awaits_test(&self) -> bool {
        let Some(out) = &self.unavailable else {
            return self.status == "error";
        };
        self.blocks.iter().any(|block| {
            ["credential_refused", "unusable"].contains(&block.reason.as_str())
                && block.text == out.reason
        })
    }
}

impl PassedOver {
    /// The same for an account in an explanation.
    pub(crate) fn awaits_test(&self) -> bool {
        self.lifted_by.as_deref() == Some(labels::lifted_by(LiftedBy::Look))
    }
}

impl Status {
    /// Number of log lines after this one.
    pub(crate) fn lines_after(&self, number: u64) -> usize {
        self.activity.iter().rev().take_while(|line| line.number > number).count()
    }

    /// Claude accounts in pool order, then providers, so that the two kinds are not mixed.
    pub(crate) fn in_order(&self) -> Vec<&Account> {
        let (providers, claude): (Vec<&Account>, Vec<&Account>) =
            self.accounts.iter().partition(|account| account.kind == "provider");
        claude.into_iter().chain(providers).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
