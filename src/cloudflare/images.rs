//! Images and upload URLs (<https://developers.cloudflare.com/api/resources/images/>).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::client::{Call, Client};
use super::envelope::Answer;
use super::error::{ApiError, ErrorKind};
use super::multipart::Form;
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;

/// The characters of an id that a path may have as they are (unreserved characters of RFC 3986).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An upload URL to create (`POST images/v2/direct_upload`).
#[derive(Debug, Clone)]
pub(crate) struct NewUpload<'a> {
    /// The id of the image. Cloudflare makes one if it is `None`, or if the image needs signed URLs.
    pub(crate) id: Option<&'a CloudflareId>,
    /// JSON of at most 1024 bytes, which Cloudflare stores.
    pub(crate) metadata: Option<&'a str>,
    pub(crate) creator: Option<&'a str>,
    /// The end of the upload URL.
    pub(crate) expires_at: Timestamp,
    pub(crate) require_signed_urls: bool,
}

/// A created upload URL.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Upload {
    /// The id of the image.
    pub(crate) id: String,
    #[serde(rename = "uploadURL")]
    pub(crate) upload_url: String,
}

/// An image, as Cloudflare describes it: an object with `id`, `filename`, `variants` and more (`GET images/v1/{id}`).
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct FoundImage {
    pub(crate) object: Map<String, Value>,
}

impl FoundImage {
    fn is_about(&self, id: &CloudflareId) -> bool {
        self.object.get("id").and_then(Value::as_str) == Some(id.as_str())
    }

    /// Returns whether the file is not uploaded yet. The key is absent after the upload.
    pub(crate) fn is_draft(&self) -> bool {
        self.object.get("draft").and_then(Value::as_bool) == Some(true)
    }

    /// Returns the time of the upload. Drafts have the field too, so it does not prove an upload.
    pub(crate) fn uploaded_at(&self) -> Option<Timestamp> {
        let uploaded = self.object.get("uploaded").and_then(Value::as_str)?;
        Timestamp::parse_rfc3339(uploaded).ok()
    }
}

/// A page of the list of images.
#[derive(Debug)]
pub(crate) struct ImageList {
    /// The description of each image, in the form of [`FoundImage`].
    pub(crate) images: Vec<Value>,
    /// The position after the page; `None` for the last page.
    pub(crate) next: Option<String>,
}

/// The number of images on a page. An image with all 100 variants needs about 10 KB, so a page stays below the limit of answers.
const PER_PAGE: usize = 250;

/// The result of a list, as Cloudflare writes it.
#[derive(Deserialize)]
struct ListResult {
    #[serde(default)]
    images: Option<Vec<Value>>,
    #[serde(default)]
    continuation_token: Option<String>,
}

impl Client {
    /// Returns a page of the account's images, the oldest first. Drafts are not listed. `after` is the position of the page before.
    pub(crate) async fn images(&self, after: Option<&str>) -> Result<ImageList, ApiError> {
        let first = format!("/images/v2?per_page={PER_PAGE}&sort_order=asc");
        let path = match after.map(|after| utf8_percent_encode(after, ENCODED)) {
            Some(token) => format!("{first}&continuation_token={token}"),
            None => first,
        };
        let call = Call::get("listing the images", path);
        let Answer { result, .. } = self.call::<ListResult>(&call).await?;
        let next = result.continuation_token.filter(|token| !token.is_empty());
        if next.is_some() && next.as_deref() == after {
            // The list would never end.
            return Err(ApiError::unexpected(
                call.action,
                "the list does not continue",
            ));
        }
        Ok(ImageList {
            images: result.images.unwrap_or_default(),
            next,
        })
    }

    /// Creates an upload URL. It is not repeated after an answer was lost, because the URL would be created twice.
    pub(crate) async fn create_upload(&self, upload: &NewUpload<'_>) -> Result<Upload, ApiError> {
        let mut form = Form::new();
        if let Some(id) = upload.id {
            form.add("id", id.as_str());
        }
        if let Some(metadata) = upload.metadata {
            form.add("metadata", metadata);
        }
        if let Some(creator) = upload.creator {
            form.add("creator", creator);
        }
        form.add("expiry", &upload.expires_at.to_string());
        form.add(
            "requireSignedURLs",
            if upload.require_signed_urls {
                "true"
            } else {
                "false"
            },
        );
        let call = Call {
            action: "creating an upload URL",
            method: Method::POST,
            path: "/images/v2/direct_upload".to_owned(),
            content: Some(form.finish()),
        };
        let Answer { result, .. } = self.call(&call).await?;
        Ok(result)
    }

    /// Looks up an image. Returns `None` if it does not exist: it was deleted, or its upload URL expired.
    pub(crate) async fn image(&self, id: &CloudflareId) -> Result<Option<FoundImage>, ApiError> {
        let call = Call::get("looking up an image", path_of(id));
        match self.call::<FoundImage>(&call).await {
            Ok(answer) if answer.result.is_about(id) => Ok(Some(answer.result)),
            // An answer about another image would be recorded for this one.
            Ok(_) => Err(ApiError::unexpected(
                call.action,
                "it is about another image",
            )),
            Err(ApiError {
                kind: ErrorKind::NotFound,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes an image if its upload has not ended. Returns whether it is deleted now.
    pub(crate) async fn delete_draft(&self, id: &CloudflareId) -> Result<bool, ApiError> {
        match self.image(id).await? {
            None => return Ok(true),
            Some(image) if !image.is_draft() => return Ok(false),
            Some(_) => {}
        }
        let call = Call {
            action: "deleting an image",
            method: Method::DELETE,
            path: path_of(id),
            content: None,
        };
        match self.call::<Value>(&call).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(true),
        }
    }
}

/// Returns the path of an image.
fn path_of(id: &CloudflareId) -> String {
    format!("/images/v1/{}", utf8_percent_encode(id.as_str(), ENCODED))
}
