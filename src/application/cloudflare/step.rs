//! The steps of a set-up, and of its removal.

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Destination,
    Policy,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Create,
    /// Sends the secret again, because Cloudflare never shows it.
    Update,
    /// Switches a disabled policy on.
    Enable,
    /// The policy is as it should be.
    Keep,
    Delete,
}

/// A step of a set-up, or of its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) subject: Subject,
    pub(crate) change: Change,
    pub(crate) name: String,
    /// The id at Cloudflare. `None` for what a dry run would create.
    pub(crate) id: Option<String>,
}
