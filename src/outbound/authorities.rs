//! The certificate authorities, and the TLS configuration of connections to other servers.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config_types::read_file;

/// The protocol that a TLS client announces (RFC 7301). Other servers are called with HTTP/1.1.
pub(crate) const HTTP_PROTOCOL: &[u8] = b"http/1.1";

/// The trusted authorities: those of the system, and those of `tls.ca_file`. Cheap to clone.
///
/// The system's authorities are those of `SSL_CERT_FILE` and `SSL_CERT_DIR` if one of the variables is set. They are loaded once,
/// when the first connection needs TLS.
#[derive(Debug, Clone)]
pub(crate) struct Authorities {
    additional: Arc<[CertificateDer<'static>]>,
    loaded: Arc<OnceLock<LoadedAuthorities>>,
}

#[derive(Debug)]
struct LoadedAuthorities {
    roots: Arc<RootCertStore>,
    /// The reason why the system's authorities are missing or incomplete.
    problem: Option<String>,
}

impl Authorities {
    /// Reads the additional authorities. The error is the rule of `tls.ca_file`.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        let additional = match ca_file {
            None => Vec::new(),
            Some(file) => certificates(file).map_err(|problem| match problem {
                Unreadable::File(error) => format!("cannot be read: {error}"),
                Unreadable::NoCertificate => "has no certificate in PEM form".to_owned(),
            })?,
        };
        let mut roots = RootCertStore::empty();
        for certificate in &additional {
            roots
                .add(certificate.clone())
                .map_err(|_| "has a certificate that cannot be an authority")?;
        }
        Ok(Self {
            additional: additional.into(),
            loaded: Arc::default(),
        })
    }

    /// Returns why no certificate can be verified. `None` if no connection needs TLS, or if there is an authority.
    pub(crate) fn missing(&self) -> Option<&str> {
        let loaded = self.loaded.get()?;
        let problem = loaded.problem.as_deref();
        let is_missing = loaded.roots.is_empty();
        is_missing.then(|| problem.unwrap_or("the system has none"))
    }

    /// Returns why some of the system's authorities are missing, if the others were loaded.
    pub(crate) fn incomplete(&self) -> Option<&str> {
        let loaded = self.loaded.get()?;
        let problem = loaded.problem.as_deref();
        problem.filter(|_| !loaded.roots.is_empty())
    }

    /// Returns the configuration of a TLS client, with the files of its certificate and key. The error is a clause that names the
    /// setting.
    pub(crate) fn client_config(
        &self,
        identity: Option<(&Path, &Path)>,
    ) -> Result<ClientConfig, String> {
        let loaded = self.loaded.get_or_init(|| self.load());
        config(Arc::clone(&loaded.roots), identity)
    }

    fn load(&self) -> LoadedAuthorities {
        let system = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system.certs);
        roots.add_parsable_certificates(self.additional.iter().cloned());
        LoadedAuthorities {
            roots: Arc::new(roots),
            problem: system.errors.first().map(ToString::to_string),
        }
    }
}

/// Returns the configuration of a client that never uses TLS. It needs no authority.
pub(crate) fn config_without_authorities() -> ClientConfig {
    let roots = Arc::new(RootCertStore::empty());
    config(roots, None).expect("there is no client certificate that could be invalid")
}

fn config(
    roots: Arc<RootCertStore>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, String> {
    // TLS needs a crypto provider. An error means that one is already installed. Either provider is fine.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = certificates(certificate).map_err(|problem| match problem {
        Unreadable::File(error) => format!("nats.client_cert_file cannot be read: {error}"),
        Unreadable::NoCertificate => {
            "nats.client_cert_file has no certificate in PEM form".to_owned()
        }
    })?;
    let key =
        read_file(key).map_err(|error| format!("nats.client_key_file cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "nats.client_key_file has no private key in PEM form")?;
    builder
        .with_client_auth_cert(certificates, key)
        .map_err(|_| "nats.client_key_file is not the key of nats.client_cert_file".to_owned())
}

/// The reason why a file gives no certificates.
enum Unreadable {
    File(std::io::Error),
    NoCertificate,
}

/// Reads the certificates in a file. There is at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Unreadable> {
    let text = read_file(file).map_err(Unreadable::File)?;
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes());
    match certificates.collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(Unreadable::NoCertificate),
    }
}
