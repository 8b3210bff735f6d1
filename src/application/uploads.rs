//! Upload URLs: the row of the image, and the URL at Cloudflare.

use std::time::Duration;

use serde::Serialize;

use super::{ActionError, Context, images};
use crate::cloudflare::{ApiError, Client, ErrorKind, NewUpload};
use crate::domain::id::CloudflareId;
use crate::domain::image::NewImage;
use crate::domain::json::Json;
use crate::random::uuid_v7;
use crate::store::SetResult;

/// The most bytes of metadata that Cloudflare stores.
const MAX_METADATA_BYTES: usize = 1024;

/// The most characters of the column `upload_url`.
const MAX_URL_CHARACTERS: usize = 500;

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
    #[error("Cloudflare made an id that is not valid")]
    InvalidId,
    #[error("the row of the image {0} was deleted before its upload URL was stored")]
    RowDeleted(CloudflareId),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Action(#[from] ActionError),
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
    if request.id.is_some() && request.require_signed_urls {
        return Err(UploadError::IdWithSignedUrls);
    }
    let expires_at = context.clock.now().saturating_add(request.valid_for);
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
        None => CloudflareId::parse(&uuid_v7().to_string()).ok(),
    };
    if let Some(id) = &own_id {
        images::add(context, &new_image(id.clone())).await?;
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
                images::delete(context, &id).await?;
            }
            return Err(error.into());
        }
    };
    let id = if let Some(id) = own_id {
        id
    } else {
        let id = CloudflareId::parse(&created.id).map_err(|_| UploadError::InvalidId)?;
        images::add(context, &new_image(id.clone())).await?;
        id
    };
    store_url(context, &id, &created.upload_url).await?;
    Ok(UploadView {
        id: id.to_string(),
        upload_url: created.upload_url,
        expires_at: expires_at.to_string(),
    })
}

/// Returns whether Cloudflare has certainly created nothing. Otherwise the row stays, because the image may exist.
fn was_refused(error: &ApiError) -> bool {
    match error.kind {
        ErrorKind::Unauthorized
        | ErrorKind::Forbidden
        | ErrorKind::NotFound
        | ErrorKind::RateLimited { .. }
        | ErrorKind::AlreadyExists
        | ErrorKind::Refused => true,
        ErrorKind::Unavailable(_) | ErrorKind::Unexpected(_) => false,
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
    match storing.await.map_err(ActionError::from)? {
        SetResult::Set => Ok(()),
        SetResult::NotFound => Err(UploadError::RowDeleted(id.clone())),
    }
}
