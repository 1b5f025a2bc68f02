//! Random input about limits and logins: it never causes a panic or takes long, results stay within
//! their bounds, and well-formed input is read like a slow, obvious reference reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::body::wait_of_body;
use super::limits::dates::{reset_of_text, retry_after_of_text};
use super::limits::headers::{report_of_headers, report_of_usage};
use super::sign_in::callback::{Return, of_paste, of_target};
use crate::config::Secret;
use crate::scheduler::quota::{QuotaReport, Verdict, WindowKind};
use crate::scheduler::time::{Mono, Now, Wall};
use crate::testing::chance::{Random, rounds};

/// 2026-11-21T22:45:00Z.
const NOW: Now = Now { mono: Mono(1_000_000), wall: Wall(1_795_301_100_000) };
const DAY: Duration = Duration::from_secs(86_400);
const YEAR_10000: Wall = Wall(253_402_300_800_000);

/// Year, month, day, hour, minute and second of a moment, counting the days one by one.
fn slow_date(at: Wall) -> (i64, i64, i64, i64, i64, i64) {
    let (mut days, rest) = (at.0.div_euclid(86_400_000), at.0.rem_euclid(86_400_000) / 1_000);
    let (mut year, mut month) = (1970, 1);
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if days < length {
            return (year, month, days + 1, rest / 3600, rest / 60 % 60, rest % 60);
        }
        days -= length;
        month += 1;
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
}

fn rfc3339(at: Wall, east_minutes: i64) -> String {
    let (year, month, day, hour, minute, second) = slow_date(Wall(at.0 + east_minutes * 60_000));
    let sign = if east_minutes < 0 { '-' } else { '+' };
    let (hours, minutes) = (east_minutes.abs() / 60, east_minutes.abs() % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{sign}{hours:02}:{minutes:02}"
    )
}

