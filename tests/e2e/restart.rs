//! Clients do not notice a restart (SPEC R2).

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Home, json, oauth};
use crate::programs;
use crate::sdk::SDKS;
use crate::stage::{PATIENCE, Stage, limited_for};
use crate::upstream::{Answer, Message, Upstream};

fn two_accounts(home: Home) -> Home {
    home.account(oauth("a")).account(oauth("b"))
}

/// Triggers a restart and waits until the new worker serves.
fn restart(stage: &Stage) {
    let lines = stage.proxy.log().len();
    stage.proxy.signal(Signal::USR2);
    let line =
        stage.proxy.wait_line_after(lines, "the new worker", |line| line.contains("listens on"));
    stage.seen(&line);
}

#[test]
fn clients_do_not_notice_a_restart_in_the_middle_of_their_streams() {
    let message = Message::long(120, 16);
    let text = message.text.clone();
    let answer = Answer::of(message).paced(Duration::from_millis(100));
    let upstream = Upstream::with(move |_| answer.clone());
    let stage = Stage::new("clients_do_not_notice_a_restart", upstream, two_accounts);
    let claude = programs::start(stage.claude(&["-p", "say much"]));
    let calls: Vec<_> = SDKS
        .iter()
        .map(|sdk| (*sdk, sdk.start(&stage, "stream", &json!({"max_retries": 0}))))
        .collect();
    stage.upstream.wait_requests(3);
    restart(&stage);
    let late = stage.run_claude(&["-p", "say much"]);
    assert_eq!((late.code, late.stdout.trim()), (Some(0), text.as_str()), "{late:?}");
    let ran = claude.finish(PATIENCE);
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), text.as_str()), "{ran:?}");
    for (sdk, call) in calls {
        let seen = call.seen(PATIENCE);
        assert_eq!(seen["text"], text, "{sdk:?}");
        stage.seen(&format!("{sdk:?}: {} deltas in {} s", seen["deltas"], seen["took_s"]));
    }
    assert_eq!(stage.upstream.requests().len(), 4, "nobody asked twice");
    stage.seen(&format!(
        "claude in {:.1?}, the one after the restart in {:.1?}",
        ran.took, late.took
    ));
}

#[test]
fn a_held_claude_is_served_after_a_restart() {
    let stage = Stage::new(
        "a_held_claude_is_served_after_a_restart",
        Upstream::with(limited_for(20)),
        two_accounts,
    );
    let claude = programs::start(stage.claude(&["-p", "say hi"]));
    stage.proxy.wait_line("the hold", |line| line.contains("request held"));
    restart(&stage);
    let ran = claude.finish(PATIENCE);
    for line in
        stage.proxy.log().iter().filter(|line| line.contains("POST") || line.contains("held"))
    {
        stage.seen(line);
    }
    stage.seen(&format!("{:?} in {:.1?}", ran.stdout, ran.took));
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Hello from upstream."), "{ran:?}");
}
