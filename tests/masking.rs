//! No output shows a credential (SPEC D4): every secret that the program holds, in every form that
//! an upstream may use, through every way in which text leaves the program.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::harness::home::{KEY, epoch_ms};
use crate::harness::{Ask, Home, Proxy, Reply, Value, hello, hello_stream, json};
use crate::upstream::{Answer, Step, Upstream};

/// The secrets of the accounts, each account in its own profile. None has a shape that a mask could
/// recognise.
const LOGIN: &str = "log/in+access=0001plain";
const LOGIN_REFRESH: &str = "log/in+refresh=0002plain";
const API_KEY: &str = "api/key+plain=0003plain";
const PROVIDER: &str = "pro/vider+plain=0004plain";
const ZAI: &str = "zai/header+plain=0005plain";
/// The client's own credential, on a path that is relayed.
const OWN: &str = "sk-ant-own/client+plain=0006";

const SECRETS: [&str; 6] = [LOGIN, LOGIN_REFRESH, API_KEY, PROVIDER, ZAI, OWN];

fn home(upstream: &Upstream) -> Home {
    let of = |mut account: Value| {
        account["profiles"] = json!([account["name"]]);
        account
    };
    Home::new()
        .upstream(&upstream.url())
        .logins(&upstream.url())
        .account(of(json!({"name": "login", "type": "oauth", "accessToken": LOGIN,
            "refreshToken": LOGIN_REFRESH, "expiresAt": epoch_ms() + 86_400_000})))
        .account(of(json!({"name": "key", "type": "apikey", "apiKey": API_KEY})))
        .account(of(json!({"name": "own", "type": "provider", "provider": "deepseek",
            "authToken": PROVIDER, "upstream": upstream.url()})))
        .set("queue.enabled", json!(false))
        .set("scheduler.cooldownMs", json!(1))
        .set("scheduler.networkCooldownMs", json!(1))
}

/// The secret itself, and as escaped in JSON, in a URL or in a header.
fn forms(secret: &str) -> Vec<String> {
    let every = |form: &dyn Fn(u8) -> String| secret.bytes().map(form).collect::<String>();
    vec![
        secret.to_owned(),
        secret.replace('/', "\\/"),
        every(&|byte| format!("\\u{byte:04x}")),
        every(&|byte| format!("\\u{byte:04X}")).replace('\\', "\\\\"),
        secret.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D"),
        every(&|byte| format!("%{byte:02x}")),
        secret.replace('/', "%252f"),
        STANDARD.encode(secret),
        STANDARD.encode(format!("user:{secret}")),
        URL_SAFE.encode(format!("x{secret}y")),
    ]
}

/// Panics if the text contains a secret in any form.
fn assert_clean(what: &str, text: &str) {
    for secret in SECRETS {
        for form in forms(secret) {
            // The encoded ends of a secret depend on its neighbours in base64, but the middle does
            // not.
            let needle = &form[form.len() / 4..form.len() - form.len() / 4];
            assert!(!text.contains(needle), "{secret} is in {what} as {form}: {text}");
        }
    }
}

fn ask(profile: &str, stream: bool) -> Ask {
    let body = if stream { hello_stream() } else { hello() };
    Ask::messages(&body).header("x-maxpool-profile", profile).header("x-api-key", KEY)
}

fn shown(reply: &Reply) -> String {
    format!("{} {:?} {}", reply.status, reply.headers, reply.text())
}

fn error_body(kind: &str, form: &str) -> String {
    // As text, since a serializer would remove the escapes.
    format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"refused {form} here"}}}}"#)
}

/// Answers that contain `form`: in a message, in a header, in a redirect and within a stream.
fn answers(form: &str) -> Vec<(&'static str, Answer)> {
    let json = |status, kind| Answer::json(status, &error_body(kind, form));
    let headers =
        ["request-id", "x-debug", "retry-after", "anthropic-organization-id", "set-cookie"];
    let in_headers = |answer: Answer| {
        headers.iter().fold(answer, |answer, name| answer.header(name, &format!("a {form} b")))
    };
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":1}}}\n\n";
    let error = format!("event: error\ndata: {}\n\n", error_body("overloaded_error", form));
    vec![
        ("a 400", json(400, "invalid_request_error")),
        ("a 429", json(429, "rate_limit_error")),
        ("a 500", json(500, "api_error")),
        ("a 403", json(403, "permission_error")),
        ("a page", Answer::bytes(502, format!("<p>{form}</p>").as_bytes())),
        ("an error in a 200", Answer::json(200, &error_body("api_error", form))),
        ("headers of an error", in_headers(json(400, "invalid_request_error"))),
        ("headers of an answer", in_headers(Answer::message("fine"))),
        (
            "a redirect",
            Answer::bytes(307, b"")
                .header("location", &format!("https://elsewhere.example/?k={form}")),
        ),
        ("an error as the first event", Answer::events([error.clone()])),
        ("an error in mid-stream", Answer::events([start.to_owned(), error.clone()])),
        ("an error in pieces", Answer::events([start.to_owned(), error.clone()]).pieces(7)),
        (
            "an error that is cut",
            Answer::events([start.to_owned(), error[..error.len() - 20].to_owned()])
                .at(2, Step::Reset),
        ),
        ("a compressed error", json(400, "invalid_request_error").gzipped()),
    ]
}

