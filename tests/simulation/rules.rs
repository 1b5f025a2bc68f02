//! One test a rule of SPEC S, P and Q, named after it.

use std::sync::Arc;
use std::time::Duration;

use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Wall};
use maxpool::scheduler::{
    AccountId, AccountSpec, Blame, Block, BlockReason, Cancel, CannotPrefer, End, ExplainedVerdict,
    Kind, Limit, Outcome, Overage, PassedOver, Policy, RefusalReason, Request, Routing, Scope,
    SessionKey, Shape, Source, Status, ThreadKey, Tier, Usage, WaitCause, Wake, Why,
};

use super::table::{
    START, Table, evidence, family, ms, oauth, provider, quota_rejected, refused, rejection,
    report, secs, server_error, window,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Both accounts know a quiet week, so that nothing but the test decides.
fn quiet_week(table: &mut Table, ids: &[AccountId]) {
    for id in ids {
        let reset = table.wall_after(6 * DAY);
        table.learn(*id, vec![window(WindowKind::SevenDay, 0.0, Some(reset))]);
    }
}

fn with_session(table: &mut Table, session: u128) -> Request {
    Request {
        session: Some(SessionKey(session)),
        ..table.request()
    }
}

#[test]
fn s1_a_window_past_its_reset_is_forgotten_whoever_asks() {
    let (mut table, ids) = Table::with(1);
    let reset = table.wall_after(secs(10));
    table.learn(
        ids[0],
        vec![window(WindowKind::FiveHour, 1.25, Some(reset))],
    );
    let known = &table.account(ids[0]).windows[0];
    assert_eq!(
        (known.used, known.raw),
        (Some(1.0), Some(1.25)),
        "above 1 counts as 1, status keeps the raw value"
    );
    table.pass(secs(10));
    assert!(table.account(ids[0]).windows.is_empty(), "status");
    assert_eq!(
        table.serve(Request::new(1, table.now.mono)),
        ids[0],
        "admission"
    );
}

#[test]
fn s1_unreadable_values_are_ignored_never_zero() {
    let (mut table, ids) = Table::with(1);
    let reset = Some(table.wall_after(HOUR));
    table.learn(ids[0], vec![window(WindowKind::FiveHour, 0.5, reset)]);
    for nonsense in [f64::NAN, -0.1, f64::INFINITY] {
        table.learn(ids[0], vec![window(WindowKind::FiveHour, nonsense, None)]);
        assert_eq!(
            table.account(ids[0]).windows[0].used,
            Some(0.5),
            "{nonsense}"
        );
    }
    let partial = WindowReading {
        utilisation: None,
        ..window(WindowKind::Tokens, 0.0, None)
    };
    table.learn(ids[0], vec![partial]);
    assert_eq!(table.account(ids[0]).windows.len(), 1);
}

#[test]
fn s2_a_rejection_belongs_to_a_window() {
    let five = || Some(WindowKind::FiveHour);
    let at = |after: u64| Some(START.wall + secs(after));
    let named = |kind, used, reset, verdict| WindowReading {
        verdict,
        ..window(kind, used, reset)
    };
    let rows: Vec<(&str, QuotaReport, Duration)> = vec![
        (
            "the claim's window",
            rejection(five(), at(900), None),
            secs(900),
        ),
        (
            "retry-after of the same answer, if later",
            rejection(five(), at(900), Some(secs(1_000))),
            secs(1_000),
        ),
        (
            "and the window, if that is later",
            rejection(five(), at(900), Some(secs(3))),
            secs(900),
        ),
        (
            "the window whose own status says so",
            QuotaReport {
                windows: vec![
                    named(
                        WindowKind::SevenDay,
                        0.4,
                        at(90_000),
                        Some(Verdict::Allowed),
                    ),
                    named(WindowKind::FiveHour, 0.4, at(700), Some(Verdict::Rejected)),
                ],
                ..rejection(None, None, None)
            },
            secs(700),
        ),
        (
            "else the window at its limit",
            QuotaReport {
                windows: vec![
                    named(WindowKind::SevenDay, 0.4, at(90_000), None),
                    named(WindowKind::FiveHour, 1.0, at(600), None),
                ],
                ..rejection(None, None, None)
            },
            secs(600),
        ),
        (
            "else retry-after",
            rejection(None, None, Some(secs(7))),
            secs(7),
        ),
        ("else 60 s", rejection(None, None, None), secs(60)),
        (
            "a reset that has passed is none",
            rejection(five(), Some(Wall(1)), None),
            secs(60),
        ),
        (
            "retry-after is held to 24 h",
            rejection(None, None, Some(9 * DAY)),
            DAY,
        ),
    ];
    for (rule, quota, expected) in rows {
        let (mut table, ids) = Table::with(1);
        table.fail(ids[0], quota_rejected(quota));
        assert_eq!(table.blocked_for(ids[0]), Some(expected), "S2: {rule}");
        assert_eq!(
            table.account(ids[0]).status,
            Status::Throttled,
            "S2: {rule}"
        );
        table.pass(expected);
        assert_eq!(table.blocked_for(ids[0]), None, "S2: {rule}: never longer");
    }
}

#[test]
fn s2_the_newest_answer_knows_the_reset_best() {
    let (mut table, ids) = Table::with(1);
    let leases: Vec<_> = (0..2)
        .map(|_| {
            let request = table.request();
            table.granted(request).lease
        })
        .collect();
    for (lease, minutes) in leases.into_iter().zip([90, 30]) {
        let reset = Some(table.wall_after(secs(60 * minutes)));
        table.complete(
            lease,
            quota_rejected(rejection(Some(WindowKind::FiveHour), reset, None)),
        );
    }
    assert_eq!(table.blocked_for(ids[0]), Some(secs(1_800)));
}

#[test]
fn s2_a_family_is_blocked_alone() {
    let (mut table, ids) = Table::with(1);
    let opus = WindowKind::SevenDayFamily(family("opus"));
    let reset = Some(table.wall_after(HOUR));
    table.fail(ids[0], quota_rejected(rejection(Some(opus), reset, None)));
    let of = |name: &str, table: &mut Table| Request {
        family: Some(family(name)),
        ..table.request()
    };
    let refusal = {
        let request = of("opus", &mut table);
        table.refused(request)
    };
    assert_eq!(refusal.reason, RefusalReason::Limited(WaitCause::Weekly));
    assert_eq!(refusal.wait, Some(HOUR));
    let request = of("haiku", &mut table);
    table.serve(request);
    assert_eq!(table.account(ids[0]).consecutive_failures, 0);
}

#[test]
fn s3_caps_and_thresholds() {
    let mut table = Table::new(Policy {
        max_active_per_account: 2,
        max_active_global: 3,
        ..Policy::default()
    });
    let ids = [table.add(oauth("a")), table.add(oauth("b"))];
    let mut leases = Vec::new();
    for _ in 0..3 {
        let request = table.request();
        leases.push(table.granted(request).lease);
    }
    let busiest = leases
        .iter()
        .filter(|lease| lease.account() == ids[0])
        .count();
    assert!((1..=2).contains(&busiest));
    let request = table.request();
    let ticket = table.queued(request);
    assert!(
        table.wakes().is_empty(),
        "all in flight below safetyMaxGlobalActive"
    );
    if let Some(lease) = leases.pop() {
        table.complete(lease, Outcome::Success);
    }
    assert_eq!(table.wakes().first().map(|(woken, _)| *woken), Some(ticket));

    for kind in [
        WindowKind::FiveHour,
        WindowKind::Tokens,
        WindowKind::Requests,
    ] {
        let (mut table, ids) = Table::with(1);
        let reset = Some(table.wall_after(secs(30)));
        table.learn(ids[0], vec![window(kind.clone(), 0.899, reset)]);
        let request = table.request();
        table.serve(request);
        table.learn(ids[0], vec![window(kind.clone(), 0.90, reset)]);
        let request = table.request();
        table.queued(request);
        let (waited, wakes) = table.until_wake();
        assert_eq!((waited, wakes.len()), (secs(30), 1), "{kind:?}");
    }
}

#[test]
fn s3_a_limit_without_a_reset_is_looked_at_by_one_after_a_minute() {
    let (mut table, ids) = Table::with(1);
    table.learn(ids[0], vec![window(WindowKind::FiveHour, 1.0, None)]);
    let tickets: Vec<_> = (0..3)
        .map(|_| {
            let request = table.request();
            table.queued(request)
        })
        .collect();
    let (waited, mut wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(60), 1), "one may look");
    let Some(Wake::Granted { ticket, grant }) = wakes.pop() else {
        panic!("not granted")
    };
    assert_eq!(ticket, tickets[0]);
    table.complete(grant.lease, quota_rejected(QuotaReport::default()));
    let (waited, mut wakes) = table.until_wake();
    assert_eq!(
        (waited, wakes.len()),
        (secs(60), 1),
        "refused: for another minute"
    );
    let Some(Wake::Granted { grant, .. }) = wakes.pop() else {
        panic!("not granted")
    };
    table.head(&grant.lease, 200, &QuotaReport::default());
    assert_eq!(table.wakes().len(), 1, "served: it does not hold any more");
}

