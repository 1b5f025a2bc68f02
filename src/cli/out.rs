//! Where commands write: results on stdout, everything else on stderr (SPEC C).
//!
//! All output passes through here, and terminal control characters are escaped (SPEC D4) whatever
//! their source. Text for stderr is also searched for secrets, because errors quote text from
//! elsewhere.
//!
//! A reader that has gone away (a closed pipe) is not an error: output that nobody reads need not
//! be written.

use std::io::{self, IsTerminal as _, Write};

use super::table::{Room, wrapped};
use crate::report::mask::mask;
use crate::report::text::inert;

/// The two outputs of a command.
pub(crate) struct Out<'a> {
    stdout: &'a mut dyn Write,
    stderr: Inert<'a>,
    color: bool,
    room: Room,
}

/// Escapes terminal control characters. Each write must contain complete characters.
struct Inert<'a>(&'a mut dyn Write);

impl Write for Inert<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(inert(&mask(&text)).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The meaning of a piece of text, shown as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Good,
    Doubtful,
    Bad,
    Strong,
}

impl<'a> Out<'a> {
    /// Writes to these outputs; `color` says whether stdout shows colours.
    pub(crate) fn new(
        stdout: &'a mut dyn Write,
        stderr: &'a mut dyn Write,
        color: bool,
    ) -> Out<'a> {
        Out { stdout, stderr: Inert(stderr), color, room: None }
    }

    /// The same, for a terminal of this width.
    pub(crate) fn within(self, room: Room) -> Out<'a> {
        Out { room, ..self }
    }

    /// The width of the terminal, if stdout is one.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// A paragraph of the result; further lines are indented.
    pub(super) fn prose(&mut self, text: &str, indent: usize) {
        for line in wrapped(text, indent, self.room) {
            self.line(&line);
        }
    }

    /// A part of the result.
    pub(super) fn result(&mut self, text: &str) {
        self.bytes(inert(text).as_bytes());
    }

    /// A part of the result, passed on unchanged.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stdout.write_all(bytes);
        let _ = self.stdout.flush();
    }

    /// One line of the result.
    pub(super) fn line(&mut self, text: &str) {
        self.result(&format!("{text}\n"));
    }

    /// A line for the user that is not part of the result.
    pub(super) fn remark(&mut self, text: &str) {
        for line in text.lines().flat_map(|line| wrapped(line, 2, self.room)) {
            let _ = writeln!(self.stderr, "{line}");
        }
        let _ = self.stderr.flush();
    }

    /// Where messages to the user go.
    pub(super) fn stderr(&mut self) -> &mut dyn Write {
        &mut self.stderr
    }

    /// Text for stdout in a colour, if colours are shown.
    pub(super) fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Good => "32",
            Paint::Doubtful => "33",
            Paint::Bad => "31",
            Paint::Strong => "1",
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The width of the terminal, if stdout is one.
pub(super) fn terminal_width() -> Room {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether stdout shows colours: it is a terminal, and `NO_COLOR` is empty or not set.
pub(super) fn shows_color(no_color: Option<std::ffi::OsString>) -> bool {
    io::stdout().is_terminal() && no_color.is_none_or(|value| value.is_empty())
}
