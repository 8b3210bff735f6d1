//! The actions of an operator on the tables.

use super::{ActionError, Context};

/// Runs the pending migrations. Returns their number.
pub(crate) async fn migrate(context: &Context) -> Result<usize, ActionError> {
    let schema = &context.store.schema;
    let pending = schema.pending().await?;
    schema.migrate().await?;
    Ok(pending.len())
}

/// Fails if a migration is pending.
pub(crate) async fn require_current(context: &Context) -> Result<(), ActionError> {
    if context.store.schema.pending().await?.is_empty() {
        Ok(())
    } else {
        Err(ActionError::TablesOutdated)
    }
}
