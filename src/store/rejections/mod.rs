//! Rejections: webhooks that were refused or parked, in `webhook_rejections`.

use std::sync::Arc;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Body, InvalidBody, Notification, Report, RequestInfo};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::domain::rejection::RejectionState;
use crate::domain::timestamp::Timestamp;

/// Parks notifications, applies parked ones, and counts refused requests.
#[async_trait]
pub trait Rejections: Send + Sync {
    /// Looks at the next page of parked notifications, and returns those whose image has a row by now. Returns `None` when no more
    /// are parked, which costs next to nothing.
    async fn parked_page(&self, query: &ParkedQuery) -> Result<Option<ParkedPage>, StoreError>;

    /// Records notifications as the inbox does, and marks their rejections as applied, in one transaction. Returns the outcomes of
    /// those that were not applied before. A rejection whose image has no row stays as it is. Any number of processes may call
    /// this at once: each notification is applied once.
    async fn apply(
        &self,
        notifications: &[(i64, Arc<Notification>)],
        now: Timestamp,
    ) -> Result<Vec<(i64, Outcome)>, StoreError>;

    /// Parks a rejection that is not applied yet, as one about this image.
    async fn park(&self, id: i64, image: &CloudflareId, now: Timestamp) -> Result<(), StoreError>;

    /// Ends the parking of rejections that are parked since before `since`, among those with an id over `after` and up to `last`.
    /// They are kept for an operator.
    async fn expire_parked(
        &self,
        after: i64,
        last: i64,
        since: Timestamp,
    ) -> Result<(), StoreError>;

    /// Adds to the counts of refused requests.
    async fn count(&self, counts: &[RefusalCount]) -> Result<(), StoreError>;

    /// Records that a parked notification could not be applied. After 20 attempts it is not retried.
    async fn record_failure(&self, id: i64, error: &str, now: Timestamp) -> Result<(), StoreError>;
}

/// Shows rejections.
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

    /// Returns up to `limit` unapplied rejections that have a body, in the order of their ids, from the first id after `after`.
    async fn unapplied_rejections(
        &self,
        filter: &RejectionFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError>;
}

/// A page of parked notifications to look at.
#[derive(Debug, Clone, Copy)]
pub struct ParkedQuery {
    /// The page begins after the row with this id.
    pub after: i64,
    /// Only notifications that are parked since this time or later can be applied.
    pub since: Timestamp,
    /// Whether only authenticated notifications can be applied.
    pub authenticated_only: bool,
    /// The most rows that are looked at.
    pub limit: u32,
}

/// The most bytes of a body that are stored. Cloudflare's bodies are far smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The most attempts to apply a parked notification whose row prevents it. The attempts are some seconds apart.
pub(super) const MAX_ATTEMPTS: i32 = 20;

/// A new row of `webhook_rejections`.
pub(super) struct NewRejection {
    pub(super) received_at: Timestamp,
    pub(super) reason: RejectionReason,
    /// The field and the rule that it breaks.
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
    /// A notification whose body breaks a rule.
    pub(super) fn invalid_body(notification: &Notification, invalid: &InvalidBody) -> Self {
        let (reason, body) = (RejectionReason::InvalidPayload, invalid.body.as_bytes());
        Self {
            problem: invalid.problem.clone(),
            ..Self::new(notification, reason, None, body, RejectionState::Stored)
        }
    }

    /// A notification for an image that has no row. It is parked, unless it is too long to be stored whole. Its JSON is stored in
    /// canonical form, which parses as the body did.
    pub(super) fn unknown_image(notification: &Notification, report: &Report) -> Self {
        let body = notification.payload.as_str().as_bytes();
        let state = if body.len() <= MAX_BODY_BYTES {
            RejectionState::Parked
        } else {
            RejectionState::Stored
        };
        let id = Some(report.cloudflare_id.clone());
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

    /// Returns when it was parked, if it is.
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
    /// The client network, as `ADDRESS/BITS`.
    pub network: String,
    /// The number of requests.
    pub count: i64,
}

/// The request of a webhook, as it is stored. All is text: an address may be a network's, and a later release may know other schemes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequestInfo {
    /// The request's id, as in the log.
    pub request_id: String,
    /// The client address, or the client network of a count.
    pub client_address: String,
    /// The scheme that authenticated it; empty if no secret was configured.
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

/// A row of `webhook_rejections`.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The row's id.
    pub id: i64,
    /// When its last byte was read; the start of the minute of a count.
    pub received_at: Timestamp,
    /// The HTTP status of the answer.
    pub status: i32,
    /// The last part of the problem's type in the answer.
    pub reason: String,
    /// The field and the rule that it breaks.
    pub problem: String,
    /// The request.
    pub request_info: StoredRequestInfo,
    /// The image that it is about, if that was understood.
    pub cloudflare_id: Option<String>,
    /// The body or its beginning, if the sender was authenticated. Never logged.
    pub body: Option<Body>,
    /// The length of the whole body.
    pub body_bytes: i32,
    /// The number of requests.
    pub count: i64,
    /// Its state.
    pub state: RejectionState,
    /// When it was applied, or when applying it was last attempted.
    pub settled_at: Option<Timestamp>,
    /// The outcome, or the error of the last attempt.
    pub outcome: String,
}

impl Rejection {
    /// Returns whether its sender was authenticated, not just accepted because no secret was configured.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        !self.request_info.scheme.is_empty()
    }

    /// Returns whether it was applied.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.state == RejectionState::Applied
    }

    /// Returns the body, if the whole of it was stored.
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
    /// Whether some rows of the page are parked for too long.
    pub has_expired: bool,
    /// The rejections of the page that can be applied.
    pub rejections: Vec<Rejection>,
}

/// Selects rejections.
#[derive(Debug, Clone, Default)]
pub struct RejectionFilter {
    /// Those that were refused for this reason.
    pub reason: Option<RejectionReason>,
    /// Those in this state.
    pub state: Option<RejectionState>,
    /// Those that came at this time or later.
    pub since: Option<Timestamp>,
}

/// Returns the state that the column `state` names.
pub(super) fn parse_state(name: &str, id: i64) -> Result<RejectionState, StoreError> {
    RejectionState::from_name(name).ok_or_else(|| StoreError::Undecodable {
        table: "webhook_rejections",
        column: "state",
        id: id.to_string(),
        reason: "must be kept, parked, applied, failed or counted".to_owned(),
    })
}
