//! JSON Lines: one object on each line.

use std::fmt;
use std::io::{self, BufRead};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::columns::{Cells, Column, Kind, MAX_LINE_BYTES};
use super::csv::skip_blank;
use super::error::{InvalidLine, json_reason};
use crate::domain::json::{MAX_ACCEPTED_LEVELS, is_deeper_than};

/// Reads the lines of a file. The memory is limited.
pub(super) struct JsonLinesReader {
    buffer: Vec<u8>,
    /// The number of the current line, from 1.
    line: u64,
}

impl JsonLinesReader {
    /// Starts at the line with this number.
    pub(super) fn new(line: u64) -> Self {
        let buffer = Vec::new();
        Self { buffer, line }
    }

    /// Reads a line that is not empty. Returns its number and its cells. `None` means the end of the file.
    pub(super) fn next(
        &mut self,
        input: &mut impl BufRead,
    ) -> io::Result<Option<(u64, Result<Cells, InvalidLine>)>> {
        skip_blank(input, &mut self.line)?;
        let line = self.line;
        self.buffer.clear();
        let (mut has_read, mut is_too_long) = (false, false);
        loop {
            let chunk = input.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            has_read = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            is_too_long |= self.buffer.len() + part.len() > MAX_LINE_BYTES;
            if !is_too_long {
                self.buffer.extend_from_slice(part);
            }
            let consumed = part.len() + usize::from(end.is_some());
            input.consume(consumed);
            if end.is_some() {
                self.line += 1;
                break;
            }
        }
        if !has_read {
            return Ok(None);
        }
        let cells = if is_too_long {
            Err(InvalidLine::TooLong)
        } else {
            parse(&self.buffer)
        };
        Ok(Some((line, cells)))
    }
}

fn parse(line: &[u8]) -> Result<Cells, InvalidLine> {
    let text = std::str::from_utf8(line).map_err(|_| InvalidLine::NotUtf8)?;
    // One level for the object of the line. The parser itself has no limit.
    if is_deeper_than(line, MAX_ACCEPTED_LEVELS + 1) {
        return Err(InvalidLine::LineTooDeep);
    }
    let Fields(fields) = serde_json::from_str(text)
        .map_err(|error| InvalidLine::NotAnObject(json_reason(&error)))?;
    let mut cells = Cells::default();
    for (name, json) in fields {
        let column = Column::from_name(&name).ok_or(InvalidLine::UnknownColumn(name))?;
        if let Some(text) = cell_text(column, json.get())?
            && cells.set(column, text)
        {
            return Err(InvalidLine::ColumnTwice(column));
        }
    }
    Ok(cells)
}

/// The fields of an object, in order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }
}

/// Returns the text of a cell; `None` for null.
fn cell_text(column: Column, json: &str) -> Result<Option<String>, InvalidLine> {
    if json == "null" {
        return Ok(None);
    }
    let is_string = json.starts_with('"');
    match column.kind() {
        Kind::Text => serde_json::from_str(json)
            .map(Some)
            .map_err(|_| InvalidLine::rule(column, &"must be a string")),
        Kind::Integer | Kind::Boolean if is_string => {
            Err(InvalidLine::rule(column, &"must not be a string"))
        }
        Kind::Integer | Kind::Boolean | Kind::Json => Ok(Some(json.to_owned())),
    }
}
