use super::*;

const NOW: Now = Now { mono: Mono(1_000_000), wall: Wall(1_795_301_100_000) };
const PAUSE: Pause = Pause {
    network: Duration::from_secs(5),
    first: Duration::from_secs(30),
    longest: Duration::from_secs(900),
};

fn later(seconds: u64) -> Now {
    let wait = Duration::from_secs(seconds);
    Now { mono: NOW.mono + wait, wall: NOW.wall + wait }
}

/// A pair whose access token is valid for this many more seconds; an empty name means no token.
fn pair(access: &str, refresh: &str, seconds_left: Option<i64>) -> Tokens {
    let token = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
    Tokens {
        access: token(access),
        refresh: token(refresh),
        expires_at: seconds_left.map(|left| Wall(NOW.wall.0 + left * 1000)),
    }
}

/// The state after reading a config.
fn state_of(tokens: Tokens) -> TokenState {
    TokenState::new(Deposit { live: tokens, ..Deposit::default() })
}

fn entry(tokens: &Tokens) -> Deposit {
    Deposit { live: tokens.clone(), ..Deposit::default() }
}

const WHO: Identity<'static> = Identity { name: "a", account_uuid: None, org_uuid: None };

/// A refresh has brought `tokens` for `sent`, and they are on disk.
fn renew(state: &mut TokenState, sent: &str, tokens: Tokens, now: Now) {
    let lifetime = tokens.expires_at.map(|end| NOW.wall.until(end));
    state.renewed(&Secret::new(sent), &Issued { tokens, lifetime }, None, now);
    let record = state.record(&WHO);
    state.stored(&record, Kept::OnDisk, None);
}

fn word(plan: &Plan) -> &'static str {
    match plan {
        Plan::Serve => "serve",
        Plan::Refresh => "refresh",
        Plan::Cooling(_) => "cooling",
        Plan::NeedsLogin(_) => "needs login",
        Plan::Refused => "refused",
        Plan::Disabled => "disabled",
    }
}

#[test]
fn what_is_done_with_a_token_before_it_is_used() {
    use Switch::{Off, On};
    let table = [
        ("T2 an hour left", pair("a", "r", Some(3600)), On, "serve"),
        ("T2 just above five minutes", pair("a", "r", Some(301)), On, "serve"),
        ("T2 five minutes", pair("a", "r", Some(300)), On, "refresh"),
        ("T2 expired", pair("a", "r", Some(-1)), On, "refresh"),
        ("T2 end unknown", pair("a", "r", None), On, "serve"),
        ("T2 no access token yet", pair("", "r", None), On, "refresh"),
        ("T2 no refresh token: used until refused", pair("a", "", Some(-9999)), On, "serve"),
        ("T2 nothing at all", pair("", "", None), On, "needs login"),
        ("T2 disabled, valid", pair("a", "r", Some(3600)), Off, "serve"),
        ("T2 disabled, about to expire", pair("a", "r", Some(100)), Off, "serve"),
        ("T2 disabled, expired", pair("a", "r", Some(-1)), Off, "disabled"),
        ("T2 disabled, no access token", pair("", "r", None), Off, "disabled"),
    ];
    for (rule, tokens, switch, expected) in table {
        let state = state_of(tokens);
        assert_eq!(word(&state.plan(switch, NOW)), expected, "{rule}");
    }
}

#[test]
fn a_401_asks_for_one_refresh_of_the_token_that_is_still_current() {
    let mut state = state_of(pair("a", "r", Some(3600)));
    assert_eq!(word(&state.plan_after_401(0, Switch::On, NOW)), "serve", "a stale 401");
    assert_eq!(
        word(&state.plan_after_401(1, Switch::Off, NOW)),
        "disabled",
        "disabled accounts never refresh"
    );
    assert_eq!(word(&state.plan_after_401(1, Switch::On, NOW)), "refresh");
    renew(&mut state, "r", pair("a2", "r2", Some(3600)), NOW);
    assert_eq!(
        word(&state.plan_after_401(1, Switch::On, NOW)),
        "serve",
        "late 401s of the old token"
    );
    assert_eq!(word(&state.plan(Switch::On, NOW)), "serve");
    assert_eq!(
        word(&state.plan_after_401(2, Switch::On, later(9))),
        "refused",
        "the token that a refresh brought is refused too"
    );
    assert!(
        state.merge_file(&entry(&pair("a3", "r3", Some(9999))), NOW),
        "until other tokens are there"
    );
    assert_eq!(
        word(&state.plan_after_401(3, Switch::On, later(11))),
        "refresh",
        "for it is another token"
    );
}