#[test]
fn s4_tiers_decide_who_serves() {
    // Used share of the week on the first account; the second one is fresh or out.
    let rows = [
        ("normal serves all", 0.1, true, true),
        ("soft serves all", 0.7, true, true),
        ("reserve only if no account below it can", 0.9, false, true),
        ("critical only if nothing else can", 0.96, false, true),
        ("exhausted never", 0.99, false, false),
    ];
    for (rule, used, beside, alone) in rows {
        let (mut table, ids) = Table::with(2);
        let soon = table.wall_after(HOUR);
        table.learn(ids[0], vec![window(WindowKind::SevenDay, used, Some(soon))]);
        // The second would lose by its score.
        let start = table.wall_after(5 * HOUR);
        table.learn(
            ids[1],
            vec![
                window(WindowKind::SevenDay, 0.1, Some(soon)),
                window(WindowKind::FiveHour, 0.8, Some(start)),
            ],
        );
        let request = table.request();
        assert_eq!(table.serve(request) == ids[0], beside, "S4: {rule}");
        let reset = table.wall_after(2 * HOUR);
        table.learn(ids[1], vec![window(WindowKind::FiveHour, 1.0, Some(reset))]);
        let request = table.request();
        let explained = table.scheduler.explain(table.now, &request);
        let chosen = matches!(explained.verdict, ExplainedVerdict::Chosen(id, _) if id == ids[0]);
        assert_eq!(chosen, alone, "S4: {rule}: {explained:?}");
    }
}

#[test]
fn s4_status_shows_the_tiers() {
    let (mut table, ids) = Table::with(1);
    assert_eq!(
        table.account(ids[0]).weekly.state,
        None,
        "unknown without a weekly value"
    );
    let reset = table.wall_after(6 * DAY);
    table.learn(ids[0], vec![window(WindowKind::SevenDay, 0.8, Some(reset))]);
    let weekly = table.account(ids[0]).weekly;
    assert_eq!(
        (weekly.raw_state, weekly.pace_state),
        (Some(Tier::Soft), Some(Tier::Exhausted))
    );
    assert_eq!(weekly.state, Some(Tier::Critical));
    let effective = 0.8 + 0.6 * (0.8 - 1.0 / 7.0);
    assert!(
        weekly
            .effective_usage
            .is_some_and(|usage| (usage - effective).abs() < 1e-9)
    );
    table.fail(
        ids[0],
        quota_rejected(rejection(Some(WindowKind::SevenDay), Some(reset), None)),
    );
    let account = table.account(ids[0]);
    assert_eq!(
        (account.weekly.state, account.status),
        (Some(Tier::Exhausted), Status::Exhausted),
        "rejected for the week"
    );
}

#[test]
fn s6_near_its_reset_an_account_serves_eight_of_ten() {
    let (mut table, ids) = Table::with(2);
    quiet_week(&mut table, &ids);
    let (soon, late) = (
        table.wall_after(secs(600)),
        table.wall_after(5 * HOUR - secs(360)),
    );
    table.learn(ids[0], vec![window(WindowKind::FiveHour, 0.55, Some(soon))]);
    table.learn(ids[1], vec![window(WindowKind::FiveHour, 0.55, Some(late))]);
    let mut served = 0;
    for _ in 0..10 {
        let request = table.request();
        served += u32::from(table.serve(request) == ids[0]);
        table.pass(secs(5));
    }
    assert!(served >= 8, "{served} of 10");
}

