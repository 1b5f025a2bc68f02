#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "refresh_storage_tests.rs"]
mod storage;
#[path = "refresh_world_tests.rs"]
mod world;

use std::sync::atomic::Ordering;

use serde_json::json;

use self::world::{Act, ID, Lost, START_MS, World, document, pair, refreshing, refused, short};
use super::super::sync::CredentialChange;
use super::super::{Accounts, Origin, Readiness, SingleFlight, Unready};
use super::*;
use crate::config::{Config, Tokens};
use crate::event::Events;
use crate::scheduler::AccountId;
use crate::scheduler::time::Wall;

#[test]
fn a_new_pair_is_on_disk_before_it_serves_and_nothing_else_has_changed() {
    let world = World::new(299);
    assert_eq!(world.outcome(), "access-1");
    let file = world.on_file();
    assert_eq!(world.pair_on_file(), pair(1));
    assert_eq!(file["accounts"][0]["expiresAt"], json!(START_MS + 3_600_000));
    let mut expected = document(299);
    let spent = Digest::of(&Secret::new("refresh-0"));
    assert_eq!(file["accounts"][0]["spent"], json!([spent.as_str()]));
    for key in ["accessToken", "refreshToken", "expiresAt", "spent"] {
        expected["accounts"][0][key] = file["accounts"][0][key].clone();
    }
    assert_eq!(file, expected);
    assert_eq!(world.outcome(), "access-1", "and it is not asked for again");
    assert_eq!(world.endpoint.arrived(), ["refresh-0"]);
    assert_eq!(world.renewed.load(Ordering::SeqCst), 1);
}

/// One row: what the token endpoint does with a refresh, and the effect on account and file.
struct Row {
    rule: &'static str,
    acts: Vec<Act>,
    /// With a token that is still valid for two minutes.
    valid: &'static str,
    /// With an expired token.
    expired: &'static str,
    /// The pair in the file after the second case.
    file: (String, String),
    /// Refresh tokens that arrived in the second case.
    arrived: usize,
}

