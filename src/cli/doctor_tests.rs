//! What `doctor` says about each state.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::testing::scratch::Scratch;

fn context_in<T>(
    variables: &[(&str, &str)],
    run: impl FnOnce(&mut Context<'_>) -> T,
) -> (T, String) {
    let variable = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let result = run(&mut Context::for_tests(&mut stdout, &mut stderr, &variable));
    assert_eq!(stderr, b"");
    (result, String::from_utf8(stdout).unwrap())
}

fn verdicts(findings: &[Finding]) -> Vec<(Verdict, &str)> {
    findings.iter().map(|finding| (finding.verdict, finding.text.as_str())).collect()
}

#[test]
fn a_clock_that_is_off_is_wrong() {
    for (theirs, ours, verdict, text) in [
        (1_000_000, 1_060_000, Verdict::Fine, "agrees with the upstream's clock"),
        (1_000_000, 940_000, Verdict::Fine, "agrees with the upstream's clock"),
        (
            0,
            7_200_000,
            Verdict::Wrong,
            "this machine's clock is 2h ahead of the upstream's; correct it, otherwise waits and \
             token expiry are miscalculated",
        ),
        (
            61_000,
            0,
            Verdict::Wrong,
            "this machine's clock is 1m 1s behind the upstream's; correct it, otherwise waits and \
             token expiry are miscalculated",
        ),
    ] {
        let finding = clock_against(Wall(theirs), Wall(ours));
        assert_eq!((finding.verdict, finding.text.as_str()), (verdict, text));
    }
}

#[test]
fn a_base_url_that_leads_elsewhere_is_wrong() {
    let config = Config::default();
    for (url, verdict) in [
        ("http://127.0.0.1:3456", Verdict::Fine),
        ("http://localhost:3456/", Verdict::Fine),
        ("http://[::1]:3456", Verdict::Fine),
        ("http://127.0.0.1:3457", Verdict::Wrong),
        ("https://localhost:3456", Verdict::Wrong),
        ("https://api.anthropic.com", Verdict::Wrong),
        ("nonsense", Verdict::Wrong),
        ("", Verdict::Fine),
    ] {
        let variables = [("ANTHROPIC_BASE_URL", url), ("HOME", "/nonexistent")];
        let (findings, _) = context_in(&variables, |context| environment(context, &config));
        assert_eq!(findings[0].verdict, verdict, "{url}");
    }
}

#[test]
fn settings_of_claude_code_that_override_the_base_url_are_found() {
    let scratch = Scratch::new();
    let home = scratch.path("");
    let settings = |name: &str, text: &str| {
        fs::create_dir_all(scratch.path(".claude")).unwrap();
        fs::write(scratch.path(".claude").join(name), text).unwrap();
    };
    settings("settings.json", r#"{"env": {"ANTHROPIC_BASE_URL": "https://other"}}"#);
    settings("settings.local.json", "{ broken");
    let (findings, _) = context_in(&[("HOME", home.to_str().unwrap())], |context| {
        environment(context, &Config::default())
    });
    let found: Vec<&Finding> =
        findings.iter().filter(|finding| finding.about == "settings").collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].verdict, Verdict::Wrong);
    assert!(
        found[0].text.contains("settings.json sets ANTHROPIC_BASE_URL to https://other"),
        "{found:?}"
    );
    assert_eq!(found[1].verdict, Verdict::Odd);
    settings("settings.json", r#"{"env": {"ANTHROPIC_BASE_URL": "http://localhost:3456"}}"#);
    let variables =
        [("CLAUDE_CONFIG_DIR", scratch.path(".claude")), ("CLAUDE_CODE_USE_BEDROCK", "1".into())];
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(key, value)| (*key, value.to_str().unwrap())).collect();
    let (findings, _) = context_in(&variables, |context| environment(context, &Config::default()));
    let wrong: Vec<&str> = findings
        .iter()
        .filter(|it| it.verdict == Verdict::Wrong)
        .map(|it| it.text.as_str())
        .collect();
    assert_eq!(
        wrong,
        [
            "CLAUDE_CODE_USE_BEDROCK is set, so Claude Code does not use ANTHROPIC_BASE_URL; unset it"
        ]
    );
}

