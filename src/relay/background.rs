//! Threads that stand back. Cloudflare waits for an answer, and other apps do not know yet that there is something for them: while the
//! processors have more to do than they can, webhooks come first.

use std::io;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Handle, Runtime};

/// How much nicer these threads are than the process (`man 7 sched`): beside one that is not, each gets about a tenth of a processor, and all of an idle one.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Nobody is nicer.
#[cfg(target_os = "linux")]
const NICEST: i32 = 19;

/// A runtime whose threads stand back for all others.
pub(super) struct Background(Option<Runtime>);

impl Background {
    pub(super) fn start() -> io::Result<Self> {
        let threads = available_parallelism().map_or(1, NonZeroUsize::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("relay")
            .on_thread_start(stand_back)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where to spawn what can wait.
    pub(super) fn handle(&self) -> Handle {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.handle().clone()
    }
}

impl Drop for Background {
    /// Without waiting, which no thread of another runtime may do. Whatever matters has ended before.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Linux keeps this for each thread; elsewhere it would be the whole process that stands back.
fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::getpriority_process(None)
        .and_then(|now| rustix::process::setpriority_process(None, NICEST.min(now + NICER)))
    {
        tracing::debug!(%error, "the relay's threads are as important as all others");
    }
}
