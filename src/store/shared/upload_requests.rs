//! The requests for upload URLs, mounted into each backend (see [`super`]).

use async_trait::async_trait;
use sqlx::Row as _;

use super::catalog::insert_image;
use super::columns::{
    Backend, Connection, UPLOAD_REQUESTS_DELETE_OLD, ago, bind_ago, bind_now, bind_time, now,
    read_time,
};
use crate::clock::ClockReading;
use crate::domain::id::CloudflareId;
use crate::domain::image::{MAX_URL_CHARACTERS, NewImage};
use crate::domain::timestamp::Timestamp;
use crate::store::catalog::AddResult;
use crate::store::error::StoreError;
use crate::store::outbox::router::Wakeups;
use crate::store::session::{OperationError, TransactionMode, rows_suppressed};
use crate::store::upload_requests::{
    Begun, NewUploadRequest, UploadAnswer, UploadAttempt, UploadLeaseResult, UploadRequests,
};

const TABLE: &str = "cloudflare_upload_requests";

/// The maximum number of old requests that the beginning of a new one deletes. It deletes more than it inserts.
const MAX_DELETED: i64 = 10;

#[async_trait]
impl UploadRequests for Backend {
    async fn begin(
        &self,
        request: &NewUploadRequest<'_>,
        now: ClockReading,
    ) -> Result<Begun, StoreError> {
        let router = &self.policy.router;
        self.transaction(
            "beginning an upload",
            TransactionMode::Durable,
            async |tx| {
                delete_old(tx, request).await?;
                if !insert(tx, request, now).await? {
                    return Ok((repeat(tx, request, now).await?, Wakeups::default()));
                }
                let Some(image) = request.image else {
                    return Ok((Begun::First, Wakeups::default()));
                };
                let (added, wakeups) = insert_image(tx, router, image, now.time()).await?;
                let begun = match added {
                    AddResult::Added => Begun::First,
                    AddResult::Exists => {
                        delete(tx, &request.attempt).await?;
                        Begun::ImageExists
                    }
                };
                Ok((begun, wakeups))
            },
        )
        .await
    }

    async fn finish(
        &self,
        attempt: &UploadAttempt<'_>,
        answer: &UploadAnswer,
        image: &NewImage,
        now: Timestamp,
    ) -> Result<UploadLeaseResult, StoreError> {
        let router = &self.policy.router;
        self.transaction(
            "storing an upload URL",
            TransactionMode::Durable,
            async |tx| {
                let result = store_answer(tx, attempt, answer).await?;
                if result == UploadLeaseResult::Lost {
                    return Ok((result, Wakeups::default()));
                }
                let (_, wakeups) = insert_image(tx, router, image, now).await?;
                store_url(tx, answer, now).await?;
                Ok((result, wakeups))
            },
        )
        .await
    }

    async fn interrupt(
        &self,
        attempt: &UploadAttempt<'_>,
    ) -> Result<UploadLeaseResult, StoreError> {
        self.write("interrupting an upload", async |connection| {
            let updated = sqlx::query(
                "-- upload_requests_interrupt
                 UPDATE cloudflare_upload_requests SET state = 'interrupted', lease = NULL, leased_at = NULL
                 WHERE id = $1 AND lease = $2",
            )
            .bind(attempt.request)
            .bind(attempt.lease)
            .execute(connection)
            .await?
            .rows_affected();
            Ok(lease_result(updated))
        })
        .await
    }

    async fn remove(&self, attempt: &UploadAttempt<'_>) -> Result<UploadLeaseResult, StoreError> {
        self.write("removing an upload request", async |connection| {
            Ok(lease_result(delete(connection, attempt).await?))
        })
        .await
    }
}

fn lease_result(rows: u64) -> UploadLeaseResult {
    if rows > 0 {
        UploadLeaseResult::Stored
    } else {
        UploadLeaseResult::Lost
    }
}

