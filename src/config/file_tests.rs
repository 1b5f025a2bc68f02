//! Reading and changing the config file (SPEC A1, A5), with real directories, threads and
//! processes.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::config::Secret;
use crate::config::fault::{Fault, Faults};
use crate::testing::scratch::Scratch;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn insert(document: &mut Map<String, Value>, key: &str, value: impl Into<Value>) -> Result<()> {
    document.insert(key.to_owned(), value.into());
    Ok(())
}

#[test]
fn a1_the_path() {
    for (rule, variables, expected) in [
        (
            "MAXPOOL_CONFIG first",
            &[("MAXPOOL_CONFIG", "/m"), ("TEAMCLAUDE_CONFIG", "/t"), ("HOME", "/h")][..],
            "/m",
        ),
        ("then the old name", &[("TEAMCLAUDE_CONFIG", "/t"), ("XDG_CONFIG_HOME", "/x")], "/t"),
        ("then XDG", &[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")], "/x/maxpool.json"),
        ("then home", &[("HOME", "/h")], "/h/.config/maxpool.json"),
        (
            "empty is unset",
            &[("MAXPOOL_CONFIG", ""), ("XDG_CONFIG_HOME", ""), ("HOME", "/h")],
            "/h/.config/maxpool.json",
        ),
        (
            "a relative XDG directory is ignored",
            &[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")],
            "/h/.config/maxpool.json",
        ),
    ] {
        let look = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        assert_eq!(path(&look).unwrap(), Path::new(expected), "{rule}");
    }
    let error = path(&|_| None).unwrap_err();
    assert!(error.to_string().contains("HOME is not set"), "{error}");
}

/// A new config file.
const NEW_FILE: &str = r#"{
  "proxy": {
    "host": "127.0.0.1",
    "port": 3456,
    "apiKey": "%KEY%",
    "requireKey": false,
    "maxConnections": 16384
  },
  "upstream": "https://api.anthropic.com",
  "switchThreshold": 0.9,
  "routing": {
    "mode": "automatic",
    "preferredAccount": null
  },
  "scheduler": {
    "mode": "adaptive-least-loaded",
    "safetyMaxActivePerAccount": 50,
    "safetyMaxGlobalActive": 150,
    "cooldownMs": 30000,
    "maxCooldownMs": 900000,
    "networkCooldownMs": 5000,
    "weeklySoftThreshold": 0.65,
    "weeklyReserveThreshold": 0.85,
    "weeklyCriticalThreshold": 0.95,
    "weeklyExhaustedThreshold": 0.985,
    "weeklyBurnDebtWeight": 0.6,
    "scarcityWeight": 6,
    "spreadShareWeight": 3,
    "recoveryRampWeight": 4,
    "recoveryRampMs": 300000,
    "spreadWindowMs": 900000,
    "sessionAffinity": "auto",
    "sessionIdleMs": 3600000,
    "overage": "last"
  },
  "retry": {
    "maxAttemptsPerRequest": 0,
    "maxRetryBufferBytes": 10485760
  },
  "queue": {
    "enabled": true,
    "maxWaitMs": 86400000,
    "autoMaxWaitMs": null,
    "capacityMaxWaitMs": 900000,
    "weeklyMaxWaitMs": 0,
    "networkMaxWaitMs": 15000,
    "unprovenMaxWaitMs": 60000,
    "countTokensMaxWaitMs": 8000,
    "nonStreamMaxWaitMs": 240000,
    "streamClientToleranceMs": 280000,
    "maxQueuedBodyBytes": 268435456,
    "maxQueuedBytes": 1073741824,
    "maxConcurrentQueued": 256,
    "pollMs": 1000,
    "heartbeatMs": 10000,
    "streamForwardGraceMs": 10000
  },
  "timeouts": {
    "connectMs": 10000,
    "headersMs": 120000,
    "nonStreamHeadersMs": 600000,
    "idleMs": 240000,
    "clientMs": 60000
  },
  "shutdown": {
    "drainTimeoutMs": 600000
  },
  "sync": {
    "accountsIntervalMs": 15000
  },
  "quotaProbeSeconds": 0,
  "accounts": []
}
"#;

#[test]
fn a1_a_new_file_lists_every_default() {
    assert_eq!(new_file("%KEY%".to_owned()).unwrap(), NEW_FILE);
    let config = Config::parse(NEW_FILE, Path::new("new")).unwrap();
    let expected = Config {
        proxy: super::super::Proxy { api_key: Some(Secret::new("%KEY%")), ..Default::default() },
        ..Config::default()
    };
    assert_eq!(config, expected);
    // Keys missing from a new file are those that are absent by default.
    let absent = ["upstreamProxy", "logDir"];
    let listed: Vec<String> =
        parse::document(NEW_FILE, Path::new("new")).unwrap().keys().cloned().collect();
    let asked = [
        "proxy",
        "upstream",
        "switchThreshold",
        "routing",
        "scheduler",
        "retry",
        "queue",
        "timeouts",
        "shutdown",
        "sync",
        "quotaProbeSeconds",
        "accounts",
    ];
    assert_eq!(listed, asked);
    assert!(absent.iter().all(|key| !listed.iter().any(|listed| listed == key)));
}

#[test]
fn a1_a_missing_file_is_created_private_with_a_key_of_its_own() {
    let scratch = Scratch::new();
    let file = scratch.path("deep/er/maxpool.json");
    assert_eq!(load(&file).unwrap_err().io_kind(), Some(io::ErrorKind::NotFound));
    let config = load_or_create(&file).unwrap();
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let key = config.proxy.api_key.clone().unwrap();
    assert!(key.expose().starts_with("mp-") && key.expose().len() == 35);
    assert!(config.notices.is_empty());
    assert_eq!(load_or_create(&file).unwrap(), config, "the second start changes nothing");
    let other = load_or_create(&scratch.path("other.json")).unwrap();
    assert_ne!(other.proxy.api_key, config.proxy.api_key);
}

#[test]
fn a1_an_absent_key_is_generated_once_and_an_empty_one_stays() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{\"mine\": 1}").unwrap();
    let key = load_or_create(&file).unwrap().proxy.api_key;
    assert!(key.is_some());
    assert_eq!(load_or_create(&file).unwrap().proxy.api_key, key);
    fs::write(&file, "{\"proxy\": {\"apiKey\": \"\"}}").unwrap();
    assert_eq!(load_or_create(&file).unwrap().proxy.api_key, None);
}

#[test]
fn a1_a_bad_file_is_an_error_and_stays_as_it_is() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    for (text, line) in [
        (&b"{\n\"proxy\": {\"port\": }}"[..], 2),
        (b"", 1),
        (b"[]", 1),
        (b"{\n\n\"proxy\": {\"host\": \"\xff\"}}", 3),
        (b"{\n\"proxy\": {\n\"port\": 70000}}", 3),
    ] {
        fs::write(&file, text).unwrap();
        let error = load_or_create(&file).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:{line}: ", file.display())), "{error}");
        assert_eq!(fs::read(&file).unwrap(), text);
    }
    fs::write(&file, "{ broken").unwrap();
    assert!(
        update(&file, |document| insert(document, "a", 1)).is_err(),
        "no write over a file that cannot be read"
    );
    assert_eq!(fs::read(&file).unwrap(), b"{ broken");
    let error = load(&scratch.path("")).unwrap_err().to_string();
    assert!(error.ends_with("it is not a file"), "{error}");
}

