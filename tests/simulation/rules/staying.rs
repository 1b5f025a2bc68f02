//! Where a session stays, when it returns, and how new sessions are ordered: SPEC S3, S4, S7.

use super::*;

fn used(table: &mut Table, id: AccountId, five_hours: f64) {
    let reset = Some(table.wall_after(4 * HOUR));
    table.learn(id, vec![window(WindowKind::FiveHour, five_hours, reset)]);
}

fn week(table: &mut Table, id: AccountId, used: f64) {
    let reset = Some(table.wall_after(HOUR));
    table.learn(id, vec![window(WindowKind::SevenDay, used, reset)]);
}

fn served(table: &mut Table, session: u128) -> (AccountId, Why) {
    let request = with_session(table, session);
    let grant = table.granted(request);
    table.head(&grant.lease, 200, &QuotaReport::default());
    table.complete(grant.lease, Outcome::Success);
    (grant.account, grant.why)
}

#[test]
fn s3_a_near_account_serves_what_no_other_can_before_anything_waits() {
    for kind in [WindowKind::FiveHour, WindowKind::Tokens, WindowKind::Requests] {
        let (mut table, ids) = Table::with(2);
        let reset = Some(table.wall_after(HOUR));
        table.learn(ids[0], vec![window(kind.clone(), 0.90, reset)]);
        for _ in 0..3 {
            let request = table.request();
            assert_eq!(table.serve(request), ids[1], "{kind:?}");
        }
        let explained = table.scheduler.explain(table.now, &Request::new(9, table.now.mono));
        let near = Avoided::Near { kind, percent: 90 };
        assert_eq!(explained.candidates[1].avoided, [near]);
        table.fail(ids[1], set_aside());
        let request = table.request();
        assert_eq!(table.serve(request), ids[0]);
    }
}

#[test]
fn s3_what_the_api_says_goes_before_our_threshold_for_the_week() {
    let said = |verdict| QuotaReport { verdict, ..QuotaReport::default() };
    for (verdict, serves) in
        [(None, false), (Some(Verdict::Allowed), true), (Some(Verdict::AllowedWarning), true)]
    {
        let (mut table, ids) = Table::with(1);
        answer(&mut table, ids[0], &said(verdict));
        week(&mut table, ids[0], 0.99);
        let request = table.request();
        let explained = table.scheduler.explain(table.now, &request);
        let chosen = matches!(explained.verdict, ExplainedVerdict::Chosen(..));
        assert_eq!(chosen, serves, "{verdict:?}");
        let state = table.account(ids[0]).weekly;
        assert_eq!(state.raw_state, Some(Tier::Exhausted), "ignores that word");
        let expected = if serves { Tier::Critical } else { Tier::Exhausted };
        assert_eq!(state.state, Some(expected));
        week(&mut table, ids[0], 1.0);
        let request = table.request();
        assert_eq!(
            table.refused(request).reason,
            RefusalReason::Limited(WaitCause::Weekly),
            "a window at 1.0 is full"
        );
    }
}

#[test]
fn s3_an_owner_can_set_a_hard_limit() {
    let rows = [
        (Some(0.5), None, WindowKind::FiveHour, 0.49, true),
        (Some(0.5), None, WindowKind::FiveHour, 0.50, false),
        (None, Some(0.8), WindowKind::SevenDay, 0.79, true),
        (None, Some(0.8), WindowKind::SevenDay, 0.80, false),
    ];
    for (five_hour, week, kind, used, serves) in rows {
        let mut table = Table::new(Policy::default());
        let id = table.add(AccountSpec { limit: AccountLimit { five_hour, week }, ..oauth("a") });
        let reset = Some(table.wall_after(HOUR));
        table.learn(id, vec![window(kind.clone(), used, reset)]);
        let explained = table.scheduler.explain(table.now, &Request::new(1, table.now.mono));
        assert_eq!(explained.candidates.len() == 1, serves, "{kind:?} {used}");
        if !serves {
            let percent = (used * 100.0) as u8;
            let reason = PassedOver::LimitReached { kind, percent };
            assert_eq!(explained.passed_over[0].reason, reason);
        }
    }
}

