//! The order of the leader's actions, step by step.

use super::control::{Order, Report};
use super::plan::{Action, Ended, Exit, News, Plan};
use crate::scheduler::time::Mono;

fn tell(id: u32, order: Order) -> Action {
    Action::Tell(id, order)
}

fn start(id: u32) -> Action {
    Action::Start(id, String::new())
}

fn failed(why: &str) -> Report {
    Report::Failed(why.into())
}

/// A plan whose first worker serves.
fn serving() -> Plan {
    let mut plan = Plan::new();
    assert_eq!(plan.begin(), [start(1)]);
    assert_eq!(plan.report(Mono(0), 1, Report::Prepared), [tell(1, Order::Go(String::new()))]);
    assert_eq!(
        plan.report(Mono(0), 1, Report::Serving(100)),
        [Action::Adopt(1), Action::Notify(News::Ready)]
    );
    plan
}

/// The same with a second one that is ready, while the first one is told to let go.
fn yielding() -> Plan {
    let mut plan = serving();
    assert_eq!(
        plan.restart(Mono(0)),
        [Action::Notify(News::Reloading), tell(1, Order::Starting), start(2)]
    );
    assert_eq!(plan.report(Mono(0), 2, Report::Prepared), [tell(1, Order::Yield(2))]);
    plan
}

/// The same, and the second one is told to serve.
fn opening() -> Plan {
    let mut plan = yielding();
    assert_eq!(
        plan.report(Mono(0), 1, Report::Yielded(2, "known".into())),
        [tell(2, Order::Go("known".into()))]
    );
    plan
}

/// The second one serves, the first one finishes.
fn handed_over() -> Plan {
    let mut plan = opening();
    assert_eq!(
        plan.report(Mono(0), 2, Report::Serving(200)),
        [Action::Adopt(2), tell(1, Order::Retire(200)), Action::Notify(News::Ready)]
    );
    plan
}

#[test]
fn r2_a_restart_hands_over_and_the_last_words_reach_the_new_worker() {
    let mut plan = handed_over();
    assert_eq!(
        plan.report(Mono(9), 1, Report::Learned("late".into())),
        [tell(2, Order::Learn("late".into()))]
    );
    assert_eq!(plan.ended(Mono(9), 1, Ended::Clean), []);
    assert_eq!(plan.restart(Mono(9)).len(), 3);
}

#[test]
fn r2_whatever_happens_to_the_new_worker_the_old_one_goes_on() {
    let resume = |why: &str| tell(1, Order::Resume(why.into()));
    let ready = Action::Notify(News::Ready);
    let gone = "the new process ended before it served (exit status: 3)";
    let late = "the new process did not serve within 30 s";
    let badly = || Ended::Badly("exit status: 3".into());

    let mut plan = serving();
    plan.restart(Mono(0));
    assert_eq!(
        plan.ended(Mono(1), 2, badly()),
        [Action::Kill(2), tell(1, Order::Failed(gone.into())), ready.clone()]
    );

    let mut plan = serving();
    plan.restart(Mono(0));
    assert_eq!(
        plan.report(Mono(1), 2, failed("no such key")),
        [Action::Kill(2), tell(1, Order::Failed("no such key".into())), ready.clone()]
    );
    assert_eq!(plan.ended(Mono(1), 2, badly()), []);

    let mut plan = serving();
    plan.restart(Mono(0));
    assert_eq!(plan.due(), Some(Mono(30_000)));
    assert_eq!(plan.tick(Mono(29_999)), []);
    assert_eq!(
        plan.tick(Mono(30_000)),
        [Action::Kill(2), tell(1, Order::Failed(late.into())), ready.clone()]
    );

    let mut plan = yielding();
    assert_eq!(plan.ended(Mono(1), 2, badly()), [Action::Kill(2), resume(gone), ready.clone()]);
    // What it had to say comes too late to count, also during the next restart.
    assert_eq!(plan.report(Mono(1), 1, Report::Yielded(2, String::new())), []);
    plan.restart(Mono(2));
    plan.report(Mono(2), 3, Report::Prepared);
    assert_eq!(plan.report(Mono(2), 1, Report::Yielded(2, String::new())), []);

    let mut plan = opening();
    assert_eq!(plan.tick(Mono(30_000)), [Action::Kill(2), resume(late), ready.clone()]);

    let mut plan = opening();
    assert_eq!(
        plan.report(Mono(1), 2, failed("no threads")),
        [Action::Kill(2), resume("no threads"), ready.clone()]
    );

    let mut plan = yielding();
    assert_eq!(
        plan.tick(Mono(15_000)),
        [Action::Kill(2), resume("this process could not release its socket"), ready]
    );
}

