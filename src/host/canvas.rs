//! The lines on the terminal, and the bytes that change them into the next frame. Only lines that
//! differ are written; output that a slow terminal does not accept is kept for later.

use std::io;
use std::os::fd::BorrowedFd;

use crate::config::masking::Masked;

/// Synchronized update: terminals that support it show a frame all at once, others ignore it.
const FRAME_BEGIN: &str = "\x1b[?2026h";
const FRAME_END: &str = "\x1b[?2026l";

#[derive(Default)]
pub(super) struct Canvas {
    shown: Vec<Masked<String>>,
    forgotten: bool,
    pending: Vec<u8>,
    written: usize,
}

impl Canvas {
    /// Whether all of the last frame has been written.
    pub(super) fn is_idle(&self) -> bool {
        self.written == self.pending.len()
    }

    /// The next frame will be drawn completely.
    pub(super) fn forget(&mut self) {
        self.forgotten = true;
    }

    /// Prepares the lines that differ, if any.
    pub(super) fn draw(&mut self, lines: Vec<String>) {
        let lines: Vec<Masked<String>> = lines.iter().map(|line| Masked::text(line)).collect();
        let mut text = String::new();
        let whole = self.forgotten || lines.len() != self.shown.len();
        if whole {
            text.push_str("\x1b[0m\x1b[2J");
        }
        for (row, line) in lines.iter().enumerate() {
            let before = if whole { None } else { self.shown.get(row) };
            if before == Some(line) || (whole && line.is_empty()) {
                continue;
            }
            // Clears the line before writing it: clearing after a full line would erase its last
            // character.
            let clear = if whole { "" } else { "\x1b[2K" };
            text.push_str(&format!("\x1b[{};1H{clear}{}", row + 1, **line));
        }
        self.shown = lines;
        self.forgotten = false;
        if !text.is_empty() {
            self.pending = format!("{FRAME_BEGIN}{text}{FRAME_END}").into_bytes();
            self.written = 0;
        }
    }

    /// Writes as much as the terminal accepts.
    pub(super) fn flush(&mut self, tty: BorrowedFd<'_>) -> io::Result<()> {
        while !self.is_idle() {
            match rustix::io::write(tty, &self.pending[self.written..]) {
                Ok(count) => self.written += count,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.pending.clear();
        self.written = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags};

    use super::*;
    use crate::platform::poll_for;

    fn drawn(canvas: &mut Canvas, lines: &[&str]) -> String {
        canvas.draw(lines.iter().map(ToString::to_string).collect());
        let text = String::from_utf8(std::mem::take(&mut canvas.pending)).unwrap();
        canvas.written = 0;
        text
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut canvas = Canvas::default();
        assert_eq!(
            drawn(&mut canvas, &["one", "", "two"]),
            "\x1b[?2026h\x1b[0m\x1b[2J\x1b[1;1Hone\x1b[3;1Htwo\x1b[?2026l"
        );
        assert_eq!(
            drawn(&mut canvas, &["one", "", "two"]),
            "",
            "nothing changed, nothing is written"
        );
        assert_eq!(
            drawn(&mut canvas, &["one", "x", ""]),
            "\x1b[?2026h\x1b[2;1H\x1b[2Kx\x1b[3;1H\x1b[2K\x1b[?2026l"
        );
        canvas.forget();
        assert_eq!(
            drawn(&mut canvas, &["one", "x", ""]),
            "\x1b[?2026h\x1b[0m\x1b[2J\x1b[1;1Hone\x1b[2;1Hx\x1b[?2026l"
        );
        assert!(drawn(&mut canvas, &["one"]).contains("\x1b[2J"), "another size is another screen");
    }

    #[test]
    fn a_slow_terminal_gets_the_rest_later() {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut canvas = Canvas::default();
        canvas.draw(vec!["x".repeat(4 << 20)]);
        canvas.flush(near.as_fd()).unwrap();
        assert!(!canvas.is_idle());
        let reader = thread::spawn(move || io::copy(&mut &far, &mut io::sink()).unwrap());
        while !canvas.is_idle() {
            let mut fds = [PollFd::from_borrowed_fd(near.as_fd(), PollFlags::OUT)];
            assert!(poll_for(&mut fds, Duration::from_secs(20)));
            canvas.flush(near.as_fd()).unwrap();
        }
        drop(near);
        assert!(reader.join().unwrap() > 4 << 20);
    }
}
