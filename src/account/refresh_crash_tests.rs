//! What a killed process leaves behind, and how it is found (SPEC T7).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rustix::io::Errno;

use super::{Act, ID, World, document, pair, refreshing};
use crate::account::Role;
use crate::account::refresh::LONGEST;
use crate::config::fault::{Fault, Faults, Step};
use crate::config::file;

#[test]
fn t7_a_running_process_finds_what_a_killed_writer_has_left_behind() {
    let steps = {
        let world = World::new(-1);
        let faults = Faults::inject(&world.directory.path(""), Fault::Dead(usize::MAX));
        assert_eq!(world.outcome(), "access-1");
        faults.steps()
    };
    let killed = World::new(-1);
    let other = killed.beside();
    let rename = steps.iter().rposition(|step| *step == Step::Rename).unwrap();
    let faults = Faults::inject(&killed.directory.path(""), Fault::Dead(rename));
    let _ = killed.outcome();
    drop(faults);
    drop(killed);
    assert_eq!(other.outcome(), "access-1");
    assert_eq!(other.endpoint.arrived(), ["refresh-0"]);
    assert_eq!(other.pair_on_file(), pair(1));
}

#[test]
fn t7_a_rescue_file_that_was_not_put_in_its_place_is_read() {
    let stuck =
        |world: &World| Faults::inject(&world.path(), Fault::Each(Step::Rename, Errno::BUSY));
    let steps = {
        let world = World::new(-1);
        let _stuck = stuck(&world);
        let faults = Faults::inject(&world.directory.path(""), Fault::Dead(usize::MAX));
        assert_eq!(world.outcome(), "access-1");
        faults.steps()
    };
    let killed = World::new(-1);
    let other = killed.beside();
    let still = stuck(&killed);
    let rename = steps.iter().rposition(|step| *step == Step::Rename).unwrap();
    let faults = Faults::inject(&killed.directory.path(""), Fault::Dead(rename));
    let _ = killed.outcome();
    drop(faults);
    drop(killed);
    assert_eq!(other.outcome(), "access-1", "a running process");
    drop(still);
    file::load_or_create(&other.path()).unwrap();
    assert_eq!(other.pair_on_file(), pair(1), "one that starts");
    assert_eq!(other.endpoint.arrived(), ["refresh-0"]);
    let names = other.directory.names();
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{names:?}");
}

#[test]
fn t7_a_pair_in_memory_is_handed_over_to_an_entry_that_was_renamed() {
    let mut document = document(-1);
    document["accounts"][0].as_object_mut().unwrap().remove("accountUuid");
    let world = World::with(&document);
    let faults = Faults::inject(&world.directory.path(""), Fault::AlwaysFull);
    assert_eq!(world.outcome(), "access-1");
    document["accounts"][0]["name"] = "renamed".into();
    world.write(&document);
    let next = world.beside();
    next.accounts.take_over(&world.accounts.unsaved());
    assert_eq!(next.accounts.unsaved().len(), 1);
    assert_eq!(next.outcome(), "access-1");
    drop(faults);
    next.accounts.keep_all();
    assert_eq!(next.pair_on_file(), pair(1));
}

#[test]
fn r2_a_process_that_has_handed_over_dials_no_second_time() {
    let world = World::new(-1);
    world.endpoint.will([Act::NoConnection]);
    world.endpoint.close();
    let flight = refreshing(world.accounts.credential(ID));
    world.endpoint.wait_for_calls(1);
    world.accounts.set_role(Role::Retired);
    world.endpoint.open();
    assert!(flight.wait(LONGEST));
    assert!(world.endpoint.arrived().is_empty());
}