fn http_date(at: Wall) -> String {
    let (year, month, day, hour, minute, second) = slow_date(at);
    let weekdays = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekday = weekdays[(at.0.div_euclid(86_400_000) % 7) as usize];
    let month = months[month as usize - 1];
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// A random whole second within a month of now.
fn moment(random: &mut Random) -> Wall {
    let month = 30 * 86_400;
    let seconds = random.below(2 * month) as i64 - month as i64;
    Wall(NOW.wall.0 + 1_000 * seconds)
}

/// A text in place of a number, valid or not.
fn number(random: &mut Random) -> String {
    match random.below(12) {
        0 => random
            .word(&[
                "NaN", "inf", "-inf", "1e400", "-0", "0x10", "", " ", "٣", "1_000", "+5", "1e3",
            ])
            .to_owned(),
        1 => format!("-{}", random.below(100)),
        2 => format!("{}", 1_790_000_000 + random.below(90_000_000)),
        3 => format!("{}", 1_790_000_000_000_u64 + random.below(90_000_000_000) as u64),
        4 => "9".repeat(1 + random.below(400)),
        5 => format!("{}, {}", random.below(200), random.below(200)),
        6 => format!("{};w=60", random.below(200)),
        7 => rfc3339(moment(random), 0),
        8 => http_date(moment(random)),
        _ => format!("{}.{:02}", random.below(3), random.below(100)),
    }
}

#[test]
fn retry_after_is_read_exactly_or_within_its_bounds() {
    let mut random = Random::new(61);
    let held = |ms: i64| {
        (ms >= 0).then(|| Duration::from_millis(ms as u64).clamp(Duration::from_secs(1), DAY))
    };
    for _ in rounds(5_000) {
        let at = moment(&mut random);
        let seconds = random.below(200_000) as i64;
        let east = random.below(28 * 4) as i64 * 15 - 14 * 60;
        for (text, expected) in [
            (http_date(at), held(at.0 - NOW.wall.0)),
            (rfc3339(at, east), held(at.0 - NOW.wall.0)),
            (format!(" {seconds} "), held(seconds * 1_000)),
            (format!("{seconds}.25"), held(seconds * 1_000 + 250)),
            (format!("-{}", seconds + 1), None),
        ] {
            assert_eq!(retry_after_of_text(&text, NOW.wall), expected, "P7 {text:?}");
        }
        for text in [number(&mut random), lossy(random.bytes(40))] {
            let broken = lossy(random.broken(&text));
            for text in [text, broken] {
                let wait = retry_after_of_text(&text, NOW.wall);
                assert!(
                    wait.is_none_or(|wait| (Duration::from_secs(1)..=DAY).contains(&wait)),
                    "{text:?}"
                );
                let negative = text.trim().parse::<f64>().is_ok_and(|seconds| seconds < 0.0);
                assert!(!negative || wait.is_none(), "P7 {text:?}");
            }
        }
    }
}

#[test]
fn resets_are_read_exactly_or_not_at_all() {
    let mut random = Random::new(62);
    for _ in rounds(5_000) {
        let at = moment(&mut random);
        let seconds = random.below(1_000_000) as i64;
        let east = random.below(28 * 4) as i64 * 15 - 14 * 60;
        for (text, expected) in [
            (rfc3339(at, east), at),
            (http_date(at), at),
            (format!("{}", at.0 / 1_000), at),
            (format!("{}", at.0), at),
            (format!("{seconds}"), Wall(NOW.wall.0 + seconds * 1_000)),
            (format!("{seconds}, 7"), Wall(NOW.wall.0 + seconds * 1_000)),
            (format!("{}, 7", rfc3339(at, east)), at),
        ] {
            assert_eq!(reset_of_text(&text, NOW.wall), Some(expected), "S1 {text:?}");
        }
        let text = number(&mut random);
        let broken = lossy(random.broken(&text));
        for text in [text, broken, lossy(random.bytes(40))] {
            let reset = reset_of_text(&text, NOW.wall);
            assert!(reset.is_none_or(|reset| reset <= YEAR_10000), "S1 {text:?}: {reset:?}");
        }
    }
}

/// Names of the unified windows with their kinds.
const WINDOWS: [(&str, &str); 7] = [
    ("5h", "FiveHour"),
    ("five_hour", "FiveHour"),
    ("7d", "SevenDay"),
    ("7d_opus", "opus"),
    ("seven_day_sonnet", "sonnet"),
    ("7d_oi", "fable"),
    ("9d", ""),
];

fn kind_word(kind: &WindowKind) -> String {
    match kind {
        WindowKind::SevenDayFamily(family) => family.0.to_string(),
        other => format!("{other:?}"),
    }
}

/// Reference for the unified utilisations: by window, the first finite number that is at least
/// zero.
fn slow_utilisations(headers: &[(String, Vec<u8>)]) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        for (window, kind) in WINDOWS {
            if name != format!("anthropic-ratelimit-unified-{window}-utilization")
                || kind.is_empty()
            {
                continue;
            }
            let Ok(text) = String::from_utf8(value.clone()) else {
                continue;
            };
            let first = text.split(',').next().unwrap_or_default().trim().to_owned();
            if let Ok(share) = first.parse::<f64>()
                && share.is_finite()
                && share >= 0.0
            {
                found.entry(kind.to_owned()).or_insert(share);
            }
        }
    }
    found
}

fn limit_headers(random: &mut Random) -> Vec<(String, Vec<u8>)> {
    (0..random.below(14))
        .map(|_| {
            let (window, _) = *random.pick(&WINDOWS);
            let part =
                random.word(&["utilization", "utilization", "reset", "status", "limit", "x"]);
            let counted = random.word(&["tokens", "requests", "input-tokens", "output-tokens"]);
            let count = random.word(&["limit", "remaining", "reset", "x"]);
            let name = match random.below(8) {
                0 => format!("anthropic-ratelimit-{counted}-{count}"),
                1 => format!(
                    "{}-{count}",
                    random.word(&["x-ratelimit", "x-rate-limit", "ratelimit"])
                ),
                2 => format!("x-ratelimit-{count}-requests"),
                3 => random
                    .word(&[
                        "retry-after",
                        "anthropic-ratelimit-unified-status",
                        "anthropic-ratelimit-unified-reset",
                        "anthropic-ratelimit-unified-representative-claim",
                        "anthropic-ratelimit-unified-overage-in-use",
                        "anthropic-ratelimit-",
                        "anthropic-ratelimit-unified-",
                        "x-ratelimit-",
                    ])
                    .to_owned(),
                _ => format!("anthropic-ratelimit-unified-{window}-{part}"),
            };
            let name = if random.chance(20) { name.to_ascii_uppercase() } else { name };
            let value = match random.below(6) {
                0 => random
                    .word(&["allowed", "rejected", "five_hour", "seven_day_opus", "true"])
                    .to_owned()
                    .into_bytes(),
                1 => random.bytes(30),
                2 => {
                    let text = number(random);
                    random.broken(&text)
                }
                _ => number(random).into_bytes(),
            };
            (name, value)
        })
        .collect()
}

