//! The trial entry of the audit log.

use crate::store::Store;
use crate::telemetry::chain;

/// Logs an error if the database refuses a new entry of the audit log. Readiness does not check that, because it changes no data.
pub(super) async fn try_audit_log(store: &Store) {
    let Err(error) = store.schema.try_audit_log().await else {
        return;
    };
    if error.is_read_only() {
        tracing::error!(
            error = chain(&error),
            "the database is read-only, so webhooks would fail; if it is no standby, check default_transaction_read_only"
        );
    } else {
        tracing::error!(
            error = chain(&error),
            "the database refused an audit log entry, so webhooks would fail; check the triggers and policies of cloudflare_image_logs"
        );
    }
}
