//! Placeholder: filled by the change that owns `proxy`.
