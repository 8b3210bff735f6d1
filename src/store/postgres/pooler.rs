//! The detection of the pool mode.
//!
//! The protocol does not show whether a pooler or the server answers. So the first connection sets a mark in its session. A pooler in
//! transaction mode gives this session to the second connection, or another session to the first one.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool};
use tokio::time::timeout;

use super::connection::PoolMode;
use crate::random::uuid_v4;

/// A setting that the server ignores. Its name has a dot, so any user may set it.
const MARK: &str = "cloudflare_images_webhook.client";

/// The longest wait for the second connection, and for its answers. A pooler with a single session lets the second client wait.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Detects the pool mode with two connections. Fails if the first one cannot be opened within this time. Returns `None` if the
/// second one gets no session: a busy pooler in transaction mode looks like one in session mode with a single session.
pub(super) async fn detect(
    options: &PgConnectOptions,
    acquire_timeout: Duration,
) -> Result<Option<PoolMode>, sqlx::Error> {
    // The pool tries again while the server does not answer.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(acquire_timeout)
        .test_before_acquire(false)
        .connect_lazy_with(options.clone());
    let detected = detect_with(&pool, options).await;
    pool.close().await;
    detected
}

async fn detect_with(
    pool: &PgPool,
    options: &PgConnectOptions,
) -> Result<Option<PoolMode>, sqlx::Error> {
    let mark = uuid_v4().simple().to_string();
    let mut first = pool.acquire().await?.detach();
    let set_mark = format!("SELECT set_config('{MARK}', '{mark}', false)");
    first.execute(AssertSqlSafe(set_mark)).await?;
    let connecting = PgConnection::connect_with(options);
    let mode = match timeout(PROBE_TIMEOUT, connecting).await {
        Ok(Ok(second)) => compare(&mut first, second, &mark).await?,
        Ok(Err(_)) | Err(_) => None,
    };
    // A pooler may keep the session of a client that closes its connection.
    first
        .execute(AssertSqlSafe(format!(
            "SELECT set_config('{MARK}', '', false)"
        )))
        .await?;
    first.close().await?;
    Ok(mode)
}

/// Keeps the second client's session busy with a transaction. Then the first client has its own session only if it always had it.
async fn compare(
    first: &mut PgConnection,
    mut second: PgConnection,
    mark: &str,
) -> Result<Option<PoolMode>, sqlx::Error> {
    let beginning = async {
        second.execute("BEGIN").await?;
        read_mark(&mut second).await
    };
    // Until the second client gets a session, it may wait for the first one's.
    let mode = match timeout(PROBE_TIMEOUT, beginning).await {
        Ok(Ok(read)) if read == mark => Some(PoolMode::Transaction),
        Ok(Ok(_)) => match timeout(PROBE_TIMEOUT, read_mark(first)).await {
            Ok(Ok(read)) if read == mark => Some(PoolMode::Session),
            Ok(Ok(_)) | Err(_) => Some(PoolMode::Transaction),
            Ok(Err(error)) => return Err(error),
        },
        Ok(Err(error)) => return Err(error),
        Err(_) => None,
    };
    // This ends the transaction, so the first client can go on. Over TLS, `close_hard` would wait for the server, and the server for
    // the next statement.
    drop(second);
    Ok(mode)
}

async fn read_mark(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    use sqlx::Row;
    let row = connection
        .fetch_one(AssertSqlSafe(format!(
            "SELECT coalesce(current_setting('{MARK}', true), '')"
        )))
        .await?;
    row.try_get(0)
}
