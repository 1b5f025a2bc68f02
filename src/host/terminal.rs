//! The dashboard's terminal: raw input, the alternate screen, and its restoration on every way out.
//!
//! One thread polls the terminal and a pipe. It draws when something has changed, at most ten times
//! a second, and only the lines that differ; it also draws when a countdown ends, and at most once
//! a minute while nothing is in flight. Output is non-blocking: a terminal that does not accept it
//! delays only this thread's next frame. [`restore`] gives the terminal back; the end of
//! [`Dashboard`], the panic hook and a stop by job control call it, and calling it twice does
//! nothing.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{self, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use signal_hook::consts::{SIGCONT, SIGQUIT, SIGTSTP, SIGWINCH};

use super::canvas::Canvas;
use crate::clock;
use crate::event::Pulse;
use crate::platform::poll_for;
use crate::report::keys::{Key, Keys};
use crate::report::screen::line::{Inks, Signs, Style};
use crate::report::screen::{self, Size, View};
use crate::report::ui::{Action, Seat, Ui};
use crate::scheduler::time::Mono;
use crate::zone;

/// What the dashboard shows and does.
pub(crate) struct Parts {
    /// Gets the current facts. Called on the dashboard's thread, at most ten times a second.
    pub(crate) look: Box<dyn FnMut() -> View + Send>,
    /// Carries out what the user has confirmed and returns a line about it. Called on the
    /// dashboard's thread, so it must hand long work to another one.
    pub(crate) act: Box<dyn FnMut(Action) -> Option<String> + Send>,
    /// A line about a long action that has finished; set before the pulse is beaten.
    pub(crate) told: Option<Arc<Mutex<Option<String>>>>,
    /// Beats when something has changed.
    pub(crate) pulse: Arc<Pulse>,
    /// Whose dashboard it is.
    pub(crate) seat: Seat,
}

/// A running dashboard. Dropping it restores the terminal.
pub(crate) struct Dashboard {
    quit: Arc<AtomicBool>,
    wake: UnixStream,
    done: Receiver<()>,
}

/// Shortest interval between two frames.
const FRAME_EVERY: Duration = Duration::from_millis(100);
/// An escape byte is the Esc key if nothing follows within this time.
const ESCAPE_ALONE: Duration = Duration::from_millis(50);
/// How long the end waits for the last frame.
const FINISH_MAX: Duration = Duration::from_millis(500);

