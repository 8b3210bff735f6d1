//! Shutdown: the signals that request it, the deadline that forces it, and the exit codes.

use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config_types::Seconds;

/// The `shutdown` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The time limit for the work in flight after the first request to shut down.
    pub deadline_secs: Seconds<0, 3600>,
}

/// The reason why a run of the service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// A graceful shutdown: every webhook in flight was finished. Other work was finished or will be repeated. Exit code 0.
    Clean,
    /// A task ended before it was asked to, or panicked. Exit code 1.
    Crashed,
    /// A forced shutdown: a second signal or the deadline interrupted webhooks in flight. Exit code 3. Exit code 2 means a wrong
    /// command line or configuration.
    Forced,
}

impl ExitReason {
    /// Returns the exit code of the process.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Crashed => 1,
            Self::Forced => 3,
        }
    }
}

/// The longest part of the deadline that is reserved for storing results and closing the database.
const MAX_MARGIN: Duration = Duration::from_secs(2);

/// The part of a short deadline that is reserved for it, as a divisor.
const MARGIN_DIVISOR: u32 = 4;

/// The requests to shut down, as cancellation tokens.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled to stop gracefully: the service accepts no new work and finishes the work in flight.
    pub graceful: CancellationToken,
    /// Cancelled shortly before the deadline: work that can be repeated is given up.
    pub cutoff: CancellationToken,
    /// Cancelled to stop now, even with work in flight.
    pub forced: CancellationToken,
}

impl Shutdown {
    /// Cancels a token for each signal: the first SIGTERM or SIGINT is graceful, the second is forced.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (terminate, interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        // The task is not tracked, because it only waits for signals.
        tokio::spawn(self.clone().listen(terminate, interrupt));
        Ok(())
    }

    async fn listen(self, mut terminate: Signal, mut interrupt: Signal) {
        for token in [&self.graceful, &self.forced] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "received {name}");
            token.cancel();
        }
    }

    /// Waits until the work in flight must be interrupted: at the forced request, or `deadline` after the graceful request.
    /// Cancels `cutoff` a margin before that.
    pub async fn deadline_reached(&self, deadline: Duration) {
        self.graceful.cancelled().await;
        let margin = MAX_MARGIN.min(deadline / MARGIN_DIVISOR);
        let waiting = async {
            tokio::time::sleep(deadline.saturating_sub(margin)).await;
            self.cutoff.cancel();
            tokio::time::sleep(margin).await;
        };
        tokio::select! {
            () = self.forced.cancelled() => {}
            () = waiting => {}
        }
    }
}
