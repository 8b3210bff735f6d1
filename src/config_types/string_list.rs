//! A list of strings.

use std::fmt;

use serde::Deserialize;

/// A list of strings. A single string is a list of one. `Debug` writes only the length, because the strings may be secrets.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct StringList(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for StringList {
    fn from(strings: OneOrMany) -> Self {
        match strings {
            OneOrMany::One(string) => Self(vec![string]),
            OneOrMany::Many(strings) => Self(strings),
        }
    }
}

impl StringList {
    #[must_use]
    pub fn into_vec(self) -> Vec<String> {
        self.0
    }

    /// Parses every string. Returns `None` if the list is empty or a string cannot be parsed.
    pub fn parse_all<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let parsed: Option<Vec<T>> = self.0.iter().map(|string| parse(string)).collect();
        parsed.filter(|parsed| !parsed.is_empty())
    }
}

impl fmt::Debug for StringList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StringList({})", self.0.len())
    }
}
