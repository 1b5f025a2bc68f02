//! The table against the program: each answer, whether the connection ends, and what the upstream
//! received.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::peer::corpus::{Row, rows};
use super::peer::{Seen, served};
use crate::harness::{Ask, Client, Home, Proxy, Reply, ReplyEnd, json};
use crate::upstream::{Answer, Request, Upstream};

/// A program with its own upstream, so that what reaches the upstream belongs to one row.
struct Lane {
    upstream: Upstream,
    proxy: Proxy,
    _home: Home,
    /// How many requests the rows so far should have sent to the upstream.
    total: usize,
}

const LANES: usize = 8;
/// How long an answer may take.
const SOON: Duration = Duration::from_secs(5);
/// How long a waiting server is watched for an answer that it must not give.
const QUIET: Duration = Duration::from_millis(100);

#[test]
fn every_case_is_read_as_the_table_says() {
    let rows = rows();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let lanes = (0..LANES).map(|number| {
            let rows = rows.iter().skip(number).step_by(LANES);
            scope.spawn(move || Lane::start().run(rows))
        });
        let lanes: Vec<_> = lanes.collect();
        let found = lanes.into_iter().flat_map(|lane| lane.join().expect("a lane"));
        found.collect()
    });
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} rows:\n{}", wrong.join("\n"));
}

impl Lane {
    fn start() -> Lane {
        let upstream = Upstream::with(answer);
        let home = Home::new()
            .upstream(&upstream.url())
            .accounts(&["a"])
            .set("queue.enabled", json!(false));
        Lane { proxy: Proxy::start(&home), upstream, _home: home, total: 0 }
    }

    /// Runs these rows and returns what was wrong with which.
    fn run<'a>(mut self, rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
        let mut wrong = Vec::new();
        for row in rows {
            // The client panics on an answer that it cannot parse.
            let seen = catch_unwind(AssertUnwindSafe(|| self.observe(row)));
            let seen = seen.unwrap_or_else(|_| Err("an answer that is none".to_owned()));
            if !seen.as_ref().is_ok_and(|seen| row.verdicts.contains(seen)) {
                let right = &row.verdicts;
                wrong.push(format!("{} ({}): {seen:?}, not {right:?}", row.name, row.rule));
            }
            self.total = self.upstream.requests().len();
        }
        // Anything late arrives before this request.
        let last = self.proxy.ask(&Ask::get("/v1/last"));
        assert_eq!(last.status, 200, "the last request of all: {}", last.text());
        let late = self.requests(self.total);
        if late != [served("GET", "/v1/last", b"")] {
            wrong.push(format!("after the last row the upstream got {late:?}"));
        }
        wrong
    }

    /// Sends a row's bytes and returns what happened; `Err` if it matches no possible verdict.
    fn observe(&self, row: &Row) -> Result<Vec<Seen>, String> {
        let mut client = self.proxy.connect();
        let _refused_early = client.try_send(&row.bytes);
        let mut answered = 0;
        let end = loop {
            let expected = row.verdicts.iter().map(|verdict| verdict.get(answered));
            let expected: Vec<Option<&Seen>> = expected.collect();
            let silent = |next: &Option<&Seen>| matches!(next, None | Some(Seen::Waits));
            if expected.iter().all(silent) {
                break stays_open(&mut client, row, expected.contains(&Some(&Seen::Waits)))?;
            }
            client.patience(if expected.iter().any(silent) { QUIET } else { SOON });
            let method = match expected.iter().flatten().next() {
                Some(Seen::Served { method, .. }) => method.as_str(),
                _ => "GET",
            };
            let reply = client.read_reply(&Ask::new(method, "/"));
            check_interim(&reply, row)?;
            match (reply.status, reply.end) {
                (0, ReplyEnd::Closed) if answered > 0 => break Some(Seen::Closes),
                (0, ReplyEnd::Silent) => break Some(Seen::Waits),
                (200, ReplyEnd::Complete) => answered += 1,
                (status @ 400.., ReplyEnd::Complete) => {
                    check_refusal(&mut client, &reply)?;
                    break Some(Seen::Refused(status));
                }
                (status, end) => return Err(format!("{status} {end:?} after {answered} answers")),
            }
        };
        let mut seen = self.requests(self.total);
        if seen.len() != answered {
            return Err(format!("{answered} answers, but upstream {seen:?} and then {end:?}"));
        }
        seen.extend(end);
        Ok(seen)
    }

    /// What the upstream received, starting with this request.
    fn requests(&self, from: usize) -> Vec<Seen> {
        let requests = self.upstream.requests();
        let new = requests.iter().skip(from);
        new.map(|request| served(&request.method, &request.target, &request.body)).collect()
    }
}

/// The upstream answers every request with 200, so any other status is from the program itself.
fn answer(request: &Request) -> Answer {
    match request.target.as_str() {
        "/v1/messages" => Answer::message("Hello."),
        _ => Answer::json(200, "{}"),
    }
}

/// Whether a connection on which nothing more is expected waits for the rest of a message or for
/// the next one.
fn stays_open(client: &mut Client, row: &Row, incomplete: bool) -> Result<Option<Seen>, String> {
    if incomplete {
        client.patience(QUIET);
        let (bytes, end) = client.read_to_close();
        let asked = expects(row) && bytes.starts_with(b"HTTP/1.1 100 ");
        return match end {
            ReplyEnd::Silent if bytes.is_empty() || asked => Ok(Some(Seen::Waits)),
            _ => Err(format!("{end:?} after \"{}\"", bytes.escape_ascii())),
        };
    }
    client.patience(SOON);
    let ask = Ask::get("/maxpool/health");
    let _closed_early = client.try_send(&ask.bytes(client.local()));
    let reply = client.read_reply(&ask);
    match reply.status {
        200 => Ok(None),
        status => Err(format!("the next request got {status} {:?}", reply.end)),
    }
}

/// RFC 9110 section 10.1.1: `100 Continue` is only sent to HTTP/1.1 clients that asked for it.
fn check_interim(reply: &Reply, row: &Row) -> Result<(), String> {
    match reply.interim.as_slice() {
        [] => Ok(()),
        [100] if expects(row) => Ok(()),
        interim => Err(format!("interim answers {interim:?}")),
    }
}

fn expects(row: &Row) -> bool {
    let text = String::from_utf8_lossy(&row.bytes).to_lowercase();
    let empty = !text.contains("chunked") && !text.contains("content-length: 5");
    text.contains("expect: 100-continue") && text.contains("http/1.1") && !empty
}

/// A refusal is an error in the API's shape (SPEC P14) and ends the connection.
fn check_refusal(client: &mut Client, reply: &Reply) -> Result<(), String> {
    let status = reply.status;
    let error: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if error["type"] != "error" || error["error"]["message"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{status} with the body \"{}\"", reply.text()));
    }
    client.patience(SOON);
    match client.read_to_close() {
        (more, ReplyEnd::Closed | ReplyEnd::Reset) if more.is_empty() => Ok(()),
        (more, end) => Err(format!("{status}, then {end:?} \"{}\"", more.escape_ascii())),
    }
}
