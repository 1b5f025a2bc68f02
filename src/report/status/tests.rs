//! The complete JSON of one representative state, and a round trip through it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::build::{self, AccountFacts, CredentialFacts, Facts};
use super::{Explained, Status};
use crate::config::days::Counts;
use crate::config::masking::Masked;
use crate::event::{Counters, InFlight, RequestMeta, Stage};
use crate::report::{Entry, Level};
use crate::scheduler::quota::{Family, Verdict, WindowKind};
use crate::scheduler::time::{Mono, Now, Wall};
use crate::scheduler::{
    self, AccountId, AccountSnapshot, BlockReason, BlockSnapshot, BreakerSnapshot, Candidate,
    Effect, Evidence, ExplainedVerdict, Explanation, Kind, LiftedBy, Load, PassedOver,
    QueueSnapshot, Routing, Scope, Snapshot, Source, Standing, Terms, Tier, Usage, UsageTotals,
    WaitCause, WeeklySnapshot, Why, WindowSnapshot,
};

/// 2026-11-21T22:45:00.000Z.
const WALL: Wall = Wall(1_795_301_100_000);
const AT: Now = Now { mono: Mono(5_000_000), wall: WALL };

fn window(kind: WindowKind, used: f64, reset: i64) -> WindowSnapshot {
    WindowSnapshot {
        family: None,
        kind,
        used: Some(used.min(1.0)),
        raw: Some(used),
        limit: None,
        remaining: None,
        reset: Some(Wall(WALL.0 + reset)),
        learned_at: WALL,
        source: Source::Answer,
    }
}

fn evidence() -> Arc<Evidence> {
    Arc::new(Evidence {
        status: Some(429),
        request_id: Some("req_011".into()),
        source: "anthropic-ratelimit-unified-5h-status: rejected".into(),
        at: Wall(WALL.0 - 60_000),
        message: "exceeded your account's rate limit".into(),
    })
}

fn work() -> AccountSnapshot {
    AccountSnapshot {
        id: AccountId(1),
        name: "work".into(),
        kind: Kind::Oauth,
        enabled: true,
        leaving: false,
        profiles: vec!["claude".into(), "all".into()],
        priority: 0,
        status: scheduler::Status::Throttled,
        in_flight: 1,
        active_weight: 2,
        completed: 41,
        failed: 1,
        consecutive_failures: 1,
        last_status: Some(429),
        last_response: Some(Duration::from_millis(812)),
        last_15m: Load {
            requests: 4,
            failed: 1,
            weight: 9,
            average: Some(Duration::from_millis(700)),
        },
        last_1h: Load { requests: 40, failed: 1, weight: 90, average: None },
        last_error: Some("exceeded your account's rate limit".into()),
        last_error_at: Some(Wall(WALL.0 - 60_000)),
        cooldown_until: None,
        rate_limited_until: Some(Wall(WALL.0 + 3_600_000)),
        windows: vec![
            window(WindowKind::FiveHour, 1.07, 3_600_000),
            window(WindowKind::SevenDay, 0.62, 86_400_000),
            window(WindowKind::SevenDayFamily(Family("sonnet".into())), 0.3, 86_400_000),
        ],
        unified_status: Some(Verdict::Rejected),
        weekly: WeeklySnapshot {
            state: Some(Tier::Soft),
            raw_state: Some(Tier::Normal),
            pace_state: Some(Tier::Soft),
            effective_usage: Some(0.700_04),
        },
        overage_in_use: false,
        usage: UsageTotals {
            tokens: Usage { input: 1_000, output: 200, cache_read: 30_000, cache_write: 4 },
            requests: 41,
            last_used: Some(WALL),
        },
        blocks: vec![BlockSnapshot {
            reason: BlockReason::Quota(Some(WindowKind::FiveHour)),
            effect: Effect::Out,
            lifted_by: LiftedBy::TimeOrReading,
            scope: Scope::Account,
            until: Some(Wall(WALL.0 + 3_600_000)),
            remaining: Some(Duration::from_secs(3_600)),
            evidence: evidence(),
        }],
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        at: AT,
        switch_threshold: 0.9,
        routing: Routing::Preferred(AccountId(1)),
        current: Some(AccountId(1)),
        accounts: vec![work()],
        in_flight: 1,
        admission_paused: false,
        max_active_per_account: 50,
        max_active_global: 150,
        breaker: BreakerSnapshot {
            family: None,
            active: true,
            until: Some(Wall(WALL.0 + 5_000)),
            reason: Some("Overloaded".into()),
            probe_in_flight: false,
            count: 3,
            last_at: Some(WALL),
        },
        queue: QueueSnapshot {
            waiting: 2,
            oldest: Some(Duration::from_millis(1_500)),
            bytes: 9_000,
            next_release: Some(Duration::from_secs(5)),
            by_cause: vec![(WaitCause::Capacity, 2)],
        },
        sticky_bindings: 7,
        thinking_protected: 2,
        threads: 1,
    }
}

