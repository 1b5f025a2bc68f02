#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::account::http::{Http, HttpFailure, HttpPhase};
use crate::account::oauth::Endpoints;
use crate::account::{Readiness, Surroundings};
use crate::config::{Identity, Secret};
use crate::event::Events;
use crate::scheduler::time::{Mono, Now};
use crate::scheduler::{Access, Kind};

fn config(accounts: &Value) -> Config {
    let document = json!({"upstream": "https://up.example", "accounts": accounts});
    Config::parse(&document.to_string(), Path::new("maxpool.json")).unwrap()
}

fn accounts(hours: &Arc<AtomicU64>) -> Arc<Accounts> {
    let http: Arc<Http> = Arc::new(|_| {
        Err(HttpFailure { phase: HttpPhase::Connect, cause: "no network in this test".to_owned() })
    });
    let hours = hours.clone();
    let around = Surroundings {
        config: "/nonexistent/maxpool.json".into(),
        http,
        endpoints: Endpoints::from_environment(&|_| None),
        events: Events::off(),
        now: Arc::new(move || Now {
            mono: Mono(hours.load(Ordering::Relaxed) * 3_600_000),
            ..Now::default()
        }),
        home: None,
        renewed: Arc::new(|_| {}),
    };
    Arc::new(Accounts::new(around, &config(&json!([]))))
}

/// The live set after a start with these accounts; ids start at 0.
fn started(entries: &Value) -> Arc<Accounts> {
    let accounts = accounts(&Arc::default());
    apply(&accounts, entries);
    accounts
}

/// Applies a config as `run` does and returns a short description of the changes.
fn apply(accounts: &Accounts, entries: &Value) -> Vec<String> {
    let config = config(entries);
    accounts.set_settings(&config);
    let diff = accounts.diff(&config);
    let mut said = Vec::new();
    for entry in &diff.added {
        let next = accounts.all().iter().map(|account| account.id.0 + 1).max().unwrap_or(0);
        accounts.insert(AccountId(next), entry, Origin::Config);
        said.push(format!("+{}", entry.name));
    }
    for change in &diff.changed {
        let credential = accounts.update(change.id, &change.entry);
        said.push(format!("{} {} {credential:?}", change.id.0, change.said.join(", ")));
        assert_eq!(
            change.spec,
            accounts.get(change.id).unwrap().profile().for_scheduler(kind_of(&change.entry))
        );
    }
    for id in &diff.removed {
        said.push(format!("-{}", accounts.remove(*id).unwrap().profile().name));
    }
    assert_eq!(accounts.diff(&config), Diff::default(), "a second look changes nothing");
    said
}

