//! A runtime with low-priority threads for calls to endpoints.
//!
//! Receiving has priority on a busy machine, because Cloudflare waits for a response and the
//! endpoints do not. Claims and settlements run on the main runtime, because a low-priority thread
//! that holds a database lock would delay all threads that wait for the lock (priority inversion).

use std::io;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Handle, Runtime};

/// The increment to the process's own nice value (`man 7 sched`). On a busy processor, such a thread
/// gets about a tenth of the time of a normal thread. On an idle processor, it gets all of the time.
#[cfg(target_os = "linux")]
const NICE_INCREMENT: i32 = 10;

#[cfg(target_os = "linux")]
const MAX_NICE: i32 = 19;

/// The stack of each thread. Functions that filter an event call themselves for each of its levels. At the limit of nesting they
/// need up to 3 MiB in a debug build. Unused stack costs no memory.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// A runtime with low-priority threads. Dropping it stops them without waiting.
pub(in crate::relay) struct LowPriorityRuntime(Option<Runtime>);

impl LowPriorityRuntime {
    /// Starts one thread per processor.
    pub(in crate::relay) fn start() -> io::Result<Self> {
        let threads = available_parallelism().map_or(1, NonZeroUsize::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("relay")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Returns the handle that spawns tasks on these threads.
    pub(in crate::relay) fn handle(&self) -> Handle {
        let runtime = self.0.as_ref().expect("the runtime is taken only by drop");
        runtime.handle().clone()
    }
}

impl Drop for LowPriorityRuntime {
    /// Does not wait for the threads, because the drop runs on a thread of the main runtime, which must not block. All deliveries have ended before the drop.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of the current thread, on Linux only. On other systems this would affect the whole process.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::getpriority_process(None).and_then(|nice| {
        rustix::process::setpriority_process(None, MAX_NICE.min(nice + NICE_INCREMENT))
    }) {
        tracing::debug!(%error, "relay threads keep their normal priority");
    }
}
