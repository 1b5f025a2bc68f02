#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

use super::*;
use crate::account::http::{HttpCall, HttpFailure, HttpPhase, HttpReply};
use crate::config::{Credential, file};
use crate::scheduler::time::Wall;
use crate::testing::scratch::Scratch;

const LONG: Duration = Duration::from_secs(60);

/// What a test does instead of the browser, given port and state.
type Visit = Box<dyn FnOnce(u16, String) -> Vec<String> + Send>;

/// One login: its result, its messages, what the browser received, and what the endpoint was sent.
struct Played {
    result: Result<String>,
    said: String,
    pages: Vec<String>,
    bodies: Vec<Value>,
    directory: Scratch,
}

/// Runs one login; `visit` replaces the browser.
fn play(
    token_answer: (u16, &'static str),
    name: Option<&str>,
    limit: Duration,
    typed: Option<&dyn Fn(&str) -> String>,
    visit: Visit,
) -> Played {
    let directory = Scratch::new();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let sent = bodies.clone();
    let http = move |call: HttpCall| {
        let (status, body) = match call.method {
            "POST" => {
                sent.lock().unwrap().push(serde_json::from_slice(&call.body.unwrap()).unwrap());
                token_answer
            }
            _ => (200, r#"{"account":{"uuid":"u","email":"a@b"}}"#),
        };
        Ok(HttpReply { status, headers: Vec::new(), body: body.as_bytes().to_vec(), cut: None })
    };
    let (told, hears): (Sender<JoinHandle<Vec<String>>>, _) = mpsc::channel();
    let visit = Mutex::new(Some(visit));
    let (reader, writer) = std::io::pipe().unwrap();
    let browser = |url: &str| {
        let field = |name: &str| {
            let value =
                url.split(['?', '&']).find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            value.unwrap().to_owned()
        };
        let port = field("redirect_uri")
            .split("%3A")
            .nth(2)
            .unwrap()
            .split('%')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        if let Some(typed) = typed {
            (&writer).write_all(typed(&field("state")).as_bytes()).unwrap();
        }
        let visit = visit.lock().unwrap().take().unwrap();
        let state = field("state");
        told.send(std::thread::spawn(move || visit(port, state))).unwrap();
    };
    let mut said = Vec::new();
    let config = directory.path("maxpool.json");
    let endpoints = Endpoints::from_environment(&|_| None);
    let mut desk = Desk {
        config: &config,
        http: &http,
        endpoints: &endpoints,
        now: &|| Now { wall: Wall(1_795_301_100_000), ..Now::default() },
        out: &mut said,
    };
    let options = LoginOptions {
        name,
        terminal: typed.is_some().then(|| reader.as_fd()),
        browser: &browser,
        is_cancelled: &|| false,
    };
    let result = login_within(&mut desk, &options, limit);
    let pages = hears.try_iter().flat_map(|visit| visit.join().unwrap()).collect();
    Played {
        result,
        said: String::from_utf8(said).unwrap(),
        pages,
        bodies: std::mem::take(&mut bodies.lock().unwrap()),
        directory,
    }
}

/// Sends a browser's request and returns the whole answer.
fn get(host: &str, port: u16, target: &str) -> String {
    let mut stream = TcpStream::connect((host, port)).unwrap();
    // In two pieces, as a network may deliver it.
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localho").unwrap();
    stream.write_all(b"st\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn visit(visit: impl FnOnce(u16, String) -> Vec<String> + Send + 'static) -> Visit {
    Box::new(visit)
}

const TOKENS: (u16, &str) =
    (200, r#"{"access_token":"acc","refresh_token":"ref","expires_in":60}"#);

#[test]
fn a_login_by_the_browser_stores_the_account_and_shows_a_page() {
    let played = play(
        TOKENS,
        None,
        LONG,
        None,
        visit(|port, state| {
            // A silent spare connection, a wrong page, a foreign state, then the callback.
            let _spare = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let icon = get("127.0.0.1", port, "/favicon.ico");
            let foreign = get("127.0.0.1", port, "/callback?code=theircode&state=theirs");
            let done = get("127.0.0.1", port, &format!("/callback?code=the-code&state={state}"));
            vec![icon, foreign, done]
        }),
    );
    assert_eq!(played.result.unwrap(), "added the account a@b");
    assert!(played.pages[0].starts_with("HTTP/1.1 400 "), "{}", played.pages[0]);
    assert!(played.pages[1].starts_with("HTTP/1.1 400 "), "{}", played.pages[1]);
    assert!(played.pages[2].starts_with("HTTP/1.1 200 OK\r\n"), "{}", played.pages[2]);
    assert!(played.pages[2].contains("maxpool has added the account a@b."), "{}", played.pages[2]);
    assert!(played.said.contains("There is no account picker"), "{}", played.said);
    assert!(played.said.contains("belongs to another login attempt"), "{}", played.said);
    assert_eq!(played.bodies.len(), 1, "T1: one exchange");
    assert_eq!(played.bodies[0]["code"], "the-code");
    let challenge = oauth::challenge(played.bodies[0]["code_verifier"].as_str().unwrap());
    assert!(played.said.contains(&format!("code_challenge={challenge}&")), "{}", played.said);
    let config = file::load(&played.directory.path("maxpool.json")).unwrap();
    let Credential::Oauth(oauth) = &config.accounts[0].credential else {
        unreachable!("a login is an OAuth account");
    };
    assert_eq!(oauth.tokens.access, Some(Secret::new("acc")));
    assert_eq!(oauth.tokens.expires_at, Some(Wall(1_795_301_160_000)));
    assert!(!played.said.contains("acc\"") && !played.said.contains("the-code"));
}

#[test]
fn both_loopback_families_are_listened_to() {
    let loopback = Loopback::open().unwrap();
    let port = loopback
        .redirect_uri()
        .rsplit(':')
        .next()
        .unwrap()
        .trim_end_matches("/callback")
        .parse::<u16>()
        .unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    // Without IPv6 there is nothing to test here.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        TcpStream::connect(("::1", port)).unwrap();
    }
    drop(loopback);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nothing is left behind");
}

#[test]
fn the_address_or_the_code_can_be_pasted() {
    for typed in [
        &(|state: &str| {
            format!("\nhttp://localhost:1/callback?code=pasted-code-0123456&state={state}\n")
        }) as &dyn Fn(&str) -> String,
        &|state: &str| format!("pasted-code-0123456#{state}\n"),
        &|_: &str| {
            "http://localhost:1/callback?code=another&state=other\nno\npasted-code-0123456\n"
                .to_owned()
        },
    ] {
        let played = play(TOKENS, Some("work"), LONG, Some(typed), visit(|_, _| Vec::new()));
        assert_eq!(played.result.unwrap(), "added the account work");
        assert_eq!(played.bodies.len(), 1);
        assert_eq!(played.bodies[0]["code"], "pasted-code-0123456");
        assert!(played.said.contains("paste the address"), "{}", played.said);
    }
    let wrong = |_: &str| {
        "http://localhost:1/callback?code=another&state=other\nno\npasted-code-0123456\n".to_owned()
    };
    let played = play(TOKENS, None, LONG, Some(&wrong), visit(|_, _| Vec::new()));
    assert!(
        played.said.contains(crate::account::sign_in::loopback::WRONG_STATE_PASTED),
        "{}",
        played.said
    );
    assert!(played.said.contains("neither the address"), "{}", played.said);
}

#[test]
fn a_denial_is_shown_on_both_sides_and_changes_nothing() {
    let played = play(
        TOKENS,
        None,
        LONG,
        None,
        visit(|port, state| {
            vec![get(
                "127.0.0.1",
                port,
                &format!("/callback?error=access_denied&error_description=<b>no</b>&state={state}"),
            )]
        }),
    );
    let error = played.result.unwrap_err().to_string();
    assert_eq!(error, "the login was denied: access_denied: <b>no</b>");
    assert!(
        played.pages[0].contains("access_denied: &lt;b&gt;no&lt;/b&gt;"),
        "{}",
        played.pages[0]
    );
    assert!(played.bodies.is_empty() && !played.directory.path("maxpool.json").exists());
}

#[test]
fn a_refused_exchange_is_told_without_the_code() {
    let refusal = r#"{"error":"invalid_grant","error_description":"the-code is used up"}"#;
    let played = play(
        (400, refusal),
        None,
        LONG,
        None,
        visit(|port, state| {
            vec![get("127.0.0.1", port, &format!("/callback?code=the-code&state={state}"))]
        }),
    );
    let error = played.result.unwrap_err().to_string();
    assert_eq!(
        error,
        "the login could not be finished: the token endpoint refused it: 400 (invalid_grant: [hidden] is used up); run the login again"
    );
    assert!(
        played.pages[0].starts_with("HTTP/1.1 400 ") && !played.pages[0].contains("the-code"),
        "{}",
        played.pages[0]
    );
    assert_eq!(played.bodies.len(), 1, "a code is sent once");
    assert!(!played.directory.path("maxpool.json").exists());
}

#[test]
fn a_login_that_nobody_finishes_ends() {
    let played = play(TOKENS, None, Duration::from_millis(1), None, visit(|_, _| Vec::new()));
    let error = played.result.unwrap_err().to_string();
    assert_eq!(error, "no answer from the browser within 1s; run the login again");
}

#[test]
fn an_api_key_is_stored_without_being_shown() {
    let directory = Scratch::new();
    let add = |key: &str| {
        let mut said = Vec::new();
        let config = directory.path("maxpool.json");
        let endpoints = Endpoints::from_environment(&|_| None);
        let mut desk = Desk {
            config: &config,
            http: &|_| {
                Err(HttpFailure { phase: HttpPhase::Connect, cause: "no network".to_owned() })
            },
            endpoints: &endpoints,
            now: &Now::default,
            out: &mut said,
        };
        let result =
            add_api_key(&mut desk, None, &Secret::new(key)).map_err(|error| error.to_string());
        (result, String::from_utf8(said).unwrap())
    };
    assert_eq!(
        add("sk-ant-api03-x"),
        (
            Ok("added the API key account-1 with priority 5: it serves after your subscriptions, \
                because it costs money; change that with: maxpool priority account-1 0"
                .to_owned()),
            String::new()
        )
    );
    assert_eq!(add("sk-ant-api03-x").0, Ok("updated the API key account-1".to_owned()));
    assert_eq!(
        add("").0,
        Err("no key was given; type it, or pipe it in: maxpool login --api < FILE".to_owned())
    );
    let (result, _) = add("sk-ant api");
    assert_eq!(
        result,
        Err(
            "that is not a key: it contains spaces or other characters that no key contains; copy \
             it again"
                .to_owned()
        )
    );
    assert_eq!(
        add("ghp_x").0,
        Err("this does not look like an Anthropic API key (sk-ant-api…); if it is one: maxpool \
             login --api --force"
            .to_owned())
    );
    // A subscription's token is stored as a token; its profile cannot be read here.
    let (result, said) = add("sk-ant-oat01-x");
    assert_eq!(result, Ok("added the account account-2".to_owned()));
    assert!(said.contains("profile could not be read") && !said.contains("sk-ant"), "{said}");
    let config = file::load(&directory.path("maxpool.json")).unwrap();
    let kinds: Vec<_> = config
        .accounts
        .iter()
        .map(|account| (account.priority, matches!(account.credential, Credential::Oauth(_))))
        .collect();
    assert_eq!(kinds, [(5, false), (0, true)]);
}
