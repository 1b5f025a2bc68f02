//! What answers mean, the breaker, signed thinking and threads: SPEC P.

use super::*;

#[test]
fn p7_what_an_answer_means() {
    let wait = |status| evidence(status, "words");
    let side = |overload, retry_after| Outcome::ServerSide {
        overload,
        retry_after,
        fingerprint: print("m"),
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
        ("server-side 429", side(Refused429, Some(secs(9))), Some(secs(9)), 0, Status::Throttled),
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
        ("529", side(Overloaded529, Some(secs(9))), Some(secs(9)), 0, Status::Active),
        ("529 without retry-after", side(Overloaded529, None), Some(secs(30)), 0, Status::Active),
        ("503", server_error(), Some(secs(30)), 1, Status::Active),
        ("500", bare(Unproven::Error), Some(secs(30)), 0, Status::Active),
        ("a bare 429", bare(Unproven::Limit(None)), Some(secs(30)), 0, Status::Throttled),
        ("own request", Outcome::OwnRequest { evidence: wait(429) }, None, 0, Status::Active),
        (
            "network",
            Outcome::Network { blame: Blame::Account, evidence: wait(0) },
            Some(secs(5)),
            0,
            Status::Active,
        ),
        (
            "a failed look-up blames nobody",
            Outcome::Network { blame: Blame::Nobody, evidence: wait(0) },
            None,
            0,
            Status::Active,
        ),
        (
            "401 on a key",
            Outcome::CredentialRefused { evidence: wait(401) },
            Some(secs(5)),
            0,
            Status::Error,
        ),
        ("needs login", Outcome::NeedsLogin { evidence: wait(401) }, None, 0, Status::Error),
        ("402", Outcome::Unusable { evidence: wait(402) }, Some(secs(1_800)), 0, Status::Active),
        ("403", Outcome::Forbidden { evidence: wait(403) }, None, 0, Status::Active),
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
fn p7_suspicion_doubles_up_to_the_longest() {
    let (mut table, ids) = Table::with(1);
    // One request alone proves nothing, so the account stays usable.
    for expected in [30, 60, 120, 240, 480, 900, 900] {
        let request = Request { kin: Kin(1), ..table.request() };
        let grant = table.granted(request);
        table.pass(ms(1));
        table.complete(grant.lease, server_error());
        assert_eq!(table.blocked_for(ids[0]), Some(secs(expected)));
        assert_eq!(table.account(ids[0]).blocks[0].effect, Effect::Avoided);
    }
    let request = table.request();
    table.serve(request);
    assert_eq!(table.account(ids[0]).consecutive_failures, 0);
    assert_eq!(table.blocked_for(ids[0]), None, "somebody else was served");
    // Requests that were in flight together count as one failure; unrelated requests prove it.
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
    assert!(table.account(ids[0]).blocks.iter().any(|block| block.effect == Effect::Out));
    let request = table.request();
    table.queued(request);
}

#[test]
fn t2_a_401_rests_and_then_one_request_looks() {
    let (mut table, ids) = Table::with(1);
    let refused = || Outcome::CredentialRefused { evidence: evidence(401, "invalid x-api-key") };
    for rest in [5, 30, 60, 120, 240, 480, 900, 900] {
        let request = table.request();
        let looking = table.granted(request);
        let request = table.request();
        if rest != 5 {
            let refusal = table.refused(request);
            assert_eq!(
                refusal.accounts[0].reason,
                PassedOver::Blocked(BlockReason::CredentialRefused)
            );
        }
        table.complete(looking.lease, refused());
        assert_eq!(table.blocked_for(ids[0]), Some(secs(rest)));
        let request = table.request();
        let refusal = table.refused(request);
        assert_eq!(refusal.reason, RefusalReason::CredentialsOnly(vec![Arc::from("a")]));
        assert_eq!(
            refusal.accounts[0].evidence.as_ref().map(|evidence| &*evidence.message),
            Some("invalid x-api-key")
        );
        table.pass(secs(rest));
    }
    let request = table.request();
    table.serve(request);
    assert_eq!(table.blocked_for(ids[0]), None, "a look that succeeds ends it");
    table.fail(ids[0], refused());
    let request = table.request();
    table.queued(request);
    let (waited, wakes) = table.until_wake();
    assert_eq!((waited, wakes.len()), (secs(5), 1), "Q1: it has served within the hour");
}

#[test]
fn p7_other_classes_do_not_wait_for_a_rest() {
    let (mut table, ids) = Table::with(1);
    let request = table.request();
    table.serve(request);
    let list = |table: &mut Table| Request {
        class: RouteClass::Rest,
        shape: Shape::NonStream,
        ..table.request()
    };
    let request = list(&mut table);
    let grant = table.granted(request);
    table.complete(grant.lease, Outcome::CredentialRefused { evidence: evidence(401, "no OAuth") });
    let request = list(&mut table);
    let refusal = table.refused(request);
    assert_eq!(refusal.reason, RefusalReason::CredentialsOnly(vec![Arc::from("a")]));
    let request = table.request();
    assert_eq!(table.serve(request), ids[0]);
}

#[test]
fn p7_a_model_is_waited_for_where_another_account_may_have_it() {
    let (mut table, ids) = Table::with(2);
    table.fail(ids[1], quota_rejected(rejection(None, None, Some(secs(60)))));
    let mut request = Request { model: Some(Arc::from("claude-opus-4-1")), ..table.request() };
    let grant = table.granted(request.clone());
    assert_eq!(grant.account, ids[0]);
    let missing = Outcome::ModelMissing { evidence: evidence(404, "model: claude-opus-4-1") };
    let after = table.complete(grant.lease, missing);
    request.trail.add(after, &Policy::default());
    request.excluded.push(ids[0]);
    table.queued(request);
    let (waited, wakes) = table.until_wake();
    let [Wake::Granted { grant, .. }] = &wakes[..] else { panic!("not granted: {wakes:?}") };
    assert_eq!((waited, grant.account), (secs(60), ids[1]));
}

#[test]
fn p7_a_new_credential_ends_the_rest() {
    let (mut table, ids) = Table::with(1);
    table.fail(ids[0], Outcome::CredentialRefused { evidence: evidence(401, "no") });
    table.scheduler.clear_credential_blocks(table.now, ids[0]);
    let request = table.request();
    table.serve(request);
}

/// Makes one request fail with the same message on every account in turn.
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
    assert_eq!((waited, wakes.len()), (secs(20), 1), "one real request probes, the others wait");
    let Some(Wake::Granted { ticket, grant }) = wakes.pop() else { panic!("not granted") };
    assert_eq!(ticket, first);
    assert!(table.scheduler.snapshot(table.now).breaker.probe_in_flight);
    table.pass(secs(3));
    assert!(table.poll().is_empty());
    table.head(&grant.lease, 200, &QuotaReport::default());
    assert!(!table.scheduler.snapshot(table.now).breaker.active, "closed at header time");
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
    assert!(!table.scheduler.snapshot(table.now).breaker.active, "the third has not refused");
    let request = table.request();
    table.serve(request);

    let (mut table, ids) = Table::with(3);
    let reset = table.wall_after(HOUR);
    table.learn(ids[2], vec![window(WindowKind::FiveHour, 1.0, Some(reset))]);
    refuse_everywhere(&mut table, &ids[..2], None);
    assert!(table.scheduler.snapshot(table.now).breaker.active, "the third is out for longer");
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
            let Wake::Granted { grant, .. } = wake else { panic!("not granted") };
            table.head(&grant.lease, 503, &QuotaReport::default());
            let before = table.scheduler.snapshot(table.now).breaker;
            pauses.push(before.until.map(|until| table.now.wall.until(until)));
            table.complete(grant.lease, Outcome::Abandoned);
        }
    }
    assert_eq!(pauses, [Some(secs(5)), Some(secs(10)), Some(secs(20)), None]);
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
    table.fail(claude, set_aside());
    let request = all(&mut table);
    table.queued(request);
    let other = Request { session: Some(SessionKey(5)), signed_thinking: true, ..all(&mut table) };
    table.queued(other);
    let later = Request { session: Some(SessionKey(5)), ..all(&mut table) };
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
    table.fail(ids[1], set_aside());
    let request = thread(&mut table);
    assert_eq!(table.refused(request).reason, RefusalReason::ThreadElsewhere);
    let unknown =
        Request { thread: Some(ThreadKey(10)), session: Some(SessionKey(10)), ..table.request() };
    assert_eq!(table.serve(unknown.clone()), ids[0], "an unknown id: by S7");
    assert_eq!(table.granted(unknown).account, ids[0], "then the session's home");
}