#[test]
fn no_secret_in_any_form_leaves_on_any_way() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let mut proxy = Proxy::start_recording(&home);
    let mut masked = 0;
    for (profile, secret, other) in [
        ("login", LOGIN, LOGIN_REFRESH),
        ("key", API_KEY, PROVIDER),
        ("own", PROVIDER, LOGIN),
        ("all", ZAI, API_KEY),
    ] {
        for form in forms(secret).into_iter().chain(forms(other)) {
            for (what, answer) in answers(&form) {
                upstream.always(secret, answer);
                let mut ask = ask(profile, what.contains("stream") || what.contains("cut"));
                if secret == ZAI {
                    ask = ask
                        .header("x-maxpool-zai-token", ZAI)
                        .header("x-maxpool-zai-base-url", &upstream.url());
                }
                let account = if secret == ZAI { "glm-fallback" } else { profile };
                let retry = Ask::post(&format!("/maxpool/accounts/{account}/retry"), &json!({}))
                    .header("x-api-key", KEY);
                let reply = proxy.ask(&ask);
                assert_clean(&format!("the answer to {what}"), &shown(&reply));
                masked += usize::from(shown(&reply).contains("[masked]"));
                proxy.ask(&retry);
            }
        }
    }
    assert!(masked > 200, "the answers that were to be masked did arrive: {masked}");
    for target in ["/maxpool/status", "/maxpool/metrics?names=1", "/maxpool/explain?profile=all"] {
        let reply = proxy.ask(&Ask::get(target).header("x-api-key", KEY));
        assert_eq!(reply.status, 200, "{target}");
        assert_clean(target, &shown(&reply));
    }
    for arguments in
        [&["status"][..], &["status", "--json"], &["explain"], &["doctor"], &["accounts", "-v"]]
    {
        let ran = home.run(arguments);
        assert_clean(&format!("{arguments:?}"), &format!("{}{}", ran.stdout, ran.stderr));
    }
    proxy.stop();
    assert_clean("the log", &proxy.log().join("\n"));
    assert_clean("stdout", &proxy.printed().join("\n"));
    let recordings = home.recordings();
    recordings.iter().for_each(|text| assert_clean("a recording", text));
    assert!(recordings.len() > 200, "{}", recordings.len());
}

#[test]
fn a_client_s_own_credential_comes_back_in_no_error() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&home(&upstream));
    for form in forms(OWN) {
        for (what, answer) in answers(&form) {
            if what == "an error in a 200" {
                // Relayed unchanged (P3).
                continue;
            }
            upstream.always(OWN, answer);
            let ask = Ask::get("/api/oauth/claude_cli/client_data")
                .header("authorization", &format!("Bearer {OWN}"));
            assert_clean(what, &shown(&proxy.ask(&ask)));
        }
    }
    assert_clean("the log", &proxy.log().join("\n"));
}

#[test]
fn a_compressed_error_is_given_in_our_words_and_recorded_by_its_length() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let mut proxy = Proxy::start_recording(&home);
    for status in [400, 404, 429, 500, 529] {
        let body = error_body("invalid_request_error", API_KEY);
        upstream.always(API_KEY, Answer::json(status, &body).gzipped());
        let reply = proxy.ask(&ask("key", false));
        assert!(reply.header("content-encoding").is_none(), "{}", shown(&reply));
        let (kind, message) = reply.error();
        assert!(!kind.is_empty() && !message.is_empty(), "{}", shown(&reply));
    }
    proxy.stop();
    let texts = home.recordings();
    assert!(texts.iter().all(|text| text.contains("bytes of gzip]")), "{texts:#?}");
    assert!(texts.iter().all(|text| !text.contains('\u{fffd}')), "{texts:#?}");
}

