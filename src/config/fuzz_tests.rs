//! Random configurations: none causes a panic, a valid one is accepted, and an invalid one is
//! refused with its key, line and file.

use std::path::Path;

use serde_json::{Map, Value};

use super::Config;
use crate::testing::chance::{Random, rounds};

/// The values that a key accepts, from the table of SPEC A2.
#[derive(Clone, Copy)]
enum Takes {
    /// 0 or more.
    Number,
    Share,
    /// A whole number, 0 or more.
    Whole,
    Port,
    Flag,
    Text,
}

const KEYS: [(&str, &str, Takes); 31] = [
    ("proxy", "host", Takes::Text),
    ("proxy", "port", Takes::Port),
    ("proxy", "requireKey", Takes::Flag),
    ("proxy", "maxConnections", Takes::Whole),
    ("", "switchThreshold", Takes::Share),
    ("scheduler", "mode", Takes::Text),
    ("scheduler", "safetyMaxActivePerAccount", Takes::Whole),
    ("scheduler", "safetyMaxGlobalActive", Takes::Whole),
    ("scheduler", "cooldownMs", Takes::Number),
    ("scheduler", "maxCooldownMs", Takes::Number),
    ("scheduler", "networkCooldownMs", Takes::Number),
    ("scheduler", "weeklySoftThreshold", Takes::Share),
    ("scheduler", "weeklyReserveThreshold", Takes::Share),
    ("scheduler", "weeklyCriticalThreshold", Takes::Share),
    ("scheduler", "weeklyExhaustedThreshold", Takes::Share),
    ("scheduler", "weeklyBurnDebtWeight", Takes::Number),
    ("scheduler", "scarcityWeight", Takes::Number),
    ("scheduler", "spreadWindowMs", Takes::Number),
    ("scheduler", "sessionIdleMs", Takes::Number),
    ("retry", "maxAttemptsPerRequest", Takes::Whole),
    ("retry", "maxRetryBufferBytes", Takes::Whole),
    ("queue", "enabled", Takes::Flag),
    ("queue", "maxWaitMs", Takes::Number),
    ("queue", "weeklyMaxWaitMs", Takes::Number),
    ("queue", "maxQueuedBytes", Takes::Whole),
    ("queue", "maxConcurrentQueued", Takes::Whole),
    ("queue", "pollMs", Takes::Number),
    ("timeouts", "connectMs", Takes::Number),
    ("timeouts", "idleMs", Takes::Number),
    ("shutdown", "drainTimeoutMs", Takes::Number),
    ("sync", "accountsIntervalMs", Takes::Number),
];

fn takes(takes: Takes, value: &Value) -> bool {
    let number = value.as_f64().filter(|number| *number >= 0.0);
    let whole = number.filter(|number| number.fract() == 0.0);
    match takes {
        Takes::Number => number.is_some(),
        Takes::Share => number.is_some_and(|number| number <= 1.0),
        Takes::Whole => whole.is_some(),
        Takes::Port => whole.is_some_and(|number| number <= 65_535.0),
        Takes::Flag => value.is_boolean(),
        Takes::Text => value.as_str().is_some_and(|text| !text.is_empty()),
    }
}