#[test]
fn accounts_and_tokens() {
    let parse = |accounts: &str| {
        Config::parse(&format!("{{\"accounts\": [{accounts}]}}"), Path::new("c")).unwrap()
    };
    let now = Wall(1_790_000_000_000);
    for (entries, expected) in [
        ("", (Verdict::Wrong, "there is no usable account; add one with: maxpool login")),
        (
            r#"{"name": "a", "apiKey": "k", "enabled": false}"#,
            (Verdict::Wrong, "all accounts are disabled; enable one with: maxpool enable NAME"),
        ),
        (r#"{"name": "a", "apiKey": "k"}"#, (Verdict::Fine, "a: has a key")),
        (
            r#"{"name": "a", "accessToken": "k", "refreshToken": "r", "expiresAt": 1790003600000}"#,
            (Verdict::Fine, "a: valid, expires in 1h"),
        ),
        (
            r#"{"name": "a", "accessToken": "k", "expiresAt": 1799999999999}"#,
            (Verdict::Fine, "a: valid, expires in 115d 18h"),
        ),
        (
            r#"{"name": "a", "accessToken": "k", "expiresAt": 1790864000000,
                "source": "login --token as me@example.com"}"#,
            (
                Verdict::Odd,
                "a: expires in 10d and cannot be renewed; sign in again as me@example.com with: \
                 maxpool login --token",
            ),
        ),
        (
            r#"{"name": "a", "accessToken": "k", "refreshToken": "r", "expiresAt": 1}"#,
            (Verdict::Fine, "a: expired; the next request renews it"),
        ),
        (
            r#"{"name": "a", "accessToken": "k", "expiresAt": 1}"#,
            (Verdict::Wrong, "a: expired and cannot be renewed; sign in again with: maxpool login"),
        ),
    ] {
        assert_eq!(
            verdicts(&accounts(&parse(entries), &Judged::default(), None, now)),
            [expected],
            "{entries}"
        );
    }
}

#[test]
fn a_file_that_others_can_read_is_wrong() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{}").unwrap();
    for (mode, verdict) in [
        (0o600, Verdict::Fine),
        (0o400, Verdict::Fine),
        (0o640, Verdict::Wrong),
        (0o604, Verdict::Wrong),
    ] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(modes(&file)[0].verdict, verdict, "{mode:o}");
    }
}

#[test]
fn a_port_is_free_or_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::default();
    config.proxy.port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(port(&config).0[0].verdict, Verdict::Odd, "free");
    config.proxy.port = 0;
    assert_eq!(port(&config).0[0].verdict, Verdict::Odd, "chosen by the system");
}

#[test]
fn a_broken_config_is_told_line_by_line_and_the_rest_is_looked_at() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    // Nothing listens on port 1 of loopback, and nothing has to be resolved.
    let text = "{\"upstream\": \"http://127.0.0.1:1\", \"proxy\": {\"port\": -1},\n\"switchThreshold\": 2}";
    fs::write(&file, text).unwrap();
    let config =
        Config { upstream: BaseUrl::parse("http://127.0.0.1:1").unwrap(), ..Config::default() };
    let (findings, _) = context_in(&[], |context| upstreams(context, &config));
    assert_eq!(findings[0].text, "127.0.0.1 resolves to 127.0.0.1");
    assert_eq!((findings[1].verdict, findings[1].about), (Verdict::Wrong, "upstream"));
    fs::write(&file, text.replace("2}", "1}").replace("-1", "0")).unwrap();
    let variables =
        [("MAXPOOL_CONFIG", file.to_str().unwrap()), ("SSL_CERT_FILE", "/nonexistent.pem")];
    let (exit, stdout) = context_in(&variables, examine);
    assert_eq!(format!("{:?}", exit.unwrap()), format!("{:?}", ExitCode::FAILURE));
    assert!(stdout.contains("WRONG CA           SSL_CERT_FILE: /nonexistent.pem"), "{stdout}");
    assert!(stdout.contains("WRONG accounts     there is no usable account"), "{stdout}");
}

#[test]
fn nothing_is_said_of_what_a_broken_config_would_have_said() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{\"switchThreshold\": 2}").unwrap();
    let variables = [("MAXPOOL_CONFIG", file.to_str().unwrap()), ("HOME", "/nonexistent")];
    let (_, stdout) = context_in(&variables, examine);
    assert!(stdout.contains("WRONG config"), "{stdout}");
    assert!(stdout.contains("once the config can be read"), "{stdout}");
    for word in ["accounts     there", "port  ", "upstream  ", "environment  "] {
        assert!(!stdout.contains(word), "{word}: {stdout}");
    }
}

#[test]
fn what_two_ways_lead_to_is_told_once() {
    let config = Config::parse(
        r#"{"upstream": "http://127.0.0.1:1", "upstreamProxy": false, "accounts":
            [{"name": "a", "type": "provider", "authToken": "k", "upstream": "http://127.0.0.1:2"}]}"#,
        Path::new("c"),
    )
    .unwrap();
    let (findings, _) = context_in(&[], |context| upstreams(context, &config));
    let told: Vec<&str> = findings.iter().map(|finding| finding.about).collect();
    assert_eq!(told, ["DNS", "upstream", "upstream"]);
}
