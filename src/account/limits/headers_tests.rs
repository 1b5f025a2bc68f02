#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::*;
use crate::scheduler::time::Mono;

const NOW: Now = Now { mono: Mono(5_000), wall: Wall(1_795_301_100_000) };

fn read(headers: &[(&str, &str)]) -> QuotaReport {
    report_of_headers(headers.iter().map(|(n, v)| (*n, v.as_bytes())), NOW)
}

fn family_window(word: &str) -> WindowKind {
    WindowKind::SevenDayFamily(family(word))
}

/// A reading in short form: kind, utilisation, limit, remaining, reset in ms, verdict.
type Short = (WindowKind, Option<f64>, Option<u64>, Option<u64>, Option<i64>, Option<Verdict>);

fn short(report: &QuotaReport) -> Vec<Short> {
    let short = |w: &WindowReading| {
        (w.kind.clone(), w.utilisation, w.limit, w.remaining, w.reset.map(|r| r.0), w.verdict)
    };
    report.windows.iter().map(short).collect()
}

#[test]
fn the_unified_headers_of_an_answer_become_windows() {
    let report = read(&[
        ("content-type", "application/json"),
        ("Anthropic-Ratelimit-Unified-Status", "rejected"),
        ("anthropic-ratelimit-unified-representative-claim", "seven_day_opus"),
        ("anthropic-ratelimit-unified-reset", "1795400000"),
        ("anthropic-ratelimit-unified-5h-utilization", "0.25"),
        ("anthropic-ratelimit-unified-5h-reset", "1795310000"),
        ("anthropic-ratelimit-unified-5h-status", "allowed"),
        ("anthropic-ratelimit-unified-7d-utilization", "1.02"),
        ("anthropic-ratelimit-unified-7d-status", "allowed_warning"),
        ("anthropic-ratelimit-unified-7d_opus-status", "rejected"),
        ("anthropic-ratelimit-unified-7d_oi-utilization", "0.5"),
        ("anthropic-ratelimit-unified-7d_oi-reset", "1795500000"),
        ("anthropic-ratelimit-unified-7d_newest-utilization", "0.1"),
        ("anthropic-ratelimit-unified-overage-in-use", "true"),
        ("anthropic-ratelimit-unified-overage-status", "allowed"),
        ("anthropic-ratelimit-unified-overage-reset", "1795600000"),
        ("anthropic-ratelimit-unified-fallback-percentage", "0.5"),
        ("retry-after", "120"),
    ]);
    assert_eq!(report.verdict, Some(Verdict::Rejected));
    assert_eq!(report.claim, Some(family_window("opus")));
    assert_eq!(report.reset, Some(Wall(1_795_400_000_000)));
    assert_eq!(report.overage_in_use, Some(true));
    assert_eq!(report.retry_after, Some(Duration::from_secs(120)));
    let rejected = Some(Verdict::Rejected);
    assert_eq!(
        short(&report),
        [
            (
                WindowKind::FiveHour,
                Some(0.25),
                None,
                None,
                Some(1_795_310_000_000),
                Some(Verdict::Allowed)
            ),
            (WindowKind::SevenDay, Some(1.02), None, None, None, Some(Verdict::AllowedWarning)),
            (family_window("opus"), None, None, None, None, rejected),
            (family_window("fable"), Some(0.5), None, None, Some(1_795_500_000_000), None),
            (family_window("newest"), Some(0.1), None, None, None, None),
        ]
    );
}