#[test]
fn a1_a_huge_or_special_file_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.path("big.json");
    fs::File::create(&file).unwrap().set_len(17 * 1024 * 1024).unwrap();
    assert!(load(&file).unwrap_err().to_string().ends_with("it is larger than 16 MiB"));
    let error = load(Path::new("/dev/null")).unwrap_err().to_string();
    assert_eq!(error, "cannot read /dev/null: it is not a file");
}

#[test]
fn a5_a_write_changes_only_what_it_is_about() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    let text = "{\n    \"zeta\": [1, 2.50, 18446744073709551615, -1e-7],\n    \"accounts\": [],\n    \"alpha\": {\"b\": null, \"a\": \"\\u00fc\"}\n}\n";
    fs::write(&file, text).unwrap();
    update(&file, |document| insert(document, "new", true)).unwrap();
    let expected = "{\n    \"zeta\": [1, 2.50, 18446744073709551615, -1e-7],\n    \"accounts\": [],\n    \"alpha\": {\"b\": null, \"a\": \"\\u00fc\"},\n    \"new\": true\n}\n";
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    assert_eq!(mode(&file), 0o600, "also where it was 0644");
    assert_eq!(scratch.names(), ["c.json", "c.json.lock"]);
    fs::write(&file, "{}").unwrap();
    update(&file, |document| insert(document, "a", 1)).unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "{\n  \"a\": 1\n}",
        "no line end where there was none"
    );
}

