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

/// A pair whose access token has so many seconds left; an empty name is no token.
fn pair(access: &str, refresh: &str, seconds_left: Option<i64>) -> Tokens {
    let token = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
    Tokens {
        access: token(access),
        refresh: token(refresh),
        expires_at: seconds_left.map(|left| Wall(NOW.wall.0 + left * 1000)),
    }
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
        let state = TokenState::new(tokens);
        assert_eq!(word(&state.plan(switch, NOW)), expected, "{rule}");
    }
}

#[test]
fn a_401_asks_for_one_refresh_of_the_token_that_is_still_current() {
    let mut state = TokenState::new(pair("a", "r", Some(3600)));
    assert_eq!(word(&state.plan_after_401(0, Switch::On, NOW)), "serve", "a stale 401");
    assert_eq!(
        word(&state.plan_after_401(1, Switch::Off, NOW)),
        "disabled",
        "disabled accounts never refresh"
    );
    assert_eq!(word(&state.plan_after_401(1, Switch::On, NOW)), "refresh");
    state.renewed(&Secret::new("r"), pair("a2", "r2", Some(3600)), Stored::OnDisk, NOW);
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
    assert_eq!(word(&state.plan(Switch::On, later(15))), "serve", "to the one that looks");
    assert!(state.merge_file(&pair("a3", "r3", Some(9999))), "until other tokens are there");
    assert_eq!(
        word(&state.plan_after_401(3, Switch::On, later(10))),
        "refresh",
        "at once, for it is another token"
    );
}

#[test]
fn a_second_401_of_one_request_brings_no_second_refresh_however_late_it_comes() {
    let mut state = TokenState::new(pair("a", "r", Some(3600)));
    assert_eq!(word(&state.plan_after_401(1, Switch::On, NOW)), "refresh");
    state.renewed(&Secret::new("r"), pair("a2", "r2", Some(3600)), Stored::OnDisk, NOW);
    assert_eq!(
        word(&state.plan_after_second_401(1, Switch::On, later(60))),
        "serve",
        "of a token that is gone"
    );
    assert_eq!(word(&state.plan_after_second_401(2, Switch::On, later(60))), "refused");
}

#[test]
fn without_a_refresh_token_a_401_is_not_final_either() {
    let mut state = TokenState::new(pair("a", "", Some(-9)));
    assert_eq!(word(&state.plan_after_401(1, Switch::On, NOW)), "refused");
    assert_eq!(word(&state.plan(Switch::On, later(60))), "serve");
}

#[test]
fn a_refresh_that_failed_changes_nothing_while_the_token_is_valid() {
    let mut valid = TokenState::new(pair("a", "r", Some(120)));
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

    let mut refused = TokenState::new(pair("a", "r", Some(3600)));
    assert_eq!(word(&refused.plan_after_401(1, Switch::On, NOW)), "refresh");
    refused.failed(Obstacle::Network, None, "no route".to_owned(), &PAUSE, NOW);
    assert_eq!(
        word(&refused.plan(Switch::On, later(1))),
        "cooling",
        "the token that a 401 refused is not valid"
    );
    assert_eq!(
        word(&refused.plan_after_401(1, Switch::On, later(9))),
        "cooling",
        "once in ten seconds"
    );
    assert_eq!(word(&refused.plan(Switch::On, later(10))), "refresh");
}

#[test]
fn pauses_grow_at_the_endpoint_and_not_on_the_way_there() {
    let until =
        |state: &TokenState| state.cooling.as_ref().map(|c| c.until.since(NOW.mono).as_secs());
    let mut state = TokenState::new(pair("a", "r", Some(-1)));
    let mut fail = |obstacle, retry_after: Option<u64>, pause: &Pause| {
        state.failed(obstacle, retry_after.map(Duration::from_secs), "x".to_owned(), pause, NOW);
        until(&state)
    };
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
    let mut state = TokenState::new(pair("a", "r", Some(-1)));
    state.renewed(&Secret::new("r"), pair("a2", "r2", Some(60)), Stored::OnDisk, NOW);
    assert_eq!(word(&state.plan(Switch::On, later(9))), "serve");
    assert_eq!(word(&state.plan(Switch::On, later(10))), "refresh");
    state.renewed(&Secret::new("r2"), pair("a3", "r3", Some(3)), Stored::OnDisk, NOW);
    assert_eq!(word(&state.plan(Switch::On, later(4))), "refresh", "once it has run out it is");
}

#[test]
fn the_file_wins_only_if_it_changed_since_it_was_seen() {
    let first = pair("a", "r", Some(3600));
    let mut state = TokenState::new(first.clone());
    assert!(!state.merge_file(&first));
    state.renewed(&Secret::new("r"), pair("a2", "r2", Some(7200)), Stored::InMemory, NOW);
    assert!(!state.merge_file(&first), "the file is as it was: it is behind");
    assert!(state.is_unsaved() && state.generation() == 2);
    let rewritten = pair("a", "r", Some(1800));
    assert!(
        !state.would_take(&rewritten) && !state.merge_file(&rewritten),
        "a used up token never comes back"
    );
    assert!(state.is_unsaved());
    let login = pair("a9", "r9", Some(10));
    assert!(
        state.would_take(&login) && state.merge_file(&login),
        "a login does, also if it ends sooner"
    );
    assert_eq!((state.generation(), state.is_unsaved()), (3, false));
    assert_eq!(state.tokens(), &login);

    let mut stale = TokenState::new(first.clone());
    stale.renewed(&Secret::new("r"), pair("a2", "r2", Some(7200)), Stored::OnDisk, NOW);
    assert!(!stale.merge_file(&first), "a file that was read before the refresh ended");
    assert_eq!(stale.generation(), 2);
    assert!(stale.is_unsaved(), "or a backup that was put back: ours is written again");
    stale.saved(&pair("a2", "r2", Some(7200)));
    assert!(!stale.is_unsaved());
}

#[test]
fn an_import_is_newer_if_it_is_another_token_that_ends_later() {
    let ours = pair("a", "r", Some(100));
    for (rule, source, expected) in [
        ("T3 the same", pair("a", "r", Some(100)), false),
        ("T3 the same token with a later end", pair("a", "r", Some(200)), false),
        ("T3 ends later", pair("b", "s", Some(200)), true),
        ("T3 ends sooner", pair("b", "s", Some(50)), false),
        ("T3 end unknown", pair("b", "s", None), false),
        ("T3 no access token", pair("", "s", Some(200)), false),
    ] {
        assert_eq!(source.is_newer_than(&ours), expected, "{rule}");
    }
    assert!(pair("b", "", Some(1)).is_newer_than(&Tokens::default()), "T3 nothing yet");
}

#[test]
fn debug_shows_no_token() {
    let mut state = TokenState::new(pair("sk-ant-oat01-x", "sk-ant-ort01-x", Some(1)));
    state.renewed(
        &Secret::new("sk-ant-ort01-x"),
        pair("sk-ant-oat02", "sk-ant-ort02", None),
        Stored::OnDisk,
        NOW,
    );
    let shown = format!("{state:?} {:#?}", state.tokens());
    assert!(!shown.contains("sk-ant"), "{shown}");
}
