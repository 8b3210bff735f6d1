//! Upload URLs with an idempotency key: a repeated request gets the answer of the first one.
//!
//! ```text
//! begin: the key, the id and the row of the image ──► Cloudflare ──► finish: the URL
//!    │                                                    │
//!    ├─► finished before: its answer                      ├─► refused: remove the key and the row
//!    └─► in progress, or of another request: an error     └─► unknown: interrupt, and the next request asks again
//! ```
//!
//! The begin and the end are transactions. So after a crash in between, a repeated request knows the id that Cloudflare may have.

use std::time::Duration;

use super::request::{Caller, PreparedUpload, UploadError, UploadRequest, UploadView};
use crate::cloudflare::ErrorKind;
use crate::domain::id::CloudflareId;
use crate::random::uuid_v4;
use crate::store::{Begun, NewUploadRequest, UploadAnswer, UploadAttempt, UploadLeaseResult};

/// The time for which an answer is kept.
const KEY_TTL: Duration = Duration::from_hours(24);

/// The time of an attempt in addition to the time limit of calls to Cloudflare: for two transactions.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// The key of a request.
pub(crate) struct RequestKey {
    /// The name of the client and its key.
    pub(crate) id: String,
    /// The SHA-256 of the request, in hex digits.
    pub(crate) request_digest: String,
}

/// Creates an upload URL once for each key, and the row of its image.
pub(crate) async fn create_once(
    caller: &Caller<'_>,
    request: UploadRequest,
    key: &RequestKey,
) -> Result<UploadView, UploadError> {
    let clock = &caller.context.clock;
    let mut upload = PreparedUpload::new(request, clock.now())?;
    let lease = uuid_v4().to_string();
    let attempt = UploadAttempt {
        request: &key.id,
        lease: &lease,
    };
    let image = upload.id.clone().map(|id| upload.image(id));
    let beginning = NewUploadRequest {
        attempt,
        request_digest: &key.request_digest,
        image: image.as_ref(),
        lease_time: caller.client.deadline() + LEASE_MARGIN,
        old_before: clock.now().saturating_sub(KEY_TTL),
    };
    let requests = &*caller.context.store.upload_requests;
    let repetition = match (requests.begin(&beginning, clock.read()).await?, image) {
        (Begun::First, _) => Repetition::First,
        (Begun::Again(id), _) => {
            upload.id = id;
            Repetition::Again
        }
        (Begun::Finished(answer), _) => return Ok(view(answer)),
        (Begun::ImageExists, Some(image)) => return Err(UploadError::Exists(image.cloudflare_id)),
        (Begun::Running | Begun::ImageExists, _) => return Err(UploadError::InProgress),
        (Begun::OtherRequest, _) => return Err(UploadError::KeyReused),
    };
    match ask(caller, &upload, repetition).await {
        Ok((id, upload_url)) => finish(caller, &attempt, &upload, id, upload_url).await,
        Err(error) => {
            give_up(caller, &attempt, &upload, (&error, repetition)).await?;
            Err(error)
        }
    }
}

/// Whether an earlier attempt may have created the image at Cloudflare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repetition {
    First,
    Again,
}

/// Asks Cloudflare for the upload URL. If an earlier attempt has created the image, its URL is lost. Nobody has this URL, so the
/// image is deleted and created again. An id that the client chose may belong to another image, so that image stays.
async fn ask(
    caller: &Caller<'_>,
    upload: &PreparedUpload,
    repetition: Repetition,
) -> Result<(CloudflareId, String), UploadError> {
    let error = match upload.ask(caller).await {
        Err(UploadError::Api(error))
            if error.kind == ErrorKind::AlreadyExists && repetition == Repetition::Again =>
        {
            error
        }
        result => return result,
    };
    let Some(id) = &upload.id else {
        return Err(error.into());
    };
    if !upload.has_own_id() {
        return Err(UploadError::UrlLost(id.clone()));
    }
    let deleting = caller.client.delete_draft(id);
    let deleted = caller.cutoff.run_until_cancelled(deleting).await;
    if deleted.ok_or(UploadError::Stopping)?? {
        upload.ask(caller).await
    } else {
        Err(UploadError::UrlLost(id.clone()))
    }
}

async fn finish(
    caller: &Caller<'_>,
    attempt: &UploadAttempt<'_>,
    upload: &PreparedUpload,
    id: CloudflareId,
    upload_url: String,
) -> Result<UploadView, UploadError> {
    let image = upload.image(id.clone());
    let answer = UploadAnswer {
        cloudflare_id: id,
        upload_url,
        expires_at: upload.expires_at,
    };
    let context = caller.context;
    let requests = &context.store.upload_requests;
    let finishing = requests.finish(attempt, &answer, &image, context.clock.now());
    match finishing.await? {
        UploadLeaseResult::Stored => Ok(view(answer)),
        // A later attempt creates another URL.
        UploadLeaseResult::Lost => Err(UploadError::InProgress),
    }
}

/// Ends a failed attempt. If it certainly had no effect, removes the key and the row of the image.
async fn give_up(
    caller: &Caller<'_>,
    attempt: &UploadAttempt<'_>,
    upload: &PreparedUpload,
    (error, repetition): (&UploadError, Repetition),
) -> Result<(), UploadError> {
    let store = &caller.context.store;
    if repetition == Repetition::Again || !error.is_refusal() {
        store.upload_requests.interrupt(attempt).await?;
        return Ok(());
    }
    let removed = store.upload_requests.remove(attempt).await?;
    if let (UploadLeaseResult::Stored, Some(id)) = (removed, &upload.id) {
        let now = caller.context.clock.now();
        store.image_catalog.delete(id, now).await?;
    }
    Ok(())
}

fn view(answer: UploadAnswer) -> UploadView {
    UploadView {
        id: answer.cloudflare_id.to_string(),
        upload_url: answer.upload_url,
        expires_at: answer.expires_at.to_string(),
    }
}
