//! What ends a block before its time: SPEC P7, ways out.

use super::*;

/// An account whose week was rejected for three days.
fn out_for_days() -> (Table, AccountId) {
    let (mut table, ids) = Table::with(1);
    reject_week(&mut table, ids[0], 3 * DAY);
    (table, ids[0])
}

fn reject_week(table: &mut Table, account: AccountId, wait: Duration) {
    let request = Request { pinned: Some(account), ..table.request() };
    let grant = table.granted(request);
    let outcome = week_rejected(table, wait);
    table.complete(grant.lease, outcome);
}

fn week_rejected(table: &Table, wait: Duration) -> Outcome {
    let reset = table.wall_after(wait);
    quota_rejected(rejection(Some(WindowKind::SevenDay), Some(reset), None))
}

#[track_caller]
fn assert_refused(table: &mut Table) {
    let request = table.request();
    assert!(matches!(table.refused(request).reason, RefusalReason::Limited(WaitCause::Weekly)));
}

#[track_caller]
fn look(table: &mut Table) -> maxpool::scheduler::Lease {
    let request = table.request();
    let grant = table.granted(request);
    assert_eq!(grant.why, Why::LongLook);
    grant.lease
}

#[test]
fn p7_one_request_looks_every_six_hours() {
    let (mut table, _) = out_for_days();
    table.pass(6 * HOUR - ms(1));
    assert_refused(&mut table);
    table.pass(ms(1));
    let lease = look(&mut table);
    assert_refused(&mut table);
    let outcome = week_rejected(&table, 2 * DAY);
    table.complete(lease, outcome);
    table.pass(6 * HOUR - ms(1));
    assert_refused(&mut table);
    table.pass(ms(1));
    let lease = look(&mut table);
    table.complete(lease, Outcome::Abandoned);
    let lease = look(&mut table);
    table.complete(lease, server_error());
    table.pass(HOUR);
    assert_refused(&mut table);
    table.pass(5 * HOUR);
    let lease = look(&mut table);
    table.head(&lease, 200, &QuotaReport::default());
    table.complete(lease, Outcome::Success);
    let request = table.request();
    assert!(matches!(table.granted(request).why, Why::Score(_)), "the block has gone");
}

#[test]
fn p7_a_full_week_is_looked_at_as_well() {
    let (mut table, ids) = Table::with(1);
    let reset = table.wall_after(2 * DAY);
    table.learn(ids[0], vec![window(WindowKind::SevenDay, 1.0, Some(reset))]);
    assert_refused(&mut table);
    table.pass(6 * HOUR);
    let lease = look(&mut table);
    table.complete(lease, server_error());
    table.pass(HOUR);
    assert_refused(&mut table);
    table.pass(5 * HOUR);
    let _lease = look(&mut table);
}

#[test]
fn p7_a_reading_with_room_lifts_once_an_hour() {
    let (mut table, id) = out_for_days();
    table.pass(secs(10));
    let reset = table.wall_after(3 * DAY);
    table.learn(id, vec![window(WindowKind::FiveHour, 0.01, Some(reset))]);
    assert_refused(&mut table);
    table.learn(id, vec![window(WindowKind::SevenDay, 1.0, Some(reset))]);
    assert_refused(&mut table);
    let room = || vec![window(WindowKind::SevenDay, 0.01, Some(reset))];
    table.learn(id, room());
    let request = table.request();
    assert_eq!(table.serve(request), id);
    reject_week(&mut table, id, 2 * DAY);
    table.learn(id, room());
    assert_refused(&mut table);
    table.pass(HOUR);
    table.learn(id, room());
    let request = table.request();
    assert_eq!(table.serve(request), id);
}

#[test]
fn p7_retry_lifts_everything_but_a_missing_credential() {
    let (mut table, id) = out_for_days();
    let reset = table.wall_after(2 * HOUR);
    table.learn(id, vec![window(WindowKind::FiveHour, 1.0, Some(reset))]);
    table.scheduler.retry(table.now, id);
    let request = table.request();
    assert_eq!(table.serve(request), id);
    for outcome in [
        Outcome::Unusable { evidence: evidence(402, "pay") },
        Outcome::CredentialRefused { evidence: evidence(401, "no") },
        set_aside(),
    ] {
        table.fail(id, outcome);
        table.scheduler.retry(table.now, id);
        let request = table.request();
        assert_eq!(table.serve(request), id);
    }
    table.fail(id, Outcome::NeedsLogin { evidence: evidence(401, "no") });
    table.scheduler.retry(table.now, id);
    let request = table.request();
    table.refused(request);
}

#[test]
fn p7_retry_lets_the_next_request_probe() {
    let (mut table, ids) = Table::with(2);
    let mut request = table.request();
    for _ in 0..2 {
        let grant = table.granted(request.clone());
        request.excluded.push(grant.account);
        table.complete(grant.lease, refused(Some(secs(20)), "busy"));
    }
    assert!(table.scheduler.snapshot(table.now).breaker.active);
    for id in &ids {
        table.scheduler.retry(table.now, *id);
    }
    let request = table.request();
    let probe = table.granted(request);
    assert!(table.scheduler.snapshot(table.now).breaker.probe_in_flight);
    let request = table.request();
    table.queued(request);
    table.head(&probe.lease, 200, &QuotaReport::default());
    assert_eq!(table.wakes().len(), 1);
}