#[test]
fn s6_sixty_percent_near_the_reset_beats_forty_at_the_beginning() {
    let (mut table, ids) = Table::with(2);
    quiet_week(&mut table, &ids);
    let (soon, late) = (table.wall_after(secs(480)), table.wall_after(5 * HOUR));
    table.learn(ids[0], vec![window(WindowKind::FiveHour, 0.60, Some(soon))]);
    table.learn(ids[1], vec![window(WindowKind::FiveHour, 0.40, Some(late))]);
    let request = table.request();
    let explained = table.scheduler.explain(table.now, &request);
    assert_eq!(explained.candidates[0].account, ids[0]);
    assert!(explained.candidates[0].score < explained.candidates[1].score);
}

#[test]
fn s6_one_429_does_not_starve_an_account_for_ever() {
    let (mut table, ids) = Table::with(2);
    quiet_week(&mut table, &ids);
    table.fail(ids[0], quota_rejected(rejection(None, None, Some(secs(5)))));
    table.pass(secs(6));
    for _ in 0..6 {
        let request = table.request();
        assert_eq!(
            table.serve(request),
            ids[1],
            "failures and recovery cost at first"
        );
        table.pass(secs(10));
    }
    table.pass(secs(300));
    let request = table.request();
    assert_eq!(table.serve(request), ids[0], "and fade");
}

#[test]
fn s7_sequential_requests_rotate() {
    let (mut table, ids) = Table::with(3);
    quiet_week(&mut table, &ids);
    let mut order = Vec::new();
    for _ in 0..6 {
        let request = table.request();
        order.push(table.serve(request));
    }
    assert_eq!(order, [ids[0], ids[1], ids[2], ids[0], ids[1], ids[2]]);
}

#[test]
fn s7_ties_rotate() {
    let mut table = Table::new(Policy {
        spread_share_weight: 0.0,
        ..Policy::default()
    });
    let ids = [
        table.add(oauth("a")),
        table.add(oauth("b")),
        table.add(oauth("c")),
    ];
    let mut order = Vec::new();
    for _ in 0..4 {
        let request = table.request();
        order.push(table.serve(request));
    }
    assert_eq!(order, [ids[0], ids[1], ids[2], ids[0]]);
}

#[test]
fn s7_preferred_priority_and_exclusion() {
    let (mut table, ids) = Table::with(3);
    assert_eq!(
        table
            .scheduler
            .set_routing(table.now, Routing::Preferred(ids[2])),
        Ok(())
    );
    let reset = table.wall_after(HOUR);
    table.learn(
        ids[2],
        vec![window(WindowKind::SevenDay, 0.97, Some(reset))],
    );
    for _ in 0..3 {
        let request = table.request();
        assert_eq!(table.serve(request), ids[2], "S7a: critical included");
    }
    let failed = Request {
        excluded: vec![ids[2]],
        attempts: 1,
        ..table.request()
    };
    assert_ne!(table.serve(failed), ids[2], "left out where it has failed");
    let mut spec = oauth("c");
    spec.enabled = false;
    table.scheduler.update_account(table.now, ids[2], spec);
    assert_eq!(
        table.scheduler.snapshot(table.now).routing,
        Routing::Automatic,
        "disabling returns to automatic"
    );
    assert_eq!(
        table
            .scheduler
            .set_routing(table.now, Routing::Preferred(ids[2])),
        Err(CannotPrefer)
    );
    let glm = table.add(provider("glm"));
    assert_eq!(
        table
            .scheduler
            .set_routing(table.now, Routing::Preferred(glm)),
        Err(CannotPrefer),
        "only a Claude account"
    );

    let first = table.add(AccountSpec {
        priority: -1,
        ..oauth("first")
    });
    for _ in 0..3 {
        let request = table.request();
        assert_eq!(table.serve(request), first, "S7c: lowest priority number");
    }
}

#[test]
fn s8_profiles() {
    let mut table = Table::new(Policy::default());
    let request = table.request();
    assert_eq!(table.refused(request).reason, RefusalReason::NoAccount);
    let claude = table.add(oauth("a"));
    let glm = table.add(provider("glm"));
    let in_profile = |table: &mut Table, profile: &str| Request {
        profile: Arc::from(profile),
        ..table.request()
    };
    let request = in_profile(&mut table, "nobody");
    assert_eq!(table.refused(request).reason, RefusalReason::UnknownProfile);
    table.fail(
        claude,
        Outcome::NeedsLogin {
            evidence: evidence(401, "expired"),
        },
    );
    let request = in_profile(&mut table, "claude");
    assert_eq!(
        table.refused(request).reason,
        RefusalReason::CredentialsOnly(vec![Arc::from("a")])
    );
    let request = in_profile(&mut table, "all");
    assert_eq!(table.serve(request), glm);
    table.scheduler.update_account(
        table.now,
        claude,
        AccountSpec {
            enabled: false,
            ..oauth("a")
        },
    );
    let request = in_profile(&mut table, "claude");
    assert_eq!(
        table.refused(request).reason,
        RefusalReason::NoneEnabled,
        "P14: only enabled accounts count"
    );
}

#[test]
fn s8_newcomers_join_behind_and_providers_are_not_queued_behind_claude() {
    let mut table = Table::new(Policy::default());
    let claude = table.add(oauth("a"));
    let glm = table.add(provider("glm"));
    table.fail(
        claude,
        quota_rejected(rejection(None, None, Some(secs(10)))),
    );
    let request = table.request();
    let first = table.queued(request);
    let request = table.request();
    let second = table.queued(request);
    let fallback = Request {
        profile: Arc::from("all"),
        ..table.request()
    };
    assert_eq!(
        table.serve(fallback),
        glm,
        "Q2: none waits for one that its account could not serve"
    );
    table.pass(secs(10));
    // A newcomer at the very moment at which the account comes back.
    let request = table.request();
    let grant = table.granted(request);
    let order: Vec<_> = table
        .wakes()
        .into_iter()
        .map(|(ticket, _)| ticket)
        .collect();
    assert_eq!(order, [first, second]);
    assert_eq!(grant.account, claude);
}

