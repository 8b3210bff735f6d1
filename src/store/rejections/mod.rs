//! Rejections: webhooks that were refused or parked, stored in `webhook_rejections`.

use std::sync::Arc;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Body, InvalidBody, Notification, RequestInfo};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::domain::rejection::RejectionState;
use crate::domain::timestamp::Timestamp;

/// The store of rejections: parks, applies and expires them, and counts refused requests.
#[async_trait]
pub trait Rejections: Send + Sync {
    /// Reads the next page of parked notifications, and returns those whose image has a row now. Returns `None` if no parked
    /// notification follows. A partial index makes this fast.
    async fn parked_page(&self, query: &ParkedQuery) -> Result<Option<ParkedPage>, StoreError>;

    /// Records rejected notifications as the inbox does, and marks their rejections as applied, in one transaction. Returns the
    /// outcomes, except for rejections that were applied before. A rejection whose image has no row stays unchanged. Several
    /// processes may call this at once: each notification is applied once.
    async fn apply(
        &self,
        notifications: &[(i64, Arc<Notification>)],
        now: Timestamp,
    ) -> Result<Vec<(i64, Outcome)>, StoreError>;

    /// Parks a rejection until this image has a row. Does nothing if it is already applied.
    async fn park(&self, id: i64, image: &CloudflareId, now: Timestamp) -> Result<(), StoreError>;

    /// Expires rejections that were parked before the time `parked_before`. They become `stored`. Only ids above `after` and up to
    /// `last` are considered.
    async fn expire_parked(
        &self,
        after: i64,
        last: i64,
        parked_before: Timestamp,
    ) -> Result<(), StoreError>;

    /// Adds counts of refused requests to the stored counts. Returns the number of counts that the database suppressed: a retry
    /// would add the others again.
    async fn add_refusals(&self, counts: &[RefusalCount]) -> Result<u64, StoreError>;

    /// Records a failed attempt to apply a parked notification. After 20 failed attempts its state becomes `failed`.
    async fn record_failure(&self, id: i64, error: &str, now: Timestamp) -> Result<(), StoreError>;
}

/// The catalog of rejections: lists them.
#[async_trait]
pub trait RejectionCatalog: Send + Sync {
    /// Returns the rejection with this id.
    async fn find_rejection(&self, id: i64) -> Result<Option<Rejection>, StoreError>;