fn header(accounts: &Arc<Accounts>, id: u32) -> String {
    match accounts.credential(AccountId(id)) {
        Readiness::Ready(ready) => format!("{}: {}", ready.header, ready.value.expose()),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_config_is_compared_with_what_is_live() {
    let work = json!({"name": "work", "type": "oauth", "accountUuid": "u", "accessToken": "a"});
    let key = json!({"name": "key", "type": "apikey", "apiKey": "sk-1"});
    let with = |entry: &Value, fields: Value| {
        let mut entry = entry.clone();
        entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        entry
    };
    for (rule, entries, expected) in [
        ("A7 nothing new", json!([work, key]), vec![]),
        ("A7 another order", json!([key, work]), vec![]),
        ("A7 new", json!([work, key, {"name": "more", "apiKey": "sk-9"}]), vec!["+more"]),
        ("A7 gone", json!([key]), vec!["-work"]),
        (
            "A7 enabled",
            json!([with(&work, json!({"enabled": false})), key]),
            vec!["0 enabled true -> false Same"],
        ),
        (
            "A7 priority and profiles",
            json!([work, with(&key, json!({"priority": 5, "profiles": ["all"]}))]),
            vec!["1 priority 0 -> 5, profiles claude,all -> all Same"],
        ),
        (
            "A7 credential",
            json!([work, with(&key, json!({"apiKey": "sk-2"}))]),
            vec!["1 new credential New"],
        ),
        (
            "A7 tokens",
            json!([with(&work, json!({"accessToken": "b"})), key]),
            vec!["0 new credential New"],
        ),
        (
            "A4 renamed",
            json!([with(&work, json!({"name": "job"})), key]),
            vec!["0 name work -> job Same"],
        ),
        (
            "A4 a key has only its name",
            json!([work, with(&key, json!({"name": "k2"}))]),
            vec!["+k2", "-key"],
        ),
        (
            "A4 another kind is another account",
            json!([work, {"name": "key", "type": "oauth", "accessToken": "x"}]),
            vec!["+key", "-key"],
        ),
        (
            "A7 the rest",
            json!([work, with(&key, json!({"stripBetaHeaders": true}))]),
            vec!["1 settings Same"],
        ),
        (
            "A7 upstream of one",
            json!([work, with(&key, json!({"upstream": "https://other.example"}))]),
            vec!["1 upstream https://up.example -> https://other.example Same"],
        ),
    ] {
        let accounts = started(&json!([work, key]));
        assert_eq!(apply(&accounts, &entries), expected, "{rule}");
    }
}

#[test]
fn the_credential_goes_into_the_header_that_fits() {
    let accounts = started(&json!([
        {"name": "sub", "accessToken": "a"},
        {"name": "key", "apiKey": "k"},
        {"name": "glm", "type": "provider", "provider": "zai", "authToken": "t"},
        {"name": "odd", "apiKey": "k", "authHeader": "authorization"},
        {"name": "even", "accessToken": "a", "authHeader": "x-api-key"},
    ]));
    let expected = [
        "authorization: Bearer a",
        "x-api-key: k",
        "authorization: Bearer t",
        "authorization: Bearer k",
        "x-api-key: a",
    ];
    for (id, expected) in (0..).zip(expected) {
        assert_eq!(header(&accounts, id), expected, "P5");
    }
    let glm = accounts.by_name("glm").unwrap();
    assert_eq!(glm.profile().upstream.as_str(), "https://api.z.ai/api/anthropic");
    assert_eq!(accounts.by_name("sub").unwrap().profile().upstream.as_str(), "https://up.example");
    assert!(accounts.by_name("none").is_none() && accounts.get(AccountId(99)).is_none());
    let who = Identity { name: "key", account_uuid: Some("u"), org_uuid: None };
    assert_eq!(
        accounts
            .all()
            .into_iter()
            .find(|account| account.profile().identity().is_same(&who))
            .unwrap()
            .id(),
        AccountId(1)
    );
}

/// The entry from a request with this Kimi token, for the official or another address.
fn kimi(token: &str, address: &str, model: &str) -> AccountEntry {
    let headers = [
        ("x-maxpool-kimi-token", token.as_bytes()),
        ("x-maxpool-kimi-base-url", address.as_bytes()),
        ("x-maxpool-kimi-model", model.as_bytes()),
    ];
    crate::account::provider::accounts_of_headers(headers.into_iter()).unwrap().remove(0)
}

/// Accounts from request headers, with ids as the scheduler assigns and revokes them.
struct Desk {
    accounts: Arc<Accounts>,
    last_id: Cell<u32>,
    replaced: RefCell<Vec<AccountId>>,
}

impl Desk {
    fn new(hours: &Arc<AtomicU64>) -> Desk {
        Desk { accounts: accounts(hours), last_id: Cell::new(3), replaced: RefCell::default() }
    }

    fn bring(&self, entry: &AccountEntry) -> Result<(OfRequest, Option<Brought>), TooManyAtOnce> {
        self.accounts.of_request(entry, |replaced, spec| {
            assert_eq!((spec.kind, spec.priority), (Kind::Provider, 20));
            assert_eq!(spec.access, Access::Bringers);
            self.replaced.borrow_mut().extend(replaced);
            self.last_id.set(self.last_id.get() + 1);
            AccountId(self.last_id.get())
        })
    }

    /// Uses a token for the official address in a request that ends at once.
    fn bring_token(&self, token: &str) -> (OfRequest, u32) {
        let (what, brought) = self.bring(&kimi(token, "https://k.example", "m")).unwrap();
        (what, brought.map_or(0, |brought| brought.id().0))
    }
}

#[test]
fn accounts_of_requests_come_change_stay_disabled_and_are_forgotten() {
    let hours = Arc::new(AtomicU64::new(0));
    let desk = Desk::new(&hours);
    let accounts = &desk.accounts;
    let added = |name: &str| OfRequest::Added(Arc::from(name));
    assert_eq!(desk.bring_token("t1"), (added("kimi-fallback"), 4));
    assert_eq!(desk.bring_token("t1"), (OfRequest::Known, 4));
    let (what, _) = desk.bring(&kimi("t1", "https://k.example", "n")).unwrap();
    assert_eq!(what, OfRequest::Changed, "its model");
    assert_eq!(
        desk.bring_token("t2"),
        (added("kimi-fallback"), 5),
        "V1: updated by name, and nothing that was learned of the old token holds"
    );
    assert_eq!(header(accounts, 5), "authorization: Bearer t2");
    accounts.set_enabled(AccountId(5), false);
    assert_eq!(desk.bring_token("t2"), (OfRequest::Known, 5));
    assert_eq!(desk.bring_token("t3"), (added("kimi-fallback"), 6));
    let id = AccountId(6);
    assert!(!accounts.get(id).unwrap().profile().enabled, "V1: a user's disable stays");
    assert_eq!(*desk.replaced.borrow(), [AccountId(4), AccountId(5)]);
    hours.store(25, Ordering::Relaxed);
    assert_eq!(accounts.forgotten(), [], "or it would come back enabled");
    accounts.set_enabled(id, true);
    assert_eq!(accounts.forgotten(), [id], "V1: a day unused");
    assert_eq!(desk.bring_token("t3"), (OfRequest::Known, 6));
    assert_eq!(accounts.forgotten(), []);
    assert_eq!(apply(accounts, &json!([])), Vec::<String>::new(), "a sync leaves it alone");

    let own = json!([{"name": "kimi-fallback", "type": "provider", "provider": "kimi", "authToken": "own"}]);
    let diff = accounts.diff(&config(&own));
    assert_eq!(
        (diff.added.len(), diff.removed.as_slice()),
        (1, &[id][..]),
        "the config's name outranks it"
    );
    accounts.remove(id);
    accounts.insert(AccountId(5), &diff.added[0], Origin::Config);
    assert_eq!(desk.bring_token("t4"), (OfRequest::Outranked, 0));
    assert_eq!(header(accounts, 5), "authorization: Bearer own");
}

#[test]
fn tokens_that_are_brought_at_once_have_accounts_of_their_own() {
    let hours = Arc::new(AtomicU64::new(0));
    let desk = Desk::new(&hours);
    let here = "https://k.example";
    let (_, first) = desk.bring(&kimi("t1", here, "m")).unwrap();
    let (what, second) = desk.bring(&kimi("t2", here, "m")).unwrap();
    assert_eq!(what, OfRequest::Added(Arc::from("kimi-fallback-2")));
    let (what, third) = desk.bring(&kimi("t1", "https://evil.example", "m")).unwrap();
    assert_eq!(
        what,
        OfRequest::Added(Arc::from("kimi-fallback-3")),
        "the same token for another address is another account"
    );
    for (id, token) in [(4, "t1"), (5, "t2"), (6, "t1")] {
        let bearer = format!("authorization: Bearer {token}");
        assert_eq!(header(&desk.accounts, id), bearer);
    }
    assert!(desk.replaced.borrow().is_empty());
    hours.store(25, Ordering::Relaxed);
    assert_eq!(desk.accounts.forgotten(), [], "requests wait for them");
    desk.accounts.set_enabled(AccountId(4), false);
    let (_, fourth) = desk.bring(&kimi("t4", here, "m")).unwrap();
    let profile = desk.accounts.get(AccountId(7)).unwrap().profile();
    assert!(!profile.enabled, "V1: a new token is no way around a user's disable");
    drop((first, second, third, fourth));
    assert_eq!(desk.bring_token("t1"), (OfRequest::Known, 4));
    assert_eq!(desk.bring_token("t5").1, 8, "takes the place of one that nobody needs");
    assert_eq!(desk.replaced.borrow().len(), 1);

    let held: Vec<_> = (0..AT_ONCE_MAX)
        .map(|number| desk.bring(&kimi(&format!("held-{number}"), here, "m")))
        .collect();
    assert!(held.iter().all(Result::is_ok));
    assert_eq!(desk.bring(&kimi("one-more", here, "m")).err(), Some(TooManyAtOnce));
}

#[test]
fn no_description_of_a_change_holds_a_credential() {
    let accounts = started(&json!([{"name": "key", "apiKey": "sk-ant-old"}]));
    let diff = accounts.diff(&config(&json!([{"name": "key", "apiKey": "sk-ant-new"}, {"name": "more", "apiKey": "sk-ant-more"}])));
    assert_eq!(diff.changed.len() + diff.added.len(), 2);
    let ready = accounts.credential(AccountId(0));
    let secret = Secret::new("sk-ant-x");
    let shown = format!("{diff:?} {ready:?} {secret:?}");
    assert!(!shown.contains("sk-ant"), "{shown}");
}