fn decision() -> Explanation {
    Explanation {
        model: None,
        session: None,
        at: WALL,
        request: 17,
        verdict: ExplainedVerdict::Chosen(AccountId(2), Why::Score(1.3)),
        candidates: vec![Candidate {
            account: AccountId(2),
            name: "spare".into(),
            rank: 1,
            tier: None,
            avoided: vec![],
            pass: Default::default(),
            priority: 0,
            score: 0.1 + 0.2,
            terms: Terms {
                load: 1.0,
                five_hour: 0.3,
                week: -0.5,
                spread: 0.0,
                recovery: 0.0,
                failures: 0.0,
            },
        }],
        passed_over: vec![Standing {
            account: AccountId(1),
            name: "work".into(),
            kind: Kind::Oauth,
            reason: PassedOver::Blocked(BlockReason::Quota(Some(WindowKind::FiveHour))),
            wait: Some(Duration::from_secs(3_600)),
            evidence: Some(evidence()),
        }],
        cache: None,
    }
}

fn facts<'a>(counters: &'a Counters, decisions: &'a [Explanation]) -> Facts<'a> {
    Facts {
        version: "2.0.0",
        pid: 41,
        started: Mono(4_000_000),
        address: "http://127.0.0.1:3456".into(),
        config_path: "/home/u/.config/maxpool.json".into(),
        mode: "adaptive-least-loaded".into(),
        accounts: vec![AccountFacts {
            id: AccountId(1),
            provider: "anthropic".into(),
            upstream: "https://api.anthropic.com".into(),
            runtime: false,
            credential: Some(CredentialFacts {
                state: "valid",
                expires_at: Some(Wall(WALL.0 + 7_200_000)),
                refreshed_at: None,
                storage: None,
            }),
        }],
        requests: vec![InFlight {
            id: 9,
            meta: RequestMeta {
                since: Mono(4_998_500),
                at: Wall(WALL.0 - 1_500),
                method: "POST".into(),
                path: "/v1/messages".into(),
                session: Some("ab12".into()),
                model: None,
            },
            stage: Stage::Queued,
            account: None,
        }],
        requests_in_flight: 3,
        today: Counts { input_tokens: 5, ..Counts::default() },
        sessions: vec![scheduler::KnownSession {
            session: scheduler::SessionKey(0xab12cd),
            home: Some(AccountId(1)),
            current: None,
            idle: Duration::from_secs(3),
            thinking: true,
        }],
        activity: vec![(
            7,
            Entry { at: WALL, level: Level::Warning, text: Masked::text("failover"), brief: None },
        )],
        counters,
        decisions,
        general: decisions.first(),
    }
}

#[test]
fn the_status_has_the_names_and_the_nesting_that_scripts_know() {
    let counters = Counters::default();
    let decisions = [decision()];
    let status = build::status(&snapshot(), &facts(&counters, &decisions));
    let mut shown = serde_json::to_value(&status).unwrap();
    let explained = json!({
        "request": {"id": 17, "at": "2026-11-21T22:45:00.000Z", "profile": null, "model": null, "session": null},
        "chosen": "spare",
        "why": "score",
        "until": null,
        "candidates": [{
            "account": "spare", "rank": 1, "tier": "unknown", "priority": 0, "score": 0.3,
            "terms": {"load": 1.0, "fiveHour": 0.3, "week": -0.5, "spread": 0.0, "recovery": 0.0, "failures": 0.0},
            "notes": [],
        }],
        "passedOver": [{
            "account": "work",
            "reason": "five-hour limit reached",
            "until": "2026-11-21T23:45:00.000Z",
            "liftedBy": "its end, a usage reading that shows room, or one request every six hours",
            "evidence": {
                "status": 429, "requestId": "req_011", "source": "anthropic-ratelimit-unified-5h-status: rejected",
                "at": "2026-11-21T22:44:00.000Z", "message": "exceeded your account's rate limit",
            },
        }],
    });
    assert_eq!(shown["decisions"], json!([explained]));
    shown["decisions"] = Value::Null;
    assert_eq!(shown, expected());
}

