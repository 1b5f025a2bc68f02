//! Complete screens compared with the texts in `golden/`, one file per state and size;
//! `UPDATE_GOLDEN=1 cargo test` rewrites them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::report::keys::Key;
use crate::report::status::{
    Account, Block, Candidate, Credential, Evidence, Explained, Explanation, FinishedRequest,
    Line as LogLine, Load, LoadSpan, Moment, PassedOver, Quota, Request, Routing, Sessions, Status,
    Throttle, TokenTotals, Unavailable,
};
use crate::report::ui::Seat;
use crate::scheduler::time::Wall;
use line::Inks;

/// 2026-11-21T22:45:00.000Z.
const NOW: Wall = Wall(1_795_301_100_000);
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

const PLAIN: Style = Style { inks: Inks::None, signs: Signs::Unicode };
const SIZES: [Size; 4] = [
    Size { cols: 40, rows: 8 },
    Size { cols: 80, rows: 24 },
    Size { cols: 200, rows: 50 },
    Size { cols: 250, rows: 80 },
];

fn at(after: i64) -> Option<Moment> {
    Some(Moment(Wall(NOW.0 + after)))
}

fn claude(name: &str, kind: &str, five_hour: f64, seven_day: f64) -> Account {
    let span = |requests, failed, avg_ms| LoadSpan { requests, failed, weight: requests, avg_ms };
    Account {
        name: name.into(),
        kind: kind.into(),
        provider: "anthropic".into(),
        enabled: true,
        upstream: "https://api.anthropic.com".into(),
        profiles: vec!["claude".into(), "all".into()],
        status: "active".into(),
        load: Load {
            last15m: span(4, 0, Some(712)),
            last1h: span(40, 0, Some(12_900)),
            ..Load::default()
        },
        quota: Quota {
            unified5h: Some(five_hour),
            unified7d: Some(seven_day),
            unified5h_reset: Some(NOW.0 + 2 * HOUR + 13 * MINUTE + 1),
            unified7d_reset: Some(NOW.0 + 76 * HOUR),
            ..Quota::default()
        },
        ..Account::default()
    }
}

fn out(
    mut account: Account,
    short: &str,
    reason: &str,
    until: Option<Moment>,
    status: &str,
) -> Account {
    account.status = status.into();
    account.unavailable = Some(Unavailable { reason: reason.into(), short: short.into(), until });
    account.blocks = vec![Block {
        reason: "quota".into(),
        text: reason.into(),
        until,
        evidence: Some(evidence()),
        ..Block::default()
    }];
    account
}

fn evidence() -> Evidence {
    Evidence {
        status: Some(429),
        request_id: Some("req_011CVBusy".into()),
        source: Some("anthropic-ratelimit-unified-5h-status: rejected".into()),
        at: at(-MINUTE),
        message: Some("This request would exceed your account's rate limit.".into()),
    }
}

/// Six accounts, each in a different state.
fn six() -> Vec<Account> {
    let mut work = claude("work", "oauth", 0.62, 0.31);
    work.in_flight = 2;
    let mut limited = claude("me@example.com", "oauth", 1.0, 0.88);
    limited.weekly.state = "reserve".into();
    limited.load.last1h.failed = 3;
    let limited =
        out(limited, "limited", "five-hour limit reached", at(2 * HOUR + 13 * MINUTE), "throttled");
    let dead =
        out(claude("工作帐号", "oauth", 0.05, 0.993), "needs login", "needs login", None, "error");
    let mut off = claude("spare", "oauth", 0.0, 0.75);
    off.enabled = false;
    let mut key = claude("api", "apikey", 0.0, 0.0);
    key.priority = 5;
    key.quota = Quota {
        tokens_limit: Some(400_000),
        tokens_remaining: Some(100_000),
        requests_limit: Some(50),
        requests_remaining: Some(49),
        resets_at: at(50_000),
        ..Quota::default()
    };
    let glm = Account {
        name: "glm".into(),
        kind: "provider".into(),
        provider: "zai".into(),
        enabled: true,
        status: "active".into(),
        in_flight: 1,
        completed_requests: 41,
        failed_requests: 2,
        last_status: Some(200),
        last_response_ms: Some(834),
        ..Account::default()
    };
    vec![glm, work, limited, dead, off, key]
}

