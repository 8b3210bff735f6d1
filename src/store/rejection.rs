//! What was not applied, on its way into `webhook_rejections` and out of it.

use super::StoreError;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Body, Broken, Notification, Origin, Report};
use crate::domain::outcome::RejectionReason;
use crate::domain::rejection::RejectionState;
use crate::domain::timestamp::Timestamp;

/// How much of a body is kept. What Cloudflare sends is far smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How many times it is tried to apply a parked notification that something about its row prevents. The tries are some seconds
/// apart, so that a lock which an app holds for a while does no harm.
pub(super) const MAX_ATTEMPTS: i32 = 20;

/// A new row.
pub(super) struct NewRejection {
    pub(super) received_at: Timestamp,
    pub(super) reason: RejectionReason,
    /// Which field breaks which rule.
    pub(super) problem: String,
    pub(super) origin: StoredOrigin,
    pub(super) cloudflare_id: Option<CloudflareId>,
    /// The body, or its beginning.
    pub(super) body: Vec<u8>,
    /// How long the whole body was.
    pub(super) body_bytes: i32,
    pub(super) state: RejectionState,
}

impl NewRejection {
    /// A body that breaks a rule.
    pub(super) fn broken(notification: &Notification, broken: &Broken) -> Self {
        Self::new(
            notification,
            RejectionReason::InvalidPayload,
            None,
            broken.body.as_bytes(),
            RejectionState::Kept,
        )
        .because(broken.problem.clone())
    }

    /// A notification for an image that has no row; it is parked, unless it is too long to be kept as a whole. What is kept of it
    /// is its JSON in canonical form, which reads as the body did.
    pub(super) fn unknown_image(notification: &Notification, report: &Report) -> Self {
        let body = notification.payload.as_str().as_bytes();
        let state = if body.len() <= MAX_BODY_BYTES {
            RejectionState::Parked
        } else {
            RejectionState::Kept
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
            origin: StoredOrigin::from(&notification.origin),
            cloudflare_id,
            body: body[..body.len().min(MAX_BODY_BYTES)].to_vec(),
            body_bytes: i32::try_from(body.len()).unwrap_or(i32::MAX),
            state,
        }
    }

    /// Since when it is parked, if it is.
    pub(super) fn parked_at(&self) -> Option<Timestamp> {
        (self.state == RejectionState::Parked).then_some(self.received_at)
    }

    fn because(self, problem: String) -> Self {
        Self { problem, ..self }
    }
}

/// How many were turned away in a minute.
#[derive(Debug, Clone)]
pub struct RefusalCount {
    /// When the minute begins.
    pub minute: Timestamp,
    /// Why.
    pub reason: RejectionReason,
    /// The scheme that they tried; empty for none.
    pub scheme: &'static str,
    /// Where they came from, as `ADDRESS/BITS`.
    pub network: String,
    /// How many.
    pub count: i64,
}

/// How a webhook came, as it is stored: text, since an address may also be a whole network's, and a later release may know other
/// schemes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOrigin {
    /// The request's id, as in the log.
    pub request_id: String,
    /// The address at the other end, or, of those that are counted, their network.
    pub client_address: String,
    /// Which scheme's proof it carried; empty where none was asked for, and nothing is proved.
    pub scheme: String,
}

impl From<&Origin> for StoredOrigin {
    fn from(origin: &Origin) -> Self {
        Self {
            request_id: origin.request_id.as_deref().unwrap_or_default().to_owned(),
            client_address: origin.client.map_or_else(String::new, |ip| ip.to_string()),
            scheme: origin.scheme.unwrap_or_default().to_owned(),
        }
    }
}

/// A row of `webhook_rejections`.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// Of the row.
    pub id: i64,
    /// When its last byte was read; of those that are counted, when their minute begins.
    pub received_at: Timestamp,
    /// The HTTP status that its sender was told.
    pub status: i32,
    /// The last word of the problem's type that its sender was told.
    pub reason: String,
    /// Which field breaks which rule.
    pub problem: String,
    /// How it came.
    pub origin: StoredOrigin,
    /// The image that it is about, as far as that was understood.
    pub cloudflare_id: Option<String>,
    /// The body or its beginning, where the sender was proved. Never logged.
    pub body: Option<Body>,
    /// How long the whole body was.
    pub body_bytes: i32,
    /// How many there were.
    pub count: i64,
    /// Its state.
    pub state: RejectionState,
    /// When it was applied, or was tried last.
    pub settled_at: Option<Timestamp>,
    /// What it came to then.
    pub outcome: String,
}

impl Rejection {
    /// Whether its sender was proved, rather than believed because no secret was configured.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        !self.origin.scheme.is_empty()
    }

    /// Whether it was applied.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.state == RejectionState::Applied
    }

    /// The body, if the whole of it was kept.
    #[must_use]
    pub fn whole_body(&self) -> Option<&Body> {
        let body = self.body.as_ref()?;
        (i32::try_from(body.as_bytes().len()) == Ok(self.body_bytes)).then_some(body)
    }
}

/// Some parked notifications that were looked at.
#[derive(Debug, Clone)]
pub struct Due {
    /// The id of the last of them.
    pub last: i64,
    /// Whether some of them are parked since before the time that was asked for.
    pub has_expired: bool,
    /// Those that can be applied.
    pub rejections: Vec<Rejection>,
}

/// Which rejections are meant.
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
pub(super) fn rejection_state(name: &str, id: i64) -> Result<RejectionState, StoreError> {
    RejectionState::named(name).ok_or_else(|| StoreError::Undecodable {
        table: "webhook_rejections",
        column: "state",
        id: id.to_string(),
        reason: "must be kept, parked, applied, failed or counted".to_owned(),
    })
}
