//! Changes to a running server (SPEC P1, A7) through its control routes and its file.

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, Reply, Value, api_key, hello, json};
use crate::upstream::{Answer, Upstream};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("sync.accountsIntervalMs", json!(3_600_000));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

fn post(proxy: &Proxy, target: &str, body: &Value) -> Reply {
    proxy.ask(&Ask::post(target, body).header("x-api-key", KEY))
}

fn assert_ok(reply: &Reply) {
    assert!((200..300).contains(&reply.status), "{} {}", reply.status, reply.text());
}

/// The credentials used for the next four requests.
fn serving(upstream: &Upstream, proxy: &Proxy) -> Vec<String> {
    let before = upstream.order().len();
    for _ in 0..4 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    let mut order = upstream.order().split_off(before);
    order.sort();
    order.dedup();
    order
}

#[test]
fn they_all_need_the_key_and_the_right_method() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream);
    let before = std::fs::read(home.config_path()).expect("read");
    for target in [
        "/maxpool/reload",
        "/maxpool/routing",
        "/maxpool/accounts/a/enable",
        "/maxpool/accounts/a/disable",
    ] {
        let reply = proxy.ask(&Ask::post(target, &json!({"mode": "automatic"})));
        reply.assert_error(401, "authentication_error");
        let reply = proxy.ask(&Ask::get(target).header("x-api-key", KEY));
        assert_eq!(reply.status, 405, "{target}");
    }
    assert_eq!(std::fs::read(home.config_path()).expect("read"), before);
}

#[test]
fn an_account_is_switched_off_and_on() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream);
    assert_ok(&post(&proxy, "/maxpool/accounts/a/disable", &json!({})));
    assert_eq!(proxy.account("a")["enabled"], false);
    assert_eq!(home.read()["accounts"][0]["enabled"], false, "it is on disk");
    assert_eq!(serving(&upstream, &proxy), ["key-b"]);
    assert_ok(&post(&proxy, "/maxpool/accounts/a/enable", &json!({})));
    assert_eq!(serving(&upstream, &proxy)[0], "key-a", "the other one has done more lately");
    let reply = post(&proxy, "/maxpool/accounts/nobody/disable", &json!({}));
    assert_eq!(reply.status, 404, "{}", reply.text());
}

#[test]
fn a_name_with_odd_letters_can_be_addressed() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .account(
            json!({"name": "me@example.org (Some Org)", "type": "apikey", "apiKey": "key-odd"}),
        )
        .accounts(&["b"]);
    let proxy = Proxy::start(&home);
    assert_ok(&post(
        &proxy,
        "/maxpool/accounts/me%40example.org%20(Some%20Org)/disable",
        &json!({}),
    ));
    assert_eq!(serving(&upstream, &proxy), ["key-b"]);
}

#[test]
fn routing_is_chosen_and_kept() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream);
    assert_ok(&post(&proxy, "/maxpool/routing", &json!({"mode": "preferred", "account": "b"})));
    assert_eq!(proxy.status()["routing"], json!({"mode": "preferred", "preferredAccount": "b"}));
    assert_eq!(home.read()["routing"], json!({"mode": "preferred", "preferredAccount": "b"}));
    assert_eq!(serving(&upstream, &proxy), ["key-b"]);
    assert_ok(&post(&proxy, "/maxpool/routing", &json!({"mode": "automatic"})));
    assert_eq!(serving(&upstream, &proxy)[0], "key-a", "the other one has done more lately");
    for body in [
        json!({"mode": "preferred", "account": "nobody"}),
        json!({"mode": "preferred"}),
        json!({"mode": "sideways"}),
        json!({}),
        json!([]),
    ] {
        let reply = post(&proxy, "/maxpool/routing", &body);
        assert!((400..500).contains(&reply.status), "{body}: {} {}", reply.status, reply.text());
    }
    assert_eq!(proxy.status()["routing"]["mode"], "automatic");
}

#[test]
fn disabling_the_preferred_account_returns_to_automatic() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    assert_ok(&post(&proxy, "/maxpool/routing", &json!({"mode": "preferred", "account": "b"})));
    assert_ok(&post(&proxy, "/maxpool/accounts/b/disable", &json!({})));
    assert_eq!(proxy.status()["routing"], json!({"mode": "automatic", "preferredAccount": null}));
    assert_eq!(serving(&upstream, &proxy), ["key-a"]);
}

