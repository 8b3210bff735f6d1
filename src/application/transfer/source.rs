//! The source of an import: batches of lines. A file is read on a thread of its own, while the database writes.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::columns::{Cells, MAX_LINE_BYTES};
use super::csv::{CsvReader, skip_blank};
use super::error::{FileError, ImportError, InvalidLine, Origin};
use super::json_lines::JsonLinesReader;
use super::row;
use crate::domain::import::ImportedImage;

/// The maximum number of lines in a batch. Each batch is one transaction, and a running service waits for it on SQLite.
const MAX_BATCH_LINES: usize = 500;

/// The number of bytes at which a batch takes no more lines.
const MAX_BATCH_BYTES: u64 = MAX_LINE_BYTES as u64;

/// A part of the lines to import, in order.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(super) lines: Vec<Line>,
    /// The number of bytes of the file that were read so far.
    pub(super) bytes_read: u64,
}

/// A line to import. A line of CSV may contain line breaks.
#[derive(Debug)]
pub(crate) struct Line {
    /// The number of the first line or of the image, from 1.
    pub(super) number: u64,
    pub(super) image: Result<ImportedImage, InvalidLine>,
}

/// A source of lines.
pub(crate) struct Source {
    pub(super) batches: mpsc::Receiver<Batch>,
    /// The task that sends the batches. It ends after the last line, or if the receiver is dropped.
    pub(super) reading: JoinHandle<Result<(), ImportError>>,
    pub(super) origin: Origin,
}

impl Source {
    /// Returns the lines of a file: CSV or JSON Lines, as its first character says.
    pub(crate) fn of_file(file: impl Read + Send + 'static) -> Self {
        // One batch waits while another is written, so the memory is limited.
        let (sender, batches) = mpsc::channel(1);
        let send = move |batch| sender.blocking_send(batch).is_ok();
        let reading = tokio::task::spawn_blocking(move || Ok(read(file, send)?));
        Self {
            batches,
            reading,
            origin: Origin::File,
        }
    }
}

/// Reads all lines, and sends them in batches. Stops if a batch is not wanted.
fn read(file: impl Read, mut send: impl FnMut(Batch) -> bool) -> Result<(), FileError> {
    let counted = Counted { file, bytes: 0 };
    let mut input = BufReader::with_capacity(64 * 1024, counted);
    let Some(mut reader) = LineReader::open(&mut input)? else {
        return Ok(());
    };
    loop {
        let mut lines = Vec::new();
        let start = input.get_ref().bytes;
        while lines.len() < MAX_BATCH_LINES && input.get_ref().bytes - start < MAX_BATCH_BYTES {
            let Some((number, cells)) = reader.next(&mut input)? else {
                break;
            };
            let image = cells.and_then(row::parse);
            lines.push(Line { number, image });
        }
        let bytes_read = input.get_ref().bytes;
        if lines.is_empty() || !send(Batch { lines, bytes_read }) {
            return Ok(());
        }
    }
}

/// Counts the bytes of a file.
struct Counted<R> {
    file: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

enum LineReader {
    Csv(Box<CsvReader>),
    JsonLines(JsonLinesReader),
}

impl LineReader {
    /// Skips a byte order mark, and detects the format. Returns `None` if the file is empty.
    fn open(input: &mut impl BufRead) -> Result<Option<Self>, FileError> {
        skip_byte_order_mark(input)?;
        let mut line = 1;
        skip_blank(input, &mut line)?;
        let start = input.fill_buf()?;
        let is_mark = |byte: &&u8| !matches!(byte, b' ' | b'\t');
        match start.iter().find(is_mark).or(start.first()) {
            None => Ok(None),
            Some(b'[') => Err(FileError::JsonArray),
            Some(b'{') => Ok(Some(Self::JsonLines(JsonLinesReader::new(line)))),
            Some(_) => Ok(CsvReader::open(input, line)?.map(|reader| Self::Csv(Box::new(reader)))),
        }
    }

    fn next(
        &mut self,
        input: &mut impl BufRead,
    ) -> io::Result<Option<(u64, Result<Cells, InvalidLine>)>> {
        match self {
            Self::Csv(reader) => reader.next(input),
            Self::JsonLines(reader) => reader.next(input),
        }
    }
}

/// Skips the byte order mark of UTF-8. Spreadsheets write it.
fn skip_byte_order_mark(input: &mut impl BufRead) -> Result<(), FileError> {
    if matches!(input.fill_buf()?.first(), Some(0xff | 0xfe)) {
        return Err(FileError::Utf16);
    }
    for byte in *b"\xef\xbb\xbf" {
        if input.fill_buf()?.first() != Some(&byte) {
            break;
        }
        input.consume(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A file that is read in parts of this size.
    struct Parts(VecDeque<u8>, usize);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1.min(buffer.len());
            self.0.read(&mut buffer[..size])
        }
    }

    /// Returns the number of each line with its filename or the reason why it is invalid, and the error of the file.
    fn lines(text: &[u8], part: usize) -> (Vec<(u64, String)>, Option<String>) {
        let mut lines = Vec::new();
        let file = Parts(text.iter().copied().collect(), part);
        let result = read(file, |batch| {
            lines.extend(batch.lines.into_iter().map(|line| match line.image {
                Ok(image) => (line.number, image.details.filename.unwrap_or_default()),
                Err(reason) => (line.number, reason.to_string()),
            }));
            true
        });
        (lines, result.err().map(|error| error.to_string()))
    }

    #[test]
    fn number_is_that_of_first_line() {
        let text = b"\n\r\ncloudflare_id,filename\r\n\r\n\"a\",\"x\n\ny\"\n\nb,z\n\"c\nd,e";

        let (lines, error) = lines(text, 1);

        let expected = [
            (5, "x\n\ny"),
            (9, "z"),
            (10, "the line has a quotation mark without a second one"),
        ];
        assert_eq!(lines, expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(error, None);
    }

    proptest! {
        #[test]
        fn records_do_not_depend_on_parts(text in "[ab,\"\r\n\u{fc}]{0,40}", part in 1..8_usize) {
            let text = format!("cloudflare_id,filename\n{text}");

            prop_assert_eq!(lines(text.as_bytes(), part), lines(text.as_bytes(), usize::MAX));
        }

        #[test]
        fn json_lines_do_not_depend_on_parts(text in "[{}\":,a\r\n ]{0,40}", part in 1..8_usize) {
            let text = format!("{{\"cloudflare_id\":\"a\"}}\n{text}");

            prop_assert_eq!(lines(text.as_bytes(), part), lines(text.as_bytes(), usize::MAX));
        }

        #[test]
        fn arbitrary_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (lines, error) = lines(&bytes, usize::MAX);

            prop_assert!(lines.is_empty() || error.is_none());
        }
    }
}