#[test]
fn p12_a_client_that_leaves_frees_its_place() {
    let (mut table, ids) = Table::with(1);
    table.fail(ids[0], set_aside());
    let request = table.request();
    let gone = table.queued(request);
    assert!(matches!(table.scheduler.cancel(table.now, gone), Cancel::Cancelled));
    assert_eq!(table.scheduler.snapshot(table.now).queue.waiting, 0);
    assert!(matches!(table.scheduler.cancel(table.now, gone), Cancel::AlreadyPolled));
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
fn status_counts_what_happened() {
    let mut table = Table::new(Policy::default());
    let id = table.add(AccountSpec { kind: Kind::ApiKey, ..oauth("key") });
    let request = Request { weight: 3, ..table.request() };
    let grant = table.granted(request);
    let account = table.account(id);
    assert_eq!((account.in_flight, account.active_weight), (1, 3));
    table.pass(ms(200));
    let quota = report(vec![window(WindowKind::Tokens, 0.2, None)]);
    table.head(&grant.lease, 200, &quota);
    table.complete(grant.lease, Outcome::Success);
    table.fail(id, set_aside());
    let account = table.account(id);
    assert_eq!((account.completed, account.failed, account.last_status), (1, 1, Some(529)));
    assert_eq!(account.last_error.as_deref(), Some("try later"));
    assert_eq!(account.last_response, Some(ms(200)));
    assert_eq!(
        (account.last_15m.requests, account.last_15m.failed, account.last_15m.weight),
        (2, 1, 4)
    );
    assert_eq!(account.last_1h.average, Some(ms(100)));
    assert_eq!((account.in_flight, account.active_weight), (0, 0));
}
