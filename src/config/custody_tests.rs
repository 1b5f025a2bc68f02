#![allow(clippy::unwrap_used)]

use serde_json::{Map, Value, json};

use super::*;
use crate::scheduler::time::Wall;

pub(super) fn pair(name: &str, end: i64) -> Tokens {
    Tokens {
        access: Some(Secret::new(format!("access-{name}"))),
        refresh: Some(Secret::new(format!("refresh-{name}"))),
        expires_at: Some(Wall(1_800_000_000_000 + end)),
    }
}

fn spent(names: &[&str]) -> Spent {
    names.iter().map(|name| Digest::of(&Secret::new(format!("refresh-{name}")))).collect()
}

fn deposit(name: &str, used: &[&str]) -> Deposit {
    Deposit { live: pair(name, 1), previous: Previous::default(), spent: spent(used) }
}

#[test]
fn t8_every_answer_has_its_proof() {
    let before = pair("0", 1);
    let place = || Found::Place { before: &before };
    let ours = deposit("1", &["0"]);
    let ends_later = Deposit { live: pair("cli", 2), ..Deposit::default() };
    let ends_earlier = Deposit { live: pair("cli", 0), ..Deposit::default() };
    let spent_later = Deposit { live: pair("0", 9), ..Deposit::default() };
    for (rule, theirs, found, age) in [
        ("an old copy", deposit("0", &[]), place(), Age::Older(Proof::Spent)),
        (
            "T3 an old copy in a source, whatever its end",
            spent_later,
            Found::Source,
            Age::Older(Proof::Spent),
        ),
        ("T3 an old copy by command", deposit("0", &[]), Found::Command, Age::Older(Proof::Spent)),
        ("the same", deposit("1", &[]), place(), Age::Same),
        (
            "rotated by another process",
            deposit("2", &["0", "1"]),
            place(),
            Age::Newer(Proof::Spent),
        ),
        ("a login or an edit", deposit("login", &[]), place(), Age::Newer(Proof::Written)),
        ("T3 a source that is ahead", ends_later.clone(), Found::Source, Age::Newer(Proof::Issued)),
        ("T3 a source that is behind", ends_earlier, Found::Source, Age::Older(Proof::Issued)),
        ("an import of another login", ends_later, Found::Command, Age::Newer(Proof::Written)),
    ] {
        assert_eq!(age_of(&theirs, &ours, found), age, "{rule}");
    }
    let kept = Deposit { live: Tokens { access: None, ..pair("0", 1) }, ..Deposit::default() };
    assert_eq!(
        age_of(&kept, &deposit("1", &[]), Found::Place { before: &kept.live }),
        Age::Older(Proof::Unchanged)
    );
}

#[test]
fn t8_the_last_64_are_kept_and_the_one_that_a_source_offers() {
    let mut list = Spent::default();
    let digest = |number: usize| Digest::of(&Secret::new(format!("t{number}")));
    let held = digest(0);
    (0..100).for_each(|number| list.add(digest(number), Some(&held)));
    assert_eq!(list.digests().count(), 64);
    assert!(list.has(Some(&Secret::new("t0"))) && list.has(Some(&Secret::new("t99"))));
    assert!(!list.has(Some(&Secret::new("t36"))) && list.has(Some(&Secret::new("t37"))));
    let mut entry = Map::new();
    Deposit { spent: list.clone(), ..Deposit::default() }.write(&mut entry);
    assert_eq!(Deposit::read(&entry).spent, list);
}

#[test]
fn t8_a_full_list_takes_the_latest_from_whoever_knows_it() {
    let mut entry = deposit("0", &[]);
    let mut custody = Custody::new(entry.clone());
    let mut other = Custody::new(entry.clone());
    let who = Identity { name: "a", account_uuid: None, org_uuid: None };
    for number in 1..200 {
        let sent = custody.live().refresh.clone().unwrap();
        custody.renewed(&sent, pair(&number.to_string(), 0), None);
        let mut value = Map::new();
        value.insert("name".to_owned(), "a".into());
        entry.write(&mut value);
        let mut file = document(json!([value]));
        assert_eq!(place(&mut file, &custody.record(&who)), Placed::Stored);
        entry = Deposit::read(file["accounts"][0].as_object().unwrap());
        custody.stored(&custody.record(&who), Kept::OnDisk);
        other.see_file(&entry);
        let mut learned = Custody::new(Deposit { spent: spent(&[]), ..entry.clone() });
        learned.own.spent.add_all(&custody.own.spent, None);
        for at in number.max(60) - 60..number {
            let token = pair(&at.to_string(), 0).refresh;
            for known in [&entry.spent, &other.own.spent, &learned.own.spent] {
                assert!(known.has(token.as_ref()), "{at} of {number}");
            }
        }
        assert_eq!(other.own.previous, Previous::default(), "{number}: a spent pair is not kept");
    }
}

pub(super) fn document(entries: Value) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("accounts".to_owned(), entries);
    document
}

#[test]
fn t7_a_pair_goes_where_the_token_is_that_it_replaces() {
    let entry = |name: &str, token: &str| {
        let mut entry = Map::new();
        entry.insert("name".to_owned(), name.into());
        Deposit { live: pair(token, 1), ..Deposit::default() }.write(&mut entry);
        Value::Object(entry)
    };
    let mut custody = Custody::new(deposit("0", &[]));
    assert!(custody.renewed(&Secret::new("refresh-0"), pair("1", 1), None));
    let who = Identity { name: "a", account_uuid: None, org_uuid: None };
    let record = Record::read(&custody.record(&who).value()).unwrap();
    assert_eq!(record, custody.record(&who), "what is written is read again");
    for (rule, entries, placed, live) in [
        ("as it was", json!([entry("a", "0")]), Placed::Stored, "1"),
        ("renamed by hand", json!([entry("b", "0"), entry("c", "x")]), Placed::Stored, "1"),
        ("a newer login", json!([entry("a", "login")]), Placed::Beside, "login"),
        ("there already", json!([entry("a", "1")]), Placed::Known, "1"),
        ("removed", json!([entry("c", "x")]), Placed::Removed, "x"),
        ("an entry that lost its tokens", json!([{"name": "a"}]), Placed::Stored, "1"),
    ] {
        let mut document = document(entries);
        assert_eq!(place(&mut document, &record), placed, "{rule}");
        assert_eq!(document["accounts"][0]["refreshToken"], format!("refresh-{live}"), "{rule}");
        if placed == Placed::Beside {
            assert_eq!(document["accounts"][0]["previous"]["refreshToken"], "refresh-1", "{rule}");
        }
    }
}
