//! An inbound webhook, verified, and parsed as far as it makes sense.

use core::net::IpAddr;
use std::fmt;
use std::sync::Arc;

use super::detail::{Standing, ToldDetails};
use super::id::CloudflareId;
use super::json::Json;
use super::telling::Told;
use super::timestamp::Timestamp;

/// What Cloudflare told us in one webhook.
#[derive(Debug, Clone)]
pub struct Notification {
    /// What it is about.
    pub content: Content,
    /// The whole body, for the audit trail.
    pub payload: Json,
    /// When its last byte was read.
    pub received_at: Timestamp,
    /// How it came.
    pub origin: Origin,
}

impl Notification {
    /// Returns the id of the image that it reports on; `None` if it is about no image.
    #[must_use]
    pub fn image(&self) -> Option<&CloudflareId> {
        match &self.content {
            Content::Report(report) => Some(&report.cloudflare_id),
            Content::TestMessage | Content::OtherProduct | Content::Broken(_) => None,
        }
    }
}

/// How a webhook came, for somebody who looks for it. Nothing of it is text of its own: it is made for every webhook, and read for
/// those that are not applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The request's id, as in the log.
    pub request_id: Option<Arc<str>>,
    /// The address at the other end.
    pub client: Option<IpAddr>,
    /// Which scheme's proof it carried, the first if several; none where none was asked for, and nothing is proved.
    pub scheme: Option<&'static str>,
}

/// What a notification is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An image.
    Report(Report),
    /// Nothing: Cloudflare's "Save and Test".
    TestMessage,
    /// An alert of another Cloudflare product, sent to the same destination.
    OtherProduct,
    /// Nothing that we understand: the body breaks a rule.
    Broken(Broken),
}

/// A body that breaks a rule, from a sender who is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The body, as it came.
    pub body: Body,
    /// Which field breaks which rule.
    pub problem: String,
}

/// The bytes of a body. Its `Debug` tells only how many there are.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Box<[u8]>);

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl Body {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

/// What a notification says about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The image.
    pub cloudflare_id: CloudflareId,
    /// What became of the upload; `None` when only details are told.
    pub status: Option<ReportedStatus>,
    /// The notification's own time, if it says one.
    pub reported_at: Option<Timestamp>,
    /// The rest.
    pub details: ToldDetails,
}

impl Report {
    /// When this was told, for a notification that was received at that time.
    #[must_use]
    pub fn told(&self, received_at: Timestamp) -> Told {
        self.reported_at
            .map_or(Told::OnReceiptAt(received_at), Told::At)
    }

    /// How much the details that it tells count.
    pub(super) fn standing(&self) -> fn(Timestamp) -> Standing {
        match self.status {
            Some(ReportedStatus::Draft) => Standing::Draft,
            Some(ReportedStatus::Uploaded { .. } | ReportedStatus::Failed { .. }) | None => {
                Standing::Settled
            }
        }
    }
}

/// What became of an upload, with what is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportedStatus {
    /// The upload URL exists; the bytes are not there.
    Draft,
    /// The bytes are there, since the given time if one is told.
    Uploaded {
        /// When the upload ended.
        uploaded_at: Option<Timestamp>,
    },
    /// The upload failed.
    Failed {
        /// Cloudflare's words on why.
        error: String,
    },
}

/// What to do with a notification for an id that has no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownImages {
    /// Answer that there is no such image.
    Reject,
    /// Insert the row.
    Create,
}