fn request(id: u64, age_ms: u64, stage: &str, account: Option<&str>) -> Request {
    Request {
        id,
        age_ms,
        method: "POST".into(),
        path: "/v1/messages".into(),
        stage: stage.into(),
        account: account.map(Into::into),
        model: Some("claude-opus-4-8".into()),
        session: Some("ab12cd".into()),
        ..Request::default()
    }
}

fn busy() -> View {
    let log = |ago: i64, warning, text: &str| LogLine {
        at: Moment(Wall(NOW.0 - ago)),
        warning,
        text: text.into(),
        ..LogLine::default()
    };
    let mut served = log(
        1_000,
        false,
        "POST /v1/messages work 200 queue=0ms first=812ms total=5321ms in=1200 out=340",
    );
    served.request = Some(FinishedRequest {
        method: "POST".into(),
        path: "/v1/messages".into(),
        account: Some("work".into()),
        model: Some("claude-opus-4-8".into()),
        status: Some(200),
        total_ms: 5_321,
        input_tokens: Some(1_200),
        output_tokens: Some(340),
        cause: None,
    });
    let status = Status {
        routing: Routing { mode: "automatic".into(), preferred_account: None },
        accounts: six(),
        sessions: Sessions { sticky_bindings: 7, ..Sessions::default() },
        version: "2.0.0".into(),
        now: Moment(NOW),
        uptime_ms: 11_520_000,
        address: "http://127.0.0.1:3456".into(),
        requests: vec![
            request(1, 754_000, "streaming", Some("work")),
            request(2, 42_000, "streaming", Some("glm")),
            request(3, 900, "waiting", Some("work")),
        ],
        requests_in_flight: 3,
        today: Some(TokenTotals { input: 1_250_000, output: 340_000, ..TokenTotals::default() }),
        activity: vec![
            log(
                80_000,
                false,
                "maxpool 2.0.0 listens on http://127.0.0.1:3456, config /home/u/.config/maxpool.json, 6 accounts",
            ),
            log(
                60_000,
                true,
                "account me@example.com is out, five-hour limit reached, until 2026-11-22T00:58:00.000Z, in 2h 13m [status 429; request-id req_011CVBusy]",
            ),
            log(
                60_000,
                true,
                "failover me@example.com -> work: rate_limit_error [status 429; request-id req_011CVBusy]",
            ),
            served,
        ],
        ..Status::default()
    };
    View { status, ..View::default() }
}

fn queued() -> View {
    let mut view = busy();
    let status = &mut view.status;
    status.queue.waiting = 2;
    status.queue.oldest_ms = Some(65_000);
    status.queue.next_free_at = at(2 * HOUR + 13 * MINUTE);
    status.requests.push(request(4, 65_000, "queued", None));
    status.requests_in_flight = 4;
    view
}

fn breaker() -> View {
    let mut view = queued();
    view.status.upstream_throttle = Throttle {
        active: true,
        until: at(20_000),
        reason: Some("overloaded_error: Overloaded".into()),
        count: 1,
        ..Throttle::default()
    };
    view
}

fn empty() -> View {
    let mut view = busy();
    view.status.accounts.clear();
    view.status.requests.clear();
    view.status.requests_in_flight = 0;
    view.status.activity.clear();
    view
}

