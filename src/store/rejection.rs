//! What was not applied, on its way into `webhook_rejections` and out of it.

use crate::domain::id::CloudflareId;
use crate::domain::notification::{Body, Broken, Notification, Origin, Report};
use crate::domain::timestamp::Timestamp;

/// How much of a body is kept. What Cloudflare sends is far smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How many times it is tried to apply a parked notification that something about its row prevents. The tries are some seconds
/// apart, so that a lock which an app holds for a while does no harm.
pub(super) const MAX_ATTEMPTS: i32 = 20;

/// A new row.
pub(super) struct NewRejection {
    pub(super) received_at: Timestamp,
    pub(super) told: Told,
    /// Which field breaks which rule.
    pub(super) problem: String,
    pub(super) origin: Origin,
    pub(super) cloudflare_id: Option<CloudflareId>,
    /// The body, or its beginning.
    pub(super) body: Vec<u8>,
    /// How long the whole body was.
    pub(super) body_bytes: i32,
    pub(super) state: &'static str,
}

/// What the sender was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// The HTTP status.
    pub(super) status: i32,
    /// The last word of the problem's type.
    pub(super) reason: &'static str,
}

/// What those are told who carry no valid proof.
pub(super) const UNAUTHORIZED: Told = Told {
    status: 401,
    reason: "unauthorized",
};

const INVALID_PAYLOAD: Told = Told {
    status: 400,
    reason: "invalid-payload",
};

const UNKNOWN_IMAGE: Told = Told {
    status: 404,
    reason: "unknown-image",
};

impl NewRejection {
    /// A body that breaks a rule.
    pub(super) fn broken(notification: &Notification, broken: &Broken) -> Self {
        Self::new(
            notification,
            INVALID_PAYLOAD,
            None,
            broken.body.as_bytes(),
            "kept",
        )
        .because(broken.problem.clone())
    }

    /// A notification for an image that has no row; it is parked, unless it is too long to be kept as a whole. What is kept of it
    /// is its JSON in canonical form, which reads as the body did.
    pub(super) fn unknown_image(notification: &Notification, report: &Report) -> Self {
        let body = notification.payload.as_str().as_bytes();
        let state = if body.len() <= MAX_BODY_BYTES {
            "parked"
        } else {
            "kept"
        };
        let id = Some(report.cloudflare_id.clone());
        Self::new(notification, UNKNOWN_IMAGE, id, body, state)
    }

    fn new(
        notification: &Notification,
        told: Told,
        cloudflare_id: Option<CloudflareId>,
        body: &[u8],
        state: &'static str,
    ) -> Self {
        Self {
            received_at: notification.received_at,
            told,
            problem: String::new(),
            origin: notification.origin.clone(),
            cloudflare_id,
            body: body[..body.len().min(MAX_BODY_BYTES)].to_vec(),
            body_bytes: i32::try_from(body.len()).unwrap_or(i32::MAX),
            state,
        }
    }

    fn because(self, problem: String) -> Self {
        Self { problem, ..self }
    }
}

/// How many were refused in a minute because they carried no valid proof.
#[derive(Debug, Clone)]
pub struct Counted {
    /// When the minute begins.
    pub minute: Timestamp,
    /// The scheme that they tried; empty for none.
    pub scheme: &'static str,
    /// Where they came from, as `ADDRESS/BITS`.
    pub network: String,
    /// How many.
    pub count: i64,
}

/// A notification that waits for its image's row.
#[derive(Debug, Clone)]
pub struct Parked {
    /// Of its row.
    pub id: i64,
    /// When it came.
    pub received_at: Timestamp,
    /// How it came.
    pub origin: Origin,
    /// Its body; private to the database and the receiver, and never logged.
    pub body: Body,
}

/// The columns of a [`Parked`].
pub(super) struct ParkedColumns {
    pub(super) id: i64,
    pub(super) received_at: Timestamp,
    pub(super) scheme: String,
    pub(super) client_address: String,
    pub(super) request_id: String,
    pub(super) body: Vec<u8>,
}

impl ParkedColumns {
    pub(super) fn decode(self) -> Parked {
        Parked {
            id: self.id,
            received_at: self.received_at,
            origin: Origin {
                request_id: self.request_id,
                client: self.client_address,
                scheme: self.scheme.into(),
            },
            body: self.body[..].into(),
        }
    }
}
