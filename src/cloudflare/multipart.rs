//! The body of a form with text fields (`multipart/form-data`, RFC 7578).

use crate::random::uuid_v4;

/// A form. The names of its fields are literals.
pub(super) struct Form {
    boundary: String,
    body: String,
}

impl Form {
    pub(super) fn new() -> Self {
        Self {
            // Nobody can guess it, so no value can contain it.
            boundary: uuid_v4().simple().to_string(),
            body: String::new(),
        }
    }

    pub(super) fn add(&mut self, name: &'static str, value: &str) {
        let Self { boundary, body } = self;
        for piece in [
            "--",
            boundary.as_str(),
            "\r\ncontent-disposition: form-data; name=\"",
            name,
            "\"\r\n\r\n",
            value,
            "\r\n",
        ] {
            body.push_str(piece);
        }
    }

    /// Returns the content type and the body.
    pub(super) fn finish(self) -> (String, String) {
        let Self { boundary, body } = self;
        let content_type = format!("multipart/form-data; boundary={boundary}");
        (content_type, format!("{body}--{boundary}--\r\n"))
    }
}
