//! The CA certificates for outgoing TLS: the built-in ones plus those of `SSL_CERT_FILE` (SPEC A2).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// TLS settings for every outgoing connection. `extra` is the value of `SSL_CERT_FILE`.
///
/// # Errors
/// A sentence for the operator when the file cannot be read or holds no certificate.
pub(crate) fn client_config(extra: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = extra {
        add_file(&mut roots, path)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // HTTP/1.1 only: one connection for each request in flight.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let shown = path.display();
    let text = fs::read(path).map_err(|error| format!("SSL_CERT_FILE: {shown}: {error}"))?;
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate =
            certificate.map_err(|error| format!("SSL_CERT_FILE: {shown}: {error}"))?;
        let (usable, _unusable) = roots.add_parsable_certificates([certificate]);
        added += usable;
    }
    if added == 0 {
        return Err(format!(
            "SSL_CERT_FILE: {shown}: contains no usable CA certificate; unset it or name a PEM file"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, NamedGroup};

    use super::*;

    #[test]
    fn what_every_client_prefers_is_offered() {
        let config = client_config(None).expect("the built-in roots");
        let provider = config.crypto_provider();
        let mut groups = provider.kx_groups.iter().map(|group| group.name());
        assert_eq!(groups.next(), Some(NamedGroup::X25519));
        let mut ciphers = provider.cipher_suites.iter().map(|cipher| cipher.suite());
        assert!(ciphers.any(|suite| suite == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256));
    }
}
