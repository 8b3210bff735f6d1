//! Upload URLs: the row of the image, and the URL at Cloudflare.

use std::time::Duration;

use serde::Serialize;

use super::Context;
use crate::cloudflare::{ApiError, Client, ErrorKind, NewUpload};
use crate::domain::id::CloudflareId;
use crate::domain::image::{MAX_URL_CHARACTERS, NewImage};
use crate::domain::json::Json;
use crate::random::uuid_v7;
use crate::reconcile::share_budget;
use crate::store::{AddResult, SetResult, StoreError};

/// The most bytes of metadata that Cloudflare stores.
const MAX_METADATA_BYTES: usize = 1024;

/// The shortest time for which a URL is requested. Cloudflare refuses less than 2 minutes, and counts from the arrival of the call.
const SHORTEST_TIME: Duration = Duration::from_secs(150);

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
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Creates an upload URL, and the row of its image.
///
/// The row is there before Cloudflare is asked. So a crash leaves no image at Cloudflare that the service does not know, except one
/// that needs signed URLs: only Cloudflare can make its id.
pub(crate) async fn create(
    context: &Context,
    client: &Client,
    request: UploadRequest,
) -> Result<UploadView, UploadError> {
    if request.metadata.as_str().len() > MAX_METADATA_BYTES {
        return Err(UploadError::MetadataTooLong);
    }
    match &request.id {
        Some(_) if request.require_signed_urls => return Err(UploadError::IdWithSignedUrls),
        Some(id) if !id.is_custom() => return Err(UploadError::IdNotCustom),
        Some(id) if !id.fits_index() => return Err(UploadError::IdTooLong),
        Some(_) | None => {}
    }
    let client = share_budget(client.clone(), &context.store, &context.clock);
    let expires_at = (context.clock.now()).saturating_add(request.valid_for.max(SHORTEST_TIME));
    let new_image = |cloudflare_id| NewImage {
        cloudflare_id,
        filename: request.filename.clone(),
        creator: request.creator.clone(),
        metadata: request.metadata.clone(),
        expires_at: Some(expires_at),
        require_signed_urls: request.require_signed_urls,
    };
    let own_id = match &request.id {
        Some(id) => Some(id.clone()),
        None if request.require_signed_urls => None,
        None => CloudflareId::parse(&new_id()).ok(),
    };
    if let Some(id) = &own_id {
        add(context, new_image(id.clone())).await?;
    }
    let has_metadata = request.metadata != Json::empty_object();
    let upload = NewUpload {
        id: own_id.as_ref(),
        metadata: has_metadata.then(|| request.metadata.as_str()),
        creator: Some(&*request.creator).filter(|creator| !creator.is_empty()),
        expires_at,
        require_signed_urls: request.require_signed_urls,
    };
    let created = match client.create_upload(&upload).await {
        Ok(created) => created,
        Err(error) => {
            if let Some(id) = own_id.filter(|_| was_refused(&error)) {
                let catalog = &context.store.image_catalog;
                catalog.delete(&id, context.clock.now()).await?;
            }
            return Err(error.into());
        }
    };
    let id = if let Some(id) = own_id {
        id
    } else {
        let id = CloudflareId::parse(&created.id).map_err(|_| UploadError::InvalidId)?;
        add(context, new_image(id.clone())).await?;
        id
    };
    store_url(context, &id, &created.upload_url).await?;
    Ok(UploadView {
        id: id.to_string(),
        upload_url: created.upload_url,
        expires_at: expires_at.to_string(),
    })
}

/// Returns a new id. The text before the UUID makes it a custom id.
fn new_id() -> String {
    format!("image-{}", uuid_v7().simple())
}

/// Returns whether Cloudflare has certainly created nothing. Otherwise the row stays, because the image may exist.
fn was_refused(error: &ApiError) -> bool {
    match error.kind {
        ErrorKind::Unauthorized
        | ErrorKind::Forbidden
        | ErrorKind::NotFound
        | ErrorKind::RateLimited { .. }
        | ErrorKind::AlreadyExists
        | ErrorKind::Refused
        | ErrorKind::LimitUnknown(_) => true,
        ErrorKind::Unavailable(_) | ErrorKind::TimedOut { .. } | ErrorKind::Unexpected(_) => false,
    }
}

/// Inserts the row of the image.
async fn add(context: &Context, image: NewImage) -> Result<(), UploadError> {
    let catalog = &context.store.image_catalog;
    match catalog.add(&image, context.clock.now()).await? {
        AddResult::Added => Ok(()),
        AddResult::Exists => Err(UploadError::Exists(image.cloudflare_id)),
    }
}

/// Stores the URL. One that is too long for the column is not stored; it contains a long id.
async fn store_url(
    context: &Context,
    id: &CloudflareId,
    upload_url: &str,
) -> Result<(), UploadError> {
    if upload_url.chars().count() > MAX_URL_CHARACTERS {
        return Ok(());
    }
    let catalog = &context.store.image_catalog;
    let storing = catalog.set_upload_url(id, upload_url, context.clock.now());
    match storing.await? {
        SetResult::Set => Ok(()),
        SetResult::NotFound => Err(UploadError::RowDeleted(id.clone())),
    }
}
