//! CSV (RFC 4180): reads records of a limited size, and writes cells.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader};

use super::columns::{COLUMNS, Cells, Column, MAX_CELLS, MAX_LINE_BYTES};
use super::error::{FileError, InvalidLine};

/// The size of the buffer for a record at the start. It grows up to the limit of a line.
const INITIAL_BYTES: usize = 4096;

/// Reads the records of a CSV file. The memory is limited, also if a quotation mark is not closed.
pub(super) struct CsvReader {
    reader: Reader,
    buffer: Vec<u8>,
    ends: Vec<usize>,
    /// The number of the current line, from 1.
    line: u64,
    header: Vec<Column>,
    is_at_end: bool,
}

/// The cells of a record as text.
type Record = Result<Vec<String>, InvalidLine>;

impl CsvReader {
    /// Reads the header. `line` is the number of its line. Returns `None` if the file is empty.
    pub(super) fn open(input: &mut impl BufRead, line: u64) -> Result<Option<Self>, FileError> {
        let mut reader = Self {
            reader: Reader::new(),
            buffer: vec![0; INITIAL_BYTES],
            ends: vec![0; MAX_CELLS],
            line,
            header: Vec::new(),
            is_at_end: false,
        };
        let Some((_, names)) = reader.read_record(input)? else {
            return Ok(None);
        };
        reader.header = columns_of(&names.map_err(FileError::Header)?)?;
        Ok(Some(reader))
    }

    /// Reads a record. Returns the number of its first line, and its cells. `None` means the end of the file.
    pub(super) fn next(
        &mut self,
        input: &mut impl BufRead,
    ) -> io::Result<Option<(u64, Result<Cells, InvalidLine>)>> {
        let record = self.read_record(input)?;
        Ok(record.map(|(line, record)| (line, record.and_then(|texts| self.cells(texts)))))
    }

    fn cells(&self, texts: Vec<String>) -> Result<Cells, InvalidLine> {
        let (expected, found) = (self.header.len(), texts.len());
        if found != expected {
            return Err(InvalidLine::CellCount { expected, found });
        }
        let mut cells = Cells::default();
        for (column, text) in self.header.iter().zip(texts) {
            // CSV cannot tell NULL from empty text.
            if !text.is_empty() {
                cells.set(*column, text);
            }
        }
        Ok(cells)
    }

    fn read_record(&mut self, input: &mut impl BufRead) -> io::Result<Option<(u64, Record)>> {
        skip_blank(input, &mut self.line)?;
        if self.is_at_end {
            return Ok(None);
        }
        let first_line = self.line;
        let (mut bytes, mut cells, mut excess) = (0, 0, None);
        loop {
            let chunk = input.fill_buf()?;
            self.is_at_end = chunk.is_empty();
            // A line break ends the last record, unless a quotation mark is open.
            let chunk = if self.is_at_end { b"\n" } else { chunk };
            let (result, read, written, ended) =
                self.reader
                    .read_record(chunk, &mut self.buffer[bytes..], &mut self.ends[cells..]);
            if !self.is_at_end {
                self.line += newlines(&chunk[..read]);
                input.consume(read);
            }
            (bytes, cells) = (bytes + written, cells + ended);
            let is_empty = bytes == 0 && cells == 0 && excess.is_none();
            match result {
                ReadRecordResult::InputEmpty if self.is_at_end && is_empty => return Ok(None),
                ReadRecordResult::InputEmpty if self.is_at_end => {
                    return Ok(Some((first_line, Err(InvalidLine::UnclosedQuote))));
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.buffer.len() < MAX_LINE_BYTES => {
                    let doubled = 2 * self.buffer.len();
                    self.buffer.resize(doubled.min(MAX_LINE_BYTES), 0);
                }
                // The rest of the record is read, and overwrites its start.
                ReadRecordResult::OutputFull => {
                    (bytes, cells) = (0, 0);
                    excess.get_or_insert(InvalidLine::TooLong);
                }
                ReadRecordResult::OutputEndsFull => {
                    (bytes, cells) = (0, 0);
                    excess.get_or_insert(InvalidLine::TooManyCells);
                }
                ReadRecordResult::Record => {
                    let record = match excess {
                        Some(excess) => Err(excess),
                        None => self.texts(cells),
                    };
                    return Ok(Some((first_line, record)));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// Returns the cells of the record in the buffer.
    fn texts(&self, cells: usize) -> Record {
        let mut start = 0;
        let ends = self.ends.iter().take(cells);
        let texts = ends.map(|end| {
            let cell = self.buffer.get(start..*end).unwrap_or_default();
            start = *end;
            String::from_utf8(cell.to_vec()).map_err(|_| InvalidLine::NotUtf8)
        });
        texts.collect()
    }
}

/// Skips blanks and line breaks, and counts the lines.
pub(super) fn skip_blank(input: &mut impl BufRead, line: &mut u64) -> io::Result<()> {
    loop {
        let chunk = input.fill_buf()?;
        let is_break = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let breaks = chunk.iter().take_while(is_break).count();
        if breaks == 0 {
            return Ok(());
        }
        *line += newlines(&chunk[..breaks]);
        input.consume(breaks);
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    let lines = bytes.split(|byte| *byte == b'\n').count();
    lines.saturating_sub(1) as u64
}

/// Returns the columns that a header names.
fn columns_of(names: &[String]) -> Result<Vec<Column>, FileError> {
    if let [name] = names
        && let Some(separator) = name.chars().find(|sign| matches!(sign, ';' | '\t' | '|'))
    {
        return Err(FileError::OtherSeparator(separator));
    }
    let mut columns = Vec::with_capacity(COLUMNS);
    for name in names {
        let column = Column::from_name(name)
            .ok_or_else(|| FileError::Header(InvalidLine::UnknownColumn(name.clone())))?;
        if columns.contains(&column) {
            return Err(FileError::Header(InvalidLine::ColumnTwice(column)));
        }
        columns.push(column);
    }
    if !columns.contains(&Column::CloudflareId) {
        return Err(FileError::NoIdColumn);
    }
    Ok(columns)
}

/// Appends a record to a text. A cell with a separator, a quotation mark or a line break is quoted.
pub(super) fn write_record<'a>(cells: impl Iterator<Item = &'a str>, text: &mut String) {
    for (position, cell) in cells.enumerate() {
        if position > 0 {
            text.push(',');
        }
        if cell.contains(['"', ',', '\n', '\r']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(cell);
        }
    }
    text.push('\n');
}