fn holds(report: &QuotaReport) {
    let mut kinds: Vec<&WindowKind> = report.windows.iter().map(|window| &window.kind).collect();
    let count = kinds.len();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), count, "S1 each kind at most once: {report:?}");
    for window in &report.windows {
        assert!(
            window.utilisation.is_none_or(|share| share.is_finite() && share >= 0.0),
            "S1 never a share that is none: {report:?}"
        );
        assert!(window.reset.is_none_or(|reset| reset <= YEAR_10000), "{report:?}");
    }
    assert!(
        report.retry_after.is_none_or(|wait| (Duration::from_secs(1)..=DAY).contains(&wait)),
        "{report:?}"
    );
}

#[test]
fn limit_headers_are_read_as_a_slow_reader_reads_them() {
    let mut random = Random::new(63);
    let (mut shares, mut verdicts) = (0, 0);
    for _ in rounds(5_000) {
        let headers = limit_headers(&mut random);
        let borrowed = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let report = report_of_headers(borrowed, NOW);
        holds(&report);
        assert!(report.windows.len() <= headers.len(), "{headers:?}");
        let found: BTreeMap<String, f64> = report
            .windows
            .iter()
            .filter_map(|window| Some((kind_word(&window.kind), window.utilisation?)))
            .collect();
        assert_eq!(found, slow_utilisations(&headers), "{headers:?}");
        shares += found.len();
        verdicts += usize::from(report.verdict == Some(Verdict::Rejected));
    }
    assert!(shares > 1_000 && verdicts > 10, "the generator draws what is looked for");
}

