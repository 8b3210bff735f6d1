//! The states of a row of `webhook_rejections`.

use super::named::named_enum;

named_enum! {
    /// The state of a rejection.
    pub enum RejectionState {
        /// Stored for an operator. Not applied unless it is reprocessed.
        Stored = "stored",
        /// Waits for its image's row, and is applied when the row exists.
        Parked = "parked",
        /// Applied. Final.
        Applied = "applied",
        /// Applying it failed too often. Not retried unless it is reprocessed.
        Failed = "failed",
        /// A count of unauthenticated or not allowed requests, without bodies.
        Counted = "counted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_names_round_trip() {
        for state in RejectionState::ALL {
            assert_eq!(RejectionState::from_name(state.name()), Some(state));
        }
        assert_eq!(RejectionState::from_name("Stored"), None);
    }
}