fn expected() -> Value {
    json!({
        "currentAccount": "work",
        "switchThreshold": 0.9,
        "routing": {"mode": "preferred", "preferredAccount": "work"},
        "accounts": [expected_account()],
        "scheduler": {
            "mode": "adaptive-least-loaded", "globalInFlight": 1, "admissionPaused": false,
            "safetyMaxActivePerAccount": 50, "safetyMaxGlobalActive": 150,
        },
        "upstreamThrottle": {
            "active": true, "until": "2026-11-21T22:45:05.000Z", "reason": "Overloaded", "probeInFlight": false,
            "count": 3, "lastAt": "2026-11-21T22:45:00.000Z", "queued": 2, "oldestQueuedMs": 1500,
        },
        "sessions": {
            "stickyBindings": 7, "thinkingProtected": 2,
            "list": [{
                "id": "ab12cd", "account": null, "home": "work", "idleMs": 3000, "thinking": true,
            }],
        },
        "version": "2.0.0",
        "pid": 41,
        "now": "2026-11-21T22:45:00.000Z",
        "uptimeMs": 1_000_000,
        "address": "http://127.0.0.1:3456",
        "configPath": "/home/u/.config/maxpool.json",
        "draining": false,
        "queue": {
            "waiting": 2, "oldestMs": 1500, "bytes": 9000, "byCause": {"capacity": 2},
            "nextFreeAt": "2026-11-21T22:45:05.000Z",
        },
        "tokens": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "today": {"input": 5, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "requests": [{
            "id": 9, "since": "2026-11-21T22:44:58.500Z", "ageMs": 1500, "method": "POST", "path": "/v1/messages",
            "stage": "queued", "account": null, "model": null, "session": "ab12",
        }],
        "requestsInFlight": 3,
        "decisions": null,
        "activity": [{
            "number": 7, "at": "2026-11-21T22:45:00.000Z", "warning": true, "text": "failover",
            "request": null,
        }],
        "eventsDropped": 0,
        "blamelessRefusals": 0,
    })
}

fn block_json() -> Value {
    json!([{
        "reason": "quota", "window": "five_hour", "text": "five-hour limit reached",
        "until": "2026-11-21T23:45:00.000Z", "family": null, "routeClass": null, "effect": "out",
        "liftedBy": "its end, a usage reading that shows room, or one request every six hours",
        "evidence": {
            "status": 429, "requestId": "req_011", "source": "anthropic-ratelimit-unified-5h-status: rejected",
            "at": "2026-11-21T22:44:00.000Z", "message": "exceeded your account's rate limit",
        },
    }])
}

fn expected_account() -> Value {
    let mut account = json!({
        "name": "work",
        "type": "oauth",
        "provider": "anthropic",
        "enabled": true,
        "upstream": "https://api.anthropic.com",
        "profiles": ["claude", "all"],
        "priority": 0,
        "runtime": false,
        "status": "throttled",
        "inFlight": 1,
        "activeWeight": 2,
        "completedRequests": 41,
        "failedRequests": 1,
        "consecutiveFailures": 1,
        "lastStatus": 429,
        "lastResponseMs": 812,
        "load": {
            "current": {"inFlight": 1, "activeWeight": 2},
            "last15m": {"requests": 4, "failed": 1, "weight": 9, "avgMs": 700},
            "last1h": {"requests": 40, "failed": 1, "weight": 90, "avgMs": null},
        },
        "lastError": "exceeded your account's rate limit",
        "lastErrorAt": "2026-11-21T22:44:00.000Z",
        "cooldownUntil": null,
        "rateLimitedUntil": "2026-11-21T23:45:00.000Z",
        "quota": {
            "unified5h": 1.0, "unified7d": 0.62, "unified5hRaw": 1.07, "unified7dRaw": 0.62,
            "unified5hReset": WALL.0 + 3_600_000, "unified7dReset": WALL.0 + 86_400_000,
            "unified7dSonnet": 0.3, "unified7dSonnetReset": WALL.0 + 86_400_000,
            "unifiedStatus": "rejected",
            "tokensLimit": null, "tokensRemaining": null, "requestsLimit": null, "requestsRemaining": null,
            "resetsAt": null, "genericLimit": null, "genericRemaining": null, "genericReset": null,
        },
        "weekly": {"state": "soft", "rawState": "normal", "effectiveUsage": 0.7, "paceState": "soft"},
        "usage": {
            "totalInputTokens": 1000, "totalOutputTokens": 200, "totalRequests": 41,
            "lastUsed": "2026-11-21T22:45:00.000Z",
            "totalCacheReadTokens": 30000, "totalCacheWriteTokens": 4,
        },
        "unavailable": {"reason": "five-hour limit reached", "short": "limited", "until": "2026-11-21T23:45:00.000Z"},
        "overageInUse": false,
        "leaving": false,
        "blocks": block_json(),
        "windows": [
            {"window": "five_hour", "family": null, "used": 1.0, "reset": "2026-11-21T23:45:00.000Z", "limit": null,
             "remaining": null, "learnedAt": "2026-11-21T22:45:00.000Z", "source": "answer"},
            {"window": "seven_day", "family": null, "used": 0.62, "reset": "2026-11-22T22:45:00.000Z", "limit": null,
             "remaining": null, "learnedAt": "2026-11-21T22:45:00.000Z", "source": "answer"},
            {"window": "seven_day_sonnet", "family": null, "used": 0.3, "reset": "2026-11-22T22:45:00.000Z", "limit": null,
             "remaining": null, "learnedAt": "2026-11-21T22:45:00.000Z", "source": "answer"},
        ],
        "credential": {"state": "valid", "expiresAt": "2026-11-22T00:45:00.000Z",
            "refreshedAt": null, "storage": null},
    });
    // The macro cannot nest one level deeper.
    account["avoided"] = json!([]);
    account
}

#[test]
fn what_is_written_is_read_again() {
    let counters = Counters::default();
    let decisions = [decision()];
    let status = build::status(&snapshot(), &facts(&counters, &decisions));
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
}

#[test]
fn the_status_of_an_older_server_reads_with_defaults() {
    let status: Status =
        serde_json::from_str(r#"{"accounts":[{"name":"a","type":"oauth"}],"future":1}"#).unwrap();
    assert_eq!(status.accounts[0].name, "a");
    assert_eq!(status.version, "");
    assert!(serde_json::from_str::<Status>(r#"{"now":"yesterday"}"#).is_err());
}

#[test]
fn an_explanation_carries_what_was_asked() {
    let asked = Explained {
        model: Some("claude-opus-4-5".into()),
        profile: Some("claude".into()),
        ..Explained::default()
    };
    let waits = Explanation {
        verdict: ExplainedVerdict::Wait(WaitCause::Quota, Some(Duration::from_secs(60))),
        candidates: vec![],
        passed_over: vec![],
        cache: None,
        ..decision()
    };
    let shown = serde_json::to_value(build::explanation(&waits, Some(asked))).unwrap();
    assert_eq!(
        shown,
        json!({
            "request": {"id": null, "at": "2026-11-21T22:45:00.000Z", "profile": "claude", "model": "claude-opus-4-5",
                        "session": null},
            "chosen": null, "why": "waits: quota", "until": "2026-11-21T22:46:00.000Z",
            "candidates": [], "passedOver": [],
        })
    );
}

#[test]
fn a_candidate_that_was_refused_is_marked_once_it_may_be_tried_again() {
    let notes = |scope, reason| {
        let mut pool = snapshot();
        let account = pool.accounts.iter_mut().find(|account| &*account.name == "work").unwrap();
        account.name = "spare".into();
        account.blocks[0].scope = scope;
        account.blocks[0].reason = reason;
        let mut shown = build::explanation(&decision(), None);
        let before = shown.candidates[0].notes.len();
        assert_eq!(shown.candidates[0].account, "spare");
        build::mark_refused(&mut shown, &pool);
        shown.candidates[0].notes.split_off(before)
    };
    let refused = || BlockReason::CredentialRefused;
    assert_eq!(notes(Scope::Account, refused()), [super::REFUSED_BEFORE]);
    assert_eq!(notes(Scope::Account, BlockReason::Unusable), [super::REFUSED_BEFORE]);
    assert!(notes(Scope::Class(scheduler::RouteClass::Models), refused()).is_empty());
    assert!(notes(Scope::Account, BlockReason::Network).is_empty());
}
