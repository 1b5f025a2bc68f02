//! Framing (RFC 9112, SPEC P2): the table of cases, checked against the reference and the program.

#[path = "peer.rs"]
mod peer;
mod wire;

use std::collections::BTreeSet;

use peer::Seen;
use peer::generate::{Generator, compare};
use peer::reference::{read_stream, readings};

#[test]
fn the_reference_agrees_with_the_table() {
    let mut wrong = Vec::new();
    for row in peer::corpus::rows() {
        let read = read_stream(&row.bytes);
        let all = readings(&row.bytes);
        let forbids = row.verdicts.iter().any(|verdict| !all.contains(verdict));
        if !row.verdicts.contains(&read) || forbids {
            wrong.push(format!(
                "{} ({}): {:?}, but the reference reads {all:?}",
                row.name, row.rule, row.verdicts
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_is_large_and_names_each_case_once() {
    let rows = peer::corpus::rows();
    assert!(rows.len() >= 180, "{} rows", rows.len());
    let mut seen = BTreeSet::new();
    for row in &rows {
        assert!(seen.insert(&row.bytes), "{} is there already", row.name);
        assert!(!row.verdicts.is_empty(), "{}", row.name);
    }
}

#[test]
fn the_generator_reaches_every_end() {
    let generator = Generator::new();
    let mut ends = BTreeSet::new();
    let mut served = 0;
    for round in 0..4000 {
        let (bytes, cuts) = generator.input(1, round);
        assert!(cuts.is_sorted() && cuts.iter().all(|cut| *cut <= bytes.len()));
        let seen = read_stream(&bytes);
        let count = seen.iter().filter(|one| matches!(one, Seen::Served { .. }));
        served += count.count();
        let end = seen.last().map(|last| format!("{last:?}"));
        ends.extend(end.map(|end| {
            end.split_once('(').map_or(end.clone(), |(kind, rest)| {
                let code = rest.get(..3).filter(|_| kind == "Refused");
                format!("{kind}{}", code.unwrap_or_default())
            })
        }));
    }
    let names: Vec<&str> = ends.iter().map(String::as_str).collect();
    let expected =
        ["Closes", "Refused400", "Refused413", "Refused417", "Refused505", "Served", "Waits"];
    assert_eq!(names, expected);
    assert!(served > 1200, "{served} requests served in 4000 inputs");
}

#[test]
fn a_comparison_with_itself_finds_nothing() {
    compare(1, 2000, |bytes, _| read_stream(bytes));
}

#[test]
#[should_panic(expected = "which is none of")]
fn a_parser_that_folds_lines_is_found_out() {
    compare(1, 20_000, |bytes, _| {
        let mut unfolded = bytes.to_vec();
        while let Some(at) = unfolded.windows(3).position(|three| three == b"\r\n ") {
            drop(unfolded.drain(at..at + 2));
        }
        read_stream(&unfolded)
    });
}

#[test]
#[should_panic(expected = "which is none of")]
fn a_parser_that_forgets_bytes_between_reads_is_found_out() {
    compare(1, 20_000, |bytes, cuts| match cuts {
        [.., last] if bytes[*last..].starts_with(b"\r") => {
            read_stream(&[&bytes[..*last], &bytes[*last + 1..]].concat())
        }
        _ => read_stream(bytes),
    });
}