#[test]
fn a5_a_change_that_changes_nothing_writes_nothing() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{\"a\":1}").unwrap();
    update(&file, |document| insert(document, "a", 1)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"a\":1}");
    let failed: Result<()> = update(&file, |document| {
        document.clear();
        Err(Error::operator("no"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "no");
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"a\":1}");
}

#[test]
fn a5_a_stricter_mode_stays() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{}").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
    update(&file, |document| insert(document, "a", 1)).unwrap();
    assert_eq!(mode(&file), 0o400);
}

#[test]
fn a5_a_symbolic_link_is_followed() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("real")).unwrap();
    let real = scratch.path("real/pool.json");
    fs::write(&real, "{}").unwrap();
    symlink("real/pool.json", scratch.path("two")).unwrap();
    symlink(scratch.path("two"), scratch.path("one")).unwrap();
    let link = scratch.path("one");
    update(&link, |document| insert(document, "a", 1)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&real).unwrap(), "{\n  \"a\": 1\n}");
    assert!(scratch.path("real/pool.json.lock").exists(), "both names share one lock");
    let error = {
        symlink("circle", scratch.path("circle")).unwrap();
        load_or_create(&scratch.path("circle")).unwrap_err().to_string()
    };
    assert!(error.starts_with("cannot read "), "{error}");
}

#[test]
fn a5_a_dangling_link_is_filled() {
    let scratch = Scratch::new();
    symlink("real.json", scratch.path("link")).unwrap();
    load_or_create(&scratch.path("link")).unwrap();
    assert!(fs::symlink_metadata(scratch.path("link")).unwrap().is_symlink());
    assert_eq!(mode(&scratch.path("real.json")), 0o600);
}

#[test]
fn a5_a_failed_write_changes_nothing_and_says_so() {
    let scratch = Scratch::new();
    // A directory in place of the file makes the rename fail, even for root.
    let target = scratch.path("dir.json");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("inside"), "x").unwrap();
    let error = FileLock::take(&target).unwrap().replace("{}").unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}: ", target.display())), "{error}");
    assert_eq!(scratch.names(), ["dir.json", "dir.json.lock"], "no temporary file stays");
    // Nobody can create files in /proc.
    let error = load_or_create(Path::new("/proc/maxpool.json")).unwrap_err().to_string();
    assert!(error.starts_with("cannot create the lock /proc/maxpool.json.lock: "), "{error}");
}

#[test]
fn a5_a_config_that_cannot_be_written_is_still_served() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{\"proxy\": {\"port\": 5}}").unwrap();
    fs::create_dir(scratch.path("c.json.lock")).unwrap();
    let config = load_or_create(&file).unwrap();
    assert_eq!(config.proxy.port, 5);
    assert_eq!(config.notices.len(), 1);
    assert!(
        config.notices[0].starts_with("the config file is used as it is: cannot create the lock "),
        "{:?}",
        config.notices
    );
}

#[test]
fn a5_leftovers_of_a_killed_writer_are_cleared() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{}").unwrap();
    for name in [".c.json.123.0.tmp", ".c.json.bak", ".d.json.1.0.tmp", ".c.json.1.0.tmp.old"] {
        fs::write(scratch.path(name), "secret").unwrap();
    }
    update(&file, |document| insert(document, "a", 1)).unwrap();
    assert_eq!(
        scratch.names(),
        [".c.json.1.0.tmp.old", ".c.json.bak", ".d.json.1.0.tmp", "c.json", "c.json.lock"]
    );
}

