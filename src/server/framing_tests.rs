//! Compares our reading of a byte stream with the test peer's, for the table and for mutations of
//! it.

use super::body::{BodyError, Chunked, Progress};
use super::door::{self, Framing};
use super::head::{self, Parsed};
use crate::http::peek::BODY_BYTES_MAX;
use crate::testing::chance::rounds;

#[path = "../../tests/framing/peer.rs"]
mod peer;

use peer::Seen;

/// What a connection reads when `bytes` arrive in pieces that end at `cuts`.
fn read_stream(bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let mut reads = cuts.iter().copied().chain([bytes.len()]).scan(0, |from, to| {
        let read = &bytes[*from..to.max(*from)];
        *from = to.max(*from);
        Some(read)
    });
    let mut seen = Vec::new();
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            match head::parse(&buffer) {
                Parsed::Complete(head, length) => {
                    buffer.drain(..length);
                    break head;
                }
                Parsed::Refused(refusal) => return ended(seen, Seen::Refused(refusal.status)),
                Parsed::Partial => {}
            }
            match reads.next() {
                Some(read) => buffer.extend_from_slice(read),
                // Empty lines do not start a message.
                None if buffer.iter().all(|byte| b"\r\n".contains(byte)) => return seen,
                None => return ended(seen, Seen::Waits),
            }
        };
        let form = match door::form(&head) {
            Ok(form) => form,
            Err(refusal) => return ended(seen, Seen::Refused(refusal.status)),
        };
        let mut body = Vec::new();
        let mut decoder = Chunked::new(BODY_BYTES_MAX);
        loop {
            let done = match form.framing {
                Framing::NoBody => true,
                Framing::Length(length) => {
                    let count = buffer.len().min(length as usize - body.len());
                    body.extend(buffer.drain(..count));
                    body.len() as u64 == length
                }
                Framing::Chunked => match decoder.decode(&buffer, &mut body) {
                    Ok((used, progress)) => {
                        buffer.drain(..used);
                        progress == Progress::Done
                    }
                    Err(BodyError::TooLarge) => return ended(seen, Seen::Refused(413)),
                    Err(BodyError::Broken) => return ended(seen, Seen::Refused(400)),
                },
            };
            if done {
                break;
            }
            match reads.next() {
                Some(read) => buffer.extend_from_slice(read),
                None => return ended(seen, Seen::Waits),
            }
        }
        seen.push(Seen::Served { method: head.method, target: head.target, body });
        if head.version == (1, 0) || head.headers.asks_to_close() {
            return ended(seen, Seen::Closes);
        }
    }
}

fn ended(mut seen: Vec<Seen>, last: Seen) -> Vec<Seen> {
    seen.push(last);
    seen
}

#[test]
fn the_table_is_read_as_it_says() {
    let mut wrong = Vec::new();
    for row in peer::corpus::rows() {
        let bytewise: Vec<usize> = (1..row.bytes.len().min(400)).collect();
        for cuts in [&[][..], &bytewise] {
            let seen = read_stream(&row.bytes, cuts);
            if !row.verdicts.contains(&seen) {
                wrong.push(format!("{}: {seen:?}, not {:?}", row.name, row.verdicts));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_slow_reference_agrees_with_every_mutation() {
    let count = rounds(20_000).len() as u64;
    peer::generate::compare(11, count, read_stream);
}
