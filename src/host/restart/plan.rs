//! Which worker serves, which is started and which ends: the decisions of the leader, without its
//! processes.
//!
//! ```text
//! Starting ─prepared─▶ Prepared ─old one yielded─▶ Opening ─serving─▶ Serving ◀──resume──┐
//!    │                    │                           │                  │ yield         │
//!    └───────failed───────┴──────────failed───────────┘                  ▼               │
//!                         │                                          Yielding ─▶ Yielded ┤
//!                         ▼                                                              │ retire
//!                       Doomed                                                           ▼
//!                                                                                     Retired
//! ```
//!
//! At most one worker accepts connections at any moment, and between two of them the kernel queues
//! new ones. This module never does I/O: facts go in with their time, actions come out in the order
//! in which they must be carried out.

use std::collections::VecDeque;
use std::time::Duration;

use super::control::{Order, Report};
use crate::scheduler::time::Mono;

/// A worker's number, counted from the start of the program.
pub(super) type Id = u32;

/// What the leader must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a worker; the text says why the previous one is gone, if it did not hand over.
    Start(Id, String),
    /// Send an order to a worker.
    Tell(Id, Order),
    /// Use this worker's listening socket for later workers.
    Adopt(Id),
    /// Kill a process that is of no use.
    Kill(Id),
    /// Notify the supervisor.
    Notify(News),
    /// End the program.
    Exit(Exit),
}

/// What a supervisor is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Serving, with everything in order.
    Ready,
    /// Serving, while settings or processes change.
    Reloading,
    /// Ending.
    Stopping,
    /// The serving worker has just answered.
    Alive,
}

/// How the program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// All running requests finished.
    Clean,
    /// Some requests were cut off.
    Cut,
    /// No worker can serve, for this reason.
    Failed(String),
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With exit code 0.
    Clean,
    /// Otherwise, such as `exit status: 1`.
    Badly(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Prepared,
    Opening,
    Serving,
    Yielding,
    Yielded,
    Retired,
    Doomed,
}

struct Worker {
    id: Id,
    stage: Stage,
    until: Option<Mono>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Start of the drain.
    Draining(Mono),
    /// Deadline.
    Cutting(Mono),
}

/// The leader's state.
pub(super) struct Plan {
    workers: Vec<Worker>,
    last: Id,
    stop: Stop,
    /// Something was cut off, or a worker failed at the end.
    bad: bool,
    /// A worker has served before.
    served: bool,
    /// A restart was asked for while another one, or the first start, was in progress: the
    /// program's file may have been replaced since.
    again: bool,
    /// A reload was asked for while a new worker was starting, which may have read the file before.
    reload: bool,
    crashes: VecDeque<Mono>,
}

/// Limit for a new worker to become ready, and again to serve; slow machines need seconds.
const START_MAX: Duration = Duration::from_secs(30);
/// Limit for the old worker to let go, which a slow disk may delay.
const YIELD_MAX: Duration = Duration::from_secs(15);
/// Limit after a cut: a running token refresh is waited for, because its token would be lost.
const CUT_MAX: Duration = Duration::from_secs(50);
/// A signal to the process group reaches the leader and its workers; their reports of it arrive
/// within this time.
const GROUP_SIGNAL_MAX: Duration = Duration::from_secs(1);
/// Workers that may finish streams at the same time.
const RETIRED_MAX: usize = 8;
/// A worker that crashes is replaced, but not more often than this …
const CRASHES_MAX: usize = 3;
/// … within this time, so that a supervisor notices a permanent fault.
const CRASH_SPAN: Duration = Duration::from_secs(60);

impl Plan {
    pub(super) fn new() -> Plan {
        Plan {
            workers: Vec::new(),
            last: 0,
            stop: Stop::No,
            bad: false,
            served: false,
            again: false,
            reload: false,
            crashes: VecDeque::new(),
        }
    }

    /// Starts the first worker.
    pub(super) fn begin(&mut self) -> Vec<Action> {
        let mut out = Vec::new();
        // No deadline: the start of the first worker is the start of the program.
        self.start(None, String::new(), &mut out);
        out
    }

