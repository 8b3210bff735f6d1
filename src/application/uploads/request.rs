//! A requested upload URL: its rules, the row of its image, and the call to Cloudflare.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::super::Context;
use crate::cloudflare::{ApiError, Client, ErrorKind, NewUpload};
use crate::domain::id::CloudflareId;
use crate::domain::image::NewImage;
use crate::domain::json::Json;
use crate::domain::timestamp::Timestamp;
use crate::random::uuid_v7;
use crate::reconcile::share_budget;
use crate::store::StoreError;

/// The most bytes of metadata that Cloudflare stores.
const MAX_METADATA_BYTES: usize = 1024;

/// The shortest time for which a URL is requested. Cloudflare refuses less than 2 minutes, and counts from the arrival of the call.
const SHORTEST_TIME: Duration = Duration::from_secs(150);

/// The parts that every action on uploads needs.
pub(crate) struct Caller<'a> {
    pub(super) context: &'a Context,
    pub(super) client: Client,
    /// Cancelled when calls to Cloudflare must be given up.
    pub(super) cutoff: &'a CancellationToken,
}

impl<'a> Caller<'a> {
    /// Creates a caller. Its calls count together with those of other processes.
    pub(crate) fn new(
        context: &'a Context,
        client: &Client,
        cutoff: &'a CancellationToken,
    ) -> Self {
        Self {
            context,
            client: share_budget(client.clone(), &context.store, &context.clock),
            cutoff,
        }
    }
}

/// A requested upload URL.
pub(crate) struct UploadRequest {
    /// The id of the image. The service makes one if it is `None`.
    pub(crate) id: Option<CloudflareId>,
    pub(crate) filename: String,
    pub(crate) creator: String,
    /// An object, for the row and for Cloudflare.
    pub(crate) metadata: Json,
    /// The time for which the URL works.
    pub(crate) valid_for: Duration,
    pub(crate) require_signed_urls: bool,
}

/// A created upload URL.
#[derive(Debug, Serialize)]
pub(crate) struct UploadView {
    pub(crate) id: String,
    pub(crate) upload_url: String,
    pub(crate) expires_at: String,
}

/// The reason why there is no upload URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("Cloudflare stores at most {MAX_METADATA_BYTES} bytes of metadata")]
    MetadataTooLong,
    #[error("an image that needs signed URLs cannot have an id of your own")]
    IdWithSignedUrls,
    #[error(
        "Cloudflare accepts no id that is a UUID, or that has a slash at its beginning or its end"
    )]
    IdNotCustom,
    #[error("the id is too long for the unique index on cloudflare_id")]
    IdTooLong,
    #[error("the image {0} is already registered. `images show` prints it.")]
    Exists(CloudflareId),
    #[error("Cloudflare made an id that is not valid")]
    InvalidId,
    #[error("the row of the image {0} was deleted before its upload URL was stored")]
    RowDeleted(CloudflareId),
    #[error("the idempotency key belongs to another request")]
    KeyReused,
    #[error("a request with the same idempotency key is in progress")]
    InProgress,
    #[error("Cloudflare has the image {0}, and the answer to an earlier attempt was lost")]
    UrlLost(CloudflareId),
    #[error("the service is stopping, and Cloudflare has not answered")]
    Stopping,
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A request that follows the rules, with the id of its image.
pub(super) struct PreparedUpload {
    request: UploadRequest,
    pub(super) expires_at: Timestamp,
    /// `None` if Cloudflare makes the id.
    pub(super) id: Option<CloudflareId>,
}

impl PreparedUpload {
    /// Checks the request, and makes an id unless it has one.
    pub(super) fn new(request: UploadRequest, now: Timestamp) -> Result<Self, UploadError> {
        if request.metadata.as_str().len() > MAX_METADATA_BYTES {
            return Err(UploadError::MetadataTooLong);
        }
        match &request.id {
            Some(_) if request.require_signed_urls => return Err(UploadError::IdWithSignedUrls),
            Some(id) if !id.is_custom() => return Err(UploadError::IdNotCustom),
            Some(id) if !id.fits_index() => return Err(UploadError::IdTooLong),
            Some(_) | None => {}
        }
        let id = match &request.id {
            Some(id) => Some(id.clone()),
            None if request.require_signed_urls => None,
            None => CloudflareId::parse(&new_id()).ok(),
        };
        let expires_at = now.saturating_add(request.valid_for.max(SHORTEST_TIME));
        Ok(Self {
            request,
            expires_at,
            id,
        })
    }

    /// Returns whether the service has made the id.
    pub(super) fn has_own_id(&self) -> bool {
        self.request.id.is_none()
    }

    /// Returns the row of the image.
    pub(super) fn image(&self, cloudflare_id: CloudflareId) -> NewImage {
        NewImage {
            cloudflare_id,
            filename: self.request.filename.clone(),
            creator: self.request.creator.clone(),
            metadata: self.request.metadata.clone(),
            expires_at: Some(self.expires_at),
            require_signed_urls: self.request.require_signed_urls,
        }
    }

    /// Asks Cloudflare for the upload URL. Returns it with the id of the image.
    pub(super) async fn ask(
        &self,
        caller: &Caller<'_>,
    ) -> Result<(CloudflareId, String), UploadError> {
        let request = &self.request;
        let has_metadata = request.metadata != Json::empty_object();
        let upload = NewUpload {
            id: self.id.as_ref(),
            metadata: has_metadata.then(|| request.metadata.as_str()),
            creator: Some(&*request.creator).filter(|creator| !creator.is_empty()),
            expires_at: self.expires_at,
            require_signed_urls: request.require_signed_urls,
        };
        let creating = caller.client.create_upload(&upload);
        let created = caller.cutoff.run_until_cancelled(creating).await;
        let created = created.ok_or(UploadError::Stopping)??;
        let id = match &self.id {
            Some(id) => id.clone(),
            None => CloudflareId::parse(&created.id).map_err(|_| UploadError::InvalidId)?,
        };
        Ok((id, created.upload_url))
    }
}

/// Returns a new id. The text before the UUID makes it a custom id.
fn new_id() -> String {
    format!("image-{}", uuid_v7().simple())
}

impl UploadError {
    /// Returns whether Cloudflare has certainly created nothing. Otherwise the image may exist.
    pub(super) fn is_refusal(&self) -> bool {
        let Self::Api(error) = self else {
            return false;
        };
        match error.kind {
            ErrorKind::Unauthorized
            | ErrorKind::Forbidden
            | ErrorKind::NotFound
            | ErrorKind::RateLimited { .. }
            | ErrorKind::AlreadyExists
            | ErrorKind::Refused
            | ErrorKind::LimitUnknown(_) => true,
            ErrorKind::Unavailable(_) | ErrorKind::TimedOut { .. } | ErrorKind::Unexpected(_) => {
                false
            }
        }
    }
}
