//! SQLite URLs: a path, and parameters that other programs write after it.

use std::path::PathBuf;

use crate::config_types::InvalidSetting;

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
    check_path(path)?;
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

/// Fails if a shell, another URL parser or Windows would read the path in another way. With `./` at its beginning, the path is
/// taken as it is.
fn check_path(path: &str) -> Result<(), InvalidDatabaseUrl> {
    if path.ends_with('/') || matches!(path.rsplit('/').next(), Some("." | "..")) {
        return Err(InvalidDatabaseUrl::Path(
            "names a folder. Add the name of the file, as in sqlite://data/images.db.",
        ));
    }
    if path.starts_with("./") || path.starts_with("../") {
        return Ok(());
    }
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    let is_variable = |part: &str| {
        let name = part.strip_prefix('$').unwrap_or_default();
        name.starts_with(|first: char| first.is_ascii_alphabetic() || "_{(".contains(first))
    };
    let is_drive = first.len() >= 2
        && first.as_bytes()[1] == b':'
        && first.as_bytes()[0].is_ascii_alphabetic();
    let problem = if path.starts_with('~') {
        "begins with ~, which is not expanded. Write the whole path, or ./~ for a file of this name."
    } else if path.split('/').any(is_variable) {
        "has a variable in its path, which is not expanded. Write the whole path, or ./$ for a file of this name."
    } else if is_drive || path.contains('\\') {
        "has a path of Windows. Write a path with /, or ./ before a file of this name."
    } else if first.eq_ignore_ascii_case("file:") || path.to_ascii_lowercase().starts_with("file:")
    {
        "has file: in its path. Write sqlite://PATH, or ./file: for a file of this name."
    } else if !path.starts_with('/')
        && matches!(first, "localhost" | "127.0.0.1" | "[::1]")
        && path.len() > first.len()
    {
        "has a host. Write sqlite:///PATH for an absolute path, or sqlite://./ before a relative one."
    } else if path.contains('#') {
        "has a # in its path. Remove it, or write ./ before a path with this character."
    } else {
        return Ok(());
    };
    Err(InvalidDatabaseUrl::Path(problem))
}

impl SqliteUrl {
    /// Fails if the path has a device, a pipe or a socket. Opening the database reports a folder.
    pub(in crate::store) fn check_file(&self) -> Result<(), InvalidSetting> {
        match self.path.metadata() {
            Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {}
            Ok(_) | Err(_) => return Ok(()),
        }
        Err(InvalidSetting {
            key: "database.url",
            rule: format!(
                "the path {} is not a regular file. Use another path.",
                self.path.display()
            ),
        })
    }
}
