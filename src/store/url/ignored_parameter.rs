//! Parameters without an effect.

use std::fmt;

/// The advice for a parameter that limits the time of an operation.
pub(super) const USE_TIMEOUT: &str = "use database.timeout_secs";

/// A parameter that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredParameter {
    pub(super) name: String,
    /// The setting to use instead, or the reason.
    pub(super) advice: Option<&'static str>,
}

impl fmt::Display for IgnoredParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.advice {
            Some(advice) => write!(f, "{} ({advice})", self.name),
            None => f.write_str(&self.name),
        }
    }
}
