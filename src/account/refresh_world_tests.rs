//! The environment of the refresh tests: a token endpoint with single-use tokens, a clock, and
//! processes that share one config file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "refresh_crash_tests.rs"]
mod crash;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use crate::account::http::{Http, HttpCall, HttpFailure, HttpPhase, HttpReply};
use crate::account::oauth;
use crate::account::refresh::LONGEST;
use crate::account::{Accounts, Origin, Readiness, Ready, SingleFlight, Surroundings, Unready};
use crate::config::file;
use crate::event::Events;
use crate::scheduler::AccountId;
use crate::scheduler::time::{Mono, Now, Wall};
use crate::testing::scratch::Scratch;

pub(super) const START_MS: i64 = 1_795_301_100_000;
pub(super) const ID: AccountId = AccountId(7);

/// How the endpoint handles one call.
#[derive(Clone)]
pub(super) enum Act {
    /// Rotates and answers.
    Rotate,
    /// Rotates, but the answer is lost on its way back.
    RotateThen(Lost),
    /// Answers without looking at the token.
    Say(u16, &'static str),
    /// The same with a header.
    SayWith(u16, &'static str, &'static str, &'static str),
    /// Cannot be reached.
    NoConnection,
    /// Rotates only the access token.
    KeepRefresh,
    Panic,
}

#[derive(Clone, Copy)]
pub(super) enum Lost {
    /// The connection breaks, or times out.
    Reset,
    /// A gateway's error replaces it.
    Status500,
    /// A page of HTML replaces it.
    Html,
}

/// A token endpoint with single-use refresh tokens: using one twice revokes its whole grant, as the
/// real one may do.
#[derive(Default)]
pub(super) struct Endpoint {
    pub(super) state: Mutex<EndpointState>,
    pub(super) opened: Condvar,
}

#[derive(Default)]
pub(super) struct EndpointState {
    /// Valid refresh tokens and their grants.
    pub(super) good: HashMap<String, u32>,
    pub(super) used: HashMap<String, u32>,
    pub(super) dead: HashSet<u32>,
    pub(super) acts: VecDeque<Act>,
    /// Every refresh token that arrived.
    pub(super) arrived: Vec<String>,
    pub(super) reused: usize,
    pub(super) issued: u32,
    /// Calls wait while this is set.
    pub(super) closed: bool,
    /// Number of calls so far.
    pub(super) calls: usize,
}

impl Endpoint {
    pub(super) fn grant(&self, token: &str) {
        let mut state = self.state.lock().unwrap();
        let grant = state.good.len() as u32;
        state.good.insert(token.to_owned(), grant);
    }

    pub(super) fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.state.lock().unwrap().acts.extend(acts);
    }

    pub(super) fn close(&self) {
        self.state.lock().unwrap().closed = true;
    }

    pub(super) fn open(&self) {
        self.state.lock().unwrap().closed = false;
        self.opened.notify_all();
    }

    /// Returns once this many calls have arrived.
    pub(super) fn wait_for_calls(&self, count: usize) {
        let state = self.state.lock().unwrap();
        drop(self.opened.wait_while(state, |state| state.calls < count).unwrap());
    }

    pub(super) fn arrived(&self) -> Vec<String> {
        self.state.lock().unwrap().arrived.clone()
    }

    pub(super) fn reused(&self) -> usize {
        self.state.lock().unwrap().reused
    }

    pub(super) fn call(&self, call: &HttpCall) -> Result<HttpReply, HttpFailure> {
        let reply = |status, body: String| HttpReply {
            status,
            headers: Vec::new(),
            body: body.into_bytes(),
            cut: None,
        };
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        self.opened.notify_all();
        let mut state = self.opened.wait_while(state, |state| state.closed).unwrap();
        let act = state.acts.pop_front().unwrap_or(Act::Rotate);
        if let Act::NoConnection = act {
            return Err(HttpFailure {
                phase: HttpPhase::Connect,
                cause: "connection refused".to_owned(),
            });
        }
        let body: Value = serde_json::from_slice(call.body.as_deref().unwrap()).unwrap();
        assert_eq!(body["grant_type"], "refresh_token");
        let token = body["refresh_token"].as_str().unwrap().to_owned();
        state.arrived.push(token.clone());
        match act {
            Act::Say(status, body) => return Ok(reply(status, body.to_owned())),
            Act::SayWith(status, name, value, body) => {
                return Ok(HttpReply {
                    headers: vec![(name.to_owned(), value.as_bytes().to_vec())],
                    ..reply(status, body.to_owned())
                });
            }
            Act::Panic => {
                drop(state);
                // Like a panic, but without the lines on stderr.
                std::panic::resume_unwind(Box::new("the network code has a bug"));
            }
            Act::Rotate | Act::RotateThen(_) | Act::KeepRefresh | Act::NoConnection => {}
        }
        let invalid = reply(
            400,
            json!({"error": "invalid_grant", "error_description": format!("bad {token}")})
                .to_string(),
        );
        if let Some(grant) = state.used.get(&token).copied() {
            state.reused += 1;
            state.dead.insert(grant);
            return Ok(invalid);
        }
        let Some(grant) =
            state.good.get(&token).copied().filter(|grant| !state.dead.contains(grant))
        else {
            return Ok(invalid);
        };
        state.issued += 1;
        let number = state.issued;
        let mut answer = json!({"access_token": format!("access-{number}"), "expires_in": 3600});
        if !matches!(act, Act::KeepRefresh) {
            state.good.remove(&token);
            state.used.insert(token, grant);
            let next = format!("refresh-{number}");
            state.good.insert(next.clone(), grant);
            answer["refresh_token"] = next.into();
        }
        match act {
            Act::RotateThen(Lost::Reset) => Err(HttpFailure {
                phase: HttpPhase::MayHaveArrived,
                cause: "connection reset".to_owned(),
            }),
            Act::RotateThen(Lost::Status500) => Ok(reply(500, "upstream error".to_owned())),
            Act::RotateThen(Lost::Html) => Ok(reply(200, "<html>hello</html>".to_owned())),
            _ => Ok(reply(200, answer.to_string())),
        }
    }
}

/// A clock that stands still unless it is advanced.
#[derive(Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn now(&self) -> Now {
        let ms = self.0.load(Ordering::SeqCst);
        Now { mono: Mono(1_000_000 + ms), wall: Wall(START_MS + ms as i64) }
    }

    pub(super) fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

