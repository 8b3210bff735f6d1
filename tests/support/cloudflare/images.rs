//! Images and upload URLs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Method, Response, StatusCode};
use cloudflare_images_webhook::clock::{Clock, SystemClock};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Answer, ApiRequest, Cloudflare, CloudflareState, Inner};

/// An image at Cloudflare.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Whether its upload has not ended.
    pub(crate) is_draft: bool,
    pub(crate) filename: Option<String>,
    pub(crate) metadata: Option<Value>,
    pub(crate) creator: Option<String>,
    pub(crate) require_signed_urls: bool,
}

impl Cloudflare {
    /// Adds an image whose upload has not ended, or has ended.
    pub(crate) fn add_image(&self, id: &str, is_draft: bool) {
        let image = Image {
            is_draft,
            filename: (!is_draft).then(|| "cat.jpg".to_owned()),
            metadata: None,
            creator: None,
            require_signed_urls: false,
        };
        self.inner.state().images.insert(id.to_owned(), image);
    }

    /// Returns an image.
    pub(crate) fn image(&self, id: &str) -> Option<Image> {
        self.inner.state().images.get(id).cloned()
    }

    /// Returns the ids of all images.
    pub(crate) fn image_ids(&self) -> Vec<String> {
        self.inner.state().images.keys().cloned().collect()
    }
}

impl CloudflareState {
    pub(super) fn act_on_images(&mut self, request: &ApiRequest) -> Answer {
        let path = request.path.as_str();
        if path == "/images/v2/direct_upload" && request.method == Method::POST {
            return self.create_upload(request);
        }
        if path == "/images/v2" && request.method == Method::GET {
            return self.list_images(&request.query);
        }
        let id = path.strip_prefix("/images/v1/");
        // An id is one segment. A slash in it must be encoded.
        let Some(id) = id.filter(|id| !id.is_empty() && !id.contains('/')) else {
            return Answer::error(404, 7000, "No route for that URI");
        };
        let id = percent_decode_str(id).decode_utf8().expect("UTF-8");
        match (&request.method, self.images.get(&*id)) {
            (&Method::GET, Some(image)) => Answer::ok(&details(&id, image)),
            (&Method::DELETE, Some(_)) => {
                self.images.remove(&*id);
                Answer::ok(&json!({}))
            }
            (&Method::GET | &Method::DELETE, None) => Answer::not_found(),
            _ => Answer::error(405, 10405, "Method not allowed"),
        }
    }

    /// Lists the images that are uploaded, in the order of their ids. The token of a page is the last id before it.
    fn list_images(&self, query: &str) -> Answer {
        let (mut after, mut limit) = (None, 1000);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "per_page" => limit = value.parse().expect("a number"),
                "sort_order" => assert_eq!(value, "asc"),
                "continuation_token" => after = Some(value.into_owned()),
                other => panic!("Cloudflare does not know the parameter {other}"),
            }
        }
        assert!((10..=10_000).contains(&limit), "per_page is {limit}");
        if self.page_size > 0 {
            limit = limit.min(self.page_size);
        }
        let is_after = |id: &str| after.as_deref().is_none_or(|after| id > after);
        let uploaded = self.images.iter();
        let uploaded = uploaded.filter(|(id, image)| !image.is_draft && is_after(id));
        let mut page: Vec<_> = uploaded.take(limit + 1).collect();
        let has_more = page.len() > limit;
        page.truncate(limit);
        let token = page.last().filter(|_| has_more).map(|(id, _)| id.as_str());
        let images: Vec<Value> = page.iter().map(|(id, image)| details(id, image)).collect();
        Answer::ok(&json!({"images": images, "continuation_token": token}))
    }

    fn create_upload(&mut self, request: &ApiRequest) -> Answer {
        let fields = form_fields(request);
        let known = ["id", "metadata", "creator", "expiry", "requireSignedURLs"];
        let unknown = fields.keys().find(|name| !known.contains(&name.as_str()));
        assert_eq!(unknown, None, "a field that Cloudflare does not know");
        let require_signed_urls = match fields.get("requireSignedURLs").map(String::as_str) {
            Some("true") => true,
            Some("false") | None => false,
            Some(other) => panic!("requireSignedURLs is {other}"),
        };
        if let Some(expiry) = fields.get("expiry") {
            let expiry = Timestamp::parse_rfc3339(expiry).expect("a time");
            let now = SystemClock.now();
            let is_early = expiry < now.saturating_add(Duration::from_mins(2));
            let is_late = expiry > now.saturating_add(Duration::from_hours(6));
            if is_early || is_late {
                return Answer::error(400, 5400, "expiry must be 2 minutes to 6 hours ahead");
            }
        }
        let metadata = match fields.get("metadata") {
            Some(metadata) if metadata.len() > 1024 => {
                return Answer::error(400, 5400, "metadata must not exceed 1024 bytes");
            }
            Some(metadata) => Some(serde_json::from_str(metadata).expect("metadata is JSON")),
            None => None,
        };
        let id = match fields.get("id") {
            Some(_) if require_signed_urls => {
                return Answer::error(400, 5400, "a custom id cannot have signed URLs");
            }
            Some(id) if !is_custom(id) => {
                return Answer::error(400, 5400, "the id must not be a UUID or a folder");
            }
            Some(id) if self.images.contains_key(id) => {
                return Answer::error(409, 5409, "Resource already exists");
            }
            Some(id) => id.clone(),
            None => {
                self.next_id += 1;
                format!("made-by-cloudflare-{}", self.next_id)
            }
        };
        let image = Image {
            is_draft: true,
            filename: None,
            metadata,
            creator: fields.get("creator").cloned(),
            require_signed_urls,
        };
        self.images.insert(id.clone(), image);
        let upload_url = format!("{}/{id}", self.upload_base);
        let Answer(status, mut body) = Answer::ok(&json!({"id": id, "uploadURL": upload_url}));
        body["result_info"] = Value::Null;
        assert_eq!(status, StatusCode::OK);
        Answer(status, body)
    }
}

