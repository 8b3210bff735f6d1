//! The source of an import: all images of the account at Cloudflare.

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::error::{InvalidLine, Origin};
use super::source::{Batch, Line, Source};
use crate::application::Context;
use crate::cloudflare::{ApiError, Client, FoundImage, ImageList};
use crate::domain::detail::{DetailTimes, Precedence};
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::import::{AppColumns, ImportedImage, StatusColumns};
use crate::receiver::payload::{ImageDescription, parse_description};
use crate::reconcile::share_budget;

impl Source {
    /// Returns all images of the account. The calls count together with those of all processes that use the database.
    pub(crate) fn of_account(context: &Context, client: Client) -> Self {
        let client = share_budget(client, &context.store, &context.clock);
        let (sender, batches) = mpsc::channel(1);
        let reading = tokio::spawn(async move { Ok(list(&client, &sender).await?) });
        Self {
            batches,
            reading,
            origin: Origin::Account,
        }
    }
}

/// Lists all images, and sends them page by page. Stops if a page is not wanted.
async fn list(client: &Client, sender: &mpsc::Sender<Batch>) -> Result<(), ApiError> {
    let (mut position, mut number) = (None, 0);
    loop {
        let ImageList { images, next } = page(client, position.as_deref()).await?;
        let lines = images.into_iter().map(|image| {
            number += 1;
            let image = image_of(image);
            Line { number, image }
        });
        let batch = Batch {
            lines: lines.collect(),
            bytes_read: 0,
        };
        if sender.send(batch).await.is_err() || next.is_none() {
            return Ok(());
        }
        position = next;
    }
}

/// Returns a page. Waits if Cloudflare allows no more calls now.
async fn page(client: &Client, position: Option<&str>) -> Result<ImageList, ApiError> {
    loop {
        let listing = client.images(position).await;
        match listing.as_ref().err().and_then(ApiError::retry_after) {
            Some(wait) => sleep(wait).await,
            None => return listing,
        }
    }
}

/// Returns the image that a description is about, as a lookup would record it.
fn image_of(description: Value) -> Result<ImportedImage, InvalidLine> {
    let Value::Object(object) = description else {
        return Err(InvalidLine::description("it must be an object"));
    };
    let image = FoundImage { object };
    let id = image.object.get("id").and_then(Value::as_str);
    let cloudflare_id = CloudflareId::parse(id.unwrap_or_default())
        .map_err(|error| InvalidLine::description(&format!("the id {error}")))?;
    if !cloudflare_id.fits_index() {
        return Err(InvalidLine::IdTooLong);
    }
    let uploaded_at = image.uploaded_at();
    let (status, precedence) = if image.is_draft() {
        (Status::Draft, uploaded_at.map(Precedence::Draft))
    } else {
        (Status::Uploaded, uploaded_at.map(Precedence::Final))
    };
    let ImageDescription { details, payload } = parse_description(image.object)
        .map_err(|error| InvalidLine::description(&error.to_string()))?;
    let reported = details.are_reported();
    let mut details_at = DetailTimes::default();
    for (time, is_reported) in details_at.iter_mut().zip(reported) {
        *time = precedence.filter(|_| is_reported);
    }
    Ok(ImportedImage {
        cloudflare_id,
        id: None,
        status: Some(StatusColumns {
            status,
            status_at: uploaded_at,
            uploaded_at: uploaded_at.filter(|_| status == Status::Uploaded),
            error: String::new(),
        }),
        details,
        details_at,
        app_columns: AppColumns::default(),
        created_at: None,
        updated_at: None,
        payload,
    })
}