#[test]
fn q2_a_newcomer_never_overtakes() {
    let mut table = Table::new(Policy {
        max_active_per_account: 1,
        ..Policy::default()
    });
    table.add(oauth("a"));
    let request = table.request();
    let held = table.granted(request).lease;
    let request = table.request();
    let waiting = table.queued(request);
    table.complete(held, Outcome::Success);
    let request = table.request();
    let newcomer = table.queued(request);
    let mut wakes = table.wakes();
    assert_eq!(wakes.len(), 1);
    let (ticket, grant) = wakes.remove(0);
    assert_eq!(ticket, waiting);
    table.complete(grant.lease, Outcome::Success);
    assert_eq!(
        table.wakes().first().map(|(ticket, _)| *ticket),
        Some(newcomer)
    );
}

#[test]
fn s9_a_session_stays_leaves_and_returns() {
    let (mut table, ids) = Table::with(2);
    quiet_week(&mut table, &ids);
    for _ in 0..3 {
        let request = with_session(&mut table, 1);
        assert_eq!(
            table.serve(request),
            ids[0],
            "the first account is the home"
        );
    }
    table.fail(
        ids[0],
        quota_rejected(rejection(None, None, Some(secs(60)))),
    );
    let request = with_session(&mut table, 1);
    assert_eq!(table.serve(request), ids[1], "displaced by a block");
    let request = with_session(&mut table, 1);
    assert_eq!(table.granted(request).why, Why::Current);
    table.pass(secs(61));
    let request = with_session(&mut table, 1);
    let grant = table.granted(request);
    assert_eq!(
        (grant.account, grant.why),
        (ids[0], Why::Home),
        "returns when home is available again"
    );
    assert_eq!(table.scheduler.snapshot(table.now).sticky_bindings, 1);
    table.pass(HOUR);
    assert_eq!(
        table.scheduler.snapshot(table.now).sticky_bindings,
        0,
        "a binding unused that long is forgotten"
    );
}

#[test]
fn s9_a_session_moves_home_to_a_better_priority() {
    let (mut table, ids) = Table::with(1);
    quiet_week(&mut table, &ids);
    let request = with_session(&mut table, 1);
    assert_eq!(table.serve(request), ids[0]);
    let better = table.add(AccountSpec {
        priority: -5,
        ..oauth("b")
    });
    let request = with_session(&mut table, 1);
    assert_eq!(table.serve(request), better);
    let request = with_session(&mut table, 1);
    let grant = table.granted(request);
    assert_eq!((grant.account, grant.why), (better, Why::Home));
}

#[test]
fn s9_a_bound_session_is_served_from_the_reserve() {
    let (mut table, ids) = Table::with(2);
    quiet_week(&mut table, &ids);
    let request = with_session(&mut table, 1);
    let home = table.serve(request);
    let reset = table.wall_after(HOUR);
    table.learn(home, vec![window(WindowKind::SevenDay, 0.9, Some(reset))]);
    let request = with_session(&mut table, 1);
    assert_eq!(table.serve(request), home);
    table.learn(home, vec![window(WindowKind::SevenDay, 0.96, Some(reset))]);
    let request = with_session(&mut table, 1);
    assert_ne!(
        table.serve(request),
        home,
        "critical only if nothing else can"
    );
}

#[test]
fn s10_a_storm_is_taken_over_one_by_one() {
    let (mut table, ids) = Table::with(2);
    let mut moved = Vec::new();
    for _ in 0..6 {
        let request = Request {
            pinned: Some(ids[0]),
            ..table.request()
        };
        moved.push(table.granted(request).lease);
    }
    for lease in moved {
        table.complete(lease, quota_rejected(rejection(None, None, Some(HOUR))));
    }
    let request = table.request();
    let first = table.granted(request);
    assert_eq!(first.account, ids[1]);
    for _ in 0..5 {
        let request = table.request();
        table.queued(request);
    }
    assert!(table.wakes().is_empty(), "one at a time");
    table.pass(ms(250));
    let second = table.wakes();
    assert_eq!(second.len(), 1, "one more after 250 ms");
    table.head(&first.lease, 200, &QuotaReport::default());
    assert_eq!(table.wakes().len(), 1, "counted until its head arrives");
    table.pass(ms(1_000));
    assert_eq!(table.wakes().len(), 3);
}

#[test]
fn s10_an_attempt_that_ends_without_a_head_makes_room_too() {
    let (mut table, ids) = Table::with(2);
    let mut moved = Vec::new();
    for _ in 0..5 {
        let request = Request {
            pinned: Some(ids[0]),
            ..table.request()
        };
        moved.push(table.granted(request).lease);
    }
    for lease in moved {
        table.complete(lease, quota_rejected(rejection(None, None, Some(HOUR))));
    }
    let request = table.request();
    let first = table.granted(request);
    let request = table.request();
    table.queued(request);
    table.complete(first.lease, Outcome::Abandoned);
    assert_eq!(table.wakes().len(), 1);
}

#[test]
fn s10_ends_of_blocks_are_spread() {
    let (mut table, ids) = Table::with(3);
    for id in &ids {
        table.fail(*id, server_error());
    }
    let ends: Vec<_> = ids.iter().map(|id| table.blocked_for(*id)).collect();
    assert_eq!(ends, [Some(secs(30)), Some(secs(31)), Some(secs(32))]);
    assert!(
        table
            .account(ids[0])
            .cooldown_until
            .is_some_and(|at| at == table.wall_after(secs(30)))
    );
    assert_eq!(table.account(ids[0]).rate_limited_until, None);
}

#[test]
fn s11_paid_overage_is_the_last_resort_or_none() {
    let overage = |table: &mut Table, id: AccountId| {
        let quota = QuotaReport {
            overage_in_use: Some(true),
            claim: Some(WindowKind::FiveHour),
            reset: Some(table.wall_after(HOUR)),
            ..QuotaReport::default()
        };
        let request = Request {
            pinned: Some(id),
            ..table.request()
        };
        let grant = table.granted(request);
        table.head(&grant.lease, 200, &quota);
        table.complete(grant.lease, Outcome::Success);
    };
    let (mut table, ids) = Table::with(2);
    overage(&mut table, ids[0]);
    for _ in 0..3 {
        let request = table.request();
        assert_eq!(table.serve(request), ids[1]);
    }
    table.fail(ids[1], server_error());
    let request = table.request();
    assert_eq!(table.serve(request), ids[0], "last: when nothing else can");
    table.scheduler.set_policy(
        table.now,
        Policy {
            overage: Overage::Never,
            ..Policy::default()
        },
    );
    let request = table.request();
    let explained = table.scheduler.explain(table.now, &request);
    assert!(
        explained
            .passed_over
            .iter()
            .any(|one| one.reason == PassedOver::OverageInUse),
        "{explained:?}"
    );
    table.pass(HOUR);
    assert!(
        !table.account(ids[0]).overage_in_use,
        "while that window lasts"
    );
}