/// Deletes some old requests, and the request with the same id if it is old.
async fn delete_old(
    tx: &mut Connection,
    request: &NewUploadRequest<'_>,
) -> Result<(), OperationError> {
    sqlx::query(UPLOAD_REQUESTS_DELETE_OLD)
        .bind(bind_time(request.old_before))
        .bind(MAX_DELETED)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "-- upload_requests_delete_old_one
         DELETE FROM cloudflare_upload_requests WHERE id = $1 AND created_at < $2",
    )
    .bind(request.attempt.request)
    .bind(bind_time(request.old_before))
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Inserts a request. Returns whether its id was free.
async fn insert(
    tx: &mut Connection,
    request: &NewUploadRequest<'_>,
    now: ClockReading,
) -> Result<bool, OperationError> {
    let inserted = sqlx::query(concat!(
        "-- upload_requests_insert
         INSERT INTO cloudflare_upload_requests (id, request_digest, cloudflare_id, lease, leased_at, created_at)
         VALUES ($1, $2, $3, $4, ",
        now!("$5"),
        ", $6) ON CONFLICT (id) DO NOTHING"
    ))
    .bind(request.attempt.request)
    .bind(request.request_digest)
    .bind(request.image.map(|image| image.cloudflare_id.as_str()))
    .bind(request.attempt.lease)
    .bind(bind_now(now))
    .bind(bind_time(now.time()))
    .execute(&mut *tx)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Leases a request whose last attempt was interrupted, or returns its state.
async fn repeat(
    tx: &mut Connection,
    request: &NewUploadRequest<'_>,
    now: ClockReading,
) -> Result<Begun, OperationError> {
    let leased = sqlx::query(concat!(
        "-- upload_requests_lease
         UPDATE cloudflare_upload_requests SET state = 'running', lease = $3, leased_at = ",
        now!("$4"),
        " WHERE id = $1 AND request_digest = $2
             AND (state = 'interrupted' OR state = 'running' AND leased_at <= ",
        ago!("$4", "$5"),
        ") RETURNING cloudflare_id"
    ))
    .bind(request.attempt.request)
    .bind(request.request_digest)
    .bind(request.attempt.lease)
    .bind(bind_now(now))
    .bind(bind_ago(now, request.lease_time))
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = leased {
        let id: Option<String> = row.try_get("cloudflare_id")?;
        return Ok(Begun::Again(id.map(|id| parse_id(&id)).transpose()?));
    }
    let found = sqlx::query(
        "-- upload_requests_find
         SELECT request_digest, state, cloudflare_id, upload_url, expires_at FROM cloudflare_upload_requests WHERE id = $1",
    )
    .bind(request.attempt.request)
    .fetch_optional(&mut *tx)
    .await?;
    // It has been removed since the insertion was refused. A repeated request begins again.
    let Some(row) = found else {
        return Ok(Begun::Running);
    };
    if row.try_get::<&str, _>("request_digest")? != request.request_digest {
        return Ok(Begun::OtherRequest);
    }
    if row.try_get::<&str, _>("state")? != "finished" {
        return Ok(Begun::Running);
    }
    Ok(Begun::Finished(UploadAnswer {
        cloudflare_id: parse_id(row.try_get("cloudflare_id")?)?,
        upload_url: row.try_get("upload_url")?,
        expires_at: read_time(&row, "expires_at")?.ok_or_else(|| undecodable("expires_at"))?,
    }))
}

fn parse_id(text: &str) -> Result<CloudflareId, StoreError> {
    CloudflareId::parse(text).map_err(|_| undecodable("cloudflare_id"))
}

fn undecodable(column: &'static str) -> StoreError {
    StoreError::Undecodable {
        table: TABLE,
        column,
        id: String::new(),
        reason: "must have a valid value".to_owned(),
    }
}

/// Deletes the request of an attempt with the lease. Returns the number of deleted rows.
async fn delete(
    connection: &mut Connection,
    attempt: &UploadAttempt<'_>,
) -> Result<u64, OperationError> {
    let deleted = sqlx::query(
        "-- upload_requests_delete
         DELETE FROM cloudflare_upload_requests WHERE id = $1 AND lease = $2",
    )
    .bind(attempt.request)
    .bind(attempt.lease)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}

async fn store_answer(
    tx: &mut Connection,
    attempt: &UploadAttempt<'_>,
    answer: &UploadAnswer,
) -> Result<UploadLeaseResult, OperationError> {
    let updated = sqlx::query(
        "-- upload_requests_finish
         UPDATE cloudflare_upload_requests
         SET state = 'finished', lease = NULL, leased_at = NULL, cloudflare_id = $3, upload_url = $4, expires_at = $5
         WHERE id = $1 AND lease = $2",
    )
    .bind(attempt.request)
    .bind(attempt.lease)
    .bind(answer.cloudflare_id.as_str())
    .bind(&answer.upload_url)
    .bind(bind_time(answer.expires_at))
    .execute(&mut *tx)
    .await?;
    Ok(lease_result(updated.rows_affected()))
}

/// Stores the URL in the row of the image. One that is too long for the column is left out; it contains a long id.
async fn store_url(
    tx: &mut Connection,
    answer: &UploadAnswer,
    now: Timestamp,
) -> Result<(), OperationError> {
    let url = Some(&*answer.upload_url);
    let url = url.filter(|url| url.chars().count() <= MAX_URL_CHARACTERS);
    let updated = sqlx::query(
        "-- upload_requests_set_url
         UPDATE cloudflare_images SET upload_url = COALESCE($2, upload_url), expires_at = $3, updated_at = $4
         WHERE cloudflare_id = $1",
    )
    .bind(answer.cloudflare_id.as_str())
    .bind(url)
    .bind(bind_time(answer.expires_at))
    .bind(bind_time(now))
    .execute(&mut *tx)
    .await?;
    if updated.rows_affected() == 0 {
        return Err(rows_suppressed("cloudflare_images"));
    }
    Ok(())
}
