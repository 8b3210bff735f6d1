//! The purpose of a claim and of its lease.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Normal delivery while the circuit breaker is closed.
    Deliver,
    /// One delivery that tests whether the endpoint has recovered.
    Probe,
    /// One delivery that tests whether an endpoint that answered 410 accepts messages again.
    PauseProbe,
}
