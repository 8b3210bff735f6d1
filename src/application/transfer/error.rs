//! The errors of an import.

use std::io;

use super::columns::{Column, MAX_CELLS, MAX_LINE_BYTES};
use crate::cloudflare::ApiError;
use crate::domain::json::MAX_ACCEPTED_LEVELS;
use crate::store::StoreError;
use crate::telemetry::chain;

/// The reason why a line is not imported. The other lines are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidLine {
    /// A cell breaks the rule of its column.
    #[error("{} {rule}", column.name())]
    Rule { column: Column, rule: String },
    #[error("{} must not contain U+0000, because Postgres cannot store it", .0.name())]
    ContainsNul(Column),
    #[error("{} must have at most {MAX_ACCEPTED_LEVELS} levels of objects and arrays", .0.name())]
    TooDeep(Column),
    #[error("{} is missing", .0.name())]
    Missing(Column),
    #[error("cloudflare_id is too long for the unique index")]
    IdTooLong,
    #[error("{} needs a status", .0.name())]
    WithoutStatus(Column),
    #[error("the line must have at most {} levels of objects and arrays", MAX_ACCEPTED_LEVELS + 1)]
    LineTooDeep,
    #[error("the line must be a JSON object: {0}")]
    NotAnObject(String),
    #[error("there is no column {0:?}")]
    UnknownColumn(String),
    #[error("the line has the column {} twice", .0.name())]
    ColumnTwice(Column),
    #[error("the line has {found} cells instead of {expected}")]
    CellCount { expected: usize, found: usize },
    #[error("the line has more than {MAX_CELLS} cells")]
    TooManyCells,
    #[error("the line has more than {} MiB", MAX_LINE_BYTES / 1024 / 1024)]
    TooLong,
    #[error("the line has a quotation mark without a second one")]
    UnclosedQuote,
    #[error("the line must be UTF-8 text")]
    NotUtf8,
    /// Cloudflare's description of an image breaks a rule.
    #[error("the description of the image is not valid: {0}")]
    Description(String),
    #[error("id belongs to another image")]
    RowIdTaken,
    #[error("the database refused the row: {}", chain(.0))]
    Refused(StoreError),
}

impl InvalidLine {
    pub(super) fn description(rule: &str) -> Self {
        Self::Description(rule.to_owned())
    }

    pub(super) fn rule(column: Column, rule: &impl ToString) -> Self {
        let rule = rule.to_string();
        Self::Rule { column, rule }
    }
}

/// Returns the reason why a text is not JSON. It has no line number, because the number of the line in the file is printed.
pub(super) fn json_reason(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
}

/// The reason why a file cannot be imported at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read the file")]
    Read(#[from] io::Error),
    #[error("the file is UTF-16 text. Save it as UTF-8.")]
    Utf16,
    #[error("the file is a JSON array. Write each object on a line of its own, without commas.")]
    JsonArray,
    #[error("the cells are separated by {0:?}. Save the file with commas.")]
    OtherSeparator(char),
    #[error("the first line must name the columns")]
    Header(#[source] InvalidLine),
    #[error("the first line names no column cloudflare_id")]
    NoIdColumn,
}

/// The origin of the lines of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file.
    File,
    /// The account at Cloudflare.
    Account,
}

impl Origin {
    /// Returns the name of what is numbered.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::File => "line",
            Self::Account => "image",
        }
    }
}

/// The reason why an import stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the import stopped after {} {last_line}; repeat it to continue", origin.unit())]
    Stopped {
        origin: Origin,
        /// The last line up to which all lines are committed or invalid. 0 if there is none.
        last_line: u64,
        #[source]
        source: StoreError,
    },
    #[error("the task that reads the images panicked")]
    Panicked,
}
