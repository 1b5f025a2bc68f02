//! The JSON of `GET /maxpool/status`, and of what the dashboard draws.
//!
//! Field names and nesting of the first part are those of the Node program, so that existing scripts keep working; new facts stand
//! beside them. Unknown is `null`, numbers are numbers, times are `YYYY-MM-DDTHH:MM:SS.mmmZ` but for the quota resets that were ms
//! before. Both directions are here: the server writes it, `status` and `status --watch` read it, and a field that an older
//! server does not send reads as its default.

pub(crate) mod build;

use serde_json::{Map, Value};

use crate::clock::{iso, parse_rfc3339};
use crate::config::shape::{Mismatch, Shape, shape};
use crate::scheduler::time::Wall;

/// A moment as its ISO 8601 text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) Wall);

impl Shape for Moment {
    fn to_json(&self) -> Value {
        Value::from(iso(self.0))
    }

    fn take(&mut self, value: &Value) -> Result<(), Mismatch> {
        let moment = value.as_str().and_then(parse_rfc3339);
        self.0 = moment.ok_or_else(|| Mismatch::expected("an RFC 3339 time"))?;
        Ok(())
    }
}

shape! {
    /// The whole answer.
    struct Status {
        /// The account chosen last.
        current_account: Option<String>,
        switch_threshold: f64,
        routing: Routing,
        accounts: Vec<Account>,
        scheduler: Scheduler,
        upstream_throttle: Throttle,
        sessions: Sessions,
        /// From here on: facts that the Node program did not tell.
        version: String,
        pid: u32,
        now: Moment,
        uptime_ms: u64,
        address: String,
        config_path: String,
        /// Stopping: what is in flight finishes, nothing new begins.
        draining: bool,
        queue: Queue,
        tokens: TokenTotals,
        /// Requests in flight, oldest first, bounded; `scheduler.globalInFlight` counts those that hold an account.
        requests: Vec<Request>,
        requests_in_flight: usize,
        /// The last decisions (S12), oldest first.
        decisions: Vec<Explanation>,
        /// The last log lines, oldest first.
        activity: Vec<Line>,
        /// Log lines that were lost because the log was read too slowly.
        events_dropped: u64,
    }

    struct Routing {
        /// `automatic` or `preferred`.
        mode: String,
        preferred_account: Option<String>,
    }

    struct Account {
        name: String,
        /// `oauth`, `apikey` or `provider`.
        kind as "type": String,
        /// `anthropic`, `zai`, `kimi` or the config's own word.
        provider: String,
        enabled: bool,
        upstream: String,
        profiles: Vec<String>,
        priority: i64,
        /// Made of request headers (V1), not in the config.
        runtime: bool,
        /// `active`, `throttled`, `exhausted` or `error` (P1).
        status: String,
        in_flight: u64,
        active_weight: u64,
        completed_requests: u64,
        failed_requests: u64,
        consecutive_failures: u64,
        last_status: Option<u16>,
        last_response_ms: Option<u64>,
        load: Load,
        last_error: Option<String>,
        last_error_at: Option<Moment>,
        /// End of a block from 5xx, 529, 403, network or refresh.
        cooldown_until: Option<Moment>,
        /// End of a block from a 429.
        rate_limited_until: Option<Moment>,
        quota: Quota,
        weekly: Weekly,
        usage: Usage,
        /// New: why the router would pass it over now, whatever the request; `null` when it would not.
        unavailable: Option<Unavailable>,
        /// New: paid extra usage is in use (S11).
        overage_in_use: bool,
        /// New: removed from the config, finishing what it has.
        leaving: bool,
        /// New: every block in force, with the answer behind it.
        blocks: Vec<Block>,
        /// New: every window that is known.
        windows: Vec<Window>,
        /// New: what is known of its credential.
        credential: Option<Credential>,
    }

    struct Unavailable {
        reason: String,
        /// The same in a word or two.
        short: String,
        until: Option<Moment>,
    }

    struct Block {
        /// `quota`, `server_side`, `overloaded`, `server_error`, `network`, `forbidden`, `credential_refused`, `needs_login`,
        /// `refresh_failed`, `refresh_network`.
        reason: String,
        /// The window of a `quota` block, if the upstream named it.
        window: Option<String>,
        /// The same for people.
        text: String,
        /// `null`: until the credential changes.
        until: Option<Moment>,
        /// The model family, if only that is out.
        family: Option<String>,
        evidence: Option<Evidence>,
    }

    /// The answer that a decision rests on.
    struct Evidence {
        status: Option<u16>,
        request_id: Option<String>,
        /// The header or the part of the body that decided.
        source: Option<String>,
        at: Option<Moment>,
        message: Option<String>,
    }

    struct Window {
        /// `five_hour`, `seven_day`, `seven_day_<family>`, `tokens`, `requests`, `generic`.
        window: String,
        /// 0 to 1.
        used: Option<f64>,
        reset: Option<Moment>,
        limit: Option<u64>,
        remaining: Option<u64>,
        /// When it was learned.
        learned_at: Option<Moment>,
        /// Where: `answer`, `probe` or `state file`.
        source: Option<String>,
    }

    struct Credential {
        /// `valid`, `expired`, `needs login`, `refused`.
        state: String,
        expires_at: Option<Moment>,
    }

    struct Load {
        current: LoadNow,
        last15m: LoadSpan,
        last1h: LoadSpan,
    }

    struct LoadNow {
        in_flight: u64,
        active_weight: u64,
    }

    struct LoadSpan {
        requests: u64,
        failed: u64,
        weight: u64,
        avg_ms: Option<u64>,
    }

    struct Quota {
        unified5h: Option<f64>,
        unified7d: Option<f64>,
        unified5h_raw: Option<f64>,
        unified7d_raw: Option<f64>,
        /// Epoch ms, as all `…Reset` here.
        unified5h_reset: Option<i64>,
        unified7d_reset: Option<i64>,
        unified7d_sonnet: Option<f64>,
        unified7d_sonnet_reset: Option<i64>,
        unified_status: Option<String>,
        tokens_limit: Option<u64>,
        tokens_remaining: Option<u64>,
        requests_limit: Option<u64>,
        requests_remaining: Option<u64>,
        resets_at: Option<Moment>,
        generic_limit: Option<u64>,
        generic_remaining: Option<u64>,
        generic_reset: Option<i64>,
    }

    struct Weekly {
        state: String,
        raw_state: String,
        effective_usage: Option<f64>,
        pace_state: String,
    }

    struct Usage {
        total_input_tokens: u64,
        total_output_tokens: u64,
        total_requests: u64,
        last_used: Option<Moment>,
        /// New.
        total_cache_read_tokens: u64,
        /// New.
        total_cache_write_tokens: u64,
    }

    struct Scheduler {
        mode: String,
        global_in_flight: u64,
        admission_paused: bool,
        safety_max_active_per_account: u64,
        safety_max_global_active: u64,
    }

    /// The shared breaker.
    struct Throttle {
        active: bool,
        until: Option<Moment>,
        reason: Option<String>,
        probe_in_flight: bool,
        /// Failed probes in a row while it is active.
        count: u64,
        last_at: Option<Moment>,
        queued: u64,
        oldest_queued_ms: Option<u64>,
    }

    struct Sessions {
        sticky_bindings: u64,
        thinking_protected: u64,
    }

    struct Queue {
        waiting: u64,
        oldest_ms: Option<u64>,
        bytes: u64,
        /// How many wait for `quota`, `weekly`, `capacity`, `network`.
        by_cause: Map<String, Value>,
        /// When the next account frees, if it is known.
        next_free_at: Option<Moment>,
    }

    /// Since the program started.
    struct TokenTotals {
        input: u64,
        output: u64,
        cache_read: u64,
        cache_write: u64,
    }

    /// A request in flight.
    struct Request {
        id: u64,
        since: Moment,
        age_ms: u64,
        method: String,
        path: String,
        stage: String,
        account: Option<String>,
        model: Option<String>,
        session: Option<String>,
    }

    /// A log line.
    struct Line {
        at: Moment,
        warning: bool,
        text: String,
    }

    /// S12: why this account and no other.
    struct Explanation {
        request: Explained,
        chosen: Option<String>,
        /// By which rule (`preferred`, `home`, `score` …), or what becomes of the request instead.
        why: String,
        /// When it would be served, if it would wait.
        until: Option<Moment>,
        candidates: Vec<Candidate>,
        passed_over: Vec<PassedOver>,
    }

    struct Explained {
        id: Option<u64>,
        at: Option<Moment>,
        profile: Option<String>,
        model: Option<String>,
        session: Option<String>,
    }

    struct Candidate {
        account: String,
        rank: u64,
        tier: String,
        priority: i64,
        score: Option<f64>,
        /// The terms of S6 by name, in the order in which they are added.
        terms: Map<String, Value>,
    }

    struct PassedOver {
        account: String,
        reason: String,
        until: Option<Moment>,
        evidence: Option<Evidence>,
    }
}

impl Status {
    /// Claude accounts in the order of the pool, then providers, so that neither stands between the others.
    pub(crate) fn in_order(&self) -> Vec<&Account> {
        let (providers, claude): (Vec<&Account>, Vec<&Account>) = self
            .accounts
            .iter()
            .partition(|account| account.kind == "provider");
        claude.into_iter().chain(providers).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
