//! Clients that are held while every account is limited, and served in the end.

use std::time::Duration;

use crate::harness::{Home, json, oauth};
use crate::programs::{self, Ran};
use crate::sdk::{SDKS, Sdk};
use crate::stage::{PATIENCE, Stage, limited_for};
use crate::upstream::Upstream;

/// How long the accounts are limited in the short cases.
const HOLD: u64 = 30;
/// How long in the cases that exceed Claude Code's own time limits.
const LONG_HOLD: u64 = 720;

fn two_accounts(home: Home) -> Home {
    home.account(oauth("a")).account(oauth("b"))
}

/// The lines of the program's log about requests.
fn told(stage: &Stage) -> Vec<String> {
    stage
        .proxy
        .log()
        .into_iter()
        .filter(|line| line.contains("/v1/messages") || line.contains("held"))
        .collect()
}

fn assert_served(stage: &Stage, ran: &Ran, seconds: u64) {
    for line in told(stage) {
        stage.seen(&line);
    }
    stage.seen(&format!("{:?} after {:.1?}", ran.stdout, ran.took));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
    let took = ran.took.as_secs();
    assert!((seconds - 1..seconds + 30).contains(&took), "{took} s");
}

#[test]
fn claude_is_held_for_half_a_minute() {
    let stage = Stage::new(
        "claude_is_held_for_half_a_minute",
        Upstream::with(limited_for(HOLD)),
        two_accounts,
    );
    let ran = stage.run_claude(&["-p", "say hi"]);
    assert_served(&stage, &ran, HOLD);
    assert_eq!(
        stage.upstream.requests().len(),
        3,
        "each account once, then the one that is free: {:?}",
        stage.requests()
    );
}

#[test]
fn sdks_are_held_for_half_a_minute() {
    // All at once, which takes half a minute instead of two.
    let stage = Stage::new(
        "sdks_are_held_for_half_a_minute",
        Upstream::with(limited_for(HOLD)),
        two_accounts,
    );
    let calls: Vec<_> = SDKS
        .iter()
        .flat_map(|sdk| ["plain", "stream"].map(|action| (*sdk, action)))
        .map(|(sdk, action)| (sdk, action, sdk.start(&stage, action, &json!({"max_retries": 0}))))
        .collect();
    for (sdk, action, call) in calls {
        let seen = call.seen(PATIENCE);
        stage.seen(&format!("{sdk:?} {action}: {seen}"));
        assert_eq!(seen["text"], "Hello from upstream.", "{sdk:?} {action}");
    }
    for line in told(&stage) {
        stage.seen(&line);
    }
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn claude_with_its_own_limits_is_held_for_twelve_minutes() {
    let stage = Stage::new(
        "claude_with_its_own_limits_is_held",
        Upstream::with(limited_for(LONG_HOLD)),
        two_accounts,
    );
    let running = programs::start(stage.claude(&["-p", "say hi"]));
    let ran = running.finish(Duration::from_secs(LONG_HOLD + 120));
    assert_served(&stage, &ran, LONG_HOLD);
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn claude_that_run_starts_is_held_for_twelve_minutes_at_once() {
    let stage = Stage::new(
        "claude_that_run_starts_is_held",
        Upstream::with(limited_for(LONG_HOLD)),
        two_accounts,
    );
    let ran = programs::start(stage.maxpool_run(&["-p", "say hi"]))
        .finish(Duration::from_secs(LONG_HOLD + 120));
    assert_served(&stage, &ran, LONG_HOLD);
    assert_held_once(&stage);
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn claude_with_the_exports_of_env_is_held_for_twelve_minutes() {
    let stage = Stage::new(
        "claude_with_the_exports_of_env_is_held",
        Upstream::with(limited_for(LONG_HOLD)),
        two_accounts,
    );
    let mut command = stage.claude(&["-p", "say hi"]);
    for (name, value) in stage.exports() {
        command.env(name, value);
    }
    let ran = programs::start(command).finish(Duration::from_secs(LONG_HOLD + 120));
    assert_served(&stage, &ran, LONG_HOLD);
    assert_held_once(&stage);
}

fn assert_held_once(stage: &Stage) {
    let told = told(stage);
    let requests = told.iter().filter(|line| line.contains("POST")).count();
    assert_eq!(requests, 1, "a single hold: {told:#?}");
}

#[test]
fn claude_that_run_starts_is_held_for_half_a_minute() {
    let stage = Stage::new(
        "claude_that_run_starts_is_held_for_half_a_minute",
        Upstream::with(limited_for(HOLD)),
        two_accounts,
    );
    let ran = programs::start(stage.maxpool_run(&["-p", "say hi"])).finish(PATIENCE);
    assert_served(&stage, &ran, HOLD);
}