fn explained() -> View {
    let mut view = busy();
    let candidate = |account: &str, rank, score, scarcity| Candidate {
        account: account.into(),
        rank,
        tier: "normal".into(),
        priority: 0,
        score: Some(score),
        terms: [("load", 1.0), ("fiveHour", scarcity), ("failures", 0.0), ("week", -0.5)]
            .into_iter()
            .map(|(term, value)| (term.to_owned(), value.into()))
            .collect(),
        notes: vec![],
    };
    let passed = |account: &str, reason: &str, until, evidence| PassedOver {
        account: account.into(),
        reason: reason.into(),
        until,
        lifted_by: None,
        evidence,
    };
    view.status.decisions = vec![Explanation {
        request: Explained { id: Some(17), at: at(-1_000), ..Explained::default() },
        chosen: Some("work".into()),
        why: "score".into(),
        until: None,
        candidates: vec![candidate("work", 1, 0.8, 0.3), candidate("api", 2, 2.75, 2.25)],
        passed_over: vec![
            passed(
                "me@example.com",
                "five-hour limit reached",
                at(2 * HOUR + 13 * MINUTE),
                Some(evidence()),
            ),
            passed("工作帐号", "needs login", None, None),
            passed("spare", "disabled", None, None),
            passed("glm", "not in this profile", None, None),
        ],
    }];
    view
}

/// The menus after these keys.
fn after(view: &View, keys: &str) -> Ui {
    let mut ui = Ui::new(Seat::Server);
    for key in keys.chars() {
        let key = match key {
            '\n' => Key::Enter,
            '<' => Key::PageUp,
            '>' => Key::PageDown,
            key => Key::Char(key),
        };
        ui.set_log_page(log_page(view, &ui, SIZES[1]));
        let _ = ui.press(key, &view.status);
    }
    ui
}

fn golden(name: &str, view: &View, keys: &str, sizes: &[Size]) {
    for size in sizes {
        let lines = render(view, &after(view, keys), *size, PLAIN);
        assert!(lines.len() <= size.rows, "{name}");
        for line in &lines {
            assert!(width::of(line) <= size.cols, "{name} {size:?}: {line}");
        }
        let shown = lines.join("\n") + "\n";
        let file = format!("src/report/screen/golden/{name}_{}x{}.txt", size.cols, size.rows);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &shown).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shown == wanted, "{name} {size:?} is now\n{shown}\nand should be\n{wanted}");
    }
}

#[test]
fn the_main_page_in_its_states_and_sizes() {
    golden("busy", &busy(), "", &SIZES);
    golden("queued", &queued(), "", &SIZES[..3]);
    golden("breaker", &breaker(), "", &SIZES[..3]);
    golden("empty", &empty(), "", &SIZES[..2]);
}

/// The picture in README.
#[test]
fn readme_shows_what_is_drawn() {
    let mut view = queued();
    view.status.accounts[3].name = "studio".into();
    view.status.queue.waiting = 1;
    let size = Size { cols: 96, rows: 25 };
    golden("readme", &view, "", &[size]);
    let picture = render(&view, &after(&view, ""), size, PLAIN);
    let picture: Vec<&str> = picture.iter().map(|line| line.trim_end()).collect();
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&picture.join("\n")), "{}", picture.join("\n"));
}

#[test]
fn every_page_behind_a_key() {
    let sizes = &SIZES[..2];
    let view = explained();
    golden("help", &view, "?", sizes);
    golden("help_below", &view, "?jjjjjjjjjjjjjjjj", &SIZES[..1]);
    golden("accounts", &view, "ajj", sizes);
    golden("account", &view, "ajj\n", sizes);
    golden("disable", &view, "aj\n\n", sizes);
    golden("key", &view, "ajjjjjjj\nsk-ant", sizes);
    golden("routing", &view, "mjj", sizes);
    golden("prefer", &view, "mj\n", sizes);
    golden("explain", &view, "e", &SIZES[..3]);
    golden("restart", &queued(), "r", sizes);
    golden("quit", &busy(), "q", sizes);
}