#[test]
fn a5_an_edit_by_hand_while_the_lock_is_held_survives() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{\"a\": 1}").unwrap();
    let mut locked = lock(&file).unwrap();
    assert_eq!(locked.document["a"], 1);
    fs::write(&file, "{\"a\": 2, \"proxy\": {\"port\": 7}}").unwrap();
    locked.reread().unwrap();
    assert_eq!(locked.config().unwrap().proxy.port, 7);
    fs::write(&file, "{\"a\": 3}").unwrap();
    locked.commit(|document| insert(document, "b", 1)).unwrap();
    locked.commit(|document| insert(document, "c", 1)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"a\":3,\"b\":1,\"c\":1}");
}

#[test]
fn a5_a_lock_whose_file_was_replaced_meanwhile_is_none() {
    let scratch = Scratch::new();
    let path = scratch.path("maxpool.json");
    fs::write(&path, "{}").unwrap();
    let _faults = Faults::inject(&scratch.path(""), Fault::Replaced);
    // Before it is locked: the new file is locked instead.
    let first = lock(&path).unwrap();
    let second = lock_within(&path, Duration::ZERO);
    assert!(second.unwrap_err().to_string().contains("another process"), "two writers");
    drop(first);
    // While it is locked: whoever locks the new one may be writing.
    let mut held = lock(&path).unwrap();
    fs::remove_file(scratch.path("maxpool.json.lock")).unwrap();
    let refused = held.commit(|document| insert(document, "a", 1)).unwrap_err().to_string();
    assert!(refused.contains("deleted its lock"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
}

#[test]
fn a5_a_lock_on_a_missing_file_makes_no_files() {
    let scratch = Scratch::new();
    assert_eq!(lock(&scratch.path("c.json")).unwrap_err().io_kind(), Some(io::ErrorKind::NotFound));
    assert_eq!(scratch.names(), [""; 0]);
    update_or_create(&scratch.path("c.json"), |document| insert(document, "a", 1)).unwrap();
    assert_eq!(load(&scratch.path("c.json")).unwrap().notices.len(), 1, "the unknown key is there");
}

const STEPS: u64 = 25;
const FILE_VARIABLE: &str = "MAXPOOL_TEST_FILE";

/// Increments `count` `STEPS` times, and reports it.
fn count_up(file: &Path) {
    for _ in 0..STEPS {
        let count = update(file, |document| {
            let count = document["count"].as_u64().unwrap() + 1;
            insert(document, "count", count)?;
            Ok(count)
        });
        println!("counted {}", count.unwrap());
    }
}

/// The other process of the tests below; does nothing when run alone.
#[test]
fn child_that_counts_up() {
    if let Some(file) = std::env::var_os(FILE_VARIABLE) {
        count_up(Path::new(&file));
    }
}

fn child(file: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "config::file::tests::child_that_counts_up", "--nocapture"])
        .env(FILE_VARIABLE, file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a5_threads_and_processes_never_undo_each_others_changes() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{\"count\": 0}").unwrap();
    let children: Vec<Child> = (0..2).map(|_| child(&file)).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| count_up(&file));
        }
    });
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let document = parse::document(&fs::read_to_string(&file).unwrap(), &file).unwrap();
    assert_eq!(document["count"], 4 * STEPS);
    assert_eq!(scratch.names(), ["c.json", "c.json.lock"]);
}

#[test]
fn a5_a_killed_writer_leaves_a_whole_file_and_a_free_lock() {
    let scratch = Scratch::new();
    let file = scratch.path("c.json");
    fs::write(&file, "{\"count\": 0}").unwrap();
    for round in 1..=5 {
        let mut child = child(&file);
        // Killed somewhere in the write after a varying number of finished ones.
        let finished =
            BufReader::new(child.stdout.take().unwrap()).lines().map_while(io::Result::ok);
        let counted: Vec<String> =
            finished.filter(|line| line.contains("counted")).take(round).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let told: u64 = counted.last().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let count = parse::document(&fs::read_to_string(&file).unwrap(), &file).unwrap()["count"]
            .as_u64()
            .unwrap();
        assert!(count >= told, "what was told as written is on disk");
    }
    update(&file, |document| insert(document, "last", true)).unwrap();
    assert_eq!(scratch.names(), ["c.json", "c.json.lock"]);
}
