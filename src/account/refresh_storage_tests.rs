//! Refreshes whose successor cannot be stored, or whose process dies (SPEC T7, T8).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use rustix::io::Errno;

use super::*;
use crate::config::fault::{Fault, Faults, Step};

/// Whether a process that starts now finds a pair that the endpoint still accepts.
fn is_kept_for_the_next_start(world: &World) -> bool {
    let config = file::load_or_create(&world.path()).unwrap();
    let Credential::Oauth(oauth) = &config.accounts[0].credential else {
        panic!("the first account is a login");
    };
    let token = oauth.tokens.refresh.as_ref().unwrap().expose().to_owned();
    let state = world.endpoint.state.lock().unwrap();
    state.good.contains_key(&token)
}

#[test]
fn t7_a_process_that_dies_at_any_step_loses_no_pair_that_it_has_written() {
    let steps = {
        let world = World::new(-1);
        let faults = Faults::inject(&world.directory.path(""), Fault::Dead(usize::MAX));
        assert_eq!(world.outcome(), "access-1");
        faults.steps()
    };
    // The last file replaced is the state file, the one before is the config.
    let before = |end: usize, kind: Step| steps[..end].iter().rposition(|step| *step == kind);
    let renamed = before(before(steps.len(), Step::Rename).unwrap(), Step::Rename).unwrap();
    let sent_before = before(renamed, Step::Write).unwrap();
    for at in 0..steps.len() {
        let world = World::new(-1);
        let faults = Faults::inject(&world.directory.path(""), Fault::Dead(at));
        // A dead process reports nothing.
        let _ = world.outcome();
        drop(faults);
        let arrived = world.endpoint.arrived().len();
        assert!(arrived <= 1, "{at}: sent once");
        // Until the bytes are written, the answer is only in transit.
        let is_written = at > sent_before;
        if arrived == 0 || is_written {
            assert!(is_kept_for_the_next_start(&world), "step {at} of {steps:?}");
            let names = world.directory.names();
            // A leftover of the state file is removed by its next write.
            let is_left =
                |name: &String| name.starts_with(".maxpool.json") && name.ends_with(".tmp");
            assert!(!names.iter().any(is_left), "{at}: {names:?}");
        }
    }
}

#[test]
fn t7_a_valid_token_is_not_sent_where_its_successor_has_no_place() {
    for fault in [
        Fault::AlwaysFull,
        Fault::Each(Step::Rename, Errno::BUSY),
        Fault::Each(Step::Rename, Errno::PERM),
        Fault::Each(Step::Open, Errno::ROFS),
        Fault::Each(Step::Sync, Errno::IO),
    ] {
        let world = World::new(120);
        let faults = Faults::inject(&world.directory.path(""), fault);
        assert_eq!(world.outcome(), "access-0", "{fault:?}");
        assert!(world.endpoint.arrived().is_empty(), "{fault:?}: not sent");
        drop(faults);
        world.clock.pass(10);
        assert_eq!(world.outcome(), "access-1", "{fault:?}: later it is");
    }
    let world = World::new(120);
    let _faults = Faults::inject(&world.directory.path(""), Fault::Each(Step::Lock, Errno::NOLCK));
    assert_eq!(world.outcome(), "access-1", "without locks it is stored all the same");
    assert_eq!(world.pair_on_file(), pair(1));
}

#[test]
fn t7_a_disk_that_fills_at_any_write_loses_nothing() {
    let count = {
        let world = World::new(-1);
        let faults = Faults::inject(&world.directory.path(""), Fault::Full(usize::MAX));
        assert_eq!(world.outcome(), "access-1");
        faults.steps().len()
    };
    for at in 0..count {
        let world = World::new(-1);
        let faults = Faults::inject(&world.directory.path(""), Fault::Full(at));
        let outcome = world.outcome();
        assert!(outcome == "access-1" || world.endpoint.arrived().is_empty(), "{at}: {outcome}");
        drop(faults);
        world.accounts.sync_tokens();
        assert!(is_kept_for_the_next_start(&world), "{at}");
    }
    // Nothing can be written anywhere, and the token has expired: the new pair serves from memory.
    let world = World::new(-1);
    let faults = Faults::inject(&world.directory.path(""), Fault::AlwaysFull);
    assert_eq!(world.outcome(), "access-1");
    assert_eq!(world.pair_on_file(), pair(0));
    let next = world.beside();
    next.accounts.take_over(&world.accounts.unsaved());
    assert_eq!(next.outcome(), "access-1", "handed over");
    drop(faults);
    next.accounts.keep_all();
    assert_eq!(world.pair_on_file(), pair(1));
}

#[test]
fn t7_a_pair_in_memory_only_can_be_renewed_after_a_failure_and_no_spent_token_is_free_until_it_is_stored()
 {
    let world = World::new(-1);
    let faults = Faults::inject(&world.directory.path(""), Fault::Each(Step::Write, Errno::NOSPC));
    assert_eq!(world.outcome(), "access-1");
    world.clock.pass(3_600);
    world.endpoint.will([Act::Say(500, "")]);
    assert_eq!(world.outcome(), "cooling endpoint");
    world.clock.pass(30);
    assert_eq!(world.outcome(), "access-2", "its own lock is in nobody's way");
    // No file records that the first two are used up, so their locks do.
    let is_free = |token: &str| {
        let digest = Digest::of(&Secret::new(token));
        file::lock_token(&world.path(), &digest, Duration::ZERO).is_ok()
    };
    assert!(!is_free("refresh-0") && !is_free("refresh-1") && is_free("refresh-2"));
    drop(faults);
    world.accounts.keep_all();
    assert_eq!(world.pair_on_file(), pair(2));
    assert!(is_free("refresh-0") && is_free("refresh-1"));
}

#[test]
fn t8_an_old_copy_is_overwritten_at_once_with_the_live_pair() {
    let world = World::new(-1);
    let old = std::fs::read_to_string(world.path()).unwrap();
    assert_eq!(world.outcome(), "access-1");
    std::fs::write(world.path(), &old).unwrap();
    world.accounts.sync_tokens();
    assert_eq!(world.pair_on_file(), pair(1));
    std::fs::write(world.path(), &old).unwrap();
    world.accounts.keep_all();
    assert_eq!(world.pair_on_file(), pair(1), "also at the stop");
}

#[test]
fn t7_a_pair_that_the_config_cannot_take_is_rescued_and_read_by_everybody() {
    let world = World::new(-1);
    let whole = std::fs::read_to_string(world.path()).unwrap();
    std::fs::write(world.path(), "{ broken").unwrap();
    assert_eq!(world.outcome(), "access-1");
    let rescue = world.directory.path("maxpool.rescue.json");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&rescue).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(world.path(), whole).unwrap();
    let other = world.beside();
    assert_eq!(other.outcome(), "access-1", "another process reads it");
    other.accounts.sync_tokens();
    assert_eq!(world.pair_on_file(), pair(1), "and moves it into the config");
    assert!(!rescue.exists());
    assert_eq!(world.endpoint.arrived(), ["refresh-0"]);
}
