//! What reaches the upstream and the client (SPEC P3, P4, P5, T5): bodies unchanged, headers
//! according to the rules.

use crate::harness::home::KEY;
use crate::harness::{Ask, Home, Proxy, ReplyEnd, api_key, hello, hello_stream, json, oauth};
use crate::upstream::answer::gzip;
use crate::upstream::{Answer, End, Framing, Message, Upstream, failures};

fn start(upstream: &Upstream) -> (Home, Proxy) {
    let home =
        Home::new().upstream(&upstream.url()).accounts(&["a"]).set("queue.enabled", json!(false));
    let proxy = Proxy::start(&home);
    (home, proxy)
}

/// The names of the headers at the upstream, in lower case and sorted.
fn names(upstream: &Upstream) -> Vec<String> {
    let request = upstream.requests().pop().expect("a request");
    let mut names: Vec<String> =
        request.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    names.sort();
    names
}

#[test]
fn bodies_go_up_byte_for_byte() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let odd: Vec<Vec<u8>> = vec![
        br#"{ "model" : "claude-sonnet-4-5" , "model":"claude-opus-4-1","stream":false, "x":1e400,"y":"\u00e9\ud83d\ude00", "max_tokens":1 }"#.to_vec(),
        b"\xef\xbb\xbf{\"model\":\"m\"}\r\n\t ".to_vec(),
        b"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\xf0\x9f\x98\x80\"}]}".to_vec(),
        b"this is not JSON at all".to_vec(),
        b"\xff\xfe\x00\x01".to_vec(),
        b"{\"model\":".to_vec(),
        Vec::new(),
        format!("{}1{}", "[".repeat(5000), "]".repeat(5000)).into_bytes(),
    ];
    for body in &odd {
        let reply = proxy.ask(&Ask::new("POST", "/v1/messages").body(body.clone()));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let seen: Vec<Vec<u8>> =
        upstream.requests().iter().map(|request| request.body.clone()).collect();
    assert_eq!(seen, odd);
    for request in upstream.requests() {
        assert_eq!(request.header("content-length"), Some(request.body.len().to_string().as_str()));
    }
}

#[test]
fn a_chunked_request_goes_up_whole() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let body = hello().to_string();
    let (left, right) = body.split_at(body.len() / 3);
    let mut client = proxy.connect();
    client.send(
        format!(
            "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x};ext=1\r\n{left}\r\n{:X}\r\n{right}\r\n0\r\n\r\n",
            left.len(),
            right.len()
        )
        .as_bytes(),
    );
    let ask = Ask::messages(&hello());
    client.read_reply(&ask).assert_said("Hello from upstream.");
    let request = upstream.only_request();
    assert_eq!(request.body, body.as_bytes());
    assert_eq!(request.header("transfer-encoding"), None);
    client.ask(&ask).assert_said("Hello from upstream.");
}

/// P2: a head of 64 KiB is accepted, wherever in it the bytes are.
#[test]
fn a_long_target_goes_up_whole() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let target = format!("/v1/messages?beta={}", "x".repeat(60 * 1024));
    assert_eq!(proxy.ask(&Ask::post(&target, &hello())).status, 200);
    assert_eq!(upstream.requests()[0].target, target);
    let target = format!("/v1/messages?beta={}", "x".repeat(64 * 1024));
    assert_eq!(proxy.ask(&Ask::post(&target, &hello())).status, 400);
}