#[test]
fn s12_explain_says_why() {
    let (mut table, ids) = Table::with(3);
    table.fail(
        ids[1],
        quota_rejected(rejection(
            Some(WindowKind::FiveHour),
            Some(START.wall + HOUR),
            None,
        )),
    );
    let glm = table.add(provider("glm"));
    let request = table.request();
    let explained = table.scheduler.explain(table.now, &request);
    let ranked: Vec<_> = explained.candidates.iter().map(|one| one.rank).collect();
    assert_eq!(ranked, [1, 2]);
    assert_eq!(
        explained.candidates[0].score,
        explained.candidates[0].terms.total()
    );
    let over: Vec<_> = explained
        .passed_over
        .iter()
        .map(|one| (one.account, one.reason.clone(), one.wait))
        .collect();
    let blocked = PassedOver::Blocked(BlockReason::Quota(Some(WindowKind::FiveHour)));
    assert_eq!(
        over,
        [
            (ids[1], blocked, Some(HOUR)),
            (glm, PassedOver::OtherProfile, None)
        ]
    );
    assert_eq!(
        explained.passed_over[0]
            .evidence
            .as_ref()
            .and_then(|evidence| evidence.status),
        Some(429)
    );

    for _ in 0..60 {
        let request = table.request();
        table.serve(request);
    }
    assert_eq!(
        table.scheduler.decisions().count(),
        50,
        "the last 50 decisions"
    );
    let last = table.scheduler.decisions().last().map(|one| one.request);
    assert_eq!(last, Some(61 + 1));
}

#[test]
fn p7_what_an_answer_means() {
    let wait = |status| evidence(status, "words");
    let side = |overload, retry_after| Outcome::ServerSide {
        overload,
        retry_after,
        fingerprint: maxpool::scheduler::Fingerprint::of("e", "m"),
        evidence: evidence(429, "busy"),
    };
    use maxpool::scheduler::Overload::{Overloaded529, Refused429};
    type Row = (&'static str, Outcome, Option<Duration>, u32, Status);
    let rows: Vec<Row> = vec![
        (
            "quota",
            quota_rejected(rejection(None, None, Some(secs(9)))),
            Some(secs(9)),
            1,
            Status::Throttled,
        ),
        (
            "server-side 429",
            side(Refused429, Some(secs(9))),
            Some(secs(9)),
            0,
            Status::Throttled,
        ),
        (
            "server-side 429, at most 30 s",
            side(Refused429, Some(HOUR)),
            Some(secs(30)),
            0,
            Status::Throttled,
        ),
        (
            "server-side 429 without retry-after",
            side(Refused429, None),
            Some(secs(5)),
            0,
            Status::Throttled,
        ),
        (
            "529",
            side(Overloaded529, Some(secs(9))),
            Some(secs(9)),
            0,
            Status::Active,
        ),
        (
            "529 without retry-after",
            side(Overloaded529, None),
            Some(secs(30)),
            0,
            Status::Active,
        ),
        (
            "5xx",
            Outcome::ServerError {
                evidence: wait(500),
            },
            Some(secs(30)),
            1,
            Status::Active,
        ),
        (
            "network",
            Outcome::Network {
                blame: Blame::Account,
                evidence: wait(0),
            },
            Some(secs(5)),
            0,
            Status::Active,
        ),
        (
            "a failed look-up blames nobody",
            Outcome::Network {
                blame: Blame::Nobody,
                evidence: wait(0),
            },
            None,
            0,
            Status::Active,
        ),
        (
            "401 on a key",
            Outcome::CredentialRefused {
                evidence: wait(401),
            },
            None,
            0,
            Status::Error,
        ),
        (
            "needs login",
            Outcome::NeedsLogin {
                evidence: wait(401),
            },
            None,
            0,
            Status::Error,
        ),
        (
            "403",
            Outcome::CredentialForbidden {
                evidence: wait(403),
            },
            Some(secs(1_800)),
            0,
            Status::Active,
        ),
        ("neutral", Outcome::Neutral, None, 0, Status::Active),
        ("abandoned", Outcome::Abandoned, None, 0, Status::Active),
        ("success", Outcome::Success, None, 0, Status::Active),
    ];
    for (rule, outcome, blocked, failures, status) in rows {
        let (mut table, ids) = Table::with(1);
        table.fail(ids[0], outcome);
        let account = table.account(ids[0]);
        assert_eq!(table.blocked_for(ids[0]), blocked, "P7: {rule}");
        assert_eq!(account.consecutive_failures, failures, "P7: {rule}");
        assert_eq!(account.status, status, "P7: {rule}");
        assert_eq!(account.in_flight, 0, "P7: {rule}");
    }
}

#[test]
fn p7_cooldowns_double_up_to_the_longest() {
    let (mut table, ids) = Table::with(1);
    for expected in [30, 60, 120, 240, 480, 900, 900] {
        table.fail(ids[0], server_error());
        assert_eq!(table.blocked_for(ids[0]), Some(secs(expected)));
        table.pass(secs(expected));
    }
    let request = table.request();
    table.serve(request);
    assert_eq!(table.account(ids[0]).consecutive_failures, 0);
    // Requests that were under way together are one failure.
    let leases: Vec<_> = (0..4)
        .map(|_| {
            let request = table.request();
            table.granted(request).lease
        })
        .collect();
    for lease in leases {
        table.pass(ms(10));
        table.complete(lease, server_error());
    }
    assert_eq!(table.account(ids[0]).consecutive_failures, 1);
}

#[test]
fn p7_credential_blocks_end_with_the_credential() {
    let (mut table, ids) = Table::with(1);
    table.fail(
        ids[0],
        Outcome::CredentialRefused {
            evidence: evidence(401, "invalid x-api-key"),
        },
    );
    table.pass(9 * DAY);
    let request = table.request();
    let refusal = table.refused(request);
    assert_eq!(
        refusal.reason,
        RefusalReason::CredentialsOnly(vec![Arc::from("a")])
    );
    assert_eq!(
        refusal.accounts[0]
            .evidence
            .as_ref()
            .map(|evidence| &*evidence.message),
        Some("invalid x-api-key")
    );
    table.scheduler.clear_credential_blocks(table.now, ids[0]);
    let request = table.request();
    table.serve(request);
}

/// Lets one request fail on every account in turn with the same words.
fn refuse_everywhere(
    table: &mut Table,
    ids: &[AccountId],
    retry_after: Option<Duration>,
) -> Request {
    let mut request = table.request();
    for n in 0..ids.len() {
        let grant = table.granted(request.clone());
        table.head(&grant.lease, 429, &QuotaReport::default());
        let words = format!("This is not your usage limit, request id{n} is not lucky");
        table.complete(grant.lease, refused(retry_after, &words));
        request.excluded.push(grant.account);
        request.attempts += 1;
        request.last_failure = Some(WaitCause::Capacity);
    }
    request
}

#[test]
fn p8_the_breaker_pauses_probes_and_paces() {
    let (mut table, ids) = Table::with(3);
    let request = refuse_everywhere(&mut table, &ids, Some(secs(20)));
    let breaker = table.scheduler.snapshot(table.now).breaker;
    assert!(breaker.active && breaker.count == 1 && !breaker.probe_in_flight);
    let first = table.queued(request);
    for _ in 0..3 {
        let request = table.request();
        table.queued(request);
    }
    let (waited, mut wakes) = table.until_wake();
    assert_eq!(
        (waited, wakes.len()),
        (secs(20), 1),
        "one real request probes, the others wait"
    );
    let Some(Wake::Granted { ticket, grant }) = wakes.pop() else {
        panic!("not granted")
    };
    assert_eq!(ticket, first);
    assert!(table.scheduler.snapshot(table.now).breaker.probe_in_flight);
    table.pass(secs(3));
    assert!(table.poll().is_empty());
    table.head(&grant.lease, 200, &QuotaReport::default());
    assert!(
        !table.scheduler.snapshot(table.now).breaker.active,
        "closed at header time"
    );
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (ms(0), 1));
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (ms(250), 1), "one every 250 ms");
    drop(wakes);
}

