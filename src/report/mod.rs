//! What people and scripts see: the plain log, the dashboard, the status and the metrics.
//!
//! One thread consumes the [`Events`] channel and is the only writer of the log. It turns each
//! event into one line, keeps the last [`ACTIVITY_MAX`] of them for the dashboard and the status,
//! and, with [`Mode::Plain`], writes them to stderr, whole lines in one write. A log that cannot be
//! written (closed, full) is not an error: the server continues to serve.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

pub(crate) use activity::{ACTIVITY_MAX, Activity, Brief, Entry, Level};
use changes::Changes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use log_file::LogFile;

use crate::error::Result;
use crate::event::{Event, Events, Outcome, Stamped};
use crate::scheduler::Snapshot;
use crate::scheduler::time::Wall;

mod activity;
pub(crate) mod capture;
mod changes;
pub(crate) mod keys;
mod log;
mod log_file;
pub(crate) mod mask;
pub(crate) mod metrics;
pub(crate) mod reasons;
pub(crate) mod screen;
pub(crate) mod status;
pub(crate) mod text;
pub(crate) mod ui;

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One line per request and event on stderr (D2).
    Plain,
    /// Only the dashboard's activity log (D1), until [`Reporter::write_plainly`].
    Screen,
    /// Nowhere, for commands that report through their own output.
    Off,
}

/// The thread behind [`Events`].
pub(crate) struct Reporter {
    quit: Option<Sender<()>>,
    done: Receiver<()>,
    activity: Arc<Activity>,
    plain: Arc<AtomicBool>,
    rotated: Arc<AtomicBool>,
    look: Arc<OnceLock<Look>>,
}

/// Reads the scheduler's state.
type Look = Box<dyn Fn() -> Snapshot + Send + Sync>;

/// Most bytes per write: PIPE_BUF, so that two processes on one pipe (R2) never interleave within a
/// line.
const WRITE_BYTES_MAX: usize = 4_096;
/// A line's bytes apart from its text: the time (even in the year 292278994), a space and the line
/// end.
const STAMP_BYTES_MAX: usize = 32;
/// A pause after each batch, so that a busy server wakes this thread fifty times a second instead
/// of for every request.
const BATCH_PAUSE: Duration = Duration::from_millis(20);

/// Shortest and longest interval between two looks at the scheduler that only time requires.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(250);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(3_600);

impl Reporter {
    /// Starts the thread. Without a thread the program continues without a log. If there is a
    /// `file`, the plain log is also written to it, whatever the mode.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn start(mode: Mode, file: Option<&Path>) -> Result<(Events, Reporter)> {
        let rotated = Arc::default();
        let file = file.map(|path| LogFile::open(path, Arc::clone(&rotated))).transpose()?;
        Ok(Reporter::start_on(mode, Box::new(std::io::stderr()), file, rotated))
    }

    fn start_on(
        mode: Mode,
        out: Box<dyn Write + Send>,
        file: Option<LogFile>,
        rotated: Arc<AtomicBool>,
    ) -> (Events, Reporter) {
        let (events, receiver) = if mode == Mode::Off {
            (Events::off(), crossbeam_channel::never())
        } else {
            Events::channel()
        };
        let (quit, quitting) = bounded(0);
        let (finished, done) = bounded(1);
        let activity = Arc::new(Activity::default());
        let plain = Arc::new(AtomicBool::new(mode == Mode::Plain));
        let look = Arc::new(OnceLock::new());
        let mut consumer = Consumer {
            events: events.clone(),
            receiver,
            look: Arc::clone(&look),
            changes: Changes::default(),
            out,
            file,
            plain: Arc::clone(&plain),
            caught_up: mode == Mode::Plain,
            activity: Arc::clone(&activity),
            told_dropped: 0,
        };
        if mode != Mode::Off {
            // Without a thread the channel fills up and counts what it drops; `status` shows that.
            let _ = thread::Builder::new().name("report".into()).stack_size(256 * 1024).spawn(
                move || {
                    consumer.run(&quitting);
                    drop(finished);
                },
            );
        }
        let reporter = Reporter { quit: Some(quit), done, activity, plain, rotated, look };
        (events, reporter)
    }

    /// The last lines, for the dashboard and the status.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// From now on also reports accounts that go out or come back, and the shared breaker. `look`
    /// returns the scheduler's current state; it is called when a request did not end well and when
    /// a block should have ended.
    pub(crate) fn watch(&self, look: impl Fn() -> Snapshot + Send + Sync + 'static) {
        // A second scheduler in one process would be a bug; the first one stays.
        let _ = self.look.set(Box::new(look));
    }

    /// There is no dashboard after all: writes the log from now on, starting with the lines kept
    /// for the dashboard.
    pub(crate) fn write_plainly(&self) {
        self.plain.store(true, Ordering::Release);
    }

    /// The log file has been moved away: opens a new one.
    pub(crate) fn reopen_file(&self) {
        self.rotated.store(true, Ordering::Release);
    }

    /// Writes everything emitted so far and ends the thread; gives up after `limit` if nobody reads
    /// the log.
    pub(crate) fn finish(mut self, limit: Duration) {
        self.quit = None;
        // It is done now, or the limit has passed.
        let _ = self.done.recv_timeout(limit);
    }
}

