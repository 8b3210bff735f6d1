//! A bounded queue between the code that logs and the output of the log.
//!
//! A thread writes the lines, so a slow or blocked output never delays a request. A line that does not fit in the queue, or that
//! cannot be written, is dropped and counted.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The maximum size of the queue in bytes. That is about 20,000 lines.
const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;

/// The memory that a queued line needs in addition to its text.
const LINE_OVERHEAD_BYTES: usize = 64;

/// The wait before the next try if a non-blocking output is full.
const FULL_OUTPUT_DELAY: Duration = Duration::from_millis(20);

/// The sender of a queue. Clones share the queue.
#[derive(Debug, Clone)]
pub(super) struct LogQueue {
    entries: Sender<Entry>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Entry {
    Line(Box<[u8]>),
    /// A request for a signal as soon as all earlier lines are written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Counters {
    queued_bytes: AtomicUsize,
    dropped_lines: AtomicU64,
}

impl LogQueue {
    /// Starts the thread that writes the lines. Fails if the system has no thread left.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, received) = channel();
        let counters = Arc::new(Counters::default());
        let writer = LineWriter {
            output,
            is_mid_line: false,
            counters: Arc::clone(&counters),
            reported: 0,
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run(&received))?;
        Ok(Self { entries, counters })
    }

