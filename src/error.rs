//! What went wrong, and whose fault it is.
//!
//! An error's text is lower case and says what happened, to what, and what to do. It never contains
//! a credential. `proxy/reply.rs` turns errors into HTTP answers; [`Error::render`] is the one form
//! for the command line.

use std::fmt;
use std::io;
use std::path::Path;

/// The result of anything that can fail with an [`Error`].
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The client that sent a request.
    Client,
    /// The API, a provider, or the network on the way to them.
    Upstream,
    /// The person who runs maxpool: a file, a setting, the machine.
    Operator,
    /// maxpool itself.
    Ours,
}

/// A failure with its owner and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    fault: Fault,
    text: String,
    kind: Option<io::ErrorKind>,
}

impl Error {
    /// The client sent something that cannot be served.
    pub(crate) fn client(text: impl Into<String>) -> Error {
        Error::new(Fault::Client, text)
    }

    /// The upstream, or the network on the way to it, failed.
    pub(crate) fn upstream(text: impl Into<String>) -> Error {
        Error::new(Fault::Upstream, text)
    }

    /// Something that the person who runs maxpool can fix.
    pub(crate) fn operator(text: impl Into<String>) -> Error {
        Error::new(Fault::Operator, text)
    }

    /// A bug.
    pub(crate) fn ours(text: impl Into<String>) -> Error {
        Error::new(Fault::Ours, text)
    }

    /// A file could not be used: `cannot <action> <path>: <reason>`.
    pub(crate) fn file(action: &str, path: &Path, cause: &io::Error) -> Error {
        Error {
            kind: Some(cause.kind()),
            ..Error::operator(format!("cannot {action} {}: {}", path.display(), reason(cause)))
        }
    }

    fn new(fault: Fault, text: impl Into<String>) -> Error {
        Error { fault, text: text.into(), kind: None }
    }

    /// Whose fault it is.
    pub(crate) fn fault(&self) -> Fault {
        self.fault
    }

    /// The kind of the underlying system error, if there is one.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        self.kind
    }

    /// Prefixes the error with what was being done: `<doing>: <text>`.
    #[must_use]
    pub(crate) fn while_doing(self, doing: &str) -> Error {
        Error { text: format!("{doing}: {}", self.text), ..self }
    }

    /// The text for the command line, without a line end. It has several lines if several things
    /// are wrong.
    pub(crate) fn render(&self) -> String {
        match self.fault {
            Fault::Client | Fault::Upstream | Fault::Operator => format!("maxpool: {}", self.text),
            Fault::Ours => {
                format!("maxpool: {} (this is a bug in maxpool, please report it)", self.text)
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// The system's error text in lower case and without its number: `permission denied`.
pub(crate) fn reason(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        // "I/O error" and other abbreviations stay as they are.
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_error_says_what_to_what_and_why() {
        let cause = io::Error::from_raw_os_error(13);
        let error = Error::file("write", Path::new("/a/b.json"), &cause);
        assert_eq!(error.to_string(), "cannot write /a/b.json: permission denied");
        assert_eq!(error.io_kind(), Some(io::ErrorKind::PermissionDenied));
        assert_eq!(error.fault(), Fault::Operator);
    }

    #[test]
    fn one_place_renders_for_the_command_line() {
        assert_eq!(Error::operator("no such account").render(), "maxpool: no such account");
        assert_eq!(
            Error::ours("lost a ticket").while_doing("drain").render(),
            "maxpool: drain: lost a ticket (this is a bug in maxpool, please report it)"
        );
        assert_eq!(reason(&io::Error::other("I/O is odd")), "I/O is odd");
    }
}
