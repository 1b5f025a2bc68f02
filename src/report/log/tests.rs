//! The exact text of every log line.

use super::*;
use crate::event::{Stage, StartedAccount};
use crate::scheduler::quota::{Family, WindowKind};
use crate::scheduler::{
    BlockReason, BlockSnapshot, Effect, Kind, LiftedBy, Scope, Usage, WaitCause,
};

/// 2026-11-21T22:45:00.123Z.
const AT: Wall = Wall(1_795_301_100_123);

fn lines(event: Event) -> String {
    let mut text = String::new();
    let stamped = Stamped { at: AT, event };
    entries(&stamped, &mut |entry| push_line(&mut text, &entry));
    text
}

fn finished() -> Finished {
    Finished {
        method: "POST".into(),
        path: "/v1/messages".into(),
        account: Some(("work".into(), Kind::Oauth)),
        status: Some(200),
        outcome: Outcome::Ok,
        cause: None,
        queued: Duration::ZERO,
        first_byte: Some(Duration::from_millis(812)),
        total: Duration::from_millis(5_321),
        tokens: Some(Usage { input: 1_200, output: 340, cache_read: 9_000, cache_write: 17 }),
        session: Some("ab12cd34".into()),
        model: Some("claude-opus-4-5".into()),
        attempts: 1,
    }
}

fn evidence() -> Arc<Evidence> {
    Arc::new(Evidence {
        status: Some(429),
        request_id: Some("req_011".into()),
        source: "anthropic-ratelimit-unified-5h-reset: 1795316400".into(),
        at: AT,
        message: "This request would exceed your account's rate limit.".into(),
    })
}

#[test]
fn a_request_is_one_line() {
    let rows = [
        (
            finished(),
            "POST /v1/messages work 200 queue=0ms first=812ms total=5321ms in=1200 out=340 \
             cache_read=9000 cache_write=17 model=claude-opus-4-5 attempts=1 session=ab12cd34",
        ),
        (
            Finished {
                path: "/v1/messages/\u{1b}[31mx\n".into(),
                account: Some(("my \"big\" account".into(), Kind::Provider)),
                status: Some(529),
                outcome: Outcome::PassedOn,
                cause: Some("overloaded_error: Overloaded\r\nX".into()),
                queued: Duration::from_millis(30_001),
                attempts: 3,
                tokens: None,
                ..finished()
            },
            "POST /v1/messages/\\u{1b}[31mx\\n \"my \\\"big\\\" account\" 529 \
             cause=\"overloaded_error: Overloaded\\\\r\\\\nX\" queue=30001ms first=812ms total=5321ms \
             model=claude-opus-4-5 attempts=3 session=ab12cd34",
        ),
        (
            Finished {
                account: None,
                status: None,
                outcome: Outcome::ClientGone { stage: Stage::Queued, output_started: false },
                cause: Some("the client left while queued".into()),
                queued: Duration::from_secs(750),
                total: Duration::from_secs(750),
                first_byte: None,
                tokens: None,
                model: None,
                session: None,
                attempts: 0,
                ..finished()
            },
            "POST /v1/messages - - cause=\"client left while queued after 12m 30s, no output yet\" \
             queue=750000ms first=- total=750000ms attempts=0",
        ),
    ];
    for (finished, text) in rows {
        let line = lines(Event::Finished(Box::new(finished)));
        assert_eq!(line, format!("2026-11-21T22:45:00.123Z {text}\n"));
    }
}

#[test]
fn the_start_says_version_address_config_and_accounts() {
    let account = |name: &str, kind, note: Option<&str>| StartedAccount {
        name: name.into(),
        kind,
        note: note.map(Into::into),
    };
    let text = lines(Event::Started(Started {
        version: "2.0.0",
        address: "http://127.0.0.1:3456".into(),
        config: "/home/u/.config/maxpool.json".into(),
        accounts: vec![
            account("me@example.com", Kind::Oauth, None),
            account("glm", Kind::Provider, Some("disabled")),
        ],
    }));
    assert_eq!(
        text,
        "2026-11-21T22:45:00.123Z maxpool 2.0.0 listens on http://127.0.0.1:3456, config \
         /home/u/.config/maxpool.json, 2 accounts\n\
         2026-11-21T22:45:00.123Z account me@example.com (oauth)\n\
         2026-11-21T22:45:00.123Z account glm (provider, disabled)\n"
    );
}