#[test]
fn the_content_of_a_good_answer_is_the_client_s_and_its_recording_is_masked_where_it_is_cut_too() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let mut proxy = Proxy::start_recording(&home);
    // Longer than the recording limit, which cuts one of them.
    let text = format!("{API_KEY} ").repeat(30_000);
    for pieces in [1_000, 65_536] {
        upstream.next(API_KEY, Answer::message(&text).pieces(pieces));
        let reply = proxy.ask(&ask("key", false));
        assert!(reply.text().contains(API_KEY), "it is untouched");
    }
    proxy.stop();
    let recordings = home.recordings();
    assert_eq!(recordings.len(), 2);
    for text in recordings {
        assert!(text.contains("more bytes]"), "the limit was met");
        assert!(!text.contains(&API_KEY[..4]), "a part of the key is at the end");
    }
}

#[test]
fn a_recording_shows_no_credential_of_a_client_s_text() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    let mut proxy = Proxy::start_recording(&home);
    let text = "curl -H 'x-api-key: hidden-01' -H \"Authorization: Bearer hidden-02\"\n\
        export REFRESH_TOKEN=hidden-03\nsk-ant-api03-hidden-04 %22sk-ant-oat01-hidden-05%22 \
        {\"x-api-key\": \"hidden-06\", \"Authorization\":\"Basic hidden-07\"} \
        ANTHROPIC_AUTH_TOKEN='hidden-08' Proxy-Authorization: basic hidden-09";
    let mut body = hello();
    body["messages"][0]["content"] = json!(text);
    body["metadata"] = json!({"apiKey": "hidden-10", "Authorization": "Bearer hidden-11"});
    proxy.ask(&Ask::messages(&body).header("x-maxpool-profile", "key").header("x-api-key", KEY));
    proxy.stop();
    for text in home.recordings() {
        assert!(!text.contains("hidden-"), "{text}");
        assert!(text.contains("[masked]"), "{text}");
    }
}

#[test]
fn secrets_in_the_environment_and_in_wrong_places_of_the_config_are_not_shown() {
    const PASSWORD: &str = "hunter2-plain-0007";
    const AS_A_KEY: &str = "sk-ant-api03-asakeyofthefile-0008";
    let upstream = Upstream::start();
    let home = home(&upstream).set(AS_A_KEY, json!(true));
    let proxy = Proxy::start(&home);
    proxy.wait_line("the unknown key", |line| line.contains("unknown"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).expect("read");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    for arguments in [&["doctor"][..], &["env"], &["run", "--", "-p", "hello"], &["accounts"]] {
        let mut command = home.command(arguments);
        command.env("ANTHROPIC_BASE_URL", format!("http://user:{PASSWORD}@127.0.0.1:9"));
        command.env("HTTPS_PROXY", format!("http://user:{PASSWORD}@127.0.0.1:9"));
        let ran = crate::harness::home::finish(command, "");
        let shown = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!shown.contains(PASSWORD), "{arguments:?}: {shown}");
        assert!(!shown.contains(AS_A_KEY), "{arguments:?}: {shown}");
    }
    let log = proxy.log().join("\n");
    assert!(!log.contains(AS_A_KEY), "{log}");
}

#[test]
fn an_error_that_api_prints_shows_no_credential() {
    let upstream = Upstream::start();
    let home = home(&upstream);
    home.write();
    let echo = Answer::error(401, "authentication_error", &format!("{LOGIN} is not known"));
    upstream.always(LOGIN, echo);
    let ran = home.run(&["api", "/v1/models", "--account", "login"]);
    assert_eq!(ran.status.code(), Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("is not known"), "{ran:#?}");
    assert_clean("stdout", &ran.stdout);
    assert_clean("stderr", &ran.stderr);
}

#[test]
fn an_error_that_is_passed_on_as_a_good_answer_is_whole_without_its_secret() {
    let upstream = Upstream::with(|_| {
        let error = json!({"type": "api_error", "message": format!("not {API_KEY} here")});
        Answer::json(200, &json!({"type": "error", "error": error}).to_string())
    });
    let proxy = Proxy::start(&home(&upstream));
    let mut client = proxy.connect();
    let ask = Ask::post("/v1/messages/count_tokens", &hello()).header("x-maxpool-profile", "key");
    for _ in 0..2 {
        let reply = client.ask(&ask);
        assert_eq!(reply.json()["error"]["message"], "not [hidden] here");
        assert_eq!(reply.header("content-length"), Some(&*reply.text().len().to_string()));
    }
}