/// One process with one account and its config file.
pub(super) struct World {
    pub(super) directory: Arc<Scratch>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) clock: Arc<Clock>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) renewed: Arc<AtomicU64>,
}

/// The file of [`World::new`] with an access token that is valid for this many more seconds.
pub(super) fn document(seconds_left: i64) -> Value {
    json!({
        "proxy": {"apiKey": "mp-key"},
        "unknown": {"stays": true},
        "accounts": [{
            "name": "work", "type": "oauth", "accountUuid": "u-1",
            "accessToken": "access-0", "refreshToken": "refresh-0", "expiresAt": START_MS + seconds_left * 1000,
            "note": "stays too",
        }, {"name": "key", "type": "apikey", "apiKey": "sk-ant-api-1"}],
    })
}

impl World {
    pub(super) fn new(seconds_left: i64) -> World {
        World::with(&document(seconds_left))
    }

    pub(super) fn with(document: &Value) -> World {
        let directory = Arc::new(Scratch::new());
        std::fs::write(directory.path("maxpool.json"), document.to_string()).unwrap();
        let endpoint = Arc::new(Endpoint::default());
        endpoint.grant("refresh-0");
        World::process(directory, endpoint, Arc::default())
    }

    /// Another process with the same file in its current state.
    pub(super) fn beside(&self) -> World {
        World::process(self.directory.clone(), self.endpoint.clone(), self.clock.clone())
    }

    pub(super) fn process(
        directory: Arc<Scratch>,
        endpoint: Arc<Endpoint>,
        clock: Arc<Clock>,
    ) -> World {
        let config = file::load(&directory.path("maxpool.json")).unwrap();
        let renewed = Arc::new(AtomicU64::new(0));
        let http: Arc<Http> = Arc::new({
            let endpoint = endpoint.clone();
            move |call| endpoint.call(&call)
        });
        let around = Surroundings {
            config: directory.path("maxpool.json"),
            http,
            endpoints: oauth::Endpoints::from_environment(&|_| None),
            events: Events::off(),
            now: Arc::new({
                let clock = clock.clone();
                move || clock.now()
            }),
            home: Some(directory.path("")),
            renewed: Arc::new({
                let renewed = renewed.clone();
                move |_| {
                    renewed.fetch_add(1, Ordering::SeqCst);
                }
            }),
        };
        let accounts = Arc::new(Accounts::new(around, &config));
        for (at, entry) in config.accounts.iter().enumerate() {
            accounts.insert(AccountId(ID.0 + at as u32), entry, Origin::Config);
        }
        World { directory, endpoint, clock, accounts, renewed }
    }

    pub(super) fn ask(&self) -> Result<Ready, Unready> {
        self.accounts.credential_blocking(ID)
    }

    /// The access token that a request would use now, or the word for why there is none.
    pub(super) fn outcome(&self) -> String {
        short(self.ask())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path("maxpool.json")
    }

    pub(super) fn on_file(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path()).unwrap()).unwrap()
    }

    pub(super) fn pair_on_file(&self) -> (String, String) {
        let entry = &self.on_file()["accounts"][0];
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        (text("accessToken"), text("refreshToken"))
    }

    pub(super) fn write(&self, document: &Value) {
        std::fs::write(self.path(), document.to_string()).unwrap();
    }

    pub(super) fn sync(&self) {
        let config = file::load(&self.path()).unwrap();
        for change in self.accounts.diff(&config).changed {
            self.accounts.update(change.id, &change.entry);
        }
    }
}

pub(super) fn short(asked: Result<Ready, Unready>) -> String {
    match asked {
        Ok(ready) => ready.value.expose().trim_start_matches("Bearer ").to_owned(),
        Err(Unready::NeedsLogin { .. }) => "needs login".to_owned(),
        Err(Unready::Cooling(cooling)) => format!("cooling {:?}", cooling.obstacle).to_lowercase(),
        Err(Unready::Disabled) => "disabled".to_owned(),
        Err(other) => format!("{other:?}"),
    }
}

pub(super) fn pair(number: u32) -> (String, String) {
    (format!("access-{number}"), format!("refresh-{number}"))
}

pub(super) fn refreshing(readiness: Readiness) -> SingleFlight {
    match readiness {
        Readiness::Refreshing(refreshing) => refreshing.flight,
        other => panic!("{other:?} is no refresh"),
    }
}

/// Simulates a 401 to the current token and waits for the result.
pub(super) fn refused(world: &World, generation: u64) -> String {
    match world.accounts.refused(ID, generation) {
        Readiness::Refreshing(refreshing) => {
            assert!(refreshing.flight.wait(LONGEST));
            world.outcome()
        }
        Readiness::Ready(ready) => short(Ok(ready)),
        Readiness::Unready(unready) => short(Err(unready)),
    }
}