#[test]
fn headers_go_up_but_for_those_that_must_not() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let ask = Ask::messages(&hello())
        .header("User-Agent", "claude-cli/2.1.330 (external, cli)")
        .header("Accept", "application/json")
        .header("Accept-Encoding", "gzip, br, zstd")
        .header("Anthropic-Beta", "interleaved-thinking-2025-05-14")
        .header("anthropic-beta", "context-1m-2025-08-07")
        .header("X-App", "cli")
        .header("X-Stainless-Lang", "js")
        .header("Cookie", "a=b")
        .header("X-Claude-Code-Session-Id", "0f4e")
        .header("Connection", "keep-alive, X-Named")
        .header("X-Named", "must go")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy-Authorization", "Basic c2VjcmV0")
        .header("TE", "trailers")
        .header("Trailer", "x-sum")
        .header("Upgrade", "h2c")
        .header("X-Maxpool-Session", "s1")
        .header("x-maxpool-anything", "1")
        .header("X-TeamClaude-Profile", "claude")
        .header("Authorization", "Bearer sk-ant-oat01-the-clients-own")
        .header("x-api-key", "sk-ant-api03-the-clients-own");
    proxy.ask(&ask).assert_said("Hello from upstream.");
    assert_eq!(
        names(&upstream),
        [
            "accept",
            "accept-encoding",
            "anthropic-beta",
            "anthropic-beta",
            "anthropic-version",
            "content-length",
            "content-type",
            "cookie",
            "host",
            "user-agent",
            "x-api-key",
            "x-app",
            "x-claude-code-session-id",
            "x-stainless-lang",
        ]
    );
    let request = upstream.only_request();
    let beta: Vec<&str> = request
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("anthropic-beta"))
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(beta, ["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"]);
    assert_eq!(request.header("host"), Some(upstream.address().to_string().as_str()));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("x-api-key"), Some("key-a"));
    assert_eq!(request.header("user-agent"), Some("claude-cli/2.1.330 (external, cli)"));
    assert_eq!(request.target, "/v1/messages");
}

#[test]
fn nothing_is_added_that_the_client_did_not_send() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let reply = proxy.ask(&Ask::new("POST", "/v1/messages").body(hello().to_string().into_bytes()));
    assert_eq!(reply.status, 200);
    assert_eq!(names(&upstream), ["accept-encoding", "content-length", "host", "x-api-key"]);
    assert_eq!(proxy.ask(&Ask::get("/v1/models")).status, 200);
    assert_eq!(names(&upstream), ["accept-encoding", "host", "x-api-key"], "a GET has no length");
}

#[test]
fn each_kind_of_account_brings_its_credential_in_its_own_header() {
    let upstream = Upstream::start();
    let mut as_key = oauth("keyed");
    as_key["authHeader"] = json!("x-api-key");
    let mut as_bearer = api_key("bearing");
    as_bearer["authHeader"] = json!("authorization");
    let mut bare = api_key("bare");
    bare["stripBetaHeaders"] = json!(true);
    let rows = [
        (api_key("plain"), None, Some("key-plain"), Some("a-1,b-2")),
        (oauth("own"), Some("Bearer token-own"), None, Some("a-1,b-2,oauth-2025-04-20")),
        (as_bearer, Some("Bearer key-bearing"), None, Some("a-1,b-2")),
        (as_key, None, Some("token-keyed"), Some("a-1,b-2,oauth-2025-04-20")),
        (bare, None, Some("key-bare"), None),
    ];
    for (account, authorization, key, beta) in rows {
        let name = account["name"].clone();
        let home = Home::new().upstream(&upstream.url()).account(account);
        let proxy = Proxy::start(&home);
        let reply = proxy.ask(&Ask::messages(&hello()).header("anthropic-beta", "a-1,b-2"));
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let request = upstream.requests().pop().expect("a request");
        assert_eq!(request.header("authorization"), authorization, "{name}");
        assert_eq!(request.header("x-api-key"), key, "{name}");
        let have: Vec<String> = request
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("anthropic-beta"))
            .flat_map(|(_, value)| {
                value.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>()
            })
            .collect();
        let want: Vec<String> =
            beta.into_iter().flat_map(|list| list.split(',').map(str::to_owned)).collect();
        assert_eq!(have, want, "{name}");
    }
}

#[test]
fn the_oauth_beta_is_added_once() {
    let upstream = Upstream::start();
    let home = Home::new().upstream(&upstream.url()).account(oauth("own"));
    let proxy = Proxy::start(&home);
    for sent in [None, Some("oauth-2025-04-20"), Some("a-1, oauth-2025-04-20")] {
        let mut ask = Ask::messages(&hello());
        if let Some(sent) = sent {
            ask = ask.header("anthropic-beta", sent);
        }
        assert_eq!(proxy.ask(&ask).status, 200);
        let request = upstream.requests().pop().expect("a request");
        let all = String::from_utf8_lossy(&request.head).into_owned();
        assert_eq!(all.matches("oauth-2025-04-20").count(), 1, "{all}");
    }
}

