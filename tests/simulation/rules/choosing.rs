//! Choosing an account: SPEC S.

use super::*;

#[test]
fn s1_a_window_past_its_reset_is_forgotten_whoever_asks() {
    let (mut table, ids) = Table::with(1);
    let reset = table.wall_after(secs(10));
    table.learn(ids[0], vec![window(WindowKind::FiveHour, 1.25, Some(reset))]);
    let known = &table.account(ids[0]).windows[0];
    assert_eq!(
        (known.used, known.raw),
        (Some(1.0), Some(1.25)),
        "above 1 counts as 1, status keeps the raw value"
    );
    table.pass(secs(10));
    assert!(table.account(ids[0]).windows.is_empty(), "status");
    assert_eq!(table.serve(Request::new(1, table.now.mono)), ids[0], "admission");
}

#[test]
fn s1_unreadable_values_are_ignored_never_zero() {
    let (mut table, ids) = Table::with(1);
    let reset = Some(table.wall_after(HOUR));
    table.learn(ids[0], vec![window(WindowKind::FiveHour, 0.5, reset)]);
    for nonsense in [f64::NAN, -0.1, f64::INFINITY] {
        table.learn(ids[0], vec![window(WindowKind::FiveHour, nonsense, None)]);
        assert_eq!(table.account(ids[0]).windows[0].used, Some(0.5), "{nonsense}");
    }
    let partial = WindowReading { utilisation: None, ..window(WindowKind::Tokens, 0.0, None) };
    table.learn(ids[0], vec![partial]);
    assert_eq!(table.account(ids[0]).windows.len(), 1);
}