#[test]
fn s4_a_week_at_the_switch_threshold_counts_as_reserve() {
    let mut table = Table::new(Policy { weekly_reserve: 0.94, ..Policy::default() });
    let id = table.add(oauth("a"));
    week(&mut table, id, 0.90);
    assert_eq!(table.account(id).weekly.state, Some(Tier::Reserve));
}

#[test]
fn s7_a_session_stays_with_its_cache_on_a_near_account() {
    let (mut table, ids) = Table::with(2);
    assert_eq!(served(&mut table, 1).0, ids[0]);
    used(&mut table, ids[0], 0.95);
    table.pass(secs(200));
    assert_eq!(served(&mut table, 1), (ids[0], Why::Home));
    let explained = {
        let request = Request { body_bytes: 400_000, ..with_session(&mut table, 1) };
        table.scheduler.explain(table.now, &request)
    };
    let cache = explained.cache.map(|cache| (cache.account, cache.tokens));
    assert_eq!(cache, Some((ids[0], 100_000)));
    table.pass(secs(300));
    assert_eq!(served(&mut table, 1).0, ids[1], "idle for five minutes: placed anew");
}

#[test]
fn s7_a_session_leaves_a_critical_account_once() {
    let (mut table, ids) = Table::with(2);
    assert_eq!(served(&mut table, 1).0, ids[0]);
    week(&mut table, ids[0], 0.96);
    assert_eq!(served(&mut table, 1).0, ids[1], "for a better tier");
    week(&mut table, ids[1], 0.96);
    week(&mut table, ids[0], 0.10);
    assert_eq!(served(&mut table, 1), (ids[0], Why::Home), "home is warm");
    week(&mut table, ids[0], 0.96);
    week(&mut table, ids[1], 0.10);
    assert_eq!(served(&mut table, 1), (ids[0], Why::Home), "and then it stays");

    let (mut table, ids) = Table::with(2);
    assert_eq!(served(&mut table, 1).0, ids[0]);
    for id in &ids {
        week(&mut table, *id, 0.96);
    }
    assert_eq!(served(&mut table, 1).0, ids[0], "no better tier is available");
}

#[test]
fn s4_a_long_conversation_leaves_a_critical_account_when_its_cache_is_cold() {
    let (mut table, ids) = Table::with(2);
    let long = |table: &mut Table| {
        let request = Request { body_bytes: 400_000, ..with_session(table, 1) };
        let grant = table.granted(request);
        table.head(&grant.lease, 200, &QuotaReport::default());
        table.complete(grant.lease, Outcome::Success);
        grant.account
    };
    assert_eq!(long(&mut table), ids[0]);
    week(&mut table, ids[0], 0.96);
    table.pass(secs(290));
    assert_eq!(long(&mut table), ids[0], "its cache is worth more");
    table.pass(secs(300));
    assert_eq!(long(&mut table), ids[1], "it has none any more");
}

#[test]
fn s7_a_critical_account_is_not_left_for_one_that_the_passes_put_behind_it() {
    let mut table = Table::new(Policy::default());
    let ids = [table.add(oauth("a")), table.add(oauth("b"))];
    table.add(AccountSpec { kind: Kind::ApiKey, priority: 5, ..oauth("key") });
    assert_eq!(served(&mut table, 1).0, ids[0]);
    for id in ids {
        week(&mut table, id, 0.96);
    }
    for _ in 0..4 {
        assert_eq!(served(&mut table, 1).0, ids[0], "a subscription comes before a key");
    }
}

#[test]
fn s11_paid_overage_ends_what_the_api_rejected_before() {
    let (mut table, ids) = Table::with(1);
    let request = table.request();
    let grant = table.granted(request);
    table.fail(ids[0], quota_rejected(rejection(Some(WindowKind::FiveHour), None, Some(HOUR))));
    let quota = QuotaReport { overage_in_use: Some(true), ..QuotaReport::default() };
    table.head(&grant.lease, 200, &quota);
    table.complete(grant.lease, Outcome::Success);
    let request = table.request();
    assert_eq!(table.serve(request), ids[0]);
}

