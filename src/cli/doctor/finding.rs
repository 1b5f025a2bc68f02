//! One line of the report.

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// Worth knowing, but not wrong by itself.
    Odd,
    Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) about: &'static str,
    pub(super) text: String,
}

pub(super) fn fine(about: &'static str, text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Fine, about, text: text.into() }
}

pub(super) fn odd(about: &'static str, text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Odd, about, text: text.into() }
}

pub(super) fn wrong(about: &'static str, text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Wrong, about, text: text.into() }
}
