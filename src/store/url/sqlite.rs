//! SQLite URLs: a path, and parameters that other programs write after it.

use std::path::PathBuf;

use super::error::InvalidDatabaseUrl;
use super::ignored_parameter::IgnoredParameter;
use super::query::{check_name, split};

/// A SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteUrl {
    /// The path of the file.
    pub path: PathBuf,
    pub(super) ignored: Vec<IgnoredParameter>,
}

/// The parameters that choose another kind of file, and their values that the service supports.
const FIXED: [(&str, &str); 5] = [
    ("mode", "rwc"),
    ("cache", "private"),
    ("immutable", "0"),
    ("nolock", "0"),
    ("vfs", "unix"),
];

/// Parses the path and the parameters. An in-memory database is refused, because acknowledged webhooks must survive the process.
pub(super) fn parse(file: &str) -> Result<SqliteUrl, InvalidDatabaseUrl> {
    let (path, query) = file.split_once('?').unwrap_or((file, ""));
    if path.is_empty() {
        return Err(InvalidDatabaseUrl::NoPath);
    }
    if path.contains(":memory:") {
        return Err(InvalidDatabaseUrl::InMemory);
    }
    let mut ignored = Vec::new();
    for parameter in split(query) {
        let (name, value) = parameter?;
        check_name(&name)?;
        match FIXED.iter().find(|(fixed, _)| *fixed == name) {
            Some((_, allowed)) if value == *allowed => {}
            Some(("mode", _)) if value == "memory" => return Err(InvalidDatabaseUrl::InMemory),
            Some((_, allowed)) => return Err(InvalidDatabaseUrl::value(&name, allowed)),
            None => ignored.push(IgnoredParameter { name, advice: None }),
        }
    }
    Ok(SqliteUrl {
        path: path.into(),
        ignored,
    })
}
