//! The process that was started: it keeps its pid, starts the workers that serve, and takes the
//! signals for all of them.
//!
//! The first worker is a thread of this process. A restart starts the program again as a child,
//! which gets the listening socket and what the old worker has learned; the old worker then
//! finishes its requests and ends. In the moment between two workers, when nobody accepts
//! connections, the kernel queues new ones, so that none is refused. [`plan`] decides, [`control`]
//! carries the messages, and this file runs the processes.
//!
//! A worker process whose leader has ended sees the end of its control socket and stops.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};

use self::plan::{Action, Ended, Exit, Id, News, Plan};
use super::notify::{self, Supervisor};
use super::signals::{Signal, Signals};
use super::terminal::Found;
use crate::clock;
use crate::error::{Error, Result};
use crate::platform::poll_for;
use crate::scheduler::time::Mono;

pub(crate) use self::control::{Control, Order, Origin, Received, Report, Seat};

mod control;
mod plan;
#[cfg(test)]
mod plan_tests;

/// Marks a process as a worker whose standard input is its [`Control`].
const WORKER: &str = "MAXPOOL_WORKER";
/// The leader checks its workers at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A worker's exit status is available within this time of its last message.
const REAP_MAX: Duration = Duration::from_secs(2);
/// Interval between two checks for it.
const REAP_LOOK: Duration = Duration::from_millis(5);
/// Workers react to a terminal's signal within this time …
const SUSPEND_OWN: Duration = Duration::from_millis(100);
/// … and to the leader's within this.
const SUSPEND_MAX: Duration = Duration::from_millis(500);
/// Time for the first worker, a thread, to write its last lines.
const FIRST_END_MAX: Duration = Duration::from_secs(5);

/// This process's end of the control socket, if it is a worker.
///
/// # Errors
/// It was started as a worker, but not by a leader.
pub(crate) fn as_worker() -> Result<Option<Control>> {
    if env::var_os(WORKER).is_none() {
        return Ok(None);
    }
    Control::from_stdin().map(Some).map_err(|_| {
        Error::operator(format!("{WORKER} is set, but it is for internal use only; unset it"))
    })
}

/// Leads until everything has ended. `seat` says whether the workers draw on a terminal; `first` is
/// the first worker, which runs on its own thread.
///
/// # Errors
/// The first worker cannot start, or nothing can serve any longer.
pub(crate) fn lead(
    seat: Seat,
    first: impl FnOnce(Control) -> Result<ExitCode> + Send + 'static,
) -> Result<ExitCode> {
    let signals = Signals::take()
        .map_err(|error| Error::ours(format!("cannot install signal handlers: {error}")))?;
    let variable = |name: &str| env::var(name).ok();
    let socket = notify::passed_socket(&variable)?;
    let mut leader = Leader {
        plan: Plan::new(),
        signals,
        supervisor: Supervisor::of_environment(&variable),
        on_terminal: io::stdin().is_terminal(),
        seat,
        found: (seat == Seat::Terminal).then(Found::note).flatten(),
        program: program(env::args_os().next(), env::current_exe().ok()),
        origin: match socket {
            Some(_) => Origin::Supervisor,
            None => Origin::Config,
        },
        socket,
        offered: HashMap::new(),
        bodies: HashMap::new(),
        first: Some(Box::new(first)),
        verdict: None,
        pinged: clock::mono(),
    };
    let actions = leader.plan.begin();
    let exit = match leader.perform(actions) {
        Some(exit) => exit,
        None => leader.run(),
    };
    leader.finish(exit)
}

type First = dyn FnOnce(Control) -> Result<ExitCode> + Send;

struct Leader {
    plan: Plan,
    signals: Signals,
    supervisor: Supervisor,
    on_terminal: bool,
    seat: Seat,
    /// The terminal as it was at the start.
    found: Option<Found>,
    program: PathBuf,
    origin: Origin,
    /// The listening socket for new workers.
    socket: Option<OwnedFd>,
    /// Sockets of workers that do not serve yet.
    offered: HashMap<Id, OwnedFd>,
    bodies: HashMap<Id, Body>,
    first: Option<Box<First>>,
    /// How the worker thread ended.
    verdict: Option<Result<ExitCode>>,
    pinged: Mono,
}

/// A worker, and the connection to it.
struct Body {
    control: Control,
    life: Life,
}

enum Life {
    Thread(JoinHandle<Result<ExitCode>>),
    Process(Child),
}

/// An event for the leader.
enum Heard {
    Signal(Signal),
    From(Id),
}

impl Leader {
    fn run(&mut self) -> Exit {
        loop {
            for heard in self.wait() {
                let actions = match heard {
                    Heard::Signal(signal) => self.obey(signal),
                    Heard::From(id) => self.listen(id),
                };
                if let Some(exit) = self.perform(actions) {
                    return exit;
                }
            }
            let actions = self.plan.tick(clock::mono());
            if let Some(exit) = self.perform(actions) {
                return exit;
            }
            self.ask_whether_alive();
        }
    }