fn rows() -> Vec<Row> {
    let row = |rule, act: Act, expired: &'static str, number, arrived| Row {
        rule,
        acts: vec![act],
        valid: "access-0",
        expired,
        file: pair(number),
        arrived,
    };
    let invalid = r#"{"error":"invalid_grant"}"#;
    let network = "cooling network";
    let endpoint = "cooling endpoint";
    vec![
        Row { valid: "access-1", ..row("T2 rotated", Act::Rotate, "access-1", 1, 1) },
        Row {
            valid: "access-1",
            file: ("access-1".to_owned(), "refresh-0".to_owned()),
            ..row("T2 no refresh token: the old one stays", Act::KeepRefresh, "access-1", 1, 1)
        },
        row("T2 reset after it was rotated", Act::RotateThen(Lost::Reset), network, 0, 1),
        row("T2 500 after it was rotated", Act::RotateThen(Lost::Status500), endpoint, 0, 1),
        row("T2 a page after it was rotated", Act::RotateThen(Lost::Html), endpoint, 0, 1),
        row("T2 400", Act::Say(400, invalid), "needs login", 0, 1),
        row("T2 401", Act::Say(401, invalid), "needs login", 0, 1),
        row("T2 403 is no verdict", Act::Say(403, "forbidden"), endpoint, 0, 1),
        row("T2 another error is no verdict", Act::Say(400, "{}"), endpoint, 0, 1),
        row("T2 404 is no verdict", Act::Say(404, "not found"), endpoint, 0, 1),
        row("T2 redirects are not followed", Act::Say(302, ""), endpoint, 0, 1),
        row("T2 429", Act::Say(429, "{}"), endpoint, 0, 1),
        row("T2 500", Act::Say(500, "{}"), endpoint, 0, 1),
        row("T2 502", Act::Say(502, "<html>"), endpoint, 0, 1),
        row("T2 503", Act::SayWith(503, "Retry-After", "20", ""), endpoint, 0, 1),
        row("T2 empty", Act::Say(200, ""), endpoint, 0, 1),
        row("T2 no JSON", Act::Say(200, "<html>login</html>"), endpoint, 0, 1),
        Row {
            file: ("access-0".to_owned(), "r".to_owned()),
            ..row("T7 no access token", Act::Say(200, r#"{"refresh_token":"r"}"#), endpoint, 0, 1)
        },
        row("T2 access token of null", Act::Say(200, r#"{"access_token":null}"#), endpoint, 0, 1),
        row(
            "T2 access token that fits no header",
            Act::Say(200, "{\"access_token\":\"a\\nb\"}"),
            endpoint,
            0,
            1,
        ),
        Row {
            acts: vec![Act::NoConnection, Act::NoConnection],
            ..row("T2 no way there", Act::NoConnection, network, 0, 0)
        },
        Row {
            acts: vec![Act::NoConnection, Act::Rotate],
            valid: "access-1",
            ..row("T2 dialled twice: nothing had been sent", Act::NoConnection, "access-1", 1, 1)
        },
        row("T2 a bug", Act::Panic, "cooling local", 0, 1),
    ]
}

#[test]
fn every_answer_of_the_token_endpoint_has_its_consequence() {
    for Row { rule, acts, valid, expired, file, arrived } in rows() {
        let still_valid = World::new(120);
        still_valid.endpoint.will(acts.clone());
        assert_eq!(still_valid.outcome(), valid, "{rule}: valid");
        if valid == "access-0" {
            assert_eq!(still_valid.outcome(), "access-0", "{rule}: valid, asked again");
            assert!(still_valid.endpoint.arrived().len() <= 1, "{rule}: sent once");
            let is_kept = rule.starts_with("T7");
            let expected = if is_kept { file.clone() } else { pair(0) };
            assert_eq!(still_valid.pair_on_file(), expected, "{rule}: valid, file");
        }

        let gone = World::new(-1);
        gone.endpoint.will(acts);
        assert_eq!(gone.outcome(), expired, "{rule}: expired");
        assert_eq!(gone.outcome(), expired, "{rule}: expired, asked again");
        assert_eq!(gone.endpoint.arrived().len(), arrived, "{rule}: sent");
        assert_eq!(gone.pair_on_file(), file, "{rule}: file");
        assert_eq!(gone.endpoint.reused(), 0, "{rule}");
        assert!(gone.accounts.settle(Duration::ZERO), "{rule}: nothing is left under way");
    }
}

#[test]
fn after_a_cooldown_a_token_of_unknown_fate_is_tried_once_more() {
    let world = World::new(-1);
    world.endpoint.will([Act::Say(503, "")]);
    assert_eq!(world.outcome(), "cooling endpoint");
    world.clock.pass(29);
    assert_eq!(world.outcome(), "cooling endpoint");
    assert_eq!(world.endpoint.arrived().len(), 1);
    world.clock.pass(1);
    assert_eq!(world.outcome(), "access-1");

    let lost = World::new(-1);
    lost.endpoint.will([Act::RotateThen(Lost::Reset)]);
    assert_eq!(lost.outcome(), "cooling network");
    lost.clock.pass(5);
    assert_eq!(lost.outcome(), "needs login", "it had arrived after all");
    lost.clock.pass(100_000);
    assert_eq!(lost.outcome(), "needs login");
    assert_eq!(lost.endpoint.arrived().len(), 2, "and it is not sent a third time");

    let silent = World::new(-1);
    silent.endpoint.will((0..3).map(|_| Act::Say(502, "")));
    assert_eq!(silent.outcome(), "cooling endpoint");
    silent.clock.pass(30);
    assert_eq!(silent.outcome(), "cooling endpoint", "once more");
    silent.clock.pass(899);
    assert_eq!(silent.outcome(), "cooling endpoint");
    assert_eq!(silent.endpoint.arrived().len(), 2);
    silent.clock.pass(1);
    assert_eq!(silent.outcome(), "cooling endpoint", "then every quarter of an hour");
    assert_eq!(silent.endpoint.arrived().len(), 3);
}

#[test]
fn a_cooldown_is_followed_by_a_fresh_read_of_the_file() {
    let world = World::new(-1);
    world.endpoint.will([Act::RotateThen(Lost::Reset)]);
    assert_eq!(world.outcome(), "cooling network");
    let mut login = document(7200);
    login["accounts"][0]["accessToken"] = "access-login".into();
    login["accounts"][0]["refreshToken"] = "refresh-login".into();
    world.write(&login);
    world.clock.pass(5);
    assert_eq!(world.outcome(), "access-login");
    assert_eq!(world.endpoint.arrived(), ["refresh-0"], "nothing had to be sent");
}

#[test]
fn retry_after_of_the_token_endpoint_is_kept() {
    let world = World::new(-1);
    world.endpoint.will([Act::SayWith(429, "retry-after", "120", "")]);
    assert_eq!(world.outcome(), "cooling endpoint");
    world.clock.pass(119);
    assert_eq!(world.outcome(), "cooling endpoint");
    world.clock.pass(1);
    assert_eq!(world.outcome(), "access-1");
}

#[test]
fn a_hundred_callers_on_an_expired_token_wait_for_one_refresh() {
    let world = World::new(-1);
    world.endpoint.close();
    let flights: Vec<SingleFlight> =
        (0..100).map(|_| refreshing(world.accounts.credential(ID))).collect();
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let accounts = world.accounts.clone();
            std::thread::spawn(move || short(accounts.credential_blocking(ID)))
        })
        .collect();
    world.endpoint.open();
    assert!(flights.iter().all(|flight| flight.wait(LONGEST)));
    for caller in callers {
        assert_eq!(caller.join().unwrap(), "access-1");
    }
    assert_eq!(world.endpoint.arrived(), ["refresh-0"]);
}

#[test]
fn thirty_401s_to_one_token_make_one_refresh() {
    let world = World::new(3600);
    let generation = world.ask().unwrap().generation;
    world.endpoint.close();
    let early: Vec<SingleFlight> =
        (0..15).map(|_| refreshing(world.accounts.refused(ID, generation))).collect();
    world.endpoint.open();
    assert!(early.iter().all(|flight| flight.wait(LONGEST)));
    for _ in 15..30 {
        assert_eq!(refused(&world, generation), "access-1", "a late 401 finds the new token");
    }
    assert_eq!(world.endpoint.arrived(), ["refresh-0"]);
}

#[test]
fn a_token_that_is_refused_after_its_refresh_rests_and_is_looked_at_again() {
    let world = World::new(3600);
    assert_eq!(refused(&world, 1), "access-1");
    let generation = world.ask().unwrap().generation;
    assert_eq!(refused(&world, generation), "CredentialRefused");
    world.clock.pass(5);
    assert_eq!(world.outcome(), "access-1", "for the request that looks");
    assert_eq!(world.endpoint.arrived().len(), 1);

    let slow = World::new(3600);
    assert_eq!(refused(&slow, 1), "access-1");
    slow.clock.pass(60);
    let again = slow.accounts.refused_again(ID, 2);
    assert!(matches!(again, Readiness::Unready(Unready::CredentialRefused)), "{again:?}");
}

#[test]
fn a_disabled_account_is_never_refreshed() {
    let world = World::new(-1);
    world.accounts.set_enabled(ID, false);
    assert_eq!(world.outcome(), "disabled");
    assert_eq!(refused(&world, 1), "disabled");

    let on_disk = World::new(-1);
    let mut disabled = document(-1);
    disabled["accounts"][0]["enabled"] = false.into();
    on_disk.write(&disabled);
    assert_eq!(
        on_disk.outcome(),
        "cooling local",
        "disabled by a command that the server has not heard of yet"
    );
    assert!(world.endpoint.arrived().is_empty() && on_disk.endpoint.arrived().is_empty());
}

#[test]
fn without_a_refresh_token_the_token_is_used_until_it_is_refused() {
    let mut alone = document(-1);
    alone["accounts"][0].as_object_mut().unwrap().remove("refreshToken");
    let world = World::with(&alone);
    assert_eq!(world.outcome(), "access-0");
    assert_eq!(refused(&world, 1), "CredentialRefused");
    assert_eq!(world.outcome(), "access-0", "for the request that looks after the rest");
    assert!(world.endpoint.arrived().is_empty());
}

#[test]
fn two_processes_on_one_file_never_kill_each_others_tokens() {
    let one = World::new(-1);
    let other = one.beside();
    one.endpoint.close();
    let flights = [&one, &other].map(|world| refreshing(world.accounts.credential(ID)));
    one.endpoint.open();
    assert!(flights.iter().all(|flight| flight.wait(LONGEST)));
    assert_eq!((one.outcome(), other.outcome()), ("access-1".to_owned(), "access-1".to_owned()));
    assert_eq!(one.endpoint.arrived(), ["refresh-0"], "the second found the pair of the first");
    for round in 2..12 {
        one.clock.pass(3_400);
        let (first, second) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        assert_eq!(first.outcome(), format!("access-{round}"));
        assert_eq!(second.outcome(), format!("access-{round}"));
    }
    assert_eq!(one.endpoint.reused(), 0);
    assert_eq!(one.pair_on_file(), pair(11));
}

#[test]
fn the_accounts_of_one_process_are_refreshed_side_by_side() {
    let mut many = document(-1);
    for number in 2..8 {
        many["accounts"].as_array_mut().unwrap().push(json!({
            "name": format!("more-{number}"), "type": "oauth", "accessToken": format!("a-{number}"),
            "refreshToken": format!("r-{number}"), "expiresAt": START_MS - 1,
        }));
    }
    let world = World::with(&many);
    (2..8).for_each(|number| world.endpoint.grant(&format!("r-{number}")));
    let other = world.beside();
    world.endpoint.close();
    let ids = [0, 2, 3, 4, 5, 6, 7].map(|at| AccountId(ID.0 + at));
    let flights = ids.map(|id| refreshing(world.accounts.credential(id)));
    world.endpoint.wait_for_calls(ids.len());
    let theirs = ids.map(|id| refreshing(other.accounts.credential(id)));
    world.endpoint.open();
    assert!(flights.iter().chain(&theirs).all(|flight| flight.wait(LONGEST)));
    for id in ids {
        let values =
            [&world, &other].map(|world| world.accounts.credential_blocking(id).unwrap().value);
        assert_eq!(values[0], values[1]);
    }
    assert_eq!(world.endpoint.arrived().len(), ids.len());
    assert_eq!(world.endpoint.reused(), 0);
}

#[test]
fn a_401_in_two_processes_rotates_once() {
    let one = World::new(3600);
    let other = one.beside();
    assert_eq!(refused(&one, 1), "access-1");
    assert_eq!(refused(&other, 1), "access-1");
    assert_eq!(one.endpoint.arrived(), ["refresh-0"]);
}

#[test]
fn a_refused_refresh_reads_the_file_before_it_condemns() {
    // Another program, which takes no lock, has rotated the token and writes while our call is in
    // progress.
    let world = World::new(-1);
    world.endpoint.close();
    world.endpoint.will([Act::Say(400, r#"{"error":"invalid_grant"}"#)]);
    let flight = refreshing(world.accounts.credential(ID));
    world.endpoint.wait_for_calls(1);
    let mut rotated = document(7200);
    rotated["accounts"][0]["accessToken"] = "access-theirs".into();
    rotated["accounts"][0]["refreshToken"] = "refresh-theirs".into();
    world.write(&rotated);
    world.endpoint.open();
    assert!(flight.wait(LONGEST));
    assert_eq!(world.outcome(), "access-theirs");
    assert_eq!(world.endpoint.arrived(), ["refresh-0"]);
}

#[test]
fn a_sync_that_read_the_file_before_a_refresh_ended_does_no_harm() {
    let world = World::new(-1);
    let before = file::load(&world.path()).unwrap();
    assert_eq!(world.outcome(), "access-1");
    assert_eq!(world.accounts.diff(&before).changed, [], "nothing is new in it");
    assert_eq!(world.accounts.update(ID, &before.accounts[0]), CredentialChange::Same);
    assert_eq!(world.outcome(), "access-1");
    world.sync();
    assert_eq!(world.outcome(), "access-1");
}

#[test]
fn a_login_by_a_command_reaches_the_running_server() {
    let world = World::new(-1);
    world.endpoint.will([Act::Say(400, r#"{"error":"invalid_grant"}"#)]);
    assert_eq!(world.outcome(), "needs login");
    let mut login = document(7200);
    login["accounts"][0]["accessToken"] = "access-login".into();
    login["accounts"][0]["refreshToken"] = "refresh-login".into();
    world.write(&login);
    let config = file::load(&world.path()).unwrap();
    let changed = world.accounts.diff(&config).changed;
    assert_eq!(changed[0].said, ["new credential"]);
    assert_eq!(world.accounts.update(ID, &changed[0].entry), CredentialChange::New);
    assert_eq!(world.outcome(), "access-login");
}

#[test]
fn a_pair_that_could_not_be_written_serves_from_memory_and_is_written_later() {
    let world = World::new(-1);
    let whole = std::fs::read_to_string(world.path()).unwrap();
    std::fs::write(world.path(), "{ broken").unwrap();
    assert_eq!(world.outcome(), "access-1");
    assert_eq!(
        std::fs::read_to_string(world.path()).unwrap(),
        "{ broken",
        "a broken file is never replaced"
    );
    world.accounts.sync_tokens();
    assert!(world.accounts.trouble.lock().unwrap().is_some());
    std::fs::write(world.path(), whole).unwrap();
    world.sync();
    assert_eq!(world.outcome(), "access-1", "the old pair on file is behind");
    world.accounts.sync_tokens();
    assert_eq!(world.pair_on_file(), pair(1));
}

#[test]
fn a_valid_token_is_not_risked_while_the_file_cannot_take_a_new_one() {
    let world = World::new(120);
    std::fs::write(world.path(), "{ broken").unwrap();
    assert_eq!(world.outcome(), "access-0");
    std::fs::remove_file(world.path()).unwrap();
    world.clock.pass(10);
    assert_eq!(world.outcome(), "access-0");
    assert!(world.endpoint.arrived().is_empty());
}

#[test]
fn an_account_that_was_removed_is_not_refreshed() {
    let world = World::new(-1);
    world.write(&json!({"accounts": []}));
    assert_eq!(world.outcome(), "cooling local");
    assert!(world.endpoint.arrived().is_empty());
    world.accounts.remove(ID);
    assert_eq!(world.ask(), Err(Unready::Gone));
}

#[test]
fn an_import_is_taken_while_it_is_newer_and_refreshed_when_it_is_not() {
    let mut imported = document(-1);
    imported["accounts"][0]["importFrom"] = "~/source.json".into();
    let world = World::with(&imported);
    let source = |access: &str, refresh: &str, left: i64| {
        let tokens = json!({"claudeAiOauth": {"accessToken": access, "refreshToken": refresh, "expiresAt": START_MS + left * 1000}});
        std::fs::write(world.directory.path("source.json"), tokens.to_string()).unwrap();
    };
    source("access-cli", "refresh-cli", 7200);
    assert_eq!(world.outcome(), "access-cli", "T3 found by the refresh");
    assert_eq!(world.pair_on_file().1, "refresh-cli");
    source("access-cli2", "refresh-cli2", 9000);
    world.accounts.sync_tokens();
    assert_eq!(world.pair_on_file().1, "refresh-cli2");
    assert_eq!(world.outcome(), "access-cli2");
    assert!(world.endpoint.arrived().is_empty());
    world.endpoint.grant("refresh-cli2");
    world.clock.pass(8_900);
    assert_eq!(world.outcome(), "access-1", "T3 the source has nothing newer");
    world.accounts.sync_tokens();
    assert_eq!(world.outcome(), "access-1");
}

#[test]
fn a_pair_that_a_sync_takes_while_a_refresh_begins_is_not_sent() {
    let mut imported = document(-1);
    imported["accounts"][0]["importFrom"] = "~/source.json".into();
    let world = World::with(&imported);
    let digest = Digest::of(&Secret::new("refresh-0"));
    let lock = file::lock_token(&world.path(), &digest, LONGEST).unwrap();
    let flight = refreshing(world.accounts.credential(ID));
    let newer = Tokens {
        access: Some(Secret::new("access-cli")),
        refresh: Some(Secret::new("refresh-cli")),
        expires_at: Some(Wall(START_MS + 7_200_000)),
    };
    let account = world.accounts.get(ID).unwrap();
    assert!(account.with_tokens(|state| state.take_import(&newer, &[])));
    drop(lock);
    assert!(flight.wait(LONGEST));
    assert_eq!(world.outcome(), "access-cli");
    assert!(world.endpoint.arrived().is_empty(), "T3");
}

#[test]
fn fixed_keys_are_served_as_they_are_and_refused_by_generation() {
    let world = World::new(3600);
    let id = AccountId(ID.0 + 1);
    let ready = world.accounts.credential_blocking(id).unwrap();
    assert_eq!((ready.header, ready.value.expose()), ("x-api-key", "sk-ant-api-1"));
    let refused = world.accounts.refused(id, ready.generation);
    assert!(matches!(refused, Readiness::Unready(Unready::CredentialRefused)), "{refused:?}");
    let mut changed = document(3600);
    changed["accounts"][1]["apiKey"] = "sk-ant-api-2".into();
    world.write(&changed);
    world.sync();
    let Readiness::Ready(newer) = world.accounts.refused(id, ready.generation) else {
        panic!("the key has changed since");
    };
    assert_eq!(newer.value.expose(), "sk-ant-api-2");
}

#[test]
fn no_error_and_no_event_holds_a_token() {
    let (events, received) = Events::channel();
    let world = World::new(-1);
    let mut around = world.accounts.shared.around.clone();
    around.events = events;
    let accounts = Arc::new(Accounts::new(around, &Config::default()));
    let config = file::load(&world.path()).unwrap();
    accounts.insert(ID, &config.accounts[0], Origin::Config);
    // The endpoint repeats the token in its message.
    world.endpoint.state.lock().unwrap().dead.insert(0);
    let refused = accounts.credential_blocking(ID);
    let shown = format!("{refused:?} {:?}", received.try_iter().collect::<Vec<_>>());
    assert!(shown.contains("invalid_grant: bad [hidden]"), "{shown}");
    assert!(!shown.contains("refresh-0") && !shown.contains("access-0"), "{shown}");
}
