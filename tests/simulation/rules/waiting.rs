//! Waiting, and events from outside: SPEC Q and the rest.

use super::*;

#[test]
fn q2_a_newcomer_never_overtakes() {
    let mut table = Table::new(Policy { max_active_per_account: 1, ..Policy::default() });
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
    assert_eq!(table.wakes().first().map(|(ticket, _)| *ticket), Some(newcomer));
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
    table.fail(ids[0], quota_rejected(rejection(None, None, Some(secs(300)))));
    let unwilling = Request { holdable: false, ..table.request() };
    assert_eq!(table.refused(unwilling).reason, RefusalReason::Limited(WaitCause::Quota));
    let huge = Request { body_bytes: 268_435_457, ..table.request() };
    assert_eq!(table.refused(huge).reason, RefusalReason::TooLargeToHold(WaitCause::Quota));
    let plain = Request { shape: Shape::NonStream, ..table.request() };
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
    let forbidden = Outcome::Unusable { evidence: evidence(403, "no") };
    table.fail(ids[0], forbidden);
    table.fail(ids[1], quota_rejected(rejection(None, None, Some(2 * HOUR))));
    table.scheduler.set_policy(table.now, Policy { poll: DAY, ..Policy::default() });
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
        table.complete(grant.lease, set_aside());
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
    let mut table = Table::new(Policy { max_attempts: 1, ..Policy::default() });
    let ids = [table.add(oauth("a")), table.add(oauth("b"))];
    table.fail(ids[0], set_aside());
    let failed = Request {
        excluded: vec![ids[0]],
        attempts: 1,
        last_failure: Some(WaitCause::Capacity),
        ..table.request()
    };
    assert_eq!(table.refused(failed.clone()).reason, RefusalReason::AttemptsExhausted);
    table.fail(ids[1], set_aside());
    table.queued(failed);
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(30), 1));
}

#[test]
fn q3_the_queue_is_bounded() {
    let mut table = Table::new(Policy { max_queued: 2, ..Policy::default() });
    let id = table.add(oauth("a"));
    table.fail(id, set_aside());
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
    table.fail(ids[0], set_aside());
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
    table.fail(ids[0], quota_rejected(rejection(None, None, Some(secs(400)))));
    let patient = Request { tolerance: Some(secs(280)), resume: Some(77), ..table.request() };
    table.queued(patient);
    let request = table.request();
    let second = table.queued(request);
    let (waited, wakes) = table.until_wake();
    assert_eq!(waited, secs(280));
    assert!(
        matches!(&wakes[..], [Wake::Expired { limit: Limit::ClientTolerance, .. }]),
        "{wakes:?}"
    );
    table.pass(secs(1));
    let back = Request { tolerance: Some(secs(280)), resume: Some(77), ..table.request() };
    let back = table.queued(back);
    let (_, wakes) = table.until_wake();
    let order: Vec<_> = wakes.iter().map(Wake::ticket).collect();
    assert_eq!(order, [back, second]);
}

#[test]
fn q6_the_fallback_of_a_held_stream_is_held_wherever_the_end_is() {
    let (mut table, ids) = Table::with(1);
    let far = quota_rejected(rejection(None, None, Some(secs(3000))));
    table.fail(ids[0], far);
    let session = Some(SessionKey(5));
    let fallback = |table: &mut Table| Request {
        shape: Shape::NonStream,
        session,
        resume: Some(78),
        ..table.request()
    };
    let alone = fallback(&mut table);
    let refusal = table.refused(alone);
    assert_eq!(refusal.wait, Some(secs(3000)), "Q1: answered at once with that time");
    let stream =
        Request { tolerance: Some(secs(280)), session, resume: Some(77), ..table.request() };
    table.queued(stream);
    let (_, wakes) = table.until_wake();
    assert!(matches!(&wakes[..], [Wake::Expired { .. }]), "{wakes:?}");
    for _ in 0..3 {
        table.pass(secs(1));
        let request = fallback(&mut table);
        table.queued(request);
        let (waited, wakes) = table.until_wake();
        assert_eq!(waited, secs(240));
        let limit = Limit::ClientTolerance;
        assert!(
            matches!(&wakes[..], [Wake::Expired { limit: told, .. }] if *told == limit),
            "{wakes:?}"
        );
    }
    table.pass(secs(61));
    let late = fallback(&mut table);
    table.refused(late);
}