#[test]
fn what_a_token_that_is_refused_would_have_lasted_is_not_said() {
    let mut view = busy();
    for (state, shown) in [("valid", true), ("needs login", false)] {
        view.status.accounts[1].credential =
            Some(Credential { state: state.into(), expires_at: at(HOUR), ..Credential::default() });
        let text = render(&view, &after(&view, "a\n"), SIZES[1], PLAIN).join("\n");
        assert!(text.contains(state), "{text}");
        assert_eq!(text.contains("expires in 1h"), shown, "{text}");
    }
}

#[test]
fn the_page_of_an_account_says_why_it_is_out_without_a_block() {
    let mut view = busy();
    view.status.accounts[1].unavailable = Some(Unavailable {
        reason: "five-hour window at the switch threshold, 96% used".into(),
        short: "5h full".into(),
        until: at(HOUR),
    });
    let text = render(&view, &after(&view, "a\n"), SIZES[1], PLAIN).join("\n");
    let line = "out        five-hour window at the switch threshold, 96% used, for 1h";
    assert!(text.contains(line), "{text}");
}

#[test]
fn an_explanation_is_wrapped_and_not_cut() {
    let mut view = explained();
    let decision = &mut view.status.decisions[0];
    decision.candidates[1].tier = "critical".into();
    decision.candidates[1].priority = 10;
    decision.passed_over[1].reason =
        "five-hour window at the switch threshold, 96% used by all".into();
    decision.passed_over[1].until = at(HOUR);
    let text = render(&view, &after(&view, "e"), SIZES[1], PLAIN).join("\n");
    assert!(!text.contains('…'), "{text}");
    for words in
        ["week critical  priority 10\n", "used by\n                           all, for 1h\n"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn one_line_of_room_shows_a_request_and_not_how_many_there_are() {
    let size = Size { cols: 60, rows: 14 };
    let text = render(&queued(), &after(&queued(), ""), size, PLAIN).join("\n");
    assert!(text.contains("     1m queued       opus-4-8   ab12cd\n"), "{text}");
    assert!(!text.contains("more"), "{text}");
}

#[test]
fn d1_the_log_is_scrolled_by_pages_and_stays_where_it_is() {
    let mut view = empty();
    let line = |number| LogLine { number, text: format!("line {number}."), ..LogLine::default() };
    view.status.activity = (0..50).map(line).collect();
    let page = log_page(&view, &Ui::default(), SIZES[1]);
    assert!(page > 5, "{page}");
    let shown = |view: &View, ui: &Ui| {
        let lines = render(view, ui, SIZES[1], PLAIN);
        let first = lines.iter().position(|line| line.starts_with("ACTIVITY")).unwrap();
        (lines[first].clone(), lines[first + 1].trim().to_owned())
    };
    let mut ui = after(&view, "<");
    let first = format!("1970-01-01 00:00 line {}.", 49 - page);
    let heading = |newer: usize| format!("ACTIVITY {newer} newer, PageDown shows them");
    assert_eq!(shown(&view, &ui), (heading(page), first.clone()));
    view.status.activity.push(line(50));
    assert_eq!(shown(&view, &ui), (heading(page + 1), first), "a new line moves nothing");
    for _ in 0..20 {
        let _ = ui.press(Key::PageUp, &view.status);
    }
    assert_eq!(shown(&view, &ui).0, heading(51 - page), "the oldest line is the last on the page");
    for key in [Key::PageDown, Key::Esc] {
        let _ = ui.press(key, &view.status);
    }
    assert_eq!(shown(&view, &ui), ("ACTIVITY".into(), "1970-01-01 00:00 line 50.".into()));
    let small = after(&view, "<");
    let lines = render(&view, &small, SIZES[0], PLAIN);
    assert!(lines[1].starts_with("no account") && lines[2].starts_with("ACTIVITY"), "{lines:?}");
}

#[test]
fn d1_a_question_and_a_note_move_nothing() {
    for size in SIZES {
        let view = queued();
        let before = render(&view, &after(&view, ""), size, PLAIN);
        let asked = render(&view, &after(&view, "q"), size, PLAIN);
        let same = before.iter().zip(&asked).take_while(|(one, other)| one == other).count();
        assert_eq!(before.len(), asked.len());
        assert!(same >= size.rows - 4, "{size:?}: {asked:?}");
        assert!(asked.last().unwrap().ends_with("y/n"), "{asked:?}");
    }
}

#[test]
fn no_size_breaks_a_frame() {
    let views = [busy(), breaker(), empty(), explained()];
    let styles = [PLAIN, Style { inks: Inks::Colour, signs: Signs::Ascii }];
    for cols in (0..=130).step_by(7).chain([1, 2, 40, 80, 124, 200, 250]) {
        for rows in (0..=14).chain([24, 50, 80]) {
            let size = Size { cols, rows };
            for (view, keys) in views.iter().zip(["", "q", "a", "e"]) {
                for style in styles {
                    let lines = render(view, &after(view, keys), size, style);
                    assert!(lines.len() <= rows);
                    assert!(
                        lines.iter().all(|line| width::of(&without_inks(line)) <= cols),
                        "{size:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn inks_change_nothing_but_the_ink() {
    let size = Size { cols: 100, rows: 30 };
    for signs in [Signs::Unicode, Signs::Ascii] {
        let colour = Style { inks: Inks::Colour, signs };
        let plain = Style { inks: Inks::None, signs };
        let view = breaker();
        let coloured = render(&view, &after(&view, ""), size, colour);
        let stripped: Vec<String> = coloured.iter().map(|line| without_inks(line)).collect();
        assert_eq!(stripped, render(&view, &after(&view, ""), size, plain));
        assert!(coloured.iter().any(|line| line.contains("\x1b[31m")));
    }
}

#[test]
fn bars_change_their_ink_at_70_and_90_percent() {
    let ink = |used| {
        let mut view = busy();
        view.status.accounts = vec![claude("a", "oauth", used, 0.1)];
        let style = Style { inks: Inks::Colour, signs: Signs::Ascii };
        let lines = render(&view, &after(&view, ""), Size { cols: 80, rows: 24 }, style);
        let row = lines.iter().find(|line| line.contains("#")).unwrap().clone();
        row[..row.find('#').unwrap()].rsplit('\x1b').next().unwrap().to_owned()
    };
    for (used, code) in [
        (0.01, "[32m"),
        (0.699, "[32m"),
        (0.70, "[33m"),
        (0.899, "[33m"),
        (0.90, "[31m"),
        (1.0, "[31m"),
    ] {
        assert_eq!(ink(used), code, "{used}");
    }
}

#[test]
fn seconds_change_nothing() {
    let size = Size { cols: 120, rows: 40 };
    let mut view = breaker();
    let before = render(&view, &after(&view, ""), size, PLAIN);
    for ago in [1_000, 3_000, 7_000] {
        view.status.now = Moment(Wall(NOW.0 + ago));
        view.status.uptime_ms = 11_520_000 + 7_000 - 10_000;
        assert_eq!(render(&view, &after(&view, ""), size, PLAIN), before);
    }
    view.status.now = Moment(Wall(NOW.0 + 20 * MINUTE));
    assert_ne!(render(&view, &after(&view, ""), size, PLAIN), before);
}

#[test]
fn the_next_look_is_at_the_next_end_and_never_a_busy_loop() {
    let look = |view: &View| next_look(&view.status);
    assert_eq!(look(&empty()), Duration::from_secs(60));
    assert_eq!(look(&busy()), Duration::from_secs(10), "requests in flight have an age");
    let mut view = empty();
    view.status.upstream_throttle.until = at(20_000);
    assert_eq!(look(&view), Duration::from_millis(20_050));
    view.status.upstream_throttle.until = at(1);
    assert_eq!(look(&view), Duration::from_secs(1));
    view.status.upstream_throttle.until = at(-5);
    assert_eq!(look(&view), Duration::from_secs(60));
}

fn without_inks(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('\x1b') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        rest = &rest[rest.find('m').unwrap() + 1..];
    }
    out + rest
}
