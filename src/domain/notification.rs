//! An inbound webhook after authentication and parsing.

use core::net::IpAddr;
use std::fmt;
use std::sync::Arc;

use super::detail::{Precedence, ReportedDetails};
use super::id::CloudflareId;
use super::image::Status;
use super::json::Json;
use super::precedence::EffectiveTime;
use super::timestamp::Timestamp;

/// An authenticated webhook.
#[derive(Debug, Clone)]
pub struct Notification {
    /// The parsed content.
    pub content: Content,
    /// The whole body, for the audit log.
    pub payload: Json,
    /// The time at which the last byte of the body was read.
    pub received_at: Timestamp,
    /// The request that carried the notification.
    pub request_info: RequestInfo,
}

impl Notification {
    /// Returns the notification without the details of its image. `None` if it reports no details, or nothing else.
    #[must_use]
    pub fn without_details(&self) -> Option<Self> {
        match &self.content {
            Content::Report(report)
                if report.status.is_some() && report.details != ReportedDetails::default() =>
            {
                let report = Report {
                    details: ReportedDetails::default(),
                    ..report.clone()
                };
                Some(Self {
                    content: Content::Report(report),
                    ..self.clone()
                })
            }
            Content::Report(_)
            | Content::TestMessage
            | Content::OtherAlert
            | Content::Hint(_)
            | Content::Invalid(_) => None,
        }
    }

    /// Returns the status that the notification reports for its image, if any.
    #[must_use]
    pub fn reported_status(&self) -> Option<Status> {
        let Content::Report(report) = &self.content else {
            return None;
        };
        Some(match report.status.as_ref()? {
            ReportedStatus::Draft => Status::Draft,
            ReportedStatus::Expired => Status::Expired,
            ReportedStatus::Uploaded { .. } => Status::Uploaded,
            ReportedStatus::Failed { .. } => Status::Failed,
        })
    }

    /// Returns the image that the notification is about, if any.
    #[must_use]
    pub fn image(&self) -> Option<&CloudflareId> {
        match &self.content {
            Content::Report(report) => Some(&report.cloudflare_id),
            Content::Hint(Hint {
                image: HintedImage::Named(id),
                ..
            }) => Some(id),
            Content::Hint(_) | Content::TestMessage | Content::OtherAlert | Content::Invalid(_) => {
                None
            }
        }
    }

    /// Returns the texts one of which may be the id of the image.
    #[must_use]
    pub fn candidates(&self) -> &[CloudflareId] {
        match &self.content {
            Content::Hint(Hint {
                image: HintedImage::Candidates(candidates),
                ..
            }) => candidates,
            Content::Hint(_)
            | Content::Report(_)
            | Content::TestMessage
            | Content::OtherAlert
            | Content::Invalid(_) => &[],
        }
    }
}

/// The request of a webhook, as stored with a rejection.
///
/// Created for every webhook but read only for rejections, so it must not allocate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The request id, as in the log.
    pub request_id: Option<Arc<str>>,
    /// The client address.
    pub client: Option<IpAddr>,
    /// The name of the scheme that verified the request; `None` if authentication is disabled.
    pub scheme: Option<&'static str>,
}

/// The content of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A report on an image.
    Report(Report),
    /// The test message that "Save and Test" in the Cloudflare dashboard sends.
    TestMessage,
    /// An alert of another Cloudflare product, sent to the same destination.
    OtherAlert,
    /// A notification that does not say which image it is about, or what became of it. The service asks Cloudflare.
    Hint(Hint),
    /// A body that breaks a rule.
    Invalid(InvalidBody),
}

/// A notification about an image that cannot be read, with what it says about the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The image.
    pub image: HintedImage,
    /// The body, for the case that no image is found.
    pub invalid: InvalidBody,
}

/// What a hint says about its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HintedImage {
    /// The notification names the image.
    Named(CloudflareId),
    /// One of these texts may be the id of the image.
    Candidates(Vec<CloudflareId>),
}

/// The body of an authenticated webhook that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidBody {
    /// The body as received.
    pub body: Body,
    /// The field and the rule that it breaks.
    pub problem: String,
}

/// The bytes of a body. Its `Debug` shows only their number.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Box<[u8]>);

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl Body {
    /// Returns the bytes.
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

/// A report on one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The image's id.
    pub cloudflare_id: CloudflareId,
    /// The result of the upload; `None` if only details are reported.
    pub status: Option<ReportedStatus>,
    /// The time that the notification states, if any.
    pub reported_at: Option<Timestamp>,
    /// The reported details.
    pub details: ReportedDetails,
}

impl Report {
    /// Returns the time that orders the report: the stated time, or else the time of receipt.
    #[must_use]
    pub fn effective_time(&self, received_at: Timestamp) -> EffectiveTime {
        self.reported_at
            .map_or(EffectiveTime::Received(received_at), EffectiveTime::Stated)
    }

    /// Returns the precedence of the report's details, as a function of its time.
    pub(super) fn precedence(&self) -> fn(Timestamp) -> Precedence {
        match self.status {
            Some(ReportedStatus::Draft) => Precedence::Draft,
            Some(
                ReportedStatus::Expired
                | ReportedStatus::Uploaded { .. }
                | ReportedStatus::Failed { .. },
            )
            | None => Precedence::Final,
        }
    }
}

/// The result of an upload, as Cloudflare reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportedStatus {
    /// The upload URL exists. The file is not uploaded yet.
    Draft,
    /// The upload URL expired before the file was uploaded. No webhook reports it; a lookup finds it.
    Expired,
    /// The file is uploaded.
    Uploaded {
        /// The end of the upload, if it is reported.
        uploaded_at: Option<Timestamp>,
    },
    /// The upload failed.
    Failed {
        /// Cloudflare's error message.
        error: String,
    },
}

/// The policy for notifications about an image without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownImages {
    /// The webhook is refused with 404.
    Reject,
    /// The row is inserted.
    Create,
}
