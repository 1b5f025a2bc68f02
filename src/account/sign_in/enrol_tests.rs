#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::json;

use super::*;
use crate::scheduler::time::Wall;
use crate::testing::scratch::Scratch;

fn profile(email: &str, account: &str, organisation: &str) -> Profile {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Profile {
        account_uuid: text(account),
        email: text(email),
        org_uuid: text(organisation),
        org_name: text(organisation).map(|id| format!("Org {id}")),
        ..Profile::default()
    }
}

fn tokens(number: u32) -> Tokens {
    Tokens {
        access: Some(Secret::new(format!("access-{number}"))),
        refresh: Some(Secret::new(format!("refresh-{number}"))),
        expires_at: Some(Wall(1_000 + i64::from(number))),
    }
}

/// The result and the accounts after this one was added to `before`.
fn stored(before: &Value, name: Option<&str>, profile: &Profile) -> (Put, Vec<Value>) {
    let directory = Scratch::new();
    let path = directory.path("maxpool.json");
    std::fs::write(&path, json!({"accounts": before}).to_string()).unwrap();
    let newcomer = Newcomer { name, profile, tokens: &tokens(9), source: "login" };
    let put = match store_oauth(&path, &newcomer).unwrap() {
        Enrolled::Put(put) | Enrolled::Beside(put, _) => put,
        Enrolled::Spent(newer) => unreachable!("{newer:?} has no successor"),
    };
    let after: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    (put, after["accounts"].as_array().unwrap().clone())
}

#[test]
fn a_login_finds_its_name_or_its_place() {
    let added = |name: &str| Put::Added(name.to_owned());
    let updated = |name: &str| Put::Updated(name.to_owned());
    let work = json!({"name": "work", "type": "oauth", "accountUuid": "u", "orgUuid": "o", "accessToken": "x"});
    let key = json!({"name": "key", "type": "apikey", "apiKey": "sk-1"});
    let old_copy = json!({"name": "copy", "accessToken": "access-9", "refreshToken": "refresh-1"});
    for (rule, before, name, who, expected) in [
        ("T1 the e-mail", json!([]), None, profile("a@b", "u", "o"), added("a@b")),
        ("T1 --name", json!([]), Some("home"), profile("a@b", "u", "o"), added("home")),
        ("T1 neither", json!([]), None, Profile::default(), added("account-1")),
        (
            "T1 neither, one taken",
            json!([{"name": "account-1", "type": "apikey", "apiKey": "k"}]),
            None,
            Profile::default(),
            added("account-2"),
        ),
        (
            "A4 the same identity keeps its name",
            json!([work]),
            Some("other"),
            profile("a@b", "u", "o"),
            updated("work"),
        ),
        (
            "A4 another organisation",
            json!([work]),
            Some("work"),
            profile("a@b", "u", "p"),
            added("work (Org p)"),
        ),
        (
            "A4 another account of that name",
            json!([work]),
            Some("work"),
            profile("a@b", "v", ""),
            added("work-2"),
        ),
        (
            "T8 a name alone is no proof",
            json!([{"name": "old", "accessToken": "x"}]),
            Some("old"),
            profile("", "u", "o"),
            added("old-2"),
        ),
        (
            "A4 an API key is not overwritten",
            json!([key]),
            Some("key"),
            profile("", "u", "o"),
            added("key-2"),
        ),
        (
            "A4 the same tokens without an id",
            json!([work, old_copy]),
            Some("new"),
            Profile::default(),
            updated("copy"),
        ),
    ] {
        let (put, after) = stored(&before, name, &who);
        assert_eq!(put, expected, "{rule}");
        let (Put::Added(name) | Put::Updated(name)) = put;
        let entry = after.iter().find(|entry| entry["name"] == json!(name)).unwrap();
        assert_eq!(entry["type"], "oauth", "{rule}");
        assert_eq!(
            (&entry["accessToken"], &entry["refreshToken"]),
            (&json!("access-9"), &json!("refresh-9")),
            "{rule}"
        );
        assert_eq!(entry["expiresAt"], 1_009, "{rule}");
        assert_eq!(
            entry.get("accountUuid").and_then(Value::as_str).or(who.account_uuid.as_deref()),
            entry.get("accountUuid").and_then(Value::as_str),
            "{rule}"
        );
        assert_eq!(
            after.len(),
            before.as_array().unwrap().len() + usize::from(put_is_new(&expected)),
            "{rule}"
        );
    }
}

fn put_is_new(put: &Put) -> bool {
    matches!(put, Put::Added(_))
}

#[test]
fn an_update_keeps_what_is_the_users_and_drops_what_was_the_old_tokens() {
    let before = json!([{"name": "work", "enabled": false, "priority": 3, "note": "mine", "type": "oauth", "accountUuid": "u",
        "importFrom": "~/x.json", "refreshToken": "old", "accessToken": "old"}]);
    let (_, after) = stored(&before, None, &profile("a@b", "u", ""));
    let entry = &after[0];
    assert_eq!(
        (&entry["enabled"], &entry["priority"], &entry["note"]),
        (&json!(false), &json!(3), &json!("mine"))
    );
    assert_eq!(entry.get("importFrom"), None, "the source would bring its own tokens back");
}

#[test]
fn keys_are_stored_once() {
    let directory = Scratch::new();
    let path = directory.path("fresh/maxpool.json");
    let store = |name, key: &str| store_key(&path, name, &Secret::new(key)).unwrap();
    let added = |name: &str| Put::Added(name.to_owned());
    let updated = |name: &str| Put::Updated(name.to_owned());
    assert_eq!(store(None, "sk-1"), added("account-1"), "a missing config is made");
    assert_eq!(store(Some("other"), "sk-1"), updated("account-1"), "the same key again");
    assert_eq!(store(Some("account-1"), "sk-2"), updated("account-1"), "another key for that name");
    assert_eq!(store(None, "sk-1"), added("account-2"));
    let login = Newcomer {
        name: Some("sub"),
        profile: &Profile::default(),
        tokens: &tokens(1),
        source: "login",
    };
    assert_eq!(store_oauth(&path, &login).unwrap(), Enrolled::Put(added("sub")));
    assert_eq!(store(Some("sub"), "sk-3"), added("sub-2"), "a login is not overwritten by a key");
    let config = file::load(&path).unwrap();
    assert_eq!(config.accounts.len(), 4);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
