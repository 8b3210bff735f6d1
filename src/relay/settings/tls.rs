//! The `tls` section of the configuration.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The `tls` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    ca_file: PathBuf,
}

impl TlsSettings {
    /// Returns the file of the authorities that are trusted in addition to the system's.
    pub(in crate::relay) fn ca_file(&self) -> Option<&Path> {
        (!self.ca_file.as_os_str().is_empty()).then_some(&*self.ca_file)
    }
}
