//! The brink and cold starts: SPEC S6.

use super::*;

const SIZE: u64 = 400_000;

/// An account where one large uncached request is known to take a tenth of the five-hour window, of
/// which this share is used.
fn measured(used: f64) -> (Table, AccountId) {
    let (mut table, ids) = Table::with(1);
    read(&mut table, used - 0.2);
    read(&mut table, used - 0.1);
    read(&mut table, used);
    table.pass(secs(900));
    (table, ids[0])
}

fn large(table: &mut Table) -> Request {
    Request { body_bytes: SIZE, ..table.request() }
}

fn five_hours(table: &Table, used: f64) -> QuotaReport {
    let reset = START.wall + 4 * HOUR;
    assert!(reset > table.now.wall);
    report(vec![window(WindowKind::FiveHour, used, Some(reset))])
}

fn read(table: &mut Table, used: f64) {
    let request = large(table);
    let grant = table.granted(request);
    let quota = five_hours(table, used);
    table.head(&grant.lease, 200, &quota);
    table.complete(grant.lease, Outcome::Success);
}

/// Queues a request that can only wait, because its account is out.
fn someone_waits(table: &mut Table) {
    let other = table.add(AccountSpec { profiles: vec![Arc::from("other")], ..oauth("other") });
    table.fail(other, quota_rejected(rejection(None, None, Some(2 * HOUR))));
    let request = Request { profile: Arc::from("other"), ..table.request() };
    table.queued(request);
}

#[test]
fn s6_an_account_at_the_brink_takes_nobody_until_a_head_comes() {
    let (mut table, _) = measured(0.75);
    let request = large(&mut table);
    let first = table.granted(request);
    let request = large(&mut table);
    let second = table.queued(request);
    assert!(table.wakes().is_empty());
    let quota = five_hours(&table, 0.75);
    table.head(&first.lease, 200, &quota);
    let woken = table.wakes();
    assert_eq!(woken.first().map(|(ticket, _)| *ticket), Some(second));

    let (mut table, _) = measured(0.75);
    let request = large(&mut table);
    let _first = table.granted(request);
    let request = large(&mut table);
    table.queued(request);
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(5), 1), "at most 5 s");
}

#[test]
fn s6_the_brink_refuses_nobody() {
    let (mut table, id) = measured(0.75);
    let request = large(&mut table);
    let _first = table.granted(request);
    let request = Request { holdable: false, ..large(&mut table) };
    assert_eq!(table.granted(request).account, id);
}

#[test]
fn s6_cold_starts_are_few_while_requests_wait() {
    let (mut table, id) = measured(0.30);
    // It takes a little less than a fiftieth of the five-hour window, where the limit is 0.035.
    let known = Request { session: Some(SessionKey(1)), body_bytes: 70_000, ..table.request() };
    assert_eq!(table.serve(known.clone()), id);
    table.pass(secs(60));
    someone_waits(&mut table);
    let request = large(&mut table);
    let ticket = table.queued(request);
    assert!(table.wakes().is_empty());
    let explained = table.scheduler.explain(table.now, &large(&mut Table::with(1).0));
    assert_eq!(explained.passed_over[0].reason, PassedOver::ColdStart);
    let warm = Request { id: 99, ..known };
    assert_eq!(table.serve(warm), id, "none that is warm waits behind it");
    let small = table.request();
    assert_eq!(table.serve(small), id, "nor one that is small enough");
    let (waited, wakes) = table.until_wake();
    assert_eq!((wakes.len(), wakes[0].ticket()), (1, ticket));
    assert!(waited > secs(450) && waited <= secs(600), "{waited:?}");
}

#[test]
fn s6_nobody_is_kept_for_one_in_suspense() {
    let (mut table, id) = measured(0.30);
    let request = large(&mut table);
    table.serve(request);
    table.pass(ms(1));
    let mut odd = Request { kin: Kin(9), session: Some(SessionKey(9)), ..table.request() };
    let grant = table.granted(odd.clone());
    let after = table.complete(grant.lease, bare(Unproven::Error));
    odd.trail.add(after, &Policy::default());
    odd.excluded.push(id);
    odd.last_failure = Some(WaitCause::Capacity);
    table.queued(odd);
    let request = large(&mut table);
    assert_eq!(table.serve(request), id, "S8: suspense is not in that queue");
}

#[test]
fn s6_nobody_waits_for_a_cold_start_alone() {
    let (mut table, id) = measured(0.30);
    for _ in 0..3 {
        let request = large(&mut table);
        assert_eq!(table.serve(request), id);
    }
}

#[test]
fn s6_nobody_is_kept_for_more_than_ten_minutes() {
    let (mut table, _) = measured(0.30);
    let request = large(&mut table);
    table.serve(request);
    someone_waits(&mut table);
    let request = large(&mut table);
    let ticket = table.queued(request);
    assert!(table.wakes().is_empty());
    let begun = table.now.mono;
    // Otherwise, a series of cold starts would keep it waiting for ever.
    let wake = loop {
        table.pass(secs(20));
        if let Some(wake) = table.poll().pop() {
            break wake;
        }
        let cannot_wait = Request { holdable: false, ..large(&mut table) };
        table.serve(cannot_wait);
        assert!(table.now.mono.since(begun) <= secs(620));
    };
    assert_eq!(wake.ticket(), ticket);
    assert_eq!(table.now.mono.since(begun), secs(600));
}

#[test]
fn s6_whose_own_limit_comes_first_is_served() {
    let (mut table, _) = measured(0.30);
    let request = large(&mut table);
    table.serve(request);
    someone_waits(&mut table);
    let impatient = Request { shape: Shape::NonStream, ..large(&mut table) };
    let first = table.queued(impatient);
    let (waited, wakes) = table.until_wake();
    assert!(matches!(wakes[..], [Wake::Granted { .. }]), "{wakes:?}");
    assert_eq!((waited, wakes[0].ticket()), (secs(240), first));
    let bears = Request { tolerance: Some(secs(100)), ..large(&mut table) };
    let ticket = table.queued(bears);
    assert!(table.wakes().is_empty());
    let (waited, wakes) = table.until_wake();
    assert!(matches!(wakes[..], [Wake::Granted { .. }]), "{wakes:?}");
    assert_eq!((waited, wakes[0].ticket()), (secs(100), ticket));
}