#[test]
fn pooled_paths_take_a_pooled_credential_and_others_the_clients_own() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let own = "sk-ant-oat01-the-clients-own";
    let bearer = format!("Bearer {own}");
    let rows = [
        ("POST", "/v1/messages?beta=true", "key-a"),
        ("POST", "/v1/messages/count_tokens?beta=true", "key-a"),
        ("GET", "/v1/models", "key-a"),
        ("GET", "/v1/models/claude-opus-4-1?x=%20y", "key-a"),
        ("POST", "/v1/complete", "key-a"),
        ("GET", "/api/oauth/claude_cli/roles", own),
        ("POST", "/api/event_logging/batch", own),
        ("GET", "/v1/files", own),
        ("GET", "/v1/sessions/1?after_id=2", own),
    ];
    for (method, target, credential) in rows {
        let mut ask = Ask::new(method, target).header("authorization", &bearer);
        if method == "POST" {
            ask = ask.body(hello().to_string().into_bytes());
        }
        let _any = proxy.ask(&ask);
        let request = upstream.requests().pop().expect("a request");
        assert_eq!((request.method.as_str(), request.target.as_str()), (method, target));
        assert_eq!(request.credential(), credential, "{target}");
    }
    let _any = proxy.ask(&Ask::get("/v1/files").header("x-api-key", "sk-ant-api03-own"));
    assert_eq!(upstream.requests().pop().expect("a request").credential(), "sk-ant-api03-own");
    for ask in [Ask::get("/v1/files"), Ask::get("/v1/files").header("x-api-key", "dummy")] {
        let _any = proxy.ask(&ask);
        assert_eq!(upstream.requests().pop().expect("a request").credential(), "key-a");
    }
}

#[test]
fn a_clients_own_credential_is_relayed_with_its_own_answer() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let own = "sk-ant-oat01-own";
    upstream.next(own, failures::unauthorized());
    let ask = Ask::get("/api/oauth/profile").header("authorization", &format!("Bearer {own}"));
    let reply = proxy.ask(&ask);
    assert_eq!(reply.status, 401, "a refusal of the client's own login is the client's to see");
    assert_eq!(reply.error().1, "invalid x-api-key");
    assert_eq!(proxy.account("a")["status"], "active", "and says nothing about the pool");
}

#[test]
fn a_clients_token_refresh_is_relayed_untouched() {
    let upstream = Upstream::start();
    upstream.state().oauth.grant("the-clients-own");
    let (_home, proxy) = start(&upstream);
    let body =
        br#"{ "grant_type":"refresh_token","refresh_token":"the-clients-own" ,"client_id":"x"}"#;
    let ask = Ask::new("POST", "/v1/oauth/token")
        .header("content-type", "application/json")
        .body(body.to_vec());
    let reply = proxy.ask(&ask);
    assert_eq!(reply.json()["access_token"], "access-1");
    let request = upstream.only_request();
    assert_eq!(request.body, body);
    assert_eq!(request.credential(), "", "no pooled credential");
}

