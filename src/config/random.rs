//! Random bytes and their text form, for keys, PKCE and OAuth states.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, Result};

/// `N` bytes from the TLS library's random source, which is the system's.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::operator("the system provides no random bytes")),
    }
}

/// Base64url without padding (RFC 4648 section 5).
pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
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
    fn a1_keys_are_random_and_of_one_shape() {
        let (one, other) = (proxy_key().unwrap(), proxy_key().unwrap());
        assert_ne!(one, other);
        assert!(one.starts_with("mp-") && one.len() == 35, "{one}");
    }
}