/// Accepts the file of a browser's form once. Any page may read the answer, as at Cloudflare.
pub(super) async fn upload(
    State(inner): State<Arc<Inner>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response<Body> {
    let body = String::from_utf8_lossy(&body);
    let filename = body
        .split_once("name=\"file\"; filename=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(filename, _)| filename.to_owned());
    let mut state = inner.state();
    let image = state.images.get_mut(&id).filter(|image| image.is_draft);
    let answer = match (image, filename) {
        (Some(image), Some(filename)) => {
            image.is_draft = false;
            image.filename = Some(filename);
            Answer::ok(&json!({"id": id}))
        }
        (Some(_), None) => Answer::error(400, 5400, "Bad request: no file"),
        (None, _) => Answer::not_found(),
    };
    let mut response = answer.into_response();
    let any = HeaderValue::from_static("*");
    response
        .headers_mut()
        .insert("access-control-allow-origin", any);
    response
}

/// Returns whether an image can have the id. Cloudflare's own ids are UUIDs.
fn is_custom(id: &str) -> bool {
    let is_uuid = uuid::Uuid::parse_str(id).is_ok();
    (1..=1024).contains(&id.chars().count())
        && !is_uuid
        && !id.starts_with('/')
        && !id.ends_with('/')
}

fn details(id: &str, image: &Image) -> Value {
    let mut details = json!({
        "id": id,
        "uploaded": "2026-01-02T03:04:05.678Z",
        "requireSignedURLs": image.require_signed_urls,
        "variants": [format!("https://imagedelivery.net/hash/{}/public", id.replace(' ', "%20"))],
    });
    if image.is_draft {
        details["draft"] = true.into();
    }
    if let Some(filename) = &image.filename {
        details["filename"] = filename.as_str().into();
    }
    if let Some(metadata) = &image.metadata {
        // Cloudflare's documents and answers have two names for it.
        details["meta"] = metadata.clone();
    }
    if let Some(creator) = &image.creator {
        details["creator"] = creator.as_str().into();
    }
    details
}

/// Reads a form (RFC 7578). Panics unless each part is a text field with a name.
fn form_fields(request: &ApiRequest) -> BTreeMap<String, String> {
    let boundary = request
        .content_type
        .strip_prefix("multipart/form-data; boundary=")
        .expect("the content type of a form");
    let body = std::str::from_utf8(&request.body).expect("UTF-8");
    let body = format!("\r\n{body}");
    let delimiter = format!("\r\n--{boundary}");
    let mut parts = body.split(delimiter.as_str());
    assert_eq!(
        parts.next(),
        Some(""),
        "nothing comes before the first part"
    );
    let mut fields = BTreeMap::new();
    let mut is_complete = false;
    for part in parts {
        assert!(!is_complete, "nothing comes after the end");
        if part == "--\r\n" {
            is_complete = true;
            continue;
        }
        let (head, value) = part
            .strip_prefix("\r\n")
            .and_then(|part| part.split_once("\r\n\r\n"))
            .expect("a head and a value");
        let name = head
            .strip_prefix("content-disposition: form-data; name=\"")
            .and_then(|name| name.strip_suffix('"'))
            .expect("a name");
        let earlier = fields.insert(name.to_owned(), value.to_owned());
        assert_eq!(earlier, None, "{name} occurs once");
    }
    assert!(is_complete, "the form has an end");
    fields
}
