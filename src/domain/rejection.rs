//! The states of a row of `webhook_rejections`.

use super::named::named_enum;

named_enum! {
    /// The state of a rejection.
    pub enum RejectionState {
        /// Stored for an operator. Not applied unless it is reprocessed.
        Stored = "stored",
        /// Waits for the row of its image. Applied when the row exists.
        Parked = "parked",
        /// Applied. Final.
        Applied = "applied",
        /// Failed too often when it was applied. Not retried unless it is reprocessed.
        Failed = "failed",
        /// A count of requests without bodies: unauthenticated, or from an address that is not allowed.
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
