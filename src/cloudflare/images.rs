//! Upload URLs (<https://developers.cloudflare.com/api/resources/images/>).

use reqwest::Method;
use serde::Deserialize;

use super::client::{Call, Client};
use super::envelope::Answer;
use super::error::ApiError;
use super::multipart::Form;
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;

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

impl Client {
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
}