#[test]
fn t2_a_token_that_was_just_brought_and_is_refused_brings_no_refresh_and_is_looked_at_again() {
    let mut state = state_of(pair("a", "r", Some(3600)));
    assert_eq!(word(&state.plan_after_401(1, Switch::On, NOW)), "refresh");
    renew(&mut state, "r", pair("a2", "r2", Some(36_000)), NOW);
    for at in [0, 5, 35, 95, 899] {
        assert_eq!(word(&state.plan_after_401(2, Switch::On, later(at))), "refused", "{at}");
        assert_eq!(word(&state.plan_after_second_401(2, Switch::On, later(at))), "refused");
        assert_eq!(word(&state.plan(Switch::On, later(at + 1))), "serve", "to the one that looks");
        assert_eq!(state.word(NOW.wall), "refused");
    }
    assert_eq!(
        word(&state.plan_after_401(2, Switch::On, later(900))),
        "refresh",
        "it may have run out unused"
    );

    let mut state = state_of(pair("a", "r", Some(3600)));
    renew(&mut state, "r", pair("a2", "r2", Some(36_000)), NOW);
    assert_eq!(word(&state.plan_after_401(2, Switch::On, later(1))), "refused");
    state.served(1);
    assert_eq!(state.word(NOW.wall), "refused", "that was an answer to an old token");
    state.served(2);
    assert_eq!(state.word(NOW.wall), "valid");
    assert_eq!(word(&state.plan_after_401(2, Switch::On, later(9))), "refused", "too soon");
    assert_eq!(word(&state.plan_after_401(2, Switch::On, later(10))), "refresh", "it had served");

    let mut alone = state_of(pair("a", "", Some(-9)));
    assert_eq!(word(&alone.plan_after_401(1, Switch::On, NOW)), "refused");
    assert_eq!(word(&alone.plan(Switch::On, later(5))), "serve");
    assert_eq!(word(&alone.plan_after_401(1, Switch::On, later(6))), "refused");
}

#[test]
fn t2_a_second_401_of_one_request_refreshes_nothing_however_late_it_comes() {
    let mut state = state_of(pair("a", "r", Some(3600)));
    assert_eq!(word(&state.plan_after_401(1, Switch::On, NOW)), "refresh");
    renew(&mut state, "r", pair("a2", "r2", Some(3600)), NOW);
    assert_eq!(
        word(&state.plan_after_second_401(1, Switch::On, later(60))),
        "serve",
        "of a token that is gone"
    );
    assert_eq!(word(&state.plan_after_second_401(2, Switch::On, later(60))), "refused");
}

#[test]
fn t2_a_token_of_unknown_fate_is_sent_once_more_and_then_every_15_minutes() {
    let mut state = state_of(pair("a", "r", Some(-1)));
    assert_eq!(word(&state.plan(Switch::On, NOW)), "refresh");
    let lost = |state: &mut TokenState, at| {
        let why = "reset".to_owned();
        state.fate_unknown(&Secret::new("r"), Obstacle::Network, why, &PAUSE, later(at));
    };
    lost(&mut state, 0);
    assert_eq!(word(&state.plan(Switch::On, later(4))), "cooling");
    assert_eq!(word(&state.plan(Switch::On, later(5))), "refresh", "once more");
    lost(&mut state, 5);
    assert_eq!(word(&state.plan(Switch::On, later(904))), "cooling");
    assert_eq!(word(&state.plan(Switch::On, later(905))), "refresh");
    assert!(state.merge_file(&entry(&pair("b", "s", Some(901))), NOW));
    lost(&mut state, 910);
    let mut valid = state_of(pair("a", "r", Some(120)));
    lost(&mut valid, 0);
    assert_eq!(word(&valid.plan(Switch::On, later(60))), "serve", "not while the token is valid");
    assert_eq!(word(&valid.plan(Switch::On, later(120))), "refresh");
}

#[test]
fn t2_a_lifetime_that_cannot_be_believed_lasts_until_the_api_refuses() {
    let mut state = state_of(pair("a", "r", Some(-1)));
    renew(&mut state, "r", pair("a2", "r2", None), NOW);
    assert_eq!(word(&state.plan(Switch::On, later(1_000_000))), "serve");
    // The wall clock was set far into the future.
    renew(&mut state, "r2", pair("a3", "r3", Some(3_600)), NOW);
    let stepped = Now { wall: later(1_000_000).wall, ..later(60) };
    assert_eq!(word(&state.plan(Switch::On, stepped)), "serve", "it lives as long as was said");
}

