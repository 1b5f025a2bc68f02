//! Builds the status from the scheduler's snapshot and the server's facts: a pure function.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Account, Block, Candidate, Credential, Evidence, Explained, Explanation, FinishedRequest, Line,
    Load, LoadNow, LoadSpan, Moment, PassedOver, Queue, Quota, Request, Routing, Scheduler,
    Session, Sessions, Status, Throttle, TokenTotals, Unavailable, Usage, Weekly, Window,
};
use crate::config::days::Counts;
use crate::config::masking::Masked;
use crate::event::{Counters, InFlight, labels};
use crate::http::peek::session_tag;
use crate::report::mask::mask;
use crate::report::{Brief, Entry, Level};
use crate::scheduler::quota::WindowKind;
use crate::scheduler::time::{Mono, Wall};
use crate::scheduler::{
    self, AccountId, AccountSnapshot, BlockReason, BlockSnapshot, KnownSession, Snapshot,
    WindowSnapshot,
};

/// Facts that the snapshot does not have.
pub(crate) struct Facts<'a> {
    /// The running program's version.
    pub(crate) version: &'static str,
    /// The serving process.
    pub(crate) pid: u32,
    /// When it started.
    pub(crate) started: Mono,
    /// `http://127.0.0.1:3456`.
    pub(crate) address: String,
    /// The config file.
    pub(crate) config_path: String,
    /// `scheduler.mode`, a label.
    pub(crate) mode: String,
    /// One for each account, in any order.
    pub(crate) accounts: Vec<AccountFacts>,
    /// Requests in flight, oldest first, as many as are shown.
    pub(crate) requests: Vec<InFlight>,
    /// The total number of requests in flight.
    pub(crate) requests_in_flight: usize,
    /// Usage of all accounts since midnight, local time.
    pub(crate) today: Counts,
    /// The most recently used sessions, latest first.
    pub(crate) sessions: Vec<KnownSession>,
    /// The last log lines with their numbers, oldest first.
    pub(crate) activity: Vec<(u64, Entry)>,
    /// The counters.
    pub(crate) counters: &'a Counters,
    /// The last decisions, oldest first.
    pub(crate) decisions: &'a [scheduler::Explanation],
    /// The scheduler's explanation for a plain request with profile `all`, so that it is the router
    /// itself that says which accounts could serve.
    pub(crate) general: Option<&'a scheduler::Explanation>,
}

/// Facts about one account that the snapshot does not have.
pub(crate) struct AccountFacts {
    /// Which.
    pub(crate) id: AccountId,
    /// `anthropic`, `zai`, `kimi` or the config's own word.
    pub(crate) provider: Arc<str>,
    /// Where its requests go.
    pub(crate) upstream: Arc<str>,
    /// Created from request headers (V1).
    pub(crate) runtime: bool,
    /// Facts about its credential.
    pub(crate) credential: Option<CredentialFacts>,
}

/// Facts about a credential; never the credential itself.
pub(crate) struct CredentialFacts {
    /// `valid`, `expired`, `needs login`, `refused`.
    pub(crate) state: &'static str,
    /// Expiry of the access token.
    pub(crate) expires_at: Option<Wall>,
    /// Time of the last refresh.
    pub(crate) refreshed_at: Option<Wall>,
    /// Where the tokens are if not in the config, and why.
    pub(crate) storage: Option<String>,
}

