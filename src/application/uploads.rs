//! Upload URLs: the row of the image, and the URL at Cloudflare.

mod once;
mod request;

use super::Context;
use crate::domain::id::CloudflareId;
use crate::domain::image::{MAX_URL_CHARACTERS, NewImage};
use crate::store::{AddResult, SetResult};
use request::PreparedUpload;

pub(crate) use once::{RequestKey, create_once};
pub(crate) use request::{Caller, UploadError, UploadRequest, UploadView};

/// Creates an upload URL, and the row of its image.
///
/// The row is there before Cloudflare is asked. So a crash leaves no image at Cloudflare that the service does not know, except one
/// that needs signed URLs: only Cloudflare can make its id.
pub(crate) async fn create(
    caller: &Caller<'_>,
    request: UploadRequest,
) -> Result<UploadView, UploadError> {
    let context = caller.context;
    let upload = PreparedUpload::new(request, context.clock.now())?;
    if let Some(id) = &upload.id {
        add(context, upload.image(id.clone())).await?;
    }
    let (id, upload_url) = match upload.ask(caller).await {
        Ok(created) => created,
        Err(error) => {
            if let Some(id) = upload.id.filter(|_| error.is_refusal()) {
                let catalog = &context.store.image_catalog;
                catalog.delete(&id, context.clock.now()).await?;
            }
            return Err(error);
        }
    };
    if upload.id.is_none() {
        add(context, upload.image(id.clone())).await?;
    }
    store_url(context, &id, &upload_url).await?;
    Ok(UploadView {
        id: id.to_string(),
        upload_url,
        expires_at: upload.expires_at.to_string(),
    })
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
