//! Request targets: which are accepted (SPEC P2), and how they decode.

use std::borrow::Cow;

/// A URI of the http crate is limited to 65,534 bytes, and the upstream's address precedes the
/// target.
const TARGET_BYTES_MAX: usize = 63 * 1024;
const DECODINGS_MAX: usize = 4;

/// Checks a target as received.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn check(target: &str) -> Result<(), &'static str> {
    if target.len() > TARGET_BYTES_MAX {
        return Err("the request target is longer than 63 KiB");
    }
    if !target.starts_with('/') {
        return Err("the request target must be a path that begins with a slash");
    }
    if target.bytes().any(|byte| !matches!(byte, 0x21..=0x7e) || byte == b'#') {
        return Err("the request target contains a character that is not allowed in it");
    }
    // Decoded repeatedly, because a server behind the upstream may do the same.
    let mut path = Cow::Borrowed(split(target).0);
    for _ in 0..DECODINGS_MAX {
        if path.as_bytes().split(|&byte| byte == b'/').any(is_dots) {
            return Err("the request target contains a dot segment");
        }
        if path.bytes().any(|byte| byte == b'\\') {
            return Err("the request target contains a backslash");
        }
        if path.bytes().any(|byte| byte.is_ascii_control()) {
            return Err("the request target contains an encoded control character");
        }
        let decoded = match decode(&path) {
            Cow::Owned(decoded) if decoded != *path => decoded,
            Cow::Owned(_) | Cow::Borrowed(_) => return Ok(()),
        };
        path = Cow::Owned(decoded);
    }
    Err("the request target is percent-encoded too many times")
}

/// Whether a segment is `.` or `..`, with or without parameters.
fn is_dots(segment: &[u8]) -> bool {
    segment.starts_with(b".")
        && matches!(segment.split(|&byte| byte == b';').next(), Some(b"." | b".."))
}

/// Path and query of a target.
pub(super) fn split(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// Percent-decodes until nothing changes, because servers behind the upstream may decode again.
/// [`check`] bounds the number of rounds.
pub(super) fn decode_fully(path: &str) -> Cow<'_, str> {
    let mut decoded = decode(path);
    while let Cow::Owned(again) = decode(&decoded)
        && again != *decoded
    {
        decoded = Cow::Owned(again);
    }
    decoded
}

/// Percent-decodes once; invalid escapes stay, and text without escapes is borrowed.
pub(super) fn decode(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}
