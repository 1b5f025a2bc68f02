//! A value that must never be shown.

use std::fmt;
use std::sync::Arc;

use super::masking;

/// A credential. Its `Debug` shows nothing and it has no `Display`, so it cannot get into a log, an
/// error or a panic message by accident; [`Secret::expose`] marks each place that uses it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<str>);

impl Secret {
    /// Wraps `text`, and has it masked in everything that the program shows from now on.
    pub(crate) fn new(text: impl Into<Arc<str>>) -> Secret {
        let secret = text.into();
        masking::remember(&secret);
        Secret(secret)
    }

    /// The same for a secret of a client, of which there may be any number.
    pub(crate) fn of_a_client(text: impl Into<Arc<str>>) -> Secret {
        let secret = text.into();
        masking::remember_of_a_client(&secret);
        Secret(secret)
    }

    /// Wraps a text that contains a secret which is known already.
    pub(crate) fn around(text: String) -> Secret {
        Secret(text.into())
    }

    /// The text itself: only for a header, the file or a comparison.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let shown = format!("{:?} {:#?}", Secret::new("sk-ant-1"), Some(Secret::new("sk-ant-2")));
        assert!(!shown.contains("sk-ant"), "{shown}");
    }
}