#[test]
fn t2_after_a_refusal_the_pair_that_was_displaced_is_tried() {
    let mut state = state_of(pair("a", "r", Some(3_000)));
    assert!(state.merge_file(&entry(&pair("login", "l", Some(-1))), NOW), "an edit");
    assert_eq!(word(&state.plan(Switch::On, NOW)), "refresh");
    assert!(state.refused(&Secret::new("l"), "invalid_grant".to_owned()));
    assert_eq!(state.tokens(), &pair("a", "r", Some(3_000)));
    assert_eq!(word(&state.plan(Switch::On, NOW)), "serve");
    assert!(!state.refused(&Secret::new("r"), "invalid_grant".to_owned()));
    assert_eq!(word(&state.plan(Switch::On, later(3_000))), "needs login");

    let mut served = state_of(pair("a", "r", Some(3_000)));
    assert!(served.merge_file(&entry(&pair("login", "l", Some(1))), NOW));
    served.served(2);
    assert!(!served.refused(&Secret::new("l"), "invalid_grant".to_owned()), "it is forgotten");

    let mut imported = state_of(pair("a", "r", Some(3_000)));
    assert!(imported.take_import(&pair("cli", "c", Some(4_000)), &[]));
    assert!(imported.refused(&Secret::new("c"), "invalid_grant".to_owned()));
    assert_eq!(imported.tokens(), &pair("a", "", Some(3_000)), "T8 only its access token");
}

#[test]
fn a_refresh_that_failed_changes_nothing_while_the_token_is_valid() {
    let mut valid = state_of(pair("a", "r", Some(120)));
    assert_eq!(word(&valid.plan(Switch::On, NOW)), "refresh");
    valid.failed(Obstacle::Network, None, "no route".to_owned(), &PAUSE, NOW);
    assert_eq!(
        word(&valid.plan(Switch::On, later(4))),
        "serve",
        "not sent again before the cooldown is over"
    );
    assert_eq!(word(&valid.plan(Switch::On, later(5))), "refresh");
    valid.refused(&Secret::new("r"), "invalid_grant".to_owned());
    assert_eq!(
        word(&valid.plan(Switch::On, later(5))),
        "serve",
        "a refused refresh token is not sent again"
    );
    assert_eq!(
        word(&valid.plan(Switch::On, later(120))),
        "needs login",
        "and the end comes with the access token's"
    );

    let mut refused = state_of(pair("a", "r", Some(3600)));
    assert_eq!(word(&refused.plan_after_401(1, Switch::On, NOW)), "refresh");
    refused.failed(Obstacle::Network, None, "no route".to_owned(), &PAUSE, NOW);
    assert_eq!(
        word(&refused.plan_after_refresh(Switch::On, later(1))),
        "cooling",
        "the token that a 401 refused is not valid"
    );
    assert_eq!(
        word(&refused.plan_after_401(1, Switch::On, later(9))),
        "cooling",
        "once in ten seconds"
    );
    assert_eq!(word(&refused.plan(Switch::On, later(1))), "serve", "to the one that looks");
    assert_eq!(word(&refused.plan(Switch::On, later(10))), "refresh");
}

#[test]
fn pauses_grow_at_the_endpoint_and_not_on_the_way_there() {
    let until =
        |state: &TokenState| state.cooling.as_ref().map(|c| c.until.since(NOW.mono).as_secs());
    let mut state = state_of(pair("a", "r", Some(-1)));
    let mut fail = |obstacle, retry_after: Option<u64>, pause: &Pause| {
        state.failed(obstacle, retry_after.map(Duration::from_secs), "x".to_owned(), pause, NOW);
        until(&state)
    };
    for _ in 0..4 {
        assert_eq!(fail(Obstacle::Endpoint, Some(1), &PAUSE), Some(1), "the endpoint's own time");
    }
    for expected in [30, 60, 120, 240, 480, 900, 900] {
        assert_eq!(fail(Obstacle::Endpoint, None, &PAUSE), Some(expected));
    }
    assert_eq!(fail(Obstacle::Endpoint, Some(7), &PAUSE), Some(7));
    assert_eq!(fail(Obstacle::Network, None, &PAUSE), Some(5));
    assert_eq!(fail(Obstacle::Local, None, &PAUSE), Some(5));
    let none = Pause { network: Duration::ZERO, first: Duration::ZERO, longest: Duration::ZERO };
    assert_eq!(fail(Obstacle::Network, None, &none), Some(1), "never at once");
}

