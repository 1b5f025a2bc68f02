//! Placeholder: filled by the change that owns `report`.