    fn obey(&mut self, signal: Signal) -> Vec<Action> {
        let now = clock::mono();
        match signal {
            Signal::Terminate | Signal::Interrupt => self.plan.stop(now, signal.name()),
            // If the terminal of a dashboard is closed, nobody uses the server any more.
            Signal::HangUp if self.on_terminal => self.plan.stop(now, signal.name()),
            Signal::HangUp => self.plan.reload(),
            Signal::Restart => self.plan.restart(now),
            Signal::Suspend => {
                self.suspend();
                Vec::new()
            }
        }
    }

    fn listen(&mut self, id: Id) -> Vec<Action> {
        let Some(body) = self.bodies.get(&id) else {
            return Vec::new();
        };
        match body.control.next_report() {
            Received::Message(report, socket) => {
                if let Some(socket) = socket {
                    self.offered.insert(id, socket);
                }
                self.plan.report(clock::mono(), id, report)
            }
            Received::Nothing => Vec::new(),
            Received::End => {
                let how = self.reap(id);
                self.plan.ended(clock::mono(), id, how)
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>) -> Option<Exit> {
        let mut waiting = std::collections::VecDeque::from(actions);
        while let Some(action) = waiting.pop_front() {
            match action {
                Action::Start(id, note) => {
                    if let Err(error) = self.start(id, note) {
                        let how = Ended::Badly(error.to_string());
                        waiting.extend(self.plan.ended(clock::mono(), id, how));
                    }
                }
                Action::Tell(id, order) => {
                    if let Some(body) = self.bodies.get(&id) {
                        // If the worker does not read, its deadline finds that out.
                        let _ = body.control.order(&order, None);
                    }
                }
                Action::Adopt(id) => {
                    if let Some(socket) = self.offered.remove(&id) {
                        self.socket = Some(socket);
                    }
                    if matches!(self.bodies.get(&id).map(|body| &body.life), Some(Life::Process(_)))
                    {
                        // Until now the thread with the dashboard stopped this whole process.
                        self.signals.take_suspend();
                    }
                }
                Action::Kill(id) => {
                    self.offered.remove(&id);
                    if let Some(Body { life: Life::Process(child), .. }) = self.bodies.get_mut(&id)
                    {
                        // It may have ended already.
                        let _ = child.kill();
                    }
                }
                Action::Notify(news) => match news {
                    News::Ready => self.supervisor.ready(),
                    News::Reloading => self.supervisor.reloading(),
                    News::Stopping => self.supervisor.stopping(),
                    News::Alive => self.supervisor.alive(),
                },
                Action::Exit(exit) => return Some(exit),
            }
        }
        None
    }

    fn start(&mut self, id: Id, note: String) -> io::Result<()> {
        let (ours, theirs) = Control::pair()?;
        let order = Order::Start { origin: self.origin, seat: self.seat, note };
        ours.order(&order, self.socket.as_ref().map(OwnedFd::as_fd))?;
        let life = match self.first.take() {
            Some(first) => {
                let named = thread::Builder::new().name("serve".into());
                Life::Thread(named.spawn(move || first(theirs))?)
            }
            None => Life::Process(self.spawn(theirs)?),
        };
        let body = Body { control: ours, life };
        self.bodies.insert(id, body);
        Ok(())
    }

    fn spawn(&self, control: Control) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(env::args_os().skip(1)).env(WORKER, "1").stdin(Stdio::from(control.into_fd()));
        for name in notify::VARIABLES {
            command.env_remove(name);
        }
        command.spawn()
    }

    /// Reaps a worker. Its control socket has been closed, so it is ending too.
    fn reap(&mut self, id: Id) -> Ended {
        self.offered.remove(&id);
        match self.bodies.remove(&id).map(|body| body.life) {
            Some(Life::Process(mut child)) => match wait(&mut child, REAP_MAX) {
                Some(status) if status.success() => Ended::Clean,
                Some(status) => {
                    if let Some(found) = &self.found {
                        found.put_back();
                    }
                    Ended::Badly(status.to_string())
                }
                None => {
                    let _ = child.kill();
                    let _ = child.wait();
                    Ended::Badly("it hung".to_owned())
                }
            },
            Some(Life::Thread(thread)) => {
                let verdict =
                    thread.join().unwrap_or_else(|_| Err(Error::ours("the server panicked")));
                let how = match &verdict {
                    Ok(code) if *code == ExitCode::SUCCESS => Ended::Clean,
                    Ok(_) => Ended::Badly("exit status: 1".to_owned()),
                    Err(error) => Ended::Badly(error.to_string()),
                };
                self.verdict = Some(verdict);
                how
            }
            None => Ended::Clean,
        }
    }

    /// Stops this process with all its workers until a shell continues them, because the shell sees
    /// them as one job.
    fn suspend(&self) {
        let children: Vec<Pid> = self
            .bodies
            .values()
            .filter_map(|body| match &body.life {
                Life::Process(child) => Some(Pid::from_child(child)),
                Life::Thread(_) => None,
            })
            .collect();
        let stopped = |pid: &Pid| {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            !matches!(waitid(WaitId::Pid(*pid), options), Ok(None))
        };
        // The workers own the terminal until they have restored it. A signal from the terminal has
        // reached them too; any other has not.
        if !within(SUSPEND_OWN, || children.iter().all(stopped)) {
            for pid in &children {
                let _ = kill_process(*pid, rustix::process::Signal::TSTP);
            }
            within(SUSPEND_MAX, || children.iter().all(stopped));
        }
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP);
        for pid in &children {
            let _ = kill_process(*pid, rustix::process::Signal::CONT);
        }
    }