/// What a batch of events implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing has changed about accounts.
    Routine,
    /// An account or the breaker may have changed.
    Trouble,
}

fn is_trouble(event: &Event) -> bool {
    match event {
        Event::Finished(finished) => match finished.outcome {
            Outcome::Ok | Outcome::Local | Outcome::ClientGone { .. } => false,
            Outcome::PassedOn | Outcome::Refused | Outcome::Broken => true,
        },
        Event::Failover(_)
        | Event::Held(_)
        | Event::Released { .. }
        | Event::Refresh(_)
        | Event::Reloaded { .. } => true,
        Event::Started(_)
        | Event::AccountBlocked(_)
        | Event::AccountBack { .. }
        | Event::BreakerOpen { .. }
        | Event::BreakerProbe
        | Event::BreakerClosed { .. }
        | Event::ReloadFailed { .. }
        | Event::Stopping { .. }
        | Event::Draining { .. }
        | Event::Stopped
        | Event::Restart(_)
        | Event::Notice { .. }
        | Event::Warning { .. } => false,
    }
}

struct Consumer {
    /// Keeps the channel open, so that `receiver` never reports a disconnect before `quit` does.
    events: Events,
    receiver: Receiver<Box<Stamped>>,
    look: Arc<OnceLock<Look>>,
    changes: Changes,
    out: Box<dyn Write + Send>,
    file: Option<LogFile>,
    /// Lines are written, not only kept.
    plain: Arc<AtomicBool>,
    /// The lines kept earlier have been written.
    caught_up: bool,
    activity: Arc<Activity>,
    told_dropped: u64,
}

impl Consumer {
    fn run(&mut self, quit: &Receiver<()>) {
        let mut next_look = LOOK_EVERY_MAX;
        loop {
            let told = select! {
                recv(self.receiver) -> event => self.batch(event.ok()),
                // Nothing is ever sent here: dropping the sender is the signal.
                recv(quit) -> _ => {
                    self.batch(None);
                    return;
                }
                default(next_look) => Told::Trouble,
            };
            if told == Told::Trouble {
                next_look = self.look_around();
            }
            let pause = quit.recv_timeout(BATCH_PAUSE);
            if matches!(pause, Err(RecvTimeoutError::Disconnected)) {
                self.batch(None);
                return;
            }
        }
    }

    /// Takes all events that have arrived, and writes their lines.
    fn batch(&mut self, first: Option<Box<Stamped>>) -> Told {
        let mut text = String::with_capacity(WRITE_BYTES_MAX);
        let mut last = Wall::default();
        let mut told = Told::Routine;
        let receiver = self.receiver.clone();
        let arrived = first.into_iter().chain(receiver.try_iter());
        for stamped in arrived {
            last = stamped.at;
            if is_trouble(&stamped.event) {
                told = Told::Trouble;
            }
            log::entries(&stamped, &mut |entry| self.take(entry, &mut text));
        }
        let dropped = self.events.counters().dropped();
        if dropped > self.told_dropped {
            let lost = dropped - self.told_dropped;
            self.told_dropped = dropped;
            self.take(log::dropped(last, lost), &mut text);
        }
        self.write(&mut text);
        self.events.in_flight().pulse().beat();
        told
    }

    /// Reports changes in the scheduler; returns the time until the next look.
    fn look_around(&mut self) -> Duration {
        let Some(look) = self.look.get() else {
            return LOOK_EVERY_MAX;
        };
        let snapshot = look();
        let events = self.changes.note(&snapshot);
        let mut text = String::new();
        for event in events {
            self.events.count(&event);
            let stamped = Stamped { at: snapshot.at.wall, event };
            log::entries(&stamped, &mut |entry| self.take(entry, &mut text));
        }
        self.write(&mut text);
        self.events.in_flight().pulse().beat();
        // Slightly after the block's end, so that it is over by then.
        let next = Changes::next_look(&snapshot).unwrap_or(LOOK_EVERY_MAX) + BATCH_PAUSE;
        next.clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    }

    fn take(&mut self, entry: Entry, text: &mut String) {
        if self.plain.load(Ordering::Acquire) {
            if !self.caught_up {
                self.caught_up = true;
                for (_, kept) in self.activity.last(ACTIVITY_MAX) {
                    self.put(&kept, text);
                }
            }
            self.put(&entry, text);
        }
        if let Some(file) = &mut self.file {
            let mut line = String::new();
            log::push_line(&mut line, &entry);
            file.write(&line);
        }
        self.activity.push(entry);
    }

    fn put(&mut self, entry: &Entry, text: &mut String) {
        if text.len() + entry.text.len() + STAMP_BYTES_MAX > WRITE_BYTES_MAX {
            self.write(text);
        }
        log::push_line(text, entry);
    }

