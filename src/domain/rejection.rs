//! The states of a row of `webhook_rejections`.

/// The state of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionState {
    /// Stored for an operator. Not applied unless it is reprocessed.
    Kept,
    /// Waits for its image's row, and is applied when the row exists.
    Parked,
    /// Applied. Final.
    Applied,
    /// Applying it failed too often. Not retried unless it is reprocessed.
    Failed,
    /// A count of unauthenticated or not allowed requests, without bodies.
    Counted,
}

impl RejectionState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Kept,
        Self::Parked,
        Self::Applied,
        Self::Failed,
        Self::Counted,
    ];

    /// Returns the word in the column `state` and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Parked => "parked",
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Counted => "counted",
        }
    }

    /// Returns the state with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_states() {
        for state in RejectionState::ALL {
            assert_eq!(RejectionState::named(state.name()), Some(state));
        }
        assert_eq!(RejectionState::named("Kept"), None);
    }
}