#[test]
fn events_say_what_until_when_and_because_of_which_answer() {
    let work: Arc<str> = "work".into();
    let session: Option<Arc<str>> = Some("ab12".into());
    let answer = "[status 429; request-id req_011; anthropic-ratelimit-unified-5h-reset: 1795316400; \
                    \"This request would exceed your account's rate limit.\"]";
    let rows = [
        (
            Event::AccountBlocked(AccountBlocked {
                account: work.clone(),
                block: BlockSnapshot {
                    reason: BlockReason::Quota(Some(WindowKind::FiveHour)),
effect: Effect::Out,
lifted_by: LiftedBy::TimeOrReading,
                    scope: Scope::Account,
                    until: Some(Wall(AT.0 + 15_120_000)),
                    remaining: None,
                    evidence: evidence(),
                },
            }),
            format!(
                "account work is out, five-hour limit reached, until 2026-11-22T02:57:00.123Z, in 4h 12m {answer}"
            ),
        ),
        (
            Event::AccountBlocked(AccountBlocked {
                account: work.clone(),
                block: BlockSnapshot {
                    reason: BlockReason::Quota(Some(WindowKind::FiveHour)),
                    effect: Effect::Avoided,
                    lifted_by: LiftedBy::TimeOrReading,
                    scope: Scope::Account,
                    until: Some(Wall(AT.0 + 15_120_000)),
                    remaining: None,
                    evidence: evidence(),
                },
            }),
            format!(
                "account work is avoided, five-hour limit reached, until 2026-11-22T02:57:00.123Z, in 4h 12m {answer}"
            ),
        ),
        (
            Event::AccountBlocked(AccountBlocked {
                account: work.clone(),
                block: BlockSnapshot {
                    reason: BlockReason::NeedsLogin,
effect: Effect::Out,
lifted_by: LiftedBy::TimeOrReading,
                    scope: Scope::Family(Family("opus".into())),
                    until: None,
                    remaining: None,
                    evidence: Arc::default(),
                },
            }),
            "account work is out for opus, needs login, until its credential changes".into(),
        ),
        (
            Event::AccountBack { account: work.clone(), after: Duration::from_secs(15_120) },
            "account work is back after 4h 12m".into(),
        ),
        (
            Event::Failover(Failover {
                from: work.clone(),
                to: Some("spare".into()),
                why: "rate_limit_error".into(),
                evidence: Some(evidence()),
                session: session.clone(),
            }),
            format!("failover work -> spare: rate_limit_error {answer} session=ab12"),
        ),
        (
            Event::Failover(Failover {
                from: work.clone(),
                to: None,
                why: "529 overloaded_error: Overloaded".into(),
                evidence: Some(Arc::new(Evidence {
                    status: Some(529),
                    source: "body".into(),
                    message: "Overloaded".into(),
                    ..Evidence::default()
                })),
                session: None,
            }),
            "failover work -> the queue: 529 overloaded_error: Overloaded [status 529; body]".into(),
        ),
        (
            Event::Released { session: None, account: work.clone(), waited: Duration::from_millis(1) },
            "held request sent to work after 1ms".into(),
        ),
        (
            Event::Held(Held {
                session: session.clone(),
                cause: WaitCause::Quota,
                until: Some(Wall(AT.0 + 60_000)),
                queued: 2,
            }),
            "request held (quota): an account is expected at 2026-11-21T22:46:00.123Z, in 1m, \
             2 requests waiting session=ab12"
                .into(),
        ),
        (
            Event::Released { session, account: work.clone(), waited: Duration::from_millis(61_000) },
            "held request sent to work after 1m 1s session=ab12".into(),
        ),
        (
            Event::BreakerOpen {
                reason: "overloaded_error Overloaded".into(),
                until: Some(Wall(AT.0 + 30_000)),
                failed_probes: 2,
            },
            "breaker open: overloaded_error Overloaded, next probe at \
             2026-11-21T22:45:30.123Z, in 30s, 2 failed probes in a row"
                .into(),
        ),
        (
            Event::BreakerClosed { after: Duration::from_secs(65), by: "status 200".into() },
            "breaker closed after 1m 5s: status 200".into(),
        ),
        (
            Event::Refresh(Refresh {
                account: work.clone(),
                result: RefreshResult::Rotated,
                old: Some("a1b2c3d4".into()),
                new: Some("e5f60718".into()),
                pid: 41,
            }),
            "token of work refreshed (a1b2c3d4 -> e5f60718, pid 41)".into(),
        ),
        (
            Event::Refresh(Refresh {
                account: work,
                result: RefreshResult::Refused("invalid_grant".into()),
                old: Some("a1b2c3d4".into()),
                new: None,
                pid: 41,
            }),
            "token refresh of work refused, run `maxpool login`: invalid_grant (a1b2c3d4 -> -, pid 41)".into(),
        ),
        (
            Event::Refresh(Refresh {
                account: "work".into(),
                result: RefreshResult::Adopted,
                old: None,
                new: None,
                pid: 1,
            }),
            "token of work read from the config file (- -> -, pid 1)".into(),
        ),
        (
            Event::Refresh(Refresh {
                account: "work".into(),
                result: RefreshResult::Failed("status 500".into()),
                old: None,
                new: None,
                pid: 1,
            }),
            "token refresh of work failed, will be retried: status 500 (- -> -, pid 1)".into(),
        ),
        (
            Event::Refresh(Refresh {
                account: "work".into(),
                result: RefreshResult::NotStored("disk full".into()),
                old: None,
                new: None,
                pid: 1,
            }),
            "token of work refreshed but not stored: disk full (- -> -, pid 1)".into(),
        ),
        (
            Event::Reloaded { added: vec!["a".into(), "b".into()], removed: vec![], changed: vec!["c: priority 0 -> 5".into()] },
            "config reloaded: added a, b; c: priority 0 -> 5".into(),
        ),
        (
            Event::Reloaded {
                added: vec![],
                removed: vec!["x\n".into(); 23],
                changed: vec!["d".into(); 20],
            },
            format!(
                "config reloaded: removed {} and 3 more; {}",
                ["x\\n"; 20].join(", "),
                ["d"; 20].join(", ")
            ),
        ),
        (
            Event::Reloaded { added: vec![], removed: vec![], changed: vec![] },
            "config reloaded: nothing changed".into(),
        ),
        (
            Event::ReloadFailed { why: "maxpool.json:3: proxy.port: expected a number".into() },
            "warning: config not reloaded, the old settings stay in force: maxpool.json:3: \
             proxy.port: expected a number"
                .into(),
        ),
        (
            Event::Reloaded {
                added: vec![],
                removed: vec![],
                changed: vec!["routing changed".into(), "scheduler changed".into()],
            },
            "config reloaded: routing changed, scheduler changed".into(),
        ),
        (
            Event::Stopping { by: "SIGTERM".into(), left: 2, until: Wall(AT.0 + 600_000) },
            "stopping: 2 requests left (SIGTERM), until 2026-11-21T22:55:00.123Z, in 10m".into(),
        ),
        (
            Event::Stopping { by: "SIGINT".into(), left: 0, until: Wall(AT.0 + 600_000) },
            "stopping: 0 requests left (SIGINT)".into(),
        ),
        (Event::Draining { left: 1 }, "stopping: 1 request left".into()),
        (Event::Stopped, "stopped".into()),
        (Event::Notice { text: "key sk-ant-api03-abcdefgh".into() }, "key [masked]".into()),
        (Event::Notice { text: "a\u{7}b".into() }, "a\\u{7}b".into()),
        (Event::Warning { text: "no account".into() }, "warning: no account".into()),
    ];
    for (event, text) in rows {
        assert_eq!(lines(event), format!("2026-11-21T22:45:00.123Z {text}\n"));
    }
}

#[test]
fn a_line_is_bounded() {
    let text = lines(Event::Notice { text: "é".repeat(5_000) });
    assert_eq!(
        text.chars().count(),
        "2026-11-21T22:45:00.123Z ".len() + ENTRY_CHARS_MAX + "…\n".chars().count()
    );
}
