//! `POST upload-url/`: an upload URL of Cloudflare, and the row of its image.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use tracing::Instrument;

use super::body::read_object;
use super::guard::AuthorizedClient;
use super::idempotency;
use super::problem::{invalid_field, not_configured};
use super::state::Api;
use crate::application::images::parse_metadata;
use crate::application::uploads::{self, Caller, RequestKey, UploadRequest, UploadView};
use crate::domain::id::CloudflareId;
use crate::domain::json::Json as StoredJson;
use crate::web::{LogFields, Problem, ProblemType};

/// The fields of a request.
const FIELDS: [&str; 6] = [
    "metadata",
    "creator",
    "expiry_minutes",
    "require_signed_urls",
    "id",
    "filename",
];

/// The maximum length of `creator` and `filename`.
const MAX_TEXT_CHARACTERS: usize = 1024;

/// The longest name of an unknown field that a problem repeats.
const MAX_SHOWN_CHARACTERS: usize = 100;

/// The time for which a URL works without `expiry_minutes`. Cloudflare's default.
const DEFAULT_EXPIRY_MINUTES: u64 = 30;

/// Creates an upload URL.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    AuthorizedClient(name): AuthorizedClient,
    request: Request,
) -> Result<Response, Problem> {
    let permit = Arc::clone(&api.in_flight).try_acquire_owned();
    let permit = permit.map_err(|_| Problem::of(ProblemType::Busy).caused_by(TooManyInFlight))?;
    let key = idempotency::key(request.headers())?;
    let mut body = read_object(request, &api.limits).await?;
    // An absent field and `null` are the same.
    body.retain(|_, value| !value.is_null());
    let key = key.map(|key| idempotency::request_key(&name, &key, &body));
    let upload = parse(body)?;
    let tasks = api.limits.request_tasks.clone();
    // The client may disconnect. The row and the URL are stored all the same.
    let creating = async move {
        let _permit = permit;
        create_at_cloudflare(&api, upload, key).await
    };
    let created = tasks.spawn(creating.in_current_span()).await;
    let created = created.map_err(|error| Problem::of(ProblemType::Internal).caused_by(error))?;
    Ok(response(created?))
}

/// The logged cause when too many requests are in progress.
#[derive(Debug, thiserror::Error)]
#[error("too many requests of the API are in progress (api.max_in_flight)")]
struct TooManyInFlight;

async fn create_at_cloudflare(
    api: &Api,
    upload: UploadRequest,
    key: Option<RequestKey>,
) -> Result<UploadView, Problem> {
    let client = api.cloudflare.as_ref().ok_or_else(not_configured)?;
    let caller = Caller::new(&api.context, client, &api.limits.cutoff);
    let created = match key {
        Some(key) => uploads::create_once(&caller, upload, &key).await,
        None => uploads::create(&caller, upload).await,
    };
    created.map_err(Problem::from)
}

fn response(upload: UploadView) -> Response {
    let fields = LogFields {
        outcome: Some("created"),
        image_id: Some(upload.id.clone()),
        ..LogFields::default()
    };
    let mut response = (StatusCode::CREATED, Json(upload)).into_response();
    response.extensions_mut().insert(fields);
    response
}

/// Parses the body.
fn parse(mut body: Map<String, Value>) -> Result<UploadRequest, Problem> {
    if let Some(unknown) = body.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let shown: String = unknown.chars().take(MAX_SHOWN_CHARACTERS).collect();
        let known = FIELDS.join(", ");
        return Err(Problem::of(ProblemType::InvalidRequest)
            .detail(format!(
                "The body has an unknown field. The known fields are {known}."
            ))
            .field(Some(shown)));
    }
    let metadata = match body.remove("metadata") {
        None => StoredJson::empty_object(),
        Some(metadata) => parse_metadata(&metadata.to_string())
            .map_err(|rule| invalid_field("metadata", &rule.to_string()))?,
    };
    let id = match body.remove("id") {
        None => None,
        Some(Value::String(id)) => {
            let id = CloudflareId::parse(&id);
            Some(id.map_err(|rule| invalid_field("id", &rule.to_string()))?)
        }
        Some(_) => return Err(invalid_field("id", "must be text")),
    };
    let minutes = match body.get("expiry_minutes") {
        None => DEFAULT_EXPIRY_MINUTES,
        Some(minutes) => minutes
            .as_u64()
            .filter(|minutes| (2..=360).contains(minutes))
            .ok_or_else(|| {
                invalid_field("expiry_minutes", "must be a whole number from 2 to 360")
            })?,
    };
    let require_signed_urls = match body.get("require_signed_urls") {
        None => false,
        Some(Value::Bool(value)) => *value,
        Some(_) => {
            return Err(invalid_field(
                "require_signed_urls",
                "must be true or false",
            ));
        }
    };
    Ok(UploadRequest {
        id,
        filename: text(&mut body, "filename")?,
        creator: text(&mut body, "creator")?,
        metadata,
        valid_for: Duration::from_mins(minutes),
        require_signed_urls,
    })
}

/// Returns a field with text. It is empty if the field is absent.
fn text(body: &mut Map<String, Value>, field: &'static str) -> Result<String, Problem> {
    let text = match body.remove(field) {
        None => return Ok(String::new()),
        Some(Value::String(text)) => text,
        Some(_) => return Err(invalid_field(field, "must be text")),
    };
    let is_valid =
        text.chars().count() <= MAX_TEXT_CHARACTERS && !text.chars().any(char::is_control);
    if is_valid {
        Ok(text)
    } else {
        let rule = format!(
            "must have at most {MAX_TEXT_CHARACTERS} characters, and no control characters"
        );
        Err(invalid_field(field, &rule))
    }
}