#[test]
fn p8_never_by_one_account_nor_beside_one_that_serves() {
    let (mut table, ids) = Table::with(1);
    refuse_everywhere(&mut table, &ids, None);
    assert!(
        !table.scheduler.snapshot(table.now).breaker.active,
        "one account alone never trips it"
    );

    let (mut table, ids) = Table::with(3);
    refuse_everywhere(&mut table, &ids[..2], None);
    assert!(
        !table.scheduler.snapshot(table.now).breaker.active,
        "the third has not refused"
    );
    let request = table.request();
    table.serve(request);

    let (mut table, ids) = Table::with(3);
    let reset = table.wall_after(HOUR);
    table.learn(ids[2], vec![window(WindowKind::FiveHour, 1.0, Some(reset))]);
    refuse_everywhere(&mut table, &ids[..2], None);
    assert!(
        table.scheduler.snapshot(table.now).breaker.active,
        "the third is out for longer"
    );
}

#[test]
fn p8_a_failed_probe_re_arms() {
    let (mut table, ids) = Table::with(2);
    refuse_everywhere(&mut table, &ids, Some(secs(5)));
    for _ in 0..4 {
        let request = table.request();
        table.queued(request);
    }
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let (_, wakes) = table.until_wake();
        for wake in wakes {
            let Wake::Granted { grant, .. } = wake else {
                panic!("not granted")
            };
            table.head(&grant.lease, 503, &QuotaReport::default());
            let before = table.scheduler.snapshot(table.now).breaker;
            pauses.push(before.until.map(|until| table.now.wall.until(until)));
            table.complete(grant.lease, Outcome::Abandoned);
        }
    }
    assert_eq!(
        pauses,
        [Some(secs(5)), Some(secs(10)), Some(secs(20)), None]
    );
}

#[test]
fn p9_signed_thinking_never_goes_to_a_provider() {
    let mut table = Table::new(Policy::default());
    let glm = table.add(provider("glm"));
    let all = |table: &mut Table| Request {
        profile: Arc::from("all"),
        session: Some(SessionKey(4)),
        ..table.request()
    };
    let request = all(&mut table);
    assert_eq!(table.serve(request), glm);
    table.scheduler.note_thinking(table.now, SessionKey(4));
    let request = all(&mut table);
    assert_eq!(
        table.refused(request).reason,
        RefusalReason::ThinkingNeedsClaude,
        "by an answer of the session"
    );
    let claude = table.add(oauth("a"));
    table.fail(claude, server_error());
    let request = all(&mut table);
    table.queued(request);
    let other = Request {
        session: Some(SessionKey(5)),
        signed_thinking: true,
        ..all(&mut table)
    };
    table.queued(other);
    let later = Request {
        session: Some(SessionKey(5)),
        ..all(&mut table)
    };
    table.queued(later);
    assert_eq!(table.scheduler.snapshot(table.now).thinking_protected, 2);
}

#[test]
fn p10_a_thread_goes_to_its_owner_or_is_sent_anew() {
    let (mut table, ids) = Table::with(2);
    let thread = |table: &mut Table| Request {
        thread: Some(ThreadKey(9)),
        session: Some(SessionKey(9)),
        ..table.request()
    };
    table.scheduler.note_thread(table.now, ThreadKey(9), ids[1]);
    for _ in 0..3 {
        let request = thread(&mut table);
        let grant = table.granted(request);
        assert_eq!((grant.account, grant.why), (ids[1], Why::Thread));
        table.complete(grant.lease, Outcome::Success);
    }
    table.fail(ids[1], server_error());
    let request = thread(&mut table);
    assert_eq!(
        table.refused(request).reason,
        RefusalReason::ThreadElsewhere
    );
    let unknown = Request {
        thread: Some(ThreadKey(10)),
        session: Some(SessionKey(10)),
        ..table.request()
    };
    assert_eq!(table.serve(unknown.clone()), ids[0], "an unknown id: by S7");
    assert_eq!(
        table.granted(unknown).account,
        ids[0],
        "then the session's home"
    );
}