#[test]
fn one_header_gives_one_fact_or_none() {
    use WindowKind::{FiveHour, Generic, Requests, SevenDay, Tokens};
    let at = |seconds: i64| Some(NOW.wall.0 + seconds * 1000);
    #[rustfmt::skip]
    let table: Vec<(&str, &str, &str, Option<Short>)> = vec![
        ("S1 utilisation", "anthropic-ratelimit-unified-5h-utilization", "0.5", Some((FiveHour, Some(0.5), None, None, None, None))),
        ("S1 above 1 stays raw", "anthropic-ratelimit-unified-7d-utilization", "3.5", Some((SevenDay, Some(3.5), None, None, None, None))),
        ("S1 zero is a value", "anthropic-ratelimit-unified-7d-utilization", "0", Some((SevenDay, Some(0.0), None, None, None, None))),
        ("S1 NaN", "anthropic-ratelimit-unified-5h-utilization", "NaN", None),
        ("S1 infinite", "anthropic-ratelimit-unified-5h-utilization", "inf", None),
        ("S1 negative", "anthropic-ratelimit-unified-5h-utilization", "-0.1", None),
        ("S1 unreadable", "anthropic-ratelimit-unified-5h-utilization", "50%", None),
        ("S1 empty", "anthropic-ratelimit-unified-5h-utilization", "", None),
        ("S1 list", "anthropic-ratelimit-unified-5h-utilization", "0.5, 0.9", Some((FiveHour, Some(0.5), None, None, None, None))),
        ("S1 reset unreadable", "anthropic-ratelimit-unified-5h-reset", "tomorrow", None),
        ("S1 verdict unknown", "anthropic-ratelimit-unified-5h-status", "perhaps", None),
        ("S1 unknown window", "anthropic-ratelimit-unified-1h-utilization", "0.5", None),
        ("S1 unknown part", "anthropic-ratelimit-unified-5h-surpassed-threshold", "0.75", None),
        ("S1 overage is no window", "anthropic-ratelimit-unified-overage-utilization", "1", None),
        ("S1 an application window", "anthropic-ratelimit-unified-7d_oauth_apps-utilization", "1", None),
        ("S1 tokens limit", "anthropic-ratelimit-tokens-limit", "40000", Some((Tokens, None, Some(40_000), None, None, None))),
        ("S1 tokens reset", "anthropic-ratelimit-output-tokens-reset", "2026-11-21T22:46:00Z", Some((Tokens, None, None, None, at(60), None))),
        ("S1 tokens remaining", "anthropic-ratelimit-input-tokens-remaining", "0", Some((Tokens, None, None, Some(0), None, None))),
        ("S1 requests", "anthropic-ratelimit-requests-remaining", "7", Some((Requests, None, None, Some(7), None, None))),
        ("S1 negative count", "anthropic-ratelimit-requests-remaining", "-7", None),
        ("S1 count unreadable", "anthropic-ratelimit-requests-limit", "lots", None),
        ("S1 count too large", "anthropic-ratelimit-requests-limit", "1e300", None),
        ("S1 priority is another thing", "anthropic-priority-input-tokens-limit", "5", None),
        ("S1 x-ratelimit", "x-ratelimit-limit", "100", Some((Generic, None, Some(100), None, None, None))),
        ("S1 x-rate-limit", "X-Rate-Limit-Remaining", "5", Some((Generic, None, None, Some(5), None, None))),
        ("S1 ratelimit with a window", "ratelimit-limit", "100, 100;w=60", Some((Generic, None, Some(100), None, None, None))),
        ("S1 ratelimit with a parameter", "ratelimit-limit", "100;w=60", Some((Generic, None, Some(100), None, None, None))),
        ("S1 reset in seconds", "ratelimit-reset", "30", Some((Generic, None, None, None, at(30), None))),
        ("S1 requests form", "x-ratelimit-reset-requests", "1795301160000", Some((Generic, None, None, None, at(60), None))),
        ("S1 tokens form of others", "x-ratelimit-limit-tokens", "100", None),
    ];
    for (rule, name, value, expected) in table {
        let report = read(&[(name, value)]);
        assert_eq!(short(&report), Vec::from_iter(expected), "{rule}: {name}: {value:?}");
        let rest = QuotaReport { windows: Vec::new(), ..report };
        assert_eq!(rest, QuotaReport::default(), "{rule}: {name}: {value:?}");
    }
}

#[test]
fn of_several_token_windows_the_fullest_counts() {
    let report = read(&[
        ("anthropic-ratelimit-tokens-limit", "1000"),
        ("anthropic-ratelimit-tokens-remaining", "500"),
        ("anthropic-ratelimit-tokens-reset", "10"),
        ("anthropic-ratelimit-input-tokens-limit", "2000"),
        ("anthropic-ratelimit-input-tokens-remaining", "100"),
        ("anthropic-ratelimit-input-tokens-reset", "20"),
        ("anthropic-ratelimit-output-tokens-limit", "100"),
        ("anthropic-ratelimit-output-tokens-reset", "30"),
        ("x-ratelimit-limit", "10"),
        ("x-ratelimit-remaining", "9"),
        ("x-ratelimit-limit-requests", "10"),
        ("x-ratelimit-remaining-requests", "1"),
    ]);
    assert_eq!(
        short(&report),
        [
            (WindowKind::Tokens, None, Some(2_000), Some(100), Some(NOW.wall.0 + 20_000), None),
            (WindowKind::Generic, None, Some(10), Some(1), None, None),
        ]
    );
    let both_empty = read(&[
        ("anthropic-ratelimit-input-tokens-remaining", "0"),
        ("anthropic-ratelimit-input-tokens-reset", "90"),
        ("anthropic-ratelimit-output-tokens-remaining", "0"),
        ("anthropic-ratelimit-output-tokens-reset", "5"),
    ]);
    assert_eq!(both_empty.windows[0].reset, Some(NOW.wall + Duration::from_secs(90)));
}

#[test]
fn the_first_of_a_repeated_header_counts_and_bytes_that_are_no_text_do_not() {
    let twice = read(&[("retry-after", "5"), ("retry-after", "900")]);
    assert_eq!(twice.retry_after, Some(Duration::from_secs(5)));
    let bad_then_good = read(&[
        ("anthropic-ratelimit-unified-5h-utilization", "x"),
        ("anthropic-ratelimit-unified-5h-utilization", "0.4"),
    ]);
    assert_eq!(bad_then_good.windows[0].utilisation, Some(0.4));
    let bytes = report_of_headers([("retry-after", &[0xff, 0x31][..])], NOW);
    assert_eq!(bytes, QuotaReport::default());
}

