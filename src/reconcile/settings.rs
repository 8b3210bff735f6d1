//! The `reconcile` section of the configuration.

use std::time::Duration;

use serde::Deserialize;

use crate::config_types::Bounded;

/// The `reconcile` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    after_minutes: Bounded<0, 10_080>,
}

impl Settings {
    /// Returns the age from which a waiting image is looked up. `None`: the service looks up no image by itself.
    pub(crate) fn after(&self) -> Option<Duration> {
        let minutes = self.after_minutes.count() as u64;
        (minutes > 0).then(|| Duration::from_mins(minutes))
    }
}
