//! Recordings in real directories, and disks that fail.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::event::Event;

/// 2026-11-21T22:45:00.123Z.
const AT: Wall = Wall(1_795_301_100_123);
const LONG: Duration = Duration::from_secs(20);

/// A directory that is removed at the end of its test.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let path =
            std::env::temp_dir().join(format!("maxpool-capture-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Temp(path)
    }

    fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.0.join(below)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn headers<'a>(list: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    list.iter().map(|(name, value)| (*name, value.as_bytes()))
}

#[test]
fn a_request_is_one_private_file() {
    let temp = Temp::new("file");
    let (events, heard) = Events::channel();
    let capture = Capture::start(&temp.0.join("a/logs"), AT, &events).unwrap();
    let mut trace = capture.begin(AT);
    trace.request(
        "POST",
        "/v1/messages?beta=true",
        headers(&[
            ("host", "localhost"),
            ("Authorization", "Bearer sk-ant-oat01-SECRET"),
            ("cookie", "a=SECRET"),
        ]),
    );
    trace.body(br#"{"model":"claude-opus-4-5","#);
    trace.body(br#""stream":true}"#);
    trace.attempt(
        "work (oauth)",
        &"https://api.anthropic.com/v1/messages?beta=true",
        headers(&[("x-api-key", "SECRET")]),
    );
    trace.answer(
        "work",
        429,
        Duration::from_millis(312),
        headers(&[("set-cookie", "s=SECRET"), ("request-id", "req_1")]),
    );
    trace.body(br#"{"type":"error"}"#);
    trace.attempt(
        "spare (oauth)",
        &"https://api.anthropic.com/v1/messages?beta=true",
        headers(&[]),
    );
    trace.error("connect: connection refused");
    trace.end(Some(503), Duration::from_millis(900));
    drop(trace);
    capture.finish(LONG);
    let files = temp.files("a/logs");
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].file_name().unwrap(), "20261121_224500.123_00001.log");
    assert_eq!((mode(&files[0]), mode(&temp.0.join("a/logs"))), (0o600, 0o700));
    let text = fs::read_to_string(&files[0]).unwrap();
    assert_eq!(
        text,
        "2026-11-21T22:45:00.123Z request 1\n\
         POST /v1/messages?beta=true\n\
         host: localhost\n\
         Authorization: [masked]\n\
         cookie: [masked]\n\
         \n\
         {\n  \"model\": \"claude-opus-4-5\",\n  \"stream\": true\n}\n\
         \n\
         --- attempt 1: work (oauth), https://api.anthropic.com/v1/messages?beta=true\n\
         x-api-key: [masked]\n\
         \n\
         --- answer of work: 429 after 312 ms\n\
         set-cookie: [masked]\n\
         request-id: req_1\n\
         \n\
         {\n  \"type\": \"error\"\n}\n\
         \n\
         --- attempt 2: spare (oauth), https://api.anthropic.com/v1/messages?beta=true\n\
         \n\
         --- error: connect: connection refused\n\
         --- end: status 503, 900 ms\n"
    );
    let warnings: Vec<Event> = heard.try_iter().map(|stamped| stamped.event).collect();
    assert_eq!(warnings.len(), 1, "a warning at start");
}

#[test]
fn bodies_and_attempts_are_bounded() {
    let temp = Temp::new("bounds");
    let capture = Capture::start(&temp.0, AT, &Events::off()).unwrap();
    let mut trace = capture.begin(AT);
    for _ in 0..10 {
        trace.body(&[b'x'; 100_000]);
    }
    for _ in 0..ATTEMPTS_MAX + 5 {
        trace.attempt("a", &"u", headers(&[]));
    }
    trace.end(None, Duration::ZERO);
    drop(trace);
    capture.finish(LONG);
    let text = fs::read_to_string(&temp.files("")[0]).unwrap();
    assert!(text.contains(&format!("[{} more bytes]", 1_000_000 - BODY_BYTES_MAX)));
    assert!(text.len() < BODY_BYTES_MAX + 10_000);
    assert!(text.contains("--- 5 more attempts were not recorded\n--- end: no status, 0 ms\n"));
}

#[test]
fn a_directory_that_is_not_private_is_tightened_or_told() {
    let temp = Temp::new("modes");
    let loose = |name: &str| {
        let path = temp.0.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let empty = loose("empty");
    Capture::start(&empty, AT, &Events::off()).unwrap();
    assert_eq!(mode(&empty), 0o700);
    let full = loose("full");
    fs::write(full.join("mine"), "x").unwrap();
    let (events, heard) = Events::channel();
    Capture::start(&full, AT, &events).unwrap();
    assert_eq!(mode(&full), 0o755);
    assert_eq!(heard.try_iter().count(), 2);
}

#[test]
fn a_directory_that_cannot_be_is_an_error_that_names_it() {
    let temp = Temp::new("error");
    fs::write(temp.0.join("file"), "x").unwrap();
    let error = Capture::start(&temp.0.join("file/logs"), AT, &Events::off()).err().unwrap();
    assert!(error.to_string().contains("file/logs"), "{error}");
}

#[test]
fn a_failing_disk_is_told_and_disturbs_nobody() {
    let temp = Temp::new("gone");
    let directory = temp.0.join("logs");
    let (events, heard) = Events::channel();
    let capture = Capture::start(&directory, AT, &events).unwrap();
    fs::remove_dir(&directory).unwrap();
    for _ in 0..5 {
        drop(capture.begin(AT));
    }
    capture.finish(LONG);
    let told: Vec<String> =
        heard.try_iter().map(|stamped| format!("{:?}", stamped.event)).collect();
    assert_eq!(told.iter().filter(|text| text.contains("are not recorded")).count(), 1, "{told:?}");
}

#[test]
fn a_stuck_disk_fills_its_bounds_and_no_more() {
    let (sender, _receiver) = bounded(2);
    let capture = Capture { shared: Arc::default(), sender };
    for _ in 0..5 {
        let mut trace = capture.begin(AT);
        trace.body(&[b'x'; 1_000]);
    }
    assert_eq!(capture.shared.dropped.load(Relaxed), 3);
    assert_eq!(capture.shared.waiting_bytes.load(Relaxed), 2_000);
    capture.finish(Duration::from_millis(10));
    let (sender, receiver) = bounded(WAITING_MAX);
    let capture = Capture { shared: Arc::default(), sender };
    for _ in 0..WAITING_BYTES_MAX / BODY_BYTES_MAX + 3 {
        let mut trace = capture.begin(AT);
        trace.body(&vec![b'x'; BODY_BYTES_MAX]);
    }
    assert_eq!(receiver.len(), WAITING_BYTES_MAX / BODY_BYTES_MAX);
}

#[test]
fn names_that_are_taken_are_passed_over() {
    let temp = Temp::new("names");
    fs::write(temp.0.join(file_name(AT, 1)), "other").unwrap();
    let capture = Capture::start(&temp.0, AT, &Events::off()).unwrap();
    drop(capture.begin(AT));
    capture.finish(LONG);
    assert_eq!(temp.files("").len(), 2);
    assert_eq!(fs::read_to_string(temp.0.join(file_name(AT, 1))).unwrap(), "other");
}