    fn write(&mut self, text: &mut String) {
        if !text.is_empty() {
            // EPIPE, ENOSPC and the like: nobody is left to report to, and requests matter more
            // (R3).
            let _ = self.out.write_all(text.as_bytes());
        }
        text.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;
    use std::sync::mpsc;

    use super::*;

    /// Passes every write to the test; `None` fails like a closed pipe.
    struct Sink(Option<mpsc::Sender<String>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match &self.0 {
                Some(sender) => {
                    sender.send(String::from_utf8(bytes.to_vec()).unwrap()).unwrap();
                    Ok(bytes.len())
                }
                None => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks for ever, like a supervisor that has stopped reading.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_was_emitted_before_the_end_is_written_in_whole_lines() {
        let (sender, writes) = mpsc::channel();
        let (events, reporter) =
            Reporter::start_on(Mode::Plain, Box::new(Sink(Some(sender))), None, Arc::default());
        for number in 0..500 {
            events.notice(Wall(0), format!("line {number}"));
        }
        let activity = Arc::clone(reporter.activity());
        reporter.finish(LONG);
        let writes: Vec<String> = writes.try_iter().collect();
        assert!(writes.iter().all(|write| write.ends_with('\n') && write.len() <= WRITE_BYTES_MAX));
        let text = writes.concat();
        assert_eq!(text.lines().count(), 500);
        assert!(text.starts_with("1970-01-01T00:00:00.000Z line 0\n"));
        let last = activity.last(2);
        assert_eq!(*last[1].1.text, "line 499");
        assert_eq!(activity.last(9_999).len(), ACTIVITY_MAX);
    }

    #[test]
    fn a_closed_log_is_not_an_error() {
        let (events, reporter) =
            Reporter::start_on(Mode::Plain, Box::new(Sink(None)), None, Arc::default());
        events.notice(Wall(0), "nobody reads this");
        let activity = Arc::clone(reporter.activity());
        reporter.finish(LONG);
        assert_eq!(*activity.last(1)[0].1.text, "nobody reads this");
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up() {
        let (_keep, stuck) = mpsc::channel();
        let (events, reporter) =
            Reporter::start_on(Mode::Plain, Box::new(Stuck(stuck)), None, Arc::default());
        for _ in 0..10_000 {
            events.emit(Wall(0), Event::Draining { left: 1 });
        }
        assert!(events.counters().dropped() > 0);
        reporter.finish(Duration::from_millis(50));
    }

    #[test]
    fn dropped_lines_are_counted_in_the_log() {
        let (sender, writes) = mpsc::channel();
        let (events, receiver) = Events::channel();
        for _ in 0..crate::event::EVENTS_MAX + 5 {
            events.notice(Wall(7), "x");
        }
        let mut consumer = Consumer {
            events,
            receiver,
            look: Arc::default(),
            changes: Changes::default(),
            file: None,
            out: Box::new(Sink(Some(sender))),
            plain: Arc::new(AtomicBool::new(true)),
            caught_up: true,
            activity: Arc::default(),
            told_dropped: 0,
        };
        consumer.batch(None);
        consumer.batch(None);
        let text: String = writes.try_iter().collect();
        assert_eq!(
            text.matches("warning: 5 log lines were lost because the log is read too slowly\n")
                .count(),
            1
        );
    }

    #[test]
    fn without_a_dashboard_the_log_is_caught_up_with() {
        let (sender, writes) = mpsc::channel();
        let (events, reporter) =
            Reporter::start_on(Mode::Screen, Box::new(Sink(Some(sender))), None, Arc::default());
        events.notice(Wall(0), "kept for the dashboard");
        while reporter.activity().last(1).is_empty() {
            thread::yield_now();
        }
        assert_eq!(writes.try_iter().count(), 0);
        reporter.write_plainly();
        events.notice(Wall(0), "written");
        reporter.finish(LONG);
        let text: String = writes.try_iter().collect();
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z kept for the dashboard\n1970-01-01T00:00:00.000Z written\n"
        );
    }

    #[test]
    fn a_block_is_told_behind_the_request_that_met_it() {
        let (sender, writes) = mpsc::channel();
        let (events, reporter) =
            Reporter::start_on(Mode::Plain, Box::new(Sink(Some(sender))), None, Arc::default());
        reporter.watch(status::tests::snapshot);
        events.emit(
            Wall(0),
            Event::Released { session: None, account: "work".into(), waited: Duration::ZERO },
        );
        let first = writes.recv_timeout(LONG).unwrap();
        let second = writes.recv_timeout(LONG).unwrap();
        assert!(first.contains("held request sent to work"), "{first}");
        assert!(second.contains("account work is out, five-hour limit reached"), "{second}");
        assert!(second.contains("breaker open: Overloaded"), "{second}");
        reporter.finish(LONG);
        assert_eq!(events.counters().breaker_opened(), 1);
    }

    #[test]
    fn off_means_no_thread_and_no_line() {
        let (events, reporter) = Reporter::start(Mode::Off, None).unwrap();
        events.notice(Wall(0), "x");
        let activity = Arc::clone(reporter.activity());
        reporter.finish(LONG);
        assert!(activity.last(1).is_empty());
    }
}