#[test]
fn q1_what_is_held_and_what_is_not() {
    let (mut table, ids) = Table::with(1);
    let week = table.wall_after(HOUR);
    table.learn(ids[0], vec![window(WindowKind::SevenDay, 1.0, Some(week))]);
    let request = table.request();
    let refusal = table.refused(request);
    assert_eq!(
        (refusal.reason, refusal.wait),
        (RefusalReason::Limited(WaitCause::Weekly), Some(HOUR)),
        "weekly: fail fast"
    );

    let (mut table, ids) = Table::with(1);
    table.fail(
        ids[0],
        quota_rejected(rejection(None, None, Some(secs(300)))),
    );
    let unwilling = Request {
        holdable: false,
        ..table.request()
    };
    assert_eq!(
        table.refused(unwilling).reason,
        RefusalReason::Limited(WaitCause::Quota)
    );
    let huge = Request {
        body_bytes: 268_435_457,
        ..table.request()
    };
    assert_eq!(
        table.refused(huge).reason,
        RefusalReason::TooLargeToHold(WaitCause::Quota)
    );
    let plain = Request {
        shape: Shape::NonStream,
        ..table.request()
    };
    assert_eq!(
        table.refused(plain).reason,
        RefusalReason::Limited(WaitCause::Quota),
        "longer than 240 s"
    );
    let request = table.request();
    table.queued(request);
    table.scheduler.block(
        table.now,
        ids[0],
        Block {
            reason: BlockReason::NeedsLogin,
            end: End::CredentialChange,
            scope: Scope::Account,
            evidence: Arc::new(evidence(400, "invalid_grant")),
        },
    );
    let wakes = table.poll();
    assert!(
        matches!(&wakes[..], [Wake::Refused { refusal, .. }] if matches!(refusal.reason, RefusalReason::CredentialsOnly(_))),
        "never waited for: {wakes:?}"
    );
}

#[test]
fn q1_a_403_that_ends_serves_whoever_waits_for_something_else() {
    let (mut table, ids) = Table::with(2);
    let forbidden = Outcome::CredentialForbidden {
        evidence: evidence(403, "no"),
    };
    table.fail(ids[0], forbidden);
    table.fail(
        ids[1],
        quota_rejected(rejection(None, None, Some(2 * HOUR))),
    );
    table.scheduler.set_policy(
        table.now,
        Policy {
            poll: DAY,
            ..Policy::default()
        },
    );
    let request = table.request();
    table.queued(request);
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(1_800), 1));
}

#[test]
fn q1_a_wait_ends_the_pass_and_its_clock_goes_on() {
    let (mut table, ids) = Table::with(1);
    let mut request = table.request();
    let mut total = Duration::ZERO;
    let start = table.now.mono;
    for round in 0.. {
        assert!(round < 100, "bounded by capacityMaxWaitMs");
        let grant = match table.admit(request.clone()) {
            maxpool::scheduler::Admission::Granted(grant) => grant,
            maxpool::scheduler::Admission::Queued(_) => {
                let (waited, mut wakes) = table.until_wake();
                total += waited;
                match wakes.pop() {
                    Some(Wake::Granted { grant, .. }) => grant,
                    _ => break,
                }
            }
            maxpool::scheduler::Admission::Refused(refusal) => {
                assert_eq!(refusal.reason, RefusalReason::Limited(WaitCause::Capacity));
                break;
            }
        };
        request.clock = grant.clock;
        request.excluded = vec![ids[0]];
        request.attempts = 1;
        request.last_failure = Some(WaitCause::Capacity);
        table.complete(grant.lease, server_error());
    }
    assert!(total <= secs(900), "{total:?}");
    assert!(table.now.mono.since(start) >= secs(30));
}

#[test]
fn q1_a_failed_look_up_is_tried_again_after_the_network_cooldown() {
    let (mut table, ids) = Table::with(2);
    let failed = Request {
        excluded: ids.clone(),
        attempts: 2,
        last_failure: Some(WaitCause::Network),
        ..table.request()
    };
    table.queued(failed);
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(5), 1));
}

#[test]
fn q1_attempts_are_limited_and_count_anew_after_a_wait() {
    let mut table = Table::new(Policy {
        max_attempts: 1,
        ..Policy::default()
    });
    let ids = [table.add(oauth("a")), table.add(oauth("b"))];
    table.fail(ids[0], server_error());
    let failed = Request {
        excluded: vec![ids[0]],
        attempts: 1,
        last_failure: Some(WaitCause::Capacity),
        ..table.request()
    };
    assert_eq!(
        table.refused(failed.clone()).reason,
        RefusalReason::AttemptsExhausted
    );
    table.fail(ids[1], server_error());
    table.queued(failed);
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(30), 1));
}

#[test]
fn q3_the_queue_is_bounded() {
    let mut table = Table::new(Policy {
        max_queued: 2,
        ..Policy::default()
    });
    let id = table.add(oauth("a"));
    table.fail(id, server_error());
    for _ in 0..2 {
        let request = table.request();
        table.queued(request);
    }
    let request = table.request();
    assert_eq!(table.refused(request).reason, RefusalReason::QueueFull);
    let queue = table.scheduler.snapshot(table.now).queue;
    assert_eq!(
        (queue.waiting, queue.by_cause, queue.next_release),
        (2, vec![(WaitCause::Capacity, 2)], Some(secs(30)))
    );
}

#[test]
fn q5_drain_refuses_all_who_wait() {
    let (mut table, ids) = Table::with(1);
    table.fail(ids[0], server_error());
    let request = table.request();
    table.queued(request);
    table.scheduler.drain(table.now);
    let wakes = table.poll();
    assert!(
        matches!(&wakes[..], [Wake::Refused { refusal, .. }] if refusal.reason == RefusalReason::Draining)
    );
    let request = table.request();
    assert_eq!(table.refused(request).reason, RefusalReason::Draining);
    assert!(table.scheduler.snapshot(table.now).admission_paused);
    table.scheduler.resume(table.now);
    let request = table.request();
    table.queued(request);
}