#[test]
fn usage_documents_do_no_harm() {
    let mut random = Random::new(64);
    let mut read = 0;
    for _ in rounds(3_000) {
        let limit = |random: &mut Random| {
            let kind = random.word(&["session", "weekly_all", "weekly_scoped", "x"]);
            let percent = random.word(&["12", "100.5", "-3", "null", "\"7\"", "1e308"]);
            let reset = rfc3339(moment(random), 0);
            let model = random.word(&["\"Opus 4.5\"", "\"\"", "null", "7", "\"Claude Sonnet\""]);
            format!(
                r#"{{"kind":"{kind}","percent":{percent},"resets_at":"{reset}","scope":{{"model":{{"display_name":{model}}}}}}}"#
            )
        };
        let limits: Vec<String> = (0..random.below(5)).map(|_| limit(&mut random)).collect();
        let text = format!(r#"{{"limits":[{}],"x":{}}}"#, limits.join(","), random.json(2));
        let older = format!(
            r#"{{"five_hour":{{"utilization":{}}},"seven_day":{}}}"#,
            random.below(200),
            random.json(2)
        );
        for text in [text, older] {
            let broken = random.broken(&text);
            for body in [text.into_bytes(), broken, random.broken_json()] {
                if let Some(report) = report_of_usage(&body, NOW) {
                    holds(&report);
                    read += 1;
                }
            }
        }
    }
    assert!(read > 1_000, "the generator draws what is looked for");
}

#[test]
fn provider_errors_are_read_exactly_or_within_their_bounds() {
    let mut random = Random::new(65);
    let bounds = Duration::from_secs(1)..=DAY;
    for _ in rounds(300) {
        let seconds = 1 + random.below(100_000) as u64;
        let at = Wall(NOW.wall.0 + 1_000 * (1 + random.below(86_000) as i64));
        let (year, month, day, hour, minute, second) = slow_date(Wall(at.0 + 8 * 3_600_000));
        let said = format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
        let minutes = random.below(1_200) as u64;
        let span = Duration::from_secs(60 * minutes);
        let until = NOW.wall.until(at);
        let glm = |code: &str, message: &str| {
            format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#)
        };
        let kimi = |message: &str| {
            format!(r#"{{"error":{{"message":"{message}","type":"rate_limit_reached_error"}}}}"#)
        };
        for (text, expected) in [
            (
                kimi(&format!("request reached, please try again after {seconds} seconds")),
                Duration::from_secs(seconds),
            ),
            (kimi(&format!("resets in {minutes} minutes")), span),
            (glm("1308", &format!("已达到 5 小时的使用上限。您的限额将在 {said} 重置。")), until),
            (glm("1310", &format!("Usage limit reached. Your limit will reset at {said}")), until),
            (glm("1316", &format!("next_flush_time: {said}")), until),
            (glm("1302", &format!("reset at {said}")), Duration::from_secs(60)),
        ] {
            let expected = expected.clamp(Duration::from_secs(1), DAY);
            assert_eq!(wait_of_body(text.as_bytes(), NOW.wall), Some(expected), "V3 {text}");
            let broken = random.broken(&text);
            let event = format!("event: error\ndata: {}\n\n", lossy(random.broken(&text)));
            for body in [broken, event.into_bytes(), random.broken_json(), random.bytes(300)] {
                let wait = wait_of_body(&body, NOW.wall);
                assert!(wait.is_none_or(|wait| bounds.contains(&wait)), "V3 {:?}", lossy(body));
            }
        }
    }
}

/// Escaped as by a browser, and sometimes more than necessary.
fn escaped(random: &mut Random, text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() && random.chance(80) {
            out.push(char::from(byte));
        } else if random.chance(50) {
            out += &format!("%{byte:02x}");
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[test]
fn only_a_callback_with_our_state_gives_its_code() {
    let mut random = Random::new(66);
    let state = Secret::new("state-0123456789_ABCDEFG");
    let mut codes = 0;
    for _ in rounds(5_000) {
        let length = 16 + random.below(60);
        let code: String = (0..length).map(|_| char::from(33 + random.below(94) as u8)).collect();
        let (code_text, state_text) =
            (escaped(&mut random, &code), escaped(&mut random, state.expose()));
        let mut pairs = vec![format!("code={code_text}"), format!("state={state_text}")];
        for _ in 0..random.below(3) {
            let place = random.below(pairs.len() + 1);
            pairs.insert(
                place,
                random.word(&["x=1", "", "=", "codes=a", "&&", "Code=zzzzzzzz"]).to_owned(),
            );
        }
        let target = format!("/callback?{}", pairs.join("&"));
        let expected = Return::Code(Secret::new(code.as_str()));
        assert_eq!(of_target(&target, &state), expected, "T1 {target}");
        let pasted = format!(" http://localhost:7{target}#x ");
        assert_eq!(of_paste(&pasted, &state), expected, "T1 {pasted}");
        let stranger =
            target.replacen(&state_text, &escaped(&mut random, "state-0123456789_ABCDEFH"), 1);
        assert_eq!(of_target(&stranger, &state), Return::WrongState, "T1 {stranger}");
        let broken = lossy(random.broken(&target));
        if let Return::Code(found) = of_target(&broken, &state) {
            codes += 1;
            let same = slow_decoded(&broken)
                .split(['?', '&'])
                .any(|pair| pair == format!("state={}", state.expose()));
            assert!(same, "T1 a code without our state: {broken:?} {found:?}");
        }
        for line in [broken.clone(), lossy(random.bytes(60))] {
            let _any = of_paste(&line, &state);
        }
    }
    assert!(codes > 100, "some survive");
}

/// For a query whose `&` and `=` are never escaped.
fn slow_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let pair = pair.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    lossy(out)
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