#[test]
fn a_clock_that_is_set_moves_resets_and_nothing_else() {
    let (mut table, ids) = Table::with(2);
    let reset = Some(table.wall_after(HOUR));
    table.fail(ids[0], quota_rejected(rejection(Some(WindowKind::FiveHour), reset, None)));
    table.fail(ids[1], set_aside());
    let request = table.request();
    table.queued(request);
    table.now.wall = table.now.wall + HOUR;
    table.scheduler.clock_stepped(table.now);
    assert_eq!(table.wakes().len(), 1, "the reset has passed");
    assert_eq!(table.blocked_for(ids[1]), Some(secs(30)), "the cooldown has not");
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
        Usage { input: 5, output: 7, cache_read: 1, cache_write: 2 },
    );
    let saved = table.scheduler.learned(table.now, ids[0]);
    let Some(saved) = saved else { panic!("known") };
    assert_eq!(saved.windows.len(), 3);
    let (mut next, new) = Table::with(1);
    next.pass(secs(1));
    next.scheduler.restore(next.now, new[0], &saved);
    let account = next.account(new[0]);
    let kinds: Vec<_> =
        account.windows.iter().map(|window| (window.kind.clone(), window.source)).collect();
    assert_eq!(
        kinds,
        [(WindowKind::FiveHour, Source::Restored)],
        "no reset and passed ones are dropped"
    );
    assert_eq!(account.usage.tokens.output, 7);
    next.learn(new[0], vec![window(WindowKind::FiveHour, 0.9, Some(reset))]);
    next.scheduler.restore(next.now, new[0], &saved);
    assert_eq!(next.account(new[0]).windows[0].used, Some(0.9), "what was said since stays");
}

/// If a ramp starts again when its account returns, waits may become too long; the affected
/// requests learn of it at that moment.
#[test]
fn s10_nobody_learns_of_a_recovery_before_the_wake_up_told() {
    let mut table =
        Table::new(Policy { capacity_max_wait: ms(1_600), poll: secs(60), ..Policy::default() });
    let ids = ["a", "b", "c"].map(|name| table.add(oauth(name)));
    let week = Some(table.wall_after(20 * HOUR));
    let on = |table: &mut Table, id| {
        let request = Request { pinned: Some(id), ..table.request() };
        table.granted(request).lease
    };
    let out = || quota_rejected(rejection(Some(WindowKind::SevenDay), week, None));
    let storm = |table: &mut Table, id| {
        let mut moved = Vec::new();
        for _ in 0..6 {
            let lease = on(table, id);
            table.head(&lease, 200, &QuotaReport::default());
            moved.push(lease);
        }
        for lease in moved {
            table.complete(lease, out());
        }
    };
    storm(&mut table, ids[1]);
    for _ in 0..6 {
        let _under_way = on(&mut table, ids[0]);
        table.pass(ms(250));
    }
    storm(&mut table, ids[2]);
    let block = Block {
        reason: BlockReason::ServerSide,
        end: End::after(table.now, secs(1)),
        scope: Scope::Account,
        evidence: evidence(429, "not your usage limit").into(),
    };
    table.scheduler.block(table.now, ids[0], block);
    for _ in 0..5 {
        let request = table.request();
        table.queued(request);
    }
    assert!(table.poll().is_empty());
    while let Some(at) = table.scheduler.next_wakeup(table.now) {
        table.pass(at.since(table.now.mono) - ms(1));
        let early = table.poll();
        assert!(early.is_empty(), "told to come 1 ms later: {early:?}");
        table.pass(ms(1));
        table.poll();
    }
}