    /// When [`Plan::tick`] is due.
    pub(super) fn due(&self) -> Option<Mono> {
        let cutting = match self.stop {
            Stop::Cutting(until) => Some(until),
            Stop::No | Stop::Draining(_) => None,
        };
        let stages = self.workers.iter().filter_map(|worker| worker.until);
        stages.chain(cutting).min()
    }

    /// Starts a new worker to take over, as asked for by a signal, the user or a worker.
    pub(super) fn restart(&mut self, now: Mono) -> Vec<Action> {
        let mut out = Vec::new();
        if self.stop != Stop::No {
            return out;
        }
        if self.newcomer().is_some() {
            self.again = true;
            return out;
        }
        let Some(serving) = self.taking() else {
            return out;
        };
        if self.count(Stage::Retired) >= RETIRED_MAX {
            let why = format!(
                "{RETIRED_MAX} earlier processes are still finishing their requests; wait for one \
                 to end"
            );
            out.push(Action::Tell(serving, Order::Failed(why)));
            return out;
        }
        out.push(Action::Notify(News::Reloading));
        out.push(Action::Tell(serving, Order::Starting));
        self.start(Some(now + START_MAX), String::new(), &mut out);
        out
    }

    /// Has the config read again.
    pub(super) fn reload(&mut self) -> Vec<Action> {
        let mut out = Vec::new();
        self.reload |= self.newcomer().is_some();
        if self.stop == Stop::No
            && let Some(serving) = self.taking()
        {
            out.push(Action::Notify(News::Reloading));
            out.push(Action::Tell(serving, Order::Reload));
        }
        out
    }

    /// Stops: the first call lets running requests finish, the second cuts them off, later ones
    /// change nothing. `by` is what asked for it, for the log.
    pub(super) fn stop(&mut self, now: Mono, by: &str) -> Vec<Action> {
        let mut out = Vec::new();
        match self.stop {
            Stop::No => {
                self.stop = Stop::Draining(now);
                out.push(Action::Notify(News::Stopping));
                for worker in &mut self.workers {
                    worker.until = None;
                    out.push(Action::Tell(worker.id, Order::Drain(by.to_owned())));
                    if worker.stage == Stage::Starting {
                        worker.stage = Stage::Doomed;
                        out.push(Action::Kill(worker.id));
                    }
                }
                self.end_if_empty(&mut out);
            }
            Stop::Draining(_) => {
                self.stop = Stop::Cutting(now + CUT_MAX);
                self.bad = true;
                let cut = |worker: &Worker| Action::Tell(worker.id, Order::Cut);
                out.extend(self.workers.iter().map(cut));
            }
            // Only a refresh can still run, whose token would be lost; it has its own limit.
            Stop::Cutting(_) => {}
        }
        out
    }

