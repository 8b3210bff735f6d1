//! The ignored fields of a notification: those that break a rule, but identify neither the image nor its status.

use std::fmt;

/// The fields that were treated as not reported, each with the rule that it breaks. Never their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoredFields(Vec<String>);

impl IgnoredFields {
    /// Returns the number of fields.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Adds a field with its rule, which is the end of a sentence about the field.
    pub(super) fn add(&mut self, field: &str, rule: &str) {
        self.0.push(format!("{field} {rule}"));
    }
}

impl fmt::Display for IgnoredFields {
    /// Writes the fields and their rules in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}
