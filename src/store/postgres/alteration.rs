//! The changes of adopted tables in Postgres, under locks that last milliseconds.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};

use super::connection::Connection;
use super::migrator::{begin, code_of, commit, run_until};
use crate::store::adoption::IMAGES_MIGRATION;
use crate::store::session::OperationError;

/// The longest wait for a lock on an adopted table. All later queries of apps on the table wait behind it. It is shorter than
/// Postgres's `deadlock_timeout` of 1 s, so Postgres does not abort an app's transaction.
const LOCK_TIMEOUT_SQL: &str = "SET LOCAL lock_timeout = '500ms'";

/// The time between two attempts to lock a table.
pub(super) const LOCK_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A change of an adopted table that needs an exclusive lock.
pub(super) enum Alteration {
    /// The migration of the images.
    Images,
    /// The changes of the audit log's migration, with the foreign keys to drop.
    AuditLog(Vec<ForeignKey>),
    /// One statement about an index of a partitioned audit log.
    Index(String),
}

/// A foreign key, with its name and the name of its table as SQL text.
pub(super) struct ForeignKey {
    pub(super) table: String,
    pub(super) name: String,
}

/// Alters a table in a transaction. If an app holds a lock on the table, the transaction ends and is tried again.
pub(super) async fn with_short_locks(
    connection: &mut Connection,
    alteration: &Alteration,
) -> Result<(), OperationError> {
    let mut is_first = true;
    loop {
        match alter(connection, alteration).await {
            Err(error) if is_lock_failure(&error) => {
                if is_first {
                    tracing::warn!(
                        "an app holds a lock on a table that is being adopted; trying again every second"
                    );
                }
                is_first = false;
                tokio::time::sleep(LOCK_RETRY_INTERVAL).await;
            }
            altered => return altered,
        }
    }
}

async fn alter(connection: &mut Connection, alteration: &Alteration) -> Result<(), OperationError> {
    let mut tx = begin(connection).await?;
    tx.execute(LOCK_TIMEOUT_SQL).await?;
    match alteration {
        Alteration::Images => {
            // The migration sets a longer timeout for its locks. By then, the transaction has this lock.
            tx.execute("LOCK TABLE cloudflare_images IN ACCESS EXCLUSIVE MODE")
                .await?;
            run_until(&mut tx, Some(IMAGES_MIGRATION)).await?;
        }
        Alteration::AuditLog(foreign_keys) => {
            for ForeignKey { table, name } in foreign_keys {
                // An older release may have dropped it since it was found.
                let drop = format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}");
                tx.execute(AssertSqlSafe(drop)).await?;
            }
            tx.execute(
                "ALTER TABLE cloudflare_image_logs
                     ALTER COLUMN image_id DROP NOT NULL,
                     ALTER COLUMN message SET DEFAULT '',
                     ALTER COLUMN data SET DEFAULT '{}',
                     ALTER COLUMN timestamp SET DEFAULT now()",
            )
            .await?;
        }
        Alteration::Index(statement) => {
            tx.execute(AssertSqlSafe(statement.clone())).await?;
        }
    }
    commit(tx).await?;
    Ok(())
}

/// Returns whether the statement could not get a lock: a timeout, or a deadlock with an app.
pub(super) fn is_lock_failure(error: &OperationError) -> bool {
    code_of(error).is_some_and(|code| ["55P03", "40P01"].contains(&code))
}
