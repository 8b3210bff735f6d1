//! Why a body is no notification, in words that a person can act on. They never repeat the body.

/// Why a body is no notification.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("The body is empty; it must be a JSON object.")]
    Empty,
    /// It is not JSON; the cause says where, and repeats nothing.
    #[error("The body is not JSON: {0}.")]
    NotJson(#[source] serde_json::Error),
    #[error("The body must be a JSON object.")]
    NotAnObject,
    /// No database stores U+0000 in text.
    #[error("No text and no key may contain U+0000, since no database can store it.")]
    Nul {
        /// The field of the body that it is in, where that has a plain name.
        field: Option<String>,
    },
    #[error(
        "The body is none of the payloads known here: a test message (only \"text\"), a Cloudflare notification (\"data\" with \"ts\", \
         \"alert_type\", \"policy_id\" or \"name\"), an event (\"event\" with \"image\"), or a flat report (\"id\" with {flat_fields})."
    )]
    UnknownShape {
        /// The fields that make an object a flat report.
        flat_fields: String,
    },
    #[error("The field {field} {rule}.")]
    Field {
        /// The field, from the top of the body.
        field: String,
        rule: String,
    },
}

impl PayloadError {
    /// The field that is to be mended.
    pub(crate) fn field(&self) -> Option<String> {
        match self {
            Self::Field { field, .. } => Some(field.clone()),
            Self::Nul { field } => field.clone(),
            Self::Empty | Self::NotJson(_) | Self::NotAnObject | Self::UnknownShape { .. } => None,
        }
    }
}
