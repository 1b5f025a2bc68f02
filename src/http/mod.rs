//! HTTP and SSE messages as bytes. Pure: no I/O, no clock, no locks.

pub(crate) mod answer_json;
pub(crate) mod digest;
pub(crate) mod document;
pub(crate) mod gzip;
pub(crate) mod headers;
pub(crate) mod ids;
pub(crate) mod json;
pub(crate) mod peek;
pub(crate) mod splice;
pub(crate) mod sse;