    /// Queues a line that ends with a line break. Drops and counts the line if the queue is full.
    pub(super) fn push(&self, line: &[u8]) {
        let size = line.len() + LINE_OVERHEAD_BYTES;
        let queued = self
            .counters
            .queued_bytes
            .fetch_add(size, Ordering::Relaxed);
        let is_queued = queued + size <= MAX_QUEUED_BYTES
            && self.entries.send(Entry::Line(line.into())).is_ok();
        if !is_queued {
            self.counters
                .queued_bytes
                .fetch_sub(size, Ordering::Relaxed);
            self.counters.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the lines in the queue are written, but not longer than `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let (written, all_written) = sync_channel(1);
        if self.entries.send(Entry::Flush(written)).is_ok() {
            // After the timeout, the rest of the log is lost. A blocked output must not keep the process alive.
            let _timed_out = all_written.recv_timeout(timeout);
        }
    }

    /// Returns the number of dropped lines since the start.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.counters.dropped_lines.load(Ordering::Relaxed)
    }
}

impl MakeWriter<'_> for LogQueue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for LogQueue {
    /// Queues one line. The subscriber passes each line as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's side of the queue.
struct LineWriter<W> {
    output: W,
    /// Whether the last write ended within a line.
    is_mid_line: bool,
    counters: Arc<Counters>,
    /// The number of dropped lines that the log already contains.
    reported: u64,
}

impl<W: Write> LineWriter<W> {
    fn run(mut self, entries: &Receiver<Entry>) {
        for entry in entries {
            match entry {
                Entry::Line(line) => self.write(&line),
                Entry::Flush(written) => {
                    // The receiver is gone if its wait timed out.
                    let _receiver_gone = written.send(());
                }
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        let is_written = self.try_write(line).is_ok();
        let size = line.len() + LINE_OVERHEAD_BYTES;
        let queued = self
            .counters
            .queued_bytes
            .fetch_sub(size, Ordering::Relaxed);
        if !is_written {
            self.counters.dropped_lines.fetch_add(1, Ordering::Relaxed);
        } else if queued == size {
            self.report_dropped_lines();
        }
    }

    /// Logs how many lines were dropped since the last report. The queue is empty, so the report fits in it.
    fn report_dropped_lines(&mut self) {
        let dropped = self.counters.dropped_lines.load(Ordering::Relaxed);
        let lines = dropped - self.reported;
        if lines > 0 {
            self.reported = dropped;
            tracing::warn!(
                lines,
                "log lines were dropped because they could not be written"
            );
        }
    }

    /// Writes a line. If an earlier line was written only in part, the line starts after a line break.
    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_mid_line {
            self.write_bytes(b"\n")?;
        }
        self.write_bytes(line)
    }

    fn write_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.is_mid_line = !bytes.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process may have made the output non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(FULL_OUTPUT_DELAY);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::telemetry::captured_log::logged;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// An output whose writes have these results: the number of accepted bytes, or an error. Further writes accept everything.
    #[derive(Clone, Default)]
    struct Output {
        results: Arc<Mutex<VecDeque<Result<usize, ErrorKind>>>>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let result = self.results.lock().expect("no panic").pop_front();
            let accepted = result.unwrap_or(Ok(bytes.len()))?.min(bytes.len());
            let text = std::str::from_utf8(&bytes[..accepted]).expect("ASCII");
            self.text.lock().expect("no panic").push_str(text);
            Ok(accepted)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes lines to an output with these results. Returns the written text and the number of dropped lines.
    fn write(results: impl Into<VecDeque<Result<usize, ErrorKind>>>) -> (String, u64) {
        let output = Output {
            results: Arc::new(Mutex::new(results.into())),
            ..Output::default()
        };
        let queue = LogQueue::start(output.clone()).expect("a thread");

        for line in ["first\n", "second\n", "third\n"] {
            queue.push(line.as_bytes());
        }
        queue.flush(TIMEOUT);

        let text = output.text.lock().expect("no panic").clone();
        (text, queue.dropped_lines())
    }

    #[test]
    fn writes_lines_in_order() {
        assert_eq!(write([]), ("first\nsecond\nthird\n".to_owned(), 0));
    }

    #[test]
    fn continues_after_short_and_interrupted_writes() {
        let results = [
            Ok(2),
            Err(ErrorKind::Interrupted),
            Err(ErrorKind::WouldBlock),
            Ok(3),
        ];

        assert_eq!(write(results), ("first\nsecond\nthird\n".to_owned(), 0));
    }

    #[test]
    fn counts_lines_that_fail() {
        let results = [Err(ErrorKind::StorageFull), Err(ErrorKind::BrokenPipe)];

        assert_eq!(write(results), ("third\n".to_owned(), 2));
    }

    #[test]
    fn ends_a_partial_line() {
        let results = [Ok(3), Err(ErrorKind::StorageFull)];

        assert_eq!(write(results), ("fir\nsecond\nthird\n".to_owned(), 1));
    }

    /// An output that blocks until it is opened.
    struct Gate(Receiver<()>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The sender is dropped to open the gate.
            let _open = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn drops_lines_beyond_the_limit() {
        let (close, gate) = channel();
        let queue = LogQueue::start(Gate(gate)).expect("a thread");
        let line = vec![b'-'; 1024 * 1024 - LINE_OVERHEAD_BYTES];

        let dropped: Vec<u64> = (0..10)
            .map(|_| {
                queue.push(&line);
                queue.dropped_lines()
            })
            .collect();
        queue.flush(Duration::ZERO);

        assert_eq!(dropped, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        drop(close);
        queue.flush(TIMEOUT);
        queue.push(&line);
        queue.flush(TIMEOUT);
        assert_eq!(queue.dropped_lines(), 2, "the queue has space again");
    }

    #[tokio::test]
    async fn reports_dropped_lines_once_output_works() {
        let output = Output {
            results: Arc::new(Mutex::new([Err(ErrorKind::StorageFull); 2].into())),
            ..Output::default()
        };
        let counters = Arc::new(Counters::default());
        let mut writer = LineWriter {
            output,
            is_mid_line: false,
            counters: Arc::clone(&counters),
            reported: 0,
        };
        let mut write = |line: &str| {
            counters
                .queued_bytes
                .fetch_add(line.len() + LINE_OVERHEAD_BYTES, Ordering::Relaxed);
            writer.write(line.as_bytes());
        };

        let ((), lines) = logged(async {
            for line in ["lost\n", "lost\n", "written\n", "written\n"] {
                write(line);
            }
        })
        .await;

        let reports: Vec<_> = lines.iter().map(|line| &line["lines"]).collect();
        assert_eq!(reports, [&serde_json::json!(2)], "{lines:?}");
    }
}
