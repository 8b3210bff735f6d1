//! The `tls` section of the configuration.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::authorities::Authorities;
use crate::config_types::InvalidSetting;

/// The `tls` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    ca_file: PathBuf,
}

impl Settings {
    /// Reads the file of the authorities that are trusted in addition to the system's.
    pub(crate) fn authorities(&self) -> Result<Authorities, InvalidSetting> {
        let ca_file = (!self.ca_file.as_os_str().is_empty()).then_some(&*self.ca_file);
        Authorities::new(ca_file.map(Path::new)).map_err(|rule| InvalidSetting {
            key: "tls.ca_file",
            rule,
        })
    }
}
