//! The trust of outgoing TLS: the built-in CA certificates, and those of `SSL_CERT_FILE` besides (SPEC A2).

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use rustls::{ClientConfig, RootCertStore};

/// TLS settings for every connection that maxpool makes. `extra` is the value of `SSL_CERT_FILE`.
///
/// # Errors
/// A sentence for the operator when the file cannot be read or holds no certificate.
pub(crate) fn client_config(extra: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = extra {
        add_file(&mut roots, path)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Only HTTP/1.1 is spoken: one connection for each request in flight.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// All of the `ring` provider but what loads private keys: we have none, and without it their formats stay out of the program.
fn provider() -> CryptoProvider {
    CryptoProvider {
        key_provider: &NoKeys,
        ..ring::default_provider()
    }
}

#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(
        &self,
        _key: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("maxpool has no TLS key".to_owned()))
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let shown = path.display();
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| format!("SSL_CERT_FILE: {shown}: {error}"))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("SSL_CERT_FILE: {shown}: {error}"))?;
    let (added, _unusable) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(format!(
            "SSL_CERT_FILE: {shown}: holds no usable CA certificate; unset it or name a PEM file"
        ));
    }
    Ok(())
}