    /// Waits for signals and messages, at most until the plan is due.
    fn wait(&self) -> Vec<Heard> {
        let now = clock::mono();
        let mut limit = LOOK_EVERY;
        if let Some(due) = self.plan.due() {
            limit = limit.min(due.since(now));
        }
        if let Some(every) = self.ping_every() {
            limit = limit.min((self.pinged + every).since(now));
        }
        let ids: Vec<Id> = self.bodies.keys().copied().collect();
        let mut fds: Vec<PollFd<'_>> = self.signals.watched().collect();
        let signals = fds.len();
        fds.extend(
            ids.iter()
                .map(|id| PollFd::from_borrowed_fd(self.bodies[id].control.as_fd(), PollFlags::IN)),
        );
        poll_for(&mut fds, limit);
        let spoke = fds[signals..].iter().map(|fd| !fd.revents().is_empty());
        let spoke: Vec<bool> = spoke.collect();
        // Signals first, so that a worker that ends because of the same signal is expected.
        let mut heard: Vec<Heard> = Vec::new();
        heard.extend(self.signals.arrived().map(Heard::Signal));
        let from = ids.into_iter().zip(spoke).filter(|(_, spoke)| *spoke);
        heard.extend(from.map(|(id, _)| Heard::From(id)));
        heard
    }

    /// Pings the serving worker for the watchdog; this process itself does too little to prove
    /// anything.
    fn ask_whether_alive(&mut self) {
        let now = clock::mono();
        if let Some(every) = self.ping_every()
            && now.since(self.pinged) >= every
        {
            self.pinged = now;
            if let Some(body) = self.plan.serving().and_then(|id| self.bodies.get(&id)) {
                let _ = body.control.order(&Order::Ping, None);
            }
        }
    }

    /// A third of the supervisor's limit, so that one answer may be late.
    fn ping_every(&self) -> Option<Duration> {
        self.supervisor.watchdog().map(|span| span / 3)
    }

    fn finish(mut self, exit: Exit) -> Result<ExitCode> {
        for (_, Body { control, life }) in std::mem::take(&mut self.bodies) {
            drop(control);
            // Worker processes end by themselves when their leader is gone. The thread gets a
            // moment to write its last lines, but a hanging one is not waited for.
            if let Life::Thread(thread) = life {
                let watch = clock::Stopwatch::start();
                while !thread.is_finished() && watch.left_of(FIRST_END_MAX).is_some() {
                    thread::sleep(REAP_LOOK);
                }
                if thread.is_finished()
                    && let Ok(verdict) = thread.join()
                {
                    self.verdict = Some(verdict);
                }
            }
        }
        match (exit, self.verdict) {
            (Exit::Failed(_), Some(Err(error))) => Err(error),
            (Exit::Failed(why), _) => Err(Error::operator(why)),
            (Exit::Clean, _) => Ok(ExitCode::SUCCESS),
            (Exit::Cut, _) => Ok(ExitCode::FAILURE),
        }
    }
}

/// Polls until `is_so`, at most for `limit`; returns whether it was so in time.
fn within(limit: Duration, is_so: impl Fn() -> bool) -> bool {
    let watch = clock::Stopwatch::start();
    loop {
        if is_so() {
            return true;
        }
        if watch.left_of(limit).is_none() {
            return false;
        }
        thread::sleep(REAP_LOOK);
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = clock::Stopwatch::start();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.left_of(limit).is_some() => thread::sleep(REAP_LOOK),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// The file to start again. It is the name by which this process was called if that is this
/// program, so that a link to a newer version is followed; otherwise the program's path according
/// to the system.
fn program(called: Option<OsString>, running: Option<PathBuf>) -> PathBuf {
    let running = running.unwrap_or_default();
    let Some(called) = called.map(PathBuf::from) else {
        return running;
    };
    let is_us = |path: &Path| match (std::fs::metadata(path), std::fs::metadata(&running)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        // Without /proc there is nothing to compare with.
        (Ok(one), Err(_)) => one.is_file(),
        (Err(_), _) => false,
    };
    let candidates: Vec<PathBuf> = if called.components().count() > 1 {
        env::current_dir().map(|here| here.join(&called)).into_iter().collect()
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|place| place.join(&called)).collect()
    };
    candidates.into_iter().find(|path| is_us(path)).unwrap_or(running)
}
