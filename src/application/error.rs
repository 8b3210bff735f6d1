//! The reasons why an action fails.

use crate::domain::id::CloudflareId;
use crate::store::StoreError;

/// The reason why an action failed. Each variant needs a different answer from the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error("the tables are not up to date; run `migrate`")]
    TablesOutdated,

    #[error("the id is too long for the unique index on cloudflare_id")]
    ImageIdTooLong,
    #[error("the image {0} is registered already; see `images show`")]
    ImageExists(CloudflareId),
    #[error("there is no image {0}; `images add` registers one")]
    ImageNotFound(CloudflareId),
    #[error("there is no image {0}, so there is nothing to delete")]
    NoImageToDelete(CloudflareId),

    #[error("there is no rejection {0}; `rejections list` shows what there is")]
    RejectionNotFound(i64),
    #[error("of the rejection {0} no body was kept: its sender was not proved")]
    RejectionWithoutBody(i64),
    #[error("the parked notifications could not be applied; a running service tries again")]
    ParkedNotApplied(#[source] StoreError),

    #[error("there is no delivery {0}; `deliveries list` shows what there is")]
    DeliveryNotFound(i64),
    #[error("the delivery {0} is not finished: it still waits, or an attempt is under way")]
    DeliveryNotFinished(i64),
    #[error(
        "no deliveries are selected: name an endpoint with --endpoint, and add --status, --since or both"
    )]
    NothingSelected,

    #[error("no endpoint is called {0:?} in the settings; `endpoints list` shows which there are")]
    EndpointNotConfigured(String),
    #[error("{0} is paused by its settings: set paused = false, and start the service again")]
    PausedBySettings(String),
    /// The event cannot be turned into a message for the endpoint, or the endpoint filters it out.
    #[error("{0}")]
    NothingToSend(String),
    #[error("{endpoint} did not take it: {reason}")]
    TestFailed { endpoint: String, reason: String },

    #[error(transparent)]
    Store(#[from] StoreError),
}