#[test]
fn q6_the_client_comes_back_to_its_place() {
    let (mut table, ids) = Table::with(1);
    table.fail(
        ids[0],
        quota_rejected(rejection(None, None, Some(secs(400)))),
    );
    let patient = Request {
        tolerance: Some(secs(280)),
        resume: Some(77),
        ..table.request()
    };
    table.queued(patient);
    let request = table.request();
    let second = table.queued(request);
    let (waited, wakes) = table.until_wake();
    assert_eq!(waited, secs(280));
    assert!(
        matches!(
            &wakes[..],
            [Wake::Expired {
                limit: Limit::ClientTolerance,
                ..
            }]
        ),
        "{wakes:?}"
    );
    table.pass(secs(1));
    let back = Request {
        tolerance: Some(secs(280)),
        resume: Some(77),
        ..table.request()
    };
    let back = table.queued(back);
    let (_, wakes) = table.until_wake();
    let order: Vec<_> = wakes.iter().map(Wake::ticket).collect();
    assert_eq!(order, [back, second]);
}

#[test]
fn p12_a_client_that_leaves_frees_its_place() {
    let (mut table, ids) = Table::with(1);
    table.fail(ids[0], server_error());
    let request = table.request();
    let gone = table.queued(request);
    assert!(matches!(
        table.scheduler.cancel(table.now, gone),
        Cancel::Cancelled
    ));
    assert_eq!(table.scheduler.snapshot(table.now).queue.waiting, 0);
    assert!(matches!(
        table.scheduler.cancel(table.now, gone),
        Cancel::AlreadyPolled
    ));
    let request = table.request();
    let late = table.queued(request);
    table.pass(secs(30));
    let request = table.request();
    let other = table.granted(request);
    let Cancel::AlreadyGranted(grant) = table.scheduler.cancel(table.now, late) else {
        panic!("it was granted")
    };
    table.complete(grant.lease, Outcome::Abandoned);
    table.complete(other.lease, Outcome::Success);
    assert_eq!(table.account(ids[0]).in_flight, 0);
}

#[test]
fn a_clock_that_is_set_moves_resets_and_nothing_else() {
    let (mut table, ids) = Table::with(2);
    let reset = Some(table.wall_after(HOUR));
    table.fail(
        ids[0],
        quota_rejected(rejection(Some(WindowKind::FiveHour), reset, None)),
    );
    table.fail(ids[1], server_error());
    let request = table.request();
    table.queued(request);
    table.now.wall = table.now.wall + HOUR;
    table.scheduler.clock_stepped(table.now);
    assert_eq!(table.wakes().len(), 1, "the reset has passed");
    assert_eq!(
        table.blocked_for(ids[1]),
        Some(secs(30)),
        "the cooldown has not"
    );
    let mut back = table.now;
    back.mono = Mono(back.mono.0 - 5_000);
    table.now = back;
    assert_eq!(table.blocked_for(ids[1]), Some(secs(35)));
    let request = table.request();
    table.serve(request);
}

#[test]
fn an_account_leaves_with_its_last_lease_and_its_id_is_never_used_again() {
    let (mut table, ids) = Table::with(1);
    let request = table.request();
    let lease = table.granted(request).lease;
    table.scheduler.remove_account(table.now, ids[0]);
    assert!(table.account(ids[0]).leaving);
    let request = table.request();
    assert_eq!(table.refused(request).reason, RefusalReason::UnknownProfile);
    table.complete(lease, Outcome::Success);
    assert!(table.scheduler.snapshot(table.now).accounts.is_empty());
    assert_ne!(table.add(oauth("a")), ids[0]);
}

#[test]
fn a6_what_was_learned_is_restored() {
    let (mut table, ids) = Table::with(1);
    let (reset, past) = (table.wall_after(HOUR), table.wall_after(ms(1)));
    table.learn(
        ids[0],
        vec![
            window(WindowKind::FiveHour, 0.4, Some(reset)),
            window(WindowKind::SevenDay, 0.5, Some(past)),
            window(WindowKind::Tokens, 0.3, None),
        ],
    );
    table.scheduler.add_usage(
        table.now,
        ids[0],
        Usage {
            input: 5,
            output: 7,
            cache_read: 1,
            cache_write: 2,
        },
    );
    let saved = table.scheduler.learned(table.now, ids[0]);
    let Some(saved) = saved else { panic!("known") };
    assert_eq!(saved.windows.len(), 3);
    let (mut next, new) = Table::with(1);
    next.pass(secs(1));
    next.scheduler.restore(next.now, new[0], &saved);
    let account = next.account(new[0]);
    let kinds: Vec<_> = account
        .windows
        .iter()
        .map(|window| (window.kind.clone(), window.source))
        .collect();
    assert_eq!(
        kinds,
        [(WindowKind::FiveHour, Source::Restored)],
        "no reset and passed ones are dropped"
    );
    assert_eq!(account.usage.tokens.output, 7);
    next.learn(new[0], vec![window(WindowKind::FiveHour, 0.9, Some(reset))]);
    next.scheduler.restore(next.now, new[0], &saved);
    assert_eq!(
        next.account(new[0]).windows[0].used,
        Some(0.9),
        "what was said since stays"
    );
}

#[test]
fn status_counts_what_happened() {
    let mut table = Table::new(Policy::default());
    let id = table.add(AccountSpec {
        kind: Kind::ApiKey,
        ..oauth("key")
    });
    let request = Request {
        weight: 3,
        ..table.request()
    };
    let grant = table.granted(request);
    let account = table.account(id);
    assert_eq!((account.in_flight, account.active_weight), (1, 3));
    table.pass(ms(200));
    let quota = report(vec![window(WindowKind::Tokens, 0.2, None)]);
    table.head(&grant.lease, 200, &quota);
    table.complete(grant.lease, Outcome::Success);
    table.fail(id, server_error());
    let account = table.account(id);
    assert_eq!(
        (account.completed, account.failed, account.last_status),
        (1, 1, Some(503))
    );
    assert_eq!(account.last_error.as_deref(), Some("try later"));
    assert_eq!(account.last_response, Some(ms(200)));
    assert_eq!(
        (
            account.last_15m.requests,
            account.last_15m.failed,
            account.last_15m.weight
        ),
        (2, 1, 4)
    );
    assert_eq!(account.last_1h.average, Some(ms(100)));
    assert_eq!((account.in_flight, account.active_weight), (0, 0));
}