#[test]
fn s7_a_session_returns_home_when_that_costs_no_cache() {
    // Seconds for which the home is out, seconds after which the session is checked, seconds
    // between its requests, and whether it has returned by then.
    let rows: [(&str, u64, u64, u64, bool); 5] = [
        ("the copy at home is warm", 40, 50, 50, true),
        ("it is not any more, the copy here is", 350, 400, 100, false),
        ("idle for five minutes", 350, 700, 350, true),
        ("warm here for long", 350, 3_200, 200, false),
        ("an hour after the home came back", 350, 3_800, 200, true),
    ];
    for (rule, blocked, away, pause, back) in rows {
        let (mut table, ids) = Table::with(2);
        quiet_week(&mut table, &ids);
        assert_eq!(served(&mut table, 1).0, ids[0]);
        table.fail(ids[0], quota_rejected(rejection(None, None, Some(secs(blocked)))));
        assert_eq!(served(&mut table, 1).0, ids[1], "displaced: {rule}");
        let mut at = 0;
        let mut last = ids[1];
        while at + pause <= away {
            table.pass(secs(pause));
            at += pause;
            last = served(&mut table, 1).0;
        }
        assert_eq!(last == ids[0], back, "S7: {rule}");
    }
}

#[test]
fn s7_home_is_no_place_to_return_to_while_it_is_critical_or_avoided() {
    for (five_hours, weekly) in [(0.95, 0.1), (0.1, 0.96)] {
        let (mut table, ids) = Table::with(2);
        assert_eq!(served(&mut table, 1).0, ids[0]);
        table.fail(ids[0], quota_rejected(rejection(None, None, Some(secs(10)))));
        assert_eq!(served(&mut table, 1).0, ids[1]);
        table.pass(secs(20));
        used(&mut table, ids[0], five_hours);
        week(&mut table, ids[0], weekly);
        assert_eq!(served(&mut table, 1), (ids[1], Why::Current));
    }
}

#[test]
fn s7_subscriptions_then_keys_then_providers_and_paid_overage_last() {
    let in_all = |table: &mut Table| Request { profile: Arc::from("all"), ..table.request() };
    let mut table = Table::new(Policy::default());
    let glm = table.add(AccountSpec { priority: -5, ..provider("glm") });
    let key = table.add(AccountSpec { kind: Kind::ApiKey, priority: 5, ..oauth("key") });
    let near = table.add(oauth("near"));
    let paid = table.add(oauth("paid"));
    used(&mut table, near, 0.95);
    overage(&mut table, paid);
    let mut order = Vec::new();
    for _ in 0..4 {
        let request = in_all(&mut table);
        let account = table.serve(request);
        order.push(account);
        let spec = AccountSpec { enabled: false, ..oauth("done") };
        table.scheduler.update_account(table.now, account, spec);
    }
    assert_eq!(order, [near, key, glm, paid]);

    // An API key with the same priority as the best subscription ranks beside it.
    let mut table = Table::new(Policy::default());
    let near = table.add(oauth("near"));
    let key = table.add(AccountSpec { kind: Kind::ApiKey, ..oauth("key") });
    used(&mut table, near, 0.95);
    let request = in_all(&mut table);
    assert_eq!(table.serve(request), key);
}

#[test]
fn s7_a_session_leaves_paid_overage_for_another_account() {
    let (mut table, ids) = Table::with(2);
    assert_eq!(served(&mut table, 1).0, ids[0]);
    overage(&mut table, ids[0]);
    assert_eq!(served(&mut table, 1).0, ids[1]);
    let (mut table, ids) = Table::with(1);
    overage(&mut table, ids[0]);
    assert_eq!(served(&mut table, 1).0, ids[0], "before anything waits");
}

#[test]
fn s11_overage_ends_with_a_429_and_with_the_rejection() {
    let (mut table, ids) = Table::with(1);
    overage(&mut table, ids[0]);
    let request = table.request();
    let grant = table.granted(request);
    let quota = rejection(Some(WindowKind::FiveHour), Some(table.wall_after(HOUR)), None);
    table.head(&grant.lease, 429, &quota);
    assert!(!table.account(ids[0]).overage_in_use);
    table.complete(grant.lease, quota_rejected(quota));
    let request = table.request();
    table.queued(request);

    let (mut table, ids) = Table::with(1);
    overage(&mut table, ids[0]);
    table.pass(HOUR - secs(1));
    assert!(table.account(ids[0]).overage_in_use);
    table.pass(secs(1));
    assert!(!table.account(ids[0]).overage_in_use);
}
