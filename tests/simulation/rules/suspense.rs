//! A request that was refused everywhere without evidence: SPEC P7, suspense.

use super::*;

/// A request with its own session that every account has refused without a reason, and its ticket.
fn in_suspense(table: &mut Table, accounts: usize) -> Ticket {
    let mut request = odd(table);
    for _ in 0..accounts {
        let grant = table.granted(request.clone());
        request.excluded.push(grant.account);
        request.attempts += 1;
        request.last_failure = Some(WaitCause::Capacity);
        table.pass(ms(1));
        let after = table.complete(grant.lease, bare(Unproven::Error));
        assert!(!after.is_the_end());
        request.trail.add(after, &Policy::default());
    }
    table.queued(request)
}

fn odd(table: &mut Table) -> Request {
    Request { kin: Kin(1), session: Some(SessionKey(1)), ..table.request() }
}

fn plain(table: &mut Table) -> Request {
    Request { kin: Kin(2), session: Some(SessionKey(2)), ..table.request() }
}

#[track_caller]
fn the_look(wakes: Vec<Wake>, ticket: Ticket) -> Grant {
    match <[Wake; 1]>::try_from(wakes) {
        Ok([Wake::Granted { ticket: served, grant }]) if served == ticket => grant,
        other => panic!("not one grant: {other:?}"),
    }
}

/// Ends an attempt as the worker does, and asks again.
fn again(table: &mut Table, grant: Grant, outcome: Outcome) -> (Request, bool) {
    let mut request = odd(table);
    request.clock = grant.clock;
    request.trail = grant.trail;
    request.excluded = vec![grant.account];
    request.attempts = 1;
    let after = table.complete(grant.lease, outcome);
    let ends = after.is_the_end();
    request.trail.add(after, &Policy::default());
    (request, ends)
}

#[test]
fn p7_the_refusal_is_its_own_once_another_request_was_served() {
    let (mut table, ids) = Table::with(2);
    let ticket = in_suspense(&mut table, 2);
    assert!(table.poll().is_empty());
    assert!(ids.iter().all(|id| table.blocked_for(*id).is_some()), "both are avoided");
    table.pass(secs(1));
    let request = plain(&mut table);
    table.serve(request);
    let (waited, wakes) = table.until_wake();
    assert_eq!(waited, secs(0), "it looks at once");
    let grant = the_look(wakes, ticket);
    let (_, ends) = again(&mut table, grant, bare(Unproven::Error));
    assert!(ends);
    assert!(ids.iter().all(|id| table.blocked_for(*id).is_none()), "nobody is avoided any more");
}

#[test]
fn p7_a_look_that_tells_nothing_is_not_repeated_at_once() {
    for outcome in [
        Outcome::Network { blame: Blame::Nobody, evidence: evidence(0, "no such name") },
        Outcome::Abandoned,
    ] {
        let (mut table, _) = Table::with(2);
        let ticket = in_suspense(&mut table, 2);
        let (waited, wakes) = table.until_wake();
        assert_eq!(waited, secs(30));
        let grant = the_look(wakes, ticket);
        let (request, _) = again(&mut table, grant, outcome);
        let ticket = table.queued(request);
        let (waited, wakes) = table.until_wake();
        assert_eq!(waited, secs(60), "one call, then the next delay");
        the_look(wakes, ticket);
    }
}

#[test]
fn p8_who_may_be_what_is_wrong_leaves_the_probe_to_others() {
    let (mut table, _) = Table::with(2);
    let ticket = in_suspense(&mut table, 2);
    // Another odd request proves it: both accounts are out, and the breaker opens.
    let mut other = Request { kin: Kin(3), session: Some(SessionKey(3)), ..table.request() };
    for _ in 0..2 {
        let grant = table.granted(other.clone());
        other.excluded.push(grant.account);
        let after = table.complete(grant.lease, bare(Unproven::Error));
        other.trail.add(after, &Policy::default());
    }
    let other = table.queued(other);
    assert!(table.scheduler.snapshot(table.now).breaker.active);
    let request = plain(&mut table);
    let innocent = table.queued(request);
    let (_, wakes) = table.until_wake();
    let probe = the_look(wakes, innocent);
    table.head(&probe.lease, 200, &QuotaReport::default());
    table.complete(probe.lease, Outcome::Success);
    let mut followed = Vec::new();
    for _ in 0..2 {
        let (waited, wakes) = table.until_wake();
        assert!(waited <= ms(250), "{waited:?}");
        followed.extend(wakes.iter().map(Wake::ticket));
    }
    assert_eq!(followed, [ticket, other], "those in suspense too");
}