    /// Returns up to `limit` rejections, newest first, without their bodies.
    async fn newest_rejections(
        &self,
        filter: &RejectionFilter,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError>;

    /// Returns up to `limit` unapplied rejections that have a body, in the order of their ids. Begins after the id `after`.
    async fn unapplied_rejections(
        &self,
        filter: &RejectionFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError>;
}

/// A page of parked notifications to read.
#[derive(Debug, Clone, Copy)]
pub struct ParkedQuery {
    /// The id before the page: the page begins with the next one.
    pub after: i64,
    /// The earliest time of parking. Notifications that were parked earlier have expired.
    pub since: Timestamp,
    /// True to skip notifications whose sender was not authenticated.
    pub authenticated_only: bool,
    /// The maximum number of rows in the page.
    pub limit: u32,
}

/// The maximum number of bytes of a body that are stored. Cloudflare's bodies are far smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The maximum number of failed attempts to apply a parked notification. The attempts are some seconds apart.
pub(super) const MAX_ATTEMPTS: i32 = 20;

/// A new row of `webhook_rejections`.
pub(super) struct NewRejection {
    pub(super) received_at: Timestamp,
    pub(super) reason: RejectionReason,
    /// The invalid field and the rule that it breaks; empty for other reasons.
    pub(super) problem: String,
    pub(super) request_info: StoredRequestInfo,
    pub(super) cloudflare_id: Option<CloudflareId>,
    /// The body, or its beginning.
    pub(super) body: Vec<u8>,
    /// The length of the whole body.
    pub(super) body_bytes: i32,
    pub(super) state: RejectionState,
}

impl NewRejection {
    /// Returns the rejection of a notification whose body breaks a rule.
    pub(super) fn invalid_body(notification: &Notification, invalid: &InvalidBody) -> Self {
        let (reason, body) = (RejectionReason::InvalidPayload, invalid.body.as_bytes());
        Self {
            problem: invalid.problem.clone(),
            ..Self::new(notification, reason, None, body, RejectionState::Stored)
        }
    }

    /// Returns the rejection of a notification whose image has no row. It is parked, unless its body is too long to be stored
    /// whole. The body is stored as canonical JSON, which parses to the same notification.
    pub(super) fn unknown_image(notification: &Notification, id: &CloudflareId) -> Self {
        let body = notification.payload.as_str().as_bytes();
        let state = if body.len() <= MAX_BODY_BYTES {
            RejectionState::Parked
        } else {
            RejectionState::Stored
        };
        let id = Some(id.clone());
        Self::new(notification, RejectionReason::UnknownImage, id, body, state)
    }

    fn new(
        notification: &Notification,
        reason: RejectionReason,
        cloudflare_id: Option<CloudflareId>,
        body: &[u8],
        state: RejectionState,
    ) -> Self {
        Self {
            received_at: notification.received_at,
            reason,
            problem: String::new(),
            request_info: StoredRequestInfo::from(&notification.request_info),
            cloudflare_id,
            body: body[..body.len().min(MAX_BODY_BYTES)].to_vec(),
            body_bytes: i32::try_from(body.len()).unwrap_or(i32::MAX),
            state,
        }
    }

    /// Returns the time of parking, if it is parked.
    pub(super) fn parked_at(&self) -> Option<Timestamp> {
        (self.state == RejectionState::Parked).then_some(self.received_at)
    }
}

/// The number of requests that were refused in a minute, for one reason, scheme and network.
#[derive(Debug, Clone)]
pub struct RefusalCount {
    /// The start of the minute.
    pub minute: Timestamp,
    /// The reason.
    pub reason: RejectionReason,
    /// The scheme that the requests tried; empty for none.
    pub scheme: &'static str,
    /// The client network: `ADDRESS/BITS`, or `*` for all networks without a row of their own; empty if the client address is
    /// unknown.
    pub network: String,
    /// The number of requests.
    pub count: i64,
}

/// The request of a webhook, as stored. All fields are text: an address may be a network, and another release may have other
/// schemes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequestInfo {
    /// The request's id, as in the log.
    pub request_id: String,
    /// The client address, or the client network of a count.
    pub client_address: String,
    /// The scheme that authenticated the request; empty if no secret was configured. For a count, the scheme that was tried.
    pub scheme: String,
}

impl From<&RequestInfo> for StoredRequestInfo {
    fn from(request_info: &RequestInfo) -> Self {
        Self {
            request_id: request_info
                .request_id
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            client_address: request_info
                .client
                .map_or_else(String::new, |ip| ip.to_string()),
            scheme: request_info.scheme.unwrap_or_default().to_owned(),
        }
    }
}

/// A row of `webhook_rejections`: one rejection, or a count of the refused requests in a minute (state `counted`).
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The row's id.
    pub id: i64,
    /// The time when the last byte of the body arrived; for a count, the start of its minute.
    pub received_at: Timestamp,
    /// The HTTP status of the response.
    pub status: i32,
    /// The last part of the problem `type` in the response.
    pub reason: String,
    /// The invalid field and the rule that it breaks; empty for other reasons.
    pub problem: String,
    /// The request of the webhook.
    pub request_info: StoredRequestInfo,
    /// Cloudflare's id of the image, if known.
    pub cloudflare_id: Option<String>,
    /// The body or its beginning; `None` for a count and in a list. Never logged.
    pub body: Option<Body>,
    /// The length of the whole body.
    pub body_bytes: i32,
    /// The number of requests.
    pub count: i64,
    /// The rejection's state.
    pub state: RejectionState,
    /// The time when it was applied, or of the last failed attempt.
    pub settled_at: Option<Timestamp>,
    /// The outcome, or the error of the last attempt.
    pub outcome: String,
}

impl Rejection {
    /// Returns whether the sender was authenticated. It is false if the service ran without a secret.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        !self.request_info.scheme.is_empty()
    }

    /// Returns whether the rejection was applied.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.state == RejectionState::Applied
    }

    /// Returns the body, if it was stored completely.
    #[must_use]
    pub fn whole_body(&self) -> Option<&Body> {
        let body = self.body.as_ref()?;
        (i32::try_from(body.as_bytes().len()) == Ok(self.body_bytes)).then_some(body)
    }
}

/// A page of parked notifications.
#[derive(Debug, Clone)]
pub struct ParkedPage {
    /// The id of the last row of the page.
    pub last_id: i64,
    /// True if the page has rows that have expired.
    pub has_expired_rows: bool,
    /// The rejections of the page that can be applied now.
    pub rejections: Vec<Rejection>,
}

/// A selection of rejections. A field that is `None` selects all.
#[derive(Debug, Clone, Default)]
pub struct RejectionFilter {
    /// The reason of the rejection.
    pub reason: Option<RejectionReason>,
    /// The state of the rejection.
    pub state: Option<RejectionState>,
    /// The earliest time of receipt.
    pub since: Option<Timestamp>,
}

/// Parses the column `state`.
pub(super) fn parse_state(name: &str, id: i64) -> Result<RejectionState, StoreError> {
    RejectionState::from_name(name).ok_or_else(|| StoreError::Undecodable {
        table: "webhook_rejections",
        column: "state",
        id: id.to_string(),
        reason: "must be stored, parked, applied, failed or counted".to_owned(),
    })
}