    /// Handles a worker's report.
    pub(super) fn report(&mut self, now: Mono, id: Id, report: Report) -> Vec<Action> {
        let mut out = Vec::new();
        let Some(stage) = self.stage(id) else {
            return out;
        };
        if let Stop::Draining(since) = self.stop
            && let Report::Quit(by) = &report
            && now.since(since) >= GROUP_SIGNAL_MAX
        {
            return self.stop(now, by);
        }
        if self.stop != Stop::No {
            // All workers have been told to end.
            return out;
        }
        match (report, stage) {
            (Report::Prepared, Stage::Starting) => match self.taking() {
                Some(old) => {
                    self.set(id, Stage::Prepared, None);
                    self.set(old, Stage::Yielding, Some(now + YIELD_MAX));
                    out.push(Action::Tell(old, Order::Yield(id)));
                }
                None => self.go(now, id, String::new(), &mut out),
            },
            (Report::Yielded(newcomer, state), Stage::Yielding)
                if self.stage(newcomer) == Some(Stage::Prepared) =>
            {
                self.set(id, Stage::Yielded, None);
                self.go(now, newcomer, state, &mut out);
            }
            (Report::Serving(pid), Stage::Opening) => self.serves(now, id, pid, &mut out),
            (Report::Failed(why), Stage::Starting | Stage::Prepared | Stage::Opening) => {
                self.give_up(now, id, why, &mut out);
            }
            (Report::Learned(state), Stage::Retired) => {
                if let Some(serving) = self.taking() {
                    out.push(Action::Tell(serving, Order::Learn(state)));
                }
            }
            (Report::Seen(seen), Stage::Retired) => {
                if let Some(serving) = self.taking() {
                    out.push(Action::Tell(serving, Order::Recall(seen)));
                }
            }
            (Report::Said(text), Stage::Retired) => {
                if let Some(serving) = self.taking() {
                    out.push(Action::Tell(serving, Order::Hear(text)));
                }
            }
            (Report::Reloaded, _) if self.newcomer().is_none() => {
                out.push(Action::Notify(News::Ready));
            }
            (Report::Pong, Stage::Serving | Stage::Yielding | Stage::Yielded) => {
                out.push(Action::Notify(News::Alive));
            }
            // A restart in progress also satisfies this request.
            (Report::Restart, Stage::Serving) if self.newcomer().is_none() => {
                out = self.restart(now)
            }
            (Report::Quit(by), _) => out = self.stop(now, &by),
            // Late or unexpected reports are ignored; the stage decides.
            _ => {}
        }
        out
    }

    fn serves(&mut self, now: Mono, id: Id, pid: u32, out: &mut Vec<Action>) {
        self.set(id, Stage::Serving, None);
        self.served = true;
        out.push(Action::Adopt(id));
        if let Some(old) = self.find(|stage| stage == Stage::Yielded) {
            self.set(old, Stage::Retired, None);
            out.push(Action::Tell(old, Order::Retire(pid)));
        }
        out.push(Action::Notify(News::Ready));
        if std::mem::take(&mut self.reload) {
            out.push(Action::Tell(id, Order::Reload));
        }
        self.repeat(now, out);
    }

    /// Handles a worker that could not be started, or has ended.
    pub(super) fn ended(&mut self, now: Mono, id: Id, how: Ended) -> Vec<Action> {
        let mut out = Vec::new();
        let Some(stage) = self.stage(id) else {
            return out;
        };
        let why = match &how {
            Ended::Clean => "exit status: 0".to_owned(),
            Ended::Badly(why) => why.clone(),
        };
        if self.stop != Stop::No {
            self.bad |= how != Ended::Clean && stage != Stage::Doomed;
            self.remove(id);
            self.end_if_empty(&mut out);
            return out;
        }
        match stage {
            Stage::Starting | Stage::Prepared | Stage::Opening => {
                let why = format!("the new process ended before it served ({why})");
                self.give_up(now, id, why, &mut out);
                self.remove(id);
            }
            Stage::Serving | Stage::Yielding | Stage::Yielded => {
                self.remove(id);
                match self.find(|stage| stage == Stage::Prepared) {
                    Some(newcomer) => self.go(now, newcomer, String::new(), &mut out),
                    None if self.newcomer().is_some() => {}
                    None => {
                        self.replace(now, format!("the serving process ended ({why})"), &mut out)
                    }
                }
            }
            Stage::Retired | Stage::Doomed => self.remove(id),
        }
        out
    }

    /// Handles deadlines.
    pub(super) fn tick(&mut self, now: Mono) -> Vec<Action> {
        let mut out = Vec::new();
        if let Stop::Cutting(until) = self.stop
            && now >= until
        {
            self.end_at_once(&mut out);
            return out;
        }
        let late = |worker: &&Worker| worker.until.is_some_and(|until| now >= until);
        let late: Vec<(Id, Stage)> =
            self.workers.iter().filter(late).map(|worker| (worker.id, worker.stage)).collect();
        for (id, stage) in late {
            self.set(id, stage, None);
            match (stage, self.newcomer()) {
                (Stage::Yielding, Some(newcomer)) => {
                    let why = "this process could not release its socket".to_owned();
                    self.give_up(now, newcomer, why, &mut out);
                }
                (Stage::Starting | Stage::Opening, _) => {
                    let why =
                        format!("the new process did not serve within {} s", START_MAX.as_secs());
                    self.give_up(now, id, why, &mut out);
                }
                _ => {}
            }
        }
        out
    }