#[test]
fn a_short_lived_token_is_not_renewed_by_every_request() {
    let mut state = state_of(pair("a", "r", Some(-1)));
    renew(&mut state, "r", pair("a2", "r2", Some(60)), NOW);
    assert_eq!(word(&state.plan(Switch::On, later(59))), "serve");
    assert_eq!(word(&state.plan(Switch::On, later(60))), "refresh", "once it has run out it is");
    renew(&mut state, "r2", pair("a3", "r3", Some(3600)), NOW);
    assert_eq!(word(&state.plan(Switch::On, later(3_299))), "serve");
    assert_eq!(word(&state.plan(Switch::On, later(3_300))), "refresh", "T2 five minutes before");
}

#[test]
fn t2_a_lifetime_of_a_moment_brings_no_more_than_one_refresh_in_ten_seconds() {
    let mut state = state_of(pair("a", "r", Some(-1)));
    let issued =
        Issued { tokens: pair("a2", "r2", Some(0)), lifetime: Some(Duration::from_millis(1)) };
    state.renewed(&Secret::new("r"), &issued, None, NOW);
    assert_eq!(word(&state.plan(Switch::On, later(9))), "serve");
    assert_eq!(word(&state.plan(Switch::On, later(10))), "refresh");
}

#[test]
fn t2_a_short_lived_pair_that_another_process_brought_is_used_to_its_end() {
    for (life, at, expected) in [(240, 0, "serve"), (240, 239, "serve"), (240, 240, "refresh")]
        .into_iter()
        .chain([(7200, 6899, "serve"), (7200, 6900, "refresh")])
    {
        let used: crate::config::custody::Spent =
            [Digest::of(&Secret::new("r"))].into_iter().collect();
        let brought = Deposit { spent: used, ..entry(&pair("a2", "r2", Some(life))) };
        let mut other = state_of(pair("a", "r", Some(-1)));
        assert!(other.merge_file(&brought, NOW));
        let mut restarted = TokenState::new(brought);
        let known = TokensState { refreshed_at: Some(NOW.wall.0), ..TokensState::default() };
        restarted.recall(&known);
        for state in [other, restarted] {
            assert_eq!(word(&state.plan(Switch::On, later(at))), expected, "{at} of {life} s");
        }
    }
}

#[test]
fn t2_the_unknown_fate_of_a_displaced_token_holds_up_no_other() {
    let mut state = state_of(pair("a", "r", Some(-1)));
    assert!(state.merge_file(&entry(&pair("a9", "r9", Some(100))), NOW));
    let sent = Secret::new("r");
    state.fate_unknown(&sent, Obstacle::Network, "cut".to_owned(), &PAUSE, NOW);
    assert_eq!(word(&state.plan(Switch::On, later(30))), "refresh");
}

#[test]
fn the_file_wins_only_if_it_changed_since_it_was_seen() {
    let first = pair("a", "r", Some(3600));
    let mut state = state_of(first.clone());
    assert!(!state.merge_file(&entry(&first), NOW));
    let issued = Issued { tokens: pair("a2", "r2", Some(7200)), lifetime: None };
    state.renewed(&Secret::new("r"), &issued, None, NOW);
    assert!(!state.merge_file(&entry(&first), NOW), "the file is as it was: it is behind");
    assert!(state.custody().is_due() && state.generation() == 2);
    let rewritten = entry(&pair("a", "r", Some(1800)));
    assert!(
        !state.would_take(&rewritten) && !state.merge_file(&rewritten, NOW),
        "a used up token never comes back"
    );
    assert!(state.custody().is_due());
    let login = pair("a9", "r9", Some(10));
    assert!(
        state.would_take(&entry(&login)) && state.merge_file(&entry(&login), NOW),
        "a login does, also if it ends sooner"
    );
    assert_eq!(state.generation(), 3);
    assert_eq!(state.tokens(), &login);
    assert!(state.custody().is_due(), "what it displaced is to be written down");

    let mut stale = state_of(first.clone());
    renew(&mut stale, "r", pair("a2", "r2", Some(7200)), NOW);
    assert!(!stale.custody().is_due());
    assert!(
        !stale.merge_file(&entry(&first), NOW),
        "a file that was read before the refresh ended"
    );
    assert_eq!(stale.generation(), 2);
    assert!(stale.custody().is_due(), "or a backup that was put back: ours is written again");
    let record = stale.record(&WHO);
    stale.stored(&record, Kept::OnDisk, None);
    assert!(!stale.custody().is_due());
}

#[test]
fn debug_shows_no_token() {
    let mut state = state_of(pair("sk-ant-oat01-x", "sk-ant-ort01-x", Some(1)));
    renew(&mut state, "sk-ant-ort01-x", pair("sk-ant-oat02", "sk-ant-ort02", None), NOW);
    let shown = format!("{state:?} {:#?}", state.tokens());
    assert!(!shown.contains("sk-ant"), "{shown}");
}