const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[?2004h\x1b[H\x1b[2J";
const LEAVE: &[u8] = b"\x1b[?2026l\x1b[?2004l\x1b[?7h\x1b[?25h\x1b[0m\x1b[?1049l";

impl Dashboard {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// There is no terminal, it cannot move its cursor, or this process is in its background: the
    /// caller then writes the plain log.
    pub(crate) fn start(parts: Parts) -> io::Result<Dashboard> {
        let tty = open()?;
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let signals = Signals::take(&write)?;
        let beat = write.try_clone()?;
        parts.pulse.connect(Box::new(move || knock(&beat)));
        enter(&tty)?;
        install_panic_hook();
        let quit = Arc::new(AtomicBool::new(false));
        let (finished, done) = crossbeam_channel::bounded(1);
        let mut face = Face {
            tty,
            wake: read,
            signals,
            quit: Arc::clone(&quit),
            parts,
            style: style_of_environment(&|name| std::env::var(name).ok()),
            ui: Ui::default(),
            keys: Keys::default(),
            canvas: Canvas::default(),
        };
        face.ui = Ui::new(face.parts.seat);
        let spawned = thread::Builder::new().name("dashboard".into()).stack_size(512 * 1024).spawn(
            move || {
                face.run();
                drop(finished);
            },
        );
        if let Err(error) = spawned {
            restore();
            return Err(error);
        }
        Ok(Dashboard { quit, wake: write, done })
    }

    /// Whether its thread has ended by itself because the terminal is gone.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.done.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.quit.store(true, SeqCst);
        knock(&self.wake);
        // A terminal that accepts nothing must not keep the process alive.
        let _ = self.done.recv_timeout(FINISH_MAX);
        restore();
    }
}

fn knock(mut pipe: &UnixStream) {
    // If the pipe is full, the reader is awake already.
    let _ = pipe.write(&[0]);
}

/// The terminal signals, as flags next to the pipe that they write to.
struct Signals {
    killed: Arc<AtomicBool>,
    resized: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    continued: Arc<AtomicBool>,
}

impl Signals {
    fn take(pipe: &UnixStream) -> io::Result<Signals> {
        let flag = |signal| {
            let flag = Arc::new(AtomicBool::new(false));
            // The flag first, so that it is set when the pipe becomes readable.
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
            signal_hook::low_level::pipe::register(signal, pipe.try_clone()?)?;
            io::Result::Ok(flag)
        };
        Ok(Signals {
            killed: {
                away()?.store(false, SeqCst);
                flag(SIGQUIT)?
            },
            resized: flag(SIGWINCH)?,
            stopped: flag(SIGTSTP)?,
            continued: flag(SIGCONT)?,
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Ok(away) = away() {
            away.store(true, SeqCst);
        }
    }
}

/// True while no dashboard handles SIGQUIT, so that the signal keeps its default action.
fn away() -> io::Result<Arc<AtomicBool>> {
    static AWAY: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);
    let mut away = AWAY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(away) = &*away {
        return Ok(Arc::clone(away));
    }
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_default(SIGQUIT, Arc::clone(&flag))?;
    Ok(Arc::clone(away.insert(flag)))
}

/// What is needed to restore the terminal, while it is taken over.
static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

struct Taken {
    tty: OwnedFd,
    before: Termios,
}

/// Restores the terminal if it is taken over. Never blocks, because the panic hook calls it too.
pub(crate) fn restore() {
    let mut slot = match TAKEN.try_lock() {
        Ok(slot) => slot,
        Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    if let Some(taken) = slot.take() {
        // Nothing can be done for a terminal that is gone.
        let _ = rustix::io::write(&taken.tty, LEAVE);
        let _ = termios::tcsetattr(&taken.tty, OptionalActions::Now, &taken.before);
    }
}

/// The terminal as it was at the start, for a leader whose workers may leave it in another state.
pub(crate) struct Found {
    tty: OwnedFd,
    before: Termios,
}

impl Found {
    /// Records the terminal's state; `None` if there is no terminal.
    pub(crate) fn note() -> Option<Found> {
        let tty = open().ok()?;
        let before = termios::tcgetattr(&tty).ok()?;
        Some(Found { tty, before })
    }

    /// Restores the terminal on behalf of a process that could not.
    pub(crate) fn put_back(&self) {
        // From the background this would stop the process.
        if termios::tcgetpgrp(&self.tty) == Ok(rustix::process::getpgrp()) {
            let _ = rustix::io::write(&self.tty, LEAVE);
            let _ = termios::tcsetattr(&self.tty, OptionalActions::Now, &self.before);
        }
    }
}

/// Whether a person uses this process: its input and output are a terminal.
pub(crate) fn is_wanted() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Opens the controlling terminal.
fn open() -> io::Result<OwnedFd> {
    let term = std::env::var("TERM").unwrap_or_default();
    if term.is_empty() || term == "dumb" {
        return Err(io::Error::other("TERM is empty or dumb"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tty = rustix::fs::open("/dev/tty", flags, Mode::empty())?;
    if termios::tcgetpgrp(&tty)? != rustix::process::getpgrp() {
        // Changing the modes from the background would stop the process.
        return Err(io::Error::other("this process is in the background of its terminal"));
    }
    Ok(tty)
}

/// Switches off echo and line editing; signal keys stay, so that Ctrl-C and Ctrl-Z work as usual.
fn enter(tty: &OwnedFd) -> io::Result<()> {
    let mut slot = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = match slot.take() {
        Some(taken) => taken.before,
        None => termios::tcgetattr(tty)?,
    };
    let mut raw = before.clone();
    raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN);
    raw.input_modes.remove(InputModes::IXON);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    // Ctrl-\ would end the process at once, and with Ctrl-C nobody needs it.
    raw.special_codes[SpecialCodeIndex::VQUIT] = NO_KEY;
    termios::tcsetattr(tty, OptionalActions::Now, &raw)?;
    *slot = Some(Taken { tty: tty.try_clone()?, before });
    // If this is not written, the first frame will fail too.
    let _ = rustix::io::write(tty, ENTER);
    Ok(())
}

/// `_POSIX_VDISABLE`: disables the special key.
const NO_KEY: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };

/// Something else has written to the terminal.
static SPOILED: AtomicBool = AtomicBool::new(false);

/// Shows panics on a terminal that has been restored. Installed once; later dashboards reuse it.
fn install_panic_hook() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, SeqCst) {
        return;
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Panics in these two threads end the dashboard. Others are caught; their text stays on the
        // screen until the next full draw.
        if matches!(thread::current().name(), Some("dashboard" | "main")) {
            restore();
        }
        before(panic);
        SPOILED.store(true, SeqCst);
    }));
}

/// Colours unless `NO_COLOR` is set; block elements if the locale is UTF-8.
fn style_of_environment(var: &dyn Fn(&str) -> Option<String>) -> Style {
    let set = |name: &str| var(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(set)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let utf8 = locale.contains("utf-8") || locale.contains("utf8");
    Style {
        inks: if set("NO_COLOR").is_some() { Inks::None } else { Inks::Colour },
        signs: if utf8 { Signs::Unicode } else { Signs::Ascii },
    }
}

/// The dashboard's thread.
struct Face {
    tty: OwnedFd,
    wake: UnixStream,
    signals: Signals,
    quit: Arc<AtomicBool>,
    parts: Parts,
    style: Style,
    ui: Ui,
    keys: Keys,
    canvas: Canvas,
}

impl Face {
    fn run(&mut self) {
        // When the next frame is due; the first at once.
        let mut due = Some(clock::mono());
        let mut drawn = Mono(0);
        let mut view = self.look();
        while !self.quit.load(SeqCst) {
            self.obey_signals(&mut due);
            let now = clock::mono();
            if due.is_some_and(|due| due <= now) && self.canvas.is_idle() {
                // Armed first, so that a change after the look wakes the poll.
                self.parts.pulse.arm();
                view = self.look();
                let lines = screen::render(&view, &self.ui, self.size(), self.style);
                self.canvas.draw(lines);
                drawn = now;
                due = Some(now + screen::next_look(&view.status));
            }
            if self.canvas.flush(self.tty.as_fd()).is_err() {
                return;
            }
            let wake_at = if self.canvas.is_idle() { due } else { None };
            let limit = wake_at.map_or(Duration::from_secs(60), |due| due.since(now));
            let limit = if self.keys.is_open() { limit.min(ESCAPE_ALONE) } else { limit };
            let Some(heard) = self.wait(limit) else {
                return;
            };
            let soon = now.max(drawn + FRAME_EVERY);
            if heard.knock {
                due = Some(due.map_or(soon, |due| due.min(soon)));
            }
            if self.press(heard.keys, &view) {
                due = Some(due.map_or(soon, |due| due.min(soon)));
            }
        }
    }

    fn look(&mut self) -> View {
        if let Some(told) = &self.parts.told
            && let Some(note) = told.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            self.ui.tell(note);
        }
        let mut view = (self.parts.look)();
        // Read each time, because daylight saving time may start or end while the dashboard runs.
        view.utc_offset_s = zone::utc_offset_s(clock::wall());
        view
    }

    fn size(&self) -> Size {
        match termios::tcgetwinsize(&self.tty) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { cols: size.ws_col.into(), rows: size.ws_row.into() }
            }
            _ => Size { cols: 80, rows: 24 },
        }
    }

    fn obey_signals(&mut self, due: &mut Option<Mono>) {
        if self.signals.killed.swap(false, SeqCst) {
            restore();
            // The process ends here, with a core dump if the system keeps them.
            let _ = signal_hook::low_level::emulate_default_handler(SIGQUIT);
        }
        let resized = self.signals.resized.swap(false, SeqCst);
        if self.signals.stopped.swap(false, SeqCst) {
            restore();
            // The process stops here as the shell expects, and goes on from here when it is
            // continued.
            let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
            self.signals.continued.store(true, SeqCst);
        }
        let continued = self.signals.continued.swap(false, SeqCst);
        if continued {
            // Another program may have changed the terminal's modes and content meanwhile.
            let _ = enter(&self.tty);
        }
        if resized || continued || SPOILED.swap(false, SeqCst) {
            self.canvas.forget();
            *due = Some(clock::mono());
        }
    }

    /// Waits for keys or a wake-up; `None` when the terminal is gone.
    fn wait(&mut self, limit: Duration) -> Option<Heard> {
        let interest =
            if self.canvas.is_idle() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut fds = [
            PollFd::from_borrowed_fd(self.tty.as_fd(), interest),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        if !poll_for(&mut fds, limit) {
            return Some(Heard { keys: self.keys.idle(), knock: false });
        }
        let (tty, wake) = (fds[0].revents(), fds[1].revents());
        let mut heard = Heard { keys: Vec::new(), knock: false };
        if !wake.is_empty() {
            heard.knock = true;
            let mut bytes = [0; 64];
            while rustix::io::read(&self.wake, &mut bytes).is_ok_and(|count| count == bytes.len()) {
            }
        }
        if tty.contains(PollFlags::IN) {
            let mut bytes = [0; 1_024];
            match rustix::io::read(&self.tty, &mut bytes) {
                Ok(0) => return None,
                Ok(count) => heard.keys = self.keys.feed(&bytes[..count]),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        } else if tty.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return None;
        }
        Some(heard)
    }

    /// Handles keys; returns true if they may have changed what is shown.
    fn press(&mut self, keys: Vec<Key>, view: &View) -> bool {
        let any = !keys.is_empty();
        for key in keys {
            self.ui.set_log_page(screen::log_page(view, &self.ui, self.size()));
            match self.ui.press(key, &view.status) {
                None => {}
                Some(Action::Redraw) => self.canvas.forget(),
                Some(action) => {
                    if let Some(note) = (self.parts.act)(action) {
                        self.ui.tell(note);
                    }
                }
            }
        }
        any
    }
}

struct Heard {
    keys: Vec<Key>,
    knock: bool,
}

/// What is on the screen, and what is being written to it.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_environment_decides_inks_and_signs() {
        let style = |vars: &[(&str, &str)]| {
            style_of_environment(&|name| {
                vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        for (vars, inks, signs) in [
            (&[("LANG", "en_US.UTF-8")][..], Inks::Colour, Signs::Unicode),
            (&[("LANG", "C.utf8"), ("NO_COLOR", "")], Inks::Colour, Signs::Unicode),
            (&[("LANG", "en_US.UTF-8"), ("NO_COLOR", "1")], Inks::None, Signs::Unicode),
            (&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")], Inks::Colour, Signs::Ascii),
            (&[], Inks::Colour, Signs::Ascii),
        ] {
            assert_eq!(style(vars), Style { inks, signs }, "{vars:?}");
        }
    }
}
