//! The settings of NATS endpoints, beyond the URL.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config_types::Secret;

/// The identity of the service at NATS servers, and its inbox. Every key has a default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::relay) struct NatsSettings {
    credentials_file: PathBuf,
    /// The seed of a user's key pair.
    pub(in crate::relay) nkey_secret: Secret,
    client_cert_file: PathBuf,
    client_key_file: PathBuf,
    inbox_prefix: String,
}

impl NatsSettings {
    /// Returns the file with a user's JWT and seed, as `nsc` writes it.
    pub(in crate::relay) fn credentials_file(&self) -> Option<&Path> {
        given(&self.credentials_file)
    }

    /// Returns the files of a client certificate and its key. The error is a clause that names the setting.
    pub(in crate::relay) fn client_identity(&self) -> Result<Option<(&Path, &Path)>, String> {
        match (given(&self.client_cert_file), given(&self.client_key_file)) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(
                "nats.client_cert_file and nats.client_key_file belong together. Set both."
                    .to_owned(),
            ),
        }
    }

    /// Returns the prefix of the subjects on which the server confirms messages. The error is a clause that names the setting.
    pub(in crate::relay) fn inbox_prefix(&self) -> Result<Option<&str>, String> {
        let prefix = self.inbox_prefix.trim();
        let is_token = |token: &str| {
            !token.is_empty()
                && !token
                    .contains(|c: char| "*>".contains(c) || c.is_whitespace() || c.is_control())
        };
        match prefix {
            "" => Ok(None),
            prefix if prefix.split('.').all(is_token) => Ok(Some(prefix)),
            _ => Err(
                "nats.inbox_prefix must be tokens separated by dots, without * and >".to_owned(),
            ),
        }
    }
}

/// Returns a path, unless it is empty.
fn given(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}
