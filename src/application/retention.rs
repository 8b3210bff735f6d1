//! The actions on old rows.

use std::sync::Arc;

use super::{ActionError, Context};
use crate::retention::Pruner;
use crate::store::{PrunableTable, PruneMode};

/// Deletes or counts the rows that are older than the settings allow, and reports each table.
pub(crate) async fn prune(
    context: &Context,
    mode: PruneMode,
    mut report: impl FnMut(PrunedTable),
) -> Result<(), ActionError> {
    let pruner = Pruner::new(
        Arc::clone(&context.store.retention),
        &context.retention,
        Arc::clone(&context.clock),
    );
    for table in PrunableTable::ALL {
        report(PrunedTable {
            table: table.name(),
            rows: pruner.prune(table, mode).await?,
        });
    }
    Ok(())
}

#[derive(Debug)]
pub(crate) struct PrunedTable {
    pub(crate) table: &'static str,
    pub(crate) rows: u64,
}