/// Builds the current status.
pub(crate) fn status(snapshot: &Snapshot, facts: &Facts<'_>) -> Status {
    let name_of = |id: AccountId| {
        let found = snapshot.accounts.iter().find(|account| account.id == id);
        found.map(|account| account.name.to_string())
    };
    let tokens = facts.counters.tokens();
    Status {
        current_account: snapshot.current.and_then(name_of),
        switch_threshold: snapshot.switch_threshold,
        routing: routing_of(snapshot.routing, &name_of),
        accounts: snapshot
            .accounts
            .iter()
            .map(|account| account_of(account, snapshot, facts))
            .collect(),
        scheduler: Scheduler {
            mode: facts.mode.clone(),
            global_in_flight: snapshot.in_flight.into(),
            admission_paused: snapshot.admission_paused,
            safety_max_active_per_account: snapshot.max_active_per_account.into(),
            safety_max_global_active: snapshot.max_active_global.into(),
        },
        upstream_throttle: throttle_of(snapshot),
        sessions: sessions_of(snapshot, facts, &name_of),
        version: facts.version.into(),
        pid: facts.pid,
        now: Moment(snapshot.at.wall),
        uptime_ms: ms(snapshot.at.mono.since(facts.started)),
        address: facts.address.clone(),
        config_path: facts.config_path.clone(),
        draining: snapshot.admission_paused,
        queue: queue_of(snapshot),
        tokens: TokenTotals {
            input: tokens.input,
            output: tokens.output,
            cache_read: tokens.cache_read,
            cache_write: tokens.cache_write,
        },
        today: Some(TokenTotals {
            input: facts.today.input_tokens,
            output: facts.today.output_tokens,
            cache_read: facts.today.cache_read_tokens,
            cache_write: facts.today.cache_write_tokens,
        }),
        requests: facts
            .requests
            .iter()
            .map(|request| request_of(request, snapshot.at.mono))
            .collect(),
        requests_in_flight: facts.requests_in_flight,
        decisions: facts.decisions.iter().map(|decision| explanation(decision, None)).collect(),
        activity: facts.activity.iter().map(line_of).collect(),
        events_dropped: facts.counters.dropped(),
        blameless_refusals: facts.counters.blameless(),
    }
}

fn sessions_of(
    snapshot: &Snapshot,
    facts: &Facts<'_>,
    name_of: &dyn Fn(AccountId) -> Option<String>,
) -> Sessions {
    let list = facts.sessions.iter().map(|known| Session {
        id: session_tag(known.session.0),
        account: known.current.and_then(name_of),
        home: known.home.and_then(name_of),
        idle_ms: ms(known.idle),
        thinking: known.thinking,
    });
    Sessions {
        sticky_bindings: count(snapshot.sticky_bindings),
        thinking_protected: count(snapshot.thinking_protected),
        list: list.collect(),
    }
}

fn routing_of(
    routing: scheduler::Routing,
    name_of: &dyn Fn(AccountId) -> Option<String>,
) -> Routing {
    match routing {
        scheduler::Routing::Automatic => {
            Routing { mode: "automatic".into(), preferred_account: None }
        }
        scheduler::Routing::Preferred(id) => {
            Routing { mode: "preferred".into(), preferred_account: name_of(id) }
        }
    }
}

/// One explanation (S12). `supposed` holds model, session and profile of a hypothetical request,
/// which has no number.
pub(crate) fn explanation(of: &scheduler::Explanation, supposed: Option<Explained>) -> Explanation {
    let id = supposed.is_none().then_some(of.request);
    let asked = supposed.unwrap_or_else(|| Explained {
        model: of.model.as_deref().map(Into::into),
        session: of.session.map(|key| session_tag(key.0)),
        ..Explained::default()
    });
    let (chosen, wait) = match &of.verdict {
        scheduler::ExplainedVerdict::Chosen(id, _) => (Some(*id), None),
        scheduler::ExplainedVerdict::Wait(_, wait) => (None, *wait),
        scheduler::ExplainedVerdict::Refuse(_) => (None, None),
    };
    let chosen = chosen.map(|id| {
        let found = of.candidates.iter().find(|candidate| candidate.account == id);
        found.map_or_else(|| format!("account {}", id.0), |candidate| candidate.name.to_string())
    });
    Explanation {
        request: Explained { id, at: Some(Moment(of.at)), ..asked },
        chosen,
        why: labels::explained(&of.verdict).into(),
        until: wait.map(|wait| Moment(of.at + wait)),
        candidates: of.candidates.iter().map(|candidate| candidate_of(candidate, of)).collect(),
        passed_over: of
            .passed_over
            .iter()
            .map(|standing| passed_over_of(standing, of.at))
            .collect(),
    }
}

fn candidate_of(candidate: &scheduler::Candidate, of: &scheduler::Explanation) -> Candidate {
    let terms = candidate.terms;
    let named = [
        ("load", terms.load),
        ("fiveHour", terms.five_hour),
        ("week", terms.week),
        ("spread", terms.spread),
        ("recovery", terms.recovery),
        ("failures", terms.failures),
    ];
    Candidate {
        account: candidate.name.to_string(),
        rank: count(candidate.rank),
        tier: labels::tier(candidate.tier).into(),
        priority: candidate.priority,
        score: Some(rounded(candidate.score)),
        terms: named
            .into_iter()
            .map(|(name, value)| (name.into(), Value::from(rounded(value))))
            .collect(),
        notes: notes_of(candidate, of),
    }
}