#[test]
fn r2_a_restart_that_is_asked_for_during_one_follows_it() {
    let mut plan = opening();
    assert_eq!(plan.restart(Mono(0)), []);
    let then = plan.report(Mono(0), 2, Report::Serving(200));
    assert_eq!(then[3..], [Action::Notify(News::Reloading), tell(2, Order::Starting), start(3)]);
    // The wish of a worker does not: the restart that is in progress serves it.
    assert_eq!(plan.report(Mono(0), 2, Report::Restart), []);
    assert_eq!(plan.report(Mono(0), 1, Report::Restart), []);
    plan.report(Mono(0), 3, Report::Prepared);
    plan.report(Mono(0), 2, Report::Yielded(3, String::new()));
    assert_eq!(plan.report(Mono(0), 3, Report::Serving(300)).len(), 3);
}

#[test]
fn r2_a_restart_that_is_asked_for_before_the_first_worker_serves_follows_its_start() {
    let mut plan = Plan::new();
    plan.begin();
    assert_eq!(plan.restart(Mono(0)), []);
    plan.report(Mono(0), 1, Report::Prepared);
    let served = plan.report(Mono(0), 1, Report::Serving(100));
    assert!(served.contains(&start(2)), "{served:?}");
}

#[test]
fn r2_processes_that_finish_are_bounded() {
    let mut plan = serving();
    for id in 2..=9 {
        assert_eq!(plan.restart(Mono(0)).len(), 3);
        plan.report(Mono(0), id, Report::Prepared);
        plan.report(Mono(0), id - 1, Report::Yielded(id, String::new()));
        plan.report(Mono(0), id, Report::Serving(id));
    }
    let refused = plan.restart(Mono(0));
    assert!(
        matches!(&refused[..], [Action::Tell(9, Order::Failed(why))] if why.contains("8 earlier")),
        "{refused:?}"
    );
    plan.ended(Mono(0), 1, Ended::Clean);
    assert_eq!(plan.restart(Mono(0)).len(), 3);
}

#[test]
fn a_worker_that_breaks_is_replaced_but_not_for_ever() {
    let mut plan = serving();
    let why = "the serving process ended (signal: 9 (SIGKILL))";
    for (id, at) in [(1, 0), (2, 1_000), (3, 2_000), (4, 100_000)] {
        let actions = plan.ended(Mono(at), id, Ended::Badly("signal: 9 (SIGKILL)".into()));
        assert_eq!(actions, [Action::Notify(News::Reloading), Action::Start(id + 1, why.into())]);
        plan.report(Mono(at), id + 1, Report::Prepared);
        plan.report(Mono(at), id + 1, Report::Serving(1));
    }
    let mut plan = serving();
    for id in 1..=3 {
        plan.ended(Mono(0), id, Ended::Clean);
    }
    let actions = plan.ended(Mono(0), 4, Ended::Clean);
    assert!(
        matches!(&actions[..], [Action::Kill(4), Action::Exit(Exit::Failed(_))]),
        "{actions:?}"
    );
}

#[test]
fn a_worker_that_breaks_while_a_new_one_is_ready_is_replaced_by_that_one() {
    let mut plan = yielding();
    assert_eq!(
        plan.ended(Mono(1), 1, Ended::Badly("signal: 6".into())),
        [tell(2, Order::Go(String::new()))]
    );
    assert_eq!(
        plan.report(Mono(1), 2, Report::Serving(200)),
        [Action::Adopt(2), Action::Notify(News::Ready)]
    );
    let mut plan = serving();
    plan.restart(Mono(0));
    assert_eq!(plan.ended(Mono(1), 1, Ended::Badly("signal: 6".into())), []);
    assert_eq!(plan.report(Mono(2), 2, Report::Prepared), [tell(2, Order::Go(String::new()))]);
}

#[test]
fn r4_a_first_start_that_fails_ends_it() {
    let mut plan = Plan::new();
    plan.begin();
    assert_eq!(
        plan.report(Mono(0), 1, failed("the port is in use")),
        [Action::Kill(1), Action::Exit(Exit::Failed("the port is in use".into()))]
    );
}

#[test]
fn r1_the_first_signal_drains_the_second_cuts_and_later_ones_change_nothing() {
    let mut plan = handed_over();
    assert_eq!(
        plan.stop(Mono(0), "SIGTERM"),
        [
            Action::Notify(News::Stopping),
            tell(1, Order::Drain("SIGTERM".into())),
            tell(2, Order::Drain("SIGTERM".into()))
        ]
    );
    // Neither a restart nor a reload nor the worker's own wish counts any more.
    assert_eq!(plan.restart(Mono(0)), []);
    assert_eq!(plan.reload(), []);
    assert_eq!(plan.report(Mono(999), 2, Report::Quit("SIGTERM".into())), []);
    assert_eq!(plan.stop(Mono(1), "SIGTERM"), [tell(1, Order::Cut), tell(2, Order::Cut)]);
    assert_eq!(plan.due(), Some(Mono(50_001)));
    let kill = [Action::Kill(1), Action::Kill(2), Action::Exit(Exit::Cut)];
    assert_eq!(plan.stop(Mono(2), "SIGTERM"), [], "T7 a refresh may be under way");
    assert_eq!(plan.tick(Mono(50_001)), kill);
}

