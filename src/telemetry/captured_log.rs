//! The log of one test, for its assertions.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

use serde_json::Value;

thread_local! {
    /// The lines that the tests of this thread have logged.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to the log of the current thread.
struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a future. Returns its output and the lines that it logs.
///
/// The subscriber is global. With a subscriber for each test, a line that two tests log at the same
/// time could be lost.
pub(crate) async fn logged<T>(future: impl Future<Output = T>) -> (T, Vec<Value>) {
    static START: Once = Once::new();
    START.call_once(|| {
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
        let subscriber = subscriber.with_writer(|| ThreadLog).finish();
        tracing::subscriber::set_global_default(subscriber).expect("it is the only one");
    });
    LOG.take();

    let output = future.await;

    let text = String::from_utf8(LOG.take()).expect("it is text");
    let lines = text.lines().map(serde_json::from_str);
    (output, lines.collect::<Result<_, _>>().expect("JSON"))
}
