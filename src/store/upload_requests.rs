//! The requests for upload URLs that have an idempotency key.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::clock::ClockReading;
use crate::domain::id::CloudflareId;
use crate::domain::image::NewImage;
use crate::domain::timestamp::Timestamp;

/// The requests for upload URLs that have an idempotency key. A repeated request gets the answer of the first one.
#[async_trait]
pub trait UploadRequests: Send + Sync {
    /// Begins the first attempt of a request, and inserts the row of its image. If the key is known, repeats the last attempt when it
    /// was interrupted, or returns its state. Also deletes some old requests.
    async fn begin(
        &self,
        request: &NewUploadRequest<'_>,
        now: ClockReading,
    ) -> Result<Begun, StoreError>;

    /// Stores the answer of an attempt, and the URL in the row of the image. Inserts the row if it is missing: Cloudflare has made the
    /// id, or the app has deleted the row.
    async fn finish(
        &self,
        attempt: &UploadAttempt<'_>,
        answer: &UploadAnswer,
        image: &NewImage,
        now: Timestamp,
    ) -> Result<UploadLeaseResult, StoreError>;

    /// Ends an attempt that failed while Cloudflare may have the image. The next request with the key makes another attempt.
    async fn interrupt(&self, attempt: &UploadAttempt<'_>)
    -> Result<UploadLeaseResult, StoreError>;

    /// Removes the request of an attempt that certainly had no effect. The row of the image stays.
    async fn remove(&self, attempt: &UploadAttempt<'_>) -> Result<UploadLeaseResult, StoreError>;
}

/// A request to begin.
#[derive(Debug)]
pub struct NewUploadRequest<'a> {
    /// The attempt.
    pub attempt: UploadAttempt<'a>,
    /// The SHA-256 of the request, in hex digits.
    pub request_digest: &'a str,
    /// The image, unless Cloudflare makes its id.
    pub image: Option<&'a NewImage>,
    /// The time after which another attempt may begin.
    pub lease_time: Duration,
    /// The time before which requests are old.
    pub old_before: Timestamp,
}

/// An attempt to create the upload URL of a request.
#[derive(Debug, Clone, Copy)]
pub struct UploadAttempt<'a> {
    /// The id of the request.
    pub request: &'a str,
    /// The id of the attempt. Only the attempt with the lease may store its result.
    pub lease: &'a str,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadAnswer {
    /// The id of the image.
    pub cloudflare_id: CloudflareId,
    /// The URL, which is secret.
    pub upload_url: String,
    /// The time until which the URL works.
    pub expires_at: Timestamp,
}

/// The state of a request after its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is the first attempt.
    First,
    /// An earlier attempt was interrupted. Cloudflare may have the image with this id. `None` means that Cloudflare makes the id.
    Again(Option<CloudflareId>),
    /// An attempt is in progress.
    Running,
    /// The answer is known.
    Finished(UploadAnswer),
    /// The key belongs to another request.
    OtherRequest,
    /// A row with the id of the image exists. The request is not stored.
    ImageExists,
}

/// The result of an attempt's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadLeaseResult {
    /// It is stored.
    Stored,
    /// Another attempt has the lease, or the request was deleted. Nothing is stored.
    Lost,
}
