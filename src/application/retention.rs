//! The actions of an operator on old rows.

use std::sync::Arc;

use super::{ActionError, Context};
use crate::retention::Pruner;
use crate::store::{PrunableTable, PruneMode};

/// Deletes or counts the rows that are older than their retention period. Reports each table with its number of these rows.
pub(crate) async fn prune(
    context: &Context,
    mode: PruneMode,
    mut report: impl FnMut(&str, u64),
) -> Result<(), ActionError> {
    let pruner = Pruner::new(
        Arc::clone(&context.store.retention),
        &context.retention,
        Arc::clone(&context.clock),
    );
    for table in PrunableTable::ALL {
        report(table.name(), pruner.prune(table, mode).await?);
    }
    Ok(())
}