#[test]
fn r1_the_exit_says_whether_anything_was_cut() {
    for (ends, exit) in [
        ([Ended::Clean, Ended::Clean], Exit::Clean),
        ([Ended::Badly("exit status: 1".into()), Ended::Clean], Exit::Cut),
        ([Ended::Clean, Ended::Badly("exit status: 1".into())], Exit::Cut),
    ] {
        let mut plan = handed_over();
        plan.stop(Mono(0), "SIGTERM");
        let [first, second] = ends;
        assert_eq!(plan.ended(Mono(1), 1, first), []);
        assert_eq!(plan.ended(Mono(1), 2, second), [Action::Exit(exit)]);
    }
}

#[test]
fn r1_a_stop_during_a_restart_leaves_nobody_behind() {
    let mut plan = serving();
    plan.restart(Mono(0));
    assert_eq!(
        plan.stop(Mono(0), "SIGTERM"),
        [
            Action::Notify(News::Stopping),
            tell(1, Order::Drain("SIGTERM".into())),
            tell(2, Order::Drain("SIGTERM".into())),
            Action::Kill(2)
        ]
    );
    assert_eq!(plan.ended(Mono(0), 2, Ended::Badly("signal: 9".into())), []);
    assert_eq!(plan.ended(Mono(0), 1, Ended::Clean), [Action::Exit(Exit::Clean)]);
    let mut plan = opening();
    plan.stop(Mono(0), "SIGTERM");
    assert_eq!(plan.due(), None);
    assert_eq!(plan.report(Mono(0), 2, Report::Serving(200)), []);
    assert_eq!(plan.ended(Mono(0), 2, Ended::Clean), []);
    assert_eq!(plan.ended(Mono(0), 1, Ended::Clean), [Action::Exit(Exit::Clean)]);
}

#[test]
fn r3_the_supervisor_hears_of_a_reload_and_of_life() {
    let mut plan = serving();
    assert_eq!(plan.reload(), [Action::Notify(News::Reloading), tell(1, Order::Reload)]);
    assert_eq!(plan.report(Mono(0), 1, Report::Reloaded), [Action::Notify(News::Ready)]);
    assert_eq!(plan.report(Mono(0), 1, Report::Pong), [Action::Notify(News::Alive)]);
    assert_eq!(
        plan.report(Mono(0), 1, Report::Quit("SIGTERM".into()))[0],
        Action::Notify(News::Stopping)
    );
}

#[test]
fn a_reload_that_is_asked_for_before_somebody_serves_follows() {
    let mut plan = Plan::new();
    plan.begin();
    plan.report(Mono(0), 1, Report::Prepared);
    assert_eq!(plan.reload(), []);
    let actions = plan.report(Mono(0), 1, Report::Serving(10));
    assert!(actions.contains(&tell(1, Order::Reload)), "{actions:?}");
    // In a hand-over whoever still serves does it, and the one that takes over, too: it may have
    // read the file before.
    plan.restart(Mono(0));
    plan.report(Mono(0), 2, Report::Prepared);
    assert!(plan.reload().contains(&tell(1, Order::Reload)));
    plan.report(Mono(0), 1, Report::Yielded(2, String::new()));
    let actions = plan.report(Mono(0), 2, Report::Serving(20));
    assert!(actions.contains(&tell(2, Order::Reload)), "{actions:?}");
    assert_eq!(plan.reload(), [Action::Notify(News::Reloading), tell(2, Order::Reload)]);
}

#[test]
fn r2_a_restart_that_is_asked_for_during_the_first_start_follows_it() {
    let mut plan = Plan::new();
    plan.begin();
    assert_eq!(plan.restart(Mono(0)), []);
    plan.report(Mono(0), 1, Report::Prepared);
    let then = plan.report(Mono(0), 1, Report::Serving(100));
    assert_eq!(then.last(), Some(&start(2)));
}

#[test]
fn r1_a_second_wish_from_the_dashboard_cuts_too() {
    let mut plan = serving();
    assert_eq!(plan.report(Mono(0), 1, Report::Quit("SIGTERM".into())).len(), 2);
    assert_eq!(plan.report(Mono(999), 1, Report::Quit("SIGTERM".into())), []);
    assert_eq!(plan.report(Mono(1_000), 1, Report::Quit("SIGTERM".into())), [tell(1, Order::Cut)]);
}

#[test]
fn r2_what_the_old_worker_says_is_seen_on_the_new_ones_screen() {
    let mut plan = handed_over();
    assert_eq!(
        plan.report(Mono(0), 1, Report::Said("2 left".into())),
        [tell(2, Order::Hear("2 left".into()))]
    );
    assert_eq!(plan.report(Mono(0), 2, Report::Said("x".into())), []);
}