/// Other criteria, in words; they take precedence over the score.
fn notes_of(candidate: &scheduler::Candidate, of: &scheduler::Explanation) -> Vec<String> {
    let mut notes: Vec<String> = candidate.avoided.iter().map(labels::avoided).collect();
    if let Some(cache) = &of.cache {
        let chosen = match of.verdict {
            scheduler::ExplainedVerdict::Chosen(id, _) => id == candidate.account,
            scheduler::ExplainedVerdict::Wait(..) | scheduler::ExplainedVerdict::Refuse(_) => false,
        };
        match (cache.account == candidate.account, chosen) {
            (true, true) => notes.push("kept where its cache is".into()),
            (true, false) => notes.push("has its cache".into()),
            (false, _) => {
                let thousands = cache.tokens.div_ceil(1_000);
                notes.push(format!("would cost {thousands}k tokens of cache"));
            }
        }
    }
    notes
}

/// Marks the candidates whose rest after a refusal is over: the next request tests whether the
/// refusal still holds, and moves on if it does (T2).
pub(crate) fn mark_refused(explanation: &mut Explanation, snapshot: &Snapshot) {
    let is_refused = |name: &str| {
        let account = snapshot.accounts.iter().find(|account| *account.name == *name);
        account.is_some_and(|account| {
            let refusals = [BlockReason::CredentialRefused, BlockReason::Unusable];
            let mut blocks = account.blocks.iter();
            blocks.any(|it| it.scope.is_for_all_messages() && refusals.contains(&it.reason))
        })
    };
    for candidate in &mut explanation.candidates {
        if is_refused(&candidate.account) {
            candidate.notes.push(super::REFUSED_BEFORE.into());
        }
    }
}

fn passed_over_of(standing: &scheduler::Standing, at: Wall) -> PassedOver {
    PassedOver {
        account: standing.name.to_string(),
        reason: labels::passed_over(&standing.reason),
        until: standing.wait.map(|wait| Moment(at + wait)),
        lifted_by: match &standing.reason {
            scheduler::PassedOver::Blocked(reason) => {
                Some(labels::lifted_by(reason.lifted_by()).into())
            }
            _ => None,
        },
        evidence: standing.evidence.as_deref().and_then(evidence_of),
    }
}

fn account_of(account: &AccountSnapshot, snapshot: &Snapshot, facts: &Facts<'_>) -> Account {
    let known = facts.accounts.iter().find(|known| known.id == account.id);
    let in_flight = u64::from(account.in_flight);
    Account {
        name: account.name.to_string(),
        kind: labels::kind(account.kind).into(),
        provider: known.map(|known| known.provider.to_string()).unwrap_or_default(),
        enabled: account.enabled,
        upstream: known.map(|known| known.upstream.to_string()).unwrap_or_default(),
        profiles: account.profiles.iter().map(ToString::to_string).collect(),
        priority: account.priority,
        runtime: known.is_some_and(|known| known.runtime),
        status: labels::status(account.status).into(),
        in_flight,
        active_weight: account.active_weight,
        completed_requests: account.completed,
        failed_requests: account.failed,
        consecutive_failures: account.consecutive_failures.into(),
        last_status: account.last_status,
        last_response_ms: account.last_response.map(ms),
        load: Load {
            current: LoadNow { in_flight, active_weight: account.active_weight },
            last15m: span_of(&account.last_15m),
            last1h: span_of(&account.last_1h),
        },
        last_error: account.last_error.as_deref().map(|text| mask(text).into_owned()),
        last_error_at: account.last_error_at.map(Moment),
        cooldown_until: account.cooldown_until.map(Moment),
        rate_limited_until: account.rate_limited_until.map(Moment),
        quota: quota_of(account),
        weekly: Weekly {
            state: labels::tier(account.weekly.state).into(),
            raw_state: labels::tier(account.weekly.raw_state).into(),
            effective_usage: account.weekly.effective_usage.map(rounded),
            pace_state: labels::tier(account.weekly.pace_state).into(),
        },
        usage: Usage {
            total_input_tokens: account.usage.tokens.input,
            total_output_tokens: account.usage.tokens.output,
            total_requests: account.usage.requests,
            last_used: account.usage.last_used.map(Moment),
            total_cache_read_tokens: account.usage.tokens.cache_read,
            total_cache_write_tokens: account.usage.tokens.cache_write,
        },
        unavailable: unavailable_of(account, snapshot, facts),
        avoided: avoided_of(account, facts),
        overage_in_use: account.overage_in_use,
        leaving: account.leaving,
        blocks: account.blocks.iter().map(block_of).collect(),
        windows: account.windows.iter().map(window_of).collect(),
        credential: known.and_then(|known| known.credential.as_ref()).map(|credential| {
            // For a key, only a block tells that the API refuses it.
            let is_refused = |block: &BlockSnapshot| block.reason == BlockReason::CredentialRefused;
            let state = match credential.state {
                "valid" if account.blocks.iter().any(is_refused) => "refused",
                state => state,
            };
            Credential {
                state: state.into(),
                expires_at: credential.expires_at.map(Moment),
                refreshed_at: credential.refreshed_at.map(Moment),
                storage: credential.storage.as_deref().map(|text| mask(text).into_owned()),
            }
        }),
    }
}