#[test]
fn claims_name_windows() {
    let table = [
        ("five_hour", Some(WindowKind::FiveHour)),
        ("seven_day", Some(WindowKind::SevenDay)),
        ("seven_day_opus", Some(family_window("opus"))),
        ("seven_day_sonnet", Some(family_window("sonnet"))),
        ("seven_day_overage_included", Some(family_window("fable"))),
        ("seven_day_haiku", Some(family_window("haiku"))),
        ("Five_Hour", Some(WindowKind::FiveHour)),
        ("overage", None),
        ("seven_day_oauth_apps", None),
        ("seven_day_", None),
        ("", None),
    ];
    for (claim, expected) in table {
        assert_eq!(window_of_claim(claim), expected, "S1: {claim}");
    }
}

#[test]
fn a_model_id_names_its_family() {
    let table = [
        ("claude-opus-4-8", Some("opus")),
        ("claude-sonnet-4-5-20250929", Some("sonnet")),
        ("claude-3-5-haiku-20241022", Some("haiku")),
        ("claude-3-7-sonnet-latest", Some("sonnet")),
        ("claude-fable-5", Some("fable")),
        ("claude-mythos-preview", Some("mythos")),
        ("claude-saga-1", Some("saga")),
        ("claude-instant-1.2", Some("instant")),
        ("claude-2.1", None),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", Some("opus")),
        ("anthropic/claude-sonnet-5", Some("sonnet")),
        ("Claude Opus 4.8", Some("opus")),
        ("opus", Some("opus")),
        ("Sonnet only", Some("sonnet")),
        ("glm-5.3", None),
        ("kimi-k3", None),
        ("", None),
    ];
    for (model, expected) in table {
        assert_eq!(family_of_model(model), expected.map(family), "{model}");
    }
}

#[test]
fn the_usage_endpoint_is_read_in_both_forms() {
    let limits = br#"{"limits":[
        {"kind":"session","percent":42,"resets_at":"2026-11-21T23:45:00.123+00:00"},
        {"kind":"weekly_all","percent":99.5,"resets_at":null},
        {"kind":"weekly_scoped","percent":1,"resets_at":"2026-11-21T23:45:00Z","scope":{"model":{"display_name":"Claude Opus"}}},
        {"kind":"weekly_scoped","percent":7,"scope":{"model":{"display_name":"Saga"}}},
        {"kind":"weekly_scoped","percent":7,"scope":{"surface":"x"}},
        {"kind":"session","percent":50},
        {"kind":"monthly","percent":3},
        {"kind":"weekly_all","percent":"12"},
        7
    ],"five_hour":{"utilization":9,"resets_at":null}}"#;
    let report = report_of_usage(limits, NOW).unwrap();
    assert_eq!(
        short(&report),
        [
            (WindowKind::FiveHour, Some(0.42), None, None, Some(1_795_304_700_123), None),
            (WindowKind::SevenDay, Some(0.995), None, None, None, None),
            (family_window("opus"), Some(0.01), None, None, Some(1_795_304_700_000), None),
            (family_window("saga"), Some(0.07), None, None, None, None),
        ]
    );
    let older = br#"{"five_hour":{"utilization":12.5,"resets_at":"2026-11-21T23:45:00Z"},
        "seven_day":{"utilization":null,"resets_at":null},"seven_day_opus":{"utilization":0,"resets_at":null},
        "seven_day_oauth_apps":{"utilization":5,"resets_at":null},"seven_day_sonnet":null,"extra_usage":{"is_enabled":false}}"#;
    let report = report_of_usage(older, NOW).unwrap();
    assert_eq!(
        short(&report),
        [
            (WindowKind::FiveHour, Some(0.125), None, None, Some(1_795_304_700_000), None),
            (family_window("opus"), Some(0.0), None, None, None, None),
        ]
    );
    for not_usage in [&b""[..], b"<html>", b"[]", b"null", b"{}", br#"{"error":{"type":"x"}}"#] {
        assert_eq!(report_of_usage(not_usage, NOW), None);
    }
    assert_eq!(report_of_usage(br#"{"limits":[]}"#, NOW), Some(QuotaReport::default()));
}

#[test]
fn seconds_go_before_a_reset_that_cannot_be() {
    let rejected = |wait_h: i64, retry_after: Option<&str>| {
        let reset = (NOW.wall.0 / 1000 + wait_h * 3600).to_string();
        let mut headers = vec![
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
            ("anthropic-ratelimit-unified-reset", reset.as_str()),
            ("anthropic-ratelimit-unified-5h-reset", reset.as_str()),
        ];
        headers.extend(retry_after.map(|seconds| ("retry-after", seconds)));
        let report = read(&headers);
        let both = [report.reset, report.windows[0].reset];
        both.map(|reset| reset.map(|reset| (reset.0 - NOW.wall.0) / 1000))
    };
    assert_eq!(rejected(5, Some("20")), [Some(18_000); 2], "P7 the later one");
    assert_eq!(rejected(6, Some("20")), [Some(20); 2], "P7 five hours end within five hours");
    assert_eq!(rejected(6, None), [Some(21_600); 2], "P7 nothing else is known");
}
