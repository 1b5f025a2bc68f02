//! Random bytes and their text form, for keys, PKCE and states.

use rustix::rand::GetRandomFlags;

use crate::error::{Error, Result};

/// `N` bytes from the system's random source.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(&mut bytes)
        .map_err(|error| Error::operator(format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

/// Fills `bytes` from the system's random source.
///
/// # Errors
/// The system has none.
pub(crate) fn fill(mut bytes: &mut [u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::rand::getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(count) => bytes = &mut bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Base64url without padding (RFC 4648 section 5).
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - group.len()));
        for index in 0..=group.len() {
            let six = word >> (18 - 6 * index) & 63;
            text.push(char::from(ALPHABET[six as usize]));
        }
    }
    text
}

/// A new proxy key: `mp-` and 24 random bytes (SPEC A1).
pub(crate) fn proxy_key() -> Result<String> {
    Ok(format!("mp-{}", base64url(&bytes::<24>()?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn base64url_agrees_with_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff, 0xfe]), "-__-");
    }

    #[test]
    fn a1_keys_are_random_and_of_one_shape() {
        let (one, other) = (proxy_key().unwrap(), proxy_key().unwrap());
        assert_ne!(one, other);
        assert!(one.starts_with("mp-") && one.len() == 35, "{one}");
    }
}