    /// The worker that answers whether the server is alive.
    pub(super) fn serving(&self) -> Option<Id> {
        self.taking()
    }

    fn start(&mut self, until: Option<Mono>, note: String, out: &mut Vec<Action>) {
        self.last += 1;
        self.workers.push(Worker { id: self.last, stage: Stage::Starting, until });
        out.push(Action::Start(self.last, note));
    }

    fn go(&mut self, now: Mono, id: Id, state: String, out: &mut Vec<Action>) {
        self.set(id, Stage::Opening, Some(now + START_MAX));
        out.push(Action::Tell(id, Order::Go(state)));
    }

    /// Gives up on the new worker `id`: the old one keeps running.
    fn give_up(&mut self, now: Mono, id: Id, why: String, out: &mut Vec<Action>) {
        self.set(id, Stage::Doomed, None);
        out.push(Action::Kill(id));
        let Some(old) = self.taking() else {
            self.replace(now, why, out);
            return;
        };
        let order = match self.stage(old) {
            Some(Stage::Yielding | Stage::Yielded) => Order::Resume(why),
            _ => Order::Failed(why),
        };
        self.set(old, Stage::Serving, None);
        out.push(Action::Tell(old, order));
        out.push(Action::Notify(News::Ready));
        self.repeat(now, out);
    }

    /// Starts a replacement: no worker serves, and none has handed over.
    fn replace(&mut self, now: Mono, why: String, out: &mut Vec<Action>) {
        self.again = false;
        self.crashes.push_back(now);
        while let Some(first) = self.crashes.front()
            && now.since(*first) > CRASH_SPAN
        {
            self.crashes.pop_front();
        }
        if !self.served || self.crashes.len() > CRASHES_MAX {
            out.push(Action::Exit(Exit::Failed(why)));
            return;
        }
        out.push(Action::Notify(News::Reloading));
        self.start(Some(now + START_MAX), why, out);
    }

    fn repeat(&mut self, now: Mono, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.again) {
            out.extend(self.restart(now));
        }
    }

    fn end_if_empty(&self, out: &mut Vec<Action>) {
        if self.workers.is_empty() {
            let exit = if self.bad { Exit::Cut } else { Exit::Clean };
            out.push(Action::Exit(exit));
        }
    }

    fn end_at_once(&mut self, out: &mut Vec<Action>) {
        out.extend(self.workers.iter().map(|worker| Action::Kill(worker.id)));
        out.push(Action::Exit(Exit::Cut));
    }

    /// The worker that accepts connections, or will again if the new one fails.
    fn taking(&self) -> Option<Id> {
        self.find(|stage| matches!(stage, Stage::Serving | Stage::Yielding | Stage::Yielded))
    }

    fn newcomer(&self) -> Option<Id> {
        self.find(|stage| matches!(stage, Stage::Starting | Stage::Prepared | Stage::Opening))
    }

    fn find(&self, wanted: impl Fn(Stage) -> bool) -> Option<Id> {
        let found = self.workers.iter().find(|worker| wanted(worker.stage));
        found.map(|worker| worker.id)
    }

    fn count(&self, stage: Stage) -> usize {
        let all = self.workers.iter();
        all.filter(|worker| worker.stage == stage).count()
    }

    fn stage(&self, id: Id) -> Option<Stage> {
        let found = self.workers.iter().find(|worker| worker.id == id);
        found.map(|worker| worker.stage)
    }

    fn set(&mut self, id: Id, stage: Stage, until: Option<Mono>) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.id == id) {
            (worker.stage, worker.until) = (stage, until);
        }
    }

    fn remove(&mut self, id: Id) {
        self.workers.retain(|worker| worker.id != id);
    }
}
