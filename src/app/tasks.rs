//! The tasks of a run. Each has a name for the log.

use std::borrow::Cow;
use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};

use crate::shutdown::{ExitReason, Shutdown};

#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, Cow<'static, str>>,
}

struct Ended {
    task: Cow<'static, str>,
    result: Result<(), JoinError>,
}

impl Tasks {
    pub(super) fn spawn(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), name.into());
    }

    /// Waits for a request to shut down. A task that ends before that has crashed, so the other tasks are then asked to stop.
    pub(super) async fn wait_for_shutdown(&mut self, shutdown: &Shutdown) -> ExitReason {
        // The request is checked first, because a task that was asked to stop may already have ended.
        let ended = tokio::select! {
            biased;
            () = shutdown.graceful.cancelled() => return ExitReason::Clean,
            Some(ended) = self.next_ended() => ended,
        };
        match &ended.result {
            Ok(()) => tracing::error!(task = &*ended.task, "task ended unexpectedly; stopping"),
            Err(error) => tracing::error!(task = &*ended.task, %error, "task panicked; stopping"),
        }
        shutdown.graceful.cancel();
        ExitReason::Crashed
    }

    /// Waits for all tasks to end after they were asked to stop. Returns whether any of them panicked.
    pub(super) async fn any_panicked(&mut self) -> bool {
        let mut any_panicked = false;
        while let Some(ended) = self.next_ended().await {
            if let Err(error) = ended.result {
                tracing::error!(task = &*ended.task, %error, "task panicked during shutdown");
                any_panicked = true;
            }
        }
        any_panicked
    }

    async fn next_ended(&mut self) -> Option<Ended> {
        let (id, result) = match self.set.join_next_with_id().await? {
            Ok((id, ())) => (id, Ok(())),
            Err(error) => (error.id(), Err(error)),
        };
        let task = self.names.remove(&id).unwrap_or_default();
        Some(Ended { task, result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::captured_log::logged;

    #[tokio::test]
    async fn early_end_stops_all_with_exit_1() {
        for crash in [true, false] {
            let shutdown = Shutdown::default();
            let mut tasks = Tasks::default();
            let asked = shutdown.graceful.clone();
            tasks.spawn("other", async move { asked.cancelled().await });
            tasks.spawn("relay", async move { assert!(!crash, "on purpose") });

            let exit_reason = tasks.wait_for_shutdown(&shutdown).await;

            assert_eq!(
                (exit_reason, exit_reason.exit_code()),
                (ExitReason::Crashed, 1)
            );
            assert!(
                !tasks.any_panicked().await,
                "the other was asked to stop, and did"
            );
        }
    }

    #[tokio::test]
    async fn log_names_task_that_ended() {
        for crash in [true, false] {
            let shutdown = Shutdown::default();
            let mut tasks = Tasks::default();
            tasks.spawn("retention", std::future::pending());
            tasks.spawn("relay", async move { assert!(!crash, "on purpose") });

            let (_, lines) = logged(tasks.wait_for_shutdown(&shutdown)).await;

            let [line] = &lines[..] else {
                panic!("one line is logged: {lines:?}")
            };
            assert_eq!(
                (&line["level"], &line["task"]),
                (&"ERROR".into(), &"relay".into())
            );
        }
    }

    #[tokio::test]
    async fn requested_end_is_clean() {
        let shutdown = Shutdown::default();
        let mut tasks = Tasks::default();
        tasks.spawn("relay", async {});
        shutdown.graceful.cancel();
        tokio::task::yield_now().await;

        assert_eq!(tasks.wait_for_shutdown(&shutdown).await, ExitReason::Clean);
    }

    #[tokio::test]
    async fn reports_and_names_panic_during_shutdown() {
        let mut tasks = Tasks::default();
        tasks.spawn("relay", async { panic!("on purpose") });

        let (any_panicked, lines) = logged(tasks.any_panicked()).await;

        assert!(any_panicked);
        assert_eq!(lines[0]["task"], "relay");
    }
}
