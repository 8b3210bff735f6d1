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
}

impl fmt::Debug for StringList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StringList({})", self.0.len())
    }
}
