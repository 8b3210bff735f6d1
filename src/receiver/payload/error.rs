//! The errors of an invalid body. Their text is for people, and never repeats the body.

use crate::domain::json::MAX_ACCEPTED_LEVELS;

/// The error of an invalid body.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("The body is empty. Send a JSON object.")]
    Empty,
    /// The source gives the position in the body, and does not repeat the body.
    #[error("The body is not JSON: {0}.")]
    NotJson(#[source] serde_json::Error),
    #[error(
        "The body is nested too deeply. Send at most {MAX_ACCEPTED_LEVELS} levels of objects and arrays."
    )]
    TooDeep,
    #[error("The body must be a JSON object.")]
    NotAnObject,
    #[error(
        "The body has an unknown shape. Use a test message (only \"text\"), a Cloudflare notification (\"data\" with \"ts\", \
         \"alert_type\", \"policy_id\" or \"name\"), an event (\"event\" with \"image\"), or a flat report (\"id\" with {flat_fields})."
    )]
    UnknownShape {
        /// The fields that make an object a flat report.
        flat_fields: String,
    },
    #[error("The field {field} {rule}.")]
    Field {
        /// The field: its dotted name from the top of the body, or a JSON pointer.
        field: String,
        /// The rule, as the end of a sentence about the field.
        rule: String,
    },
}

impl PayloadError {
    /// Returns the field that breaks a rule.
    pub(crate) fn field(&self) -> Option<String> {
        match self {
            Self::Field { field, .. } => Some(field.clone()),
            Self::Empty
            | Self::NotJson(_)
            | Self::TooDeep
            | Self::NotAnObject
            | Self::UnknownShape { .. } => None,
        }
    }
}