/// Uses the router's own result, so that the status shows what the router does.
fn unavailable_of(
    account: &AccountSnapshot,
    snapshot: &Snapshot,
    facts: &Facts<'_>,
) -> Option<Unavailable> {
    let mut standings = facts.general?.passed_over.iter();
    let standing = standings.find(|standing| standing.account == account.id)?;
    if standing.reason == scheduler::PassedOver::OtherProfile {
        // The general request has profile `all`; an account outside it may still serve its own
        // profile.
        return None;
    }
    Some(Unavailable {
        reason: labels::passed_over(&standing.reason),
        short: labels::passed_over_short(&standing.reason),
        until: standing.wait.map(|wait| Moment(snapshot.at.wall + wait)),
    })
}

fn avoided_of(account: &AccountSnapshot, facts: &Facts<'_>) -> Vec<String> {
    let mut candidates = facts.general.iter().flat_map(|general| &general.candidates);
    let own = candidates.find(|candidate| candidate.account == account.id);
    own.map_or_else(Vec::new, |own| own.avoided.iter().map(labels::avoided).collect())
}

fn quota_of(account: &AccountSnapshot) -> Quota {
    let find = |wanted: &dyn Fn(&WindowKind) -> bool| {
        account.windows.iter().find(|window| wanted(&window.kind))
    };
    let five_hour = find(&|kind| *kind == WindowKind::FiveHour);
    let seven_day = find(&|kind| *kind == WindowKind::SevenDay);
    let sonnet =
        find(&|kind| matches!(kind, WindowKind::SevenDayFamily(family) if &*family.0 == "sonnet"));
    let tokens = find(&|kind| *kind == WindowKind::Tokens);
    let requests = find(&|kind| *kind == WindowKind::Requests);
    let generic = find(&|kind| *kind == WindowKind::Generic);
    let reset_ms =
        |window: Option<&WindowSnapshot>| window.and_then(|window| window.reset).map(|at| at.0);
    Quota {
        unified5h: five_hour.and_then(|window| window.used),
        unified7d: seven_day.and_then(|window| window.used),
        unified5h_raw: five_hour.and_then(|window| window.raw),
        unified7d_raw: seven_day.and_then(|window| window.raw),
        unified5h_reset: reset_ms(five_hour),
        unified7d_reset: reset_ms(seven_day),
        unified7d_sonnet: sonnet.and_then(|window| window.used),
        unified7d_sonnet_reset: reset_ms(sonnet),
        unified_status: account.unified_status.map(|verdict| labels::verdict(verdict).into()),
        tokens_limit: tokens.and_then(|window| window.limit),
        tokens_remaining: tokens.and_then(|window| window.remaining),
        requests_limit: requests.and_then(|window| window.limit),
        requests_remaining: requests.and_then(|window| window.remaining),
        resets_at: tokens
            .and_then(|window| window.reset)
            .or(requests.and_then(|window| window.reset))
            .map(Moment),
        generic_limit: generic.and_then(|window| window.limit),
        generic_remaining: generic.and_then(|window| window.remaining),
        generic_reset: reset_ms(generic),
    }
}

fn window_of(window: &WindowSnapshot) -> Window {
    Window {
        window: labels::window(&window.kind),
        family: window.family.as_ref().map(|family| family.0.to_string()),
        used: window.used,
        reset: window.reset.map(Moment),
        limit: window.limit,
        remaining: window.remaining,
        learned_at: Some(Moment(window.learned_at)),
        source: Some(labels::source(window.source).into()),
    }
}

