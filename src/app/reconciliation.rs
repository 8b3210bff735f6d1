//! Looking up images at Cloudflare, if the settings say so.

use std::sync::Arc;

use crate::clock::Clock;
use crate::cloudflare::Client;
use crate::config::Loaded;
use crate::reconcile::Reconciler;
use crate::store::Store;

/// Returns what looks up images at Cloudflare. `None`: the settings have no account, or turn it off.
pub(super) fn reconciler(
    loaded: &Loaded,
    store: &Store,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Option<Reconciler>> {
    let settings = &loaded.settings;
    if settings.reconcile.after().is_none() {
        return Ok(None);
    }
    let client = Client::new(&settings.cloudflare, loaded.authorities());
    let client = client.map_err(|problem| anyhow::anyhow!(problem))?;
    let clock = Arc::clone(clock);
    Ok(client.map(|client| Reconciler::new(store, client, &settings.reconcile, clock)))
}
