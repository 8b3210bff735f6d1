//! JSON that passes through without being looked into.

use std::cmp::Ordering;
use std::fmt;

/// A JSON text.
///
/// One that a notification told is in canonical form: no white space, keys sorted, no key twice, no U+0000, no negative zero.
/// Two such are equal when they mean the same. One that was read from a database is in that database's own form, and is
/// brought into the canonical one before it is compared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Box<str>);

impl Json {
    /// Takes a text which the caller has brought into canonical form.
    #[must_use]
    pub fn from_canonical(text: String) -> Self {
        Self(text.into_boxed_str())
    }

    /// Takes a text as a database returned it.
    #[must_use]
    pub fn as_stored(text: String) -> Self {
        Self(text.into_boxed_str())
    }

    /// The empty object.
    #[must_use]
    pub fn empty_object() -> Self {
        Self("{}".into())
    }

    /// The empty array.
    #[must_use]
    pub fn empty_array() -> Self {
        Self("[]".into())
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialOrd for Json {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Json {
    /// The value that says more (the longer text) is the greater.
    fn cmp(&self, other: &Self) -> Ordering {
        self.0
            .len()
            .cmp(&other.0.len())
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl fmt::Debug for Json {
    /// The size alone: a body never reaches a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}