#[test]
fn answers_come_back_byte_for_byte() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let odd = b"{ \"a\" : 1e400,\r\n\"b\":\"\\u00e9\" }\n\n".to_vec();
    let answers = [
        Answer::json(200, std::str::from_utf8(&odd).unwrap()),
        Answer::json(200, std::str::from_utf8(&odd).unwrap()).framing(Framing::Chunked).pieces(3),
        Answer::json(200, std::str::from_utf8(&odd).unwrap()).framing(Framing::UntilClose),
    ];
    for answer in answers {
        upstream.next("key-a", answer);
        let reply = proxy.post(&hello());
        assert_eq!((reply.status, reply.end), (200, ReplyEnd::Complete));
        assert_eq!(reply.body, odd);
    }
    upstream.next("key-a", Answer::json(200, r#"{"zipped":true}"#).gzipped());
    let reply = proxy.post(&hello());
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert_eq!(
        reply.body,
        gzip(br#"{"zipped":true}"#),
        "a coded body is passed with its bytes untouched"
    );
    upstream.next("key-a", Answer::bytes(204, b""));
    assert_eq!(proxy.post(&hello()).status, 204);
    // As the answer to a request for a message, this would count as none (SPEC P6).
    upstream.next("key-a", Answer::bytes(200, b""));
    let reply = proxy.ask(&Ask::get("/v1/models"));
    assert_eq!((reply.status, reply.body.len(), reply.end), (200, 0, ReplyEnd::Complete));
}

#[test]
fn response_headers_pass_but_for_hop_by_hop_ones() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let answer = Answer::message("hi")
        .header("request-id", "req_1")
        .header("anthropic-organization-id", "org_1")
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .header("anthropic-ratelimit-unified-status", "allowed")
        .header("connection", "keep-alive, x-named")
        .header("x-named", "must go")
        .header("keep-alive", "timeout=5")
        .header("proxy-authenticate", "Basic");
    upstream.next("key-a", answer);
    let reply = proxy.post(&hello());
    reply.assert_said("hi");
    assert_eq!(reply.header("request-id"), Some("req_1"));
    assert_eq!(reply.header("anthropic-organization-id"), Some("org_1"));
    assert_eq!(reply.header("anthropic-ratelimit-unified-status"), Some("allowed"));
    let cookies = reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1", "b=2"]);
    for name in ["x-named", "keep-alive", "proxy-authenticate"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
}

#[test]
fn redirects_and_client_errors_pass_and_interim_answers_do_not_confuse() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    upstream
        .next("key-a", Answer::bytes(307, b"moved").header("location", "http://127.0.0.1:9/else"));
    let reply = proxy.post(&hello());
    assert_eq!((reply.status, reply.header("location")), (307, Some("http://127.0.0.1:9/else")));
    assert_eq!(reply.body, b"moved");
    for (line, headers) in [
        ("100 Continue", ""),
        ("103 Early Hints", "link: </x>; rel=preload\r\n"),
        ("102 Processing", ""),
    ] {
        upstream
            .next("key-a", Answer::message("after").interim(line, headers).interim(line, headers));
        proxy.post(&hello()).assert_said("after");
        upstream.next("key-a", Answer::of(Message::text("streamed")).interim(line, headers));
        proxy.post(&hello_stream()).assert_said("streamed");
    }
}

#[test]
fn a_connection_that_the_upstream_has_closed_never_fails_a_request() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for end in [End::Close, End::CloseOnNext] {
        for _ in 0..10 {
            upstream.next("key-a", Answer::message("hi").end(end));
            proxy.post(&hello()).assert_said("hi");
        }
    }
    let account = proxy.account("a");
    assert_eq!(account["failedRequests"], 0, "{account:#}");
    assert_eq!(account["status"], "active");
    assert!(account["cooldownUntil"].is_null(), "{account:#}");
}

#[test]
fn connections_to_the_upstream_are_used_again() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for _ in 0..20 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    let connections = upstream.state().connections.len();
    assert!(connections <= 4, "{connections} connections for 20 requests one after the other");
}

#[test]
fn a_client_that_closes_or_speaks_http_1_0_gets_its_whole_answer() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    let reply = proxy.ask(&Ask::messages(&hello_stream()).header("Connection", "close"));
    reply.assert_said("Hello from upstream.");
    let body = hello_stream().to_string();
    let mut client = proxy.connect();
    client.send(
        format!("POST /v1/messages HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .as_bytes(),
    );
    let (bytes, end) = client.read_to_close();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(end, ReplyEnd::Closed);
    assert!(!text.to_lowercase().contains("transfer-encoding"), "{text}");
    assert!(text.trim_end().ends_with(r#"{"type":"message_stop"}"#), "{text}");
}

#[test]
fn the_proxy_key_of_a_client_is_never_forwarded() {
    let upstream = Upstream::start();
    let (_home, proxy) = start(&upstream);
    for ask in [
        Ask::messages(&hello()).header("x-api-key", KEY),
        Ask::get("/v1/files").header("authorization", &format!("Bearer {KEY}")),
        Ask::get("/api/anything").header("x-api-key", KEY),
        Ask::new("POST", "/v1/oauth/token").header("x-api-key", KEY).body(b"{}".to_vec()),
    ] {
        let _any = proxy.ask(&ask);
        let request = upstream.requests().pop().expect("a request");
        assert!(!String::from_utf8_lossy(&request.head).contains(KEY));
    }
}