#[test]
fn s2_a_rejection_belongs_to_a_window() {
    let five = || Some(WindowKind::FiveHour);
    let at = |after: u64| Some(START.wall + secs(after));
    let named = |kind, used, reset, verdict| WindowReading { verdict, ..window(kind, used, reset) };
    let rows: Vec<(&str, QuotaReport, Duration)> = vec![
        ("the claim's window", rejection(five(), at(900), None), secs(900)),
        (
            "retry-after of the same answer, if later",
            rejection(five(), at(900), Some(secs(1_000))),
            secs(1_000),
        ),
        ("and the window, if that is later", rejection(five(), at(900), Some(secs(3))), secs(900)),
        (
            "the window whose own status says so",
            QuotaReport {
                windows: vec![
                    named(WindowKind::SevenDay, 0.4, at(90_000), Some(Verdict::Allowed)),
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
        ("else retry-after", rejection(None, None, Some(secs(7))), secs(7)),
        ("else 60 s", rejection(None, None, None), secs(60)),
        ("a reset that has passed is none", rejection(five(), Some(Wall(1)), None), secs(60)),
        ("retry-after is held to 24 h", rejection(None, None, Some(9 * DAY)), DAY),
    ];
    for (rule, quota, expected) in rows {
        let (mut table, ids) = Table::with(1);
        table.fail(ids[0], quota_rejected(quota));
        assert_eq!(table.blocked_for(ids[0]), Some(expected), "S2: {rule}");
        assert_eq!(table.account(ids[0]).status, Status::Throttled, "S2: {rule}");
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
        table.complete(lease, quota_rejected(rejection(Some(WindowKind::FiveHour), reset, None)));
    }
    assert_eq!(table.blocked_for(ids[0]), Some(secs(1_800)));
}

#[test]
fn s2_a_family_is_blocked_alone() {
    let (mut table, ids) = Table::with(1);
    let opus = WindowKind::SevenDayFamily(family("opus"));
    let reset = Some(table.wall_after(HOUR));
    table.fail(ids[0], quota_rejected(rejection(Some(opus), reset, None)));
    let of =
        |name: &str, table: &mut Table| Request { family: Some(family(name)), ..table.request() };
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
    let mut table =
        Table::new(Policy { max_active_per_account: 2, max_active_global: 3, ..Policy::default() });
    let ids = [table.add(oauth("a")), table.add(oauth("b"))];
    let mut leases = Vec::new();
    for _ in 0..3 {
        let request = table.request();
        leases.push(table.granted(request).lease);
    }
    let busiest = leases.iter().filter(|lease| lease.account() == ids[0]).count();
    assert!((1..=2).contains(&busiest));
    let request = table.request();
    let ticket = table.queued(request);
    assert!(table.wakes().is_empty(), "all in flight below safetyMaxGlobalActive");
    if let Some(lease) = leases.pop() {
        table.complete(lease, Outcome::Success);
    }
    assert_eq!(table.wakes().first().map(|(woken, _)| *woken), Some(ticket));

    use WindowKind::{FiveHour, Generic, Requests, Tokens};
    for kind in [FiveHour, Tokens, Requests, Generic] {
        let (mut table, ids) = Table::with(1);
        let reset = Some(table.wall_after(secs(30)));
        table.learn(ids[0], vec![window(kind.clone(), 0.999, reset)]);
        let request = table.request();
        table.serve(request);
        table.learn(ids[0], vec![window(kind.clone(), 1.0, reset)]);
        let request = table.request();
        table.queued(request);
        let (waited, wakes) = table.until_wake();
        assert_eq!((waited, wakes.len()), (secs(30), 1), "{kind:?}");
    }
}

#[test]
fn s3_a_window_that_a_good_answer_calls_rejected_is_out() {
    let served = |claimed: WindowKind, verdict, model| {
        let (mut table, _) = Table::with(1);
        let reset = Some(table.wall_after(HOUR));
        let rejected = WindowReading {
            utilisation: None,
            verdict: Some(Verdict::Rejected),
            ..window(claimed, 0.0, reset)
        };
        let request = Request { family: Some(family("sonnet")), ..table.request() };
        let lease = table.granted(request).lease;
        table.head(&lease, 200, &QuotaReport { verdict, ..report(vec![rejected]) });
        table.complete(lease, Outcome::Success);
        let request = Request { family: Some(family(model)), ..table.request() };
        matches!(table.admit(request), maxpool::scheduler::Admission::Granted(_))
    };
    let (opus, allowed) = (WindowKind::SevenDayFamily(family("opus")), Some(Verdict::Allowed));
    assert!(!served(opus.clone(), allowed, "opus"));
    assert!(served(opus, allowed, "sonnet"), "another family's");
    assert!(!served(WindowKind::FiveHour, None, "sonnet"));
    assert!(served(WindowKind::FiveHour, allowed, "sonnet"), "the API serves it all the same");
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
    let Some(Wake::Granted { ticket, grant }) = wakes.pop() else { panic!("not granted") };
    assert_eq!(ticket, tickets[0]);
    table.complete(grant.lease, quota_rejected(QuotaReport::default()));
    let (waited, mut wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(60), 1), "refused: for another minute");
    let Some(Wake::Granted { grant, .. }) = wakes.pop() else { panic!("not granted") };
    table.head(&grant.lease, 200, &QuotaReport::default());
    assert_eq!(table.wakes().len(), 1, "served: it does not hold any more");
}

#[test]
fn s4_tiers_decide_who_serves() {
    // The used share of the week on the first account; the second account is either fresh or out.
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
        // The second account would lose by its score.
        let (start, late) = (table.wall_after(5 * HOUR), table.wall_after(6 * DAY));
        table.learn(
            ids[1],
            vec![
                window(WindowKind::SevenDay, 0.1, Some(late)),
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
    assert_eq!(table.account(ids[0]).weekly.state, None, "unknown without a weekly value");
    let reset = table.wall_after(6 * DAY);
    table.learn(ids[0], vec![window(WindowKind::SevenDay, 0.8, Some(reset))]);
    let weekly = table.account(ids[0]).weekly;
    assert_eq!((weekly.raw_state, weekly.pace_state), (Some(Tier::Soft), Some(Tier::Exhausted)));
    assert_eq!(weekly.state, Some(Tier::Critical));
    let effective = 0.8 + 0.6 * (0.8 - 1.0 / 7.0);
    assert!(weekly.effective_usage.is_some_and(|usage| (usage - effective).abs() < 1e-9));
    table.fail(ids[0], quota_rejected(rejection(Some(WindowKind::SevenDay), Some(reset), None)));
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
    let (soon, late) = (table.wall_after(secs(600)), table.wall_after(5 * HOUR - secs(360)));
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
        assert_eq!(table.serve(request), ids[1], "failures and recovery cost at first");
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
    let mut table = Table::new(Policy { spread_share_weight: 0.0, ..Policy::default() });
    let ids = [table.add(oauth("a")), table.add(oauth("b")), table.add(oauth("c"))];
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
    assert_eq!(table.scheduler.set_routing(table.now, Routing::Preferred(ids[2])), Ok(()));
    let reset = table.wall_after(HOUR);
    table.learn(ids[2], vec![window(WindowKind::SevenDay, 0.97, Some(reset))]);
    for _ in 0..3 {
        let request = table.request();
        assert_eq!(table.serve(request), ids[2], "S7a: critical included");
    }
    let failed = Request { excluded: vec![ids[2]], attempts: 1, ..table.request() };
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
        table.scheduler.set_routing(table.now, Routing::Preferred(ids[2])),
        Err(CannotPrefer)
    );
    let glm = table.add(provider("glm"));
    assert_eq!(
        table.scheduler.set_routing(table.now, Routing::Preferred(glm)),
        Err(CannotPrefer),
        "only a Claude account"
    );

    let first = table.add(AccountSpec { priority: -1, ..oauth("first") });
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
    table.fail(claude, Outcome::NeedsLogin { evidence: evidence(401, "expired") });
    let request = in_profile(&mut table, "claude");
    assert_eq!(table.refused(request).reason, RefusalReason::CredentialsOnly(vec![Arc::from("a")]));
    let request = in_profile(&mut table, "all");
    assert_eq!(table.serve(request), glm);
    table.scheduler.update_account(table.now, claude, AccountSpec { enabled: false, ..oauth("a") });
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
    table.fail(claude, quota_rejected(rejection(None, None, Some(secs(10)))));
    let request = table.request();
    let first = table.queued(request);
    let request = table.request();
    let second = table.queued(request);
    let fallback = Request { profile: Arc::from("all"), ..table.request() };
    assert_eq!(
        table.serve(fallback),
        glm,
        "Q2: none waits for one that its account could not serve"
    );
    table.pass(secs(10));
    // A new request arrives at the very moment when the account returns.
    let request = table.request();
    let grant = table.granted(request);
    let order: Vec<_> = table.wakes().into_iter().map(|(ticket, _)| ticket).collect();
    assert_eq!(order, [first, second]);
    assert_eq!(grant.account, claude);
}

#[test]
fn s9_a_session_stays_leaves_and_returns() {
    let (mut table, ids) = Table::with(2);
    quiet_week(&mut table, &ids);
    for _ in 0..3 {
        let request = with_session(&mut table, 1);
        assert_eq!(table.serve(request), ids[0], "the first account is the home");
    }
    table.fail(ids[0], quota_rejected(rejection(None, None, Some(secs(60)))));
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
    let better = table.add(AccountSpec { priority: -5, ..oauth("b") });
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
    assert_ne!(table.serve(request), home, "critical only if nothing else can");
}

#[test]
fn s10_a_storm_is_taken_over_one_by_one() {
    let (mut table, ids) = Table::with(2);
    let mut moved = Vec::new();
    for _ in 0..6 {
        let request = Request { pinned: Some(ids[0]), ..table.request() };
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
        let request = Request { pinned: Some(ids[0]), ..table.request() };
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
        table.fail(*id, set_aside());
    }
    let ends: Vec<_> = ids.iter().map(|id| table.blocked_for(*id)).collect();
    assert_eq!(ends, [Some(secs(30)), Some(secs(31)), Some(secs(32))]);
    assert!(
        table.account(ids[0]).cooldown_until.is_some_and(|at| at == table.wall_after(secs(30)))
    );
    assert_eq!(table.account(ids[0]).rate_limited_until, None);
}

#[test]
fn s11_paid_overage_is_the_last_resort_or_none() {
    let (mut table, ids) = Table::with(2);
    overage(&mut table, ids[0]);
    for _ in 0..3 {
        let request = table.request();
        assert_eq!(table.serve(request), ids[1]);
    }
    table.fail(ids[1], set_aside());
    let request = table.request();
    assert_eq!(table.serve(request), ids[0], "last: when nothing else can");
    assert!(!table.account(ids[0]).overage_in_use, "until an answer without that header");
    let (mut table, ids) = Table::with(2);
    overage(&mut table, ids[0]);
    table.scheduler.set_policy(table.now, Policy { overage: Overage::Never, ..Policy::default() });
    let request = table.request();
    let explained = table.scheduler.explain(table.now, &request);
    assert!(
        explained.passed_over.iter().any(|one| one.reason == PassedOver::OverageInUse),
        "{explained:?}"
    );
    table.pass(HOUR);
    assert!(!table.account(ids[0]).overage_in_use, "while that window lasts");
}

#[test]
fn s12_explain_says_why() {
    let (mut table, ids) = Table::with(3);
    table.fail(
        ids[1],
        quota_rejected(rejection(Some(WindowKind::FiveHour), Some(START.wall + HOUR), None)),
    );
    let glm = table.add(provider("glm"));
    let request = table.request();
    let explained = table.scheduler.explain(table.now, &request);
    let ranked: Vec<_> = explained.candidates.iter().map(|one| one.rank).collect();
    assert_eq!(ranked, [1, 2]);
    assert_eq!(explained.candidates[0].score, explained.candidates[0].terms.total());
    let over: Vec<_> = explained
        .passed_over
        .iter()
        .map(|one| (one.account, one.reason.clone(), one.wait))
        .collect();
    let blocked = PassedOver::Blocked(BlockReason::Quota(Some(WindowKind::FiveHour)));
    assert_eq!(over, [(ids[1], blocked, Some(HOUR)), (glm, PassedOver::OtherProfile, None)]);
    assert_eq!(
        explained.passed_over[0].evidence.as_ref().and_then(|evidence| evidence.status),
        Some(429)
    );

    for _ in 0..60 {
        let request = table.request();
        table.serve(request);
    }
    assert_eq!(table.scheduler.decisions().count(), 50, "the last 50 decisions");
    let last = table.scheduler.decisions().last().map(|one| one.request);
    assert_eq!(last, Some(61 + 1));
}
