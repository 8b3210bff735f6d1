//! The errors of actions.

use crate::domain::id::CloudflareId;
use crate::store::StoreError;

/// The reason why an action failed. Each variant has a different remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error("the tables are not up to date. Run `migrate`.")]
    TablesOutdated,

    #[error("the id is too long for the unique index on cloudflare_id")]
    ImageIdTooLong,
    #[error("the image {0} is already registered. `images show` prints it.")]
    ImageExists(CloudflareId),
    #[error("there is no image {0}. `images add` registers one.")]
    ImageNotFound(CloudflareId),
    #[error("there is no image {0}. Nothing was deleted.")]
    NoImageToDelete(CloudflareId),

    #[error("there is no rejection {0}. `rejections list` prints the newest ones.")]
    RejectionNotFound(i64),
    #[error("rejection {0} only counts refused requests. It has no body that can be applied.")]
    RejectionWithoutBody(i64),
    #[error("could not apply the parked notifications. A running service tries again.")]
    ParkedNotApplied(#[source] StoreError),

    #[error("there is no delivery {0}. `deliveries list` prints the newest ones.")]
    DeliveryNotFound(i64),
    #[error("delivery {0} is not finished. It waits for an attempt, or an attempt is in progress.")]
    DeliveryNotFinished(i64),
    #[error(
        "the database left {0} of the selected deliveries unchanged. Check the triggers and row-level security policies of relay_deliveries."
    )]
    DeliveriesSuppressed(u64),
    #[error("no deliveries are selected. Use --endpoint, and add --status, --since or both.")]
    NothingSelected,

    #[error(
        "there is no endpoint {0:?} in the configuration. `endpoints list` prints all endpoints."
    )]
    EndpointNotConfigured(String),
    #[error("the endpoint {0:?} is in the configuration. Use --yes to change its deliveries.")]
    EndpointConfigured(String),
    #[error("the deliveries already belong to {0}. Name another endpoint with --to.")]
    SameEndpoint(String),
    #[error("the configuration pauses {0}. Set paused = false and restart the service.")]
    PausedBySettings(String),
    /// The event does not become a message: it is invalid, or the endpoint's filter drops it.
    #[error("{0}")]
    NothingToSend(String),
    #[error("{endpoint} did not accept the message: {reason}")]
    TestFailed { endpoint: String, reason: String },

    #[error(transparent)]
    Store(#[from] StoreError),
}