#[test]
fn a_reload_takes_up_what_changed_in_the_file() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream);
    let mut config = home.read();
    config["accounts"] = json!([api_key("c"), api_key("a")]);
    config["accounts"][1]["priority"] = json!(9);
    config["scheduler"]["safetyMaxGlobalActive"] = json!(7);
    config["proxy"]["port"] = json!(1);
    home.write_text(&config.to_string());
    assert_ok(&post(&proxy, "/maxpool/reload", &json!({})));
    let status = proxy.wait_status("the new list", |status| {
        let names: Vec<&str> = status["accounts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|account| account["name"].as_str())
            .collect();
        names.contains(&"c") && !names.contains(&"b")
    });
    assert_eq!(status["scheduler"]["safetyMaxGlobalActive"], 7);
    assert_eq!(serving(&upstream, &proxy), ["key-c"]);
    proxy.wait_line("that the port needs a restart", |line| {
        line.contains("restart") && line.contains("port")
    });
}

#[test]
fn an_invalid_file_changes_nothing_and_says_why() {
    let upstream = Upstream::start();
    let (home, proxy) = start(&upstream);
    home.write_text("{\"switchThreshold\": 7}");
    let reply = post(&proxy, "/maxpool/reload", &json!({}));
    assert!(reply.status >= 400, "{}", reply.text());
    assert!(reply.text().contains("switchThreshold"), "{}", reply.text());
    assert_eq!(serving(&upstream, &proxy), ["key-a", "key-b"]);
    proxy.wait_line("why", |line| line.contains("switchThreshold"));
}

#[test]
fn the_file_is_looked_at_by_itself() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("sync.accountsIntervalMs", json!(100));
    let proxy = Proxy::start(&home);
    let mut config = home.read();
    config["accounts"].as_array_mut().expect("a list").push(api_key("b"));
    home.write_text(&config.to_string());
    proxy.wait_status("the new account", |status| status["accounts"][1]["name"] == "b");
    assert_eq!(serving(&upstream, &proxy), ["key-a", "key-b"]);
}

#[test]
fn explain_speaks_of_the_model_that_is_asked_for() {
    let upstream = Upstream::with(|request| {
        let lacks = request.credential() == "key-a";
        match request.json()["model"].as_str().unwrap_or_default() {
            "claude-new" if lacks => Answer::error(404, "not_found_error", "model: claude-new"),
            "claude-opus-4-1" if lacks => Answer::error(529, "overloaded_error", "Overloaded"),
            _ => Answer::healthy(request),
        }
    });
    let home = Home::new().upstream(&upstream.url()).accounts(&["a", "b"]).priority(1, 1);
    let proxy = Proxy::start(&home);
    for model in ["claude-new", "claude-opus-4-1"] {
        let mut body = hello();
        body["model"] = json!(model);
        assert_eq!(proxy.post(&body).status, 200, "{model}");
    }
    for (model, chosen) in
        [("claude-new", "b"), ("claude-opus-4-1", "b"), ("claude-haiku-4-5", "a"), ("odd", "a")]
    {
        let ask = Ask::get(&format!("/maxpool/explain?model={model}"));
        let explain = proxy.ask(&ask.header("x-api-key", KEY)).json();
        assert_eq!(explain["chosen"], chosen, "{model}: {explain:#}");
    }
}

#[test]
fn explain_says_who_was_ranked_and_who_was_passed_over() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a", "b"])
        .set("accounts.1.enabled", json!(false));
    let proxy = Proxy::start(&home);
    let explain = proxy.ask(
        &Ask::get("/maxpool/explain?model=claude-opus-4-1&session=s").header("x-api-key", KEY),
    );
    assert_eq!(explain.status, 200, "{}", explain.text());
    let explain = explain.json();
    assert_eq!(explain["chosen"], "a", "{explain:#}");
    let request = &explain["request"];
    assert!(
        request["id"].is_null() && request["session"] == "s",
        "nobody has sent it, so it has no number: {request}"
    );
    assert_eq!(explain["candidates"][0]["account"], "a");
    assert!(
        explain["candidates"][0]["rank"].is_number()
            && explain["candidates"][0]["score"].is_number()
    );
    assert!(explain["candidates"][0]["terms"].is_object());
    assert_eq!(explain["passedOver"][0]["account"], "b");
    assert!(explain["passedOver"][0]["reason"].is_string());
    proxy.ask(&Ask::get("/maxpool/explain")).assert_error(401, "authentication_error");
    proxy.post(&hello()).assert_said("Hello from upstream.");
    let decisions = proxy.status()["decisions"].clone();
    assert_eq!(decisions[0]["chosen"], "a", "{decisions:#}");
}
