//! A list of texts.

use std::fmt;

use serde::Deserialize;

/// A list of texts; a single text is a list of one. Its `Debug` has only their number: they can be secrets.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct StringList(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for StringList {
    fn from(texts: OneOrMany) -> Self {
        match texts {
            OneOrMany::One(text) => Self(vec![text]),
            OneOrMany::Many(texts) => Self(texts),
        }
    }
}

impl StringList {
    #[must_use]
    pub fn into_vec(self) -> Vec<String> {
        self.0
    }

    /// Parses every text. Returns `None` if there is none, or one that cannot be parsed.
    pub fn parse_all<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let parsed: Option<Vec<T>> = self.0.iter().map(|text| parse(text)).collect();
        parsed.filter(|parsed| !parsed.is_empty())
    }
}

impl fmt::Debug for StringList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StringList({})", self.0.len())
    }
}
