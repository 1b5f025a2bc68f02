//! Reads a secret key (SPEC T4): from a terminal without echo, or from piped input.

use std::io::{IsTerminal as _, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::loopback::say;
use crate::config::Secret;
use crate::error::{Error, Result, reason};

/// Asks for `what`, such as `API key`, on standard input; without a prompt if that is not a
/// terminal.
pub(crate) fn read_key(out: &mut dyn Write, what: &str) -> Result<Secret> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut text = String::new();
        let read = stdin.lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|cause| {
            Error::operator(format!("cannot read the key from standard input: {}", reason(&cause)))
        })?;
        return Ok(Secret::new(text.trim()));
    }
    let asked = write!(out, "{what} (not shown): ").and_then(|()| out.flush());
    asked.map_err(|cause| {
        Error::operator(format!("cannot write to the terminal: {}", reason(&cause)))
    })?;
    let typed = typed_hidden(stdin.as_fd());
    say(out, "")?;
    typed
}

/// Restores the terminal on every way out.
struct Hidden<'a> {
    fd: BorrowedFd<'a>,
    before: Termios,
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // If this fails, there is no terminal any more.
        let _ = tcsetattr(self.fd, OptionalActions::Flush, &self.before);
    }
}

fn typed_hidden(fd: BorrowedFd<'_>) -> Result<Secret> {
    let failed = |cause: rustix::io::Errno| {
        Error::operator(format!("cannot read from the terminal: {}", reason(&cause.into())))
    };
    let before = tcgetattr(fd).map_err(failed)?;
    let mut modes = before.clone();
    // Without ISIG, Ctrl-C arrives as a byte; its default action would leave the terminal without
    // echo.
    modes.local_modes &= !(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    let _hidden = Hidden { fd, before };
    tcsetattr(fd, OptionalActions::Flush, &modes).map_err(failed)?;
    let mut typed = Typing::default();
    let mut piece = [0; 256];
    loop {
        let count = match rustix::io::read(fd, &mut piece) {
            Ok(0) => return typed.finish(),
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(cause) => return Err(failed(cause)),
        };
        for byte in &piece[..count] {
            match typed.take(*byte) {
                Step::More => {}
                Step::Done => return typed.finish(),
                Step::Interrupted => {
                    return Err(Error::operator("interrupted; nothing was changed"));
                }
            }
        }
    }
}

/// The line editing that the terminal does not do in this mode.
#[derive(Default)]
struct Typing(Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    Done,
    Interrupted,
}

impl Typing {
    fn take(&mut self, byte: u8) -> Step {
        match byte {
            b'\r' | b'\n' | CTRL_D => return Step::Done,
            CTRL_C | CTRL_BACKSLASH => return Step::Interrupted,
            BACKSPACE | DELETE => {
                self.0.pop();
            }
            CTRL_U => self.0.clear(),
            byte if self.0.len() < INPUT_BYTES_MAX as usize => self.0.push(byte),
            _ => {}
        }
        Step::More
    }

    fn finish(self) -> Result<Secret> {
        let text = String::from_utf8(self.0)
            .map_err(|_| Error::operator("the input is not valid text; copy the key again"))?;
        // Some terminals mark pasted text.
        let text = text.replace("\u{1b}[200~", "").replace("\u{1b}[201~", "");
        Ok(Secret::new(text.trim()))
    }
}

const INPUT_BYTES_MAX: u64 = 64 * 1024;
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CTRL_U: u8 = 21;
const CTRL_BACKSLASH: u8 = 28;
const DELETE: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_without_being_shown() {
        for (rule, bytes, expected) in [
            ("T4 Enter", &b"sk-1\rx"[..], Ok("sk-1")),
            ("T4 paste with its marks and spaces", b"\x1b[200~ sk-1 \x1b[201~\n", Ok("sk-1")),
            ("T4 correction", b"sl\x7fk-12\x08\r", Ok("sk-1")),
            ("T4 start anew", b"nonsense\x15sk-1\r", Ok("sk-1")),
            ("T4 Ctrl-D", b"sk-1\x04", Ok("sk-1")),
            ("T4 nothing", b"\x7f\r", Ok("")),
            ("T4 Ctrl-C", b"sk\x03", Err(())),
        ] {
            let mut typing = Typing::default();
            let steps: Vec<Step> = bytes.iter().map(|byte| typing.take(*byte)).collect();
            let end = steps.into_iter().find(|step| *step != Step::More);
            match expected {
                Ok(_) => assert_eq!(end, Some(Step::Done), "{rule}"),
                Err(()) => assert_eq!(end, Some(Step::Interrupted), "{rule}"),
            }
            let upto = bytes
                .iter()
                .position(|byte| matches!(byte, b'\r' | b'\n' | 4))
                .unwrap_or(bytes.len());
            let mut typing = Typing::default();
            for byte in &bytes[..upto] {
                typing.take(*byte);
            }
            if let Ok(text) = expected {
                assert_eq!(typing.finish(), Ok(Secret::new(text)), "{rule}");
            }
        }
    }
}
