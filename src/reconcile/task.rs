//! The background task.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::batch::{LookupFailed, Summary};
use super::reconciler::Reconciler;
use crate::store::ImagePosition;
use crate::telemetry::chain;

/// The time between two passes.
const PASS_INTERVAL: Duration = Duration::from_mins(1);

/// The time between two passes over all images. A pass in between starts where the last one ended, so it misses images whose row
/// says that they are older, for example imported ones.
const FULL_PASS_INTERVAL: Duration = Duration::from_hours(24);

/// The longest pause after an error. The first pause is [`PASS_INTERVAL`].
const MAX_PAUSE: Duration = Duration::from_mins(30);

/// What a process has seen of the table of images.
#[derive(Default)]
struct Progress {
    position: Option<ImagePosition>,
    full_pass_began: Option<Instant>,
}

impl Reconciler {
    /// Looks up waiting images every minute, until `stop`. Several replicas share the work by leases.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let reconciling = async {
            let mut progress = Progress::default();
            let mut failures = 0_u32;
            loop {
                match self.pass(&mut progress).await {
                    Ok(summary) => {
                        failures = 0;
                        log(summary);
                        // A notification that cannot be read ends the pause.
                        let _or_pause_is_over =
                            timeout(PASS_INTERVAL, self.wakeup.notified()).await;
                    }
                    Err(error) => {
                        let doubled = PASS_INTERVAL.saturating_mul(2_u32.saturating_pow(failures));
                        failures = failures.saturating_add(1);
                        let pause = doubled.min(MAX_PAUSE).max(wait_of(&error));
                        tracing::warn!(
                            error = chain(&error),
                            pause_secs = pause.as_secs(),
                            "cannot look up images at Cloudflare; trying again later"
                        );
                        sleep(pause).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(reconciling).await;
    }

    /// Queues the images that are old enough, and looks up all that are due.
    async fn pass(&self, progress: &mut Progress) -> Result<Summary, LookupFailed> {
        let is_full = progress
            .full_pass_began
            .is_none_or(|began| began.elapsed() >= FULL_PASS_INTERVAL);
        if is_full {
            *progress = Progress {
                position: None,
                full_pass_began: Some(Instant::now()),
            };
        }
        progress.position = self.queue(progress.position.clone()).await?;
        let mut total = Summary::default();
        while let Some(batch) = self.reconcile_batch(None).await? {
            total.add(batch.summary);
            for failure in &batch.failures {
                tracing::warn!(
                    image = failure.id.as_str(),
                    error = failure.error,
                    "cannot find out what became of an image; looking it up again later"
                );
            }
            if let Some(error) = batch.stopped {
                log(total);
                return Err(error.into());
            }
        }
        Ok(total)
    }
}

fn wait_of(error: &LookupFailed) -> Duration {
    match error {
        LookupFailed::Api(error) => error.retry_after().unwrap_or_default(),
        LookupFailed::Store(_) => Duration::ZERO,
    }
}

/// Writes one line about a pass that found something.
fn log(summary: Summary) {
    if summary.lookups() > 0 {
        tracing::info!(
            uploaded = summary.uploaded,
            expired = summary.expired,
            waiting = summary.waiting,
            failed = summary.failed,
            "looked up images at Cloudflare"
        );
    }
}