fn value(random: &mut Random, wanted: Takes) -> Value {
    let text = if random.chance(85) {
        match wanted {
            Takes::Number => {
                random.word(&["0", "1.5", "30000", "1e300", "0.001", "18446744073709551616"])
            }
            Takes::Share => random.word(&["0", "0.3", "0.65", "0.999", "1", "1.0"]),
            Takes::Whole => {
                random.word(&["0", "1", "50", "4.0", "18446744073709551615", "9007199254740993"])
            }
            Takes::Port => random.word(&["0", "3456", "65535"]),
            Takes::Flag => random.word(&["true", "false"]),
            Takes::Text => random.word(&["\"a\"", "\"127.0.0.1\"", "\"ä\\n\""]),
        }
    } else {
        random.word(&[
            "-1", "-0.0001", "1.0001", "65536", "null", "\"5\"", "\"\"", "[]", "{}", "true", "2.5",
            "\"x\"",
        ])
    };
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// A document, and whether a reference reader would refuse it.
fn document(random: &mut Random) -> (Map<String, Value>, bool) {
    let mut document = Map::new();
    let mut good = true;
    for _ in 0..random.below(6) {
        let (section, key, wanted) = *random.pick(&KEYS);
        let value = value(random, wanted);
        match section {
            "" => {
                document.insert(key.to_owned(), value);
            }
            section => {
                let section = document.entry(section).or_insert_with(|| Value::Object(Map::new()));
                section[key] = value;
            }
        }
    }
    if random.chance(20) {
        let unknown = serde_json::from_str(&random.json(3)).unwrap_or(Value::Null);
        document.insert("somethingElse".to_owned(), unknown);
    }
    let at = |section: &str, key: &str| match section {
        "" => document.get(key),
        section => document.get(section)?.get(key),
    };
    for (section, key, wanted) in KEYS {
        good &= at(section, key).is_none_or(|value| takes(wanted, value));
    }
    let weekly = [("Soft", 0.65), ("Reserve", 0.85), ("Critical", 0.95), ("Exhausted", 0.985)].map(
        |(name, default)| {
            let value = at("scheduler", &format!("weekly{name}Threshold"));
            value.map_or(default, |value| value.as_f64().unwrap_or(f64::NAN))
        },
    );
    good &= weekly.is_sorted();
    (document, good)
}

#[test]
fn a_slow_reader_takes_and_refuses_the_same_configurations() {
    let mut random = Random::new(71);
    let (mut taken, mut refused) = (0, 0);
    for _ in rounds(3_000) {
        let (document, good) = document(&mut random);
        let text = if random.chance(50) {
            Value::from(document.clone()).to_string()
        } else {
            format!("{:#}", Value::from(document.clone()))
        };
        match Config::parse(&text, Path::new("some.json")) {
            Ok(config) => {
                assert!(good, "A2 taken: {text}");
                taken += 1;
                let unknown = document.contains_key("somethingElse");
                assert_eq!(
                    config.notices.iter().any(|line| line.contains("somethingElse")),
                    unknown,
                    "A2 {text}"
                );
                // Whatever was accepted can be put into effect.
                let policy = &config.policy;
                assert!((0.0..=1.0).contains(&policy.switch_threshold), "A2 {text}");
                assert!(
                    policy.scarcity_weight.is_finite()
                        && policy.weekly_soft <= policy.weekly_exhausted,
                    "A2 {text}"
                );
            }
            Err(error) => {
                let said = error.to_string();
                assert!(!good, "A2 refused: {said}\n{text}");
                assert!(said.contains("some.json:"), "A1 the file and a line: {said}");
                let named = KEYS.iter().any(|(_, key, _)| said.contains(key));
                assert!(named, "A1 the key: {said}\n{text}");
                refused += 1;
            }
        }
    }
    assert!(taken > 500 && refused > 500, "the generator draws both: {taken}, {refused}");
}

#[test]
fn garbage_does_no_harm() {
    let mut random = Random::new(72);
    let accounts = r#"{"proxy":{"port":1},"accounts":[{"name":"a","type":"oauth","accessToken":"secret-t","refreshToken":"secret-r","expiresAt":1790000000},{"name":"b","apiKey":"secret-k","profiles":["all"],"modelMap":{"opus":"x"},"priority":3}]}"#;
    for _ in rounds(3_000) {
        let (document, _) = document(&mut random);
        let text = format!("{:#}", Value::from(document.clone()));
        let bodies = [
            random.broken(&text),
            random.broken(accounts),
            random.broken_json(),
            random.object(4).into_bytes(),
        ];
        for body in bodies {
            let text = String::from_utf8_lossy(&body);
            if let Err(error) = Config::parse(&text, Path::new("some.json")) {
                let said = error.to_string();
                assert!(said.contains("some.json"), "A1 {said}");
                assert!(!said.contains("secret-"), "D4 {said}");
                assert!(said.len() < 2_000, "bounded: {said}");
            }
        }
    }
}