fn block_of(block: &BlockSnapshot) -> Block {
    Block {
        reason: labels::block_reason(&block.reason).into(),
        window: labels::block_window(&block.reason),
        text: labels::block_phrase(&block.reason),
        until: block.until.map(Moment),
        family: labels::scope(&block.scope).map(Into::into),
        route_class: labels::block_class(&block.scope).map(Into::into),
        effect: labels::effect(block.effect).into(),
        lifted_by: labels::lifted_by(block.lifted_by).into(),
        evidence: evidence_of(&block.evidence),
    }
}

/// `None` if no answer said anything.
fn evidence_of(evidence: &scheduler::Evidence) -> Option<Evidence> {
    if *evidence == scheduler::Evidence::default() {
        return None;
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(Evidence {
        status: evidence.status,
        request_id: evidence.request_id.as_deref().map(Into::into),
        source: some(&mask(&evidence.source)),
        at: Some(Moment(evidence.at)),
        message: some(&mask(&evidence.message)),
    })
}

fn throttle_of(snapshot: &Snapshot) -> Throttle {
    let breaker = &snapshot.breaker;
    Throttle {
        active: breaker.active,
        until: breaker.until.map(Moment),
        reason: breaker.reason.as_deref().map(|text| mask(text).into_owned()),
        probe_in_flight: breaker.probe_in_flight,
        count: breaker.count,
        last_at: breaker.last_at.map(Moment),
        queued: count(snapshot.queue.waiting),
        oldest_queued_ms: snapshot.queue.oldest.map(ms),
    }
}

fn queue_of(snapshot: &Snapshot) -> Queue {
    let queue = &snapshot.queue;
    let by_cause: Map<String, Value> = queue
        .by_cause
        .iter()
        .map(|(cause, waiting)| (labels::wait_cause(*cause).to_owned(), Value::from(*waiting)))
        .collect();
    Queue {
        waiting: count(queue.waiting),
        oldest_ms: queue.oldest.map(ms),
        bytes: queue.bytes,
        by_cause,
        next_free_at: queue.next_release.map(|wait| Moment(snapshot.at.wall + wait)),
    }
}

fn span_of(load: &scheduler::Load) -> LoadSpan {
    LoadSpan {
        requests: load.requests,
        failed: load.failed,
        weight: load.weight,
        avg_ms: load.average.map(ms),
    }
}

fn request_of(request: &InFlight, now: Mono) -> Request {
    Request {
        id: request.id,
        since: Moment(request.meta.at),
        age_ms: ms(now.since(request.meta.since)),
        method: request.meta.method.to_string(),
        path: request.meta.path.to_string(),
        stage: request.stage.word().into(),
        account: request.account.as_deref().map(Into::into),
        model: request.meta.model.as_deref().map(Into::into),
        session: request.meta.session.as_deref().map(Into::into),
    }
}

pub(crate) fn line_of((number, entry): &(u64, Entry)) -> Line {
    Line {
        number: *number,
        at: Moment(entry.at),
        warning: entry.level == Level::Warning,
        text: entry.text.to_string(),
        request: entry.brief.as_ref().map(finished_of),
    }
}

/// The log line that [`line_of`] has described to another process.
pub(crate) fn entry_of(line: Line) -> Entry {
    Entry {
        at: line.at.0,
        level: if line.warning { Level::Warning } else { Level::Info },
        text: Masked::text(&line.text),
        brief: line.request.map(brief_of),
    }
}

fn brief_of(request: FinishedRequest) -> Brief {
    Brief {
        method: request.method.into(),
        path: request.path.into(),
        account: request.account.map(Into::into),
        model: request.model.map(Into::into),
        status: request.status,
        total: Duration::from_millis(request.total_ms),
        tokens: request.input_tokens.zip(request.output_tokens),
        cause: request.cause,
    }
}

fn finished_of(brief: &Brief) -> FinishedRequest {
    FinishedRequest {
        method: brief.method.to_string(),
        path: mask(&brief.path).into_owned(),
        account: brief.account.as_deref().map(Into::into),
        model: brief.model.as_deref().map(|text| mask(text).into_owned()),
        status: brief.status,
        total_ms: ms(brief.total),
        input_tokens: brief.tokens.map(|(input, _)| input),
        output_tokens: brief.tokens.map(|(_, output)| output),
        cause: brief.cause.as_deref().map(|text| mask(text).into_owned()),
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Four decimals are enough for people, and 0.1 + 0.2 is not 0.3.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}
