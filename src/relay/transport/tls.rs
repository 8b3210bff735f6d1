//! The TLS configuration of connections to endpoints.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config_types::read_file;

/// Returns the configuration of a TLS client, with the files of its certificate and key. The error is a clause that names the
/// setting.
pub(super) fn client_config(identity: Option<(&Path, &Path)>) -> Result<ClientConfig, String> {
    // TLS needs a crypto provider. An error means that one is already installed. Either provider is fine.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = read_file(certificate)
        .map_err(|error| format!("nats.client_cert_file cannot be read: {error}"))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(certificates.as_bytes())
        .filter_map(Result::ok)
        .collect();
    if certificates.is_empty() {
        return Err("nats.client_cert_file has no certificate in PEM form".to_owned());
    }
    let key =
        read_file(key).map_err(|error| format!("nats.client_key_file cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "nats.client_key_file has no private key in PEM form")?;
    builder
        .with_client_auth_cert(certificates, key)
        .map_err(|_| "nats.client_key_file is not the key of nats.client_cert_file".to_owned())
}
